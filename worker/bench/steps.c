/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Back-to-back iterations (see steps.h): batches made by hand, two under way at most.
 *
 * Sequence i of a batch has the i-th stretch of a shuffled list of blocks; all sequences read from one
 * array of random token ids, each from another place on.
 * thread: main.
 */
#include "worker/bench/steps.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/rng.h"

enum {
    TOKENS_STREAM = 3, /* of the generator */
    BLOCKS_STREAM = 4
};

struct med_bench_steps {
    struct med_bench_steps_config config;
    struct med_clock clock;
    struct med_batch_item *items;                      // [sequences_max]
    struct med_backend_sequence *sequences;            // [sequences_max]
    const struct med_backend_sequence **sequence_list; // [sequences_max]
    int32_t *tables;                                   // [blocks], each block once
    uint32_t *tokens;                                  // [model_len_max + sequences_max]
    uint32_t *sampled[MED_BACKEND_STEPS];              // [sequences_max]
    bool *stop[MED_BACKEND_STEPS];                     // [sequences_max]
    struct med_batch batch;
};

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t blocks_of(int64_t tokens, int64_t block_tokens)
{
    return (tokens + block_tokens - 1) / block_tokens;
}

/* ---- life ------------------------------------------------------------------------------------- */

static void fill_arrays(struct med_bench_steps *s)
{
    const struct med_bench_steps_config *c = &s->config;
    struct med_rng rng;
    med_rng_init(&rng, c->seed, TOKENS_STREAM);
    for (int64_t i = 0; i < c->model_len_max + c->sequences_max; i++)
        s->tokens[i] = med_rng_below(&rng, (uint32_t)c->vocab);
    for (int64_t i = 0; i < c->blocks; i++)
        s->tables[i] = (int32_t)i;
    med_rng_init(&rng, c->seed, BLOCKS_STREAM);
    for (int64_t i = c->blocks - 1; i > 0; i--) {
        int64_t with = med_rng_below(&rng, (uint32_t)(i + 1));
        int32_t block = s->tables[i];
        s->tables[i] = s->tables[with];
        s->tables[with] = block;
    }
    for (int64_t i = 0; i < c->sequences_max; i++) {
        s->sequences[i].tokens = s->tokens + i;
        s->sequences[i].sampling = med_sampling_default();
        s->sequences[i].sampling.temperature = 0;
        s->sequence_list[i] = &s->sequences[i];
    }
}

int med_bench_steps_new(const struct med_bench_steps_config *config,
                        struct med_bench_steps **ret_steps, struct med_err *err)
{
    struct med_bench_steps *s = med_calloc(1, sizeof *s);
    if (!s)
        return med_err_set(err, MED_E_NOMEM, "no memory for batches");
    size_t n = (size_t)config->sequences_max;
    s->config = *config;
    med_clock_init_real(&s->clock, 1);
    s->items = med_calloc(n, sizeof s->items[0]);
    s->sequences = med_calloc(n, sizeof s->sequences[0]);
    s->sequence_list = med_calloc(n, sizeof(struct med_backend_sequence *));
    s->tables = med_calloc((size_t)config->blocks, sizeof s->tables[0]);
    s->tokens = med_calloc((size_t)config->model_len_max + n, sizeof s->tokens[0]);
    bool is_there = s->items && s->sequences && s->sequence_list && s->tables && s->tokens;
    for (int i = 0; i < MED_BACKEND_STEPS; i++) {
        s->sampled[i] = med_calloc(n, sizeof s->sampled[i][0]);
        s->stop[i] = med_calloc(n, sizeof s->stop[i][0]);
        is_there = is_there && s->sampled[i] && s->stop[i];
    }
    if (!is_there) {
        med_bench_steps_free(s);
        return med_err_set(err, MED_E_NOMEM, "no memory for batches of %zu sequences", n);
    }
    fill_arrays(s);
    *ret_steps = s;
    return 0;
}

void med_bench_steps_free(struct med_bench_steps *steps)
{
    if (!steps)
        return;
    med_free(steps->items);
    med_free(steps->sequences);
    med_free((void *)steps->sequence_list);
    med_free(steps->tables);
    med_free(steps->tokens);
    for (int i = 0; i < MED_BACKEND_STEPS; i++) {
        med_free(steps->sampled[i]);
        med_free(steps->stop[i]);
    }
    med_free(steps);
}

/* ---- batches ---------------------------------------------------------------------------------- */

int64_t med_bench_steps_context(const struct med_bench_iteration *iteration, int64_t count,
                                int64_t step)
{
    return most(iteration->context - count / 2, 1) + step;
}

/* Of each decode: as long as it is after the last iteration, the one that begins the time included. */
static int64_t decode_blocks(int64_t block_tokens, const struct med_bench_iteration *iteration,
                             int64_t count)
{
    return blocks_of(med_bench_steps_context(iteration, count, count) + 1, block_tokens);
}

int64_t med_bench_steps_blocks(int64_t block_tokens, const struct med_bench_iteration *iteration,
                               int64_t count)
{
    int64_t blocks = blocks_of(iteration->prefill, block_tokens);
    if (iteration->decodes > 0)
        blocks += iteration->decodes * decode_blocks(block_tokens, iteration, count);
    return blocks;
}

static struct med_batch_item *add_item(struct med_bench_steps *s, int64_t context, int64_t tokens,
                                       int64_t first_block)
{
    const int64_t needed = blocks_of(context + tokens, s->config.block_tokens);
    const size_t i = s->batch.count++;
    MED_ASSERT((int64_t)i < s->config.sequences_max);
    MED_ASSERT(first_block + needed <= s->config.blocks);
    MED_ASSERT(context + tokens <= s->config.model_len_max);
    s->sequences[i].prompt_tokens = context + tokens;
    s->items[i] = (struct med_batch_item){.id = i + 1,
                                          .tokens = tokens,
                                          .context = context,
                                          .prefill = tokens > 1,
                                          .samples = true,
                                          .blocks = s->tables + first_block,
                                          .block_count = needed};
    if (tokens > 1) {
        s->batch.load.prefill_tokens += tokens;
        s->batch.load.prefill_pairs += med_step_pairs(tokens, context);
    } else {
        s->batch.load.decode_sequences++;
        s->batch.load.decode_context_tokens += context;
    }
    return &s->items[i];
}

static void make_batch(struct med_bench_steps *s, const struct med_bench_iteration *iteration,
                       int64_t count, int64_t step)
{
    const bool queues = s->config.backend.ops->start != NULL;
    const int64_t each = decode_blocks(s->config.block_tokens, iteration, count);
    s->batch = (struct med_batch){.items = s->items};
    for (int64_t i = 0; i < iteration->decodes; i++) {
        struct med_batch_item *item =
            add_item(s, med_bench_steps_context(iteration, count, step), 1, i * each);
        item->awaits = queues && step > 0;
        item->previous = (int32_t)i;
    }
    if (iteration->prefill > 0)
        (void)add_item(s, 0, iteration->prefill, iteration->decodes * each);
}

static struct med_backend_step step_of(struct med_bench_steps *s, int slot)
{
    for (size_t i = 0; i < s->batch.count; i++)
        s->stop[slot][i] = false;
    return (struct med_backend_step){.batch = &s->batch,
                                     .sequences = s->sequence_list,
                                     .sampled = s->sampled[slot],
                                     .stop = s->stop[slot]};
}

/* ---- running ---------------------------------------------------------------------------------- */

int med_bench_steps_fill(struct med_bench_steps *s, struct med_err *err)
{
    const struct med_bench_steps_config *c = &s->config;
    int64_t longest = c->model_len_max / c->block_tokens;
    if (longest > c->batched_tokens_max / c->block_tokens)
        longest = c->batched_tokens_max / c->block_tokens;
    int rc = 0;
    for (int64_t first = 0; longest > 0 && first < c->blocks && rc == 0; first += longest) {
        int64_t blocks = c->blocks - first < longest ? c->blocks - first : longest;
        s->batch = (struct med_batch){.items = s->items};
        (void)add_item(s, 0, blocks * c->block_tokens, first);
        struct med_backend_step step = step_of(s, 0);
        rc = c->backend.ops->step(c->backend.self, &step, err);
    }
    return rc;
}

/* One at a time. */
static int run_blocking(struct med_bench_steps *s, const struct med_bench_iteration *iteration,
                        int64_t count, double *ret_seconds, struct med_err *err)
{
    const struct med_backend backend = s->config.backend;
    int64_t passed_ns = 0;
    int rc = 0;
    for (int64_t i = 0; i < count && rc == 0; i++) {
        make_batch(s, iteration, count, i);
        struct med_backend_step step = step_of(s, 0);
        int64_t begin_ns = med_clock_now_ns(&s->clock);
        rc = backend.ops->step(backend.self, &step, err);
        passed_ns += med_clock_now_ns(&s->clock) - begin_ns;
    }
    *ret_seconds = (double)passed_ns / (double)MED_NS_PER_S / (double)count;
    return rc;
}

/* One is queued while one runs.  One more than `count` is run: the first's end begins the time. */
static int run_queued(struct med_bench_steps *s, const struct med_bench_iteration *iteration,
                      int64_t count, double *ret_seconds, struct med_err *err)
{
    const struct med_backend backend = s->config.backend;
    int64_t begin_ns = 0, started = 0, all = count + 1;
    int rc = 0;
    for (int64_t finished = 0; finished < all && rc == 0; finished++) {
        for (; started < all && started < finished + MED_BACKEND_STEPS && rc == 0; started++) {
            make_batch(s, iteration, count, started);
            struct med_backend_step step = step_of(s, (int)(started % MED_BACKEND_STEPS));
            rc = backend.ops->start(backend.self, &step, err);
        }
        if (rc == 0)
            rc = backend.ops->finish(backend.self, err);
        if (finished == 0)
            begin_ns = med_clock_now_ns(&s->clock);
    }
    *ret_seconds =
        (double)(med_clock_now_ns(&s->clock) - begin_ns) / (double)MED_NS_PER_S / (double)count;
    return rc;
}

int med_bench_steps_run(struct med_bench_steps *s, const struct med_bench_iteration *iteration,
                        int64_t count, double *ret_seconds, struct med_err *err)
{
    MED_ASSERT(count > 0);
    return s->config.backend.ops->start ? run_queued(s, iteration, count, ret_seconds, err)
                                        : run_blocking(s, iteration, count, ret_seconds, err);
}
