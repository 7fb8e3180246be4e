/* SPDX-License-Identifier: Apache-2.0 */
/* Dispatch: the life of a request, the queue, the fleet, and workers that break the rules. */
#include "router/dispatch/dispatch.h"

#include "base/alloc.h"
#include "tests/unit/router/dispatch_fixture.h"

/* One type, one worker named w0. */
static struct shell *new_single(uint32_t *ret_worker)
{
    struct shell *s = shell_new(1);
    shell_bucket(s, 1, 1, 1, 1, 0);
    shell_start(s);
    *ret_worker = shell_join(s, "a", "w0");
    return s;
}

static void check_end(const struct shell *s, uint64_t request, enum med_outcome outcome, int code)
{
    CHECK_INT(s->requests[request].ends, 1);
    CHECK_STR(med_outcome_name(s->requests[request].outcome), med_outcome_name(outcome));
    CHECK_INT(s->requests[request].code, code);
}

/* ---- life ---- */

static void test_request_when_served_then_ends_once(void)
{
    uint32_t w;
    struct shell *s = new_single(&w);
    CHECK_INT(shell_submit(s, 7, 500, 20, 0), 0);
    struct shell_send sent = shell_last(s);
    CHECK_UINT(sent.request, 7);
    CHECK_INT(sent.attempt, 1);
    CHECK_INT(sent.worker, w);
    struct med_dispatch_lease_view lease;
    REQUIRE(med_dispatch_get_lease(s->d, 7, &lease));
    CHECK_INT(lease.input_row, 1);
    CHECK(lease.predicted_ttft_ns > 0);
    CHECK(lease.predicted_tpot_ns > 0);
    s->now_ns += MED_NS_PER_S;
    CHECK_INT(shell_tokens(s, sent, 0, 1), 0);
    CHECK_INT(shell_tokens(s, sent, 1, 6), 0);
    REQUIRE(med_dispatch_get_lease(s->d, 7, &lease));
    CHECK_INT(lease.tokens, 7);
    CHECK_INT(s->end_count, 0);
    CHECK_INT(shell_finish(s, sent, MED_OUTCOME_STOP), 0);
    check_end(s, 7, MED_OUTCOME_STOP, 0);
    CHECK(!med_dispatch_get_lease(s->d, 7, &lease));
    CHECK_INT(shell_finish(s, sent, MED_OUTCOME_STOP), MED_E_NOT_FOUND);
    CHECK_INT(shell_tokens(s, sent, 7, 1), MED_E_NOT_FOUND);
    CHECK_INT(med_dispatch_cancel(s->d, s->now_ns, 7, MED_OUTCOME_ABORT_CLIENT), MED_E_NOT_FOUND);
    CHECK_INT(s->end_count, 1);
    struct med_dispatch_totals t = shell_totals(s);
    CHECK_UINT(t.accepted, 1);
    CHECK_UINT(t.stale_messages, 2);
    CHECK_INT(t.in_flight, 0);
    shell_free(s);
}

static void test_submit_when_nobody_is_there_then_no_worker(void)
{
    struct shell *s = shell_new(1);
    shell_bucket(s, 1, 1, 1, 1, 0);
    shell_start(s);
    CHECK_INT(shell_submit(s, 1, 10, 10, 0), MED_E_NO_WORKER);
    CHECK_INT(s->end_count, 0);
    CHECK_UINT(shell_totals(s).refused_no_worker, 1);
    shell_free(s);
}

static void test_submit_when_sizes_do_not_fit_then_invalid(void)
{
    uint32_t w;
    struct shell *s = new_single(&w);
    CHECK_INT(shell_submit(s, 1, 0, 10, 0), MED_E_INVALID);
    CHECK_INT(shell_submit(s, 1, 10, 0, 0), MED_E_INVALID);
    CHECK_INT(shell_submit(s, 1, 10, -5, 0), MED_E_INVALID);
    CHECK_INT(shell_submit(s, 1, 4000, 97, 0), MED_E_INVALID);
    CHECK_INT(shell_submit(s, 1, INT64_MAX, INT64_MAX, 0), MED_E_INVALID);
    CHECK_INT(shell_submit(s, 1, 4000, 96, 0), 0);
    CHECK_UINT(shell_totals(s).refused_invalid, 5);
    CHECK_INT(med_dispatch_cancel(s->d, s->now_ns, 1, MED_OUTCOME_ABORT_CLIENT), 0);
    shell_free(s);
}

static void test_cancel_in_each_state_then_ends_and_frees(void)
{
    uint32_t w;
    struct shell *s = new_single(&w);
    /* In flight without a token, in flight with one, queued. */
    CHECK_INT(shell_submit(s, 0, 100, 10, 0), 0);
    CHECK_INT(shell_submit(s, 1, 100, 10, 0), 0);
    CHECK_INT(shell_tokens(s, s->sends[1], 0, 1), 0);
    for (uint64_t r = 2; r < 16; r++)
        CHECK_INT(shell_submit(s, r, 100, 10, 0), 0);
    CHECK_INT(shell_submit(s, 16, 100, 10, 0), 0);
    CHECK_INT(shell_submit(s, 17, 100, 10, 0), 0);
    CHECK_INT(shell_totals(s).queued, 2); /* sixteen places */
    CHECK_INT(med_dispatch_cancel(s->d, s->now_ns, 16, MED_OUTCOME_ABORT_CLIENT), 0);
    check_end(s, 16, MED_OUTCOME_ABORT_CLIENT, MED_E_CANCELLED);
    CHECK_INT(s->cancel_count, 0); /* no worker knew of it */
    CHECK_INT(med_dispatch_cancel(s->d, s->now_ns, 0, MED_OUTCOME_ABORT_DEADLINE), 0);
    check_end(s, 0, MED_OUTCOME_ABORT_DEADLINE, MED_E_DEADLINE);
    CHECK_UINT(s->last_cancel.request, 0);
    CHECK_INT(s->last_cancel.worker, w);
    CHECK_UINT(shell_last(s).request, 17); /* its place is taken at once */
    CHECK_INT(med_dispatch_cancel(s->d, s->now_ns, 1, MED_OUTCOME_ABORT_CLIENT), 0);
    check_end(s, 1, MED_OUTCOME_ABORT_CLIENT, MED_E_CANCELLED);
    CHECK_INT(s->cancel_count, 2);
    CHECK_INT(shell_tokens(s, s->sends[1], 1, 1), MED_E_NOT_FOUND);
    for (uint64_t r = 2; r < 18; r++)
        (void)med_dispatch_cancel(s->d, s->now_ns, r, MED_OUTCOME_ABORT_CLIENT);
    CHECK_INT(shell_totals(s).in_flight, 0);
    CHECK_INT(s->end_count, 18);
    shell_free(s);
}

static void test_the_shell_ends_it_by_a_stop_or_an_error(void)
{
    uint32_t w;
    struct shell *s = new_single(&w);
    for (uint64_t r = 0; r < 2; r++) {
        CHECK_INT(shell_submit(s, r, 100, 10, 0), 0);
        CHECK_INT(shell_tokens(s, s->sends[r], 0, 3), 0);
    }
    CHECK_INT(med_dispatch_cancel(s->d, s->now_ns, 0, MED_OUTCOME_STOP), 0);
    check_end(s, 0, MED_OUTCOME_STOP, 0);
    CHECK_UINT(s->last_cancel.request, 0);
    CHECK_INT(s->last_cancel.worker, w);
    CHECK_INT(med_dispatch_cancel(s->d, s->now_ns, 0, MED_OUTCOME_STOP), MED_E_NOT_FOUND);
    CHECK_INT(med_dispatch_cancel(s->d, s->now_ns, 1, MED_OUTCOME_ERROR), 0);
    check_end(s, 1, MED_OUTCOME_ERROR, MED_E_INTERNAL);
    CHECK_INT(s->cancel_count, 2);
    CHECK_UINT(shell_totals(s).outcomes[MED_OUTCOME_STOP], 1);
    CHECK_UINT(shell_totals(s).outcomes[MED_OUTCOME_ERROR], 1);
    /* What the worker says of them now is stale. */
    CHECK_INT(shell_tokens(s, s->sends[0], 3, 1), MED_E_NOT_FOUND);
    struct med_dispatch_context context;
    med_dispatch_get_context(s->d, &context);
    CHECK(context.connected > 0);
    CHECK_INT(context.connected, context.planned);
    shell_free(s);
}

static void test_deadline_when_in_flight_then_cancelled(void)
{
    uint32_t w;
    struct shell *s = new_single(&w);
    int64_t deadline = s->now_ns + MED_NS_PER_S;
    CHECK_INT(shell_submit(s, 1, 100, 10, deadline), 0);
    CHECK_INT(med_dispatch_next_tick_ns(s->d), deadline);
    shell_tick(s, deadline - 1);
    CHECK_INT(s->end_count, 0);
    shell_tick(s, deadline);
    check_end(s, 1, MED_OUTCOME_ABORT_DEADLINE, MED_E_DEADLINE);
    CHECK_INT(s->cancel_count, 1);
    CHECK_INT(shell_submit(s, 2, 100, 10, s->now_ns), MED_E_OVERLOAD); /* late already */
    shell_free(s);
}

/* ---- queue ---- */

static void fill_worker(struct shell *s, uint64_t first)
{
    for (uint64_t r = first; r < first + 16; r++)
        CHECK_INT(shell_submit(s, r, 100, 10, 0), 0);
    CHECK_INT(shell_totals(s).in_flight, 16);
}

static void test_queue_when_full_then_overload(void)
{
    uint32_t w;
    struct shell *s = new_single(&w);
    fill_worker(s, 0);
    for (uint64_t r = 16; r < 116; r++)
        CHECK_INT(shell_submit(s, r, 100, 10, 0), 0);
    CHECK_INT(shell_submit(s, 200, 100, 10, 0), MED_E_OVERLOAD);
    CHECK_INT(s->requests[200].ends, 0);
    CHECK_INT(shell_totals(s).queued, 100);
    CHECK_UINT(shell_totals(s).refused_overload, 1);
    /* Without a deadline of their own they wait queue_wait. */
    shell_beat(s, w);
    shell_tick(s, s->now_ns + 5 * MED_NS_PER_S);
    shell_beat(s, w);
    shell_tick(s, s->now_ns + 5 * MED_NS_PER_S);
    CHECK_INT(s->end_count, 100);
    check_end(s, 50, MED_OUTCOME_REJECTED, MED_E_OVERLOAD);
    CHECK_INT(shell_totals(s).queued, 0);
    CHECK_INT(shell_totals(s).in_flight, 16);
    shell_gone(s, w);
    while (shell_totals(s).queued > 0)
        shell_tick(s, med_dispatch_next_tick_ns(s->d));
    CHECK_INT(s->end_count, 116);
    shell_free(s);
}

static void test_queue_when_places_free_then_earliest_deadline_first(void)
{
    uint32_t w;
    struct shell *s = new_single(&w);
    fill_worker(s, 0);
    int64_t base = s->now_ns + MED_NS_PER_S;
    static const int64_t deadlines[] = {5, 2, 9, 2, 1, 7};
    for (uint64_t i = 0; i < 6; i++)
        CHECK_INT(shell_submit(s, 100 + i, 100, 10, base + deadlines[i]), 0);
    static const uint64_t order[] = {104, 101, 103, 100, 105, 102};
    for (size_t i = 0; i < 6; i++) {
        CHECK_INT(shell_tokens(s, s->sends[i], 0, 1), 0);
        CHECK_INT(shell_finish(s, s->sends[i], MED_OUTCOME_STOP), 0);
        CHECK_UINT(shell_last(s).request, order[i]);
    }
    shell_tick(s, base + 100); /* all of the six are over by then */
    CHECK_INT(shell_totals(s).outcomes[MED_OUTCOME_ABORT_DEADLINE], 6);
    shell_gone(s, w);
    shell_tick(s, s->now_ns + 20 * MED_NS_PER_S);
    CHECK_INT(shell_totals(s).in_flight + shell_totals(s).queued, 0);
    shell_free(s);
}

/* Order in which the requests 16 and later got places that came free one by one. */
static void check_starts(struct shell *s, const uint64_t *order, size_t count)
{
    for (uint64_t r = 0; r < count; r++) {
        size_t before = s->send_count;
        CHECK_INT(med_dispatch_cancel(s->d, s->now_ns, r, MED_OUTCOME_ABORT_CLIENT), 0);
        CHECK_UINT(s->send_count, before + 1);
        CHECK_UINT(shell_last(s).request, order[r]);
    }
}

static void cancel_all(struct shell *s, uint64_t count)
{
    for (uint64_t r = 0; r < count; r++)
        (void)med_dispatch_cancel(s->d, s->now_ns, r, MED_OUTCOME_ABORT_CLIENT);
}

static void test_queue_when_priorities_differ_then_lower_first_and_waiting_counts(void)
{
    struct shell *s = shell_new(1);
    s->config.priority_step_ns = MED_NS_PER_S;
    shell_bucket(s, 1, 1, 1, 1, 0);
    shell_start(s);
    (void)shell_join(s, "a", "w0");
    for (uint64_t r = 0; r < 16; r++)
        CHECK_INT(shell_submit(s, r, 100, 10, 0), 0);
    s->priority = 2;
    CHECK_INT(shell_submit(s, 16, 100, 10, 0), 0);
    s->priority = 0;
    CHECK_INT(shell_submit(s, 17, 100, 10, 0), 0);
    s->priority = INT32_MAX; /* taken for the largest */
    CHECK_INT(shell_submit(s, 18, 100, 10, 0), 0);
    shell_tick(s, s->now_ns + 5 * MED_NS_PER_S / 2);
    s->priority = 0; /* over two steps after 16: it does not pass */
    CHECK_INT(shell_submit(s, 19, 100, 10, 0), 0);
    s->priority = -1; /* passes 16, not 17 */
    CHECK_INT(shell_submit(s, 20, 100, 10, 0), 0);
    s->priority = INT32_MIN;
    CHECK_INT(shell_submit(s, 21, 100, 10, 0), 0);
    static const uint64_t order[] = {21, 17, 20, 16, 19, 18};
    check_starts(s, order, 6);
    cancel_all(s, 22);
    shell_free(s);
}

static void test_queue_when_priority_is_low_then_its_wait_ends_all_the_same(void)
{
    uint32_t w;
    struct shell *s = new_single(&w);
    for (uint64_t r = 0; r < 16; r++)
        CHECK_INT(shell_submit(s, r, 100, 10, 0), 0);
    s->priority = 50;
    CHECK_INT(shell_submit(s, 16, 100, 10, 0), 0);
    int64_t until = s->now_ns + s->config.queue_wait_ns;
    shell_beat(s, w);
    shell_tick(s, until - 1);
    CHECK_INT(s->requests[16].ends, 0);
    shell_beat(s, w);
    shell_tick(s, until);
    check_end(s, 16, MED_OUTCOME_REJECTED, MED_E_OVERLOAD);
    cancel_all(s, 16);
    shell_free(s);
}

/* ---- resume ---- */

static struct shell *new_pair(bool resume)
{
    struct shell *s = shell_new(1);
    s->config.resume = resume;
    shell_bucket(s, 1, 1, 1, 1, 0);
    shell_start(s);
    (void)shell_join(s, "a", "w0");
    (void)shell_join(s, "a", "w1");
    return s;
}

static void test_resume_when_worker_is_lost_then_goes_on_behind_what_came(void)
{
    struct shell *s = new_pair(true);
    CHECK_INT(shell_submit(s, 1, 500, 20, 0), 0);
    struct shell_send first = shell_last(s);
    CHECK_INT(shell_tokens(s, first, 0, 7), 0);
    shell_gone(s, first.worker);
    struct shell_send second = shell_last(s);
    CHECK_UINT(second.request, 1);
    CHECK_INT(second.attempt, 2);
    CHECK(second.worker != first.worker);
    CHECK_INT(s->requests[1].ends, 0);
    struct med_dispatch_lease_view lease;
    REQUIRE(med_dispatch_get_lease(s->d, 1, &lease));
    CHECK_INT(lease.tokens, 7);
    CHECK_INT(shell_tokens(s, second, 0, 1), MED_E_PROTO);
    CHECK_INT(shell_tokens(s, second, 6, 1), MED_E_PROTO);
    CHECK_INT(shell_tokens(s, second, 8, 1), MED_E_PROTO);
    CHECK_INT(shell_tokens(s, second, 7, 14), MED_E_PROTO); /* more than were asked for in all */
    CHECK_INT(shell_tokens(s, second, 7, 13), 0);
    CHECK_INT(shell_finish(s, second, MED_OUTCOME_LENGTH), 0);
    check_end(s, 1, MED_OUTCOME_LENGTH, 0);
    CHECK_UINT(shell_totals(s).reroutes[MED_REROUTE_WORKER_LOST], 1);
    shell_free(s);
}

static void test_resume_when_worker_errs_then_also(void)
{
    struct shell *s = new_pair(true);
    CHECK_INT(shell_submit(s, 1, 500, 20, 0), 0);
    struct shell_send first = shell_last(s);
    CHECK_INT(shell_tokens(s, first, 0, 7), 0);
    CHECK_INT(shell_finish(s, first, MED_OUTCOME_ERROR), 0);
    struct shell_send second = shell_last(s);
    CHECK(second.worker != first.worker);
    /* It may stop without a token more. */
    CHECK_INT(shell_finish(s, second, MED_OUTCOME_STOP), 0);
    check_end(s, 1, MED_OUTCOME_STOP, 0);
    shell_free(s);
}

static void test_resume_when_nobody_is_left_then_waits_and_is_lost_in_the_end(void)
{
    struct shell *s = new_pair(true);
    for (uint64_t r = 0; r < 2; r++) {
        CHECK_INT(shell_submit(s, r, 500, 20, 0), 0);
        CHECK_INT(shell_tokens(s, shell_last(s), 0, 3), 0);
    }
    shell_gone(s, s->sends[0].worker);
    shell_gone(s, s->sends[1].worker);
    CHECK_INT(shell_totals(s).queued, 2);
    uint32_t back = shell_join(s, "a", "w0");
    CHECK_INT(shell_totals(s).queued, 0);
    CHECK_INT(shell_last(s).worker, back);
    shell_gone(s, back);
    for (int64_t at; (at = med_dispatch_next_tick_ns(s->d)) < INT64_MAX;)
        shell_tick(s, at);
    /* Three sends are all: the first one has had them. */
    CHECK_INT(s->requests[0].ends, 1);
    check_end(s, 0, MED_OUTCOME_WORKER_LOST, MED_E_WORKER_LOST);
    check_end(s, 1, MED_OUTCOME_WORKER_LOST, MED_E_WORKER_LOST);
    shell_free(s);
}

static void test_resume_when_all_tokens_came_then_whole(void)
{
    struct shell *s = new_pair(true);
    CHECK_INT(shell_submit(s, 1, 500, 20, 0), 0);
    CHECK_INT(shell_tokens(s, shell_last(s), 0, 20), 0);
    shell_gone(s, shell_last(s).worker);
    check_end(s, 1, MED_OUTCOME_LENGTH, 0); /* the finish was all that was missing */
    CHECK_UINT(s->send_count, 1);
    shell_free(s);
}

static void test_table_when_full_then_overload(void)
{
    struct shell *s = shell_new(1);
    shell_bucket(s, 1, 1, 1, 1, 0);
    s->config.requests_max = 3;
    shell_start(s);
    uint32_t w = shell_join(s, "a", "w0");
    for (uint64_t r = 0; r < 3; r++)
        CHECK_INT(shell_submit(s, r, 100, 10, 0), 0);
    CHECK_INT(shell_submit(s, 3, 100, 10, 0), MED_E_OVERLOAD);
    CHECK_INT(shell_finish(s, s->sends[0], MED_OUTCOME_STOP), 0);
    CHECK_INT(shell_submit(s, 3, 100, 10, 0), 0);
    shell_gone(s, w);
    shell_tick(s, s->now_ns + 20 * MED_NS_PER_S);
    CHECK_INT(s->end_count, 4);
    shell_free(s);
}

static void test_queue_when_a_big_one_waits_then_others_pass(void)
{
    /* The big one fits the plan's type and no worker that is there. */
    struct shell *s = shell_new(1);
    shell_bucket(s, 1, 1, 1, 1, 0);
    shell_start(s);
    struct med_dispatch_worker_hello hello = {.type_name = "a",
                                              .worker_id = "tiny",
                                              .model_len_max = 1000,
                                              .sequences_max = 1,
                                              .kv_tokens = 1000};
    uint32_t tiny;
    REQUIRE(med_dispatch_worker_join(s->d, s->now_ns, &hello, &tiny, NULL) == 0);
    shell_beat(s, tiny);
    CHECK_INT(shell_submit(s, 1, 2000, 100, 0), 0);
    CHECK_INT(shell_totals(s).queued, 1);
    CHECK_INT(shell_submit(s, 2, 100, 10, 0), 0);
    CHECK_UINT(shell_last(s).request, 2);
    uint32_t large = shell_join(s, "a", "large");
    CHECK_UINT(shell_last(s).request, 1);
    CHECK_INT(shell_last(s).worker, large);
    shell_gone(s, tiny);
    shell_gone(s, large);
    shell_tick(s, s->now_ns + 20 * MED_NS_PER_S);
    CHECK_INT(s->end_count, 2);
    shell_free(s);
}

static void test_queue_when_many_wait_for_the_large_type_then_small_ones_start(void)
{
    struct shell *s = shell_new(2);
    shell_bucket(s, 1, 1, 1, 0.5, 0.5);
    s->types[1].latency.model_len_max = 16384;
    shell_start(s);
    struct med_dispatch_worker_hello hello = {.type_name = "b",
                                              .worker_id = "large",
                                              .model_len_max = 16384,
                                              .sequences_max = 1,
                                              .kv_tokens = 16384};
    uint32_t large;
    REQUIRE(med_dispatch_worker_join(s->d, s->now_ns, &hello, &large, NULL) == 0);
    shell_beat(s, large);
    uint32_t small = shell_join(s, "a", "small");
    for (uint64_t r = 0; r < 50; r++) /* one runs, the others wait for it */
        CHECK_INT(shell_submit(s, r, 8000, 100, 0), 0);
    CHECK_INT(shell_totals(s).queued, 49);
    /* At once, while the small type has a place, and as soon as it has one again. */
    for (uint64_t r = 100; r < 120; r++)
        CHECK_INT(shell_submit(s, r, 100, 10, 0), 0);
    CHECK_INT(shell_totals(s).in_flight, 1 + 16);
    CHECK_INT(shell_totals(s).queued, 49 + 4);
    CHECK_INT(shell_finish(s, s->sends[1], MED_OUTCOME_STOP), 0);
    CHECK_UINT(shell_last(s).request, 116);
    CHECK_INT(shell_last(s).worker, small);
    CHECK_INT(shell_finish(s, s->sends[0], MED_OUTCOME_STOP), 0);
    CHECK_UINT(shell_last(s).request, 1);
    CHECK_INT(shell_last(s).worker, large);
    shell_gone(s, small);
    shell_gone(s, large);
    shell_tick(s, s->now_ns + 20 * MED_NS_PER_S);
    CHECK_INT(shell_totals(s).in_flight + shell_totals(s).queued, 0);
    shell_free(s);
}

/* ---- workers lost ---- */

static void test_worker_lost_before_first_token_then_elsewhere(void)
{
    uint32_t w0;
    struct shell *s = new_single(&w0);
    CHECK_INT(shell_submit(s, 1, 100, 10, 0), 0);
    uint32_t w1 = shell_join(s, "a", "w1");
    shell_gone(s, w0);
    CHECK_INT(s->end_count, 0);
    struct shell_send again = shell_last(s);
    CHECK_INT(again.attempt, 2);
    CHECK_INT(again.worker, w1);
    CHECK_UINT(shell_totals(s).reroutes[MED_REROUTE_WORKER_LOST], 1);
    CHECK_INT(shell_tokens(s, again, 0, 10), 0);
    CHECK_INT(shell_finish(s, again, MED_OUTCOME_LENGTH), 0);
    check_end(s, 1, MED_OUTCOME_LENGTH, 0);
    shell_free(s);
}

static void test_worker_lost_after_first_token_then_lost(void)
{
    uint32_t w0;
    struct shell *s = new_single(&w0);
    CHECK_INT(shell_submit(s, 1, 100, 10, 0), 0);
    CHECK_INT(shell_tokens(s, shell_last(s), 0, 1), 0);
    (void)shell_join(s, "a", "w1");
    shell_gone(s, w0);
    check_end(s, 1, MED_OUTCOME_WORKER_LOST, MED_E_WORKER_LOST);
    CHECK_INT(s->send_count, 1);
    shell_free(s);
}

static void test_worker_lost_again_and_again_then_attempts_end_it(void)
{
    uint32_t w;
    struct shell *s = new_single(&w);
    CHECK_INT(shell_submit(s, 1, 100, 10, 0), 0);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(s->end_count, 0);
        CHECK_INT(shell_last(s).attempt, i + 1);
        shell_gone(s, w);
        if (i < 2)
            w = shell_join(s, "a", "again"); /* it waited for a worker */
    }
    check_end(s, 1, MED_OUTCOME_WORKER_LOST, MED_E_WORKER_LOST);
    CHECK_INT(s->send_count, 3);
    shell_free(s);
}

static void test_messages_of_an_older_attempt_then_stale(void)
{
    uint32_t w0;
    struct shell *s = new_single(&w0);
    uint32_t w1 = shell_join(s, "a", "w1");
    CHECK_INT(shell_submit(s, 1, 100, 10, 0), 0);
    struct shell_send old = shell_last(s);
    uint32_t other = old.worker == w0 ? w1 : w0;
    s->now_ns += 11 * MED_NS_PER_S;
    shell_beat(s, other);
    shell_tick(s, s->now_ns); /* the first is silent, and lost; its connection is still there */
    CHECK_INT(shell_state(s, old.worker), MED_WORKER_GONE);
    CHECK_INT(s->cancel_count, 1);
    struct shell_send now = shell_last(s);
    CHECK_INT(now.worker, other);
    CHECK_INT(now.attempt, 2);
    shell_beat(s, old.worker); /* it was only stopped for a while */
    CHECK_INT(shell_state(s, old.worker), MED_WORKER_READY);
    CHECK_INT(shell_tokens(s, old, 0, 1), MED_E_NOT_FOUND);
    CHECK_INT(shell_finish(s, old, MED_OUTCOME_STOP), MED_E_NOT_FOUND);
    CHECK_UINT(shell_totals(s).stale_messages, 2);
    CHECK_INT(shell_tokens(s, now, 0, 1), 0);
    CHECK_INT(shell_finish(s, now, MED_OUTCOME_STOP), 0);
    check_end(s, 1, MED_OUTCOME_STOP, 0);
    shell_free(s);
}

/* ---- health and drain ---- */

static void test_heartbeat_when_missing_then_suspect_then_gone(void)
{
    uint32_t w;
    struct shell *s = new_single(&w);
    int64_t joined = s->now_ns;
    CHECK_INT(shell_state(s, w), MED_WORKER_READY);
    CHECK_INT(med_dispatch_next_tick_ns(s->d), joined + 3 * MED_NS_PER_S);
    CHECK_INT(shell_submit(s, 1, 100, 10, 0), 0);
    shell_tick(s, joined + 3 * MED_NS_PER_S);
    CHECK_INT(shell_state(s, w), MED_WORKER_SUSPECT);
    CHECK_INT(shell_submit(s, 2, 100, 10, 0), 0);
    CHECK_INT(shell_totals(s).queued, 1);             /* none for a suspect */
    CHECK_INT(shell_tokens(s, s->sends[0], 0, 1), 0); /* what it has goes on */
    shell_beat(s, w);
    CHECK_INT(shell_state(s, w), MED_WORKER_READY);
    CHECK_INT(shell_totals(s).queued, 0);
    shell_tick(s, s->now_ns + 10 * MED_NS_PER_S);
    CHECK_INT(shell_state(s, w), MED_WORKER_GONE);
    check_end(s, 1, MED_OUTCOME_WORKER_LOST, MED_E_WORKER_LOST);
    CHECK_INT(shell_totals(s).queued, 1);
    shell_gone(s, w);
    shell_tick(s, s->now_ns + 10 * MED_NS_PER_S);
    check_end(s, 2, MED_OUTCOME_REJECTED, MED_E_OVERLOAD);
    shell_free(s);
}

static void test_heartbeat_from_the_future_or_the_past_then_no_effect(void)
{
    uint32_t w;
    struct shell *s = new_single(&w);
    struct med_dispatch_worker_stats stats = {.heartbeat_ns = s->now_ns + 1000 * MED_NS_PER_S};
    med_dispatch_worker_stats(s->d, s->now_ns, w, &stats);
    stats.heartbeat_ns = INT64_MIN;
    med_dispatch_worker_stats(s->d, s->now_ns, w, &stats);
    CHECK_INT(shell_state(s, w), MED_WORKER_READY);
    shell_tick(s, s->now_ns + 3 * MED_NS_PER_S);
    CHECK_INT(shell_state(s, w), MED_WORKER_SUSPECT);
    shell_gone(s, w);
    shell_free(s);
}

static void test_drain_then_keeps_what_it_has_and_gets_no_more(void)
{
    uint32_t w0;
    struct shell *s = new_single(&w0);
    CHECK_INT(shell_submit(s, 1, 100, 10, 0), 0);
    struct shell_send first = shell_last(s);
    uint32_t w1 = shell_join(s, "a", "w1");
    med_dispatch_worker_drain(s->d, s->now_ns, w0);
    CHECK_INT(shell_state(s, w0), MED_WORKER_DRAINING);
    for (uint64_t r = 2; r < 10; r++) {
        CHECK_INT(shell_submit(s, r, 100, 10, 0), 0);
        CHECK_INT(shell_last(s).worker, w1);
    }
    shell_beat(s, w0);
    CHECK_INT(shell_state(s, w0), MED_WORKER_DRAINING);
    CHECK_INT(shell_tokens(s, first, 0, 1), 0);
    CHECK_INT(shell_finish(s, first, MED_OUTCOME_STOP), 0);
    check_end(s, 1, MED_OUTCOME_STOP, 0);
    shell_gone(s, w0);
    shell_gone(s, w1);
    shell_tick(s, s->now_ns + 20 * MED_NS_PER_S);
    CHECK_INT(s->end_count, 9);
    shell_free(s);
}

static void test_join_when_wrong_then_sentence(void)
{
    uint32_t w0;
    struct shell *s = new_single(&w0);
    struct med_err err;
    uint32_t w;
    CHECK_INT(shell_try_join(s, "a", "w0", &w, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "w0 is connected already");
    CHECK_INT(shell_try_join(s, "z", "w1", &w, &err), MED_E_NOT_FOUND);
    CHECK_CONTAINS(err.text, "z");
    CHECK_INT(shell_try_join(s, "a", "", &w, &err), MED_E_INVALID);
    char name[8];
    for (int i = 1; i < SHELL_WORKERS; i++) {
        (void)snprintf(name, sizeof name, "x%d", i);
        (void)shell_join(s, "a", name);
    }
    CHECK_INT(shell_try_join(s, "a", "more", &w, &err), MED_E_LIMIT);
    shell_gone(s, w0);
    CHECK_INT(shell_join(s, "a", "w0"), w0); /* index and name are free again */
    shell_free(s);
}

/* ---- links and workers that misbehave ---- */

static void test_send_when_refused_then_another_and_no_attempt(void)
{
    uint32_t w0;
    struct shell *s = new_single(&w0);
    uint32_t w1 = shell_join(s, "a", "w1");
    s->refuses[w0] = true;
    s->refuses[w1] = true;
    CHECK_INT(shell_submit(s, 1, 100, 10, 0), 0);
    CHECK_INT(shell_totals(s).queued, 1);
    CHECK_UINT(shell_totals(s).reroutes[MED_REROUTE_SEND_FAILED], 2);
    s->refuses[w1] = false;
    int64_t retry = med_dispatch_next_tick_ns(s->d);
    CHECK(retry > s->now_ns && retry <= s->now_ns + MED_NS_PER_S / 10);
    shell_tick(s, retry);
    CHECK_INT(shell_last(s).worker, w1);
    CHECK_INT(shell_last(s).attempt, 1);
    CHECK_INT(shell_finish(s, shell_last(s), MED_OUTCOME_STOP), 0);
    shell_free(s);
}

static void test_worker_error_without_token_then_elsewhere_and_worker_stays_good(void)
{
    uint32_t w0;
    struct shell *s = new_single(&w0);
    uint32_t w1 = shell_join(s, "a", "w1");
    CHECK_INT(shell_submit(s, 1, 100, 10, 0), 0);
    struct shell_send first = shell_last(s);
    CHECK_INT(shell_finish(s, first, MED_OUTCOME_ERROR), 0);
    struct shell_send second = shell_last(s);
    CHECK_INT(second.attempt, 2);
    CHECK(second.worker != first.worker);
    CHECK_INT(shell_state(s, first.worker), MED_WORKER_READY);
    CHECK_INT(shell_submit(s, 2, 100, 10, 0), 0);
    CHECK_INT(shell_last(s).worker, first.worker);
    CHECK_INT(shell_finish(s, shell_last(s), MED_OUTCOME_STOP), 0);
    CHECK_INT(shell_finish(s, second, MED_OUTCOME_ERROR), 0);
    CHECK_INT(shell_last(s).attempt, 3);
    CHECK_INT(shell_finish(s, shell_last(s), MED_OUTCOME_ERROR), 0);
    check_end(s, 1, MED_OUTCOME_ERROR, MED_E_INTERNAL);
    CHECK_INT(s->send_count, 4);
    CHECK_INT(shell_state(s, w0), MED_WORKER_READY);
    CHECK_INT(shell_state(s, w1), MED_WORKER_READY);
    shell_free(s);
}

static void test_worker_error_after_token_then_error(void)
{
    uint32_t w;
    struct shell *s = new_single(&w);
    CHECK_INT(shell_submit(s, 1, 100, 10, 0), 0);
    CHECK_INT(shell_tokens(s, shell_last(s), 0, 2), 0);
    CHECK_INT(shell_finish(s, shell_last(s), MED_OUTCOME_ERROR), 0);
    check_end(s, 1, MED_OUTCOME_ERROR, MED_E_INTERNAL);
    shell_free(s);
}

static void test_worker_when_it_lies_then_protocol_error_and_nothing_changes(void)
{
    uint32_t w0;
    struct shell *s = new_single(&w0);
    uint32_t w1 = shell_join(s, "a", "w1");
    CHECK_INT(shell_submit(s, 1, 100, 10, 0), 0);
    struct shell_send at = shell_last(s);
    uint32_t other = at.worker == w0 ? w1 : w0;
    struct shell_send foreign = {1, 1, other};
    struct shell_send future = {1, 2, at.worker};
    struct shell_send unknown = {999, 1, at.worker};
    CHECK_INT(shell_tokens(s, foreign, 0, 1), MED_E_PROTO);
    CHECK_INT(shell_finish(s, foreign, MED_OUTCOME_STOP), MED_E_PROTO);
    CHECK_INT(shell_tokens(s, future, 0, 1), MED_E_PROTO);
    CHECK_INT(shell_tokens(s, unknown, 0, 1), MED_E_NOT_FOUND);
    CHECK_INT(shell_tokens(s, at, 1, 1), MED_E_PROTO); /* gap */
    CHECK_INT(shell_tokens(s, at, 0, 0), MED_E_PROTO); /* nothing */
    CHECK_INT(shell_tokens(s, at, 0, -1), MED_E_PROTO);
    CHECK_INT(shell_tokens(s, at, 0, 11), MED_E_PROTO); /* more than asked */
    CHECK_INT(shell_tokens(s, at, 0, INT64_MAX), MED_E_PROTO);
    CHECK_INT(shell_finish(s, at, MED_OUTCOME_LENGTH), MED_E_PROTO); /* of nothing */
    CHECK_INT(shell_finish(s, at, MED_OUTCOME_REJECTED), MED_E_PROTO);
    CHECK_INT(shell_tokens(s, at, 0, 4), 0);
    CHECK_INT(shell_tokens(s, at, 0, 4), MED_E_PROTO); /* repeat */
    CHECK_INT(shell_tokens(s, at, 4, 7), MED_E_PROTO);
    CHECK_INT(shell_tokens(s, at, 4, 6), 0);
    CHECK_INT(shell_tokens(s, at, 10, 1), MED_E_PROTO);
    CHECK_INT(s->end_count, 0);
    CHECK_INT(shell_finish(s, at, MED_OUTCOME_LENGTH), 0);
    check_end(s, 1, MED_OUTCOME_LENGTH, 0);
    shell_free(s);
}

/* ---- creation ---- */

static void test_new_when_config_is_wrong_then_sentence(void)
{
    struct shell *s = shell_new(2);
    shell_bucket(s, 1, 1, 1, 0.5, 0.5);
    struct med_dispatch_ops ops = {shell_on_send, shell_on_cancel, shell_on_end, s};
    struct med_dispatch *d;
    struct med_err err;
#define REFUSES(change, part)                                                \
 do {                                                                        \
  struct shell *copy = malloc(sizeof *copy);                                 \
  REQUIRE(copy != NULL);                                                     \
  memcpy(copy, s, sizeof *copy);                                             \
  copy->config.buckets = copy->buckets;                                      \
  copy->config.input_edges = copy->input_edges;                              \
  copy->change;                                                              \
  CHECK_INT(med_dispatch_new(&copy->config, &ops, &d, &err), MED_E_INVALID); \
  CHECK_CONTAINS(err.text, part);                                            \
  free(copy);                                                                \
 } while (0)
    REFUSES(config.type_count = 0, "worker types");
    REFUSES(config.bucket_count = 0, "no bucket");
    REFUSES(config.requests_max = 0, "requests_max");
    REFUSES(config.workers_max = 0, "workers_max");
    REFUSES(config.attempts_max = 0, "attempts_max");
    REFUSES(config.gone_after_ns = 1, "gone_after");
    REFUSES(config.queue_wait_ns = -1, "duration");
    REFUSES(input_edges[1] = 100, "input edge 1");
    REFUSES(input_edges[1] = NAN, "input edge 1");
    REFUSES(buckets[0].shares[0] = 0.4, "bucket 0");
    REFUSES(buckets[0].shares[0] = NAN, "bucket 0");
    REFUSES(buckets[0].rate_per_s = 0, "bucket 0");
    REFUSES(buckets[0].input_row = 3, "bucket 0");
    shell_bucket(s, 1, 1, 1, 0.5, 0.5);
    REFUSES(config.bucket_count = 2, "twice");
#undef REFUSES
    shell_free(s);
}

static void test_new_when_memory_fails_then_says_so_and_leaks_nothing(void)
{
    struct shell *s = shell_new(2);
    shell_bucket(s, 1, 1, 1, 0.5, 0.5);
    struct med_dispatch_ops ops = {shell_on_send, shell_on_cancel, shell_on_end, s};
    int64_t live = med_alloc_bytes_live();
    uint64_t n = 0;
    int rc;
    do {
        struct med_dispatch *d = NULL;
        (void)med_alloc_fail_nth(++n);
        rc = med_dispatch_new(&s->config, &ops, &d, NULL);
        (void)med_alloc_fail_nth(0);
        CHECK(rc == 0 || rc == MED_E_NOMEM);
        med_dispatch_free(d);
        CHECK_INT(med_alloc_bytes_live(), live);
    } while (rc < 0 && n < 1000);
    CHECK(n > 10 && n < 1000);
    shell_free(s);
}

int main(void)
{
    RUN(test_request_when_served_then_ends_once);
    RUN(test_submit_when_nobody_is_there_then_no_worker);
    RUN(test_submit_when_sizes_do_not_fit_then_invalid);
    RUN(test_cancel_in_each_state_then_ends_and_frees);
    RUN(test_the_shell_ends_it_by_a_stop_or_an_error);
    RUN(test_deadline_when_in_flight_then_cancelled);
    RUN(test_queue_when_full_then_overload);
    RUN(test_queue_when_places_free_then_earliest_deadline_first);
    RUN(test_queue_when_priorities_differ_then_lower_first_and_waiting_counts);
    RUN(test_queue_when_priority_is_low_then_its_wait_ends_all_the_same);
    RUN(test_resume_when_worker_is_lost_then_goes_on_behind_what_came);
    RUN(test_resume_when_worker_errs_then_also);
    RUN(test_resume_when_nobody_is_left_then_waits_and_is_lost_in_the_end);
    RUN(test_resume_when_all_tokens_came_then_whole);
    RUN(test_table_when_full_then_overload);
    RUN(test_queue_when_a_big_one_waits_then_others_pass);
    RUN(test_queue_when_many_wait_for_the_large_type_then_small_ones_start);
    RUN(test_worker_lost_before_first_token_then_elsewhere);
    RUN(test_worker_lost_after_first_token_then_lost);
    RUN(test_worker_lost_again_and_again_then_attempts_end_it);
    RUN(test_messages_of_an_older_attempt_then_stale);
    RUN(test_heartbeat_when_missing_then_suspect_then_gone);
    RUN(test_heartbeat_from_the_future_or_the_past_then_no_effect);
    RUN(test_drain_then_keeps_what_it_has_and_gets_no_more);
    RUN(test_join_when_wrong_then_sentence);
    RUN(test_send_when_refused_then_another_and_no_attempt);
    RUN(test_worker_error_without_token_then_elsewhere_and_worker_stays_good);
    RUN(test_worker_error_after_token_then_error);
    RUN(test_worker_when_it_lies_then_protocol_error_and_nothing_changes);
    RUN(test_new_when_config_is_wrong_then_sentence);
    RUN(test_new_when_memory_fails_then_says_so_and_leaks_nothing);
    return check_finish();
}
