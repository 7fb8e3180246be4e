/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GenerateRequest: any bytes are read or refused with a sentence, and what is read is checked or
 * refused with one.  thread: main.
 */
#include "base/assert.h"
#include "router/grpc_codec.h"
#include "tests/fuzz/fuzz.h"

enum {
    VOCAB_TOKENS = 32000
};

static void check_accepted(const struct med_query *query)
{
    const struct med_req_sampling *s = &query->sampling;
    MED_ASSERT(query->input.kind != MED_INPUT_NONE);
    MED_ASSERT(query->choice_count >= 1 && query->choice_count <= MED_LIMIT_CHOICES);
    MED_ASSERT(s->bias_count <= MED_LIMIT_LOGIT_BIAS);
    MED_ASSERT(s->stop_count <= MED_LIMIT_STOP_STRINGS);
    MED_ASSERT(!s->has_temperature || (s->temperature >= 0 && s->temperature <= 2));
    MED_ASSERT(!s->has_logprobs || s->logprobs <= MED_LIMIT_TOP_LOGPROBS);
    for (size_t i = 0; i < s->stop_count; i++)
        MED_ASSERT(s->stops[i][0] != '\0');
    if (query->input.kind == MED_INPUT_TEXT)
        MED_ASSERT(query->input.text_bytes > 0);
    if (query->input.kind == MED_INPUT_CHAT)
        MED_ASSERT(query->input.message_count > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct med_query_limits limits = {.vocab_tokens = VOCAB_TOKENS,
                                                   .has_tokenizer = true,
                                                   .has_chat_template = true,
                                                   .context = {.connected = 4096, .planned = 8192}};
    struct med_err err = {0};
    struct med_query *query = med_query_new();
    MED_ASSERT(query != NULL);
    int rc = med_grpc_codec_read_generate(data, size, query, &err);
    if (rc == 0)
        rc = med_query_check(query, &limits, &err);
    if (rc == 0)
        check_accepted(query);
    if (rc == 0 && query->input.kind == MED_INPUT_TOKENS)
        rc = med_query_check_prompt(query, &limits, &err);
    if (rc < 0) {
        MED_ASSERT(rc == MED_E_INVALID);
        MED_ASSERT(err.text[0] != '\0');
    } else if (query->input.kind == MED_INPUT_TOKENS) {
        MED_ASSERT(query->prompt_count > 0);
        MED_ASSERT(query->tokens_max > 0);
        for (size_t i = 0; i < query->prompt_count; i++)
            MED_ASSERT(query->prompt[i] < VOCAB_TOKENS);
    }
    med_query_free(query);
    return 0;
}
