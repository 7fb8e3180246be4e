/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker that takes the time its profile says (see setup.h): limits, memory and model are the
 * profile's, so that what the planner predicted is what is emulated.
 * thread: main.
 */
#include "worker/emulated/emulated.h"
#include "worker/setup.h"

#include <inttypes.h>
#include <stdio.h>

static double memory_bytes(const struct med_setup *setup)
{
    return setup->profile.hardware.memory_bytes * (double)setup->profile.gpus_per_worker;
}

static double cache_bytes(const struct med_setup *setup)
{
    return (double)setup->service.scheduler.kv_tokens * setup->profile.model.kv_bytes_per_token;
}

static void settle_limits(struct med_setup *setup)
{
    const struct med_worker_options *o = &setup->options;
    const struct med_engine_limits *p = &setup->profile.limits;
    struct med_scheduler_config *s = &setup->service.scheduler;
    int64_t block_tokens = med_setup_given_or(o->block_tokens, p->block_tokens);
    int64_t kv_tokens = med_setup_given_or(o->kv_tokens, p->kv_tokens);
    *s = (struct med_scheduler_config){
        .block_tokens = block_tokens,
        .kv_tokens = kv_tokens / block_tokens * block_tokens,
        .model_len_max = med_setup_given_or(o->model_len_max, p->model_len_max),
        .sequences_max = med_setup_given_or(o->sequences_max, p->sequences_max),
        .batched_tokens_max = med_setup_given_or(o->batched_tokens_max, p->batched_tokens_max),
        .table_max = MED_LIMIT_WORKER_REQUESTS,
        .prefix_cache = o->prefix_cache, /* off by default: the plan's predictions know no hits */
        .prefix_seed = setup->incarnation,
    };
    if (s->model_len_max > s->kv_tokens)
        s->model_len_max = s->kv_tokens;
}

static int check_memory(const struct med_setup *setup, struct med_err *err)
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

static int settle(struct med_setup *setup, struct med_err *err)
{
    struct med_service_config *c = &setup->service;
    settle_limits(setup);
    int rc = check_memory(setup, err);
    if (rc < 0)
        return rc;
    (void)snprintf(setup->worker_type, sizeof setup->worker_type, "%s", setup->profile.worker_type);
    (void)snprintf(setup->model, sizeof setup->model, "%s", setup->profile.model.name);
    c->rules = (struct med_request_rules){.vocab_tokens = setup->profile.model.vocab,
                                          .sampling = med_sampling_default(),
                                          .emulated = true};
    c->rules.sampling.seed = (uint64_t)setup->options.seed;
    c->weight_bytes = setup->profile.model.weight_bytes;
    c->dtype = setup->profile.dtype;
    c->emulated = true;
    const struct med_profile *p = &setup->profile;
    c->facts = (struct med_service_facts){
        .device = "emulated",
        .gpu = p->gpu,
        .dtype = p->dtype,
        .kv_dtype = p->dtype,
        .gpus = p->gpus_per_worker,
        .memory_bytes = p->hardware.memory_bytes,
        .peak_bytes_per_s = p->hardware.bandwidth_bytes_per_s,
        .peak_flops_per_s = p->hardware.matrix_flops_per_s,
        .parameters = p->model.parameters,
        .weight_bytes = p->model.weight_bytes,
        .kv_bytes_per_token = p->model.kv_bytes_per_token,
        .layers = p->model.layers,
        .hidden = p->model.hidden,
        .heads = p->model.heads,
        .kv_heads = p->model.kv_heads,
        .head_dim = p->model.head_dim,
        .intermediate = p->model.intermediate,
    };
    if (med_options_given(setup->parsed, "step-timeout"))
        c->stuck_ns = setup->options.step_timeout_ns;
    return 0;
}

static int print(const struct med_setup *setup, struct med_err *err)
{
    const struct med_profile *p = &setup->profile;
    const struct med_scheduler_config *s = &setup->service.scheduler;
    double left = memory_bytes(setup) - p->model.weight_bytes - cache_bytes(setup);
    (void)err;
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
    return 0;
}

static int make_backend(struct med_setup *setup, struct med_err *err)
{
    const struct med_worker_options *o = &setup->options;
    struct med_emulated_config emulated = {
        .clock = &setup->clock,
        .vocab_tokens = setup->profile.model.vocab,
        .noise_sigma = o->noise,
        .bias = o->bias,
        .seed = (uint64_t)o->seed,
        .fail_after = o->fail_after,
        .hang_after = o->hang_after,
    };
    int rc = med_latency_init(&emulated.latency, &setup->profile, err);
    if (rc < 0)
        return MED_E_INVALID; /* for a worker it is the input that is wrong */
    return med_emulated_new(&emulated, &setup->service.backend, err);
}

const struct med_setup_kind med_setup_emulated = {
    .settle = settle, .print = print, .make_backend = make_backend};
