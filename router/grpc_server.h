/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gRPC door: medley.v1.Inference, grpc.health.v1.Health and grpc.reflection on gRPC core's C API.
 *
 * gRPC core cannot wake a foreign loop, so the thread `cq` waits on the completion queue and posts
 * each event, unchanged, to the loop's mailbox; everything else, starting batches included, happens
 * on the loop.  No gRPC type appears here: only router/grpc_*.{c,h} include gRPC.
 *
 * Life: new, listen, (set_serving ...), close.  After close no new call is taken, those that are left
 * are cancelled, the cq thread is joined, and on_closed is called once, from the loop; the server is
 * gone then.  gRPC core must not be forked after new.
 * thread: loop, all of it.
 */
#ifndef MED_ROUTER_GRPC_SERVER_H
#define MED_ROUTER_GRPC_SERVER_H

#include "base/clock.h"
#include "base/err.h"
#include "router/request.h"

#include <stdbool.h>
#include <uv.h>

/* What the door needs of the router. */
struct med_grpc_host {
    /* 0: taken, on_end will be called (perhaps before this returns). < 0: refused; err says why,
     * query->retry_after_ms may hold a hint. */
    int (*submit)(void *self, struct med_query *query, struct med_err *err);
    /* The client is gone or its deadline has passed: on_end is called before this returns. */
    void (*cancel)(void *self, struct med_query *query, enum med_outcome outcome);
    void *self;
};

struct med_grpc_server;
struct med_keys;

/* Durations are real time. */
struct med_grpc_config {
    const struct med_keys *keys; /* one of them is asked for, but by health; borrowed; NULL: none */
    int64_t keepalive_ns;        /* a silent connection is pinged so often */
    int64_t idle_ns;             /* a connection without calls is closed after; 0: never */
    int64_t age_ns;              /* any connection is asked to leave (GOAWAY) after; 0: never */
    int64_t streams_max;         /* calls at a time of one connection */
    bool share_port;             /* another process may listen at the same port (SO_REUSEPORT) */
};

int med_grpc_server_new(uv_loop_t *loop, const struct med_clock *clock,
                        const struct med_grpc_host *host, const struct med_grpc_config *config,
                        struct med_grpc_server **ret_server, struct med_err *err) MED_MUST_CHECK;
/* PEM texts, copied.  Before listen: the door speaks TLS. Later: new connections get this one. */
int med_grpc_server_set_certificate(struct med_grpc_server *server, const char *chain,
                                    const char *key) MED_MUST_CHECK;
/* address: "HOST:PORT", port 0: the system's choice; *ret_port is the one bound. */
int med_grpc_server_listen(struct med_grpc_server *server, const char *address, int *ret_port,
                           struct med_err *err) MED_MUST_CHECK;
/* What the health service says of "" and "medley.v1.Inference"; watchers hear of a change. */
void med_grpc_server_set_serving(struct med_grpc_server *server, bool serving);
/* Calls that are not over yet, streams of Health.Watch and reflection included. */
size_t med_grpc_server_calls(const struct med_grpc_server *server);
/* Those of them that have a request: its answer has not been written whole. */
size_t med_grpc_server_requests(const struct med_grpc_server *server);
/* Calls that have ended, by method and status: those above 0; how many of at most `max`. */
struct med_grpc_call_count {
    const char *method, *code; /* static: "medley.v1.Inference/Generate", "OK" */
    uint64_t count;
};
enum {
    MED_GRPC_CALL_COUNTS = 7 * 17 /* methods, and calls of none, by codes */
};
size_t med_grpc_server_get_counts(const struct med_grpc_server *server,
                                  struct med_grpc_call_count *ret_counts, size_t max);
/* Asks the clients to leave: the listener closes, connections get a GOAWAY, calls go on. */
void med_grpc_server_drain(struct med_grpc_server *server);
/* NULL server: nothing, on_closed is not called. */
void med_grpc_server_close(struct med_grpc_server *server, void (*on_closed)(void *arg), void *arg);

#endif
