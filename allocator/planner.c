/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From workload, profiles, catalogue and objectives to a problem, and from the solved problem to a
 * plan with its warnings.
 *
 * Types are the profiles, in their order.  Kinds are the catalogue's rows that hold at least one
 * worker of some type.  A cell's capacity comes from the step model if the profile has one, else
 * from its serving points (capacity.h).  One warning tells how much of the rate rests on cells
 * beyond what was measured or published.
 * thread: one at a time. Not here: reading files, choosing rows (planner_choice.c).
 */
#include "allocator/planner.h"

#include "allocator/problem.h"
#include "base/alloc.h"
#include "profiles/latency.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    ERRORS_TEXT_MAX = 1024
};

struct planning {
    const struct med_planner_input *input;
    struct med_problem problem;
    struct med_plan plan;
    size_t *rows; /* [kind] index into the catalogue */
    size_t kind_count;
};

/* ---- checks ---- */

static int check_profiles(const struct med_planner_input *input, struct med_err *err)
{
    if (input->profile_count == 0)
        return med_err_set(err, MED_E_INVALID, "there is no profile to plan with");
    if (input->profile_count > MED_LIMIT_WORKER_TYPES) {
        return med_err_set(err, MED_E_LIMIT, "found %zu profiles, expected at most %d",
                           input->profile_count, (int)MED_LIMIT_WORKER_TYPES);
    }
    const struct med_profile *first = &input->profiles[0];
    for (size_t t = 0; t < input->profile_count; t++) {
        const struct med_profile *profile = &input->profiles[t];
        if (strcmp(profile->model.name, first->model.name) != 0) {
            return med_err_set(err, MED_E_INVALID,
                               "the profile of %s is for model %s and that of %s for %s, expected "
                               "profiles of one model",
                               first->worker_type, first->model.name, profile->worker_type,
                               profile->model.name);
        }
        for (size_t b = 0; b < t; b++) {
            if (strcmp(profile->worker_type, input->profiles[b].worker_type) == 0) {
                return med_err_set(err, MED_E_INVALID,
                                   "found two profiles of worker type %s, expected one",
                                   profile->worker_type);
            }
        }
    }
    return 0;
}

static bool hosts(const struct med_instance_kind *kind, const struct med_profile *profile)
{
    return strcmp(kind->gpu, profile->gpu) == 0 && kind->gpus >= profile->gpus_per_worker;
}

static int find_kinds(struct planning *p, struct med_err *err)
{
    const struct med_catalogue *catalogue = p->input->catalogue;
    p->rows = med_calloc(catalogue->instance_count + 1, sizeof *p->rows);
    if (p->rows == NULL)
        return MED_E_NOMEM;
    for (size_t k = 0; k < catalogue->instance_count; k++) {
        bool any = false;
        for (size_t t = 0; t < p->input->profile_count && !any; t++)
            any = hosts(&catalogue->instances[k], &p->input->profiles[t]);
        if (any)
            p->rows[p->kind_count++] = k;
    }
    if (p->kind_count > 0)
        return 0;
    return med_err_set(
        err, MED_E_INVALID,
        "no instance of the catalogue %s has enough GPUs of a type that a profile "
        "serves; the first profile wants %lld x %s, the first instance has %lld x %s",
        catalogue->name, (long long)p->input->profiles[0].gpus_per_worker,
        p->input->profiles[0].gpu,
        catalogue->instance_count > 0 ? (long long)catalogue->instances[0].gpus : 0,
        catalogue->instance_count > 0 ? catalogue->instances[0].gpu : "GPU");
}

/* ---- the problem ---- */

static double price_of(const struct med_planner_input *input, const struct med_instance_kind *kind)
{
    if (input->spot && !isnan(kind->spot_usd_per_hour))
        return kind->spot_usd_per_hour;
    return kind->price_usd_per_hour;
}

static int fill_kinds(struct planning *p)
{
    struct med_milp *program = &p->problem.program;
    for (size_t k = 0; k < p->kind_count; k++) {
        const struct med_instance_kind *row = &p->input->catalogue->instances[p->rows[k]];
        struct med_problem_kind *kind = &p->problem.kinds[k];
        program->price_usd_per_hour[k] = price_of(p->input, row);
        program->count_max[k] = row->count_max;
        program->gpus[k] = row->gpus;
        kind->instance = med_strdup(row->instance);
        kind->cloud = med_strdup(row->cloud);
        kind->region = med_strdup(row->region);
        kind->gpu = med_strdup(row->gpu);
        if (kind->instance == NULL || kind->cloud == NULL || kind->region == NULL ||
            kind->gpu == NULL)
            return MED_E_NOMEM;
        for (size_t t = 0; t < p->input->profile_count; t++) {
            if (hosts(row, &p->input->profiles[t]))
                med_milp_fit(program, k, t);
        }
    }
    return 0;
}

static int fill_types(struct planning *p)
{
    for (size_t t = 0; t < p->input->profile_count; t++) {
        const struct med_profile *profile = &p->input->profiles[t];
        struct med_problem_type *type = &p->problem.types[t];
        p->problem.program.gpus_per_worker[t] = profile->gpus_per_worker;
        type->worker_type = med_strdup(profile->worker_type);
        type->gpu = med_strdup(profile->gpu);
        if (type->worker_type == NULL || type->gpu == NULL)
            return MED_E_NOMEM;
    }
    return 0;
}

static double lower_edge(const double *edges, int row)
{
    return row > 0 ? edges[row - 1] : 0.0;
}

static int fill_buckets(struct planning *p)
{
    const struct med_workload *workload = p->input->workload;
    const struct med_grid *grid = &workload->grid;
    double rate_per_s = p->plan.rate_per_s;
    double shares = 0.0;
    for (size_t i = 0; i < workload->bucket_count; i++)
        shares += workload->buckets[i].share;
    for (size_t i = 0; i < workload->bucket_count; i++) {
        const struct med_bucket *from = &workload->buckets[i];
        struct med_problem_bucket *bucket = &p->problem.buckets[i];
        char label[160];
        double input_edge = grid->input_edges[from->input_row];
        double output_edge = grid->output_edges[from->output_row];
        bucket->input_row = from->input_row;
        bucket->output_row = from->output_row;
        bucket->input_mean = p->input->upper ? input_edge : from->input_mean;
        bucket->output_mean = p->input->upper ? output_edge : from->output_mean;
        bucket->rate_per_s = rate_per_s * from->share / shares;
        (void)snprintf(label, sizeof label,
                       "requests of %.0f-%.0f input and %.0f-%.0f output tokens",
                       lower_edge(grid->input_edges, from->input_row), input_edge,
                       lower_edge(grid->output_edges, from->output_row), output_edge);
        bucket->label = med_strdup(label);
        if (bucket->label == NULL)
            return MED_E_NOMEM;
    }
    return 0;
}

static int fill_cells_of_type(struct planning *p, size_t type, struct med_err *err)
{
    const struct med_profile *profile = &p->input->profiles[type];
    struct med_latency latency;
    int rc = 0;
    if (profile->has_step_model) {
        rc = med_latency_init(&latency, profile, err);
        if (rc < 0)
            return rc;
    }
    for (size_t i = 0; i < p->problem.program.bucket_count; i++) {
        const struct med_problem_bucket *bucket = &p->problem.buckets[i];
        struct med_capacity *cell = &p->problem.cells[i * p->problem.program.type_count + type];
        struct med_request_size size = {.input_tokens = bucket->input_mean,
                                        .output_tokens = bucket->output_mean};
        if (!profile->has_step_model) {
            med_capacity_of_points(profile, &p->input->workload->grid, bucket->input_row,
                                   bucket->output_row, &p->input->slos, cell);
        } else {
            rc = med_capacity_of_model(&latency, &size, &p->input->slos, cell);
        }
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int build_problem(struct planning *p, struct med_err *err)
{
    size_t types = p->input->profile_count;
    if (med_problem_init(&p->problem, p->kind_count, types, p->input->workload->bucket_count) < 0)
        return MED_E_NOMEM;
    p->problem.program.utilization_max = p->input->utilization_max;
    int rc = fill_types(p);
    if (rc == 0)
        rc = fill_kinds(p);
    if (rc == 0)
        rc = fill_buckets(p);
    for (size_t t = 0; rc == 0 && t < types; t++)
        rc = fill_cells_of_type(p, t, err);
    if (rc == 0)
        med_problem_load(&p->problem);
    return rc;
}

/* ---- the plan ---- */

static int prepare_plan(struct planning *p)
{
    const struct med_workload *workload = p->input->workload;
    struct med_plan *plan = &p->plan;
    plan->cost_usd_per_hour = (double)NAN;
    plan->lower_bound_usd_per_hour = (double)NAN;
    plan->slos = p->input->slos;
    plan->utilization_max = p->input->utilization_max;
    plan->rate_per_s = p->input->rate_per_s > 0.0 ? p->input->rate_per_s : workload->rate_per_s;
    /* A plan cannot replay a trace; its burstiness is not known to it. */
    plan->arrival =
        workload->arrival == MED_ARRIVAL_TRACE ? MED_ARRIVAL_POISSON : workload->arrival;
    plan->burstiness = workload->arrival == MED_ARRIVAL_GAMMA ? workload->burstiness : 1.0;
    plan->model_name = med_strdup(p->input->profiles[0].model.name);
    plan->workload_name = med_strdup(workload->name);
    plan->profiles = med_calloc(p->input->profile_count, sizeof *plan->profiles);
    if (plan->model_name == NULL || plan->workload_name == NULL || plan->profiles == NULL ||
        med_grid_copy(&workload->grid, &plan->grid) < 0)
        return MED_E_NOMEM;
    for (size_t t = 0; t < p->input->profile_count; t++) {
        if (med_profile_copy(&p->input->profiles[t], &plan->profiles[t]) < 0)
            return MED_E_NOMEM;
        plan->profile_count = t + 1;
    }
    return 0;
}

/* What was measured or published of a worker type and how far its model is off, for a person. */
static int say_coverage(struct planning *p, size_t type, double share, unsigned regions)
{
    struct med_plan *plan = &p->plan;
    const struct med_profile *profile = &plan->profiles[type];
    struct med_latency latency;
    char errors[ERRORS_TEXT_MAX];
    med_profile_say_errors(profile, regions, errors, sizeof errors);
    if (!profile->has_step_model || med_latency_init(&latency, profile, NULL) < 0 ||
        latency.covered_sequences == 0 || latency.covered_prefill_tokens == 0) {
        return med_problem_say(&plan->warnings, &plan->warning_count,
                               "%s: %.3g%% of its requests rest on modelled times; no complete set "
                               "of decode and prefill steps was measured or published for this GPU"
                               "%s%s",
                               profile->worker_type, 100.0 * share, *errors != '\0' ? "; " : "",
                               errors);
    }
    return med_problem_say(&plan->warnings, &plan->warning_count,
                           "%s: %.3g%% of its requests rest on modelled times, beyond what was "
                           "measured or published (%lld sequences, contexts of %lld tokens, "
                           "prefills of %lld, not all of them at once); %s",
                           profile->worker_type, 100.0 * share,
                           (long long)latency.covered_sequences, (long long)latency.covered_context,
                           (long long)latency.covered_prefill_tokens, errors);
}

/* One warning per worker type of the mix whose capacities leave what was measured. */
static int warn_modelled(struct planning *p)
{
    struct med_plan *plan = &p->plan;
    size_t types = p->problem.program.type_count;
    int rc = 0;
    for (size_t t = 0; t < types && rc >= 0; t++) {
        double modelled = 0.0;
        double total = 0.0;
        unsigned regions = 0;
        for (size_t i = 0; i < plan->assignment_count; i++) {
            const struct med_capacity *cell = &p->problem.cells[i * types + t];
            double rate_per_s = plan->assignment[i].rate_per_s * plan->assignment[i].shares[t];
            total += rate_per_s;
            if (cell->modelled && rate_per_s > 0.0) {
                modelled += rate_per_s;
                regions |= cell->regions;
            }
        }
        if (modelled > 0.0)
            rc = say_coverage(p, t, modelled / total, regions);
    }
    return rc;
}

/* Workers of several precisions answer differently. */
static int warn_dtypes(struct planning *p)
{
    struct med_plan *plan = &p->plan;
    for (size_t n = 1; n < plan->worker_count; n++) {
        const char *first = plan->profiles[plan->workers[0].worker_type].dtype;
        const char *other = plan->profiles[plan->workers[n].worker_type].dtype;
        if (strcmp(first, other) != 0) {
            return med_problem_say(&plan->warnings, &plan->warning_count,
                                   "the mix serves with %s and with %s: answers differ between "
                                   "them; leave profiles out to keep to one",
                                   first, other);
        }
    }
    return 0;
}

static int warn_arrivals(struct planning *p)
{
    const struct med_workload *workload = p->input->workload;
    struct med_plan *plan = &p->plan;
    /* CV^2 of the gaps = 1 / burstiness. */
    if (workload->arrival != MED_ARRIVAL_GAMMA || workload->burstiness >= 0.5)
        return 0;
    return med_problem_say(
        &plan->warnings, &plan->warning_count,
        "arrivals are bursty (squared variation of gaps %.3g, Poisson has 1) and "
        "capacities assume Poisson: leave more room with --max-utilization",
        1.0 / workload->burstiness);
}

static int solve(struct planning *p, struct med_err *err)
{
    if (p->input->counts == NULL)
        return med_problem_plan(&p->problem, p->input->time_limit_s, &p->plan, err);
    int64_t *counts = med_calloc(p->kind_count, sizeof *counts);
    if (counts == NULL)
        return MED_E_NOMEM;
    for (size_t k = 0; k < p->kind_count; k++)
        counts[k] = p->input->counts[p->rows[k]];
    int rc = med_problem_evaluate(&p->problem, counts, &p->plan, err);
    med_free(counts);
    return rc;
}

static int run(struct planning *p, struct med_err *err)
{
    int rc = check_profiles(p->input, err);
    if (rc == 0)
        rc = find_kinds(p, err);
    if (rc == 0)
        rc = prepare_plan(p);
    if (rc == 0)
        rc = build_problem(p, err);
    if (rc == 0)
        rc = solve(p, err);
    if (rc == 0 && p->plan.status != MED_PLAN_INFEASIBLE) {
        rc = warn_modelled(p);
        if (rc == 0)
            rc = warn_dtypes(p);
        if (rc == 0)
            rc = warn_arrivals(p);
    }
    return rc;
}

int med_planner_run(const struct med_planner_input *input, struct med_plan *ret_plan,
                    struct med_err *err)
{
    struct planning p = {.input = input};
    int rc = run(&p, err);
    if (rc == MED_E_NOMEM)
        (void)med_err_set(err, rc, "memory is exhausted while planning");
    if (rc < 0) {
        med_plan_release(&p.plan);
    } else {
        *ret_plan = p.plan;
    }
    med_problem_release(&p.problem);
    med_free(p.rows);
    return rc;
}
