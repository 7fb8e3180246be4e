/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker that computes (see setup.h): a checkpoint, the CPU as its device, a memory plan, and the
 * transformer as its backend, warmed up once before READY.
 *
 * What the user does not say comes from the model (dtype, how long a sequence may be, how to sample),
 * from the machine (threads, memory) or is fitted by the memory plan.  A profile or plan gives the
 * worker's type and objectives; its limits are of other hardware, and are not used.
 * thread: main.
 */
#include "worker/setup.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/log.h"
#include "base/os.h"
#include "worker/cpu/cpu.h"
#include "worker/machine.h"
#include "worker/transformer.h"
#include "worker/warm_up.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    BLOCK_TOKENS_DEFAULT = 16,
    PREFILL_SHARES = 4, /* a prefill takes so much of an iteration before others had theirs */
    DEVICE_BYTES = 128,
    CORE_MAX = 1 << 16,
    PATH_BYTES = 4096
};

struct med_setup_model {
    const char *dir;
    struct med_checkpoint checkpoint;
    struct med_cpu *cpu;
    struct med_transformer *transformer; /* the backend's; NULL before it is made */
    enum med_dtype dtype, kv_dtype;
    struct med_memory_plan plan;
    double open_s;
};

/* ---- what is computed in -------------------------------------------------------------------- */

static void settle_dtypes(struct med_setup *setup)
{
    struct med_setup_model *real = setup->real;
    int dtype = med_dtype_find(setup->options.dtype);
    int kv_dtype = med_dtype_find(setup->options.kv_cache_dtype);
    if (dtype < 0) /* auto */
        dtype = real->checkpoint.config.dtype == MED_DTYPE_BF16 ? MED_DTYPE_BF16 : MED_DTYPE_F32;
    real->dtype = (enum med_dtype)dtype;
    real->kv_dtype = kv_dtype < 0 ? real->dtype : (enum med_dtype)kv_dtype;
}

/* ---- threads -------------------------------------------------------------------------------- */

static int fail_cores(const char *text, struct med_err *err)
{
    return med_err_set(
        err, MED_E_USAGE,
        "--cpu-cores %s: expected numbers and ranges of them, like 0-3,8, at most %d "
        "cores",
        text, MED_CPU_THREADS_MAX);
}

/* One number at *at, which is moved behind it; -1: there is none. */
static int take_core(const char **at)
{
    char *end;
    if (**at < '0' || **at > '9')
        return -1;
    long value = strtol(*at, &end, 10);
    *at = end;
    return value >= 0 && value < CORE_MAX ? (int)value : -1;
}

static bool has_core(const int *cores, int count, int core)
{
    for (int i = 0; i < count; i++) {
        if (cores[i] == core)
            return true;
    }
    return false;
}

/* "0-3,8" to an array; returns how many there are. */
static int parse_cores(const char *text, int cores[MED_CPU_THREADS_MAX], struct med_err *err)
{
    int count = 0;
    for (const char *at = text;; at++) {
        int first = take_core(&at), last = first;
        if (first >= 0 && *at == '-') {
            at++;
            last = take_core(&at);
        }
        if (first < 0 || last < first || (*at != ',' && *at != '\0') ||
            last - first >= MED_CPU_THREADS_MAX - count)
            return fail_cores(text, err);
        for (int core = first; core <= last; core++) {
            if (has_core(cores, count, core)) {
                return med_err_set(err, MED_E_USAGE, "--cpu-cores %s: core %d is named twice", text,
                                   core);
            }
            cores[count++] = core;
        }
        if (*at == '\0')
            return count;
    }
}

static int check_cores(const int *cores, int count, struct med_err *err)
{
    int usable_max = med_os_cores(NULL, 0);
    int *usable = med_calloc((size_t)usable_max, sizeof usable[0]);
    if (!usable)
        return med_err_set(err, MED_E_NOMEM, "no memory for a list of cores");
    usable_max = med_os_cores(usable, usable_max);
    MED_ASSERT(usable_max > 0);
    int rc = 0;
    for (int i = 0; i < count && rc == 0; i++) {
        int at = 0;
        while (at < usable_max && usable[at] != cores[i])
            at++;
        if (at == usable_max) {
            rc = med_err_set(err, MED_E_USAGE,
                             "--cpu-cores: core %d is not one that this process may use (it has "
                             "%d, the first is %d)",
                             cores[i], usable_max, usable[0]);
        }
    }
    med_free(usable);
    return rc;
}

static int make_cpu(struct med_setup *setup, struct med_err *err)
{
    const struct med_worker_options *o = &setup->options;
    int cores[MED_CPU_THREADS_MAX] = {0};
    struct med_cpu_config config = {.threads = (int)o->threads, .deterministic = o->deterministic};
    if (o->cpu_cores) {
        int count = parse_cores(o->cpu_cores, cores, err);
        int rc = count < 0 ? count : check_cores(cores, count, err);
        if (rc < 0)
            return rc;
        config.pin = true;
        config.cores = cores;
        config.core_count = (size_t)count;
        if (config.threads == 0)
            config.threads = count;
    }
    return med_cpu_new(&config, &setup->real->cpu, err);
}

/* ---- memory --------------------------------------------------------------------------------- */

static struct med_transformer_config transformer_config(const struct med_setup_model *real,
                                                        const struct med_memory_sizes *sizes,
                                                        int64_t block_tokens)
{
    return (struct med_transformer_config){
        .checkpoint = &real->checkpoint,
        .ops = med_cpu_ops(),
        .device = real->cpu,
        .dtype = real->dtype,
        .kv_dtype = real->kv_dtype,
        .block_tokens = block_tokens,
        .kv_blocks = sizes->kv_tokens / block_tokens,
        .sequences_max = sizes->sequences_max,
        .batched_tokens_max = sizes->batched_tokens_max,
        .model_len_max = sizes->model_len_max,
    };
}

static int64_t block_tokens(const struct med_setup *setup)
{
    return med_setup_given_or(setup->options.block_tokens, BLOCK_TOKENS_DEFAULT);
}

static size_t workspace_bytes(void *arg, const struct med_memory_sizes *sizes)
{
    const struct med_setup *setup = arg;
    struct med_transformer_config config =
        transformer_config(setup->real, sizes, block_tokens(setup));
    return med_transformer_workspace_bytes(&config);
}

static int plan_memory(struct med_setup *setup, struct med_err *err)
{
    const struct med_worker_options *o = &setup->options;
    struct med_setup_model *real = setup->real;
    struct med_machine_memory machine;
    int rc = med_machine_memory_read("", &machine, err);
    if (rc < 0)
        return rc;
    const struct med_memory_needs needs = {
        .machine_bytes = machine.total_bytes,
        .available_bytes = machine.available_bytes,
        .share = o->memory_utilization,
        .given = {.model_len_max = o->model_len_max,
                  .sequences_max = o->sequences_max,
                  .batched_tokens_max = o->batched_tokens_max,
                  .kv_tokens = o->kv_tokens},
        .weight_bytes = real->checkpoint.weight_bytes,
        .kv_bytes_per_token =
            med_model_kv_bytes_per_token(&real->checkpoint.config, real->kv_dtype),
        .positions_max = real->checkpoint.config.positions_max,
        .block_tokens = block_tokens(setup),
        .threads = med_cpu_threads(real->cpu),
        .routers = (int64_t)setup->service.router_count,
        .prefix_cache = setup->service.scheduler.prefix_cache,
        .workspace_bytes = workspace_bytes,
        .arg = setup,
    };
    return med_memory_plan_make(&needs, &real->plan, err);
}

/* ---- settling ------------------------------------------------------------------------------- */

static int open_checkpoint(struct med_setup *setup, struct med_err *err)
{
    struct med_setup_model *real = setup->real;
    struct med_clock clock;
    med_clock_init_real(&clock, 1);
    int64_t begin_ns = med_clock_now_ns(&clock);
    real->dir = setup->options.model ? setup->options.model : setup->plan_model_path;
    int rc = med_checkpoint_open(real->dir, &real->checkpoint, err);
    real->open_s = (double)(med_clock_now_ns(&clock) - begin_ns) / (double)MED_NS_PER_S;
    return rc;
}

/* The last folder of the model's path, "." taken as where we are. */
static void name_after_directory(const char *dir, char out[MED_LIMIT_NAME_BYTES + 1])
{
    char here[PATH_BYTES];
    if (strcmp(dir, ".") == 0 && getcwd(here, sizeof here))
        dir = here;
    size_t end = strlen(dir);
    while (end > 1 && dir[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && dir[begin - 1] != '/')
        begin--;
    (void)snprintf(out, MED_LIMIT_NAME_BYTES + 1, "%.*s", (int)(end - begin), dir + begin);
}

static void settle_model_names(struct med_setup *setup)
{
    char name[MED_LIMIT_NAME_BYTES + 1];
    name_after_directory(setup->real->dir, name);
    const struct med_profile *p = setup->has_profile ? &setup->profile : NULL;
    (void)snprintf(setup->model, sizeof setup->model, "%s", p ? p->model.name : name);
    if (p) {
        (void)snprintf(setup->worker_type, sizeof setup->worker_type, "%s", p->worker_type);
    } else {
        (void)snprintf(setup->worker_type, sizeof setup->worker_type, "cpu-%.*s",
                       MED_LIMIT_NAME_BYTES - 4, name);
    }
}

/* How requests are sampled that say nothing. */
static int settle_rules(struct med_setup *setup, struct med_err *err)
{
    const struct med_checkpoint *c = &setup->real->checkpoint;
    const struct med_generation_config *g = &c->generation;
    struct med_request_rules *rules = &setup->service.rules;
    *rules = (struct med_request_rules){.vocab_tokens = c->config.vocab,
                                        .sampling = med_sampling_default(),
                                        .logprobs = true,
                                        .bytes_max = (size_t)setup->real->plan.request_bytes};
    rules->sampling.temperature = g->temperature;
    rules->sampling.top_p = g->top_p;
    rules->sampling.top_k = g->top_k;
    rules->sampling.min_p = g->min_p;
    rules->sampling.repetition_penalty = g->repetition_penalty;
    bool seeded = med_options_given(setup->parsed, "seed");
    rules->sampling.seed = seeded ? (uint64_t)setup->options.seed : setup->incarnation;
    setup->service.seeds_differ = true;
    int rc = med_sampling_check(&rules->sampling, c->config.vocab, err);
    if (rc < 0)
        (void)med_err_prefix(err, "%s/generation_config.json", c->dir);
    return rc;
}

static void settle_scheduler(struct med_setup *setup)
{
    const struct med_memory_plan *p = &setup->real->plan;
    struct med_scheduler_config *s = &setup->service.scheduler;
    s->block_tokens = p->block_tokens;
    s->kv_tokens = p->sizes.kv_tokens;
    s->model_len_max = p->sizes.model_len_max;
    s->sequences_max = p->sizes.sequences_max;
    s->batched_tokens_max = p->sizes.batched_tokens_max;
    s->table_max = p->table_max;
    s->prefix_seed = setup->incarnation;
    s->prefill_chunk_max = (p->sizes.batched_tokens_max + PREFILL_SHARES - 1) / PREFILL_SHARES;
}

static int settle(struct med_setup *setup, struct med_err *err)
{
    setup->real = med_calloc(1, sizeof *setup->real);
    if (!setup->real)
        return med_err_set(err, MED_E_NOMEM, "no memory for a model");
    setup->service.scheduler.prefix_cache =
        setup->options.prefix_cache || !med_options_given(setup->parsed, "prefix-cache");
    int rc = open_checkpoint(setup, err);
    if (rc < 0)
        return rc;
    settle_dtypes(setup);
    settle_model_names(setup);
    rc = make_cpu(setup, err);
    if (rc >= 0)
        rc = plan_memory(setup, err);
    if (rc >= 0)
        rc = settle_rules(setup, err);
    if (rc < 0)
        return rc;
    settle_scheduler(setup);
    setup->service.weight_bytes = (double)setup->real->checkpoint.weight_bytes;
    setup->service.dtype = med_dtype_name(setup->real->dtype);
    return 0;
}

/* ---- telling -------------------------------------------------------------------------------- */

static struct med_memory_title title_of(const struct med_setup *setup)
{
    const struct med_setup_model *real = setup->real;
    const struct med_model_config *m = &real->checkpoint.config;
    return (struct med_memory_title){
        .worker_type = setup->worker_type,
        .model = setup->model,
        .model_dir = real->dir,
        .architecture = med_architecture_name(m->architecture),
        .backend = "cpu",
        .device = med_cpu_describe(real->cpu),
        .dtype = med_dtype_name(real->dtype),
        .kv_dtype = med_dtype_name(real->kv_dtype),
        .batching = setup->options.batching,
        .parameters = real->checkpoint.parameters,
        .threads = med_cpu_threads(real->cpu),
        .prefix_cache = setup->service.scheduler.prefix_cache,
        .deterministic = setup->options.deterministic,
    };
}

static int print(const struct med_setup *setup, struct med_err *err)
{
    struct med_memory_title title = title_of(setup);
    struct med_buf text;
    med_buf_init(&text, 1 << 20);
    int rc = setup->options.json ? med_memory_plan_json(&setup->real->plan, &title, &text)
                                 : med_memory_plan_text(&setup->real->plan, &title, &text);
    if (rc < 0) {
        (void)med_err_set(err, rc, "the memory plan cannot be written: %s", med_err_text(rc));
    } else if (fwrite(text.data, 1, text.length, stdout) != text.length || fflush(stdout) != 0) {
        rc = med_err_set(err, MED_E_IO, "standard output cannot be written");
    }
    med_buf_release(&text);
    return rc;
}

/* The table again, line by line, in the log. */
static void log_plan(const struct med_setup *setup)
{
    struct med_memory_title title = title_of(setup);
    struct med_buf text;
    med_buf_init(&text, 1 << 20);
    if (med_memory_plan_text(&setup->real->plan, &title, &text) >= 0 &&
        med_buf_append(&text, "", 1) >= 0) {
        for (char *line = text.data, *end; (end = strchr(line, '\n')); line = end + 1) {
            *end = '\0';
            MED_INFO("%s", line);
        }
    }
    med_buf_release(&text);
}

/* " key=value" words of the READY line. */
static void describe(void *arg, char *out, size_t out_bytes)
{
    const struct med_setup *setup = arg;
    const struct med_setup_model *real = setup->real;
    struct med_transformer_times times;
    char device[DEVICE_BYTES];
    med_transformer_get_times(real->transformer, &times);
    (void)snprintf(device, sizeof device, "%s", med_cpu_describe(real->cpu));
    for (char *p = device; *p; p++) {
        if (*p == ' ')
            *p = '_';
    }
    (void)snprintf(out, out_bytes,
                   " dtype=%s kv_cache_dtype=%s threads=%d device=%s deterministic=%s batching=%s "
                   "prefix_cache=%s memory_gb=%.3f load_seconds=%.3f memory_seconds=%.3f "
                   "warmup_seconds=%.3f",
                   med_dtype_name(real->dtype), med_dtype_name(real->kv_dtype),
                   med_cpu_threads(real->cpu), device, setup->options.deterministic ? "yes" : "no",
                   setup->options.batching, setup->service.scheduler.prefix_cache ? "on" : "off",
                   (double)real->plan.total_bytes / 1e9, real->open_s + times.load_s,
                   times.memory_s, med_warm_up_seconds(&setup->service.backend));
}

/* ---- backend -------------------------------------------------------------------------------- */

static int make_backend(struct med_setup *setup, struct med_err *err)
{
    struct med_setup_model *real = setup->real;
    struct med_service_config *c = &setup->service;
    struct med_transformer_config config =
        transformer_config(real, &real->plan.sizes, real->plan.block_tokens);
    log_plan(setup);
    int rc = med_transformer_new(&config, &real->transformer, err);
    if (rc < 0)
        return rc;
    struct med_warm_up_config warm_up = {.backend = med_transformer_backend(real->transformer),
                                         .scheduler = c->scheduler,
                                         .vocab_tokens = c->rules.vocab_tokens};
    rc = med_warm_up_new(&warm_up, &c->backend, err);
    if (rc < 0) {
        warm_up.backend.ops->release(warm_up.backend.self);
        return rc;
    }
    c->describe = describe;
    c->describe_arg = setup;
    return 0;
}

void med_setup_model_release(struct med_setup *setup)
{
    struct med_setup_model *real = setup->real;
    if (!real)
        return;
    med_cpu_free(real->cpu);
    med_checkpoint_close(&real->checkpoint);
    med_free(real);
    setup->real = NULL;
}

const struct med_setup_kind med_setup_model = {
    .backend = "cpu", .settle = settle, .print = print, .make_backend = make_backend};
