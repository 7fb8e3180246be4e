/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every worker needs, whatever computes (see setup.h): its profile or plan, its names, the
 * addresses that it dials and listens on, the objectives.
 * thread: main.  Knows no backend: the kinds do.
 */
#include "worker/setup.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "router/keys.h"
#include "router/net.h"
#include "router/tls.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int64_t med_setup_given_or(int64_t given, int64_t otherwise)
{
    return given > 0 ? given : otherwise;
}

enum med_batching med_setup_batching(const struct med_setup *setup)
{
    static const char *const names[] = {[MED_BATCHING_CONTINUOUS] = "continuous",
                                        [MED_BATCHING_DYNAMIC] = "dynamic",
                                        [MED_BATCHING_STATIC] = "static"};
    enum med_batching batching = MED_BATCHING_CONTINUOUS;
    while (strcmp(names[batching], setup->options.batching) != 0) {
        batching++;
        MED_ASSERT(batching <= MED_BATCHING_STATIC); /* the option is one of these */
    }
    return batching;
}

/* ---- profile -------------------------------------------------------------------------------- */

static int choose_type(const struct med_plan *plan, const struct med_worker_options *o,
                       struct med_err *err)
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

static int take_plan(struct med_setup *setup, const struct med_plan *plan, struct med_err *err)
{
    int type = choose_type(plan, &setup->options, err);
    if (type < 0)
        return type;
    setup->slos = plan->slos;
    if (med_profile_copy(&plan->profiles[type], &setup->profile) < 0)
        return med_err_set(err, MED_E_NOMEM, "no memory for a profile");
    setup->has_profile = true;
    if (!plan->model_path)
        return 0;
    setup->plan_model_path = med_strdup(plan->model_path);
    return setup->plan_model_path ? 0 : med_err_set(err, MED_E_NOMEM, "no memory for a path");
}

static int read_profile(struct med_setup *setup, struct med_err *err)
{
    const struct med_worker_options *o = &setup->options;
    struct med_plan plan;
    if (o->plan && o->profile)
        return med_err_set(err, MED_E_USAGE, "expected either --plan FILE or --profile FILE");
    if (o->profile) {
        if (o->worker_type)
            return med_err_set(err, MED_E_USAGE, "--worker-type goes with --plan, not --profile");
        setup->has_profile = true;
        return med_profile_read_file(o->profile, &setup->profile, err);
    }
    if (!o->plan)
        return 0;
    int rc = med_plan_read_file(o->plan, &plan, err);
    if (rc < 0)
        return rc;
    rc = take_plan(setup, &plan, err);
    med_plan_release(&plan);
    return rc;
}

/* ---- kind ----------------------------------------------------------------------------------- */

/* Options that say something to some backends alone. */
static int check_options_of_backend(const struct med_setup *setup, struct med_err *err)
{
    static const struct {
        const char *option, *backends; /* names, as a person says them */
    } rows[] = {
        {"emulated-noise", "emulated"},
        {"emulated-bias", "emulated"},
        {"emulated-fail-after", "emulated"},
        {"emulated-hang-after", "emulated"},
        {"model", "cpu or cuda"},
        {"shape", "cpu or cuda"},
        {"measure-limits", "cpu or cuda"},
        {"dtype", "cpu or cuda"},
        {"kv-cache-dtype", "cpu or cuda"},
        {"memory-utilization", "cpu or cuda"},
        {"deterministic", "cpu or cuda"},
        {"json", "cpu or cuda"},
        {"threads", "cpu"},
        {"cpu-cores", "cpu"},
        {"gpu", "cuda"},
        {"gpu-memory-utilization", "cuda"},
        {"step-timeout", "emulated or cuda"},
        {"cache-dir", "cuda"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const char *at = strstr(rows[i].backends, setup->backend);
        if (at || !med_options_given(setup->parsed, rows[i].option))
            continue;
        return med_err_set(err, MED_E_USAGE, "--%s goes with --backend %s, which this is not",
                           rows[i].option, rows[i].backends);
    }
    return 0;
}

static int choose_kind(struct med_setup *setup, struct med_err *err)
{
    const struct med_worker_options *o = &setup->options;
    const char *backend = o->backend ? o->backend : o->model || o->shape ? "cpu" : "emulated";
    bool real = strcmp(backend, "emulated") != 0;
    setup->backend = backend;
    setup->kind = real ? &med_setup_model : &med_setup_emulated;
    if (o->model && o->shape)
        return med_err_set(err, MED_E_USAGE, "expected either --model DIR or --shape NAME");
    if (real && !o->model && !o->shape && !setup->plan_model_path) {
        return med_err_set(
            err, MED_E_USAGE,
            "--backend %s: expected --model DIR, --shape NAME, or a plan that says where "
            "its model lies",
            backend);
    }
    if (!real && !setup->has_profile) {
        return med_err_set(err, MED_E_USAGE,
                           "expected --model DIR, or either --plan FILE or --profile FILE for an "
                           "emulated worker");
    }
    return check_options_of_backend(setup, err);
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

/* Names: the user's, or what the kind has put there. */
static int settle_names(struct med_setup *setup, struct med_err *err)
{
    const struct med_worker_options *o = &setup->options;
    if (o->worker_id) {
        (void)snprintf(setup->worker_id, sizeof setup->worker_id, "%s", o->worker_id);
    } else {
        char host[64] = "host";
        (void)gethostname(host, sizeof host - 1);
        (void)snprintf(setup->worker_id, sizeof setup->worker_id, "%s-%ld", host, (long)getpid());
    }
    int rc = check_name("--worker-id", o->worker_id ? o->worker_id : setup->worker_id, err);
    const char *model = o->served_model_name ? o->served_model_name : setup->model;
    if (rc >= 0)
        rc = check_name("--served-model-name", model, err);
    const char *type = !setup->has_profile && o->worker_type ? o->worker_type : setup->worker_type;
    if (rc >= 0)
        rc = check_name("--worker-type", type, err);
    if (rc < 0)
        return rc;
    if (model != setup->model)
        (void)snprintf(setup->model, sizeof setup->model, "%s", model);
    if (type != setup->worker_type)
        (void)snprintf(setup->worker_type, sizeof setup->worker_type, "%s", type);
    return 0;
}

static void settle_hello(struct med_setup *setup)
{
    const struct med_scheduler_config *s = &setup->service.scheduler;
    setup->service.hello = (struct med_uplink_hello){
        .worker_id = setup->worker_id,
        .incarnation = setup->incarnation,
        .worker_type = setup->worker_type,
        .model = setup->model,
        .backend = setup->backend,
        .model_len_max = s->model_len_max,
        .sequences_max = s->sequences_max,
        .kv_tokens = s->kv_tokens,
        .vocab_tokens = setup->service.rules.vocab_tokens,
    };
}

static int settle_link_security(struct med_setup *setup, struct med_err *err)
{
    const struct med_worker_options *o = &setup->options;
    const struct med_tls_config tls = {.ca_option = "--router-ca", .ca = o->router_ca};
    bool wanted = strcmp(o->router_tls, "on") == 0 || o->router_ca;
    int rc = 0;
    if (o->router_ca && strcmp(o->router_tls, "off") == 0)
        return med_err_set(err, MED_E_USAGE, "--router-ca: has no effect with --router-tls off");
    if (wanted)
        rc = med_tls_new(&tls, &setup->service.router_tls, err);
    if (rc >= 0 && o->link_token_file) {
        rc = med_keys_new("--link-token-file", o->link_token_file, &setup->service.router_tokens,
                          err);
    }
    return rc;
}

static int check_addresses(struct med_setup *setup, struct med_err *err)
{
    const struct med_worker_options *o = &setup->options;
    if (o->routers.count == 0 && !o->dry_run)
        return med_err_set(err, MED_E_USAGE, "expected --router ADDRESS at least once");
    for (size_t i = 0; i < o->routers.count; i++) {
        int rc = med_uplink_check_address(o->routers.values[i], err);
        if (rc < 0)
            return rc;
    }
    int rc = settle_link_security(setup, err);
    if (rc < 0)
        return rc;
    setup->service.routers = o->routers.values;
    setup->service.router_count = o->routers.count;
    if (!o->metrics_listen)
        return 0;
    setup->service.metrics_address = &setup->metrics_address;
    return med_net_parse(o->metrics_listen, "--metrics-listen", &setup->metrics_address, err);
}

/* ---- the steps ------------------------------------------------------------------------------ */

/* Objectives become exact bounds of the histograms, so that attainment is a ratio of counters. */
static void settle_bounds(struct med_setup *setup)
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

int med_setup_begin(struct med_setup *setup, struct med_err *err)
{
    setup->incarnation = (uint64_t)med_clock_unix_ns() ^ ((uint64_t)getpid() << 48);
    int rc = check_addresses(setup, err);
    if (rc >= 0)
        rc = read_profile(setup, err);
    if (rc >= 0)
        rc = choose_kind(setup, err);
    return rc;
}

int med_setup_settle(struct med_setup *setup, struct med_err *err)
{
    const struct med_worker_options *o = &setup->options;
    struct med_service_config *c = &setup->service;
    int rc = setup->kind->settle(setup, err);
    if (rc < 0)
        return rc;
    struct med_scheduler_config *s = &c->scheduler;
    s->batching = med_setup_batching(setup);
    s->batch_wait_ns = o->batch_wait_ns;
    c->rules.tokens_max = s->kv_tokens / s->block_tokens * s->block_tokens;
    if (c->rules.tokens_max > s->model_len_max)
        c->rules.tokens_max = s->model_len_max;
    rc = settle_names(setup, err);
    if (rc >= 0)
        settle_hello(setup);
    return rc;
}

int med_setup_serve(struct med_setup *setup, struct med_err *err)
{
    struct med_service_config *c = &setup->service;
    med_clock_init_real(&setup->clock, setup->options.time_scale);
    c->clock = &setup->clock;
    c->drain_ns = setup->options.drain_ns;
    settle_bounds(setup);
    int rc = setup->kind->make_backend(setup, err);
    if (rc < 0)
        return rc;
    /* A router that goes away is an error of a write, not a signal. */
    (void)signal(SIGPIPE, SIG_IGN);
    return med_service_run(c, err);
}

void med_setup_release(struct med_setup *setup)
{
    med_setup_model_release(setup);
    med_tls_free(setup->service.router_tls);
    med_keys_free(setup->service.router_tokens);
    med_profile_release(&setup->profile);
    med_free(setup->plan_model_path);
}
