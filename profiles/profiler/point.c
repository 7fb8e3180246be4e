/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Schedules and figures of serving points, see point.h.
 * thread: any; pure.
 */
#include "profiles/profiler/point.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/hist.h"

#include <math.h>
#include <stdio.h>

enum {
    SATURATED_REQUESTS_MIN = 20,
    FAILED_MIN = 10
};
static const double saturated_share = 0.95;
static const double saturated_growth = 1.25; /* TTFT of the second half over that of the first */
static const double failed_share = 0.2;
static const double window_answers = 4;

/* ---- the schedule ---- */

static int64_t at_least(double value, int64_t least)
{
    return value > (double)least ? (int64_t)ceil(value) : least;
}

int med_point_schedule(const struct med_point_load *load, struct med_arrivals *ret_arrivals,
                       struct med_point_window *ret_window, struct med_err *err)
{
    bool alone = load->rate_per_s == 0;
    int64_t warm = alone ? 1 : at_least(load->warm_s * load->rate_per_s, 2);
    int64_t cool = alone ? 0 : at_least(load->cool_s * load->rate_per_s, 2);
    const struct med_arrivals_config config = {
        .process = alone ? MED_ARRIVALS_ALL_AT_ONCE : MED_ARRIVALS_POISSON,
        .rate_per_s = alone ? 1 : load->rate_per_s,
        .requests = warm + load->requests + cool,
        .output_tokens_max = load->output_tokens,
        .seed = load->seed,
        .input_tokens = load->prompt_units,
        .output_tokens = load->output_tokens,
    };
    struct med_arrivals arrivals;
    int rc = med_arrivals_make(&config, &arrivals, err);
    if (rc < 0)
        return rc;
    size_t from = (size_t)warm, until = (size_t)(warm + load->requests);
    MED_ASSERT(until <= arrivals.count);
    int64_t from_ns = 0, until_ns = INT64_MAX;
    if (!alone) {
        double wanted_ns = 1e9 * (double)load->requests / load->rate_per_s;
        double drawn_ns = (double)(arrivals.items[until].at_ns - arrivals.items[from].at_ns);
        double stretch = drawn_ns > 0 ? wanted_ns / drawn_ns : 1;
        for (size_t i = 0; i < arrivals.count; i++)
            arrivals.items[i].at_ns = llround((double)arrivals.items[i].at_ns * stretch);
        from_ns = arrivals.items[from].at_ns;
        until_ns = arrivals.items[until].at_ns;
    }
    *ret_arrivals = arrivals;
    *ret_window = (struct med_point_window){from, until, from_ns, until_ns};
    return 0;
}

/* ---- figures ---- */

struct samples {
    struct med_sample ttft, tpot, e2e, lateness;
    double input_sum, input_squares, output_sum;
    size_t completed, counted, ended;
    double ttft_half[2];
    size_t half_count[2];
};

static double ms(int64_t ns)
{
    return (double)ns / 1e6;
}

static int take_record(struct samples *s, const struct med_bench_record *r, bool second_half)
{
    int rc = med_sample_add(&s->lateness, ms(r->sent_ns - r->due_ns));
    if (r->status != MED_BENCH_NOT_ENDED)
        s->ended++;
    if (!med_bench_record_completed(r))
        return rc;
    double ttft = ms(r->first_ns - r->sent_ns), e2e = ms(r->last_ns - r->sent_ns);
    s->completed++;
    s->output_sum += (double)r->tokens;
    if (r->prompt_tokens > 0) {
        double tokens = (double)r->prompt_tokens;
        s->counted++;
        s->input_sum += tokens;
        s->input_squares += tokens * tokens;
    }
    s->ttft_half[second_half] += ttft;
    s->half_count[second_half]++;
    if (rc >= 0)
        rc = med_sample_add(&s->ttft, ttft);
    if (rc >= 0)
        rc = med_sample_add(&s->e2e, e2e);
    if (rc >= 0 && r->tokens > 1 && !r->at_once)
        rc = med_sample_add(&s->tpot, (e2e - ttft) / (double)(r->tokens - 1));
    return rc;
}

static struct med_latency_stats stats_of(struct med_sample *sample)
{
    return (struct med_latency_stats){
        .mean = med_sample_mean(sample),
        .p50 = med_sample_quantile(sample, 0.5),
        .p90 = med_sample_quantile(sample, 0.9),
        .p95 = med_sample_quantile(sample, 0.95),
        .p99 = med_sample_quantile(sample, 0.99),
    };
}

/* Requests in flight at a time of the run, the failed ones among them only until they failed. */
static size_t in_flight_at(const struct med_bench_run *run, int64_t at_ns)
{
    size_t count = 0;
    for (size_t i = 0; i < run->count; i++) {
        const struct med_bench_record *r = &run->records[i];
        count += r->sent_ns >= 0 && r->sent_ns < at_ns && (r->end_ns < 0 || r->end_ns >= at_ns);
    }
    return count;
}

/* What was going on in the window, or in what was seen of it. */
struct flow {
    double seconds;
    size_t sent, answered; /* answered in the window, whenever sent */
    size_t in_flight_first, in_flight_last;
};

static struct flow flow_of(const struct med_bench_run *run, const struct med_point_window *window)
{
    struct flow f = {0};
    int64_t from_ns = window->from_ns, until_ns = window->until_ns;
    if (run->ended_early || run->interrupted || run->stalled) {
        /* Looked at until the last ordinary end: what was cancelled then says nothing of its own. */
        int64_t last_ns = from_ns;
        for (size_t i = 0; i < run->count; i++) {
            const struct med_bench_record *r = &run->records[i];
            if (r->status == 0 && r->end_ns > last_ns)
                last_ns = r->end_ns;
        }
        until_ns = last_ns < until_ns ? last_ns : until_ns;
    }
    f.seconds = (double)(until_ns - from_ns) / 1e9;
    for (size_t i = 0; i < run->count; i++) {
        const struct med_bench_record *r = &run->records[i];
        f.sent += r->sent_ns >= from_ns && r->sent_ns < until_ns;
        f.answered += r->end_ns >= from_ns && r->end_ns < until_ns;
    }
    f.in_flight_first = in_flight_at(run, from_ns);
    f.in_flight_last = in_flight_at(run, until_ns);
    return f;
}

static bool is_saturated(struct samples *s, const struct flow *f)
{
    if (f->sent < SATURATED_REQUESTS_MIN || !s->half_count[0] || !s->half_count[1])
        return false;
    /* A window of a few answers' length shows how a batch fills, not that a queue grows. */
    if (1e3 * f->seconds < window_answers * med_sample_quantile(&s->e2e, 0.1))
        return false;
    double growth = (double)f->in_flight_last - (double)f->in_flight_first;
    double first = s->ttft_half[0] / (double)s->half_count[0];
    double second = s->ttft_half[1] / (double)s->half_count[1];
    return (double)f->answered < saturated_share * (double)f->sent &&
           growth > 2 * sqrt((double)f->in_flight_first + 1) && second > saturated_growth * first;
}

static void fill_row(struct med_point *point, struct samples *s, struct med_bench_run *run,
                     const struct med_point_load *load, const struct med_point_window *window)
{
    bool alone = load->rate_per_s == 0;
    struct med_serving_row *row = &point->row;
    double completed = (double)s->completed;
    point->usage_told = s->counted > 0;
    point->prompt_tokens_sd = (double)NAN;
    row->input_tokens = (double)load->input_tokens;
    if (s->counted > 0) {
        double mean = s->input_sum / (double)s->counted;
        point->prompt_tokens_sd =
            sqrt(fmax(0, s->input_squares / (double)s->counted - mean * mean));
        row->input_tokens = mean;
    }
    row->output_tokens = s->completed ? s->output_sum / completed : (double)load->output_tokens;
    point->short_answers = row->output_tokens < 0.98 * (double)load->output_tokens;
    row->arrival = alone ? "closed" : "poisson";
    row->rate_per_s = alone ? (double)NAN : load->rate_per_s;
    row->concurrency = alone ? 1 : (double)NAN;
    row->ttft_ms = stats_of(&s->ttft);
    row->tpot_ms = stats_of(&s->tpot);
    row->itl_ms = stats_of(&run->gaps.kept);
    row->e2e_ms = stats_of(&s->e2e);
    row->requests = (int64_t)point->measured;
    row->failures = point->measured ? (double)point->failed / (double)point->measured : 0;
    if (alone) {
        row->throughput_per_s = s->completed ? 1e3 / row->e2e_ms.mean : 0;
        return;
    }
    struct flow flow = flow_of(run, window);
    row->saturated = is_saturated(s, &flow);
    /* All that is measured ends, sooner or later, unless the server does not keep up. */
    row->throughput_per_s = row->saturated || point->row.cut_short
                                ? (flow.seconds > 0 ? (double)flow.answered / flow.seconds : 0)
                                : load->rate_per_s * (1 - row->failures);
}

int med_point_from_run(struct med_bench_run *run, const struct med_point_load *load,
                       const struct med_point_window *window, struct med_point *ret_point)
{
    struct samples s = {0};
    med_sample_init(&s.ttft);
    med_sample_init(&s.tpot);
    med_sample_init(&s.e2e);
    med_sample_init(&s.lateness);
    struct med_point point = {0};
    int rc = 0;
    size_t last = window->from; /* that ended, so that a run that was cut has halves too */
    for (size_t i = window->from; i < window->until; i++) {
        if (med_bench_record_completed(&run->records[i]))
            last = i;
    }
    for (size_t i = window->from; i < window->until && rc >= 0; i++) {
        const struct med_bench_record *r = &run->records[i];
        bool was_cut = (run->ended_early || run->interrupted) && r->status == 1; /* CANCELLED */
        if (r->status == MED_BENCH_NOT_SENT || was_cut) {
            point.row.cut_short = true;
            continue;
        }
        point.measured++;
        if (!med_bench_record_completed(r)) {
            point.failed++;
            if (point.failure[0] == '\0') {
                (void)snprintf(point.failure, sizeof(point.failure), "%s",
                               r->status > 0 ? run->details[r->status] : "no answer came");
            }
        }
        rc = take_record(&s, r, i - window->from > (last - window->from) / 2);
    }
    if (rc >= 0) {
        fill_row(&point, &s, run, load, window);
        point.lateness_p99_ms = med_sample_quantile(&s.lateness, 0.99);
        *ret_point = point;
    }
    med_sample_release(&s.ttft);
    med_sample_release(&s.tpot);
    med_sample_release(&s.e2e);
    med_sample_release(&s.lateness);
    return rc;
}

/* ---- the verdict before the end ---- */

void med_point_watch_init(struct med_point_watch *watch, const struct med_objectives *objectives,
                          const struct med_point_window *window)
{
    *watch = (struct med_point_watch){.objectives = objectives, .window = *window};
}

static double own_value(const struct med_bench_record *r, enum med_slo_metric metric)
{
    double ttft = ms(r->first_ns - r->sent_ns), e2e = ms(r->last_ns - r->sent_ns);
    switch (metric) {
    case MED_SLO_TTFT:
        return ttft;
    case MED_SLO_TPOT:
        return r->tokens > 1 ? (e2e - ttft) / (double)(r->tokens - 1) : 0;
    case MED_SLO_E2E_PER_TOKEN:
        break;
    }
    return e2e / (double)r->tokens;
}

bool med_point_watch_take(struct med_point_watch *watch, const struct med_bench_record *record,
                          size_t index)
{
    if (index < watch->window.from || index >= watch->window.until)
        return false;
    double planned = (double)(watch->window.until - watch->window.from);
    watch->ended++;
    if (!med_bench_record_completed(record)) {
        watch->failed++;
        return watch->failed >= FAILED_MIN &&
               (double)watch->failed > failed_share * (double)watch->ended;
    }
    bool broken = false;
    for (size_t i = 0; i < watch->objectives->count; i++) {
        const struct med_objective *o = &watch->objectives->items[i];
        double value = own_value(record, o->slo.metric);
        watch->sums[i] += value;
        watch->above[i] += value > o->slo.limit_ms;
        broken = broken ||
                 (o->statistic == MED_STATISTIC_MEAN
                      ? watch->sums[i] > o->slo.limit_ms * planned
                      : (double)watch->above[i] > med_statistic_tail(o->statistic) * planned + 1);
    }
    return broken || (double)watch->ended == planned;
}
