/* SPDX-License-Identifier: Apache-2.0 */
/* Schedules: means, rates, shapes, determinism, and what is refused. */
#include "allocator/replay/arrivals.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "tests/check.h"

static double input_edges[] = {100, 1000, 4000};
static double output_edges[] = {50, 500};
static struct med_bucket buckets[] = {
    {.input_row = 0, .output_row = 0, .share = 0.5, .input_mean = 12.5, .output_mean = 49},
    {.input_row = 1, .output_row = 1, .share = 0.3, .input_mean = 700, .output_mean = 60},
    {.input_row = 2, .output_row = 1, .share = 0.2, .input_mean = 3999, .output_mean = 499.5},
};
static double rates[] = {1, 3, 0, 4};

static struct med_workload make_workload(void)
{
    return (struct med_workload){
        .rate_per_s = 10,
        .interval_s = 10,
        .rates_per_s = rates,
        .rate_count = 4,
        .grid = {input_edges, 3, output_edges, 2},
        .buckets = buckets,
        .bucket_count = 3,
    };
}

static struct med_arrivals make(const struct med_arrivals_config *config)
{
    struct med_arrivals arrivals = {0};
    struct med_err err = {0};
    int rc = med_arrivals_make(config, &arrivals, &err);
    if (rc < 0)
        (void)fprintf(stderr, "%s\n", err.text);
    REQUIRE(rc == 0);
    return arrivals;
}

static void test_size_when_drawn_often_then_mean_holds_and_stays_inside(void)
{
    static const double cases[][3] = {
        {0, 25, 1},           {0, 25, 13},   {0, 25, 24.25},          {1000, 2000, 1001.5},
        {1000, 2000, 1999.9}, {25, 100, 62}, {12000, 16000, 13100.7}, {3, 4, 4},
    };
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 1);
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        double low = cases[c][0], high = cases[c][1], mean = cases[c][2], sum = 0;
        bool inside = true;
        int n = 200000;
        for (int i = 0; i < n; i++) {
            int64_t size = med_arrivals_draw_size(&rng, low, high, mean);
            inside = inside && (double)size > low && (double)size <= high;
            sum += (double)size;
        }
        CHECK(inside);
        /* Six deviations of the mean of n draws; a draw deviates by at most half the width. */
        CHECK_DOUBLE(sum / n, mean, 6 * (high - low) / 2 / sqrt(n) + 1e-9);
    }
}

static void test_size_when_mean_lies_outside_then_nearest_size_of_bucket(void)
{
    struct med_rng rng;
    med_rng_init(&rng, 1, 1);
    for (int i = 0; i < 100; i++) {
        CHECK_INT(med_arrivals_draw_size(&rng, 100, 200, 100.2), 101);
        CHECK_INT(med_arrivals_draw_size(&rng, 100, 200, 250), 200);
    }
}

static void test_sizes_when_from_buckets_then_shares_and_means_hold(void)
{
    struct med_workload w = make_workload();
    struct med_arrivals_config config = {.process = MED_ARRIVALS_POISSON,
                                         .rate_per_s = 10,
                                         .requests = 100000,
                                         .seed = check_seed(),
                                         .output_tokens_max = 100,
                                         .workload = &w};
    struct med_arrivals a = make(&config);
    double counts[3] = {0}, inputs[3] = {0}, outputs[3] = {0};
    for (size_t i = 0; i < a.count; i++) {
        int row = med_grid_row(input_edges, 3, (double)a.items[i].input_tokens);
        REQUIRE(row >= 0);
        counts[row]++;
        inputs[row] += (double)a.items[i].input_tokens;
        outputs[row] += (double)a.items[i].output_tokens;
        int64_t asked = a.items[i].output_tokens_max, output = a.items[i].output_tokens;
        CHECK_INT(asked, output > 100 ? output : 100);
    }
    for (int b = 0; b < 3; b++) {
        CHECK_DOUBLE(counts[b] / (double)a.count, buckets[b].share, 0.01);
        CHECK_DOUBLE(inputs[b] / counts[b], buckets[b].input_mean,
                     0.02 * buckets[b].input_mean + 0.5);
        CHECK_DOUBLE(outputs[b] / counts[b], buckets[b].output_mean,
                     0.02 * buckets[b].output_mean + 0.5);
    }
    med_arrivals_release(&a);
}

/* Mean rate, and CV^2 of the gaps. */
static void measure(const struct med_arrivals *a, double *ret_rate, double *ret_cv2)
{
    double sum = 0, squares = 0;
    size_t n = a->count - 1;
    for (size_t i = 0; i < n; i++) {
        double gap = (double)(a->items[i + 1].at_ns - a->items[i].at_ns) / 1e9;
        sum += gap;
        squares += gap * gap;
    }
    double mean = sum / (double)n;
    *ret_rate = 1 / mean;
    *ret_cv2 = (squares / (double)n - mean * mean) / (mean * mean);
}

static void test_times_when_process_varies_then_rate_holds_and_gaps_vary_as_they_should(void)
{
    static const struct {
        enum med_arrivals_process process;
        double burstiness, cv2, tolerance;
    } cases[] = {
        {MED_ARRIVALS_CONSTANT, 1, 0, 1e-6}, {MED_ARRIVALS_POISSON, 1, 1, 0.05},
        {MED_ARRIVALS_GAMMA, 1, 1, 0.05},    {MED_ARRIVALS_GAMMA, 0.25, 4, 0.3},
        {MED_ARRIVALS_GAMMA, 4, 0.25, 0.02},
    };
    struct med_workload w = make_workload();
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        struct med_arrivals_config config = {.process = cases[c].process,
                                             .rate_per_s = 7.5,
                                             .burstiness = cases[c].burstiness,
                                             .requests = 100000,
                                             .seed = check_seed(),
                                             .workload = &w};
        struct med_arrivals a = make(&config);
        CHECK_INT(a.count, 100000);
        double rate, cv2;
        measure(&a, &rate, &cv2);
        CHECK_DOUBLE(rate, 7.5, 0.15);
        CHECK_DOUBLE(cv2, cases[c].cv2, cases[c].tolerance);
        med_arrivals_release(&a);
    }
}

static void test_times_when_following_rate_over_time_then_intervals_get_their_share(void)
{
    struct med_workload w = make_workload();
    struct med_arrivals_config config = {.process = MED_ARRIVALS_CONSTANT,
                                         .rate_per_s = 50,
                                         .duration_ns = 80 * MED_NS_PER_S,
                                         .seed = 1,
                                         .follow_rate_over_time = true,
                                         .workload = &w};
    struct med_arrivals a = make(&config);
    double counts[8] = {0};
    for (size_t i = 0; i < a.count; i++)
        counts[a.items[i].at_ns / (10 * MED_NS_PER_S)]++;
    /* Mean of {1, 3, 0, 4} is 2: a factor of 25 to reach 50/s; ten seconds each. */
    for (int i = 0; i < 8; i++)
        CHECK_DOUBLE(counts[i], 25 * 10 * rates[i % 4], 1.5);
    med_arrivals_release(&a);
}

static void test_schedule_when_same_seed_then_same_and_sizes_survive_another_process(void)
{
    struct med_workload w = make_workload();
    struct med_arrivals_config config = {.process = MED_ARRIVALS_POISSON,
                                         .rate_per_s = 5,
                                         .requests = 1000,
                                         .seed = 77,
                                         .workload = &w};
    struct med_arrivals a = make(&config), b = make(&config);
    REQUIRE(a.count == b.count);
    CHECK_INT(memcmp(a.items, b.items, a.count * sizeof(*a.items)), 0);
    config.process = MED_ARRIVALS_CONSTANT;
    config.rate_per_s = 50;
    struct med_arrivals c = make(&config);
    bool same = true, falling = false;
    for (size_t i = 0; i < 1000; i++) {
        same = same && c.items[i].input_tokens == a.items[i].input_tokens &&
               c.items[i].output_tokens == a.items[i].output_tokens;
        falling = falling || (i > 0 && a.items[i].at_ns < a.items[i - 1].at_ns);
    }
    CHECK(same);
    CHECK(!falling);
    config.seed = 78;
    struct med_arrivals d = make(&config);
    CHECK(memcmp(c.items, d.items, 1000 * sizeof(*c.items)) != 0);
    med_arrivals_release(&a);
    med_arrivals_release(&b);
    med_arrivals_release(&c);
    med_arrivals_release(&d);
}

static void test_schedule_when_duration_given_then_ends_before_it(void)
{
    struct med_workload w = make_workload();
    struct med_arrivals_config config = {.process = MED_ARRIVALS_CONSTANT,
                                         .rate_per_s = 10,
                                         .duration_ns = 2 * MED_NS_PER_S,
                                         .workload = &w};
    struct med_arrivals a = make(&config);
    CHECK_INT(a.count, 20);
    CHECK_INT(a.items[0].at_ns, 0);
    CHECK_INT(a.items[19].at_ns, 1900 * MED_NS_PER_MS);
    med_arrivals_release(&a);
    config.requests = 5;
    a = make(&config);
    CHECK_INT(a.count, 5);
    med_arrivals_release(&a);
}

static struct med_request_row rows[] = {{0, 10, 1}, {0.5, 20, 2}, {1.5, 30, 3}};

static void test_trace_when_longer_than_log_then_repeats_after_one_mean_gap(void)
{
    struct med_request_log log = {rows, 3};
    struct med_arrivals_config config = {.process = MED_ARRIVALS_TRACE, .requests = 5, .log = &log};
    struct med_arrivals a = make(&config);
    static const double want_s[] = {0, 0.5, 1.5, 2.25, 2.75};
    for (int i = 0; i < 5; i++) {
        CHECK_DOUBLE((double)a.items[i].at_ns / 1e9, want_s[i], 1e-9);
        CHECK_INT(a.items[i].input_tokens, rows[i % 3].input_tokens);
        CHECK_INT(a.items[i].output_tokens, rows[i % 3].output_tokens);
    }
    med_arrivals_release(&a);
    /* The log's own rate is 3 requests in 2.25 s; twice as fast halves the times. */
    config.rate_per_s = 2 * 3 / 2.25;
    a = make(&config);
    CHECK_DOUBLE((double)a.items[4].at_ns / 1e9, 2.75 / 2, 1e-9);
    med_arrivals_release(&a);
}

static void test_config_when_wrong_then_refused_with_a_sentence(void)
{
    struct med_workload w = make_workload();
    struct med_request_log empty = {NULL, 0};
    const struct {
        struct med_arrivals_config config;
        const char *says;
    } cases[] = {
        {{.process = MED_ARRIVALS_POISSON, .rate_per_s = 1, .workload = &w}, "nothing bounds"},
        {{.process = MED_ARRIVALS_POISSON, .requests = 1, .workload = &w}, "rate of 0"},
        {{.process = MED_ARRIVALS_POISSON, .rate_per_s = NAN, .requests = 1, .workload = &w},
         "a rate of"},
        {{.process = MED_ARRIVALS_POISSON, .rate_per_s = 1, .requests = 1}, "no request sizes"},
        {{.process = MED_ARRIVALS_GAMMA, .rate_per_s = 1, .requests = 1, .workload = &w},
         "burstiness of 0"},
        {{.process = MED_ARRIVALS_TRACE, .requests = 1, .workload = &w}, "a request log"},
        {{.process = MED_ARRIVALS_TRACE, .requests = 1, .log = &empty}, "holds no request"},
        {{.process = MED_ARRIVALS_ALL_AT_ONCE, .duration_ns = 5, .workload = &w}, "their number"},
        {{.process = MED_ARRIVALS_CONSTANT,
          .rate_per_s = 1,
          .requests = INT64_C(1) << 40,
          .workload = &w},
         "expected 1 to"},
        {{.process = MED_ARRIVALS_CONSTANT,
          .rate_per_s = 1e6,
          .duration_ns = 1000 * MED_NS_PER_S,
          .workload = &w},
         "more than"},
    };
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        struct med_arrivals arrivals = {0};
        struct med_err err = {0};
        CHECK_INT(med_arrivals_make(&cases[c].config, &arrivals, &err), MED_E_INVALID);
        CHECK_CONTAINS(err.text, cases[c].says);
        CHECK(arrivals.items == NULL);
    }
}

static void test_process_when_named_then_read_back(void)
{
    for (int i = MED_ARRIVALS_ALL_AT_ONCE; i <= MED_ARRIVALS_TRACE; i++) {
        CHECK_INT(
            med_arrivals_process_parse(med_arrivals_process_name((enum med_arrivals_process)i)), i);
    }
    CHECK_INT(med_arrivals_process_parse("pareto"), -1);
}

static void test_schedule_when_an_allocation_fails_then_no_memory_and_no_leak(void)
{
    struct med_workload w = make_workload();
    struct med_arrivals_config config = {
        .process = MED_ARRIVALS_CONSTANT, .rate_per_s = 5, .requests = 5000, .workload = &w};
    int64_t before = med_alloc_bytes_live();
    int failures = 0, rc = -1;
    for (uint64_t n = 1; rc < 0; n++) {
        struct med_arrivals arrivals = {0};
        struct med_err err = {0};
        (void)med_alloc_fail_nth(n);
        rc = med_arrivals_make(&config, &arrivals, &err);
        (void)med_alloc_fail_nth(0);
        if (rc < 0) {
            CHECK_INT(rc, MED_E_NOMEM);
            failures++;
        }
        med_arrivals_release(&arrivals);
        CHECK_INT(med_alloc_bytes_live(), before);
    }
    CHECK(failures >= 2);
}

int main(void)
{
    RUN(test_schedule_when_an_allocation_fails_then_no_memory_and_no_leak);
    RUN(test_size_when_drawn_often_then_mean_holds_and_stays_inside);
    RUN(test_size_when_mean_lies_outside_then_nearest_size_of_bucket);
    RUN(test_sizes_when_from_buckets_then_shares_and_means_hold);
    RUN(test_times_when_process_varies_then_rate_holds_and_gaps_vary_as_they_should);
    RUN(test_times_when_following_rate_over_time_then_intervals_get_their_share);
    RUN(test_schedule_when_same_seed_then_same_and_sizes_survive_another_process);
    RUN(test_schedule_when_duration_given_then_ends_before_it);
    RUN(test_trace_when_longer_than_log_then_repeats_after_one_mean_gap);
    RUN(test_config_when_wrong_then_refused_with_a_sentence);
    RUN(test_process_when_named_then_read_back);
    return check_finish();
}
