/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A backend computes batches: what the scheduler planned goes in, sampled tokens come out.
 *
 * The engine thread makes every call.  The scheduler has placed every token's keys and values already
 * (item->blocks); a backend keeps no list of sequences.
 *
 * step blocks until the batch is done.  A backend that can be given a batch while the one before runs
 * has start and finish too: start queues a batch, finish waits for the oldest one that was started;
 * at most MED_BACKEND_STEPS are under way, and they run in that order, each when the one before has
 * ended (scheduler.h says what relies on it).  A decode whose input token the batch before is still
 * computing says so (item->awaits), and the token never passes through the host.
 *
 * thread: engine, except release (after that thread is joined). owns: what `self` points to.
 * errors: a step that fails marks the engine dead: its requests end with an error and the process
 * leaves with its own exit status.
 */
#ifndef MED_WORKER_BACKEND_H
#define MED_WORKER_BACKEND_H

#include "base/err.h"
#include "worker/engine/sampling.h"
#include "worker/engine/scheduler.h"

#include <stdbool.h>
#include <stdint.h>

/* What a batch item says besides struct med_batch_item. */
struct med_backend_sequence {
    /* Prompt and output so far; the item computes tokens[item->context .. + item->tokens). */
    const uint32_t *tokens;
    int64_t prompt_tokens;
    struct med_sampling sampling;
};

enum {
    MED_BACKEND_STEPS = 2
};

struct med_backend_step {
    const struct med_batch *batch; // start: borrowed for the call alone
    /* [batch->count]; start: what they point to too is borrowed for the call alone. The out arrays
     * below are borrowed until the batch is finished. */
    const struct med_backend_sequence *const *sequences;
    int64_t available_ns; /* fleet time since when this work could have begun */
    /* NULL, or out: fleet time at which the device ended it, by its own count.  Left alone by those that
     * have none: it ended when step or finish returned. */
    int64_t *ended_ns;
    uint32_t *sampled; // [batch->count], out: token ids of the items that sample
    bool *stop;        // [batch->count], out: the sampled token ends the sequence; false before
    /* [batch->count] or NULL, out: nothing could be drawn for item i, whose logits hold no finite
     * number; false before. With NULL such an item fails the step. */
    bool *failed;
    /* [batch->count] or NULL; [i] NULL unless item i samples and its sequence asks for logprobs. */
    struct med_token_logprobs *const *logprobs; // out
};

struct med_backend_ops {
    const char *name; /* "emulated", "cpu", "cuda" */
    /* First call of the engine thread. */
    int (*init)(void *self, struct med_err *err);
    /* batch->count >= 1. */
    int (*step)(void *self, const struct med_backend_step *step, struct med_err *err);
    /* NULL, or both; not mixed with step while a batch is under way. */
    int (*start)(void *self, const struct med_backend_step *step, struct med_err *err);
    int (*finish)(void *self, struct med_err *err);
    void (*release)(void *self);
};

struct med_backend {
    const struct med_backend_ops *ops;
    void *self;
};

#endif
