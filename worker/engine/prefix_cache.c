/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index of published KV blocks (see prefix_cache.h).
 *
 * The hash of a block continues its parent's, so a find costs one block's tokens however long the
 * history is.  It need not withstand an attacker who knows the seed: a collision costs one comparison
 * and nothing else, since what a find returns was compared.  Buckets are lists through the blocks
 * themselves, at least as many as there are blocks; idle blocks are a doubly linked list.
 *
 * thread: the scheduler's.  Does not touch the memory that the blocks stand for, and does not count
 * references.
 */
#include "worker/engine/prefix_cache.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <string.h>

#define HASH_FACTOR UINT64_C(0x9e3779b97f4a7c15) /* odd, 2^64 over the golden ratio */

int med_prefix_cache_init(struct med_prefix_cache *c, int64_t blocks_total, int64_t block_tokens,
                          uint64_t seed)
{
    MED_ASSERT(blocks_total > 0 && blocks_total <= INT32_MAX);
    MED_ASSERT(block_tokens > 0);
    *c = (struct med_prefix_cache){.blocks_total = blocks_total,
                                   .block_tokens = block_tokens,
                                   .seed = seed,
                                   .oldest = MED_PREFIX_NONE,
                                   .newest = MED_PREFIX_NONE};
    uint64_t buckets = 1;
    while (buckets < (uint64_t)blocks_total)
        buckets *= 2;
    c->bucket_mask = buckets - 1;
    c->blocks = med_calloc((size_t)blocks_total, sizeof c->blocks[0]);
    if (block_tokens <= INT64_MAX / blocks_total)
        c->tokens = med_calloc((size_t)(blocks_total * block_tokens), sizeof c->tokens[0]);
    c->buckets = med_calloc((size_t)buckets, sizeof c->buckets[0]);
    if (!c->blocks || !c->tokens || !c->buckets) {
        med_prefix_cache_release(c);
        return MED_E_NOMEM;
    }
    for (uint64_t i = 0; i < buckets; i++)
        c->buckets[i] = MED_PREFIX_NONE;
    return 0;
}

void med_prefix_cache_release(struct med_prefix_cache *c)
{
    med_free(c->blocks);
    med_free(c->tokens);
    med_free(c->buckets);
    *c = (struct med_prefix_cache){0};
}

/* ---- the index ------------------------------------------------------------------------------ */

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * HASH_FACTOR;
    return hash ^ (hash >> 32);
}

static uint64_t hash_of(const struct med_prefix_cache *c, int32_t parent, uint64_t salt,
                        const uint32_t *tokens)
{
    uint64_t hash = parent == MED_PREFIX_NONE ? mix(c->seed, salt) : c->blocks[parent].hash;
    for (int64_t i = 0; i < c->block_tokens; i++)
        hash = mix(hash, tokens[i]);
    return mix(hash, c->seed);
}

static uint32_t *tokens_of(const struct med_prefix_cache *c, int32_t block)
{
    return c->tokens + (int64_t)block * c->block_tokens;
}

static int32_t find(const struct med_prefix_cache *c, uint64_t hash, int32_t parent, uint64_t salt,
                    const uint32_t *tokens)
{
    size_t bytes = (size_t)c->block_tokens * sizeof tokens[0];
    int32_t block = c->buckets[hash & c->bucket_mask];
    for (; block != MED_PREFIX_NONE; block = c->blocks[block].bucket_next) {
        const struct med_prefix_block *b = &c->blocks[block];
        if (b->hash == hash && b->parent == parent &&
            (parent != MED_PREFIX_NONE || b->salt == salt) &&
            memcmp(tokens_of(c, block), tokens, bytes) == 0)
            return block;
    }
    return MED_PREFIX_NONE;
}

int32_t med_prefix_cache_find(const struct med_prefix_cache *c, int32_t parent, uint64_t salt,
                              const uint32_t *tokens)
{
    MED_ASSERT(parent == MED_PREFIX_NONE || c->blocks[parent].serial != 0);
    return find(c, hash_of(c, parent, salt, tokens), parent, salt, tokens);
}

int32_t med_prefix_cache_publish(struct med_prefix_cache *c, int32_t block, int32_t parent,
                                 uint64_t salt, const uint32_t *tokens)
{
    MED_ASSERT(parent == MED_PREFIX_NONE || c->blocks[parent].serial != 0);
    uint64_t hash = hash_of(c, parent, salt, tokens);
    int32_t found = find(c, hash, parent, salt, tokens);
    if (found != MED_PREFIX_NONE)
        return found;
    struct med_prefix_block *b = &c->blocks[block];
    MED_ASSERT(b->serial == 0);
    MED_ASSERT(!b->idle);
    int32_t *bucket = &c->buckets[hash & c->bucket_mask];
    *b = (struct med_prefix_block){.hash = hash,
                                   .salt = salt,
                                   .serial = ++c->serial_last,
                                   .parent = parent,
                                   .bucket_next = *bucket,
                                   .older = MED_PREFIX_NONE,
                                   .newer = MED_PREFIX_NONE};
    memcpy(tokens_of(c, block), tokens, (size_t)c->block_tokens * sizeof tokens[0]);
    *bucket = block;
    if (parent != MED_PREFIX_NONE)
        c->blocks[parent].children++;
    c->count++;
    return block;
}

static void unpublish(struct med_prefix_cache *c, int32_t block)
{
    struct med_prefix_block *b = &c->blocks[block];
    MED_ASSERT(b->serial != 0);
    MED_ASSERT(b->children == 0); /* or they would lose their history */
    int32_t *link = &c->buckets[b->hash & c->bucket_mask];
    while (*link != block) {
        MED_ASSERT(*link != MED_PREFIX_NONE);
        link = &c->blocks[*link].bucket_next;
    }
    *link = b->bucket_next;
    if (b->parent != MED_PREFIX_NONE)
        c->blocks[b->parent].children--;
    *b = (struct med_prefix_block){0};
    c->count--;
}

/* ---- the idle ------------------------------------------------------------------------------- */

void med_prefix_cache_rest(struct med_prefix_cache *c, int32_t block)
{
    struct med_prefix_block *b = &c->blocks[block];
    MED_ASSERT(b->serial != 0);
    MED_ASSERT(!b->idle);
    b->idle = true;
    b->older = c->newest;
    b->newer = MED_PREFIX_NONE;
    if (c->newest != MED_PREFIX_NONE) {
        c->blocks[c->newest].newer = block;
    } else {
        c->oldest = block;
    }
    c->newest = block;
    c->idle_count++;
}

void med_prefix_cache_wake(struct med_prefix_cache *c, int32_t block)
{
    struct med_prefix_block *b = &c->blocks[block];
    MED_ASSERT(b->idle);
    if (b->older != MED_PREFIX_NONE) {
        c->blocks[b->older].newer = b->newer;
    } else {
        c->oldest = b->newer;
    }
    if (b->newer != MED_PREFIX_NONE) {
        c->blocks[b->newer].older = b->older;
    } else {
        c->newest = b->older;
    }
    b->idle = false;
    b->older = b->newer = MED_PREFIX_NONE;
    c->idle_count--;
}

int32_t med_prefix_cache_evict(struct med_prefix_cache *c)
{
    int32_t block = c->oldest;
    MED_ASSERT(block != MED_PREFIX_NONE);
    med_prefix_cache_wake(c, block);
    unpublish(c, block);
    c->evictions++;
    return block;
}

/* ---- what it asserts ------------------------------------------------------------------------ */

static void check_block(const struct med_prefix_cache *c, int32_t block)
{
    const struct med_prefix_block *b = &c->blocks[block];
    MED_ASSERT(b->serial <= c->serial_last);
    MED_ASSERT(med_prefix_cache_find(c, b->parent, b->salt, tokens_of(c, block)) == block);
    if (b->parent == MED_PREFIX_NONE)
        return;
    const struct med_prefix_block *parent = &c->blocks[b->parent];
    MED_ASSERT(parent->serial != 0);
    MED_ASSERT(parent->serial < b->serial);
    MED_ASSERT(parent->children > 0);
    MED_ASSERT(!parent->idle || b->idle);
}

void med_prefix_cache_check(const struct med_prefix_cache *c)
{
    int64_t published = 0, with_parent = 0, children = 0, idle = 0, indexed = 0;
    for (int32_t i = 0; i < c->blocks_total; i++) {
        const struct med_prefix_block *b = &c->blocks[i];
        idle += b->idle;
        children += b->children;
        if (b->serial == 0) {
            MED_ASSERT(!b->idle);
            MED_ASSERT(b->children == 0);
            continue;
        }
        check_block(c, i);
        published++;
        with_parent += b->parent != MED_PREFIX_NONE;
    }
    MED_ASSERT(published == c->count);
    MED_ASSERT(with_parent == children);
    MED_ASSERT(idle == c->idle_count);
    for (uint64_t i = 0; i <= c->bucket_mask; i++) {
        for (int32_t b = c->buckets[i]; b != MED_PREFIX_NONE; b = c->blocks[b].bucket_next) {
            MED_ASSERT(c->blocks[b].serial != 0);
            indexed++;
            MED_ASSERT(indexed <= published);
        }
    }
    MED_ASSERT(indexed == published);
    int32_t older = MED_PREFIX_NONE;
    int64_t listed = 0;
    for (int32_t b = c->oldest; b != MED_PREFIX_NONE; b = c->blocks[b].newer) {
        MED_ASSERT(c->blocks[b].idle);
        MED_ASSERT(c->blocks[b].older == older);
        older = b;
        listed++;
        MED_ASSERT(listed <= idle);
    }
    MED_ASSERT(listed == idle);
    MED_ASSERT(c->newest == older);
}
