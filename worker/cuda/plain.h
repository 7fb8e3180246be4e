/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of any size and dtype whose sums depend on nothing but the row and W: what deterministic mode
 * falls back to, and what takes sizes that no other kernel does.  Far from fast.
 * thread: engine. errors: as internal.h.
 */
#ifndef MED_WORKER_CUDA_PLAIN_H
#define MED_WORKER_CUDA_PLAIN_H

#include "worker/cuda/blas.h"

#ifdef __cplusplus
extern "C" {
#endif

int med_cuda_plain(struct med_cuda *d, const struct med_cuda_product *p) MED_MUST_CHECK;

#ifdef __cplusplus
}
#endif

#endif
