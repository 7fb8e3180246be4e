/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The solver and its exact verification: known answers, whole instances with several workers
 * against enumeration, certificates that must hold and ones that must not, GLPK failing inside.
 */
#include "allocator/solve.h"

#include "allocator/solve_glpk.h"
#include "allocator/verify.h"
#include "base/alloc.h"
#include "base/rng.h"
#include "tests/check.h"

/* Mélange's README example: A10G and A100, four buckets, 30 requests/s. */
static void example(struct med_milp *milp)
{
    static const double throughputs[4][2] = {{2, 20}, {1, 20}, {5, 40}, {2, 20}};
    static const double shares[4] = {0.2, 0.1, 0.5, 0.2};
    REQUIRE(med_milp_init(milp, 2, 2, 4) == 0);
    milp->price_usd_per_hour[0] = 1.01;
    milp->price_usd_per_hour[1] = 3.67;
    for (size_t t = 0; t < 2; t++) {
        med_milp_fit(milp, t, t);
        for (size_t i = 0; i < 4; i++)
            milp->loads[i * 2 + t] = 30.0 * shares[i] / throughputs[i][t];
    }
}

static double solve_cost(const struct med_milp *milp, enum med_solve_status want)
{
    struct med_solve_result result;
    struct med_err err = {0};
    REQUIRE(med_solve(milp, 60.0, &result, &err) == 0);
    CHECK_INT(result.status, want);
    double cost = result.mix.cost_usd_per_hour;
    if (want == MED_SOLVE_OPTIMAL)
        CHECK_DOUBLE(result.lower_bound_usd_per_hour, cost, 0.0);
    med_solve_result_release(&result);
    return cost;
}

static void test_example_when_continuous_or_sliced_then_known_costs(void)
{
    static const struct {
        int64_t slices;
        double cost;
    } cases[] = {{0, 4.68}, {1, 6.70}, {2, 5.69}, {3, 4.68}, {4, 5.69}, {8, 5.69}};
    for (size_t n = 0; n < sizeof cases / sizeof cases[0]; n++) {
        struct med_milp milp;
        example(&milp);
        milp.slices = cases[n].slices;
        CHECK_DOUBLE(solve_cost(&milp, MED_SOLVE_OPTIMAL), cases[n].cost, 1e-12);
        med_milp_release(&milp);
    }
}

static void test_example_when_capped_then_dearer_or_infeasible(void)
{
    struct med_milp milp;
    example(&milp);
    milp.count_max[0] = 0;
    CHECK_DOUBLE(solve_cost(&milp, MED_SOLVE_OPTIMAL), 7.34, 1e-12);
    milp.count_max[1] = 1;
    (void)solve_cost(&milp, MED_SOLVE_INFEASIBLE);
    milp.count_max[0] = 1;
    CHECK_DOUBLE(solve_cost(&milp, MED_SOLVE_OPTIMAL), 4.68, 1e-12);
    med_milp_release(&milp);
}

/* The load is 1 + 1e-9 + a hair: exact arithmetic refuses what a solver would let pass. */
static void test_one_type_when_load_passes_the_tolerance_then_one_more(void)
{
    static const struct {
        double load;
        double cost;
    } cases[] = {{1.0, 1.0},          {1.0 + 0.9e-9, 1.0}, {1.0 + 1.1e-9, 2.0}, {1.0 + 1e-7, 2.0},
                 {3.0 + 2.9e-9, 3.0}, {3.0 + 3.2e-9, 4.0}, {1e-12, 1.0}};
    for (size_t n = 0; n < sizeof cases / sizeof cases[0]; n++) {
        struct med_milp milp;
        REQUIRE(med_milp_init(&milp, 1, 1, 1) == 0);
        milp.price_usd_per_hour[0] = 1.0;
        med_milp_fit(&milp, 0, 0);
        milp.loads[0] = cases[n].load;
        CHECK_DOUBLE(solve_cost(&milp, MED_SOLVE_OPTIMAL), cases[n].cost, 0.0);
        CHECK_DOUBLE((double)med_solve_alone(&milp, 0), cases[n].cost, 0.0);
        med_milp_release(&milp);
    }
}

/* Two types, tiny tails that only the dear one serves: it must be rented all the same. */
static void test_tail_when_tiny_then_not_lost(void)
{
    static const double tails[] = {1e-3, 1e-6, 1e-8, 1e-9, 1e-12, 1e-15};
    for (size_t n = 0; n < sizeof tails / sizeof tails[0]; n++) {
        struct med_milp milp;
        REQUIRE(med_milp_init(&milp, 2, 2, 2) == 0);
        milp.price_usd_per_hour[0] = 1.0;
        milp.price_usd_per_hour[1] = 10.0;
        med_milp_fit(&milp, 0, 0);
        med_milp_fit(&milp, 1, 1);
        milp.loads[0] = 2.5; /* bucket 0 on the cheap type */
        milp.loads[1] = 0.9;
        milp.loads[3] = tails[n];
        /* 1 dear one carries all: 0.9 + tail <= 1. */
        CHECK_DOUBLE(solve_cost(&milp, MED_SOLVE_OPTIMAL), 10.0, 1e-12);
        milp.loads[1] = 1.2;
        CHECK_DOUBLE(solve_cost(&milp, MED_SOLVE_OPTIMAL), 11.0, 1e-12);
        med_milp_release(&milp);
    }
}

static void test_bucket_when_nobody_serves_then_infeasible(void)
{
    struct med_milp milp;
    example(&milp);
    milp.loads[4] = INFINITY;
    milp.loads[5] = INFINITY;
    (void)solve_cost(&milp, MED_SOLVE_INFEASIBLE);
    med_milp_release(&milp);
}

/* ---- several workers on an instance, against enumeration ---- */

/* Kinds of 1, 4 and 8 GPUs of one sort, types of 1, 2 and 8 GPUs, and another sort. */
static void fill_multi(struct med_milp *milp, struct med_rng *rng)
{
    static const int64_t gpus[4] = {1, 4, 8, 2};
    static const int64_t wants[4] = {1, 2, 8, 2};
    REQUIRE(med_milp_init(milp, 4, 4, 3) == 0);
    for (size_t k = 0; k < 4; k++) {
        milp->gpus[k] = gpus[k];
        milp->gpus_per_worker[k] = wants[k];
        milp->price_usd_per_hour[k] = (double)gpus[k] * (0.5 + med_rng_uniform(rng));
        milp->count_max[k] = 1 + (int64_t)med_rng_below(rng, 3);
    }
    for (size_t k = 0; k < 3; k++) {
        for (size_t t = 0; t < 3; t++)
            med_milp_fit(milp, k, t);
    }
    med_milp_fit(milp, 3, 3);
    for (size_t n = 0; n < 12; n++) {
        if (med_rng_uniform(rng) < 0.75)
            milp->loads[n] = 0.05 + 3.0 * med_rng_uniform(rng);
    }
}

/* Places the types on `count` instances of a kind in every way; calls the check for each. */
struct enumeration {
    const struct med_milp *milp;
    int64_t counts[4];
    double best;
};

static bool carries(const struct med_milp *milp, const int64_t *workers)
{
    double shares[12] = {0.0};
    double prices[4];
    bool feasible = false;
    struct med_err err = {0};
    /* The exact simplex method alone: neither GLPK nor a hint. */
    REQUIRE(med_verify_decide(milp, workers, shares, prices, &feasible, &err) == 0);
    if (feasible)
        CHECK(med_verify_shares(milp, workers, shares));
    return feasible;
}

/* With counts given, more 1-GPU workers are possible for each larger one left out. */
static bool any_placement(const struct enumeration *e)
{
    int64_t eights = e->counts[2];
    for (int64_t eight = 0; eight <= eights; eight++) {
        int64_t pairs_max = 2 * e->counts[1] + 4 * (eights - eight);
        for (int64_t pairs = 0; pairs <= pairs_max; pairs++) {
            int64_t ones = e->counts[0] + 4 * e->counts[1] + 8 * (eights - eight) - 2 * pairs;
            int64_t workers[4] = {ones, pairs, eight, e->counts[3]};
            if (carries(e->milp, workers))
                return true;
        }
    }
    return false;
}

/* The counts of a number in the mixed base of the caps; false beyond the last. */
static bool counts_of(const struct med_milp *milp, int64_t number, int64_t *counts)
{
    for (size_t k = 0; k < 4; k++) {
        counts[k] = number % (milp->count_max[k] + 1);
        number /= milp->count_max[k] + 1;
    }
    return number == 0;
}

static double enumerate(const struct med_milp *milp)
{
    struct enumeration e = {.milp = milp, .best = INFINITY};
    for (int64_t number = 0; counts_of(milp, number, e.counts); number++) {
        double cost = 0.0;
        for (size_t k = 0; k < 4; k++)
            cost += (double)e.counts[k] * milp->price_usd_per_hour[k];
        if (cost < e.best && any_placement(&e))
            e.best = cost;
    }
    return e.best;
}

/* The workers of each kind fit on its instances, largest first. */
static void check_placement(const struct med_milp *milp, const struct med_mix *mix)
{
    for (size_t k = 0; k < milp->kind_count; k++) {
        int64_t gpus = 0;
        for (size_t t = 0; t < milp->type_count; t++) {
            int64_t placed = mix->placed[k * milp->type_count + t];
            CHECK(placed >= 0);
            CHECK(placed == 0 || milp->hosted_max[k * milp->type_count + t] > 0);
            gpus += placed * milp->gpus_per_worker[t];
        }
        CHECK(gpus <= milp->gpus[k] * mix->counts[k]);
    }
}

static void test_many_gpus_when_random_then_as_enumeration(void)
{
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 3);
    int infeasible = 0;
    for (int n = 0; n < 40; n++) {
        struct med_milp milp;
        struct med_solve_result result;
        struct med_err err = {0};
        fill_multi(&milp, &rng);
        double want = enumerate(&milp);
        REQUIRE(med_solve(&milp, 60.0, &result, &err) == 0);
        if (isinf(want)) {
            infeasible++;
            CHECK_INT(result.status, MED_SOLVE_INFEASIBLE);
        } else {
            CHECK_INT(result.status, MED_SOLVE_OPTIMAL);
            CHECK_DOUBLE(result.mix.cost_usd_per_hour, want, 1e-9 * want);
            CHECK(med_verify_shares(&milp, result.mix.workers, result.mix.shares));
            check_placement(&milp, &result.mix);
        }
        med_solve_result_release(&result);
        med_milp_release(&milp);
    }
    CHECK(infeasible > 0);
    CHECK(infeasible < 40);
}

/* ---- verification ---- */

static void test_shares_when_just_over_then_refused(void)
{
    struct med_milp milp;
    example(&milp);
    /* 2/3 of the third bucket on the A100 fills both exactly. */
    double shares[8] = {0, 1, 0, 1, 1.0 / 3.0, 2.0 / 3.0, 0, 1};
    int64_t one_each[2] = {1, 1};
    CHECK(med_verify_shares(&milp, one_each, shares));
    shares[4] = 1.0 / 3.0 + 1e-8;
    shares[5] = 2.0 / 3.0 - 1e-8;
    CHECK(!med_verify_shares(&milp, one_each, shares));
    shares[4] = 1.0 / 3.0 + 1e-11;
    shares[5] = 2.0 / 3.0 - 1e-11;
    CHECK(med_verify_shares(&milp, one_each, shares));
    shares[4] = (double)NAN;
    CHECK(!med_verify_shares(&milp, one_each, shares));
    int64_t no_small[2] = {0, 2};
    double on_none[8] = {0, 1, 0, 1, 0.5, 0.5, 0, 1};
    CHECK(!med_verify_shares(&milp, no_small, on_none));
    med_milp_release(&milp);
}

static void test_prices_when_they_do_not_prove_then_refused(void)
{
    struct med_milp milp;
    example(&milp);
    int64_t one_each[2] = {1, 1};
    int64_t small_only[2] = {3, 0};
    static const double prices[][2] = {{1, 1}, {0.2, 1}, {1, 0}, {0, 0}};
    for (size_t n = 0; n < 4; n++)
        CHECK(!med_verify_prices(&milp, one_each, prices[n]));
    CHECK(med_verify_prices(&milp, small_only, prices[0]));
    CHECK(!med_verify_prices(&milp, small_only, prices[3]));
    double bad[2] = {-1.0, (double)NAN};
    CHECK(!med_verify_prices(&milp, small_only, bad));
    med_milp_release(&milp);
}

/* Exactly one of the two certificates exists, and the exact method finds it. */
static void test_decide_when_random_then_certificate_holds(void)
{
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 4);
    int yes = 0;
    for (int n = 0; n < 60; n++) {
        struct med_milp milp;
        struct med_err err = {0};
        double shares[60] = {0.0};
        double prices[5];
        int64_t workers[5];
        bool feasible = false;
        REQUIRE(med_milp_init(&milp, 5, 5, 12) == 0);
        for (size_t t = 0; t < 5; t++)
            workers[t] = med_rng_below(&rng, 4);
        for (size_t c = 0; c < 60; c++) {
            if (med_rng_uniform(&rng) < 0.8)
                milp.loads[c] = exp(-12.0 * med_rng_uniform(&rng)) * 4.0;
        }
        REQUIRE(med_verify_decide(&milp, workers, shares, prices, &feasible, &err) == 0);
        if (feasible) {
            CHECK(med_verify_shares(&milp, workers, shares));
        } else {
            CHECK(med_verify_prices(&milp, workers, prices));
        }
        yes += feasible ? 1 : 0;
        med_milp_release(&milp);
    }
    CHECK(yes > 5);
    CHECK(yes < 55);
}

static void test_slices_when_not_whole_then_refused(void)
{
    struct med_milp milp;
    example(&milp);
    milp.slices = 3;
    int64_t workers[2] = {1, 1};
    int64_t slices[8] = {0, 3, 0, 3, 1, 2, 0, 3};
    CHECK(med_verify_slices(&milp, workers, slices));
    slices[0] = 1;
    CHECK(!med_verify_slices(&milp, workers, slices)); /* four thirds */
    slices[1] = 2;
    CHECK(!med_verify_slices(&milp, workers, slices)); /* too much for the small one */
    med_milp_release(&milp);
}

/* ---- inputs and failures ---- */

static void test_check_when_numbers_are_wrong_then_sentence(void)
{
    static const struct {
        double price, load, utilization;
        const char *sentence;
    } cases[] = {{0.0, 1.0, 1.0, "costs 0 $/h"},
                 {-1.0, 1.0, 1.0, "costs -1 $/h"},
                 {NAN, 1.0, 1.0, "$/h"},
                 {1.0, 0.0, 1.0, "expected more than 0"},
                 {1.0, NAN, 1.0, "expected more than 0"},
                 {1.0, 1e7, 1.0, "needs 1e+07 workers"},
                 {1.0, 1.0, 0.0, "utilization limit"},
                 {1.0, 1.0, NAN, "utilization limit"}};
    for (size_t n = 0; n < sizeof cases / sizeof cases[0]; n++) {
        struct med_milp milp;
        struct med_solve_result result;
        struct med_err err = {0};
        REQUIRE(med_milp_init(&milp, 1, 1, 1) == 0);
        med_milp_fit(&milp, 0, 0);
        milp.price_usd_per_hour[0] = cases[n].price;
        milp.loads[0] = cases[n].load;
        milp.utilization_max = cases[n].utilization;
        CHECK_INT(med_solve(&milp, 1.0, &result, &err), MED_E_INVALID);
        CHECK_CONTAINS(err.text, cases[n].sentence);
        med_milp_release(&milp);
    }
}

static void test_check_when_gpu_counts_form_no_chain_then_sentence(void)
{
    struct med_milp milp;
    struct med_err err = {0};
    REQUIRE(med_milp_init(&milp, 1, 2, 1) == 0);
    milp.price_usd_per_hour[0] = 1.0;
    milp.loads[0] = milp.loads[1] = 1.0;
    milp.gpus[0] = 8;
    milp.gpus_per_worker[0] = 2;
    milp.gpus_per_worker[1] = 3;
    med_milp_fit(&milp, 0, 0);
    med_milp_fit(&milp, 0, 1);
    CHECK_INT(med_milp_check(&milp, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "workers of 2 and of 3 GPUs");
    med_milp_release(&milp);
}

static void test_glpk_when_it_fails_inside_then_error_and_usable(void)
{
    struct med_milp milp;
    for (int n = 0; n < 3; n++) {
        struct med_err err = {0};
        CHECK_INT(med_glpk_provoke_error(&err), MED_E_SOLVER);
        CHECK_CONTAINS(err.text, "GLPK failed");
        example(&milp);
        CHECK_DOUBLE(solve_cost(&milp, MED_SOLVE_OPTIMAL), 4.68, 1e-12);
        med_milp_release(&milp);
    }
}

/* Every allocation fails once; the answer is an error or the right one, and nothing leaks. */
static void test_solve_when_memory_fails_then_error(void)
{
    int failed = 0;
    for (uint64_t nth = 1;; nth++) {
        struct med_milp milp;
        struct med_solve_result result;
        struct med_err err = {0};
        example(&milp);
        int64_t before = med_alloc_bytes_live();
        (void)med_alloc_fail_nth(nth);
        int rc = med_solve(&milp, 60.0, &result, &err);
        uint64_t made = med_alloc_fail_nth(0);
        if (rc == 0) {
            med_solve_result_release(&result);
        } else {
            CHECK(err.text[0] != '\0');
        }
        CHECK_INT(med_alloc_bytes_live(), before);
        failed += rc < 0 ? 1 : 0;
        med_milp_release(&milp);
        if (made < nth)
            break;
    }
    CHECK(failed > 10);
}

/* A hard instance and no time: a verified mix and a bound that is no lie, or nothing said. */
static void test_time_when_short_then_verified_mix_and_true_bound(void)
{
    struct med_rng rng;
    struct med_milp milp;
    struct med_err err = {0};
    med_rng_init(&rng, check_seed(), 5);
    REQUIRE(med_milp_init(&milp, 8, 8, 200) == 0);
    for (size_t t = 0; t < 8; t++) {
        milp.price_usd_per_hour[t] = 1.0 + (double)t + 0.2 * med_rng_uniform(&rng);
        med_milp_fit(&milp, t, t);
        for (size_t i = 0; i < 200; i++)
            milp.loads[i * 8 + t] = (0.05 + 0.2 * med_rng_uniform(&rng)) / (1.0 + (double)t);
    }
    struct med_solve_result quick;
    struct med_solve_result full;
    REQUIRE(med_solve(&milp, 0.001, &quick, &err) == 0);
    REQUIRE(med_solve(&milp, 60.0, &full, &err) == 0);
    CHECK_INT(full.status, MED_SOLVE_OPTIMAL);
    CHECK(quick.status != MED_SOLVE_INFEASIBLE);
    CHECK(med_verify_shares(&milp, quick.mix.workers, quick.mix.shares));
    CHECK(quick.mix.cost_usd_per_hour >= full.mix.cost_usd_per_hour);
    CHECK(quick.lower_bound_usd_per_hour <= full.mix.cost_usd_per_hour);
    CHECK(quick.lower_bound_usd_per_hour > 0.5 * full.mix.cost_usd_per_hour);
    med_solve_result_release(&quick);
    med_solve_result_release(&full);
    med_milp_release(&milp);
}

static void test_dominated_kind_when_pruned_then_cheapest_is_used(void)
{
    struct med_milp milp;
    struct med_solve_result result;
    struct med_err err = {0};
    REQUIRE(med_milp_init(&milp, 3, 1, 1) == 0);
    milp.loads[0] = 2.5;
    for (size_t k = 0; k < 3; k++) {
        milp.price_usd_per_hour[k] = 3.0 - (double)k;
        med_milp_fit(&milp, k, 0);
    }
    milp.count_max[2] = 1; /* the cheapest has a cap */
    REQUIRE(med_solve(&milp, 10.0, &result, &err) == 0);
    CHECK_INT(result.mix.counts[0], 0);
    CHECK_INT(result.mix.counts[1], 2);
    CHECK_INT(result.mix.counts[2], 1);
    med_solve_result_release(&result);
    med_milp_release(&milp);
}

int main(void)
{
    RUN(test_example_when_continuous_or_sliced_then_known_costs);
    RUN(test_example_when_capped_then_dearer_or_infeasible);
    RUN(test_one_type_when_load_passes_the_tolerance_then_one_more);
    RUN(test_tail_when_tiny_then_not_lost);
    RUN(test_bucket_when_nobody_serves_then_infeasible);
    RUN(test_many_gpus_when_random_then_as_enumeration);
    RUN(test_shares_when_just_over_then_refused);
    RUN(test_prices_when_they_do_not_prove_then_refused);
    RUN(test_decide_when_random_then_certificate_holds);
    RUN(test_slices_when_not_whole_then_refused);
    RUN(test_check_when_numbers_are_wrong_then_sentence);
    RUN(test_check_when_gpu_counts_form_no_chain_then_sentence);
    RUN(test_glpk_when_it_fails_inside_then_error_and_usable);
    RUN(test_solve_when_memory_fails_then_error);
    RUN(test_time_when_short_then_verified_mix_and_true_bound);
    RUN(test_dominated_kind_when_pruned_then_cheapest_is_used);
    return check_finish();
}
