/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A product without tensor cores (see plain.h): tiles of 64 x 64 in shared memory, 4 x 4 sums to a
 * thread, columns in order.
 * thread: engine.
 */
#include "worker/cuda/plain.h"

#include "worker/cuda/launch.cuh"

enum {
    TILE = 64,
    DEPTH = 16,
    EACH = 4,
    SIDE = TILE / EACH,
    THREADS = SIDE * SIDE
};

/* to[k][i] = rows[first + i][begin + k], zeros beyond the array. */
template <typename T>
static __device__ __forceinline__ void tile_get(float (*to)[TILE + 1], const T *rows, int64_t first,
                                                int64_t count, int64_t columns, int64_t begin)
{
    for (int i = (int)threadIdx.x; i < TILE * DEPTH; i += THREADS) {
        const int64_t row = first + i / DEPTH, column = begin + i % DEPTH;
        const bool there = row < count && column < columns;
        to[i % DEPTH][i / DEPTH] =
            there ? med_widen<T>(rows[(size_t)row * (size_t)columns + (size_t)column]) : 0.0f;
    }
}

/*
 * out[m][n] (+)= sum over k of in[m][k] W[n][k], in the order of k, in float32.
 * in [rows][columns], W [outputs][columns] of T, out [rows][outputs] of O. Grid: tiles of outputs by
 * tiles of rows.
 */
template <typename T, typename O>
static __global__ void __launch_bounds__(THREADS) plain_kernel(struct med_cuda_product p)
{
    __shared__ float in[DEPTH][TILE + 1], weight[DEPTH][TILE + 1];
    const int64_t m_first = (int64_t)blockIdx.y * TILE, n_first = (int64_t)blockIdx.x * TILE;
    const int m_own = (int)threadIdx.x / SIDE, n_own = (int)threadIdx.x % SIDE;
    float sums[EACH][EACH] = {};
    med_grid_go();
    med_grid_wait();
    for (int64_t begin = 0; begin < p.columns; begin += DEPTH) {
        __syncthreads();
        tile_get<T>(in, (const T *)p.in, m_first, p.rows, p.columns, begin);
        tile_get<T>(weight, (const T *)p.weight, n_first, p.outputs, p.columns, begin);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
#pragma unroll
            for (int i = 0; i < EACH * EACH; i++)
                sums[i / EACH][i % EACH] =
                    fmaf(in[k][m_own + i / EACH * SIDE], weight[k][n_own + i % EACH * SIDE],
                         sums[i / EACH][i % EACH]);
        }
    }
#pragma unroll
    for (int i = 0; i < EACH * EACH; i++) {
        const int64_t m = m_first + m_own + i / EACH * SIDE, n = n_first + n_own + i % EACH * SIDE;
        if (m < p.rows && n < p.outputs) {
            O *out = (O *)p.out + (size_t)m * (size_t)p.outputs + (size_t)n;
            const float before = p.adds ? med_widen<O>(*out) : 0.0f;
            *out = med_narrow<O>(before + sums[i / EACH][i % EACH]);
        }
    }
}

extern "C" int med_cuda_plain(struct med_cuda *d, const struct med_cuda_product *p)
{
    if (p->rows == 0)
        return 0;
    return med_with_type(p->dtype, [&](auto type) {
        using T = decltype(type);
        const struct med_launch launch = {dim3((unsigned)((p->outputs + TILE - 1) / TILE),
                                               (unsigned)((p->rows + TILE - 1) / TILE)),
                                          dim3(THREADS), 0};
        return med_launch_on(
            d, launch, p->out_dtype == p->dtype ? plain_kernel<T, T> : plain_kernel<T, float>, *p);
    });
}
