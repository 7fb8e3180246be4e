/* SPDX-License-Identifier: Apache-2.0 */
/* The report: the lines that people grep, the JSON keys, and numbers that are not known. */
#include "router/bench/report.h"

#include "base/json.h"
#include "router/bench/progress.h"
#include "tests/check.h"

static struct med_bench_type types[] = {
    {.name = "small", .observed = {2, 40, 110, 20, 500}, .predicted = {2, 40, 100, 25, 600}},
    {.name = "(not named)"}};

static struct med_bench_summary make_summary(void)
{
    return (struct med_bench_summary){
        .planned = 3,
        .sent = 3,
        .completed = 2,
        .failed = 1,
        .failed_before_token = 1,
        .by_status = {[0] = 2, [14] = 1},
        .duration_s = 12.5,
        .input_tokens = 200,
        .output_tokens = 40,
        .request_throughput = 0.16,
        .request_goodput = 0.08,
        .output_throughput = 3.2,
        .total_throughput = 19.2,
        .peak_output_throughput = 7,
        .peak_concurrency = 2,
        .ttft = {110, 109, 3, 111, 112},
        .tpot = {NAN, NAN, NAN, NAN, NAN},
        .itl = {20, 19, 1, 21, 22},
        .e2e = {500, 499, 9, 501, 502},
        .objectives = {{{MED_SLO_TTFT, 2000}, 110, true, 2 / 3.0}},
        .objective_count = 1,
        .has_goodput = true,
        .attainment = 2 / 3.0,
        .has_cost = true,
        .usd_per_hour = 4.68,
        .usd = 0.01625,
        .usd_per_million_output_tokens = 406.25,
        .has_prediction = true,
        .observed = {2, 40, 110, 20, 500},
        .predicted = {2, 40, 100, 25, 600},
        .types = types,
        .type_count = 2,
    };
}

static const struct med_bench_settings settings = {
    .target = "127.0.0.1:1",
    .plan = "plan.json",
    .process = MED_ARRIVALS_POISSON,
    .rate_per_s = 0.25,
    .burstiness = 1,
    .time_scale = 1,
    .max_concurrency = 9,
};

static void test_text_when_printed_then_has_the_lines_that_people_grep(void)
{
    struct med_bench_summary summary = make_summary();
    struct med_bench_run run = {.details = {[14] = "the worker was lost"}};
    struct med_buf out;
    med_buf_init(&out, 1 << 20);
    REQUIRE(med_bench_report_text(&out, &settings, &run, &summary) == 0);
    static const char *const lines[] = {
        "============ Serving Benchmark Result ============\n",
        "Successful requests:                     2         \n",
        "Failed requests:                         1         \n",
        "Maximum request concurrency:             9         \n",
        "Request rate configured (RPS):           0.25      \n",
        "Benchmark duration (s):                  12.50     \n",
        "Total input tokens:                      200       \n",
        "Total generated tokens:                  40        \n",
        "Request throughput (req/s):              0.16      \n",
        "Request goodput (req/s):                 0.08      \n",
        "Output token throughput (tok/s):         3.20      \n",
        "Peak output token throughput (tok/s):    7.00      \n",
        "Peak concurrent requests:                2         \n",
        "Total token throughput (tok/s):          19.20     \n",
        "---------------Time to First Token----------------\n",
        "Mean TTFT (ms):                          110.00    \n",
        "Median TTFT (ms):                        109.00    \n",
        "P99 TTFT (ms):                           112.00    \n",
        "-----Time per Output Token (excl. 1st token)------\n",
        "Mean TPOT (ms):                          n/a       \n",
        "---------------Inter-token Latency----------------\n",
        "Mean ITL (ms):                           20.00     \n",
        "----------------End-to-end Latency----------------\n",
        "P99 E2EL (ms):                           502.00    \n",
        "==================================================\n",
    };
    const char *from = out.data;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        const char *found = strstr(from, lines[i]);
        CHECK_CONTAINS(from, lines[i]);
        if (found)
            from = found;
    }
    CHECK_CONTAINS(out.data, "UNAVAILABLE               1  the worker was lost\n");
    CHECK_CONTAINS(out.data, "ttft.mean=2000ms ");
    CHECK_CONTAINS(out.data, "SLO attainment (all objectives):         66.7 %\n");
    CHECK_CONTAINS(out.data, "Per million output tokens ($):           406.25");
    CHECK_CONTAINS(out.data, "+10.0 %");
    CHECK_CONTAINS(out.data, "-20.0 %");
    CHECK(strstr(out.data, "(not named)") == NULL);
    CHECK(strstr(out.data, "nan") == NULL);
    med_buf_release(&out);
}

static void test_json_when_read_back_then_has_the_keys(void)
{
    struct med_bench_summary summary = make_summary();
    struct med_bench_run run = {.details = {[14] = "the worker was lost"}};
    struct med_buf out;
    med_buf_init(&out, 1 << 20);
    REQUIRE(med_bench_report_json(&out, &settings, &run, &summary) == 0);
    struct med_json_doc doc;
    struct med_err err;
    REQUIRE(med_json_parse(out.data, out.length, "report", &doc, &err) == 0);
    struct med_json_at root = med_json_root(&doc);
    static const struct {
        const char *key;
        double value;
    } numbers[] = {{"completed", 2},
                   {"failed", 1},
                   {"total_input_tokens", 200},
                   {"total_output_tokens", 40},
                   {"request_throughput", 0.16},
                   {"request_goodput", 0.08},
                   {"output_throughput", 3.2},
                   {"mean_ttft_ms", 110},
                   {"median_ttft_ms", 109},
                   {"std_ttft_ms", 3},
                   {"p99_ttft_ms", 112},
                   {"mean_itl_ms", 20},
                   {"p99_e2el_ms", 502},
                   {"cost_per_million_output_tokens", 406.25}};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        double value = NAN;
        CHECK_INT(med_json_number(&root, numbers[i].key, -1e9, 1e9, &value, &err), 0);
        CHECK_DOUBLE(value, numbers[i].value, 1e-9);
    }
    CHECK(!med_json_has(&root, "mean_tpot_ms")); /* null: not known */
    struct med_json_at prediction;
    REQUIRE(med_json_object(&root, "prediction", &prediction, &err) == 0);
    double difference = NAN;
    CHECK_INT(med_json_number(&prediction, "ttft_difference", -1, 1, &difference, &err), 0);
    CHECK_DOUBLE(difference, 0.1, 1e-9);
    med_json_free(&doc);
    med_buf_release(&out);
}

static void test_record_when_written_then_one_line_without_unknown_times(void)
{
    struct med_bench_summary summary = make_summary();
    struct med_bench_record record = {.sent_ns = 1500000000,
                                      .first_ns = -1,
                                      .last_ns = -1,
                                      .end_ns = 2000000000,
                                      .input_tokens = 7,
                                      .output_tokens = 9,
                                      .status = 14,
                                      .worker_type = 0};
    struct med_buf out;
    med_buf_init(&out, 1 << 20);
    REQUIRE(med_bench_report_record(&out, 3, &record, &summary) == 0);
    CHECK_CONTAINS(out.data, "\"index\":3");
    CHECK_CONTAINS(out.data, "\"sent_s\":1.5");
    CHECK_CONTAINS(out.data, "\"status\":\"UNAVAILABLE\"");
    CHECK_CONTAINS(out.data, "\"worker_type\":\"small\"");
    CHECK(strstr(out.data, "first_token_s") == NULL);
    CHECK(strchr(out.data, '\n') == out.data + out.length - 1);
    med_buf_release(&out);
}

static void test_progress_when_no_request_is_done_then_says_so(void)
{
    char text[MED_PROGRESS_TEXT_MAX];
    struct med_bench_progress progress = {.now_ns = 5000000000,
                                          .planned_end_ns = 60000000000,
                                          .planned = 330,
                                          .sent = 28,
                                          .in_flight = 28,
                                          .ttft_mean_ms = NAN,
                                          .tpot_mean_ms = NAN};
    med_progress_format(text, &progress);
    CHECK_CONTAINS(text, "5/60 s  sent 28/330  done 0  failed 0  in flight 28  TTFT -  TPOT -");
}

int main(void)
{
    RUN(test_text_when_printed_then_has_the_lines_that_people_grep);
    RUN(test_json_when_read_back_then_has_the_keys);
    RUN(test_record_when_written_then_one_line_without_unknown_times);
    RUN(test_progress_when_no_request_is_done_then_says_so);
    return check_finish();
}
