/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine thread: scheduler and backend, fed by a mailbox, telling its events through another.
 *
 * A request (struct med_engine_request) is made by the loop and lent to the engine with submit.  The
 * engine appends tokens to request->tokens and announces them through one atomic word; the request
 * itself travels in the event mailbox, at most once at a time, so that a slow loop finds several
 * steps' tokens in one event, and no queue grows.  After the event that carries an end the engine
 * never touches the request again, and the loop frees it.
 *
 * thread: the functions below are the loop's; struct fields name theirs.
 * errors: submit: MED_E_INVALID can never fit; MED_E_AGAIN requests_max are with the engine already;
 * the caller still owns.
 */
#ifndef MED_WORKER_ENGINE_THREAD_H
#define MED_WORKER_ENGINE_THREAD_H

#include "base/clock.h"
#include "base/hist.h"
#include "base/mailbox.h"
#include "worker/backend.h"
#include "worker/engine/scheduler.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct med_engine;
struct med_measure;

enum med_engine_end {
    MED_ENGINE_GOES_ON,
    MED_ENGINE_STOP,
    MED_ENGINE_LENGTH,
    MED_ENGINE_CANCEL,
    MED_ENGINE_ERROR,  /* the backend failed; med_engine_failure says how */
    MED_ENGINE_FAILED, /* this request cannot be computed: its logits hold no finite number. The
                        * engine goes on */
    MED_ENGINE_END_COUNT
};

enum med_engine_command_kind {
    MED_ENGINE_COMMAND_SUBMIT,
    MED_ENGINE_COMMAND_CANCEL,
    MED_ENGINE_COMMAND_MEASURE,
    MED_ENGINE_COMMAND_BEAT,
    MED_ENGINE_COMMAND_QUIT
};

/* A message to the engine, inside what it is about. */
struct med_engine_command {
    struct med_message message; /* first */
    enum med_engine_command_kind kind;
    struct med_engine_request *request; /* submit and cancel */
    struct med_measure *measure;        /* measure */
};

/* Logprobs of the generated tokens; the arrays belong to whoever made the request. */
struct med_engine_logprobs {
    float *logprobs;     // [output_tokens_max]; NULL: none are wanted
    uint32_t *ranks;     // [output_tokens_max]
    int64_t top;         /* alternatives per token; <= MED_LIMIT_TOP_LOGPROBS */
    uint32_t *top_ids;   // [output_tokens_max][top]; MED_ENGINE_NO_ID: no more of this token
    float *top_logprobs; // [output_tokens_max][top]
};
#define MED_ENGINE_NO_ID UINT32_MAX

struct med_engine_request {
    /* The loop fills these before submit; constant afterwards. */
    struct med_backend_sequence sequence;
    uint32_t *tokens; /* sequence.prompt_tokens + output_tokens_max; owned by the request */
    int64_t
        output_tokens; /* of the output, those that are in `tokens` at submit; < output_tokens_max */
    struct med_engine_logprobs logprobs; /* what the arrays hold is announced as the tokens are */
    int64_t output_tokens_max;
    int64_t arrival_ns; /* fleet time */
    uint64_t serial;    /* unique; set by submit */

    /* One of a measurement's (engine_measure.h); NULL: the loop's.  What of its prompt is taken to be
     * cached. */
    struct med_measure *measure;
    int64_t measured_cached;

    bool cancelling; /* thread: loop */

    /* thread: engine, from submit on */
    struct med_engine_command submit, cancel;
    int64_t generated;
    int64_t cached_prompt_tokens; /* written before the first token is announced, then constant */
    enum med_engine_end end;
    bool cancel_taken;
    bool failing; /* nothing could be drawn for it: its cancellation is a failure */
    int64_t scheduled_ns, first_token_ns, last_token_ns; /* fleet time; 0: not yet */
    struct med_engine_request *next, *prev;              /* list of those not ended */

    /* Between both threads. */
    struct {
        struct med_message event;
        /* Tokens generated (32 bits), end (8), flags.  Exchanged with acq_rel: whoever reads a count
         * may read as many tokens. */
        atomic_uint_least64_t state;
        atomic_int_least64_t at_ns; /* fleet time of the last token; relaxed, ordered by state */
    } shared;
};

/* What an event says, read by the loop. */
struct med_engine_event {
    struct med_engine_request *request;
    int64_t
        generated; /* so far, with those of before; tokens[prompt_tokens .. + generated) may be read */
    int64_t at_ns;
    int64_t cached_prompt_tokens; /* of the prompt, found in the prefix cache; 0 before a token */
    enum med_engine_end end;
};

struct med_engine_config {
    struct med_scheduler_config scheduler; /* prefix_seed 0: the engine makes one */
    struct med_backend backend;    /* borrowed; the caller releases it after med_engine_free */
    const struct med_clock *clock; /* borrowed; real */
    void (*wake)(void *arg);       /* called on the engine thread when there are events */
    void *wake_arg;
    const double *ttft_bounds_s, *tpot_bounds_s; /* histogram bounds to merge in; may be NULL */
    size_t ttft_bound_count, tpot_bound_count;
};

/* A copy of what the engine counts. */
struct med_engine_stats {
    struct med_scheduler_stats scheduler;
    int64_t heartbeat_ns; /* fleet time of the engine loop's last turn */
    bool failed;
    double step_seconds; /* fleet time spent in steps, from one's end to the next one's */
    uint64_t ends[MED_ENGINE_END_COUNT];
    /* Seconds of fleet time. */
    struct med_hist ttft, itl, tpot, e2e, queue, prefill, decode;
};

/* Starts the thread and waits until the backend is initialised.  errors: the backend's, with its
 * sentence; MED_E_INVALID, MED_E_NOMEM; -errno of the thread. */
int med_engine_new(const struct med_engine_config *config, struct med_engine **ret_engine,
                   struct med_err *err) MED_MUST_CHECK;
/* Stops after what is under way and joins.  Every request must have ended and been taken. */
void med_engine_free(struct med_engine *engine);

int med_engine_submit(struct med_engine *engine, struct med_engine_request *request) MED_MUST_CHECK;
/* The request ends with MED_ENGINE_CANCEL within one step (or another end that came first). Cannot
 * fail; a second call does nothing. */
void med_engine_cancel(struct med_engine *engine, struct med_engine_request *request);
/* Asks an idle engine for a heartbeat. */
void med_engine_beat(struct med_engine *engine);

/* Runs it when the requests that are held have ended; none may be submitted until it is back. One at a
 * time. */
void med_engine_measure(struct med_engine *engine, struct med_measure *measure);
/* The one that is back; NULL: none is.  The loop is woken for it. */
struct med_measure *med_engine_take_measure(struct med_engine *engine);

/* Takes what the engine announced: calls on_event for each request that has news, in order. The
 * callee may free the request when event->end is set. */
void med_engine_take_events(struct med_engine *engine,
                            void (*on_event)(void *arg, const struct med_engine_event *event),
                            void *arg);

void med_engine_get_stats(struct med_engine *engine, struct med_engine_stats *ret_stats);
/* The sentence of the backend's failure, after stats.failed. */
void med_engine_failure(struct med_engine *engine, struct med_err *ret_err);

#endif
