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
    CLOSED_REQUESTS_MAX = 262144, /* of a closed loop that a duration ends */
    STREAM_PREFIX_GROUP = 21,
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
    {.name = "api",
     .type = MED_OPT_CHOICE,
     .offset = AT(api),
     .unit = "API",
     .default_text = "grpc",
     .choices = "grpc|openai|openai-chat",
     .help = "What is spoken: medley.v1 over gRPC with --target, or an OpenAI-compatible API over "
             "HTTP with --url."},
    {.name = "url",
     .type = MED_OPT_STRING,
     .offset = AT(url),
     .unit = "URL",
     .default_text = "http://127.0.0.1:7071",
     .help = "HTTP server, with a path in front of /v1 if it has one."},
    {.name = "model",
     .type = MED_OPT_STRING,
     .offset = AT(model),
     .unit = "NAME",
     .help = "Model that requests name. Default: none is named."},
    {.name = "tls-ca",
     .type = MED_OPT_STRING,
     .offset = AT(tls_ca),
     .unit = "FILE",
     .help =
         "Checks the server's certificate with these PEM authorities; system: with the system's. "
         "gRPC speaks TLS only with this; HTTP for https:// URLs, with the system's by default."},
    {.name = "api-key-file",
     .type = MED_OPT_STRING,
     .offset = AT(api_key_file),
     .unit = "FILE",
     .help = "The first line is the API key that is presented."},
    {.name = "api-key",
     .type = MED_OPT_SECRET,
     .offset = AT(api_key),
     .unit = "KEY",
     .help = "The key from the environment or a configuration file (openai, openai-chat)."},
    {.name = "stream",
     .type = MED_OPT_FLAG,
     .offset = AT(stream),
     .default_text = "true",
     .help = "Asks for a stream of events (openai, openai-chat); without it answers come whole, "
             "and there is no time between tokens."},
    {.name = "prompt",
     .type = MED_OPT_CHOICE,
     .offset = AT(prompt),
     .unit = "KIND",
     .default_text = "ids",
     .choices = "ids|text",
     .help = "Prompts of the openai API: token ids, or as many words for servers whose vocabulary "
             "is another. openai-chat always sends words."},
    {.name = "ignore-eos",
     .type = MED_OPT_FLAG,
     .offset = AT(ignore_eos),
     .help = "Asks servers to go on until --max-tokens or the schedule's length (openai, "
             "openai-chat)."},
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
    {.name = "input-tokens",
     .type = MED_OPT_INTEGER,
     .offset = AT(input_tokens),
     .unit = "N",
     .min = 0,
     .max = MED_LIMIT_PROMPT_TOKENS,
     .help = "Tokens of every prompt, in place of a workload's; needs --output-tokens."},
    {.name = "output-tokens",
     .type = MED_OPT_INTEGER,
     .offset = AT(output_tokens),
     .unit = "N",
     .min = 0,
     .max = MED_LIMIT_OUTPUT_TOKENS,
     .help = "Tokens of every answer: what each request asks for, end of sequence ignored where "
             "the server can."},
    {.name = "range-ratio",
     .type = MED_OPT_NUMBER,
     .offset = AT(range_ratio),
     .unit = "R",
     .default_text = "0",
     .min = 0,
     .max = 0.999,
     .help = "Lets those sizes vary evenly by this share up and down."},
    {.name = "turns",
     .type = MED_OPT_INTEGER,
     .offset = AT(turns),
     .unit = "N",
     .default_text = "1",
     .min = 1,
     .max = 1000,
     .help = "Makes conversations of N requests: each prompt is the one before, its answer's "
             "length and new tokens, sent after the answer and --think-time. --rate is then of "
             "conversations."},
    {.name = "think-time",
     .type = MED_OPT_DURATION,
     .offset = AT(think_ns),
     .unit = "TIME",
     .default_text = "0s",
     .min = 0,
     .max = 86400,
     .help = "Fleet time between an answer and the next turn."},
    {.name = "prefix-tokens",
     .type = MED_OPT_INTEGER,
     .offset = AT(prefix_tokens),
     .unit = "N",
     .default_text = "0",
     .min = 0,
     .max = MED_LIMIT_PROMPT_TOKENS,
     .help = "Puts a shared beginning of N tokens before prompts."},
    {.name = "prefix-count",
     .type = MED_OPT_INTEGER,
     .offset = AT(prefix_count),
     .unit = "N",
     .default_text = "1",
     .min = 1,
     .max = 1000000,
     .help = "How many different shared beginnings there are."},
    {.name = "prefix-share",
     .type = MED_OPT_NUMBER,
     .offset = AT(prefix_share),
     .unit = "SHARE",
     .default_text = "1",
     .min = 0,
     .max = 1,
     .help = "Share of conversations or requests that begin with one."},
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
     .help = "Arrival process. Default: the workload's, or poisson."},
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
    {.name = "concurrency",
     .type = MED_OPT_INTEGER,
     .offset = AT(concurrency),
     .unit = "N",
     .min = 0,
     .max = MED_LIMIT_CALLS,
     .help = "Closed loop: as many requests are in flight at any time. With --duration sending "
             "ends then, after 262144 requests at most."},
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
    {.name = "goodput",
     .type = MED_OPT_STRING,
     .offset = AT(goodput),
     .unit = "'ttft:500ms tpot:50ms'",
     .help = "Limits that each request must keep to count as good: ttft, tpot, e2e with times in "
             "ms unless they name s. Default: the objectives."},
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
    {.name = "sweep",
     .type = MED_OPT_STRING,
     .offset = AT(sweep),
     .unit = "LOADS",
     .help = "Runs once at each of several loads and prints a table (--json, -o: an array): "
             "concurrency=1..256x2 by a factor, rate=1,2,4 as listed. Each run is as long as "
             "--requests or --duration say.",
     .group = "Sweep"},
    {.name = "warm-up",
     .type = MED_OPT_INTEGER,
     .offset = AT(warm_up),
     .unit = "N",
     .default_text = "0",
     .min = 0,
     .max = MED_ARRIVALS_MAX,
     .help = "Requests that are sent one after the other before anything is measured."},
    {.name = "stop-saturated",
     .type = MED_OPT_FLAG,
     .offset = AT(stop_saturated),
     .help = "Ends a sweep after a load that brought less than 2 % more tokens per second than the "
             "best before it."},
    {.name = "plot",
     .type = MED_OPT_STRING,
     .offset = AT(plot),
     .unit = "FILE",
     .help = "Draws a sweep as SVG: latency over throughput, and percentiles over the load."},
    {.name = "json",
     .type = MED_OPT_FLAG,
     .offset = AT(json),
     .group = "Output",
     .help = "Prints the report as JSON."},
    {.name = "output",
     .short_name = 'o',
     .type = MED_OPT_STRING,
     .offset = AT(output),
     .unit = "FILE",
     .help = "Also writes the report as JSON to this file."},
    {.name = "save",
     .type = MED_OPT_STRING,
     .offset = AT(save),
     .unit = "FILE",
     .help = "Writes one JSON line per request to this file."},
    {.name = "progress",
     .type = MED_OPT_FLAG,
     .offset = AT(progress),
     .default_text = "true",
     .help = "Shows progress on standard error."},
    {.name = "timeout",
     .type = MED_OPT_DURATION,
     .offset = AT(timeout_ns),
     .unit = "TIME",
     .default_text = "0s",
     .min = 0,
     .max = 86400,
     .help = "Real time for one request, connecting included (openai, openai-chat). 0: none.",
     .group = "Limits"},
    {.name = "connect-timeout",
     .type = MED_OPT_DURATION,
     .offset = AT(connect_timeout_ns),
     .unit = "TIME",
     .default_text = "10s",
     .min = 0.01,
     .max = 3600,
     .help = "Real time to wait for the first connection."},
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
    .summary = "Sends requests over gRPC or HTTP and reports latency, throughput and cost.",
    .details =
        "Sizes come from --trace, else --workload, else the buckets of --plan. Requests are sent\n"
        "on schedule whatever the fleet does (an open loop; the report says how late sends were),\n"
        "unless --max-concurrency holds them back, or N are kept in flight with --concurrency (a\n"
        "closed loop). All times are fleet time.\n"
        "\n"
        "Exit status: 0 done, 1 a request or token was lost, or none was completed, 2 wrong usage\n"
        "or bad input, 3 the plan is infeasible.\n"
        "\n"
        "Example:\n"
        "  medley bench --plan plan.json --target 127.0.0.1:7070 --duration 60s\n"
        "  medley bench --api openai --url http://127.0.0.1:7071 --concurrency 32 \\\n"
        "               --input-tokens 512 --output-tokens 128 --requests 500\n"
        "  medley bench --workload azure-conversation --sweep concurrency=1..256x2 \\\n"
        "               --requests 500 --plot curve.svg\n",
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
    if (rc >= 0 && (o->input_tokens > 0) != (o->output_tokens > 0)) {
        return med_err_set(err, MED_E_USAGE,
                           "--input-tokens and --output-tokens go together: one is missing");
    }
    if (rc >= 0 && !in->has_workload && !in->has_log && o->input_tokens == 0) {
        rc = med_err_set(err, MED_E_USAGE,
                         "nothing says what to send: give --plan, --workload, --trace, or "
                         "--input-tokens and --output-tokens");
    }
    return rc;
}

static enum med_arrivals_process default_process(const struct med_bench_inputs *in)
{
    if (in->has_log)
        return MED_ARRIVALS_TRACE;
    if (!in->has_workload)
        return MED_ARRIVALS_POISSON;
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
    s->closed_loop = o->concurrency > 0;
    if (s->closed_loop) {
        s->max_concurrency = o->concurrency;
        s->process = MED_ARRIVALS_ALL_AT_ONCE;
    }
    s->api = o->api;
    s->turns = o->turns;
    if (strcmp(o->api, "grpc") != 0)
        s->target = o->url;
    s->burstiness = 1;
    if (s->process == MED_ARRIVALS_GAMMA) {
        s->burstiness = med_options_given(options, "burstiness") ? o->burstiness
                        : in->has_workload                       ? in->workload.burstiness
                                                                 : 1;
    }
    if (o->rate_per_s > 0 || med_options_given(options, "rate")) {
        s->rate_per_s = o->rate_per_s;
    } else if (s->process != MED_ARRIVALS_TRACE && in->has_workload) {
        s->rate_per_s = in->workload.rate_per_s;
    }
    /* Otherwise 0: the log's own rate for TRACE, and an error of the schedule for the others. */
}

/* Conversations that begin alike are drawn once: another rate keeps them. */
static int draw_prefixes(const struct med_bench_options *o, size_t conversations,
                         struct med_bench_inputs *in)
{
    med_free(in->prefix_groups);
    in->prefix_groups = NULL;
    if (o->prefix_tokens == 0)
        return 0;
    in->prefix_groups = med_alloc(conversations * sizeof(*in->prefix_groups));
    if (!in->prefix_groups)
        return MED_E_NOMEM;
    struct med_rng rng;
    med_rng_init(&rng, (uint64_t)o->seed, STREAM_PREFIX_GROUP);
    for (size_t i = 0; i < conversations; i++) {
        bool shared = med_rng_uniform(&rng) < o->prefix_share;
        uint32_t group = med_rng_below(&rng, (uint32_t)o->prefix_count);
        in->prefix_groups[i] = shared ? (int32_t)group : -1;
    }
    return 0;
}

/* Sizes of single requests become those of turns: a prompt holds what was said before. */
static int shape_prompts(const struct med_bench_options *o, struct med_arrivals *arrivals,
                         const int32_t *prefix_groups, struct med_err *err)
{
    int64_t history = 0;
    for (size_t i = 0; i < arrivals->count; i++) {
        size_t conversation = i / (size_t)o->turns;
        struct med_sim_arrival *a = &arrivals->items[i];
        if (i % (size_t)o->turns == 0)
            history = prefix_groups && prefix_groups[conversation] >= 0 ? o->prefix_tokens : 0;
        a->input_tokens += history;
        history = a->input_tokens + a->output_tokens;
        if (a->input_tokens > MED_LIMIT_PROMPT_TOKENS) {
            return med_err_set(err, MED_E_INVALID,
                               "a prompt of %lld tokens: %d are the most; give fewer turns or a "
                               "shorter prefix",
                               (long long)a->input_tokens, MED_LIMIT_PROMPT_TOKENS);
        }
    }
    return 0;
}

/* The first arrivals are when conversations begin; sizes are drawn for all turns. */
static int make_conversations(struct med_arrivals_config *config, int64_t turns,
                              struct med_arrivals *ret_arrivals, struct med_err *err)
{
    struct med_arrivals begins;
    config->requests = (config->requests + turns - 1) / turns;
    int rc = med_arrivals_make(config, &begins, err);
    if (rc < 0)
        return rc;
    config->requests = (int64_t)begins.count * turns;
    config->duration_ns = 0;
    config->process = MED_ARRIVALS_ALL_AT_ONCE;
    config->follow_rate_over_time = false;
    rc = med_arrivals_make(config, ret_arrivals, err);
    for (size_t i = 0; rc >= 0 && i < ret_arrivals->count; i++)
        ret_arrivals->items[i].at_ns = begins.items[i / (size_t)turns].at_ns;
    med_arrivals_release(&begins);
    return rc;
}

static int64_t requests_of(const struct med_bench_options *o)
{
    if (o->requests > 0)
        return o->requests;
    if (o->concurrency > 0 && o->duration_ns > 0)
        return CLOSED_REQUESTS_MAX;
    return o->duration_ns == 0 ? REQUESTS_DEFAULT : 0;
}

static int make_schedule(const struct med_bench_options *o, struct med_bench_inputs *in,
                         struct med_err *err)
{
    struct med_arrivals_config config = {
        .process = in->settings.process,
        .rate_per_s = in->settings.rate_per_s,
        .burstiness = in->settings.burstiness,
        .requests = requests_of(o),
        .duration_ns = o->concurrency > 0 ? 0 : o->duration_ns,
        .seed = (uint64_t)o->seed,
        .follow_rate_over_time = o->rate_over_time,
        .output_tokens_max = o->max_tokens      ? o->max_tokens
                             : o->output_tokens ? 1
                                                : MAX_TOKENS_DEFAULT,
        .input_tokens = o->input_tokens,
        .output_tokens = o->output_tokens,
        .range_ratio = o->range_ratio,
        .workload = in->has_workload ? &in->workload : NULL,
        .log = in->has_log ? &in->log : NULL,
    };
    if (!o->max_tokens && !o->output_tokens && in->has_plan && in->plan.grid.output_edge_count) {
        config.output_tokens_max =
            (int64_t)in->plan.grid.output_edges[in->plan.grid.output_edge_count - 1];
    }
    int rc = o->turns > 1 ? make_conversations(&config, o->turns, &in->arrivals, err)
                          : med_arrivals_make(&config, &in->arrivals, err);
    if (rc < 0)
        return rc;
    if (draw_prefixes(o, in->arrivals.count / (size_t)o->turns, in) < 0)
        return med_err_set(err, MED_E_NOMEM, "memory for the schedule is exhausted");
    return shape_prompts(o, &in->arrivals, in->prefix_groups, err);
}

int med_bench_inputs_schedule(const struct med_options *options, const struct med_bench_options *o,
                              struct med_bench_inputs *in, struct med_err *err)
{
    med_arrivals_release(&in->arrivals);
    in->settings = (struct med_bench_settings){0};
    settle(options, o, in);
    int rc = make_schedule(o, in, err);
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

void med_bench_options_set_load(struct med_bench_options *values, const struct med_sweep *sweep,
                                double load)
{
    if (sweep->is_rate) {
        values->rate_per_s = load;
    } else {
        values->concurrency = (int64_t)load;
    }
}

int med_bench_inputs_load(const struct med_options *options, const struct med_bench_options *values,
                          struct med_bench_inputs *ret_inputs, struct med_err *err)
{
    struct med_bench_inputs in = {0};
    int rc = load_plan(values, &in, err);
    if (rc >= 0)
        rc = load_slos(values, &in, err);
    struct med_bench_options first = *values;
    if (rc >= 0 && values->sweep)
        rc = med_sweep_parse(values->sweep, &in.sweep, err);
    if (rc >= 0 && !values->sweep && values->plot)
        rc = med_err_set(err, MED_E_USAGE, "--plot draws a --sweep: none is asked for");
    if (rc >= 0 && values->sweep && values->save)
        rc = med_err_set(err, MED_E_USAGE, "--save keeps the requests of one run, not of a sweep");
    if (rc >= 0 && in.sweep.count > 0)
        med_bench_options_set_load(&first, &in.sweep, in.sweep.loads[0]);
    if (rc >= 0 && values->goodput)
        rc = med_bench_goodput_parse(values->goodput, &in.goodput, err);
    if (rc >= 0)
        rc = load_sizes(values, &in, err);
    if (rc >= 0)
        rc = med_bench_inputs_schedule(options, &first, &in, err);
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
    med_free(in->prefix_groups);
    if (in->has_log)
        med_request_log_release(&in->log);
    if (in->has_workload)
        med_workload_release(&in->workload);
    if (in->has_plan)
        med_plan_release(&in->plan);
    *in = (struct med_bench_inputs){0};
}
