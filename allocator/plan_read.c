/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads `medley-plan/1` (docs/reference/formats.md).
 *
 * Profiles come first, because every other part names worker types; then the plain parts, then the
 * rows.  What the parts say of each other is checked last, so that a plan that was edited by hand
 * fails here and not in a fleet: worker counts add up over the instances, the cost is what the
 * instances cost, and every share goes to a worker type that has workers.  Runs on any thread.
 */
#include "allocator/plan.h"

#include "allocator/workload_parts.h"
#include "base/alloc.h"
#include "base/limits.h"
#include "profiles/field.h"

#include <math.h>
#include <string.h>

static const char format_name[] = "medley-plan/1";
static const char *const statuses[] = {"optimal", "feasible", "infeasible"};
static const double cost_max = 1e9;
static const double rate_max = 1e9;
static const double tolerance = 1e-6;
static const int64_t count_max = 1000000;

static int find_type(const struct med_plan *plan, const struct med_json_at *at, const char *key,
                     const char *worker_type, size_t *ret_index, struct med_err *err)
{
    int index = med_plan_find_type(plan, worker_type);
    if (index < 0) {
        char shown[MED_FIELD_SHOWN_MAX];
        return med_json_fail(at, key, err,
                             "found the worker type \"%s\", expected one of the plan's profiles",
                             med_field_shown(worker_type, shown));
    }
    *ret_index = (size_t)index;
    return 0;
}

static int read_type(const struct med_plan *plan, const struct med_json_at *at, size_t *ret_index,
                     struct med_err *err)
{
    const char *worker_type = NULL;
    int rc = med_json_string(at, "worker_type", MED_LIMIT_NAME_BYTES, &worker_type, err);
    return rc < 0 ? rc : find_type(plan, at, "worker_type", worker_type, ret_index, err);
}

static int fail_type_again(const struct med_plan *plan, const struct med_json_at *at, size_t type,
                           struct med_err *err)
{
    return med_json_fail(at, "worker_type", err, "found \"%s\" again, expected it once",
                         plan->profiles[type].worker_type);
}

/* ---- the plain parts ---- */

static int read_profiles(const struct med_json_at *root, struct med_plan *plan, struct med_err *err)
{
    static const struct med_field_bounds bounds = {0, MED_LIMIT_WORKER_TYPES,
                                                   sizeof(struct med_profile)};
    struct med_json_at array;
    struct med_json_at item = {0};
    void *items = NULL;
    int rc = med_field_array(root, "profiles", &bounds, &array, &items, err);
    if (rc < 0) {
        return rc;
    }
    plan->profiles = items;
    size_t index = 0;
    while (med_json_next(&array, &index, &item, NULL)) {
        struct med_profile profile;
        if ((rc = med_profile_read(&item, &profile, err)) < 0) {
            return rc;
        }
        bool again = med_plan_find_type(plan, profile.worker_type) >= 0;
        plan->profiles[plan->profile_count++] = profile;
        if (again) {
            return fail_type_again(plan, &item, plan->profile_count - 1, err);
        }
        if (strcmp(profile.model.name, plan->model_name) != 0) {
            return med_json_fail(&item, "model.name", err,
                                 "found \"%s\", expected the plan's model \"%s\"",
                                 profile.model.name, plan->model_name);
        }
    }
    return 0;
}

static int read_model(const struct med_json_at *root, struct med_plan *plan, struct med_err *err)
{
    static const char *const known[] = {"name", "path", NULL};
    struct med_json_at at;
    int rc;
    if ((rc = med_json_object(root, "model", &at, err)) < 0 ||
        (rc = med_json_keys(&at, known, err)) < 0 ||
        (rc = med_field_name(&at, "name", &plan->model_name, err)) < 0) {
        return rc;
    }
    return med_field_text_optional(&at, "path", &plan->model_path, err);
}

static int read_objectives(const struct med_json_at *root, struct med_plan *plan,
                           struct med_err *err)
{
    struct med_json_at array;
    struct med_json_at item = {0};
    int rc = med_json_array(root, "objectives", &array, err);
    if (rc < 0) {
        return rc;
    }
    size_t count = med_json_count(&array);
    if (count < 1 || count > MED_LIMIT_SLOS) {
        return med_json_fail(root, "objectives", err, "found %zu elements, expected 1 to %d", count,
                             MED_LIMIT_SLOS);
    }
    size_t index = 0;
    while (med_json_next(&array, &index, &item, NULL)) {
        const char *text = NULL;
        struct med_slos one;
        struct med_err cause = {0};
        if ((rc = med_json_string_here(&item, MED_LIMIT_NAME_BYTES, &text, err)) < 0) {
            return rc;
        }
        if (med_slos_parse(text, &one, &cause) < 0) {
            return med_json_fail(&item, NULL, err, "%s", cause.text);
        }
        if (one.count != 1) {
            return med_json_fail(&item, NULL, err, "found %zu objectives in one text, expected one",
                                 one.count);
        }
        for (size_t i = 0; i < plan->slos.count; i++) {
            if (plan->slos.items[i].metric == one.items[0].metric) {
                return med_json_fail(&item, NULL, err, "found %s again, expected each metric once",
                                     med_slo_metric_name(one.items[0].metric));
            }
        }
        plan->slos.items[plan->slos.count++] = one.items[0];
    }
    return 0;
}

static int read_workload(const struct med_json_at *root, struct med_plan *plan, struct med_err *err)
{
    static const char *const known[] = {"name",        "rate_per_s",   "arrival",
                                        "input_edges", "output_edges", NULL};
    struct med_json_at at;
    int rc;
    if ((rc = med_json_object(root, "workload", &at, err)) < 0 ||
        (rc = med_json_keys(&at, known, err)) < 0 ||
        (rc = med_field_name(&at, "name", &plan->workload_name, err)) < 0 ||
        (rc = med_json_positive(&at, "rate_per_s", rate_max, &plan->rate_per_s, err)) < 0 ||
        (rc = med_arrival_read(&at, &plan->arrival, &plan->burstiness, NULL, err)) < 0) {
        return rc;
    }
    return med_grid_read(&at, &plan->grid, err);
}

/* ---- rows ---- */

static int read_placements(const struct med_plan *plan, const struct med_json_at *at,
                           struct med_plan_instance *instance, struct med_err *err)
{
    static const char *const known[] = {"worker_type", "count", NULL};
    static const struct med_field_bounds bounds = {1, MED_LIMIT_WORKER_TYPES,
                                                   sizeof(struct med_plan_placement)};
    struct med_json_at array;
    struct med_json_at item = {0};
    void *items = NULL;
    int rc = med_field_array(at, "workers", &bounds, &array, &items, err);
    if (rc < 0) {
        return rc;
    }
    instance->workers = items;
    size_t index = 0;
    while (med_json_next(&array, &index, &item, NULL)) {
        size_t i = instance->worker_count++;
        struct med_plan_placement *placement = &instance->workers[i];
        if ((rc = med_json_keys(&item, known, err)) < 0 ||
            (rc = read_type(plan, &item, &placement->worker_type, err)) < 0 ||
            (rc = med_json_integer(&item, "count", 1, count_max, &placement->count, err)) < 0) {
            return rc;
        }
        for (size_t other = 0; other < i; other++) {
            if (instance->workers[other].worker_type == placement->worker_type) {
                return fail_type_again(plan, &item, placement->worker_type, err);
            }
        }
    }
    return 0;
}

static int read_instance(const struct med_plan *plan, const struct med_json_at *at,
                         struct med_plan_instance *instance, struct med_err *err)
{
    static const char *const known[] = {"instance",       "cloud",   "region", "count",
                                        "price_per_hour", "workers", NULL};
    int rc;
    if ((rc = med_json_keys(at, known, err)) < 0 ||
        (rc = med_field_name(at, "instance", &instance->instance, err)) < 0 ||
        (rc = med_field_name(at, "cloud", &instance->cloud, err)) < 0 ||
        (rc = med_field_name(at, "region", &instance->region, err)) < 0 ||
        (rc = med_json_integer(at, "count", 1, count_max, &instance->count, err)) < 0 ||
        (rc = med_json_positive(at, "price_per_hour", cost_max, &instance->price_usd_per_hour,
                                err)) < 0) {
        return rc;
    }
    return read_placements(plan, at, instance, err);
}

static bool same_instance(const struct med_plan_instance *a, const struct med_plan_instance *b)
{
    return strcmp(a->instance, b->instance) == 0 && strcmp(a->cloud, b->cloud) == 0 &&
           strcmp(a->region, b->region) == 0;
}

static int read_instances(const struct med_json_at *root, struct med_plan *plan,
                          struct med_err *err)
{
    static const struct med_field_bounds bounds = {0, MED_LIMIT_INSTANCES,
                                                   sizeof(struct med_plan_instance)};
    struct med_json_at array;
    struct med_json_at item = {0};
    void *items = NULL;
    int rc = med_field_array(root, "instances", &bounds, &array, &items, err);
    if (rc < 0) {
        return rc;
    }
    plan->instances = items;
    size_t index = 0;
    while (med_json_next(&array, &index, &item, NULL)) {
        size_t i = plan->instance_count++;
        if ((rc = read_instance(plan, &item, &plan->instances[i], err)) < 0) {
            return rc;
        }
        for (size_t other = 0; other < i; other++) {
            if (same_instance(&plan->instances[other], &plan->instances[i])) {
                return med_json_fail(&item, "instance", err,
                                     "found \"%s\" again (as in instances[%zu]), expected one row "
                                     "per instance, cloud and region",
                                     plan->instances[i].instance, other);
            }
        }
    }
    return 0;
}

static int read_workers(const struct med_json_at *root, struct med_plan *plan, struct med_err *err)
{
    static const char *const known[] = {"worker_type", "count", "utilization", NULL};
    static const struct med_field_bounds bounds = {0, MED_LIMIT_WORKER_TYPES,
                                                   sizeof(struct med_plan_workers)};
    struct med_json_at array;
    struct med_json_at item = {0};
    void *items = NULL;
    int rc = med_field_array(root, "workers", &bounds, &array, &items, err);
    if (rc < 0) {
        return rc;
    }
    plan->workers = items;
    size_t index = 0;
    while (med_json_next(&array, &index, &item, NULL)) {
        size_t i = plan->worker_count++;
        struct med_plan_workers *workers = &plan->workers[i];
        if ((rc = med_json_keys(&item, known, err)) < 0 ||
            (rc = read_type(plan, &item, &workers->worker_type, err)) < 0 ||
            (rc = med_json_integer(&item, "count", 1, count_max, &workers->count, err)) < 0 ||
            (rc = med_json_number(&item, "utilization", 0, 1 + tolerance, &workers->utilization,
                                  err)) < 0) {
            return rc;
        }
        for (size_t other = 0; other < i; other++) {
            if (plan->workers[other].worker_type == workers->worker_type) {
                return fail_type_again(plan, &item, workers->worker_type, err);
            }
        }
    }
    return 0;
}

static bool has_workers(const struct med_plan *plan, size_t type)
{
    for (size_t i = 0; i < plan->worker_count; i++) {
        if (plan->workers[i].worker_type == type) {
            return true;
        }
    }
    return false;
}

static int read_shares(const struct med_plan *plan, const struct med_json_at *row, double *shares,
                       struct med_err *err)
{
    struct med_json_at at;
    struct med_json_at item = {0};
    const char *worker_type = NULL;
    double sum = 0;
    int rc = med_json_object(row, "shares", &at, err);
    if (rc < 0) {
        return rc;
    }
    size_t index = 0;
    while (med_json_next(&at, &index, &item, &worker_type)) {
        size_t type = 0;
        if ((rc = find_type(plan, &at, NULL, worker_type, &type, err)) < 0 ||
            (rc = med_json_number_here(&item, 0, 1 + tolerance, &shares[type], err)) < 0) {
            return rc;
        }
        if (shares[type] > 0 && !has_workers(plan, type)) {
            return med_json_fail(&item, NULL, err,
                                 "found a share for \"%s\", expected 0, as the plan has no workers "
                                 "of this type",
                                 worker_type);
        }
        sum += shares[type];
    }
    if (fabs(sum - 1) > tolerance) {
        return med_json_fail(row, "shares", err,
                             "found shares that sum to %.9g, expected 1 within 1e-6", sum);
    }
    return 0;
}

static int read_assigned(const struct med_plan *plan, const struct med_json_at *at,
                         struct med_plan_assignment *row, struct med_err *err)
{
    static const char *const known[] = {"input", "output", "input_mean", "output_mean",
                                        "rate",  "shares", NULL};
    struct med_bucket cell;
    int rc;
    if ((rc = med_json_keys(at, known, err)) < 0 ||
        (rc = med_cell_read(at, &plan->grid, &cell, err)) < 0 ||
        (rc = med_json_positive(at, "rate", rate_max, &row->rate_per_s, err)) < 0) {
        return rc;
    }
    row->input_row = cell.input_row;
    row->output_row = cell.output_row;
    row->input_mean = cell.input_mean;
    row->output_mean = cell.output_mean;
    row->shares = med_calloc(plan->profile_count + 1, sizeof *row->shares);
    if (row->shares == NULL) {
        return med_field_no_memory(err);
    }
    return read_shares(plan, at, row->shares, err);
}

static int read_assignment(const struct med_json_at *root, struct med_plan *plan,
                           struct med_err *err)
{
    static const struct med_field_bounds bounds = {0, MED_LIMIT_BUCKETS,
                                                   sizeof(struct med_plan_assignment)};
    bool seen[MED_LIMIT_EDGES][MED_LIMIT_EDGES] = {{false}};
    struct med_json_at array;
    struct med_json_at item = {0};
    void *items = NULL;
    int rc = med_field_array(root, "assignment", &bounds, &array, &items, err);
    if (rc < 0) {
        return rc;
    }
    plan->assignment = items;
    size_t index = 0;
    while (med_json_next(&array, &index, &item, NULL)) {
        struct med_plan_assignment *row = &plan->assignment[plan->assignment_count++];
        if ((rc = read_assigned(plan, &item, row, err)) < 0) {
            return rc;
        }
        bool *cell = &seen[row->input_row][row->output_row];
        if (*cell) {
            return med_json_fail(
                &item, NULL, err, "found the cell input %g, output %g again, expected it once",
                plan->grid.input_edges[row->input_row], plan->grid.output_edges[row->output_row]);
        }
        *cell = true;
    }
    return 0;
}

static int read_baselines(const struct med_json_at *root, struct med_plan *plan,
                          struct med_err *err)
{
    static const char *const known[] = {"instance", "count", "cost_per_hour", "saving", NULL};
    static const struct med_field_bounds bounds = {0, MED_LIMIT_INSTANCES,
                                                   sizeof(struct med_plan_baseline)};
    struct med_json_at array;
    struct med_json_at item = {0};
    void *items = NULL;
    int rc = med_field_array(root, "baselines", &bounds, &array, &items, err);
    if (rc < 0) {
        return rc;
    }
    plan->baselines = items;
    size_t index = 0;
    while (med_json_next(&array, &index, &item, NULL)) {
        struct med_plan_baseline *baseline = &plan->baselines[plan->baseline_count++];
        if ((rc = med_json_keys(&item, known, err)) < 0 ||
            (rc = med_field_name(&item, "instance", &baseline->instance, err)) < 0 ||
            (rc = med_json_integer(&item, "count", 1, count_max, &baseline->count, err)) < 0 ||
            (rc = med_json_positive(&item, "cost_per_hour", cost_max, &baseline->cost_usd_per_hour,
                                    err)) < 0 ||
            (rc = med_json_number(&item, "saving", -cost_max, 1, &baseline->saving, err)) < 0) {
            return rc;
        }
    }
    return 0;
}

static int read_messages(const struct med_json_at *root, const char *key, char ***ret_texts,
                         size_t *count, struct med_err *err)
{
    static const struct med_field_bounds bounds = {0, MED_LIMIT_MESSAGES, sizeof(char *)};
    struct med_json_at array;
    struct med_json_at item = {0};
    void *items = NULL;
    int rc = med_field_array(root, key, &bounds, &array, &items, err);
    if (rc < 0) {
        return rc;
    }
    char **texts = items;
    *ret_texts = texts;
    size_t index = 0;
    while (med_json_next(&array, &index, &item, NULL)) {
        if ((rc = med_field_text(&item, NULL, &texts[*count], err)) < 0) {
            return rc;
        }
        (*count)++;
    }
    return 0;
}

/* ---- across the parts ---- */

static int check_counts(const struct med_json_at *root, const struct med_plan *plan,
                        struct med_err *err)
{
    int64_t placed[MED_LIMIT_WORKER_TYPES] = {0};
    for (size_t i = 0; i < plan->instance_count; i++) {
        const struct med_plan_instance *instance = &plan->instances[i];
        for (size_t k = 0; k < instance->worker_count; k++) {
            placed[instance->workers[k].worker_type] += instance->workers[k].count;
        }
    }
    for (size_t i = 0; i < plan->worker_count; i++) {
        const struct med_plan_workers *workers = &plan->workers[i];
        if (placed[workers->worker_type] != workers->count) {
            return med_json_fail(root, "workers", err,
                                 "found %lld workers of \"%s\", expected %lld, as placed on the "
                                 "instances",
                                 (long long)workers->count,
                                 plan->profiles[workers->worker_type].worker_type,
                                 (long long)placed[workers->worker_type]);
        }
        placed[workers->worker_type] = 0;
    }
    for (size_t type = 0; type < plan->profile_count; type++) {
        if (placed[type] > 0) {
            return med_json_fail(root, "workers", err,
                                 "found no row for \"%s\", expected one, as the instances hold "
                                 "%lld workers of it",
                                 plan->profiles[type].worker_type, (long long)placed[type]);
        }
    }
    return 0;
}

static int check_cost(const struct med_json_at *root, const struct med_plan *plan,
                      struct med_err *err)
{
    double cost = 0;
    for (size_t i = 0; i < plan->instance_count; i++) {
        cost += (double)plan->instances[i].count * plan->instances[i].price_usd_per_hour;
    }
    if (fabs(cost - plan->cost_usd_per_hour) > tolerance * cost) {
        return med_json_fail(root, "cost_per_hour", err,
                             "found %.9g, expected %.9g, what the instances cost",
                             plan->cost_usd_per_hour, cost);
    }
    if (plan->lower_bound_usd_per_hour > cost * (1 + tolerance)) {
        return med_json_fail(root, "lower_bound_per_hour", err,
                             "found %.9g, expected at most cost_per_hour (%.9g)",
                             plan->lower_bound_usd_per_hour, plan->cost_usd_per_hour);
    }
    return 0;
}

/* An infeasible plan says why and rents nothing; any other one serves its buckets. */
static int check_status(const struct med_json_at *root, const struct med_plan *plan,
                        struct med_err *err)
{
    if (plan->status != MED_PLAN_INFEASIBLE) {
        static const char *const keys[] = {"instances", "workers", "assignment"};
        const size_t counts[] = {plan->instance_count, plan->worker_count, plan->assignment_count};
        for (size_t i = 0; i < 3; i++) {
            if (counts[i] == 0) {
                return med_json_fail(root, keys[i], err,
                                     "found none in a plan whose status is %s, expected at least "
                                     "one",
                                     statuses[plan->status]);
            }
        }
        int rc = check_counts(root, plan, err);
        return rc < 0 ? rc : check_cost(root, plan, err);
    }
    if (plan->reason_count == 0) {
        return med_json_fail(root, "reasons", err,
                             "found none in an infeasible plan, expected at least one");
    }
    if (plan->instance_count > 0 || plan->worker_count > 0 || plan->assignment_count > 0) {
        return med_json_fail(root,
                             plan->instance_count > 0 ? "instances"
                             : plan->worker_count > 0 ? "workers"
                                                      : "assignment",
                             err, "found rows in an infeasible plan, expected none");
    }
    return 0;
}

/* Costs of an infeasible plan are null: NAN. */
static int read_costs(const struct med_json_at *root, struct med_plan *plan, struct med_err *err)
{
    int rc;
    if (plan->status == MED_PLAN_INFEASIBLE) {
        static const char *const keys[] = {"cost_per_hour", "lower_bound_per_hour"};
        for (size_t i = 0; i < 2; i++) {
            if (med_json_has(root, keys[i])) {
                return med_json_fail(root, keys[i], err,
                                     "found a value in an infeasible plan, expected null");
            }
        }
        plan->cost_usd_per_hour = (double)NAN;
        plan->lower_bound_usd_per_hour = (double)NAN;
        return 0;
    }
    if ((rc = med_json_positive(root, "cost_per_hour", cost_max, &plan->cost_usd_per_hour, err)) <
        0) {
        return rc;
    }
    return med_json_number(root, "lower_bound_per_hour", 0, cost_max,
                           &plan->lower_bound_usd_per_hour, err);
}

static int read_parts(const struct med_json_at *root, struct med_plan *plan, struct med_err *err)
{
    static const char *const known[] = {"format",
                                        "status",
                                        "cost_per_hour",
                                        "lower_bound_per_hour",
                                        "solve_seconds",
                                        "model",
                                        "objectives",
                                        "utilization_max",
                                        "workload",
                                        "instances",
                                        "workers",
                                        "assignment",
                                        "baselines",
                                        "reasons",
                                        "warnings",
                                        "profiles",
                                        NULL};
    size_t status = 0;
    int rc;
    if ((rc = med_json_expect_format(root, format_name, err)) < 0 ||
        (rc = med_json_keys(root, known, err)) < 0 ||
        (rc = med_field_choice(root, "status", statuses, 3, &status, err)) < 0) {
        return rc;
    }
    plan->status = (enum med_plan_status)status;
    if ((rc = read_costs(root, plan, err)) < 0 ||
        (rc = med_json_number(root, "solve_seconds", 0, 1e9, &plan->solve_seconds, err)) < 0 ||
        (rc = read_model(root, plan, err)) < 0 || (rc = read_profiles(root, plan, err)) < 0 ||
        (rc = read_objectives(root, plan, err)) < 0 ||
        (rc = med_json_positive(root, "utilization_max", 1, &plan->utilization_max, err)) < 0 ||
        (rc = read_workload(root, plan, err)) < 0 || (rc = read_instances(root, plan, err)) < 0 ||
        (rc = read_workers(root, plan, err)) < 0 || (rc = read_assignment(root, plan, err)) < 0 ||
        (rc = read_baselines(root, plan, err)) < 0 ||
        (rc = read_messages(root, "reasons", &plan->reasons, &plan->reason_count, err)) < 0 ||
        (rc = read_messages(root, "warnings", &plan->warnings, &plan->warning_count, err)) < 0) {
        return rc;
    }
    return check_status(root, plan, err);
}

int med_plan_read(const struct med_json_at *root, struct med_plan *ret_plan, struct med_err *err)
{
    struct med_plan plan = {0};
    int rc = read_parts(root, &plan, err);
    if (rc < 0) {
        med_plan_release(&plan);
        return rc;
    }
    *ret_plan = plan;
    return 0;
}

int med_plan_read_file(const char *path, struct med_plan *ret_plan, struct med_err *err)
{
    struct med_json_doc doc;
    int rc = med_json_parse_file(path, &doc, err);
    if (rc < 0) {
        return rc;
    }
    struct med_json_at root = med_json_root(&doc);
    rc = med_plan_read(&root, ret_plan, err);
    med_json_free(&doc);
    return rc;
}
