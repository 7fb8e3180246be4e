/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Paged KV bookkeeping (see kv_blocks.h).
 *
 * The free list is a stack, so a block that was just freed is used next (warm in a cache).  Each
 * lane's table has room for the longest sequence: growing moves numbers from stack to table,
 * dropping moves them back, and neither allocates.
 *
 * With sharing a table's entry is a reference.  A lane lets its last block go first, and holds a
 * block's ancestors as long as the block: that keeps the prefix cache free of orphans
 * (prefix_cache.h says why), and evicts the ends of conversations before their common beginnings.
 * thread: the scheduler's.  Does not touch the memory that the blocks stand for, and knows nothing
 * of sequences.
 */
#include "worker/engine/kv_blocks.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/rng.h"

#include <string.h>

enum {
    SCATTER_STREAM = 5 /* of the generator; any number */
};

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

int med_kv_blocks_share(struct med_kv_blocks *kv, int64_t block_tokens, uint64_t seed)
{
    MED_ASSERT(!kv->sharing);
    MED_ASSERT(kv->free_count == kv->blocks_total);
    kv->references = med_calloc((size_t)kv->blocks_total, sizeof kv->references[0]);
    kv->published = med_calloc((size_t)kv->lanes, sizeof kv->published[0]);
    if (!kv->references || !kv->published)
        return MED_E_NOMEM;
    int rc = med_prefix_cache_init(&kv->cache, kv->blocks_total, block_tokens, seed);
    kv->sharing = rc == 0;
    return rc;
}

void med_kv_blocks_release(struct med_kv_blocks *kv)
{
    med_free(kv->free);
    med_free(kv->tables);
    med_free(kv->counts);
    med_free(kv->seen);
    med_free(kv->references);
    med_free(kv->published);
    med_prefix_cache_release(&kv->cache);
    *kv = (struct med_kv_blocks){0};
}

int64_t med_kv_blocks_available(const struct med_kv_blocks *kv)
{
    return kv->free_count + kv->cache.idle_count;
}

/* A block that nobody uses, with its first reference. One is available. */
static int32_t take_shared(struct med_kv_blocks *kv)
{
    int32_t block =
        kv->free_count > 0 ? kv->free[--kv->free_count] : med_prefix_cache_evict(&kv->cache);
    MED_ASSERT(kv->references[block] == 0);
    kv->references[block] = 1;
    return block;
}

bool med_kv_blocks_grow(struct med_kv_blocks *kv, int64_t lane, int64_t count)
{
    MED_ASSERT(lane >= 0 && lane < kv->lanes);
    MED_ASSERT(count >= kv->counts[lane] && count <= kv->lane_blocks_max);
    int64_t held = kv->counts[lane];
    if (count == held) /* a decode inside its last block: nearly every call */
        return true;
    if (count - held > med_kv_blocks_available(kv))
        return false;
    int32_t *table = kv->tables + lane * kv->lane_blocks_max;
    if (kv->sharing) {
        while (held < count)
            table[held++] = take_shared(kv);
    } else {
        while (held < count)
            table[held++] = kv->free[--kv->free_count];
    }
    kv->counts[lane] = count;
    return true;
}

static void give_back(struct med_kv_blocks *kv, int32_t block)
{
    if (kv->sharing) {
        MED_ASSERT(kv->references[block] > 0);
        if (--kv->references[block] > 0)
            return;
        if (kv->cache.blocks[block].serial != 0) {
            med_prefix_cache_rest(&kv->cache, block);
            return;
        }
    }
    MED_ASSERT(kv->free_count < kv->blocks_total);
    kv->free[kv->free_count++] = block;
}

void med_kv_blocks_drop(struct med_kv_blocks *kv, int64_t lane)
{
    MED_ASSERT(lane >= 0 && lane < kv->lanes);
    const int32_t *table = kv->tables + lane * kv->lane_blocks_max;
    while (kv->counts[lane] > 0)
        give_back(kv, table[--kv->counts[lane]]);
    if (kv->sharing)
        kv->published[lane] = 0;
}

void med_kv_blocks_scatter(struct med_kv_blocks *kv, uint64_t seed)
{
    struct med_rng rng;
    med_rng_init(&rng, seed, SCATTER_STREAM);
    for (int64_t i = kv->free_count - 1; i > 0; i--) {
        int64_t with = med_rng_below(&rng, (uint32_t)(i + 1));
        int32_t block = kv->free[i];
        kv->free[i] = kv->free[with];
        kv->free[with] = block;
    }
}

const int32_t *med_kv_blocks_table(const struct med_kv_blocks *kv, int64_t lane)
{
    MED_ASSERT(lane >= 0 && lane < kv->lanes);
    return kv->tables + lane * kv->lane_blocks_max;
}

/* ---- sharing -------------------------------------------------------------------------------- */

void med_kv_blocks_find(const struct med_kv_blocks *kv, uint64_t salt, const uint32_t *tokens,
                        int64_t blocks_max, struct med_kv_match *match)
{
    MED_ASSERT(kv->sharing);
    MED_ASSERT(match->count <= blocks_max);
    /* While its last block is published so are the ones before it. */
    if (match->count > 0 && kv->cache.blocks[match->last].serial != match->serial)
        match->count = 0;
    while (match->count < blocks_max) {
        int32_t found =
            med_prefix_cache_find(&kv->cache, match->count > 0 ? match->last : MED_PREFIX_NONE,
                                  salt, tokens + match->count * kv->cache.block_tokens);
        if (found == MED_PREFIX_NONE)
            break;
        match->last = found;
        match->serial = kv->cache.blocks[found].serial;
        match->count++;
    }
}

int64_t med_kv_blocks_idle(const struct med_kv_blocks *kv, const struct med_kv_match *match)
{
    /* The idle ones are the last: whoever uses a block uses those before it. */
    int32_t block = match->last;
    int64_t idle = 0;
    while (idle < match->count && kv->cache.blocks[block].idle) {
        block = kv->cache.blocks[block].parent;
        idle++;
    }
    return idle;
}

void med_kv_blocks_adopt(struct med_kv_blocks *kv, int64_t lane, const struct med_kv_match *match)
{
    MED_ASSERT(kv->sharing);
    MED_ASSERT(kv->counts[lane] == 0 && match->count <= kv->lane_blocks_max);
    int32_t *table = kv->tables + lane * kv->lane_blocks_max;
    int32_t block = match->last;
    for (int64_t i = match->count - 1; i >= 0; i--) {
        if (kv->references[block]++ == 0)
            med_prefix_cache_wake(&kv->cache, block);
        table[i] = block;
        block = kv->cache.blocks[block].parent;
    }
    MED_ASSERT(match->count == 0 || block == MED_PREFIX_NONE);
    kv->counts[lane] = kv->published[lane] = match->count;
}

void med_kv_blocks_publish(struct med_kv_blocks *kv, int64_t lane, uint64_t salt,
                           const uint32_t *tokens, int64_t count)
{
    MED_ASSERT(kv->sharing);
    MED_ASSERT(count <= kv->counts[lane]);
    int32_t *table = kv->tables + lane * kv->lane_blocks_max;
    for (int64_t i = kv->published[lane]; i < count; i++) {
        int32_t parent = i > 0 ? table[i - 1] : MED_PREFIX_NONE;
        int32_t known = med_prefix_cache_publish(&kv->cache, table[i], parent, salt,
                                                 tokens + i * kv->cache.block_tokens);
        if (known != table[i]) {
            if (kv->references[known]++ == 0)
                med_prefix_cache_wake(&kv->cache, known);
            give_back(kv, table[i]);
            table[i] = known;
        }
        kv->published[lane] = i + 1;
    }
}

/* ---- what it asserts ------------------------------------------------------------------------ */

static void see(const struct med_kv_blocks *kv, int32_t block)
{
    MED_ASSERT(block >= 0 && block < kv->blocks_total);
    kv->seen[block]++;
}

/* The published blocks of a table are a path from a root, and the others are the lane's own. */
static void check_lane(const struct med_kv_blocks *kv, int64_t lane)
{
    const int32_t *table = med_kv_blocks_table(kv, lane);
    MED_ASSERT(kv->published[lane] <= kv->counts[lane]);
    for (int64_t i = 0; i < kv->counts[lane]; i++) {
        const struct med_prefix_block *b = &kv->cache.blocks[table[i]];
        MED_ASSERT((b->serial != 0) == (i < kv->published[lane]));
        if (b->serial != 0) {
            MED_ASSERT(b->parent == (i > 0 ? table[i - 1] : MED_PREFIX_NONE));
        } else {
            MED_ASSERT(kv->references[table[i]] == 1);
        }
    }
}

static void check_sharing(const struct med_kv_blocks *kv)
{
    /* seen: how many tables hold it, here. */
    int64_t used = 0;
    for (int64_t i = 0; i < kv->blocks_total; i++) {
        MED_ASSERT(kv->references[i] == kv->seen[i]);
        MED_ASSERT(kv->references[i] == 0 || !kv->cache.blocks[i].idle);
        used += kv->references[i] > 0;
    }
    for (int64_t i = 0; i < kv->free_count; i++) {
        see(kv, kv->free[i]);
        MED_ASSERT(kv->seen[kv->free[i]] == 1);
        MED_ASSERT(kv->cache.blocks[kv->free[i]].serial == 0);
    }
    MED_ASSERT(used + kv->free_count + kv->cache.idle_count == kv->blocks_total);
    for (int64_t lane = 0; lane < kv->lanes; lane++)
        check_lane(kv, lane);
    med_prefix_cache_check(&kv->cache);
}

void med_kv_blocks_check(const struct med_kv_blocks *kv)
{
    memset(kv->seen, 0, (size_t)kv->blocks_total * sizeof kv->seen[0]);
    int64_t held = 0;
    for (int64_t lane = 0; lane < kv->lanes; lane++) {
        for (int64_t i = 0; i < kv->counts[lane]; i++)
            see(kv, kv->tables[lane * kv->lane_blocks_max + i]);
        held += kv->counts[lane];
    }
    if (kv->sharing) {
        check_sharing(kv);
        return;
    }
    for (int64_t i = 0; i < kv->free_count; i++)
        see(kv, kv->free[i]);
    for (int64_t i = 0; i < kv->blocks_total; i++)
        MED_ASSERT(kv->seen[i] == 1);
    MED_ASSERT(held + kv->free_count == kv->blocks_total);
}
