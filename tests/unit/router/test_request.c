/* SPDX-License-Identifier: Apache-2.0 */
/* The checks of what a client asked for: one row per sentence. */
#include "base/alloc.h"
#include "router/request.h"
#include "tests/check.h"

#include <math.h>
#include <string.h>

#define ALWAYS SIZE_MAX

static const struct med_query_limits limits = {.vocab_tokens = 100,
                                               .has_tokenizer = true,
                                               .has_chat_template = true,
                                               .context = {.connected = 64, .planned = 128}};

static struct med_query *text_query(void)
{
    struct med_query *query = med_query_new();
    REQUIRE(query != NULL);
    query->input.kind = MED_INPUT_TEXT;
    query->input.text = med_strdup("hello");
    query->input.text_bytes = 5;
    return query;
}

static void expect(struct med_query *query, const char *words)
{
    struct med_err err = {0};
    int rc = med_query_check(query, &limits, &err);
    CHECK_INT(rc, words == NULL ? 0 : MED_E_INVALID);
    if (words != NULL)
        CHECK_CONTAINS(err.text, words);
    med_query_free(query);
}

static void test_numbers_out_of_range_are_named(void)
{
    static const struct {
        size_t offset, flag; // flag ALWAYS: there is none
        float value;
        const char *words; // NULL: taken
    } table[] = {
#define F(name) offsetof(struct med_req_sampling, name)
        {F(temperature), F(has_temperature), 0, NULL},
        {F(temperature), F(has_temperature), 2, NULL},
        {F(temperature), F(has_temperature), 2.5F,
         "sampling.temperature: found 2.5, expected a "
         "number from 0 to 2"},
        {F(temperature), F(has_temperature), -0.5F, "sampling.temperature"},
        {F(temperature), F(has_temperature), NAN, "sampling.temperature: found"},
        {F(top_p), F(has_top_p), 0,
         "sampling.top_p: found 0, expected a number above 0 and at "
         "most 1"},
        {F(top_p), F(has_top_p), 1, NULL},
        {F(top_p), F(has_top_p), NAN, "sampling.top_p"},
        {F(min_p), F(has_min_p), 0, NULL},
        {F(min_p), F(has_min_p), 1.5F, "sampling.min_p: found 1.5, expected a number from 0 to 1"},
        {F(min_p), F(has_min_p), NAN, "sampling.min_p"},
        {F(repetition_penalty), F(has_repetition_penalty), 0,
         "sampling.repetition_penalty: found 0, expected a number above 0 and at most 2"},
        {F(repetition_penalty), F(has_repetition_penalty), 2, NULL},
        {F(repetition_penalty), F(has_repetition_penalty), INFINITY, "repetition_penalty"},
        {F(presence_penalty), ALWAYS, -2, NULL},
        {F(presence_penalty), ALWAYS, -3,
         "sampling.presence_penalty: found -3, expected a number from -2 to 2"},
        {F(presence_penalty), ALWAYS, NAN, "sampling.presence_penalty"},
        {F(frequency_penalty), ALWAYS, 2, NULL},
        {F(frequency_penalty), ALWAYS, 2.25F, "sampling.frequency_penalty: found 2.25"},
        {F(frequency_penalty), ALWAYS, NAN, "sampling.frequency_penalty"},
#undef F
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct med_query *query = text_query();
        memcpy((char *)&query->sampling + table[i].offset, &table[i].value, sizeof(float));
        if (table[i].flag != ALWAYS)
            memcpy((char *)&query->sampling + table[i].flag, &(bool){true}, sizeof(bool));
        expect(query, table[i].words);
    }
}

static void test_counts_out_of_range_are_named(void)
{
    struct med_query *query = text_query();
    query->choice_count = 129;
    expect(query, "n: found 129, expected 1 to 128");
    query = text_query();
    query->tokens_max = (1 << 20) + 1;
    expect(query, "max_tokens: found 1048577, expected 1 to 1048576 (0: 16)");
    query = text_query();
    query->sampling.has_logprobs = true;
    query->sampling.logprobs = 21;
    expect(query, "sampling.logprobs: found 21, expected 0 to 20");
    query = text_query();
    query->sampling.has_top_k = true;
    query->sampling.top_k = UINT32_MAX;
    expect(query, "sampling.top_k: found 4294967295");
    query = text_query();
    query->input.text_bytes = MED_LIMIT_PROMPT_BYTES + 1;
    expect(query, "text: found 4194305 bytes, expected at most 4194304");
    query = text_query();
    query->input.text_bytes = 0;
    expect(query, "text: found none");
    query = med_query_new();
    REQUIRE(query != NULL);
    expect(query, "input: found none, expected tokens, text or chat");
}

static void bias(struct med_query *query, uint32_t id, float value)
{
    struct med_req_sampling *s = &query->sampling;
    s->bias_ids = med_realloc_array(s->bias_ids, s->bias_count + 1, sizeof(*s->bias_ids));
    s->biases = med_realloc_array(s->biases, s->bias_count + 1, sizeof(*s->biases));
    REQUIRE(s->bias_ids != NULL && s->biases != NULL);
    s->bias_ids[s->bias_count] = id;
    s->biases[s->bias_count++] = value;
}

static void test_biases_are_checked_one_by_one(void)
{
    struct med_query *query = text_query();
    bias(query, 99, 100);
    bias(query, 0, -100);
    expect(query, NULL);
    query = text_query();
    bias(query, 1, 0);
    bias(query, 100, 0);
    expect(query, "sampling.logit_bias[1].id: found 100, expected 0 to 99");
    query = text_query();
    bias(query, 1, NAN);
    expect(query, "sampling.logit_bias[0].bias: found");
    query = text_query();
    bias(query, 1, 101);
    expect(query, "sampling.logit_bias[0].bias: found 101, expected a number from -100 to 100");
    query = text_query();
    bias(query, 1, 1);
    bias(query, 1, 2);
    expect(query, "sampling.logit_bias[1].id: found 1 a second time");
    query = text_query();
    for (uint32_t i = 0; i <= MED_LIMIT_LOGIT_BIAS; i++)
        bias(query, i % 100, 1);
    expect(query, "sampling.logit_bias: found 1025 entries, expected at most 1024");
}

static void stop(struct med_query *query, const char *text)
{
    struct med_req_sampling *s = &query->sampling;
    s->stops = med_realloc_array(s->stops, s->stop_count + 1, sizeof(*s->stops));
    REQUIRE(s->stops != NULL);
    s->stops[s->stop_count] = med_strdup(text);
    REQUIRE(s->stops[s->stop_count++] != NULL);
}

static void test_stop_strings_are_checked_one_by_one(void)
{
    char text[MED_LIMIT_STOP_BYTES + 2] = {0};
    memset(text, 'x', MED_LIMIT_STOP_BYTES + 1);
    struct med_query *query = text_query();
    stop(query, "a");
    stop(query, text + 1);
    expect(query, NULL);
    query = text_query();
    stop(query, "a");
    stop(query, "");
    expect(query, "sampling.stop[1]: found 0 bytes, expected 1 to 1024");
    query = text_query();
    stop(query, text);
    expect(query, "sampling.stop[0]: found 1025 bytes");
    query = text_query();
    stop(query, "ab\xff");
    expect(query, "sampling.stop[0]: found byte 0xff at position 2, expected UTF-8");
    query = text_query();
    for (int i = 0; i < 17; i++)
        stop(query, "a");
    expect(query, "sampling.stop: found 17 strings, expected at most 16");
    query = text_query();
    query->sampling.stop_ids = med_calloc(1, sizeof(uint32_t));
    REQUIRE(query->sampling.stop_ids != NULL);
    query->sampling.stop_ids[0] = 100;
    query->sampling.stop_id_count = 1;
    expect(query, "sampling.stop_token_ids[0]: found 100, expected 0 to 99");
}

static void test_text_without_a_tokenizer_says_what_to_do(void)
{
    static const struct med_query_limits without = {.vocab_tokens = 100};
    struct med_err err = {0};
    struct med_query *query = text_query();
    CHECK_INT(med_query_check(query, &without, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "text: this router has no tokenizer; start it with --model DIR");
    query->input.kind = MED_INPUT_CHAT;
    CHECK_INT(med_query_check(query, &without, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "chat: this router has no tokenizer");
    query->input.kind = MED_INPUT_TOKENS;
    CHECK_INT(med_query_check(query, &without, &err), 0);
    stop(query, "a");
    CHECK_INT(med_query_check(query, &without, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "stop strings need the model's tokenizer");
    query->echo = true;
    CHECK_INT(med_query_check(query, &without, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "echo: this router has no tokenizer");
    med_query_free(query);
}

/* max_tokens and what it becomes, by prompt length and kind of input; 0: refused. */
static void test_the_context_bounds_prompt_and_output(void)
{
    static const struct {
        enum med_input_kind kind;
        uint32_t prompt, asked, got;
        const char *words;
    } table[] = {
        {MED_INPUT_TEXT, 10, 0, 16, NULL},
        {MED_INPUT_TEXT, 60, 0, 4, NULL}, // what nobody named is never too much
        {MED_INPUT_TEXT, 127, 0, 1, NULL},
        {MED_INPUT_TEXT, 128, 0, 0, "text, max_tokens: found a prompt of 128"},
        {MED_INPUT_CHAT, 10, 0, 54, NULL}, // of the 64 of those connected
        {MED_INPUT_CHAT, 70, 0, 58, NULL}, // of the 128 that the fleet has at most
        {MED_INPUT_TEXT, 100, 28, 28, NULL},
        {MED_INPUT_TEXT, 100, 29, 0,
         "text, max_tokens: found a prompt of 100 and at most 29 output tokens, expected at most "
         "128 together"},
        {MED_INPUT_CHAT, 128, 0, 0, "chat, max_tokens: found a prompt of 128"},
        {MED_INPUT_TEXT, 0, 4, 0, "text: found none, expected 1 to 1048576 tokens"},
        {MED_INPUT_TOKENS, 0, 4, 0, "tokens.ids: found none, expected 1 to 1048576 token ids"},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct med_err err = {0};
        struct med_query *query = med_query_new();
        REQUIRE(query != NULL);
        query->input.kind = table[i].kind;
        query->prompt = med_calloc(table[i].prompt, sizeof(uint32_t));
        query->prompt_count = table[i].prompt;
        query->tokens_max = table[i].asked;
        int rc = med_query_check_prompt(query, &limits, &err);
        CHECK_INT(rc, table[i].words == NULL ? 0 : MED_E_INVALID);
        if (table[i].words != NULL) {
            CHECK_CONTAINS(err.text, table[i].words);
        } else {
            CHECK_UINT(query->tokens_max, table[i].got);
            query->sampling.min_tokens = table[i].got + 1;
            CHECK_INT(med_query_check_prompt(query, &limits, &err), MED_E_INVALID);
            CHECK_CONTAINS(err.text, "sampling.min_tokens: found");
        }
        med_query_free(query);
    }
}

static void test_logprobs_that_the_router_could_not_hold_are_refused(void)
{
    static const struct {
        uint32_t choices, asked, logprobs, got;
    } table[] = {
        {1, 1 << 20, 7, 1 << 20}, // 8 rows of 8 bytes: 64 MiB
        {1, 1 << 20, 8, 0},       {128, 3120, 20, 3120},
        {128, 3121, 20, 0},       {128, 0, 20, 3120}, // a default is what fits
        {2, 0, 0, 1 << 20},
    };
    struct med_query_limits all = limits;
    all.context = (struct med_dispatch_context){0};
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct med_err err = {0};
        struct med_query *query = med_query_new();
        REQUIRE(query != NULL);
        query->input.kind = MED_INPUT_CHAT;
        query->prompt = med_calloc(1, sizeof(uint32_t));
        query->prompt_count = 1;
        query->choice_count = table[i].choices;
        query->tokens_max = table[i].asked;
        query->sampling.has_logprobs = true;
        query->sampling.logprobs = table[i].logprobs;
        int rc = med_query_check_prompt(query, &all, &err);
        CHECK_INT(rc, table[i].got == 0 ? MED_E_INVALID : 0);
        if (table[i].got == 0) {
            CHECK_CONTAINS(err.text, "n, max_tokens, sampling.logprobs: found ");
        } else {
            CHECK_UINT(query->tokens_max, table[i].got);
        }
        med_query_free(query);
    }
}

static void test_choices_have_seeds_of_their_own(void)
{
    struct med_query *query = text_query();
    query->choice_count = 128;
    query->sampling.has_seed = true;
    query->sampling.seed = 7;
    REQUIRE(med_query_make_choices(query, 1) == 0);
    CHECK_UINT(query->choices[0].seed, 7);
    for (uint32_t i = 0; i < 128; i++) {
        CHECK_UINT(query->choices[i].seed, med_query_choice_seed(7, i));
        for (uint32_t k = 0; k < i; k++)
            CHECK(query->choices[k].seed != query->choices[i].seed);
    }
    med_query_free(query);
    query = text_query();
    query->choice_count = 1;
    REQUIRE(med_query_make_choices(query, 99) == 0);
    CHECK_UINT(query->choices[0].seed, 99);
    med_query_free(query);
}

int main(void)
{
    RUN(test_numbers_out_of_range_are_named);
    RUN(test_counts_out_of_range_are_named);
    RUN(test_biases_are_checked_one_by_one);
    RUN(test_stop_strings_are_checked_one_by_one);
    RUN(test_text_without_a_tokenizer_says_what_to_do);
    RUN(test_the_context_bounds_prompt_and_output);
    RUN(test_logprobs_that_the_router_could_not_hold_are_refused);
    RUN(test_choices_have_seeds_of_their_own);
    return check_finish();
}
