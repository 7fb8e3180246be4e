/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults by seed: hooks of the simulation that break it, and the ledger that watches.
 *
 * One generator, drawn from in the order of the events, so that a seed gives the same run everywhere.
 * A fault strikes each 50 to 400 ms of fleet time until the last arrival has come; each heals by itself, so
 * every request can end.  The ledger counts requests by their leases and workers by their own
 * counters, which dispatch keeps apart.  After a violation the simulation is not released: a dispatch whose
 * counts are wrong would assert, so the caller ends the process.  thread: the caller's.
 */
#include "allocator/replay/faults.h"

#include "allocator/dispatch_config.h"
#include "allocator/replay/sim.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/rng.h"

#include <stdarg.h>
#include <string.h>

#define BEAT_NS     (250 * MED_NS_PER_MS)
#define PATIENCE_NS (600 * MED_NS_PER_S) /* after the last arrival everything has ended */

struct victim {
    int64_t back_ns;  /* joins again; SIM_NEVER_NS: it is there */
    int64_t quiet_ns; /* does not beat before */
    int64_t heal_ns;  /* slow, lying or late until then */
    bool lies, late, restarts;
    int64_t last_ns[2]; /* arrival of the last message, by direction: links keep their order */
};

struct faults {
    const struct med_plan *plan;
    struct med_rng rng;
    struct victim *victims;
    int64_t *in_flight; /* [worker] of the ledger */
    int64_t beat_ns, fault_ns;
    FILE *trace;
    struct med_fault_report *report;
    struct med_err *err;
};

const char *med_fault_name(enum med_fault fault)
{
    static const char *const names[] = {"crash", "hang",  "stall", "slow",   "lie",
                                        "drop",  "delay", "drain", "replan", "cancel"};
    return names[fault];
}

static int64_t between(struct faults *f, int64_t from_ms, int64_t to_ms)
{
    return (from_ms + med_rng_below(&f->rng, (uint32_t)(to_ms - from_ms))) * MED_NS_PER_MS;
}

__attribute__((format(printf, 3, 4))) static void violate(struct faults *f, const struct sim *sim,
                                                          const char *format, ...)
{
    if (f->report->violation[0])
        return;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(f->report->violation, sizeof f->report->violation, format, args);
    va_end(args);
    f->report->violation_ns = sim->now_ns;
}

/* ---- the ledger ---- */

static void check_requests(struct faults *f, const struct sim *sim, int64_t *ret_held,
                           int64_t *ret_queued)
{
    for (size_t r = 0; r < sim->next; r++) {
        struct med_dispatch_lease_view lease;
        bool found = med_dispatch_get_lease(sim->dispatch, r, &lease);
        const struct med_sim_request *row = &sim->requests[r];
        if (found != (row->outcome == SIM_OUTCOME_UNSET))
            violate(f, sim, "request %zu: %s", r, found ? "held after its end" : "lost, no end");
        if (!found)
            continue;
        if (lease.tokens != row->tokens) {
            violate(f, sim, "request %zu: %lld tokens, of which %lld came", r,
                    (long long)lease.tokens, (long long)row->tokens);
        }
        if (lease.worker == UINT32_MAX) {
            ++*ret_queued;
        } else {
            ++*ret_held;
            f->in_flight[sim->indices[lease.worker]]++;
        }
    }
}

static void check_all(struct faults *f, const struct sim *sim)
{
    int64_t held = 0;
    int64_t queued = 0;
    memset(f->in_flight, 0, sim->worker_count * sizeof *f->in_flight);
    check_requests(f, sim, &held, &queued);
    struct med_dispatch_totals totals;
    med_dispatch_get_totals(sim->dispatch, &totals);
    if (totals.in_flight != held || totals.queued != queued) {
        violate(f, sim, "%lld in flight and %lld queued, expected %lld and %lld",
                (long long)totals.in_flight, (long long)totals.queued, (long long)held,
                (long long)queued);
    }
    uint64_t ended = 0;
    for (size_t o = 0; o < MED_OUTCOME_COUNT; o++)
        ended += totals.outcomes[o];
    if (ended + (uint64_t)(held + queued) != totals.accepted ||
        held + queued != (int64_t)sim->open) {
        violate(f, sim, "%llu accepted, %llu ended, %zu open", (unsigned long long)totals.accepted,
                (unsigned long long)ended, sim->open);
    }
    for (size_t w = 0; w < sim->worker_count; w++) {
        struct med_dispatch_worker_view view = {0};
        if (!sim->workers[w].away &&
            !med_dispatch_get_worker(sim->dispatch, sim->workers[w].name, &view))
            violate(f, sim, "worker %zu is not known", w);
        if (view.in_flight != f->in_flight[w]) {
            violate(f, sim, "worker %zu: %lld in flight, expected %lld", w,
                    (long long)view.in_flight, (long long)f->in_flight[w]);
        }
    }
}

static void observe(void *arg, const struct sim *sim)
{
    struct faults *f = arg;
    if (f->report->violation[0])
        return;
    check_all(f, sim);
    if (sim->next == sim->count && sim->now_ns > sim->arrivals[sim->count - 1].at_ns + PATIENCE_NS)
        violate(f, sim, "%zu requests have not ended", sim->open);
    if (!f->report->violation[0])
        med_dispatch_check(sim->dispatch);
}

/* ---- what breaks ---- */

static void leave(struct faults *f, struct sim *sim, uint32_t w, bool restarts, int64_t for_ns)
{
    struct sim_worker *worker = &sim->workers[w];
    worker->away = true;
    worker->connection++;
    f->victims[w].back_ns = sim->now_ns + for_ns;
    f->victims[w].restarts = restarts;
    f->victims[w].last_ns[0] = f->victims[w].last_ns[1] = 0;
    med_dispatch_worker_gone(sim->dispatch, sim->now_ns, worker->name);
}

static void come_back(struct faults *f, struct sim *sim, uint32_t w)
{
    struct sim_worker *worker = &sim->workers[w];
    f->victims[w].back_ns = SIM_NEVER_NS;
    int rc = f->victims[w].restarts ? sim_worker_restart(sim, w, f->err) : 0;
    if (rc == 0) {
        worker->away = false;
        rc = sim_join(sim, w, &f->plan->profiles[worker->profile], f->err);
    }
    if (rc < 0)
        sim->rc = rc;
}

static void replan(struct faults *f, struct sim *sim)
{
    struct med_dispatch_config config;
    int rc = med_dispatch_config_from_plan(f->plan, &config, NULL, f->err);
    if (rc < 0) {
        sim->rc = rc;
        return;
    }
    config.workers_max = (int64_t)sim->worker_count;
    config.suspect_after_ns = MED_NS_PER_S;
    config.gone_after_ns = 4 * MED_NS_PER_S;
    config.policy = (enum med_dispatch_policy)med_rng_below(&f->rng, MED_POLICY_COUNT);
    config.queue_max = 1 + med_rng_below(&f->rng, 40);
    config.resume = med_rng_below(&f->rng, 2) > 0;
    rc = med_dispatch_replan(sim->dispatch, sim->now_ns, &config, f->err);
    med_dispatch_config_release(&config);
    if (rc < 0)
        violate(f, sim, "replan: %s", f->err->text);
}

static void cancel_one(struct faults *f, struct sim *sim)
{
    size_t first = sim->next > 0 ? med_rng_below(&f->rng, (uint32_t)sim->next) : 0;
    for (size_t r = first; r < sim->next; r++) {
        if (sim->requests[r].outcome == SIM_OUTCOME_UNSET) {
            (void)med_dispatch_cancel(sim->dispatch, sim->now_ns, r, MED_OUTCOME_ABORT_CLIENT);
            return;
        }
    }
}

static void strike_worker(struct faults *f, struct sim *sim, enum med_fault fault, uint32_t w)
{
    struct victim *v = &f->victims[w];
    int64_t heal_ns = sim->now_ns + between(f, 200, 8000);
    if (fault == MED_FAULT_CRASH) {
        leave(f, sim, w, true, between(f, 100, 5000));
    } else if (fault == MED_FAULT_DROP) {
        leave(f, sim, w, false, between(f, 1, 500));
    } else if (fault == MED_FAULT_DRAIN) {
        med_dispatch_worker_drain(sim->dispatch, sim->now_ns, sim->workers[w].name);
    } else if (fault == MED_FAULT_HANG || fault == MED_FAULT_STALL) {
        sim_worker_stall(sim, w, heal_ns);
        if (fault == MED_FAULT_HANG)
            v->quiet_ns = heal_ns;
    } else {
        v->heal_ns = heal_ns;
        v->lies |= fault == MED_FAULT_LIE;
        v->late |= fault == MED_FAULT_DELAY;
        if (fault == MED_FAULT_SLOW)
            sim->workers[w].slowness = 2 + (double)med_rng_below(&f->rng, 8);
    }
}

static void strike(struct faults *f, struct sim *sim)
{
    enum med_fault fault = (enum med_fault)med_rng_below(&f->rng, MED_FAULT_COUNT);
    uint32_t w = med_rng_below(&f->rng, (uint32_t)sim->worker_count);
    if (fault < MED_FAULT_REPLAN && sim->workers[w].away)
        return;
    f->report->faults[fault]++;
    if (f->trace) {
        (void)fprintf(f->trace, "%10.3f s  %s, worker %u\n", (double)sim->now_ns * 1e-9,
                      med_fault_name(fault), w);
    }
    if (fault == MED_FAULT_REPLAN) {
        replan(f, sim);
    } else if (fault == MED_FAULT_CANCEL) {
        cancel_one(f, sim);
    } else {
        strike_worker(f, sim, fault, w);
    }
}

/* It beats, tells how it is, or leaves because it is drained or was given up. */
static void beat(struct faults *f, struct sim *sim, uint32_t w)
{
    struct victim *v = &f->victims[w];
    struct sim_worker *worker = &sim->workers[w];
    struct med_dispatch_worker_view view;
    if (v->heal_ns <= sim->now_ns) {
        v->lies = v->late = false;
        worker->slowness = 0;
    }
    if (!med_dispatch_get_worker(sim->dispatch, worker->name, &view))
        return;
    if (view.drained || view.state == MED_WORKER_GONE) {
        leave(f, sim, w, view.drained, between(f, 100, 2000));
        return;
    }
    if (v->quiet_ns > sim->now_ns)
        return;
    struct med_dispatch_worker_stats stats = {.heartbeat_ns = sim->now_ns};
    if (v->lies) {
        stats.heartbeat_ns += between(f, -5000, 5000);
        stats.running = med_rng_below(&f->rng, 1000);
        stats.waiting = med_rng_below(&f->rng, 1000);
        stats.kv_blocks_free = med_rng_below(&f->rng, 5000);
        stats.kv_blocks_total = med_rng_below(&f->rng, 5000);
    }
    med_dispatch_worker_stats(sim->dispatch, sim->now_ns, worker->name, &stats);
}

static int64_t next_ns(void *arg, const struct sim *sim)
{
    const struct faults *f = arg;
    int64_t at = f->beat_ns < f->fault_ns ? f->beat_ns : f->fault_ns;
    for (size_t w = 0; w < sim->worker_count; w++)
        at = f->victims[w].back_ns < at ? f->victims[w].back_ns : at;
    return at;
}

static void act(void *arg, struct sim *sim)
{
    struct faults *f = arg;
    if (f->report->violation[0]) {
        sim->rc = MED_E_INTERNAL;
        return;
    }
    for (uint32_t w = 0; w < sim->worker_count && sim->rc == 0; w++) {
        if (f->victims[w].back_ns <= sim->now_ns)
            come_back(f, sim, w);
    }
    if (f->beat_ns <= sim->now_ns) {
        f->beat_ns = sim->now_ns + BEAT_NS;
        for (uint32_t w = 0; w < sim->worker_count; w++) {
            if (!sim->workers[w].away)
                beat(f, sim, w);
        }
    }
    if (f->fault_ns <= sim->now_ns && sim->rc == 0) {
        strike(f, sim);
        f->fault_ns = sim->next < sim->count ? sim->now_ns + between(f, 50, 400) : SIM_NEVER_NS;
    }
}

static bool route(void *arg, struct sim *sim, const struct sim_message *message, int64_t *at_ns)
{
    struct faults *f = arg;
    struct victim *v = &f->victims[message->worker];
    struct med_dispatch_worker_view view;
    if (sim->workers[message->worker].away)
        return false;
    if (message->kind == SIM_GENERATE &&
        (!med_dispatch_get_worker(sim->dispatch, sim->workers[message->worker].name, &view) ||
         view.state != MED_WORKER_READY)) {
        violate(f, sim, "request %llu: worker %u was picked, which is not ready",
                (unsigned long long)message->request, message->worker);
    }
    int64_t *last = &v->last_ns[message->kind == SIM_TOKEN || message->kind == SIM_FAILED];
    if (v->late)
        *at_ns += between(f, 0, 300);
    if (*at_ns < *last)
        *at_ns = *last;
    *last = *at_ns;
    return true;
}

int med_fault_run(const struct med_plan *plan, const struct med_sim_arrival *arrivals, size_t count,
                  uint64_t seed, FILE *trace, struct med_fault_report *ret_report,
                  struct med_err *err)
{
    *ret_report = (struct med_fault_report){0};
    struct med_err mine;
    struct faults f = {
        .plan = plan, .trace = trace, .report = ret_report, .err = err ? err : &mine};
    med_rng_init(&f.rng, seed, 0);
    struct med_sim_options options = {.suspect_after_ns = MED_NS_PER_S,
                                      .gone_after_ns = 4 * MED_NS_PER_S,
                                      .link_delay_ns = between(&f, 0, 5),
                                      .queue_max = 1 + med_rng_below(&f.rng, 40),
                                      .admission_off = med_rng_below(&f.rng, 2) > 0,
                                      .resume = med_rng_below(&f.rng, 2) > 0};
    const struct sim_hooks hooks = {next_ns, act, route, observe, &f};
    struct sim sim;
    int rc = sim_init(&sim, plan, arrivals, count, &options, f.err);
    if (rc < 0)
        return rc;
    f.victims = med_calloc(sim.worker_count + 1, sizeof *f.victims);
    f.in_flight = med_calloc(sim.worker_count + 1, sizeof *f.in_flight);
    if (!f.victims || !f.in_flight) {
        rc = med_err_set(f.err, MED_E_NOMEM, "no memory for faults");
    } else if (count == 0 || sim.worker_count == 0) {
        rc = med_err_set(f.err, MED_E_INVALID,
                         "faults: found %zu arrivals and %zu workers, expected some", count,
                         sim.worker_count);
    } else {
        for (size_t w = 0; w < sim.worker_count; w++)
            f.victims[w].back_ns = SIM_NEVER_NS;
        sim.hooks = &hooks;
        sim_run(&sim);
        if (!ret_report->violation[0])
            check_all(&f, &sim);
        med_dispatch_get_totals(sim.dispatch, &ret_report->totals);
        rc = ret_report->violation[0] ? 0 : sim.rc;
    }
    sim.hooks = NULL; /* what is left is cancelled without faults */
    if (!ret_report->violation[0])
        sim_release(&sim);
    med_free(f.victims);
    med_free(f.in_flight);
    return rc;
}
