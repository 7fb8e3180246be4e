/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inner loops, once per instruction set: kernels.inc compiled by kernels_portable.c,
 * kernels_avx2.c and kernels_avx512.c.
 *
 * Every result is a sum in a fixed order: element (row, out) of `dots` depends on its row of x, its
 * row of w and n alone, whatever rows and outs stand beside it.  Between instruction sets the order
 * differs.
 * thread: any (no state). owns: nothing.
 */
#ifndef MED_WORKER_CPU_KERNELS_H
#define MED_WORKER_CPU_KERNELS_H

#include "worker/model/dtype.h"

#include <stdint.h>

enum {
    MED_CPU_DOTS_BLOCK = 1024, /* elements of a dot product that are summed together */
    MED_CPU_DOTS_GROUP = 48    /* outs whose weights are widened at a time */
};

/* y[r][o] = x[r] . w[o], strides in elements. */
struct med_cpu_dots {
    int64_t rows, outs, n;
    const float *x;
    int64_t x_stride;
    const void *w;
    int64_t w_stride;
    float *y;
    int64_t y_stride;
    float *wide; // [MED_CPU_DOTS_GROUP * MED_CPU_DOTS_BLOCK] scratch, for many rows; or NULL
};

/* acc[r][i] += sum over k of p[r][k] * v[k][i], k ascending. */
struct med_cpu_mix {
    int64_t rows, keys, n;
    const float *p;
    int64_t p_stride;
    const void *v;
    int64_t v_stride;
    float *acc;
    int64_t acc_stride;
};

struct med_cpu_kernels {
    const char *name; /* "AVX2" */
    int (*usable)(void);
    void (*dots[MED_DTYPE_COUNT])(const struct med_cpu_dots *args);
    void (*mix[MED_DTYPE_COUNT])(const struct med_cpu_mix *args);
    void (*widen[MED_DTYPE_COUNT])(const void *from, float *to, int64_t n);
    void (*narrow[MED_DTYPE_COUNT])(const float *from, void *to, int64_t n);
    void (*round_bf16)(float *x, int64_t n); /* to values that bf16 has */
    float (*dot)(const float *a, const float *b, int64_t n);
    float (*largest)(const float *x, int64_t n); /* n >= 1 */
    /* x[i] = exp(x[i] - shift), -inf gives 0; returns their sum. Results within 2 ulp. */
    float (*exp_sum)(float *x, int64_t n, float shift);
    /* x[i] *= f */
    void (*scale)(float *x, int64_t n, float f);
    /* gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i] */
    void (*silu_mul)(float *gate, const float *up, int64_t n);
};

extern const struct med_cpu_kernels med_cpu_kernels_portable;
#ifdef __x86_64__
extern const struct med_cpu_kernels med_cpu_kernels_avx2;
extern const struct med_cpu_kernels med_cpu_kernels_avx512;
#endif

/* The fastest that this machine has. */
const struct med_cpu_kernels *med_cpu_kernels_best(void);

#endif
