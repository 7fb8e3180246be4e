/* SPDX-License-Identifier: Apache-2.0 */
/* The pool of threads, the device's options, and what the device promises about its memory. */
#include "worker/cpu/pool.h"

#include "base/os.h"
#include "tests/check.h"
#include "worker/cpu/internal.h"

#include <stdatomic.h>
#include <time.h>

enum {
    THREADS_MAX = 5
};

struct counts {
    int64_t pieces[THREADS_MAX];
    int threads;
};

static void count_piece(void *arg, int thread, int threads)
{
    struct counts *c = arg;
    c->pieces[thread]++;
    if (thread == 0)
        c->threads = threads;
}

static void test_a_run_calls_every_thread_once(void)
{
    for (int threads = 1; threads <= THREADS_MAX; threads++) {
        struct med_cpu_pool *pool;
        struct med_err err = {0};
        REQUIRE(med_cpu_pool_new(threads, NULL, 0, &pool, &err) == 0);
        struct counts c = {.threads = 0};
        for (int64_t run = 1; run <= 2000; run++) {
            med_cpu_pool_run(pool, count_piece, &c);
            for (int t = 0; t < THREADS_MAX; t++)
                CHECK_INT(c.pieces[t], t < threads ? run : 0);
        }
        CHECK_INT(c.threads, threads);
        med_cpu_pool_free(pool);
    }
}

static void sleep_ms(long ms)
{
    struct timespec pause = {.tv_nsec = ms * 1000000};
    (void)nanosleep(&pause, NULL);
}

/* Pauses long enough that the threads sleep, and a starter that sleeps until its slow thread ends. */
static void slow_piece(void *arg, int thread, int threads)
{
    if (thread == threads - 1)
        sleep_ms(3);
    count_piece(arg, thread, threads);
}

static void test_sleepers_wake_for_a_run_and_for_its_end(void)
{
    struct med_cpu_pool *pool;
    struct med_err err = {0};
    REQUIRE(med_cpu_pool_new(3, NULL, 0, &pool, &err) == 0);
    struct counts c = {.threads = 0};
    for (int64_t run = 1; run <= 20; run++) {
        sleep_ms(2);
        med_cpu_pool_run(pool, run % 2 ? count_piece : slow_piece, &c);
        for (int t = 0; t < 3; t++)
            CHECK_INT(c.pieces[t], run);
    }
    sleep_ms(2);
    med_cpu_pool_free(pool); /* wakes them to end */
}

/* An idle pool uses no CPU: its threads sleep, each of them (or this test runs into its timeout). */
static void test_idle_threads_fall_asleep(void)
{
    struct med_cpu_pool *pool;
    struct med_err err = {0};
    REQUIRE(med_cpu_pool_new(4, NULL, 0, &pool, &err) == 0);
    struct counts c = {.threads = 0};
    med_cpu_pool_run(pool, count_piece, &c);
    while (med_cpu_pool_sleepers(pool) < 3)
        sleep_ms(1);
    CHECK_INT(med_cpu_pool_sleepers(pool), 3);
    med_cpu_pool_run(pool, count_piece, &c);
    CHECK_INT(c.pieces[3], 2);
    med_cpu_pool_free(pool);
}

static void mark_range(void *arg, int64_t begin, int64_t end, int thread)
{
    atomic_int *marks = arg;
    for (int64_t i = begin; i < end; i++)
        atomic_fetch_add(&marks[i], thread >= 0 ? 1 : 100);
}

static void test_a_split_covers_everything_once(void)
{
    for (int threads = 1; threads <= 4; threads++) {
        struct med_cpu *cpu;
        struct med_err err = {0};
        struct med_cpu_config config = {.threads = threads};
        REQUIRE(med_cpu_new(&config, &cpu, &err) == 0);
        CHECK_INT(med_cpu_threads(cpu), threads);
        for (int64_t count = 0; count < 40; count++) {
            for (int64_t grain = 1; grain < 20; grain += 6) {
                atomic_int marks[40] = {0};
                med_cpu_split(cpu, count, grain, mark_range, marks);
                for (int64_t i = 0; i < 40; i++)
                    CHECK_INT(atomic_load(&marks[i]), i < count ? 1 : 0);
            }
        }
        med_cpu_free(cpu);
    }
}

static void test_options_are_checked_and_described(void)
{
    struct med_cpu *cpu;
    struct med_err err = {0};
    struct med_cpu_config config = {.threads = MED_CPU_THREADS_MAX + 1};
    CHECK_INT(med_cpu_new(&config, &cpu, &err), MED_E_INVALID);
    CHECK_STR(err.text, "CPU backend: 257 threads, expected 1 to 256, or 0 for one per core");
    config.threads = -1;
    CHECK_INT(med_cpu_new(&config, &cpu, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "-1 threads");
    int cores[4];
    int found = med_os_cores(cores, 4);
    CHECK(found >= 1);
    config = (struct med_cpu_config){.pin = true};
    REQUIRE(med_cpu_new(&config, &cpu, &err) == 0);
    CHECK_INT(med_cpu_threads(cpu), found < MED_CPU_THREADS_MAX ? found : MED_CPU_THREADS_MAX);
    CHECK_CONTAINS(med_cpu_describe(cpu), "OpenBLAS 0.");
    CHECK_CONTAINS(med_cpu_describe(cpu), med_cpu_kernels_best()->name);
    (void)printf("%s\n", med_cpu_describe(cpu));
    med_cpu_free(cpu);
    config = (struct med_cpu_config){.threads = 3, .pin = true, .cores = cores, .core_count = 1};
    REQUIRE(med_cpu_new(&config, &cpu, &err) == 0);
    med_cpu_free(cpu);
}

static void test_a_blas_that_does_not_know_the_processor_is_not_used(void)
{
#ifdef __x86_64__
    CHECK(med_cpu_blas_fits("Zen", &med_cpu_kernels_avx2));
    CHECK(med_cpu_blas_fits("SkylakeX", &med_cpu_kernels_avx512));
    CHECK(!med_cpu_blas_fits("Prescott", &med_cpu_kernels_avx512));
    CHECK(!med_cpu_blas_fits("Sandybridge", &med_cpu_kernels_avx2));
#endif
    CHECK(med_cpu_blas_fits("Prescott", &med_cpu_kernels_portable));
}

static void test_memory_is_aligned_and_zeroed(void)
{
    const struct med_ops *ops = med_cpu_ops();
    for (size_t bytes = 0; bytes < 300; bytes += 37) {
        void *memory = NULL;
        REQUIRE(ops->alloc(NULL, bytes, &memory) == 0);
        CHECK_UINT((uintptr_t)memory % 64, 0);
        char zeros[300] = {0}, filled[300], back[300];
        CHECK(memcmp(memory, zeros, bytes) == 0);
        memset(filled, 7, sizeof filled);
        CHECK_INT(ops->put(NULL, memory, filled, bytes), 0);
        CHECK_INT(ops->get(NULL, back, memory, bytes), 0);
        CHECK(memcmp(back, filled, bytes) == 0);
        ops->free(NULL, memory);
    }
    void *memory;
    CHECK_INT(ops->alloc(NULL, SIZE_MAX, &memory), MED_E_NOMEM);
    ops->free(NULL, NULL);
}

int main(void)
{
    RUN(test_a_run_calls_every_thread_once);
    RUN(test_sleepers_wake_for_a_run_and_for_its_end);
    RUN(test_idle_threads_fall_asleep);
    RUN(test_a_split_covers_everything_once);
    RUN(test_options_are_checked_and_described);
    RUN(test_a_blas_that_does_not_know_the_processor_is_not_used);
    RUN(test_memory_is_aligned_and_zeroed);
    return check_finish();
}
