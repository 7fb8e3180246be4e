/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shares: which worker type is next, so that each gets the work that the plan gave it.
 *
 * The plan assigns buckets, and a bucket is input x output; the router knows the input and only
 * chances for the output. So a request's share of a type is the mean of the plan's shares over those
 * chances (the posterior mixture). That keeps the number of requests per type, but not the work: a
 * type that the plan gave short answers now gets long ones too. The tilt repairs that: one factor
 * per type, found by iterative proportional scaling, such that under the mixture each type's work is
 * the same multiple of its planned work. With output rows that are known for sure the factors are 1.
 *
 * Work of a request is what it adds to an iteration beyond the fixed cost of one: its prefill, and
 * per output token its row and its context. (An iteration takes fixed/(1 - work per second), so equal
 * work is equal TPOT.) It needs a latency model of every type; otherwise there is no tilt.
 *
 * The choice is smooth weighted round robin per input row: every allowed type's credit grows by its
 * share, the largest credit is served and pays 1. Deterministic. source: docs/adr/dispatch-shares.md
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
#define TILT_ROUNDS     12
#define TILT_MAX        64.0 /* no type is favoured beyond this, however far the traffic is off */

static size_t cell_of(const struct shares *s, size_t row, size_t column)
{
    return (row * s->column_count + column) * s->type_count;
}

/* Seconds of one request. Its matrix work counts where it exceeds the weights' reading, which an
 * iteration pays anyway. */
static double work_of(const struct med_latency *latency, double input, double output)
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

static void fill_cell(struct shares *s, const struct med_dispatch_config *config, size_t row,
                      size_t column)
{
    const struct med_dispatch_bucket *bucket = nearest_bucket(config, (int)row, (int)column);
    bool exact = bucket->input_row == (int)row && bucket->output_row == (int)column;
    double input = exact ? bucket->input_mean : middle(config->input_edges, row);
    double output = exact ? bucket->output_mean : middle(config->output_edges, column);
    size_t cell = cell_of(s, row, column);
    for (size_t t = 0; t < s->type_count; t++) {
        s->planned[cell + t] = bucket->shares[t];
        s->work[cell + t] = work_of(&config->types[t].latency, input, output);
        if (exact)
            s->planned_work[t] += bucket->rate_per_s * bucket->shares[t] * s->work[cell + t];
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
    s->planned_work = med_calloc(s->type_count, sizeof *s->planned_work);
    s->tilt = med_calloc(s->type_count, sizeof *s->tilt);
    s->credits = med_calloc(s->row_count * s->type_count, sizeof *s->credits);
    if (!s->planned || !s->work || !s->planned_work || !s->tilt || !s->credits)
        return MED_E_NOMEM;
    s->tilted = true;
    for (size_t t = 0; t < s->type_count; t++) {
        s->tilt[t] = 1;
        s->tilted = s->tilted && config->types[t].has_latency;
    }
    for (size_t r = 0; r < s->row_count; r++) {
        for (size_t c = 0; c < s->column_count; c++)
            fill_cell(s, config, r, c);
    }
    s->until_tilt = TILT_EVERY_ENDS;
    return 0;
}

void shares_release(struct shares *s)
{
    med_free(s->planned);
    med_free(s->work);
    med_free(s->planned_work);
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

bool shares_weigh(const struct shares *s, int input_row, const double chances[MED_LIMIT_EDGES],
                  const bool allowed[MED_LIMIT_WORKER_TYPES],
                  double ret_weights[MED_LIMIT_WORKER_TYPES])
{
    mixture(s, (size_t)input_row, chances, ret_weights);
    double sum = 0;
    for (size_t t = 0; t < s->type_count; t++) {
        ret_weights[t] = allowed[t] ? ret_weights[t] * s->tilt[t] : 0;
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

/* Work per second that each type would get, relative to the plan's, under the factors so far. */
static void relative_work(const struct shares *s, const struct predictor *p,
                          double ret_ratios[MED_LIMIT_WORKER_TYPES])
{
    double chances[MED_LIMIT_EDGES];
    double weights[MED_LIMIT_WORKER_TYPES];
    for (size_t t = 0; t < s->type_count; t++)
        ret_ratios[t] = 0;
    for (size_t r = 0; r < s->row_count; r++) {
        predictor_distribution(p, (int)r, 0, INT64_MAX, chances);
        mixture(s, r, chances, weights);
        double sum = 0;
        for (size_t t = 0; t < s->type_count; t++)
            sum += weights[t] *= s->tilt[t];
        for (size_t t = 0; t < s->type_count; t++) {
            double work = 0;
            for (size_t c = 0; c < s->column_count; c++)
                work += chances[c] * s->work[cell_of(s, r, c) + t];
            ret_ratios[t] += p->arrivals[r] * weights[t] / sum * work;
        }
    }
    for (size_t t = 0; t < s->type_count; t++)
        ret_ratios[t] = s->planned_work[t] > 0 ? ret_ratios[t] / s->planned_work[t] : 0;
}

void shares_balance(struct shares *s, const struct predictor *p)
{
    if (!s->tilted)
        return;
    double ratios[MED_LIMIT_WORKER_TYPES];
    for (int round = 0; round < TILT_ROUNDS; round++) {
        relative_work(s, p, ratios);
        double low = INFINITY;
        for (size_t t = 0; t < s->type_count; t++) {
            if (ratios[t] > 0 && ratios[t] < low)
                low = ratios[t];
        }
        double top = 0;
        for (size_t t = 0; t < s->type_count; t++) {
            if (ratios[t] > 0)
                s->tilt[t] *= low / ratios[t];
            top = fmax(top, s->tilt[t]);
        }
        /* Only the proportions of the factors mean anything: the largest is 1. */
        for (size_t t = 0; t < s->type_count; t++)
            s->tilt[t] = fmax(s->tilt[t] / top, 1 / TILT_MAX);
    }
}

void shares_on_end(struct shares *s, const struct predictor *p)
{
    if (--s->until_tilt > 0)
        return;
    s->until_tilt = TILT_EVERY_ENDS;
    shares_balance(s, p);
}
