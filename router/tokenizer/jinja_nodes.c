/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parsers of statements and expressions share: the token at hand, and making nodes.
 *
 * Every node knows the height of the tree below it and every level of descent is counted; both are
 * bounded by MED_JINJA_TREE_DEPTH, so neither the parsers' recursion nor the evaluator's follows the
 * input.  thread: the caller's.  Knows no grammar.
 */
#include "router/tokenizer/jinja.h"

#include <stdarg.h>
#include <stdio.h>

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

struct med_jinja_node *med_jinja_parse_expected(struct med_jinja_parser *p, const char *what)
{
    char found[64];
    return med_jinja_parse_fail(p, p->at->line, "expected %s, found %s", what,
                                med_jinja_describe(p->at, found, sizeof(found)));
}

bool med_jinja_need_operator(struct med_jinja_parser *p, const char *op)
{
    if (med_jinja_take_operator(p, op)) {
        return true;
    }
    (void)med_jinja_parse_expected(p, op);
    return false;
}

bool med_jinja_parse_enter(struct med_jinja_parser *p)
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
struct med_jinja_node *med_jinja_node_over(struct med_jinja_parser *p,
                                           enum med_jinja_node_kind kind, int line,
                                           struct med_jinja_node *a, struct med_jinja_node *b)
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

bool med_jinja_node_append(struct med_jinja_parser *p, struct med_jinja_node *parent,
                           struct med_jinja_node ***tail, struct med_jinja_node *item)
{
    if (!item || !med_jinja_node_adopt(p, parent, item)) {
        return false;
    }
    **tail = item;
    *tail = &item->next;
    return true;
}

struct med_jinja_node *med_jinja_node_constant(struct med_jinja_parser *p, int line,
                                               struct med_jinja_value value)
{
    struct med_jinja_node *made = med_jinja_node_new(p, MED_JINJA_NODE_CONST, line);
    if (made) {
        made->value = value;
    }
    return made;
}
