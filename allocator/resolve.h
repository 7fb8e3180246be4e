/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of files that ship: a path that exists wins, else the name is looked up in the data folder.
 *
 *   workload   allocator/workloads/NAME.json
 *   profiles   profiles/NAME (a folder), profiles/published/NAME.json, profiles/recorded/NAME.json
 *   catalogue  profiles/catalogues/NAME.json
 * The data folder is what --data-dir says, else the nearest folder above the program that holds
 * profiles/published (a source tree), else ../share/medley beside the program's folder.
 * thread: main. owns: results are the caller's (med_free).
 */
#ifndef MED_ALLOCATOR_RESOLVE_H
#define MED_ALLOCATOR_RESOLVE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

enum med_resolve_what {
    MED_RESOLVE_WORKLOAD,
    MED_RESOLVE_PROFILES,
    MED_RESOLVE_CATALOGUE
};

/* data_dir NULL: find it. *ret_path is a file, or, for profiles, perhaps a folder. */
int med_resolve(enum med_resolve_what what, const char *name, const char *data_dir, char **ret_path,
                struct med_err *err) MED_MUST_CHECK;

bool med_resolve_is_folder(const char *path);

/* The *.json files of a folder, sorted by name; each and the array are the caller's. */
int med_resolve_list(const char *folder, char ***ret_paths, size_t *ret_count,
                     struct med_err *err) MED_MUST_CHECK;

#endif
