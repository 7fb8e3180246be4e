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

/* One number of an edge list as text or JSON: NULL when edge `value` may follow `before` (0: it is
 * the first), else what was expected. */
const char *med_grid_edge_expected(double value, double before);

/* Reads input, output, input_mean and output_mean of a row into `cell` (not the share): the edges
 * are of the grid, the means inside the cell. */
int med_cell_read(const struct med_json_at *at, const struct med_grid *grid,
                  struct med_bucket *cell, struct med_err *err) MED_MUST_CHECK;

/* The arrival object of `at`. trace: where to put the path of a trace; NULL where the format has
 * none (plans). */
int med_arrival_read(const struct med_json_at *at, enum med_arrival *ret_arrival,
                     double *ret_burstiness, char **ret_trace, struct med_err *err) MED_MUST_CHECK;
void med_arrival_write(struct med_json_writer *w, enum med_arrival arrival, double burstiness,
                       const char *trace);
const char *med_arrival_name(enum med_arrival arrival); /* "gamma" */

/* med_request_log_read_file for an open stream; `name` is used in messages only. */
int med_request_log_read_stream(FILE *stream, const char *name, struct med_request_log *ret_log,
                                struct med_err *err) MED_MUST_CHECK;

/* What is derived from a log, and under which name. Strings are copied. */
struct med_derive {
    const struct med_grid *grid;
    const char *name, *source_text;
    const char *source_licence; /* NULL: not given */
    double rate_per_s;          /* scale the traffic to this rate; NAN: the log's own */
};

/* med_workload_from_log with a choice of rate.  Without one, a log of a single request or of no
 * duration is MED_E_INVALID, as it has no rate. */
int med_workload_derive(const struct med_request_log *log, const struct med_derive *derive,
                        struct med_workload *ret_workload, struct med_err *err) MED_MUST_CHECK;

#endif
