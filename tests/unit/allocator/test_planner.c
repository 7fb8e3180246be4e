/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From workload, profiles and catalogue to a plan: what is chosen, what the plan holds, what it says
 * when it cannot, and what is wrong input.
 */
#include "allocator/planner.h"

#include "allocator/report.h"
#include "base/alloc.h"
#include "tests/check.h"

struct world {
    struct med_workload workload;
    struct med_catalogue catalogue;
    struct med_profile profiles[3];
    struct med_planner_input input;
};

static const char *const profile_files[] = {"profiles/published/a10g-llama-2-7b-fp16.json",
                                            "profiles/published/a100-80gb-llama-2-7b-fp16.json",
                                            "profiles/published/h100-llama-2-7b-fp16.json"};

static void world_init(struct world *w)
{
    struct med_err err = {0};
    memset(w, 0, sizeof *w);
    REQUIRE(med_workload_read_file("allocator/workloads/azure-conversation.json", &w->workload,
                                   &err) == 0);
    REQUIRE(med_catalogue_read_file("profiles/catalogues/melange-paper.json", &w->catalogue,
                                    &err) == 0);
    for (size_t t = 0; t < 3; t++)
        REQUIRE(med_profile_read_file(profile_files[t], &w->profiles[t], &err) == 0);
    w->input = (struct med_planner_input){.workload = &w->workload,
                                          .profiles = w->profiles,
                                          .profile_count = 3,
                                          .catalogue = &w->catalogue,
                                          .utilization_max = 0.8,
                                          .time_limit_s = 60.0};
    REQUIRE(med_slos_parse("tpot.mean=120ms,ttft.mean=2s", &w->input.slos, &err) == 0);
}

static void world_release(struct world *w)
{
    med_workload_release(&w->workload);
    med_catalogue_release(&w->catalogue);
    for (size_t t = 0; t < 3; t++)
        med_profile_release(&w->profiles[t]);
}

/* What was planned reads back as a plan, which checks it across its fields. */
static void check_reads_back(const struct med_plan *plan)
{
    struct med_buf text;
    struct med_json_writer writer;
    struct med_json_doc doc;
    struct med_plan again;
    struct med_err err = {0};
    med_buf_init(&text, MED_LIMIT_JSON_BYTES);
    med_json_writer_init(&writer, &text, true);
    med_plan_write(&writer, plan);
    REQUIRE(med_json_writer_finish(&writer) == 0);
    REQUIRE(med_json_parse(text.data, text.length, "plan.json", &doc, &err) == 0);
    struct med_json_at root = med_json_root(&doc);
    int rc = med_plan_read(&root, &again, &err);
    CHECK_STR(err.text, "");
    if (rc == 0)
        med_plan_release(&again);
    med_json_free(&doc);
    med_buf_release(&text);
}

static void test_azure_when_planned_then_cheaper_than_each_kind(void)
{
    struct world w;
    struct med_plan plan;
    struct med_err err = {0};
    world_init(&w);
    REQUIRE(med_planner_run(&w.input, &plan, &err) == 0);
    CHECK_INT(plan.status, MED_PLAN_OPTIMAL);
    CHECK(plan.cost_usd_per_hour > 0.0);
    CHECK_DOUBLE(plan.lower_bound_usd_per_hour, plan.cost_usd_per_hour, 0.0);
    CHECK(plan.baseline_count >= 1);
    for (size_t k = 0; k < plan.baseline_count; k++) {
        CHECK(plan.baselines[k].cost_usd_per_hour >= plan.cost_usd_per_hour);
        CHECK(plan.baselines[k].saving >= 0.0);
    }
    double rate = 0.0;
    for (size_t i = 0; i < plan.assignment_count; i++) {
        double sum = 0.0;
        for (size_t t = 0; t < plan.profile_count; t++)
            sum += plan.assignment[i].shares[t];
        CHECK_DOUBLE(sum, 1.0, 1e-12);
        rate += plan.assignment[i].rate_per_s;
    }
    CHECK_DOUBLE(rate, w.workload.rate_per_s, 1e-9);
    for (size_t n = 0; n < plan.worker_count; n++)
        CHECK(plan.workers[n].utilization <= 0.8 * (1.0 + 2e-9));
    check_reads_back(&plan);
    med_plan_release(&plan);
    world_release(&w);
}

static void test_rate_when_doubled_then_not_cheaper(void)
{
    struct world w;
    double before = 0.0;
    world_init(&w);
    for (int n = 0; n < 7; n++) {
        double rate = pow(2.0, n);
        struct med_plan plan;
        struct med_err err = {0};
        w.input.rate_per_s = rate;
        REQUIRE(med_planner_run(&w.input, &plan, &err) == 0);
        CHECK_INT(plan.status, MED_PLAN_OPTIMAL);
        CHECK(plan.cost_usd_per_hour >= before);
        CHECK(plan.cost_usd_per_hour <= 2.0 * before + 8.0);
        before = plan.cost_usd_per_hour;
        med_plan_release(&plan);
    }
    world_release(&w);
}

static void test_options_when_stricter_then_not_cheaper(void)
{
    struct world w;
    struct med_plan plan;
    struct med_plan strict;
    struct med_err err = {0};
    world_init(&w);
    REQUIRE(med_planner_run(&w.input, &plan, &err) == 0);
    w.input.upper = true;
    REQUIRE(med_planner_run(&w.input, &strict, &err) == 0);
    CHECK(strict.cost_usd_per_hour >= plan.cost_usd_per_hour);
    check_reads_back(&strict);
    med_plan_release(&strict);
    w.input.upper = false;
    w.input.utilization_max = 0.4;
    REQUIRE(med_planner_run(&w.input, &strict, &err) == 0);
    CHECK(strict.cost_usd_per_hour > plan.cost_usd_per_hour);
    med_plan_release(&strict);
    w.input.utilization_max = 0.8;
    REQUIRE(med_slos_parse("tpot.mean=30ms,ttft.mean=1s", &w.input.slos, &err) == 0);
    REQUIRE(med_planner_run(&w.input, &strict, &err) == 0);
    CHECK(strict.cost_usd_per_hour > plan.cost_usd_per_hour);
    med_plan_release(&strict);
    med_plan_release(&plan);
    world_release(&w);
}

static void test_slo_when_impossible_then_reason_names_it(void)
{
    struct world w;
    struct med_plan plan;
    struct med_err err = {0};
    bool changed = false;
    world_init(&w);
    REQUIRE(med_slos_parse("tpot.mean=5ms", &w.input.slos, &err) == 0);
    REQUIRE(med_planner_run(&w.input, &plan, &err) == 0);
    CHECK_INT(plan.status, MED_PLAN_INFEASIBLE);
    CHECK_INT(plan.instance_count, 0);
    REQUIRE(plan.reason_count >= 2);
    CHECK_CONTAINS(plan.reasons[0], "input and");
    CHECK_CONTAINS(plan.reasons[0], "tpot.mean needs >=");
    CHECK_CONTAINS(plan.reasons[0], "on A10G");
    CHECK_CONTAINS(plan.reasons[0], "on H100");
    for (size_t n = 0; n < plan.reason_count; n++) {
        changed =
            changed || strstr(plan.reasons[n], "smallest change: tpot.mean of at least") != NULL;
    }
    CHECK(changed);
    check_reads_back(&plan);
    med_plan_release(&plan);
    world_release(&w);
}

/* The smallest change that is named is enough. */
static void test_slo_when_changed_as_told_then_feasible(void)
{
    struct world w;
    struct med_plan plan;
    struct med_err err = {0};
    char objective[64] = "";
    world_init(&w);
    REQUIRE(med_slos_parse("tpot.mean=5ms", &w.input.slos, &err) == 0);
    REQUIRE(med_planner_run(&w.input, &plan, &err) == 0);
    for (size_t n = 0; n < plan.reason_count; n++) {
        const char *at = strstr(plan.reasons[n], "of at least ");
        if (at != NULL)
            (void)snprintf(objective, sizeof objective, "tpot.mean=%gms", strtod(at + 12, NULL));
    }
    med_plan_release(&plan);
    REQUIRE(med_slos_parse(objective, &w.input.slos, &err) == 0);
    REQUIRE(med_planner_run(&w.input, &plan, &err) == 0);
    CHECK_INT(plan.status, MED_PLAN_OPTIMAL);
    med_plan_release(&plan);
    world_release(&w);
}

static void test_choice_when_names_are_given_then_only_these(void)
{
    struct world w;
    struct med_plan plan;
    struct med_err err = {0};
    const char *only[] = {"a100-80gb", "h100"};
    const char *caps[] = {"a100-80gb=2"};
    struct med_planner_choice choice = {
        .instances = only, .instance_count = 2, .caps = caps, .cap_count = 1};
    world_init(&w);
    REQUIRE(med_planner_choose(&w.catalogue, &choice, &err) == 0);
    CHECK_INT(w.catalogue.instance_count, 2);
    REQUIRE(med_planner_run(&w.input, &plan, &err) == 0);
    for (size_t k = 0; k < plan.instance_count; k++) {
        CHECK(strcmp(plan.instances[k].instance, "a10g") != 0);
        if (strcmp(plan.instances[k].instance, "a100-80gb") == 0)
            CHECK(plan.instances[k].count <= 2);
    }
    med_plan_release(&plan);
    world_release(&w);
}

static void test_choice_when_name_is_unknown_then_sentence(void)
{
    const char *wrong[] = {"a100"};
    const char *bad_caps[] = {"a100-80gb", "=3", "h100=x", "h100=-1", "b200=1"};
    struct world w;
    world_init(&w);
    for (size_t n = 0; n < 5; n++) {
        struct med_err err = {0};
        struct med_planner_choice choice = {.caps = &bad_caps[n], .cap_count = 1};
        CHECK(med_planner_choose(&w.catalogue, &choice, &err) < 0);
        CHECK_CONTAINS(err.text, "--cap");
    }
    struct med_err err = {0};
    struct med_planner_choice choice = {.instances = wrong, .instance_count = 1};
    CHECK_INT(med_planner_choose(&w.catalogue, &choice, &err), MED_E_USAGE);
    CHECK_CONTAINS(err.text, "has no \"a100\"");
    const char *all[] = {"l4", "a10g", "a100-80gb", "h100"};
    choice = (struct med_planner_choice){.excluded = all, .excluded_count = 4};
    CHECK_INT(med_planner_choose(&w.catalogue, &choice, &err), MED_E_USAGE);
    CHECK_CONTAINS(err.text, "is left");
    world_release(&w);
}

static void test_profiles_when_of_two_models_then_sentence(void)
{
    struct world w;
    struct med_plan plan;
    struct med_err err = {0};
    world_init(&w);
    char *name = w.profiles[1].model.name;
    w.profiles[1].model.name = med_strdup("llama-2-13b");
    CHECK_INT(med_planner_run(&w.input, &plan, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "llama-2-13b");
    CHECK_CONTAINS(err.text, "expected profiles of one model");
    med_free(w.profiles[1].model.name);
    w.profiles[1].model.name = name;
    world_release(&w);
}

static void test_catalogue_when_no_gpu_matches_then_sentence(void)
{
    struct world w;
    struct med_plan plan;
    struct med_err err = {0};
    const char *only[] = {"l4"};
    struct med_planner_choice choice = {.instances = only, .instance_count = 1};
    world_init(&w);
    REQUIRE(med_planner_choose(&w.catalogue, &choice, &err) == 0);
    CHECK_INT(med_planner_run(&w.input, &plan, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "no instance of the catalogue");
    world_release(&w);
}

static void test_modelled_when_cells_are_then_one_warning_per_type(void)
{
    struct world w;
    struct med_plan plan;
    struct med_err err = {0};
    size_t found = 0;
    world_init(&w);
    REQUIRE(med_planner_run(&w.input, &plan, &err) == 0);
    for (size_t n = 0; n < plan.warning_count; n++)
        found += strstr(plan.warnings[n], "modelled") != NULL ? 1 : 0;
    CHECK(plan.worker_count > 0);
    CHECK_INT(found, plan.worker_count);
    med_plan_release(&plan);
    world_release(&w);
}

static void test_report_when_printed_then_says_what_matters(void)
{
    static const char *const parts[] = {
        "Rent",    "total", "$/h", "proved", "Instead, one kind alone", "a10g-llama-2-7b-fp16",
        "modelled"};
    struct world w;
    struct med_plan plan;
    struct med_buf text;
    struct med_err err = {0};
    struct med_report_style plain = {0};
    struct med_report_style colour = {.colour = true};
    world_init(&w);
    REQUIRE(med_planner_run(&w.input, &plan, &err) == 0);
    med_buf_init(&text, 1 << 16);
    REQUIRE(med_report_print(&text, &plan, &plain) == 0);
    for (size_t n = 0; n < sizeof parts / sizeof parts[0]; n++)
        CHECK_CONTAINS(text.data, parts[n]);
    CHECK(strchr(text.data, '\033') == NULL);
    med_buf_clear(&text);
    REQUIRE(med_report_print(&text, &plan, &colour) == 0);
    CHECK_CONTAINS(text.data, "\033[1m");
    med_buf_release(&text);
    med_plan_release(&plan);
    world_release(&w);
}

static size_t row_of(const struct world *w, const char *instance)
{
    size_t k = 0;
    while (strcmp(w->catalogue.instances[k].instance, instance) != 0)
        k++;
    return k;
}

static void test_counts_when_those_of_a_plan_then_its_mix(void)
{
    struct world w;
    struct med_plan plan, again, half;
    struct med_err err = {0};
    int64_t counts[64] = {0};
    world_init(&w);
    w.input.rate_per_s = 64;
    REQUIRE(w.catalogue.instance_count <= 64);
    REQUIRE(med_planner_run(&w.input, &plan, &err) == 0);
    for (size_t k = 0; k < plan.instance_count; k++)
        counts[row_of(&w, plan.instances[k].instance)] = plan.instances[k].count;
    w.input.counts = counts;
    REQUIRE(med_planner_run(&w.input, &again, &err) == 0);
    CHECK_INT(again.status, MED_PLAN_FEASIBLE);
    CHECK_DOUBLE(again.cost_usd_per_hour, plan.cost_usd_per_hour, 1e-9);
    REQUIRE(again.worker_count == plan.worker_count);
    for (size_t n = 0; n < plan.worker_count; n++) {
        CHECK_INT(again.workers[n].count, plan.workers[n].count);
        CHECK_DOUBLE(again.workers[n].utilization, plan.workers[n].utilization, 1e-6);
    }
    check_reads_back(&again);
    /* Twice the rate: the same fleet, shared as well as it can be, and overloaded. */
    w.input.rate_per_s = 128;
    REQUIRE(med_planner_run(&w.input, &half, &err) == 0);
    CHECK_DOUBLE(half.cost_usd_per_hour, plan.cost_usd_per_hour, 1e-9);
    for (size_t n = 0; n < half.worker_count; n++)
        CHECK(half.workers[n].utilization > 1.2);
    med_plan_release(&plan);
    med_plan_release(&again);
    med_plan_release(&half);
    world_release(&w);
}

static void test_counts_when_nobody_serves_a_size_then_sentence(void)
{
    struct world w;
    struct med_plan plan;
    struct med_err err = {0};
    int64_t counts[64] = {0};
    world_init(&w);
    w.input.counts = counts;
    CHECK_INT(med_planner_run(&w.input, &plan, &err), MED_E_INFEASIBLE);
    CHECK_CONTAINS(err.text, "no worker of the mix serves requests of");
    world_release(&w);
}

/* counts: NULL for the cheapest. */
static void fail_each_allocation(const int64_t *counts)
{
    struct world w;
    int failed = 0;
    world_init(&w);
    w.input.counts = counts;
    w.workload.bucket_count = 4;
    for (uint64_t nth = 1;; nth += 7) {
        struct med_plan plan;
        struct med_err err = {0};
        int64_t before = med_alloc_bytes_live();
        (void)med_alloc_fail_nth(nth);
        int rc = med_planner_run(&w.input, &plan, &err);
        uint64_t made = med_alloc_fail_nth(0);
        if (rc == 0)
            med_plan_release(&plan);
        CHECK_INT(med_alloc_bytes_live(), before);
        failed += rc < 0 ? 1 : 0;
        if (made < nth)
            break;
    }
    CHECK(failed > 5);
    w.workload.bucket_count = 4;
    world_release(&w);
}

static void test_run_when_memory_fails_then_nothing_leaks(void)
{
    int64_t counts[64];
    for (size_t k = 0; k < 64; k++)
        counts[k] = 1;
    fail_each_allocation(NULL);
    fail_each_allocation(counts);
}

int main(void)
{
    RUN(test_azure_when_planned_then_cheaper_than_each_kind);
    RUN(test_rate_when_doubled_then_not_cheaper);
    RUN(test_options_when_stricter_then_not_cheaper);
    RUN(test_slo_when_impossible_then_reason_names_it);
    RUN(test_slo_when_changed_as_told_then_feasible);
    RUN(test_choice_when_names_are_given_then_only_these);
    RUN(test_choice_when_name_is_unknown_then_sentence);
    RUN(test_profiles_when_of_two_models_then_sentence);
    RUN(test_catalogue_when_no_gpu_matches_then_sentence);
    RUN(test_modelled_when_cells_are_then_one_warning_per_type);
    RUN(test_report_when_printed_then_says_what_matters);
    RUN(test_counts_when_those_of_a_plan_then_its_mix);
    RUN(test_counts_when_nobody_serves_a_size_then_sentence);
    RUN(test_run_when_memory_fails_then_nothing_leaks);
    return check_finish();
}
