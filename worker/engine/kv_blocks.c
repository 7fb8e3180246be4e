/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Paged KV bookkeeping (see kv_blocks.h).
 *
 * The free list is a stack, so a block that was just freed is used next (warm in a cache).  Each
 * lane's table has room for the longest sequence: growing moves numbers from stack to table,
 * dropping moves them back, and neither allocates.
 * thread: the scheduler's.  Does not touch the memory that the blocks stand for, and knows nothing
 * of tokens or sequences.
 */
#include "worker/engine/kv_blocks.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <string.h>

int med_kv_blocks_init(struct med_kv_blocks *kv, int64_t blocks_total, int64_t lanes,
                       int64_t lane_blocks_max)
{
    MED_ASSERT(blocks_total > 0 && blocks_total <= INT32_MAX);
    MED_ASSERT(lanes > 0 && lane_blocks_max > 0);
    *kv = (struct med_kv_blocks){
        .blocks_total = blocks_total, .lanes = lanes, .lane_blocks_max = lane_blocks_max};
    kv->free = med_calloc((size_t)blocks_total, sizeof kv->free[0]);
    if (lanes <= INT64_MAX / lane_blocks_max)
        kv->tables = med_calloc((size_t)(lanes * lane_blocks_max), sizeof kv->tables[0]);
    kv->counts = med_calloc((size_t)lanes, sizeof kv->counts[0]);
    kv->seen = med_calloc((size_t)blocks_total, sizeof kv->seen[0]);
    if (!kv->free || !kv->tables || !kv->counts || !kv->seen) {
        med_kv_blocks_release(kv);
        return MED_E_NOMEM;
    }
    /* Highest number at the bottom: the first blocks handed out are 0, 1, 2, ... */
    for (int64_t i = 0; i < blocks_total; i++)
        kv->free[i] = (int32_t)(blocks_total - 1 - i);
    kv->free_count = blocks_total;
    return 0;
}

void med_kv_blocks_release(struct med_kv_blocks *kv)
{
    med_free(kv->free);
    med_free(kv->tables);
    med_free(kv->counts);
    med_free(kv->seen);
    *kv = (struct med_kv_blocks){0};
}

bool med_kv_blocks_grow(struct med_kv_blocks *kv, int64_t lane, int64_t count)
{
    MED_ASSERT(lane >= 0 && lane < kv->lanes);
    MED_ASSERT(count >= kv->counts[lane] && count <= kv->lane_blocks_max);
    if (count - kv->counts[lane] > kv->free_count)
        return false;
    int32_t *table = kv->tables + lane * kv->lane_blocks_max;
    while (kv->counts[lane] < count)
        table[kv->counts[lane]++] = kv->free[--kv->free_count];
    return true;
}

void med_kv_blocks_drop(struct med_kv_blocks *kv, int64_t lane)
{
    MED_ASSERT(lane >= 0 && lane < kv->lanes);
    const int32_t *table = kv->tables + lane * kv->lane_blocks_max;
    while (kv->counts[lane] > 0) {
        MED_ASSERT(kv->free_count < kv->blocks_total);
        kv->free[kv->free_count++] = table[--kv->counts[lane]];
    }
}

const int32_t *med_kv_blocks_table(const struct med_kv_blocks *kv, int64_t lane)
{
    MED_ASSERT(lane >= 0 && lane < kv->lanes);
    return kv->tables + lane * kv->lane_blocks_max;
}

static void see(const struct med_kv_blocks *kv, int32_t block)
{
    MED_ASSERT(block >= 0 && block < kv->blocks_total);
    MED_ASSERT(!kv->seen[block]);
    kv->seen[block] = true;
}

void med_kv_blocks_check(const struct med_kv_blocks *kv)
{
    memset(kv->seen, 0, (size_t)kv->blocks_total * sizeof kv->seen[0]);
    int64_t held = 0;
    for (int64_t i = 0; i < kv->free_count; i++)
        see(kv, kv->free[i]);
    for (int64_t lane = 0; lane < kv->lanes; lane++) {
        for (int64_t i = 0; i < kv->counts[lane]; i++)
            see(kv, kv->tables[lane * kv->lane_blocks_max + i]);
        held += kv->counts[lane];
    }
    MED_ASSERT(held + kv->free_count == kv->blocks_total);
}
