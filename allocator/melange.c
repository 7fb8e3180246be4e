/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads Melange's input into a problem, and writes the answer.
 *
 * The file has no token edges, so buckets are called by row and column from 1.  Buckets without
 * rate are left out.  thread: any. Not here: solving.
 */
#include "allocator/melange.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const double rate_max = 1e12;
static const double cost_max = 1e9;
static const int64_t count_max = 1000000;
static const int64_t slices_max = 10000;

struct shape {
    size_t rows, columns;
};

static int say_no_memory(struct med_err *err)
{
    return med_err_set(err, MED_E_NOMEM, "memory is exhausted while reading the input");
}

/* A matrix of numbers >= 0 under `key`. With shape->rows == 0 its shape is taken, else checked. */
static int read_matrix(const struct med_json_at *at, const char *key, struct shape *shape,
                       double **ret_values, struct med_err *err)
{
    struct med_json_at rows;
    struct med_json_at row;
    struct med_json_at cell;
    int rc = med_json_array(at, key, &rows, err);
    if (rc < 0)
        return rc;
    size_t row_count = med_json_count(&rows);
    if (row_count == 0 || row_count > MED_LIMIT_BUCKETS ||
        (shape->rows != 0 && row_count != shape->rows)) {
        return shape->rows != 0 ? med_json_fail(at, key, err,
                                                "found %zu rows, expected %zu as in "
                                                "workload_distribution",
                                                row_count, shape->rows)
                                : med_json_fail(at, key, err, "found %zu rows, expected 1 to %d",
                                                row_count, (int)MED_LIMIT_BUCKETS);
    }
    double *values = NULL;
    size_t row_index = 0;
    size_t r = 0;
    memset(&row, 0, sizeof row);
    while (rc == 0 && med_json_next(&rows, &row_index, &row, NULL)) {
        size_t columns = med_json_is_array(&row) ? med_json_count(&row) : 0;
        if (shape->rows == 0 && r == 0 && columns > 0 && columns <= MED_LIMIT_BUCKETS)
            shape->columns = columns;
        if (columns == 0 || columns != shape->columns) {
            rc = med_json_fail(&row, NULL, err,
                               "expected an array of %zu numbers, as in the other "
                               "rows",
                               shape->columns);
            break;
        }
        if (values == NULL)
            values = med_calloc(row_count * columns, sizeof *values);
        if (values == NULL) {
            rc = say_no_memory(err);
            break;
        }
        size_t cell_index = 0;
        size_t c = 0;
        memset(&cell, 0, sizeof cell);
        while (rc == 0 && med_json_next(&row, &cell_index, &cell, NULL))
            rc = med_json_number_here(&cell, 0.0, rate_max, &values[r * columns + c++], err);
        r++;
    }
    if (rc < 0) {
        med_free(values);
        return rc;
    }
    shape->rows = row_count;
    *ret_values = values;
    return 0;
}

static int read_gpu(const struct med_json_at *gpu, const char *name, size_t index,
                    struct shape *shape, const double *distribution, struct med_problem *problem,
                    struct med_err *err)
{
    static const char *const known[] = {"cost", "tputs", "max_count", NULL};
    struct med_milp *program = &problem->program;
    double *tputs = NULL; /* [row][column] */
    if (name[0] == '\0' || strlen(name) > MED_LIMIT_NAME_BYTES) {
        return med_json_fail(gpu, NULL, err, "expected a GPU name of 1 to %d bytes",
                             (int)MED_LIMIT_NAME_BYTES);
    }
    int rc = med_json_keys(gpu, known, err);
    if (rc == 0)
        rc = med_json_positive(gpu, "cost", cost_max, &program->price_usd_per_hour[index], err);
    if (rc == 0 && med_json_has(gpu, "max_count"))
        rc = med_json_integer(gpu, "max_count", 0, count_max, &program->count_max[index], err);
    if (rc == 0)
        rc = read_matrix(gpu, "tputs", shape, &tputs, err);
    if (rc < 0)
        return rc;
    MED_ASSERT(tputs != NULL);
    size_t bucket = 0;
    for (size_t n = 0; n < shape->rows * shape->columns; n++) {
        if (distribution[n] <= 0.0)
            continue;
        struct med_capacity *cell = &problem->cells[bucket++ * program->type_count + index];
        cell->requests_per_s = tputs[n];
        cell->stop = tputs[n] > 0.0 ? MED_STOP_NONE : MED_STOP_GIVEN;
    }
    med_free(tputs);
    med_milp_fit(program, index, index);
    problem->kinds[index].instance = med_strdup(name);
    problem->kinds[index].gpu = med_strdup(name);
    problem->types[index].worker_type = med_strdup(name);
    problem->types[index].gpu = med_strdup(name);
    bool ok = problem->kinds[index].instance != NULL && problem->kinds[index].gpu != NULL &&
              problem->types[index].worker_type != NULL && problem->types[index].gpu != NULL;
    return ok ? 0 : say_no_memory(err);
}

static int read_gpus(const struct med_json_at *gpus, struct shape *shape,
                     const double *distribution, struct med_problem *problem, struct med_err *err)
{
    struct med_json_at gpu;
    const char *name = NULL;
    size_t index = 0;
    int rc = 0;
    memset(&gpu, 0, sizeof gpu);
    for (size_t t = 0; rc == 0 && med_json_next(gpus, &index, &gpu, &name); t++)
        rc = read_gpu(&gpu, name, t, shape, distribution, problem, err);
    return rc;
}

static int fill_buckets(const struct shape *shape, const double *distribution, double rate_per_s,
                        struct med_problem *problem)
{
    size_t bucket = 0;
    for (size_t n = 0; n < shape->rows * shape->columns; n++) {
        if (distribution[n] <= 0.0)
            continue;
        struct med_problem_bucket *b = &problem->buckets[bucket++];
        char label[96];
        b->input_row = (int)(n / shape->columns);
        b->output_row = (int)(n % shape->columns);
        b->rate_per_s = distribution[n] * rate_per_s;
        b->input_mean = b->input_row + 1;
        b->output_mean = b->output_row + 1;
        (void)snprintf(label, sizeof label, "the bucket in row %d, column %d", b->input_row + 1,
                       b->output_row + 1);
        b->label = med_strdup(label);
        if (b->label == NULL)
            return MED_E_NOMEM;
    }
    return 0;
}

/* Rows and columns from 1 in place of token edges. */
static int fill_grid(const struct shape *shape, struct med_grid *grid)
{
    grid->input_edges = med_calloc(shape->rows, sizeof *grid->input_edges);
    grid->output_edges = med_calloc(shape->columns, sizeof *grid->output_edges);
    if (grid->input_edges == NULL || grid->output_edges == NULL)
        return MED_E_NOMEM;
    grid->input_edge_count = shape->rows;
    grid->output_edge_count = shape->columns;
    for (size_t r = 0; r < shape->rows; r++)
        grid->input_edges[r] = (double)(r + 1);
    for (size_t c = 0; c < shape->columns; c++)
        grid->output_edges[c] = (double)(c + 1);
    return 0;
}

static int fill_plan(const struct med_problem *problem, const struct shape *shape, const char *name,
                     double rate_per_s, struct med_plan *plan)
{
    size_t types = problem->program.type_count;
    plan->model_name = med_strdup("as given");
    plan->workload_name = med_strdup(name);
    plan->rate_per_s = rate_per_s;
    plan->arrival = MED_ARRIVAL_POISSON;
    plan->burstiness = 1.0;
    plan->profiles = med_calloc(types, sizeof *plan->profiles);
    if (plan->model_name == NULL || plan->workload_name == NULL || plan->profiles == NULL ||
        fill_grid(shape, &plan->grid) < 0)
        return MED_E_NOMEM;
    for (size_t t = 0; t < types; t++) {
        plan->profile_count = t + 1;
        plan->profiles[t].gpus_per_worker = 1;
        plan->profiles[t].worker_type = med_strdup(problem->types[t].worker_type);
        plan->profiles[t].gpu = med_strdup(problem->types[t].gpu);
        if (plan->profiles[t].worker_type == NULL || plan->profiles[t].gpu == NULL)
            return MED_E_NOMEM;
    }
    return 0;
}

static int check_top(const struct med_json_at *root, double *ret_rate_per_s,
                     struct med_json_at *ret_gpus, struct med_err *err)
{
    static const char *const known[] = {"gpu_info", "workload_distribution", "total_request_rate",
                                        "slice_factor", NULL};
    int64_t ignored = 0;
    int rc = med_json_keys(root, known, err);
    if (rc == 0)
        rc = med_json_positive(root, "total_request_rate", rate_max, ret_rate_per_s, err);
    if (rc == 0 && med_json_has(root, "slice_factor"))
        rc = med_json_integer(root, "slice_factor", 1, slices_max, &ignored, err);
    if (rc == 0)
        rc = med_json_object(root, "gpu_info", ret_gpus, err);
    if (rc < 0)
        return rc;
    size_t count = med_json_count(ret_gpus);
    if (count == 0 || count > MED_LIMIT_WORKER_TYPES) {
        return med_json_fail(root, "gpu_info", err, "found %zu GPUs, expected 1 to %d", count,
                             (int)MED_LIMIT_WORKER_TYPES);
    }
    return 0;
}

int med_melange_read(const struct med_json_at *root, const char *name, int64_t slices,
                     struct med_problem *ret_problem, struct med_plan *ret_plan,
                     struct med_err *err)
{
    double rate_per_s = 0.0;
    double *distribution = NULL;
    struct shape shape = {0};
    struct med_json_at gpus;
    memset(ret_problem, 0, sizeof *ret_problem);
    memset(ret_plan, 0, sizeof *ret_plan);
    int rc = check_top(root, &rate_per_s, &gpus, err);
    if (rc == 0)
        rc = read_matrix(root, "workload_distribution", &shape, &distribution, err);
    if (rc < 0)
        return rc;
    size_t buckets = 0;
    for (size_t n = 0; n < shape.rows * shape.columns; n++)
        buckets += distribution[n] * rate_per_s > 0.0 ? 1 : 0;
    if (buckets == 0 || buckets > MED_LIMIT_BUCKETS) {
        rc = med_json_fail(root, "workload_distribution", err,
                           "found %zu buckets with a rate, expected 1 to %d", buckets,
                           (int)MED_LIMIT_BUCKETS);
        goto out;
    }
    for (size_t n = 0; n < shape.rows * shape.columns; n++)
        distribution[n] = distribution[n] * rate_per_s > 0.0 ? distribution[n] : 0.0;
    size_t types = med_json_count(&gpus);
    if (med_problem_init(ret_problem, types, types, buckets) < 0) {
        rc = say_no_memory(err);
        goto out;
    }
    ret_problem->program.slices = slices;
    rc = read_gpus(&gpus, &shape, distribution, ret_problem, err);
    if (rc == 0 && (fill_buckets(&shape, distribution, rate_per_s, ret_problem) < 0 ||
                    fill_plan(ret_problem, &shape, name, rate_per_s, ret_plan) < 0))
        rc = say_no_memory(err);
    if (rc == 0)
        med_problem_load(ret_problem);
out:
    med_free(distribution);
    if (rc < 0) {
        med_problem_release(ret_problem);
        med_plan_release(ret_plan);
    }
    return rc;
}

/* ---- writing ---- */

static const char *status_name(enum med_plan_status status)
{
    return status == MED_PLAN_OPTIMAL    ? "optimal"
           : status == MED_PLAN_FEASIBLE ? "feasible"
                                         : "infeasible";
}

static void write_mix(struct med_json_writer *w, const struct med_plan *plan)
{
    med_json_begin_array(w, "instances");
    for (size_t k = 0; k < plan->instance_count; k++) {
        const struct med_plan_instance *instance = &plan->instances[k];
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "instance", instance->instance);
        med_json_put_integer(w, "count", instance->count);
        med_json_put_number(w, "price_per_hour", instance->price_usd_per_hour);
        med_json_begin_array(w, "workers");
        for (size_t n = 0; n < instance->worker_count; n++) {
            med_json_begin_object(w, NULL);
            med_json_put_string(w, "worker_type",
                                plan->profiles[instance->workers[n].worker_type].worker_type);
            med_json_put_integer(w, "count", instance->workers[n].count);
            med_json_end_object(w);
        }
        med_json_end_array(w);
        med_json_end_object(w);
    }
    med_json_end_array(w);
    med_json_begin_array(w, "workers");
    for (size_t n = 0; n < plan->worker_count; n++) {
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "worker_type",
                            plan->profiles[plan->workers[n].worker_type].worker_type);
        med_json_put_integer(w, "count", plan->workers[n].count);
        med_json_put_number(w, "utilization", plan->workers[n].utilization);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

static void write_assignment(struct med_json_writer *w, const struct med_plan *plan)
{
    med_json_begin_array(w, "assignment");
    for (size_t i = 0; i < plan->assignment_count; i++) {
        const struct med_plan_assignment *a = &plan->assignment[i];
        med_json_begin_row_object(w, NULL);
        med_json_put_integer(w, "input", a->input_row + 1);
        med_json_put_integer(w, "output", a->output_row + 1);
        med_json_put_number(w, "rate", a->rate_per_s);
        med_json_begin_object(w, "shares");
        for (size_t t = 0; t < plan->profile_count; t++) {
            if (a->shares[t] > 0.0)
                med_json_put_number(w, plan->profiles[t].worker_type, a->shares[t]);
        }
        med_json_end_object(w);
        med_json_end_object(w);
    }
    med_json_end_array(w);
    med_json_begin_array(w, "baselines");
    for (size_t k = 0; k < plan->baseline_count; k++) {
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "instance", plan->baselines[k].instance);
        med_json_put_integer(w, "count", plan->baselines[k].count);
        med_json_put_number(w, "cost_per_hour", plan->baselines[k].cost_usd_per_hour);
        med_json_put_number(w, "saving", plan->baselines[k].saving);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

static void write_sentences(struct med_json_writer *w, const char *key, char **list, size_t count)
{
    med_json_begin_array(w, key);
    for (size_t n = 0; n < count; n++)
        med_json_put_string(w, NULL, list[n]);
    med_json_end_array(w);
}

void med_melange_write(struct med_json_writer *w, const struct med_plan *plan)
{
    bool feasible = plan->status != MED_PLAN_INFEASIBLE;
    med_json_begin_object(w, NULL);
    med_json_put_string(w, "format", "medley-melange/1");
    med_json_put_string(w, "status", status_name(plan->status));
    if (feasible) {
        med_json_put_number(w, "cost_per_hour", plan->cost_usd_per_hour);
        med_json_put_number(w, "lower_bound_per_hour", plan->lower_bound_usd_per_hour);
    }
    med_json_put_number(w, "solve_seconds", plan->solve_seconds);
    write_mix(w, plan);
    write_assignment(w, plan);
    write_sentences(w, "reasons", plan->reasons, plan->reason_count);
    write_sentences(w, "warnings", plan->warnings, plan->warning_count);
    med_json_end_object(w);
}
