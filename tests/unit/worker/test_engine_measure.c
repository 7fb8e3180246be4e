/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measurements in the engine's turns, on a device whose times are known: it says by its own count when a
 * step ended, with a backend that blocks and with one that queues.  The device checks what it is given:
 * blocks have one owner, contexts are those of the measurement.
 */
#include "worker/engine_measure.h"

#include "base/alloc.h"
#include "base/thread.h"
#include "tests/check.h"

#include <sched.h>
#include <string.h>

enum {
    LANES = 8,
    BLOCK = 16,
    KV = 4096,
    LEN = 1024,
    BUDGET = 128,
    VOCAB = 1000
};

static const struct med_scheduler_config sizes = {.block_tokens = BLOCK,
                                                  .kv_tokens = KV,
                                                  .model_len_max = LEN,
                                                  .sequences_max = LANES,
                                                  .batched_tokens_max = BUDGET,
                                                  .table_max = 16,
                                                  .prefix_cache = true,
                                                  .prefill_chunk_max = BUDGET / 4};

/* thread: engine, and the test before and after it runs */
struct device {
    int64_t now_ns;
    int64_t steps, fail_at; /* -1: never */
    int64_t depth, depth_max, prefilled;
    bool unsound, scattered;
    struct med_backend_step under_way[MED_BACKEND_STEPS];
    int64_t cost_ns[MED_BACKEND_STEPS];
    size_t counts[MED_BACKEND_STEPS];
};

static int64_t cost_ns(const struct med_step_load *load)
{
    return 1000000 + 1000 * load->prefill_tokens + 10 * load->prefill_pairs +
           20000 * load->decode_sequences + 100 * load->decode_context_tokens;
}

static void look_at(struct device *d, const struct med_batch *batch)
{
    bool taken[KV / BLOCK] = {false};
    for (size_t i = 0; i < batch->count; i++) {
        const struct med_batch_item *item = &batch->items[i];
        if (item->prefill)
            d->prefilled += item->tokens;
        for (int64_t b = 0; b < item->block_count; b++) {
            int32_t block = item->blocks[b];
            d->unsound |= block < 0 || block >= KV / BLOCK || taken[block];
            taken[block] = true;
            d->scattered |= b > 0 && item->blocks[b - 1] != block - 1;
        }
        d->unsound |= item->block_count * BLOCK < item->context + item->tokens;
        d->unsound |= item->awaits && d->depth == 0;
    }
}

static int device_start(void *self, const struct med_backend_step *step, struct med_err *err)
{
    struct device *d = self;
    int slot = (int)(d->steps % MED_BACKEND_STEPS);
    if (d->steps++ == d->fail_at)
        return med_err_set(err, MED_E_CUDA, "the device is broken");
    look_at(d, step->batch);
    d->depth++;
    d->depth_max = d->depth > d->depth_max ? d->depth : d->depth_max;
    d->under_way[slot] = *step;
    d->counts[slot] = step->batch->count;
    d->cost_ns[slot] = cost_ns(&step->batch->load);
    return 0;
}

static int device_finish(void *self, struct med_err *err)
{
    struct device *d = self;
    int slot = (int)((d->steps - d->depth) % MED_BACKEND_STEPS);
    (void)err;
    d->depth--;
    d->now_ns += d->cost_ns[slot];
    *d->under_way[slot].ended_ns = d->now_ns;
    for (size_t i = 0; i < d->counts[slot]; i++)
        d->under_way[slot].sampled[i] = 7;
    return 0;
}

static int device_step(void *self, const struct med_backend_step *step, struct med_err *err)
{
    int rc = device_start(self, step, err);
    return rc < 0 ? rc : device_finish(self, err);
}

static int device_init(void *self, struct med_err *err)
{
    (void)self;
    (void)err;
    return 0;
}

static void device_release(void *self)
{
    (void)self;
}

static const struct med_backend_ops blocking = {
    .name = "blocking", .init = device_init, .step = device_step, .release = device_release};
static const struct med_backend_ops queueing = {.name = "queueing",
                                                .init = device_init,
                                                .step = device_step,
                                                .start = device_start,
                                                .finish = device_finish,
                                                .release = device_release};

static void wake(void *arg)
{
    (void)arg;
}

static struct med_engine *new_engine(struct device *d, bool queues, const struct med_clock *clock)
{
    struct med_engine *engine = NULL;
    struct med_err err = {0};
    *d = (struct device){.now_ns = 5, .fail_at = -1};
    const struct med_engine_config config = {.scheduler = sizes,
                                             .backend = {queues ? &queueing : &blocking, d},
                                             .clock = clock,
                                             .wake = wake};
    REQUIRE(med_engine_new(&config, &engine, &err) == 0);
    return engine;
}

static struct med_measure *run(struct med_engine *engine, const struct med_measure_sizes *asked)
{
    const struct med_sampling sampling = med_sampling_default();
    struct med_measure *m = NULL, *back;
    struct med_err err = {0};
    REQUIRE(med_measure_new(asked, &sizes, &sampling, VOCAB, &m, &err) == 0);
    med_engine_measure(engine, m);
    while (!(back = med_engine_take_measure(engine)))
        (void)sched_yield();
    CHECK(back == m);
    return back;
}

/* ---- times ---------------------------------------------------------------------------------- */

static void check_times(const struct med_measure_sizes *asked, bool queues)
{
    struct device d;
    struct med_clock clock;
    med_clock_init_real(&clock, 1);
    struct med_engine *engine = new_engine(&d, queues, &clock);
    struct med_measure *m = run(engine, asked);
    CHECK_INT(m->failure.code, 0);
    CHECK_INT(m->count, asked->repeats);
    for (int64_t i = 0; i < m->count; i++) {
        struct med_step_load load = {
            .prefill_tokens = asked->prefill_tokens,
            .prefill_pairs = med_step_pairs(asked->prefill_tokens, asked->prefill_context),
            .decode_sequences = asked->decode_sequences,
            .decode_context_tokens = (int64_t)m->decode_context_tokens[i]};
        CHECK_INT((int64_t)m->step_ns[i], cost_ns(&load));
    }
    if (asked->decode_sequences > 0 && asked->prefill_tokens == 0) {
        int64_t middle = (int64_t)m->decode_context_tokens[(m->count - 1) / 2];
        CHECK(middle >= asked->decode_context_tokens - asked->decode_sequences);
        CHECK(middle <= asked->decode_context_tokens + asked->decode_sequences);
        CHECK_INT(d.depth_max, queues ? 2 : 1);
    }
    CHECK(!d.unsound);
    struct med_engine_stats stats;
    med_engine_get_stats(engine, &stats);
    CHECK_INT(stats.scheduler.running + stats.scheduler.waiting, 0);
    CHECK_INT(stats.scheduler.kv_blocks_free, KV / BLOCK);
    CHECK_INT((int64_t)stats.scheduler.preemptions, 0);
    CHECK_INT((int64_t)stats.ends[MED_ENGINE_CANCEL], 0); /* its sequences are nobody's requests */
    med_measure_free(m);
    med_engine_free(engine);
}

static void test_measure_when_steps_are_asked_for_then_their_times(void)
{
    static const struct med_measure_sizes table[] = {
        {.decode_sequences = 1, .decode_context_tokens = 1, .repeats = 1},
        {.decode_sequences = 1, .decode_context_tokens = 700, .warmup = 3, .repeats = 21},
        {.decode_sequences = 8, .decode_context_tokens = 2405, .warmup = 3, .repeats = 33},
        {.prefill_tokens = 1, .warmup = 1, .repeats = 4},
        {.prefill_tokens = 128, .warmup = 2, .repeats = 9},
        {.prefill_tokens = 100, .prefill_context = 800, .warmup = 2, .repeats = 9},
        {.prefill_tokens = 60,
         .prefill_context = 3,
         .decode_sequences = 7,
         .decode_context_tokens = 1400,
         .warmup = 2,
         .repeats = 9},
        {.prefill_tokens = 1,
         .decode_sequences = 1,
         .decode_context_tokens = 1,
         .warmup = 1,
         .repeats = 2},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        check_times(&table[i], false);
        check_times(&table[i], true);
    }
}

static void test_measure_when_blocks_are_taken_then_in_an_order_of_chance(void)
{
    struct device d;
    struct med_clock clock;
    med_clock_init_real(&clock, 1);
    struct med_engine *engine = new_engine(&d, true, &clock);
    const struct med_measure_sizes asked = {
        .decode_sequences = 4, .decode_context_tokens = 1600, .repeats = 3};
    med_measure_free(run(engine, &asked));
    CHECK(d.scattered);
    CHECK(!d.unsound);
    /* Nothing was prefilled but the one token that each begins with. */
    CHECK_INT(d.prefilled, 4);
    med_engine_free(engine);
}

static void test_measure_when_filling_then_all_of_the_cache_is_computed(void)
{
    for (int queues = 0; queues < 2; queues++) {
        struct device d;
        struct med_clock clock;
        med_clock_init_real(&clock, 1);
        struct med_engine *engine = new_engine(&d, queues, &clock);
        const struct med_measure_sizes asked = {.fill = true};
        struct med_measure *m = run(engine, &asked);
        CHECK_INT(m->failure.code, 0);
        CHECK_INT(m->count, 0);
        CHECK(d.prefilled > KV * 8 / 10);
        CHECK(!d.unsound);
        med_measure_free(m);
        med_engine_free(engine);
    }
}

/* One of each kind, on an engine of those sizes. */
static void run_small(const struct med_scheduler_config *small)
{
    static const struct med_measure_sizes asked[] = {
        {.decode_sequences = 1, .decode_context_tokens = 1, .repeats = 1},
        {.prefill_tokens = 1, .repeats = 1},
        {.decode_sequences = 1, .prefill_tokens = 1, .repeats = 1},
        {.fill = true}};
    const struct med_sampling sampling = med_sampling_default();
    struct device d = {.fail_at = -1};
    struct med_clock clock;
    struct med_engine *engine = NULL;
    struct med_err err = {0};
    med_clock_init_real(&clock, 1);
    const struct med_engine_config config = {
        .scheduler = *small, .backend = {&queueing, &d}, .clock = &clock, .wake = wake};
    REQUIRE(med_engine_new(&config, &engine, &err) == 0);
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        struct med_measure *m = NULL, *back;
        if (med_measure_new(&asked[i], small, &sampling, VOCAB, &m, &err) < 0) {
            CHECK(err.text[0] != '\0');
            continue;
        }
        med_engine_measure(engine, m);
        while (!(back = med_engine_take_measure(engine)))
            (void)sched_yield();
        CHECK_INT(back->failure.code, 0);
        med_measure_free(back);
    }
    CHECK(!d.unsound);
    med_engine_free(engine);
}

static void test_measure_when_an_engine_is_small_then_what_can_run_does(void)
{
    for (int64_t kv = 1; kv < 40; kv++) {
        for (int64_t block = 1; block <= kv; block += 3) {
            const struct med_scheduler_config small = {.block_tokens = block,
                                                       .kv_tokens = kv,
                                                       .model_len_max = 1 + kv % 17,
                                                       .sequences_max = 3,
                                                       .batched_tokens_max = 3,
                                                       .table_max = 2};
            run_small(&small);
        }
    }
}

/* ---- ends ----------------------------------------------------------------------------------- */

static void test_measure_when_the_device_fails_then_it_says_so(void)
{
    for (int64_t at = 0; at < 12; at++) {
        struct device d;
        struct med_clock clock;
        med_clock_init_real(&clock, 1);
        struct med_engine *engine = new_engine(&d, at % 2 == 0, &clock);
        d.fail_at = at; /* the engine is idle */
        const struct med_measure_sizes asked = {
            .decode_sequences = 2, .decode_context_tokens = 100, .warmup = 2, .repeats = 50};
        struct med_measure *m = run(engine, &asked);
        CHECK_INT(m->failure.code, MED_E_CUDA);
        CHECK_CONTAINS(m->failure.text, "broken");
        med_measure_free(m);
        /* A dead engine answers at once. */
        m = run(engine, &asked);
        CHECK_INT(m->failure.code, MED_E_CUDA);
        med_measure_free(m);
        med_engine_free(engine);
    }
}

static void test_measure_when_cancelled_then_it_comes_back(void)
{
    struct device d;
    struct med_clock clock;
    const struct med_sampling sampling = med_sampling_default();
    const struct med_measure_sizes asked = {
        .decode_sequences = 1, .decode_context_tokens = 9, .repeats = 900};
    struct med_measure *m = NULL, *back;
    struct med_err err = {0};
    med_clock_init_real(&clock, 1);
    struct med_engine *engine = new_engine(&d, true, &clock);
    REQUIRE(med_measure_new(&asked, &sizes, &sampling, VOCAB, &m, &err) == 0);
    med_measure_cancel(m);
    med_engine_measure(engine, m);
    while (!(back = med_engine_take_measure(engine)))
        (void)sched_yield();
    CHECK_INT(back->failure.code, MED_E_CANCELLED);
    med_measure_free(back);
    med_engine_free(engine);
}

static void test_measure_when_sizes_cannot_be_then_refused_with_a_sentence(void)
{
    static const struct {
        struct med_measure_sizes asked;
        const char *text;
    } table[] = {
        {{.repeats = 1}, "nothing to repeat"},
        {{.decode_sequences = 1}, "nothing to repeat"},
        {{.decode_sequences = LANES + 1, .repeats = 1}, "decode_sequences is 9"},
        {{.prefill_tokens = BUDGET + 1, .repeats = 1}, "prefill_tokens is 129"},
        {{.prefill_tokens = BUDGET - 3, .decode_sequences = 4, .repeats = 1}, "prefill_tokens"},
        {{.prefill_tokens = 4, .decode_sequences = LANES, .repeats = 1}, "decode_sequences is 8"},
        {{.prefill_tokens = 4, .prefill_context = LEN, .repeats = 1}, "prefill_context is 1024"},
        {{.prefill_context = 4, .decode_sequences = 1, .repeats = 1}, "without prefill_tokens"},
        {{.decode_sequences = -1, .repeats = 1}, "decode_sequences is -1"},
        {{.decode_sequences = 1, .repeats = -1}, "repeats is -1"},
        {{.decode_sequences = 1, .repeats = MED_MEASURE_REPEATS_MAX}, "a sequence has 1024"},
        {{.decode_sequences = 8, .decode_context_tokens = 7200, .repeats = 1}, "KV cache"},
        {{.decode_sequences = 1, .warmup = 100000, .repeats = 1}, "warmup is 100000"},
    };
    const struct med_sampling sampling = med_sampling_default();
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        struct med_measure *m = NULL;
        struct med_err err = {0};
        int rc = med_measure_new(&table[i].asked, &sizes, &sampling, VOCAB, &m, &err);
        CHECK_INT(rc, MED_E_INVALID);
        CHECK_CONTAINS(err.text, table[i].text);
    }
}

int main(void)
{
    RUN(test_measure_when_steps_are_asked_for_then_their_times);
    RUN(test_measure_when_blocks_are_taken_then_in_an_order_of_chance);
    RUN(test_measure_when_filling_then_all_of_the_cache_is_computed);
    RUN(test_measure_when_an_engine_is_small_then_what_can_run_does);
    RUN(test_measure_when_the_device_fails_then_it_says_so);
    RUN(test_measure_when_cancelled_then_it_comes_back);
    RUN(test_measure_when_sizes_cannot_be_then_refused_with_a_sentence);
    return check_finish();
}
