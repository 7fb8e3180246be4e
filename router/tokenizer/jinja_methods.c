/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The methods that a template may call: those of strings and dicts that change nothing.
 *
 * What Jinja's sandbox would refuse (append, pop, update ...) is not in the table, nor are methods
 * that chat templates have no use for.
 * thread: one render.
 */
#include "router/tokenizer/jinja.h"

#include <string.h>

enum method {
    METHOD_CAPITALIZE,
    METHOD_COUNT,
    METHOD_ENDSWITH,
    METHOD_FIND,
    METHOD_GET,
    METHOD_ITEMS,
    METHOD_JOIN,
    METHOD_KEYS,
    METHOD_LOWER,
    METHOD_LSTRIP,
    METHOD_REMOVEPREFIX,
    METHOD_REMOVESUFFIX,
    METHOD_REPLACE,
    METHOD_RFIND,
    METHOD_RSPLIT,
    METHOD_RSTRIP,
    METHOD_SPLIT,
    METHOD_SPLITLINES,
    METHOD_STARTSWITH,
    METHOD_STRIP,
    METHOD_TITLE,
    METHOD_UPPER,
    METHOD_VALUES,
    METHODS
};

static const char *const method_names[METHODS] = {
    [METHOD_CAPITALIZE] = "capitalize",
    [METHOD_COUNT] = "count",
    [METHOD_ENDSWITH] = "endswith",
    [METHOD_FIND] = "find",
    [METHOD_GET] = "get",
    [METHOD_ITEMS] = "items",
    [METHOD_JOIN] = "join",
    [METHOD_KEYS] = "keys",
    [METHOD_LOWER] = "lower",
    [METHOD_LSTRIP] = "lstrip",
    [METHOD_REMOVEPREFIX] = "removeprefix",
    [METHOD_REMOVESUFFIX] = "removesuffix",
    [METHOD_REPLACE] = "replace",
    [METHOD_RFIND] = "rfind",
    [METHOD_RSPLIT] = "rsplit",
    [METHOD_RSTRIP] = "rstrip",
    [METHOD_SPLIT] = "split",
    [METHOD_SPLITLINES] = "splitlines",
    [METHOD_STARTSWITH] = "startswith",
    [METHOD_STRIP] = "strip",
    [METHOD_TITLE] = "title",
    [METHOD_UPPER] = "upper",
    [METHOD_VALUES] = "values",
};

int med_jinja_method_find(struct med_jinja_text name)
{
    for (int i = 0; i < METHODS; i++) {
        if (med_jinja_text_is(name, method_names[i])) {
            return i;
        }
    }
    return -1;
}

/* A call of a method of a string or dict, for its parts. */
struct context {
    struct med_jinja_eval *eval;
    enum method method;
    struct med_jinja_text name;
    struct med_jinja_text text; /* the string */
    const struct med_jinja_call *call;
    struct med_jinja_value *ret_value;
};

static int take(const struct context *c, const char *const *names, size_t count, size_t required,
                struct med_jinja_value *slots)
{
    return med_jinja_take_arguments(c->eval, c->name, c->call, names, count, required, slots);
}

static int fail_argument(const struct context *c, const struct med_jinja_value *value,
                         const char *expected)
{
    return med_jinja_fail(c->eval, MED_E_INVALID, "%s() takes %s, not %s", method_names[c->method],
                          expected, med_jinja_kind_name(value->kind));
}

static bool is_int(const struct med_jinja_value *value)
{
    return value->kind == MED_JINJA_INT || value->kind == MED_JINJA_BOOL;
}

static int call_strip(const struct context *c, enum med_jinja_side side)
{
    static const char *const names[] = {NULL};
    struct med_jinja_value chars = med_jinja_none();
    int rc = take(c, names, 1, 0, &chars);
    return rc < 0 ? rc : med_jinja_strip(c->eval, c->text, side, &chars, c->ret_value);
}

static int call_case(const struct context *c, enum med_jinja_case to)
{
    int rc = take(c, NULL, 0, 0, NULL);
    return rc < 0 ? rc : med_jinja_change_case(c->eval, c->text, to, c->ret_value);
}

static int call_split(const struct context *c)
{
    static const char *const names[] = {"sep", "maxsplit"};
    struct med_jinja_value slots[2] = {med_jinja_none(), med_jinja_int(-1)};
    int rc = take(c, names, 2, 0, slots);
    if (rc < 0) {
        return rc;
    }
    if (!is_int(&slots[1])) {
        return fail_argument(c, &slots[1], "an integer");
    }
    return med_jinja_split(c->eval, c->text, &slots[0], med_jinja_as_int(&slots[1]),
                           c->method == METHOD_RSPLIT, c->ret_value);
}

static bool has_affix(struct med_jinja_text text, struct med_jinja_text affix, bool at_end)
{
    if (affix.bytes > text.bytes) {
        return false;
    }
    const char *from = at_end ? text.data + text.bytes - affix.bytes : text.data;
    return affix.bytes == 0 || memcmp(from, affix.data, affix.bytes) == 0;
}

static int call_has_affix(const struct context *c)
{
    static const char *const names[] = {NULL};
    struct med_jinja_value affix = med_jinja_none();
    bool at_end = c->method == METHOD_ENDSWITH;
    int rc = take(c, names, 1, 1, &affix);
    if (rc < 0) {
        return rc;
    }
    bool found = false;
    if (affix.kind == MED_JINJA_TUPLE) {
        for (size_t i = 0; !found && i < affix.as.sequence->count; i++) {
            const struct med_jinja_value *one = &affix.as.sequence->items[i];
            if (one->kind != MED_JINJA_STRING) {
                return fail_argument(c, one, "strings");
            }
            rc = med_jinja_spend(c->eval, 1 + one->as.text.bytes / 64);
            if (rc < 0) {
                return rc;
            }
            found = has_affix(c->text, one->as.text, at_end);
        }
    } else if (affix.kind == MED_JINJA_STRING) {
        found = has_affix(c->text, affix.as.text, at_end);
    } else {
        return fail_argument(c, &affix, "a string or a tuple");
    }
    *c->ret_value = med_jinja_bool(found);
    return 0;
}

static int take_text(const struct context *c, struct med_jinja_text *ret_text)
{
    static const char *const names[] = {NULL};
    struct med_jinja_value value;
    int rc = take(c, names, 1, 1, &value);
    if (rc == 0 && value.kind != MED_JINJA_STRING) {
        return fail_argument(c, &value, "a string");
    }
    if (rc == 0) {
        *ret_text = value.as.text;
        rc = med_jinja_spend(c->eval, c->text.bytes / 16);
    }
    return rc;
}

static int call_remove_affix(const struct context *c)
{
    struct med_jinja_text affix = {0};
    bool at_end = c->method == METHOD_REMOVESUFFIX;
    int rc = take_text(c, &affix);
    if (rc < 0) {
        return rc;
    }
    struct med_jinja_text text = c->text;
    if (has_affix(text, affix, at_end)) {
        text.data += at_end ? 0 : affix.bytes;
        text.bytes -= affix.bytes;
    }
    *c->ret_value = med_jinja_string(text.data, text.bytes);
    return 0;
}

static int call_find(const struct context *c)
{
    struct med_jinja_text part = {0};
    int rc = take_text(c, &part);
    if (rc < 0) {
        return rc;
    }
    int64_t at;
    rc = med_jinja_find(c->eval, c->text, part, c->method == METHOD_RFIND, &at);
    if (rc < 0) {
        return rc;
    }
    if (at >= 0) {
        at = (int64_t)med_jinja_characters((struct med_jinja_text){c->text.data, (size_t)at});
    }
    *c->ret_value = med_jinja_int(at);
    return 0;
}

static int call_count(const struct context *c)
{
    struct med_jinja_text part = {0};
    struct med_jinja_text text = c->text;
    int rc = take_text(c, &part);
    if (rc < 0) {
        return rc;
    }
    int64_t count = 0;
    if (part.bytes == 0) {
        count = (int64_t)med_jinja_characters(text) + 1;
    }
    while (part.bytes > 0) {
        int64_t at;
        rc = med_jinja_find(c->eval, text, part, false, &at);
        if (rc < 0) {
            return rc;
        }
        if (at < 0) {
            break;
        }
        text.data += (size_t)at + part.bytes;
        text.bytes -= (size_t)at + part.bytes;
        count++;
    }
    *c->ret_value = med_jinja_int(count);
    return 0;
}

static int call_replace(const struct context *c)
{
    static const char *const names[] = {NULL, NULL, NULL};
    struct med_jinja_value slots[3] = {med_jinja_none(), med_jinja_none(), med_jinja_int(-1)};
    int rc = take(c, names, 3, 2, slots);
    if (rc < 0) {
        return rc;
    }
    for (int i = 0; i < 2; i++) {
        if (slots[i].kind != MED_JINJA_STRING) {
            return fail_argument(c, &slots[i], "strings");
        }
    }
    if (!is_int(&slots[2])) {
        return fail_argument(c, &slots[2], "an integer");
    }
    return med_jinja_replace(c->eval, c->text, slots[0].as.text, slots[1].as.text,
                             med_jinja_as_int(&slots[2]), c->ret_value);
}

static int call_join(const struct context *c)
{
    static const char *const names[] = {NULL};
    struct med_jinja_value value;
    struct med_jinja_sequence items;
    struct med_jinja_value joined = med_jinja_string("", 0);
    int rc = take(c, names, 1, 1, &value);
    rc = rc < 0 ? rc : med_jinja_iterate(c->eval, &value, &items);
    for (size_t i = 0; rc == 0 && i < items.count; i++) {
        if (items.items[i].kind != MED_JINJA_STRING) {
            return fail_argument(c, &items.items[i], "strings");
        }
        if (i > 0) {
            rc = med_jinja_concat(c->eval, joined.as.text, c->text, &joined);
        }
        rc = rc < 0 ? rc
                    : med_jinja_concat(c->eval, joined.as.text, items.items[i].as.text, &joined);
    }
    *c->ret_value = joined;
    return rc;
}

static int call_split_lines(const struct context *c)
{
    static const char *const names[] = {"keepends"};
    struct med_jinja_value keep = med_jinja_bool(false);
    int rc = take(c, names, 1, 0, &keep);
    return rc < 0 ? rc
                  : med_jinja_split_lines(c->eval, c->text, med_jinja_truth(&keep), c->ret_value);
}

static int call_of_string(const struct context *c)
{
    switch (c->method) {
    case METHOD_CAPITALIZE:
        return call_case(c, MED_JINJA_CAPITALIZE);
    case METHOD_COUNT:
        return call_count(c);
    case METHOD_ENDSWITH:
    case METHOD_STARTSWITH:
        return call_has_affix(c);
    case METHOD_FIND:
    case METHOD_RFIND:
        return call_find(c);
    case METHOD_JOIN:
        return call_join(c);
    case METHOD_LOWER:
        return call_case(c, MED_JINJA_LOWER);
    case METHOD_LSTRIP:
        return call_strip(c, MED_JINJA_LEFT);
    case METHOD_REMOVEPREFIX:
    case METHOD_REMOVESUFFIX:
        return call_remove_affix(c);
    case METHOD_REPLACE:
        return call_replace(c);
    case METHOD_SPLIT:
    case METHOD_RSPLIT:
        return call_split(c);
    case METHOD_RSTRIP:
        return call_strip(c, MED_JINJA_RIGHT);
    case METHOD_SPLITLINES:
        return call_split_lines(c);
    case METHOD_STRIP:
        return call_strip(c, MED_JINJA_BOTH);
    case METHOD_TITLE:
        return call_case(c, MED_JINJA_TITLE);
    case METHOD_UPPER:
        return call_case(c, MED_JINJA_UPPER);
    default:
        return med_jinja_fail(c->eval, MED_E_INVALID, "a string has no method %s()",
                              method_names[c->method]);
    }
}

static int call_get(const struct context *c, const struct med_jinja_dict *dict)
{
    static const char *const names[] = {NULL, NULL};
    struct med_jinja_value slots[2] = {med_jinja_none(), med_jinja_none()};
    const struct med_jinja_value *found = NULL;
    int rc = take(c, names, 2, 1, slots);
    rc = rc < 0 ? rc : med_jinja_dict_get(c->eval, dict, &slots[0], &found);
    if (rc == 0) {
        *c->ret_value = found ? *found : slots[1];
    }
    return rc;
}

static int call_view(const struct context *c, const struct med_jinja_dict *dict)
{
    struct med_jinja_value view;
    int rc = take(c, NULL, 0, 0, NULL);
    rc = rc < 0 ? rc : med_jinja_sequence_new(c->eval, MED_JINJA_VIEW, dict->count, &view);
    for (size_t i = 0; rc == 0 && i < dict->count; i++) {
        const struct med_jinja_pair *pair = &dict->pairs[i];
        struct med_jinja_value item = c->method == METHOD_KEYS ? pair->key : pair->value;
        if (c->method == METHOD_ITEMS) {
            rc = med_jinja_sequence_new(c->eval, MED_JINJA_TUPLE, 2, &item);
            rc = rc < 0 ? rc : med_jinja_sequence_add(c->eval, item.as.sequence, &pair->key);
            rc = rc < 0 ? rc : med_jinja_sequence_add(c->eval, item.as.sequence, &pair->value);
        }
        rc = rc < 0 ? rc : med_jinja_sequence_add(c->eval, view.as.sequence, &item);
    }
    *c->ret_value = view;
    return rc;
}

static int call_count_items(const struct context *c, const struct med_jinja_sequence *items)
{
    static const char *const names[] = {NULL};
    struct med_jinja_value item;
    int64_t count = 0;
    int rc = take(c, names, 1, 1, &item);
    for (size_t i = 0; rc == 0 && i < items->count; i++) {
        bool equal = false;
        rc = med_jinja_equal(c->eval, &items->items[i], &item, &equal);
        count += equal ? 1 : 0;
    }
    *c->ret_value = med_jinja_int(count);
    return rc;
}

int med_jinja_method_apply(struct med_jinja_eval *eval, int index,
                           const struct med_jinja_value *object, const struct med_jinja_call *call,
                           struct med_jinja_value *ret_value)
{
    struct context c = {.eval = eval,
                        .method = (enum method)index,
                        .name = med_jinja_text(method_names[index]),
                        .call = call,
                        .ret_value = ret_value};
    if (object->kind == MED_JINJA_STRING) {
        c.text = object->as.text;
        return call_of_string(&c);
    }
    if (object->kind == MED_JINJA_DICT && c.method == METHOD_GET) {
        return call_get(&c, object->as.dict);
    }
    bool view = c.method == METHOD_ITEMS || c.method == METHOD_KEYS || c.method == METHOD_VALUES;
    if (object->kind == MED_JINJA_DICT && view) {
        return call_view(&c, object->as.dict);
    }
    bool counted = object->kind == MED_JINJA_LIST || object->kind == MED_JINJA_TUPLE ||
                   object->kind == MED_JINJA_RANGE_LIST;
    if (counted && c.method == METHOD_COUNT) {
        return call_count_items(&c, object->as.sequence);
    }
    return med_jinja_fail(eval, MED_E_INVALID, "%s has no method %s()",
                          med_jinja_kind_name(object->kind), method_names[index]);
}
