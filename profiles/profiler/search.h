/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where to measure next: the search for each size's greatest rate, and which size comes first.
 *
 * A size is first served alone (one request at a time), which says what an idle server needs and
 * whether the objectives can be met at all.  Then rates are tried in the open loop: a first one
 * guessed from the idle figures and from what the sizes before it taught, rising or falling until the
 * greatest rate is between two tried ones, then halving between them on a logarithmic scale.
 * Among all sizes the next step is the one that tells most for its time: the share of the workload's
 * work times how much of the logarithm of its rate is still open, over the seconds that the step
 * will take.
 * thread: any; pure.
 */
#ifndef MED_PROFILES_PROFILER_SEARCH_H
#define MED_PROFILES_PROFILER_SEARCH_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MED_SEARCH_SIZES_MAX = 128,
    MED_SEARCH_POINTS_MAX = 16 /* open-loop points of one size */
};

struct med_search_size {
    double input_tokens, output_tokens; /* means */
    double share;                       /* of the requests */
    /* Alone; NAN: not measured. */
    double idle_ttft_s, idle_tpot_s;
    double met_per_s;     /* the greatest rate that met the objectives; 0: none yet */
    double broken_per_s;  /* the least that did not; INFINITY: none yet */
    double ceiling_per_s; /* what came out of a saturated server; INFINITY: never saturated */
    double came_per_s;    /* what came out at the least rate that broke; NAN: not told */
    size_t points;
    bool stopped; /* cannot be served within the objectives, or failed for good */
};

struct med_search {
    struct med_search_size sizes[MED_SEARCH_SIZES_MAX];
    size_t count;
    double precision;   /* of the rate: 0.08 ends the halving at broken/met <= 1.08 */
    int64_t requests;   /* measured in one point */
    int64_t points_max; /* of one size */
};

struct med_search_step {
    size_t size;
    double rate_per_s; /* 0: alone */
    double seconds;    /* as expected */
};

/* Sizes with counts, shares that need not sum to 1. */
void med_search_init(struct med_search *search, double precision, int64_t requests,
                     int64_t points_max);
/* errors: MED_E_LIMIT */
int med_search_add(struct med_search *search, double input_tokens, double output_tokens,
                   double share) MED_MUST_CHECK;

/* The most informative step of those that are expected to end within seconds_left. false: none. */
bool med_search_next(const struct med_search *search, double seconds_left,
                     struct med_search_step *ret_step);
/* Has the size an answer: between two rates closer than the precision, or stopped? */
bool med_search_is_done(const struct med_search *search, size_t size);
/* Seconds that everything still open will take, as far as can be said. */
double med_search_seconds_left(const struct med_search *search);

void med_search_take_idle(struct med_search *search, size_t size, double ttft_s, double tpot_s,
                          bool meets);
struct med_search_outcome {
    double rate_per_s;
    bool meets, saturated;
    double throughput_per_s; /* what came out; NAN: not told */
};
void med_search_take(struct med_search *search, size_t size,
                     const struct med_search_outcome *outcome);

/* One request alone, s: measured, or from the sizes that were; NAN: nothing is known. */
double med_search_alone_s(const struct med_search *search, size_t size);
/* Length of the warm-up that a point of this size needs, s. */
double med_search_warm_s(const struct med_search *search, size_t size);

#endif
