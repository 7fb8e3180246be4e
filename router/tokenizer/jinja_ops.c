/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operators, attributes and subscripts of a template, as Python has them.
 *
 * Integers have 64 bits; where Python would need more, the render ends with MED_E_LIMIT.  object.name
 * looks for the object's own attribute and then for the key, object['name'] the other way round;
 * what is not there is undefined, and an attribute of something undefined is an error.
 * thread: one render.  Does not have the % of strings, nor methods as values.
 */
#include "base/limits.h"
#include "router/tokenizer/jinja.h"

#include <math.h>
#include <string.h>

/* ---- arithmetic ---- */

static int fail_overflow(struct med_jinja_eval *eval)
{
    return med_jinja_fail(eval, MED_E_LIMIT, "an integer does not fit 64 bits");
}

static int fail_zero(struct med_jinja_eval *eval)
{
    return med_jinja_fail(eval, MED_E_INVALID, "division by zero");
}

static int power_int(struct med_jinja_eval *eval, int64_t base, int64_t exponent,
                     struct med_jinja_value *ret_value)
{
    int64_t result = 1;
    while (exponent > 0) {
        if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) {
            return fail_overflow(eval);
        }
        exponent >>= 1;
        if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) {
            return fail_overflow(eval);
        }
    }
    *ret_value = med_jinja_int(result);
    return 0;
}

/* Python rounds the quotient down, and the remainder has the divisor's sign. */
static int divide_int(struct med_jinja_eval *eval, enum med_jinja_op op, int64_t a, int64_t b,
                      struct med_jinja_value *ret_value)
{
    if (b == 0) {
        return fail_zero(eval);
    }
    if (b == -1) {
        if (op == MED_JINJA_FLOOR_DIV && a == INT64_MIN) {
            return fail_overflow(eval);
        }
        *ret_value = med_jinja_int(op == MED_JINJA_MOD ? 0 : -a);
        return 0;
    }
    int64_t quotient = a / b;
    int64_t remainder = a % b;
    if (remainder != 0 && (remainder < 0) != (b < 0)) {
        remainder += b;
        quotient--;
    }
    *ret_value = med_jinja_int(op == MED_JINJA_MOD ? remainder : quotient);
    return 0;
}

static int binary_int(struct med_jinja_eval *eval, enum med_jinja_op op, int64_t a, int64_t b,
                      struct med_jinja_value *ret_value)
{
    int64_t result = 0;
    bool overflow = false;
    switch (op) {
    case MED_JINJA_ADD:
        overflow = __builtin_add_overflow(a, b, &result);
        break;
    case MED_JINJA_SUB:
        overflow = __builtin_sub_overflow(a, b, &result);
        break;
    case MED_JINJA_MUL:
        overflow = __builtin_mul_overflow(a, b, &result);
        break;
    case MED_JINJA_POW:
        return power_int(eval, a, b, ret_value);
    default:
        return divide_int(eval, op, a, b, ret_value);
    }
    if (overflow) {
        return fail_overflow(eval);
    }
    *ret_value = med_jinja_int(result);
    return 0;
}

static double modulo(double a, double b)
{
    double remainder = fmod(a, b);
    if (remainder == 0) {
        return copysign(0.0, b);
    }
    return (remainder < 0) != (b < 0) ? remainder + b : remainder;
}

/* As CPython computes it: from the remainder, so that a == b * quotient + remainder nearly. */
static double floor_divide(double a, double b)
{
    double remainder = fmod(a, b);
    double quotient = (a - remainder) / b;
    if (remainder != 0 && (remainder < 0) != (b < 0)) {
        quotient -= 1.0;
    }
    if (quotient == 0) {
        return copysign(0.0, a / b);
    }
    double floored = floor(quotient);
    return quotient - floored > 0.5 ? floored + 1.0 : floored;
}

static int binary_float(struct med_jinja_eval *eval, enum med_jinja_op op, double a, double b,
                        struct med_jinja_value *ret_value)
{
    double result;
    bool divides = op == MED_JINJA_DIV || op == MED_JINJA_FLOOR_DIV || op == MED_JINJA_MOD;
    if (divides && b == 0) {
        return fail_zero(eval);
    }
    switch (op) {
    case MED_JINJA_ADD:
        result = a + b;
        break;
    case MED_JINJA_SUB:
        result = a - b;
        break;
    case MED_JINJA_MUL:
        result = a * b;
        break;
    case MED_JINJA_DIV:
        result = a / b;
        break;
    case MED_JINJA_FLOOR_DIV:
        result = floor_divide(a, b);
        break;
    case MED_JINJA_MOD:
        result = modulo(a, b);
        break;
    default:
        if (a == 0 && b < 0) {
            return fail_zero(eval);
        }
        result = pow(a, b);
        if (isfinite(a) && isfinite(b) && !isfinite(result)) {
            return med_jinja_fail(eval, MED_E_INVALID, "a power has no float result");
        }
        break;
    }
    *ret_value = med_jinja_float(result);
    return 0;
}

static int add_sequences(struct med_jinja_eval *eval, const struct med_jinja_value *a,
                         const struct med_jinja_value *b, struct med_jinja_value *ret_value)
{
    const struct med_jinja_sequence *x = a->as.sequence;
    const struct med_jinja_sequence *y = b->as.sequence;
    struct med_jinja_value sum;
    int rc = med_jinja_sequence_new(eval, a->kind, x->count + y->count, &sum);
    for (size_t i = 0; rc == 0 && i < x->count; i++) {
        rc = med_jinja_sequence_add(eval, sum.as.sequence, &x->items[i]);
    }
    for (size_t i = 0; rc == 0 && i < y->count; i++) {
        rc = med_jinja_sequence_add(eval, sum.as.sequence, &y->items[i]);
    }
    if (rc == 0) {
        *ret_value = sum;
    }
    return rc;
}

static int repeat(struct med_jinja_eval *eval, const struct med_jinja_value *what, int64_t times,
                  struct med_jinja_value *ret_value)
{
    bool is_text = what->kind == MED_JINJA_STRING;
    size_t one = is_text ? what->as.text.bytes : what->as.sequence->count;
    size_t total;
    times = times < 0 ? 0 : times;
    if (__builtin_mul_overflow(one, (size_t)times, &total) || total > MED_LIMIT_CHAT_RENDER_BYTES) {
        return med_jinja_fail(eval, MED_E_LIMIT, "a repeated value is too long");
    }
    int rc = med_jinja_spend(eval, is_text ? total / 16 : total);
    if (rc < 0) {
        return rc;
    }
    if (is_text) {
        char *data = med_jinja_arena_text(&eval->arena, total);
        if (!data) {
            return med_jinja_fail_memory(eval);
        }
        for (size_t at = 0; at < total; at += one) {
            memcpy(data + at, what->as.text.data, one);
        }
        *ret_value = med_jinja_string(data, total);
        return 0;
    }
    struct med_jinja_value list;
    rc = med_jinja_sequence_new(eval, what->kind, total, &list);
    for (size_t i = 0; rc == 0 && i < total; i++) {
        rc = med_jinja_sequence_add(eval, list.as.sequence, &what->as.sequence->items[i % one]);
    }
    if (rc == 0) {
        *ret_value = list;
    }
    return rc;
}

static bool repeatable(const struct med_jinja_value *value)
{
    return value->kind == MED_JINJA_STRING || value->kind == MED_JINJA_LIST ||
           value->kind == MED_JINJA_TUPLE;
}

static int binary_other(struct med_jinja_eval *eval, enum med_jinja_op op,
                        const struct med_jinja_value *a, const struct med_jinja_value *b,
                        struct med_jinja_value *ret_value)
{
    static const char *const names[] = {
        [MED_JINJA_ADD] = "+",        [MED_JINJA_SUB] = "-", [MED_JINJA_MUL] = "*",
        [MED_JINJA_DIV] = "/",        [MED_JINJA_MOD] = "%", [MED_JINJA_POW] = "**",
        [MED_JINJA_FLOOR_DIV] = "//",
    };
    if (op == MED_JINJA_ADD && a->kind == b->kind) {
        if (a->kind == MED_JINJA_STRING) {
            return med_jinja_concat(eval, a->as.text, b->as.text, ret_value);
        }
        if (a->kind == MED_JINJA_LIST || a->kind == MED_JINJA_TUPLE) {
            return add_sequences(eval, a, b, ret_value);
        }
    }
    bool whole_a = a->kind == MED_JINJA_INT || a->kind == MED_JINJA_BOOL;
    bool whole_b = b->kind == MED_JINJA_INT || b->kind == MED_JINJA_BOOL;
    if (op == MED_JINJA_MUL && repeatable(a) && whole_b) {
        return repeat(eval, a, med_jinja_as_int(b), ret_value);
    }
    if (op == MED_JINJA_MUL && repeatable(b) && whole_a) {
        return repeat(eval, b, med_jinja_as_int(a), ret_value);
    }
    if (op == MED_JINJA_MOD && a->kind == MED_JINJA_STRING) {
        return med_jinja_fail(eval, MED_E_INVALID, "the %% of strings is not supported");
    }
    return med_jinja_fail(eval, MED_E_INVALID, "%s of %s and %s is not defined", names[op],
                          med_jinja_kind_name(a->kind), med_jinja_kind_name(b->kind));
}

int med_jinja_binary(struct med_jinja_eval *eval, enum med_jinja_op op,
                     const struct med_jinja_value *a, const struct med_jinja_value *b,
                     struct med_jinja_value *ret_value)
{
    if (!med_jinja_is_number(a) || !med_jinja_is_number(b)) {
        return binary_other(eval, op, a, b, ret_value);
    }
    bool whole = a->kind != MED_JINJA_FLOAT && b->kind != MED_JINJA_FLOAT;
    bool negative_power = op == MED_JINJA_POW && whole && med_jinja_as_int(b) < 0;
    if (whole && op != MED_JINJA_DIV && !negative_power) {
        return binary_int(eval, op, med_jinja_as_int(a), med_jinja_as_int(b), ret_value);
    }
    return binary_float(eval, op, med_jinja_as_double(a), med_jinja_as_double(b), ret_value);
}

int med_jinja_compare(struct med_jinja_eval *eval, enum med_jinja_op op,
                      const struct med_jinja_value *a, const struct med_jinja_value *b,
                      bool *ret_truth)
{
    int rc;
    int order = 0;
    bool truth = false;
    switch (op) {
    case MED_JINJA_EQ:
    case MED_JINJA_NE:
        rc = med_jinja_equal(eval, a, b, &truth);
        *ret_truth = truth == (op == MED_JINJA_EQ);
        return rc;
    case MED_JINJA_IN:
    case MED_JINJA_NOT_IN:
        rc = med_jinja_contains(eval, b, a, &truth);
        *ret_truth = truth == (op == MED_JINJA_IN);
        return rc;
    default:
        rc = med_jinja_order(eval, a, b, &order);
        break;
    }
    switch (op) {
    case MED_JINJA_LT:
        *ret_truth = order == -1;
        break;
    case MED_JINJA_LE:
        *ret_truth = order == -1 || order == 0;
        break;
    case MED_JINJA_GT:
        *ret_truth = order == 1;
        break;
    default:
        *ret_truth = order == 1 || order == 0;
        break;
    }
    return rc;
}

/* ---- attributes ---- */

static struct med_jinja_value loop_neighbour(const struct med_jinja_loop *loop, bool previous,
                                             struct med_jinja_text name)
{
    if (previous) {
        return loop->index > 0 ? loop->items[loop->index - 1] : med_jinja_undefined(name);
    }
    return loop->index + 1 < loop->count ? loop->items[loop->index + 1] : med_jinja_undefined(name);
}

static int loop_attribute(struct med_jinja_eval *eval, const struct med_jinja_loop *loop,
                          struct med_jinja_text name, struct med_jinja_value *ret_value)
{
    int64_t index = (int64_t)loop->index;
    int64_t count = (int64_t)loop->count;
    const struct {
        const char *name;
        struct med_jinja_value value;
    } attributes[] = {
        {"index", med_jinja_int(index + 1)},
        {"index0", med_jinja_int(index)},
        {"revindex", med_jinja_int(count - index)},
        {"revindex0", med_jinja_int(count - index - 1)},
        {"first", med_jinja_bool(index == 0)},
        {"last", med_jinja_bool(index + 1 == count)},
        {"length", med_jinja_int(count)},
        {"depth", med_jinja_int(1)},
        {"depth0", med_jinja_int(0)},
        {"previtem", loop_neighbour(loop, true, name)},
        {"nextitem", loop_neighbour(loop, false, name)},
    };
    for (size_t i = 0; i < sizeof(attributes) / sizeof(*attributes); i++) {
        if (med_jinja_text_is(name, attributes[i].name)) {
            *ret_value = attributes[i].value;
            return 0;
        }
    }
    return med_jinja_fail(eval, MED_E_INVALID, "loop.%.*s is not supported", (int)name.bytes,
                          name.data);
}

static bool is_any(struct med_jinja_text name, const char *const *names)
{
    for (; *names; names++) {
        if (med_jinja_text_is(name, *names)) {
            return true;
        }
    }
    return false;
}

/* What Python's own object has under this name: a method, which is no value here. */
static bool is_python_attribute(enum med_jinja_kind kind, struct med_jinja_text name)
{
    static const char *const of_string[] = {
        "capitalize",   "casefold",    "center",    "count",      "encode",       "endswith",
        "expandtabs",   "find",        "format",    "format_map", "index",        "isalnum",
        "isalpha",      "isascii",     "isdecimal", "isdigit",    "isidentifier", "islower",
        "isnumeric",    "isprintable", "isspace",   "istitle",    "isupper",      "join",
        "ljust",        "lower",       "lstrip",    "maketrans",  "partition",    "removeprefix",
        "removesuffix", "replace",     "rfind",     "rindex",     "rjust",        "rpartition",
        "rsplit",       "rstrip",      "split",     "splitlines", "startswith",   "strip",
        "swapcase",     "title",       "translate", "upper",      "zfill",        NULL};
    static const char *const of_list[] = {"append", "clear", "copy",   "count",   "extend", "index",
                                          "insert", "pop",   "remove", "reverse", "sort",   NULL};
    static const char *const of_tuple[] = {"count", "index",   "start",      "stop",
                                           "step",  "mapping", "isdisjoint", NULL};
    static const char *const of_dict[] = {"clear",      "copy",   "fromkeys", "get",
                                          "items",      "keys",   "pop",      "popitem",
                                          "setdefault", "update", "values",   NULL};
    static const char *const of_number[] = {
        "as_integer_ratio", "bit_count", "bit_length", "conjugate", "denominator",
        "from_bytes",       "fromhex",   "hex",        "imag",      "is_integer",
        "numerator",        "real",      "to_bytes",   NULL};
    static const char *const of_others[] = {"send",          "throw",        "close",
                                            "name",          "arguments",    "catch_kwargs",
                                            "catch_varargs", "caller",       "explicit_caller",
                                            "gi_code",       "gi_frame",     "gi_running",
                                            "gi_suspended",  "gi_yieldfrom", NULL};
    switch (kind) {
    case MED_JINJA_STRING:
        return is_any(name, of_string);
    case MED_JINJA_LIST:
        return is_any(name, of_list);
    case MED_JINJA_TUPLE:
    case MED_JINJA_RANGE_LIST:
    case MED_JINJA_VIEW:
        return is_any(name, of_tuple);
    case MED_JINJA_DICT:
        return is_any(name, of_dict);
    case MED_JINJA_BOOL:
    case MED_JINJA_INT:
    case MED_JINJA_FLOAT:
        return is_any(name, of_number);
    case MED_JINJA_ITERATOR:
    case MED_JINJA_FUNCTION:
    case MED_JINJA_MACRO:
        return is_any(name, of_others);
    default:
        return false;
    }
}

int med_jinja_fail_undefined(struct med_jinja_eval *eval, struct med_jinja_text name)
{
    return med_jinja_fail(eval, MED_E_INVALID, "%.*s is undefined", (int)name.bytes, name.data);
}

static int fail_method(struct med_jinja_eval *eval, const struct med_jinja_value *object,
                       struct med_jinja_text name)
{
    return med_jinja_fail(eval, MED_E_INVALID, "%.*s of %s is a method that is not called here",
                          (int)name.bytes, name.data, med_jinja_kind_name(object->kind));
}

static int dict_item(struct med_jinja_eval *eval, const struct med_jinja_dict *dict,
                     struct med_jinja_text name, struct med_jinja_value *ret_value, bool *ret_found)
{
    struct med_jinja_value key = med_jinja_string(name.data, name.bytes);
    const struct med_jinja_value *found;
    int rc = med_jinja_dict_get(eval, dict, &key, &found);
    *ret_found = rc == 0 && found;
    if (*ret_found) {
        *ret_value = *found;
    }
    return rc;
}

int med_jinja_attribute(struct med_jinja_eval *eval, const struct med_jinja_value *object,
                        struct med_jinja_text name, struct med_jinja_value *ret_value)
{
    bool found = false;
    int rc = 0;
    if (object->kind == MED_JINJA_UNDEFINED) {
        return med_jinja_fail_undefined(eval, object->as.text);
    }
    if (object->kind == MED_JINJA_LOOP) {
        return loop_attribute(eval, object->as.loop, name, ret_value);
    }
    if (is_python_attribute(object->kind, name)) {
        return fail_method(eval, object, name);
    }
    if (object->kind == MED_JINJA_NAMESPACE) {
        rc = dict_item(eval, &object->as.namespace_->attributes, name, ret_value, &found);
    } else if (object->kind == MED_JINJA_DICT) {
        rc = dict_item(eval, object->as.dict, name, ret_value, &found);
    }
    if (rc == 0 && !found) {
        *ret_value = med_jinja_undefined(name);
    }
    return rc;
}

/* ---- subscripts ---- */

/* Python's index: from the end if negative. false: outside. */
static bool resolve_index(int64_t index, size_t count, size_t *ret_index)
{
    if (index < 0) {
        index += (int64_t)count;
    }
    *ret_index = (size_t)index;
    return index >= 0 && (uint64_t)index < count;
}

static int text_item(struct med_jinja_eval *eval, struct med_jinja_text text, int64_t index,
                     struct med_jinja_value *ret_value)
{
    size_t at;
    int rc = med_jinja_spend(eval, text.bytes / 16);
    if (rc < 0) {
        return rc;
    }
    *ret_value = med_jinja_undefined(med_jinja_text("a character of a string"));
    if (!resolve_index(index, med_jinja_characters(text), &at)) {
        return 0;
    }
    for (size_t i = 0; i < at; i++) {
        size_t n = med_jinja_character_bytes(text);
        text.data += n;
        text.bytes -= n;
    }
    *ret_value = med_jinja_string(text.data, med_jinja_character_bytes(text));
    return 0;
}

int med_jinja_item(struct med_jinja_eval *eval, const struct med_jinja_value *object,
                   const struct med_jinja_value *key, struct med_jinja_value *ret_value)
{
    if (object->kind == MED_JINJA_UNDEFINED) {
        return med_jinja_fail_undefined(eval, object->as.text);
    }
    if (object->kind == MED_JINJA_DICT) {
        bool hashable = med_jinja_is_number(key) || key->kind == MED_JINJA_STRING ||
                        key->kind == MED_JINJA_NONE;
        const struct med_jinja_value *found = NULL;
        int rc = hashable ? med_jinja_dict_get(eval, object->as.dict, key, &found) : 0;
        if (rc < 0 || found) {
            *ret_value = found ? *found : *ret_value;
            return rc;
        }
    }
    if (key->kind == MED_JINJA_STRING) {
        if (object->kind == MED_JINJA_DICT || object->kind == MED_JINJA_STRING ||
            object->kind == MED_JINJA_LIST || med_jinja_is_number(object)) {
            *ret_value = med_jinja_undefined(key->as.text);
            return is_python_attribute(object->kind, key->as.text)
                       ? fail_method(eval, object, key->as.text)
                       : 0;
        }
        return med_jinja_attribute(eval, object, key->as.text, ret_value);
    }
    *ret_value = med_jinja_undefined(med_jinja_text("an item"));
    if (key->kind != MED_JINJA_INT && key->kind != MED_JINJA_BOOL) {
        return 0;
    }
    if (object->kind == MED_JINJA_STRING) {
        return text_item(eval, object->as.text, med_jinja_as_int(key), ret_value);
    }
    if (object->kind == MED_JINJA_LIST || object->kind == MED_JINJA_TUPLE ||
        object->kind == MED_JINJA_RANGE_LIST) {
        size_t at;
        if (resolve_index(med_jinja_as_int(key), object->as.sequence->count, &at)) {
            *ret_value = object->as.sequence->items[at];
        }
    }
    return 0;
}
