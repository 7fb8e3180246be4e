/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which request sizes are measured: those asked for by name, else the buckets of a workload at their
 * own means, heaviest work first, else Melange's grid thinned.
 *
 * Work of a bucket: share * (input / 20 + output), a token of a prompt being that much cheaper.
 * What does not fit the engine's longest sequence is left out, and counted.
 * thread: main; pure but for the file that it reads.
 */
#ifndef MED_PROFILES_PROFILER_SIZES_H
#define MED_PROFILES_PROFILER_SIZES_H

#include "profiles/profiler/search.h"

struct med_sizes_config {
    const char *sizes;               /* "512x128,2000x200"; NULL */
    const char *workload, *data_dir; /* file or name; NULL */
    int64_t count_max;
    int64_t model_len_max;
};

struct med_sizes_told {
    size_t too_long;   /* left out */
    double work_share; /* of the workload's work that the chosen sizes are, 0..1 */
};

/* Adds them to the search. errors: MED_E_USAGE, MED_E_INVALID with a sentence, those of the file. */
int med_sizes_add(const struct med_sizes_config *config, struct med_search *search,
                  struct med_sizes_told *ret_told, struct med_err *err) MED_MUST_CHECK;

#endif
