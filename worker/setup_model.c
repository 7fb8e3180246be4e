/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker that computes (see setup.h): a checkpoint, a device, a memory plan, and the transformer as
 * its backend, warmed up once before READY.  Which device, worker/device.h knows.
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
#include "worker/device.h"
#include "worker/machine.h"
#include "worker/meter.h"
#include "worker/model/shape.h"
#include "worker/transformer.h"
#include "worker/warm_up.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The device's own watchdog comes first, where its driver still answers. */
#define STUCK_MARGIN_NS (15 * MED_NS_PER_S)

enum {
    BLOCK_TOKENS_DEFAULT = 16,
    PREFILL_SHARES = 4, /* a prefill takes so much of an iteration before others had theirs */
    CORE_MAX = 1 << 16,
    PATH_BYTES = 4096,
    /* Of a device with memory of its own, where a small batch leaves most of it idle. */
    DEVICE_SEQUENCES = 256,
    DEVICE_BATCHED_TOKENS = 2048,
    ROW_ALIGN = 256 /* of each weight there */
};

struct med_setup_model {
    const char *dir;
    struct med_checkpoint checkpoint;
    void *shape_memory;              /* the checkpoint's, if it is a shape */
    struct med_device_limits limits; /* zeros: not measured */
    struct med_device device;
    struct med_transformer *transformer; /* the backend's; NULL before it is made */
    struct med_backend warm_up;          /* the transformer, warmed up */
    char cache_dir[PATH_BYTES];          /* of timed algorithms; "": none */
    enum med_dtype dtype, kv_dtype;
    struct med_memory_plan plan;
    double open_s;
};

/* ---- what is computed in -------------------------------------------------------------------- */

static int settle_dtypes(struct med_setup *setup, struct med_err *err)
{
    struct med_setup_model *real = setup->real;
    const enum med_dtype own = real->checkpoint.config.dtype;
    const bool f16 = real->device.ops->f16;
    int dtype = med_dtype_find(setup->options.dtype);
    int kv_dtype = med_dtype_find(setup->options.kv_cache_dtype);
    if (dtype == MED_DTYPE_F16 && !f16) {
        return med_err_set(err, MED_E_USAGE,
                           "--dtype float16: the %s backend does not compute in it, expected "
                           "float32 or bfloat16",
                           setup->backend);
    }
    if (dtype < 0) /* auto */
        dtype = own == MED_DTYPE_F16 && !f16 ? (int)MED_DTYPE_F32 : (int)own;
    real->dtype = (enum med_dtype)dtype;
    real->kv_dtype = kv_dtype < 0 ? real->dtype : (enum med_dtype)kv_dtype;
    return 0;
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

/* ---- device --------------------------------------------------------------------------------- */

/* Where timed algorithms are kept: the option's, or medley in the user's folder of caches. */
static int settle_cache_dir(struct med_setup *setup, struct med_err *err)
{
    const char *given = setup->options.cache_dir, *home = getenv("HOME");
    const char *cache = getenv("XDG_CACHE_HOME");
    char *out = setup->real->cache_dir;
    int length = 0;
    out[0] = '\0';
    if (given && (given[0] == '\0' || strcmp(given, "none") == 0))
        return 0;
    if (given) {
        length = snprintf(out, PATH_BYTES, "%s", given);
    } else if (cache && cache[0] == '/') {
        length = snprintf(out, PATH_BYTES, "%s/medley", cache);
    } else if (home && home[0] == '/') {
        length = snprintf(out, PATH_BYTES, "%s/.cache/medley", home);
    }
    if (length >= PATH_BYTES)
        return med_err_set(err, MED_E_USAGE, "--cache-dir: the path is too long");
    return 0;
}

static int make_device(struct med_setup *setup, struct med_err *err)
{
    const struct med_worker_options *o = &setup->options;
    int cores[MED_CPU_THREADS_MAX] = {0};
    int rc = settle_cache_dir(setup, err);
    if (rc < 0)
        return rc;
    const char *cache_dir = setup->real->cache_dir;
    struct med_device_config config = {.backend = setup->backend,
                                       .deterministic = o->deterministic,
                                       .cpu = {.threads = (int)o->threads},
                                       .gpu = (int)o->gpu,
                                       .watchdog_ns = o->step_timeout_ns,
                                       .cache_dir = cache_dir[0] ? cache_dir : NULL};
    if (o->cpu_cores) {
        int count = parse_cores(o->cpu_cores, cores, err);
        rc = count < 0 ? count : check_cores(cores, count, err);
        if (rc < 0)
            return rc;
        config.cpu.pin = true;
        config.cpu.cores = cores;
        config.cpu.core_count = (size_t)count;
        if (config.cpu.threads == 0)
            config.cpu.threads = count;
    }
    if (o->measure_limits && !o->dry_run) {
        MED_INFO("measuring what the device does at most");
        rc = med_device_measure(&config, &setup->real->limits, err);
        if (rc < 0)
            return rc;
    }
    return med_device_init(&setup->real->device, &config, err);
}

/* ---- memory --------------------------------------------------------------------------------- */

static struct med_transformer_config transformer_config(const struct med_setup_model *real,
                                                        const struct med_memory_sizes *sizes,
                                                        int64_t block_tokens)
{
    return (struct med_transformer_config){
        .checkpoint = &real->checkpoint,
        .ops = real->device.ops,
        .device = real->device.self,
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

/* A device with memory of its own keeps them in the dtype that it computes in. */
static int64_t weight_bytes(const struct med_setup_model *real)
{
    const struct med_checkpoint *c = &real->checkpoint;
    const int64_t tensors =
        c->config.layers * (int64_t)(sizeof(struct med_layer_weights) / sizeof(struct med_weight));
    if (real->device.memory_bytes == 0)
        return c->weight_bytes;
    return c->parameters * (int64_t)med_dtype_bytes(real->dtype) + tensors * ROW_ALIGN;
}

static int plan_memory(struct med_setup *setup, struct med_err *err)
{
    const struct med_worker_options *o = &setup->options;
    struct med_setup_model *real = setup->real;
    struct med_machine_memory machine;
    int rc = med_machine_memory_read("", &machine, err);
    if (rc < 0)
        return rc;
    struct med_memory_needs needs = {
        .machine_bytes = machine.total_bytes,
        .available_bytes = machine.available_bytes,
        .share = o->memory_utilization,
        .given = {.model_len_max = o->model_len_max,
                  .sequences_max = o->sequences_max,
                  .batched_tokens_max = o->batched_tokens_max,
                  .kv_tokens = o->kv_tokens},
        .weight_bytes = weight_bytes(real),
        .kv_bytes_per_token =
            med_model_kv_bytes_per_token(&real->checkpoint.config, real->kv_dtype),
        .positions_max = real->checkpoint.config.positions_max,
        .block_tokens = block_tokens(setup),
        .threads = real->device.threads,
        .routers = (int64_t)setup->service.router_count,
        .prefix_cache = setup->service.scheduler.prefix_cache,
        .workspace_bytes = workspace_bytes,
        .arg = setup,
    };
    if (real->device.memory_bytes > 0) {
        needs.sequences_default = DEVICE_SEQUENCES;
        needs.batched_tokens_default = DEVICE_BATCHED_TOKENS;
        needs.device = (struct med_memory_device){.total_bytes = real->device.memory_bytes,
                                                  .free_bytes = real->device.memory_free_bytes,
                                                  .share = o->gpu_memory_utilization,
                                                  .reserve_bytes = real->device.reserve_bytes,
                                                  .staging_bytes = real->device.staging_bytes};
    }
    return med_memory_plan_make(&needs, &real->plan, err);
}

/* ---- settling ------------------------------------------------------------------------------- */

/* Random weights.  A device that copies them can do with one matrix for all. */
static int make_shape(struct med_setup *setup, struct med_err *err)
{
    struct med_setup_model *real = setup->real;
    int dtype = med_dtype_find(setup->options.dtype);
    real->dir = setup->options.shape;
    return med_shape_new(real->dir, dtype < 0 ? MED_DTYPE_BF16 : (enum med_dtype)dtype,
                         strcmp(setup->backend, "cuda") == 0, 1, &real->checkpoint,
                         &real->shape_memory, err);
}

static int open_checkpoint(struct med_setup *setup, struct med_err *err)
{
    struct med_setup_model *real = setup->real;
    struct med_clock clock;
    med_clock_init_real(&clock, 1);
    int64_t begin_ns = med_clock_now_ns(&clock);
    real->dir = setup->options.model ? setup->options.model : setup->plan_model_path;
    int rc = setup->options.shape ? make_shape(setup, err)
                                  : med_checkpoint_open(real->dir, &real->checkpoint, err);
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
        (void)snprintf(setup->worker_type, sizeof setup->worker_type, "%s-%s", setup->backend,
                       name);
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
                                        .eos_ids = g->eos_ids,
                                        .eos_count = g->eos_count,
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

/* For a profiler. */
static void settle_facts(struct med_setup *setup)
{
    const struct med_setup_model *real = setup->real;
    const struct med_model_config *m = &real->checkpoint.config;
    const struct med_device *d = &real->device;
    struct med_work_model work;
    const bool copied = d->memory_bytes > 0;
    med_work_model_init(&work, m, copied ? real->dtype : real->checkpoint.head.dtype,
                        real->kv_dtype);
    setup->service.facts = (struct med_service_facts){
        .device = d->description,
        .gpu = d->name,
        .dtype = med_dtype_name(real->dtype),
        .kv_dtype = med_dtype_name(real->kv_dtype),
        .gpus = 1,
        .memory_bytes = copied ? (double)d->memory_bytes : (double)real->plan.machine_bytes,
        .read_bytes_per_s = real->limits.read_bytes_per_s,
        .read_spread = real->limits.read_spread,
        .flops_per_s = real->limits.flops_per_s,
        .flops_spread = real->limits.flops_spread,
        .peak_bytes_per_s = d->peak_bytes_per_s,
        .peak_flops_per_s = d->peak_flops_per_s,
        .parameters = (double)real->checkpoint.parameters,
        .weight_bytes = (work.layer_elements + work.head_elements) * work.weight_element_bytes,
        .kv_bytes_per_token = (double)med_model_kv_bytes_per_token(m, real->kv_dtype),
        .layers = m->layers,
        .hidden = m->hidden,
        .heads = m->heads,
        .kv_heads = m->kv_heads,
        .head_dim = m->head_dim,
        .intermediate = m->intermediate,
        .pci = d->pci,
    };
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
    settle_model_names(setup);
    rc = make_device(setup, err);
    if (rc >= 0)
        rc = settle_dtypes(setup, err);
    if (rc >= 0)
        rc = plan_memory(setup, err);
    if (rc >= 0)
        rc = settle_rules(setup, err);
    if (rc < 0)
        return rc;
    settle_scheduler(setup);
    settle_facts(setup);
    setup->service.weight_bytes = (double)setup->real->plan.weight_bytes;
    setup->service.dtype = med_dtype_name(setup->real->dtype);
    if (setup->real->device.ops->queues && setup->options.step_timeout_ns > 0)
        setup->service.stuck_ns = setup->options.step_timeout_ns + STUCK_MARGIN_NS;
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
        .backend = setup->backend,
        .device = real->device.description,
        .dtype = med_dtype_name(real->dtype),
        .kv_dtype = med_dtype_name(real->kv_dtype),
        .batching = setup->options.batching,
        .parameters = real->checkpoint.parameters,
        .threads = real->device.threads,
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

/* What a device with memory of its own adds to the READY line. */
static int describe_gpu(const struct med_setup_model *real, char *out, size_t out_bytes)
{
    struct med_device_stats stats;
    med_device_get_stats(&real->device, &stats);
    int64_t free_now = med_device_memory_free(&real->device);
    int64_t taken = free_now < 0 ? 0 : real->device.memory_free_bytes - free_now;
    return snprintf(out, out_bytes,
                    " gpu_memory_gb=%.3f gpu_taken_gb=%.3f pinned_gb=%.3f tuned=%" PRId64
                    " tuned_before=%" PRId64 " tune_seconds=%.3f graph_capture=%" PRId64
                    " graph_seconds=%.3f",
                    (double)real->plan.device_total_bytes / 1e9, (double)taken / 1e9,
                    (double)stats.pinned_bytes / 1e9, stats.tuned, stats.tuned_before,
                    stats.tune_seconds, stats.graphs, stats.record_seconds);
}

/* " key=value" words of the READY line. */
static void describe(void *arg, char *out, size_t out_bytes)
{
    const struct med_setup *setup = arg;
    const struct med_setup_model *real = setup->real;
    struct med_transformer_times times;
    char device[MED_DEVICE_TEXT_BYTES], gpu[256] = " graph_capture=none";
    med_transformer_get_times(real->transformer, &times);
    (void)snprintf(device, sizeof device, "%s", real->device.description);
    for (char *p = device; *p; p++) {
        if (*p == ' ')
            *p = '_';
    }
    if (real->device.memory_bytes > 0)
        (void)describe_gpu(real, gpu, sizeof gpu);
    (void)snprintf(out, out_bytes,
                   " dtype=%s kv_cache_dtype=%s threads=%d device=%s deterministic=%s batching=%s "
                   "prefix_cache=%s memory_gb=%.3f%s load_seconds=%.3f memory_seconds=%.3f "
                   "record_seconds=%.3f warmup_seconds=%.3f",
                   med_dtype_name(real->dtype), med_dtype_name(real->kv_dtype),
                   real->device.threads, device, setup->options.deterministic ? "yes" : "no",
                   setup->options.batching, setup->service.scheduler.prefix_cache ? "on" : "off",
                   (double)real->plan.total_bytes / 1e9, gpu, real->open_s + times.load_s,
                   times.memory_s, times.record_s, med_warm_up_seconds(&real->warm_up));
}

/* ---- backend -------------------------------------------------------------------------------- */

/* Around the warm-up, whose batch it does not count. */
static int make_meter(struct med_setup *setup, struct med_err *err)
{
    struct med_setup_model *real = setup->real;
    struct med_service_config *c = &setup->service;
    const bool copied = real->device.memory_bytes > 0;
    struct med_meter_config meter = {.backend = real->warm_up, .device = &real->device};
    med_work_model_init(&meter.work, &real->checkpoint.config,
                        copied ? real->dtype : real->checkpoint.head.dtype, real->kv_dtype);
    c->plan = &real->plan;
    c->peak_bytes_per_s = real->device.peak_bytes_per_s;
    c->peak_flops_per_s = real->device.peak_flops_per_s;
    return med_meter_new(&meter, &c->backend, err);
}

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
    rc = med_warm_up_new(&warm_up, &real->warm_up, err);
    if (rc < 0) {
        warm_up.backend.ops->release(warm_up.backend.self);
        return rc;
    }
    rc = make_meter(setup, err);
    if (rc < 0) {
        real->warm_up.ops->release(real->warm_up.self);
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
    med_device_release(&real->device);
    if (real->shape_memory) {
        med_shape_free(&real->checkpoint, real->shape_memory);
    } else {
        med_checkpoint_close(&real->checkpoint);
    }
    med_free(real);
    setup->real = NULL;
}

const struct med_setup_kind med_setup_model = {
    .settle = settle, .print = print, .make_backend = make_backend};
