/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /metrics of the router, see metrics.h.
 *
 * One function per group of families.  Families without a sample are announced all the same, so that
 * a dashboard finds them.  Runs on the loop; a page of a large fleet is a few hundred kilobytes and
 * takes milliseconds at most. It keeps no state of its own.
 */
#include "router/metrics.h"

#include "router/prometheus.h"

#include <stdio.h>
#include <string.h>

enum family {
#define X(id, name, type, labels, help) FAMILY_##id,
    MED_ROUTER_METRIC_MAP(X)
#undef X
};

static const struct {
    const char *name, *type, *labels, *help;
} families[] = {
#define X(id, name, type, labels, help) {name, type, labels, help},
    MED_ROUTER_METRIC_MAP(X)
#undef X
};

static const double e2e_bounds_s[] = {.1, .3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,
                                      15, 20, 30, 40, 60, 120, 240, 480, 960, 1920};
static const double loop_delay_bounds_s[] = {.0005, .001, .002, .005, .01, .02,
                                             .05,   .1,   .2,   .5,   1,   5};

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

void med_router_metrics_init(struct med_router_metrics *metrics, const struct med_slos *slos)
{
    double bounds[MED_LIMIT_SLOS];
    memset(metrics, 0, sizeof(*metrics));
    size_t count = slo_bounds(slos, MED_SLO_TTFT, bounds);
    med_hist_init(&metrics->ttft, MED_HIST_TTFT_S, MED_HIST_TTFT_S_COUNT, bounds, count);
    count = slo_bounds(slos, MED_SLO_TPOT, bounds);
    med_hist_init(&metrics->tpot, MED_HIST_TPOT_S, MED_HIST_TPOT_S_COUNT, bounds, count);
    med_hist_init(&metrics->itl, MED_HIST_TPOT_S, MED_HIST_TPOT_S_COUNT, bounds, count);
    count = slo_bounds(slos, MED_SLO_E2E_PER_TOKEN, bounds);
    med_hist_init(&metrics->e2e_per_token, MED_HIST_TPOT_S, MED_HIST_TPOT_S_COUNT, bounds, count);
    med_hist_init(&metrics->e2e, e2e_bounds_s, COUNT_OF(e2e_bounds_s), NULL, 0);
    med_hist_init(&metrics->loop_delay, loop_delay_bounds_s, COUNT_OF(loop_delay_bounds_s), NULL,
                  0);
}

static void family(struct med_prom *prom, enum family id)
{
    med_prom_family(prom, families[id].name, families[id].type, families[id].help);
}

static void single_count(struct med_prom *prom, enum family id, uint64_t value)
{
    family(prom, id);
    med_prom_count(prom, NULL, value);
}

static void single_number(struct med_prom *prom, enum family id, double value)
{
    family(prom, id);
    med_prom_number(prom, NULL, value);
}

static void count_of(struct med_prom *prom, const char *label, const char *value, uint64_t count)
{
    struct med_prom_label labels[MED_PROM_LABELS_MAX] = {{label, value}};
    med_prom_count(prom, labels, count);
}

static void number_of(struct med_prom *prom, const char *label, const char *value, double number)
{
    struct med_prom_label labels[MED_PROM_LABELS_MAX] = {{label, value}};
    med_prom_number(prom, labels, number);
}

static void write_requests(struct med_prom *prom, const struct med_router_metrics_view *view)
{
    static const char *const refusal_names[MED_REFUSAL_COUNT] = {
        [MED_REFUSAL_OVERLOAD] = "overload",   [MED_REFUSAL_NO_WORKER] = "no_worker",
        [MED_REFUSAL_INVALID] = "invalid",     [MED_REFUSAL_NOT_FOUND] = "not_found",
        [MED_REFUSAL_DEADLINE] = "deadline",   [MED_REFUSAL_DRAINING] = "draining",
        [MED_REFUSAL_CANCELLED] = "cancelled",
    };
    const struct med_router_metrics *m = view->metrics;
    struct med_dispatch_totals totals;
    med_dispatch_get_totals(view->dispatch, &totals);
    uint64_t refused[MED_REFUSAL_COUNT];
    memcpy(refused, m->refused, sizeof(refused));
    refused[MED_REFUSAL_OVERLOAD] += totals.refused_overload;
    refused[MED_REFUSAL_NO_WORKER] += totals.refused_no_worker;
    refused[MED_REFUSAL_INVALID] += totals.refused_invalid;

    family(prom, FAMILY_REQUESTS);
    for (int i = 0; i < MED_OUTCOME_COUNT; i++)
        count_of(prom, "outcome", med_outcome_name((enum med_outcome)i), totals.outcomes[i]);
    single_count(prom, FAMILY_ACCEPTED, totals.accepted);
    family(prom, FAMILY_REFUSED);
    for (int i = 0; i < MED_REFUSAL_COUNT; i++)
        count_of(prom, "reason", refusal_names[i], refused[i]);
    single_count(prom, FAMILY_IN_FLIGHT, (uint64_t)totals.in_flight);
    single_count(prom, FAMILY_QUEUE_DEPTH, (uint64_t)totals.queued);
    single_count(prom, FAMILY_CALLS, view->calls);
    single_count(prom, FAMILY_SPILLS, totals.spills);
    family(prom, FAMILY_REROUTES);
    for (int i = 0; i < MED_REROUTE_COUNT; i++)
        count_of(prom, "reason", med_reroute_name((enum med_reroute)i), totals.reroutes[i]);
    single_count(prom, FAMILY_STALE, totals.stale_messages);
    single_count(prom, FAMILY_PROMPT_TOKENS, m->prompt_tokens);
}

static void write_picks(struct med_prom *prom, const struct med_router_metrics_view *view)
{
    const struct med_grid *grid = &view->plan->grid;
    family(prom, FAMILY_PICKS);
    for (size_t t = 0; t < med_dispatch_type_count(view->dispatch); t++) {
        for (size_t i = 0; i < grid->input_edge_count; i++) {
            for (size_t o = 0; o < grid->output_edge_count; o++) {
                uint64_t picks = med_dispatch_picks(view->dispatch, t, (int)i, (int)o);
                if (picks == 0)
                    continue;
                char input[32];
                char output[32];
                (void)snprintf(input, sizeof(input), "%.15g", grid->input_edges[i]);
                (void)snprintf(output, sizeof(output), "%.15g", grid->output_edges[o]);
                struct med_prom_label labels[MED_PROM_LABELS_MAX] = {
                    {"worker_type", med_dispatch_type_name(view->dispatch, t)},
                    {"input", input},
                    {"output", output}};
                med_prom_count(prom, labels, picks);
            }
        }
    }
}

static void write_worker_counts(struct med_prom *prom, const struct med_router_metrics_view *view)
{
    size_t types = med_dispatch_type_count(view->dispatch);
    uint64_t counts[MED_LIMIT_WORKER_TYPES][MED_WORKER_GONE + 1] = {{0}};
    struct med_dispatch_worker_view worker;
    for (uint32_t i = 0; i < view->workers_max; i++) {
        if (med_dispatch_get_worker(view->dispatch, i, &worker))
            counts[worker.type][worker.state]++;
    }
    family(prom, FAMILY_WORKERS);
    for (size_t t = 0; t < types; t++) {
        for (int s = 0; s <= MED_WORKER_GONE; s++) {
            struct med_prom_label labels[MED_PROM_LABELS_MAX] = {
                {"worker_type", med_dispatch_type_name(view->dispatch, t)},
                {"state", med_worker_state_name((enum med_worker_state)s)}};
            med_prom_count(prom, labels, counts[t][s]);
        }
    }
}

static void write_workers(struct med_prom *prom, const struct med_router_metrics_view *view)
{
    struct med_dispatch_worker_view worker;
    write_worker_counts(prom, view);
    family(prom, FAMILY_WORKER_STATE);
    for (uint32_t i = 0; i < view->workers_max; i++) {
        if (!med_dispatch_get_worker(view->dispatch, i, &worker))
            continue;
        struct med_prom_label labels[MED_PROM_LABELS_MAX] = {
            {"worker", worker.worker_id},
            {"worker_type", med_dispatch_type_name(view->dispatch, worker.type)},
            {"state", med_worker_state_name(worker.state)}};
        med_prom_count(prom, labels, 1);
    }
    family(prom, FAMILY_WORKER_IN_FLIGHT);
    for (uint32_t i = 0; i < view->workers_max; i++) {
        if (!med_dispatch_get_worker(view->dispatch, i, &worker))
            continue;
        struct med_prom_label labels[MED_PROM_LABELS_MAX] = {
            {"worker", worker.worker_id},
            {"worker_type", med_dispatch_type_name(view->dispatch, worker.type)}};
        med_prom_count(prom, labels, (uint64_t)worker.in_flight);
    }
    family(prom, FAMILY_DEPARTED);
    count_of(prom, "how", "lost", view->metrics->departed[0]);
    count_of(prom, "how", "drained", view->metrics->departed[1]);
    single_count(prom, FAMILY_LINKS_REFUSED, view->links_refused);
    single_count(prom, FAMILY_LINKS_BROKEN, view->links_broken);
}

static void write_hist(struct med_prom *prom, enum family id, const struct med_hist *hist)
{
    family(prom, id);
    med_prom_hist(prom, NULL, hist);
}

static void write_compared(struct med_prom *prom, const struct med_router_metrics_view *view,
                           enum family predicted, const struct med_compared *compared)
{
    size_t types = med_dispatch_type_count(view->dispatch);
    family(prom, predicted);
    for (size_t t = 0; t < types; t++) {
        number_of(prom, "worker_type", med_dispatch_type_name(view->dispatch, t),
                  compared[t].predicted_s);
    }
    family(prom, predicted + 1);
    for (size_t t = 0; t < types; t++) {
        number_of(prom, "worker_type", med_dispatch_type_name(view->dispatch, t),
                  compared[t].observed_s);
    }
    family(prom, predicted + 2);
    for (size_t t = 0; t < types; t++)
        count_of(prom, "worker_type", med_dispatch_type_name(view->dispatch, t), compared[t].count);
}

static void write_latencies(struct med_prom *prom, const struct med_router_metrics_view *view)
{
    const struct med_router_metrics *m = view->metrics;
    family(prom, FAMILY_OUTPUT_TOKENS);
    for (size_t t = 0; t < med_dispatch_type_count(view->dispatch); t++) {
        count_of(prom, "worker_type", med_dispatch_type_name(view->dispatch, t),
                 m->output_tokens[t]);
    }
    write_hist(prom, FAMILY_TTFT, &m->ttft);
    write_hist(prom, FAMILY_TPOT, &m->tpot);
    write_hist(prom, FAMILY_ITL, &m->itl);
    write_hist(prom, FAMILY_E2E, &m->e2e);
    write_hist(prom, FAMILY_E2E_PER_TOKEN, &m->e2e_per_token);
    write_compared(prom, view, FAMILY_TTFT_PREDICTED, m->ttft_compared);
    write_compared(prom, view, FAMILY_TPOT_PREDICTED, m->tpot_compared);
    write_hist(prom, FAMILY_LOOP_DELAY, &m->loop_delay);
}

static void write_plan(struct med_prom *prom, const struct med_plan *plan)
{
    static const char *const status_names[] = {[MED_PLAN_OPTIMAL] = "optimal",
                                               [MED_PLAN_FEASIBLE] = "feasible",
                                               [MED_PLAN_INFEASIBLE] = "infeasible"};
    struct med_prom_label info[MED_PROM_LABELS_MAX] = {{"model", plan->model_name},
                                                       {"workload", plan->workload_name},
                                                       {"status", status_names[plan->status]}};
    family(prom, FAMILY_PLAN_INFO);
    med_prom_count(prom, info, 1);
    single_number(prom, FAMILY_PLAN_COST, plan->cost_usd_per_hour);
    single_number(prom, FAMILY_PLAN_BOUND, plan->lower_bound_usd_per_hour);
    single_number(prom, FAMILY_PLAN_RATE, plan->rate_per_s);
    family(prom, FAMILY_PLAN_WORKERS);
    for (size_t i = 0; i < plan->worker_count; i++) {
        count_of(prom, "worker_type", plan->profiles[plan->workers[i].worker_type].worker_type,
                 (uint64_t)plan->workers[i].count);
    }
    family(prom, FAMILY_PLAN_UTILIZATION);
    for (size_t i = 0; i < plan->worker_count; i++) {
        number_of(prom, "worker_type", plan->profiles[plan->workers[i].worker_type].worker_type,
                  plan->workers[i].utilization);
    }
    family(prom, FAMILY_PLAN_INSTANCES);
    for (size_t i = 0; i < plan->instance_count; i++) {
        const struct med_plan_instance *instance = &plan->instances[i];
        struct med_prom_label labels[MED_PROM_LABELS_MAX] = {{"instance", instance->instance},
                                                             {"cloud", instance->cloud},
                                                             {"region", instance->region}};
        med_prom_count(prom, labels, (uint64_t)instance->count);
    }
    family(prom, FAMILY_PLAN_SLO);
    for (size_t i = 0; i < plan->slos.count; i++) {
        number_of(prom, "metric", med_slo_metric_name(plan->slos.items[i].metric),
                  plan->slos.items[i].limit_ms / 1000);
    }
}

int med_router_metrics_write(const struct med_router_metrics_view *view, struct med_buf *out)
{
    struct med_prom prom;
    med_prom_init(&prom, out);
    write_requests(&prom, view);
    write_picks(&prom, view);
    write_workers(&prom, view);
    write_latencies(&prom, view);
    single_count(&prom, FAMILY_DRAINING, view->draining ? 1 : 0);
    family(&prom, FAMILY_BUILD);
    count_of(&prom, "version", MED_VERSION, 1);
    write_plan(&prom, view->plan);
    return med_prom_finish(&prom);
}

int med_router_metrics_markdown(struct med_buf *out)
{
    int rc = med_buf_append_str(
        out, "# Metrics of the router\n\n"
             "`GET /metrics` on the router's HTTP door, Prometheus text format. Times are fleet "
             "seconds (real seconds times `--time-scale`), but for the loop's delay. This page is "
             "written from the table in `router/metrics.h`.\n\n"
             "| name | type | labels | meaning |\n|---|---|---|---|\n");
    for (size_t i = 0; rc == 0 && i < COUNT_OF(families); i++) {
        rc = med_buf_printf(out, "| `%s` | %s | %s | %s |\n", families[i].name, families[i].type,
                            families[i].labels, families[i].help);
    }
    return rc;
}
