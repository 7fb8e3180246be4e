/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Strings of a template: characters, white space, and how values are printed (str() and repr() of
 * Python).
 *
 * White space is Python's: the Unicode one and the separators U+001C to U+001F.
 * thread: one render.  Does not know letters beyond ASCII, and so refuses to print a list that holds
 * such text (Python prints some of it escaped).
 */
#include "base/limits.h"
#include "base/os.h"
#include "base/utf8.h"
#include "router/tokenizer/jinja.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t med_jinja_character_bytes(struct med_jinja_text text)
{
    size_t n = med_utf8_char_bytes(text.data, text.bytes);
    return n > 0 ? n : 1;
}

size_t med_jinja_characters(struct med_jinja_text text)
{
    size_t count = 0;
    while (text.bytes > 0) {
        size_t n = med_jinja_character_bytes(text);
        text.data += n;
        text.bytes -= n;
        count++;
    }
    return count;
}

bool med_jinja_is_ascii(struct med_jinja_text text)
{
    for (size_t i = 0; i < text.bytes; i++) {
        if ((unsigned char)text.data[i] >= 0x80) {
            return false;
        }
    }
    return true;
}

static bool is_ascii_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1C && c <= 0x1F);
}

static bool is_wide_space(const char *p, size_t bytes)
{
    const unsigned char *u = (const unsigned char *)p;
    if (bytes == 2) {
        return u[0] == 0xC2 && (u[1] == 0x85 || u[1] == 0xA0);
    }
    if (bytes != 3) {
        return false;
    }
    unsigned c = (u[0] & 0x0Fu) << 12 | (u[1] & 0x3Fu) << 6 | (u[2] & 0x3Fu);
    return c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

size_t med_jinja_space_first(struct med_jinja_text text)
{
    if (text.bytes == 0) {
        return 0;
    }
    if (is_ascii_space(text.data[0])) {
        return 1;
    }
    size_t n = med_utf8_char_bytes(text.data, text.bytes);
    return n > 1 && is_wide_space(text.data, n) ? n : 0;
}

size_t med_jinja_space_last(struct med_jinja_text text)
{
    if (text.bytes == 0) {
        return 0;
    }
    const char *end = text.data + text.bytes;
    if (is_ascii_space(end[-1])) {
        return 1;
    }
    for (size_t n = 2; n <= 3 && n <= text.bytes; n++) {
        if (med_utf8_char_bytes(end - n, n) == n && is_wide_space(end - n, n)) {
            return n;
        }
    }
    return 0;
}

bool med_jinja_read_number(struct med_jinja_text text, bool *ret_whole, int64_t *ret_integer,
                           double *ret_number)
{
    char copy[128];
    size_t n;
    while ((n = med_jinja_space_first(text)) > 0) {
        text.data += n;
        text.bytes -= n;
    }
    while ((n = med_jinja_space_last(text)) > 0) {
        text.bytes -= n;
    }
    if (text.bytes == 0 || text.bytes >= sizeof(copy)) {
        return false;
    }
    for (size_t i = 0; i < text.bytes; i++) {
        char ch = text.data[i];
        if (!strchr("+-.eE0123456789", ch) || ch == '\0') {
            return false;
        }
        copy[i] = ch;
    }
    copy[text.bytes] = '\0';
    char *end;
    errno = 0;
    *ret_integer = strtoll(copy, &end, 10);
    *ret_whole = *end == '\0' && errno == 0;
    *ret_number = med_os_strtod(copy, &end);
    return *end == '\0';
}

/* ---- making ---- */

int med_jinja_keep(struct med_jinja_eval *eval, const struct med_buf *buf,
                   struct med_jinja_value *ret_value)
{
    char *data = med_jinja_arena_text(&eval->arena, buf->length);
    if (!data) {
        return med_jinja_fail_memory(eval);
    }
    if (buf->length > 0) {
        memcpy(data, buf->data, buf->length);
    }
    *ret_value = med_jinja_string(data, buf->length);
    return med_jinja_spend(eval, buf->length / 16);
}

int med_jinja_concat(struct med_jinja_eval *eval, struct med_jinja_text a, struct med_jinja_text b,
                     struct med_jinja_value *ret_value)
{
    int rc = med_jinja_spend(eval, b.bytes / 16);
    if (rc < 0) {
        return rc;
    }
    if (a.bytes == 0 || b.bytes == 0) {
        *ret_value =
            a.bytes == 0 ? med_jinja_string(b.data, b.bytes) : med_jinja_string(a.data, a.bytes);
        return 0;
    }
    if (b.bytes > MED_LIMIT_CHAT_RENDER_BYTES || a.bytes > MED_LIMIT_CHAT_RENDER_BYTES) {
        return med_jinja_fail(eval, MED_E_LIMIT, "a string is too long");
    }
    /* A string that grows at its end, the usual case, is not copied again. */
    if (med_jinja_arena_extend(&eval->arena, a.data, a.bytes, b.bytes)) {
        char *end = (char *)a.data + a.bytes;
        memmove(end, b.data, b.bytes);
        *ret_value = med_jinja_string(a.data, a.bytes + b.bytes);
        return 0;
    }
    rc = med_jinja_spend(eval, a.bytes / 16);
    if (rc < 0) {
        return rc;
    }
    char *data = med_jinja_arena_text(&eval->arena, a.bytes + b.bytes);
    if (!data) {
        return med_jinja_fail_memory(eval);
    }
    memcpy(data, a.data, a.bytes);
    memcpy(data + a.bytes, b.data, b.bytes);
    *ret_value = med_jinja_string(data, a.bytes + b.bytes);
    return 0;
}

/* ---- printing ---- */

int med_jinja_print_int(struct med_jinja_eval *eval, int64_t number, struct med_buf *out)
{
    char text[24];
    size_t at = sizeof(text);
    uint64_t left = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    do {
        text[--at] = (char)('0' + left % 10);
        left /= 10;
    } while (left > 0);
    if (number < 0) {
        text[--at] = '-';
    }
    int rc = med_jinja_spend(eval, MED_JINJA_INT_STEPS);
    return rc < 0 ? rc : med_buf_append(out, text + at, sizeof(text) - at);
}

/* The shortest decimal that reads back to the same number, laid out as Python does. */
int med_jinja_print_float(struct med_jinja_eval *eval, double number, bool json,
                          struct med_buf *out)
{
    int rc = med_jinja_spend(eval, MED_JINJA_FLOAT_STEPS);
    if (rc < 0) {
        return rc;
    }
    if (isnan(number)) {
        return med_buf_append_str(out, json ? "NaN" : "nan");
    }
    if (isinf(number)) {
        const char *text = json ? "-Infinity" : "-inf";
        return med_buf_append_str(out, number < 0 ? text : text + 1);
    }
    char text[40];
    int digits = 1;
    do {
        (void)snprintf(text, sizeof(text), "%.*e", digits - 1, number);
    } while (digits++ < 17 && med_os_strtod(text, NULL) != number);
    char *exponent_at = strchr(text, 'e');
    long exponent = strtol(exponent_at + 1, NULL, 10);
    if (exponent < -4 || exponent >= 16) {
        *exponent_at = '\0';
        return med_buf_printf(out, "%se%c%02ld", text, exponent < 0 ? '-' : '+', labs(exponent));
    }
    /* digits is one past the count that was enough. */
    int after_point = digits - 2 - (int)exponent;
    return med_buf_printf(out, "%.*f", after_point < 1 ? 1 : after_point, number);
}

static int print_repr_text(struct med_jinja_eval *eval, struct med_jinja_text text,
                           struct med_buf *out)
{
    if (!med_jinja_is_ascii(text)) {
        return med_jinja_fail(eval, MED_E_INVALID,
                              "printing a list or dict with text beyond ASCII is not supported");
    }
    bool single = text.bytes > 0 && memchr(text.data, '\'', text.bytes) != NULL;
    bool doubled = text.bytes > 0 && memchr(text.data, '"', text.bytes) != NULL;
    char quote = single && !doubled ? '"' : '\'';
    int rc = med_buf_append(out, &quote, 1);
    for (size_t i = 0; rc == 0 && i < text.bytes; i++) {
        char c = text.data[i];
        if (c == '\n' || c == '\r' || c == '\t') {
            rc = med_buf_printf(out, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        } else if (c < ' ' || c == 0x7F) {
            rc = med_buf_printf(out, "\\x%02x", (unsigned)c);
        } else if (c == '\\' || c == quote) {
            rc = med_buf_printf(out, "\\%c", c);
        } else {
            rc = med_buf_append(out, &c, 1);
        }
    }
    return rc < 0 ? rc : med_buf_append(out, &quote, 1);
}

static int print(struct med_jinja_eval *eval, const struct med_jinja_value *value,
                 struct med_buf *out);
static int print_repr(struct med_jinja_eval *eval, const struct med_jinja_value *value,
                      struct med_buf *out);

static int print_sequence(struct med_jinja_eval *eval, const struct med_jinja_value *value,
                          struct med_buf *out)
{
    const struct med_jinja_sequence *sequence = value->as.sequence;
    bool list = value->kind == MED_JINJA_LIST;
    int rc = med_buf_append_str(out, list ? "[" : "(");
    for (size_t i = 0; rc == 0 && i < sequence->count; i++) {
        rc = i > 0 ? med_buf_append_str(out, ", ") : 0;
        rc = rc < 0 ? rc : print_repr(eval, &sequence->items[i], out);
    }
    if (rc < 0) {
        return rc;
    }
    return med_buf_append_str(out, list ? "]" : sequence->count == 1 ? ",)" : ")");
}

static int print_dict(struct med_jinja_eval *eval, const struct med_jinja_dict *dict,
                      struct med_buf *out)
{
    int rc = med_buf_append_str(out, "{");
    for (size_t i = 0; rc == 0 && i < dict->count; i++) {
        rc = i > 0 ? med_buf_append_str(out, ", ") : 0;
        rc = rc < 0 ? rc : print_repr(eval, &dict->pairs[i].key, out);
        rc = rc < 0 ? rc : med_buf_append_str(out, ": ");
        rc = rc < 0 ? rc : print_repr(eval, &dict->pairs[i].value, out);
    }
    return rc < 0 ? rc : med_buf_append_str(out, "}");
}

static int print_repr(struct med_jinja_eval *eval, const struct med_jinja_value *value,
                      struct med_buf *out)
{
    int rc = med_jinja_spend(eval, 1);
    if (rc < 0) {
        return rc;
    }
    if (value->kind == MED_JINJA_STRING) {
        return print_repr_text(eval, value->as.text, out);
    }
    if (value->kind == MED_JINJA_UNDEFINED) {
        return med_buf_append_str(out, "Undefined");
    }
    return print(eval, value, out);
}

static int print(struct med_jinja_eval *eval, const struct med_jinja_value *value,
                 struct med_buf *out)
{
    int rc = med_jinja_spend(eval, 1);
    if (rc < 0) {
        return rc;
    }
    switch (value->kind) {
    case MED_JINJA_UNDEFINED:
        return 0;
    case MED_JINJA_NONE:
        return med_buf_append_str(out, "None");
    case MED_JINJA_BOOL:
        return med_buf_append_str(out, value->as.truth ? "True" : "False");
    case MED_JINJA_INT:
        return med_jinja_print_int(eval, value->as.integer, out);
    case MED_JINJA_FLOAT:
        return med_jinja_print_float(eval, value->as.number, false, out);
    case MED_JINJA_STRING:
        return med_buf_append(out, value->as.text.data, value->as.text.bytes);
    case MED_JINJA_LIST:
    case MED_JINJA_TUPLE:
        return print_sequence(eval, value, out);
    case MED_JINJA_DICT:
        return print_dict(eval, value->as.dict, out);
    default:
        return med_jinja_fail(eval, MED_E_INVALID, "%s cannot be printed",
                              med_jinja_kind_name(value->kind));
    }
}

int med_jinja_to_text(struct med_jinja_eval *eval, const struct med_jinja_value *value,
                      struct med_jinja_text *ret_text)
{
    if (value->kind == MED_JINJA_STRING) {
        *ret_text = value->as.text;
        return 0;
    }
    struct med_buf buf;
    struct med_jinja_value kept;
    med_buf_init(&buf, MED_LIMIT_PROMPT_BYTES);
    int rc = med_jinja_spend(eval, MED_JINJA_INT_STEPS);
    rc = rc < 0 ? rc : print(eval, value, &buf);
    if (rc == MED_E_LIMIT && eval->err->code == 0) {
        rc = med_jinja_fail(eval, rc, "a printed value is longer than %d bytes",
                            MED_LIMIT_PROMPT_BYTES);
    }
    if (rc == 0) {
        rc = med_jinja_keep(eval, &buf, &kept);
    }
    if (rc == 0) {
        *ret_text = kept.as.text;
    }
    med_buf_release(&buf);
    return rc;
}
