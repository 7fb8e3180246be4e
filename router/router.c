/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The router's life: start, timers, drain, close; see router.h.
 *
 * Dispatch says when it wants to be ticked; a prepare handle arms the timer for that before each
 * sleep of the loop, so no call into dispatch has to think of it.  A second timer looks ten times a
 * second at what is not worth an event: how late the loop is, how many workers are ready, what to
 * tell a client that is turned away.
 *
 * Closing: every part (doors, links, handles) counts in parts_open and takes itself off when it has
 * closed.  Links close last of the three, so that requests can still end while the doors close.
 * Runs on the loop.
 */
#include "router/router.h"

#include "base/alloc.h"
#include "base/log.h"
#include "base/thread.h"
#include "router/router_internal.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    WATCH_MS = 100,
    TICK_LATE_MS = 250,
    TICK_PUT_OFF_MS = 50,
    TICK_PUT_OFFS_MAX = 4, /* one behind another */
    DRAIN_LOOK_MS = 20,
    /* Until then, health checks and calls on open gRPC connections are told why. */
    DRAIN_GOAWAY_MS = 1000,
    STATS_INTERVAL_MS = 500, // real time
    HELLO_TIMEOUT_MS = 10 * 1000,
    PING_INTERVAL_MS = 5 * 1000,
    RETRY_MS_MIN = 100,
    RETRY_MS_MAX = 60 * 1000,
    RETRY_MS_UNKNOWN = 1000,
    LOOP_DELAY_LOG_MS = 250,
};

/* ---- timers ---- */

static void on_tick(uv_timer_t *timer)
{
    struct med_router *router = timer->data;
    uint64_t began_ns = uv_hrtime();
    int64_t now_ns = med_clock_now_ns(&router->clock);
    double late_ms =
        (double)(now_ns - router->tick_at_ns) / router->clock.scale / (double)MED_NS_PER_MS;
    /* This process stood still, so it is no wonder that no worker was heard: what they have said
     * meanwhile is read first. */
    if (late_ms > TICK_LATE_MS && router->tick_put_offs < TICK_PUT_OFFS_MAX) {
        router->tick_put_offs++;
        int rc = uv_timer_start(timer, on_tick, TICK_PUT_OFF_MS, 0);
        MED_ASSERT(rc == 0);
        return;
    }
    router->tick_put_offs = 0;
    router->tick_at_ns = INT64_MAX;
    med_dispatch_tick(router->dispatch, now_ns);
    med_router_job_ran(router, MED_LOOP_TICK, began_ns);
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct med_router *router = prepare->data;
    med_router_end_doomed(router);
    med_loop_watch_turn(&router->metrics.loop, uv_hrtime(), uv_metrics_idle_time(router->loop));
    int64_t at_ns = med_dispatch_next_tick_ns(router->dispatch);
    if (at_ns == router->tick_at_ns || router->tick_put_offs > 0 ||
        router->state == MED_ROUTER_CLOSING)
        return;
    router->tick_at_ns = at_ns;
    if (at_ns == INT64_MAX) {
        (void)uv_timer_stop(&router->tick); // always succeeds
        return;
    }
    uint64_t ms = med_clock_real_ms_until(&router->clock, at_ns);
    int rc = uv_timer_start(&router->tick, on_tick, ms > 0 ? ms : 1, 0);
    MED_ASSERT(rc == 0);
}

/* When the queue has drained to where it takes more, or the soonest predicted start of a worker that is
 * ready, whichever is later, as a hint in real time. */
static uint32_t retry_hint(const struct med_router *router, int64_t start_ns)
{
    int64_t drained_ns = med_dispatch_retry_after_ns(router->dispatch);
    if (start_ns == INT64_MAX)
        return RETRY_MS_UNKNOWN;
    if (drained_ns > start_ns)
        start_ns = drained_ns;
    double ms = (double)start_ns / router->clock.scale / (double)MED_NS_PER_MS;
    return (uint32_t)fmin(fmax(ms, RETRY_MS_MIN), RETRY_MS_MAX);
}

void med_router_look(struct med_router *router)
{
    struct med_dispatch_worker_view view;
    int64_t soonest_ns = INT64_MAX;
    size_t ready = 0;
    for (uint32_t i = 0; i < router->workers_end && router->worker_count > 0; i++) {
        if (router->workers[i].link == NULL ||
            !med_dispatch_get_worker(router->dispatch, i, &view) || view.state != MED_WORKER_READY)
            continue;
        ready++;
        if (view.predicted_start_ns < soonest_ns)
            soonest_ns = view.predicted_start_ns;
    }
    router->workers_ready = ready;
    router->retry_after_ms = retry_hint(router, soonest_ns);
    if (router->state != MED_ROUTER_CLOSING && router->grpc != NULL) {
        med_grpc_server_set_serving(router->grpc,
                                    ready > 0 && router->state <= MED_ROUTER_RETIRING);
    }
}

void med_router_job_ran(struct med_router *router, enum med_loop_job job, uint64_t began_ns)
{
    med_loop_watch_ran(&router->metrics.loop, job, began_ns, uv_hrtime());
}

void med_router_spend(struct med_router *router)
{
    int64_t now_ns = med_clock_now_ns(&router->clock);
    if (router->worker_count > 0) {
        med_router_metrics_spend(&router->metrics, router->dispatch, router->workers_end,
                                 now_ns - router->spent_until_ns);
    }
    router->spent_until_ns = now_ns;
}

static void on_watch(uv_timer_t *timer)
{
    struct med_router *router = timer->data;
    uint64_t now_ns = uv_hrtime();
    double late_s =
        now_ns > router->watch_due_ns ? (double)(now_ns - router->watch_due_ns) / 1e9 : 0;
    med_hist_add(&router->metrics.loop_delay, late_s);
    if (late_s > router->loop_delay_max_s)
        router->loop_delay_max_s = late_s;
    struct med_loop_longest longest = med_loop_watch_take_recent(&router->metrics.loop);
    if (late_s * 1000 > LOOP_DELAY_LOG_MS) {
        MED_WARN("the loop was %.0f ms late; what took longest was %s, %.0f ms", late_s * 1000,
                 med_loop_job_name(longest.job), (double)longest.ns / 1e6);
    }
    router->watch_due_ns = now_ns + (uint64_t)WATCH_MS * 1000000;
    med_router_look_at_drains(router);
    med_router_spend(router);
    med_router_look_at_unplanned(router);
    med_router_look(router);
    med_router_job_ran(router, MED_LOOP_LOOK, now_ns);
}

/* ---- closing ---- */

static void on_part_closed(void *arg)
{
    struct med_router *router = arg;
    router->parts_open--;
}

static void on_handle_closed(uv_handle_t *handle)
{
    on_part_closed(handle->data);
}

static void on_grpc_closed(void *arg)
{
    struct med_router *router = arg;
    router->grpc = NULL;
    /* Every request has ended now: no call is left that could own one. */
    MED_ASSERT(router->active == 0);
    struct med_link_server *links = router->links;
    router->links = NULL;
    med_link_server_close(links, on_part_closed, router);
    on_part_closed(router);
}

static void close_all(struct med_router *router)
{
    if (router->state == MED_ROUTER_CLOSING)
        return;
    med_router_abort_all(router);
    router->state = MED_ROUTER_CLOSING;
    struct med_http_server *http = router->http;
    struct med_openai_door *openai = router->openai;
    router->http = NULL;
    router->openai = NULL;
    med_openai_door_close(openai, on_part_closed, router);
    med_http_server_close(http, on_part_closed, router);
    http = router->admin_http;
    router->admin_http = NULL;
    med_http_server_close(http, on_part_closed, router);
    med_grpc_server_close(router->grpc, on_grpc_closed, router);
    uv_close((uv_handle_t *)&router->prepare, on_handle_closed);
    uv_close((uv_handle_t *)&router->tick, on_handle_closed);
    uv_close((uv_handle_t *)&router->watch, on_handle_closed);
    uv_close((uv_handle_t *)&router->drain_timer, on_handle_closed);
    uv_close((uv_handle_t *)&router->retire, on_handle_closed);
    if (router->take_over.fd >= 0) // the socket's file is the other one's
        med_link_server_leave(router->links);
    med_take_over_end(&router->take_over);
    if (router->hand_over != NULL) {
        struct med_hand_over *hand_over = router->hand_over;
        router->hand_over = NULL;
        router->parts_open++;
        med_hand_over_close(hand_over, on_part_closed, router);
    }
}

/* No request is left, and every answer has been written. */
static bool is_drained(struct med_router *router)
{
    struct med_http_server_stats http;
    if (router->active > 0 || med_grpc_server_requests(router->grpc) > 0 ||
        med_openai_door_requests(router->openai) > 0)
        return false;
    /* What has been given to the HTTP server still has to reach its clients. */
    med_http_server_drain(router->http);
    med_http_server_get_stats(router->http, &http);
    return http.connections == 0;
}

/* Looks whether the drain is over. */
static void on_drain_look(uv_timer_t *timer)
{
    struct med_router *router = timer->data;
    if (uv_hrtime() >= router->drain_goaway_ns)
        med_grpc_server_drain(router->grpc);
    if (is_drained(router)) {
        MED_INFO("drained");
        close_all(router);
    } else if (uv_hrtime() >= router->drain_until_ns) {
        MED_WARN("the drain's time is over: %zu requests are ended", router->active);
        close_all(router);
    }
}

void med_router_drain(struct med_router *router)
{
    MED_ASSERT_THREAD(router->thread);
    if (router->state > MED_ROUTER_RETIRING) {
        close_all(router);
        return;
    }
    router->state = MED_ROUTER_DRAINING;
    router->drain_until_ns = uv_hrtime() + (uint64_t)router->config.drain_timeout_ns;
    router->drain_goaway_ns = uv_hrtime() + (uint64_t)DRAIN_GOAWAY_MS * 1000000;
    MED_INFO("draining: %zu requests are left", router->active);
    med_router_look(router);
    int rc = uv_timer_start(&router->drain_timer, on_drain_look, 0, DRAIN_LOOK_MS);
    MED_ASSERT(rc == 0);
}

void med_router_reload_security(struct med_router *router)
{
    MED_ASSERT_THREAD(router->thread);
    struct med_security *security = &router->security;
    if (router->state == MED_ROUTER_CLOSING || !med_security_reload(security))
        return;
    int rc =
        med_grpc_server_set_certificate(router->grpc, security->chain.data, security->key.data);
    if (rc < 0)
        MED_WARN("reload: gRPC keeps the old certificate: %s", med_err_text(rc));
}

void med_router_stop(struct med_router *router)
{
    MED_ASSERT_THREAD(router->thread);
    close_all(router);
}

/* ---- start ---- */

static int make_tables(struct med_router *router)
{
    router->slots = med_calloc(MED_LIMIT_CALLS, sizeof(*router->slots));
    router->workers = med_calloc(router->workers_max, sizeof(*router->workers));
    if (router->slots == NULL || router->workers == NULL)
        return MED_E_NOMEM;
    for (uint32_t i = 0; i < MED_LIMIT_CALLS; i++)
        router->slots[i].next_free = i + 1 < MED_LIMIT_CALLS ? i + 1 : UINT32_MAX;
    router->joining_index = UINT32_MAX;
    return 0;
}

static int64_t context_tokens(void *self)
{
    const struct med_router *router = self;
    struct med_dispatch_context context;
    med_dispatch_get_context(router->dispatch, &context);
    return context.planned;
}

static int make_openai(struct med_router *router)
{
    const struct med_router_config *c = &router->config;
    const struct med_openai_host host = {.submit = med_router_submit,
                                         .cancel = med_router_give_up,
                                         .context_tokens = context_tokens,
                                         .self = router};
    const struct med_openai_config config = {
        .model_name = c->plan->model_name,
        .model = c->model,
        .ping_interval_ms = (uint32_t)(c->ping_interval_ns / MED_NS_PER_MS),
    };
    return med_openai_door_new(router->loop, &router->clock, &host, &config, &router->openai);
}

static int make_servers(struct med_router *router, struct med_err *err)
{
    const struct med_http_handler pages = {.on_request = med_router_on_http,
                                           .on_gone = med_router_on_http_gone,
                                           .on_drained = med_router_on_http_drained,
                                           .on_status = med_router_on_http_status,
                                           .self = router};
    const struct med_grpc_host host = {
        .submit = med_router_submit, .cancel = med_router_give_up, .self = router};
    const struct med_link_server_config links = {
        .stats_interval_ms = (uint32_t)ceil(STATS_INTERVAL_MS * router->config.time_scale),
        .hello_timeout_ms = HELLO_TIMEOUT_MS,
        .ping_interval_ms = PING_INTERVAL_MS,
        .tls = router->security.link_tls,
        .tokens = router->security.link_tokens,
    };
    const struct med_grpc_config grpc = {
        .keys = router->security.api_keys,
        .keepalive_ns = router->config.grpc_keepalive_ns,
        .idle_ns = router->config.grpc_idle_ns,
        .age_ns = med_router_connection_age_ns(router),
        .share_port = router->config.control_socket != NULL,
        .streams_max = router->config.grpc_streams_max,
    };
    struct med_link_ops ops = MED_ROUTER_LINK_OPS;
    ops.self = router;
    int rc = med_link_server_new(router->loop, &ops, &links, &router->links);
    if (rc == 0)
        rc = make_openai(router);
    if (rc == 0) {
        rc = med_http_server_new(router->loop, &pages, (size_t)router->config.http_connections_max,
                                 &router->http);
    }
    if (rc == 0)
        med_http_server_set_tls(router->http, router->security.door_tls);
    if (rc < 0)
        return med_err_set(err, rc, "%s", med_err_text(rc));
    return med_grpc_server_new(router->loop, &router->clock, &host, &grpc, &router->grpc, err);
}

static void make_handles(struct med_router *router)
{
    /* uv_timer_init and uv_prepare_init always succeed. */
    (void)uv_prepare_init(router->loop, &router->prepare);
    (void)uv_timer_init(router->loop, &router->tick);
    (void)uv_timer_init(router->loop, &router->watch);
    (void)uv_timer_init(router->loop, &router->drain_timer);
    (void)uv_timer_init(router->loop, &router->retire);
    router->prepare.data = router;
    router->tick.data = router;
    router->watch.data = router;
    router->drain_timer.data = router;
    router->retire.data = router;
    med_openai_door_start(router->openai);
    router->parts_open = 5 + 4; // these, links, HTTP and its OpenAI door, gRPC
}

int med_router_new(uv_loop_t *loop, const struct med_router_config *config,
                   struct med_router **ret_router, struct med_err *err)
{
    struct med_router *router = med_calloc(1, sizeof(*router));
    if (router == NULL)
        return med_err_set(err, MED_E_NOMEM, "%s", med_err_text(MED_E_NOMEM));
    router->thread = pthread_self();
    router->loop = loop;
    router->config = *config;
    router->tick_at_ns = INT64_MAX;
    router->take_over.fd = -1;
    router->retry_after_ms = RETRY_MS_UNKNOWN;
    med_clock_init_real(&router->clock, config->time_scale);
    router->started_unix_ns = med_clock_unix_ns();
    router->spent_until_ns = med_clock_now_ns(&router->clock);
    med_rng_init(&router->rng, (uint64_t)med_clock_unix_ns(), (uint64_t)getpid());
    router->boot = med_rng_u32(&router->rng);
    router->hash_salt = (uint64_t)med_rng_u32(&router->rng) << 32 | med_rng_u32(&router->rng);
    int rc = med_security_init(&router->security, &config->security, err);
    if (rc == 0)
        rc = med_router_plan_init(router, err);
    if (rc == 0) {
        rc = med_router_metrics_init(&router->metrics, config->plan, router->dispatch);
        if (rc == 0)
            rc = med_recent_init(&router->recent);
        if (rc == 0)
            rc = make_tables(router);
        if (rc < 0)
            rc = med_err_set(err, rc, "%s", med_err_text(rc));
    }
    if (rc == 0)
        rc = make_servers(router, err);
    if (rc < 0) {
        /* Nothing has a handle on the loop yet. */
        med_link_server_close(router->links, NULL, NULL);
        med_http_server_close(router->http, NULL, NULL);
        med_openai_door_free(router->openai);
        router->links = NULL;
        router->http = NULL;
        med_router_free(router);
        return rc;
    }
    make_handles(router);
    (void)uv_loop_configure(loop, UV_METRICS_IDLE_TIME); // known to this libuv: cannot fail
    *ret_router = router;
    return 0;
}

/* What a predecessor listens on, if that is what is asked for; *ret_fd -1: nothing is inherited. */
static int inherit(struct med_router *router, const char *name,
                   const struct sockaddr_storage *address, const char *option, int *ret_fd,
                   struct med_err *err)
{
    struct sockaddr_storage bound = {0};
    socklen_t bytes = sizeof(bound);
    char text[MED_NET_TEXT_MAX];
    char asked[MED_NET_TEXT_MAX];
    int fd = med_router_inherit(router, name);
    *ret_fd = -1;
    if (fd < 0)
        return 0;
    if (getsockname(fd, (struct sockaddr *)&bound, &bytes) < 0) {
        (void)close(fd);
        return med_err_set(err, MED_E_IO, "%s: what was given is no socket", option);
    }
    med_net_format(&bound, text);
    med_net_format(address, asked);
    if (strcmp(text, asked) != 0 && med_net_port(address) != 0) {
        (void)close(fd);
        return med_err_set(err, MED_E_USAGE,
                           "%s: found %s, but the router that is taken over listens on %s: "
                           "addresses stay in a take-over",
                           option, asked, text);
    }
    *ret_fd = fd;
    return 0;
}

static int listen_unix(struct med_router *router, struct med_err *err)
{
    const char *path = router->config.link_socket;
    if (path == NULL)
        return 0;
    int fd = med_router_inherit(router, "unix");
    return fd < 0 ? med_link_server_listen_unix(router->links, path, err)
                  : med_link_server_adopt_unix(router->links, fd, path, err);
}

static int listen_links(struct med_router *router, struct med_router_addresses *addresses,
                        struct med_err *err)
{
    struct sockaddr_storage address;
    struct sockaddr_storage bound;
    int fd = -1;
    int rc = med_net_parse(router->config.link_listen, "--link-listen", &address, err);
    if (rc == 0)
        rc = inherit(router, "link", &address, "--link-listen", &fd, err);
    if (rc == 0) {
        rc = fd < 0 ? med_link_server_listen_tcp(router->links, &address, &bound, err)
                    : med_link_server_adopt_tcp(router->links, fd, &bound, err);
    }
    if (rc < 0)
        return rc;
    med_net_format(&bound, addresses->link);
    return listen_unix(router, err);
}

static int listen_http(struct med_router *router, struct med_router_addresses *addresses,
                       struct med_err *err)
{
    struct sockaddr_storage address;
    int rc = med_net_parse(router->config.http_listen, "--http-listen", &address, err);
    if (rc < 0)
        return rc;
    int fd = -1;
    rc = inherit(router, "http", &address, "--http-listen", &fd, err);
    if (rc < 0)
        return rc;
    rc = fd < 0 ? med_http_server_listen(router->http, &address, err)
                : med_http_server_adopt(router->http, fd, err);
    if (rc < 0) {
        (void)med_err_prefix(err, "--http-listen %s", router->config.http_listen);
        return rc;
    }
    med_http_server_address(router->http, &address);
    med_net_format(&address, addresses->http);
    router->admin_on_http =
        strcmp(router->config.admin, "auto") == 0 && med_net_is_loopback(&address);
    if (router->admin_on_http)
        memcpy(addresses->admin, addresses->http, sizeof(addresses->admin));
    return 0;
}

/* A listener of the admin view's own, which must be seen from this machine only. */
static int listen_admin(struct med_router *router, struct med_router_addresses *addresses,
                        struct med_err *err)
{
    const char *text = router->config.admin;
    struct sockaddr_storage address;
    if (strcmp(text, "auto") == 0 || strcmp(text, "off") == 0)
        return 0;
    int rc = med_net_parse(text, "--admin", &address, err);
    if (rc < 0)
        return rc;
    if (!med_net_is_loopback(&address)) {
        return med_err_set(err, MED_E_USAGE,
                           "--admin: found %s, expected auto, off or an address of loopback, as "
                           "127.0.0.1:7073: whoever reaches it can drain workers",
                           text);
    }
    const struct med_http_handler pages = {.on_request = med_router_on_admin_http, .self = router};
    rc = med_http_server_new(router->loop, &pages, 0, &router->admin_http);
    if (rc < 0)
        return med_err_set(err, rc, "%s", med_err_text(rc));
    router->parts_open++;
    int fd = -1;
    rc = inherit(router, "admin", &address, "--admin", &fd, err);
    if (rc < 0)
        return rc;
    rc = fd < 0 ? med_http_server_listen(router->admin_http, &address, err)
                : med_http_server_adopt(router->admin_http, fd, err);
    if (rc < 0) {
        (void)med_err_prefix(err, "--admin %s", text);
        return rc;
    }
    med_http_server_address(router->admin_http, &address);
    med_net_format(&address, addresses->admin);
    return 0;
}

static void port_set(struct sockaddr_storage *address, int port)
{
    if (address->ss_family == AF_INET6) {
        ((struct sockaddr_in6 *)address)->sin6_port = htons((uint16_t)port);
    } else {
        ((struct sockaddr_in *)address)->sin_port = htons((uint16_t)port);
    }
}

/* Where the predecessor listens, whose port is shared, or else where the options say. */
static int grpc_address(struct med_router *router, struct sockaddr_storage *ret_address,
                        struct med_err *err)
{
    char asked[MED_NET_TEXT_MAX];
    int rc = med_net_parse(router->config.grpc_listen, "--grpc-listen", ret_address, err);
    if (rc < 0 || router->config.control_socket == NULL)
        return rc;
    const char *theirs = router->take_over.handed.grpc;
    if (theirs[0] == '\0')
        return med_router_check_port_free(ret_address, err);
    med_net_format(ret_address, asked);
    if (strcmp(asked, theirs) != 0 && med_net_port(ret_address) != 0) {
        return med_err_set(err, MED_E_USAGE,
                           "--grpc-listen: found %s, but the router that is taken over listens on "
                           "%s: addresses stay in a take-over",
                           asked, theirs);
    }
    return med_net_parse(theirs, "--take-over", ret_address, err);
}

static int listen_grpc(struct med_router *router, struct med_router_addresses *addresses,
                       struct med_err *err)
{
    struct sockaddr_storage address;
    char text[MED_NET_TEXT_MAX];
    int port = 0;
    int rc = grpc_address(router, &address, err);
    if (rc < 0)
        return rc;
    med_net_format(&address, text);
    const struct med_security *security = &router->security;
    if (security->door_tls != NULL) {
        rc =
            med_grpc_server_set_certificate(router->grpc, security->chain.data, security->key.data);
    }
    if (rc < 0)
        return med_err_set(err, rc, "%s", med_err_text(rc));
    rc = med_grpc_server_listen(router->grpc, text, &port, err);
    if (rc < 0)
        return rc;
    port_set(&address, port);
    med_net_format(&address, addresses->grpc);
    router->grpc_port = port;
    return 0;
}

static int start_timers(struct med_router *router)
{
    int rc = uv_prepare_start(&router->prepare, on_prepare);
    if (rc == 0)
        rc = uv_timer_start(&router->watch, on_watch, WATCH_MS, WATCH_MS);
    router->watch_due_ns = uv_hrtime() + (uint64_t)WATCH_MS * 1000000;
    return rc;
}

/* Links first: a successor opens its doors when it has workers. */
int med_router_start(struct med_router *router, struct med_router_addresses *ret_addresses,
                     struct med_err *err)
{
    MED_ASSERT_THREAD(router->thread);
    struct med_router_addresses *addresses = &router->bound;
    int rc = med_router_take_over(router, err);
    /* Before the doors listen: prepare handles run in the reverse order of their start, and the doors'
     * take requests, after which the router's asks dispatch when it wants to be ticked. */
    if (rc == 0)
        rc = start_timers(router);
    if (rc == 0)
        rc = listen_links(router, addresses, err);
    if (rc == 0)
        rc = med_router_await_workers(router, err);
    if (rc == 0)
        rc = listen_http(router, addresses, err);
    if (rc == 0)
        rc = listen_admin(router, addresses, err);
    if (rc == 0)
        rc = listen_grpc(router, addresses, err);
    if (rc == 0)
        rc = med_router_succeed(router, err);
    if (rc == 0)
        *ret_addresses = *addresses;
    return rc;
}

void med_router_free(struct med_router *router)
{
    if (router == NULL)
        return;
    MED_ASSERT(router->parts_open == 0);
    MED_ASSERT(router->active == 0);
    med_security_release(&router->security);
    med_router_metrics_release(&router->metrics);
    med_recent_release(&router->recent);
    med_dispatch_free(router->dispatch);
    med_router_plan_release(router);
    med_free(router->slots);
    med_free(router->workers);
    med_free(router);
}
