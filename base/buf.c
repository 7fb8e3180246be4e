/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A growing byte buffer with a maximum; files and standard input are read into one.
 *
 * The storage doubles, up to max_bytes + 1 (the NUL).  Every failing call leaves the content as it
 * was.  Bytes that are appended must not lie inside the buffer itself.  thread: the owner's.
 */
#include "base/buf.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CAPACITY_MIN = 64,
    READ_STEP = 64 << 10
};

void med_buf_init(struct med_buf *buf, size_t max_bytes)
{
    MED_ASSERT(max_bytes < SIZE_MAX);
    *buf = (struct med_buf){.max_bytes = max_bytes};
}

void med_buf_release(struct med_buf *buf)
{
    med_free(buf->data);
    *buf = (struct med_buf){.max_bytes = buf->max_bytes};
}

void med_buf_clear(struct med_buf *buf)
{
    buf->length = 0;
    if (buf->data)
        buf->data[0] = '\0';
}

int med_buf_reserve(struct med_buf *buf, size_t more_bytes)
{
    MED_ASSERT(buf->length <= buf->max_bytes);
    if (more_bytes > buf->max_bytes - buf->length)
        return MED_E_LIMIT;
    size_t needed = buf->length + more_bytes + 1;
    if (needed <= buf->capacity)
        return 0;
    size_t capacity = buf->capacity < CAPACITY_MIN ? CAPACITY_MIN : buf->capacity;
    while (capacity < needed)
        capacity = capacity > SIZE_MAX / 2 ? needed : capacity * 2;
    if (capacity > buf->max_bytes + 1)
        capacity = buf->max_bytes + 1;
    char *grown = med_realloc(buf->data, capacity);
    if (!grown)
        return MED_E_NOMEM;
    buf->data = grown;
    buf->capacity = capacity;
    buf->data[buf->length] = '\0';
    return 0;
}

int med_buf_append(struct med_buf *buf, const void *bytes, size_t count)
{
    /* Most pieces are small and fit: buf->capacity never exceeds max_bytes + 1. */
    if (buf->capacity <= buf->length || count >= buf->capacity - buf->length) {
        int rc = med_buf_reserve(buf, count);
        if (rc < 0)
            return rc;
    }
    if (count)
        memcpy(buf->data + buf->length, bytes, count);
    buf->length += count;
    buf->data[buf->length] = '\0';
    return 0;
}

int med_buf_append_str(struct med_buf *buf, const char *s)
{
    return med_buf_append(buf, s, strlen(s));
}

int med_buf_printf(struct med_buf *buf, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int rc = med_buf_vprintf(buf, fmt, args);
    va_end(args);
    return rc;
}

int med_buf_vprintf(struct med_buf *buf, const char *fmt, va_list args)
{
    va_list again;
    va_copy(again, args);
    /* Into the room that is there; a second time where that was not enough. */
    size_t room = buf->capacity - buf->length;
    int length = vsnprintf(room > 0 ? buf->data + buf->length : NULL, room, fmt, args);
    /* Only a broken format or a text over INT_MAX is below 0. */
    int rc = length < 0 ? MED_E_INVALID : 0;
    if (rc == 0 && (size_t)length >= room) {
        rc = med_buf_reserve(buf, (size_t)length);
        if (rc == 0)
            (void)vsnprintf(buf->data + buf->length, (size_t)length + 1, fmt, again);
    }
    if (rc == 0) {
        buf->length += (size_t)length;
    } else if (room > 0) {
        buf->data[buf->length] = '\0'; // what was there stays as it was
    }
    va_end(again);
    return rc;
}

void med_buf_consume(struct med_buf *buf, size_t count)
{
    MED_ASSERT(count <= buf->length);
    if (count == 0)
        return;
    buf->length -= count;
    memmove(buf->data, buf->data + count, buf->length + 1);
}

char *med_buf_take(struct med_buf *buf)
{
    char *data = buf->data ? buf->data : med_strdup("");
    *buf = (struct med_buf){.max_bytes = buf->max_bytes};
    return data;
}

static int fail_io(struct med_err *err, const char *verb, const char *path, int error)
{
    return med_err_set(err, med_err_input_code(error), "%s: cannot %s: %s", path, verb,
                       med_err_text(-error));
}

static int fail_limit(struct med_err *err, const char *path, size_t max_bytes)
{
    return med_err_set(err, MED_E_LIMIT, "%s: larger than %zu bytes, the most that is read here",
                       path, max_bytes);
}

/* Reads fd to its end. */
static int read_all(struct med_buf *buf, int fd, const char *path, struct med_err *err)
{
    for (;;) {
        size_t room = buf->max_bytes - buf->length;
        size_t step = room < READ_STEP ? room : READ_STEP;
        if (step == 0) {
            /* Full: only the end of the file is acceptable now. */
            char extra;
            ssize_t got = read(fd, &extra, 1);
            if (got < 0 && errno == EINTR)
                continue;
            if (got < 0)
                return fail_io(err, "read", path, errno);
            return got == 0 ? 0 : fail_limit(err, path, buf->max_bytes);
        }
        if (med_buf_reserve(buf, step) < 0) {
            return med_err_set(err, MED_E_NOMEM, "%s: %s while it was read", path,
                               med_err_text(MED_E_NOMEM));
        }
        ssize_t got = read(fd, buf->data + buf->length, step);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail_io(err, "read", path, errno);
        if (got == 0)
            return 0;
        buf->length += (size_t)got;
    }
}

int med_buf_read_file(struct med_buf *buf, const char *path, struct med_err *err)
{
    const bool is_stdin = strcmp(path, "-") == 0;
    const char *name = is_stdin ? "standard input" : path;
    const size_t length_before = buf->length;
    int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail_io(err, "open", name, errno);
    int rc = 0;
    struct stat status;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) {
        size_t room = buf->max_bytes - buf->length;
        if (status.st_size > 0 && (uintmax_t)status.st_size > room && !is_stdin) {
            rc = fail_limit(err, name, buf->max_bytes);
        } else if (status.st_size > 0 && (uintmax_t)status.st_size <= room) {
            rc = med_buf_reserve(buf, (size_t)status.st_size);
        }
        if (rc == MED_E_NOMEM)
            (void)med_err_set(err, rc, "%s: %s while it was read", name, med_err_text(rc));
    }
    if (rc == 0)
        rc = read_all(buf, fd, name, err);
    if (!is_stdin)
        (void)close(fd); // opened for reading: nothing can be lost
    if (rc < 0)
        buf->length = length_before;
    if (buf->data)
        buf->data[buf->length] = '\0';
    return rc;
}
