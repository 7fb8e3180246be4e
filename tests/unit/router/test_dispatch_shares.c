/* SPDX-License-Identifier: Apache-2.0 */
/* Which worker dispatch picks: the plan's shares, the predicted output, spill, least finish. */
#include "router/dispatch/dispatch.h"

#include "base/rng.h"
#include "tests/unit/router/dispatch_fixture.h"

static const int64_t sizes[3] = {5, 50, 400}; /* output tokens of each row */

/* Sends one request and lets it be answered with `tokens` tokens at once. */
static size_t serve(struct shell *s, int64_t prompt, int64_t output_max, int64_t tokens)
{
    static uint64_t request;
    request = (request + 1) % SHELL_REQUESTS;
    REQUIRE(shell_submit(s, request, prompt, output_max, 0) == 0);
    struct shell_send sent = shell_last(s);
    REQUIRE(sent.request == request);
    struct med_dispatch_lease_view lease;
    REQUIRE(med_dispatch_get_lease(s->d, request, &lease));
    REQUIRE(med_dispatch_tokens(s->d, s->now_ns, sent.worker, request, sent.attempt, 0, tokens) ==
            0);
    REQUIRE(med_dispatch_finish(s->d, s->now_ns, sent.worker, request, sent.attempt,
                                tokens == output_max ? MED_OUTCOME_LENGTH : MED_OUTCOME_STOP) == 0);
    s->send_count = 0;
    return lease.type;
}

static void test_shares_when_rows_are_certain_then_within_one_request(void)
{
    struct shell *s = shell_new(3);
    shell_bucket(s, 0, 1, 5, 0.6, 0.3);
    shell_bucket(s, 1, 1, 2, 0.125, 0.875);
    shell_bucket(s, 2, 1, 1, 0, 1.0 / 3);
    shell_start(s);
    (void)shell_join(s, "a", "a0");
    (void)shell_join(s, "b", "b0");
    (void)shell_join(s, "c", "c0");
    static const int64_t prompts[] = {50, 500, 2000};
    double counts[3][3] = {{0}};
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 1);
    for (int i = 0; i < 5000; i++) {
        uint32_t row = med_rng_below(&rng, 3);
        counts[row][serve(s, prompts[row], 1000, 50)]++;
        double total = counts[row][0] + counts[row][1] + counts[row][2];
        for (int t = 0; t < 3; t++)
            CHECK(fabs(counts[row][t] - total * s->buckets[row].shares[t]) <= 1 + 1e-6);
    }
    uint64_t picks = 0;
    for (size_t t = 0; t < 3; t++)
        picks += med_dispatch_picks(s->d, t, 1, 1);
    CHECK_UINT(picks, counts[1][0] + counts[1][1] + counts[1][2]);
    CHECK_UINT(shell_totals(s).spills, 0);
    shell_free(s);
}

/* One input row; short answers are a's, long ones b's; the router cannot tell them apart. */
static struct shell *new_uncertain(void)
{
    struct shell *s = shell_new(2);
    shell_bucket(s, 1, 0, 3, 0.9, 0.1);
    shell_bucket(s, 1, 2, 1, 0, 1);
    s->buckets[0].work_s[0] = 0.1;
    s->buckets[0].work_s[1] = 0.05;
    s->buckets[1].work_s[0] = 2;
    s->buckets[1].work_s[1] = 0.4;
    shell_start(s);
    (void)shell_join(s, "a", "a0");
    (void)shell_join(s, "b", "b0");
    return s;
}

static void test_shares_when_output_is_uncertain_then_work_is_the_plans(void)
{
    struct shell *s = new_uncertain();
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 2);
    double work[2] = {0};
    double planned[2] = {0};
    for (int i = 0; i < 20000; i++) {
        size_t bucket = med_rng_below(&rng, 4) == 0;
        size_t type = serve(s, 500, 1000, sizes[s->buckets[bucket].output_row]);
        work[type] += s->buckets[bucket].work_s[type];
        for (size_t t = 0; t < 2; t++)
            planned[t] += s->buckets[bucket].shares[t] * s->buckets[bucket].work_s[t];
    }
    /* Both get the same multiple of what the plan meant for them. By counts alone, a would get
     * five times its work. */
    CHECK_DOUBLE(work[0] / planned[0] / (work[1] / planned[1]), 1, 0.1);
    shell_free(s);
}

static void test_prediction_when_traffic_drifts_then_followed(void)
{
    struct shell *s = new_uncertain();
    double before = 0;
    for (int i = 0; i < 1000; i++)
        before += serve(s, 500, 1000, i % 4 ? 5 : 400) == 0;
    CHECK(before > 50);
    for (int i = 0; i < 8000; i++) /* answers are long from now on */
        (void)serve(s, 500, 1000, 400);
    double after = 0;
    for (int i = 0; i < 1000; i++)
        after += serve(s, 500, 1000, 400) == 0;
    CHECK(after < 10);
    REQUIRE(shell_submit(s, 1, 500, 1000, 0) == 0);
    struct med_dispatch_lease_view lease;
    REQUIRE(med_dispatch_get_lease(s->d, 1, &lease));
    CHECK_INT(lease.output_row, 2);
    REQUIRE(shell_finish(s, shell_last(s), MED_OUTCOME_STOP) == 0);
    shell_free(s);
}

static void test_prediction_when_client_asks_for_little_then_bounded_by_it(void)
{
    struct shell *s = new_uncertain();
    /* No answer can be longer than the first row. The factors that made up for not knowing become
     * 1 when that is how the traffic is, and the row's own shares hold. */
    double first = 0;
    for (int i = 0; i < 8000; i++)
        first += serve(s, 500, 10, 5) == 0 && i >= 7000;
    CHECK_DOUBLE(first, 900, 10);
    /* A maximum alone moves nothing: prompts that ask for 1000 are as short as ever. */
    REQUIRE(shell_submit(s, 1, 500, 1000, 0) == 0);
    struct med_dispatch_lease_view lease;
    REQUIRE(med_dispatch_get_lease(s->d, 1, &lease));
    CHECK_INT(lease.output_row, 0);
    REQUIRE(shell_finish(s, shell_last(s), MED_OUTCOME_STOP) == 0);
    shell_free(s);
}

static void test_prediction_when_answers_are_cut_then_not_taken_for_short(void)
{
    struct shell *s = shell_new(2);
    shell_bucket(s, 1, 0, 1, 1, 0);
    shell_bucket(s, 1, 2, 9, 0, 1);
    shell_start(s);
    (void)shell_join(s, "a", "a0");
    (void)shell_join(s, "b", "b0");
    for (int i = 0; i < 3000; i++)
        (void)serve(s, 500, 20, 20); /* cut in row 1: it would have been longer */
    REQUIRE(shell_submit(s, 1, 500, 1000, 0) == 0);
    struct med_dispatch_lease_view lease;
    REQUIRE(med_dispatch_get_lease(s->d, 1, &lease));
    CHECK_INT(lease.output_row, 2);
    REQUIRE(shell_finish(s, shell_last(s), MED_OUTCOME_STOP) == 0);
    shell_free(s);
}

static struct shell *new_pair(int64_t objective_ns)
{
    struct shell *s = shell_new(2);
    shell_bucket(s, 2, 1, 1, 1, 0);
    s->config.ttft_objective_ns = objective_ns;
    shell_start(s);
    return s;
}

static void end_all(struct shell *s)
{
    for (uint64_t r = 0; r < 200; r++)
        (void)med_dispatch_cancel(s->d, s->now_ns, r, MED_OUTCOME_ABORT_CLIENT);
    CHECK_INT(shell_totals(s).in_flight + shell_totals(s).queued, 0);
}

static void test_spill_when_planned_type_is_late_then_other_type_then_queue(void)
{
    struct shell *s = new_pair(MED_NS_PER_S);
    uint32_t a = shell_join(s, "a", "a0");
    uint32_t b = shell_join(s, "b", "b0");
    /* 3000 tokens take type a about 0.35 s and type b half of that. */
    uint64_t r = 0;
    while (shell_totals(s).spills == 0 && r < 20) {
        REQUIRE(shell_submit(s, r++, 3000, 100, 0) == 0);
        CHECK_INT(shell_totals(s).queued, 0);
    }
    CHECK(r >= 3 && r <= 5);
    CHECK_INT(shell_last(s).worker, b);
    CHECK_INT(s->sends[0].worker, a);
    while (shell_totals(s).queued == 0 && r < 40)
        REQUIRE(shell_submit(s, r++, 3000, 100, 0) == 0);
    CHECK(r >= 7 && r <= 12);
    /* Time alone lets the head of the queue go: the first prompt is done by the estimate. */
    shell_tick(s, s->now_ns + 800 * MED_NS_PER_MS);
    CHECK_INT(shell_totals(s).queued, 0);
    end_all(s);
    shell_free(s);
}

static void test_pick_when_no_objective_and_memory_is_full_then_waits_in_the_router(void)
{
    struct shell *s = new_pair(0);
    uint32_t a = shell_join(s, "a", "a0");
    for (uint64_t r = 0; r < 6; r++)
        REQUIRE(shell_submit(s, r, 3000, 100, 0) == 0);
    /* 16384 tokens of KV hold five; a sixth would wait behind them, so it waits here. */
    CHECK_INT(shell_totals(s).in_flight, 5);
    CHECK_INT(shell_totals(s).queued, 1);
    uint32_t b = shell_join(s, "b", "b0");
    CHECK_INT(shell_totals(s).queued, 0);
    CHECK_INT(shell_last(s).worker, b);
    CHECK_INT(s->sends[0].worker, a);
    end_all(s);
    shell_free(s);
}

static void test_spill_when_prompt_alone_is_too_long_then_not_held_back(void)
{
    struct shell *s = new_pair(100 * MED_NS_PER_MS);
    uint32_t a = shell_join(s, "a", "a0");
    (void)shell_join(s, "b", "b0");
    REQUIRE(shell_submit(s, 1, 4000, 90, 0) == 0); /* 0.4 s of prefill at best */
    CHECK_INT(shell_last(s).worker, a);
    end_all(s);
    shell_free(s);
}

static void test_pick_when_planned_type_is_away_then_other_type(void)
{
    struct shell *s = new_pair(0);
    uint32_t b = shell_join(s, "b", "b0");
    REQUIRE(shell_submit(s, 1, 2000, 90, 0) == 0);
    CHECK_INT(shell_last(s).worker, b);
    CHECK_UINT(shell_totals(s).spills, 1);
    end_all(s);
    shell_free(s);
}

static void test_shares_when_workers_are_missing_then_follow_those_there(void)
{
    struct shell *s = shell_new(2);
    shell_bucket(s, 1, 1, 1, 0.5, 0.5);
    s->types[0].workers_planned = 3;
    s->types[1].workers_planned = 1;
    shell_start(s);
    (void)shell_join(s, "a", "a0");
    (void)shell_join(s, "b", "b0");
    double first = 0;
    for (int i = 0; i < 400; i++)
        first += serve(s, 500, 1000, 50) == 0;
    CHECK_DOUBLE(first, 100, 1); /* a third of a's half against b's half */
    (void)shell_join(s, "a", "a1");
    (void)shell_join(s, "a", "a2");
    first = 0;
    for (int i = 0; i < 400; i++)
        first += serve(s, 500, 1000, 50) == 0;
    CHECK_DOUBLE(first, 200, 1);
    shell_free(s);
}

static void test_pick_when_one_worker_is_loaded_then_the_other(void)
{
    struct shell *s = new_pair(0);
    uint32_t w[2] = {shell_join(s, "a", "a0"), shell_join(s, "a", "a1")};
    uint64_t per_worker[2] = {0};
    for (uint64_t r = 0; r < 20; r++) {
        REQUIRE(shell_submit(s, r, 1001 + (int64_t)r, 90, 0) == 0);
        per_worker[shell_last(s).worker == w[1]]++;
    }
    CHECK_UINT(per_worker[0], 10);
    CHECK_UINT(per_worker[1], 10);
    struct med_dispatch_worker_view view;
    REQUIRE(med_dispatch_get_worker(s->d, w[0], &view));
    CHECK_INT(view.in_flight, 10);
    CHECK(view.predicted_start_ns > MED_NS_PER_S / 2);
    end_all(s);
    REQUIRE(med_dispatch_get_worker(s->d, w[0], &view));
    CHECK_INT(view.predicted_start_ns, 0);
    CHECK(!med_dispatch_get_worker(s->d, 5, &view));
    CHECK(!med_dispatch_get_worker(s->d, UINT32_MAX, &view));
    shell_free(s);
}

static void test_pick_when_a_worker_is_slow_then_it_gets_less(void)
{
    struct shell *s = new_pair(0);
    uint32_t slow = shell_join(s, "a", "slow");
    (void)shell_join(s, "a", "fast");
    size_t to_slow = 0;
    for (uint64_t r = 0; r < 150; r++) {
        REQUIRE(shell_submit(s, r, 1500, 90, 0) == 0);
        struct shell_send sent = shell_last(s);
        s->now_ns += 200 * MED_NS_PER_MS;
        if (sent.worker == slow) {
            to_slow++; /* says nothing, ever */
        } else {
            REQUIRE(shell_tokens(s, sent, 0, 1) == 0);
            REQUIRE(shell_finish(s, sent, MED_OUTCOME_STOP) == 0);
        }
    }
    CHECK(to_slow <= 3);
    end_all(s);
    shell_free(s);
}

static void test_pick_when_there_is_no_latency_model_then_fewest_tokens(void)
{
    struct shell *s = shell_new(1);
    s->types[0].has_latency = false;
    shell_bucket(s, 1, 1, 1, 1, 0);
    shell_start(s);
    uint32_t w0 = shell_join(s, "a", "a0");
    uint32_t w1 = shell_join(s, "a", "a1");
    REQUIRE(shell_submit(s, 0, 3000, 90, 0) == 0);
    uint32_t first = shell_last(s).worker;
    for (uint64_t r = 1; r < 4; r++) {
        REQUIRE(shell_submit(s, r, 500, 90, 0) == 0);
        CHECK_INT(shell_last(s).worker, first == w0 ? w1 : w0);
    }
    struct med_dispatch_lease_view lease;
    REQUIRE(med_dispatch_get_lease(s->d, 0, &lease));
    CHECK_INT(lease.predicted_ttft_ns, 0);
    CHECK_INT(lease.predicted_tpot_ns, 0);
    CHECK_INT(shell_submit(s, 9, 4000, 97, 0), MED_E_INVALID); /* by what the workers said */
    end_all(s);
    shell_free(s);
}

static void test_prediction_when_worker_is_idle_then_the_models_time(void)
{
    struct shell *s = new_pair(0);
    (void)shell_join(s, "a", "a0");
    REQUIRE(shell_submit(s, 0, 800, 90, 0) == 0);
    struct med_latency l = shell_latency(1);
    int64_t pairs = med_step_pairs(800, 0);
    /* Two chunks; the pairs are spread over them evenly, which leaves their sum as it is. */
    struct med_step_load parts[2] = {{512, pairs * 512 / 800, 0, 0},
                                     {288, pairs * 288 / 800, 0, 0}};
    double ms = med_latency_step_ms(&l, &parts[0]) + med_latency_step_ms(&l, &parts[1]);
    struct med_dispatch_lease_view lease;
    REQUIRE(med_dispatch_get_lease(s->d, 0, &lease));
    CHECK_DOUBLE((double)lease.predicted_ttft_ns / 1e6, ms, 1e-4);
    struct med_step_load decode = {0, 0, 1, 800};
    CHECK_DOUBLE((double)lease.predicted_tpot_ns / 1e6, med_latency_step_ms(&l, &decode), 1e-4);
    end_all(s);
    shell_free(s);
}

int main(void)
{
    RUN(test_shares_when_rows_are_certain_then_within_one_request);
    RUN(test_shares_when_output_is_uncertain_then_work_is_the_plans);
    RUN(test_prediction_when_traffic_drifts_then_followed);
    RUN(test_prediction_when_client_asks_for_little_then_bounded_by_it);
    RUN(test_prediction_when_answers_are_cut_then_not_taken_for_short);
    RUN(test_spill_when_planned_type_is_late_then_other_type_then_queue);
    RUN(test_pick_when_no_objective_and_memory_is_full_then_waits_in_the_router);
    RUN(test_spill_when_prompt_alone_is_too_long_then_not_held_back);
    RUN(test_pick_when_planned_type_is_away_then_other_type);
    RUN(test_shares_when_workers_are_missing_then_follow_those_there);
    RUN(test_pick_when_one_worker_is_loaded_then_the_other);
    RUN(test_pick_when_a_worker_is_slow_then_it_gets_less);
    RUN(test_pick_when_there_is_no_latency_model_then_fewest_tokens);
    RUN(test_prediction_when_worker_is_idle_then_the_models_time);
    return check_finish();
}
