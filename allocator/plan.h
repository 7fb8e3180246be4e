/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan: `medley-plan/1`, what `medley plan --json` prints and `medley up` runs.
 *
 * Self-contained: model, objectives, workload summary and the profiles used are inside, so that the
 * router predicts and an emulated worker runs from the plan alone.  Keys: docs/reference/formats.md.
 * Reading validates across fields: every worker type named has an embedded profile, shares of an
 * assignment sum to 1 within 1e-6, and an `infeasible` plan has reasons and no instances.
 * owns: strings and arrays. thread: immutable after reading.
 */
#ifndef MED_ALLOCATOR_PLAN_H
#define MED_ALLOCATOR_PLAN_H

#include "allocator/slo.h"
#include "allocator/workload.h"
#include "profiles/profile.h"

enum med_plan_status {
    MED_PLAN_OPTIMAL,
    MED_PLAN_FEASIBLE,
    MED_PLAN_INFEASIBLE
};

struct med_plan_placement {
    size_t worker_type; /* index into plan->profiles */
    int64_t count;      /* workers, over all instances of the row */
};

struct med_plan_instance {
    char *instance, *cloud, *region; /* as in the catalogue */
    int64_t count;
    double price_usd_per_hour; /* of one */
    struct med_plan_placement *workers;
    size_t worker_count;
};

struct med_plan_workers {
    size_t worker_type;
    int64_t count;
    double utilization; /* planned load / count, of capacity at the objectives */
};

/* One bucket: rate and who serves it. */
struct med_plan_assignment {
    int input_row, output_row;
    double input_mean, output_mean;
    double rate_per_s;
    double *shares; /* [profile_count], sum 1 */
};

struct med_plan_baseline {
    char *instance;
    int64_t count;
    double cost_usd_per_hour;
    double saving; /* 1 - plan cost / this cost */
};

struct med_plan {
    enum med_plan_status status;
    double cost_usd_per_hour;
    double lower_bound_usd_per_hour;
    double solve_seconds;
    char *model_name;
    char *model_path; /* NULL: not known */
    struct med_slos slos;
    double utilization_max; /* u_j of the program, one for all types */
    char *workload_name;
    double rate_per_s;
    enum med_arrival arrival;
    double burstiness;
    struct med_grid grid;
    struct med_profile *profiles; /* those the planner could choose from */
    size_t profile_count;
    struct med_plan_instance *instances;
    size_t instance_count;
    struct med_plan_workers *workers; /* count > 0 only */
    size_t worker_count;
    struct med_plan_assignment *assignment;
    size_t assignment_count;
    struct med_plan_baseline *baselines;
    size_t baseline_count;
    char **reasons;
    size_t reason_count;
    char **warnings;
    size_t warning_count;
};

int med_plan_read_file(const char *path, struct med_plan *ret_plan,
                       struct med_err *err) MED_MUST_CHECK;
int med_plan_read(const struct med_json_at *root, struct med_plan *ret_plan,
                  struct med_err *err) MED_MUST_CHECK;
void med_plan_write(struct med_json_writer *w, const struct med_plan *plan);
void med_plan_release(struct med_plan *plan);
/* Index of a profile by worker type, or -1. */
int med_plan_find_type(const struct med_plan *plan, const char *worker_type);

#endif
