/* SPDX-License-Identifier: Apache-2.0 */
/* The allocation wrappers: counting, overflow, fault injection.  thread: main and helpers. */
#include "base/alloc.h"
#include "tests/check.h"

#include <pthread.h>

static void test_live_bytes_follow_every_call(void)
{
    int64_t live = med_alloc_bytes_live();
    char *a = med_alloc(100);
    REQUIRE(a);
    CHECK(med_alloc_bytes_live() >= live + 100);
    int64_t with_a = med_alloc_bytes_live();
    a = med_realloc(a, 100000);
    REQUIRE(a);
    CHECK(med_alloc_bytes_live() >= with_a + 99000);
    char *b = med_calloc(10, 10);
    REQUIRE(b);
    for (int i = 0; i < 100; i++)
        CHECK_INT(b[i], 0);
    char *c = med_strdup("text");
    char *d = med_strndup("text", 2);
    char *e = med_strndup("text", 9);
    CHECK_STR(c, "text");
    CHECK_STR(d, "te");
    CHECK_STR(e, "text");
    med_free(a);
    med_free(b);
    med_free(c);
    med_free(d);
    med_free(e);
    med_free(NULL);
    CHECK_INT(med_alloc_bytes_live(), live);
}

static void test_zero_bytes_are_not_a_failure(void)
{
    void *a = med_alloc(0);
    void *b = med_calloc(0, 8);
    void *c = med_realloc(NULL, 0);
    CHECK(a);
    CHECK(b);
    CHECK(c);
    med_free(a);
    med_free(b);
    med_free(c);
}

static void test_array_overflow_is_null_and_keeps_the_block(void)
{
    int *p = med_realloc_array(NULL, 4, sizeof *p);
    REQUIRE(p);
    p[3] = 7;
    CHECK(!med_realloc_array(p, SIZE_MAX / 2, sizeof *p));
    CHECK_INT(p[3], 7);
    int64_t live = med_alloc_bytes_live();
    (void)med_alloc_fail_nth(1);
    CHECK(!med_realloc(p, 1 << 20));
    CHECK_INT(p[3], 7);
    CHECK_INT(med_alloc_bytes_live(), live);
    med_free(p);
}

static void test_nth_fails_once(void)
{
    (void)med_alloc_fail_nth(3);
    for (int i = 1; i <= 5; i++) {
        void *p = med_alloc(1);
        CHECK_INT(p == NULL, i == 3);
        med_free(p);
    }
    CHECK_UINT(med_alloc_fail_nth(0), 5);
    CHECK_UINT(med_alloc_fail_nth(0), 0);
}

static void *allocate_many(void *arg)
{
    uintptr_t failures = 0;
    (void)arg;
    for (int i = 0; i < 5000; i++) {
        void *p = med_alloc((size_t)i);
        failures += p == NULL;
        med_free(p);
    }
    return (void *)failures;
}

static void test_counters_hold_across_threads(void)
{
    enum {
        THREADS = 4
    };
    pthread_t threads[THREADS];
    int64_t live = med_alloc_bytes_live();
    (void)med_alloc_fail_nth(7000);
    for (int i = 0; i < THREADS; i++)
        REQUIRE(pthread_create(&threads[i], NULL, allocate_many, NULL) == 0);
    uintptr_t failures = 0;
    for (int i = 0; i < THREADS; i++) {
        void *result;
        REQUIRE(pthread_join(threads[i], &result) == 0);
        failures += (uintptr_t)result;
    }
    CHECK_UINT(failures, 1); // exactly one of the four saw it
    CHECK_UINT(med_alloc_fail_nth(0), 4 * 5000);
    CHECK_INT(med_alloc_bytes_live(), live);
}

int main(void)
{
    RUN(test_live_bytes_follow_every_call);
    RUN(test_zero_bytes_are_not_a_failure);
    RUN(test_array_overflow_is_null_and_keeps_the_block);
    RUN(test_nth_fails_once);
    RUN(test_counters_hold_across_threads);
    return check_finish();
}
