/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan of a mix that somebody else chose: which type each instance holds, and who serves what.
 *
 * Shares come from the same balancing as those of a plan (med_solve_verify).  Counts that cannot carry the
 * demand are given the least multiple of themselves that can, to a hundredth, for the shares alone.
 * thread: one at a time (the solver).
 */
#include "allocator/problem.h"

#include "allocator/solve.h"
#include "base/alloc.h"

#include <math.h>
#include <string.h>

#define SHORTFALL_MAX 1e6 /* the mix carries less than a millionth */
#define PRECISION     1.01

/* GPUs of the type that serve all it can of the demand; *ret_buckets is of how many buckets. */
static double gpus_for_all(const struct med_milp *program, size_t type, size_t *ret_buckets)
{
    double load = 0;
    *ret_buckets = 0;
    for (size_t i = 0; i < program->bucket_count; i++) {
        if (isfinite(med_milp_load(program, i, type))) {
            load += med_milp_load(program, i, type);
            ++*ret_buckets;
        }
    }
    return load * (double)program->gpus_per_worker[type];
}

/* type_count: no type fits. */
static size_t type_for(const struct med_milp *program, size_t kind)
{
    size_t best = program->type_count;
    size_t best_buckets = 0;
    double best_gpus = INFINITY;
    for (size_t t = 0; t < program->type_count; t++) {
        size_t buckets;
        double gpus = gpus_for_all(program, t, &buckets);
        if (program->hosted_max[kind * program->type_count + t] == 0)
            continue;
        if (best == program->type_count || buckets > best_buckets ||
            (buckets == best_buckets && gpus < best_gpus)) {
            best = t;
            best_buckets = buckets;
            best_gpus = gpus;
        }
    }
    return best;
}

static void place(const struct med_milp *program, const int64_t *counts, struct med_mix *mix)
{
    for (size_t k = 0; k < program->kind_count; k++) {
        size_t t = type_for(program, k);
        mix->counts[k] = counts[k];
        if (t < program->type_count) {
            mix->placed[k * program->type_count + t] =
                counts[k] * program->hosted_max[k * program->type_count + t];
        }
    }
    med_mix_sum(mix, program);
}

static int check_served(const struct med_problem *problem, const struct med_mix *mix,
                        struct med_err *err)
{
    const struct med_milp *program = &problem->program;
    for (size_t i = 0; i < program->bucket_count; i++) {
        bool served = false;
        for (size_t t = 0; t < program->type_count; t++)
            served = served || (mix->workers[t] > 0 && isfinite(med_milp_load(program, i, t)));
        if (!served) {
            return med_err_set(err, MED_E_INFEASIBLE,
                               "no worker of the mix serves %s within the objectives",
                               problem->buckets[i].label);
        }
    }
    return 0;
}

/* Shares of the demand divided by `shortfall`. */
static int share(const struct med_milp *program, struct med_milp *scaled, struct med_mix *mix,
                 double shortfall, bool *ret_feasible, struct med_err *err)
{
    size_t cells = program->bucket_count * program->type_count;
    double *prices = med_calloc(program->type_count + 1, sizeof *prices);
    if (prices == NULL)
        return med_err_set(err, MED_E_NOMEM, "memory is exhausted while sharing the demand");
    for (size_t i = 0; i < cells; i++)
        scaled->loads[i] = program->loads[i] / shortfall;
    memset(mix->shares, 0, cells * sizeof *mix->shares);
    int rc = med_solve_verify(scaled, mix->workers, mix->shares, prices, ret_feasible, err);
    med_free(prices);
    return rc;
}

static int find_shares(const struct med_milp *program, struct med_milp *scaled, struct med_mix *mix,
                       struct med_err *err)
{
    double low = 1, high = 1;
    bool feasible = false;
    int rc = share(program, scaled, mix, high, &feasible, err);
    while (rc == 0 && !feasible && high < SHORTFALL_MAX) {
        low = high;
        high *= 2;
        rc = share(program, scaled, mix, high, &feasible, err);
    }
    while (rc == 0 && high > low * PRECISION) {
        double middle = sqrt(low * high);
        rc = share(program, scaled, mix, middle, &feasible, err);
        if (feasible) {
            high = middle;
        } else {
            low = middle;
        }
    }
    if (rc == 0 && !feasible)
        rc = share(program, scaled, mix, high, &feasible, err);
    if (rc == 0 && !feasible)
        rc = med_err_set(err, MED_E_INFEASIBLE, "the mix carries next to none of the demand");
    return rc;
}

static int evaluate(const struct med_problem *problem, const int64_t *counts,
                    struct med_milp *scaled, struct med_mix *mix, struct med_err *err)
{
    place(&problem->program, counts, mix);
    int rc = check_served(problem, mix, err);
    return rc == 0 ? find_shares(&problem->program, scaled, mix, err) : rc;
}

int med_problem_evaluate(const struct med_problem *problem, const int64_t *counts,
                         struct med_plan *plan, struct med_err *err)
{
    const struct med_milp *program = &problem->program;
    struct med_milp scaled = *program;
    struct med_mix mix;
    int rc = med_milp_check(program, err);
    if (rc < 0)
        return rc;
    if (med_mix_init(&mix, program) < 0)
        return med_err_set(err, MED_E_NOMEM, "memory is exhausted while sharing the demand");
    scaled.loads =
        med_calloc(program->bucket_count * program->type_count + 1, sizeof *scaled.loads);
    if (scaled.loads == NULL) {
        med_mix_release(&mix);
        return med_err_set(err, MED_E_NOMEM, "memory is exhausted while sharing the demand");
    }
    rc = evaluate(problem, counts, &scaled, &mix, err);
    if (rc == 0) {
        plan->status = MED_PLAN_FEASIBLE;
        plan->lower_bound_usd_per_hour = 0;
        plan->utilization_max = program->utilization_max;
        rc = med_problem_answer(problem, &mix, plan);
    }
    med_free(scaled.loads);
    med_mix_release(&mix);
    return rc;
}
