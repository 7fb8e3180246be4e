/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A replay over time, as JSON: columns of equal length, one number for each span.
 * Keys are in docs/reference/formats.md.  thread: any. It computes nothing.
 */
#include "allocator/replay/report/report.h"

typedef double (*column)(const struct med_timeline *t, size_t span);

static double get_arrivals(const struct med_timeline *t, size_t span)
{
    return (double)t->spans[span].arrivals;
}

static double get_finished(const struct med_timeline *t, size_t span)
{
    return (double)t->spans[span].finished;
}

static double get_lost(const struct med_timeline *t, size_t span)
{
    return (double)t->spans[span].lost;
}

static double get_within(const struct med_timeline *t, size_t span)
{
    return (double)t->spans[span].within;
}

static double get_queued(const struct med_timeline *t, size_t span)
{
    return t->samples->all[span].queued;
}

static double get_queued_most(const struct med_timeline *t, size_t span)
{
    return (double)t->samples->all[span].queued_most;
}

static double get_in_flight(const struct med_timeline *t, size_t span)
{
    return t->samples->all[span].in_flight;
}

static void put_column(struct med_json_writer *w, const char *key, const struct med_timeline *t,
                       column get)
{
    med_json_begin_row_array(w, key);
    for (size_t i = 0; i < t->count; i++)
        med_replay_put_number(w, NULL, get(t, i));
    med_json_end_array(w);
}

static const struct med_timeline_latency *latency_at(const struct med_timeline *t, size_t span,
                                                     enum med_tally_metric metric)
{
    return metric == MED_TALLY_TTFT ? &t->spans[span].ttft : &t->spans[span].tpot;
}

static void put_latency(struct med_json_writer *w, const char *key, const struct med_timeline *t,
                        enum med_tally_metric metric)
{
    static const char *const names[] = {"mean", "p50", "p95", "p99"};
    med_json_begin_object(w, key);
    for (size_t n = 0; n < sizeof names / sizeof names[0]; n++) {
        med_json_begin_row_array(w, names[n]);
        for (size_t i = 0; i < t->count; i++) {
            const struct med_timeline_latency *l = latency_at(t, i, metric);
            const double values[] = {l->mean, l->p50, l->p95, l->p99};
            med_replay_put_number(w, NULL, values[n]);
        }
        med_json_end_array(w);
    }
    med_json_end_object(w);
}

static void put_type(struct med_json_writer *w, const struct med_timeline *t, size_t type,
                     const char *name)
{
    static const char *const names[] = {"busy", "running", "kv", "tokens"};
    const struct med_sim_samples *m = t->samples;
    med_json_begin_object(w, NULL);
    med_json_put_string(w, "worker_type", name);
    for (size_t n = 0; n < sizeof names / sizeof names[0]; n++) {
        med_json_begin_row_array(w, names[n]);
        for (size_t i = 0; i < t->count; i++) {
            const struct med_sim_type_sample *s = &m->types[i * m->type_count + type];
            const double values[] = {s->busy, s->running, s->kv, (double)s->tokens};
            med_replay_put_number(w, NULL, values[n]);
        }
        med_json_end_array(w);
    }
    med_json_end_object(w);
}

void med_replay_put_timeline(struct med_json_writer *w, const struct med_replay_about *about,
                             const struct med_tally *tally, const struct med_timeline *t)
{
    med_json_begin_object(w, "timeline");
    med_json_put_number(w, "from_s", (double)t->samples->from_ns / 1e9);
    med_json_put_number(w, "span_s", (double)t->samples->step_ns / 1e9);
    put_column(w, "arrivals", t, get_arrivals);
    put_column(w, "finished", t, get_finished);
    put_column(w, "lost", t, get_lost);
    put_column(w, "within", t, get_within);
    put_latency(w, "ttft_ms", t, MED_TALLY_TTFT);
    put_latency(w, "tpot_ms", t, MED_TALLY_TPOT);
    put_column(w, "queued", t, get_queued);
    put_column(w, "queued_most", t, get_queued_most);
    put_column(w, "in_flight", t, get_in_flight);
    med_json_begin_array(w, "worker_types");
    for (size_t i = 0; i < tally->type_count; i++) {
        size_t profile = tally->types[i].profile;
        put_type(w, t, profile, about->plan->profiles[profile].worker_type);
    }
    med_json_end_array(w);
    med_json_end_object(w);
}
