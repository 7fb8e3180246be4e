/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measures iterations of a worker, point by point, into a journal.
 *
 * How long a point is measured: repeats come in groups until the relative standard error of the median
 * (1.2533 x the deviation of the middle, by the median absolute one, / sqrt(n)) is below the
 * precision, or there are repeats_max of them, or they took ten times the usual time of a point.
 * p50 and p99 are nearest ranks of all repeats: outliers stay in p99 and hardly move p50.
 *
 * thread: main. owns: nothing outside the call.
 * source: docs/internals/profiler.md
 */
#ifndef MED_PROFILES_PROFILER_STEPS_H
#define MED_PROFILES_PROFILER_STEPS_H

#include "profiles/profiler/journal.h"
#include "profiles/profiler/options.h"

struct med_steps_outcome {
    size_t measured;   /* in this run */
    size_t before;     /* found in the journal */
    size_t impossible; /* that the worker could not run */
    bool out_of_time, interrupted;
    bool complete; /* nothing is worth measuring any more */
    double seconds;
};

/* errors: the worker's, the journal's; what was measured until then is in the journal.  An interrupt is
 * no error. */
int med_steps_run(struct med_profiled *worker, struct med_journal *journal,
                  const struct med_profiler_options *options, struct med_steps_outcome *ret_outcome,
                  struct med_err *err) MED_MUST_CHECK;

/* Seconds by the roofs of the device, with their usual efficiency: a guess before anything is known. */
double med_steps_guess_s(const struct med_profiled_facts *facts,
                         const struct med_step_grid_point *point);
void med_steps_limits(const struct med_profiled_facts *facts, struct med_engine_limits *ret_limits);

/* Of samples, sorted by the call: nearest ranks, and the relative standard error of the median. */
struct med_steps_spread {
    double p50, p99, error;
};
struct med_steps_spread med_steps_spread_of(double *samples, size_t count);

#endif
