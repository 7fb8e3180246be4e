/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of the simulation: what its files share, and what whoever breaks things in it needs.
 *
 * fleet.c has the loop and dispatch's shell, workers.c the workers, messages.c what is under way
 * between them, setup.c the beginning and the end.
 * thread: the caller's. owns: struct sim owns all but the arrivals and the hooks.
 */
#ifndef MED_ALLOCATOR_REPLAY_FLEET_SIM_H
#define MED_ALLOCATOR_REPLAY_FLEET_SIM_H

#include "allocator/replay/fleet/messages.h"
#include "allocator/replay/fleet/samples.h"
#include "allocator/replay/fleet/simulate.h"
#include "profiles/latency.h"
#include "router/dispatch/dispatch.h"
#include "worker/engine/scheduler.h"

#define SIM_NEVER_NS (INT64_MAX / 4) /* longer than any simulation */

struct sim;

/* What happens besides arrivals and answers. Each may be NULL. */
struct sim_hooks {
    /* When `act` is due, SIM_NEVER_NS: not; and then, before anything else of that instant. */
    int64_t (*next_ns)(void *arg, const struct sim *sim);
    void (*act)(void *arg, struct sim *sim);
    /* Of a message that is posted now. *at_ns is when it would arrive and may be put later (not before
     * now); false: it is lost. */
    bool (*route)(void *arg, struct sim *sim, const struct sim_message *message, int64_t *at_ns);
    /* At the end of each instant at which something happened. */
    void (*observe)(void *arg, const struct sim *sim);
    void *arg;
};

struct sim_worker {
    struct med_scheduler *scheduler;
    const struct med_latency *latency; /* of its type, in sim->latencies */
    const struct med_batch *batch;     /* of the running iteration; NULL: idle */
    bool *stops;                       /* [items of a batch] */
    size_t profile;                    /* index into plan->profiles */
    int64_t ends_ns;                   /* the running iteration */
    int64_t busy_ns;
    uint32_t name;            /* dispatch's */
    bool listed;              /* in sim->ready */
    uint32_t connection;      /* counts them; 0 is the first */
    bool away;                /* not connected: nothing arrives */
    double slowness;          /* factor of an iteration's time; 0: as the model says */
    int64_t stalled_until_ns; /* no iteration ends before */
};

struct sim {
    const struct med_sim_arrival *arrivals;
    size_t count, next; /* arrivals in all, and that have come */
    struct med_sim_request *requests;
    struct med_dispatch *dispatch;
    struct sim_worker *workers;
    uint32_t *indices;                  /* [dispatch's name] -> worker */
    size_t worker_count, planned_count; /* all, spares behind those of the plan */
    struct med_latency *latencies; /* [profiles of the plan]; zeroed: no worker asked for it yet */
    uint32_t *busy;                /* binary heap of workers by ends_ns */
    size_t busy_count;
    uint32_t *ready; /* workers that may begin an iteration at the end of this instant */
    size_t ready_count;
    struct sim_messages messages;
    const struct sim_hooks *hooks; /* NULL: none */
    struct sim_sampler sampler;
    int64_t link_delay_ns;
    int64_t now_ns, last_end_ns;
    size_t open;               /* accepted and not ended */
    uint64_t retried, resumed; /* sent again; of these, with tokens delivered */
    int rc;                    /* the first failure inside a callback */
};

#define SIM_OUTCOME_UNSET INT32_MAX /* of a request that has not ended */

/* ---- setup.c ---- */

/* Everything joined and ready at time 0. On failure it is released. */
int sim_init(struct sim *sim, const struct med_plan *plan, const struct med_sim_arrival *arrivals,
             size_t count, const struct med_sim_options *options,
             struct med_err *err) MED_MUST_CHECK;
/* Dispatch's configuration for a plan under these options; release with med_dispatch_config_release. */
int sim_dispatch_config(const struct sim *sim, const struct med_plan *plan,
                        const struct med_sim_options *options,
                        struct med_dispatch_config *ret_config, struct med_err *err) MED_MUST_CHECK;
/* After a run: checks what must hold, and moves the result out. */
int sim_take_result(struct sim *sim, struct med_sim_result *ret_result,
                    struct med_err *err) MED_MUST_CHECK;
void sim_release(struct sim *sim);

/* ---- fleet.c ---- */

/* The callbacks of dispatch, which speak to this simulation. */
struct med_dispatch_ops sim_dispatch_ops(struct sim *sim);
/* Sends a message over its link: it arrives after the link's delay, or as the hooks say. A failure is
 * kept in sim->rc. */
void sim_post(struct sim *sim, struct sim_message message);
/* Until every arrival has come and every request that was accepted has ended, or sim->rc < 0. */
void sim_run(struct sim *sim);

/* ---- setup.c, again ---- */

/* Says hello and how it is, over a new connection. */
int sim_join(struct sim *sim, uint32_t index, const struct med_profile *profile,
             struct med_err *err) MED_MUST_CHECK;

/* ---- workers.c ---- */

/* The process is another: what it held is gone. errors: MED_E_NOMEM, the worker is as it was. */
int sim_worker_restart(struct sim *sim, uint32_t index, struct med_err *err) MED_MUST_CHECK;
/* Nothing moves on it until then. */
void sim_worker_stall(struct sim *sim, uint32_t index, int64_t until_ns);

int sim_worker_init(struct sim *sim, uint32_t index, const struct med_profile *profile,
                    size_t profile_index, struct med_err *err) MED_MUST_CHECK;
void sim_worker_release(struct sim_worker *worker);
/* A message of the router's has come. */
void sim_worker_hear(struct sim *sim, const struct sim_message *message);
/* When the first running iteration ends; SIM_NEVER_NS: none runs. */
int64_t sim_workers_next_ns(const struct sim *sim);
/* Ends those that end now; begins those that can. */
void sim_workers_end_due(struct sim *sim);
void sim_workers_begin_ready(struct sim *sim);

#endif
