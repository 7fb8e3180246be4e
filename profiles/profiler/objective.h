/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Objectives of a measurement: those of `medley plan`, and percentiles besides:
 * "ttft.p95=2s,tpot.mean=80ms".
 *
 * Statistic: mean, p50, p90, p95 or p99.  Each metric once.  What a serving row says of itself is
 * enough to judge it.
 * thread: any; pure.
 */
#ifndef MED_PROFILES_PROFILER_OBJECTIVE_H
#define MED_PROFILES_PROFILER_OBJECTIVE_H

#include "allocator/slo.h"
#include "profiles/profile.h"

enum med_statistic {
    MED_STATISTIC_MEAN,
    MED_STATISTIC_P50,
    MED_STATISTIC_P90,
    MED_STATISTIC_P95,
    MED_STATISTIC_P99
};

struct med_objective {
    struct med_slo slo; /* metric and limit */
    enum med_statistic statistic;
};

struct med_objectives {
    struct med_objective items[MED_LIMIT_SLOS];
    size_t count;
};

/* errors: MED_E_INVALID with a sentence. */
int med_objectives_parse(const char *text, struct med_objectives *ret_objectives,
                         struct med_err *err) MED_MUST_CHECK;

/* The share of requests that may lie above the value: 0.05 of p95; NAN of a mean. */
double med_statistic_tail(enum med_statistic statistic);

/* "ttft.p95=2000ms" */
void med_objective_format(const struct med_objective *objective, char *text, size_t bytes);

/* What the row says of it, ms; NAN: nothing. */
double med_objective_value(const struct med_objective *objective,
                           const struct med_serving_row *row);
/* No failures, not saturated, not cut short, every objective told and kept. */
bool med_objectives_meet(const struct med_objectives *objectives,
                         const struct med_serving_row *row);
/* The worst value over its limit; INFINITY where one is not told, or the row cannot keep any. */
double med_objectives_strain(const struct med_objectives *objectives,
                             const struct med_serving_row *row);

#endif
