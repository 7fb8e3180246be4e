/* SPDX-License-Identifier: Apache-2.0 */
/* The figures of a load test, from records made by hand. */
#include "router/bench/summary.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "tests/check.h"

#define MS MED_NS_PER_MS

/* Sent at sent_ms, first token after ttft_ms, then `tokens` - 1 more, gap_ms apart. */
static struct med_bench_record make_record(int64_t sent_ms, int64_t ttft_ms, int64_t tokens,
                                           int64_t gap_ms, int worker_type)
{
    int64_t first = sent_ms + ttft_ms, last = first + (tokens - 1) * gap_ms;
    return (struct med_bench_record){
        .due_ns = (sent_ms - 1) * MS,
        .sent_ns = sent_ms * MS,
        .first_ns = first * MS,
        .last_ns = last * MS,
        .end_ns = (last + 1) * MS,
        .input_tokens = 100,
        .output_tokens = tokens,
        .tokens = tokens,
        .next_position = tokens,
        .status = 0,
        .worker_type = worker_type,
    };
}

static struct med_profile profiles[2];

static struct med_plan make_plan(void)
{
    profiles[0].worker_type = (char *)"small";
    profiles[1].worker_type = (char *)"large";
    return (struct med_plan){.cost_usd_per_hour = 3.6, .profiles = profiles, .profile_count = 2};
}

static void test_tokens_when_positions_skip_or_repeat_then_counted(void)
{
    struct med_bench_record r = {.status = 0};
    med_bench_record_tokens(&r, 0, 1);
    med_bench_record_tokens(&r, 1, 2);
    CHECK(med_bench_record_completed(&r));
    med_bench_record_tokens(&r, 5, 1); /* 3 and 4 are missing */
    CHECK_INT(r.tokens_lost, 2);
    med_bench_record_tokens(&r, 4, 3); /* 4 and 5 again, 6 is new */
    CHECK_INT(r.tokens_duplicated, 2);
    CHECK_INT(r.next_position, 7);
    med_bench_record_tokens(&r, 0, 1);
    CHECK_INT(r.tokens_duplicated, 3);
    CHECK_INT(r.next_position, 7);
    CHECK(!med_bench_record_completed(&r));
}

static void test_summary_when_requests_complete_then_figures_follow(void)
{
    struct med_bench_record records[] = {
        make_record(0, 100, 11, 10, 0),    /* TTFT 100, TPOT 10, E2E 200 */
        make_record(100, 300, 1, 0, 1),    /* TTFT 300, no TPOT, E2E 300 */
        make_record(1000, 200, 101, 30, 0) /* TTFT 200, TPOT 30, E2E 3200 */
    };
    int64_t seconds[] = {12, 30, 71};
    struct med_bench_run run = {.records = records,
                                .count = 3,
                                .sent = 3,
                                .peak_in_flight = 2,
                                .tokens_per_s = seconds,
                                .second_count = 3};
    struct med_slos slos = {.count = 2, .items = {{MED_SLO_TTFT, 250}, {MED_SLO_TPOT, 25}}};
    struct med_plan plan = make_plan();
    struct med_bench_summary s;
    REQUIRE(med_bench_summarize(&run, &plan, &slos, NULL, NULL, &s, NULL) == 0);
    CHECK_INT(s.sent, 3);
    CHECK_INT(s.completed, 3);
    CHECK_INT(s.failed, 0);
    CHECK(med_bench_summary_is_whole(&s));
    CHECK_DOUBLE(s.duration_s, 4.201, 1e-9); /* to the end of the last one */
    CHECK_INT(s.input_tokens, 300);
    CHECK_INT(s.output_tokens, 113);
    CHECK_DOUBLE(s.request_throughput, 3 / 4.201, 1e-9);
    CHECK_DOUBLE(s.output_throughput, 113 / 4.201, 1e-9);
    CHECK_DOUBLE(s.total_throughput, 413 / 4.201, 1e-9);
    CHECK_DOUBLE(s.peak_output_throughput, 71, 0);
    CHECK_DOUBLE(s.ttft.mean, 200, 1e-9);
    CHECK_DOUBLE(s.ttft.median, 200, 1e-9);
    CHECK_DOUBLE(s.ttft.p99, 298, 1e-9);
    CHECK_DOUBLE(s.tpot.mean, 20, 1e-9);
    CHECK_DOUBLE(s.tpot.std, 10, 1e-9);
    CHECK_DOUBLE(s.e2e.mean, (200 + 300 + 3200) / 3.0, 1e-9);
    CHECK_DOUBLE(s.lateness.mean, 1, 1e-9);
    /* TTFT: 2 of 3 within 250; TPOT: 10, none and 30 against 25: 2 of 3; both: the first only. */
    CHECK(s.objectives[0].met);
    CHECK_DOUBLE(s.objectives[0].share_within, 2 / 3.0, 1e-9);
    CHECK(s.objectives[1].met);
    CHECK_DOUBLE(s.objectives[1].share_within, 2 / 3.0, 1e-9);
    CHECK_DOUBLE(s.attainment, 1 / 3.0, 1e-9);
    CHECK_DOUBLE(s.request_goodput, 1 / 4.201, 1e-9);
    /* 3.6 $/h is a tenth of a cent a second. */
    CHECK_DOUBLE(s.usd, 0.004201, 1e-12);
    CHECK_DOUBLE(s.usd_per_million_output_tokens, 0.004201 / 113 * 1e6, 1e-9);
    CHECK_INT(s.types[0].observed.completed, 2);
    CHECK_DOUBLE(s.types[0].observed.ttft_ms, 150, 1e-9);
    CHECK_DOUBLE(s.types[0].observed.tpot_ms, 20, 1e-9);
    CHECK_INT(s.types[1].observed.completed, 1);
    CHECK(isnan(s.types[1].observed.tpot_ms));
    CHECK_INT(s.types[2].observed.completed, 0);
    med_bench_summary_release(&s);
}

static void test_summary_when_requests_fail_then_each_is_counted_once(void)
{
    struct med_bench_record records[] = {
        make_record(0, 100, 5, 10, 0),  make_record(10, 100, 5, 10, 0),
        make_record(20, 100, 5, 10, 0), make_record(30, 100, 5, 10, -1),
        make_record(40, 100, 5, 10, 0), make_record(50, 100, 5, 10, 0),
        make_record(60, 100, 5, 10, 0),
    };
    records[1].status = 14; /* before its first token */
    records[1].tokens = 0;
    records[1].first_ns = records[1].last_ns = -1;
    records[2].status = 14; /* after it */
    records[3].status = MED_BENCH_NOT_ENDED;
    records[4].tokens_lost = 2;
    records[5].tokens_duplicated = 1;
    records[6].status = MED_BENCH_NOT_SENT;
    records[6].sent_ns = -1;
    struct med_bench_run run = {.records = records, .count = 7, .sent = 6};
    struct med_slos slos = {.count = 1, .items = {{MED_SLO_TTFT, 1000}}};
    struct med_bench_summary s;
    REQUIRE(med_bench_summarize(&run, NULL, &slos, NULL, NULL, &s, NULL) == 0);
    CHECK_INT(s.planned, 7);
    CHECK_INT(s.sent, 6);
    CHECK_INT(s.completed, 1);
    CHECK_INT(s.failed, 5);
    CHECK_INT(s.failed_before_token, 1);
    CHECK_INT(s.failed_after_token, 4);
    CHECK_INT(s.not_ended, 1);
    CHECK_INT(s.tokens_lost, 2);
    CHECK_INT(s.tokens_duplicated, 1);
    CHECK_INT(s.by_status[14], 2);
    CHECK(!med_bench_summary_is_whole(&s));
    CHECK(!s.has_cost);
    CHECK_DOUBLE(s.attainment, 1 / 6.0, 1e-9);
    CHECK_INT(s.type_count, 1);
    med_bench_summary_release(&s);
}

static void test_summary_when_simulated_then_groups_compare(void)
{
    struct med_bench_record records[] = {make_record(0, 110, 11, 11, 0),
                                         make_record(0, 220, 11, 22, 1)};
    struct med_bench_run run = {.records = records, .count = 2, .sent = 2};
    struct med_sim_request requests[] = {
        {.ttft_ns = 100 * MS, .e2e_ns = 200 * MS, .type = 0},
        {.ttft_ns = 200 * MS, .e2e_ns = 400 * MS, .type = 1},
    };
    struct med_sim_result simulated = {.requests = requests, .count = 2};
    struct med_slos slos = {0};
    struct med_plan plan = make_plan();
    struct med_bench_summary s;
    REQUIRE(med_bench_summarize(&run, &plan, &slos, NULL, &simulated, &s, NULL) == 0);
    CHECK(s.has_prediction);
    CHECK_DOUBLE(s.predicted.ttft_ms, 150, 1e-9);
    CHECK_DOUBLE(s.predicted.tpot_ms, 15, 1e-9);
    CHECK_DOUBLE(s.observed.ttft_ms, 165, 1e-9);
    CHECK_DOUBLE(s.observed.tpot_ms, 16.5, 1e-9);
    CHECK_DOUBLE(s.types[1].predicted.tpot_ms, 20, 1e-9);
    CHECK(isnan(s.attainment));
    CHECK(isnan(s.request_goodput));
    med_bench_summary_release(&s);
    /* A request that the simulation could not finish is in no mean. */
    requests[1].e2e_ns = -1;
    REQUIRE(med_bench_summarize(&run, &plan, &slos, NULL, &simulated, &s, NULL) == 0);
    CHECK_INT(s.predicted.completed, 1);
    CHECK_DOUBLE(s.predicted.ttft_ms, 100, 1e-9);
    med_bench_summary_release(&s);
}

static void test_summary_when_gaps_exceed_sample_then_mean_is_of_all(void)
{
    struct med_bench_record record = make_record(0, 10, 2, 10, -1);
    struct med_bench_run run = {.records = &record, .count = 1, .sent = 1};
    med_sample_init(&run.gaps.kept);
    REQUIRE(med_sample_add(&run.gaps.kept, 10) == 0);
    run.gaps.count = 4; /* 10, 10, 10, 30: three of them no longer kept */
    run.gaps.sum_ms = 60;
    run.gaps.sum_squares_ms = 3 * 100 + 900;
    struct med_slos slos = {0};
    struct med_bench_summary s;
    REQUIRE(med_bench_summarize(&run, NULL, &slos, NULL, NULL, &s, NULL) == 0);
    CHECK_DOUBLE(s.itl.mean, 15, 1e-9);
    CHECK_DOUBLE(s.itl.std, sqrt(75), 1e-9);
    CHECK_DOUBLE(s.itl.median, 10, 1e-9);
    med_bench_summary_release(&s);
    med_sample_release(&run.gaps.kept);
}

static void test_summary_when_an_allocation_fails_then_no_memory_and_no_leak(void)
{
    struct med_bench_record records[] = {make_record(0, 110, 11, 11, 0),
                                         make_record(0, 220, 11, 22, 1)};
    struct med_bench_run run = {.records = records, .count = 2, .sent = 2};
    struct med_slos slos = {0};
    struct med_plan plan = make_plan();
    int64_t before = med_alloc_bytes_live();
    int failures = 0, rc = -1;
    for (uint64_t n = 1; rc < 0; n++) {
        struct med_bench_summary s = {0};
        (void)med_alloc_fail_nth(n);
        rc = med_bench_summarize(&run, &plan, &slos, NULL, NULL, &s, NULL);
        (void)med_alloc_fail_nth(0);
        if (rc < 0) {
            CHECK_INT(rc, MED_E_NOMEM);
            failures++;
        }
        med_bench_summary_release(&s);
        CHECK_INT(med_alloc_bytes_live(), before);
    }
    CHECK(failures >= 5);
}

int main(void)
{
    RUN(test_summary_when_an_allocation_fails_then_no_memory_and_no_leak);
    RUN(test_tokens_when_positions_skip_or_repeat_then_counted);
    RUN(test_summary_when_requests_complete_then_figures_follow);
    RUN(test_summary_when_requests_fail_then_each_is_counted_once);
    RUN(test_summary_when_simulated_then_groups_compare);
    RUN(test_summary_when_gaps_exceed_sample_then_mean_is_of_all);
    return check_finish();
}
