/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The study of a run with faults (see study.h).  Windows are counted with running sums, so that a strike costs as
 * much as the requests around it.  thread: the caller's.
 */
#include "allocator/replay/faults/study.h"

#include "base/alloc.h"
#include "base/clock.h"

#include <math.h>

#define WINDOW_REQUESTS 50
#define WINDOWS_BESIDE  10   /* before and after a fault that does not last */
#define BELOW           0.02 /* that much less than without faults is less */

struct student {
    struct med_fault_study_input in;
    uint32_t *within, *within_calm; /* [i] of the requests before i */
    uint32_t *indices;
    int64_t window_ns;
};

/* The first request that arrives at this time or later. */
static size_t arrival_at(const struct student *s, int64_t at_ns)
{
    size_t low = s->in.first;
    size_t high = s->in.result->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->in.arrivals[middle].at_ns < at_ns) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static void sum_up(struct student *s)
{
    for (size_t i = 0; i < s->in.result->count; i++) {
        s->within[i + 1] =
            s->within[i] + med_tally_is_within(s->in.slos, s->in.arrivals, s->in.result, i);
        s->within_calm[i + 1] =
            s->within_calm[i] + med_tally_is_within(s->in.slos, s->in.arrivals, s->in.calm, i);
    }
}

/* Is attainment of the arrivals [from, to) less than without faults? */
static bool is_below(const struct student *s, size_t from, size_t to)
{
    double with = (double)(s->within[to] - s->within[from]);
    double without = (double)(s->within_calm[to] - s->within_calm[from]);
    return to > from && with < without - BELOW * (double)(to - from);
}

static void find_back(const struct student *s, int64_t at_ns, int64_t heals_ns,
                      struct med_fault_effect *e)
{
    int64_t end_ns = s->in.arrivals[s->in.result->count - 1].at_ns;
    int64_t back_ns = at_ns;
    for (int64_t from = at_ns; from <= end_ns; from += s->window_ns) {
        bool below = is_below(s, arrival_at(s, from), arrival_at(s, from + s->window_ns));
        if (!below && from >= heals_ns)
            break;
        if (!below)
            continue;
        e->fell = true;
        back_ns = from + s->window_ns;
    }
    e->back_s = back_ns > end_ns ? NAN : (double)(back_ns - at_ns) / 1e9;
}

static int take_group(const struct student *s, const struct med_sim_result *result, size_t count,
                      struct med_tally_group *ret_group)
{
    return med_tally_group_of(s->in.slos, s->in.arrivals, result, s->indices, count, ret_group);
}

static int study_strike(struct student *s, const struct med_fault_event *event,
                        struct med_fault_effect *e)
{
    int64_t at_ns = event->at_ns;
    int64_t end_ns = s->in.arrivals[s->in.result->count - 1].at_ns;
    int64_t heals_ns = event->for_ns > 0 ? at_ns + event->for_ns : end_ns + 1;
    int64_t beside_ns =
        event->for_ns > s->window_ns ? event->for_ns : WINDOWS_BESIDE * s->window_ns;
    size_t strike = arrival_at(s, at_ns);
    size_t healed = arrival_at(s, heals_ns);
    size_t count = 0;
    for (size_t i = arrival_at(s, at_ns - beside_ns); i < strike; i++) {
        if (s->in.arrivals[i].at_ns + s->in.result->requests[i].ended_ns < at_ns)
            s->indices[count++] = (uint32_t)i;
    }
    int rc = take_group(s, s->in.result, count, &e->before);
    count = 0;
    for (size_t i = s->in.first; i < healed; i++) {
        if (i >= strike || s->in.arrivals[i].at_ns + s->in.result->requests[i].ended_ns >= at_ns)
            s->indices[count++] = (uint32_t)i;
    }
    if (rc == 0)
        rc = take_group(s, s->in.result, count, &e->during);
    if (rc == 0)
        rc = take_group(s, s->in.calm, count, &e->without);
    count = 0;
    for (size_t i = healed; i < arrival_at(s, heals_ns + beside_ns); i++)
        s->indices[count++] = (uint32_t)i;
    if (rc == 0)
        rc = take_group(s, s->in.result, count, &e->after);
    find_back(s, at_ns, heals_ns, e);
    return rc;
}

static double share(const struct student *s, const uint32_t *within)
{
    size_t count = s->in.result->count;
    return s->in.slos->count > 0
               ? (double)(within[count] - within[s->in.first]) / (double)(count - s->in.first)
               : NAN;
}

static int study_all(struct student *s, struct med_fault_study *study)
{
    size_t count = s->in.result->count;
    s->within = med_calloc(count + 1, sizeof *s->within);
    s->within_calm = med_calloc(count + 1, sizeof *s->within_calm);
    s->indices = med_calloc(count + 1, sizeof *s->indices);
    study->effects = med_calloc(study->count + 1, sizeof *study->effects);
    if (!s->within || !s->within_calm || !s->indices || !study->effects)
        return MED_E_NOMEM;
    sum_up(s);
    study->attainment = share(s, s->within);
    study->attainment_without = share(s, s->within_calm);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < study->count; i++)
        rc = study_strike(s, &s->in.log->strikes[i].event, &study->effects[i]);
    return rc;
}

int med_fault_study_make(const struct med_fault_study_input *input,
                         struct med_fault_study *ret_study, struct med_err *err)
{
    struct student s = {.in = *input};
    struct med_fault_study study = {.count = input->log->count};
    size_t count = input->result->count;
    double span_s =
        (double)(input->arrivals[count - 1].at_ns - input->arrivals[input->first].at_ns) / 1e9;
    study.window_s = fmax(1, ceil(WINDOW_REQUESTS * span_s / (double)(count - input->first)));
    s.window_ns = (int64_t)study.window_s * MED_NS_PER_S;
    int rc = study_all(&s, &study);
    if (rc == 0) {
        *ret_study = study;
    } else {
        rc = med_err_set(err, rc, "no memory for the figures of %zu faults", study.count);
        med_fault_study_release(&study);
    }
    med_free(s.within);
    med_free(s.within_calm);
    med_free(s.indices);
    return rc;
}

void med_fault_study_release(struct med_fault_study *study)
{
    med_free(study->effects);
    *study = (struct med_fault_study){0};
}
