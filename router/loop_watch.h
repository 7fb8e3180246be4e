/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the loop's time goes: how long its turns and jobs took, and who held it up.
 *
 * A job is one entry from outside into the router's shell (a frame of tokens, a page, a tick of
 * dispatch); jobs do not nest.  A turn is what the loop did between two waits; what no job says of a
 * turn is `other`: the doors' parsing and writing, and system calls.  Cost: two readings of the clock
 * per job.  Times are real nanoseconds of uv_hrtime, given as arguments.
 * thread: loop.
 */
#ifndef MED_ROUTER_LOOP_WATCH_H
#define MED_ROUTER_LOOP_WATCH_H

#include "base/hist.h"

#include <stdint.h>

// clang-format off
/* id, name of the label and in logs */
#define MED_LOOP_JOB_MAP(X) \
    X(SUBMIT, "submit")   /* a request from a door */ \
    X(CANCEL, "cancel")   /* ... that its door gives up */ \
    X(ENCODED, "encoded") /* a prompt from the thread pool */ \
    X(TOKENS, "tokens") \
    X(FINISH, "finish") \
    X(STATS, "stats") \
    X(JOIN, "join")       /* a worker's Hello */ \
    X(LEAVE, "leave")     /* its drain or loss */ \
    X(TICK, "tick")       /* dispatch's time */ \
    X(LOOK, "look")       /* the look at workers ten times a second */ \
    X(PAGE, "page")       /* metrics, health, admin */ \
    X(OTHER, "other")
// clang-format on

enum med_loop_job {
#define X(id, name) MED_LOOP_##id,
    MED_LOOP_JOB_MAP(X)
#undef X
    MED_LOOP_JOBS
};
const char *med_loop_job_name(enum med_loop_job job);

enum {
    MED_LOOP_LONG_NS = 1000000 /* nothing should hold the loop longer */
};

struct med_loop_job_count {
    uint64_t runs, long_runs;
    uint64_t busy_ns, longest_ns;
};

/* The job that took longest in some span, and how long it did. */
struct med_loop_longest {
    enum med_loop_job job;
    uint64_t ns;
};

struct med_loop_watch {
    struct med_loop_job_count jobs[MED_LOOP_JOBS];
    struct med_hist turns;          /* seconds */
    struct med_loop_longest recent; /* since med_loop_watch_take_recent */
    struct med_loop_longest ever;
    int64_t ever_unix_ns; /* when; 0: never */
    uint64_t turn_jobs_ns;
    uint64_t turn_began_ns, idle_ns; /* as the last turn left them */
};

void med_loop_watch_init(struct med_loop_watch *watch);
/* A job that began at began_ns is over now. */
void med_loop_watch_ran(struct med_loop_watch *watch, enum med_loop_job job, uint64_t began_ns,
                        uint64_t now_ns);
/* The loop is about to wait; idle_ns: how long it has waited in all its life. */
void med_loop_watch_turn(struct med_loop_watch *watch, uint64_t now_ns, uint64_t idle_ns);
/* The longest job since this was called last. */
struct med_loop_longest med_loop_watch_take_recent(struct med_loop_watch *watch);

#endif
