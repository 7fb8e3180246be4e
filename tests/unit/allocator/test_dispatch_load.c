/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the plan is worth under dispatch: the shipped conversation workload, planned over the shipped
 * profiles with 80 % utilization, simulated with sizes that the router does not know. Each worker
 * type must get the load that the plan gave it, and the objectives must hold.
 */
#include "allocator/capacity.h"
#include "allocator/planner.h"
#include "allocator/simulate.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "router/dispatch/dispatch.h"
#include "tests/check.h"

enum {
    TYPES = 4,
    COUNT = 8000,
    WARM_UP = 800
};

struct scene {
    struct med_workload workload;
    struct med_catalogue catalogue;
    struct med_profile profiles[TYPES];
    struct med_plan plan;
};

static void require(int rc, const struct med_err *err)
{
    if (rc < 0)
        (void)fprintf(stderr, "%s\n", err->text);
    REQUIRE(rc == 0);
}

static void scene_init(struct scene *s, const char *slos)
{
    static const char *const gpus[TYPES] = {"l4", "a10g", "a100-80gb", "h100"};
    struct med_err err = {0};
    require(
        med_workload_read_file("allocator/workloads/azure-conversation.json", &s->workload, &err),
        &err);
    require(med_catalogue_read_file("profiles/catalogues/melange-paper.json", &s->catalogue, &err),
            &err);
    for (size_t i = 0; i < TYPES; i++) {
        char path[128];
        (void)snprintf(path, sizeof path, "profiles/published/%s-llama-2-7b-fp16.json", gpus[i]);
        require(med_profile_read_file(path, &s->profiles[i], &err), &err);
    }
    struct med_planner_input input = {.workload = &s->workload,
                                      .profiles = s->profiles,
                                      .profile_count = TYPES,
                                      .catalogue = &s->catalogue,
                                      .utilization_max = 0.8,
                                      .time_limit_s = 60};
    require(med_slos_parse(slos, &input.slos, &err), &err);
    require(med_planner_run(&input, &s->plan, &err), &err);
    REQUIRE(s->plan.status == MED_PLAN_OPTIMAL);
}

static void scene_release(struct scene *s)
{
    for (size_t i = 0; i < TYPES; i++)
        med_profile_release(&s->profiles[i]);
    med_workload_release(&s->workload);
    med_catalogue_release(&s->catalogue);
    med_plan_release(&s->plan);
}

/* Worker-seconds of a request of the bucket on a type, as the plan reckons; 0: it cannot. */
static double work_s(const struct med_plan *plan, const struct med_plan_assignment *bucket,
                     size_t type)
{
    struct med_latency latency;
    struct med_capacity capacity;
    struct med_request_size size = {bucket->input_mean, bucket->output_mean};
    REQUIRE(med_latency_init(&latency, &plan->profiles[type], NULL) == 0);
    REQUIRE(med_capacity_of_model(&latency, &size, &plan->slos, &capacity) == 0);
    return capacity.requests_per_s > 0 ? 1 / capacity.requests_per_s : 0;
}

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
