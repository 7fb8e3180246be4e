/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pages of the router's HTTP door: /metrics, /health, /version, and /admin/state where the door
 * is bound to loopback, so that it is seen from this machine only.
 *
 * /health says 200 when a healthy worker serves the model, and per worker type how many are ready and
 * how many the plan wants.  Runs on the loop. Nothing here changes state.
 */
#include "router/router_internal.h"

#include "base/alloc.h"
#include "base/json.h"

#include <string.h>

enum {
    SLOW_REQUESTS_SHOWN = 20
};

static double seconds(int64_t ns)
{
    return (double)ns / (double)MED_NS_PER_S;
}

/* ---- /metrics, /version ---- */

static int page_metrics(struct med_router *router, struct med_http_answer *answer)
{
    struct med_grpc_call_count calls[MED_GRPC_CALL_COUNTS];
    const struct med_router_metrics_view view = {
        .metrics = &router->metrics,
        .dispatch = router->dispatch,
        .plan = router->config.plan,
        .workers_max = router->workers_max,
        .links_refused = med_link_server_refused(router->links),
        .links_broken = med_link_server_broken(router->links),
        .calls = med_grpc_server_calls(router->grpc),
        .call_counts = calls,
        .call_count_count = med_grpc_server_get_counts(router->grpc, calls, MED_GRPC_CALL_COUNTS),
        .draining = router->state != MED_ROUTER_RUNNING,
    };
    answer->content_type = "text/plain; version=0.0.4; charset=utf-8";
    return med_router_metrics_write(&view, &answer->body);
}

static int page_version(struct med_http_answer *answer)
{
    struct med_json_writer w;
    med_json_writer_init(&w, &answer->body, true);
    med_json_begin_object(&w, NULL);
    med_json_put_string(&w, "program", "medley router");
    med_json_put_string(&w, "version", MED_VERSION);
    med_json_put_integer(&w, "link_version", MED_LINK_VERSION);
    med_json_end_object(&w);
    return med_json_writer_finish(&w);
}

/* ---- /health ---- */

static int64_t planned(const struct med_router *router, const char *type)
{
    const struct med_plan *plan = router->config.plan;
    int64_t count = 0;
    for (size_t i = 0; i < plan->worker_count; i++) {
        if (strcmp(plan->profiles[plan->workers[i].worker_type].worker_type, type) == 0)
            count += plan->workers[i].count;
    }
    return count;
}

static void put_types(struct med_json_writer *w, const struct med_router *router)
{
    int64_t ready[MED_LIMIT_WORKER_TYPES] = {0};
    int64_t connected[MED_LIMIT_WORKER_TYPES] = {0};
    struct med_dispatch_worker_view worker;
    for (uint32_t i = 0; i < router->workers_max && router->worker_count > 0; i++) {
        if (!med_dispatch_get_worker(router->dispatch, i, &worker))
            continue;
        connected[worker.type]++;
        ready[worker.type] += worker.state == MED_WORKER_READY;
    }
    med_json_begin_array(w, "worker_types");
    for (size_t t = 0; t < med_dispatch_type_count(router->dispatch); t++) {
        const char *name = med_dispatch_type_name(router->dispatch, t);
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "worker_type", name);
        med_json_put_integer(w, "planned", planned(router, name));
        med_json_put_integer(w, "connected", connected[t]);
        med_json_put_integer(w, "ready", ready[t]);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

static const char *status_name(const struct med_router *router)
{
    if (router->state != MED_ROUTER_RUNNING)
        return "draining";
    return router->workers_ready > 0 ? "serving" : "no_worker";
}

static int page_health(struct med_router *router, struct med_http_answer *answer)
{
    struct med_json_writer w;
    med_router_look(router);
    answer->status = router->state == MED_ROUTER_RUNNING && router->workers_ready > 0 ? 200 : 503;
    med_json_writer_init(&w, &answer->body, true);
    med_json_begin_object(&w, NULL);
    med_json_put_string(&w, "status", status_name(router));
    med_json_put_string(&w, "model", router->config.plan->model_name);
    put_types(&w, router);
    med_json_end_object(&w);
    return med_json_writer_finish(&w);
}

/* ---- /admin/state ---- */

static void put_workers(struct med_json_writer *w, const struct med_router *router)
{
    struct med_dispatch_worker_view view;
    struct med_link_view link;
    int64_t now_ns = med_clock_now_ns(&router->clock);
    med_json_begin_array(w, "workers");
    for (uint32_t i = 0; i < router->workers_max; i++) {
        const struct med_router_worker *worker = &router->workers[i];
        if (worker->link == NULL || !med_dispatch_get_worker(router->dispatch, i, &view))
            continue;
        med_link_get_view(worker->link, &link);
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "worker", worker->id);
        med_json_put_string(w, "worker_type", worker->type_name);
        med_json_put_string(w, "state", med_worker_state_name(view.state));
        med_json_put_bool(w, "drained", worker->drained);
        med_json_put_string(w, "backend", worker->backend);
        med_json_put_string(w, "version", worker->program_version);
        med_json_put_string(w, "peer", link.peer);
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

/* Keeps the requests that have been here longest, oldest first. */
static size_t oldest(const struct med_router *router, const struct med_req **ret_list)
{
    size_t count = 0;
    for (size_t i = 0; i < MED_LIMIT_CALLS; i++) {
        const struct med_req *req = router->slots[i].req;
        if (req == NULL)
            continue;
        size_t at = count;
        while (at > 0 && ret_list[at - 1]->query->arrived_ns > req->query->arrived_ns)
            at--;
        if (at == SLOW_REQUESTS_SHOWN)
            continue;
        if (count < SLOW_REQUESTS_SHOWN)
            count++;
        for (size_t j = count - 1; j > at; j--) {
            ret_list[j] = ret_list[j - 1];
        }
        ret_list[at] = req;
    }
    return count;
}

static void put_requests(struct med_json_writer *w, const struct med_router *router)
{
    const struct med_req *list[SLOW_REQUESTS_SHOWN];
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

static int page_admin(struct med_router *router, struct med_http_answer *answer)
{
    struct med_dispatch_totals totals;
    struct med_json_writer w;
    med_dispatch_get_totals(router->dispatch, &totals);
    med_json_writer_init(&w, &answer->body, true);
    med_json_begin_object(&w, NULL);
    med_json_put_string(&w, "status", status_name(router));
    med_json_put_number(&w, "fleet_time_s", seconds(med_clock_now_ns(&router->clock)));
    med_json_put_number(&w, "time_scale", router->clock.scale);
    med_json_put_integer(&w, "encoding_bytes", (int64_t)router->encoding_bytes);
    med_json_put_integer(&w, "accepted", (int64_t)totals.accepted);
    med_json_put_integer(&w, "in_flight", totals.in_flight);
    med_json_put_integer(&w, "queued", totals.queued);
    med_json_put_integer(&w, "grpc_calls", (int64_t)med_grpc_server_calls(router->grpc));
    med_json_put_integer(&w, "retry_after_ms", router->retry_after_ms);
    med_json_put_number(&w, "loop_delay_max_s", router->loop_delay_max_s);
    med_json_put_integer(&w, "heap_bytes", med_alloc_bytes_live());
    put_types(&w, router);
    put_workers(&w, router);
    med_router_put_departed(&w, router);
    put_requests(&w, router);
    med_json_end_object(&w);
    return med_json_writer_finish(&w);
}

static int page(struct med_router *router, const char *path, struct med_http_answer *answer)
{
    if (strcmp(path, "/metrics") == 0)
        return page_metrics(router, answer);
    if (strcmp(path, "/health") == 0)
        return page_health(router, answer);
    if (strcmp(path, "/version") == 0)
        return page_version(answer);
    if (strcmp(path, "/admin/state") == 0 && router->http_is_loopback)
        return page_admin(router, answer);
    return MED_E_NOT_FOUND;
}

int med_router_page(void *self, const char *path, struct med_http_answer *answer)
{
    struct med_router *router = self;
    uint64_t began_ns = uv_hrtime();
    int rc = page(router, path, answer);
    med_router_job_ran(router, MED_LOOP_PAGE, began_ns);
    return rc;
}
