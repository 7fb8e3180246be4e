/* SPDX-License-Identifier: Apache-2.0 */
/*
 * medley profile: measures a worker and writes its profile.
 *
 * The worker is spawned beside this program, or dials it.  Points go to a journal beside the output as
 * they are measured; the profile is made of the journal at the end, also after an interrupt, and of
 * what was measured before a failure.
 * thread: main.
 */
#include "base/alloc.h"
#include "base/log.h"
#include "base/os.h"
#include "profiles/profiler/result.h"
#include "profiles/profiler/search.h"
#include "router/up/become.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SERVING_PRECISION 0.08
enum {
    SERVING_POINTS = 10,
    PATH_BYTES = 4096,
    ARGS_MAX = 100,
    TEXT_BYTES = 32,
    JSON_BYTES_MAX = 64 << 20
};

// clang-format off
#define AT(field) offsetof(struct med_profiler_options, field)
static const struct med_option option_table[] = {
    {.name = "backend", .type = MED_OPT_CHOICE, .offset = AT(backend), .choices = "emulated|cpu|cuda",
     .group = "What to measure",
     .help = "What the worker computes with; by default cuda with --shape, cpu with --model, "
             "emulated with --profile."},
    {.name = "model", .type = MED_OPT_STRING, .offset = AT(model), .unit = "DIR",
     .help = "Model directory that the worker is started with; with --api the model's name."},
    {.name = "shape", .type = MED_OPT_STRING, .offset = AT(shape), .unit = "NAME",
     .help = "Random weights of a known shape instead (medley worker --help lists them): times do not depend "
             "on what weights are."},
    {.name = "profile", .type = MED_OPT_STRING, .offset = AT(profile), .unit = "FILE",
     .help = "Profile of an emulated worker, to try the profiler itself."},
    {.name = "time-scale", .type = MED_OPT_NUMBER, .offset = AT(time_scale), .unit = "FACTOR",
     .default_text = "1", .min = 0.001, .max = 1000,
     .help = "Of an emulated worker: fleet seconds per real second."},
    {.name = "listen", .type = MED_OPT_STRING, .offset = AT(listen), .unit = "ADDRESS",
     .help = "Spawn nothing: wait here (HOST:PORT or unix:/path) for a worker that is started by hand with "
             "--router, and best with --measure-limits."},
    {.name = "link-tls-certificate", .type = MED_OPT_STRING, .offset = AT(tls_certificate), .unit = "FILE",
     .help = "PEM certificate chain; --listen HOST:PORT then speaks TLS."},
    {.name = "link-tls-key", .type = MED_OPT_STRING, .offset = AT(tls_key), .unit = "FILE",
     .help = "PEM key of --link-tls-certificate."},
    {.name = "link-token-file", .type = MED_OPT_STRING, .offset = AT(token_file), .unit = "FILE",
     .help = "Tokens, one a line, of which the worker must present one."},
    {.name = "wait", .type = MED_OPT_DURATION, .offset = AT(wait_ns), .unit = "TIME", .default_text = "10m",
     .min = 1, .max = 86400, .help = "How long to wait for the worker to be ready."},

    {.name = "api", .type = MED_OPT_CHOICE, .offset = AT(serving.api), .unit = "API",
     .choices = "openai|openai-chat|grpc", .group = "Serving points, of any server",
     .help = "Measure a whole server from outside instead: an OpenAI-compatible API over HTTP with --url, or "
             "medley.v1 over gRPC with --target. --model is then the name that requests carry."},
    {.name = "url", .type = MED_OPT_STRING, .offset = AT(serving.url), .unit = "URL",
     .default_text = "http://127.0.0.1:8000",
     .help = "HTTP server, with a path in front of /v1 if it has one."},
    {.name = "target", .type = MED_OPT_STRING, .offset = AT(serving.target), .unit = "HOST:PORT",
     .default_text = "127.0.0.1:7070", .help = "gRPC door of a router, or unix:PATH."},
    {.name = "tls-ca", .type = MED_OPT_STRING, .offset = AT(serving.tls_ca), .unit = "FILE",
     .help = "Checks the server's certificate with these PEM authorities; system: with the system's. gRPC "
             "speaks TLS only with this; HTTP for https:// URLs, with the system's by default."},
    {.name = "api-key-file", .type = MED_OPT_STRING, .offset = AT(serving.api_key_file), .unit = "FILE",
     .help = "The first line is the API key that is presented."},
    {.name = "api-key", .type = MED_OPT_SECRET, .offset = AT(serving.api_key), .unit = "KEY",
     .help = "The key from the environment or a configuration file (openai, openai-chat)."},
    {.name = "like", .type = MED_OPT_STRING, .offset = AT(serving.like), .unit = "FILE",
     .help = "Profile whose model, hardware and limits are the server's, which tells none of them. Not needed "
             "to go on with an output that is there."},
    {.name = "gpus", .type = MED_OPT_INTEGER, .offset = AT(serving.gpus), .unit = "N", .min = 0, .max = 1024,
     .help = "GPUs of the server. Default: those of --like."},
    {.name = "dtype", .type = MED_OPT_STRING, .offset = AT(serving.dtype), .unit = "NAME",
     .help = "Type of the server's weights, such as bfloat16. Default: that of --like."},
    {.name = "engine", .type = MED_OPT_STRING, .offset = AT(serving.engine), .unit = "NAME",
     .help = "The server's engine and version, such as vllm-0.11. Default: that of --like."},
    {.name = "workload", .type = MED_OPT_STRING, .offset = AT(serving.workload), .unit = "FILE|NAME",
     .help = "Workload whose buckets are measured, those with most work first: a file, or the name of one that "
             "ships. Default: Melange's grid, thinned."},
    {.name = "sizes", .type = MED_OPT_STRING, .offset = AT(serving.sizes), .unit = "SIZES",
     .help = "Sizes instead, input by output tokens: 512x128,2000x200."},
    {.name = "buckets", .type = MED_OPT_INTEGER, .offset = AT(serving.buckets_max), .unit = "N",
     .default_text = "128", .min = 1, .max = MED_SEARCH_SIZES_MAX,
     .help = "Most buckets of the workload that are measured."},
    {.name = "data-dir", .type = MED_OPT_STRING, .offset = AT(serving.data_dir), .unit = "FOLDER",
     .help = "Where the shipped workloads are (default: found from the program's place)."},
    {.name = "slo", .type = MED_OPT_STRING, .offset = AT(serving.slo), .unit = "OBJECTIVES",
     .default_text = "tpot.mean=120ms,ttft.mean=2s",
     .help = "Objectives that each size's greatest rate is sought for (ttft, tpot, e2e_per_token; mean, p50, "
             "p90, p95, p99)."},
    {.name = "requests", .type = MED_OPT_INTEGER, .offset = AT(serving.requests), .unit = "N", .min = 0,
     .max = 1000000,
     .help = "Requests measured at one rate. Default: 100, or ten above the tail of the objectives' "
             "percentile."},
    {.name = "prompt", .type = MED_OPT_CHOICE, .offset = AT(serving.prompt), .unit = "KIND",
     .default_text = "auto", .choices = "auto|ids|text",
     .help = "Prompts: token ids, or single letters whose price in tokens is found first; auto: ids unless the "
             "server refuses them. openai-chat: letters."},
    {.name = "same-prompts", .type = MED_OPT_FLAG, .offset = AT(serving.same_prompts),
     .help = "Sends one and the same prompt for each size, as a cache of prefixes likes it. Otherwise no two "
             "prompts are alike."},
    {.name = "vocabulary", .type = MED_OPT_INTEGER, .offset = AT(serving.vocabulary), .unit = "N", .min = 0,
     .max = 1 << 24,
     .help = "Token ids of prompts are drawn below this. Default: the vocabulary of --like."},
    {.name = "fit", .type = MED_OPT_FLAG, .offset = AT(serving.fit),
     .help = "Also fits a step model to the points, so that the profile can be replayed, and priced at sizes "
             "that were not measured; flagged as modelled, with its error."},
    {.name = "seed", .type = MED_OPT_INTEGER, .offset = AT(serving.seed), .unit = "N", .default_text = "1",
     .min = 0, .max = 9007199254740991.0, .help = "Seed of arrival times. Prompts are new in every run."},
    {.name = "connect-timeout", .type = MED_OPT_DURATION, .offset = AT(serving.connect_timeout_ns),
     .unit = "TIME", .default_text = "10s", .min = 0.01, .max = 3600,
     .help = "Real time to wait for the first connection."},
    {.name = "stall-timeout", .type = MED_OPT_DURATION, .offset = AT(serving.stall_timeout_ns), .unit = "TIME",
     .default_text = "120s", .min = 0.1, .max = 86400,
     .help = "Real time without any answer after which a rate is given up."},
    {.name = "dry-run", .type = MED_OPT_FLAG, .offset = AT(serving.dry_run),
     .help = "Shows the sizes that would be measured and about how long, and sends nothing."},
    {.name = "progress", .type = MED_OPT_FLAG, .offset = AT(serving.progress), .default_text = "true",
     .help = "Shows progress on standard error."},

    {.name = "minutes", .type = MED_OPT_NUMBER, .offset = AT(minutes), .unit = "N", .default_text = "10",
     .min = 0.01, .max = 1440, .group = "How",
     .help = "Budget of measuring, from when the worker is ready; the points that are worth most come first. "
             "With --api there is none by default."},
    {.name = "precision", .type = MED_OPT_NUMBER, .offset = AT(precision), .unit = "SHARE",
     .default_text = "0.005", .min = 0, .max = 1,
     .help = "Repeat a point until the standard error of its median is below this share of it. With --api how far "
             "apart the rate that keeps the objectives and the one that breaks them may be; 0.08 by default."},
    {.name = "repeats", .type = MED_OPT_INTEGER, .offset = AT(repeats_max), .unit = "N", .default_text = "256",
     .min = 1, .max = 4096, .help = "At most so many repeats of a point."},
    {.name = "tolerance", .type = MED_OPT_NUMBER, .offset = AT(tolerance), .unit = "SHARE",
     .default_text = "0.02", .min = 0.0001, .max = 1,
     .help = "Refine the grid where a point differs from the line between its neighbours by more."},
    {.name = "points", .type = MED_OPT_INTEGER, .offset = AT(points_max), .unit = "N", .default_text = "600",
     .min = 1, .max = MED_GRID_POINTS_MAX, .help = "At most so many points. With --api so many rates of a size; 10 by default."},
    {.name = "fresh", .type = MED_OPT_FLAG, .offset = AT(fresh),
     .help = "Forget what the journal beside the output holds (--api: the output itself), instead of going on."},

    {.name = "output", .short_name = 'o', .type = MED_OPT_STRING, .offset = AT(output), .unit = "FILE",
     .group = "What is written",
     .help = "The profile; FILE.journal beside it holds each point as it was measured. With --api the profile is "
             "written after each point."},
    {.name = "name", .type = MED_OPT_STRING, .offset = AT(name), .unit = "NAME",
     .help = "Name of the worker type; the worker's own by default (--api: that of --like)."},
    {.name = "gpu-name", .type = MED_OPT_STRING, .offset = AT(gpu_name), .unit = "NAME",
     .help = "The GPU as the catalogue has it (H100, A100-80GB); from the driver's name by default (--api: that of "
             "--like)."},
    {.name = "json", .type = MED_OPT_FLAG, .offset = AT(json), .help = "Print the outcome as JSON, profile included."},
    {0},
};
// clang-format on

static const struct med_program program = {
    .name = "medley profile",
    .synopsis =
        "[options] -o FILE (--model DIR | --shape NAME | --listen ADDRESS | --api API) [-- WORKER "
        "OPTIONS]",
    .summary = "Measures iterations of a worker, or a whole server, and writes a profile of it.",
    .details =
        "Prefills, decodes and both together are run through the worker's engine as in serving, on "
        "a\n"
        "grid that is refined where interpolation errs most. Progress is told on standard error.\n"
        "\n"
        "A second run with the same output goes on where the first ended, on the same machine "
        "with\n"
        "the same driver, clocks, power limit, model and program; anything else is refused. "
        "SIGINT\n"
        "ends the measurement and writes the profile of what there is.\n"
        "\n"
        "Options behind -- go to the worker that is spawned:\n"
        "  medley profile --backend cuda --shape llama-2-7b -o h100.json -- --max-num-seqs 256\n"
        "\n"
        "With --api a whole server is measured, whoever made it: for each size of request first "
        "alone, "
        "then\n"
        "in an open loop with Poisson arrivals, at rates that close in on the greatest one that "
        "keeps "
        "the\n"
        "objectives. A server that does not keep up is recognised, and said:\n"
        "  medley profile --api openai --url http://127.0.0.1:8000 --model llama-3-8b --like "
        "like.json \\\n"
        "                 --workload azure-conversation --minutes 20 -o our-server.json\n"
        "\n"
        "Exit status: 0 done, or the budget is spent; 1 failed or interrupted; 2 wrong usage.\n",
    .options = option_table,
    .positional_max = -1,
};

/* ---- the worker's arguments ----------------------------------------------------------------- */

struct arguments {
    const char *values[ARGS_MAX + 1];
    size_t count;
    char program[PATH_BYTES], time_scale[TEXT_BYTES];
};

static int put(struct arguments *a, const char *value, struct med_err *err)
{
    if (a->count == ARGS_MAX)
        return med_err_set(err, MED_E_USAGE, "too many options for the worker");
    a->values[a->count++] = value;
    return 0;
}

static int put_option(struct arguments *a, const char *name, const char *value, struct med_err *err)
{
    if (!value)
        return 0;
    int rc = put(a, name, err);
    return rc < 0 ? rc : put(a, value, err);
}

static int worker_arguments(const struct med_profiler_options *o, const struct med_options *parsed,
                            struct arguments *a, struct med_err *err)
{
    char folder[PATH_BYTES - TEXT_BYTES];
    const char *backend = o->backend;
    if (med_os_program_dir(folder, sizeof folder) < 0)
        return med_err_set(err, MED_E_IO, "cannot tell where medley-worker is");
    (void)snprintf(a->program, sizeof a->program, "%s/medley-worker", folder);
    (void)snprintf(a->time_scale, sizeof a->time_scale, "%.15g", o->time_scale);
    if (!backend)
        backend = o->profile ? "emulated" : o->shape ? "cuda" : "cpu";
    int rc = put(a, a->program, err);
    if (rc >= 0)
        rc = put_option(a, "--backend", backend, err);
    if (rc >= 0)
        rc = put_option(a, "--model", o->model, err);
    if (rc >= 0)
        rc = put_option(a, "--shape", o->shape, err);
    if (rc >= 0)
        rc = put_option(a, "--profile", o->profile, err);
    if (rc >= 0)
        rc = put_option(a, "--time-scale", a->time_scale, err);
    if (rc >= 0 && strcmp(backend, "emulated") != 0)
        rc = put(a, "--measure-limits", err);
    for (int i = 0; i < parsed->positional_count && rc >= 0; i++)
        rc = put(a, parsed->positional[i], err);
    return rc;
}

static int check_options(const struct med_profiler_options *o, const struct med_options *parsed,
                         struct med_err *err)
{
    int what = (o->model != NULL) + (o->shape != NULL) + (o->profile != NULL);
    if (!o->output)
        return med_err_set(err, MED_E_USAGE, "expected --output FILE, where the profile goes");
    if (o->listen && (what > 0 || o->backend || parsed->positional_count > 0)) {
        return med_err_set(err, MED_E_USAGE,
                           "--listen waits for a worker that somebody else starts: --model, "
                           "--shape, --profile, --backend and worker options go to that");
    }
    if (!o->listen && what != 1) {
        return med_err_set(err, MED_E_USAGE,
                           "expected one of --model DIR, --shape NAME, --profile FILE and --listen "
                           "ADDRESS");
    }
    if (!o->listen && (o->tls_certificate || o->tls_key || o->token_file)) {
        return med_err_set(err, MED_E_USAGE,
                           "--link-tls-certificate, --link-tls-key and --link-token-file go with "
                           "--listen");
    }
    return 0;
}

/* ---- running -------------------------------------------------------------------------------- */

static int print_json(const struct med_profile_result *result,
                      const struct med_steps_outcome *outcome, const char *path)
{
    struct med_buf text;
    struct med_json_writer w;
    med_buf_init(&text, JSON_BYTES_MAX);
    med_json_writer_init(&w, &text, true);
    med_profile_result_json(result, outcome, path, &w);
    int rc = med_json_writer_finish(&w);
    if (rc >= 0)
        (void)fwrite(text.data, 1, text.length, stdout); /* a failed write shows in fflush */
    med_buf_release(&text);
    return rc;
}

/* The profile of what the journal holds. */
static int write_result(const struct med_profiler_options *o, const struct med_journal *journal,
                        const struct med_profiled_facts *now,
                        const struct med_steps_outcome *outcome, struct med_err *err)
{
    struct med_profile_result result;
    int rc = med_profile_result_make(&result, journal, now, o, err);
    if (rc < 0)
        return rc;
    rc = med_profile_result_write(&result, o->output, err);
    if (rc >= 0 && o->json) {
        rc = print_json(&result, outcome, o->output);
    } else if (rc >= 0) {
        med_profile_result_text(&result, outcome, o->output);
    }
    if (rc >= 0 && fflush(stdout) != 0)
        rc = med_err_set(err, MED_E_IO, "standard output cannot be written");
    med_profile_result_release(&result);
    return rc;
}

static int measure(const struct med_profiler_options *o, struct med_profiled *worker,
                   struct med_journal *journal, struct med_err *err)
{
    struct med_steps_outcome outcome = {0};
    struct med_err later = {0};
    int rc = med_steps_run(worker, journal, o, &outcome, err);
    if (rc >= 0 && !outcome.interrupted)
        rc = med_profiled_refresh(worker, err);
    if (rc < 0 && journal->count == 0)
        return rc;
    int written =
        write_result(o, journal, med_profiled_facts(worker), &outcome, rc < 0 ? &later : err);
    if (rc < 0 && written >= 0) {
        (void)fprintf(stderr, "profile: what was measured before the failure is in %s\n",
                      o->output);
    }
    if (rc >= 0)
        rc = written;
    return rc >= 0 && outcome.interrupted ? med_err_set(err, MED_E_CANCELLED, "interrupted") : rc;
}

/* Of paths the last name alone: a profile travels, the folders of a machine do not. */
static const char *without_folders(const char *argument)
{
    const char *slash = strrchr(argument, '/');
    bool is_path = slash && slash[1] != '\0' && !strstr(argument, "://");
    return is_path ? slash + 1 : argument;
}

static void command_line(int argc, char **argv, char out[MED_PROFILED_TEXT])
{
    size_t length = (size_t)snprintf(out, MED_PROFILED_TEXT, "medley profile");
    for (int i = 1; i < argc && length < MED_PROFILED_TEXT - 1; i++) {
        length += (size_t)snprintf(out + length, MED_PROFILED_TEXT - length, " %s",
                                   without_folders(argv[i]));
    }
    for (char *c = out; *c != '\0'; c++) {
        if ((unsigned char)*c < ' ')
            *c = ' ';
    }
}

static int run(const struct med_profiler_options *o, const struct med_options *parsed,
               const char *command, struct med_err *err)
{
    struct arguments arguments = {0};
    struct med_profiled_config config = {.listen = o->listen,
                                         .tls_certificate = o->tls_certificate,
                                         .tls_key = o->tls_key,
                                         .token_file = o->token_file,
                                         .wait_ns = o->wait_ns};
    struct med_profiled *worker;
    struct med_journal journal;
    char path[PATH_BYTES];
    int rc = check_options(o, parsed, err);
    if (rc >= 0 && snprintf(path, sizeof path, "%s.journal", o->output) >= (int)sizeof path)
        rc = med_err_set(err, MED_E_USAGE, "--output: the path is too long");
    if (rc >= 0 && !o->listen) {
        rc = worker_arguments(o, parsed, &arguments, err);
        config.args = arguments.values;
    }
    if (rc >= 0)
        rc = med_profiled_new(&config, &worker, err);
    if (rc < 0)
        return rc;
    rc = med_journal_open(&journal, path, med_profiled_facts(worker), command, o->fresh, err);
    if (rc >= 0) {
        rc = measure(o, worker, &journal, err);
        med_journal_close(&journal);
    }
    med_profiled_free(worker);
    return rc;
}

/* What both halves share has other defaults here. */
static int serve_points(const struct med_profiler_options *o, const struct med_options *parsed)
{
    struct med_serving_options s = o->serving;
    s.model = o->model;
    s.name = o->name;
    s.gpu = o->gpu_name;
    s.output = o->output;
    s.time_scale = o->time_scale;
    s.fresh = o->fresh;
    s.json = o->json;
    s.minutes = med_options_given(parsed, "minutes") ? o->minutes : 0;
    s.precision = med_options_given(parsed, "precision") ? o->precision : SERVING_PRECISION;
    s.points_max = med_options_given(parsed, "points") ? o->points_max : SERVING_POINTS;
    return med_serving_verb(&s);
}

int main(int argc, char **argv)
{
    struct med_profiler_options values = {0};
    struct med_options options;
    struct med_err err = {0};
    char command[MED_PROFILED_TEXT];
    int status = 0;
    if (med_become_asked(argc, argv))
        return med_become(argc, argv);
    if (med_options_main(&program, argc, argv, &values, &options, &status) != MED_OPTIONS_RUN)
        return status;
    if (values.serving.api) {
        status = serve_points(&values, &options);
        med_options_release(&options);
        return status;
    }
    command_line(argc, argv, command);
    int rc = run(&values, &options, command, &err);
    if (rc < 0)
        (void)fprintf(stderr, "medley profile: %s\n", err.text[0] ? err.text : med_err_text(rc));
    med_options_release(&options);
    return med_err_exit_status(rc);
}
