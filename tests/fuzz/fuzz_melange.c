/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mélange's input: what is refused has a sentence; what is small is solved, and an answer that is
 * feasible passes the exact check and holds its own bound.  thread: main.
 */
#include "allocator/melange.h"
#include "allocator/problem.h"
#include "allocator/solve.h"
#include "allocator/verify.h"
#include "base/assert.h"
#include "tests/fuzz/fuzz.h"

enum {
    CELLS_SOLVED_MAX = 24
};

static void solve(const struct med_milp *milp)
{
    struct med_solve_result result;
    struct med_err err = {0};
    if (milp->type_count * milp->bucket_count > CELLS_SOLVED_MAX)
        return;
    int rc = med_solve(milp, 0.2, &result, &err);
    if (rc < 0) {
        MED_ASSERT(err.text[0] != '\0');
        return;
    }
    if (result.status != MED_SOLVE_INFEASIBLE) {
        MED_ASSERT(result.mix.cost_usd_per_hour >= result.lower_bound_usd_per_hour);
        MED_ASSERT(med_verify_shares(milp, result.mix.workers, result.mix.shares));
    }
    med_solve_result_release(&result);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct med_json_doc doc;
    struct med_problem problem;
    struct med_plan plan;
    struct med_err err = {0};
    if (med_json_parse((const char *)data, size, "input", &doc, &err) < 0) {
        MED_ASSERT(err.text[0] != '\0');
        return 0;
    }
    struct med_json_at root = med_json_root(&doc);
    if (med_melange_read(&root, "input", 0, &problem, &plan, &err) == 0) {
        solve(&problem.program);
        med_problem_release(&problem);
        med_plan_release(&plan);
    } else {
        MED_ASSERT(err.text[0] != '\0');
    }
    med_json_free(&doc);
    return 0;
}
