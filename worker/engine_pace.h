/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When to plan the step behind the one that runs: as late as the device does not wait for it.
 *
 * What is planned earlier than needed shuts out whoever arrives in between, for a whole step.  How long
 * a step takes is learned from the steps before it: the shortest of the last three of its size, or of
 * the next smaller size that was seen as often, less a share for what makes steps of one size differ.  That is
 * meant as a lower bound, since a step planned too early costs a request some waiting, and one
 * planned too late costs everybody.  Not seen three times: now.
 *
 * A step that had ended before the next one was started says nothing of itself: what was measured is the
 * thread's own delay, and learning that would keep it.  Such a step was planned too late, and all that
 * was learned is forgotten, since contexts or the device are others than they were: the next three of
 * each size are planned at once and measured.  How late the thread wakes is learned apart.
 *
 * Times: ns of fleet time.  thread: engine.  Allocates nothing.
 */
#ifndef MED_WORKER_ENGINE_PACE_H
#define MED_WORKER_ENGINE_PACE_H

#include "profiles/latency.h"

#include <stdint.h>

enum {
    MED_PACE_SIZES = 256, /* eight to an octave */
    MED_PACE_LATELY = 3
};

struct med_pace_size {
    int64_t took_ns[MED_PACE_LATELY]; /* 0: not seen as often */
    uint32_t seen;
};

/* Begins as zeroes. */
struct med_engine_pace {
    struct med_pace_size decodes[MED_PACE_SIZES];  /* by sequences; decodes alone */
    struct med_pace_size prefills[MED_PACE_SIZES]; /* by all tokens; any prefill among them */
    int64_t prepare_ns; /* what planning and starting a step took at most, lately */
    int64_t late_ns;    /* how late the thread woke for it at most, lately */
};

/* A step took so long, from the end of the one before or, if the device was idle, from its start.
 * The thread waited for it: it had not ended before. */
void med_engine_pace_step(struct med_engine_pace *pace, const struct med_step_load *load,
                          int64_t took_ns);
/* A step had ended before the next one was started. */
void med_engine_pace_missed(struct med_engine_pace *pace);
/* A timed sleep ended so much after its time. */
void med_engine_pace_woke(struct med_engine_pace *pace, int64_t late_ns);
/* Planning and starting a step behind another took so long. */
void med_engine_pace_prepared(struct med_engine_pace *pace, int64_t took_ns);
/* How long after the running step's begin to plan the next one; 0: at once.
 * wake_ns: what a thread's waking is late by at least, for as long as nothing was learned of it. */
int64_t med_engine_pace_wait_ns(const struct med_engine_pace *pace,
                                const struct med_step_load *running, int64_t wake_ns);

#endif
