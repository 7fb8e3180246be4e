/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fits the physical form (struct med_step_model) to measured iterations and says how far it is off.
 *
 * Robust, non-negative, relative: rows are weighed by 1/time, outliers lose their weight, decode,
 * prefill and mixed rows count the same as groups however many there are. What the rows do not tell
 * is what the hardware can do at most. The errors are leave-one-out ones, by region. Deterministic:
 * the same rows give the same bits, in whatever order they come.
 *
 * owns: nothing is kept. thread: any. Pure; memory only for the time of the call.
 * source: docs/internals/latency-model.md, docs/adr/0151-step-model-form.md
 */
#ifndef MED_PROFILES_FIT_H
#define MED_PROFILES_FIT_H

#include "profiles/profile.h"

/* What the rows did not tell of the form; such a value is a default (bits of med_fit.unknown). */
enum {
    MED_FIT_NO_DECODE = 1,    /* no decode rows: bandwidths and cost per sequence */
    MED_FIT_NO_PREFILL = 2,   /* no rows beyond the corner: matrix rate */
    MED_FIT_NO_ATTENTION = 4, /* prefills too short: rate of attention */
    MED_FIT_NO_MIXED = 8      /* prefill beside decodes is the form's word alone */
};

struct med_fit_input {
    const struct med_step_row *rows; /* .source is not looked at; a row may come more than once */
    size_t row_count;
    const struct med_model_shape *model;
    const struct med_hardware *hardware; /* of one GPU: what rates are that the rows do not tell */
    int64_t gpus_per_worker;
    const struct med_engine_limits *limits;
};

struct med_fit {
    /* fit_error and fit_error_max are the form's over all rows, in the fit; source is NULL. */
    struct med_step_model model;
    unsigned unknown;
    struct med_step_error errors[MED_STEP_REGION_COUNT]; /* those with rows, regions rising */
    size_t error_count;
};

/*
 * errors: MED_E_INVALID with a sentence for no rows, or a row without work or with a time that is
 * no number > 0; MED_E_NOMEM. One row is enough for a model; as there is no other to predict it
 * from, it has no errors then.
 */
int med_fit_steps(const struct med_fit_input *input, struct med_fit *ret_fit,
                  struct med_err *err) MED_MUST_CHECK;

/* Milliseconds of one iteration by the form alone: what a latency model says beyond its rows. */
double med_step_model_ms(const struct med_step_model *step, const struct med_model_shape *model,
                         const struct med_step_row *row);

enum med_step_region med_step_region_of(const struct med_step_row *row);
#endif
