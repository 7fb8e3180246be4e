/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this machine can do at most, for the benchmark that compares the device with it: reading
 * memory with the device's threads, and products by the BLAS alone.
 *
 * thread: the engine's, between ops.
 */
#ifndef MED_WORKER_CPU_LIMITS_H
#define MED_WORKER_CPU_LIMITS_H

#include "worker/cpu/cpu.h"

#include <stddef.h>
#include <stdint.h>

/* Reads all of it once, each thread its share; returns the sum of its 64-bit words.  bytes is a
 * multiple of 8, memory aligned to 8. */
uint64_t med_cpu_read(struct med_cpu *cpu, const void *memory, size_t bytes);

/* out = in W' in float32 by one call of the BLAS with as many threads of its own as the device has. */
struct med_cpu_blas_args {
    int64_t rows, outputs, columns;
    const float *in;      // [rows][columns]
    const float *weights; // [outputs][columns]
    float *out;           // [rows][outputs]
};
void med_cpu_blas_threads(struct med_cpu *cpu, bool own); /* before and after a series of calls */
void med_cpu_blas(const struct med_cpu_blas_args *args);

#endif
