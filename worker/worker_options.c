/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The options of medley-worker: the table that --help, the reference page and the parser share.
 * thread: main.  What they mean together is checked in setup.c and by the kinds of worker.
 */
#include "worker/cpu/cpu.h"
#include "worker/model/shape.h"
#include "worker/setup.h"

#include <stddef.h>

// clang-format off
#define AT(field) offsetof(struct med_worker_options, field)
static const struct med_option option_table[] = {
    {.name = "model", .type = MED_OPT_STRING, .offset = AT(model), .unit = "DIR", .group = "What to serve",
     .help = "Model directory as its publisher left it: config.json, *.safetensors; the plan's by default."},
    {.name = "shape", .type = MED_OPT_CHOICE, .offset = AT(shape), .choices = MED_SHAPES,
     .help = "Instead of a model: random weights of this shape, in --dtype (bfloat16 by default). Its speed is "
             "the model's, what it says means nothing: for medley profile."},
    {.name = "plan", .type = MED_OPT_STRING, .offset = AT(plan), .unit = "FILE",
     .help = "Plan that holds the profile of the worker type, and the objectives."},
    {.name = "worker-type", .type = MED_OPT_STRING, .offset = AT(worker_type), .unit = "NAME",
     .help = "Worker type of the plan to be; not needed if the plan has one. Without a plan, its name: "
             "<backend>-<model's directory> by default."},
    {.name = "profile", .type = MED_OPT_STRING, .offset = AT(profile), .unit = "FILE",
     .help = "Profile of the worker type, instead of a plan."},
    {.name = "served-model-name", .type = MED_OPT_STRING, .offset = AT(served_model_name), .unit = "NAME",
     .help = "Name of the model for clients; the profile's or the model's directory by default."},

    {.name = "backend", .type = MED_OPT_CHOICE, .offset = AT(backend), .choices = "emulated|cpu|cuda",
     .group = "Engine",
     .help = "What computes: emulated takes the time that the profile says, cpu and cuda (a GPU) run the "
             "model. cpu if --model is given, else emulated."},
    {.name = "max-model-len", .type = MED_OPT_INTEGER, .offset = AT(model_len_max), .unit = "TOKENS",
     .min = 1, .max = 1 << 30,
     .help = "Prompt and output of one request; the profile's, or as long as model and memory allow."},
    {.name = "max-num-seqs", .type = MED_OPT_INTEGER, .offset = AT(sequences_max), .unit = "COUNT",
     .min = 1, .max = 8192,
     .help = "Sequences of one batch; the profile's, or at most 64 (cuda: 256)."},
    {.name = "max-num-batched-tokens", .type = MED_OPT_INTEGER, .offset = AT(batched_tokens_max),
     .unit = "TOKENS", .min = 1, .max = 1 << 20,
     .help = "Tokens of one iteration; the profile's, or at most 512 (cuda: 2048)."},
    {.name = "kv-tokens", .type = MED_OPT_INTEGER, .offset = AT(kv_tokens), .unit = "TOKENS", .min = 1,
     .max = 1 << 30,
     .help = "Capacity of the KV cache; the profile's, or what is left of the memory."},
    {.name = "block-size", .type = MED_OPT_INTEGER, .offset = AT(block_tokens), .unit = "TOKENS",
     .min = 1, .max = 256, .help = "Tokens of one KV block; the profile's, or 16."},
    {.name = "batching", .type = MED_OPT_CHOICE, .offset = AT(batching), .default_text = "continuous",
     .choices = "continuous|dynamic|static",
     .help = "When sequences join: at every iteration; when a batch of --max-num-seqs is full or its "
             "oldest has waited for --batch-wait; when it is full or nobody came for --batch-wait."},
    {.name = "batch-wait", .type = MED_OPT_DURATION, .offset = AT(batch_wait_ns), .unit = "TIME",
     .default_text = "100ms", .min = 0, .max = 3600,
     .help = "How long (fleet time) dynamic and static batches wait to be full."},
    {.name = "prefix-cache", .type = MED_OPT_FLAG, .offset = AT(prefix_cache),
     .help = "Keep the KV blocks of ended sequences for prompts that begin alike; on unless emulated."},
    {.name = "seed", .type = MED_OPT_INTEGER, .offset = AT(seed), .unit = "NUMBER", .default_text = "0",
     .min = 0, .max = 9007199254740991.0,
     .help = "Of the emulation's noise, and of requests that bring none; real models draw one by default."},
    {.name = "emulated-noise", .type = MED_OPT_NUMBER, .offset = AT(noise), .unit = "SIGMA",
     .default_text = "0", .min = 0, .max = 3,
     .help = "Lognormal noise on each emulated iteration; 0 is none. The mean stays."},
    {.name = "emulated-bias", .type = MED_OPT_NUMBER, .offset = AT(bias), .unit = "FACTOR",
     .default_text = "1", .min = 0.001, .max = 1000,
     .help = "Factor on the time of each emulated iteration."},
    {.name = "emulated-fail-after", .type = MED_OPT_INTEGER, .offset = AT(fail_after), .unit = "COUNT",
     .min = 1, .max = 1e9,
     .help = "Iterations after which the emulated device fails as a GPU does; to try supervision. Never "
             "by default."},
    {.name = "emulated-hang-after", .type = MED_OPT_INTEGER, .offset = AT(hang_after), .unit = "COUNT",
     .min = 1, .max = 1e9,
     .help = "Iterations after which the emulated device does not come back. Never by default."},

    {.name = "dtype", .type = MED_OPT_CHOICE, .offset = AT(dtype), .default_text = "auto",
     .choices = "auto|float32|bfloat16|float16", .group = "A real model",
     .help = "What is computed in; auto is the checkpoint's. The CPU does not compute in float16: auto is "
             "float32 there for such a checkpoint."},
    {.name = "kv-cache-dtype", .type = MED_OPT_CHOICE, .offset = AT(kv_cache_dtype),
     .default_text = "auto", .choices = "auto|float32|bfloat16|float16",
     .help = "What keys and values are kept in; auto is what is computed in."},
    {.name = "memory-utilization", .type = MED_OPT_NUMBER, .offset = AT(memory_utilization),
     .unit = "SHARE", .default_text = "0.7", .min = 0.01, .max = 1,
     .help = "Share of the machine's memory (or of the control group's) that may be used, and never "
             "more than is free. With cuda, for requests, tables and staging alone."},
    {.name = "threads", .type = MED_OPT_INTEGER, .offset = AT(threads), .unit = "COUNT", .min = 1,
     .max = MED_CPU_THREADS_MAX, .help = "Threads that compute; one per usable core by default."},
    {.name = "cpu-cores", .type = MED_OPT_STRING, .offset = AT(cpu_cores), .unit = "LIST",
     .help = "Cores to pin the threads to, in turn: 0-3,8. Not pinned by default."},
    {.name = "deterministic", .type = MED_OPT_FLAG, .offset = AT(deterministic),
     .help = "A request's tokens do not depend on what is computed beside it; prefill is slower."},

    {.name = "gpu", .type = MED_OPT_INTEGER, .offset = AT(gpu), .unit = "N", .default_text = "0", .min = 0,
     .max = 1023, .group = "A GPU",
     .help = "Which one, as CUDA counts those that CUDA_VISIBLE_DEVICES leaves."},
    {.name = "gpu-memory-utilization", .type = MED_OPT_NUMBER, .offset = AT(gpu_memory_utilization),
     .unit = "SHARE", .default_text = "0.9", .min = 0.001, .max = 1,
     .help = "Share of the GPU's memory that may be used, and never more than is free: weights, "
             "intermediate results, a reserve, and the KV cache from the rest."},
    {.name = "step-timeout", .type = MED_OPT_DURATION, .offset = AT(step_timeout_ns), .unit = "TIME",
     .default_text = "30s", .min = 0, .max = 86400,
     .help = "Real time after which an iteration that has not ended is a failure of the GPU; 0: never. An "
             "emulated device has one if it is given."},
    {.name = "cache-dir", .type = MED_OPT_STRING, .offset = AT(cache_dir), .unit = "DIR",
     .help = "Where timed algorithms are kept for the next start; none: nowhere. medley in "
             "$XDG_CACHE_HOME or ~/.cache by default."},

    {.name = "router", .type = MED_OPT_LIST, .offset = AT(routers), .unit = "ADDRESS",
     .group = "Process", .help = "Router to dial: HOST:PORT or unix:/path; may be given many times."},
    {.name = "router-tls", .type = MED_OPT_CHOICE, .offset = AT(router_tls), .default_text = "auto",
     .choices = "auto|on|off",
     .help = "Whether routers at HOST:PORT are spoken to in TLS, and their certificates checked for HOST; "
             "auto: if --router-ca is given."},
    {.name = "router-ca", .type = MED_OPT_STRING, .offset = AT(router_ca), .unit = "FILE",
     .help = "PEM certificates of the authorities that routers' certificates are checked against; the "
             "system's by default. Read again on SIGHUP, as is --link-token-file."},
    {.name = "link-token-file", .type = MED_OPT_STRING, .offset = AT(link_token_file), .unit = "FILE",
     .help = "The first line is the token that is presented to the routers."},
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
    {.name = "measure-limits", .type = MED_OPT_FLAG, .offset = AT(measure_limits),
     .help = "Measure at the start what the device does at most, for the profiler that it dials (seconds)."},
    {.name = "dry-run", .type = MED_OPT_FLAG, .offset = AT(dry_run),
     .help = "Print the memory plan and exit."},
    {.name = "json", .type = MED_OPT_FLAG, .offset = AT(json),
     .help = "With --dry-run and a real model: print it as JSON."},
    {0},
};
// clang-format on

const struct med_program med_worker_program = {
    .name = "medley worker",
    .synopsis = "[options] --router ADDRESS (--model DIR | --plan FILE | --profile FILE)",
    .summary = "Serves one model on one device group, for the routers that it dials.",
    .details =
        "SIGHUP reads --router-ca and --link-token-file again, for the next dial.\n"
        "When the engine is ready, one line on standard error begins with READY and says what was\n"
        "set up. SIGTERM or SIGINT drains: no new requests are taken, running ones go on until "
        "they\n"
        "end or --drain-timeout has passed; a second signal cancels them. A worker that every\n"
        "router has drained stops by itself.\n"
        "\n"
        "Sizes that are not given are fitted to the memory; --dry-run shows them. All memory is\n"
        "taken before READY.\n"
        "\n"
        "A GPU that fails, or does not end an iteration in --step-timeout, is not used any more: "
        "its\n"
        "requests end with an error, /health says so, and the process leaves with status 4, for a\n"
        "supervisor to start it again (medley up does).\n"
        "\n"
        "Exit status: 0 stopped as told, 1 failed, 2 wrong usage or input, 4 the GPU failed.\n",
    .options = option_table,
};
