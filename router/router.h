/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The router: doors, dispatch and worker links on one loop.
 *
 * Life: new, start, then the loop runs; drain asks it to finish; when everything has closed, nothing
 * of it is left on the loop and uv_run returns; free. What a signal means is main's business.
 *
 * Draining: health says NOT_SERVING, new calls get UNAVAILABLE, requests in flight and in the queue
 * go on until they end or the drain's time is over; then doors, links and timers close.
 * thread: loop, all of it.
 */
#ifndef MED_ROUTER_ROUTER_H
#define MED_ROUTER_ROUTER_H

#include "allocator/plan.h"
#include "base/err.h"
#include "router/dispatch/dispatch.h"
#include "router/model.h"
#include "router/net.h"
#include "router/security.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

/* Durations are real time: they are about processes and people, not about the emulated fleet. */
struct med_router_config {
    const struct med_plan *plan;                         /* borrowed until free */
    const char *plan_path;                               /* likewise; NULL: it cannot be reloaded */
    struct med_router_model *model;                      /* likewise; NULL: token ids only */
    const char *grpc_listen, *http_listen, *link_listen; /* "HOST:PORT" */
    const char *link_socket;                             /* NULL: none */
    struct med_security_config security;
    int64_t grpc_keepalive_ns, grpc_idle_ns, grpc_age_ns, grpc_streams_max;
    const char *admin; /* "auto", "off" or "HOST:PORT" */
    double time_scale;
    int64_t http_connections_max;
    int64_t queue_max;
    int64_t queue_wait_ns; /* fleet time: it belongs to the service, not to the process */
    int64_t suspect_after_ns, gone_after_ns;
    int64_t attempts_max;
    enum med_dispatch_policy policy;
    uint64_t policy_seed;
    bool admission;         /* what would wait beyond its objective is refused at once */
    int64_t breaker_faults; /* 0: never */
    int64_t users_max;      /* whose lengths are learned */
    bool prefix_affinity;
    bool resume; /* answers that have begun go on elsewhere when their worker is lost */
    int64_t drain_timeout_ns;
    const char *control_socket; /* where a successor asks for the listeners; NULL: nowhere */
    bool take_over;             /* be the successor of who listens there, if anybody does */
    int64_t retire_timeout_ns;  /* what a successor has not got may go on for so long */
    bool drain_unplanned;       /* after a reload: workers of types that the plan lacks leave */
    int64_t ping_interval_ns;   /* of silence in an HTTP stream until a comment is sent */
};

/* Where it listens; "" where it does not. */
struct med_router_addresses {
    char grpc[MED_NET_TEXT_MAX], http[MED_NET_TEXT_MAX], link[MED_NET_TEXT_MAX];
    char admin[MED_NET_TEXT_MAX]; /* the HTTP door's, or a listener's of its own */
};

struct med_router;

int med_router_new(uv_loop_t *loop, const struct med_router_config *config,
                   struct med_router **ret_router, struct med_err *err) MED_MUST_CHECK;
/* Opens links, HTTP and gRPC; as a successor it waits until workers have come, running the loop. On failure
 * call stop, run the loop to its end, and free. */
int med_router_start(struct med_router *router, struct med_router_addresses *ret_addresses,
                     struct med_err *err) MED_MUST_CHECK;
/* Reads certificates, keys and tokens again (router/security.h), then the plan's file, and puts it in
 * force; requests in flight go on.  A thread of the pool reads it; how that went is said by the log, the
 * metrics and the admin view: on failure the plan before stays.  < 0: it cannot even begin. */
int med_router_reload(struct med_router *router, struct med_err *err);
/* A second call ends the drain at once. */
void med_router_drain(struct med_router *router);
/* Ends what is left and closes everything now. */
void med_router_stop(struct med_router *router);
/* After the loop has returned. */
void med_router_free(struct med_router *router);

#endif
