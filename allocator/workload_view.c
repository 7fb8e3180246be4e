/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints the shape of a workload.
 *
 * A heat map cell is shaded by the square root of its share over the largest share, so that small
 * cells still show; zero stays blank.  Few columns also carry their share as text; many columns are
 * shades only.  A rate series longer than a line is averaged into as many columns as fit.
 * Everything goes to a buffer whose first failure is kept, so that no line can be half checked.
 * Runs on any thread.  It decides nothing about the terminal: the program says whether to colour.
 */
#include "allocator/workload_view.h"

#include "allocator/workload_parts.h"
#include "base/limits.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    TEXT_COLUMNS = 80,
    LABEL_COLUMNS = 9,
    WIDE_CELLS_MAX = 10, /* cells with a percentage: 9 + 10 * 9 columns */
    SERIES_COLUMNS = 60,
    SHADES = 5,
};

/* From blank to full; the colours are those of the 256-colour palette, dark to bright. */
static const char *const shades[SHADES] = {" ", "░", "▒", "▓", "█"};
static const char *const colours[SHADES] = {"", "\033[38;5;24m", "\033[38;5;31m", "\033[38;5;38m",
                                            "\033[38;5;220m"};
static const char *const bars[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};

struct view {
    struct med_buf *out;
    bool colour;
    int rc;
};

static void put(struct view *view, const char *fmt, ...) MED_PRINTF(2, 3);

static void put(struct view *view, const char *fmt, ...)
{
    if (view->rc < 0) {
        return;
    }
    va_list args;
    va_start(args, fmt);
    view->rc = med_buf_vprintf(view->out, fmt, args);
    va_end(args);
}

/* Characters of UTF-8 text: one column each for what is printed here. */
static size_t columns_of(const char *text, size_t bytes)
{
    size_t columns = 0;
    for (size_t i = 0; i < bytes; i++) {
        columns += ((unsigned char)text[i] & 0xc0) != 0x80;
    }
    return columns;
}

/* "  label     text", broken at blanks. */
static void put_text(struct view *view, const char *label, const char *text)
{
    const size_t indent = 12;
    put(view, "  %-10s", label);
    size_t column = indent;
    while (*text != '\0') {
        text += strspn(text, " \n\t");
        size_t bytes = strcspn(text, " \n\t");
        size_t columns = columns_of(text, bytes);
        if (bytes == 0) {
            break;
        }
        if (column > indent && column + 1 + columns > TEXT_COLUMNS) {
            put(view, "\n%*s", (int)indent, "");
            column = indent;
        }
        put(view, "%s%.*s", column > indent ? " " : "", (int)bytes, text);
        column += columns + (column > indent ? 1 : 0);
        text += bytes;
    }
    put(view, "\n");
}

static void put_arrival(struct view *view, const struct med_workload *workload)
{
    switch (workload->arrival) {
    case MED_ARRIVAL_POISSON:
        put(view, "  arrivals  Poisson\n");
        break;
    case MED_ARRIVAL_GAMMA:
        put(view, "  arrivals  gamma, burstiness %.3g (1 is Poisson, less is burstier)\n",
            workload->burstiness);
        break;
    case MED_ARRIVAL_TRACE:
        put_text(view, "arrivals", "as in the trace");
        put_text(view, "trace", workload->trace);
        break;
    }
}

static void put_summary(struct view *view, const char *label,
                        const struct med_size_summary *summary)
{
    if (!isnan(summary->mean)) {
        put(view, "  %-10s%9.1f%9.0f%9.0f%9.0f%9.0f\n", label, summary->mean, summary->p50,
            summary->p90, summary->p99, summary->max);
    }
}

static void put_series(struct view *view, const struct med_workload *workload)
{
    size_t count = workload->rate_count;
    size_t columns = count < SERIES_COLUMNS ? count : SERIES_COLUMNS;
    if (count == 0) {
        return;
    }
    double least = workload->rates_per_s[0];
    double most = least;
    for (size_t i = 0; i < count; i++) {
        least = fmin(least, workload->rates_per_s[i]);
        most = fmax(most, workload->rates_per_s[i]);
    }
    put(view, "\n  Requests/s in %zu windows of %g s: least %.3g, most %.3g\n  ", count,
        workload->interval_s, least, most);
    for (size_t column = 0; column < columns; column++) {
        size_t begin = column * count / columns;
        size_t end = (column + 1) * count / columns;
        double mean = 0;
        for (size_t i = begin; i < end; i++) {
            mean += workload->rates_per_s[i] / (double)(end - begin);
        }
        size_t bar = most > 0 ? (size_t)(mean / most * 7.999) : 0;
        put(view, "%s", bars[bar < 8 ? bar : 7]);
    }
    put(view, "\n");
}

/* ---- the heat map ---- */

struct heat {
    double shares[MED_LIMIT_EDGES][MED_LIMIT_EDGES];
    double share_max;
    size_t rows, columns;
    int cell_columns; /* 9: with text; 2 or 1: shades only */
};

static void heat_init(struct heat *heat, const struct med_workload *workload)
{
    *heat = (struct heat){.rows = workload->grid.input_edge_count,
                          .columns = workload->grid.output_edge_count};
    for (size_t i = 0; i < workload->bucket_count; i++) {
        const struct med_bucket *bucket = &workload->buckets[i];
        heat->shares[bucket->input_row][bucket->output_row] = bucket->share;
        heat->share_max = fmax(heat->share_max, bucket->share);
    }
    heat->cell_columns = heat->columns <= WIDE_CELLS_MAX                     ? 9
                         : LABEL_COLUMNS + 2 * heat->columns <= TEXT_COLUMNS ? 2
                                                                             : 1;
}

static size_t shade_of(const struct heat *heat, double share)
{
    if (!(share > 0)) {
        return 0;
    }
    size_t shade = 1 + (size_t)(sqrt(share / heat->share_max) * (SHADES - 1));
    return shade < SHADES ? shade : SHADES - 1;
}

static void put_cell(struct view *view, const struct heat *heat, double share)
{
    size_t shade = shade_of(heat, share);
    bool colour = view->colour && shade > 0;
    int blocks = heat->cell_columns == 9 ? 2 : heat->cell_columns;
    put(view, "%s%s", heat->cell_columns == 9 ? " " : "", colour ? colours[shade] : "");
    for (int i = 0; i < blocks; i++) {
        put(view, "%s", shades[shade]);
    }
    put(view, "%s", colour ? "\033[0m" : "");
    if (heat->cell_columns < 9) {
        return;
    }
    if (shade == 0) {
        put(view, "      ");
    } else if (share < 0.0005) {
        put(view, " <0.1%%");
    } else {
        put(view, "%5.1f%%", 100 * share);
    }
}

static void put_edge(struct view *view, double edge, int columns)
{
    char text[32];
    (void)snprintf(text, sizeof text, "≤%.7g", edge);
    /* "≤" is three bytes and one column. */
    put(view, "%*s", columns + 2, text);
}

static double row_share(const struct heat *heat, size_t row)
{
    double share = 0;
    for (size_t column = 0; column < heat->columns; column++) {
        share += heat->shares[row][column];
    }
    return share;
}

/* Columns to print: none after the last used one, unless the row's total follows. */
static size_t used_columns(const struct heat *heat, size_t row)
{
    size_t used = heat->columns;
    while (heat->cell_columns == 9 && used > 0 && heat->shares[row][used - 1] == 0) {
        used--;
    }
    return used;
}

static void put_heat(struct view *view, const struct med_workload *workload)
{
    struct heat heat;
    heat_init(&heat, workload);
    const struct med_grid *grid = &workload->grid;
    put(view, "\n  Share of requests by size in tokens: input down, output across\n%*s",
        LABEL_COLUMNS, "");
    if (heat.cell_columns == 9) {
        for (size_t column = 0; column < heat.columns; column++) {
            put_edge(view, grid->output_edges[column], 9);
        }
    } else {
        put(view, "%g to %g in %zu columns", grid->output_edges[0],
            grid->output_edges[heat.columns - 1], heat.columns);
    }
    put(view, "\n");
    for (size_t row = 0; row < heat.rows; row++) {
        put_edge(view, grid->input_edges[row], LABEL_COLUMNS);
        if (heat.cell_columns < 9) {
            put(view, " ");
        }
        for (size_t column = 0; column < used_columns(&heat, row); column++) {
            put_cell(view, &heat, heat.shares[row][column]);
        }
        if (heat.cell_columns < 9 && row_share(&heat, row) > 0) {
            put(view, " %5.1f%%", 100 * row_share(&heat, row));
        }
        put(view, "\n");
    }
}

int med_workload_print(struct med_buf *out, const struct med_workload *workload, bool colour)
{
    struct view view = {.out = out, .colour = colour};
    put(&view, "Workload %s\n", workload->name);
    put_text(&view, "source", workload->source_text);
    if (workload->source_licence != NULL) {
        put_text(&view, "licence", workload->source_licence);
    }
    if (workload->source_method != NULL) {
        put_text(&view, "method", workload->source_method);
    }
    put(&view, "  requests  %lld\n", (long long)workload->requests);
    put(&view, "  rate      %.4g requests/s\n", workload->rate_per_s);
    put_arrival(&view, workload);
    if (!isnan(workload->input_tokens.mean) || !isnan(workload->output_tokens.mean)) {
        put(&view, "\n  %-10s%9s%9s%9s%9s%9s\n", "tokens", "mean", "p50", "p90", "p99", "max");
    }
    put_summary(&view, "input", &workload->input_tokens);
    put_summary(&view, "output", &workload->output_tokens);
    put_series(&view, workload);
    put_heat(&view, workload);
    return view.rc;
}
