/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Oniguruma patterns on PCRE2.
 *
 * One pass copies the pattern and rewrites what the two read differently; it keeps no syntax tree,
 * because what would need one is refused.  PCRE2 compiles the result with its just-in-time compiler
 * where the machine allows that.  A match has a step limit, so a pattern with exponential
 * backtracking is an error and not a hang.  The only file that includes PCRE2.
 *
 * Not here: \w, \b, back references, named groups, in-pattern options other than (?i:...), class
 * intersections.  Ignoring case folds character by character (Oniguruma also knows a few folds to
 * several characters); a literal where that could matter is refused.
 * thread: a compiled pattern any; a scratch its owner's.
 */
#include "router/tokenizer/regex.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/buf.h"
#include "base/limits.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum {
    PATTERN_BYTES_MAX = 16 << 10,
    REWRITTEN_BYTES_MAX = 1 << 20,
    STACK_BYTES_START = 32 << 10,
    STACK_BYTES_MAX = 1 << 20,
    HEAP_KIB_MAX = 64 << 10, // what a match without the just-in-time compiler may allocate
    GROUP_DEPTH_MAX = 64
};

struct med_regex {
    pcre2_code *code;
    bool has_jit;
};

struct med_regex_scratch {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

/* ---- rewriting ---- */

struct rewrite {
    const char *at; /* the rest of the pattern */
    struct med_buf out;
    bool fold[GROUP_DEPTH_MAX + 1]; /* by depth: inside (?i: */
    int depth;
    int last_folded; /* the letter before, if literal and inside (?i:; else 0 */
    char *why;
    int rc;
};

#define SPACE_RANGES    \
 "\\x{9}-\\x{d}\\x{20}" \
 "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACE_RANGES                                                                           \
 "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"   \
 "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{d7ff}" \
 "\\x{e000}-\\x{10ffff}"

/* General categories, by both of their names, and the scripts of tokenizers' patterns. */
static const char *const categories[] = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "N",  "Nd", "Nl", "No", "P", "Pc",
    "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S", "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp"};
static const char *const
    long_categories[]
                   [2] = {
                       {"Letter", "L"},    {"Mark", "M"},        {"Number", "N"},
                       {"Symbol", "S"},    {"Punctuation", "P"}, {"Separator", "Z"},
                       {"Alphabetic", ""}, /* named to be refused below, not mistaken for a script */
};
static const char *const scripts[] = {"Han",     "Hiragana", "Katakana", "Hangul",     "Latin",
                                      "Greek",   "Cyrillic", "Arabic",   "Hebrew",     "Thai",
                                      "Bengali", "Tamil",    "Armenian", "Devanagari", "Georgian"};

static void put(struct rewrite *r, const char *text, size_t bytes)
{
    if (r->rc == 0) {
        r->rc = med_buf_append(&r->out, text, bytes);
        if (r->rc == MED_E_LIMIT)
            (void)snprintf(r->why, MED_REGEX_WHY_MAX, "the pattern is too long");
    }
}

static void put_text(struct rewrite *r, const char *text)
{
    put(r, text, strlen(text));
}

/* Refuses the construct of `bytes` bytes at the place. */
static void refuse(struct rewrite *r, size_t bytes, const char *reason)
{
    if (r->rc < 0)
        return;
    size_t left = strlen(r->at);
    r->rc = MED_E_FORMAT;
    (void)snprintf(r->why, MED_REGEX_WHY_MAX, "the pattern has \"%.*s\", %s",
                   (int)(bytes < left ? bytes : left), r->at, reason);
}

static void copy(struct rewrite *r, size_t bytes)
{
    put(r, r->at, bytes);
    r->at += bytes;
}

/* "\p{Name}", "\p{^Name}", "\P{Name}"; r->at is at the backslash. */
static void rewrite_property(struct rewrite *r)
{
    const char *name = r->at + 3;
    const char *close = r->at[2] == '{' ? strchr(name, '}') : NULL;
    if (!close) {
        refuse(r, 2, "expected a property in braces behind it");
        return;
    }
    bool negated = r->at[1] == 'P';
    if (*name == '^') {
        negated = !negated;
        name++;
    }
    size_t length = (size_t)(close - name);
    const char *prefix = "";
    char known[24] = "";
    for (size_t i = 0; i < sizeof categories / sizeof *categories; i++) {
        if (strlen(categories[i]) == length && memcmp(categories[i], name, length) == 0)
            (void)snprintf(known, sizeof known, "%s", categories[i]);
    }
    for (size_t i = 0; i < sizeof long_categories / sizeof *long_categories; i++) {
        if (strlen(long_categories[i][0]) == length &&
            memcmp(long_categories[i][0], name, length) == 0)
            (void)snprintf(known, sizeof known, "%s", long_categories[i][1]);
    }
    for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++) {
        if (strlen(scripts[i]) == length && memcmp(scripts[i], name, length) == 0) {
            (void)snprintf(known, sizeof known, "%s", scripts[i]);
            prefix = "sc:";
        }
    }
    if (!known[0]) {
        refuse(r, (size_t)(close + 1 - r->at),
               "expected a general category but C (\\p{L}, \\p{Nd}) or a common script (\\p{Han})");
        return;
    }
    put_text(r, negated ? "\\P{" : "\\p{");
    put_text(r, prefix);
    put_text(r, known);
    put_text(r, "}");
    r->at = close + 1;
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* "\x{1F600}", "\x7f", "\u00e9". */
static void rewrite_code_point(struct rewrite *r)
{
    const char *digits = r->at + 2;
    size_t count = 0;
    bool braces = r->at[1] == 'x' && *digits == '{';
    digits += braces;
    while (count < 8 && is_hex(digits[count]))
        count++;
    size_t wanted = r->at[1] == 'u' ? 4 : 2;
    if (!braces && count >= wanted)
        count = wanted;
    bool good = braces ? count >= 1 && digits[count] == '}' : count == wanted;
    if (good && !braces && wanted == 2 && digits[0] > '7')
        good = false; // a byte over 0x7f is no character
    if (!good) {
        refuse(r, 2, "expected \\x{...}, \\xHH up to 7f or \\uHHHH");
        return;
    }
    put_text(r, "\\x{");
    put(r, digits, count);
    put_text(r, "}");
    r->at = digits + count + braces;
}

static bool is_ascii_symbol(char c)
{
    return c > ' ' && c < 0x7f && !(c >= '0' && c <= '9') && !(c >= 'A' && c <= 'Z') &&
           !(c >= 'a' && c <= 'z');
}

static void rewrite_escape(struct rewrite *r, bool in_class)
{
    char c = r->at[1];
    r->last_folded = 0;
    if (c == 's' || c == 'S') {
        if (!in_class)
            put_text(r, "[");
        put_text(r, c == 's' ? SPACE_RANGES : NOT_SPACE_RANGES);
        if (!in_class)
            put_text(r, "]");
        r->at += 2;
    } else if (c == 'd' || c == 'D') {
        put_text(r, c == 'd' ? "\\p{Nd}" : "\\P{Nd}");
        r->at += 2;
    } else if (c == 'p' || c == 'P') {
        rewrite_property(r);
    } else if (c == 'x' || c == 'u') {
        rewrite_code_point(r);
    } else if (c == 'v') {
        put_text(r, "\\x{b}");
        r->at += 2;
    } else if (c && (strchr("rntfae", c) || is_ascii_symbol(c))) {
        copy(r, 2);
    } else {
        refuse(r, 2, "which is not among the escapes that are understood");
    }
}

/* r->at is at '['. */
static void rewrite_class(struct rewrite *r)
{
    copy(r, 1);
    if (*r->at == '^')
        copy(r, 1);
    if (*r->at == ']') {
        refuse(r, 1, "as the first of a class, which needs a backslash here");
        return;
    }
    while (r->rc == 0 && *r->at && *r->at != ']') {
        if (*r->at == '\\') {
            rewrite_escape(r, true);
        } else if (*r->at == '[') {
            refuse(r, 2, "inside a class, which needs a backslash here");
        } else if (r->at[0] == '&' && r->at[1] == '&') {
            refuse(r, 2, "an intersection of classes, which is not understood");
        } else {
            copy(r, 1);
        }
    }
    if (r->rc == 0 && !*r->at) {
        refuse(r, 0, "but its class has no end");
    } else if (r->rc == 0) {
        copy(r, 1);
    }
    r->last_folded = 0;
}

/* r->at is at '('. */
static void rewrite_group(struct rewrite *r)
{
    static const char *const known[] = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    size_t bytes = 1;
    bool fold = r->fold[r->depth];
    if (r->at[1] == '?') {
        bytes = 0;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
            if (strncmp(r->at, known[i], strlen(known[i])) == 0)
                bytes = strlen(known[i]);
        }
        if (bytes == 4 && r->at[2] == 'i')
            fold = true;
    }
    if (bytes == 0) {
        refuse(r, 4, "which is not among the groups that are understood");
        return;
    }
    if (r->depth == GROUP_DEPTH_MAX) {
        refuse(r, 1, "nested deeper than 64 groups");
        return;
    }
    r->fold[++r->depth] = fold;
    copy(r, bytes);
    r->last_folded = 0;
}

/* "{3}", "{1,3}", "{2,}"; r->at is at '{'. */
static void rewrite_repeat(struct rewrite *r)
{
    size_t low = strspn(r->at + 1, "0123456789");
    size_t bytes = 1 + low;
    bool exact = true;
    if (r->at[bytes] == ',') {
        exact = false;
        bytes++;
        bytes += strspn(r->at + bytes, "0123456789");
    }
    if (low == 0 || r->at[bytes] != '}') {
        refuse(r, 1, "which is no {n}, {n,} or {n,m}");
        return;
    }
    bytes++;
    if (r->at[bytes] == '+' || (exact && r->at[bytes] == '?')) {
        refuse(r, bytes + 1, "which engines read differently");
        return;
    }
    copy(r, bytes);
    r->last_folded = 0;
}

/* Pairs that Oniguruma folds from one character (U+00DF, the fb00 ligatures, U+01F0, U+1E96-1E9A). */
static bool folds_together(int a, int b)
{
    static const char *const pairs[] = {"ss", "ff", "fi", "fl", "st"};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        if (pairs[i][0] == a && pairs[i][1] == b)
            return true;
    }
    return false;
}

static void rewrite_literal(struct rewrite *r)
{
    char c = *r->at;
    int lower = c >= 'A' && c <= 'Z' ? c + 32 : c;
    bool letter = lower >= 'a' && lower <= 'z';
    if (r->fold[r->depth]) {
        if ((unsigned char)c >= 0x80) {
            refuse(r, 4, "a character outside ASCII inside (?i:...), which is not understood");
            return;
        }
        if (letter && folds_together(r->last_folded, lower)) {
            refuse(r, 1,
                   "inside (?i:...) behind a letter with which it also stands for one character");
            return;
        }
        r->last_folded = letter ? lower : 0;
    }
    copy(r, 1);
}

static int rewrite(const char *pattern, struct rewrite *r)
{
    r->at = pattern;
    while (r->rc == 0 && *r->at) {
        switch (*r->at) {
        case '\\':
            rewrite_escape(r, false);
            break;
        case '[':
            rewrite_class(r);
            break;
        case '(':
            rewrite_group(r);
            break;
        case '{':
            rewrite_repeat(r);
            break;
        case ')':
            if (r->depth > 0)
                r->depth--;
            copy(r, 1); // one too many is PCRE2's to refuse
            r->last_folded = 0;
            break;
        case '|':
        case '*':
        case '+':
        case '?':
        case '.':
        case '^':
        case '$':
            copy(r, 1);
            r->last_folded = 0;
            break;
        default:
            rewrite_literal(r);
        }
    }
    return r->rc;
}

/* ---- PCRE2 ---- */

static void *hook_alloc(size_t bytes, void *unused)
{
    (void)unused;
    return med_alloc(bytes);
}

static void hook_free(void *p, void *unused)
{
    (void)unused;
    med_free(p);
}

static int compile(struct med_regex *regex, const char *pattern, size_t bytes, char *why)
{
    int rc = MED_E_NOMEM;
    pcre2_compile_context *context = NULL;
    pcre2_general_context *general = pcre2_general_context_create(hook_alloc, hook_free, NULL);
    if (general)
        context = pcre2_compile_context_create(general);
    if (context) {
        int error;
        PCRE2_SIZE place;
        (void)pcre2_set_newline(context, PCRE2_NEWLINE_LF); // a known value: cannot fail
        (void)pcre2_set_parens_nest_limit(context, GROUP_DEPTH_MAX + 1);
        regex->code = pcre2_compile((PCRE2_SPTR)pattern, bytes,
                                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE |
                                        PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE,
                                    &error, &place, context);
        if (regex->code) {
            rc = 0;
        } else if (error != PCRE2_ERROR_HEAP_FAILED) {
            char text[160];
            (void)pcre2_get_error_message(error, (PCRE2_UCHAR *)text, sizeof text);
            (void)snprintf(why, MED_REGEX_WHY_MAX, "the pattern is not valid: %s", text);
            rc = MED_E_FORMAT;
        }
    }
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    return rc;
}

int med_regex_new(const char *pattern, struct med_regex **ret_regex, char why[MED_REGEX_WHY_MAX])
{
    if (strlen(pattern) > PATTERN_BYTES_MAX) {
        (void)snprintf(why, MED_REGEX_WHY_MAX, "the pattern has more than %d bytes",
                       PATTERN_BYTES_MAX);
        return MED_E_FORMAT;
    }
    struct rewrite r = {.why = why};
    med_buf_init(&r.out, REWRITTEN_BYTES_MAX);
    struct med_regex *regex = med_calloc(1, sizeof *regex);
    int rc = regex ? rewrite(pattern, &r) : MED_E_NOMEM;
    if (rc == MED_E_LIMIT)
        rc = MED_E_FORMAT;
    if (rc == 0)
        rc = compile(regex, r.out.data ? r.out.data : "", r.out.length, why);
    if (rc == 0) {
        /* Without it (a machine that forbids writable code, no memory) matching is only slower. */
        regex->has_jit = pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE) == 0;
        *ret_regex = regex;
    } else {
        med_regex_free(regex);
    }
    med_buf_release(&r.out);
    return rc;
}

void med_regex_free(struct med_regex *regex)
{
    if (regex)
        pcre2_code_free(regex->code);
    med_free(regex);
}

int med_regex_scratch_new(struct med_regex_scratch **ret_scratch)
{
    struct med_regex_scratch *scratch = med_calloc(1, sizeof *scratch);
    if (!scratch)
        return MED_E_NOMEM;
    int rc = MED_E_NOMEM;
    pcre2_general_context *general = pcre2_general_context_create(hook_alloc, hook_free, NULL);
    if (general) {
        scratch->data = pcre2_match_data_create(1, general);
        scratch->context = pcre2_match_context_create(general);
        scratch->stack = pcre2_jit_stack_create(STACK_BYTES_START, STACK_BYTES_MAX, general);
    }
    if (scratch->data && scratch->context) {
        (void)pcre2_set_match_limit(scratch->context, MED_LIMIT_REGEX_STEPS);
        (void)pcre2_set_heap_limit(scratch->context, HEAP_KIB_MAX);
        if (scratch->stack)
            pcre2_jit_stack_assign(scratch->context, NULL, scratch->stack);
        *ret_scratch = scratch;
        rc = 0;
    } else {
        med_regex_scratch_free(scratch);
    }
    pcre2_general_context_free(general);
    return rc;
}

void med_regex_scratch_free(struct med_regex_scratch *scratch)
{
    if (!scratch)
        return;
    pcre2_match_data_free(scratch->data);
    pcre2_match_context_free(scratch->context);
    if (scratch->stack)
        pcre2_jit_stack_free(scratch->stack);
    med_free(scratch);
}

int med_regex_find(const struct med_regex *regex, struct med_regex_scratch *scratch,
                   const char *text, size_t bytes, size_t from, size_t *ret_start, size_t *ret_end)
{
    int rc = regex->has_jit ? pcre2_jit_match(regex->code, (PCRE2_SPTR)text, bytes, from,
                                              PCRE2_NO_UTF_CHECK, scratch->data, scratch->context)
                            : pcre2_match(regex->code, (PCRE2_SPTR)text, bytes, from,
                                          PCRE2_NO_UTF_CHECK, scratch->data, scratch->context);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc == PCRE2_ERROR_NOMEMORY)
        return MED_E_NOMEM;
    if (rc < 0)
        return MED_E_LIMIT; // match, depth, heap or stack limit; the text is valid UTF-8
    const PCRE2_SIZE *place = pcre2_get_ovector_pointer(scratch->data);
    *ret_start = place[0];
    *ret_end = place[1];
    return 1;
}
