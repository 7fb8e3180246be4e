/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The grid (see grid.h).  Coarse points in two levels; then halving.
 * thread: one at a time.
 */
#include "profiles/profiler/grid.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <math.h>
#include <string.h>

enum {
    CONTEXT_MIN = 64,
    PREFILL_MIN = 16,
    MARGIN = 56, /* tokens of a sequence that the repeats may take at least */
    VALUES_MAX = 48,
    AXES = 4
};

static const double ratio_min = 1.5;      /* neighbours that are closer are not halved */
static const double unknown_error = 0.04; /* of an interval about which nothing is known */

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- the coarse grid ------------------------------------------------------------------------ */

static bool is_equal(const struct med_step_grid_point *a, const struct med_step_grid_point *b)
{
    return a->prefill_tokens == b->prefill_tokens && a->prefill_context == b->prefill_context &&
           a->decode_sequences == b->decode_sequences && a->decode_context == b->decode_context;
}

static bool is_among(const struct med_step_grid_point *points, size_t count,
                     const struct med_step_grid_point *p)
{
    for (size_t i = 0; i < count; i++) {
        if (is_equal(&points[i], p))
            return true;
    }
    return false;
}

/* The longest context that so many decodes may have. */
static int64_t context_max(const struct med_engine_limits *l, int64_t sequences, int64_t prefill)
{
    int64_t room = l->kv_tokens - l->kv_tokens / 50 - prefill - l->block_tokens;
    int64_t each = sequences > 0 ? room / sequences - MARGIN : 0;
    return min64(each, l->model_len_max - MARGIN);
}

/* The longest prompt of which a token can be sampled. */
static int64_t prefill_max(const struct med_engine_limits *l)
{
    return min64(l->model_len_max - 1, l->kv_tokens - 2 * l->block_tokens);
}

static bool is_possible(const struct med_engine_limits *l, const struct med_step_grid_point *p)
{
    if (p->prefill_tokens + p->decode_sequences > l->batched_tokens_max ||
        p->prefill_tokens + p->decode_sequences < 1 || p->prefill_tokens < 0)
        return false;
    if (p->decode_sequences > l->sequences_max - (p->prefill_tokens > 0))
        return false;
    int64_t prefill = p->prefill_tokens + p->prefill_context;
    if (p->prefill_tokens > 0 && prefill > prefill_max(l))
        return false;
    return p->decode_sequences == 0 ||
           (p->decode_context >= 1 &&
            p->decode_context <= context_max(l, p->decode_sequences, prefill));
}

static void put(struct med_step_grid *g, int64_t prefill, int64_t prefill_context,
                int64_t sequences, int64_t context)
{
    const struct med_step_grid_point p = {.prefill_tokens = prefill,
                                          .prefill_context = prefill > 0 ? prefill_context : 0,
                                          .decode_sequences = sequences,
                                          .decode_context = sequences > 0 ? context : 0};
    if (is_possible(&g->limits, &p) && !is_among(g->coarse, g->coarse_count, &p) &&
        g->coarse_count < MED_GRID_POINTS_MAX)
        g->coarse[g->coarse_count++] = p;
}

/* first, first * ratio, ... and last. */
static size_t series(int64_t first, int64_t last, int64_t ratio, int64_t values[VALUES_MAX])
{
    size_t count = 0;
    for (int64_t v = first; v < last && count < VALUES_MAX - 1; v *= ratio)
        values[count++] = v;
    if (last >= first || count == 0)
        values[count++] = last;
    return count;
}

static void put_decodes(struct med_step_grid *g, int64_t sequence_ratio, int64_t context_ratio)
{
    const struct med_engine_limits *l = &g->limits;
    int64_t sequences[VALUES_MAX], contexts[VALUES_MAX];
    size_t count = series(1, l->sequences_max, sequence_ratio, sequences);
    for (size_t s = 0; s < count; s++) {
        int64_t longest = context_max(l, sequences[s], 0);
        size_t context_count =
            series(min64(CONTEXT_MIN, longest), longest, context_ratio, contexts);
        for (size_t c = 0; c < context_count; c++)
            put(g, 0, 0, sequences[s], contexts[c]);
    }
}

static void put_prefills(struct med_step_grid *g, int64_t ratio, int64_t context_ratio)
{
    const struct med_engine_limits *l = &g->limits;
    int64_t tokens[VALUES_MAX], contexts[VALUES_MAX];
    int64_t most = min64(l->batched_tokens_max, prefill_max(l));
    size_t count = series(min64(PREFILL_MIN, most), most, ratio, tokens);
    for (size_t t = 0; t < count; t++) {
        put(g, tokens[t], 0, 0, 0);
        int64_t longest = prefill_max(l) - tokens[t];
        size_t context_count = series(512, longest, context_ratio, contexts);
        for (size_t c = 0; c < context_count && longest >= 512; c++)
            put(g, tokens[t], contexts[c], 0, 0);
    }
}

static void put_mixed(struct med_step_grid *g, int64_t ratio, int64_t prefill_ratio,
                      int64_t context)
{
    const struct med_engine_limits *l = &g->limits;
    int64_t sequences[VALUES_MAX], tokens[VALUES_MAX];
    size_t count = series(1, l->sequences_max - 1, ratio, sequences);
    for (size_t s = 0; s < count && l->sequences_max > 1; s++) {
        int64_t most = min64(l->batched_tokens_max - sequences[s], l->model_len_max - 1);
        size_t token_count = series(min64(64, most), most, prefill_ratio, tokens);
        for (size_t t = 0; t < token_count; t++) {
            put(g, tokens[t], 0, sequences[s],
                min64(context, context_max(l, sequences[s], tokens[t])));
        }
    }
}

/* Products are computed in tiles of rows, with kernels chosen by their number, so what tokens take is a
 * staircase with its steps behind round numbers.  A line through round numbers alone, each the last
 * of its step, runs below it: both ends of each step are measured, by 64 tokens, from 512 on four
 * to a power of two. */
static void put_stairs(struct med_step_grid *g)
{
    int64_t width = 64, power = 512;
    for (int64_t tokens = width; tokens < g->limits.batched_tokens_max; tokens += width) {
        put(g, tokens, 0, 0, 0);
        put(g, tokens + 1, 0, 0, 0);
        if (tokens == power) {
            width = power / 4;
            power *= 2;
        }
    }
}

int med_step_grid_init(struct med_step_grid *grid, const struct med_engine_limits *limits,
                       double tolerance)
{
    *grid = (struct med_step_grid){.limits = *limits, .tolerance = tolerance};
    grid->coarse = med_calloc(MED_GRID_POINTS_MAX, sizeof grid->coarse[0]);
    grid->done = med_calloc(MED_GRID_POINTS_MAX, sizeof grid->done[0]);
    grid->ms = med_calloc(MED_GRID_POINTS_MAX, sizeof grid->ms[0]);
    if (!grid->coarse || !grid->done || !grid->ms) {
        med_step_grid_release(grid);
        return MED_E_NOMEM;
    }
    /* Corners and middles of everything; then finer, lines of decodes and prefills first. */
    put_decodes(grid, 16, 16);
    put_prefills(grid, 16, 1 << 20);
    put_mixed(grid, 16, 8, 1024);
    put_decodes(grid, 4, 4);
    put_prefills(grid, 4, 8);
    put_decodes(grid, 2, 4);
    put_prefills(grid, 2, 1 << 20);
    put_stairs(grid);
    put_mixed(grid, 4, 4, 1024);
    put_mixed(grid, 16, 8, 256);
    return 0;
}

void med_step_grid_release(struct med_step_grid *grid)
{
    med_free(grid->coarse);
    med_free(grid->done);
    med_free(grid->ms);
    *grid = (struct med_step_grid){0};
}

/* ---- halving -------------------------------------------------------------------------------- */

static int64_t *axis_of(struct med_step_grid_point *p, int axis)
{
    int64_t *const axes[AXES] = {&p->prefill_tokens, &p->prefill_context, &p->decode_sequences,
                                 &p->decode_context};
    return axes[axis];
}

static int64_t value_of(const struct med_step_grid_point *p, int axis)
{
    struct med_step_grid_point copy = *p;
    return *axis_of(&copy, axis);
}

/* Of one kind (decode, prefill or mixed), and different on this axis alone. */
static bool is_on_line(const struct med_step_grid_point *a, const struct med_step_grid_point *b,
                       int axis)
{
    for (int i = 0; i < AXES; i++) {
        if (i != axis && value_of(a, i) != value_of(b, i))
            return false;
    }
    return (a->prefill_tokens > 0) == (b->prefill_tokens > 0) &&
           (a->decode_sequences > 0) == (b->decode_sequences > 0);
}

/* The nearest measured point on the axis, below (-1) or above (1); done_count: none. */
static size_t neighbour(const struct med_step_grid *g, size_t at, int axis, int side)
{
    size_t best = g->done_count;
    int64_t own = value_of(&g->done[at], axis);
    for (size_t i = 0; i < g->done_count; i++) {
        int64_t value = value_of(&g->done[i], axis);
        if (i == at || isnan(g->ms[i]) || (value - own) * side <= 0 ||
            !is_on_line(&g->done[at], &g->done[i], axis))
            continue;
        if (best == g->done_count || (value_of(&g->done[best], axis) - value) * side > 0)
            best = i;
    }
    return best;
}

/* How far the straight line between its neighbours is off at a point; NAN: it has only one. */
static double error_at(const struct med_step_grid *g, size_t at, int axis)
{
    size_t low = neighbour(g, at, axis, -1), high = neighbour(g, at, axis, 1);
    if (low == g->done_count || high == g->done_count)
        return NAN;
    double x0 = (double)value_of(&g->done[low], axis), x1 = (double)value_of(&g->done[high], axis);
    double share = ((double)value_of(&g->done[at], axis) - x0) / (x1 - x0);
    double line = g->ms[low] + share * (g->ms[high] - g->ms[low]);
    return fabs(line / g->ms[at] - 1);
}

enum kind {
    DECODE,
    PREFILL,
    MIXED,
    KINDS
};

/* Of the points. Most iterations of a server are decodes alone; those of both are many kinds, each of
 * them rare. */
static const double shares[KINDS] = {0.5, 0.25, 0.25};

static enum kind kind_of(const struct med_step_grid_point *p)
{
    return p->prefill_tokens == 0 ? DECODE : p->decode_sequences == 0 ? PREFILL : MIXED;
}

/* Of a kind: how much less than its share there is. */
static void weigh(const struct med_step_grid *g, double ret_weights[KINDS])
{
    double counts[KINDS] = {1, 1, 1};
    for (size_t i = 0; i < g->done_count; i++)
        counts[kind_of(&g->done[i])]++;
    for (int k = 0; k < KINDS; k++)
        ret_weights[k] = shares[k] * (double)g->done_count / counts[k];
}

/* What halving the interval above `at` is worth: the errors at its ends fall with the square of its width. */
static double worth(const struct med_step_grid *g, size_t at, size_t above, int axis)
{
    double own = error_at(g, at, axis), other = error_at(g, above, axis);
    double error = isnan(own) ? other : isnan(other) ? own : fmax(own, other);
    if (isnan(error))
        error = kind_of(&g->done[at]) == MIXED ? 0 : unknown_error;
    return error / 4;
}

static bool halve(const struct med_step_grid *g, size_t at, size_t above, int axis,
                  struct med_step_grid_point *ret_point)
{
    double low = (double)value_of(&g->done[at], axis);
    double high = (double)value_of(&g->done[above], axis);
    if (low < 1 || high / low < ratio_min)
        return false;
    *ret_point = g->done[at];
    *axis_of(ret_point, axis) = (int64_t)llround(sqrt(low * high));
    return is_possible(&g->limits, ret_point) && !is_among(g->done, g->done_count, ret_point);
}

static bool refine(const struct med_step_grid *g, struct med_step_grid_point *ret_point)
{
    double weights[KINDS], best = 0;
    bool found = false;
    weigh(g, weights);
    for (size_t at = 0; at < g->done_count; at++) {
        for (int axis = 0; axis < AXES && !isnan(g->ms[at]); axis++) {
            struct med_step_grid_point middle;
            size_t above = neighbour(g, at, axis, 1);
            if (above == g->done_count)
                continue;
            double w = worth(g, at, above, axis);
            double weighed = w * weights[kind_of(&g->done[at])];
            if (w > g->tolerance / 4 && weighed > best && halve(g, at, above, axis, &middle)) {
                best = weighed;
                *ret_point = middle;
                found = true;
            }
        }
    }
    return found;
}

bool med_step_grid_next(struct med_step_grid *grid, struct med_step_grid_point *ret_point)
{
    if (grid->done_count == MED_GRID_POINTS_MAX)
        return false;
    while (grid->coarse_next < grid->coarse_count) {
        *ret_point = grid->coarse[grid->coarse_next];
        if (!is_among(grid->done, grid->done_count, ret_point))
            return true;
        grid->coarse_next++;
    }
    return refine(grid, ret_point);
}

void med_step_grid_add(struct med_step_grid *grid, const struct med_step_grid_point *point,
                       double ms)
{
    MED_ASSERT(isnan(ms) || ms > 0);
    if (grid->done_count == MED_GRID_POINTS_MAX)
        return;
    grid->done[grid->done_count] = *point;
    grid->ms[grid->done_count++] = ms;
}

size_t med_step_grid_coarse_left(const struct med_step_grid *grid)
{
    size_t left = 0;
    for (size_t i = grid->coarse_next; i < grid->coarse_count; i++)
        left += !is_among(grid->done, grid->done_count, &grid->coarse[i]);
    return left;
}
