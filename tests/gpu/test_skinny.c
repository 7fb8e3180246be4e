/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of up to 128 rows (worker/cuda/skinny.h) against double precision: every epilogue and dtype,
 * sizes that fill no tile, odd numbers of rows; padded rows write nothing to the cache; a row's result
 * is the same bits however many rows there are and wherever among them it stands.
 */
#include "tests/gpu/product.h"
#include "worker/cuda/skinny.h"

#include <stdlib.h>

static int compute(struct med_cuda *d, const struct med_cuda_linear_args *a)
{
    if (!med_cuda_skinny_takes(d, a))
        return med_err_set(&d->failure, MED_E_INVALID, "is not taken");
    return med_cuda_skinny(d, a);
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

static void check_turns(struct med_cuda *d, const struct product_shape *shape, enum med_dtype dtype)
{
    static const int64_t turns[] = {1, 3, 8, 15, 16, 31, 32, 50, 64, 100, 128};
    struct product *p = product_new(shape, dtype);
    product_check_turns(d, "turns", compute, p, turns, sizeof turns / sizeof *turns);
    product_free(p);
}

static void check_shapes(struct med_cuda *d, enum med_dtype dtype, bool quick)
{
    static const struct product_shape shapes[] = {
        {MED_CUDA_ADD, 1, 40, 33, 0, 0, 0, false, true, false},
        {MED_CUDA_ADD, 3, 8, 1, 0, 0, 0, false, false, false},
        {MED_CUDA_ADD, 129, 56, 31, 0, 0, 0, false, false, false},
        {MED_CUDA_ADD, 300, 72, 129, 0, 0, 0, false, true, false},
        {MED_CUDA_ROPE_KV, 6, 40, 0, 3, 3, 48, false, false, false},
        {MED_CUDA_ROPE_KV, 11, 104, 0, 3, 1, 32, false, true, false},
        {MED_CUDA_SWIGLU, 2, 48, 48, 0, 0, 0, false, true, false},
        {MED_CUDA_SWIGLU, 33, 200, 272, 0, 0, 0, false, false, false},
        {MED_CUDA_LOGITS, 3, 56, 17, 0, 0, 0, false, false, false},
        {MED_CUDA_ADD, 8, 11008, 250, 0, 0, 0, false, false, false},
        {MED_CUDA_ADD, 31, 1032, 2120, 0, 0, 0, false, true, false},
        {MED_CUDA_ADD, 64, 512, 4096, 0, 0, 0, false, false, false},
        {MED_CUDA_ADD, 128, 4096, 300, 0, 0, 0, false, false, false},
        {MED_CUDA_ROPE_KV, 17, 4096, 0, 2, 1, 128, false, false, false},
        {MED_CUDA_ROPE_KV, 37, 896, 0, 14, 2, 64, false, true, false},
        {MED_CUDA_ROPE_KV, 128, 128, 0, 5, 2, 80, false, true, false},
        {MED_CUDA_ROPE_KV, 9, 264, 0, 3, 1, 256, false, false, false},
        {MED_CUDA_SWIGLU, 16, 264, 22016, 0, 0, 0, false, false, false},
        {MED_CUDA_SWIGLU, 65, 896, 1936, 0, 0, 0, false, true, false},
        {MED_CUDA_LOGITS, 5, 4096, 2103, 0, 0, 0, false, false, false},
        {MED_CUDA_LOGITS, 50, 896, 3100, 0, 0, 0, false, false, false},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (!quick || shapes[i].columns * shapes[i].outputs < 1 << 14)
            check_product(d, &shapes[i], dtype);
    }
    static const struct product_shape turns[] = {
        {MED_CUDA_ADD, 128, 11008, 520, 0, 0, 0, false, false, false},
        {MED_CUDA_ADD, 128, 4096, 4096, 0, 0, 0, false, false, false},
        {MED_CUDA_ROPE_KV, 100, 4096, 0, 8, 2, 128, false, true, false},
        {MED_CUDA_SWIGLU, 128, 904, 2512, 0, 0, 0, false, false, false},
        {MED_CUDA_LOGITS, 128, 904, 5000, 0, 0, 0, false, false, false}};
    for (size_t i = 0; i < sizeof turns / sizeof *turns && !quick; i++)
        check_turns(d, &turns[i], dtype);
}

int main(void)
{
    bool quick = getenv("GPU_QUICK") != NULL;
    struct med_model_config model = gpu_model(64, 2, 2, 32, 64, 64);
    struct med_cuda_config config = {0};
    struct med_ops_sizes sizes = {&model, MED_DTYPE_BF16, MED_DTYPE_BF16, 128, 8, 8, 64, 16};
    struct med_cuda *d = gpu_device(&config, &sizes);
    if (med_cuda_skinny_new(d) < 0)
        (void)gpu_report("new", false, "%s", d->failure.text);
    check_shapes(d, MED_DTYPE_BF16, quick);
    check_shapes(d, MED_DTYPE_F16, quick);
    struct med_cuda_linear_args a = {
        .rows = 9, .columns = 60, .outputs = 64, .dtype = MED_DTYPE_BF16};
    bool takes_60 = med_cuda_skinny_takes(d, &a);
    a.columns = 64;
    a.dtype = MED_DTYPE_F32;
    (void)gpu_report("takes", !takes_60 && !med_cuda_skinny_takes(d, &a),
                     "neither 60 columns nor float32");
    med_cuda_skinny_free(d);
    med_cuda_free(d);
    return gpu_finish();
}
