/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests from what came over the link: what is checked, what a silent field becomes, and that the
 * memory of one is what its size says.
 */
#include "worker/requests.h"

#include "base/alloc.h"
#include "tests/check.h"

#include <math.h>

enum {
    VOCAB = 100,
    ROOM = 64
};

static const uint32_t prompt[ROOM + 1] = {1, 2, 3, 99};

static struct med_request_rules rules_of_model(void)
{
    struct med_request_rules rules = {.tokens_max = ROOM,
                                      .vocab_tokens = VOCAB,
                                      .sampling = med_sampling_default(),
                                      .logprobs = true};
    rules.sampling.temperature = 0.6F;
    rules.sampling.top_p = 0.9F;
    rules.sampling.top_k = 40;
    rules.sampling.min_p = 0.1F;
    rules.sampling.repetition_penalty = 1.2F;
    rules.sampling.seed = 77;
    return rules;
}

static struct med_uplink_generate generate_of(size_t prompt_count, uint32_t tokens_max)
{
    return (struct med_uplink_generate){.request = 5,
                                        .attempt = 2,
                                        .prompt = prompt,
                                        .prompt_count = prompt_count,
                                        .tokens_max = tokens_max,
                                        .request_id = "abc"};
}

static struct med_request *make(const struct med_uplink_generate *g,
                                const struct med_request_rules *rules)
{
    struct med_request *r = NULL;
    struct med_err err = {0};
    int rc = med_request_new(g, rules, SIZE_MAX, &r, &err);
    if (rc < 0)
        (void)fprintf(stderr, "%s\n", err.text);
    REQUIRE(rc == 0);
    return r;
}

static void test_request_when_silent_then_the_models_defaults(void)
{
    struct med_request_rules rules = rules_of_model();
    struct med_uplink_generate g = generate_of(4, 10);
    struct med_request *r = make(&g, &rules);
    const struct med_sampling *s = &r->engine.sequence.sampling;
    CHECK_DOUBLE(s->temperature, 0.6F, 0);
    CHECK_DOUBLE(s->top_p, 0.9F, 0);
    CHECK_INT(s->top_k, 40);
    CHECK_DOUBLE(s->min_p, 0.1F, 0);
    CHECK_DOUBLE(s->repetition_penalty, 1.2F, 0);
    CHECK_UINT(s->seed, 77);
    CHECK_INT(s->top_logprobs, -1);
    CHECK(r->engine.logprobs.logprobs == NULL);
    CHECK_INT(r->engine.sequence.prompt_tokens, 4);
    CHECK_INT(r->engine.output_tokens_max, 10);
    CHECK_INT(r->engine.tokens[3], 99);
    CHECK_STR(r->request_id, "abc");
    CHECK_UINT(r->request, 5);
    CHECK_UINT(r->attempt, 2);
    med_request_free(r);
}

static void test_request_when_it_speaks_then_its_values_even_zeros(void)
{
    static const uint32_t ids[] = {7, 8}, stops[] = {9, 10, 11};
    static const float biases[] = {-1.5F, 100};
    struct med_request_rules rules = rules_of_model();
    struct med_uplink_generate g = generate_of(2, 5);
    g.has_temperature = g.has_top_p = g.has_top_k = g.has_min_p = g.has_seed = true;
    g.has_repetition_penalty = g.has_logprobs = g.ignore_eos = true;
    g.top_p = g.repetition_penalty = 1;
    g.presence_penalty = -2;
    g.frequency_penalty = 0.25F;
    g.tokens_min = 5;
    g.logprobs = 3;
    g.bias_ids = ids;
    g.biases = biases;
    g.bias_id_count = g.bias_count = 2;
    g.stop_ids = stops;
    g.stop_count = 3;
    struct med_request *r = make(&g, &rules);
    const struct med_sampling *s = &r->engine.sequence.sampling;
    CHECK_DOUBLE(s->temperature, 0, 0);
    CHECK_DOUBLE(s->top_p, 1, 0);
    CHECK_INT(s->top_k, 0);
    CHECK_DOUBLE(s->min_p, 0, 0);
    CHECK_DOUBLE(s->repetition_penalty, 1, 0);
    CHECK_DOUBLE(s->presence_penalty, -2, 0);
    CHECK_DOUBLE(s->frequency_penalty, 0.25, 0);
    CHECK_UINT(s->seed, 0);
    CHECK_INT(s->tokens_min, 5);
    CHECK(s->ignore_eos);
    REQUIRE(s->bias_count == 2 && s->stop_count == 3);
    CHECK_INT(s->biases[1].id, 8);
    CHECK_DOUBLE(s->biases[1].bias, 100, 0);
    CHECK_INT(s->stop_ids[2], 11);
    CHECK(s->biases != (const void *)ids && s->stop_ids != stops); /* they outlive the frame */
    CHECK_INT(s->top_logprobs, 3);
    CHECK_INT(r->engine.logprobs.top, 3);
    /* Every place of every array may be written: the sanitizer watches. */
    for (int i = 0; i < 5; i++) {
        r->engine.tokens[2 + i] = 1;
        r->engine.logprobs.logprobs[i] = -1;
        r->engine.logprobs.ranks[i] = 1;
        for (int k = 0; k < 3; k++) {
            r->engine.logprobs.top_ids[i * 3 + k] = 1;
            r->engine.logprobs.top_logprobs[i * 3 + k] = -1;
        }
    }
    CHECK_INT(r->engine.tokens[0], 1);
    CHECK_INT(s->stop_ids[0], 9);
    med_request_free(r);
}

static void test_request_when_backend_knows_no_logprobs_then_none(void)
{
    struct med_request_rules rules = rules_of_model();
    struct med_uplink_generate g = generate_of(2, 5);
    rules.logprobs = false;
    g.has_logprobs = true;
    g.logprobs = 20;
    struct med_request *r = make(&g, &rules);
    CHECK(r->engine.logprobs.logprobs == NULL);
    CHECK_INT(r->engine.sequence.sampling.top_logprobs, -1);
    med_request_free(r);
    /* No more alternatives than there are tokens. */
    rules.logprobs = true;
    rules.vocab_tokens = 4;
    g.prompt_count = 3;
    r = make(&g, &rules);
    CHECK_INT(r->engine.logprobs.top, 4);
    med_request_free(r);
}

static void spoil(struct med_uplink_generate *g, int how)
{
    static const uint32_t beyond[] = {1, VOCAB}, many[MED_LIMIT_LOGIT_BIAS + 1];
    static const float zeros[MED_LIMIT_LOGIT_BIAS + 1], nans[] = {NAN}, large[] = {101};
    switch (how) {
    case 0:
        g->prompt_count = 0;
        break;
    case 1:
        g->tokens_max = 0;
        break;
    case 2:
        g->prompt_count = ROOM + 1;
        break;
    case 3:
        g->tokens_max = ROOM - 1;
        break;
    case 4:
        g->tokens_max = UINT32_MAX;
        break;
    case 5:
        g->prompt = beyond;
        g->prompt_count = 2;
        break;
    case 6:
        g->tokens_min = g->tokens_max + 1;
        break;
    case 7:
        g->bias_ids = many;
        g->bias_id_count = 1;
        break;
    case 8:
        g->biases = zeros;
        g->bias_count = 1;
        break;
    case 9:
        g->bias_ids = many;
        g->biases = zeros;
        g->bias_count = g->bias_id_count = MED_LIMIT_LOGIT_BIAS + 1;
        break;
    case 10:
        g->bias_ids = beyond;
        g->biases = zeros;
        g->bias_count = g->bias_id_count = 2;
        break;
    case 11:
        g->bias_ids = many;
        g->biases = nans;
        g->bias_count = g->bias_id_count = 1;
        break;
    case 12:
        g->bias_ids = many;
        g->biases = large;
        g->bias_count = g->bias_id_count = 1;
        break;
    case 13:
        g->stop_ids = many;
        g->stop_count = MED_LIMIT_STOP_TOKENS + 1;
        break;
    case 14:
        g->stop_ids = beyond;
        g->stop_count = 2;
        break;
    case 15:
        g->has_logprobs = true;
        g->logprobs = MED_LIMIT_TOP_LOGPROBS + 1;
        break;
    case 16:
        g->has_logprobs = true;
        g->logprobs = UINT32_MAX;
        break;
    case 17:
        g->has_temperature = true;
        g->temperature = NAN;
        break;
    case 18:
        g->has_top_p = true;
        g->top_p = 0;
        break;
    case 19:
        g->has_min_p = true;
        g->min_p = -0.1F;
        break;
    case 20:
        g->has_repetition_penalty = true;
        g->repetition_penalty = INFINITY;
        break;
    case 21:
        g->presence_penalty = NAN;
        break;
    case 22:
        g->frequency_penalty = 2.5F;
        break;
    case 23:
        g->output = beyond;
        g->output_count = 2;
        break;
    case 24:
        g->output = many;
        g->output_count = g->tokens_max;
        break;
    case 25:
        g->output = many;
        g->output_count = g->tokens_max + 1;
        break;
    default:
        g->emulated_output_tokens = UINT32_MAX;
        break;
    }
}

static void test_request_when_wrong_then_a_sentence_names_the_field(void)
{
    static const char *const texts[] = {"prompt: has no tokens",
                                        "max_tokens: is 0",
                                        "prompt of 65 tokens",
                                        "max_tokens of 63 exceed",
                                        "exceed this worker's 64",
                                        "prompt[1]: is 100, expected 0 to 99",
                                        "min_tokens: is 11",
                                        "1 ids and 0 biases",
                                        "0 ids and 1 biases",
                                        "logit_bias: has 1025",
                                        "logit_bias[1]",
                                        "logit_bias[0]",
                                        "logit_bias[0]",
                                        "stop_token_ids: has 257",
                                        "stop_token_ids[1]",
                                        "logprobs: is 21",
                                        "logprobs: is 4294967295",
                                        "temperature",
                                        "top_p",
                                        "min_p",
                                        "repetition_penalty",
                                        "presence_penalty",
                                        "frequency_penalty",
                                        "output[1]: is 100, expected 0 to 99",
                                        "output: has 10 tokens, expected fewer than max_tokens",
                                        "output: has 11 tokens",
                                        "emulated_output_tokens"};
    struct med_request_rules rules = rules_of_model();
    for (int i = 0; i < (int)(sizeof texts / sizeof texts[0]); i++) {
        struct med_uplink_generate g = generate_of(4, 10);
        struct med_request *r = NULL;
        struct med_err err = {0};
        int64_t before = med_alloc_bytes_live();
        spoil(&g, i);
        CHECK_INT(med_request_new(&g, &rules, SIZE_MAX, &r, &err), MED_E_INVALID);
        CHECK_CONTAINS(err.text, texts[i]);
        CHECK(r == NULL);
        CHECK_INT(med_alloc_bytes_live(), before);
    }
}

static void test_request_when_larger_than_what_is_left_then_again_and_nothing_is_taken(void)
{
    struct med_request_rules rules = rules_of_model();
    struct med_uplink_generate g = generate_of(4, 10);
    g.has_logprobs = true;
    g.logprobs = 2;
    size_t bytes = med_request_bytes(4, 10, 2, 0, 0);
    struct med_request *r = NULL;
    struct med_err err = {0};
    CHECK_INT(med_request_new(&g, &rules, bytes - 1, &r, &err), MED_E_AGAIN);
    CHECK(r == NULL);
    REQUIRE(med_request_new(&g, &rules, bytes, &r, &err) == 0);
    CHECK_UINT(r->bytes, bytes);
    /* The table adds and subtracts it. */
    struct med_requests table;
    REQUIRE(med_requests_init(&table, 16) == 0);
    r->link = (struct med_uplink *)&table; /* any: it is only compared */
    med_requests_add(&table, r);
    CHECK_UINT(table.bytes, bytes);
    med_requests_remove(&table, r);
    CHECK_UINT(table.bytes, 0);
    med_requests_release(&table);
    med_request_free(r);
    (void)med_alloc_fail_nth(1);
    CHECK_INT(med_request_new(&g, &rules, SIZE_MAX, &r, &err), MED_E_NOMEM);
    (void)med_alloc_fail_nth(0);
}

static void test_request_when_others_began_it_then_it_holds_what_they_said(void)
{
    static const uint32_t said[] = {41, 42, 43};
    struct med_request_rules rules = rules_of_model();
    struct med_uplink_generate g = generate_of(4, 10);
    g.output = said;
    g.output_count = 3;
    g.tokens_min = 5;
    CHECK_INT(med_request_ending(&g, &rules), 0);
    struct med_request *r = make(&g, &rules);
    CHECK_INT(r->engine.sequence.prompt_tokens, 4);
    CHECK_INT(r->engine.output_tokens_max, 10);
    CHECK_INT(r->engine.output_tokens, 3);
    CHECK_INT(r->sent, 3);
    CHECK_INT(r->engine.tokens[3], 99);
    CHECK_INT(r->engine.tokens[4], 41);
    CHECK_INT(r->engine.tokens[6], 43);
    CHECK_INT(r->engine.sequence.sampling.tokens_min, 5); /* of the whole answer */
    CHECK_UINT(r->bytes, med_request_bytes(4, 10, -1, 0, 0));
    r->engine.tokens[4 + 9] = 1;
    med_request_free(r);
}

static void test_ending_when_the_last_token_ended_it_already_then_says_how(void)
{
    static const uint32_t said[] = {41, 42, 43}, stops[] = {9, 43}, eos[] = {42, 7};
    struct med_request_rules rules = rules_of_model();
    struct med_uplink_generate g = generate_of(4, 10);
    rules.eos_ids = eos;
    rules.eos_count = 2;
    CHECK_INT(med_request_ending(&g, &rules), 0); /* nothing was said */
    g.output = said;
    g.output_count = 3;
    CHECK_INT(med_request_ending(&g, &rules), 0);
    g.stop_ids = stops;
    g.stop_count = 2;
    CHECK_INT(med_request_ending(&g, &rules), MED_UPLINK_STOP);
    g.tokens_min = 2; /* as many stood before it */
    CHECK_INT(med_request_ending(&g, &rules), MED_UPLINK_STOP);
    g.tokens_min = 3;
    CHECK_INT(med_request_ending(&g, &rules), 0);
    g.tokens_max = 3;
    CHECK_INT(med_request_ending(&g, &rules), MED_UPLINK_LENGTH);
    g.tokens_min = 0;
    CHECK_INT(med_request_ending(&g, &rules), MED_UPLINK_STOP); /* as the scheduler would say */
    g.tokens_max = 10;
    g.stop_count = 0;
    g.output_count = 2; /* ends with an end of sequence */
    CHECK_INT(med_request_ending(&g, &rules), MED_UPLINK_STOP);
    g.ignore_eos = true;
    CHECK_INT(med_request_ending(&g, &rules), 0);
    /* The emulated backend knows no ids that end an answer. */
    g.ignore_eos = false;
    rules.emulated = true;
    CHECK_INT(med_request_ending(&g, &rules), 0);
    g.emulated_output_tokens = 3;
    CHECK_INT(med_request_ending(&g, &rules), 0);
    g.emulated_output_tokens = 2;
    CHECK_INT(med_request_ending(&g, &rules), MED_UPLINK_STOP);
    rules.emulated = false;
    g.ignore_eos = true;
    CHECK_INT(med_request_ending(&g, &rules), 0);
}

int main(void)
{
    RUN(test_request_when_silent_then_the_models_defaults);
    RUN(test_request_when_it_speaks_then_its_values_even_zeros);
    RUN(test_request_when_backend_knows_no_logprobs_then_none);
    RUN(test_request_when_wrong_then_a_sentence_names_the_field);
    RUN(test_request_when_others_began_it_then_it_holds_what_they_said);
    RUN(test_ending_when_the_last_token_ended_it_already_then_says_how);
    RUN(test_request_when_larger_than_what_is_left_then_again_and_nothing_is_taken);
    return check_finish();
}
