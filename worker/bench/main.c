/* SPDX-License-Identifier: Apache-2.0 */
/*
 * medley-engine-bench: how fast the engine computes on this machine, beside what the machine can do.
 *
 * Without --batching: single iterations (speed.c).  With it: a mixed load through the scheduler
 * (mixed.c), once per way of batching.  Reads the model's directory or makes a model of a known
 * shape; listens to nobody.  thread: main.
 */
#include "base/json.h"
#include "base/log.h"
#include "base/options.h"
#include "worker/bench/mixed.h"
#include "worker/bench/shape.h"
#include "worker/bench/speed.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum {
    BLOCK_TOKENS = 16, /* as speed.c's */
    NUMBERS_MAX = 16,
    OUTPUT_BYTES = 4 << 20
};

struct bench_options {
    const char *shape, *model, *dtype, *batches, *contexts, *prefills, *batching;
    int64_t threads, repeats, requests, prompt_max, output_max, sequences_max, seed;
    int64_t batch_wait_ns;
    double rate;
    bool json;
};

#define AT(field) .offset = offsetof(struct bench_options, field)

static const struct med_option option_table[] = {
    {.name = "shape",
     .type = MED_OPT_CHOICE,
     AT(shape),
     .default_text = "llama-3.2-1b",
     .choices = MED_BENCH_SHAPES,
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
     .choices = "bfloat16|float32",
     .help = "of activations and KV cache, and of a shape's weights"},
    {.name = "threads",
     .type = MED_OPT_INTEGER,
     AT(threads),
     .unit = "N",
     .default_text = "0",
     .min = 0,
     .max = MED_CPU_THREADS_MAX,
     .help = "threads that compute; 0: one per usable core",
     .group = "Machine"},
    {.name = "batches",
     .type = MED_OPT_STRING,
     AT(batches),
     .unit = "N,N,...",
     .default_text = "1,4",
     .help = "sequences of a decode iteration",
     .group = "Iterations"},
    {.name = "contexts",
     .type = MED_OPT_STRING,
     AT(contexts),
     .unit = "N,N,...",
     .default_text = "128,1024",
     .help = "tokens that each of them has in the cache"},
    {.name = "prefills",
     .type = MED_OPT_STRING,
     AT(prefills),
     .unit = "N,N,...",
     .default_text = "128,512",
     .help = "tokens of a prefill; the first also beside the largest batch of decodes"},
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
    .summary =
        "Times the engine's iterations on this machine's CPU beside what the machine can do.",
    .details = "Each case is measured in turn with a read of memory by the same threads and, for a "
               "prefill,\n"
               "with float32 products of the same shapes by the BLAS alone. \"of read\" is bytes "
               "moved over\n"
               "time, as a part of the bandwidth read in the same repeat; \"of BLAS\" is the "
               "BLAS's time as\n"
               "a part of the prefill's. Figures are median (smallest to largest).",
    .options = option_table,
};

struct bench {
    struct bench_options options;
    struct med_checkpoint checkpoint;
    void *memory; /* of a shape; NULL: the checkpoint was opened */
    struct med_bench *speed;
    struct med_bench_case cases[MED_BENCH_CASES_MAX];
    size_t case_count;
    struct med_bench_spread read;
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

static int add_case(struct bench *b, int64_t decodes, int64_t context, int64_t prefill,
                    struct med_err *err)
{
    if (b->case_count == MED_BENCH_CASES_MAX) {
        return med_err_set(err, MED_E_USAGE,
                           "--batches, --contexts and --prefills make more than %d cases",
                           MED_BENCH_CASES_MAX);
    }
    b->cases[b->case_count++] =
        (struct med_bench_case){.decodes = decodes, .context = context, .prefill = prefill};
    return 0;
}

/* The cases, and the sizes that they need. */
static int plan_cases(struct bench *b, struct med_bench_config *config, struct med_err *err)
{
    const struct bench_options *o = &b->options;
    struct numbers batches = {0}, contexts = {0}, prefills = {0};
    int rc = parse_numbers(o->batches, "--batches", 1024, &batches, err);
    if (rc == 0)
        rc = parse_numbers(o->contexts, "--contexts", 1 << 20, &contexts, err);
    if (rc == 0)
        rc = parse_numbers(o->prefills, "--prefills", 65536, &prefills, err);
    for (size_t i = 0; rc == 0 && i < batches.count; i++) {
        for (size_t k = 0; rc == 0 && k < contexts.count; k++)
            rc = add_case(b, batches.values[i], contexts.values[k], 0, err);
    }
    for (size_t i = 0; rc == 0 && i < prefills.count; i++)
        rc = add_case(b, 0, 0, prefills.values[i], err);
    if (rc == 0)
        rc = add_case(b, most(&batches), contexts.values[0], prefills.values[0], err);
    if (rc < 0)
        return rc;
    int64_t longest = most(&contexts) + 1 > most(&prefills) ? most(&contexts) + 1 : most(&prefills);
    config->sequences_max = most(&batches) + 1;
    config->batched_tokens_max = most(&prefills) + most(&batches);
    config->model_len_max = longest;
    return 0;
}

static void plan_load(const struct bench *b, struct med_bench_config *config)
{
    const struct bench_options *o = &b->options;
    config->sequences_max = o->sequences_max;
    config->model_len_max = o->prompt_max + o->output_max;
    config->batched_tokens_max = o->prompt_max + o->sequences_max;
}

static int open_model(struct bench *b, struct med_err *err)
{
    const struct bench_options *o = &b->options;
    if (o->model)
        return med_checkpoint_open(o->model, &b->checkpoint, err);
    return med_bench_shape_new(o->shape, (enum med_dtype)med_dtype_find(o->dtype),
                               (uint64_t)o->seed, &b->checkpoint, &b->memory, err);
}

static int prepare(struct bench *b, struct med_err *err)
{
    const struct bench_options *o = &b->options;
    struct med_bench_config config = {.checkpoint = &b->checkpoint,
                                      .dtype = (enum med_dtype)med_dtype_find(o->dtype),
                                      .threads = (int)o->threads,
                                      .repeats = (int)o->repeats};
    int rc = 0;
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
    int64_t blocks = (config.model_len_max + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    config.kv_tokens = (blocks + 1) * BLOCK_TOKENS * config.sequences_max;
    return med_bench_new(&config, &b->speed, err);
}

/* ---- single iterations ---------------------------------------------------------------------- */

static void print_spread(struct med_bench_spread s, double scale, int digits)
{
    printf(" %9.*f (%.*f to %.*f)", digits, s.median * scale, digits, s.min * scale, digits,
           s.max * scale);
}

static void print_cases(const struct bench *b)
{
    printf("%s, %.2f G parameters, %s, %d threads, %s\n", b->checkpoint.dir,
           (double)b->checkpoint.parameters * 1e-9, b->options.dtype,
           med_cpu_threads(med_bench_cpu(b->speed)), med_cpu_describe(med_bench_cpu(b->speed)));
    printf("memory read, GB/s:");
    print_spread(b->read, 1e-9, 1);
    printf("\n");
    for (size_t i = 0; i < b->case_count; i++) {
        const struct med_bench_case *c = &b->cases[i];
        printf("%s %4lld x %5lld, prefill %5lld: ms",
               c->prefill == 0   ? "decode "
               : c->decodes == 0 ? "prefill"
                                 : "mixed  ",
               (long long)c->decodes, (long long)c->context, (long long)c->prefill);
        print_spread(c->ms, 1, 1);
        printf(", %.2f GB, %.1f GFLOP", c->bytes * 1e-9, c->flops * 1e-9);
        if (c->prefill == 0) {
            printf(", of read %%");
            print_spread(c->read_part, 100, 1);
        } else if (c->decodes == 0) {
            printf(", %.1f tokens/s, of BLAS %%", (double)c->prefill / c->ms.median * 1e3);
            print_spread(c->blas_part, 100, 1);
            printf(", BLAS %.1f GFLOP/s", c->blas_flops.median * 1e-9);
        }
        printf("\n");
    }
}

static void put_spread(struct med_json_writer *w, const char *key, struct med_bench_spread s)
{
    med_json_begin_row_object(w, key);
    med_json_put_number(w, "min", s.min);
    med_json_put_number(w, "median", s.median);
    med_json_put_number(w, "max", s.max);
    med_json_end_object(w);
}

static void put_machine(struct med_json_writer *w, const struct bench *b)
{
    med_json_put_string(w, "model", b->checkpoint.dir);
    med_json_put_string(w, "dtype", b->options.dtype);
    med_json_put_integer(w, "parameters", b->checkpoint.parameters);
    med_json_put_integer(w, "threads", med_cpu_threads(med_bench_cpu(b->speed)));
    med_json_put_string(w, "device", med_cpu_describe(med_bench_cpu(b->speed)));
}

static void put_cases(struct med_json_writer *w, const struct bench *b)
{
    put_machine(w, b);
    put_spread(w, "read_bytes_per_s", b->read);
    med_json_begin_array(w, "iterations");
    for (size_t i = 0; i < b->case_count; i++) {
        const struct med_bench_case *c = &b->cases[i];
        med_json_begin_object(w, NULL);
        med_json_put_integer(w, "decode_sequences", c->decodes);
        med_json_put_integer(w, "decode_context", c->decodes > 0 ? c->context : 0);
        med_json_put_integer(w, "prefill_tokens", c->prefill);
        med_json_put_number(w, "bytes", c->bytes);
        med_json_put_number(w, "flops", c->flops);
        put_spread(w, "ms", c->ms);
        put_spread(w, "read_part", c->read_part);
        if (c->prefill > 0 && c->decodes == 0) {
            med_json_put_number(w, "tokens_per_s", (double)c->prefill / c->ms.median * 1e3);
            put_spread(w, "blas_part", c->blas_part);
            put_spread(w, "blas_flops_per_s", c->blas_flops);
        }
        med_json_end_object(w);
    }
    med_json_end_array(w);
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
    put_machine(w, b);
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
    if (b->options.batching)
        return run_mixed(b, w, err);
    rc = med_bench_run(b->speed, b->cases, b->case_count, &b->read, err);
    if (rc < 0)
        return rc;
    put_cases(w, b);
    if (!b->options.json)
        print_cases(b);
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
    med_buf_release(&text);
    med_bench_free(bench.speed);
    if (bench.memory) {
        med_bench_shape_free(&bench.checkpoint, bench.memory);
    } else {
        med_checkpoint_close(&bench.checkpoint);
    }
    med_options_release(&options);
    return med_err_exit_status(rc);
}
