/* SPDX-License-Identifier: Apache-2.0 */
/* Plans: what is read, what is refused and with which sentence, round trips, memory that fails. */
#include "allocator/plan.h"

#include "tests/formats.h"

static int reread(const struct med_json_at *root, struct med_buf *out, struct med_err *err)
{
    struct med_plan plan;
    int rc = med_plan_read(root, &plan, err);
    if (rc < 0) {
        return rc;
    }
    if (out != NULL) {
        struct med_json_writer w;
        med_json_writer_init(&w, out, true);
        med_plan_write(&w, &plan);
        rc = med_json_writer_finish(&w);
    }
    med_plan_release(&plan);
    return rc;
}

static void test_values_when_read_then_are_those_of_the_file(void)
{
    char *text = formats_example_plan();
    struct med_json_doc doc;
    struct med_plan p;
    struct med_err err = {0};
    REQUIRE(med_json_parse(text, strlen(text), "f.json", &doc, NULL) == 0);
    struct med_json_at root = med_json_root(&doc);
    int rc = med_plan_read(&root, &p, &err);
    CHECK_STR(err.text, "");
    REQUIRE(rc == 0);
    med_json_free(&doc);
    free(text);
    CHECK_INT(p.status, MED_PLAN_OPTIMAL);
    CHECK_DOUBLE(p.cost_usd_per_hour, 5.682, 0);
    CHECK_STR(p.model_path, "/models/llama-2-7b");
    CHECK_INT(p.slos.count, 1);
    CHECK_DOUBLE(p.slos.items[0].limit_ms, 120, 0);
    CHECK_DOUBLE(p.utilization_max, 0.9, 0);
    CHECK_INT(p.arrival, MED_ARRIVAL_POISSON);
    CHECK_INT(p.grid.input_edge_count, 2);
    CHECK_INT(p.profile_count, 2);
    CHECK_INT(med_plan_find_type(&p, "a100-llama-2-7b-fp16"), 1);
    CHECK_INT(med_plan_find_type(&p, "h100"), -1);
    CHECK_INT(p.instance_count, 2);
    CHECK_STR(p.instances[1].cloud, "gcp");
    CHECK_INT(p.instances[1].workers[0].worker_type, 1);
    CHECK_INT(p.workers[0].count, 2);
    CHECK_INT(p.assignment_count, 2);
    CHECK_INT(p.assignment[1].input_row, 1);
    CHECK_DOUBLE(p.assignment[1].shares[0], 0.25, 0);
    CHECK_DOUBLE(p.assignment[1].shares[1], 0.75, 0);
    CHECK_DOUBLE(p.assignment[0].shares[1], 0, 0);
    CHECK_DOUBLE(p.baselines[0].saving, 0.226, 0);
    med_plan_release(&p);
    med_plan_release(&p);
    med_plan_release(NULL);
}

#define A10G "a10g-llama-2-7b-fp16"
#define A100 "a100-llama-2-7b-fp16"

static const struct formats_case cases[] = {
    {"medley-plan/1", "medley-plan/2", "expected \"medley-plan/1\""},
    {"\"status\": \"optimal\"", "\"status\": \"good\"",
     "f.json: $.status: found \"good\", expected optimal, feasible or infeasible"},
    {"\"cost_per_hour\": 5.682", "\"cost_per_hour\": 5.69",
     "$.cost_per_hour: found 5.69, expected 5.682, what the instances cost"},
    {"\"cost_per_hour\": 5.682", "\"cost_per_hour\": -1", "$.cost_per_hour: found -1, expected"},
    {"\"cost_per_hour\": 5.682", "\"cost_per_hour\": 1e999", "the number is too large"},
    {"\"cost_per_hour\": 5.682", "\"cost\": 5.682", "cost"},
    {"\"lower_bound_per_hour\": 5.682", "\"lower_bound_per_hour\": 6",
     "$.lower_bound_per_hour: found 6, expected at most cost_per_hour (5.682)"},
    {"\"solve_seconds\": 0.03", "\"solve_seconds\": -1", "$.solve_seconds: found -1, expected"},
    {"[\"tpot.mean=120ms\"]", "[]", "$.objectives: found 0 elements, expected 1 to 8"},
    {"[\"tpot.mean=120ms\"]", "[\"tpot.p99=1s\"]",
     "$.objectives[0]: objective \"tpot.p99=1s\": found the percentile \"p99\", expected mean"},
    {"[\"tpot.mean=120ms\"]", "[\"tpot.mean=1s\", \"tpot.mean=2s\"]",
     "$.objectives[1]: found tpot again, expected each metric once"},
    {"[\"tpot.mean=120ms\"]", "[\"tpot.mean=1s,ttft.mean=2s\"]",
     "$.objectives[0]: found 2 objectives in one text, expected one"},
    {"[\"tpot.mean=120ms\"]", "[120]", "$.objectives[0]: found 120, expected"},
    {"\"utilization_max\": 0.9", "\"utilization_max\": 1.2",
     "$.utilization_max: found 1.2, expected"},
    {"\"rate_per_s\": 2", "\"rate_per_s\": 0", "$.workload.rate_per_s: found 0, expected"},
    {"{\"process\": \"poisson\"}", "{\"process\": \"poisson\", \"trace\": \"x\"}", "trace"},
    {"[100, 1000]", "[1000, 100]",
     "$.workload.input_edges[1]: found 100 after 1000, expected rising edges"},
    {"\"count\": 2, \"price_per_hour\": 1.006", "\"count\": 0, \"price_per_hour\": 1.006",
     "$.instances[0].count: found 0, expected"},
    {"\"price_per_hour\": 1.006", "\"price_per_hour\": -1.006",
     "$.instances[0].price_per_hour: found -1.006, expected a number > 0"},
    {"\"workers\": [{\"worker_type\": \"" A10G "\", \"count\": 2}]",
     "\"workers\": [{\"worker_type\": \"h100\", \"count\": 2}]",
     "$.instances[0].workers[0].worker_type: found the worker type \"h100\", expected one of the "
     "plan's profiles"},
    {"\"workers\": [{\"worker_type\": \"" A10G "\", \"count\": 2}]",
     "\"workers\": [{\"worker_type\": \"" A10G "\", \"count\": 1}, {\"worker_type\": \"" A10G
     "\", \"count\": 1}]",
     "$.instances[0].workers[1].worker_type: found \"" A10G "\" again, expected it once"},
    {"\"workers\": [{\"worker_type\": \"" A10G "\", \"count\": 2}]",
     "\"workers\": [{\"worker_type\": \"" A10G "\", \"count\": 3}]",
     "$.workers: found 2 workers of \"" A10G "\", expected 3, as placed on the instances"},
    {"    {\"worker_type\": \"" A10G "\", \"count\": 2, \"utilization\": 0.81},\n", "",
     "$.assignment[0].shares." A10G ": found a share for \"" A10G "\", expected 0"},
    {"\"instance\": \"a2-highgpu-1g\", \"cloud\": \"gcp\", \"region\": \"us-central1\"",
     "\"instance\": \"g5.xlarge\", \"cloud\": \"aws\", \"region\": \"us-east-1\"",
     "$.instances[1].instance: found \"g5.xlarge\" again (as in instances[0]), expected one row"},
    {"\"worker_type\": \"" A100 "\", \"count\": 1, \"utilization\"",
     "\"worker_type\": \"" A10G "\", \"count\": 1, \"utilization\"",
     "$.workers[1].worker_type: found \"" A10G "\" again, expected it once"},
    {"\"utilization\": 0.81", "\"utilization\": 1.5", "$.workers[0].utilization: found 1.5"},
    {"\"input\": 1000, \"output\": 100, \"input_mean\": 640",
     "\"input\": 100, \"output\": 100, \"input_mean\": 64",
     "$.assignment[1]: found the cell input 100, output 100 again, expected it once"},
    {"\"input_mean\": 640", "\"input_mean\": 64",
     "$.assignment[1].input_mean: found 64, expected more than the cell's lower edge 100"},
    {"\"rate\": 0.5", "\"rate\": -0.5", "$.assignment[1].rate: found -0.5, expected"},
    {"\"" A100 "\": 0.75", "\"" A100 "\": 0.7",
     "$.assignment[1].shares: found shares that sum to 0.95, expected 1 within 1e-6"},
    {"\"" A100 "\": 0.75", "\"h100\": 0.75",
     "$.assignment[1].shares: found the worker type \"h100\", expected one of the plan's profiles"},
    {"\"" A100 "\": 0.75", "\"" A100 "\": -0.75", ": found -0.75, expected"},
    {"{\"" A10G "\": 1}", "{}", "$.assignment[0].shares: found shares that sum to 0, expected 1"},
    {"{\"" A10G "\": 1}", "{\"" A10G "\": 1, \"" A10G "\": 1}", A10G},
    {"\"cost_per_hour\": 7.34", "\"cost_per_hour\": 0", "$.baselines[0].cost_per_hour: found 0"},
    {"\"saving\": 0.226", "\"saving\": 1.1", "$.baselines[0].saving: found 1.1, expected"},
    {"\"warnings\": []", "\"warnings\": [7]", "$.warnings[0]: found 7, expected"},
    {"\"warnings\": []", "\"warnings\": [\"\\u0007\"]",
     "$.warnings[0]: found the control character 0x07"},
    {"\"model\": {\"name\": \"llama-2-7b\", \"path\"", "\"model\": {\"name\": \"other\", \"path\"",
     "$.profiles[0]"},
    {"\"gpu\": \"A10G\"", "\"gpu\": \"\"", "$.profiles[0].gpu: "},
    {"\"worker_type\": \"" A100 "\",\n  \"gpu\"", "\"worker_type\": \"" A10G "\",\n  \"gpu\"",
     "$.profiles[1].worker_type: found \"" A10G "\" again, expected it once"},
    {"\"status\": \"optimal\"", "\"status\": \"infeasible\"",
     "$.cost_per_hour: found a value in an infeasible plan, expected null"},
};

static void test_bad_field_when_read_then_one_sentence_says_where(void)
{
    char *text = formats_example_plan();
    formats_check_cases(reread, text, cases, sizeof cases / sizeof cases[0]);
    free(text);
}

/* Cuts the text from `from` to before `to` and puts `by` there. */
static void splice(char *text, const char *from, const char *to, const char *by)
{
    char *begin = strstr(text, from);
    REQUIRE(begin != NULL);
    char *end = strstr(begin, to);
    REQUIRE(end != NULL && strlen(by) <= (size_t)(end - begin));
    memmove(begin + strlen(by), end, strlen(end) + 1);
    for (size_t i = 0; by[i] != '\0'; i++) {
        begin[i] = by[i];
    }
}

static void test_infeasible_plan_when_read_then_has_reasons_and_no_rows(void)
{
    char *text = formats_example_plan();
    splice(text, "\"status\"", "\"solve_seconds\"", "\"status\": \"infeasible\", ");
    formats_check_refused(reread, text,
                          "$.reasons: found none in an infeasible plan, expected at least one");
    char *reasoned = formats_edit(text, "\"reasons\": []", "\"reasons\": [\"too slow\"]");
    formats_check_refused(reread, reasoned,
                          "$.instances: found rows in an infeasible plan, expected none");
    splice(reasoned, "\"instances\"", "\"baselines\"",
           "\"instances\": [], \"workers\": [], \"assignment\": [],\n");
    formats_check_round_trip(reread, reasoned);
    char *nulls =
        formats_edit(reasoned, "\"solve_seconds\"", "\"cost_per_hour\": null, \"solve_seconds\"");
    formats_check_round_trip(reread, nulls);
    free(nulls);
    free(reasoned);
    free(text);
}

static void test_feasible_plan_when_it_serves_nothing_then_refused(void)
{
    char *text = formats_example_plan();
    splice(text, "\"instances\"", "\"baselines\"",
           "\"instances\": [], \"workers\": [], \"assignment\": [],\n");
    formats_check_refused(reread, text,
                          "$.instances: found none in a plan whose status is "
                          "optimal, expected at least one");
    free(text);
}

static void test_instances_when_they_hold_more_types_than_workers_then_refused(void)
{
    char *text = formats_example_plan();
    char *other = formats_edit(
        text, ",\n    {\"worker_type\": \"" A100 "\", \"count\": 1, \"utilization\": 0.9}", "");
    char *moved =
        formats_edit(other, "{\"" A10G "\": 0.25, \"" A100 "\": 0.75}", "{\"" A10G "\": 1}");
    formats_check_refused(reread, moved,
                          "$.workers: found no row for \"" A100
                          "\", expected one, as the instances hold 1 workers");
    free(moved);
    free(other);
    free(text);
}

static void test_file_when_written_then_reads_back_the_same(void)
{
    char *text = formats_example_plan();
    formats_check_round_trip(reread, text);
    char *gamma = formats_edit(text, "{\"process\": \"poisson\"}",
                               "{\"process\": \"gamma\", \"burstiness\": 0.31}");
    formats_check_round_trip(reread, gamma);
    char *trace = formats_edit(text, "{\"process\": \"poisson\"}", "{\"process\": \"trace\"}");
    formats_check_round_trip(reread, trace);
    free(trace);
    free(gamma);
    free(text);
}

static void test_memory_when_any_allocation_fails_then_nothing_leaks(void)
{
    char *text = formats_example_plan();
    char *warned = formats_edit(text, "\"warnings\": []", "\"warnings\": [\"a\", \"b\"]");
    formats_check_torture(reread, warned);
    free(warned);
    free(text);
}

int main(void)
{
    RUN(test_values_when_read_then_are_those_of_the_file);
    RUN(test_bad_field_when_read_then_one_sentence_says_where);
    RUN(test_infeasible_plan_when_read_then_has_reasons_and_no_rows);
    RUN(test_feasible_plan_when_it_serves_nothing_then_refused);
    RUN(test_instances_when_they_hold_more_types_than_workers_then_refused);
    RUN(test_file_when_written_then_reads_back_the_same);
    RUN(test_memory_when_any_allocation_fails_then_nothing_leaks);
    return check_finish();
}
