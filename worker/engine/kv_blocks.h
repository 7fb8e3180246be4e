/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Paged KV bookkeeping: a free list of blocks, one block table per lane, and blocks that lanes share.
 *
 * A lane is the place of one running sequence; its table names the blocks that hold its keys and
 * values, in token order.  Only block numbers live here; the memory is the backend's.
 * Invariant: every block is on the free list once, or in one lane's table once.
 *
 * With sharing (med_kv_blocks_share), full blocks can be published and found by later sequences of the
 * same beginning (prefix_cache.h).  Then the invariant is: every block is on the free list once, or
 * idle in the prefix cache, or in as many tables as it has references.  A lane's published blocks
 * are the first of its table, each the parent of the next, and a lane writes only behind them.
 *
 * thread: the scheduler's. owns: all arrays, sized at init; nothing is allocated later.
 */
#ifndef MED_WORKER_ENGINE_KV_BLOCKS_H
#define MED_WORKER_ENGINE_KV_BLOCKS_H

#include "base/err.h"
#include "worker/engine/prefix_cache.h"

#include <stdbool.h>
#include <stdint.h>

struct med_kv_blocks {
    int64_t blocks_total;
    int64_t lanes;
    int64_t lane_blocks_max; /* length of one table */
    int64_t free_count;
    int32_t *free;   // [blocks_total], a stack
    int32_t *tables; // [lanes][lane_blocks_max]
    int64_t *counts; // [lanes], blocks held
    int32_t *seen;   // [blocks_total], scratch of the check

    bool sharing; /* the rest is empty without it */
    struct med_prefix_cache cache;
    int32_t *references; // [blocks_total], how many tables hold it
    int64_t *published;  // [lanes], of its table, from the front
};

/* How far the cache knows a sequence's beginning. Zeroed: not looked up yet. Survives other calls: a
 * later find takes it up where it ended if its last block is still the one that was found. */
struct med_kv_match {
    int64_t count;   /* blocks */
    int32_t last;    /* the last of them, if count > 0 */
    uint64_t serial; /* of its publication */
};

/* errors: MED_E_NOMEM; nothing is held then. */
int med_kv_blocks_init(struct med_kv_blocks *kv, int64_t blocks_total, int64_t lanes,
                       int64_t lane_blocks_max) MED_MUST_CHECK;
/* Turns sharing on, before the first grow.  errors: MED_E_NOMEM; release is still due then. */
int med_kv_blocks_share(struct med_kv_blocks *kv, int64_t block_tokens,
                        uint64_t seed) MED_MUST_CHECK;
/* Accepts a zeroed struct. */
void med_kv_blocks_release(struct med_kv_blocks *kv);

/* Blocks that can be had: free, or idle in the cache. */
int64_t med_kv_blocks_available(const struct med_kv_blocks *kv);
/* Makes the lane hold `count` blocks in all (never fewer than now), evicting idle ones when no free
 * ones are left. False, and nothing is changed, when too few are available.
 * count <= lane_blocks_max. */
bool med_kv_blocks_grow(struct med_kv_blocks *kv, int64_t lane, int64_t count) MED_MUST_CHECK;
/* Gives all blocks of the lane back: published ones stay findable until they are evicted. */
void med_kv_blocks_drop(struct med_kv_blocks *kv, int64_t lane);
/* Puts the free blocks in an order of chance. */
void med_kv_blocks_scatter(struct med_kv_blocks *kv, uint64_t seed);
/* The lane's table, med_kv_blocks.counts[lane] entries. */
const int32_t *med_kv_blocks_table(const struct med_kv_blocks *kv, int64_t lane);

/* ---- sharing -------------------------------------------------------------------------------- */

/* Looks for as many blocks as the cache holds of tokens[0 .. blocks_max * block_tokens), and sets
 * *match.  Costs what is found in addition to what *match has already. */
void med_kv_blocks_find(const struct med_kv_blocks *kv, uint64_t salt, const uint32_t *tokens,
                        int64_t blocks_max, struct med_kv_match *match);
/* How many of a match that was just found are idle: adopting makes so many fewer available. */
int64_t med_kv_blocks_idle(const struct med_kv_blocks *kv, const struct med_kv_match *match);
/* Puts a match that was just found into an empty lane. */
void med_kv_blocks_adopt(struct med_kv_blocks *kv, int64_t lane, const struct med_kv_match *match);
/* The lane's first `count` blocks hold the keys and values of tokens[0 .. count * block_tokens):
 * those not yet published can be found from now on. Where the cache knows the same tokens already
 * (another lane computed them at the same time) the lane takes that block and gives its own back, so
 * the table may change. */
void med_kv_blocks_publish(struct med_kv_blocks *kv, int64_t lane, uint64_t salt,
                           const uint32_t *tokens, int64_t count);

/* Asserts the invariants. */
void med_kv_blocks_check(const struct med_kv_blocks *kv);

#endif
