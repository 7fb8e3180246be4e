/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside the worker links: the state that their files share.  thread: loop.
 *
 * link_server.c          life of links and server: listen, accept, read, write, close
 * link_server_frames.c   what the frames say
 */
#ifndef MED_ROUTER_LINK_SERVER_INTERNAL_H
#define MED_ROUTER_LINK_SERVER_INTERNAL_H

#include "base/buf.h"
#include "proto/frame.h"
#include "router/link_server.h"
#include "router/net.h"
#include "router/stream.h"

#include <pthread.h>

enum {
    LINK_READ_BYTES = 64 << 10,
    LINK_REASON_MAX = 256,
    LINK_PEER_MAX = MED_NET_TEXT_MAX,
    /* Frames of a few bytes (cancel, ping) may pass the limit by this much. */
    LINK_SMALL_RESERVE_BYTES = 64 << 10,
};

enum link_state {
    LINK_GREETING,
    LINK_OPEN,
    LINK_GOODBYE, // refused: the reason is on its way
    LINK_CLOSING
};

/* thread: loop */
struct med_link {
    struct med_link_server *server;
    struct med_link *next, *prev; // in server->links
    struct med_stream stream;
    uv_timer_t timer; // Hello timeout, then pings
    int handles_open; // stream and timer
    enum link_state state;
    bool welcomed; // `closed` is owed
    uint64_t user;
    struct med_frame_reader reader;
    struct med_buf out;    // frames that wait
    struct med_buf on_way; // frames of the write in flight
    bool writing;          // `on_way` is with the stream
    bool corked;           // frames wait in `out`: Welcome must go before them
    uint64_t ping_nonce, ping_sent_ns;
    double round_trip_s;
    uint64_t frames_in, frames_out;
    char peer[LINK_PEER_MAX];
    char reason[LINK_REASON_MAX];
};

/* One socket on which workers dial in; freed when its handle has closed. */
struct link_listener {
    struct med_link_server *server;
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } socket;
};

/* thread: loop */
struct med_link_server {
    pthread_t thread;
    uv_loop_t *loop;
    struct med_link_ops ops;
    struct med_link_server_config config;
    struct link_listener *tcp, *pipe; // NULL: it does not listen there
    int listeners_open;               // handles that are not closed yet
    int kept[2];                      // descriptors of a pause: TCP, Unix; -1: none
    char *pipe_path;                  // owned; the file is ours to remove; NULL: none
    bool closing;
    struct med_link *links;
    size_t link_count;
    uint64_t refused, broken;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
    struct med_link_logprobs *logprobs; // owned; of the Tokens frame being read
    size_t logprob_capacity;
    char in[LINK_READ_BYTES]; // one read at a time: the loop hands out and takes back in order
};

/* Ends the link; the first reason counts. */
void med_link_end(struct med_link *link, const char *fmt, ...) MED_PRINTF(2, 3);
/* The same for a worker that broke the protocol. */
void med_link_broken(struct med_link *link, const char *why);
/* Starts a write if there is something to write and none is on its way. */
void med_link_flush(struct med_link *link);
/* errors: MED_E_AGAIN when more than the limit and `reserve` would be unsent. */
int med_link_frame_send(struct med_link *link, const Medley__Link__Frame *frame,
                        size_t reserve) MED_MUST_CHECK;
/* Bytes that have not been written. */
size_t med_link_unsent(const struct med_link *link);
void med_link_timer_set(struct med_link *link, uv_timer_cb callback, uint64_t ms,
                        uint64_t repeat_ms);
void med_link_on_patience_over(uv_timer_t *timer);

/* link_server_frames.c */
void med_link_on_frame(struct med_link *link, const Medley__Link__Frame *frame);

#endif
