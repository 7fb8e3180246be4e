/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The figures of a load test.
 *
 * One pass over the records fills samples and sums; what needs all of them (percentiles, rates)
 * comes after.  A request is within an objective on its own latency: the plan's objectives are of
 * means, and "share within" says how its single requests did against the same limit.
 * thread: the caller's. It prints nothing.
 */
#include "router/bench/summary.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Latencies of one completed request, in ms; tpot NAN for one token. */
struct timing {
    double ttft, tpot, e2e;
    int64_t tokens;
};

struct pass {
    struct med_bench_summary *s;
    const struct med_slos *slos;
    const struct med_bench_goodput *goodput; /* NULL: not asked for */
    size_t good;
    struct med_sample ttft, tpot, e2e, lateness;
    size_t within_all;
    size_t within[MED_LIMIT_SLOS];
    struct med_sample e2e_per_token;
    int64_t end_ns;
    int rc;
};

static void add(struct pass *p, struct med_sample *sample, double value)
{
    int rc = med_sample_add(sample, value);
    if (rc < 0)
        p->rc = rc;
}

static struct timing timing_of(const struct med_bench_record *r)
{
    struct timing t = {
        .ttft = (double)(r->first_ns - r->sent_ns) / 1e6,
        .tpot = NAN,
        .e2e = (double)(r->last_ns - r->sent_ns) / 1e6,
        .tokens = r->tokens,
    };
    if (r->tokens > 1 && !r->at_once)
        t.tpot = (t.e2e - t.ttft) / (double)(r->tokens - 1);
    return t;
}

/* The request's own value of an objective's metric; NAN: it has none. */
static double value_of(const struct timing *t, enum med_slo_metric metric)
{
    switch (metric) {
    case MED_SLO_TTFT:
        return t->ttft;
    case MED_SLO_TPOT:
        return t->tpot;
    case MED_SLO_E2E_PER_TOKEN:
        return t->e2e / (double)t->tokens;
    }
    MED_ASSERT(false); // no metric is unknown
    return NAN;
}

static int goodput_item(const char *item, size_t bytes, struct med_bench_goodput *goodput,
                        struct med_err *err)
{
    char text[64] = {0};
    if (bytes < sizeof(text))
        memcpy(text, item, bytes);
    char *colon = strchr(text, ':');
    char *unit = NULL;
    double value = NAN;
    if (colon) {
        *colon = '\0';
        value = strtod(colon + 1, &unit);
    }
    double scale = !unit                     ? 0
                   : strcmp(unit, "s") == 0  ? 1000
                   : strcmp(unit, "ms") == 0 ? 1
                                             : *unit == '\0';
    double *limit = strcmp(text, "ttft") == 0   ? &goodput->ttft_ms
                    : strcmp(text, "tpot") == 0 ? &goodput->tpot_ms
                    : strcmp(text, "e2e") == 0  ? &goodput->e2e_ms
                    : strcmp(text, "e2el") == 0 ? &goodput->e2e_ms
                                                : NULL;
    if (!limit || scale <= 0 || !(value > 0) || !isfinite(value)) {
        return med_err_set(
            err, MED_E_USAGE,
            "--goodput %.*s: expected ttft, tpot or e2e, a colon and a time, such as "
            "ttft:500ms",
            (int)(bytes < 64 ? bytes : 64), item);
    }
    *limit = value * scale;
    goodput->given = true;
    return 0;
}

int med_bench_goodput_parse(const char *text, struct med_bench_goodput *ret_goodput,
                            struct med_err *err)
{
    struct med_bench_goodput goodput = {false, INFINITY, INFINITY, INFINITY};
    int rc = 0;
    for (const char *at = text + strspn(text, " ,"); *at && rc >= 0; at += strspn(at, " ,")) {
        size_t bytes = strcspn(at, " ,");
        rc = goodput_item(at, bytes, &goodput, err);
        at += bytes;
    }
    if (rc >= 0 && !goodput.given)
        rc = med_err_set(err, MED_E_USAGE, "--goodput: no limit is given");
    if (rc >= 0)
        *ret_goodput = goodput;
    return rc;
}

/* ---- groups: sums first, means at the end ---- */

static void group_add(struct med_bench_means *group, size_t *tpot_count, const struct timing *t)
{
    group->completed++;
    group->output_tokens += t->tokens;
    group->ttft_ms += t->ttft;
    group->e2e_ms += t->e2e;
    if (!isnan(t->tpot)) {
        group->tpot_ms += t->tpot;
        (*tpot_count)++;
    }
}

static void group_finish(struct med_bench_means *group, size_t tpot_count)
{
    double n = (double)group->completed;
    group->ttft_ms = n > 0 ? group->ttft_ms / n : NAN;
    group->e2e_ms = n > 0 ? group->e2e_ms / n : NAN;
    group->tpot_ms = tpot_count ? group->tpot_ms / (double)tpot_count : NAN;
}

/* ---- the pass over the records ---- */

/* Within the limits of --goodput, else within the objectives. */
static bool is_good(const struct med_bench_goodput *goodput, const struct timing *t, bool within)
{
    if (!goodput)
        return within;
    return t->ttft <= goodput->ttft_ms && !(t->tpot > goodput->tpot_ms) &&
           t->e2e <= goodput->e2e_ms;
}

static void add_completed(struct pass *p, const struct med_bench_record *r, const struct timing *t)
{
    struct med_bench_summary *s = p->s;
    s->completed++;
    s->input_tokens += r->input_tokens;
    s->output_tokens += r->tokens;
    if (r->tokens != r->output_tokens)
        s->other_length++;
    add(p, &p->ttft, t->ttft);
    add(p, &p->e2e, t->e2e);
    add(p, &p->e2e_per_token, t->e2e / (double)t->tokens);
    if (!isnan(t->tpot))
        add(p, &p->tpot, t->tpot);
    bool all = true;
    for (size_t i = 0; i < p->slos->count; i++) {
        double value = value_of(t, p->slos->items[i].metric);
        bool within = isnan(value) || value <= p->slos->items[i].limit_ms;
        p->within[i] += within;
        all = all && within;
    }
    p->within_all += all;
    p->good += is_good(p->goodput, t, all);
}

static void add_record(struct pass *p, const struct med_bench_record *r)
{
    struct med_bench_summary *s = p->s;
    if (r->status == MED_BENCH_NOT_SENT)
        return;
    s->sent++;
    add(p, &p->lateness, (double)(r->sent_ns - r->due_ns) / 1e6);
    s->tokens_lost += r->tokens_lost;
    s->tokens_duplicated += r->tokens_duplicated;
    int64_t end_ns = r->end_ns > r->last_ns ? r->end_ns : r->last_ns;
    if (end_ns > p->end_ns)
        p->end_ns = end_ns;
    if (r->status >= 0)
        s->by_status[r->status]++;
    if (med_bench_record_completed(r)) {
        struct timing t = timing_of(r);
        add_completed(p, r, &t);
        return;
    }
    s->failed++;
    if (r->tokens > 0) {
        s->failed_after_token++;
    } else {
        s->failed_before_token++;
    }
    s->not_ended += r->status == MED_BENCH_NOT_ENDED;
}

static struct med_bench_latency latency_of(struct med_sample *sample)
{
    return (struct med_bench_latency){
        .mean = med_sample_mean(sample),
        .std = med_sample_std(sample),
        .median = med_sample_quantile(sample, 0.5),
        .p90 = med_sample_quantile(sample, 0.9),
        .p99 = med_sample_quantile(sample, 0.99),
    };
}

/* Mean and deviation of all gaps, also of those that the sample no longer holds. */
static struct med_bench_latency latency_of_gaps(struct med_bench_gaps *gaps)
{
    struct med_bench_latency latency = latency_of(&gaps->kept);
    if (gaps->count > 0) {
        double n = (double)gaps->count;
        latency.mean = gaps->sum_ms / n;
        double variance = gaps->sum_squares_ms / n - latency.mean * latency.mean;
        latency.std = variance > 0 ? sqrt(variance) : 0;
    }
    return latency;
}

static void finish_objectives(struct pass *p)
{
    struct med_bench_summary *s = p->s;
    double sent = (double)s->sent;
    s->objective_count = p->slos->count;
    for (size_t i = 0; i < p->slos->count; i++) {
        struct med_bench_objective *o = &s->objectives[i];
        o->slo = p->slos->items[i];
        o->observed_ms = o->slo.metric == MED_SLO_TTFT   ? s->ttft.mean
                         : o->slo.metric == MED_SLO_TPOT ? s->tpot.mean
                                                         : med_sample_mean(&p->e2e_per_token);
        /* Without an observation nothing was missed, but nothing was met either. */
        o->met = o->observed_ms <= o->slo.limit_ms;
        o->share_within = s->sent ? (double)p->within[i] / sent : NAN;
    }
    s->attainment = p->slos->count && s->sent ? (double)p->within_all / sent : NAN;
    s->request_goodput =
        s->has_goodput && s->duration_s > 0 ? (double)p->good / s->duration_s : NAN;
}

static void finish_rates(struct pass *p, const struct med_bench_run *run)
{
    struct med_bench_summary *s = p->s;
    int64_t begin_ns = s->sent ? run->records[0].sent_ns : 0;
    s->duration_s = p->end_ns > begin_ns ? (double)(p->end_ns - begin_ns) / 1e9 : 0;
    if (s->duration_s > 0) {
        s->request_throughput = (double)s->completed / s->duration_s;
        s->output_throughput = (double)s->output_tokens / s->duration_s;
        s->total_throughput = (double)(s->input_tokens + s->output_tokens) / s->duration_s;
    }
    for (size_t i = 0; i < run->second_count; i++)
        s->peak_output_throughput = fmax(s->peak_output_throughput, (double)run->tokens_per_s[i]);
    s->peak_concurrency = run->peak_in_flight;
}

static void finish_cost(struct med_bench_summary *s, const struct med_plan *plan)
{
    s->has_cost = plan != NULL;
    if (!plan)
        return;
    s->usd_per_hour = plan->cost_usd_per_hour;
    s->usd = plan->cost_usd_per_hour * s->duration_s / 3600;
    s->usd_per_million_output_tokens =
        s->output_tokens > 0 ? s->usd / (double)s->output_tokens * 1e6 : NAN;
}

/* ---- by worker type, observed and predicted ---- */

static void observe_types(struct med_bench_summary *s, const struct med_bench_run *run,
                          size_t *tpot_counts)
{
    size_t all_tpot = 0;
    for (size_t i = 0; i < run->count; i++) {
        const struct med_bench_record *r = &run->records[i];
        if (!med_bench_record_completed(r))
            continue;
        struct timing t = timing_of(r);
        size_t type = r->worker_type >= 0 ? (size_t)r->worker_type : s->type_count - 1;
        MED_ASSERT(type < s->type_count);
        group_add(&s->types[type].observed, &tpot_counts[type], &t);
        group_add(&s->observed, &all_tpot, &t);
    }
    for (size_t i = 0; i < s->type_count; i++)
        group_finish(&s->types[i].observed, tpot_counts[i]);
    group_finish(&s->observed, all_tpot);
}

static void predict_types(struct med_bench_summary *s, const struct med_bench_run *run,
                          const struct med_sim_result *simulated, size_t *tpot_counts)
{
    size_t all_tpot = 0;
    MED_ASSERT(simulated->count <= run->count);
    for (size_t i = 0; i < s->type_count; i++)
        tpot_counts[i] = 0;
    for (size_t i = 0; i < simulated->count; i++) {
        const struct med_sim_request *q = &simulated->requests[i];
        if (q->ttft_ns < 0 || q->e2e_ns < 0)
            continue;
        struct timing t = {.ttft = (double)q->ttft_ns / 1e6,
                           .tpot = NAN,
                           .e2e = (double)q->e2e_ns / 1e6,
                           .tokens = run->records[i].output_tokens};
        if (t.tokens > 1)
            t.tpot = (t.e2e - t.ttft) / (double)(t.tokens - 1);
        size_t type = q->type < s->type_count ? q->type : s->type_count - 1;
        group_add(&s->types[type].predicted, &tpot_counts[type], &t);
        group_add(&s->predicted, &all_tpot, &t);
    }
    for (size_t i = 0; i < s->type_count; i++)
        group_finish(&s->types[i].predicted, tpot_counts[i]);
    group_finish(&s->predicted, all_tpot);
}

static int summarize_types(struct med_bench_summary *s, const struct med_bench_run *run,
                           const struct med_plan *plan, const struct med_sim_result *simulated)
{
    size_t named = plan ? plan->profile_count : 0;
    s->type_count = named + 1;
    s->types = med_calloc(s->type_count, sizeof(*s->types));
    size_t *tpot_counts = med_calloc(s->type_count, sizeof(*tpot_counts));
    if (!s->types || !tpot_counts) {
        med_free(tpot_counts);
        return MED_E_NOMEM;
    }
    for (size_t i = 0; i < s->type_count; i++)
        s->types[i].name = i < named ? plan->profiles[i].worker_type : "(not named)";
    observe_types(s, run, tpot_counts);
    s->has_prediction = simulated != NULL;
    if (simulated)
        predict_types(s, run, simulated, tpot_counts);
    med_free(tpot_counts);
    return 0;
}

int med_bench_summarize(struct med_bench_run *run, const struct med_plan *plan,
                        const struct med_slos *slos, const struct med_bench_goodput *goodput,
                        const struct med_sim_result *simulated,
                        struct med_bench_summary *ret_summary, struct med_err *err)
{
    struct med_bench_summary s = {.planned = run->count, .reconnects = run->reconnects};
    struct pass p = {.s = &s, .slos = slos, .goodput = goodput && goodput->given ? goodput : NULL};
    s.has_goodput = p.goodput || slos->count > 0;
    struct med_sample *samples[] = {&p.ttft, &p.tpot, &p.e2e, &p.lateness, &p.e2e_per_token};
    for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++)
        med_sample_init(samples[i]);
    for (size_t i = 0; i < run->count; i++)
        add_record(&p, &run->records[i]);
    finish_rates(&p, run);
    s.ttft = latency_of(&p.ttft);
    s.tpot = latency_of(&p.tpot);
    s.e2e = latency_of(&p.e2e);
    s.itl = latency_of_gaps(&run->gaps);
    s.lateness = latency_of(&p.lateness);
    finish_objectives(&p);
    finish_cost(&s, plan);
    int rc = p.rc < 0 ? p.rc : summarize_types(&s, run, plan, simulated);
    for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++)
        med_sample_release(samples[i]);
    if (rc < 0) {
        med_bench_summary_release(&s);
        return med_err_set(err, rc, "memory for the summary is exhausted");
    }
    MED_ASSERT(s.sent == s.completed + s.failed);
    *ret_summary = s;
    return 0;
}

void med_bench_summary_release(struct med_bench_summary *summary)
{
    med_free(summary->types);
    summary->types = NULL;
    summary->type_count = 0;
}

bool med_bench_summary_is_whole(const struct med_bench_summary *summary)
{
    return summary->not_ended == 0 && summary->tokens_lost == 0 && summary->tokens_duplicated == 0;
}
