/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages between router and workers that are under way on the virtual clock.
 *
 * Each has its own time of arrival; those of one time arrive in the order in which they were put, so
 * nothing depends on chance.  What is put in the order of its arrival, as all is while every link takes
 * the same time, costs O(1); the rest O(log n).
 * thread: the simulation's. owns: its arrays; zero-initialised is empty.
 */
#ifndef MED_ALLOCATOR_REPLAY_FLEET_MESSAGES_H
#define MED_ALLOCATOR_REPLAY_FLEET_MESSAGES_H

#include "base/err.h"
#include "worker/engine/scheduler.h"

#include <stddef.h>
#include <stdint.h>

enum sim_message_kind {
    SIM_GENERATE, /* to the worker */
    SIM_CANCEL,   /* to the worker */
    SIM_TOKEN,    /* to the router */
    SIM_FAILED    /* to the router: the worker could not take it */
};

struct sim_message {
    int64_t at_ns;  /* when it arrives */
    uint64_t order; /* set by put */
    uint64_t request;
    int64_t position; /* SIM_TOKEN: of the token; SIM_GENERATE: of the first to come */
    uint32_t worker;  /* index into the simulation's workers: receiver or sender */
    uint32_t attempt;
    uint32_t connection; /* set by post: what was sent over an earlier one is lost */
    enum sim_message_kind kind;
    enum med_sequence_end end; /* SIM_TOKEN: does it end the answer? */
};

struct sim_messages {
    struct sim_message *ring; /* in order of arrival; room is 0 or a power of two */
    size_t ring_first, ring_count, ring_room;
    struct sim_message *heap; /* those that arrive before one that was put earlier */
    size_t heap_count, heap_room;
    uint64_t order; /* of the next */
};

/* errors: MED_E_NOMEM; the message is not there then. */
int sim_messages_put(struct sim_messages *messages, struct sim_message message) MED_MUST_CHECK;
/* The next to arrive; NULL: none is under way. Borrowed until the next put or take. */
const struct sim_message *sim_messages_first(const struct sim_messages *messages);
/* Removes the first, which there is. */
struct sim_message sim_messages_take(struct sim_messages *messages);
void sim_messages_release(struct sim_messages *messages);

#endif
