/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The processes of a plan on this machine: one router, one worker per planned worker.
 *
 * Starts the router, waits for its READY line and its addresses, starts the workers, waits for all
 * of theirs and until the router's /health counts them; then keeps them running.  A router that is started again gets the same addresses, so
 * that workers and clients find it.  Stopping goes the other way: workers drain, then the router.
 * thread: loop. owns: its children. The plan and the options outlive it.
 */
#ifndef MED_ROUTER_UP_FLEET_H
#define MED_ROUTER_UP_FLEET_H

#include "allocator/plan.h"
#include "base/options.h"
#include "router/up/child.h"
#include "router/up/probe.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <uv.h>

enum {
    MED_FLEET_WORKERS_MAX = 512, /* processes of one machine; a larger plan is refused */
    MED_FLEET_ADDRESS_MAX = 256
};

struct med_fleet_options {
    const char *plan_path;
    const char *router_program, *worker_program; /* paths */
    const char *grpc_listen, *http_listen, *link_listen;
    const char *backend; /* of the workers; NULL: their own default */
    const char *model;   /* the model's folder, for router and workers; NULL: the plan's, if any */
    double time_scale;
    struct med_option_list router_arguments, worker_arguments; /* passed on as they are */
    int64_t start_timeout_ns, stop_timeout_ns;                 /* real time */
};

enum med_fleet_phase {
    MED_FLEET_STARTING_ROUTER,
    MED_FLEET_STARTING_WORKERS,
    MED_FLEET_JOINING, /* the workers are ready; the router does not have all of them yet */
    MED_FLEET_RUNNING,
    MED_FLEET_STOPPING_WORKERS,
    MED_FLEET_STOPPING_ROUTER,
    MED_FLEET_STOPPED,
};

enum med_fleet_row {
    MED_FLEET_WANTED,
    MED_FLEET_LEAVING, /* the plan has no place for it; it serves until its replacements are there */
    MED_FLEET_DRAINING, /* told to stop */
    MED_FLEET_IDLE      /* it has ended; the row may be another worker's */
};

struct med_fleet_worker {
    struct med_child child;
    enum med_fleet_row row;
    char worker_type[MED_LIMIT_NAME_BYTES + 1];
};

/* thread: loop */
struct med_fleet {
    uv_loop_t *loop;
    const struct med_plan *plan;
    const struct med_fleet_options *options;
    enum med_fleet_phase phase;
    struct med_child router;
    struct med_fleet_worker *workers; /* [MED_FLEET_WORKERS_MAX]: children do not move */
    size_t worker_count;              /* rows that were ever used */
    bool reloading; /* another plan's workers start, or those that it lacks leave */
    char grpc[MED_FLEET_ADDRESS_MAX], http[MED_FLEET_ADDRESS_MAX], link[MED_FLEET_ADDRESS_MAX];
    int64_t begun_ms;
    uv_timer_t limit; /* of starting, then of stopping */
    uv_timer_t probe_pause;
    struct med_probe probe;
    struct sockaddr_storage http_address;
    int64_t workers_joined;                     /* as the router last said */
    struct med_err failure;                     /* code 0: none. Why it stopped by itself */
    void (*on_change)(struct med_fleet *fleet); /* ready for the first time, or a child is back */
    void *user;
};

/* True if the workers take the time that the plan says, instead of computing. */
bool med_fleet_is_emulated(const struct med_fleet_options *options);
/* Checks that the plan can be run here: it has workers; each has a step model, where they are
 * emulated; there is a model to compute, and the time scale is 1, where they are not.
 * errors: MED_E_INFEASIBLE, MED_E_USAGE, MED_E_INVALID with a sentence. */
int med_fleet_check(const struct med_plan *plan, const struct med_fleet_options *options,
                    struct med_err *err) MED_MUST_CHECK;
int med_fleet_init(struct med_fleet *fleet, uv_loop_t *loop, const struct med_plan *plan,
                   const struct med_fleet_options *options, struct med_err *err) MED_MUST_CHECK;
void med_fleet_start(struct med_fleet *fleet);
/* Another plan, checked, is to be run: the router reads it; workers that it adds are started, and when
 * they serve, those that it has no place for are drained.  The plan before may go when this returns.
 * errors: MED_E_AGAIN it is not running yet, or stops; MED_E_LIMIT, MED_E_NOMEM; the fleet is as it was. */
int med_fleet_reload(struct med_fleet *fleet, const struct med_plan *plan,
                     struct med_err *err) MED_MUST_CHECK;
/* Stops in order; called again, kills.  The loop ends when all has ended. */
void med_fleet_stop(struct med_fleet *fleet);
/* After the loop has ended. */
void med_fleet_release(struct med_fleet *fleet);

double med_fleet_age_s(const struct med_fleet *fleet); /* real, since start */

#endif
