/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults drawn from the fleet's generator: those that a user asks for at a mean distance, and those of seeds.
 *
 * A user's faults are a Poisson process over the workers that are there, until the last arrival; each lasts a tenth of the mean
 * distance to all of it.  Seeds strike each 50 to 400 ms with everything there is, and put plans in force
 * that are the run's own under other settings, one worker type or some workers short.  thread: the caller's.
 */
#include "allocator/replay/faults/inside.h"

#include "allocator/dispatch_config.h"
#include "base/alloc.h"
#include "base/clock.h"

#include <string.h>

#define DRAWN_BY_NS (200 * MED_NS_PER_MS)

static uint32_t any_worker(struct fault_engine *f)
{
    return med_rng_below(&f->rng, (uint32_t)f->worker_count);
}

bool fault_draw_scheduled(struct fault_engine *f, struct sim *sim,
                          struct med_fault_event *ret_event)
{
    const struct med_fault_schedule *s = f->schedule;
    double gap_ns = med_rng_exponential(&f->rng, (double)s->every_ns);
    f->draw_ns = sim->next < sim->count ? sim->now_ns + (int64_t)gap_ns + 1 : SIM_NEVER_NS;
    uint32_t kind = med_rng_below(&f->rng, MED_FAULT_COUNT);
    while (!(s->kinds >> kind & 1))
        kind = (kind + 1) % MED_FAULT_COUNT;
    uint32_t w = any_worker(f);
    ret_event->kind = (enum med_fault)kind;
    ret_event->for_ns = (int64_t)((0.1 + 0.9 * med_rng_uniform(&f->rng)) * (double)s->every_ns);
    ret_event->factor = 2 + (double)med_rng_below(&f->rng, 4);
    ret_event->by_ns = DRAWN_BY_NS;
    fault_worker_name(f, sim, w, ret_event->target);
    return f->victims[w].wanted && !sim->workers[w].away;
}

bool fault_draw_seeded(struct fault_engine *f, struct sim *sim, struct med_fault_event *ret_event)
{
    f->draw_ns = sim->next < sim->count ? sim->now_ns + fault_between_ms(f, 50, 400) : SIM_NEVER_NS;
    enum med_fault kind = (enum med_fault)med_rng_below(&f->rng, MED_FAULT_COUNT);
    uint32_t w = any_worker(f);
    ret_event->kind = kind;
    ret_event->for_ns = fault_between_ms(f, 200, 8000);
    if (kind == MED_FAULT_CRASH)
        ret_event->for_ns = fault_between_ms(f, 100, 5000);
    if (kind == MED_FAULT_DROP)
        ret_event->for_ns = fault_between_ms(f, 1, 500);
    ret_event->factor = 2 + (double)med_rng_below(&f->rng, 8);
    ret_event->by_ns = 300 * MED_NS_PER_MS;
    fault_worker_name(f, sim, w, ret_event->target);
    return kind >= MED_FAULT_PLAN || !sim->workers[w].away;
}

/* ---- plans of seeds ---- */

static void drop_type(struct med_dispatch_type *types, struct med_dispatch_bucket *buckets,
                      struct med_dispatch_config *c, size_t type)
{
    c->type_count--;
    for (size_t t = type; t < c->type_count; t++)
        types[t] = types[t + 1];
    for (size_t b = 0; b < c->bucket_count; b++) {
        double sum = 0;
        for (size_t t = 0; t < c->type_count; t++) {
            buckets[b].shares[t] = buckets[b].shares[t + (t >= type)];
            buckets[b].work_s[t] = buckets[b].work_s[t + (t >= type)];
            sum += buckets[b].shares[t];
        }
        buckets[b].shares[c->type_count] = 0;
        for (size_t t = 0; t < c->type_count; t++)
            buckets[b].shares[t] = sum > 0 ? buckets[b].shares[t] / sum : 1 / (double)c->type_count;
    }
}

/* The arrays of a configuration that was made here are its own. */
static void shrink(struct fault_engine *f, struct med_dispatch_config *c)
{
    struct med_dispatch_type *types = (struct med_dispatch_type *)(uintptr_t)c->types;
    struct med_dispatch_bucket *buckets = (struct med_dispatch_bucket *)(uintptr_t)c->buckets;
    uint32_t what = med_rng_below(&f->rng, 3);
    size_t type = med_rng_below(&f->rng, (uint32_t)c->type_count);
    if (what == 0 && c->type_count > 1) {
        drop_type(types, buckets, c, type);
    } else if (what == 1 && types[type].workers_planned > 1) {
        types[type].workers_planned--;
    }
}

static bool is_planned(const struct sim *sim, const char *name)
{
    for (size_t t = 0; t < med_dispatch_type_count(sim->dispatch); t++) {
        if (strcmp(med_dispatch_type_name(sim->dispatch, t), name) == 0)
            return med_dispatch_type_is_planned(sim->dispatch, t);
    }
    return false;
}

/* Workers of types that the plan leaves out are drained when it is complete. */
static void want_planned(struct fault_engine *f, const struct sim *sim)
{
    for (uint32_t w = 0; w < f->worker_count; w++) {
        struct fault_victim *v = &f->victims[w];
        bool was_wanted = v->wanted;
        v->wanted = is_planned(sim, f->plan->profiles[sim->workers[w].profile].worker_type);
        if (v->wanted && !was_wanted && sim->workers[w].away)
            v->back_ns = sim->now_ns + fault_between_ms(f, 1, 3000);
        if (!v->wanted)
            v->back_ns = SIM_NEVER_NS;
    }
}

void fault_draw_replan(struct fault_engine *f, struct sim *sim)
{
    struct med_dispatch_config config;
    int rc = sim_dispatch_config(sim, f->plan, f->options, &config, f->err);
    if (rc < 0) {
        sim->rc = rc;
        return;
    }
    config.policy = (enum med_dispatch_policy)med_rng_below(&f->rng, MED_POLICY_COUNT);
    config.queue_max = 1 + med_rng_below(&f->rng, 40);
    config.resume = med_rng_below(&f->rng, 2) > 0;
    shrink(f, &config);
    rc = med_dispatch_replan(sim->dispatch, sim->now_ns, &config, f->err);
    med_dispatch_config_release(&config);
    if (rc < 0) {
        fault_ledger_violate(f->ledger, sim, "replan: %s", f->err->text);
    } else {
        want_planned(f, sim);
    }
}
