/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pick: which worker takes a request now. Nothing changes here; dispatch.c acts on the answer.
 *
 * By the plan: in each type the worker with the least predicted finish; then the type whose turn it is
 * by the plan's shares, if that worker can start in time; else, among the types that can, the one with the
 * largest share, then the least finish. A worker can start a request in time when the first token is
 * predicted within the TTFT objective, or when the request would hardly wait there (a quarter of
 * the objective): a prompt that is too long for the objective anywhere is not held back for it.
 * Under admission a worker is also full when one more would put the predicted time per token beyond
 * that objective, unless it is idle; and what a request has waited counts, up to a quarter of the objective, which is what
 * admission lets it wait. Without an objective, when there is a place and memory for it now: what
 * would wait at a worker waits here, where the order is by deadline and any worker may take it.
 *
 * A worker that is believed to have the beginning of the prompt in its cache is predicted without that
 * part's prefill. So it wins exactly when it saves more than its longer queue costs.
 *
 * By another policy: the least score over the workers of all types that have a place (policy.c).
 *
 * Types that a replan has left out are asked last, and only until the plan is complete.
 * A worker that failed this request before is the last choice.
 *
 * Not every worker of a large fleet is predicted: none whose floor (floors.c) is above what the best of its
 * type, and the last of those that are shown, is predicted to take.  So the choice is the same.
 * Two sweeps over an array of all workers, some predictions. thread: loop.
 */
#include "router/dispatch/internal.h"

#include <math.h>

#define TPOT_PART 0.9 /* of the objective: contexts grow, and prompts of others come in between */

static bool has_room_for(const struct worker *worker, const struct lease *lease)
{
    return worker->state == MED_WORKER_READY &&
           lease->prompt_tokens + lease->output_tokens_max <= worker->fit_tokens;
}

static bool is_open(const struct worker *worker, int64_t now_ns)
{
    return worker->state == MED_WORKER_READY && now_ns >= worker->blocked_until_ns &&
           worker_in_flight(worker) < worker->sequences_max &&
           breaker_allows(&worker->breaker, now_ns);
}

static bool is_in_time(const struct med_dispatch *d, const struct lease *lease,
                       const struct prediction *p, int64_t in_flight, int64_t now_ns)
{
    if (d->config.admission && d->config.tpot_objective_ns > 0 && in_flight > 0 &&
        p->tpot_ms * 1e6 > TPOT_PART * (double)d->config.tpot_objective_ns)
        return false;
    if (d->config.ttft_objective_ns == 0)
        return p->room_ms <= 0;
    double objective_ms = (double)d->config.ttft_objective_ns / 1e6;
    double left_ms = objective_ms;
    if (d->config.admission) {
        double waited_ms = (double)(now_ns - lease->arrived_ns) / 1e6;
        left_ms -= waited_ms < objective_ms / 4 ? waited_ms : objective_ms / 4;
        if (waited_ms > 0)
            left_ms -= objective_ms / 10; /* what predictions miss */
    }
    return p->ttft_ms <= left_ms || p->wait_ms <= objective_ms / 4;
}

static bool is_better(const struct candidate *a, const struct candidate *b)
{
    if (a->avoided != b->avoided)
        return b->avoided;
    if (a->in_time != b->in_time)
        return a->in_time;
    if (a->score < b->score)
        return true;
    if (a->score > b->score)
        return false;
    return a->in_flight < b->in_flight || (a->in_flight == b->in_flight && a->worker < b->worker);
}

/* Keeps the best ones, in order. */
static void note(struct pick *pick, const struct candidate *it)
{
    size_t place = pick->candidate_count;
    pick->considered++;
    if (place < MED_DISPATCH_CANDIDATES) {
        pick->candidate_count++;
    } else if (!is_better(it, &pick->candidates[--place])) {
        return;
    }
    for (; place > 0 && is_better(it, &pick->candidates[place - 1]); place--)
        pick->candidates[place] = pick->candidates[place - 1];
    pick->candidates[place] = *it;
}

/* Of a prompt of which it->cached_tokens need not be computed. */
static struct prediction predict_at(const struct med_dispatch *d, const struct lease *lease,
                                    int64_t now_ns, const struct candidate *it,
                                    double finish_max_ms)
{
    const struct worker *worker = &d->workers.rows[it->worker];
    const struct med_dispatch_type *plan = &d->types[worker->type].plan;
    struct prediction_input input = {.latency = plan->has_latency ? &plan->latency : NULL,
                                     .leases = &d->leases,
                                     .now_ns = now_ns,
                                     .prompt_tokens = lease->prompt_tokens + lease->tokens,
                                     .cached_tokens = it->cached_tokens,
                                     .output_tokens = (double)lease->remaining,
                                     .finish_max_ms = finish_max_ms};
    return worker_predict(worker, &input);
}

static void predict(const struct med_dispatch *d, const struct lease *lease, int64_t now_ns,
                    struct candidate *it, double finish_max_ms)
{
    if (prefix_is_trusted(&d->workers.rows[it->worker])) {
        it->cached_tokens =
            (int64_t)(prefixes_blocks(&d->prefixes, it->worker) * MED_DISPATCH_PREFIX_TOKENS);
    }
    it->prediction = predict_at(d, lease, now_ns, it, finish_max_ms);
}

/* What the cache saves, for those that are shown. */
static void predict_saved(const struct med_dispatch *d, const struct lease *lease, int64_t now_ns,
                          struct pick *pick)
{
    for (size_t i = 0; i < pick->candidate_count; i++) {
        struct candidate *it = &pick->candidates[i];
        struct candidate without = {.worker = it->worker};
        if (it->cached_tokens > 0) {
            it->prediction.saved_ms =
                predict_at(d, lease, now_ns, &without, 0).ttft_ms - it->prediction.ttft_ms;
        }
    }
}

/* One look at the fleet. */
struct survey {
    const struct med_dispatch *dispatch;
    const struct lease *lease;
    int64_t now_ns;
    struct pick *pick;
    bool may_use[MED_LIMIT_WORKER_TYPES];
    struct candidate best[MED_LIMIT_WORKER_TYPES]; /* worker NONE: none so far */
    double
        limits[MED_LIMIT_WORKER_TYPES]; /* a worker of a greater score is neither best nor shown */
};

bool pick_is_open(const struct med_dispatch *d, uint32_t worker, int64_t now_ns)
{
    const struct worker *row = &d->workers.rows[worker];
    return is_open(row, now_ns) &&
           (!d->types[row->type].plan.retired || dispatch_may_use_retired(d));
}

bool pick_can_take(const struct med_dispatch *d, const struct lease *lease, uint32_t worker,
                   int64_t now_ns)
{
    struct candidate it = {.worker = worker,
                           .in_flight = worker_in_flight(&d->workers.rows[worker])};
    if (!has_room_for(&d->workers.rows[worker], lease))
        return false;
    if (d->config.policy != MED_POLICY_PLAN)
        return true;
    it.prediction = predict_at(d, lease, now_ns, &it, 0);
    return is_in_time(d, lease, &it.prediction, it.in_flight, now_ns);
}

/* Looks at one worker for a request. */
static void consider(struct survey *s, uint32_t index)
{
    const struct med_dispatch *d = s->dispatch;
    const struct worker *worker = &d->workers.rows[index];
    if (!has_room_for(worker, s->lease) || !is_open(worker, s->now_ns))
        return;
    struct candidate it = {.worker = index,
                           .avoided = index == s->lease->avoid,
                           .in_flight = worker_in_flight(worker)};
    if (d->config.policy == MED_POLICY_PLAN) {
        predict(d, s->lease, s->now_ns, &it, s->limits[worker->type]);
        if (it.prediction.finish_ms > s->limits[worker->type])
            return;
        it.in_time = is_in_time(d, s->lease, &it.prediction, it.in_flight, s->now_ns);
        it.score = it.prediction.finish_ms;
    } else {
        it.in_time = true;
        it.score = policy_score(d, s->lease, index);
    }
    note(s->pick, &it);
    struct candidate *best = &s->best[worker->type];
    if (best->worker == NONE || is_better(&it, best))
        *best = it;
}

/* The score beyond which no more of a type need be looked at. */
static double limit_of(const struct survey *s, size_t type)
{
    const struct candidate *best = &s->best[type];
    const struct candidate *last = &s->pick->candidates[MED_DISPATCH_CANDIDATES - 1];
    if (best->worker == NONE || !best->in_time || best->avoided ||
        s->pick->candidate_count < MED_DISPATCH_CANDIDATES || !last->in_time || last->avoided)
        return INFINITY;
    return best->score > last->score ? best->score : last->score;
}

/* The best by prediction: first the workers with the least floors, then all that those do not rule out. */
static void survey_predicted(struct survey *s)
{
    const struct floors *floors = &s->dispatch->workers.floors;
    uint32_t least[MED_LIMIT_WORKER_TYPES];
    double highest[UINT8_MAX + 1]; /* floors that need be looked at; none of those not connected */
    for (size_t t = 0; t <= UINT8_MAX; t++)
        highest[t] = -INFINITY;
    floors_least(floors, least);
    for (size_t t = 0; t < s->dispatch->config.type_count; t++) {
        if (s->may_use[t] && least[t] != NONE) {
            consider(s, least[t]);
            highest[t] = INFINITY;
        }
    }
    for (uint32_t i = 0; i < floors->top; i++) {
        size_t type = floors->types[i];
        if (floors->ms[i] > highest[type] || i == least[type])
            continue;
        consider(s, i);
        double limit = limit_of(s, type);
        if (limit != s->limits[type]) {
            s->limits[type] = limit;
            highest[type] = floors_limit(s->dispatch, type, limit, s->lease->remaining);
        }
    }
}

static void survey_all(struct survey *s)
{
    const struct workers *w = &s->dispatch->workers;
    for (size_t t = 0; t < s->dispatch->config.type_count; t++) {
        for (uint32_t i = s->may_use[t] ? w->type_first[t] : NONE; i != NONE; i = w->rows[i].next)
            consider(s, i);
    }
}

/* How much of a type is there for the request, busy or not, relative to what was planned. */
static double available_of(const struct med_dispatch *d, const struct lease *lease, size_t type)
{
    const struct workers *w = &d->workers;
    double count = 0;
    if (lease->prompt_tokens + lease->output_tokens_max <= w->floors.fit_least[type]) {
        count = (double)w->floors.sound[type];
    } else {
        for (uint32_t i = w->type_first[type]; i != NONE; i = w->rows[i].next)
            count += has_room_for(&w->rows[i], lease) && worker_is_sound(&w->rows[i]);
    }
    int64_t planned = d->types[type].plan.workers_planned;
    return planned > 0 ? count / (double)planned : count > 0;
}

bool pick_has_other(const struct med_dispatch *d, const struct lease *lease)
{
    for (size_t t = 0; t < d->config.type_count; t++) {
        for (uint32_t i = d->workers.type_first[t]; i != NONE; i = d->workers.rows[i].next) {
            const struct worker *worker = &d->workers.rows[i];
            if (i != lease->worker && has_room_for(worker, lease) && !worker->breaker.open)
                return true;
        }
    }
    return false;
}

/* Does a candidate of another type go before the best so far? */
static bool goes_before(const struct med_dispatch *d, const struct pick *pick, size_t type,
                        const struct candidate *it, const struct candidate *best)
{
    if (best->worker == NONE)
        return true;
    if (it->avoided != best->avoided)
        return best->avoided;
    if (d->types[type].plan.retired != d->types[pick->type].plan.retired)
        return d->types[pick->type].plan.retired;
    if (pick->has_plan && type == pick->planned_type)
        return true;
    if (pick->has_plan && pick->type == pick->planned_type)
        return false;
    if (pick->weights[type] != pick->weights[pick->type])
        return pick->weights[type] > pick->weights[pick->type];
    return is_better(it, best);
}

static void choose(const struct med_dispatch *d, const struct lease *lease, int64_t now_ns,
                   struct pick *pick)
{
    struct survey survey = {.dispatch = d, .lease = lease, .now_ns = now_ns, .pick = pick};
    struct candidate best = {.worker = NONE};
    bool retired_too = dispatch_may_use_retired(d);
    for (size_t t = 0; t < d->config.type_count; t++) {
        survey.may_use[t] = !d->types[t].plan.retired || retired_too;
        survey.best[t].worker = NONE;
        survey.limits[t] = INFINITY;
    }
    if (d->config.policy == MED_POLICY_PLAN) {
        survey_predicted(&survey);
    } else {
        survey_all(&survey);
    }
    for (size_t t = 0; t < d->config.type_count; t++) {
        const struct candidate *it = &survey.best[t];
        if (it->worker != NONE && it->in_time && goes_before(d, pick, t, it, &best)) {
            best = *it;
            pick->type = t;
        }
    }
    if (best.worker == NONE)
        return;
    if (d->config.policy != MED_POLICY_PLAN)
        predict(d, lease, now_ns, &best, 0); /* for what is shown */
    pick->worker = best.worker;
    pick->prediction = best.prediction;
    pick->cached_tokens = best.cached_tokens;
    size_t i = 0;
    while (i + 1 < pick->candidate_count && pick->candidates[i].worker != best.worker)
        i++;
    pick->candidates[i] = best;
    predict_saved(d, lease, now_ns, pick);
}

struct pick pick_worker(struct med_dispatch *d, const struct lease *lease, int64_t now_ns)
{
    struct pick pick = {.worker = NONE};
    floors_refresh(d, now_ns);
    if (d->config.policy == MED_POLICY_PLAN) {
        double chances[MED_LIMIT_EDGES];
        double available[MED_LIMIT_WORKER_TYPES];
        predictor_distribution(&d->predictor, lease->input_row, 0, lease->output_tokens_max,
                               lease->factor, chances);
        for (size_t t = 0; t < d->config.type_count; t++)
            available[t] = available_of(d, lease, t);
        pick.has_plan =
            shares_weigh(&d->shares, lease->input_row, chances, available, pick.weights);
        if (pick.has_plan)
            pick.planned_type = shares_choose(&d->shares, lease->input_row, pick.weights);
    }
    choose(d, lease, now_ns, &pick);
    return pick;
}
