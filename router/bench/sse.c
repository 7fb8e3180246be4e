/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Server-sent events.
 *
 * A line that lies whole in what was fed is looked at where it is; only a line that was cut is
 * gathered first.  An event of one data line, as all servers of models send them, is handed on
 * without a copy if its blank line follows at once.
 * thread: any; pure.
 */
#include "router/bench/sse.h"

#include <string.h>

void med_sse_init(struct med_sse *sse, size_t event_max_bytes)
{
    *sse = (struct med_sse){0};
    med_buf_init(&sse->line, event_max_bytes);
    med_buf_init(&sse->data, event_max_bytes);
}

void med_sse_release(struct med_sse *sse)
{
    med_buf_release(&sse->line);
    med_buf_release(&sse->data);
}

void med_sse_clear(struct med_sse *sse)
{
    med_buf_clear(&sse->line);
    med_buf_clear(&sse->data);
    sse->has_data = sse->after_cr = false;
}

/* The value of a data line, or NULL for another line. */
static const char *data_of(const char *line, size_t bytes, size_t *ret_bytes)
{
    if (bytes < 4 || memcmp(line, "data", 4) != 0 || (bytes > 4 && line[4] != ':'))
        return NULL;
    size_t skip = bytes > 4 ? 5 : 4;
    if (bytes > skip && line[skip] == ' ')
        skip++;
    *ret_bytes = bytes - skip;
    return line + skip;
}

static int on_line(struct med_sse *sse, const char *line, size_t bytes, med_sse_on_data *on_data,
                   void *arg)
{
    if (bytes == 0) {
        if (!sse->has_data)
            return 0;
        sse->has_data = false;
        int rc = on_data(arg, sse->data.length ? sse->data.data : "", sse->data.length);
        med_buf_clear(&sse->data);
        return rc;
    }
    size_t count;
    const char *value = data_of(line, bytes, &count);
    if (!value)
        return 0;
    int rc = sse->has_data ? med_buf_append(&sse->data, "\n", 1) : 0;
    sse->has_data = true;
    return rc < 0 ? rc : med_buf_append(&sse->data, value, count);
}

/* A whole event "data: ...\n\n" at the front of what was fed: how many bytes it takes; 0: it is not
 * one. */
static size_t whole_event(const struct med_sse *sse, const char *bytes, size_t count,
                          const char **ret_value, size_t *ret_bytes)
{
    if (sse->has_data || sse->line.length || sse->after_cr)
        return 0;
    const char *end = memchr(bytes, '\n', count);
    if (!end || end + 1 >= bytes + count || end[1] != '\n')
        return 0;
    size_t length = (size_t)(end - bytes);
    if (length > sse->data.max_bytes || memchr(bytes, '\r', length))
        return 0;
    *ret_value = data_of(bytes, length, ret_bytes);
    return *ret_value ? length + 2 : 0;
}

static size_t line_bytes(const char *bytes, size_t count)
{
    size_t i = 0;
    while (i < count && bytes[i] != '\n' && bytes[i] != '\r')
        i++;
    return i;
}

int med_sse_feed(struct med_sse *sse, const char *bytes, size_t count, med_sse_on_data *on_data,
                 void *arg)
{
    const char *end = bytes + count;
    int rc = 0;
    while (bytes < end && rc >= 0) {
        if (sse->after_cr && *bytes == '\n') { // of a CRLF
            sse->after_cr = false;
            bytes++;
            continue;
        }
        const char *value;
        size_t value_bytes;
        size_t taken = whole_event(sse, bytes, (size_t)(end - bytes), &value, &value_bytes);
        if (taken) {
            rc = on_data(arg, value, value_bytes);
            bytes += taken;
            continue;
        }
        sse->after_cr = false;
        size_t length = line_bytes(bytes, (size_t)(end - bytes));
        if (bytes + length == end)
            return med_buf_append(&sse->line, bytes, length);
        sse->after_cr = bytes[length] == '\r';
        if (sse->line.length) {
            rc = med_buf_append(&sse->line, bytes, length);
            if (rc >= 0)
                rc = on_line(sse, sse->line.data, sse->line.length, on_data, arg);
            med_buf_clear(&sse->line);
        } else {
            rc = on_line(sse, bytes, length, on_data, arg);
        }
        bytes += length + 1;
    }
    return rc < 0 ? rc : 0;
}
