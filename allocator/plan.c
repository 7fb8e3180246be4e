/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a plan in memory.  Runs on any thread.  Reading and writing are in plan_read.c and
 * plan_write.c; making one is the planner's.
 */
#include "allocator/plan.h"

#include "base/alloc.h"

#include <string.h>

static void release_texts(char **texts, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        med_free(texts[i]);
    }
    med_free(texts);
}

void med_plan_release(struct med_plan *plan)
{
    if (plan == NULL) {
        return;
    }
    med_free(plan->model_name);
    med_free(plan->model_path);
    med_free(plan->workload_name);
    med_grid_release(&plan->grid);
    for (size_t i = 0; i < plan->profile_count; i++) {
        med_profile_release(&plan->profiles[i]);
    }
    med_free(plan->profiles);
    for (size_t i = 0; i < plan->instance_count; i++) {
        med_free(plan->instances[i].instance);
        med_free(plan->instances[i].cloud);
        med_free(plan->instances[i].region);
        med_free(plan->instances[i].workers);
    }
    med_free(plan->instances);
    med_free(plan->workers);
    for (size_t i = 0; i < plan->assignment_count; i++) {
        med_free(plan->assignment[i].shares);
    }
    med_free(plan->assignment);
    for (size_t i = 0; i < plan->baseline_count; i++) {
        med_free(plan->baselines[i].instance);
    }
    med_free(plan->baselines);
    release_texts(plan->reasons, plan->reason_count);
    release_texts(plan->warnings, plan->warning_count);
    *plan = (struct med_plan){0};
}

int med_plan_find_type(const struct med_plan *plan, const char *worker_type)
{
    for (size_t i = 0; i < plan->profile_count; i++) {
        if (strcmp(plan->profiles[i].worker_type, worker_type) == 0) {
            return (int)i;
        }
    }
    return -1;
}
