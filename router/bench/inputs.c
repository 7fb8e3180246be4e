/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a load test reads.
 *
 * Request sizes come from --trace, else --workload, else the buckets that the plan holds; rate,
 * arrival process and objectives that are not given come from the same place.  Nothing is sent
 * before all of it has been read and the whole schedule stands.
 * thread: main. It opens no connection.
 */
#include "router/bench/inputs.h"

#include "allocator/resolve.h"
#include "base/alloc.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

enum {
    REQUESTS_DEFAULT = 1000,
    CLOSED_REQUESTS_MAX = 262144, /* of a closed loop that a duration ends */
    STREAM_PREFIX_GROUP = 21,
    MAX_TOKENS_DEFAULT = 2000 /* of the default grid's last output edge, without a plan */
};

static int load_plan(const struct med_bench_options *o, struct med_bench_inputs *in,
                     struct med_err *err)
{
    if (!o->plan)
        return 0;
    int rc = med_plan_read_file(o->plan, &in->plan, err);
    if (rc < 0)
        return rc;
    in->has_plan = true;
    if (in->plan.status == MED_PLAN_INFEASIBLE) {
        return med_err_set(err, MED_E_INFEASIBLE, "%s: an infeasible plan has no fleet to drive",
                           o->plan);
    }
    return 0;
}

static int read_workload(const char *name, const char *data_dir, struct med_workload *ret_workload,
                         struct med_err *err)
{
    char *path;
    int rc = med_resolve(MED_RESOLVE_WORKLOAD, name, data_dir, &path, err);
    if (rc < 0)
        return rc;
    rc = med_workload_read_file(path, ret_workload, err);
    med_free(path);
    return rc;
}

static int load_sizes(const struct med_bench_options *o, struct med_bench_inputs *in,
                      struct med_err *err)
{
    int rc = 0;
    if (o->workload) {
        rc = read_workload(o->workload, o->data_dir, &in->workload, err);
    } else if (in->has_plan) {
        rc = med_arrivals_workload_from_plan(&in->plan, &in->workload, err);
    }
    if (rc < 0)
        return rc;
    in->has_workload = o->workload || in->has_plan;
    const char *trace = o->trace;
    if (!trace && o->workload && in->workload.arrival == MED_ARRIVAL_TRACE)
        trace = in->workload.trace;
    if (trace) {
        rc = med_request_log_read_file(trace, &in->log, err);
        in->has_log = rc >= 0;
    }
    if (rc >= 0 && (o->input_tokens > 0) != (o->output_tokens > 0)) {
        return med_err_set(err, MED_E_USAGE,
                           "--input-tokens and --output-tokens go together: one is missing");
    }
    if (rc >= 0 && !in->has_workload && !in->has_log && o->input_tokens == 0) {
        rc = med_err_set(err, MED_E_USAGE,
                         "nothing says what to send: give --plan, --workload, --trace, or "
                         "--input-tokens and --output-tokens");
    }
    return rc;
}

static enum med_arrivals_process default_process(const struct med_bench_inputs *in)
{
    if (in->has_log)
        return MED_ARRIVALS_TRACE;
    if (!in->has_workload)
        return MED_ARRIVALS_POISSON;
    return in->workload.arrival == MED_ARRIVAL_GAMMA ? MED_ARRIVALS_GAMMA : MED_ARRIVALS_POISSON;
}

static void settle(const struct med_options *options, const struct med_bench_options *o,
                   struct med_bench_inputs *in)
{
    struct med_bench_settings *s = &in->settings;
    s->target = o->target;
    s->plan = o->plan;
    s->workload = o->trace       ? o->trace
                  : o->workload  ? o->workload
                  : in->has_plan ? in->workload.name
                                 : NULL;
    s->process = o->arrival ? (enum med_arrivals_process)med_arrivals_process_parse(o->arrival)
                            : default_process(in);
    s->seed = (uint64_t)o->seed;
    s->time_scale = o->time_scale;
    s->max_concurrency = o->max_concurrency;
    s->closed_loop = o->concurrency > 0;
    if (s->closed_loop) {
        s->max_concurrency = o->concurrency;
        s->process = MED_ARRIVALS_ALL_AT_ONCE;
    }
    s->api = o->api;
    s->turns = o->turns;
    if (strcmp(o->api, "grpc") != 0)
        s->target = o->url;
    s->burstiness = 1;
    if (s->process == MED_ARRIVALS_GAMMA) {
        s->burstiness = med_options_given(options, "burstiness") ? o->burstiness
                        : in->has_workload                       ? in->workload.burstiness
                                                                 : 1;
    }
    if (o->rate_per_s > 0 || med_options_given(options, "rate")) {
        s->rate_per_s = o->rate_per_s;
    } else if (s->process != MED_ARRIVALS_TRACE && in->has_workload) {
        s->rate_per_s = in->workload.rate_per_s;
    }
    /* Otherwise 0: the log's own rate for TRACE, and an error of the schedule for the others. */
}

/* Conversations that begin alike are drawn once: another rate keeps them. */
static int draw_prefixes(const struct med_bench_options *o, size_t conversations,
                         struct med_bench_inputs *in)
{
    med_free(in->prefix_groups);
    in->prefix_groups = NULL;
    if (o->prefix_tokens == 0)
        return 0;
    in->prefix_groups = med_alloc(conversations * sizeof(*in->prefix_groups));
    if (!in->prefix_groups)
        return MED_E_NOMEM;
    struct med_rng rng;
    med_rng_init(&rng, (uint64_t)o->seed, STREAM_PREFIX_GROUP);
    for (size_t i = 0; i < conversations; i++) {
        bool shared = med_rng_uniform(&rng) < o->prefix_share;
        uint32_t group = med_rng_below(&rng, (uint32_t)o->prefix_count);
        in->prefix_groups[i] = shared ? (int32_t)group : -1;
    }
    return 0;
}

/* Sizes of single requests become those of turns: a prompt holds what was said before. */
static int shape_prompts(const struct med_bench_options *o, struct med_arrivals *arrivals,
                         const int32_t *prefix_groups, struct med_err *err)
{
    int64_t history = 0;
    for (size_t i = 0; i < arrivals->count; i++) {
        size_t conversation = i / (size_t)o->turns;
        struct med_sim_arrival *a = &arrivals->items[i];
        if (i % (size_t)o->turns == 0)
            history = prefix_groups && prefix_groups[conversation] >= 0 ? o->prefix_tokens : 0;
        a->input_tokens += history;
        history = a->input_tokens + a->output_tokens;
        if (a->input_tokens > MED_LIMIT_PROMPT_TOKENS) {
            return med_err_set(err, MED_E_INVALID,
                               "a prompt of %lld tokens: %d are the most; give fewer turns or a "
                               "shorter prefix",
                               (long long)a->input_tokens, MED_LIMIT_PROMPT_TOKENS);
        }
    }
    return 0;
}

/* The first arrivals are when conversations begin; sizes are drawn for all turns. */
static int make_conversations(struct med_arrivals_config *config, int64_t turns,
                              struct med_arrivals *ret_arrivals, struct med_err *err)
{
    struct med_arrivals begins;
    config->requests = (config->requests + turns - 1) / turns;
    int rc = med_arrivals_make(config, &begins, err);
    if (rc < 0)
        return rc;
    config->requests = (int64_t)begins.count * turns;
    config->duration_ns = 0;
    config->process = MED_ARRIVALS_ALL_AT_ONCE;
    config->follow_rate_over_time = false;
    rc = med_arrivals_make(config, ret_arrivals, err);
    for (size_t i = 0; rc >= 0 && i < ret_arrivals->count; i++)
        ret_arrivals->items[i].at_ns = begins.items[i / (size_t)turns].at_ns;
    med_arrivals_release(&begins);
    return rc;
}

static int64_t requests_of(const struct med_bench_options *o)
{
    if (o->requests > 0)
        return o->requests;
    if (o->concurrency > 0 && o->duration_ns > 0)
        return CLOSED_REQUESTS_MAX;
    return o->duration_ns == 0 ? REQUESTS_DEFAULT : 0;
}

static int make_schedule(const struct med_bench_options *o, struct med_bench_inputs *in,
                         struct med_err *err)
{
    struct med_arrivals_config config = {
        .process = in->settings.process,
        .rate_per_s = in->settings.rate_per_s,
        .burstiness = in->settings.burstiness,
        .requests = requests_of(o),
        .duration_ns = o->concurrency > 0 ? 0 : o->duration_ns,
        .seed = (uint64_t)o->seed,
        .follow_rate_over_time = o->rate_over_time,
        .output_tokens_max = o->max_tokens                ? o->max_tokens
                             : med_bench_fixes_lengths(o) ? 1 /* the schedule's */
                                                          : MAX_TOKENS_DEFAULT,
        .input_tokens = o->input_tokens,
        .output_tokens = o->output_tokens,
        .range_ratio = o->range_ratio,
        .workload = in->has_workload ? &in->workload : NULL,
        .log = in->has_log ? &in->log : NULL,
    };
    if (!o->max_tokens && !med_bench_fixes_lengths(o) && in->has_plan &&
        in->plan.grid.output_edge_count) {
        config.output_tokens_max =
            (int64_t)in->plan.grid.output_edges[in->plan.grid.output_edge_count - 1];
    }
    int rc = o->turns > 1 ? make_conversations(&config, o->turns, &in->arrivals, err)
                          : med_arrivals_make(&config, &in->arrivals, err);
    if (rc < 0)
        return rc;
    if (draw_prefixes(o, in->arrivals.count / (size_t)o->turns, in) < 0)
        return med_err_set(err, MED_E_NOMEM, "memory for the schedule is exhausted");
    return shape_prompts(o, &in->arrivals, in->prefix_groups, err);
}

int med_bench_inputs_schedule(const struct med_options *options, const struct med_bench_options *o,
                              struct med_bench_inputs *in, struct med_err *err)
{
    med_arrivals_release(&in->arrivals);
    in->settings = (struct med_bench_settings){0};
    settle(options, o, in);
    int rc = make_schedule(o, in, err);
    if (rc < 0)
        return rc;
    double last_s = (double)in->arrivals.items[in->arrivals.count - 1].at_ns / 1e9;
    if (in->settings.process == MED_ARRIVALS_ALL_AT_ONCE) {
        in->settings.rate_per_s = INFINITY;
    } else if (in->settings.rate_per_s == 0) {
        in->settings.rate_per_s = last_s > 0 ? (double)in->arrivals.count / last_s : INFINITY;
    }
    return 0;
}

static int load_slos(const struct med_bench_options *o, struct med_bench_inputs *in,
                     struct med_err *err)
{
    if (!o->slo) {
        if (in->has_plan)
            in->slos = in->plan.slos;
        return 0;
    }
    int rc = med_slos_parse(o->slo, &in->slos, err);
    if (rc < 0)
        (void)med_err_prefix(err, "--slo");
    return rc;
}

int med_bench_inputs_load(const struct med_options *options, const struct med_bench_options *values,
                          struct med_bench_inputs *ret_inputs, struct med_err *err)
{
    struct med_bench_inputs in = {0};
    int rc = load_plan(values, &in, err);
    if (rc >= 0)
        rc = load_slos(values, &in, err);
    struct med_bench_options first = *values;
    if (rc >= 0 && values->sweep)
        rc = med_sweep_parse(values->sweep, &in.sweep, err);
    if (rc >= 0 && !values->sweep && values->plot)
        rc = med_err_set(err, MED_E_USAGE, "--plot draws a --sweep: none is asked for");
    if (rc >= 0 && values->sweep && values->save)
        rc = med_err_set(err, MED_E_USAGE, "--save keeps the requests of one run, not of a sweep");
    if (rc >= 0 && in.sweep.count > 0)
        med_bench_options_set_load(&first, &in.sweep, in.sweep.loads[0]);
    if (rc >= 0 && values->goodput)
        rc = med_bench_goodput_parse(values->goodput, &in.goodput, err);
    if (rc >= 0)
        rc = load_sizes(values, &in, err);
    if (rc >= 0)
        rc = med_bench_inputs_schedule(options, &first, &in, err);
    if (rc < 0) {
        med_bench_inputs_release(&in);
        return rc;
    }
    *ret_inputs = in;
    return 0;
}

void med_bench_inputs_release(struct med_bench_inputs *in)
{
    med_arrivals_release(&in->arrivals);
    med_free(in->prefix_groups);
    if (in->has_log)
        med_request_log_release(&in->log);
    if (in->has_workload)
        med_workload_release(&in->workload);
    if (in->has_plan)
        med_plan_release(&in->plan);
    *in = (struct med_bench_inputs){0};
}
