/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The filter tojson: json.dumps of Python, as transformers configures it (nothing escaped for HTML,
 * text beyond ASCII kept).  Recursion is bounded by the depth of values.
 * thread: one render.
 */
#include "router/tokenizer/jinja.h"

#include <stdlib.h>
#include <string.h>

struct writer {
    struct med_jinja_eval *eval;
    const struct med_jinja_json *style;
    struct med_buf *out;
};

static int write_value(struct writer *w, const struct med_jinja_value *value, int level);

static unsigned code_point(const char *p, size_t bytes)
{
    const unsigned char *u = (const unsigned char *)p;
    unsigned c = bytes == 2 ? u[0] & 0x1Fu : bytes == 3 ? u[0] & 0x0Fu : u[0] & 0x07u;
    for (size_t i = 1; i < bytes; i++) {
        c = c << 6 | (u[i] & 0x3Fu);
    }
    return c;
}

static int write_escaped(struct writer *w, const char *p, size_t bytes)
{
    unsigned c = code_point(p, bytes);
    if (c >= 0x10000) {
        c -= 0x10000;
        return med_buf_printf(w->out, "\\u%04x\\u%04x", 0xD800 | c >> 10, 0xDC00 | (c & 0x3FF));
    }
    return med_buf_printf(w->out, "\\u%04x", c);
}

static int write_character(struct writer *w, const char *p, size_t bytes)
{
    static const char from[] = "\"\\\n\r\t\f\b";
    static const char to[] = "\"\\nrtfb";
    if (bytes > 1) {
        return w->style->ensure_ascii ? write_escaped(w, p, bytes)
                                      : med_buf_append(w->out, p, bytes);
    }
    const char *simple = *p == '\0' ? NULL : strchr(from, *p);
    if (simple) {
        return med_buf_printf(w->out, "\\%c", to[simple - from]);
    }
    if ((unsigned char)*p < ' ') {
        return med_buf_printf(w->out, "\\u%04x", (unsigned)*p);
    }
    return med_buf_append(w->out, p, 1);
}

static int write_text(struct writer *w, struct med_jinja_text text)
{
    int rc = med_buf_append(w->out, "\"", 1);
    while (rc == 0 && text.bytes > 0) {
        size_t n = med_jinja_character_bytes(text);
        rc = write_character(w, text.data, n);
        text.data += n;
        text.bytes -= n;
    }
    return rc < 0 ? rc : med_buf_append(w->out, "\"", 1);
}

/* A new line at this level, if there are lines. */
static int write_line(struct writer *w, int level)
{
    if (!w->style->indent.data) {
        return 0;
    }
    int rc = med_buf_append(w->out, "\n", 1);
    for (int i = 0; rc == 0 && i < level; i++) {
        rc = med_buf_append(w->out, w->style->indent.data, w->style->indent.bytes);
    }
    return rc;
}

static int write_separator(struct writer *w, size_t index, int level)
{
    int rc = 0;
    if (index > 0) {
        rc = med_buf_append(w->out, w->style->item_separator.data, w->style->item_separator.bytes);
    }
    return rc < 0 ? rc : write_line(w, level);
}

static int write_sequence(struct writer *w, const struct med_jinja_sequence *sequence, int level)
{
    int rc = med_buf_append(w->out, "[", 1);
    for (size_t i = 0; rc == 0 && i < sequence->count; i++) {
        rc = write_separator(w, i, level + 1);
        rc = rc < 0 ? rc : write_value(w, &sequence->items[i], level + 1);
    }
    if (rc == 0 && sequence->count > 0) {
        rc = write_line(w, level);
    }
    return rc < 0 ? rc : med_buf_append(w->out, "]", 1);
}

static int write_key(struct writer *w, const struct med_jinja_value *key)
{
    if (key->kind == MED_JINJA_STRING) {
        return write_text(w, key->as.text);
    }
    int rc = med_buf_append(w->out, "\"", 1);
    rc = rc < 0 ? rc : write_value(w, key, 0);
    return rc < 0 ? rc : med_buf_append(w->out, "\"", 1);
}

static int compare_keys(const void *a, const void *b)
{
    struct med_jinja_text x = ((const struct med_jinja_pair *)a)->key.as.text;
    struct med_jinja_text y = ((const struct med_jinja_pair *)b)->key.as.text;
    size_t shorter = x.bytes < y.bytes ? x.bytes : y.bytes;
    int order = shorter > 0 ? memcmp(x.data, y.data, shorter) : 0;
    return order != 0 ? order : (x.bytes > y.bytes) - (x.bytes < y.bytes);
}

/* The pairs by key, in a copy. */
static int sorted_pairs(struct writer *w, const struct med_jinja_dict *dict,
                        const struct med_jinja_pair **ret_pairs)
{
    struct med_jinja_pair *copy =
        med_jinja_arena_alloc(&w->eval->arena, dict->count, sizeof(*copy));
    if (!copy) {
        return med_jinja_fail_memory(w->eval);
    }
    for (size_t i = 0; i < dict->count; i++) {
        copy[i] = dict->pairs[i];
        if (copy[i].key.kind != MED_JINJA_STRING) {
            return med_jinja_fail(w->eval, MED_E_INVALID,
                                  "tojson sorts dicts whose keys are strings, not %s",
                                  med_jinja_kind_name(copy[i].key.kind));
        }
    }
    if (dict->count > 1) {
        qsort(copy, dict->count, sizeof(*copy), compare_keys);
    }
    *ret_pairs = copy;
    return 0;
}

static int write_dict(struct writer *w, const struct med_jinja_dict *dict, int level)
{
    const struct med_jinja_pair *pairs = dict->pairs;
    int rc = w->style->sort_keys ? sorted_pairs(w, dict, &pairs) : 0;
    rc = rc < 0 ? rc : med_buf_append(w->out, "{", 1);
    for (size_t i = 0; rc == 0 && i < dict->count; i++) {
        rc = write_separator(w, i, level + 1);
        rc = rc < 0 ? rc : write_key(w, &pairs[i].key);
        rc = rc < 0 ? rc
                    : med_buf_append(w->out, w->style->key_separator.data,
                                     w->style->key_separator.bytes);
        rc = rc < 0 ? rc : write_value(w, &pairs[i].value, level + 1);
    }
    if (rc == 0 && dict->count > 0) {
        rc = write_line(w, level);
    }
    return rc < 0 ? rc : med_buf_append(w->out, "}", 1);
}

static int write_value(struct writer *w, const struct med_jinja_value *value, int level)
{
    int rc = med_jinja_spend(w->eval, 1);
    if (rc < 0) {
        return rc;
    }
    switch (value->kind) {
    case MED_JINJA_NONE:
        return med_buf_append_str(w->out, "null");
    case MED_JINJA_BOOL:
        return med_buf_append_str(w->out, value->as.truth ? "true" : "false");
    case MED_JINJA_INT:
        return med_jinja_print_int(w->eval, value->as.integer, w->out);
    case MED_JINJA_FLOAT:
        return med_jinja_print_float(w->eval, value->as.number, true, w->out);
    case MED_JINJA_STRING:
        return write_text(w, value->as.text);
    case MED_JINJA_LIST:
    case MED_JINJA_TUPLE:
        return write_sequence(w, value->as.sequence, level);
    case MED_JINJA_DICT:
        return write_dict(w, value->as.dict, level);
    default:
        return med_jinja_fail(w->eval, MED_E_INVALID, "tojson cannot write %s",
                              med_jinja_kind_name(value->kind));
    }
}

int med_jinja_to_json(struct med_jinja_eval *eval, const struct med_jinja_value *value,
                      const struct med_jinja_json *style, struct med_buf *out)
{
    struct writer w = {eval, style, out};
    int rc = write_value(&w, value, 0);
    if (rc == MED_E_LIMIT && eval->err->code == 0) {
        return med_jinja_fail(eval, rc, "tojson: the text is longer than %zu bytes",
                              out->max_bytes);
    }
    return rc;
}

/* ---- its arguments ---- */

static int read_indent(struct med_jinja_eval *eval, const struct med_jinja_value *indent,
                       struct med_jinja_json *style)
{
    if (indent->kind == MED_JINJA_NONE) {
        return 0;
    }
    style->item_separator = med_jinja_text(",");
    if (indent->kind == MED_JINJA_STRING) {
        style->indent = indent->as.text;
        style->indent.data = style->indent.data ? style->indent.data : "";
        return 0;
    }
    if (indent->kind != MED_JINJA_INT && indent->kind != MED_JINJA_BOOL) {
        return med_jinja_fail(eval, MED_E_INVALID, "the filter tojson does not take %s",
                              med_jinja_kind_name(indent->kind));
    }
    int64_t wide = med_jinja_as_int(indent);
    if (wide > 64) {
        return med_jinja_fail(eval, MED_E_LIMIT, "tojson indents by at most 64");
    }
    static const char blanks[] = "                                                                ";
    style->indent = (struct med_jinja_text){blanks, wide < 0 ? 0 : (size_t)wide};
    return 0;
}

static int read_separators(struct med_jinja_eval *eval, const struct med_jinja_value *separators,
                           struct med_jinja_json *style)
{
    if (separators->kind == MED_JINJA_NONE) {
        return 0;
    }
    const struct med_jinja_sequence *pair = separators->as.sequence;
    bool ok = (separators->kind == MED_JINJA_LIST || separators->kind == MED_JINJA_TUPLE) &&
              pair->count == 2 && pair->items[0].kind == MED_JINJA_STRING &&
              pair->items[1].kind == MED_JINJA_STRING;
    if (!ok) {
        return med_jinja_fail(eval, MED_E_INVALID, "tojson: separators are two strings");
    }
    style->item_separator = pair->items[0].as.text;
    style->key_separator = pair->items[1].as.text;
    return 0;
}

int med_jinja_json_style(struct med_jinja_eval *eval, const struct med_jinja_value slots[4],
                         struct med_jinja_json *ret_style)
{
    *ret_style = (struct med_jinja_json){.item_separator = {", ", 2},
                                         .key_separator = {": ", 2},
                                         .ensure_ascii = med_jinja_truth(&slots[0]),
                                         .sort_keys = med_jinja_truth(&slots[3])};
    int rc = read_indent(eval, &slots[1], ret_style);
    return rc < 0 ? rc : read_separators(eval, &slots[2], ret_style);
}
