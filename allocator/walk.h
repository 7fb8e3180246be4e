/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scheduler on requests of one size: what worker/engine/scheduler.c does with them, counted
 * instead of carried out.
 *
 * Same admissions, chunks, block counts, preemptions and iteration times, in a few operations per
 * request instead of one per token: test_walk holds it to the scheduler, request by request.
 * Arrivals are a fixed sequence of exponential gaps, scaled to a rate, so that an answer depends on
 * the arguments alone and latencies vary smoothly with the rate.
 * thread: any, one at a time per walk.  owns: its arrays; the latency is borrowed.
 */
#ifndef MED_ALLOCATOR_WALK_H
#define MED_ALLOCATOR_WALK_H

#include "base/err.h"
#include "profiles/latency.h"

#include <stdint.h>

enum {
    MED_WALK_PERIOD = 2048, /* arrivals; then the same gaps again */
    MED_WALK_UNTIL_FULL = -1
};

struct med_walk;

/* Means over the requests measured so far, seconds. */
struct med_walk_means {
    double ttft_s;
    double decode_s; /* from the first token to the last, of one request */
    double running;  /* sequences that hold KV blocks, over time */
    int64_t firsts,
        ends; /* requests that ttft_s and decode_s are means of, from the first measured */
    uint64_t preemptions;
};

/* errors: MED_E_LIMIT the size can never fit, MED_E_NOMEM. Sizes are >= 1. */
int med_walk_new(const struct med_latency *latency, int64_t input_tokens, int64_t output_tokens,
                 struct med_walk **ret_walk) MED_MUST_CHECK;
void med_walk_free(struct med_walk *w);

/* Requests per second when some always wait. Forgets what was started. */
double med_walk_greatest(struct med_walk *w);

/* Starts with an empty worker. The first warm_up requests are not measured; MED_WALK_UNTIL_FULL:
 * those, and a few, that had come when the first ended, twice over. */
void med_walk_start(struct med_walk *w, double rate_per_s, int64_t warm_up);
/* Goes on until `measured` requests after the warm-up have finished. */
void med_walk_advance(struct med_walk *w, int64_t measured, struct med_walk_means *ret_means);

/* Seconds from the first arrival's origin to arrival `index` at the rate that was started. */
double med_walk_arrival_s(const struct med_walk *w, int64_t index);

#endif
