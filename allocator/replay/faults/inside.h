/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of faults: what the engine, those who draw faults and the ledger share.
 * thread: the caller's. owns: struct fault_engine owns its arrays.
 */
#ifndef MED_ALLOCATOR_REPLAY_FAULTS_INSIDE_H
#define MED_ALLOCATOR_REPLAY_FAULTS_INSIDE_H

#include "allocator/replay/faults/faults.h"
#include "allocator/replay/fleet/sim.h"
#include "base/rng.h"

/* Of one worker. */
struct fault_victim {
    int64_t until_ns[MED_FAULT_COUNT]; /* when each kind heals; past: it has not got it */
    int64_t back_ns;                   /* joins again; SIM_NEVER_NS: it is there, or not to come */
    bool wanted;                       /* the plan in force counts it */
    size_t strike;                     /* of the log, the last that hit it; SIZE_MAX: none */
    int64_t by_ns;                     /* delay, at most */
    int64_t last_ns[2]; /* arrival of the last message, by direction: links keep their order */
};

struct fault_engine;

/* Draws a fault and says when the next is drawn. False: none strikes now. */
typedef bool fault_draw_fn(struct fault_engine *f, struct sim *sim,
                           struct med_fault_event *ret_event);

struct fault_engine {
    const struct med_plan *plan;
    const struct med_sim_options *options;
    const struct med_fault_schedule *schedule; /* NULL: all are drawn */
    size_t schedule_next;
    fault_draw_fn *draw; /* NULL: none is drawn */
    struct med_rng rng;
    struct fault_victim *victims; /* [worker] */
    int64_t *numbers;             /* [worker] among those of its type */
    size_t worker_count;
    bool *hit;                /* [worker] by the strike at hand */
    int64_t beat_ns, draw_ns; /* when next; draw_ns SIM_NEVER_NS: no more are drawn */
    int64_t next_ns;          /* the first of all that is to come */
    size_t healed;            /* strikes of the log before this one are over */
    struct med_fault_log *log;
    struct fault_ledger *ledger; /* NULL: nobody watches */
    struct med_err *err;
};

/* ---- faults.c ---- */

/* sim: initialised, not yet run. errors: MED_E_NOMEM; release works after any. */
int fault_engine_init(struct fault_engine *f, const struct sim *sim,
                      struct med_err *err) MED_MUST_CHECK;
void fault_engine_release(struct fault_engine *f);
/* Hooks of the simulation: the engine's, with the ledger's where there is one. */
struct sim_hooks fault_engine_hooks(struct fault_engine *f);
int64_t fault_between_ms(struct fault_engine *f, int64_t from_ms, int64_t to_ms);
/* The workers of a target: bits of `ret_hit` [worker_count]; how many. 0: there are none of that name. */
size_t fault_target_find(const struct fault_engine *f, const struct sim *sim, const char *target,
                         bool *ret_hit);
/* "h100-0" */
void fault_worker_name(const struct fault_engine *f, const struct sim *sim, uint32_t worker,
                       char ret_name[MED_FAULT_TARGET_BYTES]);
void fault_counts_get(const struct sim *sim, struct med_fault_counts *ret_counts);

/* ---- faults/plan.c ---- */

/* Spare workers that the simulation needs for the schedule's plans, by profile of `plan`.
 * errors: MED_E_USAGE for a worker type that `plan` has no profile of. */
int fault_plan_spares(const struct med_plan *plan, const struct med_fault_schedule *schedule,
                      int64_t *ret_spares, struct med_err *err) MED_MUST_CHECK;
/* Puts another plan in force; workers that it adds come after start_ns. A failure is in sim->rc. */
void fault_plan_strike(struct fault_engine *f, struct sim *sim, const struct med_plan *plan,
                       int64_t start_ns);

/* ---- faults/draw.c ---- */

/* What a user's `random` draws, and what seeds draw. */
fault_draw_fn fault_draw_scheduled, fault_draw_seeded;
/* A configuration with one type fewer or fewer workers, another policy, queue and resume. */
void fault_draw_replan(struct fault_engine *f, struct sim *sim);

/* ---- faults/ledger.c ---- */

struct fault_ledger {
    struct med_fault_report *report;
    int64_t *in_flight; /* [worker] */
    FILE *trace;
};

__attribute__((format(printf, 3, 4))) void
fault_ledger_violate(struct fault_ledger *l, const struct sim *sim, const char *format, ...);
/* At the end of an instant. */
void fault_ledger_observe(struct fault_ledger *l, const struct sim *sim);
/* A fault strikes now. */
void fault_ledger_strike(struct fault_ledger *l, const struct sim *sim,
                         const struct med_fault_event *event);
/* A message to a worker is posted. */
void fault_ledger_send(struct fault_ledger *l, const struct sim *sim,
                       const struct sim_message *message);

#endif
