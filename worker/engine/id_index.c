/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a caller's 64-bit id to a slot number (see id_index.h).
 *
 * Ids are often consecutive and may be chosen by a peer, so they are mixed before they become a
 * place.  The table has at least twice as many places as entries, so that probes stay short.
 * thread: the owner's.  Does not grow.
 */
#include "worker/engine/id_index.h"

#include "base/alloc.h"
#include "base/assert.h"

/* The finaliser of splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

int med_id_index_init(struct med_id_index *index, int64_t count_max)
{
    MED_ASSERT(count_max > 0 && count_max <= INT64_C(1) << 28);
    uint64_t places = 4;
    while (places < 2 * (uint64_t)count_max)
        places *= 2;
    *index = (struct med_id_index){.mask = places - 1, .count_max = count_max};
    index->entries = med_calloc(places, sizeof index->entries[0]);
    if (!index->entries)
        return MED_E_NOMEM;
    for (uint64_t i = 0; i < places; i++)
        index->entries[i].slot = -1;
    return 0;
}

void med_id_index_release(struct med_id_index *index)
{
    med_free(index->entries);
    *index = (struct med_id_index){0};
}

/* The place of id, or the empty place where it belongs. */
static uint64_t place_of(const struct med_id_index *index, uint64_t id)
{
    uint64_t at = mix(id) & index->mask;
    while (index->entries[at].slot >= 0 && index->entries[at].id != id)
        at = (at + 1) & index->mask;
    return at;
}

int32_t med_id_index_find(const struct med_id_index *index, uint64_t id)
{
    return index->entries[place_of(index, id)].slot;
}

void med_id_index_put(struct med_id_index *index, uint64_t id, int32_t slot)
{
    MED_ASSERT(slot >= 0);
    MED_ASSERT(index->count < index->count_max);
    uint64_t at = place_of(index, id);
    MED_ASSERT(index->entries[at].slot < 0);
    index->entries[at] = (struct med_id_entry){.id = id, .slot = slot};
    index->count++;
}

void med_id_index_remove(struct med_id_index *index, uint64_t id)
{
    uint64_t hole = place_of(index, id);
    MED_ASSERT(index->entries[hole].slot >= 0);
    /* Move back every follower that the hole would hide from its own first place. */
    for (uint64_t at = (hole + 1) & index->mask; index->entries[at].slot >= 0;
         at = (at + 1) & index->mask) {
        uint64_t home = mix(index->entries[at].id) & index->mask;
        if (((at - home) & index->mask) >= ((at - hole) & index->mask)) {
            index->entries[hole] = index->entries[at];
            hole = at;
        }
    }
    index->entries[hole].slot = -1;
    index->count--;
}
