/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bodies of the four calls, see read.h: what stands beside prompt and messages.
 *
 * Several prompts share their parameters; since each query owns its arrays, they are read once for
 * each.  What has a range in med_query_check is only read here: a number must be a number, a whole
 * number must be whole and fit its type.
 * Thread: any; pure.
 */
#include "router/openai/read.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int64_t integer_max = INT64_C(1) << 53;

/* ---- optional values ---- */

static int opt_bool(const struct med_json_at *at, const char *key, bool *value, struct med_err *err)
{
    return med_json_has(at, key) ? med_json_bool(at, key, value, err) : 0;
}

static int opt_float(const struct med_json_at *at, const char *key, bool *ret_has, float *value,
                     struct med_err *err)
{
    double number;
    if (!med_json_has(at, key))
        return 0;
    int rc = med_json_number(at, key, -DBL_MAX, DBL_MAX, &number, err);
    if (rc < 0)
        return rc;
    *ret_has = true;
    /* A conversion out of range is undefined; no range of a float field is as wide. */
    *value = (float)fmin(fmax(number, -(double)FLT_MAX), (double)FLT_MAX);
    return 0;
}

/* A whole number in [min, max], which fits 32 bits. */
static int opt_u32(const struct med_json_at *at, const char *key, int64_t min, int64_t max,
                   uint32_t *value, struct med_err *err)
{
    int64_t number;
    MED_ASSERT(min >= 0);
    MED_ASSERT(max <= UINT32_MAX);
    if (!med_json_has(at, key))
        return 0;
    int rc = med_json_integer(at, key, min, max, &number, err);
    if (rc == 0)
        *value = (uint32_t)number;
    return rc;
}

/* ---- what is not built ---- */

static int refuse_tools(const struct med_json_at *root, struct med_err *err)
{
    static const char *const sentence =
        "tools are not supported: the model's answer is text alone; leave this field out";
    const char *choice = NULL;
    struct med_json_at tools;
    if (med_json_has(root, "tool_choice")) {
        int rc = med_json_member(root, "tool_choice", &tools, err);
        if (rc == 0 && med_json_is_string(&tools))
            rc = med_json_string(root, "tool_choice", MED_LIMIT_NAME_BYTES, &choice, err);
        if (rc < 0)
            return rc;
        if (choice == NULL || strcmp(choice, "none") != 0)
            return med_json_fail(root, "tool_choice", err, "%s, or say \"none\"", sentence);
    }
    if (med_json_has(root, "tools")) {
        int rc = med_json_array(root, "tools", &tools, err);
        if (rc < 0)
            return rc;
        if (med_json_count(&tools) > 0 && choice == NULL)
            return med_json_fail(root, "tools", err, "%s", sentence);
    }
    if (med_json_has(root, "functions"))
        return med_json_fail(root, "functions", err, "%s", sentence);
    if (med_json_has(root, "function_call"))
        return med_json_fail(root, "function_call", err, "%s", sentence);
    return 0;
}

static int refuse_format(const struct med_json_at *root, struct med_err *err)
{
    struct med_json_at format;
    const char *type = "text";
    if (!med_json_has(root, "response_format"))
        return 0;
    int rc = med_json_object(root, "response_format", &format, err);
    if (rc == 0)
        rc = med_json_string(&format, "type", MED_LIMIT_NAME_BYTES, &type, err);
    if (rc < 0 || strcmp(type, "text") == 0)
        return rc;
    return med_json_fail(&format, "type", err,
                         "structured output is not supported: expected \"text\"");
}

static int refuse_completion_fields(const struct med_json_at *root, uint32_t choices,
                                    struct med_err *err)
{
    uint32_t best_of = choices;
    const char *suffix = "";
    int rc = opt_u32(root, "best_of", 1, UINT32_MAX, &best_of, err);
    if (rc == 0 && best_of != choices) {
        return med_json_fail(root, "best_of", err,
                             "found %u, expected n, %u: every choice that is generated is returned",
                             best_of, choices);
    }
    if (rc == 0 && med_json_has(root, "suffix"))
        rc = med_json_string(root, "suffix", -(long)MED_LIMIT_PROMPT_BYTES, &suffix, err);
    if (rc == 0 && suffix[0] != '\0') {
        return med_json_fail(root, "suffix", err,
                             "insertion is not supported: leave this field out");
    }
    return rc;
}

/* ---- sampling ---- */

static int read_numbers(const struct med_json_at *root, struct med_req_sampling *s,
                        struct med_err *err)
{
    bool unused;
    const struct {
        const char *key;
        bool *has;
        float *value;
    } floats[] = {
        {"temperature", &s->has_temperature, &s->temperature},
        {"top_p", &s->has_top_p, &s->top_p},
        {"min_p", &s->has_min_p, &s->min_p},
        {"repetition_penalty", &s->has_repetition_penalty, &s->repetition_penalty},
        {"presence_penalty", &unused, &s->presence_penalty},
        {"frequency_penalty", &unused, &s->frequency_penalty},
    };
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof(floats) / sizeof(floats[0]); i++)
        rc = opt_float(root, floats[i].key, floats[i].has, floats[i].value, err);
    int64_t number;
    if (rc == 0 && med_json_has(root, "top_k")) {
        rc = med_json_integer(root, "top_k", -1, INT32_MAX, &number, err);
        s->has_top_k = rc == 0;
        s->top_k = rc == 0 && number > 0 ? (uint32_t)number : 0; // -1 and 0: off
    }
    if (rc == 0 && med_json_has(root, "seed")) {
        rc = med_json_integer(root, "seed", -integer_max, integer_max, &number, err);
        s->has_seed = rc == 0;
        s->seed = rc == 0 ? (uint64_t)number : 0;
    }
    return rc == 0 ? opt_u32(root, "min_tokens", 0, MED_LIMIT_OUTPUT_TOKENS, &s->min_tokens, err)
                   : rc;
}

static int read_flags(const struct med_json_at *root, struct med_req_sampling *s,
                      struct med_err *err)
{
    bool skip_special = true;
    int rc = opt_bool(root, "ignore_eos", &s->ignore_eos, err);
    if (rc == 0)
        rc = opt_bool(root, "skip_special_tokens", &skip_special, err);
    if (rc == 0)
        rc = opt_bool(root, "include_stop_str_in_output", &s->include_stop, err);
    s->keep_special = !skip_special;
    return rc;
}

static int add_stop(struct med_req_sampling *s, const struct med_json_at *at, struct med_err *err)
{
    const char *stop;
    int rc = med_json_string_here(at, MED_LIMIT_STOP_BYTES, &stop, err);
    if (rc < 0)
        return rc;
    s->stops[s->stop_count] = med_strdup(stop);
    if (s->stops[s->stop_count] == NULL)
        return med_openai_no_memory(err);
    s->stop_count++;
    return 0;
}

/* A string or a list of them. */
static int read_stops(const struct med_json_at *root, struct med_req_sampling *s,
                      struct med_err *err)
{
    struct med_json_at at;
    struct med_json_at item = {0};
    size_t index;
    if (!med_json_has(root, "stop"))
        return 0;
    int rc = med_json_member(root, "stop", &at, err);
    if (rc < 0)
        return rc;
    if (!med_json_is_string(&at) && !med_json_is_array(&at))
        return med_json_fail(&at, NULL, err, "expected a string or a list of strings");
    size_t count = med_json_is_array(&at) ? med_json_count(&at) : 1;
    if (count > MED_LIMIT_STOP_STRINGS) {
        return med_json_fail(&at, NULL, err, "found %zu strings, expected at most %d", count,
                             MED_LIMIT_STOP_STRINGS);
    }
    s->stops = med_calloc(count, sizeof(*s->stops));
    if (s->stops == NULL)
        return med_openai_no_memory(err);
    if (med_json_is_string(&at))
        return add_stop(s, &at, err);
    while (rc == 0 && med_json_next(&at, &index, &item, NULL))
        rc = add_stop(s, &item, err);
    return rc;
}

/* "1234" of a logit_bias. */
static bool read_id(const char *text, uint32_t *ret_id)
{
    uint64_t id = 0;
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 10 || text[digits] != '\0')
        return false;
    for (size_t i = 0; i < digits; i++)
        id = id * 10 + (uint64_t)(text[i] - '0');
    *ret_id = (uint32_t)id;
    return id <= UINT32_MAX;
}

static int read_biases(const struct med_json_at *root, struct med_req_sampling *s,
                       struct med_err *err)
{
    struct med_json_at map;
    struct med_json_at item = {0};
    size_t index;
    const char *key;
    if (!med_json_has(root, "logit_bias"))
        return 0;
    int rc = med_json_object(root, "logit_bias", &map, err);
    if (rc < 0)
        return rc;
    size_t count = med_json_count(&map);
    if (count > MED_LIMIT_LOGIT_BIAS) {
        return med_json_fail(&map, NULL, err, "found %zu entries, expected at most %d", count,
                             MED_LIMIT_LOGIT_BIAS);
    }
    s->bias_ids = med_calloc(count, sizeof(*s->bias_ids));
    s->biases = med_calloc(count, sizeof(*s->biases));
    if (s->bias_ids == NULL || s->biases == NULL)
        return med_openai_no_memory(err);
    while (med_json_next(&map, &index, &item, &key)) {
        double bias;
        if (!read_id(key, &s->bias_ids[index]))
            return med_json_fail(&item, NULL, err, "expected a token id as the key");
        rc = med_json_number_here(&item, -100, 100, &bias, err);
        if (rc < 0)
            return rc;
        s->biases[index] = (float)bias;
        s->bias_count++;
    }
    return 0;
}

static int read_stop_ids(const struct med_json_at *root, struct med_req_sampling *s,
                         struct med_err *err)
{
    struct med_json_at list;
    if (!med_json_has(root, "stop_token_ids"))
        return 0;
    int rc = med_json_array(root, "stop_token_ids", &list, err);
    return rc == 0 ? med_json_ids(&list, 0, UINT32_MAX, &s->stop_ids, &s->stop_id_count, err) : rc;
}

/* completions: how many; chat: whether, and top_logprobs how many. */
static int read_logprobs(const struct med_json_at *root, enum med_openai_kind kind,
                         struct med_req_sampling *s, struct med_err *err)
{
    if (kind == MED_OPENAI_COMPLETIONS) {
        s->has_logprobs = med_json_has(root, "logprobs");
        return opt_u32(root, "logprobs", 0, MED_LIMIT_TOP_LOGPROBS, &s->logprobs, err);
    }
    int rc = opt_bool(root, "logprobs", &s->has_logprobs, err);
    if (rc == 0)
        rc = opt_u32(root, "top_logprobs", 0, MED_LIMIT_TOP_LOGPROBS, &s->logprobs, err);
    if (rc == 0 && s->logprobs > 0 && !s->has_logprobs) {
        return med_json_fail(root, "top_logprobs", err,
                             "found %u without logprobs, expected \"logprobs\": true beside it",
                             s->logprobs);
    }
    return rc;
}

static int read_sampling(const struct med_json_at *root, enum med_openai_kind kind,
                         struct med_req_sampling *s, struct med_err *err)
{
    int rc = read_numbers(root, s, err);
    if (rc == 0)
        rc = read_flags(root, s, err);
    if (rc == 0)
        rc = read_stops(root, s, err);
    if (rc == 0)
        rc = read_biases(root, s, err);
    if (rc == 0)
        rc = read_stop_ids(root, s, err);
    return rc == 0 ? read_logprobs(root, kind, s, err) : rc;
}

/* ---- a query ---- */

static int read_model(const struct med_json_at *root, char **ret_model, struct med_err *err)
{
    const char *model;
    if (!med_json_has(root, "model"))
        return 0;
    /* Longer than a name may be: that it is not served is the better answer. */
    int rc = med_json_string(root, "model", MED_LIMIT_TEXT_BYTES, &model, err);
    if (rc < 0)
        return rc;
    *ret_model = med_strdup(model);
    return *ret_model != NULL ? 0 : med_openai_no_memory(err);
}

static int read_tokens_max(const struct med_json_at *root, enum med_openai_kind kind,
                           struct med_query *query, struct med_err *err)
{
    int rc = opt_u32(root, "max_tokens", 1, MED_LIMIT_OUTPUT_TOKENS, &query->tokens_max, err);
    if (rc == 0 && kind == MED_OPENAI_CHAT) {
        rc = opt_u32(root, "max_completion_tokens", 1, MED_LIMIT_OUTPUT_TOKENS, &query->tokens_max,
                     err);
    }
    if (rc < 0)
        return rc;
    return opt_u32(root, "emulated_output_tokens", 0, MED_LIMIT_OUTPUT_TOKENS,
                   &query->emulated_output_tokens, err);
}

static int read_prompt_options(const struct med_json_at *root, enum med_openai_kind kind,
                               struct med_query *query, struct med_err *err)
{
    int64_t keep = -1;
    bool add_special = kind == MED_OPENAI_COMPLETIONS;
    int rc = 0;
    if (med_json_has(root, "truncate_prompt_tokens")) {
        rc = med_json_integer(root, "truncate_prompt_tokens", 1, MED_LIMIT_PROMPT_TOKENS, &keep,
                              err);
    }
    query->prompt_keep = keep > 0 ? (uint32_t)keep : 0;
    if (rc == 0 && kind == MED_OPENAI_CHAT) {
        return opt_bool(root, "add_generation_prompt", &query->input.add_generation_prompt, err);
    }
    if (rc == 0)
        rc = opt_bool(root, "echo", &query->echo, err);
    if (rc == 0 && query->echo && query->sampling.has_logprobs) {
        return med_json_fail(root, "echo", err,
                             "expected no logprobs beside it: the prompt's tokens have none");
    }
    if (rc == 0)
        rc = opt_bool(root, "add_special_tokens", &add_special, err);
    query->input.without_special = !add_special;
    return rc;
}

/* Whose request it is, and how urgent. */
static int read_standing(const struct med_json_at *root, struct med_query *query,
                         struct med_err *err)
{
    int64_t priority = 0;
    const char *user = NULL;
    int rc = 0;
    if (med_json_has(root, "priority"))
        rc = med_json_integer(root, "priority", INT32_MIN, INT32_MAX, &priority, err);
    if (rc == 0 && med_json_has(root, "user"))
        rc = med_json_string(root, "user", -(long)MED_LIMIT_USER_BYTES, &user, err);
    query->priority = (int32_t)priority;
    if (rc < 0 || user == NULL || user[0] == '\0')
        return rc;
    query->user = med_strdup(user);
    return query->user != NULL ? 0 : med_openai_no_memory(err);
}

static int read_query(const struct med_json_at *root, enum med_openai_kind kind,
                      struct med_query *query, struct med_err *err)
{
    int rc = read_model(root, &query->model, err);
    if (rc == 0)
        rc = opt_u32(root, "n", 1, MED_LIMIT_CHOICES, &query->choice_count, err);
    if (query->choice_count == 0)
        query->choice_count = 1;
    if (rc == 0)
        rc = read_standing(root, query, err);
    if (rc == 0)
        rc = read_tokens_max(root, kind, query, err);
    if (rc == 0)
        rc = read_sampling(root, kind, &query->sampling, err);
    return rc == 0 ? read_prompt_options(root, kind, query, err) : rc;
}

/* ---- the call ---- */

static int read_stream(const struct med_json_at *root, struct med_openai_call *call,
                       struct med_err *err)
{
    struct med_json_at options;
    int rc = opt_bool(root, "stream", &call->stream, err);
    if (rc < 0 || !med_json_has(root, "stream_options"))
        return rc;
    if (!call->stream) {
        return med_json_fail(root, "stream_options", err,
                             "found options without a stream, expected \"stream\": true beside "
                             "them");
    }
    rc = med_json_object(root, "stream_options", &options, err);
    if (rc == 0)
        rc = opt_bool(&options, "include_usage", &call->usage, err);
    if (rc == 0)
        rc = opt_bool(&options, "continuous_usage_stats", &call->usage_always, err);
    return rc;
}

static int read_input(const struct med_json_at *root, struct med_openai_call *call,
                      struct med_err *err)
{
    if (call->kind == MED_OPENAI_COMPLETIONS)
        return med_openai_read_prompts(root, call, err);
    if (med_openai_call_make(call, 1) < 0)
        return med_openai_no_memory(err);
    return med_openai_read_messages(root, &call->queries[0]->input, err);
}

static int read_call(const struct med_json_at *root, struct med_openai_call *call,
                     struct med_err *err)
{
    int rc = read_input(root, call, err);
    if (rc == 0)
        rc = read_stream(root, call, err);
    if (rc == 0)
        rc = opt_bool(root, "return_token_ids", &call->token_ids, err);
    if (rc == 0)
        rc = opt_bool(root, "return_tokens_as_token_ids", &call->as_ids, err);
    if (rc == 0)
        rc = refuse_tools(root, err);
    if (rc == 0)
        rc = refuse_format(root, err);
    for (size_t i = 0; rc == 0 && i < call->query_count; i++)
        rc = read_query(root, call->kind, call->queries[i], err);
    if (rc == 0 && call->kind == MED_OPENAI_COMPLETIONS)
        rc = refuse_completion_fields(root, call->queries[0]->choice_count, err);
    return rc;
}

int med_openai_read(enum med_openai_kind kind, const char *bytes, size_t count,
                    struct med_openai_call *ret_call, struct med_err *err)
{
    struct med_json_doc doc;
    *ret_call = (struct med_openai_call){.kind = kind};
    int rc = med_json_parse(bytes, count, MED_OPENAI_BODY, &doc, err);
    if (rc < 0)
        return rc;
    struct med_json_at root = med_json_root(&doc);
    rc = med_json_is_object(&root) ? read_call(&root, ret_call, err)
                                   : med_json_fail(&root, NULL, err, "expected a JSON object");
    med_json_free(&doc);
    return rc;
}

/* ---- /tokenize, /detokenize ---- */

void med_openai_text_release(struct med_openai_text *text)
{
    med_input_release(&text->input);
    med_free(text->ids);
    med_free(text->model);
    *text = (struct med_openai_text){0};
}

static int read_tokenize(const struct med_json_at *root, struct med_openai_text *text,
                         struct med_err *err)
{
    const char *prompt = "";
    bool add_special = true;
    int rc = read_model(root, &text->model, err);
    if (rc == 0)
        rc = opt_bool(root, "return_token_strs", &text->strings, err);
    if (rc < 0)
        return rc;
    if (med_json_has(root, "messages")) {
        rc = med_openai_read_messages(root, &text->input, err);
        return rc == 0 ? opt_bool(root, "add_generation_prompt", &text->input.add_generation_prompt,
                                  err)
                       : rc;
    }
    rc = opt_bool(root, "add_special_tokens", &add_special, err);
    if (rc == 0)
        rc = med_json_string(root, "prompt", -(long)MED_LIMIT_PROMPT_BYTES, &prompt, err);
    if (rc < 0)
        return rc;
    text->input.kind = MED_INPUT_TEXT;
    text->input.without_special = !add_special;
    text->input.text_bytes = strlen(prompt);
    text->input.text = med_strdup(prompt);
    return text->input.text != NULL ? 0 : med_openai_no_memory(err);
}

static int read_detokenize(const struct med_json_at *root, struct med_openai_text *text,
                           struct med_err *err)
{
    struct med_json_at list;
    bool skip_special = false;
    int rc = read_model(root, &text->model, err);
    if (rc == 0)
        rc = opt_bool(root, "skip_special_tokens", &skip_special, err);
    text->keep_special = !skip_special;
    if (rc == 0)
        rc = med_json_array(root, "tokens", &list, err);
    return rc == 0 ? med_json_ids(&list, 0, UINT32_MAX, &text->ids, &text->id_count, err) : rc;
}

static int read_text(const char *bytes, size_t count,
                     int (*read)(const struct med_json_at *, struct med_openai_text *,
                                 struct med_err *),
                     struct med_openai_text *ret_text, struct med_err *err)
{
    struct med_json_doc doc;
    *ret_text = (struct med_openai_text){0};
    int rc = med_json_parse(bytes, count, MED_OPENAI_BODY, &doc, err);
    if (rc < 0)
        return rc;
    struct med_json_at root = med_json_root(&doc);
    rc = med_json_is_object(&root) ? read(&root, ret_text, err)
                                   : med_json_fail(&root, NULL, err, "expected a JSON object");
    med_json_free(&doc);
    return rc;
}

int med_openai_read_tokenize(const char *bytes, size_t count, struct med_openai_text *ret_text,
                             struct med_err *err)
{
    return read_text(bytes, count, read_tokenize, ret_text, err);
}

int med_openai_read_detokenize(const char *bytes, size_t count, struct med_openai_text *ret_text,
                               struct med_err *err)
{
    return read_text(bytes, count, read_detokenize, ret_text, err);
}
