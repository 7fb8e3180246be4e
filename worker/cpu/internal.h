/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of worker/cpu share: the device, its scratch memory, and products of matrices.
 *
 * thread: engine; pieces of a run on the pool's threads touch only what is handed to them and the
 * scratch of their own thread.
 */
#ifndef MED_WORKER_CPU_INTERNAL_H
#define MED_WORKER_CPU_INTERNAL_H

#include "worker/cpu/cpu.h"
#include "worker/cpu/kernels.h"
#include "worker/cpu/pool.h"

enum {
    MED_CPU_ROWS = 512,          /* rows that an op works on at a time: bounds the scratch */
    MED_CPU_KEYS = 64,           /* keys of one step of attention, aligned to absolute positions */
    MED_CPU_QUERIES = 64,        /* query vectors of one piece of attention */
    MED_CPU_WIDEN = 2048 * 1024, /* weights that a thread widens at a time for the BLAS */
    MED_CPU_OUTPUTS = 3          /* products that share their input */
};

/* Scratch of one thread. */
struct med_cpu_lane {
    float *wide;    // [MED_CPU_WIDEN]
    float *queries; // [MED_CPU_QUERIES][head_dim]
    float *sums;    // [MED_CPU_QUERIES][head_dim]
    float *scores;  // [MED_CPU_QUERIES][MED_CPU_KEYS]
    struct med_sampler *sampler;
};

struct med_cpu {
    struct med_cpu_pool *pool;
    int threads;
    int *cores; /* to pin to; NULL: not pinned */
    size_t core_count;
    bool deterministic;
    bool blas; /* used for many rows; false when deterministic */
    const struct med_cpu_kernels *kernels;
    char text[128];
    /* Taken in prepare; zero before. */
    float *in;   // [MED_CPU_ROWS][widest input]
    float *out;  // [MED_CPU_ROWS][widest sum of outputs]
    float *norm; // [widest input]: the weights of a norm
    int64_t in_columns, out_columns, head_dim_max;
    struct med_cpu_lane *lanes; // [threads]
};

/* Runs fn over [0, count) on all threads, each taking the next share, at least `grain` long, when it is
 * done with one; what is less than two of these the caller runs alone. */
typedef void med_cpu_range(void *arg, int64_t begin, int64_t end, int thread);
void med_cpu_split(struct med_cpu *cpu, int64_t count, int64_t grain, med_cpu_range *fn, void *arg);

/* out = in W' + bias, as float32; up to MED_CPU_OUTPUTS of them on one input. */
struct med_cpu_output {
    const struct med_weight *weight, *bias; /* bias NULL or without data: none */
    float *to;                              // [rows][stride]
    int64_t stride;
};
struct med_cpu_product {
    int64_t rows, columns;
    const float *in; // [rows][columns]
    struct med_cpu_output outputs[MED_CPU_OUTPUTS];
    int count;
};
void med_cpu_multiply(struct med_cpu *cpu, const struct med_cpu_product *product);
/* First use of the BLAS on every thread, so that no op has to wait for what it sets up. */
int med_cpu_blas_prepare(struct med_cpu *cpu);
/* Whether kernels of the BLAS for `core` are worth calling beside ours: false where it took a processor
 * that it does not know for an old one. */
bool med_cpu_blas_fits(const char *core, const struct med_cpu_kernels *kernels);
/* The same for the core that the BLAS found. */
bool med_cpu_blas_usable(const struct med_cpu_kernels *kernels);
/* "OpenBLAS 0.3.21, Zen" */
void med_cpu_blas_describe(char *out, size_t bytes);

/* Row `row` of an array of activations of `dtype` as floats in `to`. */
static inline void med_cpu_row_widen(const struct med_cpu *cpu, enum med_dtype dtype,
                                     const void *from, int64_t row, int64_t columns, float *to)
{
    const char *p = (const char *)from + (size_t)(row * columns) * med_dtype_bytes(dtype);
    cpu->kernels->widen[dtype](p, to, columns);
}

static inline void med_cpu_row_narrow(const struct med_cpu *cpu, enum med_dtype dtype,
                                      const float *from, void *to, int64_t row, int64_t columns)
{
    char *p = (char *)to + (size_t)(row * columns) * med_dtype_bytes(dtype);
    cpu->kernels->narrow[dtype](from, p, columns);
}

int med_cpu_embed(void *device, const struct med_embed_args *args);
int med_cpu_qkv(void *device, const struct med_qkv_args *args);
int med_cpu_attend(void *device, const struct med_attend_args *args);
int med_cpu_project(void *device, const struct med_project_args *args);
int med_cpu_gate_up(void *device, const struct med_gate_up_args *args);
int med_cpu_head(void *device, const struct med_head_args *args);
int med_cpu_sample(void *device, const struct med_sample_args *args);

#endif
