/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs with faults: of a user's schedule, and of a seed under the ledger's eyes.
 * thread: the caller's.
 */
#include "allocator/replay/faults/inside.h"

#include "base/alloc.h"
#include "base/clock.h"

#include <string.h>

#define SUSPECT_AFTER_NS (2 * MED_NS_PER_S) /* the router's defaults */
#define GONE_AFTER_NS    (10 * MED_NS_PER_S)

/* ---- a schedule ---- */

static int check_target(const struct fault_engine *f, const struct sim *sim, size_t index,
                        struct med_err *err)
{
    const struct med_fault_event *event = &f->schedule->events[index];
    const struct med_sim_arrival *last = &sim->arrivals[sim->count - 1];
    char name[MED_FAULT_TARGET_BYTES];
    if (event->at_ns > last->at_ns) {
        return med_err_set(err, MED_E_USAGE,
                           "--faults: %s at %.6g s, expected no later than the last arrival, at "
                           "%.6g s",
                           med_fault_name(event->kind), (double)event->at_ns / 1e9,
                           (double)last->at_ns / 1e9);
    }
    if (event->kind == MED_FAULT_PLAN || fault_target_find(f, sim, event->target, f->hit) > 0)
        return 0;
    fault_worker_name(f, sim, 0, name);
    return med_err_set(err, MED_E_USAGE,
                       "--faults: %s: found \"%s\", expected a worker of the plan such as %s, one "
                       "of its worker types, or all",
                       med_fault_name(event->kind), event->target, name);
}

static int run_schedule(struct fault_engine *f, struct sim *sim, struct med_err *err)
{
    int rc = sim->count > 0 && sim->worker_count > 0
                 ? fault_engine_init(f, sim, err)
                 : med_err_set(err, MED_E_INVALID, "faults need arrivals and workers");
    for (size_t i = 0; rc == 0 && i < f->schedule->count; i++)
        rc = check_target(f, sim, i, err);
    if (rc < 0)
        return rc;
    const struct sim_hooks hooks = fault_engine_hooks(f);
    sim->hooks = &hooks;
    sim_run(sim);
    sim->hooks = NULL; /* what is left is cancelled without faults */
    fault_counts_get(sim, &f->log->total);
    for (size_t i = 0; i < f->log->count; i++) {
        if (!f->log->strikes[i].over)
            f->log->strikes[i].after = f->log->total;
    }
    if (sim->rc < 0 && sim->rc != MED_E_NOMEM)
        return sim->rc; /* with its sentence */
    return 0;
}

/* The simulation is ready, and is released by the caller. */
static int run_options(struct sim *sim, const struct med_plan *plan,
                       const struct med_sim_options *options,
                       const struct med_fault_schedule *schedule,
                       struct med_fault_outcome *ret_outcome, struct med_err *err)
{
    struct med_fault_outcome outcome = {0};
    struct fault_engine f = {.plan = plan,
                             .options = options,
                             .schedule = schedule,
                             .log = &outcome.log,
                             .draw_ns = SIM_NEVER_NS,
                             .err = err};
    med_rng_init(&f.rng, schedule->seed, 0);
    if (schedule->every_ns > 0) {
        f.draw = fault_draw_scheduled;
        f.draw_ns = (int64_t)med_rng_exponential(&f.rng, (double)schedule->every_ns);
    }
    int rc = run_schedule(&f, sim, err);
    if (rc == 0)
        rc = sim_take_result(sim, &outcome.result, err);
    fault_engine_release(&f);
    if (rc < 0) {
        med_fault_log_release(&outcome.log);
    } else {
        *ret_outcome = outcome;
    }
    return rc;
}

int med_fault_simulate(const struct med_plan *plan, const struct med_sim_arrival *arrivals,
                       size_t count, const struct med_sim_options *options,
                       const struct med_fault_schedule *schedule,
                       struct med_fault_outcome *ret_outcome, struct med_err *err)
{
    struct med_sim_options with = *options;
    struct med_err mine;
    struct sim sim;
    err = err ? err : &mine;
    int64_t *spares = med_calloc(plan->profile_count + 1, sizeof *spares);
    int rc = spares ? fault_plan_spares(plan, schedule, spares, err)
                    : med_err_set(err, MED_E_NOMEM, "no memory for faults");
    with.spares = spares;
    if (with.suspect_after_ns == 0)
        with.suspect_after_ns = SUSPECT_AFTER_NS;
    if (with.gone_after_ns == 0)
        with.gone_after_ns = GONE_AFTER_NS;
    if (rc == 0)
        rc = sim_init(&sim, plan, arrivals, count, &with, err);
    if (rc == 0) {
        rc = run_options(&sim, plan, &with, schedule, ret_outcome, err);
        sim_release(&sim);
    }
    med_free(spares);
    return rc;
}

/* ---- a seed ---- */

/* Some with deadlines, which may be short; some seeds in bursts, so that tables run full. */
static struct med_sim_arrival *draw_arrivals(struct fault_engine *f,
                                             const struct med_sim_arrival *arrivals, size_t count)
{
    struct med_sim_arrival *drawn = med_calloc(count + 1, sizeof *drawn);
    uint32_t squeeze = med_rng_below(&f->rng, 3) == 0 ? 10 : 1;
    for (size_t i = 0; drawn && i < count; i++) {
        drawn[i] = arrivals[i];
        drawn[i].at_ns /= squeeze;
        if (med_rng_below(&f->rng, 8) == 0)
            drawn[i].output_tokens_max = drawn[i].output_tokens;
        if (med_rng_below(&f->rng, 40) == 0)
            drawn[i].input_tokens = 100000; /* no worker holds it */
        if (med_rng_below(&f->rng, 3) == 0)
            drawn[i].deadline_ns = fault_between_ms(f, 1, 6000);
    }
    return drawn;
}

/* The plan, half of the time with an objective by which requests are refused and spilled. */
static struct med_plan draw_plan(struct fault_engine *f, const struct med_plan *plan)
{
    struct med_plan drawn = *plan;
    if (med_rng_below(&f->rng, 2) == 0) {
        drawn.slos.items[0] = (struct med_slo){
            .metric = MED_SLO_TTFT, .limit_ms = 50 + (double)med_rng_below(&f->rng, 1000)};
        drawn.slos.count = 1;
    }
    return drawn;
}

static struct med_sim_options draw_options(struct fault_engine *f)
{
    struct med_sim_options options = {.suspect_after_ns = MED_NS_PER_S,
                                      .gone_after_ns = 4 * MED_NS_PER_S};
    options.link_delay_ns = fault_between_ms(f, 0, 5);
    options.queue_max = 1 + med_rng_below(&f->rng, 20);
    options.admission_off = med_rng_below(&f->rng, 2) > 0;
    options.resume = med_rng_below(&f->rng, 2) > 0;
    if (med_rng_below(&f->rng, 2) == 0)
        options.queue_wait_ns = fault_between_ms(f, 100, 8000);
    if (med_rng_below(&f->rng, 6) == 0)
        options.requests_max = 5 + med_rng_below(&f->rng, 20);
    return options;
}

static int run_seed(struct fault_engine *f, struct sim *sim, struct med_err *err)
{
    struct fault_ledger *l = f->ledger;
    l->in_flight = med_calloc(sim->worker_count + 1, sizeof *l->in_flight);
    if (!l->in_flight)
        return med_err_set(err, MED_E_NOMEM, "no memory for faults");
    int rc = fault_engine_init(f, sim, err);
    if (rc < 0)
        return rc;
    const struct sim_hooks hooks = fault_engine_hooks(f);
    sim->hooks = &hooks;
    sim_run(sim);
    sim->hooks = NULL;
    fault_ledger_observe(l, sim);
    med_dispatch_get_totals(sim->dispatch, &l->report->totals);
    return l->report->violation[0] ? 0 : sim->rc;
}

int med_fault_run(const struct med_plan *plan, const struct med_sim_arrival *arrivals, size_t count,
                  uint64_t seed, FILE *trace, struct med_fault_report *ret_report,
                  struct med_err *err)
{
    *ret_report = (struct med_fault_report){0};
    struct med_err mine;
    struct med_fault_log log = {0};
    struct fault_ledger ledger = {.report = ret_report, .trace = trace};
    struct fault_engine f = {
        .draw = fault_draw_seeded, .log = &log, .ledger = &ledger, .err = err ? err : &mine};
    if (count == 0 || plan->worker_count == 0)
        return med_err_set(f.err, MED_E_INVALID, "faults need arrivals and workers");
    med_rng_init(&f.rng, seed, 0);
    const struct med_sim_options options = draw_options(&f);
    const struct med_plan drawn_plan = draw_plan(&f, plan);
    struct med_sim_arrival *drawn = draw_arrivals(&f, arrivals, count);
    f.plan = &drawn_plan;
    f.options = &options;
    struct sim sim = {0};
    int rc = drawn ? sim_init(&sim, f.plan, drawn, count, &options, f.err)
                   : med_err_set(f.err, MED_E_NOMEM, "no memory for faults");
    if (rc == 0) {
        rc = run_seed(&f, &sim, f.err);
        if (!ret_report->violation[0])
            sim_release(&sim);
        fault_engine_release(&f);
        med_free(ledger.in_flight);
        med_fault_log_release(&log);
    }
    if (!ret_report->violation[0])
        med_free(drawn); /* else the simulation lies there as it is, and still refers to it */
    return rc;
}
