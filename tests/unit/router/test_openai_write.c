/* SPDX-License-Identifier: Apache-2.0 */
/* Answers, chunks, logprobs and errors of the OpenAI API, byte by byte. */
#include "base/alloc.h"
#include "base/json.h"
#include "router/openai/read.h"
#include "router/openai/write.h"
#include "tests/check.h"

#include <string.h>

static struct med_tokenizer *tokenizer;
static struct med_tokenizer_scratch *scratch;

/* A call as if the router had answered it: choice i says texts[i]. */
struct answered {
    struct med_openai_call call;
    struct med_openai_style style;
    struct med_buf out;
};

static void say(struct med_req *req, const char *text, bool stop)
{
    struct med_token_ids ids = {0};
    const struct med_encode_options options = {0};
    const struct med_answer_options answer = {
        .tokenizer = tokenizer,
        .skip_special = true,
        .stops = (const char *const *)req->query->sampling.stops,
        .stop_count = req->query->sampling.stop_count,
    };
    size_t taken = 0;
    REQUIRE(med_tokenizer_encode(tokenizer, scratch, text, strlen(text), &options, &ids, NULL) ==
            0);
    REQUIRE(med_answer_init(&req->answer, &answer) == 0);
    REQUIRE(med_answer_add(&req->answer, ids.ids, ids.count, &taken) == 0);
    REQUIRE(med_req_append_output(req, ids.ids, taken) == 0);
    REQUIRE(med_answer_end(&req->answer) == 0);
    size_t rows = med_req_logprob_rows(req);
    for (size_t i = 0; rows > 0 && i < taken; i++) {
        struct med_req_logprob *row = med_req_add_logprobs(req, i);
        REQUIRE(row != NULL);
        row[0] = (struct med_req_logprob){ids.ids[i], -0.5F};
        /* The chosen one is the second of the likeliest. */
        for (size_t k = 1; k < rows; k++) {
            row[k] = (struct med_req_logprob){k == 2 ? ids.ids[i] : 32 + (uint32_t)k,
                                              k == 2 ? -0.5F : -0.25F * (float)k};
        }
    }
    req->ended = true;
    req->outcome = stop ? MED_OUTCOME_STOP : MED_OUTCOME_LENGTH;
    med_free(ids.ids);
}

static void answer(struct answered *a, enum med_openai_kind kind, const char *body,
                   const char *const *texts, size_t text_count)
{
    struct med_err err = {0};
    *a = (struct answered){0};
    REQUIRE(med_openai_read(kind, body, strlen(body), &a->call, &err) == 0);
    a->style = (struct med_openai_style){
        .call = &a->call, .id = "r\"1", .model = "m", .created_s = 1700000000};
    REQUIRE(med_openai_style_init(&a->style) == 0);
    med_buf_init(&a->out, 1 << 20);
    size_t said = 0;
    for (size_t i = 0; i < a->call.query_count; i++) {
        struct med_query *query = a->call.queries[i];
        query->prompt_count = 3;
        REQUIRE(query != NULL);
        REQUIRE(med_query_make_choices(query, 1) == 0);
        for (uint32_t c = 0; c < query->choice_count; c++) {
            REQUIRE(said < text_count);
            say(&query->choices[c], texts[said++], c == 0);
        }
        query->choices[0].cached_tokens = 2;
    }
}

static void release(struct answered *a)
{
    med_openai_style_release(&a->style);
    med_openai_call_release(&a->call);
    med_buf_release(&a->out);
}

static void check_json(const char *text, size_t count)
{
    struct med_json_doc doc;
    struct med_err err = {0};
    int rc = med_json_parse(text, count, "out", &doc, &err);
    CHECK_STR(err.text, "");
    CHECK_INT(rc, 0);
    if (rc == 0)
        med_json_free(&doc);
}

static void test_whole_answers(void)
{
    struct answered a;
    static const char *const one[] = {"Say \"hi\"\n\t\x7f caf\xc3\xa9"};
    answer(&a, MED_OPENAI_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", one, 1);
    CHECK_INT(med_openai_write_answer(&a.style, &a.out), 0);
    check_json(a.out.data, a.out.length);
    char expected[1024];
    size_t tokens = a.call.queries[0]->choices[0].output_count;
    (void)snprintf(
        expected, sizeof(expected),
        "{\"id\":\"chatcmpl-r\\\"1\",\"object\":\"chat.completion\",\"created\":1700000000,"
        "\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
        "\"content\":\"Say \\\"hi\\\"\\n\\t\x7f caf\xc3\xa9\",\"refusal\":null},"
        "\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null}],"
        "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":%zu,\"total_tokens\":%zu,"
        "\"prompt_tokens_details\":{\"cached_tokens\":2}}}\n",
        tokens, tokens + 3);
    CHECK_STR(a.out.data, expected);
    release(&a);

    /* Two prompts of two choices each, one ended by a stop string. */
    static const char *const four[] = {"a", "b", "c", "d stop e"};
    answer(&a, MED_OPENAI_COMPLETIONS,
           "{\"prompt\":[\"x\",\"y\"],\"n\":2,\"stop\":\" stop\",\"return_token_ids\":true}", four,
           4);
    CHECK_INT(med_openai_write_answer(&a.style, &a.out), 0);
    check_json(a.out.data, a.out.length);
    CHECK_CONTAINS(a.out.data, "{\"id\":\"cmpl-r\\\"1\",\"object\":\"text_completion\",");
    CHECK_CONTAINS(a.out.data, "{\"index\":0,\"text\":\"a\",\"token_ids\":[64],\"logprobs\":null,"
                               "\"finish_reason\":\"stop\",\"stop_reason\":null}");
    CHECK_CONTAINS(a.out.data, "{\"index\":1,\"text\":\"b\",\"token_ids\":[65],\"logprobs\":null,"
                               "\"finish_reason\":\"length\",\"stop_reason\":null}");
    CHECK_CONTAINS(a.out.data, ",{\"index\":2,\"text\":\"c\",");
    CHECK_CONTAINS(a.out.data, ",{\"index\":3,\"text\":\"d\",");
    CHECK_CONTAINS(a.out.data, "\"stop_reason\":\" stop\"");
    CHECK_CONTAINS(a.out.data, "\"usage\":{\"prompt_tokens\":6,");
    CHECK_CONTAINS(a.out.data, "\"cached_tokens\":4}");
    release(&a);
}

static void test_chunks(void)
{
    struct answered a;
    static const char *const one[] = {"a b"};
    answer(&a, MED_OPENAI_CHAT,
           "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"stream\":true,"
           "\"stream_options\":{\"include_usage\":true}}",
           one, 1);
    struct med_req *req = &a.call.queries[0]->choices[0];
    struct med_openai_chunk chunk = {.req = req, .index = 7, .text = "", .role = true};
    CHECK_INT(med_openai_write_chunk(&a.style, &chunk, &a.out), 0);
    CHECK_STR(a.out.data,
              "data: {\"id\":\"chatcmpl-r\\\"1\",\"object\":\"chat.completion.chunk\","
              "\"created\":1700000000,\"model\":\"m\",\"choices\":[{\"index\":7,\"delta\":{"
              "\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}],"
              "\"usage\":null}\n\n");
    med_buf_clear(&a.out);
    chunk = (struct med_openai_chunk){.req = req, .to = 1, .text = "a", .text_bytes = 1};
    CHECK_INT(med_openai_write_chunk(&a.style, &chunk, &a.out), 0);
    CHECK_CONTAINS(a.out.data, "\"delta\":{\"content\":\"a\"},\"logprobs\":null,"
                               "\"finish_reason\":null}]");
    med_buf_clear(&a.out);
    chunk = (struct med_openai_chunk){.req = req, .from = 2, .to = 2, .ends = true};
    CHECK_INT(med_openai_write_chunk(&a.style, &chunk, &a.out), 0);
    CHECK_CONTAINS(a.out.data, "\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\","
                               "\"stop_reason\":null}]");
    med_buf_clear(&a.out);
    /* An empty answer begins and ends at once. */
    chunk.role = true;
    CHECK_INT(med_openai_write_chunk(&a.style, &chunk, &a.out), 0);
    CHECK_CONTAINS(a.out.data,
                   "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                   "\"finish_reason\":\"stop\"");
    med_buf_clear(&a.out);
    CHECK_INT(med_openai_write_usage(&a.style, &a.out), 0);
    CHECK_CONTAINS(a.out.data, "\"choices\":[],\"usage\":{\"prompt_tokens\":3,"
                               "\"completion_tokens\":2,\"total_tokens\":5,");
    CHECK_STR(a.out.data + a.out.length - 3, "}\n\n");
    check_json(a.out.data + 6, a.out.length - 6);
    release(&a);

    answer(&a, MED_OPENAI_COMPLETIONS,
           "{\"prompt\":\"x\",\"stream\":true,\"return_token_ids\":true,"
           "\"stream_options\":{\"continuous_usage_stats\":true}}",
           one, 1);
    req = &a.call.queries[0]->choices[0];
    chunk = (struct med_openai_chunk){
        .req = req, .from = 1, .to = 2, .text = " b\r\xff", .text_bytes = 4, .ends = true};
    CHECK_INT(med_openai_write_chunk(&a.style, &chunk, &a.out), 0);
    CHECK_CONTAINS(a.out.data,
                   "\"choices\":[{\"index\":0,\"text\":\" b\\r\xef\xbf\xbd\",\"token_ids\":[317],"
                   "\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null}],"
                   "\"usage\":{\"prompt_tokens\":3,");
    check_json(a.out.data + 6, a.out.length - 6);
    release(&a);
}

static void test_logprobs(void)
{
    struct answered a;
    static const char *const one[] = {"a\xc3\xa9"};
    answer(&a, MED_OPENAI_CHAT,
           "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"logprobs\":true,"
           "\"top_logprobs\":2}",
           one, 1);
    CHECK_INT(med_openai_write_answer(&a.style, &a.out), 0);
    check_json(a.out.data, a.out.length);
    CHECK_CONTAINS(
        a.out.data,
        "\"logprobs\":{\"content\":[{\"token\":\"a\",\"logprob\":-0.5,\"bytes\":[97],"
        "\"top_logprobs\":[{\"token\":\"B\",\"logprob\":-0.25,\"bytes\":[66]},"
        "{\"token\":\"a\",\"logprob\":-0.5,\"bytes\":[97]}]},{\"token\":\"\xef\xbf\xbd\","
        "\"logprob\":-0.5,\"bytes\":[195],");
    CHECK_CONTAINS(a.out.data, "],\"refusal\":null}");
    release(&a);

    static const char body[] = "{\"prompt\":\"x\",\"logprobs\":1}";
    answer(&a, MED_OPENAI_COMPLETIONS, body, one, 1);
    CHECK_INT(med_openai_write_answer(&a.style, &a.out), 0);
    check_json(a.out.data, a.out.length);
    CHECK_CONTAINS(
        a.out.data,
        "\"logprobs\":{\"tokens\":[\"a\",\"bytes:\\\\xc3\",\"bytes:\\\\xa9\"],\"token_logprobs\":[-"
        "0.5,-0.5,-0.5],"
        "\"top_logprobs\":[{\"B\":-0.25,\"a\":-0.5},{\"B\":-0.25,\"bytes:\\\\xc3\":-0.5},"
        "{\"B\":-0.25,\"bytes:\\\\xa9\":-0.5}],\"text_offset\":[0,1,2]}");
    release(&a);

    /* Half a character, two tokens of one spelling, and -inf. */
    answer(&a, MED_OPENAI_COMPLETIONS, body, one, 1);
    struct med_req *req = &a.call.queries[0]->choices[0];
    req->logprobs[0] = (struct med_req_logprob){127, -0.0F}; // byte 0xc3
    req->logprobs[1] = (struct med_req_logprob){127, -1.0F / 0.0F};
    CHECK_INT(med_openai_write_logprobs(&a.call, req, 0, 1, &a.out), 0);
    check_json(a.out.data, a.out.length);
    CHECK_STR(a.out.data, "{\"tokens\":[\"bytes:\\\\xc3\"],\"token_logprobs\":[0],"
                          "\"top_logprobs\":[{\"bytes:\\\\xc3\":-9999}],\"text_offset\":[0]}");
    CHECK_UINT(req->chars_told, 1);
    med_buf_clear(&a.out);
    /* By id; a stream goes on where it was. */
    a.call.as_ids = true;
    CHECK_INT(med_openai_write_logprobs(&a.call, req, 0, 1, &a.out), 0);
    CHECK_STR(a.out.data, "{\"tokens\":[\"token_id:127\"],\"token_logprobs\":[0],"
                          "\"top_logprobs\":[{\"token_id:127\":-9999}],\"text_offset\":[1]}");
    med_buf_clear(&a.out);
    CHECK_INT(med_openai_write_logprobs(&a.call, req, 1, 1, &a.out), 0);
    CHECK_STR(a.out.data, "null");
    release(&a);
}

static void test_errors(void)
{
    struct med_buf out;
    struct med_openai_error error;
    med_buf_init(&out, 4096);
    med_openai_error_set(&error, MED_E_INVALID, "sampling.stop[1]: found \"\n", NULL);
    CHECK_INT(med_openai_write_error(&error, false, &out), 0);
    CHECK_STR(out.data, "{\"error\":{\"message\":\"stop[1]: found \\\"\\n\",\"type\":"
                        "\"invalid_request_error\",\"param\":\"stop[1]\",\"code\":"
                        "\"invalid_value\"}}\n");
    med_buf_clear(&out);
    med_openai_error_set(&error, MED_E_WORKER_LOST, "worker w was lost", NULL);
    CHECK_INT(med_openai_write_error(&error, true, &out), 0);
    CHECK_STR(out.data, "data: {\"error\":{\"message\":\"worker w was lost\",\"type\":"
                        "\"server_error\",\"param\":null,\"code\":\"worker_lost\"}}\n\n");
    med_buf_release(&out);
}

static void test_a_full_buffer_is_an_error(void)
{
    struct answered a;
    static const char *const one[] = {"a b c"};
    answer(&a, MED_OPENAI_COMPLETIONS, "{\"prompt\":\"x\",\"logprobs\":2}", one, 1);
    REQUIRE(med_openai_write_answer(&a.style, &a.out) == 0);
    size_t whole = a.out.length;
    for (size_t max = 1; max < whole; max++) {
        struct med_buf small;
        med_buf_init(&small, max);
        CHECK_INT(med_openai_write_answer(&a.style, &small), MED_E_LIMIT);
        med_buf_release(&small);
    }
    release(&a);
}

int main(void)
{
    struct med_err err = {0};
    if (med_tokenizer_load("tests/data/tokenizers/qwen2", &tokenizer, &err) < 0) {
        (void)fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    REQUIRE(med_tokenizer_scratch_new(tokenizer, &scratch) == 0);
    RUN(test_whole_answers);
    RUN(test_chunks);
    RUN(test_logprobs);
    RUN(test_errors);
    RUN(test_a_full_buffer_is_an_error);
    med_tokenizer_scratch_free(scratch);
    med_tokenizer_free(tokenizer);
    return check_finish();
}
