/* SPDX-License-Identifier: Apache-2.0 */
/* GenerateRequest in, chunks and responses out; bytes are made and read with the generated types. */
#include "base/alloc.h"
#include "inference.pb-c.h"
#include "router/grpc_codec.h"
#include "tests/check.h"

#include <string.h>

enum {
    BYTES_MAX = 1024
};

static size_t pack_request(uint8_t *out, uint32_t *ids, size_t count, bool sampling_set)
{
    static char model[] = "m";
    static char request_id[] = "id";
    static char stop_a[] = "a";
    static char stop_b[] = "\xc3\xa9";
    static uint32_t stop_ids[] = {5, 6};
    char *stops[] = {stop_a, stop_b};
    Medley__V1__TokenIds tokens = MEDLEY__V1__TOKEN_IDS__INIT;
    Medley__V1__Sampling sampling = MEDLEY__V1__SAMPLING__INIT;
    Medley__V1__LogitBias bias = MEDLEY__V1__LOGIT_BIAS__INIT;
    Medley__V1__LogitBias *biases[] = {&bias};
    Medley__V1__GenerateRequest request = MEDLEY__V1__GENERATE_REQUEST__INIT;
    tokens.ids = ids;
    tokens.n_ids = count;
    request.model = model;
    request.request_id = request_id;
    request.input_case = MEDLEY__V1__GENERATE_REQUEST__INPUT_TOKENS;
    request.tokens = &tokens;
    request.max_tokens = 9;
    request.n = 3;
    request.echo = true;
    request.emulated_output_tokens = 4;
    if (sampling_set) {
        sampling.temperature_value_case = MEDLEY__V1__SAMPLING__TEMPERATURE_VALUE_TEMPERATURE;
        sampling.temperature = 0;
        sampling.min_p_value_case = MEDLEY__V1__SAMPLING__MIN_P_VALUE_MIN_P;
        sampling.min_p = 0.25F;
        sampling.repetition_penalty_value_case =
            MEDLEY__V1__SAMPLING__REPETITION_PENALTY_VALUE_REPETITION_PENALTY;
        sampling.repetition_penalty = 1.5F;
        sampling.presence_penalty = -1;
        sampling.frequency_penalty = 0.5F;
        bias.id = 3;
        bias.bias = -100;
        sampling.logit_bias = biases;
        sampling.n_logit_bias = 1;
        sampling.min_tokens = 2;
        sampling.stop = stops;
        sampling.n_stop = 2;
        sampling.include_stop = true;
        sampling.stop_token_ids = stop_ids;
        sampling.n_stop_token_ids = 2;
        sampling.logprobs_value_case = MEDLEY__V1__SAMPLING__LOGPROBS_VALUE_LOGPROBS;
        sampling.logprobs = 0;
        sampling.skip_special_tokens_value_case =
            MEDLEY__V1__SAMPLING__SKIP_SPECIAL_TOKENS_VALUE_SKIP_SPECIAL_TOKENS;
        sampling.skip_special_tokens = false;
        request.sampling = &sampling;
    }
    REQUIRE(medley__v1__generate_request__get_packed_size(&request) <= BYTES_MAX);
    return medley__v1__generate_request__pack(&request, out);
}

static struct med_query *read_query(const uint8_t *bytes, size_t count, int want)
{
    struct med_err err = {0};
    struct med_query *query = med_query_new();
    REQUIRE(query != NULL);
    CHECK_INT(med_grpc_codec_read_generate(bytes, count, query, &err), want);
    CHECK_INT(err.text[0] != '\0', want < 0);
    return query;
}

static void check_sampling(const struct med_req_sampling *s, bool set)
{
    CHECK_INT(s->has_temperature, set);
    CHECK_INT(s->has_seed, 0);
    CHECK_INT(s->has_min_p, set);
    CHECK_INT(s->has_repetition_penalty, set);
    CHECK_INT(s->has_logprobs, set);
    CHECK_INT(s->keep_special, set);
    CHECK_UINT(s->stop_count, set ? 2 : 0);
    if (!set)
        return;
    CHECK_DOUBLE((double)s->min_p, 0.25, 0);
    CHECK_DOUBLE((double)s->repetition_penalty, 1.5, 0);
    CHECK_DOUBLE((double)s->presence_penalty, -1, 0);
    CHECK_DOUBLE((double)s->frequency_penalty, 0.5, 0);
    REQUIRE(s->bias_count == 1);
    CHECK_UINT(s->bias_ids[0], 3);
    CHECK_DOUBLE((double)s->biases[0], -100, 0);
    CHECK_UINT(s->min_tokens, 2);
    CHECK_STR(s->stops[0], "a");
    CHECK_STR(s->stops[1], "\xc3\xa9");
    CHECK(s->include_stop);
    REQUIRE(s->stop_id_count == 2);
    CHECK_UINT(s->stop_ids[1], 6);
}

static void test_a_request_is_read_with_what_is_set_and_what_is_not(void)
{
    uint32_t ids[] = {1, 300, UINT32_MAX};
    uint8_t bytes[BYTES_MAX];
    for (int set = 0; set < 2; set++) {
        size_t count = pack_request(bytes, ids, 3, set == 1);
        struct med_query *query = read_query(bytes, count, 0);
        CHECK_STR(query->model, "m");
        CHECK_STR(query->request_id, "id");
        CHECK_INT(query->input.kind, MED_INPUT_TOKENS);
        CHECK_UINT(query->prompt_count, 3);
        CHECK_UINT(query->prompt[2], UINT32_MAX);
        CHECK_UINT(query->tokens_max, 9);
        CHECK_UINT(query->choice_count, 3);
        CHECK(query->echo);
        CHECK_UINT(query->emulated_output_tokens, 4);
        check_sampling(&query->sampling, set == 1);
        med_query_free(query);
    }
}

static void test_a_chat_is_read_whole(void)
{
    static char user[] = "user";
    static char hello[] = "hello";
    static char empty[] = "";
    Medley__V1__ChatMessage one = MEDLEY__V1__CHAT_MESSAGE__INIT;
    Medley__V1__ChatMessage two = MEDLEY__V1__CHAT_MESSAGE__INIT;
    Medley__V1__ChatMessage *messages[] = {&one, &two};
    Medley__V1__Chat chat = MEDLEY__V1__CHAT__INIT;
    Medley__V1__GenerateRequest request = MEDLEY__V1__GENERATE_REQUEST__INIT;
    uint8_t bytes[BYTES_MAX];
    one.role = user;
    one.content = hello;
    two.role = user;
    two.content = empty;
    chat.n_messages = 2;
    chat.messages = messages;
    request.input_case = MEDLEY__V1__GENERATE_REQUEST__INPUT_CHAT;
    request.chat = &chat;
    for (int told = 0; told < 2; told++) {
        if (told == 1) {
            chat.add_generation_prompt_value_case =
                MEDLEY__V1__CHAT__ADD_GENERATION_PROMPT_VALUE_ADD_GENERATION_PROMPT;
            chat.add_generation_prompt = false;
        }
        size_t count = medley__v1__generate_request__pack(&request, bytes);
        struct med_query *query = read_query(bytes, count, 0);
        CHECK_INT(query->input.kind, MED_INPUT_CHAT);
        REQUIRE(query->input.message_count == 2);
        CHECK_STR(query->input.messages[0].content, "hello");
        CHECK_UINT(query->input.messages[0].content_bytes, 5);
        CHECK_UINT(query->input.messages[1].content_bytes, 0);
        CHECK_INT(query->input.add_generation_prompt, told == 0);
        CHECK_UINT(med_input_bytes(&query->input), 5);
        med_query_free(query);
    }
}

static void test_a_zero_byte_in_a_text_is_refused_by_field(void)
{
    static const struct {
        const char *bytes;
        size_t count;
        const char *words;
    } table[] = {
        {"\x1a\x03"
         "a\0b",
         5, "text: found a zero byte at position 1"},
        {"\x0a\x01\0", 3, "model: found a zero byte at position 0"},
        /* chat { messages { role: "u" content: "c\0" } } */
        {"\x22\x09\x0a\x07\x0a\x01u\x12\x02"
         "c\0",
         11, "chat.messages.content: found a zero byte at position 1"},
        /* sampling { stop: "\0" } */
        {"\x32\x03\x62\x01\0", 5, "sampling.stop: found a zero byte at position 0"},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct med_err err = {0};
        struct med_query *query = med_query_new();
        REQUIRE(query != NULL);
        CHECK_INT(med_grpc_codec_read_generate(table[i].bytes, table[i].count, query, &err),
                  MED_E_INVALID);
        CHECK_CONTAINS(err.text, table[i].words);
        med_query_free(query);
    }
    /* In numbers they are no matter. */
    uint32_t ids[] = {0, 0, 0};
    uint8_t bytes[BYTES_MAX];
    struct med_query *query = read_query(bytes, pack_request(bytes, ids, 3, true), 0);
    med_query_free(query);
}

static void test_a_cut_request_is_refused_or_a_shorter_one(void)
{
    uint32_t ids[] = {1, 2, 3, 4};
    uint8_t bytes[BYTES_MAX];
    size_t count = pack_request(bytes, ids, 4, true);
    int64_t before = med_alloc_bytes_live();
    int refused = 0;
    for (size_t n = 0; n < count; n++) {
        struct med_err err = {0};
        struct med_query *query = med_query_new();
        REQUIRE(query != NULL);
        int rc = med_grpc_codec_read_generate(bytes, n, query, &err);
        CHECK(rc == 0 || (rc == MED_E_INVALID && err.text[0] != '\0'));
        refused += rc < 0;
        med_query_free(query);
    }
    CHECK(refused > 0);
    CHECK_INT(med_alloc_bytes_live(), before);
}

/* Two choices without a tokenizer; the second has text put into it by hand. */
static struct med_query *ended_query(size_t tokens, bool logprobs)
{
    const struct med_answer_options options = {0};
    struct med_query *query = med_query_new();
    REQUIRE(query != NULL);
    query->choice_count = 2;
    query->prompt_count = 7;
    query->sampling.has_logprobs = logprobs;
    query->sampling.logprobs = 2;
    (void)snprintf(query->request_id, sizeof(query->request_id), "r1");
    REQUIRE(med_query_make_choices(query, 1) == 0);
    for (uint32_t i = 0; i < 2; i++) {
        struct med_req *req = &query->choices[i];
        REQUIRE(med_answer_init(&req->answer, &options) == 0);
        for (uint32_t k = 0; k < tokens; k++) {
            CHECK_INT(med_req_append_output(req, &(uint32_t){k * 1000}, 1), 0);
            if (!logprobs)
                continue;
            struct med_req_logprob *row = med_req_add_logprobs(req, k);
            REQUIRE(row != NULL);
            row[0] = (struct med_req_logprob){k * 1000, -0.5F};
            row[1] = (struct med_req_logprob){k, -0.25F};
        }
        (void)snprintf(req->worker_type, sizeof(req->worker_type), "t1");
        req->ended = true;
        req->outcome = i == 0 ? MED_OUTCOME_LENGTH : MED_OUTCOME_STOP;
        req->cached_tokens = 4 + i;
    }
    CHECK_INT(med_buf_append(&query->choices[1].answer.text, "a\0b", 3), 0);
    return query;
}

static void test_chunks_hold_their_range_and_the_last_one_the_end(void)
{
    struct med_query *query = ended_query(10, true);
    struct med_buf out;
    med_buf_init(&out, 4096);
    for (int last = 0; last < 2; last++) {
        const struct med_grpc_chunk spec = {.req = &query->choices[0],
                                            .from = 4,
                                            .to = 10,
                                            .text = "xyz",
                                            .text_bytes = 2,
                                            .ends = last == 1,
                                            .usage = last == 1};
        med_buf_clear(&out);
        CHECK_INT(med_grpc_codec_write_chunk(&spec, &out), 0);
        Medley__V1__GenerateChunk *chunk =
            medley__v1__generate_chunk__unpack(NULL, out.length, (const uint8_t *)out.data);
        REQUIRE(chunk != NULL);
        CHECK_UINT(chunk->position, 4);
        CHECK_UINT(chunk->tokens->n_ids, 6);
        CHECK_UINT(chunk->tokens->ids[5], 9000);
        CHECK_STR(chunk->text, "xy");
        REQUIRE(chunk->n_logprobs == 6);
        CHECK_UINT(chunk->logprobs[5]->chosen->id, 9000);
        CHECK_DOUBLE((double)chunk->logprobs[5]->chosen->logprob, -0.5, 0);
        REQUIRE(chunk->logprobs[5]->n_top == 1); // of the two that were asked for, one came
        CHECK_UINT(chunk->logprobs[5]->top[0]->id, 9);
        CHECK_INT(chunk->usage != NULL, last);
        CHECK_INT((int)chunk->finish_reason, last ? 2 : 0);
        if (last) {
            CHECK_UINT(chunk->usage->completion_tokens, 20);
            CHECK_UINT(chunk->usage->cached_tokens, 4);
        }
        medley__v1__generate_chunk__free_unpacked(chunk, NULL);
    }
    med_buf_release(&out);
    med_query_free(query);
}

static void test_a_response_holds_every_choice(void)
{
    struct med_query *query = ended_query(3, false);
    struct med_buf out;
    med_buf_init(&out, 4096);
    CHECK_INT(med_grpc_codec_write_response(query, &out), 0);
    /* protobuf-c reads strings up to their zero byte; on the wire the text is whole. */
    const char field[] = "\x12\x03"
                         "a\0b";
    bool found = false;
    for (size_t i = 0; i + 5 <= out.length; i++)
        found = found || memcmp(out.data + i, field, 5) == 0;
    CHECK(found);
    Medley__V1__GenerateResponse *response =
        medley__v1__generate_response__unpack(NULL, out.length, (const uint8_t *)out.data);
    REQUIRE(response != NULL);
    CHECK_STR(response->request_id, "r1");
    CHECK_STR(response->worker_type, "t1");
    REQUIRE(response->n_choices == 2);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_UINT(response->choices[i]->index, i);
        CHECK_UINT(response->choices[i]->tokens->n_ids, 3);
        CHECK_UINT(response->choices[i]->n_logprobs, 0);
    }
    CHECK_STR(response->choices[0]->text, "");
    CHECK_STR(response->choices[1]->text, "a");
    CHECK_UINT(response->usage->prompt_tokens, 7);
    CHECK_UINT(response->usage->completion_tokens, 6);
    CHECK_INT((int)response->choices[0]->finish_reason, 2);
    CHECK_INT((int)response->choices[1]->finish_reason, 1);
    medley__v1__generate_response__free_unpacked(response, NULL);
    med_buf_release(&out);
    med_query_free(query);
}

static void test_every_allocation_may_fail(void)
{
    uint32_t ids[] = {1, 2, 3, 4};
    uint8_t bytes[BYTES_MAX];
    size_t count = pack_request(bytes, ids, 4, true);
    int64_t before = med_alloc_bytes_live();
    int whole = 0;
    for (uint64_t nth = 1; nth < 40; nth++) {
        struct med_err err = {0};
        struct med_query *query = med_query_new();
        REQUIRE(query != NULL);
        (void)med_alloc_fail_nth(nth);
        int rc = med_grpc_codec_read_generate(bytes, count, query, &err);
        (void)med_alloc_fail_nth(0);
        CHECK(rc == 0 || rc == MED_E_NOMEM || rc == MED_E_INVALID);
        whole += rc == 0;
        med_query_free(query);
        CHECK_INT(med_alloc_bytes_live(), before);
    }
    CHECK(whole > 0); // the last ones reached the end: every allocation has failed once
}

int main(void)
{
    RUN(test_a_request_is_read_with_what_is_set_and_what_is_not);
    RUN(test_a_chat_is_read_whole);
    RUN(test_a_zero_byte_in_a_text_is_refused_by_field);
    RUN(test_a_cut_request_is_refused_or_a_shorter_one);
    RUN(test_chunks_hold_their_range_and_the_last_one_the_end);
    RUN(test_a_response_holds_every_choice);
    RUN(test_every_allocation_may_fail);
    return check_finish();
}
