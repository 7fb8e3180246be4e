/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The warm-up (see warm_up.h): one batch made by hand, in the cache's first blocks.
 * thread: engine.  Knows no scheduler: there is nothing to schedule yet.
 */
#include "worker/warm_up.h"

#include "base/alloc.h"
#include "base/clock.h"

enum {
    TOKENS_MAX = 64, /* enough for the large products, short on a slow machine */
    GREEDY_SEED = 1
};

struct warm_up {
    struct med_warm_up_config config;
    double seconds;
};

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* A prompt of `count` tokens in blocks 0, 1, 2, ... */
static int run_batch(const struct warm_up *w, int64_t count, uint32_t *tokens, int32_t *blocks,
                     struct med_err *err)
{
    int64_t block_count =
        (count + w->config.scheduler.block_tokens - 1) / w->config.scheduler.block_tokens;
    for (int64_t i = 0; i < count; i++)
        tokens[i] = (uint32_t)(i % w->config.vocab_tokens);
    for (int64_t i = 0; i < block_count; i++)
        blocks[i] = (int32_t)i;
    struct med_batch_item item = {.id = 1,
                                  .tokens = count,
                                  .prefill = true,
                                  .samples = true,
                                  .blocks = blocks,
                                  .block_count = block_count};
    struct med_batch batch = {.items = &item, .count = 1};
    struct med_backend_sequence sequence = {
        .tokens = tokens, .prompt_tokens = count, .sampling = med_sampling_default()};
    sequence.sampling.temperature = 0;
    sequence.sampling.seed = GREEDY_SEED;
    const struct med_backend_sequence *sequences[] = {&sequence};
    uint32_t sampled = 0;
    bool stop = false;
    const struct med_backend_step step = {
        .batch = &batch, .sequences = sequences, .sampled = &sampled, .stop = &stop};
    return w->config.backend.ops->step(w->config.backend.self, &step, err);
}

static int warm_up_init(void *self, struct med_err *err)
{
    struct warm_up *w = self;
    const struct med_scheduler_config *s = &w->config.scheduler;
    int rc = w->config.backend.ops->init(w->config.backend.self, err);
    if (rc < 0)
        return rc;
    struct med_clock clock;
    med_clock_init_real(&clock, 1);
    int64_t begin_ns = med_clock_now_ns(&clock);
    int64_t count = least(least(s->batched_tokens_max, s->model_len_max),
                          least(s->kv_tokens / s->block_tokens * s->block_tokens, TOKENS_MAX));
    uint32_t *tokens = med_calloc((size_t)count, sizeof tokens[0]);
    int32_t *blocks = med_calloc((size_t)count, sizeof blocks[0]);
    rc = tokens && blocks ? run_batch(w, count, tokens, blocks, err)
                          : med_err_set(err, MED_E_NOMEM, "no memory for a first batch");
    med_free(tokens);
    med_free(blocks);
    w->seconds = (double)(med_clock_now_ns(&clock) - begin_ns) / (double)MED_NS_PER_S;
    if (rc < 0)
        (void)med_err_prefix(err, "the first step");
    return rc;
}

static int warm_up_step(void *self, const struct med_backend_step *step, struct med_err *err)
{
    struct warm_up *w = self;
    return w->config.backend.ops->step(w->config.backend.self, step, err);
}

static int warm_up_start(void *self, const struct med_backend_step *step, struct med_err *err)
{
    struct warm_up *w = self;
    return w->config.backend.ops->start(w->config.backend.self, step, err);
}

static int warm_up_finish(void *self, struct med_err *err)
{
    struct warm_up *w = self;
    return w->config.backend.ops->finish(w->config.backend.self, err);
}

static void warm_up_release(void *self)
{
    struct warm_up *w = self;
    if (!w)
        return;
    w->config.backend.ops->release(w->config.backend.self);
    med_free(w);
}

int med_warm_up_new(const struct med_warm_up_config *config, struct med_backend *ret_backend,
                    struct med_err *err)
{
    struct warm_up *w = med_calloc(1, sizeof *w);
    if (!w)
        return med_err_set(err, MED_E_NOMEM, "no memory for a backend");
    static const struct med_backend_ops blocks = {
        .name = "warm-up", .init = warm_up_init, .step = warm_up_step, .release = warm_up_release};
    static const struct med_backend_ops queues = {.name = "warm-up",
                                                  .init = warm_up_init,
                                                  .step = warm_up_step,
                                                  .start = warm_up_start,
                                                  .finish = warm_up_finish,
                                                  .release = warm_up_release};
    w->config = *config;
    *ret_backend =
        (struct med_backend){.ops = config->backend.ops->start ? &queues : &blocks, .self = w};
    return 0;
}

double med_warm_up_seconds(const struct med_backend *backend)
{
    const struct warm_up *w = backend->self;
    return w->seconds;
}
