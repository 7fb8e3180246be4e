/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a load test reads.
 *
 * Request sizes come from --trace, else --workload, else the buckets that the plan holds; rate,
 * arrival process and objectives that are not given come from the same place.  Nothing is sent
 * before all of it has been read and the whole schedule stands.
 * thread: main. It opens no connection.
 */
#include "router/bench/inputs.h"

#include "allocator/resolve.h"
#include "base/alloc.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#define AT(field) offsetof(struct med_bench_options, field)

enum {
    REQUESTS_DEFAULT = 1000,
    MAX_TOKENS_DEFAULT = 2000 /* of the default grid's last output edge, without a plan */
};

static const struct med_option option_table[] = {
    {.name = "target",
     .type = MED_OPT_STRING,
     .offset = AT(target),
     .unit = "HOST:PORT",
     .default_text = "127.0.0.1:7070",
     .help = "gRPC door of the router, or unix:PATH.",
     .group = "What is driven"},
    {.name = "tls-ca",
     .type = MED_OPT_STRING,
     .offset = AT(tls_ca),
     .unit = "FILE",
     .help = "Speaks TLS, and checks the router's certificate with these PEM authorities; system: "
             "with the system's."},
    {.name = "api-key-file",
     .type = MED_OPT_STRING,
     .offset = AT(api_key_file),
     .unit = "FILE",
     .help = "The first line is the API key that is presented."},
    {.name = "plan",
     .type = MED_OPT_STRING,
     .offset = AT(plan),
     .unit = "FILE",
     .help = "Plan that the fleet runs: gives workload, rate, objectives and cost where they are "
             "not given, and the prediction."},
    {.name = "time-scale",
     .type = MED_OPT_NUMBER,
     .offset = AT(time_scale),
     .unit = "K",
     .default_text = "1",
     .min = 0.001,
     .max = 1000,
     .help = "Fleet seconds per real second; must be the fleet's own."},
    {.name = "workload",
     .type = MED_OPT_STRING,
     .offset = AT(workload),
     .unit = "FILE|NAME",
     .help = "Workload that request sizes are drawn from: a file, or the name of one that ships.",
     .group = "Requests"},
    {.name = "data-dir",
     .type = MED_OPT_STRING,
     .offset = AT(data_dir),
     .unit = "FOLDER",
     .help = "Where the shipped workloads are (default: found from the program's place)."},
    {.name = "trace",
     .type = MED_OPT_STRING,
     .offset = AT(trace),
     .unit = "FILE",
     .help = "Request log whose requests are sent; with --arrival trace (the default then) at the "
             "log's own times."},
    {.name = "requests",
     .type = MED_OPT_INTEGER,
     .offset = AT(requests),
     .unit = "N",
     .min = 0,
     .max = MED_ARRIVALS_MAX,
     .help = "Requests to send. Without this and --duration: 1000."},
    {.name = "duration",
     .type = MED_OPT_DURATION,
     .offset = AT(duration_ns),
     .unit = "TIME",
     .min = 0,
     .max = 1e7,
     .help = "Fleet time during which requests are sent."},
    {.name = "arrival",
     .type = MED_OPT_CHOICE,
     .offset = AT(arrival),
     .unit = "PROCESS",
     .choices = "poisson|gamma|constant|all-at-once|trace",
     .help = "Arrival process. With --max-concurrency N, all-at-once is a closed loop of N users. "
             "Default: the workload's."},
    {.name = "rate",
     .type = MED_OPT_NUMBER,
     .offset = AT(rate_per_s),
     .unit = "REQ/S",
     .min = 0,
     .max = 1e6,
     .help = "Mean rate of requests. Default: the workload's."},
    {.name = "burstiness",
     .type = MED_OPT_NUMBER,
     .offset = AT(burstiness),
     .unit = "B",
     .min = 0,
     .max = 1e6,
     .help = "Shape of gamma arrivals: below 1 is burstier than Poisson. Default: the workload's."},
    {.name = "rate-over-time",
     .type = MED_OPT_FLAG,
     .offset = AT(rate_over_time),
     .help = "Lets the rate follow the workload's own shape over time, with the same mean."},
    {.name = "max-concurrency",
     .type = MED_OPT_INTEGER,
     .offset = AT(max_concurrency),
     .unit = "N",
     .min = 0,
     .max = MED_LIMIT_CALLS,
     .help = "Most requests in flight; what is due waits. 0: no limit, an open loop."},
    {.name = "max-tokens",
     .type = MED_OPT_INTEGER,
     .offset = AT(max_tokens),
     .unit = "N",
     .min = 0,
     .max = MED_LIMIT_OUTPUT_TOKENS,
     .help = "Most output tokens that each request asks for. Default: the plan's last output edge, "
             "so that routing learns nothing from it."},
    {.name = "recorded-lengths",
     .type = MED_OPT_FLAG,
     .offset = AT(recorded_lengths),
     .default_text = "true",
     .help = "Tells emulated workers how long each answer is. Others ignore it."},
    {.name = "vocabulary",
     .type = MED_OPT_INTEGER,
     .offset = AT(vocabulary),
     .unit = "N",
     .min = 0,
     .max = 1 << 24,
     .help = "Prompt token ids are drawn below this. Default: the plan's model, or 32000."},
    {.name = "seed",
     .type = MED_OPT_INTEGER,
     .offset = AT(seed),
     .unit = "N",
     .default_text = "1",
     .min = 0,
     .max = 9007199254740991.0,
     .help = "Seed of sizes, arrival times and prompts: the same seed gives the same run."},
    {.name = "slo",
     .type = MED_OPT_STRING,
     .offset = AT(slo),
     .unit = "OBJECTIVES",
     .help = "Objectives, such as tpot.mean=120ms,ttft.mean=2s. Default: the plan's.",
     .group = "Report"},
    {.name = "predict",
     .type = MED_OPT_FLAG,
     .offset = AT(predict),
     .default_text = "true",
     .help = "Simulates the plan on the same arrivals and compares."},
    {.name = "queue-wait",
     .type = MED_OPT_DURATION,
     .offset = AT(queue_wait_ns),
     .unit = "TIME",
     .min = 0,
     .max = 86400,
     .help = "The router's own --queue-wait, for the prediction. Default: the router's default."},
    {.name = "queue-max",
     .type = MED_OPT_INTEGER,
     .offset = AT(queue_max),
     .unit = "N",
     .min = 0,
     .max = 1 << 24,
     .help = "The router's own --queue-max, for the prediction. Default: the router's default."},
    {.name = "json",
     .type = MED_OPT_FLAG,
     .offset = AT(json),
     .help = "Prints the report as JSON."},
    {.name = "output",
     .short_name = 'o',
     .type = MED_OPT_STRING,
     .offset = AT(output),
     .unit = "FILE",
     .help = "Also writes the report as JSON to this file."},
    {.name = "requests-jsonl",
     .type = MED_OPT_STRING,
     .offset = AT(requests_jsonl),
     .unit = "FILE",
     .help = "Writes one JSON line per request to this file."},
    {.name = "progress",
     .type = MED_OPT_FLAG,
     .offset = AT(progress),
     .default_text = "true",
     .help = "Shows progress on standard error."},
    {.name = "connect-timeout",
     .type = MED_OPT_DURATION,
     .offset = AT(connect_timeout_ns),
     .unit = "TIME",
     .default_text = "10s",
     .min = 0.01,
     .max = 3600,
     .help = "Real time to wait for the first connection.",
     .group = "Limits"},
    {.name = "stall-timeout",
     .type = MED_OPT_DURATION,
     .offset = AT(stall_timeout_ns),
     .unit = "TIME",
     .default_text = "120s",
     .min = 0.1,
     .max = 86400,
     .help = "Real time without any answer after which what is open is cancelled."},
    {.name = "dry-run",
     .type = MED_OPT_FLAG,
     .offset = AT(dry_run),
     .help = "Prints the schedule as a request log (CSV) and sends nothing."},
    {.name = NULL},
};

const struct med_program med_bench_program = {
    .name = "medley bench",
    .synopsis = "[options]",
    .summary = "Sends requests to a router over gRPC and reports latency, throughput and cost.",
    .details =
        "Sizes come from --trace, else --workload, else the buckets of --plan. Requests are sent\n"
        "on schedule whatever the fleet does (an open loop), unless --max-concurrency holds them\n"
        "back; the report says how late sends were. All times are fleet time.\n"
        "\n"
        "Exit status: 0 done, 1 a request or token was lost, or none was completed, 2 wrong usage\n"
        "or bad input, 3 the plan is infeasible.\n"
        "\n"
        "Example:\n"
        "  medley bench --plan plan.json --target 127.0.0.1:7070 --duration 60s\n",
    .options = option_table,
    .positional_min = 0,
    .positional_max = 0,
};

static int copy_buckets(const struct med_plan *plan, struct med_workload *w, struct med_err *err)
{
    double sum = 0;
    for (size_t i = 0; i < plan->assignment_count; i++)
        sum += plan->assignment[i].rate_per_s;
    if (!(sum > 0))
        return med_err_set(err, MED_E_INVALID, "the plan assigns no requests: nothing to send");
    w->buckets = med_calloc(plan->assignment_count, sizeof(*w->buckets));
    if (!w->buckets)
        return med_err_set(err, MED_E_NOMEM, "memory for the buckets is exhausted");
    w->bucket_count = plan->assignment_count;
    for (size_t i = 0; i < plan->assignment_count; i++) {
        const struct med_plan_assignment *a = &plan->assignment[i];
        w->buckets[i] = (struct med_bucket){
            .input_row = a->input_row,
            .output_row = a->output_row,
            .share = a->rate_per_s / sum,
            .input_mean = a->input_mean,
            .output_mean = a->output_mean,
        };
    }
    return 0;
}

int med_bench_workload_from_plan(const struct med_plan *plan, struct med_workload *ret_workload,
                                 struct med_err *err)
{
    struct med_workload w = {
        .rate_per_s = plan->rate_per_s,
        .arrival = plan->arrival,
        .burstiness = plan->burstiness,
    };
    w.name = med_strdup(plan->workload_name ? plan->workload_name : "plan");
    int rc = w.name ? med_grid_copy(&plan->grid, &w.grid) : MED_E_NOMEM;
    if (rc < 0) {
        (void)med_err_set(err, rc, "memory for the workload is exhausted");
    } else {
        rc = copy_buckets(plan, &w, err);
    }
    if (rc < 0) {
        med_workload_release(&w);
        return rc;
    }
    *ret_workload = w;
    return 0;
}

static int load_plan(const struct med_bench_options *o, struct med_bench_inputs *in,
                     struct med_err *err)
{
    if (!o->plan)
        return 0;
    int rc = med_plan_read_file(o->plan, &in->plan, err);
    if (rc < 0)
        return rc;
    in->has_plan = true;
    if (in->plan.status == MED_PLAN_INFEASIBLE) {
        return med_err_set(err, MED_E_INFEASIBLE, "%s: an infeasible plan has no fleet to drive",
                           o->plan);
    }
    return 0;
}

static int read_workload(const char *name, const char *data_dir, struct med_workload *ret_workload,
                         struct med_err *err)
{
    char *path;
    int rc = med_resolve(MED_RESOLVE_WORKLOAD, name, data_dir, &path, err);
    if (rc < 0)
        return rc;
    rc = med_workload_read_file(path, ret_workload, err);
    med_free(path);
    return rc;
}

static int load_sizes(const struct med_bench_options *o, struct med_bench_inputs *in,
                      struct med_err *err)
{
    int rc = 0;
    if (o->workload) {
        rc = read_workload(o->workload, o->data_dir, &in->workload, err);
    } else if (in->has_plan) {
        rc = med_bench_workload_from_plan(&in->plan, &in->workload, err);
    }
    if (rc < 0)
        return rc;
    in->has_workload = o->workload || in->has_plan;
    const char *trace = o->trace;
    if (!trace && o->workload && in->workload.arrival == MED_ARRIVAL_TRACE)
        trace = in->workload.trace;
    if (trace) {
        rc = med_request_log_read_file(trace, &in->log, err);
        in->has_log = rc >= 0;
    }
    if (rc >= 0 && !in->has_workload && !in->has_log) {
        rc = med_err_set(err, MED_E_USAGE,
                         "nothing says what to send: give --plan, --workload or --trace");
    }
    return rc;
}

static enum med_arrivals_process default_process(const struct med_bench_inputs *in)
{
    if (in->has_log)
        return MED_ARRIVALS_TRACE;
    return in->workload.arrival == MED_ARRIVAL_GAMMA ? MED_ARRIVALS_GAMMA : MED_ARRIVALS_POISSON;
}

static void settle(const struct med_options *options, const struct med_bench_options *o,
                   struct med_bench_inputs *in)
{
    struct med_bench_settings *s = &in->settings;
    s->target = o->target;
    s->plan = o->plan;
    s->workload = o->trace       ? o->trace
                  : o->workload  ? o->workload
                  : in->has_plan ? in->workload.name
                                 : NULL;
    s->process = o->arrival ? (enum med_arrivals_process)med_arrivals_process_parse(o->arrival)
                            : default_process(in);
    s->seed = (uint64_t)o->seed;
    s->time_scale = o->time_scale;
    s->max_concurrency = o->max_concurrency;
    s->burstiness = 1;
    if (s->process == MED_ARRIVALS_GAMMA) {
        s->burstiness = med_options_given(options, "burstiness") ? o->burstiness
                        : in->has_workload                       ? in->workload.burstiness
                                                                 : 1;
    }
    if (med_options_given(options, "rate")) {
        s->rate_per_s = o->rate_per_s;
    } else if (s->process != MED_ARRIVALS_TRACE && in->has_workload) {
        s->rate_per_s = in->workload.rate_per_s;
    }
    /* Otherwise 0: the log's own rate for TRACE, and an error of the schedule for the others. */
}

static int schedule(const struct med_options *options, const struct med_bench_options *o,
                    struct med_bench_inputs *in, struct med_err *err)
{
    settle(options, o, in);
    struct med_arrivals_config config = {
        .process = in->settings.process,
        .rate_per_s = in->settings.rate_per_s,
        .burstiness = in->settings.burstiness,
        .requests = o->requests == 0 && o->duration_ns == 0 ? REQUESTS_DEFAULT : o->requests,
        .duration_ns = o->duration_ns,
        .seed = (uint64_t)o->seed,
        .follow_rate_over_time = o->rate_over_time,
        .output_tokens_max = o->max_tokens ? o->max_tokens : MAX_TOKENS_DEFAULT,
        .workload = in->has_workload ? &in->workload : NULL,
        .log = in->has_log ? &in->log : NULL,
    };
    if (!o->max_tokens && in->has_plan && in->plan.grid.output_edge_count) {
        config.output_tokens_max =
            (int64_t)in->plan.grid.output_edges[in->plan.grid.output_edge_count - 1];
    }
    int rc = med_arrivals_make(&config, &in->arrivals, err);
    if (rc < 0)
        return rc;
    double last_s = (double)in->arrivals.items[in->arrivals.count - 1].at_ns / 1e9;
    if (in->settings.process == MED_ARRIVALS_ALL_AT_ONCE) {
        in->settings.rate_per_s = INFINITY;
    } else if (in->settings.rate_per_s == 0) {
        in->settings.rate_per_s = last_s > 0 ? (double)in->arrivals.count / last_s : INFINITY;
    }
    return 0;
}

static int load_slos(const struct med_bench_options *o, struct med_bench_inputs *in,
                     struct med_err *err)
{
    if (!o->slo) {
        if (in->has_plan)
            in->slos = in->plan.slos;
        return 0;
    }
    int rc = med_slos_parse(o->slo, &in->slos, err);
    if (rc < 0)
        (void)med_err_prefix(err, "--slo");
    return rc;
}

int med_bench_inputs_load(const struct med_options *options, const struct med_bench_options *values,
                          struct med_bench_inputs *ret_inputs, struct med_err *err)
{
    struct med_bench_inputs in = {0};
    int rc = load_plan(values, &in, err);
    if (rc >= 0)
        rc = load_slos(values, &in, err);
    if (rc >= 0)
        rc = load_sizes(values, &in, err);
    if (rc >= 0)
        rc = schedule(options, values, &in, err);
    if (rc < 0) {
        med_bench_inputs_release(&in);
        return rc;
    }
    *ret_inputs = in;
    return 0;
}

void med_bench_inputs_release(struct med_bench_inputs *in)
{
    med_arrivals_release(&in->arrivals);
    if (in->has_log)
        med_request_log_release(&in->log);
    if (in->has_workload)
        med_workload_release(&in->workload);
    if (in->has_plan)
        med_plan_release(&in->plan);
    *in = (struct med_bench_inputs){0};
}
