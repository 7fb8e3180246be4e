/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The schedule of a load test: when each request is sent and how large it is, all drawn before the
 * run from one seed, so that the simulation can be given the very same arrivals.
 *
 * Sizes come from a workload's buckets (a bucket by its share, sizes inside it so that the bucket's
 * means hold) or from the rows of a request log (in order for trace arrivals, drawn otherwise).
 * Times come from a process of a given mean rate, stretched by the workload's rate over time if
 * that is asked for.  Pure: no clock, no files.
 * thread: any. owns: the result's array.
 */
#ifndef MED_ALLOCATOR_REPLAY_ARRIVALS_H
#define MED_ALLOCATOR_REPLAY_ARRIVALS_H

#include "allocator/plan.h"
#include "allocator/replay/fleet/simulate.h"
#include "allocator/workload.h"
#include "base/rng.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum med_arrivals_process {
    MED_ARRIVALS_ALL_AT_ONCE,
    MED_ARRIVALS_CONSTANT,
    MED_ARRIVALS_POISSON,
    MED_ARRIVALS_GAMMA,
    MED_ARRIVALS_TRACE, /* the log's own times, stretched to the rate; the log repeats when short */
};

/* "all-at-once|constant|poisson|gamma|trace"; -1 for another word. */
int med_arrivals_process_parse(const char *text);
const char *med_arrivals_process_name(enum med_arrivals_process process);

struct med_arrivals_config {
    enum med_arrivals_process process;
    double rate_per_s;   /* mean; > 0. TRACE: 0 keeps the log's own rate; unused when all at once */
    double burstiness;   /* GAMMA: shape of the gaps, > 0; CV^2 = 1/burstiness */
    int64_t requests;    /* at most; 0: as many as the duration holds */
    int64_t duration_ns; /* arrivals lie in [0, duration); 0: as long as requests take */
    int64_t output_tokens_max; /* what every request asks for; raised to its own output */
    uint64_t seed;
    bool follow_rate_over_time;          /* needs workload->rate_count > 0; the shape repeats */
    int64_t input_tokens, output_tokens; /* > 0: sizes around these, in place of the others */
    double range_ratio; /* [0, 1): such sizes lie evenly in n (1 - ratio) .. n (1 + ratio) */
    const struct med_workload *workload; /* sizes; may be NULL if log or sizes are given */
    const struct med_request_log *log;   /* sizes and, for TRACE, times; wins over workload */
};

enum {
    MED_ARRIVALS_MAX = 10000000 /* requests of one run; more is refused */
};

struct med_arrivals {
    struct med_sim_arrival *items; /* at_ns from 0, not falling */
    size_t count;
};

/* errors: MED_E_INVALID with a sentence (nothing bounds the run, no sizes, a rate that is not a
 * number > 0, more than MED_ARRIVALS_MAX requests), MED_E_NOMEM. */
int med_arrivals_make(const struct med_arrivals_config *config, struct med_arrivals *ret_arrivals,
                      struct med_err *err) MED_MUST_CHECK;
void med_arrivals_release(struct med_arrivals *arrivals);

/*
 * A whole number of tokens in (edge_below, edge] with mean exactly `mean` (brought into
 * [edge_below + 1, edge]).  With L = edge_below + 1, H = edge, m = mean: uniform in [L, m] with
 * probability (H - m)/(H - L), else uniform in [m, H], whose mean is m; then rounded up with the
 * probability of its fraction, which keeps the mean.
 */
int64_t med_arrivals_draw_size(struct med_rng *rng, double edge_below, double edge, double mean);

/* The workload that a plan was made for, as far as the plan tells: its buckets, rate and arrivals. */
int med_arrivals_workload_from_plan(const struct med_plan *plan, struct med_workload *ret_workload,
                                    struct med_err *err) MED_MUST_CHECK;

#endif
