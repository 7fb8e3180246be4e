/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes `medley-plan/1` (docs/reference/formats.md).
 *
 * Keys come in one fixed order with what people ask first on top and the embedded profiles last, so
 * that a plan is pleasant to open.  Zero shares are left out; costs that are not known (NAN, of an
 * infeasible plan) are null.  Runs on any thread; failures of the buffer stay in the writer.
 */
#include "allocator/plan.h"

#include "allocator/workload_parts.h"

#include <math.h>

static const char *const statuses[] = {"optimal", "feasible", "infeasible"};

static void put_cost(struct med_json_writer *w, const char *key, const struct med_plan *plan,
                     double cost)
{
    if (plan->status == MED_PLAN_INFEASIBLE || isnan(cost)) {
        med_json_put_null(w, key);
    } else {
        med_json_put_number(w, key, cost);
    }
}

static const char *type_name(const struct med_plan *plan, size_t type)
{
    return plan->profiles[type].worker_type;
}

static void write_instances(struct med_json_writer *w, const struct med_plan *plan)
{
    med_json_begin_array(w, "instances");
    for (size_t i = 0; i < plan->instance_count; i++) {
        const struct med_plan_instance *instance = &plan->instances[i];
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "instance", instance->instance);
        med_json_put_string(w, "cloud", instance->cloud);
        med_json_put_string(w, "region", instance->region);
        med_json_put_integer(w, "count", instance->count);
        med_json_put_number(w, "price_per_hour", instance->price_usd_per_hour);
        med_json_begin_row_array(w, "workers");
        for (size_t k = 0; k < instance->worker_count; k++) {
            med_json_begin_row_object(w, NULL);
            med_json_put_string(w, "worker_type",
                                type_name(plan, instance->workers[k].worker_type));
            med_json_put_integer(w, "count", instance->workers[k].count);
            med_json_end_object(w);
        }
        med_json_end_array(w);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

static void write_workers(struct med_json_writer *w, const struct med_plan *plan)
{
    med_json_begin_array(w, "workers");
    for (size_t i = 0; i < plan->worker_count; i++) {
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "worker_type", type_name(plan, plan->workers[i].worker_type));
        med_json_put_integer(w, "count", plan->workers[i].count);
        med_json_put_number(w, "utilization", plan->workers[i].utilization);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

static void write_assignment(struct med_json_writer *w, const struct med_plan *plan)
{
    med_json_begin_array(w, "assignment");
    for (size_t i = 0; i < plan->assignment_count; i++) {
        const struct med_plan_assignment *row = &plan->assignment[i];
        med_json_begin_row_object(w, NULL);
        med_json_put_number(w, "input", plan->grid.input_edges[row->input_row]);
        med_json_put_number(w, "output", plan->grid.output_edges[row->output_row]);
        med_json_put_number(w, "input_mean", row->input_mean);
        med_json_put_number(w, "output_mean", row->output_mean);
        med_json_put_number(w, "rate", row->rate_per_s);
        med_json_begin_row_object(w, "shares");
        for (size_t type = 0; type < plan->profile_count; type++) {
            if (row->shares[type] > 0) {
                med_json_put_number(w, type_name(plan, type), row->shares[type]);
            }
        }
        med_json_end_object(w);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

static void write_baselines(struct med_json_writer *w, const struct med_plan *plan)
{
    med_json_begin_array(w, "baselines");
    for (size_t i = 0; i < plan->baseline_count; i++) {
        const struct med_plan_baseline *baseline = &plan->baselines[i];
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "instance", baseline->instance);
        med_json_put_integer(w, "count", baseline->count);
        med_json_put_number(w, "cost_per_hour", baseline->cost_usd_per_hour);
        med_json_put_number(w, "saving", baseline->saving);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

static void write_messages(struct med_json_writer *w, const char *key, char *const *texts,
                           size_t count)
{
    med_json_begin_array(w, key);
    for (size_t i = 0; i < count; i++) {
        med_json_put_string(w, NULL, texts[i]);
    }
    med_json_end_array(w);
}

static void write_terms(struct med_json_writer *w, const struct med_plan *plan)
{
    med_json_begin_object(w, "model");
    med_json_put_string(w, "name", plan->model_name);
    if (plan->model_path != NULL) {
        med_json_put_string(w, "path", plan->model_path);
    }
    med_json_end_object(w);
    med_json_begin_row_array(w, "objectives");
    for (size_t i = 0; i < plan->slos.count; i++) {
        char text[96];
        med_slo_format(&plan->slos.items[i], text, sizeof text);
        med_json_put_string(w, NULL, text);
    }
    med_json_end_array(w);
    med_json_put_number(w, "utilization_max", plan->utilization_max);
    med_json_begin_object(w, "workload");
    med_json_put_string(w, "name", plan->workload_name);
    med_json_put_number(w, "rate_per_s", plan->rate_per_s);
    med_arrival_write(w, plan->arrival, plan->burstiness, NULL);
    med_grid_write(w, &plan->grid);
    med_json_end_object(w);
}

void med_plan_write(struct med_json_writer *w, const struct med_plan *plan)
{
    med_json_begin_object(w, NULL);
    med_json_put_string(w, "format", "medley-plan/1");
    med_json_put_string(w, "status", statuses[plan->status]);
    put_cost(w, "cost_per_hour", plan, plan->cost_usd_per_hour);
    put_cost(w, "lower_bound_per_hour", plan, plan->lower_bound_usd_per_hour);
    med_json_put_number(w, "solve_seconds", plan->solve_seconds);
    write_terms(w, plan);
    write_instances(w, plan);
    write_workers(w, plan);
    write_assignment(w, plan);
    write_baselines(w, plan);
    write_messages(w, "reasons", plan->reasons, plan->reason_count);
    write_messages(w, "warnings", plan->warnings, plan->warning_count);
    med_json_begin_array(w, "profiles");
    for (size_t i = 0; i < plan->profile_count; i++) {
        med_profile_write(w, NULL, &plan->profiles[i]);
    }
    med_json_end_array(w);
    med_json_end_object(w);
}
