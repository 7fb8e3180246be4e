/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Predictor: how long an answer will be, from the prompt's size.
 *
 * For each input row an aged histogram over the output rows. It starts as the plan's rates, worth
 * PRIOR_REQUESTS requests, and every answer that ends ages it by 1/WINDOW_REQUESTS and adds one: the
 * prior fades and a drift of the traffic is followed within about WINDOW_REQUESTS answers of a row.
 * The client's maximum is used as what it is, a bound: what lies beyond it is moved to its row. An
 * answer that was cut by its maximum says only "longer", so its one count is spread over the rows
 * from there on, as the histogram has them.
 *
 * Another plan's predictor takes over what this one has learned: unchanged where the edges agree, else
 * each cell's counts spread evenly over its tokens.
 *
 * Pure; nothing is allocated after init. thread: loop.
 */
#include "router/dispatch/internal.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <math.h>
#include <string.h>

#define PRIOR_REQUESTS  64.0
#define WINDOW_REQUESTS 1024.0
#define WEIGHT_MAX      1e9

static int row_of(const double *edges, size_t count, int64_t tokens)
{
    size_t low = 0;
    size_t high = count - 1;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (edges[middle] >= (double)tokens) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return (int)low;
}

int predictor_input_row(const struct predictor *p, int64_t tokens)
{
    return row_of(p->input_edges, p->row_count, tokens);
}

int predictor_output_row(const struct predictor *p, int64_t tokens)
{
    return row_of(p->output_edges, p->column_count, tokens);
}

static void fill_prior(struct predictor *p, const struct med_dispatch_config *config)
{
    double sums[MED_LIMIT_EDGES] = {0};
    double totals[MED_LIMIT_EDGES] = {0};
    double total = 0;
    for (size_t b = 0; b < config->bucket_count; b++) {
        const struct med_dispatch_bucket *bucket = &config->buckets[b];
        size_t cell = (size_t)bucket->input_row * p->column_count + (size_t)bucket->output_row;
        p->weights[cell] += bucket->rate_per_s;
        p->means[cell] = bucket->output_mean;
        sums[bucket->input_row] += bucket->rate_per_s;
        totals[bucket->output_row] += bucket->rate_per_s;
        total += bucket->rate_per_s;
    }
    for (size_t r = 0; r < p->row_count; r++) {
        double *row = p->weights + r * p->column_count;
        double sum = sums[r];
        for (size_t c = 0; c < p->column_count; c++) {
            double chance = sum > 0 ? row[c] / sum : totals[c] / total;
            row[c] = PRIOR_REQUESTS * chance;
            if (p->means[r * p->column_count + c] == 0) {
                double below = c > 0 ? p->output_edges[c - 1] : 0;
                p->means[r * p->column_count + c] = fmax(1, (below + p->output_edges[c]) / 2);
            }
        }
        /* The plan knows of no maximum. */
        p->arrivals[(r + 1) * p->column_count - 1] = PRIOR_REQUESTS * sum / total;
    }
}

int predictor_init(struct predictor *p, const struct med_dispatch_config *config)
{
    p->row_count = config->input_edge_count;
    p->column_count = config->output_edge_count;
    size_t cells = p->row_count * p->column_count;
    p->input_edges = med_calloc(p->row_count, sizeof *p->input_edges);
    p->output_edges = med_calloc(p->column_count, sizeof *p->output_edges);
    p->weights = med_calloc(cells, sizeof *p->weights);
    p->means = med_calloc(cells, sizeof *p->means);
    p->arrivals = med_calloc(cells, sizeof *p->arrivals);
    if (!p->input_edges || !p->output_edges || !p->weights || !p->means || !p->arrivals)
        return MED_E_NOMEM;
    memcpy(p->input_edges, config->input_edges, p->row_count * sizeof *p->input_edges);
    memcpy(p->output_edges, config->output_edges, p->column_count * sizeof *p->output_edges);
    p->arrival_weight = 1;
    fill_prior(p, config);
    return 0;
}

void predictor_release(struct predictor *p)
{
    med_free(p->input_edges);
    med_free(p->output_edges);
    med_free(p->weights);
    med_free(p->means);
    med_free(p->arrivals);
}

/* The histogram of a row as if all its answers were `factor` times as long. */
static void move_weights(const struct predictor *p, int input_row, double factor,
                         double ret_weights[MED_LIMIT_EDGES])
{
    const double *weights = p->weights + (size_t)input_row * p->column_count;
    const double *means = p->means + (size_t)input_row * p->column_count;
    for (size_t c = 0; c < p->column_count; c++)
        ret_weights[c] = 0;
    for (size_t c = 0; c < p->column_count; c++)
        ret_weights[predictor_output_row(p, llround(fmax(1, means[c] * factor)))] += weights[c];
}

void predictor_distribution(const struct predictor *p, int input_row, int64_t delivered,
                            int64_t output_tokens_max, double factor,
                            double ret_chances[MED_LIMIT_EDGES])
{
    MED_ASSERT(delivered < output_tokens_max);
    const double *weights = p->weights + (size_t)input_row * p->column_count;
    double moved[MED_LIMIT_EDGES];
    if (factor != 1) {
        move_weights(p, input_row, factor, moved);
        weights = moved;
    }
    size_t first = (size_t)predictor_output_row(p, delivered + 1);
    size_t last = (size_t)predictor_output_row(p, output_tokens_max);
    double sum = 0;
    for (size_t c = 0; c < p->column_count; c++)
        ret_chances[c] = 0;
    for (size_t c = first; c < p->column_count; c++) {
        ret_chances[c < last ? c : last] += weights[c];
        sum += weights[c];
    }
    if (sum > 0) {
        for (size_t c = first; c <= last; c++)
            ret_chances[c] /= sum;
    } else {
        ret_chances[first] = 1; /* longer than any answer seen: it is about to end */
    }
}

/* The same where all answers are `factor` times as long: the means move inside their rows too. */
static double scaled_mean(const struct predictor *p, int input_row, int64_t delivered,
                          int64_t output_tokens_max, double factor)
{
    const double *weights = p->weights + (size_t)input_row * p->column_count;
    const double *means = p->means + (size_t)input_row * p->column_count;
    double sum = 0;
    double tokens = 0;
    for (size_t c = 0; c < p->column_count; c++) {
        double of_row = fmin(fmax(1, means[c] * factor), (double)output_tokens_max);
        if (of_row <= (double)delivered)
            continue;
        sum += weights[c];
        tokens += weights[c] * of_row;
    }
    return fmax(sum > 0 ? tokens / sum : 0, (double)delivered + 1);
}

double predictor_mean(const struct predictor *p, int input_row, int64_t delivered,
                      int64_t output_tokens_max, double factor)
{
    if (factor != 1)
        return scaled_mean(p, input_row, delivered, output_tokens_max, factor);
    double chances[MED_LIMIT_EDGES];
    predictor_distribution(p, input_row, delivered, output_tokens_max, 1, chances);
    const double *means = p->means + (size_t)input_row * p->column_count;
    double mean = 0;
    for (size_t c = 0; c < p->column_count; c++) {
        /* In a row that is partly done, half of the rest of the row is to come. */
        double low = (double)delivered + 1;
        double tokens = means[c] > low ? means[c] : fmax(low, (low + p->output_edges[c]) / 2);
        mean += chances[c] * fmin(tokens, (double)output_tokens_max);
    }
    return fmax(mean, (double)delivered + 1);
}

int predictor_median_row(const struct predictor *p, const double chances[MED_LIMIT_EDGES])
{
    double sum = 0;
    for (size_t c = 0; c + 1 < p->column_count; c++) {
        sum += chances[c];
        if (sum >= 0.5)
            return (int)c;
    }
    return (int)p->column_count - 1;
}

void predictor_on_arrival(struct predictor *p, int input_row, int64_t output_tokens_max)
{
    /* Instead of making all others lighter, each newcomer weighs more, until that gets large. */
    p->arrival_weight /= 1 - 1 / WINDOW_REQUESTS;
    size_t column = (size_t)predictor_output_row(p, output_tokens_max);
    p->arrivals[(size_t)input_row * p->column_count + column] += p->arrival_weight;
    if (p->arrival_weight < WEIGHT_MAX)
        return;
    for (size_t i = 0; i < p->row_count * p->column_count; i++)
        p->arrivals[i] /= p->arrival_weight;
    p->arrival_weight = 1;
}

void predictor_on_end(struct predictor *p, int input_row, int64_t tokens, bool cut)
{
    double *weights = p->weights + (size_t)input_row * p->column_count;
    size_t row = (size_t)predictor_output_row(p, tokens > 0 ? tokens : 1);
    double beyond = 0;
    for (size_t c = row; c < p->column_count; c++)
        beyond += weights[c];
    double share = cut && beyond > 0 ? 1 / beyond : 0;
    for (size_t c = 0; c < p->column_count; c++) {
        double more = c >= row ? weights[c] * share : 0;
        weights[c] = weights[c] * (1 - 1 / WINDOW_REQUESTS) + more;
    }
    if (share == 0)
        weights[row] += 1;
}

/* How much of the tokens of row `from` are of row `to`; the last row of either goes on for ever. */
static double covered(const double *from_edges, size_t from, const double *to_edges,
                      size_t to_count, size_t to)
{
    double low = from > 0 ? from_edges[from - 1] : 0;
    double high = from_edges[from];
    double to_low = to > 0 ? to_edges[to - 1] : 0;
    double to_high = to + 1 < to_count ? to_edges[to] : INFINITY;
    return fmax(0, fmin(high, to_high) - fmax(low, to_low)) / (high - low);
}

/* What one cell of `from` has, to the cells of a row of the other table. */
static void spread_cell(const struct predictor *from, size_t column, double count,
                        const struct predictor *p, double *ret_row, bool last_is_last)
{
    for (size_t c = 0; c < p->column_count; c++) {
        double share = covered(from->output_edges, column, p->output_edges, p->column_count, c);
        if (last_is_last && column + 1 == from->column_count)
            share = c + 1 == p->column_count;
        ret_row[c] += share * count;
    }
}

/* Spreads the counts of one table over the cells of the other. The last column of arrivals is for those
 * that name no maximum, whatever its edge. */
static void spread(const struct predictor *from, const double *counts, const struct predictor *p,
                   double *ret_counts, bool last_is_last)
{
    for (size_t r0 = 0; r0 < from->row_count; r0++) {
        for (size_t r = 0; r < p->row_count; r++) {
            double part = covered(from->input_edges, r0, p->input_edges, p->row_count, r);
            for (size_t c = 0; part > 0 && c < from->column_count; c++) {
                spread_cell(from, c, part * counts[r0 * from->column_count + c], p,
                            ret_counts + r * p->column_count, last_is_last);
            }
        }
    }
}

static void adopt_weights(struct predictor *p, const struct predictor *from)
{
    double prior[MED_LIMIT_EDGES * MED_LIMIT_EDGES];
    size_t cells = p->row_count * p->column_count;
    memcpy(prior, p->weights, cells * sizeof *prior);
    memset(p->weights, 0, cells * sizeof *p->weights);
    spread(from, from->weights, p, p->weights, false);
    /* A row of which little was seen leans on the plan, as at the start. */
    for (size_t r = 0; r < p->row_count; r++) {
        double *row = p->weights + r * p->column_count;
        double seen = 0;
        for (size_t c = 0; c < p->column_count; c++)
            seen += row[c];
        double lack = fmax(0, 1 - seen / PRIOR_REQUESTS);
        for (size_t c = 0; c < p->column_count; c++)
            row[c] += lack * prior[r * p->column_count + c];
    }
}

static bool are_equal(const double *a, const double *b, size_t count)
{
    size_t i = 0;
    while (i < count && a[i] == b[i])
        i++;
    return i == count;
}

bool predictor_has_same_edges(const struct predictor *a, const struct predictor *b)
{
    return a->row_count == b->row_count && a->column_count == b->column_count &&
           are_equal(a->input_edges, b->input_edges, a->row_count) &&
           are_equal(a->output_edges, b->output_edges, a->column_count);
}

void predictor_adopt(struct predictor *p, const struct predictor *from)
{
    size_t cells = p->row_count * p->column_count;
    p->arrival_weight = from->arrival_weight;
    if (predictor_has_same_edges(p, from)) {
        memcpy(p->weights, from->weights, cells * sizeof *p->weights);
        memcpy(p->arrivals, from->arrivals, cells * sizeof *p->arrivals);
        return;
    }
    adopt_weights(p, from);
    memset(p->arrivals, 0, cells * sizeof *p->arrivals);
    spread(from, from->arrivals, p, p->arrivals, true);
}
