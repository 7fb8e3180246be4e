/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small SVG writer for the pictures of a sweep.
 *
 * Linear axes begin at zero and end at a round number with about five steps; logarithmic ones run
 * over the data with ticks at 1, 2 and 5 of each decade (fewer when there are many decades).  Colours
 * differ in lightness too, for readers who do not see hues.
 * thread: the caller's; pure.
 */
#include "router/bench/plot.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

enum {
    WIDTH = 760,
    PANEL_HEIGHT = 330,
    HEAD_HEIGHT = 40,
    LEFT = 78,
    RIGHT = 150, /* the legend stands there */
    TOP = 34,
    BOTTOM = 52,
    TICKS_MAX = 24
};

static const char *const colours[MED_PLOT_LINES_MAX] = {"#1b6ca8", "#e07b00", "#2b8a3e",
                                                        "#a61e4d", "#6741d9", "#495057"};

struct svg {
    struct med_buf *buf;
    int rc;
};

struct axis {
    bool log;
    double low, high; /* of the data, rounded; logarithms if log */
    double ticks[TICKS_MAX];
    size_t tick_count;
    double from, to; /* where they lie in the picture */
};

static void put(struct svg *s, const char *fmt, ...) MED_PRINTF(2, 3);

static void put(struct svg *s, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (s->rc >= 0)
        s->rc = med_buf_vprintf(s->buf, fmt, args);
    va_end(args);
}

/* Text of an element: what XML gives a meaning is written as a reference. */
static void put_escaped(struct svg *s, const char *text)
{
    for (; *text; text++) {
        const char *reference = *text == '<'   ? "&lt;"
                                : *text == '>' ? "&gt;"
                                : *text == '&' ? "&amp;"
                                : *text == '"' ? "&quot;"
                                               : NULL;
        if (reference) {
            put(s, "%s", reference);
        } else if ((unsigned char)*text >= ' ') {
            put(s, "%c", *text);
        }
    }
}

static bool is_shown(const struct med_plot_panel *panel, double x, double y)
{
    return isfinite(x) && isfinite(y) && (!panel->log_x || x > 0) && (!panel->log_y || y > 0);
}

/* ---- axes ---- */

static void add_tick(struct axis *axis, double value)
{
    if (axis->tick_count < TICKS_MAX)
        axis->ticks[axis->tick_count++] = value;
}

static void make_linear(struct axis *axis, double high)
{
    double rough = (high > 0 ? high : 1) / 5;
    double decade = pow(10, floor(log10(rough)));
    double unit = rough / decade;
    double step = (unit <= 1 ? 1 : unit <= 2 ? 2 : unit <= 5 ? 5 : 10) * decade;
    size_t steps = (size_t)ceil((high > 0 ? high : 1) / step - 1e-9);
    axis->low = 0;
    axis->high = step * (double)steps;
    for (size_t i = 0; i <= steps; i++)
        add_tick(axis, step * (double)i);
}

static void make_log(struct axis *axis, double low, double high)
{
    if (high < low * 1.5) { // one number, or nearly
        low /= 1.5;
        high *= 1.5;
    }
    double span = log10(high / low);
    axis->low = log10(low) - 0.03 * span;
    axis->high = log10(high) + 0.03 * span;
    static const double parts[] = {1, 2, 5};
    size_t part_count = span > 3.5 ? 1 : 3;
    int last = (int)floor(axis->high);
    for (int decade = (int)floor(axis->low); decade <= last; decade++) {
        for (size_t i = 0; i < part_count; i++) {
            double value = parts[i] * pow(10, decade);
            if (log10(value) >= axis->low && log10(value) <= axis->high)
                add_tick(axis, value);
        }
    }
}

static void make_axes(const struct med_plot_panel *panel, struct axis *x, struct axis *y)
{
    double lows[2] = {INFINITY, INFINITY}, highs[2] = {0, 0};
    for (size_t i = 0; i < panel->line_count; i++) {
        const struct med_plot_line *line = &panel->lines[i];
        for (size_t k = 0; k < line->count; k++) {
            if (!is_shown(panel, line->x[k], line->y[k]))
                continue;
            lows[0] = fmin(lows[0], line->x[k]);
            highs[0] = fmax(highs[0], line->x[k]);
            lows[1] = fmin(lows[1], line->y[k]);
            highs[1] = fmax(highs[1], line->y[k]);
        }
    }
    struct axis *axes[2] = {x, y};
    const bool logs[2] = {panel->log_x, panel->log_y};
    for (size_t i = 0; i < 2; i++) {
        axes[i]->log = logs[i];
        if (logs[i]) {
            make_log(axes[i], isfinite(lows[i]) ? lows[i] : 1, isfinite(lows[i]) ? highs[i] : 10);
        } else {
            make_linear(axes[i], highs[i]);
        }
    }
}

static double place(const struct axis *axis, double value)
{
    double v = axis->log ? log10(value) : value;
    return axis->from + (v - axis->low) / (axis->high - axis->low) * (axis->to - axis->from);
}

/* 1500 -> "1.5k" */
static void format_tick(char text[24], double value)
{
    if (value >= 1e6) {
        (void)snprintf(text, 24, "%gM", value / 1e6);
    } else if (value >= 1e4) {
        (void)snprintf(text, 24, "%gk", value / 1e3);
    } else {
        (void)snprintf(text, 24, "%g", value);
    }
}

/* ---- one panel ---- */

static void put_frame(struct svg *s, const struct med_plot_panel *panel, const struct axis *x,
                      const struct axis *y)
{
    char text[24];
    for (size_t i = 0; i < y->tick_count; i++) {
        double at = place(y, y->ticks[i]);
        format_tick(text, y->ticks[i]);
        put(s, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"grid\"/>\n", x->from,
            at, x->to, at);
        put(s, "<text x=\"%.1f\" y=\"%.1f\" class=\"tick\" text-anchor=\"end\">%s</text>\n",
            x->from - 8, at + 4, text);
    }
    for (size_t i = 0; i < x->tick_count; i++) {
        double at = place(x, x->ticks[i]);
        format_tick(text, x->ticks[i]);
        put(s, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"grid\"/>\n", at,
            y->from, at, y->to);
        put(s, "<text x=\"%.1f\" y=\"%.1f\" class=\"tick\" text-anchor=\"middle\">%s</text>\n", at,
            y->from + 18, text);
    }
    put(s, "<path d=\"M%.1f %.1fV%.1fH%.1f\" class=\"axis\"/>\n", x->from, y->to, y->from, x->to);
    put(s, "<text x=\"%.1f\" y=\"%.1f\" class=\"panel\">", x->from, y->to - 14);
    put_escaped(s, panel->title);
    put(s, "</text>\n<text x=\"%.1f\" y=\"%.1f\" class=\"title\" text-anchor=\"middle\">",
        (x->from + x->to) / 2, y->from + 40);
    put_escaped(s, panel->x_title);
    put(s,
        "</text>\n<text transform=\"translate(20 %.1f) rotate(-90)\" class=\"title\" "
        "text-anchor=\"middle\">",
        (y->from + y->to) / 2);
    put_escaped(s, panel->y_title);
    put(s, "</text>\n");
}

static void put_line(struct svg *s, const struct med_plot_panel *panel, size_t index,
                     const struct axis *x, const struct axis *y)
{
    const struct med_plot_line *line = &panel->lines[index];
    size_t shown = 0;
    for (size_t k = 0; k < line->count; k++) {
        if (!is_shown(panel, line->x[k], line->y[k]))
            continue;
        put(s, "%s%.1f,%.1f", shown++ ? " " : "<polyline points=\"", place(x, line->x[k]),
            place(y, line->y[k]));
    }
    if (shown == 0)
        return;
    put(s, "\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n", colours[index]);
    for (size_t k = 0; k < line->count; k++) {
        if (!is_shown(panel, line->x[k], line->y[k]))
            continue;
        double px = place(x, line->x[k]), py = place(y, line->y[k]);
        put(s, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", px, py, colours[index]);
        if (line->labels) {
            put(s, "<text x=\"%.1f\" y=\"%.1f\" class=\"label\" text-anchor=\"end\">", px - 5,
                py - 5);
            put_escaped(s, line->labels[k]);
            put(s, "</text>\n");
        }
    }
}

static void put_panel(struct svg *s, const struct med_plot_panel *panel, double top)
{
    struct axis x = {.from = LEFT, .to = WIDTH - RIGHT};
    struct axis y = {.from = top + PANEL_HEIGHT - BOTTOM, .to = top + TOP};
    make_axes(panel, &x, &y);
    put_frame(s, panel, &x, &y);
    for (size_t i = 0; i < panel->line_count; i++) {
        double at = y.to + 10 + 22 * (double)i;
        put_line(s, panel, i, &x, &y);
        put(s,
            "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" "
            "stroke-width=\"2\"/>\n<text x=\"%.1f\" y=\"%.1f\" class=\"tick\">",
            x.to + 16, at, x.to + 38, at, colours[i], x.to + 44, at + 4);
        put_escaped(s, panel->lines[i].name);
        put(s, "</text>\n");
    }
}

int med_plot_write(struct med_buf *out, const char *title, const struct med_plot_panel *panels,
                   size_t panel_count)
{
    struct svg s = {.buf = out};
    size_t height = HEAD_HEIGHT + PANEL_HEIGHT * panel_count;
    put(&s,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%zu\" "
        "viewBox=\"0 0 %d %zu\" font-family=\"sans-serif\">\n"
        "<style>.grid{stroke:#e3e6ea}.axis{stroke:#343a40;fill:none}.tick{font-size:12px;"
        "fill:#343a40}.label{font-size:10px;fill:#6c757d}.title{font-size:13px;fill:#212529}"
        ".panel{font-size:14px;font-weight:600;fill:#212529}.head{font-size:16px;"
        "font-weight:600;fill:#212529}</style>\n"
        "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n"
        "<text x=\"%d\" y=\"26\" class=\"head\">",
        WIDTH, height, WIDTH, height, LEFT);
    put_escaped(&s, title);
    put(&s, "</text>\n");
    for (size_t i = 0; i < panel_count; i++)
        put_panel(&s, &panels[i], HEAD_HEIGHT + PANEL_HEIGHT * (double)i);
    put(&s, "</svg>\n");
    return s.rc;
}
