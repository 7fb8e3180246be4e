/* SPDX-License-Identifier: Apache-2.0 */
/*
 * object[start:stop:step] of a template, as Python has it: of strings (in characters), lists, tuples
 * and ranges.  thread: one render.
 */
#include "router/tokenizer/jinja.h"

#include <string.h>

struct slice {
    int64_t start, step;
    size_t count;
};

static int64_t clamp(int64_t value, int64_t count, bool down)
{
    if (value < 0) {
        value += count;
        return value < 0 ? (down ? -1 : 0) : value;
    }
    return value >= count ? (down ? count - 1 : count) : value;
}

/* Python's slice.indices(); false with err filled. */
static int resolve_slice(struct med_jinja_eval *eval, const struct med_jinja_value *const bounds[3],
                         size_t length, struct slice *ret_slice)
{
    int64_t count = (int64_t)length;
    int64_t given[3] = {0, 0, 1};
    bool is_given[3] = {false, false, false};
    for (int i = 0; i < 3; i++) {
        if (!bounds[i] || bounds[i]->kind == MED_JINJA_NONE) {
            continue;
        }
        if (bounds[i]->kind != MED_JINJA_INT && bounds[i]->kind != MED_JINJA_BOOL) {
            return med_jinja_fail(eval, MED_E_INVALID, "a slice by %s is not defined",
                                  med_jinja_kind_name(bounds[i]->kind));
        }
        given[i] = med_jinja_as_int(bounds[i]);
        is_given[i] = true;
    }
    int64_t step = given[2];
    if (step == 0) {
        return med_jinja_fail(eval, MED_E_INVALID, "the step of a slice is 0");
    }
    bool down = step < 0;
    if (step < -count - 1 || step > count + 1) {
        step = down ? -count - 1 : count + 1; // the same items, and no overflow below
    }
    int64_t start = is_given[0] ? clamp(given[0], count, down) : down ? count - 1 : 0;
    int64_t stop = is_given[1] ? clamp(given[1], count, down) : down ? -1 : count;
    int64_t span = down ? start - stop : stop - start;
    int64_t stride = down ? -step : step;
    *ret_slice = (struct slice){
        .start = start,
        .step = step,
        .count = span <= 0 ? 0 : (size_t)((span + stride - 1) / stride),
    };
    return 0;
}

static int slice_text(struct med_jinja_eval *eval, struct med_jinja_text text,
                      const struct med_jinja_value *const bounds[3],
                      struct med_jinja_value *ret_value)
{
    struct med_jinja_value value = med_jinja_string(text.data, text.bytes);
    struct med_jinja_sequence characters;
    struct slice slice = {0};
    int rc = med_jinja_iterate(eval, &value, &characters);
    rc = rc < 0 ? rc : resolve_slice(eval, bounds, characters.count, &slice);
    if (rc < 0) {
        return rc;
    }
    char *data = med_jinja_arena_text(&eval->arena, text.bytes);
    if (!data) {
        return med_jinja_fail_memory(eval);
    }
    size_t bytes = 0;
    for (size_t i = 0; i < slice.count; i++) {
        size_t at = (size_t)(slice.start + (int64_t)i * slice.step);
        struct med_jinja_text one = characters.items[at].as.text;
        memcpy(data + bytes, one.data, one.bytes);
        bytes += one.bytes;
    }
    *ret_value = med_jinja_string(data, bytes);
    return 0;
}

int med_jinja_slice(struct med_jinja_eval *eval, const struct med_jinja_value *object,
                    const struct med_jinja_value *const bounds[3],
                    struct med_jinja_value *ret_value)
{
    if (object->kind == MED_JINJA_UNDEFINED) {
        return med_jinja_fail_undefined(eval, object->as.text);
    }
    if (object->kind == MED_JINJA_STRING) {
        return slice_text(eval, object->as.text, bounds, ret_value);
    }
    if (object->kind != MED_JINJA_LIST && object->kind != MED_JINJA_TUPLE &&
        object->kind != MED_JINJA_RANGE_LIST) {
        return med_jinja_fail(eval, MED_E_INVALID, "a slice of %s is not defined",
                              med_jinja_kind_name(object->kind));
    }
    struct slice slice = {0};
    struct med_jinja_value list;
    int rc = resolve_slice(eval, bounds, object->as.sequence->count, &slice);
    rc = rc < 0 ? rc : med_jinja_sequence_new(eval, object->kind, slice.count, &list);
    for (size_t i = 0; rc == 0 && i < slice.count; i++) {
        size_t at = (size_t)(slice.start + (int64_t)i * slice.step);
        rc = med_jinja_sequence_add(eval, list.as.sequence, &object->as.sequence->items[at]);
    }
    if (rc == 0) {
        *ret_value = list;
    }
    return rc;
}
