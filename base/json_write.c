/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing JSON onto a buffer.
 *
 * The writer keeps one flag per open container: is the next thing its first?  Two spaces of
 * indentation when pretty; a row stays on one line with a space after each comma.  Invalid UTF-8 in
 * a string becomes U+FFFD, so that the output is always JSON.  The first failure of the buffer is
 * kept and the rest of the calls do nothing.  thread: the owner's.
 */
#include "base/json.h"

#include "base/assert.h"
#include "base/os.h"
#include "base/utf8.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static void put(struct med_json_writer *w, const char *bytes, size_t count)
{
    if (w->rc == 0)
        w->rc = med_buf_append(w->buf, bytes, count);
}

static void put_str(struct med_json_writer *w, const char *s)
{
    put(w, s, strlen(s));
}

static void put_quoted(struct med_json_writer *w, const char *s)
{
    size_t left = strlen(s);
    put_str(w, "\"");
    while (left > 0 && w->rc == 0) {
        char piece[256];
        size_t length = 0;
        while (left > 0 && length + MED_UTF8_ESCAPE_CHAR_MAX <= sizeof piece) {
            size_t used;
            length += med_utf8_escape_char(piece + length, s, left, &used);
            s += used;
            left -= used;
        }
        put(w, piece, length);
    }
    put_str(w, "\"");
}

static bool is_inline(const struct med_json_writer *w)
{
    return !w->pretty || w->inline_[w->depth];
}

static void put_line(struct med_json_writer *w)
{
    put_str(w, "\n");
    for (int i = 0; i < w->depth; i++)
        put_str(w, "  ");
}

/* Comma, line and key before a value. */
static void put_before(struct med_json_writer *w, const char *key)
{
    bool is_first = w->first[w->depth];
    w->first[w->depth] = false;
    if (w->depth == 0) {
        MED_ASSERT(is_first); // one value per document
        MED_ASSERT(!key);
        return;
    }
    if (!is_first)
        put_str(w, ",");
    if (!is_inline(w)) {
        put_line(w);
    } else if (!is_first && w->pretty) {
        put_str(w, " ");
    }
    if (key) {
        put_quoted(w, key);
        put_str(w, w->pretty ? ": " : ":");
    }
}

static void begin(struct med_json_writer *w, const char *key, const char *bracket, bool row)
{
    put_before(w, key);
    put_str(w, bracket);
    bool inside_row = w->inline_[w->depth];
    MED_ASSERT(w->depth + 1 < MED_JSON_WRITER_DEPTH_MAX);
    w->depth++;
    w->first[w->depth] = true;
    w->inline_[w->depth] = row || inside_row;
}

static void end(struct med_json_writer *w, const char *bracket)
{
    MED_ASSERT(w->depth > 0);
    bool is_empty = w->first[w->depth];
    bool on_line = is_inline(w);
    w->depth--;
    if (!is_empty && !on_line)
        put_line(w);
    put_str(w, bracket);
}

void med_json_writer_init(struct med_json_writer *w, struct med_buf *buf, bool pretty)
{
    *w = (struct med_json_writer){.buf = buf, .pretty = pretty};
    w->first[0] = true;
}

int med_json_writer_finish(struct med_json_writer *w)
{
    MED_ASSERT(w->depth == 0);
    MED_ASSERT(!w->first[0]);
    put_str(w, "\n");
    return w->rc;
}

void med_json_begin_object(struct med_json_writer *w, const char *key)
{
    begin(w, key, "{", false);
}

void med_json_begin_array(struct med_json_writer *w, const char *key)
{
    begin(w, key, "[", false);
}

void med_json_begin_row_object(struct med_json_writer *w, const char *key)
{
    begin(w, key, "{", true);
}

void med_json_begin_row_array(struct med_json_writer *w, const char *key)
{
    begin(w, key, "[", true);
}

void med_json_end_object(struct med_json_writer *w)
{
    end(w, "}");
}

void med_json_end_array(struct med_json_writer *w)
{
    end(w, "]");
}

void med_json_put_string(struct med_json_writer *w, const char *key, const char *value)
{
    put_before(w, key);
    put_quoted(w, value);
}

void med_json_put_number(struct med_json_writer *w, const char *key, double value)
{
    MED_ASSERT(isfinite(value));
    char text[MED_OS_DOUBLE_MAX];
    size_t length = med_os_print_double(text, value);
    put_before(w, key);
    put(w, text, length);
}

void med_json_put_integer(struct med_json_writer *w, const char *key, int64_t value)
{
    char text[32];
    (void)snprintf(text, sizeof text, "%" PRId64, value);
    put_before(w, key);
    put_str(w, text);
}

void med_json_put_bool(struct med_json_writer *w, const char *key, bool value)
{
    put_before(w, key);
    put_str(w, value ? "true" : "false");
}

void med_json_put_null(struct med_json_writer *w, const char *key)
{
    put_before(w, key);
    put_str(w, "null");
}
