/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Capacity: the most requests per second of one size that one worker serves within the objectives.
 *
 * With a step model: from the scheduler's own course on requests of that size (walk.h), searched for
 * the rate at which an objective breaks; deterministic, about a millisecond.  With
 * serving points alone: the best point inside the bucket that meets the objectives without failures
 * (open-loop ones only, where there are any);
 * nothing is extrapolated.
 * Pure: no I/O, no clock. thread: any.  owns: nothing.
 */
#ifndef MED_ALLOCATOR_CAPACITY_H
#define MED_ALLOCATOR_CAPACITY_H

#include "allocator/slo.h"
#include "allocator/workload.h"
#include "profiles/latency.h"
#include "profiles/profile.h"

/* Why a worker type cannot serve a size. */
enum med_capacity_stop {
    MED_STOP_NONE,
    MED_STOP_MODEL_LEN, /* tokens > limit, the engine's max_model_len */
    MED_STOP_KV,        /* tokens > limit, the KV cache */
    MED_STOP_SLO,       /* even an almost idle worker needs needed_ms */
    MED_STOP_UNCOVERED, /* serving points only, none for this size */
    MED_STOP_GIVEN,     /* the input says 0 */
};

struct med_capacity {
    double requests_per_s; /* 0: cannot, see stop */
    enum med_capacity_stop stop;
    enum med_slo_metric metric; /* SLO: the objective that stops it */
    double needed_ms;
    int64_t tokens, limit_tokens;
    bool modelled;    /* beyond what was measured or published */
    unsigned regions; /* then: bits of med_step_region that its iterations lie in */
};

/* Latencies of a worker under Poisson arrivals of one size. */
struct med_load_point {
    double ttft_ms, tpot_ms, e2e_per_token_ms; /* means; tpot_ms 0 for one output token */
    double in_service;                         /* mean sequences */
    double utilization;                        /* rate / greatest stable rate */
};

/* A size: means of a bucket, tokens; taken as the nearest whole ones. */
struct med_request_size {
    double input_tokens, output_tokens;
};

/*
 * Latencies at a rate. errors: MED_E_OVERLOAD at or beyond the greatest rate, MED_E_LIMIT when the
 * size does not fit the engine, MED_E_NOMEM.
 */
int med_capacity_at_rate(const struct med_latency *latency, const struct med_request_size *size,
                         double rate_per_s, struct med_load_point *ret_point) MED_MUST_CHECK;

/* errors: MED_E_NOMEM only; a size that cannot be served is an answer. */
int med_capacity_of_model(const struct med_latency *latency, const struct med_request_size *size,
                          const struct med_slos *slos,
                          struct med_capacity *ret_capacity) MED_MUST_CHECK;

/* From serving points inside the cell (input_row, output_row) of the grid. */
void med_capacity_of_points(const struct med_profile *profile, const struct med_grid *grid,
                            int input_row, int output_row, const struct med_slos *slos,
                            struct med_capacity *ret_capacity);

#endif
