/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Draws tokens from logits on the GPU, by the rules of worker/engine/sampling.h.
 *
 * The host turns each row's struct med_draw_input into a few numbers and a list of edits (biases,
 * masked ids, ids with their counts for the penalties); these travel in one copy, the results in one
 * copy back.  The drawn ids also stay on the device, where the next batch's embed finds them
 * (struct med_ops_batch.sources).
 * thread: engine. errors: as internal.h.
 */
#ifndef MED_WORKER_CUDA_SAMPLE_H
#define MED_WORKER_CUDA_SAMPLE_H

#include "worker/cuda/internal.h"

#ifdef __cplusplus
extern "C" {
#endif

size_t med_cuda_sampler_bytes(const struct med_ops_sizes *sizes); /* on the device */
int med_cuda_sampler_new(struct med_cuda *d);
void med_cuda_sampler_free(struct med_cuda *d);
/* [samples_max] ids of the last batch that was drawn; a fixed address on the device. */
const uint32_t *med_cuda_sampler_ids(const struct med_cuda *d);
/* After the event of `slot` has come: turns what came back into the results that med_cuda_sample was
 * given for this slot. */
void med_cuda_sample_take(struct med_cuda *d, int slot);

#ifdef __cplusplus
}
#endif

#endif
