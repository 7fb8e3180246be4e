/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The session with a worker (see steps.h).
 * thread: main.
 */
#include "profiles/profiler/steps.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    GROUP_MIN = 8, /* repeats asked for at a time */
    GROUP_MAX = 64,
    GROW_SLACK = 10,
    WARMUP_MIN = 2,
    WARMUP_MAX = 16,
    CLOCKS_S = 5,    /* between two looks at the GPU's clock */
    TIMEOUT_S = 120, /* at least, for an answer */
    PROGRESS_NS = 1000000000
};

static const double group_s = 0.8; /* real time that a group of repeats is to take, about */
static const double usual_parts = 10;
static const double efficiency = 0.6; /* of the device's roofs, before anything is measured */

struct session {
    struct med_profiled *worker;
    struct med_journal *journal;
    const struct med_profiler_options *options;
    struct med_step_grid grid;
    struct med_clock clock;
    int64_t begin_ns, end_ns;   /* real time; end INT64_MAX: no budget */
    int64_t said_ns, clocks_ns; /* when progress was told, and clocks were asked for */
    double slowness;            /* measured / guessed, of the last points */
    double *samples;            // [repeats_max + GROUP_MAX], ms
    double *contexts;           // likewise
    size_t count;
    struct med_steps_outcome outcome;
};

/* ---- spread --------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The nearest rank. */
static double quantile(const double *sorted, size_t count, double q)
{
    size_t rank = (size_t)ceil(q * (double)count);
    return sorted[rank > 0 ? rank - 1 : 0];
}

struct med_steps_spread med_steps_spread_of(double *samples, size_t count)
{
    MED_ASSERT(count > 0);
    qsort(samples, count, sizeof samples[0], compare);
    struct med_steps_spread s = {.p50 = quantile(samples, count, 0.5),
                                 .p99 = quantile(samples, count, 0.99)};
    /* Half the width of the middle half, which is 0.6745 deviations of a normal distribution. */
    double half = (quantile(samples, count, 0.75) - quantile(samples, count, 0.25)) / 2;
    s.error = 1.2533 * (half / 0.6745) / sqrt((double)count) / s.p50;
    return s;
}

/* ---- guesses -------------------------------------------------------------------------------- */

void med_steps_limits(const struct med_profiled_facts *facts, struct med_engine_limits *ret_limits)
{
    int64_t block = facts->block_tokens;
    *ret_limits = (struct med_engine_limits){.model_len_max = facts->model_len_max,
                                             .sequences_max = facts->sequences_max,
                                             .batched_tokens_max = facts->batched_tokens_max,
                                             .block_tokens = block,
                                             .kv_tokens = facts->kv_tokens / block * block};
    if (ret_limits->model_len_max > ret_limits->kv_tokens)
        ret_limits->model_len_max = ret_limits->kv_tokens;
}

double med_steps_guess_s(const struct med_profiled_facts *f, const struct med_step_grid_point *p)
{
    double bandwidth = f->read_bytes_per_s > 0 ? f->read_bytes_per_s : f->peak_bytes_per_s;
    double flops_rate = f->flops_per_s > 0 ? f->flops_per_s : f->peak_flops_per_s;
    double rows = (double)(p->prefill_tokens + p->decode_sequences);
    double bytes =
        f->weight_bytes + f->kv_bytes_per_token * (double)(p->decode_sequences * p->decode_context);
    double pairs =
        (double)p->prefill_tokens * ((double)p->prefill_context + (double)p->prefill_tokens / 2);
    double flops =
        2 * f->parameters * rows + 4 * (double)(f->layers * f->heads * f->head_dim) * pairs;
    double gpus = (double)f->gpus;
    double seconds = 1e-4;
    if (bandwidth > 0)
        seconds = fmax(seconds, bytes / (bandwidth * gpus));
    if (flops_rate > 0)
        seconds = fmax(seconds, flops / (flops_rate * gpus));
    return seconds / efficiency;
}

/* ---- telling -------------------------------------------------------------------------------- */

static int64_t now_ns(const struct session *s)
{
    return med_clock_now_ns(&s->clock);
}

static void print_point(const struct med_step_grid_point *p, char *out, size_t out_bytes)
{
    int length = 0;
    if (p->prefill_tokens > 0) {
        length = snprintf(out, out_bytes, "prefill %" PRId64, p->prefill_tokens);
        if (p->prefill_context > 0) {
            length += snprintf(out + length, out_bytes - (size_t)length, " after %" PRId64,
                               p->prefill_context);
        }
    }
    if (p->decode_sequences > 0) {
        (void)snprintf(out + length, out_bytes - (size_t)length, "%sdecode %" PRId64 " x %" PRId64,
                       length > 0 ? " + " : "", p->decode_sequences, p->decode_context);
    }
}

static void print_left(double seconds, char out[16])
{
    int64_t whole = seconds > 0 ? (int64_t)seconds : 0;
    (void)snprintf(out, 16, "%" PRId64 ":%02d", whole / 60, (int)(whole % 60));
}

/* Of the budget. */
static double left_s(const struct session *s)
{
    double left = (double)(s->end_ns - now_ns(s)) / 1e9;
    return left > 0 ? left : 0;
}

static void say_progress(struct session *s, const struct med_journal_point *p)
{
    char what[96], left[16];
    if (now_ns(s) - s->said_ns < PROGRESS_NS)
        return;
    s->said_ns = now_ns(s);
    print_point(&p->point, what, sizeof what);
    print_left(left_s(s), left);
    size_t coarse = med_step_grid_coarse_left(&s->grid);
    (void)fprintf(stderr,
                  "profile: %4zu points, %s: %.3f ms (+-%.2f %%, p99 %.3f, %" PRId64 " repeats); ",
                  s->journal->count, what, p->ms_p50, 100 * p->error, p->ms_p99, p->repeats);
    if (coarse > 0) {
        (void)fprintf(stderr, "%zu of the coarse grid left, at most %s\n", coarse, left);
    } else {
        (void)fprintf(stderr, "refining, at most %s left\n", left);
    }
}

static void say_estimate(struct session *s)
{
    double seconds = 0;
    char all[16], budget[16];
    const struct med_profiled_facts *f = med_profiled_facts(s->worker);
    for (size_t i = 0; i < s->grid.coarse_count; i++) {
        double step_s = med_steps_guess_s(f, &s->grid.coarse[i]) / f->time_scale;
        seconds += fmax(group_s, (GROUP_MIN + WARMUP_MIN) * step_s) + 4 * step_s;
    }
    print_left(seconds, all);
    print_left(s->options->minutes * 60, budget);
    (void)fprintf(
        stderr,
        "profile: %s on %s: a coarse grid of %zu points takes about %s; the budget is %s, "
        "what is left of it refines the grid",
        f->model, f->device[0] != '\0' ? f->device : f->backend, s->grid.coarse_count, all, budget);
    (void)fprintf(stderr, "%s\n",
                  seconds > s->options->minutes * 60
                      ? "; it is too short for all, the points worth most come first"
                      : "");
    if (s->outcome.before > 0) {
        (void)fprintf(stderr, "profile: going on with %zu points of %s\n", s->outcome.before,
                      s->journal->path);
    }
}

/* ---- measuring ------------------------------------------------------------------------------ */

static int64_t clamp(double value, int64_t low, int64_t high)
{
    return value < (double)low ? low : value > (double)high ? high : (int64_t)value;
}

/* Real seconds of one iteration, as far as is known. */
static double expected_s(const struct session *s, const struct med_step_grid_point *p)
{
    const struct med_profiled_facts *f = med_profiled_facts(s->worker);
    return med_steps_guess_s(f, p) * s->slowness / f->time_scale;
}

/* Sequences grow by a token with each iteration, by two beside a prefill where the worker's backend
 * queues: as many repeats as their cache has room for. */
static int64_t repeats_that_fit(const struct session *s, const struct med_step_grid_point *p,
                                int64_t warmup)
{
    const struct med_engine_limits *l = &s->grid.limits;
    const int64_t grows = p->prefill_tokens > 0 ? 2 : 1;
    if (p->decode_sequences == 0)
        return GROUP_MAX;
    int64_t blocks = (l->kv_tokens - p->prefill_tokens - p->prefill_context) / l->block_tokens - 2;
    int64_t room = (blocks / p->decode_sequences - 1) * l->block_tokens - GROW_SLACK;
    if (room > l->model_len_max - GROW_SLACK)
        room = l->model_len_max - GROW_SLACK;
    int64_t behind = 2 * (room - p->decode_context) / grows; /* half of them are below the middle */
    int64_t all = room / grows - warmup;                     /* a context that begins at nothing */
    return behind < all ? behind : all;
}

static int measure_group(struct session *s, const struct med_step_grid_point *p, double step_s,
                         struct med_err *err)
{
    struct med_profiled_times times;
    int64_t room = s->options->repeats_max - (int64_t)s->count;
    struct med_profiled_steps steps = {.prefill_tokens = p->prefill_tokens,
                                       .prefill_context = p->prefill_context,
                                       .decode_sequences = p->decode_sequences,
                                       .decode_context_tokens =
                                           p->decode_sequences * p->decode_context,
                                       .warmup = clamp(0.1 / step_s, WARMUP_MIN, WARMUP_MAX),
                                       .repeats = clamp(group_s / step_s, GROUP_MIN, GROUP_MAX)};
    if (steps.repeats > room)
        steps.repeats = room;
    int64_t fit = repeats_that_fit(s, p, steps.warmup);
    if (fit < GROUP_MIN)
        steps.warmup = WARMUP_MIN;
    if (steps.repeats > fit)
        steps.repeats = fit > GROUP_MIN ? fit : GROUP_MIN;
    double usual_s = (double)(2 * (steps.warmup + steps.repeats) + GROUP_MIN) * step_s;
    int rc = med_profiled_measure(s->worker, &steps, (int64_t)((TIMEOUT_S + 20 * usual_s) * 1e9),
                                  &times, err);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < times.count; i++) {
        s->samples[s->count] = (double)times.step_ns[i] / 1e6;
        s->contexts[s->count++] = (double)times.decode_context_tokens[i];
    }
    return 0;
}

static int measure_point(struct session *s, const struct med_step_grid_point *p,
                         struct med_journal_point *ret_point, struct med_err *err)
{
    const int64_t begin_ns = now_ns(s);
    const double guess_s = med_steps_guess_s(med_profiled_facts(s->worker), p);
    double step_s = expected_s(s, p);
    struct med_steps_spread spread = {0};
    s->count = 0;
    *ret_point = (struct med_journal_point){.point = *p};
    do {
        int rc = measure_group(s, p, step_s, err);
        if (rc == MED_E_INVALID) {
            ret_point->impossible = true;
            return 0;
        }
        if (rc < 0)
            return rc;
        spread = med_steps_spread_of(s->samples, s->count);
        s->slowness = spread.p50 / 1e3 / guess_s;
        step_s = expected_s(s, p);
        double passed_s = (double)(now_ns(s) - begin_ns) / 1e9;
        if (passed_s > usual_parts * group_s + usual_parts * 2 * step_s || now_ns(s) > s->end_ns)
            break;
    } while (spread.error > s->options->precision && (int64_t)s->count < s->options->repeats_max);
    ret_point->ms_p50 = spread.p50;
    ret_point->ms_p99 = spread.p99;
    ret_point->error = spread.error;
    ret_point->repeats = (int64_t)s->count;
    ret_point->seconds = (double)(now_ns(s) - begin_ns) / 1e9;
    /* Of both the middle: a time grows by equal parts with its context. */
    ret_point->decode_context_tokens = llround(med_steps_spread_of(s->contexts, s->count).p50);
    return 0;
}

/* The next point, if there is time for one. */
static bool next_point(struct session *s, struct med_step_grid_point *ret_point)
{
    if ((int64_t)s->journal->count >= s->options->points_max) {
        return false;
    }
    if (!med_step_grid_next(&s->grid, ret_point)) {
        s->outcome.complete = true;
        return false;
    }
    double least_s = (GROUP_MIN + WARMUP_MIN + 4) * expected_s(s, ret_point);
    s->outcome.out_of_time =
        now_ns(s) >= s->end_ns || (s->outcome.measured > 0 && least_s > left_s(s));
    return !s->outcome.out_of_time;
}

/* What the clock is while there is work, now and then. */
static int read_clock(struct session *s, int64_t *ret_mhz, struct med_err *err)
{
    if (now_ns(s) - s->clocks_ns < CLOCKS_S * MED_NS_PER_S)
        return 0;
    s->clocks_ns = now_ns(s);
    int rc = med_profiled_refresh(s->worker, err);
    if (rc >= 0)
        *ret_mhz = med_profiled_facts(s->worker)->clock_mhz;
    return rc;
}

static int run_points(struct session *s, struct med_err *err)
{
    struct med_step_grid_point point;
    int rc = 0;
    while (rc >= 0 && next_point(s, &point)) {
        struct med_journal_point measured;
        rc = measure_point(s, &point, &measured, err);
        if (rc >= 0)
            rc = read_clock(s, &measured.clock_mhz, err);
        if (rc < 0)
            break;
        rc = med_journal_add(s->journal, &measured, err);
        med_step_grid_add(&s->grid, &point, measured.impossible ? NAN : measured.ms_p50);
        s->outcome.impossible += measured.impossible;
        s->outcome.measured++;
        if (!measured.impossible)
            say_progress(s, &measured);
    }
    if (rc == MED_E_CANCELLED && med_profiled_interrupted(s->worker)) {
        s->outcome.interrupted = true;
        rc = 0;
    }
    return rc;
}

/* A GPU's power, and so its clock, depends on what is multiplied: zeros draw less. */
static int fill_cache(struct session *s, struct med_err *err)
{
    const struct med_profiled_steps fill = {.fill = true};
    struct med_profiled_times times;
    if (strcmp(med_profiled_facts(s->worker)->backend, "cuda") != 0)
        return 0;
    (void)fprintf(stderr, "profile: filling the KV cache\n");
    return med_profiled_measure(s->worker, &fill, (int64_t)5 * TIMEOUT_S * 1000000000, &times, err);
}

/* The grid as it was when the journal ended: points in its order. */
static void recall(struct session *s)
{
    for (size_t i = 0; i < s->journal->count; i++) {
        const struct med_journal_point *p = &s->journal->points[i];
        med_step_grid_add(&s->grid, &p->point, p->impossible ? NAN : p->ms_p50);
        if (!p->impossible) {
            s->slowness =
                p->ms_p50 / 1e3 / med_steps_guess_s(med_profiled_facts(s->worker), &p->point);
        }
    }
    s->outcome.before = s->journal->count;
}

int med_steps_run(struct med_profiled *worker, struct med_journal *journal,
                  const struct med_profiler_options *options, struct med_steps_outcome *ret_outcome,
                  struct med_err *err)
{
    struct session s = {.worker = worker, .journal = journal, .options = options, .slowness = 1};
    struct med_engine_limits limits;
    size_t room = (size_t)options->repeats_max + GROUP_MAX;
    med_clock_init_real(&s.clock, 1);
    s.begin_ns = s.clocks_ns = now_ns(&s);
    s.end_ns = s.begin_ns + (int64_t)(options->minutes * 60e9);
    med_steps_limits(med_profiled_facts(worker), &limits);
    s.samples = med_calloc(room, sizeof s.samples[0]);
    s.contexts = med_calloc(room, sizeof s.contexts[0]);
    int rc = med_step_grid_init(&s.grid, &limits, options->tolerance);
    if (!s.samples || !s.contexts || rc < 0) {
        rc = med_err_set(err, MED_E_NOMEM, "no memory for measurements");
    } else {
        recall(&s);
        say_estimate(&s);
        rc = fill_cache(&s, err);
        if (rc >= 0)
            rc = run_points(&s, err);
        s.outcome.seconds = (double)(now_ns(&s) - s.begin_ns) / 1e9;
    }
    med_step_grid_release(&s.grid);
    med_free(s.samples);
    med_free(s.contexts);
    *ret_outcome = s.outcome;
    return rc;
}
