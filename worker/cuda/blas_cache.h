/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file of timed algorithms: text, one product a line.
 *
 *     medley-blas 1
 *     gpu NVIDIA H100 80GB HBM3
 *     driver 13000
 *     cublas 130101
 *     dtype bfloat16
 *     product 12288 4096 512 0 bfloat16 71.93 <16 hexadecimal digits> x 8
 *     end 1
 *
 * A product is outputs, columns, rows, adds, out_dtype, microseconds, and the algorithm as cuBLASLt keeps
 * it, which only the same version of the library understands; it is checked again before use.
 * Knows no CUDA. thread: any.
 */
#ifndef MED_WORKER_CUDA_BLAS_CACHE_H
#define MED_WORKER_CUDA_BLAS_CACHE_H

#include "base/err.h"
#include "worker/model/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct med_buf;

enum {
    MED_BLAS_CACHE_ENTRIES_MAX = 4096,
    MED_BLAS_CACHE_BYTES_MAX = 1 << 20,
    MED_BLAS_CACHE_GPU_MAX = 256,
    MED_BLAS_ALGORITHM_WORDS = 8
};

struct med_blas_entry {
    int64_t outputs, columns, rows;
    bool adds;
    enum med_dtype out_dtype;
    double us;
    uint64_t algorithm[MED_BLAS_ALGORITHM_WORDS];
};

/* Whose algorithms these are. */
struct med_blas_identity {
    char gpu[MED_BLAS_CACHE_GPU_MAX];
    int64_t driver, cublas;
    enum med_dtype dtype;
};

/* Zeroed is empty. owns: entries. */
struct med_blas_cache {
    struct med_blas_identity identity;
    struct med_blas_entry *entries;
    size_t count, capacity;
};

void med_blas_cache_release(struct med_blas_cache *cache);
/* Replaces the entry of the same product. MED_E_LIMIT, MED_E_NOMEM. */
int med_blas_cache_put(struct med_blas_cache *cache,
                       const struct med_blas_entry *entry) MED_MUST_CHECK;
/* NULL: not there. Borrowed until the next put. */
const struct med_blas_entry *med_blas_cache_find(const struct med_blas_cache *cache,
                                                 const struct med_blas_entry *product);

/* name is what errors call the text. MED_E_FORMAT, MED_E_LIMIT, MED_E_NOMEM. */
int med_blas_cache_parse(const char *text, size_t length, const char *name,
                         struct med_blas_cache *ret_cache, struct med_err *err) MED_MUST_CHECK;

/* Appends the text. MED_E_LIMIT, MED_E_NOMEM. */
int med_blas_cache_print(const struct med_blas_cache *cache, struct med_buf *text) MED_MUST_CHECK;

/* Of the directory `dir`: the file of this identity. MED_E_NOT_FOUND: there is none (no sentence). A
 * file of another identity is MED_E_FORMAT. */
int med_blas_cache_read(const char *dir, const struct med_blas_identity *identity,
                        struct med_blas_cache *ret_cache, struct med_err *err) MED_MUST_CHECK;
/* Makes the directory, and replaces the file as a whole or not at all. */
int med_blas_cache_write(const char *dir, const struct med_blas_cache *cache,
                         struct med_err *err) MED_MUST_CHECK;

#endif
