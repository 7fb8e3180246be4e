/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests between doors and dispatch.
 *
 * A request gets a slot while dispatch has it; its id holds the slot's generation, so that a message
 * about an earlier request of the same slot finds nothing.  What a client sees of time is measured
 * here: arrival is submit, first token and end are when the door is told.
 *
 * Runs on the loop. Dispatch's callbacks never call dispatch.
 */
#include "router/router_internal.h"

#include "base/assert.h"
#include "base/log.h"
#include "base/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static double seconds(int64_t ns)
{
    return (double)ns / (double)MED_NS_PER_S;
}

/* ---- slots ---- */

struct med_req *med_router_find(struct med_router *router, uint64_t request)
{
    uint32_t index = (uint32_t)request;
    if (index >= MED_LIMIT_CALLS)
        return NULL;
    struct med_router_slot *slot = &router->slots[index];
    return slot->generation == request >> 32 ? slot->req : NULL;
}

/* False: all slots are taken. */
static bool slot_take(struct med_router *router, struct med_req *req)
{
    uint32_t index = router->slot_free;
    if (index == UINT32_MAX)
        return false;
    struct med_router_slot *slot = &router->slots[index];
    router->slot_free = slot->next_free;
    slot->generation = slot->generation == UINT32_MAX ? 1 : slot->generation + 1;
    slot->req = req;
    req->id = (uint64_t)slot->generation << 32 | index;
    router->active++;
    return true;
}

static void slot_return(struct med_router *router, struct med_req *req)
{
    uint32_t index = (uint32_t)req->id;
    struct med_router_slot *slot = &router->slots[index];
    MED_ASSERT(slot->req == req);
    slot->req = NULL;
    slot->next_free = router->slot_free;
    router->slot_free = index;
    router->active--;
    req->id = 0;
}

/* ---- submit ---- */

static int refuse(struct med_router *router, enum med_router_refusal reason, int code)
{
    router->metrics.refused[reason]++;
    return code;
}

static int64_t fit_tokens_max(const struct med_router *router)
{
    int64_t most = 0;
    for (size_t i = 0; i < router->config.plan->worker_count; i++) {
        const struct med_profile *profile =
            &router->config.plan->profiles[router->config.plan->workers[i].worker_type];
        int64_t fits = profile->limits.model_len_max < profile->limits.kv_tokens
                           ? profile->limits.model_len_max
                           : profile->limits.kv_tokens;
        if (fits > most)
            most = fits;
    }
    return most;
}

/* The sentence for dispatch's refusal. */
static int refused(struct med_router *router, struct med_req *req, int code, struct med_err *err)
{
    struct med_dispatch_totals totals;
    switch (code) {
    case MED_E_INVALID:
        return med_err_set(err, code,
                           "tokens.ids, max_tokens: found a prompt of %zu and at most %" PRIu32
                           " output tokens, expected at most %" PRId64 " together",
                           req->prompt_count, req->tokens_max, fit_tokens_max(router));
    case MED_E_NO_WORKER:
        return med_err_set(err, code, "no worker that serves %s is connected",
                           router->config.plan->model_name);
    case MED_E_OVERLOAD:
        med_dispatch_get_totals(router->dispatch, &totals);
        req->retry_after_ms = router->retry_after_ms;
        return med_err_set(err, code,
                           "the fleet cannot take this request now: %" PRId64 " wait already; try "
                           "again in %" PRIu32 " ms",
                           totals.queued, req->retry_after_ms);
    default:
        return med_err_set(err, code, "%s", med_err_text(code));
    }
}

/* Any worker of the plan may get the request, so the smallest vocabulary counts. */
static int64_t vocab_tokens(const struct med_plan *plan)
{
    int64_t least = INT32_MAX;
    for (size_t i = 0; i < plan->profile_count; i++) {
        if (plan->profiles[i].model.vocab < least)
            least = plan->profiles[i].model.vocab;
    }
    return least;
}

static int check(struct med_router *router, struct med_req *req, struct med_err *err)
{
    const char *model = router->config.plan->model_name;
    if (router->state != MED_ROUTER_RUNNING) {
        (void)med_err_set(err, MED_E_DRAINING, "this router is draining; ask another one");
        return refuse(router, MED_REFUSAL_DRAINING, MED_E_DRAINING);
    }
    /* The model first: what the rest may be depends on it. */
    if (req->model != NULL && req->model[0] != '\0' && strcmp(req->model, model) != 0) {
        char shown[MED_LIMIT_NAME_BYTES + 1];
        (void)med_utf8_escape(shown, sizeof(shown), req->model, strlen(req->model));
        (void)med_err_set(err, MED_E_NOT_FOUND,
                          "model: found \"%s\", expected \"%s\", which is served here", shown,
                          model);
        return refuse(router, MED_REFUSAL_NOT_FOUND, MED_E_NOT_FOUND);
    }
    if (med_req_check(req, vocab_tokens(router->config.plan), err) < 0)
        return refuse(router, MED_REFUSAL_INVALID, MED_E_INVALID);
    if (req->deadline_ns != 0 && req->deadline_ns <= req->arrived_ns) {
        (void)med_err_set(err, MED_E_DEADLINE, "the deadline had passed when the request came");
        return refuse(router, MED_REFUSAL_DEADLINE, MED_E_DEADLINE);
    }
    return 0;
}

static int dispatch_it(struct med_router *router, struct med_req *req, struct med_err *err)
{
    if (!slot_take(router, req)) {
        (void)refuse(router, MED_REFUSAL_OVERLOAD, MED_E_OVERLOAD);
        return refused(router, req, MED_E_OVERLOAD, err);
    }
    struct med_dispatch_request request = {.request = req->id,
                                           .prompt_tokens = (int64_t)req->prompt_count,
                                           .output_tokens_max = req->tokens_max,
                                           .deadline_ns = req->deadline_ns};
    int rc = med_dispatch_submit(router->dispatch, req->arrived_ns, &request);
    if (rc < 0) {
        slot_return(router, req);
        return refused(router, req, rc, err);
    }
    router->metrics.prompt_tokens += req->prompt_count;
    return 0;
}

int med_router_submit(void *self, struct med_req *req, struct med_err *err)
{
    struct med_router *router = self;
    req->arrived_ns = med_clock_now_ns(&router->clock);
    if (req->request_id[0] == '\0') {
        (void)snprintf(req->request_id, sizeof(req->request_id), "r%08" PRIx32 "-%" PRIu64,
                       router->boot, ++router->request_counter);
    }
    int rc = check(router, req, err);
    if (rc == 0)
        rc = dispatch_it(router, req, err);
    if (rc < 0) {
        /* Overload is counted; a line for each would be load of its own. */
        med_log(rc == MED_E_OVERLOAD ? MED_LOG_DEBUG : MED_LOG_INFO, req->request_id,
                "refused (%s): %s", med_err_label(rc), err != NULL ? err->text : "");
    }
    return rc;
}

void med_router_cancel(void *self, struct med_req *req, enum med_outcome outcome)
{
    struct med_router *router = self;
    if (req->id == 0)
        return;
    int rc =
        med_dispatch_cancel(router->dispatch, med_clock_now_ns(&router->clock), req->id, outcome);
    MED_ASSERT(rc == 0); // it has an id, so dispatch has it
}

void med_router_abort_all(struct med_router *router)
{
    for (uint32_t i = 0; i < MED_LIMIT_CALLS && router->active > 0; i++) {
        struct med_req *req = router->slots[i].req;
        if (req == NULL)
            continue;
        req->abort_code = MED_E_DRAINING;
        med_router_cancel(router, req, MED_OUTCOME_ABORT_DEADLINE);
    }
}

/* ---- dispatch's callbacks ---- */

int med_router_on_send(void *arg, uint64_t request, uint32_t attempt, uint32_t index)
{
    struct med_router *router = arg;
    struct med_req *req = med_router_find(router, request);
    struct med_router_worker *worker = med_router_worker_at(router, index);
    MED_ASSERT(req != NULL);
    MED_ASSERT(worker != NULL);
    int rc = med_link_send_generate(worker->link, req, attempt);
    if (rc < 0)
        return rc;
    req->attempts = attempt;
    req->sent_ns = med_clock_now_ns(&router->clock);
    req->type = worker->type;
    memcpy(req->worker_type, worker->type_name, sizeof(req->worker_type));
    memcpy(req->worker_id, worker->id, sizeof(req->worker_id));
    return 0;
}

void med_router_on_cancel(void *arg, uint64_t request, uint32_t attempt, uint32_t index)
{
    struct med_router *router = arg;
    struct med_router_worker *worker = med_router_worker_at(router, index);
    if (worker != NULL)
        med_link_send_cancel(worker->link, request, attempt);
}

static void measure_end(struct med_router *router, const struct med_req *req, int64_t now_ns)
{
    struct med_router_metrics *m = &router->metrics;
    if (req->end_code < 0 || req->output_count == 0)
        return;
    double e2e_s = seconds(now_ns - req->arrived_ns);
    med_hist_add(&m->e2e, e2e_s);
    med_hist_add(&m->e2e_per_token, e2e_s / (double)req->output_count);
    if (req->output_count < 2)
        return;
    /* To the last token, not to the finish that may come in a later frame. */
    double tpot_s =
        seconds(req->last_token_ns - req->first_token_ns) / (double)(req->output_count - 1);
    med_hist_add(&m->tpot, tpot_s);
    if (req->predicted_tpot_ns > 0) {
        struct med_compared *compared = &m->tpot_compared[req->type];
        compared->predicted_s += seconds(req->predicted_tpot_ns);
        compared->observed_s += tpot_s;
        compared->count++;
    }
}

static void describe_end(const struct med_router *router, struct med_req *req)
{
    char *text = req->end_text;
    size_t bytes = sizeof(req->end_text);
    switch (req->end_code) {
    case MED_E_WORKER_LOST:
        (void)snprintf(text, bytes, "worker %.64s was lost after %zu tokens", req->worker_id,
                       req->output_count);
        break;
    case MED_E_OVERLOAD:
        req->retry_after_ms = router->retry_after_ms;
        (void)snprintf(text, bytes,
                       "no worker could start this request in time; try again in %" PRIu32 " ms",
                       req->retry_after_ms);
        break;
    case MED_E_LIMIT:
        (void)snprintf(text, bytes, "the client lags more than %d tokens behind",
                       MED_LIMIT_CALL_TOKENS_UNSENT);
        break;
    case MED_E_DRAINING:
        (void)snprintf(text, bytes, "this router stops, and the time for finishing is over");
        break;
    case MED_E_INTERNAL:
        if (text[0] == '\0')
            (void)snprintf(text, bytes, "worker %.64s failed the request", req->worker_id);
        break;
    default:
        (void)snprintf(text, bytes, "%s", med_err_text(req->end_code));
    }
}

void med_router_on_end(void *arg, uint64_t request, enum med_outcome outcome, int code)
{
    struct med_router *router = arg;
    struct med_req *req = med_router_find(router, request);
    MED_ASSERT(req != NULL);
    MED_ASSERT(!req->ended);
    req->ended = true;
    req->outcome = outcome;
    req->end_code = req->abort_code < 0 ? req->abort_code : code;
    slot_return(router, req);
    measure_end(router, req, med_clock_now_ns(&router->clock));
    if (req->end_code < 0) {
        describe_end(router, req);
        med_log(outcome == MED_OUTCOME_ABORT_CLIENT ? MED_LOG_INFO : MED_LOG_WARN, req->request_id,
                "ended as %s after %zu tokens: %s", med_outcome_name(outcome), req->output_count,
                req->end_text);
    } else {
        req->end_text[0] = '\0';
    }
    req->door->on_end(req);
}

/* ---- tokens ---- */

static void measure_first(struct med_router *router, struct med_req *req, int64_t now_ns)
{
    struct med_router_metrics *m = &router->metrics;
    struct med_dispatch_lease_view lease;
    req->first_token_ns = now_ns;
    med_hist_add(&m->ttft, seconds(now_ns - req->arrived_ns));
    if (!med_dispatch_get_lease(router->dispatch, req->id, &lease))
        return;
    req->predicted_ttft_ns = lease.predicted_ttft_ns;
    req->predicted_tpot_ns = lease.predicted_tpot_ns;
    if (lease.predicted_ttft_ns > 0) {
        struct med_compared *compared = &m->ttft_compared[req->type];
        compared->predicted_s += seconds(lease.predicted_ttft_ns);
        compared->observed_s += seconds(now_ns - req->sent_ns);
        compared->count++;
    }
}

void med_router_tokens(struct med_router *router, struct med_req *req, const uint32_t *ids,
                       size_t count)
{
    int64_t now_ns = med_clock_now_ns(&router->clock);
    if (req->output_count == 0) {
        measure_first(router, req, now_ns);
    } else {
        med_hist_add_many(&router->metrics.itl,
                          seconds(now_ns - req->last_token_ns) / (double)count, count);
    }
    req->last_token_ns = now_ns;
    router->metrics.output_tokens[req->type] += count;
    int rc = med_req_append_output(req, ids, count);
    if (rc == 0)
        rc = req->door->on_tokens(req);
    if (rc < 0) {
        req->abort_code = rc;
        med_router_cancel(router, req, MED_OUTCOME_ABORT_CLIENT);
    }
}
