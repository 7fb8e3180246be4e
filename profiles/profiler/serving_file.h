/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The profile that serving points go into, which is also the journal that a measurement is resumed
 * from: it is written after every point, whole, in place of the file before it.
 *
 * Its model, hardware and limits come from another profile (a server tells none of them); its rows
 * have one source, whose text says what was measured and how.  A file whose text says something else
 * is another server's, and is refused: one profile is of one server and machine.
 * thread: main.  owns: the profile.
 */
#ifndef MED_PROFILES_PROFILER_SERVING_FILE_H
#define MED_PROFILES_PROFILER_SERVING_FILE_H

#include "profiles/profile.h"

struct med_serving_file_config {
    const char *path;
    const char *like;                               /* a profile; NULL only to resume */
    const char *worker_type, *gpu, *dtype, *engine; /* NULL: as in `like` */
    int64_t gpus_per_worker;                        /* 0: the same */
    const char *text;                               /* of the source */
    bool fresh; /* a file that is there is begun anew, not gone on with */
};

struct med_serving_file {
    char *path;
    struct med_profile profile;
    size_t source;  /* of the rows */
    size_t resumed; /* rows that were there */
};

/* errors: MED_E_INVALID: the file is another server's; MED_E_USAGE: there is nothing to take the model from;
 * those of the profiles. */
int med_serving_file_open(const struct med_serving_file_config *config,
                          struct med_serving_file *ret_file, struct med_err *err) MED_MUST_CHECK;
/* Copies the row, writes the file. */
int med_serving_file_add(struct med_serving_file *file, const struct med_serving_row *row,
                         struct med_err *err) MED_MUST_CHECK;
int med_serving_file_save(const struct med_serving_file *file, struct med_err *err) MED_MUST_CHECK;
void med_serving_file_release(struct med_serving_file *file);

#endif
