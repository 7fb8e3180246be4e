/* SPDX-License-Identifier: Apache-2.0 */
/* Objectives as text: what is understood, what is refused, and that text and value agree. */
#include "allocator/slo.h"

#include "tests/check.h"

static void test_text_when_parsed_then_gives_metric_and_limit(void)
{
    struct med_slos slos;
    REQUIRE(med_slos_parse("tpot.mean=120ms,ttft.mean=2s,e2e_per_token.mean=0.04s", &slos, NULL) ==
            0);
    CHECK_INT(slos.count, 3);
    CHECK_INT(slos.items[0].metric, MED_SLO_TPOT);
    CHECK_DOUBLE(slos.items[0].limit_ms, 120, 0);
    CHECK_INT(slos.items[1].metric, MED_SLO_TTFT);
    CHECK_DOUBLE(slos.items[1].limit_ms, 2000, 0);
    CHECK_INT(slos.items[2].metric, MED_SLO_E2E_PER_TOKEN);
    CHECK_DOUBLE(slos.items[2].limit_ms, 40, 0);
    CHECK_STR(med_slo_metric_name(MED_SLO_E2E_PER_TOKEN), "e2e_per_token");
}

static void test_value_when_formatted_then_parses_back_to_itself(void)
{
    static const double limits[] = {120, 0.001, 86400000, 33.333333, 0.1, 41.000001, 1e-3};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        for (int metric = 0; metric < 3; metric++) {
            struct med_slo slo = {.metric = (enum med_slo_metric)metric, .limit_ms = limits[i]};
            struct med_slos again;
            char text[96];
            struct med_err err = {0};
            med_slo_format(&slo, text, sizeof text);
            int rc = med_slos_parse(text, &again, &err);
            CHECK_STR(err.text, "");
            REQUIRE(rc == 0);
            CHECK_INT(again.items[0].metric, metric);
            CHECK_DOUBLE(again.items[0].limit_ms, limits[i], 0);
        }
    }
    char text[96];
    med_slo_format(&(struct med_slo){MED_SLO_TPOT, 120}, text, sizeof text);
    CHECK_STR(text, "tpot.mean=120ms");
}

static void test_bad_text_when_parsed_then_one_sentence_says_what(void)
{
    static const struct {
        const char *text, *sentence;
    } cases[] = {
        {"", "objectives: found an empty one, expected METRIC.mean=DURATION"},
        {",", "objectives: found an empty one"},
        {"tpot.mean=120ms,", "objectives: found an empty one"},
        {"tpot.mean", "objective \"tpot.mean\": found no '=', expected METRIC.mean=DURATION"},
        {"latency.mean=1s", "objective \"latency.mean=1s\": found the metric \"latency\", expected "
                            "ttft, tpot or e2e_per_token"},
        {"TPOT.mean=1s", "found the metric \"TPOT\""},
        {"=1s", "found the metric \"\""},
        {"tpot.p99=1s",
         "objective \"tpot.p99=1s\": found the percentile \"p99\", expected mean, as "
         "only means can be planned for"},
        {"tpot.max=1s", "found the statistic \"max\", expected mean"},
        {"tpot=1s", "found the statistic \"\", expected mean"},
        {"tpot.=1s", "found the statistic \"\", expected mean"},
        {"tpot.meanx=1s", "found the statistic \"meanx\", expected mean"},
        {"tpot.mean=", "objective \"tpot.mean=\": found \"\""},
        {"tpot.mean=120", "objective \"tpot.mean=120\": found \"120\""},
        {"tpot.mean=-1ms", "objective \"tpot.mean=-1ms\": found \"-1ms\""},
        {"tpot.mean=0ms", "objective \"tpot.mean=0ms\": found \"0ms\""},
        {"tpot.mean=nan", "objective \"tpot.mean=nan\": found \"nan\""},
        {"tpot.mean=infs", "found \"infs\""},
        {"tpot.mean=1e999s", "found \"1e999s\""},
        {"tpot.mean=25h", "found \"25h\""},
        {"tpot.mean=1ms,tpot.mean=2ms",
         "objective \"tpot.mean=2ms\": found tpot again, expected each metric once"},
        {"tpot.mean=1ms\033[2J", "objectives: found a character outside printable ASCII"},
        {"tpot.mean=1ms,\xc3\xa9", "objectives: found a character outside printable ASCII"},
        {"tpot.mean=000000000000000000000000000000000000000000000000000000000000000000000000000000"
         "00000000000000000001ms",
         "objectives: found one of 110 bytes, expected less than 96"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct med_slos slos = {.count = 77};
        struct med_err err = {0};
        CHECK(med_slos_parse(cases[i].text, &slos, &err) < 0);
        CHECK_CONTAINS(err.text, cases[i].sentence);
        CHECK_INT(slos.count, 77); /* untouched */
    }
}

int main(void)
{
    RUN(test_text_when_parsed_then_gives_metric_and_limit);
    RUN(test_value_when_formatted_then_parses_back_to_itself);
    RUN(test_bad_text_when_parsed_then_one_sentence_says_what);
    return check_finish();
}
