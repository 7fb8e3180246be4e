/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tally of a replay.
 *
 * Requests are ordered by group with a counting sort, once by bucket and once by type, so that the
 * values of one metric of one group are gathered, sorted and forgotten: memory is one number and two
 * indices for each request, however many groups there are.
 * thread: the caller's. It reads no clock and prints nothing.
 */
#include "allocator/replay/report/tally.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/hist.h"

#include <math.h>
#include <string.h>

#define NO_GROUP UINT32_MAX

static const char *const metric_names[MED_TALLY_METRICS] = {"ttft", "tpot", "e2e", "e2e_per_token"};

const char *med_tally_metric_name(enum med_tally_metric metric)
{
    return metric_names[metric];
}

double med_tally_value_ms(const struct med_sim_arrival *arrival, const struct med_sim_request *row,
                          enum med_tally_metric metric)
{
    if (row->e2e_ns < 0)
        return NAN;
    double ttft_ms = (double)row->ttft_ns / 1e6;
    double e2e_ms = (double)row->e2e_ns / 1e6;
    double tokens = (double)arrival->output_tokens;
    switch (metric) {
    case MED_TALLY_TTFT:
        return ttft_ms;
    case MED_TALLY_TPOT:
        return tokens > 1 ? (e2e_ms - ttft_ms) / (tokens - 1) : NAN;
    case MED_TALLY_E2E:
        return e2e_ms;
    case MED_TALLY_E2E_PER_TOKEN:
    case MED_TALLY_METRICS:
        break;
    }
    return e2e_ms / tokens;
}

struct counter {
    const struct med_plan *plan;
    const struct med_slos *slos;
    const struct med_sim_arrival *arrivals;
    const struct med_sim_result *result;
    size_t first;      /* that counts */
    uint32_t *indices; /* of requests, by group */
    uint32_t *groups;  /* [request] */
    struct med_sample sample;
};

/* ---- one group ---- */

static enum med_tally_metric metric_of(enum med_slo_metric metric)
{
    if (metric == MED_SLO_TTFT)
        return MED_TALLY_TTFT;
    return metric == MED_SLO_TPOT ? MED_TALLY_TPOT : MED_TALLY_E2E_PER_TOKEN;
}

/* One token has no time per token: it keeps any limit of it, once it has come. */
static bool is_within(const struct med_sim_arrival *arrival, const struct med_sim_request *row,
                      const struct med_slo *slo)
{
    double value = med_tally_value_ms(arrival, row, metric_of(slo->metric));
    return row->e2e_ns >= 0 && !(value > slo->limit_ms);
}

bool med_tally_is_within(const struct med_slos *slos, const struct med_sim_arrival *arrivals,
                         const struct med_sim_result *result, size_t request)
{
    for (size_t i = 0; i < slos->count; i++) {
        if (!is_within(&arrivals[request], &result->requests[request], &slos->items[i]))
            return false;
    }
    return true;
}

static struct med_tally_latency latency_of(struct med_sample *sample)
{
    return (struct med_tally_latency){
        .mean = med_sample_mean(sample),
        .p50 = med_sample_quantile(sample, 0.5),
        .p90 = med_sample_quantile(sample, 0.9),
        .p95 = med_sample_quantile(sample, 0.95),
        .p99 = med_sample_quantile(sample, 0.99),
        .max = med_sample_quantile(sample, 1),
    };
}

static void empty(struct med_sample *sample)
{
    sample->count = 0;
    sample->sum = 0;
}

static int count_group(struct counter *c, const uint32_t *indices, size_t count,
                       struct med_tally_group *ret_group)
{
    struct med_tally_group g = {.requests = count, .attainment = NAN};
    size_t within = 0;
    for (size_t i = 0; i < count; i++) {
        within += med_tally_is_within(c->slos, c->arrivals, c->result, indices[i]);
        if (c->result->requests[indices[i]].e2e_ns < 0)
            continue;
        g.finished++;
        g.input_tokens += c->arrivals[indices[i]].input_tokens;
        g.output_tokens += c->arrivals[indices[i]].output_tokens;
    }
    if (count > 0 && c->slos->count > 0)
        g.attainment = (double)within / (double)count;
    for (int m = 0; m < MED_TALLY_METRICS; m++) {
        empty(&c->sample);
        for (size_t i = 0; i < count; i++) {
            double value =
                med_tally_value_ms(&c->arrivals[indices[i]], &c->result->requests[indices[i]],
                                   (enum med_tally_metric)m);
            int rc = isnan(value) ? 0 : med_sample_add(&c->sample, value);
            if (rc < 0)
                return rc;
        }
        g.latency[m] = latency_of(&c->sample);
    }
    *ret_group = g;
    return 0;
}

int med_tally_group_of(const struct med_slos *slos, const struct med_sim_arrival *arrivals,
                       const struct med_sim_result *result, const uint32_t *indices, size_t count,
                       struct med_tally_group *ret_group)
{
    struct counter c = {.slos = slos, .arrivals = arrivals, .result = result};
    med_sample_init(&c.sample);
    int rc = count_group(&c, indices, count, ret_group);
    med_sample_release(&c.sample);
    return rc;
}

/* Puts the counted requests into c->indices by c->groups; ends[g] is where group g ends. */
static void sort_by_group(struct counter *c, size_t *ends, size_t group_count)
{
    memset(ends, 0, group_count * sizeof *ends);
    for (size_t i = c->first; i < c->result->count; i++) {
        if (c->groups[i] != NO_GROUP)
            ends[c->groups[i]]++;
    }
    size_t at = 0;
    for (size_t g = 0; g < group_count; g++) {
        size_t count = ends[g];
        ends[g] = at;
        at += count;
    }
    for (size_t i = c->first; i < c->result->count; i++) {
        if (c->groups[i] != NO_GROUP)
            c->indices[ends[c->groups[i]]++] = (uint32_t)i;
    }
}

/* ---- by worker type ---- */

static void add_worker(struct med_tally_type *type, const struct med_sim_worker_result *worker)
{
    double share = worker->utilization;
    type->utilization_min = type->workers > 0 ? fmin(type->utilization_min, share) : share;
    type->utilization_max = type->workers > 0 ? fmax(type->utilization_max, share) : share;
    type->utilization_mean += share;
    type->preemptions += worker->preemptions;
    type->workers++;
}

static int count_types(struct counter *c, struct med_tally *t)
{
    const struct med_sim_result *result = c->result;
    size_t profiles = c->plan->profile_count;
    size_t *ends = med_calloc(profiles + 1, sizeof *ends);
    t->types = med_calloc(profiles + 1, sizeof *t->types);
    if (!ends || !t->types) {
        med_free(ends);
        return MED_E_NOMEM;
    }
    for (size_t i = c->first; i < result->count; i++) {
        c->groups[i] =
            result->requests[i].ttft_ns < 0 ? NO_GROUP : (uint32_t)result->requests[i].type;
    }
    sort_by_group(c, ends, profiles);
    int rc = 0;
    for (size_t p = 0; rc == 0 && p < profiles; p++) {
        struct med_tally_type *type = &t->types[t->type_count];
        type->profile = p;
        for (size_t i = 0; i < result->worker_count; i++) {
            if (result->workers[i].type == p)
                add_worker(type, &result->workers[i]);
        }
        if (type->workers == 0)
            continue;
        type->utilization_mean /= (double)type->workers;
        size_t from = p > 0 ? ends[p - 1] : 0;
        rc = count_group(c, c->indices + from, ends[p] - from, &type->group);
        t->type_count++;
    }
    med_free(ends);
    return rc;
}

/* ---- by bucket ---- */

static bool is_planned(const struct med_plan *plan, int input_row, int output_row)
{
    for (size_t i = 0; i < plan->assignment_count; i++) {
        const struct med_plan_assignment *a = &plan->assignment[i];
        if (a->input_row == input_row && a->output_row == output_row)
            return a->rate_per_s > 0;
    }
    return false;
}

static void sort_into_buckets(struct counter *c, struct med_tally *t)
{
    const struct med_grid *grid = &c->plan->grid;
    for (size_t i = c->first; i < c->result->count; i++) {
        const struct med_sim_arrival *a = &c->arrivals[i];
        int input =
            med_grid_row(grid->input_edges, grid->input_edge_count, (double)a->input_tokens);
        int output =
            med_grid_row(grid->output_edges, grid->output_edge_count, (double)a->output_tokens);
        bool inside = input >= 0 && output >= 0;
        t->outside += !inside;
        c->groups[i] = inside ? (uint32_t)((size_t)input * grid->output_edge_count + (size_t)output)
                              : NO_GROUP;
    }
}

static int count_buckets(struct counter *c, struct med_tally *t)
{
    size_t columns = c->plan->grid.output_edge_count;
    size_t cells = c->plan->grid.input_edge_count * columns;
    size_t *ends = med_calloc(cells + 1, sizeof *ends);
    t->buckets = med_calloc(cells + 1, sizeof *t->buckets);
    if (!ends || !t->buckets) {
        med_free(ends);
        return MED_E_NOMEM;
    }
    sort_into_buckets(c, t);
    sort_by_group(c, ends, cells);
    int rc = 0;
    for (size_t cell = 0; rc == 0 && cell < cells; cell++) {
        size_t from = cell > 0 ? ends[cell - 1] : 0;
        size_t count = ends[cell] - from;
        if (count == 0)
            continue;
        struct med_tally_bucket *bucket = &t->buckets[t->bucket_count++];
        bucket->input_row = (int)(cell / columns);
        bucket->output_row = (int)(cell % columns);
        bucket->planned = is_planned(c->plan, bucket->input_row, bucket->output_row);
        t->outside_bucket += bucket->planned ? 0 : count;
        rc = count_group(c, c->indices + from, count, &bucket->group);
    }
    med_free(ends);
    return rc;
}

/* ---- all ---- */

static void count_ends(const struct counter *c, struct med_tally *t)
{
    for (size_t i = c->first; i < c->result->count; i++) {
        switch (c->result->requests[i].outcome) {
        case MED_OUTCOME_STOP:
        case MED_OUTCOME_LENGTH:
            break;
        case MED_OUTCOME_REJECTED:
            t->rejected++;
            break;
        case MED_OUTCOME_WORKER_LOST:
            t->lost++;
            break;
        case MED_E_OVERLOAD:
            t->refused_overload++;
            break;
        case MED_E_INVALID:
            t->refused_invalid++;
            break;
        default:
            t->failed++;
            break;
        }
    }
}

static int count_waits(struct counter *c, struct med_tally *t)
{
    empty(&c->sample);
    for (size_t i = c->first; i < c->result->count; i++) {
        const struct med_sim_request *row = &c->result->requests[i];
        if (row->ttft_ns < 0)
            continue;
        t->picked++;
        if (row->picked_ns <= 0)
            continue;
        t->waited++;
        int rc = med_sample_add(&c->sample, (double)row->picked_ns / 1e6);
        if (rc < 0)
            return rc;
    }
    t->wait = latency_of(&c->sample);
    return 0;
}

static void count_objectives(const struct counter *c, struct med_tally *t)
{
    t->objective_count = c->slos->count;
    for (size_t k = 0; k < c->slos->count; k++) {
        struct med_tally_objective *o = &t->objectives[k];
        size_t within = 0;
        o->slo = c->slos->items[k];
        for (size_t i = c->first; i < c->result->count; i++)
            within += is_within(&c->arrivals[i], &c->result->requests[i], &o->slo);
        o->observed_ms = t->all.latency[metric_of(o->slo.metric)].mean;
        o->met = o->observed_ms <= o->slo.limit_ms;
        o->share_within = (double)within / (double)t->all.requests;
    }
}

static double ratio(double of, double by)
{
    return by > 0 ? of / by : NAN;
}

static void count_cost(const struct counter *c, struct med_tally *t)
{
    int64_t from_ns = c->arrivals[c->first].at_ns;
    int64_t last_ns = c->arrivals[c->result->count - 1].at_ns;
    double output = (double)t->all.output_tokens;
    t->duration_s = (double)(c->result->end_ns - from_ns) / 1e9;
    t->rate_per_s = ratio((double)(t->all.requests - 1), (double)(last_ns - from_ns) / 1e9);
    t->usd_per_hour = c->plan->cost_usd_per_hour;
    t->usd = t->usd_per_hour * t->duration_s / 3600;
    t->usd_per_million_output_tokens = ratio(t->usd, output / 1e6);
    t->usd_per_million_tokens = ratio(t->usd, (output + (double)t->all.input_tokens) / 1e6);
    t->usd_per_thousand_requests = ratio(t->usd, (double)t->all.finished / 1e3);
}

/* Of those that finished: the k-th of a hundred parts. */
static int count_curve(struct counter *c, enum med_tally_metric metric,
                       double ret_curve[MED_TALLY_CURVE])
{
    empty(&c->sample);
    for (size_t i = c->first; i < c->result->count; i++) {
        double value = med_tally_value_ms(&c->arrivals[i], &c->result->requests[i], metric);
        int rc = isnan(value) ? 0 : med_sample_add(&c->sample, value);
        if (rc < 0)
            return rc;
    }
    for (int k = 0; k < MED_TALLY_CURVE; k++)
        ret_curve[k] = med_sample_quantile(&c->sample, (double)k / (MED_TALLY_CURVE - 1));
    return 0;
}

static int count_all(struct counter *c, struct med_tally *t)
{
    size_t count = c->result->count - c->first;
    for (size_t i = 0; i < count; i++)
        c->indices[i] = (uint32_t)(c->first + i);
    int rc = count_group(c, c->indices, count, &t->all);
    if (rc < 0)
        return rc;
    count_ends(c, t);
    count_objectives(c, t);
    count_cost(c, t);
    rc = count_waits(c, t);
    if (rc == 0)
        rc = count_curve(c, MED_TALLY_TTFT, t->ttft_curve);
    if (rc == 0)
        rc = count_curve(c, MED_TALLY_TPOT, t->tpot_curve);
    if (rc == 0)
        rc = count_types(c, t);
    if (rc == 0)
        rc = count_buckets(c, t);
    return rc;
}

int med_tally_make(const struct med_plan *plan, const struct med_slos *slos,
                   const struct med_sim_arrival *arrivals, const struct med_sim_result *result,
                   int64_t warm_up_ns, struct med_tally *ret_tally, struct med_err *err)
{
    struct counter c = {.plan = plan, .slos = slos, .arrivals = arrivals, .result = result};
    while (c.first < result->count && arrivals[c.first].at_ns - arrivals[0].at_ns < warm_up_ns)
        c.first++;
    if (c.first == result->count) {
        return med_err_set(err, MED_E_INVALID,
                           "no request is left to count: %zu arrived, all within the warm-up of "
                           "%.6g s",
                           result->count, (double)warm_up_ns / 1e9);
    }
    struct med_tally tally = {.warm_up = c.first};
    med_sample_init(&c.sample);
    c.indices = med_calloc(result->count, sizeof *c.indices);
    c.groups = med_calloc(result->count, sizeof *c.groups);
    int rc = c.indices && c.groups ? count_all(&c, &tally) : MED_E_NOMEM;
    med_sample_release(&c.sample);
    med_free(c.indices);
    med_free(c.groups);
    if (rc < 0) {
        med_tally_release(&tally);
        return med_err_set(err, rc, "no memory for the figures of %zu requests", result->count);
    }
    *ret_tally = tally;
    return 0;
}

void med_tally_release(struct med_tally *tally)
{
    med_free(tally->types);
    med_free(tally->buckets);
    *tally = (struct med_tally){0};
}
