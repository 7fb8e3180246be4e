/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker as a process serves (see service.h).
 *
 * The loop owns everything but the engine.  A Generate becomes a struct med_request, which is lent to
 * the engine; the engine's wake-up brings tokens and ends, which go out to the links, one flush per
 * link and wake-up.  A request whose link was lost is cancelled and waits, detached, for its end.
 *
 * Stopping, in order, each step when the one before is complete:
 *     SERVING -> DRAINING (no new requests; until none is held, or the deadline, then all are
 *     cancelled) -> LINKS (each flushes and closes) -> HTTP (closes) -> the engine is joined, and
 *     only then the wake-up handle is closed, since the engine may use it until it is joined.
 *
 * thread: loop.  Does no scheduling and parses no frames.
 */
#include "worker/service_internal.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/log.h"
#include "router/keys.h"
#include "router/tls.h"
#include "worker/engine_measure.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>

enum {
    BUSY_LINE_MS = 10000, /* real time */
    BEAT_NS = 1000 * 1000 * 1000,
    BEAT_MS_MIN = 50,
    LAST_WORDS_MS = 200, /* for what is to be sent before a process leaves */
    SEED_STREAM = 17,    /* of the generator; any number */
};

static void advance(struct med_service *service);
static int start_link(struct med_service *service, size_t index, const char *address,
                      struct med_err *err);

/* ---- from the routers ----------------------------------------------------------------------- */

static void refuse(struct med_service *service, struct med_uplink *link,
                   const struct med_uplink_generate *g, const char *why)
{
    struct med_uplink_finish answer = {
        .request = g->request, .attempt = g->attempt, .ending = MED_UPLINK_REFUSED, .message = why};
    service->refused++;
    med_uplink_send_finish(link, &answer);
}

static void reject(struct med_service *service, struct med_uplink *link,
                   const struct med_uplink_generate *g, const char *why)
{
    struct med_uplink_finish answer = {
        .request = g->request, .attempt = g->attempt, .ending = MED_UPLINK_ERROR, .message = why};
    service->rejected++;
    med_uplink_send_finish(link, &answer);
}

static uint64_t new_seed(struct med_service *service)
{
    uint64_t high = med_rng_u32(&service->rng);
    return high << 32 | med_rng_u32(&service->rng);
}

/* Makes the request and gives it to the engine; < 0: it was answered. */
static int take_request(struct med_service *service, struct med_uplink *link,
                        const struct med_uplink_generate *g, struct med_request **ret_request)
{
    const struct med_request_rules *rules = &service->config->rules;
    struct med_err err = {0};
    size_t bytes_left = SIZE_MAX;
    if (rules->bytes_max > 0)
        bytes_left = rules->bytes_max - service->requests.bytes;
    int rc = med_request_new(g, rules, bytes_left, ret_request, &err);
    if (rc == MED_E_INVALID) {
        reject(service, link, g, err.text);
        return rc;
    }
    if (rc >= 0) {
        struct med_request *request = *ret_request;
        request->link = link;
        request->engine.arrival_ns = med_clock_now_ns(service->config->clock);
        if (service->config->seeds_differ && !g->has_seed)
            request->engine.sequence.sampling.seed = new_seed(service);
        rc = med_engine_submit(service->engine, &request->engine);
        MED_ASSERT(rc >= 0 || rc == MED_E_AGAIN); /* its size was checked */
        if (rc < 0)
            med_request_free(request);
    }
    if (rc < 0) {
        refuse(service, link, g,
               rc == MED_E_AGAIN ? "the worker holds as many requests as it can"
                                 : med_err_text(rc));
    }
    return rc;
}

static int on_generate(void *arg, struct med_uplink *link, const struct med_uplink_generate *g,
                       struct med_err *err)
{
    struct med_service *service = arg;
    struct med_service_route *route = med_uplink_user(link);
    if (med_requests_find(&service->requests, link, g->request, g->attempt)) {
        return med_err_set(err, MED_E_PROTO,
                           "Generate: request %" PRIu64 " attempt %" PRIu32
                           " is running already, expected a new one",
                           g->request, g->attempt);
    }
    if (service->measure) {
        refuse(service, link, g, "the worker is being measured");
        return 0;
    }
    if (service->phase != MED_SERVICE_SERVING || route->draining || service->given_up) {
        refuse(service, link, g, "the worker is draining");
        return 0;
    }
    int ending = med_request_ending(g, &service->config->rules);
    if (ending != 0) {
        struct med_uplink_finish answer = {
            .request = g->request, .attempt = g->attempt, .ending = (enum med_uplink_ending)ending};
        med_uplink_send_finish(link, &answer);
        return 0;
    }
    struct med_request *request;
    if (take_request(service, link, g, &request) < 0)
        return 0;
    med_requests_add(&service->requests, request);
    route->held++;
    med_log(MED_LOG_DEBUG, request->request_id,
            "request %" PRIu64 ": %zu prompt tokens, %zu of the answer%s%s", g->request,
            g->prompt_count, g->output_count, g->traceparent[0] != '\0' ? ", traceparent " : "",
            g->traceparent);
    return 0;
}

static void on_cancel(void *arg, struct med_uplink *link, uint64_t id, uint32_t attempt)
{
    struct med_service *service = arg;
    struct med_request *request = med_requests_find(&service->requests, link, id, attempt);
    if (request) /* else it has ended meanwhile */
        med_engine_cancel(service->engine, &request->engine);
}

/* A drained router gets its connection closed when nothing of it is left. */
static void finish_drained(struct med_service *service, struct med_service_route *route)
{
    if (route->draining && route->held == 0 && route->link)
        med_uplink_finish(route->link);
    (void)service;
}

static void on_drain(void *arg, struct med_uplink *link)
{
    struct med_service_route *route = med_uplink_user(link);
    if (!route->draining)
        MED_INFO("router %s: drains this worker", med_uplink_address(link));
    route->draining = true;
    finish_drained(arg, route);
}

static void on_lost(void *arg, struct med_uplink *link)
{
    struct med_service *service = arg;
    struct med_service_route *route = med_uplink_user(link);
    for (struct med_request *r = service->requests.first; r; r = r->next) {
        if (r->link != link)
            continue;
        med_requests_detach(&service->requests, r);
        med_engine_cancel(service->engine, &r->engine);
    }
    route->held = 0;
    if (service->measure_link == link) {
        service->measure_link = NULL;
        med_measure_cancel(service->measure);
    }
    if (route->draining || route->leaving)
        med_uplink_stop(link);
}

/* A second link to the address of this one, for the process that takes over there. */
static void redial(struct med_service *service, struct med_service_route *route)
{
    struct med_err err = {0};
    size_t free = 0;
    while (free < MED_SERVICE_ROUTERS_MAX && service->routes[free].link)
        free++;
    if (free == MED_SERVICE_ROUTERS_MAX) {
        MED_WARN("router %s: it wants another link, but there are %zu; it is dialled when this one "
                 "has ended",
                 route->address, service->links_open);
        return;
    }
    if (start_link(service, free, route->address, &err) < 0) {
        MED_WARN("router %s: %s", route->address, err.text);
        return;
    }
    route->leaving = true;
    MED_INFO("router %s: another process takes over, dialling it", route->address);
}

static void on_redial(void *arg, struct med_uplink *link, bool stay)
{
    struct med_service *service = arg;
    struct med_service_route *route = med_uplink_user(link);
    if (service->phase != MED_SERVICE_SERVING || route->draining || route->leaving != stay)
        return;
    if (!stay) {
        redial(service, route);
        return;
    }
    MED_INFO("router %s: nobody has taken over, staying", route->address);
    route->leaving = false;
    for (size_t i = 0; i < service->route_count; i++) {
        struct med_service_route *other = &service->routes[i];
        if (other != route && other->link && other->address == route->address && !other->leaving)
            med_uplink_stop(other->link);
    }
}

static void on_stopped(void *arg, struct med_uplink *link)
{
    struct med_service *service = arg;
    struct med_service_route *route = med_uplink_user(link);
    route->link = NULL;
    service->links_open--;
    if (service->links_open == 0 && service->phase == MED_SERVICE_SERVING) {
        MED_INFO("every router has drained this worker: stopping");
        service->phase = MED_SERVICE_DRAINING;
    }
    if (service->links_open == 0)
        advance(service);
}

static void get_stats(void *arg, struct med_uplink_stats *ret_stats)
{
    struct med_service *service = arg;
    struct med_engine_stats stats;
    med_engine_beat(service->engine);
    med_engine_get_stats(service->engine, &stats);
    const struct med_scheduler_stats *s = &stats.scheduler;
    *ret_stats = (struct med_uplink_stats){
        .heartbeat_ns = stats.heartbeat_ns,
        .running = (uint64_t)s->running,
        .waiting = service->requests.count > s->running
                       ? (uint64_t)(service->requests.count - s->running)
                       : 0,
        .kv_blocks_free = (uint64_t)s->kv_blocks_free,
        .kv_blocks_total = (uint64_t)s->kv_blocks_total,
        .iterations = s->iterations,
        .prompt_tokens = s->prompt_tokens_total,
        .generated_tokens = s->generated_tokens_total,
        .finished = s->finished_total,
        .preemptions = s->preemptions,
        .prefix_queries = s->prefix_queries_total,
        .prefix_hits = s->prefix_hits_total,
    };
}

static int start_link(struct med_service *service, size_t index, const char *address,
                      struct med_err *err)
{
    const struct med_service_config *c = service->config;
    struct med_service_route *route = &service->routes[index];
    *route = (struct med_service_route){.service = service, .address = address};
    const struct med_uplink_config link = {
        .address = address,
        .hello = &c->hello,
        .clock = c->clock,
        .tls = c->router_tls,
        .tokens = c->router_tokens,
        .seed = c->hello.incarnation + service->links_made++,
        .user = route,
        .ops = {.on_generate = on_generate,
                .on_cancel = on_cancel,
                .on_drain = on_drain,
                .on_redial = on_redial,
                .on_measure = med_service_on_measure,
                .on_describe = med_service_on_describe,
                .on_lost = on_lost,
                .on_stopped = on_stopped,
                .get_stats = get_stats,
                .arg = service},
    };
    int rc = med_uplink_new(&service->loop, &link, &route->link, err);
    if (rc < 0)
        return rc;
    service->links_open++;
    if (index >= service->route_count)
        service->route_count = index + 1;
    return 0;
}

/* ---- from the engine ------------------------------------------------------------------------ */

static void finish(struct med_service *service, struct med_request *r,
                   const struct med_engine_event *event)
{
    static const enum med_uplink_ending endings[] = {[MED_ENGINE_STOP] = MED_UPLINK_STOP,
                                                     [MED_ENGINE_LENGTH] = MED_UPLINK_LENGTH,
                                                     [MED_ENGINE_CANCEL] = MED_UPLINK_CANCELLED,
                                                     [MED_ENGINE_ERROR] = MED_UPLINK_ERROR,
                                                     [MED_ENGINE_FAILED] = MED_UPLINK_FAILED};
    struct med_uplink_finish answer = {.request = r->request,
                                       .attempt = r->attempt,
                                       .ending = endings[event->end],
                                       .cached_tokens = event->cached_prompt_tokens};
    if (event->end == MED_ENGINE_ERROR) {
        answer.message = service->failure_err.text;
    } else if (event->end == MED_ENGINE_FAILED) {
        answer.message = "the model has no finite logit for this request";
    } else if (r->stopped_by_us) {
        /* It may go on elsewhere, and the client never knows. */
        answer.ending =
            r->sent == r->engine.output_tokens ? MED_UPLINK_REFUSED : MED_UPLINK_RETURNED;
        answer.message = "the worker is stopping";
    } else if (r->engine.cancelling) {
        answer.ending = MED_UPLINK_CANCELLED;
    }
    med_uplink_send_finish(r->link, &answer);
}

static void send_tokens(struct med_request *r, const struct med_engine_event *event)
{
    const struct med_engine_logprobs *kept = &r->engine.logprobs;
    struct med_uplink_logprobs logprobs;
    struct med_uplink_tokens tokens = {.request = r->request,
                                       .attempt = r->attempt,
                                       .position = r->sent,
                                       .ids = r->engine.tokens + r->engine.sequence.prompt_tokens +
                                              r->sent,
                                       .count = (size_t)(event->generated - r->sent),
                                       .at_ns = event->at_ns};
    if (kept->logprobs) {
        logprobs =
            (struct med_uplink_logprobs){.logprobs = kept->logprobs + r->sent,
                                         .ranks = kept->ranks + r->sent,
                                         .top = (size_t)kept->top,
                                         .top_ids = kept->top_ids + r->sent * kept->top,
                                         .top_logprobs = kept->top_logprobs + r->sent * kept->top};
        tokens.logprobs = &logprobs;
    }
    med_uplink_send_tokens(r->link, &tokens);
    r->sent = event->generated;
}

void med_service_note_failure(struct med_service *service)
{
    if (service->failure < 0)
        return;
    med_engine_failure(service->engine, &service->failure_err);
    service->failure = service->failure_err.code;
    MED_ERROR("engine: %s; stopping", service->failure_err.text);
}

static void on_event(void *arg, const struct med_engine_event *event)
{
    struct med_service *service = arg;
    struct med_request *r = (struct med_request *)event->request;
    if (event->end == MED_ENGINE_ERROR)
        med_service_note_failure(service);
    if (r->link && !r->engine.cancelling && event->generated > r->sent)
        send_tokens(r, event);
    if (event->end == MED_ENGINE_GOES_ON)
        return;
    if (r->link) {
        struct med_service_route *route = med_uplink_user(r->link);
        route->held--;
        finish(service, r, event);
    }
    med_requests_remove(&service->requests, r);
    med_request_free(r);
}

static void on_wake(uv_async_t *async)
{
    struct med_service *service = async->data;
    if (service->given_up)
        return;
    med_engine_take_events(service->engine, on_event, service);
    med_service_take_measured(service);
    for (size_t i = 0; i < service->route_count; i++) {
        struct med_service_route *route = &service->routes[i];
        if (!route->link)
            continue;
        med_uplink_flush(route->link);
        finish_drained(service, route);
    }
    if (service->failure < 0 && service->phase == MED_SERVICE_SERVING)
        service->phase = MED_SERVICE_DRAINING;
    if (service->phase == MED_SERVICE_DRAINING)
        advance(service);
}

/* thread: engine */
static void wake_loop(void *arg)
{
    struct med_service *service = arg;
    int rc = uv_async_send(&service->wake);
    MED_ASSERT(rc == 0);
}

/* ---- stopping ------------------------------------------------------------------------------- */

static void close_last(struct med_service *service)
{
    service->phase = MED_SERVICE_LAST;
    med_engine_free(service->engine);
    service->engine = NULL;
    uv_handle_t *const handles[] = {
        (uv_handle_t *)&service->wake,     (uv_handle_t *)&service->sigterm,
        (uv_handle_t *)&service->sigint,   (uv_handle_t *)&service->sighup,
        (uv_handle_t *)&service->deadline, (uv_handle_t *)&service->busy_line,
        (uv_handle_t *)&service->beat};
    for (size_t i = 0; i < sizeof handles / sizeof handles[0]; i++)
        uv_close(handles[i], NULL);
}

static void on_http_closed(void *arg)
{
    struct med_service *service = arg;
    service->http = NULL;
    advance(service);
}

/* Goes as far towards the end as can be gone now. */
static void advance(struct med_service *service)
{
    if (service->given_up)
        return;
    if (service->phase <= MED_SERVICE_DRAINING && service->measure) {
        med_measure_cancel(service->measure);
        return;
    }
    if (service->phase <= MED_SERVICE_DRAINING && service->requests.count == 0) {
        service->phase = MED_SERVICE_LINKS;
        for (size_t i = 0; i < service->route_count; i++) {
            if (service->routes[i].link)
                med_uplink_stop(service->routes[i].link);
        }
    }
    if (service->phase == MED_SERVICE_LINKS && service->links_open == 0) {
        service->phase = MED_SERVICE_HTTP;
        if (service->http) {
            med_http_server_close(service->http, on_http_closed, service);
            return;
        }
    }
    if (service->phase == MED_SERVICE_HTTP && !service->http)
        close_last(service);
}

static void cancel_all(struct med_service *service)
{
    for (struct med_request *r = service->requests.first; r; r = r->next) {
        r->stopped_by_us = !r->engine.cancelling;
        med_engine_cancel(service->engine, &r->engine);
    }
}

static void on_deadline(uv_timer_t *timer)
{
    struct med_service *service = timer->data;
    MED_WARN("%" PRId64 " requests did not finish in time: cancelling them",
             service->requests.count);
    cancel_all(service);
}

/* What the next dials take; open links stay. */
static void reload(struct med_service *service)
{
    struct med_tls *tls = service->config->router_tls;
    struct med_keys *tokens = service->config->router_tokens;
    struct med_err err = {0};
    MED_INFO("SIGHUP: reloading");
    if (tls && med_tls_reload(tls, &err) < 0)
        MED_WARN("reload: %s; the old ones stay in force", err.text);
    if (tokens && med_keys_reload(tokens, &err) < 0)
        MED_WARN("reload: %s; the old one stays in force", err.text);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct med_service *service = handle->data;
    if (number == SIGHUP) {
        reload(service);
        return;
    }
    const char *name = number == SIGTERM ? "SIGTERM" : "SIGINT";
    if (service->phase == MED_SERVICE_DRAINING) {
        MED_WARN("%s again: cancelling %" PRId64 " requests", name, service->requests.count);
        cancel_all(service);
        return;
    }
    if (service->phase != MED_SERVICE_SERVING)
        return;
    MED_INFO("%s: draining %" PRId64 " requests", name, service->requests.count);
    service->phase = MED_SERVICE_DRAINING;
    for (size_t i = 0; i < service->route_count; i++) {
        if (!service->routes[i].link)
            continue;
        med_uplink_send_drain(service->routes[i].link);
        med_uplink_flush(service->routes[i].link);
    }
    uint64_t drain_ms = (uint64_t)(service->config->drain_ns / MED_NS_PER_MS);
    (void)uv_timer_start(&service->deadline, on_deadline, drain_ms, 0);
    advance(service);
}

static void on_busy_line(uv_timer_t *timer)
{
    struct med_service *service = timer->data;
    if (service->phase < MED_SERVICE_LAST)
        med_service_busy_line(service);
}

static void on_given_up(uv_timer_t *timer)
{
    struct med_service *service = timer->data;
    uv_stop(&service->loop);
}

/* The engine thread waits for a device that does not answer.  It cannot be ended, and what it holds
 * cannot be freed: the requests are told, and run returns. */
static void give_up(struct med_service *service, double silent_s)
{
    service->given_up = true;
    (void)med_err_set(&service->failure_err, MED_E_CUDA,
                      "the engine has not come back from its device for %.1f s", silent_s);
    service->failure = MED_E_CUDA;
    MED_ERROR("engine: %s; leaving", service->failure_err.text);
    const struct med_engine_event end = {.end = MED_ENGINE_ERROR};
    for (struct med_request *r = service->requests.first; r; r = r->next) {
        if (r->link)
            finish(service, r, &end);
    }
    for (size_t i = 0; i < service->route_count; i++) {
        if (service->routes[i].link)
            med_uplink_flush(service->routes[i].link);
    }
    (void)uv_timer_start(&service->deadline, on_given_up, LAST_WORDS_MS, 0);
}

static void on_beat(uv_timer_t *timer)
{
    struct med_service *service = timer->data;
    const struct med_service_config *c = service->config;
    if (service->phase >= MED_SERVICE_LAST || service->given_up)
        return;
    med_engine_beat(service->engine);
    if (c->stuck_ns == 0)
        return;
    struct med_engine_stats stats;
    med_engine_get_stats(service->engine, &stats);
    double silent_ns = (double)(med_clock_now_ns(c->clock) - stats.heartbeat_ns) / c->clock->scale;
    if (!stats.failed && silent_ns > (double)c->stuck_ns)
        give_up(service, silent_ns / (double)MED_NS_PER_S);
}

/* ---- starting ------------------------------------------------------------------------------- */

static int start_engine(struct med_service *service, struct med_err *err)
{
    const struct med_service_config *c = service->config;
    struct med_engine_config engine = {
        .scheduler = c->scheduler,
        .backend = c->backend,
        .clock = c->clock,
        .wake = wake_loop,
        .wake_arg = service,
        .ttft_bounds_s = c->ttft_bounds_s,
        .tpot_bounds_s = c->tpot_bounds_s,
        .ttft_bound_count = c->ttft_bound_count,
        .tpot_bound_count = c->tpot_bound_count,
    };
    int rc = med_requests_init(&service->requests, c->scheduler.table_max);
    if (rc < 0)
        return med_err_set(err, rc, "no memory for a table of requests");
    return med_engine_new(&engine, &service->engine, err);
}

static int start_http(struct med_service *service, struct med_err *err)
{
    const struct med_http_handler handler = {.on_request = med_service_on_http, .self = service};
    if (!service->config->metrics_address)
        return 0;
    int rc = med_http_server_new(&service->loop, &handler, 0, &service->http);
    if (rc < 0)
        return med_err_set(err, rc, "metrics: %s", med_err_text(rc));
    rc = med_http_server_listen(service->http, service->config->metrics_address, err);
    if (rc < 0)
        (void)med_err_prefix(err, "--metrics-listen");
    return rc;
}

static int start_links(struct med_service *service, struct med_err *err)
{
    const struct med_service_config *c = service->config;
    for (size_t i = 0; i < c->router_count; i++) {
        int rc = start_link(service, i, c->routers[i], err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void start_handles(struct med_service *service)
{
    uv_loop_t *loop = &service->loop;
    uv_signal_t *const signals[] = {&service->sigterm, &service->sigint, &service->sighup};
    uv_timer_t *const timers[] = {&service->deadline, &service->busy_line, &service->beat};
    const int numbers[] = {SIGTERM, SIGINT, SIGHUP};
    for (int i = 0; i < 3; i++) {
        MED_ASSERT(uv_signal_init(loop, signals[i]) == 0);
        signals[i]->data = service;
        MED_ASSERT(uv_signal_start(signals[i], on_signal, numbers[i]) == 0);
    }
    for (int i = 0; i < 3; i++) {
        MED_ASSERT(uv_timer_init(loop, timers[i]) == 0);
        timers[i]->data = service;
    }
    const struct med_clock *clock = service->config->clock;
    service->line_ns = med_clock_now_ns(clock);
    uint64_t beat_ms = med_clock_real_ms_until(clock, service->line_ns + BEAT_NS);
    if (beat_ms < BEAT_MS_MIN)
        beat_ms = BEAT_MS_MIN;
    (void)uv_timer_start(&service->busy_line, on_busy_line, BUSY_LINE_MS, BUSY_LINE_MS);
    (void)uv_timer_start(&service->beat, on_beat, beat_ms, beat_ms);
}

/* The wake-up handle comes first and the signals right after it, so that from there on every way
 * out is the same: the phases of a stop. */
static int start(struct med_service *service, struct med_err *err)
{
    service->wake.data = service;
    int rc = uv_async_init(&service->loop, &service->wake, on_wake);
    if (rc < 0)
        return med_err_set(err, rc, "cannot make the loop's wake-up: %s", uv_strerror(rc));
    rc = start_engine(service, err);
    if (rc < 0) {
        uv_close((uv_handle_t *)&service->wake, NULL);
        return rc;
    }
    start_handles(service);
    rc = start_http(service, err);
    if (rc >= 0)
        rc = start_links(service, err);
    return rc;
}

int med_service_run(const struct med_service_config *config, struct med_err *err)
{
    MED_ASSERT(config->clock->scale > 0);
    MED_ASSERT(config->rules.vocab_tokens > 0);
    MED_ASSERT(config->rules.tokens_max > 0);
    if (config->router_count > MED_SERVICE_ROUTERS_MAX) {
        config->backend.ops->release(config->backend.self);
        return med_err_set(err, MED_E_LIMIT, "%zu routers, expected at most %d",
                           config->router_count, MED_SERVICE_ROUTERS_MAX);
    }
    struct med_service *service = med_calloc(1, sizeof *service);
    int rc = service ? uv_loop_init(&service->loop) : MED_E_NOMEM;
    if (rc < 0) {
        med_free(service);
        config->backend.ops->release(config->backend.self);
        return med_err_set(err, rc, "cannot make an event loop");
    }
    service->config = config;
    med_rng_init(&service->rng, config->rules.sampling.seed, SEED_STREAM);
    rc = start(service, err);
    if (rc >= 0) {
        med_service_print_ready(service);
    } else if (service->engine) {
        advance(service);
    }
    int open = uv_run(&service->loop, UV_RUN_DEFAULT);
    if (service->given_up) {
        if (err)
            *err = service->failure_err;
        return MED_E_CUDA;
    }
    MED_ASSERT(open == 0);
    MED_ASSERT(uv_loop_close(&service->loop) == 0);
    if (rc >= 0 && service->failure < 0) {
        rc = service->failure;
        if (err)
            *err = service->failure_err;
    }
    if (service->requests.buckets)
        med_requests_release(&service->requests);
    config->backend.ops->release(config->backend.self);
    med_free(service);
    return rc;
}
