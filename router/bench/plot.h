/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lines over numbers as an SVG picture: panels one below the other, each with axes, units, grid and
 * legend.  Points that are not numbers are left out.
 * errors: MED_E_NOMEM, MED_E_LIMIT of the buffer.
 * thread: any; pure. owns: nothing.
 */
#ifndef MED_ROUTER_BENCH_PLOT_H
#define MED_ROUTER_BENCH_PLOT_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    MED_PLOT_LINES_MAX = 6
};

struct med_plot_line {
    const char *name;
    const double *x, *y;
    size_t count;
    const char *const *labels; /* of points; NULL: none */
};

struct med_plot_panel {
    const char *title, *x_title, *y_title; /* titles name the unit */
    bool log_x, log_y;                     /* numbers that are not above 0 are left out then */
    struct med_plot_line lines[MED_PLOT_LINES_MAX];
    size_t line_count;
};

int med_plot_write(struct med_buf *out, const char *title, const struct med_plot_panel *panels,
                   size_t panel_count) MED_MUST_CHECK;

#endif
