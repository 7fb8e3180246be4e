/* SPDX-License-Identifier: Apache-2.0 */
/*
 * medley-engine-bench: how fast the engine computes on this machine, beside what the machine can do.
 *
 * Without --batching: single iterations (speed.c).  With it: a mixed load through the scheduler
 * (mixed.c), once per way of batching.  Reads the model's directory or makes a model of a known
 * shape; listens to nobody.  thread: main.
 */
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/options.h"
#include "worker/bench/mixed.h"
#include "worker/bench/report.h"
#include "worker/bench/speed.h"
#include "worker/model/shape.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    BLOCK_TOKENS = 16, /* as speed.c's */
    NUMBERS_MAX = 16,
    STEPS_QUEUED = 32,
    WATCHDOG_S = 60,
    SETTLE_S = 2,
    OUTPUT_BYTES = 4 << 20
};

struct bench_options {
    const char *shape, *model, *dtype, *backend, *cache_dir, *batches, *contexts, *prefills, *mixed;
    const char *batching;
    int64_t threads, gpu, repeats, steps, requests, prompt_max, output_max, sequences_max, seed;
    int64_t batch_wait_ns;
    double rate;
    bool curve, eager, json;
};

#define AT(field) .offset = offsetof(struct bench_options, field)

static const struct med_option option_table[] = {
    {.name = "shape",
     .type = MED_OPT_CHOICE,
     AT(shape),
     .default_text = "llama-3.2-1b",
     .choices = MED_SHAPES,
     .help = "random weights in the shape of this model",
     .group = "Model"},
    {.name = "model",
     .type = MED_OPT_STRING,
     AT(model),
     .unit = "DIR",
     .help = "a model's directory instead"},
    {.name = "dtype",
     .type = MED_OPT_CHOICE,
     AT(dtype),
     .default_text = "bfloat16",
     .choices = "bfloat16|float32|float16",
     .help = "of activations and KV cache, and of a shape's weights; float16 on a GPU alone"},
    {.name = "backend",
     .type = MED_OPT_CHOICE,
     AT(backend),
     .default_text = "cpu",
     .choices = "cpu|cuda",
     .help = "what computes",
     .group = "Machine"},
    {.name = "threads",
     .type = MED_OPT_INTEGER,
     AT(threads),
     .unit = "N",
     .default_text = "0",
     .min = 0,
     .max = MED_CPU_THREADS_MAX,
     .help = "threads that compute; 0: one per usable core; cpu alone"},
    {.name = "gpu",
     .type = MED_OPT_INTEGER,
     AT(gpu),
     .unit = "N",
     .default_text = "0",
     .min = 0,
     .max = 1023,
     .help = "which GPU, as CUDA counts; cuda alone"},
    {.name = "cache-dir",
     .type = MED_OPT_STRING,
     AT(cache_dir),
     .unit = "DIR",
     .help = "where timed algorithms are kept for the next run; nowhere by default; cuda alone"},
    {.name = "eager",
     .type = MED_OPT_FLAG,
     AT(eager),
     .help = "record no graphs: every iteration is queued op by op; cuda alone"},
    {.name = "batches",
     .type = MED_OPT_STRING,
     AT(batches),
     .unit = "N,N,...",
     .help = "sequences of a decode iteration; 1,4 by default (cuda: 1,8,32,64,128)",
     .group = "Iterations"},
    {.name = "contexts",
     .type = MED_OPT_STRING,
     AT(contexts),
     .unit = "N,N,...",
     .help = "tokens that each of them has in the cache; 128,1024 by default (cuda: 576)"},
    {.name = "prefills",
     .type = MED_OPT_STRING,
     AT(prefills),
     .unit = "N,N,...",
     .help = "tokens of a prefill; 128,512 by default (cuda: 512,2048)"},
    {.name = "mixed",
     .type = MED_OPT_STRING,
     AT(mixed),
     .unit = "N+N",
     .help =
         "decodes, at the first context, and prefill tokens of one iteration; the largest batch "
         "and the first prefill by default (cuda: 64+256); none: leave it out"},
    {.name = "curve",
     .type = MED_OPT_FLAG,
     AT(curve),
     .help =
         "decode batches of 1, 2, 4 ... 256 at the first context, too: throughput over latency"},
    {.name = "steps",
     .type = MED_OPT_INTEGER,
     AT(steps),
     .unit = "N",
     .min = 1,
     .max = 1024,
     .help =
         "iterations one after another in each measurement, fewer of long prefills; 1 by default "
         "(cuda: 32)"},
    {.name = "repeats",
     .type = MED_OPT_INTEGER,
     AT(repeats),
     .unit = "N",
     .default_text = "5",
     .min = 1,
     .max = MED_BENCH_REPEATS_MAX,
     .help = "times that every case is measured, after one that does not count"},
    {.name = "batching",
     .type = MED_OPT_CHOICE,
     AT(batching),
     .choices = "continuous|dynamic|static|all",
     .help = "run a mixed load in this way of batching instead of single iterations",
     .group = "Mixed load"},
    {.name = "requests",
     .type = MED_OPT_INTEGER,
     AT(requests),
     .unit = "N",
     .default_text = "64",
     .min = 1,
     .max = 100000,
     .help = "requests of the load"},
    {.name = "rate",
     .type = MED_OPT_NUMBER,
     AT(rate),
     .unit = "REQ/S",
     .default_text = "0",
     .min = 0,
     .max = 1e6,
     .help = "arrivals per second, at random; 0: all at the start"},
    {.name = "prompt-max",
     .type = MED_OPT_INTEGER,
     AT(prompt_max),
     .unit = "N",
     .default_text = "128",
     .min = 1,
     .max = 65536,
     .help = "tokens of the longest prompt; lengths are uniform from 1"},
    {.name = "output-max",
     .type = MED_OPT_INTEGER,
     AT(output_max),
     .unit = "N",
     .default_text = "64",
     .min = 1,
     .max = 65536,
     .help = "tokens of the longest output; lengths are uniform from 1"},
    {.name = "max-num-seqs",
     .type = MED_OPT_INTEGER,
     AT(sequences_max),
     .unit = "N",
     .default_text = "8",
     .min = 1,
     .max = 1024,
     .help = "sequences that run at a time"},
    {.name = "batch-wait",
     .type = MED_OPT_DURATION,
     AT(batch_wait_ns),
     .unit = "TIME",
     .default_text = "500ms",
     .min = 0,
     .max = 3600,
     .help = "how long a dynamic or static batch that is not full waits"},
    {.name = "seed",
     .type = MED_OPT_INTEGER,
     AT(seed),
     .unit = "N",
     .default_text = "1",
     .min = 0,
     .max = 1e9,
     .help = "of weights, arrivals and lengths"},
    {.name = "json",
     .type = MED_OPT_FLAG,
     AT(json),
     .help = "print one JSON object",
     .group = "Output"},
    {.name = NULL},
};

static const struct med_program program_facts = {
    .name = "medley engine-bench",
    .synopsis = "[options]",
    .summary = "Times the engine's iterations on this machine's CPU or GPU beside what it can do.",
    .details =
        "On a CPU each case is measured in turn with a read of memory by the same threads and, "
        "for\n"
        "a prefill, with float32 products of the same shapes by the BLAS alone. \"of read\" is "
        "bytes\n"
        "moved over time, as a part of the bandwidth read in the same repeat; \"of BLAS\" is the\n"
        "BLAS's time as a part of the prefill's.\n"
        "\n"
        "On a GPU the cache is filled with the keys and values of random prompts, and iterations\n"
        "run as the engine runs them, the next one queued while one runs. Read bandwidth and the\n"
        "rate of bf16 products are measured before and after all cases; the floor of a case is "
        "the\n"
        "larger of reading the weights and computing with them, and the same of keys and values, "
        "at\n"
        "those rates. MBU and MFU are parts of what the card's maker promises. A shape's weights\n"
        "come from one random block there, since they are copied.\n"
        "\n"
        "Figures are median (smallest to largest). worker/bench/plot.py draws the JSON.",
    .options = option_table,
};

struct bench {
    struct bench_options options;
    struct med_device_config device_config;
    struct med_device device;
    struct med_checkpoint checkpoint;
    void *memory; /* of a shape; NULL: the checkpoint was opened */
    struct med_bench *speed;
    struct med_bench_case cases[MED_BENCH_CASES_MAX];
    size_t case_count;
    char description[MED_DEVICE_TEXT_BYTES];
    struct med_bench_report report;
};

/* ---- options -------------------------------------------------------------------------------- */

struct numbers {
    int64_t values[NUMBERS_MAX];
    size_t count;
};

static int parse_numbers(const char *text, const char *what, int64_t max, struct numbers *ret,
                         struct med_err *err)
{
    char part[32];
    ret->count = 0;
    for (const char *at = text;;) {
        size_t length = strcspn(at, ",");
        if (ret->count == NUMBERS_MAX || length >= sizeof part) {
            return med_err_set(err, MED_E_USAGE,
                               "%s %s: expected at most %d numbers with commas between them", what,
                               text, NUMBERS_MAX);
        }
        memcpy(part, at, length);
        part[length] = '\0';
        int rc = med_parse_integer(part, what, 1, max, &ret->values[ret->count++], err);
        if (rc < 0)
            return rc;
        if (at[length] == '\0')
            return 0;
        at += length + 1;
    }
}

static int64_t most(const struct numbers *n)
{
    int64_t max = n->values[0];
    for (size_t i = 1; i < n->count; i++)
        max = n->values[i] > max ? n->values[i] : max;
    return max;
}

static void raise_to(int64_t *value, int64_t least)
{
    if (*value < least)
        *value = least;
}

static int add_case(struct bench *b, int64_t decodes, int64_t context, int64_t prefill,
                    struct med_err *err)
{
    if (b->case_count == MED_BENCH_CASES_MAX) {
        return med_err_set(err, MED_E_USAGE,
                           "--batches, --contexts and --prefills make more than %d cases",
                           MED_BENCH_CASES_MAX);
    }
    b->cases[b->case_count++] = (struct med_bench_case){
        .iteration = {.decodes = decodes, .context = context, .prefill = prefill}};
    return 0;
}

/* "64+256" */
static int add_mixed(struct bench *b, const char *text, int64_t context, struct med_err *err)
{
    char decodes_text[32] = "";
    int64_t decodes = 0, prefill = 0;
    const char *plus = strchr(text, '+');
    if (!plus || (size_t)(plus - text) >= sizeof decodes_text) {
        return med_err_set(err, MED_E_USAGE,
                           "--mixed %s: expected decodes and prefill tokens, like 64+256, or none",
                           text);
    }
    memcpy(decodes_text, text, (size_t)(plus - text));
    int rc = med_parse_integer(decodes_text, "--mixed", 1, 1024, &decodes, err);
    if (rc == 0)
        rc = med_parse_integer(plus + 1, "--mixed", 2, 65536, &prefill, err);
    return rc == 0 ? add_case(b, decodes, context, prefill, err) : rc;
}

static int add_curve(struct bench *b, int64_t context, struct med_err *err)
{
    static const int64_t batches[] = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256};
    int rc = 0;
    for (size_t i = 0; i < sizeof batches / sizeof batches[0] && rc == 0; i++) {
        rc = add_case(b, batches[i], context, 0, err);
        if (rc == 0)
            b->cases[b->case_count - 1].curve = true;
    }
    return rc;
}

static const char *text_or(const char *given, const char *otherwise)
{
    return given ? given : otherwise;
}

static int add_cases(struct bench *b, struct med_err *err)
{
    const struct bench_options *o = &b->options;
    const bool gpu = b->device.memory_bytes > 0;
    struct numbers batches = {0}, contexts = {0}, prefills = {0};
    int rc = parse_numbers(text_or(o->batches, gpu ? "1,8,32,64,128" : "1,4"), "--batches", 1024,
                           &batches, err);
    if (rc == 0) {
        rc = parse_numbers(text_or(o->contexts, gpu ? "576" : "128,1024"), "--contexts", 1 << 20,
                           &contexts, err);
    }
    if (rc == 0) {
        rc = parse_numbers(text_or(o->prefills, gpu ? "512,2048" : "128,512"), "--prefills", 65536,
                           &prefills, err);
    }
    for (size_t i = 0; rc == 0 && i < batches.count; i++) {
        for (size_t k = 0; rc == 0 && k < contexts.count; k++)
            rc = add_case(b, batches.values[i], contexts.values[k], 0, err);
    }
    for (size_t i = 0; rc == 0 && i < prefills.count; i++)
        rc = add_case(b, 0, 0, prefills.values[i], err);
    if (rc < 0)
        return rc;
    const char *mixed = text_or(o->mixed, gpu ? "64+256" : NULL);
    if (!mixed) {
        rc = add_case(b, most(&batches), contexts.values[0], prefills.values[0], err);
    } else if (strcmp(mixed, "none") != 0) {
        rc = add_mixed(b, mixed, contexts.values[0], err);
    }
    return rc == 0 && o->curve ? add_curve(b, contexts.values[0], err) : rc;
}

/* The cases, and the sizes that they need. */
static int plan_cases(struct bench *b, struct med_bench_config *config, struct med_err *err)
{
    int rc = add_cases(b, err);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < b->case_count; i++) {
        const struct med_bench_iteration *it = &b->cases[i].iteration;
        const int64_t steps = med_bench_steps_of(it, config->steps);
        const int64_t last = it->decodes > 0 ? med_bench_steps_context(it, steps, steps) + 1 : 0;
        const int64_t kv = med_bench_steps_blocks(BLOCK_TOKENS, it, steps) * BLOCK_TOKENS;
        const int64_t sequences = it->decodes + (it->prefill > 0);
        raise_to(&config->sequences_max, sequences);
        raise_to(&config->batched_tokens_max, it->decodes + it->prefill);
        raise_to(&config->model_len_max, last);
        raise_to(&config->model_len_max, it->prefill);
        raise_to(&config->kv_tokens, kv);
    }
    return 0;
}

static void plan_load(const struct bench *b, struct med_bench_config *config)
{
    const struct bench_options *o = &b->options;
    config->sequences_max = o->sequences_max;
    config->model_len_max = o->prompt_max + o->output_max;
    config->batched_tokens_max = o->prompt_max + o->sequences_max;
    int64_t blocks = (config->model_len_max + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    config->kv_tokens = (blocks + 1) * BLOCK_TOKENS * config->sequences_max;
}

static int open_model(struct bench *b, struct med_err *err)
{
    const struct bench_options *o = &b->options;
    if (o->model)
        return med_checkpoint_open(o->model, &b->checkpoint, err);
    /* Weights that are copied need not lie apart. */
    return med_shape_new(o->shape, (enum med_dtype)med_dtype_find(o->dtype),
                         b->device.memory_bytes > 0, (uint64_t)o->seed, &b->checkpoint, &b->memory,
                         err);
}

static int open_device(struct bench *b, struct med_err *err)
{
    const struct bench_options *o = &b->options;
    b->device_config = (struct med_device_config){.backend = o->backend,
                                                  .cpu = {.threads = (int)o->threads},
                                                  .gpu = (int)o->gpu,
                                                  .cache_dir = o->cache_dir,
                                                  .watchdog_ns = WATCHDOG_S * MED_NS_PER_S,
                                                  .no_graphs = o->eager};
    int rc = 0;
    if (strcmp(o->backend, "cuda") == 0) {
        rc = med_device_measure(&b->device_config, &b->report.limits[0], err);
        b->report.has_limits = rc == 0;
    }
    return rc == 0 ? med_device_init(&b->device, &b->device_config, err) : rc;
}

static int prepare(struct bench *b, struct med_err *err)
{
    const struct bench_options *o = &b->options;
    struct med_bench_config config = {.checkpoint = &b->checkpoint,
                                      .device = &b->device,
                                      .dtype = (enum med_dtype)med_dtype_find(o->dtype),
                                      .repeats = (int)o->repeats,
                                      .seed = (uint64_t)o->seed};
    int rc = open_device(b, err);
    if (rc < 0)
        return rc;
    const int64_t steps = b->device.memory_bytes > 0 ? STEPS_QUEUED : 1;
    config.steps = o->steps > 0 ? o->steps : steps;
    if (o->batching) {
        plan_load(b, &config);
    } else {
        rc = plan_cases(b, &config, err);
    }
    if (rc == 0)
        rc = open_model(b, err);
    if (rc < 0)
        return rc;
    if (config.model_len_max > b->checkpoint.config.positions_max) {
        return med_err_set(
            err, MED_E_USAGE,
            "a sequence of %lld tokens is asked for, and the model has %lld positions",
            (long long)config.model_len_max, (long long)b->checkpoint.config.positions_max);
    }
    return med_bench_new(&config, &b->speed, err);
}

/* ---- single iterations ---------------------------------------------------------------------- */

/* What can be said before anything is measured. */
static void begin_report(struct bench *b)
{
    struct med_bench_report *r = &b->report;
    const struct med_device *d = &b->device;
    memcpy(b->description, d->description, sizeof b->description);
    r->checkpoint = &b->checkpoint;
    r->dtype = b->options.dtype;
    r->backend = d->backend;
    r->description = b->description;
    r->threads = d->threads;
    r->peak_bytes_per_s = d->peak_bytes_per_s;
    r->peak_flops_per_s = d->peak_flops_per_s;
    r->cases = b->cases;
    r->count = b->case_count;
    r->kv_tokens = med_bench_kv_tokens(b->speed);
}

static int run_cases(struct bench *b, struct med_err *err)
{
    struct med_bench_report *r = &b->report;
    int rc = med_bench_run(b->speed, b->cases, b->case_count, &r->read, err);
    if (rc < 0)
        return rc;
    med_device_get_stats(&b->device, &r->stats);
    med_bench_times(b->speed, &r->times);
    if (!r->has_limits)
        return 0;
    /* The second measurement needs the room.  A driver clears what was freed, in the background, at the
     * cost of a sixth of the bandwidth: 80 GB take it some 0.2 s. */
    struct med_clock clock;
    med_clock_init_real(&clock, 1);
    med_bench_free(b->speed);
    b->speed = NULL;
    med_device_release(&b->device);
    med_clock_sleep_until(&clock, med_clock_now_ns(&clock) + SETTLE_S * MED_NS_PER_S);
    return med_device_measure(&b->device_config, &r->limits[1], err);
}

/* ---- a mixed load --------------------------------------------------------------------------- */

static const char *const batching_names[] = {"continuous", "dynamic", "static"};

static void put_mixed(struct med_json_writer *w, const char *name, const struct med_bench_mixed *m)
{
    med_json_begin_object(w, NULL);
    med_json_put_string(w, "batching", name);
    med_json_put_number(w, "seconds", m->seconds);
    med_json_put_integer(w, "output_tokens", m->output_tokens);
    med_json_put_number(w, "output_tokens_per_s", m->output_tokens_per_s);
    med_json_put_number(w, "requests_per_s", m->requests_per_s);
    med_json_put_number(w, "latency_s_mean", m->latency_s_mean);
    med_json_put_number(w, "latency_s_p50", m->latency_s_p50);
    med_json_put_number(w, "latency_s_p99", m->latency_s_p99);
    med_json_put_number(w, "first_token_s_mean", m->first_s_mean);
    med_json_put_number(w, "first_token_s_p99", m->first_s_p99);
    med_json_put_integer(w, "iterations", m->iterations);
    med_json_put_number(w, "batch_mean", m->batch_mean);
    med_json_end_object(w);
}

static int run_mixed(struct bench *b, struct med_json_writer *w, struct med_err *err)
{
    const struct bench_options *o = &b->options;
    const struct med_bench_load load = {.requests = o->requests,
                                        .rate = o->rate,
                                        .prompt_max = o->prompt_max,
                                        .output_max = o->output_max,
                                        .seed = (uint64_t)o->seed};
    const int64_t longest = o->prompt_max + o->output_max;
    med_bench_report_machine(&b->report, w);
    med_json_begin_array(w, "mixed");
    for (int i = 0; i < 3; i++) {
        if (strcmp(o->batching, "all") != 0 && strcmp(o->batching, batching_names[i]) != 0)
            continue;
        const struct med_scheduler_config scheduler = {
            .block_tokens = BLOCK_TOKENS,
            .kv_tokens = (longest / BLOCK_TOKENS + 1) * BLOCK_TOKENS * o->sequences_max,
            .model_len_max = longest,
            .sequences_max = o->sequences_max,
            .batched_tokens_max = o->prompt_max + o->sequences_max,
            .table_max = o->requests,
            .batching = (enum med_batching)i,
            .batch_wait_ns = o->batch_wait_ns};
        struct med_bench_mixed mixed;
        int rc = med_bench_mixed_run(med_bench_backend(b->speed), &scheduler, &load, &mixed, err);
        if (rc < 0)
            return rc;
        put_mixed(w, batching_names[i], &mixed);
        if (!o->json) {
            printf(
                "%-10s %7.1f output tokens/s, latency mean %.2f s, p50 %.2f s, p99 %.2f s, first "
                "token mean %.2f s, p99 %.2f s, %.1f items per iteration\n",
                batching_names[i], mixed.output_tokens_per_s, mixed.latency_s_mean,
                mixed.latency_s_p50, mixed.latency_s_p99, mixed.first_s_mean, mixed.first_s_p99,
                mixed.batch_mean);
        }
    }
    med_json_end_array(w);
    return 0;
}

static int run(struct bench *b, struct med_json_writer *w, struct med_err *err)
{
    int rc = prepare(b, err);
    if (rc < 0)
        return rc;
    begin_report(b);
    if (b->options.batching)
        return run_mixed(b, w, err);
    rc = run_cases(b, err);
    if (rc < 0)
        return rc;
    if (b->options.json) {
        med_bench_report_json(&b->report, w);
    } else {
        med_bench_report_text(&b->report);
    }
    return 0;
}

int main(int argc, char **argv)
{
    static struct bench bench;
    struct med_options options;
    struct med_err err = {0};
    int exit_status = 0;
    if (med_options_main(&program_facts, argc, argv, &bench.options, &options, &exit_status) !=
        MED_OPTIONS_RUN)
        return exit_status;
    struct med_buf text;
    struct med_json_writer w;
    med_buf_init(&text, OUTPUT_BYTES);
    med_json_writer_init(&w, &text, true);
    med_json_begin_object(&w, NULL);
    int rc = run(&bench, &w, &err);
    if (rc >= 0 && bench.options.json) {
        med_json_end_object(&w);
        rc = med_json_writer_finish(&w);
        if (rc >= 0)
            (void)fputs(text.data, stdout); /* a failed write shows in fflush below */
    }
    if (rc >= 0 && fflush(stdout) != 0)
        rc = MED_E_IO;
    if (rc < 0)
        MED_ERROR("%s", err.text[0] ? err.text : med_err_text(rc));
    if (rc == MED_E_CUDA) {
        /* A dead GPU keeps whoever asks it anything waiting. */
        (void)fflush(NULL);
        _exit(med_err_exit_status(rc));
    }
    med_buf_release(&text);
    med_bench_free(bench.speed);
    med_device_release(&bench.device);
    if (bench.memory) {
        med_shape_free(&bench.checkpoint, bench.memory);
    } else {
        med_checkpoint_close(&bench.checkpoint);
    }
    med_options_release(&options);
    return med_err_exit_status(rc);
}
