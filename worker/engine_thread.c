/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine thread (see engine_thread.h).
 *
 * Turn: take all mail; plan; step (the backend blocks); commit; announce.  With a backend that has
 * start, the next batch is planned and started before the oldest one is waited for, if it is one of
 * decodes alone: so the device has something to do while the host is between two steps.  That is done
 * shortly before the oldest one ends (engine_pace.h), with mail taken until then: a request that
 * arrives later waits for one step of decodes more than it would otherwise.
 * Without work the thread sleeps in its mailbox.  Work "became available" when the step before ended, or, after idleness,
 * when the request that ended the idleness arrived at the loop: the way from loop to engine is not
 * charged to an emulated device.
 *
 * Announcing is one atomic exchange per request and step.  If the request was not in the event mailbox
 * it is posted (the mailbox holds as many as there can be requests, so that cannot fail); if it was,
 * the loop will find the newer word when it gets there.  The loop may free a request once it finds
 * the end in the word and no cancel is under way, so nothing may touch the request after an
 * exchange that found it posted already.
 *
 * When a step fails the engine is dead: every request it holds and every later one ends with
 * MED_ENGINE_ERROR, the loop is woken, and the process is expected to leave.
 *
 * thread: engine_run and what it calls: engine; med_engine_*: the loop.  Counters and histograms are
 * under a lock that the engine takes once per step.  It allocates nothing per step.
 */
#include "worker/engine_thread.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/thread.h"
#include "worker/engine_measure.h"
#include "worker/engine_pace.h"
#include "worker/engine_stats.h"
#include "worker/engine_step.h"

#include <math.h>
#include <string.h>

#define STATE_POSTED       (UINT64_C(1) << 40) /* in the event mailbox */
#define STATE_CANCEL_TAKEN (UINT64_C(1) << 41) /* the engine has done with request->cancel */

#define SLEEP_MAX_NS       3.6e12 /* of one timed wait; then it looks again */
#define WAKE_REAL_NS       150e3  /* a timed wait ends at most so much late, until more is known */
#define DONE_REAL_NS       20e3   /* whoever waits no longer for a step found it done */

enum {
    END_SHIFT = 32,
    END_MASK = 0xff
};

struct med_engine {
    struct med_engine_config config;
    pthread_t thread;
    struct med_mailbox commands; /* of struct med_engine_command.message */
    struct med_mailbox events;   /* of struct med_engine_request.shared.event */

    /* thread: loop */
    uint64_t serial_last;
    int64_t with_engine; /* requests submitted whose end was not taken */
    struct med_engine_command quit;

    /* thread: engine */
    struct med_scheduler *scheduler;
    struct med_engine_request *first; /* not ended */
    struct med_engine_step steps[MED_BACKEND_STEPS];
    int oldest, under_way; /* steps[oldest], and the others behind it */
    struct med_engine_pace pace;
    int64_t since_ns;     /* fleet time that is not in stats.step_seconds yet */
    int64_t available_ns; /* for the next step; 0: since the step before */
    bool quitting, failed;
    struct med_measure *measure; /* that is under way; NULL: none */
    bool news;                   /* something was announced since the loop was woken */

    struct {
        struct med_engine_command beat;
        atomic_bool beat_posted;           /* whoever sets it posts; acq_rel hands `beat` over */
        atomic_int_least64_t heartbeat_ns; /* a gauge: relaxed */
        _Atomic(struct med_measure *) measured; /* is back; acq_rel hands it over */
        pthread_mutex_t lock;                   /* of the rest */
        pthread_cond_t started;
        bool is_started;
        struct med_err failure; /* code 0: none */
        struct med_engine_stats stats;
    } shared;
};

static void lock(struct med_engine *engine)
{
    MED_ASSERT(pthread_mutex_lock(&engine->shared.lock) == 0);
}

static void unlock(struct med_engine *engine)
{
    MED_ASSERT(pthread_mutex_unlock(&engine->shared.lock) == 0);
}

/* ---- engine side ---------------------------------------------------------------------------- */

static void beat(struct med_engine *engine, int64_t now_ns)
{
    atomic_store_explicit(&engine->shared.heartbeat_ns, now_ns, memory_order_relaxed);
}

/* Tells the loop; the request may be gone when this returns, if it has ended. */
static void announce(struct med_engine *engine, struct med_engine_request *request)
{
    uint64_t state = (uint64_t)request->generated | (uint64_t)request->end << END_SHIFT |
                     (request->cancel_taken ? STATE_CANCEL_TAKEN : 0) | STATE_POSTED;
    atomic_store_explicit(&request->shared.at_ns, request->last_token_ns, memory_order_relaxed);
    uint64_t before = atomic_exchange_explicit(&request->shared.state, state, memory_order_acq_rel);
    engine->news = true;
    if (before & STATE_POSTED)
        return;
    int rc = med_mailbox_post(&engine->events, &request->shared.event);
    MED_ASSERT(rc == 0);
}

static void end_request(struct med_engine *engine, struct med_engine_request *request,
                        enum med_engine_end end)
{
    MED_ASSERT(request->end == MED_ENGINE_GOES_ON);
    request->end = end;
    if (request->prev) {
        request->prev->next = request->next;
    } else {
        engine->first = request->next;
    }
    if (request->next)
        request->next->prev = request->prev;
}

static void fail_request(struct med_engine *engine, struct med_engine_request *request)
{
    end_request(engine, request, MED_ENGINE_ERROR);
    lock(engine);
    engine->shared.stats.ends[MED_ENGINE_ERROR]++;
    unlock(engine);
    announce(engine, request);
}

/* Gives the measurement back to the loop. */
static void end_measure(struct med_engine *engine)
{
    atomic_store_explicit(&engine->shared.measured, engine->measure, memory_order_release);
    engine->measure = NULL;
    engine->news = true;
}

static void fail_all(struct med_engine *engine, const struct med_err *err)
{
    engine->failed = true;
    lock(engine);
    engine->shared.failure = *err;
    engine->shared.stats.failed = true;
    unlock(engine);
    while (engine->first)
        fail_request(engine, engine->first);
    if (engine->measure) {
        med_measure_fail(engine->measure, err);
        end_measure(engine);
    }
}

static void take_submit(struct med_engine *engine, struct med_engine_request *request, bool idle)
{
    request->next = engine->first;
    if (request->next)
        request->next->prev = request;
    engine->first = request;
    if (engine->failed) {
        fail_request(engine, request);
        return;
    }
    struct med_sequence_spec spec = {.id = request->serial,
                                     .prompt_tokens = request->sequence.prompt_tokens,
                                     .output_tokens_max = request->output_tokens_max,
                                     .output_tokens = request->output_tokens,
                                     .user = request,
                                     .arrival_ns = request->arrival_ns,
                                     .tokens = request->tokens};
    int rc = med_scheduler_add(engine->scheduler, &spec);
    MED_ASSERT(rc == 0); /* submit has checked the size, and counted */
    if (idle && request->arrival_ns > engine->available_ns)
        engine->available_ns = request->arrival_ns;
}

static void take_cancel(struct med_engine *engine, struct med_engine_request *request)
{
    if (request->end == MED_ENGINE_GOES_ON) {
        int rc = med_scheduler_cancel(engine->scheduler, request->serial);
        MED_ASSERT(rc == 0);
    }
    request->cancel_taken = true;
    announce(engine, request);
}

static void take_measure(struct med_engine *engine, struct med_measure *measure)
{
    MED_ASSERT(!engine->measure);
    engine->measure = measure;
    if (!engine->failed) {
        engine->available_ns = med_clock_now_ns(engine->config.clock);
        return;
    }
    struct med_err failure;
    lock(engine);
    failure = engine->shared.failure;
    unlock(engine);
    med_measure_fail(measure, &failure);
    end_measure(engine);
}

static void take_mail(struct med_engine *engine, struct med_message *message, bool idle)
{
    while (message) {
        struct med_engine_command *command = (struct med_engine_command *)message;
        message = message->next;
        switch (command->kind) {
        case MED_ENGINE_COMMAND_SUBMIT:
            take_submit(engine, command->request, idle);
            break;
        case MED_ENGINE_COMMAND_CANCEL:
            take_cancel(engine, command->request);
            break;
        case MED_ENGINE_COMMAND_MEASURE:
            take_measure(engine, command->measure);
            break;
        case MED_ENGINE_COMMAND_BEAT:
            /* The turn itself beats. */
            atomic_store_explicit(&engine->shared.beat_posted, false, memory_order_release);
            break;
        case MED_ENGINE_COMMAND_QUIT:
            engine->quitting = true;
            break;
        }
    }
}

static void take_event_locked(struct med_engine *engine, const struct med_sequence_event *event,
                              int64_t now_ns)
{
    static const enum med_engine_end ends[] = {[MED_END_NONE] = MED_ENGINE_GOES_ON,
                                               [MED_END_STOP] = MED_ENGINE_STOP,
                                               [MED_END_LENGTH] = MED_ENGINE_LENGTH,
                                               [MED_END_CANCEL] = MED_ENGINE_CANCEL};
    struct med_engine_stats *stats = &engine->shared.stats;
    struct med_engine_request *request = event->user;
    if (request->measure) {
        med_measure_event(event);
        return;
    }
    if (event->position >= 0) {
        MED_ASSERT(event->position == request->generated);
        request->generated++;
        if (event->position == request->output_tokens) {
            request->first_token_ns = now_ns;
            request->cached_prompt_tokens = event->cached_prompt_tokens;
        }
        med_engine_stats_token(stats, request, now_ns);
        request->last_token_ns = now_ns;
    }
    if (event->end != MED_END_NONE) {
        end_request(engine, request, request->failing ? MED_ENGINE_FAILED : ends[event->end]);
        med_engine_stats_end(stats, request, now_ns);
    }
}

static int start_step(struct med_engine *engine, const struct med_batch *batch, struct med_err *err)
{
    MED_ASSERT(engine->under_way < MED_BACKEND_STEPS);
    struct med_engine_step *step =
        &engine->steps[(engine->oldest + engine->under_way) % MED_BACKEND_STEPS];
    engine->under_way++;
    int64_t available_ns = engine->available_ns;
    engine->available_ns = 0;
    return med_engine_step_start(step, &engine->config.backend, batch,
                                 med_clock_now_ns(engine->config.clock), available_ns, err);
}

/* Starts the step behind the one under way, if its batch can be planned already. */
static int start_ahead(struct med_engine *engine, struct med_err *err)
{
    const struct med_engine_step *before = &engine->steps[engine->oldest];
    if (!engine->config.backend.ops->start || before->is_waited_for)
        return 0;
    int64_t begin_ns = med_clock_now_ns(engine->config.clock);
    const struct med_batch *batch = med_scheduler_plan_ahead(engine->scheduler, begin_ns, true);
    if (!batch)
        return 0;
    int rc = start_step(engine, batch, err);
    med_engine_pace_prepared(&engine->pace, med_clock_now_ns(engine->config.clock) - begin_ns);
    return rc;
}

/* Waits for the oldest step; its out arrays hold until the one after next is started. */
static int finish_step(struct med_engine *engine, const bool **ret_stops, struct med_err *err)
{
    struct med_engine_step *step = &engine->steps[engine->oldest];
    int64_t from_ns = med_clock_now_ns(engine->config.clock);
    int rc = med_engine_step_finish(step, &engine->config.backend, err);
    if (rc < 0)
        return rc;
    int64_t now_ns = med_clock_now_ns(engine->config.clock);
    const struct med_step_load *load = &step->given.batch->load;
    if ((double)(now_ns - from_ns) > DONE_REAL_NS * engine->config.clock->scale) {
        med_engine_pace_step(&engine->pace, load, now_ns - engine->since_ns);
    } else {
        med_engine_pace_missed(&engine->pace);
    }
    med_engine_step_keep(step, engine->scheduler);
    if (engine->measure)
        med_measure_step(engine->measure, load, step->ended_ns > 0 ? step->ended_ns : now_ns);
    engine->oldest = (engine->oldest + 1) % MED_BACKEND_STEPS;
    engine->under_way--;
    *ret_stops = step->stops;
    return 0;
}

/* When to plan the step behind the one that runs.  Nobody arrives between a measurement's steps. */
static int64_t next_ahead_ns(const struct med_engine *engine)
{
    const struct med_engine_step *step = &engine->steps[engine->oldest];
    if (!engine->config.backend.ops->start || step->is_waited_for || engine->quitting ||
        engine->measure)
        return INT64_MIN;
    double wake_ns = WAKE_REAL_NS * engine->config.clock->scale;
    const struct med_step_load *running = &step->given.batch->load;
    return engine->since_ns + med_engine_pace_wait_ns(&engine->pace, running, (int64_t)wake_ns);
}

/* Plan and start, unless a step is under way; then maybe the next one, and the end of the oldest.  false:
 * started alone, there is mail to wait for before the next one.  The stops of an empty batch are NULL. */
static int compute(struct med_engine *engine, bool *ret_finished, const bool **ret_stops,
                   struct med_err *err)
{
    *ret_stops = NULL;
    *ret_finished = true;
    if (engine->under_way == 0) {
        engine->since_ns = med_clock_now_ns(engine->config.clock);
        const struct med_batch *batch = med_scheduler_plan(engine->scheduler, engine->since_ns);
        if (batch->count == 0)
            return 0;
        int rc = start_step(engine, batch, err);
        if (rc < 0)
            return rc;
        if (next_ahead_ns(engine) > med_clock_now_ns(engine->config.clock)) {
            *ret_finished = false;
            return 0;
        }
    }
    int rc = start_ahead(engine, err);
    return rc == 0 ? finish_step(engine, ret_stops, err) : rc;
}

/* Commits the oldest step and announces what came of it. */
static void commit(struct med_engine *engine, const bool *stops)
{
    int64_t now_ns = med_clock_now_ns(engine->config.clock);
    const struct med_sequence_event *events;
    size_t count = med_scheduler_commit(engine->scheduler, stops, &events);
    lock(engine);
    for (size_t i = 0; i < count; i++)
        take_event_locked(engine, &events[i], now_ns);
    med_engine_stats_step(&engine->shared.stats, now_ns - engine->since_ns);
    med_scheduler_get_stats(engine->scheduler, &engine->shared.stats.scheduler);
    unlock(engine);
    engine->since_ns = now_ns;
    for (size_t i = 0; i < count; i++) {
        struct med_engine_request *request = events[i].user;
        if (!request->measure)
            announce(engine, request);
    }
}

static void turn(struct med_engine *engine)
{
    struct med_err err = {0};
    const bool *stops;
    bool finished;
    if (compute(engine, &finished, &stops, &err) < 0) {
        engine->under_way = 0; /* nobody will wait for them */
        fail_all(engine, &err);
    } else if (finished) {
        commit(engine, stops);
    }
}

static void report_start(struct med_engine *engine, const struct med_err *failure)
{
    lock(engine);
    engine->shared.failure = *failure;
    engine->shared.is_started = true;
    MED_ASSERT(pthread_cond_signal(&engine->shared.started) == 0);
    unlock(engine);
}

/* As med_scheduler_next_ns; a dead engine waits for mail alone. */
static int64_t next_turn_ns(const struct med_engine *engine)
{
    if (engine->measure && !engine->first)
        return INT64_MIN; /* it always wants something */
    if (engine->failed)
        return INT64_MAX;
    return engine->under_way > 0 ? next_ahead_ns(engine) : med_scheduler_next_ns(engine->scheduler);
}

/* Takes the mail, sleeping for it until fleet time next_ns. */
static struct med_message *wait_mail(struct med_engine *engine, int64_t next_ns)
{
    if (next_ns == INT64_MAX)
        return med_mailbox_wait(&engine->commands, INT64_MAX);
    int64_t left_ns = 0;
    if (next_ns != INT64_MIN)
        left_ns = next_ns - med_clock_now_ns(engine->config.clock);
    if (left_ns <= 0)
        return med_mailbox_take(&engine->commands);
    /* The mailbox knows real time alone. Rounded up: a turn too early would only wait again. */
    struct med_clock real;
    med_clock_init_real(&real, 1);
    double real_ns = fmin(ceil((double)left_ns / engine->config.clock->scale), SLEEP_MAX_NS);
    return med_mailbox_wait(&engine->commands, med_clock_now_ns(&real) + (int64_t)real_ns);
}

static void *engine_run(void *arg)
{
    struct med_engine *engine = arg;
    struct med_err failure = {0};
    int rc = engine->config.backend.ops->init(engine->config.backend.self, &failure);
    if (rc < 0) {
        if (failure.code == 0)
            (void)med_err_set(&failure, rc, "%s", med_err_text(rc));
        report_start(engine, &failure);
        return NULL;
    }
    beat(engine, med_clock_now_ns(engine->config.clock));
    report_start(engine, &failure);
    while (!engine->quitting) {
        int64_t next_ns = next_turn_ns(engine);
        bool sleeps = next_ns != INT64_MAX && next_ns > med_clock_now_ns(engine->config.clock);
        struct med_message *mail = wait_mail(engine, next_ns);
        int64_t now_ns = med_clock_now_ns(engine->config.clock);
        if (sleeps && engine->under_way > 0 && now_ns > next_ns)
            med_engine_pace_woke(&engine->pace, now_ns - next_ns);
        if (!engine->failed)
            beat(engine, now_ns);
        /* Work that a batch waited for became available when it was due. */
        bool idle = engine->under_way == 0 && next_ns != INT64_MIN;
        if (idle && next_ns <= now_ns && next_ns > engine->available_ns)
            engine->available_ns = next_ns;
        take_mail(engine, mail, idle);
        /* Requests that it found end first. */
        if (engine->measure && !engine->first &&
            med_measure_feed(engine->measure, engine->scheduler))
            end_measure(engine);
        if (next_turn_ns(engine) <= now_ns)
            turn(engine);
        if (engine->news)
            engine->config.wake(engine->config.wake_arg);
        engine->news = false;
    }
    MED_ASSERT(engine->under_way == 0); /* the last turn has waited for what was left */
    return NULL;
}

/* ---- loop side ------------------------------------------------------------------------------ */

static int allocate(struct med_engine *engine, struct med_err *err)
{
    const struct med_scheduler_config *c = &engine->config.scheduler;
    int rc = med_scheduler_new(c, &engine->scheduler, err);
    if (rc < 0)
        return rc;
    for (int i = 0; i < MED_BACKEND_STEPS; i++) {
        if (med_engine_step_init(&engine->steps[i], c->sequences_max) < 0) {
            return med_err_set(err, MED_E_NOMEM, "engine: no memory for a batch of %lld sequences",
                               (long long)c->sequences_max);
        }
    }
    return 0;
}

static void free_memory(struct med_engine *engine)
{
    med_scheduler_free(engine->scheduler);
    for (int i = 0; i < MED_BACKEND_STEPS; i++)
        med_engine_step_release(&engine->steps[i]);
    med_free(engine);
}

/* Releases what init_shared made; the boxes are empty. */
static void release_shared(struct med_engine *engine)
{
    med_mailbox_release(&engine->commands);
    med_mailbox_release(&engine->events);
    MED_ASSERT(pthread_cond_destroy(&engine->shared.started) == 0);
    MED_ASSERT(pthread_mutex_destroy(&engine->shared.lock) == 0);
}

static void init_shared(struct med_engine *engine)
{
    size_t requests_max = (size_t)engine->config.scheduler.table_max;
    /* A submit and a cancel each, a measurement, a beat and the end. */
    med_mailbox_init(&engine->commands, 2 * requests_max + 3, NULL, NULL);
    med_mailbox_init(&engine->events, requests_max, NULL, NULL);
    MED_ASSERT(pthread_mutex_init(&engine->shared.lock, NULL) == 0);
    MED_ASSERT(pthread_cond_init(&engine->shared.started, NULL) == 0);
    atomic_init(&engine->shared.beat_posted, false);
    atomic_init(&engine->shared.heartbeat_ns, 0);
    atomic_init(&engine->shared.measured, NULL);
    engine->shared.beat.kind = MED_ENGINE_COMMAND_BEAT;
    engine->quit.kind = MED_ENGINE_COMMAND_QUIT;
}

/* Waits for the backend's init. */
static int await_start(struct med_engine *engine, struct med_err *err)
{
    lock(engine);
    while (!engine->shared.is_started)
        MED_ASSERT(pthread_cond_wait(&engine->shared.started, &engine->shared.lock) == 0);
    struct med_err failure = engine->shared.failure;
    unlock(engine);
    if (failure.code == 0)
        return 0;
    MED_ASSERT(pthread_join(engine->thread, NULL) == 0);
    if (err)
        *err = failure;
    return failure.code;
}

int med_engine_new(const struct med_engine_config *config, struct med_engine **ret_engine,
                   struct med_err *err)
{
    struct med_engine *engine = med_calloc(1, sizeof *engine);
    if (!engine)
        return med_err_set(err, MED_E_NOMEM, "engine: no memory");
    engine->config = *config;
    if (engine->config.scheduler.prefix_seed == 0) {
        /* Hard to guess from outside is enough: see prefix_cache.c. */
        engine->config.scheduler.prefix_seed =
            (uint64_t)med_clock_unix_ns() ^ ((uint64_t)(uintptr_t)engine << 20);
    }
    int rc = allocate(engine, err);
    if (rc < 0) {
        free_memory(engine);
        return rc;
    }
    med_engine_stats_init(&engine->shared.stats, &engine->config);
    med_scheduler_get_stats(engine->scheduler, &engine->shared.stats.scheduler);
    init_shared(engine);
    rc = med_thread_start(&engine->thread, "engine", engine_run, engine);
    if (rc < 0) {
        rc = med_err_set(err, rc, "engine: cannot start its thread");
    } else {
        rc = await_start(engine, err);
    }
    if (rc < 0) {
        release_shared(engine);
        free_memory(engine);
        return rc;
    }
    *ret_engine = engine;
    return 0;
}

static void post(struct med_engine *engine, struct med_engine_command *command)
{
    int rc = med_mailbox_post(&engine->commands, &command->message);
    MED_ASSERT(rc == 0); /* sized for all there can be */
}

void med_engine_free(struct med_engine *engine)
{
    if (!engine)
        return;
    MED_ASSERT(engine->with_engine == 0);
    post(engine, &engine->quit);
    MED_ASSERT(pthread_join(engine->thread, NULL) == 0);
    /* A beat may have come after the end. */
    (void)med_mailbox_take(&engine->commands);
    release_shared(engine);
    free_memory(engine);
}

int med_engine_submit(struct med_engine *engine, struct med_engine_request *request)
{
    const struct med_scheduler_config *c = &engine->config.scheduler;
    int64_t room = c->kv_tokens / c->block_tokens * c->block_tokens;
    if (room > c->model_len_max)
        room = c->model_len_max;
    int64_t prompt = request->sequence.prompt_tokens;
    if (prompt < 1 || prompt > room || request->output_tokens_max < 1 ||
        request->output_tokens_max > room - prompt || request->output_tokens < 0 ||
        request->output_tokens >= request->output_tokens_max)
        return MED_E_INVALID;
    if (engine->with_engine >= c->table_max)
        return MED_E_AGAIN;
    engine->with_engine++;
    request->serial = ++engine->serial_last;
    request->sequence.tokens = request->tokens;
    request->cancelling = false;
    request->submit =
        (struct med_engine_command){.kind = MED_ENGINE_COMMAND_SUBMIT, .request = request};
    request->measure = NULL;
    request->generated = request->output_tokens;
    request->cached_prompt_tokens = 0;
    request->end = MED_ENGINE_GOES_ON;
    request->cancel_taken = false;
    request->failing = false;
    request->scheduled_ns = request->first_token_ns = request->last_token_ns = 0;
    request->next = request->prev = NULL;
    atomic_init(&request->shared.state, (uint64_t)request->generated);
    atomic_init(&request->shared.at_ns, 0);
    post(engine, &request->submit);
    return 0;
}

void med_engine_cancel(struct med_engine *engine, struct med_engine_request *request)
{
    if (request->cancelling)
        return;
    request->cancelling = true;
    request->cancel =
        (struct med_engine_command){.kind = MED_ENGINE_COMMAND_CANCEL, .request = request};
    post(engine, &request->cancel);
}

void med_engine_measure(struct med_engine *engine, struct med_measure *measure)
{
    measure->command =
        (struct med_engine_command){.kind = MED_ENGINE_COMMAND_MEASURE, .measure = measure};
    post(engine, &measure->command);
}

struct med_measure *med_engine_take_measure(struct med_engine *engine)
{
    return atomic_exchange_explicit(&engine->shared.measured, NULL, memory_order_acq_rel);
}

void med_engine_beat(struct med_engine *engine)
{
    if (!atomic_exchange_explicit(&engine->shared.beat_posted, true, memory_order_acq_rel))
        post(engine, &engine->shared.beat);
}

void med_engine_take_events(struct med_engine *engine,
                            void (*on_event)(void *arg, const struct med_engine_event *event),
                            void *arg)
{
    struct med_message *message = med_mailbox_take(&engine->events);
    while (message) {
        struct med_engine_request *request =
            (struct med_engine_request *)((char *)message -
                                          offsetof(struct med_engine_request, shared.event));
        message = message->next; /* before the engine may post it again */
        uint64_t state =
            atomic_fetch_and_explicit(&request->shared.state, ~STATE_POSTED, memory_order_acq_rel);
        struct med_engine_event event = {
            .request = request,
            .generated = (int64_t)(state & UINT32_MAX),
            .at_ns = atomic_load_explicit(&request->shared.at_ns, memory_order_relaxed),
            .end = (enum med_engine_end)((state >> END_SHIFT) & END_MASK),
        };
        if (event.generated >
            request->output_tokens) /* ordered by the exchange that announced a token */
            event.cached_prompt_tokens = request->cached_prompt_tokens;
        /* The engine will still take the cancel out of its mailbox, and announce that. */
        if (request->cancelling && !(state & STATE_CANCEL_TAKEN))
            event.end = MED_ENGINE_GOES_ON;
        if (event.end != MED_ENGINE_GOES_ON) {
            MED_ASSERT(engine->with_engine > 0);
            engine->with_engine--;
        }
        on_event(arg, &event);
    }
}

void med_engine_get_stats(struct med_engine *engine, struct med_engine_stats *ret_stats)
{
    lock(engine);
    *ret_stats = engine->shared.stats;
    unlock(engine);
    ret_stats->heartbeat_ns =
        atomic_load_explicit(&engine->shared.heartbeat_ns, memory_order_relaxed);
}

void med_engine_failure(struct med_engine *engine, struct med_err *ret_err)
{
    lock(engine);
    *ret_err = engine->shared.failure;
    unlock(engine);
}
