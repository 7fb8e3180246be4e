/* SPDX-License-Identifier: Apache-2.0 */
/*
 * medley replay: runs plans against a request log or a workload on a virtual clock, and reports.
 *
 * Reads the options into struct settings, makes one schedule of arrivals that every run shares, runs each
 * plan under each policy (runs.c), and prints one run in full, or several side by side.  Results go to
 * standard output, one sentence on failure to standard error.  thread: main.
 */
#include "allocator/output.h"
#include "allocator/replay/mixes.h"
#include "allocator/replay/report/report.h"
#include "allocator/replay/runs.h"
#include "allocator/resolve.h"
#include "base/alloc.h"
#include "base/limits.h"
#include "base/options.h"

#include <math.h>
#include <string.h>

enum {
    REQUESTS_DEFAULT = 10000,
    MAX_TOKENS_DEFAULT = 2000 /* where a plan has no grid */
};

struct settings {
    const char *trace, *workload, *data_dir, *arrival;
    double rate_per_s, speed, burstiness;
    int64_t from_ns, duration_ns, requests, max_tokens, seed, warm_up_ns;
    const char *policy, *admission, *slo;
    bool compare;
    struct med_option_list mixes;
    const char *catalogue;
    const char *faults, *resume;
    int64_t fault_seed, suspect_after_ns, gone_after_ns;
    int64_t policy_seed, queue_max, queue_wait_ns, link_delay_ns, requests_max;
    bool json;
    const char *rows, *output, *html;
};

#define AT(field) offsetof(struct settings, field)

static const struct med_option options[] = {
    {.name = "trace",
     .type = MED_OPT_STRING,
     .offset = AT(trace),
     .unit = "LOG",
     .group = "What arrives (default: the sizes and the rate that the plan was made for)",
     .help = "Request log; its requests arrive at its own times, or as --arrival says."},
    {.name = "workload",
     .type = MED_OPT_STRING,
     .offset = AT(workload),
     .unit = "FILE|NAME",
     .help = "Workload that sizes are drawn from: a file, or the name of one that ships."},
    {.name = "data-dir",
     .type = MED_OPT_STRING,
     .offset = AT(data_dir),
     .unit = "FOLDER",
     .help = "Where the shipped workloads are (default: found from the program's place)."},
    {.name = "arrival",
     .type = MED_OPT_CHOICE,
     .offset = AT(arrival),
     .choices = "poisson|gamma|constant|all-at-once|trace",
     .help = "Arrival process. Default: the log's own times, else the workload's."},
    {.name = "rate",
     .type = MED_OPT_NUMBER,
     .offset = AT(rate_per_s),
     .unit = "REQ/S",
     .min = 1e-6,
     .max = 1e6,
     .help = "Mean rate. Default: a log's own, else what the plan was made for."},
    {.name = "speed",
     .type = MED_OPT_NUMBER,
     .offset = AT(speed),
     .unit = "FACTOR",
     .default_text = "1",
     .min = 1e-3,
     .max = 1e3,
     .help = "Times that rate."},
    {.name = "burstiness",
     .type = MED_OPT_NUMBER,
     .offset = AT(burstiness),
     .unit = "B",
     .min = 1e-3,
     .max = 1e6,
     .help = "Shape of gamma arrivals: below 1 is burstier than Poisson."},
    {.name = "from",
     .type = MED_OPT_DURATION,
     .offset = AT(from_ns),
     .unit = "TIME",
     .default_text = "0s",
     .min = 0,
     .max = 1e8,
     .help = "Leave out what the log has before this time from its first request."},
    {.name = "duration",
     .type = MED_OPT_DURATION,
     .offset = AT(duration_ns),
     .unit = "TIME",
     .min = 0,
     .max = 1e7,
     .help = "Arrivals of so much time. Default: all of a log."},
    {.name = "requests",
     .type = MED_OPT_INTEGER,
     .offset = AT(requests),
     .unit = "N",
     .min = 0,
     .max = 1e7,
     .help = "At most so many. Default: all of a log, else 10000 unless --duration."},
    {.name = "max-tokens",
     .type = MED_OPT_INTEGER,
     .offset = AT(max_tokens),
     .unit = "N",
     .min = 0,
     .max = MED_LIMIT_OUTPUT_TOKENS,
     .help = "Output tokens that each request asks for, of which routing may learn. Default: the "
             "plan's last output edge; never less than the request makes."},
    {.name = "seed",
     .type = MED_OPT_INTEGER,
     .offset = AT(seed),
     .unit = "NUMBER",
     .default_text = "1",
     .min = 0,
     .max = 9007199254740992.0,
     .help = "Of what is drawn."},
    {.name = "warm-up",
     .type = MED_OPT_DURATION,
     .offset = AT(warm_up_ns),
     .unit = "TIME",
     .default_text = "0s",
     .min = 0,
     .max = 1e7,
     .help = "Do not count requests of so much time from the first on."},
    {.name = "policy",
     .type = MED_OPT_CHOICE,
     .offset = AT(policy),
     .default_text = "plan",
     .choices = "plan|round-robin|random|least-outstanding|throughput|token-load",
     .group = "The router",
     .help = "How it routes; as medley router's --policy."},
    {.name = "compare",
     .type = MED_OPT_FLAG,
     .offset = AT(compare),
     .help = "Run all policies, and print them side by side."},
    {.name = "policy-seed",
     .type = MED_OPT_INTEGER,
     .offset = AT(policy_seed),
     .unit = "NUMBER",
     .default_text = "0",
     .min = 0,
     .max = 9007199254740992.0,
     .help = "Seed of the policies that draw."},
    {.name = "admission",
     .type = MED_OPT_CHOICE,
     .offset = AT(admission),
     .default_text = "objective",
     .choices = "objective|queue",
     .help = "As medley router's --admission."},
    {.name = "queue-max",
     .type = MED_OPT_INTEGER,
     .offset = AT(queue_max),
     .unit = "REQUESTS",
     .default_text = "4096",
     .min = 1,
     .max = 16384,
     .help = "As medley router's --queue-max."},
    {.name = "queue-wait",
     .type = MED_OPT_DURATION,
     .offset = AT(queue_wait_ns),
     .unit = "TIME",
     .default_text = "30s",
     .min = 0.001,
     .max = 86400,
     .help = "As medley router's --queue-wait."},
    {.name = "in-flight-max",
     .type = MED_OPT_INTEGER,
     .offset = AT(requests_max),
     .unit = "REQUESTS",
     .default_text = "16384",
     .min = 1,
     .max = 1e7,
     .help = "Requests that are accepted and not ended; a router's own limit is the default, more "
             "stand for several routers that know of each other."},
    {.name = "link-delay",
     .type = MED_OPT_DURATION,
     .offset = AT(link_delay_ns),
     .unit = "TIME",
     .default_text = "0s",
     .min = 0,
     .max = 10,
     .help = "One way between router and worker."},
    {.name = "mix",
     .type = MED_OPT_LIST,
     .offset = AT(mixes),
     .unit = "NAME=N+NAME=N|single",
     .group = "Other fleets",
     .help = "Run this mix too, side by side, for the plan's demand; may be given many times. NAME "
             "is an instance, or a GPU or worker type of the plan: its cheapest instance. single: "
             "the cheapest of each GPU alone."},
    {.name = "catalogue",
     .type = MED_OPT_STRING,
     .offset = AT(catalogue),
     .unit = "FILE|NAME",
     .default_text = "cloud-2026",
     .help = "What mixes rent, and for how much."},
    {.name = "faults",
     .type = MED_OPT_STRING,
     .offset = AT(faults),
     .unit = "FAULTS",
     .group = "What breaks",
     .help =
         "Faults, separated by ';': KIND@TIME:TARGET,for=TIME or random,every=TIME; see below."},
    {.name = "fault-seed",
     .type = MED_OPT_INTEGER,
     .offset = AT(fault_seed),
     .unit = "NUMBER",
     .default_text = "1",
     .min = 0,
     .max = 9007199254740992.0,
     .help = "Of what faults draw."},
    {.name = "suspect-after",
     .type = MED_OPT_DURATION,
     .offset = AT(suspect_after_ns),
     .unit = "TIME",
     .default_text = "2s",
     .min = 0.6,
     .max = 3600,
     .help = "As medley router's --suspect-after; with --faults."},
    {.name = "gone-after",
     .type = MED_OPT_DURATION,
     .offset = AT(gone_after_ns),
     .unit = "TIME",
     .default_text = "10s",
     .min = 0.6,
     .max = 3600,
     .help = "As medley router's --gone-after; with --faults."},
    {.name = "resume",
     .type = MED_OPT_CHOICE,
     .offset = AT(resume),
     .default_text = "on",
     .choices = "on|off",
     .help = "As medley router's --resume; with --faults."},
    {.name = "slo",
     .type = MED_OPT_STRING,
     .offset = AT(slo),
     .unit = "OBJECTIVES",
     .group = "What comes out",
     .help = "Objectives to judge by, such as tpot.mean=120ms,ttft.mean=2s. Default: the plan's."},
    {.name = "json", .type = MED_OPT_FLAG, .offset = AT(json), .help = "Print JSON."},
    {.name = "rows",
     .type = MED_OPT_STRING,
     .offset = AT(rows),
     .unit = "FILE",
     .help = "Write a row of CSV for each request that counts (one plan, one policy)."},
    {.name = "html",
     .type = MED_OPT_STRING,
     .offset = AT(html),
     .unit = "FILE",
     .help = "Write the report as a page with timelines, that needs nothing but a browser."},
    {.name = "output",
     .short_name = 'o',
     .type = MED_OPT_STRING,
     .offset = AT(output),
     .unit = "FILE",
     .help = "Write the JSON here, and print the report."},
    {.name = NULL},
};

static const struct med_program program = {
    .name = "medley replay",
    .synopsis = "[options] PLAN...",
    .summary = "Simulates plans against a request log or a workload, on a virtual clock.",
    .details =
        "PLAN is what medley plan --json prints. Its fleet is run by the router's own routing and\n"
        "the workers' own scheduler; iterations take the time that the plan's profiles say. The\n"
        "same input gives the same result, bit for bit. Several plans, or --compare, are\n"
        "printed side by side for the same arrivals.\n"
        "\n"
        "Faults: crash, hang (no heartbeat), stall (heartbeats go on), slow (factor=2), lie\n"
        "(wrong load reports), drop (the connection), delay (by=100ms: messages are late by up to\n"
        "that), partition (nothing passes until it heals), drain, plan (TARGET is a plan file,\n"
        "start=TIME until its new workers are there). TIME counts from the start of the arrivals;\n"
        "TARGET is a worker (its type and number, such as h100-0), a worker type, or all; without\n"
        "for=TIME a fault lasts to the end. random,every=30s,kinds=crash+slow strikes one worker "
        "at\n"
        "a time, drawn by --fault-seed, so far apart on average. The report sets each fault "
        "beside\n"
        "what was before and after, and beside the same replay without faults.\n"
        "\n"
        "Examples:\n"
        "  medley replay plan.json --trace requests.csv\n"
        "  medley replay plan.json --workload azure-conversation --requests 20000 --speed 1.5\n"
        "  medley replay plan.json --trace requests.csv --from 10m --duration 5m --compare\n"
        "  medley replay mixed.json a100-only.json --trace requests.csv --json\n"
        "  medley replay plan.json --mix H100=2 --mix A100-80GB=1+L4=4 --mix single\n"
        "  medley replay plan.json --faults 'crash@10m:h100-0,for=5m;slow@20m:a100,for=2m'\n"
        "  medley replay plan.json --faults random,every=1m --fault-seed 7\n"
        "\n"
        "Exit status: 0 done, 1 failed, 2 wrong usage or a file that is not valid, 3 an "
        "infeasible\n"
        "plan, which has no fleet.",
    .options = options,
    .positional_min = 1,
    .positional_max = MED_REPLAY_PLANS_MAX,
};

/* ---- arrivals ---- */

/* Where the requests come from. Zeroed before use; release works on any state. */
struct source {
    struct med_workload workload;
    struct med_request_log log;
    bool has_workload, has_log;
    const char *name; /* NULL: the plan */
    struct med_arrivals_config config;
    struct med_arrivals arrivals;
};

static void source_release(struct source *s)
{
    if (s->has_workload)
        med_workload_release(&s->workload);
    if (s->has_log)
        med_request_log_release(&s->log);
    med_arrivals_release(&s->arrivals);
}

static int read_workload(const char *name, const char *data_dir, struct med_workload *ret_workload,
                         struct med_err *err)
{
    char *path = NULL;
    int rc = med_resolve(MED_RESOLVE_WORKLOAD, name, data_dir, &path, err);
    if (rc >= 0)
        rc = med_workload_read_file(path, ret_workload, err);
    med_free(path);
    return rc;
}

static int source_read(const struct settings *o, const struct med_plan *plan, struct source *s,
                       struct med_err *err)
{
    int rc = 0;
    s->name = o->trace ? o->trace : o->workload;
    if (o->trace && o->workload) {
        return med_err_set(err, MED_E_USAGE,
                           "--trace and --workload both say what arrives, expected one of them");
    }
    if (o->workload) {
        rc = read_workload(o->workload, o->data_dir, &s->workload, err);
    } else if (!o->trace) {
        rc = med_arrivals_workload_from_plan(plan, &s->workload, err);
    }
    s->has_workload = rc >= 0 && !o->trace;
    const char *trace = o->trace;
    if (s->has_workload && s->workload.arrival == MED_ARRIVAL_TRACE)
        trace = s->workload.trace;
    if (rc >= 0 && trace) {
        rc = med_request_log_read_file(trace, &s->log, err);
        s->has_log = rc >= 0;
    }
    return rc;
}

/* Cuts off what lies before --from; times count from there on. */
static int log_cut(const struct settings *o, struct med_request_log *log, struct med_err *err)
{
    double from_s = (double)o->from_ns / 1e9;
    size_t first = 0;
    while (first < log->count && log->rows[first].arrival_s < from_s)
        first++;
    if (first == log->count) {
        return med_err_set(err, MED_E_USAGE,
                           "--from: %g s is behind the log's last request, at %g s", from_s,
                           log->count > 0 ? log->rows[log->count - 1].arrival_s : 0.0);
    }
    double origin_s = log->rows[first].arrival_s;
    for (size_t i = first; i < log->count; i++) {
        log->rows[i - first] = log->rows[i];
        log->rows[i - first].arrival_s -= origin_s;
    }
    log->count -= first;
    return 0;
}

static enum med_arrivals_process process_of(const struct settings *o, const struct source *s)
{
    if (o->arrival)
        return (enum med_arrivals_process)med_arrivals_process_parse(o->arrival);
    if (s->has_log)
        return MED_ARRIVALS_TRACE;
    return s->workload.arrival == MED_ARRIVAL_GAMMA ? MED_ARRIVALS_GAMMA : MED_ARRIVALS_POISSON;
}

/* The rate before --speed; 0: a log of one moment has none. */
static double rate_of(const struct settings *o, const struct med_plan *plan, const struct source *s)
{
    if (o->rate_per_s > 0)
        return o->rate_per_s;
    if (!s->has_log)
        return plan->rate_per_s;
    double span_s = s->log.count > 0 ? s->log.rows[s->log.count - 1].arrival_s : 0;
    return span_s > 0 ? (double)(s->log.count - 1) / span_s : 0;
}

static int source_schedule(const struct settings *o, const struct med_options *given,
                           const struct med_plan *plan, struct source *s, struct med_err *err)
{
    const struct med_grid *grid = &plan->grid;
    enum med_arrivals_process process = process_of(o, s);
    bool own_times = process == MED_ARRIVALS_TRACE && o->rate_per_s == 0 && o->speed == 1;
    int64_t most = s->has_log ? (int64_t)s->log.count : o->duration_ns > 0 ? 0 : REQUESTS_DEFAULT;
    if (o->from_ns > 0 && !s->has_log)
        return med_err_set(err, MED_E_USAGE, "--from applies to a request log, and there is none");
    if (s->has_log && o->from_ns > 0) {
        int rc = log_cut(o, &s->log, err);
        if (rc < 0)
            return rc;
        most = (int64_t)s->log.count;
    }
    s->config = (struct med_arrivals_config){
        .process = process,
        .rate_per_s = own_times ? 0 : rate_of(o, plan, s) * o->speed,
        .burstiness = med_options_given(given, "burstiness") ? o->burstiness
                      : s->has_workload                      ? s->workload.burstiness
                                                             : 1,
        .requests = o->requests > 0 ? o->requests : most,
        .duration_ns = o->duration_ns,
        .seed = (uint64_t)o->seed,
        .output_tokens_max = o->max_tokens > 0 ? o->max_tokens
                             : grid->output_edge_count > 0
                                 ? (int64_t)grid->output_edges[grid->output_edge_count - 1]
                                 : MAX_TOKENS_DEFAULT,
        .workload = s->has_workload ? &s->workload : NULL,
        .log = s->has_log ? &s->log : NULL,
    };
    return med_arrivals_make(&s->config, &s->arrivals, err);
}

/* ---- results ---- */

static int write_page(const char *path, const struct med_buf *json, struct med_err *err)
{
    struct med_buf page;
    med_buf_init(&page, (size_t)2 * MED_LIMIT_JSON_BYTES);
    int rc = med_replay_report_html(&page, json);
    rc = rc < 0 ? med_err_set(err, rc, "--html %s: %s", path, med_err_text(rc))
                : med_output_write_file(path, &page, err);
    med_buf_release(&page);
    return rc;
}

static int print_and_write(const struct settings *o, struct med_buf *text, struct med_buf *json,
                           struct med_err *err)
{
    int rc = o->output ? med_output_write_file(o->output, json, err) : 0;
    if (rc >= 0 && o->html)
        rc = write_page(o->html, json, err);
    return rc < 0 ? rc : med_output_print(o->json ? json : text, err);
}

static int report(const struct settings *o, const struct med_replay_runs *runs,
                  const struct source *s, struct med_err *err)
{
    struct med_replay_about about = {
        .source = s->name,
        .source_is_log = o->trace != NULL,
        .process = s->config.process,
        .burstiness = s->config.burstiness,
        .speed = o->rate_per_s > 0 ? NAN : o->speed,
        .from_s = (double)o->from_ns / 1e9,
        .seed = (uint64_t)o->seed,
        .warm_up_ns = o->warm_up_ns,
        .arrivals = s->arrivals.items,
    };
    struct med_buf text, json;
    med_buf_init(&text, MED_LIMIT_JSON_BYTES);
    med_buf_init(&json, MED_LIMIT_JSON_BYTES);
    bool colour = med_output_wants_colour();
    int rc = med_replay_runs_text(&text, runs, &about, colour);
    if (rc >= 0)
        rc = med_replay_runs_json(&json, runs, &about);
    if (rc < 0) {
        rc = med_err_set(err, rc, "the result: %s", med_err_text(rc));
    } else {
        rc = print_and_write(o, &text, &json, err);
    }
    if (rc >= 0 && o->rows)
        rc = med_replay_runs_rows(o->rows, runs, &about, err);
    med_buf_release(&text);
    med_buf_release(&json);
    return rc;
}

static int read_faults(const struct settings *o, struct med_fault_schedule *schedule,
                       struct med_replay_runs *runs, struct med_err *err)
{
    if (o->gone_after_ns < o->suspect_after_ns) {
        return med_err_set(err, MED_E_USAGE,
                           "--gone-after: found %.3g s, expected at least --suspect-after, %.3g s",
                           (double)o->gone_after_ns / 1e9, (double)o->suspect_after_ns / 1e9);
    }
    if (!o->faults)
        return 0;
    runs->faults = schedule;
    runs->options.resume = strcmp(o->resume, "on") == 0;
    runs->options.suspect_after_ns = o->suspect_after_ns;
    runs->options.gone_after_ns = o->gone_after_ns;
    return med_fault_schedule_parse(o->faults, (uint64_t)o->fault_seed, schedule, err);
}

static int add_mixes(const struct settings *o, struct med_replay_runs *runs, struct med_err *err)
{
    struct med_catalogue catalogue;
    char *path = NULL;
    int rc = med_resolve(MED_RESOLVE_CATALOGUE, o->catalogue, o->data_dir, &path, err);
    if (rc >= 0)
        rc = med_catalogue_read_file(path, &catalogue, err);
    med_free(path);
    if (rc < 0)
        return rc;
    rc = med_replay_mixes_add(runs, o->mixes.values, o->mixes.count, &catalogue, o->compare, err);
    med_catalogue_release(&catalogue);
    return rc;
}

static int replay(const struct settings *o, const struct med_options *given, struct med_err *err)
{
    struct med_fault_schedule faults = {0};
    struct med_replay_runs runs = {.warm_up_ns = o->warm_up_ns};
    struct source source = {0};
    enum med_dispatch_policy policy = MED_POLICY_PLAN;
    (void)med_dispatch_policy_parse(o->policy, &policy); /* the option's choices are its names */
    runs.options = (struct med_sim_options){.queue_wait_ns = o->queue_wait_ns,
                                            .queue_max = o->queue_max,
                                            .admission_off = strcmp(o->admission, "queue") == 0,
                                            .policy = policy,
                                            .policy_seed = (uint64_t)o->policy_seed,
                                            .link_delay_ns = o->link_delay_ns,
                                            .requests_max = o->requests_max};
    int rc = read_faults(o, &faults, &runs, err);
    if (rc >= 0) {
        rc = med_replay_runs_read(&runs, given->positional, (size_t)given->positional_count,
                                  o->compare, err);
    }
    if (rc >= 0 && o->mixes.count > 0)
        rc = add_mixes(o, &runs, err);
    if (rc >= 0 && o->slo) {
        rc = med_slos_parse(o->slo, &runs.slos, err);
        runs.has_slos = true;
    }
    if (rc >= 0 && o->rows && runs.count > 1) {
        rc = med_err_set(err, MED_E_USAGE,
                         "--rows: found %zu runs, expected one plan and one policy", runs.count);
    }
    if (rc >= 0)
        rc = source_read(o, &runs.plans[0], &source, err);
    if (rc >= 0)
        rc = source_schedule(o, given, &runs.plans[0], &source, err);
    if (rc >= 0)
        rc = med_replay_runs_do(&runs, source.arrivals.items, source.arrivals.count, err);
    if (rc >= 0)
        rc = report(o, &runs, &source, err);
    source_release(&source);
    med_replay_runs_release(&runs);
    med_fault_schedule_release(&faults);
    return rc;
}

int main(int argc, char **argv)
{
    struct settings settings = {0};
    struct med_options given;
    int exit_status = 0;
    if (med_options_main(&program, argc, argv, &settings, &given, &exit_status) ==
        MED_OPTIONS_DONE) {
        med_options_release(&given);
        return exit_status;
    }
    struct med_err err = {0};
    int rc = replay(&settings, &given, &err);
    if (rc < 0)
        (void)fprintf(stderr, "%s: %s\n", program.name, err.text);
    med_options_release(&given);
    return med_err_exit_status(rc < 0 ? rc : 0);
}
