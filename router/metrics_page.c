/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /metrics of the router and docs/reference/metrics.md, see metrics.h.
 *
 * One function per group of families.  Families without a sample are announced all the same, so that
 * a dashboard finds them.  Buckets without traffic have no samples.  Runs on the loop, in
 * milliseconds also for a large fleet (docs/internals/metrics.md). It keeps no state of its own.
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

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

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
    const struct med_router_metrics *m = view->metrics;
    struct med_dispatch_totals totals;
    med_dispatch_get_totals(view->dispatch, &totals);
    family(prom, FAMILY_REQUESTS);
    for (int i = 0; i < MED_OUTCOME_COUNT; i++)
        count_of(prom, "outcome", med_outcome_name((enum med_outcome)i), totals.outcomes[i]);
    single_count(prom, FAMILY_ACCEPTED, totals.accepted);
    family(prom, FAMILY_REFUSED);
    for (int i = 0; i < MED_REFUSAL_COUNT; i++) {
        enum med_router_refusal reason = (enum med_router_refusal)i;
        count_of(prom, "reason", med_router_refusal_name(reason),
                 med_router_metrics_refused(m, &totals, reason));
    }
    single_count(prom, FAMILY_IN_FLIGHT, (uint64_t)totals.in_flight);
    single_count(prom, FAMILY_QUEUE_DEPTH, (uint64_t)totals.queued);
    single_count(prom, FAMILY_CALLS, view->calls);
    family(prom, FAMILY_GRPC_CALLS);
    for (size_t i = 0; i < view->call_count_count; i++) {
        struct med_prom_label labels[MED_PROM_LABELS_MAX] = {
            {"method", view->call_counts[i].method}, {"code", view->call_counts[i].code}};
        med_prom_count(prom, labels, view->call_counts[i].count);
    }
    single_count(prom, FAMILY_SPILLS, totals.spills);
    family(prom, FAMILY_REROUTES);
    for (int i = 0; i < MED_REROUTE_COUNT; i++)
        count_of(prom, "reason", med_reroute_name((enum med_reroute)i), totals.reroutes[i]);
    family(prom, FAMILY_BROKEN);
    for (int i = 0; i < MED_OUTCOME_COUNT; i++) {
        if (med_router_metrics_is_broken((enum med_outcome)i))
            count_of(prom, "outcome", med_outcome_name((enum med_outcome)i), m->broken[i]);
    }
    single_count(prom, FAMILY_RESUMES, view->metrics->resumes);
    single_count(prom, FAMILY_STALE, totals.stale_messages);
    single_count(prom, FAMILY_PROMPT_TOKENS, m->prompt_tokens);
}

/* `{worker_type="A10G",input="100",output="250"}` */
static const char *cell_labels(char *out, size_t bytes, const struct med_traffic_type *type,
                               const struct med_traffic_bucket *bucket)
{
    (void)snprintf(out, bytes, "{%s%s%s}", type != NULL ? type->label : "", type != NULL ? "," : "",
                   bucket->labels);
    return out;
}

enum {
    CELL_LABEL_BYTES = 2 * MED_LIMIT_NAME_BYTES + MED_TRAFFIC_LABEL_BYTES + 32
};

static void write_http(struct med_prom *prom, const struct med_router_metrics_view *view)
{
    family(prom, FAMILY_HTTP_REQUESTS);
    for (size_t p = 0; p < MED_HTTP_PATHS; p++) {
        for (size_t s = 0; s < MED_HTTP_STATUSES; s++) {
            char status[16];
            if (view->metrics->http[p][s] == 0)
                continue;
            (void)snprintf(status, sizeof(status), "%d", med_router_metrics_http_status(s));
            struct med_prom_label labels[MED_PROM_LABELS_MAX] = {
                {"path", med_router_metrics_http_path(p)}, {"status", status}};
            med_prom_count(prom, labels, view->metrics->http[p][s]);
        }
    }
    single_count(prom, FAMILY_HTTP_CONNECTIONS, view->http.connections);
    single_count(prom, FAMILY_HTTP_ACCEPTED, view->http.accepted);
    single_count(prom, FAMILY_HTTP_TURNED_AWAY, view->http.turned_away);
}

static void write_picks(struct med_prom *prom, const struct med_traffic *traffic)
{
    char labels[CELL_LABEL_BYTES];
    family(prom, FAMILY_PICKS);
    for (size_t t = 0; t < traffic->type_count; t++) {
        const struct med_traffic_type *type = &traffic->types[t];
        for (size_t b = 0; b < traffic->bucket_count; b++) {
            if (type->cells[b].picks > 0) {
                med_prom_printed_count(
                    prom, cell_labels(labels, sizeof(labels), type, &traffic->buckets[b]),
                    type->cells[b].picks);
            }
        }
    }
    family(prom, FAMILY_DEMAND);
    for (size_t b = 0; b < traffic->bucket_count; b++) {
        if (traffic->buckets[b].demand > 0) {
            med_prom_printed_count(prom,
                                   cell_labels(labels, sizeof(labels), NULL, &traffic->buckets[b]),
                                   traffic->buckets[b].demand);
        }
    }
    family(prom, FAMILY_COMPLETED);
    for (size_t b = 0; b < traffic->bucket_count; b++) {
        if (traffic->buckets[b].completed > 0) {
            med_prom_printed_count(prom,
                                   cell_labels(labels, sizeof(labels), NULL, &traffic->buckets[b]),
                                   traffic->buckets[b].completed);
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

/* ---- what dispatch decides by ---- */

static void write_refusals(struct med_prom *prom, const struct med_router_metrics_view *view)
{
    struct med_dispatch_totals totals;
    med_dispatch_get_totals(view->dispatch, &totals);
    family(prom, FAMILY_OVERLOAD_REFUSED);
    count_of(prom, "cause", "wait", totals.refused_admission);
    count_of(prom, "cause", "queue", totals.refused_queue);
    count_of(prom, "cause", "requests", totals.refused_table);
    count_of(prom, "cause", "late", totals.refused_late);
    count_of(prom, "cause", "door", view->metrics->refused[MED_REFUSAL_OVERLOAD]);
}

/* One family of one number per worker type. */
static void write_admission_family(struct med_prom *prom, enum family id,
                                   const struct med_dispatch *dispatch,
                                   const struct med_dispatch_type_view *types)
{
    family(prom, id);
    for (size_t t = 0; t < med_dispatch_type_count(dispatch); t++) {
        const struct med_dispatch_type_view *type = &types[t];
        double value = id == FAMILY_ADMISSION_RATE     ? type->rate_per_s
                       : id == FAMILY_ADMISSION_QUEUED ? (double)type->queued
                       : id == FAMILY_ADMISSION_CAP    ? type->queued_cap
                                                       : (double)type->wait_ns / 1e9;
        if (id != FAMILY_ADMISSION_WAIT || type->wait_ns >= 0)
            number_of(prom, "worker_type", med_dispatch_type_name(dispatch, t), value);
    }
}

static void write_type_counts(struct med_prom *prom, enum family id,
                              const struct med_dispatch *dispatch,
                              const struct med_dispatch_type_view *types)
{
    family(prom, id);
    for (size_t t = 0; t < med_dispatch_type_count(dispatch); t++) {
        const struct med_dispatch_type_counts *counts = &types[t].counts;
        uint64_t value = id == FAMILY_ADMISSION_REFUSED ? counts->refused_admission
                         : id == FAMILY_BREAKER_OPENED  ? counts->breaker_opened
                         : id == FAMILY_PREFIX_PROMPTS  ? counts->prompts
                         : id == FAMILY_PREFIX_PICKS    ? counts->affinity
                         : id == FAMILY_PREFIX_EXPECTED ? counts->affinity_tokens
                                                        : counts->cached_tokens;
        count_of(prom, "worker_type", med_dispatch_type_name(dispatch, t), value);
    }
}

enum breaker_state {
    BREAKER_CLOSED,
    BREAKER_OPEN,
    BREAKER_PROBING,
    BREAKER_STATES
};

static void write_breakers(struct med_prom *prom, const struct med_router_metrics_view *view,
                           const struct med_dispatch_type_view *types)
{
    static const char *const names[BREAKER_STATES] = {"closed", "open", "probing"};
    size_t type_count = med_dispatch_type_count(view->dispatch);
    uint64_t states[MED_LIMIT_WORKER_TYPES][BREAKER_STATES] = {{0}};
    uint64_t distrusted[MED_LIMIT_WORKER_TYPES] = {0};
    struct med_dispatch_worker_view worker;
    family(prom, FAMILY_WORKER_BREAKER);
    for (uint32_t i = 0; i < view->workers_max; i++) {
        if (!med_dispatch_get_worker(view->dispatch, i, &worker))
            continue;
        struct med_prom_label labels[MED_PROM_LABELS_MAX] = {
            {"worker", worker.worker_id},
            {"worker_type", med_dispatch_type_name(view->dispatch, worker.type)}};
        med_prom_count(prom, labels, worker.breaker_open);
        distrusted[worker.type] += !worker.prefix_cache;
        states[worker.type][!worker.breaker_open     ? BREAKER_CLOSED
                            : worker.breaker_probing ? BREAKER_PROBING
                                                     : BREAKER_OPEN]++;
    }
    family(prom, FAMILY_BREAKERS);
    for (size_t t = 0; t < type_count; t++) {
        for (int s = 0; s < BREAKER_STATES; s++) {
            struct med_prom_label labels[MED_PROM_LABELS_MAX] = {
                {"worker_type", med_dispatch_type_name(view->dispatch, t)}, {"state", names[s]}};
            med_prom_count(prom, labels, states[t][s]);
        }
    }
    write_type_counts(prom, FAMILY_BREAKER_OPENED, view->dispatch, types);
    family(prom, FAMILY_WORKER_FAULTS);
    for (size_t t = 0; t < type_count; t++) {
        for (int c = 0; c < MED_WORKER_FAULT_COUNT; c++) {
            struct med_prom_label labels[MED_PROM_LABELS_MAX] = {
                {"worker_type", med_dispatch_type_name(view->dispatch, t)},
                {"cause", med_worker_fault_name((enum med_worker_fault)c)}};
            med_prom_count(prom, labels, types[t].counts.faults[c]);
        }
    }
    family(prom, FAMILY_PREFIX_DISTRUSTED);
    for (size_t t = 0; t < type_count; t++)
        count_of(prom, "worker_type", med_dispatch_type_name(view->dispatch, t), distrusted[t]);
}

static void write_lengths(struct med_prom *prom, const struct med_router_metrics_view *view)
{
    for (int which = 0; which < 4; which++) {
        family(prom, FAMILY_LENGTH_PREDICTED + (enum family)which);
        for (size_t r = 0; r < view->plan->grid.input_edge_count; r++) {
            struct med_dispatch_lengths lengths;
            char input[32];
            med_dispatch_get_lengths(view->dispatch, (int)r, &lengths);
            (void)snprintf(input, sizeof(input), "%.15g", view->plan->grid.input_edges[r]);
            double sums[] = {lengths.predicted, lengths.actual, lengths.error,
                             (double)lengths.count};
            number_of(prom, "input", input, sums[which]);
        }
    }
}

static void write_dispatch(struct med_prom *prom, const struct med_router_metrics_view *view)
{
    static const enum family admission[] = {FAMILY_ADMISSION_RATE, FAMILY_ADMISSION_QUEUED,
                                            FAMILY_ADMISSION_CAP, FAMILY_ADMISSION_WAIT};
    static const enum family counts[] = {FAMILY_ADMISSION_REFUSED, FAMILY_PREFIX_PROMPTS,
                                         FAMILY_PREFIX_PICKS, FAMILY_PREFIX_EXPECTED,
                                         FAMILY_PREFIX_CACHED};
    struct med_dispatch_type_view types[MED_LIMIT_WORKER_TYPES] = {0};
    for (size_t t = 0; t < med_dispatch_type_count(view->dispatch); t++)
        med_dispatch_get_type(view->dispatch, t, &types[t]);
    write_refusals(prom, view);
    for (size_t i = 0; i < COUNT_OF(admission); i++)
        write_admission_family(prom, admission[i], view->dispatch, types);
    single_number(prom, FAMILY_ADMISSION_WAIT_MAX, (double)types[0].wait_max_ns / 1e9);
    for (size_t i = 0; i < COUNT_OF(counts); i++)
        write_type_counts(prom, counts[i], view->dispatch, types);
    write_breakers(prom, view, types);
    struct med_dispatch_tables tables;
    med_dispatch_get_tables(view->dispatch, &tables);
    family(prom, FAMILY_TABLE_ENTRIES);
    count_of(prom, "table", "users", tables.users);
    count_of(prom, "table", "prefixes", tables.prefixes);
    family(prom, FAMILY_TABLE_MAX);
    count_of(prom, "table", "users", tables.users_max);
    count_of(prom, "table", "prefixes", tables.prefixes_max);
    write_lengths(prom, view);
}

static void write_hist(struct med_prom *prom, enum family id, const struct med_hist *hist)
{
    family(prom, id);
    med_prom_hist(prom, NULL, hist);
}

/* One of the three families of a comparison: its sum of predictions, of observations, or its count. */
static void write_compared(struct med_prom *prom, const struct med_traffic *traffic,
                           enum med_comparison what, int which)
{
    char labels[CELL_LABEL_BYTES];
    family(prom, FAMILY_TTFT_PREDICTED + (enum family)(3 * (int)what + which));
    for (size_t t = 0; t < traffic->type_count; t++) {
        const struct med_traffic_type *type = &traffic->types[t];
        for (size_t b = 0; b < traffic->bucket_count; b++) {
            const struct med_compared *compared = &type->cells[b].compared[what];
            if (compared->count == 0)
                continue;
            (void)cell_labels(labels, sizeof(labels), type, &traffic->buckets[b]);
            uint64_t value = which == 0   ? compared->predicted
                             : which == 1 ? compared->observed
                                          : compared->count;
            if (what == MED_COMPARE_OUTPUT || which == 2) {
                med_prom_printed_count(prom, labels, value);
            } else {
                med_prom_printed_ns(prom, labels, value);
            }
        }
    }
}

static void write_errors(struct med_prom *prom, const struct med_traffic *traffic)
{
    for (int what = 0; what < MED_COMPARE_COUNT; what++) {
        for (int which = 0; which < 3; which++)
            write_compared(prom, traffic, (enum med_comparison)what, which);
    }
    for (int what = 0; what < MED_COMPARE_COUNT; what++) {
        family(prom, FAMILY_TTFT_ERROR + (enum family)what);
        for (size_t t = 0; t < traffic->type_count; t++) {
            struct med_prom_label labels[MED_PROM_LABELS_MAX] = {
                {"worker_type", traffic->types[t].name}};
            med_prom_hist(prom, labels, &traffic->types[t].error[what]);
        }
    }
}

static void write_objectives(struct med_prom *prom, const struct med_router_metrics *m)
{
    for (int met = 0; met < 2; met++) {
        family(prom, met ? FAMILY_OBJECTIVE_MET : FAMILY_OBJECTIVE_REQUESTS);
        for (int i = 0; m->slos.count > 0 && i < MED_OBJECTIVES; i++) {
            if (!med_router_metrics_has_objective(m, i))
                continue;
            const char *name =
                i == MED_OBJECTIVE_ALL ? "all" : med_slo_metric_name((enum med_slo_metric)i);
            count_of(prom, "objective", name,
                     met ? m->objectives[i].met : m->objectives[i].requests);
        }
    }
}

static void write_cost(struct med_prom *prom, const struct med_router_metrics_view *view)
{
    const struct med_traffic *traffic = &view->metrics->traffic;
    double usd_per_hour[MED_LIMIT_WORKER_TYPES] = {0};
    struct med_dispatch_worker_view worker;
    for (uint32_t i = 0; i < view->workers_max; i++) {
        if (med_dispatch_get_worker(view->dispatch, i, &worker))
            usd_per_hour[worker.type] += traffic->types[traffic->type_of[worker.type]].usd_per_hour;
    }
    family(prom, FAMILY_COST_RATE);
    for (size_t t = 0; t < med_dispatch_type_count(view->dispatch); t++)
        number_of(prom, "worker_type", traffic->types[traffic->type_of[t]].name, usd_per_hour[t]);
    family(prom, FAMILY_COST);
    for (size_t t = 0; t < traffic->type_count; t++)
        number_of(prom, "worker_type", traffic->types[t].name, traffic->types[t].usd);
    family(prom, FAMILY_COST_PER_TOKENS);
    for (size_t t = 0; t < traffic->type_count; t++) {
        const struct med_traffic_type *type = &traffic->types[t];
        if (type->output_tokens > 0) {
            number_of(prom, "worker_type", type->name,
                      type->usd / (double)type->output_tokens * 1e6);
        }
    }
}

static void write_loop(struct med_prom *prom, const struct med_router_metrics *m)
{
    const struct med_loop_watch *loop = &m->loop;
    write_hist(prom, FAMILY_LOOP_DELAY, &m->loop_delay);
    write_hist(prom, FAMILY_LOOP_TURN, &loop->turns);
    family(prom, FAMILY_LOOP_BUSY);
    for (int i = 0; i < MED_LOOP_JOBS; i++) {
        number_of(prom, "job", med_loop_job_name((enum med_loop_job)i),
                  (double)loop->jobs[i].busy_ns / 1e9);
    }
    family(prom, FAMILY_LOOP_RUNS);
    for (int i = 0; i < MED_LOOP_JOBS; i++)
        count_of(prom, "job", med_loop_job_name((enum med_loop_job)i), loop->jobs[i].runs);
    family(prom, FAMILY_LOOP_LONG);
    for (int i = 0; i < MED_LOOP_JOBS; i++)
        count_of(prom, "job", med_loop_job_name((enum med_loop_job)i), loop->jobs[i].long_runs);
}

static void write_latencies(struct med_prom *prom, const struct med_router_metrics_view *view)
{
    const struct med_router_metrics *m = view->metrics;
    family(prom, FAMILY_OUTPUT_TOKENS);
    for (size_t t = 0; t < m->traffic.type_count; t++) {
        count_of(prom, "worker_type", m->traffic.types[t].name, m->traffic.types[t].output_tokens);
    }
    write_hist(prom, FAMILY_TTFT, &m->ttft);
    write_hist(prom, FAMILY_TPOT, &m->tpot);
    write_hist(prom, FAMILY_ITL, &m->itl);
    write_hist(prom, FAMILY_E2E, &m->e2e);
    write_hist(prom, FAMILY_E2E_PER_TOKEN, &m->e2e_per_token);
    write_objectives(prom, m);
    write_errors(prom, &m->traffic);
    write_hist(prom, FAMILY_REQUEST_OVERHEAD, &m->request_overhead);
    write_hist(prom, FAMILY_TOKEN_OVERHEAD, &m->token_overhead);
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
    family(prom, FAMILY_PLAN_WORKER_COST);
    for (size_t i = 0; i < plan->worker_count; i++) {
        const char *name = plan->profiles[plan->workers[i].worker_type].worker_type;
        number_of(prom, "worker_type", name, med_traffic_worker_price(plan, name));
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
    family(prom, FAMILY_PLAN_DEMAND);
    for (size_t i = 0; i < plan->assignment_count; i++) {
        const struct med_plan_assignment *bucket = &plan->assignment[i];
        char input[32];
        char output[32];
        (void)snprintf(input, sizeof(input), "%.15g", plan->grid.input_edges[bucket->input_row]);
        (void)snprintf(output, sizeof(output), "%.15g",
                       plan->grid.output_edges[bucket->output_row]);
        struct med_prom_label labels[MED_PROM_LABELS_MAX] = {{"input", input}, {"output", output}};
        med_prom_number(prom, labels, bucket->rate_per_s);
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
    write_http(&prom, view);
    write_picks(&prom, &view->metrics->traffic);
    write_workers(&prom, view);
    write_dispatch(&prom, view);
    write_latencies(&prom, view);
    write_cost(&prom, view);
    write_loop(&prom, view->metrics);
    single_count(&prom, FAMILY_DRAINING, view->draining ? 1 : 0);
    family(&prom, FAMILY_BUILD);
    count_of(&prom, "version", MED_VERSION, 1);
    single_count(&prom, FAMILY_PLAN_GENERATION, view->plan_generation);
    single_number(&prom, FAMILY_PLAN_LOADED, (double)view->plan_loaded_unix_ns / 1e9);
    family(&prom, FAMILY_PLAN_RELOADS);
    count_of(&prom, "result", "done", view->reloads[0]);
    count_of(&prom, "result", "refused", view->reloads[1]);
    write_plan(&prom, view->plan);
    return med_prom_finish(&prom);
}

int med_router_metrics_markdown(struct med_buf *out)
{
    int rc = med_buf_append_str(
        out,
        "# Metrics of the router\n\n"
        "`GET /metrics` on the router's HTTP door, Prometheus text format. Times are fleet "
        "seconds (real seconds times `--time-scale`), but for the router's own: loop and overhead. "
        "This page is "
        "written from the table in `router/metrics.h`.\n\n"
        "| name | type | labels | meaning |\n|---|---|---|---|\n");
    for (size_t i = 0; rc == 0 && i < COUNT_OF(families); i++) {
        rc = med_buf_printf(out, "| `%s` | %s | %s | %s |\n", families[i].name, families[i].type,
                            families[i].labels, families[i].help);
    }
    return rc;
}
