/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies of the OpenAI API to queries: what is read, and what is refused in which words. */
#include "base/alloc.h"
#include "router/openai/read.h"
#include "tests/check.h"

#include <string.h>

enum {
    BODY_MAX = 4096
};

static const struct med_query_limits limits = {.vocab_tokens = 1000,
                                               .has_tokenizer = true,
                                               .has_chat_template = true,
                                               .context = {.connected = 64, .planned = 64}};

static struct med_openai_call read_ok(enum med_openai_kind kind, const char *body)
{
    struct med_openai_call call;
    struct med_err err = {0};
    int rc = med_openai_read(kind, body, strlen(body), &call, &err);
    CHECK_STR(err.text, "");
    CHECK_INT(rc, 0);
    REQUIRE(call.query_count > 0);
    for (size_t i = 0; i < call.query_count; i++) {
        CHECK_INT(med_query_check(call.queries[i], &limits, &err), 0);
        CHECK_STR(err.text, "");
    }
    return call;
}

/* Reads, and checks as the router does; the error is the client's. */
static struct med_openai_error refuse(enum med_openai_kind kind, const char *body, size_t count)
{
    struct med_openai_call call;
    struct med_openai_error error = {0};
    struct med_err err = {0};
    struct med_query *query = NULL;
    int rc = med_openai_read(kind, body, count, &call, &err);
    for (size_t i = 0; rc == 0 && i < call.query_count; i++) {
        query = call.queries[i];
        rc = med_query_check(query, &limits, &err);
        if (rc == 0 && query->input.kind == MED_INPUT_TOKENS) {
            med_query_cut_prompt(query);
            rc = med_query_check_prompt(query, &limits, &err);
        }
    }
    CHECK(rc < 0);
    med_openai_error_set(&error, rc, err.text, query);
    med_openai_call_release(&call);
    return error;
}

static void test_every_field_of_completions(void)
{
    static const char body[] =
        "{\"model\":\"m\",\"prompt\":\"caf\\u00e9\",\"max_tokens\":7,\"max_completion_tokens\":"
        "\"x\","
        "\"temperature\":0,\"top_p\":0.5,\"n\":2,\"best_of\":2,\"suffix\":\"\","
        "\"stop\":[\"a\",\"b\"],\"seed\":-3,\"stream\":true,"
        "\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true},"
        "\"presence_penalty\":-1,\"frequency_penalty\":0.5,\"logit_bias\":{\"3\":-100,\"4\":2.5},"
        "\"logprobs\":3,\"echo\":false,\"user\":\"u\",\"ignore_eos\":true,\"min_tokens\":2,"
        "\"top_k\":5,\"min_p\":0.25,\"repetition_penalty\":1.5,\"stop_token_ids\":[5,6],"
        "\"skip_special_tokens\":false,\"include_stop_str_in_output\":true,"
        "\"priority\":-2,\"truncate_prompt_tokens\":9,\"emulated_output_tokens\":4,\"add_special_"
        "tokens\":false,"
        "\"return_token_ids\":true,\"return_tokens_as_token_ids\":true,"
        "\"tools\":[],\"tool_choice\":\"none\",\"response_format\":{\"type\":\"text\"},"
        "\"something_else\":{\"x\":[1,2]}}";
    struct med_openai_call call = read_ok(MED_OPENAI_COMPLETIONS, body);
    CHECK_UINT(call.query_count, 1);
    CHECK(call.stream);
    CHECK(call.usage);
    CHECK(call.usage_always);
    CHECK(call.token_ids);
    CHECK(call.as_ids);
    CHECK_UINT(med_openai_call_choices(&call), 2);
    const struct med_query *q = call.queries[0];
    CHECK_STR(q->model, "m");
    CHECK_INT(q->input.kind, MED_INPUT_TEXT);
    CHECK_STR(q->input.text, "caf\xc3\xa9");
    CHECK_UINT(q->input.text_bytes, 5);
    CHECK(q->input.without_special);
    CHECK_UINT(q->tokens_max, 7);
    CHECK_UINT(q->choice_count, 2);
    CHECK_UINT(q->prompt_keep, 9);
    CHECK_UINT(q->emulated_output_tokens, 4);
    CHECK(!q->echo);
    CHECK_INT(q->priority, -2);
    CHECK_STR(q->user, "u");
    const struct med_req_sampling *s = &q->sampling;
    CHECK(s->has_temperature && s->has_top_p && s->has_top_k && s->has_seed && s->has_min_p);
    CHECK(s->has_repetition_penalty && s->has_logprobs && s->ignore_eos && s->include_stop);
    CHECK(s->keep_special);
    CHECK_DOUBLE((double)s->temperature, 0, 0);
    CHECK_DOUBLE((double)s->top_p, 0.5, 0);
    CHECK_UINT(s->top_k, 5);
    CHECK_UINT(s->seed, (uint64_t)-3);
    CHECK_DOUBLE((double)s->min_p, 0.25, 0);
    CHECK_DOUBLE((double)s->repetition_penalty, 1.5, 0);
    CHECK_DOUBLE((double)s->presence_penalty, -1, 0);
    CHECK_DOUBLE((double)s->frequency_penalty, 0.5, 0);
    CHECK_UINT(s->min_tokens, 2);
    CHECK_UINT(s->logprobs, 3);
    CHECK_UINT(s->bias_count, 2);
    CHECK_UINT(s->bias_ids[1], 4);
    CHECK_DOUBLE((double)s->biases[1], 2.5, 0);
    CHECK_UINT(s->stop_count, 2);
    CHECK_STR(s->stops[1], "b");
    CHECK_UINT(s->stop_id_count, 2);
    CHECK_UINT(s->stop_ids[1], 6);
    med_openai_call_release(&call);
}

static void test_what_is_left_out_and_null(void)
{
    static const char *const bodies[] = {
        "{\"prompt\":\"x\"}",
        "{\"prompt\":\"x\",\"model\":null,\"max_tokens\":null,\"temperature\":null,\"top_p\":null,"
        "\"n\":null,\"best_of\":null,\"suffix\":null,\"stop\":null,\"seed\":null,\"stream\":null,"
        "\"stream_options\":null,\"logit_bias\":null,\"logprobs\":null,\"echo\":null,"
        "\"top_k\":null,\"min_tokens\":null,\"stop_token_ids\":null,\"skip_special_tokens\":null,"
        "\"tools\":null,\"tool_choice\":null,\"response_format\":null}",
    };
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        struct med_openai_call call = read_ok(MED_OPENAI_COMPLETIONS, bodies[i]);
        const struct med_query *q = call.queries[0];
        const struct med_req_sampling *s = &q->sampling;
        CHECK(!call.stream && !call.usage && q->model == NULL);
        CHECK_UINT(q->tokens_max, 0);
        CHECK_UINT(q->choice_count, 1);
        CHECK(!s->has_temperature && !s->has_top_p && !s->has_top_k && !s->has_seed);
        CHECK(!s->has_logprobs && !s->ignore_eos && !s->keep_special && !s->include_stop);
        CHECK(!q->input.without_special && !q->echo);
        CHECK_UINT(s->stop_count + s->stop_id_count + s->bias_count, 0);
        med_openai_call_release(&call);
    }
}

static void test_prompts(void)
{
    struct med_openai_call call = read_ok(MED_OPENAI_COMPLETIONS, "{\"prompt\":[1,2,999]}");
    CHECK_UINT(call.query_count, 1);
    CHECK_INT(call.queries[0]->input.kind, MED_INPUT_TOKENS);
    CHECK_UINT(call.queries[0]->prompt_count, 3);
    CHECK_UINT(call.queries[0]->prompt[2], 999);
    med_openai_call_release(&call);

    call = read_ok(MED_OPENAI_COMPLETIONS, "{\"prompt\":[[1],[2,3]],\"n\":3,\"stop\":\"s\"}");
    CHECK_UINT(call.query_count, 2);
    CHECK_UINT(med_openai_call_choices(&call), 3);
    CHECK_UINT(call.queries[1]->prompt[1], 3);
    CHECK_STR(call.queries[1]->sampling.stops[0], "s");
    med_openai_call_release(&call);

    call = read_ok(MED_OPENAI_COMPLETIONS, "{\"prompt\":[\"a\",\"b\",\"c\"]}");
    CHECK_UINT(call.query_count, 3);
    CHECK_STR(call.queries[2]->input.text, "c");
    med_openai_call_release(&call);

    /* Only the end of a long prompt counts. */
    call = read_ok(MED_OPENAI_COMPLETIONS, "{\"prompt\":[1,2,3,4],\"truncate_prompt_tokens\":2}");
    med_query_cut_prompt(call.queries[0]);
    CHECK_UINT(call.queries[0]->prompt_count, 2);
    CHECK_UINT(call.queries[0]->prompt[0], 3);
    med_openai_call_release(&call);
}

static void test_chat(void)
{
    struct med_openai_call call =
        read_ok(MED_OPENAI_CHAT,
                "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},"
                "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
                "{\"type\":\"text\",\"text\":\"b\"}],\"name\":\"n\"},"
                "{\"role\":\"assistant\",\"content\":null},{\"role\":\"assistant\"},"
                "{\"role\":\"user\",\"content\":\"\"}],"
                "\"max_tokens\":3,\"max_completion_tokens\":5,\"logprobs\":true,\"top_logprobs\":2,"
                "\"stop\":\"x\",\"top_k\":-1,\"add_generation_prompt\":false}");
    const struct med_query *q = call.queries[0];
    CHECK_INT(q->input.kind, MED_INPUT_CHAT);
    CHECK_UINT(q->input.message_count, 5);
    CHECK_STR(q->input.messages[0].role, "system");
    CHECK_STR(q->input.messages[0].content, "Be brief.");
    CHECK_STR(q->input.messages[1].content, "a\nb");
    CHECK_UINT(q->input.messages[1].content_bytes, 3);
    CHECK_STR(q->input.messages[2].content, "");
    CHECK(!q->input.add_generation_prompt);
    CHECK_UINT(q->tokens_max, 5);
    CHECK_UINT(q->sampling.logprobs, 2);
    CHECK(q->sampling.has_logprobs && q->sampling.has_top_k);
    CHECK_UINT(q->sampling.top_k, 0);
    CHECK_STR(q->sampling.stops[0], "x");
    med_openai_call_release(&call);

    call = read_ok(MED_OPENAI_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
                                    "\"logprobs\":false}");
    CHECK(!call.queries[0]->sampling.has_logprobs);
    CHECK(call.queries[0]->input.add_generation_prompt);
    med_openai_call_release(&call);
}

static const char user[] = "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]";

static void test_refusals(void)
{
    /* What follows the prompt or the messages; param; the sentence, or its beginning. */
    static const struct {
        enum med_openai_kind kind;
        const char *field, *param, *message;
    } table[] = {
        {MED_OPENAI_COMPLETIONS, "\"temperature\":\"hot\"", "temperature",
         "temperature: found \"hot\", expected a number"},
        {MED_OPENAI_COMPLETIONS, "\"temperature\":2.5", "temperature",
         "temperature: found 2.5, expected a number from 0 to 2"},
        {MED_OPENAI_COMPLETIONS, "\"temperature\":1e300", "temperature", "temperature: found 3.4"},
        {MED_OPENAI_COMPLETIONS, "\"top_p\":0", "top_p",
         "top_p: found 0, expected a number above 0"},
        {MED_OPENAI_COMPLETIONS, "\"n\":0", "n",
         "n: found 0, expected a whole number from 1 to 128"},
        {MED_OPENAI_COMPLETIONS, "\"n\":1.5", "n", "n: found 1.5, expected a whole number"},
        {MED_OPENAI_COMPLETIONS, "\"n\":129", "n", "n: found 129"},
        {MED_OPENAI_COMPLETIONS, "\"best_of\":2", "best_of", "best_of: found 2, expected n, 1"},
        {MED_OPENAI_COMPLETIONS, "\"suffix\":\"x\"", "suffix",
         "suffix: insertion is not supported"},
        {MED_OPENAI_COMPLETIONS, "\"max_tokens\":0", "max_tokens",
         "max_tokens: found 0, expected a whole number from 1 to 1048576"},
        {MED_OPENAI_COMPLETIONS, "\"max_tokens\":-1", "max_tokens", "max_tokens: found -1"},
        {MED_OPENAI_COMPLETIONS, "\"stream\":1", "stream",
         "stream: found 1, expected true or false"},
        {MED_OPENAI_COMPLETIONS, "\"stream_options\":{}", "stream_options",
         "stream_options: found options without a stream"},
        {MED_OPENAI_COMPLETIONS, "\"stream\":true,\"stream_options\":{\"include_usage\":1}",
         "stream_options.include_usage", "stream_options.include_usage: found 1"},
        {MED_OPENAI_COMPLETIONS, "\"stop\":[\"a\",\"\"]", "stop[1]",
         "stop[1]: found \"\", expected a string"},
        {MED_OPENAI_COMPLETIONS, "\"stop\":7", "stop",
         "stop: expected a string or a list of strings"},
        {MED_OPENAI_COMPLETIONS, "\"logit_bias\":{\"x\":1}", "logit_bias.x",
         "logit_bias.x: expected a token id as the key"},
        {MED_OPENAI_COMPLETIONS, "\"logit_bias\":{\"1000\":1}", "logit_bias[0].id",
         "logit_bias[0].id: found 1000, expected 0 to 999"},
        {MED_OPENAI_COMPLETIONS, "\"logit_bias\":{\"99999999999\":1}", "logit_bias.99999999999",
         ""},
        {MED_OPENAI_COMPLETIONS, "\"logit_bias\":{\"1\":101}", "logit_bias.1",
         "logit_bias.1: found 101"},
        {MED_OPENAI_COMPLETIONS, "\"logit_bias\":{\"1\":1,\"01\":1}", "logit_bias[1].id", ""},
        {MED_OPENAI_COMPLETIONS, "\"logit_bias\":{\"1\":1,\"1\":1}", "logit_bias.1",
         "logit_bias.1: this key stands twice"},
        {MED_OPENAI_COMPLETIONS, "\"logprobs\":21", "logprobs", "logprobs: found 21"},
        {MED_OPENAI_COMPLETIONS, "\"logprobs\":true", "logprobs", "logprobs: found true"},
        {MED_OPENAI_COMPLETIONS, "\"echo\":true,\"logprobs\":0", "echo",
         "echo: expected no logprobs"},
        {MED_OPENAI_COMPLETIONS, "\"stop_token_ids\":[1,-1]", "stop_token_ids[1]",
         "stop_token_ids[1]: found -1, expected a whole number from 0"},
        {MED_OPENAI_COMPLETIONS, "\"stop_token_ids\":[1000]", "stop_token_ids[0]", ""},
        {MED_OPENAI_COMPLETIONS, "\"seed\":1e16", "seed", "seed: found 1e+16"},
        {MED_OPENAI_COMPLETIONS, "\"truncate_prompt_tokens\":0", "truncate_prompt_tokens", ""},
        {MED_OPENAI_COMPLETIONS, "\"priority\":1e10", "priority", "priority: found 1"},
        {MED_OPENAI_COMPLETIONS, "\"user\":1", "user", "user: found 1, expected a string"},
        {MED_OPENAI_COMPLETIONS, "\"min_tokens\":-1", "min_tokens", ""},
        {MED_OPENAI_COMPLETIONS, "\"tools\":[{}]", "tools", "tools: tools are not supported"},
        {MED_OPENAI_COMPLETIONS, "\"response_format\":{\"type\":\"json_object\"}",
         "response_format.type", "response_format.type: structured output is not supported"},
        {MED_OPENAI_COMPLETIONS, "\"model\":7", "model", "model: found 7, expected a string"},
        {MED_OPENAI_CHAT, "\"logprobs\":2", "logprobs",
         "logprobs: found 2, expected true or false"},
        {MED_OPENAI_CHAT, "\"top_logprobs\":2", "top_logprobs",
         "top_logprobs: found 2 without logprobs"},
        {MED_OPENAI_CHAT, "\"max_completion_tokens\":\"x\"", "max_completion_tokens", ""},
        {MED_OPENAI_CHAT, "\"tool_choice\":\"auto\"", "tool_choice",
         "tool_choice: tools are not supported"},
        {MED_OPENAI_CHAT, "\"tool_choice\":{\"type\":\"function\"}", "tool_choice", ""},
        {MED_OPENAI_CHAT, "\"functions\":[]", "functions", ""},
        {MED_OPENAI_CHAT, "\"presence_penalty\":3", "presence_penalty", ""},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        char body[BODY_MAX];
        (void)snprintf(body, sizeof(body), "{%s,%s}",
                       table[i].kind == MED_OPENAI_CHAT ? user : "\"prompt\":[1]", table[i].field);
        struct med_openai_error error = refuse(table[i].kind, body, strlen(body));
        CHECK_INT(error.status, 400);
        CHECK_STR(error.type, "invalid_request_error");
        CHECK_STR(error.name, "invalid_value");
        CHECK_STR(error.param, table[i].param);
        CHECK_INT(strncmp(error.message, table[i].message, strlen(table[i].message)), 0);
        if (strncmp(error.message, table[i].message, strlen(table[i].message)) != 0)
            CHECK_STR(error.message, table[i].message);
    }
}

static void test_hostile_bodies(void)
{
    static const struct {
        enum med_openai_kind kind;
        const char *body, *param, *message;
    } table[] = {
        {MED_OPENAI_COMPLETIONS, "", "", "the body is not JSON: line 1, column 1: found the end"},
        {MED_OPENAI_COMPLETIONS, "[]", "", "the body: expected a JSON object"},
        {MED_OPENAI_COMPLETIONS, "{\"prompt\":\"x\"} x", "",
         "the body is not JSON: line 1, column 16"},
        {MED_OPENAI_COMPLETIONS, "{\"prompt\":\"\xff\"}", "",
         "the body is not JSON: line 1, column 12"},
        {MED_OPENAI_COMPLETIONS, "{\"prompt\":\"\\u0000\"}", "", "the body is not JSON: "},
        {MED_OPENAI_COMPLETIONS, "{\"prompt\":\"x\",\"prompt\":\"y\"}", "prompt",
         "prompt: this key stands twice in the object"},
        {MED_OPENAI_COMPLETIONS, "{}", "prompt", "prompt: is missing, expected a value"},
        {MED_OPENAI_COMPLETIONS, "{\"prompt\":null}", "prompt", "prompt: found null"},
        {MED_OPENAI_COMPLETIONS, "{\"prompt\":{}}", "prompt", "prompt: expected a string, a list"},
        {MED_OPENAI_COMPLETIONS, "{\"prompt\":\"\"}", "prompt",
         "prompt: found \"\", expected a string of 1 to"},
        {MED_OPENAI_COMPLETIONS, "{\"prompt\":[]}", "prompt", "prompt: found an empty array"},
        {MED_OPENAI_COMPLETIONS, "{\"prompt\":[[]]}", "prompt[0]",
         "prompt[0]: found an empty array"},
        {MED_OPENAI_COMPLETIONS, "{\"prompt\":[1,\"a\"]}", "prompt[1]", "prompt[1]: found \"a\""},
        {MED_OPENAI_COMPLETIONS, "{\"prompt\":[\"a\",1]}", "prompt[1]",
         "prompt[1]: found 1, expected a string"},
        {MED_OPENAI_COMPLETIONS, "{\"prompt\":[[1],2]}", "prompt[1]",
         "prompt[1]: expected a string, a token"},
        {MED_OPENAI_COMPLETIONS, "{\"prompt\":[true]}", "prompt[0]", ""},
        {MED_OPENAI_COMPLETIONS, "{\"prompt\":[1,1000]}", "prompt[1]",
         "prompt[1]: found 1000, expected 0 to 999, the model's vocabulary"},
        {MED_OPENAI_COMPLETIONS, "{\"prompt\":[1,2.5]}", "prompt[1]", "prompt[1]: found 2.5"},
        {MED_OPENAI_COMPLETIONS, "{\"prompt\":[5000000000]}", "prompt[0]", ""},
        {MED_OPENAI_COMPLETIONS, "{\"prompt\":[1],\"a: b\":1,\"a: b\":2}", "[\"a: b\"]",
         "stands twice"},
        {MED_OPENAI_CHAT, "{}", "messages", "messages: is missing, expected an array"},
        {MED_OPENAI_CHAT, "{\"messages\":[]}", "messages", "messages: found 0 messages"},
        {MED_OPENAI_CHAT, "{\"messages\":[1]}", "messages[0]",
         "messages[0]: found 1, expected an object"},
        {MED_OPENAI_CHAT, "{\"messages\":[{\"content\":\"x\"}]}", "messages[0].role", ""},
        {MED_OPENAI_CHAT, "{\"messages\":[{\"role\":\"user\"}]}", "messages[0].content",
         "messages[0].content: is missing"},
        {MED_OPENAI_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":3}]}",
         "messages[0].content", ""},
        {MED_OPENAI_CHAT,
         "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
         "messages[0].content[0].type",
         "messages[0].content[0].type: expected \"text\": this server takes text alone"},
        {MED_OPENAI_CHAT, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[]}]}",
         "messages[0].tool_calls", ""},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct med_openai_error error = refuse(table[i].kind, table[i].body, strlen(table[i].body));
        CHECK_INT(error.status, 400);
        CHECK_STR(error.param, table[i].param);
        CHECK_CONTAINS(error.message, table[i].message);
    }
}

/* Far too deep, and far too many. */
static void test_large_bodies(void)
{
    enum {
        COUNT = 200000
    };
    char *body = med_alloc((size_t)4 * COUNT);
    REQUIRE(body != NULL);
    memset(body, '[', COUNT);
    struct med_openai_error error = refuse(MED_OPENAI_COMPLETIONS, body, COUNT);
    CHECK_CONTAINS(error.message, "nested deeper than 64 levels");

    size_t at = (size_t)sprintf(body, "{\"prompt\":[\"a\"");
    for (int i = 0; i < MED_LIMIT_PROMPTS; i++)
        at += (size_t)sprintf(body + at, ",\"a\"");
    at += (size_t)sprintf(body + at, "]}");
    error = refuse(MED_OPENAI_COMPLETIONS, body, at);
    CHECK_STR(error.param, "prompt");
    CHECK_STR(error.message, "prompt: found 257 prompts, expected at most 256");

    at = (size_t)sprintf(body, "{\"max_tokens\":1,\"prompt\":[7");
    for (int i = 0; i < COUNT; i++)
        at += (size_t)sprintf(body + at, ",7");
    at += (size_t)sprintf(body + at, "]}");
    error = refuse(MED_OPENAI_COMPLETIONS, body, at);
    CHECK_STR(error.param, "prompt");
    CHECK_STR(error.name, "context_length_exceeded");
    CHECK_STR(error.message, "prompt, max_tokens: found a prompt of 200001 and at most 1 output "
                             "tokens, expected at most 64 together");
    med_free(body);
}

static void test_errors_of_the_router(void)
{
    static const struct {
        int code;
        const char *text;
        int status;
        const char *type, *name, *param, *message;
    } table[] = {
        {MED_E_OVERLOAD, "the fleet cannot take this: 5 wait", 429, "rate_limit_error",
         "rate_limit_exceeded", "", "the fleet cannot take this: 5 wait"},
        {MED_E_NO_WORKER, "no worker that serves m is connected", 503, "server_error", "no_worker",
         "", "no worker that serves m is connected"},
        {MED_E_DRAINING, "", 503, "server_error", "draining", "", "the server is draining"},
        {MED_E_DEADLINE, NULL, 504, "server_error", "deadline", "",
         "the deadline of the request has passed"},
        {MED_E_NOT_FOUND, "model: found \"x\", expected \"m\", which is served here", 404,
         "invalid_request_error", "model_not_found", "model",
         "model: found \"x\", expected \"m\", which is served here"},
        {MED_E_INVALID, "n, max_tokens, sampling.logprobs: found 2", 400, "invalid_request_error",
         "invalid_value", "n", "n, max_tokens, logprobs: found 2"},
        {MED_E_INVALID, "chat.messages[3].role: found 0 bytes", 400, "invalid_request_error",
         "invalid_value", "messages[3].role", "messages[3].role: found 0 bytes"},
        {MED_E_INVALID, "chat: the template says: no", 400, "invalid_request_error",
         "invalid_value", "messages", "messages: the template says: no"},
        {MED_E_INVALID, "No names here, at all: x", 400, "invalid_request_error", "invalid_value",
         "", "No names here, at all: x"},
        {MED_E_WORKER_LOST, "worker w was lost", 502, "server_error", "worker_lost", "",
         "worker w was lost"},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct med_openai_error error;
        med_openai_error_set(&error, table[i].code, table[i].text, NULL);
        CHECK_INT(error.status, table[i].status);
        CHECK_STR(error.type, table[i].type);
        CHECK_STR(error.name, table[i].name);
        CHECK_STR(error.param, table[i].param);
        CHECK_STR(error.message, table[i].message);
    }
}

static void test_tokenize_and_detokenize(void)
{
    struct med_openai_text text;
    struct med_err err = {0};
    static const char plain[] = "{\"model\":\"m\",\"prompt\":\"\",\"add_special_tokens\":false,"
                                "\"return_token_strs\":true}";
    CHECK_INT(med_openai_read_tokenize(plain, strlen(plain), &text, &err), 0);
    CHECK_STR(text.model, "m");
    CHECK_STR(text.input.text, "");
    CHECK(text.input.without_special);
    CHECK(text.strings);
    med_openai_text_release(&text);

    static const char chat[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}";
    CHECK_INT(med_openai_read_tokenize(chat, strlen(chat), &text, &err), 0);
    CHECK_INT(text.input.kind, MED_INPUT_CHAT);
    CHECK(text.input.add_generation_prompt);
    med_openai_text_release(&text);

    static const char ids[] = "{\"tokens\":[1,2]}";
    CHECK_INT(med_openai_read_detokenize(ids, strlen(ids), &text, &err), 0);
    CHECK_UINT(text.id_count, 2);
    CHECK_UINT(text.ids[1], 2);
    CHECK(text.keep_special);
    med_openai_text_release(&text);

    static const char *const wrong[] = {"{}", "{\"tokens\":[\"a\"]}", "{\"tokens\":3}", "[1]", ""};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        CHECK(med_openai_read_detokenize(wrong[i], strlen(wrong[i]), &text, &err) < 0);
        CHECK(err.text[0] != '\0');
        med_openai_text_release(&text);
    }
}

int main(void)
{
    RUN(test_every_field_of_completions);
    RUN(test_what_is_left_out_and_null);
    RUN(test_prompts);
    RUN(test_chat);
    RUN(test_refusals);
    RUN(test_hostile_bodies);
    RUN(test_large_bodies);
    RUN(test_errors_of_the_router);
    RUN(test_tokenize_and_detokenize);
    return check_finish();
}
