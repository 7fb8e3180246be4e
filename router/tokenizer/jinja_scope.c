/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One render's names and limits: scopes and what is bound in them, steps, depth, and how it fails.
 *
 * Scopes are a chain of lists; a name is bound in the innermost and looked up outwards, last among the
 * functions that every template has.  thread: the caller's.  Does not walk the tree.
 */
#include "base/limits.h"
#include "router/tokenizer/jinja.h"

#include <stdarg.h>
#include <stdio.h>

/* ---- failures and limits ---- */

int med_jinja_fail(struct med_jinja_eval *eval, int code, const char *fmt, ...)
{
    char text[MED_ERR_TEXT_MAX];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    return med_err_set(eval->err, code, "%s: line %d: %s", eval->program->name, eval->line, text);
}

int med_jinja_fail_memory(struct med_jinja_eval *eval)
{
    if (eval->arena.rc == MED_E_LIMIT) {
        return med_jinja_fail(eval, MED_E_LIMIT,
                              "the chat template needs more than %d bytes of memory",
                              MED_LIMIT_CHAT_RENDER_BYTES);
    }
    return med_jinja_fail(eval, MED_E_NOMEM, "%s", med_err_text(MED_E_NOMEM));
}

int med_jinja_spend(struct med_jinja_eval *eval, uint64_t steps)
{
    if (steps > eval->steps_left) {
        eval->steps_left = 0;
        return med_jinja_fail(eval, MED_E_LIMIT, "the chat template needs more than %d steps",
                              MED_LIMIT_CHAT_STEPS);
    }
    eval->steps_left -= steps;
    return 0;
}

int med_jinja_enter(struct med_jinja_eval *eval, const struct med_jinja_node *node)
{
    eval->line = node->line;
    if (eval->depth >= MED_JINJA_CALL_DEPTH) {
        return med_jinja_fail(eval, MED_E_LIMIT, "macros call each other too deeply");
    }
    eval->depth++;
    return med_jinja_spend(eval, 1);
}

/* ---- names ---- */

static struct med_jinja_binding *find_here(const struct med_jinja_scope *scope,
                                           struct med_jinja_text name)
{
    struct med_jinja_binding *binding = scope->bindings;
    while (binding && !med_jinja_text_equal(binding->name, name)) {
        binding = binding->next;
    }
    return binding;
}

int med_jinja_bind(struct med_jinja_eval *eval, struct med_jinja_text name,
                   struct med_jinja_value value)
{
    struct med_jinja_binding *binding = find_here(eval->scope, name);
    if (!binding) {
        binding = med_jinja_arena_alloc(&eval->arena, 1, sizeof(*binding));
        if (!binding) {
            return med_jinja_fail_memory(eval);
        }
        binding->name = name;
        binding->next = eval->scope->bindings;
        eval->scope->bindings = binding;
    }
    binding->value = value;
    return 0;
}

int med_jinja_look_up(struct med_jinja_eval *eval, struct med_jinja_text name,
                      struct med_jinja_value *ret_value)
{
    int rc = 0;
    for (const struct med_jinja_scope *scope = eval->scope; rc == 0 && scope;
         scope = scope->outer) {
        const struct med_jinja_binding *binding = find_here(scope, name);
        if (binding) {
            *ret_value = binding->value;
            return 0;
        }
        rc = med_jinja_spend(eval, 1);
    }
    int function = med_jinja_function_find(name);
    *ret_value = function < 0
                     ? med_jinja_undefined(name)
                     : (struct med_jinja_value){.kind = MED_JINJA_FUNCTION,
                                                .as.function = (enum med_jinja_function)function};
    return rc;
}

int med_jinja_open_scope(struct med_jinja_eval *eval, struct med_jinja_scope *outer)
{
    struct med_jinja_scope *scope = med_jinja_arena_alloc(&eval->arena, 1, sizeof(*scope));
    if (!scope) {
        return med_jinja_fail_memory(eval);
    }
    scope->outer = outer;
    eval->scope = scope;
    return 0;
}

static int assign_attribute(struct med_jinja_eval *eval, const struct med_jinja_node *target,
                            struct med_jinja_value value)
{
    struct med_jinja_value object;
    int rc = med_jinja_look_up(eval, target->a->text, &object);
    if (rc < 0) {
        return rc;
    }
    if (object.kind != MED_JINJA_NAMESPACE) {
        return med_jinja_fail(
            eval, MED_E_INVALID, "%.*s.%.*s cannot be set: it is %s, expected a namespace",
            (int)target->a->text.bytes, target->a->text.data, (int)target->text.bytes,
            target->text.data, med_jinja_kind_name(object.kind));
    }
    struct med_jinja_value key = med_jinja_string(target->text.data, target->text.bytes);
    return med_jinja_dict_set(eval, &object.as.namespace_->attributes, &key, &value);
}

int med_jinja_assign(struct med_jinja_eval *eval, const struct med_jinja_node *target,
                     struct med_jinja_value value)
{
    if (target->kind == MED_JINJA_NODE_NAME) {
        return med_jinja_bind(eval, target->text, value);
    }
    if (target->kind == MED_JINJA_NODE_ATTRIBUTE) {
        return assign_attribute(eval, target, value);
    }
    struct med_jinja_sequence items;
    int rc = med_jinja_iterate(eval, &value, &items);
    size_t i = 0;
    const struct med_jinja_node *part = target->body;
    for (; rc == 0 && part && i < items.count; part = part->next) {
        rc = med_jinja_assign(eval, part, items.items[i++]);
    }
    if (rc == 0 && (part || i < items.count)) {
        return med_jinja_fail(eval, MED_E_INVALID,
                              "%zu values cannot be assigned to another number of names",
                              items.count);
    }
    return rc;
}
