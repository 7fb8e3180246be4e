/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plan against the fleet that it describes: the real dispatch and schedulers on a virtual clock,
 * Poisson arrivals of the planned mix at the planned rate.  The objectives must hold for the fleet's
 * means, and every request must finish.
 */
#include "allocator/planner.h"
#include "allocator/replay/fleet/simulate.h"
#include "base/alloc.h"
#include "tests/check.h"

enum {
    ARRIVALS = 5000,
    WARM_UP = 500
};

struct scenario {
    const char *workload, *slos;
    double rate_per_s; /* 0: the workload's own */
    double tpot_ms, ttft_ms;
};

static void plan_scenario(const struct scenario *s, struct med_plan *ret_plan)
{
    static const char *const files[] = {"profiles/published/a10g-llama-2-7b-fp16.json",
                                        "profiles/published/a100-80gb-llama-2-7b-fp16.json",
                                        "profiles/published/h100-llama-2-7b-fp16.json",
                                        "profiles/published/l4-llama-2-7b-fp16.json"};
    struct med_workload workload;
    struct med_catalogue catalogue;
    struct med_profile profiles[4];
    struct med_err err = {0};
    REQUIRE(med_workload_read_file(s->workload, &workload, &err) == 0);
    REQUIRE(med_catalogue_read_file("profiles/catalogues/melange-paper.json", &catalogue, &err) ==
            0);
    for (size_t t = 0; t < 4; t++)
        REQUIRE(med_profile_read_file(files[t], &profiles[t], &err) == 0);
    struct med_planner_input input = {.workload = &workload,
                                      .profiles = profiles,
                                      .profile_count = 4,
                                      .catalogue = &catalogue,
                                      .rate_per_s = s->rate_per_s,
                                      .utilization_max = 0.8,
                                      .time_limit_s = 60.0};
    REQUIRE(med_slos_parse(s->slos, &input.slos, &err) == 0);
    REQUIRE(med_planner_run(&input, ret_plan, &err) == 0);
    CHECK_INT(ret_plan->status, MED_PLAN_OPTIMAL);
    ret_plan->arrival = MED_ARRIVAL_POISSON; /* what capacities assume */
    for (size_t t = 0; t < 4; t++)
        med_profile_release(&profiles[t]);
    med_catalogue_release(&catalogue);
    med_workload_release(&workload);
}

static void check_scenario(const struct scenario *s)
{
    struct med_plan plan;
    struct med_sim_arrival *arrivals = NULL;
    struct med_sim_result result;
    struct med_sim_options options = {0};
    struct med_err err = {0};
    plan_scenario(s, &plan);
    REQUIRE(med_sim_arrivals_from_plan(&plan, 1.0, ARRIVALS, 2000, check_seed(), &arrivals, &err) ==
            0);
    REQUIRE(med_simulate(&plan, arrivals, ARRIVALS, &options, &result, &err) == 0);
    struct med_sim_summary f = med_sim_summarize(&result, arrivals, WARM_UP, ARRIVALS);
    printf("%s %s: %.3f $/h, TTFT %.0f ms, TPOT %.1f ms\n", s->workload, s->slos,
           plan.cost_usd_per_hour, f.ttft_ms, f.tpot_ms);
    /* Nobody is turned away but a few in the rare excursions beyond what the objective lets wait. */
    CHECK_UINT(f.finished + f.refused, ARRIVALS - WARM_UP);
    CHECK(f.refused <= (ARRIVALS - WARM_UP) * 3 / 1000);
    CHECK_UINT(f.other, 0);
    CHECK(f.tpot_ms <= s->tpot_ms);
    CHECK(f.ttft_ms <= s->ttft_ms);
    med_sim_result_release(&result);
    med_free(arrivals);
    med_plan_release(&plan);
}

static void test_plan_when_simulated_then_objectives_hold(void)
{
    static const struct scenario scenarios[] = {
        {"allocator/workloads/azure-conversation.json", "tpot.mean=120ms,ttft.mean=2s", 0, 120,
         2000},
        {"allocator/workloads/azure-conversation.json", "tpot.mean=60ms,ttft.mean=1s", 20, 60,
         1000},
        {"allocator/workloads/azure-conversation.json", "tpot.mean=40ms,ttft.mean=1s", 0, 40, 1000},
        {"allocator/workloads/azure-code.json", "tpot.mean=120ms,ttft.mean=2s", 0, 120, 2000},
        {"allocator/workloads/azure-code.json", "tpot.mean=80ms,ttft.mean=1s", 10, 80, 1000}};
    for (size_t n = 0; n < sizeof scenarios / sizeof scenarios[0]; n++)
        check_scenario(&scenarios[n]);
}

int main(void)
{
    RUN(test_plan_when_simulated_then_objectives_hold);
    return check_finish();
}
