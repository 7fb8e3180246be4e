/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a load test needs of a client, whatever it speaks: start a request, hear of its tokens and of
 * its one end.
 *
 * Every request that was started has one on_end, always from inside `wait`; after it the call is
 * gone.  Statuses are those of gRPC; an HTTP client translates.
 * thread: the owner's. owns: connections and calls.
 */
#ifndef MED_ROUTER_BENCH_CLIENT_H
#define MED_ROUTER_BENCH_CLIENT_H

#include "base/clock.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Copied by start. */
struct med_bench_request {
    const uint32_t *prompt; /* token ids, or the source of words */
    size_t prompt_count;
    uint32_t max_tokens;
    uint32_t output_tokens; /* the answer's length in the schedule; 0: not told to the server */
    const char *id;
    uint64_t seed;
};

struct med_bench_end {
    int64_t at_ns;                     /* fleet time */
    int status;                        /* of gRPC; 0: OK */
    const char *details, *worker_type; /* lent for the call; "" when there is nothing to say */
    int64_t completion_tokens;         /* the server's own count; -1: not told */
    int64_t prompt_tokens;             /* the same of the prompt */
    bool has_positions; /* tokens came with positions: the count must agree with them */
    bool at_once;       /* the answer came whole: there is no time between tokens */
};

struct med_bench_sink {
    void *arg;
    /* position -1: the server numbers nothing; these are the next ones. */
    void (*on_tokens)(void *arg, void *user, int64_t at_ns, int64_t position, int64_t count);
    void (*on_end)(void *arg, void *user, const struct med_bench_end *end);
};

struct med_bench_client;
struct med_grpc_client_security;

struct med_bench_client_ops {
    /* errors: MED_E_NOMEM; MED_E_LIMIT: the request is too large to send. */
    int (*start)(struct med_bench_client *client, const struct med_bench_request *request,
                 void *user, void **ret_call);
    void (*cancel)(struct med_bench_client *client, void *call); /* its end follows */
    /* Hands over what has come; waits for something until the deadline. true: something came. */
    bool (*wait)(struct med_bench_client *client, int64_t real_deadline_ns);
    void (*free)(struct med_bench_client *client); /* every call must have ended */
};

struct med_bench_client {
    const struct med_bench_client_ops *ops;
    struct med_bench_sink sink; /* set by the run */
    uint64_t reconnects; /* requests sent again, as a kept connection had been closed unanswered */
    /* Requests that waited for a connection: as many were being opened as are at once, or as many
     * were open as the process may have descriptors for. */
    uint64_t waited_for_opening, waited_for_limit;
    size_t connections_max; /* by the limit of descriptors; 0: not the client's own affair */
};

/* On the router's gRPC door. */
struct med_bench_grpc_config {
    const char *target; /* HOST:PORT or unix:PATH */
    const struct med_grpc_client_security *security;
    bool ignore_eos;
    int64_t connect_timeout_real_ns;
};
int med_bench_grpc_client_new(const struct med_bench_grpc_config *config,
                              const struct med_clock *clock, struct med_bench_client **ret_client,
                              struct med_err *err) MED_MUST_CHECK;

struct med_bench_http_config {
    const char *url;    /* http[s]://HOST:PORT[/PREFIX] */
    const char *tls_ca; /* of https: a PEM file; "system" or NULL: the system's authorities */
    const char *model;  /* NULL: not said */
    const char *key;    /* NULL: none */
    bool chat, stream, words;
    /* Prompts of single letters, each of one and the same number of tokens for nearly any
     * vocabulary; in place of words. */
    bool letters;
    bool ignore_eos;
    int64_t timeout_real_ns;         /* of one request; 0: none */
    int64_t connect_timeout_real_ns; /* until the server can be reached at all */
};
/* On any OpenAI-compatible server.  It waits until the server takes a connection. */
int med_bench_http_client_new(const struct med_bench_http_config *config,
                              const struct med_clock *clock, struct med_bench_client **ret_client,
                              struct med_err *err) MED_MUST_CHECK;

#endif
