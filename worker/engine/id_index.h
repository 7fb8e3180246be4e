/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a caller's 64-bit id to a slot number in O(1): open addressing with linear probing, at most
 * half full, deletion by moving back (no tombstones, so it never degrades).
 * thread: the owner's. owns: its array, sized at init; nothing is allocated later.
 */
#ifndef MED_WORKER_ENGINE_ID_INDEX_H
#define MED_WORKER_ENGINE_ID_INDEX_H

#include "base/err.h"

#include <stdint.h>

struct med_id_entry {
    uint64_t id;
    int32_t slot; /* -1: empty */
};

struct med_id_index {
    struct med_id_entry *entries; // [mask + 1]
    uint64_t mask;
    int64_t count, count_max;
};

/* count_max in 1..2^28. errors: MED_E_NOMEM. */
int med_id_index_init(struct med_id_index *index, int64_t count_max) MED_MUST_CHECK;
/* Accepts a zeroed struct. */
void med_id_index_release(struct med_id_index *index);

/* The slot, or -1. */
int32_t med_id_index_find(const struct med_id_index *index, uint64_t id);
/* id must not be held, and the index not full. */
void med_id_index_put(struct med_id_index *index, uint64_t id, int32_t slot);
/* id must be held. */
void med_id_index_remove(struct med_id_index *index, uint64_t id);

#endif
