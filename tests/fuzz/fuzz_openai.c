/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bodies of the OpenAI door: the first byte says of which call; any bytes are read or refused with a
 * sentence, what is read is checked or refused with one, and an error can always be printed.
 * thread: main.
 */
#include "base/assert.h"
#include "base/json.h"
#include "router/openai/read.h"
#include "router/openai/write.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

enum {
    VOCAB_TOKENS = 32000,
    ERROR_BYTES = 16 << 10
};

static const struct med_query_limits limits = {.vocab_tokens = VOCAB_TOKENS,
                                               .has_tokenizer = true,
                                               .has_chat_template = true,
                                               .context = {.connected = 4096, .planned = 8192}};

/* What clients parse must be JSON. */
static void check_error(int rc, const struct med_err *err, const struct med_query *query)
{
    struct med_openai_error error;
    struct med_json_doc doc;
    struct med_buf out;
    MED_ASSERT(err->text[0] != '\0');
    med_openai_error_set(&error, rc, err->text, query);
    MED_ASSERT(error.status == 400);
    MED_ASSERT(error.message[0] != '\0');
    med_buf_init(&out, ERROR_BYTES);
    MED_ASSERT(med_openai_write_error(&error, false, &out) == 0);
    MED_ASSERT(med_json_parse(out.data, out.length, "error", &doc, NULL) == 0);
    med_json_free(&doc);
    med_buf_release(&out);
}

static void check_accepted(const struct med_query *query)
{
    const struct med_req_sampling *s = &query->sampling;
    MED_ASSERT(query->choice_count >= 1 && query->choice_count <= MED_LIMIT_CHOICES);
    MED_ASSERT(s->bias_count <= MED_LIMIT_LOGIT_BIAS);
    MED_ASSERT(s->stop_count <= MED_LIMIT_STOP_STRINGS);
    MED_ASSERT(!s->has_temperature || (s->temperature >= 0 && s->temperature <= 2));
    for (size_t i = 0; i < s->stop_count; i++)
        MED_ASSERT(s->stops[i][0] != '\0');
    if (query->input.kind == MED_INPUT_TEXT)
        MED_ASSERT(query->input.text_bytes == strlen(query->input.text));
    if (query->input.kind == MED_INPUT_CHAT)
        MED_ASSERT(query->input.message_count > 0);
}

static void generate(enum med_openai_kind kind, const char *bytes, size_t count)
{
    struct med_openai_call call;
    struct med_err err = {0};
    struct med_query *query = NULL;
    int rc = med_openai_read(kind, bytes, count, &call, &err);
    for (size_t i = 0; rc == 0 && i < call.query_count; i++) {
        query = call.queries[i];
        rc = med_query_check(query, &limits, &err);
        if (rc == 0)
            check_accepted(query);
        if (rc == 0 && query->input.kind == MED_INPUT_TOKENS) {
            med_query_cut_prompt(query);
            rc = med_query_check_prompt(query, &limits, &err);
        }
    }
    if (rc < 0)
        check_error(rc, &err, query);
    med_openai_call_release(&call);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct med_openai_text text = {0};
    struct med_err err = {0};
    int rc = 0;
    if (size == 0)
        return 0;
    const char *body = (const char *)data + 1;
    switch (data[0] % 4) {
    case 0:
        generate(MED_OPENAI_COMPLETIONS, body, size - 1);
        return 0;
    case 1:
        generate(MED_OPENAI_CHAT, body, size - 1);
        return 0;
    case 2:
        rc = med_openai_read_tokenize(body, size - 1, &text, &err);
        break;
    default:
        rc = med_openai_read_detokenize(body, size - 1, &text, &err);
        break;
    }
    if (rc < 0)
        check_error(rc, &err, NULL);
    med_openai_text_release(&text);
    return 0;
}
