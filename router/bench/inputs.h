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

struct med_bench_options {
    const char *plan, *target, *workload, *trace, *arrival, *slo, *output, *requests_jsonl,
        *data_dir;
    double rate_per_s, burstiness, time_scale;
    int64_t requests, duration_ns, seed, max_concurrency, max_tokens, vocabulary;
    const char *tls_ca, *api_key_file;
    int64_t connect_timeout_ns, stall_timeout_ns, queue_wait_ns, queue_max;
    bool rate_over_time, json, predict, recorded_lengths, progress, dry_run;
};

extern const struct med_program med_bench_program;

struct med_bench_inputs {
    bool has_plan, has_workload, has_log;
    struct med_plan plan;
    struct med_workload workload; /* the file's, or made from the plan's buckets */
    struct med_request_log log;
    struct med_slos slos;
    struct med_arrivals arrivals;
    struct med_bench_settings settings;
};

/* errors: MED_E_* with a sentence; the inputs are then released. */
int med_bench_inputs_load(const struct med_options *options, const struct med_bench_options *values,
                          struct med_bench_inputs *ret_inputs, struct med_err *err) MED_MUST_CHECK;
void med_bench_inputs_release(struct med_bench_inputs *inputs);

/* The workload that a plan was made for, as far as the plan tells: its buckets, rate and arrivals. */
int med_bench_workload_from_plan(const struct med_plan *plan, struct med_workload *ret_workload,
                                 struct med_err *err) MED_MUST_CHECK;

#endif
