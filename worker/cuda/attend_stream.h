/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention of single rows where no query heads share a key: see attend_stream.cu.
 * thread: engine. errors: as internal.h.
 */
#ifndef MED_WORKER_CUDA_ATTEND_STREAM_H
#define MED_WORKER_CUDA_ATTEND_STREAM_H

#include "worker/cuda/attend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whether it takes them: activations and cache in the same 16-bit type, as many kv heads as heads, head_dim a
 * multiple of 8 up to 128, blocks of a power of two tokens; not deterministic, where a part may hold
 * several cuts. */
bool med_cuda_attend_stream_takes(const struct med_cuda *d, const struct med_attend_args *a);
/* The parts of the plan at hand. */
int med_cuda_attend_stream(struct med_cuda *d, const struct med_attend_args *a) MED_MUST_CHECK;

#ifdef __cplusplus
}
#endif

#endif
