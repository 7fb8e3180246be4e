/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pool of threads (see pool.h).
 *
 * A run is published by raising `run`; each worker that sees a new number runs its piece and lowers
 * `left`.  A worker looks for the next run for some tens of microseconds (the ops of a step follow
 * each other closely) and then sleeps on a condition variable, so that an idle worker costs nothing;
 * the starter takes the lock only if somebody sleeps.  The starter waits for the pieces in the same
 * way: first looking, then sleeping, since another process may hold a core.
 *
 * No lost wake-up: a sleeper raises `sleepers` and then looks at `run` once more, the starter raises
 * `run` and then looks at `sleepers`; both are sequentially consistent, so one of them sees the other.
 * thread: see pool.h.  Holds no queue: one run at a time.
 */
#include "worker/cpu/pool.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/os.h"
#include "base/thread.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum {
    LOOKS_MAX = 4000 /* about 50 us of pauses: more than the gap between two ops of a step */
};

struct member {
    struct med_cpu_pool *pool;
    pthread_t thread;
    int index;
    int core; /* -1: anywhere */
};

struct med_cpu_pool {
    int threads, started;
    struct member *members; // [threads]; [0] is the caller's
    struct {
        atomic_uint run; /* number of runs so far */
        atomic_int left; /* workers still at the present run */
        atomic_int sleepers;
        atomic_bool starter_sleeps;
        atomic_bool ends;
        pthread_mutex_t lock;
        pthread_cond_t wake, done;
        /* Of the present run: written before `run` is raised, constant until `left` is 0. */
        med_cpu_piece *piece;
        void *arg;
    } shared;
};

static void pause_a_little(void)
{
#ifdef __x86_64__
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Returns the number of the next run after `seen`. */
static unsigned wait_for_run(struct med_cpu_pool *pool, unsigned seen)
{
    for (int looks = 0; looks < LOOKS_MAX; looks++) {
        unsigned run = atomic_load_explicit(&pool->shared.run, memory_order_acquire);
        if (run != seen)
            return run;
        pause_a_little();
    }
    (void)pthread_mutex_lock(&pool->shared.lock);
    atomic_fetch_add(&pool->shared.sleepers, 1);
    unsigned run;
    while ((run = atomic_load(&pool->shared.run)) == seen)
        (void)pthread_cond_wait(&pool->shared.wake, &pool->shared.lock);
    atomic_fetch_sub(&pool->shared.sleepers, 1);
    (void)pthread_mutex_unlock(&pool->shared.lock);
    return run;
}

static void *member_run(void *arg)
{
    struct member *m = arg;
    struct med_cpu_pool *pool = m->pool;
    if (m->core >= 0)
        (void)med_os_thread_pin(pthread_self(), m->core); // a hint: it runs elsewhere just as well
    for (unsigned seen = 0;;) {
        seen = wait_for_run(pool, seen);
        if (atomic_load(&pool->shared.ends))
            return NULL;
        pool->shared.piece(pool->shared.arg, m->index, pool->threads);
        if (atomic_fetch_sub(&pool->shared.left, 1) == 1 &&
            atomic_load(&pool->shared.starter_sleeps)) {
            (void)pthread_mutex_lock(&pool->shared.lock);
            (void)pthread_cond_signal(&pool->shared.done);
            (void)pthread_mutex_unlock(&pool->shared.lock);
        }
    }
}

static void publish(struct med_cpu_pool *pool)
{
    atomic_fetch_add(&pool->shared.run, 1);
    if (atomic_load(&pool->shared.sleepers) > 0) {
        (void)pthread_mutex_lock(&pool->shared.lock);
        (void)pthread_cond_broadcast(&pool->shared.wake);
        (void)pthread_mutex_unlock(&pool->shared.lock);
    }
}

static void wait_for_members(struct med_cpu_pool *pool)
{
    for (int looks = 0; looks < LOOKS_MAX; looks++) {
        if (atomic_load_explicit(&pool->shared.left, memory_order_acquire) == 0)
            return;
        pause_a_little();
    }
    (void)pthread_mutex_lock(&pool->shared.lock);
    atomic_store(&pool->shared.starter_sleeps, true);
    while (atomic_load(&pool->shared.left) > 0)
        (void)pthread_cond_wait(&pool->shared.done, &pool->shared.lock);
    atomic_store(&pool->shared.starter_sleeps, false);
    (void)pthread_mutex_unlock(&pool->shared.lock);
}

void med_cpu_pool_run(struct med_cpu_pool *pool, med_cpu_piece *piece, void *arg)
{
    if (pool->threads > 1) {
        pool->shared.piece = piece;
        pool->shared.arg = arg;
        atomic_store(&pool->shared.left, pool->threads - 1);
        publish(pool);
    }
    piece(arg, 0, pool->threads);
    if (pool->threads > 1)
        wait_for_members(pool);
}

int med_cpu_pool_sleepers(struct med_cpu_pool *pool)
{
    return atomic_load(&pool->shared.sleepers);
}

int med_cpu_pool_new(int threads, const int *cores, size_t core_count,
                     struct med_cpu_pool **ret_pool, struct med_err *err)
{
    MED_ASSERT(threads >= 1);
    struct med_cpu_pool *pool = med_calloc(1, sizeof *pool);
    if (!pool)
        return med_err_set(err, MED_E_NOMEM, "CPU backend: no memory for its threads");
    pool->threads = threads;
    pool->started = 1;
    (void)pthread_mutex_init(&pool->shared.lock, NULL);
    (void)pthread_cond_init(&pool->shared.wake, NULL);
    (void)pthread_cond_init(&pool->shared.done, NULL);
    pool->members = med_calloc((size_t)threads, sizeof *pool->members);
    if (!pool->members) {
        med_cpu_pool_free(pool);
        return med_err_set(err, MED_E_NOMEM, "CPU backend: no memory for its threads");
    }
    for (int i = 1; i < threads; i++) {
        struct member *m = &pool->members[i];
        int core = core_count > 0 ? cores[(size_t)i % core_count] : -1;
        *m = (struct member){.pool = pool, .index = i, .core = core};
        char name[24];
        (void)snprintf(name, sizeof name, "cpu-%d", i);
        int rc = med_thread_start(&m->thread, name, member_run, m);
        if (rc < 0) {
            med_cpu_pool_free(pool);
            return med_err_set(err, rc, "CPU backend: thread %d of %d did not start: %s", i + 1,
                               threads, med_os_errno_text(rc));
        }
        pool->started = i + 1;
    }
    *ret_pool = pool;
    return 0;
}

void med_cpu_pool_free(struct med_cpu_pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->shared.ends, true);
    publish(pool);
    for (int i = 1; i < pool->started; i++)
        (void)pthread_join(pool->members[i].thread, NULL);
    (void)pthread_cond_destroy(&pool->shared.done);
    (void)pthread_cond_destroy(&pool->shared.wake);
    (void)pthread_mutex_destroy(&pool->shared.lock);
    med_free(pool->members);
    med_free(pool);
}
