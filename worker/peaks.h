/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a GPU's data sheet promises, by the name that CUDA gives it.
 *
 * Dense bf16 products with float accumulation, no sparsity; and the memory's bandwidth.
 * thread: any (a table). source: the data sheets of NVIDIA H100, H200, A100, A10, A40, L4, L40S, and
 * the architecture papers of GA102 and AD102 for the GeForce cards.
 */
#ifndef MED_WORKER_PEAKS_H
#define MED_WORKER_PEAKS_H

#include <stdbool.h>

struct med_peaks {
    double bytes_per_s, flops_per_s; /* 0: not known */
};

/* false, and both 0: no card of that name is in the table. */
bool med_peaks_find(const char *name, struct med_peaks *ret_peaks);

#endif
