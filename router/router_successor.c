/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How one router process follows another, see hand_over.h for what they say to each other.
 *
 * The one that comes: takes the listeners; accepts links, has the workers dial a second time, and waits
 * until as many are ready as the other one had; then opens its doors and says so.  Until that moment
 * clients see the other one alone, and it may fail without anybody noticing.
 *
 * The one that goes is RETIRING from then on: it accepts nothing new, steers the gRPC port's new
 * connections to its successor, ends HTTP connections with their next answer, and serves whatever still
 * comes on the connections that it has.  gRPC clients are asked to connect again when their connection
 * is of age, streams in it go on.  When it has no request and no connection, or its time is over, it ends.
 *
 * Runs on the loop.  Nothing of a request is handed over: it ends in the process that took it.
 */
#include "router/router_internal.h"

#include "base/assert.h"
#include "base/log.h"
#include "base/os.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTION_AGE_NS (60 * MED_NS_PER_S)

enum {
    WORKERS_WAIT_MS = 15 * 1000,
    LOOK_MS = 100,
    GRPC_LISTENERS_MAX = 64,
    PEERS_MAX = 1, // only their number is wanted
};

int64_t med_router_connection_age_ns(const struct med_router *router)
{
    const struct med_router_config *c = &router->config;
    return c->grpc_age_ns == 0 && c->control_socket != NULL ? CONNECTION_AGE_NS : c->grpc_age_ns;
}

/* ---- the one that comes ---- */

int med_router_inherit(struct med_router *router, const char *name)
{
    return med_handed_take(&router->take_over.handed, name);
}

int med_router_take_over(struct med_router *router, struct med_err *err)
{
    if (!router->config.take_over)
        return 0;
    int rc = med_take_over_begin(&router->take_over, router->config.control_socket, err);
    if (rc == MED_E_NOT_FOUND) {
        MED_INFO("nobody listens on %s: starting as usual", router->config.control_socket);
        return 0;
    }
    return rc;
}

int med_router_await_workers(struct med_router *router, struct med_err *err)
{
    struct med_take_over *t = &router->take_over;
    if (t->fd < 0)
        return 0;
    int rc = med_take_over_dial(t, err);
    if (rc < 0)
        return rc;
    uint64_t until_ns = uv_hrtime() + (uint64_t)WORKERS_WAIT_MS * 1000000;
    while (router->state == MED_ROUTER_RUNNING && router->workers_ready < t->handed.workers &&
           uv_hrtime() < until_ns && !med_take_over_is_alone(t))
        (void)uv_run(router->loop, UV_RUN_ONCE); // the watch timer ends each wait
    if (router->state != MED_ROUTER_RUNNING)
        return med_err_set(err, MED_E_CANCELLED, "--take-over: stopped by a signal");
    if (router->workers_ready >= t->handed.workers)
        return 0;
    if (router->workers_ready == 0 && !med_take_over_is_alone(t)) {
        return med_err_set(err, MED_E_NO_WORKER,
                           "--take-over: none of %" PRIu64 " workers has dialled here within %d s; "
                           "the router there goes on",
                           t->handed.workers, WORKERS_WAIT_MS / 1000);
    }
    MED_WARN("take-over: %zu of %" PRIu64 " workers have come; going on without the others",
             router->workers_ready, t->handed.workers);
    return 0;
}

int med_router_check_port_free(const struct sockaddr_storage *address, struct med_err *err)
{
    const int yes = 1;
    char text[MED_NET_TEXT_MAX];
    socklen_t bytes =
        address->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    med_net_format(address, text);
    if (med_net_port(address) == 0)
        return 0;
    int fd = socket(address->ss_family, SOCK_STREAM, 0);
    if (fd < 0)
        return med_err_set(err, MED_E_IO, "--grpc-listen: %s", med_os_errno_text(-errno));
    /* Without SO_REUSEPORT: it fails where anybody listens, sharing or not. */
    bool is_free = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) == 0 &&
                   bind(fd, (const struct sockaddr *)address, bytes) == 0;
    int code = errno;
    (void)close(fd);
    if (is_free)
        return 0;
    return med_err_set(err, MED_E_IO, "--grpc-listen: cannot listen on \"%s\": %s", text,
                       med_os_errno_text(-code));
}

/* ---- the one that goes ---- */

static int offer(void *self, struct med_handed *ret_handed, struct med_err *err)
{
    struct med_router *router = self;
    struct med_handed handed = {.workers = router->workers_ready};
    int tcp = -1;
    int path = -1;
    if (router->state != MED_ROUTER_RUNNING)
        return med_err_set(err, MED_E_DRAINING, "this router is stopping");
    med_link_server_fds(router->links, &tcp, &path);
    med_handed_add(&handed, "link", tcp);
    if (path >= 0)
        med_handed_add(&handed, "unix", path);
    med_handed_add(&handed, "http", med_http_server_fd(router->http));
    if (router->admin_http != NULL)
        med_handed_add(&handed, "admin", med_http_server_fd(router->admin_http));
    memcpy(handed.grpc, router->bound.grpc, sizeof(handed.grpc));
    *ret_handed = handed;
    return 0;
}

static void ask_workers(struct med_router *router, bool stay)
{
    for (uint32_t i = 0; i < router->workers_end && router->worker_count > 0; i++) {
        if (router->workers[i].link != NULL && !router->workers[i].draining)
            med_link_send_redial(router->workers[i].link, stay);
    }
}

/* New links are the successor's from here on, so that a worker that dials again finds it. */
static void on_dial(void *self)
{
    struct med_router *router = self;
    if (router->state != MED_ROUTER_RUNNING)
        return;
    med_link_server_pause(router->links);
    ask_workers(router, false);
}

static void on_failed(void *self)
{
    struct med_router *router = self;
    struct med_err err = {0};
    if (router->state == MED_ROUTER_CLOSING)
        return;
    if (med_link_server_resume(router->links, &err) < 0)
        MED_ERROR("take-over: %s", err.text);
    ask_workers(router, true);
}

/* All new connections of the gRPC port to the successor's sockets, which joined after ours. */
static void steer(struct med_router *router)
{
    int fds[GRPC_LISTENERS_MAX];
    size_t count = med_net_own_sockets(router->grpc_port, true, fds, GRPC_LISTENERS_MAX);
    for (size_t i = 0; i < count && i < GRPC_LISTENERS_MAX; i++) {
        int rc = med_os_steer_port(fds[i], (uint32_t)count);
        if (rc == 0)
            continue;
        /* Then the kernel goes on sharing them out; better none is taken than one at the end. */
        MED_WARN("the gRPC port's connections cannot be steered to the successor: %s",
                 med_os_errno_text(rc));
        (void)shutdown(fds[i], SHUT_RD);
    }
}

static size_t connections(const struct med_router *router)
{
    int fds[PEERS_MAX];
    size_t count = med_net_own_sockets(router->grpc_port, false, fds, PEERS_MAX);
    count += med_http_server_connections(router->http);
    return router->admin_http != NULL ? count + med_http_server_connections(router->admin_http)
                                      : count;
}

/* Connections of age have been asked to leave; what then holds one is no request (a health watch). */
static bool all_of_age(const struct med_router *router)
{
    double age_ns = (double)med_router_connection_age_ns(router);
    return (double)(uv_hrtime() - router->retire_since_ns) > 1.2 * age_ns + 1e9;
}

static void on_retire_look(uv_timer_t *timer)
{
    struct med_router *router = timer->data;
    uint64_t spent_ns = uv_hrtime() - router->retire_since_ns;
    bool idle = router->active == 0 && med_grpc_server_requests(router->grpc) == 0 &&
                med_openai_door_requests(router->openai) == 0;
    if (idle && (connections(router) == 0 || all_of_age(router))) {
        MED_INFO("retired: the last request has ended");
        med_router_stop(router);
    } else if (spent_ns >= (uint64_t)router->config.retire_timeout_ns) {
        MED_WARN("the time to retire is over: %zu requests are ended", router->active);
        med_router_stop(router);
    }
}

static void on_done(void *self)
{
    struct med_router *router = self;
    if (router->state != MED_ROUTER_RUNNING)
        return;
    router->state = MED_ROUTER_RETIRING;
    router->retire_since_ns = uv_hrtime();
    med_link_server_leave(router->links);
    med_http_server_retire(router->http);
    if (router->admin_http != NULL)
        med_http_server_retire(router->admin_http);
    steer(router);
    MED_INFO("another process has taken over; %zu requests go on here", router->active);
    int rc = uv_timer_start(&router->retire, on_retire_look, LOOK_MS, LOOK_MS);
    MED_ASSERT(rc == 0);
}

int med_router_succeed(struct med_router *router, struct med_err *err)
{
    const struct med_hand_over_ops ops = {
        .offer = offer, .dial = on_dial, .failed = on_failed, .done = on_done, .self = router};
    int rc = 0;
    if (router->take_over.fd >= 0) {
        rc = med_take_over_ready(&router->take_over, err);
        med_take_over_end(&router->take_over);
    }
    if (rc == 0 && router->config.control_socket != NULL) {
        rc = med_hand_over_listen(router->loop, router->config.control_socket, &ops,
                                  &router->hand_over, err);
    }
    return rc;
}
