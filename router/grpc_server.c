/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gRPC door's life: completion queue, cq thread, accepting, shutdown; see grpc_server.h.
 *
 * Two threads.  `cq` does nothing but wait on the completion queue, note whether a batch succeeded
 * and post its tag.  The mailbox holds as many tags as can be out at a time (four per call, the
 * accepts, two of the shutdown), so a post never fails.  The loop does the rest: gRPC core may be
 * called from any thread, and writing from the loop costs it a system call at most.
 *
 * Shutdown: shutdown_and_notify, cancel_all_calls; when the notification and every call and accept
 * are back: completion queue shutdown, which ends the cq thread; its last message lets the loop join
 * it, destroy server and queue, and close its own handles.
 */
#include "router/grpc_server.h"

#include "base/alloc.h"
#include "base/log.h"
#include "base/thread.h"
#include "router/grpc_call.h"

#include <grpc/grpc_security.h>
#include <grpc/support/log.h>
#include <limits.h>

enum {
    TAGS_PER_CALL = 4,
    MAILBOX_TAGS = TAGS_PER_CALL * (MED_LIMIT_CALLS + MED_GRPC_ACCEPTS) + MED_GRPC_ACCEPTS + 2,
    SWEEP_MS = 1000,
    PUT_OFF_MS = 10,        // of a sweep that was late
    PUT_OFFS_MAX = 4,       // one behind another: a loop that is always late sweeps, too
    STALL_MS = 60 * 1000,   // a batch that is out longer: the client does not read
    REQUEST_MS = 30 * 1000, // for a client to send its next message
    KEEPALIVE_TIMEOUT_MS = 20 * 1000,
    PING_INTERVAL_MIN_MS = 5000,
    PING_STRIKES = 2,           // pings that come sooner than that, before the connection goes
    AGE_GRACE_MS = 3600 * 1000, // for the calls of a connection that is old
    METADATA_BYTES = 16 << 10,
    SCRATCH_BYTES = 16 << 20,
};

static void on_grpc_log(gpr_log_func_args *args)
{
    MED_DEBUG("grpc: %s (%s:%d)", args->message, args->file, args->line);
}

/* thread: cq */
static void *cq_run(void *arg)
{
    struct med_grpc_server *server = arg;
    for (;;) {
        grpc_event event =
            grpc_completion_queue_next(server->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN)
            break;
        if (event.type != GRPC_OP_COMPLETE)
            continue;
        struct med_grpc_tag *tag = event.tag;
        (void)atomic_load_explicit(&server->shared.batches, memory_order_acquire);
        tag->ok = event.success != 0;
        int rc = med_mailbox_post(&server->mailbox, &tag->message);
        MED_ASSERT(rc == 0); // it has room for every tag that can be out
    }
    int rc = med_mailbox_post(&server->mailbox, &server->cq_ended_tag.message);
    MED_ASSERT(rc == 0);
    return NULL;
}

static void wake_loop(void *arg)
{
    (void)uv_async_send(arg); // fails for a closed handle only, and it is closed after the join
}

static void on_wake(uv_async_t *wake)
{
    struct med_grpc_server *server = wake->data;
    struct med_message *message = med_mailbox_take(&server->mailbox);
    while (message != NULL) {
        struct med_message *next = message->next;
        struct med_grpc_tag *tag = (struct med_grpc_tag *)message;
        tag->on_done(tag);
        message = next;
    }
}

void med_grpc_server_announce(struct med_grpc_server *server)
{
    (void)atomic_fetch_add_explicit(&server->shared.batches, 1, memory_order_release);
}

/* ---- accepting ---- */

static void accept_arm(struct med_grpc_server *server, struct med_grpc_accept *accept)
{
    grpc_call_details_init(&accept->details);
    grpc_metadata_array_init(&accept->metadata);
    accept->call = NULL;
    med_grpc_server_announce(server);
    grpc_call_error rc =
        grpc_server_request_call(server->server, &accept->call, &accept->details, &accept->metadata,
                                 server->cq, server->cq, &accept->tag);
    MED_ASSERT(rc == GRPC_CALL_OK); // fails for wrong use only
    server->accepts_out++;
}

static void on_accept(struct med_grpc_tag *tag)
{
    struct med_grpc_accept *accept = tag->owner;
    struct med_grpc_server *server = accept->server;
    server->accepts_out--;
    if (tag->ok)
        med_grpc_call_start(server, accept);
    grpc_call_details_destroy(&accept->details);
    grpc_metadata_array_destroy(&accept->metadata);
    if (!server->shutdown_asked) {
        accept_arm(server, accept);
    } else {
        med_grpc_server_maybe_stop(server);
    }
}

/* ---- certificates ---- */

static void secret_free(char *text)
{
    volatile char *p = text;
    for (size_t i = 0; text != NULL && text[i] != '\0'; i++)
        p[i] = 0;
    med_free(text);
}

/* thread: any of gRPC's, at the start of a handshake. */
static grpc_ssl_certificate_config_reload_status
on_certificate_wanted(void *arg, grpc_ssl_server_certificate_config **ret_config)
{
    struct med_grpc_server *server = arg;
    grpc_ssl_certificate_config_reload_status status = GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    (void)pthread_mutex_lock(&server->shared.certificate_lock); // of the default kind: cannot fail
    if (server->shared.certificate_is_new) {
        grpc_ssl_pem_key_cert_pair pair = {.private_key = server->shared.key,
                                           .cert_chain = server->shared.chain};
        /* gRPC insists on authorities for clients' certificates, though none is asked for. */
        *ret_config = grpc_ssl_server_certificate_config_create(server->shared.chain, &pair, 1);
        server->shared.certificate_is_new = false;
        status = *ret_config != NULL ? GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW
                                     : GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_FAIL;
    }
    (void)pthread_mutex_unlock(&server->shared.certificate_lock);
    return status;
}

int med_grpc_server_set_certificate(struct med_grpc_server *server, const char *chain,
                                    const char *key)
{
    MED_ASSERT_THREAD(server->thread);
    char *new_chain = med_strdup(chain);
    char *new_key = med_strdup(key);
    if (new_chain == NULL || new_key == NULL) {
        secret_free(new_chain);
        secret_free(new_key);
        return MED_E_NOMEM;
    }
    (void)pthread_mutex_lock(&server->shared.certificate_lock);
    char *old_chain = server->shared.chain;
    char *old_key = server->shared.key;
    server->shared.chain = new_chain;
    server->shared.key = new_key;
    server->shared.certificate_is_new = true;
    (void)pthread_mutex_unlock(&server->shared.certificate_lock);
    secret_free(old_chain);
    secret_free(old_key);
    return 0;
}

static grpc_server_credentials *credentials_create(struct med_grpc_server *server)
{
    if (server->shared.chain == NULL)
        return grpc_insecure_server_credentials_create();
    return grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE, on_certificate_wanted, server));
}

/* ---- shutdown ---- */

static void on_handle_closed(uv_handle_t *handle)
{
    struct med_grpc_server *server = handle->data;
    if (--server->handles_open > 0)
        return;
    void (*on_closed)(void *) = server->on_closed;
    void *arg = server->on_closed_arg;
    med_mailbox_release(&server->mailbox);
    med_buf_release(&server->scratch);
    med_descriptors_release(&server->descriptors);
    med_free(server);
    if (on_closed != NULL)
        on_closed(arg);
}

static void certificate_release(struct med_grpc_server *server)
{
    /* Nobody waits for it: gRPC's server is gone, or never was. */
    (void)pthread_mutex_destroy(&server->shared.certificate_lock);
    secret_free(server->shared.chain);
    secret_free(server->shared.key);
}

static void destroy(struct med_grpc_server *server)
{
    grpc_server_destroy(server->server);
    grpc_completion_queue_destroy(server->cq);
    grpc_shutdown();
    certificate_release(server);
    uv_close((uv_handle_t *)&server->wake, on_handle_closed);
    uv_close((uv_handle_t *)&server->sweep, on_handle_closed);
}

static void on_cq_ended(struct med_grpc_tag *tag)
{
    struct med_grpc_server *server = tag->owner;
    int rc = pthread_join(server->cq_thread, NULL);
    MED_ASSERT(rc == 0);
    med_mailbox_close(&server->mailbox); // its only producer is gone
    destroy(server);
}

void med_grpc_server_maybe_stop(struct med_grpc_server *server)
{
    if (!server->closing || !server->shutdown_done || server->call_count > 0 ||
        server->accepts_out > 0 || server->cq_shutdown)
        return;
    server->cq_shutdown = true;
    med_grpc_server_announce(server);
    grpc_completion_queue_shutdown(server->cq);
}

static void on_shutdown(struct med_grpc_tag *tag)
{
    struct med_grpc_server *server = tag->owner;
    server->shutdown_done = true;
    med_grpc_server_maybe_stop(server);
}

static void shutdown_ask(struct med_grpc_server *server)
{
    if (server->shutdown_asked)
        return;
    server->shutdown_asked = true;
    med_grpc_server_announce(server);
    grpc_server_shutdown_and_notify(server->server, server->cq, &server->shutdown_tag);
}

void med_grpc_server_drain(struct med_grpc_server *server)
{
    MED_ASSERT_THREAD(server->thread);
    if (server->started)
        shutdown_ask(server);
}

void med_grpc_server_close(struct med_grpc_server *server, void (*on_closed)(void *arg), void *arg)
{
    if (server == NULL)
        return;
    MED_ASSERT_THREAD(server->thread);
    MED_ASSERT(!server->closing);
    server->closing = true;
    server->on_closed = on_closed;
    server->on_closed_arg = arg;
    if (server->started) {
        shutdown_ask(server);
        grpc_server_cancel_all_calls(server->server);
        med_grpc_server_maybe_stop(server); // a drain may have let the last one go
        return;
    }
    med_grpc_server_announce(server);
    /* Never started: no thread will drain the queue, so that is done here. */
    grpc_server_shutdown_and_notify(server->server, server->cq, &server->shutdown_tag);
    grpc_completion_queue_shutdown(server->cq);
    while (grpc_completion_queue_next(server->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
           GRPC_QUEUE_SHUTDOWN)
        continue;
    destroy(server);
}

/* ---- life ---- */

/* Ends calls whose client has not taken a message for STALL_MS, or has not sent one for REQUEST_MS: they would
 * hold memory, and a place, for ever. */
static void on_sweep(uv_timer_t *timer)
{
    struct med_grpc_server *server = timer->data;
    uint64_t now_ms = uv_now(server->loop);
    struct med_grpc_call *next;
    /* This process stood still: what clients have sent or taken meanwhile is looked at first. */
    bool late = now_ms - server->swept_ms > UINT64_C(3) * SWEEP_MS;
    server->swept_ms = now_ms;
    if (late && server->put_offs < PUT_OFFS_MAX) {
        server->put_offs++;
        (void)uv_timer_start(timer, on_sweep, PUT_OFF_MS, SWEEP_MS);
        return;
    }
    server->put_offs = 0;
    for (struct med_grpc_call *call = server->calls; call != NULL; call = next) {
        next = call->next;
        if ((call->writing || call->finishing) && now_ms - call->write_since_ms > STALL_MS) {
            call->write_since_ms = now_ms;
            med_grpc_call_abort(call, GRPC_STATUS_RESOURCE_EXHAUSTED,
                                "the client has not read for 60 s");
        } else if (call->receiving && !call->aborted &&
                   now_ms - call->receive_since_ms > REQUEST_MS) {
            med_grpc_call_abort(call, GRPC_STATUS_RESOURCE_EXHAUSTED,
                                "the client has sent no message for 30 s");
        }
    }
}

static grpc_arg arg_integer(const char *key, int value)
{
    /* gRPC's arguments are not const; they are only read. */
    union {
        const char *from;
        char *to;
    } both = {.from = key};
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = both.to, .value.integer = value};
}

/* gRPC's milliseconds of a duration; 0, "never", is its largest number. */
static int or_never(int64_t ns)
{
    return ns == 0 || ns / MED_NS_PER_MS > INT_MAX ? INT_MAX : (int)(ns / MED_NS_PER_MS);
}

static grpc_server *server_create(const struct med_grpc_config *config)
{
    grpc_arg list[] = {
        /* Two servers must not share a port silently. */
        arg_integer(GRPC_ARG_ALLOW_REUSEPORT, config->share_port),
        arg_integer(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, MED_LIMIT_GRPC_MESSAGE_BYTES),
        arg_integer(GRPC_ARG_MAX_METADATA_SIZE, METADATA_BYTES),
        /* Only the identity: a small message must not unpack to a large one. */
        arg_integer(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1 << GRPC_COMPRESS_NONE),
        arg_integer(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, SCRATCH_BYTES),
        arg_integer(GRPC_ARG_MAX_CONCURRENT_STREAMS, (int)config->streams_max),
        arg_integer(GRPC_ARG_MAX_CONNECTION_IDLE_MS, or_never(config->idle_ns)),
        arg_integer(GRPC_ARG_MAX_CONNECTION_AGE_MS, or_never(config->age_ns)),
        arg_integer(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, AGE_GRACE_MS),
        arg_integer(GRPC_ARG_KEEPALIVE_TIME_MS, or_never(config->keepalive_ns)),
        arg_integer(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_TIMEOUT_MS),
        arg_integer(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        /* Python clients ping every few seconds when asked to; that is no abuse. */
        arg_integer(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, PING_INTERVAL_MIN_MS),
        arg_integer(GRPC_ARG_HTTP2_MAX_PING_STRIKES, PING_STRIKES),
    };
    grpc_channel_args args = {sizeof(list) / sizeof(list[0]), list};
    return grpc_server_create(&args, NULL);
}

int med_grpc_server_new(uv_loop_t *loop, const struct med_clock *clock,
                        const struct med_grpc_host *host, const struct med_grpc_config *config,
                        struct med_grpc_server **ret_server, struct med_err *err)
{
    struct med_grpc_server *server = med_calloc(1, sizeof(*server));
    if (server == NULL)
        return med_err_set(err, MED_E_NOMEM, "%s", med_err_text(MED_E_NOMEM));
    gpr_set_log_function(on_grpc_log);
    gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
    grpc_init();
    server->thread = pthread_self();
    server->loop = loop;
    server->clock = clock;
    server->host = *host;
    server->config = *config;
    (void)pthread_mutex_init(&server->shared.certificate_lock, NULL); // cannot fail on Linux
    server->cq = grpc_completion_queue_create_for_next(NULL);
    server->server = server_create(config);
    grpc_server_register_completion_queue(server->server, server->cq, NULL);
    server->shutdown_tag = (struct med_grpc_tag){.on_done = on_shutdown, .owner = server};
    server->cq_ended_tag = (struct med_grpc_tag){.on_done = on_cq_ended, .owner = server};
    for (int i = 0; i < MED_GRPC_ACCEPTS; i++) {
        server->accepts[i].server = server;
        server->accepts[i].tag =
            (struct med_grpc_tag){.on_done = on_accept, .owner = &server->accepts[i]};
    }
    med_buf_init(&server->scratch, SCRATCH_BYTES);
    med_mailbox_init(&server->mailbox, MAILBOX_TAGS, wake_loop, &server->wake);
    int rc = uv_async_init(loop, &server->wake, on_wake);
    if (rc < 0) {
        grpc_completion_queue_shutdown(server->cq);
        grpc_server_destroy(server->server);
        grpc_completion_queue_destroy(server->cq);
        grpc_shutdown();
        med_mailbox_release(&server->mailbox);
        certificate_release(server);
        med_free(server);
        return med_err_set(err, rc, "cannot make a wake-up handle: %s", uv_strerror(rc));
    }
    (void)uv_timer_init(loop, &server->sweep); // always succeeds
    server->handles_open = 2;
    server->wake.data = server;
    server->sweep.data = server;
    *ret_server = server;
    return 0;
}

int med_grpc_server_listen(struct med_grpc_server *server, const char *address, int *ret_port,
                           struct med_err *err)
{
    MED_ASSERT_THREAD(server->thread);
    MED_ASSERT(!server->started);
    grpc_server_credentials *credentials = credentials_create(server);
    int port = grpc_server_add_http2_port(server->server, address, credentials);
    grpc_server_credentials_release(credentials);
    if (port == 0) {
        return med_err_set(err, MED_E_IO,
                           "--grpc-listen: cannot listen on \"%s\": the address is in use, not one "
                           "of this machine, or not HOST:PORT",
                           address);
    }
    grpc_server_start(server->server);
    int rc = med_thread_start(&server->cq_thread, "cq", cq_run, server);
    if (rc < 0)
        return med_err_set(err, rc, "cannot start the cq thread: %s", uv_strerror(rc));
    server->started = true;
    for (int i = 0; i < MED_GRPC_ACCEPTS; i++)
        accept_arm(server, &server->accepts[i]);
    server->swept_ms = uv_now(server->loop);
    rc = uv_timer_start(&server->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
    MED_ASSERT(rc == 0);
    *ret_port = port;
    return 0;
}

void med_grpc_server_set_serving(struct med_grpc_server *server, bool serving)
{
    MED_ASSERT_THREAD(server->thread);
    if (server->serving == serving)
        return;
    server->serving = serving;
    med_grpc_health_changed(server);
}

size_t med_grpc_server_calls(const struct med_grpc_server *server)
{
    return server->call_count;
}

size_t med_grpc_server_requests(const struct med_grpc_server *server)
{
    return server->request_count;
}
