/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables of measured iterations (latency_table.h; docs/internals/latency-model.md).
 *
 * They are built on a grid of all rows and all columns that were measured, with a first row of 1 and a
 * first column of 0.  A cell that was not measured is filled along its row: on the line between its
 * neighbours, beyond them with the form's increments.  Then every cell becomes the mean of the greatest
 * time of the cells below it (fewer of both) and the least of those above it: times that rise
 * already stay as they are, and the others are levelled.  Filled cells are first put between the
 * measured ones around them, so that they never move a measured one.  Of each row, the knots are kept
 * where it was measured or bends.
 *
 * Linear along both axes, a table is exact for what is a + b*row + c*column + d*row*column, which the
 * physical form is between its corners.
 *
 * Runs on any thread; allocates only while it builds, no I/O.
 */
#include "profiles/latency_table.h"

#include "base/alloc.h"

#include <math.h>
#include <stdlib.h>

/* A lowest measured column up to here covers what is below it: so short a context costs next to
 * nothing. */
static const double column_near = 128.0;
/* An iteration with less work takes at least this share of the measured one. */
static const double floor_share = 0.25;
/* A cell this near to a line, relatively, is on it. */
static const double straight = 1e-12;

double latency_corner(double a, double b, double corner)
{
    if (corner == 0.0) {
        return a > b ? a : b;
    }
    double apart = a - b;
    return 0.5 * (a + b + sqrt(apart * apart + 4.0 * corner * corner * a * b));
}

enum {
    POINTS_MAX = MED_LATENCY_KNOTS / 2
};

/* All rows by all columns, while a table is built. */
struct grid {
    double *rows, *columns;
    int64_t row_count, column_count;
    double *ms, *low, *high; // [row_count * column_count]
    bool *measured;          // likewise
    double *from, *to;       // [row_count] struct med_latency_table
};

/* The last knot that is not above the value; the first if all are. Without branches that depend on
 * the value: iterations come in no order that a processor could learn. */
static int64_t place(const double *knots, int64_t count, double value)
{
    int64_t low = 0;
    while (count > 1) {
        int64_t half = count / 2;
        low = knots[low + half] <= value ? low + half : low;
        count -= half;
    }
    return low;
}

/* ---- points ---- */

static int by_place(const void *left, const void *right)
{
    const struct latency_point *a = left;
    const struct latency_point *b = right;
    if (a->row != b->row) {
        return a->row > b->row ? 1 : -1;
    }
    if (a->column != b->column) {
        return a->column > b->column ? 1 : -1;
    }
    return (a->ms > b->ms) - (a->ms < b->ms);
}

/* Of points in order: one for each place, the mean of several. */
static size_t unite(struct latency_point *points, size_t count)
{
    size_t kept = 0;
    double times = 0.0;
    for (size_t n = 0; n < count; n++) {
        struct latency_point *last = kept > 0 ? &points[kept - 1] : NULL;
        if (last != NULL && last->row == points[n].row && last->column == points[n].column) {
            times += 1.0;
            last->ms += (points[n].ms - last->ms) / times;
        } else {
            points[kept++] = points[n];
            times = 1.0;
        }
    }
    return kept;
}

static size_t rows_of(const struct latency_point *points, size_t count)
{
    size_t rows = count > 0;
    for (size_t n = 1; n < count; n++) {
        rows += points[n].row != points[n - 1].row;
    }
    return rows;
}

/* So many rows, evenly by rank, both ends among them. */
static size_t thin_rows(struct latency_point *points, size_t count, size_t room)
{
    size_t rows = rows_of(points, count);
    size_t row = 0;
    size_t next = 0; /* of those kept, the next one */
    size_t kept = 0;
    bool keep = false;
    if (rows <= room) {
        return count;
    }
    for (size_t n = 0; n < count; n++) {
        if (n == 0 || points[n].row != points[n - 1].row) {
            keep = row++ == next * (rows - 1) / (room - 1);
            next += keep;
        }
        if (keep) {
            points[kept++] = points[n];
        }
    }
    return kept;
}

/* So many points, evenly by rank. */
static size_t thin_points(struct latency_point *points, size_t count, size_t room)
{
    if (count <= room) {
        return count;
    }
    for (size_t n = 0; n < room; n++) {
        points[n] = points[n * (count - 1) / (room - 1)];
    }
    return room;
}

/* ---- the grid ---- */

static int rising(const void *left, const void *right)
{
    double a = *(const double *)left;
    double b = *(const double *)right;
    return (a > b) - (a < b);
}

static int64_t unique(double *values, size_t count)
{
    size_t distinct = 0;
    qsort(values, count, sizeof *values, rising);
    for (size_t n = 0; n < count; n++) {
        if (distinct == 0 || values[distinct - 1] != values[n]) {
            values[distinct++] = values[n];
        }
    }
    return (int64_t)distinct;
}

static void grid_release(struct grid *grid)
{
    med_free(grid->rows);
    med_free(grid->columns);
    med_free(grid->ms);
    med_free(grid->low);
    med_free(grid->high);
    med_free(grid->measured);
    med_free(grid->from);
    med_free(grid->to);
}

static int grid_init(struct grid *grid, const struct latency_point *points, size_t count)
{
    *grid = (struct grid){.rows = med_calloc(count + 1, sizeof(double)),
                          .columns = med_calloc(count + 1, sizeof(double))};
    if (grid->rows == NULL || grid->columns == NULL) {
        grid_release(grid);
        return MED_E_NOMEM;
    }
    grid->rows[count] = 1.0;
    grid->columns[count] = 0.0;
    for (size_t n = 0; n < count; n++) {
        grid->rows[n] = points[n].row;
        grid->columns[n] = points[n].column;
    }
    grid->row_count = unique(grid->rows, count + 1);
    grid->column_count = unique(grid->columns, count + 1);
    size_t cells = (size_t)(grid->row_count * grid->column_count);
    grid->ms = med_calloc(cells, sizeof(double));
    grid->low = med_calloc(cells, sizeof(double));
    grid->high = med_calloc(cells, sizeof(double));
    grid->measured = med_calloc(cells, sizeof(bool));
    grid->from = med_calloc((size_t)grid->row_count, sizeof(double));
    grid->to = med_calloc((size_t)grid->row_count, sizeof(double));
    if (grid->ms == NULL || grid->low == NULL || grid->high == NULL || grid->measured == NULL ||
        grid->from == NULL || grid->to == NULL) {
        grid_release(grid);
        return MED_E_NOMEM;
    }
    for (int64_t i = 0; i < grid->row_count; i++) {
        grid->from[i] = INFINITY;
        grid->to[i] = -1.0;
    }
    for (size_t n = 0; n < count; n++) {
        int64_t i = place(grid->rows, grid->row_count, points[n].row);
        int64_t j = place(grid->columns, grid->column_count, points[n].column);
        grid->ms[i * grid->column_count + j] = points[n].ms;
        grid->measured[i * grid->column_count + j] = true;
        grid->from[i] = fmin(grid->from[i], points[n].column);
        grid->to[i] = fmax(grid->to[i], points[n].column);
    }
    return 0;
}

static double lowered(double ms, double less_ms)
{
    return fmax(ms - less_ms, ms * floor_share);
}

/* A row that was measured, between and beyond its measured cells. */
static void fill_row(struct grid *grid, int64_t i, const struct med_latency *latency,
                     latency_form form)
{
    double *ms = &grid->ms[i * grid->column_count];
    const bool *known = &grid->measured[i * grid->column_count];
    const double *columns = grid->columns;
    double row = grid->rows[i];
    int64_t before = -1;
    int64_t after = 0;
    for (int64_t j = 0; j < grid->column_count; j++) {
        if (known[j]) {
            before = j;
            continue;
        }
        for (after = after > j ? after : j; after < grid->column_count && !known[after];) {
            after++;
        }
        if (before < 0) {
            ms[j] = lowered(ms[after],
                            form(latency, row, columns[after]) - form(latency, row, columns[j]));
        } else if (after >= grid->column_count) {
            ms[j] =
                ms[before] + form(latency, row, columns[j]) - form(latency, row, columns[before]);
        } else {
            double part = (columns[j] - columns[before]) / (columns[after] - columns[before]);
            ms[j] = ms[before] + part * (ms[after] - ms[before]);
        }
    }
}

static void fill(struct grid *grid, const struct med_latency *latency, latency_form form)
{
    /* From the last row on: the first may have to be made of the second. */
    for (int64_t i = grid->row_count - 1; i >= 0; i--) {
        if (grid->to[i] >= 0.0) {
            fill_row(grid, i, latency, form);
            continue;
        }
        double *ms = &grid->ms[i * grid->column_count];
        for (int64_t j = 0; j < grid->column_count; j++) {
            double column = grid->columns[j];
            double less =
                form(latency, grid->rows[i + 1], column) - form(latency, grid->rows[i], column);
            ms[j] = lowered(ms[grid->column_count + j], less);
        }
    }
}

/* ---- levelling ---- */

/* Greatest of the cells below and least of those above each, among the measured ones or all. */
static void find_bounds(struct grid *grid, bool all)
{
    int64_t width = grid->column_count;
    for (int64_t i = 0; i < grid->row_count; i++) {
        for (int64_t j = 0; j < width; j++) {
            int64_t at = i * width + j;
            double most = all || grid->measured[at] ? grid->ms[at] : 0.0;
            most = i > 0 ? fmax(most, grid->low[at - width]) : most;
            grid->low[at] = j > 0 ? fmax(most, grid->low[at - 1]) : most;
        }
    }
    for (int64_t i = grid->row_count - 1; i >= 0; i--) {
        for (int64_t j = width - 1; j >= 0; j--) {
            int64_t at = i * width + j;
            double least = all || grid->measured[at] ? grid->ms[at] : INFINITY;
            least = i + 1 < grid->row_count ? fmin(least, grid->high[at + width]) : least;
            grid->high[at] = j + 1 < width ? fmin(least, grid->high[at + 1]) : least;
        }
    }
}

static void level_cells(struct grid *grid, bool all)
{
    find_bounds(grid, all);
    for (int64_t at = 0; at < grid->row_count * grid->column_count; at++) {
        if ((all || grid->measured[at]) && grid->low[at] != grid->high[at]) {
            grid->ms[at] = 0.5 * (grid->low[at] + grid->high[at]);
        }
    }
}

static void level(struct grid *grid)
{
    level_cells(grid, false);
    find_bounds(grid, false);
    for (int64_t at = 0; at < grid->row_count * grid->column_count; at++) {
        if (!grid->measured[at]) {
            grid->ms[at] = fmin(fmax(grid->ms[at], grid->low[at]), grid->high[at]);
        }
    }
    level_cells(grid, true);
}

/* ---- knots ---- */

/* Is a cell of a row on the line between the knot before it and the cell after it? */
static bool is_straight(const struct grid *grid, int64_t i, int64_t before, int64_t j)
{
    const double *ms = &grid->ms[i * grid->column_count];
    const double *columns = grid->columns;
    double part = (columns[j] - columns[before]) / (columns[j + 1] - columns[before]);
    double line = ms[before] + part * (ms[j + 1] - ms[before]);
    return fabs(line - ms[j]) <= straight * ms[j];
}

/* False: more knots than a table holds. */
static bool keep_knots(const struct grid *grid, struct med_latency_table *table)
{
    int64_t knots = 0;
    for (int64_t i = 0; i < grid->row_count; i++) {
        int64_t before = 0;
        table->rows[i] = grid->rows[i];
        table->from[i] = grid->from[i];
        table->to[i] = grid->to[i];
        table->begin[i] = knots;
        for (int64_t j = 0; j < grid->column_count; j++) {
            int64_t at = i * grid->column_count + j;
            bool end = j == 0 || j + 1 == grid->column_count;
            if (!end && !grid->measured[at] && is_straight(grid, i, before, j)) {
                continue;
            }
            if (knots == MED_LATENCY_KNOTS) {
                return false;
            }
            table->columns[knots] = grid->columns[j];
            table->ms[knots++] = grid->ms[at];
            before = j;
        }
    }
    table->row_count = grid->row_count;
    table->begin[grid->row_count] = knots;
    table->column_max = grid->columns[grid->column_count - 1];
    return true;
}

int latency_table_build(struct med_latency_table *table, double row_near,
                        struct latency_point *points, size_t count,
                        const struct med_latency *latency, latency_form form)
{
    bool done = count == 0;
    *table = (struct med_latency_table){.row_near = row_near};
    qsort(points, count, sizeof *points, by_place);
    count = thin_rows(points, unite(points, count), MED_LATENCY_ROWS - 1);
    for (size_t room = POINTS_MAX; !done; room /= 2) {
        struct grid grid;
        count = thin_points(points, count, room);
        int rc = grid_init(&grid, points, count);
        if (rc < 0) {
            return rc;
        }
        fill(&grid, latency, form);
        level(&grid);
        /* Few points need few knots at most: this ends. */
        done = keep_knots(&grid, table);
        grid_release(&grid);
    }
    return 0;
}

/* ---- asking ---- */

/* Index of the knot at or below the value, which is within them, and the part of the way to the next. */
static int64_t locate(const double *knots, int64_t count, double value, double *ret_part)
{
    int64_t at = place(knots, count, value);
    bool inside = at + 1 < count && value > knots[at];
    *ret_part = inside ? (value - knots[at]) / (knots[at + 1] - knots[at]) : 0.0;
    return at;
}

static double row_ms(const struct med_latency_table *table, int64_t i, double column)
{
    double part;
    int64_t begin = table->begin[i];
    int64_t at = begin + locate(&table->columns[begin], table->begin[i + 1] - begin, column, &part);
    double ms = table->ms[at];
    return part > 0.0 ? ms + part * (table->ms[at + 1] - ms) : ms;
}

double latency_table_at(const struct med_latency_table *table, double row, double column,
                        const struct med_latency *latency, latency_form form)
{
    double part;
    double last = table->rows[table->row_count - 1];
    double row_in = row < last ? row : last;
    double column_in = column > 0.0 ? column : 0.0;
    column_in = column_in < table->column_max ? column_in : table->column_max;
    int64_t i = locate(table->rows, table->row_count, row_in, &part);
    double ms = row_ms(table, i, column_in);
    if (part > 0.0) {
        ms += part * (row_ms(table, i + 1, column_in) - ms);
    }
    if (row_in == row && column_in == column) {
        return ms;
    }
    double beyond = form(latency, row, column) - form(latency, row_in, column_in);
    return fmax(ms + beyond, ms * floor_share);
}

double latency_table_slope(const struct med_latency_table *table, double row, double column,
                           const struct med_latency *latency, latency_form form, double *ret_until)
{
    double part;
    if (column >= table->column_max) {
        *ret_until = INFINITY;
        return form(latency, row, column + 1.0) - form(latency, row, column);
    }
    double last = table->rows[table->row_count - 1];
    int64_t i = locate(table->rows, table->row_count, row < last ? row : last, &part);
    double from = 0.0;
    double until = table->column_max;
    for (int64_t k = i; k <= i + (part > 0.0); k++) {
        int64_t begin = table->begin[k];
        int64_t at = begin + place(&table->columns[begin], table->begin[k + 1] - begin, column);
        from = fmax(from, table->columns[at]);
        until = fmin(until, table->columns[at + 1]);
    }
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
    if (table->to[0] < 0.0 && i == 0) {
        /* Below the first measured row there is none to be between. */
        return table->rows[1] <= table->row_near && row_covers(table, 1, column);
    }
    return row_covers(table, i, column) && (part == 0.0 || row_covers(table, i + 1, column));
}
