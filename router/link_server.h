/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker links: workers dial in over TCP or a Unix socket and receive work.
 *
 * A link is opened by the worker's Hello, judged here for its version and by the owner for the rest,
 * and answered with Welcome.  What breaks the protocol (garbage, an oversized frame, half a frame
 * when the connection ends, a frame out of turn, no Hello in time) ends the link with a reason.
 * Unsent bytes are bounded: a send that does not fit is MED_E_AGAIN, and the worker counts as
 * stalled.
 * thread: loop, all of it.  Callbacks come from the loop, never from inside a call into this module.
 */
#ifndef MED_ROUTER_LINK_SERVER_H
#define MED_ROUTER_LINK_SERVER_H

#include "base/err.h"
#include "base/limits.h"
#include "router/request.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <uv.h>

enum {
    MED_LINK_VERSION = 1
};

struct med_keys;
struct med_link;
struct med_link_server;
struct med_tls;

/* What a worker says of itself; lent for the callback. */
struct med_link_hello {
    const char *worker_id, *worker_type, *model, *program_version, *backend;
    uint64_t incarnation;
    int64_t model_len_max, sequences_max, kv_tokens;
    int64_t vocab_tokens; /* 0: not said */
};

struct med_link_stats {
    uint64_t heartbeat_ns; /* the worker's own clock: only its changes mean something here */
    int64_t running, waiting, kv_blocks_free, kv_blocks_total;
    uint64_t iterations, prompt_tokens, generated_tokens, finished, preemptions;
    uint64_t prefix_queries, prefix_hits;
};

enum med_link_ending {
    MED_LINK_STOP,
    MED_LINK_LENGTH,
    MED_LINK_CANCELLED,
    MED_LINK_ERROR,
    MED_LINK_REFUSED,
    MED_LINK_FAILED,  /* this request cannot be computed, here or elsewhere */
    MED_LINK_RETURNED /* the worker stops: what it has said stands, the rest may be had elsewhere */
};

/* Of one token. */
struct med_link_logprobs {
    float logprob;
    const uint32_t *top_ids; /* the likeliest, by falling logprob */
    const float *top_logprobs;
    size_t top_count;
};

/* Tokens of a request; lent for the callback. */
struct med_link_tokens {
    uint64_t request;
    uint32_t attempt;
    uint32_t position; /* of the first */
    const uint32_t *ids;
    size_t count;
    const struct med_link_logprobs *logprobs; /* as many; NULL: the worker sent none */
};

struct med_link_finish {
    uint64_t request;
    uint32_t attempt;
    enum med_link_ending ending;
    const char *message;
    uint32_t cached_tokens; /* of the prompt, found in the prefix cache */
};

struct med_link_ops {
    /* 0: welcome; the owner may keep `link` until closed. < 0: refused, err says why. */
    int (*hello)(void *self, struct med_link *link, const struct med_link_hello *hello,
                 struct med_err *err);
    /* MED_E_INVALID: some with logprobs and some without; other < 0: they do not fit the request.
     * Either breaks the protocol, and the link ends. */
    int (*tokens)(void *self, struct med_link *link, const struct med_link_tokens *tokens);
    int (*finish)(void *self, struct med_link *link, const struct med_link_finish *finish);
    void (*stats)(void *self, struct med_link *link, const struct med_link_stats *stats);
    void (*drain)(void *self, struct med_link *link);
    /* A link that was welcomed has closed: the last callback about it. */
    void (*closed)(void *self, struct med_link *link, const char *reason);
    void *self;
};

struct med_link_server_config {
    uint32_t stats_interval_ms;    /* told to workers, in fleet time */
    uint64_t hello_timeout_ms;     /* real time */
    uint64_t ping_interval_ms;     /* real time */
    struct med_tls *tls;           /* of TCP links; borrowed; NULL: plain */
    const struct med_keys *tokens; /* a Hello must hold one; borrowed; NULL: none is asked for */
};

int med_link_server_new(uv_loop_t *loop, const struct med_link_ops *ops,
                        const struct med_link_server_config *config,
                        struct med_link_server **ret_server) MED_MUST_CHECK;
int med_link_server_listen_tcp(struct med_link_server *server,
                               const struct sockaddr_storage *address,
                               struct sockaddr_storage *ret_bound,
                               struct med_err *err) MED_MUST_CHECK;
/* A stale socket file (nobody listens on it) is replaced; it is removed again at close. */
int med_link_server_listen_unix(struct med_link_server *server, const char *path,
                                struct med_err *err) MED_MUST_CHECK;
/* The same on sockets that are bound already, of another process perhaps; they are the server's then.
 * path: of the Unix socket, whose file is ours to remove from now on. */
int med_link_server_adopt_tcp(struct med_link_server *server, int fd,
                              struct sockaddr_storage *ret_bound,
                              struct med_err *err) MED_MUST_CHECK;
int med_link_server_adopt_unix(struct med_link_server *server, int fd, const char *path,
                               struct med_err *err) MED_MUST_CHECK;
/* The listening sockets, which stay the server's; -1: it does not listen there. */
void med_link_server_fds(const struct med_link_server *server, int *ret_tcp, int *ret_unix);
/* Accepts no links for now: another process does, on the same sockets.  Links stay. */
void med_link_server_pause(struct med_link_server *server);
int med_link_server_resume(struct med_link_server *server, struct med_err *err) MED_MUST_CHECK;
/* After a pause: the sockets are another process's for good. */
void med_link_server_leave(struct med_link_server *server);
/* Closes listeners and links; `closed` is still called for each welcomed one. */
void med_link_server_close(struct med_link_server *server, void (*on_closed)(void *arg), void *arg);

/* What the owner hangs on a link. */
void med_link_set_user(struct med_link *link, uint64_t user);
uint64_t med_link_user(const struct med_link *link);

/* errors: MED_E_AGAIN too many unsent bytes; MED_E_CANCELLED the link is closing. */
int med_link_send_generate(struct med_link *link, const struct med_req *req,
                           uint32_t attempt) MED_MUST_CHECK;
/* Best effort; a worker that cannot even take this is closed as stalled. */
void med_link_send_cancel(struct med_link *link, uint64_t request, uint32_t attempt);

/* Asks the worker to leave: it takes no more requests from here, finishes what it has, and closes.
 * Best effort, as a cancel. */
void med_link_send_drain(struct med_link *link);
/* Asks the worker for a second link to this address, where another process listens now; stay: to drop
 * that one again. Best effort, as a cancel. */
void med_link_send_redial(struct med_link *link, bool stay);
/* Ends a link; `closed` follows from the loop, with this reason. */
void med_link_close(struct med_link *link, const char *reason);

struct med_link_view {
    const char *peer; /* "127.0.0.1:40000" or "unix" */
    size_t unsent_bytes;
    uint64_t frames_in, frames_out;
    double round_trip_s; /* real time, of the last ping; negative: none yet */
};
void med_link_get_view(const struct med_link *link, struct med_link_view *ret_view);

/* Connections that ended without a welcome, and links that ended for a broken protocol. */
uint64_t med_link_server_refused(const struct med_link_server *server);
uint64_t med_link_server_broken(const struct med_link_server *server);

#endif
