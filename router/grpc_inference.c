/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The methods of medley.v1.Inference; see grpc_call.h.
 *
 * A streaming call has no queue: the choices keep what they generate, and each write takes what one
 * of them has that is not written yet; the choices take turns.  So a slow reader gets fewer and
 * larger chunks, until a choice lags MED_LIMIT_CALL_TOKENS_UNSENT tokens and the call is ended with
 * RESOURCE_EXHAUSTED.  The last chunk goes with the status.
 *
 * Runs on the loop. Nothing here waits.
 */
#include "base/alloc.h"
#include "base/assert.h"
#include "router/grpc_call.h"
#include "router/grpc_codec.h"

enum {
    CHUNK_TEXT_BYTES = 1 << 20 /* a client's message limit is 4 MiB unless it says otherwise */
};

static void finish_error(struct med_grpc_call *call, int code, const char *text)
{
    const struct med_query *query = call->query;
    med_grpc_call_finish(call, &(struct med_grpc_ending){
                                   .status = (grpc_status_code)med_err_grpc_status(code),
                                   .text = text,
                                   .retry_after_ms = query != NULL ? query->retry_after_ms : 0,
                                   .request_id = query != NULL ? query->request_id : NULL,
                               });
}

/* ---- the stream ---- */

/* Tokens and text that the client does not have, and the end if it has not been told. */
static bool has_news(const struct med_req *req)
{
    return req->tokens_told < med_answer_tokens_out(&req->answer) || req->answer.text.length > 0 ||
           (req->ended && req->end_code == 0 && !req->end_told);
}

/* The next choice in turn that has news; NULL: none has. */
static struct med_req *next_choice(struct med_grpc_call *call)
{
    struct med_query *query = call->query;
    for (uint32_t i = 0; query->choices != NULL && i < query->choice_count; i++) {
        uint32_t index = (call->turn + i) % query->choice_count;
        if (has_news(&query->choices[index])) {
            call->turn = index + 1;
            return &query->choices[index];
        }
    }
    return NULL;
}

/* Bytes of a text that go into one chunk: whole characters. */
static size_t text_cut(const struct med_buf *text)
{
    size_t bytes = text->length;
    if (bytes <= CHUNK_TEXT_BYTES)
        return bytes;
    bytes = CHUNK_TEXT_BYTES;
    while (bytes > 0 && ((unsigned char)text->data[bytes] & 0xc0) == 0x80)
        bytes--;
    return bytes;
}

/* Packs a choice's news into the server's scratch. *ret_last: the query has no other news. */
static int pack_news(struct med_grpc_call *call, struct med_req *req, bool *ret_last)
{
    struct med_query *query = call->query;
    struct med_buf *scratch = &call->server->scratch;
    size_t text_bytes = text_cut(&req->answer.text);
    bool all = text_bytes == req->answer.text.length;
    struct med_grpc_chunk chunk = {
        .req = req,
        .from = req->tokens_told,
        /* Tokens come with the last of their text. */
        .to = all ? med_answer_tokens_out(&req->answer) : req->tokens_told,
        .text = req->answer.text.data,
        .text_bytes = text_bytes,
        .ends = all && req->ended && req->end_code == 0,
    };
    bool others = false;
    for (uint32_t i = 0; i < query->choice_count; i++)
        others = others || (&query->choices[i] != req && has_news(&query->choices[i]));
    *ret_last = query->ended && all && !others;
    chunk.usage = *ret_last && query->end_code == 0;
    med_buf_clear(scratch);
    int rc = med_grpc_codec_write_chunk(&chunk, scratch);
    if (rc < 0)
        return rc;
    req->tokens_told = chunk.to;
    req->end_told = chunk.ends;
    med_buf_consume(&req->answer.text, text_bytes);
    return 0;
}

static void stream_finish(struct med_grpc_call *call, const struct med_buf *last_chunk)
{
    const struct med_query *query = call->query;
    med_grpc_call_finish(call, &(struct med_grpc_ending){
                                   .status = (grpc_status_code)med_err_grpc_status(query->end_code),
                                   .text = query->end_text,
                                   .bytes = last_chunk != NULL ? last_chunk->data : NULL,
                                   .count = last_chunk != NULL ? last_chunk->length : 0,
                                   .retry_after_ms = query->retry_after_ms,
                                   .request_id = query->request_id,
                               });
}

/* Writes what the stream's client does not have yet, if nothing is on its way. */
static void stream_pump(struct med_grpc_call *call)
{
    const struct med_query *query = call->query;
    if (call->writing || call->finishing || call->cancelled)
        return;
    struct med_req *req = next_choice(call);
    if (req == NULL) {
        if (query->ended)
            stream_finish(call, NULL);
        return;
    }
    bool last = false;
    const struct med_buf *scratch = &call->server->scratch;
    int rc = pack_news(call, req, &last);
    if (rc < 0) {
        med_grpc_call_abort(call, (grpc_status_code)med_err_grpc_status(rc), med_err_text(rc));
    } else if (last) {
        stream_finish(call, scratch);
    } else {
        med_grpc_call_write(call, scratch->data, scratch->length);
    }
}

static int on_stream_progress(struct med_query *query, struct med_req *req)
{
    if (med_answer_tokens_out(&req->answer) - req->tokens_told > MED_LIMIT_CALL_TOKENS_UNSENT)
        return MED_E_LIMIT;
    stream_pump(query->door_call);
    return 0;
}

static void on_stream_end(struct med_query *query)
{
    struct med_grpc_call *call = query->door_call;
    if (query->abort_code < 0 && !call->cancelled) {
        med_grpc_call_abort(call, (grpc_status_code)med_err_grpc_status(query->abort_code),
                            query->end_text);
    } else {
        stream_pump(call);
    }
}

/* ---- the one answer ---- */

static int on_unary_progress(struct med_query *query, struct med_req *req)
{
    (void)query;
    (void)req; // the answer waits in its choices
    return 0;
}

static void on_unary_end(struct med_query *query)
{
    struct med_grpc_call *call = query->door_call;
    if (call->cancelled)
        return;
    if (query->end_code < 0) {
        finish_error(call, query->end_code, query->end_text);
        return;
    }
    struct med_buf *scratch = &call->server->scratch;
    med_buf_clear(scratch);
    int rc = med_grpc_codec_write_response(query, scratch);
    if (rc < 0) {
        finish_error(call, rc, med_err_text(rc));
        return;
    }
    med_grpc_call_finish(call, &(struct med_grpc_ending){.status = GRPC_STATUS_OK,
                                                         .bytes = scratch->data,
                                                         .count = scratch->length,
                                                         .request_id = query->request_id});
}

static const struct med_door_ops unary_door = {.on_progress = on_unary_progress,
                                               .on_end = on_unary_end};
static const struct med_door_ops stream_door = {.on_progress = on_stream_progress,
                                                .on_end = on_stream_end};

/* ---- calls ---- */

static void generate(struct med_grpc_call *call, const void *bytes, size_t count,
                     const struct med_door_ops *door)
{
    struct med_err err = {0};
    call->query = med_query_new();
    if (call->query == NULL) {
        finish_error(call, MED_E_NOMEM, med_err_text(MED_E_NOMEM));
        return;
    }
    call->server->request_count++;
    call->query->door = door;
    call->query->door_call = call;
    call->query->deadline_ns = call->deadline_ns;
    const struct med_grpc_host *host = &call->server->host;
    int rc = med_grpc_codec_read_generate(bytes, count, call->query, &err);
    if (rc == 0)
        rc = host->submit(host->self, call->query, &err);
    if (rc < 0)
        finish_error(call, rc, err.text);
}

static void on_unary_message(struct med_grpc_call *call, const void *bytes, size_t count)
{
    generate(call, bytes, count, &unary_door);
}

static void on_stream_message(struct med_grpc_call *call, const void *bytes, size_t count)
{
    generate(call, bytes, count, &stream_door);
}

static void on_generate_half_close(struct med_grpc_call *call)
{
    med_grpc_call_finish(call,
                         &(struct med_grpc_ending){.status = GRPC_STATUS_INVALID_ARGUMENT,
                                                   .text = "the call has no request message"});
}

static void on_generate_cancelled(struct med_grpc_call *call)
{
    const struct med_grpc_host *host = &call->server->host;
    if (call->query == NULL || !call->query->taken)
        return;
    /* Clients give up at their own deadline, a little before ours: gRPC rounds timeouts up. */
    int64_t slack_ns =
        call->timeout_ns / 50 + (int64_t)(5 * (double)MED_NS_PER_MS * call->server->clock->scale);
    bool late = call->deadline_ns != 0 &&
                med_clock_now_ns(call->server->clock) >= call->deadline_ns - slack_ns;
    host->cancel(host->self, call->query,
                 late ? MED_OUTCOME_ABORT_DEADLINE : MED_OUTCOME_ABORT_CLIENT);
}

static void on_generate_release(struct med_grpc_call *call)
{
    if (call->query == NULL)
        return;
    call->server->request_count--;
    med_query_free(call->query);
    call->query = NULL;
}

const struct med_grpc_method MED_GRPC_GENERATE = {
    .path = "/medley.v1.Inference/Generate",
    .on_message = on_unary_message,
    .on_half_close = on_generate_half_close,
    .on_written = med_grpc_call_ignore,
    .on_cancelled = on_generate_cancelled,
    .release = on_generate_release,
};

const struct med_grpc_method MED_GRPC_GENERATE_STREAM = {
    .path = "/medley.v1.Inference/GenerateStream",
    .on_message = on_stream_message,
    .on_half_close = on_generate_half_close,
    .on_written = stream_pump,
    .on_cancelled = on_generate_cancelled,
    .release = on_generate_release,
};
