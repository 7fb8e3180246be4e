/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Points of a sweep: from words to loads, from summaries to a table.
 * thread: the caller's; pure.
 */
#include "router/bench/sweep.h"

#include "base/json.h"
#include "base/limits.h"
#include "router/bench/plot.h"
#include "router/bench/report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RATE_MAX_PER_S    1e6
#define GAIN_OF_SATURATED 1.02

static int wrong(const char *text, struct med_err *err)
{
    return med_err_set(err, MED_E_USAGE,
                       "--sweep %s: expected concurrency= or rate= and rising loads, such as "
                       "1..256x2 or 1,2,4 (at most %d points)",
                       text, MED_SWEEP_POINTS_MAX);
}

/* A number > 0 at *at, which moves on; NAN otherwise. */
static double read_load(const char **at, bool is_rate)
{
    if (**at < '0' || **at > '9')
        return NAN;
    char *end;
    double value = strtod(*at, &end);
    /* "1..8": the number does not take the dot of the range. */
    if (end > *at && end[-1] == '.' && *end == '.')
        end--;
    *at = end;
    double most = is_rate ? RATE_MAX_PER_S : MED_LIMIT_CALLS;
    bool fits = value > 0 && value <= most && (is_rate || value == floor(value));
    return fits ? value : NAN;
}

static bool add_load(struct med_sweep *sweep, double load)
{
    if (isnan(load) || sweep->count == MED_SWEEP_POINTS_MAX ||
        (sweep->count > 0 && load <= sweep->loads[sweep->count - 1]))
        return false;
    sweep->loads[sweep->count++] = load;
    return true;
}

static bool read_range(struct med_sweep *sweep, double from, const char *at)
{
    double to = read_load(&at, sweep->is_rate);
    if (isnan(to) || *at != 'x' || at[1] < '0' || at[1] > '9')
        return false;
    char *end;
    double factor = strtod(at + 1, &end);
    if (*end || !(factor > 1) || !(to > from))
        return false;
    double load = from;
    while (load < to * (1 - 1e-9)) {
        double whole = sweep->is_rate ? load : floor(load + 1e-9);
        bool repeats = sweep->count > 0 && whole <= sweep->loads[sweep->count - 1];
        if (!repeats && !add_load(sweep, whole))
            return false;
        load *= factor;
    }
    return add_load(sweep, to);
}

int med_sweep_parse(const char *text, struct med_sweep *ret_sweep, struct med_err *err)
{
    struct med_sweep sweep = {0};
    const char *at = strchr(text, '=');
    size_t name = at ? (size_t)(at - text) : 0;
    sweep.is_rate = name == 4 && memcmp(text, "rate", 4) == 0;
    if (!sweep.is_rate && !(name == 11 && memcmp(text, "concurrency", 11) == 0))
        return wrong(text, err);
    at++;
    double load = read_load(&at, sweep.is_rate);
    if (!isnan(load) && strncmp(at, "..", 2) == 0) {
        if (!read_range(&sweep, load, at + 2))
            return wrong(text, err);
        *ret_sweep = sweep;
        return 0;
    }
    while (add_load(&sweep, load)) {
        if (*at == '\0') {
            *ret_sweep = sweep;
            return 0;
        }
        if (*at++ != ',')
            break;
        load = read_load(&at, sweep.is_rate);
    }
    return wrong(text, err);
}

void med_sweep_point_set(struct med_sweep_point *point, double load,
                         const struct med_bench_summary *summary)
{
    *point = (struct med_sweep_point){
        .load = load,
        .sent = summary->sent,
        .completed = summary->completed,
        .failed = summary->failed,
        .duration_s = summary->duration_s,
        .request_throughput = summary->request_throughput,
        .request_goodput = summary->request_goodput,
        .output_throughput = summary->output_throughput,
        .ttft = summary->ttft,
        .tpot = summary->tpot,
        .e2e = summary->e2e,
        .lateness = summary->lateness,
        .whole = med_bench_summary_is_whole(summary) && summary->completed > 0,
    };
}

bool med_sweep_is_saturated(const struct med_sweep_point *points, size_t count)
{
    if (count < 2)
        return false;
    double best = 0;
    for (size_t i = 0; i + 1 < count; i++)
        best = fmax(best, points[i].output_throughput);
    return points[count - 1].output_throughput < GAIN_OF_SATURATED * best ||
           points[count - 1].completed == 0;
}

int med_sweep_head(struct med_buf *out, const struct med_sweep *sweep)
{
    return med_buf_printf(out, "%11s %8s %7s %9s %10s | %9s %9s | %8s %8s | %9s %9s\n",
                          sweep->is_rate ? "req/s asked" : "concurrency", "done", "failed", "req/s",
                          "tok/s", "TTFT p50", "p99 ms", "TPOT p50", "p99 ms", "E2E p50", "p99 ms");
}

static void format_cell(char cell[16], double value)
{
    if (isfinite(value)) {
        (void)snprintf(cell, 16, "%.2f", value);
    } else {
        (void)snprintf(cell, 16, "n/a");
    }
}

int med_sweep_row(struct med_buf *out, const struct med_sweep_point *p)
{
    const double values[] = {p->ttft.median, p->ttft.p99,   p->tpot.median,
                             p->tpot.p99,    p->e2e.median, p->e2e.p99};
    char cells[6][16];
    for (size_t i = 0; i < 6; i++)
        format_cell(cells[i], values[i]);
    return med_buf_printf(out, "%11g %8zu %7zu %9.2f %10.1f | %9s %9s | %8s %8s | %9s %9s\n",
                          p->load, p->completed, p->failed, p->request_throughput,
                          p->output_throughput, cells[0], cells[1], cells[2], cells[3], cells[4],
                          cells[5]);
}

int med_sweep_json(struct med_buf *out, const struct med_sweep *sweep,
                   const struct med_sweep_point *points, size_t count)
{
    struct med_json_writer w;
    med_json_writer_init(&w, out, true);
    med_json_begin_array(&w, NULL);
    for (size_t i = 0; i < count; i++) {
        const struct med_sweep_point *p = &points[i];
        med_json_begin_object(&w, NULL);
        med_json_put_number(&w, sweep->is_rate ? "request_rate" : "max_concurrency", p->load);
        med_json_put_integer(&w, "sent", (int64_t)p->sent);
        med_json_put_integer(&w, "completed", (int64_t)p->completed);
        med_json_put_integer(&w, "failed", (int64_t)p->failed);
        med_json_put_bool(&w, "whole", p->whole);
        med_bench_report_number(&w, "duration", p->duration_s);
        med_bench_report_number(&w, "request_throughput", p->request_throughput);
        med_bench_report_number(&w, "request_goodput", p->request_goodput);
        med_bench_report_number(&w, "output_throughput", p->output_throughput);
        med_bench_report_latency(&w, "ttft", &p->ttft);
        med_bench_report_latency(&w, "tpot", &p->tpot);
        med_bench_report_latency(&w, "e2el", &p->e2e);
        med_bench_report_latency(&w, "lateness", &p->lateness);
        med_json_end_object(&w);
    }
    med_json_end_array(&w);
    return med_json_writer_finish(&w);
}

struct columns {
    double load[MED_SWEEP_POINTS_MAX], throughput[MED_SWEEP_POINTS_MAX];
    double e2e[2][MED_SWEEP_POINTS_MAX], tpot[2][MED_SWEEP_POINTS_MAX];
    double ttft[3][MED_SWEEP_POINTS_MAX];
    char names[MED_SWEEP_POINTS_MAX][16];
    const char *labels[MED_SWEEP_POINTS_MAX];
};

static void fill_columns(struct columns *c, const struct med_sweep_point *points, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct med_sweep_point *p = &points[i];
        c->load[i] = p->load;
        c->throughput[i] = p->output_throughput;
        c->e2e[0][i] = p->e2e.median;
        c->e2e[1][i] = p->e2e.p99;
        c->tpot[0][i] = p->tpot.median;
        c->tpot[1][i] = p->tpot.p99;
        c->ttft[0][i] = p->ttft.median;
        c->ttft[1][i] = p->ttft.p90;
        c->ttft[2][i] = p->ttft.p99;
        (void)snprintf(c->names[i], sizeof(c->names[i]), "%.4g", p->load);
        c->labels[i] = c->names[i];
    }
}

int med_sweep_plot(struct med_buf *out, const struct med_sweep *sweep,
                   const struct med_sweep_point *points, size_t count)
{
    struct columns c;
    fill_columns(&c, points, count);
    const char *load = sweep->is_rate ? "request rate (requests/s)" : "concurrency (requests)";
    const struct med_plot_panel panels[] = {
        {.title = sweep->is_rate ? "Latency over throughput (points: requests/s asked)"
                                 : "Latency over throughput (points: concurrency)",
         .x_title = "output throughput (tokens/s)",
         .y_title = "end-to-end latency (ms)",
         .log_y = true,
         .lines = {{"median", c.throughput, c.e2e[0], count, c.labels},
                   {"p99", c.throughput, c.e2e[1], count, NULL}},
         .line_count = 2},
        {.title = "Time to first token",
         .x_title = load,
         .y_title = "TTFT (ms)",
         .log_x = true,
         .log_y = true,
         .lines = {{"median", c.load, c.ttft[0], count, NULL},
                   {"p90", c.load, c.ttft[1], count, NULL},
                   {"p99", c.load, c.ttft[2], count, NULL}},
         .line_count = 3},
        {.title = "Time per output token",
         .x_title = load,
         .y_title = "TPOT (ms)",
         .log_x = true,
         .lines = {{"median", c.load, c.tpot[0], count, NULL},
                   {"p99", c.load, c.tpot[1], count, NULL}},
         .line_count = 2},
        {.title = "Throughput",
         .x_title = load,
         .y_title = "output tokens/s",
         .log_x = true,
         .lines = {{"output tokens/s", c.load, c.throughput, count, NULL}},
         .line_count = 1},
    };
    return med_plot_write(out, "medley bench: sweep", panels, sizeof(panels) / sizeof(panels[0]));
}
