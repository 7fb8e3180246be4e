/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values of a template, with the meaning that Python gives them: truth, equality, order, membership,
 * iteration, and making lists and dicts.
 *
 * Lists and dicts are filled by their maker and never change afterwards.  Their depth is bounded when
 * they are made, so the recursion of equality and order is.
 * thread: one render.  Does not know attributes and subscripts (jinja_ops.c).
 */
#include "base/assert.h"
#include "router/tokenizer/jinja.h"

#include <math.h>
#include <string.h>

struct med_jinja_value med_jinja_none(void)
{
    return (struct med_jinja_value){.kind = MED_JINJA_NONE};
}

struct med_jinja_value med_jinja_bool(bool truth)
{
    return (struct med_jinja_value){.kind = MED_JINJA_BOOL, .as.truth = truth};
}

struct med_jinja_value med_jinja_int(int64_t integer)
{
    return (struct med_jinja_value){.kind = MED_JINJA_INT, .as.integer = integer};
}

struct med_jinja_value med_jinja_float(double number)
{
    return (struct med_jinja_value){.kind = MED_JINJA_FLOAT, .as.number = number};
}

struct med_jinja_value med_jinja_string(const char *data, size_t bytes)
{
    return (struct med_jinja_value){.kind = MED_JINJA_STRING, .as.text = {data, bytes}};
}

struct med_jinja_value med_jinja_undefined(struct med_jinja_text name)
{
    return (struct med_jinja_value){.kind = MED_JINJA_UNDEFINED, .as.text = name};
}

struct med_jinja_text med_jinja_text(const char *s)
{
    return (struct med_jinja_text){s, strlen(s)};
}

bool med_jinja_text_equal(struct med_jinja_text a, struct med_jinja_text b)
{
    return a.bytes == b.bytes && (a.bytes == 0 || memcmp(a.data, b.data, a.bytes) == 0);
}

bool med_jinja_text_is(struct med_jinja_text text, const char *s)
{
    return med_jinja_text_equal(text, med_jinja_text(s));
}

const char *med_jinja_kind_name(enum med_jinja_kind kind)
{
    static const char *const names[] = {
        [MED_JINJA_UNDEFINED] = "an undefined value",
        [MED_JINJA_NONE] = "none",
        [MED_JINJA_BOOL] = "a boolean",
        [MED_JINJA_INT] = "an integer",
        [MED_JINJA_FLOAT] = "a float",
        [MED_JINJA_STRING] = "a string",
        [MED_JINJA_LIST] = "a list",
        [MED_JINJA_TUPLE] = "a tuple",
        [MED_JINJA_RANGE_LIST] = "a range",
        [MED_JINJA_VIEW] = "a dict's view",
        [MED_JINJA_ITERATOR] = "an iterator",
        [MED_JINJA_DICT] = "a dict",
        [MED_JINJA_NAMESPACE] = "a namespace",
        [MED_JINJA_LOOP] = "a loop",
        [MED_JINJA_FUNCTION] = "a function",
        [MED_JINJA_MACRO] = "a macro",
    };
    return names[kind];
}

bool med_jinja_is_sequence(const struct med_jinja_value *value)
{
    return value->kind == MED_JINJA_LIST || value->kind == MED_JINJA_TUPLE ||
           value->kind == MED_JINJA_RANGE_LIST || value->kind == MED_JINJA_VIEW;
}

bool med_jinja_is_number(const struct med_jinja_value *value)
{
    return value->kind == MED_JINJA_BOOL || value->kind == MED_JINJA_INT ||
           value->kind == MED_JINJA_FLOAT;
}

int64_t med_jinja_as_int(const struct med_jinja_value *value)
{
    MED_ASSERT(value->kind == MED_JINJA_BOOL || value->kind == MED_JINJA_INT);
    if (value->kind == MED_JINJA_BOOL) {
        return value->as.truth ? 1 : 0;
    }
    return value->as.integer;
}

double med_jinja_as_double(const struct med_jinja_value *value)
{
    return value->kind == MED_JINJA_FLOAT ? value->as.number : (double)med_jinja_as_int(value);
}

bool med_jinja_truth(const struct med_jinja_value *value)
{
    switch (value->kind) {
    case MED_JINJA_UNDEFINED:
    case MED_JINJA_NONE:
        return false;
    case MED_JINJA_BOOL:
        return value->as.truth;
    case MED_JINJA_INT:
        return value->as.integer != 0;
    case MED_JINJA_FLOAT:
        return value->as.number != 0;
    case MED_JINJA_STRING:
        return value->as.text.bytes > 0;
    case MED_JINJA_LIST:
    case MED_JINJA_TUPLE:
    case MED_JINJA_RANGE_LIST:
    case MED_JINJA_VIEW:
        return value->as.sequence->count > 0;
    case MED_JINJA_DICT:
        return value->as.dict->count > 0;
    case MED_JINJA_LOOP:
        return value->as.loop->count > 0;
    case MED_JINJA_ITERATOR:
    case MED_JINJA_NAMESPACE:
    case MED_JINJA_FUNCTION:
    case MED_JINJA_MACRO:
        break;
    }
    return true;
}

/* ---- equality and order ---- */

/* -1, 0, 1 of an integer against a float, exactly; 2: NaN. */
static int order_int_float(int64_t a, double b)
{
    if (isnan(b)) {
        return 2;
    }
    if (b >= 9223372036854775808.0) {
        return -1;
    }
    if (b < -9223372036854775808.0) {
        return 1;
    }
    double whole = floor(b);
    int64_t floored = (int64_t)whole;
    if (a != floored) {
        return a < floored ? -1 : 1;
    }
    return whole < b ? -1 : 0;
}

static int order_numbers(const struct med_jinja_value *a, const struct med_jinja_value *b)
{
    bool float_a = a->kind == MED_JINJA_FLOAT;
    bool float_b = b->kind == MED_JINJA_FLOAT;
    if (float_a && float_b) {
        double x = a->as.number;
        double y = b->as.number;
        return isnan(x) || isnan(y) ? 2 : x < y ? -1 : x > y ? 1 : 0;
    }
    if (float_b) {
        return order_int_float(med_jinja_as_int(a), b->as.number);
    }
    if (float_a) {
        int order = order_int_float(med_jinja_as_int(b), a->as.number);
        return order == 2 ? 2 : -order;
    }
    int64_t x = med_jinja_as_int(a);
    int64_t y = med_jinja_as_int(b);
    return x < y ? -1 : x > y ? 1 : 0;
}

/* UTF-8 sorts as its characters do. */
static int order_texts(struct med_jinja_text a, struct med_jinja_text b)
{
    size_t shorter = a.bytes < b.bytes ? a.bytes : b.bytes;
    int order = shorter > 0 ? memcmp(a.data, b.data, shorter) : 0;
    if (order == 0) {
        return a.bytes < b.bytes ? -1 : a.bytes > b.bytes ? 1 : 0;
    }
    return order < 0 ? -1 : 1;
}

static int equal_sequences(struct med_jinja_eval *eval, const struct med_jinja_sequence *a,
                           const struct med_jinja_sequence *b, bool *ret_equal)
{
    bool equal = a->count == b->count;
    for (size_t i = 0; equal && i < a->count; i++) {
        int rc = med_jinja_equal(eval, &a->items[i], &b->items[i], &equal);
        if (rc < 0) {
            return rc;
        }
    }
    *ret_equal = equal;
    return 0;
}

static int equal_dicts(struct med_jinja_eval *eval, const struct med_jinja_dict *a,
                       const struct med_jinja_dict *b, bool *ret_equal)
{
    bool equal = a->count == b->count;
    for (size_t i = 0; equal && i < a->count; i++) {
        const struct med_jinja_value *other;
        int rc = med_jinja_dict_get(eval, b, &a->pairs[i].key, &other);
        if (rc == 0 && !other) {
            equal = false;
        } else if (rc == 0) {
            rc = med_jinja_equal(eval, &a->pairs[i].value, other, &equal);
        }
        if (rc < 0) {
            return rc;
        }
    }
    *ret_equal = equal;
    return 0;
}

int med_jinja_equal(struct med_jinja_eval *eval, const struct med_jinja_value *a,
                    const struct med_jinja_value *b, bool *ret_equal)
{
    int rc = med_jinja_spend(eval, 1);
    if (rc < 0) {
        return rc;
    }
    if (med_jinja_is_number(a) && med_jinja_is_number(b)) {
        *ret_equal = order_numbers(a, b) == 0;
        return 0;
    }
    if (a->kind != b->kind) {
        *ret_equal = false;
        return 0;
    }
    switch (a->kind) {
    case MED_JINJA_UNDEFINED:
    case MED_JINJA_NONE:
        *ret_equal = true;
        return 0;
    case MED_JINJA_STRING:
        *ret_equal = med_jinja_text_equal(a->as.text, b->as.text);
        return med_jinja_spend(eval, a->as.text.bytes / 64);
    case MED_JINJA_LIST:
    case MED_JINJA_TUPLE:
    case MED_JINJA_RANGE_LIST:
        return equal_sequences(eval, a->as.sequence, b->as.sequence, ret_equal);
    case MED_JINJA_DICT:
        return equal_dicts(eval, a->as.dict, b->as.dict, ret_equal);
    case MED_JINJA_VIEW:
        return med_jinja_fail(eval, MED_E_INVALID, "comparing views of dicts is not supported");
    case MED_JINJA_ITERATOR:
        *ret_equal = a->as.sequence == b->as.sequence;
        return 0;
    case MED_JINJA_NAMESPACE:
        *ret_equal = a->as.namespace_ == b->as.namespace_;
        return 0;
    case MED_JINJA_LOOP:
        *ret_equal = a->as.loop == b->as.loop;
        return 0;
    case MED_JINJA_FUNCTION:
        *ret_equal = a->as.function == b->as.function;
        return 0;
    default:
        *ret_equal = a->as.macro == b->as.macro;
        return 0;
    }
}

int med_jinja_order(struct med_jinja_eval *eval, const struct med_jinja_value *a,
                    const struct med_jinja_value *b, int *ret_order)
{
    int rc = med_jinja_spend(eval, 1);
    if (rc < 0) {
        return rc;
    }
    if (med_jinja_is_number(a) && med_jinja_is_number(b)) {
        *ret_order = order_numbers(a, b);
        return 0;
    }
    if (a->kind == MED_JINJA_STRING && b->kind == MED_JINJA_STRING) {
        *ret_order = order_texts(a->as.text, b->as.text);
        return med_jinja_spend(eval, a->as.text.bytes / 64);
    }
    bool sequences =
        (a->kind == MED_JINJA_LIST || a->kind == MED_JINJA_TUPLE) && a->kind == b->kind;
    if (!sequences) {
        return med_jinja_fail(eval, MED_E_INVALID, "%s and %s have no order",
                              med_jinja_kind_name(a->kind), med_jinja_kind_name(b->kind));
    }
    const struct med_jinja_sequence *x = a->as.sequence;
    const struct med_jinja_sequence *y = b->as.sequence;
    for (size_t i = 0; i < x->count && i < y->count; i++) {
        bool equal = false;
        rc = med_jinja_equal(eval, &x->items[i], &y->items[i], &equal);
        if (rc < 0) {
            return rc;
        }
        if (!equal) {
            return med_jinja_order(eval, &x->items[i], &y->items[i], ret_order);
        }
    }
    *ret_order = x->count < y->count ? -1 : x->count > y->count ? 1 : 0;
    return 0;
}

int med_jinja_contains(struct med_jinja_eval *eval, const struct med_jinja_value *container,
                       const struct med_jinja_value *item, bool *ret_found)
{
    if (container->kind == MED_JINJA_STRING) {
        if (item->kind != MED_JINJA_STRING) {
            return med_jinja_fail(eval, MED_E_INVALID, "%s cannot be in a string",
                                  med_jinja_kind_name(item->kind));
        }
        int64_t at;
        int rc = med_jinja_find(eval, container->as.text, item->as.text, false, &at);
        *ret_found = at >= 0;
        return rc;
    }
    if (container->kind == MED_JINJA_DICT) {
        const struct med_jinja_value *value;
        int rc = med_jinja_dict_get(eval, container->as.dict, item, &value);
        *ret_found = rc == 0 && value;
        return rc;
    }
    struct med_jinja_sequence items;
    int rc = med_jinja_iterate(eval, container, &items);
    bool found = false;
    for (size_t i = 0; rc == 0 && !found && i < items.count; i++) {
        rc = med_jinja_equal(eval, &items.items[i], item, &found);
    }
    *ret_found = found;
    return rc;
}

/* ---- making ---- */

int med_jinja_sequence_new(struct med_jinja_eval *eval, enum med_jinja_kind kind, size_t capacity,
                           struct med_jinja_value *ret_value)
{
    int rc = med_jinja_spend(eval, capacity);
    if (rc < 0) {
        return rc;
    }
    struct med_jinja_sequence *sequence = med_jinja_arena_alloc(&eval->arena, 1, sizeof(*sequence));
    struct med_jinja_value *items = med_jinja_arena_alloc(&eval->arena, capacity, sizeof(*items));
    if (!sequence || !items) {
        return med_jinja_fail_memory(eval);
    }
    *sequence = (struct med_jinja_sequence){.items = items, .depth = 1};
    *ret_value = (struct med_jinja_value){.kind = kind, .as.sequence = sequence};
    return 0;
}

static int depth_of(const struct med_jinja_value *value)
{
    if (med_jinja_is_sequence(value) || value->kind == MED_JINJA_ITERATOR) {
        return value->as.sequence->depth;
    }
    return value->kind == MED_JINJA_DICT ? value->as.dict->depth : 0;
}

static int adopt(struct med_jinja_eval *eval, int *depth, const struct med_jinja_value *child)
{
    int below = depth_of(child);
    if (below >= MED_JINJA_VALUE_DEPTH) {
        return med_jinja_fail(eval, MED_E_LIMIT, "lists are nested more than %d deep",
                              MED_JINJA_VALUE_DEPTH);
    }
    *depth = below + 1 > *depth ? below + 1 : *depth;
    return 0;
}

int med_jinja_sequence_add(struct med_jinja_eval *eval, struct med_jinja_sequence *sequence,
                           const struct med_jinja_value *item)
{
    int rc = adopt(eval, &sequence->depth, item);
    if (rc == 0) {
        sequence->items[sequence->count++] = *item;
    }
    return rc;
}

int med_jinja_dict_new(struct med_jinja_eval *eval, size_t capacity,
                       struct med_jinja_value *ret_value)
{
    struct med_jinja_dict *dict = med_jinja_arena_alloc(&eval->arena, 1, sizeof(*dict));
    struct med_jinja_pair *pairs = med_jinja_arena_alloc(&eval->arena, capacity, sizeof(*pairs));
    if (!dict || !pairs) {
        return med_jinja_fail_memory(eval);
    }
    *dict = (struct med_jinja_dict){.pairs = pairs, .capacity = capacity, .depth = 1};
    *ret_value = (struct med_jinja_value){.kind = MED_JINJA_DICT, .as.dict = dict};
    return 0;
}

static int check_key(struct med_jinja_eval *eval, const struct med_jinja_value *key)
{
    if (med_jinja_is_number(key) || key->kind == MED_JINJA_STRING || key->kind == MED_JINJA_NONE) {
        return 0;
    }
    return med_jinja_fail(eval, MED_E_INVALID, "%s cannot be the key of a dict",
                          med_jinja_kind_name(key->kind));
}

static int find_pair(struct med_jinja_eval *eval, const struct med_jinja_dict *dict,
                     const struct med_jinja_value *key, struct med_jinja_pair **ret_pair)
{
    int rc = check_key(eval, key);
    *ret_pair = NULL;
    for (size_t i = 0; rc == 0 && i < dict->count; i++) {
        bool equal = false;
        rc = med_jinja_equal(eval, &dict->pairs[i].key, key, &equal);
        if (rc == 0 && equal) {
            *ret_pair = &dict->pairs[i];
            return 0;
        }
    }
    return rc;
}

int med_jinja_dict_set(struct med_jinja_eval *eval, struct med_jinja_dict *dict,
                       const struct med_jinja_value *key, const struct med_jinja_value *value)
{
    struct med_jinja_pair *pair;
    int rc = find_pair(eval, dict, key, &pair);
    if (rc == 0) {
        rc = adopt(eval, &dict->depth, value);
    }
    if (rc < 0) {
        return rc;
    }
    if (pair) {
        pair->value = *value;
        return 0;
    }
    if (dict->count == dict->capacity) {
        size_t capacity = dict->capacity * 2 + 4;
        struct med_jinja_pair *grown =
            med_jinja_arena_alloc(&eval->arena, capacity, sizeof(*grown));
        if (!grown) {
            return med_jinja_fail_memory(eval);
        }
        if (dict->count > 0) {
            memcpy(grown, dict->pairs, dict->count * sizeof(*grown));
        }
        dict->pairs = grown;
        dict->capacity = capacity;
    }
    dict->pairs[dict->count++] = (struct med_jinja_pair){*key, *value};
    return 0;
}

int med_jinja_dict_get(struct med_jinja_eval *eval, const struct med_jinja_dict *dict,
                       const struct med_jinja_value *key, const struct med_jinja_value **ret_value)
{
    struct med_jinja_pair *pair;
    int rc = find_pair(eval, dict, key, &pair);
    *ret_value = pair ? &pair->value : NULL;
    return rc;
}

/* ---- iteration ---- */

static int iterate_text(struct med_jinja_eval *eval, struct med_jinja_text text,
                        struct med_jinja_sequence *ret_items)
{
    struct med_jinja_value list = med_jinja_none();
    int rc = med_jinja_sequence_new(eval, MED_JINJA_LIST, med_jinja_characters(text), &list);
    if (rc < 0) {
        return rc;
    }
    while (text.bytes > 0) {
        size_t n = med_jinja_character_bytes(text);
        list.as.sequence->items[list.as.sequence->count++] = med_jinja_string(text.data, n);
        text.data += n;
        text.bytes -= n;
    }
    *ret_items = *list.as.sequence;
    return 0;
}

int med_jinja_iterate(struct med_jinja_eval *eval, const struct med_jinja_value *value,
                      struct med_jinja_sequence *ret_items)
{
    *ret_items = (struct med_jinja_sequence){.depth = 1};
    switch (value->kind) {
    case MED_JINJA_UNDEFINED:
        return 0;
    case MED_JINJA_STRING:
        return iterate_text(eval, value->as.text, ret_items);
    case MED_JINJA_LIST:
    case MED_JINJA_TUPLE:
    case MED_JINJA_RANGE_LIST:
    case MED_JINJA_VIEW:
        *ret_items = *value->as.sequence;
        return 0;
    case MED_JINJA_ITERATOR:
        if (!value->as.sequence->consumed) {
            *ret_items = *value->as.sequence;
            value->as.sequence->consumed = true;
        }
        return 0;
    case MED_JINJA_DICT: {
        struct med_jinja_value keys = med_jinja_none();
        const struct med_jinja_dict *dict = value->as.dict;
        int rc = med_jinja_sequence_new(eval, MED_JINJA_LIST, dict->count, &keys);
        for (size_t i = 0; rc == 0 && i < dict->count; i++) {
            rc = med_jinja_sequence_add(eval, keys.as.sequence, &dict->pairs[i].key);
        }
        if (rc == 0) {
            *ret_items = *keys.as.sequence;
        }
        return rc;
    }
    default:
        return med_jinja_fail(eval, MED_E_INVALID, "%s cannot be iterated over",
                              med_jinja_kind_name(value->kind));
    }
}

int med_jinja_length(struct med_jinja_eval *eval, const struct med_jinja_value *value,
                     int64_t *ret_length)
{
    switch (value->kind) {
    case MED_JINJA_UNDEFINED:
        *ret_length = 0;
        return 0;
    case MED_JINJA_STRING:
        *ret_length = (int64_t)med_jinja_characters(value->as.text);
        return med_jinja_spend(eval, value->as.text.bytes / 16);
    case MED_JINJA_LIST:
    case MED_JINJA_TUPLE:
    case MED_JINJA_RANGE_LIST:
    case MED_JINJA_VIEW:
        *ret_length = (int64_t)value->as.sequence->count;
        return 0;
    case MED_JINJA_DICT:
        *ret_length = (int64_t)value->as.dict->count;
        return 0;
    case MED_JINJA_LOOP:
        *ret_length = (int64_t)value->as.loop->count;
        return 0;
    default:
        return med_jinja_fail(eval, MED_E_INVALID, "%s has no length",
                              med_jinja_kind_name(value->kind));
    }
}
