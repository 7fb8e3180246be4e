/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A growing byte buffer with a maximum.
 *
 * Invariants: data is NULL or holds capacity bytes; length <= capacity <= max_bytes + 1; data is
 * always NUL-terminated after a successful append, so it can be printed; the NUL is not counted.
 * owns: data. thread: the owner's.
 * errors: MED_E_LIMIT when an append would pass max_bytes, MED_E_NOMEM; the content is then
 * unchanged.
 */
#ifndef MED_BASE_BUF_H
#define MED_BASE_BUF_H

#include "base/err.h"

#include <stdarg.h>
#include <stddef.h>

struct med_buf {
    char *data;
    size_t length;
    size_t capacity;
    size_t max_bytes;
};

void med_buf_init(struct med_buf *buf, size_t max_bytes);
void med_buf_release(struct med_buf *buf);
void med_buf_clear(struct med_buf *buf); /* empty, keeps the storage */

int med_buf_reserve(struct med_buf *buf, size_t more_bytes) MED_MUST_CHECK;
int med_buf_append(struct med_buf *buf, const void *bytes, size_t count) MED_MUST_CHECK;
int med_buf_append_str(struct med_buf *buf, const char *s) MED_MUST_CHECK;
int med_buf_printf(struct med_buf *buf, const char *fmt, ...) MED_PRINTF(2, 3) MED_MUST_CHECK;
int med_buf_vprintf(struct med_buf *buf, const char *fmt, va_list args)
    MED_PRINTF(2, 0) MED_MUST_CHECK;
/* Drops count bytes from the front (count <= length). */
void med_buf_consume(struct med_buf *buf, size_t count);
/* Moves the string out (caller frees with med_free); the buffer is empty afterwards. */
char *med_buf_take(struct med_buf *buf);

/* Reads a whole file; "-" is standard input.  A file over max_bytes is MED_E_LIMIT. */
int med_buf_read_file(struct med_buf *buf, const char *path, struct med_err *err) MED_MUST_CHECK;

#endif
