/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /admin/state: what the admin view shows, as JSON.
 *
 * One function per part of the page.  Everything is read from the router's own tables in one turn of
 * the loop, so the numbers fit each other.  Times are fleet seconds, except those of the loop and of the
 * router's own work, whose names say `real` or that are of the process.  Runs on the loop.  It changes
 * nothing.
 */
#include "router/router_internal.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/log.h"

#include <math.h>
#include <string.h>

enum {
    OLDEST_SHOWN = 20,
    SLOW_SHOWN = 20
};

static double seconds(int64_t ns)
{
    return (double)ns / (double)MED_NS_PER_S;
}

/* ---- latencies ---- */

/* The quantile, as Prometheus would say it: linear within a bucket; NAN when empty. */
static double quantile(const struct med_hist *hist, double q)
{
    double rank = q * (double)hist->count;
    double below = 0;
    if (hist->count == 0)
        return NAN;
    for (size_t i = 0; i < hist->bound_count; i++) {
        double in_bucket = (double)hist->counts[i];
        if (in_bucket > 0 && below + in_bucket >= rank) {
            double low = i > 0 ? hist->bounds[i - 1] : 0;
            return low + (hist->bounds[i] - low) * (rank - below) / in_bucket;
        }
        below += in_bucket;
    }
    return hist->bounds[hist->bound_count - 1];
}

static void put_hist(struct med_json_writer *w, const char *key, const struct med_hist *hist)
{
    med_json_begin_row_object(w, key);
    med_json_put_integer(w, "count", (int64_t)hist->count);
    if (hist->count > 0) {
        med_json_put_number(w, "mean_s", hist->sum / (double)hist->count);
        med_json_put_number(w, "p50_s", quantile(hist, 0.5));
        med_json_put_number(w, "p90_s", quantile(hist, 0.9));
        med_json_put_number(w, "p99_s", quantile(hist, 0.99));
    }
    med_json_end_object(w);
}

static void put_latencies(struct med_json_writer *w, const struct med_router *router)
{
    const struct med_router_metrics *m = &router->metrics;
    med_json_begin_object(w, "latencies");
    put_hist(w, "ttft", &m->ttft);
    put_hist(w, "tpot", &m->tpot);
    put_hist(w, "itl", &m->itl);
    put_hist(w, "e2e", &m->e2e);
    put_hist(w, "request_overhead_real", &m->request_overhead);
    put_hist(w, "token_overhead_real", &m->token_overhead);
    med_json_end_object(w);
    med_json_begin_array(w, "objectives");
    for (size_t i = 0; i < m->slos.count; i++) {
        const struct med_slo *slo = &m->slos.items[i];
        const struct med_objective_count *count = &m->objectives[slo->metric];
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "metric", med_slo_metric_name(slo->metric));
        med_json_put_number(w, "limit_s", slo->limit_ms / 1000);
        med_json_put_integer(w, "requests", (int64_t)count->requests);
        med_json_put_integer(w, "met", (int64_t)count->met);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

/* ---- requests ---- */

static void put_http(struct med_json_writer *w, const struct med_router *router)
{
    struct med_http_server_stats stats;
    med_http_server_get_stats(router->http, &stats);
    med_json_begin_row_object(w, "http");
    med_json_put_integer(w, "connections", (int64_t)stats.connections);
    med_json_put_integer(w, "connections_accepted", (int64_t)stats.accepted);
    med_json_put_integer(w, "connections_turned_away", (int64_t)stats.turned_away);
    med_json_put_integer(w, "requests", (int64_t)stats.requests);
    med_json_put_integer(w, "requests_refused", (int64_t)stats.refused);
    med_json_end_object(w);
}

static void put_counters(struct med_json_writer *w, const struct med_router *router)
{
    struct med_dispatch_totals totals;
    med_dispatch_get_totals(router->dispatch, &totals);
    med_json_put_integer(w, "accepted", (int64_t)totals.accepted);
    med_json_put_integer(w, "in_flight", totals.in_flight);
    med_json_put_integer(w, "queued", totals.queued);
    med_json_put_integer(w, "queue_max", router->config.queue_max);
    med_json_put_integer(w, "encoding_bytes", (int64_t)router->encoding_bytes);
    med_json_put_integer(w, "grpc_calls", (int64_t)med_grpc_server_calls(router->grpc));
    med_json_put_integer(w, "retry_after_ms", router->retry_after_ms);
    med_json_put_integer(w, "spills", (int64_t)totals.spills);
    med_json_begin_row_object(w, "outcomes");
    for (int i = 0; i < MED_OUTCOME_COUNT; i++) {
        med_json_put_integer(w, med_outcome_name((enum med_outcome)i), (int64_t)totals.outcomes[i]);
    }
    med_json_end_object(w);
    med_json_begin_row_object(w, "refused");
    for (int i = 0; i < MED_REFUSAL_COUNT; i++) {
        enum med_router_refusal reason = (enum med_router_refusal)i;
        med_json_put_integer(
            w, med_router_refusal_name(reason),
            (int64_t)med_router_metrics_refused(&router->metrics, &totals, reason));
    }
    med_json_end_object(w);
    /* Of refused.overload: what there was too little of. */
    med_json_begin_row_object(w, "overload");
    med_json_put_integer(w, "wait", (int64_t)totals.refused_admission);
    med_json_put_integer(w, "queue", (int64_t)totals.refused_queue);
    med_json_put_integer(w, "requests", (int64_t)totals.refused_table);
    med_json_put_integer(w, "late", (int64_t)totals.refused_late);
    med_json_put_integer(w, "door", (int64_t)router->metrics.refused[MED_REFUSAL_OVERLOAD]);
    med_json_end_object(w);
    med_json_begin_row_object(w, "reroutes");
    for (int i = 0; i < MED_REROUTE_COUNT; i++) {
        med_json_put_integer(w, med_reroute_name((enum med_reroute)i), (int64_t)totals.reroutes[i]);
    }
    med_json_end_object(w);
}

/* Keeps the requests that have been here longest, oldest first. */
static size_t oldest(const struct med_router *router, const struct med_req **ret_list)
{
    size_t count = 0;
    for (size_t i = 0; i < MED_LIMIT_CALLS && router->active > 0; i++) {
        const struct med_req *req = router->slots[i].req;
        if (req == NULL)
            continue;
        size_t at = count;
        while (at > 0 && ret_list[at - 1]->query->arrived_ns > req->query->arrived_ns)
            at--;
        if (at == OLDEST_SHOWN)
            continue;
        if (count < OLDEST_SHOWN)
            count++;
        for (size_t j = count - 1; j > at; j--)
            ret_list[j] = ret_list[j - 1];
        ret_list[at] = req;
    }
    return count;
}

static void put_oldest(struct med_json_writer *w, const struct med_router *router)
{
    const struct med_req *list[OLDEST_SHOWN];
    size_t count = oldest(router, list);
    int64_t now_ns = med_clock_now_ns(&router->clock);
    med_json_begin_array(w, "oldest_requests");
    for (size_t i = 0; i < count; i++) {
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "request_id", list[i]->query->request_id);
        med_json_put_number(w, "age_s", seconds(now_ns - list[i]->query->arrived_ns));
        med_json_put_integer(w, "choice", list[i]->index);
        med_json_put_integer(w, "prompt_tokens", (int64_t)list[i]->query->prompt_count);
        med_json_put_integer(w, "output_tokens", (int64_t)list[i]->output_count);
        med_json_put_integer(w, "attempts", list[i]->attempts);
        med_json_put_string(w, "worker", list[i]->worker_id);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

static void put_slow(struct med_json_writer *w, const struct med_router *router, bool by_ttft)
{
    const struct med_recent_row *rows[SLOW_SHOWN];
    size_t count = med_recent_slowest(&router->recent, by_ttft, rows, SLOW_SHOWN);
    int64_t now_ns = med_clock_now_ns(&router->clock);
    med_json_begin_array(w, by_ttft ? "slow_to_first_token" : "slow_requests");
    for (size_t i = 0; i < count; i++) {
        const struct med_recent_row *row = rows[i];
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "request_id", row->request_id);
        med_json_put_string(w, "worker", row->worker_id);
        med_json_put_string(w, "worker_type", row->worker_type);
        med_json_put_string(w, "outcome", med_outcome_name(row->outcome));
        med_json_put_integer(w, "prompt_tokens", (int64_t)row->prompt_tokens);
        med_json_put_integer(w, "output_tokens", (int64_t)row->output_tokens);
        med_json_put_integer(w, "choices", row->choices);
        med_json_put_integer(w, "attempts", row->attempts);
        med_json_put_number(w, "ago_s", seconds(now_ns - row->freed_ns));
        med_json_put_number(w, "total_s", seconds(row->total_ns));
        if (row->ttft_ns >= 0)
            med_json_put_number(w, "ttft_s", seconds(row->ttft_ns));
        med_json_begin_row_object(w, "spans");
        for (int s = 0; s < MED_RECENT_SPANS; s++) {
            med_json_put_number(w, med_recent_span_name((enum med_recent_span)s),
                                seconds(row->spans_ns[s]));
        }
        med_json_end_object(w);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

/* ---- workers ---- */

/* Which is not trusted, since when something went wrong, and what. */
static void put_faults(struct med_json_writer *w, const struct med_dispatch_worker_view *view,
                       int64_t now_ns)
{
    if (view->breaker_open) {
        int64_t left_ns = view->breaker_until_ns - now_ns;
        med_json_put_string(w, "breaker",
                            view->breaker_probing ? "breaker probing" : "breaker open");
        med_json_put_number(w, "breaker_probe_in_s", seconds(left_ns > 0 ? left_ns : 0));
    }
    med_json_put_integer(w, "breaker_opened", (int64_t)view->breaker_opened);
    med_json_put_integer(w, "faults", (int64_t)view->faults);
    if (view->faults > 0)
        med_json_put_string(w, "last_fault", med_worker_fault_name(view->last_fault));
    med_json_put_bool(w, "prefix_cache", view->prefix_cache);
}

/* What admission, breakers and prefixes have made of a worker type. */
static void put_type_view(struct med_json_writer *w, const struct med_dispatch *dispatch,
                          size_t type)
{
    struct med_dispatch_type_view view;
    med_dispatch_get_type(dispatch, type, &view);
    const struct med_dispatch_type_counts *counts = &view.counts;
    med_json_begin_row_object(w, "admission");
    med_json_put_integer(w, "queued", view.queued);
    med_json_put_number(w, "cap", view.queued_cap);
    med_json_put_number(w, "rate_per_s", view.rate_per_s);
    if (view.wait_ns >= 0)
        med_json_put_number(w, "wait_s", seconds(view.wait_ns));
    med_json_put_number(w, "wait_max_s", seconds(view.wait_max_ns));
    med_json_put_integer(w, "refused", (int64_t)counts->refused_admission);
    med_json_end_object(w);
    med_json_begin_row_object(w, "prefixes");
    med_json_put_integer(w, "prompts", (int64_t)counts->prompts);
    med_json_put_integer(w, "picks", (int64_t)counts->affinity);
    med_json_put_integer(w, "expected_tokens", (int64_t)counts->affinity_tokens);
    med_json_put_integer(w, "cached_tokens", (int64_t)counts->cached_tokens);
    med_json_end_object(w);
    med_json_put_integer(w, "breaker_opened", (int64_t)counts->breaker_opened);
    med_json_begin_row_object(w, "faults");
    for (int c = 0; c < MED_WORKER_FAULT_COUNT; c++) {
        med_json_put_integer(w, med_worker_fault_name((enum med_worker_fault)c),
                             (int64_t)counts->faults[c]);
    }
    med_json_end_object(w);
}

static void put_workers(struct med_json_writer *w, const struct med_router *router)
{
    struct med_dispatch_worker_view view;
    struct med_link_view link;
    int64_t now_ns = med_clock_now_ns(&router->clock);
    med_json_begin_array(w, "workers");
    for (uint32_t i = 0; i < router->workers_end; i++) {
        const struct med_router_worker *worker = &router->workers[i];
        if (worker->link == NULL || !med_dispatch_get_worker(router->dispatch, i, &view))
            continue;
        med_link_get_view(worker->link, &link);
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "worker", worker->id);
        med_json_put_string(w, "worker_type", worker->type_name);
        med_json_put_string(w, "state", med_worker_state_name(view.state));
        med_json_put_string(w, "backend", worker->backend);
        med_json_put_string(w, "version", worker->program_version);
        med_json_put_string(w, "peer", link.peer);
        med_json_put_bool(w, "drained", worker->drained);
        put_faults(w, &view, now_ns);
        med_json_put_integer(w, "in_flight", view.in_flight);
        med_json_put_number(w, "predicted_start_s", seconds(view.predicted_start_ns));
        med_json_put_number(w, "heartbeat_age_s", seconds(now_ns - worker->beat_seen_ns));
        med_json_put_integer(w, "running", worker->stats.running);
        med_json_put_integer(w, "waiting", worker->stats.waiting);
        med_json_put_integer(w, "kv_blocks_free", worker->stats.kv_blocks_free);
        med_json_put_integer(w, "kv_blocks_total", worker->stats.kv_blocks_total);
        med_json_put_integer(w, "unsent_bytes", (int64_t)link.unsent_bytes);
        if (link.round_trip_s >= 0)
            med_json_put_number(w, "round_trip_s", link.round_trip_s);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

/* Observed over predicted, of all buckets of a type. */
static void put_bias(struct med_json_writer *w, const char *key, const struct med_traffic *traffic,
                     const struct med_traffic_type *type, enum med_comparison what)
{
    double predicted = 0;
    double observed = 0;
    for (size_t b = 0; b < traffic->bucket_count; b++) {
        predicted += (double)type->cells[b].compared[what].predicted;
        observed += (double)type->cells[b].compared[what].observed;
    }
    if (predicted > 0)
        med_json_put_number(w, key, observed / predicted);
}

static void put_types(struct med_json_writer *w, const struct med_router *router)
{
    const struct med_traffic *traffic = &router->metrics.traffic;
    int64_t ready[MED_LIMIT_WORKER_TYPES] = {0};
    int64_t connected[MED_LIMIT_WORKER_TYPES] = {0};
    int64_t in_flight[MED_LIMIT_WORKER_TYPES] = {0};
    struct med_dispatch_worker_view view;
    for (uint32_t i = 0; i < router->workers_end && router->worker_count > 0; i++) {
        if (!med_dispatch_get_worker(router->dispatch, i, &view))
            continue;
        connected[view.type]++;
        ready[view.type] += view.state == MED_WORKER_READY;
        in_flight[view.type] += view.in_flight;
    }
    med_json_begin_array(w, "worker_types");
    for (size_t t = 0; t < med_dispatch_type_count(router->dispatch); t++) {
        const struct med_traffic_type *type = &traffic->types[traffic->type_of[t]];
        bool in_plan = med_dispatch_type_is_planned(router->dispatch, t);
        if (!in_plan && connected[t] == 0)
            continue;
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "worker_type", med_dispatch_type_name(router->dispatch, t));
        med_json_put_bool(w, "in_plan", in_plan);
        med_json_put_integer(
            w, "planned", med_router_planned(router, med_dispatch_type_name(router->dispatch, t)));
        med_json_put_integer(w, "connected", connected[t]);
        med_json_put_integer(w, "ready", ready[t]);
        med_json_put_integer(w, "in_flight", in_flight[t]);
        med_json_put_number(w, "usd_per_hour_each", type->usd_per_hour);
        med_json_put_number(w, "usd", type->usd);
        med_json_put_integer(w, "output_tokens", (int64_t)type->output_tokens);
        uint64_t picks = 0;
        for (size_t b = 0; b < traffic->bucket_count; b++)
            picks += type->cells[b].picks;
        med_json_put_integer(w, "picks", (int64_t)picks);
        put_type_view(w, router->dispatch, t);
        put_bias(w, "ttft_observed_over_predicted", traffic, type, MED_COMPARE_TTFT);
        put_bias(w, "tpot_observed_over_predicted", traffic, type, MED_COMPARE_TPOT);
        put_bias(w, "output_observed_over_predicted", traffic, type, MED_COMPARE_OUTPUT);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

static void put_reloads(struct med_json_writer *w, const struct med_router *router)
{
    const struct med_router_reload *reload = &router->reload;
    if (router->config.plan_path != NULL)
        med_json_put_string(w, "path", router->config.plan_path);
    med_json_put_bool(w, "complete", med_dispatch_is_complete(router->dispatch));
    med_json_put_integer(w, "reloads_refused", (int64_t)reload->refused);
}

/* The plan's buckets: who is to serve them, and what came. */
static void put_plan(struct med_json_writer *w, const struct med_router *router)
{
    static const char *const statuses[] = {[MED_PLAN_OPTIMAL] = "optimal",
                                           [MED_PLAN_FEASIBLE] = "feasible",
                                           [MED_PLAN_INFEASIBLE] = "infeasible"};
    const struct med_plan *plan = router->config.plan;
    const struct med_traffic *traffic = &router->metrics.traffic;
    med_json_begin_object(w, "plan");
    med_json_put_string(w, "model", plan->model_name);
    med_json_put_string(w, "workload", plan->workload_name);
    med_json_put_string(w, "status", statuses[plan->status]);
    med_json_put_integer(w, "generation", (int64_t)router->reload.generation);
    med_json_put_number(w, "loaded_ago_s",
                        seconds(med_clock_unix_ns() - router->reload.loaded_unix_ns));
    med_json_put_string(w, "reload_error", router->reload.last_error);
    med_json_put_number(w, "cost_usd_per_hour", plan->cost_usd_per_hour);
    med_json_put_number(w, "rate_per_s", plan->rate_per_s);
    put_reloads(w, router);
    med_json_begin_array(w, "buckets");
    for (size_t i = 0; i < plan->assignment_count; i++) {
        const struct med_plan_assignment *a = &plan->assignment[i];
        size_t row = (size_t)a->input_row * traffic->output_rows + (size_t)a->output_row;
        const struct med_traffic_bucket *bucket = &traffic->buckets[traffic->bucket_of[row]];
        med_json_begin_row_object(w, NULL);
        med_json_put_number(w, "input", bucket->input_edge);
        med_json_put_number(w, "output", bucket->output_edge);
        med_json_put_number(w, "rate_per_s", a->rate_per_s);
        med_json_put_integer(w, "demand", (int64_t)bucket->demand);
        med_json_put_integer(w, "completed", (int64_t)bucket->completed);
        med_json_begin_row_object(w, "shares");
        for (size_t p = 0; p < plan->profile_count; p++) {
            if (a->shares[p] > 0)
                med_json_put_number(w, plan->profiles[p].worker_type, a->shares[p]);
        }
        med_json_end_object(w);
        med_json_end_object(w);
    }
    med_json_end_array(w);
    med_json_end_object(w);
}

/* ---- the loop ---- */

static void put_loop(struct med_json_writer *w, const struct med_router *router)
{
    const struct med_loop_watch *loop = &router->metrics.loop;
    med_json_begin_object(w, "loop");
    med_json_put_number(w, "delay_max_s", router->loop_delay_max_s);
    put_hist(w, "delay", &router->metrics.loop_delay);
    put_hist(w, "turns", &loop->turns);
    med_json_begin_row_object(w, "longest");
    if (loop->ever_unix_ns != 0) {
        med_json_put_string(w, "job", med_loop_job_name(loop->ever.job));
        med_json_put_number(w, "s", (double)loop->ever.ns / 1e9);
        med_json_put_number(w, "ago_s", seconds(med_clock_unix_ns() - loop->ever_unix_ns));
    }
    med_json_end_object(w);
    med_json_begin_array(w, "jobs");
    for (int i = 0; i < MED_LOOP_JOBS; i++) {
        const struct med_loop_job_count *job = &loop->jobs[i];
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "job", med_loop_job_name((enum med_loop_job)i));
        med_json_put_integer(w, "runs", (int64_t)job->runs);
        med_json_put_integer(w, "long_runs", (int64_t)job->long_runs);
        med_json_put_number(w, "busy_s", (double)job->busy_ns / 1e9);
        med_json_put_number(w, "longest_s", (double)job->longest_ns / 1e9);
        med_json_end_object(w);
    }
    med_json_end_array(w);
    med_json_end_object(w);
}

int med_router_admin_state(struct med_router *router, struct med_buf *out)
{
    struct med_json_writer w;
    med_json_writer_init(&w, out, true);
    med_json_begin_object(&w, NULL);
    med_json_put_string(&w, "status", med_router_status_name(router));
    med_json_put_string(&w, "model", router->config.plan->model_name);
    med_json_put_string(&w, "version", MED_VERSION);
    med_json_put_number(&w, "uptime_s", seconds(med_clock_unix_ns() - router->started_unix_ns));
    med_json_put_number(&w, "fleet_time_s", seconds(med_clock_now_ns(&router->clock)));
    med_json_put_number(&w, "time_scale", router->clock.scale);
    med_json_put_string(&w, "log_level", med_log_level_name(med_log_level()));
    med_json_put_integer(&w, "heap_bytes", med_alloc_bytes_live());
    med_json_put_bool(&w, "can_reload", router->config.plan_path != NULL);
    put_counters(&w, router);
    put_http(&w, router);
    put_latencies(&w, router);
    put_types(&w, router);
    put_workers(&w, router);
    med_router_put_departed(&w, router);
    put_oldest(&w, router);
    med_router_put_decisions(&w, router);
    put_slow(&w, router, false);
    put_slow(&w, router, true);
    put_loop(&w, router);
    put_plan(&w, router);
    med_json_end_object(&w);
    return med_json_writer_finish(&w);
}
