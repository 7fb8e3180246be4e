/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection of the HTTP server: bytes in, requests out of them, bytes out.
 *
 * What comes is gathered in `in` and taken from there: a head, its body, and then the handler has the
 * exchange.  While it answers, the connection is still read, so that a client that leaves is noticed, until
 * as much is waiting as one buffer holds; pipelined requests are taken when the answer is whole.  What is to
 * be sent is gathered in `out`, and goes out before the loop sleeps.  After a last answer our side is shut and
 * what still comes is dropped for a moment, so that the answer is not lost to a reset.
 *
 * A connection is closed by its close callback alone: until then its exchange lives, and calls on it do
 * nothing.
 *
 * Runs on the loop.
 */
#include "router/http_server_internal.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

enum {
    HEAD_MS = 10 * 1000,      /* from a head's first byte to its end */
    IDLE_MS = 75 * 1000,      /* without a request */
    BODY_MS = 20 * 1000,      /* for a body, and more for long ones: */
    BODY_BYTES_PER_S = 16384, /* the slowest client that is waited for */
    WRITE_MS = 30 * 1000,     /* for the client to take something of what waits for it */
    LINGER_MS = 1000,         /* after the last answer */
    AHEAD_BYTES = 64 * 1024,  /* read while an answer is made */
    PIPELINE_BYTES = 1 << 18, /* of answers, until they have been sent; then the next is taken */
    IN_BYTES_MAX = 1 << 18,
    OUT_BYTES_MAX = 64 << 20, /* an answer in one piece */
    KEPT_BYTES = 16 * 1024    /* a buffer's memory that is kept for the next request */
};

static void serve(struct med_http_conn *conn);
static void read_start(struct med_http_conn *conn);

static uint64_t now_ms(const struct med_http_conn *conn)
{
    return uv_now(conn->stream.uv.handle.loop);
}

static void deadline_set(struct med_http_conn *conn, uint64_t ms)
{
    conn->deadline_ms = now_ms(conn) + ms;
}

/* ---- the end ------------------------------------------------------------------------------------ */

static void on_closed(void *owner)
{
    struct med_http_conn *conn = owner;
    struct med_http_server *server = conn->server;
    if (conn->x != NULL) {
        if (conn->owes && server->handler.on_gone != NULL)
            server->handler.on_gone(server->handler.self, conn->x);
        med_http_exchange_free(conn->x);
    }
    if (conn->prev != NULL) {
        conn->prev->next = conn->next;
    } else {
        server->conns = conn->next;
    }
    if (conn->next != NULL)
        conn->next->prev = conn->prev;
    server->stats.connections--;
    med_buf_release(&conn->in);
    med_buf_release(&conn->out);
    med_buf_release(&conn->writing);
    med_free(conn);
    med_http_server_maybe_free(server);
}

/* Takes it off the list of those that are to be flushed. */
static void unlist(struct med_http_conn *conn)
{
    struct med_http_conn **at = &conn->server->to_flush;
    while (conn->flush_listed && *at != conn)
        at = &(*at)->flush_next;
    if (conn->flush_listed)
        *at = conn->flush_next;
    conn->flush_listed = false;
}

void med_http_conn_close(struct med_http_conn *conn)
{
    if (conn->state == MED_HTTP_CONN_CLOSING)
        return;
    conn->owes = conn->state == MED_HTTP_CONN_ANSWERING;
    conn->state = MED_HTTP_CONN_CLOSING;
    conn->deadline_ms = UINT64_MAX;
    unlist(conn);
    med_stream_close(&conn->stream);
}

/* ---- bytes out ---------------------------------------------------------------------------------- */

void med_http_conn_wake(struct med_http_conn *conn)
{
    if (conn->flush_listed || conn->state == MED_HTTP_CONN_CLOSING)
        return;
    conn->flush_listed = true;
    conn->flush_next = conn->server->to_flush;
    conn->server->to_flush = conn;
}

static void linger(struct med_http_conn *conn)
{
    if (conn->peer_ended) {
        med_http_conn_close(conn); /* nothing can come that a reset would answer */
        return;
    }
    conn->state = MED_HTTP_CONN_LINGERING;
    deadline_set(conn, LINGER_MS);
    if (med_stream_shutdown(&conn->stream) < 0)
        med_http_conn_close(conn);
}

/* Something has been sent, and nothing waits to be. */
static void sent_all(struct med_http_conn *conn)
{
    struct med_http_server *server = conn->server;
    if (conn->state == MED_HTTP_CONN_LAST) {
        linger(conn);
    } else if (conn->state == MED_HTTP_CONN_ANSWERING) {
        conn->deadline_ms = UINT64_MAX;
        if (conn->x->waited && server->handler.on_drained != NULL) {
            conn->x->waited = false;
            server->handler.on_drained(server->handler.self, conn->x);
        }
    } else if (med_http_conn_is_idle(conn)) {
        deadline_set(conn, IDLE_MS);
    }
}

static void on_written(void *owner, int status)
{
    struct med_http_conn *conn = owner;
    conn->writes = false;
    med_buf_clear(&conn->writing);
    if (conn->state == MED_HTTP_CONN_CLOSING)
        return;
    if (status < 0) {
        med_http_conn_close(conn);
    } else if (conn->out.length > 0) {
        med_http_conn_wake(conn);
    } else {
        sent_all(conn);
        med_http_conn_wake(conn); /* pipelined requests may wait */
    }
}

/* Sends what it can of `out`; the rest waits in `writing`. */
static void send_out(struct med_http_conn *conn)
{
    uv_buf_t buf = uv_buf_init(conn->out.data, (unsigned)conn->out.length);
    int rc = med_stream_try_write(&conn->stream, &buf, 1);
    if (rc < 0 && rc != UV_EAGAIN) {
        med_http_conn_close(conn);
        return;
    }
    if (rc > 0 && (size_t)rc == conn->out.length) {
        med_buf_clear(&conn->out);
        sent_all(conn);
        return;
    }
    if (rc > 0)
        med_buf_consume(&conn->out, (size_t)rc);
    struct med_buf empty = conn->writing;
    conn->writing = conn->out;
    conn->out = empty;
    conn->writes = true;
    if (conn->x != NULL && conn->x->streams)
        conn->x->waited = true; /* else what waits is an earlier answer's */
    deadline_set(conn, WRITE_MS);
    buf = uv_buf_init(conn->writing.data, (unsigned)conn->writing.length);
    if (med_stream_write(&conn->stream, &buf, 1) < 0) {
        conn->writes = false;
        med_http_conn_close(conn);
        return;
    }
    conn->unsent_least = med_stream_unsent(&conn->stream);
}

/* The client has taken something since the last look. */
static bool has_progress(struct med_http_conn *conn)
{
    size_t unsent = conn->writes ? med_stream_unsent(&conn->stream) : 0;
    bool less = unsent < conn->unsent_least;
    if (less)
        conn->unsent_least = unsent;
    return less;
}

void med_http_conn_flush(struct med_http_conn *conn)
{
    if (conn->broken) {
        med_http_conn_close(conn);
        return;
    }
    if (!conn->writes && conn->out.length > 0) {
        send_out(conn);
    } else if (!conn->writes && conn->state == MED_HTTP_CONN_LAST) {
        sent_all(conn);
    }
    serve(conn);
    bool wants = conn->state == MED_HTTP_CONN_HEAD || conn->state == MED_HTTP_CONN_BODY;
    if (wants && !conn->reading && conn->in.length < AHEAD_BYTES)
        read_start(conn);
}

/* ---- requests ----------------------------------------------------------------------------------- */

bool med_http_conn_is_idle(const struct med_http_conn *conn)
{
    return conn->state == MED_HTTP_CONN_HEAD && conn->in.length == 0 && conn->out.length == 0 &&
           !conn->writes;
}

void med_http_conn_rest(struct med_http_conn *conn)
{
    med_buf_release(&conn->in);
    med_buf_release(&conn->out);
    if (!conn->writes)
        med_buf_release(&conn->writing);
}

static void expect_head(struct med_http_conn *conn)
{
    conn->state = MED_HTTP_CONN_HEAD;
    conn->searched = 0;
    if (!conn->writes)
        deadline_set(conn, IDLE_MS);
    if (conn->out.capacity > KEPT_BYTES && conn->out.length == 0)
        med_buf_release(&conn->out);
}

void med_http_conn_answered(struct med_http_conn *conn)
{
    med_http_exchange_free(conn->x);
    conn->x = NULL;
    if (conn->state == MED_HTTP_CONN_CLOSING)
        return;
    if (conn->ends) {
        conn->state = MED_HTTP_CONN_LAST;
        if (!conn->writes)
            deadline_set(conn, WRITE_MS);
    } else {
        expect_head(conn);
    }
    med_http_conn_wake(conn);
}

/* Gives the whole request to the handler. */
static void hand_over(struct med_http_conn *conn)
{
    struct med_http_server *server = conn->server;
    conn->state = MED_HTTP_CONN_ANSWERING;
    if (!conn->writes)
        conn->deadline_ms = UINT64_MAX;
    conn->ends = conn->ends || !conn->x->head.keep_alive || server->draining || server->retired;
    server->stats.requests++;
    server->handler.on_request(server->handler.self, conn->x);
}

static void continue_send(struct med_http_conn *conn)
{
    static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (med_buf_append(&conn->out, text, sizeof text - 1) < 0)
        conn->broken = true;
    med_http_conn_wake(conn);
}

/* Makes the exchange of the head in the first `bytes` of `in`. */
static void take_head(struct med_http_conn *conn, size_t bytes)
{
    struct med_http_exchange *x = med_alloc(sizeof *x); /* most of it is text: not cleared */
    char *lines = med_alloc(bytes + 1);
    if (x == NULL || lines == NULL) {
        med_free(x);
        med_free(lines);
        med_http_conn_refuse(conn, 503, "the router has no memory for this request");
        return;
    }
    x->conn = conn;
    x->user = NULL;
    x->lines = lines;
    x->streams = x->chunked = x->waited = false;
    conn->x = x;
    memcpy(x->lines, conn->in.data, bytes);
    x->lines[bytes] = '\0';
    x->lines_bytes = bytes;
    med_buf_init(&x->content, MED_LIMIT_HTTP_BODY_BYTES);
    med_http_head_parse(x->lines, bytes, &x->head);
    med_buf_consume(&conn->in, bytes);
    conn->searched = 0;
    conn->since_ms = now_ms(conn);
    conn->state = MED_HTTP_CONN_BODY;
    med_http_body_reader_init(&conn->body, &x->head, MED_LIMIT_HTTP_BODY_BYTES);
    if (x->head.status != 0) {
        med_http_conn_refuse(conn, x->head.status, x->head.why);
    } else if (conn->body.status != 0) {
        med_http_conn_refuse(conn, conn->body.status, conn->body.why);
    } else if (conn->body.state != MED_HTTP_BODY_DONE) {
        deadline_set(conn, BODY_MS);
        if (x->head.expects_continue && conn->in.length == 0)
            continue_send(conn);
    }
}

static bool serve_head(struct med_http_conn *conn)
{
    size_t bytes = med_http_head_bytes(conn->in.data, conn->in.length, conn->searched);
    if (bytes > MED_LIMIT_HTTP_HEADER_BYTES ||
        (bytes == 0 && conn->in.length >= MED_LIMIT_HTTP_HEADER_BYTES)) {
        med_http_conn_refuse(conn, 431, "the header is larger than 16384 bytes");
        return false;
    }
    if (bytes > 0) {
        take_head(conn, bytes);
        return true;
    }
    if (conn->searched == 0) {
        conn->since_ms = now_ms(conn);
        deadline_set(conn, HEAD_MS);
    }
    conn->searched = conn->in.length;
    return false;
}

static bool serve_body(struct med_http_conn *conn)
{
    struct med_http_server *server = conn->server;
    size_t used = 0, before = conn->x->content.length;
    int rc =
        med_http_body_read(&conn->body, conn->in.data, conn->in.length, &conn->x->content, &used);
    server->body_bytes += conn->x->content.length - before;
    med_buf_consume(&conn->in, used);
    if (rc == MED_E_PROTO) {
        med_http_conn_refuse(conn, conn->body.status, conn->body.why);
    } else if (rc < 0 || server->body_bytes > MED_LIMIT_HTTP_BODIES_BYTES) {
        med_http_conn_refuse(conn, 503, "the router has no memory for this request");
    } else if (rc == 1) {
        hand_over(conn);
        return true;
    } else {
        conn->deadline_ms = conn->since_ms + BODY_MS + conn->body.bytes * 1000 / BODY_BYTES_PER_S;
    }
    return false;
}

/* Takes requests from `in` until one is being answered or more bytes are needed. */
static void serve(struct med_http_conn *conn)
{
    if (conn->serving)
        return;
    conn->serving = true;
    bool goes_on = true;
    while (goes_on && !conn->broken && conn->out.length < PIPELINE_BYTES) {
        if (conn->state == MED_HTTP_CONN_HEAD && conn->in.length > 0) {
            goes_on = serve_head(conn);
        } else if (conn->state == MED_HTTP_CONN_BODY) {
            goes_on = serve_body(conn);
        } else {
            goes_on = false;
        }
    }
    conn->serving = false;
}

/* ---- bytes in ----------------------------------------------------------------------------------- */

static uv_buf_t on_alloc(void *owner)
{
    struct med_http_conn *conn = owner;
    return uv_buf_init(conn->server->scratch, sizeof conn->server->scratch);
}

/* The client has closed its side, or is gone. */
static void on_end(struct med_http_conn *conn, bool orderly)
{
    bool has_answers = conn->out.length > 0 || conn->writes;
    if (orderly && has_answers &&
        (conn->state == MED_HTTP_CONN_HEAD || conn->state == MED_HTTP_CONN_LAST)) {
        med_stream_read_stop(&conn->stream);
        conn->reading = false;
        conn->peer_ended = true;
        conn->state = MED_HTTP_CONN_LAST;
        med_http_conn_wake(conn);
    } else {
        med_http_conn_close(conn);
    }
}

static void on_read(void *owner, ssize_t count, const char *bytes)
{
    struct med_http_conn *conn = owner;
    if (count < 0) {
        on_end(conn, count == UV_EOF);
        return;
    }
    if (conn->state == MED_HTTP_CONN_LINGERING || conn->state == MED_HTTP_CONN_LAST)
        return;
    if (med_buf_append(&conn->in, bytes, (size_t)count) < 0) {
        med_http_conn_close(conn);
        return;
    }
    serve(conn);
    /* An answer is made, or those before have to be sent first: flush goes on. */
    if (conn->in.length >= AHEAD_BYTES) {
        med_stream_read_stop(&conn->stream);
        conn->reading = false;
    }
    if (conn->state != MED_HTTP_CONN_ANSWERING)
        med_http_conn_wake(conn);
}

static void read_start(struct med_http_conn *conn)
{
    conn->reading = true;
    if (med_stream_read_start(&conn->stream) < 0)
        med_http_conn_close(conn);
}

void med_http_conn_expire(struct med_http_conn *conn)
{
    conn->deadline_ms = UINT64_MAX;
    bool sends = conn->writes || conn->out.length > 0;
    if (conn->writes && has_progress(conn)) {
        deadline_set(conn, WRITE_MS); /* slow, but it reads */
    } else if (conn->state == MED_HTTP_CONN_HEAD && conn->in.length > 0 && !sends) {
        med_http_conn_refuse(conn, 408, "the head did not arrive in time");
    } else if (conn->state == MED_HTTP_CONN_BODY && !sends) {
        med_http_conn_refuse(conn, 408, "the body did not arrive in time");
    } else {
        /* An idle connection owes us nothing and is closed without a word. */
        med_http_conn_close(conn);
    }
}

static const struct med_stream_ops stream_ops = {
    .on_alloc = on_alloc, .on_read = on_read, .on_written = on_written, .on_closed = on_closed};

/* ---- the beginning ------------------------------------------------------------------------------ */

static void on_scrap_closed(uv_handle_t *handle)
{
    med_free(handle);
}

/* Takes one connection off the listen queue and closes it: the table is full. */
static void turn_away(uv_stream_t *listener)
{
    uv_tcp_t *tcp = med_alloc(sizeof(*tcp));
    if (tcp == NULL || uv_tcp_init(listener->loop, tcp) < 0) {
        med_free(tcp); // it stays in the system's queue until memory is back
        return;
    }
    (void)uv_accept(listener, (uv_stream_t *)tcp); // closed in either case
    uv_close((uv_handle_t *)tcp, on_scrap_closed);
}

void med_http_conn_accept(struct med_http_server *server)
{
    uv_stream_t *listener = (uv_stream_t *)&server->listener;
    struct med_http_conn *conn = NULL;
    if (server->stats.connections < server->connections_max)
        conn = med_calloc(1, sizeof(*conn));
    if (conn == NULL ||
        med_stream_init(&conn->stream, listener->loop, true, &stream_ops, conn) < 0) {
        med_free(conn);
        server->stats.turned_away++;
        turn_away(listener);
        return;
    }
    conn->server = server;
    med_buf_init(&conn->in, IN_BYTES_MAX);
    med_buf_init(&conn->out, OUT_BYTES_MAX);
    med_buf_init(&conn->writing, OUT_BYTES_MAX);
    conn->next = server->conns;
    if (conn->next != NULL)
        conn->next->prev = conn;
    server->conns = conn;
    server->stats.connections++;
    server->stats.accepted++;
    deadline_set(conn, HEAD_MS); /* who dials has something to say */
    if (uv_accept(listener, &conn->stream.uv.stream) < 0 ||
        med_stream_set_tls(&conn->stream, server->tls, NULL) < 0) {
        med_http_conn_close(conn);
        return;
    }
    (void)uv_tcp_nodelay(&conn->stream.uv.tcp, 1); // only a matter of speed
    read_start(conn);
}
