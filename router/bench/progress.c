/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The progress line of a load test.
 *
 * On a terminal it is rewritten ten times a second at most, elsewhere (a log, a pipe) a new line
 * appears every five seconds.  thread: the caller's. It writes to standard error only.
 */
#include "router/bench/progress.h"

#include "base/clock.h"

#include <math.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define INTERVAL_TERMINAL_NS (100 * MED_NS_PER_MS)
#define INTERVAL_LOG_NS      (5 * MED_NS_PER_S)

static int64_t real_now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * MED_NS_PER_S + t.tv_nsec;
}

void med_progress_line_init(struct med_progress_line *line, bool quiet)
{
    *line = (struct med_progress_line){
        .terminal = isatty(STDERR_FILENO) == 1,
        .quiet = quiet,
        .last_real_ns = real_now_ns(),
    };
}

/* Columns of the terminal, less one: a line that wraps could not be rewritten. */
static int terminal_width(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < 2)
        return MED_PROGRESS_TEXT_MAX;
    return size.ws_col - 1;
}

static void format_ms(char text[16], double ms)
{
    if (isnan(ms)) {
        (void)snprintf(text, 16, "-");
    } else {
        (void)snprintf(text, 16, "%.0f ms", ms);
    }
}

void med_progress_format(char text[MED_PROGRESS_TEXT_MAX],
                         const struct med_bench_progress *progress)
{
    char ttft[16], tpot[16];
    double seconds = progress->now_ns > 0 ? (double)progress->now_ns / 1e9 : 0;
    format_ms(ttft, progress->ttft_mean_ms);
    format_ms(tpot, progress->tpot_mean_ms);
    (void)snprintf(text, MED_PROGRESS_TEXT_MAX,
                   "%5.0f/%.0f s  sent %zu/%zu  done %zu  failed %zu  in flight %zu  TTFT %s  "
                   "TPOT %s  %.0f tok/s",
                   seconds, (double)progress->planned_end_ns / 1e9, progress->sent,
                   progress->planned, progress->completed, progress->failed, progress->in_flight,
                   ttft, tpot, seconds > 0 ? (double)progress->tokens / seconds : 0);
}

void med_progress_line_update(void *arg, const struct med_bench_progress *progress)
{
    struct med_progress_line *line = arg;
    int64_t now = real_now_ns();
    if (line->quiet ||
        now - line->last_real_ns < (line->terminal ? INTERVAL_TERMINAL_NS : INTERVAL_LOG_NS))
        return;
    line->last_real_ns = now;
    line->shown = true;
    char text[MED_PROGRESS_TEXT_MAX];
    med_progress_format(text, progress);
    if (line->terminal) {
        (void)fprintf(stderr, "\r\033[K%.*s", terminal_width(), text);
    } else {
        (void)fprintf(stderr, "%s\n", text);
    }
    (void)fflush(stderr);
}

void med_progress_line_finish(struct med_progress_line *line)
{
    if (line->shown && line->terminal)
        (void)fprintf(stderr, "\r\033[K");
    line->shown = false;
}
