/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pick: which worker takes a request now. Nothing changes here; dispatch.c acts on the answer.
 *
 * In each type the worker with the least predicted finish; then the type whose turn it is by the
 * plan's shares, if that worker can start in time; else, among the types that can, the one with the
 * largest share, then the least finish. A worker can start a request in time when the first token is
 * predicted within the TTFT objective, or when the request would hardly wait there (a quarter of
 * the objective): a prompt that is too long for the objective anywhere is not held back for it.
 * Without an objective, when there is a place and memory for it now: what would wait at a worker
 * waits here, where the order is by deadline and any worker may take it.
 * Types that a replan has left out are asked last, and only until the plan is complete.
 * A worker that failed this request before is the last choice. O(workers). thread: loop.
 */
#include "router/dispatch/internal.h"

struct candidate {
    uint32_t worker;
    bool in_time, avoided;
    struct prediction prediction;
};

static bool is_eligible(const struct worker *worker, const struct lease *lease, int64_t now_ns)
{
    return worker->state == MED_WORKER_READY && now_ns >= worker->blocked_until_ns &&
           worker_in_flight(worker) < worker->sequences_max &&
           lease->prompt_tokens + lease->output_tokens_max <= worker->fit_tokens;
}

static bool is_in_time(const struct med_dispatch *d, const struct prediction *p)
{
    if (d->config.ttft_objective_ns == 0)
        return p->room_ms <= 0;
    double objective_ms = (double)d->config.ttft_objective_ns / 1e6;
    return p->ttft_ms <= objective_ms || p->wait_ms <= objective_ms / 4;
}

static bool is_better(const struct candidate *a, const struct candidate *b, int64_t a_in_flight,
                      int64_t b_in_flight)
{
    if (a->avoided != b->avoided)
        return b->avoided;
    if (a->in_time != b->in_time)
        return a->in_time;
    if (a->prediction.finish_ms < b->prediction.finish_ms)
        return true;
    if (a->prediction.finish_ms > b->prediction.finish_ms)
        return false;
    return a_in_flight < b_in_flight || (a_in_flight == b_in_flight && a->worker < b->worker);
}

static struct candidate best_of_type(const struct med_dispatch *d, const struct lease *lease,
                                     size_t type, int64_t now_ns, double output_tokens)
{
    const struct med_dispatch_type *plan = &d->types[type].plan;
    const struct med_latency *latency = plan->has_latency ? &plan->latency : NULL;
    struct candidate best = {.worker = NONE};
    int64_t best_in_flight = 0;
    for (uint32_t i = d->workers.type_first[type]; i != NONE; i = d->workers.rows[i].next) {
        const struct worker *worker = &d->workers.rows[i];
        if (!is_eligible(worker, lease, now_ns))
            continue;
        struct candidate it = {.worker = i, .avoided = i == lease->avoid};
        it.prediction = worker_predict(worker, latency, &d->leases, now_ns,
                                       lease->prompt_tokens + lease->tokens, output_tokens);
        it.in_time = is_in_time(d, &it.prediction);
        if (best.worker == NONE ||
            is_better(&it, &best, worker_in_flight(worker), best_in_flight)) {
            best = it;
            best_in_flight = worker_in_flight(worker);
        }
    }
    return best;
}

/* How much of a type is there for the request, busy or not, relative to what was planned. */
static double available_of(const struct med_dispatch *d, const struct lease *lease, size_t type)
{
    double count = 0;
    for (uint32_t i = d->workers.type_first[type]; i != NONE; i = d->workers.rows[i].next) {
        const struct worker *worker = &d->workers.rows[i];
        if (worker->state == MED_WORKER_READY &&
            lease->prompt_tokens + lease->output_tokens_max <= worker->fit_tokens)
            count++;
    }
    int64_t planned = d->types[type].plan.workers_planned;
    return planned > 0 ? count / (double)planned : count > 0;
}

static bool is_retired(const struct med_dispatch *d, size_t type)
{
    return d->types[type].plan.retired;
}

struct pick pick_worker(const struct med_dispatch *d, const struct lease *lease, int64_t now_ns)
{
    struct pick pick = {.worker = NONE};
    double chances[MED_LIMIT_EDGES];
    double available[MED_LIMIT_WORKER_TYPES];
    predictor_distribution(&d->predictor, lease->input_row, 0, lease->output_tokens_max, chances);
    for (size_t t = 0; t < d->config.type_count; t++)
        available[t] = available_of(d, lease, t);
    pick.has_plan = shares_weigh(&d->shares, lease->input_row, chances, available, pick.weights);
    if (pick.has_plan)
        pick.planned_type = shares_choose(&d->shares, lease->input_row, pick.weights);
    struct candidate best = {.worker = NONE};
    bool retired_too = dispatch_may_use_retired(d);
    for (size_t t = 0; t < d->config.type_count; t++) {
        if (available[t] <= 0 || (d->types[t].plan.retired && !retired_too))
            continue;
        struct candidate it = best_of_type(d, lease, t, now_ns, (double)lease->remaining);
        if (it.worker == NONE || !it.in_time)
            continue;
        bool is_planned = pick.has_plan && t == pick.planned_type;
        bool take = best.worker == NONE;
        if (!take && it.avoided != best.avoided) {
            take = best.avoided;
        } else if (!take && is_retired(d, t) != is_retired(d, pick.type)) {
            take = is_retired(d, pick.type);
        } else if (!take && is_planned) {
            take = true;
        } else if (!take && pick.has_plan && pick.type == pick.planned_type) {
            take = false;
        } else if (!take && pick.weights[t] != pick.weights[pick.type]) {
            take = pick.weights[t] > pick.weights[pick.type];
        } else if (!take) {
            take = it.prediction.finish_ms < best.prediction.finish_ms;
        }
        if (take) {
            best = it;
            pick.type = t;
        }
    }
    pick.worker = best.worker;
    pick.prediction = best.prediction;
    return pick;
}
