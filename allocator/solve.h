/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds the cheapest mix of a program and proves it.
 *
 * An answer is believed only after exact verification; the bound is a bound of the program itself,
 * not of the solver's rounded model.
 *   MED_SOLVE_OPTIMAL     lower_bound == cost
 *   MED_SOLVE_FEASIBLE    time ran out: a verified mix and a bound below it
 *   MED_SOLVE_INFEASIBLE  no counts within the caps carry the demand
 * thread: one at a time (GLPK). errors: MED_E_INVALID from the program's check, MED_E_SOLVER.
 */
#ifndef MED_ALLOCATOR_SOLVE_H
#define MED_ALLOCATOR_SOLVE_H

#include "allocator/milp.h"

enum med_solve_status {
    MED_SOLVE_OPTIMAL,
    MED_SOLVE_FEASIBLE,
    MED_SOLVE_INFEASIBLE
};

struct med_solve_result {
    enum med_solve_status status;
    struct med_mix mix; /* zeroed counts when infeasible; release with med_mix_release */
    double lower_bound_usd_per_hour;
    double seconds;
    int rounds; /* of the loop between solver and verification */
};

int med_solve(const struct med_milp *program, double time_limit_s,
              struct med_solve_result *ret_result, struct med_err *err) MED_MUST_CHECK;
void med_solve_result_release(struct med_solve_result *result);

/* Can counts `workers` carry the demand? Exact. On yes fills shares (balanced over the workers), on
 * no the prices that refute (verify.h). */
int med_solve_verify(const struct med_milp *program, const int64_t *workers, double *shares,
                     double *prices, bool *ret_feasible, struct med_err *err) MED_MUST_CHECK;

/*
 * The smallest number of workers of one type alone that carries everything; 0: it cannot.
 * Closed form, exact.
 */
int64_t med_solve_alone(const struct med_milp *program, size_t type);

#endif
