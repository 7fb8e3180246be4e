/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Weights from a mapped checkpoint to the GPU.
 *
 * Threads copy pieces of the mapping into pinned buffers while the GPU fetches those already full, over
 * several streams; a checkpoint in the page cache moves at the rate of the bus.  Weights of another
 * dtype than the device's are converted on the GPU.  q, k and v of a layer become one matrix, gate and
 * up another, their biases alike: the struct med_weight of each points into it.
 *
 * thread: engine (its helpers only copy). errors: as internal.h.
 */
#ifndef MED_WORKER_CUDA_LOAD_H
#define MED_WORKER_CUDA_LOAD_H

#include "worker/cuda/internal.h"

#ifdef __cplusplus
extern "C" {
#endif

int med_cuda_loader_new(struct med_cuda *d);
void med_cuda_loader_free(struct med_cuda *d);

int med_cuda_load(void *device, const struct med_weight *host, struct med_weight *ret_weight);
int med_cuda_load_layer(void *device, const struct med_layer_weights *host,
                        struct med_layer_weights *ret_layer);
int med_cuda_load_end(void *device);
void med_cuda_unload(void *device, struct med_weight *weight);
void med_cuda_unload_layer(void *device, struct med_layer_weights *layer);

#ifdef __cplusplus
}
#endif

#endif
