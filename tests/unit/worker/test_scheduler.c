/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scheduler: cases for each rule of its contract, then a seeded torture that keeps a model of its
 * own, among it the content of every KV cell, and compares after each step.
 */
#include "worker/engine/scheduler.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "tests/check.h"

static const struct med_scheduler_config small = {.block_tokens = 4,
                                                  .kv_tokens = 64,
                                                  .model_len_max = 64,
                                                  .sequences_max = 4,
                                                  .batched_tokens_max = 16,
                                                  .table_max = 8};

static struct med_scheduler *make(const struct med_scheduler_config *config)
{
    struct med_scheduler *s = NULL;
    struct med_err err;
    int rc = med_scheduler_new(config, &s, &err);
    REQUIRE(rc == 0);
    return s;
}

static int add(struct med_scheduler *s, uint64_t id, int64_t prompt, int64_t output)
{
    struct med_sequence_spec spec = {
        .id = id, .prompt_tokens = prompt, .output_tokens_max = output};
    return med_scheduler_add(s, &spec);
}

/* Plans, checks, commits without stops; returns the number of events. */
static size_t step(struct med_scheduler *s, const struct med_sequence_event **ret_events)
{
    (void)med_scheduler_plan(s, 0);
    med_scheduler_check(s);
    size_t count = med_scheduler_commit(s, NULL, ret_events);
    med_scheduler_check(s);
    return count;
}

static int64_t preemptions(const struct med_scheduler *s)
{
    struct med_scheduler_stats stats;
    med_scheduler_get_stats(s, &stats);
    return (int64_t)stats.preemptions;
}

/* ---- cases ---------------------------------------------------------------------------------- */

static void test_new_when_config_is_wrong_then_says_which_field(void)
{
    static const struct {
        int64_t block_tokens, kv_tokens, model_len_max, sequences_max, batched_tokens_max,
            table_max, prefill_chunk_max, batch_wait_ns;
        int batching;
        const char *text;
    } cases[] = {
        {0, 64, 64, 4, 16, 8, 0, 0, 0, "block_tokens"},
        {4, 0, 64, 4, 16, 8, 0, 0, 0, "kv_tokens"},
        {4, 3, 64, 4, 16, 8, 0, 0, 0, "whole blocks"},
        {4, 64, -1, 4, 16, 8, 0, 0, 0, "model_len_max"},
        {4, 64, 64, 0, 16, 8, 0, 0, 0, "sequences_max"},
        {4, 64, 64, 4, 0, 8, 0, 0, 0, "batched_tokens_max"},
        {4, 64, 64, 4, 3, 8, 0, 0, 0, "full batch"},
        {4, 64, 64, 4, 16, 0, 0, 0, 0, "table_max"},
        {4, 64, 64, 4, 16, INT64_MAX, 0, 0, 0, "table_max"},
        {4, 64, 64, 4, 16, 8, -1, 0, 0, "prefill_chunk_max"},
        {4, 64, 64, 4, 16, 8, 0, -1, 0, "batch_wait_ns"},
        {4, 64, 64, 4, 16, 8, 0, 0, 3, "batching"},
        {4, 64, 64, 4, 16, 8, 0, 0, -1, "batching"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct med_scheduler_config config = {.block_tokens = cases[i].block_tokens,
                                              .kv_tokens = cases[i].kv_tokens,
                                              .model_len_max = cases[i].model_len_max,
                                              .sequences_max = cases[i].sequences_max,
                                              .batched_tokens_max = cases[i].batched_tokens_max,
                                              .table_max = cases[i].table_max,
                                              .prefill_chunk_max = cases[i].prefill_chunk_max,
                                              .batching = (enum med_batching)cases[i].batching,
                                              .batch_wait_ns = cases[i].batch_wait_ns};
        struct med_scheduler *s = NULL;
        struct med_err err = {0};
        CHECK_INT(med_scheduler_new(&config, &s, &err), MED_E_INVALID);
        CHECK_CONTAINS(err.text, cases[i].text);
        CHECK(s == NULL);
    }
}

static void test_new_when_any_allocation_fails_then_no_memory_and_no_leak(void)
{
    int64_t live = med_alloc_bytes_live();
    bool succeeded = false;
    int failures = 0;
    for (uint64_t n = 1; n < 40 && !succeeded; n++) {
        struct med_scheduler *s = NULL;
        struct med_err err = {0};
        (void)med_alloc_fail_nth(n);
        int rc = med_scheduler_new(&small, &s, &err);
        (void)med_alloc_fail_nth(0);
        succeeded = rc == 0;
        if (!succeeded) {
            failures++;
            CHECK_INT(rc, MED_E_NOMEM);
            CHECK(s == NULL);
            CHECK_CONTAINS(err.text, "no memory");
        }
        med_scheduler_free(s);
        CHECK_INT(med_alloc_bytes_live(), live);
    }
    CHECK(succeeded);
    CHECK(failures >= 8);
}

static void test_add_when_it_can_never_fit_then_invalid(void)
{
    struct med_scheduler_config config = small;
    config.kv_tokens = 47; /* 11 whole blocks: 44 tokens */
    struct med_scheduler *s = make(&config);
    CHECK_INT(add(s, 1, 0, 4), MED_E_INVALID);
    CHECK_INT(add(s, 1, 4, 0), MED_E_INVALID);
    CHECK_INT(add(s, 1, 40, 5), MED_E_INVALID);
    CHECK_INT(add(s, 1, INT64_MAX, INT64_MAX), MED_E_INVALID);
    CHECK_INT(add(s, 1, 1, INT64_MAX), MED_E_INVALID);
    CHECK(!med_scheduler_has_work(s));
    CHECK_INT(add(s, 1, 40, 4), 0);
    med_scheduler_free(s);
    config.kv_tokens = 64;
    config.model_len_max = 20;
    s = make(&config);
    CHECK_INT(add(s, 1, 16, 5), MED_E_INVALID);
    CHECK_INT(add(s, 1, 16, 4), 0);
    med_scheduler_free(s);
}

static void test_add_when_table_is_full_then_again(void)
{
    struct med_scheduler *s = make(&small);
    for (uint64_t id = 0; id < 8; id++)
        CHECK_INT(add(s, id, 4, 1), 0);
    CHECK_INT(add(s, 8, 4, 1), MED_E_AGAIN);
    const struct med_sequence_event *events;
    CHECK_UINT(step(s, &events), 4);
    CHECK_INT(add(s, 8, 4, 1), 0);
    med_scheduler_check(s);
    med_scheduler_free(s);
}

static void test_add_when_prompt_fills_the_whole_cache_then_still_runs(void)
{
    struct med_scheduler *s = make(&small);
    const struct med_sequence_event *events;
    CHECK_INT(add(s, 1, 60, 4), 0);
    int steps = 0;
    while (med_scheduler_has_work(s) && steps < 100) {
        (void)step(s, &events);
        steps++;
    }
    CHECK_INT(steps, 4 + 3); /* 60 tokens in chunks of 16 give the first, then three decodes */
    CHECK_INT(preemptions(s), 0);
    med_scheduler_free(s);
}

static void test_prefill_when_longer_than_the_budget_then_chunks_and_one_first_token(void)
{
    struct med_scheduler *s = make(&small);
    const struct med_sequence_event *events;
    CHECK_INT(add(s, 7, 35, 2), 0);
    static const int64_t chunks[] = {16, 16, 3}, contexts[] = {0, 16, 32};
    for (int i = 0; i < 3; i++) {
        const struct med_batch *batch = med_scheduler_plan(s, 0);
        REQUIRE(batch->count == 1);
        CHECK_INT(batch->items[0].tokens, chunks[i]);
        CHECK_INT(batch->items[0].context, contexts[i]);
        CHECK(batch->items[0].prefill);
        CHECK(batch->items[0].samples == (i == 2));
        CHECK_INT(batch->load.prefill_pairs, med_step_pairs(chunks[i], contexts[i]));
        CHECK_UINT(med_scheduler_commit(s, NULL, &events), i == 2 ? 1 : 0);
    }
    CHECK_INT(events[0].position, 0);
    CHECK_INT(events[0].end, MED_END_NONE);
    const struct med_batch *batch = med_scheduler_plan(s, 0);
    REQUIRE(batch->count == 1);
    CHECK(!batch->items[0].prefill);
    CHECK_INT(batch->items[0].context, 35);
    CHECK_INT(batch->load.decode_sequences, 1);
    CHECK_INT(batch->load.decode_context_tokens, 35);
    CHECK_UINT(med_scheduler_commit(s, NULL, &events), 1);
    CHECK_INT(events[0].position, 1);
    CHECK_INT(events[0].end, MED_END_LENGTH);
    CHECK(!med_scheduler_has_work(s));
    med_scheduler_free(s);
}

static void test_plan_when_decodes_and_prefills_compete_then_decodes_come_first(void)
{
    struct med_scheduler *s = make(&small);
    const struct med_sequence_event *events;
    CHECK_INT(add(s, 1, 4, 10), 0);
    CHECK_INT(add(s, 2, 4, 10), 0);
    CHECK_UINT(step(s, &events), 2);
    CHECK_INT(add(s, 3, 20, 2), 0);
    CHECK_INT(add(s, 4, 5, 2), 0);
    const struct med_batch *batch = med_scheduler_plan(s, 0);
    REQUIRE(batch->count == 3);
    CHECK_UINT(batch->items[0].id, 1);
    CHECK_UINT(batch->items[1].id, 2);
    CHECK_UINT(batch->items[2].id, 3); /* takes the rest of the budget; 4 waits its turn */
    CHECK_INT(batch->items[2].tokens, 14);
    CHECK_UINT(med_scheduler_commit(s, NULL, &events), 2);
    batch = med_scheduler_plan(s, 0);
    REQUIRE(batch->count == 4);
    CHECK_INT(batch->items[2].tokens, 6);
    CHECK_UINT(batch->items[3].id, 4);
    CHECK_INT(batch->items[3].tokens, 5);
    CHECK_UINT(med_scheduler_commit(s, NULL, &events), 4);
    med_scheduler_free(s);
}

static void test_admission_when_head_does_not_fit_then_nobody_overtakes(void)
{
    struct med_scheduler *s = make(&small);
    const struct med_sequence_event *events;
    CHECK_INT(add(s, 1, 8, 30), 0);
    CHECK_UINT(step(s, &events), 1);
    CHECK_INT(add(s, 2, 56, 4), 0); /* 14 blocks and one more; 13 are free */
    CHECK_INT(add(s, 3, 4, 1), 0);  /* would fit */
    const struct med_batch *batch = med_scheduler_plan(s, 0);
    CHECK_UINT(batch->count, 1);
    (void)med_scheduler_commit(s, NULL, &events);
    CHECK_INT(med_scheduler_cancel(s, 2), 0);
    CHECK_UINT(step(s, &events), 3); /* 1's token, 3's token, 2's end */
    med_scheduler_free(s);
}

static void test_decode_when_no_block_is_free_then_newest_is_recomputed_without_repeats(void)
{
    struct med_scheduler_config config = small;
    config.kv_tokens = 24; /* 6 blocks */
    struct med_scheduler *s = make(&config);
    const struct med_sequence_event *events;
    CHECK_INT(add(s, 1, 8, 12), 0);
    CHECK_INT(add(s, 2, 8, 12), 0);
    int64_t next[3] = {0}, ends[3] = {0}, recomputed = 0;
    for (int i = 0; i < 200 && med_scheduler_has_work(s); i++) {
        const struct med_batch *batch = med_scheduler_plan(s, 0);
        med_scheduler_check(s);
        for (size_t k = 0; k < batch->count; k++) {
            if (batch->items[k].prefill && batch->items[k].position > 0) {
                CHECK_UINT(batch->items[k].id, 2); /* the newest */
                CHECK_INT(batch->items[k].tokens, 8 + next[2]);
                recomputed++;
            }
        }
        size_t count = med_scheduler_commit(s, NULL, &events);
        for (size_t k = 0; k < count; k++) {
            CHECK_INT(events[k].position, next[events[k].id]);
            next[events[k].id]++;
            ends[events[k].id] += events[k].end == MED_END_LENGTH;
        }
    }
    CHECK_INT(next[1], 12);
    CHECK_INT(next[2], 12);
    CHECK_INT(ends[1], 1);
    CHECK_INT(ends[2], 1);
    CHECK(recomputed > 0);
    CHECK(preemptions(s) > 0);
    med_scheduler_free(s);
}

static void test_add_when_it_goes_on_from_elsewhere_then_all_is_prefilled_and_positions_go_on(void)
{
    struct med_scheduler *s = make(&small);
    const struct med_sequence_event *events;
    struct med_sequence_spec spec = {
        .id = 7, .prompt_tokens = 10, .output_tokens_max = 9, .output_tokens = 9};
    CHECK_INT(med_scheduler_add(s, &spec), MED_E_INVALID); /* nothing is left */
    spec.output_tokens = -1;
    CHECK_INT(med_scheduler_add(s, &spec), MED_E_INVALID);
    spec.output_tokens = 7;
    CHECK_INT(med_scheduler_add(s, &spec), 0);
    const struct med_batch *batch = med_scheduler_plan(s, 0);
    REQUIRE(batch->count == 1);
    CHECK(batch->items[0].prefill);
    CHECK_INT(batch->items[0].tokens, 16); /* the whole budget */
    CHECK(!batch->items[0].samples);
    CHECK_INT((int64_t)med_scheduler_commit(s, NULL, &events), 0);
    batch = med_scheduler_plan(s, 0);
    REQUIRE(batch->count == 1);
    CHECK_INT(batch->items[0].tokens, 1); /* of 10 + 7 */
    CHECK(batch->items[0].samples);
    REQUIRE(med_scheduler_commit(s, NULL, &events) == 1);
    CHECK_INT(events[0].position, 7);
    CHECK_INT(events[0].end, MED_END_NONE);
    REQUIRE(step(s, &events) == 1);
    CHECK_INT(events[0].position, 8);
    CHECK_INT(events[0].end, MED_END_LENGTH);
    struct med_scheduler_stats stats;
    med_scheduler_get_stats(s, &stats);
    CHECK_UINT(stats.generated_tokens_total, 2); /* what was delivered here */
    CHECK_UINT(stats.prompt_tokens_total, 17);   /* what was computed */
    med_scheduler_free(s);
}

static void test_cancel_when_running_then_ends_with_the_next_commit_and_blocks_return(void)
{
    struct med_scheduler *s = make(&small);
    const struct med_sequence_event *events;
    struct med_scheduler_stats stats;
    CHECK_INT(add(s, 1, 8, 10), 0);
    CHECK_INT(add(s, 2, 8, 10), 0);
    CHECK_UINT(step(s, &events), 2);
    const struct med_batch *batch = med_scheduler_plan(s, 0);
    CHECK_UINT(batch->count, 2);
    CHECK_INT(med_scheduler_cancel(s, 1), 0);
    CHECK_INT(med_scheduler_cancel(s, 1), MED_E_NOT_FOUND);
    CHECK_INT(med_scheduler_cancel(s, 9), MED_E_NOT_FOUND);
    med_scheduler_check(s);
    med_scheduler_get_stats(s, &stats);
    CHECK_INT(stats.kv_blocks_free, 16 - 6); /* the running batch still uses them */
    size_t count = med_scheduler_commit(s, NULL, &events);
    CHECK_UINT(count, 2);
    CHECK_UINT(events[0].id, 2);
    CHECK_INT(events[0].position, 1);
    CHECK_UINT(events[1].id, 1);
    CHECK_INT(events[1].end, MED_END_CANCEL);
    CHECK_INT(events[1].position, -1);
    med_scheduler_get_stats(s, &stats);
    CHECK_INT(stats.kv_blocks_free, 16 - 3);
    CHECK_INT(stats.running, 1);
    CHECK_UINT(stats.finished_total, 1);
    /* Between steps the blocks come back at once, and an empty batch tells of it. */
    CHECK_INT(med_scheduler_cancel(s, 2), 0);
    med_scheduler_get_stats(s, &stats);
    CHECK_INT(stats.kv_blocks_free, 16);
    CHECK(med_scheduler_has_work(s));
    batch = med_scheduler_plan(s, 0);
    CHECK_UINT(batch->count, 0);
    CHECK_UINT(med_scheduler_commit(s, NULL, &events), 1);
    CHECK_INT(events[0].end, MED_END_CANCEL);
    CHECK(!med_scheduler_has_work(s));
    CHECK_INT(add(s, 1, 8, 10), 0); /* the name is free again */
    med_scheduler_free(s);
}

static void test_commit_when_backend_says_stop_then_ends_early(void)
{
    struct med_scheduler *s = make(&small);
    const struct med_sequence_event *events;
    CHECK_INT(add(s, 1, 4, 5), 0);
    CHECK_INT(add(s, 2, 4, 1), 0);
    (void)med_scheduler_plan(s, 0);
    CHECK_UINT(med_scheduler_commit(s, (const bool[]){true, true}, &events), 2);
    CHECK_INT(events[0].end, MED_END_STOP);
    CHECK_INT(events[0].position, 0);
    CHECK_INT(events[1].end, MED_END_STOP); /* a stop at the last position is a stop */
    CHECK(!med_scheduler_has_work(s));
    med_scheduler_free(s);
}

/* ---- the budget of prefills ----------------------------------------------------------------- */

static void test_prefill_when_chunks_are_limited_then_short_ones_do_not_wait_for_a_long_one(void)
{
    struct med_scheduler_config config = small;
    config.prefill_chunk_max = 6;
    struct med_scheduler *s = make(&config);
    const struct med_sequence_event *events;
    CHECK_INT(add(s, 1, 40, 2), 0);
    const struct med_batch *batch = med_scheduler_plan(s, 0);
    REQUIRE(batch->count == 1);
    CHECK_INT(batch->items[0].tokens, 16); /* alone: all of the budget */
    CHECK_INT(batch->load.prefill_tokens, 16);
    CHECK_INT(batch->load.prefill_pairs, med_step_pairs(16, 0));
    CHECK_UINT(med_scheduler_commit(s, NULL, &events), 0);
    CHECK_INT(add(s, 2, 4, 1), 0);
    CHECK_INT(add(s, 3, 3, 1), 0);
    batch = med_scheduler_plan(s, 0);
    med_scheduler_check(s);
    REQUIRE(batch->count == 3);
    CHECK_UINT(batch->items[0].id, 1);
    CHECK_INT(batch->items[0].tokens, 9); /* 6, and what the others leave */
    CHECK(!batch->items[0].samples);
    CHECK_INT(batch->items[1].tokens, 4);
    CHECK(batch->items[1].samples);
    CHECK_INT(batch->items[2].tokens, 3);
    CHECK_INT(batch->load.prefill_tokens, 16);
    CHECK_INT(batch->load.prefill_pairs,
              med_step_pairs(9, 16) + med_step_pairs(4, 0) + med_step_pairs(3, 0));
    CHECK_UINT(med_scheduler_commit(s, NULL, &events), 2);
    batch = med_scheduler_plan(s, 0);
    REQUIRE(batch->count == 1);
    CHECK_INT(batch->items[0].tokens, 15); /* extended to its end: it samples */
    CHECK(batch->items[0].samples);
    CHECK_UINT(med_scheduler_commit(s, NULL, &events), 1);
    med_scheduler_free(s);
}

static void test_prefill_when_newer_ones_keep_coming_then_a_long_one_still_gets_its_share(void)
{
    struct med_scheduler_config config = small;
    config.prefill_chunk_max = 6;
    struct med_scheduler *s = make(&config);
    CHECK_INT(add(s, 1, 40, 1), 0);
    uint64_t id = 1;
    int steps = 0;
    for (bool ended = false; !ended && steps < 100; steps++) {
        while (add(s, id + 1, 5, 1) == 0)
            id++;
        (void)med_scheduler_plan(s, 0);
        med_scheduler_check(s);
        const struct med_sequence_event *events;
        size_t count = med_scheduler_commit(s, NULL, &events);
        for (size_t i = 0; i < count; i++)
            ended |= events[i].id == 1;
    }
    CHECK_INT(steps, 7); /* 40 tokens, 6 at a time */
    med_scheduler_free(s);
}

static void test_admission_when_a_huge_prompt_waits_then_it_runs_once_those_before_it_end(void)
{
    struct med_scheduler *s = make(&small);
    const struct med_sequence_event *events;
    CHECK_INT(add(s, 1, 4, 20), 0);
    CHECK_INT(add(s, 2, 4, 12), 0);
    CHECK_UINT(step(s, &events), 2);
    CHECK_INT(add(s, 3, 60, 2), 0); /* the whole cache */
    uint64_t id = 3;
    bool first = false, short_before = false;
    for (int i = 0; i < 40 && !first; i++) {
        if (add(s, id + 1, 4, 1) == 0)
            id++;
        size_t count = step(s, &events);
        for (size_t k = 0; k < count; k++) {
            first |= events[k].id == 3;
            short_before |= !first && events[k].id > 3;
        }
    }
    CHECK(first);
    CHECK(!short_before); /* nobody overtakes it */
    for (int i = 0; i < 100 && med_scheduler_has_work(s); i++)
        (void)step(s, &events);
    CHECK(!med_scheduler_has_work(s)); /* and it holds nobody for ever */
    med_scheduler_free(s);
}

/* ---- batching ------------------------------------------------------------------------------- */

static void add_at(struct med_scheduler *s, uint64_t id, int64_t output, int64_t at_ns)
{
    struct med_sequence_spec spec = {
        .id = id, .prompt_tokens = 4, .output_tokens_max = output, .arrival_ns = at_ns};
    CHECK_INT(med_scheduler_add(s, &spec), 0);
}

/* Plans and commits; returns how many items the batch had. */
static size_t step_at(struct med_scheduler *s, int64_t now_ns)
{
    const struct med_sequence_event *events;
    size_t count = med_scheduler_plan(s, now_ns)->count;
    med_scheduler_check(s);
    (void)med_scheduler_commit(s, NULL, &events);
    med_scheduler_check(s);
    return count;
}

static struct med_scheduler *make_batching(enum med_batching batching)
{
    struct med_scheduler_config config = small;
    config.batching = batching;
    config.batch_wait_ns = 100;
    return make(&config);
}

static void test_continuous_when_anything_is_held_then_next_is_now(void)
{
    struct med_scheduler *s = make(&small);
    CHECK_INT(med_scheduler_next_ns(s), INT64_MAX);
    add_at(s, 1, 2, 1000);
    CHECK_INT(med_scheduler_next_ns(s), INT64_MIN);
    CHECK_UINT(step_at(s, 0), 1);
    CHECK_INT(med_scheduler_next_ns(s), INT64_MIN);
    CHECK_UINT(step_at(s, 0), 1);
    CHECK_INT(med_scheduler_next_ns(s), INT64_MAX);
    med_scheduler_free(s);
}

static void test_dynamic_when_its_oldest_waited_enough_then_starts_and_nobody_joins(void)
{
    struct med_scheduler *s = make_batching(MED_BATCHING_DYNAMIC);
    CHECK_INT(med_scheduler_next_ns(s), INT64_MAX);
    add_at(s, 1, 3, 1000);
    CHECK_INT(med_scheduler_next_ns(s), 1100);
    CHECK_UINT(step_at(s, 1099), 0);
    add_at(s, 2, 1, 1099);
    CHECK_INT(med_scheduler_next_ns(s), 1100); /* a newer one does not put it off */
    CHECK_UINT(step_at(s, 1100), 2);
    CHECK_INT(med_scheduler_next_ns(s), INT64_MIN);
    add_at(s, 3, 1, 1101);
    CHECK_UINT(step_at(s, 5000), 1); /* 1 alone: 2 has ended, 3 does not join */
    CHECK_UINT(step_at(s, 5000), 1);
    CHECK_INT(med_scheduler_next_ns(s), 1201);
    CHECK_UINT(step_at(s, 5000), 1); /* 3's batch, long due */
    CHECK_INT(med_scheduler_next_ns(s), INT64_MAX);
    med_scheduler_free(s);
}

static void test_static_when_nobody_came_for_long_enough_then_starts(void)
{
    struct med_scheduler *s = make_batching(MED_BATCHING_STATIC);
    add_at(s, 1, 2, 1000);
    CHECK_INT(med_scheduler_next_ns(s), 1100);
    add_at(s, 2, 2, 1099);
    CHECK_INT(med_scheduler_next_ns(s), 1199); /* a newer one puts it off */
    CHECK_UINT(step_at(s, 1198), 0);
    CHECK_UINT(step_at(s, 1199), 2);
    add_at(s, 3, 1, 1200);
    CHECK_UINT(step_at(s, 1300), 2);
    CHECK_UINT(step_at(s, 1300), 1);
    med_scheduler_free(s);
}

static void test_batches_when_as_many_wait_as_can_run_then_start_at_once(void)
{
    static const enum med_batching kinds[] = {MED_BATCHING_DYNAMIC, MED_BATCHING_STATIC};
    for (int k = 0; k < 2; k++) {
        struct med_scheduler *s = make_batching(kinds[k]);
        for (uint64_t id = 1; id <= 3; id++)
            add_at(s, id, 2, 1000);
        CHECK_UINT(step_at(s, 1000), 0);
        add_at(s, 4, 2, 1000);
        add_at(s, 5, 2, 1000);
        CHECK_INT(med_scheduler_next_ns(s), INT64_MIN);
        CHECK_UINT(step_at(s, 1000), 4);
        CHECK_UINT(step_at(s, 1000), 4);
        CHECK_INT(med_scheduler_next_ns(s), 1100); /* the fifth */
        CHECK_UINT(step_at(s, 1099), 0);
        CHECK_INT(med_scheduler_cancel(s, 5), 0);
        CHECK_INT(med_scheduler_next_ns(s), INT64_MIN); /* its end is to be told */
        CHECK_UINT(step_at(s, 1099), 0);
        CHECK_INT(med_scheduler_next_ns(s), INT64_MAX);
        med_scheduler_free(s);
    }
}

static void test_batch_when_its_prompts_exceed_the_budget_then_its_members_still_get_in(void)
{
    struct med_scheduler *s = make_batching(MED_BATCHING_STATIC); /* 16 tokens an iteration */
    const struct med_sequence_event *events;
    for (uint64_t id = 1; id <= 3; id++)
        CHECK_INT(add(s, id, 12, 4), 0);
    CHECK_UINT(step_at(s, 100), 2); /* 12 and 4 of them */
    add_at(s, 4, 1, 100);
    CHECK_INT(med_scheduler_cancel(s, 2), 0);
    const struct med_batch *batch = med_scheduler_plan(s, 100);
    REQUIRE(batch->count == 2);
    CHECK_UINT(batch->items[0].id, 1);
    CHECK_UINT(batch->items[1].id, 3);
    (void)med_scheduler_commit(s, NULL, &events);
    CHECK_INT(med_scheduler_cancel(s, 3), 0);
    for (int i = 0; i < 2; i++) {
        batch = med_scheduler_plan(s, 1000);
        REQUIRE(batch->count == 1);
        CHECK_UINT(batch->items[0].id, 1);
        (void)med_scheduler_commit(s, NULL, &events);
    }
    batch = med_scheduler_plan(s, 1000);
    REQUIRE(batch->count == 1);
    CHECK_UINT(batch->items[0].id, 4);
    (void)med_scheduler_commit(s, NULL, &events);
    med_scheduler_free(s);
}

static void test_batch_when_blocks_are_few_then_holds_those_that_fit(void)
{
    struct med_scheduler *s = make_batching(MED_BATCHING_STATIC); /* 16 blocks */
    const struct med_sequence_event *events;
    for (uint64_t id = 1; id <= 4; id++)
        CHECK_INT(add(s, id, 20, 4), 0); /* 6 blocks each, with the next one */
    size_t ends[5] = {0};
    int64_t step_of[5] = {0}, steps = 0;
    for (; steps < 100 && med_scheduler_has_work(s); steps++) {
        size_t count = 0;
        (void)med_scheduler_plan(s, 1000);
        med_scheduler_check(s);
        count = med_scheduler_commit(s, NULL, &events);
        for (size_t i = 0; i < count; i++) {
            if (events[i].end == MED_END_NONE)
                continue;
            ends[events[i].id]++;
            step_of[events[i].id] = steps;
        }
    }
    for (int id = 1; id <= 4; id++)
        CHECK_UINT(ends[id], 1);
    CHECK(step_of[3] - step_of[2] >= 5); /* its prefill begins when 1 and 2 have ended */
    med_scheduler_free(s);
}

/* ---- torture -------------------------------------------------------------------------------- */

enum {
    REQUESTS = 4000,
    CELLS_MAX = 4096
};

struct model_request {
    int64_t prompt, output, delivered;
    int64_t ends;
    bool cancelled;
};

struct model {
    struct med_scheduler_config config;
    struct med_scheduler *s;
    struct med_rng rng;
    struct model_request requests[REQUESTS];
    uint64_t added; /* ids 0 .. added-1 */
    int64_t held;
    struct {
        uint64_t id;
        int64_t token;
    } cells[CELLS_MAX];
    uint64_t cancels, delivered;
};

static void model_add(struct model *m)
{
    int64_t capacity = m->config.kv_tokens / m->config.block_tokens * m->config.block_tokens;
    int64_t room = capacity < m->config.model_len_max ? capacity : m->config.model_len_max;
    int64_t prompt = 1 + med_rng_below(&m->rng, (uint32_t)room);
    if (med_rng_below(&m->rng, 3) != 0)
        prompt = 1 + prompt / 6;
    int64_t output = 1 + med_rng_below(&m->rng, (uint32_t)room / 2);
    int want = prompt + output > room           ? MED_E_INVALID
               : m->held == m->config.table_max ? MED_E_AGAIN
                                                : 0;
    /* Some go on from elsewhere. */
    int64_t said = med_rng_below(&m->rng, 4) == 0 ? med_rng_below(&m->rng, (uint32_t)output) : 0;
    struct med_sequence_spec spec = {.id = m->added,
                                     .prompt_tokens = prompt,
                                     .output_tokens_max = output,
                                     .output_tokens = said};
    int rc = med_scheduler_add(m->s, &spec);
    CHECK_INT(rc, want);
    if (rc == 0) {
        m->requests[m->added++] =
            (struct model_request){.prompt = prompt, .output = output, .delivered = said};
        m->held++;
    }
}

static void model_cancel(struct model *m)
{
    if (m->added == 0)
        return;
    uint64_t back = med_rng_below(&m->rng, 40);
    uint64_t id = back < m->added ? m->added - 1 - back : 0;
    struct model_request *r = &m->requests[id];
    bool held = r->ends == 0 && !r->cancelled;
    CHECK_INT(med_scheduler_cancel(m->s, id), held ? 0 : MED_E_NOT_FOUND);
    r->cancelled |= held;
    m->cancels += held;
}

/* Plays the backend: reads and writes the cells that the item's block table names. */
static void model_compute(struct model *m, const struct med_batch_item *item)
{
    const struct model_request *r = &m->requests[item->id];
    int64_t known = r->prompt + r->delivered, bt = m->config.block_tokens;
    CHECK_INT(item->position, r->delivered);
    CHECK(item->tokens >= 1);
    CHECK(item->samples == (item->context + item->tokens == known));
    CHECK(item->block_count * bt >= item->context + item->tokens);
    if (!item->prefill) {
        CHECK_INT(item->tokens, 1);
        CHECK(item->samples);
    }
    int64_t wrong = 0;
    for (int64_t t = 0; t < item->context + item->tokens; t++) {
        int64_t cell = item->blocks[t / bt] * bt + t % bt;
        REQUIRE(cell >= 0 && cell < m->config.kv_tokens);
        if (t >= item->context) {
            m->cells[cell].id = item->id;
            m->cells[cell].token = t;
        }
        wrong += m->cells[cell].id != item->id || m->cells[cell].token != t;
    }
    CHECK_INT(wrong, 0);
}

static void model_check_batch(struct model *m, const struct med_batch *batch)
{
    struct med_step_load load = {0};
    bool prefills_begun = false;
    for (size_t i = 0; i < batch->count; i++) {
        const struct med_batch_item *item = &batch->items[i];
        model_compute(m, item);
        prefills_begun |= item->prefill;
        CHECK(item->prefill == prefills_begun);
        if (item->prefill) {
            load.prefill_tokens += item->tokens;
            load.prefill_pairs += med_step_pairs(item->tokens, item->context);
        } else {
            load.decode_sequences++;
            load.decode_context_tokens += item->context;
        }
    }
    CHECK((int64_t)batch->count <= m->config.sequences_max);
    CHECK(load.prefill_tokens + load.decode_sequences <= m->config.batched_tokens_max);
    CHECK_INT(load.prefill_tokens, batch->load.prefill_tokens);
    CHECK_INT(load.prefill_pairs, batch->load.prefill_pairs);
    CHECK_INT(load.decode_sequences, batch->load.decode_sequences);
    CHECK_INT(load.decode_context_tokens, batch->load.decode_context_tokens);
}

static void model_take_event(struct model *m, const struct med_sequence_event *event)
{
    REQUIRE(event->id < m->added);
    struct model_request *r = &m->requests[event->id];
    CHECK_INT(r->ends, 0); /* nothing after the end */
    CHECK(r->cancelled == (event->end == MED_END_CANCEL));
    if (event->end == MED_END_CANCEL) {
        CHECK_INT(event->position, -1);
    } else {
        CHECK_INT(event->position, r->delivered);
        r->delivered++;
        m->delivered++;
        CHECK(r->delivered < r->output || event->end != MED_END_NONE);
        CHECK(r->delivered == r->output || event->end != MED_END_LENGTH);
    }
    if (event->end != MED_END_NONE) {
        r->ends++;
        m->held--;
    }
}

static void model_step(struct model *m, bool busy)
{
    bool stop[64];
    if (busy && med_rng_below(&m->rng, 2) == 0) {
        for (uint32_t n = med_rng_below(&m->rng, 4); n > 0; n--)
            model_add(m);
    }
    if (busy && med_rng_below(&m->rng, 12) == 0)
        model_cancel(m);
    const struct med_batch *batch = med_scheduler_plan(m->s, 0);
    REQUIRE(batch->count <= 64);
    med_scheduler_check(m->s);
    model_check_batch(m, batch);
    for (size_t i = 0; i < batch->count; i++)
        stop[i] = med_rng_below(&m->rng, 60) == 0;
    if (busy && med_rng_below(&m->rng, 4) == 0)
        model_add(m);
    if (busy && med_rng_below(&m->rng, 12) == 0)
        model_cancel(m);
    med_scheduler_check(m->s);
    const struct med_sequence_event *events;
    size_t count = med_scheduler_commit(m->s, stop, &events);
    for (size_t i = 0; i < count; i++)
        model_take_event(m, &events[i]);
    med_scheduler_check(m->s);
    CHECK(med_scheduler_has_work(m->s) == (m->held > 0));
}

static void torture(const struct med_scheduler_config *config, uint64_t stream)
{
    static struct model m;
    m = (struct model){.config = *config, .s = make(config)};
    med_rng_init(&m.rng, check_seed(), stream);
    (void)med_alloc_fail_nth(0);
    int steps = 0;
    while (m.added + 8 < REQUESTS && steps < 5000) {
        model_step(&m, true);
        steps++;
    }
    int64_t idle = 0;
    while (med_scheduler_has_work(m.s) && idle < 200000) {
        model_step(&m, false);
        idle++;
    }
    CHECK_UINT(med_alloc_fail_nth(0), 0); /* nothing was allocated by the steps */
    CHECK(!med_scheduler_has_work(m.s));
    uint64_t ended = 0;
    for (uint64_t id = 0; id < m.added; id++)
        ended += m.requests[id].ends == 1;
    CHECK_UINT(ended, m.added);
    struct med_scheduler_stats stats;
    med_scheduler_get_stats(m.s, &stats);
    CHECK_UINT(stats.finished_total, m.added);
    CHECK_UINT(stats.generated_tokens_total, m.delivered);
    CHECK_INT(stats.kv_blocks_free, stats.kv_blocks_total);
    CHECK_INT(stats.running + stats.waiting, 0);
    CHECK(stats.preemptions > 10);
    CHECK(m.cancels > 10);
    printf("%d steps, %" PRIu64 " requests, %" PRIu64 " tokens, %" PRIu64 " preemptions\n", steps,
           m.added, m.delivered, stats.preemptions);
    med_scheduler_free(m.s);
}

static void test_torture_when_cache_is_tight_then_every_request_ends_once(void)
{
    torture(&(struct med_scheduler_config){.block_tokens = 4,
                                           .kv_tokens = 130,
                                           .model_len_max = 90,
                                           .sequences_max = 8,
                                           .batched_tokens_max = 24,
                                           .table_max = 30},
            1);
}

static void test_torture_when_blocks_are_single_tokens_then_every_request_ends_once(void)
{
    torture(&(struct med_scheduler_config){.block_tokens = 1,
                                           .kv_tokens = 70,
                                           .model_len_max = 200,
                                           .sequences_max = 16,
                                           .batched_tokens_max = 16,
                                           .table_max = 17},
            2);
}

static void test_torture_when_cache_is_wide_then_every_request_ends_once(void)
{
    torture(&(struct med_scheduler_config){.block_tokens = 16,
                                           .kv_tokens = 2048,
                                           .model_len_max = 512,
                                           .sequences_max = 40,
                                           .batched_tokens_max = 256,
                                           .table_max = 64},
            3);
}

int main(void)
{
    RUN(test_new_when_config_is_wrong_then_says_which_field);
    RUN(test_new_when_any_allocation_fails_then_no_memory_and_no_leak);
    RUN(test_add_when_it_can_never_fit_then_invalid);
    RUN(test_add_when_table_is_full_then_again);
    RUN(test_add_when_prompt_fills_the_whole_cache_then_still_runs);
    RUN(test_prefill_when_longer_than_the_budget_then_chunks_and_one_first_token);
    RUN(test_plan_when_decodes_and_prefills_compete_then_decodes_come_first);
    RUN(test_admission_when_head_does_not_fit_then_nobody_overtakes);
    RUN(test_decode_when_no_block_is_free_then_newest_is_recomputed_without_repeats);
    RUN(test_add_when_it_goes_on_from_elsewhere_then_all_is_prefilled_and_positions_go_on);
    RUN(test_cancel_when_running_then_ends_with_the_next_commit_and_blocks_return);
    RUN(test_commit_when_backend_says_stop_then_ends_early);
    RUN(test_prefill_when_chunks_are_limited_then_short_ones_do_not_wait_for_a_long_one);
    RUN(test_prefill_when_newer_ones_keep_coming_then_a_long_one_still_gets_its_share);
    RUN(test_admission_when_a_huge_prompt_waits_then_it_runs_once_those_before_it_end);
    RUN(test_continuous_when_anything_is_held_then_next_is_now);
    RUN(test_dynamic_when_its_oldest_waited_enough_then_starts_and_nobody_joins);
    RUN(test_static_when_nobody_came_for_long_enough_then_starts);
    RUN(test_batches_when_as_many_wait_as_can_run_then_start_at_once);
    RUN(test_batch_when_its_prompts_exceed_the_budget_then_its_members_still_get_in);
    RUN(test_batch_when_blocks_are_few_then_holds_those_that_fit);
    RUN(test_torture_when_cache_is_tight_then_every_request_ends_once);
    RUN(test_torture_when_blocks_are_single_tokens_then_every_request_ends_once);
    RUN(test_torture_when_cache_is_wide_then_every_request_ends_once);
    return check_finish();
}
