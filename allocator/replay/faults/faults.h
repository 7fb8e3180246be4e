/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults in the simulation: given at a time, or drawn by a seed; and what came of each.
 *
 * One engine (faults.c) does what a fault does to the fleet; faults come from a schedule that a user wrote
 * (faults/spec.c) or are drawn (faults/draw.c).  Runs of seeds are watched by a ledger (faults/ledger.c),
 * which compares counts of its own with dispatch's after each instant.
 * Same plan, arrivals, options and schedule: same result.  thread: the caller's. owns: as each says.
 */
#ifndef MED_ALLOCATOR_REPLAY_FAULTS_FAULTS_H
#define MED_ALLOCATOR_REPLAY_FAULTS_FAULTS_H

#include "allocator/replay/fleet/simulate.h"

#include <stdio.h>

enum med_fault {
    MED_FAULT_CRASH,     /* another process comes back later */
    MED_FAULT_HANG,      /* nothing moves and nothing beats */
    MED_FAULT_STALL,     /* nothing moves, but it beats */
    MED_FAULT_SLOW,      /* iterations take a few times as long */
    MED_FAULT_LIE,       /* Stats of chance */
    MED_FAULT_DROP,      /* the connection; the worker computes on */
    MED_FAULT_DELAY,     /* messages, each by chance, in order on their link */
    MED_FAULT_PARTITION, /* nothing passes the link until it heals; then all that waited does */
    MED_FAULT_DRAIN,     /* then it leaves, and comes back */
    MED_FAULT_PLAN,      /* another comes into force */
    MED_FAULT_CANCEL,    /* the client of an open request goes away; of seeds only */
    MED_FAULT_COUNT
};
const char *med_fault_name(enum med_fault fault); /* "crash" */

enum {
    MED_FAULTS_MAX = 256,       /* given ones */
    MED_FAULT_PLANS_MAX = 8,    /* among them */
    MED_FAULT_TARGET_BYTES = 80 /* the longest name of a worker type, and a number */
};

struct med_fault_event {
    enum med_fault kind;
    int64_t at_ns;  /* from the start of the arrivals */
    int64_t for_ns; /* until it heals; 0: it does not */
    char
        target[MED_FAULT_TARGET_BYTES]; /* "h100-0", a worker type, or "all"; of a plan: its file */
    double factor;                      /* MED_FAULT_SLOW: of an iteration's time */
    int64_t by_ns;                      /* MED_FAULT_DELAY: the most by which a message is late */
    size_t plan;                        /* MED_FAULT_PLAN: index into the schedule's plans */
};

/* owns: the plans. */
struct med_fault_schedule {
    struct med_fault_event events[MED_FAULTS_MAX]; /* by time */
    size_t count;
    struct med_plan plans[MED_FAULT_PLANS_MAX];
    size_t plan_count;
    int64_t every_ns; /* > 0: faults are drawn too, so far apart on average */
    uint32_t kinds;   /* of those drawn: bits 1 << enum med_fault */
    uint64_t seed;
};

/* `text`: faults separated by ";", each KIND@TIME:TARGET[,for=TIME][,factor=X][,by=TIME], or
 * random[,every=TIME][,kinds=KIND+KIND...].  Plans that it names are read.
 * errors: MED_E_USAGE with which fault, what was found and what was expected; those of med_plan_read_file.
 * Release works after any. */
int med_fault_schedule_parse(const char *text, uint64_t seed,
                             struct med_fault_schedule *ret_schedule,
                             struct med_err *err) MED_MUST_CHECK;
void med_fault_schedule_release(struct med_fault_schedule *schedule);

/* What a whole run has counted at one time. */
struct med_fault_counts {
    uint64_t retried;        /* sent again, because their worker was lost, hung or left */
    uint64_t resumed;        /* of these, with tokens already delivered */
    uint64_t lost;           /* ended with MED_OUTCOME_WORKER_LOST */
    uint64_t refused;        /* at once */
    uint64_t expired;        /* in the queue */
    uint64_t stale_messages; /* of attempts that were over */
};

/* A fault that struck. */
struct med_fault_strike {
    struct med_fault_event event;
    size_t workers; /* that it hit; 0: none was there */
    bool over;      /* it healed before the end; then `after` is of that moment, else of the end */
    int64_t suspect_ns,
        gone_ns; /* when the router first took one of them for silent, for lost; -1: never */
    struct med_fault_counts before, after; /* at its start; when it was over */
};

/* owns: strikes. */
struct med_fault_log {
    struct med_fault_strike *strikes; /* by time */
    size_t count, room;
    struct med_fault_counts total;
};
void med_fault_log_release(struct med_fault_log *log);

/* owns: both. */
struct med_fault_outcome {
    struct med_sim_result result;
    struct med_fault_log log;
};

/* As med_simulate, with faults.  Workers beat every 250 ms; silence after the options' times, which are
 * the router's defaults where they are 0.  errors: of med_simulate; MED_E_USAGE for a target that the plan has
 * not, and for a time after the last arrival. */
int med_fault_simulate(const struct med_plan *plan, const struct med_sim_arrival *arrivals,
                       size_t count, const struct med_sim_options *options,
                       const struct med_fault_schedule *schedule,
                       struct med_fault_outcome *ret_outcome, struct med_err *err) MED_MUST_CHECK;

/* ---- seeds ---- */

struct med_fault_report {
    uint64_t faults[MED_FAULT_COUNT]; /* that struck */
    struct med_dispatch_totals totals;
    char violation[256]; /* empty: all held */
    int64_t violation_ns;
};

/* Arrivals as for med_simulate; deadlines, bursts and the options are drawn by the seed.
 * trace (may be NULL) gets a line for each fault. 0 also with a violation, after which the run is left as it
 * stands: a dispatch whose counts are wrong would assert on release, so the caller ends the process.
 * errors: as med_simulate. */
int med_fault_run(const struct med_plan *plan, const struct med_sim_arrival *arrivals, size_t count,
                  uint64_t seed, FILE *trace, struct med_fault_report *ret_report,
                  struct med_err *err) MED_MUST_CHECK;

#endif
