/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The benchmark's iterations against a backend that checks what it is given: two under way at most,
 * each decode awaits its own sequence, contexts advance around the mean, no block has two owners; and
 * the work of a step by its shape, against sums made here.
 */
#include "worker/bench/steps.h"
#include "worker/model/shape.h"
#include "worker/model/work.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "tests/check.h"

enum {
    BLOCK_TOKENS = 4,
    BLOCKS = 200,
    SEQUENCES = 9
};

struct fake {
    int started, finished, most_under_way, stepped, fail_at;
    int64_t contexts; /* sum over decodes of all batches */
    int64_t decodes, prefill_tokens;
    int awaited;
    bool owned[BLOCKS];
    int64_t written; /* tokens, by prefills */
};

static void check_batch(struct fake *f, const struct med_backend_step *step)
{
    bool in_use[BLOCKS] = {false};
    for (size_t i = 0; i < step->batch->count; i++) {
        const struct med_batch_item *item = &step->batch->items[i];
        const struct med_backend_sequence *s = step->sequences[i];
        CHECK_INT(s->prompt_tokens, item->context + item->tokens);
        CHECK(item->samples);
        CHECK_INT(item->block_count,
                  (item->context + item->tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS);
        for (int64_t k = 0; k < item->block_count; k++) {
            CHECK(item->blocks[k] >= 0 && item->blocks[k] < BLOCKS);
            CHECK(!in_use[item->blocks[k]]);
            in_use[item->blocks[k]] = true;
            f->owned[item->blocks[k]] = true;
        }
        if (item->awaits) {
            CHECK_INT(item->previous, (int64_t)i);
            CHECK(!item->prefill);
            f->awaited++;
        } else {
            CHECK(s->tokens[item->context] < 100);
        }
        if (item->prefill) {
            f->prefill_tokens += item->tokens;
        } else {
            f->decodes++;
            f->contexts += item->context;
        }
        CHECK(!step->stop[i]);
    }
}

static int fake_step(void *self, const struct med_backend_step *step, struct med_err *err)
{
    struct fake *f = self;
    (void)err;
    check_batch(f, step);
    f->stepped++;
    return 0;
}

static int fake_start(void *self, const struct med_backend_step *step, struct med_err *err)
{
    struct fake *f = self;
    check_batch(f, step);
    f->started++;
    if (f->started == f->fail_at)
        return med_err_set(err, MED_E_CUDA, "as it was told");
    if (f->started - f->finished > f->most_under_way)
        f->most_under_way = f->started - f->finished;
    return 0;
}

static int fake_finish(void *self, struct med_err *err)
{
    struct fake *f = self;
    (void)err;
    CHECK(f->finished < f->started);
    f->finished++;
    return 0;
}

static const struct med_backend_ops blocking = {.name = "fake", .step = fake_step};
static const struct med_backend_ops queueing = {
    .name = "fake", .step = fake_step, .start = fake_start, .finish = fake_finish};

static struct med_bench_steps *make(struct fake *fake, const struct med_backend_ops *ops)
{
    const struct med_bench_steps_config config = {.backend = {.ops = ops, .self = fake},
                                                  .block_tokens = BLOCK_TOKENS,
                                                  .blocks = BLOCKS,
                                                  .sequences_max = SEQUENCES,
                                                  .batched_tokens_max = 64,
                                                  .model_len_max = 100,
                                                  .vocab = 100,
                                                  .seed = 3};
    struct med_bench_steps *steps = NULL;
    struct med_err err = {0};
    REQUIRE(med_bench_steps_new(&config, &steps, &err) == 0);
    return steps;
}

static void test_run_when_backend_queues_then_decodes_await_and_two_are_under_way(void)
{
    struct fake fake = {0};
    struct med_bench_steps *steps = make(&fake, &queueing);
    const struct med_bench_iteration iteration = {.decodes = 8, .context = 50, .prefill = 16};
    struct med_err err = {0};
    double seconds = -1;
    REQUIRE(med_bench_steps_run(steps, &iteration, 10, &seconds, &err) == 0);
    CHECK(seconds >= 0);
    CHECK_INT(fake.started, 11);
    CHECK_INT(fake.finished, 11);
    CHECK_INT(fake.most_under_way, MED_BACKEND_STEPS);
    CHECK_INT(fake.stepped, 0);
    CHECK_INT(fake.awaited, 10 * 8);
    CHECK_INT(fake.decodes, 11 * 8);
    CHECK_INT(fake.contexts, 11 * 8 * 50); /* 45 to 55 */
    CHECK_INT(fake.prefill_tokens, 11 * 16);
    med_bench_steps_free(steps);
}

static void test_run_when_backend_blocks_then_each_step_is_one(void)
{
    struct fake fake = {0};
    struct med_bench_steps *steps = make(&fake, &blocking);
    const struct med_bench_iteration iteration = {.decodes = 3, .context = 7};
    struct med_err err = {0};
    double seconds = -1;
    REQUIRE(med_bench_steps_run(steps, &iteration, 1, &seconds, &err) == 0);
    CHECK_INT(fake.stepped, 1);
    CHECK_INT(fake.contexts, 3 * 7);
    CHECK_INT(fake.awaited, 0);
    /* A context shorter than half the steps begins at one token. */
    CHECK_INT(med_bench_steps_context(&iteration, 100, 0), 1);
    CHECK_INT(med_bench_steps_context(&iteration, 4, 0), 5);
    med_bench_steps_free(steps);
}

static void test_run_when_a_step_fails_then_it_says_so_and_stops(void)
{
    struct fake fake = {.fail_at = 4};
    struct med_bench_steps *steps = make(&fake, &queueing);
    const struct med_bench_iteration iteration = {.decodes = 2, .context = 9};
    struct med_err err = {0};
    double seconds;
    CHECK_INT(med_bench_steps_run(steps, &iteration, 20, &seconds, &err), MED_E_CUDA);
    CHECK_INT(fake.started, 4);
    med_bench_steps_free(steps);
}

static void test_fill_then_every_block_was_written(void)
{
    struct fake fake = {0};
    struct med_bench_steps *steps = make(&fake, &queueing);
    struct med_err err = {0};
    REQUIRE(med_bench_steps_fill(steps, &err) == 0);
    CHECK_INT(fake.prefill_tokens, BLOCKS * BLOCK_TOKENS);
    for (int i = 0; i < BLOCKS; i++)
        CHECK(fake.owned[i]);
    med_bench_steps_free(steps);
}

static void test_blocks_when_counted_then_a_run_stays_within(void)
{
    for (int64_t context = 1; context < 60; context += 7) {
        const struct med_bench_iteration iteration = {
            .decodes = SEQUENCES - 1, .context = context, .prefill = 13};
        struct fake fake = {0};
        struct med_bench_steps *steps = make(&fake, &queueing);
        struct med_err err = {0};
        double seconds;
        REQUIRE(med_bench_steps_run(steps, &iteration, 5, &seconds, &err) == 0);
        int64_t owned = 0;
        for (int i = 0; i < BLOCKS; i++)
            owned += fake.owned[i];
        CHECK_INT(owned, med_bench_steps_blocks(BLOCK_TOKENS, &iteration, 5));
        med_bench_steps_free(steps);
    }
}

/* ---- work ------------------------------------------------------------------------------------- */

static struct med_model_config config_7b(void)
{
    return (struct med_model_config){.layers = 32,
                                     .hidden = 4096,
                                     .heads = 32,
                                     .kv_heads = 32,
                                     .head_dim = 128,
                                     .intermediate = 11008,
                                     .vocab = 32000};
}

static void test_work_when_llama_2_7b_decodes_then_the_known_floors(void)
{
    /* 3.09 TB/s; weights and 576 tokens each of keys and values. */
    static const struct {
        int64_t batch;
        double floor_ms;
    } rows[] = {{1, 4.37}, {8, 5.06}, {32, 7.40}, {64, 10.53}, {128, 16.79}};
    const struct med_model_config config = config_7b();
    struct med_work_model model;
    med_work_model_init(&model, &config, MED_DTYPE_BF16, MED_DTYPE_BF16);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct med_work work = {0};
        for (int64_t k = 0; k < rows[i].batch; k++)
            med_work_add(&model, &work, 1, 576, true);
        double ms = 1e3 * med_work_floor_s(&work, 3.09e12, 650e12);
        CHECK(ms > rows[i].floor_ms * 0.995 && ms < rows[i].floor_ms * 1.005);
        CHECK_INT(work.rows, rows[i].batch);
    }
}

static void test_work_when_a_prefill_is_cut_then_its_flops_are_the_same(void)
{
    struct med_model_config config = config_7b();
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 9);
    for (int i = 0; i < 200; i++) {
        struct med_work_model model;
        struct med_work whole = {0}, cut = {0};
        config.window = i % 2 ? 1 + med_rng_below(&rng, 300) : 0;
        for (int64_t l = 0; config.window > 0 && l < config.layers; l += 1 + i % 3)
            config.window_layers[l / 64] |= UINT64_C(1) << (l % 64);
        med_work_model_init(&model, &config, MED_DTYPE_BF16, MED_DTYPE_BF16);
        int64_t tokens = 2 + med_rng_below(&rng, 500);
        int64_t first = 1 + med_rng_below(&rng, (uint32_t)tokens - 1);
        med_work_add(&model, &whole, tokens, 0, true);
        med_work_add(&model, &cut, first, 0, false);
        med_work_add(&model, &cut, tokens - first, first, true);
        double ratio = med_work_flops(&cut) / med_work_flops(&whole);
        CHECK(ratio > 1 - 1e-12 && ratio < 1 + 1e-12);
        CHECK(cut.kv_bytes >= whole.kv_bytes); /* the second part reads what the first wrote */
        if (config.window == 0)
            CHECK(cut.kv_bytes == whole.kv_bytes + (double)first * model.kv_bytes);
        memset(config.window_layers, 0, sizeof config.window_layers);
    }
}

static void test_work_when_pairs_are_counted_one_by_one_then_the_same(void)
{
    struct med_model_config config = config_7b();
    struct med_work_model model;
    config.window = 37;
    config.window_layers[0] = ~UINT64_C(0);
    med_work_model_init(&model, &config, MED_DTYPE_BF16, MED_DTYPE_BF16);
    for (int64_t context = 0; context < 80; context += 3) {
        for (int64_t tokens = 1; tokens < 80; tokens += 5) {
            struct med_work work = {0};
            int64_t seen = 0;
            for (int64_t p = context; p < context + tokens; p++)
                seen += p + 1 < config.window ? p + 1 : config.window;
            med_work_add(&model, &work, tokens, context, false);
            CHECK(work.pair_flops == (double)seen * 4 * 32 * 128 * 32);
            int64_t read = context < config.window - 1 ? context : config.window - 1;
            CHECK(work.kv_bytes == (double)(read + tokens) * 2 * 32 * 32 * 128 * 2);
        }
    }
}

/* ---- shapes ----------------------------------------------------------------------------------- */

static void test_shape_when_shared_then_little_memory_and_no_two_matrices_in_one_place(void)
{
    for (int dtype = 0; dtype < MED_DTYPE_COUNT; dtype++) {
        struct med_checkpoint shared, apart;
        void *shared_memory, *memory;
        struct med_err err = {0};
        int64_t before = med_alloc_bytes_live();
        REQUIRE(med_shape_new("tiny", (enum med_dtype)dtype, true, 1, &shared, &shared_memory,
                              &err) == 0);
        int64_t taken = med_alloc_bytes_live() - before;
        REQUIRE(med_shape_new("tiny", (enum med_dtype)dtype, false, 1, &apart, &memory, &err) == 0);
        int64_t taken_apart = med_alloc_bytes_live() - before - taken;
        CHECK(taken < taken_apart / 2);
        CHECK_INT(shared.parameters, apart.parameters);
        CHECK(shared.head.data == shared.embedding.data); /* this one is tied */
        CHECK(shared.layers[0].q.data != shared.layers[0].k.data);
        CHECK(shared.layers[0].gate.data != shared.layers[1].gate.data);
        for (int64_t i = 0; i < shared.config.hidden; i += 17) {
            CHECK(med_dtype_get((enum med_dtype)dtype, shared.layers[3].post_norm.data,
                                (size_t)i) == 1);
            float value =
                med_dtype_get((enum med_dtype)dtype, shared.layers[5].down.data, (size_t)i);
            CHECK(value > -0.0351f && value < 0.0351f);
        }
        const struct med_weight *last = &shared.layers[5].down;
        (void)med_dtype_get((enum med_dtype)dtype, last->data,
                            (size_t)(last->rows * last->columns - 1));
        med_shape_free(&shared, shared_memory);
        med_shape_free(&apart, memory);
    }
}

int main(void)
{
    RUN(test_run_when_backend_queues_then_decodes_await_and_two_are_under_way);
    RUN(test_run_when_backend_blocks_then_each_step_is_one);
    RUN(test_run_when_a_step_fails_then_it_says_so_and_stops);
    RUN(test_fill_then_every_block_was_written);
    RUN(test_blocks_when_counted_then_a_run_stays_within);
    RUN(test_work_when_llama_2_7b_decodes_then_the_known_floors);
    RUN(test_work_when_a_prefill_is_cut_then_its_flops_are_the_same);
    RUN(test_work_when_pairs_are_counted_one_by_one_then_the_same);
    RUN(test_shape_when_shared_then_little_memory_and_no_two_matrices_in_one_place);
    return check_finish();
}
