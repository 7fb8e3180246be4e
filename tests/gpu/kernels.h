/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernels of the tests of the device: some that go wrong, and a small stand-in for a model whose
 * numbers are integers, so that every way through a device must give the same bits.
 * thread: main. Each queues on the device's stream and returns 0 or MED_E_CUDA.
 */
#ifndef MED_TESTS_GPU_KERNELS_H
#define MED_TESTS_GPU_KERNELS_H

#include "worker/cuda/internal.h"

#ifdef __cplusplus
extern "C" {
#endif

int gpu_trap(struct med_cuda *d);
/* Runs until *flag (host memory that is mapped) is not 0, or for some 10 s. */
int gpu_spin(struct med_cuda *d, const int *flag);
/* One block that is busy for so long. */
int gpu_busy(struct med_cuda *d, int64_t ns);
/* *ret_wrong = how many of words[count] are not gpu_word(first + i). Synchronises. */
int gpu_words_check(struct med_cuda *d, const uint32_t *words, uint64_t first, uint64_t count,
                    uint64_t *ret_wrong);

static inline uint64_t gpu_mix(uint64_t x)
{
    x += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

/* The stand-in: a token goes to x[row], and to the cache at its slot; an item's y is a chain over all its
 * tokens in the cache in order, found by its table; logits of a sample come from x and y. */
struct gpu_chain {
    struct med_cuda *device;
    uint64_t *x;           // [rows_max]
    uint64_t *y;           // [items_max]
    uint64_t *cache;       // [blocks * block_tokens]
    uint64_t *logits;      // [samples_max]
    const uint64_t *drawn; // [samples_max] what sources point into
    int block_tokens;
};
/* A med_ops_forward; arg: struct gpu_chain. */
int gpu_chain_forward(void *arg, const struct med_ops_batch *batch);

#ifdef __cplusplus
}
#endif

#endif
