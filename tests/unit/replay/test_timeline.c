/* SPDX-License-Identifier: Apache-2.0 */
/* A replay over time: its sums are those of the requests, and taking it changes nothing. */
#include "allocator/replay/report/timeline.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "tests/check.h"
#include "tests/unit/allocator/sim_fixture.h"

#include <math.h>
#include <string.h>

static const struct med_slos slos = {.count = 2,
                                     .items = {{MED_SLO_TTFT, 500}, {MED_SLO_TPOT, 40}}};

struct run {
    int64_t queue_wait_ns;
    struct med_sim_arrival *arrivals;
    size_t count;
    struct med_sim_result result;
    struct med_timeline timeline;
};

static struct med_sim_result simulate(const struct fixture *f, const struct run *r, size_t samples)
{
    const struct med_sim_options options = {.queue_wait_ns = r->queue_wait_ns, .samples = samples};
    struct med_sim_result result;
    struct med_err err = {0};
    int rc = med_simulate(&f->plan, r->arrivals, r->count, &options, &result, &err);
    CHECK_STR(err.text, "");
    REQUIRE(rc == 0);
    return result;
}

static struct run run_of(const struct fixture *f, double rate_factor, size_t count, size_t samples)
{
    struct run r = {.count = count,
                    .queue_wait_ns = rate_factor > 2 ? MED_NS_PER_S : 100 * MED_NS_PER_S};
    struct med_err err = {0};
    int rc = med_sim_arrivals_from_plan(&f->plan, rate_factor, count, 0, 7, &r.arrivals, &err);
    REQUIRE(rc == 0);
    r.result = simulate(f, &r, samples);
    rc = med_timeline_make(&slos, r.arrivals, &r.result, &r.timeline, &err);
    REQUIRE(rc == 0);
    return r;
}

static void release(struct run *r)
{
    med_timeline_release(&r->timeline);
    med_sim_result_release(&r->result);
    med_free(r->arrivals);
}

static void check_near(double got, double want)
{
    CHECK(fabs(got - want) <= 1e-6 * fmax(1, fabs(want)));
}

/* Requests, each in one span. */
static void check_requests(const struct run *r)
{
    size_t arrivals = 0, lost = 0, finished = 0, within = 0, lost_of = 0, within_of = 0;
    for (size_t i = 0; i < r->timeline.count; i++) {
        const struct med_timeline_span *span = &r->timeline.spans[i];
        arrivals += span->arrivals;
        lost += span->lost;
        finished += span->finished;
        within += span->within;
        CHECK(span->lost <= span->arrivals && span->within + span->lost <= span->arrivals);
        CHECK(isnan(span->ttft.mean) == (span->arrivals == span->lost));
        CHECK(isnan(span->ttft.mean) ||
              (span->ttft.p50 <= span->ttft.p95 && span->ttft.p95 <= span->ttft.p99));
    }
    for (size_t i = 0; i < r->count; i++) {
        lost_of += r->result.requests[i].e2e_ns < 0;
        within_of += med_tally_is_within(&slos, r->arrivals, &r->result, i);
    }
    CHECK_UINT(arrivals, r->count);
    CHECK_UINT(lost, lost_of);
    CHECK_UINT(finished, r->count - lost_of);
    CHECK_UINT(within, within_of);
}

/* Time: what waited, what was in flight, and how long each type was busy. */
static void check_fleet(const struct fixture *f, const struct run *r)
{
    const struct med_sim_samples *m = &r->result.samples;
    double step_ns = (double)m->step_ns;
    double queued = 0, in_flight = 0, waited = 0, held = 0;
    for (size_t i = 0; i < m->count; i++) {
        queued += m->all[i].queued * step_ns;
        in_flight += m->all[i].in_flight * step_ns;
        CHECK((double)m->all[i].queued_most >= m->all[i].queued);
    }
    for (size_t i = 0; i < r->count; i++) {
        const struct med_sim_request *row = &r->result.requests[i];
        if (row->e2e_ns < 0)
            continue;
        waited += (double)row->picked_ns;
        held += (double)(row->e2e_ns - row->picked_ns);
    }
    check_near(queued, waited);
    check_near(in_flight, held);
    double length = (double)(r->result.end_ns - m->from_ns);
    for (size_t t = 0; t < m->type_count; t++) {
        double busy = 0, used = 0, workers = 0;
        uint64_t tokens = 0, generated = 0;
        for (size_t i = 0; i < m->count; i++) {
            const struct med_sim_type_sample *s = &m->types[i * m->type_count + t];
            busy += s->busy * step_ns;
            tokens += s->tokens;
            CHECK(s->kv >= 0 && s->kv <= 1 && s->busy >= 0 && s->busy <= 1);
        }
        for (size_t i = 0; i < r->result.worker_count; i++) {
            const struct med_sim_worker_result *w = &r->result.workers[i];
            if (w->type != t)
                continue;
            used += w->utilization * length;
            generated += w->generated_tokens;
            workers++;
        }
        check_near(busy * workers, used);
        CHECK_UINT(tokens, generated);
    }
    CHECK(f->plan.profile_count == m->type_count);
}

static void test_timeline_when_within_capacity_then_sums_are_those_of_the_requests(void)
{
    struct fixture f;
    fixture_mixed(&f);
    struct run r = run_of(&f, 0.6, 2000, MED_TIMELINE_SPANS);
    CHECK(r.timeline.count >= MED_TIMELINE_SPANS * 3 / 10);
    CHECK(r.timeline.count <= MED_TIMELINE_SPANS);
    check_requests(&r);
    check_fleet(&f, &r);
    release(&r);
}

/* What was waiting and was then rejected is in the queue's integral and in no row. */
static void test_timeline_when_overloaded_then_refusals_are_in_it(void)
{
    struct fixture f;
    fixture_mixed(&f);
    struct run r = run_of(&f, 60, 3000, MED_TIMELINE_SPANS);
    check_requests(&r);
    size_t lost = 0;
    int64_t most = 0;
    for (size_t i = 0; i < r.timeline.count; i++) {
        lost += r.timeline.spans[i].lost;
        if (r.result.samples.all[i].queued_most > most)
            most = r.result.samples.all[i].queued_most;
    }
    CHECK(lost > 0);
    CHECK(most > 0);
    release(&r);
}

/* Few spans: they double again and again, and nothing is lost by it. */
static void test_timeline_when_the_run_goes_on_then_spans_double(void)
{
    struct fixture f;
    fixture_mixed(&f);
    struct run r = {.count = 200, .queue_wait_ns = 1000 * MED_NS_PER_S};
    struct med_err err = {0};
    REQUIRE(med_sim_arrivals_from_plan(&f.plan, 1, r.count, 0, 3, &r.arrivals, &err) == 0);
    for (size_t i = 0; i < r.count; i++)
        r.arrivals[i].at_ns = 5; /* all at once: nothing says how long it takes */
    r.result = simulate(&f, &r, 8);
    REQUIRE(med_timeline_make(&slos, r.arrivals, &r.result, &r.timeline, &err) == 0);
    CHECK(r.timeline.count >= 4 && r.timeline.count < 8);
    CHECK_INT(r.result.samples.from_ns, 5);
    CHECK_UINT(r.timeline.spans[0].arrivals, 200);
    check_requests(&r);
    check_fleet(&f, &r);
    release(&r);
}

static void test_timeline_when_one_arrives_then_one_is_in_it(void)
{
    struct fixture f;
    fixture_mixed(&f);
    struct run r = run_of(&f, 1, 1, MED_TIMELINE_SPANS);
    check_requests(&r);
    check_fleet(&f, &r);
    release(&r);
}

static void test_samples_when_taken_then_the_run_is_the_same(void)
{
    struct fixture f;
    fixture_mixed(&f);
    struct run r = run_of(&f, 1.5, 2000, MED_TIMELINE_SPANS);
    struct med_sim_result without = simulate(&f, &r, 0);
    CHECK_UINT(without.samples.count, 0);
    CHECK(memcmp(without.requests, r.result.requests, r.count * sizeof *without.requests) == 0);
    CHECK_INT(without.end_ns, r.result.end_ns);
    med_sim_result_release(&without);
    release(&r);
}

int main(void)
{
    RUN(test_timeline_when_within_capacity_then_sums_are_those_of_the_requests);
    RUN(test_timeline_when_overloaded_then_refusals_are_in_it);
    RUN(test_timeline_when_the_run_goes_on_then_spans_double);
    RUN(test_timeline_when_one_arrives_then_one_is_in_it);
    RUN(test_samples_when_taken_then_the_run_is_the_same);
    return check_finish();
}
