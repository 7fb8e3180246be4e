/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Byte streams on libuv, see stream.h.
 *
 * Plain, the calls go straight to libuv.  With TLS, bytes from the socket are fed to the session and
 * read out of it record by record; a write is encrypted in slices, so that a large one does not stand
 * in memory twice; `wire` is the slice on its way.  What the session wants to say by itself (the
 * handshake, alerts, tickets) goes the same way.
 *
 * Runs on the loop. It knows nothing of what the bytes mean.
 */
#include "router/stream.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/os.h"
#include "router/tls.h"

#include <string.h>

enum {
    SLICE_BYTES = 128 << 10, // of ciphertext on its way, about
};

struct med_stream_tls {
    struct med_tls_session *session;
    struct med_buf wire;                // ciphertext on its way
    uv_buf_t bufs[MED_STREAM_BUFS_MAX]; // the owner's write, less what is encrypted
    unsigned buf_index, buf_count;
    bool write_pending;   // on_written is owed
    bool wire_busy;       // libuv has `wire`
    bool delivering;      // inside deliver()
    bool shutdown_wanted; // when all has gone out
    const char *why;
};

static void fail_writes(struct med_stream *stream, int status);

/* ---- plain ---- */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct med_stream *stream = handle->data;
    (void)suggested;
    *buf = stream->ops->on_alloc(stream->owner);
}

static void on_written(uv_write_t *request, int status)
{
    struct med_stream *stream = request->data;
    stream->ops->on_written(stream->owner, status);
}

/* ---- writing with TLS ---- */

/* Encrypts of the owner's write until a slice is full. */
static int encrypt(struct med_stream_tls *tls)
{
    const struct med_buf *out = med_tls_session_out(tls->session);
    while (tls->buf_index < tls->buf_count && out->length < SLICE_BYTES) {
        uv_buf_t *buf = &tls->bufs[tls->buf_index];
        if (buf->len == 0) {
            tls->buf_index++;
            continue;
        }
        int taken = med_tls_session_write(tls->session, buf->base, buf->len);
        if (taken <= 0)
            return taken;
        buf->base += taken;
        buf->len -= (size_t)taken;
    }
    return 0;
}

static void on_shut(uv_shutdown_t *request, int status)
{
    (void)request;
    (void)status; // a lost peer shows when the stream is read
}

static void on_wire_written(uv_write_t *request, int status);

/* Sends what there is to send. < 0: the stream cannot be written to. */
static int pump(struct med_stream *stream)
{
    struct med_stream_tls *tls = stream->tls;
    if (tls->wire_busy || stream->closing)
        return 0;
    int rc = encrypt(tls);
    struct med_buf *out = med_tls_session_out(tls->session);
    if (out->length > 0) {
        struct med_buf swap = tls->wire;
        tls->wire = *out;
        *out = swap;
        med_buf_clear(out);
        uv_buf_t buf = uv_buf_init(tls->wire.data, (unsigned)tls->wire.length);
        stream->write.data = stream;
        int sent = uv_write(&stream->write, &stream->uv.stream, &buf, 1, on_wire_written);
        if (sent < 0)
            return sent;
        tls->wire_busy = true;
        return rc; // a failure's alert is on its way too
    }
    if (rc == 0 && tls->shutdown_wanted && !tls->write_pending) {
        tls->shutdown_wanted = false;
        rc = uv_shutdown(&stream->shutdown, &stream->uv.stream, on_shut);
    }
    return rc;
}

static void fail_writes(struct med_stream *stream, int status)
{
    struct med_stream_tls *tls = stream->tls;
    if (!tls->write_pending)
        return;
    tls->write_pending = false;
    tls->buf_index = tls->buf_count = 0;
    stream->ops->on_written(stream->owner, status);
}

static void on_wire_written(uv_write_t *request, int status)
{
    struct med_stream *stream = request->data;
    struct med_stream_tls *tls = stream->tls;
    tls->wire_busy = false;
    if (tls->write_pending && status == 0 && tls->buf_index < tls->buf_count)
        (void)encrypt(tls); // steps over what is empty; pump sees a failure again
    bool all = tls->buf_index == tls->buf_count && med_tls_session_out(tls->session)->length == 0;
    if (all) {
        /* An idle connection keeps no buffers. */
        med_buf_release(&tls->wire);
        med_buf_release(med_tls_session_out(tls->session));
    }
    if (status == 0 && tls->write_pending && all) {
        tls->write_pending = false;
        stream->ops->on_written(stream->owner, 0);
    }
    if (stream->closing)
        return; // the close callback fails what is left
    if (status == 0)
        status = pump(stream);
    if (status < 0)
        fail_writes(stream, status);
}

/* ---- reading with TLS ---- */

static void end_reading(struct med_stream *stream)
{
    stream->reading = false;
    (void)uv_read_stop(&stream->uv.stream); // always succeeds
}

/* Hands on what the session can read. */
static void deliver(struct med_stream *stream)
{
    struct med_stream_tls *tls = stream->tls;
    char bytes[MED_TLS_READ_MAX];
    int rc = 0;
    if (tls->delivering)
        return; // the loop below goes on
    tls->delivering = true;
    while (stream->reading && !stream->closing) {
        size_t count = 0;
        rc = med_tls_session_read(tls->session, bytes, &count);
        if (rc != 0 || count == 0)
            break;
        stream->ops->on_read(stream->owner, (ssize_t)count, bytes);
    }
    tls->delivering = false;
    if (stream->closing)
        return;
    if (rc == 0)
        rc = med_tls_session_keep(tls->session);
    int sent = pump(stream); // of the handshake, or an alert
    if (rc == 0 && sent < 0) {
        fail_writes(stream, sent);
        return;
    }
    if (rc == 0)
        return;
    end_reading(stream);
    stream->ops->on_read(stream->owner, rc == MED_TLS_CLOSED ? UV_EOF : rc, NULL);
}

static void on_read(uv_stream_t *uv, ssize_t count, const uv_buf_t *buf)
{
    struct med_stream *stream = uv->data;
    struct med_stream_tls *tls = stream->tls;
    if (count == 0)
        return;
    if (tls == NULL) {
        if (count < 0)
            end_reading(stream);
        stream->ops->on_read(stream->owner, count, buf->base);
        return;
    }
    if (count < 0) {
        end_reading(stream);
        if (count == UV_EOF) {
            tls->why = med_tls_session_is_ready(tls->session)
                           ? "the connection was cut: it ended without TLS's goodbye"
                           : "the connection ended before the TLS handshake was done";
            count = MED_E_PROTO;
        }
        stream->ops->on_read(stream->owner, count, NULL);
        return;
    }
    int rc = med_tls_session_feed(tls->session, buf->base, (size_t)count);
    if (rc == 0) {
        deliver(stream);
    } else {
        end_reading(stream);
        stream->ops->on_read(stream->owner, rc, NULL);
    }
}

/* ---- the interface ---- */

int med_stream_init(struct med_stream *stream, uv_loop_t *loop, bool is_tcp,
                    const struct med_stream_ops *ops, void *owner)
{
    *stream = (struct med_stream){.ops = ops, .owner = owner};
    int rc = is_tcp ? uv_tcp_init(loop, &stream->uv.tcp) : uv_pipe_init(loop, &stream->uv.pipe, 0);
    stream->uv.handle.data = stream;
    return rc;
}

int med_stream_set_tls(struct med_stream *stream, struct med_tls *tls, const char *host)
{
    if (tls == NULL)
        return 0;
    MED_ASSERT(stream->tls == NULL);
    MED_ASSERT(!stream->reading);
    struct med_stream_tls *state = med_calloc(1, sizeof(*state));
    if (state == NULL)
        return MED_E_NOMEM;
    int rc = med_tls_session_new(tls, host, &state->session);
    if (rc < 0) {
        med_free(state);
        return rc;
    }
    med_buf_init(&state->wire, med_tls_session_out(state->session)->max_bytes);
    stream->tls = state;
    return 0;
}

int med_stream_read_start(struct med_stream *stream)
{
    if (stream->reading || stream->closing)
        return 0;
    int rc = uv_read_start(&stream->uv.stream, on_alloc, on_read);
    if (rc < 0)
        return rc;
    stream->reading = true;
    if (stream->tls != NULL)
        deliver(stream); // a client speaks first; a stopped stream may hold bytes
    return 0;
}

void med_stream_read_stop(struct med_stream *stream)
{
    if (!stream->reading || stream->closing)
        return;
    end_reading(stream);
}

int med_stream_write(struct med_stream *stream, const uv_buf_t *bufs, unsigned count)
{
    struct med_stream_tls *tls = stream->tls;
    if (tls == NULL) {
        stream->write.data = stream;
        return uv_write(&stream->write, &stream->uv.stream, bufs, count, on_written);
    }
    MED_ASSERT(!tls->write_pending);
    MED_ASSERT(count > 0 && count <= MED_STREAM_BUFS_MAX);
    memcpy(tls->bufs, bufs, count * sizeof(*bufs));
    tls->buf_index = 0;
    tls->buf_count = count;
    tls->write_pending = true;
    int rc = pump(stream);
    if (rc < 0) {
        tls->write_pending = false;
        tls->buf_index = tls->buf_count = 0;
    }
    return rc;
}

int med_stream_try_write(struct med_stream *stream, const uv_buf_t *bufs, unsigned count)
{
    return stream->tls == NULL ? uv_try_write(&stream->uv.stream, bufs, count) : UV_EAGAIN;
}

size_t med_stream_unsent(const struct med_stream *stream)
{
    const struct med_stream_tls *tls = stream->tls;
    uv_os_fd_t fd = -1;
    size_t bytes = uv_stream_get_write_queue_size(&stream->uv.stream);
    if (uv_fileno(&stream->uv.handle, &fd) == 0)
        bytes += med_os_unsent(fd);
    for (unsigned i = tls != NULL ? tls->buf_index : 0; tls != NULL && i < tls->buf_count; i++)
        bytes += tls->bufs[i].len;
    return bytes;
}

int med_stream_shutdown(struct med_stream *stream)
{
    struct med_stream_tls *tls = stream->tls;
    if (tls == NULL)
        return uv_shutdown(&stream->shutdown, &stream->uv.stream, on_shut);
    MED_ASSERT(!tls->write_pending);
    med_tls_session_end(tls->session);
    tls->shutdown_wanted = true;
    return pump(stream);
}

static void on_closed(uv_handle_t *handle)
{
    struct med_stream *stream = handle->data;
    struct med_stream_tls *tls = stream->tls;
    if (tls != NULL) {
        fail_writes(stream, UV_ECANCELED);
        med_tls_session_free(tls->session);
        med_buf_release(&tls->wire);
        med_free(tls);
        stream->tls = NULL;
    }
    stream->ops->on_closed(stream->owner);
}

void med_stream_close(struct med_stream *stream)
{
    struct med_stream_tls *tls = stream->tls;
    MED_ASSERT(!stream->closing);
    if (tls != NULL && !tls->wire_busy && !tls->write_pending) {
        med_tls_session_end(tls->session);
        const struct med_buf *out = med_tls_session_out(tls->session);
        uv_buf_t buf = uv_buf_init(out->data, (unsigned)out->length);
        if (out->length > 0)
            (void)uv_try_write(&stream->uv.stream, &buf, 1); // the goodbye is a courtesy
    }
    stream->closing = true;
    stream->reading = false;
    uv_close(&stream->uv.handle, on_closed);
}

bool med_stream_is_ready(const struct med_stream *stream)
{
    return stream->tls == NULL || med_tls_session_is_ready(stream->tls->session);
}

const char *med_stream_why(const struct med_stream *stream, int status)
{
    const struct med_stream_tls *tls = stream->tls;
    if (status > -20000)
        return uv_strerror(status);
    if (tls != NULL && tls->why != NULL)
        return tls->why;
    if (tls != NULL && med_tls_session_why(tls->session)[0] != '\0')
        return med_tls_session_why(tls->session);
    return med_err_text(status);
}
