/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the router counts and measures, see metrics.h: observations only; the page is in
 * metrics_page.c, series per bucket and worker type in metrics_traffic.c.  Runs on the loop.  No
 * observation allocates.
 */
#include "router/metrics.h"

#include "base/clock.h"

#include <string.h>

static const double e2e_bounds_s[] = {.1, .3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,
                                      15, 20, 30, 40, 60, 120, 240, 480, 960, 1920};
static const double loop_delay_bounds_s[] = {.0005, .001, .002, .005, .01, .02,
                                             .05,   .1,   .2,   .5,   1,   5};
static const double overhead_bounds_s[] = {.00001, .00002, .00005, .0001, .0002, .0005, .001,
                                           .002,   .005,   .01,    .02,   .05,   .1,    .5};

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static size_t slo_bounds(const struct med_slos *slos, enum med_slo_metric metric,
                         double bounds[MED_LIMIT_SLOS])
{
    size_t count = 0;
    for (size_t i = 0; i < slos->count; i++) {
        if (slos->items[i].metric == metric)
            bounds[count++] = slos->items[i].limit_ms / 1000;
    }
    return count;
}

/* Those whose bounds are the objectives. */
static void init_latencies(struct med_router_metrics *metrics, const struct med_slos *slos)
{
    double bounds[MED_LIMIT_SLOS];
    metrics->slos = *slos;
    size_t count = slo_bounds(slos, MED_SLO_TTFT, bounds);
    med_hist_init(&metrics->ttft, MED_HIST_TTFT_S, MED_HIST_TTFT_S_COUNT, bounds, count);
    count = slo_bounds(slos, MED_SLO_TPOT, bounds);
    med_hist_init(&metrics->tpot, MED_HIST_TPOT_S, MED_HIST_TPOT_S_COUNT, bounds, count);
    med_hist_init(&metrics->itl, MED_HIST_TPOT_S, MED_HIST_TPOT_S_COUNT, bounds, count);
    count = slo_bounds(slos, MED_SLO_E2E_PER_TOKEN, bounds);
    med_hist_init(&metrics->e2e_per_token, MED_HIST_TPOT_S, MED_HIST_TPOT_S_COUNT, bounds, count);
    memset(metrics->objectives, 0, sizeof(metrics->objectives));
}

int med_router_metrics_init(struct med_router_metrics *metrics, const struct med_plan *plan,
                            const struct med_dispatch *dispatch)
{
    memset(metrics, 0, sizeof(*metrics));
    init_latencies(metrics, &plan->slos);
    med_hist_init(&metrics->e2e, e2e_bounds_s, COUNT_OF(e2e_bounds_s), NULL, 0);
    med_hist_init(&metrics->loop_delay, loop_delay_bounds_s, COUNT_OF(loop_delay_bounds_s), NULL,
                  0);
    med_hist_init(&metrics->request_overhead, overhead_bounds_s, COUNT_OF(overhead_bounds_s), NULL,
                  0);
    med_hist_init(&metrics->token_overhead, overhead_bounds_s, COUNT_OF(overhead_bounds_s), NULL,
                  0);
    med_loop_watch_init(&metrics->loop);
    med_traffic_init(&metrics->traffic);
    return med_traffic_replan(&metrics->traffic, plan, dispatch);
}

void med_router_metrics_release(struct med_router_metrics *metrics)
{
    med_traffic_release(&metrics->traffic);
}

static bool slos_are_equal(const struct med_slos *a, const struct med_slos *b)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        if (a->items[i].metric != b->items[i].metric ||
            a->items[i].limit_ms != b->items[i].limit_ms)
            return false;
    }
    return true;
}

int med_router_metrics_replan(struct med_router_metrics *metrics, const struct med_plan *plan,
                              const struct med_dispatch *dispatch)
{
    int rc = med_traffic_replan(&metrics->traffic, plan, dispatch);
    if (rc == 0 && !slos_are_equal(&metrics->slos, &plan->slos))
        init_latencies(metrics, &plan->slos);
    return rc;
}

bool med_router_metrics_has_objective(const struct med_router_metrics *metrics, int objective)
{
    for (size_t i = 0; i < metrics->slos.count; i++) {
        if (objective == MED_OBJECTIVE_ALL || (int)metrics->slos.items[i].metric == objective)
            return true;
    }
    return false;
}

bool med_router_metrics_is_broken(enum med_outcome outcome)
{
    switch (outcome) {
    case MED_OUTCOME_STOP:
    case MED_OUTCOME_LENGTH:
    case MED_OUTCOME_ABORT_CLIENT:
        return false;
    default:
        return true;
    }
}

const char *med_router_refusal_name(enum med_router_refusal reason)
{
    static const char *const names[MED_REFUSAL_COUNT] = {
        [MED_REFUSAL_OVERLOAD] = "overload",   [MED_REFUSAL_NO_WORKER] = "no_worker",
        [MED_REFUSAL_INVALID] = "invalid",     [MED_REFUSAL_NOT_FOUND] = "not_found",
        [MED_REFUSAL_DEADLINE] = "deadline",   [MED_REFUSAL_DRAINING] = "draining",
        [MED_REFUSAL_CANCELLED] = "cancelled",
    };
    return names[reason];
}

uint64_t med_router_metrics_refused(const struct med_router_metrics *metrics,
                                    const struct med_dispatch_totals *totals,
                                    enum med_router_refusal reason)
{
    uint64_t count = metrics->refused[reason];
    switch (reason) {
    case MED_REFUSAL_OVERLOAD:
        return count + totals->refused_overload;
    case MED_REFUSAL_NO_WORKER:
        return count + totals->refused_no_worker;
    case MED_REFUSAL_INVALID:
        return count + totals->refused_invalid;
    default:
        return count;
    }
}

static const char *const http_paths[MED_HTTP_PATHS] = {"/v1/completions", "/v1/chat/completions",
                                                       "/v1/models",      "/tokenize",
                                                       "/detokenize",     "/health",
                                                       "/version",        "/metrics",
                                                       "/ping",           "/admin",
                                                       "other",           "none"};
enum {
    HTTP_OTHER = MED_HTTP_PATHS - 2,
    HTTP_NONE
};

static const int http_statuses[MED_HTTP_STATUSES] = {200, 204, 400, 401, 403, 404, 405, 408,
                                                     409, 411, 413, 414, 415, 417, 422, 429,
                                                     431, 499, 500, 501, 503, 504, 505, 0};

const char *med_router_metrics_http_path(size_t path)
{
    return http_paths[path];
}

int med_router_metrics_http_status(size_t status)
{
    return http_statuses[status];
}

/* "/v1/models/x" counts as "/v1/models". */
static size_t http_path_of(const char *path)
{
    if (path == NULL)
        return HTTP_NONE;
    for (size_t i = 0; i < HTTP_OTHER; i++) {
        size_t length = strlen(http_paths[i]);
        if (strncmp(path, http_paths[i], length) == 0 &&
            (path[length] == '\0' || path[length] == '/'))
            return i;
    }
    return HTTP_OTHER;
}

void med_router_metrics_http(struct med_router_metrics *metrics, const char *path, int status)
{
    size_t at = 0;
    while (http_statuses[at] != status && http_statuses[at] != 0)
        at++;
    metrics->http[http_path_of(path)][at]++;
}

static double seconds(int64_t ns)
{
    return (double)ns / (double)MED_NS_PER_S;
}

/* Negative: it says nothing of this request. */
static double measured_ms(const struct med_router_ended *ended, enum med_slo_metric metric)
{
    switch (metric) {
    case MED_SLO_TTFT:
        return seconds(ended->ttft_ns) * 1000;
    case MED_SLO_TPOT:
        return ended->tpot_ns >= 0 ? seconds(ended->tpot_ns) * 1000 : -1;
    case MED_SLO_E2E_PER_TOKEN:
        return seconds(ended->e2e_ns) * 1000 / (double)ended->output_tokens;
    }
    return -1;
}

static void count_objectives(struct med_router_metrics *metrics,
                             const struct med_router_ended *ended)
{
    bool concerned[MED_OBJECTIVES] = {false};
    bool missed[MED_OBJECTIVES] = {false};
    for (size_t i = 0; i < metrics->slos.count; i++) {
        const struct med_slo *slo = &metrics->slos.items[i];
        double ms = measured_ms(ended, slo->metric);
        if (ms < 0)
            continue;
        concerned[slo->metric] = true;
        concerned[MED_OBJECTIVE_ALL] = true;
        if (ms > slo->limit_ms) {
            missed[slo->metric] = true;
            missed[MED_OBJECTIVE_ALL] = true;
        }
    }
    for (int i = 0; i < MED_OBJECTIVES; i++) {
        metrics->objectives[i].requests += concerned[i];
        metrics->objectives[i].met += concerned[i] && !missed[i];
    }
}

void med_router_metrics_ended(struct med_router_metrics *metrics,
                              const struct med_router_ended *ended)
{
    struct med_traffic *traffic = &metrics->traffic;
    double e2e_s = seconds(ended->e2e_ns);
    med_hist_add(&metrics->e2e, e2e_s);
    med_hist_add(&metrics->e2e_per_token, e2e_s / (double)ended->output_tokens);
    if (ended->tpot_ns >= 0)
        med_hist_add(&metrics->tpot, seconds(ended->tpot_ns));
    count_objectives(metrics, ended);
    med_traffic_bucket_of(traffic, ended->prompt_tokens, ended->output_tokens)->completed++;
    med_traffic_compare(traffic, ended->type, ended->input_row, ended->output_row, MED_COMPARE_TPOT,
                        ended->predicted_tpot_ns, ended->tpot_ns);
    med_traffic_compare(traffic, ended->type, ended->input_row, ended->output_row,
                        MED_COMPARE_OUTPUT, ended->predicted_output_tokens, ended->output_tokens);
}

void med_router_metrics_spend(struct med_router_metrics *metrics,
                              const struct med_dispatch *dispatch, uint32_t workers_max,
                              int64_t fleet_ns)
{
    struct med_dispatch_worker_view worker;
    double hours = seconds(fleet_ns) / 3600;
    for (uint32_t i = 0; i < workers_max; i++) {
        if (!med_dispatch_get_worker(dispatch, i, &worker))
            continue;
        struct med_traffic_type *type = med_traffic_type_at(&metrics->traffic, worker.type);
        type->usd += type->usd_per_hour * hours;
    }
}
