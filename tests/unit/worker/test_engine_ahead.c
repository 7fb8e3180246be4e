/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine thread with a backend that computes one step while the next one is queued: a device with a
 * thread of its own, which runs what it was given in order, after random delays.
 *
 * A token follows from the one before it and its place, so what a request must get is known when it is
 * submitted, its end included; the same requests are given to a backend that blocks.  Meant to run
 * under ThreadSanitizer too.
 */
#include "worker/engine_thread.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/rng.h"
#include "base/thread.h"
#include "tests/check.h"

#include <pthread.h>
#include <sched.h>
#include <time.h>

enum {
    TABLE = 32,
    LANES = 8,
    QUEUE = 4 /* batches remembered: two under way, and the one before them */
};

/* ---- what is drawn -------------------------------------------------------------------------- */

struct drawn {
    uint32_t token;
    bool stop, failed;
};

/* From the last token and its place, or a digest of all tokens where there are penalties. */
static struct drawn draw(uint64_t from, int64_t place)
{
    uint64_t x = from * UINT64_C(0xd1342543de82ef95) + (uint64_t)place;
    x ^= x >> 29;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 32;
    bool failed = x % 211 == 0;
    return (struct drawn){
        .token = (uint32_t)(x >> 8) % 100000, .stop = !failed && x % 37 == 0, .failed = failed};
}

static uint64_t all_of(const uint32_t *tokens, int64_t count)
{
    uint64_t all = 0;
    for (int64_t i = 0; i < count; i++)
        all = all * 31 + tokens[i] + 1;
    return all;
}

static struct drawn draw_next(const struct med_sampling *sampling, const uint32_t *tokens,
                              int64_t count)
{
    uint64_t from =
        med_sampling_has_penalties(sampling) ? all_of(tokens, count) : tokens[count - 1];
    return draw(from, count);
}

/* ---- a device ------------------------------------------------------------------------------- */

struct device_item {
    uint64_t from; /* unless it awaits */
    int64_t place;
    bool samples, awaits;
    int32_t previous;
    struct drawn drawn;
};

struct device_batch {
    struct device_item items[LANES];
    size_t count;
    struct med_backend_step out; /* its arrays alone */
};

struct device {
    bool blocks; /* without start and finish */
    pthread_t thread;
    pthread_mutex_t lock; /* of the rest */
    pthread_cond_t changed;
    struct device_batch batches[QUEUE]; /* number k in batches[k % QUEUE] */
    int64_t started, computed, finished;
    int64_t compute_max;                /* it stops before this one: the test holds it */
    int64_t step_ns;                    /* each takes at least so long */
    int64_t fail_start, fail_finish;    /* this call fails; -1: none */
    int64_t depth_max, after_failure;   /* calls */
    int64_t wrong_awaits, batch_of_new; /* that `new` was first in */
    int64_t prefills_behind;            /* another step */
    bool failed, quitting;
    const struct med_backend_sequence *new;
    struct med_rng rng;
};

static void compute(struct device *d, int64_t number)
{
    struct device_batch *b = &d->batches[number % QUEUE];
    for (size_t i = 0; i < b->count; i++) {
        struct device_item *item = &b->items[i];
        if (item->awaits)
            item->from = d->batches[(number - 1) % QUEUE].items[item->previous].drawn.token;
        if (item->samples)
            item->drawn = draw(item->from, item->place);
    }
}

static void *device_run(void *arg)
{
    struct device *d = arg;
    (void)pthread_mutex_lock(&d->lock);
    while (!d->quitting) {
        if (d->computed >= d->started || d->computed >= d->compute_max) {
            (void)pthread_cond_wait(&d->changed, &d->lock);
            continue;
        }
        uint32_t delay = med_rng_below(&d->rng, 4);
        int64_t step_ns = d->step_ns;
        (void)pthread_mutex_unlock(&d->lock);
        if (step_ns > 0) {
            (void)nanosleep(&(struct timespec){.tv_nsec = step_ns}, NULL);
        } else if (delay == 3) {
            (void)nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
        } else if (delay > 0) {
            (void)sched_yield();
        }
        (void)pthread_mutex_lock(&d->lock);
        compute(d, d->computed);
        d->computed++;
        (void)pthread_cond_broadcast(&d->changed);
    }
    (void)pthread_mutex_unlock(&d->lock);
    return NULL;
}

static int device_init(void *self, struct med_err *err)
{
    struct device *d = self;
    if (d->blocks)
        return 0;
    int rc = med_thread_start(&d->thread, "device", device_run, d);
    return rc < 0 ? med_err_set(err, rc, "no thread") : 0;
}

/* Copies all it needs: what is lent is lent for the call. */
static void take_batch(struct device *d, const struct med_backend_step *step)
{
    struct device_batch *b = &d->batches[d->started % QUEUE];
    MED_ASSERT(step->batch->count >= 1);
    MED_ASSERT(step->batch->count <= LANES);
    b->count = step->batch->count;
    b->out = *step;
    for (size_t i = 0; i < b->count; i++) {
        const struct med_batch_item *item = &step->batch->items[i];
        const struct med_backend_sequence *sequence = step->sequences[i];
        int64_t count = item->context + item->tokens;
        bool penalties = med_sampling_has_penalties(&sequence->sampling);
        d->wrong_awaits += item->awaits && (penalties || d->started - d->finished != 1);
        if (sequence == d->new && d->batch_of_new < 0)
            d->batch_of_new = d->started;
        b->items[i] = (struct device_item){.place = count,
                                           .samples = item->samples,
                                           .awaits = item->awaits,
                                           .previous = item->previous};
        if (!item->awaits) {
            b->items[i].from =
                penalties ? all_of(sequence->tokens, count) : sequence->tokens[count - 1];
        }
        step->sampled[i] = UINT32_MAX;
    }
    d->prefills_behind += d->started != d->finished && step->batch->load.prefill_tokens > 0;
    d->started++;
}

static void give_batch(struct device *d)
{
    const struct device_batch *b = &d->batches[d->finished % QUEUE];
    for (size_t i = 0; i < b->count; i++) {
        if (!b->items[i].samples)
            continue;
        b->out.failed[i] = b->items[i].drawn.failed;
        b->out.sampled[i] = b->items[i].drawn.token;
        b->out.stop[i] = b->items[i].drawn.stop;
    }
    d->finished++;
}

static int fail(struct device *d, const char *text, struct med_err *err)
{
    d->failed = true;
    (void)pthread_mutex_unlock(&d->lock);
    return med_err_set(err, MED_E_CUDA, "the device %s", text);
}

static int device_start(void *self, const struct med_backend_step *step, struct med_err *err)
{
    struct device *d = self;
    (void)pthread_mutex_lock(&d->lock);
    d->after_failure += d->failed;
    MED_ASSERT(d->started - d->finished < MED_BACKEND_STEPS);
    if (d->started == d->fail_start)
        return fail(d, "takes no more", err);
    take_batch(d, step);
    if (d->started - d->finished > d->depth_max)
        d->depth_max = d->started - d->finished;
    (void)pthread_cond_broadcast(&d->changed);
    (void)pthread_mutex_unlock(&d->lock);
    return 0;
}

static int device_finish(void *self, struct med_err *err)
{
    struct device *d = self;
    (void)pthread_mutex_lock(&d->lock);
    d->after_failure += d->failed;
    MED_ASSERT(d->finished < d->started);
    while (d->computed == d->finished)
        (void)pthread_cond_wait(&d->changed, &d->lock);
    if (d->finished == d->fail_finish)
        return fail(d, "fell off the bus", err);
    give_batch(d);
    (void)pthread_mutex_unlock(&d->lock);
    return 0;
}

static int device_step(void *self, const struct med_backend_step *step, struct med_err *err)
{
    struct device *d = self;
    (void)err;
    (void)pthread_mutex_lock(&d->lock);
    MED_ASSERT(d->blocks);
    take_batch(d, step);
    compute(d, d->computed++);
    give_batch(d);
    (void)pthread_mutex_unlock(&d->lock);
    return 0;
}

static void device_release(void *self)
{
    struct device *d = self;
    if (d->blocks)
        return;
    (void)pthread_mutex_lock(&d->lock);
    d->quitting = true;
    (void)pthread_cond_broadcast(&d->changed);
    (void)pthread_mutex_unlock(&d->lock);
    (void)pthread_join(d->thread, NULL);
}

static const struct med_backend_ops queueing = {.name = "queue",
                                                .init = device_init,
                                                .step = device_step,
                                                .start = device_start,
                                                .finish = device_finish,
                                                .release = device_release};
static const struct med_backend_ops blocking = {
    .name = "block", .init = device_init, .step = device_step, .release = device_release};

/* Lets it compute the batches before number `before`. */
static void device_let(struct device *d, int64_t before)
{
    (void)pthread_mutex_lock(&d->lock);
    d->compute_max = before;
    (void)pthread_cond_broadcast(&d->changed);
    (void)pthread_mutex_unlock(&d->lock);
}

static void device_await_started(struct device *d, int64_t count)
{
    (void)pthread_mutex_lock(&d->lock);
    while (d->started < count)
        (void)pthread_cond_wait(&d->changed, &d->lock);
    (void)pthread_mutex_unlock(&d->lock);
}

/* Waits for a batch to be under way that has none behind it; its number. */
static int64_t device_await_lone(struct device *d)
{
    (void)pthread_mutex_lock(&d->lock);
    while (d->started - d->computed != 1)
        (void)pthread_cond_wait(&d->changed, &d->lock);
    int64_t number = d->computed;
    (void)pthread_mutex_unlock(&d->lock);
    return number;
}

/* ---- the loop's side ------------------------------------------------------------------------ */

struct request {
    struct med_engine_request engine; /* first */
    uint32_t *truth;                  // [truths], tokens
    int64_t truths;
    enum med_engine_end end; /* unless it is cancelled, or the device fails */
    bool cancelled;
};

struct loop {
    struct device device;
    struct med_clock clock;
    struct med_engine *engine;
    pthread_mutex_t lock;
    pthread_cond_t woken;
    bool wake;
    int64_t held, begin_ns;
    uint64_t ends[MED_ENGINE_END_COUNT];
    uint64_t wrong_tokens, wrong_ends;
    uint64_t digest; /* of all that those got who were not cancelled, whatever the order */
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
                                                  .sequences_max = LANES,
                                                  .batched_tokens_max = 32,
                                                  .table_max = TABLE};

static void loop_init(struct loop *loop, const struct med_scheduler_config *config, bool blocks)
{
    *loop = (struct loop){.device = {.blocks = blocks,
                                     .compute_max = INT64_MAX,
                                     .fail_start = -1,
                                     .fail_finish = -1,
                                     .batch_of_new = -1}};
    (void)pthread_mutex_init(&loop->device.lock, NULL);
    (void)pthread_cond_init(&loop->device.changed, NULL);
    med_rng_init(&loop->device.rng, check_seed(), 77);
    (void)pthread_mutex_init(&loop->lock, NULL);
    (void)pthread_cond_init(&loop->woken, NULL);
    med_clock_init_real(&loop->clock, 1);
    loop->begin_ns = med_clock_now_ns(&loop->clock);
    struct med_engine_config engine = {
        .scheduler = *config,
        .backend = {.ops = blocks ? &blocking : &queueing, .self = &loop->device},
        .clock = &loop->clock,
        .wake = wake_loop,
        .wake_arg = loop,
    };
    struct med_err err = {0};
    int rc = med_engine_new(&engine, &loop->engine, &err);
    CHECK_STR(err.text, "");
    REQUIRE(rc == 0);
}

static struct med_engine_stats stats_of(struct loop *loop)
{
    struct med_engine_stats stats;
    med_engine_get_stats(loop->engine, &stats);
    return stats;
}

static void loop_release(struct loop *loop)
{
    CHECK_UINT(loop->wrong_tokens, 0);
    CHECK_UINT(loop->wrong_ends, 0);
    /* Steps one behind the other are not counted twice. */
    double elapsed_s = (double)(med_clock_now_ns(&loop->clock) - loop->begin_ns) / 1e9;
    CHECK(stats_of(loop).step_seconds <= elapsed_s);
    med_engine_free(loop->engine);
    device_release(&loop->device);
    CHECK_INT(loop->device.wrong_awaits, 0);
    CHECK_INT(loop->device.prefills_behind, 0);
    CHECK_INT(loop->device.after_failure, 0);
    if (!loop->device.failed)
        CHECK_INT(loop->device.finished, loop->device.started);
    (void)pthread_mutex_destroy(&loop->device.lock);
    (void)pthread_cond_destroy(&loop->device.changed);
    (void)pthread_mutex_destroy(&loop->lock);
    (void)pthread_cond_destroy(&loop->woken);
}

static void tell_truth(struct request *r)
{
    struct med_engine_request *e = &r->engine;
    uint32_t *tokens = r->truth;
    int64_t prompt = e->sequence.prompt_tokens;
    r->end = MED_ENGINE_LENGTH;
    while (r->truths < e->output_tokens_max && r->end == MED_ENGINE_LENGTH) {
        struct drawn drawn = draw_next(&e->sequence.sampling, tokens, prompt + r->truths);
        if (drawn.failed) {
            r->end = MED_ENGINE_FAILED;
            break;
        }
        tokens[prompt + r->truths++] = drawn.token;
        r->end = drawn.stop ? MED_ENGINE_STOP : r->end;
    }
}

/* first: the prompt's, which counts up from it. */
static struct request *request_new(int64_t prompt, int64_t output, uint32_t first, bool penalties)
{
    struct request *r = med_calloc(1, sizeof *r);
    REQUIRE(r != NULL);
    struct med_engine_request *e = &r->engine;
    e->tokens = med_calloc((size_t)(prompt + output), sizeof e->tokens[0]);
    r->truth = med_calloc((size_t)(prompt + output), sizeof r->truth[0]);
    REQUIRE(e->tokens && r->truth);
    for (int64_t i = 0; i < prompt; i++)
        e->tokens[i] = r->truth[i] = first + (uint32_t)i;
    e->sequence.prompt_tokens = prompt;
    e->sequence.sampling = med_sampling_default();
    if (penalties)
        e->sequence.sampling.frequency_penalty = 0.5F;
    e->output_tokens_max = output;
    tell_truth(r);
    return r;
}

/* The first that ends so, after a token at least. */
static struct request *request_first(int64_t prompt, int64_t output, enum med_engine_end end,
                                     bool penalties)
{
    for (uint32_t first = 1;; first++) {
        struct request *r = request_new(prompt, output, first, penalties);
        if (r->end == end && r->truths > 0)
            return r;
        med_free(r->engine.tokens);
        med_free(r->truth);
        med_free(r);
    }
}

static struct request *request_long(int64_t prompt, int64_t output, bool penalties)
{
    return request_first(prompt, output, MED_ENGINE_LENGTH, penalties);
}

static bool submit(struct loop *loop, struct request *r)
{
    r->engine.arrival_ns = med_clock_now_ns(&loop->clock);
    int rc = med_engine_submit(loop->engine, &r->engine);
    REQUIRE(rc == 0);
    loop->held++;
    return true;
}

static void cancel(struct loop *loop, struct request *r)
{
    r->cancelled = true;
    med_engine_cancel(loop->engine, &r->engine);
}

static void on_event(void *arg, const struct med_engine_event *event)
{
    struct loop *loop = arg;
    struct request *r = (struct request *)event->request;
    int64_t prompt = r->engine.sequence.prompt_tokens;
    loop->wrong_tokens += event->generated > r->truths;
    for (int64_t i = 0; i < event->generated && i < r->truths; i++)
        loop->wrong_tokens += r->engine.tokens[prompt + i] != r->truth[prompt + i];
    if (event->end == MED_ENGINE_GOES_ON)
        return;
    bool as_expected = event->end == r->end && event->generated == r->truths;
    loop->wrong_ends += !(as_expected || (event->end == MED_ENGINE_CANCEL && r->cancelled) ||
                          (event->end == MED_ENGINE_ERROR && loop->device.failed));
    if (!r->cancelled)
        loop->digest += all_of(r->engine.tokens, prompt + event->generated);
    loop->ends[event->end]++;
    loop->held--;
    med_free(r->engine.tokens);
    med_free(r->truth);
    med_free(r);
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

static void test_steps_when_the_backend_queues_then_one_is_started_behind_the_other(void)
{
    static struct loop loop;
    loop_init(&loop, &sizes, false);
    (void)submit(&loop, request_long(5, 30, false));
    drain(&loop, 0);
    CHECK_UINT(loop.ends[MED_ENGINE_LENGTH], 1);
    struct med_engine_stats stats = stats_of(&loop);
    CHECK_UINT(stats.scheduler.iterations, 30);
    CHECK_UINT(stats.scheduler.iterations_ahead, 29); /* all but the first */
    CHECK_UINT(stats.itl.count, 29);
    CHECK_INT(loop.device.depth_max, 2);
    loop_release(&loop);
}

static void test_steps_when_draws_need_the_token_before_then_they_are_not_queued(void)
{
    static struct loop loop;
    loop_init(&loop, &sizes, false);
    (void)submit(&loop, request_long(5, 30, true));
    drain(&loop, 0);
    CHECK_UINT(stats_of(&loop).scheduler.iterations_ahead, 0);
    CHECK_INT(loop.device.depth_max, 1);
    /* And others go on when it has ended. */
    (void)submit(&loop, request_long(5, 30, true));
    (void)submit(&loop, request_long(5, 40, false));
    drain(&loop, 0);
    CHECK(stats_of(&loop).scheduler.iterations_ahead >= 9);
    CHECK_UINT(loop.ends[MED_ENGINE_LENGTH], 3);
    loop_release(&loop);
}

static void test_submit_when_two_steps_are_under_way_then_it_is_in_the_next_one(void)
{
    static struct loop loop;
    loop_init(&loop, &sizes, false);
    device_let(&loop.device, 4);
    (void)submit(&loop, request_long(5, 30, false));
    device_await_started(&loop.device, 6); /* 4 is held, 5 is behind it */
    struct request *r = request_long(5, 3, false);
    (void)pthread_mutex_lock(&loop.device.lock);
    loop.device.new = &r->engine.sequence;
    (void)pthread_mutex_unlock(&loop.device.lock);
    (void)submit(&loop, r);
    device_let(&loop.device, INT64_MAX);
    drain(&loop, 0);
    CHECK_INT(loop.device.batch_of_new, 6);
    CHECK_UINT(loop.ends[MED_ENGINE_LENGTH], 2);
    loop_release(&loop);
}

/* Submits one while a batch of a known length runs; false: this thread came too late. */
static bool submit_in_mid_step(struct loop *loop)
{
    struct device *d = &loop->device;
    struct request *r = request_long(5, 1, false);
    int64_t running = device_await_lone(d);
    (void)nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    (void)pthread_mutex_lock(&d->lock);
    d->new = &r->engine.sequence;
    d->batch_of_new = -1;
    bool in_time = d->computed == running && d->started == running + 1;
    (void)pthread_mutex_unlock(&d->lock);
    (void)submit(loop, r);
    drain(loop, 1);
    (void)pthread_mutex_lock(&d->lock);
    in_time = in_time && d->batch_of_new == running + 1;
    d->new = NULL;
    (void)pthread_mutex_unlock(&d->lock);
    return in_time;
}

/* How this thread is scheduled decides how often; that it happens at all does not. */
static void test_submit_when_the_step_has_long_to_go_then_it_is_in_the_next_one(void)
{
    static struct loop loop;
    loop_init(&loop, &sizes, false);
    (void)pthread_mutex_lock(&loop.device.lock);
    loop.device.step_ns = 20000000;
    (void)pthread_mutex_unlock(&loop.device.lock);
    struct request *r = request_long(5, 150, false);
    (void)submit(&loop, r);
    device_await_started(&loop.device, 5);
    bool once = false;
    for (int i = 0; i < 20 && !once; i++)
        once = submit_in_mid_step(&loop);
    CHECK(once);
    cancel(&loop, r);
    drain(&loop, 0);
    CHECK(stats_of(&loop).scheduler.iterations_ahead > 0);
    loop_release(&loop);
}

static void test_cancel_when_two_steps_are_under_way_then_no_third_is_started_for_it(void)
{
    static struct loop loop;
    loop_init(&loop, &sizes, false);
    device_let(&loop.device, 4);
    struct request *r = request_long(5, 30, false);
    (void)submit(&loop, r);
    device_await_started(&loop.device, 6);
    cancel(&loop, r);
    device_let(&loop.device, INT64_MAX);
    drain(&loop, 0);
    CHECK_UINT(loop.ends[MED_ENGINE_CANCEL], 1);
    CHECK_UINT(stats_of(&loop).scheduler.iterations, 6);
    CHECK_INT(stats_of(&loop).scheduler.kv_blocks_free, 100);
    CHECK_INT(loop.device.started, 6);
    loop_release(&loop);
}

/* The cancel is taken while the step runs for which nothing can be drawn. */
static void test_cancel_when_nothing_can_be_drawn_either_then_ends_once_as_cancelled(void)
{
    static struct loop loop;
    loop_init(&loop, &sizes, false);
    struct request *r = request_first(5, 60, MED_ENGINE_FAILED, false);
    int64_t fails = r->truths; /* the step */
    REQUIRE(fails >= 1);
    device_let(&loop.device, fails - 1);
    (void)submit(&loop, r);
    device_await_started(&loop.device, fails + 1);
    cancel(&loop, r);
    device_let(&loop.device, INT64_MAX);
    drain(&loop, 0);
    CHECK_UINT(loop.ends[MED_ENGINE_CANCEL], 1);
    CHECK_INT(stats_of(&loop).scheduler.kv_blocks_free, 100);
    loop_release(&loop);
}

/* The engine is told to go while it has a step of nobody's. */
static void test_free_when_a_step_is_under_way_then_waits_for_it(void)
{
    for (uint32_t first = 0; first < 40; first++) {
        static struct loop loop;
        loop_init(&loop, &sizes, false);
        (void)submit(&loop, request_new(3, 100, first * 100, false)); /* mostly stops */
        drain(&loop, 0);
        loop_release(&loop);
    }
}

/* Which call fails, and what it says. */
static void fail_at(int64_t start, int64_t finish, const char *text)
{
    static struct loop loop;
    loop_init(&loop, &sizes, false);
    (void)pthread_mutex_lock(&loop.device.lock);
    loop.device.fail_start = start;
    loop.device.fail_finish = finish;
    (void)pthread_mutex_unlock(&loop.device.lock);
    for (int i = 0; i < 12; i++)
        (void)submit(&loop, request_long(5, 40, false));
    drain(&loop, 0);
    CHECK_UINT(loop.ends[MED_ENGINE_ERROR], 12);
    CHECK(stats_of(&loop).failed);
    struct med_err failure = {0};
    med_engine_failure(loop.engine, &failure);
    CHECK_INT(failure.code, MED_E_CUDA);
    CHECK_CONTAINS(failure.text, text);
    (void)submit(&loop, request_long(5, 5, false));
    drain(&loop, 0);
    CHECK_UINT(loop.ends[MED_ENGINE_ERROR], 13);
    loop_release(&loop);
}

static void test_start_when_it_fails_then_all_end_with_an_error_and_later_ones_too(void)
{
    for (int64_t call = 0; call < 12; call++)
        fail_at(call, -1, "takes no more");
}

static void test_finish_when_it_fails_then_all_end_with_an_error_and_later_ones_too(void)
{
    for (int64_t call = 0; call < 12; call++)
        fail_at(-1, call, "fell off the bus");
}

/* ---- torture -------------------------------------------------------------------------------- */

/* Returns the digest of those who were not cancelled. */
static uint64_t torture(const struct med_scheduler_config *config, bool blocks, uint64_t stream)
{
    enum {
        REQUESTS = 3000
    };
    static struct loop loop;
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), stream);
    loop_init(&loop, config, blocks);
    uint64_t submitted = 0, cancelled = 0;
    while (submitted < REQUESTS) {
        struct request *burst[8];
        int count = 0;
        for (uint32_t n = med_rng_below(&rng, 8); n > 0; n--) {
            int64_t prompt = 1 + med_rng_below(&rng, 50), output = 1 + med_rng_below(&rng, 80);
            uint32_t first = med_rng_below(&rng, 20);
            burst[count++] = request_new(prompt, output, first, med_rng_below(&rng, 50) == 0);
        }
        drain(&loop, TABLE - count);
        for (int i = 0; i < count; i++)
            submitted += submit(&loop, burst[i]);
        /* None of these can have been taken yet, so they may be named. */
        for (int i = 0; i < count; i++) {
            uint32_t chance = med_rng_below(&rng, 15), when = med_rng_below(&rng, 200000);
            if (chance < 3) {
                cancelled++;
                (void)nanosleep(&(struct timespec){.tv_nsec = (long)when}, NULL);
                cancel(&loop, burst[i]);
            }
        }
        if (med_rng_below(&rng, 3) == 0)
            med_engine_beat(loop.engine);
        drain(&loop, med_rng_below(&rng, TABLE));
    }
    drain(&loop, 0);
    CHECK_UINT(loop.ends[MED_ENGINE_STOP] + loop.ends[MED_ENGINE_LENGTH] +
                   loop.ends[MED_ENGINE_CANCEL] + loop.ends[MED_ENGINE_FAILED],
               submitted);
    CHECK(loop.ends[MED_ENGINE_STOP] > 100);
    CHECK(loop.ends[MED_ENGINE_FAILED] > 20);
    CHECK(cancelled > 100);
    struct med_engine_stats stats = stats_of(&loop);
    CHECK_INT(stats.scheduler.kv_blocks_free, stats.scheduler.kv_blocks_total);
    CHECK_UINT(stats.scheduler.finished_total, submitted);
    CHECK((stats.scheduler.iterations_ahead > 100) == !blocks);
    printf("%" PRIu64 " steps, %" PRIu64 " ahead, %" PRIu64 " preemptions; %" PRIu64
           " stopped, %" PRIu64 " failed, %" PRIu64 " cancelled\n",
           stats.scheduler.iterations, stats.scheduler.iterations_ahead,
           stats.scheduler.preemptions, loop.ends[MED_ENGINE_STOP], loop.ends[MED_ENGINE_FAILED],
           loop.ends[MED_ENGINE_CANCEL]);
    uint64_t digest = loop.digest;
    loop_release(&loop);
    return digest;
}

static void
test_torture_when_stopped_and_cancelled_at_random_then_tokens_are_those_of_blocking(void)
{
    uint64_t digest = torture(&sizes, true, 4);
    CHECK_UINT(torture(&sizes, false, 4), digest);
}

static void test_torture_when_the_cache_is_shared_and_tight_then_tokens_are_those_of_blocking(void)
{
    struct med_scheduler_config config = sizes;
    config.prefix_cache = true;
    config.kv_tokens = 240;
    uint64_t digest = torture(&config, true, 5);
    CHECK_UINT(torture(&config, false, 5), digest);
}

int main(void)
{
    RUN(test_steps_when_the_backend_queues_then_one_is_started_behind_the_other);
    RUN(test_steps_when_draws_need_the_token_before_then_they_are_not_queued);
    RUN(test_submit_when_two_steps_are_under_way_then_it_is_in_the_next_one);
    RUN(test_submit_when_the_step_has_long_to_go_then_it_is_in_the_next_one);
    RUN(test_cancel_when_two_steps_are_under_way_then_no_third_is_started_for_it);
    RUN(test_cancel_when_nothing_can_be_drawn_either_then_ends_once_as_cancelled);
    RUN(test_free_when_a_step_is_under_way_then_waits_for_it);
    RUN(test_start_when_it_fails_then_all_end_with_an_error_and_later_ones_too);
    RUN(test_finish_when_it_fails_then_all_end_with_an_error_and_later_ones_too);
    RUN(test_torture_when_stopped_and_cancelled_at_random_then_tokens_are_those_of_blocking);
    RUN(test_torture_when_the_cache_is_shared_and_tight_then_tokens_are_those_of_blocking);
    return check_finish();
}
