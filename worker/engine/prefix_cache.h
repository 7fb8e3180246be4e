/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which KV block holds which tokens: an index of full blocks by their tokens and all before them.
 *
 * A block that is published is known by its parent (the published block of the tokens before it, or
 * none), its tokens, and at the root by a salt.  By induction that is the whole history of tokens, and
 * a find is exact: the hash only leads to candidates, parent and tokens are compared.
 *
 * A published block is in use (references are counted by med_kv_blocks, which tells of the last one)
 * or idle.  Idle blocks are kept in order of their last use, for evict.  Invariants: a parent
 * is published as long as its children are, and an idle block's children are idle and older; so the
 * oldest idle block has none, and evicting it leaves no orphan.  The user keeps the second one by
 * holding a block's ancestors whenever it holds the block, and by letting children go first.
 *
 * thread: the scheduler's. owns: all arrays, sized at init; nothing is allocated later.
 * source: vLLM's automatic prefix caching (full blocks, chained), SGLang's tree (leaves go first).
 */
#ifndef MED_WORKER_ENGINE_PREFIX_CACHE_H
#define MED_WORKER_ENGINE_PREFIX_CACHE_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    MED_PREFIX_NONE = -1 /* no block */
};

struct med_prefix_block {
    uint64_t hash;        /* of seed, salt and all tokens up to its end */
    uint64_t salt;        /* compared at the root alone */
    uint64_t serial;      /* of its publication, never used twice; 0: not published */
    int32_t parent;       /* MED_PREFIX_NONE at the root */
    int32_t children;     /* published ones */
    int32_t bucket_next;  /* in its bucket of the index */
    int32_t older, newer; /* among the idle */
    bool idle;
};

struct med_prefix_cache {
    int64_t blocks_total, block_tokens;
    uint64_t seed;
    struct med_prefix_block *blocks; // [blocks_total]
    uint32_t *tokens;                // [blocks_total][block_tokens], of the published
    int32_t *buckets;                // [bucket_mask + 1], first of each
    uint64_t bucket_mask;
    int64_t count; /* published */
    int32_t oldest, newest;
    int64_t idle_count;
    uint64_t serial_last;
    uint64_t evictions;
};

/* seed: keys the hash, so that a client cannot make prompts whose blocks share a bucket. It changes
 * no result.  errors: MED_E_NOMEM; nothing is held then. */
int med_prefix_cache_init(struct med_prefix_cache *c, int64_t blocks_total, int64_t block_tokens,
                          uint64_t seed) MED_MUST_CHECK;
/* Accepts a zeroed struct. */
void med_prefix_cache_release(struct med_prefix_cache *c);

/* The block that holds `tokens` (block_tokens of them) behind `parent`, or MED_PREFIX_NONE. */
int32_t med_prefix_cache_find(const struct med_prefix_cache *c, int32_t parent, uint64_t salt,
                              const uint32_t *tokens);
/* As find; when there is none, publishes `block` as that one, and returns it.  It is not idle then. */
int32_t med_prefix_cache_publish(struct med_prefix_cache *c, int32_t block, int32_t parent,
                                 uint64_t salt, const uint32_t *tokens);

/* Nobody uses the published block any more: it becomes the newest of the idle. */
void med_prefix_cache_rest(struct med_prefix_cache *c, int32_t block);
/* Somebody uses an idle block again. */
void med_prefix_cache_wake(struct med_prefix_cache *c, int32_t block);
/* Takes the oldest idle block out of the cache; there must be one. */
int32_t med_prefix_cache_evict(struct med_prefix_cache *c);

/* Asserts the invariants that need no knowledge of users. */
void med_prefix_cache_check(const struct med_prefix_cache *c);

#endif
