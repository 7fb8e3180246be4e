/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of activations with a weight matrix, and what is fused around them.
 *
 *     out = epilogue(rmsnorm(in, norm)? W' + bias)
 *
 * linear.cu chooses by rows:
 *     1 .. SMALL   small.cu:  reads W once at the rate of the memory bus, norm fused
 *     .. SKINNY    skinny.cu: the same with tensor cores on tiles of W; `in` is normed before
 *     more         blas.cu:   cuBLASLt, norm before and epilogue after it by kernels of norm.cu
 * and in deterministic mode always one kernel whose order of sums depends on the model alone.  Norms of
 * q and k per head stand between the product and rope: then the product is stored as it is, by
 * whichever kernel, and norm.cu does the rest.
 *
 * The epilogue works on pairs of outputs (rope turns two, SiLU multiplies two), so our kernels compute
 * two rows of W at a time that belong together, wherever they lie in W:
 *     ADD       rows n and n + 8 (or any): x[m][n] += y + bias, or = with `stores`
 *     ROPE_KV   rows i and i + head_dim / 2 of one head
 *     SWIGLU    row i of gate and row i of up
 *     LOGITS    float32 out, no bias
 * W of ROPE_KV is q, k and v stacked, [(heads + 2 kv_heads) * head_dim][hidden]; of SWIGLU gate and up
 * stacked, [2 * intermediate][hidden] (load.h packs them so).  The bias is stacked alike.
 *
 * Sums are float32; y is rounded once, at the end of the epilogue; what blas.cu leaves to a kernel behind
 * it, or adds to x, is rounded before that too.
 * thread: engine. errors: as internal.h. source: docs/internals/cuda.md.
 */
#ifndef MED_WORKER_CUDA_LINEAR_H
#define MED_WORKER_CUDA_LINEAR_H

#include "worker/cuda/internal.h"

#ifdef __cplusplus
extern "C" {
#endif

enum med_cuda_epilogue {
    MED_CUDA_ADD,
    MED_CUDA_ROPE_KV,
    MED_CUDA_SWIGLU,
    MED_CUDA_LOGITS,
    MED_CUDA_EPILOGUE_COUNT
};

struct med_cuda_linear_args {
    int64_t rows, columns; /* of `in`; columns a multiple of 8, else only the plain path takes it */
    int64_t outputs;       /* rows of W */
    const void *in;        // [..][columns] of dtype
    const int32_t *in_rows; // [rows] rows of `in`, or NULL: 0, 1, ...; LOGITS alone
    const void *norm;       // [columns] of dtype, or NULL: `in` is taken as it is
    float eps;
    const void *weight; // [outputs][columns] of dtype
    const void *bias;   // [outputs] of dtype, or NULL
    enum med_dtype dtype;
    enum med_cuda_epilogue epilogue;
    bool stores; // ADD alone: out is written, not added to
    void *out;   /* ADD: x [rows][outputs], in and out; ROPE_KV: q [rows][heads * head_dim];
                * SWIGLU: [rows][outputs / 2]; LOGITS: float [rows][outputs] */

    /* ROPE_KV alone. */
    int64_t heads, kv_heads, head_dim;
    const void *q_norm, *k_norm; // [head_dim] of dtype, or NULL (then both)
    const int32_t *positions;    // [rows]
    const float *frequencies;    // [head_dim / 2]
    const int32_t *slots;        // [rows]; -1: nothing is written to the cache
    struct med_kv_layer kv;
};

/* Scratch of small.cu and skinny.cu: partial sums and their counters. */
size_t med_cuda_linear_bytes(const struct med_ops_sizes *sizes);
int med_cuda_linear_new(struct med_cuda *d);
void med_cuda_linear_free(struct med_cuda *d);

/* Who computes a product without q_norm, by rows, dtype and mode. */
enum med_cuda_linear_way {
    MED_CUDA_LINEAR_SMALL,
    MED_CUDA_LINEAR_SKINNY,
    MED_CUDA_LINEAR_BLAS,
    MED_CUDA_LINEAR_PLAIN
};
enum med_cuda_linear_way med_cuda_linear_choose(const struct med_cuda *d,
                                                const struct med_cuda_linear_args *a);

/* Chooses; every op with a product calls this. */
int med_cuda_linear(struct med_cuda *d, const struct med_cuda_linear_args *a) MED_MUST_CHECK;

/* Each returns whether it takes these arguments on this GPU (dtype, columns, rows, epilogue: no
 * q_norm in small and skinny), and computes them. */
bool med_cuda_small_takes(const struct med_cuda *d, const struct med_cuda_linear_args *a);
int med_cuda_small(struct med_cuda *d, const struct med_cuda_linear_args *a) MED_MUST_CHECK;
bool med_cuda_skinny_takes(const struct med_cuda *d, const struct med_cuda_linear_args *a);
int med_cuda_skinny(struct med_cuda *d, const struct med_cuda_linear_args *a) MED_MUST_CHECK;

#ifdef __cplusplus
}
#endif

#endif
