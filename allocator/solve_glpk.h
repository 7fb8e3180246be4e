/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The edge to GLPK: the only file that includes glpk.h is solve_glpk.c.
 *
 * Two models of a checked med_milp: the integer mix (a relaxation, see below) and the linear
 * program that balances the load on given workers.  Answers are floating-point hints; solve.c
 * verifies them exactly before it believes them.
 * GLPK prints nothing and never aborts the process: its terminal and error hooks are set per call.
 * thread: one at a time. errors: MED_E_SOLVER with GLPK's own last words, MED_E_NOMEM.
 */
#ifndef MED_ALLOCATOR_SOLVE_GLPK_H
#define MED_ALLOCATOR_SOLVE_GLPK_H

#include "allocator/milp.h"

/* What exact verification has found out. Every feasible answer satisfies
 * sum_t coefficients[t] W_t >= 1 and W_t > forbidden[t] for at least one type. */
struct med_glpk_cuts {
    double *coefficients; /* [count][type] */
    size_t count;
    int64_t *forbidden; /* [forbidden_count][type] */
    size_t forbidden_count;
};

enum med_glpk_status {
    MED_GLPK_OPTIMAL,
    MED_GLPK_FEASIBLE, /* time limit; the mix is filled */
    MED_GLPK_INFEASIBLE,
    MED_GLPK_UNKNOWN, /* time limit; no mix */
};

struct med_glpk_args {
    const struct med_milp *program;
    const struct med_glpk_cuts *cuts; /* may be NULL */
    double time_limit_s;              /* > 0 */
    /* false: capacities are widened by what flooring the loads added, so that every truly feasible
     * answer stays feasible and the optimum is a valid bound.  true: capacities are narrowed by the
     * solver's own tolerance, so that answers are feasible in exact arithmetic. */
    bool restricted;
};

struct med_glpk_result {
    enum med_glpk_status status;
    double bound_usd_per_hour; /* of the model; 0 if nothing better is known */
    int64_t *slices; /* [bucket][type], only if program->slices > 0; the caller's storage */
};

/* mix->counts, placed, workers, cost and shares (as the solver has them). */
int med_glpk_mix(const struct med_glpk_args *args, struct med_mix *mix,
                 struct med_glpk_result *result, struct med_err *err) MED_MUST_CHECK;

/*
 * min theta, sum_i load_it A_it <= theta u W_t over the types with W_t > 0.  shares [bucket][type],
 * prices [type] as in verify.h.  *ret_solved false: time limit, or a bucket that nobody serves.
 */
int med_glpk_balance(const struct med_milp *program, const int64_t *workers, double time_limit_s,
                     double *shares, double *prices, bool *ret_solved,
                     struct med_err *err) MED_MUST_CHECK;

/* Makes GLPK fail inside, to test that the program survives it. */
int med_glpk_provoke_error(struct med_err *err);

#endif
