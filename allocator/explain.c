/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why no mix is feasible, in sentences that name bucket, GPU types, and objective or cap, and the
 * smallest change that would help.
 *
 * First buckets that no rentable type can serve: for each, what stops every type; and over all of
 * them the objective values that would let somebody serve each.  If every bucket has somebody, the
 * caps are in the way: for each capped kind, the smallest cap that would do with the others as they
 * are (bisection over exact feasibility, which only grows with a cap).
 * thread: one at a time.
 */
#include "allocator/problem.h"

#include "allocator/solve.h"
#include "base/alloc.h"
#include "base/buf.h"

#include <math.h>
#include <string.h>

enum {
    BUCKETS_NAMED_MAX = 5,
    TEXT_MAX = 3000,
    CAP_SEARCH_MAX = 1 << 20
};

static const double CAP_STEP_TIME_LIMIT_S = 10.0;

static bool is_rentable(const struct med_milp *program, size_t type)
{
    for (size_t k = 0; k < program->kind_count; k++) {
        if (program->hosted_max[k * program->type_count + type] > 0 && program->count_max[k] != 0)
            return true;
    }
    return false;
}

static bool is_served(const struct med_milp *program, size_t bucket)
{
    for (size_t t = 0; t < program->type_count; t++) {
        if (isfinite(med_milp_load(program, bucket, t)) && is_rentable(program, t))
            return true;
    }
    return false;
}

/* What stops one type at one bucket, as a clause. */
static int say_stop(struct med_buf *text, const struct med_problem *problem, size_t bucket,
                    size_t type)
{
    const struct med_capacity *cell = &problem->cells[bucket * problem->program.type_count + type];
    const char *gpu = problem->types[type].gpu;
    if (cell->requests_per_s > 0.0)
        return med_buf_printf(text, "%s could, but no instance with it may be rented (cap 0)", gpu);
    switch (cell->stop) {
    case MED_STOP_MODEL_LEN:
        return med_buf_printf(text, "on %s max_model_len is %lld of %lld tokens", gpu,
                              (long long)cell->limit_tokens, (long long)cell->tokens);
    case MED_STOP_KV:
        return med_buf_printf(text, "on %s the KV cache holds %lld of %lld tokens", gpu,
                              (long long)cell->limit_tokens, (long long)cell->tokens);
    case MED_STOP_SLO:
        return med_buf_printf(text, "%s.mean needs >= %.1f ms on %s",
                              med_slo_metric_name(cell->metric), cell->needed_ms, gpu);
    case MED_STOP_UNCOVERED:
        return med_buf_printf(text, "%s has no serving point of this size within the objectives",
                              problem->types[type].worker_type);
    case MED_STOP_GIVEN:
    case MED_STOP_NONE:
        break;
    }
    return med_buf_printf(text, "%s cannot (throughput 0)", gpu);
}

static int say_bucket(const struct med_problem *problem, size_t bucket, double rate_total,
                      struct med_plan *plan)
{
    struct med_buf text;
    med_buf_init(&text, TEXT_MAX);
    bool first = true;
    int rc = 0;
    for (size_t t = 0; rc == 0 && t < problem->program.type_count; t++) {
        rc = first ? 0 : med_buf_append_str(&text, "; ");
        if (rc == 0)
            rc = say_stop(&text, problem, bucket, t);
        first = false;
    }
    /* A list beyond the buffer's maximum is cut, which is no failure. */
    if (rc == MED_E_LIMIT)
        rc = 0;
    if (rc == 0)
        rc = med_problem_say(&plan->reasons, &plan->reason_count,
                             "no GPU type can serve %s (%.3g %% of the rate): %s",
                             problem->buckets[bucket].label,
                             100.0 * problem->buckets[bucket].rate_per_s / rate_total, text.data);
    med_buf_release(&text);
    return rc;
}

/* Objective values that let some type serve every unserved bucket; false: none would. */
static bool relaxed_objectives(const struct med_problem *problem, double *ret_needed_ms)
{
    size_t types = problem->program.type_count;
    for (size_t i = 0; i < problem->program.bucket_count; i++) {
        if (is_served(&problem->program, i))
            continue;
        double least = INFINITY;
        enum med_slo_metric metric = MED_SLO_TTFT;
        for (size_t t = 0; t < types; t++) {
            const struct med_capacity *cell = &problem->cells[i * types + t];
            if (cell->requests_per_s <= 0.0 && cell->stop == MED_STOP_SLO &&
                is_rentable(&problem->program, t) && cell->needed_ms < least) {
                least = cell->needed_ms;
                metric = cell->metric;
            }
        }
        if (!isfinite(least))
            return false;
        ret_needed_ms[metric] = fmax(ret_needed_ms[metric], least);
    }
    return true;
}

static int explain_buckets(const struct med_problem *problem, struct med_plan *plan,
                           size_t *ret_count)
{
    double rate_total = 0.0;
    double rate_unserved = 0.0;
    size_t unserved = 0;
    int rc = 0;
    for (size_t i = 0; i < problem->program.bucket_count; i++)
        rate_total += problem->buckets[i].rate_per_s;
    for (size_t i = 0; rc == 0 && i < problem->program.bucket_count; i++) {
        if (is_served(&problem->program, i))
            continue;
        rate_unserved += problem->buckets[i].rate_per_s;
        if (++unserved <= BUCKETS_NAMED_MAX)
            rc = say_bucket(problem, i, rate_total, plan);
    }
    *ret_count = unserved;
    if (rc == 0 && unserved > BUCKETS_NAMED_MAX)
        rc = med_problem_say(&plan->reasons, &plan->reason_count,
                             "and %zu more sizes; all together %.3g %% of the rate",
                             unserved - BUCKETS_NAMED_MAX, 100.0 * rate_unserved / rate_total);
    double needed_ms[MED_SLO_E2E_PER_TOKEN + 1] = {0.0};
    if (rc < 0 || unserved == 0 || !relaxed_objectives(problem, needed_ms))
        return rc;
    for (int metric = 0; rc == 0 && metric <= (int)MED_SLO_E2E_PER_TOKEN; metric++) {
        if (needed_ms[metric] > 0.0)
            rc = med_problem_say(&plan->reasons, &plan->reason_count,
                                 "smallest change: %s.mean of at least %.4g ms",
                                 med_slo_metric_name((enum med_slo_metric)metric),
                                 ceil(needed_ms[metric] * 10.0) / 10.0);
    }
    return rc;
}

/* ---- caps ---- */

/* All instances that the caps allow, and enough of the rest. */
static void fill_to_caps(const struct med_milp *program, int64_t *workers)
{
    double load = 0.0;
    for (size_t n = 0; n < program->bucket_count * program->type_count; n++)
        load += isfinite(program->loads[n]) ? program->loads[n] : 0.0;
    int64_t plenty = (int64_t)ceil(fmin(load, 1e12) / program->utilization_max) + 1;
    memset(workers, 0, program->type_count * sizeof *workers);
    for (size_t k = 0; k < program->kind_count; k++) {
        int64_t count = program->count_max[k] < 0 ? plenty : program->count_max[k];
        for (size_t t = 0; t < program->type_count; t++)
            workers[t] += count * program->hosted_max[k * program->type_count + t];
    }
}

static bool all_single(const struct med_milp *program)
{
    size_t type = 0;
    for (size_t k = 0; k < program->kind_count; k++) {
        bool empty = true;
        for (size_t t = 0; t < program->type_count; t++)
            empty = empty && program->hosted_max[k * program->type_count + t] == 0;
        if (!empty && !med_milp_kind_is_single(program, k, &type))
            return false;
    }
    return true;
}

/* Is the program feasible with its caps as they are now? */
static int is_feasible(const struct med_milp *program, double time_limit_s, bool *ret_feasible,
                       struct med_err *err)
{
    if (program->slices > 0 || !all_single(program)) {
        struct med_solve_result result;
        int rc = med_solve(program, fmin(time_limit_s, CAP_STEP_TIME_LIMIT_S), &result, err);
        if (rc < 0)
            return rc;
        *ret_feasible = result.status != MED_SOLVE_INFEASIBLE;
        med_solve_result_release(&result);
        return 0;
    }
    int64_t *workers = med_calloc(program->type_count, sizeof *workers);
    double *prices = med_calloc(program->type_count, sizeof *prices);
    double *shares = med_calloc(program->bucket_count * program->type_count, sizeof *shares);
    int rc = MED_E_NOMEM;
    if (workers != NULL && prices != NULL && shares != NULL) {
        fill_to_caps(program, workers);
        rc = med_solve_verify(program, workers, shares, prices, ret_feasible, err);
    }
    med_free(workers);
    med_free(prices);
    med_free(shares);
    return rc;
}

/* The smallest cap of one kind that makes the program feasible; 0: none does. */
static int smallest_cap(struct med_milp *program, size_t kind, double time_limit_s,
                        int64_t *ret_cap, struct med_err *err)
{
    int64_t own = program->count_max[kind];
    int64_t high = own;
    int64_t low = own; /* infeasible */
    bool feasible = false;
    int rc = 0;
    *ret_cap = 0;
    for (int64_t step = 1;; step *= 2) {
        high = low + step;
        program->count_max[kind] = high;
        rc = is_feasible(program, time_limit_s, &feasible, err);
        if (rc < 0 || feasible || high > CAP_SEARCH_MAX)
            break;
        low = high;
    }
    while (rc == 0 && feasible && high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        bool enough = false;
        program->count_max[kind] = middle;
        rc = is_feasible(program, time_limit_s, &enough, err);
        if (enough)
            high = middle;
        else
            low = middle;
    }
    program->count_max[kind] = own;
    if (rc == 0 && feasible)
        *ret_cap = high;
    return rc;
}

static int explain_caps(const struct med_problem *problem, double time_limit_s,
                        struct med_plan *plan, struct med_err *err)
{
    struct med_milp program = problem->program; /* shallow; caps are our own */
    program.count_max = med_calloc(program.kind_count, sizeof *program.count_max);
    if (program.count_max == NULL)
        return MED_E_NOMEM;
    memcpy(program.count_max, problem->program.count_max,
           program.kind_count * sizeof *program.count_max);
    int rc = med_problem_say(&plan->reasons, &plan->reason_count,
                             "every size has a GPU type that can serve it, but the caps leave too "
                             "few instances to carry the whole rate at %.0f %% utilization",
                             100.0 * program.utilization_max);
    bool any = false;
    for (size_t k = 0; rc == 0 && k < program.kind_count; k++) {
        int64_t cap = 0;
        if (program.count_max[k] < 0)
            continue;
        rc = smallest_cap(&program, k, time_limit_s, &cap, err);
        if (rc < 0 || cap == 0)
            continue;
        any = true;
        rc = med_problem_say(&plan->reasons, &plan->reason_count,
                             "smallest change for %s (%s): raise its cap from %lld to %lld",
                             problem->kinds[k].instance, problem->kinds[k].gpu,
                             (long long)program.count_max[k], (long long)cap);
    }
    if (rc == 0 && !any)
        rc = med_problem_say(&plan->reasons, &plan->reason_count,
                             "no single cap is the reason: several must be raised");
    med_free(program.count_max);
    return rc;
}

int med_problem_explain(const struct med_problem *problem, double time_limit_s,
                        struct med_plan *plan, struct med_err *err)
{
    size_t unserved = 0;
    int rc = explain_buckets(problem, plan, &unserved);
    if (rc == 0 && unserved == 0)
        rc = explain_caps(problem, time_limit_s, plan, err);
    return rc;
}
