/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The figures of a load test: from records (and, if given, the simulation of the same arrivals and
 * the plan) to plain numbers.  Pure.
 *
 * Latencies are of completed requests: TTFT from the send to the first token, E2E from the send to
 * the last one, TPOT = (E2E - TTFT)/(tokens - 1), left out for one token; ITL the time between
 * messages.  NAN where there is nothing to tell.
 * thread: the caller's. owns: the arrays of worker types.
 */
#ifndef MED_ROUTER_BENCH_SUMMARY_H
#define MED_ROUTER_BENCH_SUMMARY_H

#include "allocator/plan.h"
#include "allocator/replay/fleet/simulate.h"
#include "router/bench/run.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct med_bench_latency {
    double mean, median, std, p90, p99; /* ms */
};

/* Means of one group of requests: measured or simulated. */
struct med_bench_means {
    size_t completed;
    int64_t output_tokens;
    double ttft_ms, tpot_ms, e2e_ms;
};

struct med_bench_objective {
    struct med_slo slo;
    double observed_ms; /* mean over the completed requests */
    bool met;
    double share_within; /* of the requests sent; failed ones are not within */
};

struct med_bench_type {
    const char *name; /* borrowed from the plan; "(not named)" for the last one */
    struct med_bench_means observed, predicted;
};

/* What a request must keep to count as good; INFINITY: anything. */
struct med_bench_goodput {
    bool given;
    double ttft_ms, tpot_ms, e2e_ms;
};
/* "ttft:500ms tpot:50 e2e:2s": blanks or commas between; without a unit, milliseconds; e2el is e2e.
 * errors: MED_E_USAGE with a sentence. */
int med_bench_goodput_parse(const char *text, struct med_bench_goodput *ret_goodput,
                            struct med_err *err) MED_MUST_CHECK;

struct med_bench_summary {
    size_t planned, sent, completed, failed;
    size_t failed_before_token, failed_after_token; /* failed = the two together */
    size_t not_ended;                               /* of the failed: no end ever came */
    int64_t tokens_lost, tokens_duplicated;
    size_t other_length; /* completed with another length than the schedule's */
    size_t by_status[MED_GRPC_STATUS_COUNT];
    double duration_s;                          /* from the first send to the last token or end */
    int64_t input_tokens, output_tokens;        /* of completed requests */
    double request_throughput, request_goodput; /* per second */
    double output_throughput, total_throughput, peak_output_throughput; /* tokens per second */
    size_t peak_concurrency;
    uint64_t reconnects;
    bool has_goodput;
    struct med_bench_latency ttft, tpot, itl, e2e;
    struct med_bench_latency lateness; /* of sends, behind the schedule */
    struct med_bench_objective objectives[MED_LIMIT_SLOS];
    size_t objective_count;
    double attainment; /* share of requests sent that met every objective; NAN: none */
    bool has_cost;
    double usd_per_hour, usd, usd_per_million_output_tokens;
    bool has_prediction;
    struct med_bench_means observed, predicted;
    struct med_bench_type *types; /* those of the plan, then "(not named)" */
    size_t type_count;
};

/* goodput, if given, decides request_goodput in place of the objectives.
 * plan, goodput and simulated may be NULL; slos may be empty; simulated covers the requests that were sent.
 * Sorts the samples of the run. */
int med_bench_summarize(struct med_bench_run *run, const struct med_plan *plan,
                        const struct med_slos *slos, const struct med_bench_goodput *goodput,
                        const struct med_sim_result *simulated,
                        struct med_bench_summary *ret_summary, struct med_err *err) MED_MUST_CHECK;
void med_bench_summary_release(struct med_bench_summary *summary);

/* Did nothing get lost: every request sent ended, and no token was lost or came twice? */
bool med_bench_summary_is_whole(const struct med_bench_summary *summary);

#endif
