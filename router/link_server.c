/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker links on libuv, see link_server.h.
 *
 * A link is GREETING (no Hello yet), OPEN or CLOSING.  Frames to a worker gather in `out`; when no
 * write is on its way, `out` becomes the write and a new `out` is begun, so that one write is out at
 * a time and what comes meanwhile goes together.  A refused worker gets its Welcome with the reason
 * before the connection is closed.
 *
 * Closing is always finished from the close callback, so the owner hears of a lost worker from the
 * loop and never from inside a send.  Runs on the loop. It knows nothing of dispatch.
 */
#include "router/link_server.h"

#include "base/alloc.h"
#include "base/log.h"
#include "base/thread.h"
#include "router/link_server_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    BACKLOG = 1024,
    BURST_BYTES = 256 << 10 /* a write buffer that grew beyond is given back */
};

/* ---- the end of links and server ---- */

static void server_maybe_free(struct med_link_server *server)
{
    if (!server->closing || server->listeners_open > 0 || server->link_count > 0)
        return;
    void (*on_closed)(void *) = server->on_closed;
    void *arg = server->on_closed_arg;
    med_free(server->pipe_path);
    med_free(server->logprobs);
    med_free(server);
    if (on_closed != NULL)
        on_closed(arg);
}

static void link_part_closed(struct med_link *link)
{
    struct med_link_server *server = link->server;
    if (--link->handles_open > 0)
        return;
    if (link->prev != NULL) {
        link->prev->next = link->next;
    } else {
        server->links = link->next;
    }
    if (link->next != NULL)
        link->next->prev = link->prev;
    server->link_count--;
    if (link->welcomed)
        server->ops.closed(server->ops.self, link, link->reason);
    med_frame_reader_release(&link->reader);
    med_buf_release(&link->out);
    med_buf_release(&link->on_way);
    med_free(link);
    server_maybe_free(server);
}

static void on_stream_closed(void *owner)
{
    link_part_closed(owner);
}

static void on_timer_closed(uv_handle_t *handle)
{
    link_part_closed(handle->data);
}

void med_link_end(struct med_link *link, const char *fmt, ...)
{
    if (link->state == LINK_CLOSING)
        return;
    if (link->state != LINK_GOODBYE) {
        va_list args;
        va_start(args, fmt);
        (void)vsnprintf(link->reason, sizeof(link->reason), fmt, args);
        va_end(args);
    }
    if (!link->welcomed)
        MED_WARN("link %s: closed before it was opened: %s", link->peer, link->reason);
    link->state = LINK_CLOSING;
    med_stream_close(&link->stream);
    uv_close((uv_handle_t *)&link->timer, on_timer_closed);
}

void med_link_broken(struct med_link *link, const char *why)
{
    if (link->state == LINK_CLOSING)
        return;
    link->server->broken++;
    med_link_end(link, "the worker broke the protocol: %s", why);
}

/* ---- writing ---- */

static void on_written(void *owner, int status)
{
    struct med_link *link = owner;
    link->writing = false;
    if (link->state == LINK_CLOSING)
        return;
    if (status < 0) {
        med_link_end(link, "a write failed: %s", med_stream_why(&link->stream, status));
        return;
    }
    if (link->on_way.capacity > BURST_BYTES)
        med_buf_release(&link->on_way);
    if (link->state == LINK_GOODBYE && link->out.length == 0) {
        med_link_end(link, "refused");
    } else {
        med_link_flush(link);
    }
}

/* What the socket takes of `out` without a turn of the loop; true: all of it.  Failures are left to
 * the write that follows. */
static bool sent_at_once(struct med_link *link)
{
    uv_buf_t buf = uv_buf_init(link->out.data, (unsigned)link->out.length);
    int sent = med_stream_try_write(&link->stream, &buf, 1);
    if (sent <= 0)
        return false;
    med_buf_consume(&link->out, (size_t)sent);
    if (link->out.length > 0)
        return false;
    if (link->out.capacity > BURST_BYTES)
        med_buf_release(&link->out);
    return true;
}

void med_link_flush(struct med_link *link)
{
    if (link->writing || link->corked || link->state == LINK_CLOSING || link->out.length == 0)
        return;
    if (link->state == LINK_OPEN && sent_at_once(link))
        return;
    struct med_buf written = link->on_way;
    link->on_way = link->out;
    link->out = written;
    med_buf_clear(&link->out);
    uv_buf_t buf = uv_buf_init(link->on_way.data, (unsigned)link->on_way.length);
    link->writing = true;
    int rc = med_stream_write(&link->stream, &buf, 1);
    if (rc < 0) {
        link->writing = false;
        med_link_end(link, "a write failed: %s", med_stream_why(&link->stream, rc));
    }
}

size_t med_link_unsent(const struct med_link *link)
{
    return link->out.length + (link->writing ? link->on_way.length : 0);
}

int med_link_frame_send(struct med_link *link, const Medley__Link__Frame *frame, size_t reserve)
{
    if (link->state == LINK_CLOSING)
        return MED_E_CANCELLED;
    size_t bytes = medley__link__frame__get_packed_size(frame);
    if (med_link_unsent(link) + bytes > MED_LIMIT_LINK_WRITE_BYTES + reserve)
        return MED_E_AGAIN;
    int rc = med_frame_write(&link->out, frame);
    if (rc < 0)
        return rc;
    link->frames_out++;
    med_link_flush(link);
    return 0;
}

/* ---- timers ---- */

void med_link_on_patience_over(uv_timer_t *timer)
{
    struct med_link *link = timer->data;
    med_link_end(link, "no %s within %" PRIu64 " ms",
                 med_stream_is_ready(&link->stream) ? "Hello" : "TLS handshake",
                 link->server->config.hello_timeout_ms);
}

void med_link_timer_set(struct med_link *link, uv_timer_cb callback, uint64_t ms,
                        uint64_t repeat_ms)
{
    int rc = uv_timer_start(&link->timer, callback, ms, repeat_ms);
    MED_ASSERT(rc == 0);
}

/* ---- reading ---- */

static uv_buf_t on_alloc(void *owner)
{
    struct med_link *link = owner;
    return uv_buf_init(link->server->in, sizeof(link->server->in));
}

static void on_read(void *owner, ssize_t count, const char *bytes)
{
    struct med_link *link = owner;
    struct med_err err = {0};
    if (count < 0) {
        if (link->reader.buf.length > link->reader.start) {
            med_link_broken(link, "the connection ended in the middle of a frame");
        } else {
            med_link_end(link, "%s",
                         count == UV_EOF ? "the worker closed the connection"
                                         : med_stream_why(&link->stream, (int)count));
        }
        return;
    }
    int rc = med_frame_reader_feed(&link->reader, bytes, (size_t)count, &err);
    while (rc >= 0 && (link->state == LINK_GREETING || link->state == LINK_OPEN)) {
        Medley__Link__Frame *frame = NULL;
        rc = med_frame_reader_next(&link->reader, &frame, &err);
        if (rc <= 0)
            break;
        med_link_on_frame(link, frame);
        med_frame_free(frame);
    }
    if (rc < 0)
        med_link_broken(link, err.text);
}

static const struct med_stream_ops stream_ops = {.on_alloc = on_alloc,
                                                 .on_read = on_read,
                                                 .on_written = on_written,
                                                 .on_closed = on_stream_closed};

/* ---- accepting ---- */

static void on_scrap_closed(uv_handle_t *handle)
{
    med_free(handle);
}

static int socket_init(uv_stream_t *listener, uv_tcp_t *tcp, uv_pipe_t *pipe)
{
    return listener->type == UV_TCP ? uv_tcp_init(listener->loop, tcp)
                                    : uv_pipe_init(listener->loop, pipe, 0);
}

/* Takes one connection off the listen queue and closes it: the table or memory is full. */
static void turn_away(uv_stream_t *listener)
{
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } *scrap = med_alloc(sizeof(*scrap));
    if (scrap == NULL || socket_init(listener, &scrap->tcp, &scrap->pipe) < 0) {
        med_free(scrap);
        return;
    }
    (void)uv_accept(listener, &scrap->stream); // closed in either case
    uv_close(&scrap->handle, on_scrap_closed);
}

static void peer_name(struct med_link *link, bool is_tcp)
{
    struct sockaddr_storage address = {0};
    int bytes = sizeof(address);
    if (is_tcp &&
        uv_tcp_getpeername(&link->stream.uv.tcp, (struct sockaddr *)&address, &bytes) == 0) {
        med_net_format(&address, link->peer);
    } else {
        (void)snprintf(link->peer, sizeof(link->peer), "%s", is_tcp ? "tcp" : "unix");
    }
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct med_link_server *server = ((struct link_listener *)listener->data)->server;
    MED_ASSERT_THREAD(server->thread);
    if (status < 0) {
        MED_WARN("link: cannot accept a connection: %s", uv_strerror(status));
        return;
    }
    struct med_link *link = NULL;
    if (server->link_count < MED_LIMIT_LINKS)
        link = med_calloc(1, sizeof(*link));
    bool is_tcp = listener->type == UV_TCP;
    if (link == NULL ||
        med_stream_init(&link->stream, server->loop, is_tcp, &stream_ops, link) < 0) {
        MED_WARN("link: a connection is turned away: %zu links are open", server->link_count);
        med_free(link);
        turn_away(listener);
        return;
    }
    (void)uv_timer_init(server->loop, &link->timer); // always succeeds
    link->server = server;
    link->handles_open = 2;
    link->timer.data = link;
    link->round_trip_s = -1;
    med_frame_reader_init(&link->reader);
    size_t out_max = (size_t)2 * (MED_LIMIT_LINK_WRITE_BYTES + LINK_SMALL_RESERVE_BYTES);
    med_buf_init(&link->out, out_max); // frame_send keeps the tighter limit on both together
    med_buf_init(&link->on_way, out_max);
    link->next = server->links;
    if (link->next != NULL)
        link->next->prev = link;
    server->links = link;
    server->link_count++;
    int rc = uv_accept(listener, &link->stream.uv.stream);
    peer_name(link, is_tcp);
    /* A Unix socket never leaves the machine: it needs no TLS. */
    if (rc == 0)
        rc = med_stream_set_tls(&link->stream, is_tcp ? server->config.tls : NULL, NULL);
    if (rc < 0) {
        med_link_end(link, "cannot be accepted: %s", med_stream_why(&link->stream, rc));
        return;
    }
    if (is_tcp)
        (void)uv_tcp_nodelay(&link->stream.uv.tcp, 1); // only a matter of speed
    med_link_timer_set(link, med_link_on_patience_over, server->config.hello_timeout_ms, 0);
    rc = med_stream_read_start(&link->stream);
    if (rc < 0)
        med_link_end(link, "cannot be read: %s", med_stream_why(&link->stream, rc));
}

/* ---- life ---- */

int med_link_server_new(uv_loop_t *loop, const struct med_link_ops *ops,
                        const struct med_link_server_config *config,
                        struct med_link_server **ret_server)
{
    struct med_link_server *server = med_calloc(1, sizeof(*server));
    if (server == NULL)
        return MED_E_NOMEM;
    server->thread = pthread_self();
    server->loop = loop;
    server->ops = *ops;
    server->config = *config;
    server->kept[0] = server->kept[1] = -1;
    *ret_server = server;
    return 0;
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct link_listener *listener = handle->data;
    struct med_link_server *server = listener->server;
    med_free(listener);
    server->listeners_open--;
    server_maybe_free(server);
}

static void listener_close(struct link_listener **listener)
{
    if (*listener != NULL)
        uv_close(&(*listener)->socket.handle, on_listener_closed);
    *listener = NULL;
}

/* Makes a handle of a socket that is bound; on failure the descriptor is closed. */
static int listener_open(struct med_link_server *server, int fd, bool is_tcp,
                         struct link_listener **ret_listener)
{
    struct link_listener *listener = med_calloc(1, sizeof(*listener));
    int rc = listener == NULL ? MED_E_NOMEM
             : is_tcp         ? uv_tcp_init(server->loop, &listener->socket.tcp)
                              : uv_pipe_init(server->loop, &listener->socket.pipe, 0);
    if (rc < 0) {
        med_free(listener);
        (void)close(fd);
        return rc;
    }
    listener->server = server;
    listener->socket.handle.data = listener;
    server->listeners_open++;
    rc = is_tcp ? uv_tcp_open(&listener->socket.tcp, fd) : uv_pipe_open(&listener->socket.pipe, fd);
    if (rc < 0) {
        (void)close(fd);
    } else {
        rc = uv_listen(&listener->socket.stream, BACKLOG, on_connection);
    }
    if (rc < 0) {
        listener_close(&listener);
        return rc;
    }
    *ret_listener = listener;
    return 0;
}

static int listener_fd(const struct link_listener *listener)
{
    uv_os_fd_t fd = -1;
    if (listener == NULL || uv_fileno(&listener->socket.handle, &fd) < 0)
        return -1;
    return fd;
}

static int bind_tcp(const struct sockaddr_storage *address, int *ret_fd)
{
    const int yes = 1;
    socklen_t bytes =
        address->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    int fd = socket(address->ss_family, SOCK_STREAM, 0);
    if (fd < 0)
        return -errno;
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) < 0 ||
        bind(fd, (const struct sockaddr *)address, bytes) < 0) {
        int code = errno;
        (void)close(fd);
        return -code;
    }
    *ret_fd = fd;
    return 0;
}

int med_link_server_adopt_tcp(struct med_link_server *server, int fd,
                              struct sockaddr_storage *ret_bound, struct med_err *err)
{
    MED_ASSERT(server->tcp == NULL);
    int bytes = sizeof(*ret_bound);
    *ret_bound = (struct sockaddr_storage){0};
    int rc = listener_open(server, fd, true, &server->tcp);
    if (rc == 0) {
        rc = uv_tcp_getsockname(&server->tcp->socket.tcp, (struct sockaddr *)ret_bound, &bytes);
    }
    return rc < 0 ? med_err_set(err, rc, "cannot listen: %s", uv_strerror(rc)) : 0;
}

int med_link_server_listen_tcp(struct med_link_server *server,
                               const struct sockaddr_storage *address,
                               struct sockaddr_storage *ret_bound, struct med_err *err)
{
    char text[MED_NET_TEXT_MAX];
    int fd = -1;
    med_net_format(address, text);
    int rc = bind_tcp(address, &fd);
    if (rc < 0) {
        return med_err_set(err, rc, "--link-listen %s: cannot listen: %s", text, uv_strerror(rc));
    }
    rc = med_link_server_adopt_tcp(server, fd, ret_bound, err);
    if (rc < 0)
        (void)med_err_prefix(err, "--link-listen %s", text);
    return rc;
}

/* A socket file that nobody answers on is left from a killed router: it may go. */
static void remove_stale(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return;
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0)
        return;
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 && errno == ECONNREFUSED)
        (void)unlink(path); // bind says if it is still there
    (void)close(fd);
}

static int bind_unix(const char *path, int *ret_fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0)
        return -errno;
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ||
        bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        int code = errno;
        (void)close(fd);
        return -code;
    }
    *ret_fd = fd;
    return 0;
}

int med_link_server_adopt_unix(struct med_link_server *server, int fd, const char *path,
                               struct med_err *err)
{
    MED_ASSERT(server->pipe == NULL);
    server->pipe_path = med_strdup(path);
    int rc = server->pipe_path == NULL ? MED_E_NOMEM : 0;
    if (rc < 0) {
        (void)close(fd);
    } else {
        rc = listener_open(server, fd, false, &server->pipe);
    }
    return rc < 0 ? med_err_set(err, rc, "cannot listen on %s: %s", path, uv_strerror(rc)) : 0;
}

int med_link_server_listen_unix(struct med_link_server *server, const char *path,
                                struct med_err *err)
{
    struct sockaddr_un address;
    int fd = -1;
    if (path[0] == '\0' || strlen(path) >= sizeof(address.sun_path)) {
        return med_err_set(err, MED_E_USAGE, "--link-socket: found %zu bytes, expected 1 to %zu",
                           strlen(path), sizeof(address.sun_path) - 1);
    }
    remove_stale(path);
    int rc = bind_unix(path, &fd);
    if (rc < 0) {
        return med_err_set(err, rc, "--link-socket: cannot listen on %s: %s", path,
                           uv_strerror(rc));
    }
    rc = med_link_server_adopt_unix(server, fd, path, err);
    if (rc < 0)
        (void)med_err_prefix(err, "--link-socket");
    return rc;
}

/* ---- another process takes over ---- */

void med_link_server_fds(const struct med_link_server *server, int *ret_tcp, int *ret_unix)
{
    *ret_tcp = listener_fd(server->tcp);
    *ret_unix = listener_fd(server->pipe);
}

static void drop_kept(struct med_link_server *server)
{
    for (int i = 0; i < 2; i++) {
        if (server->kept[i] >= 0)
            (void)close(server->kept[i]);
        server->kept[i] = -1;
    }
}

void med_link_server_pause(struct med_link_server *server)
{
    int tcp = listener_fd(server->tcp);
    int pipe = listener_fd(server->pipe);
    drop_kept(server);
    /* Without a copy there is no way back; that matters only if the other process fails. */
    server->kept[0] = tcp < 0 ? -1 : fcntl(tcp, F_DUPFD_CLOEXEC, 0);
    server->kept[1] = pipe < 0 ? -1 : fcntl(pipe, F_DUPFD_CLOEXEC, 0);
    listener_close(&server->tcp);
    listener_close(&server->pipe);
}

int med_link_server_resume(struct med_link_server *server, struct med_err *err)
{
    int rc = 0;
    if (server->kept[0] >= 0)
        rc = listener_open(server, server->kept[0], true, &server->tcp);
    server->kept[0] = -1;
    if (rc == 0 && server->kept[1] >= 0) {
        rc = listener_open(server, server->kept[1], false, &server->pipe);
        server->kept[1] = -1;
    }
    return rc < 0 ? med_err_set(err, rc, "cannot listen for workers again: %s", uv_strerror(rc))
                  : 0;
}

void med_link_server_leave(struct med_link_server *server)
{
    drop_kept(server);
    med_free(server->pipe_path);
    server->pipe_path = NULL;
}

void med_link_server_close(struct med_link_server *server, void (*on_closed)(void *arg), void *arg)
{
    if (server == NULL)
        return;
    MED_ASSERT_THREAD(server->thread);
    MED_ASSERT(!server->closing);
    server->closing = true;
    server->on_closed = on_closed;
    server->on_closed_arg = arg;
    for (struct med_link *link = server->links; link != NULL; link = link->next)
        med_link_end(link, "the router is stopping");
    drop_kept(server);
    if (server->pipe_path != NULL)
        (void)unlink(server->pipe_path); // nobody listens on it any more
    listener_close(&server->tcp);
    listener_close(&server->pipe);
    server_maybe_free(server);
}

void med_link_set_user(struct med_link *link, uint64_t user)
{
    link->user = user;
}

uint64_t med_link_user(const struct med_link *link)
{
    return link->user;
}

void med_link_get_view(const struct med_link *link, struct med_link_view *ret_view)
{
    *ret_view = (struct med_link_view){
        .peer = link->peer,
        .unsent_bytes = med_link_unsent(link),
        .frames_in = link->frames_in,
        .frames_out = link->frames_out,
        .round_trip_s = link->round_trip_s,
    };
}

uint64_t med_link_server_refused(const struct med_link_server *server)
{
    return server->refused;
}

uint64_t med_link_server_broken(const struct med_link_server *server)
{
    return server->broken;
}
