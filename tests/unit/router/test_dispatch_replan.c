/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Another plan while requests are in flight: what stays, who takes what, and what a failure changes.
 */
#include "router/dispatch/dispatch.h"

#include "base/alloc.h"
#include "tests/unit/router/dispatch_fixture.h"

/* A plan of the named types with these shares everywhere, on the shell's edges. */
struct plan {
    struct med_dispatch_config config;
    struct med_dispatch_type types[4];
    struct med_dispatch_bucket buckets[9];
};

static void plan_make(const struct shell *s, struct plan *plan, const char *names,
                      const double *shares)
{
    *plan = (struct plan){.config = s->config};
    for (size_t t = 0; names[t] != '\0'; t++) {
        plan->types[t].name[0] = names[t];
        plan->types[t].has_latency = true;
        plan->types[t].latency = shell_latency(1);
        plan->types[t].workers_planned = 1;
        plan->config.type_count = t + 1;
    }
    for (size_t b = 0; b < s->config.bucket_count; b++) {
        plan->buckets[b] = s->buckets[b];
        for (size_t t = 0; t < 4; t++)
            plan->buckets[b].shares[t] = t < plan->config.type_count ? shares[t] : 0;
    }
    plan->config.types = plan->types;
    plan->config.buckets = plan->buckets;
}

static struct shell *shell_with(size_t types)
{
    struct shell *s = shell_new(types);
    s->types[0].workers_planned = 1;
    s->types[1].workers_planned = 1;
    shell_bucket(s, 0, 1, 2, 0.5, 0.5);
    shell_bucket(s, 1, 1, 1, 0.5, 0.5);
    shell_start(s);
    return s;
}

static int replan(struct shell *s, const struct plan *plan)
{
    struct med_err err = {0};
    int rc = med_dispatch_replan(s->d, s->now_ns, &plan->config, &err);
    CHECK(rc == 0 || err.text[0] != '\0');
    med_dispatch_check(s->d);
    return rc;
}

/* Submits `count` requests from `first` on; how many went to this worker. */
static int sent_to(struct shell *s, uint64_t first, int count, uint32_t worker)
{
    size_t before = s->send_count;
    int sent = 0;
    for (int i = 0; i < count; i++)
        REQUIRE(shell_submit(s, first + (uint64_t)i, 50, 20, 0) == 0);
    for (size_t i = before; i < s->send_count; i++)
        sent += s->sends[i].worker == worker;
    return sent;
}

static void end_all(struct shell *s, size_t from)
{
    for (size_t i = from; i < s->send_count; i++) {
        CHECK_INT(shell_tokens(s, s->sends[i], 0, 1), 0);
        CHECK_INT(shell_finish(s, s->sends[i], MED_OUTCOME_STOP), 0);
    }
}

static void test_replan_when_a_type_leaves_then_its_requests_end_there(void)
{
    struct shell *s = shell_with(2);
    uint32_t a = shell_join(s, "a", "wa");
    uint32_t b = shell_join(s, "b", "wb");
    CHECK_INT(sent_to(s, 0, 8, a), 4);
    static struct plan plan;
    plan_make(s, &plan, "b", (double[]){1});
    CHECK_INT(replan(s, &plan), 0);
    CHECK(!med_dispatch_type_is_planned(s->d, 0));
    CHECK(med_dispatch_is_complete(s->d));
    CHECK_INT(sent_to(s, 100, 6, a), 0); /* nothing new, */
    end_all(s, 0);                       /* and what it has goes on */
    CHECK_UINT(s->end_count, 14);
    CHECK_INT(shell_totals(s).outcomes[MED_OUTCOME_STOP], 14);
    (void)b;
    shell_free(s);
}

static void test_replan_until_the_new_type_is_there_the_old_one_serves(void)
{
    struct shell *s = shell_with(2);
    uint32_t a = shell_join(s, "a", "wa");
    static struct plan plan;
    plan_make(s, &plan, "cd", (double[]){0.5, 0.5});
    CHECK_INT(replan(s, &plan), 0);
    CHECK(!med_dispatch_is_complete(s->d));
    CHECK_INT(sent_to(s, 0, 4, a), 4);
    uint32_t c = shell_join(s, "c", "wc");
    CHECK_INT(sent_to(s, 10, 4, c), 4);  /* its turn first */
    CHECK_INT(sent_to(s, 20, 16, a), 4); /* c holds 16: what it cannot take goes to the old one */
    uint32_t d = shell_join(s, "d", "wd");
    CHECK(med_dispatch_is_complete(s->d));
    CHECK_INT(sent_to(s, 40, 4, a), 0);
    end_all(s, 0);
    shell_gone(s, a);
    struct med_err err;
    uint32_t again;
    CHECK_INT(shell_try_join(s, "a", "wa", &again, &err), MED_E_NOT_FOUND);
    shell_gone(s, d);
    CHECK_INT(shell_try_join(s, "a", "wa", &again, &err), 0); /* it is needed once more */
    shell_free(s);
}

static void test_replan_keeps_indices_and_reuses_rows_of_types_without_workers(void)
{
    struct shell *s = shell_with(2);
    uint32_t b = shell_join(s, "b", "wb");
    uint32_t left = shell_join(s, "a", "wa");
    static struct plan plan;
    struct med_dispatch_type_view type;
    CHECK_INT(shell_submit(s, 0, 50, 50, 0), 0);
    CHECK_INT(shell_finish(s, shell_last(s), MED_OUTCOME_ERROR), 0);
    CHECK_INT(shell_finish(s, shell_last(s), MED_OUTCOME_ERROR), 0); /* the other one */
    (void)med_dispatch_cancel(s->d, s->now_ns, 0, MED_OUTCOME_ABORT_CLIENT);
    uint64_t faults[2];
    for (size_t t = 0; t < 2; t++) {
        med_dispatch_get_type(s->d, t, &type);
        faults[t] = type.counts.faults[MED_WORKER_FAULT_ERROR];
        CHECK(faults[t] > 0);
    }
    shell_gone(s, left);
    plan_make(s, &plan, "db", (double[]){0.5, 0.5});
    CHECK_INT(replan(s, &plan), 0);
    /* Its counts are not d's; taken back, they are a's again. */
    med_dispatch_get_type(s->d, 0, &type);
    CHECK_UINT(type.counts.faults[MED_WORKER_FAULT_ERROR], 0);
    med_dispatch_get_type(s->d, 1, &type);
    CHECK_UINT(type.counts.faults[MED_WORKER_FAULT_ERROR], faults[1]);
    med_dispatch_replan_undo(s->d, s->now_ns);
    med_dispatch_get_type(s->d, 0, &type);
    CHECK_UINT(type.counts.faults[MED_WORKER_FAULT_ERROR], faults[0]);
    CHECK_INT(replan(s, &plan), 0);
    CHECK_UINT(med_dispatch_type_count(s->d), 2); /* a had no worker: its row is d's */
    CHECK_STR(med_dispatch_type_name(s->d, 0), "d");
    CHECK_STR(med_dispatch_type_name(s->d, 1), "b");
    struct med_dispatch_worker_view view;
    REQUIRE(med_dispatch_get_worker(s->d, b, &view));
    CHECK_UINT(view.type, 1);
    plan_make(s, &plan, "ca", (double[]){0.5, 0.5});
    CHECK_INT(replan(s, &plan), 0);
    CHECK_UINT(med_dispatch_type_count(s->d), 3); /* b has a worker and keeps its row */
    CHECK_STR(med_dispatch_type_name(s->d, 1), "b");
    CHECK(!med_dispatch_type_is_planned(s->d, 1));
    shell_free(s);
}

static void test_replan_keeps_the_queue_and_starts_it_at_the_next_tick(void)
{
    struct shell *s = shell_with(2);
    s->refuses[0] = true;
    uint32_t a = shell_join(s, "a", "wa");
    CHECK_INT(sent_to(s, 0, 3, a), 0);
    CHECK_INT(shell_totals(s).queued, 3);
    static struct plan plan;
    plan_make(s, &plan, "a", (double[]){1});
    s->refuses[0] = false;
    CHECK_INT(replan(s, &plan), 0);
    CHECK_INT(shell_totals(s).queued, 3);
    CHECK_UINT(s->send_count, 0); /* not from inside */
    shell_tick(s, s->now_ns + 20 * MED_NS_PER_MS);
    CHECK_INT(shell_totals(s).queued, 0);
    CHECK_UINT(s->send_count, 3);
    end_all(s, 0);
    shell_free(s);
}

static int64_t predicted(struct shell *s, uint64_t request)
{
    struct med_dispatch_lease_view lease;
    REQUIRE(shell_submit(s, request, 50, 1000, 0) == 0);
    REQUIRE(med_dispatch_get_lease(s->d, request, &lease));
    CHECK_INT(med_dispatch_cancel(s->d, s->now_ns, request, MED_OUTCOME_ABORT_CLIENT), 0);
    return lease.predicted_output_tokens;
}

static void test_replan_keeps_what_was_learned_of_lengths(void)
{
    struct shell *s = shell_with(2);
    shell_join(s, "a", "wa");
    int64_t at_first = predicted(s, 0);
    for (uint64_t r = 1; r < 2000; r++) { /* answers are of 5 tokens, not of 50 */
        REQUIRE(shell_submit(s, r, 50, 1000, 0) == 0);
        CHECK_INT(shell_tokens(s, shell_last(s), 0, 5), 0);
        CHECK_INT(shell_finish(s, shell_last(s), MED_OUTCOME_STOP), 0);
    }
    int64_t learned = predicted(s, 3000);
    CHECK(learned < at_first / 3);
    static struct plan plan;
    plan_make(s, &plan, "a", (double[]){1});
    CHECK_INT(replan(s, &plan), 0);
    CHECK_INT(predicted(s, 3001), learned); /* the same edges */
    static const double inputs[] = {60, 200, 4000};
    static const double outputs[] = {6, 12, 200, 1000};
    plan.config.input_edges = inputs;
    plan.config.output_edges = outputs;
    plan.config.output_edge_count = 4;
    plan.buckets[0].output_mean = plan.buckets[1].output_mean = 10;
    CHECK_INT(replan(s, &plan), 0);
    int64_t spread = predicted(s, 3002);
    CHECK(spread >= 3 && spread < 12); /* short answers are still what comes */
    shell_free(s);
}

static void test_replan_when_wrong_or_without_memory_then_nothing_has_changed(void)
{
    struct shell *s = shell_with(2);
    uint32_t a = shell_join(s, "a", "wa");
    uint32_t b = shell_join(s, "b", "wb");
    static struct plan plan;
    plan_make(s, &plan, "cd", (double[]){0.5, 0.25});
    CHECK_INT(replan(s, &plan), MED_E_INVALID);
    plan_make(s, &plan, "cd", (double[]){0.5, 0.5});
    int failed = 0;
    for (uint64_t nth = 1;; nth++) {
        (void)med_alloc_fail_nth(nth);
        int rc = replan(s, &plan);
        (void)med_alloc_fail_nth(0);
        if (rc == 0)
            break;
        CHECK_INT(rc, MED_E_NOMEM);
        CHECK_UINT(med_dispatch_type_count(s->d), 2);
        CHECK(med_dispatch_type_is_planned(s->d, 0) && med_dispatch_type_is_planned(s->d, 1));
        failed++;
    }
    CHECK(failed > 5);
    CHECK_UINT(med_dispatch_type_count(s->d), 4);
    med_dispatch_replan_undo(s->d, s->now_ns);
    med_dispatch_check(s->d);
    CHECK_UINT(med_dispatch_type_count(s->d), 2);
    CHECK_INT(sent_to(s, 0, 8, a), 4); /* as the first plan says */
    CHECK_INT(sent_to(s, 10, 8, b), 4);
    end_all(s, 0);
    shell_free(s);
}

static double rate_of(const struct shell *s, size_t type)
{
    struct med_dispatch_type_view view;
    med_dispatch_get_type(s->d, type, &view);
    return view.rate_per_s;
}

static void test_replan_when_a_row_is_used_again_then_its_rate_is_the_plans(void)
{
    struct shell *s = shell_with(2);
    struct plan plan;
    uint32_t a = shell_join(s, "a", "wa");
    double planned = rate_of(s, 0);
    CHECK(planned > 0);
    for (uint64_t r = 0; r < 16; r++)
        CHECK_INT(shell_submit(s, r, 50, 50, 0), 0);
    /* Somebody waits for it, and nothing starts. */
    for (uint64_t r = 16; r < 60; r++) {
        CHECK_INT(shell_submit(s, r, 50, 50, 0), 0);
        for (int i = 0; i < 5; i++) {
            shell_beat(s, a);
            shell_tick(s, s->now_ns + 2 * MED_NS_PER_S);
        }
    }
    double measured = rate_of(s, 0);
    CHECK(measured < planned / 4);
    plan_make(s, &plan, "ab", (double[]){0.5, 0.5});
    CHECK_INT(replan(s, &plan), 0);
    CHECK(rate_of(s, 0) < planned / 4); /* the same type */
    shell_gone(s, a);
    shell_tick(s, s->now_ns + 20 * MED_NS_PER_S);
    plan_make(s, &plan, "db", (double[]){0.5, 0.5});
    CHECK_INT(replan(s, &plan), 0);
    (void)shell_join(s, "d", "wd");
    CHECK_STR(med_dispatch_type_name(s->d, 0), "d");
    CHECK(rate_of(s, 0) > planned / 4);
    shell_free(s);
}

static uint32_t join_sized(struct shell *s, const char *id, int64_t tokens)
{
    struct med_dispatch_worker_hello hello = {.type_name = "a",
                                              .worker_id = id,
                                              .model_len_max = tokens,
                                              .sequences_max = 16,
                                              .kv_tokens = tokens};
    uint32_t worker;
    REQUIRE(med_dispatch_worker_join(s->d, s->now_ns, &hello, &worker, NULL) == 0);
    shell_beat(s, worker);
    return worker;
}

static void test_replan_when_workers_differ_in_size_then_the_largest_counts(void)
{
    struct shell *s = shell_with(2);
    uint32_t small = join_sized(s, "small", 1000);
    uint32_t large = join_sized(s, "large", 8000); /* the plan's latency model says 4096 */
    struct plan plan;
    plan_make(s, &plan, "ab", (double[]){0.5, 0.5});
    CHECK_INT(shell_submit(s, 1, 5000, 100, 0), 0);
    CHECK_INT(replan(s, &plan), 0);
    CHECK_INT(shell_submit(s, 2, 5000, 100, 0), 0);
    CHECK_INT(shell_last(s).worker, large);
    end_all(s, 0);
    /* What only it could hold is refused when it has left. */
    shell_gone(s, large);
    CHECK_INT(shell_submit(s, 3, 5000, 100, 0), MED_E_INVALID);
    CHECK_INT(shell_submit(s, 4, 500, 100, 0), 0);
    CHECK_INT(shell_last(s).worker, small);
    end_all(s, s->send_count - 1);
    shell_free(s);
}

/* The row of a worker that has left still names a type that there is no more. */
static void test_undo_when_a_worker_of_a_new_type_came_and_left_then_picks_go_on(void)
{
    struct shell *s = shell_with(2);
    uint32_t a = shell_join(s, "a", "wa");
    uint32_t b = shell_join(s, "b", "wb");
    static struct plan plan;
    plan_make(s, &plan, "cd", (double[]){0.5, 0.5});
    CHECK_INT(replan(s, &plan), 0);
    uint32_t d = shell_join(s, "d", "wd");
    CHECK(sent_to(s, 0, 4, d) > 0);
    end_all(s, 0);
    shell_gone(s, d);
    med_dispatch_replan_undo(s->d, s->now_ns);
    CHECK_UINT(med_dispatch_type_count(s->d), 2);
    size_t before = s->send_count;
    CHECK_INT(sent_to(s, 10, 8, a), 4);
    med_dispatch_check(s->d);
    end_all(s, before);
    (void)b;
    shell_free(s);
}

int main(void)
{
    RUN(test_undo_when_a_worker_of_a_new_type_came_and_left_then_picks_go_on);
    RUN(test_replan_when_a_type_leaves_then_its_requests_end_there);
    RUN(test_replan_until_the_new_type_is_there_the_old_one_serves);
    RUN(test_replan_keeps_indices_and_reuses_rows_of_types_without_workers);
    RUN(test_replan_keeps_the_queue_and_starts_it_at_the_next_tick);
    RUN(test_replan_keeps_what_was_learned_of_lengths);
    RUN(test_replan_when_a_row_is_used_again_then_its_rate_is_the_plans);
    RUN(test_replan_when_workers_differ_in_size_then_the_largest_counts);
    RUN(test_replan_when_wrong_or_without_memory_then_nothing_has_changed);
    return check_finish();
}
