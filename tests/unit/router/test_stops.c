/* SPDX-License-Identifier: Apache-2.0 */
/* Stop strings: short texts over a small alphabet, cut in every way, against a naive search. */
#include "base/alloc.h"
#include "router/tokenizer/stops.h"
#include "tests/check.h"

enum {
    TEXT_BYTES = 6,
    TEXT_MAX = 64
};

struct want {
    int match;
    size_t out_bytes; /* what has come out at the end */
};

/* The rule, word for word: the match that is complete first; of those, the longest. */
static struct want search(const char *const *strings, size_t count, bool include, const char *text,
                          size_t bytes)
{
    struct want want = {.match = -1, .out_bytes = bytes};
    for (size_t end = 1; end <= bytes && want.match < 0; end++) {
        size_t longest = 0;
        for (size_t i = 0; i < count; i++) {
            size_t n = strlen(strings[i]);
            if (n <= end && n > longest && memcmp(text + end - n, strings[i], n) == 0) {
                longest = n;
                want.match = (int)i;
                want.out_bytes = include ? end : end - n;
            }
        }
    }
    return want;
}

/* Bytes at the end of the text that may still become a stop string. */
static size_t may_become(const char *const *strings, size_t count, const char *text, size_t bytes)
{
    size_t longest = 0;
    for (size_t i = 0; i < count; i++) {
        for (size_t n = 1; n < strlen(strings[i]) && n <= bytes; n++) {
            if (n > longest && memcmp(text + bytes - n, strings[i], n) == 0) {
                longest = n;
            }
        }
    }
    return longest;
}

static void check_cuts(const char *const *strings, size_t count, bool include, const char *text,
                       size_t bytes)
{
    struct want want = search(strings, count, include, text, bytes);
    for (unsigned cuts = 0; cuts < 1u << (bytes > 0 ? bytes - 1 : 0); cuts++) {
        struct med_stops stops;
        struct med_buf out;
        int match = -1;
        size_t from = 0;
        REQUIRE(med_stops_init(&stops, strings, count, include) == 0);
        med_buf_init(&out, TEXT_MAX);
        for (size_t i = 1; i <= bytes && match < 0; i++) {
            if (i < bytes && (cuts >> (i - 1) & 1) == 0) {
                continue;
            }
            REQUIRE(med_stops_add(&stops, text + from, i - from, &out, &match) == 0);
            from = i;
            if (match < 0) {
                CHECK_UINT(out.length, i - may_become(strings, count, text, i));
            }
        }
        REQUIRE(med_stops_end(&stops, &out) == 0);
        CHECK_INT(match, want.match);
        CHECK_UINT(out.length, want.out_bytes);
        CHECK(out.length == 0 || memcmp(out.data, text, out.length) == 0);
        med_buf_release(&out);
        med_stops_release(&stops);
    }
}

/* Every text of `bytes` letters a, b and c. */
static void check_texts(const char *const *strings, size_t count, size_t bytes)
{
    size_t texts = 1;
    for (size_t i = 0; i < bytes; i++)
        texts *= 3;
    for (size_t t = 0; t < texts; t++) {
        char text[TEXT_BYTES + 1];
        size_t left = t;
        for (size_t i = 0; i < bytes; i++, left /= 3)
            text[i] = (char)('a' + left % 3);
        /* Every cut of texts of up to four bytes, and of some longer ones. */
        check_cuts(strings, count, (t & 1) != 0, text, bytes > 4 && t % 8 != 0 ? 4 : bytes);
    }
}

static void test_every_text_and_cut_when_compared_then_as_the_naive_search(void)
{
    static const struct {
        const char *strings[4];
        size_t count;
    } sets[] = {
        {{"a"}, 1},
        {{"ab"}, 1},
        {{"aab"}, 1},
        {{"abab"}, 1},
        {{"aaa"}, 1},
        {{"b", "ab"}, 2},
        {{"aba", "b"}, 2},
        {{"abb", "bba"}, 2},
        {{"ab", "abb"}, 2},
        {{"bab", "ab"}, 2},
        {{"aab", "ab", "c"}, 3},
        {{"abc", "bcd", "c", "aaaa"}, 4},
        {{"ab", "ab"}, 2},
        {{"cab", "abca"}, 2},
    };
    for (size_t s = 0; s < sizeof(sets) / sizeof(*sets); s++) {
        for (size_t bytes = 0; bytes <= TEXT_BYTES; bytes++)
            check_texts(sets[s].strings, sets[s].count, bytes);
    }
}

static void test_characters_when_cut_by_a_stop_string_then_stay_whole(void)
{
    static const char *const strings[] = {"é!", "世界"};
    static const char *const pieces[] = {"caf", "é", "?", " 世", "x", "é", "!", NULL};
    struct med_stops stops;
    struct med_buf out;
    int match = -1;
    REQUIRE(med_stops_init(&stops, strings, 2, false) == 0);
    med_buf_init(&out, TEXT_MAX);
    for (size_t i = 0; pieces[i]; i++) {
        CHECK_INT(match, -1);
        REQUIRE(med_stops_add(&stops, pieces[i], strlen(pieces[i]), &out, &match) == 0);
    }
    CHECK_INT(match, 0);
    CHECK_STR(out.data, "café? 世x");
    med_buf_release(&out);
    med_stops_release(&stops);
}

static void test_no_strings_when_text_comes_then_nothing_is_held(void)
{
    struct med_stops stops;
    struct med_buf out;
    int match = 0;
    REQUIRE(med_stops_init(&stops, NULL, 0, false) == 0);
    med_buf_init(&out, TEXT_MAX);
    REQUIRE(med_stops_add(&stops, "text", 4, &out, &match) == 0);
    CHECK_INT(match, -1);
    CHECK_STR(out.data, "text");
    med_buf_release(&out);
    med_stops_release(&stops);
    struct med_stops zeroed = {0};
    med_stops_release(&zeroed);
}

static void test_every_allocation_when_it_fails_then_nothing_leaks(void)
{
    static const char *const strings[] = {"stop", "end"};
    int64_t live = med_alloc_bytes_live();
    uint64_t nth = 0;
    int rc;
    do {
        struct med_stops stops;
        struct med_buf out;
        int match;
        med_buf_init(&out, TEXT_MAX);
        (void)med_alloc_fail_nth(++nth);
        rc = med_stops_init(&stops, strings, 2, false);
        if (rc == 0) {
            rc = med_stops_add(&stops, "a st", 4, &out, &match);
            med_stops_release(&stops);
        }
        (void)med_alloc_fail_nth(0);
        CHECK(rc == 0 || rc == MED_E_NOMEM);
        med_buf_release(&out);
        CHECK_INT(med_alloc_bytes_live(), live);
    } while (rc < 0 && nth < 100);
    CHECK(nth > 5 && nth < 100);
}

int main(void)
{
    RUN(test_every_text_and_cut_when_compared_then_as_the_naive_search);
    RUN(test_characters_when_cut_by_a_stop_string_then_stay_whole);
    RUN(test_no_strings_when_text_comes_then_nothing_is_held);
    RUN(test_every_allocation_when_it_fails_then_nothing_leaks);
    return check_finish();
}
