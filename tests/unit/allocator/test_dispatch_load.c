/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the plan is worth under dispatch: the shipped conversation workload, planned over the shipped
 * profiles with 80 % utilization, simulated with sizes that the router does not know. Each worker
 * type must get the load that the plan gave it, and the objectives must hold.
 */
#include "allocator/replay/fleet/simulate.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "router/dispatch/dispatch.h"
#include "tests/unit/allocator/conversation.h"

enum {
    COUNT = 8000,
    WARM_UP = 800
};

/* Index of the arrival's bucket, or the count: none. */
static size_t bucket_of(const struct med_plan *plan, const struct med_sim_arrival *a)
{
    const struct med_grid *g = &plan->grid;
    int input = med_grid_row(g->input_edges, g->input_edge_count, (double)a->input_tokens);
    int output = med_grid_row(g->output_edges, g->output_edge_count, (double)a->output_tokens);
    size_t i = 0;
    while (i < plan->assignment_count &&
           (plan->assignment[i].input_row != input || plan->assignment[i].output_row != output))
        i++;
    return i;
}

/* Load of each type under dispatch relative to what the plan's shares would have given it, over the
 * very same requests: their chance is not what is tested. */
static void check_loads(const struct med_plan *plan, const struct med_sim_arrival *arrivals,
                        const struct med_sim_result *result, double tolerance)
{
    double got[MED_LIMIT_WORKER_TYPES] = {0};
    double planned[MED_LIMIT_WORKER_TYPES] = {0};
    static double work[MED_LIMIT_BUCKETS][TYPES];
    for (size_t b = 0; b < plan->assignment_count; b++) {
        for (size_t w = 0; w < plan->worker_count; w++) {
            size_t t = plan->workers[w].worker_type;
            work[b][t] = work_s(plan, &plan->assignment[b], t);
        }
    }
    for (size_t i = WARM_UP; i < COUNT; i++) {
        size_t b = bucket_of(plan, &arrivals[i]);
        REQUIRE(b < plan->assignment_count);
        for (size_t t = 0; t < plan->profile_count; t++)
            planned[t] += plan->assignment[b].shares[t] * work[b][t];
        got[result->requests[i].type] += work[b][result->requests[i].type];
    }
    for (size_t w = 0; w < plan->worker_count; w++) {
        size_t t = plan->workers[w].worker_type;
        (void)printf("%s: load %.3f of the plan's\n", plan->profiles[t].worker_type,
                     got[t] / planned[t]);
        CHECK_DOUBLE(got[t] / planned[t], 1, tolerance);
    }
}

static void check_plan(const char *slos, double tpot_ms, double ttft_ms)
{
    struct scene s = {0};
    scene_init(&s, slos);
    CHECK(s.plan.worker_count >= 2); /* a mix, or there is nothing to balance */
    struct med_sim_arrival *arrivals;
    struct med_err err = {0};
    require(med_sim_arrivals_from_plan(&s.plan, 1, COUNT, 2000, check_seed(), &arrivals, &err),
            &err);
    struct med_sim_options options = {0};
    struct med_sim_result result;
    require(med_simulate(&s.plan, arrivals, COUNT, &options, &result, &err), &err);
    check_loads(&s.plan, arrivals, &result, 0.1);
    struct med_sim_summary sum = med_sim_summarize(&result, arrivals, WARM_UP, COUNT);
    CHECK_INT(sum.finished, COUNT - WARM_UP);
    CHECK(sum.tpot_ms <= tpot_ms);
    CHECK(sum.ttft_ms <= ttft_ms);
    med_sim_result_release(&result);
    med_free(arrivals);
    scene_release(&s);
}

static void test_dispatch_when_plan_is_mixed_then_each_type_gets_its_load(void)
{
    check_plan("tpot.mean=120ms,ttft.mean=2s", 120, 2000);
    check_plan("tpot.mean=40ms,ttft.mean=1s", 40, 1000);
}

int main(void)
{
    RUN(test_dispatch_when_plan_is_mixed_then_each_type_gets_its_load);
    return check_finish();
}
