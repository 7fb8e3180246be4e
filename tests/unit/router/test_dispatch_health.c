/* SPDX-License-Identifier: Apache-2.0 */
/* Dispatch: workers that join, fall silent, leave and fail; whose fault it is; the breaker. */
#include "router/dispatch/dispatch.h"

#include "tests/unit/router/dispatch_fixture.h"

static struct shell *new_fleet(size_t workers, bool resume, int64_t breaker_faults)
{
    struct shell *s = shell_new(1);
    s->config.resume = resume;
    s->config.breaker_faults = breaker_faults;
    shell_bucket(s, 1, 1, 1, 1, 0);
    shell_start(s);
    for (size_t i = 0; i < workers; i++) {
        char id[8];
        (void)snprintf(id, sizeof id, "w%zu", i);
        (void)shell_join(s, "a", id);
    }
    return s;
}

static struct med_dispatch_worker_view view_of(const struct shell *s, uint32_t worker)
{
    struct med_dispatch_worker_view view;
    REQUIRE(med_dispatch_get_worker(s->d, worker, &view));
    return view;
}

static void cancel_all(struct shell *s, uint64_t count)
{
    for (uint64_t r = 0; r < count; r++)
        (void)med_dispatch_cancel(s->d, s->now_ns, r, MED_OUTCOME_ABORT_CLIENT);
}

/* ---- states ---- */

static void test_join_until_the_first_word_then_no_requests(void)
{
    struct shell *s = new_fleet(0, false, 0);
    uint32_t w;
    REQUIRE(shell_try_join(s, "a", "w0", &w, NULL) == 0);
    CHECK_INT(shell_state(s, w), MED_WORKER_JOINING);
    CHECK_STR(med_worker_state_name(MED_WORKER_JOINING), "joining");
    CHECK_INT(shell_submit(s, 1, 100, 10, 0), 0);
    CHECK_INT(shell_totals(s).queued, 1);
    shell_tick(s, s->now_ns + 5 * MED_NS_PER_S);
    CHECK_INT(shell_state(s, w), MED_WORKER_JOINING); /* it is not suspected of anything */
    shell_beat(s, w);
    CHECK_INT(shell_state(s, w), MED_WORKER_READY);
    CHECK_INT(shell_totals(s).queued, 0);
    shell_gone(s, w);
    REQUIRE(shell_try_join(s, "a", "w1", &w, NULL) == 0);
    shell_tick(s, s->now_ns + 10 * MED_NS_PER_S);
    CHECK_INT(shell_state(s, w), MED_WORKER_GONE);
    shell_gone(s, w);
    cancel_all(s, 2);
    shell_free(s);
}

static void test_silence_when_iterations_are_long_then_four_of_them(void)
{
    struct shell *s = shell_new(1);
    s->types[0].latency = shell_latency(0.01); /* 1.2 s an iteration, and more with prompts */
    shell_bucket(s, 1, 1, 1, 1, 0);
    shell_start(s);
    uint32_t w = shell_join(s, "a", "w0");
    CHECK_INT(view_of(s, w).silence_max_ns, 3 * MED_NS_PER_S); /* idle: nothing to wait for */
    CHECK_INT(shell_submit(s, 1, 400, 50, 0), 0);
    int64_t most = view_of(s, w).silence_max_ns;
    CHECK(most >
          10 * MED_NS_PER_S); /* a chunk of 400 tokens takes 4 s and more; beyond gone_after too */
    int64_t beat = s->now_ns;
    shell_tick(s, beat + most - 1);
    CHECK_INT(shell_state(s, w), MED_WORKER_READY);
    CHECK(med_dispatch_next_tick_ns(s->d) <= beat + most);
    shell_tick(s, beat + most);
    CHECK(shell_state(s, w) != MED_WORKER_READY);
    shell_gone(s, w);
    for (int64_t at; (at = med_dispatch_next_tick_ns(s->d)) < INT64_MAX;)
        shell_tick(s, at);
    shell_free(s);
}

static void hang_first_of_two(struct shell *s, struct shell_send *ret_first)
{
    CHECK_INT(shell_submit(s, 0, 500, 20, 0), 0);
    *ret_first = shell_last(s);
    CHECK_INT(shell_tokens(s, *ret_first, 0, 2), 0);
    s->now_ns += 2 * MED_NS_PER_S;
    shell_beat(s, 1 - ret_first->worker);
    shell_tick(s, s->now_ns + MED_NS_PER_S);
    CHECK_INT(shell_state(s, ret_first->worker), MED_WORKER_SUSPECT);
}

static void test_suspect_when_another_can_take_them_then_its_requests_go_on_there(void)
{
    struct shell *s = new_fleet(2, true, 0);
    struct shell_send first;
    hang_first_of_two(s, &first);
    struct shell_send second = shell_last(s);
    CHECK_UINT(s->send_count, 2);
    CHECK(second.worker != first.worker);
    CHECK_UINT(s->last_cancel.worker, first.worker); /* it is told, should it wake up */
    CHECK_INT(shell_tokens(s, first, 2, 1), MED_E_NOT_FOUND);
    CHECK_INT(shell_tokens(s, second, 2, 1), 0);
    CHECK_UINT(view_of(s, first.worker).faults, 1);
    shell_tick(s, s->now_ns + 1); /* still silent: the same fault */
    CHECK_UINT(view_of(s, first.worker).faults, 1);
    cancel_all(s, 1);
    shell_free(s);
}

static void test_suspect_when_a_token_would_be_lost_then_it_keeps_its_requests(void)
{
    struct shell *s = new_fleet(2, false, 0);
    struct shell_send first;
    hang_first_of_two(s, &first);
    CHECK_UINT(s->send_count, 1); /* no resume: it may yet wake up */
    shell_beat(s, first.worker);
    CHECK_INT(shell_tokens(s, first, 2, 1), 0);
    cancel_all(s, 1);
    shell_free(s);
}

static void test_suspect_when_alone_then_it_keeps_its_requests(void)
{
    struct shell *s = new_fleet(1, true, 0);
    CHECK_INT(shell_submit(s, 0, 500, 20, 0), 0);
    struct shell_send first = shell_last(s);
    shell_tick(s, s->now_ns + 3 * MED_NS_PER_S);
    CHECK_INT(shell_state(s, first.worker), MED_WORKER_SUSPECT);
    CHECK_INT(shell_totals(s).queued, 0);
    CHECK_INT(shell_tokens(s, first, 0, 1), 0);
    cancel_all(s, 1);
    shell_free(s);
}

static void test_drain_when_the_last_one_ends_then_drained(void)
{
    struct shell *s = new_fleet(1, false, 0);
    CHECK_INT(shell_submit(s, 0, 500, 20, 0), 0);
    struct shell_send first = shell_last(s);
    CHECK(!view_of(s, first.worker).drained);
    med_dispatch_worker_drain(s->d, s->now_ns, first.worker);
    CHECK(!view_of(s, first.worker).drained);
    CHECK_INT(shell_finish(s, first, MED_OUTCOME_STOP), 0);
    CHECK(view_of(s, first.worker).drained);
    shell_free(s);
}

static void test_drain_when_it_falls_silent_then_its_requests_go_on_elsewhere(void)
{
    struct shell *s = new_fleet(2, true, 1);
    CHECK_INT(shell_submit(s, 0, 100, 10, 0), 0);
    struct shell_send first = shell_last(s);
    CHECK_INT(shell_tokens(s, first, 0, 2), 0);
    uint32_t other = first.worker == 0 ? 1 : 0;
    med_dispatch_worker_drain(s->d, s->now_ns, first.worker);
    med_dispatch_check(s->d);
    int64_t until_ns = s->now_ns + 3 * MED_NS_PER_S;
    while (s->now_ns < until_ns - 1) {
        CHECK_INT(s->send_count, 1);
        int64_t next_ns = med_dispatch_next_tick_ns(s->d);
        CHECK(next_ns > s->now_ns);
        shell_tick(s, next_ns < until_ns - 1 ? next_ns : until_ns - 1);
        shell_beat(s, other);
    }
    shell_tick(s, med_dispatch_next_tick_ns(s->d));
    CHECK_INT(s->now_ns, until_ns);
    CHECK_INT(shell_state(s, first.worker), MED_WORKER_DRAINING);
    CHECK_INT(s->send_count, 2);
    CHECK_INT(shell_last(s).worker, other);
    CHECK_INT(shell_tokens(s, shell_last(s), 2, 1), 0);
    CHECK_UINT(view_of(s, first.worker).faults, 0);
    CHECK(med_dispatch_next_tick_ns(s->d) > s->now_ns); /* nothing is asked again and again */
    cancel_all(s, 1);
    shell_free(s);
}

static void test_return_then_goes_on_elsewhere_and_nobody_is_to_blame(void)
{
    struct shell *s = new_fleet(2, true, 1);
    CHECK_INT(shell_submit(s, 0, 500, 20, 0), 0);
    struct shell_send at = shell_last(s);
    CHECK_INT(shell_tokens(s, at, 0, 3), 0);
    /* More often than there are attempts. */
    for (int i = 0; i < 8; i++) {
        CHECK_INT(med_dispatch_return(s->d, s->now_ns, at.worker, at.request, at.attempt), 0);
        med_dispatch_check(s->d);
        CHECK_UINT(view_of(s, at.worker).faults, 0);
        CHECK(shell_last(s).worker != at.worker);
        at = shell_last(s);
    }
    CHECK_INT(med_dispatch_return(s->d, s->now_ns, at.worker, 0, at.attempt - 1), MED_E_NOT_FOUND);
    CHECK_INT(shell_tokens(s, at, 3, 1), 0);
    CHECK_INT(shell_finish(s, at, MED_OUTCOME_STOP), 0);
    CHECK_INT(s->requests[0].outcome, MED_OUTCOME_STOP);
    shell_free(s);
}

/* ---- the breaker ---- */

/* Sends requests until the worker has failed `count` of them; the others end well. */
static void fail(struct shell *s, uint32_t worker, int count, uint64_t *request)
{
    while (count > 0) {
        CHECK_INT(shell_submit(s, (*request)++, 100, 10, 0), 0);
        struct shell_send at = shell_last(s);
        if (at.worker == worker) {
            CHECK_INT(shell_finish(s, at, MED_OUTCOME_ERROR), 0);
            count--;
            at = shell_last(s);
        }
        if (at.worker != worker)
            CHECK_INT(shell_finish(s, at, MED_OUTCOME_STOP), 0);
    }
}

static void test_breaker_when_faults_add_up_then_opens_probes_and_closes(void)
{
    struct shell *s = new_fleet(2, false, 3);
    uint64_t request = 0;
    fail(s, 0, 2, &request);
    CHECK(!view_of(s, 0).breaker_open);
    fail(s, 0, 1, &request);
    CHECK(view_of(s, 0).breaker_open);
    CHECK_INT(shell_state(s, 0), MED_WORKER_READY); /* it beats; it is only not trusted */
    CHECK_UINT(shell_totals(s).breaker_opened, 1);
    CHECK_INT(view_of(s, 0).breaker_until_ns, s->now_ns + MED_NS_PER_S);
    CHECK_INT(view_of(s, 0).last_fault, MED_WORKER_FAULT_ERROR);
    CHECK(!view_of(s, 0).breaker_probing);
    struct med_dispatch_type_view type;
    med_dispatch_get_type(s->d, 0, &type);
    CHECK_UINT(type.counts.breaker_opened, 1);
    CHECK_UINT(type.counts.faults[MED_WORKER_FAULT_ERROR], 3);
    CHECK_UINT(type.counts.faults[MED_WORKER_FAULT_SILENCE], 0);
    CHECK_UINT(type.counts.faults[MED_WORKER_FAULT_LINK], 0);
    uint64_t first = request;
    for (int i = 0; i < 6; i++) {
        CHECK_INT(shell_submit(s, request++, 100, 10, 0), 0);
        CHECK_INT(shell_last(s).worker, 1);
    }
    /* Half open: one, and no other until it has said something. */
    s->now_ns = view_of(s, 0).breaker_until_ns;
    int probes = 0;
    struct shell_send probe = {0};
    for (int i = 0; i < 6; i++) {
        CHECK_INT(shell_submit(s, request++, 100, 10, 0), 0);
        if (shell_last(s).worker == 0) {
            probes++;
            probe = shell_last(s);
        }
    }
    CHECK_INT(probes, 1);
    CHECK(view_of(s, 0).breaker_probing);
    CHECK_INT(shell_tokens(s, probe, 0, 1), 0);
    CHECK(!view_of(s, 0).breaker_open);
    CHECK(!view_of(s, 0).breaker_probing);
    for (; first < request; first++)
        (void)med_dispatch_cancel(s->d, s->now_ns, first, MED_OUTCOME_ABORT_CLIENT);
    shell_free(s);
}

static void test_breaker_when_probes_fail_then_longer_up_to_a_minute(void)
{
    struct shell *s = new_fleet(2, false, 1);
    uint64_t request = 0;
    fail(s, 0, 1, &request);
    int64_t waited = MED_NS_PER_S;
    for (int i = 0; i < 9; i++) {
        CHECK_INT(view_of(s, 0).breaker_until_ns, s->now_ns + waited);
        int64_t until = s->now_ns + waited;
        while (s->now_ns < until) { /* both beat */
            s->now_ns = until - s->now_ns > MED_NS_PER_S ? s->now_ns + MED_NS_PER_S : until;
            shell_beat(s, 0);
            shell_beat(s, 1);
        }
        fail(s, 0, 1, &request);
        waited = 2 * waited < 60 * MED_NS_PER_S ? 2 * waited : 60 * MED_NS_PER_S;
    }
    shell_free(s);
}

static void test_breaker_when_clients_are_at_fault_then_stays_closed(void)
{
    struct shell *s = new_fleet(1, false, 1);
    for (uint64_t r = 0; r < 4; r++)
        CHECK_INT(shell_submit(s, r, 100, 10, r == 3 ? s->now_ns + 5 : 0), 0);
    CHECK_INT(med_dispatch_cancel(s->d, s->now_ns, 0, MED_OUTCOME_ABORT_CLIENT), 0);
    CHECK_INT(med_dispatch_cancel(s->d, s->now_ns, 1, MED_OUTCOME_ABORT_DEADLINE), 0);
    CHECK_INT(med_dispatch_cancel(s->d, s->now_ns, 2, MED_OUTCOME_ERROR), 0);
    shell_tick(s, s->now_ns + 5);
    CHECK_INT(s->requests[3].outcome, MED_OUTCOME_ABORT_DEADLINE);
    CHECK_INT(shell_submit(s, 4, 10000, 10, 0), MED_E_INVALID);
    CHECK_UINT(view_of(s, 0).faults, 0);
    CHECK(!view_of(s, 0).breaker_open);
    shell_free(s);
}

static void test_breaker_when_a_probe_is_cancelled_then_another(void)
{
    struct shell *s = new_fleet(1, false, 1);
    CHECK_INT(shell_submit(s, 0, 100, 10, 0), 0);
    CHECK_INT(shell_finish(s, shell_last(s), MED_OUTCOME_ERROR), 0);
    CHECK_INT(shell_totals(s).queued, 1);
    shell_tick(s, s->now_ns + MED_NS_PER_S);
    CHECK_INT(shell_totals(s).queued, 0); /* the queue is tried without an event */
    CHECK_INT(shell_submit(s, 1, 100, 10, 0), 0);
    CHECK_INT(shell_totals(s).queued, 1);
    CHECK_INT(med_dispatch_cancel(s->d, s->now_ns, 0, MED_OUTCOME_ABORT_CLIENT), 0);
    CHECK_UINT(shell_last(s).request, 1);
    CHECK(view_of(s, 0).breaker_open);
    CHECK_INT(shell_tokens(s, shell_last(s), 0, 1), 0);
    CHECK(!view_of(s, 0).breaker_open);
    cancel_all(s, 2);
    shell_free(s);
}

static void test_worker_lost_when_only_the_finish_is_to_come_then_stop(void)
{
    struct shell *s = new_fleet(2, true, 0);
    CHECK_INT(shell_submit(s, 0, 100, 10, 0), 0);
    struct shell_send at = shell_last(s);
    CHECK_INT(shell_tokens(s, at, 0, 2), 0);
    med_dispatch_whole(s->d, 0);
    CHECK_INT(shell_tokens(s, at, 2, 1), 0); /* it was not: that is taken back */
    shell_gone(s, at.worker);
    CHECK_INT(s->end_count, 0);
    CHECK_INT(shell_last(s).attempt, 2);
    at = shell_last(s);
    CHECK_INT(shell_tokens(s, at, 3, 1), 0);
    med_dispatch_whole(s->d, 0);
    med_dispatch_whole(s->d, 7); /* nobody's */
    shell_gone(s, at.worker);
    CHECK_INT(s->requests[0].ends, 1);
    CHECK_INT(s->requests[0].outcome, MED_OUTCOME_STOP);
    CHECK_INT(s->requests[0].code, 0);
    shell_free(s);
}

static void test_breaker_when_answers_end_at_a_stop_string_then_faults_are_taken_back(void)
{
    struct shell *s = new_fleet(1, false, 3);
    for (uint64_t r = 0; r < 10; r++) {
        CHECK_INT(shell_submit(s, 2 * r, 100, 10, 0), 0);
        CHECK_INT(shell_finish(s, shell_last(s), MED_OUTCOME_ERROR),
                  0); /* sent again, to the same */
        for (int i = 0; i < 2; i++) {
            CHECK_INT(shell_tokens(s, shell_last(s), 0, 3), 0);
            CHECK_INT(med_dispatch_cancel(s->d, s->now_ns, shell_last(s).request, MED_OUTCOME_STOP),
                      0);
            if (i == 0)
                CHECK_INT(shell_submit(s, 2 * r + 1, 100, 10, 0), 0);
        }
        CHECK(!view_of(s, 0).breaker_open);
    }
    CHECK_UINT(view_of(s, 0).faults, 10);
    shell_free(s);
}

static void test_breaker_when_a_probe_ends_well_without_a_token_then_closes(void)
{
    struct shell *s = new_fleet(1, false, 1);
    CHECK_INT(shell_submit(s, 0, 100, 10, 0), 0);
    CHECK_INT(shell_finish(s, shell_last(s), MED_OUTCOME_ERROR), 0);
    CHECK(view_of(s, 0).breaker_open);
    shell_tick(s, s->now_ns + MED_NS_PER_S);
    CHECK_INT(shell_last(s).attempt, 2);
    CHECK_INT(shell_finish(s, shell_last(s), MED_OUTCOME_STOP),
              0); /* its first token was the last */
    CHECK(!view_of(s, 0).breaker_open);
    shell_free(s);
}

static void test_breaker_when_its_worker_comes_back_then_as_it_was(void)
{
    struct shell *s = new_fleet(2, false, 3);
    uint64_t request = 0;
    fail(s, 0, 2, &request);
    shell_gone(s, 0); /* with nothing in flight: no fault */
    uint32_t other = shell_join(s, "a", "other");
    uint32_t back = shell_join(s, "a", "w0");
    CHECK_UINT(view_of(s, other).faults, 0);
    CHECK_UINT(view_of(s, back).faults, 2);
    /* It crashes under a request. */
    shell_gone(s, other);
    shell_gone(s, 1);
    CHECK_INT(shell_submit(s, request, 100, 10, 0), 0);
    CHECK_INT(shell_last(s).worker, back);
    shell_gone(s, back);
    back = shell_join(s, "a", "w0");
    CHECK(view_of(s, back).breaker_open);
    CHECK_INT(shell_totals(s).queued, 1);
    (void)med_dispatch_cancel(s->d, s->now_ns, request, MED_OUTCOME_ABORT_CLIENT);
    shell_free(s);
}

static void test_breaker_when_never_then_never(void)
{
    struct shell *s = new_fleet(2, false, -1);
    uint64_t request = 0;
    fail(s, 0, 20, &request);
    CHECK(!view_of(s, 0).breaker_open);
    CHECK_UINT(view_of(s, 0).faults, 20); /* they are counted all the same */
    shell_free(s);
}

static void test_breaker_when_its_worker_drains_then_no_fault(void)
{
    struct shell *s = new_fleet(2, true, 1);
    CHECK_INT(shell_submit(s, 0, 100, 10, 0), 0);
    struct shell_send at = shell_last(s);
    med_dispatch_worker_drain(s->d, s->now_ns, at.worker);
    CHECK_INT(shell_finish(s, at, MED_OUTCOME_ERROR), 0);
    CHECK_UINT(view_of(s, at.worker).faults, 0);
    cancel_all(s, 1);
    shell_free(s);
}

int main(void)
{
    RUN(test_join_until_the_first_word_then_no_requests);
    RUN(test_silence_when_iterations_are_long_then_four_of_them);
    RUN(test_suspect_when_another_can_take_them_then_its_requests_go_on_there);
    RUN(test_suspect_when_a_token_would_be_lost_then_it_keeps_its_requests);
    RUN(test_suspect_when_alone_then_it_keeps_its_requests);
    RUN(test_drain_when_the_last_one_ends_then_drained);
    RUN(test_drain_when_it_falls_silent_then_its_requests_go_on_elsewhere);
    RUN(test_return_then_goes_on_elsewhere_and_nobody_is_to_blame);
    RUN(test_breaker_when_faults_add_up_then_opens_probes_and_closes);
    RUN(test_breaker_when_probes_fail_then_longer_up_to_a_minute);
    RUN(test_breaker_when_clients_are_at_fault_then_stays_closed);
    RUN(test_breaker_when_a_probe_is_cancelled_then_another);
    RUN(test_worker_lost_when_only_the_finish_is_to_come_then_stop);
    RUN(test_breaker_when_answers_end_at_a_stop_string_then_faults_are_taken_back);
    RUN(test_breaker_when_a_probe_ends_well_without_a_token_then_closes);
    RUN(test_breaker_when_its_worker_comes_back_then_as_it_was);
    RUN(test_breaker_when_never_then_never);
    RUN(test_breaker_when_its_worker_drains_then_no_fault);
    return check_finish();
}
