/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention of single rows where no query heads share a key, or few keys are read: a stream of keys and
 * values through registers.
 *
 * out[h] = sum_t softmax_t(scale q[h] . k[t]) v[t].
 *
 * A block has one part of a row's tokens (attend_plan.h) and one head; heads that share a key each read it,
 * all but one out of the cache.  LANES neighbouring threads have
 * one token at a time, 16 bytes of its key and of its value each; UNROLL tokens are loaded before the
 * first is used, which is what keeps the memory bus full: with one query head per key there is too little
 * to compute for tensor cores to matter, and no detour through shared memory.  Scores are summed
 * over the lanes by shuffles; each group of lanes keeps its own running softmax, merged over shared
 * memory at the end in the order of the groups.  A row of several parts leaves partial results in
 * memory, and the block that comes last (by the row's counter) merges them in the order of parts.
 *
 * Before the wait for the kernel before, the first keys and values are fetched if they were in the cache
 * before this batch: plan, tables and those were written before this step's first kernel began.
 *
 * thread: engine.
 */
#include "worker/cuda/attend_stream.h"

#include "worker/cuda/launch.cuh"

enum {
    WARPS = 4,
    THREADS = WARPS * 32,
    UNROLL = 4,
    PARTS_MAX = 32 /* merged at a time: one per thread of a warp */
};

struct stream {
    const void *q; // [rows][heads * head_dim]
    const void *keys, *values;
    const struct med_cuda_decode_part *parts;
    const int32_t *tables;
    float *partials;            // [..][heads][head_dim + 2]: largest score, sum of weights, sums
    uint32_t *counters;         // [..][heads]
    void *out;                  // [rows][heads * head_dim]
    float scale;                /* times log2(e) */
    int heads, kv_heads, group; // group: heads that share a key
    int head_dim, window;
    int block_shift; /* log2 of a block's tokens */
};

/* Eight elements. */
template <typename T> static __device__ __forceinline__ void widen_eight(uint4 from, float *to)
{
    const T *v = (const T *)&from;
#pragma unroll
    for (int i = 0; i < 8; i++)
        to[i] = med_widen<T>(v[i]);
}

/* A running softmax: weights are 2 ^ (score - most). */
struct running {
    float most, total, sums[8];
};

static __device__ __forceinline__ void running_add(struct running &r, float score,
                                                   const float *value)
{
    const float most = fmaxf(r.most, score);
    const float old = exp2f(r.most - most), weight = exp2f(score - most);
    r.most = most;
    r.total = fmaf(r.total, old, weight);
#pragma unroll
    for (int i = 0; i < 8; i++)
        r.sums[i] = fmaf(weight, value[i], r.sums[i] * old);
}

/* Where a token's 16 bytes of this lane are, in elements; of a kv head, here and below. */
template <int LANES>
static __device__ __forceinline__ size_t place_of(const struct stream &s, const int32_t *table,
                                                  int token, int head)
{
    const int lane = threadIdx.x % LANES, block_tokens = 1 << s.block_shift;
    const size_t block = (size_t)table[token >> s.block_shift];
    const size_t row =
        ((block * s.kv_heads + head) << s.block_shift) + (token & (block_tokens - 1));
    return row * s.head_dim + (lane * 8 < s.head_dim ? lane * 8 : 0);
}

/* Loads the tokens of one turn that `early` says: those in the cache before this batch, or the rest. */
template <typename T, int LANES>
static __device__ __forceinline__ void load_turn(const struct stream &s,
                                                 const struct med_cuda_decode_part &p, int first,
                                                 int head, bool early, uint4 *keys, uint4 *values)
{
    constexpr int TOKENS = THREADS / LANES;
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
        const int token = first + u * TOKENS + (int)threadIdx.x / LANES;
        if (token < p.end && (token < p.context) == early) {
            const size_t at = place_of<LANES>(s, s.tables + p.table, token, head);
            keys[u] = __ldcg((const uint4 *)((const T *)s.keys + at));
            values[u] = __ldcg((const uint4 *)((const T *)s.values + at));
        }
    }
}

/* The block that is last merges the row's parts, up to PARTS_MAX of which are weighed at a time. */
template <typename T>
static __device__ void merge_parts(const struct stream &s, const struct med_cuda_decode_part &p,
                                   int head)
{
    __shared__ float weights[PARTS_MAX + 1]; // and their total
    const int stride = s.head_dim + 2;
    const float *from = s.partials + ((size_t)p.merge * s.heads + head) * stride;
    const size_t part_stride = (size_t)s.heads * stride;
    const int e = threadIdx.x < s.head_dim ? threadIdx.x : 0;
    float most = -INFINITY, total = 0, sum = 0;
    for (int first = 0; first < p.parts; first += PARTS_MAX) {
        const int count = min(p.parts - first, (int)PARTS_MAX);
        float part_most = -INFINITY, part_total = 0, before = most;
        if (threadIdx.x < count) {
            part_most = __ldcg(from + (first + threadIdx.x) * part_stride);
            part_total = __ldcg(from + (first + threadIdx.x) * part_stride + 1);
            weights[threadIdx.x] = part_most;
        }
        __syncthreads();
        for (int k = 0; k < count; k++)
            most = fmaxf(most, weights[k]);
        __syncthreads();
        const float weight = part_total > 0 ? exp2f(part_most - most) : 0.0f;
        if (threadIdx.x < count)
            weights[threadIdx.x] = weight;
        float totals = weight * part_total;
        for (int other = 16; other > 0; other /= 2) // PARTS_MAX is a warp
            totals += __shfl_xor_sync(0xFFFFFFFFu, totals, other);
        if (threadIdx.x == 0)
            weights[PARTS_MAX] = totals;
        __syncthreads();
        const float old = total > 0 ? exp2f(before - most) : 0.0f;
        total = total * old + weights[PARTS_MAX];
        sum *= old;
#pragma unroll 8
        for (int k = 0; k < count; k++)
            sum = fmaf(__ldcg(from + (first + k) * part_stride + 2 + e), weights[k], sum);
        __syncthreads();
    }
    if (threadIdx.x < s.head_dim)
        ((T *)s.out)[((size_t)p.row * s.heads + head) * s.head_dim + e] =
            med_narrow<T>(sum / total);
}

/*
 * See above. q, out [rows][heads][head_dim] of T, keys and values [blocks][heads][block_tokens][head_dim]
 * of T, 16-byte aligned; float32 sums.  grid: (parts of the plan, heads); block: THREADS.
 * LANES * 8 >= head_dim, a multiple of 8.
 */
template <typename T, int LANES>
static __global__ void __launch_bounds__(THREADS)
    attend_stream_kernel(const __grid_constant__ struct stream s)
{
    constexpr int TOKENS = THREADS / LANES; // of one round of the block
    __shared__ float group_sums[TOKENS][LANES * 8];
    __shared__ float group_most[TOKENS], group_total[TOKENS];
    __shared__ bool is_last;
    const int lane = threadIdx.x % LANES, own = threadIdx.x / LANES;
    const int head = blockIdx.y, kv_head = head / s.group;
    const bool has_elements = lane * 8 < s.head_dim;
    uint4 keys[UNROLL] = {}, values[UNROLL] = {};
    med_grid_go();
    struct med_cuda_decode_part p = s.parts[blockIdx.x];
    if (p.row < 0) {
        med_grid_wait();
        return;
    }
    const int sees = s.window > 0 && p.position >= s.window ? p.position - s.window + 1 : 0;
    const int begin = p.begin > sees ? p.begin : sees;
    load_turn<T, LANES>(s, p, begin, kv_head, true, keys, values);
    med_grid_wait();
    load_turn<T, LANES>(s, p, begin, kv_head, false, keys, values);

    const size_t row_head = (size_t)p.row * s.heads + head;
    uint4 raw = make_uint4(0, 0, 0, 0);
    float q[8];
    struct running r = {-INFINITY, 0, {}};
    if (has_elements)
        raw = __ldcg((const uint4 *)((const T *)s.q + row_head * s.head_dim + lane * 8));
    widen_eight<T>(raw, q);
    for (int first = begin; first < p.end; first += TOKENS * UNROLL) {
        if (first > begin) {
            load_turn<T, LANES>(s, p, first, kv_head, true, keys, values);
            load_turn<T, LANES>(s, p, first, kv_head, false, keys, values);
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const bool is_there = first + u * TOKENS + own < p.end;
            float key[8], value[8];
            widen_eight<T>(keys[u], key);
            widen_eight<T>(values[u], value);
            float score = 0;
#pragma unroll
            for (int i = 0; i < 8; i++)
                score = fmaf(q[i], key[i], score);
#pragma unroll
            for (int other = LANES / 2; other > 0; other /= 2)
                score += __shfl_xor_sync(0xFFFFFFFFu, score, other);
            if (is_there)
                running_add(r, score * s.scale, value);
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        group_sums[own][lane * 8 + i] = r.sums[i];
    if (lane == 0) {
        group_most[own] = r.most;
        group_total[own] = r.total;
    }
    __syncthreads();
    float most = -INFINITY, total = 0;
    for (int i = 0; i < TOKENS; i++)
        most = fmaxf(most, group_most[i]);
    for (int i = 0; i < TOKENS; i++) // a group that has seen no token has total 0
        total += group_total[i] > 0 ? group_total[i] * exp2f(group_most[i] - most) : 0.0f;
    if (threadIdx.x < s.head_dim) {
        const int e = threadIdx.x;
        float sum = 0;
        for (int i = 0; i < TOKENS; i++)
            sum += group_total[i] > 0 ? group_sums[i][e] * exp2f(group_most[i] - most) : 0.0f;
        if (p.parts == 1) {
            ((T *)s.out)[row_head * s.head_dim + e] = med_narrow<T>(sum / total);
        } else {
            float *to =
                s.partials + ((size_t)(p.merge + p.part) * s.heads + head) * (s.head_dim + 2);
            __stcg(to + 2 + e, sum);
            if (e == 0) {
                __stcg(to, most);
                __stcg(to + 1, total);
            }
        }
    }
    if (p.parts == 1)
        return;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t *counter = s.counters + (size_t)p.merge * s.heads + head;
        is_last = atomicAdd(counter, 1) == (uint32_t)p.parts - 1;
        if (is_last)
            *counter = 0;
    }
    __syncthreads();
    if (!is_last)
        return;
    __threadfence();
    merge_parts<T>(s, p, head);
}

/* ---- host ------------------------------------------------------------------------------------------ */

template <typename T>
static int launch(struct med_cuda *d, const struct med_attend_args *a, const struct stream &s)
{
    const struct med_launch how = {
        dim3((unsigned)d->attention->shape.decode_parts, (unsigned)a->heads), dim3(THREADS), 0};
    return a->head_dim <= 64 ? med_launch_on(d, how, attend_stream_kernel<T, 8>, s)
                             : med_launch_on(d, how, attend_stream_kernel<T, 16>, s);
}

extern "C" int med_cuda_attend_stream(struct med_cuda *d, const struct med_attend_args *a)
{
    const struct med_cuda_attention *attention = d->attention;
    struct stream s = {};
    s.q = a->q;
    s.keys = a->kv.keys;
    s.values = a->kv.values;
    s.parts = attention->parts;
    s.tables = d->batch.tables;
    s.partials = attention->partials;
    s.counters = attention->counters;
    s.out = a->out;
    s.scale = a->scale * 1.4426950408889634f;
    s.heads = (int)a->heads;
    s.kv_heads = (int)a->kv_heads;
    s.group = (int)(a->heads / a->kv_heads);
    s.head_dim = (int)a->head_dim;
    s.window = (int)a->window;
    while ((1 << s.block_shift) < a->kv.block_tokens)
        s.block_shift++;
    return a->dtype == MED_DTYPE_BF16 ? launch<__nv_bfloat16>(d, a, s) : launch<__half>(d, a, s);
}
