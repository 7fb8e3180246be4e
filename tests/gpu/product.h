/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One product as the ops ask for it (worker/cuda/linear.h), what it should give, and how near to that
 * it must come: what the tests of the ways to compute products share.
 *
 * Allowed: one rounding to the output's dtype, and 2^-16 (float32: 2^-20) of the largest sum of
 * |products| for sums in float32.  With a norm each value of a row is rounded once, after its scale or
 * before it: the difference of two roundings has a standard deviation of at most 0.41 steps of the
 * dtype, and six of those of the sum are allowed.
 * thread: main.
 */
#ifndef MED_TESTS_GPU_PRODUCT_H
#define MED_TESTS_GPU_PRODUCT_H

#include "tests/gpu/gpu.h"
#include "worker/cuda/linear.h"

enum {
    PRODUCT_ROWS_MAX = 600
};

struct product_shape {
    enum med_cuda_epilogue epilogue;
    int64_t rows, columns, outputs; /* outputs: of ROPE_KV from the heads */
    int64_t heads, kv_heads, head_dim;
    bool norm, bias, q_norm;
};

struct product {
    struct product_shape shape;
    enum med_dtype dtype;
    struct gpu_array in, norm, weight, bias, x, frequencies, q_norm, k_norm, keys, values;
    struct gpu_array out;
    int32_t *in_rows, *positions, *slots; /* on the device */
    int32_t host_in_rows[PRODUCT_ROWS_MAX], host_positions[PRODUCT_ROWS_MAX];
    int32_t host_slots[PRODUCT_ROWS_MAX];
    double *want;
    double absolute; /* allowed */
    double rounded;  /* and where the product is rounded before it is added to x */
};

/* Random numbers of this shape; free. */
struct product *product_new(const struct product_shape *shape, enum med_dtype dtype);
void product_free(struct product *p);
/* Its rows from `row` on. */
struct med_cuda_linear_args product_arguments(const struct product *p, int64_t row, int64_t rows);
/* Computes want, the cache as it should be, and absolute. rounds: a way may round the raw product to
 * the dtype before what the epilogue does besides. */
void product_reference(struct product *p, bool rounds);
/* "add.bf16.8x33x40.norm.bias" */
void product_name(const struct product *p, char *name, size_t size);

/* Computes on d->stream; < 0: d->failure says why. */
typedef int (*product_fn)(struct med_cuda *d, const struct med_cuda_linear_args *a);

/* Computes and waits; a failure is reported under the name. */
bool product_compute(struct med_cuda *d, const char *name, product_fn fn,
                     const struct med_cuda_linear_args *a);
/* Computes all rows, and compares output and cache with the reference, which must be there. */
void product_check(struct med_cuda *d, const char *name, product_fn fn, struct product *p);
/* All rows together, then in turns of so many: the same bits. */
void product_check_turns(struct med_cuda *d, const char *prefix, product_fn fn, struct product *p,
                         const int64_t *turns, size_t count);

#endif
