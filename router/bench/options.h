/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The options of a load test, as they were given.
 * thread: main. owns: nothing; texts are lent by the parsed options.
 */
#ifndef MED_ROUTER_BENCH_OPTIONS_H
#define MED_ROUTER_BENCH_OPTIONS_H

#include "base/options.h"
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

/* Answers are to be as long as the schedule says, wherever they would have ended. */
bool med_bench_fixes_lengths(const struct med_bench_options *values);

/* One load of a sweep. */
void med_bench_options_set_load(struct med_bench_options *values, const struct med_sweep *sweep,
                                double load);

#endif
