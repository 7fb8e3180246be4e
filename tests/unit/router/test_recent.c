/* SPDX-License-Identifier: Apache-2.0 */
/* The ring of requests that ended: spans add up, the slowest are found, old ones go. */
#include "router/recent.h"
#include "tests/check.h"

static struct med_query query_of(struct med_req *choices, uint32_t count)
{
    return (struct med_query){.request_id = "q",
                              .arrived_ns = 110,
                              .admitted_ns = 150,
                              .prompt_count = 7,
                              .choices = choices,
                              .choice_count = count};
}

static void test_spans_are_the_whole_time(void)
{
    struct med_recent recent;
    const struct med_recent_row *row = NULL;
    struct med_req choices[2] = {
        {.worker_id = "a", .ended_ns = 500, .output_count = 3, .attempts = 1},
        {.worker_id = "b",
         .worker_type = "t",
         .first_sent_ns = 200,
         .sent_ns = 260,
         .first_token_ns = 300,
         .last_token_ns = 600,
         .ended_ns = 700,
         .output_count = 4,
         .attempts = 2,
         .outcome = MED_OUTCOME_LENGTH},
    };
    struct med_query query = query_of(choices, 2);
    CHECK_INT(med_recent_init(&recent), 0);
    CHECK_UINT(med_recent_slowest(&recent, false, &row, 1), 0);
    med_recent_add(&recent, &query, 100, 750);
    REQUIRE(med_recent_slowest(&recent, false, &row, 1) == 1);
    CHECK_STR(row->worker_id, "b");
    CHECK_STR(row->worker_type, "t");
    CHECK_UINT(row->output_tokens, 7);
    CHECK_UINT(row->attempts, 2);
    CHECK_INT(row->outcome, MED_OUTCOME_LENGTH);
    static const int64_t want[MED_RECENT_SPANS] = {10, 40, 50, 60, 40, 400, 50};
    int64_t sum = 0;
    for (int i = 0; i < MED_RECENT_SPANS; i++) {
        CHECK_INT(row->spans_ns[i], want[i]);
        sum += row->spans_ns[i];
    }
    CHECK_INT(row->total_ns, 650);
    CHECK_INT(sum, row->total_ns);
    CHECK_INT(row->ttft_ns, 200);
    med_recent_release(&recent);
}

static void test_a_request_that_nobody_took(void)
{
    struct med_recent recent;
    const struct med_recent_row *row = NULL;
    struct med_req choice = {.ended_ns = 900, .outcome = MED_OUTCOME_REJECTED};
    struct med_query query = query_of(&choice, 1);
    CHECK_INT(med_recent_init(&recent), 0);
    med_recent_add(&recent, &query, 100, 910);
    REQUIRE(med_recent_slowest(&recent, true, &row, 1) == 1);
    CHECK_INT(row->spans_ns[MED_SPAN_QUEUE], 750);
    CHECK_INT(row->spans_ns[MED_SPAN_TOKENS], 0);
    CHECK_INT(row->total_ns, 810);
    CHECK_INT(row->ttft_ns, -1);
    CHECK_STR(row->worker_id, "");
    med_recent_release(&recent);
}

/* A resumed stream was sent again after its first token. */
static void test_a_resumed_stream(void)
{
    struct med_recent recent;
    const struct med_recent_row *row = NULL;
    struct med_req choice = {
        .first_sent_ns = 160, .sent_ns = 400, .first_token_ns = 200, .ended_ns = 900};
    struct med_query query = query_of(&choice, 1);
    CHECK_INT(med_recent_init(&recent), 0);
    med_recent_add(&recent, &query, 100, 900);
    REQUIRE(med_recent_slowest(&recent, true, &row, 1) == 1);
    CHECK_INT(row->spans_ns[MED_SPAN_REROUTE], 0);
    CHECK_INT(row->spans_ns[MED_SPAN_FIRST], 40);
    CHECK_INT(row->spans_ns[MED_SPAN_TOKENS], 700);
    med_recent_release(&recent);
}

static void test_the_slowest_of_the_last(void)
{
    struct med_recent recent;
    const struct med_recent_row *rows[3];
    struct med_req choice = {.first_sent_ns = 160, .sent_ns = 160, .first_token_ns = 170};
    CHECK_INT(med_recent_init(&recent), 0);
    for (int i = 0; i < MED_RECENT_ROWS + 100; i++) {
        struct med_query query = query_of(&choice, 1);
        choice.ended_ns = i == 50 ? 1000000 : 1000 + i; // the slowest of all is too old
        choice.first_token_ns = i == 200 ? 900 : 170;
        (void)snprintf(query.request_id, sizeof(query.request_id), "q%d", i);
        med_recent_add(&recent, &query, 100, choice.ended_ns);
    }
    CHECK_UINT(med_recent_slowest(&recent, false, rows, 3), 3);
    CHECK_STR(rows[0]->request_id, "q1123");
    CHECK_STR(rows[1]->request_id, "q1122");
    CHECK_STR(rows[2]->request_id, "q1121");
    CHECK_UINT(med_recent_slowest(&recent, true, rows, 3), 3);
    CHECK_STR(rows[0]->request_id, "q200");
    med_recent_release(&recent);
}

int main(void)
{
    RUN(test_spans_are_the_whole_time);
    RUN(test_a_request_that_nobody_took);
    RUN(test_a_resumed_stream);
    RUN(test_the_slowest_of_the_last);
    return check_finish();
}
