/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One serving point: the schedule of a load of one size, and what a run of it says.
 *
 * Open loop: requests come at exponential gaps; the first (warm-up) and the last ones (cool-down, which
 * keep the load up until the measured ones have ended) are not measured.  The gaps are scaled so that
 * the measured ones come at exactly the rate that was asked for: chance then moves latencies, not
 * the load.  Alone (rate 0): one after the other, the first is not measured.
 *
 * Saturated: by the end of the window the server had answered less than 95 % of what it was sent
 * in it, the requests in flight had grown by more than chance explains, and the second half waited longer
 * for its first token than the first half; a window shorter than four quick answers cannot tell.
 * Throughput is then what came out.
 * thread: any; pure.
 */
#ifndef MED_PROFILES_PROFILER_POINT_H
#define MED_PROFILES_PROFILER_POINT_H

#include "allocator/replay/arrivals.h"
#include "profiles/profiler/objective.h"
#include "router/bench/run.h"

struct med_point_load {
    int64_t input_tokens, output_tokens; /* as they are wanted */
    int64_t prompt_units;                /* ids or letters that make the prompt */
    double rate_per_s;                   /* 0: alone */
    int64_t requests;                    /* measured */
    double warm_s, cool_s;
    uint64_t seed;
};

/* Which requests of a schedule are measured: [from, until), due in [from_ns, until_ns). */
struct med_point_window {
    size_t from, until;
    int64_t from_ns, until_ns;
};

struct med_point {
    struct med_serving_row row; /* arrival is lent ("poisson" or "closed"), source 0 */
    double prompt_tokens_sd;    /* as the server counted; NAN: it does not */
    bool usage_told;            /* it counts prompts */
    bool short_answers;         /* answers ended before the length that was asked for */
    size_t measured, failed;
    double lateness_p99_ms;
    char failure[MED_BENCH_DETAILS_MAX]; /* the first sentence of a failed one, or "" */
};

/* errors: those of med_arrivals_make. */
int med_point_schedule(const struct med_point_load *load, struct med_arrivals *ret_arrivals,
                       struct med_point_window *ret_window, struct med_err *err) MED_MUST_CHECK;

/* Sorts the samples of the run. The row's figures are NAN where nothing came.  errors: MED_E_NOMEM. */
int med_point_from_run(struct med_bench_run *run, const struct med_point_load *load,
                       const struct med_point_window *window,
                       struct med_point *ret_point) MED_MUST_CHECK;

/* Watches a run's measured requests and says when more of them cannot change the verdict. */
struct med_point_watch {
    const struct med_objectives *objectives;
    struct med_point_window window;
    size_t ended, failed;
    double sums[MED_LIMIT_SLOS];  /* ms, of the completed ones */
    size_t above[MED_LIMIT_SLOS]; /* over the limit */
};
void med_point_watch_init(struct med_point_watch *watch, const struct med_objectives *objectives,
                          const struct med_point_window *window);
/* true: all have ended; or an objective is broken whatever the rest does (a mean's sum is over the
 * limit for all of them, more are above a percentile than may be), or one in five failed. */
bool med_point_watch_take(struct med_point_watch *watch, const struct med_bench_record *record,
                          size_t index);

#endif
