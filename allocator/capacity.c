/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Capacity: the scheduler walked at rates that close in on the first broken objective (walk.h; why
 * this and no formula: docs/adr/0022).
 *
 * The search halves, on a logarithmic scale, between an almost idle worker and stable_share of the
 * greatest rate.  A rate far from breaking or meeting an objective is told after few requests, a
 * near one after all.  Nothing depends on time or machine: arrivals are one fixed sequence, and the
 * steps of the search do not depend on the objectives but for which half is taken, so that a looser
 * objective never gives less.
 *
 * thread: any. Not here: arrivals other than Poisson, mixtures of sizes on one worker (the program
 * adds loads), percentiles.
 */
#include "allocator/capacity.h"

#include "allocator/walk.h"
#include "base/assert.h"

#include <math.h>

static const double stable_share = 0.95;
/* "Almost idle": this share of the greatest rate, and this of what one sequence at a time allows. */
static const double idle_share = 0.01;
static const double precision = 0.008; /* of the capacity */

enum {
    IDLE_REQUESTS = 64
};

/* When a rate is judged, and how far from the limit a mean must be then. */
static const struct stage {
    int64_t measured;
    double decode_margin, margin; /* TPOT varies less than what waiting is part of */
} stages[] = {{MED_WALK_PERIOD / 8, 0.12, 0.4},
              {MED_WALK_PERIOD / 4, 0.06, 0.25},
              {MED_WALK_PERIOD / 2, 0.03, 0.12},
              {MED_WALK_PERIOD, 0.0, 0.0}};

struct worker {
    struct med_walk *walk;
    int64_t input, output;
    double greatest_per_s;
};

/* ---- latencies ---- */

static int64_t whole(double tokens)
{
    return tokens < 1.0 ? 1 : llround(tokens);
}

static int worker_init(struct worker *w, const struct med_latency *latency,
                       const struct med_request_size *size)
{
    /* Also refuses what is no number, before it becomes an integer. */
    if (!(size->input_tokens + size->output_tokens <= (double)latency->model_len_max))
        return MED_E_LIMIT;
    w->input = whole(size->input_tokens);
    w->output = whole(size->output_tokens);
    if (w->output == 1 && size->output_tokens > 1.0)
        w->output = 2; /* some of them have a TPOT */
    int rc = med_walk_new(latency, w->input, w->output, &w->walk);
    if (rc < 0)
        return rc;
    w->greatest_per_s = med_walk_greatest(w->walk);
    return 0;
}

static void advance(struct worker *w, int64_t measured, struct med_load_point *ret_point)
{
    struct med_walk_means means;
    med_walk_advance(w->walk, measured, &means);
    ret_point->ttft_ms = 1e3 * means.ttft_s;
    ret_point->tpot_ms = w->output > 1 ? 1e3 * means.decode_s / (double)(w->output - 1) : 0.0;
    ret_point->e2e_per_token_ms = 1e3 * (means.ttft_s + means.decode_s) / (double)w->output;
    ret_point->in_service = means.running;
}

int med_capacity_at_rate(const struct med_latency *latency, const struct med_request_size *size,
                         double rate_per_s, struct med_load_point *ret_point)
{
    struct worker w = {0};
    int rc = worker_init(&w, latency, size);
    if (rc < 0)
        return rc;
    double utilization = rate_per_s / w.greatest_per_s;
    if (rate_per_s > 0.0 && utilization < 1.0) {
        med_walk_start(w.walk, rate_per_s, MED_WALK_UNTIL_FULL);
        advance(&w, MED_WALK_PERIOD, ret_point);
        ret_point->utilization = utilization;
    } else {
        rc = MED_E_OVERLOAD;
    }
    med_walk_free(w.walk);
    return rc;
}

/* ---- objectives ---- */

static double value_of(const struct med_load_point *point, enum med_slo_metric metric)
{
    switch (metric) {
    case MED_SLO_TTFT:
        return point->ttft_ms;
    case MED_SLO_TPOT:
        return point->tpot_ms;
    case MED_SLO_E2E_PER_TOKEN:
        break;
    }
    return point->e2e_per_token_ms;
}

enum verdict {
    MEETS,
    BREAKS,
    NEAR
};

static enum verdict judge(const struct med_load_point *point, const struct med_slos *slos,
                          const struct stage *stage)
{
    enum verdict verdict = MEETS;
    for (size_t n = 0; n < slos->count; n++) {
        enum med_slo_metric metric = slos->items[n].metric;
        double margin = metric == MED_SLO_TPOT ? stage->decode_margin : stage->margin;
        double share = value_of(point, metric) / slos->items[n].limit_ms;
        if (share > 1.0 + margin)
            return BREAKS;
        if (share > 1.0 - margin && margin > 0.0)
            verdict = NEAR;
    }
    return verdict;
}

/* Does the rate meet every objective? The point is as of the last request looked at. */
static bool meets_at(struct worker *w, double rate_per_s, const struct med_slos *slos,
                     struct med_load_point *ret_point)
{
    enum verdict verdict = NEAR;
    med_walk_start(w->walk, rate_per_s, MED_WALK_UNTIL_FULL);
    for (size_t n = 0; verdict == NEAR; n++) {
        MED_ASSERT(n < sizeof stages / sizeof stages[0]);
        advance(w, stages[n].measured, ret_point);
        verdict = judge(ret_point, slos, &stages[n]);
    }
    return verdict == MEETS;
}

/* A worker's usual iterations at the point: its decodes, and a chunk of a prompt. */
static void judge_coverage(const struct med_latency *latency, const struct worker *w,
                           const struct med_load_point *point, struct med_capacity *capacity)
{
    double sequences = ceil(fmax(1.0, point->in_service));
    double room = fmax(1.0, (double)latency->batched_tokens_max - sequences);
    int64_t context = w->input + w->output - 1;
    struct med_step_row decodes = {.decode_sequences = (int64_t)sequences,
                                   .decode_context_tokens = (int64_t)sequences * context};
    struct med_step_row prefill = {.prefill_tokens = (int64_t)fmin((double)w->input, room)};
    capacity->modelled = med_latency_coverage(latency, (int64_t)sequences, context,
                                              prefill.prefill_tokens) != MED_COVERAGE_MEASURED;
    if (!capacity->modelled)
        return;
    if (med_latency_coverage(latency, (int64_t)sequences, context, 0) != MED_COVERAGE_MEASURED)
        capacity->regions |= 1u << med_step_region_of(&decodes);
    if (med_latency_coverage(latency, 0, 0, prefill.prefill_tokens) != MED_COVERAGE_MEASURED)
        capacity->regions |= 1u << med_step_region_of(&prefill);
    if (capacity->regions == 0) /* both were measured, but not beside each other */
        capacity->regions = 1u << MED_STEP_MIXED;
}

static void say_too_large(const struct med_latency *latency, const struct med_request_size *size,
                          struct med_capacity *capacity)
{
    double tokens = size->input_tokens + size->output_tokens;
    bool length = tokens > (double)latency->model_len_max;
    capacity->stop = length ? MED_STOP_MODEL_LEN : MED_STOP_KV;
    capacity->tokens = (int64_t)ceil(tokens);
    capacity->limit_tokens = length ? latency->model_len_max : latency->kv_tokens;
}

/* False: even an almost idle worker breaks an objective; ret_capacity says which. */
static bool idle_meets(struct worker *w, double rate_per_s, const struct med_slos *slos,
                       struct med_capacity *capacity, struct med_load_point *ret_point)
{
    struct med_load_point point;
    med_walk_start(w->walk, rate_per_s, 0);
    advance(w, IDLE_REQUESTS, &point);
    *ret_point = point;
    for (size_t n = 0; n < slos->count; n++) {
        enum med_slo_metric metric = slos->items[n].metric;
        if (value_of(&point, metric) <= slos->items[n].limit_ms)
            continue;
        capacity->stop = MED_STOP_SLO;
        capacity->metric = metric;
        capacity->needed_ms = value_of(&point, metric);
        return false;
    }
    return true;
}

static double idle_rate(const struct med_latency *latency, const struct worker *w)
{
    struct med_step_load one = {.decode_sequences = 1, .decode_context_tokens = w->input};
    double alone_s = (double)w->output * med_latency_step_ms(latency, &one) / 1e3;
    return idle_share * fmin(w->greatest_per_s, 1.0 / alone_s);
}

/* The greatest rate from low, which meets the objectives, to high that meets them too; the point is
 * that of the rate returned. */
static double close_in(struct worker *w, double low, double high, const struct med_slos *slos,
                       struct med_load_point *point)
{
    double tried_per_s = high;
    while (high > low * (1.0 + precision)) {
        struct med_load_point tried;
        if (meets_at(w, tried_per_s, slos, &tried)) {
            low = tried_per_s;
            *point = tried;
        } else {
            high = tried_per_s;
        }
        tried_per_s = sqrt(low * high);
    }
    return low;
}

int med_capacity_of_model(const struct med_latency *latency, const struct med_request_size *size,
                          const struct med_slos *slos, struct med_capacity *ret_capacity)
{
    struct worker w = {0};
    struct med_capacity capacity = {0};
    struct med_load_point point;
    int rc = worker_init(&w, latency, size);
    if (rc == MED_E_LIMIT) {
        say_too_large(latency, size, &capacity);
        *ret_capacity = capacity;
        return 0;
    }
    if (rc < 0)
        return rc;
    double low = idle_rate(latency, &w);
    double high = stable_share * w.greatest_per_s;
    if (idle_meets(&w, low, slos, &capacity, &point)) {
        capacity.requests_per_s = close_in(&w, low, high, slos, &point);
        judge_coverage(latency, &w, &point, &capacity);
    }
    med_walk_free(w.walk);
    *ret_capacity = capacity;
    return 0;
}

/* ---- serving points ---- */

/* The mean, or where only percentiles were told, the 90th, which is no better than the mean. */
static double told_mean(const struct med_latency_stats *stats)
{
    return isnan(stats->mean) ? stats->p90 : stats->mean;
}

/* An objective on something that the row does not tell is not met. */
static bool meets(const struct med_serving_row *row, const struct med_slos *slos)
{
    for (size_t n = 0; n < slos->count; n++) {
        enum med_slo_metric metric = slos->items[n].metric;
        double value = metric == MED_SLO_TTFT   ? told_mean(&row->ttft_ms)
                       : metric == MED_SLO_TPOT ? told_mean(&row->tpot_ms)
                                                : told_mean(&row->e2e_ms) / row->output_tokens;
        if (!(value <= slos->items[n].limit_ms))
            return false;
    }
    return true;
}

static bool is_in_cell(const struct med_serving_row *row, const struct med_grid *grid,
                       int input_row, int output_row)
{
    return med_grid_row(grid->input_edges, grid->input_edge_count, row->input_tokens) ==
               input_row &&
           med_grid_row(grid->output_edges, grid->output_edge_count, row->output_tokens) ==
               output_row;
}

void med_capacity_of_points(const struct med_profile *profile, const struct med_grid *grid,
                            int input_row, int output_row, const struct med_slos *slos,
                            struct med_capacity *ret_capacity)
{
    struct med_capacity capacity = {.stop = MED_STOP_UNCOVERED};
    /* Users who wait for their answer hide a queue: where arrivals that do not wait were measured,
     * those tell. */
    bool open_loop = false;
    for (size_t n = 0; n < profile->serving_count; n++) {
        const struct med_serving_row *row = &profile->serving[n];
        open_loop =
            open_loop || (is_in_cell(row, grid, input_row, output_row) && !isnan(row->rate_per_s));
    }
    for (size_t n = 0; n < profile->serving_count; n++) {
        const struct med_serving_row *row = &profile->serving[n];
        if (!is_in_cell(row, grid, input_row, output_row) || (open_loop && isnan(row->rate_per_s)))
            continue;
        if (row->failures > 0.0 || row->saturated || row->cut_short || !meets(row, slos) ||
            row->throughput_per_s <= capacity.requests_per_s)
            continue;
        capacity.requests_per_s = row->throughput_per_s;
        capacity.stop = MED_STOP_NONE;
        capacity.modelled = profile->sources[row->source].kind == MED_SOURCE_MODELLED;
    }
    *ret_capacity = capacity;
}
