/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop of a measurement of serving points, see serving.h.
 * thread: the caller's.
 */
#include "profiles/profiler/serving.h"

#include <math.h>

enum {
    REQUESTS_MIN = 100,
    ABOVE_TAIL = 10,
    ALONE_REQUESTS = 4,
    SETTLE_TRIES = 8,
    FAILURES_MAX = 3 /* sizes in a row that gave no answer at all */
};
static const double settled = 2.0; /* TTFT over the idle one */
static const double cool_alone = 4.0;
static const double size_tolerance = 0.06; /* of a row that is matched to a size */

int64_t med_serving_requests(const struct med_objectives *objectives)
{
    double most = REQUESTS_MIN;
    for (size_t i = 0; i < objectives->count; i++) {
        double tail = med_statistic_tail(objectives->items[i].statistic);
        if (!isnan(tail))
            most = fmax(most, ABOVE_TAIL / tail);
    }
    return (int64_t)ceil(most);
}

static struct med_serving_ask ask_for(const struct med_serving_config *config,
                                      const struct med_search *search, size_t size, double rate)
{
    const struct med_search_size *s = &search->sizes[size];
    double alone = med_search_alone_s(search, size);
    return (struct med_serving_ask){
        .size = size,
        .input_tokens = fmax(1, round(s->input_tokens)),
        .output_tokens = fmax(1, round(s->output_tokens)),
        .rate_per_s = rate,
        .requests = rate > 0 ? config->requests : ALONE_REQUESTS,
        .warm_s = rate > 0 ? med_search_warm_s(search, size) : 0,
        .cool_s = rate > 0 ? cool_alone * alone : 0,
        .objectives = config->objectives,
    };
}

static int settle(const struct med_serving_config *config, const struct med_search *search,
                  size_t size, struct med_err *err)
{
    struct med_serving_ask ask = ask_for(config, search, size, 0);
    ask.requests = 1;
    for (int i = 0; i < SETTLE_TRIES; i++) {
        struct med_point point;
        int rc = config->measure(config->measure_arg, &ask, &point, err);
        if (rc < 0)
            return rc;
        if (point.row.ttft_ms.mean <= 1e3 * settled * search->sizes[size].idle_ttft_s)
            return 0;
    }
    return 0; /* what it is now is what it is */
}

static enum med_serving_verdict verdict_of(const struct med_serving_config *config,
                                           const struct med_point *point)
{
    if (point->measured == point->failed)
        return MED_SERVING_FAILED;
    return med_objectives_meet(config->objectives, &point->row) ? MED_SERVING_MEETS
                                                                : MED_SERVING_BREAKS;
}

static void tell_search(struct med_search *search, const struct med_search_step *step,
                        const struct med_point *point, enum med_serving_verdict verdict)
{
    const struct med_serving_row *row = &point->row;
    if (step->rate_per_s > 0) {
        const struct med_search_outcome outcome = {
            .rate_per_s = step->rate_per_s,
            .meets = verdict == MED_SERVING_MEETS,
            .saturated = row->saturated,
            .throughput_per_s = row->throughput_per_s,
        };
        med_search_take(search, step->size, &outcome);
    } else if (verdict == MED_SERVING_FAILED) {
        search->sizes[step->size].stopped = true;
    } else {
        med_search_take_idle(search, step->size, row->ttft_ms.mean / 1e3, row->tpot_ms.mean / 1e3,
                             verdict == MED_SERVING_MEETS);
    }
}

int med_serving_run(const struct med_serving_config *config, struct med_search *search,
                    struct med_err *err)
{
    double start_s = config->now_s(config->now_arg);
    struct med_search_step step;
    int failures = 0;
    for (;;) {
        double left_s = config->seconds - (config->now_s(config->now_arg) - start_s);
        if (!med_search_next(search, left_s, &step))
            return 0;
        struct med_serving_ask ask = ask_for(config, search, step.size, step.rate_per_s);
        struct med_point point;
        int rc = config->measure(config->measure_arg, &ask, &point, err);
        if (rc < 0)
            return rc;
        enum med_serving_verdict verdict = verdict_of(config, &point);
        tell_search(search, &step, &point, verdict);
        rc = config->on_point(config->point_arg, &step, &point, verdict);
        if (rc < 0)
            return rc;
        failures = verdict == MED_SERVING_FAILED ? failures + 1 : 0;
        if (failures == FAILURES_MAX) {
            return med_err_set(err, MED_E_IO,
                               "the server answered none of the requests of %d points in a row: %s",
                               failures, point.failure);
        }
        if (step.rate_per_s > 0 && (point.row.cut_short || point.row.saturated)) {
            rc = settle(config, search, step.size, err);
            if (rc < 0)
                return rc;
        }
    }
}

/* ---- going on ---- */

static bool is_near(double a, double b)
{
    return fabs(a - b) <= fmax(2, size_tolerance * b);
}

/* The nearest size; search->count: none is near. */
static size_t find_size(const struct med_search *search, const struct med_serving_row *row)
{
    size_t best = search->count;
    double distance = INFINITY;
    for (size_t i = 0; i < search->count; i++) {
        const struct med_search_size *s = &search->sizes[i];
        double d = fabs(row->input_tokens - s->input_tokens) / s->input_tokens +
                   fabs(row->output_tokens - s->output_tokens) / s->output_tokens;
        if (is_near(row->input_tokens, s->input_tokens) && d < distance) {
            best = i;
            distance = d;
        }
    }
    return best;
}

size_t med_serving_resume(struct med_search *search, const struct med_objectives *objectives,
                          const struct med_serving_row *rows, size_t count)
{
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        const struct med_serving_row *row = &rows[i];
        size_t size = find_size(search, row);
        if (size == search->count)
            continue;
        bool meets = med_objectives_meet(objectives, row);
        if (!isnan(row->concurrency)) {
            if (row->concurrency != 1 || isnan(row->ttft_ms.mean))
                continue;
            med_search_take_idle(search, size, row->ttft_ms.mean / 1e3, row->tpot_ms.mean / 1e3,
                                 meets);
        } else if (!isnan(row->rate_per_s)) {
            if (isnan(search->sizes[size].idle_ttft_s))
                continue;
            const struct med_search_outcome outcome = {
                .rate_per_s = row->rate_per_s,
                .meets = meets,
                .saturated = row->saturated,
                .throughput_per_s = row->throughput_per_s,
            };
            med_search_take(search, size, &outcome);
        } else {
            continue;
        }
        used++;
    }
    return used;
}
