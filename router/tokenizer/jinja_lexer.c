/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cuts a template into tokens.
 *
 * Outside of tags it looks for the next {{, {% or {#; inside it reads names, numbers, strings and
 * operators up to the tag's end, which is not looked for inside brackets.  White space around tags is
 * as Jinja has it with trim_blocks and lstrip_blocks: "-" eats all white space on its side, a block or
 * comment alone on its line eats the blanks before it and the newline after it, "+" keeps them.
 * As Jinja does, all line ends become \n first, and one at the end of the template is dropped.
 *
 * thread: the caller's.  Does not know the grammar; refuses {% raw %}, names beyond ASCII and \N{...}.
 */
#include "base/os.h"
#include "base/utf8.h"
#include "router/tokenizer/jinja.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum tag {
    TAG_VARIABLE,
    TAG_BLOCK,
    TAG_COMMENT,
    TAG_NONE,
};

enum {
    OPEN_MAX = MED_JINJA_TREE_DEPTH
};

struct lexer {
    const char *name;
    const char *data;
    size_t bytes, at;
    int line;
    bool line_starting; /* the last tag ended with the end of its line */
    struct med_jinja_arena *keep, *scratch;
    struct med_jinja_token *tokens;
    size_t count, capacity;
    char open[OPEN_MAX]; /* the brackets that must close */
    int open_count;
    struct med_err *err;
};

static int fail_memory(struct lexer *l, const struct med_jinja_arena *arena)
{
    return med_err_set(l->err, arena->rc, "%s: line %d: %s", l->name, l->line,
                       med_err_text(arena->rc));
}

#define FAIL(l, ...) fail_at(l, (l)->line, __VA_ARGS__)

static int fail_at(const struct lexer *l, int line, const char *what, const char *detail)
{
    return med_err_set(l->err, MED_E_FORMAT, "%s: line %d: %s%s", l->name, line, what, detail);
}

static int add(struct lexer *l, enum med_jinja_token_kind kind, const char *data, size_t bytes)
{
    if (l->count == l->capacity) {
        size_t capacity = l->capacity == 0 ? 64 : l->capacity * 2;
        struct med_jinja_token *grown =
            med_jinja_arena_alloc(l->scratch, capacity, sizeof(*l->tokens));
        if (!grown) {
            return fail_memory(l, l->scratch);
        }
        if (l->count > 0) {
            memcpy(grown, l->tokens, l->count * sizeof(*grown));
        }
        l->tokens = grown;
        l->capacity = capacity;
    }
    l->tokens[l->count++] =
        (struct med_jinja_token){.kind = kind, .line = l->line, .text = {data, bytes}};
    return 0;
}

/* Goes on by n bytes, counting lines. */
static void advance(struct lexer *l, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        l->line += l->data[l->at + i] == '\n' ? 1 : 0;
    }
    l->at += n;
}

static bool looking_at(const struct lexer *l, const char *s)
{
    size_t bytes = strlen(s);
    return l->bytes - l->at >= bytes && memcmp(l->data + l->at, s, bytes) == 0;
}

static struct med_jinja_text rest(const struct lexer *l)
{
    return (struct med_jinja_text){l->data + l->at, l->bytes - l->at};
}

static void skip_space(struct lexer *l)
{
    size_t n;
    while ((n = med_jinja_space_first(rest(l))) > 0) {
        advance(l, n);
    }
}

/* ---- text outside of tags ---- */

static enum tag find_tag(const struct lexer *l, size_t *ret_start)
{
    for (size_t i = l->at; i + 1 < l->bytes; i++) {
        if (l->data[i] != '{') {
            continue;
        }
        *ret_start = i;
        switch (l->data[i + 1]) {
        case '{':
            return TAG_VARIABLE;
        case '%':
            return TAG_BLOCK;
        case '#':
            return TAG_COMMENT;
        default:
            break;
        }
    }
    *ret_start = l->bytes;
    return TAG_NONE;
}

/* The text before a tag without the white space that the tag takes from it. */
static size_t stripped_bytes(const struct lexer *l, struct med_jinja_text text, enum tag tag,
                             char sign)
{
    size_t n;
    struct med_jinja_text left = text;
    if (sign == '-') {
        while ((n = med_jinja_space_last(left)) > 0) {
            left.bytes -= n;
        }
        return left.bytes;
    }
    if (sign == '+' || tag == TAG_VARIABLE) {
        return text.bytes;
    }
    while ((n = med_jinja_space_last(left)) > 0 && left.data[left.bytes - 1] != '\n') {
        left.bytes -= n;
    }
    bool at_line_start = left.bytes == 0 ? l->line_starting : left.data[left.bytes - 1] == '\n';
    return at_line_start ? left.bytes : text.bytes;
}

/* Ends a tag whose closing text starts here with `sign` before it. */
static void end_tag(struct lexer *l, size_t bytes, char sign, bool trim)
{
    advance(l, bytes);
    size_t end = l->at;
    if (sign == '-') {
        skip_space(l);
    } else if (trim && sign != '+' && looking_at(l, "\n")) {
        advance(l, 1);
    }
    l->line_starting = l->at > end && l->data[l->at - 1] == '\n';
}

static int skip_comment(struct lexer *l)
{
    int line = l->line;
    for (; l->at + 1 < l->bytes; advance(l, 1)) {
        if (looking_at(l, "#}")) {
            end_tag(l, 2, 0, true);
            return 0;
        }
        if (looking_at(l, "-#}") || looking_at(l, "+#}")) {
            end_tag(l, 3, l->data[l->at], true);
            return 0;
        }
    }
    return fail_at(l, line, "a comment is not closed, expected #}", "");
}

/* ---- inside of tags ---- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_name_start(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static int digit_value(char c)
{
    if (is_digit(c)) {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : 99;
}

/* Length of digits of a base with single underscores between them. */
static size_t digits(const struct lexer *l, size_t at, int base, bool underscore_first)
{
    size_t start = at;
    for (;;) {
        size_t next = at;
        if (next < l->bytes && l->data[next] == '_' && (at > start || underscore_first)) {
            next++;
        }
        if (next >= l->bytes || digit_value(l->data[next]) >= base) {
            return at - start;
        }
        at = next + 1;
    }
}

/* Bytes of a float that starts here; 0: none. */
static size_t float_bytes(const struct lexer *l)
{
    if (l->at > 0 && l->data[l->at - 1] == '.') {
        return 0;
    }
    size_t at = l->at + digits(l, l->at, 10, false);
    bool is_float = false;
    if (at < l->bytes && l->data[at] == '.') {
        size_t fraction = digits(l, at + 1, 10, false);
        is_float = fraction > 0;
        at += fraction > 0 ? fraction + 1 : 0;
    }
    if (at < l->bytes && (l->data[at] == 'e' || l->data[at] == 'E')) {
        size_t sign = at + 1 < l->bytes && (l->data[at + 1] == '+' || l->data[at + 1] == '-');
        size_t exponent = digits(l, at + 1 + sign, 10, false);
        is_float = is_float || exponent > 0;
        at += exponent > 0 ? 1 + sign + exponent : 0;
    }
    return is_float ? at - l->at : 0;
}

static int read_float(struct lexer *l, size_t bytes)
{
    char text[64];
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (l->data[l->at + i] != '_') {
            if (n + 1 == sizeof(text)) {
                return FAIL(l, "a number of more than 63 digits is not supported", "");
            }
            text[n++] = l->data[l->at + i];
        }
    }
    text[n] = '\0';
    int rc = add(l, MED_JINJA_TOKEN_FLOAT, l->data + l->at, bytes);
    if (rc == 0) {
        l->tokens[l->count - 1].number = med_os_strtod(text, NULL);
        l->at += bytes;
    }
    return rc;
}

static int read_integer(struct lexer *l)
{
    const char *p = l->data + l->at;
    size_t left = l->bytes - l->at;
    char mark = '\0';
    if (left > 1)
        mark = (char)((unsigned char)p[1] | 0x20U);
    int base = 10;
    size_t prefix = 0;
    if (*p == '0' && (mark == 'x' || mark == 'o' || mark == 'b')) {
        int marked = mark == 'x' ? 16 : mark == 'o' ? 8 : 2;
        if (digits(l, l->at + 2, marked, true) > 0) {
            base = marked;
            prefix = 2;
        }
    }
    /* A decimal that starts with 0 is only zeros; what follows is another token. */
    size_t n = digits(l, l->at + prefix, base == 10 && *p == '0' ? 1 : base, prefix > 0);
    int64_t value = 0;
    for (size_t i = 0; i < n; i++) {
        char c = p[prefix + i];
        if (c != '_' && (__builtin_mul_overflow(value, base, &value) ||
                         __builtin_add_overflow(value, digit_value(c), &value))) {
            return FAIL(l, "an integer beyond 64 bits is not supported", "");
        }
    }
    int rc = add(l, MED_JINJA_TOKEN_INTEGER, p, prefix + n);
    if (rc == 0) {
        l->tokens[l->count - 1].integer = value;
        l->at += prefix + n;
    }
    return rc;
}

static size_t put_utf8(char *out, uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | (c >> 6));
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | (c >> 12));
        out[1] = (char)(0x80 | ((c >> 6) & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | (c >> 18));
    out[1] = (char)(0x80 | ((c >> 12) & 0x3F));
    out[2] = (char)(0x80 | ((c >> 6) & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

/* \xhh, \uhhhh, \Uhhhhhhhh: digits start at p. */
static int unescape_hex(struct lexer *l, const char *p, const char *end, size_t count, char **out)
{
    uint32_t c = 0;
    for (size_t i = 0; i < count; i++) {
        if (p + i >= end || digit_value(p[i]) >= 16) {
            return FAIL(l, "a string has an escape with too few hexadecimal digits", "");
        }
        c = c << 4 | (uint32_t)digit_value(p[i]);
    }
    if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) {
        return FAIL(l, "a string has an escape that is no Unicode character", "");
    }
    *out += put_utf8(*out, c);
    return 0;
}

/* One escape, the character after the backslash at p. Returns how many bytes it has, or < 0. */
static int unescape_one(struct lexer *l, const char *p, const char *end, char **out)
{
    static const char from[] = "\\'\"abfnrtv";
    static const char to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *simple = *p == '\0' ? NULL : strchr(from, *p);
    if (simple) {
        *(*out)++ = to[simple - from];
        return 1;
    }
    if (*p == '\n') {
        return 1;
    }
    if (*p >= '0' && *p <= '7') {
        uint32_t c = 0;
        int n = 0;
        while (n < 3 && p + n < end && p[n] >= '0' && p[n] <= '7') {
            c = c << 3 | (uint32_t)(p[n++] - '0');
        }
        *out += put_utf8(*out, c);
        return n;
    }
    size_t hex = *p == 'x' ? 2 : *p == 'u' ? 4 : *p == 'U' ? 8 : 0;
    if (hex > 0) {
        int rc = unescape_hex(l, p + 1, end, hex, out);
        return rc < 0 ? rc : 1 + (int)hex;
    }
    if (*p == 'N') {
        return FAIL(l, "the string escape \\N{...} is not supported", "");
    }
    if ((unsigned char)*p >= 0x80) {
        return FAIL(l, "a string has a backslash before a character beyond ASCII", "");
    }
    *(*out)++ = '\\';
    *(*out)++ = *p;
    return 1;
}

static int read_string(struct lexer *l)
{
    char quote = l->data[l->at];
    size_t start = l->at + 1;
    size_t end = start;
    bool escaped = false;
    while (end < l->bytes && l->data[end] != quote) {
        escaped = escaped || l->data[end] == '\\';
        end += l->data[end] == '\\' ? 2 : 1;
    }
    if (end >= l->bytes) {
        return FAIL(l, "a string is not closed", "");
    }
    int rc = add(l, MED_JINJA_TOKEN_STRING, l->data + start, end - start);
    if (rc == 0 && escaped) {
        /* An escape is never shorter than the character that it stands for. */
        char *out = med_jinja_arena_text(l->keep, end - start);
        if (!out) {
            return fail_memory(l, l->keep);
        }
        l->tokens[l->count - 1].text.data = out;
        const char *p = l->data + start;
        const char *stop = l->data + end;
        while (p < stop) {
            if (*p != '\\') {
                *out++ = *p++;
                continue;
            }
            int n = unescape_one(l, p + 1, stop, &out);
            if (n < 0) {
                return n;
            }
            p += 1 + n;
        }
        struct med_jinja_text *text = &l->tokens[l->count - 1].text;
        text->bytes = (size_t)(out - text->data);
    }
    if (rc == 0) {
        advance(l, end + 1 - l->at);
    }
    return rc;
}

static int read_operator(struct lexer *l)
{
    static const char *const operators[] = {"**", "//", "==", "!=", ">=", "<=", "+", "-", "*",
                                            "/",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                            ">",  "<",  "=",  ".",  ":",  "|",  ",", NULL};
    const char *const *op = operators;
    while (*op && !looking_at(l, *op)) {
        op++;
    }
    if (!*op) {
        char shown[] = {l->data[l->at], '\0'};
        bool printable = shown[0] > ' ' && shown[0] < 0x7F;
        return FAIL(l, "a tag has a character that is not supported there: ",
                    printable ? shown : "(not ASCII)");
    }
    char c = **op;
    if (c == '(' || c == '[' || c == '{') {
        if (l->open_count == OPEN_MAX) {
            return FAIL(l, "brackets are nested too deeply", "");
        }
        l->open[l->open_count++] = (char)(c == '(' ? ')' : c == '[' ? ']' : '}');
    }
    if (c == ')' || c == ']' || c == '}') {
        if (l->open_count == 0 || l->open[l->open_count - 1] != c) {
            return FAIL(l, "a closing bracket without its opening one: ", *op);
        }
        l->open_count--;
    }
    int rc = add(l, MED_JINJA_TOKEN_OPERATOR, l->data + l->at, strlen(*op));
    l->at += strlen(*op);
    return rc;
}

/* The end of the tag, if it is here. */
static bool at_tag_end(const struct lexer *l, bool block, size_t *ret_bytes, char *ret_sign)
{
    const char *end = block ? "%}" : "}}";
    if (l->open_count > 0) {
        return false;
    }
    *ret_sign = 0;
    *ret_bytes = 2;
    if (looking_at(l, end)) {
        return true;
    }
    char c = l->data[l->at];
    *ret_sign = c;
    *ret_bytes = 3;
    bool has_sign = c == '-' || (block && c == '+');
    return has_sign && l->bytes - l->at >= 3 && memcmp(l->data + l->at + 1, end, 2) == 0;
}

static int read_tag(struct lexer *l, bool block)
{
    int line = l->line;
    for (;;) {
        skip_space(l);
        if (l->at >= l->bytes) {
            return fail_at(l, line, "a tag is not closed, expected ", block ? "%}" : "}}");
        }
        size_t bytes;
        char sign;
        if (at_tag_end(l, block, &bytes, &sign)) {
            int rc = add(l, block ? MED_JINJA_TOKEN_BLOCK_END : MED_JINJA_TOKEN_VARIABLE_END,
                         l->data + l->at, bytes);
            end_tag(l, bytes, sign, block);
            return rc;
        }
        char c = l->data[l->at];
        int rc;
        size_t number = is_digit(c) ? float_bytes(l) : 0;
        if (number > 0) {
            rc = read_float(l, number);
        } else if (is_digit(c)) {
            rc = read_integer(l);
        } else if (is_name_start(c)) {
            size_t n = 1;
            while (l->at + n < l->bytes &&
                   (is_name_start(l->data[l->at + n]) || is_digit(l->data[l->at + n]))) {
                n++;
            }
            rc = n > MED_JINJA_NAME_BYTES ? FAIL(l, "a name is longer than 128 bytes", "")
                                          : add(l, MED_JINJA_TOKEN_NAME, l->data + l->at, n);
            l->at += n;
        } else if (c == '\'' || c == '"') {
            rc = read_string(l);
        } else {
            rc = read_operator(l);
        }
        if (rc < 0) {
            return rc;
        }
    }
}

/* The text up to the next tag, and the tag's beginning. */
static int read_data(struct lexer *l, enum tag *ret_tag)
{
    size_t start;
    enum tag tag = find_tag(l, &start);
    struct med_jinja_text text = {l->data + l->at, start - l->at};
    char sign = 0;
    if (tag != TAG_NONE && start + 2 < l->bytes &&
        (l->data[start + 2] == '-' || l->data[start + 2] == '+')) {
        sign = l->data[start + 2];
    }
    if (tag == TAG_VARIABLE && sign == '+') {
        sign = 0; // {{+ is {{ and a plus
    }
    size_t keep = tag == TAG_NONE ? text.bytes : stripped_bytes(l, text, tag, sign);
    int rc = keep > 0 ? add(l, MED_JINJA_TOKEN_DATA, text.data, keep) : 0;
    advance(l, text.bytes);
    if (rc == 0 && tag != TAG_NONE) {
        if (tag != TAG_COMMENT) {
            rc = add(
                l, tag == TAG_BLOCK ? MED_JINJA_TOKEN_BLOCK_BEGIN : MED_JINJA_TOKEN_VARIABLE_BEGIN,
                l->data + l->at, 2);
        }
        l->at += sign ? 3 : 2;
    }
    *ret_tag = tag;
    return rc;
}

/* All line ends to \n, and none at the end. */
static int normalise(struct lexer *l, struct med_jinja_text text)
{
    char *copy = med_jinja_arena_text(l->keep, text.bytes + 1);
    if (!copy) {
        return fail_memory(l, l->keep);
    }
    size_t n = 0;
    for (size_t i = 0; i < text.bytes; i++) {
        char c = text.data[i];
        if (c == '\r') {
            i += i + 1 < text.bytes && text.data[i + 1] == '\n' ? 1 : 0;
            c = '\n';
        }
        copy[n++] = c;
    }
    l->data = copy;
    l->bytes = n > 0 && copy[n - 1] == '\n' ? n - 1 : n;
    return 0;
}

int med_jinja_lex(struct med_jinja_text text, const char *name, struct med_jinja_arena *keep,
                  struct med_jinja_arena *scratch, struct med_jinja_token **ret_tokens,
                  struct med_err *err)
{
    struct lexer l = {.name = name,
                      .line = 1,
                      .line_starting = true,
                      .keep = keep,
                      .scratch = scratch,
                      .err = err};
    for (size_t i = 0, n; i < text.bytes; i += n) {
        n = med_utf8_char_bytes(text.data + i, text.bytes - i);
        if (n == 0) {
            return med_err_set(err, MED_E_FORMAT, "%s: byte %zu is not UTF-8", name, i);
        }
    }
    int rc = normalise(&l, text);
    while (rc == 0 && l.at < l.bytes) {
        enum tag tag;
        rc = read_data(&l, &tag);
        if (rc == 0 && tag == TAG_COMMENT) {
            rc = skip_comment(&l);
        } else if (rc == 0 && tag != TAG_NONE) {
            rc = read_tag(&l, tag == TAG_BLOCK);
        }
    }
    if (rc == 0) {
        rc = add(&l, MED_JINJA_TOKEN_END, NULL, 0);
    }
    if (rc == 0) {
        *ret_tokens = l.tokens;
    }
    return rc;
}
