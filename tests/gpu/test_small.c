/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of few rows (worker/cuda/small.h) against double precision: every epilogue, dtype and number
 * of rows, sizes that fill no tile, with and without norm, bias and permuted rows; padded rows write
 * nothing to the cache; a row's result is the same bits whatever is beside it.
 */
#include "tests/gpu/product.h"
#include "worker/cuda/small.h"

#include <stdlib.h>

static int compute(struct med_cuda *d, const struct med_cuda_linear_args *a)
{
    if (!med_cuda_small_takes(d, a))
        return med_err_set(&d->failure, MED_E_INVALID, "is not taken");
    return med_cuda_small(d, a);
}

static void check_product(struct med_cuda *d, const struct product_shape *shape,
                          enum med_dtype dtype)
{
    char name[128];
    struct product *p = product_new(shape, dtype);
    product_name(p, name, sizeof name);
    product_reference(p, false);
    product_check(d, name, compute, p);
    product_free(p);
}

static void check_alone(struct med_cuda *d, const struct product_shape *shape, enum med_dtype dtype)
{
    static const int64_t turns[] = {1};
    struct product *p = product_new(shape, dtype);
    product_check_turns(d, "alone", compute, p, turns, 1);
    product_free(p);
}

static void check_shapes(struct med_cuda *d, enum med_dtype dtype, bool quick)
{
    static const struct product_shape shapes[] = {
        {MED_CUDA_ADD, 1, 40, 33, 0, 0, 0, false, true, false},
        {MED_CUDA_ADD, 3, 8, 1, 0, 0, 0, false, false, false},
        {MED_CUDA_ADD, 8, 11008, 250, 0, 0, 0, false, false, false},
        {MED_CUDA_ADD, 1, 1032, 2120, 0, 0, 0, false, true, false},
        {MED_CUDA_ADD, 5, 520, 4096, 0, 0, 0, true, false, false},
        {MED_CUDA_ADD, 7, 4096, 1100, 0, 0, 0, false, false, false},
        {MED_CUDA_ROPE_KV, 1, 4096, 0, 2, 1, 128, true, false, false},
        {MED_CUDA_ROPE_KV, 8, 896, 0, 14, 2, 64, true, true, false},
        {MED_CUDA_ROPE_KV, 6, 40, 0, 3, 3, 10, true, false, false},
        {MED_CUDA_ROPE_KV, 4, 4096, 0, 8, 2, 128, true, false, false},
        {MED_CUDA_SWIGLU, 1, 264, 22016, 0, 0, 0, true, false, false},
        {MED_CUDA_SWIGLU, 8, 896, 9728, 0, 0, 0, true, false, false},
        {MED_CUDA_SWIGLU, 2, 48, 26, 0, 0, 0, true, true, false},
        {MED_CUDA_SWIGLU, 8, 4096, 1034, 0, 0, 0, true, false, false},
        {MED_CUDA_LOGITS, 1, 4096, 2103, 0, 0, 0, true, false, false},
        {MED_CUDA_LOGITS, 8, 896, 9100, 0, 0, 0, true, false, false},
        {MED_CUDA_LOGITS, 8, 4096, 300, 0, 0, 0, true, false, false},
        {MED_CUDA_LOGITS, 3, 56, 17, 0, 0, 0, false, false, false},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (!quick || shapes[i].columns * shapes[i].outputs < 1 << 16)
            check_product(d, &shapes[i], dtype);
    }
    for (int rows = 1; rows <= MED_CUDA_SMALL_ROWS; rows++) {
        struct product_shape all[] = {
            {MED_CUDA_ADD, rows, 904, 105, 0, 0, 0, false, true, false},
            {MED_CUDA_ROPE_KV, rows, 328, 0, 2, 1, 32, true, false, false},
            {MED_CUDA_SWIGLU, rows, 1032, 94, 0, 0, 0, true, false, false},
            {MED_CUDA_LOGITS, rows, 264, 131, 0, 0, 0, true, false, false}};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            check_product(d, &all[i], dtype);
    }
}

int main(void)
{
    bool quick = getenv("GPU_QUICK") != NULL;
    struct med_model_config model = gpu_model(64, 2, 2, 32, 64, 64);
    struct med_cuda_config config = {0};
    struct med_ops_sizes sizes = {&model, MED_DTYPE_BF16, MED_DTYPE_BF16, 8, 8, 8, 64, 16};
    static const enum med_dtype dtypes[] = {MED_DTYPE_BF16, MED_DTYPE_F16, MED_DTYPE_F32};
    static const struct product_shape alone[] = {
        {MED_CUDA_ADD, 8, 11008, 520, 0, 0, 0, false, false, false},
        {MED_CUDA_SWIGLU, 8, 4096, 2500, 0, 0, 0, true, false, false},
        {MED_CUDA_LOGITS, 7, 904, 500, 0, 0, 0, true, false, false}};
    struct med_cuda *d = gpu_device(&config, &sizes);
    if (med_cuda_small_new(d) < 0)
        (void)gpu_report("new", false, "%s", d->failure.text);
    for (int i = 0; i < 3; i++) {
        check_shapes(d, dtypes[i], quick || dtypes[i] == MED_DTYPE_F32);
        for (size_t k = 0; k < sizeof alone / sizeof *alone && !quick; k++)
            check_alone(d, &alone[k], dtypes[i]);
    }
    struct med_cuda_linear_args a = {.rows = 9, .columns = 64, .outputs = 64};
    bool takes_9 = med_cuda_small_takes(d, &a);
    a.rows = 8;
    a.columns = 60;
    (void)gpu_report("takes", !takes_9 && !med_cuda_small_takes(d, &a),
                     "neither 9 rows nor 60 columns");
    med_cuda_free(d);
    return gpu_finish();
}
