/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's limits (see limits.h): a streaming read, and the BLAS without anything around it.
 * thread: engine; the read's pieces on the pool's threads.
 */
#include "worker/cpu/limits.h"

#include "worker/cpu/internal.h"

#include <cblas.h>
#include <stdatomic.h>

struct reading {
    const uint64_t *words;
    size_t count;
    _Atomic uint64_t sum;
};

static void read_share(void *arg, int thread, int threads)
{
    enum {
        LANES = 16 /* independent sums, so that the adds do not wait for one another */
    };
    struct reading *r = arg;
    size_t begin = r->count / (size_t)threads * (size_t)thread;
    size_t end = thread + 1 == threads ? r->count : begin + r->count / (size_t)threads;
    uint64_t sums[LANES] = {0};
    size_t i = begin;
    for (; i + LANES <= end; i += LANES) {
        for (size_t lane = 0; lane < LANES; lane++)
            sums[lane] += r->words[i + lane];
    }
    uint64_t sum = 0;
    for (; i < end; i++)
        sum += r->words[i];
    for (size_t lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    atomic_fetch_add_explicit(&r->sum, sum, memory_order_relaxed); /* the pool orders the rest */
}

uint64_t med_cpu_read(struct med_cpu *cpu, const void *memory, size_t bytes)
{
    struct reading r = {.words = memory, .count = bytes / sizeof(uint64_t)};
    med_cpu_pool_run(cpu->pool, read_share, &r);
    return r.sum;
}

void med_cpu_blas_threads(struct med_cpu *cpu, bool own)
{
    openblas_set_num_threads(own ? cpu->threads : 1);
}

void med_cpu_blas(const struct med_cpu_blas_args *a)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)a->rows, (blasint)a->outputs,
                (blasint)a->columns, 1.0f, a->in, (blasint)a->columns, a->weights,
                (blasint)a->columns, 0.0f, a->out, (blasint)a->outputs);
}
