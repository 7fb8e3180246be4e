/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The progress line of a load test on standard error: rewritten in place on a terminal, a new line
 * every few seconds otherwise.  thread: the caller's.
 */
#ifndef MED_ROUTER_BENCH_PROGRESS_H
#define MED_ROUTER_BENCH_PROGRESS_H

#include "router/bench/run.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct med_progress_line {
    bool terminal;
    bool quiet;
    bool shown;
    int64_t last_real_ns;
};

void med_progress_line_init(struct med_progress_line *line, bool quiet);
/* An on_progress callback; arg is the line. */
void med_progress_line_update(void *arg, const struct med_bench_progress *progress);
/* Takes the line off a terminal. */
void med_progress_line_finish(struct med_progress_line *line);

enum {
    MED_PROGRESS_TEXT_MAX = 200
};
/* " 41.2 s  sent 226/330  done 214  ..." */
void med_progress_format(char text[MED_PROGRESS_TEXT_MAX],
                         const struct med_bench_progress *progress);

#endif
