/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Derives a workload from a request log.
 *
 * Rate: requests / (last arrival - first arrival).  Rate over time: requests per second in whole
 * windows of 60 s from the first request; the part window at the end is left out, and the window
 * doubles until the list fits its limit.
 *
 * Burstiness: 1 / CV^2 of the gaps between arrivals, where each gap is first divided by the mean
 * gap of its window (60 s, by the time of the gap's earlier request), so that a rate that drifts
 * over minutes does not count as bursts.  CV^2 is the mean of (gap / window mean - 1)^2 over all
 * gaps of windows with at least 20 gaps; if no window has 20, the whole log is one window.  A log
 * with fewer than 20 gaps, or whose gaps are all zero, is called Poisson.  The result is held
 * inside [0.001, 1000].  (Dividing n exponential gaps by their own mean lowers CV^2 to (n-1)/(n+1)
 * of itself: at 20 gaps the burstiness of a Poisson stream reads as 1.1, at 300 as 1.007.)
 *
 * Runs on any thread.  It reads no file and judges no objective.
 */
#include "allocator/workload_parts.h"

#include "base/alloc.h"
#include "base/hist.h"
#include "base/limits.h"
#include "profiles/field.h"

#include <math.h>

static const double interval_default_s = 60;
static const double burstiness_min = 1e-3;
static const double burstiness_max = 1e3;
static const double rate_max = 1e9;
enum {
    WINDOW_GAPS_MIN = 20
};

static const char method_text[] =
    "medley workload: rate = requests / (last arrival - first arrival); percentiles interpolate "
    "linearly; burstiness = 1/CV^2 of the gaps between arrivals, each divided by the mean gap of "
    "its window";

static const char *where(const struct med_derive *derive)
{
    return derive->where != NULL ? derive->where : derive->source_text;
}

/* Sum of (gap / mean - 1)^2 over the gaps that begin at rows [begin, end). */
static double spread_of_gaps(const struct med_request_row *rows, size_t begin, size_t end)
{
    double mean = (rows[end].arrival_s - rows[begin].arrival_s) / (double)(end - begin);
    double sum = 0;
    for (size_t i = begin; i < end; i++) {
        double relative = (rows[i + 1].arrival_s - rows[i].arrival_s) / mean - 1;
        sum += relative * relative;
    }
    return sum;
}

/* Index of the first row from `begin` on that is outside begin's window, at most `last`. */
static size_t window_end(const struct med_request_log *log, size_t begin, size_t last,
                         double interval_s)
{
    double window = floor(log->rows[begin].arrival_s / interval_s);
    size_t end = begin + 1;
    while (end < last && floor(log->rows[end].arrival_s / interval_s) == window) {
        end++;
    }
    return end;
}

/* 0 when the log is too short to say. */
static double burstiness(const struct med_request_log *log, double interval_s)
{
    size_t gaps = log->count - 1;
    if (gaps < WINDOW_GAPS_MIN || log->rows[gaps].arrival_s == 0) {
        return 0;
    }
    double sum = 0;
    size_t counted = 0;
    for (size_t begin = 0; begin < gaps;) {
        size_t end = window_end(log, begin, gaps, interval_s);
        /* The last gap of a window reaches into the next one: it belongs to where it begins. */
        if (end - begin >= WINDOW_GAPS_MIN &&
            log->rows[end].arrival_s > log->rows[begin].arrival_s) {
            sum += spread_of_gaps(log->rows, begin, end);
            counted += end - begin;
        }
        begin = end;
    }
    if (counted == 0) {
        sum = spread_of_gaps(log->rows, 0, gaps);
        counted = gaps;
    }
    double value = sum > 0 ? (double)counted / sum : burstiness_max;
    return fmin(fmax(value, burstiness_min), burstiness_max);
}

/* The window for this log: 60 s, doubled until the list of rates fits. */
static double choose_interval(double span_s)
{
    double interval_s = interval_default_s;
    while (span_s / interval_s > MED_LIMIT_RATE_WINDOWS) {
        interval_s *= 2;
    }
    return interval_s;
}

/* scale: what the log's own rates are multiplied with. */
static int derive_rates(const struct med_request_log *log, double scale,
                        struct med_workload *workload)
{
    double span_s = log->rows[log->count - 1].arrival_s;
    double interval_s = choose_interval(span_s);
    size_t windows = (size_t)(span_s / interval_s);
    if (windows == 0) {
        return 0;
    }
    workload->rates_per_s = med_calloc(windows, sizeof *workload->rates_per_s);
    if (workload->rates_per_s == NULL) {
        return MED_E_NOMEM;
    }
    workload->interval_s = interval_s;
    workload->rate_count = windows;
    for (size_t i = 0; i < log->count; i++) {
        double window = floor(log->rows[i].arrival_s / interval_s);
        if (window < (double)windows) {
            workload->rates_per_s[(size_t)window] += 1;
        }
    }
    for (size_t i = 0; i < windows; i++) {
        workload->rates_per_s[i] *= scale / interval_s;
    }
    return 0;
}

static int derive_arrivals(const struct med_request_log *log, const struct med_derive *derive,
                           struct med_workload *workload, struct med_err *err)
{
    double span_s = log->rows[log->count - 1].arrival_s;
    bool measured = span_s > 0 && (double)log->count / span_s <= rate_max;
    if (!measured && isnan(derive->rate_per_s)) {
        return med_err_set(err, MED_E_INVALID,
                           "%s: found %s, from which no rate follows, expected requests at "
                           "different times, or a rate (--rate)",
                           where(derive),
                           log->count == 1 ? "a single request"
                           : span_s == 0   ? "requests at one time only"
                                           : "more than 1e9 requests/s");
    }
    double own_rate = measured ? (double)log->count / span_s : 0;
    double wanted = isnan(derive->rate_per_s) ? own_rate : derive->rate_per_s;
    workload->rate_per_s = wanted;
    workload->arrival = MED_ARRIVAL_POISSON;
    workload->burstiness = 1;
    if (!measured) {
        return 0;
    }
    double shape = burstiness(log, choose_interval(span_s));
    if (shape > 0) {
        workload->arrival = MED_ARRIVAL_GAMMA;
        workload->burstiness = shape;
    }
    return derive_rates(log, wanted / own_rate, workload) < 0 ? med_field_no_memory(err) : 0;
}

static int64_t size_of(const struct med_request_row *row, bool output)
{
    return output ? row->output_tokens : row->input_tokens;
}

static int summarise(const struct med_request_log *log, bool output,
                     struct med_size_summary *ret_summary)
{
    struct med_sample sample;
    med_sample_init(&sample);
    for (size_t i = 0; i < log->count; i++) {
        if (med_sample_add(&sample, (double)size_of(&log->rows[i], output)) < 0) {
            med_sample_release(&sample);
            return MED_E_NOMEM;
        }
    }
    *ret_summary = (struct med_size_summary){
        .mean = med_sample_mean(&sample),
        .p50 = med_sample_quantile(&sample, 0.5),
        .p90 = med_sample_quantile(&sample, 0.9),
        .p99 = med_sample_quantile(&sample, 0.99),
        .max = med_sample_quantile(&sample, 1),
    };
    med_sample_release(&sample);
    return 0;
}

struct cell {
    int64_t requests, input_tokens, output_tokens; /* sums */
};

static int fail_outside(const struct med_request_log *log, const struct med_grid *grid,
                        int64_t outside, const char *name, struct med_err *err)
{
    int64_t input_max = 0;
    int64_t output_max = 0;
    for (size_t i = 0; i < log->count; i++) {
        input_max = log->rows[i].input_tokens > input_max ? log->rows[i].input_tokens : input_max;
        output_max =
            log->rows[i].output_tokens > output_max ? log->rows[i].output_tokens : output_max;
    }
    return med_err_set(err, MED_E_INVALID,
                       "%s: found %lld of %zu requests outside the grid, expected none: the "
                       "largest input is %lld tokens (last edge %g), the largest output %lld (last "
                       "edge %g); wider edges can be given (--input-edges, --output-edges)",
                       name, (long long)outside, log->count, (long long)input_max,
                       grid->input_edges[grid->input_edge_count - 1], (long long)output_max,
                       grid->output_edges[grid->output_edge_count - 1]);
}

/* Counts the requests of each cell, row-major; returns how many are outside the grid. */
static int64_t count_cells(const struct med_request_log *log, const struct med_grid *grid,
                           struct cell *cells)
{
    int64_t outside = 0;
    for (size_t i = 0; i < log->count; i++) {
        const struct med_request_row *row = &log->rows[i];
        int input_row =
            med_grid_row(grid->input_edges, grid->input_edge_count, (double)row->input_tokens);
        int output_row =
            med_grid_row(grid->output_edges, grid->output_edge_count, (double)row->output_tokens);
        if (input_row < 0 || output_row < 0) {
            outside++;
            continue;
        }
        struct cell *cell =
            &cells[(size_t)input_row * grid->output_edge_count + (size_t)output_row];
        cell->requests++;
        cell->input_tokens += row->input_tokens;
        cell->output_tokens += row->output_tokens;
    }
    return outside;
}

static int derive_buckets(const struct med_request_log *log, const struct med_derive *derive,
                          struct med_workload *workload, struct med_err *err)
{
    const struct med_grid *grid = derive->grid;
    size_t cell_count = grid->input_edge_count * grid->output_edge_count;
    struct cell *cells = med_calloc(cell_count, sizeof *cells);
    int rc = 0;
    if (cells == NULL) {
        return med_field_no_memory(err);
    }
    int64_t outside = count_cells(log, grid, cells);
    if (outside > 0) {
        rc = fail_outside(log, grid, outside, where(derive), err);
        goto out;
    }
    workload->buckets = med_calloc(cell_count, sizeof *workload->buckets);
    if (workload->buckets == NULL) {
        rc = med_field_no_memory(err);
        goto out;
    }
    for (size_t i = 0; i < cell_count; i++) {
        if (cells[i].requests > 0) {
            double requests = (double)cells[i].requests;
            workload->buckets[workload->bucket_count++] = (struct med_bucket){
                .input_row = (int)(i / grid->output_edge_count),
                .output_row = (int)(i % grid->output_edge_count),
                .share = requests / (double)log->count,
                .input_mean = (double)cells[i].input_tokens / requests,
                .output_mean = (double)cells[i].output_tokens / requests,
            };
        }
    }
out:
    med_free(cells);
    return rc;
}

static int copy_texts(const struct med_derive *derive, struct med_workload *workload)
{
    workload->name = med_strdup(derive->name);
    workload->source_text = med_strdup(derive->source_text);
    workload->source_method = med_strdup(method_text);
    if (derive->source_licence != NULL) {
        workload->source_licence = med_strdup(derive->source_licence);
    }
    bool ok = workload->name != NULL && workload->source_text != NULL &&
              workload->source_method != NULL &&
              (workload->source_licence != NULL || derive->source_licence == NULL);
    return ok ? 0 : MED_E_NOMEM;
}

int med_workload_derive(const struct med_request_log *log, const struct med_derive *derive,
                        struct med_workload *ret_workload, struct med_err *err)
{
    struct med_workload workload = {.requests = (int64_t)log->count};
    if (log->count == 0) {
        return med_err_set(err, MED_E_INVALID, "%s: found no requests, expected at least one",
                           where(derive));
    }
    int rc;
    if ((rc = derive_arrivals(log, derive, &workload, err)) < 0 ||
        (rc = derive_buckets(log, derive, &workload, err)) < 0) {
        goto fail;
    }
    if (summarise(log, false, &workload.input_tokens) < 0 ||
        summarise(log, true, &workload.output_tokens) < 0 || copy_texts(derive, &workload) < 0 ||
        med_grid_copy(derive->grid, &workload.grid) < 0) {
        rc = med_field_no_memory(err);
        goto fail;
    }
    *ret_workload = workload;
    return 0;
fail:
    med_workload_release(&workload);
    return rc;
}

int med_workload_from_log(const struct med_request_log *log, const struct med_grid *grid,
                          const char *name, const char *source_text, const char *source_licence,
                          struct med_workload *ret_workload, struct med_err *err)
{
    const struct med_derive derive = {.grid = grid,
                                      .name = name,
                                      .source_text = source_text,
                                      .source_licence = source_licence,
                                      .rate_per_s = (double)NAN};
    return med_workload_derive(log, &derive, ret_workload, err);
}
