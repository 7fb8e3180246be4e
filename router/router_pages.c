/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pages of the router's HTTP door: /metrics, /health, /version, and the admin view where the door
 * is bound to loopback, so that it is seen from this machine only.
 *
 * /health says 200 when a healthy worker serves the model, and per worker type how many are ready and
 * how many the plan wants.  Runs on the loop. Nothing here changes state.
 */
#include "router/router_internal.h"

#include "base/alloc.h"
#include "base/json.h"
#include "router/admin.h"
#include "router/keys.h"

#include <string.h>

/* ---- /metrics, /version ---- */

static int page_metrics(struct med_router *router, struct med_http_answer *answer)
{
    struct med_grpc_call_count calls[MED_GRPC_CALL_COUNTS];
    struct med_http_server_stats http;
    med_http_server_get_stats(router->http, &http);
    const struct med_router_metrics_view view = {
        .http = http,
        .metrics = &router->metrics,
        .dispatch = router->dispatch,
        .plan = router->config.plan,
        .workers_max = router->workers_end,
        .links_refused = med_link_server_refused(router->links),
        .links_broken = med_link_server_broken(router->links),
        .calls = med_grpc_server_calls(router->grpc),
        .call_counts = calls,
        .call_count_count = med_grpc_server_get_counts(router->grpc, calls, MED_GRPC_CALL_COUNTS),
        .plan_generation = router->reload.generation,
        .plan_loaded_unix_ns = router->reload.loaded_unix_ns,
        .reloads = {router->reload.done, router->reload.refused},
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

int64_t med_router_planned(const struct med_router *router, const char *type)
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
    for (uint32_t i = 0; i < router->workers_end && router->worker_count > 0; i++) {
        if (!med_dispatch_get_worker(router->dispatch, i, &worker))
            continue;
        connected[worker.type]++;
        ready[worker.type] += worker.state == MED_WORKER_READY;
    }
    med_json_begin_array(w, "worker_types");
    for (size_t t = 0; t < med_dispatch_type_count(router->dispatch); t++) {
        const char *name = med_dispatch_type_name(router->dispatch, t);
        bool in_plan = med_dispatch_type_is_planned(router->dispatch, t);
        if (!in_plan && connected[t] == 0)
            continue;
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "worker_type", name);
        med_json_put_bool(w, "in_plan", in_plan);
        med_json_put_integer(w, "planned", med_router_planned(router, name));
        med_json_put_integer(w, "connected", connected[t]);
        med_json_put_integer(w, "ready", ready[t]);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

const char *med_router_status_name(const struct med_router *router)
{
    if (router->state > MED_ROUTER_RETIRING)
        return "draining";
    if (router->state == MED_ROUTER_RETIRING)
        return "retiring";
    return router->workers_ready > 0 ? "serving" : "no_worker";
}

static int page_health(struct med_router *router, struct med_http_answer *answer)
{
    struct med_json_writer w;
    med_router_look(router);
    answer->status = router->state <= MED_ROUTER_RETIRING && router->workers_ready > 0 ? 200 : 503;
    med_json_writer_init(&w, &answer->body, true);
    med_json_begin_object(&w, NULL);
    med_json_put_string(&w, "status", med_router_status_name(router));
    med_json_put_string(&w, "model", router->config.plan->model_name);
    put_types(&w, router);
    med_json_end_object(&w);
    return med_json_writer_finish(&w);
}

/* ---- requests ---------------------------------------------------------------------------------- */

static void admin_respond(struct med_router *router, struct med_http_exchange *x)
{
    struct med_http_answer answer;
    med_http_answer_init(&answer);
    struct med_admin_request request = {.method = med_http_method_name(med_http_method(x)),
                                        .path = med_http_path(x),
                                        .host = med_http_header(x, "host"),
                                        .origin = med_http_header(x, "origin"),
                                        .fetch_site = med_http_header(x, "sec-fetch-site"),
                                        .content_type = med_http_header(x, "content-type")};
    request.body = med_http_body(x, &request.body_bytes);
    struct med_admin_answer said = {.body = &answer.body};
    int rc = med_admin_serve(router, &request, &said);
    if (rc < 0) {
        med_buf_release(&answer.body);
        med_http_respond_error(x, med_err_http_status(rc), med_err_text(rc));
        return;
    }
    answer.status = said.status;
    answer.content_type = said.content_type;
    answer.headers = "X-Frame-Options: DENY\r\nReferrer-Policy: no-referrer\r\n";
    med_http_respond(x, &answer);
}

static int page(void *self, const char *path, struct med_http_answer *answer)
{
    struct med_router *router = self;
    if (strcmp(path, "/metrics") == 0)
        return page_metrics(router, answer);
    if (strcmp(path, "/health") == 0)
        return page_health(router, answer);
    if (strcmp(path, "/version") == 0)
        return page_version(answer);
    return MED_E_NOT_FOUND;
}

static int no_page(void *self, const char *path, struct med_http_answer *answer)
{
    (void)self;
    (void)path;
    (void)answer;
    return MED_E_NOT_FOUND;
}

/* What scrapers, probes and people with a browser need; the admin view is loopback's alone. */
static bool is_open(const struct med_router *router, const char *path)
{
    return strcmp(path, "/metrics") == 0 || strcmp(path, "/health") == 0 ||
           strcmp(path, "/version") == 0 || (router->admin_on_http && med_admin_has(path));
}

/* True: the client has a key, or needs none. False: it was answered. */
static bool may_enter(const struct med_router *router, struct med_http_exchange *x)
{
    const struct med_keys *keys = router->security.api_keys;
    if (keys == NULL || is_open(router, med_http_path(x)))
        return true;
    const char *value = med_http_header(x, "authorization");
    if (med_keys_match_bearer(keys, value, value != NULL ? strlen(value) : 0))
        return true;
    struct med_http_answer answer;
    med_http_answer_init(&answer);
    answer.status = 401;
    answer.headers = "WWW-Authenticate: Bearer\r\n";
    struct med_json_writer w;
    med_json_writer_init(&w, &answer.body, false);
    med_json_begin_object(&w, NULL);
    med_json_begin_object(&w, "error");
    med_json_put_string(&w, "message", MED_KEYS_REFUSAL);
    med_json_put_string(&w, "type", "invalid_request_error");
    med_json_put_null(&w, "param");
    med_json_put_string(&w, "code", "invalid_api_key");
    med_json_end_object(&w);
    med_json_end_object(&w);
    if (med_json_writer_finish(&w) < 0)
        med_buf_clear(&answer.body); // the status alone says it
    med_http_respond(x, &answer);
    return false;
}

void med_router_on_http_status(void *self, const char *path, int status)
{
    struct med_router *router = self;
    med_router_metrics_http(&router->metrics, path, status);
}

void med_router_on_http(void *self, struct med_http_exchange *x)
{
    struct med_router *router = self;
    const struct med_http_pages pages = {.handle = page, .self = router};
    if (!may_enter(router, x) ||
        (router->openai != NULL && med_openai_door_take(router->openai, x)))
        return;
    uint64_t began_ns = uv_hrtime();
    if (router->admin_on_http && med_admin_has(med_http_path(x))) {
        admin_respond(router, x);
    } else {
        med_http_pages_respond(&pages, x);
    }
    med_router_job_ran(router, MED_LOOP_PAGE, began_ns);
}

/* Only the OpenAI door answers later. */
void med_router_on_http_gone(void *self, struct med_http_exchange *x)
{
    (void)self;
    med_openai_door_gone(x);
}

void med_router_on_http_drained(void *self, struct med_http_exchange *x)
{
    (void)self;
    med_openai_door_drained(x);
}

void med_router_on_admin_http(void *self, struct med_http_exchange *x)
{
    struct med_router *router = self;
    const struct med_http_pages none = {.handle = no_page};
    uint64_t began_ns = uv_hrtime();
    if (med_admin_has(med_http_path(x))) {
        admin_respond(router, x);
    } else {
        med_http_pages_respond(&none, x);
    }
    med_router_job_ran(router, MED_LOOP_PAGE, began_ns);
}
