/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernels of sample.cu share, and their numbers: the CPU's own, operation by operation, so
 * that both draw the same ids (worker/engine/sampler.c says why integers).  CUDA C++17.
 */
#ifndef MED_WORKER_CUDA_SAMPLE_CUH
#define MED_WORKER_CUDA_SAMPLE_CUH

#include "worker/cuda/launch.cuh"
#include "worker/cuda/sample_job.h"

#include <float.h>

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    BINS = MED_CUDA_SAMPLE_BINS,
    LIST = MED_CUDA_SAMPLE_LIST,
    PARTS_MAX = MED_CUDA_SAMPLE_PARTS,
    RANGE = 40, /* (largest - l) / temperature that the bins span; no weight is left there */
};

enum mode {
    MODE_DONE,    /* drawn */
    MODE_FAILED,  /* nothing can be drawn */
    MODE_PENDING, /* `best` is there */
    MODE_LIST,    /* all that can be drawn is in bins up to `bin`, few enough for the list */
    MODE_BORDER,  /* top_p's border is in bin `bin`, whose ids are few enough */
    MODE_WHOLE    /* neither: one block looks at the whole row again and again */
};

/* ---- numbers --------------------------------------------------------------------------------- */

/* Orders as the floats do, -0 and +0 alike. */
static __device__ __forceinline__ uint32_t order_key(float value)
{
    const uint32_t bits = __float_as_uint(__fadd_rn(value, 0.0F));
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ float key_value(uint32_t key)
{
    return __uint_as_float(key & 0x80000000u ? key & 0x7FFFFFFFu : ~key);
}

/* exp(x) for x in [-64, 0]: sampler.c's, without contraction. */
static __device__ __forceinline__ double exp_small(double x)
{
    const double shift = 0x1.8p52;
    const double shifted = __dadd_rn(__dmul_rn(x, 0x1.71547652b82fep0), shift);
    const double n = __dsub_rn(shifted, shift);
    double r = __dsub_rn(x, __dmul_rn(n, 0x1.62e42fee00000p-1));
    r = __dsub_rn(r, __dmul_rn(n, 0x1.a39ef35793c76p-33));
    double p = 1.0 / 6227020800.0;
    p = __dadd_rn(__dmul_rn(p, r), 1.0 / 479001600.0);
    p = __dadd_rn(__dmul_rn(p, r), 1.0 / 39916800.0);
    p = __dadd_rn(__dmul_rn(p, r), 1.0 / 3628800.0);
    p = __dadd_rn(__dmul_rn(p, r), 1.0 / 362880.0);
    p = __dadd_rn(__dmul_rn(p, r), 1.0 / 40320.0);
    p = __dadd_rn(__dmul_rn(p, r), 1.0 / 5040.0);
    p = __dadd_rn(__dmul_rn(p, r), 1.0 / 720.0);
    p = __dadd_rn(__dmul_rn(p, r), 1.0 / 120.0);
    p = __dadd_rn(__dmul_rn(p, r), 1.0 / 24.0);
    p = __dadd_rn(__dmul_rn(p, r), 1.0 / 6.0);
    p = __dadd_rn(__dmul_rn(p, r), 0.5);
    p = __dadd_rn(__dmul_rn(p, r), 1.0);
    p = __dadd_rn(__dmul_rn(p, r), 1.0);
    const uint64_t power = ((uint64_t)__double_as_longlong(shifted) + 1023) << 52;
    return __dmul_rn(p, __longlong_as_double((long long)power));
}

/* How a row's logits become weights; without a branch, so that several are computed at once. */
struct scale {
    double largest, inverse, min_p, one;
    float bins; /* per unit of logit */
};

static __device__ __forceinline__ struct scale
scale_of(const struct med_cuda_sample_job &j, const struct med_cuda_row &row, uint32_t largest)
{
    return {(double)key_value(largest), row.inverse, row.min_p, j.one,
            fminf((float)(row.inverse * (BINS / (double)RANGE)), FLT_MAX)};
}

static __device__ __forceinline__ uint64_t weight_of(const struct scale &s, float l)
{
    const double least = -37; /* makes less than a half of s.one, which is 2^51 at most: 0 */
    const double x = __dmul_rn(__dsub_rn((double)l, s.largest), s.inverse);
    const double p = exp_small(x > least ? x : least);
    const double shifted = __dadd_rn(p >= s.min_p ? __dmul_rn(p, s.one) : 0, 0x1p52);
    return (uint64_t)__double_as_longlong(shifted) & ((UINT64_C(1) << 52) - 1);
}

/* Not decreasing as l falls; bin BINS - 1 holds ids without weight alone, as RANGE is above 37. */
static __device__ __forceinline__ uint32_t bin_of(const struct scale &s, float l)
{
    const float distance = __fmul_rn(__fsub_rn((float)s.largest, l), s.bins);
    return distance < (float)(BINS - 1) ? (uint32_t)distance : BINS - 1;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

struct shared_bins {
    uint32_t low[BINS], high[BINS]; /* of 64-bit sums: the hardware adds 32 bits in shared memory */
    uint64_t warps[WARPS];
    uint64_t found_above;
    uint32_t found;
};

static __device__ __forceinline__ void bins_clear(struct shared_bins &s)
{
    for (int i = threadIdx.x; i < BINS; i += THREADS)
        s.low[i] = s.high[i] = 0;
    __syncthreads();
}

static __device__ __forceinline__ void bins_add(struct shared_bins &s, uint32_t bin,
                                                uint64_t amount)
{
    const uint32_t low = (uint32_t)amount;
    uint32_t high = (uint32_t)(amount >> 32);
    if (low > 0)
        high += atomicAdd(&s.low[bin], low) + low < low; /* the carry */
    if (high > 0)
        atomicAdd(&s.high[bin], high);
}

static __device__ __forceinline__ uint64_t bins_get(const struct shared_bins &s, uint32_t bin)
{
    return (uint64_t)s.high[bin] << 32 | s.low[bin];
}

/* The sum of the values of the threads before this one; the sum of all in *ret_all. Has barriers. */
static __device__ __forceinline__ uint64_t block_before(struct shared_bins &s, uint64_t value,
                                                        uint64_t *ret_all)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint64_t sum = value;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const uint64_t other = __shfl_up_sync(0xFFFFFFFFu, sum, d);
        sum += lane >= d ? other : 0;
    }
    __syncthreads();
    if (lane == 31)
        s.warps[warp] = sum;
    __syncthreads();
    uint64_t before = 0, all = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        before += w < warp ? s.warps[w] : 0;
        all += s.warps[w];
    }
    *ret_all = all;
    return before + sum - value;
}

static __device__ __forceinline__ uint64_t block_max(struct shared_bins &s, uint64_t value)
{
#pragma unroll
    for (int d = 16; d > 0; d /= 2) {
        const uint64_t other = __shfl_xor_sync(0xFFFFFFFFu, value, d);
        value = other > value ? other : value;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        s.warps[threadIdx.x / 32] = value;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        value = s.warps[w] > value ? s.warps[w] : value;
    return value;
}

/* Whether this is the last block of its row to come here: it sees what the others wrote before. */
static __device__ __forceinline__ bool is_last_block(struct med_cuda_sample_state &state, int parts)
{
    __shared__ uint32_t last;
    __threadfence();
    __syncthreads();
    if (parts == 1)
        return true;
    if (threadIdx.x == 0) {
        last = atomicAdd(&state.arrived, 1u) == (uint32_t)parts - 1;
        if (last)
            state.arrived = 0;
    }
    __syncthreads();
    __threadfence();
    return last;
}

static __device__ __forceinline__ void publish(const struct med_cuda_sample_job &j, int r,
                                               uint32_t id, uint32_t status, uint32_t mode)
{
    j.ids[r] = id;
    j.results[r].id = id;
    j.results[r].status = status;
    j.states[r].mode = mode;
}

#endif
