/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A measurement: iterations of one kind through the engine itself, each timed from the end of the one
 * before to its own.
 *
 * The engine thread runs it in its own turns, with its own scheduler, two steps under way where the
 * backend can: what an iteration costs inside serving, not alone.  Decodes are sequences that the
 * cache is taken to hold already (med_sequence_spec.cached_tokens); a prefill is one sequence after
 * another, each added when the one before has ended.  Only iterations that compute exactly what was
 * asked for count.
 *
 * Life: new; med_engine_measure lends it; med_engine_take_measure hands it back; free.
 * thread: new, free, cancel: loop; the rest: engine, while it has it. owns: its requests and tokens.
 * errors: MED_E_INVALID with a sentence for sizes that the engine cannot run; MED_E_NOMEM.
 */
#ifndef MED_WORKER_ENGINE_MEASURE_H
#define MED_WORKER_ENGINE_MEASURE_H

#include "worker/engine_thread.h"

#include <stdatomic.h>

enum {
    MED_MEASURE_REPEATS_MAX = 4096,
    MED_MEASURE_WARMUP_MAX = 1024
};

struct med_measure_sizes {
    int64_t prefill_tokens, prefill_context; /* of one prefill in each iteration; 0, 0: none */
    int64_t decode_sequences, decode_context_tokens; /* of all together, in the middle of repeats */
    int64_t warmup, repeats;
    bool fill; /* instead of all this: write all of the cache by prefills, untimed */
};

struct med_measure {
    struct med_engine_command command; /* first */
    struct med_measure_sizes sizes;
    uint64_t id; /* the caller's */

    /* Results, once it came back: of each repeat. */
    int64_t count;
    uint64_t *step_ns;               // [repeats]
    uint64_t *decode_context_tokens; // [repeats]
    struct med_err failure;          /* code 0: all repeats are there */

    /* thread: engine */
    struct med_engine_request *decodes; // [decode_count]
    int64_t decode_count;
    struct med_engine_request prefill;
    uint32_t *tokens; // [tokens_count], random ids that all sequences read
    uint64_t serial;  /* of the last sequence */
    int64_t since_ns; /* fleet time at which the step before ended */
    int64_t left;     /* of warm-up */
    int64_t patience; /* iterations until it is given up */
    bool begun, ending, prefill_is_held;

    struct {
        atomic_bool cancelled; /* relaxed: it only has to be seen sometime */
    } shared;
};

/* scheduler: of the engine. sampling: how the tokens are drawn; vocab: of their ids. */
int med_measure_new(const struct med_measure_sizes *sizes,
                    const struct med_scheduler_config *scheduler,
                    const struct med_sampling *sampling, int64_t vocab,
                    struct med_measure **ret_measure, struct med_err *err) MED_MUST_CHECK;
void med_measure_free(struct med_measure *measure);
/* It comes back soon, with MED_E_CANCELLED unless it was done. */
void med_measure_cancel(struct med_measure *measure);

/* ---- the engine's ---- */

/* Before each plan: adds what the next iteration needs, or cancels what is left.  true: it is over, and
 * the scheduler holds nothing of it any more. */
bool med_measure_feed(struct med_measure *measure, struct med_scheduler *scheduler);
/* After each step and before its commit: what it computed, and when it ended. */
void med_measure_step(struct med_measure *measure, const struct med_step_load *load,
                      int64_t ended_ns);
/* Of one of its requests, whose user is the request. */
void med_measure_event(const struct med_sequence_event *event);
/* The engine is dead. */
void med_measure_fail(struct med_measure *measure, const struct med_err *err);

#endif
