/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CPU as a device: struct med_ops on a pool of threads and a BLAS.
 *
 * Large products go to the BLAS (one panel of the output per thread; weights that are not float32 are
 * widened in cache-sized pieces), small ones (decode) to our own matrix-vector code, which reads each
 * weight once, as it is stored.  Attention is our own, over the paged cache.
 *
 * deterministic: every output element is summed in an order that depends on nothing but the model, so
 * a row's result does not depend on the rows beside it; slower in prefill, since the BLAS is not used.
 *
 * thread: the engine's (the pool's threads only run pieces of ops).
 */
#ifndef MED_WORKER_CPU_CPU_H
#define MED_WORKER_CPU_CPU_H

#include "worker/ops.h"

#include <stdbool.h>

enum {
    MED_CPU_THREADS_MAX = 256
};

struct med_cpu_config {
    int threads;      /* 1..MED_CPU_THREADS_MAX, the caller's included; 0: one per usable core */
    bool pin;         /* each thread to one of `cores` in turn */
    const int *cores; /* NULL: those that this process may use */
    size_t core_count;
    bool deterministic;
};

struct med_cpu;

int med_cpu_new(const struct med_cpu_config *config, struct med_cpu **ret_cpu,
                struct med_err *err) MED_MUST_CHECK;
void med_cpu_free(struct med_cpu *cpu);
/* The ops; their `device` is the struct med_cpu. */
const struct med_ops *med_cpu_ops(void);

int med_cpu_threads(const struct med_cpu *cpu);
/* "OpenBLAS 0.3.21, Zen, AVX2": for the READY line. */
const char *med_cpu_describe(const struct med_cpu *cpu);

#endif
