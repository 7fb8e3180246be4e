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

static const double cap_step_time_limit_s = 10.0;

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

/* What stops a rentable type at a bucket, as a clause; nothing for profiles without a point there,
 * which one sentence tells of all. */
static int say_stop(struct med_buf *text, const struct med_problem *problem, size_t bucket,
                    size_t type)
{
    const struct med_capacity *cell = &problem->cells[bucket * problem->program.type_count + type];
    const char *gpu = problem->types[type].gpu;
    const char *mark = text->length > 0 ? "; " : "";
    switch (cell->stop) {
    case MED_STOP_MODEL_LEN:
        return med_buf_printf(text, "%smax_model_len on %s is %lld tokens, it needs %lld", mark,
                              gpu, (long long)cell->limit_tokens, (long long)cell->tokens);
    case MED_STOP_KV:
        return med_buf_printf(text, "%sthe KV cache of %s holds %lld tokens, it needs %lld", mark,
                              gpu, (long long)cell->limit_tokens, (long long)cell->tokens);
    case MED_STOP_SLO:
        return med_buf_printf(text, "%s%s.mean needs >= %.1f ms on %s", mark,
                              med_slo_metric_name(cell->metric), cell->needed_ms, gpu);
    case MED_STOP_UNCOVERED:
    case MED_STOP_GIVEN:
    case MED_STOP_NONE:
        break;
    }
    return 0;
}

/* Types that could serve the bucket if one might rent them. */
static int say_unrentable(struct med_buf *text, const struct med_problem *problem, size_t bucket)
{
    const struct med_milp *program = &problem->program;
    bool first = true;
    int rc = 0;
    for (size_t t = 0; rc == 0 && t < program->type_count; t++) {
        if (is_rentable(program, t) || !isfinite(med_milp_load(program, bucket, t)))
            continue;
        rc = med_buf_printf(text, "%s%s",
                            !first             ? ", "
                            : text->length > 0 ? "; not for rent: "
                                               : "not for rent: ",
                            problem->types[t].worker_type);
        first = false;
    }
    return rc;
}

static int say_bucket(const struct med_problem *problem, size_t bucket, double rate_total,
                      struct med_plan *plan)
{
    const struct med_milp *program = &problem->program;
    struct med_buf text;
    med_buf_init(&text, TEXT_MAX);
    bool given = true;
    int rc = 0;
    for (size_t t = 0; rc == 0 && t < program->type_count; t++) {
        given = given && problem->cells[bucket * program->type_count + t].stop == MED_STOP_GIVEN;
        if (is_rentable(program, t))
            rc = say_stop(&text, problem, bucket, t);
    }
    if (rc == 0)
        rc = say_unrentable(&text, problem, bucket);
    if (rc == 0 && text.length == 0) {
        rc = med_buf_append_str(&text, given ? "every throughput given for it is 0"
                                             : "no profile has a point of this size within the "
                                               "objectives");
    }
    /* A list beyond the buffer's maximum is cut, which is no failure. */
    if (rc == MED_E_LIMIT)
        rc = 0;
    if (rc == 0) {
        rc = med_problem_say(&plan->reasons, &plan->reason_count,
                             "no GPU type can serve %s (%.3g%% of the rate): %s",
                             problem->buckets[bucket].label,
                             100.0 * problem->buckets[bucket].rate_per_s / rate_total, text.data);
    }
    med_buf_release(&text);
    return rc;
}

/* The next unserved bucket by falling rate, after those with `done` set. */
static bool next_unserved(const struct med_problem *problem, const bool *done, size_t *ret_bucket)
{
    bool found = false;
    for (size_t i = 0; i < problem->program.bucket_count; i++) {
        if (done[i] || is_served(&problem->program, i))
            continue;
        if (!found || problem->buckets[i].rate_per_s > problem->buckets[*ret_bucket].rate_per_s)
            *ret_bucket = i;
        found = true;
    }
    return found;
}

static int say_points_only(const struct med_problem *problem, struct med_plan *plan)
{
    size_t types = problem->program.type_count;
    size_t count = 0;
    size_t first = 0;
    for (size_t t = 0; t < types; t++) {
        bool uncovered = false;
        for (size_t i = 0; i < problem->program.bucket_count; i++) {
            uncovered = uncovered || (problem->cells[i * types + t].stop == MED_STOP_UNCOVERED &&
                                      !is_served(&problem->program, i));
        }
        if (uncovered && count++ == 0)
            first = t;
    }
    if (count == 0)
        return 0;
    return med_problem_say(
        &plan->reasons, &plan->reason_count,
        "%zu worker %s (%s%s) %s known by serving points alone, which serve only "
        "the sizes that were measured; nothing is extrapolated",
        count, count == 1 ? "type" : "types", problem->types[first].worker_type,
        count == 1 ? "" : ", ...", count == 1 ? "is" : "are");
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

static int name_buckets(const struct med_problem *problem, struct med_plan *plan, size_t *ret_count)
{
    double rate_total = 0.0;
    double rate_unserved = 0.0;
    size_t unserved = 0;
    size_t bucket = 0;
    int rc = 0;
    bool *done = med_calloc(problem->program.bucket_count + 1, sizeof *done);
    if (done == NULL)
        return MED_E_NOMEM;
    for (size_t i = 0; i < problem->program.bucket_count; i++)
        rate_total += problem->buckets[i].rate_per_s;
    while (rc == 0 && next_unserved(problem, done, &bucket)) {
        done[bucket] = true;
        rate_unserved += problem->buckets[bucket].rate_per_s;
        if (++unserved <= BUCKETS_NAMED_MAX)
            rc = say_bucket(problem, bucket, rate_total, plan);
    }
    med_free(done);
    *ret_count = unserved;
    if (rc == 0 && unserved > BUCKETS_NAMED_MAX) {
        rc = med_problem_say(&plan->reasons, &plan->reason_count,
                             "and %zu more sizes; all together %.3g%% of the rate",
                             unserved - BUCKETS_NAMED_MAX, 100.0 * rate_unserved / rate_total);
    }
    return rc;
}

static int explain_buckets(const struct med_problem *problem, struct med_plan *plan,
                           size_t *ret_count)
{
    int rc = name_buckets(problem, plan, ret_count);
    if (rc == 0 && *ret_count > 0)
        rc = say_points_only(problem, plan);
    double needed_ms[MED_SLO_E2E_PER_TOKEN + 1] = {0.0};
    if (rc < 0 || *ret_count == 0 || !relaxed_objectives(problem, needed_ms))
        return rc;
    for (int metric = 0; rc == 0 && metric <= (int)MED_SLO_E2E_PER_TOKEN; metric++) {
        if (needed_ms[metric] > 0.0) {
            rc = med_problem_say(&plan->reasons, &plan->reason_count,
                                 "smallest change: %s.mean of at least %.4g ms",
                                 med_slo_metric_name((enum med_slo_metric)metric),
                                 ceil(needed_ms[metric] * 10.0) / 10.0);
        }
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
        int rc = med_solve(program, fmin(time_limit_s, cap_step_time_limit_s), &result, err);
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
    int64_t high;
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
        if (enough) {
            high = middle;
        } else {
            low = middle;
        }
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
    if (rc == 0 && !any) {
        rc = med_problem_say(&plan->reasons, &plan->reason_count,
                             "no single cap is the reason: several must be raised");
    }
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
