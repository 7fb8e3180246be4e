/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls of the gRPC door: their batches and their life; see grpc_call.h. What the methods do is in
 * grpc_inference.c, grpc_health.c and grpc_reflection.c.
 *
 * Every call posts RECV_CLOSE_ON_SERVER first, so that a client that goes away is heard of whatever
 * else is out.  Runs on the loop. Nothing here waits.
 */
#include "router/grpc_call.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "router/grpc_codec.h"
#include "router/keys.h"

#include <grpc/byte_buffer_reader.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    OPS_MAX = 3
};

static const struct med_grpc_method *const methods[] = {
    &MED_GRPC_GENERATE,     &MED_GRPC_GENERATE_STREAM, &MED_GRPC_HEALTH_CHECK,
    &MED_GRPC_HEALTH_WATCH, &MED_GRPC_REFLECTION_V1,   &MED_GRPC_REFLECTION_V1ALPHA,
};

static void start_batch(struct med_grpc_call *call, const grpc_op *ops, size_t count,
                        struct med_grpc_tag *tag)
{
    med_grpc_server_announce(call->server);
    grpc_call_error rc = grpc_call_start_batch(call->call, ops, count, tag, NULL);
    MED_ASSERT(rc == GRPC_CALL_OK); // fails for wrong use only: a lost call fails the tag instead
    call->tags_out++;
}

/* ---- batches ---- */

void med_grpc_call_receive(struct med_grpc_call *call)
{
    MED_ASSERT(call->received == NULL);
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &call->received;
    call->receiving = true;
    call->receive_since_ms = uv_now(call->server->loop);
    start_batch(call, &op, 1, &call->received_tag);
}

static size_t add_headers(struct med_grpc_call *call, grpc_op *ops)
{
    if (call->headers_sent)
        return 0;
    call->headers_sent = true;
    ops[0] = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
    return 1;
}

static size_t add_message(struct med_grpc_call *call, grpc_op *op, const void *bytes, size_t count)
{
    grpc_slice slice = grpc_slice_from_copied_buffer(bytes, count);
    call->sending = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    *op = (grpc_op){.op = GRPC_OP_SEND_MESSAGE};
    op->data.send_message.send_message = call->sending;
    return 1;
}

void med_grpc_call_write(struct med_grpc_call *call, const void *bytes, size_t count)
{
    MED_ASSERT(!call->writing);
    MED_ASSERT(!call->finishing);
    grpc_op ops[OPS_MAX];
    size_t n = add_headers(call, ops);
    n += add_message(call, &ops[n], bytes, count);
    call->writing = true;
    call->write_since_ms = uv_now(call->server->loop);
    start_batch(call, ops, n, &call->written_tag);
}

static void add_retry_info(struct med_grpc_call *call, const struct med_grpc_ending *ending)
{
    uint8_t bytes[MED_GRPC_RETRY_BYTES_MAX];
    MED_ASSERT(call->trailing_count < sizeof(call->trailing) / sizeof(call->trailing[0]));
    size_t count =
        med_grpc_codec_write_retry((int)ending->status, ending->text != NULL ? ending->text : "",
                                   ending->retry_after_ms, bytes);
    grpc_metadata *m = &call->trailing[call->trailing_count++];
    m->key = grpc_slice_from_static_string("grpc-status-details-bin");
    m->value = grpc_slice_from_copied_buffer((const char *)bytes, count);
}

static void add_trailing(struct med_grpc_call *call, const char *key, const char *value)
{
    MED_ASSERT(call->trailing_count < sizeof(call->trailing) / sizeof(call->trailing[0]));
    grpc_slice slice = grpc_slice_from_copied_string(value);
    /* A request id that was refused may hold what a header must not. */
    if (!grpc_header_nonbin_value_is_legal(slice)) {
        grpc_slice_unref(slice);
        return;
    }
    grpc_metadata *m = &call->trailing[call->trailing_count++];
    m->key = grpc_slice_from_static_string(key);
    m->value = slice;
}

void med_grpc_call_finish(struct med_grpc_call *call, const struct med_grpc_ending *ending)
{
    if (call->cancelled || call->finishing || call->aborted)
        return;
    MED_ASSERT(!call->writing);
    grpc_op ops[OPS_MAX];
    size_t n = add_headers(call, ops);
    if (ending->bytes != NULL)
        n += add_message(call, &ops[n], ending->bytes, ending->count);
    if (ending->retry_after_ms > 0) {
        char text[16];
        (void)snprintf(text, sizeof(text), "%" PRIu32, ending->retry_after_ms);
        add_trailing(call, "retry-after-ms", text);
        add_retry_info(call, ending);
    }
    if (ending->request_id != NULL && ending->request_id[0] != '\0')
        add_trailing(call, "x-request-id", ending->request_id);
    grpc_slice details = grpc_slice_from_copied_string(ending->text != NULL ? ending->text : "");
    ops[n] = (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER};
    ops[n].data.send_status_from_server.status = ending->status;
    ops[n].data.send_status_from_server.status_details = &details;
    ops[n].data.send_status_from_server.trailing_metadata_count = call->trailing_count;
    ops[n].data.send_status_from_server.trailing_metadata = call->trailing;
    call->finishing = true;
    call->status = ending->status;
    call->write_since_ms = uv_now(call->server->loop);
    start_batch(call, ops, n + 1, &call->finished_tag);
    grpc_slice_unref(details);
}

void med_grpc_call_abort(struct med_grpc_call *call, grpc_status_code status, const char *text)
{
    call->status = status;
    call->aborted = true;
    (void)grpc_call_cancel_with_status(call->call, status, text, NULL); // OK, or over already
}

void med_grpc_call_ignore(struct med_grpc_call *call)
{
    (void)call;
}

static bool is_health(const struct med_grpc_method *method)
{
    return method == &MED_GRPC_HEALTH_CHECK || method == &MED_GRPC_HEALTH_WATCH;
}

/* ---- how calls end ---- */

static const char *const code_names[] = {
    [GRPC_STATUS_OK] = "OK",
    [GRPC_STATUS_CANCELLED] = "CANCELLED",
    [GRPC_STATUS_UNKNOWN] = "UNKNOWN",
    [GRPC_STATUS_INVALID_ARGUMENT] = "INVALID_ARGUMENT",
    [GRPC_STATUS_DEADLINE_EXCEEDED] = "DEADLINE_EXCEEDED",
    [GRPC_STATUS_NOT_FOUND] = "NOT_FOUND",
    [GRPC_STATUS_ALREADY_EXISTS] = "ALREADY_EXISTS",
    [GRPC_STATUS_PERMISSION_DENIED] = "PERMISSION_DENIED",
    [GRPC_STATUS_RESOURCE_EXHAUSTED] = "RESOURCE_EXHAUSTED",
    [GRPC_STATUS_FAILED_PRECONDITION] = "FAILED_PRECONDITION",
    [GRPC_STATUS_ABORTED] = "ABORTED",
    [GRPC_STATUS_OUT_OF_RANGE] = "OUT_OF_RANGE",
    [GRPC_STATUS_UNIMPLEMENTED] = "UNIMPLEMENTED",
    [GRPC_STATUS_INTERNAL] = "INTERNAL",
    [GRPC_STATUS_UNAVAILABLE] = "UNAVAILABLE",
    [GRPC_STATUS_DATA_LOSS] = "DATA_LOSS",
    [GRPC_STATUS_UNAUTHENTICATED] = "UNAUTHENTICATED",
};
enum {
    CODES = sizeof(code_names) / sizeof(code_names[0]),
    METHODS = sizeof(methods) / sizeof(methods[0]), /* and one row more for calls of none */
};
_Static_assert((METHODS + 1) * CODES == MED_GRPC_CALL_COUNTS,
               "a row per method, a column per code");

static void count_end(const struct med_grpc_call *call)
{
    size_t row = 0;
    while (row < METHODS && methods[row] != call->method)
        row++;
    size_t code = (size_t)call->status < CODES ? (size_t)call->status : GRPC_STATUS_UNKNOWN;
    call->server->ended[row * CODES + code]++;
}

/* "/medley.v1.Inference/Generate" -> "medley.v1.Inference/Generate" */
size_t med_grpc_server_get_counts(const struct med_grpc_server *server,
                                  struct med_grpc_call_count *ret_counts, size_t max)
{
    size_t count = 0;
    for (size_t i = 0; i < MED_GRPC_CALL_COUNTS && count < max; i++) {
        if (server->ended[i] == 0)
            continue;
        size_t row = i / CODES;
        ret_counts[count++] = (struct med_grpc_call_count){
            .method = row < METHODS ? methods[row]->path + 1 : "other",
            .code = code_names[i % CODES],
            .count = server->ended[i],
        };
    }
    return count;
}

/* ---- a call's life ---- */

void med_grpc_call_maybe_free(struct med_grpc_call *call)
{
    struct med_grpc_server *server = call->server;
    if (call->tags_out > 0)
        return;
    call->method->release(call);
    count_end(call);
    if (call->prev != NULL) {
        call->prev->next = call->next;
    } else {
        server->calls = call->next;
    }
    if (call->next != NULL)
        call->next->prev = call->prev;
    server->call_count--;
    server->health_count -= is_health(call->method);
    for (size_t i = 0; i < call->trailing_count; i++)
        grpc_slice_unref(call->trailing[i].value); // the keys are static
    grpc_call_unref(call->call);
    med_free(call);
    if (server->closing)
        med_grpc_server_maybe_stop(server);
}

static void on_closed(struct med_grpc_tag *tag)
{
    struct med_grpc_call *call = tag->owner;
    /* The close flag is unset for a call whose status went out whole. */
    call->tags_out--;
    call->cancelled = call->close_flag != 0 || !call->finishing;
    if (call->cancelled && !call->aborted)
        call->status = GRPC_STATUS_CANCELLED; // what was on its way has not been seen
    if (call->cancelled)
        call->method->on_cancelled(call);
    med_grpc_call_maybe_free(call);
}

/* Hands a received message on as one piece. */
static void deliver(struct med_grpc_call *call)
{
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, call->received)) {
        grpc_byte_buffer_destroy(call->received);
        call->received = NULL;
        med_grpc_call_finish(call, &(struct med_grpc_ending){.status = GRPC_STATUS_INVALID_ARGUMENT,
                                                             .text = "the message cannot be read"});
        return;
    }
    grpc_slice slice = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    grpc_byte_buffer_destroy(call->received);
    call->received = NULL;
    call->method->on_message(call, GRPC_SLICE_START_PTR(slice), GRPC_SLICE_LENGTH(slice));
    grpc_slice_unref(slice);
}

static void on_received(struct med_grpc_tag *tag)
{
    struct med_grpc_call *call = tag->owner;
    bool whole = tag->ok && call->received != NULL;
    call->receiving = false;
    /* The tag counts as out until the method has looked, so that the call cannot go meanwhile. */
    if (whole && !call->cancelled) {
        deliver(call);
    } else if (whole) {
        grpc_byte_buffer_destroy(call->received);
        call->received = NULL;
    } else if (!call->cancelled) {
        call->method->on_half_close(call);
    }
    call->tags_out--;
    med_grpc_call_maybe_free(call);
}

static void sent(struct med_grpc_call *call)
{
    grpc_byte_buffer_destroy(call->sending);
    call->sending = NULL;
}

static void on_written(struct med_grpc_tag *tag)
{
    struct med_grpc_call *call = tag->owner;
    sent(call);
    call->writing = false;
    /* A write that failed means that the call is lost: the closed tag says so. */
    if (tag->ok && !call->cancelled)
        call->method->on_written(call);
    call->tags_out--;
    med_grpc_call_maybe_free(call);
}

static void on_finished(struct med_grpc_tag *tag)
{
    struct med_grpc_call *call = tag->owner;
    sent(call);
    call->tags_out--;
    med_grpc_call_maybe_free(call);
}

static const struct med_grpc_method *method_find(grpc_slice path)
{
    for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
        if (grpc_slice_str_cmp(path, methods[i]->path) == 0)
            return methods[i];
    }
    return NULL;
}

/* Turns gRPC's deadline into fleet time. */
static void deadline_set(struct med_grpc_call *call, gpr_timespec deadline)
{
    if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) == 0)
        return;
    gpr_timespec left = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
    double left_ns = ((double)left.tv_sec * (double)MED_NS_PER_S + (double)left.tv_nsec) *
                     call->server->clock->scale;
    int64_t now_ns = med_clock_now_ns(call->server->clock);
    if (left_ns < 1)
        left_ns = 1;
    if (left_ns >= (double)(INT64_MAX / 2))
        return; // centuries: none
    call->timeout_ns = (int64_t)left_ns;
    call->deadline_ns = now_ns + call->timeout_ns;
}

static void refuse_unknown(struct med_grpc_call *call, grpc_slice path)
{
    char text[256];
    size_t length = GRPC_SLICE_LENGTH(path) < 128 ? GRPC_SLICE_LENGTH(path) : 128;
    (void)snprintf(text, sizeof(text), "this server has no method %.*s", (int)length,
                   (const char *)GRPC_SLICE_START_PTR(path));
    med_grpc_call_finish(
        call, &(struct med_grpc_ending){.status = GRPC_STATUS_UNIMPLEMENTED, .text = text});
}

/* Everything but health wants a key, if keys are asked for. */
static bool may_enter(const struct med_grpc_call *call, const grpc_metadata_array *metadata)
{
    const struct med_keys *keys = call->server->config.keys;
    if (keys == NULL || is_health(call->method))
        return true;
    for (size_t i = 0; i < metadata->count; i++) {
        const grpc_metadata *m = &metadata->metadata[i];
        if (grpc_slice_str_cmp(m->key, "authorization") == 0) {
            return med_keys_match_bearer(keys, (const char *)GRPC_SLICE_START_PTR(m->value),
                                         GRPC_SLICE_LENGTH(m->value));
        }
    }
    return false;
}

static const struct med_grpc_method unknown_method = {
    .path = "",
    .on_half_close = med_grpc_call_ignore,
    .on_written = med_grpc_call_ignore,
    .on_cancelled = med_grpc_call_ignore,
    .release = med_grpc_call_ignore,
};

void med_grpc_call_start(struct med_grpc_server *server, struct med_grpc_accept *accept)
{
    const struct med_grpc_method *method = method_find(accept->details.method);
    struct med_grpc_call *call = NULL;
    /* Whoever has no key must not take the places of those that have one. */
    if (server->call_count < MED_LIMIT_CALLS &&
        (!is_health(method) || server->health_count < MED_LIMIT_HEALTH_CALLS))
        call = med_calloc(1, sizeof(*call));
    if (call == NULL) {
        (void)grpc_call_cancel_with_status(accept->call, GRPC_STATUS_RESOURCE_EXHAUSTED,
                                           "too many calls are in flight", NULL);
        grpc_call_unref(accept->call);
        return;
    }
    call->server = server;
    call->call = accept->call;
    call->status = GRPC_STATUS_CANCELLED; // unless it is finished or aborted
    call->method = method != NULL ? method : &unknown_method;
    call->closed_tag = (struct med_grpc_tag){.on_done = on_closed, .owner = call};
    call->received_tag = (struct med_grpc_tag){.on_done = on_received, .owner = call};
    call->written_tag = (struct med_grpc_tag){.on_done = on_written, .owner = call};
    call->finished_tag = (struct med_grpc_tag){.on_done = on_finished, .owner = call};
    deadline_set(call, accept->details.deadline);
    call->next = server->calls;
    if (call->next != NULL)
        call->next->prev = call;
    server->calls = call;
    server->call_count++;
    server->health_count += is_health(call->method);

    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
    op.data.recv_close_on_server.cancelled = &call->close_flag;
    start_batch(call, &op, 1, &call->closed_tag);
    if (!may_enter(call, &accept->metadata)) {
        med_grpc_call_finish(call, &(struct med_grpc_ending){.status = GRPC_STATUS_UNAUTHENTICATED,
                                                             .text = MED_KEYS_REFUSAL});
    } else if (method != NULL) {
        med_grpc_call_receive(call);
    } else {
        refuse_unknown(call, accept->details.method);
    }
}
