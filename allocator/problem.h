/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A planning problem: the program together with the names of what its numbers stand for.
 *
 * Two readers make one: planner.c from workload, profiles and catalogue, and melange.c from
 * Melange's own input.  med_problem_plan solves it and writes the answer, the baselines and, when
 * nothing is feasible, the reasons into a plan.
 * owns: its arrays and strings. thread: one at a time (the solver).
 */
#ifndef MED_ALLOCATOR_PROBLEM_H
#define MED_ALLOCATOR_PROBLEM_H

#include "allocator/capacity.h"
#include "allocator/milp.h"
#include "allocator/plan.h"

struct med_problem_kind {
    char *instance, *cloud, *region; /* cloud and region may be NULL */
    char *gpu;
};

struct med_problem_type {
    char *worker_type, *gpu;
};

struct med_problem_bucket {
    int input_row, output_row;
    double input_mean, output_mean;
    double rate_per_s;
    char *label; /* "4000-8000 input and 100-250 output tokens" */
};

struct med_problem {
    struct med_milp program;
    struct med_problem_kind *kinds;
    struct med_problem_type *types;
    struct med_problem_bucket *buckets;
    struct med_capacity *cells; /* [bucket][type] */
};

/* Arrays for the given shape; the caller fills them, then calls med_problem_load. */
int med_problem_init(struct med_problem *problem, size_t kind_count, size_t type_count,
                     size_t bucket_count) MED_MUST_CHECK;
void med_problem_release(struct med_problem *problem);

/* program.loads from rates and cells. */
void med_problem_load(struct med_problem *problem);

/*
 * Solves and fills status, cost, bound, instances, workers, assignment, baselines and reasons of a
 * plan that is otherwise prepared (its profile i is the problem's type i).  Infeasible is an answer.
 */
int med_problem_plan(const struct med_problem *problem, double time_limit_s, struct med_plan *plan,
                     struct med_err *err) MED_MUST_CHECK;

/* Cost, instances, workers and assignment of a mix into the plan. errors: MED_E_NOMEM. */
int med_problem_answer(const struct med_problem *problem, const struct med_mix *mix,
                       struct med_plan *plan) MED_MUST_CHECK;

/*
 * evaluate.c: the plan of exactly these counts of each kind, whether they carry the demand or not.  An
 * instance that several types fit takes the one that needs least of it for the demand.  Shares are balanced
 * over the workers; where the counts fall short, as if the demand were what they carry, so utilization may
 * be over 1.  The status is feasible, without a bound.
 * errors: MED_E_INFEASIBLE with a sentence when a bucket fits no worker of the mix at the objectives.
 */
int med_problem_evaluate(const struct med_problem *problem, const int64_t *counts,
                         struct med_plan *plan, struct med_err *err) MED_MUST_CHECK;

/* Appends one sentence; the list is the plan's reasons or warnings. */
int med_problem_say(char ***list, size_t *count, const char *fmt, ...)
    MED_PRINTF(3, 4) MED_MUST_CHECK;

/* explain.c: the reasons of an infeasible problem into the plan. */
int med_problem_explain(const struct med_problem *problem, double time_limit_s,
                        struct med_plan *plan, struct med_err *err) MED_MUST_CHECK;

#endif
