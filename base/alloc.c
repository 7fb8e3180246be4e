/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Allocation wrappers with a byte count and fault injection.
 *
 * The live bytes are what the heap reports for each block, so that free needs no header of its own.
 * The three counters are independent statistics: relaxed atomics are enough, since nothing is
 * published through them.  thread: any.
 */
#include "base/alloc.h"

#include "base/os.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static atomic_llong bytes_live;
static atomic_ullong allocations;
static atomic_ullong fail_countdown; // 0: off; 1: the next one fails

/* Counts one allocation and says whether it must fail. */
static bool allocation_fails(void)
{
    (void)atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    unsigned long long left = atomic_load_explicit(&fail_countdown, memory_order_relaxed);
    while (left > 0) {
        if (atomic_compare_exchange_weak_explicit(&fail_countdown, &left, left - 1,
                                                  memory_order_relaxed, memory_order_relaxed))
            return left == 1;
    }
    return false;
}

static void count_live(void *p, long long sign)
{
    long long bytes = (long long)med_os_heap_bytes(p);
    (void)atomic_fetch_add_explicit(&bytes_live, sign * bytes, memory_order_relaxed);
}

void *med_alloc(size_t bytes)
{
    if (allocation_fails())
        return NULL;
    /* One byte for zero, so that NULL always means failure. */
    void *p = malloc(bytes ? bytes : 1);
    count_live(p, 1);
    return p;
}

void *med_calloc(size_t count, size_t bytes)
{
    if (allocation_fails())
        return NULL;
    void *p = count && bytes ? calloc(count, bytes) : calloc(1, 1);
    count_live(p, 1);
    return p;
}

void *med_realloc(void *p, size_t bytes)
{
    if (allocation_fails())
        return NULL;
    long long before = (long long)med_os_heap_bytes(p);
    void *grown = realloc(p, bytes ? bytes : 1);
    if (!grown)
        return NULL;
    long long after = (long long)med_os_heap_bytes(grown);
    (void)atomic_fetch_add_explicit(&bytes_live, after - before, memory_order_relaxed);
    return grown;
}

void *med_realloc_array(void *p, size_t count, size_t bytes)
{
    if (bytes && count > SIZE_MAX / bytes)
        return NULL;
    return med_realloc(p, count * bytes);
}

char *med_strdup(const char *s)
{
    return med_strndup(s, SIZE_MAX);
}

char *med_strndup(const char *s, size_t bytes)
{
    size_t length = bytes == SIZE_MAX ? strlen(s) : strnlen(s, bytes);
    char *copy = med_alloc(length + 1);
    if (!copy)
        return NULL;
    memcpy(copy, s, length);
    copy[length] = '\0';
    return copy;
}

void med_free(void *p)
{
    if (!p)
        return;
    count_live(p, -1);
    free(p);
}

int64_t med_alloc_bytes_live(void)
{
    return (int64_t)atomic_load_explicit(&bytes_live, memory_order_relaxed);
}

uint64_t med_alloc_fail_nth(uint64_t n)
{
    atomic_store_explicit(&fail_countdown, n, memory_order_relaxed);
    return (uint64_t)atomic_exchange_explicit(&allocations, 0, memory_order_relaxed);
}
