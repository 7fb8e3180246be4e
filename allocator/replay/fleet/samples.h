/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a simulated fleet does over time: gathered as the clock moves, in equal spans.
 *
 * There are at most as many spans as were asked for; when the run goes on, neighbours become one and the
 * span doubles, so memory does not grow with time.  Taking samples changes nothing of the run.
 * thread: the simulation's.
 */
#ifndef MED_ALLOCATOR_REPLAY_FLEET_SAMPLES_H
#define MED_ALLOCATOR_REPLAY_FLEET_SAMPLES_H

#include "allocator/replay/fleet/simulate.h"

struct sim;

/* The span that is being gathered, and where the last one ended. */
struct sim_sampler {
    struct med_sim_samples samples;
    size_t most; /* spans; 0: nothing is gathered */
    double queued_ns, in_flight_ns;
    int64_t queued_most;
    uint64_t *tokens; // [type] that came since the span began
    int64_t *busy_ns; // [type] until the span began
};

/* most: even, or 0. The span is a round part of the time that the arrivals take. errors: MED_E_NOMEM. */
int sim_sampler_init(struct sim_sampler *s, size_t most, size_t type_count,
                     const struct med_sim_arrival *arrivals, size_t count) MED_MUST_CHECK;
void sim_sampler_release(struct sim_sampler *s);
/* Nothing changes until to_ns: before the clock is moved there. */
void sim_sampler_advance(struct sim *sim, int64_t to_ns);
/* A token came from a worker of this type. */
void sim_sampler_token(struct sim_sampler *s, size_t type);
/* The run is over: the last span ends where it would have. */
void sim_sampler_finish(struct sim *sim);

#endif
