/* SPDX-License-Identifier: Apache-2.0 */
/* Histograms and samples; the quantiles against values computed with numpy 2.4.6.  thread: main. */
#include "base/alloc.h"
#include "base/hist.h"
#include "base/rng.h"
#include "tests/check.h"

static void test_bounds_are_sorted_and_merged(void)
{
    static const double bounds[] = {1, 2, 5};
    static const double extra[] = {3, 2, 0.5, 3};
    struct med_hist hist;
    med_hist_init(&hist, bounds, 3, extra, 4);
    static const double merged[] = {0.5, 1, 2, 3, 5};
    REQUIRE(hist.bound_count == 5);
    for (size_t i = 0; i < 5; i++)
        CHECK_DOUBLE(hist.bounds[i], merged[i], 0);
}

static void test_values_on_a_bound_belong_to_it(void)
{
    static const double bounds[] = {1, 2, 5};
    static const double values[] = {-1, 0.5, 1, 1.0000001, 2, 5, 5.1, 1e300};
    static const uint64_t want[] = {3, 2, 1, 2};
    struct med_hist hist;
    med_hist_init(&hist, bounds, 3, NULL, 0);
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        med_hist_add(&hist, values[i]);
    for (size_t i = 0; i < 4; i++)
        CHECK_UINT(hist.counts[i], want[i]);
    CHECK_UINT(hist.count, 8);
    med_hist_add_many(&hist, 2, 10);
    CHECK_UINT(hist.counts[1], 12);
    CHECK_UINT(hist.count, 18);
}

static void test_sum_counts_repeats(void)
{
    struct med_hist hist;
    med_hist_init(&hist, MED_HIST_TPOT_S, MED_HIST_TPOT_S_COUNT, NULL, 0);
    med_hist_add_many(&hist, 0.25, 4);
    med_hist_add(&hist, 0.5);
    CHECK_DOUBLE(hist.sum, 1.5, 0);
    med_hist_init(&hist, NULL, 0, NULL, 0);
    med_hist_add(&hist, 3);
    CHECK_UINT(hist.counts[0], 1);
}

static void test_published_bounds_rise_and_leave_room_for_objectives(void)
{
    CHECK_UINT(MED_HIST_TTFT_S_COUNT, 21);
    CHECK_UINT(MED_HIST_TPOT_S_COUNT, 21);
    for (size_t i = 1; i < 21; i++) {
        CHECK(MED_HIST_TTFT_S[i - 1] < MED_HIST_TTFT_S[i]);
        CHECK(MED_HIST_TPOT_S[i - 1] < MED_HIST_TPOT_S[i]);
    }
    CHECK_DOUBLE(MED_HIST_TTFT_S[20], 640, 0);
    CHECK_DOUBLE(MED_HIST_TPOT_S[20], 2.5, 0);
}

static void sample_fill(struct med_sample *sample, const double *values, size_t count)
{
    med_sample_init(sample);
    for (size_t i = 0; i < count; i++)
        REQUIRE(med_sample_add(sample, values[i]) == 0);
}

static void test_sample_statistics(void)
{
    static const double values[] = {2, 4, 4, 4, 5, 5, 7, 9};
    struct med_sample sample;
    sample_fill(&sample, values, 8);
    CHECK_DOUBLE(med_sample_mean(&sample), 5, 0);
    CHECK_DOUBLE(med_sample_std(&sample), 2, 0);
    med_sample_release(&sample);
    CHECK_DOUBLE(med_sample_mean(&sample), NAN, 0);
    CHECK_DOUBLE(med_sample_std(&sample), NAN, 0);
    CHECK_DOUBLE(med_sample_quantile(&sample, 0.5), NAN, 0);
}

static void test_quantiles_as_numpy(void)
{
    /* np.quantile([0.1, 0.7, 0.3, 12.5, 4.4, 0.3, 9.81], q) */
    static const double values[] = {0.1, 0.7, 0.3, 12.5, 4.4, 0.3, 9.81};
    static const struct {
        double q;
        double want;
    } cases[] = {
        {0, 0.10000000000000001},
        {0.01, 0.112},
        {0.1, 0.22000000000000003},
        {0.25, 0.29999999999999999},
        {0.3333333333333333, 0.29999999999999999},
        {0.5, 0.69999999999999996},
        {0.6, 2.919999999999999},
        {0.9, 10.886000000000001},
        {0.95, 11.692999999999998},
        {0.99, 12.3386},
        {0.999, 12.48386},
        {1, 12.5},
        /* interpolation from the other end would miss the last digit of these */
        {0.002, 0.1024},
        {0.003, 0.10360000000000001},
        {0.006, 0.1072},
        {0.007, 0.10840000000000001},
        {0.01, 0.112},
        {0.011, 0.11320000000000001},
        {0.968, 11.98352},
        {0.985, 12.257900000000001},
        {0.989, 12.322460000000001},
    };
    struct med_sample sample;
    sample_fill(&sample, values, sizeof values / sizeof values[0]);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        CHECK_DOUBLE(med_sample_quantile(&sample, cases[i].q), cases[i].want, 0);
    CHECK_INT(med_sample_add(&sample, -1), 0); // unsorted again
    CHECK_DOUBLE(med_sample_quantile(&sample, 0), -1, 0);
    med_sample_release(&sample);
    sample_fill(&sample, values, 1);
    CHECK_DOUBLE(med_sample_quantile(&sample, 0.99), 0.1, 0);
    med_sample_release(&sample);
}

static void test_quantile_of_many_lies_in_order(void)
{
    struct med_sample sample;
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 0);
    med_sample_init(&sample);
    for (int i = 0; i < 10000; i++)
        REQUIRE(med_sample_add(&sample, med_rng_exponential(&rng, 3)) == 0);
    double before = med_sample_quantile(&sample, 0);
    for (int i = 1; i <= 100; i++) {
        double here = med_sample_quantile(&sample, i / 100.0);
        CHECK(here >= before);
        before = here;
    }
    CHECK_DOUBLE(before, sample.values[9999], 0);
    med_sample_release(&sample);
}

static void test_add_when_memory_is_exhausted_then_keeps_what_it_has(void)
{
    struct med_sample sample;
    med_sample_init(&sample);
    int64_t live = med_alloc_bytes_live();
    (void)med_alloc_fail_nth(1);
    CHECK_INT(med_sample_add(&sample, 1), MED_E_NOMEM);
    CHECK_INT(med_sample_add(&sample, 1), 0);
    while (sample.count < sample.capacity)
        REQUIRE(med_sample_add(&sample, 2) == 0);
    (void)med_alloc_fail_nth(1);
    size_t count = sample.count;
    CHECK_INT(med_sample_add(&sample, 3), MED_E_NOMEM);
    CHECK_UINT(sample.count, count);
    CHECK_DOUBLE(sample.sum, 1 + 2 * (double)(count - 1), 0);
    med_sample_release(&sample);
    CHECK_INT(med_alloc_bytes_live(), live);
}

int main(void)
{
    RUN(test_bounds_are_sorted_and_merged);
    RUN(test_values_on_a_bound_belong_to_it);
    RUN(test_sum_counts_repeats);
    RUN(test_published_bounds_rise_and_leave_room_for_objectives);
    RUN(test_sample_statistics);
    RUN(test_quantiles_as_numpy);
    RUN(test_quantile_of_many_lies_in_order);
    RUN(test_add_when_memory_is_exhausted_then_keeps_what_it_has);
    return check_finish();
}
