/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which iterations to measure next: a coarse geometric grid first, then where interpolation errs most.
 *
 * A point is one kind of iteration.  The coarse grid spans what the engine's limits allow, corners and
 * middles first, so that a short budget still covers all of it, and both ends of each step of the
 * staircase that products make of tokens.  Then each point is predicted from
 * its neighbours on an axis (straight line); the interval beside the worst prediction is halved
 * (geometrically), until no prediction is worse than the tolerance.  Deterministic: the same times
 * give the same points in the same order.
 *
 * thread: one at a time. Pure; owns its arrays.  source: docs/internals/profiler.md
 */
#ifndef MED_PROFILES_PROFILER_GRID_H
#define MED_PROFILES_PROFILER_GRID_H

#include "base/err.h"
#include "profiles/profile.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MED_GRID_POINTS_MAX = 2000
};

/* One prefill after prefill_context cached tokens beside decodes of decode_context tokens each. */
struct med_step_grid_point {
    int64_t prefill_tokens, prefill_context, decode_sequences, decode_context;
};

struct med_step_grid {
    struct med_engine_limits limits;
    double tolerance;                   /* relative */
    struct med_step_grid_point *coarse; // [coarse_count], in the order in which they are worth most
    size_t coarse_count, coarse_next;
    struct med_step_grid_point *done; // [done_count]
    double *ms;                       // [done_count]; NAN: could not be measured
    size_t done_count;
};

int med_step_grid_init(struct med_step_grid *grid, const struct med_engine_limits *limits,
                       double tolerance) MED_MUST_CHECK;
void med_step_grid_release(struct med_step_grid *grid);

/* false: nothing is worth measuring any more. */
bool med_step_grid_next(struct med_step_grid *grid, struct med_step_grid_point *ret_point);
/* Of a point that was measured; ms NAN: it cannot be. */
void med_step_grid_add(struct med_step_grid *grid, const struct med_step_grid_point *point,
                       double ms);
/* Points of the coarse grid that are left. */
size_t med_step_grid_coarse_left(const struct med_step_grid *grid);

#endif
