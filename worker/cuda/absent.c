/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skinny.cu while it is not in the list of sources: weak, takes nothing.  Goes with the line that adds it.
 */
#include "worker/cuda/linear.h"

#define WEAK __attribute__((weak))

size_t med_cuda_skinny_bytes(const struct med_ops_sizes *sizes);
int med_cuda_skinny_new(struct med_cuda *d);
void med_cuda_skinny_free(struct med_cuda *d);

WEAK size_t med_cuda_skinny_bytes(const struct med_ops_sizes *sizes)
{
    (void)sizes;
    return 0;
}

WEAK int med_cuda_skinny_new(struct med_cuda *d)
{
    (void)d;
    return 0;
}

WEAK void med_cuda_skinny_free(struct med_cuda *d)
{
    (void)d;
}

WEAK bool med_cuda_skinny_takes(const struct med_cuda *d, const struct med_cuda_linear_args *a)
{
    (void)d;
    (void)a;
    return false;
}

WEAK int med_cuda_skinny(struct med_cuda *d, const struct med_cuda_linear_args *a)
{
    (void)a;
    return med_cuda_fail(d, __FILE__, __LINE__, "skinny", "it takes nothing");
}
