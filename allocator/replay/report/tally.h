/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The figures of a replay: from a simulation's result to what is reported.  Pure.
 *
 * A request counts if it arrived after the warm-up.  Latencies are of those that finished: TTFT from the
 * arrival to the first token, E2E to the last, TPOT = (E2E - TTFT)/(tokens - 1), left out for one token,
 * and E2E per token (slo.h).  An objective is of the mean; "within" is the share of counted requests that
 * kept its limit by themselves, and one that was refused or failed has not.  NAN: nothing to tell.
 * thread: the caller's. owns: the arrays of types and buckets.
 */
#ifndef MED_ALLOCATOR_REPLAY_REPORT_TALLY_H
#define MED_ALLOCATOR_REPLAY_REPORT_TALLY_H

#include "allocator/plan.h"
#include "allocator/replay/fleet/simulate.h"

enum med_tally_metric {
    MED_TALLY_TTFT,
    MED_TALLY_TPOT,
    MED_TALLY_E2E,
    MED_TALLY_E2E_PER_TOKEN,
    MED_TALLY_METRICS
};

enum {
    MED_TALLY_CURVE = 101
};

/* Percentiles as numpy's default (linear between ranks). */
struct med_tally_latency {
    double mean, p50, p90, p95, p99, max; /* ms */
};

/* Some requests: all, those of a bucket, or those that a type served. */
struct med_tally_group {
    size_t requests, finished;
    int64_t input_tokens, output_tokens; /* of the finished */
    struct med_tally_latency latency[MED_TALLY_METRICS];
    double attainment; /* share within every objective; NAN: there are none, or no requests */
};

struct med_tally_type {
    size_t profile; /* index into plan->profiles */
    size_t workers;
    double utilization_mean, utilization_min,
        utilization_max; /* over its workers, of the whole run */
    uint64_t preemptions;
    struct med_tally_group group; /* by who gave the first token */
};

struct med_tally_bucket {
    int input_row, output_row; /* of the plan's grid, by actual sizes */
    bool planned;              /* the plan assigns it */
    struct med_tally_group group;
};

struct med_tally_objective {
    struct med_slo slo;
    double observed_ms; /* mean */
    bool met;
    double share_within;
};

struct med_tally {
    size_t warm_up; /* requests that are not counted */
    struct med_tally_group all;
    struct med_tally_objective objectives[MED_LIMIT_SLOS];
    size_t objective_count;
    struct med_tally_type *types; /* those with workers, in plan order */
    size_t type_count;
    struct med_tally_bucket *buckets; /* those with requests, by row and column */
    size_t bucket_count;
    size_t outside;        /* sizes that the plan's grid does not hold */
    size_t outside_bucket; /* sizes of buckets to which the plan assigns nothing */
    /* Of those that did not finish: */
    size_t refused_overload, refused_invalid; /* at once; for ever too large for every worker */
    size_t rejected;                          /* waited, and found no place in time */
    size_t lost, failed;                      /* worker lost; any other end */
    /* From the arrival to the pick, of those that were sent: */
    size_t picked, waited;                                           /* waited: longer than 0 */
    struct med_tally_latency wait;                                   /* of those that waited */
    double ttft_curve[MED_TALLY_CURVE], tpot_curve[MED_TALLY_CURVE]; /* ms: percentiles 0 to 100 */
    double duration_s;        /* from the first arrival that counts to the last end */
    double rate_per_s;        /* of counted arrivals */
    double usd_per_hour, usd; /* usd: for the duration */
    double usd_per_million_output_tokens, usd_per_million_tokens, usd_per_thousand_requests;
};

/* slos: of the plan or others. warm_up_ns: after the first arrival.
 * errors: MED_E_INVALID nothing is left after the warm-up, MED_E_NOMEM. */
int med_tally_make(const struct med_plan *plan, const struct med_slos *slos,
                   const struct med_sim_arrival *arrivals, const struct med_sim_result *result,
                   int64_t warm_up_ns, struct med_tally *ret_tally,
                   struct med_err *err) MED_MUST_CHECK;
void med_tally_release(struct med_tally *tally);

const char *med_tally_metric_name(enum med_tally_metric metric); /* "e2e_per_token" */
/* Of some requests by themselves. errors: MED_E_NOMEM. */
int med_tally_group_of(const struct med_slos *slos, const struct med_sim_arrival *arrivals,
                       const struct med_sim_result *result, const uint32_t *indices, size_t count,
                       struct med_tally_group *ret_group) MED_MUST_CHECK;
/* Has the request finished, and kept every objective by itself? */
bool med_tally_is_within(const struct med_slos *slos, const struct med_sim_arrival *arrivals,
                         const struct med_sim_result *result, size_t request);
/* Milliseconds of one request; NAN: it has none. */
double med_tally_value_ms(const struct med_sim_arrival *arrival, const struct med_sim_request *row,
                          enum med_tally_metric metric);

#endif
