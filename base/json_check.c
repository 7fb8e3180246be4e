/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The grammar of JSON, checked byte by byte before the library builds its tree.
 *
 * The library accepts more than JSON (control characters in strings, invalid UTF-8, numbers out of
 * range, text after the value) and says little about where it stopped.  So this scan decides what
 * is accepted and where the fault is, and the library only builds the tree.  The scan keeps the
 * open brackets in a fixed array: no recursion, no allocation.  Refused on top of the grammar:
 * \u0000 (C strings end there), numbers over 63 bytes or out of a double's range, a byte order
 * mark, nesting over MED_LIMIT_JSON_DEPTH, more than MED_LIMIT_JSON_VALUES values.  Duplicate keys
 * are found later, in the tree.  thread: any.
 */
#include "base/json_check.h"

#include "base/limits.h"
#include "base/os.h"
#include "base/utf8.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum {
    NUMBER_MAX = 63
}; // the library's own buffer for a number

struct scan {
    const char *start;
    const char *at;
    const char *end;
    const char *file;
    struct med_err *err;
    char open[MED_LIMIT_JSON_DEPTH]; // '{' or '['
    int depth;
};

static int peek(const struct scan *s)
{
    return s->at < s->end ? (unsigned char)*s->at : -1;
}

/* Fails at s->at. */
static int fail(const struct scan *s, const char *message)
{
    size_t line = 1;
    size_t column = 1;
    for (const char *p = s->start; p < s->at; p++) {
        if (*p == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)*p & 0xc0) != 0x80) {
            column++; // continuation bytes belong to the character before
        }
    }
    return med_err_set(s->err, MED_E_FORMAT, "%s: line %zu, column %zu: %s", s->file, line, column,
                       message);
}

/* Fails at s->at: "found X, expected Y". */
static int fail_expected(const struct scan *s, const char *expected)
{
    char message[160];
    int c = peek(s);
    if (c < 0) {
        (void)snprintf(message, sizeof message, "found the end of the text, expected %s", expected);
        return fail(s, message);
    }
    char shown[MED_UTF8_ESCAPE_CHAR_MAX] = "\"";
    size_t used;
    if (c != '"')
        (void)med_utf8_escape_char(shown, s->at, (size_t)(s->end - s->at), &used);
    (void)snprintf(message, sizeof message, "found '%s', expected %s", shown, expected);
    return fail(s, message);
}

static void skip_space(struct scan *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r'))
        s->at++;
}

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static void skip_digits(struct scan *s)
{
    while (is_digit(peek(s)))
        s->at++;
}

static int scan_number(struct scan *s)
{
    const char *first = s->at;
    if (peek(s) == '-')
        s->at++;
    if (!is_digit(peek(s)))
        return fail_expected(s, "a digit");
    if (peek(s) == '0') {
        s->at++;
        if (is_digit(peek(s)))
            return fail(s, "a number must not start with 0 and another digit");
    }
    skip_digits(s);
    if (peek(s) == '.') {
        s->at++;
        if (!is_digit(peek(s)))
            return fail_expected(s, "a digit after the decimal point");
        skip_digits(s);
    }
    if (peek(s) == 'e' || peek(s) == 'E') {
        s->at++;
        if (peek(s) == '+' || peek(s) == '-')
            s->at++;
        if (!is_digit(peek(s)))
            return fail_expected(s, "a digit in the exponent");
        skip_digits(s);
    }
    size_t length = (size_t)(s->at - first);
    char text[NUMBER_MAX + 1];
    bool fits = length <= NUMBER_MAX;
    if (fits) {
        memcpy(text, first, length);
        text[length] = '\0';
    }
    const char *after = s->at;
    s->at = first;
    if (!fits)
        return fail(s, "the number has more than 63 characters");
    if (!isfinite(med_os_strtod(text, NULL)))
        return fail(s, "the number is too large for a double");
    s->at = after;
    return 0;
}

/* Reads the four hex digits of \uXXXX at s->at; -1 if they are not there. */
static long scan_hex4(struct scan *s)
{
    long value = 0;
    for (int i = 0; i < 4; i++) {
        int c = peek(s);
        int digit = is_digit(c)            ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
        s->at++;
    }
    return value;
}

/* s->at is behind "\u". */
static int scan_unicode_escape(struct scan *s)
{
    const char *digits = s->at;
    long value = scan_hex4(s);
    if (value < 0)
        return fail_expected(s, "four hexadecimal digits after \\u");
    if (value == 0) {
        s->at = digits;
        return fail(s, "\\u0000 is not accepted in a string");
    }
    if (value < 0xd800 || value > 0xdfff)
        return 0;
    const char *pair = s->at;
    if (value <= 0xdbff && s->end - s->at >= 2 && s->at[0] == '\\' && s->at[1] == 'u') {
        s->at += 2;
        long second = scan_hex4(s);
        if (second >= 0xdc00 && second <= 0xdfff)
            return 0;
    }
    s->at = pair;
    return fail(s, "half of a surrogate pair (\\ud800 to \\udfff) without its other half");
}

static int scan_escape(struct scan *s)
{
    s->at++; // the backslash
    int c = peek(s);
    if (c == 'u') {
        s->at++;
        return scan_unicode_escape(s);
    }
    if (c <= 0 || !strchr("\"\\/bfnrt", c))
        return fail_expected(s, "one of \" \\ / b f n r t u after a backslash");
    s->at++;
    return 0;
}

/* ASCII that stands for itself in a string. */
static bool is_plain(char c)
{
    return (unsigned char)c >= 0x20 && (unsigned char)c < 0x80 && c != '"' && c != '\\';
}

static int scan_string(struct scan *s)
{
    s->at++; // the quote
    for (;;) {
        while (s->at < s->end && is_plain(*s->at))
            s->at++;
        int c = peek(s);
        if (c < 0)
            return fail_expected(s, "the closing quote of a string");
        if (c == '"') {
            s->at++;
            return 0;
        }
        if (c == '\\') {
            int rc = scan_escape(s);
            if (rc < 0)
                return rc;
            continue;
        }
        if (c < 0x20)
            return fail(s, "a control character in a string must be escaped");
        size_t bytes = med_utf8_char_bytes(s->at, (size_t)(s->end - s->at));
        if (bytes == 0)
            return fail(s, "the string is not valid UTF-8");
        s->at += bytes;
    }
}

static int scan_word(struct scan *s, const char *word)
{
    size_t length = strlen(word);
    if ((size_t)(s->end - s->at) < length || memcmp(s->at, word, length) != 0)
        return fail_expected(s, "a JSON value");
    s->at += length;
    return 0;
}

static int scan_key(struct scan *s)
{
    skip_space(s);
    if (peek(s) != '"')
        return fail_expected(s, "a key in double quotes");
    int rc = scan_string(s);
    if (rc < 0)
        return rc;
    skip_space(s);
    if (peek(s) != ':')
        return fail_expected(s, "':' after the key");
    s->at++;
    return 0;
}

/* Opens the container at s->at; an empty one is closed at once. *ret_complete: it was empty. */
static int scan_open(struct scan *s, bool *ret_complete)
{
    char bracket = *s->at;
    if (s->depth == MED_LIMIT_JSON_DEPTH)
        return fail(s, "nested deeper than 64 levels");
    s->open[s->depth++] = bracket;
    s->at++;
    skip_space(s);
    if (peek(s) == (bracket == '{' ? '}' : ']')) {
        s->at++;
        s->depth--;
        *ret_complete = true;
        return 0;
    }
    *ret_complete = false;
    return bracket == '{' ? scan_key(s) : 0;
}

static int scan_scalar(struct scan *s)
{
    int c = peek(s);
    if (c == '"')
        return scan_string(s);
    if (c == '-' || is_digit(c))
        return scan_number(s);
    return scan_word(s, c == 't' ? "true" : c == 'f' ? "false" : "null");
}

/* Behind a value: closes what closes. *ret_more: another value follows. */
static int scan_after_value(struct scan *s, bool *ret_more)
{
    *ret_more = false;
    while (s->depth > 0) {
        bool in_object = s->open[s->depth - 1] == '{';
        skip_space(s);
        int c = peek(s);
        if (c == ',') {
            s->at++;
            *ret_more = true;
            return in_object ? scan_key(s) : 0;
        }
        if (c != (in_object ? '}' : ']'))
            return fail_expected(s, in_object ? "',' or '}'" : "',' or ']'");
        s->at++;
        s->depth--;
    }
    return 0;
}

int med_json_check(const char *bytes, size_t count, const char *file, struct med_err *err)
{
    struct scan s = {.start = bytes, .at = bytes, .end = bytes + count, .file = file, .err = err};
    static_assert(MED_LIMIT_JSON_DEPTH == 64, "scan_open says 64");
    if (count >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0)
        return fail(&s, "the text starts with a byte order mark, which JSON does not allow");
    bool more = true;
    size_t values = 0;
    while (more) {
        bool complete = true;
        skip_space(&s);
        if (++values > MED_LIMIT_JSON_VALUES) {
            char message[96];
            (void)snprintf(message, sizeof message, "found value number %zu, expected at most %d",
                           values, MED_LIMIT_JSON_VALUES);
            return fail(&s, message);
        }
        int c = peek(&s);
        int rc = c == '{' || c == '[' ? scan_open(&s, &complete) : scan_scalar(&s);
        if (rc == 0 && complete)
            rc = scan_after_value(&s, &more);
        if (rc < 0)
            return rc;
    }
    skip_space(&s);
    return s.at == s.end ? 0 : fail_expected(&s, "the end of the text after the value");
}
