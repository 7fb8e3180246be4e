/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inner loops without any instruction set of its own: four lanes, which every compiler maps to
 * what its target always has (SSE2, NEON) or to scalar code.  Also picks the table for this machine.
 * thread: any.
 */
#include "worker/cpu/kernels.h"

static int usable(void)
{
    return 1;
}

#define LANES        4
#define FMA(a, b, c) ((a) * (b) + (c))
#define LOAD_F16(p)                                                                   \
 ((vec){med_f16_to_float((p)[0]), med_f16_to_float((p)[1]), med_f16_to_float((p)[2]), \
        med_f16_to_float((p)[3])})
#define ROW_TILE 2
#define OUT_TILE 4
#define NAME     "portable"
#define USABLE   usable
#define TABLE    med_cpu_kernels_portable
#include "worker/cpu/kernels.inc"

const struct med_cpu_kernels *med_cpu_kernels_best(void)
{
#ifdef __x86_64__
    if (med_cpu_kernels_avx512.usable())
        return &med_cpu_kernels_avx512;
    if (med_cpu_kernels_avx2.usable())
        return &med_cpu_kernels_avx2;
#endif
    return &med_cpu_kernels_portable;
}
