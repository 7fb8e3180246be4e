/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decisions: why requests went where they went. A ring of the last MED_DISPATCH_DECISIONS, each with the workers
 * that were considered; the best ones, where there were more than fit. O(1) per pick, O(ring) to find
 * one. Names are copied: a worker may be gone when somebody asks. thread: loop.
 */
#include "router/dispatch/internal.h"

#include "base/alloc.h"

#include <string.h>

int decisions_init(struct decisions *r)
{
    r->rows = med_calloc(MED_DISPATCH_DECISIONS, sizeof *r->rows);
    return r->rows ? 0 : MED_E_NOMEM;
}

void decisions_release(struct decisions *r)
{
    med_free(r->rows);
}

void decisions_add(struct med_dispatch *d, int64_t now_ns, const struct lease *lease,
                   const struct pick *pick)
{
    struct decisions *r = &d->decisions;
    struct med_dispatch_decision *row = &r->rows[r->count++ % MED_DISPATCH_DECISIONS];
    *row = (struct med_dispatch_decision){.request = lease->request,
                                          .attempt = lease->attempt,
                                          .at_ns = now_ns,
                                          .waited_ns = now_ns - lease->arrived_ns,
                                          .policy = d->config.policy,
                                          .prompt_tokens = lease->prompt_tokens,
                                          .delivered_tokens = lease->tokens,
                                          .expected_tokens = lease->tokens + lease->remaining,
                                          .input_row = lease->input_row,
                                          .output_row = lease->output_row,
                                          .has_plan = pick->has_plan,
                                          .planned_type = pick->planned_type,
                                          .type = pick->type,
                                          .considered = pick->considered,
                                          .candidate_count = pick->candidate_count};
    row->spilled = d->config.policy == MED_POLICY_PLAN &&
                   (!pick->has_plan || pick->type != pick->planned_type);
    for (size_t i = 0; i < pick->candidate_count; i++) {
        const struct candidate *from = &pick->candidates[i];
        const struct worker *worker = &d->workers.rows[from->worker];
        struct med_dispatch_candidate *to = &row->candidates[i];
        *to = (struct med_dispatch_candidate){
            .worker = from->worker,
            .type = worker->type,
            .chosen = from->worker == pick->worker,
            .in_time = from->in_time,
            .avoided = from->avoided,
            .in_flight = worker_in_flight(worker),
            .wait_ns = dispatch_ns_of_ms(from->prediction.wait_ms),
            .ttft_ns = dispatch_ns_of_ms(from->prediction.ttft_ms),
            .finish_ns = dispatch_ns_of_ms(from->prediction.finish_ms),
            .cached_tokens = from->cached_tokens,
            .saved_ns = dispatch_ns_of_ms(from->prediction.saved_ms),
            .score = from->score};
        memcpy(to->worker_id, worker->worker_id, strlen(worker->worker_id) + 1);
    }
}

const struct med_dispatch_decision *med_dispatch_get_decision(const struct med_dispatch *d,
                                                              size_t back)
{
    const struct decisions *r = &d->decisions;
    if (back >= r->count || back >= MED_DISPATCH_DECISIONS)
        return NULL;
    return &r->rows[(r->count - 1 - back) % MED_DISPATCH_DECISIONS];
}

const struct med_dispatch_decision *med_dispatch_find_decision(const struct med_dispatch *d,
                                                               uint64_t request)
{
    const struct med_dispatch_decision *row;
    for (size_t back = 0; (row = med_dispatch_get_decision(d, back)) != NULL; back++) {
        if (row->request == request)
            return row;
    }
    return NULL;
}
