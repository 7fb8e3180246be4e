/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fits the physical form to measured iterations (fit.h; docs/internals/latency-model.md).
 *
 * The form is linear in six costs (fixed, per sequence, weights, per token, per KV token, per pair)
 * but for the corner between weights and matrix products.  That is homogeneous, so that at any costs
 * it equals its two partial derivatives times them (Euler): each round takes the derivatives at the
 * costs of the last, and solves linear least squares with costs >= 0.  Six unknowns have 64 sets of
 * costs that are not 0; all are solved, which is exact and takes microseconds.  Weights follow the
 * residuals (Geman and McClure's function, wide first and narrow at the end), so that outliers stop
 * counting.  Several starts for the place of the corner, all its widths in steps of 1/20; the best
 * is kept, the sharpest among equals.
 *
 * No rate exceeds the hardware's where that fits about as well, and a weak pull towards it decides what the
 * rows leave open.
 *
 * Runs on any thread; memory only during the call.  It chooses no rows and reads no file.
 */
#include "profiles/fit.h"

#include "base/alloc.h"
#include "profiles/latency.h"
#include "profiles/latency_table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    FIXED,
    SEQUENCE,
    WEIGHTS,
    LINEAR,
    KV,
    PAIR,
    COSTS
};

enum group {
    DECODE,
    PREFILL,
    MIXED,
    GROUPS
};

enum {
    CORNER_STEPS = 20,
    STARTS = 5,
    ROUNDS = 10, /* for each width of the robust function */
    WIDTHS = 3
};

static const double pull = 1e-5;     /* of being off the hardware's cost by all of it, squared */
static const double equally = 1.005; /* losses this close are equal: the sharper corner is taken */
/* A fit within the hardware's rates is taken up to this much more loss: so many times, or 0.3 % off. */
static const double plausible = 1.5;
static const double negligible = 1e-5;
static const double widths[WIDTHS] = {1.0, 0.3, 0.1}; /* residuals beyond hardly count */
static const double start_tokens[STARTS] = {8.0, 32.0, 128.0, 512.0, 2048.0};
static const double bandwidth_max = 1e18; /* the bounds of the file format */
static const double flops_max = 1e21;
/* A cost that is less of every row than this is not told by them. */
static const double told_share = 0.02;

/* One distinct measured load. */
struct point {
    struct med_step_row row;
    double tokens, pairs; /* tokens: of both kinds */
    double weight;        /* 1 / rows of its group */
    size_t repeats;
};

struct fitting {
    struct point *points;
    size_t count;
    size_t left_out; /* count: none */
    double expected[COSTS], scale[COSTS];
    double least[COSTS]; /* no cost is below */
};

struct costs {
    double of[COSTS];
    double corner;
};

/* ---- the form ---- */

struct bend {
    double value, by_weights, by_linear;
};

static struct bend bend_at(double weights_ms, double linear_ms, double corner)
{
    double apart = weights_ms - linear_ms;
    double k2 = corner * corner;
    double root = sqrt(apart * apart + 4.0 * k2 * weights_ms * linear_ms);
    struct bend bend = {0.5 * (weights_ms + linear_ms + root), 0.5, 0.5};
    if (root > 0.0) {
        bend.by_weights = 0.5 * (1.0 + (apart + 2.0 * k2 * linear_ms) / root);
        bend.by_linear = 0.5 * (1.0 + (2.0 * k2 * weights_ms - apart) / root);
    }
    return bend;
}

static double predicted_ms(const struct costs *costs, const struct point *point)
{
    const double *c = costs->of;
    struct bend bend = bend_at(c[WEIGHTS], c[LINEAR] * point->tokens, costs->corner);
    return c[FIXED] + c[SEQUENCE] * (double)point->row.decode_sequences + bend.value +
           c[KV] * (double)point->row.decode_context_tokens + c[PAIR] * point->pairs;
}

static void slopes_at(const struct costs *costs, const struct point *point, double slopes[COSTS])
{
    struct bend bend =
        bend_at(costs->of[WEIGHTS], costs->of[LINEAR] * point->tokens, costs->corner);
    slopes[FIXED] = 1.0;
    slopes[SEQUENCE] = (double)point->row.decode_sequences;
    slopes[WEIGHTS] = bend.by_weights;
    slopes[LINEAR] = bend.by_linear * point->tokens;
    slopes[KV] = (double)point->row.decode_context_tokens;
    slopes[PAIR] = point->pairs;
}

/* ---- least squares with costs >= 0 ---- */

/* Solves the normal equations for the costs of the set; false: not possible. */
static bool solve_set(const double matrix[COSTS][COSTS], const double right[COSTS], unsigned set,
                      double solution[COSTS])
{
    double lower[COSTS][COSTS] = {{0.0}};
    int index[COSTS];
    int count = 0;
    for (int i = 0; i < COSTS; i++) {
        solution[i] = 0.0;
        if (set & (1u << i)) {
            index[count++] = i;
        }
    }
    double half[COSTS];
    for (int i = 0; i < count; i++) {
        for (int j = 0; j <= i; j++) {
            double sum = matrix[index[i]][index[j]];
            for (int k = 0; k < j; k++) {
                sum -= lower[i][k] * lower[j][k];
            }
            if (i == j && !(sum > 0.0)) {
                return false;
            }
            lower[i][j] = i == j ? sqrt(sum) : sum / lower[j][j];
        }
        double sum = right[index[i]];
        for (int k = 0; k < i; k++) {
            sum -= lower[i][k] * half[k];
        }
        half[i] = sum / lower[i][i];
    }
    for (int i = count - 1; i >= 0; i--) {
        double sum = half[i];
        for (int k = i + 1; k < count; k++) {
            sum -= lower[k][i] * solution[index[k]];
        }
        solution[index[i]] = sum / lower[i][i];
    }
    return true;
}

/* The least of |A x - b|^2 over x >= 0, given A'A and A'b. */
static void solve(const double matrix[COSTS][COSTS], const double right[COSTS], double best[COSTS])
{
    double least = INFINITY;
    for (unsigned set = 1; set < (1u << COSTS); set++) {
        double x[COSTS];
        bool inside = solve_set(matrix, right, set, x);
        double value = 0.0;
        for (int i = 0; i < COSTS && inside; i++) {
            inside = x[i] >= 0.0;
            value -= right[i] * x[i]; /* at a solution the quadratic part is half of it */
        }
        if (inside && value < least) {
            least = value;
            memcpy(best, x, COSTS * sizeof *best);
        }
    }
}

/* ---- robust rounds ---- */

static double loss_of(const struct fitting *fitting, const struct costs *costs, double width)
{
    double loss = 0.0;
    for (size_t n = 0; n < fitting->count; n++) {
        const struct point *point = &fitting->points[n];
        double off = predicted_ms(costs, point) / point->row.ms_p50 - 1.0;
        if (n != fitting->left_out) {
            loss += point->weight * off * off / (1.0 + off * off / (width * width));
        }
    }
    for (int i = 0; i < COSTS; i++) {
        double off = (costs->of[i] - fitting->expected[i]) / fitting->scale[i];
        loss += pull * off * off;
    }
    return loss;
}

/* One round: linear where the costs are. */
static void improve(const struct fitting *fitting, double width, struct costs *costs)
{
    double matrix[COSTS][COSTS] = {{0.0}};
    double right[COSTS] = {0.0};
    for (size_t n = 0; n < fitting->count; n++) {
        const struct point *point = &fitting->points[n];
        double slopes[COSTS];
        if (n == fitting->left_out) {
            continue;
        }
        slopes_at(costs, point, slopes);
        double left = 1.0; /* what the least costs leave of the measured time */
        for (int i = 0; i < COSTS; i++) {
            left -= slopes[i] * fitting->least[i] / point->row.ms_p50;
        }
        double off = predicted_ms(costs, point) / point->row.ms_p50 - 1.0;
        double bound = 1.0 + off * off / (width * width);
        double weight = point->weight / (bound * bound);
        for (int i = 0; i < COSTS; i++) {
            double a = slopes[i] * fitting->scale[i] / point->row.ms_p50;
            right[i] += weight * a * left;
            for (int j = 0; j <= i; j++) {
                matrix[i][j] += weight * a * slopes[j] * fitting->scale[j] / point->row.ms_p50;
            }
        }
    }
    for (int i = 0; i < COSTS; i++) {
        matrix[i][i] += pull;
        right[i] += pull * (fitting->expected[i] - fitting->least[i]) / fitting->scale[i];
        for (int j = 0; j < i; j++) {
            matrix[j][i] = matrix[i][j];
        }
    }
    double above[COSTS] = {0.0};
    solve((const double(*)[COSTS])matrix, right, above);
    for (int i = 0; i < COSTS; i++) {
        costs->of[i] = fitting->least[i] + above[i] * fitting->scale[i];
    }
}

/* Rounds at one width of the robust function; keeps the best. */
static void settle(const struct fitting *fitting, double width, struct costs *costs)
{
    struct costs best = *costs;
    double least = loss_of(fitting, costs, width);
    for (int round = 0; round < ROUNDS; round++) {
        improve(fitting, width, costs);
        double loss = loss_of(fitting, costs, width);
        if (!(loss < least)) {
            /* Half of the way, where the corner jumps over a row. */
            for (int i = 0; i < COSTS; i++) {
                costs->of[i] = 0.5 * (costs->of[i] + best.of[i]);
            }
            loss = loss_of(fitting, costs, width);
        }
        bool still = fabs(loss - least) <= 1e-12 * least;
        if (loss < least) {
            least = loss;
            best = *costs;
        }
        if (still) {
            break;
        }
    }
    *costs = best;
}

static struct costs fit_all(const struct fitting *fitting)
{
    struct costs best = {.corner = 0.0};
    double least = INFINITY;
    for (int step = 0; step <= CORNER_STEPS; step++) {
        struct costs best_here = {.corner = 0.0};
        double least_here = INFINITY;
        for (int start = 0; start < STARTS; start++) {
            struct costs costs = {.corner = (double)step / CORNER_STEPS};
            memcpy(costs.of, fitting->expected, sizeof costs.of);
            costs.of[LINEAR] = costs.of[WEIGHTS] / start_tokens[start];
            improve(fitting, 1e6, &costs);
            for (int width = 0; width < WIDTHS; width++) {
                settle(fitting, widths[width], &costs);
            }
            double loss = loss_of(fitting, &costs, widths[WIDTHS - 1]);
            if (loss < least_here) {
                least_here = loss;
                best_here = costs;
            }
        }
        if (least_here * equally < least) {
            least = least_here;
            best = best_here;
        }
    }
    return best;
}

/*
 * With no rate above the hardware's, unless the rows contradict: weights that stay in a cache are
 * read faster than from memory.
 */
static struct costs fit_plausible(struct fitting *fitting)
{
    struct costs any = fit_all(fitting);
    double loss = loss_of(fitting, &any, widths[WIDTHS - 1]);
    for (int i = WEIGHTS; i < COSTS; i++) {
        fitting->least[i] = fitting->expected[i];
    }
    struct costs bounded = fit_all(fitting);
    if (loss_of(fitting, &bounded, widths[WIDTHS - 1]) <= plausible * loss + negligible) {
        return bounded;
    }
    memset(fitting->least, 0, sizeof fitting->least);
    return any;
}

/* ---- rows ---- */

static int by_load(const void *left, const void *right)
{
    const struct med_step_row *a = &((const struct point *)left)->row;
    const struct med_step_row *b = &((const struct point *)right)->row;
    const int64_t of_a[] = {a->prefill_tokens, a->prefill_context, a->decode_sequences,
                            a->decode_context_tokens};
    const int64_t of_b[] = {b->prefill_tokens, b->prefill_context, b->decode_sequences,
                            b->decode_context_tokens};
    for (int i = 0; i < 4; i++) {
        if (of_a[i] != of_b[i]) {
            return of_a[i] > of_b[i] ? 1 : -1;
        }
    }
    return (a->ms_p50 > b->ms_p50) - (a->ms_p50 < b->ms_p50);
}

static bool same_load(const struct med_step_row *a, const struct med_step_row *b)
{
    return a->prefill_tokens == b->prefill_tokens && a->prefill_context == b->prefill_context &&
           a->decode_sequences == b->decode_sequences &&
           a->decode_context_tokens == b->decode_context_tokens;
}

static enum group group_of(const struct med_step_row *row)
{
    if (row->prefill_tokens > 0) {
        return row->decode_sequences > 0 ? MIXED : PREFILL;
    }
    return DECODE;
}

static int check_rows(const struct med_fit_input *input, struct med_err *err)
{
    if (input->row_count == 0) {
        return med_err_set(err, MED_E_INVALID, "there are no measured steps to fit a model to");
    }
    for (size_t n = 0; n < input->row_count; n++) {
        const struct med_step_row *row = &input->rows[n];
        bool work = row->prefill_tokens >= 0 && row->decode_sequences >= 0 &&
                    row->prefill_context >= 0 && row->decode_context_tokens >= 0 &&
                    row->prefill_tokens + row->decode_sequences > 0;
        if (!work || !(row->ms_p50 > 0.0) || isinf(row->ms_p50)) {
            return med_err_set(err, MED_E_INVALID,
                               "step %zu: found %lld prefill tokens and %lld sequences in %g ms, "
                               "expected some of either and a time > 0",
                               n, (long long)row->prefill_tokens, (long long)row->decode_sequences,
                               row->ms_p50);
        }
    }
    return 0;
}

/* Distinct loads in order, the mean time of repeated ones. */
static void take_rows(struct fitting *fitting, const struct med_fit_input *input)
{
    for (size_t n = 0; n < input->row_count; n++) {
        fitting->points[n].row = input->rows[n];
    }
    qsort(fitting->points, input->row_count, sizeof *fitting->points, by_load);
    for (size_t n = 0; n < input->row_count; n++) {
        struct point *point = &fitting->points[n];
        struct point *last = fitting->count > 0 ? &fitting->points[fitting->count - 1] : NULL;
        if (last != NULL && same_load(&last->row, &point->row)) {
            last->row.ms_p50 += (point->row.ms_p50 - last->row.ms_p50) / (double)++last->repeats;
            continue;
        }
        const struct med_step_row row = point->row;
        fitting->points[fitting->count++] =
            (struct point){.row = row,
                           .tokens = (double)row.prefill_tokens + (double)row.decode_sequences,
                           .pairs = (double)med_step_pairs(row.prefill_tokens, row.prefill_context),
                           .repeats = 1};
    }
    double rows[GROUPS] = {0.0};
    for (size_t n = 0; n < fitting->count; n++) {
        rows[group_of(&fitting->points[n].row)] += 1.0;
    }
    for (size_t n = 0; n < fitting->count; n++) {
        fitting->points[n].weight = 1.0 / rows[group_of(&fitting->points[n].row)];
    }
}

/* What one unit of each does at most, which the rows may correct. */
static double flops_per_pair(const struct med_model_shape *model)
{
    return 4.0 * (double)model->layers * (double)model->heads * (double)model->head_dim;
}

static void expect(struct fitting *fitting, const struct med_fit_input *input)
{
    const struct med_model_shape *model = input->model;
    double gpus = (double)input->gpus_per_worker;
    double bandwidth = input->hardware->bandwidth_bytes_per_s * gpus;
    double flops = input->hardware->matrix_flops_per_s * gpus;
    double least_ms = INFINITY;
    for (size_t n = 0; n < fitting->count; n++) {
        least_ms = fmin(least_ms, fitting->points[n].row.ms_p50);
    }
    fitting->expected[WEIGHTS] = 1e3 * model->weight_bytes / bandwidth;
    fitting->expected[LINEAR] = 2e3 * model->parameters / flops;
    fitting->expected[KV] = 1e3 * model->kv_bytes_per_token / bandwidth;
    fitting->expected[PAIR] = 1e3 * flops_per_pair(model) / flops;
    for (int i = 0; i < COSTS; i++) {
        fitting->scale[i] = fitting->expected[i];
    }
    fitting->scale[FIXED] = least_ms;
    fitting->scale[SEQUENCE] = 0.1 * least_ms;
}

/* ---- what came out ---- */

static double rate_of(double work, double cost_ms, double most)
{
    double rate = 1e3 * work / cost_ms;
    return rate < most ? rate : most;
}

static void model_of(const struct costs *costs, const struct med_model_shape *shape,
                     struct med_step_model *model)
{
    const double *c = costs->of;
    *model = (struct med_step_model){
        .corner = costs->corner,
        .fixed_ms = c[FIXED],
        .sequence_us = 1e3 * c[SEQUENCE],
        .bandwidth_bytes_per_s = rate_of(shape->weight_bytes, c[WEIGHTS], bandwidth_max),
        .matrix_flops_per_s = rate_of(2.0 * shape->parameters, c[LINEAR], flops_max),
        .kv_bandwidth_bytes_per_s = rate_of(shape->kv_bytes_per_token, c[KV], bandwidth_max),
        .attention_flops_per_s = rate_of(flops_per_pair(shape), c[PAIR], flops_max)};
}

static unsigned unknown_of(const struct fitting *fitting, const struct costs *costs)
{
    unsigned unknown =
        MED_FIT_NO_DECODE | MED_FIT_NO_PREFILL | MED_FIT_NO_ATTENTION | MED_FIT_NO_MIXED;
    for (size_t n = 0; n < fitting->count; n++) {
        const struct point *point = &fitting->points[n];
        if (point->row.decode_sequences > 0) {
            unknown &= ~(unsigned)MED_FIT_NO_DECODE;
        }
        if (group_of(&point->row) == MIXED) {
            unknown &= ~(unsigned)MED_FIT_NO_MIXED;
        }
        if (costs->of[LINEAR] * point->tokens > costs->of[WEIGHTS]) {
            unknown &= ~(unsigned)MED_FIT_NO_PREFILL;
        }
        if (costs->of[PAIR] * point->pairs > told_share * point->row.ms_p50) {
            unknown &= ~(unsigned)MED_FIT_NO_ATTENTION;
        }
    }
    return unknown;
}

static void add_error(double off, int64_t *count, double *mean, double *greatest)
{
    *mean = *count > 0 ? *mean : 0.0;
    *greatest = *count > 0 ? fmax(*greatest, off) : off;
    *mean += (off - *mean) / (double)++*count;
}

/* Beside a prefill of one token more or less: an end of a step of the staircase that tokens are.  Without it
 * the line goes on to the next step, which says nothing of the model that has both ends. */
static bool is_step_end(const struct fitting *fitting, const struct med_step_row *row)
{
    if (group_of(row) != PREFILL) {
        return false;
    }
    for (size_t n = 0; n < fitting->count; n++) {
        const struct med_step_row *other = &fitting->points[n].row;
        if (group_of(other) == PREFILL && other->prefill_context == row->prefill_context &&
            llabs(other->prefill_tokens - row->prefill_tokens) == 1) {
            return true;
        }
    }
    return false;
}

/* What the latency model says of a row that was left out, made of the others. */
static int ask_table(const struct fitting *fitting, const struct med_fit_input *input,
                     const struct costs *costs, struct med_step_row *rows,
                     struct med_step_error *error, struct med_err *err)
{
    struct med_source measured = {.kind = MED_SOURCE_MEASURED};
    struct med_latency latency;
    struct med_profile profile = {.worker_type = input->model->name,
                                  .model = *input->model,
                                  .limits = *input->limits,
                                  .has_step_model = true,
                                  .sources = &measured,
                                  .source_count = 1,
                                  .steps = rows};
    model_of(costs, input->model, &profile.step_model);
    for (size_t n = 0; n < fitting->count; n++) {
        if (n != fitting->left_out) {
            rows[profile.step_count] = fitting->points[n].row;
            rows[profile.step_count++].source = 0;
        }
    }
    int rc = med_latency_init(&latency, &profile, err);
    if (rc < 0) {
        return rc;
    }
    const struct med_step_row *row = &fitting->points[fitting->left_out].row;
    int64_t context =
        row->decode_sequences > 0
            ? (row->decode_context_tokens + row->decode_sequences - 1) / row->decode_sequences
            : 0;
    bool covered = med_latency_coverage(&latency, row->decode_sequences, context,
                                        row->prefill_tokens) == MED_COVERAGE_MEASURED;
    if (row->prefill_context > 0) {
        covered = covered && latency_table_covers(&latency.prefill, (double)row->prefill_tokens,
                                                  (double)row->prefill_context);
    }
    if (covered && !is_step_end(fitting, row)) {
        struct med_step_load load = {.prefill_tokens = row->prefill_tokens,
                                     .prefill_pairs =
                                         med_step_pairs(row->prefill_tokens, row->prefill_context),
                                     .decode_sequences = row->decode_sequences,
                                     .decode_context_tokens = row->decode_context_tokens};
        double off = fabs(med_latency_step_ms(&latency, &load) / row->ms_p50 - 1.0);
        add_error(off, &error->table_rows, &error->table_mean, &error->table_max);
    }
    return 0;
}

static int leave_each_out(struct fitting *fitting, const struct med_fit_input *input,
                          const struct costs *all, struct med_fit *fit, struct med_err *err)
{
    struct med_step_error errors[MED_STEP_REGION_COUNT];
    struct med_step_row *rows = med_calloc(fitting->count, sizeof *rows);
    int rc = rows != NULL ? 0 : med_err_set(err, MED_E_NOMEM, "no memory to validate a fit");
    for (int region = 0; region < MED_STEP_REGION_COUNT; region++) {
        errors[region] = (struct med_step_error){
            .region = (enum med_step_region)region, .table_mean = NAN, .table_max = NAN};
    }
    for (size_t n = 0; n < fitting->count && fitting->count > 1 && rc == 0; n++) {
        const struct point *point = &fitting->points[n];
        struct med_step_error *error = &errors[med_step_region_of(&point->row)];
        struct costs costs = *all;
        fitting->left_out = n;
        settle(fitting, widths[WIDTHS - 1], &costs);
        add_error(fabs(predicted_ms(&costs, point) / point->row.ms_p50 - 1.0), &error->rows,
                  &error->form_mean, &error->form_max);
        rc = ask_table(fitting, input, &costs, rows, error, err);
    }
    fitting->left_out = fitting->count;
    for (int region = 0; region < MED_STEP_REGION_COUNT && rc == 0; region++) {
        if (errors[region].rows > 0) {
            fit->errors[fit->error_count++] = errors[region];
        }
    }
    med_free(rows);
    return rc;
}

int med_fit_steps(const struct med_fit_input *input, struct med_fit *ret_fit, struct med_err *err)
{
    struct med_fit fit = {.unknown = 0};
    struct fitting fitting = {.points = NULL};
    int rc = check_rows(input, err);
    if (rc < 0) {
        return rc;
    }
    fitting.points = med_calloc(input->row_count, sizeof *fitting.points);
    if (fitting.points == NULL) {
        return med_err_set(err, MED_E_NOMEM, "no memory to fit %zu steps", input->row_count);
    }
    take_rows(&fitting, input);
    fitting.left_out = fitting.count;
    expect(&fitting, input);
    struct costs costs = fit_plausible(&fitting);
    model_of(&costs, input->model, &fit.model);
    fit.unknown = unknown_of(&fitting, &costs);
    int64_t count = 0;
    for (size_t n = 0; n < fitting.count; n++) {
        double off = predicted_ms(&costs, &fitting.points[n]) / fitting.points[n].row.ms_p50 - 1.0;
        add_error(fabs(off), &count, &fit.model.fit_error, &fit.model.fit_error_max);
    }
    rc = leave_each_out(&fitting, input, &costs, &fit, err);
    if (rc == 0) {
        *ret_fit = fit;
    }
    med_free(fitting.points);
    return rc;
}

double med_step_model_ms(const struct med_step_model *step, const struct med_model_shape *model,
                         const struct med_step_row *row)
{
    struct costs costs = {.corner = step->corner};
    costs.of[FIXED] = step->fixed_ms;
    costs.of[SEQUENCE] = step->sequence_us / 1e3;
    costs.of[WEIGHTS] = 1e3 * model->weight_bytes / step->bandwidth_bytes_per_s;
    costs.of[LINEAR] = 2e3 * model->parameters / step->matrix_flops_per_s;
    costs.of[KV] = 1e3 * model->kv_bytes_per_token / step->kv_bandwidth_bytes_per_s;
    costs.of[PAIR] = 1e3 * flops_per_pair(model) / step->attention_flops_per_s;
    struct point point = {.row = *row,
                          .tokens = (double)row->prefill_tokens + (double)row->decode_sequences,
                          .pairs =
                              (double)med_step_pairs(row->prefill_tokens, row->prefill_context)};
    return predicted_ms(&costs, &point);
}
