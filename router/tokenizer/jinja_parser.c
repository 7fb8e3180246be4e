/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parser of templates: text, {{ expressions }} and {% statements %} to a tree.
 *
 * Statements: if, for (with if, else, break, continue), set (a value, or a block), macro without call
 * blocks, and generation, which only marks text.  Anything else that Jinja has is refused by its
 * name.  At the end every function that is called must be one that Medley has or a macro of the
 * template.  Depth is counted as in jinja_expr.c.
 * thread: the caller's.
 */
#include "base/limits.h"
#include "router/tokenizer/jinja.h"

#include <string.h>

static bool parse_body(struct med_jinja_parser *p, struct med_jinja_node *parent,
                       struct med_jinja_node **list, const char *const *ends);

static struct med_jinja_node *fail_expected(struct med_jinja_parser *p, const char *what)
{
    char found[64];
    return med_jinja_parse_fail(p, p->at->line, "expected %s, found %s", what,
                                med_jinja_describe(p->at, found, sizeof(found)));
}

static bool need_end(struct med_jinja_parser *p)
{
    if (p->at->kind != MED_JINJA_TOKEN_BLOCK_END) {
        (void)fail_expected(p, "the end of the tag");
        return false;
    }
    p->at++;
    return true;
}

/* Takes "name %}", the end of a statement with a body: {% and the name are known to be here. */
static bool take_end_tag(struct med_jinja_parser *p)
{
    p->at++;
    return need_end(p);
}

static struct med_jinja_node *parse_if(struct med_jinja_parser *p, int line)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    static const char *const end[] = {"endif", NULL};
    struct med_jinja_node *first = med_jinja_node_new(p, MED_JINJA_NODE_IF, line);
    struct med_jinja_node *branch = first;
    while (branch) {
        branch->a = med_jinja_parse_tuple(p, false, false);
        if (!branch->a || !med_jinja_node_adopt(p, first, branch->a) || !need_end(p) ||
            !parse_body(p, first, &branch->body, ends)) {
            return NULL;
        }
        int branch_line = p->at->line;
        if (!med_jinja_take_name(p, "elif")) {
            break;
        }
        /* Branches are a list, not a tree: else_ of one is the next, however many there are. */
        branch->else_ = med_jinja_node_new(p, MED_JINJA_NODE_IF, branch_line);
        branch->negated = true; // else_ is an elif
        branch = branch->else_;
    }
    if (!branch) {
        return NULL;
    }
    if (med_jinja_take_name(p, "else") &&
        (!need_end(p) || !parse_body(p, first, &branch->else_, end))) {
        return NULL;
    }
    return take_end_tag(p) ? first : NULL;
}

static struct med_jinja_node *parse_for(struct med_jinja_parser *p, int line)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    static const char *const end[] = {"endfor", NULL};
    struct med_jinja_node *loop = med_jinja_node_new(p, MED_JINJA_NODE_FOR, line);
    if (!loop) {
        return NULL;
    }
    loop->a = med_jinja_parse_target(p, false);
    if (!loop->a) {
        return NULL;
    }
    if (!med_jinja_take_name(p, "in")) {
        return fail_expected(p, "in");
    }
    loop->b = med_jinja_parse_tuple(p, false, false);
    if (!loop->b || !med_jinja_node_adopt(p, loop, loop->b)) {
        return NULL;
    }
    if (med_jinja_take_name(p, "if")) {
        loop->c = med_jinja_parse_expression(p, true);
        if (!loop->c || !med_jinja_node_adopt(p, loop, loop->c)) {
            return NULL;
        }
    }
    if (med_jinja_at_name(p, "recursive")) {
        return med_jinja_parse_fail(p, p->at->line, "for ... recursive is not supported");
    }
    p->loops++;
    bool ok = need_end(p) && parse_body(p, loop, &loop->body, ends);
    p->loops--;
    if (!ok || (med_jinja_take_name(p, "else") &&
                (!need_end(p) || !parse_body(p, loop, &loop->else_, end)))) {
        return NULL;
    }
    return take_end_tag(p) ? loop : NULL;
}

static struct med_jinja_node *parse_set(struct med_jinja_parser *p, int line)
{
    static const char *const end[] = {"endset", NULL};
    struct med_jinja_node *set = med_jinja_node_new(p, MED_JINJA_NODE_SET, line);
    if (!set) {
        return NULL;
    }
    set->a = med_jinja_parse_target(p, true);
    if (!set->a) {
        return NULL;
    }
    if (med_jinja_take_operator(p, "=")) {
        set->b = med_jinja_parse_tuple(p, true, false);
        return set->b && med_jinja_node_adopt(p, set, set->b) && need_end(p) ? set : NULL;
    }
    set->kind = MED_JINJA_NODE_SET_BLOCK;
    if (med_jinja_at_operator(p, "|")) {
        struct med_jinja_node *captured = med_jinja_node_new(p, MED_JINJA_NODE_CAPTURED, line);
        set->b = captured ? med_jinja_parse_filters(p, captured) : NULL;
        if (!set->b || !med_jinja_node_adopt(p, set, set->b)) {
            return NULL;
        }
    }
    int loops = p->loops;
    p->loops = 0; // break does not leave a block whose text is taken
    bool ok = need_end(p) && parse_body(p, set, &set->body, end);
    p->loops = loops;
    return ok && take_end_tag(p) ? set : NULL;
}

static bool parse_parameter(struct med_jinja_parser *p, struct med_jinja_node *macro)
{
    if (p->at->kind != MED_JINJA_TOKEN_NAME) {
        (void)fail_expected(p, "the name of a parameter");
        return false;
    }
    if (macro->argument_count == MED_JINJA_ARGUMENTS) {
        (void)med_jinja_parse_fail(p, p->at->line, "a macro has more than %d parameters",
                                   MED_JINJA_ARGUMENTS);
        return false;
    }
    struct med_jinja_argument *parameter = &macro->arguments[macro->argument_count++];
    parameter->name = p->at->text;
    p->at++;
    if (med_jinja_take_operator(p, "=")) {
        struct med_jinja_node *value = med_jinja_parse_expression(p, true);
        if (!value || !med_jinja_node_adopt(p, macro, value)) {
            return false;
        }
        parameter->value = value;
    } else if (macro->argument_count > 1 && parameter[-1].value) {
        (void)med_jinja_parse_fail(p, p->at->line,
                                   "a parameter without a default follows one with a default");
        return false;
    }
    return true;
}

static struct med_jinja_node *parse_macro(struct med_jinja_parser *p, int line)
{
    static const char *const end[] = {"endmacro", NULL};
    struct med_jinja_node *macro = med_jinja_node_new(p, MED_JINJA_NODE_MACRO, line);
    if (!macro) {
        return NULL;
    }
    macro->arguments =
        med_jinja_arena_alloc(p->arena, MED_JINJA_ARGUMENTS, sizeof(*macro->arguments));
    struct med_jinja_name_list *known = med_jinja_arena_alloc(p->arena, 1, sizeof(*known));
    if (!macro->arguments || !known) {
        (void)med_err_set(p->err, p->arena->rc, "%s: %s", p->name, med_err_text(p->arena->rc));
        return NULL;
    }
    if (p->at->kind != MED_JINJA_TOKEN_NAME) {
        return fail_expected(p, "the name of the macro");
    }
    macro->text = p->at->text;
    *known = (struct med_jinja_name_list){.name = macro->text, .line = line, .next = p->macros};
    p->macros = known;
    p->at++;
    if (!med_jinja_take_operator(p, "(")) {
        return fail_expected(p, "(");
    }
    while (!med_jinja_take_operator(p, ")")) {
        if (macro->argument_count > 0 && !med_jinja_take_operator(p, ",")) {
            return fail_expected(p, ",");
        }
        if (!parse_parameter(p, macro)) {
            return NULL;
        }
    }
    int loops = p->loops;
    p->loops = 0;
    bool ok = need_end(p) && parse_body(p, macro, &macro->body, end);
    p->loops = loops;
    return ok && take_end_tag(p) ? macro : NULL;
}

static struct med_jinja_node *parse_generation(struct med_jinja_parser *p, int line)
{
    static const char *const end[] = {"endgeneration", NULL};
    struct med_jinja_node *scope = med_jinja_node_new(p, MED_JINJA_NODE_SCOPE, line);
    if (!scope) {
        return NULL;
    }
    int loops = p->loops;
    p->loops = 0;
    bool ok = need_end(p) && parse_body(p, scope, &scope->body, end);
    p->loops = loops;
    return ok && take_end_tag(p) ? scope : NULL;
}

static struct med_jinja_node *parse_jump(struct med_jinja_parser *p, int line,
                                         enum med_jinja_node_kind kind, const char *word)
{
    if (p->loops == 0) {
        return med_jinja_parse_fail(p, line, "%s stands outside of a loop", word);
    }
    struct med_jinja_node *jump = med_jinja_node_new(p, kind, line);
    return jump && need_end(p) ? jump : NULL;
}

/* A statement, {% taken. */
static struct med_jinja_node *parse_statement(struct med_jinja_parser *p)
{
    const struct med_jinja_token *word = p->at;
    if (word->kind != MED_JINJA_TOKEN_NAME) {
        return fail_expected(p, "the name of a statement");
    }
    p->at++;
    if (med_jinja_text_is(word->text, "if")) {
        return parse_if(p, word->line);
    }
    if (med_jinja_text_is(word->text, "for")) {
        return parse_for(p, word->line);
    }
    if (med_jinja_text_is(word->text, "set")) {
        return parse_set(p, word->line);
    }
    if (med_jinja_text_is(word->text, "macro")) {
        return parse_macro(p, word->line);
    }
    if (med_jinja_text_is(word->text, "generation")) {
        return parse_generation(p, word->line);
    }
    if (med_jinja_text_is(word->text, "break")) {
        return parse_jump(p, word->line, MED_JINJA_NODE_BREAK, "break");
    }
    if (med_jinja_text_is(word->text, "continue")) {
        return parse_jump(p, word->line, MED_JINJA_NODE_CONTINUE, "continue");
    }
    return med_jinja_parse_fail(p, word->line, "the statement {%% %.*s %%} is not supported here",
                                (int)word->text.bytes, word->text.data);
}

static struct med_jinja_node *parse_output(struct med_jinja_parser *p)
{
    struct med_jinja_node *output = med_jinja_node_new(p, MED_JINJA_NODE_OUTPUT, p->at->line);
    if (!output) {
        return NULL;
    }
    output->a = med_jinja_parse_tuple(p, true, false);
    if (!output->a || !med_jinja_node_adopt(p, output, output->a)) {
        return NULL;
    }
    if (p->at->kind != MED_JINJA_TOKEN_VARIABLE_END) {
        return fail_expected(p, "the end of the tag");
    }
    p->at++;
    return output;
}

static bool at_any(const struct med_jinja_parser *p, const char *const *names)
{
    for (; *names; names++) {
        if (p->at->kind == MED_JINJA_TOKEN_NAME && med_jinja_text_is(p->at->text, *names)) {
            return true;
        }
    }
    return false;
}

/* Everything up to one of the statements in `ends`, whose name is then the current token; or, with no
 * ends, up to the end of the template. */
static bool parse_body(struct med_jinja_parser *p, struct med_jinja_node *parent,
                       struct med_jinja_node **list, const char *const *ends)
{
    if (p->nesting++ >= MED_JINJA_TREE_DEPTH) {
        (void)med_jinja_parse_fail(p, p->at->line, "statements are nested more than %d deep",
                                   MED_JINJA_TREE_DEPTH);
        return false;
    }
    struct med_jinja_node **tail = list;
    for (;;) {
        struct med_jinja_node *item = NULL;
        const struct med_jinja_token *token = p->at;
        p->at += token->kind == MED_JINJA_TOKEN_END ? 0 : 1;
        switch (token->kind) {
        case MED_JINJA_TOKEN_DATA:
            item = med_jinja_node_new(p, MED_JINJA_NODE_DATA, token->line);
            if (item) {
                item->text = token->text;
            }
            break;
        case MED_JINJA_TOKEN_VARIABLE_BEGIN:
            item = parse_output(p);
            break;
        case MED_JINJA_TOKEN_BLOCK_BEGIN:
            if (at_any(p, ends)) {
                p->nesting--;
                return true;
            }
            item = parse_statement(p);
            break;
        default:
            if (*ends) {
                (void)med_jinja_parse_fail(p, token->line,
                                           "the template ends before %s, for line %d", ends[0],
                                           parent->line);
                return false;
            }
            p->nesting--;
            return true;
        }
        if (!item || !med_jinja_node_adopt(p, parent, item)) {
            return false;
        }
        *tail = item;
        tail = &item->next;
    }
}

/* Every call must be of a function or a macro. */
static bool check_calls(struct med_jinja_parser *p)
{
    for (const struct med_jinja_name_list *call = p->called; call; call = call->next) {
        const struct med_jinja_name_list *macro = p->macros;
        while (macro && !med_jinja_text_equal(macro->name, call->name)) {
            macro = macro->next;
        }
        if (!macro && med_jinja_function_find(call->name) < 0) {
            (void)med_jinja_parse_fail(p, call->line, "the function %.*s() is not supported",
                                       (int)call->name.bytes, call->name.data);
            return false;
        }
    }
    return true;
}

static int parse_tokens(struct med_jinja_program *program, const struct med_jinja_token *tokens,
                        struct med_err *err)
{
    static const char *const no_ends[] = {NULL};
    struct med_err local = {0};
    struct med_jinja_parser p = {
        .arena = &program->arena, .name = program->name, .at = tokens, .err = &local};
    struct med_jinja_node *root = med_jinja_node_new(&p, MED_JINJA_NODE_SCOPE, 1);
    if (!root || !parse_body(&p, root, &root->body, no_ends) || !check_calls(&p)) {
        return med_err_set(err, local.code, "%s", local.text);
    }
    program->body = root->body;
    return 0;
}

int med_jinja_parse(const char *text, size_t bytes, const char *name,
                    struct med_jinja_program *ret_program, struct med_err *err)
{
    if (bytes > MED_LIMIT_CHAT_TEMPLATE_BYTES) {
        return med_err_set(err, MED_E_LIMIT,
                           "%s: the chat template has %zu bytes, expected at most %d", name, bytes,
                           MED_LIMIT_CHAT_TEMPLATE_BYTES);
    }
    struct med_jinja_program program = {0};
    struct med_jinja_arena scratch;
    struct med_jinja_token *tokens;
    med_jinja_arena_init(&program.arena, MED_LIMIT_CHAT_PROGRAM_BYTES);
    med_jinja_arena_init(&scratch, MED_LIMIT_CHAT_PROGRAM_BYTES);
    int rc;
    size_t name_bytes = strlen(name) + 1;
    char *kept = med_jinja_arena_text(&program.arena, name_bytes);
    if (!kept) {
        rc = med_err_set(err, program.arena.rc, "%s: %s", name, med_err_text(program.arena.rc));
        goto out;
    }
    memcpy(kept, name, name_bytes);
    program.name = kept;
    rc = med_jinja_lex((struct med_jinja_text){text, bytes}, kept, &program.arena, &scratch,
                       &tokens, err);
    if (rc == 0) {
        rc = parse_tokens(&program, tokens, err);
    }
out:
    med_jinja_arena_release(&scratch);
    if (rc < 0) {
        med_jinja_arena_release(&program.arena);
        return rc;
    }
    *ret_program = program;
    return 0;
}

void med_jinja_program_release(struct med_jinja_program *program)
{
    med_jinja_arena_release(&program->arena);
    *program = (struct med_jinja_program){0};
}
