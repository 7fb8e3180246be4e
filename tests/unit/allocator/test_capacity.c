/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker's latencies and capacity, against the real scheduler on a virtual clock under Poisson
 * arrivals of other chance, and against the objectives that were asked for.
 */
#include "allocator/capacity.h"

#include "tests/check.h"
#include "tests/unit/allocator/one_worker.h"

static const struct med_latency a10g_like = {.fixed_ms = 3.1,
                                             .sequence_ms = 0.4,
                                             .weights_ms = 27.0,
                                             .linear_ms_per_token = 0.25,
                                             .kv_ms_per_token = 0.00107,
                                             .pair_ms = 1.5e-5,
                                             .model_len_max = 14880,
                                             .sequences_max = 256,
                                             .batched_tokens_max = 2048,
                                             .block_tokens = 16,
                                             .kv_tokens = 14880};

static const struct med_latency a100_like = {.fixed_ms = 3.1,
                                             .sequence_ms = 0.3,
                                             .weights_ms = 8.6,
                                             .linear_ms_per_token = 0.077,
                                             .kv_ms_per_token = 0.00033,
                                             .pair_ms = 4.7e-6,
                                             .model_len_max = 18432,
                                             .sequences_max = 256,
                                             .batched_tokens_max = 2048,
                                             .block_tokens = 16,
                                             .kv_tokens = 120896};

/* ---- against the scheduler ---- */

struct agreement {
    const struct med_latency *latency;
    int64_t input, output;
    double tpot_error, ttft_error; /* relative; chance is what is left */
};

/* Loads from near idle to 80 % of the greatest rate: where a plan works. */
static void check_agreement(const struct agreement *a)
{
    static const double loads[] = {0.1, 0.5, 0.8};
    struct med_request_size size = {.input_tokens = (double)a->input,
                                    .output_tokens = (double)a->output};
    struct med_slos none = {.count = 0};
    struct med_capacity capacity;
    REQUIRE(med_capacity_of_model(a->latency, &size, &none, &capacity) == 0);
    REQUIRE(capacity.requests_per_s > 0.0);
    for (size_t n = 0; n < sizeof loads / sizeof loads[0]; n++) {
        struct med_load_point point;
        double rate = loads[n] * capacity.requests_per_s / 0.95;
        REQUIRE(med_capacity_at_rate(a->latency, &size, rate, &point) == 0);
        struct one_worker run = {.latency = a->latency,
                                 .input = a->input,
                                 .output = a->output,
                                 .rate_per_s = rate,
                                 .warm_up = 300,
                                 .measured = 2700,
                                 .seed = 11 + n};
        struct one_worker_means seen = one_worker_run(&run);
        CHECK_DOUBLE(point.ttft_ms / seen.ttft_ms, 1.0, a->ttft_error);
        if (a->output > 1)
            CHECK_DOUBLE(point.tpot_ms / seen.tpot_ms, 1.0, a->tpot_error);
    }
}

static void test_latencies_when_scheduler_runs_then_agree(void)
{
    static const struct agreement cases[] = {
        {&a10g_like, 20, 20, 0.03, 0.04},     {&a10g_like, 60, 200, 0.03, 0.06},
        {&a10g_like, 200, 100, 0.03, 0.12},   {&a10g_like, 300, 1, 0.0, 0.08},
        {&a10g_like, 400, 15, 0.15, 0.15},    {&a10g_like, 6000, 400, 0.05, 0.25},
        {&a10g_like, 10000, 100, 0.02, 0.10}, {&a100_like, 60, 200, 0.03, 0.04},
        {&a100_like, 200, 100, 0.03, 0.04},   {&a100_like, 400, 15, 0.10, 0.05},
        {&a100_like, 700, 400, 0.03, 0.04},   {&a100_like, 1500, 20, 0.13, 0.06},
        {&a100_like, 1500, 200, 0.08, 0.05},  {&a100_like, 3000, 200, 0.12, 0.25},
        {&a100_like, 1500, 1400, 0.03, 0.20}};
    for (size_t n = 0; n < sizeof cases / sizeof cases[0]; n++)
        check_agreement(&cases[n]);
}

/* ---- objectives ---- */

static struct med_capacity capacity_under(const struct med_latency *latency, double input,
                                          double output, enum med_slo_metric metric,
                                          double limit_ms)
{
    struct med_slos slos = {.items = {{.metric = metric, .limit_ms = limit_ms}}, .count = 1};
    struct med_request_size size = {.input_tokens = input, .output_tokens = output};
    struct med_capacity capacity;
    REQUIRE(med_capacity_of_model(latency, &size, &slos, &capacity) == 0);
    return capacity;
}

static double metric_at(const struct med_latency *latency, double input, double output,
                        double rate_per_s, enum med_slo_metric metric)
{
    struct med_request_size size = {.input_tokens = input, .output_tokens = output};
    struct med_load_point point;
    REQUIRE(med_capacity_at_rate(latency, &size, rate_per_s, &point) == 0);
    return metric == MED_SLO_TTFT   ? point.ttft_ms
           : metric == MED_SLO_TPOT ? point.tpot_ms
                                    : point.e2e_per_token_ms;
}

static void test_capacity_when_limited_then_limit_is_met_and_tight(void)
{
    static const struct {
        enum med_slo_metric metric;
        double limit_ms;
    } cases[] = {{MED_SLO_TPOT, 20.0}, {MED_SLO_TTFT, 150.0}, {MED_SLO_E2E_PER_TOKEN, 25.0}};
    for (size_t n = 0; n < sizeof cases / sizeof cases[0]; n++) {
        struct med_capacity c =
            capacity_under(&a100_like, 1000, 200, cases[n].metric, cases[n].limit_ms);
        CHECK_INT(c.stop, MED_STOP_NONE);
        CHECK(metric_at(&a100_like, 1000, 200, c.requests_per_s, cases[n].metric) <=
              cases[n].limit_ms);
        CHECK(metric_at(&a100_like, 1000, 200, c.requests_per_s * 1.01, cases[n].metric) >
              cases[n].limit_ms);
    }
}

static void test_capacity_when_limit_grows_then_not_smaller(void)
{
    double before = 0.0;
    for (int n = 0; n < 11; n++) {
        double limit_ms = 14.0 * pow(1.3, n);
        struct med_capacity c = capacity_under(&a100_like, 500, 150, MED_SLO_TPOT, limit_ms);
        CHECK(c.requests_per_s >= before);
        before = c.requests_per_s;
    }
    CHECK(before > 0.0);
}

static void test_capacity_when_sizes_grow_then_smaller(void)
{
    double before = INFINITY;
    for (int n = 0; n < 9; n++) {
        double input = 50.0 * pow(2.0, n);
        struct med_capacity c = capacity_under(&a100_like, input, 200, MED_SLO_TPOT, 60.0);
        CHECK(c.requests_per_s > 0.0);
        CHECK(c.requests_per_s < before);
        before = c.requests_per_s;
    }
}

static void test_capacity_when_idle_is_too_slow_then_says_what_is_needed(void)
{
    struct med_capacity c = capacity_under(&a10g_like, 1000, 200, MED_SLO_TPOT, 20.0);
    CHECK_DOUBLE(c.requests_per_s, 0.0, 0.0);
    CHECK_INT(c.stop, MED_STOP_SLO);
    CHECK_INT(c.metric, MED_SLO_TPOT);
    /* One decode alone: fixed, sequence, weights and 1099 tokens of context. */
    CHECK_DOUBLE(c.needed_ms, 3.1 + 0.4 + 27.0 + 0.00107 * 1099, 0.3);
    c = capacity_under(&a10g_like, 1000, 200, MED_SLO_TPOT, c.needed_ms + 0.5);
    CHECK(c.requests_per_s > 0.0);
}

static void test_capacity_when_size_does_not_fit_then_says_so(void)
{
    struct med_latency small = a100_like;
    struct med_capacity c = capacity_under(&small, 18000, 1000, MED_SLO_TPOT, 100.0);
    CHECK_INT(c.stop, MED_STOP_MODEL_LEN);
    CHECK_INT(c.tokens, 19000);
    CHECK_INT(c.limit_tokens, 18432);
    small.kv_tokens = 4096;
    c = capacity_under(&small, 4000, 200, MED_SLO_TPOT, 100.0);
    CHECK_INT(c.stop, MED_STOP_KV);
    CHECK_INT(c.limit_tokens, 4096);
    c = capacity_under(&small, 3000, 200, MED_SLO_TPOT, 100.0);
    CHECK(c.requests_per_s > 0.0);
}

static void test_rate_when_beyond_the_greatest_then_overload(void)
{
    struct med_request_size size = {.input_tokens = 500, .output_tokens = 100};
    struct med_slos none = {.count = 0};
    struct med_capacity c;
    struct med_load_point point;
    REQUIRE(med_capacity_of_model(&a10g_like, &size, &none, &c) == 0);
    CHECK_INT(med_capacity_at_rate(&a10g_like, &size, c.requests_per_s / 0.94, &point),
              MED_E_OVERLOAD);
    CHECK_INT(med_capacity_at_rate(&a10g_like, &size, 0.0, &point), MED_E_OVERLOAD);
    CHECK_INT(med_capacity_at_rate(&a10g_like, &size, (double)NAN, &point), MED_E_OVERLOAD);
    size.input_tokens = 20000;
    CHECK_INT(med_capacity_at_rate(&a10g_like, &size, 1.0, &point), MED_E_LIMIT);
}

/* ---- serving points ---- */

static void test_points_when_some_fail_then_largest_good_one(void)
{
    double inputs[] = {100, 250};
    double outputs[] = {50, 100};
    struct med_grid grid = {.input_edges = inputs,
                            .input_edge_count = 2,
                            .output_edges = outputs,
                            .output_edge_count = 2};
    struct med_source source = {.kind = MED_SOURCE_PUBLISHED};
    struct med_serving_row rows[] = {{.input_tokens = 146,
                                      .output_tokens = 50,
                                      .throughput_per_s = 2.0,
                                      .tpot_ms = {.mean = 30, .p90 = (double)NAN},
                                      .ttft_ms = {.mean = (double)NAN, .p90 = (double)NAN}},
                                     {.input_tokens = 146,
                                      .output_tokens = 50,
                                      .throughput_per_s = 4.0,
                                      .tpot_ms = {.mean = 70, .p90 = (double)NAN},
                                      .ttft_ms = {.mean = (double)NAN, .p90 = (double)NAN}},
                                     {.input_tokens = 146,
                                      .output_tokens = 50,
                                      .throughput_per_s = 6.0,
                                      .failures = 0.01,
                                      .tpot_ms = {.mean = 40, .p90 = (double)NAN},
                                      .ttft_ms = {.mean = (double)NAN, .p90 = (double)NAN}}};
    struct med_profile profile = {
        .sources = &source, .source_count = 1, .serving = rows, .serving_count = 3};
    struct med_slos slos = {.items = {{.metric = MED_SLO_TPOT, .limit_ms = 60.0}}, .count = 1};
    struct med_capacity c;
    med_capacity_of_points(&profile, &grid, 1, 0, &slos, &c);
    CHECK_DOUBLE(c.requests_per_s, 2.0, 0.0);
    med_capacity_of_points(&profile, &grid, 0, 0, &slos, &c);
    CHECK_INT(c.stop, MED_STOP_UNCOVERED);
    slos.items[0].limit_ms = 80.0;
    med_capacity_of_points(&profile, &grid, 1, 0, &slos, &c);
    CHECK_DOUBLE(c.requests_per_s, 4.0, 0.0);
    slos.items[1] = (struct med_slo){.metric = MED_SLO_TTFT, .limit_ms = 1e6};
    slos.count = 2; /* nobody told the TTFT */
    med_capacity_of_points(&profile, &grid, 1, 0, &slos, &c);
    CHECK_INT(c.stop, MED_STOP_UNCOVERED);
    /* A closed loop counts only where nothing else was measured. */
    slos.count = 1;
    for (size_t i = 0; i < 3; i++)
        rows[i].rate_per_s = (double)NAN;
    med_capacity_of_points(&profile, &grid, 1, 0, &slos, &c);
    CHECK_DOUBLE(c.requests_per_s, 4.0, 0.0);
    rows[0].rate_per_s = rows[0].throughput_per_s;
    rows[0].saturated = true;
    med_capacity_of_points(&profile, &grid, 1, 0, &slos, &c);
    CHECK_INT(c.stop, MED_STOP_UNCOVERED);
}

int main(void)
{
    RUN(test_latencies_when_scheduler_runs_then_agree);
    RUN(test_capacity_when_limited_then_limit_is_met_and_tight);
    RUN(test_capacity_when_limit_grows_then_not_smaller);
    RUN(test_capacity_when_sizes_grow_then_smaller);
    RUN(test_capacity_when_idle_is_too_slow_then_says_what_is_needed);
    RUN(test_capacity_when_size_does_not_fit_then_says_so);
    RUN(test_rate_when_beyond_the_greatest_then_overload);
    RUN(test_points_when_some_fail_then_largest_good_one);
    return check_finish();
}
