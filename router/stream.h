/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connected byte stream on libuv, with or without TLS: one interface for doors and worker links.
 *
 * The owner embeds a med_stream, initialises it, accepts or connects on `uv`, may put TLS on it, and
 * reads.  Without TLS the calls are libuv's own, and nothing is copied.  With TLS the handshake is
 * made on the way: what is written before it is done waits for it.
 *
 * Reading: on_alloc lends a buffer (one per loop serves all streams), on_read gets bytes (lent for
 * the call) or how the stream ended.  Writing: one write at a time; buffers are lent until
 * on_written.  What the owner has not handed over yet, the owner bounds.
 *
 * Time limits are the owner's: a peer that never finishes its handshake looks like one that never
 * sends a byte (med_stream_is_ready tells the two apart).
 *
 * Life, libuv's contract: after a successful init the stream must be closed, and its memory be kept
 * until on_closed.  on_written follows for a write under way before that, with UV_ECANCELED.
 * thread: the loop's. owns: the handle and the TLS state.
 */
#ifndef MED_ROUTER_STREAM_H
#define MED_ROUTER_STREAM_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <uv.h>

struct med_tls;
struct med_stream_tls;

struct med_stream_ops {
    /* Where the next bytes from the socket may go; lent until the on_read calls that follow. */
    uv_buf_t (*on_alloc)(void *owner);
    /* count > 0: bytes. UV_EOF: the peer has sent all. Other < 0: it failed; med_stream_why says
     * how.  Nothing more is read after an end.  The owner may write, stop or close from inside. */
    void (*on_read)(void *owner, ssize_t count, const char *bytes);
    /* The write is over: 0, or < 0 and the stream is of no more use. */
    void (*on_written)(void *owner, int status);
    void (*on_closed)(void *owner); /* the last callback: the memory is the owner's again */
};

enum {
    MED_STREAM_BUFS_MAX = 8 /* buffers of one write */
};

struct med_stream {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv; /* to accept, connect and name peers with; data is the stream's */
    uv_write_t write;
    uv_shutdown_t shutdown;
    const struct med_stream_ops *ops;
    void *owner;
    struct med_stream_tls *tls; /* NULL: plain */
    bool reading;
    bool closing;
};

/* is_tcp false: a Unix socket.  On failure there is nothing to close. */
int med_stream_init(struct med_stream *stream, uv_loop_t *loop, bool is_tcp,
                    const struct med_stream_ops *ops, void *owner) MED_MUST_CHECK;
/* Puts TLS on a stream that has not read or written; tls NULL: leaves it plain.  host: whom a
 * client expects to meet, checked against the certificate; NULL: this end is the server. */
int med_stream_set_tls(struct med_stream *stream, struct med_tls *tls,
                       const char *host) MED_MUST_CHECK;

/* Begins to read, or goes on.  With TLS, bytes that came before a stop may be delivered from inside
 * this call: let it be the caller's last act. */
int med_stream_read_start(struct med_stream *stream) MED_MUST_CHECK;
void med_stream_read_stop(struct med_stream *stream);

/* Writes the buffers (together not empty), of which the array need not live on. No write may be
 * under way.  < 0: on_written will not be called. */
int med_stream_write(struct med_stream *stream, const uv_buf_t *bufs,
                     unsigned count) MED_MUST_CHECK;
/* Bytes that the socket takes at once, no write being under way; UV_EAGAIN: none, as always with
 * TLS. */
int med_stream_try_write(struct med_stream *stream, const uv_buf_t *bufs,
                         unsigned count) MED_MUST_CHECK;

/* Bytes of the write under way that the peer's system has not taken yet, and with TLS what they are wrapped
 * in: less than before means that the peer reads. */
size_t med_stream_unsent(const struct med_stream *stream);

/* Says that this end sends no more, once; no write may be under way.  Reading goes on. */
int med_stream_shutdown(struct med_stream *stream) MED_MUST_CHECK;

/* Ends the stream at once; with TLS the peer is told if the socket takes it. on_closed follows. */
void med_stream_close(struct med_stream *stream);

/* True without TLS; with it, once the handshake is done. */
bool med_stream_is_ready(const struct med_stream *stream);
/* One sentence for the status that a callback got; valid until the next call on the stream. */
const char *med_stream_why(const struct med_stream *stream, int status);

#endif
