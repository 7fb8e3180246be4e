/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention of single rows where no query heads share a key, or few keys are read: see attend_stream.cu.
 * thread: engine. errors: as internal.h.
 */
#ifndef MED_WORKER_CUDA_ATTEND_STREAM_H
#define MED_WORKER_CUDA_ATTEND_STREAM_H

#include "worker/cuda/attend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The parts of the plan at hand.  Activations and cache are of the same 16-bit type, head_dim is a multiple
 * of 8 up to 128, blocks have a power of two tokens; not deterministic, where a part may hold several
 * cuts. */
int med_cuda_attend_stream(struct med_cuda *d, const struct med_attend_args *a) MED_MUST_CHECK;

#ifdef __cplusplus
}
#endif

#endif
