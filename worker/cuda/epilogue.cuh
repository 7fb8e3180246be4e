/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a product, shared by small.cu and skinny.cu: what becomes of the sums of a pair of outputs.
 *
 * Outputs come in pairs (see linear.h).  med_pair_rows says which two rows of W pair p is; med_pair_look
 * reads what the end needs besides the sums; med_pair_finish puts the two sums of one row of the batch
 * where they belong.  All are the same code for every kernel, so that a product's result does not depend on which kernel computed it but for
 * the order of sums.
 *
 * pairs: ADD, LOGITS: (outputs + 1) / 2, rows p' and p' + 8 of each 16 (the second may be beyond
 * the last output: then it is not there); ROPE_KV: (heads + 2 kv_heads) * head_dim / 2; SWIGLU:
 * outputs / 2.  Eight neighbouring pairs, 8a .. 8a + 7, are always eight neighbouring rows and the
 * eight that belong to them, if head_dim / 2 and intermediate are multiples of 8.
 */
#ifndef MED_WORKER_CUDA_EPILOGUE_CUH
#define MED_WORKER_CUDA_EPILOGUE_CUH

#include "worker/cuda/launch.cuh"
#include "worker/cuda/linear.h"

struct med_pair {
    int64_t first, second; // rows of W; second may be >= outputs: not there (ADD, LOGITS)
};

static __host__ __device__ __forceinline__ int64_t
med_pair_count(const struct med_cuda_linear_args &a, int epilogue)
{
    if (epilogue == MED_CUDA_ROPE_KV || epilogue == MED_CUDA_SWIGLU)
        return a.outputs / 2;
    return (a.outputs + 15) / 16 * 8;
}

template <int EPILOGUE>
static __device__ __forceinline__ struct med_pair
med_pair_rows(const struct med_cuda_linear_args &a, int64_t pair)
{
    struct med_pair rows;
    if (EPILOGUE == MED_CUDA_ROPE_KV) {
        const uint32_t half = (uint32_t)(a.head_dim / 2),
                       p = (uint32_t)pair; // 64-bit division is slow
        rows.first = p / half * a.head_dim + p % half;
        rows.second = rows.first + half;
    } else if (EPILOGUE == MED_CUDA_SWIGLU) {
        rows.first = pair;
        rows.second = pair + a.outputs / 2;
    } else {
        rows.first = pair / 8 * 16 + pair % 8;
        rows.second = rows.first + 8;
    }
    return rows;
}

/* Element (head, i) of a token's key or value. */
template <typename K>
static __device__ __forceinline__ void med_kv_put(void *base, const struct med_cuda_linear_args &a,
                                                  int32_t slot, int64_t head, int64_t i,
                                                  float value)
{
    const uint32_t tokens = (uint32_t)a.kv.block_tokens;
    const int64_t block = (uint32_t)slot / tokens, token = (uint32_t)slot % tokens;
    ((K *)base)[((block * a.kv_heads + head) * a.kv.block_tokens + token) * a.head_dim + i] =
        med_narrow<K>(value);
}

static __device__ __forceinline__ void med_kv_write(void *base,
                                                    const struct med_cuda_linear_args &a,
                                                    int32_t slot, int64_t head, int64_t i,
                                                    float value)
{
    if (a.kv.dtype == MED_DTYPE_F32) {
        med_kv_put<float>(base, a, slot, head, i, value);
    } else if (a.kv.dtype == MED_DTYPE_F16) {
        med_kv_put<__half>(base, a, slot, head, i, value);
    } else {
        med_kv_put<__nv_bfloat16>(base, a, slot, head, i, value);
    }
}

/* u, v turned by an angle. */
static __device__ __forceinline__ void med_turn(float sine, float cosine, float *u, float *v)
{
    const float turned = *u * cosine - *v * sine;
    *v = *v * cosine + *u * sine;
    *u = turned;
}

/* Rope on elements i and i + head_dim / 2 (u, v) of a head at `position`. The angle is reduced exactly
 * as the CPU does it: a float32 product, then an accurate sine. */
static __device__ __forceinline__ void med_rope_turn(float frequency, int32_t position, float *u,
                                                     float *v)
{
    float sine, cosine;
    sincosf((float)position * frequency, &sine, &cosine);
    med_turn(sine, cosine, u, v);
}

/* What the epilogue of a pair reads, which depends on nothing that the product computes: read before the sums
 * are there, it costs no time behind them. */
struct med_pair_ahead {
    float first, second; // ADD: what is added to; ROPE_KV: sine and cosine
    int32_t slot;        // ROPE_KV
};

template <typename T, int EPILOGUE>
static __device__ __forceinline__ struct med_pair_ahead
med_pair_look(const struct med_cuda_linear_args &a, struct med_pair rows, int64_t m)
{
    struct med_pair_ahead ahead = {0, 0, -1};
    if (EPILOGUE == MED_CUDA_ADD && !a.stores) {
        const T *x = (const T *)a.out + (size_t)m * a.outputs;
        if (rows.first < a.outputs)
            ahead.first = med_widen<T>(__ldcg(x + rows.first));
        if (rows.second < a.outputs)
            ahead.second = med_widen<T>(__ldcg(x + rows.second));
    } else if (EPILOGUE == MED_CUDA_ROPE_KV) {
        const uint32_t dim = (uint32_t)a.head_dim, first = (uint32_t)rows.first;
        if (first / dim < a.heads + a.kv_heads)
            sincosf((float)a.positions[m] * a.frequencies[first % dim], &ahead.first,
                    &ahead.second);
        ahead.slot = a.slots[m];
    }
    return ahead;
}

template <typename T, int EPILOGUE>
static __device__ __forceinline__ void med_pair_finish(const struct med_cuda_linear_args &a,
                                                       struct med_pair rows, int64_t m, float u,
                                                       float v, struct med_pair_ahead ahead)
{
    const T *bias = (const T *)a.bias;
    const bool has_second = rows.second < a.outputs;
    if (EPILOGUE != MED_CUDA_LOGITS && bias) {
        u += rows.first < a.outputs ? med_widen<T>(bias[rows.first]) : 0.0f;
        v += has_second ? med_widen<T>(bias[rows.second]) : 0.0f;
    }
    if (EPILOGUE == MED_CUDA_LOGITS) {
        float *out = (float *)a.out + (size_t)m * a.outputs;
        if (rows.first < a.outputs)
            out[rows.first] = u;
        if (has_second)
            out[rows.second] = v;
    } else if (EPILOGUE == MED_CUDA_ADD) {
        T *x = (T *)a.out + (size_t)m * a.outputs;
        if (rows.first < a.outputs)
            x[rows.first] = med_narrow<T>(ahead.first + u);
        if (has_second)
            x[rows.second] = med_narrow<T>(ahead.second + v);
    } else if (EPILOGUE == MED_CUDA_SWIGLU) {
        const float silu = u / (1.0f + expf(-u));
        ((T *)a.out)[(size_t)m * (a.outputs / 2) + rows.first] = med_narrow<T>(silu * v);
    } else {
        const uint32_t dim = (uint32_t)a.head_dim, first = (uint32_t)rows.first;
        const int64_t head = first / dim, i = first % dim;
        const int64_t half = a.head_dim / 2;
        if (head < a.heads + a.kv_heads)
            med_turn(ahead.first, ahead.second, &u, &v);
        if (head < a.heads) {
            T *q = (T *)a.out + ((size_t)m * a.heads + head) * a.head_dim + i;
            q[0] = med_narrow<T>(u);
            q[half] = med_narrow<T>(v);
        } else if (ahead.slot >= 0) {
            const bool is_key = head < a.heads + a.kv_heads;
            const int64_t kv_head = head - a.heads - (is_key ? 0 : a.kv_heads);
            void *base = is_key ? a.kv.keys : a.kv.values;
            med_kv_write(base, a, ahead.slot, kv_head, i, u);
            med_kv_write(base, a, ahead.slot, kv_head, i + half, v);
        }
    }
}

#endif
