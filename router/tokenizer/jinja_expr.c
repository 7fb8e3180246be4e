/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parser of expressions: recursive descent, by Jinja's precedence, loosest first:
 *     x if c else y | or | and | not | comparison, in | + - | ~ | * / // % | ** | unary | primary
 * and after a primary .name, [key], (call), |filter and "is test", in any number.
 *
 * What a template names (filter, test, method) is looked up here, so an unknown one is refused
 * when the template is loaded; functions are checked by jinja_parser.c, which knows the macros.
 * Every level of descent is counted, and every node knows the height of the tree below it; both are
 * bounded by MED_JINJA_TREE_DEPTH, so neither this recursion nor the evaluator's follows the input.
 * thread: the caller's.
 */
#include "router/tokenizer/jinja.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static struct med_jinja_node *parse_or(struct med_jinja_parser *p);
static struct med_jinja_node *parse_unary(struct med_jinja_parser *p, bool filters);
static struct med_jinja_node *parse_postfix(struct med_jinja_parser *p,
                                            struct med_jinja_node *object);

/* ---- shared with jinja_parser.c ---- */

void *med_jinja_parse_fail(struct med_jinja_parser *parser, int line, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    (void)med_err_set(parser->err, MED_E_FORMAT, "%s: line %d: %s", parser->name, line, text);
    return NULL;
}

struct med_jinja_node *med_jinja_node_new(struct med_jinja_parser *parser,
                                          enum med_jinja_node_kind kind, int line)
{
    struct med_jinja_node *made =
        med_jinja_arena_alloc(parser->arena, 1, sizeof(struct med_jinja_node));
    if (!made) {
        (void)med_err_set(parser->err, parser->arena->rc, "%s: %s", parser->name,
                          med_err_text(parser->arena->rc));
        return NULL;
    }
    made->kind = kind;
    made->line = line;
    made->depth = 1;
    return made;
}

bool med_jinja_node_adopt(struct med_jinja_parser *parser, struct med_jinja_node *parent,
                          const struct med_jinja_node *child)
{
    if (child->depth >= MED_JINJA_TREE_DEPTH) {
        (void)med_jinja_parse_fail(parser, child->line,
                                   "expressions or statements are nested more than %d deep",
                                   MED_JINJA_TREE_DEPTH);
        return false;
    }
    if (parent->depth <= child->depth) {
        parent->depth = child->depth + 1;
    }
    return true;
}

bool med_jinja_at_name(const struct med_jinja_parser *parser, const char *name)
{
    return parser->at->kind == MED_JINJA_TOKEN_NAME && med_jinja_text_is(parser->at->text, name);
}

bool med_jinja_at_operator(const struct med_jinja_parser *parser, const char *op)
{
    return parser->at->kind == MED_JINJA_TOKEN_OPERATOR && med_jinja_text_is(parser->at->text, op);
}

bool med_jinja_take_name(struct med_jinja_parser *parser, const char *name)
{
    bool taken = med_jinja_at_name(parser, name);
    parser->at += taken ? 1 : 0;
    return taken;
}

bool med_jinja_take_operator(struct med_jinja_parser *parser, const char *op)
{
    bool taken = med_jinja_at_operator(parser, op);
    parser->at += taken ? 1 : 0;
    return taken;
}

const char *med_jinja_describe(const struct med_jinja_token *token, char *buffer, size_t bytes)
{
    int shown = token->text.bytes > 40 ? 40 : (int)token->text.bytes;
    switch (token->kind) {
    case MED_JINJA_TOKEN_END:
        return "the end of the template";
    case MED_JINJA_TOKEN_DATA:
        return "text";
    case MED_JINJA_TOKEN_BLOCK_END:
    case MED_JINJA_TOKEN_VARIABLE_END:
        return "the end of the tag";
    case MED_JINJA_TOKEN_STRING:
        return "a string";
    default:
        (void)snprintf(buffer, bytes, "%.*s", shown, token->text.data);
        return buffer;
    }
}

/* ---- helpers ---- */

static struct med_jinja_node *expected(struct med_jinja_parser *p, const char *what)
{
    char found[64];
    return med_jinja_parse_fail(p, p->at->line, "expected %s, found %s", what,
                                med_jinja_describe(p->at, found, sizeof(found)));
}

static bool need_operator(struct med_jinja_parser *p, const char *op)
{
    if (med_jinja_take_operator(p, op)) {
        return true;
    }
    (void)expected(p, op);
    return false;
}

static bool enter(struct med_jinja_parser *p)
{
    if (p->nesting >= MED_JINJA_TREE_DEPTH) {
        (void)med_jinja_parse_fail(p, p->at->line,
                                   "expressions or statements are nested more than %d deep",
                                   MED_JINJA_TREE_DEPTH);
        return false;
    }
    p->nesting++;
    return true;
}

/* A node over one or two others. */
static struct med_jinja_node *over(struct med_jinja_parser *p, enum med_jinja_node_kind kind,
                                   int line, struct med_jinja_node *a, struct med_jinja_node *b)
{
    if (!a) {
        return NULL;
    }
    struct med_jinja_node *made = med_jinja_node_new(p, kind, line);
    if (!made || !med_jinja_node_adopt(p, made, a) || (b && !med_jinja_node_adopt(p, made, b))) {
        return NULL;
    }
    made->a = a;
    made->b = b;
    return made;
}

static bool append(struct med_jinja_parser *p, struct med_jinja_node *parent,
                   struct med_jinja_node ***tail, struct med_jinja_node *item)
{
    if (!item || !med_jinja_node_adopt(p, parent, item)) {
        return false;
    }
    **tail = item;
    *tail = &item->next;
    return true;
}

static struct med_jinja_node *constant(struct med_jinja_parser *p, int line,
                                       struct med_jinja_value value)
{
    struct med_jinja_node *made = med_jinja_node_new(p, MED_JINJA_NODE_CONST, line);
    if (made) {
        made->value = value;
    }
    return made;
}

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
        if (call->argument_count > 0 && !need_operator(p, ",")) {
            return false;
        }
        if (med_jinja_take_operator(p, ")")) {
            return call->argument_count > 0 || expected(p, "an argument");
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
    return constant(p, line, med_jinja_string(data, bytes));
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
        if (list->body && !need_operator(p, ",")) {
            return NULL;
        }
        if (list->body && med_jinja_take_operator(p, "]")) {
            break;
        }
        if (!append(p, list, &tail, med_jinja_parse_expression(p, true))) {
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
        if (dict->body && !need_operator(p, ",")) {
            return NULL;
        }
        if (dict->body && med_jinja_take_operator(p, "}")) {
            break;
        }
        if (!append(p, dict, &tail, med_jinja_parse_expression(p, true)) ||
            !need_operator(p, ":") ||
            !append(p, dict, &tail, med_jinja_parse_expression(p, true))) {
            return NULL;
        }
    }
    return dict;
}

static struct med_jinja_node *parse_name(struct med_jinja_parser *p)
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
            return constant(p, line,
                            constants[i].value == 2 ? med_jinja_none()
                                                    : med_jinja_bool(constants[i].value == 1));
        }
    }
    struct med_jinja_node *made = med_jinja_node_new(p, MED_JINJA_NODE_NAME, line);
    if (made) {
        made->text = name;
    }
    return made;
}

static struct med_jinja_node *parse_primary(struct med_jinja_parser *p)
{
    const struct med_jinja_token *token = p->at;
    switch (token->kind) {
    case MED_JINJA_TOKEN_NAME:
        return parse_name(p);
    case MED_JINJA_TOKEN_STRING:
        return parse_strings(p);
    case MED_JINJA_TOKEN_INTEGER:
        p->at++;
        return constant(p, token->line, med_jinja_int(token->integer));
    case MED_JINJA_TOKEN_FLOAT:
        p->at++;
        return constant(p, token->line, med_jinja_float(token->number));
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
        return inner && need_operator(p, ")") ? inner : NULL;
    }
    return expected(p, "an expression");
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
        return expected(p, "a subscript");
    }
    if (!need_operator(p, "]")) {
        return NULL;
    }
    if (!is_slice) {
        return over(p, MED_JINJA_NODE_ITEM, line, object, bounds[0]);
    }
    struct med_jinja_node *slice = over(p, MED_JINJA_NODE_SLICE, line, object, bounds[0]);
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
        return over(p, MED_JINJA_NODE_ITEM, token->line, object,
                    constant(p, token->line, med_jinja_int(token->integer)));
    }
    if (token->kind != MED_JINJA_TOKEN_NAME) {
        return expected(p, "a name after the dot");
    }
    p->at++;
    if (token->text.bytes >= 2 && memcmp(token->text.data, "__", 2) == 0) {
        return med_jinja_parse_fail(p, token->line, "the attribute %.*s is not supported",
                                    (int)token->text.bytes, token->text.data);
    }
    bool is_call = med_jinja_at_operator(p, "(");
    struct med_jinja_node *made = over(
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
static struct med_jinja_node *parse_call(struct med_jinja_parser *p, struct med_jinja_node *callee)
{
    int line = p->at->line;
    if (callee->kind != MED_JINJA_NODE_NAME) {
        return med_jinja_parse_fail(p, line,
                                    "a call of something that is no name is not supported");
    }
    struct med_jinja_node *call = over(p, MED_JINJA_NODE_CALL, line, callee, NULL);
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

static struct med_jinja_node *parse_postfix(struct med_jinja_parser *p,
                                            struct med_jinja_node *object)
{
    while (object) {
        if (med_jinja_take_operator(p, ".")) {
            object = parse_dot(p, object);
        } else if (med_jinja_take_operator(p, "[")) {
            object = parse_subscript(p, object);
        } else if (med_jinja_at_operator(p, "(")) {
            object = parse_call(p, object);
        } else {
            break;
        }
    }
    return object;
}

static struct med_jinja_node *parse_filter(struct med_jinja_parser *p, struct med_jinja_node *value)
{
    const struct med_jinja_token *token = p->at;
    if (token->kind != MED_JINJA_TOKEN_NAME) {
        return expected(p, "the name of a filter");
    }
    p->at++;
    struct med_jinja_node *made = over(p, MED_JINJA_NODE_FILTER, token->line, value, NULL);
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
        value = parse_filter(parser, value);
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
static struct med_jinja_node *parse_test(struct med_jinja_parser *p, struct med_jinja_node *value)
{
    bool negated = med_jinja_take_name(p, "not");
    const struct med_jinja_token *token = p->at;
    if (token->kind != MED_JINJA_TOKEN_NAME) {
        return expected(p, "the name of a test");
    }
    p->at++;
    struct med_jinja_node *made = over(p, MED_JINJA_NODE_TEST, token->line, value, NULL);
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
    struct med_jinja_node *argument = parse_postfix(p, parse_primary(p));
    if (!argument || !med_jinja_node_adopt(p, made, argument)) {
        return NULL;
    }
    made->arguments[0].value = argument;
    made->argument_count = 1;
    return made;
}

/* ---- operators ---- */

static struct med_jinja_node *parse_unary(struct med_jinja_parser *p, bool filters)
{
    int line = p->at->line;
    struct med_jinja_node *made;
    if (!enter(p)) {
        return NULL;
    }
    if (med_jinja_take_operator(p, "-")) {
        made = over(p, MED_JINJA_NODE_NEGATE, line, parse_unary(p, false), NULL);
    } else if (med_jinja_take_operator(p, "+")) {
        made = over(p, MED_JINJA_NODE_PLUS, line, parse_unary(p, false), NULL);
    } else {
        made = parse_primary(p);
    }
    p->nesting--;
    made = parse_postfix(p, made);
    while (made && filters) {
        if (med_jinja_take_operator(p, "|")) {
            made = parse_filter(p, made);
        } else if (med_jinja_take_name(p, "is")) {
            made = parse_test(p, made);
        } else if (med_jinja_at_operator(p, "(")) {
            made = parse_call(p, made);
        } else {
            break;
        }
    }
    return made;
}

/* Left-associative operators of one level. */
struct level {
    const char *text;
    enum med_jinja_op op;
};

static bool take_level(struct med_jinja_parser *p, const struct level *levels,
                       enum med_jinja_op *ret_op)
{
    for (; levels->text; levels++) {
        if (med_jinja_take_operator(p, levels->text)) {
            *ret_op = levels->op;
            return true;
        }
    }
    return false;
}

static struct med_jinja_node *
parse_binary(struct med_jinja_parser *p, const struct level *levels,
             struct med_jinja_node *(*operand)(struct med_jinja_parser *))
{
    struct med_jinja_node *left = operand(p);
    enum med_jinja_op op = MED_JINJA_ADD;
    int line = p->at->line;
    while (left && take_level(p, levels, &op)) {
        struct med_jinja_node *right = operand(p);
        left = right ? over(p, MED_JINJA_NODE_BINARY, line, left, right) : NULL;
        if (left) {
            left->op = op;
        }
        line = p->at->line;
    }
    return left;
}

static struct med_jinja_node *parse_unary_filtered(struct med_jinja_parser *p)
{
    return parse_unary(p, true);
}

static struct med_jinja_node *parse_power(struct med_jinja_parser *p)
{
    static const struct level levels[] = {{"**", MED_JINJA_POW}, {NULL, MED_JINJA_POW}};
    return parse_binary(p, levels, parse_unary_filtered);
}

static struct med_jinja_node *parse_product(struct med_jinja_parser *p)
{
    static const struct level levels[] = {{"*", MED_JINJA_MUL},
                                          {"/", MED_JINJA_DIV},
                                          {"//", MED_JINJA_FLOOR_DIV},
                                          {"%", MED_JINJA_MOD},
                                          {NULL, MED_JINJA_MUL}};
    return parse_binary(p, levels, parse_power);
}

static struct med_jinja_node *parse_concat(struct med_jinja_parser *p)
{
    int line = p->at->line;
    struct med_jinja_node *first = parse_product(p);
    if (!first || !med_jinja_at_operator(p, "~")) {
        return first;
    }
    struct med_jinja_node *concat = med_jinja_node_new(p, MED_JINJA_NODE_CONCAT, line);
    if (!concat) {
        return NULL;
    }
    struct med_jinja_node **tail = &concat->body;
    if (!append(p, concat, &tail, first)) {
        return NULL;
    }
    while (med_jinja_take_operator(p, "~")) {
        if (!append(p, concat, &tail, parse_product(p))) {
            return NULL;
        }
    }
    return concat;
}

static struct med_jinja_node *parse_sum(struct med_jinja_parser *p)
{
    static const struct level levels[] = {
        {"+", MED_JINJA_ADD}, {"-", MED_JINJA_SUB}, {NULL, MED_JINJA_ADD}};
    return parse_binary(p, levels, parse_concat);
}

static bool take_comparison(struct med_jinja_parser *p, enum med_jinja_op *ret_op)
{
    static const struct level levels[] = {
        {"==", MED_JINJA_EQ}, {"!=", MED_JINJA_NE}, {"<=", MED_JINJA_LE}, {">=", MED_JINJA_GE},
        {"<", MED_JINJA_LT},  {">", MED_JINJA_GT},  {NULL, MED_JINJA_EQ}};
    if (take_level(p, levels, ret_op)) {
        return true;
    }
    if (med_jinja_take_name(p, "in")) {
        *ret_op = MED_JINJA_IN;
        return true;
    }
    if (med_jinja_at_name(p, "not") && p->at[1].kind == MED_JINJA_TOKEN_NAME &&
        med_jinja_text_is(p->at[1].text, "in")) {
        p->at += 2;
        *ret_op = MED_JINJA_NOT_IN;
        return true;
    }
    return false;
}

static struct med_jinja_node *parse_comparison(struct med_jinja_parser *p)
{
    int line = p->at->line;
    struct med_jinja_node *first = parse_sum(p);
    struct med_jinja_node *compare = NULL;
    struct med_jinja_node **tail = NULL;
    enum med_jinja_op op = MED_JINJA_EQ;
    while (first && take_comparison(p, &op)) {
        struct med_jinja_node *right = parse_sum(p);
        if (!compare) {
            compare = right ? over(p, MED_JINJA_NODE_COMPARE, line, first, NULL) : NULL;
            tail = compare ? &compare->body : NULL;
        }
        if (!compare) {
            return NULL;
        }
        /* The operator stands with its right side, in a node that is not shared with a value. */
        struct med_jinja_node *side = over(p, MED_JINJA_NODE_COMPARE, line, right, NULL);
        if (!append(p, compare, &tail, side)) {
            return NULL;
        }
        side->op = op;
    }
    return compare ? compare : first;
}

static struct med_jinja_node *parse_not(struct med_jinja_parser *p)
{
    int line = p->at->line;
    if (!med_jinja_take_name(p, "not")) {
        return parse_comparison(p);
    }
    if (!enter(p)) {
        return NULL;
    }
    struct med_jinja_node *made = over(p, MED_JINJA_NODE_NOT, line, parse_not(p), NULL);
    p->nesting--;
    return made;
}

static struct med_jinja_node *parse_and(struct med_jinja_parser *p)
{
    struct med_jinja_node *left = parse_not(p);
    int line = p->at->line;
    while (left && med_jinja_take_name(p, "and")) {
        struct med_jinja_node *right = parse_not(p);
        left = right ? over(p, MED_JINJA_NODE_AND, line, left, right) : NULL;
    }
    return left;
}

static struct med_jinja_node *parse_or(struct med_jinja_parser *p)
{
    struct med_jinja_node *left = parse_and(p);
    int line = p->at->line;
    while (left && med_jinja_take_name(p, "or")) {
        struct med_jinja_node *right = parse_and(p);
        left = right ? over(p, MED_JINJA_NODE_OR, line, left, right) : NULL;
    }
    return left;
}

struct med_jinja_node *med_jinja_parse_expression(struct med_jinja_parser *parser, bool choose)
{
    if (!enter(parser)) {
        return NULL;
    }
    struct med_jinja_node *value = parse_or(parser);
    while (value && choose && med_jinja_take_name(parser, "if")) {
        int line = parser->at->line;
        struct med_jinja_node *condition = parse_or(parser);
        struct med_jinja_node *made =
            condition ? over(parser, MED_JINJA_NODE_CHOOSE, line, condition, value) : NULL;
        if (made && med_jinja_take_name(parser, "else")) {
            made->c = med_jinja_parse_expression(parser, true);
            if (!made->c || !med_jinja_node_adopt(parser, made, made->c)) {
                made = NULL;
            }
        }
        value = made;
    }
    parser->nesting--;
    return value;
}

/* Where a tuple without parentheses ends. */
static bool at_tuple_end(const struct med_jinja_parser *p)
{
    return p->at->kind == MED_JINJA_TOKEN_VARIABLE_END ||
           p->at->kind == MED_JINJA_TOKEN_BLOCK_END || med_jinja_at_operator(p, ")") ||
           med_jinja_at_name(p, "in") || med_jinja_at_name(p, "recursive");
}

struct med_jinja_node *med_jinja_parse_tuple(struct med_jinja_parser *parser, bool choose,
                                             bool in_parentheses)
{
    int line = parser->at->line;
    if (at_tuple_end(parser) && !in_parentheses) {
        return expected(parser, "an expression");
    }
    struct med_jinja_node *first = NULL;
    if (!at_tuple_end(parser)) {
        first = med_jinja_parse_expression(parser, choose);
        if (!first || !med_jinja_at_operator(parser, ",")) {
            return first;
        }
    }
    struct med_jinja_node *tuple = med_jinja_node_new(parser, MED_JINJA_NODE_TUPLE, line);
    if (!tuple) {
        return NULL;
    }
    struct med_jinja_node **tail = &tuple->body;
    if (first && !append(parser, tuple, &tail, first)) {
        return NULL;
    }
    while (med_jinja_take_operator(parser, ",")) {
        if (at_tuple_end(parser)) {
            break;
        }
        if (!append(parser, tuple, &tail, med_jinja_parse_expression(parser, choose))) {
            return NULL;
        }
    }
    return tuple;
}

static struct med_jinja_node *parse_one_target(struct med_jinja_parser *p, bool with_attributes)
{
    if (p->at->kind != MED_JINJA_TOKEN_NAME) {
        return expected(p, "a name to assign to");
    }
    struct med_jinja_node *made = parse_name(p);
    if (made && made->kind != MED_JINJA_NODE_NAME) {
        return med_jinja_parse_fail(p, made->line, "a constant cannot be assigned to");
    }
    if (!made || !with_attributes || !med_jinja_take_operator(p, ".")) {
        return made;
    }
    if (p->at->kind != MED_JINJA_TOKEN_NAME) {
        return expected(p, "a name after the dot");
    }
    if (p->at->text.data[0] == '_') {
        return med_jinja_parse_fail(p, p->at->line,
                                    "the attribute %.*s cannot be set: it starts with _",
                                    (int)p->at->text.bytes, p->at->text.data);
    }
    struct med_jinja_node *attribute = over(p, MED_JINJA_NODE_ATTRIBUTE, made->line, made, NULL);
    if (attribute) {
        attribute->text = p->at->text;
        p->at++;
    }
    return attribute;
}

struct med_jinja_node *med_jinja_parse_target(struct med_jinja_parser *parser, bool with_attributes)
{
    bool in_parentheses = med_jinja_take_operator(parser, "(");
    struct med_jinja_node *first = parse_one_target(parser, with_attributes);
    if (first && med_jinja_at_operator(parser, ",")) {
        struct med_jinja_node *tuple =
            med_jinja_node_new(parser, MED_JINJA_NODE_TUPLE, first->line);
        struct med_jinja_node **tail = tuple ? &tuple->body : NULL;
        if (!tuple || !append(parser, tuple, &tail, first)) {
            return NULL;
        }
        while (med_jinja_take_operator(parser, ",")) {
            if (at_tuple_end(parser) || med_jinja_at_operator(parser, "=")) {
                break;
            }
            if (!append(parser, tuple, &tail, parse_one_target(parser, with_attributes))) {
                return NULL;
            }
        }
        first = tuple;
    }
    if (first && in_parentheses && !need_operator(parser, ")")) {
        return NULL;
    }
    return first;
}
