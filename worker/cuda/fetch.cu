/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel that takes a batch to the device (see fetch.h). Every step has one; nothing of a model.
 */
#include "worker/cuda/fetch.h"

#include "worker/cuda/launch.cuh"

enum {
    THREADS = 256,
    BLOCKS_MAX = 128
};

/*
 * to[i] = from[i], `packs` packs of 16 bytes; from lies on the host, across the bus.
 * Launch: a pack per thread as far as BLOCKS_MAX goes, so that all reads cross the bus together.
 */
static __global__ void __launch_bounds__(THREADS)
    fetch_kernel(const uint4 *__restrict__ from, uint4 *__restrict__ to, size_t packs)
{
    med_grid_go();
    med_grid_wait(); /* the step before reads `to` */
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < packs;
         i += (size_t)gridDim.x * THREADS)
        to[i] = __ldcv(from + i);
}

extern "C" int med_cuda_fetch(struct med_cuda *d, void *to, const void *from, size_t bytes)
{
    const size_t packs = (bytes + sizeof(uint4) - 1) / sizeof(uint4);
    const size_t needed = (packs + THREADS - 1) / THREADS;
    if (packs == 0)
        return 0;
    const unsigned blocks = needed < BLOCKS_MAX ? (unsigned)needed : (unsigned)BLOCKS_MAX;
    return med_launch_on(d, {dim3(blocks), dim3(THREADS), 0}, fetch_kernel, (const uint4 *)from,
                         (uint4 *)to, packs);
}
