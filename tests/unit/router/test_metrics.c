/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The router's metrics: objectives are exact bucket bounds, series outlive a plan, a page of a large
 * fleet is whole, and the reference page is the table.  With --write the page is written instead.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "router/metrics.h"
#include "tests/check.h"

#define PAGE "docs/reference/metrics.md"

static bool has_bound(const struct med_hist *hist, double bound)
{
    for (size_t i = 0; i < hist->bound_count; i++) {
        if (hist->bounds[i] == bound)
            return true;
    }
    return false;
}

/* ---- a plan of any size, and the dispatch that executes it ---- */

enum {
    TYPES_MAX = 8,
    EDGES_MAX = 10
};

struct fleet {
    struct med_plan plan;
    struct med_profile profiles[TYPES_MAX];
    struct med_plan_workers workers[TYPES_MAX];
    struct med_plan_placement placements[TYPES_MAX];
    struct med_plan_instance instances[TYPES_MAX];
    char names[TYPES_MAX][24];
    double inputs[EDGES_MAX], outputs[EDGES_MAX];
    struct med_dispatch *dispatch;
};

static int on_send(void *arg, uint64_t request, uint32_t attempt, uint32_t worker)
{
    (void)arg;
    (void)request;
    (void)attempt;
    (void)worker;
    return 0;
}

static void on_cancel(void *arg, uint64_t request, uint32_t attempt, uint32_t worker)
{
    (void)on_send(arg, request, attempt, worker);
}

static void on_end(void *arg, uint64_t request, enum med_outcome outcome, int code)
{
    (void)arg;
    (void)request;
    (void)outcome;
    (void)code;
}

static void join(struct fleet *f, const char *type, const char *name)
{
    const struct med_dispatch_worker_hello hello = {.type_name = type,
                                                    .worker_id = name,
                                                    .incarnation = 1,
                                                    .model_len_max = 100000,
                                                    .sequences_max = 64,
                                                    .kv_tokens = 1000000};
    uint32_t worker = 0;
    CHECK_INT(med_dispatch_worker_join(f->dispatch, 1, &hello, &worker, NULL), 0);
}

/* Types are named from `first` on; one instance of 2 $/h with `each` workers per type. */
static void fleet_init(struct fleet *f, int first, size_t types, size_t inputs, size_t outputs,
                       int64_t each, const char *slos)
{
    struct med_err err = {0};
    memset(f, 0, sizeof(*f));
    struct med_dispatch_type dispatch_types[TYPES_MAX];
    memset(dispatch_types, 0, sizeof(dispatch_types));
    for (size_t i = 0; i < inputs; i++)
        f->inputs[i] = (double)(100 * (i + 1));
    for (size_t i = 0; i < outputs; i++)
        f->outputs[i] = (double)(50 * (i + 1));
    for (size_t t = 0; t < types; t++) {
        (void)snprintf(f->names[t], sizeof(f->names[t]), "type-%d", first + (int)t);
        f->profiles[t].worker_type = f->names[t];
        f->profiles[t].gpus_per_worker = 1;
        f->workers[t] = (struct med_plan_workers){.worker_type = t, .count = each};
        f->placements[t] = (struct med_plan_placement){.worker_type = t, .count = each};
        f->instances[t] = (struct med_plan_instance){.instance = f->names[t],
                                                     .cloud = f->names[t],
                                                     .region = f->names[t],
                                                     .count = 1,
                                                     .price_usd_per_hour = 2,
                                                     .workers = &f->placements[t],
                                                     .worker_count = 1};
        (void)snprintf(dispatch_types[t].name, sizeof(dispatch_types[t].name), "%s", f->names[t]);
        dispatch_types[t].workers_planned = each;
    }
    f->plan = (struct med_plan){.model_name = f->names[0],
                                .workload_name = f->names[0],
                                .profiles = f->profiles,
                                .profile_count = types,
                                .workers = f->workers,
                                .worker_count = types,
                                .instances = f->instances,
                                .instance_count = types};
    f->plan.grid.input_edges = f->inputs;
    f->plan.grid.output_edges = f->outputs;
    f->plan.grid.input_edge_count = inputs;
    f->plan.grid.output_edge_count = outputs;
    CHECK_INT(med_slos_parse(slos, &f->plan.slos, &err), 0);
    struct med_dispatch_bucket bucket = {
        .input_mean = 50, .output_mean = 25, .rate_per_s = 1, .shares = {1}};
    const struct med_dispatch_config config = {.types = dispatch_types,
                                               .type_count = types,
                                               .input_edges = f->inputs,
                                               .input_edge_count = inputs,
                                               .output_edges = f->outputs,
                                               .output_edge_count = outputs,
                                               .buckets = &bucket,
                                               .bucket_count = 1,
                                               .queue_wait_ns = 1000000000,
                                               .queue_max = 16,
                                               .requests_max = 64,
                                               .workers_max = 64,
                                               .suspect_after_ns = 3000000000,
                                               .gone_after_ns = 10000000000,
                                               .attempts_max = 3};
    const struct med_dispatch_ops ops = {.send = on_send, .cancel = on_cancel, .end = on_end};
    CHECK_INT(med_dispatch_new(&config, &ops, &f->dispatch, &err), 0);
}

static void fleet_release(struct fleet *f)
{
    med_dispatch_free(f->dispatch);
}

static struct med_buf page_of(const struct fleet *f, const struct med_router_metrics *metrics)
{
    const struct med_grpc_call_count calls[] = {{"medley.v1.Inference/Generate", "OK", 3}};
    const struct med_router_metrics_view view = {.metrics = metrics,
                                                 .dispatch = f->dispatch,
                                                 .plan = &f->plan,
                                                 .workers_max = 64,
                                                 .call_counts = calls,
                                                 .call_count_count = 1};
    struct med_buf page;
    med_buf_init(&page, 64 << 20);
    CHECK_INT(med_router_metrics_write(&view, &page), 0);
    CHECK_INT(med_buf_append(&page, "", 1), 0);
    return page;
}

static bool says(const struct fleet *f, const struct med_router_metrics *metrics, const char *line)
{
    struct med_buf page = page_of(f, metrics);
    bool found = strstr(page.data, line) != NULL;
    med_buf_release(&page);
    return found;
}

/* ---- tests ---- */

static void test_objectives_are_bounds(void)
{
    static struct med_router_metrics metrics;
    struct fleet f;
    fleet_init(&f, 0, 1, 2, 2, 1, "tpot.mean=117ms,ttft.mean=1.7s,e2e_per_token.mean=133ms");
    CHECK_INT(med_router_metrics_init(&metrics, &f.plan, f.dispatch), 0);
    CHECK(has_bound(&metrics.ttft, 1.7));
    CHECK(has_bound(&metrics.tpot, 0.117));
    CHECK(has_bound(&metrics.itl, 0.117));
    CHECK(has_bound(&metrics.e2e_per_token, 0.133));
    CHECK(!has_bound(&metrics.ttft, 0.117));
    for (size_t i = 0; i < MED_HIST_TTFT_S_COUNT; i++)
        CHECK(has_bound(&metrics.ttft, MED_HIST_TTFT_S[i]));
    med_router_metrics_release(&metrics);
    fleet_release(&f);
}

static struct med_router_ended ended(int64_t ttft_ms, int64_t tpot_ms, int64_t tokens)
{
    return (struct med_router_ended){
        .prompt_tokens = 150,
        .output_tokens = tokens,
        .predicted_output_tokens = 2 * tokens,
        .ttft_ns = ttft_ms * 1000000,
        .e2e_ns = (ttft_ms + (tokens > 1 ? tpot_ms * (tokens - 1) : 0)) * 1000000,
        .tpot_ns = tokens > 1 ? tpot_ms * 1000000 : -1,
        .predicted_tpot_ns = 10000000,
    };
}

static void test_objectives_are_counted(void)
{
    static struct med_router_metrics metrics;
    struct fleet f;
    fleet_init(&f, 0, 1, 2, 2, 1, "tpot.mean=100ms,ttft.mean=1s");
    CHECK_INT(med_router_metrics_init(&metrics, &f.plan, f.dispatch), 0);
    const struct med_router_ended all[] = {
        ended(500, 50, 10),   /* keeps both */
        ended(1000, 100, 10), /* just so */
        ended(2000, 50, 10),  /* late */
        ended(500, 150, 10),  /* slow */
        ended(500, 0, 1),     /* one token: it has no TPOT */
    };
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        med_router_metrics_ended(&metrics, &all[i]);
    CHECK(says(&f, &metrics, "medley_router_objective_requests_total{objective=\"ttft\"} 5\n"));
    CHECK(says(&f, &metrics, "medley_router_objective_met_total{objective=\"ttft\"} 4\n"));
    CHECK(says(&f, &metrics, "medley_router_objective_requests_total{objective=\"tpot\"} 4\n"));
    CHECK(says(&f, &metrics, "medley_router_objective_met_total{objective=\"tpot\"} 3\n"));
    CHECK(says(&f, &metrics, "medley_router_objective_met_total{objective=\"all\"} 3\n"));
    CHECK(!says(&f, &metrics, "objective=\"e2e_per_token\""));
    CHECK(says(&f, &metrics,
               "medley_router_completed_requests_total{input=\"200\",output=\"50\"} 5\n"));
    CHECK(says(&f, &metrics,
               "medley_router_tpot_observed_seconds_total{worker_type=\"type-0\",input=\"100\","
               "output=\"50\"} 0.350000000\n"));
    CHECK(says(&f, &metrics,
               "medley_router_output_tokens_observed_over_predicted_bucket{worker_type=\"type-0\","
               "le=\"0.5\"} 5\n"));
    med_router_metrics_release(&metrics);
    fleet_release(&f);
}

/* What has not happened has a series, so that an alert on its rate works from the first time. */
static void test_what_dispatch_decides_by_is_there_from_the_start(void)
{
    static struct med_router_metrics metrics;
    struct fleet f;
    fleet_init(&f, 0, 2, 2, 2, 1, "tpot.mean=100ms");
    CHECK_INT(med_router_metrics_init(&metrics, &f.plan, f.dispatch), 0);
    static const char *const zeros[] = {
        "overload_refused_total{cause=\"wait\"}",
        "overload_refused_total{cause=\"queue\"}",
        "overload_refused_total{cause=\"requests\"}",
        "overload_refused_total{cause=\"late\"}",
        "overload_refused_total{cause=\"door\"}",
        "admission_refused_total{worker_type=\"type-1\"}",
        "admission_rate_requests_per_second{worker_type=\"type-1\"}",
        "admission_queued{worker_type=\"type-1\"}",
        "admission_cap_requests{worker_type=\"type-1\"}",
        "admission_wait_seconds{worker_type=\"type-1\"}",
        "breakers{worker_type=\"type-1\",state=\"closed\"}",
        "breakers{worker_type=\"type-1\",state=\"open\"}",
        "breakers{worker_type=\"type-1\",state=\"probing\"}",
        "breaker_opened_total{worker_type=\"type-1\"}",
        "worker_faults_total{worker_type=\"type-1\",cause=\"silence\"}",
        "worker_faults_total{worker_type=\"type-1\",cause=\"link\"}",
        "worker_faults_total{worker_type=\"type-1\",cause=\"error\"}",
        "prefix_prompts_total{worker_type=\"type-1\"}",
        "prefix_picks_total{worker_type=\"type-1\"}",
        "prefix_expected_tokens_total{worker_type=\"type-1\"}",
        "prefix_cached_tokens_total{worker_type=\"type-1\"}",
        "prefix_distrusted_workers{worker_type=\"type-1\"}",
        "table_entries{table=\"users\"}",
        "table_entries{table=\"prefixes\"}",
        "length_predicted_tokens_total{input=\"200\"}",
        "length_observed_tokens_total{input=\"200\"}",
        "length_error_tokens_total{input=\"200\"}",
        "length_compared_requests_total{input=\"200\"}",
    };
    for (size_t i = 0; i < sizeof(zeros) / sizeof(zeros[0]); i++) {
        char line[128];
        (void)snprintf(line, sizeof(line), "\nmedley_router_%s 0\n", zeros[i]);
        if (!says(&f, &metrics, line))
            CHECK_STR("a page without it", line);
    }
    med_router_metrics_release(&metrics);
    fleet_release(&f);
}

/* Another plan has the same types at other places, another grid, other objectives. */
static void test_series_go_on_when_the_plan_changes(void)
{
    static struct med_router_metrics metrics;
    struct fleet old;
    struct fleet new;
    fleet_init(&old, 0, 2, 2, 2, 1, "tpot.mean=100ms"); // type-0, type-1
    fleet_init(&new, 1, 2, 3, 2, 4, "tpot.mean=100ms"); // type-1, type-2
    CHECK_INT(med_router_metrics_init(&metrics, &old.plan, old.dispatch), 0);
    med_traffic_cell_at(&metrics.traffic, 1, 0, 1)->picks = 5; // type-1, 100 x 100
    med_traffic_cell_at(&metrics.traffic, 0, 1, 1)->picks = 6; // type-0
    med_traffic_bucket_at(&metrics.traffic, 1, 0)->demand = 7;
    med_hist_add(&metrics.tpot, 0.05);
    CHECK_INT(med_router_metrics_replan(&metrics, &new.plan, new.dispatch), 0);
    CHECK_UINT(med_traffic_cell_at(&metrics.traffic, 0, 0, 1)->picks, 5);
    CHECK_UINT(med_traffic_cell_at(&metrics.traffic, 1, 0, 1)->picks, 0);
    CHECK_UINT(med_traffic_bucket_at(&metrics.traffic, 1, 0)->demand, 7);
    CHECK_UINT(med_traffic_bucket_at(&metrics.traffic, 2, 0)->demand, 0);
    CHECK_UINT(metrics.tpot.count, 1);
    CHECK(
        says(&new, &metrics,
             "medley_router_picks_total{worker_type=\"type-0\",input=\"200\",output=\"100\"} 6\n"));
    /* The old plan's workers are not the new one's cost: 4 workers share 2 $/h. */
    CHECK(metrics.traffic.types[0].usd_per_hour == 0);
    CHECK(metrics.traffic.types[1].usd_per_hour == 0.5);
    fleet_release(&new);
    fleet_init(&new, 1, 2, 3, 2, 4, "tpot.mean=90ms");
    CHECK_INT(med_router_metrics_replan(&metrics, &new.plan, new.dispatch), 0);
    CHECK(has_bound(&metrics.tpot, 0.09));
    CHECK_UINT(metrics.tpot.count, 0);
    med_router_metrics_release(&metrics);
    fleet_release(&new);
    fleet_release(&old);
}

static void test_workers_cost_what_the_plan_says(void)
{
    static struct med_router_metrics metrics;
    struct fleet f;
    fleet_init(&f, 0, 2, 2, 2, 4, "tpot.mean=100ms");
    CHECK_INT(med_router_metrics_init(&metrics, &f.plan, f.dispatch), 0);
    join(&f, "type-0", "a");
    join(&f, "type-0", "b");
    join(&f, "type-1", "c");
    med_router_metrics_spend(&metrics, f.dispatch, 64, INT64_C(7200) * 1000000000);
    CHECK(says(&f, &metrics, "medley_router_cost_usd_per_hour{worker_type=\"type-0\"} 1\n"));
    CHECK(says(&f, &metrics, "medley_router_cost_usd_total{worker_type=\"type-0\"} 2\n"));
    CHECK(says(&f, &metrics, "medley_router_cost_usd_total{worker_type=\"type-1\"} 1\n"));
    CHECK(!says(&f, &metrics, "medley_router_cost_usd_per_million_output_tokens{"));
    med_traffic_type_at(&metrics.traffic, 1)->output_tokens = 500000;
    CHECK(says(&f, &metrics,
               "medley_router_cost_usd_per_million_output_tokens{worker_type=\"type-1\"} 2\n"));
    med_router_metrics_release(&metrics);
    fleet_release(&f);
}

/* 64 workers, 60 buckets, 8 types, all with traffic. */
static void test_a_page_of_a_large_fleet(void)
{
    static struct med_router_metrics metrics;
    struct fleet f;
    const struct med_clock real = {.scale = 1};
    fleet_init(&f, 0, 8, 10, 6, 8, "tpot.mean=117ms,ttft.mean=1.7s");
    CHECK_INT(med_router_metrics_init(&metrics, &f.plan, f.dispatch), 0);
    for (int i = 0; i < 64; i++) {
        char name[24];
        (void)snprintf(name, sizeof(name), "worker-%d", i);
        join(&f, f.names[i % 8], name);
    }
    for (size_t cell = 0; cell < (size_t)8 * 60; cell++) {
        size_t type = cell / 60;
        int in = (int)(cell % 60 / 6);
        int out = (int)(cell % 6);
        med_traffic_cell_at(&metrics.traffic, type, in, out)->picks = cell + 1;
        for (int what = 0; what < MED_COMPARE_COUNT; what++) {
            med_traffic_compare(&metrics.traffic, type, in, out, (enum med_comparison)what,
                                1234567 + (int64_t)cell, 1234567);
        }
        med_traffic_bucket_at(&metrics.traffic, in, out)->demand++;
    }
    struct med_buf page = page_of(&f, &metrics);
    med_buf_release(&page);
    int64_t began_ns = med_clock_now_ns(&real);
    page = page_of(&f, &metrics);
    double ms = (double)(med_clock_now_ns(&real) - began_ns) / 1e6;
    size_t lines = 0;
    for (const char *c = page.data; *c != '\0'; c++)
        lines += *c == '\n';
    (void)printf("a page of 64 workers, 60 buckets and 8 types: %zu lines, %zu bytes, %.2f ms\n",
                 lines, page.length, ms);
    CHECK(lines > (size_t)8 * 60 * 10);
    CHECK(strstr(page.data, "medley_router_worker_state{worker=\"worker-63\",") != NULL);
    CHECK(strstr(page.data,
                 "medley_router_grpc_calls_total{method=\"medley.v1.Inference/Generate\","
                 "code=\"OK\"} 3\n") != NULL);
    med_buf_release(&page);
    for (uint32_t i = 0; i < 64; i++)
        med_dispatch_worker_gone(f.dispatch, 2, i);
    med_router_metrics_release(&metrics);
    fleet_release(&f);
}

static void test_the_reference_page_is_current(void)
{
    struct med_buf want;
    struct med_buf got;
    struct med_err err = {0};
    med_buf_init(&want, 1 << 20);
    med_buf_init(&got, 1 << 20);
    CHECK_INT(med_router_metrics_markdown(&want), 0);
    CHECK_INT(med_buf_read_file(&got, PAGE, &err), 0);
    if (got.length != want.length || memcmp(got.data, want.data, want.length) != 0)
        (void)fprintf(stderr, PAGE " is not current: test_router_metrics --write\n");
    CHECK_UINT(got.length, want.length);
    CHECK(got.length == want.length && memcmp(got.data, want.data, want.length) == 0);
    med_buf_release(&want);
    med_buf_release(&got);
}

static int write_page(void)
{
    struct med_buf page;
    med_buf_init(&page, 1 << 20);
    int rc = med_router_metrics_markdown(&page);
    FILE *file = rc == 0 ? fopen(PAGE, "w") : NULL;
    bool ok = file != NULL && fwrite(page.data, 1, page.length, file) == page.length;
    ok = (file == NULL || fclose(file) == 0) && ok;
    med_buf_release(&page);
    return ok ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--write") == 0)
        return write_page();
    RUN(test_objectives_are_bounds);
    RUN(test_objectives_are_counted);
    RUN(test_what_dispatch_decides_by_is_there_from_the_start);
    RUN(test_series_go_on_when_the_plan_changes);
    RUN(test_workers_cost_what_the_plan_says);
    RUN(test_a_page_of_a_large_fleet);
    RUN(test_the_reference_page_is_current);
    return check_finish();
}
