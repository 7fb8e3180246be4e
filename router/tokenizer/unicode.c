/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unicode normalization and classes, on utf8proc's tables.
 *
 * Each character is decomposed by the library; combining marks are then put in order here (the
 * library's own ordering takes quadratic time on long runs of marks), and the library composes.
 * Most text is known to be normal from its code points alone and is not touched.  The only file
 * that includes utf8proc.  thread: any.
 */
#include "router/tokenizer/unicode.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <string.h>
#include <utf8proc.h>

enum {
    DECOMPOSED_MAX = 32, /* code points of one character; Unicode needs 18 */
    CLASSES = 256
};

uint32_t med_unicode_at(const char *p, size_t *ret_bytes)
{
    const unsigned char *u = (const unsigned char *)p;
    if (u[0] < 0x80) {
        *ret_bytes = 1;
        return u[0];
    }
    if (u[0] < 0xe0) {
        *ret_bytes = 2;
        return ((uint32_t)(u[0] & 0x1f) << 6) | (u[1] & 0x3f);
    }
    if (u[0] < 0xf0) {
        *ret_bytes = 3;
        return ((uint32_t)(u[0] & 0x0f) << 12) | ((uint32_t)(u[1] & 0x3f) << 6) | (u[2] & 0x3f);
    }
    *ret_bytes = 4;
    return ((uint32_t)(u[0] & 0x07) << 18) | ((uint32_t)(u[1] & 0x3f) << 12) |
           ((uint32_t)(u[2] & 0x3f) << 6) | (u[3] & 0x3f);
}

uint32_t med_unicode_before(const char *start, const char *p, size_t *ret_bytes)
{
    MED_ASSERT(p > start);
    do {
        p--;
    } while (p > start && ((unsigned char)*p & 0xc0) == 0x80);
    return med_unicode_at(p, ret_bytes);
}

bool med_unicode_is_space(uint32_t c)
{
    if (c < 0x80)
        return c == ' ' || (c >= '\t' && c <= '\r');
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool med_unicode_is_number(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
           category == UTF8PROC_CATEGORY_NO;
}

bool med_unicode_is_punctuation(uint32_t c)
{
    if (c < 0x80) {
        return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
               (c >= '{' && c <= '~');
    }
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

bool med_unicode_is_word(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL)
        return true; // letters, marks, decimal and letter numbers
    return category == UTF8PROC_CATEGORY_PC || c == 0x200c || c == 0x200d ||
           /* Other_Alphabetic among the symbols: circled and squared letters. */
           (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
           (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
}

/* Characters that NFC leaves alone whatever stands beside them: not a mark, not composed away, never
 * the second half of a composition.  Not all of them; tests check the ranges against the library. */
static bool is_inert_nfc(uint32_t c)
{
    return c < 0x300 || (c >= 0x400 && c <= 0x482) || (c >= 0x5be && c <= 0x5be) ||
           (c >= 0x5d0 && c <= 0x5ea) || (c >= 0x620 && c <= 0x64a) ||
           (c >= 0x2010 && c <= 0x2027) || (c >= 0x2500 && c <= 0x2775) ||
           (c >= 0x3000 && c <= 0x3029) || (c >= 0x3041 && c <= 0x3096) ||
           (c >= 0x30a1 && c <= 0x30fa) || (c >= 0x4e00 && c <= 0x9fff) ||
           (c >= 0xac00 && c <= 0xd7a3) || (c >= 0xff01 && c <= 0xff5e) ||
           (c >= 0x1f300 && c <= 0x1f64f);
}

bool med_unicode_is_normal(const char *text, size_t bytes, enum med_unicode_form form)
{
    for (size_t i = 0; i < bytes;) {
        if ((unsigned char)text[i] < 0x80) {
            i++;
            continue;
        }
        size_t length;
        uint32_t c = med_unicode_at(text + i, &length);
        if (form != MED_UNICODE_NFC || !is_inert_nfc(c))
            return false;
        i += length;
    }
    return true;
}

/* ---- decomposing ---- */

struct code_points {
    utf8proc_int32_t *c; /* owned */
    size_t count, capacity;
};

static int code_points_reserve(struct code_points *points, size_t more)
{
    if (more <= points->capacity - points->count)
        return 0;
    size_t capacity = points->capacity + points->capacity / 2 + more;
    utf8proc_int32_t *grown = med_realloc_array(points->c, capacity, sizeof *grown);
    if (!grown)
        return MED_E_NOMEM;
    points->c = grown;
    points->capacity = capacity;
    return 0;
}

static int decompose(const char *text, size_t bytes, enum med_unicode_form form,
                     struct code_points *points)
{
    utf8proc_option_t options = UTF8PROC_DECOMPOSE | UTF8PROC_STABLE;
    if (form == MED_UNICODE_NFKC || form == MED_UNICODE_NFKD)
        options = (utf8proc_option_t)(options | UTF8PROC_COMPAT);
    for (size_t i = 0; i < bytes;) {
        size_t length;
        uint32_t c = med_unicode_at(text + i, &length);
        if (code_points_reserve(points, DECOMPOSED_MAX) < 0)
            return MED_E_NOMEM;
        int boundary = 0;
        utf8proc_ssize_t made = utf8proc_decompose_char(
            (utf8proc_int32_t)c, points->c + points->count, DECOMPOSED_MAX, options, &boundary);
        MED_ASSERT(made >= 0 && made <= DECOMPOSED_MAX);
        points->count += (size_t)made;
        i += length;
    }
    return 0;
}

static unsigned char combining_class(utf8proc_int32_t c)
{
    return (unsigned char)utf8proc_get_property(c)->combining_class;
}

/* Puts one run of marks in the order of their classes, stable: counting sort. */
static void sort_run(utf8proc_int32_t *run, size_t count, utf8proc_int32_t *spare)
{
    size_t starts[CLASSES + 1] = {0};
    for (size_t i = 0; i < count; i++)
        starts[combining_class(run[i]) + 1]++;
    for (size_t i = 1; i <= CLASSES; i++)
        starts[i] += starts[i - 1];
    for (size_t i = 0; i < count; i++)
        spare[starts[combining_class(run[i])]++] = run[i];
    memcpy(run, spare, count * sizeof *run);
}

/* The canonical ordering of marks. */
static int order_marks(struct code_points *points)
{
    utf8proc_int32_t *spare = NULL;
    for (size_t i = 0; i < points->count;) {
        if (combining_class(points->c[i]) == 0) {
            i++;
            continue;
        }
        size_t end = i;
        bool sorted = true;
        while (end < points->count && combining_class(points->c[end]) != 0) {
            sorted &=
                end == i || combining_class(points->c[end - 1]) <= combining_class(points->c[end]);
            end++;
        }
        if (!sorted && end - i == 2) {
            utf8proc_int32_t first = points->c[i];
            points->c[i] = points->c[i + 1];
            points->c[i + 1] = first;
        } else if (!sorted) {
            if (!spare)
                spare = med_realloc_array(NULL, points->count, sizeof *spare);
            if (!spare)
                return MED_E_NOMEM;
            sort_run(points->c + i, end - i, spare);
        }
        i = end;
    }
    med_free(spare);
    return 0;
}

static int write_utf8(const struct code_points *points, struct med_buf *out)
{
    for (size_t i = 0; i < points->count; i++) {
        char utf8[4];
        utf8proc_ssize_t bytes =
            utf8proc_encode_char(points->c[i], (utf8proc_uint8_t *)(void *)utf8);
        int rc = med_buf_append(out, utf8, (size_t)bytes);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int med_unicode_normalize(const char *text, size_t bytes, enum med_unicode_form form,
                          struct med_buf *out)
{
    struct code_points points = {0};
    med_buf_clear(out);
    int rc = code_points_reserve(&points, bytes + 1);
    if (rc == 0)
        rc = decompose(text, bytes, form, &points);
    if (rc == 0)
        rc = order_marks(&points);
    if (rc == 0 && (form == MED_UNICODE_NFC || form == MED_UNICODE_NFKC)) {
        utf8proc_ssize_t composed = utf8proc_normalize_utf32(
            points.c, (utf8proc_ssize_t)points.count, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
        MED_ASSERT(composed >= 0);
        points.count = (size_t)composed;
    }
    if (rc == 0)
        rc = write_utf8(&points, out);
    med_free(points.c);
    return rc;
}
