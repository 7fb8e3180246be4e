/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small strict HTTP/1.1 server on libuv, see http_server.h.
 *
 * A connection is READING a head, WRITING its answer, LINGERING (the last answer is sent, our side
 * is shut down, and what the client still sends is dropped for a moment, so that the answer is not
 * lost to a reset) or CLOSING.  It reads only while READING, so pipelined requests wait in the socket
 * and in at most one buffer.  One timer per connection serves all states.
 *
 * Runs on the loop. It does not read bodies, compress, speak TLS or HTTP/2.
 */
#include "router/http_server.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/thread.h"
#include "router/http_server_head.h"

#include <stdio.h>
#include <string.h>

enum {
    BACKLOG = 128,
    HEAD_MS = 10 * 1000,  /* from the connection's or the last answer's end to a whole head */
    WRITE_MS = 30 * 1000, /* for the client to take an answer */
    LINGER_MS = 1000,
    BODY_BYTES_MAX = 16 << 20,
    HEADERS_BYTES = 512,
};

enum conn_state {
    CONN_READING,
    CONN_WRITING,
    CONN_LINGERING,
    CONN_CLOSING
};

/* thread: loop */
struct conn {
    struct med_http_server *server;
    struct conn *next, *prev; // in server->conns
    uv_tcp_t tcp;
    uv_timer_t timer;
    int handles_open;
    enum conn_state state;
    bool close_after;                // the answer being written is the last one
    struct med_buf answer_body;      // of the write in flight
    char answer_head[HEADERS_BYTES]; // of the write in flight
    uv_write_t write;
    uv_shutdown_t shutdown;
    size_t filled; // bytes in `in`
    char in[MED_LIMIT_HTTP_HEADER_BYTES];
    char scrap[4096]; // where bytes go that nobody reads
};

/* thread: loop */
struct med_http_server {
    pthread_t thread;
    uv_tcp_t listener;
    bool listening; // the listener handle is initialised
    bool closing;
    struct med_http_handler handler;
    struct conn *conns;
    int conn_count;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

static void conn_serve(struct conn *conn);

static void server_maybe_free(struct med_http_server *server)
{
    if (!server->closing || server->listening || server->conn_count > 0)
        return;
    void (*on_closed)(void *) = server->on_closed;
    void *arg = server->on_closed_arg;
    med_free(server);
    if (on_closed != NULL)
        on_closed(arg);
}

static void on_conn_handle_closed(uv_handle_t *handle)
{
    struct conn *conn = handle->data;
    if (--conn->handles_open > 0)
        return;
    struct med_http_server *server = conn->server;
    if (conn->prev != NULL) {
        conn->prev->next = conn->next;
    } else {
        server->conns = conn->next;
    }
    if (conn->next != NULL)
        conn->next->prev = conn->prev;
    server->conn_count--;
    med_buf_release(&conn->answer_body);
    med_free(conn);
    server_maybe_free(server);
}

static void conn_close(struct conn *conn)
{
    if (conn->state == CONN_CLOSING)
        return;
    conn->state = CONN_CLOSING;
    uv_close((uv_handle_t *)&conn->tcp, on_conn_handle_closed);
    uv_close((uv_handle_t *)&conn->timer, on_conn_handle_closed);
}

static const char *reason(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 400:
        return "Bad Request";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 408:
        return "Request Timeout";
    case 414:
        return "URI Too Long";
    case 431:
        return "Request Header Fields Too Large";
    case 503:
        return "Service Unavailable";
    case 505:
        return "HTTP Version Not Supported";
    default:
        return status < 500 ? "Client Error" : "Server Error";
    }
}

static void on_timer(uv_timer_t *timer);

static void timer_set(struct conn *conn, uint64_t ms)
{
    int rc = uv_timer_start(&conn->timer, on_timer, ms, 0);
    MED_ASSERT(rc == 0); // fails only for a closing handle or no callback
}

static void on_shutdown(uv_shutdown_t *request, int status)
{
    struct conn *conn = request->data;
    if (status < 0)
        conn_close(conn);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct conn *conn = handle->data;
    (void)suggested;
    if (conn->state == CONN_READING) {
        *buf = uv_buf_init(conn->in + conn->filled, (unsigned)(sizeof(conn->in) - conn->filled));
    } else {
        *buf = uv_buf_init(conn->scrap, sizeof(conn->scrap));
    }
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buf)
{
    struct conn *conn = stream->data;
    (void)buf;
    if (count < 0) {
        conn_close(conn);
    } else if (count > 0 && conn->state == CONN_READING) {
        conn->filled += (size_t)count;
        conn_serve(conn);
    }
}

static void on_written(uv_write_t *request, int status)
{
    struct conn *conn = request->data;
    if (status < 0 || conn->state != CONN_WRITING) {
        conn_close(conn);
        return;
    }
    med_buf_release(&conn->answer_body);
    if (conn->close_after) {
        conn->state = CONN_LINGERING;
        conn->shutdown.data = conn;
        timer_set(conn, LINGER_MS);
        if (uv_shutdown(&conn->shutdown, (uv_stream_t *)&conn->tcp, on_shutdown) < 0 ||
            uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read) < 0)
            conn_close(conn);
        return;
    }
    conn->state = CONN_READING;
    timer_set(conn, HEAD_MS);
    conn_serve(conn); // pipelined requests may be there already
    if (conn->state == CONN_READING &&
        uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read) < 0)
        conn_close(conn);
}

/* Takes over answer's body. */
static void conn_answer(struct conn *conn, struct med_http_answer *answer, bool is_head,
                        bool keep_alive)
{
    conn->state = CONN_WRITING;
    conn->close_after = !keep_alive;
    conn->answer_body = answer->body;
    int length = snprintf(conn->answer_head, sizeof(conn->answer_head),
                          "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
                          "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
                          "%sConnection: %s\r\n\r\n",
                          answer->status, reason(answer->status), answer->content_type,
                          answer->body.length, answer->status == 405 ? "Allow: GET, HEAD\r\n" : "",
                          keep_alive ? "keep-alive" : "close");
    MED_ASSERT(length > 0);
    MED_ASSERT((size_t)length < sizeof(conn->answer_head));
    uv_buf_t bufs[2] = {
        uv_buf_init(conn->answer_head, (unsigned)length),
        uv_buf_init(conn->answer_body.data, (unsigned)conn->answer_body.length),
    };
    unsigned count = is_head || conn->answer_body.length == 0 ? 1 : 2;
    conn->write.data = conn;
    timer_set(conn, WRITE_MS);
    (void)uv_read_stop((uv_stream_t *)&conn->tcp); // always succeeds
    if (uv_write(&conn->write, (uv_stream_t *)&conn->tcp, bufs, count, on_written) < 0)
        conn_close(conn);
}

/* An answer in the conventions' error form; on memory exhaustion the body stays empty. */
static void answer_error(struct med_http_answer *answer, int status, const char *message)
{
    answer->status = status;
    answer->content_type = "application/json";
    med_buf_clear(&answer->body);
    int rc =
        med_buf_printf(&answer->body,
                       "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,"
                       "\"code\":%d}}\n",
                       message, status < 500 ? "invalid_request_error" : "server_error", status);
    if (rc < 0)
        med_buf_clear(&answer->body);
}

static void conn_refuse(struct conn *conn, int status, const char *message)
{
    struct med_http_answer answer = {0};
    med_buf_init(&answer.body, BODY_BYTES_MAX);
    answer_error(&answer, status, message);
    conn_answer(conn, &answer, false, false);
}

static void conn_handle(struct conn *conn, const struct med_http_head *head)
{
    const struct med_http_handler *handler = &conn->server->handler;
    struct med_http_answer answer = {.status = 200, .content_type = "application/json"};
    med_buf_init(&answer.body, BODY_BYTES_MAX);
    int rc = handler->handle(handler->self, head->path, &answer);
    if (rc == MED_E_NOT_FOUND) {
        answer_error(&answer, 404, "this path is not served");
    } else if (rc < 0) {
        answer_error(&answer, med_err_http_status(rc), med_err_text(rc));
    }
    conn_answer(conn, &answer, head->is_head, head->keep_alive);
}

/* Answers the first whole head of `in`, if there is one. */
static void conn_serve(struct conn *conn)
{
    size_t used = med_http_head_bytes(conn->in, conn->filled);
    if (used == 0) {
        if (conn->filled == sizeof(conn->in))
            conn_refuse(conn, 431, "the header is larger than 16384 bytes");
        return;
    }
    struct med_http_head head;
    med_http_head_parse(conn->in, used, &head);
    conn->filled -= used;
    memmove(conn->in, conn->in + used, conn->filled);
    if (head.status != 0) {
        conn_refuse(conn, head.status, head.why);
    } else {
        conn_handle(conn, &head);
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct conn *conn = timer->data;
    /* An idle connection owes us nothing and is closed without a word. */
    if (conn->state == CONN_READING && conn->filled > 0) {
        conn_refuse(conn, 408, "the head did not arrive in time");
    } else {
        conn_close(conn);
    }
}

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

static void on_connection(uv_stream_t *listener, int status)
{
    struct med_http_server *server = listener->data;
    MED_ASSERT_THREAD(server->thread);
    if (status < 0) {
        MED_WARN("http: cannot accept a connection: %s", uv_strerror(status));
        return;
    }
    struct conn *conn = NULL;
    if (server->conn_count < MED_LIMIT_HTTP_CONNECTIONS)
        conn = med_calloc(1, sizeof(*conn));
    if (conn == NULL || uv_tcp_init(listener->loop, &conn->tcp) < 0) {
        med_free(conn);
        turn_away(listener);
        return;
    }
    (void)uv_timer_init(listener->loop, &conn->timer); // always succeeds
    conn->server = server;
    conn->handles_open = 2;
    conn->tcp.data = conn;
    conn->timer.data = conn;
    med_buf_init(&conn->answer_body, BODY_BYTES_MAX);
    conn->next = server->conns;
    if (conn->next != NULL)
        conn->next->prev = conn;
    server->conns = conn;
    server->conn_count++;
    if (uv_accept(listener, (uv_stream_t *)&conn->tcp) < 0 ||
        uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read) < 0) {
        conn_close(conn);
        return;
    }
    (void)uv_tcp_nodelay(&conn->tcp, 1); // only a matter of speed
    timer_set(conn, HEAD_MS);
}

int med_http_server_new(uv_loop_t *loop, const struct med_http_handler *handler,
                        struct med_http_server **ret_server)
{
    struct med_http_server *server = med_calloc(1, sizeof(*server));
    if (server == NULL)
        return MED_E_NOMEM;
    server->thread = pthread_self();
    server->handler = *handler;
    server->listener.loop = loop;
    *ret_server = server;
    return 0;
}

int med_http_server_listen(struct med_http_server *server, const struct sockaddr_storage *address,
                           struct med_err *err)
{
    MED_ASSERT(!server->listening);
    int rc = uv_tcp_init(server->listener.loop, &server->listener);
    if (rc < 0)
        return med_err_set(err, rc, "cannot make a socket: %s", uv_strerror(rc));
    server->listening = true; // from here on close() must close the handle
    server->listener.data = server;
    rc = uv_tcp_bind(&server->listener, (const struct sockaddr *)address, 0);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&server->listener, BACKLOG, on_connection);
    if (rc < 0)
        return med_err_set(err, rc, "cannot listen: %s", uv_strerror(rc));
    return 0;
}

void med_http_server_address(const struct med_http_server *server,
                             struct sockaddr_storage *ret_address)
{
    int bytes = sizeof(*ret_address);
    *ret_address = (struct sockaddr_storage){0};
    int rc = uv_tcp_getsockname(&server->listener, (struct sockaddr *)ret_address, &bytes);
    MED_ASSERT(rc == 0); // asked of a listening socket only
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct med_http_server *server = handle->data;
    server->listening = false;
    server_maybe_free(server);
}

void med_http_server_close(struct med_http_server *server, void (*on_closed)(void *arg), void *arg)
{
    if (server == NULL)
        return;
    MED_ASSERT_THREAD(server->thread);
    MED_ASSERT(!server->closing);
    server->closing = true;
    server->on_closed = on_closed;
    server->on_closed_arg = arg;
    for (struct conn *conn = server->conns; conn != NULL; conn = conn->next)
        conn_close(conn);
    if (server->listening) {
        uv_close((uv_handle_t *)&server->listener, on_listener_closed);
    } else {
        server_maybe_free(server);
    }
}
