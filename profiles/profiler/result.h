/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a journal to a profile: rows, the fitted model, sources, and what is told of them.
 *
 * thread: main. owns: struct med_profile_result owns its rows and texts; the profile points into it and
 * is not to be released.
 */
#ifndef MED_PROFILES_PROFILER_RESULT_H
#define MED_PROFILES_PROFILER_RESULT_H

#include "base/json.h"
#include "profiles/fit.h"
#include "profiles/profiler/steps.h"

enum {
    MED_RESULT_TEXT = 2048,
    MED_RESULT_SOURCES = 4 /* steps, limits, fit, and one for serving points */
};

/* Where the device was used best. */
struct med_profile_use {
    double mbu, mfu; /* shares of the limits; 0: not known */
    struct med_step_row mbu_row, mfu_row;
};

struct med_profile_result {
    struct med_profile profile;
    struct med_step_row *rows; // [profile.step_count]
    struct med_source sources[MED_RESULT_SOURCES];
    char texts[MED_RESULT_SOURCES][MED_RESULT_TEXT];
    char worker_type[MED_PROFILED_TEXT], engine[MED_PROFILED_TEXT], gpu[MED_PROFILED_TEXT];
    struct med_profile_use use;
    double seconds[MED_STEP_REGION_COUNT]; /* of measuring, by region */
};

/* now: the facts as of the end.  errors: MED_E_INVALID nothing was measured; the fit's. */
int med_profile_result_make(struct med_profile_result *result, const struct med_journal *journal,
                            const struct med_profiled_facts *now,
                            const struct med_profiler_options *options,
                            struct med_err *err) MED_MUST_CHECK;
void med_profile_result_release(struct med_profile_result *result);

/* Writes it whole or not at all, and reads it back. */
int med_profile_result_write(const struct med_profile_result *result, const char *path,
                             struct med_err *err) MED_MUST_CHECK;

void med_profile_result_text(const struct med_profile_result *result,
                             const struct med_steps_outcome *outcome, const char *path);
void med_profile_result_json(const struct med_profile_result *result,
                             const struct med_steps_outcome *outcome, const char *path,
                             struct med_json_writer *w);

#endif
