/* SPDX-License-Identifier: Apache-2.0 */
/*
 * "decisions" of /admin/state: why requests went where they went, newest first.
 *
 * Dispatch remembers the last picks with the workers that it considered; this puts each into a
 * sentence for people, and the workers' predicted times beside it.  Runs on the loop.
 */
#include "router/admin.h"

#include "base/json.h"
#include "router/router_internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

enum {
    DECISIONS_SHOWN = 40,
    WHY_BYTES = 1024
};

static double seconds(int64_t ns)
{
    return (double)ns / (double)MED_NS_PER_S;
}

static const struct med_dispatch_candidate *chosen(const struct med_dispatch_decision *decision)
{
    for (size_t i = 0; i < decision->candidate_count; i++) {
        if (decision->candidates[i].chosen)
            return &decision->candidates[i];
    }
    return NULL;
}

/* Appends to a text that may be cut. */
static void MED_PRINTF(3, 4) say(char *text, size_t *used, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text + *used, WHY_BYTES - *used, fmt, args);
    va_end(args);
    if (n > 0)
        *used = *used + (size_t)n < WHY_BYTES ? *used + (size_t)n : WHY_BYTES - 1;
}

static void say_type(const struct med_router *router, const struct med_dispatch_decision *decision,
                     char *text, size_t *used)
{
    const char *type = med_dispatch_type_name(router->dispatch, decision->type);
    if (decision->policy != MED_POLICY_PLAN) {
        say(text, used, "policy %s", med_dispatch_policy_name(decision->policy));
    } else if (!decision->has_plan) {
        say(text, used, "the plan gives this bucket to no type that is there: the next best, %s",
            type);
    } else if (decision->spilled) {
        say(text, used, "it was the turn of %s by the plan's shares, but %s was better in time",
            med_dispatch_type_name(router->dispatch, decision->planned_type), type);
    } else {
        say(text, used, "the turn of %s by the plan's shares", type);
    }
}

static void say_why(const struct med_router *router, const struct med_dispatch_decision *decision,
                    char *text)
{
    const struct med_dispatch_candidate *worker = chosen(decision);
    size_t used = 0;
    text[0] = '\0';
    say_type(router, decision, text, &used);
    if (worker != NULL) {
        say(text, &used,
            "; of %zu workers %s was best: %" PRId64 " in flight, first token predicted after "
            "%.3g s, end after %.3g s",
            decision->considered, worker->worker_id, worker->in_flight, seconds(worker->ttft_ns),
            seconds(worker->finish_ns));
        if (worker->cached_tokens > 0) {
            say(text, &used, ", %" PRId64 " tokens of the prompt in its cache",
                worker->cached_tokens);
        }
        if (!worker->in_time)
            say(text, &used, ", later than the objective");
    }
    if (decision->attempt > 1) {
        say(text, &used, "; attempt %" PRIu32 ", after %" PRId64 " tokens", decision->attempt,
            decision->delivered_tokens);
    }
}

static void put_candidates(struct med_json_writer *w, const struct med_router *router,
                           const struct med_dispatch_decision *decision)
{
    med_json_begin_row_array(w, "candidates");
    for (size_t i = 0; i < decision->candidate_count; i++) {
        const struct med_dispatch_candidate *c = &decision->candidates[i];
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "worker", c->worker_id);
        med_json_put_string(w, "worker_type", med_dispatch_type_name(router->dispatch, c->type));
        med_json_put_bool(w, "chosen", c->chosen);
        med_json_put_bool(w, "in_time", c->in_time);
        med_json_put_bool(w, "avoided", c->avoided);
        med_json_put_integer(w, "in_flight", c->in_flight);
        med_json_put_number(w, "wait_s", seconds(c->wait_ns));
        med_json_put_number(w, "ttft_s", seconds(c->ttft_ns));
        med_json_put_number(w, "finish_s", seconds(c->finish_ns));
        med_json_put_integer(w, "cached_tokens", c->cached_tokens);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

void med_router_put_decisions(struct med_json_writer *w, struct med_router *router)
{
    const struct med_dispatch_decision *decision;
    const struct med_plan *plan = router->config.plan;
    int64_t now_ns = med_clock_now_ns(&router->clock);
    med_json_begin_array(w, "decisions");
    for (size_t back = 0; back < DECISIONS_SHOWN &&
                          (decision = med_dispatch_get_decision(router->dispatch, back)) != NULL;
         back++) {
        char why[WHY_BYTES];
        /* Only while it is in flight is its name known. */
        const struct med_req *req = med_router_find(router, decision->request);
        const struct med_dispatch_candidate *worker = chosen(decision);
        say_why(router, decision, why);
        med_json_begin_row_object(w, NULL);
        if (req != NULL)
            med_json_put_string(w, "request_id", req->query->request_id);
        med_json_put_number(w, "ago_s", seconds(now_ns - decision->at_ns));
        med_json_put_number(w, "waited_s", seconds(decision->waited_ns));
        med_json_put_integer(w, "attempt", decision->attempt);
        med_json_put_integer(w, "prompt_tokens", decision->prompt_tokens);
        med_json_put_integer(w, "expected_tokens", decision->expected_tokens);
        if ((size_t)decision->input_row < plan->grid.input_edge_count &&
            (size_t)decision->output_row < plan->grid.output_edge_count) {
            med_json_put_number(w, "input", plan->grid.input_edges[decision->input_row]);
            med_json_put_number(w, "output", plan->grid.output_edges[decision->output_row]);
        }
        med_json_put_string(w, "worker", worker != NULL ? worker->worker_id : "");
        med_json_put_string(w, "worker_type",
                            med_dispatch_type_name(router->dispatch, decision->type));
        med_json_put_string(w, "why", why);
        put_candidates(w, router, decision);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}
