/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The timeline of a replay (see timeline.h).  Arrivals come in the order of time, so those of a span are
 * neighbours, and the values of one span are gathered, sorted and forgotten.
 * thread: the caller's.
 */
#include "allocator/replay/report/timeline.h"

#include "base/alloc.h"
#include "base/hist.h"

static size_t span_of(const struct med_sim_samples *samples, int64_t at_ns)
{
    int64_t place = (at_ns - samples->from_ns) / samples->step_ns;
    size_t last = samples->count - 1;
    return place < 0 ? 0 : (size_t)place > last ? last : (size_t)place;
}

static struct med_timeline_latency latency_of(struct med_sample *sample)
{
    return (struct med_timeline_latency){.mean = med_sample_mean(sample),
                                         .p50 = med_sample_quantile(sample, 0.5),
                                         .p95 = med_sample_quantile(sample, 0.95),
                                         .p99 = med_sample_quantile(sample, 0.99)};
}

static int gather(const struct med_sim_arrival *arrivals, const struct med_sim_result *result,
                  size_t from, size_t to, enum med_tally_metric metric, struct med_sample *sample,
                  struct med_timeline_latency *ret_latency)
{
    sample->count = 0;
    sample->sum = 0;
    for (size_t i = from; i < to; i++) {
        double value = med_tally_value_ms(&arrivals[i], &result->requests[i], metric);
        int rc = value >= 0 ? med_sample_add(sample, value) : 0; /* NAN: it has none */
        if (rc < 0)
            return rc;
    }
    *ret_latency = latency_of(sample);
    return 0;
}

/* Requests [from, to) are those that arrived in the span. */
static int fill(const struct med_slos *slos, const struct med_sim_arrival *arrivals,
                const struct med_sim_result *result, size_t from, size_t to,
                struct med_sample *sample, struct med_timeline_span *span)
{
    span->arrivals = to - from;
    for (size_t i = from; i < to; i++) {
        span->lost += result->requests[i].e2e_ns < 0;
        span->within += med_tally_is_within(slos, arrivals, result, i);
    }
    int rc = gather(arrivals, result, from, to, MED_TALLY_TTFT, sample, &span->ttft);
    return rc < 0 ? rc : gather(arrivals, result, from, to, MED_TALLY_TPOT, sample, &span->tpot);
}

static int fill_all(const struct med_slos *slos, const struct med_sim_arrival *arrivals,
                    const struct med_sim_result *result, struct med_timeline *t)
{
    struct med_sample sample;
    med_sample_init(&sample);
    size_t from = 0;
    int rc = 0;
    for (size_t s = 0; rc == 0 && s < t->count; s++) {
        size_t to = from;
        while (to < result->count && span_of(t->samples, arrivals[to].at_ns) == s)
            to++;
        rc = fill(slos, arrivals, result, from, to, &sample, &t->spans[s]);
        from = to;
    }
    for (size_t i = 0; i < result->count; i++) {
        if (result->requests[i].e2e_ns >= 0) {
            int64_t at_ns = arrivals[i].at_ns + result->requests[i].e2e_ns;
            t->spans[span_of(t->samples, at_ns)].finished++;
        }
    }
    med_sample_release(&sample);
    return rc;
}

int med_timeline_make(const struct med_slos *slos, const struct med_sim_arrival *arrivals,
                      const struct med_sim_result *result, struct med_timeline *ret_timeline,
                      struct med_err *err)
{
    struct med_timeline t = {.samples = &result->samples, .count = result->samples.count};
    t.spans = med_calloc(t.count + 1, sizeof *t.spans);
    int rc = !t.spans ? MED_E_NOMEM : t.count > 0 ? fill_all(slos, arrivals, result, &t) : 0;
    if (rc < 0) {
        med_timeline_release(&t);
        return med_err_set(err, rc, "no memory for the timeline of %zu requests", result->count);
    }
    *ret_timeline = t;
    return 0;
}

void med_timeline_release(struct med_timeline *timeline)
{
    med_free(timeline->spans);
    *timeline = (struct med_timeline){0};
}
