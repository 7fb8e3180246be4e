/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fit of a step model to serving points, see fit_serving.h.
 * thread: any; pure.
 */
#include "profiles/profiler/fit_serving.h"

#include "allocator/walk.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "profiles/latency.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char fit_id[] = "serving-fit";

enum {
    PARAMETERS = 5,
    ROWS_MAX = 96,
    WALKED = 384, /* requests measured in one walk */
    ITERATIONS_MAX = 320,
    SIZES_MIN = 2
};
static const double prior_weight = 0.002;
static const double overload_residual = 1.0; /* where the model cannot serve what was served */
static const double size_near = 0.06;
static const double simplex_step = 0.4; /* of a logarithm */
static const double simplex_end = 1e-5; /* of the sum of squares */

struct parameters {
    double log_values[PARAMETERS]; /* ms: fixed, weights, per sequence, per token, per KV token */
};

struct row {
    const struct med_serving_row *row;
    bool alone, fitted;
};

struct problem {
    const struct med_profile *profile;
    struct row rows[ROWS_MAX];
    size_t count;
    struct parameters prior;
};

/* ---- what a model says of a row ---- */

static struct med_latency latency_of(const struct problem *p, const struct parameters *x)
{
    const struct med_model_shape *m = &p->profile->model;
    const struct med_engine_limits *l = &p->profile->limits;
    double linear = exp(x->log_values[3]);
    double pair_flops = 4.0 * (double)m->layers * (double)m->heads * (double)m->head_dim;
    return (struct med_latency){
        .fixed_ms = exp(x->log_values[0]),
        .weights_ms = exp(x->log_values[1]),
        .sequence_ms = exp(x->log_values[2]),
        .linear_ms_per_token = linear,
        .kv_ms_per_token = exp(x->log_values[4]),
        .pair_ms = linear * pair_flops / (2.0 * m->parameters),
        .model_len_max = l->model_len_max,
        .sequences_max = l->sequences_max,
        .batched_tokens_max = l->batched_tokens_max,
        .block_tokens = l->block_tokens,
        .kv_tokens = l->kv_tokens,
    };
}

struct told {
    double ttft_ms, tpot_ms;
    bool overload;
};

static struct told told_alone(const struct med_latency *latency, int64_t input, int64_t output)
{
    struct told t = {0};
    for (int64_t done = 0; done < input;) {
        int64_t chunk = input - done;
        if (chunk > latency->batched_tokens_max)
            chunk = latency->batched_tokens_max;
        const struct med_step_load load = {.prefill_tokens = chunk,
                                           .prefill_pairs = med_step_pairs(chunk, done)};
        t.ttft_ms += med_latency_step_ms(latency, &load);
        done += chunk;
    }
    const struct med_step_load decode = {.decode_sequences = 1,
                                         .decode_context_tokens = input + output / 2};
    t.tpot_ms = med_latency_step_ms(latency, &decode);
    return t;
}

static int told_loaded(const struct med_latency *latency, int64_t input, int64_t output,
                       double rate_per_s, struct told *ret_told)
{
    struct med_walk *walk;
    int rc = med_walk_new(latency, input, output, &walk);
    if (rc < 0)
        return rc;
    struct told t = {0};
    if (rate_per_s < med_walk_greatest(walk)) {
        struct med_walk_means means;
        med_walk_start(walk, rate_per_s, MED_WALK_UNTIL_FULL);
        med_walk_advance(walk, WALKED, &means);
        t.ttft_ms = 1e3 * means.ttft_s;
        t.tpot_ms = output > 1 ? 1e3 * means.decode_s / (double)(output - 1) : 0;
    } else {
        t.overload = true;
    }
    med_walk_free(walk);
    *ret_told = t;
    return 0;
}

static int tell(const struct med_latency *latency, const struct row *row, struct told *ret_told)
{
    int64_t input = llround(fmax(1, row->row->input_tokens));
    int64_t output = llround(fmax(1, row->row->output_tokens));
    if (row->alone) {
        *ret_told = told_alone(latency, input, output);
        return 0;
    }
    return told_loaded(latency, input, output, row->row->rate_per_s, ret_told);
}

/* ---- least squares ---- */

static double square(double x)
{
    return x * x;
}

static bool has_tpot(const struct med_serving_row *row)
{
    return row->output_tokens >= 2 && !isnan(row->tpot_ms.mean);
}

static int sum_of_squares(const struct problem *p, const struct parameters *x, double *ret_sum)
{
    struct med_latency latency = latency_of(p, x);
    double sum = 0;
    for (size_t i = 0; i < PARAMETERS; i++)
        sum += prior_weight * square(x->log_values[i] - p->prior.log_values[i]);
    for (size_t i = 0; i < p->count; i++) {
        if (!p->rows[i].fitted)
            continue;
        struct told t;
        int rc = tell(&latency, &p->rows[i], &t);
        if (rc < 0)
            return rc;
        const struct med_serving_row *row = p->rows[i].row;
        if (t.overload) {
            /* The more iterations weigh, the further off: it leads back. */
            sum += overload_residual + 0.1 * exp(x->log_values[2]) + 0.1 * exp(x->log_values[0]);
            continue;
        }
        sum += square(log(t.ttft_ms / row->ttft_ms.mean));
        if (has_tpot(row))
            sum += square(log(t.tpot_ms / row->tpot_ms.mean));
    }
    *ret_sum = sum;
    return 0;
}

struct vertex {
    struct parameters x;
    double sum;
};

static void sort_vertices(struct vertex *v)
{
    for (size_t i = 1; i <= PARAMETERS; i++) {
        struct vertex moved = v[i];
        size_t at = i;
        for (; at > 0 && v[at - 1].sum > moved.sum; at--)
            v[at] = v[at - 1];
        v[at] = moved;
    }
}

/* centre + t (centre - worst) */
static int try_along(const struct problem *p, const struct parameters *centre,
                     const struct vertex *worst, double t, struct vertex *ret_vertex)
{
    for (size_t i = 0; i < PARAMETERS; i++) {
        double c = centre->log_values[i];
        ret_vertex->x.log_values[i] = c + t * (c - worst->x.log_values[i]);
    }
    return sum_of_squares(p, &ret_vertex->x, &ret_vertex->sum);
}

static int shrink(const struct problem *p, struct vertex *v)
{
    for (size_t n = 1; n <= PARAMETERS; n++) {
        for (size_t i = 0; i < PARAMETERS; i++)
            v[n].x.log_values[i] = (v[n].x.log_values[i] + v[0].x.log_values[i]) / 2;
        int rc = sum_of_squares(p, &v[n].x, &v[n].sum);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int step_simplex(const struct problem *p, struct vertex *v)
{
    struct parameters centre = {{0}};
    for (size_t n = 0; n < PARAMETERS; n++) {
        for (size_t i = 0; i < PARAMETERS; i++)
            centre.log_values[i] += v[n].x.log_values[i] / PARAMETERS;
    }
    struct vertex *worst = &v[PARAMETERS];
    struct vertex reflected, other;
    int rc = try_along(p, &centre, worst, 1, &reflected);
    if (rc < 0)
        return rc;
    if (reflected.sum < v[0].sum) {
        rc = try_along(p, &centre, worst, 2, &other);
        *worst = rc >= 0 && other.sum < reflected.sum ? other : reflected;
        return rc;
    }
    if (reflected.sum < v[PARAMETERS - 1].sum) {
        *worst = reflected;
        return 0;
    }
    rc = try_along(p, &centre, worst, reflected.sum < worst->sum ? 0.5 : -0.5, &other);
    if (rc < 0)
        return rc;
    if (other.sum < fmin(worst->sum, reflected.sum)) {
        *worst = other;
        return 0;
    }
    return shrink(p, v);
}

static int minimise(const struct problem *p, struct parameters *x)
{
    struct vertex v[PARAMETERS + 1];
    for (size_t n = 0; n <= PARAMETERS; n++) {
        v[n].x = *x;
        if (n > 0)
            v[n].x.log_values[n - 1] += simplex_step;
        int rc = sum_of_squares(p, &v[n].x, &v[n].sum);
        if (rc < 0)
            return rc;
    }
    for (int i = 0; i < ITERATIONS_MAX; i++) {
        sort_vertices(v);
        if (v[PARAMETERS].sum - v[0].sum < simplex_end)
            break;
        int rc = step_simplex(p, v);
        if (rc < 0)
            return rc;
    }
    sort_vertices(v);
    *x = v[0].x;
    return 0;
}

/* ---- the rows ---- */

static bool is_same_size(const struct med_serving_row *a, const struct med_serving_row *b)
{
    return fabs(a->input_tokens - b->input_tokens) <= fmax(2, size_near * b->input_tokens) &&
           fabs(a->output_tokens - b->output_tokens) <= fmax(2, size_near * b->output_tokens);
}

static void choose_rows(struct problem *p, size_t source)
{
    for (size_t i = 0; i < p->profile->serving_count && p->count < ROWS_MAX; i++) {
        const struct med_serving_row *row = &p->profile->serving[i];
        bool alone = row->concurrency == 1;
        if (row->source != source || row->saturated || row->cut_short || row->failures > 0 ||
            !(row->ttft_ms.mean > 0) || !(alone || row->rate_per_s > 0))
            continue;
        p->rows[p->count++] = (struct row){.row = row, .alone = alone, .fitted = true};
    }
    /* Of each size only the fastest of those loaded. */
    for (size_t i = 0; i < p->count; i++) {
        for (size_t n = 0; n < p->count && !p->rows[i].alone; n++) {
            if (n != i && !p->rows[n].alone && is_same_size(p->rows[n].row, p->rows[i].row) &&
                p->rows[n].row->rate_per_s > p->rows[i].row->rate_per_s)
                p->rows[i].fitted = false;
        }
    }
}

static int check_rows(const struct problem *p, struct med_err *err)
{
    size_t alone = 0, loaded = 0;
    for (size_t i = 0; i < p->count; i++) {
        alone += p->rows[i].fitted && p->rows[i].alone;
        loaded += p->rows[i].fitted && !p->rows[i].alone;
    }
    if (alone >= SIZES_MIN && loaded >= SIZES_MIN)
        return 0;
    return med_err_set(err, MED_E_UNCOVERED,
                       "a step model cannot be fitted: %zu sizes were measured alone and %zu under "
                       "a load that the server kept up with, expected at least %d of each",
                       alone, loaded, SIZES_MIN);
}

/* What the data sheet says, at three quarters of its rates. */
static struct parameters prior_of(const struct med_profile *p)
{
    const double share = 0.75;
    double gpus = (double)p->gpus_per_worker;
    double bandwidth = share * gpus * p->hardware.bandwidth_bytes_per_s;
    double flops = share * gpus * p->hardware.matrix_flops_per_s;
    return (struct parameters){{
        log(2.0),
        log(1e3 * p->model.weight_bytes / bandwidth),
        log(0.05),
        log(1e3 * 2 * p->model.parameters / flops),
        log(1e3 * p->model.kv_bytes_per_token / bandwidth),
    }};
}

/* A first point that the rows themselves give: an iteration alone is what TPOT alone is. */
static struct parameters start_of(const struct problem *p)
{
    struct parameters x = p->prior;
    double sum = 0, per_token = 0;
    size_t count = 0, long_count = 0;
    for (size_t i = 0; i < p->count; i++) {
        const struct med_serving_row *row = p->rows[i].row;
        if (!p->rows[i].alone || !has_tpot(row))
            continue;
        sum += log(row->tpot_ms.mean);
        count++;
        if (row->ttft_ms.mean > row->tpot_ms.mean) {
            per_token += log(row->ttft_ms.mean / row->input_tokens);
            long_count++;
        }
    }
    if (count > 0) {
        double iteration = sum / (double)count;
        x.log_values[0] = iteration + log(0.2);
        x.log_values[1] = iteration + log(0.8);
        x.log_values[2] = iteration + log(0.02);
    }
    if (long_count > 0)
        x.log_values[3] = per_token / (double)long_count;
    return x;
}

/* ---- errors ---- */

static void add_error(double told, double measured, double *sum, double *max)
{
    double error = fabs(told / measured - 1);
    *sum += error;
    *max = fmax(*max, error);
}

static int judge(const struct problem *p, const struct parameters *x, bool fitted,
                 struct med_serving_errors *ret_errors)
{
    struct med_latency latency = latency_of(p, x);
    struct med_serving_errors e = {0};
    size_t with_tpot = 0;
    for (size_t i = 0; i < p->count; i++) {
        if (p->rows[i].fitted != fitted)
            continue;
        struct told t;
        int rc = tell(&latency, &p->rows[i], &t);
        if (rc < 0)
            return rc;
        const struct med_serving_row *row = p->rows[i].row;
        e.rows++;
        if (t.overload) /* it says that this cannot be served: all of the value is missed */
            t = (struct told){.ttft_ms = 2 * row->ttft_ms.mean, .tpot_ms = 2 * row->tpot_ms.mean};
        add_error(t.ttft_ms, row->ttft_ms.mean, &e.ttft_mean, &e.ttft_max);
        if (has_tpot(row)) {
            add_error(t.tpot_ms, row->tpot_ms.mean, &e.tpot_mean, &e.tpot_max);
            with_tpot++;
        }
    }
    e.ttft_mean = e.rows ? e.ttft_mean / (double)e.rows : (double)NAN;
    e.tpot_mean = with_tpot ? e.tpot_mean / (double)with_tpot : (double)NAN;
    *ret_errors = e;
    return 0;
}

static struct med_step_model model_of(const struct problem *p, const struct parameters *x,
                                      const struct med_serving_errors *errors)
{
    const struct med_model_shape *m = &p->profile->model;
    double rate = 1e3 * 2 * m->parameters / exp(x->log_values[3]);
    double tpot_mean = isnan(errors->tpot_mean) ? errors->ttft_mean : errors->tpot_mean;
    return (struct med_step_model){
        .fixed_ms = exp(x->log_values[0]),
        .sequence_us = 1e3 * exp(x->log_values[2]),
        .bandwidth_bytes_per_s = 1e3 * m->weight_bytes / exp(x->log_values[1]),
        .matrix_flops_per_s = rate,
        .kv_bandwidth_bytes_per_s = 1e3 * m->kv_bytes_per_token / exp(x->log_values[4]),
        .attention_flops_per_s = rate,
        .fit_error = (errors->ttft_mean + tpot_mean) / 2,
        .fit_error_max = fmax(errors->ttft_max, errors->tpot_max),
    };
}

int med_fit_serving(const struct med_profile *profile, size_t source,
                    struct med_serving_fit *ret_fit, struct med_err *err)
{
    struct problem p = {.profile = profile, .prior = prior_of(profile)};
    choose_rows(&p, source);
    int rc = check_rows(&p, err);
    if (rc < 0)
        return rc;
    struct parameters x = start_of(&p);
    struct med_serving_fit fit = {0};
    rc = minimise(&p, &x);
    if (rc >= 0) /* once more from there: a simplex may have fallen flat */
        rc = minimise(&p, &x);
    if (rc >= 0)
        rc = judge(&p, &x, true, &fit.fitted);
    if (rc >= 0)
        rc = judge(&p, &x, false, &fit.left_out);
    if (rc == MED_E_LIMIT) {
        return med_err_set(err, MED_E_UNCOVERED,
                           "a step model cannot be fitted: a size that was measured does not fit "
                           "the limits that the profile was given");
    }
    if (rc < 0)
        return med_err_set(err, rc, "memory for the fit is exhausted");
    fit.model = model_of(&p, &x, &fit.fitted);
    *ret_fit = fit;
    return 0;
}

/* ---- into the profile ---- */

static bool is_ours(const struct med_profile *p)
{
    return p->has_step_model && p->step_model.source && strcmp(p->step_model.source, fit_id) == 0;
}

void med_fit_serving_drop(struct med_profile *p)
{
    if (!is_ours(p))
        return;
    med_free(p->step_model.source);
    p->step_model = (struct med_step_model){0};
    p->has_step_model = false;
    for (size_t i = 0; i < p->validation_count; i++) {
        med_free(p->validations[i].against);
        med_free(p->validations[i].text);
    }
    p->validation_count = 0;
    /* It was added last: no row names it. */
    for (size_t i = p->source_count; i-- > 0;) {
        if (strcmp(p->sources[i].id, fit_id) != 0)
            continue;
        MED_ASSERT(i + 1 == p->source_count);
        med_free(p->sources[i].id);
        med_free(p->sources[i].text);
        med_free(p->sources[i].date);
        med_free(p->sources[i].licence);
        p->source_count--;
    }
}

static int add_source(struct med_profile *p, const struct med_serving_fit *fit)
{
    char text[512];
    (void)snprintf(text, sizeof(text),
                   "modelled: the physical form fitted to %zu serving points through the "
                   "scheduler's own course, errors of means: TTFT %.1f %% (at most %.1f %%), TPOT "
                   "%.1f %% (at most %.1f %%); the engine's limits are as given, not measured",
                   fit->fitted.rows, 100 * fit->fitted.ttft_mean, 100 * fit->fitted.ttft_max,
                   100 * fit->fitted.tpot_mean, 100 * fit->fitted.tpot_max);
    struct med_source *grown =
        med_realloc_array(p->sources, p->source_count + 1, sizeof(*p->sources));
    if (!grown)
        return MED_E_NOMEM;
    p->sources = grown;
    struct med_source *s = &p->sources[p->source_count++];
    *s = (struct med_source){.id = med_strdup(fit_id),
                             .kind = MED_SOURCE_MODELLED,
                             .text = med_strdup(text),
                             .fit_error = fit->model.fit_error};
    return s->id && s->text ? 0 : MED_E_NOMEM;
}

static int add_validation(struct med_profile *p, const struct med_serving_fit *fit, size_t source)
{
    const struct med_serving_errors *e = &fit->left_out;
    if (e->rows == 0)
        return 0;
    char text[256];
    double tpot_mean = isnan(e->tpot_mean) ? e->ttft_mean : e->tpot_mean;
    (void)snprintf(text, sizeof(text),
                   "serving points left out of the fit: TTFT %.1f %% (at most %.1f %%), TPOT %.1f "
                   "%% (at most %.1f %%)",
                   100 * e->ttft_mean, 100 * e->ttft_max, 100 * tpot_mean, 100 * e->tpot_max);
    struct med_validation *grown =
        med_realloc_array(p->validations, p->validation_count + 1, sizeof(*p->validations));
    if (!grown)
        return MED_E_NOMEM;
    p->validations = grown;
    struct med_validation *v = &p->validations[p->validation_count++];
    *v = (struct med_validation){.against = med_strdup(p->sources[source].id),
                                 .error_mean = (e->ttft_mean + tpot_mean) / 2,
                                 .error_max = fmax(e->ttft_max, e->tpot_max),
                                 .rows = (int64_t)e->rows,
                                 .text = med_strdup(text)};
    return v->against && v->text ? 0 : MED_E_NOMEM;
}

int med_fit_serving_keep(struct med_profile *profile, const struct med_serving_fit *fit,
                         size_t source, struct med_err *err)
{
    med_fit_serving_drop(profile);
    char *id = med_strdup(fit_id);
    int rc = id ? add_source(profile, fit) : MED_E_NOMEM;
    if (rc >= 0)
        rc = add_validation(profile, fit, source);
    if (rc < 0) {
        med_free(id);
        return med_err_set(err, rc, "memory for the step model is exhausted");
    }
    profile->step_model = fit->model;
    profile->step_model.source = id;
    profile->has_step_model = true;
    return 0;
}
