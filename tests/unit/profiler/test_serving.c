/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Serving points against a server whose truth is known: the real scheduler on a virtual clock, its
 * iterations as long as a latency model says.  The capacity that the measurement finds must be the one
 * that the planner computes.
 */
#include "allocator/capacity.h"
#include "base/alloc.h"
#include "profiles/profiler/fit_serving.h"
#include "profiles/profiler/serving.h"
#include "tests/check.h"
#include "worker/engine/scheduler.h"

#include <math.h>

#define MS INT64_C(1000000)

static const struct med_latency model = {
    .fixed_ms = 8,
    .sequence_ms = 1.5,
    .weights_ms = 12,
    .linear_ms_per_token = 0.05,
    .kv_ms_per_token = 0.0005,
    .pair_ms = 1e-6,
    .model_len_max = 4096,
    .sequences_max = 64,
    .batched_tokens_max = 512,
    .block_tokens = 16,
    .kv_tokens = 65536,
};

/* ---- a server in memory ---- */

struct world {
    struct med_objectives objectives;
    struct med_search search;
    double now_s;
    size_t points, alone, cut;
    bool refuses;       /* every request fails */
    size_t refuse_over; /* in flight; 0: never */
    double rates[64];
    bool meets[64];
    int stop_after; /* points; 0: never */
};

static void record_token(struct med_bench_record *r, int64_t at_ns)
{
    if (r->first_ns < 0)
        r->first_ns = at_ns;
    r->last_ns = at_ns;
    r->tokens++;
}

static void send(struct med_bench_record *r, struct med_scheduler *scheduler, int64_t index,
                 size_t in_flight, const struct world *world)
{
    r->sent_ns = r->due_ns;
    r->status = MED_BENCH_NOT_ENDED;
    bool refused = world->refuses || (world->refuse_over && in_flight >= world->refuse_over);
    struct med_sequence_spec spec = {.id = (uint64_t)index,
                                     .prompt_tokens = r->input_tokens,
                                     .output_tokens_max = r->output_tokens,
                                     .user = r};
    if (refused || med_scheduler_add(scheduler, &spec) < 0) {
        r->status = 8;
        r->end_ns = r->sent_ns;
    }
}

/* Runs until all have ended or the watch says that it is enough. */
static void simulate(struct world *world, const struct med_point_load *load,
                     const struct med_arrivals *arrivals, struct med_point_watch *watch,
                     struct med_bench_run *run)
{
    struct med_scheduler_config config = {.block_tokens = model.block_tokens,
                                          .kv_tokens = model.kv_tokens,
                                          .model_len_max = model.model_len_max,
                                          .sequences_max = model.sequences_max,
                                          .batched_tokens_max = model.batched_tokens_max,
                                          .table_max = 16384};
    struct med_scheduler *scheduler = NULL;
    REQUIRE(med_scheduler_new(&config, &scheduler, NULL) == 0);
    run->records = med_calloc(arrivals->count, sizeof(*run->records));
    REQUIRE(run->records != NULL);
    run->count = arrivals->count;
    for (size_t i = 0; i < run->count; i++) {
        run->records[i] = (struct med_bench_record){.due_ns = arrivals->items[i].at_ns,
                                                    .sent_ns = -1,
                                                    .first_ns = -1,
                                                    .last_ns = -1,
                                                    .end_ns = -1,
                                                    .input_tokens = load->input_tokens,
                                                    .output_tokens = load->output_tokens,
                                                    .prompt_tokens = load->input_tokens,
                                                    .status = MED_BENCH_NOT_SENT};
    }
    bool alone = load->rate_per_s == 0;
    int64_t now_ns = 0;
    size_t next = 0, ended = 0, in_flight = 0;
    while (ended < run->count && !run->ended_early) {
        if (!med_scheduler_has_work(scheduler) && next < run->count && !alone &&
            run->records[next].due_ns > now_ns)
            now_ns = run->records[next].due_ns;
        while (next < run->count &&
               (alone ? in_flight == 0 : run->records[next].due_ns <= now_ns)) {
            struct med_bench_record *r = &run->records[next];
            if (alone)
                r->due_ns = now_ns;
            send(r, scheduler, (int64_t)next, in_flight, world);
            next++;
            if (r->status == MED_BENCH_NOT_ENDED) {
                in_flight++;
                continue;
            }
            ended++;
            run->ended_early = !alone && med_point_watch_take(watch, r, next - 1);
        }
        if (!med_scheduler_has_work(scheduler))
            continue;
        now_ns +=
            (int64_t)(1e6 * med_latency_step_ms(&model, &med_scheduler_plan(scheduler, 0)->load));
        const struct med_sequence_event *events = NULL;
        size_t count = med_scheduler_commit(scheduler, NULL, &events);
        for (size_t e = 0; e < count; e++) {
            struct med_bench_record *r = events[e].user;
            record_token(r, now_ns);
            if (events[e].end == MED_END_NONE)
                continue;
            r->end_ns = now_ns;
            r->status = 0;
            r->next_position = r->tokens;
            in_flight--;
            ended++;
            if (!alone && med_point_watch_take(watch, r, (size_t)(r - run->records)))
                run->ended_early = true;
        }
    }
    for (size_t i = 0; i < run->count; i++) {
        if (run->records[i].status == MED_BENCH_NOT_ENDED) {
            run->records[i].status = 1; // cancelled
            run->records[i].end_ns = now_ns;
        }
    }
    world->now_s += (double)now_ns / 1e9;
    med_scheduler_free(scheduler);
}

static int measure(void *arg, const struct med_serving_ask *ask, struct med_point *ret_point,
                   struct med_err *err)
{
    struct world *world = arg;
    struct med_point_load load = {.input_tokens = (int64_t)ask->input_tokens,
                                  .output_tokens = (int64_t)ask->output_tokens,
                                  .prompt_units = (int64_t)ask->input_tokens,
                                  .rate_per_s = ask->rate_per_s,
                                  .requests = ask->requests,
                                  .warm_s = ask->warm_s,
                                  .cool_s = ask->cool_s,
                                  .seed = 5 + ask->size};
    struct med_arrivals arrivals;
    struct med_point_window window;
    int rc = med_point_schedule(&load, &arrivals, &window, err);
    if (rc < 0)
        return rc;
    struct med_point_watch watch;
    med_point_watch_init(&watch, ask->objectives, &window);
    struct med_bench_run run = {0};
    med_sample_init(&run.gaps.kept);
    simulate(world, &load, &arrivals, &watch, &run);
    rc = med_point_from_run(&run, &load, &window, ret_point);
    med_arrivals_release(&arrivals);
    med_bench_run_release(&run);
    return rc;
}

static double now_s(void *arg)
{
    return ((struct world *)arg)->now_s;
}

static int on_point(void *arg, const struct med_search_step *step, const struct med_point *point,
                    enum med_serving_verdict verdict)
{
    struct world *world = arg;
    if (step->rate_per_s == 0) {
        world->alone++;
    } else if (world->points < 64) {
        world->rates[world->points] = step->rate_per_s;
        world->meets[world->points] = verdict == MED_SERVING_MEETS;
        world->points++;
    }
    world->cut += point->row.cut_short;
    return world->stop_after && (int)(world->points + world->alone) >= world->stop_after
               ? MED_E_CANCELLED
               : 0;
}

static void world_init(struct world *world, const char *objectives)
{
    *world = (struct world){0};
    struct med_err err;
    REQUIRE(med_objectives_parse(objectives, &world->objectives, &err) == 0);
    med_search_init(&world->search, 0.05, 600, 12);
}

static int world_run(struct world *world, double seconds, struct med_err *err)
{
    struct med_serving_config config = {.objectives = &world->objectives,
                                        .requests = 600,
                                        .seconds = seconds,
                                        .measure = measure,
                                        .measure_arg = world,
                                        .now_s = now_s,
                                        .now_arg = world,
                                        .on_point = on_point,
                                        .point_arg = world};
    return med_serving_run(&config, &world->search, err);
}

/* ---- what is found ---- */

static double planned_capacity(double input, double output, const char *objectives)
{
    struct med_slos slos;
    struct med_err err;
    REQUIRE(med_slos_parse(objectives, &slos, &err) == 0);
    struct med_request_size size = {input, output};
    struct med_capacity capacity;
    REQUIRE(med_capacity_of_model(&model, &size, &slos, &capacity) == 0);
    return capacity.requests_per_s;
}

static void test_capacity_when_measured_then_is_the_planners(void)
{
    static const struct {
        double input, output;
        const char *objectives;
    } cases[] = {
        {100, 40, "tpot.mean=50ms"},
        {800, 20, "ttft.mean=400ms"},
        {200, 100, "tpot.mean=60ms,ttft.mean=300ms"},
        {300, 30, "e2e_per_token.mean=70ms"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct world world;
        struct med_err err = {0};
        world_init(&world, cases[i].objectives);
        REQUIRE(med_search_add(&world.search, cases[i].input, cases[i].output, 1) == 0);
        CHECK_INT(world_run(&world, INFINITY, &err), 0);
        double want = planned_capacity(cases[i].input, cases[i].output, cases[i].objectives);
        const struct med_search_size *s = &world.search.sizes[0];
        CHECK(med_search_is_done(&world.search, 0));
        CHECK(world.points < 12); /* by its precision, not by the number of points */
        /* 5 % of precision, and the chance of 600 arrivals. */
        CHECK_DOUBLE(s->met_per_s / want, 1, 0.15);
        CHECK(s->broken_per_s <= 1.051 * s->met_per_s);
    }
}

static void test_sizes_when_several_then_later_ones_are_guessed_better(void)
{
    struct world world;
    struct med_err err = {0};
    world_init(&world, "tpot.mean=50ms,ttft.mean=1s");
    static const double sizes[][2] = {{100, 20}, {100, 80}, {400, 20}, {400, 80}, {1000, 50}};
    for (size_t i = 0; i < 5; i++)
        REQUIRE(med_search_add(&world.search, sizes[i][0], sizes[i][1], 0.2) == 0);
    CHECK_INT(world_run(&world, INFINITY, &err), 0);
    CHECK_INT(world.alone >= 5, true);
    for (size_t i = 0; i < 5; i++) {
        double want = planned_capacity(sizes[i][0], sizes[i][1], "tpot.mean=50ms,ttft.mean=1s");
        CHECK_DOUBLE(world.search.sizes[i].met_per_s / want, 1, 0.15);
    }
    CHECK(world.points <= 35);
}

static void test_budget_when_short_then_the_heavy_size_comes_first(void)
{
    struct world world;
    struct med_err err = {0};
    world_init(&world, "tpot.mean=50ms");
    REQUIRE(med_search_add(&world.search, 100, 10, 0.02) == 0);
    REQUIRE(med_search_add(&world.search, 400, 60, 0.9) == 0);
    REQUIRE(med_search_add(&world.search, 100, 20, 0.08) == 0);
    CHECK_INT(world_run(&world, 300, &err), 0);
    CHECK(world.now_s < 330);
    CHECK(world.search.sizes[1].met_per_s > 0);
    CHECK(world.search.sizes[1].points > world.search.sizes[0].points);
    CHECK(!med_search_is_done(&world.search, 0));
}

static void test_objective_when_no_idle_server_keeps_it_then_the_size_is_left(void)
{
    struct world world;
    struct med_err err = {0};
    world_init(&world, "tpot.mean=10ms");
    REQUIRE(med_search_add(&world.search, 100, 20, 1) == 0);
    CHECK_INT(world_run(&world, INFINITY, &err), 0);
    CHECK_INT(world.alone, 1);
    CHECK_INT(world.points, 0);
    CHECK(world.search.sizes[0].stopped);
}

static void test_server_when_it_refuses_all_then_an_error_after_three(void)
{
    struct world world;
    struct med_err err = {0};
    world_init(&world, "tpot.mean=50ms");
    world.refuses = true;
    for (size_t i = 0; i < 5; i++)
        REQUIRE(med_search_add(&world.search, 100 + 100 * (double)i, 20, 0.2) == 0);
    CHECK_INT(world_run(&world, INFINITY, &err), MED_E_IO);
    CHECK_CONTAINS(err.text, "none of the requests of 3 points");
}

static void test_server_when_it_refuses_what_is_too_much_then_capacity_is_below(void)
{
    struct world world;
    struct med_err err = {0};
    world_init(&world, "tpot.mean=500ms");
    world.refuse_over = 12;
    REQUIRE(med_search_add(&world.search, 100, 40, 1) == 0);
    CHECK_INT(world_run(&world, INFINITY, &err), 0);
    const struct med_search_size *s = &world.search.sizes[0];
    CHECK(s->met_per_s > 0);
    CHECK(s->met_per_s < 0.8 * planned_capacity(100, 40, "tpot.mean=500ms"));
}

static struct med_point point_at(struct world *world, double rate, int64_t requests)
{
    struct med_serving_ask ask = {.input_tokens = 100,
                                  .output_tokens = 40,
                                  .rate_per_s = rate,
                                  .requests = requests,
                                  .warm_s = 3,
                                  .cool_s = 4,
                                  .objectives = &world->objectives};
    struct med_point point;
    struct med_err err;
    REQUIRE(measure(world, &ask, &point, &err) == 0);
    return point;
}

static void test_saturation_when_over_the_greatest_rate_then_said(void)
{
    struct world world;
    world_init(&world, "tpot.p99=100s"); /* never broken: the run goes to its end */
    double greatest = planned_capacity(100, 40, "tpot.mean=100s") / 0.95;
    struct med_point below = point_at(&world, 0.7 * greatest, 1000);
    CHECK(!below.row.saturated);
    CHECK_DOUBLE(below.row.throughput_per_s, 0.7 * greatest, 1e-9);
    CHECK_INT(below.measured, 1000);
    struct med_point above = point_at(&world, 1.5 * greatest, 1000);
    CHECK(above.row.saturated);
    CHECK_DOUBLE(above.row.throughput_per_s / greatest, 1, 0.08);
    CHECK(!med_objectives_meet(&world.objectives, &above.row));
    CHECK(above.row.ttft_ms.mean > 5 * below.row.ttft_ms.mean);
}

static void test_point_when_verdict_is_plain_then_cut_short(void)
{
    struct world world;
    world_init(&world, "ttft.mean=100ms");
    double greatest = planned_capacity(100, 40, "tpot.mean=100s") / 0.95;
    struct med_point point = point_at(&world, 3 * greatest, 1000);
    CHECK(point.row.cut_short);
    CHECK(point.measured < 900);
    CHECK(!med_objectives_meet(&world.objectives, &point.row));
}

static void test_search_when_resumed_from_rows_then_goes_on_where_it_was(void)
{
    struct world whole;
    struct med_err err = {0};
    world_init(&whole, "tpot.mean=50ms");
    REQUIRE(med_search_add(&whole.search, 100, 40, 1) == 0);
    CHECK_INT(world_run(&whole, INFINITY, &err), 0);
    struct world again;
    world_init(&again, "tpot.mean=50ms");
    REQUIRE(med_search_add(&again.search, 100, 40, 1) == 0);
    /* The rows of the first two points, as a profile keeps them. */
    struct med_serving_ask ask = {
        .input_tokens = 100, .output_tokens = 40, .requests = 4, .objectives = &again.objectives};
    struct med_point alone, first;
    REQUIRE(measure(&again, &ask, &alone, &err) == 0);
    first = point_at(&again, whole.rates[0], 600);
    struct med_serving_row rows[] = {alone.row, first.row};
    CHECK_INT(med_serving_resume(&again.search, &again.objectives, rows, 2), 2);
    CHECK_INT(world_run(&again, INFINITY, &err), 0);
    CHECK_INT(again.alone, 0);
    CHECK_DOUBLE(again.rates[0], whole.rates[1], 0.02 * whole.rates[1]);
    CHECK_DOUBLE(again.search.sizes[0].met_per_s, whole.search.sizes[0].met_per_s,
                 0.1 * whole.search.sizes[0].met_per_s);
}

static void test_objectives_when_parsed_then_statistics_are_kept(void)
{
    struct med_objectives o;
    struct med_err err;
    CHECK_INT(med_objectives_parse("ttft.p95=2s,tpot.mean=80ms", &o, &err), 0);
    CHECK_INT(o.count, 2);
    CHECK_INT(o.items[0].statistic, MED_STATISTIC_P95);
    CHECK_DOUBLE(o.items[0].slo.limit_ms, 2000, 0);
    CHECK_INT(med_serving_requests(&o), 200);
    char text[64];
    med_objective_format(&o.items[0], text, sizeof(text));
    CHECK_STR(text, "ttft.p95=2000ms");
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"ttft.p42=1s", "found the statistic \"p42\", expected mean, p50, p90, p95 or p99"},
        {"ttft.p95=1s,ttft.mean=1s", "found ttft again"},
        {"speed.p95=1s", "found the metric \"speed\""},
        {"ttft.p95=", "objective"},
        {"", "found an empty one"},
        {"ttft", "found no '='"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        CHECK(med_objectives_parse(bad[i].text, &o, &err) < 0);
        CHECK_CONTAINS(err.text, bad[i].says);
    }
}

/* ---- a step model fitted to what was measured ---- */

/* A shape for which the rates of a step model say what `model` takes. */
static struct med_profile make_profile(struct med_source *sources)
{
    sources[0] = (struct med_source){.id = med_strdup("serving"),
                                     .kind = MED_SOURCE_MEASURED,
                                     .text = med_strdup("test"),
                                     .fit_error = (double)NAN};
    struct med_profile p = {
        .gpus_per_worker = 1,
        .model = {.parameters = 7e9,
                  .layers = 32,
                  .heads = 32,
                  .kv_heads = 32,
                  .head_dim = 128,
                  .weight_bytes = 14e9,
                  .kv_bytes_per_token = 524288},
        .hardware = {.memory_bytes = 80e9,
                     .bandwidth_bytes_per_s = 2e12,
                     .matrix_flops_per_s = 3e14},
        .limits = {.model_len_max = model.model_len_max,
                   .sequences_max = model.sequences_max,
                   .batched_tokens_max = model.batched_tokens_max,
                   .block_tokens = model.block_tokens,
                   .kv_tokens = model.kv_tokens},
        .sources = sources,
        .source_count = 1,
    };
    return p;
}

static void test_fit_when_rows_are_the_schedulers_then_predicts_other_loads(void)
{
    static const double sizes[][2] = {{100, 20}, {100, 80}, {800, 30}, {400, 60}};
    static struct med_serving_row rows[16];
    struct med_source *sources = med_calloc(1, sizeof(*sources));
    REQUIRE(sources != NULL);
    struct med_profile p = make_profile(sources);
    p.serving = rows;
    struct world world;
    struct med_err err = {0};
    world_init(&world, "tpot.p99=100s");
    for (size_t i = 0; i < 4; i++) {
        double greatest = planned_capacity(sizes[i][0], sizes[i][1], "tpot.mean=100s") / 0.95;
        const double loads[] = {0, 0.4, 0.75};
        for (size_t n = 0; n < 3; n++) {
            struct med_serving_ask ask = {.size = 3 * i + n,
                                          .input_tokens = sizes[i][0],
                                          .output_tokens = sizes[i][1],
                                          .rate_per_s = loads[n] * greatest,
                                          .requests = loads[n] > 0 ? 800 : 4,
                                          .warm_s = 4,
                                          .cool_s = 4,
                                          .objectives = &world.objectives};
            struct med_point point;
            REQUIRE(measure(&world, &ask, &point, &err) == 0);
            rows[p.serving_count++] = point.row;
        }
    }
    struct med_serving_fit fit;
    REQUIRE(med_fit_serving(&p, 0, &fit, &err) == 0);
    CHECK_INT(fit.fitted.rows, 8);
    CHECK_INT(fit.left_out.rows, 4);
    CHECK(fit.fitted.tpot_mean < 0.05);
    CHECK(fit.fitted.ttft_mean < 0.10);
    CHECK(fit.left_out.tpot_mean < 0.05);
    CHECK(fit.left_out.ttft_mean < 0.12);
    /* A size and a load that it never saw. */
    REQUIRE(med_fit_serving_keep(&p, &fit, 0, &err) == 0);
    CHECK_INT(p.source_count, 2);
    CHECK_INT(p.sources[1].kind, MED_SOURCE_MODELLED);
    CHECK_INT(p.validation_count, 1);
    p.worker_type = (char *)"w";
    struct med_latency latency;
    REQUIRE(med_latency_init(&latency, &p, &err) == 0);
    CHECK_INT(med_latency_coverage(&latency, 4, 300, 100), MED_COVERAGE_MODELLED);
    struct med_slos slos;
    REQUIRE(med_slos_parse("tpot.mean=55ms", &slos, &err) == 0);
    struct med_request_size size = {250, 50};
    struct med_capacity capacity;
    REQUIRE(med_capacity_of_model(&latency, &size, &slos, &capacity) == 0);
    CHECK(capacity.modelled);
    CHECK_DOUBLE(capacity.requests_per_s / planned_capacity(250, 50, "tpot.mean=55ms"), 1, 0.1);
    /* Again, and gone. */
    REQUIRE(med_fit_serving_keep(&p, &fit, 0, &err) == 0);
    CHECK_INT(p.source_count, 2);
    CHECK_INT(p.validation_count, 1);
    med_fit_serving_drop(&p);
    CHECK_INT(p.source_count, 1);
    CHECK(!p.has_step_model);
    med_free(p.validations);
    med_free(p.sources[0].id);
    med_free(p.sources[0].text);
    med_free(p.sources);
}

static void test_fit_when_rows_are_few_then_refused(void)
{
    static struct med_source source;
    struct med_profile p = make_profile(&source);
    struct med_serving_fit fit;
    struct med_err err;
    CHECK_INT(med_fit_serving(&p, 0, &fit, &err), MED_E_UNCOVERED);
    CHECK_CONTAINS(err.text, "0 sizes were measured alone and 0 under");
    med_free(source.id);
    med_free(source.text);
}

int main(void)
{
    RUN(test_objectives_when_parsed_then_statistics_are_kept);
    RUN(test_capacity_when_measured_then_is_the_planners);
    RUN(test_sizes_when_several_then_later_ones_are_guessed_better);
    RUN(test_budget_when_short_then_the_heavy_size_comes_first);
    RUN(test_objective_when_no_idle_server_keeps_it_then_the_size_is_left);
    RUN(test_server_when_it_refuses_all_then_an_error_after_three);
    RUN(test_server_when_it_refuses_what_is_too_much_then_capacity_is_below);
    RUN(test_saturation_when_over_the_greatest_rate_then_said);
    RUN(test_point_when_verdict_is_plain_then_cut_short);
    RUN(test_fit_when_rows_are_the_schedulers_then_predicts_other_loads);
    RUN(test_fit_when_rows_are_few_then_refused);
    RUN(test_search_when_resumed_from_rows_then_goes_on_where_it_was);
    return check_finish();
}
