/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dispatch configuration of a plan: worker types that the plan has workers of, their latency models,
 * the buckets with the plan's shares and what a request of them costs each type (1/capacity, as the
 * planner computes it), and the tightest TTFT objective as the limit beyond which a
 * request goes elsewhere or is refused, and the tightest of TPOT. The rest are the router's defaults. thread: any.
 */
#include "allocator/dispatch_config.h"

#include "allocator/capacity.h"
#include "base/alloc.h"
#include "base/clock.h"

#include <math.h>
#include <string.h>

#define QUEUE_WAIT_NS    (30 * MED_NS_PER_S)
#define SUSPECT_AFTER_NS (2 * MED_NS_PER_S)
#define GONE_AFTER_NS    (10 * MED_NS_PER_S)
#define ATTEMPTS_MAX     3
#define PREFIXES_MAX     65536

static int fill_types(const struct med_plan *plan, struct med_dispatch_type *types,
                      int *type_of_profile, size_t *ret_count, struct med_err *err)
{
    size_t count = 0;
    for (size_t p = 0; p < plan->profile_count; p++)
        type_of_profile[p] = -1;
    for (size_t w = 0; w < plan->worker_count; w++) {
        size_t p = plan->workers[w].worker_type;
        if (plan->workers[w].count <= 0)
            continue;
        if (type_of_profile[p] >= 0) {
            types[type_of_profile[p]].workers_planned += plan->workers[w].count;
            continue;
        }
        const struct med_profile *profile = &plan->profiles[p];
        if (strlen(profile->worker_type) > MED_LIMIT_NAME_BYTES) {
            return med_err_set(err, MED_E_LIMIT, "worker type %s: its name has over %d bytes",
                               profile->worker_type, MED_LIMIT_NAME_BYTES);
        }
        if (count == MED_LIMIT_WORKER_TYPES) {
            return med_err_set(err, MED_E_LIMIT, "the plan uses over %d worker types",
                               MED_LIMIT_WORKER_TYPES);
        }
        struct med_dispatch_type *type = &types[count];
        memcpy(type->name, profile->worker_type, strlen(profile->worker_type) + 1);
        type->has_latency = profile->has_step_model;
        type->workers_planned = plan->workers[w].count;
        if (profile->has_step_model) {
            int rc = med_latency_init(&type->latency, profile, err);
            if (rc < 0)
                return rc;
        }
        type_of_profile[p] = (int)count++;
    }
    if (count == 0)
        return med_err_set(err, MED_E_INVALID, "the plan has no workers to dispatch to");
    *ret_count = count;
    return 0;
}

static int fill_bucket(const struct med_plan *plan, const struct med_plan_assignment *from,
                       const int *type_of_profile, struct med_dispatch_bucket *bucket,
                       struct med_err *err)
{
    double sum = 0;
    *bucket = (struct med_dispatch_bucket){.input_row = from->input_row,
                                           .output_row = from->output_row,
                                           .input_mean = from->input_mean,
                                           .output_mean = from->output_mean,
                                           .rate_per_s = from->rate_per_s};
    for (size_t p = 0; p < plan->profile_count; p++) {
        int type = type_of_profile[p];
        if (type >= 0) {
            bucket->shares[type] += from->shares[p];
            sum += from->shares[p];
        } else if (from->shares[p] > 1e-6) {
            return med_err_set(err, MED_E_INVALID,
                               "the plan gives %g of bucket (row %d, %d) to worker type %s, of "
                               "which it has no workers",
                               from->shares[p], from->input_row, from->output_row,
                               plan->profiles[p].worker_type);
        }
    }
    if (!(sum > 0)) {
        return med_err_set(err, MED_E_INVALID, "the plan gives bucket (row %d, %d) to no worker",
                           from->input_row, from->output_row);
    }
    for (size_t t = 0; t < MED_LIMIT_WORKER_TYPES; t++)
        bucket->shares[t] /= sum; /* what the solver's tolerance left over */
    return 0;
}

static int fill_work(const struct med_plan *plan, const struct med_dispatch_type *types,
                     const int *type_of_profile, struct med_dispatch_bucket *bucket)
{
    struct med_request_size size = {bucket->input_mean, bucket->output_mean};
    for (size_t p = 0; p < plan->profile_count; p++) {
        int t = type_of_profile[p];
        if (t < 0)
            continue;
        struct med_capacity capacity = {0};
        if (types[t].has_latency) {
            int rc = med_capacity_of_model(&types[t].latency, &size, &plan->slos, &capacity);
            if (rc < 0)
                return rc;
        } else {
            med_capacity_of_points(&plan->profiles[p], &plan->grid, bucket->input_row,
                                   bucket->output_row, &plan->slos, &capacity);
        }
        if (capacity.requests_per_s > 0)
            bucket->work_s[t] = 1 / capacity.requests_per_s;
    }
    return 0;
}

static int fill_buckets(const struct med_plan *plan, const struct med_dispatch_type *types,
                        const int *type_of_profile, struct med_dispatch_bucket *buckets,
                        size_t *ret_count, struct med_err *err)
{
    size_t count = 0;
    for (size_t i = 0; i < plan->assignment_count; i++) {
        if (!(plan->assignment[i].rate_per_s > 0))
            continue;
        int rc = fill_bucket(plan, &plan->assignment[i], type_of_profile, &buckets[count], err);
        if (rc == 0)
            rc = fill_work(plan, types, type_of_profile, &buckets[count]);
        if (rc < 0)
            return rc;
        count++;
    }
    if (count == 0)
        return med_err_set(err, MED_E_INVALID, "the plan assigns no requests");
    *ret_count = count;
    return 0;
}

/* The tightest limit; 0: there is none. */
static int64_t objective_ns(const struct med_slos *slos, enum med_slo_metric metric)
{
    double limit_ms = INFINITY;
    for (size_t i = 0; i < slos->count; i++) {
        if (slos->items[i].metric == metric)
            limit_ms = fmin(limit_ms, slos->items[i].limit_ms);
    }
    return limit_ms < 1e12 ? (int64_t)fmax(1, limit_ms * 1e6) : 0;
}

static void *copy_of(const void *from, size_t count, size_t bytes)
{
    void *copy = med_calloc(count, bytes);
    if (copy)
        memcpy(copy, from, count * bytes);
    return copy;
}

static int fill(const struct med_plan *plan, struct med_dispatch_config *c, int *type_of_profile,
                struct med_err *err)
{
    struct med_dispatch_type *types = med_calloc(plan->profile_count + 1, sizeof *types);
    struct med_dispatch_bucket *buckets = med_calloc(plan->assignment_count + 1, sizeof *buckets);
    c->types = types;
    c->buckets = buckets;
    c->input_edge_count = plan->grid.input_edge_count;
    c->output_edge_count = plan->grid.output_edge_count;
    c->input_edges = copy_of(plan->grid.input_edges, c->input_edge_count, sizeof *c->input_edges);
    c->output_edges =
        copy_of(plan->grid.output_edges, c->output_edge_count, sizeof *c->output_edges);
    if (!types || !buckets || !c->input_edges || !c->output_edges)
        return med_err_set(err, MED_E_NOMEM, "no memory for the dispatch configuration");
    int rc = fill_types(plan, types, type_of_profile, &c->type_count, err);
    if (rc == 0)
        rc = fill_buckets(plan, types, type_of_profile, buckets, &c->bucket_count, err);
    return rc;
}

int med_dispatch_config_from_plan(const struct med_plan *plan,
                                  struct med_dispatch_config *ret_config, int *type_of_profile,
                                  struct med_err *err)
{
    if (plan->status == MED_PLAN_INFEASIBLE) {
        return med_err_set(err, MED_E_INFEASIBLE,
                           "the plan is infeasible, so there is nothing to dispatch to");
    }
    struct med_dispatch_config config = {
        .ttft_objective_ns = objective_ns(&plan->slos, MED_SLO_TTFT),
        .tpot_objective_ns = objective_ns(&plan->slos, MED_SLO_TPOT),
        .admission = true,
        .prefixes_max = PREFIXES_MAX,
        .queue_wait_ns = QUEUE_WAIT_NS,
        .queue_max = MED_LIMIT_QUEUE_REQUESTS,
        .requests_max = MED_LIMIT_CALLS,
        .workers_max = MED_LIMIT_WORKERS,
        .suspect_after_ns = SUSPECT_AFTER_NS,
        .gone_after_ns = GONE_AFTER_NS,
        .attempts_max = ATTEMPTS_MAX,
    };
    int *types = med_calloc(plan->profile_count + 1, sizeof *types);
    if (!types)
        return med_err_set(err, MED_E_NOMEM, "no memory for the dispatch configuration");
    int rc = fill(plan, &config, types, err);
    if (rc < 0) {
        med_dispatch_config_release(&config);
    } else {
        *ret_config = config;
        if (type_of_profile)
            memcpy(type_of_profile, types, plan->profile_count * sizeof *types);
    }
    med_free(types);
    return rc;
}

void med_dispatch_config_release(struct med_dispatch_config *config)
{
    med_free((void *)(uintptr_t)config->types);
    med_free((void *)(uintptr_t)config->buckets);
    med_free((void *)(uintptr_t)config->input_edges);
    med_free((void *)(uintptr_t)config->output_edges);
    config->types = NULL;
    config->buckets = NULL;
    config->input_edges = NULL;
    config->output_edges = NULL;
}
