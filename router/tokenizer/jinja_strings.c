/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What strings of a template can do: strip, case, replace, split, find, as Python's str.
 *
 * thread: one render.  Does not know letters beyond ASCII: changing the case of such text is refused.
 */
#include "base/limits.h"
#include "router/tokenizer/jinja.h"

#include <string.h>

enum {
    STEP_BYTES = 8,     /* bytes that may be looked at for one step */
    SPEND_BYTES = 65536 /* a search spends when it has looked at so many */
};

/* Bytes in which two texts agree, of the first `bytes`. */
static size_t agree(const char *a, const char *b, size_t bytes)
{
    size_t n = 0;
    while (n < bytes && a[n] == b[n]) {
        n++;
    }
    return n;
}

int med_jinja_find(struct med_jinja_eval *eval, struct med_jinja_text text,
                   struct med_jinja_text part, bool last, int64_t *ret_at)
{
    *ret_at = -1;
    if (part.bytes > text.bytes) {
        return 0;
    }
    if (part.bytes == 0) {
        *ret_at = last ? (int64_t)text.bytes : 0;
        return 0;
    }
    size_t places = text.bytes - part.bytes + 1;
    size_t looked_at = 0;
    int rc = 0;
    for (size_t i = 0; rc == 0 && *ret_at < 0 && i < places; i++) {
        size_t at = last ? places - 1 - i : i;
        size_t same = agree(text.data + at, part.data, part.bytes);
        looked_at += same + 1;
        if (same == part.bytes) {
            *ret_at = (int64_t)at;
        } else if (looked_at >= SPEND_BYTES) {
            rc = med_jinja_spend(eval, looked_at / STEP_BYTES);
            looked_at = 0;
        }
    }
    return rc < 0 ? rc : med_jinja_spend(eval, looked_at / STEP_BYTES);
}

static struct med_jinja_text cut_front(struct med_jinja_text text, size_t bytes)
{
    return (struct med_jinja_text){text.data + bytes, text.bytes - bytes};
}

/* *ret_bytes: those of the first, or last, character of the text if it is white space (`chars` is
 * none) or one of `chars`; else 0. */
static int strip_one(struct med_jinja_eval *eval, struct med_jinja_text text, bool at_end,
                     const struct med_jinja_value *chars, size_t *ret_bytes)
{
    if (chars->kind == MED_JINJA_NONE) {
        *ret_bytes = at_end ? med_jinja_space_last(text) : med_jinja_space_first(text);
        return 0;
    }
    *ret_bytes = 0;
    if (text.bytes == 0) {
        return 0;
    }
    size_t n = at_end ? 1 : med_jinja_character_bytes(text);
    while (at_end && n < text.bytes && n < 4 &&
           ((unsigned char)text.data[text.bytes - n] & 0xC0) == 0x80) {
        n++;
    }
    const struct med_jinja_text one = {at_end ? text.data + text.bytes - n : text.data, n};
    int64_t at;
    int rc = med_jinja_find(eval, chars->as.text, one, false, &at);
    *ret_bytes = at >= 0 ? n : 0;
    return rc;
}

int med_jinja_strip(struct med_jinja_eval *eval, struct med_jinja_text text,
                    enum med_jinja_side side, const struct med_jinja_value *chars,
                    struct med_jinja_value *ret_value)
{
    if (chars->kind != MED_JINJA_NONE && chars->kind != MED_JINJA_STRING) {
        return med_jinja_fail(eval, MED_E_INVALID, "strip takes a string, not %s",
                              med_jinja_kind_name(chars->kind));
    }
    size_t before = text.bytes;
    size_t n = (side & MED_JINJA_LEFT) != 0 ? 1 : 0;
    int rc = 0;
    while (rc == 0 && n > 0) {
        rc = strip_one(eval, text, false, chars, &n);
        text = cut_front(text, n);
    }
    n = (side & MED_JINJA_RIGHT) != 0 ? 1 : 0;
    while (rc == 0 && n > 0) {
        rc = strip_one(eval, text, true, chars, &n);
        text.bytes -= n;
    }
    *ret_value = med_jinja_string(text.data, text.bytes);
    return rc < 0 ? rc : med_jinja_spend(eval, (before - text.bytes) / STEP_BYTES);
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool starts_word(char before, enum med_jinja_case to)
{
    if (to == MED_JINJA_TITLE) {
        return !is_letter(before);
    }
    struct med_jinja_text one = {&before, 1};
    return med_jinja_space_first(one) > 0 || (before != '\0' && strchr("-({[<", before));
}

int med_jinja_change_case(struct med_jinja_eval *eval, struct med_jinja_text text,
                          enum med_jinja_case to, struct med_jinja_value *ret_value)
{
    if (!med_jinja_is_ascii(text)) {
        return med_jinja_fail(eval, MED_E_INVALID,
                              "changing the case of text beyond ASCII is not supported");
    }
    int rc = med_jinja_spend(eval, text.bytes / 16);
    if (rc < 0) {
        return rc;
    }
    char *data = med_jinja_arena_text(&eval->arena, text.bytes);
    if (!data) {
        return med_jinja_fail_memory(eval);
    }
    for (size_t i = 0; i < text.bytes; i++) {
        char c = text.data[i];
        bool upper = to == MED_JINJA_UPPER;
        if (to != MED_JINJA_UPPER && to != MED_JINJA_LOWER) {
            bool in_word =
                i > 0 && (to == MED_JINJA_CAPITALIZE || !starts_word(text.data[i - 1], to));
            upper = !in_word;
        }
        if (is_letter(c)) {
            c = (char)(upper ? c & ~0x20 : c | 0x20);
        }
        data[i] = c;
    }
    *ret_value = med_jinja_string(data, text.bytes);
    return 0;
}

int med_jinja_replace(struct med_jinja_eval *eval, struct med_jinja_text text,
                      struct med_jinja_text old, struct med_jinja_text fresh, int64_t count,
                      struct med_jinja_value *ret_value)
{
    struct med_buf out;
    med_buf_init(&out, MED_LIMIT_CHAT_RENDER_BYTES);
    int rc = med_jinja_spend(eval, text.bytes / 16);
    while (rc == 0 && count != 0) {
        int64_t at;
        rc = med_jinja_find(eval, text, old, false, &at);
        if (rc < 0 || at < 0) {
            break;
        }
        /* Nothing to replace: the new text stands before each character, and at the end. */
        size_t skip = old.bytes > 0 ? (size_t)at : 0;
        rc = med_buf_append(&out, text.data, skip);
        rc = rc < 0 ? rc : med_buf_append(&out, fresh.data, fresh.bytes);
        rc = rc < 0 ? rc : med_jinja_spend(eval, 1 + fresh.bytes / 16);
        text = cut_front(text, skip + old.bytes);
        count -= count > 0 ? 1 : 0;
        if (old.bytes == 0) {
            if (text.bytes == 0) {
                break;
            }
            size_t n = med_jinja_character_bytes(text);
            rc = rc < 0 ? rc : med_buf_append(&out, text.data, n);
            text = cut_front(text, n);
        }
    }
    rc = rc < 0 ? rc : med_buf_append(&out, text.data, text.bytes);
    rc = rc < 0 ? rc : med_jinja_keep(eval, &out, ret_value);
    med_buf_release(&out);
    return rc;
}

/* ---- split ---- */

/* A list that grows while it is made. */
static int add_part(struct med_jinja_eval *eval, struct med_jinja_sequence *list, size_t *capacity,
                    const char *data, size_t bytes)
{
    if (list->count == *capacity) {
        size_t grown = *capacity * 2 + 8;
        struct med_jinja_value *items = med_jinja_arena_alloc(&eval->arena, grown, sizeof(*items));
        if (!items) {
            return med_jinja_fail_memory(eval);
        }
        if (list->count > 0) {
            memcpy(items, list->items, list->count * sizeof(*items));
        }
        list->items = items;
        *capacity = grown;
    }
    list->items[list->count++] = med_jinja_string(data, bytes);
    return med_jinja_spend(eval, 1);
}

static void reverse_items(struct med_jinja_sequence *list)
{
    for (size_t i = 0; i < list->count / 2; i++) {
        struct med_jinja_value swapped = list->items[i];
        list->items[i] = list->items[list->count - 1 - i];
        list->items[list->count - 1 - i] = swapped;
    }
}

static struct med_jinja_text strip_space(struct med_jinja_text text, bool left, bool right)
{
    size_t n;
    while (left && (n = med_jinja_space_first(text)) > 0) {
        text = cut_front(text, n);
    }
    while (right && (n = med_jinja_space_last(text)) > 0) {
        text.bytes -= n;
    }
    return text;
}

/* Bytes up to the next white space, from the left or the right. */
static size_t word_bytes(struct med_jinja_text text, bool from_right)
{
    size_t bytes = 0;
    while (text.bytes > 0 &&
           (from_right ? med_jinja_space_last(text) : med_jinja_space_first(text)) == 0) {
        size_t n = from_right ? 1 : med_jinja_character_bytes(text);
        text = from_right ? (struct med_jinja_text){text.data, text.bytes - n} : cut_front(text, n);
        bytes += n;
    }
    return bytes;
}

static int split_space(struct med_jinja_eval *eval, struct med_jinja_text text, int64_t count,
                       bool from_right, struct med_jinja_sequence *list)
{
    size_t capacity = 0;
    int rc = 0;
    text = strip_space(text, !from_right, from_right);
    while (rc == 0 && text.bytes > 0) {
        if (count == 0) {
            text = strip_space(text, from_right, !from_right);
            return add_part(eval, list, &capacity, text.data, text.bytes);
        }
        size_t n = word_bytes(text, from_right);
        if (from_right) {
            rc = add_part(eval, list, &capacity, text.data + text.bytes - n, n);
            text.bytes -= n;
        } else {
            rc = add_part(eval, list, &capacity, text.data, n);
            text = cut_front(text, n);
        }
        text = strip_space(text, !from_right, from_right);
        count -= count > 0 ? 1 : 0;
    }
    return rc;
}

static int split_by(struct med_jinja_eval *eval, struct med_jinja_text text,
                    struct med_jinja_text separator, int64_t count, bool from_right,
                    struct med_jinja_sequence *list)
{
    size_t capacity = 0;
    int rc = 0;
    while (rc == 0 && count != 0) {
        int64_t found;
        rc = med_jinja_find(eval, text, separator, from_right, &found);
        if (rc < 0 || found < 0) {
            break;
        }
        size_t at = (size_t)found;
        if (from_right) {
            struct med_jinja_text part = cut_front(text, at + separator.bytes);
            rc = add_part(eval, list, &capacity, part.data, part.bytes);
            text.bytes = at;
        } else {
            rc = add_part(eval, list, &capacity, text.data, at);
            text = cut_front(text, at + separator.bytes);
        }
        count -= count > 0 ? 1 : 0;
    }
    return rc < 0 ? rc : add_part(eval, list, &capacity, text.data, text.bytes);
}

int med_jinja_split(struct med_jinja_eval *eval, struct med_jinja_text text,
                    const struct med_jinja_value *separator, int64_t count, bool from_right,
                    struct med_jinja_value *ret_value)
{
    struct med_jinja_value list;
    int rc = med_jinja_spend(eval, text.bytes / 16);
    rc = rc < 0 ? rc : med_jinja_sequence_new(eval, MED_JINJA_LIST, 0, &list);
    if (rc < 0) {
        return rc;
    }
    if (separator->kind == MED_JINJA_NONE) {
        rc = split_space(eval, text, count, from_right, list.as.sequence);
    } else if (separator->kind != MED_JINJA_STRING || separator->as.text.bytes == 0) {
        return med_jinja_fail(eval, MED_E_INVALID, "split takes a string that is not empty");
    } else {
        rc = split_by(eval, text, separator->as.text, count, from_right, list.as.sequence);
    }
    if (from_right) {
        reverse_items(list.as.sequence);
    }
    *ret_value = list;
    return rc;
}

/* Bytes of the line end that starts the text; 0: none. */
static size_t line_end_bytes(struct med_jinja_text text)
{
    const unsigned char *u = (const unsigned char *)text.data;
    if (u[0] == '\r') {
        return text.bytes > 1 && u[1] == '\n' ? 2 : 1;
    }
    if ((u[0] >= '\n' && u[0] <= '\f') || (u[0] >= 0x1C && u[0] <= 0x1E)) {
        return 1;
    }
    if (u[0] == 0xC2 && text.bytes > 1 && u[1] == 0x85) {
        return 2;
    }
    bool separator =
        text.bytes > 2 && u[0] == 0xE2 && u[1] == 0x80 && (u[2] == 0xA8 || u[2] == 0xA9);
    return separator ? 3 : 0;
}

int med_jinja_split_lines(struct med_jinja_eval *eval, struct med_jinja_text text, bool keep_ends,
                          struct med_jinja_value *ret_value)
{
    struct med_jinja_value list;
    size_t capacity = 0;
    int rc = med_jinja_sequence_new(eval, MED_JINJA_LIST, 0, &list);
    rc = rc < 0 ? rc : med_jinja_spend(eval, text.bytes / 16);
    while (rc == 0 && text.bytes > 0) {
        size_t n = 0;
        size_t end = 0;
        while (n < text.bytes && (end = line_end_bytes(cut_front(text, n))) == 0) {
            n++;
        }
        rc = add_part(eval, list.as.sequence, &capacity, text.data, keep_ends ? n + end : n);
        text = cut_front(text, n + end);
    }
    *ret_value = list;
    return rc;
}
