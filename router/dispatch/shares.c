/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shares: which worker type is next, so that each gets the work that the plan gave it.
 *
 * The plan assigns buckets, and a bucket is input x output; the router knows the input and only
 * chances for the output. So a request's share of a type is the mean of the plan's shares over those
 * chances (the posterior mixture). That keeps the number of requests per type, but not the work: a
 * type that the plan gave short answers now gets long ones too. The tilt repairs that: one factor
 * per type, found by iterative proportional scaling, such that under the mixture each type's work is
 * the same multiple of what the plan's own choice would bring it, over the traffic as it arrives. With output rows that are known for sure the factors are 1.
 *
 * Work of a request on a type is what the plan reckons with, 1/capacity. Where the plan has none (a
 * size that it did not see, or that the type cannot serve at the objectives) it is estimated from
 * the latency model: what the request adds to iterations beyond the fixed cost of one, times the
 * ratio that the known cells of the type show. Without either there is no tilt.
 *
 * The choice is smooth weighted round robin per input row: every allowed type's credit grows by its
 * share, the largest credit is served and pays 1. Deterministic. source: docs/adr/0012-shares-by-work.md
 *
 * Pure; nothing is allocated after init. thread: loop.
 */
#include "router/dispatch/internal.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TILT_EVERY_ENDS 64
#define TILT_ROUNDS     4    /* each starts from the last answer */
#define ARRIVALS_MIN    1e-4 /* of all: rarer kinds of requests are left out */
#define TILT_MAX        64.0 /* no type is favoured beyond this, however far the traffic is off */

static size_t cell_of(const struct shares *s, size_t row, size_t column)
{
    return (row * s->column_count + column) * s->type_count;
}

/* Seconds that one request adds to iterations. Its matrix work counts where it exceeds the weights' reading, which an
 * iteration pays anyway. */
static double added_s(const struct med_latency *latency, double input, double output)
{
    double matrix = fmax(0, input * latency->linear_ms_per_token - latency->weights_ms);
    double prefill = matrix + input * (input + 1) / 2 * latency->pair_ms;
    double decode =
        output * (latency->sequence_ms + latency->kv_ms_per_token * (input + output / 2));
    return (prefill + decode) / 1e3;
}

/* The bucket of the plan nearest to a cell: the same input row first. */
static const struct med_dispatch_bucket *nearest_bucket(const struct med_dispatch_config *config,
                                                        int row, int column)
{
    const struct med_dispatch_bucket *best = NULL;
    int best_distance = 0;
    for (size_t b = 0; b < config->bucket_count; b++) {
        const struct med_dispatch_bucket *bucket = &config->buckets[b];
        int distance = abs(bucket->input_row - row) * (int)config->output_edge_count +
                       abs(bucket->output_row - column);
        if (!best || distance < best_distance) {
            best = bucket;
            best_distance = distance;
        }
    }
    return best;
}

static double middle(const double *edges, size_t row)
{
    return fmax(1, ((row > 0 ? edges[row - 1] : 0) + edges[row]) / 2);
}

/* How the type's work in the plan compares with what the latency model says it adds. */
static double work_ratio(const struct med_dispatch_config *config, size_t type)
{
    const struct med_dispatch_type *of = &config->types[type];
    double known = 0;
    double added = 0;
    for (size_t b = 0; of->has_latency && b < config->bucket_count; b++) {
        const struct med_dispatch_bucket *bucket = &config->buckets[b];
        if (bucket->work_s[type] > 0) {
            known += bucket->rate_per_s * bucket->work_s[type];
            added +=
                bucket->rate_per_s * added_s(&of->latency, bucket->input_mean, bucket->output_mean);
        }
    }
    return added > 0 ? known / added : 1;
}

static void fill_cell(struct shares *s, const struct med_dispatch_config *config, size_t row,
                      size_t column, const double ratios[MED_LIMIT_WORKER_TYPES])
{
    const struct med_dispatch_bucket *bucket = nearest_bucket(config, (int)row, (int)column);
    bool exact = bucket->input_row == (int)row && bucket->output_row == (int)column;
    double input = exact ? bucket->input_mean : middle(config->input_edges, row);
    double output = exact ? bucket->output_mean : middle(config->output_edges, column);
    size_t cell = cell_of(s, row, column);
    for (size_t t = 0; t < s->type_count; t++) {
        double work = bucket->work_s[t];
        if (config->types[t].has_latency && !(exact && work > 0))
            work = ratios[t] * added_s(&config->types[t].latency, input, output);
        s->tilted = s->tilted && (work > 0 || config->types[t].retired);
        s->planned[cell + t] = bucket->shares[t];
        s->work[cell + t] = work;
    }
}

int shares_init(struct shares *s, const struct med_dispatch_config *config)
{
    s->row_count = config->input_edge_count;
    s->column_count = config->output_edge_count;
    s->type_count = config->type_count;
    size_t cells = s->row_count * s->column_count * s->type_count;
    s->planned = med_calloc(cells, sizeof *s->planned);
    s->work = med_calloc(cells, sizeof *s->work);
    s->tilt = med_calloc(s->type_count, sizeof *s->tilt);
    s->credits = med_calloc(s->row_count * s->type_count, sizeof *s->credits);
    if (!s->planned || !s->work || !s->tilt || !s->credits)
        return MED_E_NOMEM;
    s->tilted = true;
    double ratios[MED_LIMIT_WORKER_TYPES];
    for (size_t t = 0; t < s->type_count; t++) {
        s->tilt[t] = 1;
        ratios[t] = work_ratio(config, t);
    }
    for (size_t r = 0; r < s->row_count; r++) {
        for (size_t c = 0; c < s->column_count; c++)
            fill_cell(s, config, r, c, ratios);
    }
    for (size_t b = 0; b < config->bucket_count; b++) {
        for (size_t t = 0; t < s->type_count; t++) {
            int64_t workers = config->types[t].workers_planned;
            s->per_worker[t] += config->buckets[b].rate_per_s * config->buckets[b].shares[t] /
                                (workers > 0 ? (double)workers : 1);
        }
    }
    s->until_tilt = TILT_EVERY_ENDS;
    return 0;
}

void shares_release(struct shares *s)
{
    med_free(s->planned);
    med_free(s->work);
    med_free(s->tilt);
    med_free(s->credits);
}

static void mixture(const struct shares *s, size_t row, const double chances[MED_LIMIT_EDGES],
                    double ret_weights[MED_LIMIT_WORKER_TYPES])
{
    for (size_t t = 0; t < s->type_count; t++)
        ret_weights[t] = 0;
    for (size_t c = 0; c < s->column_count; c++) {
        const double *planned = s->planned + cell_of(s, row, c);
        for (size_t t = 0; chances[c] > 0 && t < s->type_count; t++)
            ret_weights[t] += chances[c] * planned[t];
    }
}

double shares_work(const struct shares *s, int input_row, int output_row, size_t type)
{
    return s->work[cell_of(s, (size_t)input_row, (size_t)output_row) + type];
}

bool shares_weigh(const struct shares *s, int input_row, const double chances[MED_LIMIT_EDGES],
                  const double available[MED_LIMIT_WORKER_TYPES],
                  double ret_weights[MED_LIMIT_WORKER_TYPES])
{
    mixture(s, (size_t)input_row, chances, ret_weights);
    double sum = 0;
    for (size_t t = 0; t < s->type_count; t++) {
        ret_weights[t] *= s->tilt[t] * available[t];
        sum += ret_weights[t];
    }
    if (!(sum > 0))
        return false;
    for (size_t t = 0; t < s->type_count; t++)
        ret_weights[t] /= sum;
    return true;
}

size_t shares_choose(const struct shares *s, int input_row,
                     const double weights[MED_LIMIT_WORKER_TYPES])
{
    const double *credits = s->credits + (size_t)input_row * s->type_count;
    size_t best = s->type_count;
    for (size_t t = 0; t < s->type_count; t++) {
        if (weights[t] > 0 &&
            (best == s->type_count || credits[t] + weights[t] > credits[best] + weights[best]))
            best = t;
    }
    MED_ASSERT(best < s->type_count);
    return best;
}

void shares_take(struct shares *s, int input_row, const double weights[MED_LIMIT_WORKER_TYPES],
                 size_t type)
{
    MED_ASSERT(type < s->type_count);
    double *credits = s->credits + (size_t)input_row * s->type_count;
    for (size_t t = 0; t < s->type_count; t++)
        credits[t] += weights[t];
    credits[type] -= 1;
}

/* Over the traffic: work that types are given, that the plan means them to have, and its requests. */
struct work_sums {
    double given[MED_LIMIT_WORKER_TYPES], meant[MED_LIMIT_WORKER_TYPES];
    double requests[MED_LIMIT_WORKER_TYPES];
};

/* Adds what requests of one input row and one maximum bring each type, under the factors so far,
 * and what the plan's own choice for them would. */
static void add_work(const struct shares *s, size_t row, const double chances[MED_LIMIT_EDGES],
                     double rate, struct work_sums *sums)
{
    double weights[MED_LIMIT_WORKER_TYPES];
    mixture(s, row, chances, weights);
    double sum = 0;
    for (size_t t = 0; t < s->type_count; t++) {
        weights[t] *= s->tilt[t];
        sum += weights[t];
    }
    for (size_t c = 0; c < s->column_count; c++) {
        size_t cell = cell_of(s, row, c);
        for (size_t t = 0; chances[c] > 0 && t < s->type_count; t++) {
            double work = rate * chances[c] * s->work[cell + t];
            sums->given[t] += work * weights[t] / sum;
            sums->meant[t] += work * s->planned[cell + t];
            sums->requests[t] += rate * chances[c] * s->planned[cell + t];
        }
    }
}

/* Ratio of the two for each type, over the traffic as it arrives; 0 for a type that gets nothing. */
static void work_ratios(struct shares *s, const struct predictor *p,
                        double ret_ratios[MED_LIMIT_WORKER_TYPES])
{
    struct work_sums sums = {0};
    double chances[MED_LIMIT_EDGES];
    double total = 0;
    for (size_t i = 0; i < s->row_count * s->column_count; i++)
        total += p->arrivals[i];
    for (size_t i = 0; i < s->row_count * s->column_count; i++) {
        if (p->arrivals[i] <= ARRIVALS_MIN * total)
            continue;
        size_t row = i / s->column_count;
        int64_t most = (int64_t)p->output_edges[i % s->column_count];
        if (i % s->column_count + 1 == s->column_count)
            most = INT64_MAX;
        predictor_distribution(p, (int)row, 0, most < 1 ? 1 : most, 1, chances);
        add_work(s, row, chances, p->arrivals[i], &sums);
    }
    for (size_t t = 0; t < s->type_count; t++) {
        ret_ratios[t] = sums.meant[t] > 0 ? sums.given[t] / sums.meant[t] : 0;
        if (sums.meant[t] > 0)
            s->per_worker[t] = sums.requests[t] / sums.meant[t];
    }
}

static void balance_once(struct shares *s, const struct predictor *p)
{
    double ratios[MED_LIMIT_WORKER_TYPES];
    work_ratios(s, p, ratios);
    double top = 0;
    for (size_t t = 0; t < s->type_count; t++) {
        if (ratios[t] > 0)
            s->tilt[t] /= ratios[t];
        top = fmax(top, s->tilt[t]);
    }
    /* Only the proportions of the factors mean anything: the largest is 1. */
    for (size_t t = 0; t < s->type_count; t++)
        s->tilt[t] = fmax(s->tilt[t] / top, 1 / TILT_MAX);
}

void shares_balance(struct shares *s, const struct predictor *p, int rounds)
{
    for (int round = 0; s->tilted && round < rounds; round++)
        balance_once(s, p);
}

void shares_on_end(struct shares *s, const struct predictor *p)
{
    if (--s->until_tilt > 0)
        return;
    s->until_tilt = TILT_EVERY_ENDS;
    shares_balance(s, p, TILT_ROUNDS);
}
