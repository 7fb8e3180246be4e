/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan that is in force, and its successors.
 *
 * A reload reads the plan's file again and puts it in force between two events of the loop: dispatch,
 * metrics, and what requests in flight hold of the plan's rows change together or not at all.  The
 * plan before is freed then: nothing else keeps a pointer into it.  A thread of the pool reads the file and
 * works out what dispatch needs of it, capacities above all, which takes up to a second.
 *
 * Runs on the loop. What becomes of workers that the new plan lacks is dispatch's business
 * (dispatch/replan.c), and drains them here only where --drain-unplanned asks for it.
 */
#include "allocator/dispatch_config.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/log.h"
#include "router/router_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Any worker of the plan may get a request, so the smallest vocabulary counts. */
static int find_vocabulary(const struct med_router *router, const struct med_plan *plan,
                           int64_t *ret_tokens, struct med_err *err)
{
    const struct med_profile *smallest = NULL;
    int64_t tokens = INT32_MAX;
    for (size_t i = 0; i < plan->profile_count; i++) {
        if (plan->profiles[i].model.vocab < tokens) {
            smallest = &plan->profiles[i];
            tokens = smallest->model.vocab;
        }
    }
    *ret_tokens = tokens;
    const struct med_router_model *model = router->config.model;
    if (model == NULL || smallest == NULL || med_tokenizer_vocab(model->tokenizer) <= tokens)
        return 0;
    return med_err_set(err, MED_E_INVALID,
                       "--model: its tokenizer makes ids up to %" PRId64 ", but worker type %s of "
                       "the plan has a vocabulary of %" PRId64 ": they are of different models",
                       med_tokenizer_vocab(model->tokenizer) - 1, smallest->worker_type, tokens);
}

static int config_of(const struct med_router *router, const struct med_plan *plan,
                     struct med_dispatch_config *ret_config, struct med_err *err)
{
    const struct med_router_config *c = &router->config;
    int rc = med_dispatch_config_from_plan(plan, ret_config, NULL, err);
    if (rc < 0)
        return rc;
    ret_config->queue_max = c->queue_max;
    ret_config->queue_wait_ns = c->queue_wait_ns;
    ret_config->requests_max = MED_LIMIT_CALLS;
    ret_config->workers_max = MED_LIMIT_WORKERS;
    ret_config->policy = c->policy;
    ret_config->policy_seed = c->policy_seed;
    ret_config->admission = c->admission;
    ret_config->breaker_faults = c->breaker_faults > 0 ? c->breaker_faults : -1;
    ret_config->users_max = c->users_max;
    if (!c->prefix_affinity)
        ret_config->prefixes_max = 0;
    ret_config->suspect_after_ns = (int64_t)((double)c->suspect_after_ns * c->time_scale);
    ret_config->gone_after_ns = (int64_t)((double)c->gone_after_ns * c->time_scale);
    ret_config->attempts_max = c->attempts_max;
    ret_config->resume = c->resume;
    return 0;
}

int med_router_plan_init(struct med_router *router, struct med_err *err)
{
    const struct med_dispatch_ops ops = {.send = med_router_on_send,
                                         .cancel = med_router_on_cancel,
                                         .end = med_router_on_end,
                                         .arg = router};
    struct med_dispatch_config config = {0};
    int rc = find_vocabulary(router, router->config.plan, &router->vocab_tokens, err);
    if (rc == 0)
        rc = config_of(router, router->config.plan, &config, err);
    if (rc < 0)
        return rc;
    router->workers_max = (uint32_t)config.workers_max;
    rc = med_dispatch_new(&config, &ops, &router->dispatch, err);
    med_dispatch_config_release(&config);
    router->reload.generation = 1;
    router->reload.loaded_unix_ns = med_clock_unix_ns();
    return rc;
}

static void plan_free(struct med_plan *plan)
{
    if (plan == NULL)
        return;
    med_plan_release(plan);
    med_free(plan);
}

void med_router_plan_release(struct med_router *router)
{
    plan_free(router->reload.plan);
    router->reload.plan = NULL;
}

/* ---- reload ---- */

/* What the thread pool makes of the file. */
struct med_router_reading {
    uv_work_t work;
    struct med_router *router;
    struct med_plan *plan; // owned; NULL: rc and err say why
    struct med_dispatch_config config;
    int64_t vocab_tokens;
    int rc;
    struct med_err err;
};

static void reading_free(struct med_router_reading *reading)
{
    med_dispatch_config_release(&reading->config);
    plan_free(reading->plan);
    med_free(reading);
}

static int check_model(const struct med_router *router, const struct med_plan *plan,
                       struct med_err *err)
{
    const char *served = router->config.plan->model_name;
    if (strcmp(plan->model_name, served) == 0)
        return 0;
    return med_err_set(err, MED_E_INVALID,
                       "%s: model is \"%s\", but \"%s\" is served: another model needs another "
                       "router",
                       router->config.plan_path, plan->model_name, served);
}

/* thread: the pool's.  The plan in force stays meanwhile; configuration and tokenizer never change. */
static void read_plan(uv_work_t *work)
{
    struct med_router_reading *r = work->data;
    struct med_plan *plan = med_calloc(1, sizeof(*plan));
    if (plan == NULL) {
        r->rc = med_err_set(&r->err, MED_E_NOMEM, "%s", med_err_text(MED_E_NOMEM));
        return;
    }
    r->rc = med_plan_read_file(r->router->config.plan_path, plan, &r->err);
    if (r->rc < 0) {
        med_free(plan);
        return;
    }
    r->plan = plan;
    r->rc = check_model(r->router, plan, &r->err);
    if (r->rc == 0)
        r->rc = find_vocabulary(r->router, plan, &r->vocab_tokens, &r->err);
    if (r->rc == 0)
        r->rc = config_of(r->router, plan, &r->config, &r->err);
}

/* Dispatch and metrics, both or none. */
static int put_in_force(struct med_router *router, const struct med_router_reading *reading,
                        struct med_err *err)
{
    int64_t now_ns = med_clock_now_ns(&router->clock);
    int rc = med_dispatch_replan(router->dispatch, now_ns, &reading->config, err);
    if (rc < 0)
        return rc;
    rc = med_router_metrics_replan(&router->metrics, reading->plan, router->dispatch);
    if (rc < 0) {
        med_dispatch_replan_undo(router->dispatch, now_ns);
        return med_err_set(err, rc, "no memory for another plan's metrics");
    }
    return 0;
}

/* Requests in flight name rows of the grid. */
static void place_requests(struct med_router *router)
{
    struct med_dispatch_lease_view lease;
    size_t left = router->active;
    for (uint32_t i = 0; i < MED_LIMIT_CALLS && left > 0; i++) {
        struct med_req *req = router->slots[i].req;
        if (req == NULL)
            continue;
        left--;
        if (!med_dispatch_get_lease(router->dispatch, req->id, &lease))
            continue;
        req->input_row = lease.input_row;
        req->output_row = lease.output_row;
    }
}

static void log_plan(const struct med_router *router)
{
    const struct med_plan *plan = router->config.plan;
    int64_t planned = 0;
    size_t left = 0;
    for (size_t i = 0; i < plan->worker_count; i++)
        planned += plan->workers[i].count;
    for (uint32_t i = 0; i < router->workers_end; i++) {
        left += router->workers[i].link != NULL &&
                !med_dispatch_type_is_planned(router->dispatch, router->workers[i].type);
    }
    MED_INFO("plan %s: generation %" PRIu64 " is in force: %" PRId64 " workers planned, %zu "
             "connected, %zu of them of types that it lacks; %zu requests go on",
             router->config.plan_path, router->reload.generation, planned, router->worker_count,
             left, router->active);
}

/* Takes the plan out of the reading. */
static int take_plan(struct med_router *router, struct med_router_reading *reading,
                     struct med_err *err)
{
    if (router->state != MED_ROUTER_RUNNING)
        return med_err_set(err, MED_E_DRAINING, "this router is stopping");
    med_router_spend(router); // at the prices until now
    int rc = put_in_force(router, reading, err);
    if (rc < 0)
        return rc;
    place_requests(router);
    plan_free(router->reload.plan); // NULL: the first one is main's
    router->reload.plan = reading->plan;
    router->config.plan = reading->plan;
    reading->plan = NULL;
    router->vocab_tokens = reading->vocab_tokens;
    router->reload.generation++;
    router->reload.loaded_unix_ns = med_clock_unix_ns();
    return 0;
}

static void note_result(struct med_router *router, int rc, const struct med_err *err)
{
    struct med_router_reload *reload = &router->reload;
    if (rc == 0) {
        reload->done++;
        reload->last_error[0] = '\0';
        log_plan(router);
        med_router_look(router);
    } else {
        reload->refused++;
        (void)snprintf(reload->last_error, sizeof(reload->last_error), "%s", err->text);
        MED_ERROR("the plan is not reloaded, the one before stays in force: %s", err->text);
    }
}

static int begin_reading(struct med_router *router, struct med_err *err);

static void on_read(uv_work_t *work, int status)
{
    struct med_router_reading *reading = work->data;
    struct med_router *router = reading->router;
    uint64_t began_ns = uv_hrtime();
    router->reload.reading = false;
    router->parts_open--;
    if (router->state == MED_ROUTER_CLOSING) {
        reading_free(reading);
        return;
    }
    if (status < 0)
        reading->rc = med_err_set(&reading->err, MED_E_CANCELLED, "%s", uv_strerror(status));
    if (reading->rc == 0)
        reading->rc = take_plan(router, reading, &reading->err);
    note_result(router, reading->rc, &reading->err);
    reading_free(reading);
    med_router_job_ran(router, MED_LOOP_LOOK, began_ns);
    if (router->reload.again) {
        struct med_err err = {0};
        router->reload.again = false;
        if (begin_reading(router, &err) < 0)
            note_result(router, err.code, &err);
    }
}

static int begin_reading(struct med_router *router, struct med_err *err)
{
    if (router->state != MED_ROUTER_RUNNING)
        return med_err_set(err, MED_E_DRAINING, "this router is stopping");
    if (router->config.plan_path == NULL)
        return med_err_set(err, MED_E_USAGE, "this router's plan is of no file");
    if (router->reload.reading) {
        router->reload.again = true; // the file may have changed since
        return 0;
    }
    struct med_router_reading *reading = med_calloc(1, sizeof(*reading));
    int rc = reading == NULL ? MED_E_NOMEM : 0;
    if (rc == 0) {
        reading->router = router;
        reading->work.data = reading;
        rc = uv_queue_work(router->loop, &reading->work, read_plan, on_read);
    }
    if (rc < 0) {
        med_free(reading);
        return med_err_set(err, rc, "the plan cannot be read: %s", med_err_text(rc));
    }
    router->reload.reading = true;
    router->parts_open++;
    return 0;
}

int med_router_reload(struct med_router *router, struct med_err *err)
{
    med_router_reload_security(router); // for itself: a wrong plan does not keep it out
    return begin_reading(router, err);
}

/* ---- workers that the plan lacks ---- */

void med_router_look_at_unplanned(struct med_router *router)
{
    if (!router->config.drain_unplanned || router->reload.generation < 2 ||
        router->state != MED_ROUTER_RUNNING || !med_dispatch_is_complete(router->dispatch))
        return;
    for (uint32_t i = 0; i < router->workers_end && router->worker_count > 0; i++) {
        struct med_router_worker *worker = &router->workers[i];
        if (worker->link == NULL || worker->draining ||
            med_dispatch_type_is_planned(router->dispatch, worker->type))
            continue;
        struct med_err err = {0};
        MED_INFO("worker %s: the plan has no %s any more, and all that it wants is there",
                 worker->id, worker->type_name);
        if (med_router_drain_worker(router, worker->id, -1, &err) < 0)
            MED_WARN("%s", err.text);
    }
}
