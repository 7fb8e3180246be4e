/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Admission: a request that would wait too long is refused at once.
 *
 * Little's law: what waits is the rate at which it leaves times the wait. Per type the rate is that of
 * its ready workers: requests per second and worker as the plan reckons (over the traffic as it arrives),
 * worth PRIOR starts, and from there on as measured while somebody waited for the type. So the cap of a
 * type is its rate times the acceptable wait: a quarter of the TTFT objective (the rest is for the
 * worker, pick.c), without one most of queue_wait, and never beyond the request's own deadline.
 *
 * A queue that has only just formed is a burst, which the fleet works off, not an overload: until it has
 * stood for BURST times the acceptable wait (half the TTFT objective), newcomers may wait most of queue_wait.
 *
 * A waiting request counts for each type that may serve it in equal parts. A newcomer is held against
 * those that wait with its priority or a lower number, of the types that may serve it: others go behind
 * it. The first in an empty queue is always accepted. Without a ready worker nothing is known, and
 * only queue_max counts.
 *
 * O(types) per request that waits. source: docs/adr/0091-admission.md. thread: loop.
 */
#include "router/dispatch/internal.h"

#include "base/assert.h"

#include <math.h>

#define PRIOR         32.0  /* starts that the plan's rate is worth */
#define STARTS_MAX    256.0 /* then both are halved, so that what is new counts */
#define WAIT_PART     0.75  /* of queue_wait: the estimate is not exact */
#define BURST         2     /* times the acceptable wait */
#define PRIORITY_SPAN (ADMISSION_CLASSES / 2)

static size_t class_of(const struct lease *row)
{
    int32_t p = row->priority;
    p = p < -PRIORITY_SPAN ? -PRIORITY_SPAN : p;
    p = p > PRIORITY_SPAN ? PRIORITY_SPAN : p;
    p += PRIORITY_SPAN;
    return (size_t)p;
}

/* Types that may serve a request: with a ready worker that holds it; if there is none, by size. */
static uint64_t types_of(const struct med_dispatch *d, const struct lease *row)
{
    uint64_t ready = 0;
    uint64_t fit = 0;
    bool retired_too = dispatch_may_use_retired(d);
    for (size_t t = 0; t < d->config.type_count; t++) {
        if (row->prompt_tokens + row->output_tokens_max > d->types[t].fit_tokens ||
            (d->types[t].plan.retired && !retired_too))
            continue;
        fit |= UINT64_C(1) << t;
        if (d->workers.ready[t] > 0)
            ready |= UINT64_C(1) << t;
    }
    return ready != 0 ? ready : fit;
}

static int64_t part_of(uint64_t types)
{
    int64_t count = 0;
    for (; types != 0; types &= types - 1)
        count++;
    return count > 0 ? ADMISSION_UNITS / count : 0;
}

void admission_advance(struct med_dispatch *d, int64_t now_ns)
{
    struct admission *a = &d->admission;
    double elapsed_s = (double)(now_ns - a->since_ns) / 1e9;
    a->since_ns = now_ns;
    for (size_t t = 0; elapsed_s > 0 && a->waiting > 0 && t < d->config.type_count; t++) {
        if (a->queued[t] > 0)
            a->rates[t].worker_s += elapsed_s * (double)d->workers.ready[t];
    }
}

void admission_enter(struct med_dispatch *d, int64_t now_ns, struct lease *row)
{
    struct admission *a = &d->admission;
    admission_advance(d, now_ns);
    row->types = types_of(d, row);
    int64_t part = part_of(row->types);
    for (size_t t = 0; t < MED_LIMIT_WORKER_TYPES; t++) {
        if ((row->types >> t & 1) != 0) {
            a->queued[t]++;
            a->units[t][class_of(row)] += part;
        }
    }
    if (a->waiting++ == 0)
        a->stands_since_ns = now_ns;
}

void admission_leave(struct med_dispatch *d, int64_t now_ns, const struct lease *row)
{
    struct admission *a = &d->admission;
    admission_advance(d, now_ns);
    int64_t part = part_of(row->types);
    for (size_t t = 0; t < MED_LIMIT_WORKER_TYPES; t++) {
        if ((row->types >> t & 1) != 0) {
            a->queued[t]--;
            a->units[t][class_of(row)] -= part;
            MED_ASSERT(a->queued[t] >= 0);
            MED_ASSERT(a->units[t][class_of(row)] >= 0);
        }
    }
    a->waiting--;
    MED_ASSERT(a->waiting >= 0);
}

void admission_started(struct med_dispatch *d, int64_t now_ns, size_t type)
{
    struct admission *a = &d->admission;
    if (a->queued[type] == 0)
        return;
    admission_advance(d, now_ns);
    a->rates[type].starts += 1;
    if (a->rates[type].starts > STARTS_MAX) {
        a->rates[type].starts /= 2;
        a->rates[type].worker_s /= 2;
    }
}

double admission_rate(const struct med_dispatch *d, size_t type)
{
    const struct admission_rate *seen = &d->admission.rates[type];
    double planned = d->shares.per_worker[type];
    double ready = (double)d->workers.ready[type];
    if (planned > 0)
        return ready * (PRIOR + seen->starts) / (PRIOR / planned + seen->worker_s);
    return seen->worker_s > 0 ? ready * seen->starts / seen->worker_s : 0;
}

/* Seconds until those ahead have left; < 0: not known. */
static double wait_s(const struct med_dispatch *d, uint64_t types, size_t class)
{
    double ahead = 0;
    double rate = 0;
    for (size_t t = 0; t < d->config.type_count; t++) {
        if ((types >> t & 1) == 0)
            continue;
        rate += admission_rate(d, t);
        for (size_t c = 0; c <= class; c++)
            ahead += (double)d->admission.units[t][c] / ADMISSION_UNITS;
    }
    if (ahead <= 0)
        return 0;
    return rate > 0 ? ahead / rate : -1;
}

int64_t admission_wait_max_ns(const struct med_dispatch *d)
{
    double most = WAIT_PART * (double)d->config.queue_wait_ns;
    if (d->config.ttft_objective_ns > 0)
        most = fmin(most, (double)d->config.ttft_objective_ns / 4);
    return (int64_t)most;
}

int64_t admission_wait_ns(const struct med_dispatch *d, size_t type)
{
    double wait = wait_s(d, UINT64_C(1) << type, ADMISSION_CLASSES - 1);
    return wait < 0 ? -1 : dispatch_ns_of_ms(wait * 1e3);
}

void admission_refused(struct med_dispatch *d, const struct lease *row)
{
    uint64_t types = types_of(d, row);
    d->totals.refused_admission++;
    for (size_t t = 0; t < d->config.type_count; t++)
        d->counts[t].refused_admission += types >> t & 1;
}

bool admission_accepts(const struct med_dispatch *d, int64_t now_ns, const struct lease *row)
{
    if (!d->config.admission)
        return true;
    int64_t most = admission_wait_max_ns(d);
    if (d->admission.waiting == 0 || now_ns - d->admission.stands_since_ns < BURST * most)
        most = (int64_t)(WAIT_PART * (double)d->config.queue_wait_ns);
    if (row->deadline_ns > 0 && row->deadline_ns - now_ns < most)
        most = row->deadline_ns - now_ns;
    return wait_s(d, types_of(d, row), class_of(row)) * 1e9 <= (double)most;
}

int64_t med_dispatch_retry_after_ns(const struct med_dispatch *d)
{
    double rate = 0;
    uint64_t types = 0;
    for (size_t t = 0; t < d->config.type_count; t++) {
        rate += admission_rate(d, t);
        types |= UINT64_C(1) << t;
    }
    if (!(rate > 0))
        return 0;
    /* When what is too much has left, and one more. */
    double most = (double)admission_wait_max_ns(d);
    double wait = wait_s(d, types, ADMISSION_CLASSES - 1) * 1e9;
    return dispatch_ns_of_ms((fmax(0, wait - most) + 1e9 / rate) / 1e6);
}

void admission_check(const struct med_dispatch *d)
{
    MED_ASSERT(d->admission.waiting == d->totals.queued);
    int64_t queued[MED_LIMIT_WORKER_TYPES] = {0};
    int64_t units[MED_LIMIT_WORKER_TYPES] = {0};
    for (uint32_t i = 0; i < d->leases.count_max; i++) {
        const struct lease *row = &d->leases.rows[i];
        for (size_t t = 0; row->used && row->worker == NONE && t < MED_LIMIT_WORKER_TYPES; t++) {
            if ((row->types >> t & 1) != 0) {
                queued[t]++;
                units[t] += part_of(row->types);
            }
        }
    }
    for (size_t t = 0; t < MED_LIMIT_WORKER_TYPES; t++) {
        int64_t sum = 0;
        for (size_t c = 0; c < ADMISSION_CLASSES; c++)
            sum += d->admission.units[t][c];
        MED_ASSERT(d->admission.queued[t] == queued[t]);
        MED_ASSERT(sum == units[t]);
        MED_ASSERT(d->admission.rates[t].worker_s >= 0);
    }
}
