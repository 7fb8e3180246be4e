/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batches planned while the one before runs: each rule as a case, then random submits, cancels, stops,
 * preemptions and prefix hits against a model of a device that computes late.
 *
 * The device has a queue of batches, copies what start is given, and runs it, in order, at a random moment
 * before it is waited for.  Its cells hold the history that was computed there; a token is drawn from
 * all cells of a sequence.  So every sequence must draw what it would draw alone, whoever was
 * planned beside it and when.
 */
#include "worker/engine/scheduler.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "tests/check.h"

#include <inttypes.h>
#include <string.h>

static const struct med_scheduler_config small = {.block_tokens = 4,
                                                  .kv_tokens = 64,
                                                  .model_len_max = 64,
                                                  .sequences_max = 4,
                                                  .batched_tokens_max = 32,
                                                  .table_max = 8};

static struct med_scheduler *make(const struct med_scheduler_config *config)
{
    struct med_scheduler *s = NULL;
    struct med_err err = {0};
    int rc = med_scheduler_new(config, &s, &err);
    CHECK_STR(err.text, "");
    REQUIRE(rc == 0);
    return s;
}

static struct med_scheduler_stats stats_of(const struct med_scheduler *s)
{
    struct med_scheduler_stats stats;
    med_scheduler_get_stats(s, &stats);
    return stats;
}

static void add(struct med_scheduler *s, uint64_t id, int64_t prompt, int64_t output)
{
    struct med_sequence_spec spec = {
        .id = id, .prompt_tokens = prompt, .output_tokens_max = output, .user = s};
    CHECK_INT(med_scheduler_add(s, &spec), 0);
}

static const struct med_batch *plan(struct med_scheduler *s, size_t count)
{
    const struct med_batch *batch = med_scheduler_plan(s, 0);
    med_scheduler_check(s);
    REQUIRE(batch->count == count);
    return batch;
}

/* count 0: there is none. */
static const struct med_batch *plan_ahead(struct med_scheduler *s, bool decodes_alone, size_t count)
{
    const struct med_batch *batch = med_scheduler_plan_ahead(s, 0, decodes_alone);
    med_scheduler_check(s);
    REQUIRE((batch ? batch->count : 0) == count);
    return batch;
}

static const struct med_sequence_event *commit(struct med_scheduler *s, const bool *stop,
                                               size_t count)
{
    const struct med_sequence_event *events;
    CHECK_UINT(med_scheduler_commit(s, stop, &events), count);
    med_scheduler_check(s);
    return events;
}

/* ---- cases ---------------------------------------------------------------------------------- */

static void test_ahead_when_a_prefill_runs_then_its_decode_awaits_what_it_samples(void)
{
    struct med_scheduler *s = make(&small);
    add(s, 1, 5, 9);
    add(s, 2, 6, 9);
    (void)plan(s, 2);
    const struct med_batch *batch = plan_ahead(s, true, 2);
    for (int i = 0; i < 2; i++) {
        CHECK(batch->items[i].awaits);
        CHECK_INT(batch->items[i].previous, i);
        CHECK(!batch->items[i].prefill);
        CHECK(batch->items[i].samples);
        CHECK_INT(batch->items[i].context, 5 + i);
        CHECK_INT(batch->items[i].position, 1);
    }
    CHECK_INT(batch->load.decode_sequences, 2);
    CHECK_INT(batch->load.decode_context_tokens, 11);
    const struct med_sequence_event *events = commit(s, NULL, 2);
    CHECK_INT(events[0].position, 0);
    CHECK_INT(events[1].position, 0);
    CHECK_UINT(stats_of(s).generated_tokens_total, 2);
    events = commit(s, NULL, 2);
    CHECK_INT(events[0].position, 1);
    /* Planned after its commit, a token is known. */
    batch = plan(s, 2);
    CHECK(!batch->items[0].awaits);
    CHECK_INT(batch->items[0].position, 2);
    CHECK_UINT(stats_of(s).iterations_ahead, 1);
    med_scheduler_free(s);
}

static void test_ahead_when_an_item_stops_then_its_next_is_dead_and_told_of_once(void)
{
    struct med_scheduler *s = make(&small);
    add(s, 1, 4, 20);
    add(s, 2, 4, 20);
    (void)plan(s, 2);
    const struct med_batch *batch = plan_ahead(s, true, 2);
    const struct med_sequence_event *events = commit(s, (const bool[]){true, false}, 2);
    CHECK_INT(events[0].end, MED_END_STOP);
    CHECK_INT(events[1].end, MED_END_NONE);
    CHECK(batch->items[0].ended);
    CHECK(!batch->items[0].user);
    CHECK(!batch->items[1].ended);
    CHECK(batch->items[1].user == s);
    CHECK_INT(stats_of(s).kv_blocks_free, 14); /* its blocks are back */
    batch = plan_ahead(s, true, 1);
    CHECK_UINT(batch->items[0].id, 2);
    CHECK_INT(batch->items[0].previous, 1); /* behind the dead one */
    events = commit(s, (const bool[]){true, true}, 1);
    CHECK_UINT(events[0].id, 2);
    CHECK_INT(events[0].end, MED_END_STOP);
    CHECK(med_scheduler_has_work(s)); /* a batch of the dead */
    CHECK_INT(med_scheduler_next_ns(s), INT64_MIN);
    (void)plan_ahead(s, true, 0);
    (void)commit(s, (const bool[]){true}, 0);
    CHECK(!med_scheduler_has_work(s));
    CHECK_UINT(stats_of(s).finished_total, 2);
    CHECK_INT(stats_of(s).kv_blocks_free, 16);
    med_scheduler_free(s);
}

static void test_ahead_when_a_sequence_ends_by_length_then_it_is_left_out(void)
{
    struct med_scheduler *s = make(&small);
    add(s, 1, 4, 1);
    add(s, 2, 4, 2);
    (void)plan(s, 2);
    const struct med_batch *batch = plan_ahead(s, true, 1);
    CHECK_UINT(batch->items[0].id, 2);
    CHECK_INT(batch->items[0].previous, 1);
    CHECK_INT(commit(s, NULL, 2)[0].end, MED_END_LENGTH);
    (void)plan_ahead(s, true, 0); /* it would be empty */
    CHECK_INT(commit(s, NULL, 1)[0].end, MED_END_LENGTH);
    CHECK(!med_scheduler_has_work(s));
    med_scheduler_free(s);
}

static void test_ahead_when_blocks_are_short_then_it_waits_and_nobody_is_preempted_for_it(void)
{
    struct med_scheduler_config config = small;
    config.kv_tokens = 12;
    config.model_len_max = 12;
    struct med_scheduler *s = make(&config);
    add(s, 1, 4, 8);
    add(s, 2, 3, 5);
    (void)plan(s, 2);
    (void)plan_ahead(s, true, 2); /* the first takes the last block */
    (void)commit(s, NULL, 2);
    (void)plan_ahead(s, true, 0); /* the second lacks one */
    CHECK_UINT(stats_of(s).preemptions, 0);
    (void)commit(s, NULL, 2);
    const struct med_batch *batch = plan(s, 1);
    CHECK_UINT(batch->items[0].id, 1);
    CHECK_UINT(stats_of(s).preemptions, 1);
    med_scheduler_free(s);
}

static void test_ahead_when_a_prefill_is_due_then_decodes_alone_wait(void)
{
    struct med_scheduler_config config = small;
    config.batched_tokens_max = 8;
    struct med_scheduler *s = make(&config);
    add(s, 1, 4, 20);
    (void)plan(s, 1);
    (void)plan_ahead(s, true, 1);
    (void)commit(s, NULL, 1);
    add(s, 2, 10, 20); /* it could be admitted */
    (void)plan_ahead(s, true, 0);
    const struct med_batch *batch = plan_ahead(s, false, 2);
    CHECK(batch->items[0].awaits);
    CHECK(!batch->items[1].awaits);
    CHECK_INT(batch->items[1].tokens, 7);
    (void)commit(s, NULL, 1);
    (void)plan_ahead(s, true, 0); /* it goes on */
    batch = plan_ahead(s, false, 2);
    CHECK_INT(batch->items[1].context, 7);
    CHECK(batch->items[1].prefill);
    CHECK(batch->items[1].samples);
    (void)commit(s, NULL, 1);
    batch = plan_ahead(s, true, 2);
    CHECK_INT(batch->items[1].position, 1);
    med_scheduler_free(s);
}

static void test_ahead_when_room_comes_for_one_that_waits_then_decodes_alone_wait(void)
{
    struct med_scheduler_config config = small;
    config.sequences_max = 2;
    struct med_scheduler *s = make(&config);
    add(s, 1, 4, 20);
    add(s, 2, 4, 2);
    add(s, 3, 4, 9);
    (void)plan(s, 2);
    (void)plan_ahead(s, true, 2); /* the third cannot get in, whatever comes out */
    (void)commit(s, NULL, 2);
    (void)plan_ahead(s, true, 0); /* but now the second's lane comes free */
    (void)commit(s, NULL, 2);
    const struct med_batch *batch = plan(s, 2);
    CHECK_UINT(batch->items[1].id, 3);
    med_scheduler_free(s);
}

static void test_cancel_when_two_batches_run_then_it_ends_with_the_first(void)
{
    struct med_scheduler *s = make(&small);
    add(s, 1, 4, 20);
    add(s, 2, 4, 20);
    (void)plan(s, 2);
    const struct med_batch *batch = plan_ahead(s, true, 2);
    CHECK_INT(med_scheduler_cancel(s, 1), 0);
    med_scheduler_check(s);
    CHECK_INT(stats_of(s).kv_blocks_free, 12); /* both batches use them */
    const struct med_sequence_event *events = commit(s, NULL, 2);
    CHECK_UINT(events[0].id, 2);
    CHECK_UINT(events[1].id, 1);
    CHECK_INT(events[1].end, MED_END_CANCEL);
    CHECK(batch->items[0].ended);
    CHECK_INT(stats_of(s).kv_blocks_free, 14);
    CHECK_INT(med_scheduler_cancel(s, 1), MED_E_NOT_FOUND);
    add(s, 1, 4, 20); /* the name may come again */
    batch = plan_ahead(s, false, 2);
    CHECK_UINT(batch->items[1].id, 1);
    CHECK(batch->items[1].prefill);
    events = commit(s, NULL, 1);
    CHECK_UINT(events[0].id, 2);
    (void)commit(s, NULL, 2);
    med_scheduler_free(s);
}

static void test_ahead_when_the_running_batch_computes_a_prefix_then_it_is_not_found_yet(void)
{
    struct med_scheduler_config config = small;
    config.prefix_cache = true;
    struct med_scheduler *s = make(&config);
    uint32_t tokens[4][32];
    for (int i = 0; i < 4; i++) {
        for (uint32_t k = 0; k < 32; k++)
            tokens[i][k] = k;
        struct med_sequence_spec spec = {.id = (uint64_t)i,
                                         .prompt_tokens = 9,
                                         .output_tokens_max = 9,
                                         .tokens = tokens[i],
                                         .user = s};
        CHECK_INT(med_scheduler_add(s, &spec), 0);
        if (i == 0) {
            (void)plan(s, 1);
        } else if (i == 1) {
            CHECK_INT(plan_ahead(s, false, 2)->items[1].context, 0);
            CHECK_INT(stats_of(s).kv_blocks_cached, 0);
            (void)commit(s, NULL, 1);
            CHECK_INT(stats_of(s).kv_blocks_cached, 2);
        } else if (i == 2) {
            CHECK_INT(plan_ahead(s, false, 3)->items[2].context, 8);
            /* The second computed what the first had published: it now holds those blocks. */
            int64_t free_before = stats_of(s).kv_blocks_free;
            (void)commit(s, NULL, 2);
            CHECK_INT(stats_of(s).kv_blocks_free, free_before + 2);
        }
    }
    med_scheduler_free(s);
}

/* ---- a device ------------------------------------------------------------------------------- */

enum {
    LENGTH_MAX = 96,
    HELD_MAX = 32,
    CELLS_MAX = 512,
    BASES = 5,
    ALPHABET = 2, /* so that equal blocks stand behind different histories all the time */
    QUEUE = 4     /* batches remembered: two under way, and the one before them */
};

struct drawn {
    uint64_t from; /* digest of all cells that it was drawn from */
    uint32_t token;
    bool stop;
};

static uint64_t mix(uint64_t x)
{
    x ^= x >> 29;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    return x ^ (x >> 32);
}

/* What a cell holds: the tokens up to its own. */
static uint64_t extend(uint64_t history, uint32_t token)
{
    return mix(history * UINT64_C(0xd1342543de82ef95) + token + 1);
}

static uint64_t root(uint64_t salt)
{
    return salt + UINT64_C(0x517cc1b727220a95);
}

static uint64_t digest(uint64_t before, uint64_t cell, int64_t place)
{
    return before + mix(cell ^ (uint64_t)place * UINT64_C(0x9e3779b97f4a7c15));
}

static struct drawn draw(uint64_t from)
{
    return (struct drawn){.from = from,
                          .token = (uint32_t)(mix(from) >> 40) % ALPHABET,
                          .stop = (mix(from + 1) >> 30) % 40 == 0};
}

struct device_item {
    uint64_t salt;
    int64_t context, tokens;
    bool samples, awaits;
    int32_t previous;
    uint32_t ids[LENGTH_MAX];
    int64_t cells[LENGTH_MAX]; // [context + tokens]
    uint64_t histories[LENGTH_MAX];
    struct drawn drawn;
};

struct device {
    uint64_t cells[CELLS_MAX];
    uint64_t read_in[CELLS_MAX], written_in[CELLS_MAX]; /* by which batch */
    struct {
        struct device_item items[HELD_MAX];
        size_t count;
    } batches[QUEUE];
    uint64_t started, run; /* batches; number k is in batches[k % QUEUE] */
};

static void device_compute(struct device *d, struct device_item *item)
{
    uint64_t from = 0, history = root(item->salt);
    for (int64_t i = 0; i < item->context; i++) {
        history = d->cells[item->cells[i]];
        d->read_in[item->cells[i]] = d->run + 1;
        from = digest(from, history, i);
    }
    if (item->awaits)
        item->ids[0] = d->batches[(d->run - 1) % QUEUE].items[item->previous].drawn.token;
    for (int64_t i = 0; i < item->tokens; i++) {
        history = item->histories[i] = extend(history, item->ids[i]);
        from = digest(from, history, item->context + i);
    }
    item->drawn = draw(from);
}

/* Runs the oldest batch that waits: all items read, then all write. */
static void device_run(struct device *d)
{
    size_t at = d->run % QUEUE;
    int64_t clashes = 0;
    for (size_t i = 0; i < d->batches[at].count; i++)
        device_compute(d, &d->batches[at].items[i]);
    for (size_t i = 0; i < d->batches[at].count; i++) {
        const struct device_item *item = &d->batches[at].items[i];
        for (int64_t k = 0; k < item->tokens; k++) {
            int64_t cell = item->cells[item->context + k];
            clashes += d->read_in[cell] == d->run + 1 || d->written_in[cell] == d->run + 1;
            d->written_in[cell] = d->run + 1;
            d->cells[cell] = item->histories[k];
        }
    }
    CHECK_INT(clashes, 0);
    d->run++;
}

/* ---- the host ------------------------------------------------------------------------------- */

struct request {
    bool held, cancelled;
    uint64_t id, salt;
    int64_t prompt, output, delivered;
    uint32_t tokens[LENGTH_MAX];
    /* What it draws alone. */
    struct drawn truth[LENGTH_MAX]; // [truths], by position
    int64_t truths;
};

enum ahead {
    AHEAD_NEVER,
    AHEAD_DECODES,
    AHEAD_ALL,
    AHEAD_AT_RANDOM
};

struct model {
    struct med_scheduler_config config;
    enum ahead ahead;
    struct med_scheduler *s;
    struct med_rng rng;
    struct device device;
    int64_t length_max, now_ns;
    struct request bases[BASES], last; /* texts to begin with, and one that ended */
    struct request requests[HELD_MAX];
    int64_t held;
    uint64_t id_last;
    const struct med_batch *batches[2]; /* under way, oldest first */
    int under_way;
    uint64_t submits, cancels, stops, ends, dead, awaited;
};

/* Draws the rest of the request's tokens, as nobody else was there. */
static void tell_truth(struct request *r)
{
    uint64_t history = root(r->salt), from = 0;
    uint32_t token = 0;
    r->truths = 0;
    for (int64_t i = 0; r->truths < r->output; i++) {
        token = i < r->prompt ? r->tokens[i] : token;
        history = extend(history, token);
        from = digest(from, history, i);
        if (i + 1 < r->prompt)
            continue;
        struct drawn drawn = r->truth[r->truths++] = draw(from);
        token = drawn.token;
        if (drawn.stop)
            break;
    }
}

static void model_text(struct model *m, struct request *r)
{
    const struct request *from = med_rng_below(&m->rng, 3) == 0 && m->last.prompt > 0
                                     ? &m->last
                                     : &m->bases[med_rng_below(&m->rng, BASES)];
    memset(r->tokens, 0xee, sizeof r->tokens);
    r->prompt = from->prompt;
    if (med_rng_below(&m->rng, 2) == 0)
        r->prompt = 1 + med_rng_below(&m->rng, (uint32_t)r->prompt);
    if (r->prompt > m->length_max - 8)
        r->prompt = m->length_max - 8;
    memcpy(r->tokens, from->tokens, (size_t)r->prompt * sizeof r->tokens[0]);
    for (uint32_t more = med_rng_below(&m->rng, 7); more > 0; more--)
        r->tokens[r->prompt++] = med_rng_below(&m->rng, ALPHABET);
}

static void model_add(struct model *m)
{
    struct request *r = NULL;
    for (int i = 0; i < HELD_MAX && !r; i++)
        r = m->requests[i].held ? NULL : &m->requests[i];
    if (!r || m->held == m->config.table_max)
        return;
    *r = (struct request){.held = true, .id = ++m->id_last, .salt = med_rng_below(&m->rng, 8) == 0};
    model_text(m, r);
    int64_t room = m->length_max - r->prompt;
    r->output = 1 + med_rng_below(&m->rng, (uint32_t)(room < 30 ? room : 30));
    tell_truth(r);
    struct med_sequence_spec spec = {.id = r->id,
                                     .prompt_tokens = r->prompt,
                                     .output_tokens_max = r->output,
                                     .arrival_ns = m->now_ns,
                                     .tokens = r->tokens,
                                     .salt = r->salt,
                                     .user = r};
    CHECK_INT(med_scheduler_add(m->s, &spec), 0);
    m->held++;
    m->submits++;
}

static void model_cancel(struct model *m, struct request *r)
{
    if (!r->held || r->cancelled)
        return;
    CHECK_INT(med_scheduler_cancel(m->s, r->id), 0);
    r->cancelled = true;
    m->cancels++;
}

static void model_disturb(struct model *m)
{
    if (med_rng_below(&m->rng, 3) != 0)
        return;
    for (uint32_t n = med_rng_below(&m->rng, 3); n > 0; n--)
        model_add(m);
    if (med_rng_below(&m->rng, 8) == 0)
        model_cancel(m, &m->requests[med_rng_below(&m->rng, HELD_MAX)]);
    med_scheduler_check(m->s);
}

/* Copies all that the device needs: the tables may change, and tokens may not be known yet. */
static void model_start(struct model *m, const struct med_batch *batch)
{
    struct device *d = &m->device;
    int64_t bt = m->config.block_tokens;
    size_t at = d->started++ % QUEUE;
    REQUIRE(batch->count <= HELD_MAX);
    CHECK(batch->load.prefill_tokens + batch->load.decode_sequences <=
          m->config.batched_tokens_max);
    d->batches[at].count = batch->count;
    for (size_t i = 0; i < batch->count; i++) {
        const struct med_batch_item *item = &batch->items[i];
        const struct request *r = item->user;
        struct device_item *to = &d->batches[at].items[i];
        REQUIRE(r->held && r->id == item->id);
        CHECK(!item->ended);
        CHECK(item->tokens >= 1 && item->position < r->output);
        CHECK(item->samples == (item->context + item->tokens == r->prompt + item->position));
        CHECK(!item->awaits || (item->tokens == 1 && m->under_way == 1));
        REQUIRE(item->context + item->tokens <= item->block_count * bt);
        *to = (struct device_item){.salt = r->salt,
                                   .context = item->context,
                                   .tokens = item->tokens,
                                   .samples = item->samples,
                                   .awaits = item->awaits,
                                   .previous = item->previous};
        for (int64_t k = 0; k < item->context + item->tokens; k++) {
            to->cells[k] = item->blocks[k / bt] * bt + k % bt;
            REQUIRE(to->cells[k] >= 0 && to->cells[k] < m->config.kv_tokens);
        }
        memcpy(to->ids, r->tokens + item->context, (size_t)item->tokens * sizeof to->ids[0]);
        m->awaited += item->awaits;
    }
    m->batches[m->under_way++] = batch;
    while (d->run < d->started && med_rng_below(&m->rng, 3) == 0)
        device_run(d);
}

/* Waits for the oldest batch, and takes what came out. */
static void model_finish(struct model *m, bool *stop)
{
    struct device *d = &m->device;
    const struct med_batch *batch = m->batches[0];
    uint64_t number = d->started - (uint64_t)m->under_way;
    while (d->run <= number)
        device_run(d);
    for (size_t i = 0; i < batch->count; i++) {
        const struct med_batch_item *item = &batch->items[i];
        const struct device_item *done = &d->batches[number % QUEUE].items[i];
        stop[i] = done->drawn.stop;
        if (item->ended) {
            m->dead++;
            stop[i] = true; /* whatever stands there */
            continue;
        }
        struct request *r = item->user;
        REQUIRE(r->held && r->id == item->id);
        if (!item->samples)
            continue;
        REQUIRE(item->position < r->truths);
        CHECK_UINT(done->drawn.from, r->truth[item->position].from);
        r->tokens[r->prompt + item->position] = done->drawn.token;
        if (med_rng_below(&m->rng, 400) == 0)
            model_cancel(m, r); /* nothing could be drawn */
    }
    m->batches[0] = m->batches[1];
    m->under_way--;
}

static void model_take_event(struct model *m, const struct med_sequence_event *event)
{
    struct request *r = event->user;
    REQUIRE(r->held && r->id == event->id);
    CHECK(r->cancelled == (event->end == MED_END_CANCEL));
    if (event->position >= 0) {
        CHECK_INT(event->position, r->delivered);
        CHECK_UINT(r->tokens[r->prompt + r->delivered], r->truth[r->delivered].token);
        r->delivered++;
    }
    if (event->end == MED_END_NONE)
        return;
    if (event->end != MED_END_CANCEL) {
        CHECK_INT(r->delivered, r->truths);
        CHECK((event->end == MED_END_STOP) == r->truth[r->truths - 1].stop);
    }
    m->stops += event->end == MED_END_STOP;
    m->last = *r;
    m->last.prompt = r->prompt + r->delivered;
    memset(r, 0xee, sizeof *r); /* nobody may look at the tokens any more */
    r->held = r->cancelled = false;
    m->held--;
    m->ends++;
}

static void model_plan_ahead(struct model *m)
{
    if (m->ahead == AHEAD_NEVER || (m->ahead == AHEAD_AT_RANDOM && med_rng_below(&m->rng, 3) == 0))
        return;
    bool decodes_alone = m->ahead == AHEAD_DECODES ||
                         (m->ahead == AHEAD_AT_RANDOM && med_rng_below(&m->rng, 2) == 0);
    const struct med_batch *batch = med_scheduler_plan_ahead(m->s, m->now_ns, decodes_alone);
    med_scheduler_check(m->s);
    if (!batch)
        return;
    CHECK(batch->count > 0);
    CHECK(!decodes_alone || batch->load.prefill_tokens == 0);
    model_start(m, batch);
}

static void model_step(struct model *m, bool busy)
{
    bool stop[HELD_MAX];
    m->now_ns += 1 + med_rng_below(&m->rng, 100);
    if (busy)
        model_disturb(m);
    if (m->under_way == 0)
        model_start(m, med_scheduler_plan(m->s, m->now_ns));
    med_scheduler_check(m->s);
    if (busy)
        model_disturb(m);
    model_plan_ahead(m);
    if (busy)
        model_disturb(m);
    model_finish(m, stop);
    const struct med_sequence_event *events;
    size_t count = med_scheduler_commit(m->s, stop, &events);
    for (size_t i = 0; i < count; i++)
        model_take_event(m, &events[i]);
    med_scheduler_check(m->s);
    CHECK(med_scheduler_has_work(m->s) == (m->held > 0 || m->under_way > 0));
}

static void torture(const struct med_scheduler_config *config, enum ahead ahead, uint64_t stream,
                    uint64_t operations)
{
    static struct model m;
    m = (struct model){.config = *config, .ahead = ahead, .s = make(config)};
    int64_t capacity = config->kv_tokens / config->block_tokens * config->block_tokens;
    REQUIRE(capacity <= CELLS_MAX && config->table_max <= HELD_MAX);
    m.length_max = capacity < LENGTH_MAX ? capacity : LENGTH_MAX;
    if (m.length_max > config->model_len_max)
        m.length_max = config->model_len_max;
    med_rng_init(&m.rng, check_seed(), stream);
    for (int i = 0; i < BASES; i++) {
        m.bases[i].prompt = m.length_max / 4 + med_rng_below(&m.rng, (uint32_t)m.length_max / 2);
        for (int64_t k = 0; k < m.bases[i].prompt; k++)
            m.bases[i].tokens[k] = med_rng_below(&m.rng, ALPHABET);
    }
    (void)med_alloc_fail_nth(0);
    uint64_t steps = 0;
    for (; m.submits + m.cancels + m.stops + stats_of(m.s).preemptions < operations; steps++) {
        REQUIRE(steps < 10 * operations);
        model_step(&m, true);
    }
    for (int i = 0; i < 100000 && med_scheduler_has_work(m.s); i++)
        model_step(&m, false);
    CHECK_UINT(med_alloc_fail_nth(0), 0); /* nothing was allocated by the steps */
    CHECK(!med_scheduler_has_work(m.s));
    struct med_scheduler_stats stats = stats_of(m.s);
    CHECK_UINT(m.ends, m.submits);
    CHECK_UINT(stats.finished_total, m.submits);
    CHECK_INT(stats.kv_blocks_free, stats.kv_blocks_total); /* none is lost */
    CHECK_INT(stats.running + stats.waiting, 0);
    CHECK(m.cancels > operations / 100);
    CHECK(m.stops > operations / 100);
    CHECK(stats.preemptions > operations / 400);
    CHECK((stats.prefix_hits_total > operations / 20) == config->prefix_cache);
    CHECK((stats.iterations_ahead > operations / 10) == (ahead != AHEAD_NEVER));
    CHECK((m.dead > operations / 100) == (ahead != AHEAD_NEVER));
    CHECK((m.awaited > operations / 10) == (ahead != AHEAD_NEVER));
    printf("%" PRIu64 " batches, %" PRIu64 " ahead, %" PRIu64 " submits, %" PRIu64
           " cancels, %" PRIu64 " stops, %" PRIu64 " preemptions, %" PRIu64 " dead items\n",
           stats.iterations, stats.iterations_ahead, m.submits, m.cancels, m.stops,
           stats.preemptions, m.dead);
    med_scheduler_free(m.s);
}

static void torture_all(const struct med_scheduler_config *config, uint64_t stream,
                        uint64_t operations)
{
    torture(config, AHEAD_NEVER, stream, operations / 10);
    torture(config, AHEAD_DECODES, stream, operations);
    torture(config, AHEAD_ALL, stream, operations);
    torture(config, AHEAD_AT_RANDOM, stream, operations);
}

static void test_torture_when_cache_is_tiny_then_everybody_draws_what_they_would_alone(void)
{
    torture_all(&(struct med_scheduler_config){.block_tokens = 4,
                                               .kv_tokens = 100,
                                               .model_len_max = 60,
                                               .sequences_max = 6,
                                               .batched_tokens_max = 24,
                                               .table_max = 12,
                                               .prefix_cache = true},
                1, 40000);
}

static void test_torture_when_blocks_are_single_tokens_then_everybody_draws_what_they_would(void)
{
    torture_all(&(struct med_scheduler_config){.block_tokens = 1,
                                               .kv_tokens = 60,
                                               .model_len_max = 50,
                                               .sequences_max = 5,
                                               .batched_tokens_max = 16,
                                               .table_max = 10,
                                               .prefill_chunk_max = 3,
                                               .prefix_cache = true},
                2, 10000);
}

static void test_torture_when_nothing_is_shared_then_everybody_draws_what_they_would_alone(void)
{
    torture_all(&(struct med_scheduler_config){.block_tokens = 2,
                                               .kv_tokens = 90,
                                               .model_len_max = 80,
                                               .sequences_max = 8,
                                               .batched_tokens_max = 32,
                                               .table_max = 20},
                3, 10000);
}

static void test_torture_when_batches_are_static_or_dynamic_then_everybody_draws_the_same(void)
{
    struct med_scheduler_config config = {.block_tokens = 2,
                                          .kv_tokens = 120,
                                          .model_len_max = 80,
                                          .sequences_max = 8,
                                          .batched_tokens_max = 32,
                                          .table_max = 20,
                                          .prefix_cache = true,
                                          .batching = MED_BATCHING_DYNAMIC,
                                          .batch_wait_ns = 500};
    torture_all(&config, 4, 10000);
    config.batching = MED_BATCHING_STATIC;
    torture_all(&config, 5, 10000);
}

int main(void)
{
    RUN(test_ahead_when_a_prefill_runs_then_its_decode_awaits_what_it_samples);
    RUN(test_ahead_when_an_item_stops_then_its_next_is_dead_and_told_of_once);
    RUN(test_ahead_when_a_sequence_ends_by_length_then_it_is_left_out);
    RUN(test_ahead_when_blocks_are_short_then_it_waits_and_nobody_is_preempted_for_it);
    RUN(test_ahead_when_a_prefill_is_due_then_decodes_alone_wait);
    RUN(test_ahead_when_room_comes_for_one_that_waits_then_decodes_alone_wait);
    RUN(test_cancel_when_two_batches_run_then_it_ends_with_the_first);
    RUN(test_ahead_when_the_running_batch_computes_a_prefix_then_it_is_not_found_yet);
    RUN(test_torture_when_cache_is_tiny_then_everybody_draws_what_they_would_alone);
    RUN(test_torture_when_blocks_are_single_tokens_then_everybody_draws_what_they_would);
    RUN(test_torture_when_nothing_is_shared_then_everybody_draws_what_they_would_alone);
    RUN(test_torture_when_batches_are_static_or_dynamic_then_everybody_draws_the_same);
    return check_finish();
}
