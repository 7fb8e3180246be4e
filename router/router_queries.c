/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Queries between doors and dispatch.
 *
 * submit checks what can be checked without the prompt's tokens, has the prompt encoded (short ones
 * here, long ones in the thread pool), checks the rest, and gives each choice to dispatch.  Nothing
 * is accepted before all is checked; a refusal after the pool comes to the door as the query's end.
 *
 * A query ends when its last choice has.  A choice that fails dooms its query: the other choices
 * are ended before the loop sleeps again, since dispatch's callbacks must not call dispatch; then the
 * door hears of it, once.
 * Runs on the loop.
 */
#include "router/router_internal.h"

#include "base/assert.h"
#include "base/log.h"
#include "base/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    ENCODE_INLINE_BYTES = 8 << 10, /* longer text goes to the thread pool */
    MESSAGE_BYTES = 64,            /* a message of a chat costs as much, even an empty one */
    ECHO_BYTES_MAX = 16 << 20      /* of all choices of a query */
};

/* ---- refusals ---- */

static int refuse(struct med_router *router, enum med_router_refusal reason, int code)
{
    router->metrics.refused[reason]++;
    return code;
}

/* The sentence for dispatch's refusal. */
static int refused(struct med_router *router, struct med_query *query, int code,
                   struct med_err *err)
{
    struct med_dispatch_totals totals;
    switch (code) {
    case MED_E_NO_WORKER:
        return med_err_set(err, code, "no worker that serves %s is connected",
                           router->config.plan->model_name);
    case MED_E_OVERLOAD:
        med_dispatch_get_totals(router->dispatch, &totals);
        query->retry_after_ms = router->retry_after_ms;
        return med_err_set(err, code,
                           "the fleet cannot take this request now: %" PRId64 " wait already; try "
                           "again in %" PRIu32 " ms",
                           totals.queued, query->retry_after_ms);
    default:
        return med_err_set(err, code, "%s", med_err_text(code));
    }
}

static void log_refusal(const struct med_query *query, int rc, const char *text)
{
    /* Overload is counted; a line for each would be load of its own. */
    med_log(rc == MED_E_OVERLOAD ? MED_LOG_DEBUG : MED_LOG_INFO, query->request_id,
            "refused (%s): %s", med_err_label(rc), text);
}

/* ---- the end of a query ---- */

static void undoom(struct med_router *router, struct med_query *query)
{
    if (!query->doomed)
        return;
    query->doomed = false;
    struct med_query **link = &router->doomed;
    while (*link != query) {
        MED_ASSERT(*link != NULL);
        link = &(*link)->doomed_next;
    }
    *link = query->doomed_next;
}

static void doom(struct med_router *router, struct med_query *query)
{
    if (query->doomed)
        return;
    query->doomed = true;
    query->doomed_next = router->doomed;
    router->doomed = query;
}

static void end_query(struct med_router *router, struct med_query *query)
{
    undoom(router, query);
    if (!query->taken)
        return; // submit is about to refuse it
    query->taken = false;
    query->ended = true;
    query->door->on_end(query);
}

/* The end of one that was taken and never accepted. */
static void end_refused(struct med_router *router, struct med_query *query, int code,
                        const char *text)
{
    query->end_code = code;
    if (text != query->end_text)
        (void)snprintf(query->end_text, sizeof(query->end_text), "%s", text);
    log_refusal(query, code, text);
    end_query(router, query);
}

static void describe_end(const struct med_router *router, struct med_query *query,
                         const struct med_req *req)
{
    char *text = query->end_text;
    size_t bytes = sizeof(query->end_text);
    if (text[0] != '\0')
        return; // the place that ended it has said why
    switch (query->end_code) {
    case MED_E_WORKER_LOST:
        (void)snprintf(text, bytes, "worker %.64s was lost after %zu tokens", req->worker_id,
                       req->output_count);
        break;
    case MED_E_OVERLOAD:
        query->retry_after_ms = router->retry_after_ms;
        (void)snprintf(text, bytes,
                       "no worker could start this request in time; try again in %" PRIu32 " ms",
                       query->retry_after_ms);
        break;
    case MED_E_LIMIT:
        (void)snprintf(text, bytes, "the client lags more than %d tokens behind",
                       MED_LIMIT_CALL_TOKENS_UNSENT);
        break;
    case MED_E_DRAINING:
        (void)snprintf(text, bytes, "this router stops, and the time for finishing is over");
        break;
    case MED_E_INTERNAL:
        if (req->worker_message[0] != '\0') {
            (void)snprintf(text, bytes, "%s", req->worker_message);
        } else {
            (void)snprintf(text, bytes, "worker %.64s failed the request", req->worker_id);
        }
        break;
    default:
        (void)snprintf(text, bytes, "%s", med_err_text(query->end_code));
    }
}

/* The first failure of a choice is the query's. */
static void choice_failed(struct med_router *router, struct med_req *req)
{
    struct med_query *query = req->query;
    if (query->end_code < 0)
        return; // one of the others, ended for the same reason
    query->end_code = query->abort_code < 0 ? query->abort_code : req->end_code;
    describe_end(router, query, req);
    med_log(req->outcome == MED_OUTCOME_ABORT_CLIENT ? MED_LOG_INFO : MED_LOG_WARN,
            query->request_id, "ended as %s after %zu tokens: %s", med_outcome_name(req->outcome),
            req->output_count, query->end_text);
}

void med_router_choice_ended(struct med_router *router, struct med_req *req)
{
    struct med_query *query = req->query;
    MED_ASSERT(query->choices_open > 0);
    query->choices_open--;
    if (req->end_code < 0)
        choice_failed(router, req);
    if (query->choices_open == 0) {
        end_query(router, query);
        return;
    }
    if (query->end_code == 0) {
        int rc = query->door->on_progress(query, req);
        if (rc == 0)
            return;
        query->abort_code = rc;
    }
    doom(router, query);
}

/* ---- cancel ---- */

static void cancel_choices(struct med_router *router, struct med_query *query,
                           enum med_outcome outcome)
{
    for (uint32_t i = 0; i < query->choice_count; i++) {
        struct med_req *req = &query->choices[i];
        if (req->id == 0)
            continue;
        int rc = med_dispatch_cancel(router->dispatch, med_clock_now_ns(&router->clock), req->id,
                                     outcome);
        MED_ASSERT(rc == 0); // it has an id, so dispatch has it
    }
}

void med_router_cancel(struct med_router *router, struct med_query *query, enum med_outcome outcome)
{
    if (!query->taken)
        return;
    if (query->encoding != NULL) {
        bool late = outcome == MED_OUTCOME_ABORT_DEADLINE;
        int code = query->abort_code < 0 ? query->abort_code
                   : late                ? MED_E_DEADLINE
                                         : MED_E_CANCELLED;
        med_router_encode_forget(router, query);
        (void)refuse(router,
                     code == MED_E_DRAINING   ? MED_REFUSAL_DRAINING
                     : code == MED_E_DEADLINE ? MED_REFUSAL_DEADLINE
                                              : MED_REFUSAL_CANCELLED,
                     code);
        end_refused(router, query, code, med_err_text(code));
        return;
    }
    cancel_choices(router, query, outcome);
    MED_ASSERT(!query->taken);
}

void med_router_end_doomed(struct med_router *router)
{
    while (router->doomed != NULL) {
        struct med_query *query = router->doomed;
        bool client = query->abort_code < 0;
        cancel_choices(router, query, client ? MED_OUTCOME_ABORT_CLIENT : MED_OUTCOME_ERROR);
        MED_ASSERT(router->doomed != query);
    }
}

void med_router_abort_all(struct med_router *router)
{
    med_router_end_doomed(router);
    med_router_encode_abort_all(router);
    for (uint32_t i = 0; i < MED_LIMIT_CALLS && router->active > 0; i++) {
        struct med_req *req = router->slots[i].req;
        if (req == NULL)
            continue;
        req->query->abort_code = MED_E_DRAINING;
        med_router_cancel(router, req->query, MED_OUTCOME_ABORT_DEADLINE);
    }
}

/* ---- acceptance ---- */

static struct med_query_limits limits_of(const struct med_router *router)
{
    const struct med_router_model *model = router->config.model;
    struct med_query_limits limits = {
        .vocab_tokens = router->vocab_tokens,
        .has_tokenizer = model != NULL,
        .has_chat_template = model != NULL && model->chat_template != NULL,
    };
    med_dispatch_get_context(router->dispatch, &limits.context);
    return limits;
}

/* The prompt's text, as an answer with echo begins. */
static int echo_text(const struct med_router *router, const struct med_query *query,
                     struct med_buf *out, struct med_err *err)
{
    const struct med_input *input = &query->input;
    int rc = input->kind == MED_INPUT_TEXT && query->prompt_keep == 0
                 ? med_buf_append(out, input->text, input->text_bytes)
                 : med_tokenizer_decode(router->config.model->tokenizer, query->prompt,
                                        query->prompt_count, !query->sampling.keep_special, out);
    if (rc == MED_E_NOMEM)
        return med_err_set(err, rc, "%s", med_err_text(rc));
    if (rc < 0 || out->length > ECHO_BYTES_MAX / query->choice_count) {
        return med_err_set(err, MED_E_INVALID,
                           "echo: found a prompt of %zu bytes and %u choices, expected at most %d "
                           "bytes in all",
                           out->length, query->choice_count, ECHO_BYTES_MAX);
    }
    return 0;
}

static int make_answers(struct med_router *router, struct med_query *query, struct med_err *err)
{
    const struct med_req_sampling *s = &query->sampling;
    const struct med_router_model *model = router->config.model;
    struct med_buf echo;
    med_buf_init(&echo, ECHO_BYTES_MAX);
    int rc = query->echo ? echo_text(router, query, &echo, err) : 0;
    const struct med_answer_options options = {
        .tokenizer = model != NULL ? model->tokenizer : NULL,
        .skip_special = !s->keep_special,
        .include_stop = s->include_stop,
        .min_tokens = s->min_tokens,
        .stops = (const char *const *)s->stops,
        .stop_count = s->stop_count,
        .stop_ids = s->stop_ids,
        .stop_id_count = s->stop_id_count,
        .eos_ids = model != NULL ? model->eos_ids : NULL,
        .eos_count = model != NULL && !s->ignore_eos ? model->eos_count : 0,
        .echo = echo.data,
        .echo_bytes = echo.length,
    };
    if (rc == 0) {
        uint64_t seed = (uint64_t)med_rng_u32(&router->rng) << 32;
        rc = med_query_make_choices(query, seed | med_rng_u32(&router->rng));
        for (uint32_t i = 0; rc == 0 && i < query->choice_count; i++)
            rc = med_answer_init(&query->choices[i].answer, &options);
        if (rc < 0)
            (void)med_err_set(err, rc, "%s", med_err_text(rc));
    }
    med_buf_release(&echo);
    return rc;
}

/* Its door has written its answer, or dropped it. */
static void on_query_free(struct med_query *query)
{
    struct med_router *router = query->router;
    int64_t received_ns = (int64_t)((double)query->received_ns * router->clock.scale);
    med_recent_add(&router->recent, query, received_ns, med_clock_now_ns(&router->clock));
}

/* Gives every choice to dispatch, or none stays there. */
static int dispatch_all(struct med_router *router, struct med_query *query, struct med_err *err)
{
    if (query->choice_count > MED_LIMIT_CALLS - router->active) {
        (void)refuse(router, MED_REFUSAL_OVERLOAD, MED_E_OVERLOAD);
        return refused(router, query, MED_E_OVERLOAD, err);
    }
    bool was_taken = query->taken;
    int rc = 0;
    query->taken = true;
    query->admitted_ns = med_clock_now_ns(&router->clock);
    query->on_free = on_query_free;
    query->router = router;
    query->choices_open = 1; // so that choices that end at once do not end the query
    for (uint32_t i = 0; rc == 0 && query->end_code == 0 && i < query->choice_count; i++)
        rc = med_router_dispatch(router, &query->choices[i]);
    if (rc == 0) {
        query->choices_open--;
        if (query->choices_open == 0)
            end_query(router, query);
        return 0;
    }
    /* Those that dispatch took before it refused one are ended; the door hears the refusal alone. */
    (void)refused(router, query, rc, err);
    query->end_code = rc;
    cancel_choices(router, query, MED_OUTCOME_REJECTED);
    MED_ASSERT(query->choices_open == 1);
    query->choices_open = 0;
    query->on_free = NULL;
    undoom(router, query);
    query->taken = was_taken;
    return rc;
}

/* The prompt is there: the last checks, and off it goes. */
static int admit(struct med_router *router, struct med_query *query, struct med_err *err)
{
    const struct med_query_limits limits = limits_of(router);
    med_query_cut_prompt(query);
    if (med_query_check_prompt(query, &limits, err) < 0)
        return refuse(router, MED_REFUSAL_INVALID, MED_E_INVALID);
    if (query->deadline_ns != 0 && query->deadline_ns <= med_clock_now_ns(&router->clock)) {
        (void)med_err_set(err, MED_E_DEADLINE, "the deadline had passed when the request came");
        return refuse(router, MED_REFUSAL_DEADLINE, MED_E_DEADLINE);
    }
    int rc = make_answers(router, query, err);
    if (rc == MED_E_INVALID)
        return refuse(router, MED_REFUSAL_INVALID, rc);
    /* Only the echo needed it. */
    med_input_release(&query->input);
    return rc == 0 ? dispatch_all(router, query, err) : rc;
}

void med_router_encoded(struct med_router *router, struct med_query *query, int rc,
                        const struct med_err *err)
{
    struct med_err failure = *err;
    uint64_t began_ns = uv_hrtime();
    if (rc == 0) {
        rc = admit(router, query, &failure);
    } else if (rc == MED_E_INVALID) {
        (void)refuse(router, MED_REFUSAL_INVALID, rc);
    }
    if (rc < 0)
        end_refused(router, query, rc, failure.text);
    med_router_job_ran(router, MED_LOOP_ENCODED, began_ns);
}

static int check(struct med_router *router, struct med_query *query, struct med_err *err)
{
    const char *model = router->config.plan->model_name;
    if (router->state > MED_ROUTER_RETIRING) {
        (void)med_err_set(err, MED_E_DRAINING, "this router is draining; ask another one");
        return refuse(router, MED_REFUSAL_DRAINING, MED_E_DRAINING);
    }
    /* The model first: what the rest may be depends on it. */
    if (query->model != NULL && query->model[0] != '\0' && strcmp(query->model, model) != 0) {
        char shown[MED_LIMIT_NAME_BYTES + 1];
        (void)med_utf8_escape(shown, sizeof(shown), query->model, strlen(query->model));
        (void)med_err_set(err, MED_E_NOT_FOUND,
                          "model: found \"%s\", expected \"%s\", which is served here", shown,
                          model);
        return refuse(router, MED_REFUSAL_NOT_FOUND, MED_E_NOT_FOUND);
    }
    const struct med_query_limits limits = limits_of(router);
    if (med_query_check(query, &limits, err) < 0)
        return refuse(router, MED_REFUSAL_INVALID, MED_E_INVALID);
    return 0;
}

static size_t encode_cost(const struct med_input *input)
{
    return med_input_bytes(input) + MESSAGE_BYTES * input->message_count;
}

static int encode_here(struct med_router *router, struct med_query *query, struct med_err *err)
{
    struct med_token_ids ids = {0};
    int rc = med_router_model_encode(router->config.model, &query->input, &ids, err);
    query->prompt = ids.ids;
    query->prompt_count = ids.count;
    return rc == MED_E_INVALID ? refuse(router, MED_REFUSAL_INVALID, rc) : rc;
}

static int submit(struct med_router *router, struct med_query *query, struct med_err *err)
{
    query->arrived_ns = med_clock_now_ns(&router->clock);
    if (query->request_id[0] == '\0') {
        (void)snprintf(query->request_id, sizeof(query->request_id), "r%08" PRIx32 "-%" PRIu64,
                       router->boot, ++router->request_counter);
    }
    int rc = check(router, query, err);
    if (rc == 0 && encode_cost(&query->input) > ENCODE_INLINE_BYTES) {
        rc = med_router_encode(router, query, err);
        query->taken = rc == 0;
        if (rc == MED_E_OVERLOAD)
            (void)refuse(router, MED_REFUSAL_OVERLOAD, rc);
    } else if (rc == 0) {
        if (query->input.kind != MED_INPUT_TOKENS)
            rc = encode_here(router, query, err);
        if (rc == 0)
            rc = admit(router, query, err);
    }
    if (rc < 0)
        log_refusal(query, rc, err != NULL ? err->text : "");
    return rc;
}

int med_router_submit(void *self, struct med_query *query, struct med_err *err)
{
    struct med_router *router = self;
    uint64_t began_ns = uv_hrtime();
    int rc = submit(router, query, err);
    med_router_job_ran(router, MED_LOOP_SUBMIT, began_ns);
    return rc;
}

void med_router_give_up(void *self, struct med_query *query, enum med_outcome outcome)
{
    struct med_router *router = self;
    uint64_t began_ns = uv_hrtime();
    med_router_cancel(router, query, outcome);
    med_router_job_ran(router, MED_LOOP_CANCEL, began_ns);
}
