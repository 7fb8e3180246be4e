/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scheduler: iteration-level continuous batching under a token budget.
 *
 * A pure core: time is an argument, no I/O, and nothing is allocated after init (everything is sized
 * from the config).  The live worker and the simulation run this same code.
 *
 * One iteration:
 *     batch = med_scheduler_plan(s)            decode first, then prefill in chunks
 *     ... the backend computes the batch, or its time passes ...
 *     med_scheduler_commit(s, now, sampled)    one token per sampling item; events come out
 * Between plan and commit only add and cancel may be called; a cancelled sequence's blocks are
 * freed at commit, since the running batch still uses them.
 *
 * KV is paged in blocks of block_tokens.  A sequence is admitted when blocks for its prompt (and
 * tokens generated before a preemption) plus one are free; when blocks run out for a decode the
 * newest running sequence is preempted: its blocks are freed, and it goes back to the head of the
 * waiting queue to be recomputed (prompt and generated tokens become its prefill). A token that was
 * delivered is never delivered again.  First come, first admitted.
 *
 * thread: engine (live) or the simulation's. owns: all arrays, sequences and block tables.
 * errors: add: MED_E_INVALID can never fit, MED_E_AGAIN the table is full; caller still owns.
 * source: Orca (OSDI'22) iteration-level scheduling; Sarathi-Serve (OSDI'24) chunked prefill;
 * vLLM (SOSP'23) paged KV and preemption by recompute.
 */
#ifndef MED_WORKER_ENGINE_SCHEDULER_H
#define MED_WORKER_ENGINE_SCHEDULER_H

#include "base/err.h"
#include "profiles/latency.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct med_scheduler_config {
    int64_t block_tokens;       /* > 0 */
    int64_t kv_tokens;          /* capacity; whole blocks of it are used */
    int64_t model_len_max;      /* prompt + output of one sequence */
    int64_t sequences_max;      /* running at a time */
    int64_t batched_tokens_max; /* prefill + decode tokens of one iteration; >= sequences_max */
    int64_t table_max;          /* sequences held at all: running and waiting */
};

/* What a request asks of the scheduler. */
struct med_sequence_spec {
    uint64_t id;               /* the caller's name for it; unique among those held */
    int64_t prompt_tokens;     /* >= 1 */
    int64_t output_tokens_max; /* >= 1; prompt + output <= min(model_len_max, kv capacity) */
    void *user;                /* the caller's, handed back in items and events */
};

/* One row of a batch. */
struct med_batch_item {
    uint64_t id;
    void *user;
    int64_t tokens;   /* 1 for a decode, the chunk's length for a prefill */
    int64_t context;  /* tokens already in the cache before this item */
    int64_t position; /* index of the output token that is sampled, if `samples` */
    bool prefill;
    bool samples;          /* a token comes out: every decode, and the last chunk of a prefill */
    const int32_t *blocks; /* block table, block_count entries; valid until commit */
    int64_t block_count;
};

struct med_batch {
    const struct med_batch_item *items;
    size_t count; /* 0: nothing to do */
    struct med_step_load load;
};

enum med_sequence_end {
    MED_END_NONE,   /* a token, and the sequence goes on */
    MED_END_STOP,   /* the backend said that this token ends it */
    MED_END_LENGTH, /* output_tokens_max reached */
    MED_END_CANCEL, /* cancelled; no token */
};

/* What a commit tells, in batch order; first-token times follow from position == 0. */
struct med_sequence_event {
    uint64_t id;
    void *user;
    int64_t position; /* of the token; -1 without a token (MED_END_CANCEL) */
    enum med_sequence_end end;
};

struct med_scheduler_stats {
    int64_t running, waiting;
    int64_t kv_blocks_free, kv_blocks_total;
    uint64_t iterations, preemptions;
    uint64_t prompt_tokens_total;    /* prefilled, recomputation included */
    uint64_t generated_tokens_total; /* delivered */
    uint64_t finished_total;         /* stop, length and cancel */
};

struct med_scheduler;

int med_scheduler_new(const struct med_scheduler_config *config,
                      struct med_scheduler **ret_scheduler, struct med_err *err) MED_MUST_CHECK;
void med_scheduler_free(struct med_scheduler *s);

int med_scheduler_add(struct med_scheduler *s, const struct med_sequence_spec *spec) MED_MUST_CHECK;
/* MED_E_NOT_FOUND when it is not (or no longer) held. The event MED_END_CANCEL comes with the next
 * commit; med_scheduler_plan + commit must be called even if the batch is empty then. */
int med_scheduler_cancel(struct med_scheduler *s, uint64_t id) MED_MUST_CHECK;
bool med_scheduler_has_work(const struct med_scheduler *s);

/* Borrowed until commit. */
const struct med_batch *med_scheduler_plan(struct med_scheduler *s);
/* stop[i] (or stop == NULL): item i's sampled token ends its sequence.  Returns how many events
 * were written to the scheduler's own array, lent as *ret_events until the next plan. */
size_t med_scheduler_commit(struct med_scheduler *s, const bool *stop,
                            const struct med_sequence_event **ret_events);

void med_scheduler_get_stats(const struct med_scheduler *s, struct med_scheduler_stats *ret_stats);
/* Every invariant, asserted (a block has one owner; counts add up). For tests and simulation. */
void med_scheduler_check(const struct med_scheduler *s);

#endif
