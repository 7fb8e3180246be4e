/* SPDX-License-Identifier: Apache-2.0 */
/* The simulation against hand computation, queueing theory, overload and failing memory. */
#include "allocator/replay/fleet/sim.h"
#include "allocator/replay/fleet/simulate.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/rng.h"
#include "router/dispatch/dispatch.h"
#include "tests/check.h"
#include "tests/unit/allocator/sim_fixture.h"

#define DELAY_NS INT64_C(70000)
static const double only_first[FIXTURE_TYPES] = {1, 0, 0};
static const struct med_sim_options plain = {.queue_wait_ns = 1000 * MED_NS_PER_S};

/* One worker of type 0 and one bucket. */
static void init_single(struct fixture *f)
{
    fixture_init(f);
    fixture_workers(f, 0, 1);
    fixture_bucket(f, 500, 50, 1, only_first);
}

static int64_t step_ns(const struct fixture *f, int64_t prefill, int64_t pairs, int64_t sequences,
                       int64_t context)
{
    struct med_latency latency;
    REQUIRE(med_latency_init(&latency, &f->profiles[0], NULL) == 0);
    struct med_step_load load = {prefill, pairs, sequences, context};
    return llround(med_latency_step_ms(&latency, &load) * 1e6);
}

static struct med_sim_result simulate(const struct med_plan *plan,
                                      const struct med_sim_arrival *arrivals, size_t count,
                                      const struct med_sim_options *options)
{
    struct med_sim_result result = {0};
    struct med_err err = {0};
    int rc = med_simulate(plan, arrivals, count, options, &result, &err);
    if (rc < 0)
        (void)fprintf(stderr, "%s\n", err.text);
    REQUIRE(rc == 0);
    REQUIRE(result.count == count);
    return result;
}

static void test_simulate_when_alone_then_times_are_the_models(void)
{
    struct fixture f;
    init_single(&f);
    struct med_sim_arrival arrival = {MED_NS_PER_S, 1000, 10, 200, 0};
    struct med_sim_options options = {.link_delay_ns = DELAY_NS};
    struct med_sim_result r = simulate(&f.plan, &arrival, 1, &options);
    /* Two chunks under the budget of 512, then nine decodes over a cache that grows by one. */
    int64_t first = step_ns(&f, 512, med_step_pairs(512, 0), 0, 0) +
                    step_ns(&f, 488, med_step_pairs(488, 512), 0, 0);
    int64_t rest = 0;
    for (int64_t i = 0; i < 9; i++)
        rest += step_ns(&f, 0, 0, 1, 1000 + i);
    CHECK_INT(r.requests[0].ttft_ns, first + 2 * DELAY_NS);
    CHECK_INT(r.requests[0].e2e_ns, first + rest + 2 * DELAY_NS);
    CHECK_INT(r.requests[0].outcome, MED_OUTCOME_STOP);
    CHECK_INT(r.requests[0].type, 0);
    CHECK_INT(r.end_ns, MED_NS_PER_S + first + rest + 2 * DELAY_NS);
    CHECK_DOUBLE(r.workers[0].utilization,
                 (double)(first + rest) / (double)(first + rest + 2 * DELAY_NS), 1e-12);
    struct med_sim_summary s = med_sim_summarize(&r, &arrival, 0, 1);
    CHECK_INT(s.finished, 1);
    CHECK_DOUBLE(s.tpot_ms, (double)rest / 9e6, 1e-9);
    CHECK_DOUBLE(s.e2e_per_token_ms, (double)r.requests[0].e2e_ns / 10e6, 1e-9);
    med_sim_result_release(&r);
}

static void test_simulate_when_output_reaches_maximum_then_length(void)
{
    struct fixture f;
    init_single(&f);
    struct med_sim_arrival arrivals[] = {{0, 10, 1, 1, 0}, {MED_NS_PER_S, 10, 5, 5, 0}};
    struct med_sim_result r = simulate(&f.plan, arrivals, 2, &plain);
    CHECK_INT(r.requests[0].outcome, MED_OUTCOME_LENGTH);
    CHECK_INT(r.requests[0].ttft_ns, r.requests[0].e2e_ns);
    CHECK_INT(r.requests[1].outcome, MED_OUTCOME_LENGTH);
    med_sim_result_release(&r);
}

static void test_simulate_when_two_arrive_together_then_batched(void)
{
    struct fixture f;
    init_single(&f);
    struct med_sim_arrival arrivals[] = {{0, 100, 2, 50, 0}, {0, 200, 3, 50, 0}};
    struct med_sim_result r = simulate(&f.plan, arrivals, 2, &plain);
    int64_t first = step_ns(&f, 300, med_step_pairs(100, 0) + med_step_pairs(200, 0), 0, 0);
    int64_t second = step_ns(&f, 0, 0, 2, 300);
    int64_t third = step_ns(&f, 0, 0, 1, 201);
    CHECK_INT(r.requests[0].ttft_ns, first);
    CHECK_INT(r.requests[1].ttft_ns, first);
    CHECK_INT(r.requests[0].e2e_ns, first + second);
    CHECK_INT(r.requests[1].e2e_ns, first + second + third);
    med_sim_result_release(&r);
}

static void init_mixed(struct fixture *f)
{
    fixture_mixed(f);
    f->plan.slos.items[0] = (struct med_slo){MED_SLO_TTFT, 2000};
    f->plan.slos.count = 1;
}

static void test_simulate_when_repeated_then_same_result(void)
{
    struct fixture f;
    init_mixed(&f);
    struct med_sim_arrival *arrivals;
    REQUIRE(med_sim_arrivals_from_plan(&f.plan, 0.8, 3000, 0, 7, &arrivals, NULL) == 0);
    struct med_sim_options options = {.link_delay_ns = 50000};
    struct med_sim_result a = simulate(&f.plan, arrivals, 3000, &options);
    struct med_sim_result b = simulate(&f.plan, arrivals, 3000, &options);
    for (size_t i = 0; i < 3000; i++) {
        CHECK_INT(a.requests[i].ttft_ns, b.requests[i].ttft_ns);
        CHECK_INT(a.requests[i].e2e_ns, b.requests[i].e2e_ns);
        CHECK_INT(a.requests[i].type, b.requests[i].type);
    }
    for (size_t w = 0; w < a.worker_count; w++)
        CHECK_DOUBLE(a.workers[w].utilization, b.workers[w].utilization, 0);
    CHECK_INT(a.end_ns, b.end_ns);
    med_sim_result_release(&a);
    med_sim_result_release(&b);
    med_free(arrivals);
}

static void test_simulate_when_within_capacity_then_all_finish(void)
{
    struct fixture f;
    init_mixed(&f);
    struct med_sim_arrival *arrivals;
    REQUIRE(med_sim_arrivals_from_plan(&f.plan, 0.5, 2000, 0, 8, &arrivals, NULL) == 0);
    struct med_sim_result r = simulate(&f.plan, arrivals, 2000, &plain);
    size_t of_type[FIXTURE_TYPES] = {0};
    for (size_t i = 0; i < r.count; i++) {
        CHECK(r.requests[i].outcome == MED_OUTCOME_STOP);
        CHECK(r.requests[i].ttft_ns > 0 && r.requests[i].e2e_ns >= r.requests[i].ttft_ns);
        REQUIRE(r.requests[i].type < FIXTURE_TYPES);
        of_type[r.requests[i].type]++;
    }
    CHECK(of_type[0] > 0 && of_type[1] > 0 && of_type[2] > 0);
    for (size_t w = 0; w < r.worker_count; w++)
        CHECK(r.workers[w].utilization > 0 && r.workers[w].utilization <= 1);
    med_sim_result_release(&r);
    med_free(arrivals);
}

static void test_simulate_when_overloaded_then_refused_and_bounded(void)
{
    struct fixture f;
    init_single(&f);
    f.profiles[0].limits.sequences_max = 4;
    enum {
        COUNT = 400
    };
    static struct med_sim_arrival arrivals[COUNT];
    for (size_t i = 0; i < COUNT; i++)
        arrivals[i] = (struct med_sim_arrival){(int64_t)i * 20 * MED_NS_PER_MS, 300, 60, 100, 0};
    struct med_sim_options options = {.queue_max = 5, .queue_wait_ns = MED_NS_PER_S / 2};
    struct med_sim_result r = simulate(&f.plan, arrivals, COUNT, &options);
    size_t finished = 0;
    size_t refused = 0;
    size_t expired = 0;
    for (size_t i = 0; i < COUNT; i++) {
        const struct med_sim_request *row = &r.requests[i];
        finished += row->outcome == MED_OUTCOME_STOP;
        refused += row->outcome == MED_E_OVERLOAD;
        expired += row->outcome == MED_OUTCOME_REJECTED;
        CHECK((row->e2e_ns >= 0) == (row->outcome == MED_OUTCOME_STOP));
        /* Nobody waits longer than the queue's limit and the slowest prefill. */
        CHECK(row->ttft_ns <= MED_NS_PER_S / 2 + MED_NS_PER_S);
    }
    CHECK_INT(finished + refused + expired, COUNT);
    CHECK(finished > 20);
    CHECK(refused > 20);
    CHECK(expired > 0);
    struct med_sim_summary s = med_sim_summarize(&r, arrivals, 0, COUNT);
    CHECK_INT(s.finished, finished);
    CHECK_INT(s.refused, refused);
    CHECK_INT(s.other, expired);
    med_sim_result_release(&r);
}

/* A worker that serves one at a time is a queue with one server. Service takes a prefill of one token
 * and output - 1 decodes; the KV term is small but counted in by measuring the mean service. */
static void check_single_server(bool exponential, double load, double tolerance)
{
    struct fixture f;
    init_single(&f);
    f.profiles[0].limits.sequences_max = 1;
    enum {
        COUNT = 15000
    };
    static struct med_sim_arrival arrivals[COUNT];
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 3);
    double service_ns = 0;
    for (size_t i = 0; i < COUNT; i++) {
        int64_t output = 15;
        if (exponential)
            output = 1 + (int64_t)floor(med_rng_exponential(&rng, 40));
        output = output > 1000 ? 1000 : output;
        arrivals[i] = (struct med_sim_arrival){0, 1, output, 1001, 0};
        for (int64_t t = 0; t + 1 < output; t++)
            service_ns += 12.01e6 + (double)(1 + t) * 100;
        service_ns += 12e6;
    }
    service_ns /= COUNT;
    double at = 0;
    for (size_t i = 0; i < COUNT; i++) {
        at += med_rng_exponential(&rng, service_ns / load);
        arrivals[i].at_ns = (int64_t)at;
    }
    struct med_sim_options options = {.queue_wait_ns = 100000 * MED_NS_PER_S, .queue_max = COUNT};
    struct med_sim_result r = simulate(&f.plan, arrivals, COUNT, &options);
    struct med_sim_summary s = med_sim_summarize(&r, arrivals, 0, COUNT);
    CHECK_INT(s.finished, COUNT);
    /* Pollaczek-Khinchine; a sum of tokens that is geometric has a CV of nearly 1. */
    double factor = exponential ? 1 : 0.5;
    double want_ms = service_ns / 1e6 * (1 + factor * load / (1 - load));
    CHECK_DOUBLE(s.e2e_ms / want_ms, 1, tolerance);
    CHECK_DOUBLE(r.workers[0].utilization, load, 0.03);
    med_sim_result_release(&r);
}

static void test_simulate_when_one_server_then_queueing_theory_holds(void)
{
    check_single_server(false, 0.6, 0.05);
    check_single_server(true, 0.6, 0.1);
}

static void test_simulate_when_input_is_wrong_then_sentence(void)
{
    struct fixture f;
    init_single(&f);
    struct med_sim_result r;
    struct med_err err;
    struct med_sim_arrival falling[] = {{5, 1, 1, 1, 0}, {4, 1, 1, 1, 0}};
    CHECK_INT(med_simulate(&f.plan, falling, 2, &plain, &r, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "arrival 1");
    struct med_sim_arrival empty = {0, 0, 1, 1, 0};
    CHECK_INT(med_simulate(&f.plan, &empty, 1, &plain, &r, &err), MED_E_INVALID);
    struct med_sim_arrival beyond = {0, 1, 2, 1, 0};
    CHECK_INT(med_simulate(&f.plan, &beyond, 1, &plain, &r, &err), MED_E_INVALID);
    struct med_sim_options negative = {.link_delay_ns = -1};
    CHECK_INT(med_simulate(&f.plan, NULL, 0, &negative, &r, &err), MED_E_INVALID);
    f.profiles[0].has_step_model = false;
    CHECK_INT(med_simulate(&f.plan, NULL, 0, &plain, &r, &err), MED_E_UNCOVERED);
    CHECK_CONTAINS(err.text, "type-0");
    f.plan.worker_count = 0;
    CHECK_INT(med_simulate(&f.plan, NULL, 0, &plain, &r, &err), MED_E_INVALID);
    struct med_sim_arrival *arrivals;
    CHECK_INT(med_sim_arrivals_from_plan(&f.plan, 0, 1, 0, 1, &arrivals, &err), MED_E_INVALID);
}

static void test_simulate_when_too_long_for_any_type_then_invalid(void)
{
    struct fixture f;
    init_single(&f);
    struct med_sim_arrival arrivals[] = {{0, 4000, 90, 97, 0}, {1, 4000, 90, 96, 0}};
    struct med_sim_result r = simulate(&f.plan, arrivals, 2, &plain);
    CHECK_INT(r.requests[0].outcome, MED_E_INVALID);
    CHECK_INT(r.requests[0].ttft_ns, -1);
    CHECK_INT(r.requests[1].outcome, MED_OUTCOME_STOP);
    med_sim_result_release(&r);
}

static void test_simulate_when_memory_fails_then_says_so_and_leaks_nothing(void)
{
    struct fixture f;
    init_mixed(&f);
    struct med_sim_arrival *arrivals;
    REQUIRE(med_sim_arrivals_from_plan(&f.plan, 1, 20, 0, 9, &arrivals, NULL) == 0);
    int64_t live = med_alloc_bytes_live();
    uint64_t n = 0;
    int rc;
    do {
        struct med_sim_result r;
        struct med_err err;
        (void)med_alloc_fail_nth(++n);
        rc = med_simulate(&f.plan, arrivals, 20, &plain, &r, &err);
        (void)med_alloc_fail_nth(0);
        if (rc == 0) {
            med_sim_result_release(&r);
        } else {
            CHECK_INT(rc, MED_E_NOMEM);
        }
        CHECK_INT(med_alloc_bytes_live(), live);
    } while (rc < 0 && n < 1000);
    CHECK(n > 20 && n < 1000);
    med_free(arrivals);
}

/* ---- hooks ---- */

struct seen {
    int64_t act_at_ns, acted_at_ns;
    int64_t extra_ns;
    size_t instants;
    int64_t last_ns;
    bool sorted;
};

static int64_t seen_next(void *arg, const struct sim *sim)
{
    const struct seen *seen = arg;
    (void)sim;
    return seen->acted_at_ns < 0 ? seen->act_at_ns : SIM_NEVER_NS;
}

static void seen_act(void *arg, struct sim *sim)
{
    struct seen *seen = arg;
    seen->acted_at_ns = sim->now_ns;
}

static bool seen_route(void *arg, struct sim *sim, const struct sim_message *message,
                       int64_t *at_ns)
{
    const struct seen *seen = arg;
    (void)sim;
    if (message->kind == SIM_TOKEN && message->end != MED_END_NONE)
        *at_ns += seen->extra_ns;
    return true;
}

static void seen_observe(void *arg, const struct sim *sim)
{
    struct seen *seen = arg;
    seen->sorted = seen->sorted && sim->now_ns > seen->last_ns;
    seen->last_ns = sim->now_ns;
    seen->instants++;
}

static void test_simulate_when_hooked_then_acts_delays_and_sees_every_instant(void)
{
    struct fixture f;
    init_single(&f);
    struct med_sim_arrival arrival = {0, 100, 10, 200, 0};
    struct med_sim_options options = {.link_delay_ns = DELAY_NS};
    struct med_sim_result plain_result = simulate(&f.plan, &arrival, 1, &options);
    struct seen seen = {.act_at_ns = 12345,
                        .acted_at_ns = -1,
                        .extra_ns = 5 * MED_NS_PER_MS,
                        .last_ns = -1,
                        .sorted = true};
    const struct sim_hooks hooks = {.next_ns = seen_next,
                                    .act = seen_act,
                                    .route = seen_route,
                                    .observe = seen_observe,
                                    .arg = &seen};
    struct sim sim;
    struct med_sim_result r;
    REQUIRE(sim_init(&sim, &f.plan, &arrival, 1, &options, NULL) == 0);
    sim.hooks = &hooks;
    sim_run(&sim);
    REQUIRE(sim_take_result(&sim, &r, NULL) == 0);
    sim_release(&sim);
    CHECK_INT(seen.acted_at_ns, 12345);
    CHECK_INT(r.requests[0].ttft_ns, plain_result.requests[0].ttft_ns);
    CHECK_INT(r.requests[0].e2e_ns, plain_result.requests[0].e2e_ns + seen.extra_ns);
    CHECK(seen.sorted);
    /* Arrival, act, the worker's hearing, ten iterations' ends and the tokens' arrivals. */
    CHECK_INT(seen.instants, 23);
    med_sim_result_release(&r);
    med_sim_result_release(&plain_result);
}

int main(void)
{
    RUN(test_simulate_when_alone_then_times_are_the_models);
    RUN(test_simulate_when_output_reaches_maximum_then_length);
    RUN(test_simulate_when_two_arrive_together_then_batched);
    RUN(test_simulate_when_repeated_then_same_result);
    RUN(test_simulate_when_within_capacity_then_all_finish);
    RUN(test_simulate_when_overloaded_then_refused_and_bounded);
    RUN(test_simulate_when_one_server_then_queueing_theory_holds);
    RUN(test_simulate_when_input_is_wrong_then_sentence);
    RUN(test_simulate_when_too_long_for_any_type_then_invalid);
    RUN(test_simulate_when_hooked_then_acts_delays_and_sees_every_instant);
    RUN(test_simulate_when_memory_fails_then_says_so_and_leaks_nothing);
    return check_finish();
}
