/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A mixed load through the scheduler, in one way of batching: what the ways are worth.
 *
 * thread: main. owns: nothing outside the call; borrows the backend.
 */
#ifndef MED_WORKER_BENCH_MIXED_H
#define MED_WORKER_BENCH_MIXED_H

#include "worker/backend.h"

struct med_bench_load {
    int64_t requests;
    double rate;                    /* arrivals per second, exponential gaps; 0: all at the start */
    int64_t prompt_max, output_max; /* lengths: uniform from 1 */
    uint64_t seed;                  /* the same seed is the same load */
};

struct med_bench_mixed {
    double seconds; /* from the first arrival to the last token */
    double output_tokens_per_s, requests_per_s;
    double latency_s_mean, latency_s_p50, latency_s_p99; /* arrival to last token */
    double first_s_mean, first_s_p99;                    /* arrival to first token */
    double batch_mean;                                   /* items per iteration */
    int64_t iterations, output_tokens;
};

int med_bench_mixed_run(struct med_backend backend, const struct med_scheduler_config *scheduler,
                        const struct med_bench_load *load, struct med_bench_mixed *ret_mixed,
                        struct med_err *err) MED_MUST_CHECK;

#endif
