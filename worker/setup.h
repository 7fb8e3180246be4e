/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From options to a worker that can serve: what every worker needs, and the two kinds of worker.
 *
 *     main.c             the order of it all
 *     worker_options.c   the table of options
 *     setup.c            profile or plan, identity, addresses, objectives: any worker's
 *     setup_emulated.c   the kind that takes a profile's time: limits and memory are the profile's
 *     setup_model.c      the kind that computes: a checkpoint, a device, a memory plan
 *
 * A kind settles the sizes of scheduler and memory, prints them, and makes the backend.
 * thread: main, before the service runs. owns: struct med_setup owns all that it points to.
 * errors: MED_E_USAGE and the codes of bad files, with a sentence; exit status 2.
 */
#ifndef MED_WORKER_SETUP_H
#define MED_WORKER_SETUP_H

#include "allocator/plan.h"
#include "base/options.h"
#include "worker/memory_plan.h"
#include "worker/service.h"

struct med_worker_options {
    /* What to serve. */
    const char *model, *shape, *plan, *worker_type, *profile, *served_model_name;
    /* Engine. */
    const char *backend, *batching;
    int64_t model_len_max, sequences_max, batched_tokens_max, kv_tokens, block_tokens;
    int64_t batch_wait_ns, seed;
    bool prefix_cache;
    double noise, bias;
    int64_t fail_after, hang_after;
    /* A real model. */
    const char *dtype, *kv_cache_dtype, *cpu_cores;
    int64_t threads;
    bool deterministic;
    double memory_utilization;
    /* On a GPU. */
    int64_t gpu, step_timeout_ns;
    double gpu_memory_utilization;
    const char *cache_dir;
    /* Process. */
    struct med_option_list routers;
    const char *worker_id, *metrics_listen;
    const char *router_tls, *router_ca, *link_token_file;
    int64_t drain_ns;
    double time_scale;
    bool dry_run, json, measure_limits;
};

extern const struct med_program med_worker_program;

/* What setup_model.c keeps; NULL for other kinds. */
struct med_setup_model;

struct med_setup {
    struct med_worker_options options;
    const struct med_options *parsed; /* for "was it given?" */
    const struct med_setup_kind *kind;
    const char *backend;        /* "emulated", "cpu", "cuda" */
    struct med_profile profile; /* if has_profile */
    bool has_profile;
    char *plan_model_path; /* NULL: the plan says none */
    struct med_slos slos;
    struct med_clock clock;
    struct sockaddr_storage metrics_address;
    double ttft_bounds_s[MED_LIMIT_SLOS], tpot_bounds_s[MED_LIMIT_SLOS];
    char worker_id[MED_LIMIT_NAME_BYTES + 1];
    char worker_type[MED_LIMIT_NAME_BYTES + 1];
    char model[MED_LIMIT_NAME_BYTES + 1];
    uint64_t incarnation;
    struct med_setup_model *real;
    struct med_service_config service;
};

struct med_setup_kind {
    /* Sizes of the scheduler, rules for requests, names; refuses what does not fit. */
    int (*settle)(struct med_setup *setup, struct med_err *err);
    /* The memory plan, on standard output. */
    int (*print)(const struct med_setup *setup, struct med_err *err);
    /* Fills service.backend. */
    int (*make_backend)(struct med_setup *setup, struct med_err *err);
};

extern const struct med_setup_kind med_setup_emulated, med_setup_model;

/* setup.c: the steps, in this order; release accepts a setup at any of them. */
int med_setup_begin(struct med_setup *setup, struct med_err *err) MED_MUST_CHECK;
int med_setup_settle(struct med_setup *setup, struct med_err *err) MED_MUST_CHECK;
int med_setup_serve(struct med_setup *setup, struct med_err *err) MED_MUST_CHECK;
void med_setup_release(struct med_setup *setup);

/* For the kinds. */
int64_t med_setup_given_or(int64_t given, int64_t otherwise);
enum med_batching med_setup_batching(const struct med_setup *setup);
void med_setup_model_release(struct med_setup *setup); /* accepts one without a model */

#endif
