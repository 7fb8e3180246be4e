/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Internal to the chat templates: the part of Jinja that they are made of.
 *
 * text --lexer--> tokens --parser--> program (a tree of nodes) --eval--> text.
 * A program and everything in it lies in one arena; so does everything that one render makes, in
 * another.  Values are small and passed by value; strings are slices of the template, the messages or
 * the arena; lists and dicts never change once made, so no value can contain itself (namespaces can
 * change, and are opaque to whatever walks values).  Trees and values carry their depth, which is
 * bounded, so walking them recursively is bounded too.
 *
 * thread: a program is immutable; a render is one thread's.
 * errors: parse: MED_E_FORMAT (what, and the line), MED_E_NOMEM, MED_E_LIMIT; eval: MED_E_INVALID,
 * MED_E_LIMIT, MED_E_NOMEM.
 * source: the Jinja documentation (3.1), and the behaviour of jinja2 3.1.6 where that is silent.
 */
#ifndef MED_ROUTER_TOKENIZER_JINJA_H
#define MED_ROUTER_TOKENIZER_JINJA_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MED_JINJA_TREE_DEPTH = 120, /* of an expression or of nested statements */
    MED_JINJA_VALUE_DEPTH = 32, /* lists in lists */
    MED_JINJA_CALL_DEPTH = 400, /* tree levels in evaluation at one time, through macros too */
    MED_JINJA_ARGUMENTS = 16,   /* of one call, filter or test */
    MED_JINJA_RANGE = 100000,   /* elements of range(), as Jinja's sandbox has it */
    MED_JINJA_NAME_BYTES = 128,
    MED_JINJA_INT_STEPS = 4, /* what writing a number costs; a float is tried with 1 to 17 digits */
    MED_JINJA_FLOAT_STEPS = 64,
};

/* ---- memory ---- */

struct med_jinja_chunk;

/* Memory that is released all at once. thread: the owner's. */
struct med_jinja_arena {
    struct med_jinja_chunk *newest;
    size_t bytes, max_bytes;
    int rc; /* why the last allocation failed */
};

void med_jinja_arena_init(struct med_jinja_arena *arena, size_t max_bytes);
void med_jinja_arena_release(struct med_jinja_arena *arena);
/* Zeroed, aligned for any type; NULL: arena->rc says why. */
void *med_jinja_arena_alloc(struct med_jinja_arena *arena, size_t count, size_t bytes);
/* Unaligned and not zeroed. */
char *med_jinja_arena_text(struct med_jinja_arena *arena, size_t bytes);
/* Appends to a text if it is the last thing allocated and there is room; false: it did not. */
bool med_jinja_arena_extend(struct med_jinja_arena *arena, const char *text, size_t bytes,
                            size_t more_bytes);

/* ---- values ---- */

enum med_jinja_kind {
    MED_JINJA_UNDEFINED,
    MED_JINJA_NONE,
    MED_JINJA_BOOL,
    MED_JINJA_INT,
    MED_JINJA_FLOAT,
    MED_JINJA_STRING,
    MED_JINJA_LIST,
    MED_JINJA_TUPLE,
    MED_JINJA_RANGE_LIST, /* range(): a list in all but name */
    MED_JINJA_VIEW,       /* keys(), values(), items(): iterable, has a length, no subscript */
    MED_JINJA_ITERATOR,   /* of select, map, ...: iterable once, no length */
    MED_JINJA_DICT,
    MED_JINJA_NAMESPACE,
    MED_JINJA_LOOP,
    MED_JINJA_FUNCTION,
    MED_JINJA_MACRO,
};

enum med_jinja_function {
    MED_JINJA_FUNCTION_RANGE,
    MED_JINJA_FUNCTION_DICT,
    MED_JINJA_FUNCTION_NAMESPACE,
    MED_JINJA_FUNCTION_RAISE_EXCEPTION,
    MED_JINJA_FUNCTION_STRFTIME_NOW,
    MED_JINJA_FUNCTIONS
};

struct med_jinja_text {
    const char *data; /* not terminated */
    size_t bytes;
};

struct med_jinja_sequence;
struct med_jinja_dict;
struct med_jinja_namespace;
struct med_jinja_loop;
struct med_jinja_macro;

struct med_jinja_value {
    enum med_jinja_kind kind;
    union {
        bool truth;
        int64_t integer;
        double number;
        struct med_jinja_text text; /* also: what an undefined value was looked up as */
        struct med_jinja_sequence *sequence;
        struct med_jinja_dict *dict;
        struct med_jinja_namespace *namespace_;
        struct med_jinja_loop *loop;
        const struct med_jinja_macro *macro;
        enum med_jinja_function function;
    } as;
};

struct med_jinja_sequence {
    struct med_jinja_value *items;
    size_t count;
    int depth;
    bool consumed; /* an iterator that was walked already */
};

struct med_jinja_pair {
    struct med_jinja_value key, value;
};

struct med_jinja_dict {
    struct med_jinja_pair *pairs; /* in order of insertion */
    size_t count, capacity;
    int depth;
};

/* The one thing a template can change. */
struct med_jinja_namespace {
    struct med_jinja_dict attributes;
};

struct med_jinja_loop {
    const struct med_jinja_value *items;
    size_t count, index;
    int depth; /* 0: not inside another loop of the same recursion; always 0 here */
};

/* ---- tokens ---- */

enum med_jinja_token_kind {
    MED_JINJA_TOKEN_DATA, /* text outside of tags */
    MED_JINJA_TOKEN_VARIABLE_BEGIN,
    MED_JINJA_TOKEN_VARIABLE_END,
    MED_JINJA_TOKEN_BLOCK_BEGIN,
    MED_JINJA_TOKEN_BLOCK_END,
    MED_JINJA_TOKEN_NAME,
    MED_JINJA_TOKEN_STRING, /* text: unescaped */
    MED_JINJA_TOKEN_INTEGER,
    MED_JINJA_TOKEN_FLOAT,
    MED_JINJA_TOKEN_OPERATOR, /* text: the operator */
    MED_JINJA_TOKEN_END,
};

struct med_jinja_token {
    enum med_jinja_token_kind kind;
    int line;
    struct med_jinja_text text;
    int64_t integer;
    double number;
};

/* Cuts a template into tokens, the last of which is MED_JINJA_TOKEN_END.  Tokens lie in `scratch`,
 * text that differs from the template's in `keep`; the rest are slices of `text`. */
int med_jinja_lex(struct med_jinja_text text, const char *name, struct med_jinja_arena *keep,
                  struct med_jinja_arena *scratch, struct med_jinja_token **ret_tokens,
                  struct med_err *err) MED_MUST_CHECK;

/* ---- programs ---- */

enum med_jinja_node_kind {
    /* statements */
    MED_JINJA_NODE_DATA,      /* value */
    MED_JINJA_NODE_OUTPUT,    /* a */
    MED_JINJA_NODE_IF,        /* a: condition, body, else_; negated: else_ is an elif's IF */
    MED_JINJA_NODE_FOR,       /* a: target, b: iterable, c: filter or NULL, body, else_ */
    MED_JINJA_NODE_SET,       /* a: target, b: value */
    MED_JINJA_NODE_SET_BLOCK, /* a: target, b: filter chain over NODE_CAPTURED or NULL, body */
    MED_JINJA_NODE_MACRO,     /* text: name, body; arguments: parameters (name, default) */
    MED_JINJA_NODE_SCOPE,     /* generation, endgeneration: body with its own names */
    MED_JINJA_NODE_BREAK,
    MED_JINJA_NODE_CONTINUE,
    /* expressions */
    MED_JINJA_NODE_CONST,     /* value */
    MED_JINJA_NODE_NAME,      /* text */
    MED_JINJA_NODE_CAPTURED,  /* the text of a set block, for its filters */
    MED_JINJA_NODE_LIST,      /* body: items */
    MED_JINJA_NODE_TUPLE,     /* body: items */
    MED_JINJA_NODE_DICT,      /* body: keys and values in turn */
    MED_JINJA_NODE_ATTRIBUTE, /* a, text */
    MED_JINJA_NODE_ITEM,      /* a, b */
    MED_JINJA_NODE_SLICE,     /* a; b, c, d: start, stop, step, each may be NULL */
    MED_JINJA_NODE_CALL,      /* a: NAME; arguments */
    MED_JINJA_NODE_METHOD,    /* a: object; text, index: method; arguments */
    MED_JINJA_NODE_FILTER,    /* a; text, index: filter; arguments */
    MED_JINJA_NODE_TEST,      /* a; text, index: test; arguments; negated */
    MED_JINJA_NODE_NOT,       /* a */
    MED_JINJA_NODE_NEGATE,    /* a */
    MED_JINJA_NODE_PLUS,      /* a */
    MED_JINJA_NODE_AND,       /* a, b */
    MED_JINJA_NODE_OR,        /* a, b */
    MED_JINJA_NODE_BINARY,    /* a, b, op */
    MED_JINJA_NODE_CONCAT,    /* body: operands of ~ */
    MED_JINJA_NODE_COMPARE,   /* a; body: the right sides, each with its op */
    MED_JINJA_NODE_CHOOSE,    /* b if a else c (NULL: undefined) */
};

enum med_jinja_op {
    MED_JINJA_ADD,
    MED_JINJA_SUB,
    MED_JINJA_MUL,
    MED_JINJA_DIV,
    MED_JINJA_FLOOR_DIV,
    MED_JINJA_MOD,
    MED_JINJA_POW,
    MED_JINJA_EQ,
    MED_JINJA_NE,
    MED_JINJA_LT,
    MED_JINJA_LE,
    MED_JINJA_GT,
    MED_JINJA_GE,
    MED_JINJA_IN,
    MED_JINJA_NOT_IN,
};

struct med_jinja_argument {
    struct med_jinja_text name; /* no bytes: positional */
    const struct med_jinja_node *value;
};

struct med_jinja_node {
    enum med_jinja_node_kind kind;
    int line, depth;
    enum med_jinja_op op;
    int index;
    bool negated;
    struct med_jinja_text text;
    struct med_jinja_value value;
    struct med_jinja_node *a, *b, *c, *d;
    struct med_jinja_node *body;  /* the first of a list linked by `next` */
    struct med_jinja_node *else_; /* the same */
    struct med_jinja_node *next;
    struct med_jinja_argument *arguments;
    size_t argument_count;
};

struct med_jinja_program {
    struct med_jinja_arena arena;
    struct med_jinja_node *body;
    const char *name; /* for messages; in the arena */
};

/* Parses a template (UTF-8). On success the program is the caller's, to release. */
int med_jinja_parse(const char *text, size_t bytes, const char *name,
                    struct med_jinja_program *ret_program, struct med_err *err) MED_MUST_CHECK;
void med_jinja_program_release(struct med_jinja_program *program);

/* The parser's own parts: one template under way. */
struct med_jinja_parser {
    struct med_jinja_arena *arena;
    const char *name;
    const struct med_jinja_token *at; /* the current token */
    int nesting, loops;
    struct med_err *err;
    const struct med_jinja_name_list *called; /* names called, to be checked at the end */
    const struct med_jinja_name_list *macros;
};

struct med_jinja_name_list {
    struct med_jinja_text name;
    int line;
    const struct med_jinja_name_list *next;
};

/* ---- jinja_expr.c, jinja_primary.c, jinja_nodes.c: all return NULL or false after filling err ---- */

struct med_jinja_node *med_jinja_parse_expression(struct med_jinja_parser *parser, bool choose);
struct med_jinja_node *med_jinja_parse_tuple(struct med_jinja_parser *parser, bool choose,
                                             bool in_parentheses);
/* name, name.attribute (if allowed), or several with commas. */
struct med_jinja_node *med_jinja_parse_target(struct med_jinja_parser *parser,
                                              bool with_attributes);
struct med_jinja_node *med_jinja_parse_filters(struct med_jinja_parser *parser,
                                               struct med_jinja_node *value);
struct med_jinja_node *med_jinja_node_new(struct med_jinja_parser *parser,
                                          enum med_jinja_node_kind kind, int line);
/* Notes that `child` is below `node`; false when the tree is too deep (err is filled). */
bool med_jinja_node_adopt(struct med_jinja_parser *parser, struct med_jinja_node *node,
                          const struct med_jinja_node *child);
void *med_jinja_parse_fail(struct med_jinja_parser *parser, int line, const char *fmt, ...)
    MED_PRINTF(3, 4);
bool med_jinja_at_name(const struct med_jinja_parser *parser, const char *name);
bool med_jinja_at_operator(const struct med_jinja_parser *parser, const char *op);
bool med_jinja_take_name(struct med_jinja_parser *parser, const char *name);
bool med_jinja_take_operator(struct med_jinja_parser *parser, const char *op);
bool med_jinja_need_operator(struct med_jinja_parser *p, const char *op);
/* One more level of descent; false: too many.  The caller takes it back. */
bool med_jinja_parse_enter(struct med_jinja_parser *p);
/* Fails, naming what was expected here and what was found. */
struct med_jinja_node *med_jinja_parse_expected(struct med_jinja_parser *p, const char *what);
/* A node over `a` and perhaps `b`; NULL too if `a` is. */
struct med_jinja_node *med_jinja_node_over(struct med_jinja_parser *p,
                                           enum med_jinja_node_kind kind, int line,
                                           struct med_jinja_node *a, struct med_jinja_node *b);
/* Puts `item` at the end of the list below `parent`; false too if it is NULL. */
bool med_jinja_node_append(struct med_jinja_parser *p, struct med_jinja_node *parent,
                           struct med_jinja_node ***tail, struct med_jinja_node *item);
struct med_jinja_node *med_jinja_node_constant(struct med_jinja_parser *p, int line,
                                               struct med_jinja_value value);
struct med_jinja_node *med_jinja_parse_name(struct med_jinja_parser *p);
struct med_jinja_node *med_jinja_parse_primary(struct med_jinja_parser *p);
/* What follows an object: .name, [key] and calls; NULL for NULL. */
struct med_jinja_node *med_jinja_parse_postfix(struct med_jinja_parser *p,
                                               struct med_jinja_node *object);
struct med_jinja_node *med_jinja_parse_call(struct med_jinja_parser *p,
                                            struct med_jinja_node *callee);
/* The "|" or "is" before it was taken. */
struct med_jinja_node *med_jinja_parse_filter(struct med_jinja_parser *p,
                                              struct med_jinja_node *value);
struct med_jinja_node *med_jinja_parse_test(struct med_jinja_parser *p,
                                            struct med_jinja_node *value);
/* The current token as a person would name it; borrowed until the next call with this buffer. */
const char *med_jinja_describe(const struct med_jinja_token *token, char *buffer, size_t bytes);

/* ---- evaluation ---- */

/* A name bound in a scope. */
struct med_jinja_binding {
    struct med_jinja_text name;
    struct med_jinja_value value;
    struct med_jinja_binding *next;
};

struct med_jinja_scope {
    struct med_jinja_scope *outer;
    struct med_jinja_binding *bindings;
};

struct med_jinja_macro {
    const struct med_jinja_node *node;
    struct med_jinja_scope *scope; /* where it was defined */
};

/* One render. thread: the caller's. */
struct med_jinja_eval {
    const struct med_jinja_program *program;
    struct med_jinja_arena arena;
    struct med_jinja_scope *scope;
    struct med_buf *out;
    struct med_jinja_value captured; /* what NODE_CAPTURED is */
    int64_t unix_s;                  /* for strftime_now */
    uint64_t steps_left;
    int depth, line;
    struct med_err *err;
};

int med_jinja_eval_init(struct med_jinja_eval *eval, const struct med_jinja_program *program,
                        struct med_buf *out, struct med_err *err);
void med_jinja_eval_release(struct med_jinja_eval *eval);
/* Gives the template a variable. */
int med_jinja_bind(struct med_jinja_eval *eval, struct med_jinja_text name,
                   struct med_jinja_value value) MED_MUST_CHECK;
int med_jinja_run(struct med_jinja_eval *eval) MED_MUST_CHECK;

/* ---- jinja_scope.c ---- */

/* Begins a node: one step, and one level, which the caller takes back. */
int med_jinja_enter(struct med_jinja_eval *eval, const struct med_jinja_node *node) MED_MUST_CHECK;
/* Undefined if there is no such name. */
int med_jinja_look_up(struct med_jinja_eval *eval, struct med_jinja_text name,
                      struct med_jinja_value *ret_value) MED_MUST_CHECK;
/* A scope inside `outer` becomes the one at hand. */
int med_jinja_open_scope(struct med_jinja_eval *eval, struct med_jinja_scope *outer) MED_MUST_CHECK;
/* target: a name, an attribute of a namespace, or several names. */
int med_jinja_assign(struct med_jinja_eval *eval, const struct med_jinja_node *target,
                     struct med_jinja_value value) MED_MUST_CHECK;

int med_jinja_expression(struct med_jinja_eval *eval, const struct med_jinja_node *node,
                         struct med_jinja_value *ret_value) MED_MUST_CHECK;

/* Fills err with "NAME: line N: ..." and returns code. */
int med_jinja_fail(struct med_jinja_eval *eval, int code, const char *fmt, ...) MED_PRINTF(3, 4);
/* The failure of the arena. */
int med_jinja_fail_memory(struct med_jinja_eval *eval);
/* ... because what `name` was looked up as is undefined. */
int med_jinja_fail_undefined(struct med_jinja_eval *eval, struct med_jinja_text name);
/* Spends steps; work that grows with the size of a value spends in proportion. */
int med_jinja_spend(struct med_jinja_eval *eval, uint64_t steps) MED_MUST_CHECK;

/* ---- jinja_value.c ---- */

struct med_jinja_value med_jinja_none(void);
struct med_jinja_value med_jinja_bool(bool truth);
struct med_jinja_value med_jinja_int(int64_t integer);
struct med_jinja_value med_jinja_float(double number);
struct med_jinja_value med_jinja_string(const char *data, size_t bytes);
struct med_jinja_value med_jinja_undefined(struct med_jinja_text name);
struct med_jinja_text med_jinja_text(const char *s);
bool med_jinja_text_is(struct med_jinja_text text, const char *s);
bool med_jinja_text_equal(struct med_jinja_text a, struct med_jinja_text b);
const char *med_jinja_kind_name(enum med_jinja_kind kind);
bool med_jinja_is_sequence(const struct med_jinja_value *value); /* list, tuple, range, view */
bool med_jinja_is_number(const struct med_jinja_value *value);   /* bool too, as in Python */
double med_jinja_as_double(const struct med_jinja_value *value);
int64_t med_jinja_as_int(const struct med_jinja_value *value); /* of an int or bool */

bool med_jinja_truth(const struct med_jinja_value *value);
int med_jinja_equal(struct med_jinja_eval *eval, const struct med_jinja_value *a,
                    const struct med_jinja_value *b, bool *ret_equal) MED_MUST_CHECK;
/* *ret_order: -1, 0, 1, or 2 if they are unordered (NaN). */
int med_jinja_order(struct med_jinja_eval *eval, const struct med_jinja_value *a,
                    const struct med_jinja_value *b, int *ret_order) MED_MUST_CHECK;
int med_jinja_contains(struct med_jinja_eval *eval, const struct med_jinja_value *container,
                       const struct med_jinja_value *item, bool *ret_found) MED_MUST_CHECK;

/* An empty sequence or dict with room for `capacity`; items are appended by the maker only. */
int med_jinja_sequence_new(struct med_jinja_eval *eval, enum med_jinja_kind kind, size_t capacity,
                           struct med_jinja_value *ret_value) MED_MUST_CHECK;
int med_jinja_sequence_add(struct med_jinja_eval *eval, struct med_jinja_sequence *sequence,
                           const struct med_jinja_value *item) MED_MUST_CHECK;
int med_jinja_dict_new(struct med_jinja_eval *eval, size_t capacity,
                       struct med_jinja_value *ret_value) MED_MUST_CHECK;
int med_jinja_dict_set(struct med_jinja_eval *eval, struct med_jinja_dict *dict,
                       const struct med_jinja_value *key,
                       const struct med_jinja_value *value) MED_MUST_CHECK;
/* *ret_value NULL: no such key. */
int med_jinja_dict_get(struct med_jinja_eval *eval, const struct med_jinja_dict *dict,
                       const struct med_jinja_value *key,
                       const struct med_jinja_value **ret_value) MED_MUST_CHECK;
/* What iterating over a value gives: a dict's keys, a string's characters.  An iterator is consumed. */
int med_jinja_iterate(struct med_jinja_eval *eval, const struct med_jinja_value *value,
                      struct med_jinja_sequence *ret_items) MED_MUST_CHECK;
/* len(). */
int med_jinja_length(struct med_jinja_eval *eval, const struct med_jinja_value *value,
                     int64_t *ret_length) MED_MUST_CHECK;

/* ---- jinja_text.c: strings, in characters ---- */

size_t med_jinja_characters(struct med_jinja_text text);
/* Bytes of the character at the start of a text that is not empty. */
size_t med_jinja_character_bytes(struct med_jinja_text text);
bool med_jinja_is_ascii(struct med_jinja_text text);
/* Bytes of the white space character that starts, or ends, the text; 0: none. */
size_t med_jinja_space_first(struct med_jinja_text text);
size_t med_jinja_space_last(struct med_jinja_text text);
/* A string as Python's int() and float() read it; false: they would not, or it does not fit. */
bool med_jinja_read_number(struct med_jinja_text text, bool *ret_whole, int64_t *ret_integer,
                           double *ret_number);
/* What print writes: str() of Python.  Text longer than a prompt may be is MED_E_LIMIT. */
int med_jinja_to_text(struct med_jinja_eval *eval, const struct med_jinja_value *value,
                      struct med_jinja_text *ret_text) MED_MUST_CHECK;
/* Both spend: to write a number takes longer than to evaluate a node. */
int med_jinja_print_float(struct med_jinja_eval *eval, double number, bool json,
                          struct med_buf *out) MED_MUST_CHECK;
int med_jinja_print_int(struct med_jinja_eval *eval, int64_t number,
                        struct med_buf *out) MED_MUST_CHECK;
int med_jinja_concat(struct med_jinja_eval *eval, struct med_jinja_text a, struct med_jinja_text b,
                     struct med_jinja_value *ret_value) MED_MUST_CHECK;
/* Moves what was built in `buf` to the arena, as a string. */
int med_jinja_keep(struct med_jinja_eval *eval, const struct med_buf *buf,
                   struct med_jinja_value *ret_value) MED_MUST_CHECK;

/* ---- jinja_json.c ---- */

struct med_jinja_json {
    struct med_jinja_text indent; /* data NULL: on one line */
    struct med_jinja_text item_separator, key_separator;
    bool ensure_ascii, sort_keys;
};

/* From the filter's arguments: ensure_ascii, indent, separators, sort_keys. */
int med_jinja_json_style(struct med_jinja_eval *eval, const struct med_jinja_value slots[4],
                         struct med_jinja_json *ret_style) MED_MUST_CHECK;
int med_jinja_to_json(struct med_jinja_eval *eval, const struct med_jinja_value *value,
                      const struct med_jinja_json *style, struct med_buf *out) MED_MUST_CHECK;

/* ---- jinja_ops.c, jinja_slice.c ---- */

int med_jinja_binary(struct med_jinja_eval *eval, enum med_jinja_op op,
                     const struct med_jinja_value *a, const struct med_jinja_value *b,
                     struct med_jinja_value *ret_value) MED_MUST_CHECK;
int med_jinja_compare(struct med_jinja_eval *eval, enum med_jinja_op op,
                      const struct med_jinja_value *a, const struct med_jinja_value *b,
                      bool *ret_truth) MED_MUST_CHECK;
/* object.name; object[key]; object[start:stop:step] (each NULL if it is not given). */
int med_jinja_attribute(struct med_jinja_eval *eval, const struct med_jinja_value *object,
                        struct med_jinja_text name,
                        struct med_jinja_value *ret_value) MED_MUST_CHECK;
int med_jinja_item(struct med_jinja_eval *eval, const struct med_jinja_value *object,
                   const struct med_jinja_value *key,
                   struct med_jinja_value *ret_value) MED_MUST_CHECK;
int med_jinja_slice(struct med_jinja_eval *eval, const struct med_jinja_value *object,
                    const struct med_jinja_value *const bounds[3],
                    struct med_jinja_value *ret_value) MED_MUST_CHECK;

/* ---- jinja_strings.c: what strings can do, for filters and methods ---- */

enum med_jinja_side {
    MED_JINJA_LEFT = 1,
    MED_JINJA_RIGHT = 2,
    MED_JINJA_BOTH = 3,
};

enum med_jinja_case {
    MED_JINJA_UPPER,
    MED_JINJA_LOWER,
    MED_JINJA_CAPITALIZE,
    MED_JINJA_TITLE,        /* str.title(): after every character that is no letter */
    MED_JINJA_TITLE_FILTER, /* the filter: after white space and ({[<- */
};

/* chars: a string, or none for white space. */
int med_jinja_strip(struct med_jinja_eval *eval, struct med_jinja_text text,
                    enum med_jinja_side side, const struct med_jinja_value *chars,
                    struct med_jinja_value *ret_value) MED_MUST_CHECK;
/* Letters beyond ASCII are refused. */
int med_jinja_change_case(struct med_jinja_eval *eval, struct med_jinja_text text,
                          enum med_jinja_case to, struct med_jinja_value *ret_value) MED_MUST_CHECK;
/* At most `count` times; < 0: all. */
int med_jinja_replace(struct med_jinja_eval *eval, struct med_jinja_text text,
                      struct med_jinja_text old, struct med_jinja_text fresh, int64_t count,
                      struct med_jinja_value *ret_value) MED_MUST_CHECK;
/* separator: a string, or none for white space; at most `count` cuts, < 0: all. */
int med_jinja_split(struct med_jinja_eval *eval, struct med_jinja_text text,
                    const struct med_jinja_value *separator, int64_t count, bool from_right,
                    struct med_jinja_value *ret_value) MED_MUST_CHECK;
int med_jinja_split_lines(struct med_jinja_eval *eval, struct med_jinja_text text, bool keep_ends,
                          struct med_jinja_value *ret_value) MED_MUST_CHECK;
/* Byte offset of the first, or last, occurrence; < 0: none.  Spends in proportion to the bytes that
 * were looked at, while it looks. */
int med_jinja_find(struct med_jinja_eval *eval, struct med_jinja_text text,
                   struct med_jinja_text part, bool last, int64_t *ret_at) MED_MUST_CHECK;

/* ---- what is called: jinja_filters.c, jinja_tests.c, jinja_methods.c, jinja_functions.c ---- */

/* Evaluated arguments of a call. */
struct med_jinja_call {
    struct med_jinja_value positional[MED_JINJA_ARGUMENTS];
    size_t count;
    struct {
        struct med_jinja_text name;
        struct med_jinja_value value;
    } named[MED_JINJA_ARGUMENTS];
    size_t named_count;
};

/* Puts the arguments into slots[0..slots_count), by position or by the names in `names` (NULL for one
 * that has none); a slot that is not given stays as it is.  More or other arguments, or fewer than
 * `required`, are an error; `what` is the name in it. */
int med_jinja_take_arguments(struct med_jinja_eval *eval, struct med_jinja_text what,
                             const struct med_jinja_call *call, const char *const *names,
                             size_t slot_count, size_t required,
                             struct med_jinja_value *slots) MED_MUST_CHECK;

/* Index of a name, or -1: the parser asks, so that what is unknown is refused at load. */
int med_jinja_filter_find(struct med_jinja_text name);
int med_jinja_test_find(struct med_jinja_text name);
int med_jinja_method_find(struct med_jinja_text name);
int med_jinja_function_find(struct med_jinja_text name);

int med_jinja_filter_apply(struct med_jinja_eval *eval, int index,
                           const struct med_jinja_value *value, const struct med_jinja_call *call,
                           struct med_jinja_value *ret_value) MED_MUST_CHECK;
int med_jinja_test_apply(struct med_jinja_eval *eval, int index,
                         const struct med_jinja_value *value, const struct med_jinja_call *call,
                         bool *ret_truth) MED_MUST_CHECK;
int med_jinja_method_apply(struct med_jinja_eval *eval, int index,
                           const struct med_jinja_value *object, const struct med_jinja_call *call,
                           struct med_jinja_value *ret_value) MED_MUST_CHECK;
int med_jinja_function_apply(struct med_jinja_eval *eval, enum med_jinja_function function,
                             const struct med_jinja_call *call,
                             struct med_jinja_value *ret_value) MED_MUST_CHECK;
/* A strftime format that strftime_now has; else *ret_bad is the letter it does not know. */
bool med_jinja_strftime_known(struct med_jinja_text format, char *ret_bad);

#endif
