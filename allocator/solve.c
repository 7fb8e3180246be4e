/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop between the integer solver and exact verification.
 *
 *   relax:   GLPK solves a relaxation of the program (solve_glpk.h), so its optimum is a bound
 *   verify:  are its counts feasible in exact arithmetic, on the true loads?
 *            yes: the bound is reached, the mix is optimal
 *            no:  the prices that refute it are an inequality that every feasible mix satisfies
 *                 and this one does not (a Benders cut); add it and solve again
 * Almost always one round.  A cut that excludes the counts by less than GLPK can see is followed by
 * forbidding exactly these counts.  When time runs out, a greedy completion along the prices makes
 * the last counts feasible.
 *
 * The sliced program has no such prices: there the relaxation gives the bound, and if its answer
 * fails the exact check, a narrowed model gives the answer.
 * thread: main. Not here: names, files, GLPK's interface.
 */
#include "allocator/solve.h"

#include "allocator/solve_glpk.h"
#include "allocator/verify.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/limits.h"

#include <math.h>
#include <string.h>

enum {
    ROUNDS_MAX = 400,
    GREEDY_MAX = 1000000
};

static const double balance_time_limit_s = 30.0;
/* What the solver's own tolerance may hide in a bound that it did not prove to the end. */
static const double bound_margin = 1e-7;

struct search {
    const struct med_milp *program; /* dominated kinds capped at 0 */
    struct med_glpk_cuts cuts;
    struct med_mix best, candidate;
    bool has_best;
    int64_t *last_refuted; /* [type] */
    int64_t *slices;       /* [bucket][type] */
    double *prices;        /* [type] */
    double bound;
    struct med_clock clock;
    int64_t deadline_ns;
};

static double seconds_left(const struct search *s)
{
    return (double)(s->deadline_ns - med_clock_now_ns(&s->clock)) / (double)MED_NS_PER_S;
}

/* ---- verification ---- */

int med_solve_verify(const struct med_milp *program, const int64_t *workers, double *shares,
                     double *prices, bool *ret_feasible, struct med_err *err)
{
    bool solved = false;
    for (size_t t = 0; t < program->type_count; t++)
        MED_ASSERT(workers[t] >= 0);
    size_t cells = program->bucket_count * program->type_count;
    double *balanced = med_calloc(cells + 1, sizeof *balanced);
    if (balanced == NULL)
        return med_err_set(err, MED_E_NOMEM, "memory is exhausted while verifying a plan");
    int rc =
        med_glpk_balance(program, workers, balance_time_limit_s, balanced, prices, &solved, err);
    if (rc < 0)
        goto out;
    if (solved && med_verify_shares(program, workers, balanced)) {
        memcpy(shares, balanced, cells * sizeof *shares);
        *ret_feasible = true;
    } else if (med_verify_shares(program, workers, shares)) {
        *ret_feasible = true;
    } else if (solved && med_verify_prices(program, workers, prices)) {
        *ret_feasible = false;
    } else {
        rc = med_verify_decide(program, workers, solved ? balanced : shares, prices, ret_feasible,
                               err);
        if (rc == 0 && *ret_feasible && solved)
            memcpy(shares, balanced, cells * sizeof *shares);
    }
out:
    med_free(balanced);
    return rc;
}

int64_t med_solve_alone(const struct med_milp *program, size_t type)
{
    double load = 0.0;
    for (size_t i = 0; i < program->bucket_count; i++) {
        double part = med_milp_load(program, i, type);
        if (!isfinite(part))
            return 0;
        load += part;
    }
    double need = load / (program->utilization_max * (1.0 + MED_MILP_TOLERANCE));
    /* The last bits of the sum may not decide over a worker; the tolerance absorbs them. */
    int64_t count = (int64_t)ceil(need * (1.0 - 1e-12));
    return count < 1 ? 1 : count;
}

/* ---- cuts ---- */

/* The least p_t load_it of a bucket over types with workers (or over all); INFINITY: none. */
static double least_price(const struct search *s, const int64_t *workers, size_t bucket)
{
    double least = INFINITY;
    for (size_t t = 0; t < s->program->type_count; t++) {
        double load = med_milp_load(s->program, bucket, t);
        if (isfinite(load) && (workers == NULL || workers[t] > 0))
            least = fmin(least, s->prices[t] * load);
    }
    return least;
}

static int grow_cuts(struct search *s)
{
    size_t types = s->program->type_count;
    double *more =
        med_realloc_array(s->cuts.coefficients, (s->cuts.count + 1) * types + 1, sizeof *more);
    if (more == NULL)
        return MED_E_NOMEM;
    s->cuts.coefficients = more;
    return 0;
}

/* A type without workers gets the least price that does not make any bucket cheaper. */
static void price_idle_types(struct search *s, const int64_t *workers)
{
    const struct med_milp *p = s->program;
    for (size_t t = 0; t < p->type_count; t++) {
        if (workers[t] > 0)
            continue;
        double price = 0.0;
        for (size_t i = 0; i < p->bucket_count; i++) {
            double load = med_milp_load(p, i, t);
            double least = least_price(s, workers, i);
            if (isfinite(load) && isfinite(least))
                price = fmax(price, least / load);
        }
        s->prices[t] = price * (1.0 + 1e-12);
    }
}

/* Adds the inequality that the prices prove. False: they prove none (nobody serves some bucket,
 * which the model knows already). */
static int add_cut(struct search *s, const int64_t *workers, bool *ret_added)
{
    const struct med_milp *p = s->program;
    *ret_added = false;
    price_idle_types(s, workers);
    double demand = 0.0;
    for (size_t i = 0; i < p->bucket_count; i++) {
        double least = least_price(s, NULL, i);
        if (!isfinite(least))
            return 0;
        demand += least;
    }
    if (!(demand > 0.0) || !isfinite(demand))
        return 0;
    if (grow_cuts(s) < 0)
        return MED_E_NOMEM;
    double *row = s->cuts.coefficients + s->cuts.count * p->type_count;
    for (size_t t = 0; t < p->type_count; t++) {
        double supply = p->utilization_max * (1.0 + MED_MILP_TOLERANCE) * s->prices[t];
        row[t] = supply / demand * (1.0 + 1e-12);
        if (!isfinite(row[t]))
            return 0;
    }
    s->cuts.count++;
    *ret_added = true;
    return 0;
}

static int forbid(struct search *s, const int64_t *workers)
{
    size_t types = s->program->type_count;
    int64_t *more = med_realloc_array(s->cuts.forbidden, (s->cuts.forbidden_count + 1) * types + 1,
                                      sizeof *more);
    if (more == NULL)
        return MED_E_NOMEM;
    s->cuts.forbidden = more;
    memcpy(more + s->cuts.forbidden_count * types, workers, types * sizeof *workers);
    s->cuts.forbidden_count++;
    return 0;
}

/* Takes in that these counts are infeasible. */
static int learn(struct search *s, const int64_t *workers)
{
    size_t types = s->program->type_count;
    bool added = false;
    bool again = memcmp(s->last_refuted, workers, types * sizeof *workers) == 0;
    int rc = again ? 0 : add_cut(s, workers, &added);
    if (rc == 0 && !added)
        rc = forbid(s, workers);
    memcpy(s->last_refuted, workers, types * sizeof *workers);
    return rc;
}

/* ---- greedy completion ---- */

/* Worth of one more instance of the kind filled with the type: priced supply per dollar. */
static double worth(const struct search *s, size_t kind, size_t type, bool refuted_by_prices,
                    const bool *missing)
{
    const struct med_milp *p = s->program;
    double held = (double)p->hosted_max[kind * p->type_count + type];
    double gain = refuted_by_prices ? s->prices[type] : missing[type] ? 1.0 : 0.0;
    return held * gain / p->price_usd_per_hour[kind];
}

/* Types that can serve a bucket which no worker serves yet. */
static bool find_missing(const struct search *s, const int64_t *workers, bool *missing)
{
    const struct med_milp *p = s->program;
    memset(missing, 0, p->type_count * sizeof *missing);
    for (size_t i = 0; i < p->bucket_count; i++) {
        bool served = false;
        for (size_t t = 0; t < p->type_count; t++)
            served = served || (workers[t] > 0 && isfinite(med_milp_load(p, i, t)));
        if (served)
            continue;
        for (size_t t = 0; t < p->type_count; t++)
            missing[t] = isfinite(med_milp_load(p, i, t));
        return true;
    }
    return false;
}

static bool add_best_instance(struct search *s, bool refuted_by_prices, const bool *missing)
{
    const struct med_milp *p = s->program;
    struct med_mix *mix = &s->candidate;
    size_t best_kind = 0;
    size_t best_type = 0;
    double best = 0.0;
    for (size_t k = 0; k < p->kind_count; k++) {
        if (p->count_max[k] >= 0 && mix->counts[k] >= p->count_max[k])
            continue;
        for (size_t t = 0; t < p->type_count; t++) {
            double value = worth(s, k, t, refuted_by_prices, missing);
            if (value > best) {
                best = value;
                best_kind = k;
                best_type = t;
            }
        }
    }
    if (best <= 0.0)
        return false;
    size_t n = best_kind * p->type_count + best_type;
    mix->counts[best_kind]++;
    mix->placed[n] += p->hosted_max[n];
    med_mix_sum(mix, p);
    return true;
}

/* Supply less demand at the prices that refuted the candidate: below 0 until it passes their cut. */
static double priced_surplus(const struct search *s)
{
    const struct med_milp *p = s->program;
    double surplus = 0.0;
    for (size_t t = 0; t < p->type_count; t++)
        surplus += s->prices[t] * p->utilization_max * (double)s->candidate.workers[t];
    for (size_t i = 0; i < p->bucket_count; i++) {
        double least = least_price(s, NULL, i);
        surplus -= isfinite(least) ? least : 0.0;
    }
    return surplus;
}

/* Adds instances until the cut that refuted the candidate is passed: every feasible mix passes it, so
 * looking sooner would be in vain. False: caps are in the way. */
static bool pass_cut(struct search *s, const bool *missing)
{
    size_t types = s->program->type_count;
    double surplus = priced_surplus(s);
    do {
        int64_t before[MED_LIMIT_WORKER_TYPES];
        memcpy(before, s->candidate.workers, types * sizeof *before);
        if (!add_best_instance(s, true, missing))
            return false;
        for (size_t t = 0; t < types; t++) {
            double more = (double)(s->candidate.workers[t] - before[t]);
            surplus += s->prices[t] * s->program->utilization_max * more;
        }
    } while (surplus < 0.0);
    return true;
}

/* Adds instances to the candidate until it is feasible. *ret_done false: caps are in the way. */
static int complete(struct search *s, bool *ret_done, struct med_err *err)
{
    const struct med_milp *p = s->program;
    *ret_done = false;
    bool *missing = med_calloc(p->type_count + 1, sizeof *missing);
    if (missing == NULL)
        return med_err_set(err, MED_E_NOMEM, "memory is exhausted while solving");
    int rc = 0;
    for (int n = 0; n < GREEDY_MAX; n++) {
        if (find_missing(s, s->candidate.workers, missing)) {
            if (!add_best_instance(s, false, missing))
                break;
            continue;
        }
        rc = med_solve_verify(p, s->candidate.workers, s->candidate.shares, s->prices, ret_done,
                              err);
        if (rc < 0 || *ret_done)
            break;
        price_idle_types(s, s->candidate.workers);
        if (!pass_cut(s, missing))
            break;
    }
    med_free(missing);
    return rc;
}

static void keep_if_better(struct search *s)
{
    if (s->has_best && s->candidate.cost_usd_per_hour >= s->best.cost_usd_per_hour)
        return;
    med_mix_copy(&s->best, &s->candidate, s->program);
    s->has_best = true;
}

/* ---- the two programs ---- */

/* One round of the continuous program. *ret_done: nothing is left to do. */
static int round_continuous(struct search *s, enum med_glpk_status *ret_status, bool *ret_done,
                            struct med_err *err)
{
    struct med_glpk_result result = {0};
    struct med_glpk_args args = {
        .program = s->program, .cuts = &s->cuts, .time_limit_s = fmax(0.05, seconds_left(s))};
    int rc = med_glpk_mix(&args, &s->candidate, &result, err);
    *ret_status = result.status;
    *ret_done = true;
    if (rc < 0 || result.status == MED_GLPK_INFEASIBLE)
        return rc;
    double bound = result.bound_usd_per_hour;
    if (result.status != MED_GLPK_OPTIMAL)
        bound *= 1.0 - bound_margin;
    s->bound = fmax(s->bound, bound);
    if (result.status == MED_GLPK_UNKNOWN)
        return 0;
    bool feasible = false;
    rc = med_solve_verify(s->program, s->candidate.workers, s->candidate.shares, s->prices,
                          &feasible, err);
    if (rc < 0)
        return rc;
    if (feasible) {
        keep_if_better(s);
        return 0;
    }
    rc = learn(s, s->candidate.workers);
    *ret_done = result.status != MED_GLPK_OPTIMAL || seconds_left(s) <= 0.0;
    if (rc == MED_E_NOMEM)
        return med_err_set(err, rc, "memory is exhausted while solving");
    return rc;
}

static int solve_continuous(struct search *s, struct med_solve_result *result, struct med_err *err)
{
    enum med_glpk_status status = MED_GLPK_UNKNOWN;
    bool done = false;
    int rc = 0;
    for (result->rounds = 0; rc == 0 && !done && result->rounds < ROUNDS_MAX; result->rounds++)
        rc = round_continuous(s, &status, &done, err);
    if (rc < 0)
        return rc;
    if (status == MED_GLPK_OPTIMAL && s->has_best) {
        result->status = MED_SOLVE_OPTIMAL;
        return 0;
    }
    /* Time ran out, or GLPK sees no answer: what can be had by adding instances? */
    if (status == MED_GLPK_INFEASIBLE || status == MED_GLPK_UNKNOWN) {
        memset(s->candidate.counts, 0, s->program->kind_count * sizeof *s->candidate.counts);
        memset(s->candidate.placed, 0,
               s->program->kind_count * s->program->type_count * sizeof *s->candidate.placed);
        memset(s->candidate.shares, 0,
               s->program->bucket_count * s->program->type_count * sizeof *s->candidate.shares);
        med_mix_sum(&s->candidate, s->program);
    }
    if (!s->has_best) {
        rc = complete(s, &done, err);
        if (rc < 0)
            return rc;
        if (done)
            keep_if_better(s);
    }
    if (s->has_best) {
        result->status = MED_SOLVE_FEASIBLE;
        return 0;
    }
    if (status == MED_GLPK_INFEASIBLE) {
        result->status = MED_SOLVE_INFEASIBLE;
        return 0;
    }
    return med_err_set(err, MED_E_SOLVER,
                       "no mix was found within the time limit, and none was proved impossible; "
                       "give more time with --time-limit");
}

static int try_slices(struct search *s, bool restricted, struct med_glpk_result *result,
                      bool *ret_holds, struct med_err *err)
{
    struct med_glpk_args args = {.program = s->program,
                                 .time_limit_s = fmax(0.05, seconds_left(s)),
                                 .restricted = restricted};
    result->slices = s->slices;
    *ret_holds = false;
    int rc = med_glpk_mix(&args, &s->candidate, result, err);
    if (rc < 0 || result->status == MED_GLPK_INFEASIBLE || result->status == MED_GLPK_UNKNOWN)
        return rc;
    *ret_holds = med_verify_slices(s->program, s->candidate.workers, s->slices);
    for (size_t n = 0; n < s->program->bucket_count * s->program->type_count; n++)
        s->candidate.shares[n] = (double)s->slices[n] / (double)s->program->slices;
    if (*ret_holds)
        keep_if_better(s);
    return 0;
}

static int solve_sliced(struct search *s, struct med_solve_result *result, struct med_err *err)
{
    struct med_glpk_result answer = {0};
    bool holds = false;
    result->rounds = 1;
    int rc = try_slices(s, false, &answer, &holds, err);
    if (rc < 0)
        return rc;
    if (answer.status == MED_GLPK_INFEASIBLE) {
        result->status = MED_SOLVE_INFEASIBLE;
        return 0;
    }
    double exact = answer.status == MED_GLPK_OPTIMAL ? 1.0 : 1.0 - bound_margin;
    s->bound = fmax(s->bound, exact * answer.bound_usd_per_hour);
    if (!holds) {
        result->rounds = 2;
        rc = try_slices(s, true, &answer, &holds, err);
        if (rc < 0)
            return rc;
        if (!holds) {
            return med_err_set(err, MED_E_SOLVER,
                               "no sliced mix was found within the time limit; give more time with "
                               "--time-limit, or leave --slices out");
        }
    }
    bool tight = s->best.cost_usd_per_hour <= s->bound * (1.0 + 1e-12);
    result->status = tight ? MED_SOLVE_OPTIMAL : MED_SOLVE_FEASIBLE;
    return 0;
}

/* ---- entry ---- */

/* A kind that holds no more than another, costs no less, when the other has no cap. */
static bool is_dominated(const struct med_milp *p, size_t kind, size_t by)
{
    if (kind == by || p->count_max[by] >= 0 || p->gpus[by] < p->gpus[kind])
        return false;
    double own = p->price_usd_per_hour[kind];
    double other = p->price_usd_per_hour[by];
    if (other > own || (other == own && p->gpus[by] == p->gpus[kind] && by > kind))
        return false;
    for (size_t t = 0; t < p->type_count; t++) {
        int64_t held = p->hosted_max[kind * p->type_count + t];
        if (held > p->hosted_max[by * p->type_count + t])
            return false;
    }
    return true;
}

static bool somebody_serves(const struct med_milp *p, size_t bucket)
{
    for (size_t t = 0; t < p->type_count; t++) {
        for (size_t k = 0; k < p->kind_count; k++) {
            if (isfinite(med_milp_load(p, bucket, t)) && p->count_max[k] != 0 &&
                p->hosted_max[k * p->type_count + t] > 0)
                return true;
        }
    }
    return false;
}

/* $/h of a bucket on the GPUs of a kind, rented by the fraction; INFINITY: it cannot serve it. */
static double cheapest_on(const struct med_milp *p, size_t bucket, size_t kind)
{
    double per_gpu = p->price_usd_per_hour[kind] / (double)p->gpus[kind];
    double least = INFINITY;
    for (size_t t = 0; t < p->type_count; t++) {
        double gpus = (double)p->gpus_per_worker[t] * med_milp_load(p, bucket, t);
        if (p->hosted_max[kind * p->type_count + t] > 0)
            least = fmin(least, per_gpu * gpus);
    }
    return least;
}

/*
 * A bound at no cost: each bucket on the type that is cheapest for it, GPUs rented by the fraction.
 * With p_t = min_k c_k g_t / N_k, an instance's workers are worth at most its price.
 */
static double fractional_bound(const struct med_milp *p)
{
    double bound = 0.0;
    for (size_t i = 0; i < p->bucket_count; i++) {
        double least = INFINITY;
        for (size_t k = 0; k < p->kind_count; k++)
            least = fmin(least, cheapest_on(p, i, k));
        bound += isfinite(least) ? least : 0.0;
    }
    return bound / (p->utilization_max * (1.0 + MED_MILP_TOLERANCE)) * (1.0 - bound_margin);
}

static int search_init(struct search *s, const struct med_milp *program, double time_limit_s)
{
    memset(s, 0, sizeof *s);
    s->program = program;
    s->bound = fractional_bound(program);
    med_clock_init_real(&s->clock, 1.0);
    s->deadline_ns = med_clock_now_ns(&s->clock) + (int64_t)(time_limit_s * (double)MED_NS_PER_S);
    int rc = med_mix_init(&s->best, program);
    if (rc == 0)
        rc = med_mix_init(&s->candidate, program);
    s->last_refuted = med_calloc(program->type_count + 1, sizeof *s->last_refuted);
    s->prices = med_calloc(program->type_count + 1, sizeof *s->prices);
    s->slices = med_calloc(program->bucket_count * program->type_count + 1, sizeof *s->slices);
    if (s->last_refuted == NULL || s->prices == NULL || s->slices == NULL)
        rc = MED_E_NOMEM;
    if (s->last_refuted != NULL)
        s->last_refuted[0] = -1;
    return rc;
}

static void search_release(struct search *s)
{
    med_mix_release(&s->best);
    med_mix_release(&s->candidate);
    med_free(s->last_refuted);
    med_free(s->prices);
    med_free(s->slices);
    med_free(s->cuts.coefficients);
    med_free(s->cuts.forbidden);
}

static int solve_pruned(const struct med_milp *program, double time_limit_s,
                        struct med_solve_result *ret_result, struct med_err *err)
{
    struct search s;
    struct med_solve_result result = {.status = MED_SOLVE_INFEASIBLE};
    int rc = search_init(&s, program, time_limit_s);
    int64_t start_ns = med_clock_now_ns(&s.clock);
    bool served = rc == 0;
    for (size_t i = 0; rc == 0 && i < program->bucket_count; i++)
        served = served && somebody_serves(program, i);
    if (rc < 0) {
        (void)med_err_set(err, rc, "memory is exhausted while solving");
    } else if (served) {
        rc = program->slices > 0 ? solve_sliced(&s, &result, err)
                                 : solve_continuous(&s, &result, err);
    }
    if (rc == 0) {
        result.seconds = (double)(med_clock_now_ns(&s.clock) - start_ns) / (double)MED_NS_PER_S;
        result.lower_bound_usd_per_hour = s.bound;
        if (s.has_best) {
            double cost = s.best.cost_usd_per_hour;
            bool closed = result.status == MED_SOLVE_OPTIMAL || s.bound > cost;
            result.lower_bound_usd_per_hour = closed ? cost : s.bound;
        }
        result.mix = s.best;
        memset(&s.best, 0, sizeof s.best);
        *ret_result = result;
    }
    search_release(&s);
    return rc;
}

int med_solve(const struct med_milp *program, double time_limit_s,
              struct med_solve_result *ret_result, struct med_err *err)
{
    int rc = med_milp_check(program, err);
    if (rc < 0)
        return rc;
    /* Dominated kinds are capped at nothing in a shallow copy. */
    struct med_milp pruned = *program;
    pruned.count_max = med_calloc(program->kind_count, sizeof *pruned.count_max);
    if (pruned.count_max == NULL)
        return med_err_set(err, MED_E_NOMEM, "memory is exhausted while solving");
    memcpy(pruned.count_max, program->count_max, program->kind_count * sizeof *pruned.count_max);
    for (size_t k = 0; k < program->kind_count; k++) {
        for (size_t by = 0; by < program->kind_count; by++) {
            if (is_dominated(program, k, by))
                pruned.count_max[k] = 0;
        }
    }
    rc = solve_pruned(&pruned, time_limit_s, ret_result, err);
    med_free(pruned.count_max);
    return rc;
}

void med_solve_result_release(struct med_solve_result *result)
{
    med_mix_release(&result->mix);
}
