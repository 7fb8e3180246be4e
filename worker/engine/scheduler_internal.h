/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the scheduler share: sequences in slots, the lists they are on, and the batches
 * under way.
 *
 * scheduler.c has life, requests and commits; scheduler_plan.c makes batches; scheduler_check.c asserts.
 *
 * thread: the scheduler's. owns: see struct med_scheduler.
 */
#ifndef MED_WORKER_ENGINE_SCHEDULER_INTERNAL_H
#define MED_WORKER_ENGINE_SCHEDULER_INTERNAL_H

#include "base/assert.h"
#include "worker/engine/id_index.h"
#include "worker/engine/kv_blocks.h"
#include "worker/engine/scheduler.h"

enum {
    MED_SLOT_NONE = -1,
    MED_FLIGHTS = 2 /* batches under way: one that runs, and one behind it */
};

enum med_place {
    MED_PLACE_FREE,
    MED_PLACE_WAITING,
    MED_PLACE_RUNNING,
    MED_PLACE_CANCELLED
};

struct med_sequence {
    uint64_t id;
    void *user;
    int64_t prompt_tokens, output_tokens_max, arrival_ns;
    int64_t generated;         /* tokens delivered, and those taken for granted */
    int64_t cached;            /* known tokens whose keys and values are in the cache, likewise */
    int64_t given;             /* that it is taken to find cached at its first admission */
    int64_t lane;              /* of the block tables; NONE when it holds no blocks */
    int32_t next, prev;        /* on the list of its place; free slots use next alone */
    int32_t item[MED_FLIGHTS]; /* which of that batch's items is its own; NONE: none */
    enum med_place place;
    bool prefilling; /* running: not sampled since its admission */
    bool member;     /* dynamic and static: of the batch that runs */
};

/* What the prefix cache needs of a sequence besides; kept apart, for the planner's many schedulers. */
struct med_sequence_prefix {
    const uint32_t *tokens; /* NULL: neither uses nor fills the cache */
    uint64_t salt;
    struct med_kv_match match;    /* how far the cache knew it when it was last looked up */
    int64_t cached_prompt_tokens; /* found at the first admission */
    bool admitted;                /* once before */
};

struct med_sequence_list {
    int32_t head, tail;
    int64_t count;
};

/* A batch that is planned and not committed. */
struct med_flight {
    struct med_batch_item *items; // [lanes]
    int32_t *slots;               // [lanes]; NONE: its sequence ended with the batch before
    struct med_batch batch;
    bool assumed; /* its sequences stand where they will when it is committed, if none stops */
};

/* thread: the scheduler's */
struct med_scheduler {
    struct med_scheduler_config config;
    int64_t lanes;
    struct med_sequence *slots;           // [table_max]
    struct med_sequence_prefix *prefixes; // [table_max], or NULL without the cache
    int32_t slot_free;                    /* head of the free slots */
    int64_t held;
    struct med_id_index index;
    struct med_kv_blocks kv;
    int64_t *lane_free; // [lanes], a stack
    int64_t lane_free_count;
    struct med_sequence_list waiting, running, cancelled;
    int64_t members_waiting; /* they are the first of the waiting */
    int64_t arrival_last_ns;

    struct med_flight flights[MED_FLIGHTS];
    int oldest, under_way;             /* flights[oldest], and the other one if there are two */
    struct med_sequence_event *events; // [table_max]

    uint64_t iterations, ahead, preemptions, prompt_tokens, generated_tokens, finished;
    uint64_t prefix_queries, prefix_hits; /* tokens */
};

/* ---- lists and lanes ------------------------------------------------------------------------ */

void med_scheduler_leave(struct med_scheduler *s, int32_t slot);
void med_scheduler_join_tail(struct med_scheduler *s, int32_t slot, enum med_place place);
void med_scheduler_join_head(struct med_scheduler *s, int32_t slot, enum med_place place);
/* Gives blocks and lane back, if it has them. */
void med_scheduler_drop_lane(struct med_scheduler *s, struct med_sequence *q);
/* Moves its sequences to where they stand after the batch, if none stops. Once a batch. */
void med_scheduler_assume(struct med_scheduler *s, struct med_flight *flight);

/* ---- sizes ---------------------------------------------------------------------------------- */

static inline int64_t med_sequence_known(const struct med_sequence *q)
{
    return q->prompt_tokens + q->generated;
}

/* The token of a batch under way is its last. */
static inline bool med_sequence_is_ending(const struct med_sequence *q)
{
    return q->generated == q->output_tokens_max;
}

static inline int64_t med_scheduler_blocks_for(const struct med_scheduler *s, int64_t tokens)
{
    return (tokens + s->config.block_tokens - 1) / s->config.block_tokens;
}

/* What the prefix cache needs of the sequence; NULL if that does not use it. */
static inline struct med_sequence_prefix *med_scheduler_prefix(const struct med_scheduler *s,
                                                               int32_t slot)
{
    return s->prefixes && s->prefixes[slot].tokens ? &s->prefixes[slot] : NULL;
}

/* The batch that was planned last. One is under way. */
static inline struct med_flight *med_scheduler_newest(struct med_scheduler *s)
{
    return &s->flights[(s->oldest + s->under_way - 1) % MED_FLIGHTS];
}

#endif
