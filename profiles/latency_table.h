/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables of measured iterations, and the physical form that continues them. Inside the latency
 * model. thread: any.
 */
#ifndef MED_PROFILES_LATENCY_TABLE_H
#define MED_PROFILES_LATENCY_TABLE_H

#include "profiles/latency.h"

#include <stddef.h>

/* A measured iteration at its place in a table. */
struct latency_point {
    double row, column, ms;
};

/* The form at a place of a table: of decodes alone, or of a prefill chunk alone. */
typedef double (*latency_form)(const struct med_latency *latency, double row, double column);

/* Larger of a and b with a rounded corner; struct med_step_model. */
double latency_corner(double a, double b, double corner);

/* Sorts the points. No points: an empty table. row_near: struct med_latency_table.
 * errors: MED_E_NOMEM. */
int latency_table_build(struct med_latency_table *table, double row_near,
                        struct latency_point *points, size_t count,
                        const struct med_latency *latency, latency_form form) MED_MUST_CHECK;
/* The time at a place; beyond the table the form's increments. */
double latency_table_at(const struct med_latency_table *table, double row, double column,
                        const struct med_latency *latency, latency_form form);
/* At the row and from this column on: time per column, and where that changes (INFINITY: never). */
double latency_table_slope(const struct med_latency_table *table, double row, double column,
                           const struct med_latency *latency, latency_form form, double *ret_until);
bool latency_table_covers(const struct med_latency_table *table, double row, double column);

#endif
