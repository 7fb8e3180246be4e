/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A batch's arrays from pinned memory to the device, by a kernel: for the few KiB of a step a copy
 * engine takes longer to be set to work than the copy takes.
 * thread: engine. errors: as internal.h.
 */
#ifndef MED_WORKER_CUDA_FETCH_H
#define MED_WORKER_CUDA_FETCH_H

#include "worker/cuda/internal.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Queues to[..bytes] = from[..bytes]; both are aligned to 16 bytes and as long as bytes rounded up to
 * that. from: pinned host memory, unchanged until the kernel is done. */
int med_cuda_fetch(struct med_cuda *d, void *to, const void *from, size_t bytes) MED_MUST_CHECK;

#ifdef __cplusplus
}
#endif

#endif
