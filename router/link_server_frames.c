/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frames of a worker link: what the router says and what it makes of what a worker says.
 *
 * A frame is judged here for itself (its kind, its counts and numbers); the owner judges whether it
 * fits the request that it is about.  A refused worker gets its Welcome with the reason before the
 * connection is closed.  Runs on the loop. It knows nothing of dispatch.
 */
#include "router/link_server_internal.h"

#include "base/alloc.h"
#include "base/log.h"
#include "proto/lend.h"
#include "router/keys.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    GOODBYE_MS = 2000 /* for a refused worker to take the reason */
};

/* Small frames must get through: a worker that cannot take one is stalled. */
static void small_send(struct med_link *link, const Medley__Link__Frame *frame)
{
    int rc = med_link_frame_send(link, frame, LINK_SMALL_RESERVE_BYTES);
    if (rc == MED_E_AGAIN) {
        med_link_end(link, "stalled: %zu bytes are unsent", med_link_unsent(link));
    } else if (rc < 0 && rc != MED_E_CANCELLED) {
        med_link_end(link, "a frame cannot be written: %s", med_err_text(rc));
    }
}

static void fill_sampling(const struct med_req_sampling *s, Medley__Link__Generate *generate)
{
    if (s->has_temperature) {
        generate->temperature_value_case = MEDLEY__LINK__GENERATE__TEMPERATURE_VALUE_TEMPERATURE;
        generate->temperature = s->temperature;
    }
    if (s->has_top_p) {
        generate->top_p_value_case = MEDLEY__LINK__GENERATE__TOP_P_VALUE_TOP_P;
        generate->top_p = s->top_p;
    }
    if (s->has_top_k) {
        generate->top_k_value_case = MEDLEY__LINK__GENERATE__TOP_K_VALUE_TOP_K;
        generate->top_k = s->top_k;
    }
    if (s->has_min_p) {
        generate->min_p_value_case = MEDLEY__LINK__GENERATE__MIN_P_VALUE_MIN_P;
        generate->min_p = s->min_p;
    }
    if (s->has_repetition_penalty) {
        generate->repetition_penalty_value_case =
            MEDLEY__LINK__GENERATE__REPETITION_PENALTY_VALUE_REPETITION_PENALTY;
        generate->repetition_penalty = s->repetition_penalty;
    }
    if (s->has_logprobs) {
        generate->logprobs_value_case = MEDLEY__LINK__GENERATE__LOGPROBS_VALUE_LOGPROBS;
        generate->logprobs = s->logprobs;
    }
    generate->ignore_eos = s->ignore_eos;
    generate->presence_penalty = s->presence_penalty;
    generate->frequency_penalty = s->frequency_penalty;
    generate->n_bias_ids = s->bias_count;
    generate->bias_ids = s->bias_ids;
    generate->n_biases = s->bias_count;
    generate->biases = s->biases;
    generate->min_tokens = s->min_tokens;
    generate->n_stop_token_ids = s->stop_id_count;
    generate->stop_token_ids = s->stop_ids;
}

int med_link_send_generate(struct med_link *link, const struct med_req *req, uint32_t attempt)
{
    Medley__Link__Generate generate = MEDLEY__LINK__GENERATE__INIT;
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    const struct med_query *query = req->query;

    if (link->state != LINK_OPEN)
        return MED_E_CANCELLED;
    generate.request = req->id;
    generate.attempt = attempt;
    generate.n_prompt = query->prompt_count;
    generate.prompt = query->prompt;
    /* What other workers have said of it stands: this one goes on behind that. */
    generate.n_output = req->output_count;
    generate.output = req->output;
    generate.max_tokens = query->tokens_max;
    generate.emulated_output_tokens = query->emulated_output_tokens;
    generate.request_id = med_proto_lend(query->request_id);
    generate.traceparent = med_proto_lend(query->traceparent);
    fill_sampling(&query->sampling, &generate);
    /* Always one: another worker that goes on with it must draw alike. */
    generate.seed_value_case = MEDLEY__LINK__GENERATE__SEED_VALUE_SEED;
    generate.seed = req->seed;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_GENERATE;
    frame.generate = &generate;
    return med_link_frame_send(link, &frame, 0);
}

void med_link_send_cancel(struct med_link *link, uint64_t request, uint32_t attempt)
{
    Medley__Link__Cancel cancel = MEDLEY__LINK__CANCEL__INIT;
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;

    cancel.request = request;
    cancel.attempt = attempt;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_CANCEL;
    frame.cancel = &cancel;
    small_send(link, &frame);
}

void med_link_send_drain(struct med_link *link)
{
    Medley__Link__Drain drain = MEDLEY__LINK__DRAIN__INIT;
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;

    frame.body_case = MEDLEY__LINK__FRAME__BODY_DRAIN;
    frame.drain = &drain;
    small_send(link, &frame);
}

void med_link_send_redial(struct med_link *link, bool stay)
{
    Medley__Link__Redial redial = MEDLEY__LINK__REDIAL__INIT;
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;

    redial.stay = stay;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_REDIAL;
    frame.redial = &redial;
    small_send(link, &frame);
}

void med_link_close(struct med_link *link, const char *reason)
{
    med_link_end(link, "%s", reason);
}

static void send_ping(struct med_link *link, uint64_t nonce, bool reply)
{
    Medley__Link__Ping ping = MEDLEY__LINK__PING__INIT;
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;

    ping.nonce = nonce;
    ping.reply = reply;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_PING;
    frame.ping = &ping;
    small_send(link, &frame);
}

static void send_welcome(struct med_link *link, bool accepted, const char *reason)
{
    Medley__Link__Welcome welcome = MEDLEY__LINK__WELCOME__INIT;
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;

    welcome.version = MED_LINK_VERSION;
    welcome.accepted = accepted;
    welcome.reason = med_proto_lend(reason);
    welcome.stats_interval_ms = link->server->config.stats_interval_ms;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_WELCOME;
    frame.welcome = &welcome;
    small_send(link, &frame);
}

/* ---- frames that come in ---- */

static void on_ping_timer(uv_timer_t *timer)
{
    struct med_link *link = timer->data;
    link->ping_sent_ns = uv_hrtime();
    send_ping(link, ++link->ping_nonce, false);
}

/* Sends the reason and closes when it has gone out. */
static void refuse(struct med_link *link, const char *reason)
{
    (void)snprintf(link->reason, sizeof(link->reason), "refused: %s", reason);
    link->server->refused++;
    send_welcome(link, false, reason);
    if (link->state == LINK_CLOSING)
        return;
    med_stream_read_stop(&link->stream);
    link->state = LINK_GOODBYE;
    med_link_timer_set(link, med_link_on_patience_over, GOODBYE_MS, 0);
    if (!link->writing)
        med_link_end(link, "refused");
}

/* Sends Welcome, then what was written while the link was corked. */
static void welcome_first(struct med_link *link)
{
    struct med_buf early = link->out;
    med_buf_init(&link->out, early.max_bytes);
    send_welcome(link, true, "");
    if (early.length > 0 && link->state == LINK_OPEN) {
        int rc = med_buf_append(&link->out, early.data, early.length);
        if (rc < 0)
            med_link_end(link, "a frame cannot be written: %s", med_err_text(rc));
        med_link_flush(link);
    }
    med_buf_release(&early);
}

static int64_t clamp(uint64_t value)
{
    return value > INT64_MAX ? INT64_MAX : (int64_t)value;
}

static void on_hello(struct med_link *link, const Medley__Link__Hello *hello)
{
    const struct med_link_ops *ops = &link->server->ops;
    char text[LINK_REASON_MAX];
    if (hello->version != MED_LINK_VERSION) {
        (void)snprintf(text, sizeof(text),
                       "protocol version %" PRIu32 " of worker program %.32s, expected %d",
                       hello->version, hello->program_version, MED_LINK_VERSION);
        refuse(link, text);
        return;
    }
    /* Before anything else that it says is looked at. */
    if (!med_keys_match(link->server->config.tokens, (const char *)hello->token.data,
                        hello->token.len)) {
        refuse(link, hello->token.len == 0
                         ? "this router wants a token: start the worker with --link-token-file"
                         : "its token is not one of this router's");
        return;
    }
    size_t id_bytes = strlen(hello->worker_id);
    if (id_bytes == 0 || id_bytes > MED_LIMIT_NAME_BYTES) {
        (void)snprintf(text, sizeof(text), "worker_id has %zu bytes, expected 1 to %d", id_bytes,
                       MED_LIMIT_NAME_BYTES);
        refuse(link, text);
        return;
    }
    struct med_link_hello said = {
        .worker_id = hello->worker_id,
        .worker_type = hello->worker_type,
        .model = hello->model,
        .program_version = hello->program_version,
        .backend = hello->backend,
        .incarnation = hello->incarnation,
        .model_len_max = clamp(hello->max_model_len),
        .sequences_max = clamp(hello->max_num_seqs),
        .kv_tokens = clamp(hello->kv_tokens),
        .vocab_tokens = clamp(hello->vocab_tokens),
    };
    struct med_err err = {0};
    /* The owner may send work from inside hello; Welcome goes before it. */
    link->state = LINK_OPEN;
    link->corked = true;
    int rc = ops->hello(ops->self, link, &said, &err);
    link->corked = false;
    if (rc < 0) {
        refuse(link, err.text);
        return;
    }
    link->welcomed = true;
    welcome_first(link);
    med_link_timer_set(link, on_ping_timer, link->server->config.ping_interval_ms,
                       link->server->config.ping_interval_ms);
}

static void on_stats(struct med_link *link, const Medley__Link__Stats *stats)
{
    const struct med_link_ops *ops = &link->server->ops;
    struct med_link_stats s = {
        .heartbeat_ns = stats->heartbeat_ns,
        .running = clamp(stats->running),
        .waiting = clamp(stats->waiting),
        .kv_blocks_free = clamp(stats->kv_blocks_free),
        .kv_blocks_total = clamp(stats->kv_blocks_total),
        .iterations = stats->iterations,
        .prompt_tokens = stats->prompt_tokens,
        .generated_tokens = stats->generated_tokens,
        .finished = stats->finished,
        .preemptions = stats->preemptions,
        .prefix_queries = stats->prefix_queries,
        .prefix_hits = stats->prefix_hits,
    };
    ops->stats(ops->self, link, &s);
}

static void on_finish(struct med_link *link, const Medley__Link__Finish *finish)
{
    const struct med_link_ops *ops = &link->server->ops;
    static const enum med_link_ending endings[] = {
        [MEDLEY__LINK__ENDING__ENDING_STOP] = MED_LINK_STOP,
        [MEDLEY__LINK__ENDING__ENDING_LENGTH] = MED_LINK_LENGTH,
        [MEDLEY__LINK__ENDING__ENDING_CANCELLED] = MED_LINK_CANCELLED,
        [MEDLEY__LINK__ENDING__ENDING_ERROR] = MED_LINK_ERROR,
        [MEDLEY__LINK__ENDING__ENDING_REFUSED] = MED_LINK_REFUSED,
        [MEDLEY__LINK__ENDING__ENDING_FAILED] = MED_LINK_FAILED,
        [MEDLEY__LINK__ENDING__ENDING_RETURNED] = MED_LINK_RETURNED,
    };
    int ending = (int)finish->ending;
    if (ending <= 0 || ending > (int)MEDLEY__LINK__ENDING__ENDING_RETURNED) {
        med_link_broken(link, "a Finish with an ending that this version does not know");
        return;
    }
    const struct med_link_finish said = {
        .request = finish->request,
        .attempt = finish->attempt,
        .ending = endings[ending],
        .message = finish->message,
        .cached_tokens = finish->cached_tokens,
    };
    if (ops->finish(ops->self, link, &said) < 0)
        med_link_broken(link, "a Finish that does not fit its request");
}

/* Takes one token's logprobs over. False: they are no such. */
static bool read_logprobs(const Medley__Link__TokenLogprobs *from, struct med_link_logprobs *to)
{
    bool ok = isfinite(from->logprob) && from->n_top_ids == from->n_top_logprobs &&
              from->n_top_ids <= MED_LIMIT_TOP_LOGPROBS;
    for (size_t i = 0; ok && i < from->n_top_logprobs; i++)
        ok = isfinite(from->top_logprobs[i]) != 0;
    *to = (struct med_link_logprobs){.logprob = from->logprob,
                                     .top_ids = from->top_ids,
                                     .top_logprobs = from->top_logprobs,
                                     .top_count = from->n_top_ids};
    return ok;
}

/* The frame's logprobs, or NULL and why they cannot be used; NULL and NULL: it has none. */
static const struct med_link_logprobs *read_all_logprobs(struct med_link_server *server,
                                                         const Medley__Link__Tokens *tokens,
                                                         const char **ret_why)
{
    *ret_why = NULL;
    if (tokens->n_logprobs == 0)
        return NULL;
    if (tokens->n_logprobs != tokens->n_ids) {
        *ret_why = "a Tokens frame with more or fewer logprobs than tokens";
        return NULL;
    }
    if (tokens->n_ids > server->logprob_capacity) {
        struct med_link_logprobs *grown =
            med_realloc_array(server->logprobs, tokens->n_ids, sizeof(*grown));
        if (grown == NULL) {
            *ret_why = "no memory for a Tokens frame";
            return NULL;
        }
        server->logprobs = grown;
        server->logprob_capacity = tokens->n_ids;
    }
    for (size_t i = 0; i < tokens->n_ids; i++) {
        if (!read_logprobs(tokens->logprobs[i], &server->logprobs[i])) {
            *ret_why = "logprobs that are not finite, or too many";
            return NULL;
        }
    }
    return server->logprobs;
}

static void on_tokens(struct med_link *link, const Medley__Link__Tokens *tokens)
{
    const struct med_link_ops *ops = &link->server->ops;
    const char *why = NULL;
    if (tokens->n_ids == 0) {
        med_link_broken(link, "a Tokens frame without tokens");
        return;
    }
    const struct med_link_logprobs *logprobs = read_all_logprobs(link->server, tokens, &why);
    if (why != NULL) {
        med_link_broken(link, why);
        return;
    }
    const struct med_link_tokens said = {
        .request = tokens->request,
        .attempt = tokens->attempt,
        .position = tokens->position,
        .ids = tokens->ids,
        .count = tokens->n_ids,
        .logprobs = logprobs,
    };
    int rc = ops->tokens(ops->self, link, &said);
    if (rc == MED_E_INVALID) {
        med_link_broken(link, "some tokens with logprobs and some without");
    } else if (rc < 0) {
        med_link_broken(link,
                        "tokens at a position that is not the next one, or more than asked for");
    }
}

static void on_ping(struct med_link *link, const Medley__Link__Ping *ping)
{
    if (!ping->reply) {
        send_ping(link, ping->nonce, true);
    } else if (ping->nonce == link->ping_nonce) {
        link->round_trip_s = (double)(uv_hrtime() - link->ping_sent_ns) / 1e9;
    }
}

void med_link_on_frame(struct med_link *link, const Medley__Link__Frame *frame)
{
    const struct med_link_ops *ops = &link->server->ops;
    link->frames_in++;
    if (link->state == LINK_GREETING) {
        if (frame->body_case == MEDLEY__LINK__FRAME__BODY_HELLO) {
            on_hello(link, frame->hello);
        } else {
            med_link_broken(link, "the first frame is not Hello");
        }
        return;
    }
    switch (frame->body_case) {
    case MEDLEY__LINK__FRAME__BODY_TOKENS:
        on_tokens(link, frame->tokens);
        break;
    case MEDLEY__LINK__FRAME__BODY_FINISH:
        on_finish(link, frame->finish);
        break;
    case MEDLEY__LINK__FRAME__BODY_STATS:
        on_stats(link, frame->stats);
        break;
    case MEDLEY__LINK__FRAME__BODY_DRAIN:
        ops->drain(ops->self, link);
        break;
    case MEDLEY__LINK__FRAME__BODY_PING:
        on_ping(link, frame->ping);
        break;
    default:
        med_link_broken(link, "a frame that only a router sends, or a second Hello");
    }
}
