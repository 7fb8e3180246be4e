/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of up to some 128 rows at the rate of the memory bus, on tensor cores; see linear.h for what
 * they compute.  A row's result does not depend on the rows beside it, nor on how many there are: the
 * kernel of deterministic mode.
 * thread: engine. errors: as internal.h.
 */
#ifndef MED_WORKER_CUDA_SKINNY_H
#define MED_WORKER_CUDA_SKINNY_H

#include "worker/cuda/linear.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    MED_CUDA_SKINNY_ROWS = 128 /* of one launch; more are computed in turns */
};

/* Partial sums and counters, once per device; new takes nothing more if they are there already. */
size_t med_cuda_skinny_bytes(const struct med_ops_sizes *sizes);
int med_cuda_skinny_new(struct med_cuda *d) MED_MUST_CHECK;
void med_cuda_skinny_free(struct med_cuda *d);

#ifdef __cplusplus
}
#endif

#endif
