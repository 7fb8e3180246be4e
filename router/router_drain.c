/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workers that leave: drained by an operator or by themselves, and what is remembered of them.
 *
 * A worker that drains gets no new requests and ends those it has.  When the last one has ended it is
 * drained, which is said once, in the log and on the admin page: it may be deleted.  It then closes its
 * link by itself, as the Drain frame asked it to.  When the time that the operator gave is over, the
 * router closes the link instead, and dispatch takes what was left of it elsewhere, as from any worker
 * that is lost.
 *
 * The last departures are remembered, so that whoever waits for "safe to delete" can still read it when
 * the worker is no longer there.  Runs on the loop.  Who takes the requests is dispatch's business.
 */
#include "router/router_internal.h"

#include "base/assert.h"
#include "base/json.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- draining ---- */

/* The worker of this name that is connected; UINT32_MAX: none. */
static uint32_t find(const struct med_router *router, const char *worker_id)
{
    for (uint32_t i = 0; i < router->workers_end && router->worker_count > 0; i++) {
        const struct med_router_worker *worker = &router->workers[i];
        if (worker->link != NULL && strcmp(worker->id, worker_id) == 0)
            return i;
    }
    return UINT32_MAX;
}

static int64_t in_flight(const struct med_router *router, uint32_t index)
{
    struct med_dispatch_worker_view view;
    bool known = med_dispatch_get_worker(router->dispatch, index, &view);
    MED_ASSERT(known);
    return view.in_flight;
}

void med_router_note_drain(struct med_router *router, struct med_router_worker *worker)
{
    router->workers_draining += !worker->draining;
    worker->draining = true;
}

int med_router_drain_worker(struct med_router *router, const char *worker_id, int64_t timeout_ns,
                            struct med_err *err)
{
    uint32_t index = find(router, worker_id);
    if (index == UINT32_MAX)
        return med_err_set(err, MED_E_NOT_FOUND, "no worker \"%s\" is connected", worker_id);
    struct med_router_worker *worker = &router->workers[index];
    worker->drain_until_ns = timeout_ns < 0 ? 0 : uv_hrtime() + (uint64_t)timeout_ns;
    if (!worker->drain_asked) {
        MED_INFO("worker %s: an operator drains it, with %" PRId64 " requests in flight",
                 worker->id, in_flight(router, index));
        worker->drain_asked = true;
        med_router_note_drain(router, worker);
        med_dispatch_worker_drain(router->dispatch, med_clock_now_ns(&router->clock), index);
        med_link_send_drain(worker->link);
    }
    med_router_look_at_drains(router);
    med_router_look(router);
    return 0;
}

static void look_at_drain(struct med_router *router, uint32_t index)
{
    struct med_router_worker *worker = &router->workers[index];
    int64_t left = in_flight(router, index);
    if (left == 0 && !worker->drained) {
        worker->drained = true;
        MED_INFO("worker %s is drained: safe to delete", worker->id);
    }
    if (left > 0 && worker->drain_until_ns > 0 && uv_hrtime() >= worker->drain_until_ns) {
        MED_WARN("worker %s: the drain's time is over, %" PRId64 " requests leave it", worker->id,
                 left);
        worker->drain_until_ns = 0;
        worker->drain_over = true;
        med_link_close(worker->link, "the drain's time is over");
    }
}

void med_router_look_at_drains(struct med_router *router)
{
    for (uint32_t i = 0; i < router->workers_end && router->workers_draining > 0; i++) {
        if (router->workers[i].link != NULL && router->workers[i].draining)
            look_at_drain(router, i);
    }
}

/* ---- departures ---- */

void med_router_worker_departs(struct med_router *router, const struct med_router_worker *worker,
                               int64_t requests_left, const char *reason)
{
    struct med_router_departed *row =
        &router->departed[router->departed_count++ % MED_ROUTER_DEPARTED_MAX];
    /* What was left when its time was over has gone elsewhere, as was wanted. */
    router->workers_draining -= worker->draining;
    bool drained = worker->draining && (requests_left == 0 || worker->drain_over);
    *row = (struct med_router_departed){
        .drained = drained, .requests_left = requests_left, .at_unix_ns = med_clock_unix_ns()};
    (void)snprintf(row->id, sizeof(row->id), "%s", worker->id);
    (void)snprintf(row->type_name, sizeof(row->type_name), "%s", worker->type_name);
    router->metrics.departed[drained]++;
    if (drained) {
        MED_INFO("worker %s has left after draining: safe to delete; %" PRId64
                 " requests had to leave it",
                 worker->id, requests_left);
    } else {
        med_log(router->state == MED_ROUTER_RUNNING ? MED_LOG_WARN : MED_LOG_INFO, NULL,
                "worker %s is gone, with %" PRId64 " requests: %s", worker->id, requests_left,
                reason);
    }
}

/* The departure `back` before the newest; NULL: it is not remembered. */
static const struct med_router_departed *departure(const struct med_router *router, uint64_t back)
{
    if (back >= router->departed_count || back >= MED_ROUTER_DEPARTED_MAX)
        return NULL;
    return &router->departed[(router->departed_count - 1 - back) % MED_ROUTER_DEPARTED_MAX];
}

void med_router_put_departed(struct med_json_writer *w, const struct med_router *router)
{
    const struct med_router_departed *row;
    int64_t now_ns = med_clock_unix_ns();
    med_json_begin_array(w, "departed");
    for (uint64_t back = 0; (row = departure(router, back)) != NULL; back++) {
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "worker", row->id);
        med_json_put_string(w, "worker_type", row->type_name);
        med_json_put_bool(w, "drained", row->drained);
        med_json_put_integer(w, "requests_left", row->requests_left);
        med_json_put_number(w, "ago_s", (double)(now_ns - row->at_unix_ns) / (double)MED_NS_PER_S);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}
