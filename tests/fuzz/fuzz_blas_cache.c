/* SPDX-License-Identifier: Apache-2.0 */
/* The file of timed algorithms: any bytes are read or refused with a sentence; what is read is printed
 * as a file that reads back to the same.  thread: main. */
#include "worker/cuda/blas_cache.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/buf.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct med_blas_cache cache = {0}, again = {0};
    struct med_err err = {0};
    struct med_buf text, twice;
    /* Bytes of their own: an access beyond them is seen. */
    char *bytes = med_alloc(size + 1);
    MED_ASSERT(bytes);
    memcpy(bytes, data, size);
    bytes = med_realloc(bytes, size ? size : 1);
    MED_ASSERT(bytes);
    int rc = med_blas_cache_parse(bytes, size, "input", &cache, &err);
    med_free(bytes);
    if (rc < 0) {
        MED_ASSERT(rc == MED_E_FORMAT || rc == MED_E_LIMIT);
        MED_ASSERT(strncmp(err.text, "input: line ", 12) == 0);
        return 0;
    }
    med_buf_init(&text, MED_BLAS_CACHE_BYTES_MAX);
    med_buf_init(&twice, MED_BLAS_CACHE_BYTES_MAX);
    rc = med_blas_cache_print(&cache, &text);
    MED_ASSERT(rc == 0);
    rc = med_blas_cache_parse(text.data, text.length, "printed", &again, &err);
    MED_ASSERT(rc == 0 && again.count == cache.count);
    for (size_t i = 0; i < cache.count; i++) {
        const struct med_blas_entry *found = med_blas_cache_find(&again, &cache.entries[i]);
        MED_ASSERT(found);
        MED_ASSERT(memcmp(found->algorithm, cache.entries[i].algorithm, sizeof found->algorithm) ==
                   0);
    }
    rc = med_blas_cache_print(&again, &twice);
    MED_ASSERT(rc == 0 && twice.length == text.length);
    MED_ASSERT(memcmp(twice.data, text.data, text.length) == 0);
    med_buf_release(&text);
    med_buf_release(&twice);
    med_blas_cache_release(&cache);
    med_blas_cache_release(&again);
    return 0;
}
