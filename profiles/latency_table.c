/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables of measured iterations (latency_table.h; docs/internals/latency-model.md).
 *
 * The knots are all rows and all columns that were measured, and a first row of 1 and a first column
 * of 0.  A cell that was not measured is filled along its row: on the line between its neighbours,
 * beyond them with the form's increments.  Then every cell becomes the mean of the greatest time of
 * the cells below it (fewer of both) and the least of those above it: times that rise already stay
 * as they are, and the others are levelled.  Filled cells are first put between the measured ones
 * around them, so that they never move a measured one.  Linear along both axes, a table is exact for what is
 * a + b*row + c*column + d*row*column, which the physical form is between its corners.
 *
 * Runs on any thread; no allocation, no I/O.
 */
#include "profiles/latency_table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A lowest measured column up to here covers what is below it: so short a context costs next to
 * nothing. */
static const double column_near = 128.0;
/* An iteration with less work takes at least this share of the measured one. */
static const double floor_share = 0.25;

double latency_corner(double a, double b, double corner)
{
    if (corner == 0.0) {
        return a > b ? a : b;
    }
    double apart = a - b;
    return 0.5 * (a + b + sqrt(apart * apart + 4.0 * corner * corner * a * b));
}

/* ---- knots ---- */

static int rising(const void *left, const void *right)
{
    double a = *(const double *)left;
    double b = *(const double *)right;
    return (a > b) - (a < b);
}

/*
 * The distinct values among `count`, and `first`, rising; of more than room, so many evenly by rank,
 * both ends among them. values has a place more than count.
 */
static int64_t knots_of(double *values, size_t count, double first, int64_t room, double *knots)
{
    size_t distinct = 0;
    values[count++] = first;
    qsort(values, count, sizeof *values, rising);
    for (size_t n = 0; n < count; n++) {
        if (distinct == 0 || values[distinct - 1] != values[n]) {
            values[distinct++] = values[n];
        }
    }
    size_t kept = distinct < (size_t)room ? distinct : (size_t)room;
    for (size_t n = 0; n < kept; n++) {
        knots[n] = kept == distinct ? values[n] : values[n * (distinct - 1) / (kept - 1)];
    }
    return (int64_t)kept;
}

/* The last knot that is not above the value; the first if all are. */
static int64_t place(const double *knots, int64_t count, double value)
{
    int64_t low = 0;
    int64_t high = count;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (knots[middle] <= value) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

static double *cell(struct med_latency_table *table, int64_t row, int64_t column)
{
    return &table->ms[row * MED_LATENCY_COLUMNS + column];
}

/* ---- building ---- */

enum {
    CELLS = MED_LATENCY_ROWS * MED_LATENCY_COLUMNS
};

/* What was measured at each cell: the mean where there are several. */
static void put_points(struct med_latency_table *table, const struct latency_point *points,
                       size_t count, bool *measured)
{
    int times[CELLS] = {0};
    for (int64_t i = 0; i < table->row_count; i++) {
        table->from[i] = INFINITY;
        table->to[i] = -1.0;
    }
    for (size_t n = 0; n < count; n++) {
        const struct latency_point *point = &points[n];
        int64_t i = place(table->rows, table->row_count, point->row);
        int64_t j = place(table->columns, table->column_count, point->column);
        if (table->rows[i] != point->row || table->columns[j] != point->column) {
            continue; /* thinned out */
        }
        int64_t at = i * MED_LATENCY_COLUMNS + j;
        table->ms[at] += (point->ms - table->ms[at]) / ++times[at];
        measured[at] = true;
        table->from[i] = fmin(table->from[i], point->column);
        table->to[i] = fmax(table->to[i], point->column);
    }
}

static double lowered(double ms, double less_ms)
{
    return fmax(ms - less_ms, ms * floor_share);
}

/* A cell of a measured row, from the measured ones of the row. */
static double fill_along(const struct med_latency_table *table, const bool *measured, int64_t i,
                         int64_t j, const struct med_latency *latency, latency_form form)
{
    const double *ms = &table->ms[i * MED_LATENCY_COLUMNS];
    const bool *known = &measured[i * MED_LATENCY_COLUMNS];
    int64_t before = j - 1;
    int64_t after = j + 1;
    while (before >= 0 && !known[before]) {
        before--;
    }
    while (after < table->column_count && !known[after]) {
        after++;
    }
    double row = table->rows[i];
    double column = table->columns[j];
    if (before < 0) {
        return lowered(ms[after],
                       form(latency, row, table->columns[after]) - form(latency, row, column));
    }
    if (after >= table->column_count) {
        return ms[before] + form(latency, row, column) - form(latency, row, table->columns[before]);
    }
    double part =
        (column - table->columns[before]) / (table->columns[after] - table->columns[before]);
    return ms[before] + part * (ms[after] - ms[before]);
}

static void fill(struct med_latency_table *table, const bool *measured,
                 const struct med_latency *latency, latency_form form)
{
    /* From the second row, which the first may have to be made of. */
    for (int64_t i = table->row_count - 1; i >= 0; i--) {
        for (int64_t j = 0; j < table->column_count; j++) {
            if (measured[i * MED_LATENCY_COLUMNS + j]) {
                continue;
            }
            double column = table->columns[j];
            if (table->to[i] >= 0.0) {
                *cell(table, i, j) = fill_along(table, measured, i, j, latency, form);
            } else {
                *cell(table, i, j) =
                    lowered(*cell(table, i + 1, j), form(latency, table->rows[i + 1], column) -
                                                        form(latency, table->rows[i], column));
            }
        }
    }
}

/* Greatest of the cells below and least of those above each, among the given ones. */
static void bounds(const struct med_latency_table *table, const bool *given, double *low,
                   double *high)
{
    int64_t width = MED_LATENCY_COLUMNS;
    for (int64_t i = 0; i < table->row_count; i++) {
        for (int64_t j = 0; j < table->column_count; j++) {
            int64_t at = i * width + j;
            double least = given == NULL || given[at] ? table->ms[at] : 0.0;
            least = i > 0 ? fmax(least, low[at - width]) : least;
            low[at] = j > 0 ? fmax(least, low[at - 1]) : least;
        }
    }
    for (int64_t i = table->row_count - 1; i >= 0; i--) {
        for (int64_t j = table->column_count - 1; j >= 0; j--) {
            int64_t at = i * width + j;
            double most = given == NULL || given[at] ? table->ms[at] : INFINITY;
            most = i + 1 < table->row_count ? fmin(most, high[at + width]) : most;
            high[at] = j + 1 < table->column_count ? fmin(most, high[at + 1]) : most;
        }
    }
}

static void level(struct med_latency_table *table, const bool *only)
{
    double low[CELLS];
    double high[CELLS];
    bounds(table, only, low, high);
    for (int64_t i = 0; i < table->row_count; i++) {
        for (int64_t j = 0; j < table->column_count; j++) {
            int64_t at = i * MED_LATENCY_COLUMNS + j;
            if (only == NULL || only[at]) {
                table->ms[at] = low[at] == high[at] ? low[at] : 0.5 * (low[at] + high[at]);
            }
        }
    }
    if (only == NULL) {
        return;
    }
    bounds(table, only, low, high);
    for (int64_t i = 0; i < table->row_count; i++) {
        for (int64_t j = 0; j < table->column_count; j++) {
            int64_t at = i * MED_LATENCY_COLUMNS + j;
            if (!only[at]) {
                table->ms[at] = fmin(fmax(table->ms[at], low[at]), high[at]);
            }
        }
    }
}

void latency_table_build(struct med_latency_table *table, double row_near,
                         const struct latency_point *points, size_t count, double *scratch,
                         const struct med_latency *latency, latency_form form)
{
    bool measured[CELLS] = {false};
    *table = (struct med_latency_table){.row_near = row_near};
    if (count == 0) {
        return;
    }
    for (size_t n = 0; n < count; n++) {
        scratch[n] = points[n].row;
    }
    table->row_count = knots_of(scratch, count, 1.0, MED_LATENCY_ROWS, table->rows);
    for (size_t n = 0; n < count; n++) {
        scratch[n] = points[n].column;
    }
    table->column_count = knots_of(scratch, count, 0.0, MED_LATENCY_COLUMNS, table->columns);
    put_points(table, points, count, measured);
    fill(table, measured, latency, form);
    level(table, measured);
    level(table, NULL);
}

/* ---- asking ---- */

static double between(const struct med_latency_table *table, int64_t i, int64_t j, double x,
                      double y)
{
    const double *lower = &table->ms[i * MED_LATENCY_COLUMNS + j];
    double ms = lower[0];
    if (y > 0.0) {
        ms += y * (lower[1] - lower[0]);
    }
    if (x > 0.0) {
        const double *upper = lower + MED_LATENCY_COLUMNS;
        double above = upper[0];
        if (y > 0.0) {
            above += y * (upper[1] - upper[0]);
        }
        ms += x * (above - ms);
    }
    return ms;
}

/* Index of the knot at or below the value, which is within them, and the part of the way to the next. */
static int64_t locate(const double *knots, int64_t count, double value, double *ret_part)
{
    int64_t at = place(knots, count, value);
    bool inside = at + 1 < count && value > knots[at];
    *ret_part = inside ? (value - knots[at]) / (knots[at + 1] - knots[at]) : 0.0;
    return at;
}

double latency_table_at(const struct med_latency_table *table, double row, double column,
                        const struct med_latency *latency, latency_form form)
{
    double x;
    double y;
    double row_in = fmin(row, table->rows[table->row_count - 1]);
    double column_in = fmax(0.0, fmin(column, table->columns[table->column_count - 1]));
    int64_t i = locate(table->rows, table->row_count, row_in, &x);
    int64_t j = locate(table->columns, table->column_count, column_in, &y);
    double ms = between(table, i, j, x, y);
    if (row_in == row && column_in == column) {
        return ms;
    }
    double beyond = form(latency, row, column) - form(latency, row_in, column_in);
    return fmax(ms + beyond, ms * floor_share);
}

double latency_table_slope(const struct med_latency_table *table, double row, double column,
                           const struct med_latency *latency, latency_form form, double *ret_until)
{
    int64_t j = place(table->columns, table->column_count, column);
    if (j + 1 == table->column_count) {
        *ret_until = INFINITY;
        return form(latency, row, column + 1.0) - form(latency, row, column);
    }
    double from = table->columns[j];
    double until = table->columns[j + 1];
    *ret_until = until;
    return (latency_table_at(table, row, until, latency, form) -
            latency_table_at(table, row, from, latency, form)) /
           (until - from);
}

static bool row_covers(const struct med_latency_table *table, int64_t i, double column)
{
    return column <= table->to[i] && (table->from[i] <= column_near || column >= table->from[i]);
}

bool latency_table_covers(const struct med_latency_table *table, double row, double column)
{
    double part;
    if (table->row_count == 0 || row > table->rows[table->row_count - 1]) {
        return false;
    }
    int64_t i = locate(table->rows, table->row_count, row, &part);
    bool below = row_covers(table, i, column);
    if (table->to[0] < 0.0 && i == 0) {
        /* Below the first measured row there is none to be between. */
        return table->rows[1] <= table->row_near && row_covers(table, 1, column);
    }
    return below && (part == 0.0 || row_covers(table, i + 1, column));
}
