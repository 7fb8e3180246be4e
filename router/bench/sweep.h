/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sweep: the same load test at several concurrencies or rates, and what each gave.
 * thread: any; pure. owns: nothing outside its structs.
 */
#ifndef MED_ROUTER_BENCH_SWEEP_H
#define MED_ROUTER_BENCH_SWEEP_H

#include "base/buf.h"
#include "router/bench/summary.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    MED_SWEEP_POINTS_MAX = 64
};

struct med_sweep {
    bool is_rate; /* else concurrency */
    double loads[MED_SWEEP_POINTS_MAX];
    size_t count;
};

/* "concurrency=1..256x2" (by a factor; the last point is the end itself), "rate=1,2,4".  Loads rise;
 * concurrencies are whole.  errors: MED_E_USAGE with a sentence. */
int med_sweep_parse(const char *text, struct med_sweep *ret_sweep,
                    struct med_err *err) MED_MUST_CHECK;

struct med_sweep_point {
    double load;
    size_t sent, completed, failed;
    double duration_s, request_throughput, request_goodput, output_throughput;
    struct med_bench_latency ttft, tpot, e2e, lateness;
    bool whole; /* nothing was lost */
};

void med_sweep_point_set(struct med_sweep_point *point, double load,
                         const struct med_bench_summary *summary);
/* Has the last point brought less than 2 % more tokens per second than the best before it, or none
 * that was completed? */
bool med_sweep_is_saturated(const struct med_sweep_point *points, size_t count);

/* The table's head, and one line of it. */
int med_sweep_head(struct med_buf *out, const struct med_sweep *sweep) MED_MUST_CHECK;
int med_sweep_row(struct med_buf *out, const struct med_sweep_point *point) MED_MUST_CHECK;
int med_sweep_json(struct med_buf *out, const struct med_sweep *sweep,
                   const struct med_sweep_point *points, size_t count) MED_MUST_CHECK;

/* Latency over throughput, and percentiles over the load. */
int med_sweep_plot(struct med_buf *out, const struct med_sweep *sweep,
                   const struct med_sweep_point *points, size_t count) MED_MUST_CHECK;

#endif
