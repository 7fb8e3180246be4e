/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernels around large products (worker/cuda/norm.h) and the embedding, each by itself: odd sizes,
 * rows that are far apart, values whose squares are large, pointers that 16 bytes do not divide,
 * tokens that the batch before has drawn.  rope_kv is test_linear's.
 *
 * Allowed: two roundings to the dtype; float32 sums are far more exact.
 */
#include "tests/gpu/gpu.h"
#include "worker/cuda/norm.h"
#include "worker/cuda/sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static double epsilon(enum med_dtype dtype)
{
    return dtype == MED_DTYPE_F32 ? 0x1p-19 : dtype == MED_DTYPE_F16 ? 0x1p-10 : 0x1p-8;
}

static double *doubles(size_t count)
{
    double *memory = calloc(count ? count : 1, sizeof *memory);
    if (!memory)
        abort();
    return memory;
}

/* The same array, `elements` further on. */
static struct gpu_array behind(struct gpu_array a, size_t elements)
{
    a.count -= elements;
    a.host += elements;
    a.device = (char *)a.device + elements * med_dtype_bytes(a.dtype);
    return a;
}

static void check_norm(struct med_cuda *d, int64_t rows, int64_t columns, double scale, bool picks,
                       size_t shift)
{
    enum med_dtype dtype = d->dtype;
    size_t count = (size_t)(rows * columns);
    struct gpu_array x_all = gpu_random(count + shift, dtype, scale, 97);
    struct gpu_array weight = gpu_random((size_t)columns, dtype, 1, 0);
    struct gpu_array out_all = gpu_poisoned(count + shift, dtype);
    struct gpu_array x = behind(x_all, shift), out = behind(out_all, shift);
    double *want = doubles(count);
    int32_t *picked = calloc((size_t)rows, sizeof *picked);
    char name[128];
    if (!picked)
        abort();
    for (int64_t r = 0; r < rows; r++) {
        picked[r] = picks ? (int32_t)((r * 5 + 2) % rows) : (int32_t)r;
        const double *from = x.host + picked[r] * columns;
        double square = 0;
        for (int64_t i = 0; i < columns; i++)
            square += from[i] * from[i];
        for (int64_t i = 0; i < columns; i++) {
            want[r * columns + i] =
                from[i] / sqrt(square / (double)columns + (double)1e-5f) * weight.host[i];
        }
    }
    int32_t *device_picked = gpu_ints(picked, (size_t)rows);
    (void)snprintf(name, sizeof name, "norm.%s.%lldx%lld.%g%s%s", med_dtype_name(dtype),
                   (long long)rows, (long long)columns, scale, picks ? ".picked" : "",
                   shift ? ".shifted" : "");
    if (med_cuda_norm(d, rows, columns, x.device, picks ? device_picked : NULL, weight.device,
                      1e-5f, out.device) < 0) {
        (void)gpu_report(name, false, "%s", d->failure.text);
    } else {
        (void)gpu_compare(name, &out, want, 0x1p-24, epsilon(dtype));
    }
    (void)cudaFree(device_picked);
    free(picked);
    free(want);
    gpu_array_free(&x_all);
    gpu_array_free(&weight);
    gpu_array_free(&out_all);
}

static void check_swiglu(struct med_cuda *d, int64_t rows, int64_t n, double scale, bool bias)
{
    enum med_dtype dtype = d->dtype;
    struct gpu_array raw = gpu_random((size_t)(rows * 2 * n), dtype, scale, 89);
    struct gpu_array biases = gpu_random((size_t)(2 * n), dtype, 1, 0);
    struct gpu_array out = gpu_poisoned((size_t)(rows * n), dtype);
    double *want = doubles((size_t)(rows * n));
    char name[128];
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < n; i++) {
            double gate = raw.host[r * 2 * n + i] + (bias ? biases.host[i] : 0);
            double up = raw.host[r * 2 * n + n + i] + (bias ? biases.host[n + i] : 0);
            want[r * n + i] = gate / (1 + exp(-gate)) * up;
        }
    }
    struct med_cuda_linear_args a = {.rows = rows,
                                     .outputs = 2 * n,
                                     .dtype = dtype,
                                     .bias = bias ? biases.device : NULL,
                                     .out = out.device};
    (void)snprintf(name, sizeof name, "swiglu.%s.%lldx%lld.%g%s", med_dtype_name(dtype),
                   (long long)rows, (long long)n, scale, bias ? ".bias" : "");
    if (med_cuda_swiglu(d, &a, raw.device) < 0) {
        (void)gpu_report(name, false, "%s", d->failure.text);
    } else {
        /* 1 + exp(-gate) of a very negative gate overflows: 0 for what is less than 2^-100 */
        (void)gpu_compare(name, &out, want, bias ? 0x1p-20 : 0x1p-24, epsilon(dtype));
    }
    free(want);
    gpu_array_free(&raw);
    gpu_array_free(&biases);
    gpu_array_free(&out);
}

static void check_bias(struct med_cuda *d, int64_t rows, int64_t columns)
{
    enum med_dtype dtype = d->dtype;
    struct gpu_array out = gpu_random((size_t)(rows * columns), dtype, 1, 0);
    struct gpu_array bias = gpu_random((size_t)columns, dtype, 1, 0);
    double *want = doubles((size_t)(rows * columns));
    char name[128];
    for (int64_t i = 0; i < rows * columns; i++)
        want[i] = out.host[i] + bias.host[i % columns];
    (void)snprintf(name, sizeof name, "bias.%s.%lldx%lld", med_dtype_name(dtype), (long long)rows,
                   (long long)columns);
    if (med_cuda_add_bias(d, rows, columns, bias.device, out.device) < 0) {
        (void)gpu_report(name, false, "%s", d->failure.text);
    } else {
        (void)gpu_compare(name, &out, want, 0x1p-30, epsilon(dtype));
    }
    free(want);
    gpu_array_free(&out);
    gpu_array_free(&bias);
}

/* Rows by ids; with sources, by what lies where the sampler leaves its ids: also nonsense. */
static void check_embed(struct med_cuda *d, int64_t rows, int64_t vocab, int64_t columns,
                        bool sourced)
{
    enum med_dtype dtype = d->dtype;
    struct gpu_array table = gpu_random((size_t)(vocab * columns), dtype, 1, 0);
    struct gpu_array out = gpu_poisoned((size_t)(rows * columns), dtype);
    double *want = doubles((size_t)(rows * columns));
    int32_t *ids = calloc((size_t)rows, sizeof *ids), *sources = calloc((size_t)rows, sizeof *ids);
    uint32_t *drawn = calloc((size_t)rows, sizeof *drawn);
    char name[128];
    if (!ids || !sources || !drawn)
        abort();
    for (int64_t r = 0; r < rows; r++) {
        bool from_drawn = sourced && r % 3 != 0;
        drawn[r] = r % 7 == 1 ? UINT32_MAX : (uint32_t)(gpu_random_bits() % (uint64_t)vocab);
        ids[r] = from_drawn ? -1 : (int32_t)(gpu_random_bits() % (uint64_t)vocab);
        sources[r] = from_drawn ? (int32_t)((r * 5 + 1) % rows) : -1;
    }
    for (int64_t r = 0; r < rows; r++) {
        int64_t id = sources[r] >= 0 ? (int64_t)drawn[sources[r]] : ids[r];
        if (id >= vocab)
            id = vocab - 1;
        for (int64_t i = 0; i < columns; i++)
            want[r * columns + i] = table.host[id * columns + i];
    }
    int32_t *device_ids = gpu_ints(ids, (size_t)rows),
            *device_sources = gpu_ints(sources, (size_t)rows);
    if (sourced) {
        gpu_put((void *)(uintptr_t)med_cuda_sampler_ids(d), drawn, (size_t)rows * sizeof *drawn);
    }
    struct med_embed_args a = {.rows = rows,
                               .ids = (const uint32_t *)device_ids,
                               .sources = device_sources,
                               .table = {table.device, dtype, vocab, columns},
                               .out = out.device,
                               .dtype = dtype};
    (void)snprintf(name, sizeof name, "embed.%s.%lldx%lld%s", med_dtype_name(dtype),
                   (long long)rows, (long long)columns, sourced ? ".sourced" : "");
    if (med_cuda_embed(d, &a) < 0) {
        (void)gpu_report(name, false, "%s", d->failure.text);
    } else {
        (void)gpu_compare(name, &out, want, 0x1p-100, 0); // the very same
    }
    (void)cudaFree(device_ids);
    (void)cudaFree(device_sources);
    free(ids);
    free(sources);
    free(drawn);
    free(want);
    gpu_array_free(&table);
    gpu_array_free(&out);
}

static void check_device(enum med_dtype dtype, bool quick)
{
    static const int64_t columns[] = {1, 7, 8, 31, 33, 64, 896, 1001, 4096, 5120, 16384, 20000};
    struct med_model_config model = gpu_model(64, 2, 2, 32, 64, 64);
    struct med_cuda_config config = {0};
    struct med_ops_sizes sizes = {&model, dtype, dtype, 512, 512, 512, 64, 16};
    struct med_cuda *d = gpu_device(&config, &sizes);
    double large = dtype == MED_DTYPE_F16 ? 100 : 1e4;
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i += quick ? 5 : 1) {
        check_norm(d, 1, columns[i], 1, false, 0);
        check_norm(d, 33, columns[i], i % 2 ? large : 1e-3, true, 0);
    }
    check_norm(d, 5, 4096, 1, false, 1);
    check_norm(d, quick ? 3 : 301, 896, 1, false, 0);
    check_swiglu(d, 1, 11008, 0.7, false);
    /* in f16 the product of two outliers must fit */
    check_swiglu(d, 31, 1001, dtype == MED_DTYPE_F16 ? 0.5 : 3, true);
    check_swiglu(d, quick ? 3 : 133, 896, dtype == MED_DTYPE_F16 ? 0.5 : 10, false);
    check_bias(d, 1, 1);
    check_bias(d, 33, 1001);
    check_embed(d, 1, 50, 64, false);
    check_embed(d, 130, 333, 896, false);
    check_embed(d, 31, 333, 33, false);
    if (med_cuda_sampler_ids(d))
        check_embed(d, 65, 333, 904, true);
    med_cuda_free(d);
}

int main(void)
{
    bool quick = getenv("GPU_QUICK") != NULL;
    static const enum med_dtype dtypes[] = {MED_DTYPE_BF16, MED_DTYPE_F16, MED_DTYPE_F32};
    for (int i = 0; i < 3; i++)
        check_device(dtypes[i], quick);
    return gpu_finish();
}
