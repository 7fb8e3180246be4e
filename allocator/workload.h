/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The workload: what the traffic looks like, `medley-workload/1`.
 *
 * JSON {format, name, source{text, licence?, method?}, requests, rate_per_s,
 *  arrival{process: "poisson" | "gamma" | "trace", burstiness?, trace?},
 *  rate_over_time{interval_s, rate_per_s[]}?, input_edges[], output_edges[],
 *  input_tokens{mean,p50,p90,p99,max}?, output_tokens{...}?,
 *  buckets[{input, output, share, input_mean, output_mean}]}.
 * A bucket is named by its upper edges; it holds lower edge < size <= upper edge, the first one
 * also size >= 1.  Shares are > 0 and sum to 1 within 1e-6; buckets without requests are left out.
 * burstiness is the shape of the gamma distribution of gaps: CV^2 of the gaps = 1/burstiness, 1 is
 * Poisson (the meaning that vLLM's load generator gave the word).
 * owns: strings and arrays. thread: immutable after reading.
 */
#ifndef MED_ALLOCATOR_WORKLOAD_H
#define MED_ALLOCATOR_WORKLOAD_H

#include "base/json.h"

#include <stddef.h>
#include <stdint.h>

extern const double MED_EDGES_INPUT[]; /* Melange's edges, the default grid */
extern const size_t MED_EDGES_INPUT_COUNT;
extern const double MED_EDGES_OUTPUT[];
extern const size_t MED_EDGES_OUTPUT_COUNT;

/* Bucket edges, rising; sizes beyond the last are outside. */
struct med_grid {
    double *input_edges;
    size_t input_edge_count;
    double *output_edges;
    size_t output_edge_count;
};

/* Index of the cell row for a size: the first edge >= tokens, or -1 beyond the last. */
int med_grid_row(const double *edges, size_t edge_count, double tokens);
int med_grid_copy(const struct med_grid *from, struct med_grid *ret_to) MED_MUST_CHECK;
int med_grid_init_default(struct med_grid *grid) MED_MUST_CHECK;
void med_grid_release(struct med_grid *grid);

struct med_bucket {
    int input_row, output_row;      /* indices into the grid's edges */
    double share;                   /* of requests */
    double input_mean, output_mean; /* tokens, inside the cell */
};

enum med_arrival {
    MED_ARRIVAL_POISSON,
    MED_ARRIVAL_GAMMA,
    MED_ARRIVAL_TRACE
};

struct med_size_summary {
    double mean, p50, p90, p99, max; /* tokens; mean NAN: not given */
};

struct med_workload {
    char *name;
    char *source_text, *source_licence, *source_method; /* the last two may be NULL */
    int64_t requests;                                   /* that the figures come from */
    double rate_per_s;
    enum med_arrival arrival;
    double burstiness; /* gamma only; 1 otherwise */
    char *trace;       /* trace only: path of a request log */
    double interval_s; /* of rate_over_time; 0: not given */
    double *rates_per_s;
    size_t rate_count;
    struct med_grid grid;
    struct med_size_summary input_tokens, output_tokens;
    struct med_bucket *buckets;
    size_t bucket_count;
};

int med_workload_read_file(const char *path, struct med_workload *ret_workload,
                           struct med_err *err) MED_MUST_CHECK;
int med_workload_read(const struct med_json_at *root, struct med_workload *ret_workload,
                      struct med_err *err) MED_MUST_CHECK;
void med_workload_write(struct med_json_writer *w, const struct med_workload *workload);
void med_workload_release(struct med_workload *workload);

/* ---- request logs ---- */

struct med_request_row {
    double arrival_s;                    /* from the log's first request; not falling */
    int64_t input_tokens, output_tokens; /* >= 1 */
};

/* A log in memory. Formats by content: CSV with header arrival_s,input_tokens,output_tokens; CSV
 * with header TIMESTAMP,ContextTokens,GeneratedTokens (Azure); JSONL with timestamp (ms),
 * input_length, output_length.  A bad row is an error that names file, line, column and value.
 * Rows are sorted by arrival. */
struct med_request_log {
    struct med_request_row *rows;
    size_t count;
};

int med_request_log_read_file(const char *path, struct med_request_log *ret_log,
                              struct med_err *err) MED_MUST_CHECK;
void med_request_log_release(struct med_request_log *log);

/* Derives the figures. Requests outside the grid are an error that says how many and the largest
 * sizes. The name, source and licence strings are copied. */
int med_workload_from_log(const struct med_request_log *log, const struct med_grid *grid,
                          const char *name, const char *source_text, const char *source_licence,
                          struct med_workload *ret_workload, struct med_err *err) MED_MUST_CHECK;

#endif
