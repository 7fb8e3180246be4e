/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the service's two files share: service.c (requests, stopping, starting) and service_report.c
 * (what it tells).  Nobody else includes this.
 * thread: loop.
 */
#ifndef MED_WORKER_SERVICE_INTERNAL_H
#define MED_WORKER_SERVICE_INTERNAL_H

#include "base/rng.h"
#include "router/http_server.h"
#include "worker/requests.h"
#include "worker/service.h"

enum {
    MED_SERVICE_ROUTERS_MAX = 64
};

enum med_service_phase {
    MED_SERVICE_SERVING,
    MED_SERVICE_DRAINING,
    MED_SERVICE_LINKS,
    MED_SERVICE_HTTP,
    MED_SERVICE_LAST
};

/* One router. */
struct med_service_route {
    struct med_uplink *link; /* NULL once it has stopped */
    struct med_service *service;
    int64_t held;        /* requests that answer to it */
    bool draining;       /* the router drains us */
    const char *address; /* of its router; the configuration's */
    bool
        leaving; /* another route has been dialled to the same address; this one ends with its link */
};

/* thread: loop */
struct med_service {
    const struct med_service_config *config;
    uv_loop_t loop;
    uv_async_t wake;
    uv_signal_t sigterm, sigint, sighup;
    uv_timer_t deadline, busy_line, beat;
    struct med_engine *engine;
    struct med_http_server *http;
    struct med_requests requests;
    struct med_measure *measure;     /* that the engine has; NULL: none */
    struct med_uplink *measure_link; /* who waits for it; NULL: nobody */
    struct med_service_route routes[MED_SERVICE_ROUTERS_MAX];
    size_t route_count; /* that have ever had a link; from router_count on, those of redials */
    size_t links_open;
    uint64_t links_made;
    enum med_service_phase phase;
    int failure; /* the engine's; what run returns */
    struct med_err failure_err;
    bool given_up; /* the engine thread does not come back; nothing of it is touched any more */
    uint64_t refused, rejected;
    struct med_rng rng; /* of seeds */
    /* Of the last busy line. */
    int64_t line_ns;
    uint64_t line_prompt, line_generated;
};

/* service_measure.c: what a profiler asks; `wake`: the engine may have a measurement done. */
void med_service_on_measure(void *arg, struct med_uplink *link,
                            const struct med_uplink_measure *asked);
void med_service_on_describe(void *arg, struct med_uplink *link);
void med_service_take_measured(struct med_service *service);

/* The engine has failed: says so, once. */
void med_service_note_failure(struct med_service *service);

/* The READY line, on standard error. */
void med_service_print_ready(const struct med_service *service);
/* A line of throughput and load, if there is any. */
void med_service_busy_line(struct med_service *service);
/* The handler of /metrics and /health. */
void med_service_on_http(void *self, struct med_http_exchange *x);

#endif
