/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tests of a template: "x is defined" and the like.
 * thread: one render.
 */
#include "router/tokenizer/jinja.h"

enum test {
    TEST_BOOLEAN,
    TEST_DEFINED,
    TEST_DIVISIBLEBY,
    TEST_EVEN,
    TEST_FALSE,
    TEST_FLOAT,
    TEST_IN,
    TEST_INTEGER,
    TEST_ITERABLE,
    TEST_MAPPING,
    TEST_NONE,
    TEST_NUMBER,
    TEST_ODD,
    TEST_SEQUENCE,
    TEST_STRING,
    TEST_TRUE,
    TEST_UNDEFINED,
    TEST_EQ, // and the comparisons after it
    TEST_NE,
    TEST_LT,
    TEST_LE,
    TEST_GT,
    TEST_GE,
};

static const struct {
    const char *name;
    enum test test;
} tests[] = {
    {"boolean", TEST_BOOLEAN},
    {"defined", TEST_DEFINED},
    {"divisibleby", TEST_DIVISIBLEBY},
    {"even", TEST_EVEN},
    {"false", TEST_FALSE},
    {"float", TEST_FLOAT},
    {"in", TEST_IN},
    {"integer", TEST_INTEGER},
    {"iterable", TEST_ITERABLE},
    {"mapping", TEST_MAPPING},
    {"none", TEST_NONE},
    {"number", TEST_NUMBER},
    {"odd", TEST_ODD},
    {"sequence", TEST_SEQUENCE},
    {"string", TEST_STRING},
    {"true", TEST_TRUE},
    {"undefined", TEST_UNDEFINED},
    {"eq", TEST_EQ},
    {"equalto", TEST_EQ},
    {"==", TEST_EQ},
    {"ne", TEST_NE},
    {"!=", TEST_NE},
    {"lt", TEST_LT},
    {"lessthan", TEST_LT},
    {"<", TEST_LT},
    {"le", TEST_LE},
    {"<=", TEST_LE},
    {"gt", TEST_GT},
    {"greaterthan", TEST_GT},
    {">", TEST_GT},
    {"ge", TEST_GE},
    {">=", TEST_GE},
};

int med_jinja_test_find(struct med_jinja_text name)
{
    for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++) {
        if (med_jinja_text_is(name, tests[i].name)) {
            return (int)i;
        }
    }
    return -1;
}

/* Tests of the value's kind alone. */
static bool test_kind(enum test test, const struct med_jinja_value *value)
{
    enum med_jinja_kind kind = value->kind;
    switch (test) {
    case TEST_BOOLEAN:
        return kind == MED_JINJA_BOOL;
    case TEST_DEFINED:
        return kind != MED_JINJA_UNDEFINED;
    case TEST_FALSE:
        return kind == MED_JINJA_BOOL && !value->as.truth;
    case TEST_FLOAT:
        return kind == MED_JINJA_FLOAT;
    case TEST_INTEGER:
        return kind == MED_JINJA_INT;
    case TEST_ITERABLE:
        return kind == MED_JINJA_UNDEFINED || kind == MED_JINJA_STRING || kind == MED_JINJA_DICT ||
               kind == MED_JINJA_ITERATOR || kind == MED_JINJA_LOOP || med_jinja_is_sequence(value);
    case TEST_MAPPING:
        return kind == MED_JINJA_DICT;
    case TEST_NONE:
        return kind == MED_JINJA_NONE;
    case TEST_NUMBER:
        return med_jinja_is_number(value);
    case TEST_SEQUENCE:
        return kind == MED_JINJA_UNDEFINED || kind == MED_JINJA_STRING || kind == MED_JINJA_DICT ||
               (med_jinja_is_sequence(value) && kind != MED_JINJA_VIEW);
    case TEST_STRING:
        return kind == MED_JINJA_STRING;
    case TEST_TRUE:
        return kind == MED_JINJA_BOOL && value->as.truth;
    default:
        return kind == MED_JINJA_UNDEFINED;
    }
}

/* value % divisor == what */
static int test_remainder(struct med_jinja_eval *eval, const struct med_jinja_value *value,
                          const struct med_jinja_value *divisor, int64_t what, bool *ret_truth)
{
    struct med_jinja_value remainder;
    struct med_jinja_value wanted = med_jinja_int(what);
    int rc = med_jinja_binary(eval, MED_JINJA_MOD, value, divisor, &remainder);
    return rc < 0 ? rc : med_jinja_equal(eval, &remainder, &wanted, ret_truth);
}

int med_jinja_test_apply(struct med_jinja_eval *eval, int index,
                         const struct med_jinja_value *value, const struct med_jinja_call *call,
                         bool *ret_truth)
{
    static const char *const names[] = {NULL};
    enum test test = tests[index].test;
    struct med_jinja_value two = med_jinja_int(2);
    struct med_jinja_value other = med_jinja_none();
    bool takes_one = test == TEST_DIVISIBLEBY || test == TEST_IN || test >= TEST_EQ;
    int rc = med_jinja_take_arguments(eval, med_jinja_text(tests[index].name), call, names,
                                      takes_one ? 1 : 0, takes_one ? 1 : 0, &other);
    if (rc < 0) {
        return rc;
    }
    if (test >= TEST_EQ) {
        enum med_jinja_op op = (enum med_jinja_op)(MED_JINJA_EQ + (test - TEST_EQ));
        return med_jinja_compare(eval, op, value, &other, ret_truth);
    }
    switch (test) {
    case TEST_DIVISIBLEBY:
        return test_remainder(eval, value, &other, 0, ret_truth);
    case TEST_EVEN:
        return test_remainder(eval, value, &two, 0, ret_truth);
    case TEST_ODD:
        return test_remainder(eval, value, &two, 1, ret_truth);
    case TEST_IN:
        return med_jinja_contains(eval, &other, value, ret_truth);
    default:
        *ret_truth = test_kind(test, value);
        return 0;
    }
}
