/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Overload: three times the fleet's capacity for two minutes of virtual time. What is accepted must keep
 * the objectives, what is served must be near the capacity, the rest must be refused at once.
 */
#include "allocator/replay/fleet/simulate.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "tests/unit/allocator/conversation.h"

/* Times the plan's rate that its workers can do, by the plan's own reckoning. */
static double capacity_factor(const struct med_plan *plan)
{
    double load = 0;
    double workers = 0;
    for (size_t b = 0; b < plan->assignment_count; b++) {
        const struct med_plan_assignment *bucket = &plan->assignment[b];
        for (size_t t = 0; t < plan->profile_count; t++) {
            if (bucket->shares[t] > 0)
                load += bucket->rate_per_s * bucket->shares[t] * work_s(plan, bucket, t);
        }
    }
    for (size_t w = 0; w < plan->worker_count; w++)
        workers += (double)plan->workers[w].count;
    return workers / load;
}

struct figures {
    size_t finished, refused, late, lost, good;
    double ttft_ms, tpot_ms;
};

/* Of the requests that arrived in the middle of the run. */
static struct figures figures_of(const struct med_sim_result *r, const struct med_sim_arrival *a,
                                 size_t from, size_t to)
{
    struct figures f = {0};
    size_t tpots = 0;
    for (size_t i = from; i < to; i++) {
        const struct med_sim_request *row = &r->requests[i];
        if (row->outcome < 0) {
            f.refused++;
        } else if (row->outcome == MED_OUTCOME_REJECTED) {
            f.late++;
        } else if (row->e2e_ns < 0) {
            f.lost++;
        } else {
            f.finished++;
            f.ttft_ms += (double)row->ttft_ns / 1e6;
            if (a[i].output_tokens > 1) {
                f.tpot_ms +=
                    (double)(row->e2e_ns - row->ttft_ns) / 1e6 / (double)(a[i].output_tokens - 1);
                tpots++;
            }
        }
    }
    f.ttft_ms /= (double)f.finished;
    f.tpot_ms /= (double)tpots;
    return f;
}

static void check_overload(const char *slos, double ttft_ms, double tpot_ms,
                           enum med_dispatch_policy policy)
{
    struct scene s = {0};
    scene_init(&s, slos);
    double capacity = capacity_factor(&s.plan);
    double rate = 0;
    for (size_t b = 0; b < s.plan.assignment_count; b++)
        rate += s.plan.assignment[b].rate_per_s;
    struct med_sim_arrival *arrivals;
    struct med_err err = {0};
    size_t count = (size_t)(rate * 3 * capacity * 180);
    require(med_sim_arrivals_from_plan(&s.plan, 3 * capacity, count, 2000, check_seed(), &arrivals,
                                       &err),
            &err);
    struct med_sim_options options = {.policy = policy};
    struct med_sim_result result;
    require(med_simulate(&s.plan, arrivals, count, &options, &result, &err), &err);
    struct figures f = figures_of(&result, arrivals, count / 3, count);
    double goodput = (double)f.finished / 120 / (rate * capacity);
    (void)printf("%s, %s: capacity %.2f/s, goodput %.3f of it, TTFT %.0f ms, TPOT %.1f ms, %zu "
                 "finished, %zu refused at once, %zu late\n",
                 slos, med_dispatch_policy_name(policy), rate * capacity, goodput, f.ttft_ms,
                 f.tpot_ms, f.finished, f.refused, f.late);
    CHECK(goodput >= 0.9);
    CHECK(f.ttft_ms <= ttft_ms);
    CHECK(f.tpot_ms <= tpot_ms);
    CHECK_INT(f.lost, 0);
    CHECK((double)f.late <= 0.02 * (double)f.refused);
    med_sim_result_release(&result);
    med_free(arrivals);
    scene_release(&s);
}

static void test_overload_when_there_are_objectives_then_kept(void)
{
    check_overload("tpot.mean=80ms,ttft.mean=1s", 1000, 80, MED_POLICY_PLAN);
    check_overload("tpot.mean=120ms,ttft.mean=2s", 2000, 120, MED_POLICY_PLAN);
}

static void test_overload_when_there_is_no_ttft_objective_then_the_queue_s_bound_is_kept(void)
{
    check_overload("tpot.mean=120ms", 30000, 120, MED_POLICY_PLAN);
}

int main(void)
{
    RUN(test_overload_when_there_are_objectives_then_kept);
    RUN(test_overload_when_there_is_no_ttft_objective_then_the_queue_s_bound_is_kept);
    return check_finish();
}
