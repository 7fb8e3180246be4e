/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuBLASLt for products of many rows: out [rows][outputs] = in [rows][columns] W' (+ out).
 *
 * The algorithm of a product is chosen by timing what the library proposes, on this GPU, once per
 * (dtype, outputs, columns, class of rows, beta); what was found is kept in a file of cache_dir named
 * after GPU, driver and library version, so that the next start is quick.  Timing happens in
 * med_cuda_blas_tune, before the worker is READY; a step only looks up.
 *
 * thread: engine. errors: as internal.h; a cache file that cannot be read or is not of this GPU is
 * left aside with a warning, never a failure.
 */
#ifndef MED_WORKER_CUDA_BLAS_H
#define MED_WORKER_CUDA_BLAS_H

#include "worker/cuda/linear.h"

#ifdef __cplusplus
extern "C" {
#endif

struct med_cuda_product {
    int64_t rows, columns, outputs;
    const void *in;                  // [rows][columns] of dtype
    const void *weight;              // [outputs][columns] of dtype
    void *out;                       // [rows][outputs] of out_dtype
    enum med_dtype dtype, out_dtype; /* out_dtype: dtype, or F32 */
    bool adds;                       /* out += instead of out = */
};

size_t med_cuda_blas_bytes(const struct med_ops_sizes *sizes); /* its workspace */
int med_cuda_blas_new(struct med_cuda *d);
void med_cuda_blas_free(struct med_cuda *d);
/* Remembers that the model asks for this product, and where such weights are: what tune goes by. Does
 * nothing after tune. */
void med_cuda_blas_note(struct med_cuda *d, const struct med_cuda_linear_args *a);
/* Times (or finds in the cache) the algorithms of every product that was noted, for up to
 * sizes.rows_max rows, as far as linear.h gives them to cuBLASLt; writes the cache.  Uses weights that
 * are loaded and the intermediate results of internal.h as scratch. */
int med_cuda_blas_tune(struct med_cuda *d) MED_MUST_CHECK;
int med_cuda_blas(struct med_cuda *d, const struct med_cuda_product *p) MED_MUST_CHECK;

#ifdef __cplusplus
}
#endif

#endif
