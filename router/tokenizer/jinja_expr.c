/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parser of expressions: recursive descent, by Jinja's precedence, loosest first:
 *     x if c else y | or | and | not | comparison, in | + - | ~ | * / // % | ** | unary | primary
 * and of tuples and what can be assigned to.  What stands between operators is jinja_primary.c's.
 * Every level of descent is counted, as jinja_nodes.c says.
 * thread: the caller's.
 */
#include "router/tokenizer/jinja.h"

static struct med_jinja_node *parse_or(struct med_jinja_parser *p);

static struct med_jinja_node *parse_unary(struct med_jinja_parser *p, bool filters)
{
    int line = p->at->line;
    struct med_jinja_node *made;
    if (!med_jinja_parse_enter(p)) {
        return NULL;
    }
    if (med_jinja_take_operator(p, "-")) {
        made = med_jinja_node_over(p, MED_JINJA_NODE_NEGATE, line, parse_unary(p, false), NULL);
    } else if (med_jinja_take_operator(p, "+")) {
        made = med_jinja_node_over(p, MED_JINJA_NODE_PLUS, line, parse_unary(p, false), NULL);
    } else {
        made = med_jinja_parse_primary(p);
    }
    p->nesting--;
    made = med_jinja_parse_postfix(p, made);
    while (made && filters) {
        if (med_jinja_take_operator(p, "|")) {
            made = med_jinja_parse_filter(p, made);
        } else if (med_jinja_take_name(p, "is")) {
            made = med_jinja_parse_test(p, made);
        } else if (med_jinja_at_operator(p, "(")) {
            made = med_jinja_parse_call(p, made);
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
        left = right ? med_jinja_node_over(p, MED_JINJA_NODE_BINARY, line, left, right) : NULL;
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
    if (!med_jinja_node_append(p, concat, &tail, first)) {
        return NULL;
    }
    while (med_jinja_take_operator(p, "~")) {
        if (!med_jinja_node_append(p, concat, &tail, parse_product(p))) {
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
            compare =
                right ? med_jinja_node_over(p, MED_JINJA_NODE_COMPARE, line, first, NULL) : NULL;
            tail = compare ? &compare->body : NULL;
        }
        if (!compare) {
            return NULL;
        }
        /* The operator stands with its right side, in a node that is not shared with a value. */
        struct med_jinja_node *side =
            med_jinja_node_over(p, MED_JINJA_NODE_COMPARE, line, right, NULL);
        if (!med_jinja_node_append(p, compare, &tail, side)) {
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
    if (!med_jinja_parse_enter(p)) {
        return NULL;
    }
    struct med_jinja_node *made =
        med_jinja_node_over(p, MED_JINJA_NODE_NOT, line, parse_not(p), NULL);
    p->nesting--;
    return made;
}

static struct med_jinja_node *parse_and(struct med_jinja_parser *p)
{
    struct med_jinja_node *left = parse_not(p);
    int line = p->at->line;
    while (left && med_jinja_take_name(p, "and")) {
        struct med_jinja_node *right = parse_not(p);
        left = right ? med_jinja_node_over(p, MED_JINJA_NODE_AND, line, left, right) : NULL;
    }
    return left;
}

static struct med_jinja_node *parse_or(struct med_jinja_parser *p)
{
    struct med_jinja_node *left = parse_and(p);
    int line = p->at->line;
    while (left && med_jinja_take_name(p, "or")) {
        struct med_jinja_node *right = parse_and(p);
        left = right ? med_jinja_node_over(p, MED_JINJA_NODE_OR, line, left, right) : NULL;
    }
    return left;
}

struct med_jinja_node *med_jinja_parse_expression(struct med_jinja_parser *parser, bool choose)
{
    if (!med_jinja_parse_enter(parser)) {
        return NULL;
    }
    struct med_jinja_node *value = parse_or(parser);
    while (value && choose && med_jinja_take_name(parser, "if")) {
        int line = parser->at->line;
        struct med_jinja_node *condition = parse_or(parser);
        struct med_jinja_node *made =
            condition ? med_jinja_node_over(parser, MED_JINJA_NODE_CHOOSE, line, condition, value)
                      : NULL;
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
        return med_jinja_parse_expected(parser, "an expression");
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
    if (first && !med_jinja_node_append(parser, tuple, &tail, first)) {
        return NULL;
    }
    while (med_jinja_take_operator(parser, ",")) {
        if (at_tuple_end(parser)) {
            break;
        }
        if (!med_jinja_node_append(parser, tuple, &tail,
                                   med_jinja_parse_expression(parser, choose))) {
            return NULL;
        }
    }
    return tuple;
}

static struct med_jinja_node *parse_one_target(struct med_jinja_parser *p, bool with_attributes)
{
    if (p->at->kind != MED_JINJA_TOKEN_NAME) {
        return med_jinja_parse_expected(p, "a name to assign to");
    }
    struct med_jinja_node *made = med_jinja_parse_name(p);
    if (made && made->kind != MED_JINJA_NODE_NAME) {
        return med_jinja_parse_fail(p, made->line, "a constant cannot be assigned to");
    }
    if (!made || !with_attributes || !med_jinja_take_operator(p, ".")) {
        return made;
    }
    if (p->at->kind != MED_JINJA_TOKEN_NAME) {
        return med_jinja_parse_expected(p, "a name after the dot");
    }
    if (p->at->text.data[0] == '_') {
        return med_jinja_parse_fail(p, p->at->line,
                                    "the attribute %.*s cannot be set: it starts with _",
                                    (int)p->at->text.bytes, p->at->text.data);
    }
    struct med_jinja_node *attribute =
        med_jinja_node_over(p, MED_JINJA_NODE_ATTRIBUTE, made->line, made, NULL);
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
        if (!tuple || !med_jinja_node_append(parser, tuple, &tail, first)) {
            return NULL;
        }
        while (med_jinja_take_operator(parser, ",")) {
            if (at_tuple_end(parser) || med_jinja_at_operator(parser, "=")) {
                break;
            }
            if (!med_jinja_node_append(parser, tuple, &tail,
                                       parse_one_target(parser, with_attributes))) {
                return NULL;
            }
        }
        first = tuple;
    }
    if (first && in_parentheses && !med_jinja_need_operator(parser, ")")) {
        return NULL;
    }
    return first;
}
