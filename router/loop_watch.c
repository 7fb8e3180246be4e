/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the loop's time goes, see loop_watch.h.  Pure; runs on the loop.  It logs nothing: who looks
 * at it does.
 */
#include "router/loop_watch.h"

#include "base/clock.h"

static const char *const names[MED_LOOP_JOBS] = {
#define X(id, name) name,
    MED_LOOP_JOB_MAP(X)
#undef X
};

static const double turn_bounds_s[] = {.00005, .0001, .0002, .0005, .001, .002, .005,
                                       .01,    .02,   .05,   .1,    .2,   .5,   1};

const char *med_loop_job_name(enum med_loop_job job)
{
    return names[job];
}

void med_loop_watch_init(struct med_loop_watch *watch)
{
    *watch = (struct med_loop_watch){0};
    med_hist_init(&watch->turns, turn_bounds_s, sizeof(turn_bounds_s) / sizeof(turn_bounds_s[0]),
                  NULL, 0);
}

static void count(struct med_loop_watch *watch, enum med_loop_job job, uint64_t ns)
{
    struct med_loop_job_count *counts = &watch->jobs[job];
    counts->runs++;
    counts->busy_ns += ns;
    counts->long_runs += ns > MED_LOOP_LONG_NS;
    if (ns > counts->longest_ns)
        counts->longest_ns = ns;
    if (ns > watch->recent.ns)
        watch->recent = (struct med_loop_longest){job, ns};
    if (ns > watch->ever.ns) {
        watch->ever = (struct med_loop_longest){job, ns};
        watch->ever_unix_ns = med_clock_unix_ns();
    }
}

void med_loop_watch_ran(struct med_loop_watch *watch, enum med_loop_job job, uint64_t began_ns,
                        uint64_t now_ns)
{
    uint64_t ns = now_ns > began_ns ? now_ns - began_ns : 0;
    watch->turn_jobs_ns += ns;
    count(watch, job, ns);
}

void med_loop_watch_turn(struct med_loop_watch *watch, uint64_t now_ns, uint64_t idle_ns)
{
    if (watch->turn_began_ns != 0) {
        uint64_t wall = now_ns - watch->turn_began_ns;
        uint64_t idle = idle_ns - watch->idle_ns;
        uint64_t busy = wall > idle ? wall - idle : 0;
        med_hist_add(&watch->turns, (double)busy / 1e9);
        count(watch, MED_LOOP_OTHER, busy > watch->turn_jobs_ns ? busy - watch->turn_jobs_ns : 0);
    }
    watch->turn_began_ns = now_ns;
    watch->idle_ns = idle_ns;
    watch->turn_jobs_ns = 0;
}

struct med_loop_longest med_loop_watch_take_recent(struct med_loop_watch *watch)
{
    struct med_loop_longest recent = watch->recent;
    watch->recent = (struct med_loop_longest){MED_LOOP_OTHER, 0};
    return recent;
}
