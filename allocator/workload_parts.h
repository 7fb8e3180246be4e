/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parts of the workload format that a plan's summary of its workload shares.
 *
 * owns: results belong to the caller. thread: any. errors: as in workload.h.
 */
#ifndef MED_ALLOCATOR_WORKLOAD_PARTS_H
#define MED_ALLOCATOR_WORKLOAD_PARTS_H

#include "allocator/workload.h"

#include <stdio.h>

/* Reads input_edges and output_edges of `at` into a zeroed grid; on failure the caller releases
 * the grid. */
int med_grid_read(const struct med_json_at *at, struct med_grid *grid,
                  struct med_err *err) MED_MUST_CHECK;
void med_grid_write(struct med_json_writer *w, const struct med_grid *grid);

/* Edges as text: "25,100,250". what: names them in messages. The caller frees *ret_edges. */
int med_grid_parse_edges(const char *text, const char *what, double **ret_edges, size_t *ret_count,
                         struct med_err *err) MED_MUST_CHECK;

/* Reads input, output, input_mean and output_mean of a row into `cell` (not the share): the edges
 * are of the grid, the means inside the cell. */
int med_cell_read(const struct med_json_at *at, const struct med_grid *grid,
                  struct med_bucket *cell, struct med_err *err) MED_MUST_CHECK;

/* The arrival object of `root`. trace: where to put the path of a trace; NULL where the format has
 * none (plans). */
int med_arrival_read(const struct med_json_at *root, enum med_arrival *ret_arrival,
                     double *ret_burstiness, char **ret_trace, struct med_err *err) MED_MUST_CHECK;
void med_arrival_write(struct med_json_writer *w, enum med_arrival arrival, double burstiness,
                       const char *trace);

/* An open log. The prefix is what was read of the stream already, to see what it is. */
struct med_log_input {
    FILE *stream;
    const char *name; /* for messages */
    const char *prefix;
    size_t prefix_bytes; /* at most MED_LIMIT_LOG_LINE_BYTES */
};
int med_request_log_read_input(const struct med_log_input *input, struct med_request_log *ret_log,
                               struct med_err *err) MED_MUST_CHECK;

/* What is derived from a log, and under which name. Strings are copied. */
struct med_derive {
    const struct med_grid *grid;
    const char *where; /* file, for messages; NULL: source_text */
    const char *name, *source_text;
    const char *source_licence; /* NULL: not given */
    double rate_per_s;          /* scale the traffic to this rate; NAN: the log's own */
};

/* med_workload_from_log with a choice of rate.  Without one, a log of a single request or of no
 * duration is MED_E_INVALID, as it has no rate. */
int med_workload_derive(const struct med_request_log *log, const struct med_derive *derive,
                        struct med_workload *ret_workload, struct med_err *err) MED_MUST_CHECK;

#endif
