/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The small kernels around the large products: rmsnorm before, bias, rope, SiLU after.
 * Every function queues one kernel. Shapes as in linear.h; dtype of the device.
 * thread: engine. errors: as internal.h.
 */
#ifndef MED_WORKER_CUDA_NORM_H
#define MED_WORKER_CUDA_NORM_H

#include "worker/cuda/linear.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out[r] = rmsnorm(x[x_rows ? x_rows[r] : r], weight): x * rsqrt(mean(x^2) + eps) * weight, sums and
 * products in float32. */
int med_cuda_norm(struct med_cuda *d, int64_t rows, int64_t columns, const void *x,
                  const int32_t *x_rows, const void *weight, float eps, void *out) MED_MUST_CHECK;
/* The epilogue ROPE_KV on raw [rows][outputs] (q, k, v as the product left them): + bias, q and k
 * normed per head if asked for, rope, k and v to the cache, q to a->out. */
int med_cuda_rope_kv(struct med_cuda *d, const struct med_cuda_linear_args *a,
                     const void *raw) MED_MUST_CHECK;
/* The epilogue SWIGLU on raw [rows][2 * intermediate]: out = silu(gate + bias) * (up + bias). */
int med_cuda_swiglu(struct med_cuda *d, const struct med_cuda_linear_args *a,
                    const void *raw) MED_MUST_CHECK;
/* out[r] += bias */
int med_cuda_add_bias(struct med_cuda *d, int64_t rows, int64_t columns, const void *bias,
                      void *out) MED_MUST_CHECK;

#ifdef __cplusplus
}
#endif

#endif
