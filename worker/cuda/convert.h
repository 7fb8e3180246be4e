/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers of one dtype into another, on the GPU.
 * thread: any that has the context current. errors: CUDA's own; nothing is cleared.
 */
#ifndef MED_WORKER_CUDA_CONVERT_H
#define MED_WORKER_CUDA_CONVERT_H

#include "worker/model/dtype.h"

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

/* to[i] = from[i], rounded to nearest even; `from` may be pinned host memory. Queues one kernel; the two
 * arrays are aligned to their element. */
cudaError_t med_cuda_convert(cudaStream_t stream, const void *from, enum med_dtype from_dtype,
                             void *to, enum med_dtype to_dtype, size_t count);

#ifdef __cplusplus
}
#endif

#endif
