/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A call from its queries to the end of its answer.
 *
 * All queries of a call are given to the router before anything is answered; if it refuses one, those
 * it took are cancelled and the refusal is the answer.  The status line of a stream goes out with the
 * first token, or with a ping, which is not sent before a worker has the request: so what fails before
 * that has a status of its own.
 *
 * A stream has no queue: choices keep what they generate, and each write takes what is new since the
 * last one.  While the HTTP server has too much unsent, nothing is written; a choice that lags
 * MED_LIMIT_CALL_TOKENS_UNSENT tokens ends the call, and its connection is cut.
 *
 * The router's callbacks must not call the router: a call of several queries of which one fails is
 * doomed, and the others are cancelled from a timer; so is the memory of an exchange freed.
 * Runs on the loop.
 */
#include "router/openai/door_internal.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

enum {
    /* Of one event, so that it fits what the HTTP server holds, escaped and with logprobs. */
    EVENT_TEXT_BYTES = 16 << 10,
    EVENT_TOKENS = 32
};

static void settle(struct med_openai_exchange *x);

/* ---- failures ---- */

static void fail(struct med_openai_exchange *x, int code, const char *text,
                 const struct med_query *query)
{
    if (x->failed)
        return;
    x->failed = true;
    med_openai_error_set(&x->error, code, text, query);
}

void med_openai_refuse(struct med_openai_exchange *x, int code, const char *text,
                       const struct med_query *query)
{
    struct med_openai_error error;
    med_openai_error_set(&error, code, text, query);
    med_log(MED_LOG_DEBUG, x->id, "refused (%s): %s", med_err_label(code), error.message);
    med_openai_answer_error(x, &error);
}

/* ---- the stream ---- */

static bool wants_tokens(const struct med_openai_exchange *x, const struct med_req *req)
{
    return x->call.token_ids || req->query->sampling.has_logprobs ||
           req->answer.options.tokenizer == NULL;
}

static bool has_news(const struct med_openai_exchange *x, const struct med_req *req)
{
    return req->answer.text.length > 0 || (req->ended && req->end_code == 0 && !req->end_told) ||
           (req->tokens_told < med_answer_tokens_out(&req->answer) && wants_tokens(x, req));
}

/* Bytes of a text that go into one event: whole characters. */
static size_t text_cut(const struct med_buf *text)
{
    size_t bytes = text->length;
    if (bytes <= EVENT_TEXT_BYTES)
        return bytes;
    bytes = EVENT_TEXT_BYTES;
    while (bytes > 0 && ((unsigned char)text->data[bytes] & 0xc0) == 0x80)
        bytes--;
    return bytes;
}

/* What the next event about a choice says. */
static struct med_openai_chunk next_chunk(const struct med_openai_exchange *x, struct med_req *req,
                                          uint32_t index)
{
    struct med_openai_chunk chunk = {
        .req = req,
        .index = index,
        .from = req->tokens_told,
        .to = med_answer_tokens_out(&req->answer),
        .text = req->answer.text.data,
        .text_bytes = text_cut(&req->answer.text),
        .role = x->role_told != NULL && !x->role_told[index],
    };
    if (wants_tokens(x, req) && chunk.to - chunk.from > EVENT_TOKENS) {
        /* The text comes with the last of them. */
        chunk.to = chunk.from + EVENT_TOKENS;
        chunk.text_bytes = 0;
    } else if (chunk.text_bytes < req->answer.text.length) {
        chunk.to = chunk.from; // tokens come with the last of their text
    } else {
        chunk.ends = req->ended && req->end_code == 0;
    }
    return chunk;
}

/* Sends one event about a choice; < 0: it was not sent. */
static int send_event(struct med_openai_exchange *x, struct med_req *req, uint32_t index)
{
    struct med_openai_chunk chunk = next_chunk(x, req, index);
    size_t chars_told = req->chars_told;
    med_buf_clear(&x->door->scratch);
    int rc = med_openai_write_chunk(&x->style, &chunk, &x->door->scratch);
    if (rc == 0)
        rc = med_openai_stream_write(x);
    if (rc < 0) {
        req->chars_told = chars_told;
        return rc;
    }
    if (x->role_told != NULL)
        x->role_told[index] = true;
    req->tokens_told = chunk.to;
    req->end_told = chunk.ends;
    med_buf_consume(&req->answer.text, chunk.text_bytes);
    return 0;
}

/* Sends what one choice has; false: there is no room, or it cannot be written. */
static bool send_news(struct med_openai_exchange *x, struct med_req *req, uint32_t index)
{
    /* Tokens without text, special ones, are not told of, and are no lag. */
    if (req->answer.text.length == 0 && !wants_tokens(x, req))
        req->tokens_told = med_answer_tokens_out(&req->answer);
    while (!x->blocked && !x->broken && has_news(x, req)) {
        int rc = send_event(x, req, index);
        if (rc == MED_E_AGAIN) {
            x->blocked = true; // med_openai_drained goes on
        } else if (rc < 0) {
            x->broken = true;
            fail(x, rc, NULL, NULL);
        }
    }
    return !x->blocked && !x->broken;
}

/* What all choices have; false: some have more. */
static bool send_all_news(struct med_openai_exchange *x)
{
    for (size_t i = 0; i < x->call.query_count; i++) {
        struct med_query *query = x->call.queries[i];
        for (uint32_t c = 0; query->choices != NULL && c < query->choice_count; c++) {
            if (!send_news(x, &query->choices[c], x->parts[i].first + c))
                return false;
        }
    }
    return true;
}

/* The last events: an error, or usage and the mark of the end. */
static void end_stream(struct med_openai_exchange *x)
{
    struct med_buf *scratch = &x->door->scratch;
    int rc = 0;
    med_buf_clear(scratch);
    if (x->failed) {
        rc = med_openai_write_error(&x->error, true, scratch);
    } else {
        if (x->call.usage)
            rc = med_openai_write_usage(&x->style, scratch);
        if (rc == 0)
            rc = med_buf_append_str(scratch, "data: [DONE]\n\n");
    }
    if (rc == 0)
        rc = med_openai_stream_write(x);
    if (rc == MED_E_AGAIN) {
        x->blocked = true;
    } else if (rc < 0) {
        med_openai_stream_abort(x);
    } else {
        med_openai_stream_end(x);
    }
}

static void finish_stream(struct med_openai_exchange *x)
{
    /* What came before a failure is the client's too. */
    if (x->lagging) {
        med_openai_stream_abort(x);
    } else if (send_all_news(x) || x->broken) {
        end_stream(x);
    }
    /* Else there is no room: med_openai_drained comes back. */
}

/* ---- the whole answer ---- */

static void finish_whole(struct med_openai_exchange *x)
{
    struct med_buf *scratch = &x->door->scratch;
    if (!x->failed) {
        med_buf_clear(scratch);
        int rc = med_openai_write_answer(&x->style, scratch);
        if (rc == 0) {
            med_openai_answer(x, 200);
            return;
        }
        fail(x, rc, NULL, NULL);
    }
    med_openai_answer_error(x, &x->error);
}

/* ---- the end ---- */

/* Goes on if the router has none of its queries any more. */
static void settle(struct med_openai_exchange *x)
{
    if (x->open > 0)
        return;
    if (x->http == NULL) {
        med_openai_bury(x);
    } else if (x->started || (x->call.stream && !x->failed)) {
        finish_stream(x);
    } else {
        finish_whole(x);
    }
}

void med_openai_cancel(struct med_openai_exchange *x)
{
    const struct med_openai_host *host = &x->door->host;
    MED_ASSERT(x->door->callbacks == 0);
    if (x->doomed)
        x->door->doomed_count--;
    x->doomed = false;
    x->open++;
    for (size_t i = 0; i < x->call.query_count; i++) {
        struct med_query *query = x->call.queries[i];
        if (query->taken) {
            host->cancel(host->self, query,
                         x->http == NULL ? MED_OUTCOME_ABORT_CLIENT : MED_OUTCOME_ERROR);
        }
    }
    x->open--;
    settle(x);
}

void med_openai_gone(struct med_openai_exchange *x)
{
    x->http = NULL;
    if (x->job != NULL) {
        med_openai_job_forget(x->job);
        x->job = NULL;
        MED_ASSERT(x->open == 0);
    }
    if (x->open == 0) {
        settle(x);
    } else if (x->door->callbacks > 0) {
        med_openai_doom(x);
    } else {
        med_openai_cancel(x);
    }
}

void med_openai_drained(struct med_openai_exchange *x)
{
    x->blocked = false;
    if (x->open == 0) {
        settle(x);
    } else {
        (void)send_all_news(x); // the rest when there is room again
    }
}

/* ---- the router's callbacks ---- */

static int on_progress(struct med_query *query, struct med_req *req)
{
    const struct med_openai_part *part = query->door_call;
    struct med_openai_exchange *x = part->x;
    if (x->http == NULL || !x->call.stream || x->failed)
        return 0;
    if (med_answer_tokens_out(&req->answer) - req->tokens_told > MED_LIMIT_CALL_TOKENS_UNSENT) {
        x->lagging = true;
        return MED_E_LIMIT;
    }
    x->door->callbacks++;
    (void)send_news(x, req, part->first + req->index);
    x->door->callbacks--;
    return x->broken ? x->error.code : 0;
}

static void on_end(struct med_query *query)
{
    const struct med_openai_part *part = query->door_call;
    struct med_openai_exchange *x = part->x;
    MED_ASSERT(x->open > 0);
    x->door->callbacks++;
    x->open--;
    if (query->end_code < 0) {
        fail(x, query->end_code, query->end_text, query);
        if (x->open > 0)
            med_openai_doom(x);
    } else if (x->call.stream && x->open > 0 && !x->failed && x->http != NULL) {
        for (uint32_t c = 0; c < query->choice_count; c++)
            (void)send_news(x, &query->choices[c], part->first + c);
    }
    settle(x);
    x->door->callbacks--;
}

static const struct med_door_ops door_ops = {.on_progress = on_progress, .on_end = on_end};

/* ---- the start ---- */

/* What belongs to each query besides its body. */
static int prepare(struct med_openai_exchange *x)
{
    struct med_openai_call *call = &x->call;
    uint32_t choices = med_openai_call_choices(call);
    x->parts = med_calloc(call->query_count, sizeof(*x->parts));
    if (call->kind == MED_OPENAI_CHAT)
        x->role_told = med_calloc(call->query_count * choices, sizeof(*x->role_told));
    if (x->parts == NULL || (call->kind == MED_OPENAI_CHAT && x->role_told == NULL))
        return MED_E_NOMEM;
    for (size_t i = 0; i < call->query_count; i++) {
        struct med_query *query = call->queries[i];
        x->parts[i] = (struct med_openai_part){.x = x, .first = (uint32_t)i * choices};
        query->door = &door_ops;
        query->door_call = &x->parts[i];
        query->deadline_ns = x->deadline_ns;
        query->received_ns = x->received_ns;
        memcpy(query->request_id, x->id, sizeof(query->request_id));
        memcpy(query->traceparent, x->traceparent, sizeof(query->traceparent));
    }
    x->style = (struct med_openai_style){.call = call,
                                         .id = x->id,
                                         .model = x->door->model_name,
                                         .created_s = med_clock_unix_ns() / MED_NS_PER_S};
    return med_openai_style_init(&x->style);
}

void med_openai_start(struct med_openai_exchange *x)
{
    const struct med_openai_host *host = &x->door->host;
    struct med_err err = {0};
    int rc = prepare(x);
    if (rc < 0) {
        med_openai_refuse(x, rc, NULL, NULL);
        return;
    }
    x->written_ms = uv_now(x->door->loop);
    x->open = 1;
    for (size_t i = 0; i < x->call.query_count && !x->failed; i++) {
        struct med_query *query = x->call.queries[i];
        x->open++;
        rc = host->submit(host->self, query, &err);
        if (rc < 0) {
            x->open--;
            fail(x, rc, err.text, query);
        }
    }
    x->open--;
    if (x->failed) {
        med_openai_cancel(x);
    } else {
        settle(x);
    }
}

/* ---- pings ---- */

static bool has_worker(const struct med_openai_exchange *x)
{
    for (size_t i = 0; i < x->call.query_count; i++) {
        const struct med_query *query = x->call.queries[i];
        if (query->choices != NULL && query->choices[0].attempts > 0)
            return true;
    }
    return false;
}

void med_openai_ping(struct med_openai_exchange *x, uint64_t now_ms)
{
    if (x->http == NULL || x->open == 0 || !x->call.stream || x->failed || x->blocked ||
        now_ms - x->written_ms < x->door->config.ping_interval_ms)
        return;
    if (!x->started && !has_worker(x))
        return;
    med_buf_clear(&x->door->scratch);
    if (med_buf_append_str(&x->door->scratch, ": ping\n\n") < 0 || med_openai_stream_write(x) < 0)
        return; // the next one may fit
}
