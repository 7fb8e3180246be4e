/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of the embedding table.  The token of a row is what the host says, or what the batch before has
 * drawn and left on the device.
 * thread: engine.
 */
#include "worker/cuda/launch.cuh"
#include "worker/cuda/sample.h"

enum {
    THREADS = 256
};

/*
 * out[r] = table[sources[r] >= 0 ? drawn[sources[r]] : ids[r]]; table [vocab][units], out [rows][units]
 * of U, the widest type that a row is whole pieces of. A block per row.
 * What was drawn last for a sequence that has ended means nothing: it is kept within the table.
 */
template <typename U>
static __global__ void __launch_bounds__(THREADS)
    embed_kernel(const uint32_t *ids, const int32_t *sources, const uint32_t *drawn, uint32_t vocab,
                 const U *table, int units, U *out)
{
    med_grid_go();
    med_grid_wait();
    const int32_t source = sources[blockIdx.x];
    const uint32_t id = min(source >= 0 ? drawn[source] : ids[blockIdx.x], vocab - 1);
    table += (size_t)id * (size_t)units;
    out += (size_t)blockIdx.x * (size_t)units;
    for (int i = (int)threadIdx.x; i < units; i += THREADS)
        out[i] = table[i];
}

template <typename U>
static int launch(struct med_cuda *d, const struct med_embed_args *a, size_t row_bytes)
{
    return med_launch_on(d, {dim3((unsigned)a->rows), dim3(THREADS), 0}, embed_kernel<U>, a->ids,
                         a->sources, med_cuda_sampler_ids(d), (uint32_t)a->table.rows,
                         (const U *)a->table.data, (int)(row_bytes / sizeof(U)), (U *)a->out);
}

extern "C" int med_cuda_embed(void *device, const struct med_embed_args *a)
{
    struct med_cuda *d = (struct med_cuda *)device;
    if (d->failed)
        return MED_E_CUDA;
    if (a->rows == 0)
        return 0;
    const size_t row_bytes = (size_t)a->table.columns * med_dtype_bytes(a->dtype);
    const uintptr_t all = (uintptr_t)a->table.data | (uintptr_t)a->out | row_bytes;
    return all % 16 == 0 ? launch<uint4>(d, a, row_bytes) : launch<uint16_t>(d, a, row_bytes);
}
