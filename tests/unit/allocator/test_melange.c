/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mélange's input: the two published cases, and wrong input with the sentence it gets.
 */
#include "allocator/melange.h"

#include "allocator/problem.h"
#include "base/alloc.h"
#include "tests/check.h"

static int read_text(const char *text, int64_t slices, struct med_problem *problem,
                     struct med_plan *plan, struct med_err *err)
{
    struct med_json_doc doc;
    int rc = med_json_parse(text, strlen(text), "input.json", &doc, err);
    if (rc < 0)
        return rc;
    struct med_json_at root = med_json_root(&doc);
    rc = med_melange_read(&root, "input.json", slices, problem, plan, err);
    med_json_free(&doc);
    return rc;
}

static void solve_file(const char *path, int64_t slices, double cost, const int64_t *counts)
{
    struct med_json_doc doc;
    struct med_problem problem;
    struct med_plan plan = {0};
    struct med_err err = {0};
    REQUIRE(med_json_parse_file(path, &doc, &err) == 0);
    struct med_json_at root = med_json_root(&doc);
    REQUIRE(med_melange_read(&root, path, slices, &problem, &plan, &err) == 0);
    REQUIRE(med_problem_plan(&problem, 60.0, &plan, &err) == 0);
    CHECK_INT(plan.status, MED_PLAN_OPTIMAL);
    CHECK_DOUBLE(plan.cost_usd_per_hour, cost, 0.0);
    REQUIRE(plan.instance_count == 2);
    for (size_t k = 0; k < plan.instance_count; k++)
        CHECK_INT(plan.instances[k].count, counts[k]);
    med_problem_release(&problem);
    med_plan_release(&plan);
    med_json_free(&doc);
}

static void test_published_cases_when_solved_then_known_costs(void)
{
    static const int64_t one_one[] = {1, 1};
    static const int64_t three_one[] = {3, 1};
    static const int64_t two_one[] = {2, 1};
    static const int64_t one_two[] = {1, 2};
    solve_file("tests/data/melange_example.json", 0, 4.68, one_one);
    solve_file("tests/data/melange_example.json", 1, 6.70, three_one);
    solve_file("tests/data/melange_example.json", 8, 5.69, two_one);
    solve_file("tests/data/melange_figure9.json", 0, 8.35, one_two);
}

static void test_baselines_when_solved_then_single_kinds(void)
{
    struct med_json_doc doc;
    struct med_problem problem;
    struct med_plan plan = {0};
    struct med_err err = {0};
    REQUIRE(med_json_parse_file("tests/data/melange_figure9.json", &doc, &err) == 0);
    struct med_json_at root = med_json_root(&doc);
    REQUIRE(med_melange_read(&root, "figure 9", 0, &problem, &plan, &err) == 0);
    REQUIRE(med_problem_plan(&problem, 60.0, &plan, &err) == 0);
    REQUIRE(plan.baseline_count == 2);
    CHECK_STR(plan.baselines[0].instance, "A100");
    CHECK_INT(plan.baselines[0].count, 3);
    CHECK_DOUBLE(plan.baselines[0].cost_usd_per_hour, 11.01, 1e-12);
    CHECK_INT(plan.baselines[1].count, 12);
    CHECK_DOUBLE(plan.baselines[1].saving, 1.0 - 8.35 / 12.12, 1e-12);
    med_problem_release(&problem);
    med_plan_release(&plan);
    med_json_free(&doc);
}

#define GPU(cost, tputs) "{\"cost\": " cost ", \"tputs\": " tputs "}"
#define INPUT(gpus, distribution, rate, more)                          \
 "{\"gpu_info\": {" gpus "}, \"workload_distribution\": " distribution \
 ", \"total_request_rate\": " rate more "}"

static void test_input_when_wrong_then_precise_sentence(void)
{
    static const struct {
        const char *text, *sentence;
    } cases[] = {
        {"[]", "$"},
        {INPUT("\"A\": " GPU("1", "[[1]]"), "[[1]]", "0", ""), "$.total_request_rate"},
        {INPUT("\"A\": " GPU("1", "[[1]]"), "[[1]]", "-3", ""), "$.total_request_rate"},
        {INPUT("\"A\": " GPU("1", "[[1]]"), "[[1]]", "1e999", ""), "input.json"},
        {INPUT("\"A\": " GPU("0", "[[1]]"), "[[1]]", "1", ""), "$.gpu_info.A.cost"},
        {INPUT("\"A\": " GPU("1", "[[-1]]"), "[[1]]", "1", ""), "$.gpu_info.A.tputs[0][0]"},
        {INPUT("\"A\": " GPU("1", "[[1, 2]]"), "[[1]]", "1", ""), "expected an array of 1 numbers"},
        {INPUT("\"A\": " GPU("1", "[[1], [1]]"), "[[1]]", "1", ""), "found 2 rows, expected 1"},
        {INPUT("\"A\": " GPU("1", "[[1]]"), "[[1], [1, 2]]", "1", ""), "in the other rows"},
        {INPUT("\"A\": " GPU("1", "[[1]]"), "[]", "1", ""), "found 0 rows"},
        {INPUT("\"A\": " GPU("1", "[[1]]"), "[[0]]", "1", ""), "found 0 buckets with a rate"},
        {INPUT("", "[[1]]", "1", ""), "found 0 GPUs"},
        {INPUT("\"A\": " GPU("1", "[[1]]"), "[[1]]", "1", ", \"slice_factor\": 0"), "slice_factor"},
        {INPUT("\"A\": " GPU("1", "[[1]]"), "[[1]]", "1", ", \"surprise\": 0"), "surprise"},
        {"{\"workload_distribution\": [[1]], \"total_request_rate\": 1}", "gpu_info"},
        {INPUT("\"A\": {\"cost\": 1, \"tputs\": [[1]], \"max_count\": -2}", "[[1]]", "1", ""),
         "max_count"},
    };
    for (size_t n = 0; n < sizeof cases / sizeof cases[0]; n++) {
        struct med_problem problem;
        struct med_plan plan = {0};
        struct med_err err = {0};
        CHECK_INT(read_text(cases[n].text, 0, &problem, &plan, &err), MED_E_FORMAT);
        CHECK_CONTAINS(err.text, cases[n].sentence);
        CHECK_CONTAINS(err.text, "input.json");
    }
}

static void plan_text(const char *text, struct med_problem *problem, struct med_plan *plan)
{
    struct med_err err = {0};
    REQUIRE(read_text(text, 0, problem, plan, &err) == 0);
    REQUIRE(med_problem_plan(problem, 60.0, plan, &err) == 0);
}

static void test_reasons_when_infeasible_then_bucket_and_smallest_cap(void)
{
    struct med_problem problem;
    struct med_plan plan = {0};
    plan_text(INPUT("\"A\": " GPU("1", "[[1, 0]]") ", \"B\": " GPU("2", "[[2, 0]]"), "[[0.5, 0.5]]",
                    "4", ""),
              &problem, &plan);
    CHECK_INT(plan.status, MED_PLAN_INFEASIBLE);
    REQUIRE(plan.reason_count >= 1);
    CHECK_CONTAINS(plan.reasons[0], "row 1, column 2");
    CHECK_CONTAINS(plan.reasons[0], "every throughput given for it is 0");
    med_problem_release(&problem);
    med_plan_release(&plan);

    /* 10 requests/s: A does 1 each (cap 3), B 2 each (cap 2): 7 at most. */
    plan_text(INPUT("\"A\": {\"cost\": 1, \"tputs\": [[1]], \"max_count\": 3}, "
                    "\"B\": {\"cost\": 2, \"tputs\": [[2]], \"max_count\": 2}",
                    "[[1]]", "10", ""),
              &problem, &plan);
    CHECK_INT(plan.status, MED_PLAN_INFEASIBLE);
    REQUIRE(plan.reason_count == 3);
    CHECK_CONTAINS(plan.reasons[1], "A (A): raise its cap from 3 to 6");
    CHECK_CONTAINS(plan.reasons[2], "B (B): raise its cap from 2 to 4");
    med_problem_release(&problem);
    med_plan_release(&plan);
}

/* The written answer holds what a reader of section 5 of the design looks for. */
static void test_answer_when_written_then_keys_are_there(void)
{
    static const char *const keys[] = {"\"format\":\"medley-melange/1\"",
                                       "\"status\":\"optimal\"",
                                       "\"cost_per_hour\":1",
                                       "\"lower_bound_per_hour\":1",
                                       "\"solve_seconds\":",
                                       "\"instances\":[",
                                       "\"utilization\":0.5",
                                       "\"shares\":{\"A\":1}",
                                       "\"baselines\":[",
                                       "\"reasons\":[]",
                                       "\"warnings\":[]"};
    struct med_problem problem;
    struct med_plan plan = {0};
    struct med_buf text;
    struct med_json_writer writer;
    plan_text(INPUT("\"A\": " GPU("1", "[[2]]"), "[[1]]", "1", ""), &problem, &plan);
    med_buf_init(&text, 1 << 16);
    med_json_writer_init(&writer, &text, false);
    med_melange_write(&writer, &plan);
    REQUIRE(med_json_writer_finish(&writer) == 0);
    for (size_t n = 0; n < sizeof keys / sizeof keys[0]; n++)
        CHECK_CONTAINS(text.data, keys[n]);
    med_buf_release(&text);
    med_problem_release(&problem);
    med_plan_release(&plan);
}

static void test_read_when_memory_fails_then_nothing_leaks(void)
{
    static const char text[] = INPUT("\"A\": " GPU("1", "[[2, 1]]"), "[[1, 1]]", "1", "");
    int failed = 0;
    for (uint64_t nth = 1;; nth++) {
        struct med_problem problem;
        struct med_plan plan = {0};
        struct med_err err = {0};
        int64_t before = med_alloc_bytes_live();
        (void)med_alloc_fail_nth(nth);
        int rc = read_text(text, 0, &problem, &plan, &err);
        if (rc == 0) {
            rc = med_problem_plan(&problem, 60.0, &plan, &err);
            med_problem_release(&problem);
            med_plan_release(&plan);
        }
        uint64_t made = med_alloc_fail_nth(0);
        CHECK_INT(med_alloc_bytes_live(), before);
        failed += rc < 0 ? 1 : 0;
        if (made < nth)
            break;
    }
    CHECK(failed > 20);
}

int main(void)
{
    RUN(test_published_cases_when_solved_then_known_costs);
    RUN(test_baselines_when_solved_then_single_kinds);
    RUN(test_input_when_wrong_then_precise_sentence);
    RUN(test_reasons_when_infeasible_then_bucket_and_smallest_cap);
    RUN(test_answer_when_written_then_keys_are_there);
    RUN(test_read_when_memory_fails_then_nothing_leaks);
    return check_finish();
}
