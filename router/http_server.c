/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP server's life, see http_server.h: its listener, and what it does for all connections at once.
 *
 * A prepare handle runs before the loop sleeps and sends what connections have gathered, so that events of one
 * turn go out in one write.  One timer sweeps all connections for deadlines; a deadline is thus kept to within
 * SWEEP_MS, and costs a request nothing.
 *
 * Runs on the loop.
 */
#include "router/http_server.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/log.h"
#include "router/http_server_internal.h"

#include <stdio.h>
#include <string.h>

enum {
    BACKLOG = 1024,
    SWEEP_MS = 250,
    PUT_OFF_MS = 10,
    PUT_OFFS_MAX = 4 /* one behind another: a loop that is always late sweeps, too */
};

void med_http_server_maybe_free(struct med_http_server *server)
{
    if (!server->closing || server->handles_open > 0 || server->listening ||
        server->stats.connections > 0)
        return;
    void (*on_closed)(void *) = server->on_closed;
    void *arg = server->on_closed_arg;
    med_free(server);
    if (on_closed != NULL)
        on_closed(arg);
}

const char *med_http_server_date(struct med_http_server *server)
{
    time_t now = time(NULL);
    struct tm parts;
    if (now != server->date_s && gmtime_r(&now, &parts) != NULL) {
        static const char *days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
        static const char *months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
        (void)snprintf(server->date, sizeof server->date, "%s, %02d %s %d %02d:%02d:%02d GMT",
                       days[parts.tm_wday], parts.tm_mday, months[parts.tm_mon],
                       parts.tm_year + 1900, parts.tm_hour, parts.tm_min, parts.tm_sec);
        server->date_s = now;
    }
    return server->date;
}

static void on_flush(uv_prepare_t *prepare)
{
    struct med_http_server *server = prepare->data;
    while (server->to_flush != NULL) {
        struct med_http_conn *conn = server->to_flush;
        server->to_flush = conn->flush_next;
        conn->flush_listed = false;
        med_http_conn_flush(conn);
    }
}

static void on_sweep(uv_timer_t *timer)
{
    struct med_http_server *server = timer->data;
    uint64_t now_ms = uv_now(timer->loop);
    struct med_http_conn *next;
    /* This process stood still: what clients have sent or taken meanwhile is looked at first. */
    bool late = now_ms - server->swept_ms > UINT64_C(3) * SWEEP_MS;
    server->swept_ms = now_ms;
    if (late && server->put_offs < PUT_OFFS_MAX) {
        server->put_offs++;
        (void)uv_timer_start(timer, on_sweep, PUT_OFF_MS, SWEEP_MS);
        return;
    }
    server->put_offs = 0;
    for (struct med_http_conn *conn = server->conns; conn != NULL; conn = next) {
        next = conn->next;
        if (conn->deadline_ms <= now_ms) {
            med_http_conn_expire(conn);
        } else if (med_http_conn_is_idle(conn)) {
            med_http_conn_rest(conn);
        }
    }
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct med_http_server *server = listener->data;
    MED_ASSERT_THREAD(server->thread);
    if (status < 0) {
        MED_WARN("http: cannot accept a connection: %s", uv_strerror(status));
    } else {
        med_http_conn_accept(server);
    }
}

int med_http_server_new(uv_loop_t *loop, const struct med_http_handler *handler,
                        size_t connections_max, struct med_http_server **ret_server)
{
    struct med_http_server *server = med_calloc(1, sizeof(*server));
    if (server == NULL)
        return MED_E_NOMEM;
    server->thread = pthread_self();
    server->handler = *handler;
    server->connections_max = connections_max > 0 && connections_max < MED_LIMIT_HTTP_CONNECTIONS
                                  ? connections_max
                                  : (size_t)MED_LIMIT_HTTP_CONNECTIONS;
    server->listener.loop = loop;
    *ret_server = server;
    return 0;
}

void med_http_server_set_tls(struct med_http_server *server, struct med_tls *tls)
{
    MED_ASSERT(!server->listening);
    server->tls = tls;
}

/* Handles that do not keep the loop alive by themselves; they are closed with the server. */
static void helpers_start(struct med_http_server *server)
{
    uv_loop_t *loop = server->listener.loop;
    (void)uv_prepare_init(loop, &server->flush); // these five always succeed
    (void)uv_timer_init(loop, &server->sweep);
    server->flush.data = server->sweep.data = server;
    (void)uv_prepare_start(&server->flush, on_flush);
    (void)uv_timer_start(&server->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
    server->swept_ms = uv_now(server->sweep.loop);
    uv_unref((uv_handle_t *)&server->flush);
    uv_unref((uv_handle_t *)&server->sweep);
    server->handles_open = 2;
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
    helpers_start(server);
    rc = uv_tcp_bind(&server->listener, (const struct sockaddr *)address, 0);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&server->listener, BACKLOG, on_connection);
    if (rc < 0)
        return med_err_set(err, rc, "cannot listen: %s", uv_strerror(rc));
    return 0;
}

int med_http_server_adopt(struct med_http_server *server, int fd, struct med_err *err)
{
    MED_ASSERT(!server->listening);
    int rc = uv_tcp_init(server->listener.loop, &server->listener);
    if (rc < 0)
        return med_err_set(err, rc, "cannot make a socket: %s", uv_strerror(rc));
    server->listening = true;
    server->listener.data = server;
    helpers_start(server);
    rc = uv_tcp_open(&server->listener, fd);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&server->listener, BACKLOG, on_connection);
    return rc < 0 ? med_err_set(err, rc, "cannot listen: %s", uv_strerror(rc)) : 0;
}

int med_http_server_fd(const struct med_http_server *server)
{
    uv_os_fd_t fd = -1;
    if (!server->listening || uv_fileno((const uv_handle_t *)&server->listener, &fd) < 0)
        return -1;
    return fd;
}

size_t med_http_server_connections(const struct med_http_server *server)
{
    return server->stats.connections;
}

void med_http_server_address(const struct med_http_server *server,
                             struct sockaddr_storage *ret_address)
{
    int bytes = sizeof(*ret_address);
    *ret_address = (struct sockaddr_storage){0};
    int rc = uv_tcp_getsockname(&server->listener, (struct sockaddr *)ret_address, &bytes);
    MED_ASSERT(rc == 0); // asked of a listening socket only
}

void med_http_server_get_stats(const struct med_http_server *server,
                               struct med_http_server_stats *ret_stats)
{
    *ret_stats = server->stats;
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct med_http_server *server = handle->data;
    server->listening = false;
    med_http_server_maybe_free(server);
}

static void on_helper_closed(uv_handle_t *handle)
{
    struct med_http_server *server = handle->data;
    server->handles_open--;
    med_http_server_maybe_free(server);
}

void med_http_server_drain(struct med_http_server *server)
{
    MED_ASSERT_THREAD(server->thread);
    if (server->draining || server->closing)
        return;
    server->draining = true;
    if (server->listening && !server->retired)
        uv_close((uv_handle_t *)&server->listener, on_listener_closed);
    for (struct med_http_conn *conn = server->conns; conn != NULL; conn = conn->next) {
        conn->ends = true;
        if (med_http_conn_is_idle(conn))
            med_http_conn_close(conn);
    }
}

void med_http_server_retire(struct med_http_server *server)
{
    MED_ASSERT_THREAD(server->thread);
    if (server->retired || server->draining || server->closing)
        return;
    server->retired = true;
    if (server->listening)
        uv_close((uv_handle_t *)&server->listener, on_listener_closed);
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
    for (struct med_http_conn *conn = server->conns; conn != NULL; conn = conn->next)
        med_http_conn_close(conn);
    if (server->listening && !server->draining && !server->retired)
        uv_close((uv_handle_t *)&server->listener, on_listener_closed);
    if (server->handles_open > 0) {
        uv_close((uv_handle_t *)&server->flush, on_helper_closed);
        uv_close((uv_handle_t *)&server->sweep, on_helper_closed);
    }
    med_http_server_maybe_free(server);
}
