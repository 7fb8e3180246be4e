/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a load test reads before it starts: plan, workload, request log, and the schedule that follows
 * from them and the options.
 * owns: everything it holds. thread: main.
 */
#ifndef MED_ROUTER_BENCH_INPUTS_H
#define MED_ROUTER_BENCH_INPUTS_H

#include "allocator/replay/arrivals.h"
#include "base/options.h"
#include "router/bench/options.h"
#include "router/bench/report.h"
#include "router/bench/sweep.h"

struct med_bench_inputs {
    bool has_plan, has_workload, has_log;
    struct med_plan plan;
    struct med_workload workload; /* the file's, or made from the plan's buckets */
    struct med_request_log log;
    struct med_slos slos;
    struct med_bench_goodput goodput;
    struct med_arrivals arrivals;
    int32_t *prefix_groups; /* of each conversation; NULL: no prompts share their beginning */
    struct med_bench_settings settings;
    struct med_sweep sweep; /* count 0: one run */
};

/* errors: MED_E_* with a sentence; the inputs are then released. */
int med_bench_inputs_load(const struct med_options *options, const struct med_bench_options *values,
                          struct med_bench_inputs *ret_inputs, struct med_err *err) MED_MUST_CHECK;
void med_bench_inputs_release(struct med_bench_inputs *inputs);

/* Makes the schedule again after values have changed: another rate or concurrency. */
int med_bench_inputs_schedule(const struct med_options *options, const struct med_bench_options *o,
                              struct med_bench_inputs *in, struct med_err *err) MED_MUST_CHECK;

#endif
