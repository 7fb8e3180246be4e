/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The prefix cache, through the scheduler: cases for each rule, then a seeded torture against a backend
 * that keeps, in every KV cell, a hash of the token history that was computed there.  Each item must
 * find the history of its own tokens in every cell of its context before its batch writes anything,
 * so a wrong hit, a block given away while in use or a block found too early shows at once.
 */
#include "worker/engine/scheduler.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "tests/check.h"
#include "worker/engine/prefix_cache.h"

static const struct med_scheduler_config small = {.block_tokens = 4,
                                                  .kv_tokens = 64,
                                                  .model_len_max = 64,
                                                  .sequences_max = 4,
                                                  .batched_tokens_max = 64,
                                                  .table_max = 8,
                                                  .prefix_cache = true};

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

static void add(struct med_scheduler *s, uint64_t id, const uint32_t *tokens, int64_t prompt,
                int64_t output)
{
    CHECK_INT(med_scheduler_add(s, &(struct med_sequence_spec){.id = id,
                                                               .prompt_tokens = prompt,
                                                               .output_tokens_max = output,
                                                               .tokens = tokens}),
              0);
}

static const struct med_batch *plan(struct med_scheduler *s)
{
    const struct med_batch *batch = med_scheduler_plan(s, 0);
    med_scheduler_check(s);
    return batch;
}

static const struct med_sequence_event *commit(struct med_scheduler *s, size_t count)
{
    const struct med_sequence_event *events;
    CHECK_UINT(med_scheduler_commit(s, NULL, &events), count);
    med_scheduler_check(s);
    return events;
}

static void step(struct med_scheduler *s)
{
    const struct med_sequence_event *events;
    (void)plan(s);
    (void)med_scheduler_commit(s, NULL, &events);
    med_scheduler_check(s);
}

static void finish(struct med_scheduler *s)
{
    for (int i = 0; i < 1000 && med_scheduler_has_work(s); i++)
        step(s);
    CHECK(!med_scheduler_has_work(s));
    CHECK_INT(stats_of(s).kv_blocks_free, stats_of(s).kv_blocks_total);
}

/* first, first + 1, ... */
static void count_up(uint32_t *tokens, int64_t count, uint32_t first)
{
    for (int64_t i = 0; i < count; i++)
        tokens[i] = first + (uint32_t)i;
}

/* ---- cases ---------------------------------------------------------------------------------- */

static void test_admission_when_prompt_was_computed_before_then_only_the_rest_is_computed(void)
{
    struct med_scheduler *s = make(&small);
    uint32_t tokens[16];
    count_up(tokens, 16, 100);
    add(s, 1, tokens, 11, 1);
    const struct med_batch *batch = plan(s);
    REQUIRE(batch->count == 1);
    CHECK_INT(batch->items[0].context, 0);
    CHECK_INT(batch->load.prefill_tokens, 11);
    CHECK_INT(commit(s, 1)[0].cached_prompt_tokens, 0);
    CHECK_INT(stats_of(s).kv_blocks_cached, 2); /* the third is not full */
    CHECK_INT(stats_of(s).kv_blocks_free, 16);
    add(s, 2, tokens, 14, 1);
    batch = plan(s);
    REQUIRE(batch->count == 1);
    CHECK_INT(batch->items[0].context, 8);
    CHECK_INT(batch->items[0].tokens, 6);
    CHECK(batch->items[0].samples);
    CHECK_INT(batch->load.prefill_tokens, 6);
    CHECK_INT(batch->load.prefill_pairs, med_step_pairs(6, 8));
    CHECK_INT(commit(s, 1)[0].cached_prompt_tokens, 8);
    CHECK_UINT(stats_of(s).prefix_queries_total, 25);
    CHECK_UINT(stats_of(s).prefix_hits_total, 8);
    CHECK_UINT(stats_of(s).prompt_tokens_total, 17);
    CHECK_INT(stats_of(s).kv_blocks_cached, 3);
    med_scheduler_free(s);
}

static void test_admission_when_the_whole_prompt_is_cached_then_its_last_block_is_computed(void)
{
    struct med_scheduler *s = make(&small);
    uint32_t tokens[16];
    count_up(tokens, 16, 1);
    add(s, 1, tokens, 8, 1);
    step(s);
    add(s, 2, tokens, 8, 1);
    const struct med_batch *batch = plan(s);
    REQUIRE(batch->count == 1);
    CHECK_INT(batch->items[0].context, 4);
    CHECK_INT(batch->items[0].tokens, 4);
    CHECK_INT(commit(s, 1)[0].cached_prompt_tokens, 4);
    CHECK_INT(stats_of(s).kv_blocks_cached, 2); /* held once */
    finish(s);
    med_scheduler_free(s);
}

static void test_admission_when_switched_off_or_without_tokens_then_nothing_is_found(void)
{
    uint32_t tokens[16];
    count_up(tokens, 16, 1);
    for (int on = 0; on < 2; on++) {
        struct med_scheduler_config config = small;
        config.prefix_cache = on;
        struct med_scheduler *s = make(&config);
        add(s, 1, on ? NULL : tokens, 12, 1);
        step(s);
        CHECK_INT(stats_of(s).kv_blocks_cached, 0);
        add(s, 2, tokens, 12, 1); /* did 1 fill it? */
        const struct med_batch *batch = plan(s);
        CHECK_INT(batch->load.prefill_tokens, 12);
        (void)commit(s, 1);
        CHECK_INT(stats_of(s).kv_blocks_cached, on ? 3 : 0);
        add(s, 3, on ? NULL : tokens, 12, 1); /* does 3 use it? */
        batch = plan(s);
        CHECK_INT(batch->load.prefill_tokens, 12);
        (void)commit(s, 1);
        CHECK_UINT(stats_of(s).prefix_queries_total, on ? 12 : 0);
        med_scheduler_free(s);
    }
}

static void test_admission_when_salts_differ_then_nothing_is_shared(void)
{
    struct med_scheduler *s = make(&small);
    uint32_t tokens[16];
    count_up(tokens, 16, 1);
    struct med_sequence_spec spec = {
        .id = 1, .prompt_tokens = 12, .output_tokens_max = 1, .tokens = tokens, .salt = 7};
    static const struct {
        uint64_t salt;
        int64_t computed;
    } cases[] = {{7, 12}, {8, 12}, {7, 4}, {8, 4}, {0, 12}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        spec.salt = cases[i].salt;
        CHECK_INT(med_scheduler_add(s, &spec), 0);
        CHECK_INT(plan(s)->load.prefill_tokens, cases[i].computed);
        (void)commit(s, 1);
    }
    med_scheduler_free(s);
}

static void test_admission_when_a_block_equals_but_not_its_history_then_not_found(void)
{
    struct med_scheduler *s = make(&small);
    uint32_t a[16] = {1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
    uint32_t b[16] = {9, 9, 9, 9, 2, 2, 2, 2, 3, 3, 3, 3};
    uint32_t c[16] = {2, 2, 2, 2, 3, 3, 3, 3, 5};
    uint32_t d[16] = {1, 1, 1, 1, 3, 3, 3, 3, 2, 2, 2, 2, 5};
    add(s, 1, a, 12, 1);
    step(s);
    add(s, 2, b, 12, 1);
    CHECK_INT(plan(s)->load.prefill_tokens, 12);
    (void)commit(s, 1);
    add(s, 3, c, 9, 1);
    CHECK_INT(plan(s)->load.prefill_tokens, 9);
    (void)commit(s, 1);
    add(s, 4, d, 13, 1);
    CHECK_INT(plan(s)->load.prefill_tokens, 9); /* the first block alone */
    (void)commit(s, 1);
    med_scheduler_free(s);
}

static void test_commit_when_two_computed_the_same_then_they_hold_it_once(void)
{
    struct med_scheduler *s = make(&small);
    uint32_t a[24], b[24];
    count_up(a, 24, 1);
    count_up(b, 24, 1);
    b[9] = 77; /* the third block differs */
    add(s, 1, a, 12, 8);
    add(s, 2, b, 12, 8);
    const struct med_batch *batch = plan(s);
    REQUIRE(batch->count == 2);
    CHECK_INT(batch->items[1].context, 0); /* nothing is found before the commit */
    int64_t unused = stats_of(s).kv_blocks_free;
    CHECK_INT(unused, 16 - 6);
    (void)commit(s, 2);
    CHECK_INT(stats_of(s).kv_blocks_free, unused + 2);
    CHECK_INT(stats_of(s).kv_blocks_cached, 4);
    batch = plan(s);
    REQUIRE(batch->count == 2);
    CHECK_INT(batch->items[0].blocks[0], batch->items[1].blocks[0]);
    CHECK_INT(batch->items[0].blocks[1], batch->items[1].blocks[1]);
    CHECK(batch->items[0].blocks[2] != batch->items[1].blocks[2]);
    CHECK(batch->items[0].blocks[3] != batch->items[1].blocks[3]);
    (void)commit(s, 2);
    finish(s);
    med_scheduler_free(s);
}

static void test_blocks_when_not_committed_then_not_found(void)
{
    struct med_scheduler_config config = small;
    config.batched_tokens_max = 8;
    struct med_scheduler *s = make(&config);
    uint32_t tokens[32];
    count_up(tokens, 32, 1);
    add(s, 1, tokens, 20, 1);
    CHECK_UINT(plan(s)->count, 1); /* 8 of 20 */
    (void)commit(s, 0);
    CHECK_INT(stats_of(s).kv_blocks_cached, 2);
    CHECK_UINT(plan(s)->count, 1); /* 16 of 20, not computed yet */
    add(s, 2, tokens, 20, 1);
    CHECK_INT(stats_of(s).kv_blocks_cached, 2);
    (void)commit(s, 0);
    const struct med_batch *batch =
        plan(s); /* the last 4 of the first; 4 are left for the second */
    REQUIRE(batch->count == 2);
    CHECK_UINT(batch->items[1].id, 2);
    CHECK_INT(batch->items[1].context, 16);
    CHECK_INT(batch->items[1].tokens, 4);
    (void)commit(s, 2);
    finish(s);
    med_scheduler_free(s);
}

static void test_admission_when_next_turn_then_generated_tokens_are_found(void)
{
    struct med_scheduler *s = make(&small);
    uint32_t tokens[64];
    count_up(tokens, 64, 1); /* what is "sampled" stands there before each commit */
    add(s, 1, tokens, 5, 12);
    finish(s);
    CHECK_INT(stats_of(s).kv_blocks_cached, 4); /* 16 of 17: the last one was never fed back */
    add(s, 2, tokens, 30, 1);
    const struct med_batch *batch = plan(s);
    REQUIRE(batch->count == 1);
    CHECK_INT(batch->items[0].context, 16);
    (void)commit(s, 1);
    med_scheduler_free(s);
}

static void test_preemption_when_blocks_are_left_then_the_sequence_finds_its_own_again(void)
{
    struct med_scheduler_config config = small;
    config.kv_tokens = 40;
    struct med_scheduler *s = make(&config);
    uint32_t a[64], b[64];
    count_up(a, 64, 1);
    count_up(b, 64, 1000);
    add(s, 1, a, 12, 12);
    add(s, 2, b, 16, 12);
    uint64_t found = 0;
    for (int i = 0; i < 100 && med_scheduler_has_work(s); i++) {
        const struct med_batch *batch = plan(s);
        for (size_t k = 0; k < batch->count; k++) {
            const struct med_batch_item *item = &batch->items[k];
            found += item->prefill && item->position > 0 && item->context > 0;
        }
        const struct med_sequence_event *events;
        size_t count = med_scheduler_commit(s, NULL, &events);
        for (size_t k = 0; k < count; k++)
            CHECK_INT(events[k].cached_prompt_tokens, 0); /* as at the first admission */
        med_scheduler_check(s);
    }
    CHECK(stats_of(s).preemptions > 0);
    CHECK(found > 0);
    CHECK_UINT(stats_of(s).prefix_hits_total, 0);
    CHECK_UINT(stats_of(s).prefix_queries_total, 28);
    CHECK_UINT(stats_of(s).generated_tokens_total, 24);
    med_scheduler_free(s);
}

static void test_eviction_when_full_then_oldest_first_and_ends_before_beginnings(void)
{
    struct med_scheduler *s = make(&small); /* 16 blocks */
    uint32_t a[40], b[40], c[40];
    count_up(a, 40, 1);
    count_up(b, 40, 1000);
    count_up(c, 40, 2000);
    add(s, 1, a, 24, 1);
    step(s);
    add(s, 2, b, 24, 1);
    step(s);
    CHECK_INT(stats_of(s).kv_blocks_cached, 12);
    add(s, 3, c, 24, 1); /* 4 are unused: 2 of a's must go */
    step(s);
    CHECK_INT(stats_of(s).kv_blocks_cached, 16);
    CHECK_UINT(stats_of(s).prefix_evictions_total, 2);
    add(s, 4, a, 25, 1); /* a's first four are left; they become the newest, 3 of b's go */
    CHECK_INT(plan(s)->load.prefill_tokens, 25 - 16);
    (void)commit(s, 1);
    CHECK_UINT(stats_of(s).prefix_evictions_total, 5);
    add(s, 5, b, 25, 1);
    CHECK_INT(plan(s)->load.prefill_tokens, 25 - 12);
    (void)commit(s, 1);
    finish(s);
    med_scheduler_free(s);
}

static void test_admission_when_blocks_are_shared_then_more_sequences_fit(void)
{
    struct med_scheduler *s = make(&small); /* 16 blocks */
    uint32_t tokens[4][64];
    for (int i = 0; i < 4; i++)
        count_up(tokens[i], 64, 1);
    add(s, 1, tokens[0], 41, 8); /* 11 blocks, and one more */
    step(s);
    for (uint64_t i = 1; i < 4; i++)
        add(s, i + 1, tokens[i], 41, 3); /* 1 block each beyond the 10 shared, and one more */
    const struct med_batch *batch = plan(s);
    CHECK_UINT(batch->count, 4);
    CHECK_INT(batch->load.prefill_tokens, 3);
    (void)commit(s, 4);
    CHECK_INT(stats_of(s).kv_blocks_free, 16 - 10 - 4);
    CHECK_UINT(stats_of(s).preemptions, 0);
    finish(s);
    med_scheduler_free(s);
}

static void test_admission_when_idle_blocks_are_its_own_then_they_are_not_counted_twice(void)
{
    struct med_scheduler_config config = small;
    config.kv_tokens = 32; /* 8 blocks */
    struct med_scheduler *s = make(&config);
    uint32_t a[32], b[32];
    count_up(a, 32, 1);
    count_up(b, 32, 1000);
    add(s, 1, a, 16, 1);
    step(s); /* 4 idle, 4 free */
    add(s, 2, b, 9, 4);
    step(s); /* 3 in use */
    /* 16 of 20 are cached, in 4 idle blocks; 2 more are wanted and 1 is free. */
    add(s, 3, a, 20, 4);
    CHECK_UINT(plan(s)->count, 1);
    (void)commit(s, 1);
    finish(s);
    CHECK_UINT(stats_of(s).preemptions, 0);
    CHECK_UINT(stats_of(s).prefix_hits_total, 16);
    med_scheduler_free(s);
}

static void test_cancel_when_prefill_runs_then_what_was_committed_is_found(void)
{
    struct med_scheduler_config config = small;
    config.batched_tokens_max = 8;
    struct med_scheduler *s = make(&config);
    uint32_t tokens[40];
    count_up(tokens, 40, 1);
    add(s, 1, tokens, 32, 4);
    step(s);
    (void)plan(s);
    CHECK_INT(med_scheduler_cancel(s, 1), 0);
    CHECK_INT(commit(s, 1)[0].end, MED_END_CANCEL);
    CHECK_INT(stats_of(s).kv_blocks_cached, 2);
    CHECK_INT(stats_of(s).kv_blocks_free, 16);
    add(s, 2, tokens, 16, 1);
    const struct med_batch *batch = plan(s);
    REQUIRE(batch->count == 1);
    CHECK_INT(batch->items[0].context, 8);
    (void)commit(s, 1);
    med_scheduler_free(s);
}

static void test_new_when_any_allocation_fails_then_no_memory_and_no_leak(void)
{
    int64_t live = med_alloc_bytes_live();
    bool succeeded = false;
    uint64_t n = 1;
    for (; n < 60 && !succeeded; n++) {
        struct med_scheduler *s = NULL;
        (void)med_alloc_fail_nth(n);
        int rc = med_scheduler_new(&small, &s, NULL);
        (void)med_alloc_fail_nth(0);
        succeeded = rc == 0;
        if (!succeeded)
            CHECK_INT(rc, MED_E_NOMEM);
        med_scheduler_free(s);
        CHECK_INT(med_alloc_bytes_live(), live);
    }
    CHECK(succeeded);
    CHECK(n > 15);
}

static void test_find_when_seeds_differ_then_results_do_not(void)
{
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct med_prefix_cache c;
        REQUIRE(med_prefix_cache_init(&c, 4, 2, seed * UINT64_C(0x123456789abcdef)) == 0);
        const uint32_t a[] = {1, 2}, b[] = {2, 1};
        CHECK_INT(med_prefix_cache_publish(&c, 3, MED_PREFIX_NONE, 5, a), 3);
        CHECK_INT(med_prefix_cache_publish(&c, 1, 3, 5, b), 1);
        CHECK_INT(med_prefix_cache_publish(&c, 0, 3, 5, b), 1); /* known already */
        CHECK_INT(med_prefix_cache_find(&c, MED_PREFIX_NONE, 5, a), 3);
        CHECK_INT(med_prefix_cache_find(&c, MED_PREFIX_NONE, 6, a), MED_PREFIX_NONE);
        CHECK_INT(med_prefix_cache_find(&c, MED_PREFIX_NONE, 5, b), MED_PREFIX_NONE);
        CHECK_INT(med_prefix_cache_find(&c, 3, 5, b), 1);
        CHECK_INT(med_prefix_cache_find(&c, 3, 5, a), MED_PREFIX_NONE);
        CHECK_INT(med_prefix_cache_find(&c, 1, 5, b), MED_PREFIX_NONE);
        med_prefix_cache_rest(&c, 1);
        med_prefix_cache_rest(&c, 3);
        med_prefix_cache_check(&c);
        CHECK_INT(med_prefix_cache_evict(&c), 1);
        CHECK_INT(med_prefix_cache_find(&c, 3, 5, b), MED_PREFIX_NONE);
        CHECK_INT(med_prefix_cache_evict(&c), 3);
        CHECK_INT(c.count, 0);
        med_prefix_cache_check(&c);
        med_prefix_cache_release(&c);
    }
}

/* ---- collisions ----------------------------------------------------------------------------- */

/* The steps of prefix_cache.c's hash, which the test must know to make collisions. */
#define HASH_FACTOR UINT64_C(0x9e3779b97f4a7c15)

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * HASH_FACTOR;
    return hash ^ (hash >> 32);
}

/* The word with which mix(hash, word) is `mixed`. */
static uint64_t unmix(uint64_t hash, uint64_t mixed)
{
    uint64_t inverse =
        HASH_FACTOR; /* by Newton's iteration: each doubles the bits that are right */
    for (int i = 0; i < 6; i++)
        inverse *= 2 - HASH_FACTOR * inverse;
    return ((mixed ^ (mixed >> 32)) * inverse) ^ hash;
}

static void test_find_when_hashes_collide_then_history_decides(void)
{
    const uint64_t seed = 99, salt = 1;
    const uint32_t a[] = {10, 20}, b[] = {11, 20}, child[] = {30, 40};
    /* Another salt, with which b hashes as a does with this one. */
    uint64_t other = unmix(seed, mix(seed, salt) ^ (a[0] ^ b[0]));
    struct med_prefix_cache c;
    REQUIRE(med_prefix_cache_init(&c, 8, 2, seed) == 0);
    CHECK_INT(med_prefix_cache_publish(&c, 0, MED_PREFIX_NONE, salt, a), 0);
    CHECK_INT(med_prefix_cache_find(&c, MED_PREFIX_NONE, other, b), MED_PREFIX_NONE);
    CHECK_INT(med_prefix_cache_publish(&c, 1, MED_PREFIX_NONE, other, b), 1);
    CHECK_UINT(c.blocks[0].hash, c.blocks[1].hash); /* or this proves nothing */
    CHECK_INT(med_prefix_cache_publish(&c, 2, 0, salt, child), 2);
    CHECK_INT(med_prefix_cache_find(&c, 1, other, child), MED_PREFIX_NONE);
    CHECK_INT(med_prefix_cache_publish(&c, 3, 1, other, child), 3);
    CHECK_UINT(c.blocks[2].hash, c.blocks[3].hash);
    CHECK_INT(med_prefix_cache_find(&c, MED_PREFIX_NONE, salt, a), 0);
    CHECK_INT(med_prefix_cache_find(&c, MED_PREFIX_NONE, other, b), 1);
    CHECK_INT(med_prefix_cache_find(&c, 0, salt, child), 2);
    CHECK_INT(med_prefix_cache_find(&c, 1, other, child), 3);
    med_prefix_cache_rest(&c, 2); /* out of the middle of its bucket */
    CHECK_INT(med_prefix_cache_evict(&c), 2);
    CHECK_INT(med_prefix_cache_find(&c, 0, salt, child), MED_PREFIX_NONE);
    CHECK_INT(med_prefix_cache_find(&c, 1, other, child), 3);
    med_prefix_cache_check(&c);
    med_prefix_cache_release(&c);
}

/* ---- torture -------------------------------------------------------------------------------- */

enum {
    LENGTH_MAX = 96,
    HELD_MAX = 32,
    CELLS_MAX = 512,
    BASES = 5,
    ALPHABET = 2 /* so that equal blocks stand behind different histories all the time */
};

struct text {
    uint32_t tokens[LENGTH_MAX];
    int64_t count;
};

/* A sequence that is held. */
struct model_request {
    bool held, cancelled;
    uint64_t id, salt;
    int64_t prompt, output, delivered, cached_prompt;
    bool admitted;
    uint32_t tokens[LENGTH_MAX];
    uint64_t history[LENGTH_MAX]; /* of tokens[0..i] */
};

struct model {
    struct med_scheduler_config config;
    struct med_scheduler *s;
    struct med_rng rng;
    int64_t length_max;
    struct text bases[BASES];
    struct text last; /* a conversation that ended, to be continued */
    struct model_request requests[HELD_MAX];
    int64_t held;
    uint64_t id_last;
    uint64_t cells[CELLS_MAX];   /* history up to the token that was computed there */
    uint64_t read_in[CELLS_MAX]; /* iteration in which it was in an item's context */
    uint64_t written_in[CELLS_MAX];
    uint64_t iteration;
    int64_t now_ns;
    uint64_t submits, cancels, ends, hits, again, queries, hit_tokens;
};

static uint64_t extend_history(uint64_t history, uint32_t token)
{
    uint64_t x = history * UINT64_C(0xd1342543de82ef95) + token + 1;
    x ^= x >> 29;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    return x ^ (x >> 32);
}

static void learn(struct model_request *r, int64_t place, uint32_t token)
{
    r->tokens[place] = token;
    r->history[place] = extend_history(
        place > 0 ? r->history[place - 1] : r->salt + UINT64_C(0x517cc1b727220a95), token);
}

static void model_text(struct model *m, struct text *text)
{
    const struct text *from = med_rng_below(&m->rng, 3) == 0 && m->last.count > 0
                                  ? &m->last
                                  : &m->bases[med_rng_below(&m->rng, BASES)];
    *text = *from;
    if (med_rng_below(&m->rng, 2) == 0)
        text->count = 1 + med_rng_below(&m->rng, (uint32_t)text->count);
    for (uint32_t more = med_rng_below(&m->rng, 7); more > 0 && text->count < m->length_max - 1;
         more--)
        text->tokens[text->count++] = med_rng_below(&m->rng, ALPHABET);
    if (text->count > m->length_max - 1)
        text->count = m->length_max - 1;
}

static void model_add(struct model *m)
{
    struct model_request *r = NULL;
    for (int i = 0; i < HELD_MAX && !r; i++)
        r = m->requests[i].held ? NULL : &m->requests[i];
    if (!r || m->held == m->config.table_max)
        return;
    struct text text;
    model_text(m, &text);
    *r = (struct model_request){.held = true,
                                .id = ++m->id_last,
                                .salt = med_rng_below(&m->rng, 8) == 0,
                                .prompt = text.count};
    int64_t room = m->length_max - text.count;
    r->output = 1 + med_rng_below(&m->rng, (uint32_t)(room < 24 ? room : 24));
    for (int64_t i = 0; i < text.count; i++)
        learn(r, i, text.tokens[i]);
    int rc = med_scheduler_add(m->s, &(struct med_sequence_spec){.id = r->id,
                                                                 .prompt_tokens = r->prompt,
                                                                 .output_tokens_max = r->output,
                                                                 .arrival_ns = m->now_ns,
                                                                 .tokens = r->tokens,
                                                                 .salt = r->salt,
                                                                 .user = r});
    CHECK_INT(rc, 0);
    m->held++;
    m->submits++;
}

static void model_cancel(struct model *m)
{
    struct model_request *r = &m->requests[med_rng_below(&m->rng, HELD_MAX)];
    if (!r->held || r->cancelled)
        return;
    CHECK_INT(med_scheduler_cancel(m->s, r->id), 0);
    r->cancelled = true;
    m->cancels++;
}

static int64_t cell_of(const struct model *m, const struct med_batch_item *item, int64_t place)
{
    int64_t bt = m->config.block_tokens;
    REQUIRE(place / bt < item->block_count);
    int64_t cell = item->blocks[place / bt] * bt + place % bt;
    REQUIRE(cell >= 0 && cell < m->config.kv_tokens);
    return cell;
}

/* A batch computes all its items at once: what one reads must stand there before any writes. */
static void model_read(struct model *m, const struct med_batch_item *item)
{
    struct model_request *r = item->user;
    REQUIRE(r->held && r->id == item->id);
    int64_t known = r->prompt + r->delivered, wrong = 0;
    CHECK_INT(item->position, r->delivered);
    CHECK(item->tokens >= 1);
    REQUIRE(item->context + item->tokens <= known);
    CHECK(item->samples == (item->context + item->tokens == known));
    for (int64_t i = 0; i < item->context; i++) {
        int64_t cell = cell_of(m, item, i);
        wrong += m->cells[cell] != r->history[i];
        m->read_in[cell] = m->iteration;
    }
    CHECK_INT(wrong, 0);
    if (!r->admitted) {
        r->admitted = true;
        r->cached_prompt = item->context;
        m->queries += (uint64_t)r->prompt;
        m->hit_tokens += (uint64_t)item->context;
        m->hits += item->context > 0;
    } else {
        m->again += item->prefill && item->position > 0 && item->context > 0;
    }
}

static void model_write(struct model *m, const struct med_batch_item *item)
{
    struct model_request *r = item->user;
    int64_t clashes = 0;
    for (int64_t i = item->context; i < item->context + item->tokens; i++) {
        int64_t cell = cell_of(m, item, i);
        clashes += m->read_in[cell] == m->iteration || m->written_in[cell] == m->iteration;
        m->written_in[cell] = m->iteration;
        m->cells[cell] = r->history[i];
    }
    CHECK_INT(clashes, 0);
    if (item->samples) {
        int64_t known = r->prompt + r->delivered;
        learn(r, known, (uint32_t)(r->history[known - 1] >> 40) % ALPHABET);
    }
}

static void model_take_event(struct model *m, const struct med_sequence_event *event)
{
    struct model_request *r = event->user;
    REQUIRE(r->held && r->id == event->id);
    CHECK(r->cancelled == (event->end == MED_END_CANCEL));
    if (event->position >= 0) {
        CHECK_INT(event->position, r->delivered);
        CHECK_INT(event->cached_prompt_tokens, r->cached_prompt);
        r->delivered++;
    }
    if (event->end == MED_END_NONE)
        return;
    CHECK(event->end != MED_END_LENGTH || r->delivered == r->output);
    m->last.count = r->prompt + r->delivered;
    memcpy(m->last.tokens, r->tokens, sizeof m->last.tokens);
    memset(r, 0xee, sizeof *r); /* nobody may look at the tokens any more */
    r->held = r->cancelled = false;
    m->held--;
    m->ends++;
}

static void model_disturb(struct model *m)
{
    for (uint32_t n = med_rng_below(&m->rng, 4); n > 0; n--)
        model_add(m);
    if (med_rng_below(&m->rng, 8) == 0)
        model_cancel(m);
}

static void model_step(struct model *m, bool busy)
{
    bool stop[HELD_MAX];
    if (busy && med_rng_below(&m->rng, 2) == 0)
        model_disturb(m);
    m->now_ns += 1 + med_rng_below(&m->rng, 100);
    m->iteration++;
    const struct med_batch *batch = med_scheduler_plan(m->s, m->now_ns);
    REQUIRE(batch->count <= HELD_MAX);
    CHECK(batch->load.prefill_tokens + batch->load.decode_sequences <=
          m->config.batched_tokens_max);
    med_scheduler_check(m->s);
    for (size_t i = 0; i < batch->count; i++)
        model_read(m, &batch->items[i]);
    for (size_t i = 0; i < batch->count; i++) {
        model_write(m, &batch->items[i]);
        stop[i] = med_rng_below(&m->rng, 40) == 0;
    }
    if (busy && med_rng_below(&m->rng, 4) == 0)
        model_disturb(m);
    const struct med_sequence_event *events;
    size_t count = med_scheduler_commit(m->s, stop, &events);
    for (size_t i = 0; i < count; i++)
        model_take_event(m, &events[i]);
    med_scheduler_check(m->s);
    CHECK(med_scheduler_has_work(m->s) == (m->held > 0));
}

static void torture(const struct med_scheduler_config *config, uint64_t stream, uint64_t operations)
{
    static struct model m;
    m = (struct model){.config = *config, .s = make(config)};
    int64_t capacity = config->kv_tokens / config->block_tokens * config->block_tokens;
    REQUIRE(capacity <= CELLS_MAX && config->table_max <= HELD_MAX);
    m.length_max = capacity < LENGTH_MAX ? capacity : LENGTH_MAX;
    if (m.length_max > config->model_len_max)
        m.length_max = config->model_len_max;
    med_rng_init(&m.rng, check_seed(), stream);
    for (int i = 0; i < BASES; i++) {
        m.bases[i].count = m.length_max / 4 + med_rng_below(&m.rng, (uint32_t)m.length_max / 2);
        for (int64_t k = 0; k < m.bases[i].count; k++)
            m.bases[i].tokens[k] = med_rng_below(&m.rng, ALPHABET);
    }
    (void)med_alloc_fail_nth(0);
    uint64_t done = 0, steps = 0;
    for (; done < operations && steps < 4 * operations; steps++) {
        model_step(&m, true);
        done = m.submits + m.cancels + m.hits + stats_of(m.s).preemptions;
    }
    CHECK(done >= operations);
    for (int i = 0; i < 100000 && med_scheduler_has_work(m.s); i++)
        model_step(&m, false);
    CHECK_UINT(med_alloc_fail_nth(0), 0); /* nothing was allocated by the steps */
    CHECK(!med_scheduler_has_work(m.s));
    struct med_scheduler_stats stats = stats_of(m.s);
    CHECK_UINT(m.ends, m.submits);
    CHECK_UINT(stats.finished_total, m.submits);
    CHECK_UINT(stats.prefix_queries_total, m.queries);
    CHECK_UINT(stats.prefix_hits_total, m.hit_tokens);
    CHECK_INT(stats.kv_blocks_free, stats.kv_blocks_total); /* none is lost */
    CHECK(m.hits > operations / 50);
    CHECK(m.cancels > operations / 50);
    CHECK(stats.preemptions > operations / 200);
    CHECK(stats.prefix_evictions_total > operations / 50);
    CHECK(m.again > 10);
    printf("%" PRIu64 " steps, %" PRIu64 " submits, %" PRIu64 " cancels, %" PRIu64 " preemptions, "
           "%" PRIu64 " hits (%.0f %% of tokens), %" PRIu64 " evictions\n",
           steps, m.submits, m.cancels, stats.preemptions, m.hits,
           100.0 * (double)m.hit_tokens / (double)m.queries, stats.prefix_evictions_total);
    med_scheduler_free(m.s);
}

static void test_torture_when_cache_is_tiny_then_every_context_is_right(void)
{
    torture(&(struct med_scheduler_config){.block_tokens = 4,
                                           .kv_tokens = 100,
                                           .model_len_max = 60,
                                           .sequences_max = 6,
                                           .batched_tokens_max = 24,
                                           .table_max = 12,
                                           .prefix_cache = true},
            1, 100000);
}

static void test_torture_when_blocks_are_single_tokens_then_every_context_is_right(void)
{
    torture(&(struct med_scheduler_config){.block_tokens = 1,
                                           .kv_tokens = 60,
                                           .model_len_max = 50,
                                           .sequences_max = 5,
                                           .batched_tokens_max = 16,
                                           .table_max = 10,
                                           .prefill_chunk_max = 3,
                                           .prefix_cache = true},
            2, 20000);
}

static void test_torture_when_batches_are_static_or_dynamic_then_every_context_is_right(void)
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
    torture(&config, 3, 20000);
    config.batching = MED_BATCHING_STATIC;
    torture(&config, 4, 20000);
}

int main(void)
{
    RUN(test_admission_when_prompt_was_computed_before_then_only_the_rest_is_computed);
    RUN(test_admission_when_the_whole_prompt_is_cached_then_its_last_block_is_computed);
    RUN(test_admission_when_switched_off_or_without_tokens_then_nothing_is_found);
    RUN(test_admission_when_salts_differ_then_nothing_is_shared);
    RUN(test_admission_when_a_block_equals_but_not_its_history_then_not_found);
    RUN(test_commit_when_two_computed_the_same_then_they_hold_it_once);
    RUN(test_blocks_when_not_committed_then_not_found);
    RUN(test_admission_when_next_turn_then_generated_tokens_are_found);
    RUN(test_preemption_when_blocks_are_left_then_the_sequence_finds_its_own_again);
    RUN(test_eviction_when_full_then_oldest_first_and_ends_before_beginnings);
    RUN(test_admission_when_blocks_are_shared_then_more_sequences_fit);
    RUN(test_admission_when_idle_blocks_are_its_own_then_they_are_not_counted_twice);
    RUN(test_cancel_when_prefill_runs_then_what_was_committed_is_found);
    RUN(test_new_when_any_allocation_fails_then_no_memory_and_no_leak);
    RUN(test_find_when_seeds_differ_then_results_do_not);
    RUN(test_find_when_hashes_collide_then_history_decides);
    RUN(test_torture_when_cache_is_tiny_then_every_context_is_right);
    RUN(test_torture_when_blocks_are_single_tokens_then_every_context_is_right);
    RUN(test_torture_when_batches_are_static_or_dynamic_then_every_context_is_right);
    return check_finish();
}
