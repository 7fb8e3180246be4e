/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Times iterations of a transformer, and in the same run what the machine can do at most.
 *
 * thread: main. owns: struct med_bench, its arrays and its transformer; borrows the checkpoint.
 */
#ifndef MED_WORKER_BENCH_SPEED_H
#define MED_WORKER_BENCH_SPEED_H

#include "worker/cpu/cpu.h"
#include "worker/transformer.h"

enum {
    MED_BENCH_CASES_MAX = 64,
    MED_BENCH_REPEATS_MAX = 1000
};

struct med_bench_spread {
    double min, median, max;
};
/* Sorts the values. count >= 1. */
struct med_bench_spread med_bench_spread_of(double *values, size_t count);

/* One kind of iteration: `decodes` sequences of `context` tokens each and a prefill of `prefill`
 * tokens (0: none). */
struct med_bench_case {
    int64_t decodes, context, prefill;
    /* Results. */
    double bytes, flops;                /* moved and computed by one iteration, from the shapes */
    struct med_bench_spread ms;         /* of an iteration */
    struct med_bench_spread read_part;  /* bytes / time, of the bandwidth read in the same repeat */
    struct med_bench_spread blas_part;  /* time of the BLAS alone / time; prefill alone */
    struct med_bench_spread blas_flops; /* per second, of the BLAS alone */
};

struct med_bench_config {
    const struct med_checkpoint *checkpoint;
    enum med_dtype dtype;
    int threads, repeats;
    int64_t sequences_max, batched_tokens_max, model_len_max, kv_tokens;
};

struct med_bench;

int med_bench_new(const struct med_bench_config *config, struct med_bench **ret_bench,
                  struct med_err *err) MED_MUST_CHECK;
void med_bench_free(struct med_bench *bench);
struct med_backend med_bench_backend(struct med_bench *bench);
const struct med_cpu *med_bench_cpu(const struct med_bench *bench);

/* Runs all cases in turn, `repeats` times after one that does not count. */
int med_bench_run(struct med_bench *bench, struct med_bench_case *cases, size_t count,
                  struct med_bench_spread *ret_read_bytes_per_s,
                  struct med_err *err) MED_MUST_CHECK;

#endif
