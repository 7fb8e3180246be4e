/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Times iterations of a transformer, and in the same run what the device can do at most.
 *
 * thread: main. owns: struct med_bench, its arrays and its transformer; borrows checkpoint and device.
 */
#ifndef MED_WORKER_BENCH_SPEED_H
#define MED_WORKER_BENCH_SPEED_H

#include "worker/bench/steps.h"
#include "worker/device.h"
#include "worker/model/work.h"
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

/* One kind of iteration. */
struct med_bench_case {
    struct med_bench_iteration iteration;
    bool curve;  /* one of the curve's */
    bool absent; /* its KV cache does not fit: not measured */
    /* Results. */
    int64_t steps;                      /* of one measurement, one after another */
    struct med_work work;               /* of one iteration, from the shapes */
    struct med_bench_spread ms;         /* of an iteration */
    struct med_bench_spread read_part;  /* bytes / time, of the bandwidth read in the same repeat */
    struct med_bench_spread blas_part;  /* time of the BLAS alone / time; prefill alone */
    struct med_bench_spread blas_flops; /* per second, of the BLAS alone */
};

struct med_bench_config {
    const struct med_checkpoint *checkpoint;
    const struct med_device *device;
    enum med_dtype dtype;
    int repeats;
    int64_t steps; /* of one measurement, at most: fewer of long prefills */
    int64_t sequences_max, batched_tokens_max, model_len_max;
    int64_t kv_tokens; /* wanted; a device with memory of its own may have room for fewer */
    uint64_t seed;
};

struct med_bench;

/* Takes all memory; on a device with memory of its own, fills the cache with real keys and values. */
int med_bench_new(const struct med_bench_config *config, struct med_bench **ret_bench,
                  struct med_err *err) MED_MUST_CHECK;
void med_bench_free(struct med_bench *bench);
struct med_backend med_bench_backend(struct med_bench *bench);
void med_bench_times(const struct med_bench *bench, struct med_transformer_times *ret_times);
int64_t med_bench_kv_tokens(const struct med_bench *bench);

/* Iterations of one measurement of that case. */
int64_t med_bench_steps_of(const struct med_bench_iteration *iteration, int64_t steps_max);

/* Runs all cases in turn, `repeats` times after one that does not count.  Bandwidth is read beside the
 * cases on the CPU alone; 0 else. */
int med_bench_run(struct med_bench *bench, struct med_bench_case *cases, size_t count,
                  struct med_bench_spread *ret_read_bytes_per_s,
                  struct med_err *err) MED_MUST_CHECK;

#endif
