/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a profile says of its own error, as a clause for a person.
 *
 * A profile that left its measured steps out one by one tells it by region; one with a form from
 * elsewhere tells the error of that fit and of the measurements that it never saw. Runs on any
 * thread; no allocation.
 */
#include "profiles/profile.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct text {
    char *to;
    size_t used, bytes;
};

static void MED_PRINTF(2, 3) add(struct text *text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int wrote = vsnprintf(text->to + text->used, text->bytes - text->used, format, args);
    va_end(args);
    size_t room = text->bytes - text->used - 1;
    text->used += wrote > 0 ? ((size_t)wrote < room ? (size_t)wrote : room) : 0;
}

static const struct med_step_error *error_of(const struct med_profile *profile, int region)
{
    for (size_t n = 0; n < profile->step_error_count; n++) {
        if ((int)profile->step_errors[n].region == region) {
            return &profile->step_errors[n];
        }
    }
    return NULL;
}

static void say_regions(const struct med_profile *profile, unsigned regions, struct text *text)
{
    const char *before = "";
    add(text, "steps left out of the fit are missed by ");
    for (int region = 0; region < MED_STEP_REGION_COUNT; region++) {
        const struct med_step_error *error = error_of(profile, region);
        const char *name = med_step_region_name((enum med_step_region)region);
        if (!(regions & (1u << region)) || (error == NULL && regions == MED_STEP_REGIONS_ALL)) {
            continue;
        }
        if (error == NULL) {
            add(text, "%san unknown share (%s: none measured)", before, name);
        } else {
            add(text, "%s%.2g%% on average, %.2g%% at most (%s)", before, 100.0 * error->form_mean,
                100.0 * error->form_max, name);
        }
        before = ", ";
    }
}

static void say_validations(const struct med_profile *profile, struct text *text)
{
    add(text, "its form misses what it was fitted to by %.2g%% on average",
        100.0 * profile->step_model.fit_error);
    if (profile->validation_count == 0) {
        add(text, ", and nothing was measured that the fit left out");
    }
    for (size_t n = 0; n < profile->validation_count; n++) {
        const struct med_validation *validation = &profile->validations[n];
        bool again = n > 0 && strcmp(validation->against, validation[-1].against) == 0;
        if (!again) { /* the first says it as it is, what follows after corrections */
            add(text, ", and what %s measured and the fit left out by %.2g%%", validation->against,
                100.0 * validation->error_mean);
        }
    }
}

void med_profile_say_errors(const struct med_profile *profile, unsigned regions, char *ret_text,
                            size_t bytes)
{
    struct text text = {ret_text, 0, bytes};
    *ret_text = '\0';
    if (!profile->has_step_model) {
        return;
    }
    if (profile->step_error_count > 0) {
        say_regions(profile, regions, &text);
    } else {
        say_validations(profile, &text);
    }
}
