/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Allocation wrappers: every heap allocation of Medley goes through these, so that a test can make
 * the Nth one fail and a program can report what it holds.
 *
 * Contract: as malloc/calloc/realloc/strdup, returning NULL on failure (callers return
 * MED_E_NOMEM).  Sizes are counted with malloc_usable_size. med_free accepts NULL.
 * thread: any; the counters are atomics.
 */
#ifndef MED_BASE_ALLOC_H
#define MED_BASE_ALLOC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

void *med_alloc(size_t bytes) __attribute__((malloc, warn_unused_result));
void *med_calloc(size_t count, size_t bytes) __attribute__((malloc, warn_unused_result));
void *med_realloc(void *p, size_t bytes) __attribute__((warn_unused_result));
/* As realloc(p, count * bytes) with the product checked for overflow (then NULL, p untouched). */
void *med_realloc_array(void *p, size_t count, size_t bytes) __attribute__((warn_unused_result));
char *med_strdup(const char *s) __attribute__((malloc, warn_unused_result));
char *med_strndup(const char *s, size_t bytes) __attribute__((malloc, warn_unused_result));
void med_free(void *p);

int64_t med_alloc_bytes_live(void);

/* Fault injection. n >= 1: the nth allocation from now returns NULL, once; 0: off.
 * Returns how many allocations were made since the last call. */
uint64_t med_alloc_fail_nth(uint64_t n);

#ifdef __cplusplus
}
#endif

#endif
