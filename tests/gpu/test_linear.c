/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products as the ops ask for them (worker/cuda/linear.h), whoever computes them: every epilogue and
 * dtype over numbers of rows around the borders between kernels, sizes that fill no tile, norms of q
 * and k, permuted rows, padded rows; before and after cuBLASLt's algorithms were timed; and in
 * deterministic mode, where a row must be the same bits in any company.
 *
 * Allowed: what product.h says, the raw product rounded before an epilogue apart included.
 */
#include "tests/gpu/product.h"
#include "worker/cuda/blas.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROWS_MAX = PRODUCT_ROWS_MAX,
    HIDDEN = 1032,
    HEADS = 14,
    KV_HEADS = 2,
    HEAD_DIM = 64,
    INTERMEDIATE = 1048
};

static const char *way_name(const struct med_cuda *d, struct med_cuda_linear_args a)
{
    static const char *names[] = {"small", "skinny", "blas", "plain"};
    if (a.q_norm) {
        a.q_norm = a.k_norm = NULL;
        a.epilogue = MED_CUDA_ADD;
    }
    return names[med_cuda_linear_choose(d, &a)];
}

static void check_product(struct med_cuda *d, const char *when, const struct product_shape *shape)
{
    char shape_name[128], name[160];
    struct product *p = product_new(shape, d->dtype);
    product_reference(p, true);
    struct med_cuda_linear_args a = product_arguments(p, 0, p->shape.rows);
    const char *way = way_name(d, a);
    product_name(p, shape_name, sizeof shape_name);
    (void)snprintf(name, sizeof name, "%s%s.%s", when, way, shape_name);
    /* cuBLASLt rounds the product, then adds x to it and rounds again. */
    if (p->shape.epilogue == MED_CUDA_ADD && strcmp(way, "blas") == 0)
        p->absolute += p->rounded;
    product_check(d, name, med_cuda_linear, p);
    product_free(p);
}

/* ---- cases -------------------------------------------------------------------------------------- */

static void check_rows(struct med_cuda *d, const char *when, const int *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct product_shape all[] = {
            {MED_CUDA_ADD, rows[i], 264, 104, 0, 0, 0, false, true, false},
            {MED_CUDA_ADD, rows[i], 328, 72, 0, 0, 0, false, false, false},
            {MED_CUDA_ROPE_KV, rows[i], 328, 0, 2, 1, 32, true, false, false},
            {MED_CUDA_ROPE_KV, rows[i], 136, 0, 2, 1, 64, true, false, true},
            {MED_CUDA_SWIGLU, rows[i], 264, 96, 0, 0, 0, true, false, false},
            {MED_CUDA_LOGITS, rows[i], 264, 136, 0, 0, 0, true, false, false}};
        for (size_t k = 0; k < sizeof all / sizeof *all; k++)
            check_product(d, when, &all[k]);
    }
}

static void check_shapes(struct med_cuda *d, const char *when, bool quick)
{
    static const struct product_shape shapes[] = {
        {MED_CUDA_ADD, 150, 261, 33, 0, 0, 0, false, true, false},
        {MED_CUDA_ADD, 3, 7, 1, 0, 0, 0, false, false, false},
        {MED_CUDA_ROPE_KV, 5, 35, 0, 3, 3, 10, true, true, false},
        {MED_CUDA_ROPE_KV, 131, 40, 0, 3, 1, 10, true, false, true},
        {MED_CUDA_ROPE_KV, 140, 104, 0, 4, 2, 96, true, true, false},
        {MED_CUDA_ROPE_KV, 31, 104, 0, 4, 2, 96, true, false, true},
        {MED_CUDA_ROPE_KV, 135, 72, 0, 2, 1, 128, true, true, true},
        {MED_CUDA_SWIGLU, 133, 33, 26, 0, 0, 0, true, true, false},
        {MED_CUDA_LOGITS, 140, 31, 33, 0, 0, 0, true, false, false},
        {MED_CUDA_ROPE_KV, 300, HIDDEN, 0, HEADS, KV_HEADS, HEAD_DIM, true, true, false},
        {MED_CUDA_SWIGLU, 257, HIDDEN, (int64_t)2 * INTERMEDIATE, 0, 0, 0, true, false, false},
        {MED_CUDA_SWIGLU, 40, HIDDEN, (int64_t)2 * INTERMEDIATE, 0, 0, 0, true, true, false},
        {MED_CUDA_ADD, 200, INTERMEDIATE, HIDDEN, 0, 0, 0, false, false, false},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (!quick || shapes[i].columns * shapes[i].outputs < 1 << 14)
            check_product(d, when, &shapes[i]);
    }
}

static void check_device(enum med_dtype dtype, bool quick)
{
    static const int rows[] = {1,  2,   7,   8,   9,   16,  31,  33,
                               64, 100, 127, 128, 129, 257, 384, ROWS_MAX};
    static const int few[] = {3, 130};
    struct med_model_config model = gpu_model(HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, 136);
    struct med_cuda_config config = {0};
    struct med_ops_sizes sizes = {&model, dtype, dtype, ROWS_MAX, ROWS_MAX, ROWS_MAX, 5000, 16};
    struct med_cuda *d = gpu_device(&config, &sizes);
    if (quick) {
        check_rows(d, "", few, 2);
    } else {
        check_rows(d, "", rows, sizeof rows / sizeof *rows);
    }
    check_shapes(d, "", quick);
    med_cuda_free(d);
}

/* Algorithms are timed on weights that stay; then every number of rows up to the most is right. */
static void check_tuned(enum med_dtype dtype)
{
    static const struct product_shape shapes[] = {
        {MED_CUDA_ADD, 300, 328, 72, 0, 0, 0, false, false, false},
        {MED_CUDA_SWIGLU, 300, 264, 96, 0, 0, 0, true, false, false},
        {MED_CUDA_LOGITS, 300, 264, 136, 0, 0, 0, true, false, false}};
    static const int rows[] = {1, 130, 131, 150, 192, 193, 255, 300, 513, ROWS_MAX};
    struct med_model_config model = gpu_model(HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, 136);
    struct med_cuda_config config = {0};
    struct med_ops_sizes sizes = {&model, dtype, dtype, ROWS_MAX, ROWS_MAX, ROWS_MAX, 5000, 16};
    struct med_cuda *d = gpu_device(&config, &sizes);
    struct product *kept[sizeof shapes / sizeof *shapes];
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        kept[i] = product_new(&shapes[i], dtype);
        struct med_cuda_linear_args a = product_arguments(kept[i], 0, 300);
        if (med_cuda_linear(d, &a) < 0)
            (void)gpu_report("tuned", false, "%s", d->failure.text);
    }
    bool ok = med_cuda_blas_tune(d) == 0;
    (void)gpu_report("tuned", ok && d->stats.blas_tuned > 0, "%lld timed",
                     (long long)d->stats.blas_tuned);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
            struct product_shape s = shapes[i];
            s.rows = rows[k];
            check_product(d, "tuned.", &s);
        }
        product_free(kept[i]);
    }
    med_cuda_free(d);
}

static void check_deterministic(enum med_dtype dtype, bool quick)
{
    static const int rows[] = {1, 9, 130, ROWS_MAX};
    static const struct product_shape alone[] = {
        {MED_CUDA_ADD, 200, INTERMEDIATE, 264, 0, 0, 0, false, true, false},
        {MED_CUDA_ADD, 70, 261, 33, 0, 0, 0, false, false, false},
        {MED_CUDA_ROPE_KV, 130, HIDDEN, 0, HEADS, KV_HEADS, HEAD_DIM, true, true, false},
        {MED_CUDA_ROPE_KV, 130, 136, 0, 4, 2, 64, true, false, true},
        {MED_CUDA_SWIGLU, 150, 904, 500, 0, 0, 0, true, false, false},
        {MED_CUDA_LOGITS, 33, 904, 500, 0, 0, 0, true, false, false}};
    static const int64_t turns[] = {1, 13, 64};
    struct med_model_config model = gpu_model(HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, 136);
    struct med_cuda_config config = {.deterministic = true};
    struct med_ops_sizes sizes = {&model, dtype, dtype, ROWS_MAX, ROWS_MAX, ROWS_MAX, 5000, 16};
    struct med_cuda *d = gpu_device(&config, &sizes);
    check_rows(d, "deterministic.", rows, quick ? 2 : sizeof rows / sizeof *rows);
    if (!quick)
        check_shapes(d, "deterministic.", true);
    for (size_t i = 0; i < sizeof alone / sizeof *alone && !quick; i++) {
        struct product *p = product_new(&alone[i], dtype);
        product_check_turns(d, "alone", med_cuda_linear, p, turns, sizeof turns / sizeof *turns);
        product_free(p);
    }
    med_cuda_free(d);
}

int main(void)
{
    bool quick = getenv("GPU_QUICK") != NULL;
    static const enum med_dtype dtypes[] = {MED_DTYPE_BF16, MED_DTYPE_F16, MED_DTYPE_F32};
    for (int i = 0; i < 3; i++) {
        check_device(dtypes[i], quick);
        if (!quick)
            check_tuned(dtypes[i]);
        check_deterministic(dtypes[i], quick);
    }
    return gpu_finish();
}
