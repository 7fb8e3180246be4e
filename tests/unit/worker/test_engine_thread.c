/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine thread with a backend of the test's own: every request ends once with all its tokens,
 * whatever the interleaving of submits, cancels and slow readers; failures reach everybody.
 * Meant to run under ThreadSanitizer too.
 */
#include "worker/engine_thread.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "tests/check.h"

#include <pthread.h>
#include <time.h>

enum {
    TABLE = 32,
    POISON = 900000 /* nothing can be drawn after this token */
};

/* ---- a backend ------------------------------------------------------------------------------ */

/* Sampled token = last input token + 1, so a wrong or repeated input shows in the output. */
struct fake {
    int init_rc;
    atomic_int steps_left; /* then a step fails; negative: never */
    pthread_mutex_t gate;  /* a step waits for it: the test can hold the engine inside a step */
};

static int fake_init(void *self, struct med_err *err)
{
    struct fake *fake = self;
    return fake->init_rc < 0 ? med_err_set(err, fake->init_rc, "the fake device is missing") : 0;
}

/* A function of token and position: up to two alternatives. */
static void fake_logprobs(uint32_t token, uint32_t position, struct med_token_logprobs *out)
{
    *out = (struct med_token_logprobs){
        .logprob = -(float)token, .rank = position + 1, .top_count = position % 3};
    for (uint32_t k = 0; k < out->top_count; k++) {
        out->top_ids[k] = token + k;
        out->top_logprobs[k] = -(float)k;
    }
}

static int fake_step(void *self, const struct med_backend_step *step, struct med_err *err)
{
    struct fake *fake = self;
    (void)pthread_mutex_lock(&fake->gate);
    (void)pthread_mutex_unlock(&fake->gate);
    if (atomic_load(&fake->steps_left) == 0)
        return med_err_set(err, MED_E_CUDA, "the fake device fell off the bus");
    atomic_fetch_sub(&fake->steps_left, 1);
    for (size_t i = 0; i < step->batch->count; i++) {
        const struct med_batch_item *item = &step->batch->items[i];
        const struct med_backend_sequence *sequence = step->sequences[i];
        if (!item->samples)
            continue;
        if (sequence->tokens[item->context + item->tokens - 1] == POISON) {
            step->failed[i] = true;
            continue;
        }
        step->sampled[i] = sequence->tokens[item->context + item->tokens - 1] + 1;
        step->stop[i] = item->position + 1 == sequence->sampling.emulated_output_tokens;
        if (step->logprobs && step->logprobs[i])
            fake_logprobs(step->sampled[i], (uint32_t)item->position, step->logprobs[i]);
    }
    return 0;
}

static void fake_release(void *self)
{
    (void)self;
}

static const struct med_backend_ops fake_ops = {
    .name = "fake", .init = fake_init, .step = fake_step, .release = fake_release};

/* ---- the loop's side ------------------------------------------------------------------------ */

struct loop {
    struct fake fake;
    struct med_clock clock;
    struct med_engine *engine;
    pthread_mutex_t lock;
    pthread_cond_t woken;
    bool wake;
    int64_t held;
    uint64_t ends[MED_ENGINE_END_COUNT];
    uint64_t wrong_tokens, wrong_logprobs;
    int64_t cached_prompt_tokens; /* of the requests that ended */
    int64_t queued_ns_min;        /* from arrival to the first batch */
};

static void wake_loop(void *arg)
{
    struct loop *loop = arg;
    (void)pthread_mutex_lock(&loop->lock);
    loop->wake = true;
    (void)pthread_cond_signal(&loop->woken);
    (void)pthread_mutex_unlock(&loop->lock);
}

static const struct med_scheduler_config sizes = {.block_tokens = 4,
                                                  .kv_tokens = 400,
                                                  .model_len_max = 200,
                                                  .sequences_max = 8,
                                                  .batched_tokens_max = 32,
                                                  .table_max = TABLE};

static int loop_init_with(struct loop *loop, const struct med_scheduler_config *scheduler,
                          double scale, int init_rc, int steps_left, struct med_err *err)
{
    *loop = (struct loop){.fake = {.init_rc = init_rc}, .queued_ns_min = INT64_MAX};
    atomic_init(&loop->fake.steps_left, steps_left);
    (void)pthread_mutex_init(&loop->fake.gate, NULL);
    (void)pthread_mutex_init(&loop->lock, NULL);
    (void)pthread_cond_init(&loop->woken, NULL);
    med_clock_init_real(&loop->clock, scale);
    struct med_engine_config config = {
        .scheduler = *scheduler,
        .backend = {.ops = &fake_ops, .self = &loop->fake},
        .clock = &loop->clock,
        .wake = wake_loop,
        .wake_arg = loop,
    };
    return med_engine_new(&config, &loop->engine, err);
}

static int loop_init(struct loop *loop, int init_rc, int steps_left, struct med_err *err)
{
    return loop_init_with(loop, &sizes, 1, init_rc, steps_left, err);
}

static void loop_release(struct loop *loop)
{
    med_engine_free(loop->engine);
    (void)pthread_mutex_destroy(&loop->fake.gate);
    (void)pthread_mutex_destroy(&loop->lock);
    (void)pthread_cond_destroy(&loop->woken);
}

static struct med_engine_request *request_new(int64_t prompt, int64_t output, uint32_t first)
{
    struct med_engine_request *r = med_calloc(1, sizeof *r);
    REQUIRE(r != NULL);
    r->tokens = med_calloc((size_t)(prompt + output), sizeof r->tokens[0]);
    REQUIRE(r->tokens != NULL);
    for (int64_t i = 0; i < prompt; i++)
        r->tokens[i] = first + (uint32_t)i;
    r->sequence.prompt_tokens = prompt;
    r->output_tokens_max = output;
    return r;
}

static void request_free(struct med_engine_request *r)
{
    med_free(r->tokens);
    med_free(r->logprobs.logprobs);
    med_free(r->logprobs.ranks);
    med_free(r->logprobs.top_ids);
    med_free(r->logprobs.top_logprobs);
    med_free(r);
}

static int submit(struct loop *loop, struct med_engine_request *r)
{
    r->arrival_ns = med_clock_now_ns(&loop->clock);
    int rc = med_engine_submit(loop->engine, r);
    if (rc < 0) {
        request_free(r);
    } else {
        loop->held++;
    }
    return rc;
}

/* Tokens of the event whose logprobs are not what the backend said of them. */
static uint64_t wrong_logprobs(const struct med_engine_event *event)
{
    const struct med_engine_logprobs *kept = &event->request->logprobs;
    uint64_t wrong = 0;
    for (int64_t i = 0; kept->logprobs && i < event->generated; i++) {
        struct med_token_logprobs said;
        uint32_t token = event->request->tokens[event->request->sequence.prompt_tokens + i];
        fake_logprobs(token, (uint32_t)i, &said);
        wrong += kept->logprobs[i] != said.logprob || kept->ranks[i] != said.rank;
        for (int64_t k = 0; k < kept->top; k++) {
            uint32_t id = k < said.top_count ? said.top_ids[k] : MED_ENGINE_NO_ID;
            wrong += kept->top_ids[i * kept->top + k] != id;
        }
    }
    return wrong;
}

static void on_event(void *arg, const struct med_engine_event *event)
{
    struct loop *loop = arg;
    const struct med_engine_request *r = event->request;
    int64_t known = r->sequence.prompt_tokens + event->generated;
    for (int64_t i = 1; i < known; i++)
        loop->wrong_tokens += r->tokens[i] != r->tokens[0] + (uint32_t)i;
    loop->wrong_logprobs += wrong_logprobs(event);
    if (event->end == MED_ENGINE_GOES_ON)
        return;
    if (event->end == MED_ENGINE_LENGTH)
        CHECK_INT(event->generated, r->output_tokens_max);
    if (event->end == MED_ENGINE_STOP)
        CHECK_INT(event->generated, r->sequence.sampling.emulated_output_tokens);
    if (event->generated > 0) {
        loop->cached_prompt_tokens += event->cached_prompt_tokens;
        if (r->scheduled_ns - r->arrival_ns < loop->queued_ns_min)
            loop->queued_ns_min = r->scheduled_ns - r->arrival_ns;
    }
    loop->ends[event->end]++;
    loop->held--;
    request_free(event->request);
}

/* Takes events, waiting for the engine's wake-up, until no more than `held` requests are held. */
static void drain(struct loop *loop, int64_t held)
{
    while (loop->held > held) {
        (void)pthread_mutex_lock(&loop->lock);
        while (!loop->wake)
            (void)pthread_cond_wait(&loop->woken, &loop->lock);
        loop->wake = false;
        (void)pthread_mutex_unlock(&loop->lock);
        med_engine_take_events(loop->engine, on_event, loop);
    }
}

/* ---- cases ---------------------------------------------------------------------------------- */

static void test_new_when_backend_fails_then_its_sentence_comes_back(void)
{
    struct loop loop;
    struct med_err err = {0};
    CHECK_INT(loop_init(&loop, MED_E_CUDA, -1, &err), MED_E_CUDA);
    CHECK_STR(err.text, "the fake device is missing");
    loop_release(&loop);
}

static void test_new_when_any_allocation_fails_then_no_memory_and_no_leak(void)
{
    int64_t live = med_alloc_bytes_live();
    bool succeeded = false;
    for (uint64_t n = 1; n < 60 && !succeeded; n++) {
        struct loop loop;
        struct med_err err = {0};
        (void)med_alloc_fail_nth(n);
        int rc = loop_init(&loop, 0, -1, &err);
        (void)med_alloc_fail_nth(0);
        succeeded = rc == 0;
        if (!succeeded)
            CHECK_INT(rc, MED_E_NOMEM);
        loop_release(&loop);
        CHECK_INT(med_alloc_bytes_live(), live);
    }
    CHECK(succeeded);
}

static void test_submit_when_it_cannot_be_then_caller_still_owns(void)
{
    struct loop loop;
    REQUIRE(loop_init(&loop, 0, -1, NULL) == 0);
    CHECK_INT(submit(&loop, request_new(150, 51, 0)), MED_E_INVALID);
    (void)pthread_mutex_lock(&loop.fake.gate);
    for (int i = 0; i < TABLE; i++)
        CHECK_INT(submit(&loop, request_new(3, 2, 0)), 0);
    CHECK_INT(submit(&loop, request_new(3, 2, 0)), MED_E_AGAIN);
    (void)pthread_mutex_unlock(&loop.fake.gate);
    drain(&loop, 0);
    CHECK_INT(submit(&loop, request_new(3, 2, 0)), 0);
    drain(&loop, 0);
    CHECK_UINT(loop.ends[MED_ENGINE_LENGTH], TABLE + 1);
    loop_release(&loop);
}

static void test_events_when_loop_is_slow_then_steps_coalesce_and_nothing_is_lost(void)
{
    struct loop loop;
    REQUIRE(loop_init(&loop, 0, -1, NULL) == 0);
    struct med_engine_request *r = request_new(5, 100, 40);
    CHECK_INT(submit(&loop, r), 0);
    /* Not a look at the events until all steps are over. */
    struct med_engine_stats stats;
    do {
        med_engine_get_stats(loop.engine, &stats);
    } while (stats.ends[MED_ENGINE_LENGTH] == 0);
    CHECK_UINT(stats.scheduler.generated_tokens_total, 100);
    CHECK_UINT(stats.ttft.count, 1);
    CHECK_UINT(stats.itl.count, 99);
    CHECK_UINT(stats.tpot.count, 1);
    drain(&loop, 0);
    CHECK_UINT(loop.ends[MED_ENGINE_LENGTH], 1);
    CHECK_UINT(loop.wrong_tokens, 0);
    loop_release(&loop);
}

static struct med_engine_request *request_with_logprobs(int64_t prompt, int64_t output,
                                                        uint32_t first, int64_t top)
{
    struct med_engine_request *r = request_new(prompt, output, first);
    struct med_engine_logprobs *p = &r->logprobs;
    size_t count = (size_t)output, places = (size_t)(output * top);
    r->sequence.sampling.top_logprobs = (int32_t)top;
    p->top = top;
    p->logprobs = med_calloc(count, sizeof p->logprobs[0]);
    p->ranks = med_calloc(count, sizeof p->ranks[0]);
    p->top_ids = med_calloc(places + 1, sizeof p->top_ids[0]);
    p->top_logprobs = med_calloc(places + 1, sizeof p->top_logprobs[0]);
    REQUIRE(p->logprobs && p->ranks && p->top_ids && p->top_logprobs);
    return r;
}

static void test_logprobs_when_some_ask_then_they_get_their_own_whatever_is_preempted(void)
{
    struct loop loop;
    struct med_engine_stats stats;
    REQUIRE(loop_init(&loop, 0, -1, NULL) == 0);
    for (uint32_t i = 0; i < 24; i++) {
        /* With 0, 1 and 2 alternatives, or without logprobs at all. */
        struct med_engine_request *r = i % 4 == 3 ? request_new(40, 100, i * 1000)
                                                  : request_with_logprobs(40, 100, i * 1000, i % 4);
        CHECK_INT(submit(&loop, r), 0);
    }
    drain(&loop, 0);
    med_engine_get_stats(loop.engine, &stats);
    CHECK(stats.scheduler.preemptions > 0);
    CHECK_UINT(loop.ends[MED_ENGINE_LENGTH], 24);
    CHECK_UINT(loop.wrong_tokens, 0);
    CHECK_UINT(loop.wrong_logprobs, 0);
    loop_release(&loop);
}

static void test_cancel_when_step_runs_then_ends_with_that_step(void)
{
    struct loop loop;
    REQUIRE(loop_init(&loop, 0, -1, NULL) == 0);
    (void)pthread_mutex_lock(&loop.fake.gate);
    struct med_engine_request *r = request_new(5, 100, 0);
    CHECK_INT(submit(&loop, r), 0);
    med_engine_cancel(loop.engine, r);
    med_engine_cancel(loop.engine, r);
    (void)pthread_mutex_unlock(&loop.fake.gate);
    drain(&loop, 0);
    CHECK_UINT(loop.ends[MED_ENGINE_CANCEL], 1);
    struct med_engine_stats stats;
    med_engine_get_stats(loop.engine, &stats);
    CHECK(stats.scheduler.iterations <= 1);
    CHECK_INT(stats.scheduler.kv_blocks_free, stats.scheduler.kv_blocks_total);
    loop_release(&loop);
}

static void test_step_when_it_fails_then_all_end_with_an_error_and_later_ones_too(void)
{
    struct loop loop;
    REQUIRE(loop_init(&loop, 0, 3, NULL) == 0);
    (void)pthread_mutex_lock(&loop.fake.gate);
    struct med_engine_request *cancelled = NULL;
    for (int i = 0; i < 12; i++) {
        struct med_engine_request *r = request_new(5, 100, 0);
        CHECK_INT(submit(&loop, r), 0);
        cancelled = i == 11 ? r : cancelled;
    }
    (void)pthread_mutex_unlock(&loop.fake.gate);
    struct med_engine_stats stats;
    do {
        med_engine_get_stats(loop.engine, &stats);
    } while (!stats.failed);
    med_engine_cancel(loop.engine, cancelled); /* it has ended; the cancel must still be safe */
    drain(&loop, 0);
    CHECK_UINT(loop.ends[MED_ENGINE_ERROR], 12);
    CHECK_INT(submit(&loop, request_new(5, 5, 0)), 0);
    drain(&loop, 0);
    CHECK_UINT(loop.ends[MED_ENGINE_ERROR], 13);
    struct med_err failure = {0};
    med_engine_failure(loop.engine, &failure);
    CHECK_INT(failure.code, MED_E_CUDA);
    med_engine_get_stats(loop.engine, &stats);
    CHECK_UINT(stats.ends[MED_ENGINE_ERROR], 13);
    CHECK_CONTAINS(failure.text, "fell off the bus");
    loop_release(&loop);
}

static void test_item_when_nothing_can_be_drawn_then_it_fails_alone(void)
{
    struct med_scheduler_config config = sizes;
    config.prefix_cache = true;
    struct loop loop;
    REQUIRE(loop_init_with(&loop, &config, 1, 0, -1, NULL) == 0);
    (void)pthread_mutex_lock(&loop.fake.gate);
    for (uint32_t i = 0; i < 4; i++)
        CHECK_INT(submit(&loop, request_new(9, 20, 100 * i)), 0);
    CHECK_INT(submit(&loop, request_new(9, 20, POISON - 8)), 0);  /* at its first token */
    CHECK_INT(submit(&loop, request_new(9, 20, POISON - 12)), 0); /* at its fifth */
    (void)pthread_mutex_unlock(&loop.fake.gate);
    drain(&loop, 0);
    CHECK_UINT(loop.ends[MED_ENGINE_FAILED], 2);
    CHECK_UINT(loop.ends[MED_ENGINE_LENGTH], 4);
    CHECK_INT(submit(&loop, request_new(9, 20, POISON - 8)), 0);
    CHECK_INT(submit(&loop, request_new(9, 20, 7)), 0);
    drain(&loop, 0);
    CHECK_UINT(loop.ends[MED_ENGINE_FAILED], 3);
    CHECK_UINT(loop.ends[MED_ENGINE_LENGTH], 5);
    CHECK_UINT(loop.wrong_tokens, 0);
    struct med_engine_stats stats;
    med_engine_get_stats(loop.engine, &stats);
    CHECK(!stats.failed);
    CHECK_UINT(stats.ends[MED_ENGINE_FAILED], 3);
    CHECK_INT(stats.scheduler.kv_blocks_free, stats.scheduler.kv_blocks_total);
    loop_release(&loop);
}

static void test_beat_when_idle_then_heartbeat_moves(void)
{
    struct loop loop;
    REQUIRE(loop_init(&loop, 0, -1, NULL) == 0);
    struct med_engine_stats stats;
    med_engine_get_stats(loop.engine, &stats);
    int64_t before = stats.heartbeat_ns;
    CHECK(before > 0);
    med_engine_beat(loop.engine);
    med_engine_beat(loop.engine);
    do {
        med_engine_get_stats(loop.engine, &stats);
    } while (stats.heartbeat_ns == before);
    CHECK(stats.heartbeat_ns > before);
    loop_release(&loop);
}

static void test_prompts_when_equal_then_the_cache_counts_for_each_and_tokens_are_right(void)
{
    struct med_scheduler_config config = sizes;
    config.prefix_cache = true;
    struct loop loop;
    REQUIRE(loop_init_with(&loop, &config, 1, 0, -1, NULL) == 0);
    CHECK_INT(submit(&loop, request_new(20, 9, 7)), 0);
    drain(&loop, 0);
    CHECK_INT(loop.cached_prompt_tokens, 0);
    CHECK_INT(submit(&loop, request_new(20, 9, 7)), 0);
    drain(&loop, 0);
    CHECK_INT(loop.cached_prompt_tokens, 16);
    CHECK_INT(submit(&loop, request_new(40, 9, 7)), 0); /* the answer continued the counting */
    drain(&loop, 0);
    CHECK_INT(loop.cached_prompt_tokens, 16 + 28);
    CHECK_UINT(loop.wrong_tokens, 0);
    struct med_engine_stats stats;
    med_engine_get_stats(loop.engine, &stats);
    CHECK_UINT(stats.scheduler.prefix_queries_total, 80);
    CHECK_UINT(stats.scheduler.prefix_hits_total, 44);
    loop_release(&loop);
}

/* The wait is fleet time: at this scale 0.7 s, and longer than the test may take if it were real. */
static void test_static_batch_when_not_full_then_starts_after_its_wait(void)
{
    struct med_scheduler_config config = sizes;
    config.batching = MED_BATCHING_STATIC;
    config.batch_wait_ns = 700 * MED_NS_PER_S;
    struct loop loop;
    REQUIRE(loop_init_with(&loop, &config, 1000, 0, -1, NULL) == 0);
    CHECK_INT(submit(&loop, request_new(5, 3, 1)), 0);
    CHECK_INT(submit(&loop, request_new(5, 3, 1)), 0);
    med_engine_beat(loop.engine); /* wakes it early; it must go on waiting */
    drain(&loop, 0);
    CHECK_UINT(loop.ends[MED_ENGINE_LENGTH], 2);
    CHECK(loop.queued_ns_min >= config.batch_wait_ns);
    /* A full one does not wait. */
    config.batch_wait_ns = INT64_MAX;
    loop_release(&loop);
    REQUIRE(loop_init_with(&loop, &config, 1000, 0, -1, NULL) == 0);
    for (int64_t i = 0; i < 2 * config.sequences_max; i++)
        CHECK_INT(submit(&loop, request_new(5, 3, 1)), 0);
    drain(&loop, 0);
    CHECK_UINT(loop.ends[MED_ENGINE_LENGTH], (uint64_t)(2 * config.sequences_max));
    /* What waits for ever can be cancelled. */
    struct med_engine_request *r = request_new(5, 3, 1);
    CHECK_INT(submit(&loop, r), 0);
    med_engine_cancel(loop.engine, r);
    drain(&loop, 0);
    CHECK_UINT(loop.ends[MED_ENGINE_CANCEL], 1);
    loop_release(&loop);
}

static void torture(const struct med_scheduler_config *config, uint64_t stream)
{
    enum {
        REQUESTS = 4000
    };
    struct loop loop;
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), stream);
    REQUIRE(loop_init_with(&loop, config, 1, 0, -1, NULL) == 0);
    int submitted = 0;
    while (submitted < REQUESTS) {
        struct med_engine_request *burst[8];
        int count = 0;
        for (uint32_t n = med_rng_below(&rng, 8); n > 0; n--) {
            struct med_engine_request *r = request_new(
                1 + med_rng_below(&rng, 60), 1 + med_rng_below(&rng, 40), med_rng_below(&rng, 5));
            if (med_rng_below(&rng, 4) == 0)
                r->sequence.sampling.emulated_output_tokens = 1 + med_rng_below(&rng, 40);
            if (submit(&loop, r) < 0)
                break;
            burst[count++] = r;
            submitted++;
        }
        /* None of these can have been taken yet, so they may be named. */
        for (int i = 0; i < count; i++) {
            if (med_rng_below(&rng, 5) == 0)
                med_engine_cancel(loop.engine, burst[i]);
        }
        if (med_rng_below(&rng, 3) == 0)
            med_engine_beat(loop.engine);
        drain(&loop, med_rng_below(&rng, TABLE));
    }
    drain(&loop, 0);
    CHECK_UINT(loop.ends[MED_ENGINE_STOP] + loop.ends[MED_ENGINE_LENGTH] +
                   loop.ends[MED_ENGINE_CANCEL],
               (uint64_t)submitted);
    CHECK(loop.ends[MED_ENGINE_STOP] > 100);
    CHECK(loop.ends[MED_ENGINE_CANCEL] > 100);
    CHECK_UINT(loop.wrong_tokens, 0);
    struct med_engine_stats stats;
    med_engine_get_stats(loop.engine, &stats);
    CHECK_INT(stats.scheduler.kv_blocks_free, stats.scheduler.kv_blocks_total);
    CHECK_UINT(stats.scheduler.finished_total, (uint64_t)submitted);
    CHECK((stats.scheduler.prefix_hits_total > 0) == config->prefix_cache);
    loop_release(&loop);
}

static void test_torture_when_cancelled_at_random_then_every_request_ends_once(void)
{
    torture(&sizes, 4);
}

static void test_torture_when_prefixes_are_shared_then_every_request_ends_once(void)
{
    struct med_scheduler_config config = sizes;
    config.prefix_cache = true;
    torture(&config, 5);
}

int main(void)
{
    RUN(test_new_when_backend_fails_then_its_sentence_comes_back);
    RUN(test_new_when_any_allocation_fails_then_no_memory_and_no_leak);
    RUN(test_submit_when_it_cannot_be_then_caller_still_owns);
    RUN(test_events_when_loop_is_slow_then_steps_coalesce_and_nothing_is_lost);
    RUN(test_logprobs_when_some_ask_then_they_get_their_own_whatever_is_preempted);
    RUN(test_cancel_when_step_runs_then_ends_with_that_step);
    RUN(test_step_when_it_fails_then_all_end_with_an_error_and_later_ones_too);
    RUN(test_item_when_nothing_can_be_drawn_then_it_fails_alone);
    RUN(test_beat_when_idle_then_heartbeat_moves);
    RUN(test_prompts_when_equal_then_the_cache_counts_for_each_and_tokens_are_right);
    RUN(test_static_batch_when_not_full_then_starts_after_its_wait);
    RUN(test_torture_when_cancelled_at_random_then_every_request_ends_once);
    RUN(test_torture_when_prefixes_are_shared_then_every_request_ends_once);
    return check_finish();
}
