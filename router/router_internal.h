/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside the router: the state that its files share.  thread: loop.
 *
 * router.c            life: start, timers, drain, close
 * router_queries.c    from doors to dispatch, and the end of queries
 * router_encode.c     prompts that the thread pool encodes
 * router_requests.c   slots, dispatch's callbacks, tokens
 * router_links.c      from worker links to dispatch
 * router_drain.c      workers that leave
 * router_plan.c       the plan, and its successors
 * router_successor.c  how one process follows another
 * router_pages.c      the HTTP door's pages
 * admin_*.c           the admin view: what it shows, its actions, who may ask
 */
#ifndef MED_ROUTER_ROUTER_INTERNAL_H
#define MED_ROUTER_ROUTER_INTERNAL_H

#include "base/clock.h"
#include "base/rng.h"
#include "router/dispatch/dispatch.h"
#include "router/grpc_server.h"
#include "router/hand_over.h"
#include "router/http_server.h"
#include "router/link_server.h"
#include "router/metrics.h"
#include "router/openai/door.h"
#include "router/recent.h"
#include "router/request.h"
#include "router/router.h"

/* A request that dispatch has; its id is the generation above the slot's index. */
struct med_router_slot {
    struct med_req *req; // NULL: free
    uint32_t generation;
    uint32_t next_free;
};

/* A worker that dispatch has, by dispatch's index. */
struct med_router_worker {
    struct med_link *link; // NULL: none
    char id[MED_LIMIT_NAME_BYTES + 1];
    char type_name[MED_LIMIT_NAME_BYTES + 1];
    char backend[32], program_version[32];
    size_t type;
    bool draining;                            // it leaves: it said so, or an operator wants it to
    bool drain_asked;                         // an operator does
    uint64_t drain_until_ns, drain_goaway_ns; // uv_hrtime when its requests go elsewhere; 0: never
    bool drain_over;                          // that time has come: its link is closing
    bool drained;                             // it has none any more
    uint64_t beat;                            // the worker's own clock, as last told
    int64_t beat_seen_ns;                     // fleet time when `beat` last changed
    struct med_link_stats stats;
};

/* A worker that has left. */
struct med_router_departed {
    char id[MED_LIMIT_NAME_BYTES + 1];
    char type_name[MED_LIMIT_NAME_BYTES + 1];
    bool drained;          // nothing of it was left: it may be deleted
    int64_t requests_left; // that had to go elsewhere, or ended
    int64_t at_unix_ns;
};

enum {
    MED_ROUTER_DEPARTED_MAX = 64 // as many are remembered
};

enum med_router_state {
    MED_ROUTER_RUNNING,
    MED_ROUTER_RETIRING, // a successor serves; what is connected here may go on
    MED_ROUTER_DRAINING,
    MED_ROUTER_CLOSING
};

/* The plan in force, and reloads of it. */
struct med_router_reload {
    struct med_plan *plan; // owned; NULL: the first one, which is main's
    uint64_t generation;   // 1: the first
    int64_t loaded_unix_ns;
    uint64_t done, refused;
    bool reading, again;  // the pool reads the file; once more after that
    char last_error[512]; // of the last one; "": it was done
};

struct med_router {
    pthread_t thread;
    uv_loop_t *loop;
    struct med_router_config config;
    struct med_clock clock;
    struct med_security security;
    enum med_router_state state;
    struct med_dispatch *dispatch;
    uint32_t workers_max;
    struct med_router_slot *slots; // [MED_LIMIT_CALLS]
    uint32_t slot_free;            // first free one; UINT32_MAX: none
    size_t active;                 // requests that dispatch has
    struct med_query *doomed;      // queries of which a choice failed: the others are to end
    struct med_router_encoding *encodings; // jobs of the thread pool
    size_t encoding_bytes;                 // their text
    struct med_rng rng;                    // seeds of queries that name none
    uint64_t hash_salt;   // so that clients cannot choose rows of dispatch's tables
    int64_t vocab_tokens; // what clients may send as ids is below it
    uint64_t request_counter;
    struct med_router_reload reload;
    struct med_hand_over *hand_over;   // NULL: no control socket
    struct med_take_over take_over;    // fd -1: no predecessor
    struct med_router_addresses bound; // where it listens
    int grpc_port;
    uint64_t retire_since_ns;          // uv_hrtime
    uv_timer_t retire;                 // looks whether the last connection has gone
    uint32_t boot;                     // makes request ids differ between starts
    struct med_router_worker *workers; // [workers_max]
    uint32_t workers_end;              // behind the last that ever was there
    size_t worker_count;
    struct med_router_departed departed[MED_ROUTER_DEPARTED_MAX]; // a ring
    uint64_t departed_count;                                      // that ever were
    size_t workers_draining;
    struct med_router_worker joining; // while dispatch takes a worker in
    uint32_t joining_index;           // UINT32_MAX: nobody joins
    size_t workers_ready;             // as of the last look
    uint32_t retry_after_ms;          // likewise
    uint64_t submitting;              // the request that dispatch is being given; 0: none
    struct med_router_metrics metrics;
    struct med_recent recent; // requests that have ended
    int64_t started_unix_ns;
    struct med_grpc_server *grpc;
    struct med_http_server *http;
    struct med_openai_door *openai;
    struct med_link_server *links;
    struct med_http_server *admin_http; // a listener of the admin view's own; NULL: none
    bool admin_on_http;                 // the HTTP door has the admin view
    uv_prepare_t prepare;               // arms `tick` before the loop sleeps
    uv_timer_t tick;                    // dispatch's time
    uv_timer_t watch;                   // loop delay, health, retry hint
    uv_timer_t drain_timer;
    int64_t tick_at_ns;     // INT64_MAX: not armed
    int tick_put_offs;      // so often was it late and armed once more for what has come meanwhile
    uint64_t watch_due_ns;  // uv_hrtime
    int64_t spent_until_ns; // fleet time up to which workers' cost is counted
    double loop_delay_max_s;
    uint64_t drain_until_ns, drain_goaway_ns; // uv_hrtime
    int parts_open;                           // doors, links and handles that have not closed yet
};

/* router_queries.c; the first two are the doors' host, self is the router */
int med_router_submit(void *self, struct med_query *query, struct med_err *err);
void med_router_give_up(void *self, struct med_query *query, enum med_outcome outcome);
/* Every choice ends with this outcome, and the query before this returns. */
void med_router_cancel(struct med_router *router, struct med_query *query,
                       enum med_outcome outcome);
/* The pool has encoded the prompt, or says why not. */
void med_router_encoded(struct med_router *router, struct med_query *query, int rc,
                        const struct med_err *err);
/* One of its choices has ended; the last one ends the query. */
void med_router_choice_ended(struct med_router *router, struct med_req *req);
/* Ends the choices that are left of queries that have failed.  Not from a callback of dispatch. */
void med_router_end_doomed(struct med_router *router);
/* Ends all queries that are left: the drain's time is over. */
void med_router_abort_all(struct med_router *router);

/* router_encode.c */
struct med_router_encoding;
/* Gives the prompt to the thread pool; med_router_encoded comes, unless it is forgotten. */
int med_router_encode(struct med_router *router, struct med_query *query,
                      struct med_err *err) MED_MUST_CHECK;
void med_router_encode_forget(struct med_router *router, struct med_query *query);
void med_router_encode_abort_all(struct med_router *router);

/* router_requests.c */
/* Gives a choice a slot and to dispatch.  Results as of med_dispatch_submit, or MED_E_OVERLOAD. */
int med_router_dispatch(struct med_router *router, struct med_req *req) MED_MUST_CHECK;
/* Dispatch's callbacks; arg is the router. */
int med_router_on_send(void *arg, uint64_t request, uint32_t attempt, uint32_t index);
void med_router_on_cancel(void *arg, uint64_t request, uint32_t attempt, uint32_t index);
void med_router_on_end(void *arg, uint64_t request, enum med_outcome outcome, int code);
/* The request with this id, or NULL. */
struct med_req *med_router_find(struct med_router *router, uint64_t request);
/* A worker's tokens, after dispatch has taken them. */
void med_router_tokens(struct med_router *router, struct med_req *req,
                       const struct med_link_tokens *tokens);

/* router_links.c: ops of the link server, self is the router */
extern const struct med_link_ops MED_ROUTER_LINK_OPS;
/* The worker with dispatch's index, also while it joins; NULL: none. */
struct med_router_worker *med_router_worker_at(struct med_router *router, uint32_t worker);

/* router_drain.c */
/* Takes a worker out of service: no new requests; those it has end there, or, when timeout_ns of real
 * time are over (0: at once; negative: never), go on elsewhere. It is told to leave.  Again: the newer
 * time counts. errors: MED_E_NOT_FOUND, with a sentence. */
int med_router_drain_worker(struct med_router *router, const char *worker_id, int64_t timeout_ns,
                            struct med_err *err) MED_MUST_CHECK;
/* It drains from now on. */
void med_router_note_drain(struct med_router *router, struct med_router_worker *worker);
/* Whose requests have ended, and whose time is over. Now and then. */
void med_router_look_at_drains(struct med_router *router);
/* Its link has closed; requests_left: what it had then. */
void med_router_worker_departs(struct med_router *router, const struct med_router_worker *worker,
                               int64_t requests_left, const char *reason);
struct med_json_writer;
/* "departed" of /admin/state, newest first. */
void med_router_put_departed(struct med_json_writer *w, const struct med_router *router);

struct med_json_writer;
/* admin_decisions.c: "decisions" of the state */
void med_router_put_decisions(struct med_json_writer *w, struct med_router *router);
/* admin_state.c: the body of /admin/state */
int med_router_admin_state(struct med_router *router, struct med_buf *out) MED_MUST_CHECK;
int64_t med_router_planned(const struct med_router *router, const char *worker_type);
const char *med_router_status_name(const struct med_router *router); /* "serving" */

/* router_plan.c */
/* Vocabulary and dispatch, of the plan in the configuration. */
int med_router_plan_init(struct med_router *router, struct med_err *err) MED_MUST_CHECK;
void med_router_plan_release(struct med_router *router);
/* --drain-unplanned: workers that the plan lacks leave when all that it wants are there. */
void med_router_look_at_unplanned(struct med_router *router);

/* router_successor.c: how one process follows another */
/* Before the doors are open: takes what a predecessor gives, if there is one. */
int med_router_take_over(struct med_router *router, struct med_err *err) MED_MUST_CHECK;
/* With the links open: has the workers dial here, and runs the loop until they have. */
int med_router_await_workers(struct med_router *router, struct med_err *err) MED_MUST_CHECK;
/* With all doors open: the predecessor retires, and the control socket is opened. */
int med_router_succeed(struct med_router *router, struct med_err *err) MED_MUST_CHECK;
/* How old gRPC connections get; 0: as old as they like. */
int64_t med_router_connection_age_ns(const struct med_router *router);
/* A descriptor from the predecessor, -1: none. The address must be what the options ask for. */
int med_router_inherit(struct med_router *router, const char *name);
/* Does anybody listen at this address?  A shared port would hide it. */
int med_router_check_port_free(const struct sockaddr_storage *address,
                               struct med_err *err) MED_MUST_CHECK;

/* router_pages.c: handler of the HTTP door, self is the router */
void med_router_on_http(void *self, struct med_http_exchange *x);
void med_router_on_http_gone(void *self, struct med_http_exchange *x);
void med_router_on_http_drained(void *self, struct med_http_exchange *x);
void med_router_on_http_status(void *self, const char *path, int status);
/* The same for a listener that has the admin view alone. */
void med_router_on_admin_http(void *self, struct med_http_exchange *x);

/* A job of the loop that began at this uv_hrtime is over. */
void med_router_job_ran(struct med_router *router, enum med_loop_job job, uint64_t began_ns);

/* router.c: counts what connected workers have cost since the last time. */
void med_router_spend(struct med_router *router);
/* router.c: counts ready workers and tells the health service. */
void med_router_look(struct med_router *router);
/* Reads certificates, keys and tokens again; what does not load stays as it was. */
void med_router_reload_security(struct med_router *router);

#endif
