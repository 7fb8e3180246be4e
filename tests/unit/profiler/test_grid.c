/* SPDX-License-Identifier: Apache-2.0 */
/* The grid against times that are a formula: what is asked for can be run, covers the limits, follows the
 * error of interpolation, and is the same after a resume. */
#include "profiles/profiler/grid.h"

#include "profiles/profiler/steps.h"
#include "tests/check.h"

#include <math.h>
#include <string.h>

static const struct med_engine_limits shapes[] = {
    {.model_len_max = 4096,
     .sequences_max = 256,
     .batched_tokens_max = 2048,
     .block_tokens = 16,
     .kv_tokens = 105008},
    {.model_len_max = 14880,
     .sequences_max = 256,
     .batched_tokens_max = 2048,
     .block_tokens = 16,
     .kv_tokens = 14880},
    {.model_len_max = 8192,
     .sequences_max = 1024,
     .batched_tokens_max = 8192,
     .block_tokens = 32,
     .kv_tokens = 4000000},
    {.model_len_max = 64,
     .sequences_max = 1,
     .batched_tokens_max = 1,
     .block_tokens = 1,
     .kv_tokens = 64},
    {.model_len_max = 2,
     .sequences_max = 2,
     .batched_tokens_max = 2,
     .block_tokens = 1,
     .kv_tokens = 2},
};

static double smooth_ms(const struct med_step_grid_point *p)
{
    return 5 + 0.01 * (double)p->prefill_tokens + 0.02 * (double)p->decode_sequences +
           1e-4 * (double)(p->decode_sequences * p->decode_context);
}

/* A step between batches of 16 and more: graphs of another size, say. */
static double stepped_ms(const struct med_step_grid_point *p)
{
    return smooth_ms(p) * (p->decode_sequences > 20 && p->prefill_tokens == 0 ? 2 : 1);
}

static void check_point(const struct med_engine_limits *l, const struct med_step_grid_point *p)
{
    CHECK(p->prefill_tokens + p->decode_sequences >= 1);
    CHECK(p->prefill_tokens + p->decode_sequences <= l->batched_tokens_max);
    CHECK(p->decode_sequences + (p->prefill_tokens > 0) <= l->sequences_max);
    CHECK(p->prefill_tokens + p->prefill_context < l->model_len_max);
    CHECK(p->decode_context < l->model_len_max);
    int64_t tokens =
        p->prefill_tokens + p->prefill_context + p->decode_sequences * p->decode_context;
    CHECK(tokens < l->kv_tokens);
    CHECK(p->decode_sequences == 0 || p->decode_context >= 1);
    CHECK(p->prefill_tokens > 0 || p->prefill_context == 0);
}

static size_t run(const struct med_engine_limits *l,
                  double (*ms)(const struct med_step_grid_point *), struct med_step_grid *g)
{
    struct med_step_grid_point p;
    REQUIRE(med_step_grid_init(g, l, 0.02) == 0);
    while (med_step_grid_next(g, &p)) {
        check_point(l, &p);
        for (size_t i = 0; i < g->done_count; i++)
            CHECK(memcmp(&g->done[i], &p, sizeof p) != 0);
        med_step_grid_add(g, &p, ms(&p));
    }
    return g->done_count;
}

static void test_grid_when_limits_are_any_then_points_can_be_run(void)
{
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        struct med_step_grid g;
        size_t count = run(&shapes[i], smooth_ms, &g);
        CHECK(count < MED_GRID_POINTS_MAX);
        CHECK(i > 2 || count > 40);
        med_step_grid_release(&g);
    }
}

static void test_grid_when_short_of_time_then_the_corners_come_first(void)
{
    struct med_step_grid g;
    struct med_step_grid_point p;
    bool one = false, all = false, prefill = false, mixed = false;
    REQUIRE(med_step_grid_init(&g, &shapes[0], 0.02) == 0);
    for (int i = 0; i < 24 && med_step_grid_next(&g, &p); i++) {
        one |= p.decode_sequences == 1 && p.prefill_tokens == 0;
        all |= p.decode_sequences == 256 && p.prefill_tokens == 0;
        prefill |= p.prefill_tokens == 2048;
        mixed |= p.prefill_tokens > 0 && p.decode_sequences > 0;
        med_step_grid_add(&g, &p, smooth_ms(&p));
    }
    CHECK(one && all && prefill && mixed);
    med_step_grid_release(&g);
}

static void test_grid_when_times_step_then_it_looks_there(void)
{
    struct med_step_grid plain, stepped;
    size_t before = run(&shapes[0], smooth_ms, &plain);
    size_t after = run(&shapes[0], stepped_ms, &stepped);
    size_t near = 0;
    CHECK(after > before);
    for (size_t i = 0; i < stepped.done_count; i++) {
        const struct med_step_grid_point *p = &stepped.done[i];
        near += p->prefill_tokens == 0 && p->decode_sequences > 16 && p->decode_sequences < 64;
    }
    CHECK(near >= 4);
    med_step_grid_release(&plain);
    med_step_grid_release(&stepped);
}

/* Products go by tiles of rows: what tokens take rises behind each 128, and hardly between. */
static double tiled_ms(const struct med_step_grid_point *p)
{
    double tokens = (double)(p->prefill_tokens + p->decode_sequences);
    return 4 + 1.5 * ceil(tokens / 128) + 1e-4 * tokens +
           1e-5 * (double)(p->decode_sequences * p->decode_context);
}

static bool has_prefill(const struct med_step_grid *g, int64_t tokens)
{
    bool found = false;
    for (size_t i = 0; i < g->done_count; i++) {
        const struct med_step_grid_point *p = &g->done[i];
        found |= p->prefill_tokens == tokens && p->prefill_context == 0 && p->decode_sequences == 0;
    }
    return found;
}

static void test_grid_when_tokens_are_a_staircase_then_both_ends_of_each_step_are_measured(void)
{
    static const int64_t ends[] = {64,  128, 192, 256,  320,  384,  448, 512,
                                   640, 768, 896, 1024, 1280, 1536, 1792};
    struct med_step_grid g;
    run(&shapes[0], tiled_ms, &g);
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        CHECK(has_prefill(&g, ends[i]) && has_prefill(&g, ends[i] + 1));
    med_step_grid_release(&g);
}

static void test_grid_when_resumed_then_it_goes_on_as_it_would_have(void)
{
    struct med_step_grid whole, again;
    size_t count = run(&shapes[0], stepped_ms, &whole);
    for (size_t cut = 0; cut < count; cut += 17) {
        struct med_step_grid_point p;
        REQUIRE(med_step_grid_init(&again, &shapes[0], 0.02) == 0);
        for (size_t i = 0; i < cut; i++)
            med_step_grid_add(&again, &whole.done[i], whole.ms[i]);
        for (size_t i = cut; i < cut + 5 && i < count; i++) {
            REQUIRE(med_step_grid_next(&again, &p));
            CHECK(memcmp(&p, &whole.done[i], sizeof p) == 0);
            med_step_grid_add(&again, &p, whole.ms[i]);
        }
        med_step_grid_release(&again);
    }
    med_step_grid_release(&whole);
}

static void test_grid_when_a_point_cannot_be_run_then_it_is_left_out(void)
{
    struct med_step_grid g;
    struct med_step_grid_point p;
    REQUIRE(med_step_grid_init(&g, &shapes[0], 0.02) == 0);
    while (med_step_grid_next(&g, &p))
        med_step_grid_add(&g, &p, p.decode_sequences > 100 ? NAN : smooth_ms(&p));
    CHECK(g.done_count > 40);
    CHECK_INT((int64_t)med_step_grid_coarse_left(&g), 0);
    med_step_grid_release(&g);
}

static void test_spread_when_samples_are_known_then_their_ranks(void)
{
    double samples[100], one[] = {3};
    for (int i = 0; i < 100; i++)
        samples[i] = 100 - i;
    struct med_steps_spread s = med_steps_spread_of(samples, 100);
    CHECK(s.p50 == 50);
    CHECK(s.p99 == 99);
    CHECK(fabs(s.error - 1.2533 * 25 / 0.6745 / 10 / 50) < 1e-9);
    s = med_steps_spread_of(one, 1);
    CHECK(s.p50 == 3 && s.p99 == 3 && s.error == 0);
    /* An outlier is in p99 and moves nothing else. */
    for (int i = 0; i < 100; i++)
        samples[i] = i < 98 ? 10 : 1000;
    s = med_steps_spread_of(samples, 100);
    CHECK(s.p50 == 10 && s.p99 == 1000 && s.error == 0);
}

int main(void)
{
    RUN(test_grid_when_limits_are_any_then_points_can_be_run);
    RUN(test_grid_when_short_of_time_then_the_corners_come_first);
    RUN(test_grid_when_times_step_then_it_looks_there);
    RUN(test_grid_when_tokens_are_a_staircase_then_both_ends_of_each_step_are_measured);
    RUN(test_grid_when_resumed_then_it_goes_on_as_it_would_have);
    RUN(test_grid_when_a_point_cannot_be_run_then_it_is_left_out);
    RUN(test_spread_when_samples_are_known_then_their_ranks);
    return check_finish();
}
