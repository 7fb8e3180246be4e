/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside the gRPC door: calls, their batches and their methods.  Only router/grpc_*.c include this.
 *
 * A batch's tag is a message: the cq thread writes `ok` and posts it, and the loop runs on_done.
 * A call is freed when none of its tags is out and it is over.  One write at most is out per call.
 * thread: loop, except where a field says otherwise.
 */
#ifndef MED_ROUTER_GRPC_CALL_H
#define MED_ROUTER_GRPC_CALL_H

#include "base/buf.h"
#include "base/mailbox.h"
#include "router/descriptors.h"
#include "router/grpc_server.h"

#include <grpc/grpc.h>
#include <stdatomic.h>
#include <stdint.h>

struct med_grpc_call;

struct med_grpc_tag {
    struct med_message message; // first: the mailbox's messages are tags
    void (*on_done)(struct med_grpc_tag *tag);
    void *owner; // a call, an accept slot or the server
    bool ok;     // written by cq before it posts, read by the loop after
};

/* One method of one service. */
struct med_grpc_method {
    const char *path; // "/package.Service/Method"
    void (*on_message)(struct med_grpc_call *call, const void *bytes, size_t count);
    void (*on_half_close)(struct med_grpc_call *call); // the client sends no (further) message
    void (*on_written)(struct med_grpc_call *call);
    void (*on_cancelled)(struct med_grpc_call *call); // client gone or deadline; call->cancelled
    void (*release)(struct med_grpc_call *call);      // before the call's memory goes
};

struct med_grpc_call {
    struct med_grpc_server *server;
    struct med_grpc_call *next, *prev; // in server->calls
    const struct med_grpc_method *method;
    grpc_call *call;
    int64_t deadline_ns;     // fleet time; 0: none
    int64_t timeout_ns;      // deadline less arrival, fleet time; 0: none
    grpc_status_code status; // how it ends
    int tags_out;            // batches whose tags have not come back
    bool cancelled;          // gRPC says that the client will not see more
    bool finishing;          // the status is on its way
    bool aborted;            // gRPC was told to end it, with call->status
    bool headers_sent;
    bool writing;            // a message is on its way
    uint64_t write_since_ms; // uv_now when the batch out was started
    bool receiving;          // the client's next message is waited for
    uint64_t receive_since_ms;
    int close_flag; // gRPC writes here before the closed tag comes back
    grpc_byte_buffer *received;
    grpc_byte_buffer *sending;
    struct med_grpc_tag closed_tag, received_tag, written_tag, finished_tag;
    grpc_metadata trailing[3]; // live until the status batch is over
    size_t trailing_count;

    /* Generate, GenerateStream */
    struct med_query *query; // owned
    uint32_t turn;           // the choice whose turn it is to be written

    /* Health.Watch */
    struct med_grpc_call *watch_next, *watch_prev; // in server->watchers
    bool watching;
    int status_sent;   // what the client was told last; -1: nothing yet
    int status_wanted; // what it should know
};

enum {
    MED_GRPC_ACCEPTS = 64
}; /* calls that gRPC may hand over before the loop looks */

struct med_grpc_accept {
    struct med_grpc_server *server;
    struct med_grpc_tag tag;
    grpc_call *call;
    grpc_call_details details;
    grpc_metadata_array metadata;
};

struct med_grpc_server {
    pthread_t thread; // the loop's
    uv_loop_t *loop;
    const struct med_clock *clock;
    struct med_grpc_host host;
    struct med_grpc_config config;
    grpc_server *server;
    grpc_completion_queue *cq;
    bool started; // server started, cq thread runs, accepts armed
    bool closing;
    bool shutdown_asked; // of gRPC: listeners close, calls go on
    bool shutdown_done;  // gRPC has closed listeners and connections
    bool cq_shutdown;    // asked for; no batch may be started any more
    pthread_t cq_thread;
    struct med_mailbox mailbox; // from cq
    uv_async_t wake;
    uv_timer_t sweep;  // ends calls whose client does not read
    uint64_t swept_ms; // uv_now of the last one
    int put_offs;      // sweeps that were late, one behind another
    int handles_open;
    struct med_grpc_tag shutdown_tag, cq_ended_tag;
    struct med_grpc_accept accepts[MED_GRPC_ACCEPTS];
    int accepts_out;
    struct med_grpc_call *calls;
    size_t call_count;
    size_t request_count;                 // calls that have a request
    size_t health_count;                  // calls of Health
    uint64_t ended[MED_GRPC_CALL_COUNTS]; // [method][code]
    struct med_grpc_call *watchers;
    bool serving;
    struct med_buf scratch;             // one message being packed
    struct med_descriptors descriptors; // for reflection; empty until asked
    void (*on_closed)(void *arg);
    void *on_closed_arg;
    struct {
        /* Batches started so far. gRPC orders a batch's start before its completion, but with locks
         * that a race detector does not see into; this counter says the same in C11: the loop adds
         * with release before it starts a batch, cq loads with acquire after it has a completion. */
        atomic_ullong batches;
        /* gRPC asks for the certificate in whatever thread a handshake runs. */
        pthread_mutex_t certificate_lock;
        char *chain, *key; // PEM, owned; NULL: no TLS
        bool certificate_is_new;
    } shared;
};

/* To be called before each batch or request is given to gRPC. */
void med_grpc_server_announce(struct med_grpc_server *server);

/* Asks for the client's next message: on_message or on_half_close follows. */
void med_grpc_call_receive(struct med_grpc_call *call);
/* Sends one message; nothing may be on its way. on_written follows. */
void med_grpc_call_write(struct med_grpc_call *call, const void *bytes, size_t count);
/* Ends the call, with a last message if bytes != NULL. retry_after_ms 0: no hint; request_id may be
 * NULL.  Nothing may be on its way; does nothing for a cancelled call. */
struct med_grpc_ending {
    grpc_status_code status;
    const char *text;
    const void *bytes;
    size_t count;
    uint32_t retry_after_ms;
    const char *request_id;
};
void med_grpc_call_finish(struct med_grpc_call *call, const struct med_grpc_ending *ending);
/* Ends the call at once, whatever is on its way and whether the client reads or not. */
void med_grpc_call_abort(struct med_grpc_call *call, grpc_status_code status, const char *text);

/* Takes over the slot's call. */
void med_grpc_call_start(struct med_grpc_server *server, struct med_grpc_accept *accept);
/* Frees the call if it is over and no tag is out. */
void med_grpc_call_maybe_free(struct med_grpc_call *call);
/* The last call or accept may have gone: closing goes on. */
void med_grpc_server_maybe_stop(struct med_grpc_server *server);

extern const struct med_grpc_method MED_GRPC_GENERATE, MED_GRPC_GENERATE_STREAM;
extern const struct med_grpc_method MED_GRPC_HEALTH_CHECK, MED_GRPC_HEALTH_WATCH;
extern const struct med_grpc_method MED_GRPC_REFLECTION_V1, MED_GRPC_REFLECTION_V1ALPHA;

/* Tells watchers what server->serving says now. */
void med_grpc_health_changed(struct med_grpc_server *server);

/* For methods that do not need a callback. */
void med_grpc_call_ignore(struct med_grpc_call *call);

#endif
