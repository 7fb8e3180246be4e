/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The planner: workload + profiles + catalogue + objectives -> plan.
 *
 * Profiles must be of one model.  Only rows of the catalogue whose GPU some profile serves take
 * part.  The plan owns copies of the profiles.  Infeasible is an answer (status, reasons), no
 * error.
 * thread: one at a time (the solver). errors: MED_E_INVALID with a sentence, MED_E_SOLVER.
 */
#ifndef MED_ALLOCATOR_PLANNER_H
#define MED_ALLOCATOR_PLANNER_H

#include "allocator/plan.h"
#include "profiles/catalogue.h"

struct med_planner_input {
    const struct med_workload *workload;
    const struct med_profile *profiles; /* [profile_count] */
    size_t profile_count;
    const struct med_catalogue *catalogue;
    struct med_slos slos;
    double rate_per_s;      /* 0: the workload's */
    bool upper;             /* price buckets at their upper edges */
    bool spot;              /* spot prices where known */
    double utilization_max; /* (0, 1] */
    /* [catalogue->instance_count] rent exactly so many of each, whether they carry the rate or not;
     * NULL: the cheapest mix that does. */
    const int64_t *counts;
    double time_limit_s;
};

int med_planner_run(const struct med_planner_input *input, struct med_plan *ret_plan,
                    struct med_err *err) MED_MUST_CHECK;

/* What of a catalogue may be rented; strings are borrowed. */
struct med_planner_choice {
    const char *const *instances; /* only these; count 0: all */
    size_t instance_count;
    const char *const *excluded;
    size_t excluded_count;
    const char *const *clouds; /* only these; count 0: all */
    size_t cloud_count;
    const char *const *caps; /* "INSTANCE=N" */
    size_t cap_count;
};

/* Drops rows and sets caps in place. A name that no row has is an error that lists near ones. */
int med_planner_choose(struct med_catalogue *catalogue, const struct med_planner_choice *choice,
                       struct med_err *err) MED_MUST_CHECK;

#endif
