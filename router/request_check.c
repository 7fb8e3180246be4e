/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The checks of what a client asked for: each refusal names the field, what was found and what was
 * expected.  Everything that costs time with the prompt's length is checked where it is encoded
 * (model.c), apart from token ids.  Runs on the loop.
 */
#include "base/assert.h"
#include "base/utf8.h"
#include "router/request.h"

#include <inttypes.h>
#include <string.h>

static int check_request_id(const struct med_query *query, struct med_err *err)
{
    for (size_t i = 0; query->request_id[i] != '\0'; i++) {
        unsigned char c = (unsigned char)query->request_id[i];
        if (c < 0x21 || c > 0x7e) {
            return med_err_set(err, MED_E_INVALID,
                               "request_id: found byte 0x%02x at position %zu, expected printable "
                               "ASCII without spaces",
                               c, i);
        }
    }
    return 0;
}

/* ---- sampling ---- */

struct range {
    const char *field;
    bool given;
    float value, min, max;
    bool above; /* min itself is out */
};

static int check_ranges(const struct med_req_sampling *s, struct med_err *err)
{
    const struct range ranges[] = {
        {"temperature", s->has_temperature, s->temperature, 0, 2, false},
        {"top_p", s->has_top_p, s->top_p, 0, 1, true},
        {"min_p", s->has_min_p, s->min_p, 0, 1, false},
        {"repetition_penalty", s->has_repetition_penalty, s->repetition_penalty, 0, 2, true},
        {"presence_penalty", true, s->presence_penalty, -2, 2, false},
        {"frequency_penalty", true, s->frequency_penalty, -2, 2, false},
    };
    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        const struct range *r = &ranges[i];
        /* Written so that NaN is refused. */
        bool inside = r->value <= r->max && (r->above ? r->value > r->min : r->value >= r->min);
        if (r->given && !inside) {
            return med_err_set(
                err, MED_E_INVALID, "sampling.%s: found %g, expected a number %s", r->field,
                (double)r->value,
                r->above     ? (r->max > 1 ? "above 0 and at most 2" : "above 0 and at most 1")
                : r->min < 0 ? "from -2 to 2"
                : r->max > 1 ? "from 0 to 2"
                             : "from 0 to 1");
        }
    }
    if (s->has_top_k && s->top_k > INT32_MAX) {
        return med_err_set(err, MED_E_INVALID,
                           "sampling.top_k: found %u, expected 0 (off) to 2147483647", s->top_k);
    }
    if (s->has_logprobs && s->logprobs > MED_LIMIT_TOP_LOGPROBS) {
        return med_err_set(err, MED_E_INVALID, "sampling.logprobs: found %u, expected 0 to %d",
                           s->logprobs, MED_LIMIT_TOP_LOGPROBS);
    }
    return 0;
}

static int check_biases(const struct med_req_sampling *s, int64_t vocab_tokens, struct med_err *err)
{
    if (s->bias_count > MED_LIMIT_LOGIT_BIAS) {
        return med_err_set(err, MED_E_INVALID,
                           "sampling.logit_bias: found %zu entries, expected at most %d",
                           s->bias_count, MED_LIMIT_LOGIT_BIAS);
    }
    for (size_t i = 0; i < s->bias_count; i++) {
        if (s->bias_ids[i] >= vocab_tokens) {
            return med_err_set(err, MED_E_INVALID,
                               "sampling.logit_bias[%zu].id: found %" PRIu32
                               ", expected 0 to %" PRId64 ", the model's vocabulary",
                               i, s->bias_ids[i], vocab_tokens - 1);
        }
        if (!(s->biases[i] >= -100 && s->biases[i] <= 100)) {
            return med_err_set(err, MED_E_INVALID,
                               "sampling.logit_bias[%zu].bias: found %g, expected a number from "
                               "-100 to 100",
                               i, (double)s->biases[i]);
        }
        for (size_t k = 0; k < i; k++) {
            if (s->bias_ids[k] == s->bias_ids[i]) {
                return med_err_set(err, MED_E_INVALID,
                                   "sampling.logit_bias[%zu].id: found %" PRIu32
                                   " a second time, expected each id once",
                                   i, s->bias_ids[i]);
            }
        }
    }
    return 0;
}

static int check_stops(const struct med_req_sampling *s, const struct med_query_limits *limits,
                       struct med_err *err)
{
    if (s->stop_count > 0 && !limits->has_tokenizer) {
        return med_err_set(err, MED_E_INVALID,
                           "sampling.stop: stop strings need the model's tokenizer; start the "
                           "router with --model DIR");
    }
    if (s->stop_count > MED_LIMIT_STOP_STRINGS) {
        return med_err_set(err, MED_E_INVALID,
                           "sampling.stop: found %zu strings, expected at most %d", s->stop_count,
                           MED_LIMIT_STOP_STRINGS);
    }
    for (size_t i = 0; i < s->stop_count; i++) {
        size_t bytes = strlen(s->stops[i]);
        if (bytes == 0 || bytes > MED_LIMIT_STOP_BYTES) {
            return med_err_set(err, MED_E_INVALID,
                               "sampling.stop[%zu]: found %zu bytes, expected 1 to %d", i, bytes,
                               MED_LIMIT_STOP_BYTES);
        }
        long at = med_utf8_check(s->stops[i], bytes);
        if (at >= 0) {
            return med_err_set(err, MED_E_INVALID,
                               "sampling.stop[%zu]: found byte 0x%02x at position %ld, expected "
                               "UTF-8",
                               i, (unsigned char)s->stops[i][at], at);
        }
    }
    if (s->stop_id_count > MED_LIMIT_STOP_TOKENS) {
        return med_err_set(err, MED_E_INVALID,
                           "sampling.stop_token_ids: found %zu ids, expected at most %d",
                           s->stop_id_count, MED_LIMIT_STOP_TOKENS);
    }
    for (size_t i = 0; i < s->stop_id_count; i++) {
        if (s->stop_ids[i] >= limits->vocab_tokens) {
            return med_err_set(err, MED_E_INVALID,
                               "sampling.stop_token_ids[%zu]: found %" PRIu32
                               ", expected 0 to %" PRId64 ", the model's vocabulary",
                               i, s->stop_ids[i], limits->vocab_tokens - 1);
        }
    }
    return 0;
}

/* ---- input ---- */

static int check_chat(const struct med_input *input, const struct med_query_limits *limits,
                      struct med_err *err)
{
    if (!limits->has_chat_template) {
        return med_err_set(err, MED_E_INVALID,
                           "chat: the served model has no chat template; send text or token ids");
    }
    if (input->message_count == 0 || input->message_count > MED_LIMIT_CHAT_MESSAGES) {
        return med_err_set(err, MED_E_INVALID, "chat.messages: found %zu, expected 1 to %d",
                           input->message_count, MED_LIMIT_CHAT_MESSAGES);
    }
    for (size_t i = 0; i < input->message_count; i++) {
        const char *role = input->messages[i].role;
        size_t bytes = strlen(role);
        if (bytes == 0 || bytes > MED_LIMIT_NAME_BYTES || med_utf8_check(role, bytes) >= 0) {
            return med_err_set(err, MED_E_INVALID,
                               "chat.messages[%zu].role: found %zu bytes, expected 1 to %d bytes "
                               "of UTF-8",
                               i, bytes, MED_LIMIT_NAME_BYTES);
        }
    }
    return 0;
}

static int check_input(const struct med_query *query, const struct med_query_limits *limits,
                       struct med_err *err)
{
    const struct med_input *input = &query->input;
    if (input->kind == MED_INPUT_NONE) {
        return med_err_set(err, MED_E_INVALID, "input: found none, expected tokens, text or chat");
    }
    if ((input->kind != MED_INPUT_TOKENS || query->echo) && !limits->has_tokenizer) {
        return med_err_set(err, MED_E_INVALID,
                           "%s: this router has no tokenizer; start it with --model DIR (a folder "
                           "with the model's tokenizer.json), or send token ids%s",
                           query->echo && input->kind == MED_INPUT_TOKENS
                               ? "echo"
                               : med_input_kind_field(input->kind),
                           query->echo ? " without echo" : "");
    }
    if (med_input_bytes(input) > MED_LIMIT_PROMPT_BYTES) {
        return med_err_set(err, MED_E_INVALID, "%s: found %zu bytes, expected at most %d",
                           med_input_kind_field(input->kind), med_input_bytes(input),
                           MED_LIMIT_PROMPT_BYTES);
    }
    if (input->kind == MED_INPUT_TEXT && input->text_bytes == 0)
        return med_err_set(err, MED_E_INVALID, "text: found none, expected at least one byte");
    return input->kind == MED_INPUT_CHAT ? check_chat(input, limits, err) : 0;
}

static int check_numbers(struct med_query *query, struct med_err *err)
{
    if (query->choice_count == 0)
        query->choice_count = 1;
    if (query->choice_count > MED_LIMIT_CHOICES) {
        return med_err_set(err, MED_E_INVALID, "n: found %u, expected 1 to %d (0: 1)",
                           query->choice_count, MED_LIMIT_CHOICES);
    }
    if (query->tokens_max > MED_LIMIT_OUTPUT_TOKENS) {
        return med_err_set(err, MED_E_INVALID, "max_tokens: found %u, expected 1 to %d (0: %s)",
                           query->tokens_max, MED_LIMIT_OUTPUT_TOKENS,
                           query->input.kind == MED_INPUT_CHAT ? "the rest of the context" : "16");
    }
    if (query->emulated_output_tokens > MED_LIMIT_OUTPUT_TOKENS) {
        return med_err_set(err, MED_E_INVALID,
                           "emulated_output_tokens: found %u, expected 0 (none) to %d",
                           query->emulated_output_tokens, MED_LIMIT_OUTPUT_TOKENS);
    }
    return 0;
}

int med_query_check(struct med_query *query, const struct med_query_limits *limits,
                    struct med_err *err)
{
    MED_ASSERT(limits->vocab_tokens > 0);
    MED_ASSERT(limits->vocab_tokens <= (int64_t)INT32_MAX + 1);
    int rc = check_input(query, limits, err);
    if (rc == 0)
        rc = check_numbers(query, err);
    if (rc == 0)
        rc = check_request_id(query, err);
    if (rc == 0)
        rc = check_ranges(&query->sampling, err);
    if (rc == 0)
        rc = check_biases(&query->sampling, limits->vocab_tokens, err);
    return rc == 0 ? check_stops(&query->sampling, limits, err) : rc;
}

/* ---- the prompt's tokens ---- */

/* Output tokens of each choice whose logprobs the router can hold. */
static uint64_t logprob_tokens(const struct med_query *query)
{
    const struct med_req_sampling *s = &query->sampling;
    if (!s->has_logprobs)
        return MED_LIMIT_OUTPUT_TOKENS;
    uint64_t choices = query->choice_count == 0 ? 1 : query->choice_count;
    uint64_t token_bytes = choices * (1 + s->logprobs) * sizeof(struct med_req_logprob);
    return MED_LIMIT_ANSWER_LOGPROB_BYTES / token_bytes;
}

static int check_logprobs(const struct med_query *query, struct med_err *err)
{
    uint64_t most = logprob_tokens(query);
    if (query->tokens_max <= most)
        return 0;
    return med_err_set(err, MED_E_INVALID,
                       "n, max_tokens, sampling.logprobs: found %u choices of at most %" PRIu32
                       " output tokens with 1 + %u logprobs each, expected at most %" PRIu64
                       " output tokens, so that all fit %d bytes",
                       query->choice_count, query->tokens_max, query->sampling.logprobs, most,
                       MED_LIMIT_ANSWER_LOGPROB_BYTES);
}

/* What the workers at hand have room for. */
static uint32_t rest_of_context(const struct med_query *query,
                                const struct med_dispatch_context *context)
{
    int64_t most = context->connected;
    if (most <= (int64_t)query->prompt_count)
        most = context->planned;
    int64_t rest = most - (int64_t)query->prompt_count;
    if (most == 0 || rest > MED_LIMIT_OUTPUT_TOKENS)
        return MED_LIMIT_OUTPUT_TOKENS;
    return rest < 1 ? 1 : (uint32_t)rest;
}

/* max_tokens of a request that names none: never what would be refused if it had been named, apart
 * from a prompt that leaves no room at all. */
static uint32_t default_tokens(const struct med_query *query,
                               const struct med_dispatch_context *context)
{
    uint32_t tokens = rest_of_context(query, context);
    if (query->input.kind != MED_INPUT_CHAT && tokens > MED_REQ_TOKENS_MAX_DEFAULT)
        tokens = MED_REQ_TOKENS_MAX_DEFAULT;
    uint64_t most = logprob_tokens(query);
    return tokens > most ? (uint32_t)most : tokens;
}

static int check_context(struct med_query *query, const struct med_dispatch_context *context,
                         struct med_err *err)
{
    if (query->tokens_max == 0)
        query->tokens_max = default_tokens(query, context);
    if (context->planned == 0 ||
        (int64_t)query->prompt_count + query->tokens_max <= context->planned)
        return 0;
    query->too_long = true;
    return med_err_set(err, MED_E_INVALID,
                       "%s, max_tokens: found a prompt of %zu and at most %" PRIu32
                       " output tokens, expected at most %" PRId64 " together",
                       med_input_kind_field(query->input.kind), query->prompt_count,
                       query->tokens_max, context->planned);
}

int med_query_check_prompt(struct med_query *query, const struct med_query_limits *limits,
                           struct med_err *err)
{
    const char *field = med_input_kind_field(query->input.kind);
    if (query->prompt_count == 0 || query->prompt_count > MED_LIMIT_PROMPT_TOKENS) {
        const char *ids = query->input.kind == MED_INPUT_TOKENS ? "token ids" : "tokens";
        if (query->prompt_count == 0) {
            return med_err_set(err, MED_E_INVALID, "%s: found none, expected 1 to %d %s", field,
                               MED_LIMIT_PROMPT_TOKENS, ids);
        }
        query->too_long = true;
        return med_err_set(err, MED_E_INVALID, "%s: found %zu, expected 1 to %d %s", field,
                           query->prompt_count, MED_LIMIT_PROMPT_TOKENS, ids);
    }
    for (size_t i = 0; query->input.kind == MED_INPUT_TOKENS && i < query->prompt_count; i++) {
        if (query->prompt[i] >= limits->vocab_tokens) {
            return med_err_set(err, MED_E_INVALID,
                               "tokens.ids[%zu]: found %" PRIu32 ", expected 0 to %" PRId64
                               ", the model's vocabulary",
                               i, query->prompt[i], limits->vocab_tokens - 1);
        }
    }
    int rc = check_context(query, &limits->context, err);
    if (rc == 0)
        rc = check_logprobs(query, err);
    if (rc < 0)
        return rc;
    if (query->sampling.min_tokens > query->tokens_max) {
        return med_err_set(err, MED_E_INVALID,
                           "sampling.min_tokens: found %u, expected at most max_tokens, %" PRIu32,
                           query->sampling.min_tokens, query->tokens_max);
    }
    return 0;
}
