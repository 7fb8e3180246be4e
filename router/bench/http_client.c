/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load test's client on OpenAI-compatible servers: HTTP/1.1 on libuv, one request at a time on
 * each connection, connections kept and used again, last one first.
 *
 * Everything runs inside `wait`, on the owner's thread: the loop is run without blocking, and what
 * remains until the deadline is slept on the loop's own descriptor, to the microsecond (libuv's
 * timers know milliseconds).  The clock is read once for all bytes that one read brought.
 *
 * A call that finds no idle connection waits, first come first served, for the next that is open or becomes
 * idle; for each that waits one is opened, but at most OPENING_MAX at once, and no more are kept than the
 * process may have descriptors.  A connection that opens slowly thus holds up no particular call.  A call
 * counts as sent all the while, so what it waits is part of its latency.
 *
 * A request on a kept connection that closes before any byte of an answer is sent once more on a new
 * one and counted, as the server may have closed before it saw the request.  Nothing else is tried
 * again: a load test wants to see each failure.
 * thread: the owner's.
 */
#include "router/bench/client.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/buf.h"
#include "base/limits.h"
#include "base/os.h"
#include "router/bench/http_request.h"
#include "router/bench/reply.h"
#include "router/net.h"
#include "router/stream.h"
#include "router/tls.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/select.h>
#include <time.h>

enum {
    READ_BYTES = 256 << 10,
    REQUEST_MAX_BYTES = 64 << 20,
    OPENING_MAX = 64,            /* connections; a backlog of a server takes more than that */
    DESCRIPTORS_OF_ITS_OWN = 32, /* standard streams, files, the loop's */
    STATUS_CANCELLED = 1,
    STATUS_DEADLINE_EXCEEDED = 4,
    STATUS_UNAVAILABLE = 14
};

struct conn;

struct call {
    struct call *next, *previous; /* of those that run, in order of start; next: of the free ones */
    struct call *next_waiting, *previous_waiting;
    struct conn *conn; /* NULL: it waits for one */
    void *user;
    struct med_buf request;
    int64_t deadline_real_ns;
    bool again; /* has been sent a second time */
};

struct conn {
    struct conn *next, *previous; /* of all connections */
    struct conn *next_idle, *previous_idle;
    struct http_bench *client;
    struct call *call;
    struct med_stream stream;
    uv_connect_t connect;
    struct med_reply reply;
    bool closing, idle;
    bool kept;    /* has served a request */
    bool writing; /* lends the call's bytes to the stream */
};

struct http_bench {
    struct med_bench_client base; /* first */
    const struct med_clock *clock;
    struct med_bench_http_config config;
    struct sockaddr_storage address;
    struct med_tls *tls;           /* NULL: plain */
    char host[MED_BENCH_HOST_MAX]; /* without its port: whom a certificate must name */
    uv_loop_t loop;
    struct conn *conns, *idle;
    struct call *first, *last, *free_calls;
    struct call *first_waiting, *last_waiting; /* for a connection */
    size_t waiting, opening;                   /* so many calls, so many connections */
    size_t conn_count, conn_max;
    char *read_buffer;
    struct med_bench_http_texts texts;
    int64_t at_ns; /* fleet time of the bytes that are being read */
    bool any;      /* something came since wait began */
};

static int64_t real_now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * MED_NS_PER_S + t.tv_nsec;
}

/* ---- calls ---- */

static void call_unlink(struct http_bench *client, struct call *call)
{
    *(call->previous ? &call->previous->next : &client->first) = call->next;
    *(call->next ? &call->next->previous : &client->last) = call->previous;
}

static void call_link(struct http_bench *client, struct call *call)
{
    call->previous = client->last;
    call->next = NULL;
    *(client->last ? &client->last->next : &client->first) = call;
    client->last = call;
}

static void wait_link(struct http_bench *client, struct call *call)
{
    call->previous_waiting = client->last_waiting;
    call->next_waiting = NULL;
    *(client->last_waiting ? &client->last_waiting->next_waiting : &client->first_waiting) = call;
    client->last_waiting = call;
    client->waiting++;
}

static void wait_unlink(struct http_bench *client, struct call *call)
{
    *(call->previous_waiting ? &call->previous_waiting->next_waiting : &client->first_waiting) =
        call->next_waiting;
    *(call->next_waiting ? &call->next_waiting->previous_waiting : &client->last_waiting) =
        call->previous_waiting;
    client->waiting--;
}

static int call_send(struct http_bench *client, struct call *call);
static void serve_waiting(struct http_bench *client);

/* The one end of a call; its connection has let go of it.  told: NULL without a whole answer. */
static void call_end(struct http_bench *client, struct call *call, int status, const char *why,
                     const struct med_reply *told)
{
    struct med_bench_end end = {
        .at_ns = client->at_ns,
        .status = status,
        .details = why,
        .worker_type = "",
        .completion_tokens = told ? told->completion_tokens : -1,
        .prompt_tokens = told ? told->prompt_tokens : -1,
        .at_once = !client->config.stream,
    };
    client->any = true;
    call_unlink(client, call);
    call->conn = NULL;
    client->base.sink.on_end(client->base.sink.arg, call->user, &end);
    call->next = client->free_calls;
    client->free_calls = call;
}

/* ---- connections ---- */

static void idle_unlink(struct conn *conn)
{
    if (!conn->idle)
        return;
    conn->idle = false;
    *(conn->previous_idle ? &conn->previous_idle->next_idle : &conn->client->idle) =
        conn->next_idle;
    if (conn->next_idle)
        conn->next_idle->previous_idle = conn->previous_idle;
}

static void idle_link(struct conn *conn)
{
    conn->idle = true;
    conn->previous_idle = NULL;
    conn->next_idle = conn->client->idle;
    if (conn->next_idle)
        conn->next_idle->previous_idle = conn;
    conn->client->idle = conn;
}

static void conn_close(struct conn *conn)
{
    if (conn->closing)
        return;
    MED_ASSERT(!conn->call);
    idle_unlink(conn);
    conn->closing = true;
    med_stream_close(&conn->stream);
}

static void on_closed(void *owner)
{
    struct conn *conn = owner;
    struct http_bench *client = conn->client;
    *(conn->previous ? &conn->previous->next : &conn->client->conns) = conn->next;
    if (conn->next)
        conn->next->previous = conn->previous;
    med_reply_release(&conn->reply);
    med_free(conn);
    client->conn_count--;
    serve_waiting(client);
}

/* Takes the call off its connection, which goes. */
static struct call *conn_drop_call(struct conn *conn)
{
    struct call *call = conn->call;
    conn->call = NULL;
    if (call)
        call->conn = NULL;
    conn_close(conn);
    return call;
}

/* The connection failed under its call, outside an answer. */
static void conn_fail(struct conn *conn, int status, const char *why)
{
    struct http_bench *client = conn->client;
    bool again = conn->kept && !conn->reply.any && status == STATUS_UNAVAILABLE;
    struct call *call = conn_drop_call(conn);
    if (!call)
        return;
    if (again && !call->again) {
        call->again = true;
        client->base.reconnects++;
        if (call_send(client, call) >= 0)
            return;
    }
    call_end(client, call, status, why, NULL);
}

static void look_at_reply(struct conn *conn)
{
    struct http_bench *client = conn->client;
    struct med_reply *reply = &conn->reply;
    if (!reply->over || !conn->call)
        return;
    struct call *call = conn->call;
    conn->call = NULL;
    /* The reply lends its sentence until it is cleared, so the end comes first; a request that the
     * end makes may not take this connection yet. */
    call_end(client, call, reply->status, reply->why, reply);
    conn->kept = true;
    if (reply->keep_alive && !conn->writing) {
        med_reply_clear(reply);
        idle_link(conn);
        serve_waiting(client);
    } else {
        conn_close(conn);
    }
}

static uv_buf_t on_alloc(void *owner)
{
    struct conn *conn = owner;
    return uv_buf_init(conn->client->read_buffer, READ_BYTES);
}

static void on_read(void *owner, ssize_t count, const char *bytes)
{
    struct conn *conn = owner;
    conn->client->at_ns = med_clock_now_ns(conn->client->clock);
    if (conn->closing)
        return;
    if (!conn->call) { // an idle connection has nothing to say but that it goes
        conn_close(conn);
        return;
    }
    if (count < 0 && !conn->reply.any) {
        char why[MED_REPLY_WHY_MAX];
        (void)snprintf(why, sizeof(why), "the connection ended without an answer: %s",
                       med_stream_why(&conn->stream, (int)count));
        conn_fail(conn, STATUS_UNAVAILABLE, why);
        return;
    }
    med_reply_feed(&conn->reply, bytes, count > 0 ? (size_t)count : 0);
    look_at_reply(conn);
}

static void on_written(void *owner, int status)
{
    struct conn *conn = owner;
    conn->writing = false;
    /* A server may answer and close before it has read all: reading tells which. */
    if (status < 0 && !conn->closing && conn->call && !conn->reply.any && status != UV_EPIPE &&
        status != UV_ECONNRESET) {
        conn->client->at_ns = med_clock_now_ns(conn->client->clock);
        conn_fail(conn, STATUS_UNAVAILABLE, "the request could not be sent");
    }
}

static const struct med_stream_ops stream_ops = {on_alloc, on_read, on_written, on_closed};

static void on_tokens(void *arg, int64_t count)
{
    struct conn *conn = arg;
    struct http_bench *client = conn->client;
    client->any = true;
    client->base.sink.on_tokens(client->base.sink.arg, conn->call->user, client->at_ns, -1, count);
}

static int conn_write(struct conn *conn)
{
    uv_buf_t buf = uv_buf_init(conn->call->request.data, (unsigned)conn->call->request.length);
    int sent = med_stream_try_write(&conn->stream, &buf, 1);
    if (sent < 0)
        sent = sent == UV_EAGAIN ? 0 : sent;
    if (sent < 0 || (size_t)sent == conn->call->request.length)
        return sent < 0 ? sent : 0;
    buf.base += sent;
    buf.len -= (size_t)sent;
    int rc = med_stream_write(&conn->stream, &buf, 1);
    conn->writing = rc >= 0;
    return rc;
}

/* One that waits ends for the connection that was to be its. */
static void fail_waiting(struct http_bench *client, const char *why)
{
    struct call *call = client->first_waiting;
    if (!call)
        return;
    wait_unlink(client, call);
    call_end(client, call, STATUS_UNAVAILABLE, why, NULL);
}

static void on_connected(uv_connect_t *connect, int status)
{
    struct conn *conn = connect->data;
    struct http_bench *client = conn->client;
    client->opening--;
    if (conn->closing)
        return; // its place is free once it is closed
    client->at_ns = med_clock_now_ns(client->clock);
    int rc = status == 0 ? med_stream_read_start(&conn->stream) : status;
    if (rc < 0) {
        char why[MED_REPLY_WHY_MAX];
        (void)snprintf(why, sizeof(why), "the connection was refused or lost: %s", uv_strerror(rc));
        conn_close(conn);
        fail_waiting(client, why);
    } else {
        idle_link(conn);
    }
    serve_waiting(client);
}

/* Returns whether one is being opened. */
static bool conn_open(struct http_bench *client)
{
    struct conn *conn = med_calloc(1, sizeof(*conn));
    if (!conn)
        return false;
    conn->client = client;
    med_reply_init(&conn->reply, on_tokens, conn);
    if (med_stream_init(&conn->stream, &client->loop, true, &stream_ops, conn) < 0) {
        med_reply_release(&conn->reply);
        med_free(conn);
        return false;
    }
    conn->next = client->conns;
    if (conn->next)
        conn->next->previous = conn;
    client->conns = conn;
    client->conn_count++;
    conn->connect.data = conn;
    if ((client->tls && med_stream_set_tls(&conn->stream, client->tls, client->host) < 0) ||
        uv_tcp_connect(&conn->connect, &conn->stream.uv.tcp,
                       (const struct sockaddr *)&client->address, on_connected) < 0) {
        conn_close(conn);
        return false;
    }
    client->opening++;
    (void)uv_tcp_nodelay(&conn->stream.uv.tcp, 1);
    return true;
}

/* Sends on an idle connection, if there is one that the call may take: one that is sent again takes none
 * that has served before. */
static bool call_take_idle(struct http_bench *client, struct call *call)
{
    struct conn *next;
    for (struct conn *conn = client->idle; conn; conn = next) {
        next = conn->next_idle;
        if (call->again && conn->kept)
            continue;
        idle_unlink(conn);
        conn->call = call;
        call->conn = conn;
        if (conn_write(conn) >= 0)
            return true;
        (void)conn_drop_call(conn);
        client->base.reconnects++;
    }
    return false;
}

static bool may_open(const struct http_bench *client)
{
    return client->opening < OPENING_MAX && client->conn_count < client->conn_max;
}

/* On an idle connection, or it waits for one.
 * errors: MED_E_IO: no connection could be begun. */
static int call_send(struct http_bench *client, struct call *call)
{
    if ((call->again || !client->first_waiting) && call_take_idle(client, call))
        return 0;
    wait_link(client, call);
    if (client->opening >= client->waiting)
        return 0; // those that wait no more left it one
    if (may_open(client)) {
        if (conn_open(client))
            return 0;
        wait_unlink(client, call);
        return MED_E_IO;
    }
    if (client->conn_count >= client->conn_max) {
        client->base.waited_for_limit++;
        if (client->idle) // one that is not trusted any more makes room
            conn_close(client->idle);
    } else {
        client->base.waited_for_opening++;
    }
    return 0;
}

/* Idle connections to those that wait, and new ones for the rest.
 * thread: only inside wait, as calls may end. */
static void serve_waiting(struct http_bench *client)
{
    struct call *next;
    for (struct call *call = client->first_waiting; call && client->idle; call = next) {
        next = call->next_waiting;
        if (call_take_idle(client, call))
            wait_unlink(client, call);
    }
    while (client->opening < client->waiting && may_open(client)) {
        if (!conn_open(client)) {
            fail_waiting(client, "no connection could be begun");
            return; // who closes comes here again
        }
    }
    if (client->opening < client->waiting && client->idle && client->conn_count >= client->conn_max)
        conn_close(client->idle); // for one that takes none that has served before
}

/* ---- requests ---- */

static struct call *call_take(struct http_bench *client)
{
    struct call *call = client->free_calls;
    if (call) {
        client->free_calls = call->next;
        call->again = false;
        return call;
    }
    call = med_calloc(1, sizeof(*call));
    if (call)
        med_buf_init(&call->request, REQUEST_MAX_BYTES);
    return call;
}

static int start(struct med_bench_client *base, const struct med_bench_request *request, void *user,
                 void **ret_call)
{
    struct http_bench *client = (struct http_bench *)base;
    struct call *call = call_take(client);
    if (!call)
        return MED_E_NOMEM;
    call->user = user;
    call->deadline_real_ns =
        client->config.timeout_real_ns ? real_now_ns() + client->config.timeout_real_ns : INT64_MAX;
    int rc = med_bench_http_fill(&client->texts, request, &call->request);
    if (rc >= 0)
        rc = call_send(client, call);
    if (rc < 0) {
        call->next = client->free_calls;
        client->free_calls = call;
        return rc;
    }
    call_link(client, call);
    *ret_call = call;
    return 0;
}

static void break_off(struct http_bench *client, struct call *call, int status, const char *why)
{
    client->at_ns = med_clock_now_ns(client->clock);
    if (call->conn) {
        (void)conn_drop_call(call->conn);
    } else {
        wait_unlink(client, call);
    }
    call_end(client, call, status, why, NULL);
}

/* Ends only inside wait: a cancelled call is one whose deadline has passed.  Its owner cancels all
 * calls or none. */
static void cancel(struct med_bench_client *base, void *call)
{
    (void)base;
    ((struct call *)call)->deadline_real_ns = INT64_MIN;
}

static void end_late(struct http_bench *client)
{
    if (!client->first)
        return;
    int64_t now = real_now_ns();
    struct call *next;
    for (struct call *call = client->first; call; call = next) {
        next = call->next;
        if (call->deadline_real_ns > now)
            return; // those behind it began later
        if (call->deadline_real_ns == INT64_MIN) {
            break_off(client, call, STATUS_CANCELLED, "cancelled by the load test");
        } else {
            break_off(client, call, STATUS_DEADLINE_EXCEEDED, "no whole answer within --timeout");
        }
    }
}

static void sleep_on(uv_loop_t *loop, int64_t ns)
{
    int fd = uv_backend_fd(loop);
    MED_ASSERT(fd >= 0 && fd < FD_SETSIZE);
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    struct timespec timeout = {.tv_sec = ns / MED_NS_PER_S, .tv_nsec = ns % MED_NS_PER_S};
    (void)pselect(fd + 1, &set, NULL, NULL, &timeout, NULL);
}

static bool wait_events(struct med_bench_client *base, int64_t real_deadline_ns)
{
    struct http_bench *client = (struct http_bench *)base;
    client->any = false;
    (void)uv_run(&client->loop, UV_RUN_NOWAIT);
    end_late(client);
    if (!client->any) {
        if (client->first && client->first->deadline_real_ns < real_deadline_ns)
            real_deadline_ns = client->first->deadline_real_ns;
        int64_t left = real_deadline_ns - real_now_ns();
        if (left > 0) {
            sleep_on(&client->loop, left);
            (void)uv_run(&client->loop, UV_RUN_NOWAIT);
        }
        end_late(client);
    }
    return client->any;
}

/* ---- life ---- */

static void free_client(struct med_bench_client *base)
{
    struct http_bench *client = (struct http_bench *)base;
    if (!client)
        return;
    MED_ASSERT(!client->first);
    struct conn *next;
    for (struct conn *conn = client->conns; conn; conn = next) {
        next = conn->next;
        conn_close(conn);
    }
    (void)uv_run(&client->loop, UV_RUN_DEFAULT);
    MED_ASSERT(uv_loop_close(&client->loop) == 0);
    while (client->free_calls) {
        struct call *call = client->free_calls;
        client->free_calls = call->next;
        med_buf_release(&call->request);
        med_free(call);
    }
    med_tls_free(client->tls);
    med_free(client->read_buffer);
    med_bench_http_texts_release(&client->texts);
    med_free(client);
}

static const struct med_bench_client_ops ops = {start, cancel, wait_events, free_client};

static size_t conns_allowed(void)
{
    uint64_t files = med_os_files_raise();
    return files > DESCRIPTORS_OF_ITS_OWN ? (size_t)(files - DESCRIPTORS_OF_ITS_OWN) : 1;
}

/* ---- the first connection ---- */

static void on_probe(uv_connect_t *connect, int status)
{
    *(int *)connect->data = status;
    uv_close((uv_handle_t *)connect->handle, NULL);
}

/* Waits until the server takes connections, which a fleet that starts does not at once. */
static int probe(struct http_bench *client, struct med_err *err)
{
    const struct timespec pause = {.tv_nsec = 50 * MED_NS_PER_MS};
    int64_t deadline = real_now_ns() + client->config.connect_timeout_real_ns;
    int status = UV_ECONNREFUSED;
    for (;;) {
        uv_tcp_t tcp;
        uv_connect_t connect = {.data = &status};
        status = uv_tcp_init(&client->loop, &tcp);
        if (status < 0)
            break;
        status =
            uv_tcp_connect(&connect, &tcp, (const struct sockaddr *)&client->address, on_probe);
        if (status < 0)
            uv_close((uv_handle_t *)&tcp, NULL);
        (void)uv_run(&client->loop, UV_RUN_DEFAULT);
        if (status == 0)
            return 0;
        if (real_now_ns() >= deadline)
            break;
        (void)nanosleep(&pause, NULL);
    }
    return med_err_set(err, MED_E_IO, "%s: no connection within %.1f s: %s", client->config.url,
                       (double)client->config.connect_timeout_real_ns / 1e9, uv_strerror(status));
}

/* host: with brackets around an IPv6 address, which a certificate has not. */
static int set_tls(struct http_bench *client, const char *host, size_t bytes, struct med_err *err)
{
    if (strncmp(client->config.url, "https://", 8) != 0)
        return 0;
    bool brackets = bytes > 2 && host[0] == '[';
    (void)snprintf(client->host, sizeof(client->host), "%.*s", (int)(brackets ? bytes - 2 : bytes),
                   brackets ? host + 1 : host);
    const char *ca = client->config.tls_ca;
    struct med_tls_config config = {
        .ca_option = "--tls-ca",
        .ca = ca && strcmp(ca, "system") != 0 ? ca : NULL,
        .alpn = "http/1.1",
    };
    return med_tls_new(&config, &client->tls, err);
}

int med_bench_http_client_new(const struct med_bench_http_config *config,
                              const struct med_clock *clock, struct med_bench_client **ret_client,
                              struct med_err *err)
{
    char host[MED_BENCH_HOST_MAX], with_port[MED_BENCH_HOST_MAX + 8];
    const char *prefix = "";
    int rc = med_bench_http_check_model(config->model, err);
    if (rc >= 0)
        rc = med_bench_http_url(config->url, host, &prefix, err);
    if (rc < 0)
        return rc;
    const char *colon = strrchr(host, ':');
    bool has_port = colon && !strchr(colon, ']');
    (void)snprintf(with_port, sizeof(with_port), "%s%s", host,
                   has_port                                ? ""
                   : strncmp(config->url, "https", 5) == 0 ? ":443"
                                                           : ":80");
    struct http_bench *client = med_calloc(1, sizeof(*client));
    if (!client)
        return med_err_set(err, MED_E_NOMEM, "memory is exhausted");
    client->base.ops = &ops;
    client->clock = clock;
    client->config = *config;
    client->conn_max = conns_allowed();
    client->base.connections_max = client->conn_max;
    rc = med_net_parse(with_port, "--url", &client->address, err);
    if (rc < 0) {
        med_free(client);
        return rc;
    }
    rc = set_tls(client, host, has_port ? (size_t)(colon - host) : strlen(host), err);
    if (rc < 0) {
        med_free(client);
        return rc;
    }
    client->read_buffer = med_alloc(READ_BYTES);
    if (!client->read_buffer ||
        med_bench_http_texts_make(&client->config, host, prefix, &client->texts) < 0)
        rc = med_err_set(err, MED_E_NOMEM, "the request's head is too long, or memory exhausted");
    client->config.key = NULL; // it stands in the head, and its owner may wipe it
    MED_ASSERT(uv_loop_init(&client->loop) == 0);
    if (rc >= 0)
        rc = probe(client, err);
    if (rc < 0) {
        free_client(&client->base);
        return rc;
    }
    *ret_client = &client->base;
    return 0;
}
