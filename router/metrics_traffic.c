/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Series per bucket and worker type, see metrics_traffic.h.
 *
 * Cells are kept per type, one for each bucket there is room for; room doubles when a reloaded plan
 * brings new buckets, and nothing is allocated between plans.  Runs on the loop.
 */
#include "router/metrics_traffic.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const double error_bounds[] = {.1,   .2,  .35,  .5,  .65, .8, .9, .95, 1,
                                      1.05, 1.1, 1.25, 1.5, 2,   3,  5,  10};

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

void med_traffic_init(struct med_traffic *traffic)
{
    *traffic = (struct med_traffic){0};
}

static void type_release(struct med_traffic_type *type)
{
    med_free(type->name);
    med_free(type->label);
    med_free(type->cells);
}

void med_traffic_release(struct med_traffic *traffic)
{
    for (size_t t = 0; t < traffic->type_count; t++)
        type_release(&traffic->types[t]);
    med_free(traffic->types);
    med_free(traffic->buckets);
    med_free(traffic->bucket_of);
    med_free(traffic->input_edges);
    med_free(traffic->output_edges);
    *traffic = (struct med_traffic){0};
}

/* ---- series ---- */

static int grow_buckets(struct med_traffic *traffic, size_t capacity)
{
    struct med_traffic_bucket *buckets = med_realloc(traffic->buckets, capacity * sizeof(*buckets));
    if (buckets == NULL)
        return MED_E_NOMEM;
    traffic->buckets = buckets;
    for (size_t t = 0; t < traffic->type_count; t++) {
        struct med_traffic_type *type = &traffic->types[t];
        struct med_traffic_cell *cells = med_realloc(type->cells, capacity * sizeof(*cells));
        if (cells == NULL)
            return MED_E_NOMEM;
        memset(cells + traffic->bucket_capacity, 0,
               (capacity - traffic->bucket_capacity) * sizeof(*cells));
        type->cells = cells;
    }
    traffic->bucket_capacity = capacity;
    return 0;
}

/* The bucket's index; < 0: no memory. */
static int64_t bucket_find_or_add(struct med_traffic *traffic, double input, double output)
{
    for (size_t b = 0; b < traffic->bucket_count; b++) {
        if (traffic->buckets[b].input_edge == input && traffic->buckets[b].output_edge == output)
            return (int64_t)b;
    }
    if (traffic->bucket_count == MED_TRAFFIC_BUCKETS)
        return MED_TRAFFIC_BUCKETS - 1;
    if (traffic->bucket_count == traffic->bucket_capacity) {
        size_t capacity = traffic->bucket_capacity > 0 ? 2 * traffic->bucket_capacity : 64;
        int rc = grow_buckets(traffic, capacity);
        if (rc < 0)
            return rc;
    }
    struct med_traffic_bucket *bucket = &traffic->buckets[traffic->bucket_count];
    *bucket = (struct med_traffic_bucket){.input_edge = input, .output_edge = output};
    if (traffic->bucket_count == MED_TRAFFIC_BUCKETS - 1) {
        bucket->input_edge = bucket->output_edge = NAN; // equal to none
        (void)snprintf(bucket->labels, sizeof(bucket->labels), "input=\"other\",output=\"other\"");
    } else {
        (void)snprintf(bucket->labels, sizeof(bucket->labels), "input=\"%.15g\",output=\"%.15g\"",
                       input, output);
    }
    return (int64_t)traffic->bucket_count++;
}

static char *print_label(const char *name)
{
    const struct med_prom_label labels[MED_PROM_LABELS_MAX] = {{"worker_type", name}};
    struct med_buf buf;
    med_buf_init(&buf, 4096);
    int rc = med_prom_print_labels(&buf, labels);
    if (rc == 0)
        rc = med_buf_append(&buf, "", 1);
    if (rc < 0) {
        med_buf_release(&buf);
        return NULL;
    }
    /* Without the braces: other labels follow it. */
    size_t length = strlen(buf.data);
    MED_ASSERT(length > 2);
    memmove(buf.data, buf.data + 1, length - 2);
    buf.data[length - 2] = '\0';
    return med_buf_take(&buf);
}

static int64_t type_find_or_add(struct med_traffic *traffic, const char *name)
{
    for (size_t t = 0; t < traffic->type_count; t++) {
        if (strcmp(traffic->types[t].name, name) == 0)
            return (int64_t)t;
    }
    if (traffic->type_count == MED_TRAFFIC_TYPES)
        return MED_TRAFFIC_TYPES - 1;
    if (traffic->type_count == MED_TRAFFIC_TYPES - 1)
        name = "other";
    struct med_traffic_type type = {
        .name = med_strdup(name),
        .label = print_label(name),
        .cells = med_calloc(traffic->bucket_capacity, sizeof(*type.cells)),
    };
    if (type.name == NULL || type.label == NULL || type.cells == NULL) {
        type_release(&type);
        return MED_E_NOMEM;
    }
    for (size_t i = 0; i < MED_COMPARE_COUNT; i++)
        med_hist_init(&type.error[i], error_bounds, COUNT_OF(error_bounds), NULL, 0);
    traffic->types[traffic->type_count] = type;
    return (int64_t)traffic->type_count++;
}

/* ---- a plan's rows ---- */

static int map_buckets(struct med_traffic *traffic, const struct med_grid *grid)
{
    size_t rows = grid->input_edge_count;
    size_t columns = grid->output_edge_count;
    uint32_t *bucket_of = med_calloc(rows * columns, sizeof(*bucket_of));
    double *inputs = med_calloc(rows, sizeof(*inputs));
    double *outputs = med_calloc(columns, sizeof(*outputs));
    int rc = bucket_of != NULL && inputs != NULL && outputs != NULL ? 0 : MED_E_NOMEM;
    for (size_t i = 0; rc == 0 && i < rows * columns; i++) {
        int64_t b = bucket_find_or_add(traffic, grid->input_edges[i / columns],
                                       grid->output_edges[i % columns]);
        if (b < 0) {
            rc = (int)b;
        } else {
            bucket_of[i] = (uint32_t)b;
        }
    }
    if (rc < 0) {
        med_free(bucket_of);
        med_free(inputs);
        med_free(outputs);
        return rc;
    }
    memcpy(inputs, grid->input_edges, rows * sizeof(*inputs));
    memcpy(outputs, grid->output_edges, columns * sizeof(*outputs));
    med_free(traffic->bucket_of);
    med_free(traffic->input_edges);
    med_free(traffic->output_edges);
    traffic->bucket_of = bucket_of;
    traffic->input_edges = inputs;
    traffic->output_edges = outputs;
    traffic->input_rows = rows;
    traffic->output_rows = columns;
    return 0;
}

double med_traffic_worker_price(const struct med_plan *plan, const char *worker_type)
{
    double usd = 0;
    double workers = 0;
    for (size_t i = 0; i < plan->instance_count; i++) {
        const struct med_plan_instance *instance = &plan->instances[i];
        double gpus = 0;
        double own_gpus = 0;
        double own = 0;
        for (size_t w = 0; w < instance->worker_count; w++) {
            const struct med_plan_placement *placement = &instance->workers[w];
            const struct med_profile *profile = &plan->profiles[placement->worker_type];
            int64_t each = profile->gpus_per_worker;
            double used = (double)placement->count * (each > 0 ? (double)each : 1);
            gpus += used;
            if (strcmp(profile->worker_type, worker_type) == 0) {
                own_gpus += used;
                own += (double)placement->count;
            }
        }
        if (own > 0) {
            usd += instance->price_usd_per_hour * (double)instance->count * own_gpus / gpus;
            workers += own;
        }
    }
    return workers > 0 ? usd / workers : 0;
}

int med_traffic_replan(struct med_traffic *traffic, const struct med_plan *plan,
                       const struct med_dispatch *dispatch)
{
    size_t type_of[MED_LIMIT_WORKER_TYPES] = {0};
    size_t count = med_dispatch_type_count(dispatch);
    MED_ASSERT(count <= MED_LIMIT_WORKER_TYPES);
    if (traffic->types == NULL)
        traffic->types = med_calloc(MED_TRAFFIC_TYPES, sizeof(*traffic->types));
    if (traffic->types == NULL)
        return MED_E_NOMEM;
    int rc = traffic->bucket_capacity == 0 ? grow_buckets(traffic, 64) : 0;
    for (size_t t = 0; rc == 0 && t < count; t++) {
        int64_t at = type_find_or_add(traffic, med_dispatch_type_name(dispatch, t));
        if (at < 0)
            return (int)at;
        type_of[t] = (size_t)at;
    }
    if (rc == 0)
        rc = map_buckets(traffic, &plan->grid);
    if (rc < 0)
        return rc;
    bool stays[MED_TRAFFIC_TYPES] = {false};
    for (size_t t = 0; t < count; t++)
        stays[type_of[t]] = true;
    for (size_t t = 0; t < traffic->type_count; t++) {
        traffic->types[t].planned = false;
        if (!stays[t])
            traffic->types[t].usd_per_hour = 0;
    }
    memcpy(traffic->type_of, type_of, count * sizeof(*type_of));
    for (size_t t = 0; t < count; t++) {
        struct med_traffic_type *type = &traffic->types[type_of[t]];
        /* Workers of a type that this plan lacks go on to cost what they did. */
        if (!med_dispatch_type_is_planned(dispatch, t))
            continue;
        type->planned = true;
        type->usd_per_hour = med_traffic_worker_price(plan, type->name);
    }
    return 0;
}

/* ---- observations ---- */

static size_t bucket_index(const struct med_traffic *traffic, int input_row, int output_row)
{
    MED_ASSERT(input_row >= 0 && (size_t)input_row < traffic->input_rows);
    MED_ASSERT(output_row >= 0 && (size_t)output_row < traffic->output_rows);
    return traffic->bucket_of[(size_t)input_row * traffic->output_rows + (size_t)output_row];
}

struct med_traffic_type *med_traffic_type_at(struct med_traffic *traffic, size_t type)
{
    MED_ASSERT(type < MED_LIMIT_WORKER_TYPES);
    return &traffic->types[traffic->type_of[type]];
}

struct med_traffic_bucket *med_traffic_bucket_at(struct med_traffic *traffic, int input_row,
                                                 int output_row)
{
    return &traffic->buckets[bucket_index(traffic, input_row, output_row)];
}

struct med_traffic_cell *med_traffic_cell_at(struct med_traffic *traffic, size_t type,
                                             int input_row, int output_row)
{
    return &med_traffic_type_at(traffic, type)->cells[bucket_index(traffic, input_row, output_row)];
}

static int row_of(const double *edges, size_t count, int64_t tokens)
{
    size_t row = 0;
    while (row + 1 < count && (double)tokens > edges[row])
        row++;
    return (int)row;
}

struct med_traffic_bucket *med_traffic_bucket_of(struct med_traffic *traffic, int64_t prompt_tokens,
                                                 int64_t output_tokens)
{
    return med_traffic_bucket_at(
        traffic, row_of(traffic->input_edges, traffic->input_rows, prompt_tokens),
        row_of(traffic->output_edges, traffic->output_rows, output_tokens));
}

void med_traffic_compare(struct med_traffic *traffic, size_t type, int input_row, int output_row,
                         enum med_comparison what, int64_t predicted, int64_t observed)
{
    if (predicted <= 0 || observed < 0)
        return;
    struct med_compared *compared =
        &med_traffic_cell_at(traffic, type, input_row, output_row)->compared[what];
    compared->predicted += (uint64_t)predicted;
    compared->observed += (uint64_t)observed;
    compared->count++;
    med_hist_add(&med_traffic_type_at(traffic, type)->error[what],
                 (double)observed / (double)predicted);
}
