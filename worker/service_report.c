/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a worker tells of itself: the READY line, a line while it is busy, /metrics and /health.
 *
 * Health is the engine loop's own heartbeat, so a stalled device shows although the socket answers.
 * thread: loop.  Changes nothing but the marks of the last busy line.
 */
#include "worker/service_internal.h"

#include "base/log.h"
#include "router/net.h"
#include "worker/emulated/emulated.h"
#include "worker/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    STALLED_S = 30, /* an engine that is silent for longer, on both clocks, is not healthy */
    READY_WORDS_BYTES = 1024
};

void med_service_print_ready(const struct med_service *service)
{
    const struct med_service_config *c = service->config;
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t now_ns = (int64_t)now.tv_sec * MED_NS_PER_S + now.tv_nsec;
    char metrics[MED_NET_TEXT_MAX] = "none";
    if (service->http) {
        struct sockaddr_storage address;
        med_http_server_address(service->http, &address);
        med_net_format(&address, metrics);
    }
    char backend[READY_WORDS_BYTES] = " graph_capture=none";
    if (c->describe)
        c->describe(c->describe_arg, backend, sizeof backend);
    (void)fprintf(stderr,
                  "READY worker_id=%s worker_type=%s model=%s backend=%s weights_gb=%.2f "
                  "kv_tokens=%" PRId64 " max_model_len=%" PRId64
                  " max_concurrency=%.2f metrics=%s%s seconds=%.3f\n",
                  c->hello.worker_id, c->hello.worker_type, c->hello.model, c->hello.backend,
                  c->weight_bytes / 1e9, c->hello.kv_tokens, c->hello.model_len_max,
                  (double)c->hello.kv_tokens / (double)c->hello.model_len_max, metrics, backend,
                  (double)(now_ns - c->started_ns) / (double)MED_NS_PER_S);
}

void med_service_busy_line(struct med_service *service)
{
    struct med_engine_stats stats;
    med_engine_get_stats(service->engine, &stats);
    const struct med_scheduler_stats *s = &stats.scheduler;
    int64_t now_ns = med_clock_now_ns(service->config->clock);
    double passed_s = (double)(now_ns - service->line_ns) / (double)MED_NS_PER_S;
    uint64_t prompt = s->prompt_tokens_total - service->line_prompt;
    uint64_t generated = s->generated_tokens_total - service->line_generated;
    char late[64] = "";
    if (service->config->emulated) {
        int64_t late_ns = med_emulated_lateness_ns(&service->config->backend);
        (void)snprintf(late, sizeof late, ", emulation late by %.1f ms",
                       (double)late_ns / (double)MED_NS_PER_MS);
    }
    int64_t waiting = service->requests.count - s->running;
    if (!service->measure && (prompt > 0 || generated > 0 || service->requests.count > 0)) {
        MED_INFO("prompt %.0f tok/s, generation %.0f tok/s, running %" PRId64 ", waiting %" PRId64
                 ", KV %.1f %%, preemptions %" PRIu64 "%s",
                 (double)prompt / passed_s, (double)generated / passed_s, s->running,
                 waiting > 0 ? waiting : 0,
                 100 * (1 - (double)s->kv_blocks_free / (double)s->kv_blocks_total), s->preemptions,
                 late);
    }
    service->line_ns = now_ns;
    service->line_prompt = s->prompt_tokens_total;
    service->line_generated = s->generated_tokens_total;
}

static int answer_metrics(struct med_service *service, struct med_http_answer *answer)
{
    const struct med_service_config *c = service->config;
    struct med_metrics_link links[MED_SERVICE_ROUTERS_MAX];
    struct med_metrics m = {
        .model = c->hello.model,
        .worker_id = c->hello.worker_id,
        .worker_type = c->hello.worker_type,
        .backend = c->hello.backend,
        .dtype = c->dtype,
        .prefix_cache = c->scheduler.prefix_cache,
        .block_tokens = c->scheduler.block_tokens,
        .lateness_ns = c->emulated ? med_emulated_lateness_ns(&c->backend) : -1,
        .refused = service->refused,
        .rejected = service->rejected,
        .request_bytes = service->requests.bytes,
        .draining = service->phase != MED_SERVICE_SERVING,
        .links = links,
        .link_count = c->router_count,
    };
    for (size_t i = 0; i < c->router_count; i++) {
        /* Up while any link to it is: for a while there may be two, when another process takes over. */
        links[i] = (struct med_metrics_link){.address = c->routers[i]};
        for (size_t k = 0; k < service->route_count; k++) {
            const struct med_service_route *route = &service->routes[k];
            if (route->link && route->address == c->routers[i])
                links[i].up = links[i].up || med_uplink_is_up(route->link);
        }
    }
    med_engine_get_stats(service->engine, &m.engine);
    m.waiting = service->requests.count - m.engine.scheduler.running;
    if (m.waiting < 0)
        m.waiting = 0;
    m.heartbeat_age_ns = med_clock_now_ns(c->clock) - m.engine.heartbeat_ns;
    struct med_metrics_device device = {.peak_bytes_per_s = c->peak_bytes_per_s,
                                        .peak_flops_per_s = c->peak_flops_per_s,
                                        .plan = c->plan};
    if (c->plan) {
        med_meter_get(&c->backend, &device.meter);
        m.device = &device;
    }
    answer->content_type = "text/plain; version=0.0.4; charset=utf-8";
    return med_metrics_write(&m, &answer->body);
}

static int answer_health(struct med_service *service, struct med_http_answer *answer)
{
    struct med_engine_stats stats;
    const char *status = "ok";
    med_engine_get_stats(service->engine, &stats);
    const struct med_clock *clock = service->config->clock;
    int64_t age_ns = med_clock_now_ns(clock) - stats.heartbeat_ns;
    double stalled_ns = (double)(STALLED_S * MED_NS_PER_S) * (clock->scale > 1 ? clock->scale : 1);
    if (stats.failed || service->given_up) {
        status = "failed";
    } else if ((double)age_ns > stalled_ns) {
        status = "stalled";
    } else if (service->phase != MED_SERVICE_SERVING) {
        status = "draining";
    }
    answer->status = strcmp(status, "ok") == 0 ? 200 : 503;
    return med_buf_printf(&answer->body, "{\"status\":\"%s\",\"heartbeat_age_seconds\":%.3f}\n",
                          status, (double)age_ns / (double)MED_NS_PER_S);
}

static int answer_page(void *self, const char *path, struct med_http_answer *answer)
{
    struct med_service *service = self;
    if (strcmp(path, "/metrics") == 0)
        return answer_metrics(service, answer);
    if (strcmp(path, "/health") == 0)
        return answer_health(service, answer);
    return MED_E_NOT_FOUND;
}

void med_service_on_http(void *self, struct med_http_exchange *x)
{
    const struct med_http_pages pages = {.handle = answer_page, .self = self};
    med_http_pages_respond(&pages, x);
}
