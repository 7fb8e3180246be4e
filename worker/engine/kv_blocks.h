/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Paged KV bookkeeping: a free list of blocks and one block table per lane.
 *
 * A lane is the place of one running sequence; its table names the blocks that hold its keys and
 * values, in token order.  Only block numbers live here; the memory is the backend's.
 * Invariant: every block is either on the free list once or in one lane's table once.
 * thread: the scheduler's. owns: all arrays, sized at init; nothing is allocated later.
 */
#ifndef MED_WORKER_ENGINE_KV_BLOCKS_H
#define MED_WORKER_ENGINE_KV_BLOCKS_H

#include "base/err.h"

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
    bool *seen;      // [blocks_total], scratch of the check
};

/* errors: MED_E_NOMEM; nothing is held then. */
int med_kv_blocks_init(struct med_kv_blocks *kv, int64_t blocks_total, int64_t lanes,
                       int64_t lane_blocks_max) MED_MUST_CHECK;
/* Accepts a zeroed struct. */
void med_kv_blocks_release(struct med_kv_blocks *kv);

/* Makes the lane hold `count` blocks in all (never fewer than now). False, and nothing is changed,
 * when too few are free. count <= lane_blocks_max. */
bool med_kv_blocks_grow(struct med_kv_blocks *kv, int64_t lane, int64_t count) MED_MUST_CHECK;
/* Gives all blocks of the lane back. */
void med_kv_blocks_drop(struct med_kv_blocks *kv, int64_t lane);
/* The lane's table, med_kv_blocks.counts[lane] entries. */
const int32_t *med_kv_blocks_table(const struct med_kv_blocks *kv, int64_t lane);

/* Asserts the invariant. */
void med_kv_blocks_check(const struct med_kv_blocks *kv);

#endif
