/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Normalizers: the Unicode forms, Prepend and Replace, in a row.
 *
 * A text that a step leaves alone is passed on without a copy; else the result goes to one of two
 * buffers by turns.  thread: any, with buffers of its own.
 */
#include "router/tokenizer/internal.h"

#include <string.h>

static int parse_replace(struct normalize_step *step, const struct med_json_at *at,
                         struct med_err *err)
{
    static const char *const known[] = {"type", "pattern", "content", NULL};
    static const char *const pattern_known[] = {"String", NULL};
    struct med_json_at pattern;
    step->kind = NORMALIZE_REPLACE;
    int rc = med_json_keys(at, known, err);
    if (rc == 0)
        rc = med_json_object(at, "pattern", &pattern, err);
    if (rc == 0)
        rc = med_json_keys(&pattern, pattern_known, err);
    if (rc == 0)
        rc = component_literal(&pattern, "String", false, step->from, &step->from_bytes, err);
    if (rc == 0)
        rc = component_literal(at, "content", true, step->to, &step->to_bytes, err);
    return rc;
}

static int parse_step(struct normalize_step *step, const struct med_json_at *at,
                      struct med_err *err)
{
    static const char *const form_known[] = {"type", NULL};
    static const char *const prepend_known[] = {"type", "prepend", NULL};
    static const char *const forms[] = {"NFC", "NFD", "NFKC", "NFKD"}; // as enum med_unicode_form
    const char *type;
    if (component_type(at, &type, err) < 0)
        return MED_E_FORMAT;
    if (strcmp(type, "Replace") == 0)
        return parse_replace(step, at, err);
    if (strcmp(type, "Prepend") == 0) {
        step->kind = NORMALIZE_PREPEND;
        int rc = med_json_keys(at, prepend_known, err);
        return rc < 0 ? rc : component_literal(at, "prepend", true, step->to, &step->to_bytes, err);
    }
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (strcmp(type, forms[i]) == 0) {
            step->kind = NORMALIZE_FORM;
            step->form = (enum med_unicode_form)i;
            return med_json_keys(at, form_known, err);
        }
    }
    return med_json_fail(at, "type", err,
                         "found \"%.64s\", expected NFC, NFD, NFKC, NFKD, Prepend, Replace or a "
                         "Sequence of them",
                         type);
}

int normalizer_parse(struct normalizer *normalizer, const struct med_json_at *root,
                     struct med_err *err)
{
    struct med_json_at items[TOKENIZER_STEPS_MAX];
    int rc = component_list(root, "normalizer", "normalizers", items, &normalizer->count, err);
    for (size_t i = 0; rc == 0 && i < normalizer->count; i++)
        rc = parse_step(&normalizer->steps[i], &items[i], err);
    return rc;
}

int normalize_replace(const char *text, size_t bytes, const char *from, size_t from_bytes,
                      const char *to, size_t to_bytes, struct med_buf *out)
{
    const char *end = text + bytes;
    med_buf_clear(out);
    int rc = med_buf_reserve(out, bytes);
    while (rc == 0 && text < end) {
        const char *found = memchr(text, from[0], (size_t)(end - text));
        if (!found || (size_t)(end - found) < from_bytes) {
            rc = med_buf_append(out, text, (size_t)(end - text));
            break;
        }
        bool same = memcmp(found, from, from_bytes) == 0;
        size_t skip = same ? from_bytes : 1;
        rc = med_buf_append(out, text, (size_t)(found - text) + (same ? 0 : 1));
        if (rc == 0 && same)
            rc = med_buf_append(out, to, to_bytes);
        text = found + skip;
    }
    return rc;
}

static int run_step(const struct normalize_step *step, const char *text, size_t bytes,
                    struct med_buf *out)
{
    if (step->kind == NORMALIZE_FORM)
        return med_unicode_normalize(text, bytes, step->form, out);
    if (step->kind == NORMALIZE_REPLACE) {
        return normalize_replace(text, bytes, step->from, step->from_bytes, step->to,
                                 step->to_bytes, out);
    }
    med_buf_clear(out);
    int rc = med_buf_append(out, step->to, step->to_bytes);
    return rc < 0 ? rc : med_buf_append(out, text, bytes);
}

/* Would the step leave the text as it is? */
static bool leaves_alone(const struct normalize_step *step, const char *text, size_t bytes)
{
    if (bytes == 0)
        return true; // Prepend too
    if (step->kind == NORMALIZE_FORM)
        return med_unicode_is_normal(text, bytes, step->form);
    if (step->kind == NORMALIZE_PREPEND)
        return step->to_bytes == 0;
    return !memchr(text, step->from[0], bytes);
}

int normalizer_run(const struct normalizer *normalizer, const char *text, size_t bytes,
                   struct med_buf buffers[2], const char **ret_text, size_t *ret_bytes)
{
    size_t turn = 0;
    for (size_t i = 0; i < normalizer->count; i++) {
        const struct normalize_step *step = &normalizer->steps[i];
        if (leaves_alone(step, text, bytes))
            continue;
        struct med_buf *out = &buffers[turn];
        int rc = run_step(step, text, bytes, out);
        if (rc < 0)
            return rc;
        text = out->data ? out->data : "";
        bytes = out->length;
        turn = 1 - turn;
    }
    *ret_text = text;
    *ret_bytes = bytes;
    return 0;
}
