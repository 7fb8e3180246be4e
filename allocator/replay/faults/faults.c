/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a fault does to the fleet: hooks of the simulation that break it and heal it again.
 *
 * Each worker has, for each kind, the time until which it has that fault, so faults overlap freely.  Beats
 * come every 250 ms from every worker that is not hung or cut off; at the same times the router's side acts: it closes
 * the link of a worker that it gave up or that has drained, and drains those that the plan in force does not count once the
 * fleet is complete.  A worker that was given up connects again when it can, up to 2 s later.  Chance (how late a
 * message is, what a liar says) comes from one generator, drawn from in the order of the events, so that a seed
 * gives the same run everywhere.  thread: the caller's.
 */
#include "allocator/replay/faults/inside.h"

#include "base/alloc.h"
#include "base/clock.h"

#include <string.h>

#define BEAT_NS      (250 * MED_NS_PER_MS)
#define RECONNECT_NS MED_NS_PER_S

static const char *const fault_names[MED_FAULT_COUNT] = {"crash", "hang", "stall", "slow",
                                                         "lie",   "drop", "delay", "partition",
                                                         "drain", "plan", "cancel"};

const char *med_fault_name(enum med_fault fault)
{
    return fault_names[fault];
}

int64_t fault_between_ms(struct fault_engine *f, int64_t from_ms, int64_t to_ms)
{
    return (from_ms + med_rng_below(&f->rng, (uint32_t)(to_ms - from_ms))) * MED_NS_PER_MS;
}

static bool has(const struct fault_victim *v, const struct sim *sim, enum med_fault kind)
{
    return v->until_ns[kind] > sim->now_ns;
}

/* ---- names ---- */

void fault_worker_name(const struct fault_engine *f, const struct sim *sim, uint32_t worker,
                       char ret_name[MED_FAULT_TARGET_BYTES])
{
    (void)snprintf(ret_name, MED_FAULT_TARGET_BYTES, "%s-%lld",
                   f->plan->profiles[sim->workers[worker].profile].worker_type,
                   (long long)f->numbers[worker]);
}

size_t fault_target_find(const struct fault_engine *f, const struct sim *sim, const char *target,
                         bool *ret_hit)
{
    size_t count = 0;
    for (uint32_t w = 0; w < f->worker_count; w++) {
        char name[MED_FAULT_TARGET_BYTES];
        fault_worker_name(f, sim, w, name);
        const char *type = f->plan->profiles[sim->workers[w].profile].worker_type;
        ret_hit[w] =
            strcmp(target, "all") == 0 || strcmp(target, type) == 0 || strcmp(target, name) == 0;
        count += ret_hit[w];
    }
    return count;
}

void fault_counts_get(const struct sim *sim, struct med_fault_counts *ret_counts)
{
    struct med_dispatch_totals t;
    med_dispatch_get_totals(sim->dispatch, &t);
    *ret_counts = (struct med_fault_counts){.retried = sim->retried,
                                            .resumed = sim->resumed,
                                            .lost = t.outcomes[MED_OUTCOME_WORKER_LOST],
                                            .refused = t.refused_overload + t.refused_no_worker +
                                                       t.refused_invalid,
                                            .expired = t.outcomes[MED_OUTCOME_REJECTED],
                                            .stale_messages = t.stale_messages};
}

/* ---- leaving and coming back ---- */

static struct med_fault_strike *strike_of(struct fault_engine *f, uint32_t w)
{
    size_t strike = f->victims[w].strike;
    return strike < f->log->count ? &f->log->strikes[strike] : NULL;
}

/* The link is closed, by either side. */
static void leave(struct fault_engine *f, struct sim *sim, uint32_t w, int64_t back_ns)
{
    struct sim_worker *worker = &sim->workers[w];
    struct fault_victim *v = &f->victims[w];
    struct med_fault_strike *strike = strike_of(f, w);
    worker->away = true;
    worker->connection++;
    v->back_ns = v->wanted ? back_ns : SIM_NEVER_NS;
    v->last_ns[0] = v->last_ns[1] = 0;
    if (strike && strike->gone_ns < 0)
        strike->gone_ns = sim->now_ns;
    med_dispatch_worker_gone(sim->dispatch, sim->now_ns, worker->name);
}

/* What ran is gone with the process, and what ailed it. */
static void restart(struct fault_engine *f, struct sim *sim, uint32_t w)
{
    struct fault_victim *v = &f->victims[w];
    v->until_ns[MED_FAULT_HANG] = v->until_ns[MED_FAULT_STALL] = 0;
    v->until_ns[MED_FAULT_SLOW] = v->until_ns[MED_FAULT_LIE] = 0;
    int rc = sim_worker_restart(sim, w, f->err);
    if (rc < 0)
        sim->rc = rc;
}

static void come_back(struct fault_engine *f, struct sim *sim, uint32_t w)
{
    struct sim_worker *worker = &sim->workers[w];
    struct med_err refused;
    worker->away = false;
    int rc = sim_join(sim, w, &f->plan->profiles[worker->profile], &refused);
    f->victims[w].back_ns = SIM_NEVER_NS;
    if (rc == MED_E_NOT_FOUND) { /* the plan in force has no such type: it tries again */
        worker->away = true;
        f->victims[w].back_ns = sim->now_ns + RECONNECT_NS;
    } else if (rc < 0) {
        *f->err = refused;
        sim->rc = rc;
    }
}

/* ---- strikes ---- */

static int log_add(struct med_fault_log *log, const struct med_fault_strike *strike)
{
    if (log->count == log->room) {
        size_t room = log->room > 0 ? 2 * log->room : 16;
        struct med_fault_strike *grown =
            med_realloc_array(log->strikes, room, sizeof *log->strikes);
        if (!grown)
            return MED_E_NOMEM;
        log->strikes = grown;
        log->room = room;
    }
    log->strikes[log->count++] = *strike;
    return 0;
}

void med_fault_log_release(struct med_fault_log *log)
{
    med_free(log->strikes);
    *log = (struct med_fault_log){0};
}

static void cancel_one(struct fault_engine *f, struct sim *sim)
{
    size_t first = sim->next > 0 ? med_rng_below(&f->rng, (uint32_t)sim->next) : 0;
    for (size_t r = first; r < sim->next; r++) {
        if (sim->requests[r].outcome == SIM_OUTCOME_UNSET) {
            (void)med_dispatch_cancel(sim->dispatch, sim->now_ns, r, MED_OUTCOME_ABORT_CLIENT);
            return;
        }
    }
}

/* Of one that is not connected only the return can be put off. False: nothing is left to break. */
static bool strike_away(struct fault_engine *f, struct sim *sim, uint32_t w, enum med_fault kind,
                        int64_t until_ns)
{
    struct fault_victim *v = &f->victims[w];
    if (kind != MED_FAULT_CRASH && kind != MED_FAULT_DROP)
        return false;
    if (kind == MED_FAULT_CRASH)
        restart(f, sim, w);
    if (until_ns > v->back_ns || until_ns == SIM_NEVER_NS)
        v->back_ns = until_ns;
    return true;
}

static bool strike_worker(struct fault_engine *f, struct sim *sim, uint32_t w,
                          const struct med_fault_event *event, int64_t until_ns)
{
    struct fault_victim *v = &f->victims[w];
    enum med_fault kind = event->kind;
    if (!v->wanted)
        return false;
    if (sim->workers[w].away)
        return strike_away(f, sim, w, kind, until_ns);
    v->strike = f->log->count - 1;
    if (until_ns > v->until_ns[kind])
        v->until_ns[kind] = until_ns;
    if (kind == MED_FAULT_CRASH)
        restart(f, sim, w);
    if (kind == MED_FAULT_CRASH || kind == MED_FAULT_DROP)
        leave(f, sim, w, until_ns);
    if (kind == MED_FAULT_DRAIN)
        med_dispatch_worker_drain(sim->dispatch, sim->now_ns, sim->workers[w].name);
    if (kind == MED_FAULT_HANG || kind == MED_FAULT_STALL)
        sim_worker_stall(sim, w, v->until_ns[kind]);
    if (kind == MED_FAULT_SLOW)
        sim->workers[w].slowness = event->factor;
    if (kind == MED_FAULT_DELAY)
        v->by_ns = event->by_ns;
    return true;
}

static void strike(struct fault_engine *f, struct sim *sim, const struct med_fault_event *event)
{
    struct med_fault_strike strike = {
        .event = *event, .suspect_ns = -1, .gone_ns = -1, .over = false};
    strike.event.at_ns = sim->now_ns;
    fault_counts_get(sim, &strike.before);
    if (log_add(f->log, &strike) < 0) {
        sim->rc = MED_E_NOMEM;
        return;
    }
    if (f->ledger)
        fault_ledger_strike(f->ledger, sim, event);
    size_t hit = 0;
    if (event->kind == MED_FAULT_CANCEL) {
        cancel_one(f, sim);
    } else if (event->kind == MED_FAULT_PLAN && f->schedule) {
        fault_plan_strike(f, sim, &f->schedule->plans[event->plan], event->for_ns);
    } else if (event->kind == MED_FAULT_PLAN) {
        fault_draw_replan(f, sim);
    } else {
        int64_t until_ns = event->for_ns > 0 ? sim->now_ns + event->for_ns : SIM_NEVER_NS;
        (void)fault_target_find(f, sim, event->target, f->hit);
        for (uint32_t w = 0; w < f->worker_count && sim->rc == 0; w++)
            hit += f->hit[w] && strike_worker(f, sim, w, event, until_ns);
    }
    f->log->strikes[f->log->count - 1].workers = hit;
}

/* ---- time ---- */

static bool is_silent(const struct fault_victim *v, const struct sim *sim)
{
    return has(v, sim, MED_FAULT_HANG) || has(v, sim, MED_FAULT_PARTITION);
}

/* When one that the router closed is there again. */
static int64_t reconnects_ns(struct fault_engine *f, const struct sim *sim,
                             const struct fault_victim *v)
{
    static const enum med_fault kinds[] = {MED_FAULT_HANG, MED_FAULT_PARTITION, MED_FAULT_DRAIN};
    int64_t at = sim->now_ns + fault_between_ms(f, 100, 2000);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        at = v->until_ns[kinds[i]] > at ? v->until_ns[kinds[i]] : at;
    return at;
}

/* It beats and tells how it is. */
static void tell_stats(struct fault_engine *f, struct sim *sim, uint32_t w)
{
    struct med_dispatch_worker_stats stats = {.heartbeat_ns = sim->now_ns};
    if (has(&f->victims[w], sim, MED_FAULT_LIE)) {
        stats.heartbeat_ns += fault_between_ms(f, -5000, 5000);
        stats.running = med_rng_below(&f->rng, 1000);
        stats.waiting = med_rng_below(&f->rng, 1000);
        stats.kv_blocks_free = med_rng_below(&f->rng, 5000);
        stats.kv_blocks_total = med_rng_below(&f->rng, 5000);
    }
    med_dispatch_worker_stats(sim->dispatch, sim->now_ns, sim->workers[w].name, &stats);
}

static void beat(struct fault_engine *f, struct sim *sim, uint32_t w)
{
    struct fault_victim *v = &f->victims[w];
    struct med_fault_strike *strike = strike_of(f, w);
    struct med_dispatch_worker_view view;
    if (!med_dispatch_get_worker(sim->dispatch, sim->workers[w].name, &view))
        return;
    if (strike && strike->suspect_ns < 0 &&
        (view.state == MED_WORKER_SUSPECT || view.state == MED_WORKER_GONE))
        strike->suspect_ns = sim->now_ns;
    if (view.drained || view.state == MED_WORKER_GONE) {
        if (view.drained)
            restart(f, sim, w);
        leave(f, sim, w, reconnects_ns(f, sim, v));
        return;
    }
    if (!v->wanted && view.state != MED_WORKER_DRAINING && med_dispatch_is_complete(sim->dispatch))
        med_dispatch_worker_drain(sim->dispatch, sim->now_ns, sim->workers[w].name);
    if (!is_silent(v, sim))
        tell_stats(f, sim, w);
}

/* When a strike is over; SIM_NEVER_NS: not. */
static int64_t over_ns(const struct med_fault_strike *strike)
{
    return strike->event.for_ns > 0 ? strike->event.at_ns + strike->event.for_ns : SIM_NEVER_NS;
}

static void heal(struct fault_engine *f, struct sim *sim)
{
    for (size_t i = f->healed; i < f->log->count; i++) {
        struct med_fault_strike *strike = &f->log->strikes[i];
        if (strike->over || over_ns(strike) > sim->now_ns)
            continue;
        strike->over = true;
        fault_counts_get(sim, &strike->after);
    }
    while (f->healed < f->log->count && f->log->strikes[f->healed].over)
        f->healed++;
    for (uint32_t w = 0; w < f->worker_count; w++) {
        if (!has(&f->victims[w], sim, MED_FAULT_SLOW))
            sim->workers[w].slowness = 0;
        if (f->victims[w].back_ns <= sim->now_ns && sim->rc == 0)
            come_back(f, sim, w);
    }
}

static int64_t lesser(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static const struct med_fault_event *next_given(const struct fault_engine *f)
{
    bool any = f->schedule && f->schedule_next < f->schedule->count;
    return any ? &f->schedule->events[f->schedule_next] : NULL;
}

/* Everything that comes in time is changed by act alone. */
static void plan_next(struct fault_engine *f)
{
    const struct med_fault_event *given = next_given(f);
    int64_t at = lesser(f->beat_ns, f->draw_ns);
    if (given)
        at = lesser(at, given->at_ns);
    for (size_t i = f->healed; i < f->log->count; i++) {
        if (!f->log->strikes[i].over)
            at = lesser(at, over_ns(&f->log->strikes[i]));
    }
    for (size_t w = 0; w < f->worker_count; w++)
        at = lesser(at, f->victims[w].back_ns);
    f->next_ns = at;
}

/* ---- hooks ---- */

static int64_t next_ns(void *arg, const struct sim *sim)
{
    (void)sim;
    const struct fault_engine *f = arg;
    return f->next_ns;
}

static void strike_due(struct fault_engine *f, struct sim *sim)
{
    const struct med_fault_event *given;
    while (sim->rc == 0 && (given = next_given(f)) && given->at_ns <= sim->now_ns) {
        f->schedule_next++;
        strike(f, sim, given);
    }
    struct med_fault_event drawn = {.at_ns = sim->now_ns};
    if (f->draw && f->draw_ns <= sim->now_ns && sim->rc == 0 && f->draw(f, sim, &drawn))
        strike(f, sim, &drawn);
}

static void act(void *arg, struct sim *sim)
{
    struct fault_engine *f = arg;
    if (f->ledger && f->ledger->report->violation[0]) {
        sim->rc = MED_E_INTERNAL;
        return;
    }
    heal(f, sim);
    if (f->beat_ns <= sim->now_ns) {
        f->beat_ns = sim->now_ns + BEAT_NS;
        for (uint32_t w = 0; w < f->worker_count; w++) {
            if (!sim->workers[w].away)
                beat(f, sim, w);
        }
    }
    strike_due(f, sim);
    plan_next(f);
}

static bool route(void *arg, struct sim *sim, const struct sim_message *message, int64_t *at_ns)
{
    struct fault_engine *f = arg;
    struct fault_victim *v = &f->victims[message->worker];
    if (sim->workers[message->worker].away)
        return false;
    if (f->ledger)
        fault_ledger_send(f->ledger, sim, message);
    int64_t *last = &v->last_ns[message->kind == SIM_TOKEN || message->kind == SIM_FAILED];
    if (has(v, sim, MED_FAULT_DELAY))
        *at_ns += (int64_t)(med_rng_uniform(&f->rng) * (double)v->by_ns);
    if (has(v, sim, MED_FAULT_PARTITION) && *at_ns < v->until_ns[MED_FAULT_PARTITION])
        *at_ns = v->until_ns[MED_FAULT_PARTITION];
    if (*at_ns < *last)
        *at_ns = *last;
    *last = *at_ns;
    return *at_ns < SIM_NEVER_NS;
}

static void observe(void *arg, const struct sim *sim)
{
    struct fault_engine *f = arg;
    fault_ledger_observe(f->ledger, sim);
}

struct sim_hooks fault_engine_hooks(struct fault_engine *f)
{
    return (struct sim_hooks){next_ns, act, route, f->ledger ? observe : NULL, f};
}

/* ---- beginning and end ---- */

static void number_workers(struct fault_engine *f, const struct sim *sim)
{
    for (size_t w = 0; w < f->worker_count; w++) {
        for (size_t other = 0; other < w; other++)
            f->numbers[w] += sim->workers[other].profile == sim->workers[w].profile;
        f->victims[w].wanted = !sim->workers[w].away;
        f->victims[w].back_ns = SIM_NEVER_NS;
        f->victims[w].strike = SIZE_MAX;
    }
}

int fault_engine_init(struct fault_engine *f, const struct sim *sim, struct med_err *err)
{
    size_t count = sim->worker_count;
    f->worker_count = count;
    f->victims = med_calloc(count + 1, sizeof *f->victims);
    f->numbers = med_calloc(count + 1, sizeof *f->numbers);
    f->hit = med_calloc(count + 1, sizeof *f->hit);
    if (!f->victims || !f->numbers || !f->hit)
        return med_err_set(err, MED_E_NOMEM, "no memory for faults");
    number_workers(f, sim);
    plan_next(f);
    return 0;
}

void fault_engine_release(struct fault_engine *f)
{
    med_free(f->victims);
    med_free(f->numbers);
    med_free(f->hit);
}
