/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A CUDA GPU as a device: struct med_ops on one stream of one GPU (compute capability 8.0 and up).
 *
 * Products of few rows go to our own kernels, which read each weight once at the rate of the memory
 * bus; large ones to cuBLASLt, by algorithms that were timed on this GPU.  Attention over the paged
 * cache is our own.  Decode steps are recorded as CUDA graphs and replayed.
 *
 * deterministic: a row's result does not depend on the rows beside it, nor on how its prompt was cut;
 * slower in prefill.
 *
 * thread: the engine's, which makes the CUDA context current by its first call. owns: all device and
 * pinned memory. errors: MED_E_CUDA is sticky: the device is dead, every later call fails alike, and
 * free then leaves the GPU's memory to the end of the process (a dead context cannot be asked).
 */
#ifndef MED_WORKER_CUDA_CUDA_H
#define MED_WORKER_CUDA_CUDA_H

#include "worker/ops.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct med_cuda_config {
    int device; /* as CUDA counts */
    bool deterministic;
    int64_t watchdog_ns;   /* a batch that takes longer is a failure; 0: none */
    const char *cache_dir; /* of timed algorithms, made if absent; NULL: none is read or written */
    bool no_graphs;        /* for tests and comparison: every step is queued op by op */
};

/* What a GPU is, before anything is taken on it. */
struct med_cuda_facts {
    char name[256];
    char pci[32]; /* bus id */
    int compute_major, compute_minor, multiprocessors;
    int driver_version, runtime_version; /* as CUDA counts: 13000 is 13.0 */
    int64_t total_bytes, free_bytes;     /* of its memory; free as of the call */
    double bandwidth_bytes_per_s;        /* by its memory clock and bus width; 0: it does not say */
};
int med_cuda_facts_read(int device, struct med_cuda_facts *ret_facts,
                        struct med_err *err) MED_MUST_CHECK;

struct med_cuda;

int med_cuda_new(const struct med_cuda_config *config, struct med_cuda **ret_cuda,
                 struct med_err *err) MED_MUST_CHECK;
void med_cuda_free(struct med_cuda *cuda);
/* The ops; their `device` is the struct med_cuda. */
const struct med_ops *med_cuda_ops(void);
const struct med_cuda_facts *med_cuda_facts(const struct med_cuda *cuda);

/* What the last run did, for benchmarks and metrics. */
struct med_cuda_stats {
    int64_t graphs;         /* recorded */
    int64_t replayed_total; /* runs */
    int64_t queued_total;   /* runs, op by op */
    int64_t blas_tuned;     /* products whose algorithm was timed by this process */
    int64_t blas_cached;    /* and that were found in the cache_dir */
    double record_seconds, tune_seconds;
    int64_t pinned_bytes;
};
void med_cuda_get_stats(const struct med_cuda *cuda, struct med_cuda_stats *ret_stats);

#ifdef __cplusplus
}
#endif

#endif
