/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads and writes `medley-workload/1` (docs/reference/formats.md).
 *
 * A workload is read into a zeroed struct part by part; every part checks its own numbers and, once
 * both sides are known, what spans them: a bucket's mean sizes lie inside its cell, no cell comes
 * twice, the shares sum to 1.  Runs on any thread.  Deriving a workload from a request log is in
 * workload_derive.c.
 */
#include "allocator/workload.h"

#include "allocator/workload_parts.h"
#include "base/alloc.h"
#include "base/limits.h"
#include "profiles/field.h"

#include <math.h>

static const char format_name[] = "medley-workload/1";
static const char *const processes[] = {"poisson", "gamma", "trace"};
static const double rate_max = 1e9;
/* Of one window: a scaled workload's peak over its mean is at most the number of windows. */
static const double window_rate_max = 1e15;
static const double share_tolerance = 1e-6;
static const int64_t requests_max = INT64_C(1) << 53;

/* A key that belongs to one process only. */
static int refuse_foreign(const struct med_json_at *at, const char *key, size_t process,
                          enum med_arrival owner, struct med_err *err)
{
    if (process == (size_t)owner || !med_json_has(at, key)) {
        return 0;
    }
    return med_json_fail(at, key, err, "found it with process \"%s\", expected it only with \"%s\"",
                         processes[process], processes[owner]);
}

int med_arrival_read(const struct med_json_at *root, enum med_arrival *ret_arrival,
                     double *ret_burstiness, char **ret_trace, struct med_err *err)
{
    static const char *const known[] = {"process", "burstiness", "trace", NULL};
    static const char *const known_in_plan[] = {"process", "burstiness", NULL};
    struct med_json_at at;
    size_t process = 0;
    double burstiness = 1;
    int rc;
    if ((rc = med_json_object(root, "arrival", &at, err)) < 0 ||
        (rc = med_json_keys(&at, ret_trace == NULL ? known_in_plan : known, err)) < 0 ||
        (rc = med_field_choice(&at, "process", processes, 3, &process, err)) < 0 ||
        (rc = refuse_foreign(&at, "burstiness", process, MED_ARRIVAL_GAMMA, err)) < 0 ||
        (rc = refuse_foreign(&at, "trace", process, MED_ARRIVAL_TRACE, err)) < 0) {
        return rc;
    }
    if (process == MED_ARRIVAL_GAMMA) {
        rc = med_json_number(&at, "burstiness", 1e-3, 1e3, &burstiness, err);
    } else if (process == MED_ARRIVAL_TRACE && ret_trace != NULL) {
        rc = med_field_text(&at, "trace", ret_trace, err);
    }
    if (rc < 0) {
        return rc;
    }
    *ret_arrival = (enum med_arrival)process;
    *ret_burstiness = burstiness;
    return 0;
}

void med_arrival_write(struct med_json_writer *w, enum med_arrival arrival, double burstiness,
                       const char *trace)
{
    med_json_begin_row_object(w, "arrival");
    med_json_put_string(w, "process", processes[arrival]);
    if (arrival == MED_ARRIVAL_GAMMA) {
        med_json_put_number(w, "burstiness", burstiness);
    }
    if (arrival == MED_ARRIVAL_TRACE && trace != NULL) {
        med_json_put_string(w, "trace", trace);
    }
    med_json_end_object(w);
}

static int read_source(const struct med_json_at *root, struct med_workload *workload,
                       struct med_err *err)
{
    static const char *const known[] = {"text", "licence", "method", NULL};
    struct med_json_at at;
    int rc;
    if ((rc = med_json_object(root, "source", &at, err)) < 0 ||
        (rc = med_json_keys(&at, known, err)) < 0 ||
        (rc = med_field_text(&at, "text", &workload->source_text, err)) < 0 ||
        (rc = med_field_text_optional(&at, "licence", &workload->source_licence, err)) < 0) {
        return rc;
    }
    return med_field_text_optional(&at, "method", &workload->source_method, err);
}

static int read_rates(const struct med_json_at *root, struct med_workload *workload,
                      struct med_err *err)
{
    static const char *const known[] = {"interval_s", "rate_per_s", NULL};
    static const struct med_field_bounds bounds = {1, MED_LIMIT_RATE_WINDOWS, sizeof(double)};
    struct med_json_at at;
    struct med_json_at array;
    struct med_json_at item = {0};
    void *items = NULL;
    int rc;
    if ((rc = med_json_object(root, "rate_over_time", &at, err)) < 0 ||
        (rc = med_json_keys(&at, known, err)) < 0 ||
        (rc = med_json_positive(&at, "interval_s", 1e9, &workload->interval_s, err)) < 0 ||
        (rc = med_field_array(&at, "rate_per_s", &bounds, &array, &items, err)) < 0) {
        return rc;
    }
    workload->rates_per_s = items;
    workload->rate_count = med_json_count(&array);
    size_t index = 0;
    for (size_t i = 0; med_json_next(&array, &index, &item, NULL); i++) {
        rc = med_json_number_here(&item, 0, window_rate_max, &workload->rates_per_s[i], err);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int read_summary(const struct med_json_at *root, const char *key,
                        struct med_size_summary *summary, struct med_err *err)
{
    static const char *const known[] = {"mean", "p50", "p90", "p99", "max", NULL};
    const double tokens_max = 1e9;
    *summary = (struct med_size_summary){NAN, NAN, NAN, NAN, NAN};
    if (!med_json_has(root, key)) {
        return 0;
    }
    struct med_json_at at;
    int rc;
    if ((rc = med_json_object(root, key, &at, err)) < 0 ||
        (rc = med_json_keys(&at, known, err)) < 0 ||
        (rc = med_json_number(&at, "mean", 1, tokens_max, &summary->mean, err)) < 0 ||
        (rc = med_json_number(&at, "p50", 1, tokens_max, &summary->p50, err)) < 0 ||
        (rc = med_json_number(&at, "p90", 1, tokens_max, &summary->p90, err)) < 0 ||
        (rc = med_json_number(&at, "p99", 1, tokens_max, &summary->p99, err)) < 0 ||
        (rc = med_json_number(&at, "max", 1, tokens_max, &summary->max, err)) < 0) {
        return rc;
    }
    if (!(summary->p50 <= summary->p90 && summary->p90 <= summary->p99 &&
          summary->p99 <= summary->max && summary->mean <= summary->max)) {
        return med_json_fail(root, key, err,
                             "found mean %g, p50 %g, p90 %g, p99 %g, max %g, expected percentiles "
                             "that do not fall and a mean up to max",
                             summary->mean, summary->p50, summary->p90, summary->p99, summary->max);
    }
    return 0;
}

/* An edge of the grid by its value; the message lists nothing, as the edges stand in the file. */
static int read_edge(const struct med_json_at *at, const char *key, const double *edges,
                     size_t count, struct med_bucket *bucket, struct med_err *err)
{
    double value = 0;
    int rc = med_json_number(at, key, 1, MED_LIMIT_PROMPT_TOKENS, &value, err);
    if (rc < 0) {
        return rc;
    }
    int row = med_grid_row(edges, count, value);
    if (row < 0 || edges[row] != value) {
        return med_json_fail(at, key, err, "found %g, expected one of %s_edges", value, key);
    }
    if (key[0] == 'i') {
        bucket->input_row = row;
    } else {
        bucket->output_row = row;
    }
    return 0;
}

/* A mean of sizes in (lower edge, upper edge], and at least 1. */
static int read_mean(const struct med_json_at *at, const char *key, const double *edges, int row,
                     double *ret_mean, struct med_err *err)
{
    double lower = row > 0 ? edges[row - 1] : 0;
    double mean = 0;
    int rc = med_json_number(at, key, 1, edges[row], &mean, err);
    if (rc < 0) {
        return rc;
    }
    if (mean <= lower) {
        return med_json_fail(at, key, err, "found %g, expected more than the cell's lower edge %g",
                             mean, lower);
    }
    *ret_mean = mean;
    return 0;
}

int med_cell_read(const struct med_json_at *at, const struct med_grid *grid,
                  struct med_bucket *cell, struct med_err *err)
{
    int rc;
    if ((rc = read_edge(at, "input", grid->input_edges, grid->input_edge_count, cell, err)) < 0 ||
        (rc = read_edge(at, "output", grid->output_edges, grid->output_edge_count, cell, err)) <
            0 ||
        (rc = read_mean(at, "input_mean", grid->input_edges, cell->input_row, &cell->input_mean,
                        err)) < 0) {
        return rc;
    }
    return read_mean(at, "output_mean", grid->output_edges, cell->output_row, &cell->output_mean,
                     err);
}

static int read_bucket(const struct med_json_at *at, const struct med_grid *grid,
                       struct med_bucket *bucket, struct med_err *err)
{
    static const char *const known[] = {"input",      "output",      "share",
                                        "input_mean", "output_mean", NULL};
    int rc;
    if ((rc = med_json_keys(at, known, err)) < 0 ||
        (rc = med_cell_read(at, grid, bucket, err)) < 0) {
        return rc;
    }
    return med_json_positive(at, "share", 1, &bucket->share, err);
}

static int read_buckets(const struct med_json_at *root, struct med_workload *workload,
                        struct med_err *err)
{
    static const struct med_field_bounds bounds = {1, MED_LIMIT_BUCKETS, sizeof(struct med_bucket)};
    bool seen[MED_LIMIT_EDGES][MED_LIMIT_EDGES] = {{false}};
    struct med_json_at array;
    struct med_json_at item = {0};
    void *items = NULL;
    double share_sum = 0;
    int rc = med_field_array(root, "buckets", &bounds, &array, &items, err);
    if (rc < 0) {
        return rc;
    }
    workload->buckets = items;
    size_t index = 0;
    while (med_json_next(&array, &index, &item, NULL)) {
        struct med_bucket *bucket = &workload->buckets[workload->bucket_count++];
        if ((rc = read_bucket(&item, &workload->grid, bucket, err)) < 0) {
            return rc;
        }
        bool *cell = &seen[bucket->input_row][bucket->output_row];
        if (*cell) {
            return med_json_fail(&item, NULL, err,
                                 "found the cell input %g, output %g again, expected it once",
                                 workload->grid.input_edges[bucket->input_row],
                                 workload->grid.output_edges[bucket->output_row]);
        }
        *cell = true;
        share_sum += bucket->share;
    }
    if (fabs(share_sum - 1) > share_tolerance) {
        return med_json_fail(root, "buckets", err,
                             "found shares that sum to %.9g, expected 1 within 1e-6", share_sum);
    }
    return 0;
}

static int read_parts(const struct med_json_at *root, struct med_workload *workload,
                      struct med_err *err)
{
    static const char *const known[] = {
        "format",        "name",           "source",      "requests",     "rate_per_s",
        "arrival",       "rate_over_time", "input_edges", "output_edges", "input_tokens",
        "output_tokens", "buckets",        NULL};
    int rc;
    if ((rc = med_json_expect_format(root, format_name, err)) < 0 ||
        (rc = med_json_keys(root, known, err)) < 0 ||
        (rc = med_field_name(root, "name", &workload->name, err)) < 0 ||
        (rc = read_source(root, workload, err)) < 0 ||
        (rc = med_json_integer(root, "requests", 0, requests_max, &workload->requests, err)) < 0 ||
        (rc = med_json_positive(root, "rate_per_s", rate_max, &workload->rate_per_s, err)) < 0 ||
        (rc = med_arrival_read(root, &workload->arrival, &workload->burstiness, &workload->trace,
                               err)) < 0 ||
        (med_json_has(root, "rate_over_time") && (rc = read_rates(root, workload, err)) < 0) ||
        (rc = med_grid_read(root, &workload->grid, err)) < 0 ||
        (rc = read_summary(root, "input_tokens", &workload->input_tokens, err)) < 0 ||
        (rc = read_summary(root, "output_tokens", &workload->output_tokens, err)) < 0) {
        return rc;
    }
    return read_buckets(root, workload, err);
}

int med_workload_read(const struct med_json_at *root, struct med_workload *ret_workload,
                      struct med_err *err)
{
    struct med_workload workload = {0};
    int rc = read_parts(root, &workload, err);
    if (rc < 0) {
        med_workload_release(&workload);
        return rc;
    }
    *ret_workload = workload;
    return 0;
}

int med_workload_read_file(const char *path, struct med_workload *ret_workload, struct med_err *err)
{
    struct med_json_doc doc;
    int rc = med_json_parse_file(path, &doc, err);
    if (rc < 0) {
        return rc;
    }
    struct med_json_at root = med_json_root(&doc);
    rc = med_workload_read(&root, ret_workload, err);
    med_json_free(&doc);
    return rc;
}

static void write_summary(struct med_json_writer *w, const char *key,
                          const struct med_size_summary *summary)
{
    if (isnan(summary->mean)) {
        return;
    }
    med_json_begin_row_object(w, key);
    med_json_put_number(w, "mean", summary->mean);
    med_json_put_number(w, "p50", summary->p50);
    med_json_put_number(w, "p90", summary->p90);
    med_json_put_number(w, "p99", summary->p99);
    med_json_put_number(w, "max", summary->max);
    med_json_end_object(w);
}

static void write_buckets(struct med_json_writer *w, const struct med_workload *workload)
{
    med_json_begin_array(w, "buckets");
    for (size_t i = 0; i < workload->bucket_count; i++) {
        const struct med_bucket *bucket = &workload->buckets[i];
        med_json_begin_row_object(w, NULL);
        med_json_put_number(w, "input", workload->grid.input_edges[bucket->input_row]);
        med_json_put_number(w, "output", workload->grid.output_edges[bucket->output_row]);
        med_json_put_number(w, "share", bucket->share);
        med_json_put_number(w, "input_mean", bucket->input_mean);
        med_json_put_number(w, "output_mean", bucket->output_mean);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

void med_workload_write(struct med_json_writer *w, const struct med_workload *workload)
{
    med_json_begin_object(w, NULL);
    med_json_put_string(w, "format", format_name);
    med_json_put_string(w, "name", workload->name);
    med_json_begin_object(w, "source");
    med_json_put_string(w, "text", workload->source_text);
    if (workload->source_licence != NULL) {
        med_json_put_string(w, "licence", workload->source_licence);
    }
    if (workload->source_method != NULL) {
        med_json_put_string(w, "method", workload->source_method);
    }
    med_json_end_object(w);
    med_json_put_integer(w, "requests", workload->requests);
    med_json_put_number(w, "rate_per_s", workload->rate_per_s);
    med_arrival_write(w, workload->arrival, workload->burstiness, workload->trace);
    if (workload->rate_count > 0) {
        med_json_begin_object(w, "rate_over_time");
        med_json_put_number(w, "interval_s", workload->interval_s);
        med_json_begin_row_array(w, "rate_per_s");
        for (size_t i = 0; i < workload->rate_count; i++) {
            med_json_put_number(w, NULL, workload->rates_per_s[i]);
        }
        med_json_end_array(w);
        med_json_end_object(w);
    }
    med_grid_write(w, &workload->grid);
    write_summary(w, "input_tokens", &workload->input_tokens);
    write_summary(w, "output_tokens", &workload->output_tokens);
    write_buckets(w, workload);
    med_json_end_object(w);
}

void med_workload_release(struct med_workload *workload)
{
    if (workload == NULL) {
        return;
    }
    med_free(workload->name);
    med_free(workload->source_text);
    med_free(workload->source_licence);
    med_free(workload->source_method);
    med_free(workload->trace);
    med_free(workload->rates_per_s);
    med_grid_release(&workload->grid);
    med_free(workload->buckets);
    *workload = (struct med_workload){0};
}
