/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of worker/cuda share: the device, the batch as it lies on the device, and the parts
 * that a device is made of.  Valid as C17 and as C++17.
 *
 * One stream; everything is queued on it in the order of the calls.  A part (matrix products,
 * attention, sampling, loading, recording) keeps its memory in a struct of its own, taken in prepare;
 * an op allocates nothing and never synchronises.
 *
 * thread: engine.
 */
#ifndef MED_WORKER_CUDA_INTERNAL_H
#define MED_WORKER_CUDA_INTERNAL_H

#include "worker/cuda/cuda.h"

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

struct med_cuda_blas;      /* blas.h */
struct med_cuda_attention; /* attend.h */
struct med_cuda_sampler;   /* sample.h */
struct med_cuda_loader;    /* load.h */
struct med_cuda_recorder;  /* record.h */
struct med_cuda_linear;    /* linear.h */
struct med_cuda_skinny;    /* skinny.h */

/* The batch at hand on the device: fixed addresses, filled by run before the ops. */
struct med_cuda_batch {
    struct med_ops_batch on_device; /* padded sizes; tables NULL: see table_begins */
    /* Block tables are packed: item i's begins at tables[table_begins[i]]. */
    const int32_t *tables;       // [..]
    const int32_t *table_begins; // [items]
};

struct med_cuda {
    struct med_cuda_config config;
    struct med_cuda_facts facts;
    int compute;             /* 80, 86, 89, 90 */
    size_t shared_bytes_max; /* of a block, opted in */
    cudaStream_t stream;
    bool pdl;    /* launches overlap with the end of the kernel before (compute >= 90) */
    bool failed; /* sticky; `failure` says why */
    struct med_err failure;

    enum med_dtype dtype; /* of weights and activations, from prepare on */
    struct med_ops_sizes sizes;
    struct med_model_config model; /* sizes.model points here */

    /* Intermediate results of the large products, in dtype. */
    void *normed;  // [rows_max][hidden]: rmsnorm(x)
    void *qkv;     // [rows_max][(heads + 2 kv_heads) * head_dim]: q, k, v before rope
    void *gate_up; // [rows_max][2 * intermediate]: gate, then up

    struct med_cuda_batch batch;
    struct med_cuda_blas *blas;
    struct med_cuda_linear *linear;
    struct med_cuda_skinny *skinny;
    struct med_cuda_attention *attention;
    struct med_cuda_sampler *sampler;
    struct med_cuda_loader *loader;
    struct med_cuda_recorder *recorder;
    struct med_cuda_stats stats;
};

/* Records the first failure and returns MED_E_CUDA; see check.h. */
int med_cuda_fail(struct med_cuda *d, const char *file, int line, const char *what,
                  const char *why);

/* Device memory of the parts: zeroed, there when it returns; MED_E_NOMEM breaks nothing.  release takes
 * NULL, and leaves the memory of a failed device alone (see cuda.h): a part's own free does so too with
 * whatever else it has on the device. */
int med_cuda_alloc(void *device, size_t bytes, void **ret_memory);
void med_cuda_release(void *device, void *memory);

/* The ops, one pair of files each. */
int med_cuda_embed(void *device, const struct med_embed_args *args);
int med_cuda_qkv(void *device, const struct med_qkv_args *args);
int med_cuda_attend(void *device, const struct med_attend_args *args);
int med_cuda_project(void *device, const struct med_project_args *args);
int med_cuda_gate_up(void *device, const struct med_gate_up_args *args);
int med_cuda_head(void *device, const struct med_head_args *args);
int med_cuda_sample(void *device, const struct med_sample_args *args);

#ifdef __cplusplus
}
#endif

#endif
