/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Capacity in closed form (the derivation is in docs/internals/planner.md).
 *
 * With n sequences of one size in service, each is in prefill in a share p of its iterations, so an
 * iteration holds k ~ Binomial(n, p) prefill chunks and n - k decodes, and takes the latency model's
 * time for that.  A sequence's time in service when n are there, R(n), is its prefill iterations
 * plus its output - 1 decode iterations; sequences finish at rate mu(n) = n / R(n).  Under Poisson
 * arrivals that is a processor-sharing queue with state-dependent rate; its stationary distribution
 * is pi(n) ~ rate^n / (mu(1) ... mu(n)) up to n_max (KV blocks, sequences), and what comes beyond
 * waits.  Little's law turns it into means.  The capacity is the largest rate that meets every
 * objective and stays stable_share below the greatest rate; bisection, since means grow with rate.
 *
 * thread: any. Not here: arrivals other than Poisson, mixtures of sizes on one worker (the program
 * adds loads), percentiles.
 */
#include "allocator/capacity.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <math.h>
#include <string.h>

static const double stable_share = 0.95;
/* "Almost idle": this share of what a worker does with one sequence at a time. */
static const double idle_share = 0.01;
static const double probability_min = 1e-12;
/* Tokens of the output that count as held on average when asking how many sequences fit at once:
 * half is the mean, all is the maximum; preemption takes its price in between. */
static const double output_held_share = 0.7;
/* Sequences are at different ages, so a little more than whole ones fit. */
static const double fit_rounding = 0.25;
/* Sizes are alike, so waiting for a slot is half of what exponential service would make it. */
static const double alike_wait_factor = 0.5;
/* Prefill may take at most this share of all time in a state. */
static const double prefill_share_max = 0.98;

enum {
    FIXPOINT_ROUNDS = 24,
    BISECTIONS = 30,
    SEQUENCES_MAX = 65536
};

/* What happens with n sequences in service. */
struct state {
    double prefill_s;  /* of one sequence, from admission to its first token */
    double decode_s;   /* of one sequence, from its first token to its last */
    double residual_s; /* mean rest of the running iteration, seen by an arrival */
    double finish_per_s;
};

struct queue {
    const struct med_latency *latency;
    double input, output;
    int64_t sequences_max; /* n_max */
    double greatest_per_s; /* mu(n_max), with prefills at the rate of departures */
    struct state full;     /* n_max while somebody waits */
    struct state *states;  /* [n_max + 1] */
    double *weights;       /* [n_max + 1] stationary */
};

/* ---- one iteration ---- */

/* Seconds of an iteration with these decodes and prefill tokens (of whole prompts, in proportion).
 */
static double step_s(const struct queue *q, double decodes, double prefill_tokens)
{
    double context = q->input + fmax(0.0, (q->output - 2.0) / 2.0);
    double pairs = (q->input + 1.0) / 2.0; /* per prefill token */
    double linear = q->latency->linear_ms_per_token * (decodes + prefill_tokens);
    double ms = q->latency->fixed_ms + q->latency->sequence_ms * decodes +
                fmax(linear, q->latency->weights_ms) +
                q->latency->kv_ms_per_token * decodes * context +
                q->latency->pair_ms * pairs * prefill_tokens;
    return ms / 1e3;
}

static double room_for_prefill(const struct queue *q, double decodes)
{
    return fmax(1.0, (double)q->latency->batched_tokens_max - decodes);
}

/* An iteration asked to prefill `tokens`; what passes the budget is done in further full ones. */
static double long_step_s(const struct queue *q, double decodes, double tokens)
{
    double room = room_for_prefill(q, decodes);
    double alone = step_s(q, decodes, 0.0);
    if (tokens <= room)
        return step_s(q, decodes, tokens);
    return alone + (step_s(q, decodes, room) - alone) * tokens / room;
}

/* Mean of an iteration that starts `mean` prompts (Poisson) beside `own` prompts. */
static double mean_step_s(const struct queue *q, double decodes, double own, double mean)
{
    double probability = exp(-mean);
    double sum = 0.0;
    double covered = 0.0;
    for (double k = 0.0;; k += 1.0) {
        sum += probability * long_step_s(q, decodes, (own + k) * q->input);
        covered += probability;
        probability *= mean / (k + 1.0);
        if (k >= mean && probability < probability_min)
            break;
    }
    return sum / covered;
}

/* ---- n sequences in service, prompts admitted at a rate ---- */

/* Mean iteration when prompts arrive during iterations: t = E[step with Poisson(rate t) prompts].
 */
static double busy_step_s(const struct queue *q, double decodes, double rate_per_s, double guess_s)
{
    double alone = step_s(q, decodes, 0.0);
    double t = fmax(guess_s, alone);
    for (int round = 0; round < FIXPOINT_ROUNDS; round++) {
        /* Beyond its bend the step is linear in the prompts, so Newton's method with the secant
         * through the pure decode step comes near at once. */
        double mean = fmin(rate_per_s * t, 600.0);
        double got = mean_step_s(q, decodes, 0.0, mean);
        double slope = fmin((got - alone) / t, prefill_share_max);
        double next = alone / (1.0 - slope);
        if (fabs(next - t) < 1e-6 * t)
            return next;
        t = next;
    }
    return t;
}

/* Seconds of full iterations that one prompt takes. */
static double prompt_work_s(const struct queue *q, double decodes)
{
    double room = room_for_prefill(q, decodes);
    return q->input / room * step_s(q, decodes, room);
}

/* saturated: for throughput alone, without the wake, which is no work but shifts time. */
static void fill_state(const struct queue *q, double n, double rate_all_per_s, bool saturated,
                       struct state *ret_state)
{
    struct state state = *ret_state; /* a guess */
    double outputs = q->output - 1.0;
    /* With every slot taken, what a sequence sees admitted are the others' successors. */
    bool closed = n >= (double)q->sequences_max;
    double rate_per_s = closed ? rate_all_per_s * (n - 1.0) / n : rate_all_per_s;
    double t = outputs > 0.0 && state.decode_s > 0.0 ? state.decode_s / outputs : 0.0;
    for (int round = 0; round < FIXPOINT_ROUNDS; round++) {
        double service = state.prefill_s + state.decode_s;
        double decoding = service > 0.0 ? state.decode_s / service : outputs > 0.0 ? 1.0 : 0.0;
        /* Beside its own, a sequence sees the others' decodes. */
        double decodes = (n - 1.0) * decoding;
        double beside = outputs > 0.0 ? decodes + 1.0 : decodes;
        double alone = step_s(q, beside, 0.0);
        t = busy_step_s(q, beside, rate_per_s, t);
        double room = room_for_prefill(q, decodes);
        double full_step = step_s(q, decodes, room);
        /* Own prompt: its iterations, with the prompts that came during the one before. */
        double steps = ceil(q->input / room);
        double part = (steps - 1.0) * full_step;
        double last = q->input - (steps - 1.0) * room;
        double own = last / q->input;
        part += mean_step_s(q, decodes, own, fmin(rate_per_s * t, 600.0));
        /* Prompts ahead that fill whole iterations: what M/D/1 adds beyond the running one. */
        double work = prompt_work_s(q, decodes);
        double busy = fmin(rate_per_s * work, prefill_share_max);
        part += busy * busy * work / (2.0 * (1.0 - busy));
        /* A step's length and the prompts of the next one feed on each other. */
        double marginal = rate_per_s > 0.0 ? (t - alone) / (rate_per_s * t) : 0.0;
        double gain = fmin(rate_per_s * marginal, prefill_share_max);
        double variance = marginal * marginal * rate_per_s * t / (1.0 - gain * gain);
        state.residual_s = (t + variance / t) / 2.0;
        /* So the first decodes, after the own long iteration, see more prompts than others do. */
        double wake = saturated
                          ? 0.0
                          : fmax(0.0, part - t) * gain * (1.0 - pow(gain, outputs)) / (1.0 - gain);
        double before = service;
        state.prefill_s = part;
        state.decode_s = outputs > 0.0 ? outputs * t + wake : 0.0;
        service = state.prefill_s + state.decode_s;
        if (fabs(service - before) < 1e-6 * service)
            break;
    }
    state.finish_per_s = n / (state.prefill_s + state.decode_s);
    *ret_state = state;
}

/* ---- the queue ---- */

static void queue_release(struct queue *q)
{
    med_free(q->states);
    med_free(q->weights);
}

/* The rate at which n_max sequences, replaced as they finish, finish. */
static void find_greatest(struct queue *q)
{
    double n = (double)q->sequences_max;
    double low = 0.0;
    fill_state(q, n, 0.0, true, &q->full);
    double high = q->full.finish_per_s;
    for (int round = 0; round < BISECTIONS; round++) {
        double middle = 0.5 * (low + high);
        q->full = (struct state){0};
        fill_state(q, n, middle, true, &q->full);
        double service = q->full.prefill_s + q->full.decode_s;
        double work = middle * prompt_work_s(q, n * q->full.decode_s / service);
        if (q->full.finish_per_s > middle && work < prefill_share_max) {
            low = middle;
        } else {
            high = middle;
        }
    }
    q->greatest_per_s = low;
    fill_state(q, n, low, false, &q->full);
}

/* errors: MED_E_LIMIT: the size does not fit. */
static int queue_init(struct queue *q, const struct med_latency *latency,
                      const struct med_request_size *size)
{
    memset(q, 0, sizeof *q);
    q->latency = latency;
    q->input = fmax(1.0, size->input_tokens);
    q->output = fmax(1.0, size->output_tokens);
    double block = (double)latency->block_tokens;
    int64_t whole_blocks = latency->kv_tokens / latency->block_tokens;
    double blocks_total = (double)whole_blocks;
    double tokens = q->input + q->output;
    if (tokens > (double)latency->model_len_max || tokens > blocks_total * block)
        return MED_E_LIMIT;
    double held = ceil(q->input / block) + output_held_share * q->output / block;
    double fit = fmax(1.0, floor(blocks_total / held + fit_rounding));
    fit = fmin(fit, fmin((double)latency->sequences_max, (double)SEQUENCES_MAX));
    q->sequences_max = (int64_t)fit;
    q->states = med_calloc((size_t)q->sequences_max + 1, sizeof *q->states);
    q->weights = med_calloc((size_t)q->sequences_max + 1, sizeof *q->weights);
    if (q->states == NULL || q->weights == NULL) {
        queue_release(q);
        return MED_E_NOMEM;
    }
    find_greatest(q);
    return 0;
}

/* States and their stationary weights; returns how many states matter. */
static int64_t fill_weights(struct queue *q, double rate_per_s, double *ret_sum)
{
    double sum = 1.0;
    q->states[0] = (struct state){0};
    q->weights[0] = 1.0;
    int64_t n = 1;
    for (; n <= q->sequences_max; n++) {
        q->states[n] = q->states[n - 1]; /* a good guess */
        fill_state(q, (double)n, rate_per_s, false, &q->states[n]);
        double ratio = rate_per_s / q->states[n].finish_per_s;
        q->weights[n] = q->weights[n - 1] * ratio;
        sum += q->weights[n];
        if (q->weights[n] > 1e200) {
            for (int64_t m = 0; m <= n; m++)
                q->weights[m] *= 1e-200;
            sum *= 1e-200;
        }
        if (ratio < 0.9 && q->weights[n] < probability_min * sum)
            break;
    }
    *ret_sum = sum;
    return n <= q->sequences_max ? n : q->sequences_max;
}

static int queue_at(struct queue *q, double rate_per_s, struct med_load_point *ret_point)
{
    double ratio = rate_per_s / q->greatest_per_s;
    if (!(rate_per_s > 0.0) || !(ratio < 1.0))
        return MED_E_OVERLOAD;
    double sum = 0.0;
    int64_t last = fill_weights(q, rate_per_s, &sum);
    bool full = last == q->sequences_max;
    double queued = full ? q->weights[last] * ratio / (1.0 - ratio) : 0.0;
    sum += queued;
    double prefilling = 0.0;
    double decoding = 0.0;
    double residual = 0.0;
    for (int64_t n = 1; n <= last + 1; n++) {
        /* The state after the last is n_max with somebody waiting. */
        const struct state *state = n <= last ? &q->states[n] : &q->full;
        double probability = (n <= last ? q->weights[n] : queued) / sum;
        double count = (double)(n <= last ? n : last) * probability;
        double service = state->prefill_s + state->decode_s;
        if (probability <= 0.0)
            continue;
        prefilling += count * state->prefill_s / service;
        decoding += count * state->decode_s / service;
        residual += probability * state->residual_s;
    }
    double waiting = alike_wait_factor * queued / sum / (1.0 - ratio);
    double prefill_s = prefilling / rate_per_s; /* Little's law, three times */
    double decode_s = decoding / rate_per_s;
    double ttft_s = waiting / rate_per_s + residual + prefill_s;
    ret_point->ttft_ms = 1e3 * ttft_s;
    ret_point->tpot_ms = q->output > 1.0 ? 1e3 * decode_s / (q->output - 1.0) : 0.0;
    ret_point->e2e_per_token_ms = 1e3 * (ttft_s + decode_s) / q->output;
    ret_point->in_service = prefilling + decoding;
    ret_point->utilization = ratio;
    return 0;
}

int med_capacity_at_rate(const struct med_latency *latency, const struct med_request_size *size,
                         double rate_per_s, struct med_load_point *ret_point)
{
    struct queue q;
    int rc = queue_init(&q, latency, size);
    if (rc < 0)
        return rc;
    rc = queue_at(&q, rate_per_s, ret_point);
    queue_release(&q);
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

/* The first objective that the point breaks; -1: none. */
static int broken(const struct med_load_point *point, const struct med_slos *slos)
{
    for (size_t n = 0; n < slos->count; n++) {
        if (value_of(point, slos->items[n].metric) > slos->items[n].limit_ms)
            return (int)n;
    }
    return -1;
}

static bool is_modelled(const struct queue *q, const struct med_load_point *point)
{
    double sequences = ceil(fmax(1.0, point->in_service));
    double chunk = fmin(q->input, room_for_prefill(q, sequences));
    int64_t context = (int64_t)ceil(q->input + q->output - 1.0);
    return med_latency_coverage(q->latency, (int64_t)sequences, context, (int64_t)floor(chunk)) !=
           MED_COVERAGE_MEASURED;
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

int med_capacity_of_model(const struct med_latency *latency, const struct med_request_size *size,
                          const struct med_slos *slos, struct med_capacity *ret_capacity)
{
    struct queue q;
    struct med_capacity capacity = {0};
    struct med_load_point point = {0};
    int rc = queue_init(&q, latency, size);
    if (rc == MED_E_LIMIT) {
        say_too_large(latency, size, &capacity);
        *ret_capacity = capacity;
        return 0;
    }
    if (rc < 0)
        return rc;
    struct state one = {0};
    fill_state(&q, 1.0, 0.0, false, &one);
    double high = stable_share * q.greatest_per_s;
    double low = fmin(idle_share * one.finish_per_s, high);
    rc = queue_at(&q, low, &point);
    MED_ASSERT(rc == 0);
    int first = broken(&point, slos);
    if (first >= 0) {
        capacity.stop = MED_STOP_SLO;
        capacity.metric = slos->items[first].metric;
        capacity.needed_ms = value_of(&point, capacity.metric);
        queue_release(&q);
        *ret_capacity = capacity;
        return 0;
    }
    rc = queue_at(&q, high, &point);
    MED_ASSERT(rc == 0);
    if (broken(&point, slos) < 0)
        low = high;
    for (int n = 0; n < BISECTIONS && high - low > 1e-7 * high; n++) {
        double middle = 0.5 * (low + high);
        rc = queue_at(&q, middle, &point);
        MED_ASSERT(rc == 0);
        if (broken(&point, slos) < 0) {
            low = middle;
        } else {
            high = middle;
        }
    }
    rc = queue_at(&q, low, &point);
    MED_ASSERT(rc == 0);
    capacity.requests_per_s = low;
    capacity.modelled = is_modelled(&q, &point);
    queue_release(&q);
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

void med_capacity_of_points(const struct med_profile *profile, const struct med_grid *grid,
                            int input_row, int output_row, const struct med_slos *slos,
                            struct med_capacity *ret_capacity)
{
    struct med_capacity capacity = {.stop = MED_STOP_UNCOVERED};
    for (size_t n = 0; n < profile->serving_count; n++) {
        const struct med_serving_row *row = &profile->serving[n];
        if (med_grid_row(grid->input_edges, grid->input_edge_count, row->input_tokens) !=
                input_row ||
            med_grid_row(grid->output_edges, grid->output_edge_count, row->output_tokens) !=
                output_row)
            continue;
        if (row->failures > 0.0 || !meets(row, slos) ||
            row->throughput_per_s <= capacity.requests_per_s)
            continue;
        capacity.requests_per_s = row->throughput_per_s;
        capacity.stop = MED_STOP_NONE;
        capacity.modelled = profile->sources[row->source].kind == MED_SOURCE_MODELLED;
    }
    *ret_capacity = capacity;
}
