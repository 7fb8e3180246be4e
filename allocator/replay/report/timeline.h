/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A replay over time: what came, what became of it, and what the fleet did, span by span.
 *
 * Requests belong to the span in which they arrived, whatever became of them when: their latencies and
 * whether they were within the objectives; `finished` counts those that ended in the span.  Means and
 * percentiles of nothing are NAN.  Requests of the warm-up are in it too.
 * Pure. thread: the caller's. owns: its arrays.
 */
#ifndef MED_ALLOCATOR_REPLAY_REPORT_TIMELINE_H
#define MED_ALLOCATOR_REPLAY_REPORT_TIMELINE_H

#include "allocator/replay/report/tally.h"

enum {
    MED_TIMELINE_SPANS = 240 /* at most; a run is cut into 90 to 240 */
};

struct med_timeline_latency {
    double mean, p50, p95, p99; /* ms */
};

struct med_timeline_span {
    size_t arrivals, lost; /* lost: of the arrivals, did not finish */
    size_t within;         /* of the arrivals: kept every objective */
    size_t finished;
    struct med_timeline_latency ttft, tpot;
};

struct med_timeline {
    const struct med_sim_samples *samples; /* borrowed from the result: one for each span */
    struct med_timeline_span *spans;
    size_t count;
};

/* result: of a run with samples. errors: MED_E_NOMEM. */
int med_timeline_make(const struct med_slos *slos, const struct med_sim_arrival *arrivals,
                      const struct med_sim_result *result, struct med_timeline *ret_timeline,
                      struct med_err *err) MED_MUST_CHECK;
void med_timeline_release(struct med_timeline *timeline);

#endif
