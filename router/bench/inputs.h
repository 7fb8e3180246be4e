/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a load test reads before it starts: options, plan, workload, request log, and the schedule
 * that follows from them.
 * owns: everything it holds. thread: main.
 */
#ifndef MED_ROUTER_BENCH_INPUTS_H
#define MED_ROUTER_BENCH_INPUTS_H

#include "base/options.h"
#include "router/bench/arrivals.h"
#include "router/bench/report.h"
#include "router/bench/sweep.h"

struct med_bench_options {
    const char *plan, *target, *workload, *trace, *arrival, *slo, *output, *save, *data_dir;
    const char *api, *url, *model, *api_key_file, *api_key, *tls_ca, *prompt, *goodput, *sweep,
        *plot;
    double rate_per_s, burstiness, time_scale;
    int64_t requests, duration_ns, seed, max_concurrency, max_tokens, vocabulary;
    int64_t concurrency, input_tokens, output_tokens, turns, think_ns, timeout_ns;
    int64_t prefix_tokens, prefix_count, warm_up;
    double range_ratio, prefix_share;
    int64_t connect_timeout_ns, stall_timeout_ns, queue_wait_ns, queue_max;
    bool rate_over_time, stream, stop_saturated, ignore_eos, json, predict, recorded_lengths,
        progress, dry_run;
};

extern const struct med_program med_bench_program;

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

/* One load of a sweep. */
void med_bench_options_set_load(struct med_bench_options *values, const struct med_sweep *sweep,
                                double load);

/* Makes the schedule again after values have changed: another rate or concurrency. */
int med_bench_inputs_schedule(const struct med_options *options, const struct med_bench_options *o,
                              struct med_bench_inputs *in, struct med_err *err) MED_MUST_CHECK;

/* The workload that a plan was made for, as far as the plan tells: its buckets, rate and arrivals. */
int med_bench_workload_from_plan(const struct med_plan *plan, struct med_workload *ret_workload,
                                 struct med_err *err) MED_MUST_CHECK;

#endif
