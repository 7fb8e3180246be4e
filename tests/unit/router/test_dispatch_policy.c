/* SPDX-License-Identifier: Apache-2.0 */
/* Dispatch: policies, prefix affinity, users, what may wait, and why a request went where it went. */
#include "router/dispatch/dispatch.h"

#include "base/rng.h"
#include "tests/unit/router/dispatch_fixture.h"

/* Two types, a slow and b twice as fast, `count` workers of each. */
static struct shell *new_mixed(enum med_dispatch_policy policy, size_t count)
{
    struct shell *s = shell_new(2);
    s->config.policy = policy;
    s->config.policy_seed = check_seed();
    s->config.prefixes_max = 4096;
    s->config.users_max = 16;
    shell_bucket(s, 1, 1, 1, 0.5, 0.5);
    s->buckets[0].work_s[0] = 0.3;
    s->buckets[0].work_s[1] = 0.1;
    shell_start(s);
    for (size_t i = 0; i < 2 * count; i++) {
        char id[8];
        (void)snprintf(id, sizeof id, "w%zu", i);
        (void)shell_join(s, i % 2 ? "b" : "a", id);
    }
    return s;
}

static void cancel_all(struct shell *s, uint64_t count)
{
    for (uint64_t r = 0; r < count; r++)
        (void)med_dispatch_cancel(s->d, s->now_ns, r, MED_OUTCOME_ABORT_CLIENT);
}

/* ---- policies ---- */

static void test_policy_names_then_there_and_back(void)
{
    for (int p = 0; p < MED_POLICY_COUNT; p++) {
        enum med_dispatch_policy parsed = MED_POLICY_COUNT;
        CHECK(med_dispatch_policy_parse(med_dispatch_policy_name((enum med_dispatch_policy)p),
                                        &parsed));
        CHECK_INT(parsed, p);
    }
    enum med_dispatch_policy none;
    CHECK(!med_dispatch_policy_parse("best", &none));
}

static void test_round_robin_then_one_after_the_other(void)
{
    struct shell *s = new_mixed(MED_POLICY_ROUND_ROBIN, 2);
    for (uint64_t r = 0; r < 12; r++) {
        CHECK_INT(shell_submit(s, r, 500, 50, 0), 0);
        CHECK_INT(shell_last(s).worker, r % 4);
    }
    CHECK_UINT(shell_totals(s).spills, 0);
    med_dispatch_worker_drain(s->d, s->now_ns, 1);
    CHECK_INT(shell_submit(s, 12, 500, 50, 0), 0);
    CHECK_INT(shell_submit(s, 13, 500, 50, 0), 0);
    CHECK_INT(shell_last(s).worker, 2);
    cancel_all(s, 14);
    shell_free(s);
}

static void test_least_outstanding_then_fewest_in_flight(void)
{
    struct shell *s = new_mixed(MED_POLICY_LEAST_OUTSTANDING, 1);
    for (uint64_t r = 0; r < 6; r++) {
        CHECK_INT(shell_submit(s, r, r == 0 ? 3000 : 50, 5, 0), 0);
        CHECK_INT(shell_last(s).worker, r % 2); /* whatever their size */
    }
    CHECK_INT(med_dispatch_cancel(s->d, s->now_ns, 1, MED_OUTCOME_ABORT_CLIENT), 0);
    CHECK_INT(shell_submit(s, 6, 50, 5, 0), 0);
    CHECK_INT(shell_last(s).worker, 1);
    cancel_all(s, 7);
    shell_free(s);
}

/* Sends `count` requests that end at once; how many went to each worker. */
static void deal(struct shell *s, uint64_t count, int64_t ret_got[4])
{
    for (uint64_t r = 0; r < count; r++) {
        CHECK_INT(shell_submit(s, r, 500, 50, 0), 0);
        ret_got[shell_last(s).worker]++;
        CHECK_INT(shell_finish(s, shell_last(s), MED_OUTCOME_STOP), 0);
    }
}

static void test_random_then_even_and_repeatable(void)
{
    int64_t got[2][4] = {{0}};
    for (int run = 0; run < 2; run++) {
        struct shell *s = new_mixed(MED_POLICY_RANDOM, 2);
        deal(s, 2000, got[run]);
        shell_free(s);
    }
    for (int w = 0; w < 4; w++) {
        CHECK_INT(got[0][w], got[1][w]);
        CHECK(got[0][w] > 400 && got[0][w] < 600); /* 500 +- 5 deviations */
    }
}

static void test_throughput_then_in_its_proportion(void)
{
    struct shell *s = new_mixed(MED_POLICY_THROUGHPUT, 2);
    int64_t got[4] = {0};
    deal(s, 2000, got);
    /* 1/0.3 to 1/0.1: a quarter of the requests to the two slow ones. */
    CHECK(got[0] + got[2] > 400 && got[0] + got[2] < 600);
    shell_free(s);
}

static void test_token_load_then_by_tokens_over_throughput(void)
{
    struct shell *s = new_mixed(MED_POLICY_TOKEN_LOAD, 1);
    int64_t got[2] = {0};
    for (uint64_t r = 0; r < 16; r++) {
        CHECK_INT(shell_submit(s, r, 500, 50, 0), 0);
        got[shell_last(s).worker]++;
    }
    CHECK_INT(got[0], 4); /* three times as fast: three times the tokens */
    CHECK_INT(got[1], 12);
    cancel_all(s, 16);
    shell_free(s);
}

/* ---- prefixes ---- */

static int submit_prompt(struct shell *s, uint64_t request, const uint32_t *tokens, size_t count)
{
    uint64_t hashes[MED_DISPATCH_PREFIX_MAX];
    struct med_dispatch_request r = {.request = request,
                                     .prompt_tokens = (int64_t)count,
                                     .output_tokens_max = 20,
                                     .prefixes = hashes};
    r.prefix_count = med_dispatch_prefix_hashes(tokens, count, 0, hashes);
    int rc = med_dispatch_submit(s->d, s->now_ns, &r);
    med_dispatch_check(s->d);
    return rc;
}

static void test_prefix_hashes_then_a_chain_of_full_blocks(void)
{
    static uint32_t a[5000];
    static uint32_t b[5000];
    uint64_t ha[MED_DISPATCH_PREFIX_MAX];
    uint64_t hb[MED_DISPATCH_PREFIX_MAX];
    for (uint32_t i = 0; i < 5000; i++)
        a[i] = b[i] = i % 977;
    CHECK_UINT(med_dispatch_prefix_hashes(a, 0, 0, ha), 0);
    CHECK_UINT(med_dispatch_prefix_hashes(a, 256, 0, ha),
               0); /* the last token is always computed */
    CHECK_UINT(med_dispatch_prefix_hashes(a, 257, 0, ha), 1);
    CHECK_UINT(med_dispatch_prefix_hashes(a, 5000, 0, ha), MED_DISPATCH_PREFIX_MAX);
    b[600]++;
    CHECK_UINT(med_dispatch_prefix_hashes(b, 5000, 0, hb), MED_DISPATCH_PREFIX_MAX);
    for (size_t k = 0; k < MED_DISPATCH_PREFIX_MAX; k++)
        CHECK((ha[k] == hb[k]) == (k < 2));
    CHECK_UINT(med_dispatch_prefix_hashes(a, 5000, 7, hb), MED_DISPATCH_PREFIX_MAX);
    CHECK(ha[0] != hb[0]);
}

static void fill(uint32_t *tokens, size_t count, uint32_t seed)
{
    for (size_t i = 0; i < count; i++)
        tokens[i] = (uint32_t)i * 31 + seed;
}

static void test_affinity_when_it_saves_more_than_it_costs_then_taken(void)
{
    struct shell *s = shell_new(1);
    s->config.prefixes_max = 64;
    shell_bucket(s, 2, 1, 1, 1, 0);
    shell_start(s);
    (void)shell_join(s, "a", "w0");
    (void)shell_join(s, "a", "w1");
    static uint32_t tokens[2000];
    fill(tokens, 2000, 1);
    CHECK_INT(submit_prompt(s, 0, tokens, 2000), 0);
    uint32_t has = shell_last(s).worker;
    CHECK_INT(shell_tokens(s, shell_last(s), 0, 1), 0); /* it decodes there */
    CHECK_INT(submit_prompt(s, 1, tokens, 2000), 0);
    CHECK_INT(shell_last(s).worker, has); /* 1,792 tokens, 180 ms, against one sequence more */
    const struct med_dispatch_decision *why = med_dispatch_find_decision(s->d, 1);
    REQUIRE(why != NULL);
    CHECK_UINT(why->considered, 2);
    REQUIRE(why->candidate_count == 2);
    CHECK(why->candidates[0].chosen);
    CHECK_INT(why->candidates[0].cached_tokens, 1792);
    CHECK(why->candidates[0].saved_ns > 100 * MED_NS_PER_MS);
    CHECK_INT(why->candidates[1].cached_tokens, 0);
    CHECK_UINT(shell_totals(s).affinity, 1);
    CHECK_UINT(shell_totals(s).affinity_tokens, 1792);
    struct med_dispatch_type_view type;
    struct med_dispatch_tables tables;
    med_dispatch_get_type(s->d, 0, &type);
    CHECK_UINT(type.counts.prompts, 2);
    CHECK_UINT(type.counts.affinity, 1);
    CHECK_UINT(type.counts.affinity_tokens, 1792);
    CHECK_UINT(type.counts.cached_tokens, 0); /* nothing has ended */
    med_dispatch_get_tables(s->d, &tables);
    CHECK_UINT(tables.prefixes, 7); /* blocks of one prompt at one worker */
    CHECK_UINT(tables.prefixes_max, 64);
    CHECK_UINT(tables.users_max, 0);
    /* A long queue there costs more. */
    static uint32_t others[6][3000];
    for (uint32_t i = 0; i < 6; i++) {
        fill(others[i], 3000, 100 + i);
        CHECK_INT(submit_prompt(s, 2 + i, others[i], 3000), 0);
    }
    CHECK_INT(med_dispatch_cancel(s->d, s->now_ns, 2, MED_OUTCOME_ABORT_CLIENT), 0);
    for (uint64_t r = 2; r < 8; r++) {
        struct med_dispatch_lease_view lease;
        if (med_dispatch_get_lease(s->d, r, &lease) && lease.worker != has)
            (void)med_dispatch_cancel(s->d, s->now_ns, r, MED_OUTCOME_ABORT_CLIENT);
    }
    CHECK_INT(submit_prompt(s, 8, tokens, 2000), 0);
    CHECK(shell_last(s).worker != has);
    cancel_all(s, 9);
    shell_free(s);
}

static void test_affinity_when_its_worker_is_lost_then_forgotten(void)
{
    struct shell *s = shell_new(1);
    s->config.prefixes_max = 64;
    shell_bucket(s, 2, 1, 1, 1, 0);
    shell_start(s);
    uint32_t w = shell_join(s, "a", "w0");
    static uint32_t tokens[2000];
    fill(tokens, 2000, 1);
    CHECK_INT(submit_prompt(s, 0, tokens, 2000), 0);
    cancel_all(s, 1);
    shell_gone(s, w);
    for (int i = 0; i < SHELL_WORKERS; i++) { /* until its row is used again */
        (void)shell_join(s, "a", "again");
        CHECK_INT(submit_prompt(s, 1, tokens, 2000), 0);
        CHECK_INT(med_dispatch_find_decision(s->d, 1)->candidates[0].cached_tokens, 0);
        uint32_t at = shell_last(s).worker;
        (void)med_dispatch_cancel(s->d, s->now_ns, 1, MED_OUTCOME_ABORT_CLIENT);
        shell_gone(s, at);
    }
    shell_free(s);
}

static void test_affinity_when_nothing_is_ever_found_then_no_more_credit(void)
{
    struct shell *s = shell_new(1);
    s->config.prefixes_max = 64;
    shell_bucket(s, 2, 1, 1, 1, 0);
    shell_start(s);
    uint32_t w = shell_join(s, "a", "w0");
    static uint32_t tokens[2000];
    fill(tokens, 2000, 1);
    struct med_dispatch_worker_view view;
    for (uint64_t r = 0; r < 8; r++) {
        CHECK_INT(submit_prompt(s, r, tokens, 2000), 0);
        bool credit = r >= 1 && r <= 4;
        CHECK_INT(med_dispatch_find_decision(s->d, r)->candidates[0].cached_tokens,
                  credit ? 1792 : 0);
        struct shell_send at = shell_last(s);
        med_dispatch_cached(s->d, w, r, at.attempt, 0);
        CHECK_INT(shell_finish(s, at, MED_OUTCOME_STOP), 0);
    }
    REQUIRE(med_dispatch_get_worker(s->d, w, &view));
    CHECK(!view.prefix_cache);
    CHECK_INT(submit_prompt(s, 8, tokens, 2000), 0);
    med_dispatch_cached(s->d, w, 8, shell_last(s).attempt, 1024); /* it has one after all */
    CHECK_INT(shell_finish(s, shell_last(s), MED_OUTCOME_STOP), 0);
    CHECK_INT(submit_prompt(s, 9, tokens, 2000), 0);
    CHECK_INT(med_dispatch_find_decision(s->d, 9)->candidates[0].cached_tokens, 1792);
    struct med_dispatch_type_view type;
    med_dispatch_get_type(s->d, 0, &type);
    CHECK_UINT(type.counts.cached_tokens, 1024);
    CHECK_UINT(type.counts.affinity, 5);
    CHECK_UINT(type.counts.prompts, 10);
    cancel_all(s, 10);
    shell_free(s);
}

/* Random prompts, one third of them of one of `groups` families; the mean predicted TTFT. */
static double mean_ttft_ms(uint32_t groups, bool affinity, uint64_t *ret_choices)
{
    struct shell *s = shell_new(1);
    s->config.prefixes_max = affinity ? 4096 : 0;
    shell_bucket(s, 2, 1, 1, 1, 0);
    shell_start(s);
    for (int i = 0; i < 4; i++) {
        char id[8];
        (void)snprintf(id, sizeof id, "w%d", i);
        (void)shell_join(s, "a", id);
    }
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 3);
    static uint32_t tokens[2000];
    double sum = 0;
    enum {
        COUNT = 400,
        HELD = 6
    };
    for (uint64_t r = 0; r < COUNT; r++) {
        uint32_t family = groups > 0 ? med_rng_below(&rng, groups) : 1000 + (uint32_t)r;
        fill(tokens, 1800, family);
        fill(tokens + 1800, 200, 5000 + (uint32_t)r);
        CHECK_INT(submit_prompt(s, r, tokens, 2000), 0);
        struct med_dispatch_lease_view lease;
        REQUIRE(med_dispatch_get_lease(s->d, r, &lease));
        sum += (double)lease.predicted_ttft_ns / 1e6;
        *ret_choices = *ret_choices * 31 + lease.worker;
        s->now_ns += 20 * MED_NS_PER_MS;
        for (uint32_t w = 0; w < 4; w++)
            shell_beat(s, w);
        if (r >= HELD)
            CHECK_INT(shell_finish(s, s->sends[r - HELD], MED_OUTCOME_STOP), 0);
    }
    cancel_all(s, COUNT);
    shell_free(s);
    return sum / COUNT;
}

static void test_affinity_then_helps_with_shared_prefixes_and_changes_nothing_without(void)
{
    uint64_t choices[4] = {0};
    double shared_off = mean_ttft_ms(8, false, &choices[0]);
    double shared_on = mean_ttft_ms(8, true, &choices[1]);
    double own_off = mean_ttft_ms(0, false, &choices[2]);
    double own_on = mean_ttft_ms(0, true, &choices[3]);
    (void)printf(
        "mean predicted TTFT: shared prefixes %.0f ms, with affinity %.0f ms; own %.0f ms, "
        "%.0f ms\n",
        shared_off, shared_on, own_off, own_on);
    CHECK(shared_on < 0.6 * shared_off);
    CHECK_DOUBLE(own_on, own_off, 0);
    CHECK_UINT(choices[3], choices[2]);
}

/* ---- users ---- */

static int submit_of_user(struct shell *s, uint64_t request, uint64_t user)
{
    struct med_dispatch_request r = {
        .request = request, .prompt_tokens = 500, .output_tokens_max = 1000, .user = user};
    int rc = med_dispatch_submit(s->d, s->now_ns, &r);
    med_dispatch_check(s->d);
    return rc;
}

static int64_t predicted(const struct shell *s, uint64_t request)
{
    struct med_dispatch_lease_view lease;
    REQUIRE(med_dispatch_get_lease(s->d, request, &lease));
    return lease.predicted_output_tokens;
}

static void test_users_when_one_gets_long_answers_then_predicted_longer(void)
{
    struct shell *s = new_mixed(MED_POLICY_PLAN, 2);
    uint64_t r = 0;
    CHECK_INT(submit_of_user(s, r, 7), 0);
    int64_t before = predicted(s, r++);
    CHECK_INT(submit_of_user(s, r, 8), 0);
    CHECK_INT(predicted(s, r++), before); /* both are new */
    cancel_all(s, r);
    for (int i = 0; i < 60; i++) {
        uint64_t user = i % 2 ? 7 : 8;
        CHECK_INT(submit_of_user(s, r, user), 0);
        struct shell_send at = shell_last(s);
        CHECK_INT(shell_tokens(s, at, 0, user == 7 ? 400 : 20), 0);
        CHECK_INT(shell_finish(s, at, MED_OUTCOME_STOP), 0);
        r++;
    }
    CHECK_INT(submit_of_user(s, r, 7), 0);
    int64_t of_long = predicted(s, r++);
    CHECK_INT(submit_of_user(s, r, 8), 0);
    int64_t of_short = predicted(s, r++);
    CHECK_INT(submit_of_user(s, r, 0), 0);
    int64_t of_nobody = predicted(s, r++);
    CHECK(of_long > of_nobody && of_nobody > of_short);
    CHECK(of_long > 2 * of_short);
    struct med_dispatch_lengths lengths;
    med_dispatch_get_lengths(s->d, 1, &lengths);
    CHECK_UINT(lengths.count, 60);
    CHECK_DOUBLE(lengths.actual, 30 * 400 + 30 * 20, 0);
    CHECK(lengths.error > 0 && lengths.predicted > 0);
    /* More users than there is room for: the one seen least recently is new again. */
    for (uint64_t user = 100; user < 120; user++) {
        CHECK_INT(submit_of_user(s, r, user), 0);
        CHECK_INT(shell_tokens(s, shell_last(s), 0, 30), 0);
        CHECK_INT(shell_finish(s, shell_last(s), MED_OUTCOME_STOP), 0);
        r++;
    }
    CHECK_INT(submit_of_user(s, r, 7), 0);
    int64_t forgotten = predicted(s, r++);
    CHECK_INT(submit_of_user(s, r, 0), 0);
    CHECK_INT(forgotten, predicted(s, r++));
    cancel_all(s, r);
    shell_free(s);
}

/* ---- admission ---- */

static void test_admission_when_the_queue_is_as_long_as_it_may_be_then_refused_with_a_hint(void)
{
    struct shell *s = shell_new(1);
    s->config.admission = true;
    s->config.queue_wait_ns = 4 * MED_NS_PER_S;
    shell_bucket(s, 1, 1, 1, 1, 0);
    s->buckets[0].work_s[0] = 0.5; /* two requests per second and worker */
    shell_start(s);
    (void)shell_join(s, "a", "w0");
    for (uint64_t r = 0; r < 16; r++)
        CHECK_INT(shell_submit(s, r, 500, 50, 0), 0);
    struct med_dispatch_type_view type;
    med_dispatch_get_type(s->d, 0, &type);
    CHECK_INT(type.ready, 1);
    CHECK_INT(type.in_flight, 16);
    CHECK_INT(type.wait_max_ns, 3 * MED_NS_PER_S);
    CHECK_INT(type.wait_ns, 0); /* nobody waits */
    uint64_t r = 16;
    while (shell_submit(s, r, 500, 50, 0) == 0)
        r++;
    med_dispatch_get_type(s->d, 0, &type);
    CHECK_INT(type.queued, (int64_t)(r - 16));
    CHECK((double)type.queued > type.queued_cap - 1 && (double)type.queued <= type.queued_cap + 1);
    CHECK_UINT(shell_totals(s).refused_admission, 1);
    CHECK_UINT(shell_totals(s).refused_overload, 1);
    CHECK_UINT(type.counts.refused_admission, 1);
    CHECK(type.wait_ns > type.wait_max_ns - MED_NS_PER_S && type.wait_ns < 2 * type.wait_max_ns);
    CHECK_UINT(shell_totals(s).refused_queue + shell_totals(s).refused_table, 0);
    int64_t hint = med_dispatch_retry_after_ns(s->d);
    CHECK(hint > 0 && hint < 2 * MED_NS_PER_S);
    /* A better priority does not wait behind them. A deadline that is too soon is refused. */
    s->priority = -1;
    CHECK_INT(shell_submit(s, r, 500, 50, 0), 0);
    CHECK_INT(shell_submit(s, r + 1, 500, 50, s->now_ns + 1), MED_E_OVERLOAD);
    s->priority = 0;
    CHECK_INT(shell_submit(s, r + 1, 500, 50, s->now_ns + 500 * MED_NS_PER_MS), MED_E_OVERLOAD);
    CHECK_UINT(shell_totals(s).refused_late, 0);
    CHECK_INT(shell_submit(s, r + 1, 500, 50, s->now_ns), MED_E_OVERLOAD);
    CHECK_UINT(shell_totals(s).refused_late, 1);
    cancel_all(s, r + 1);
    CHECK_INT(shell_submit(s, r + 1, 500, 50, 0), 0);
    cancel_all(s, r + 2);
    shell_free(s);
}

static void test_admission_when_time_per_token_is_at_its_objective_then_worker_is_full(void)
{
    struct shell *s = shell_new(1);
    s->config.admission = true;
    s->config.tpot_objective_ns = 12400 * MED_NS_PER_US; /* 12 ms and 0.05 per sequence, and KV */
    shell_bucket(s, 1, 1, 1, 1, 0);
    shell_start(s);
    (void)shell_join(s, "a", "w0");
    for (uint64_t r = 0; r < 3; r++)
        CHECK_INT(shell_submit(s, r, 100, 10, 0), 0);
    CHECK_INT(shell_totals(s).in_flight, 1); /* the first always */
    cancel_all(s, 3);
    shell_free(s);
}

/* ---- decisions ---- */

static void test_decisions_then_say_why_and_the_oldest_go(void)
{
    struct shell *s = new_mixed(MED_POLICY_PLAN, 6);
    CHECK(med_dispatch_get_decision(s->d, 0) == NULL);
    for (uint64_t r = 0; r < 300; r++) {
        CHECK_INT(shell_submit(s, r, 500, 50, 0), 0);
        const struct med_dispatch_decision *why = med_dispatch_get_decision(s->d, 0);
        REQUIRE(why != NULL);
        CHECK_UINT(why->request, r);
        CHECK_INT(why->attempt, 1);
        CHECK(why->has_plan && !why->spilled);
        CHECK_UINT(why->considered, 12);
        CHECK_UINT(why->candidate_count, MED_DISPATCH_CANDIDATES);
        size_t chosen = 0;
        for (size_t i = 0; i < why->candidate_count; i++) {
            const struct med_dispatch_candidate *c = &why->candidates[i];
            chosen += c->chosen;
            CHECK(!c->chosen || c->worker == shell_last(s).worker);
            CHECK(c->worker_id[0] == 'w' && c->ttft_ns >= c->wait_ns && c->finish_ns > c->ttft_ns);
        }
        CHECK_UINT(chosen, 1);
        CHECK_INT(shell_finish(s, shell_last(s), MED_OUTCOME_STOP), 0);
    }
    CHECK(med_dispatch_find_decision(s->d, 299) != NULL);
    CHECK(med_dispatch_find_decision(s->d, 0) == NULL);
    CHECK(med_dispatch_get_decision(s->d, MED_DISPATCH_DECISIONS - 1) != NULL);
    CHECK(med_dispatch_get_decision(s->d, MED_DISPATCH_DECISIONS) == NULL);
    shell_free(s);
}

int main(void)
{
    RUN(test_policy_names_then_there_and_back);
    RUN(test_round_robin_then_one_after_the_other);
    RUN(test_least_outstanding_then_fewest_in_flight);
    RUN(test_random_then_even_and_repeatable);
    RUN(test_throughput_then_in_its_proportion);
    RUN(test_token_load_then_by_tokens_over_throughput);
    RUN(test_prefix_hashes_then_a_chain_of_full_blocks);
    RUN(test_affinity_when_it_saves_more_than_it_costs_then_taken);
    RUN(test_affinity_when_its_worker_is_lost_then_forgotten);
    RUN(test_affinity_when_nothing_is_ever_found_then_no_more_credit);
    RUN(test_affinity_then_helps_with_shared_prefixes_and_changes_nothing_without);
    RUN(test_users_when_one_gets_long_answers_then_predicted_longer);
    RUN(test_admission_when_the_queue_is_as_long_as_it_may_be_then_refused_with_a_hint);
    RUN(test_admission_when_time_per_token_is_at_its_objective_then_worker_is_full);
    RUN(test_decisions_then_say_why_and_the_oldest_go);
    return check_finish();
}
