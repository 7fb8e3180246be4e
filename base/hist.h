/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two ways to keep a distribution.
 *
 * med_hist: fixed upper bounds, for Prometheus: counts per bucket, sum, count.
 * med_sample: all values, for exact percentiles in reports (grows by doubling).
 * Non-finite values are never added (MED_ASSERT): callers leave undefined latencies out.
 * thread: the owner's.
 */
#ifndef MED_BASE_HIST_H
#define MED_BASE_HIST_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

enum {
    MED_HIST_BOUNDS_MAX = 48
};

struct med_hist {
    double bounds[MED_HIST_BOUNDS_MAX];       /* strictly rising upper bounds, +Inf implied */
    uint64_t counts[MED_HIST_BOUNDS_MAX + 1]; /* not cumulative; last is above all bounds */
    size_t bound_count;
    uint64_t count;
    double sum;
};

extern const double MED_HIST_TTFT_S[]; /* API bounds in seconds */
extern const size_t MED_HIST_TTFT_S_COUNT;
extern const double MED_HIST_TPOT_S[]; /* for TPOT and ITL */
extern const size_t MED_HIST_TPOT_S_COUNT;

/* bounds need not include `extra` (the SLO values), which are merged in exactly and sorted. */
void med_hist_init(struct med_hist *hist, const double *bounds, size_t bound_count,
                   const double *extra, size_t extra_count);
void med_hist_add(struct med_hist *hist, double value);
void med_hist_add_many(struct med_hist *hist, double value, uint64_t times);

struct med_sample {
    double *values;
    size_t count;
    size_t capacity;
    double sum;
};

void med_sample_init(struct med_sample *sample);
void med_sample_release(struct med_sample *sample);
int med_sample_add(struct med_sample *sample, double value) MED_MUST_CHECK;
double med_sample_mean(const struct med_sample *sample); /* NAN when empty */
double med_sample_std(const struct med_sample *sample);  /* population; NAN when empty */
/* Sorts in place. q in [0,1], linear interpolation as numpy's default; NAN when empty. */
double med_sample_quantile(struct med_sample *sample, double q);

#endif
