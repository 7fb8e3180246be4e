/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The filters of a template.
 *
 * Filters that Jinja makes lazy (map, select, reverse ...) give an iterator here too: it can be walked
 * once and has no length; what is in it is computed at once.
 * thread: one render.  Does not escape for HTML; sorts nothing.
 */
#include "base/limits.h"
#include "router/tokenizer/jinja.h"

#include <math.h>
#include <string.h>

enum filter {
    FILTER_ABS,
    FILTER_CAPITALIZE,
    FILTER_COUNT,
    FILTER_D,
    FILTER_DEFAULT,
    FILTER_FIRST,
    FILTER_FLOAT,
    FILTER_INT,
    FILTER_ITEMS,
    FILTER_JOIN,
    FILTER_LAST,
    FILTER_LENGTH,
    FILTER_LIST,
    FILTER_LOWER,
    FILTER_MAP,
    FILTER_REJECT,
    FILTER_REJECTATTR,
    FILTER_REPLACE,
    FILTER_REVERSE,
    FILTER_SELECT,
    FILTER_SELECTATTR,
    FILTER_STRING,
    FILTER_TITLE,
    FILTER_TOJSON,
    FILTER_TRIM,
    FILTER_UPPER,
    FILTERS
};

static const char *const filter_names[FILTERS] = {
    [FILTER_ABS] = "abs",
    [FILTER_CAPITALIZE] = "capitalize",
    [FILTER_COUNT] = "count",
    [FILTER_D] = "d",
    [FILTER_DEFAULT] = "default",
    [FILTER_FIRST] = "first",
    [FILTER_FLOAT] = "float",
    [FILTER_INT] = "int",
    [FILTER_ITEMS] = "items",
    [FILTER_JOIN] = "join",
    [FILTER_LAST] = "last",
    [FILTER_LENGTH] = "length",
    [FILTER_LIST] = "list",
    [FILTER_LOWER] = "lower",
    [FILTER_MAP] = "map",
    [FILTER_REJECT] = "reject",
    [FILTER_REJECTATTR] = "rejectattr",
    [FILTER_REPLACE] = "replace",
    [FILTER_REVERSE] = "reverse",
    [FILTER_SELECT] = "select",
    [FILTER_SELECTATTR] = "selectattr",
    [FILTER_STRING] = "string",
    [FILTER_TITLE] = "title",
    [FILTER_TOJSON] = "tojson",
    [FILTER_TRIM] = "trim",
    [FILTER_UPPER] = "upper",
};

int med_jinja_filter_find(struct med_jinja_text name)
{
    for (int i = 0; i < FILTERS; i++) {
        if (med_jinja_text_is(name, filter_names[i])) {
            return i;
        }
    }
    return -1;
}

/* A filter at work, for its parts. */
struct context {
    struct med_jinja_eval *eval;
    enum filter filter;
    const struct med_jinja_value *value;
    const struct med_jinja_call *call;
    struct med_jinja_value *ret_value;
};

static int take(const struct context *c, const char *const *names, size_t count, size_t required,
                struct med_jinja_value *slots)
{
    return med_jinja_take_arguments(c->eval, med_jinja_text(filter_names[c->filter]), c->call,
                                    names, count, required, slots);
}

static int fail_value(const struct context *c, const struct med_jinja_value *value)
{
    return med_jinja_fail(c->eval, MED_E_INVALID, "the filter %s does not take %s",
                          filter_names[c->filter], med_jinja_kind_name(value->kind));
}

static bool is_int(const struct med_jinja_value *value)
{
    return value->kind == MED_JINJA_INT || value->kind == MED_JINJA_BOOL;
}

/* ---- strings ---- */

static int filter_case(const struct context *c, enum med_jinja_case to)
{
    struct med_jinja_text text;
    int rc = take(c, NULL, 0, 0, NULL);
    rc = rc < 0 ? rc : med_jinja_to_text(c->eval, c->value, &text);
    return rc < 0 ? rc : med_jinja_change_case(c->eval, text, to, c->ret_value);
}

static int filter_trim(const struct context *c)
{
    static const char *const names[] = {"chars"};
    struct med_jinja_value chars = med_jinja_none();
    struct med_jinja_text text;
    int rc = take(c, names, 1, 0, &chars);
    rc = rc < 0 ? rc : med_jinja_to_text(c->eval, c->value, &text);
    return rc < 0 ? rc : med_jinja_strip(c->eval, text, MED_JINJA_BOTH, &chars, c->ret_value);
}

static int filter_replace(const struct context *c)
{
    static const char *const names[] = {"old", "new", "count"};
    struct med_jinja_value slots[3] = {med_jinja_none(), med_jinja_none(), med_jinja_none()};
    struct med_jinja_text text;
    struct med_jinja_text old;
    struct med_jinja_text fresh;
    int rc = take(c, names, 3, 2, slots);
    rc = rc < 0 ? rc : med_jinja_to_text(c->eval, c->value, &text);
    rc = rc < 0 ? rc : med_jinja_to_text(c->eval, &slots[0], &old);
    rc = rc < 0 ? rc : med_jinja_to_text(c->eval, &slots[1], &fresh);
    if (rc < 0) {
        return rc;
    }
    if (slots[2].kind != MED_JINJA_NONE && !is_int(&slots[2])) {
        return fail_value(c, &slots[2]);
    }
    int64_t count = slots[2].kind == MED_JINJA_NONE ? -1 : med_jinja_as_int(&slots[2]);
    return med_jinja_replace(c->eval, text, old, fresh, count, c->ret_value);
}

static int filter_string(const struct context *c)
{
    struct med_jinja_text text;
    int rc = take(c, NULL, 0, 0, NULL);
    rc = rc < 0 ? rc : med_jinja_to_text(c->eval, c->value, &text);
    if (rc == 0) {
        *c->ret_value = med_jinja_string(text.data, text.bytes);
    }
    return rc;
}

/* ---- numbers ---- */

static int filter_int(const struct context *c)
{
    static const char *const names[] = {"default"};
    struct med_jinja_value fallback = med_jinja_int(0);
    int rc = take(c, names, 1, 0, &fallback);
    if (rc < 0) {
        return rc;
    }
    bool whole = false;
    int64_t integer = 0;
    double number = NAN;
    if (is_int(c->value)) {
        *c->ret_value = med_jinja_int(med_jinja_as_int(c->value));
        return 0;
    }
    if (c->value->kind == MED_JINJA_FLOAT) {
        number = c->value->as.number;
    } else if (c->value->kind == MED_JINJA_STRING &&
               !med_jinja_read_number(c->value->as.text, &whole, &integer, &number)) {
        number = NAN;
    }
    if (!whole && isfinite(number) && fabs(number) >= 9223372036854775808.0) {
        return med_jinja_fail(c->eval, MED_E_LIMIT, "an integer does not fit 64 bits");
    }
    if (!whole && !isfinite(number)) {
        *c->ret_value = fallback;
        return 0;
    }
    *c->ret_value = med_jinja_int(whole ? integer : (int64_t)number);
    return 0;
}

static int filter_float(const struct context *c)
{
    static const char *const names[] = {"default"};
    struct med_jinja_value fallback = med_jinja_float(0);
    int rc = take(c, names, 1, 0, &fallback);
    if (rc < 0) {
        return rc;
    }
    bool whole;
    int64_t integer;
    double number;
    *c->ret_value = fallback;
    if (med_jinja_is_number(c->value)) {
        *c->ret_value = med_jinja_float(med_jinja_as_double(c->value));
    } else if (c->value->kind == MED_JINJA_STRING &&
               med_jinja_read_number(c->value->as.text, &whole, &integer, &number)) {
        *c->ret_value = med_jinja_float(number);
    }
    return 0;
}

static int filter_abs(const struct context *c)
{
    struct med_jinja_value zero = med_jinja_int(0);
    int rc = take(c, NULL, 0, 0, NULL);
    if (rc < 0) {
        return rc;
    }
    if (c->value->kind == MED_JINJA_FLOAT) {
        *c->ret_value = med_jinja_float(fabs(c->value->as.number));
        return 0;
    }
    if (!is_int(c->value)) {
        return fail_value(c, c->value);
    }
    bool negative = med_jinja_as_int(c->value) < 0;
    return med_jinja_binary(c->eval, negative ? MED_JINJA_SUB : MED_JINJA_ADD, &zero, c->value,
                            c->ret_value);
}

/* ---- sequences ---- */

static int filter_default(const struct context *c)
{
    static const char *const names[] = {"default_value", "boolean"};
    struct med_jinja_value slots[2] = {med_jinja_string("", 0), med_jinja_bool(false)};
    int rc = take(c, names, 2, 0, slots);
    if (rc < 0) {
        return rc;
    }
    bool replaced = c->value->kind == MED_JINJA_UNDEFINED ||
                    (med_jinja_truth(&slots[1]) && !med_jinja_truth(c->value));
    *c->ret_value = replaced ? slots[0] : *c->value;
    return 0;
}

static int filter_end(const struct context *c)
{
    struct med_jinja_sequence items;
    bool last = c->filter == FILTER_LAST;
    int rc = take(c, NULL, 0, 0, NULL);
    if (rc == 0 && last && c->value->kind == MED_JINJA_ITERATOR) {
        return fail_value(c, c->value);
    }
    if (rc == 0 && c->value->kind == MED_JINJA_ITERATOR) {
        /* Takes one item; the rest can still be walked. */
        struct med_jinja_sequence *sequence = c->value->as.sequence;
        *c->ret_value = med_jinja_undefined(med_jinja_text("the first item of nothing"));
        if (!sequence->consumed && sequence->count > 0) {
            *c->ret_value = *sequence->items++;
            sequence->count--;
        }
        return 0;
    }
    rc = rc < 0 ? rc : med_jinja_iterate(c->eval, c->value, &items);
    if (rc < 0) {
        return rc;
    }
    *c->ret_value = items.count == 0
                        ? med_jinja_undefined(med_jinja_text("an end of an empty sequence"))
                        : items.items[last ? items.count - 1 : 0];
    return 0;
}

static int filter_list(const struct context *c)
{
    struct med_jinja_sequence items;
    struct med_jinja_value list;
    int rc = take(c, NULL, 0, 0, NULL);
    rc = rc < 0 ? rc : med_jinja_iterate(c->eval, c->value, &items);
    rc = rc < 0 ? rc : med_jinja_sequence_new(c->eval, MED_JINJA_LIST, items.count, &list);
    for (size_t i = 0; rc == 0 && i < items.count; i++) {
        rc = med_jinja_sequence_add(c->eval, list.as.sequence, &items.items[i]);
    }
    if (rc == 0) {
        *c->ret_value = list;
    }
    return rc;
}

static int filter_reverse(const struct context *c)
{
    struct med_jinja_sequence items;
    struct med_jinja_value reversed;
    struct med_jinja_value step = med_jinja_int(-1);
    const struct med_jinja_value *bounds[3] = {NULL, NULL, &step};
    int rc = take(c, NULL, 0, 0, NULL);
    if (rc == 0 && c->value->kind == MED_JINJA_STRING) {
        return med_jinja_slice(c->eval, c->value, bounds, c->ret_value);
    }
    /* What Python can reverse in place it walks backwards; of the rest it makes a list. */
    bool lazy = c->value->kind != MED_JINJA_ITERATOR && c->value->kind != MED_JINJA_UNDEFINED;
    rc = rc < 0 ? rc : med_jinja_iterate(c->eval, c->value, &items);
    rc = rc < 0 ? rc
                : med_jinja_sequence_new(c->eval, lazy ? MED_JINJA_ITERATOR : MED_JINJA_LIST,
                                         items.count, &reversed);
    for (size_t i = 0; rc == 0 && i < items.count; i++) {
        rc = med_jinja_sequence_add(c->eval, reversed.as.sequence,
                                    &items.items[items.count - 1 - i]);
    }
    if (rc == 0) {
        *c->ret_value = reversed;
    }
    return rc;
}

static int filter_length(const struct context *c)
{
    int64_t length;
    int rc = take(c, NULL, 0, 0, NULL);
    rc = rc < 0 ? rc : med_jinja_length(c->eval, c->value, &length);
    if (rc == 0) {
        *c->ret_value = med_jinja_int(length);
    }
    return rc;
}

static int filter_items(const struct context *c)
{
    struct med_jinja_call none = {.count = 0};
    int rc = take(c, NULL, 0, 0, NULL);
    if (rc == 0 && c->value->kind == MED_JINJA_UNDEFINED) {
        return med_jinja_sequence_new(c->eval, MED_JINJA_ITERATOR, 0, c->ret_value);
    }
    if (rc == 0 && c->value->kind != MED_JINJA_DICT) {
        return fail_value(c, c->value);
    }
    rc = rc < 0 ? rc
                : med_jinja_method_apply(c->eval, med_jinja_method_find(med_jinja_text("items")),
                                         c->value, &none, c->ret_value);
    if (rc == 0) {
        c->ret_value->kind = MED_JINJA_ITERATOR;
    }
    return rc;
}

/* item.a.b.0 for "a.b.0": a part of digits is an index. */
static int dig(struct med_jinja_eval *eval, const struct med_jinja_value *item,
               const struct med_jinja_value *path, struct med_jinja_value *ret_value)
{
    struct med_jinja_value found = *item;
    int rc = 0;
    if (path->kind != MED_JINJA_STRING) {
        return med_jinja_item(eval, item, path, ret_value);
    }
    struct med_jinja_text left = path->as.text;
    bool more = true;
    while (rc == 0 && more) {
        const char *dot = left.bytes > 0 ? memchr(left.data, '.', left.bytes) : NULL;
        struct med_jinja_text part = {left.data, dot ? (size_t)(dot - left.data) : left.bytes};
        struct med_jinja_value key = med_jinja_string(part.data, part.bytes);
        int64_t index = 0;
        bool digits = part.bytes > 0 && part.bytes < 18;
        for (size_t i = 0; i < part.bytes && digits; i++) {
            digits = part.data[i] >= '0' && part.data[i] <= '9';
            index = index * 10 + (part.data[i] - '0');
        }
        struct med_jinja_value next = med_jinja_none();
        if (digits) {
            key = med_jinja_int(index);
        }
        rc = med_jinja_item(eval, &found, &key, &next);
        found = next;
        more = dot != NULL;
        left.data += part.bytes + (more ? 1 : 0);
        left.bytes -= part.bytes + (more ? 1 : 0);
    }
    *ret_value = found;
    return rc;
}

static int filter_join(const struct context *c)
{
    static const char *const names[] = {"d", "attribute"};
    struct med_jinja_value slots[2] = {med_jinja_string("", 0), med_jinja_none()};
    struct med_jinja_sequence items;
    struct med_jinja_text separator;
    struct med_jinja_value joined = med_jinja_string("", 0);
    int rc = take(c, names, 2, 0, slots);
    rc = rc < 0 ? rc : med_jinja_to_text(c->eval, &slots[0], &separator);
    rc = rc < 0 ? rc : med_jinja_iterate(c->eval, c->value, &items);
    for (size_t i = 0; rc == 0 && i < items.count; i++) {
        struct med_jinja_value item = items.items[i];
        struct med_jinja_text text;
        if (slots[1].kind != MED_JINJA_NONE) {
            rc = dig(c->eval, &items.items[i], &slots[1], &item);
        }
        rc = rc < 0 ? rc : med_jinja_to_text(c->eval, &item, &text);
        if (rc == 0 && i > 0) {
            rc = med_jinja_concat(c->eval, joined.as.text, separator, &joined);
        }
        rc = rc < 0 ? rc : med_jinja_concat(c->eval, joined.as.text, text, &joined);
    }
    *c->ret_value = joined;
    return rc;
}

/* The arguments after the first `skip`, for a filter or test that is named by an argument. */
static struct med_jinja_call shift(const struct med_jinja_call *call, size_t skip)
{
    struct med_jinja_call shifted = *call;
    shifted.count -= skip;
    memmove(shifted.positional, shifted.positional + skip,
            shifted.count * sizeof(*shifted.positional));
    return shifted;
}

static int find_named(const struct context *c, size_t at, int (*find)(struct med_jinja_text),
                      const char *what, int *ret_index)
{
    const struct med_jinja_value *name = &c->call->positional[at];
    if (name->kind != MED_JINJA_STRING) {
        return fail_value(c, name);
    }
    *ret_index = find(name->as.text);
    if (*ret_index < 0) {
        return med_jinja_fail(c->eval, MED_E_INVALID, "the %s %.*s is not supported", what,
                              (int)name->as.text.bytes, name->as.text.data);
    }
    return 0;
}

/* map(attribute=..., default=...) or map('filter', ...). */
static int filter_map(const struct context *c)
{
    static const char *const names[] = {"attribute", "default"};
    struct med_jinja_value slots[2] = {med_jinja_none(), med_jinja_none()};
    struct med_jinja_sequence items;
    struct med_jinja_value mapped;
    struct med_jinja_call rest = {.count = 0};
    int filter = -1;
    int rc = 0;
    if (!med_jinja_truth(c->value)) {
        /* As Jinja has it: of nothing, whatever kind of nothing, comes nothing. */
        return med_jinja_sequence_new(c->eval, MED_JINJA_ITERATOR, 0, c->ret_value);
    }
    if (c->call->count > 0) {
        rest = shift(c->call, 1);
        rc = find_named(c, 0, med_jinja_filter_find, "filter", &filter);
    } else {
        rc = take(c, names, 2, 1, slots);
    }
    rc = rc < 0 ? rc : med_jinja_iterate(c->eval, c->value, &items);
    rc = rc < 0 ? rc : med_jinja_sequence_new(c->eval, MED_JINJA_ITERATOR, items.count, &mapped);
    for (size_t i = 0; rc == 0 && i < items.count; i++) {
        struct med_jinja_value item = med_jinja_none();
        if (filter >= 0) {
            rc = med_jinja_filter_apply(c->eval, filter, &items.items[i], &rest, &item);
        } else {
            rc = dig(c->eval, &items.items[i], &slots[0], &item);
        }
        if (rc == 0 && item.kind == MED_JINJA_UNDEFINED && slots[1].kind != MED_JINJA_NONE) {
            item = slots[1];
        }
        rc = rc < 0 ? rc : med_jinja_sequence_add(c->eval, mapped.as.sequence, &item);
    }
    if (rc == 0) {
        *c->ret_value = mapped;
    }
    return rc;
}

/* select, reject ([test, arguments]); selectattr, rejectattr (attribute [, test, arguments]). */
static int filter_select(const struct context *c)
{
    bool by_attribute = c->filter == FILTER_SELECTATTR || c->filter == FILTER_REJECTATTR;
    bool wanted = c->filter == FILTER_SELECT || c->filter == FILTER_SELECTATTR;
    size_t skip = by_attribute ? 1 : 0;
    struct med_jinja_sequence items;
    struct med_jinja_value kept;
    struct med_jinja_call rest = {.count = 0};
    int test = -1;
    int rc = 0;
    if (!med_jinja_truth(c->value)) {
        /* As Jinja has it: of nothing, whatever kind of nothing, comes nothing. */
        return med_jinja_sequence_new(c->eval, MED_JINJA_ITERATOR, 0, c->ret_value);
    }
    if (c->call->count < skip) {
        return med_jinja_fail(c->eval, MED_E_INVALID, "the filter %s needs an attribute",
                              filter_names[c->filter]);
    }
    if (c->call->count > skip) {
        rest = shift(c->call, skip + 1);
        rc = find_named(c, skip, med_jinja_test_find, "test", &test);
    }
    rc = rc < 0 ? rc : med_jinja_iterate(c->eval, c->value, &items);
    rc = rc < 0 ? rc : med_jinja_sequence_new(c->eval, MED_JINJA_ITERATOR, items.count, &kept);
    for (size_t i = 0; rc == 0 && i < items.count; i++) {
        struct med_jinja_value item = items.items[i];
        bool truth = false;
        if (by_attribute) {
            rc = dig(c->eval, &items.items[i], &c->call->positional[0], &item);
        }
        if (rc == 0 && test >= 0) {
            rc = med_jinja_test_apply(c->eval, test, &item, &rest, &truth);
        } else {
            truth = med_jinja_truth(&item);
        }
        if (rc == 0 && truth == wanted) {
            rc = med_jinja_sequence_add(c->eval, kept.as.sequence, &items.items[i]);
        }
    }
    if (rc == 0) {
        *c->ret_value = kept;
    }
    return rc;
}

/* ---- JSON ---- */

static int filter_tojson(const struct context *c)
{
    static const char *const names[] = {"ensure_ascii", "indent", "separators", "sort_keys"};
    struct med_jinja_value slots[4] = {med_jinja_bool(false), med_jinja_none(), med_jinja_none(),
                                       med_jinja_bool(false)};
    struct med_jinja_json style;
    struct med_buf out;
    int rc = take(c, names, 4, 0, slots);
    rc = rc < 0 ? rc : med_jinja_json_style(c->eval, slots, &style);
    if (rc < 0) {
        return rc;
    }
    med_buf_init(&out, MED_LIMIT_PROMPT_BYTES);
    rc = med_jinja_to_json(c->eval, c->value, &style, &out);
    rc = rc < 0 ? rc : med_jinja_keep(c->eval, &out, c->ret_value);
    med_buf_release(&out);
    return rc;
}

int med_jinja_filter_apply(struct med_jinja_eval *eval, int index,
                           const struct med_jinja_value *value, const struct med_jinja_call *call,
                           struct med_jinja_value *ret_value)
{
    const struct context c = {eval, (enum filter)index, value, call, ret_value};
    int rc = med_jinja_spend(eval, 1);
    if (rc < 0) {
        return rc;
    }
    switch (c.filter) {
    case FILTER_ABS:
        return filter_abs(&c);
    case FILTER_CAPITALIZE:
        return filter_case(&c, MED_JINJA_CAPITALIZE);
    case FILTER_COUNT:
    case FILTER_LENGTH:
        return filter_length(&c);
    case FILTER_D:
    case FILTER_DEFAULT:
        return filter_default(&c);
    case FILTER_FIRST:
    case FILTER_LAST:
        return filter_end(&c);
    case FILTER_FLOAT:
        return filter_float(&c);
    case FILTER_INT:
        return filter_int(&c);
    case FILTER_ITEMS:
        return filter_items(&c);
    case FILTER_JOIN:
        return filter_join(&c);
    case FILTER_LIST:
        return filter_list(&c);
    case FILTER_LOWER:
        return filter_case(&c, MED_JINJA_LOWER);
    case FILTER_MAP:
        return filter_map(&c);
    case FILTER_REJECT:
    case FILTER_REJECTATTR:
    case FILTER_SELECT:
    case FILTER_SELECTATTR:
        return filter_select(&c);
    case FILTER_REPLACE:
        return filter_replace(&c);
    case FILTER_REVERSE:
        return filter_reverse(&c);
    case FILTER_STRING:
        return filter_string(&c);
    case FILTER_TITLE:
        return filter_case(&c, MED_JINJA_TITLE_FILTER);
    case FILTER_TOJSON:
        return filter_tojson(&c);
    case FILTER_TRIM:
        return filter_trim(&c);
    default:
        return filter_case(&c, MED_JINJA_UPPER);
    }
}
