/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads `medley-profile/1` (docs/reference/formats.md).
 *
 * Sources come first, because every other part names one; then the plain parts, then the rows.
 * Each part is read by one function into a profile that is zeroed at the start, so that a failure
 * at any point releases what there is.  What spans several fields is checked where the later field
 * is read.  Runs on any thread.  It fits nothing and judges no number beyond its bounds.
 */
#include "profiles/profile.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "profiles/field.h"

#include <math.h>
#include <string.h>

static const char format_name[] = "medley-profile/1";
static const char *const model_forms[] = {"roofline/1", "roofline/2"};
static const char *const source_kinds[] = {"measured", "published", "modelled"};
static const char *const arrivals[] = {"closed", "poisson", "gamma", "trace", "offline"};
enum {
    ARRIVAL_CLOSED = 0,
    ARRIVAL_OFFLINE = 4
};

static const double bytes_max = 1e18;
static const double flops_max = 1e21;
static const double ms_max = 1e9;
static const double tokens_max = 1e9;
static const double error_max = 1e3;
static const int64_t shape_max = 1 << 24;

static int find_source(const struct med_profile *profile, const struct med_json_at *at,
                       const char *key, size_t *ret_index, struct med_err *err)
{
    const char *id = NULL;
    int rc = med_json_string(at, key, MED_LIMIT_NAME_BYTES, &id, err);
    if (rc < 0) {
        return rc;
    }
    for (size_t i = 0; i < profile->source_count; i++) {
        if (strcmp(profile->sources[i].id, id) == 0) {
            *ret_index = i;
            return 0;
        }
    }
    char shown[MED_FIELD_SHOWN_MAX];
    return med_json_fail(at, key, err, "found \"%s\", expected the id of one of the sources",
                         med_field_shown(id, shown));
}

/* As find_source, but keeps a copy of the id. */
static int read_source_id(const struct med_profile *profile, const struct med_json_at *at,
                          const char *key, char **ret_id, struct med_err *err)
{
    size_t index = 0;
    int rc = find_source(profile, at, key, &index, err);
    if (rc < 0) {
        return rc;
    }
    char *id = med_strdup(profile->sources[index].id);
    if (id == NULL) {
        return med_field_no_memory(err);
    }
    *ret_id = id;
    return 0;
}

static int read_source(const struct med_json_at *at, struct med_source *source, struct med_err *err)
{
    static const char *const known[] = {"id", "kind", "text", "licence", "date", "fit_error", NULL};
    size_t kind = 0;
    int rc;
    if ((rc = med_json_keys(at, known, err)) < 0 ||
        (rc = med_field_name(at, "id", &source->id, err)) < 0 ||
        (rc = med_field_choice(at, "kind", source_kinds, 3, &kind, err)) < 0 ||
        (rc = med_field_text(at, "text", &source->text, err)) < 0 ||
        (rc = med_field_text_optional(at, "licence", &source->licence, err)) < 0 ||
        (rc = med_field_date_optional(at, "date", &source->date, err)) < 0 ||
        (rc = med_field_number_optional(at, "fit_error", 0, error_max, &source->fit_error, err)) <
            0) {
        return rc;
    }
    source->kind = (enum med_source_kind)kind;
    if (source->kind != MED_SOURCE_MODELLED && !isnan(source->fit_error)) {
        return med_json_fail(at, "fit_error", err,
                             "found it in a source of kind %s, expected it "
                             "only where kind is modelled",
                             source_kinds[kind]);
    }
    return 0;
}

static int read_sources(const struct med_json_at *at, struct med_profile *profile,
                        struct med_err *err)
{
    static const struct med_field_bounds bounds = {1, MED_LIMIT_SOURCES, sizeof(struct med_source)};
    struct med_json_at array;
    struct med_json_at item = {0};
    void *items = NULL;
    int rc = med_field_array(at, "sources", &bounds, &array, &items, err);
    if (rc < 0) {
        return rc;
    }
    profile->sources = items;
    size_t index = 0;
    while (med_json_next(&array, &index, &item, NULL)) {
        size_t i = profile->source_count++;
        if ((rc = read_source(&item, &profile->sources[i], err)) < 0) {
            return rc;
        }
        for (size_t other = 0; other < i; other++) {
            if (strcmp(profile->sources[other].id, profile->sources[i].id) == 0) {
                return med_json_fail(&item, "id", err,
                                     "found \"%s\" again (as in sources[%zu]), expected every id "
                                     "once",
                                     profile->sources[i].id, other);
            }
        }
    }
    return 0;
}

static int read_model(const struct med_json_at *root, struct med_model_shape *model,
                      struct med_err *err)
{
    static const char *const known[] = {"name",
                                        "parameters",
                                        "layers",
                                        "hidden",
                                        "heads",
                                        "kv_heads",
                                        "head_dim",
                                        "intermediate",
                                        "vocab",
                                        "weight_bytes",
                                        "kv_bytes_per_token",
                                        NULL};
    struct med_json_at at;
    int rc;
    if ((rc = med_json_object(root, "model", &at, err)) < 0 ||
        (rc = med_json_keys(&at, known, err)) < 0 ||
        (rc = med_field_name(&at, "name", &model->name, err)) < 0 ||
        (rc = med_json_positive(&at, "parameters", 1e15, &model->parameters, err)) < 0 ||
        (rc = med_json_integer(&at, "layers", 1, 65536, &model->layers, err)) < 0 ||
        (rc = med_json_integer(&at, "hidden", 1, shape_max, &model->hidden, err)) < 0 ||
        (rc = med_json_integer(&at, "heads", 1, 65536, &model->heads, err)) < 0 ||
        (rc = med_json_integer(&at, "kv_heads", 1, 65536, &model->kv_heads, err)) < 0 ||
        (rc = med_json_integer(&at, "head_dim", 1, 65536, &model->head_dim, err)) < 0 ||
        (rc = med_json_integer(&at, "intermediate", 1, shape_max, &model->intermediate, err)) < 0 ||
        (rc = med_json_integer(&at, "vocab", 1, shape_max, &model->vocab, err)) < 0 ||
        (rc = med_json_positive(&at, "weight_bytes", bytes_max, &model->weight_bytes, err)) < 0 ||
        (rc = med_json_positive(&at, "kv_bytes_per_token", bytes_max, &model->kv_bytes_per_token,
                                err)) < 0) {
        return rc;
    }
    if (model->heads % model->kv_heads != 0) {
        return med_json_fail(&at, "kv_heads", err, "found %lld, expected a divisor of heads (%lld)",
                             (long long)model->kv_heads, (long long)model->heads);
    }
    return 0;
}

static int read_hardware(const struct med_json_at *root, struct med_profile *profile,
                         struct med_err *err)
{
    static const char *const known[] = {"memory_bytes", "bandwidth_bytes_per_s",
                                        "matrix_flops_per_s", "source", NULL};
    struct med_hardware *hardware = &profile->hardware;
    struct med_json_at at;
    int rc;
    if ((rc = med_json_object(root, "hardware", &at, err)) < 0 ||
        (rc = med_json_keys(&at, known, err)) < 0 ||
        (rc = med_json_positive(&at, "memory_bytes", bytes_max, &hardware->memory_bytes, err)) <
            0 ||
        (rc = med_json_positive(&at, "bandwidth_bytes_per_s", bytes_max,
                                &hardware->bandwidth_bytes_per_s, err)) < 0 ||
        (rc = med_json_positive(&at, "matrix_flops_per_s", flops_max, &hardware->matrix_flops_per_s,
                                err)) < 0) {
        return rc;
    }
    return read_source_id(profile, &at, "source", &hardware->source, err);
}

static int read_limits(const struct med_json_at *root, struct med_engine_limits *limits,
                       struct med_err *err)
{
    static const char *const known[] = {"max_model_len", "max_num_seqs", "max_num_batched_tokens",
                                        "block_tokens",  "kv_tokens",    NULL};
    struct med_json_at at;
    int rc;
    if ((rc = med_json_object(root, "limits", &at, err)) < 0 ||
        (rc = med_json_keys(&at, known, err)) < 0 ||
        (rc = med_json_integer(&at, "max_model_len", 1, 1 << 24, &limits->model_len_max, err)) <
            0 ||
        (rc = med_json_integer(&at, "max_num_seqs", 1, 1 << 20, &limits->sequences_max, err)) < 0 ||
        (rc = med_json_integer(&at, "max_num_batched_tokens", 1, 1 << 24,
                               &limits->batched_tokens_max, err)) < 0 ||
        (rc = med_json_integer(&at, "block_tokens", 1, 1 << 16, &limits->block_tokens, err)) < 0 ||
        (rc = med_json_integer(&at, "kv_tokens", 1, INT64_C(1) << 40, &limits->kv_tokens, err)) <
            0) {
        return rc;
    }
    if (limits->kv_tokens % limits->block_tokens != 0) {
        return med_json_fail(&at, "kv_tokens", err,
                             "found %lld, expected a multiple of block_tokens (%lld)",
                             (long long)limits->kv_tokens, (long long)limits->block_tokens);
    }
    if (limits->kv_tokens < limits->model_len_max) {
        return med_json_fail(&at, "kv_tokens", err,
                             "found %lld, expected at least max_model_len (%lld), or the longest "
                             "sequence could never run",
                             (long long)limits->kv_tokens, (long long)limits->model_len_max);
    }
    return 0;
}

static int read_corner(const struct med_json_at *at, bool expected, double *ret_corner,
                       struct med_err *err)
{
    double corner = NAN;
    int rc = med_field_number_optional(at, "corner", 0, 1, &corner, err);
    if (rc < 0) {
        return rc;
    }
    if (expected && !(corner > 0.0)) {
        return med_json_fail(at, "corner", err,
                             isnan(corner)
                                 ? "found none, expected a number > 0 and <= 1, since form is %s"
                                 : "found 0, expected a number > 0 and <= 1, since form is %s",
                             model_forms[1]);
    }
    if (!expected && !isnan(corner)) {
        return med_json_fail(at, "corner", err,
                             "found it where form is %s, expected it only where it is %s",
                             model_forms[0], model_forms[1]);
    }
    *ret_corner = expected ? corner : 0.0;
    return 0;
}

static int read_step_model(const struct med_json_at *root, struct med_profile *profile,
                           struct med_err *err)
{
    static const char *const known[] = {"form",
                                        "corner",
                                        "fixed_ms",
                                        "sequence_us",
                                        "bandwidth_bytes_per_s",
                                        "matrix_flops_per_s",
                                        "kv_bandwidth_bytes_per_s",
                                        "attention_flops_per_s",
                                        "fit_error",
                                        "fit_error_max",
                                        "source",
                                        NULL};
    struct med_step_model *model = &profile->step_model;
    struct med_json_at at;
    size_t form = 0;
    int rc;
    if ((rc = med_json_object(root, "step_model", &at, err)) < 0 ||
        (rc = med_json_keys(&at, known, err)) < 0 ||
        (rc = med_field_choice(&at, "form", model_forms, 2, &form, err)) < 0 ||
        (rc = read_corner(&at, form == 1, &model->corner, err)) < 0) {
        return rc;
    }
    if ((rc = med_json_number(&at, "fixed_ms", 0, ms_max, &model->fixed_ms, err)) < 0 ||
        (rc = med_json_number(&at, "sequence_us", 0, ms_max, &model->sequence_us, err)) < 0 ||
        (rc = med_json_positive(&at, "bandwidth_bytes_per_s", bytes_max,
                                &model->bandwidth_bytes_per_s, err)) < 0 ||
        (rc = med_json_positive(&at, "matrix_flops_per_s", flops_max, &model->matrix_flops_per_s,
                                err)) < 0 ||
        (rc = med_json_positive(&at, "kv_bandwidth_bytes_per_s", bytes_max,
                                &model->kv_bandwidth_bytes_per_s, err)) < 0 ||
        (rc = med_json_positive(&at, "attention_flops_per_s", flops_max,
                                &model->attention_flops_per_s, err)) < 0 ||
        (rc = med_json_number(&at, "fit_error", 0, error_max, &model->fit_error, err)) < 0 ||
        (rc = med_json_number(&at, "fit_error_max", 0, error_max, &model->fit_error_max, err)) <
            0 ||
        (rc = read_source_id(profile, &at, "source", &model->source, err)) < 0) {
        return rc;
    }
    if (model->fit_error_max < model->fit_error) {
        return med_json_fail(&at, "fit_error_max", err,
                             "found %g, expected at least fit_error (%g)", model->fit_error_max,
                             model->fit_error);
    }
    profile->has_step_model = true;
    return 0;
}

static int check_mean(const struct med_json_at *at, const char *key, double mean, double most,
                      struct med_err *err)
{
    if (most < mean) {
        return med_json_fail(at, key, err, "found %g, expected at least the mean (%g)", most, mean);
    }
    return 0;
}

static int read_table_error(const struct med_json_at *at, struct med_step_error *error,
                            struct med_err *err)
{
    int rc;
    error->table_mean = NAN;
    error->table_max = NAN;
    if (!med_json_has(at, "table_rows")) {
        const char *stray = med_json_has(at, "table_mean")  ? "table_mean"
                            : med_json_has(at, "table_max") ? "table_max"
                                                            : NULL;
        return stray == NULL ? 0
                             : med_json_fail(at, stray, err,
                                             "found it without table_rows, expected both or none");
    }
    if ((rc = med_json_integer(at, "table_rows", 1, error->rows, &error->table_rows, err)) < 0 ||
        (rc = med_json_number(at, "table_mean", 0, error_max, &error->table_mean, err)) < 0 ||
        (rc = med_json_number(at, "table_max", 0, error_max, &error->table_max, err)) < 0) {
        return rc;
    }
    return check_mean(at, "table_max", error->table_mean, error->table_max, err);
}

static int read_step_error(const struct med_json_at *at, struct med_profile *profile,
                           struct med_err *err)
{
    static const char *const known[] = {"region",     "rows",       "form_mean", "form_max",
                                        "table_rows", "table_mean", "table_max", NULL};
    const char *names[MED_STEP_REGION_COUNT];
    for (int i = 0; i < MED_STEP_REGION_COUNT; i++) {
        names[i] = med_step_region_name((enum med_step_region)i);
    }
    struct med_step_error *error = &profile->step_errors[profile->step_error_count];
    size_t region = 0;
    int rc;
    if ((rc = med_json_keys(at, known, err)) < 0 ||
        (rc = med_field_choice(at, "region", names, MED_STEP_REGION_COUNT, &region, err)) < 0 ||
        (rc = med_json_integer(at, "rows", 1, INT64_C(1) << 53, &error->rows, err)) < 0 ||
        (rc = med_json_number(at, "form_mean", 0, error_max, &error->form_mean, err)) < 0 ||
        (rc = med_json_number(at, "form_max", 0, error_max, &error->form_max, err)) < 0 ||
        (rc = check_mean(at, "form_max", error->form_mean, error->form_max, err)) < 0 ||
        (rc = read_table_error(at, error, err)) < 0) {
        return rc;
    }
    error->region = (enum med_step_region)region;
    if (profile->step_error_count > 0 && error[-1].region >= error->region) {
        return med_json_fail(at, "region", err,
                             "found \"%s\" after \"%s\", expected every region once, in the order "
                             "of the reference",
                             names[region], names[error[-1].region]);
    }
    profile->step_error_count++;
    return 0;
}

static int read_step_errors(const struct med_json_at *root, struct med_profile *profile,
                            struct med_err *err)
{
    struct med_json_at array;
    struct med_json_at item = {0};
    size_t index = 0;
    if (!med_json_has(root, "step_errors")) {
        return 0;
    }
    if (!profile->has_step_model) {
        return med_json_fail(root, "step_errors", err,
                             "found them without step_model, expected both or none");
    }
    int rc = med_json_array(root, "step_errors", &array, err);
    if (rc == 0 && med_json_count(&array) > MED_STEP_REGION_COUNT) {
        rc = med_json_fail(root, "step_errors", err, "found %zu elements, expected at most %d",
                           med_json_count(&array), MED_STEP_REGION_COUNT);
    }
    while (rc == 0 && med_json_next(&array, &index, &item, NULL)) {
        rc = read_step_error(&item, profile, err);
    }
    return rc;
}

static int read_validation(const struct med_profile *profile, const struct med_json_at *at,
                           struct med_validation *validation, struct med_err *err)
{
    static const char *const known[] = {"against", "error_mean", "error_max", "rows", "text", NULL};
    int rc;
    if ((rc = med_json_keys(at, known, err)) < 0 ||
        (rc = read_source_id(profile, at, "against", &validation->against, err)) < 0 ||
        (rc = med_json_number(at, "error_mean", 0, error_max, &validation->error_mean, err)) < 0 ||
        (rc = med_json_number(at, "error_max", 0, error_max, &validation->error_max, err)) < 0 ||
        (rc = med_json_integer(at, "rows", 1, INT64_C(1) << 53, &validation->rows, err)) < 0 ||
        (rc = med_field_text(at, "text", &validation->text, err)) < 0) {
        return rc;
    }
    if (validation->error_max < validation->error_mean) {
        return med_json_fail(at, "error_max", err, "found %g, expected at least error_mean (%g)",
                             validation->error_max, validation->error_mean);
    }
    return 0;
}

static int read_validations(const struct med_json_at *root, struct med_profile *profile,
                            struct med_err *err)
{
    static const struct med_field_bounds bounds = {0, MED_LIMIT_SOURCES,
                                                   sizeof(struct med_validation)};
    struct med_json_at array;
    struct med_json_at item = {0};
    void *items = NULL;
    int rc = med_field_array(root, "validations", &bounds, &array, &items, err);
    if (rc < 0) {
        return rc;
    }
    profile->validations = items;
    size_t index = 0;
    while (med_json_next(&array, &index, &item, NULL)) {
        size_t i = profile->validation_count++;
        if ((rc = read_validation(profile, &item, &profile->validations[i], err)) < 0) {
            return rc;
        }
    }
    return 0;
}

static int read_step(const struct med_profile *profile, const struct med_json_at *at,
                     struct med_step_row *row, struct med_err *err)
{
    static const char *const known[] = {
        "prefill_tokens", "prefill_context", "decode_sequences", "decode_context_tokens",
        "ms_p50",         "ms_p99",          "source",           NULL};
    const int64_t max = INT64_C(1) << 32;
    int rc;
    if ((rc = med_json_keys(at, known, err)) < 0 ||
        (rc = med_json_integer(at, "prefill_tokens", 0, 1 << 24, &row->prefill_tokens, err)) < 0 ||
        (rc = med_json_integer(at, "prefill_context", 0, 1 << 24, &row->prefill_context, err)) <
            0 ||
        (rc = med_json_integer(at, "decode_sequences", 0, 1 << 20, &row->decode_sequences, err)) <
            0 ||
        (rc = med_json_integer(at, "decode_context_tokens", 0, max, &row->decode_context_tokens,
                               err)) < 0 ||
        (rc = med_json_positive(at, "ms_p50", ms_max, &row->ms_p50, err)) < 0 ||
        (rc = med_field_positive_optional(at, "ms_p99", ms_max, &row->ms_p99, err)) < 0 ||
        (rc = find_source(profile, at, "source", &row->source, err)) < 0) {
        return rc;
    }
    if (row->prefill_tokens == 0 && row->decode_sequences == 0) {
        return med_json_fail(at, NULL, err,
                             "found a step without prefill tokens and without "
                             "decode sequences, expected at least one of them");
    }
    if (row->prefill_tokens == 0 && row->prefill_context > 0) {
        return med_json_fail(at, "prefill_context", err,
                             "found %lld without prefill tokens, expected 0",
                             (long long)row->prefill_context);
    }
    if (row->decode_sequences == 0 && row->decode_context_tokens > 0) {
        return med_json_fail(at, "decode_context_tokens", err,
                             "found %lld without decode sequences, expected 0",
                             (long long)row->decode_context_tokens);
    }
    if (row->ms_p99 < row->ms_p50) {
        return med_json_fail(at, "ms_p99", err, "found %g, expected at least ms_p50 (%g)",
                             row->ms_p99, row->ms_p50);
    }
    return 0;
}

static int read_steps(const struct med_json_at *root, struct med_profile *profile,
                      struct med_err *err)
{
    static const struct med_field_bounds bounds = {0, MED_LIMIT_PROFILE_ROWS,
                                                   sizeof(struct med_step_row)};
    struct med_json_at array;
    struct med_json_at item = {0};
    void *items = NULL;
    int rc = med_field_array(root, "steps", &bounds, &array, &items, err);
    if (rc < 0) {
        return rc;
    }
    profile->steps = items;
    size_t index = 0;
    while (med_json_next(&array, &index, &item, NULL)) {
        size_t i = profile->step_count++;
        if ((rc = read_step(profile, &item, &profile->steps[i], err)) < 0) {
            return rc;
        }
    }
    return 0;
}

/* Percentiles that are given must not fall. */
static int check_rising(const struct med_json_at *at, const struct med_latency_stats *stats,
                        struct med_err *err)
{
    const double values[] = {stats->p50, stats->p90, stats->p95, stats->p99};
    static const char *const keys[] = {"p50", "p90", "p95", "p99"};
    for (size_t high = 1; high < 4; high++) {
        for (size_t low = 0; low < high; low++) {
            if (values[high] < values[low]) {
                return med_json_fail(at, keys[high], err, "found %g, expected at least %s (%g)",
                                     values[high], keys[low], values[low]);
            }
        }
    }
    return 0;
}

static int read_stats(const struct med_json_at *row, const char *key,
                      struct med_latency_stats *stats, struct med_err *err)
{
    static const char *const known[] = {"mean", "p50", "p90", "p95", "p99", NULL};
    *stats = (struct med_latency_stats){NAN, NAN, NAN, NAN, NAN};
    if (!med_json_has(row, key)) {
        return 0;
    }
    struct med_json_at at;
    int rc;
    if ((rc = med_json_object(row, key, &at, err)) < 0 ||
        (rc = med_json_keys(&at, known, err)) < 0 ||
        (rc = med_field_positive_optional(&at, "mean", ms_max, &stats->mean, err)) < 0 ||
        (rc = med_field_positive_optional(&at, "p50", ms_max, &stats->p50, err)) < 0 ||
        (rc = med_field_positive_optional(&at, "p90", ms_max, &stats->p90, err)) < 0 ||
        (rc = med_field_positive_optional(&at, "p95", ms_max, &stats->p95, err)) < 0 ||
        (rc = med_field_positive_optional(&at, "p99", ms_max, &stats->p99, err)) < 0) {
        return rc;
    }
    if (med_json_count(&at) == 0) {
        return med_json_fail(row, key, err,
                             "found an empty object, expected at least one of mean, "
                             "p50, p90, p95, p99");
    }
    return check_rising(&at, stats, err);
}

/* An open loop has a rate, a closed loop has users, offline has neither. */
static int read_load(const struct med_json_at *at, size_t arrival, struct med_serving_row *row,
                     struct med_err *err)
{
    const char *wanted = arrival == ARRIVAL_CLOSED ? "concurrency" : "rate_per_s";
    row->rate_per_s = (double)NAN;
    row->concurrency = (double)NAN;
    static const char *const both[] = {"rate_per_s", "concurrency"};
    for (size_t i = 0; i < 2; i++) {
        bool allowed = arrival != ARRIVAL_OFFLINE && strcmp(both[i], wanted) == 0;
        if (!allowed && med_json_has(at, both[i])) {
            return med_json_fail(
                at, both[i], err, "found it in a row whose arrival is %s, expected %s",
                arrivals[arrival],
                arrival == ARRIVAL_OFFLINE ? "neither a rate nor a concurrency" : wanted);
        }
    }
    if (arrival == ARRIVAL_OFFLINE) {
        return 0;
    }
    return arrival == ARRIVAL_CLOSED
               ? med_json_positive(at, "concurrency", 1e6, &row->concurrency, err)
               : med_json_positive(at, "rate_per_s", 1e9, &row->rate_per_s, err);
}

static int read_serving_row(const struct med_profile *profile, const struct med_json_at *at,
                            struct med_serving_row *row, struct med_err *err)
{
    static const char *const known[] = {
        "input_tokens", "output_tokens", "arrival", "rate_per_s", "concurrency", "throughput_per_s",
        "ttft_ms",      "tpot_ms",       "itl_ms",  "e2e_ms",     "failures",    "requests",
        "saturated",    "cut_short",     "source",  NULL};
    size_t arrival = 0;
    int rc;
    if ((rc = med_json_keys(at, known, err)) < 0 ||
        (rc = med_json_number(at, "input_tokens", 1, tokens_max, &row->input_tokens, err)) < 0 ||
        (rc = med_json_number(at, "output_tokens", 1, tokens_max, &row->output_tokens, err)) < 0 ||
        (rc = med_field_choice(at, "arrival", arrivals, 5, &arrival, err)) < 0 ||
        (rc = read_load(at, arrival, row, err)) < 0 ||
        (rc = med_json_positive(at, "throughput_per_s", 1e9, &row->throughput_per_s, err)) < 0 ||
        (rc = read_stats(at, "ttft_ms", &row->ttft_ms, err)) < 0 ||
        (rc = read_stats(at, "tpot_ms", &row->tpot_ms, err)) < 0 ||
        (rc = read_stats(at, "itl_ms", &row->itl_ms, err)) < 0 ||
        (rc = read_stats(at, "e2e_ms", &row->e2e_ms, err)) < 0 ||
        (rc = med_json_number(at, "failures", 0, 1, &row->failures, err)) < 0 ||
        (med_json_has(at, "requests") &&
         (rc = med_json_integer(at, "requests", 1, INT64_C(1) << 40, &row->requests, err)) < 0) ||
        (med_json_has(at, "cut_short") &&
         (rc = med_json_bool(at, "cut_short", &row->cut_short, err)) < 0) ||
        (med_json_has(at, "saturated") &&
         (rc = med_json_bool(at, "saturated", &row->saturated, err)) < 0) ||
        (rc = find_source(profile, at, "source", &row->source, err)) < 0) {
        return rc;
    }
    row->arrival = med_strdup(arrivals[arrival]);
    return row->arrival == NULL ? med_field_no_memory(err) : 0;
}

static int read_serving(const struct med_json_at *root, struct med_profile *profile,
                        struct med_err *err)
{
    static const struct med_field_bounds bounds = {0, MED_LIMIT_PROFILE_ROWS,
                                                   sizeof(struct med_serving_row)};
    struct med_json_at array;
    struct med_json_at item = {0};
    void *items = NULL;
    int rc = med_field_array(root, "serving", &bounds, &array, &items, err);
    if (rc < 0) {
        return rc;
    }
    profile->serving = items;
    size_t index = 0;
    while (med_json_next(&array, &index, &item, NULL)) {
        size_t i = profile->serving_count++;
        if ((rc = read_serving_row(profile, &item, &profile->serving[i], err)) < 0) {
            return rc;
        }
    }
    return 0;
}

static int read_parts(const struct med_json_at *at, struct med_profile *profile,
                      struct med_err *err)
{
    static const char *const known[] = {
        "format",      "worker_type", "gpu",         "gpus_per_worker",
        "dtype",       "engine",      "model",       "hardware",
        "limits",      "step_model",  "step_errors", "sources",
        "validations", "steps",       "serving",     NULL};
    int rc;
    if ((rc = med_json_expect_format(at, format_name, err)) < 0 ||
        (rc = med_json_keys(at, known, err)) < 0 ||
        (rc = med_field_name(at, "worker_type", &profile->worker_type, err)) < 0 ||
        (rc = med_field_name(at, "gpu", &profile->gpu, err)) < 0 ||
        (rc = med_json_integer(at, "gpus_per_worker", 1, 1024, &profile->gpus_per_worker, err)) <
            0 ||
        (rc = med_field_name(at, "dtype", &profile->dtype, err)) < 0 ||
        (rc = med_field_name(at, "engine", &profile->engine, err)) < 0 ||
        (rc = read_sources(at, profile, err)) < 0 ||
        (rc = read_model(at, &profile->model, err)) < 0 ||
        (rc = read_hardware(at, profile, err)) < 0 ||
        (rc = read_limits(at, &profile->limits, err)) < 0) {
        return rc;
    }
    if ((med_json_has(at, "step_model") && (rc = read_step_model(at, profile, err)) < 0) ||
        (rc = read_step_errors(at, profile, err)) < 0 ||
        (med_json_has(at, "validations") && (rc = read_validations(at, profile, err)) < 0) ||
        (med_json_has(at, "steps") && (rc = read_steps(at, profile, err)) < 0) ||
        (med_json_has(at, "serving") && (rc = read_serving(at, profile, err)) < 0)) {
        return rc;
    }
    if (profile->step_count > 0 && !profile->has_step_model) {
        return med_json_fail(at, "step_model", err,
                             "found none although there are steps, expected the model fitted to "
                             "them");
    }
    if (!profile->has_step_model && profile->serving_count == 0) {
        return med_json_fail(at, NULL, err,
                             "found neither step_model nor serving rows, expected at least one");
    }
    return 0;
}

int med_profile_read(const struct med_json_at *at, struct med_profile *ret_profile,
                     struct med_err *err)
{
    struct med_profile profile = {0};
    int rc = read_parts(at, &profile, err);
    if (rc < 0) {
        med_profile_release(&profile);
        return rc;
    }
    *ret_profile = profile;
    return 0;
}

int med_profile_read_file(const char *path, struct med_profile *ret_profile, struct med_err *err)
{
    struct med_json_doc doc;
    int rc = med_json_parse_file(path, &doc, err);
    if (rc < 0) {
        return rc;
    }
    struct med_json_at root = med_json_root(&doc);
    rc = med_profile_read(&root, ret_profile, err);
    med_json_free(&doc);
    return rc;
}
