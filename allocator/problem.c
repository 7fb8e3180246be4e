/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a named problem to a plan: builds the loads, calls the solver, writes the answer down.
 *
 * Instances appear in the problem's order, only those with a count; workers likewise.  Baselines
 * are the single instance kinds that serve everything, each with the number of instances that its
 * best worker type needs (exact, closed form), within its cap.
 * thread: one at a time. Not here: why nothing is feasible (explain.c), any reading of files.
 */
#include "allocator/problem.h"

#include "allocator/solve.h"
#include "base/alloc.h"
#include "base/buf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    SENTENCE_MAX = 4096
};

int med_problem_init(struct med_problem *problem, size_t kind_count, size_t type_count,
                     size_t bucket_count)
{
    memset(problem, 0, sizeof *problem);
    if (med_milp_init(&problem->program, kind_count, type_count, bucket_count) < 0)
        return MED_E_NOMEM;
    problem->kinds = med_calloc(kind_count + 1, sizeof *problem->kinds);
    problem->types = med_calloc(type_count + 1, sizeof *problem->types);
    problem->buckets = med_calloc(bucket_count + 1, sizeof *problem->buckets);
    problem->cells = med_calloc(bucket_count * type_count + 1, sizeof *problem->cells);
    if (problem->kinds == NULL || problem->types == NULL || problem->buckets == NULL ||
        problem->cells == NULL) {
        med_problem_release(problem);
        return MED_E_NOMEM;
    }
    return 0;
}

void med_problem_release(struct med_problem *problem)
{
    for (size_t k = 0; problem->kinds != NULL && k < problem->program.kind_count; k++) {
        med_free(problem->kinds[k].instance);
        med_free(problem->kinds[k].cloud);
        med_free(problem->kinds[k].region);
        med_free(problem->kinds[k].gpu);
    }
    for (size_t t = 0; problem->types != NULL && t < problem->program.type_count; t++) {
        med_free(problem->types[t].worker_type);
        med_free(problem->types[t].gpu);
    }
    for (size_t i = 0; problem->buckets != NULL && i < problem->program.bucket_count; i++)
        med_free(problem->buckets[i].label);
    med_free(problem->kinds);
    med_free(problem->types);
    med_free(problem->buckets);
    med_free(problem->cells);
    med_milp_release(&problem->program);
    memset(problem, 0, sizeof *problem);
}

void med_problem_load(struct med_problem *problem)
{
    size_t types = problem->program.type_count;
    for (size_t i = 0; i < problem->program.bucket_count; i++) {
        for (size_t t = 0; t < types; t++) {
            const struct med_capacity *cell = &problem->cells[i * types + t];
            double load = problem->buckets[i].rate_per_s / cell->requests_per_s;
            problem->program.loads[i * types + t] = cell->requests_per_s > 0.0 ? load : INFINITY;
        }
    }
}

int med_problem_say(char ***list, size_t *count, const char *fmt, ...)
{
    struct med_buf text;
    med_buf_init(&text, SENTENCE_MAX);
    va_list args;
    va_start(args, fmt);
    int rc = med_buf_vprintf(&text, fmt, args);
    va_end(args);
    char **more = rc < 0 ? NULL : med_realloc_array(*list, *count + 1, sizeof *more);
    if (more == NULL) {
        med_buf_release(&text);
        return MED_E_NOMEM;
    }
    more[*count] = med_buf_take(&text);
    *list = more;
    (*count)++;
    return 0;
}

/* ---- the answer ---- */

static char *copy_or_empty(const char *text)
{
    return med_strdup(text != NULL ? text : "");
}

static int fill_instance(const struct med_problem *problem, const struct med_mix *mix, size_t kind,
                         struct med_plan_instance *instance)
{
    size_t types = problem->program.type_count;
    const int64_t *placed = mix->placed + kind * types;
    instance->instance = copy_or_empty(problem->kinds[kind].instance);
    instance->cloud = copy_or_empty(problem->kinds[kind].cloud);
    instance->region = copy_or_empty(problem->kinds[kind].region);
    instance->count = mix->counts[kind];
    instance->price_usd_per_hour = problem->program.price_usd_per_hour[kind];
    instance->workers = med_calloc(types, sizeof *instance->workers);
    if (instance->instance == NULL || instance->cloud == NULL || instance->region == NULL ||
        instance->workers == NULL)
        return MED_E_NOMEM;
    for (size_t t = 0; t < types; t++) {
        if (placed[t] > 0) {
            instance->workers[instance->worker_count++] =
                (struct med_plan_placement){.worker_type = t, .count = placed[t]};
        }
    }
    return 0;
}

static int fill_instances(const struct med_problem *problem, const struct med_mix *mix,
                          struct med_plan *plan)
{
    const struct med_milp *program = &problem->program;
    plan->instances = med_calloc(program->kind_count, sizeof *plan->instances);
    plan->workers = med_calloc(program->type_count, sizeof *plan->workers);
    if (plan->instances == NULL || plan->workers == NULL)
        return MED_E_NOMEM;
    for (size_t k = 0; k < program->kind_count; k++) {
        if (mix->counts[k] == 0)
            continue;
        int rc = fill_instance(problem, mix, k, &plan->instances[plan->instance_count++]);
        if (rc < 0)
            return rc;
    }
    for (size_t t = 0; t < program->type_count; t++) {
        if (mix->workers[t] == 0)
            continue;
        plan->workers[plan->worker_count++] = (struct med_plan_workers){
            .worker_type = t,
            .count = mix->workers[t],
            .utilization = med_mix_load(mix, program, t) / (double)mix->workers[t]};
    }
    return 0;
}

static int fill_assignment(const struct med_problem *problem, const struct med_mix *mix,
                           struct med_plan *plan)
{
    const struct med_milp *program = &problem->program;
    plan->assignment = med_calloc(program->bucket_count, sizeof *plan->assignment);
    if (plan->assignment == NULL)
        return MED_E_NOMEM;
    for (size_t i = 0; i < program->bucket_count; i++) {
        const struct med_problem_bucket *bucket = &problem->buckets[i];
        struct med_plan_assignment *a = &plan->assignment[plan->assignment_count++];
        *a = (struct med_plan_assignment){.input_row = bucket->input_row,
                                          .output_row = bucket->output_row,
                                          .input_mean = bucket->input_mean,
                                          .output_mean = bucket->output_mean,
                                          .rate_per_s = bucket->rate_per_s};
        a->shares = med_calloc(program->type_count, sizeof *a->shares);
        if (a->shares == NULL)
            return MED_E_NOMEM;
        double sum = 0.0;
        for (size_t t = 0; t < program->type_count; t++) {
            a->shares[t] = mix->shares[i * program->type_count + t];
            sum += a->shares[t];
        }
        for (size_t t = 0; t < program->type_count; t++)
            a->shares[t] /= sum;
    }
    return 0;
}

/* Instances of one kind that carry everything with one worker type; 0: impossible. */
static int64_t baseline_count(const struct med_milp *program, size_t kind)
{
    int64_t best = 0;
    for (size_t t = 0; t < program->type_count; t++) {
        int64_t held = program->hosted_max[kind * program->type_count + t];
        int64_t workers = held > 0 ? med_solve_alone(program, t) : 0;
        if (workers == 0)
            continue;
        int64_t count = (workers + held - 1) / held;
        if (best == 0 || count < best)
            best = count;
    }
    if (program->count_max[kind] >= 0 && best > program->count_max[kind])
        return 0;
    return best;
}

static int by_cost(const void *a, const void *b)
{
    const struct med_plan_baseline *x = a;
    const struct med_plan_baseline *y = b;
    return (x->cost_usd_per_hour > y->cost_usd_per_hour) -
           (x->cost_usd_per_hour < y->cost_usd_per_hour);
}

static int fill_baselines(const struct med_problem *problem, struct med_plan *plan)
{
    const struct med_milp *program = &problem->program;
    plan->baselines = med_calloc(program->kind_count, sizeof *plan->baselines);
    if (plan->baselines == NULL)
        return MED_E_NOMEM;
    for (size_t k = 0; k < program->kind_count; k++) {
        int64_t count = baseline_count(program, k);
        if (count == 0)
            continue;
        double cost = (double)count * program->price_usd_per_hour[k];
        struct med_plan_baseline *b = &plan->baselines[plan->baseline_count++];
        *b = (struct med_plan_baseline){.instance = copy_or_empty(problem->kinds[k].instance),
                                        .count = count,
                                        .cost_usd_per_hour = cost,
                                        .saving = 1.0 - plan->cost_usd_per_hour / cost};
        if (b->instance == NULL)
            return MED_E_NOMEM;
    }
    qsort(plan->baselines, plan->baseline_count, sizeof *plan->baselines, by_cost);
    return 0;
}

int med_problem_answer(const struct med_problem *problem, const struct med_mix *mix,
                       struct med_plan *plan)
{
    plan->cost_usd_per_hour = mix->cost_usd_per_hour;
    int rc = fill_instances(problem, mix, plan);
    return rc == 0 ? fill_assignment(problem, mix, plan) : rc;
}

static int fill_answer(const struct med_problem *problem, const struct med_solve_result *result,
                       struct med_plan *plan)
{
    plan->status = result->status == MED_SOLVE_OPTIMAL ? MED_PLAN_OPTIMAL : MED_PLAN_FEASIBLE;
    plan->lower_bound_usd_per_hour = result->lower_bound_usd_per_hour;
    int rc = med_problem_answer(problem, &result->mix, plan);
    return rc == 0 ? fill_baselines(problem, plan) : rc;
}

int med_problem_plan(const struct med_problem *problem, double time_limit_s, struct med_plan *plan,
                     struct med_err *err)
{
    struct med_solve_result result;
    int rc = med_solve(&problem->program, time_limit_s, &result, err);
    if (rc < 0)
        return rc;
    plan->solve_seconds = result.seconds;
    plan->utilization_max = problem->program.utilization_max;
    if (result.status == MED_SOLVE_INFEASIBLE) {
        plan->status = MED_PLAN_INFEASIBLE;
        rc = med_problem_explain(problem, time_limit_s, plan, err);
    } else {
        rc = fill_answer(problem, &result, plan);
    }
    med_solve_result_release(&result);
    if (rc == MED_E_NOMEM)
        return med_err_set(err, rc, "memory is exhausted while writing the plan");
    return rc;
}
