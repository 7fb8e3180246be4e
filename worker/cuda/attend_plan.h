/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention's plan: which tokens of which row a block of attend.h's kernels works on.  No CUDA here.
 *
 * Decodes: the tokens that a row sees are cut into parts of at most C tokens, where C is the smallest
 * multiple of 16, and at least MED_CUDA_ATTEND_CUT_MIN, by which all rows of the batch need no more parts
 * than the shape has.  So the longest part is as short as the launch allows, be the contexts equal
 * or not.  Prefills: tiles of MED_CUDA_ATTEND_TILE rows, those that see most first.
 *
 * deterministic: every row is cut at multiples of MED_CUDA_ATTEND_CUT of the sequence's tokens, whatever
 * the batch.  Where the shape has not as many parts, a part is a whole row: its block then goes from
 * cut to cut and merges as the last of several blocks would.
 *
 * thread: any; pure.
 */
#ifndef MED_WORKER_CUDA_ATTEND_PLAN_H
#define MED_WORKER_CUDA_ATTEND_PLAN_H

#include "worker/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifndef MED_CUDA_ATTEND_BLOCKS
# define MED_CUDA_ATTEND_BLOCKS 400 /* of attend_decode.cu at least: three per multiprocessor */
#endif
#ifndef MED_CUDA_ATTEND_STREAM_BLOCKS
# define MED_CUDA_ATTEND_STREAM_BLOCKS 800 /* of attend_stream.cu, whose blocks are small: six */
#endif
#ifndef MED_CUDA_ATTEND_CUT_MIN
# define MED_CUDA_ATTEND_CUT_MIN 64 /* tokens; one round of a block's warps */
#endif
enum {
    MED_CUDA_ATTEND_CUT = 256, /* deterministic; a multiple of a round of a block's warps */
    MED_CUDA_ATTEND_TILE = 128 /* rows of a prefill tile */
};

/* One part of a decode: tokens [begin, end) of the keys that row sees, or more: the kernel looks at the
 * window of its layer. */
struct med_cuda_decode_part {
    int32_t row, item;   /* row -1: no work */
    int32_t begin, end;  /* tokens of the item's sequence */
    int32_t part, parts; /* this one of the row's; parts 1: nothing to merge */
    int32_t merge;       /* index of the row's counter and first partial result */
    int32_t table;       /* where the item's block table begins, as the batch's table_begins */
    int32_t position;    /* of the row in the sequence */
    int32_t context;     /* tokens that were in the cache before this batch */
    int32_t unused[2];
};

/* One tile of a prefill: rows [row, row + rows) of an item, which lies at `position` in it. */
struct med_cuda_prefill_tile {
    int32_t row, rows, item, position; /* position of the tile's first row in the sequence */
};

/* What the launches of a batch need to know on the host; part of what a recording depends on. */
struct med_cuda_attend_shape {
    int64_t decode_parts;  /* blocks of the decode launch per head, or kv head; 0: none */
    int64_t prefill_tiles; /* 0: none */
    bool streams;          /* decodes are attend_stream.cu's, a block per head */
};

/* What plans depend on besides the batch. */
struct med_cuda_attend_limits {
    bool deterministic;
    int64_t kv_heads, block_tokens, rows_max, items_max;
    int64_t window; /* of every layer; 0: a layer sees all */
    int64_t heads;
    int64_t stream_items; /* as many decodes at most are attend_stream.cu's */
};

/* Partial results that any batch can need at a time. */
int64_t med_cuda_attend_partials_max(const struct med_cuda_attend_limits *l);
/* Of any batch. */
struct med_cuda_attend_shape med_cuda_attend_shape_max(const struct med_cuda_attend_limits *l);
/* Of a decode batch of so many items. */
struct med_cuda_attend_shape med_cuda_attend_shape_for(const struct med_cuda_attend_limits *l,
                                                       int64_t items);
/* Fills staging with parts, then tiles; see med_cuda_attend_plan. */
struct med_cuda_attend_shape med_cuda_attend_plan_make(const struct med_cuda_attend_limits *l,
                                                       const struct med_ops_batch *host,
                                                       int64_t padded_items, void *staging,
                                                       size_t *ret_bytes);

#ifdef __cplusplus
}
#endif

#endif
