/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scheduler: iteration-level continuous batching under a token budget.
 *
 * A pure core: time is an argument, no I/O, and nothing is allocated after init (everything is sized
 * from the config).  The live worker and the simulation run this same code.
 *
 * One iteration:
 *     batch = med_scheduler_plan(s, now)       decode first, then prefill in chunks
 *     ... the backend computes the batch, or its time passes ...
 *     med_scheduler_commit(s, stop, &events)   one token per sampling item; events come out
 * Between plan and commit only add, cancel and plan_ahead may be called; a cancelled sequence's blocks
 * are freed at commit, since the running batch still uses them.
 *
 * med_scheduler_plan_ahead plans batch n + 1 while n runs: each item of n is taken to draw a token
 * that ends nothing, unless by its length.  commit tells of the oldest batch, so n comes first; a
 * sequence that n turns out to end has a dead item in n + 1 (item->ended), of which nothing more is
 * heard. What relies on it: batches run in the order in which they were planned, each when the one
 * before has ended.  So n + 1 finds what n computes, and a block that a dead item writes may belong
 * to a sequence of n + 2 already, which writes it after that.  Nobody is preempted while a batch
 * runs, and nothing is published before its own commit.
 *
 * KV is paged in blocks of block_tokens.  A sequence is admitted when blocks for its prompt (and
 * tokens generated before a preemption) plus one can be had; when blocks run out for a decode the
 * newest running sequence is preempted: its blocks are freed, and it goes back to the head of the
 * waiting queue to be recomputed (prompt and generated tokens become its prefill). A token that was
 * delivered is never delivered again.  First come, first admitted.
 *
 * With prefix_cache, full blocks stay findable by their tokens and all before them until others need
 * the room: a sequence of the same beginning is admitted with those in its table and computes the
 * rest, one token at least.  A find is exact, and a block can be found only after the commit of the
 * batch that computed it.  Load and prompt_tokens_total count what is computed.
 *
 * Dynamic and static batching run one batch to its end before the next one starts; nobody joins.
 *
 * thread: engine (live) or the simulation's. owns: all arrays, sequences and block tables.
 * errors: add: MED_E_INVALID can never fit, MED_E_AGAIN the table is full; caller still owns.
 * source: Orca (OSDI'22) iteration-level scheduling; Sarathi-Serve (OSDI'24) chunked prefill;
 * vLLM (SOSP'23) paged KV and preemption by recompute; docs/internals/engine.md.
 */
#ifndef MED_WORKER_ENGINE_SCHEDULER_H
#define MED_WORKER_ENGINE_SCHEDULER_H

#include "base/err.h"
#include "profiles/latency.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum med_batching {
    MED_BATCHING_CONTINUOUS, /* sequences join and leave at every iteration */
    MED_BATCHING_DYNAMIC,    /* a batch starts when full, or when its oldest has waited enough */
    MED_BATCHING_STATIC,     /* a batch starts when full, or when nobody came for long enough */
};

struct med_scheduler_config {
    int64_t block_tokens;       /* > 0 */
    int64_t kv_tokens;          /* capacity; whole blocks of it are used */
    int64_t model_len_max;      /* prompt + output of one sequence */
    int64_t sequences_max;      /* running at a time */
    int64_t batched_tokens_max; /* prefill + decode tokens of one iteration; >= sequences_max */
    int64_t table_max;          /* sequences held at all: running and waiting */
    /* Full blocks are kept after their sequence's end and shared by equal prefixes. */
    bool prefix_cache;
    uint64_t prefix_seed; /* keys the hash against prompts made to collide; changes no result */
    /* Tokens that one prefill gets before the others of the same iteration have had theirs; 0: all
     * that is left. */
    int64_t prefill_chunk_max;
    enum med_batching batching;
    int64_t batch_wait_ns; /* >= 0; dynamic and static: see enum med_batching */
};

/* What a request asks of the scheduler. */
struct med_sequence_spec {
    uint64_t id;               /* the caller's name for it; unique among those held */
    int64_t prompt_tokens;     /* >= 1 */
    int64_t output_tokens_max; /* >= 1; prompt + output <= min(model_len_max, kv capacity) */
    /* Of the output, what is known already and was delivered elsewhere; < output_tokens_max. It goes on
     * as one that was preempted after so many. */
    int64_t output_tokens;
    /* Of prompt and output_tokens, the first that the cache is taken to hold when it is first admitted,
     * whatever its blocks hold; fewer than there are.  0 but for who measures. */
    int64_t cached_tokens;
    int64_t arrival_ns; /* in plan's time; read by dynamic and static batching alone */
    /* prompt_tokens and output_tokens of them, and behind them room where each sampled token is written
     * before the commit that tells of it.  Borrowed until the sequence's end.  NULL: it neither uses nor fills
     * the prefix cache. */
    const uint32_t *tokens;
    uint64_t salt; /* only sequences of one salt share blocks */
    void *user;    /* the caller's, handed back in items and events */
};

/* One row of a batch. */
struct med_batch_item {
    uint64_t id;
    void *user;
    int64_t tokens;   /* 1 for a decode, the chunk's length for a prefill */
    int64_t context;  /* tokens already in the cache before this item */
    int64_t position; /* index of the output token that is sampled, if `samples` */
    bool prefill;
    bool samples; /* a token comes out: every decode, and the last chunk of a prefill */
    /* The token that this item computes is the one that item `previous` of the batch before it samples,
     * and is not known yet: a decode planned while that batch runs. */
    bool awaits;
    int32_t previous;
    /* Its sequence ended when the batch before was committed: `user` is NULL, what comes out is
     * thrown away. */
    bool ended;
    const int32_t *blocks; /* block table, block_count entries; valid until the next commit */
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

/* What a commit tells, in batch order.  A sequence's first token here has position output_tokens of its
 * spec: 0, unless it goes on from elsewhere. */
struct med_sequence_event {
    uint64_t id;
    void *user;
    int64_t position; /* of the token; -1 without a token (MED_END_CANCEL) */
    enum med_sequence_end end;
    int64_t cached_prompt_tokens; /* that the prefix cache had at the first admission */
};

struct med_scheduler_stats {
    int64_t running, waiting;
    int64_t
        kv_blocks_free; /* what a sequence may take: unused, or kept by the prefix cache alone */
    int64_t kv_blocks_total;
    int64_t kv_blocks_cached; /* those that a prompt can find, in use or not */
    uint64_t iterations, preemptions;
    uint64_t iterations_ahead;       /* planned while the one before ran */
    uint64_t prompt_tokens_total;    /* prefilled, recomputation included; not what was found */
    uint64_t generated_tokens_total; /* delivered */
    uint64_t finished_total;         /* stop, length and cancel */
    uint64_t prefix_queries_total;   /* tokens of the prompts looked up, at their first admission */
    uint64_t prefix_hits_total;      /* tokens of them that were found */
    uint64_t prefix_evictions_total; /* blocks that the cache gave up */
};

struct med_scheduler;

int med_scheduler_new(const struct med_scheduler_config *config,
                      struct med_scheduler **ret_scheduler, struct med_err *err) MED_MUST_CHECK;
void med_scheduler_free(struct med_scheduler *s);

int med_scheduler_add(struct med_scheduler *s, const struct med_sequence_spec *spec) MED_MUST_CHECK;
/* MED_E_NOT_FOUND when it is not (or no longer) held. The event MED_END_CANCEL comes with the next
 * commit; med_scheduler_plan + commit must be called even if the batch is empty then. */
int med_scheduler_cancel(struct med_scheduler *s, uint64_t id) MED_MUST_CHECK;
/* Something is held, or a batch is under way. */
bool med_scheduler_has_work(const struct med_scheduler *s);

/* When a plan is worth while: INT64_MIN now, INT64_MAX not before an add or a cancel, else the time at
 * which a batch starts that is not full. */
int64_t med_scheduler_next_ns(const struct med_scheduler *s);

/* Borrowed until its commit. now_ns: any clock that does not go back, the one of arrival_ns.
 * No batch is under way. */
const struct med_batch *med_scheduler_plan(struct med_scheduler *s, int64_t now_ns);
/* The batch after the one that is under way, likewise; never empty.  NULL: it must wait for that one's
 * commit, because it would be empty, or would preempt; with decodes_alone also because a prefill is due,
 * or room for one comes free. */
const struct med_batch *med_scheduler_plan_ahead(struct med_scheduler *s, int64_t now_ns,
                                                 bool decodes_alone);
/* Of the oldest batch under way. stop[i] (or stop == NULL): item i's sampled token ends its sequence.  Returns how many events
 * were written to the scheduler's own array, lent as *ret_events until the next commit. */
size_t med_scheduler_commit(struct med_scheduler *s, const bool *stop,
                            const struct med_sequence_event **ret_events);

/* Puts the free blocks in an order of chance, as they are after a while of serving.  Nothing is held. */
void med_scheduler_scatter(struct med_scheduler *s, uint64_t seed);

void med_scheduler_get_stats(const struct med_scheduler *s, struct med_scheduler_stats *ret_stats);
/* Every invariant, asserted (a block has one owner; counts add up). For tests and simulation. */
void med_scheduler_check(const struct med_scheduler *s);

#endif
