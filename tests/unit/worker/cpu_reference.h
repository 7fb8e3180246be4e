/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of worker/cpu share: random matrices in every dtype, plain double-precision versions
 * of the ops' formulas, and a comparison that remembers its worst element.
 *
 * A result is right within eps(dtype) * scale, where scale is |reference| + the root of the sum of
 * the squares of what was summed: the size of the rounding errors of such a sum, whatever cancels.
 */
#ifndef MED_TESTS_UNIT_WORKER_CPU_REFERENCE_H
#define MED_TESTS_UNIT_WORKER_CPU_REFERENCE_H

#include "base/rng.h"
#include "tests/check.h"
#include "worker/cpu/cpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- matrices ------------------------------------------------------------------------------ */

CHECK_UNUSED static void *ref_alloc(size_t bytes)
{
    void *memory = calloc(1, bytes > 0 ? bytes : 1);
    REQUIRE(memory);
    return memory;
}

CHECK_UNUSED static void ref_set(enum med_dtype dtype, void *data, int64_t index, float value)
{
    if (dtype == MED_DTYPE_F32)
        ((float *)data)[index] = value;
    else if (dtype == MED_DTYPE_BF16)
        ((uint16_t *)data)[index] = med_bf16_from_float(value);
    else
        ((uint16_t *)data)[index] = med_f16_from_float(value);
}

CHECK_UNUSED static double ref_get(enum med_dtype dtype, const void *data, int64_t index)
{
    return (double)med_dtype_get(dtype, data, (size_t)index);
}

/* Normal numbers around `center`, one in 50 of them ten times as large. */
CHECK_UNUSED static void *ref_random(struct med_rng *rng, enum med_dtype dtype, int64_t count,
                                     double center, double deviation)
{
    void *data = ref_alloc((size_t)count * med_dtype_bytes(dtype));
    for (int64_t i = 0; i < count; i++) {
        double value = center + deviation * med_rng_normal(rng);
        if (med_rng_below(rng, 50) == 0)
            value *= 10;
        ref_set(dtype, data, i, (float)value);
    }
    return data;
}

CHECK_UNUSED static struct med_weight ref_weight(struct med_rng *rng, enum med_dtype dtype,
                                                 int64_t rows, int64_t columns)
{
    double deviation = 1 / sqrt((double)columns);
    return (struct med_weight){.data = ref_random(rng, dtype, rows * columns, 0, deviation),
                               .dtype = dtype,
                               .rows = rows,
                               .columns = columns};
}

CHECK_UNUSED static struct med_weight ref_vector(struct med_rng *rng, enum med_dtype dtype,
                                                 int64_t columns, double center)
{
    return (struct med_weight){.data = ref_random(rng, dtype, columns, center, 0.3),
                               .dtype = dtype,
                               .rows = 1,
                               .columns = columns};
}

CHECK_UNUSED static void ref_free(struct med_weight *weight)
{
    free((void *)(uintptr_t)weight->data);
    *weight = (struct med_weight){0};
}

/* ---- comparing ----------------------------------------------------------------------------- */

struct ref_worst {
    const char *what;
    double share; /* of the tolerance, of the worst element so far */
    double got, want;
};

CHECK_UNUSED static double ref_eps(enum med_dtype dtype)
{
    return dtype == MED_DTYPE_F32 ? 8e-7 : dtype == MED_DTYPE_BF16 ? 0x1p-7 : 0x1p-10;
}

/* One check per element; the first that fails of a worst is printed. */
CHECK_UNUSED static void ref_compare(struct ref_worst *worst, double got, double want,
                                     double tolerance)
{
    double share = fabs(got - want) / tolerance;
    bool ok = share <= 1;
    if (!ok && !(worst->share > 1))
        (void)fprintf(stderr, "%s: got %.9g, want %.9g (tolerance %.3g)\n", worst->what, got, want,
                      tolerance);
    (void)check_note(ok);
    if (!(share <= worst->share)) {
        worst->share = share;
        worst->got = got;
        worst->want = want;
    }
}

CHECK_UNUSED static void ref_report(const struct ref_worst *worst)
{
    (void)printf("%s: worst element got %.9g, want %.9g: %.2f of its tolerance\n", worst->what,
                 worst->got, worst->want, worst->share);
}

/* ---- formulas ------------------------------------------------------------------------------ */

/* A number and the size of its rounding errors. */
struct ref_sum {
    double value, scale;
};

/* x . row `row` of the weight, + bias. */
CHECK_UNUSED static struct ref_sum ref_dot(const double *x, const struct med_weight *weight,
                                           const struct med_weight *bias, int64_t row)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < weight->columns; i++) {
        double term = x[i] * ref_get(weight->dtype, weight->data, row * weight->columns + i);
        sum += term;
        squares += term * term;
    }
    if (bias && bias->data)
        sum += ref_get(bias->dtype, bias->data, row);
    return (struct ref_sum){.value = sum, .scale = fabs(sum) + sqrt(squares)};
}

CHECK_UNUSED static void ref_norm(const double *x, const struct med_weight *weight, double eps,
                                  double *out)
{
    double squares = 0;
    for (int64_t i = 0; i < weight->columns; i++)
        squares += x[i] * x[i];
    double scale = 1 / sqrt(squares / (double)weight->columns + eps);
    for (int64_t i = 0; i < weight->columns; i++)
        out[i] = x[i] * scale * ref_get(weight->dtype, weight->data, i);
}

CHECK_UNUSED static void ref_row(enum med_dtype dtype, const void *data, int64_t row,
                                 int64_t columns, double *out)
{
    for (int64_t i = 0; i < columns; i++)
        out[i] = ref_get(dtype, data, row * columns + i);
}

/* ---- a device ------------------------------------------------------------------------------ */

CHECK_UNUSED static struct med_cpu *
ref_cpu(int threads, bool deterministic, const struct med_model_config *model, enum med_dtype dtype)
{
    struct med_err err = {0};
    struct med_cpu *cpu;
    struct med_cpu_config config = {.threads = threads, .deterministic = deterministic};
    REQUIRE(med_cpu_new(&config, &cpu, &err) == 0);
    struct med_ops_sizes sizes = {.model = model,
                                  .dtype = dtype,
                                  .rows_max = 2048,
                                  .items_max = 64,
                                  .samples_max = 64,
                                  .model_len_max = 2048};
    REQUIRE(med_cpu_ops()->prepare(cpu, &sizes, &err) == 0);
    return cpu;
}

#endif
