/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A router's bytes at a worker: frames come in whole or end with a sentence, and a Generate becomes a
 * request whose sampling is sound, or is refused with a sentence.  The first byte says where the input
 * is cut.  thread: main.
 */
#include "base/assert.h"
#include "tests/fuzz/fuzz.h"
#include "worker/engine_measure.h"
#include "worker/link_internal.h"
#include "worker/requests.h"

enum {
    VOCAB_TOKENS = 32000,
    TOKENS_MAX = 4096
};

static int on_generate(void *arg, struct med_uplink *link, const struct med_uplink_generate *g,
                       struct med_err *err)
{
    const struct med_request_rules rules = {.tokens_max = TOKENS_MAX,
                                            .vocab_tokens = VOCAB_TOKENS,
                                            .sampling = med_sampling_default(),
                                            .logprobs = true};
    struct med_err why = {0};
    struct med_request *r = NULL;
    (void)arg;
    (void)link;
    (void)err;
    int ending = med_request_ending(g, &rules);
    MED_ASSERT(ending == 0 || ending == MED_UPLINK_STOP || ending == MED_UPLINK_LENGTH);
    int rc = med_request_new(g, &rules, SIZE_MAX, &r, &why);
    if (rc < 0) {
        MED_ASSERT(rc == MED_E_INVALID);
        MED_ASSERT(why.text[0] != '\0');
        return 0;
    }
    const struct med_sampling *s = &r->engine.sequence.sampling;
    MED_ASSERT(r->engine.sequence.prompt_tokens + r->engine.output_tokens_max <= TOKENS_MAX);
    MED_ASSERT(s->tokens_min <= r->engine.output_tokens_max);
    MED_ASSERT(s->temperature >= 0 && s->temperature <= 2);
    for (size_t i = 0; i < s->bias_count; i++)
        MED_ASSERT(s->biases[i].id < VOCAB_TOKENS);
    for (size_t i = 0; i < s->stop_count; i++)
        MED_ASSERT(s->stop_ids[i] < VOCAB_TOKENS);
    for (int64_t i = 0; i < r->engine.sequence.prompt_tokens; i++)
        MED_ASSERT(r->engine.tokens[i] < VOCAB_TOKENS);
    MED_ASSERT(r->engine.output_tokens < r->engine.output_tokens_max);
    for (int64_t i = 0; i < r->engine.output_tokens; i++)
        MED_ASSERT(r->engine.tokens[r->engine.sequence.prompt_tokens + i] < VOCAB_TOKENS);
    r->engine.tokens[r->engine.sequence.prompt_tokens + r->engine.output_tokens_max - 1] = 1;
    med_request_free(r);
    return 0;
}

static void on_cancel(void *arg, struct med_uplink *link, uint64_t request, uint32_t attempt)
{
    (void)arg;
    (void)link;
    (void)request;
    (void)attempt;
}

static void on_drain(void *arg, struct med_uplink *link)
{
    (void)arg;
    (void)link;
}

static void on_redial(void *arg, struct med_uplink *link, bool stay)
{
    (void)arg;
    (void)link;
    (void)stay;
}

static void on_measure(void *arg, struct med_uplink *link, const struct med_uplink_measure *asked)
{
    const struct med_scheduler_config scheduler = {.block_tokens = 16,
                                                   .kv_tokens = 8192,
                                                   .model_len_max = TOKENS_MAX,
                                                   .sequences_max = 32,
                                                   .batched_tokens_max = 512,
                                                   .table_max = 64};
    const struct med_measure_sizes sizes = {.prefill_tokens = asked->prefill_tokens,
                                            .prefill_context = asked->prefill_context,
                                            .decode_sequences = asked->decode_sequences,
                                            .decode_context_tokens = asked->decode_context_tokens,
                                            .warmup = asked->warmup,
                                            .repeats = asked->repeats,
                                            .fill = asked->fill};
    const struct med_sampling sampling = med_sampling_default();
    struct med_measure *measure = NULL;
    struct med_err why = {0};
    (void)arg;
    (void)link;
    int rc = med_measure_new(&sizes, &scheduler, &sampling, VOCAB_TOKENS, &measure, &why);
    if (rc < 0) {
        MED_ASSERT(rc == MED_E_INVALID);
        MED_ASSERT(why.text[0] != '\0');
        return;
    }
    for (int64_t i = 0; i < measure->decode_count; i++) {
        const struct med_engine_request *r = &measure->decodes[i];
        MED_ASSERT(r->measured_cached < r->sequence.prompt_tokens);
        MED_ASSERT(r->output_tokens_max >= 1);
        MED_ASSERT(r->sequence.prompt_tokens + r->output_tokens_max <= TOKENS_MAX);
    }
    med_measure_free(measure);
}

static void on_describe(void *arg, struct med_uplink *link)
{
    const struct med_uplink_description nothing = {
        .device = "", .gpu = "", .dtype = "", .kv_dtype = "", .driver = "", .uuid = "", .host = ""};
    (void)arg;
    med_uplink_send_description(link, &nothing);
}

static void get_stats(void *arg, struct med_uplink_stats *ret_stats)
{
    (void)arg;
    *ret_stats = (struct med_uplink_stats){0};
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct med_uplink_connection connection;
    static const struct med_uplink_hello hello = {
        .worker_id = "w", .worker_type = "t", .model = "m", .backend = "cpu"};
    struct med_err err = {0};
    if (size == 0)
        return 0;
    struct med_uplink link = {.config = {.hello = &hello,
                                         .ops = {.on_generate = on_generate,
                                                 .on_cancel = on_cancel,
                                                 .on_drain = on_drain,
                                                 .on_redial = on_redial,
                                                 .on_measure = on_measure,
                                                 .on_describe = on_describe,
                                                 .get_stats = get_stats}},
                              .state = MED_UPLINK_STATE_UP,
                              .connection = &connection,
                              .peer_measures = true};
    med_buf_init(&link.out, 64 << 20);
    med_frame_reader_init(&link.reader);
    size_t cut = (size_t)data[0] * (size - 1) / 255;
    int rc = med_uplink_take_bytes(&link, (const char *)data + 1, cut, &err);
    if (rc >= 0)
        rc = med_uplink_take_bytes(&link, (const char *)data + 1 + cut, size - 1 - cut, &err);
    if (rc < 0)
        MED_ASSERT(err.text[0] != '\0');
    med_buf_release(&link.out);
    med_frame_reader_release(&link.reader);
    return 0;
}
