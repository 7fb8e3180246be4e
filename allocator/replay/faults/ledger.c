/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ledger of fault runs: counts of its own, compared with dispatch's after each instant.
 *
 * It counts requests by their leases and rows, and workers by their own counters, which dispatch keeps
 * apart.  Every request ends exactly once, also past its deadline or refused at once; counters add up; no
 * worker is picked that is not ready; nothing stays open.  O(requests) per instant: for small runs.
 * thread: the caller's.
 */
#include "allocator/replay/faults/inside.h"

#include "base/clock.h"

#include <stdarg.h>
#include <string.h>

#define PATIENCE_NS (600 * MED_NS_PER_S) /* after the last arrival everything has ended */

void fault_ledger_violate(struct fault_ledger *l, const struct sim *sim, const char *format, ...)
{
    if (l->report->violation[0])
        return;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(l->report->violation, sizeof l->report->violation, format, args);
    va_end(args);
    l->report->violation_ns = sim->now_ns;
}

void fault_ledger_strike(struct fault_ledger *l, const struct sim *sim,
                         const struct med_fault_event *event)
{
    l->report->faults[event->kind]++;
    if (l->trace) {
        (void)fprintf(l->trace, "%10.3f s  %s, %s\n", (double)sim->now_ns * 1e-9,
                      med_fault_name(event->kind), event->target);
    }
}

/* What the rows say. */
struct counted {
    int64_t held, queued;
    uint64_t ended[MED_OUTCOME_COUNT];
    uint64_t overload, no_worker, invalid; /* refused */
};

static int64_t deadline_of(const struct sim *sim, size_t r)
{
    const struct med_sim_arrival *arrival = &sim->arrivals[r];
    return arrival->deadline_ns > 0 ? arrival->at_ns + arrival->deadline_ns : SIM_NEVER_NS;
}

static void count_end(struct fault_ledger *l, const struct sim *sim, size_t r, struct counted *c)
{
    const struct med_sim_request *row = &sim->requests[r];
    if (row->outcome == MED_E_OVERLOAD) {
        c->overload++;
    } else if (row->outcome == MED_E_NO_WORKER) {
        c->no_worker++;
    } else if (row->outcome == MED_E_INVALID) {
        c->invalid++;
    } else if (row->outcome < 0 || row->outcome >= MED_OUTCOME_COUNT) {
        fault_ledger_violate(l, sim, "request %zu: refused with %d", r, row->outcome);
    } else {
        c->ended[row->outcome]++;
    }
    if (row->outcome < 0 && row->tokens > 0)
        fault_ledger_violate(l, sim, "request %zu: refused, but it has tokens", r);
    if (row->outcome == MED_OUTCOME_ABORT_DEADLINE && sim->now_ns < deadline_of(sim, r))
        fault_ledger_violate(l, sim, "request %zu: ended by its deadline before that", r);
}

static void count_open(struct fault_ledger *l, const struct sim *sim, size_t r,
                       const struct med_dispatch_lease_view *lease, struct counted *c)
{
    const struct med_sim_request *row = &sim->requests[r];
    if (lease->tokens != row->tokens) {
        fault_ledger_violate(l, sim, "request %zu: %lld tokens, of which %lld came", r,
                             (long long)lease->tokens, (long long)row->tokens);
    }
    if (sim->now_ns > deadline_of(sim, r))
        fault_ledger_violate(l, sim, "request %zu: open past its deadline", r);
    if (lease->worker == UINT32_MAX) {
        c->queued++;
    } else {
        c->held++;
        l->in_flight[sim->indices[lease->worker]]++;
    }
}

static void check_totals(struct fault_ledger *l, const struct sim *sim, const struct counted *c)
{
    struct med_dispatch_totals t;
    med_dispatch_get_totals(sim->dispatch, &t);
    if (t.in_flight != c->held || t.queued != c->queued) {
        fault_ledger_violate(l, sim, "%lld in flight and %lld queued, expected %lld and %lld",
                             (long long)t.in_flight, (long long)t.queued, (long long)c->held,
                             (long long)c->queued);
    }
    uint64_t ended = 0;
    for (size_t o = 0; o < MED_OUTCOME_COUNT; o++) {
        ended += t.outcomes[o];
        if (t.outcomes[o] != c->ended[o]) {
            fault_ledger_violate(
                l, sim, "%llu ended with %s, expected %llu", (unsigned long long)t.outcomes[o],
                med_outcome_name((enum med_outcome)o), (unsigned long long)c->ended[o]);
        }
    }
    uint64_t open = (uint64_t)c->held + (uint64_t)c->queued;
    if (ended + open != t.accepted || open != sim->open) {
        fault_ledger_violate(l, sim, "%llu accepted, %llu ended, %zu open",
                             (unsigned long long)t.accepted, (unsigned long long)ended, sim->open);
    }
    uint64_t causes = t.refused_admission + t.refused_queue + t.refused_table + t.refused_late;
    if (t.refused_overload != c->overload || t.refused_no_worker != c->no_worker ||
        t.refused_invalid != c->invalid || t.refused_overload != causes) {
        fault_ledger_violate(
            l, sim,
            "%llu refused for load (%llu by cause), expected %llu; %llu for want of "
            "workers, expected %llu",
            (unsigned long long)t.refused_overload, (unsigned long long)causes,
            (unsigned long long)c->overload, (unsigned long long)t.refused_no_worker,
            (unsigned long long)c->no_worker);
    }
}

static void check_workers(struct fault_ledger *l, const struct sim *sim)
{
    for (size_t w = 0; w < sim->worker_count; w++) {
        struct med_dispatch_worker_view view = {0};
        if (!sim->workers[w].away &&
            !med_dispatch_get_worker(sim->dispatch, sim->workers[w].name, &view))
            fault_ledger_violate(l, sim, "worker %zu is not known", w);
        if (view.in_flight != l->in_flight[w]) {
            fault_ledger_violate(l, sim, "worker %zu: %lld in flight, expected %lld", w,
                                 (long long)view.in_flight, (long long)l->in_flight[w]);
        }
    }
}

void fault_ledger_observe(struct fault_ledger *l, const struct sim *sim)
{
    if (l->report->violation[0])
        return;
    struct counted counted = {0};
    memset(l->in_flight, 0, sim->worker_count * sizeof *l->in_flight);
    for (size_t r = 0; r < sim->next; r++) {
        struct med_dispatch_lease_view lease;
        bool found = med_dispatch_get_lease(sim->dispatch, r, &lease);
        bool open = sim->requests[r].outcome == SIM_OUTCOME_UNSET;
        if (found != open) {
            fault_ledger_violate(l, sim, "request %zu: %s", r,
                                 found ? "held after its end" : "lost, no end");
        }
        if (!open)
            count_end(l, sim, r, &counted);
        if (found)
            count_open(l, sim, r, &lease, &counted);
    }
    check_totals(l, sim, &counted);
    check_workers(l, sim);
    if (sim->next == sim->count && sim->now_ns > sim->arrivals[sim->count - 1].at_ns + PATIENCE_NS)
        fault_ledger_violate(l, sim, "%zu requests have not ended", sim->open);
    if (!l->report->violation[0])
        med_dispatch_check(sim->dispatch);
}

void fault_ledger_send(struct fault_ledger *l, const struct sim *sim,
                       const struct sim_message *message)
{
    struct med_dispatch_worker_view view;
    if (message->kind != SIM_GENERATE)
        return;
    if (!med_dispatch_get_worker(sim->dispatch, sim->workers[message->worker].name, &view) ||
        view.state != MED_WORKER_READY) {
        fault_ledger_violate(l, sim, "request %llu: worker %u was picked, which is not ready",
                             (unsigned long long)message->request, message->worker);
    }
    if (sim->now_ns >= deadline_of(sim, message->request)) {
        fault_ledger_violate(l, sim, "request %llu: sent to worker %u past its deadline",
                             (unsigned long long)message->request, message->worker);
    }
}
