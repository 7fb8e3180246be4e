/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the frames of a link say: protobuf messages from and to plain structs (docs/internals/link.md).
 *
 * Sending appends to the link's buffer.  When that is full, or memory is, the link is doomed: nothing
 * more is appended, and the next flush closes the connection; so no send ever calls back.  Receiving
 * checks that a router may say what it says in this state; what it means is the caller's.
 *
 * thread: loop.  Knows no sockets and no timers.
 */
#include "worker/link_internal.h"

#include "base/limits.h"
#include "router/keys.h"

#include <string.h>

/* ---- sending -------------------------------------------------------------------------------- */

static void doom(struct med_uplink *link, int code, const char *text)
{
    if (link->doomed < 0)
        return;
    link->doomed = med_err_set(&link->doom_err, code, "%s", text);
}

static void send_frame(struct med_uplink *link, const Medley__Link__Frame *frame)
{
    if (link->doomed < 0)
        return;
    size_t busy = link->connection->write_busy ? link->connection->writing.length : 0;
    if (link->out.length + busy > MED_LIMIT_LINK_REPLY_BYTES) {
        doom(link, MED_E_LIMIT, "the router does not read: too many bytes wait to be sent");
        return;
    }
    int rc = med_frame_write(&link->out, frame);
    if (rc < 0)
        doom(link, rc, med_err_text(rc));
}

void med_uplink_put_hello(struct med_uplink *link)
{
    const struct med_uplink_hello *hello = link->config.hello;
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Hello body = MEDLEY__LINK__HELLO__INIT;
    body.version = MED_UPLINK_VERSION;
    body.worker_id = (char *)hello->worker_id;
    body.incarnation = hello->incarnation;
    body.worker_type = (char *)hello->worker_type;
    body.model = (char *)hello->model;
    body.max_model_len = (uint64_t)hello->model_len_max;
    body.max_num_seqs = (uint64_t)hello->sequences_max;
    body.kv_tokens = (uint64_t)hello->kv_tokens;
    body.program_version = (char *)MED_VERSION;
    body.backend = (char *)hello->backend;
    body.vocab_tokens = (uint64_t)hello->vocab_tokens;
    if (link->config.tokens) {
        const char *token = med_keys_first(link->config.tokens);
        body.token = (ProtobufCBinaryData){.len = strlen(token), .data = (uint8_t *)token};
    }
    frame.body_case = MEDLEY__LINK__FRAME__BODY_HELLO;
    frame.hello = &body;
    send_frame(link, &frame);
}

void med_uplink_put_stats(struct med_uplink *link)
{
    struct med_uplink_stats stats;
    link->config.ops.get_stats(link->config.ops.arg, &stats);
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Stats body = MEDLEY__LINK__STATS__INIT;
    body.heartbeat_ns = (uint64_t)stats.heartbeat_ns;
    body.running = stats.running;
    body.waiting = stats.waiting;
    body.kv_blocks_free = stats.kv_blocks_free;
    body.kv_blocks_total = stats.kv_blocks_total;
    body.iterations = stats.iterations;
    body.prompt_tokens = stats.prompt_tokens;
    body.generated_tokens = stats.generated_tokens;
    body.finished = stats.finished;
    body.preemptions = stats.preemptions;
    body.prefix_queries = stats.prefix_queries;
    body.prefix_hits = stats.prefix_hits;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_STATS;
    frame.stats = &body;
    send_frame(link, &frame);
}

enum {
    LOGPROB_TOKENS_MAX = 64 /* of one frame with logprobs */
};

/* Bodies of the logprobs of `count` tokens from `from` on. */
static void fill_logprobs(Medley__Link__TokenLogprobs *bodies,
                          const struct med_uplink_logprobs *logprobs, size_t from, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const uint32_t *ids =
            logprobs->top > 0 ? logprobs->top_ids + (from + i) * logprobs->top : NULL;
        size_t top = 0;
        while (top < logprobs->top && ids[top] != MED_UPLINK_NO_ID)
            top++;
        medley__link__token_logprobs__init(&bodies[i]);
        bodies[i].logprob = logprobs->logprobs[from + i];
        bodies[i].rank = logprobs->ranks[from + i];
        if (top == 0)
            continue;
        bodies[i].n_top_ids = bodies[i].n_top_logprobs = top;
        bodies[i].top_ids = (uint32_t *)ids; /* only read when packed, as all here */
        bodies[i].top_logprobs = (float *)logprobs->top_logprobs + (from + i) * logprobs->top;
    }
}

/* One frame: `count` of the tokens, from `from` on. */
static void send_some_tokens(struct med_uplink *link, const struct med_uplink_tokens *tokens,
                             size_t from, size_t count)
{
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Tokens body = MEDLEY__LINK__TOKENS__INIT;
    Medley__Link__TokenLogprobs bodies[LOGPROB_TOKENS_MAX];
    Medley__Link__TokenLogprobs *pointers[LOGPROB_TOKENS_MAX];
    body.request = tokens->request;
    body.attempt = tokens->attempt;
    body.position = (uint32_t)tokens->position + (uint32_t)from;
    body.n_ids = count;
    body.ids = (uint32_t *)tokens->ids + from;
    body.at_ns = (uint64_t)tokens->at_ns;
    if (tokens->logprobs) {
        fill_logprobs(bodies, tokens->logprobs, from, count);
        for (size_t i = 0; i < count; i++)
            pointers[i] = &bodies[i];
        body.n_logprobs = count;
        body.logprobs = pointers;
    }
    frame.body_case = MEDLEY__LINK__FRAME__BODY_TOKENS;
    frame.tokens = &body;
    send_frame(link, &frame);
}

void med_uplink_send_tokens(struct med_uplink *link, const struct med_uplink_tokens *tokens)
{
    if (link->state != MED_UPLINK_STATE_UP)
        return;
    size_t step = tokens->logprobs ? LOGPROB_TOKENS_MAX : tokens->count;
    for (size_t from = 0; from < tokens->count; from += step) {
        size_t left = tokens->count - from;
        send_some_tokens(link, tokens, from, left < step ? left : step);
    }
}

void med_uplink_send_finish(struct med_uplink *link, const struct med_uplink_finish *finish)
{
    static const Medley__Link__Ending endings[] = {
        [MED_UPLINK_STOP] = MEDLEY__LINK__ENDING__ENDING_STOP,
        [MED_UPLINK_LENGTH] = MEDLEY__LINK__ENDING__ENDING_LENGTH,
        [MED_UPLINK_CANCELLED] = MEDLEY__LINK__ENDING__ENDING_CANCELLED,
        [MED_UPLINK_ERROR] = MEDLEY__LINK__ENDING__ENDING_ERROR,
        [MED_UPLINK_FAILED] = MEDLEY__LINK__ENDING__ENDING_FAILED,
        [MED_UPLINK_RETURNED] = MEDLEY__LINK__ENDING__ENDING_RETURNED,
        [MED_UPLINK_REFUSED] = MEDLEY__LINK__ENDING__ENDING_REFUSED,
    };
    if (link->state != MED_UPLINK_STATE_UP)
        return;
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Finish body = MEDLEY__LINK__FINISH__INIT;
    body.request = finish->request;
    body.attempt = finish->attempt;
    body.ending = endings[finish->ending];
    body.message = (char *)(finish->message ? finish->message : "");
    body.cached_tokens = (uint32_t)finish->cached_tokens;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_FINISH;
    frame.finish = &body;
    send_frame(link, &frame);
}

void med_uplink_send_measured(struct med_uplink *link, const struct med_uplink_measured *measured)
{
    if (link->state != MED_UPLINK_STATE_UP)
        return;
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Measured body = MEDLEY__LINK__MEASURED__INIT;
    body.version = MED_UPLINK_MEASURE_VERSION;
    body.id = measured->id;
    body.error = (char *)(measured->error ? measured->error : "");
    body.cannot = measured->cannot;
    body.prefill_tokens = (uint32_t)measured->prefill_tokens;
    body.prefill_context = (uint32_t)measured->prefill_context;
    body.decode_sequences = (uint32_t)measured->decode_sequences;
    body.n_step_ns = body.n_decode_context_tokens = measured->count;
    body.step_ns = (uint64_t *)measured->step_ns; /* only read when packed */
    body.decode_context_tokens = (uint64_t *)measured->decode_context_tokens;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_MEASURED;
    frame.measured = &body;
    send_frame(link, &frame);
}

void med_uplink_send_description(struct med_uplink *link,
                                 const struct med_uplink_description *description)
{
    const struct med_uplink_description *d = description;
    if (link->state != MED_UPLINK_STATE_UP)
        return;
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Description body = MEDLEY__LINK__DESCRIPTION__INIT;
    body.version = MED_UPLINK_MEASURE_VERSION;
    body.device = (char *)d->device;
    body.gpu = (char *)d->gpu;
    body.dtype = (char *)d->dtype;
    body.kv_dtype = (char *)d->kv_dtype;
    body.driver = (char *)d->driver;
    body.uuid = (char *)d->uuid;
    body.host = (char *)d->host;
    body.gpus = d->gpus;
    body.memory_bytes = d->memory_bytes;
    body.read_bytes_per_s = d->read_bytes_per_s;
    body.read_spread = d->read_spread;
    body.flops_per_s = d->flops_per_s;
    body.flops_spread = d->flops_spread;
    body.peak_bytes_per_s = d->peak_bytes_per_s;
    body.peak_flops_per_s = d->peak_flops_per_s;
    body.parameters = d->parameters;
    body.weight_bytes = d->weight_bytes;
    body.kv_bytes_per_token = d->kv_bytes_per_token;
    body.layers = d->layers;
    body.hidden = d->hidden;
    body.heads = d->heads;
    body.kv_heads = d->kv_heads;
    body.head_dim = d->head_dim;
    body.intermediate = d->intermediate;
    body.vocab = d->vocab;
    body.max_num_batched_tokens = (uint64_t)d->batched_tokens_max;
    body.block_tokens = (uint32_t)d->block_tokens;
    body.clock_mhz = d->clock_mhz;
    body.clock_max_mhz = d->clock_max_mhz;
    body.memory_clock_mhz = d->memory_clock_mhz;
    body.power_w = d->power_w;
    body.power_limit_w = d->power_limit_w;
    body.temperature_c = d->temperature_c;
    body.time_scale = d->time_scale;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_DESCRIPTION;
    frame.description = &body;
    send_frame(link, &frame);
}

void med_uplink_send_drain(struct med_uplink *link)
{
    if (link->state != MED_UPLINK_STATE_UP)
        return;
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Drain body = MEDLEY__LINK__DRAIN__INIT;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_DRAIN;
    frame.drain = &body;
    send_frame(link, &frame);
}

static void send_pong(struct med_uplink *link, uint64_t nonce)
{
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Ping body = MEDLEY__LINK__PING__INIT;
    body.nonce = nonce;
    body.reply = 1;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_PING;
    frame.ping = &body;
    send_frame(link, &frame);
}

/* ---- receiving ------------------------------------------------------------------------------ */

static int take_welcome(struct med_uplink *link, const Medley__Link__Welcome *welcome,
                        struct med_err *err)
{
    if (welcome->version != MED_UPLINK_VERSION) {
        return med_err_set(err, MED_E_PROTO,
                           "the router speaks link version %u, this worker speaks version %d",
                           welcome->version, MED_UPLINK_VERSION);
    }
    if (!welcome->accepted) {
        return med_err_set(err, MED_E_PROTO, "the router refused this worker: %s",
                           welcome->reason[0] ? welcome->reason : "it gave no reason");
    }
    if (welcome->stats_interval_ms > MED_UPLINK_STATS_MS_MAX) {
        return med_err_set(err, MED_E_PROTO,
                           "Welcome: stats_interval_ms is %u, expected 0 (none) to %d",
                           welcome->stats_interval_ms, MED_UPLINK_STATS_MS_MAX);
    }
    link->peer_measures = welcome->profiler;
    med_uplink_set_up(link, welcome->stats_interval_ms);
    return 0;
}

static int take_generate(struct med_uplink *link, const Medley__Link__Generate *g,
                         struct med_err *err)
{
    struct med_uplink_generate generate = {
        .request = g->request,
        .attempt = g->attempt,
        .prompt = g->prompt,
        .prompt_count = g->n_prompt,
        .output = g->output,
        .output_count = g->n_output,
        .tokens_max = g->max_tokens,
        .tokens_min = g->min_tokens,
        .has_temperature =
            g->temperature_value_case == MEDLEY__LINK__GENERATE__TEMPERATURE_VALUE_TEMPERATURE,
        .has_top_p = g->top_p_value_case == MEDLEY__LINK__GENERATE__TOP_P_VALUE_TOP_P,
        .has_top_k = g->top_k_value_case == MEDLEY__LINK__GENERATE__TOP_K_VALUE_TOP_K,
        .has_min_p = g->min_p_value_case == MEDLEY__LINK__GENERATE__MIN_P_VALUE_MIN_P,
        .has_repetition_penalty =
            g->repetition_penalty_value_case ==
            MEDLEY__LINK__GENERATE__REPETITION_PENALTY_VALUE_REPETITION_PENALTY,
        .has_seed = g->seed_value_case == MEDLEY__LINK__GENERATE__SEED_VALUE_SEED,
        .has_logprobs = g->logprobs_value_case == MEDLEY__LINK__GENERATE__LOGPROBS_VALUE_LOGPROBS,
        .presence_penalty = g->presence_penalty,
        .frequency_penalty = g->frequency_penalty,
        .ignore_eos = g->ignore_eos,
        .bias_ids = g->bias_ids,
        .biases = g->biases,
        .bias_id_count = g->n_bias_ids,
        .bias_count = g->n_biases,
        .stop_ids = g->stop_token_ids,
        .stop_count = g->n_stop_token_ids,
        .emulated_output_tokens = g->emulated_output_tokens,
        .request_id = g->request_id,
        .traceparent = g->traceparent,
    };
    if (generate.has_temperature)
        generate.temperature = g->temperature;
    if (generate.has_top_p)
        generate.top_p = g->top_p;
    if (generate.has_top_k)
        generate.top_k = g->top_k;
    if (generate.has_min_p)
        generate.min_p = g->min_p;
    if (generate.has_repetition_penalty)
        generate.repetition_penalty = g->repetition_penalty;
    if (generate.has_seed)
        generate.seed = g->seed;
    if (generate.has_logprobs)
        generate.logprobs = g->logprobs;
    return link->config.ops.on_generate(link->config.ops.arg, link, &generate, err);
}

static int take_measure(struct med_uplink *link, const Medley__Link__Measure *m,
                        struct med_err *err)
{
    if (m->version != MED_UPLINK_MEASURE_VERSION) {
        return med_err_set(err, MED_E_PROTO, "Measure has version %u, this worker knows version %d",
                           m->version, MED_UPLINK_MEASURE_VERSION);
    }
    if (m->decode_context_tokens > INT32_MAX) {
        return med_err_set(err, MED_E_PROTO,
                           "Measure: decode_context_tokens is %llu, expected at most %d",
                           (unsigned long long)m->decode_context_tokens, INT32_MAX);
    }
    const struct med_uplink_measure measure = {
        .id = m->id,
        .prefill_tokens = m->prefill_tokens,
        .prefill_context = m->prefill_context,
        .decode_sequences = m->decode_sequences,
        .decode_context_tokens = (int64_t)m->decode_context_tokens,
        .warmup = m->warmup,
        .repeats = m->repeats,
        .fill = m->fill,
    };
    link->config.ops.on_measure(link->config.ops.arg, link, &measure);
    return 0;
}

/* What only a profiler may ask. */
static int take_profilers(struct med_uplink *link, const Medley__Link__Frame *frame,
                          struct med_err *err)
{
    if (!link->peer_measures) {
        return med_err_set(
            err, MED_E_PROTO, "%s from a peer whose Welcome does not say that it is a profiler",
            frame->body_case == MEDLEY__LINK__FRAME__BODY_MEASURE ? "Measure" : "Describe");
    }
    if (frame->body_case == MEDLEY__LINK__FRAME__BODY_MEASURE)
        return take_measure(link, frame->measure, err);
    link->config.ops.on_describe(link->config.ops.arg, link);
    return 0;
}

static int take_frame(struct med_uplink *link, const Medley__Link__Frame *frame,
                      struct med_err *err)
{
    if (link->state == MED_UPLINK_STATE_GREETING) {
        if (frame->body_case != MEDLEY__LINK__FRAME__BODY_WELCOME) {
            return med_err_set(err, MED_E_PROTO,
                               "the router's first frame has body %d, expected Welcome",
                               (int)frame->body_case);
        }
        return take_welcome(link, frame->welcome, err);
    }
    switch (frame->body_case) {
    case MEDLEY__LINK__FRAME__BODY_GENERATE:
        return take_generate(link, frame->generate, err);
    case MEDLEY__LINK__FRAME__BODY_CANCEL:
        link->config.ops.on_cancel(link->config.ops.arg, link, frame->cancel->request,
                                   frame->cancel->attempt);
        return 0;
    case MEDLEY__LINK__FRAME__BODY_DRAIN:
        link->config.ops.on_drain(link->config.ops.arg, link);
        return 0;
    case MEDLEY__LINK__FRAME__BODY_REDIAL:
        link->config.ops.on_redial(link->config.ops.arg, link, frame->redial->stay);
        return 0;
    case MEDLEY__LINK__FRAME__BODY_MEASURE:
    case MEDLEY__LINK__FRAME__BODY_DESCRIBE:
        return take_profilers(link, frame, err);
    case MEDLEY__LINK__FRAME__BODY_STATS: /* asks for ours */
        med_uplink_put_stats(link);
        return 0;
    case MEDLEY__LINK__FRAME__BODY_PING:
        if (!frame->ping->reply)
            send_pong(link, frame->ping->nonce);
        return 0;
    default:
        return med_err_set(err, MED_E_PROTO, "a frame with body %d, which a router does not send",
                           (int)frame->body_case);
    }
}

int med_uplink_take_bytes(struct med_uplink *link, const char *bytes, size_t count,
                          struct med_err *err)
{
    Medley__Link__Frame *frame;
    int rc = med_frame_reader_feed(&link->reader, bytes, count, err);
    if (rc < 0)
        return rc;
    while ((rc = med_frame_reader_next(&link->reader, &frame, err)) > 0) {
        rc = take_frame(link, frame, err);
        med_frame_free(frame);
        if (rc < 0)
            return rc;
        if (link->state != MED_UPLINK_STATE_GREETING && link->state != MED_UPLINK_STATE_UP)
            return 0; /* a callback has ended the connection */
    }
    return rc;
}
