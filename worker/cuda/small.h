/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of 1 to MED_CUDA_SMALL_ROWS rows at the rate of the memory bus; see linear.h for what they
 * compute.  A row's result does not depend on the rows beside it.
 * thread: engine. errors: as internal.h.
 */
#ifndef MED_WORKER_CUDA_SMALL_H
#define MED_WORKER_CUDA_SMALL_H

#include "worker/cuda/linear.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    MED_CUDA_SMALL_ROWS = 8
};

/* Raises the shared memory that the kernels may take, once per device; no memory is taken. */
int med_cuda_small_new(struct med_cuda *d) MED_MUST_CHECK;

#ifdef __cplusplus
}
#endif

#endif
