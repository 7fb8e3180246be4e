/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Floors: what a prediction at each worker is at least, whatever the request, so that a pick need not predict
 * at every worker of a large fleet.
 *
 * With a latency model it is the time per token with one more request, its prompt left out, under the
 * least share of prefill until `until_ns`: that share only decays.  The latency model never falls as load
 * grows, so a prediction's finish is at least the floor times all tokens but the first.  Without a model
 * it is the score itself, the tokens outstanding.
 *
 * Whatever changes a worker touches it; a pick first reckons again what was touched since the last one.
 * So an event costs O(1), and a pick what has changed, two sweeps over an array of numbers, and
 * predictions for those workers that are not ruled out.  How many of each type are sound is kept
 * on the same occasion.  thread: loop.
 */
#include "router/dispatch/internal.h"

#include "base/alloc.h"
#include "base/clock.h"

#include <math.h>

#define VALID_NS     (50 * MED_NS_PER_MS)
#define ROUNDING     1e-9
#define TYPE_NOWHERE UINT8_MAX
_Static_assert(MED_LIMIT_WORKER_TYPES < TYPE_NOWHERE, "types of workers fit the array of floors");

int floors_init(struct floors *f, size_t workers_max)
{
    f->ms = med_calloc(workers_max, sizeof *f->ms);
    f->types = med_calloc(workers_max, sizeof *f->types);
    f->stale = med_calloc(workers_max, sizeof *f->stale);
    f->is_stale = med_calloc(workers_max, sizeof *f->is_stale);
    f->is_sound = med_calloc(workers_max, sizeof *f->is_sound);
    f->until_ns = INT64_MIN;
    return f->ms && f->types && f->stale && f->is_stale && f->is_sound ? 0 : MED_E_NOMEM;
}

void floors_release(struct floors *f)
{
    med_free(f->ms);
    med_free(f->types);
    med_free(f->stale);
    med_free(f->is_stale);
    med_free(f->is_sound);
}

void floors_touch(struct floors *f, uint32_t worker)
{
    if (f->is_stale[worker])
        return;
    f->is_stale[worker] = true;
    f->stale[f->stale_count++] = worker;
    if (worker >= f->top)
        f->top = worker + 1;
}

static void touch_all(struct floors *f)
{
    for (uint32_t i = 0; i < f->top; i++)
        floors_touch(f, i);
}

double floors_of(const struct med_dispatch *d, const struct worker *worker)
{
    if (!worker->connected)
        return INFINITY; /* its type may be of another plan */
    const struct med_dispatch_type *plan = &d->types[worker->type].plan;
    return worker_floor(worker, plan->has_latency ? &plan->latency : NULL,
                        d->workers.floors.until_ns);
}

static void reckon(struct med_dispatch *d, uint32_t index)
{
    struct floors *f = &d->workers.floors;
    struct worker *worker = &d->workers.rows[index];
    if (f->is_sound[index])
        f->sound[f->types[index]]--; /* as it was: the row may be another worker's by now */
    f->types[index] = worker->connected ? (uint8_t)worker->type : TYPE_NOWHERE;
    f->is_sound[index] = worker->connected && worker_is_sound(worker);
    if (f->is_sound[index])
        f->sound[worker->type]++;
    f->ms[index] = floors_of(d, worker);
    f->is_stale[index] = false;
    if (!worker->connected)
        return;
    const struct med_dispatch_type *plan = &d->types[worker->type].plan;
    if (plan->has_latency)
        worker->ahead = worker_look_ahead(worker, &plan->latency);
}

/* The shortest that a worker of the type holds. */
static void reckon_fit(struct med_dispatch *d, size_t type)
{
    int64_t least = INT64_MAX;
    for (uint32_t i = d->workers.type_first[type]; i != NONE; i = d->workers.rows[i].next) {
        int64_t fit = d->workers.rows[i].fit_tokens;
        least = fit < least ? fit : least;
    }
    d->workers.floors.fit_least[type] = least;
    d->workers.floors.fit_is_known[type] = true;
}

void floors_refresh(struct med_dispatch *d, int64_t now_ns)
{
    struct floors *f = &d->workers.floors;
    if (now_ns > f->until_ns) {
        f->until_ns = now_ns + VALID_NS;
        touch_all(f);
    }
    while (f->stale_count > 0)
        reckon(d, f->stale[--f->stale_count]);
    for (size_t t = 0; t < d->config.type_count; t++) {
        if (!f->fit_is_known[t])
            reckon_fit(d, t);
    }
}

void floors_least(const struct floors *f, uint32_t ret_least[MED_LIMIT_WORKER_TYPES])
{
    double least[TYPE_NOWHERE + 1];
    for (size_t t = 0; t < MED_LIMIT_WORKER_TYPES; t++) {
        ret_least[t] = NONE;
        least[t] = INFINITY;
    }
    least[TYPE_NOWHERE] = -INFINITY;
    for (uint32_t i = 0; i < f->top; i++) {
        if (f->ms[i] < least[f->types[i]]) {
            least[f->types[i]] = f->ms[i];
            ret_least[f->types[i]] = i;
        }
    }
}

double floors_limit(const struct med_dispatch *d, size_t type, double score, int64_t output_tokens)
{
    double limit = score;
    if (d->types[type].plan.has_latency)
        limit = output_tokens > 1 ? score / (double)(output_tokens - 1) : INFINITY;
    return limit * (1 + ROUNDING);
}
