/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The small kernels around products (see norm.h): they move each element once, 16 bytes at a time,
 * and compute in float32.
 *
 * Every kernel exists for pieces of 16 bytes and, for sizes that those do not divide, for single
 * elements.  Weights of norms are fetched before the wait for the kernel before; activations are read
 * past the first-level cache, which that kernel may have filled.
 *
 * thread: engine.
 */
#include "worker/cuda/norm.h"

#include "worker/cuda/epilogue.cuh"
#include "worker/cuda/launch.cuh"

enum {
    THREADS = 256,
    NORM_THREADS_MAX = 512,
    KEPT = 4, /* pieces of a row that a thread of the norm keeps */
    HEAD_LANES_MAX = 32,
    EACH = 2 /* pieces that a thread of SiLU has */
};

/* ---- pieces ------------------------------------------------------------------------------------- */

template <typename T, int N> struct __align__(sizeof(T) * N) piece
{
    T v[N];
};

/* Past the first-level cache. */
template <typename T, int N>
static __device__ __forceinline__ struct piece<T, N> piece_get(const T *from) {
    struct piece<T, N> p;
    if constexpr (sizeof(T) * N == 16) {
        *(uint4 *)&p = __ldcg((const uint4 *)from);
    } else {
        p = *(const struct piece<T, N> *)from;
    }
    return p;
}

template <typename T, int N>
static __device__ __forceinline__ void piece_put(T *to, struct piece<T, N> p)
{
    if constexpr (sizeof(T) * N == 16) {
        *(uint4 *)to = *(const uint4 *)&p;
    } else {
        *(struct piece<T, N> *)to = p;
    }
}

template <typename T> static constexpr int per_16_bytes()
{
    return 16 / (int)sizeof(T);
}

static bool divides(int64_t count, enum med_dtype dtype)
{
    return count % (16 / (int64_t)med_dtype_bytes(dtype)) == 0;
}

static bool aligned(const void *p)
{
    return (uintptr_t)p % 16 == 0; /* NULL too */
}

/* ---- rmsnorm ------------------------------------------------------------------------------------ */

/* The sum over the block, in every thread; order of sums depends on the block alone. */
static __device__ __forceinline__ float block_sum(float value)
{
    __shared__ float sums[NORM_THREADS_MAX / 32];
    for (int other = 16; other > 0; other /= 2)
        value += __shfl_xor_sync(0xFFFFFFFFu, value, other);
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = value;
    __syncthreads();
    value = threadIdx.x % 32 < blockDim.x / 32 ? sums[threadIdx.x % 32] : 0.0f;
    for (int other = 16; other > 0; other /= 2)
        value += __shfl_xor_sync(0xFFFFFFFFu, value, other);
    return value;
}

/*
 * out[r][i] = x[x_rows ? x_rows[r] : r][i] * rsqrt(mean(x^2) + eps) * weight[i]
 * x [..][columns], weight [columns], out [rows][columns] of T; sums in float32.
 * A block per row; KEPT * N columns per thread stay in registers, the rest is read again.
 */
template <typename T, int N>
static __global__ void __launch_bounds__(NORM_THREADS_MAX)
    norm_kernel(const T *x, const int32_t *x_rows, const T *weight, int columns, float eps, T *out)
{
    const int step = (int)blockDim.x * N, begin = (int)threadIdx.x * N;
    struct piece<T, N> w[KEPT], kept[KEPT];
    float sum = 0;
    med_grid_go();
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        if (begin + k * step < columns)
            w[k] = *(const struct piece<T, N> *)(weight + begin + k * step);
    }
    med_grid_wait();
    const T *row = x + (size_t)(x_rows ? x_rows[blockIdx.x] : (int)blockIdx.x) * (size_t)columns;
    T *to = out + (size_t)blockIdx.x * (size_t)columns;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        if (begin + k * step < columns)
            kept[k] = piece_get<T, N>(row + begin + k * step);
    }
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
#pragma unroll
        for (int i = 0; i < N && begin + k * step < columns; i++)
            sum = fmaf(med_widen<T>(kept[k].v[i]), med_widen<T>(kept[k].v[i]), sum);
    }
    for (int at = begin + KEPT * step; at < columns; at += step) {
        const struct piece<T, N> p = piece_get<T, N>(row + at);
#pragma unroll
        for (int i = 0; i < N; i++)
            sum = fmaf(med_widen<T>(p.v[i]), med_widen<T>(p.v[i]), sum);
    }
    const float scale = rsqrtf(block_sum(sum) / (float)columns + eps);
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        if (begin + k * step >= columns)
            return;
#pragma unroll
        for (int i = 0; i < N; i++)
            kept[k].v[i] =
                med_narrow<T>(med_widen<T>(kept[k].v[i]) * scale * med_widen<T>(w[k].v[i]));
        piece_put<T, N>(to + begin + k * step, kept[k]);
    }
    for (int at = begin + KEPT * step; at < columns; at += step) {
        struct piece<T, N> p = piece_get<T, N>(row + at);
        const struct piece<T, N> by = *(const struct piece<T, N> *)(weight + at);
#pragma unroll
        for (int i = 0; i < N; i++)
            p.v[i] = med_narrow<T>(med_widen<T>(p.v[i]) * scale * med_widen<T>(by.v[i]));
        piece_put<T, N>(to + at, p);
    }
}

/* Threads of a row: by its length alone, so that a row's sum is the same in any batch. */
static unsigned norm_threads(int64_t pieces)
{
    int64_t threads = (pieces + 1) / 2;
    if (threads > NORM_THREADS_MAX)
        threads = NORM_THREADS_MAX;
    return (unsigned)((threads + 31) / 32 * 32);
}

extern "C" int med_cuda_norm(struct med_cuda *d, int64_t rows, int64_t columns, const void *x,
                             const int32_t *x_rows, const void *weight, float eps, void *out)
{
    if (rows == 0)
        return 0;
    const bool wide = divides(columns, d->dtype) && aligned(x) && aligned(weight) && aligned(out);
    return med_with_type(d->dtype, [&](auto type) {
        using T = decltype(type);
        const int64_t pieces = wide ? columns / per_16_bytes<T>() : columns;
        const struct med_launch launch = {dim3((unsigned)rows), dim3(norm_threads(pieces)), 0};
        return med_launch_on(d, launch,
                             wide ? norm_kernel<T, per_16_bytes<T>()> : norm_kernel<T, 1>,
                             (const T *)x, x_rows, (const T *)weight, (int)columns, eps, (T *)out);
    });
}

/* ---- rope and the cache -------------------------------------------------------------------------- */

template <typename K, int N>
static __device__ __forceinline__ void cache_put(void *base, size_t at, const float *values)
{
    struct piece<K, N> p;
#pragma unroll
    for (int i = 0; i < N; i++)
        p.v[i] = med_narrow<K>(values[i]);
    if constexpr (sizeof(K) * N > 16) {
        const uint4 *two = (const uint4 *)&p;
        ((uint4 *)((K *)base + at))[0] = two[0];
        ((uint4 *)((K *)base + at))[1] = two[1];
    } else {
        *(struct piece<K, N> *)((K *)base + at) = p;
    }
}

template <int N>
static __device__ __forceinline__ void cache_write(void *base, const struct med_cuda_linear_args &a,
                                                   size_t at, const float *values)
{
    if (a.kv.dtype == MED_DTYPE_F32) {
        cache_put<float, N>(base, at, values);
    } else if (a.kv.dtype == MED_DTYPE_F16) {
        cache_put<__half, N>(base, at, values);
    } else {
        cache_put<__nv_bfloat16, N>(base, at, values);
    }
}

/* values[..N] = raw + bias of elements [at, at + N). */
template <typename T, int N>
static __device__ __forceinline__ void raw_get(const T *raw, const T *bias, int at, float *values)
{
    const struct piece<T, N> p = piece_get<T, N>(raw + at);
#pragma unroll
    for (int i = 0; i < N; i++)
        values[i] = med_widen<T>(p.v[i]);
    if (bias) {
#pragma unroll
        for (int i = 0; i < N; i++)
            values[i] += med_widen<T>(bias[at + i]);
    }
}

/* The elements that turn together, from `at` on, if the head has them. */
template <typename T, int N>
static __device__ __forceinline__ void pair_get(const struct med_cuda_linear_args &a, const T *raw,
                                                int at, int i, float *u, float *v)
{
    const int half = (int)a.head_dim / 2;
    if (i < half) {
        raw_get<T, N>(raw, (const T *)a.bias, at + i, u);
        raw_get<T, N>(raw, (const T *)a.bias, at + half + i, v);
    }
}

/* 1 / sqrt(mean(head ^ 2) + eps) of the head at `at`, by its lanes, whose first elements are u and v. */
template <typename T, int N>
static __device__ __forceinline__ float head_scale(const struct med_cuda_linear_args &a,
                                                   const T *raw, int at, int lane, int lanes,
                                                   const float *u, const float *v)
{
    const int half = (int)a.head_dim / 2;
    float sum = 0;
#pragma unroll
    for (int k = 0; k < N && lane * N < half; k++)
        sum = fmaf(u[k], u[k], fmaf(v[k], v[k], sum));
    for (int i = (lane + lanes) * N; i < half; i += lanes * N) {
        float more_u[N], more_v[N];
        pair_get<T, N>(a, raw, at, i, more_u, more_v);
#pragma unroll
        for (int k = 0; k < N; k++)
            sum = fmaf(more_u[k], more_u[k], fmaf(more_v[k], more_v[k], sum));
    }
    for (int other = lanes / 2; other > 0; other /= 2)
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, other);
    return rsqrtf(sum / (float)a.head_dim + a.eps);
}

/*
 * raw [rows][(heads + 2 kv_heads) * head_dim] of T: + bias; q and k normed per head if asked for, then
 * turned by rope; q to a.out [rows][heads * head_dim], k and v to the cache at slots (none at -1).
 * `lanes` threads (a power of two) to a head, each with elements of the first half and those of the
 * second that turn with them; grid: rows by as many heads as a block has threads for.  Sines and
 * cosines are made once a block, in shared memory: float2 [head_dim / 2].
 */
template <typename T, int N>
static __global__ void __launch_bounds__(THREADS)
    rope_kv_kernel(const __grid_constant__ struct med_cuda_linear_args a, const T *raw, int lanes)
{
    extern __shared__ float2 turns[];
    const int half = (int)a.head_dim / 2, dim = (int)a.head_dim, row = (int)blockIdx.x;
    const int heads = (int)a.heads, kv_heads = (int)a.kv_heads;
    const int lane = (int)threadIdx.x % lanes;
    const int head = (int)blockIdx.y * (THREADS / lanes) + (int)threadIdx.x / lanes;
    const bool there = head < heads + 2 * kv_heads, turned = head < heads + kv_heads;
    const int at = there ? head * dim : 0;
    const T *norm = (const T *)(head < heads ? a.q_norm : a.k_norm);
    const float frequency = (int)threadIdx.x < half ? a.frequencies[threadIdx.x] : 0.0f;
    float u[N], v[N];
    med_grid_go();
    med_grid_wait();
    const int32_t position = a.positions[row], slot = a.slots[row];
    raw += (size_t)row * (size_t)a.outputs;
    pair_get<T, N>(a, raw, at, lane * N, u, v);
    for (int i = (int)threadIdx.x; i < half; i += THREADS)
        sincosf((float)position * (i < THREADS ? frequency : a.frequencies[i]), &turns[i].y,
                &turns[i].x);
    float scale = 1;
    if (a.q_norm) // by all lanes of a warp, for the sum's sake
        scale = head_scale<T, N>(a, raw, at, lane, lanes, u, v);
    __syncthreads();
    if (!there || (head >= heads && slot < 0))
        return;
    const size_t tokens = (size_t)a.kv.block_tokens;
    const size_t block = head < heads ? 0 : (uint32_t)slot / (uint32_t)tokens;
    const size_t token = head < heads ? 0 : (uint32_t)slot % (uint32_t)tokens;
    const size_t kv_head = (size_t)(head < heads ? 0 : (head - heads) % kv_heads);
    const size_t to = ((block * (size_t)kv_heads + kv_head) * tokens + token) * (size_t)dim;
    for (int i = lane * N; i < half; i += lanes * N) {
        if (i != lane * N)
            pair_get<T, N>(a, raw, at, i, u, v);
#pragma unroll
        for (int k = 0; k < N && turned; k++) {
            if (a.q_norm) {
                u[k] *= scale * med_widen<T>(norm[i + k]);
                v[k] *= scale * med_widen<T>(norm[half + i + k]);
            }
            const float2 turn = turns[i + k];
            const float first = u[k] * turn.x - v[k] * turn.y;
            v[k] = v[k] * turn.x + u[k] * turn.y;
            u[k] = first;
        }
        if (head < heads) {
            T *q = (T *)a.out + (size_t)row * (size_t)(heads * dim) + at + i;
            cache_put<T, N>(q, 0, u);
            cache_put<T, N>(q, (size_t)half, v);
        } else {
            void *base = turned ? a.kv.keys : a.kv.values;
            cache_write<N>(base, a, to + (size_t)i, u);
            cache_write<N>(base, a, to + (size_t)(half + i), v);
        }
    }
}

extern "C" int med_cuda_rope_kv(struct med_cuda *d, const struct med_cuda_linear_args *a,
                                const void *raw)
{
    if (a->rows == 0)
        return 0;
    const int64_t half = a->head_dim / 2;
    /* 16 bytes of the cache too, whatever its dtype: of T a piece has 8 elements or 4. */
    const bool wide = half % 8 == 0 && aligned(raw) && aligned(a->out) && aligned(a->kv.keys) &&
                      aligned(a->kv.values);
    return med_with_type(a->dtype, [&](auto type) {
        using T = decltype(type);
        const int64_t pieces = wide ? half / per_16_bytes<T>() : half;
        int lanes = 1;
        while (lanes < pieces && lanes < HEAD_LANES_MAX)
            lanes *= 2;
        const int64_t all = a->heads + 2 * a->kv_heads, at_once = THREADS / lanes;
        const struct med_launch launch = {
            dim3((unsigned)a->rows, (unsigned)((all + at_once - 1) / at_once)), dim3(THREADS),
            (size_t)half * sizeof(float2)};
        return med_launch_on(d, launch,
                             wide ? rope_kv_kernel<T, per_16_bytes<T>()> : rope_kv_kernel<T, 1>, *a,
                             (const T *)raw, lanes);
    });
}

/* ---- SiLU and bias --------------------------------------------------------------------------------- */

/* x / (1 + exp(-x)); for the narrow types by the fast instructions, whose error is far below their
 * rounding. */
template <typename T> static __device__ __forceinline__ float silu(float x)
{
    if constexpr (sizeof(T) == 4)
        return x / (1.0f + expf(-x));
    return __fdividef(x, 1.0f + __expf(-x));
}

/*
 * out[r][i] = silu(raw[r][i] + bias[i]) * (raw[r][n + i] + bias[n + i]), n = intermediate.
 * raw [rows][2n], out [rows][n], bias [2n] or NULL of T. Pieces of all rows are counted through, EACH to
 * a thread: their loads are under way together.  rows * n < 2^32.
 */
template <typename T, int N>
static __global__ void __launch_bounds__(THREADS)
    swiglu_kernel(const T *raw, const T *bias, int n, uint32_t pieces, T *out)
{
    const uint32_t first = blockIdx.x * (THREADS * EACH) + threadIdx.x,
                   row_pieces = (uint32_t)n / N;
    float gate[EACH][N], up[EACH][N];
    med_grid_go();
    med_grid_wait();
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const uint32_t piece = first + e * THREADS, row = piece / row_pieces;
        const int i = (int)(piece - row * row_pieces) * N;
        if (piece < pieces) {
            const T *from = raw + (size_t)row * 2 * (size_t)n;
            raw_get<T, N>(from, bias, i, gate[e]);
            raw_get<T, N>(from, bias, n + i, up[e]);
        }
    }
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const uint32_t piece = first + e * THREADS;
#pragma unroll
        for (int k = 0; k < N; k++)
            gate[e][k] = silu<T>(gate[e][k]) * up[e][k];
        if (piece < pieces) // rows lie one behind the other
            cache_put<T, N>(out, (size_t)piece * N, gate[e]);
    }
}

extern "C" int med_cuda_swiglu(struct med_cuda *d, const struct med_cuda_linear_args *a,
                               const void *raw)
{
    if (a->rows == 0)
        return 0;
    const int64_t n = a->outputs / 2;
    const bool wide = divides(n, a->dtype) && aligned(raw) && aligned(a->out);
    return med_with_type(a->dtype, [&](auto type) {
        using T = decltype(type);
        const int64_t pieces = a->rows * (wide ? n / per_16_bytes<T>() : n);
        const struct med_launch launch = {
            dim3((unsigned)((pieces + THREADS * EACH - 1) / (THREADS * EACH))), dim3(THREADS), 0};
        return med_launch_on(
            d, launch, wide ? swiglu_kernel<T, per_16_bytes<T>()> : swiglu_kernel<T, 1>,
            (const T *)raw, (const T *)a->bias, (int)n, (uint32_t)pieces, (T *)a->out);
    });
}

/* out[r][i] += bias[i]; out [rows][columns], bias [columns] of T. Grid: rows by columns. */
template <typename T>
static __global__ void __launch_bounds__(THREADS) bias_kernel(const T *bias, int columns, T *out)
{
    const int i = (int)(blockIdx.y * THREADS + threadIdx.x);
    med_grid_go();
    const float value = i < columns ? med_widen<T>(bias[i]) : 0.0f;
    med_grid_wait();
    if (i >= columns)
        return;
    out += (size_t)blockIdx.x * (size_t)columns;
    out[i] = med_narrow<T>(med_widen<T>(out[i]) + value);
}

extern "C" int med_cuda_add_bias(struct med_cuda *d, int64_t rows, int64_t columns,
                                 const void *bias, void *out)
{
    if (rows == 0)
        return 0;
    return med_with_type(d->dtype, [&](auto type) {
        using T = decltype(type);
        const struct med_launch launch = {
            dim3((unsigned)rows, (unsigned)((columns + THREADS - 1) / THREADS)), dim3(THREADS), 0};
        return med_launch_on(d, launch, bias_kernel<T>, (const T *)bias, (int)columns, (T *)out);
    });
}
