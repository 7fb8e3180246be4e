/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Worker links and dispatch: joining, tokens, finishes, heartbeats, losses.
 *
 * A worker's heartbeat is on its own clock, so only its changes count here: each one is taken as a
 * beat at the time of its receipt.  A worker is on dispatch's table from Hello until its connection
 * has closed.
 *
 * Runs on the loop. What the fleet does about it is dispatch's business.
 */
#include "router/router_internal.h"

#include "base/assert.h"
#include "base/log.h"
#include "base/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct med_router_worker *med_router_worker_at(struct med_router *router, uint32_t worker)
{
    if (worker == router->joining_index)
        return &router->joining;
    MED_ASSERT(worker < router->workers_max);
    return router->workers[worker].link != NULL ? &router->workers[worker] : NULL;
}

static void plan_types(const struct med_router *router, char *out, size_t bytes)
{
    size_t used = 0;
    out[0] = '\0';
    for (size_t t = 0; t < med_dispatch_type_count(router->dispatch); t++) {
        if (!med_dispatch_type_is_planned(router->dispatch, t))
            continue;
        int n = snprintf(out + used, bytes - used, "%s%s", used > 0 ? ", " : "",
                         med_dispatch_type_name(router->dispatch, t));
        if (n < 0 || (size_t)n >= bytes - used)
            return;
        used += (size_t)n;
    }
}

/* The type's index, or -1. */
static int type_of(const struct med_router *router, const char *name)
{
    for (size_t t = 0; t < med_dispatch_type_count(router->dispatch); t++) {
        if (strcmp(med_dispatch_type_name(router->dispatch, t), name) == 0)
            return (int)t;
    }
    return -1;
}

static void show(char *out, size_t bytes, const char *hostile)
{
    (void)med_utf8_escape(out, bytes, hostile, strlen(hostile));
}

static int check_hello(const struct med_router *router, const struct med_link_hello *hello,
                       struct med_err *err)
{
    char shown[96];
    char types[512];
    if (router->state != MED_ROUTER_RUNNING)
        return med_err_set(err, MED_E_DRAINING, "this router is stopping");
    for (const char *c = hello->worker_id; *c != '\0'; c++) {
        if (*c < 0x21 || *c > 0x7e) {
            show(shown, sizeof(shown), hello->worker_id);
            return med_err_set(err, MED_E_INVALID,
                               "worker_id is \"%s\", expected printable ASCII without spaces",
                               shown);
        }
    }
    if (strcmp(hello->model, router->config.plan->model_name) != 0) {
        show(shown, sizeof(shown), hello->model);
        return med_err_set(err, MED_E_INVALID, "model is \"%s\", but the plan names \"%s\"", shown,
                           router->config.plan->model_name);
    }
    if (type_of(router, hello->worker_type) < 0) {
        show(shown, sizeof(shown), hello->worker_type);
        plan_types(router, types, sizeof(types));
        return med_err_set(err, MED_E_NOT_FOUND, "worker type is \"%s\", but the plan names %s",
                           shown, types);
    }
    const struct med_router_model *model = router->config.model;
    if (model != NULL && hello->vocab_tokens != 0 &&
        hello->vocab_tokens < med_tokenizer_vocab(model->tokenizer)) {
        return med_err_set(err, MED_E_INVALID,
                           "its model has %" PRId64 " token ids, but the router's tokenizer makes "
                           "ids up to %" PRId64 ": they are of different models",
                           hello->vocab_tokens, med_tokenizer_vocab(model->tokenizer) - 1);
    }
    return 0;
}

/* A worker that came back while the connection of the process before it is still open, and silent: that
 * one is closed, and the newcomer, refused once more, dials again at once. */
static bool replaces_silent(struct med_router *router, const struct med_link_hello *hello,
                            struct med_err *err)
{
    struct med_dispatch_worker_view view;
    for (uint32_t i = 0; i < router->workers_end && router->worker_count > 0; i++) {
        struct med_router_worker *worker = &router->workers[i];
        if (worker->link == NULL || strcmp(worker->id, hello->worker_id) != 0)
            continue;
        if (!med_dispatch_get_worker(router->dispatch, i, &view) || view.state != MED_WORKER_GONE)
            return false;
        (void)med_err_set(err, MED_E_AGAIN,
                          "worker id %s is still connected, and silent: that connection is closed; "
                          "dial again",
                          worker->id);
        med_link_close(worker->link, "silent, and another process has come under its name");
        return true;
    }
    return false;
}

static int take_hello(struct med_router *router, struct med_link *link,
                      const struct med_link_hello *hello, struct med_err *err)
{
    int rc = check_hello(router, hello, err);
    if (rc < 0)
        return rc;
    int64_t now_ns = med_clock_now_ns(&router->clock);
    if (replaces_silent(router, hello, err))
        return MED_E_AGAIN;
    struct med_router_worker *joining = &router->joining;
    *joining = (struct med_router_worker){.link = link, .beat_seen_ns = now_ns};
    joining->type = (size_t)type_of(router, hello->worker_type);
    (void)snprintf(joining->id, sizeof(joining->id), "%s", hello->worker_id);
    (void)snprintf(joining->type_name, sizeof(joining->type_name), "%s", hello->worker_type);
    show(joining->backend, sizeof(joining->backend), hello->backend);
    show(joining->program_version, sizeof(joining->program_version), hello->program_version);
    struct med_dispatch_worker_hello said = {.type_name = hello->worker_type,
                                             .worker_id = hello->worker_id,
                                             .incarnation = hello->incarnation,
                                             .model_len_max = hello->model_len_max,
                                             .sequences_max = hello->sequences_max,
                                             .kv_tokens = hello->kv_tokens};
    /* Dispatch may send to it before join returns. */
    rc = med_dispatch_worker_join(router->dispatch, now_ns, &said, &router->joining_index, err);
    uint32_t index = router->joining_index;
    router->joining_index = UINT32_MAX;
    if (rc < 0)
        return rc;
    router->workers[index] = *joining;
    router->worker_count++;
    if (router->workers_end <= index)
        router->workers_end = index + 1;
    med_link_set_user(link, index);
    MED_INFO("worker %s joined: %s, %s, program %s, at most %" PRId64 " sequences, %" PRId64
             " KV tokens",
             joining->id, joining->type_name, joining->backend, joining->program_version,
             hello->sequences_max, hello->kv_tokens);
    med_router_look(router);
    return 0;
}

static int on_hello(void *self, struct med_link *link, const struct med_link_hello *hello,
                    struct med_err *err)
{
    struct med_router *router = self;
    uint64_t began_ns = uv_hrtime();
    int rc = take_hello(router, link, hello, err);
    med_router_job_ran(router, MED_LOOP_JOIN, began_ns);
    return rc;
}

/* The answer began at a worker of another kind, and cannot go on here. */
static int end_for_logprobs(struct med_router *router, const struct med_link *link,
                            struct med_req *req, const struct med_link_tokens *tokens)
{
    struct med_dispatch_lease_view lease;
    uint32_t worker = (uint32_t)med_link_user(link);
    if (!med_dispatch_get_lease(router->dispatch, tokens->request, &lease) ||
        lease.worker != worker || lease.attempt != tokens->attempt)
        return 0; // stale
    (void)snprintf(req->worker_message, sizeof(req->worker_message),
                   "worker %.64s, where it was to go on, %s", router->workers[worker].id,
                   tokens->logprobs == NULL ? "knows no logprobs"
                                            : "is of another kind: it knows logprobs");
    return med_dispatch_cancel(router->dispatch, med_clock_now_ns(&router->clock), tokens->request,
                               MED_OUTCOME_ERROR);
}

static int take_tokens(struct med_router *router, struct med_link *link,
                       const struct med_link_tokens *tokens)
{
    struct med_req *req = med_router_find(router, tokens->request);
    /* A backend that knows no logprobs sends none at all. */
    bool differs = req != NULL && req->attempts == tokens->attempt &&
                   req->query->sampling.has_logprobs && req->output_count > 0 &&
                   (tokens->logprobs != NULL) != (req->logprobs != NULL);
    if (differs && req->output_count > req->output_before)
        return MED_E_INVALID;
    if (differs)
        return end_for_logprobs(router, link, req, tokens);
    int rc = med_dispatch_tokens(router->dispatch, med_clock_now_ns(&router->clock),
                                 (uint32_t)med_link_user(link), tokens->request, tokens->attempt,
                                 tokens->position, (int64_t)tokens->count);
    if (rc == MED_E_NOT_FOUND)
        return 0; // stale: its request has ended or gone elsewhere
    if (rc < 0)
        return rc == MED_E_INVALID ? MED_E_PROTO : rc;
    MED_ASSERT(req != NULL);
    med_router_tokens(router, req, tokens);
    return 0;
}

static int on_tokens(void *self, struct med_link *link, const struct med_link_tokens *tokens)
{
    struct med_router *router = self;
    uint64_t began_ns = uv_hrtime();
    int rc = take_tokens(router, link, tokens);
    uint64_t now_ns = uv_hrtime();
    med_hist_add(&router->metrics.token_overhead, (double)(now_ns - began_ns) / 1e9);
    med_loop_watch_ran(&router->metrics.loop, MED_LOOP_TOKENS, began_ns, now_ns);
    return rc;
}

/* Is it about the attempt that this worker serves now? */
static bool is_current(const struct med_router *router, const struct med_link_finish *finish,
                       uint32_t worker)
{
    struct med_dispatch_lease_view lease;
    return med_dispatch_get_lease(router->dispatch, finish->request, &lease) &&
           lease.worker == worker && lease.attempt == finish->attempt;
}

static int take_finish(struct med_router *router, struct med_link *link,
                       const struct med_link_finish *finish)
{
    /* A worker that stops a request nobody cancelled has failed it; of others this is stale. */
    enum med_outcome outcome = finish->ending == MED_LINK_STOP     ? MED_OUTCOME_STOP
                               : finish->ending == MED_LINK_LENGTH ? MED_OUTCOME_LENGTH
                                                                   : MED_OUTCOME_ERROR;
    uint32_t worker = (uint32_t)med_link_user(link);
    struct med_req *req = med_router_find(router, finish->request);
    if (req != NULL && req->attempts == finish->attempt) {
        if (finish->cached_tokens > req->query->prompt_count)
            return MED_E_PROTO;
        req->cached_tokens = finish->cached_tokens;
        req->worker_message[0] = '\0';
        if (outcome == MED_OUTCOME_ERROR && finish->message[0] != '\0') {
            char shown[128];
            show(shown, sizeof(shown), finish->message);
            (void)snprintf(req->worker_message, sizeof(req->worker_message), "worker %.64s: %s",
                           router->workers[worker].id, shown);
        }
    }
    int64_t now_ns = med_clock_now_ns(&router->clock);
    int rc;
    if (finish->ending == MED_LINK_FAILED) {
        /* No other worker could do better: it would take the fault from one to the next. */
        rc = is_current(router, finish, worker)
                 ? med_dispatch_cancel(router->dispatch, now_ns, finish->request, MED_OUTCOME_ERROR)
                 : MED_E_NOT_FOUND;
    } else if (finish->ending == MED_LINK_RETURNED) {
        rc =
            med_dispatch_return(router->dispatch, now_ns, worker, finish->request, finish->attempt);
    } else {
        if (outcome != MED_OUTCOME_ERROR) {
            med_dispatch_cached(router->dispatch, worker, finish->request, finish->attempt,
                                finish->cached_tokens);
        }
        rc = med_dispatch_finish(router->dispatch, now_ns, worker, finish->request, finish->attempt,
                                 outcome);
    }
    return rc == MED_E_NOT_FOUND ? 0 : rc;
}

static int on_finish(void *self, struct med_link *link, const struct med_link_finish *finish)
{
    struct med_router *router = self;
    uint64_t began_ns = uv_hrtime();
    int rc = take_finish(router, link, finish);
    med_router_job_ran(router, MED_LOOP_FINISH, began_ns);
    return rc;
}

static void on_stats(void *self, struct med_link *link, const struct med_link_stats *stats)
{
    struct med_router *router = self;
    uint32_t index = (uint32_t)med_link_user(link);
    struct med_router_worker *worker = &router->workers[index];
    uint64_t began_ns = uv_hrtime();
    int64_t now_ns = med_clock_now_ns(&router->clock);
    if (stats->heartbeat_ns != worker->beat) {
        worker->beat = stats->heartbeat_ns;
        worker->beat_seen_ns = now_ns;
    }
    worker->stats = *stats;
    struct med_dispatch_worker_stats said = {.heartbeat_ns = worker->beat_seen_ns,
                                             .running = stats->running,
                                             .waiting = stats->waiting,
                                             .kv_blocks_free = stats->kv_blocks_free,
                                             .kv_blocks_total = stats->kv_blocks_total};
    med_dispatch_worker_stats(router->dispatch, now_ns, index, &said);
    med_router_job_ran(router, MED_LOOP_STATS, began_ns);
}

static void on_drain(void *self, struct med_link *link)
{
    struct med_router *router = self;
    uint32_t index = (uint32_t)med_link_user(link);
    MED_INFO("worker %s drains", router->workers[index].id);
    med_router_note_drain(router, &router->workers[index]);
    uint64_t began_ns = uv_hrtime();
    med_dispatch_worker_drain(router->dispatch, med_clock_now_ns(&router->clock), index);
    med_router_look(router);
    med_router_job_ran(router, MED_LOOP_LEAVE, began_ns);
}

static void on_closed(void *self, struct med_link *link, const char *reason)
{
    struct med_router *router = self;
    uint32_t index = (uint32_t)med_link_user(link);
    struct med_router_worker *worker = &router->workers[index];
    uint64_t began_ns = uv_hrtime();
    MED_ASSERT(worker->link == link);
    struct med_dispatch_worker_view view;
    bool known = med_dispatch_get_worker(router->dispatch, index, &view);
    MED_ASSERT(known);
    med_router_worker_departs(router, worker, view.in_flight, reason);
    worker->link = NULL;
    router->worker_count--;
    med_dispatch_worker_gone(router->dispatch, med_clock_now_ns(&router->clock), index);
    med_router_look(router);
    med_router_job_ran(router, MED_LOOP_LEAVE, began_ns);
}

const struct med_link_ops MED_ROUTER_LINK_OPS = {
    .hello = on_hello,
    .tokens = on_tokens,
    .finish = on_finish,
    .stats = on_stats,
    .drain = on_drain,
    .closed = on_closed,
};
