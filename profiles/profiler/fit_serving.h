/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A step model for a server that was only measured from outside: the parameters of the physical form
 * (struct med_step_model) under which the scheduler's own course, walked at the measured rates
 * (allocator/walk.h), gives the TTFT and TPOT that were measured.
 *
 * It is a guess at what happens inside: the server may schedule otherwise, and its limits are those the
 * profile was given.  So the model is flagged: its source is `modelled`, nothing counts as measured for
 * it (it has no steps), and its error on the rows it was fitted to, and on those left out, stands in
 * the profile.
 *
 * Fitted: of each size the row alone and the fastest one that the server kept up with.  Left out: the
 * other rows that it kept up with.  Least squares of the logarithms of TTFT and TPOT, Nelder and Mead
 * (Computer Journal 7, 1965) on the logarithms of five parameters (fixed, weights, per sequence, per
 * token, KV), each drawn to what the hardware's data sheet says by a weak prior, which decides what the
 * rows do not.  Attention goes at the rate of the matrices.
 * Deterministic.  thread: any; pure.
 */
#ifndef MED_PROFILES_PROFILER_FIT_SERVING_H
#define MED_PROFILES_PROFILER_FIT_SERVING_H

#include "profiles/profile.h"

struct med_serving_errors {
    size_t rows;
    double ttft_mean, ttft_max, tpot_mean, tpot_max; /* |model / measured - 1|; NAN without rows */
};

struct med_serving_fit {
    struct med_step_model model; /* source NULL */
    struct med_serving_errors fitted, left_out;
};

/* Rows of the given source only.
 * errors: MED_E_UNCOVERED with a sentence: too few rows (two sizes, alone and loaded, at least). */
int med_fit_serving(const struct med_profile *profile, size_t source,
                    struct med_serving_fit *ret_fit, struct med_err *err) MED_MUST_CHECK;

/* Puts the model into the profile, with a source and a validation. A model that came so before is
 * replaced. errors: MED_E_NOMEM. */
int med_fit_serving_keep(struct med_profile *profile, const struct med_serving_fit *fit,
                         size_t source, struct med_err *err) MED_MUST_CHECK;
/* Takes out the model that med_fit_serving_keep put in, if there is one. */
void med_fit_serving_drop(struct med_profile *profile);

#endif
