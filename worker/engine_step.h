/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A step of the engine: a batch with the backend, and what comes back of it.
 *
 * The engine thread has as many as can be under way.  One is started with a batch, finished, and can
 * then be started again; with a backend that has no start, all is computed in finish.
 * A failed start or finish is the end: the backend is not asked again, and what it was lent stays
 * until release.
 *
 * thread: engine; init and release: the loop, while there is no engine thread.
 */
#ifndef MED_WORKER_ENGINE_STEP_H
#define MED_WORKER_ENGINE_STEP_H

#include "worker/backend.h"
#include "worker/engine/scheduler.h"

#include <stdbool.h>
#include <stdint.h>

struct med_engine_step {
    struct med_backend_step given;                 /* the arrays below */
    const struct med_backend_sequence **sequences; // [sequences_max]
    uint32_t *sampled;                             // [sequences_max]
    bool *stops, *failures;                        // [sequences_max]
    int64_t ended_ns;                    /* fleet time by the device's own count; 0: it has none */
    struct med_token_logprobs *logprobs; // [sequences_max]
    struct med_token_logprobs **logprobs_wanted; // [sequences_max], into logprobs or NULL
    /* The next draw of one of its sequences depends on the token that this step draws, otherwise than
     * by the model: the next step cannot be started before this one is finished. */
    bool is_waited_for;
};

/* errors: MED_E_NOMEM; release is due all the same. */
int med_engine_step_init(struct med_engine_step *step, int64_t sequences_max) MED_MUST_CHECK;
/* Accepts a zeroed struct. */
void med_engine_step_release(struct med_engine_step *step);

/* Gives a batch of the scheduler's, whose items' users are struct med_engine_request, to the backend.
 * now_ns: fleet time, for those whose first batch it is; available_ns: as struct med_backend_step. */
int med_engine_step_start(struct med_engine_step *step, const struct med_backend *backend,
                          const struct med_batch *batch, int64_t now_ns, int64_t available_ns,
                          struct med_err *err) MED_MUST_CHECK;
/* Waits for it, the oldest that was started. */
int med_engine_step_finish(struct med_engine_step *step, const struct med_backend *backend,
                           struct med_err *err) MED_MUST_CHECK;
/* Once finished, before the commit: puts the tokens where their requests have them; requests for which
 * nothing could be drawn are cancelled, so that the commit does not publish what they computed. */
void med_engine_step_keep(struct med_engine_step *step, struct med_scheduler *scheduler);

#endif
