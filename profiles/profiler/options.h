/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The options of medley profile; main_profile.c has the table.
 * thread: main.
 */
#ifndef MED_PROFILES_PROFILER_OPTIONS_H
#define MED_PROFILES_PROFILER_OPTIONS_H

#include "base/options.h"
#include "profiles/profiler/serving_verb.h"

struct med_profiler_options {
    /* What to measure. */
    const char *backend, *model, *shape, *profile;
    double time_scale;
    const char *listen, *tls_certificate, *tls_key, *token_file;
    int64_t wait_ns;
    /* How. */
    double minutes, precision, tolerance;
    int64_t repeats_max, points_max;
    bool fresh;
    /* What is written. */
    const char *output, *name, *gpu_name;
    bool json;
    /* Serving points, with --api; what both halves have is copied into it. */
    struct med_serving_options serving;
};

#endif
