/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parser of what operators stand between: constants, names, lists, dicts, and after one of them
 * .name, [key], (call), |filter and "is test", in any number.
 *
 * What a template names (filter, test, method) is looked up here, so an unknown one is refused
 * when the template is loaded; functions are checked by jinja_parser.c, which knows the macros.
 * thread: the caller's.  Does not know operators: jinja_expr.c.
 */
#include "router/tokenizer/jinja.h"

#include <string.h>

/* ---- arguments ---- */

static bool parse_argument(struct med_jinja_parser *p, struct med_jinja_node *call,
                           struct med_jinja_argument *argument)
{
    if (med_jinja_at_operator(p, "*") || med_jinja_at_operator(p, "**")) {
        (void)med_jinja_parse_fail(p, p->at->line, "* and ** in a call are not supported");
        return false;
    }
    bool named = p->at->kind == MED_JINJA_TOKEN_NAME && p->at[1].kind == MED_JINJA_TOKEN_OPERATOR &&
                 med_jinja_text_is(p->at[1].text, "=");
    if (named) {
        argument->name = p->at->text;
        for (size_t i = 0; i < call->argument_count; i++) {
            if (med_jinja_text_equal(call->arguments[i].name, argument->name)) {
                (void)med_jinja_parse_fail(p, p->at->line, "an argument is given twice: %.*s",
                                           (int)argument->name.bytes, argument->name.data);
                return false;
            }
        }
        p->at += 2;
    } else if (call->argument_count > 0 &&
               call->arguments[call->argument_count - 1].name.bytes > 0) {
        (void)med_jinja_parse_fail(p, p->at->line,
                                   "an argument without a name follows one with a name");
        return false;
    }
    struct med_jinja_node *value = med_jinja_parse_expression(p, true);
    if (!value || !med_jinja_node_adopt(p, call, value)) {
        return false;
    }
    argument->value = value;
    call->argument_count++;
    return true;
}

/* "(...)", if it is here. */
static bool parse_arguments(struct med_jinja_parser *p, struct med_jinja_node *call)
{
    if (!med_jinja_take_operator(p, "(")) {
        return true;
    }
    call->arguments =
        med_jinja_arena_alloc(p->arena, MED_JINJA_ARGUMENTS, sizeof(*call->arguments));
    if (!call->arguments) {
        (void)med_err_set(p->err, p->arena->rc, "%s: %s", p->name, med_err_text(p->arena->rc));
        return false;
    }
    while (!med_jinja_take_operator(p, ")")) {
        if (call->argument_count > 0 && !med_jinja_need_operator(p, ",")) {
            return false;
        }
        if (med_jinja_take_operator(p, ")")) {
            return call->argument_count > 0 || med_jinja_parse_expected(p, "an argument");
        }
        if (call->argument_count == MED_JINJA_ARGUMENTS) {
            (void)med_jinja_parse_fail(p, p->at->line, "a call has more than %d arguments",
                                       MED_JINJA_ARGUMENTS);
            return false;
        }
        if (!parse_argument(p, call, &call->arguments[call->argument_count])) {
            return false;
        }
    }
    return true;
}

/* ---- primaries ---- */

static struct med_jinja_node *parse_strings(struct med_jinja_parser *p)
{
    int line = p->at->line;
    size_t count = 0;
    size_t bytes = 0;
    while (p->at[count].kind == MED_JINJA_TOKEN_STRING) {
        bytes += p->at[count++].text.bytes;
    }
    const char *data = p->at->text.data;
    if (count > 1) {
        char *joined = med_jinja_arena_text(p->arena, bytes);
        if (!joined) {
            (void)med_err_set(p->err, p->arena->rc, "%s: %s", p->name, med_err_text(p->arena->rc));
            return NULL;
        }
        data = joined;
        for (size_t i = 0; i < count; i++) {
            if (p->at[i].text.bytes > 0) {
                memcpy(joined, p->at[i].text.data, p->at[i].text.bytes);
            }
            joined += p->at[i].text.bytes;
        }
    }
    p->at += count;
    return med_jinja_node_constant(p, line, med_jinja_string(data, bytes));
}

static struct med_jinja_node *parse_list(struct med_jinja_parser *p)
{
    struct med_jinja_node *list = med_jinja_node_new(p, MED_JINJA_NODE_LIST, p->at->line);
    if (!list) {
        return NULL;
    }
    struct med_jinja_node **tail = &list->body;
    p->at++;
    while (!med_jinja_take_operator(p, "]")) {
        if (list->body && !med_jinja_need_operator(p, ",")) {
            return NULL;
        }
        if (list->body && med_jinja_take_operator(p, "]")) {
            break;
        }
        if (!med_jinja_node_append(p, list, &tail, med_jinja_parse_expression(p, true))) {
            return NULL;
        }
    }
    return list;
}

static struct med_jinja_node *parse_dict(struct med_jinja_parser *p)
{
    struct med_jinja_node *dict = med_jinja_node_new(p, MED_JINJA_NODE_DICT, p->at->line);
    if (!dict) {
        return NULL;
    }
    struct med_jinja_node **tail = &dict->body;
    p->at++;
    while (!med_jinja_take_operator(p, "}")) {
        if (dict->body && !med_jinja_need_operator(p, ",")) {
            return NULL;
        }
        if (dict->body && med_jinja_take_operator(p, "}")) {
            break;
        }
        if (!med_jinja_node_append(p, dict, &tail, med_jinja_parse_expression(p, true)) ||
            !med_jinja_need_operator(p, ":") ||
            !med_jinja_node_append(p, dict, &tail, med_jinja_parse_expression(p, true))) {
            return NULL;
        }
    }
    return dict;
}

struct med_jinja_node *med_jinja_parse_name(struct med_jinja_parser *p)
{
    static const struct {
        const char *name;
        int value; // 2: none
    } constants[] = {{"true", 1},  {"True", 1}, {"false", 0},
                     {"False", 0}, {"none", 2}, {"None", 2}};
    int line = p->at->line;
    struct med_jinja_text name = p->at->text;
    p->at++;
    for (size_t i = 0; i < sizeof(constants) / sizeof(*constants); i++) {
        if (med_jinja_text_is(name, constants[i].name)) {
            return med_jinja_node_constant(p, line,
                                           constants[i].value == 2
                                               ? med_jinja_none()
                                               : med_jinja_bool(constants[i].value == 1));
        }
    }
    struct med_jinja_node *made = med_jinja_node_new(p, MED_JINJA_NODE_NAME, line);
    if (made) {
        made->text = name;
    }
    return made;
}

struct med_jinja_node *med_jinja_parse_primary(struct med_jinja_parser *p)
{
    const struct med_jinja_token *token = p->at;
    switch (token->kind) {
    case MED_JINJA_TOKEN_NAME:
        return med_jinja_parse_name(p);
    case MED_JINJA_TOKEN_STRING:
        return parse_strings(p);
    case MED_JINJA_TOKEN_INTEGER:
        p->at++;
        return med_jinja_node_constant(p, token->line, med_jinja_int(token->integer));
    case MED_JINJA_TOKEN_FLOAT:
        p->at++;
        return med_jinja_node_constant(p, token->line, med_jinja_float(token->number));
    default:
        break;
    }
    if (med_jinja_at_operator(p, "[")) {
        return parse_list(p);
    }
    if (med_jinja_at_operator(p, "{")) {
        return parse_dict(p);
    }
    if (med_jinja_take_operator(p, "(")) {
        struct med_jinja_node *inner = med_jinja_parse_tuple(p, true, true);
        return inner && med_jinja_need_operator(p, ")") ? inner : NULL;
    }
    return med_jinja_parse_expected(p, "an expression");
}

/* ---- after a primary ---- */

/* "[...]" after an object, the bracket taken. */
static struct med_jinja_node *parse_subscript(struct med_jinja_parser *p,
                                              struct med_jinja_node *object)
{
    int line = p->at->line;
    struct med_jinja_node *bounds[3] = {NULL, NULL, NULL};
    int given = 0;
    bool is_slice = false;
    for (; given < 3; given++) {
        if (!med_jinja_at_operator(p, ":") && !med_jinja_at_operator(p, "]")) {
            bounds[given] = med_jinja_parse_expression(p, true);
            if (!bounds[given]) {
                return NULL;
            }
        }
        if (given == 2 || !med_jinja_take_operator(p, ":")) {
            break;
        }
        is_slice = true;
    }
    if (med_jinja_at_operator(p, ",")) {
        return med_jinja_parse_fail(p, p->at->line, "a subscript with a comma is not supported");
    }
    if (!is_slice && !bounds[0]) {
        return med_jinja_parse_expected(p, "a subscript");
    }
    if (!med_jinja_need_operator(p, "]")) {
        return NULL;
    }
    if (!is_slice) {
        return med_jinja_node_over(p, MED_JINJA_NODE_ITEM, line, object, bounds[0]);
    }
    struct med_jinja_node *slice =
        med_jinja_node_over(p, MED_JINJA_NODE_SLICE, line, object, bounds[0]);
    for (int i = 1; slice && i < 3; i++) {
        if (bounds[i] && !med_jinja_node_adopt(p, slice, bounds[i])) {
            return NULL;
        }
    }
    if (slice) {
        slice->c = bounds[1];
        slice->d = bounds[2];
    }
    return slice;
}

/* ".name" or ".name(...)" after an object, the dot taken. */
static struct med_jinja_node *parse_dot(struct med_jinja_parser *p, struct med_jinja_node *object)
{
    const struct med_jinja_token *token = p->at;
    if (token->kind == MED_JINJA_TOKEN_INTEGER) {
        p->at++;
        return med_jinja_node_over(
            p, MED_JINJA_NODE_ITEM, token->line, object,
            med_jinja_node_constant(p, token->line, med_jinja_int(token->integer)));
    }
    if (token->kind != MED_JINJA_TOKEN_NAME) {
        return med_jinja_parse_expected(p, "a name after the dot");
    }
    p->at++;
    if (token->text.bytes >= 2 && memcmp(token->text.data, "__", 2) == 0) {
        return med_jinja_parse_fail(p, token->line, "the attribute %.*s is not supported",
                                    (int)token->text.bytes, token->text.data);
    }
    bool is_call = med_jinja_at_operator(p, "(");
    struct med_jinja_node *made = med_jinja_node_over(
        p, is_call ? MED_JINJA_NODE_METHOD : MED_JINJA_NODE_ATTRIBUTE, token->line, object, NULL);
    if (!made) {
        return NULL;
    }
    made->text = token->text;
    if (is_call) {
        made->index = med_jinja_method_find(token->text);
        if (made->index < 0) {
            return med_jinja_parse_fail(p, token->line, "the method %.*s() is not supported",
                                        (int)token->text.bytes, token->text.data);
        }
        if (!parse_arguments(p, made)) {
            return NULL;
        }
    }
    return made;
}

/* "(...)" after an expression that is no method. */
struct med_jinja_node *med_jinja_parse_call(struct med_jinja_parser *p,
                                            struct med_jinja_node *callee)
{
    int line = p->at->line;
    if (callee->kind != MED_JINJA_NODE_NAME) {
        return med_jinja_parse_fail(p, line,
                                    "a call of something that is no name is not supported");
    }
    struct med_jinja_node *call = med_jinja_node_over(p, MED_JINJA_NODE_CALL, line, callee, NULL);
    struct med_jinja_name_list *called =
        call ? med_jinja_arena_alloc(p->arena, 1, sizeof(*called)) : NULL;
    if (call && !called) {
        (void)med_err_set(p->err, p->arena->rc, "%s: %s", p->name, med_err_text(p->arena->rc));
    }
    if (!called || !parse_arguments(p, call)) {
        return NULL;
    }
    *called = (struct med_jinja_name_list){.name = callee->text, .line = line, .next = p->called};
    p->called = called;
    bool is_strftime = med_jinja_text_is(callee->text, "strftime_now");
    if (is_strftime && call->argument_count > 0 &&
        call->arguments[0].value->kind == MED_JINJA_NODE_CONST &&
        call->arguments[0].value->value.kind == MED_JINJA_STRING) {
        char bad;
        if (!med_jinja_strftime_known(call->arguments[0].value->value.as.text, &bad)) {
            return med_jinja_parse_fail(p, line,
                                        "strftime_now: the conversion %%%c is not supported", bad);
        }
    }
    return call;
}

struct med_jinja_node *med_jinja_parse_postfix(struct med_jinja_parser *p,
                                               struct med_jinja_node *object)
{
    while (object) {
        if (med_jinja_take_operator(p, ".")) {
            object = parse_dot(p, object);
        } else if (med_jinja_take_operator(p, "[")) {
            object = parse_subscript(p, object);
        } else if (med_jinja_at_operator(p, "(")) {
            object = med_jinja_parse_call(p, object);
        } else {
            break;
        }
    }
    return object;
}

struct med_jinja_node *med_jinja_parse_filter(struct med_jinja_parser *p,
                                              struct med_jinja_node *value)
{
    const struct med_jinja_token *token = p->at;
    if (token->kind != MED_JINJA_TOKEN_NAME) {
        return med_jinja_parse_expected(p, "the name of a filter");
    }
    p->at++;
    struct med_jinja_node *made =
        med_jinja_node_over(p, MED_JINJA_NODE_FILTER, token->line, value, NULL);
    if (!made) {
        return NULL;
    }
    made->text = token->text;
    made->index = med_jinja_filter_find(token->text);
    if (made->index < 0) {
        return med_jinja_parse_fail(p, token->line, "the filter %.*s is not supported",
                                    (int)token->text.bytes, token->text.data);
    }
    return parse_arguments(p, made) ? made : NULL;
}

struct med_jinja_node *med_jinja_parse_filters(struct med_jinja_parser *parser,
                                               struct med_jinja_node *value)
{
    while (value && med_jinja_take_operator(parser, "|")) {
        value = med_jinja_parse_filter(parser, value);
    }
    return value;
}

/* A test may have one argument without parentheses: "is divisibleby 3". */
static bool bare_argument_follows(const struct med_jinja_parser *p)
{
    switch (p->at->kind) {
    case MED_JINJA_TOKEN_STRING:
    case MED_JINJA_TOKEN_INTEGER:
    case MED_JINJA_TOKEN_FLOAT:
        return true;
    case MED_JINJA_TOKEN_NAME:
        return !med_jinja_at_name(p, "else") && !med_jinja_at_name(p, "or") &&
               !med_jinja_at_name(p, "and");
    case MED_JINJA_TOKEN_OPERATOR:
        return med_jinja_at_operator(p, "[") || med_jinja_at_operator(p, "{");
    default:
        return false;
    }
}

/* "is [not] name", the "is" taken. */
struct med_jinja_node *med_jinja_parse_test(struct med_jinja_parser *p,
                                            struct med_jinja_node *value)
{
    bool negated = med_jinja_take_name(p, "not");
    const struct med_jinja_token *token = p->at;
    if (token->kind != MED_JINJA_TOKEN_NAME) {
        return med_jinja_parse_expected(p, "the name of a test");
    }
    p->at++;
    struct med_jinja_node *made =
        med_jinja_node_over(p, MED_JINJA_NODE_TEST, token->line, value, NULL);
    if (!made) {
        return NULL;
    }
    made->negated = negated;
    made->text = token->text;
    made->index = med_jinja_test_find(token->text);
    if (made->index < 0) {
        return med_jinja_parse_fail(p, token->line, "the test %.*s is not supported",
                                    (int)token->text.bytes, token->text.data);
    }
    if (!bare_argument_follows(p)) {
        return parse_arguments(p, made) ? made : NULL;
    }
    if (med_jinja_at_name(p, "is")) {
        return med_jinja_parse_fail(p, p->at->line, "tests cannot be chained with is");
    }
    made->arguments = med_jinja_arena_alloc(p->arena, 1, sizeof(*made->arguments));
    if (!made->arguments) {
        (void)med_err_set(p->err, p->arena->rc, "%s: %s", p->name, med_err_text(p->arena->rc));
        return NULL;
    }
    struct med_jinja_node *argument = med_jinja_parse_postfix(p, med_jinja_parse_primary(p));
    if (!argument || !med_jinja_node_adopt(p, made, argument)) {
        return NULL;
    }
    made->arguments[0].value = argument;
    made->argument_count = 1;
    return made;
}
