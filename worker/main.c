/* SPDX-License-Identifier: Apache-2.0 */
/*
 * medley-worker: serves one model on one device group.
 *
 * Reads the profile of its worker type (from a plan, or alone), settles the engine's limits, checks
 * that weights and cache fit the memory, and hands over to the service.  With --dry-run it prints the
 * memory plan instead.  thread: main, which becomes the loop.  Holds no state of a running worker.
 */
#include "allocator/plan.h"
#include "base/alloc.h"
#include "base/options.h"
#include "router/net.h"
#include "worker/emulated/emulated.h"
#include "worker/service.h"

#include <inttypes.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct options {
    const char *backend, *plan, *worker_type, *profile;
    struct med_option_list routers;
    const char *worker_id, *served_model_name, *metrics_listen;
    int64_t model_len_max, sequences_max, batched_tokens_max, kv_tokens, seed, drain_ns;
    double time_scale, noise, bias;
    bool dry_run;
};

// clang-format off
#define AT(field) offsetof(struct options, field)
static const struct med_option option_table[] = {
    {.name = "plan", .type = MED_OPT_STRING, .offset = AT(plan), .unit = "FILE", .group = "What to serve",
     .help = "Plan that holds the profile of the worker type."},
    {.name = "worker-type", .type = MED_OPT_STRING, .offset = AT(worker_type), .unit = "NAME",
     .help = "Worker type of the plan to be; not needed if the plan has one."},
    {.name = "profile", .type = MED_OPT_STRING, .offset = AT(profile), .unit = "FILE",
     .help = "Profile of the worker type, instead of a plan."},
    {.name = "served-model-name", .type = MED_OPT_STRING, .offset = AT(served_model_name), .unit = "NAME",
     .help = "Name of the model for clients; the profile's by default."},
    {.name = "backend", .type = MED_OPT_CHOICE, .offset = AT(backend), .default_text = "emulated",
     .choices = "emulated", .group = "Engine",
     .help = "What computes: emulated takes the time that the profile says."},
    {.name = "max-model-len", .type = MED_OPT_INTEGER, .offset = AT(model_len_max), .unit = "TOKENS",
     .min = 1, .max = 1 << 30, .help = "Prompt and output of one request; the profile's by default."},
    {.name = "max-num-seqs", .type = MED_OPT_INTEGER, .offset = AT(sequences_max), .unit = "COUNT",
     .min = 1, .max = 8192, .help = "Sequences of one batch; the profile's by default."},
    {.name = "max-num-batched-tokens", .type = MED_OPT_INTEGER, .offset = AT(batched_tokens_max),
     .unit = "TOKENS", .min = 1, .max = 1 << 30,
     .help = "Tokens of one iteration; the profile's by default."},
    {.name = "kv-tokens", .type = MED_OPT_INTEGER, .offset = AT(kv_tokens), .unit = "TOKENS", .min = 1,
     .max = 1 << 30, .help = "Capacity of the KV cache; the profile's by default."},
    {.name = "seed", .type = MED_OPT_INTEGER, .offset = AT(seed), .unit = "NUMBER", .default_text = "0",
     .min = 0, .max = 9007199254740991.0, .help = "Seed of the noise, and of requests that bring none."},
    {.name = "emulated-noise", .type = MED_OPT_NUMBER, .offset = AT(noise), .unit = "SIGMA",
     .default_text = "0", .min = 0, .max = 3,
     .help = "Lognormal noise on each emulated iteration; 0 is none. The mean stays."},
    {.name = "emulated-bias", .type = MED_OPT_NUMBER, .offset = AT(bias), .unit = "FACTOR",
     .default_text = "1", .min = 0.001, .max = 1000,
     .help = "Factor on the time of each emulated iteration."},
    {.name = "router", .type = MED_OPT_LIST, .offset = AT(routers), .unit = "ADDRESS",
     .group = "Process", .help = "Router to dial: HOST:PORT or unix:/path; may be given many times."},
    {.name = "worker-id", .type = MED_OPT_STRING, .offset = AT(worker_id), .unit = "NAME",
     .help = "Name of this worker, unique in the fleet; host and process number by default."},
    {.name = "metrics-listen", .type = MED_OPT_STRING, .offset = AT(metrics_listen), .unit = "HOST:PORT",
     .help = "Where /metrics and /health are served; port 0 lets the system choose. Off by default."},
    {.name = "drain-timeout", .type = MED_OPT_DURATION, .offset = AT(drain_ns), .unit = "TIME",
     .default_text = "30s", .min = 0, .max = 86400,
     .help = "How long (real time) running requests may go on after SIGTERM."},
    {.name = "time-scale", .type = MED_OPT_NUMBER, .offset = AT(time_scale), .unit = "FACTOR",
     .default_text = "1", .min = 0.001, .max = 1000,
     .help = "Fleet seconds per real second, the same for the whole run."},
    {.name = "dry-run", .type = MED_OPT_FLAG, .offset = AT(dry_run),
     .help = "Print the memory plan and exit."},
    {0},
};
// clang-format on

static const struct med_program program = {
    .name = "medley worker",
    .synopsis = "[options] --router ADDRESS (--plan FILE | --profile FILE)",
    .summary = "Serves one model on one device group, for the routers that it dials.",
    .details =
        "When the engine is ready, one line on standard error begins with READY and says what was\n"
        "set up. SIGTERM or SIGINT drains: no new requests are taken, running ones go on until "
        "they\n"
        "end or --drain-timeout has passed; a second signal cancels them. A worker that every\n"
        "router has drained stops by itself.\n"
        "\n"
        "Exit status: 0 stopped as told, 1 failed, 2 wrong usage or input.\n",
    .options = option_table,
};

/* Everything that lives as long as the process serves. */
struct setup {
    struct options options;
    struct med_profile profile;
    struct med_slos slos;
    struct med_clock clock;
    struct sockaddr_storage metrics_address;
    double ttft_bounds_s[MED_LIMIT_SLOS], tpot_bounds_s[MED_LIMIT_SLOS];
    char worker_id[MED_LIMIT_NAME_BYTES + 1];
    struct med_service_config service;
};

/* ---- profile -------------------------------------------------------------------------------- */

static int choose_type(const struct med_plan *plan, const struct options *o, struct med_err *err)
{
    if (o->worker_type) {
        int type = med_plan_find_type(plan, o->worker_type);
        if (type < 0) {
            return med_err_set(err, MED_E_USAGE, "--worker-type %s: %s has no profile of that name",
                               o->worker_type, o->plan);
        }
        return type;
    }
    if (plan->profile_count != 1) {
        return med_err_set(err, MED_E_USAGE,
                           "%s has %zu worker types, expected --worker-type to name one", o->plan,
                           plan->profile_count);
    }
    return 0;
}

static int read_profile(struct setup *setup, struct med_err *err)
{
    const struct options *o = &setup->options;
    struct med_plan plan;
    if (!o->plan == !o->profile)
        return med_err_set(err, MED_E_USAGE, "expected either --plan FILE or --profile FILE");
    if (o->profile) {
        if (o->worker_type)
            return med_err_set(err, MED_E_USAGE, "--worker-type goes with --plan, not --profile");
        return med_profile_read_file(o->profile, &setup->profile, err);
    }
    int rc = med_plan_read_file(o->plan, &plan, err);
    if (rc < 0)
        return rc;
    rc = choose_type(&plan, o, err);
    if (rc >= 0) {
        rc = med_profile_copy(&plan.profiles[rc], &setup->profile);
        if (rc < 0)
            (void)med_err_set(err, rc, "no memory for a profile");
    }
    setup->slos = plan.slos;
    med_plan_release(&plan);
    return rc;
}

/* ---- sizes ---------------------------------------------------------------------------------- */

static int64_t given_or(int64_t given, int64_t otherwise)
{
    return given > 0 ? given : otherwise;
}

static void settle_limits(struct setup *setup)
{
    const struct options *o = &setup->options;
    const struct med_engine_limits *p = &setup->profile.limits;
    struct med_scheduler_config *s = &setup->service.scheduler;
    int64_t kv_tokens = given_or(o->kv_tokens, p->kv_tokens);
    *s = (struct med_scheduler_config){
        .block_tokens = p->block_tokens,
        .kv_tokens = kv_tokens / p->block_tokens * p->block_tokens,
        .model_len_max = given_or(o->model_len_max, p->model_len_max),
        .sequences_max = given_or(o->sequences_max, p->sequences_max),
        .batched_tokens_max = given_or(o->batched_tokens_max, p->batched_tokens_max),
        .table_max = MED_LIMIT_WORKER_REQUESTS,
    };
    if (s->model_len_max > s->kv_tokens)
        s->model_len_max = s->kv_tokens;
}

static double memory_bytes(const struct setup *setup)
{
    return setup->profile.hardware.memory_bytes * (double)setup->profile.gpus_per_worker;
}

static double cache_bytes(const struct setup *setup)
{
    return (double)setup->service.scheduler.kv_tokens * setup->profile.model.kv_bytes_per_token;
}

static int check_memory(const struct setup *setup, struct med_err *err)
{
    const struct med_scheduler_config *s = &setup->service.scheduler;
    double weights = setup->profile.model.weight_bytes;
    if (s->kv_tokens < 1) {
        return med_err_set(err, MED_E_USAGE,
                           "--kv-tokens %" PRId64 ": expected at least one block of %" PRId64
                           " tokens",
                           setup->options.kv_tokens, s->block_tokens);
    }
    if (s->batched_tokens_max < s->sequences_max) {
        return med_err_set(err, MED_E_USAGE,
                           "--max-num-batched-tokens %" PRId64
                           ": expected at least --max-num-seqs (%" PRId64
                           "), or a full batch could not decode",
                           s->batched_tokens_max, s->sequences_max);
    }
    if (weights + cache_bytes(setup) > memory_bytes(setup)) {
        return med_err_set(
            err, MED_E_USAGE,
            "weights of %.2f GB and a KV cache of %.2f GB (%" PRId64
            " tokens) exceed the %.2f GB of %" PRId64 " x %s; a smaller --kv-tokens may fit",
            weights / 1e9, cache_bytes(setup) / 1e9, s->kv_tokens, memory_bytes(setup) / 1e9,
            setup->profile.gpus_per_worker, setup->profile.gpu);
    }
    return 0;
}

static void print_memory_plan(const struct setup *setup)
{
    const struct med_profile *p = &setup->profile;
    const struct med_scheduler_config *s = &setup->service.scheduler;
    double left = memory_bytes(setup) - p->model.weight_bytes - cache_bytes(setup);
    (void)printf("worker type          %s (%" PRId64 " x %s, %s)\n", p->worker_type,
                 p->gpus_per_worker, p->gpu, p->dtype);
    (void)printf("model                %s, %.2f billion parameters\n", setup->service.hello.model,
                 p->model.parameters / 1e9);
    (void)printf("memory               %8.2f GB\n", memory_bytes(setup) / 1e9);
    (void)printf("weights              %8.2f GB\n", p->model.weight_bytes / 1e9);
    (void)printf("KV cache             %8.2f GB: %" PRId64 " tokens, %" PRId64 " blocks of %" PRId64
                 ", %.0f bytes per token\n",
                 cache_bytes(setup) / 1e9, s->kv_tokens, s->kv_tokens / s->block_tokens,
                 s->block_tokens, p->model.kv_bytes_per_token);
    (void)printf("left                 %8.2f GB for activations and workspace\n", left / 1e9);
    (void)printf("max-model-len        %8" PRId64 " tokens\n", s->model_len_max);
    (void)printf("max-num-seqs         %8" PRId64 "\n", s->sequences_max);
    (void)printf("max-num-batched-tokens %6" PRId64 "\n", s->batched_tokens_max);
    (void)printf("maximum concurrency  %8.2f requests of %" PRId64 " tokens\n",
                 (double)s->kv_tokens / (double)s->model_len_max, s->model_len_max);
}

/* ---- identity ------------------------------------------------------------------------------- */

static int check_name(const char *option, const char *name, struct med_err *err)
{
    size_t bytes = strlen(name);
    size_t good = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                               "._:/-@+");
    if (bytes == 0 || bytes > MED_LIMIT_NAME_BYTES || good != bytes) {
        return med_err_set(err, MED_E_USAGE,
                           "%s: expected 1 to %d letters, digits and . _ : / - @ +, got \"%.*s\"",
                           option, MED_LIMIT_NAME_BYTES, MED_LIMIT_NAME_BYTES, name);
    }
    return 0;
}

static int settle_identity(struct setup *setup, struct med_err *err)
{
    const struct options *o = &setup->options;
    struct med_uplink_hello *hello = &setup->service.hello;
    const struct med_scheduler_config *s = &setup->service.scheduler;
    if (o->worker_id) {
        (void)snprintf(setup->worker_id, sizeof setup->worker_id, "%.*s", MED_LIMIT_NAME_BYTES,
                       o->worker_id);
    } else {
        char host[64] = "host";
        (void)gethostname(host, sizeof host - 1);
        (void)snprintf(setup->worker_id, sizeof setup->worker_id, "%s-%ld", host, (long)getpid());
    }
    int rc = check_name("--worker-id", o->worker_id ? o->worker_id : setup->worker_id, err);
    if (rc >= 0 && o->served_model_name)
        rc = check_name("--served-model-name", o->served_model_name, err);
    if (rc < 0)
        return rc;
    uint64_t pid = (uint64_t)getpid();
    *hello = (struct med_uplink_hello){
        .worker_id = setup->worker_id,
        .incarnation = (uint64_t)med_clock_unix_ns() ^ (pid << 48),
        .worker_type = setup->profile.worker_type,
        .model = o->served_model_name ? o->served_model_name : setup->profile.model.name,
        .backend = o->backend,
        .model_len_max = s->model_len_max,
        .sequences_max = s->sequences_max,
        .kv_tokens = s->kv_tokens,
    };
    return 0;
}

static int check_addresses(struct setup *setup, struct med_err *err)
{
    const struct options *o = &setup->options;
    if (o->routers.count == 0 && !o->dry_run)
        return med_err_set(err, MED_E_USAGE, "expected --router ADDRESS at least once");
    for (size_t i = 0; i < o->routers.count; i++) {
        int rc = med_uplink_check_address(o->routers.values[i], err);
        if (rc < 0)
            return rc;
    }
    setup->service.routers = o->routers.values;
    setup->service.router_count = o->routers.count;
    if (!o->metrics_listen)
        return 0;
    setup->service.metrics_address = &setup->metrics_address;
    return med_net_parse(o->metrics_listen, "--metrics-listen", &setup->metrics_address, err);
}

/* ---- running -------------------------------------------------------------------------------- */

/* Objectives become exact bounds of the histograms, so that attainment is a ratio of counters. */
static void settle_bounds(struct setup *setup)
{
    struct med_service_config *c = &setup->service;
    for (size_t i = 0; i < setup->slos.count; i++) {
        double limit_s = setup->slos.items[i].limit_ms / 1e3;
        if (setup->slos.items[i].metric == MED_SLO_TTFT) {
            setup->ttft_bounds_s[c->ttft_bound_count++] = limit_s;
        } else {
            setup->tpot_bounds_s[c->tpot_bound_count++] = limit_s;
        }
    }
    c->ttft_bounds_s = setup->ttft_bounds_s;
    c->tpot_bounds_s = setup->tpot_bounds_s;
}

static int make_backend(struct setup *setup, struct med_err *err)
{
    const struct options *o = &setup->options;
    struct med_emulated_config emulated = {
        .clock = &setup->clock,
        .vocab_tokens = setup->profile.model.vocab,
        .noise_sigma = o->noise,
        .bias = o->bias,
        .seed = (uint64_t)o->seed,
    };
    int rc = med_latency_init(&emulated.latency, &setup->profile, err);
    if (rc < 0)
        return MED_E_INVALID; /* for a worker it is the input that is wrong */
    setup->service.emulated = true;
    return med_emulated_new(&emulated, &setup->service.backend, err);
}

static int serve(struct setup *setup, struct med_err *err)
{
    const struct options *o = &setup->options;
    struct med_service_config *c = &setup->service;
    med_clock_init_real(&setup->clock, o->time_scale);
    c->clock = &setup->clock;
    c->drain_ns = o->drain_ns;
    c->seed = (uint64_t)o->seed;
    c->vocab_tokens = setup->profile.model.vocab;
    c->weight_bytes = setup->profile.model.weight_bytes;
    settle_bounds(setup);
    int rc = make_backend(setup, err);
    if (rc < 0)
        return rc;
    /* A router that goes away is an error of a write, not a signal. */
    (void)signal(SIGPIPE, SIG_IGN);
    return med_service_run(c, err);
}

static int run(struct setup *setup, struct med_err *err)
{
    int rc = check_addresses(setup, err);
    if (rc >= 0)
        rc = read_profile(setup, err);
    if (rc < 0)
        return rc;
    settle_limits(setup);
    rc = check_memory(setup, err);
    if (rc >= 0)
        rc = settle_identity(setup, err);
    if (rc >= 0 && setup->options.dry_run) {
        print_memory_plan(setup);
    } else if (rc >= 0) {
        rc = serve(setup, err);
    }
    return rc;
}

int main(int argc, char **argv)
{
    static struct setup setup;
    struct med_options options;
    struct med_err err = {0};
    struct timespec now;
    int exit_status = 0;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    setup.service.started_ns = (int64_t)now.tv_sec * MED_NS_PER_S + now.tv_nsec;
    if (med_options_main(&program, argc, argv, &setup.options, &options, &exit_status) !=
        MED_OPTIONS_RUN)
        return exit_status;
    int rc = run(&setup, &err);
    if (rc < 0)
        (void)fprintf(stderr, "%s: %s\n", program.name, err.text);
    med_profile_release(&setup.profile);
    med_options_release(&options);
    return rc < 0 ? med_err_exit_status(rc) : 0;
}
