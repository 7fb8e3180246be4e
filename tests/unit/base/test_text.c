/* SPDX-License-Identifier: Apache-2.0 */
/* UTF-8, escaping and suggestions.  thread: main. */
#include "base/suggest.h"
#include "base/utf8.h"
#include "tests/check.h"

static void test_utf8_lengths(void)
{
    static const struct {
        const char *text;
        size_t bytes; // 0: invalid
    } cases[] = {
        {"a", 1},
        {"\x7f", 1},
        {"\xc2\x80", 2},
        {"\xdf\xbf", 2},
        {"\xe0\xa0\x80", 3},
        {"\xed\x9f\xbf", 3},
        {"\xee\x80\x80", 3},
        {"\xf0\x90\x80\x80", 4},
        {"\xf4\x8f\xbf\xbf", 4},
        {"", 0},
        {"\x80", 0},             // a continuation alone
        {"\xc0\x80", 0},         // overlong
        {"\xc1\xbf", 0},         // overlong
        {"\xe0\x9f\xbf", 0},     // overlong
        {"\xf0\x8f\xbf\xbf", 0}, // overlong
        {"\xed\xa0\x80", 0},     // a surrogate
        {"\xf4\x90\x80\x80", 0}, // above U+10FFFF
        {"\xf5\x80\x80\x80", 0},
        {"\xff", 0},
        {"\xe2\x82", 0}, // cut
        {"\xc3(", 0},
        {"\xf0\x9f\x98z", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        CHECK_UINT(med_utf8_char_bytes(cases[i].text, strlen(cases[i].text)), cases[i].bytes);
}

static void test_escape(void)
{
    char out[64];
    CHECK_UINT(med_utf8_escape(out, sizeof out, "a\"\\\n\r\t\b\f\x1f\x7f\xc3\xa9\xff\0z", 15), 39);
    CHECK_STR(out, "a\\\"\\\\\\n\\r\\t\\b\\f\\u001f\\u007f\xc3\xa9\xef\xbf\xbd\\u0000z");
}

static void test_escape_when_full_then_cut_between_characters(void)
{
    for (size_t room = 1; room <= 8; room++) {
        char out[8];
        size_t length = med_utf8_escape(out, room, "a\n\xc3\xa9z", 5);
        static const size_t want[] = {0, 0, 1, 1, 3, 3, 5, 6, 6}; // by room
        CHECK_UINT(length, want[room]);
        CHECK_UINT(strlen(out), length);
    }
    CHECK_UINT(med_utf8_escape(NULL, 0, "abc", 3), 0);
}

static const char *suggest(const char *typed)
{
    static const char *const words[] = {"plan", "replay", "workload", "worker", "router", "up"};
    struct med_suggest s;
    med_suggest_init(&s, typed);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        med_suggest_offer(&s, words[i]);
    return s.best;
}

static void test_suggestions(void)
{
    CHECK_STR(suggest("paln"), "plan");      // a swap
    CHECK_STR(suggest("pla"), "plan");       // a letter is missing
    CHECK_STR(suggest("plann"), "plan");     // one too many
    CHECK_STR(suggest("wroker"), "worker");  // not workload
    CHECK_STR(suggest("workl"), "workload"); // its beginning
    CHECK_STR(suggest("rooter"), "router");
    CHECK_STR(suggest("serve"), NULL);
    CHECK_STR(suggest(""), NULL);
    CHECK_STR(suggest("x"), NULL);
    char huge[200];
    memset(huge, 'p', sizeof huge - 1);
    huge[sizeof huge - 1] = '\0';
    CHECK_STR(suggest(huge), NULL);
}

int main(void)
{
    RUN(test_utf8_lengths);
    RUN(test_escape);
    RUN(test_escape_when_full_then_cut_between_characters);
    RUN(test_suggestions);
    return check_finish();
}
