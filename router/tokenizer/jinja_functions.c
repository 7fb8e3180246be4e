/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The functions of a template: range, dict, namespace, raise_exception and strftime_now; and how a
 * call's arguments find their places.
 *
 * strftime_now has the C locale's names and the machine's time zone, as Python has for a program that
 * sets no locale; a conversion that is not in its table is refused.
 * thread: one render.
 */
#include "base/utf8.h"
#include "router/tokenizer/jinja.h"

#include <string.h>
#include <time.h>

int med_jinja_take_arguments(struct med_jinja_eval *eval, struct med_jinja_text what,
                             const struct med_jinja_call *call, const char *const *names,
                             size_t slot_count, size_t required, struct med_jinja_value *slots)
{
    bool given[MED_JINJA_ARGUMENTS] = {false};
    if (call->count > slot_count) {
        return med_jinja_fail(eval, MED_E_INVALID, "%.*s takes at most %zu arguments, not %zu",
                              (int)what.bytes, what.data, slot_count, call->count);
    }
    for (size_t i = 0; i < call->count; i++) {
        slots[i] = call->positional[i];
        given[i] = true;
    }
    for (size_t k = 0; k < call->named_count; k++) {
        size_t i = 0;
        while (i < slot_count && !(names[i] && med_jinja_text_is(call->named[k].name, names[i]))) {
            i++;
        }
        if (i == slot_count || given[i]) {
            return med_jinja_fail(eval, MED_E_INVALID, "%.*s: %s argument %.*s", (int)what.bytes,
                                  what.data, i == slot_count ? "there is no" : "twice the",
                                  (int)call->named[k].name.bytes, call->named[k].name.data);
        }
        slots[i] = call->named[k].value;
        given[i] = true;
    }
    for (size_t i = 0; i < required; i++) {
        if (!given[i]) {
            return med_jinja_fail(eval, MED_E_INVALID, "%.*s needs at least %zu arguments",
                                  (int)what.bytes, what.data, required);
        }
    }
    return 0;
}

static const char *const function_names[MED_JINJA_FUNCTIONS] = {
    [MED_JINJA_FUNCTION_RANGE] = "range",
    [MED_JINJA_FUNCTION_DICT] = "dict",
    [MED_JINJA_FUNCTION_NAMESPACE] = "namespace",
    [MED_JINJA_FUNCTION_RAISE_EXCEPTION] = "raise_exception",
    [MED_JINJA_FUNCTION_STRFTIME_NOW] = "strftime_now",
};

int med_jinja_function_find(struct med_jinja_text name)
{
    for (int i = 0; i < MED_JINJA_FUNCTIONS; i++) {
        if (med_jinja_text_is(name, function_names[i])) {
            return i;
        }
    }
    return -1;
}

/* ---- strftime ---- */

struct conversion {
    char letter;
    const char *format;
};

static const struct conversion conversions[] = {
    {'a', "%a"}, {'A', "%A"}, {'b', "%b"}, {'B', "%B"}, {'c', "%c"}, {'C', "%C"}, {'d', "%d"},
    {'D', "%D"}, {'e', "%e"}, {'F', "%F"}, {'g', "%g"}, {'G', "%G"}, {'h', "%h"}, {'H', "%H"},
    {'I', "%I"}, {'j', "%j"}, {'m', "%m"}, {'M', "%M"}, {'n', "%n"}, {'p', "%p"}, {'r', "%r"},
    {'R', "%R"}, {'S', "%S"}, {'t', "%t"}, {'T', "%T"}, {'u', "%u"}, {'U', "%U"}, {'V', "%V"},
    {'w', "%w"}, {'W', "%W"}, {'x', "%x"}, {'X', "%X"}, {'y', "%y"}, {'Y', "%Y"}, {'%', "%%"},
};

/* Without the padding: %-d and the like. */
static const struct conversion bare_conversions[] = {
    {'d', "%d"}, {'H', "%H"}, {'I', "%I"}, {'j', "%j"}, {'m', "%m"},
    {'M', "%M"}, {'S', "%S"}, {'y', "%y"}, {'e', "%e"},
};

static const char *find_conversion(const struct conversion *table, size_t count, char letter)
{
    for (size_t i = 0; i < count; i++) {
        if (table[i].letter == letter) {
            return table[i].format;
        }
    }
    return NULL;
}

/* The conversion after a % at the start of `text`; *ret_bytes: what it takes. NULL: unknown. */
static const char *read_conversion(struct med_jinja_text text, size_t *ret_bytes, bool *ret_bare)
{
    *ret_bare = text.bytes > 1 && text.data[0] == '-';
    *ret_bytes = *ret_bare ? 2 : 1;
    if (text.bytes == 0) {
        return NULL;
    }
    if (*ret_bare) {
        return find_conversion(bare_conversions,
                               sizeof(bare_conversions) / sizeof(*bare_conversions), text.data[1]);
    }
    return find_conversion(conversions, sizeof(conversions) / sizeof(*conversions), text.data[0]);
}

bool med_jinja_strftime_known(struct med_jinja_text format, char *ret_bad)
{
    while (format.bytes > 0) {
        size_t bytes = 0;
        bool bare;
        if (format.data[0] == '%') {
            struct med_jinja_text after = {format.data + 1, format.bytes - 1};
            if (!read_conversion(after, &bytes, &bare)) {
                char c = ' ';
                if (after.bytes > 0)
                    c = after.data[bytes > after.bytes ? 0 : bytes - 1];
                *ret_bad = '?';
                if (c > ' ' && c < 0x7F)
                    *ret_bad = c;
                return false;
            }
        }
        format.data += 1 + bytes;
        format.bytes -= 1 + bytes;
    }
    return true;
}

static int print_conversion(const struct tm *when, const char *format, bool bare,
                            struct med_buf *out)
{
    char text[64];
    // the formats are those of the tables above
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    size_t n = strftime(text, sizeof(text), format, when);
#pragma GCC diagnostic pop
    const char *from = text;
    while (bare && n > 1 && (*from == '0' || *from == ' ')) {
        from++;
        n--;
    }
    return med_buf_append(out, from, n);
}

static int call_strftime(struct med_jinja_eval *eval, const struct med_jinja_call *call,
                         struct med_jinja_value *ret_value)
{
    static const char *const names[] = {"format"};
    struct med_jinja_value format = med_jinja_none();
    int rc =
        med_jinja_take_arguments(eval, med_jinja_text("strftime_now"), call, names, 1, 1, &format);
    if (rc < 0) {
        return rc;
    }
    char bad;
    if (format.kind != MED_JINJA_STRING) {
        return med_jinja_fail(eval, MED_E_INVALID, "strftime_now takes a string, not %s",
                              med_jinja_kind_name(format.kind));
    }
    if (!med_jinja_strftime_known(format.as.text, &bad)) {
        return med_jinja_fail(eval, MED_E_INVALID,
                              "strftime_now: the conversion %%%c is not supported", bad);
    }
    time_t seconds = (time_t)eval->unix_s;
    struct tm when;
    if (!localtime_r(&seconds, &when)) {
        return med_jinja_fail(eval, MED_E_INVALID, "strftime_now: the time has no calendar date");
    }
    struct med_buf out;
    med_buf_init(&out, 64 * (format.as.text.bytes + 1));
    struct med_jinja_text text = format.as.text;
    while (rc == 0 && text.bytes > 0) {
        size_t bytes = 0;
        bool bare;
        struct med_jinja_text after = {text.data + 1, text.bytes - 1};
        if (text.data[0] == '%') {
            const char *conversion = read_conversion(after, &bytes, &bare);
            rc = print_conversion(&when, conversion, bare, &out);
        } else {
            rc = med_buf_append(&out, text.data, 1);
        }
        text.data += 1 + bytes;
        text.bytes -= 1 + bytes;
    }
    rc = rc < 0 ? rc : med_jinja_keep(eval, &out, ret_value);
    med_buf_release(&out);
    return rc;
}

/* ---- the others ---- */

static int call_raise(struct med_jinja_eval *eval, const struct med_jinja_call *call)
{
    static const char *const names[] = {"message"};
    struct med_jinja_value message;
    struct med_jinja_text text;
    int rc = med_jinja_take_arguments(eval, med_jinja_text("raise_exception"), call, names, 1, 1,
                                      &message);
    rc = rc < 0 ? rc : med_jinja_to_text(eval, &message, &text);
    if (rc < 0) {
        return rc;
    }
    size_t shown = 0;
    while (shown < text.bytes) {
        struct med_jinja_text rest = {text.data + shown, text.bytes - shown};
        size_t n = med_jinja_character_bytes(rest);
        if (shown + n > MED_ERR_TEXT_MAX / 2) {
            break;
        }
        shown += n;
    }
    return med_err_set(eval->err, MED_E_INVALID, "the chat template refuses the messages: %.*s",
                       (int)shown, text.data);
}

static int call_range(struct med_jinja_eval *eval, const struct med_jinja_call *call,
                      struct med_jinja_value *ret_value)
{
    static const char *const names[] = {NULL, NULL, NULL};
    struct med_jinja_value bounds[3] = {med_jinja_int(0), med_jinja_int(0), med_jinja_int(1)};
    int rc = med_jinja_take_arguments(eval, med_jinja_text("range"), call, names, 3, 1, bounds);
    if (rc < 0) {
        return rc;
    }
    for (int i = 0; i < 3; i++) {
        if (bounds[i].kind != MED_JINJA_INT && bounds[i].kind != MED_JINJA_BOOL) {
            return med_jinja_fail(eval, MED_E_INVALID, "range takes integers, not %s",
                                  med_jinja_kind_name(bounds[i].kind));
        }
    }
    int64_t start = call->count == 1 ? 0 : med_jinja_as_int(&bounds[0]);
    int64_t stop = med_jinja_as_int(&bounds[call->count == 1 ? 0 : 1]);
    int64_t step = med_jinja_as_int(&bounds[2]);
    if (step == 0) {
        return med_jinja_fail(eval, MED_E_INVALID, "the step of a range is 0");
    }
    /* In 128 bits, where no difference of two integers overflows. */
    __extension__ __int128 span = step > 0 ? (__int128)stop - start : (__int128)start - stop;
    __extension__ __int128 stride = step > 0 ? (__int128)step : -(__int128)step;
    __extension__ __int128 count = span <= 0 ? 0 : (span + stride - 1) / stride;
    if (count > MED_JINJA_RANGE) {
        return med_jinja_fail(eval, MED_E_INVALID, "a range has more than %d elements",
                              MED_JINJA_RANGE);
    }
    struct med_jinja_value list;
    rc = med_jinja_sequence_new(eval, MED_JINJA_RANGE_LIST, (size_t)count, &list);
    for (int64_t i = 0; rc == 0 && i < (int64_t)count; i++) {
        list.as.sequence->items[list.as.sequence->count++] = med_jinja_int(start + i * step);
    }
    *ret_value = list;
    return rc;
}

/* dict(...) and the attributes of namespace(...): a dict or pairs, and named values. */
static int fill_dict(struct med_jinja_eval *eval, const struct med_jinja_call *call,
                     struct med_jinja_dict *dict)
{
    int rc = 0;
    if (call->count > 1) {
        return med_jinja_fail(eval, MED_E_INVALID, "dict and namespace take one argument at most");
    }
    if (call->count == 1) {
        const struct med_jinja_value *from = &call->positional[0];
        if (from->kind != MED_JINJA_DICT) {
            return med_jinja_fail(eval, MED_E_INVALID, "a dict cannot be made of %s here",
                                  med_jinja_kind_name(from->kind));
        }
        for (size_t i = 0; rc == 0 && i < from->as.dict->count; i++) {
            const struct med_jinja_pair *pair = &from->as.dict->pairs[i];
            rc = med_jinja_dict_set(eval, dict, &pair->key, &pair->value);
        }
    }
    for (size_t k = 0; rc == 0 && k < call->named_count; k++) {
        struct med_jinja_value key =
            med_jinja_string(call->named[k].name.data, call->named[k].name.bytes);
        rc = med_jinja_dict_set(eval, dict, &key, &call->named[k].value);
    }
    return rc;
}

static int call_namespace(struct med_jinja_eval *eval, const struct med_jinja_call *call,
                          struct med_jinja_value *ret_value)
{
    struct med_jinja_namespace *made = med_jinja_arena_alloc(&eval->arena, 1, sizeof(*made));
    if (!made) {
        return med_jinja_fail_memory(eval);
    }
    made->attributes.depth = 1;
    int rc = fill_dict(eval, call, &made->attributes);
    for (size_t i = 0; rc == 0 && i < made->attributes.count; i++) {
        const struct med_jinja_value *key = &made->attributes.pairs[i].key;
        if (key->kind == MED_JINJA_STRING && key->as.text.bytes > 0 && *key->as.text.data == '_') {
            return med_jinja_fail(eval, MED_E_INVALID,
                                  "an attribute of a namespace cannot start with _");
        }
    }
    *ret_value = (struct med_jinja_value){.kind = MED_JINJA_NAMESPACE, .as.namespace_ = made};
    return rc;
}

int med_jinja_function_apply(struct med_jinja_eval *eval, enum med_jinja_function function,
                             const struct med_jinja_call *call, struct med_jinja_value *ret_value)
{
    struct med_jinja_value dict;
    int rc;
    switch (function) {
    case MED_JINJA_FUNCTION_RANGE:
        return call_range(eval, call, ret_value);
    case MED_JINJA_FUNCTION_DICT:
        rc = med_jinja_dict_new(eval, 0, &dict);
        rc = rc < 0 ? rc : fill_dict(eval, call, dict.as.dict);
        *ret_value = dict;
        return rc;
    case MED_JINJA_FUNCTION_NAMESPACE:
        return call_namespace(eval, call, ret_value);
    case MED_JINJA_FUNCTION_RAISE_EXCEPTION:
        return call_raise(eval, call);
    default:
        return call_strftime(eval, call, ret_value);
    }
}
