/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool of threads that run one function at a time, all together.
 *
 * thread: the one that made it starts runs; it takes part as thread 0. owns: its threads.
 */
#ifndef MED_WORKER_CPU_POOL_H
#define MED_WORKER_CPU_POOL_H

#include "base/err.h"

struct med_cpu_pool;

/* A piece of a run: called once on each thread, 0 <= thread < threads. */
typedef void med_cpu_piece(void *arg, int thread, int threads);

/* threads >= 1, the caller's included.  cores: thread i > 0 is pinned to cores[i % core_count];
 * core_count 0: nothing is pinned. */
int med_cpu_pool_new(int threads, const int *cores, size_t core_count,
                     struct med_cpu_pool **ret_pool, struct med_err *err) MED_MUST_CHECK;
void med_cpu_pool_free(struct med_cpu_pool *pool);
/* Returns when every piece has returned; what they wrote is visible to the caller then. */
void med_cpu_pool_run(struct med_cpu_pool *pool, med_cpu_piece *piece, void *arg);
/* Workers that sleep at this moment. For tests. */
int med_cpu_pool_sleepers(struct med_cpu_pool *pool);

#endif
