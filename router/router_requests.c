/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests, the choices of queries, and dispatch.
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

#include <math.h>
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

/* Also of those that were refused for want of capacity: they were wanted. */
static void measure_demand(struct med_router *router, const struct med_dispatch_request *request,
                           int rc)
{
    int input_row = 0;
    int output_row = 0;
    if (rc == MED_E_INVALID)
        return;
    med_dispatch_bucket_of(router->dispatch, request, &input_row, &output_row);
    med_traffic_bucket_at(&router->metrics.traffic, input_row, output_row)->demand++;
}

/* A name for dispatch; who sends no name is nobody, 0. source: FNV-1a, 64 bits. */
static uint64_t hash_of(const struct med_router *router, const char *user)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325) ^ router->hash_salt;
    if (user == NULL || user[0] == '\0')
        return 0;
    for (; *user != '\0'; user++)
        hash = (hash ^ (unsigned char)*user) * UINT64_C(0x100000001b3);
    return hash != 0 ? hash : 1;
}

int med_router_dispatch(struct med_router *router, struct med_req *req)
{
    struct med_query *query = req->query;
    if (!slot_take(router, req))
        return MED_E_OVERLOAD;
    uint64_t prefixes[MED_DISPATCH_PREFIX_MAX];
    size_t prefix_count = 0;
    if (router->config.prefix_affinity) {
        prefix_count = med_dispatch_prefix_hashes(query->prompt, query->prompt_count,
                                                  router->hash_salt, prefixes);
    }
    const struct med_dispatch_request request = {.request = req->id,
                                                 .prompt_tokens = (int64_t)query->prompt_count,
                                                 .output_tokens_max = query->tokens_max,
                                                 .deadline_ns = query->deadline_ns,
                                                 .priority = query->priority,
                                                 .user = hash_of(router, query->user),
                                                 .prefixes = prefixes,
                                                 .prefix_count = prefix_count};
    query->choices_open++;
    router->submitting = req->id;
    int rc = med_dispatch_submit(router->dispatch, med_clock_now_ns(&router->clock), &request);
    router->submitting = 0;
    measure_demand(router, &request, rc);
    if (rc < 0) {
        slot_return(router, req);
        query->choices_open--;
        return rc;
    }
    router->metrics.prompt_tokens += query->prompt_count;
    return 0;
}

/* ---- dispatch's callbacks ---- */

static void measure_pick(struct med_router *router, struct med_req *req)
{
    struct med_dispatch_lease_view lease;
    bool found = med_dispatch_get_lease(router->dispatch, req->id, &lease);
    MED_ASSERT(found);
    req->input_row = lease.input_row;
    req->output_row = lease.output_row;
    req->predicted_output_tokens = lease.predicted_output_tokens;
    med_traffic_cell_at(&router->metrics.traffic, req->type, req->input_row, req->output_row)
        ->picks++;
}

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
    if (request == router->submitting) {
        med_hist_add(&router->metrics.request_overhead,
                     seconds((int64_t)uv_hrtime() - req->query->received_ns));
    }
    req->attempts = attempt;
    req->output_before = req->output_count;
    if (req->output_count > 0) {
        req->resumes++;
        router->metrics.resumes++;
        med_log(MED_LOG_INFO, req->query->request_id, "goes on at worker %s after %zu tokens",
                worker->id, req->output_count);
    }
    req->sent_ns = med_clock_now_ns(&router->clock);
    if (req->first_sent_ns == 0)
        req->first_sent_ns = req->sent_ns;
    req->type = worker->type;
    measure_pick(router, req);
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
    if (req->output_count == 0)
        return;
    if (req->end_code < 0) {
        router->metrics.broken[req->outcome]++;
        return;
    }
    struct med_router_ended ended = {
        .type = req->type,
        .input_row = req->input_row,
        .output_row = req->output_row,
        .prompt_tokens = (int64_t)req->query->prompt_count,
        .output_tokens = (int64_t)req->output_count,
        .predicted_output_tokens = req->predicted_output_tokens,
        .ttft_ns = req->first_token_ns - req->query->arrived_ns,
        .e2e_ns = now_ns - req->query->arrived_ns,
        .tpot_ns = -1,
        /* A prediction knows nothing of a lost worker. */
        .predicted_tpot_ns = req->resumes == 0 ? req->predicted_tpot_ns : 0,
    };
    /* To the last token, not to the finish that may come in a later frame. */
    if (req->output_count > 1) {
        ended.tpot_ns =
            (req->last_token_ns - req->first_token_ns) / (int64_t)(req->output_count - 1);
    }
    med_router_metrics_ended(&router->metrics, &ended);
}

void med_router_on_end(void *arg, uint64_t request, enum med_outcome outcome, int code)
{
    struct med_router *router = arg;
    struct med_req *req = med_router_find(router, request);
    MED_ASSERT(req != NULL);
    MED_ASSERT(!req->ended);
    /* Also of one that failed: what came is the client's. */
    int rc = med_answer_end(&req->answer);
    req->ended = true;
    req->outcome = outcome;
    req->end_code = code == 0 ? rc : code;
    req->ended_ns = med_clock_now_ns(&router->clock);
    slot_return(router, req);
    measure_end(router, req, req->ended_ns);
    med_router_choice_ended(router, req);
}

/* ---- tokens ---- */

static void measure_first(struct med_router *router, struct med_req *req, int64_t now_ns)
{
    struct med_router_metrics *m = &router->metrics;
    struct med_dispatch_lease_view lease;
    req->first_token_ns = now_ns;
    med_hist_add(&m->ttft, seconds(now_ns - req->query->arrived_ns));
    if (!med_dispatch_get_lease(router->dispatch, req->id, &lease))
        return;
    req->predicted_ttft_ns = lease.predicted_ttft_ns;
    req->predicted_tpot_ns = lease.predicted_tpot_ns;
    med_traffic_compare(&m->traffic, req->type, req->input_row, req->output_row, MED_COMPARE_TTFT,
                        lease.predicted_ttft_ns, now_ns - req->sent_ns);
}

/* Logprobs of tokens that are in req->output already, from position `first`. */
static int add_logprobs(struct med_req *req, size_t first, const struct med_link_logprobs *from)
{
    size_t rows = from != NULL ? med_req_logprob_rows(req) : 0;
    for (size_t i = first; rows > 0 && i < req->output_count; i++, from++) {
        struct med_req_logprob *row = med_req_add_logprobs(req, i);
        if (row == NULL)
            return MED_E_NOMEM;
        /* Rounding may have left a logarithm of 1 a little above 0. */
        row[0] = (struct med_req_logprob){req->output[i], fminf(from->logprob, 0)};
        for (size_t k = 0; k < from->top_count && k + 1 < rows; k++) {
            row[k + 1] =
                (struct med_req_logprob){from->top_ids[k], fminf(from->top_logprobs[k], 0)};
        }
    }
    return 0;
}

/* The tokens' text, the tokens that belong to it, and their logprobs. */
static int add_to_answer(struct med_req *req, const struct med_link_tokens *tokens,
                         size_t *ret_taken)
{
    size_t first = req->output_count;
    int rc = med_answer_add(&req->answer, tokens->ids, tokens->count, ret_taken);
    if (rc == 0)
        rc = med_req_append_output(req, tokens->ids, *ret_taken);
    return rc == 0 ? add_logprobs(req, first, tokens->logprobs) : rc;
}

void med_router_tokens(struct med_router *router, struct med_req *req,
                       const struct med_link_tokens *tokens)
{
    struct med_query *query = req->query;
    int64_t now_ns = med_clock_now_ns(&router->clock);
    size_t taken = 0;
    if (req->output_count == 0)
        measure_first(router, req, now_ns);
    bool first = req->output_count == 0;
    int rc = add_to_answer(req, tokens, &taken);
    if (!first && taken > 0) {
        med_hist_add_many(&router->metrics.itl,
                          seconds(now_ns - req->last_token_ns) / (double)taken, taken);
    }
    req->last_token_ns = now_ns;
    med_traffic_type_at(&router->metrics.traffic, req->type)->output_tokens += taken;
    if (rc == 0 && med_answer_stop(&req->answer) != NULL) {
        /* The answer is whole: its worker stops, and it ends from inside this call. */
        int cancelled = med_dispatch_cancel(router->dispatch, now_ns, req->id, MED_OUTCOME_STOP);
        MED_ASSERT(cancelled == 0);
        return;
    }
    if (rc == 0 && req->answer.at_stop)
        med_dispatch_whole(router->dispatch, req->id);
    if (rc < 0) {
        (void)snprintf(query->end_text, sizeof(query->end_text),
                       "the answer cannot be held: %s (at most %d bytes of text)", med_err_text(rc),
                       MED_LIMIT_ANSWER_BYTES);
    } else {
        rc = query->door->on_progress(query, req);
    }
    if (rc < 0) {
        query->abort_code = rc;
        med_router_cancel(router, query, MED_OUTCOME_ABORT_CLIENT);
    }
}
