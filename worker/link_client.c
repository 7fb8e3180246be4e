/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One link of a worker to one router (see link_client.h; docs/internals/link.md for the protocol).
 *
 * States: WAITING (a pause before dialling) -> RESOLVING -> CONNECTING -> GREETING (Hello sent) ->
 * UP -> CLOSING, and back to WAITING or, when the link is to stop, to the end.  One timer guards
 * whichever state it is (the pause, or how long resolving, connecting and greeting may take); a
 * second one paces Stats.  Each dial has its own connection object, so that a handle that is still
 * closing never meets the next attempt.
 *
 * Writing: frames are appended to `out`; a flush swaps it with `writing` and writes that whole
 * buffer at once; while a write is under way frames gather in `out`.  Both together are bounded.
 *
 * thread: loop.  Logs connection events, since nobody above it would.  Does not know sequences.
 */
#include "worker/link_internal.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/limits.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PAUSE_FIRST_MS = 100, /* before the second dial; doubles */
    PAUSE_MAX_MS = 5000,
    DIAL_MS = 5000,   /* for resolving and connecting */
    GREET_MS = 5000,  /* for the Welcome */
    LINGER_MS = 1000, /* for a stopping link's last bytes */
    KEEPALIVE_S = 15,
    HOST_BYTES = 256,
    PORT_BYTES = 8,
};

static void dial(struct med_uplink *link);
static void reset(struct med_uplink *link, const char *why);
static void on_timer(uv_timer_t *timer);

/* ---- addresses ------------------------------------------------------------------------------ */

static bool is_unix(const char *address)
{
    return strncmp(address, "unix:", 5) == 0;
}

/* Splits HOST:PORT or [HOST]:PORT. */
static bool split(const char *address, char host[HOST_BYTES], char port[PORT_BYTES])
{
    const char *colon = strrchr(address, ':');
    if (!colon)
        return false;
    const char *begin = address, *end = colon;
    if (*begin == '[') {
        begin++;
        if (end <= begin || end[-1] != ']')
            return false;
        end--;
    } else if (memchr(begin, ':', (size_t)(end - begin))) {
        return false; /* an IPv6 address needs brackets */
    }
    size_t host_bytes = (size_t)(end - begin), port_bytes = strlen(colon + 1);
    if (host_bytes == 0 || host_bytes >= HOST_BYTES || port_bytes == 0 || port_bytes > 5)
        return false;
    if (strspn(colon + 1, "0123456789") != port_bytes)
        return false;
    long number = strtol(colon + 1, NULL, 10);
    memcpy(host, begin, host_bytes);
    host[host_bytes] = '\0';
    memcpy(port, colon + 1, port_bytes + 1);
    return number >= 1 && number <= 65535;
}

int med_uplink_check_address(const char *address, struct med_err *err)
{
    char host[HOST_BYTES], port[PORT_BYTES];
    if (is_unix(address)) {
        size_t bytes = strlen(address + 5);
        if (bytes > 0 && bytes < 104)
            return 0;
    } else if (split(address, host, port)) {
        return 0;
    }
    return med_err_set(err, MED_E_USAGE,
                       "--router %s: expected HOST:PORT (an IPv6 address in brackets) or "
                       "unix:/path of at most 103 bytes",
                       address);
}

/* ---- writing and reading -------------------------------------------------------------------------------- */

static void on_written(void *owner, int status)
{
    struct med_uplink_connection *connection = owner;
    struct med_uplink *link = connection->link;
    connection->write_busy = false;
    if (!link || link->connection != connection)
        return; /* closing */
    if (status < 0) {
        reset(link, med_stream_why(&connection->stream, status));
        return;
    }
    med_buf_clear(&connection->writing);
    if (link->stopping && link->out.length == 0) {
        reset(link, NULL);
    } else {
        med_uplink_flush(link);
    }
}

void med_uplink_flush(struct med_uplink *link)
{
    struct med_uplink_connection *connection = link->connection;
    if (!connection ||
        (link->state != MED_UPLINK_STATE_GREETING && link->state != MED_UPLINK_STATE_UP))
        return;
    if (link->doomed < 0) {
        reset(link, link->doom_err.text);
        return;
    }
    if (connection->write_busy || link->out.length == 0)
        return;
    struct med_buf swap = connection->writing;
    connection->writing = link->out;
    link->out = swap;
    uv_buf_t buf = uv_buf_init(connection->writing.data, (unsigned int)connection->writing.length);
    int rc = med_stream_write(&connection->stream, &buf, 1);
    if (rc < 0) {
        reset(link, med_stream_why(&connection->stream, rc));
        return;
    }
    connection->write_busy = true;
}

void med_uplink_set_up(struct med_uplink *link, uint32_t stats_interval_ms)
{
    link->state = MED_UPLINK_STATE_UP;
    link->pause_ms = PAUSE_FIRST_MS;
    link->complaint[0] = '\0';
    (void)uv_timer_stop(&link->timer);
    MED_INFO("router %s: connected", link->config.address);
    med_uplink_put_stats(link);
    link->stats_interval_ns = (int64_t)stats_interval_ms * MED_NS_PER_MS;
    link->stats_next_ns = med_clock_now_ns(link->config.clock) + link->stats_interval_ns;
    uint64_t wait_ms = med_clock_real_ms_until(link->config.clock, link->stats_next_ns);
    if (stats_interval_ms > 0)
        (void)uv_timer_start(&link->stats_timer, on_timer, wait_ms, 0);
}

static uv_buf_t on_alloc(void *owner)
{
    struct med_uplink_connection *connection = owner;
    return uv_buf_init(connection->read_bytes, MED_UPLINK_READ_BYTES);
}

static void on_read(void *owner, ssize_t count, const char *bytes)
{
    struct med_uplink_connection *connection = owner;
    struct med_uplink *link = connection->link;
    struct med_err err;
    if (!link || link->connection != connection)
        return;
    if (count < 0) {
        reset(link, count == UV_EOF ? "the router closed the connection"
                                    : med_stream_why(&connection->stream, (int)count));
        return;
    }
    if (med_uplink_take_bytes(link, bytes, (size_t)count, &err) < 0) {
        reset(link, err.text);
    } else {
        med_uplink_flush(link);
    }
}

/* ---- the connection's life ------------------------------------------------------------------ */

static void stop_timers_closed(uv_handle_t *handle)
{
    struct med_uplink *link = handle->data;
    if (--link->timers_open > 0)
        return;
    link->config.ops.on_stopped(link->config.ops.arg, link);
    med_frame_reader_release(&link->reader);
    med_buf_release(&link->out);
    med_free(link);
}

static void end_link(struct med_uplink *link)
{
    if (link->state == MED_UPLINK_STATE_STOPPED)
        return;
    MED_ASSERT(!link->connection);
    link->state = MED_UPLINK_STATE_STOPPED;
    uv_close((uv_handle_t *)&link->timer, stop_timers_closed);
    uv_close((uv_handle_t *)&link->stats_timer, stop_timers_closed);
}

/* Waits, then dials again; or ends. */
static void wait_or_end(struct med_uplink *link)
{
    (void)uv_timer_stop(&link->timer);
    (void)uv_timer_stop(&link->stats_timer);
    if (link->stopping) {
        end_link(link);
        return;
    }
    /* Half of the pause is random, so that a fleet does not dial in step. */
    double pause_ms = (double)link->pause_ms * (0.5 + 0.5 * med_rng_uniform(&link->rng));
    link->pause_ms = link->pause_ms * 2 < PAUSE_MAX_MS ? link->pause_ms * 2 : PAUSE_MAX_MS;
    link->state = MED_UPLINK_STATE_WAITING;
    (void)uv_timer_start(&link->timer, on_timer, (uint64_t)pause_ms, 0);
}

static void on_connection_closed(void *owner)
{
    struct med_uplink_connection *connection = owner;
    struct med_uplink *link = connection->link;
    med_buf_release(&connection->writing);
    med_free(connection);
    link->connection = NULL;
    wait_or_end(link);
}

/* Logs why a connection ended, unless the one before ended alike. */
static void complain(struct med_uplink *link, const char *why)
{
    if (strncmp(link->complaint, why, sizeof link->complaint - 1) == 0)
        return;
    (void)snprintf(link->complaint, sizeof link->complaint, "%s", why);
    MED_WARN("router %s: %s; dialling again", link->config.address, why);
}

/* Ends the connection; why: NULL for an orderly end. */
static void reset(struct med_uplink *link, const char *why)
{
    struct med_uplink_connection *connection = link->connection;
    bool was_up = link->state == MED_UPLINK_STATE_UP;
    if (link->state == MED_UPLINK_STATE_CLOSING)
        return;
    if (why && !link->stopping)
        complain(link, why);
    link->state = MED_UPLINK_STATE_CLOSING;
    (void)uv_timer_stop(&link->timer);
    (void)uv_timer_stop(&link->stats_timer);
    med_buf_clear(&link->out);
    link->doomed = 0;
    if (was_up)
        link->config.ops.on_lost(link->config.ops.arg, link);
    if (connection) {
        med_stream_close(&connection->stream);
    } else {
        wait_or_end(link);
    }
}

static const struct med_stream_ops stream_ops = {.on_alloc = on_alloc,
                                                 .on_read = on_read,
                                                 .on_written = on_written,
                                                 .on_closed = on_connection_closed};

/* A Unix socket never leaves the machine: it needs no TLS. */
static int secure(struct med_uplink *link, struct med_uplink_connection *connection)
{
    char host[HOST_BYTES], port[PORT_BYTES];
    if (is_unix(link->config.address) || !link->config.tls)
        return 0;
    bool good = split(link->config.address, host, port);
    MED_ASSERT(good);
    return med_stream_set_tls(&connection->stream, link->config.tls, host);
}

static void on_connected(uv_connect_t *request, int status)
{
    struct med_uplink_connection *connection = request->data;
    struct med_uplink *link = connection->link;
    if (status == UV_ECANCELED || link->state != MED_UPLINK_STATE_CONNECTING)
        return; /* closing */
    if (status == 0)
        status = secure(link, connection);
    if (status < 0) {
        reset(link, med_stream_why(&connection->stream, status));
        return;
    }
    if (!is_unix(link->config.address)) {
        (void)uv_tcp_nodelay(&connection->stream.uv.tcp, 1); /* slower without, not wrong */
        (void)uv_tcp_keepalive(&connection->stream.uv.tcp, 1, KEEPALIVE_S);
    }
    link->state = MED_UPLINK_STATE_GREETING;
    med_frame_reader_release(&link->reader);
    med_frame_reader_init(&link->reader);
    med_buf_clear(&link->out);
    (void)uv_timer_start(&link->timer, on_timer, GREET_MS, 0);
    med_uplink_put_hello(link);
    med_uplink_flush(link);
    if (link->state != MED_UPLINK_STATE_GREETING)
        return; /* it could not be written */
    int rc = med_stream_read_start(&connection->stream);
    if (rc < 0)
        reset(link, med_stream_why(&connection->stream, rc));
}

static void connect_to(struct med_uplink *link, const struct sockaddr *address)
{
    struct med_uplink_connection *connection = med_calloc(1, sizeof *connection);
    if (!connection) {
        reset(link, med_err_text(MED_E_NOMEM));
        return;
    }
    int rc =
        med_stream_init(&connection->stream, link->loop, address != NULL, &stream_ops, connection);
    if (rc < 0) {
        med_free(connection);
        reset(link, uv_strerror(rc));
        return;
    }
    connection->link = link;
    connection->connect.data = connection;
    med_buf_init(&connection->writing, link->out.max_bytes);
    link->connection = connection;
    link->state = MED_UPLINK_STATE_CONNECTING;
    if (address) {
        rc =
            uv_tcp_connect(&connection->connect, &connection->stream.uv.tcp, address, on_connected);
        if (rc < 0)
            reset(link, uv_strerror(rc));
    } else {
        uv_pipe_connect(&connection->connect, &connection->stream.uv.pipe, link->config.address + 5,
                        on_connected);
    }
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *result)
{
    struct med_uplink *link = request->data;
    if (status < 0 || link->stopping) {
        reset(link, status < 0 ? uv_strerror(status) : NULL);
    } else {
        connect_to(link, result->ai_addr);
    }
    uv_freeaddrinfo(result);
}

static void dial(struct med_uplink *link)
{
    char host[HOST_BYTES], port[PORT_BYTES];
    if (is_unix(link->config.address)) {
        (void)uv_timer_start(&link->timer, on_timer, DIAL_MS, 0);
        connect_to(link, NULL);
        return;
    }
    bool good = split(link->config.address, host, port);
    MED_ASSERT(good);
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_protocol = IPPROTO_TCP};
    link->state = MED_UPLINK_STATE_RESOLVING;
    link->resolve.data = link;
    int rc = uv_getaddrinfo(link->loop, &link->resolve, on_resolved, host, port, &hints);
    if (rc < 0) {
        reset(link, uv_strerror(rc));
        return;
    }
    (void)uv_timer_start(&link->timer, on_timer, DIAL_MS, 0);
}

static void on_stats_timer(struct med_uplink *link)
{
    int64_t now_ns = med_clock_now_ns(link->config.clock);
    if (now_ns >= link->stats_next_ns) {
        med_uplink_put_stats(link);
        link->stats_next_ns += link->stats_interval_ns;
        if (link->stats_next_ns <= now_ns)
            link->stats_next_ns = now_ns + link->stats_interval_ns;
    }
    uint64_t wait_ms = med_clock_real_ms_until(link->config.clock, link->stats_next_ns);
    (void)uv_timer_start(&link->stats_timer, on_timer, wait_ms, 0);
    med_uplink_flush(link);
}

static void on_timer(uv_timer_t *timer)
{
    struct med_uplink *link = timer->data;
    if (timer == &link->stats_timer) {
        on_stats_timer(link);
        return;
    }
    switch (link->state) {
    case MED_UPLINK_STATE_WAITING:
        dial(link);
        break;
    case MED_UPLINK_STATE_RESOLVING:
        /* Its callback follows, with UV_ECANCELED; a lookup under way cannot be cancelled, and its
         * result is then waited for. */
        (void)uv_cancel((uv_req_t *)&link->resolve);
        break;
    case MED_UPLINK_STATE_CONNECTING:
        reset(link, "it did not answer the dial in time");
        break;
    case MED_UPLINK_STATE_GREETING:
        reset(link, med_stream_is_ready(&link->connection->stream)
                        ? "it did not send Welcome in time"
                        : "it did not finish the TLS handshake in time");
        break;
    case MED_UPLINK_STATE_UP: /* a stopping link that lingers */
        reset(link, NULL);
        break;
    case MED_UPLINK_STATE_CLOSING:
    case MED_UPLINK_STATE_STOPPED:
        break;
    }
}

int med_uplink_new(uv_loop_t *loop, const struct med_uplink_config *config,
                   struct med_uplink **ret_link, struct med_err *err)
{
    int rc = med_uplink_check_address(config->address, err);
    if (rc < 0)
        return rc;
    struct med_uplink *link = med_calloc(1, sizeof *link);
    if (!link)
        return med_err_set(err, MED_E_NOMEM, "router %s: no memory for a link", config->address);
    link->config = *config;
    link->loop = loop;
    link->pause_ms = PAUSE_FIRST_MS;
    link->state = MED_UPLINK_STATE_WAITING;
    link->timers_open = 2;
    med_frame_reader_init(&link->reader);
    /* One frame may begin when the limit is all but reached. */
    med_buf_init(&link->out, MED_LIMIT_LINK_REPLY_BYTES + MED_LIMIT_FRAME_BYTES);
    med_rng_init(&link->rng, config->seed, 0x6c696e6b);
    MED_ASSERT(uv_timer_init(loop, &link->timer) == 0);
    MED_ASSERT(uv_timer_init(loop, &link->stats_timer) == 0);
    link->timer.data = link->stats_timer.data = link;
    MED_ASSERT(uv_timer_start(&link->timer, on_timer, 0, 0) == 0);
    *ret_link = link;
    return 0;
}

void med_uplink_stop(struct med_uplink *link)
{
    if (link->stopping)
        return;
    link->stopping = true;
    switch (link->state) {
    case MED_UPLINK_STATE_WAITING:
        end_link(link);
        break;
    case MED_UPLINK_STATE_RESOLVING:
        (void)uv_cancel((uv_req_t *)&link->resolve);
        break;
    case MED_UPLINK_STATE_CONNECTING:
    case MED_UPLINK_STATE_GREETING:
        reset(link, NULL);
        break;
    case MED_UPLINK_STATE_UP:
        med_uplink_flush(link);
        if (link->state == MED_UPLINK_STATE_UP && !link->connection->write_busy) {
            reset(link, NULL);
        } else if (link->state == MED_UPLINK_STATE_UP) {
            (void)uv_timer_start(&link->timer, on_timer, LINGER_MS, 0);
        }
        break;
    case MED_UPLINK_STATE_CLOSING:
    case MED_UPLINK_STATE_STOPPED:
        break;
    }
}

void med_uplink_finish(struct med_uplink *link)
{
    MED_INFO("router %s: drained, closing", link->config.address);
    med_uplink_stop(link);
}

void *med_uplink_user(const struct med_uplink *link)
{
    return link->config.user;
}

const char *med_uplink_address(const struct med_uplink *link)
{
    return link->config.address;
}

bool med_uplink_is_up(const struct med_uplink *link)
{
    return link->state == MED_UPLINK_STATE_UP;
}
