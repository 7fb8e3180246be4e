/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a GPU can do at most: the two rates that the latency model is built on, measured on the spot.
 *
 * Read bandwidth: a kernel reads a buffer far larger than the cache with 16-byte loads.  Matrix
 * rate: a square bf16 product with float accumulation through cuBLASLt, the fastest of its proposed
 * algorithms.  Each is the median over repeats, timed with events, after a warm-up; the spread is
 * (max - min) / median.  Inputs are random, never zero: products of zeros run faster.
 * thread: one; it uses device `device` with plain allocations and frees all of them.
 * errors: MED_E_CUDA with the failing call; MED_E_INVALID for a device that does not exist;
 * MED_E_INTERNAL when a result is numerically wrong (then no rate is reported).
 */
#ifndef MED_WORKER_CUDA_LIMITS_H
#define MED_WORKER_CUDA_LIMITS_H

#include "base/err.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct med_cuda_limits {
    char name[256];
    int compute_major, compute_minor, multiprocessors;
    int driver_version, runtime_version; /* as CUDA counts: 13000 is 13.0 */
    double memory_bytes;
    double read_bytes_per_s, read_spread;
    double matrix_flops_per_s, matrix_spread;
    double matrix_error; /* largest |error| / (|a| . |b|) over the sampled elements */
};

int med_cuda_device_count(int *ret_count, struct med_err *err) MED_MUST_CHECK;
/* read_bytes: of the buffer (a multiple of 16); dim: of the square product (a multiple of 16);
 * repeats: timed runs of each, 3 to 1000. */
int med_cuda_limits_measure(int device, uint64_t read_bytes, int dim, int repeats,
                            struct med_cuda_limits *ret_limits, struct med_err *err) MED_MUST_CHECK;

#ifdef __cplusplus
}
#endif

#endif
