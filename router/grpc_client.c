/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A streaming client on gRPC core.
 *
 * Each call runs three batches: what is sent (with the server's initial metadata), the status, and
 * one message read that is posted again after every message.  The call has ended when all three are
 * over; only then is its end posted, so no completion can come for a call that the owner may free.
 *
 * thread: `client-cq` runs run_queue and everything that it calls; the owner runs the public
 * functions.  What a chunk tells (worker type, usage) is written to the call by client-cq and read by
 * the owner after the end event; the mailbox's lock orders the two.
 * It does no retries: a load test wants to see each failure.
 */
#include "router/grpc_client.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/buf.h"
#include "base/thread.h"
#include "proto/lend.h"
#include "proto/unpack.h"
#include "router/keys.h"

#include "inference.pb-c.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/time.h>

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    BATCHES = 3, /* of a call: sent, status, message */
    DETAILS_MAX = 256,
    CA_BYTES_MAX = 4 << 20
};

enum tag_kind {
    TAG_SENT,
    TAG_MESSAGE,
    TAG_STATUS
};

struct tag {
    struct med_grpc_call *call;
    enum tag_kind kind;
};

struct med_grpc_call {
    struct med_grpc_client *client;
    grpc_call *call;
    void *user;
    struct tag sent, message, status_tag;
    int batches_running;
    grpc_metadata_array initial, trailing;
    grpc_byte_buffer *received;
    grpc_status_code status;
    grpc_slice details_slice;
    /* What to say instead of the peer's status, when this side broke the call off. */
    const char *own_failure;
    char details[DETAILS_MAX];
    char worker_type[MED_LIMIT_NAME_BYTES + 1];
    char request_id[MED_LIMIT_REQUEST_ID_BYTES + 1];
    char stop[MED_LIMIT_STOP_BYTES + 1];
    bool wants_text;
    int finish_reason;
    uint32_t prompt_tokens, completion_tokens, cached_tokens;
    struct med_grpc_event end; /* posted once */
};

struct med_grpc_client {
    const struct med_clock *clock;
    grpc_channel *channel;
    grpc_completion_queue *queue;
    grpc_slice method;
    grpc_metadata authorization; // of every call
    bool has_authorization;
    struct med_mailbox events;
    pthread_t thread;
    bool thread_runs;
    size_t call_count; /* thread: owner */
    struct {
        /* Calls started. The owner adds with release after it has filled a call and before gRPC gets
         * it; client-cq loads with acquire before it looks at one. gRPC orders the two as well, but
         * that is its own affair, which no tool that watches our memory can see. */
        atomic_size_t calls_started;
    } shared;
};

static const char *const status_names[MED_GRPC_STATUS_COUNT] = {
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
};

const char *med_grpc_status_name(int status)
{
    return status >= 0 && status < MED_GRPC_STATUS_COUNT ? status_names[status] : "UNKNOWN";
}

/* ---- client-cq ---- */

/* Waits for room: a slow owner must slow the streams down, not lose them. */
static void post(struct med_grpc_client *client, struct med_grpc_event *event)
{
    const struct timespec pause = {.tv_nsec = MED_NS_PER_MS};
    int rc;
    while ((rc = med_mailbox_post(&client->events, &event->message)) == MED_E_AGAIN)
        (void)nanosleep(&pause, NULL);
    MED_ASSERT(rc >= 0);
}

static void break_off(struct med_grpc_call *call, const char *why)
{
    if (!call->own_failure)
        call->own_failure = why;
    (void)grpc_call_cancel(call->call, NULL);
}

static void read_again(struct med_grpc_call *call)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &call->received;
    MED_ASSERT(grpc_call_start_batch(call->call, &op, 1, &call->message, NULL) == GRPC_CALL_OK);
}

static void on_chunk(struct med_grpc_call *call, const Medley__V1__GenerateChunk *chunk,
                     int64_t at_ns)
{
    if (chunk->worker_type && chunk->worker_type[0])
        (void)strncpy(call->worker_type, chunk->worker_type, sizeof(call->worker_type) - 1);
    if (chunk->request_id && chunk->request_id[0])
        (void)strncpy(call->request_id, chunk->request_id, sizeof(call->request_id) - 1);
    if (chunk->stop && chunk->stop[0])
        (void)strncpy(call->stop, chunk->stop, sizeof(call->stop) - 1);
    if (chunk->finish_reason)
        call->finish_reason = (int)chunk->finish_reason;
    if (chunk->usage) {
        call->prompt_tokens = chunk->usage->prompt_tokens;
        call->completion_tokens = chunk->usage->completion_tokens;
        call->cached_tokens = chunk->usage->cached_tokens;
    }
    size_t count = chunk->tokens ? chunk->tokens->n_ids : 0;
    size_t text_bytes = call->wants_text ? strlen(chunk->text) : 0;
    if (count == 0 && text_bytes == 0)
        return;
    struct med_grpc_event *event = med_calloc(1, sizeof(*event) + text_bytes + 1);
    if (!event) {
        break_off(call, "the client's memory is exhausted");
        return;
    }
    event->call = call;
    event->at_ns = at_ns;
    event->position = chunk->position;
    event->count = (uint32_t)count;
    if (text_bytes > 0) {
        char *text = (char *)(event + 1);
        memcpy(text, chunk->text, text_bytes + 1);
        event->text = text;
        event->text_bytes = text_bytes;
    }
    post(call->client, event);
}

static void on_message(struct med_grpc_call *call, int64_t at_ns)
{
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, call->received)) {
        break_off(call, "a message could not be decompressed");
    } else {
        grpc_slice bytes = grpc_byte_buffer_reader_readall(&reader);
        struct med_unpack_budget budget;
        ProtobufCAllocator allocator = med_unpack_allocator(&budget, GRPC_SLICE_LENGTH(bytes));
        Medley__V1__GenerateChunk *chunk = medley__v1__generate_chunk__unpack(
            &allocator, GRPC_SLICE_LENGTH(bytes), GRPC_SLICE_START_PTR(bytes));
        if (chunk) {
            on_chunk(call, chunk, at_ns);
        } else {
            break_off(call, "a message is not a medley.v1.GenerateChunk");
        }
        medley__v1__generate_chunk__free_unpacked(chunk, &allocator);
        grpc_slice_unref(bytes);
        grpc_byte_buffer_reader_destroy(&reader);
    }
    grpc_byte_buffer_destroy(call->received);
    call->received = NULL;
    read_again(call);
}

static void on_end(struct med_grpc_call *call, int64_t at_ns)
{
    size_t length = GRPC_SLICE_LENGTH(call->details_slice);
    if (length >= DETAILS_MAX)
        length = DETAILS_MAX - 1;
    memcpy(call->details, GRPC_SLICE_START_PTR(call->details_slice), length);
    call->details[length] = '\0';
    if (call->own_failure) {
        (void)strncpy(call->details, call->own_failure, DETAILS_MAX - 1);
        call->status = GRPC_STATUS_INTERNAL;
    }
    call->end.at_ns = at_ns;
    call->end.end = true;
    call->end.call = call;
    post(call->client, &call->end);
}

static void on_completion(const struct tag *tag, bool success, int64_t at_ns)
{
    struct med_grpc_call *call = tag->call;
    if (tag->kind == TAG_MESSAGE && success && call->received) {
        on_message(call, at_ns);
        return;
    }
    MED_ASSERT(call->batches_running > 0);
    call->batches_running--;
    if (call->batches_running == 0)
        on_end(call, at_ns);
}

static void *run_queue(void *arg)
{
    struct med_grpc_client *client = arg;
    for (;;) {
        grpc_event event =
            grpc_completion_queue_next(client->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        (void)atomic_load_explicit(&client->shared.calls_started, memory_order_acquire);
        on_completion(event.tag, event.success != 0, med_clock_now_ns(client->clock));
    }
}

/* ---- the owner's thread ---- */

static gpr_timespec real_deadline(int64_t after_ns)
{
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_nanos(after_ns, GPR_TIMESPAN));
}

static int connect_channel(struct med_grpc_client *client, const char *target, int64_t timeout_ns,
                           bool patient, struct med_err *err)
{
    gpr_timespec deadline = real_deadline(timeout_ns);
    for (;;) {
        grpc_connectivity_state state = grpc_channel_check_connectivity_state(client->channel, 1);
        if (state == GRPC_CHANNEL_READY)
            return 0;
        if (state == GRPC_CHANNEL_TRANSIENT_FAILURE && !patient) {
            return med_err_set(err, MED_E_IO, "%s: no connection; is a router listening there?",
                               target);
        }
        if (state == GRPC_CHANNEL_SHUTDOWN ||
            gpr_time_cmp(gpr_now(GPR_CLOCK_MONOTONIC), deadline) >= 0) {
            return med_err_set(err, MED_E_IO,
                               "%s: no connection within %.1f s; is a router listening there?",
                               target, (double)timeout_ns / 1e9);
        }
        grpc_channel_watch_connectivity_state(client->channel, state, deadline, client->queue,
                                              NULL);
        (void)grpc_completion_queue_next(client->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    }
}

static int read_key(struct med_grpc_client *client, const char *path, struct med_err *err)
{
    struct med_keys *keys = NULL;
    char value[MED_KEY_BYTES_MAX + 16];
    int rc = med_keys_new("--api-key-file", path, &keys, err);
    if (rc < 0)
        return rc;
    (void)snprintf(value, sizeof(value), "Bearer %s", med_keys_first(keys));
    client->authorization.key = grpc_slice_from_static_string("authorization");
    client->authorization.value = grpc_slice_from_copied_string(value);
    client->has_authorization = true;
    med_keys_free(keys);
    return 0;
}

static int make_credentials(const struct med_grpc_client_security *security,
                            grpc_channel_credentials **ret_credentials, struct med_err *err)
{
    struct med_buf pem;
    if (!security->tls_ca) {
        *ret_credentials = grpc_insecure_credentials_create();
        return 0;
    }
    med_buf_init(&pem, CA_BYTES_MAX);
    bool system = strcmp(security->tls_ca, "system") == 0;
    int rc = system ? 0 : med_buf_read_file(&pem, security->tls_ca, err);
    if (rc < 0) {
        (void)med_err_prefix(err, "--tls-ca");
    } else if (!system && !strstr(pem.length > 0 ? pem.data : "", "-----BEGIN CERTIFICATE-----")) {
        rc = med_err_set(err, MED_E_INVALID, "--tls-ca %s: expected PEM certificates",
                         security->tls_ca);
    } else {
        *ret_credentials = grpc_ssl_credentials_create(system ? NULL : pem.data, NULL, NULL, NULL);
    }
    med_buf_release(&pem);
    return rc;
}

int med_grpc_client_new(const char *target, const struct med_clock *clock,
                        int64_t connect_timeout_real_ns, bool patient,
                        const struct med_grpc_client_security *security,
                        struct med_grpc_client **ret_client, struct med_err *err)
{
    grpc_channel_credentials *credentials = NULL;
    struct med_grpc_client *client = med_calloc(1, sizeof(*client));
    if (!client)
        return med_err_set(err, MED_E_NOMEM, "memory is exhausted");
    grpc_init();
    int rc = make_credentials(security, &credentials, err);
    if (rc >= 0 && security->api_key_file)
        rc = read_key(client, security->api_key_file, err);
    if (rc < 0) {
        grpc_channel_credentials_release(credentials);
        grpc_shutdown();
        med_free(client);
        return rc;
    }
    client->clock = clock;
    client->method = grpc_slice_from_static_string("/medley.v1.Inference/GenerateStream");
    med_mailbox_init(&client->events, MED_LIMIT_MAILBOX_MESSAGES, NULL, NULL);
    client->queue = grpc_completion_queue_create_for_next(NULL);

    grpc_arg args[] = {
        /* A proxy of the environment is not meant for a fleet. */
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_ENABLE_HTTP_PROXY, .value.integer = 0},
        {.type = GRPC_ARG_INTEGER,
         .key = (char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
         .value.integer = MED_LIMIT_GRPC_MESSAGE_BYTES},
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_ENABLE_RETRIES, .value.integer = 0},
    };
    grpc_channel_args channel_args = {.num_args = sizeof(args) / sizeof(args[0]), .args = args};
    client->channel = grpc_channel_create(target, credentials, &channel_args);
    grpc_channel_credentials_release(credentials);

    rc = connect_channel(client, target, connect_timeout_real_ns, patient, err);
    if (rc >= 0) {
        rc = med_thread_start(&client->thread, "client-cq", run_queue, client);
        client->thread_runs = rc >= 0;
        if (rc < 0)
            (void)med_err_set(err, rc, "a thread could not be started");
    }
    if (rc < 0) {
        med_grpc_client_free(client);
        return rc;
    }
    *ret_client = client;
    return 0;
}

void med_grpc_client_free(struct med_grpc_client *client)
{
    if (!client)
        return;
    MED_ASSERT(client->call_count == 0);
    grpc_channel_destroy(client->channel);
    grpc_completion_queue_shutdown(client->queue);
    if (client->thread_runs) {
        (void)pthread_join(client->thread, NULL);
    } else {
        while (grpc_completion_queue_next(client->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL)
                   .type != GRPC_QUEUE_SHUTDOWN) {
        }
    }
    grpc_completion_queue_destroy(client->queue);
    if (client->has_authorization)
        grpc_slice_unref(client->authorization.value); // the key is static
    med_mailbox_close(&client->events);
    med_mailbox_release(&client->events);
    grpc_shutdown();
    med_free(client);
}

static void fill_sampling(const struct med_grpc_client_request *request,
                          Medley__V1__Sampling *sampling)
{
    if (request->has_seed) {
        sampling->seed_value_case = MEDLEY__V1__SAMPLING__SEED_VALUE_SEED;
        sampling->seed = request->seed;
    }
    if (request->has_temperature) {
        sampling->temperature_value_case = MEDLEY__V1__SAMPLING__TEMPERATURE_VALUE_TEMPERATURE;
        sampling->temperature = request->temperature;
    }
    if (request->has_top_p) {
        sampling->top_p_value_case = MEDLEY__V1__SAMPLING__TOP_P_VALUE_TOP_P;
        sampling->top_p = request->top_p;
    }
    sampling->ignore_eos = request->ignore_eos;
    sampling->n_stop = request->stop_count;
    sampling->stop = (char **)request->stops;
}

static grpc_byte_buffer *pack_message(const Medley__V1__GenerateRequest *message)
{
    size_t bytes = medley__v1__generate_request__get_packed_size(message);
    if (bytes > MED_LIMIT_GRPC_MESSAGE_BYTES)
        return NULL;
    grpc_slice slice = grpc_slice_malloc(bytes);
    (void)medley__v1__generate_request__pack(message, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

/* Messages as protobuf-c wants them: an array of pointers. errors: MED_E_NOMEM. */
static int fill_chat(const struct med_grpc_client_request *request, Medley__V1__Chat *chat)
{
    chat->messages = med_calloc(request->message_count, sizeof(Medley__V1__ChatMessage *));
    for (; chat->messages && chat->n_messages < request->message_count; chat->n_messages++) {
        Medley__V1__ChatMessage *message = med_alloc(sizeof(*message));
        if (!message)
            return MED_E_NOMEM;
        medley__v1__chat_message__init(message);
        message->role = med_proto_lend(request->messages[chat->n_messages].role);
        message->content = med_proto_lend(request->messages[chat->n_messages].content);
        chat->messages[chat->n_messages] = message;
    }
    return chat->messages ? 0 : MED_E_NOMEM;
}

static int pack_request(const struct med_grpc_client_request *request,
                        grpc_byte_buffer **ret_buffer)
{
    Medley__V1__GenerateRequest message = MEDLEY__V1__GENERATE_REQUEST__INIT;
    Medley__V1__TokenIds prompt = MEDLEY__V1__TOKEN_IDS__INIT;
    Medley__V1__Sampling sampling = MEDLEY__V1__SAMPLING__INIT;
    Medley__V1__Chat chat = MEDLEY__V1__CHAT__INIT;
    int rc = 0;
    if (request->message_count > 0) {
        message.input_case = MEDLEY__V1__GENERATE_REQUEST__INPUT_CHAT;
        message.chat = &chat;
        rc = fill_chat(request, &chat);
    } else if (request->text) {
        message.input_case = MEDLEY__V1__GENERATE_REQUEST__INPUT_TEXT;
        message.text = med_proto_lend(request->text);
    } else {
        prompt.n_ids = request->prompt_count;
        prompt.ids = (uint32_t *)request->prompt;
        message.input_case = MEDLEY__V1__GENERATE_REQUEST__INPUT_TOKENS;
        message.tokens = &prompt;
    }
    if (request->model)
        message.model = med_proto_lend(request->model);
    if (request->request_id)
        message.request_id = med_proto_lend(request->request_id);
    message.max_tokens = request->max_tokens;
    message.emulated_output_tokens = request->emulated_output_tokens;
    message.echo = request->echo;
    fill_sampling(request, &sampling);
    message.sampling = &sampling;
    if (rc >= 0) {
        *ret_buffer = pack_message(&message);
        rc = *ret_buffer ? 0 : MED_E_LIMIT;
    }
    for (size_t i = 0; i < chat.n_messages; i++)
        med_free(chat.messages[i]);
    med_free(chat.messages);
    return rc;
}

static void start_batches(struct med_grpc_call *call, grpc_byte_buffer *request)
{
    grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
    status.data.recv_status_on_client.trailing_metadata = &call->trailing;
    status.data.recv_status_on_client.status = &call->status;
    status.data.recv_status_on_client.status_details = &call->details_slice;
    MED_ASSERT(grpc_call_start_batch(call->call, &status, 1, &call->status_tag, NULL) ==
               GRPC_CALL_OK);

    grpc_op ops[4] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},
                      {.op = GRPC_OP_SEND_MESSAGE},
                      {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
                      {.op = GRPC_OP_RECV_INITIAL_METADATA}};
    if (call->client->has_authorization) {
        ops[0].data.send_initial_metadata.count = 1;
        ops[0].data.send_initial_metadata.metadata = &call->client->authorization;
    }
    ops[1].data.send_message.send_message = request;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &call->initial;
    MED_ASSERT(grpc_call_start_batch(call->call, ops, 4, &call->sent, NULL) == GRPC_CALL_OK);
    read_again(call);
}

int med_grpc_client_start(struct med_grpc_client *client,
                          const struct med_grpc_client_request *request, void *user,
                          struct med_grpc_call **ret_call)
{
    struct med_grpc_call *call = med_calloc(1, sizeof(*call));
    if (!call)
        return MED_E_NOMEM;
    grpc_byte_buffer *message = NULL;
    int rc = pack_request(request, &message);
    if (rc < 0) {
        med_free(call);
        return rc;
    }
    call->wants_text = request->wants_text;
    call->client = client;
    call->user = user;
    call->sent = (struct tag){call, TAG_SENT};
    call->message = (struct tag){call, TAG_MESSAGE};
    call->status_tag = (struct tag){call, TAG_STATUS};
    call->details_slice = grpc_empty_slice();
    grpc_metadata_array_init(&call->initial);
    grpc_metadata_array_init(&call->trailing);
    gpr_timespec deadline = request->timeout_real_ns > 0 ? real_deadline(request->timeout_real_ns)
                                                         : gpr_inf_future(GPR_CLOCK_MONOTONIC);
    call->call = grpc_channel_create_call(client->channel, NULL, GRPC_PROPAGATE_DEFAULTS,
                                          client->queue, client->method, NULL, deadline, NULL);
    client->call_count++;
    /* The caller must have the handle before the first event can come; events are taken by the
     * caller's own thread, so setting it before the batches is enough. */
    *ret_call = call;
    call->batches_running = BATCHES;
    (void)atomic_fetch_add_explicit(&client->shared.calls_started, 1, memory_order_release);
    start_batches(call, message);
    /* gRPC keeps its own reference to the message's slices. */
    grpc_byte_buffer_destroy(message);
    return 0;
}

void med_grpc_call_cancel(struct med_grpc_call *call)
{
    (void)grpc_call_cancel(call->call, NULL);
}

void *med_grpc_call_user(const struct med_grpc_call *call)
{
    return call->user;
}

void med_grpc_call_get_end(const struct med_grpc_call *call, struct med_grpc_call_end *ret_end)
{
    MED_ASSERT(call->end.end);
    *ret_end = (struct med_grpc_call_end){
        .status = (int)call->status,
        .details = call->details,
        .worker_type = call->worker_type,
        .finish_reason = call->finish_reason,
        .prompt_tokens = call->prompt_tokens,
        .completion_tokens = call->completion_tokens,
        .cached_tokens = call->cached_tokens,
        .request_id = call->request_id,
        .stop = call->stop,
    };
}

void med_grpc_call_free(struct med_grpc_call *call)
{
    MED_ASSERT(call->end.end);
    MED_ASSERT(call->client->call_count > 0);
    call->client->call_count--;
    grpc_metadata_array_destroy(&call->initial);
    grpc_metadata_array_destroy(&call->trailing);
    grpc_slice_unref(call->details_slice);
    grpc_call_unref(call->call);
    med_free(call);
}

struct med_grpc_event *med_grpc_client_wait(struct med_grpc_client *client,
                                            int64_t real_deadline_ns)
{
    return (struct med_grpc_event *)med_mailbox_wait(&client->events, real_deadline_ns);
}

struct med_grpc_event *med_grpc_event_next(const struct med_grpc_event *event)
{
    return (struct med_grpc_event *)event->message.next;
}

void med_grpc_event_free(struct med_grpc_event *event)
{
    MED_ASSERT(!event->end);
    med_free(event);
}
