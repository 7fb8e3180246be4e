/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client of medley.v1.Inference/GenerateStream, for `medley bench` and `medley ask`: many streams at
 * a time on one connection, on gRPC core's C API.
 *
 * A thread of its own ("client-cq") waits on the completion queue and turns what comes into events
 * in a mailbox; the owner starts and cancels calls and takes events.  One message of a call is read
 * at a time; when the mailbox is full the thread waits, and gRPC's flow control holds the server.
 *
 * A call is the caller's from start until it is freed after its end event; the last event of every
 * call that was started is its end, exactly once.
 * thread: the owner's, apart from what the comments say. owns: the connection, thread and calls.
 */
#ifndef MED_ROUTER_GRPC_CLIENT_H
#define MED_ROUTER_GRPC_CLIENT_H

#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/mailbox.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct med_grpc_client;
struct med_grpc_call;

struct med_grpc_client_message {
    const char *role, *content;
};

/* All of it is copied into the message. The prompt is the first of messages, text and ids that is
 * there. */
struct med_grpc_client_request {
    const char *model; /* NULL: the one that is served */
    const struct med_grpc_client_message *messages;
    size_t message_count;
    const char *text;
    const uint32_t *prompt;
    size_t prompt_count;
    uint32_t max_tokens;
    uint32_t emulated_output_tokens; /* 0: none */
    const char *request_id;          /* NULL: the router makes one */
    bool has_seed, has_temperature, has_top_p, ignore_eos;
    uint64_t seed;
    float temperature, top_p;
    const char *const *stops;
    size_t stop_count;
    bool echo;
    bool wants_text;         /* events carry text, and come for text alone too */
    int64_t timeout_real_ns; /* 0: no deadline */
};

/* Tokens, or the end of a call. */
struct med_grpc_event {
    struct med_message message;
    struct med_grpc_call *call;
    int64_t at_ns;     /* fleet time at which it came */
    uint32_t position; /* of the first token; unused at the end */
    uint32_t count;    /* tokens; unused at the end */
    bool end;
    const char *text; /* lies behind the event: whole characters of UTF-8; NULL: none */
    size_t text_bytes;
};

/* What is known of a call when its end event has been taken. */
struct med_grpc_call_end {
    int status;              /* grpc-status; 0: OK */
    const char *details;     /* the peer's sentence; borrowed from the call */
    const char *worker_type; /* "" when no chunk named it; borrowed from the call */
    int finish_reason;       /* 0: none came */
    uint32_t prompt_tokens, completion_tokens, cached_tokens; /* the server's own counts */
    const char *request_id, *stop; /* "" when not told; borrowed from the call */
};

enum {
    MED_GRPC_STATUS_COUNT = 17 /* status codes are below */
};
const char *med_grpc_status_name(int status); /* "UNAVAILABLE" */

/* How a router is spoken to; the values of options, borrowed for the call. */
struct med_grpc_client_security {
    const char *tls_ca; /* PEM file, or "system": TLS, the router's certificate checked with these
                                 authorities for HOST; NULL: no TLS */
    const char *api_key_file; /* its first key is presented; NULL: none */
};

/* Connects to "HOST:PORT" or "unix:PATH" and waits until the connection stands.
 * errors: MED_E_INVALID for a file of `security`; MED_E_IO with a sentence when it does not within connect_timeout_real_ns, or, unless
 * `patient`, as soon as an attempt is refused. */
int med_grpc_client_new(const char *target, const struct med_clock *clock,
                        int64_t connect_timeout_real_ns, bool patient,
                        const struct med_grpc_client_security *security,
                        struct med_grpc_client **ret_client, struct med_err *err) MED_MUST_CHECK;
/* Every call must have been freed. Accepts NULL. */
void med_grpc_client_free(struct med_grpc_client *client);

/* user is handed back by med_grpc_call_user. errors: MED_E_NOMEM; MED_E_LIMIT (the message). */
int med_grpc_client_start(struct med_grpc_client *client,
                          const struct med_grpc_client_request *request, void *user,
                          struct med_grpc_call **ret_call) MED_MUST_CHECK;
/* Its end event comes with status CANCELLED, unless it has ended. */
void med_grpc_call_cancel(struct med_grpc_call *call);
void *med_grpc_call_user(const struct med_grpc_call *call);
void med_grpc_call_get_end(const struct med_grpc_call *call, struct med_grpc_call_end *ret_end);
/* After its end event only (which lies inside the call). */
void med_grpc_call_free(struct med_grpc_call *call);

/* Events, oldest first, linked by message.next; waits as med_mailbox_wait does. */
struct med_grpc_event *med_grpc_client_wait(struct med_grpc_client *client,
                                            int64_t real_deadline_ns);
/* The next one of a taken list. */
struct med_grpc_event *med_grpc_event_next(const struct med_grpc_event *event);
/* Frees a tokens event; an end event is freed with its call. */
void med_grpc_event_free(struct med_grpc_event *event);

#endif
