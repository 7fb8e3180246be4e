/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shipped conversation workload, planned over the shipped profiles with 80 % utilization.
 */
#ifndef MED_TESTS_CONVERSATION_H
#define MED_TESTS_CONVERSATION_H

#include "allocator/capacity.h"
#include "allocator/planner.h"
#include "tests/check.h"

enum {
    TYPES = 4
};

struct scene {
    struct med_workload workload;
    struct med_catalogue catalogue;
    struct med_profile profiles[TYPES];
    struct med_plan plan;
};

CHECK_UNUSED static void require(int rc, const struct med_err *err)
{
    if (rc < 0)
        (void)fprintf(stderr, "%s\n", err->text);
    REQUIRE(rc == 0);
}

CHECK_UNUSED static void scene_init(struct scene *s, const char *slos)
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

CHECK_UNUSED static void scene_release(struct scene *s)
{
    for (size_t i = 0; i < TYPES; i++)
        med_profile_release(&s->profiles[i]);
    med_workload_release(&s->workload);
    med_catalogue_release(&s->catalogue);
    med_plan_release(&s->plan);
}

/* Worker-seconds of a request of the bucket on a type, as the plan reckons; 0: it cannot. */
CHECK_UNUSED static double work_s(const struct med_plan *plan,
                                  const struct med_plan_assignment *bucket, size_t type)
{
    struct med_latency latency;
    struct med_capacity capacity;
    struct med_request_size size = {bucket->input_mean, bucket->output_mean};
    REQUIRE(med_latency_init(&latency, &plan->profiles[type], NULL) == 0);
    REQUIRE(med_capacity_of_model(&latency, &size, &plan->slos, &capacity) == 0);
    return capacity.requests_per_s > 0 ? 1 / capacity.requests_per_s : 0;
}

#endif
