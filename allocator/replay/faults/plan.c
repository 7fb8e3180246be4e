/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Another plan comes into force in the simulation, as with medley up: make before break.
 *
 * Workers that it adds are spares of the simulation, which connect after their start; those that it does not
 * count are drained once its fleet is complete (faults.c, at the beats).  Types are matched by name.
 * thread: the caller's.
 */
#include "allocator/replay/faults/inside.h"

#include "allocator/dispatch_config.h"
#include "base/alloc.h"

#include <string.h>

/* Workers of the other plan by profile of `plan`. */
static int count_by_profile(const struct med_plan *plan, const struct med_plan *other,
                            int64_t *ret_counts, const char *file, struct med_err *err)
{
    memset(ret_counts, 0, plan->profile_count * sizeof *ret_counts);
    for (size_t i = 0; i < other->worker_count; i++) {
        const char *name = other->profiles[other->workers[i].worker_type].worker_type;
        int profile = med_plan_find_type(plan, name);
        if (profile < 0) {
            return med_err_set(err, MED_E_USAGE,
                               "--faults: %s has workers of type %s, expected types that the "
                               "replayed plan has a profile of",
                               file, name);
        }
        ret_counts[profile] += other->workers[i].count;
    }
    return 0;
}

int fault_plan_spares(const struct med_plan *plan, const struct med_fault_schedule *schedule,
                      int64_t *ret_spares, struct med_err *err)
{
    int64_t *counts = med_calloc(plan->profile_count + 1, sizeof *counts);
    if (!counts)
        return med_err_set(err, MED_E_NOMEM, "no memory for faults");
    int rc = 0;
    for (size_t e = 0; rc == 0 && e < schedule->count; e++) {
        const struct med_fault_event *event = &schedule->events[e];
        if (event->kind != MED_FAULT_PLAN)
            continue;
        rc = count_by_profile(plan, &schedule->plans[event->plan], counts, event->target, err);
        for (size_t w = 0; rc == 0 && w < plan->worker_count; w++)
            counts[plan->workers[w].worker_type] -= plan->workers[w].count;
        for (size_t p = 0; rc == 0 && p < plan->profile_count; p++)
            ret_spares[p] = counts[p] > ret_spares[p] ? counts[p] : ret_spares[p];
    }
    med_free(counts);
    return rc;
}

static int put_in_force(struct fault_engine *f, struct sim *sim, const struct med_plan *plan)
{
    struct med_dispatch_config config;
    int rc = sim_dispatch_config(sim, plan, f->options, &config, f->err);
    if (rc < 0)
        return rc;
    rc = med_dispatch_replan(sim->dispatch, sim->now_ns, &config, f->err);
    med_dispatch_config_release(&config);
    return rc;
}

void fault_plan_strike(struct fault_engine *f, struct sim *sim, const struct med_plan *plan,
                       int64_t start_ns)
{
    int64_t *wanted = med_calloc(f->plan->profile_count + 1, sizeof *wanted);
    int rc = wanted ? put_in_force(f, sim, plan) : MED_E_NOMEM;
    if (rc == 0)
        rc = count_by_profile(f->plan, plan, wanted, "the plan", f->err);
    for (uint32_t w = 0; rc == 0 && w < f->worker_count; w++) {
        struct fault_victim *v = &f->victims[w];
        bool was_wanted = v->wanted;
        v->wanted = wanted[sim->workers[w].profile]-- > 0;
        if (!v->wanted) {
            v->back_ns = SIM_NEVER_NS;
        } else if (!was_wanted && sim->workers[w].away) {
            v->back_ns = sim->now_ns + start_ns;
        }
    }
    med_free(wanted);
    if (rc < 0)
        sim->rc = rc;
}
