/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exact answers to one question: can these whole numbers of workers carry the demand?
 *
 * For integer worker counts W_t, is there a continuous assignment A with sum_t A_it = 1 and
 * sum_i load_it A_it <= u W_t (1 + 1e-9) for every type?  All numbers are taken as the exact
 * rationals that the doubles are, and all arithmetic is rational (GMP), so the answer has no
 * tolerance of its own.  A solver's floating-point answer is only a hint here:
 *   med_verify_shares   a hint of "yes": are these shares within the capacity?
 *   med_verify_prices   a hint of "no": do these prices prove that no shares are?
 *   med_verify_decide   settles what neither hint could, with an exact simplex method.
 * Prices p_t >= 0 refute W when sum_t p_t u W_t (1+1e-9) < sum_i min_t p_t load_it, the minimum over
 * types with W_t > 0 (weak duality of the linear program that spreads load evenly).
 *
 * thread: any. errors: MED_E_NOMEM, MED_E_SOLVER.  owns: nothing.
 * source: docs/internals/planner.md, ADR on exact verification.
 */
#ifndef MED_ALLOCATOR_VERIFY_H
#define MED_ALLOCATOR_VERIFY_H

#include "allocator/milp.h"

/* shares [bucket][type]; of each bucket the largest share counts as 1 minus the others, so that
 * they sum to exactly 1. Shares of types with no worker or no capacity must be 0. */
bool med_verify_shares(const struct med_milp *program, const int64_t *workers,
                       const double *shares);

/* With slices = N: each bucket's shares are numbers of slices, whole and summing to N. */
bool med_verify_slices(const struct med_milp *program, const int64_t *workers,
                       const int64_t *slices);

bool med_verify_prices(const struct med_milp *program, const int64_t *workers,
                       const double *prices);

/* shares: in a hint (any numbers), out a feasible assignment; prices [type]: out the refutation. */
int med_verify_decide(const struct med_milp *program, const int64_t *workers, double *shares,
                      double *prices, bool *ret_feasible, struct med_err *err) MED_MUST_CHECK;

#endif
