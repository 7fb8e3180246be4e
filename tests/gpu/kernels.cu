/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of the tests of the device (see kernels.h). One thread per row, item or sample; slow, plain. */
#include "tests/gpu/kernels.h"

#include "worker/cuda/launch.cuh"

enum {
    THREADS = 64
};

static __device__ uint64_t mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

static __global__ void trap_kernel(void)
{
    med_grid_wait();
    __trap();
}

extern "C" int gpu_trap(struct med_cuda *d)
{
    return med_launch_on(d, {dim3(1), dim3(1), 0}, trap_kernel);
}

static __global__ void spin_kernel(const volatile int *flag, long long ns_max)
{
    long long begin, now;
    med_grid_wait();
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    do {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (*flag == 0 && now - begin < ns_max);
}

extern "C" int gpu_spin(struct med_cuda *d, const int *flag)
{
    return med_launch_on(d, {dim3(1), dim3(1), 0}, spin_kernel, flag, 10000000000ll);
}

static __global__ void busy_kernel(long long ns)
{
    long long begin, now;
    med_grid_wait();
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    do {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - begin < ns);
}

extern "C" int gpu_busy(struct med_cuda *d, int64_t ns)
{
    return med_launch_on(d, {dim3(1), dim3(1), 0}, busy_kernel, (long long)ns);
}

static __global__ void words_kernel(const uint32_t *words, uint64_t first, uint64_t count,
                                    unsigned long long *wrong)
{
    unsigned long long found = 0;
    med_grid_wait();
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < count;
         i += (uint64_t)gridDim.x * blockDim.x)
        found += words[i] != (uint32_t)mix(first + i);
    if (found)
        atomicAdd(wrong, found);
}

extern "C" int gpu_words_check(struct med_cuda *d, const uint32_t *words, uint64_t first,
                               uint64_t count, uint64_t *ret_wrong)
{
    void *wrong = NULL;
    int rc = med_cuda_alloc(d, sizeof(uint64_t), &wrong);
    if (rc == 0)
        rc = med_launch_on(d, {dim3(1024), dim3(256), 0}, words_kernel, words, first, count,
                           (unsigned long long *)wrong);
    if (rc == 0)
        rc = med_cuda_ops()->get(d, ret_wrong, wrong, sizeof *ret_wrong);
    med_cuda_release(d, wrong);
    return rc;
}

/* x[r] = mix(token of r, position); cache[slots[r]] = x[r] */
static __global__ void token_kernel(const struct gpu_chain c, const struct med_ops_batch b)
{
    med_grid_wait();
    med_grid_go();
    const int64_t r = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (r >= b.rows)
        return;
    const uint64_t id = b.sources[r] >= 0 ? c.drawn[b.sources[r]] : b.ids[r];
    const uint64_t value = mix(mix(id) + (uint64_t)b.positions[r]);
    c.x[r] = value;
    if (b.slots[r] >= 0)
        c.cache[b.slots[r]] = value;
}

/* y[i] = chain over the tokens of item i in the cache, up to its last row */
static __global__ void chain_kernel(const struct gpu_chain c, const struct med_ops_batch b,
                                    const int32_t *tables, const int32_t *begins)
{
    med_grid_wait();
    med_grid_go();
    const int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (i >= b.items)
        return;
    const int rows = b.item_rows[i + 1] - b.item_rows[i];
    uint64_t y = 1;
    /* An item of padding is row i alone, and nothing of it is in the cache. */
    const int tokens = b.slots[b.item_rows[i]] < 0 ? 0 : b.contexts[i] + rows;
    for (int t = 0; t < tokens; t++) {
        const int64_t block = tables[begins[i] + t / c.block_tokens];
        y = mix(y ^ c.cache[block * c.block_tokens + t % c.block_tokens]);
    }
    c.y[i] = y;
}

/* logits[s] = mix(x[row] + y[item of row]) */
static __global__ void logits_kernel(const struct gpu_chain c, const struct med_ops_batch b)
{
    med_grid_wait();
    med_grid_go();
    const int64_t s = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (s >= b.samples)
        return;
    const int row = b.head_rows[s];
    int item = 0;
    while (b.item_rows[item + 1] <= row)
        item++;
    c.logits[s] = mix(c.x[row] + c.y[item]);
}

static struct med_launch launch_of(int64_t count)
{
    return {dim3((unsigned)((count + THREADS - 1) / THREADS)), dim3(THREADS), 0};
}

extern "C" int gpu_chain_forward(void *arg, const struct med_ops_batch *batch)
{
    const struct gpu_chain *c = (const struct gpu_chain *)arg;
    struct med_cuda *d = c->device;
    int rc = med_launch_on(d, launch_of(batch->rows), token_kernel, *c, *batch);
    if (rc == 0)
        rc = med_launch_on(d, launch_of(batch->items), chain_kernel, *c, *batch, d->batch.tables,
                           d->batch.table_begins);
    if (rc == 0 && batch->samples > 0)
        rc = med_launch_on(d, launch_of(batch->samples), logits_kernel, *c, *batch);
    return rc;
}
