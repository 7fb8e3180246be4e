/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket of the router that serves, see hand_over.h.
 *
 * One successor at a time; another one is turned away.  Its connection is GREETING (it has not asked
 * yet), OFFERED, DIALLED or DONE.  Descriptors are sent with sendmsg on the connection's own socket,
 * before any other byte of it: nothing is queued in libuv then.  What the lines mean is the owner's.
 *
 * Runs on the loop.
 */
#include "router/hand_over.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/log.h"
#include "base/os.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    LINE_MAX_BYTES = 512,
    PATIENCE_MS = 60 * 1000 /* for a successor to get ready */
};

enum peer_state {
    PEER_GREETING,
    PEER_OFFERED,
    PEER_DIALLED,
    PEER_DONE
};

/* The successor's connection. */
struct peer {
    struct med_hand_over *owner;
    uv_pipe_t pipe;
    uv_timer_t timer;
    int handles_open;
    bool closing;
    enum peer_state state;
    size_t filled;
    char line[LINE_MAX_BYTES];
    char in[LINE_MAX_BYTES];
};

/* thread: loop */
struct med_hand_over {
    uv_loop_t *loop;
    struct med_hand_over_ops ops;
    uv_pipe_t listener;
    bool listening;
    bool handed; // the path is the successor's
    bool closing;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    struct peer *peer; // NULL: nobody asks
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

static void maybe_free(struct med_hand_over *h)
{
    if (!h->closing || h->listening || h->peer != NULL)
        return;
    void (*on_closed)(void *) = h->on_closed;
    void *arg = h->on_closed_arg;
    med_free(h);
    if (on_closed != NULL)
        on_closed(arg);
}

/* ---- the successor ---- */

static void on_peer_handle_closed(uv_handle_t *handle)
{
    struct peer *peer = handle->data;
    struct med_hand_over *h = peer->owner;
    if (--peer->handles_open > 0)
        return;
    h->peer = NULL;
    med_free(peer);
    maybe_free(h);
}

static void peer_close(struct peer *peer, const char *why)
{
    if (peer->closing)
        return;
    peer->closing = true;
    uv_close((uv_handle_t *)&peer->pipe, on_peer_handle_closed);
    uv_close((uv_handle_t *)&peer->timer, on_peer_handle_closed);
    if (peer->state == PEER_DONE)
        return;
    if (peer->state != PEER_GREETING)
        MED_WARN("take-over: given up, this process goes on: %s", why);
    if (peer->state == PEER_DIALLED)
        peer->owner->ops.failed(peer->owner->ops.self);
}

static int send_all(int fd, const char *text, const struct med_handed *handed)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int) * MED_HANDED_MAX)];
    } control = {0};
    struct iovec iov = {.iov_base = (char *)text, .iov_len = strlen(text)};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    if (handed != NULL && handed->count > 0) {
        int fds[MED_HANDED_MAX];
        for (size_t i = 0; i < handed->count; i++)
            fds[i] = handed->listeners[i].fd;
        size_t bytes = handed->count * sizeof(int);
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(bytes);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(bytes);
        memcpy(CMSG_DATA(header), fds, bytes);
    }
    ssize_t sent;
    do {
        sent = sendmsg(fd, &message, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0)
        return -errno;
    return (size_t)sent == iov.iov_len ? 0 : MED_E_IO; // a line is less than any socket's buffer
}

static int peer_send(struct peer *peer, const char *text, const struct med_handed *handed)
{
    uv_os_fd_t fd;
    int rc = uv_fileno((uv_handle_t *)&peer->pipe, &fd);
    return rc < 0 ? rc : send_all(fd, text, handed);
}

static void offer(struct peer *peer)
{
    struct med_hand_over *h = peer->owner;
    struct med_handed handed = {0};
    struct med_err err = {0};
    char text[LINE_MAX_BYTES];
    int rc = h->ops.offer(h->ops.self, &handed, &err);
    if (rc < 0) {
        (void)snprintf(text, sizeof(text), "NO %.400s\n", err.text);
        (void)peer_send(peer, text, NULL); // it hears of it by the connection's end otherwise
        peer_close(peer, err.text);
        return;
    }
    int n = snprintf(text, sizeof(text),
                     "LISTENERS 1 workers=%" PRIu64 " grpc=%s names=", handed.workers, handed.grpc);
    for (size_t i = 0; i < handed.count; i++) {
        n += snprintf(text + n, sizeof(text) - (size_t)n, "%s%s", i > 0 ? "," : "",
                      handed.listeners[i].name);
    }
    (void)snprintf(text + n, sizeof(text) - (size_t)n, "\n");
    rc = peer_send(peer, text, &handed);
    if (rc < 0) {
        peer_close(peer, med_os_errno_text(rc));
        return;
    }
    peer->state = PEER_OFFERED;
    MED_INFO("take-over: another process has asked for the listeners");
}

/* The last word comes first: to retire for one that has gone meanwhile would leave nobody to serve. */
static void finish(struct peer *peer)
{
    struct med_hand_over *h = peer->owner;
    int rc = peer_send(peer, "GO\n", NULL);
    if (rc < 0) {
        peer_close(peer, "the other process has gone, ready as it was");
        return;
    }
    h->handed = true;
    peer->state = PEER_DONE;
    h->ops.done(h->ops.self);
    peer_close(peer, "");
}

static void on_line(struct peer *peer)
{
    if (peer->state == PEER_GREETING && strcmp(peer->line, "MEDLEY-TAKE-OVER 1") == 0) {
        offer(peer);
    } else if (peer->state == PEER_OFFERED && strcmp(peer->line, "DIAL") == 0) {
        peer->state = PEER_DIALLED;
        peer->owner->ops.dial(peer->owner->ops.self);
    } else if (peer->state == PEER_DIALLED && strcmp(peer->line, "READY") == 0) {
        finish(peer);
    } else {
        peer_close(peer, "it says what is not expected: another version?");
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct peer *peer = handle->data;
    (void)suggested;
    *buf = uv_buf_init(peer->in, sizeof(peer->in));
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buf)
{
    struct peer *peer = stream->data;
    if (count < 0) {
        peer_close(peer, "the other process has gone");
        return;
    }
    for (ssize_t i = 0; i < count && !peer->closing; i++) {
        if (buf->base[i] == '\n') {
            peer->line[peer->filled] = '\0';
            peer->filled = 0;
            on_line(peer);
        } else if (peer->filled + 1 == sizeof(peer->line)) {
            peer_close(peer, "its line is too long");
        } else {
            peer->line[peer->filled++] = buf->base[i];
        }
    }
}

static void on_patience_over(uv_timer_t *timer)
{
    peer_close(timer->data, "the other process did not get ready in time");
}

/* ---- the listener ---- */

static void on_scrap_closed(uv_handle_t *handle)
{
    med_free(handle);
}

static void turn_away(struct med_hand_over *h)
{
    uv_pipe_t *scrap = med_alloc(sizeof(*scrap));
    if (scrap == NULL || uv_pipe_init(h->loop, scrap, 0) < 0) {
        med_free(scrap);
        return;
    }
    (void)uv_accept((uv_stream_t *)&h->listener, (uv_stream_t *)scrap); // closed in either case
    uv_close((uv_handle_t *)scrap, on_scrap_closed);
}

static bool is_own_user(const struct peer *peer)
{
    uv_os_fd_t fd;
    uid_t uid = 0;
    return uv_fileno((const uv_handle_t *)&peer->pipe, &fd) == 0 &&
           med_os_peer_uid(fd, &uid) == 0 && uid == geteuid();
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct med_hand_over *h = listener->data;
    if (status < 0)
        return;
    struct peer *peer = h->peer == NULL && !h->handed ? med_calloc(1, sizeof(*peer)) : NULL;
    if (peer == NULL || uv_pipe_init(h->loop, &peer->pipe, 0) < 0) {
        med_free(peer);
        turn_away(h);
        return;
    }
    (void)uv_timer_init(h->loop, &peer->timer); // always succeeds
    peer->owner = h;
    peer->handles_open = 2;
    peer->pipe.data = peer;
    peer->timer.data = peer;
    h->peer = peer;
    if (uv_accept(listener, (uv_stream_t *)&peer->pipe) < 0 ||
        uv_read_start((uv_stream_t *)&peer->pipe, on_alloc, on_read) < 0) {
        peer_close(peer, "it cannot be accepted");
    } else if (!is_own_user(peer)) {
        MED_WARN("take-over: a process of another user is turned away");
        peer_close(peer, "another user");
    } else {
        int rc = uv_timer_start(&peer->timer, on_patience_over, PATIENCE_MS, 0);
        MED_ASSERT(rc == 0);
    }
}

/* Binds under another name and renames it: whoever comes finds the old socket or the new one, and a
 * file is never there before its mode is right. */
static int bind_path(const char *path, int *ret_fd, struct med_err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(address.sun_path, sizeof(address.sun_path), "%s.new", path);
    if (length < 5 || (size_t)length >= sizeof(address.sun_path)) {
        return med_err_set(err, MED_E_USAGE, "--control-socket: found %zu bytes, expected 1 to %zu",
                           strlen(path), sizeof(address.sun_path) - 5);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0)
        return med_err_set(err, MED_E_IO, "--control-socket: %s", med_os_errno_text(-errno));
    (void)unlink(address.sun_path); // left from a process that was killed
    bool ok = bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
              chmod(address.sun_path, S_IRUSR | S_IWUSR) == 0 && listen(fd, 4) == 0 &&
              rename(address.sun_path, path) == 0;
    if (!ok) {
        int code = errno;
        (void)close(fd);
        (void)unlink(address.sun_path); // not ours to keep
        return med_err_set(err, MED_E_IO, "--control-socket %s: cannot listen: %s", path,
                           med_os_errno_text(-code));
    }
    *ret_fd = fd;
    return 0;
}

int med_hand_over_listen(uv_loop_t *loop, const char *path, const struct med_hand_over_ops *ops,
                         struct med_hand_over **ret_hand_over, struct med_err *err)
{
    int fd = -1;
    int rc = bind_path(path, &fd, err);
    if (rc < 0)
        return rc;
    struct med_hand_over *h = med_calloc(1, sizeof(*h));
    if (h == NULL) {
        (void)close(fd);
        return med_err_set(err, MED_E_NOMEM, "%s", med_err_text(MED_E_NOMEM));
    }
    h->loop = loop;
    h->ops = *ops;
    (void)snprintf(h->path, sizeof(h->path), "%s", path);
    (void)uv_pipe_init(loop, &h->listener, 0); // always succeeds
    h->listening = true;
    h->listener.data = h;
    rc = uv_pipe_open(&h->listener, fd);
    if (rc < 0)
        (void)close(fd);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&h->listener, 4, on_connection);
    *ret_hand_over = h; // also on failure: to be closed
    if (rc < 0) {
        return med_err_set(err, rc, "--control-socket %s: cannot listen: %s", path,
                           uv_strerror(rc));
    }
    return 0;
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct med_hand_over *h = handle->data;
    h->listening = false;
    maybe_free(h);
}

void med_hand_over_close(struct med_hand_over *h, void (*on_closed)(void *arg), void *arg)
{
    if (h == NULL)
        return;
    MED_ASSERT(!h->closing);
    h->closing = true;
    h->on_closed = on_closed;
    h->on_closed_arg = arg;
    if (!h->handed)
        (void)unlink(h->path); // whoever comes finds nobody
    uv_close((uv_handle_t *)&h->listener, on_listener_closed);
    if (h->peer != NULL)
        peer_close(h->peer, "this process stops");
}
