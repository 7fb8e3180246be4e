/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A scanner for the few keys of an answer that a load test counts.
 *
 * Objects that matter are walked level by level; every other value is passed over with a count of
 * brackets, so that nothing is recursive.  It checks structure, not every letter: numbers and
 * strings that are passed over may be odd.
 * thread: any; pure.
 */
#include "router/bench/facts.h"

#include <string.h>

struct scan {
    const char *at, *end;
    bool bad;
};

struct text {
    const char *at;
    size_t bytes;
};

static void fail(struct scan *s)
{
    s->bad = true;
    s->at = s->end;
}

static char peek(struct scan *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\t' || *s->at == '\r'))
        s->at++;
    if (s->at == s->end)
        return '\0';
    return *s->at;
}

static bool take(struct scan *s, char c)
{
    if (peek(s) != c || s->at == s->end)
        return false;
    s->at++;
    return true;
}

/* A string, escapes left in. */
static struct text read_string(struct scan *s)
{
    struct text text = {s->at, 0};
    if (!take(s, '"')) {
        fail(s);
        return text;
    }
    text.at = s->at;
    while (s->at < s->end && *s->at != '"')
        s->at += *s->at == '\\' && s->at + 1 < s->end ? 2 : 1;
    if (s->at >= s->end) {
        fail(s);
        return (struct text){s->end, 0};
    }
    text.bytes = (size_t)(s->at - text.at);
    s->at++;
    return text;
}

static void skip_scalar(struct scan *s)
{
    const char *from = s->at;
    while (s->at < s->end && !strchr(",]} \t\r\n", *s->at))
        s->at++;
    if (s->at == from)
        fail(s);
}

/* Passes over any value; ret_items (may be NULL): elements of an array. */
static void skip_value(struct scan *s, int64_t *ret_items)
{
    size_t depth = 0;
    int64_t items = 0;
    bool any = false;
    do {
        char c = peek(s);
        if (s->at == s->end) {
            fail(s);
        } else if (c == '"') {
            (void)read_string(s);
            any = true;
        } else if (c == '[' || c == '{') {
            s->at++;
            any = any || depth > 0;
            depth++;
        } else if ((c == ']' || c == '}') && depth > 0) {
            s->at++;
            depth--;
        } else if ((c == ',' || c == ':') && depth > 0) {
            s->at++;
            items += depth == 1 && c == ',';
        } else {
            skip_scalar(s);
            any = true;
        }
    } while (depth > 0 && !s->bad);
    if (ret_items)
        *ret_items = any ? items + 1 : 0;
}

/* The next key of an object whose '{' was taken; false at its end. */
static bool next_key(struct scan *s, bool *first, struct text *ret_key)
{
    if (take(s, '}') || s->bad)
        return false;
    if (!*first && !take(s, ','))
        fail(s);
    *first = false;
    *ret_key = read_string(s);
    if (!take(s, ':'))
        fail(s);
    return !s->bad;
}

static bool is(struct text text, const char *word)
{
    return text.bytes == strlen(word) && memcmp(text.at, word, text.bytes) == 0;
}

static int64_t read_count(struct scan *s)
{
    (void)peek(s);
    int64_t value = 0;
    const char *from = s->at;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9' && value < (INT64_C(1) << 52))
        value = value * 10 + (*s->at++ - '0');
    if (s->at > from && (s->at == s->end || strchr(",} \t\r\n", *s->at)))
        return value;
    s->at = from;
    skip_value(s, NULL);
    return -1;
}

/* A value that is there: not null, no empty string, array or object. */
static bool read_is_there(struct scan *s)
{
    char c = peek(s);
    if (c == '"')
        return read_string(s).bytes > 0;
    if (c == '[' || c == '{') {
        int64_t items;
        skip_value(s, &items);
        return items > 0;
    }
    bool null = c == 'n';
    skip_value(s, NULL);
    return !null;
}

/* delta or message of a chat */
static void read_message(struct scan *s, struct med_bench_facts *facts)
{
    if (!take(s, '{')) {
        skip_value(s, NULL);
        return;
    }
    struct text key;
    for (bool first = true; next_key(s, &first, &key);) {
        if (is(key, "content") || is(key, "reasoning_content") || is(key, "reasoning") ||
            is(key, "tool_calls")) {
            bool there = read_is_there(s);
            facts->has_text = facts->has_text || there;
        } else if (is(key, "role")) {
            facts->has_role = read_is_there(s);
        } else {
            skip_value(s, NULL);
        }
    }
}

static void read_choice(struct scan *s, struct med_bench_facts *facts)
{
    if (!take(s, '{')) {
        fail(s);
        return;
    }
    facts->has_choice = true;
    struct text key;
    for (bool first = true; next_key(s, &first, &key);) {
        if (is(key, "text")) {
            bool there = read_is_there(s);
            facts->has_text = facts->has_text || there;
        } else if (is(key, "delta") || is(key, "message")) {
            read_message(s, facts);
        } else if (is(key, "finish_reason")) {
            bool there = read_is_there(s);
            facts->has_finish = facts->has_finish || there;
        } else if (is(key, "token_ids") && peek(s) == '[') {
            int64_t items;
            skip_value(s, &items);
            facts->token_ids = (facts->token_ids > 0 ? facts->token_ids : 0) + items;
        } else {
            skip_value(s, NULL);
        }
    }
}

static void read_choices(struct scan *s, struct med_bench_facts *facts)
{
    if (!take(s, '[')) {
        skip_value(s, NULL);
        return;
    }
    if (take(s, ']'))
        return;
    do {
        read_choice(s, facts);
    } while (!s->bad && take(s, ','));
    if (!take(s, ']'))
        fail(s);
}

static void read_usage(struct scan *s, struct med_bench_facts *facts)
{
    if (!take(s, '{')) {
        skip_value(s, NULL);
        return;
    }
    struct text key;
    for (bool first = true; next_key(s, &first, &key);) {
        if (is(key, "completion_tokens")) {
            facts->completion_tokens = read_count(s);
        } else if (is(key, "prompt_tokens")) {
            facts->prompt_tokens = read_count(s);
        } else {
            skip_value(s, NULL);
        }
    }
}

static void keep_error(struct med_bench_facts *facts, struct text text)
{
    size_t bytes = text.bytes < sizeof(facts->error) - 1 ? text.bytes : sizeof(facts->error) - 1;
    for (size_t i = 0; i < bytes; i++) { // printable ASCII: it goes to a terminal
        char c = text.at[i];
        facts->error[i] = (char)(c >= ' ' && c < 127 ? c : '?');
    }
    facts->error[bytes] = '\0';
}

static void read_error(struct scan *s, struct med_bench_facts *facts)
{
    char c = peek(s);
    facts->has_error = c != 'n';
    if (c == '"') {
        keep_error(facts, read_string(s));
        return;
    }
    if (!take(s, '{')) {
        skip_value(s, NULL);
        return;
    }
    struct text key;
    for (bool first = true; next_key(s, &first, &key);) {
        if (is(key, "message") && peek(s) == '"') {
            keep_error(facts, read_string(s));
        } else if (is(key, "code") && peek(s) != '"') {
            int64_t code = read_count(s);
            facts->error_code = code >= 100 && code < 600 ? (int)code : 0;
        } else {
            skip_value(s, NULL);
        }
    }
}

int med_bench_facts_read(const char *json, size_t bytes, struct med_bench_facts *ret_facts)
{
    struct scan s = {json, json + bytes, false};
    *ret_facts =
        (struct med_bench_facts){.token_ids = -1, .prompt_tokens = -1, .completion_tokens = -1};
    if (!take(&s, '{'))
        return MED_E_FORMAT;
    struct text key;
    for (bool first = true; next_key(&s, &first, &key);) {
        if (is(key, "choices")) {
            read_choices(&s, ret_facts);
        } else if (is(key, "usage")) {
            read_usage(&s, ret_facts);
        } else if (is(key, "error")) {
            read_error(&s, ret_facts);
        } else {
            skip_value(&s, NULL);
        }
    }
    (void)peek(&s);
    return s.bad || s.at != s.end ? MED_E_FORMAT : 0;
}
