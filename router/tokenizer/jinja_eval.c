/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a program: walks its tree, writing text to a buffer.
 *
 * A loop's body has a scope of its own in each turn, so what is set there is gone after it; if has
 * none; macros see the scope that they were defined in.  Every node costs a step and counts in the
 * depth while it is evaluated; both are bounded, and so are memory and output.
 * thread: the caller's.  Does not know names (jinja_scope.c), nor the
 * single filters, tests, methods and functions.
 */
#include "base/assert.h"
#include "base/limits.h"
#include "router/tokenizer/jinja.h"

/* How a list of statements ended. */
enum outcome {
    OUTCOME_DONE,
    OUTCOME_BREAK,
    OUTCOME_CONTINUE,
};

static int run_body(struct med_jinja_eval *eval, const struct med_jinja_node *first);

/* ---- calls ---- */

static int evaluate_arguments(struct med_jinja_eval *eval, const struct med_jinja_node *node,
                              struct med_jinja_call *call)
{
    int rc = 0;
    call->count = 0;
    call->named_count = 0;
    for (size_t i = 0; rc == 0 && i < node->argument_count; i++) {
        const struct med_jinja_argument *argument = &node->arguments[i];
        struct med_jinja_value value = med_jinja_none();
        rc = med_jinja_expression(eval, argument->value, &value);
        if (rc < 0) {
            return rc;
        }
        if (argument->name.bytes == 0) {
            call->positional[call->count++] = value;
        } else {
            call->named[call->named_count].name = argument->name;
            call->named[call->named_count++].value = value;
        }
    }
    eval->line = node->line;
    return rc;
}

/* NULL: no argument of this name; the parser saw to it that there are no two. */
static const struct med_jinja_value *find_named(const struct med_jinja_call *call,
                                                struct med_jinja_text name)
{
    for (size_t i = 0; i < call->named_count; i++) {
        if (med_jinja_text_equal(call->named[i].name, name)) {
            return &call->named[i].value;
        }
    }
    return NULL;
}

static int bind_parameters(struct med_jinja_eval *eval, const struct med_jinja_node *macro,
                           const struct med_jinja_call *call)
{
    size_t used = 0;
    int rc = 0;
    if (call->count > macro->argument_count) {
        return med_jinja_fail(eval, MED_E_INVALID, "the macro %.*s takes %zu arguments, not %zu",
                              (int)macro->text.bytes, macro->text.data, macro->argument_count,
                              call->count);
    }
    for (size_t i = 0; rc == 0 && i < macro->argument_count; i++) {
        const struct med_jinja_argument *parameter = &macro->arguments[i];
        struct med_jinja_value value = med_jinja_undefined(parameter->name);
        bool given = i < call->count;
        if (given) {
            value = call->positional[i];
        }
        const struct med_jinja_value *named = find_named(call, parameter->name);
        if (given && named) {
            return med_jinja_fail(eval, MED_E_INVALID, "an argument is given twice: %.*s",
                                  (int)parameter->name.bytes, parameter->name.data);
        }
        if (named) {
            value = *named;
            used++;
        } else if (!given && parameter->value) {
            rc = med_jinja_expression(eval, parameter->value, &value);
        }
        rc = rc < 0 ? rc : med_jinja_bind(eval, parameter->name, value);
    }
    if (rc == 0 && used < call->named_count) {
        return med_jinja_fail(eval, MED_E_INVALID, "the macro %.*s has no such named argument",
                              (int)macro->text.bytes, macro->text.data);
    }
    return rc;
}

/* Runs statements in the scope at hand, their text to a string. */
static int capture(struct med_jinja_eval *eval, const struct med_jinja_node *body,
                   struct med_jinja_value *ret_value)
{
    struct med_buf text;
    struct med_buf *out = eval->out;
    med_buf_init(&text, MED_LIMIT_PROMPT_BYTES);
    eval->out = &text;
    int rc = run_body(eval, body);
    eval->out = out;
    if (rc >= 0) {
        MED_ASSERT(rc == OUTCOME_DONE); // the parser keeps break and continue inside
        rc = med_jinja_keep(eval, &text, ret_value);
    }
    med_buf_release(&text);
    return rc;
}

static int call_macro(struct med_jinja_eval *eval, const struct med_jinja_macro *macro,
                      const struct med_jinja_call *call, struct med_jinja_value *ret_value)
{
    struct med_jinja_scope *caller = eval->scope;
    int rc = med_jinja_open_scope(eval, macro->scope);
    rc = rc < 0 ? rc : bind_parameters(eval, macro->node, call);
    rc = rc < 0 ? rc : capture(eval, macro->node->body, ret_value);
    eval->scope = caller;
    return rc;
}

static int evaluate_call(struct med_jinja_eval *eval, const struct med_jinja_node *node,
                         struct med_jinja_value *ret_value)
{
    struct med_jinja_value callee = med_jinja_none();
    struct med_jinja_call call;
    int rc = med_jinja_look_up(eval, node->a->text, &callee);
    rc = rc < 0 ? rc : evaluate_arguments(eval, node, &call);
    if (rc < 0) {
        return rc;
    }
    if (callee.kind == MED_JINJA_MACRO) {
        return call_macro(eval, callee.as.macro, &call, ret_value);
    }
    if (callee.kind == MED_JINJA_FUNCTION) {
        return med_jinja_function_apply(eval, callee.as.function, &call, ret_value);
    }
    return med_jinja_fail(eval, MED_E_INVALID, "%.*s is %s, which cannot be called",
                          (int)node->a->text.bytes, node->a->text.data,
                          med_jinja_kind_name(callee.kind));
}

/* A filter, test or method: the value first, then the arguments. */
static int evaluate_apply(struct med_jinja_eval *eval, const struct med_jinja_node *node,
                          struct med_jinja_value *ret_value)
{
    struct med_jinja_value value = med_jinja_none();
    struct med_jinja_call call;
    int rc = med_jinja_expression(eval, node->a, &value);
    rc = rc < 0 ? rc : evaluate_arguments(eval, node, &call);
    if (rc < 0) {
        return rc;
    }
    if (node->kind == MED_JINJA_NODE_FILTER) {
        return med_jinja_filter_apply(eval, node->index, &value, &call, ret_value);
    }
    if (node->kind == MED_JINJA_NODE_METHOD) {
        return med_jinja_method_apply(eval, node->index, &value, &call, ret_value);
    }
    bool truth = false;
    rc = med_jinja_test_apply(eval, node->index, &value, &call, &truth);
    *ret_value = med_jinja_bool(truth != node->negated);
    return rc;
}

/* ---- expressions ---- */

static int evaluate_items(struct med_jinja_eval *eval, const struct med_jinja_node *node,
                          struct med_jinja_value *ret_value)
{
    size_t count = 0;
    for (const struct med_jinja_node *item = node->body; item; item = item->next) {
        count++;
    }
    enum med_jinja_kind kind = node->kind == MED_JINJA_NODE_LIST ? MED_JINJA_LIST : MED_JINJA_TUPLE;
    struct med_jinja_value list = med_jinja_none();
    int rc = med_jinja_sequence_new(eval, kind, count, &list);
    for (const struct med_jinja_node *item = node->body; rc == 0 && item; item = item->next) {
        struct med_jinja_value value = med_jinja_none();
        rc = med_jinja_expression(eval, item, &value);
        rc = rc < 0 ? rc : med_jinja_sequence_add(eval, list.as.sequence, &value);
    }
    if (rc == 0) {
        *ret_value = list;
    }
    return rc;
}

static int evaluate_dict(struct med_jinja_eval *eval, const struct med_jinja_node *node,
                         struct med_jinja_value *ret_value)
{
    struct med_jinja_value dict = med_jinja_none();
    int rc = med_jinja_dict_new(eval, 0, &dict);
    for (const struct med_jinja_node *item = node->body; rc == 0 && item; item = item->next->next) {
        struct med_jinja_value key = med_jinja_none();
        struct med_jinja_value value = med_jinja_none();
        rc = med_jinja_expression(eval, item, &key);
        rc = rc < 0 ? rc : med_jinja_expression(eval, item->next, &value);
        rc = rc < 0 ? rc : med_jinja_dict_set(eval, dict.as.dict, &key, &value);
    }
    if (rc == 0) {
        *ret_value = dict;
    }
    return rc;
}

static int evaluate_slice(struct med_jinja_eval *eval, const struct med_jinja_node *node,
                          struct med_jinja_value *ret_value)
{
    const struct med_jinja_node *nodes[3] = {node->b, node->c, node->d};
    const struct med_jinja_value *bounds[3] = {NULL, NULL, NULL};
    struct med_jinja_value values[3];
    struct med_jinja_value object = med_jinja_none();
    int rc = med_jinja_expression(eval, node->a, &object);
    for (int i = 0; rc == 0 && i < 3; i++) {
        if (nodes[i]) {
            rc = med_jinja_expression(eval, nodes[i], &values[i]);
            bounds[i] = &values[i];
        }
    }
    return rc < 0 ? rc : med_jinja_slice(eval, &object, bounds, ret_value);
}

static int evaluate_concat(struct med_jinja_eval *eval, const struct med_jinja_node *node,
                           struct med_jinja_value *ret_value)
{
    struct med_jinja_value all = med_jinja_string("", 0);
    int rc = 0;
    for (const struct med_jinja_node *item = node->body; rc == 0 && item; item = item->next) {
        struct med_jinja_value value = med_jinja_none();
        struct med_jinja_text text;
        rc = med_jinja_expression(eval, item, &value);
        rc = rc < 0 ? rc : med_jinja_to_text(eval, &value, &text);
        rc = rc < 0 ? rc : med_jinja_concat(eval, all.as.text, text, &all);
    }
    *ret_value = all;
    return rc;
}

static int evaluate_compare(struct med_jinja_eval *eval, const struct med_jinja_node *node,
                            struct med_jinja_value *ret_value)
{
    struct med_jinja_value left = med_jinja_none();
    int rc = med_jinja_expression(eval, node->a, &left);
    bool truth = true;
    for (const struct med_jinja_node *side = node->body; rc == 0 && truth && side;
         side = side->next) {
        struct med_jinja_value right = med_jinja_none();
        rc = med_jinja_expression(eval, side->a, &right);
        rc = rc < 0 ? rc : med_jinja_compare(eval, side->op, &left, &right, &truth);
        left = right;
    }
    *ret_value = med_jinja_bool(truth);
    return rc;
}

static int evaluate_sign(struct med_jinja_eval *eval, const struct med_jinja_node *node,
                         struct med_jinja_value *ret_value)
{
    struct med_jinja_value value = med_jinja_none();
    int rc = med_jinja_expression(eval, node->a, &value);
    if (rc < 0) {
        return rc;
    }
    if (!med_jinja_is_number(&value)) {
        return med_jinja_fail(eval, MED_E_INVALID, "%s has no sign",
                              med_jinja_kind_name(value.kind));
    }
    bool negate = node->kind == MED_JINJA_NODE_NEGATE;
    if (value.kind == MED_JINJA_FLOAT) {
        *ret_value = med_jinja_float(negate ? -value.as.number : value.as.number);
        return 0;
    }
    struct med_jinja_value zero = med_jinja_int(0);
    return med_jinja_binary(eval, negate ? MED_JINJA_SUB : MED_JINJA_ADD, &zero, &value, ret_value);
}

/* and, or, not, if-else: what they evaluate depends on the first. */
static int evaluate_logic(struct med_jinja_eval *eval, const struct med_jinja_node *node,
                          struct med_jinja_value *ret_value)
{
    struct med_jinja_value first = med_jinja_none();
    int rc = med_jinja_expression(eval, node->a, &first);
    if (rc < 0) {
        return rc;
    }
    bool truth = med_jinja_truth(&first);
    switch (node->kind) {
    case MED_JINJA_NODE_NOT:
        *ret_value = med_jinja_bool(!truth);
        return 0;
    case MED_JINJA_NODE_CHOOSE:
        if (truth) {
            return med_jinja_expression(eval, node->b, ret_value);
        }
        if (node->c) {
            return med_jinja_expression(eval, node->c, ret_value);
        }
        *ret_value = med_jinja_undefined(med_jinja_text("the value of an if without else"));
        return 0;
    default:
        if (truth == (node->kind == MED_JINJA_NODE_AND)) {
            return med_jinja_expression(eval, node->b, ret_value);
        }
        *ret_value = first;
        return 0;
    }
}

static int evaluate_two(struct med_jinja_eval *eval, const struct med_jinja_node *node,
                        struct med_jinja_value *ret_value)
{
    struct med_jinja_value a = med_jinja_none();
    struct med_jinja_value b = med_jinja_none();
    int rc = med_jinja_expression(eval, node->a, &a);
    if (rc < 0) {
        return rc;
    }
    if (node->kind == MED_JINJA_NODE_ATTRIBUTE) {
        return med_jinja_attribute(eval, &a, node->text, ret_value);
    }
    rc = med_jinja_expression(eval, node->b, &b);
    eval->line = node->line;
    if (rc < 0) {
        return rc;
    }
    return node->kind == MED_JINJA_NODE_ITEM ? med_jinja_item(eval, &a, &b, ret_value)
                                             : med_jinja_binary(eval, node->op, &a, &b, ret_value);
}

static int evaluate(struct med_jinja_eval *eval, const struct med_jinja_node *node,
                    struct med_jinja_value *ret_value)
{
    switch (node->kind) {
    case MED_JINJA_NODE_CONST:
        *ret_value = node->value;
        return 0;
    case MED_JINJA_NODE_NAME:
        return med_jinja_look_up(eval, node->text, ret_value);
    case MED_JINJA_NODE_CAPTURED:
        *ret_value = eval->captured;
        return 0;
    case MED_JINJA_NODE_LIST:
    case MED_JINJA_NODE_TUPLE:
        return evaluate_items(eval, node, ret_value);
    case MED_JINJA_NODE_DICT:
        return evaluate_dict(eval, node, ret_value);
    case MED_JINJA_NODE_ATTRIBUTE:
    case MED_JINJA_NODE_ITEM:
    case MED_JINJA_NODE_BINARY:
        return evaluate_two(eval, node, ret_value);
    case MED_JINJA_NODE_SLICE:
        return evaluate_slice(eval, node, ret_value);
    case MED_JINJA_NODE_CALL:
        return evaluate_call(eval, node, ret_value);
    case MED_JINJA_NODE_METHOD:
    case MED_JINJA_NODE_FILTER:
    case MED_JINJA_NODE_TEST:
        return evaluate_apply(eval, node, ret_value);
    case MED_JINJA_NODE_NEGATE:
    case MED_JINJA_NODE_PLUS:
        return evaluate_sign(eval, node, ret_value);
    case MED_JINJA_NODE_CONCAT:
        return evaluate_concat(eval, node, ret_value);
    case MED_JINJA_NODE_COMPARE:
        return evaluate_compare(eval, node, ret_value);
    default:
        return evaluate_logic(eval, node, ret_value);
    }
}

int med_jinja_expression(struct med_jinja_eval *eval, const struct med_jinja_node *node,
                         struct med_jinja_value *ret_value)
{
    int rc = med_jinja_enter(eval, node);
    if (rc == 0) {
        rc = evaluate(eval, node, ret_value);
        eval->depth--;
    }
    return rc;
}

/* ---- statements ---- */

static int write_text(struct med_jinja_eval *eval, struct med_jinja_text text)
{
    int rc = med_jinja_spend(eval, text.bytes / 64);
    rc = rc < 0 ? rc : med_buf_append(eval->out, text.data, text.bytes);
    if (rc == MED_E_LIMIT) {
        return med_jinja_fail(eval, rc, "the prompt is longer than %d bytes",
                              MED_LIMIT_PROMPT_BYTES);
    }
    return rc;
}

static int run_output(struct med_jinja_eval *eval, const struct med_jinja_node *node)
{
    struct med_jinja_value value = med_jinja_none();
    struct med_jinja_text text;
    int rc = med_jinja_expression(eval, node->a, &value);
    eval->line = node->line;
    rc = rc < 0 ? rc : med_jinja_to_text(eval, &value, &text);
    return rc < 0 ? rc : write_text(eval, text);
}

static int run_if(struct med_jinja_eval *eval, const struct med_jinja_node *branch)
{
    for (;;) {
        struct med_jinja_value condition = med_jinja_none();
        int rc = med_jinja_expression(eval, branch->a, &condition);
        if (rc < 0) {
            return rc;
        }
        if (med_jinja_truth(&condition)) {
            return run_body(eval, branch->body);
        }
        const struct med_jinja_node *next = branch->else_;
        if (!next || next->kind != MED_JINJA_NODE_IF || !branch->negated) {
            return run_body(eval, next);
        }
        branch = next;
    }
}

/* The items that the loop's own condition lets through. */
static int filter_items(struct med_jinja_eval *eval, const struct med_jinja_node *node,
                        struct med_jinja_sequence *items)
{
    struct med_jinja_scope *scope = eval->scope;
    struct med_jinja_value kept = med_jinja_none();
    int rc = med_jinja_sequence_new(eval, MED_JINJA_LIST, items->count, &kept);
    for (size_t i = 0; rc == 0 && i < items->count; i++) {
        struct med_jinja_value condition = med_jinja_none();
        rc = med_jinja_open_scope(eval, scope);
        rc = rc < 0 ? rc : med_jinja_assign(eval, node->a, items->items[i]);
        rc = rc < 0 ? rc : med_jinja_expression(eval, node->c, &condition);
        if (rc == 0 && med_jinja_truth(&condition)) {
            rc = med_jinja_sequence_add(eval, kept.as.sequence, &items->items[i]);
        }
        eval->scope = scope;
    }
    if (rc == 0) {
        *items = *kept.as.sequence;
    }
    return rc;
}

static int run_turns(struct med_jinja_eval *eval, const struct med_jinja_node *node,
                     const struct med_jinja_sequence *items)
{
    struct med_jinja_scope *scope = eval->scope;
    struct med_jinja_loop *loop = med_jinja_arena_alloc(&eval->arena, 1, sizeof(*loop));
    if (!loop) {
        return med_jinja_fail_memory(eval);
    }
    *loop = (struct med_jinja_loop){.items = items->items, .count = items->count};
    struct med_jinja_value value = {.kind = MED_JINJA_LOOP, .as.loop = loop};
    int rc = 0;
    for (size_t i = 0; rc >= 0 && i < items->count; i++) {
        loop->index = i;
        rc = med_jinja_open_scope(eval, scope);
        rc = rc < 0 ? rc : med_jinja_bind(eval, med_jinja_text("loop"), value);
        rc = rc < 0 ? rc : med_jinja_assign(eval, node->a, items->items[i]);
        rc = rc < 0 ? rc : run_body(eval, node->body);
        eval->scope = scope;
        if (rc == OUTCOME_BREAK) {
            break;
        }
    }
    return rc < 0 ? rc : OUTCOME_DONE;
}

static int run_for(struct med_jinja_eval *eval, const struct med_jinja_node *node)
{
    struct med_jinja_value value = med_jinja_none();
    struct med_jinja_sequence items;
    int rc = med_jinja_expression(eval, node->b, &value);
    eval->line = node->line;
    rc = rc < 0 ? rc : med_jinja_iterate(eval, &value, &items);
    if (rc == 0 && node->c) {
        rc = filter_items(eval, node, &items);
    }
    if (rc < 0) {
        return rc;
    }
    if (items.count > 0) {
        return run_turns(eval, node, &items);
    }
    struct med_jinja_scope *scope = eval->scope;
    rc = node->else_ ? med_jinja_open_scope(eval, scope) : 0;
    rc = rc < 0 ? rc : run_body(eval, node->else_);
    eval->scope = scope;
    return rc;
}

static int run_set(struct med_jinja_eval *eval, const struct med_jinja_node *node)
{
    struct med_jinja_value value = med_jinja_none();
    int rc;
    if (node->kind == MED_JINJA_NODE_SET) {
        rc = med_jinja_expression(eval, node->b, &value);
    } else {
        struct med_jinja_scope *scope = eval->scope;
        rc = med_jinja_open_scope(eval, scope);
        rc = rc < 0 ? rc : capture(eval, node->body, &value);
        eval->scope = scope;
        if (rc == 0 && node->b) {
            eval->captured = value;
            rc = med_jinja_expression(eval, node->b, &value);
        }
    }
    eval->line = node->line;
    return rc < 0 ? rc : med_jinja_assign(eval, node->a, value);
}

static int run_macro(struct med_jinja_eval *eval, const struct med_jinja_node *node)
{
    struct med_jinja_macro *macro = med_jinja_arena_alloc(&eval->arena, 1, sizeof(*macro));
    if (!macro) {
        return med_jinja_fail_memory(eval);
    }
    *macro = (struct med_jinja_macro){.node = node, .scope = eval->scope};
    return med_jinja_bind(eval, node->text,
                          (struct med_jinja_value){.kind = MED_JINJA_MACRO, .as.macro = macro});
}

static int run_statement(struct med_jinja_eval *eval, const struct med_jinja_node *node)
{
    int rc;
    struct med_jinja_scope *scope = eval->scope;
    switch (node->kind) {
    case MED_JINJA_NODE_DATA:
        return write_text(eval, node->text);
    case MED_JINJA_NODE_OUTPUT:
        return run_output(eval, node);
    case MED_JINJA_NODE_IF:
        return run_if(eval, node);
    case MED_JINJA_NODE_FOR:
        return run_for(eval, node);
    case MED_JINJA_NODE_SET:
    case MED_JINJA_NODE_SET_BLOCK:
        return run_set(eval, node);
    case MED_JINJA_NODE_MACRO:
        return run_macro(eval, node);
    case MED_JINJA_NODE_BREAK:
        return OUTCOME_BREAK;
    case MED_JINJA_NODE_CONTINUE:
        return OUTCOME_CONTINUE;
    default:
        MED_ASSERT(node->kind == MED_JINJA_NODE_SCOPE);
        rc = med_jinja_open_scope(eval, scope);
        rc = rc < 0 ? rc : run_body(eval, node->body);
        eval->scope = scope;
        return rc;
    }
}

static int run_body(struct med_jinja_eval *eval, const struct med_jinja_node *first)
{
    int rc = OUTCOME_DONE;
    for (const struct med_jinja_node *node = first; rc == OUTCOME_DONE && node; node = node->next) {
        rc = med_jinja_enter(eval, node);
        if (rc == 0) {
            rc = run_statement(eval, node);
            eval->depth--;
        }
    }
    return rc;
}

int med_jinja_eval_init(struct med_jinja_eval *eval, const struct med_jinja_program *program,
                        struct med_buf *out, struct med_err *err)
{
    *eval = (struct med_jinja_eval){
        .program = program, .out = out, .steps_left = MED_LIMIT_CHAT_STEPS, .line = 1, .err = err};
    med_jinja_arena_init(&eval->arena, MED_LIMIT_CHAT_RENDER_BYTES);
    return med_jinja_open_scope(eval, NULL);
}

void med_jinja_eval_release(struct med_jinja_eval *eval)
{
    med_jinja_arena_release(&eval->arena);
}

int med_jinja_run(struct med_jinja_eval *eval)
{
    int rc = run_body(eval, eval->program->body);
    MED_ASSERT(rc <= OUTCOME_DONE);
    return rc;
}
