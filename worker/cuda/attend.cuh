/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the attention kernels share: instructions, the paged cache's addresses, and the plain kernels'
 * loop over a row's tokens.
 *
 * CUDA C++17; included by attend_*.cu alone.
 */
#ifndef MED_WORKER_CUDA_ATTEND_CUH
#define MED_WORKER_CUDA_ATTEND_CUH

#include "worker/cuda/attend.h"
#include "worker/cuda/instructions.cuh"
#include "worker/cuda/launch.cuh"

/* A layer's cache, and how a batch's block tables lead to it. */
struct med_paged {
    const void *keys, *values; // [blocks][kv_heads][block_tokens][head_dim]
    const int32_t *tables;     /* of all items, one behind another */
    int kv_heads, block_tokens, head_dim;
    int shift; /* block_tokens is 1 << shift; -1: no power of two */
};

static inline struct med_paged med_paged_of(const struct med_cuda *d,
                                            const struct med_attend_args *a)
{
    struct med_paged p = {};
    p.keys = a->kv.keys;
    p.values = a->kv.values;
    p.tables = d->batch.tables;
    p.kv_heads = (int)a->kv_heads;
    p.block_tokens = (int)a->kv.block_tokens;
    p.head_dim = (int)a->head_dim;
    p.shift = -1;
    for (int s = 0; s < 16; s++) {
        if (p.block_tokens == 1 << s)
            p.shift = s;
    }
    return p;
}

/* Offset, in elements, of the first one of a token's key or value. table: of the item. */
static __device__ __forceinline__ int64_t med_paged_at(const struct med_paged &p,
                                                       const int32_t *table, int head, int token)
{
    const int block = p.shift >= 0 ? token >> p.shift : token / p.block_tokens;
    const int place = token - block * p.block_tokens;
    return (((int64_t)__ldg(table + block) * p.kv_heads + head) * p.block_tokens + place) *
           p.head_dim;
}

static __device__ __forceinline__ uint32_t med_shared_at(const void *pointer)
{
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

/* 16 bytes to shared memory, behind this thread's back; zeros if not `there`. */
static __device__ __forceinline__ void med_copy_16(uint32_t to, const void *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(there ? 16 : 0)
                 : "memory");
}

/* Two values as the halves of a register, `low` in the lower. */
template <typename T> static __device__ __forceinline__ uint32_t med_pack(float low, float high);
template <> __device__ __forceinline__ uint32_t med_pack<__nv_bfloat16>(float low, float high)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
template <> __device__ __forceinline__ uint32_t med_pack<__half>(float low, float high)
{
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

/* 2^x; 0 for -infinity */
static __device__ __forceinline__ float med_power(float x)
{
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}

/* Element i of an activation. */
static __device__ __forceinline__ float med_element(const void *base, enum med_dtype dtype,
                                                    int64_t i)
{
    if (dtype == MED_DTYPE_F32)
        return ((const float *)base)[i];
    if (dtype == MED_DTYPE_F16)
        return __half2float(((const __half *)base)[i]);
    return __bfloat162float(((const __nv_bfloat16 *)base)[i]);
}

static __device__ __forceinline__ void med_element_put(void *base, enum med_dtype dtype, int64_t i,
                                                       float value)
{
    if (dtype == MED_DTYPE_F32) {
        ((float *)base)[i] = value;
    } else if (dtype == MED_DTYPE_F16) {
        ((__half *)base)[i] = __float2half_rn(value);
    } else {
        ((__nv_bfloat16 *)base)[i] = __float2bfloat16_rn(value);
    }
}

/* ---- online softmax ----------------------------------------------------------------------------- */

/* A part of a softmax over tokens: scores are to the base 2; most -infinity: no token. */
struct med_soft {
    float most, total;
};

/* Takes one more part in, of which `sum` is an element of the result. The same operations wherever parts
 * are merged, so that it does not matter which block merges. */
static __device__ __forceinline__ void med_soft_merge(struct med_soft *to, float *to_sum,
                                                      struct med_soft part, float sum)
{
    if (part.most == -INFINITY)
        return;
    const float most = fmaxf(to->most, part.most);
    const float before = med_power(to->most - most), now = med_power(part.most - most);
    *to_sum = __fmaf_rn(*to_sum, before, __fmul_rn(sum, now));
    to->total = __fmaf_rn(to->total, before, __fmul_rn(part.total, now));
    to->most = most;
}

/* ---- plain ------------------------------------------------------------------------------------- */

enum {
    MED_PLAIN_DIMS = 8, /* elements of a head per lane: element lane + 32 * i */
    MED_PLAIN_AHEAD = 4 /* tokens at a time */
};

/* One warp: the softmax over tokens begin, begin + step, ... below end, for a query that the lanes hold,
 * already times the scale and log2(e). float32 throughout. */
template <typename K>
static __device__ __forceinline__ struct med_soft
med_plain_tokens(const struct med_paged &p, const int32_t *table, int head, const float *query,
                 int begin, int end, int step, float *sums)
{
    const int lane = threadIdx.x % 32;
    struct med_soft soft = {-INFINITY, 0.0f};
#pragma unroll
    for (int i = 0; i < MED_PLAIN_DIMS; i++)
        sums[i] = 0.0f;
    for (int token = begin; token < end; token += step * MED_PLAIN_AHEAD) {
        float scores[MED_PLAIN_AHEAD];
        int64_t at[MED_PLAIN_AHEAD];
#pragma unroll
        for (int n = 0; n < MED_PLAIN_AHEAD; n++) {
            const int mine = token + n * step;
            scores[n] = 0.0f;
            at[n] = med_paged_at(p, table, head, mine < end ? mine : token);
#pragma unroll
            for (int i = 0; i < MED_PLAIN_DIMS; i++) {
                if (lane + 32 * i < p.head_dim)
                    scores[n] +=
                        query[i] * med_widen<K>(((const K *)p.keys)[at[n] + lane + 32 * i]);
            }
        }
        float most = soft.most;
#pragma unroll
        for (int n = 0; n < MED_PLAIN_AHEAD; n++) {
#pragma unroll
            for (int other = 16; other > 0; other /= 2)
                scores[n] += __shfl_xor_sync(0xffffffffu, scores[n], other);
            if (token + n * step >= end)
                scores[n] = -INFINITY;
            most = fmaxf(most, scores[n]);
        }
        const float before = med_power(soft.most - most);
        soft.most = most;
        soft.total *= before;
#pragma unroll
        for (int i = 0; i < MED_PLAIN_DIMS; i++)
            sums[i] *= before;
#pragma unroll
        for (int n = 0; n < MED_PLAIN_AHEAD; n++) {
            const float weight = med_power(scores[n] - most);
            soft.total += weight;
#pragma unroll
            for (int i = 0; i < MED_PLAIN_DIMS; i++) {
                if (lane + 32 * i < p.head_dim)
                    sums[i] += weight * med_widen<K>(((const K *)p.values)[at[n] + lane + 32 * i]);
            }
        }
    }
    return soft;
}

#endif
