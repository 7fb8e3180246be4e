/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Distributions: fixed buckets for Prometheus and whole samples for reports.
 *
 * A histogram allocates nothing; a sample doubles its array and sorts it when a quantile is asked
 * for (once: a sorted array is recognised).  thread: the owner's.
 */
#include "base/hist.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

const double MED_HIST_TTFT_S[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75,
                                  1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640};
const size_t MED_HIST_TTFT_S_COUNT = sizeof MED_HIST_TTFT_S / sizeof MED_HIST_TTFT_S[0];
const double MED_HIST_TPOT_S[] = {.001, .0025, .005, .0075, .01, .0125, .015, .02, .025, .03, .04,
                                  .05,  .075,  .1,   .12,   .15, .2,    .3,   .5,  1,    2.5};
const size_t MED_HIST_TPOT_S_COUNT = sizeof MED_HIST_TPOT_S / sizeof MED_HIST_TPOT_S[0];

/* Puts one bound at its place; an equal one is there already. */
static void bound_insert(struct med_hist *hist, double bound)
{
    MED_ASSERT(isfinite(bound));
    size_t at = 0;
    while (at < hist->bound_count && hist->bounds[at] < bound)
        at++;
    if (at < hist->bound_count && hist->bounds[at] == bound)
        return;
    MED_ASSERT(hist->bound_count < MED_HIST_BOUNDS_MAX);
    for (size_t i = hist->bound_count; i > at; i--)
        hist->bounds[i] = hist->bounds[i - 1];
    hist->bounds[at] = bound;
    hist->bound_count++;
}

void med_hist_init(struct med_hist *hist, const double *bounds, size_t bound_count,
                   const double *extra, size_t extra_count)
{
    *hist = (struct med_hist){0};
    for (size_t i = 0; i < bound_count; i++)
        bound_insert(hist, bounds[i]);
    for (size_t i = 0; i < extra_count; i++)
        bound_insert(hist, extra[i]);
}

void med_hist_add(struct med_hist *hist, double value)
{
    med_hist_add_many(hist, value, 1);
}

void med_hist_add_many(struct med_hist *hist, double value, uint64_t times)
{
    MED_ASSERT(isfinite(value));
    /* The first bound that is not below the value: `le` includes its bound. */
    size_t low = 0;
    size_t high = hist->bound_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (hist->bounds[middle] < value) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    hist->counts[low] += times;
    hist->count += times;
    hist->sum += value * (double)times;
}

void med_sample_init(struct med_sample *sample)
{
    *sample = (struct med_sample){0};
}

void med_sample_release(struct med_sample *sample)
{
    med_free(sample->values);
    *sample = (struct med_sample){0};
}

int med_sample_add(struct med_sample *sample, double value)
{
    MED_ASSERT(isfinite(value));
    if (sample->count == sample->capacity) {
        size_t capacity = sample->capacity ? sample->capacity * 2 : 64;
        double *grown = med_realloc_array(sample->values, capacity, sizeof *grown);
        if (!grown)
            return MED_E_NOMEM;
        sample->values = grown;
        sample->capacity = capacity;
    }
    sample->values[sample->count++] = value;
    sample->sum += value;
    return 0;
}

double med_sample_mean(const struct med_sample *sample)
{
    return sample->count ? sample->sum / (double)sample->count : NAN;
}

double med_sample_std(const struct med_sample *sample)
{
    if (sample->count == 0)
        return NAN;
    double mean = med_sample_mean(sample);
    double squares = 0;
    for (size_t i = 0; i < sample->count; i++)
        squares += (sample->values[i] - mean) * (sample->values[i] - mean);
    return sqrt(squares / (double)sample->count);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static bool is_sorted(const struct med_sample *sample)
{
    for (size_t i = 1; i < sample->count; i++) {
        if (sample->values[i - 1] > sample->values[i])
            return false;
    }
    return true;
}

double med_sample_quantile(struct med_sample *sample, double q)
{
    MED_ASSERT(q >= 0);
    MED_ASSERT(q <= 1);
    if (sample->count == 0)
        return NAN;
    if (!is_sorted(sample))
        qsort(sample->values, sample->count, sizeof sample->values[0], compare_doubles);
    double place = q * (double)(sample->count - 1);
    size_t below = (size_t)floor(place);
    size_t above = below + 1 < sample->count ? below + 1 : below;
    double part = place - (double)below;
    double a = sample->values[below];
    double b = sample->values[above];
    /* From the nearer end, as numpy does, so that the last digits agree too. */
    return part < 0.5 ? a + (b - a) * part : b - (b - a) * (1 - part);
}
