/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The text of a growing choice, with the byte-level tokenizer of tests/data/tokenizers/gpt2, whose ids
 * are found by their spelling: letters, and the bytes of characters.
 */
#include "base/alloc.h"
#include "base/limits.h"
#include "router/answer.h"
#include "tests/check.h"

#include <string.h>

enum {
    IDS_MAX = 256
};

static struct med_tokenizer *tokenizer;

/* The id whose piece is this byte. */
static uint32_t byte_id(char byte)
{
    struct med_buf bytes;
    med_buf_init(&bytes, MED_LIMIT_TOKEN_BYTES);
    uint32_t id = 0;
    for (bool found = false; !found; id += !found) {
        REQUIRE(id < (uint32_t)med_tokenizer_vocab(tokenizer));
        med_buf_clear(&bytes);
        REQUIRE(med_tokenizer_token_bytes(tokenizer, id, &bytes) == 0);
        found = bytes.length == 1 && bytes.data[0] == byte;
    }
    med_buf_release(&bytes);
    return id;
}

static size_t byte_ids(const char *text, uint32_t ids[IDS_MAX])
{
    size_t count = strlen(text);
    REQUIRE(count <= IDS_MAX);
    for (size_t i = 0; i < count; i++)
        ids[i] = byte_id(text[i]);
    return count;
}

struct run {
    struct med_buf text;
    size_t tokens, out; // taken, come out
    const char *stop;
};

/* Feeds `text` in pieces of `step` tokens; checks what holds at every moment. */
static void run(const struct med_answer_options *options, const char *text, size_t step,
                struct run *ret_run)
{
    uint32_t ids[IDS_MAX];
    size_t count = byte_ids(text, ids);
    struct med_answer answer;
    REQUIRE(med_answer_init(&answer, options) == 0);
    *ret_run = (struct run){0};
    med_buf_init(&ret_run->text, 1 << 20);
    for (size_t at = 0; at < count && !answer.ended; at += step) {
        size_t taken = 0;
        size_t give = count - at < step ? count - at : step;
        REQUIRE(med_answer_add(&answer, ids + at, give, &taken) == 0);
        CHECK(taken == give || answer.ended);
        ret_run->tokens += taken;
        CHECK_INT(med_buf_append(&ret_run->text, answer.text.data, answer.text.length), 0);
        med_buf_clear(&answer.text);
        size_t out = med_answer_tokens_out(&answer);
        CHECK(out >= ret_run->out);
        CHECK(out <= ret_run->tokens);
        ret_run->out = out;
        /* Each token is a byte: those that came out have all of their text there. */
        if (!answer.ended && options->echo == NULL)
            CHECK(ret_run->text.length >= out);
    }
    REQUIRE(med_answer_end(&answer) == 0);
    CHECK_INT(med_buf_append(&ret_run->text, answer.text.data, answer.text.length), 0);
    CHECK_UINT(med_answer_tokens_out(&answer), ret_run->tokens);
    ret_run->stop = med_answer_stop(&answer);
    med_answer_release(&answer);
}

static void test_stop_strings_end_it_wherever_the_frames_are_cut(void)
{
    static const struct {
        const char *text, *stops[3], *want, *stop;
        size_t tokens;
        bool include;
        uint32_t min_tokens;
    } table[] = {
        {"hello world", {"wor"}, "hello ", "wor", 9, false, 0},
        {"hello world", {"wor"}, "hello wor", "wor", 9, true, 0},
        {"hello world", {"xyz"}, "hello world", NULL, 11, false, 0},
        {"hello wo", {"world"}, "hello wo", NULL, 8, false, 0},
        {"aaab", {"aab"}, "a", "aab", 4, false, 0},
        {"ab\xc3\xa9z!", {"\xc3\xa9z"}, "ab", "\xc3\xa9z", 5, false, 0},
        {"abcabc", {"c", "abc"}, "", "abc", 3, false, 0},
        {"abcabc", {"c"}, "abcab", "c", 6, false, 3},
        {"abcabc", {"ca"}, "abcabc", NULL, 6, false, 3}, // it begins before the fourth token
        {"x", {"x"}, "", "x", 1, false, 0},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct med_answer_options options = {.tokenizer = tokenizer,
                                             .skip_special = true,
                                             .include_stop = table[i].include,
                                             .min_tokens = table[i].min_tokens,
                                             .stops = table[i].stops};
        while (options.stop_count < 3 && table[i].stops[options.stop_count] != NULL)
            options.stop_count++;
        for (size_t step = 1; step <= 12; step++) {
            struct run got;
            run(&options, table[i].text, step, &got);
            CHECK_STR(got.text.data != NULL ? got.text.data : "", table[i].want);
            CHECK_UINT(got.tokens, table[i].tokens);
            CHECK_INT(got.stop != NULL, table[i].stop != NULL);
            if (got.stop != NULL && table[i].stop != NULL)
                CHECK_STR(got.stop, table[i].stop);
            med_buf_release(&got.text);
        }
    }
}

static void test_half_characters_wait_and_their_tokens_with_them(void)
{
    uint32_t ids[IDS_MAX];
    struct med_answer_options options = {.tokenizer = tokenizer};
    struct med_answer answer;
    size_t taken;
    size_t count = byte_ids("a\xf0\x9f\x98\x80z\xc3", ids);
    REQUIRE(med_answer_init(&answer, &options) == 0);
    static const size_t out[] = {1, 1, 1, 1, 5, 6, 6};
    static const size_t bytes[] = {1, 1, 1, 1, 5, 6, 6};
    for (size_t i = 0; i < count; i++) {
        REQUIRE(med_answer_add(&answer, ids + i, 1, &taken) == 0);
        CHECK_UINT(med_answer_tokens_out(&answer), out[i]);
        CHECK_UINT(answer.text.length, bytes[i]);
    }
    REQUIRE(med_answer_end(&answer) == 0);
    CHECK_UINT(med_answer_tokens_out(&answer), 7);
    CHECK_STR(answer.text.data, "a\xf0\x9f\x98\x80z\xef\xbf\xbd");
    med_answer_release(&answer);
}

static void test_echo_and_stop_tokens(void)
{
    uint32_t ids[IDS_MAX];
    size_t count = byte_ids("ab.", ids);
    for (int include = 0; include < 2; include++) {
        struct med_answer_options options = {.tokenizer = tokenizer,
                                             .include_stop = include == 1,
                                             .stop_ids = &ids[2],
                                             .stop_id_count = 1,
                                             .echo = "prompt ",
                                             .echo_bytes = 7};
        struct med_answer answer;
        size_t taken;
        REQUIRE(med_answer_init(&answer, &options) == 0);
        REQUIRE(med_answer_add(&answer, ids, count, &taken) == 0);
        REQUIRE(med_answer_end(&answer) == 0);
        CHECK_UINT(taken, 3);
        CHECK_STR(answer.text.data, include ? "prompt ab." : "prompt ab");
        med_answer_release(&answer);
    }
}

static void test_the_token_that_ends_a_sequence_has_no_text(void)
{
    uint32_t ids[IDS_MAX];
    size_t count = byte_ids("ab.", ids);
    for (uint32_t min_tokens = 0; min_tokens < 4; min_tokens++) {
        struct med_answer_options options = {
            .tokenizer = tokenizer, .min_tokens = min_tokens, .eos_ids = &ids[2], .eos_count = 1};
        struct med_answer answer;
        size_t taken;
        REQUIRE(med_answer_init(&answer, &options) == 0);
        REQUIRE(med_answer_add(&answer, ids, count, &taken) == 0);
        REQUIRE(med_answer_end(&answer) == 0);
        CHECK_UINT(taken, 3);
        CHECK_UINT(med_answer_tokens_out(&answer), 3);
        CHECK_STR(answer.text.data, min_tokens > 2 ? "ab." : "ab");
        med_answer_release(&answer);
    }
}

static void test_without_a_tokenizer_tokens_pass(void)
{
    const struct med_answer_options options = {0};
    const uint32_t ids[] = {1, UINT32_MAX, 7};
    struct med_answer answer;
    size_t taken = 0;
    REQUIRE(med_answer_init(&answer, &options) == 0);
    REQUIRE(med_answer_add(&answer, ids, 3, &taken) == 0);
    CHECK_UINT(taken, 3);
    CHECK_UINT(med_answer_tokens_out(&answer), 3);
    CHECK_UINT(answer.text.length, 0);
    REQUIRE(med_answer_end(&answer) == 0);
    med_answer_release(&answer);
}

static void test_every_allocation_may_fail(void)
{
    static const char *const stops[] = {"lo w"};
    const struct med_answer_options options = {
        .tokenizer = tokenizer, .stops = stops, .stop_count = 1, .echo = "x", .echo_bytes = 1};
    uint32_t ids[IDS_MAX];
    size_t count = byte_ids("hello, hel\xc3\xa9lo world", ids);
    int64_t before = med_alloc_bytes_live();
    int whole = 0;
    for (uint64_t nth = 1; nth < 40; nth++) {
        struct med_answer answer;
        size_t taken = 0;
        (void)med_alloc_fail_nth(nth);
        int rc = med_answer_init(&answer, &options);
        if (rc == 0)
            rc = med_answer_add(&answer, ids, count, &taken);
        if (rc == 0)
            rc = med_answer_end(&answer);
        (void)med_alloc_fail_nth(0);
        CHECK(rc == 0 || rc == MED_E_NOMEM);
        whole += rc == 0;
        med_answer_release(&answer);
        CHECK_INT(med_alloc_bytes_live(), before);
    }
    CHECK(whole > 0);
}

int main(void)
{
    struct med_err err = {0};
    if (med_tokenizer_load("tests/data/tokenizers/gpt2", &tokenizer, &err) < 0) {
        (void)fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    RUN(test_stop_strings_end_it_wherever_the_frames_are_cut);
    RUN(test_half_characters_wait_and_their_tokens_with_them);
    RUN(test_echo_and_stop_tokens);
    RUN(test_the_token_that_ends_a_sequence_has_no_text);
    RUN(test_without_a_tokenizer_tokens_pass);
    RUN(test_every_allocation_may_fail);
    med_tokenizer_free(tokenizer);
    return check_finish();
}
