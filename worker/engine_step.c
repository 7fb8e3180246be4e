/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A step of the engine (see engine_step.h).
 *
 * The arrays are as long as a batch can be, so nothing is allocated here once the engine runs.  An item
 * whose sequence ended while it was under way (item->ended) has no request any more: nothing of it
 * is looked at.
 * thread: engine.  Decides nothing about batches: that is the scheduler's.
 */
#include "worker/engine_step.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "worker/engine_thread.h"

int med_engine_step_init(struct med_engine_step *step, int64_t sequences_max)
{
    size_t n = (size_t)sequences_max;
    *step = (struct med_engine_step){
        .sequences = med_calloc(n, sizeof(struct med_backend_sequence *)),
        .sampled = med_calloc(n, sizeof step->sampled[0]),
        .stops = med_calloc(n, sizeof step->stops[0]),
        .failures = med_calloc(n, sizeof step->failures[0]),
        .logprobs = med_calloc(n, sizeof step->logprobs[0]),
        .logprobs_wanted = med_calloc(n, sizeof(struct med_token_logprobs *)),
    };
    bool is_there = step->sequences && step->sampled && step->stops && step->failures &&
                    step->logprobs && step->logprobs_wanted;
    return is_there ? 0 : MED_E_NOMEM;
}

void med_engine_step_release(struct med_engine_step *step)
{
    med_free(step->sequences);
    med_free(step->sampled);
    med_free(step->stops);
    med_free(step->failures);
    med_free(step->logprobs);
    med_free((void *)step->logprobs_wanted);
    *step = (struct med_engine_step){0};
}

/* A failure always has a sentence. */
static int said(int rc, struct med_err *err)
{
    if (rc < 0 && err->code == 0)
        (void)med_err_set(err, rc, "%s", med_err_text(rc));
    return rc;
}

int med_engine_step_start(struct med_engine_step *step, const struct med_backend *backend,
                          const struct med_batch *batch, int64_t now_ns, int64_t available_ns,
                          struct med_err *err)
{
    step->is_waited_for = false;
    step->ended_ns = 0;
    for (size_t i = 0; i < batch->count; i++) {
        struct med_engine_request *request = batch->items[i].user;
        bool samples = batch->items[i].samples;
        if (request->scheduled_ns == 0)
            request->scheduled_ns = now_ns;
        step->sequences[i] = &request->sequence;
        step->stops[i] = false;
        step->failures[i] = false;
        bool wanted = samples && request->logprobs.logprobs;
        step->logprobs_wanted[i] = wanted ? &step->logprobs[i] : NULL;
        step->is_waited_for |= samples && med_sampling_has_penalties(&request->sequence.sampling);
    }
    step->given = (struct med_backend_step){.batch = batch,
                                            .sequences = step->sequences,
                                            .available_ns = available_ns,
                                            .ended_ns = &step->ended_ns,
                                            .sampled = step->sampled,
                                            .stop = step->stops,
                                            .failed = step->failures,
                                            .logprobs = step->logprobs_wanted};
    return backend->ops->start ? said(backend->ops->start(backend->self, &step->given, err), err)
                               : 0;
}

int med_engine_step_finish(struct med_engine_step *step, const struct med_backend *backend,
                           struct med_err *err)
{
    int rc = backend->ops->start ? backend->ops->finish(backend->self, err)
                                 : backend->ops->step(backend->self, &step->given, err);
    return said(rc, err);
}

/* Appends what the backend said of the token at `position` to the request's own arrays. */
static void keep_logprobs(struct med_engine_request *request, int64_t position,
                          const struct med_token_logprobs *given)
{
    struct med_engine_logprobs *keep = &request->logprobs;
    keep->logprobs[position] = given->logprob;
    keep->ranks[position] = given->rank;
    for (int64_t i = 0; i < keep->top; i++) {
        bool is_there = i < (int64_t)given->top_count;
        keep->top_ids[position * keep->top + i] = is_there ? given->top_ids[i] : MED_ENGINE_NO_ID;
        keep->top_logprobs[position * keep->top + i] = is_there ? given->top_logprobs[i] : 0;
    }
}

void med_engine_step_keep(struct med_engine_step *step, struct med_scheduler *scheduler)
{
    const struct med_batch *batch = step->given.batch;
    for (size_t i = 0; i < batch->count; i++) {
        const struct med_batch_item *item = &batch->items[i];
        struct med_engine_request *request = item->user;
        if (item->ended)
            continue;
        if (step->failures[i]) {
            /* Not found: it was cancelled while the step ran, and ends as that. */
            int rc = med_scheduler_cancel(scheduler, request->serial);
            MED_ASSERT(rc == 0 || rc == MED_E_NOT_FOUND);
            request->failing = rc == 0;
        } else if (item->samples) {
            request->tokens[request->sequence.prompt_tokens + item->position] = step->sampled[i];
            if (step->logprobs_wanted[i])
                keep_logprobs(request, item->position, step->logprobs_wanted[i]);
        }
    }
}
