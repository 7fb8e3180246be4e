/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention over the paged cache (struct med_attend_args of worker/ops.h).
 *
 * Items of one row (decodes) go to attend_decode.cu: the keys of an item are cut into parts, so that
 * all multiprocessors have work however long the contexts; the query heads of one kv head share each
 * key that is read; the block that is done last merges the parts by log-sum-exp.  Items of more rows
 * (prefills) go to attend_prefill.cu: tiles of queries against the keys they see, on tensor cores,
 * the keys read once per tile and kv head.
 *
 * Which part of which item a block works on is in a plan, made on the host for every batch and taken to
 * the device with the batch (med_cuda_attend_plan), so that a recorded graph serves every context: the
 * launch has as many blocks as the largest plan for so many items, and those without work leave.
 *
 * deterministic: every row is a decode, cut at fixed multiples of tokens.
 *
 * thread: engine. errors: as internal.h.
 * source: FlashAttention-2 (arXiv 2307.08691), Flash-Decoding, PagedAttention (SOSP'23).
 */
#ifndef MED_WORKER_CUDA_ATTEND_H
#define MED_WORKER_CUDA_ATTEND_H

#include "worker/cuda/attend_plan.h"
#include "worker/cuda/internal.h"

#ifdef __cplusplus
extern "C" {
#endif

struct med_cuda_attention {
    /* On the device, in the recorder's memory, filled with every batch.  run sets both before forward (new
     * leaves them NULL): the plan's parts, as many as the shape says, and right behind them its tiles. */
    const struct med_cuda_decode_part *parts;  // [decode_parts_max]
    const struct med_cuda_prefill_tile *tiles; // [prefill_tiles_max]
    struct med_cuda_attend_shape shape;        /* of the batch at hand (padded) */
    int64_t decode_parts_max, prefill_tiles_max;
    struct med_cuda_attend_limits limits;
    /* Partial results of decodes: (head_dim + 2) floats, sums, then the largest score and the sum of
     * weights; counters are zero between launches. */
    float *partials;    // [partials_max][heads][head_dim + 2]
    uint32_t *counters; // [partials_max][heads]
};

/* The window that every layer has; 0: a layer has none. */
int64_t med_cuda_attend_window(const struct med_model_config *model);
/* Device bytes of partials and counters. */
size_t med_cuda_attend_bytes(const struct med_ops_sizes *sizes);
int med_cuda_attend_new(struct med_cuda *d);
void med_cuda_attend_free(struct med_cuda *d);

/* Bytes of the largest plan: parts, then tiles (both 16-byte aligned). */
size_t med_cuda_attend_plan_bytes(const struct med_cuda *d);
/* Launch sizes for a decode batch of `items` padded items: what a recording is made with. */
struct med_cuda_attend_shape med_cuda_attend_shape_of(const struct med_cuda *d, int64_t items);
/* Writes the plan of a host batch to `staging` (host memory of plan_bytes), which the caller copies to
 * d->attention->parts; parts beyond those needed, up to the shape's, are written with row -1.
 * padded_items: 0, or this is a recorded decode batch of so many. Pure but for staging. */
struct med_cuda_attend_shape med_cuda_attend_plan(const struct med_cuda *d,
                                                  const struct med_ops_batch *host,
                                                  int64_t padded_items, void *staging,
                                                  size_t *ret_bytes);

/* The parts, and the tiles, of the plan at hand. */
int med_cuda_attend_decode(struct med_cuda *d, const struct med_attend_args *a) MED_MUST_CHECK;
int med_cuda_attend_prefill(struct med_cuda *d, const struct med_attend_args *a) MED_MUST_CHECK;

#ifdef __cplusplus
}
#endif

#endif
