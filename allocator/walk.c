/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The walk (walk.h): the scheduler's states for requests of one size.
 *
 * Since all are alike, first come is first in everything: of two sequences the earlier one has at
 * least as many tokens, ends first and is preempted last, and a preempted one goes back before all
 * that came later.  The whole state is therefore four bounds in the sequence of arrivals,
 *
 *     ended | decoding | at most one half-done prefill | waiting
 *
 * and per sequence the iteration in which it will end.  A decoding sequence takes a block every
 * block_tokens iterations; how many do in an iteration is known from a count per residue.  While
 * nothing is prefilled and nobody can be admitted, iterations differ only by the context that grows
 * with each, so they are taken together up to the next end, arrival or shortage of blocks.
 *
 * thread: any. Not here: objectives (capacity.c), mixtures of sizes, cancellation.
 */
#include "allocator/walk.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/rng.h"

#include <math.h>
#include <string.h>

enum {
    RESIDUES_MAX = 1 << 20,   /* larger blocks are refused */
    SATURATED_REQUESTS = 256, /* measured at least, when some always wait */
    SATURATED_TURNOVERS = 4,  /* and so many times what fits */
    SEQUENCES_MAX = 1 << 20,
    WARM_UP_EXTRA = 32,
    ORDER_SEED = 8519,
    ORDER_STREAM = 22
};

/* A sequence that was admitted at least once. */
struct row {
    double first_s;
    int64_t ends_at;   /* iteration that samples its last token; decoding only */
    int64_t generated; /* tokens, as of the last preemption */
};

struct med_walk {
    struct med_latency latency;
    int64_t input, output, block;
    int64_t blocks_total, blocks_ever; /* blocks_ever: of a sequence at its end */
    int64_t lanes;
    double *unit;     /* [MED_WALK_PERIOD] arrivals at rate 1 */
    struct row *rows; /* ring */
    int64_t row_mask;
    int64_t *
        crossings; /* [block] decoding sequences that take a block when iteration % block is this */

    /* ---- since the start ---- */
    double gap_s;      /* 1 / rate; 0: all are there from the start */
    int64_t staggered; /* so many of the first have shorter outputs, evenly */
    int64_t warm_up;
    int64_t ended, decoding_end, admitted_end,
        arrived;                             /* bounds; admitted_end - decoding_end <= 1 */
    int64_t started;                         /* rows that hold something: below this */
    int64_t chunk_done;                      /* of the half-done prefill */
    int64_t iteration, blocks_free, context; /* context: of all decodes, tokens */
    double now_s, running_s, measured_from_s;
    int64_t first_count; /* measured */
    double ttft_sum_s, decode_sum_s;
    uint64_t preemptions;
};

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static struct row *row_of(const struct med_walk *w, int64_t index)
{
    return &w->rows[index & w->row_mask];
}

static int64_t blocks_for(const struct med_walk *w, int64_t tokens)
{
    return (tokens + w->block - 1) / w->block;
}

static int64_t output_of(const struct med_walk *w, int64_t index)
{
    if (index >= w->staggered)
        return w->output;
    return (w->output * (index + 1) + w->staggered - 1) / w->staggered;
}

/* ---- life cycle ---- */

/*
 * Exponential gaps, one from each of MED_WALK_PERIOD equally likely parts, in an order by chance:
 * their mean is exact, so that no luck with it is taken for load.  Of 20,000 orders this is the one
 * whose waits before a server of constant times come nearest to Pollaczek and Khinchine's at loads
 * from 0.3 to 0.95 (within 1.2 %; test_walk): a short sequence that bunches as much as chance does.
 */
static void draw_arrivals(double *unit)
{
    struct med_rng rng;
    double sum = 0.0;
    med_rng_init(&rng, ORDER_SEED, ORDER_STREAM);
    for (int64_t k = 0; k < MED_WALK_PERIOD; k++) {
        unit[k] = -log(((double)k + 0.5) / MED_WALK_PERIOD);
        sum += unit[k];
    }
    for (uint32_t k = MED_WALK_PERIOD - 1; k > 0; k--) {
        uint32_t other = med_rng_below(&rng, k + 1);
        double swap = unit[k];
        unit[k] = unit[other];
        unit[other] = swap;
    }
    double at = 0.0;
    for (int64_t k = 0; k < MED_WALK_PERIOD; k++) {
        at += unit[k] * MED_WALK_PERIOD / sum;
        unit[k] = at;
    }
}

static int allocate(struct med_walk *w)
{
    int64_t rows = 2;
    while (rows < w->lanes + 1)
        rows *= 2;
    w->row_mask = rows - 1;
    w->unit = med_calloc(MED_WALK_PERIOD, sizeof *w->unit);
    w->rows = med_calloc((size_t)rows, sizeof *w->rows);
    w->crossings = med_calloc((size_t)w->block, sizeof *w->crossings);
    if (w->unit == NULL || w->rows == NULL || w->crossings == NULL)
        return MED_E_NOMEM;
    draw_arrivals(w->unit);
    return 0;
}

int med_walk_new(const struct med_latency *latency, int64_t input_tokens, int64_t output_tokens,
                 struct med_walk **ret_walk)
{
    MED_ASSERT(input_tokens >= 1 && output_tokens >= 1);
    int64_t blocks_total = latency->kv_tokens / latency->block_tokens;
    int64_t room = min64(latency->model_len_max, blocks_total * latency->block_tokens);
    if (input_tokens > room || output_tokens > room - input_tokens ||
        latency->block_tokens > RESIDUES_MAX)
        return MED_E_LIMIT;
    struct med_walk *w = med_calloc(1, sizeof *w);
    if (w == NULL)
        return MED_E_NOMEM;
    w->latency = *latency;
    w->input = input_tokens;
    w->output = output_tokens;
    w->block = latency->block_tokens;
    w->blocks_total = blocks_total;
    w->blocks_ever = blocks_for(w, input_tokens + output_tokens - 1);
    w->lanes = min64(min64(latency->sequences_max, blocks_total), SEQUENCES_MAX);
    int rc = allocate(w);
    if (rc < 0) {
        med_walk_free(w);
        return rc;
    }
    *ret_walk = w;
    return 0;
}

void med_walk_free(struct med_walk *w)
{
    if (w == NULL)
        return;
    med_free(w->unit);
    med_free(w->rows);
    med_free(w->crossings);
    med_free(w);
}

/* How many sequences the cache and the limit hold at once, about. */
static int64_t fit_of(const struct med_walk *w)
{
    int64_t mean = blocks_for(w, w->input + w->output / 2);
    int64_t fit = w->blocks_total / mean;
    return fit < 1 ? 1 : min64(fit, w->lanes);
}

static void restart(struct med_walk *w, double gap_s, int64_t staggered, int64_t warm_up)
{
    w->gap_s = gap_s;
    w->staggered = staggered;
    w->warm_up = warm_up;
    w->ended = w->decoding_end = w->admitted_end = w->arrived = w->started = 0;
    w->chunk_done = w->iteration = w->context = w->first_count = 0;
    w->blocks_free = w->blocks_total;
    w->now_s = w->running_s = w->measured_from_s = w->ttft_sum_s = w->decode_sum_s = 0.0;
    w->preemptions = 0;
    memset(w->crossings, 0, (size_t)w->block * sizeof *w->crossings);
}

/* ---- arrivals ---- */

double med_walk_arrival_s(const struct med_walk *w, int64_t index)
{
    int64_t turn = index / MED_WALK_PERIOD;
    return w->gap_s * (w->unit[index % MED_WALK_PERIOD] + (double)(turn * MED_WALK_PERIOD));
}

static void take_arrivals(struct med_walk *w)
{
    if (w->ended == w->arrived)
        w->now_s = fmax(w->now_s, med_walk_arrival_s(w, w->arrived));
    while (med_walk_arrival_s(w, w->arrived) <= w->now_s) {
        /* Without gaps: no more than could be wanted now. */
        if (w->gap_s <= 0.0 && w->arrived > w->admitted_end + w->lanes)
            break;
        w->arrived++;
    }
}

/* ---- blocks ---- */

/* Where in the count per residue a decoding sequence is: it takes a block in iterations before
 * which its cached tokens fill whole blocks. */
static int64_t *crossing_of(const struct med_walk *w, int64_t index)
{
    int64_t cached_at_end = w->input + output_of(w, index) - 2;
    int64_t residue = (row_of(w, index)->ends_at - cached_at_end) % w->block;
    return &w->crossings[residue < 0 ? residue + w->block : residue];
}

/* Tokens of a decoding sequence in the cache before this iteration. */
static int64_t cached_of(const struct med_walk *w, int64_t index)
{
    return w->input + output_of(w, index) - 2 - (row_of(w, index)->ends_at - w->iteration);
}

/* The newest running sequence gives its blocks back and waits again. */
static void preempt(struct med_walk *w)
{
    int64_t index = --w->admitted_end;
    w->preemptions++;
    if (index >= w->decoding_end) {
        w->blocks_free += blocks_for(w, w->input + row_of(w, index)->generated);
        w->chunk_done = 0;
        return;
    }
    w->decoding_end = index;
    int64_t cached = cached_of(w, index);
    w->context -= cached;
    (*crossing_of(w, index))--;
    row_of(w, index)->generated = cached - w->input + 1;
    w->blocks_free += blocks_for(w, cached);
}

/* The decodes' blocks of this iteration. True if somebody was preempted for them. */
static bool take_blocks(struct med_walk *w)
{
    const int64_t *needed = &w->crossings[w->iteration % w->block];
    bool preempted = false;
    for (; *needed > w->blocks_free; preempted = true)
        preempt(w);
    w->blocks_free -= *needed;
    return preempted;
}

/* ---- one iteration ---- */

struct step {
    int64_t decodes, prefill_tokens, prefill_pairs;
    int64_t prefilled_end; /* sequences below it have their whole prompt done */
};

/* A chunk of the newest admitted sequence. */
static void put_chunk(struct med_walk *w, struct step *step, int64_t *budget)
{
    int64_t index = w->admitted_end - 1;
    int64_t known = w->input + row_of(w, index)->generated;
    int64_t tokens = min64(known - w->chunk_done, *budget);
    step->prefill_tokens += tokens;
    step->prefill_pairs += med_step_pairs(tokens, w->chunk_done);
    *budget -= tokens;
    w->chunk_done += tokens;
    if (w->chunk_done == known) {
        step->prefilled_end = w->admitted_end;
        w->chunk_done = 0;
    }
}

/* Admits the first that waits, if lane and blocks are there. */
static bool admit(struct med_walk *w)
{
    int64_t index = w->admitted_end;
    if (index == w->arrived || index - w->ended >= w->lanes)
        return false;
    if (index == w->started)
        *row_of(w, index) = (struct row){.first_s = -1.0};
    int64_t own = blocks_for(w, w->input + row_of(w, index)->generated);
    int64_t ever = blocks_for(w, w->input + output_of(w, index) - 1);
    if (min64(own + 1, ever) > w->blocks_free)
        return false;
    if (index == w->started)
        w->started++;
    w->blocks_free -= own;
    w->admitted_end++;
    return true;
}

static struct med_latency_run run_of(const struct med_walk *w, const struct step *step)
{
    if (step->prefill_tokens == 0)
        return med_latency_decode_run(&w->latency, step->decodes, w->context);
    struct med_step_load load = {.prefill_tokens = step->prefill_tokens,
                                 .prefill_pairs = step->prefill_pairs,
                                 .decode_sequences = step->decodes,
                                 .decode_context_tokens = w->context};
    return (struct med_latency_run){.first_ms = med_latency_step_ms(&w->latency, &load),
                                    .count = 1};
}

/* Iterations that are alike from here on: nobody is prefilled, ends, comes or lacks a block in
 * between, and each takes run.growth_ms more than the one before. */
static int64_t alike(const struct med_walk *w, int64_t decodes, const struct med_latency_run *run)
{
    int64_t count = row_of(w, w->ended)->ends_at - w->iteration + 1;
    count = min64(count, w->block * (w->blocks_free / decodes) + 1);
    count = min64(count, run->count);
    if (count <= 1 || w->admitted_end < w->arrived)
        return count < 1 ? 1 : count;
    /* The first k whose times, first + (k-1) growth each, reach the next arrival. */
    double first_s = run->first_ms / 1e3;
    double gap = med_walk_arrival_s(w, w->arrived) - w->now_s;
    double half = run->growth_ms / 1e3 / 2.0;
    double b = first_s - half;
    double reach = gap <= first_s ? 1.0 : ceil(2.0 * gap / (b + sqrt(b * b + 4.0 * half * gap)));
    return reach < (double)count ? (int64_t)reach : count;
}

/* Decodes for `count` iterations, whose first took its blocks already. */
static void pass_alike(struct med_walk *w, int64_t decodes, const struct med_latency_run *run,
                       int64_t count)
{
    double n = (double)count;
    double took = (n * run->first_ms + run->growth_ms * n * (n - 1.0) / 2.0) / 1e3;
    w->now_s += took;
    w->running_s += took * (double)(w->admitted_end - w->ended);
    int64_t more = count - 1;
    w->blocks_free -= more / w->block * decodes;
    for (int64_t k = 1; k <= more % w->block; k++)
        w->blocks_free -= w->crossings[(w->iteration + k) % w->block];
    w->context += decodes * count;
    w->iteration += more;
}

/* ---- ends ---- */

static void sample_first(struct med_walk *w, int64_t index)
{
    struct row *row = row_of(w, index);
    if (row->generated == 0) {
        row->first_s = w->now_s;
        if (index >= w->warm_up) {
            w->ttft_sum_s += w->now_s - med_walk_arrival_s(w, index);
            w->first_count++;
        }
    }
    row->ends_at = w->iteration + output_of(w, index) - row->generated - 1;
    w->context += w->input + row->generated;
    (*crossing_of(w, index))++;
    w->decoding_end = index + 1;
}

static void end_sequences(struct med_walk *w)
{
    for (; w->ended < w->decoding_end; w->ended++) {
        const struct row *row = row_of(w, w->ended);
        int64_t output = output_of(w, w->ended);
        if (row->ends_at > w->iteration)
            break;
        MED_ASSERT(row->ends_at == w->iteration);
        int64_t cached = w->input + output - 1;
        (*crossing_of(w, w->ended))--;
        w->context -= cached;
        w->blocks_free += blocks_for(w, cached);
        if (w->ended >= w->warm_up)
            w->decode_sum_s += w->now_s - row->first_s;
        if (w->ended + 1 == w->warm_up) {
            w->measured_from_s = w->now_s;
            w->running_s = 0.0;
        }
    }
}

static void iterate(struct med_walk *w)
{
    take_arrivals(w);
    bool preempted = take_blocks(w);
    struct step step = {.decodes = w->decoding_end - w->ended, .prefilled_end = w->decoding_end};
    int64_t budget = w->latency.batched_tokens_max - step.decodes;
    if (w->admitted_end > w->decoding_end)
        put_chunk(w, &step, &budget);
    while (budget > 0 && !preempted && admit(w))
        put_chunk(w, &step, &budget);
    struct med_latency_run run = run_of(w, &step);
    /* After a preemption the next iteration may admit again. */
    int64_t count = step.prefill_tokens > 0 || preempted ? 1 : alike(w, step.decodes, &run);
    pass_alike(w, step.decodes, &run, count);
    for (int64_t index = w->decoding_end; index < step.prefilled_end; index++)
        sample_first(w, index);
    end_sequences(w);
    w->iteration++;
}

/* ---- what is asked ---- */

double med_walk_greatest(struct med_walk *w)
{
    int64_t fit = fit_of(w);
    /* Whole turnovers: alike requests keep the spacing of their predecessors. */
    int64_t turnovers = (SATURATED_REQUESTS + fit - 1) / fit;
    if (turnovers < SATURATED_TURNOVERS)
        turnovers = SATURATED_TURNOVERS;
    restart(w, 0.0, fit, INT64_MAX);
    while (w->ended < 2 * fit)
        iterate(w);
    int64_t from = w->ended;
    double from_s = w->now_s;
    while (w->ended < from + turnovers * fit)
        iterate(w);
    return (double)(w->ended - from) / (w->now_s - from_s);
}

void med_walk_start(struct med_walk *w, double rate_per_s, int64_t warm_up)
{
    MED_ASSERT(rate_per_s > 0.0 && warm_up >= MED_WALK_UNTIL_FULL);
    restart(w, 1.0 / rate_per_s, 0, warm_up);
    if (warm_up != MED_WALK_UNTIL_FULL)
        return;
    w->warm_up = INT64_MAX;
    while (w->ended == 0)
        iterate(w);
    w->warm_up = WARM_UP_EXTRA + 2 * w->arrived;
}

void med_walk_advance(struct med_walk *w, int64_t measured, struct med_walk_means *ret_means)
{
    MED_ASSERT(measured > 0);
    while (w->ended < w->warm_up + measured)
        iterate(w);
    ret_means->ttft_s = w->ttft_sum_s / (double)w->first_count;
    ret_means->decode_s = w->decode_sum_s / (double)(w->ended - w->warm_up);
    ret_means->running = w->running_s / (w->now_s - w->measured_from_s);
    ret_means->firsts = w->first_count;
    ret_means->ends = w->ended - w->warm_up;
    ret_means->preemptions = w->preemptions;
}
