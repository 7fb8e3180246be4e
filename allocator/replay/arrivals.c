/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The schedule of a load test.
 *
 * Three random streams of one seed (buckets or rows, sizes, gaps), so that another process or rate
 * keeps the sizes of the requests as they were.  Gaps are drawn at rate one ("operational time")
 * and turned into seconds by the inverse of the cumulated rate, which is a division for a constant
 * rate and a walk along the intervals for a rate over time.
 * thread: the caller's. It reads no clock and no file.
 */
#include "allocator/replay/arrivals.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"

#include <math.h>
#include <string.h>

enum {
    STREAM_PICK = 1,
    STREAM_SIZE = 2,
    STREAM_GAP = 3
};

#define RATE_MIN_PER_S 1e-6
#define RATE_MAX_PER_S 1e9

static const char *const process_names[] = {"all-at-once", "constant", "poisson", "gamma", "trace"};

struct generator {
    const struct med_arrivals_config *config;
    struct med_rng pick, size, gap;
    double *cumulated;    /* shares of buckets, cumulated; NULL with a log */
    double rate_scale;    /* times rates_per_s[i] = rate in interval i */
    size_t interval;      /* of the rate over time, counted on through repeats */
    double interval_left; /* operational time left in it */
    double now_s;
    double log_span_s; /* one pass of the log, one mean gap beyond its last row included */
    struct med_sim_arrival *items;
    size_t count, capacity;
};

int med_arrivals_process_parse(const char *text)
{
    for (size_t i = 0; i < sizeof(process_names) / sizeof(process_names[0]); i++) {
        if (strcmp(text, process_names[i]) == 0)
            return (int)i;
    }
    return -1;
}

const char *med_arrivals_process_name(enum med_arrivals_process process)
{
    return process_names[process];
}

int64_t med_arrivals_draw_size(struct med_rng *rng, double edge_below, double edge, double mean)
{
    double low = floor(edge_below) + 1, high = floor(edge);
    /* All three numbers are drawn always: the stream's place does not depend on the bucket. */
    double side = med_rng_uniform(rng), place = med_rng_uniform(rng), up = med_rng_uniform(rng);
    if (high <= low)
        return (int64_t)(low > 1 ? low : 1);
    double m = fmin(fmax(mean, low), high);
    double from = low, to = m;
    if (side >= (high - m) / (high - low)) {
        from = m;
        to = high;
    }
    double x = from + place * (to - from);
    double whole = floor(x);
    if (up < x - whole)
        whole += 1;
    return (int64_t)fmin(fmax(whole, low), high);
}

static int check_config(const struct med_arrivals_config *c, struct med_err *err)
{
    if (c->requests < 0 || c->requests > MED_ARRIVALS_MAX) {
        return med_err_set(err, MED_E_INVALID, "a run of %lld requests: expected 1 to %d",
                           (long long)c->requests, MED_ARRIVALS_MAX);
    }
    if (c->requests == 0 && c->duration_ns <= 0) {
        return med_err_set(err, MED_E_INVALID,
                           "nothing bounds the run: expected a number of requests or a duration");
    }
    if (c->requests == 0 && c->process == MED_ARRIVALS_ALL_AT_ONCE) {
        return med_err_set(err, MED_E_INVALID,
                           "all requests at once: expected their number, not a duration");
    }
    bool sized = c->input_tokens > 0;
    if (sized && (c->output_tokens <= 0 || !(c->range_ratio >= 0 && c->range_ratio < 1))) {
        return med_err_set(err, MED_E_INVALID,
                           "sizes of requests: expected both input and output tokens, and a range "
                           "ratio from 0 to below 1");
    }
    if (!c->log && !c->workload && !sized) {
        return med_err_set(err, MED_E_INVALID,
                           "no request sizes: expected a workload or a request log");
    }
    if ((c->log && c->log->count == 0) || (!c->log && !sized && c->workload->bucket_count == 0))
        return med_err_set(err, MED_E_INVALID, "the workload holds no request");
    if (c->process == MED_ARRIVALS_TRACE && !c->log) {
        return med_err_set(err, MED_E_INVALID,
                           "arrivals as in a trace: expected a request log to take them from");
    }
    bool needs_rate = c->process != MED_ARRIVALS_ALL_AT_ONCE && c->process != MED_ARRIVALS_TRACE;
    bool keeps_rate = c->process == MED_ARRIVALS_TRACE && c->rate_per_s == 0;
    if (needs_rate || (c->process == MED_ARRIVALS_TRACE && !keeps_rate)) {
        if (!(c->rate_per_s >= RATE_MIN_PER_S && c->rate_per_s <= RATE_MAX_PER_S)) {
            return med_err_set(err, MED_E_INVALID,
                               "a rate of %g requests/s: expected a number from %g to %g",
                               c->rate_per_s, RATE_MIN_PER_S, RATE_MAX_PER_S);
        }
    }
    if (c->process == MED_ARRIVALS_GAMMA && (!isfinite(c->burstiness) || c->burstiness <= 0)) {
        return med_err_set(err, MED_E_INVALID, "a burstiness of %g: expected a number > 0",
                           c->burstiness);
    }
    if (c->follow_rate_over_time && (!c->workload || c->workload->rate_count == 0))
        return med_err_set(err, MED_E_INVALID, "the workload gives no rate over time to follow");
    if (c->follow_rate_over_time && !needs_rate) {
        return med_err_set(err, MED_E_INVALID,
                           "a rate over time shapes constant, poisson and gamma arrivals only");
    }
    return 0;
}

static int init_buckets(struct generator *g)
{
    const struct med_workload *w = g->config->workload;
    g->cumulated = med_calloc(w->bucket_count, sizeof(*g->cumulated));
    if (!g->cumulated)
        return MED_E_NOMEM;
    double sum = 0;
    for (size_t i = 0; i < w->bucket_count; i++)
        g->cumulated[i] = sum += w->buckets[i].share;
    return 0;
}

static int init_rates(struct generator *g, struct med_err *err)
{
    const struct med_workload *w = g->config->workload;
    double sum = 0;
    for (size_t i = 0; i < w->rate_count; i++)
        sum += w->rates_per_s[i];
    if (!(sum > 0))
        return med_err_set(err, MED_E_INVALID, "the workload's rate over time is zero throughout");
    g->rate_scale = g->config->rate_per_s * (double)w->rate_count / sum;
    g->interval_left = w->rates_per_s[0] * g->rate_scale * w->interval_s;
    return 0;
}

/* First bucket whose cumulated share is above u. */
static const struct med_bucket *pick_bucket(struct generator *g)
{
    const struct med_workload *w = g->config->workload;
    double u = med_rng_uniform(&g->pick) * g->cumulated[w->bucket_count - 1];
    size_t low = 0, high = w->bucket_count - 1;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (g->cumulated[middle] > u) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return &w->buckets[low];
}

static double edge_below(const double *edges, int row)
{
    return row > 0 ? edges[row - 1] : 0;
}

/* A whole number, evenly from n (1 - ratio) to n (1 + ratio), at least 1. */
static int64_t draw_around(struct generator *g, int64_t n)
{
    double low = ceil((double)n * (1 - g->config->range_ratio));
    double high = floor((double)n * (1 + g->config->range_ratio));
    double drawn = low + floor(med_rng_uniform(&g->size) * (high - low + 1));
    return (int64_t)fmax(1, fmin(drawn, high));
}

static void draw_sizes(struct generator *g, size_t index, struct med_sim_arrival *arrival)
{
    const struct med_request_log *log = g->config->log;
    if (g->config->input_tokens > 0) {
        arrival->input_tokens = draw_around(g, g->config->input_tokens);
        arrival->output_tokens = draw_around(g, g->config->output_tokens);
    } else if (log) {
        size_t row = g->config->process == MED_ARRIVALS_TRACE
                         ? index % log->count
                         : med_rng_below(&g->pick, (uint32_t)log->count);
        arrival->input_tokens = log->rows[row].input_tokens;
        arrival->output_tokens = log->rows[row].output_tokens;
    } else {
        const struct med_grid *grid = &g->config->workload->grid;
        const struct med_bucket *b = pick_bucket(g);
        arrival->input_tokens =
            med_arrivals_draw_size(&g->size, edge_below(grid->input_edges, b->input_row),
                                   grid->input_edges[b->input_row], b->input_mean);
        arrival->output_tokens =
            med_arrivals_draw_size(&g->size, edge_below(grid->output_edges, b->output_row),
                                   grid->output_edges[b->output_row], b->output_mean);
    }
    arrival->output_tokens_max = g->config->output_tokens_max > arrival->output_tokens
                                     ? g->config->output_tokens_max
                                     : arrival->output_tokens;
}

/* Moves now_s on by `gap` of operational time. */
static void advance(struct generator *g, double gap)
{
    if (!g->config->follow_rate_over_time) {
        g->now_s += gap / g->config->rate_per_s;
        return;
    }
    const struct med_workload *w = g->config->workload;
    while (gap > g->interval_left) {
        gap -= g->interval_left;
        g->interval++;
        g->now_s = (double)g->interval * w->interval_s;
        g->interval_left =
            w->rates_per_s[g->interval % w->rate_count] * g->rate_scale * w->interval_s;
    }
    /* gap <= interval_left: if both are 0, the rate is not divided by. */
    if (gap > 0) {
        g->now_s += gap / (w->rates_per_s[g->interval % w->rate_count] * g->rate_scale);
        g->interval_left -= gap;
    }
}

static double next_time_s(struct generator *g, size_t index)
{
    const struct med_arrivals_config *c = g->config;
    switch (c->process) {
    case MED_ARRIVALS_ALL_AT_ONCE:
        return 0;
    case MED_ARRIVALS_TRACE: {
        double own_rate = (double)c->log->count / g->log_span_s;
        double stretch = c->rate_per_s > 0 ? own_rate / c->rate_per_s : 1;
        size_t pass = index / c->log->count;
        return ((double)pass * g->log_span_s + c->log->rows[index % c->log->count].arrival_s) *
               stretch;
    }
    case MED_ARRIVALS_CONSTANT:
        if (index > 0)
            advance(g, 1);
        return g->now_s;
    case MED_ARRIVALS_POISSON:
        advance(g, med_rng_exponential(&g->gap, 1));
        return g->now_s;
    case MED_ARRIVALS_GAMMA:
        advance(g, med_rng_gamma(&g->gap, c->burstiness, 1 / c->burstiness));
        return g->now_s;
    }
    MED_ASSERT(false); // no process is unknown
    return 0;
}

static int append(struct generator *g, const struct med_sim_arrival *arrival, struct med_err *err)
{
    if (g->count == MED_ARRIVALS_MAX) {
        return med_err_set(err, MED_E_INVALID,
                           "the run would hold more than %d requests: give a shorter duration or a "
                           "lower rate",
                           MED_ARRIVALS_MAX);
    }
    if (g->count == g->capacity) {
        size_t capacity = g->capacity ? 2 * g->capacity : 1024;
        void *items = med_realloc_array(g->items, capacity, sizeof(*g->items));
        if (!items)
            return med_err_set(err, MED_E_NOMEM, "memory for %zu requests is exhausted", capacity);
        g->items = items;
        g->capacity = capacity;
    }
    g->items[g->count++] = *arrival;
    return 0;
}

static int generate(struct generator *g, struct med_err *err)
{
    const struct med_arrivals_config *c = g->config;
    for (size_t i = 0; c->requests == 0 || (int64_t)i < c->requests; i++) {
        double at_ns = round(next_time_s(g, i) * (double)MED_NS_PER_S);
        if (c->duration_ns > 0 && at_ns >= (double)c->duration_ns)
            return 0;
        if (!(at_ns < 9e18)) {
            return med_err_set(err, MED_E_INVALID,
                               "at a rate of %g requests/s request %zu would be sent in %g years",
                               c->rate_per_s, i, at_ns / 1e9 / (365.25 * 86400));
        }
        struct med_sim_arrival arrival = {.at_ns = (int64_t)at_ns};
        draw_sizes(g, i, &arrival);
        int rc = append(g, &arrival, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int med_arrivals_make(const struct med_arrivals_config *config, struct med_arrivals *ret_arrivals,
                      struct med_err *err)
{
    int rc = check_config(config, err);
    if (rc < 0)
        return rc;
    struct generator g = {.config = config};
    med_rng_init(&g.pick, config->seed, STREAM_PICK);
    med_rng_init(&g.size, config->seed, STREAM_SIZE);
    med_rng_init(&g.gap, config->seed, STREAM_GAP);
    if (config->log) {
        size_t count = config->log->count;
        double last = config->log->rows[count - 1].arrival_s;
        g.log_span_s = count > 1 && last > 0 ? last * (double)count / (double)(count - 1) : 1;
    } else if (config->input_tokens <= 0) {
        rc = init_buckets(&g);
        if (rc < 0)
            return med_err_set(err, rc, "memory for the buckets is exhausted");
    }
    if (config->follow_rate_over_time)
        rc = init_rates(&g, err);
    if (rc >= 0)
        rc = generate(&g, err);
    if (rc >= 0 && g.count == 0) {
        rc = med_err_set(err, MED_E_INVALID,
                         "no request falls into the run: give a longer duration or a higher rate");
    }
    med_free(g.cumulated);
    if (rc < 0) {
        med_free(g.items);
        return rc;
    }
    ret_arrivals->items = g.items;
    ret_arrivals->count = g.count;
    return 0;
}

void med_arrivals_release(struct med_arrivals *arrivals)
{
    med_free(arrivals->items);
    *arrivals = (struct med_arrivals){0};
}

/* ---- of a plan ---- */

static int copy_buckets(const struct med_plan *plan, struct med_workload *w, struct med_err *err)
{
    double sum = 0;
    for (size_t i = 0; i < plan->assignment_count; i++)
        sum += plan->assignment[i].rate_per_s;
    if (!(sum > 0))
        return med_err_set(err, MED_E_INVALID, "the plan assigns no requests: nothing to send");
    w->buckets = med_calloc(plan->assignment_count, sizeof(*w->buckets));
    if (!w->buckets)
        return med_err_set(err, MED_E_NOMEM, "memory for the buckets is exhausted");
    w->bucket_count = plan->assignment_count;
    for (size_t i = 0; i < plan->assignment_count; i++) {
        const struct med_plan_assignment *a = &plan->assignment[i];
        w->buckets[i] = (struct med_bucket){
            .input_row = a->input_row,
            .output_row = a->output_row,
            .share = a->rate_per_s / sum,
            .input_mean = a->input_mean,
            .output_mean = a->output_mean,
        };
    }
    return 0;
}

int med_arrivals_workload_from_plan(const struct med_plan *plan, struct med_workload *ret_workload,
                                    struct med_err *err)
{
    struct med_workload w = {
        .rate_per_s = plan->rate_per_s,
        .arrival = plan->arrival,
        .burstiness = plan->burstiness,
    };
    w.name = med_strdup(plan->workload_name ? plan->workload_name : "plan");
    int rc = w.name ? med_grid_copy(&plan->grid, &w.grid) : MED_E_NOMEM;
    if (rc < 0) {
        (void)med_err_set(err, rc, "memory for the workload is exhausted");
    } else {
        rc = copy_buckets(plan, &w, err);
    }
    if (rc < 0) {
        med_workload_release(&w);
        return rc;
    }
    *ret_workload = w;
    return 0;
}
