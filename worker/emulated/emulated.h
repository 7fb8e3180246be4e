/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The emulated backend: takes the time that a profile says, on the real scheduler.
 *
 * A step begins, on the emulated device, when the step before it ended or when its work became
 * available, whichever is later, and ends after the latency model's time, to which seeded noise and
 * bias of the emulator's own may be added (or the test of a prediction could never fail).  The thread
 * sleeps until that absolute time, so scheduling jitter and our own overhead do not add up.
 * Tokens are a function of (seed, place in the sequence).
 *
 * thread: engine; med_emulated_lateness_ns: any.
 */
#ifndef MED_WORKER_EMULATED_EMULATED_H
#define MED_WORKER_EMULATED_EMULATED_H

#include "base/clock.h"
#include "worker/backend.h"

#include "profiles/latency.h"

struct med_emulated_config {
    struct med_latency latency;
    const struct med_clock *clock; /* borrowed; outlives the backend */
    int64_t vocab_tokens;          /* > 0; ids are below it */
    double noise_sigma; /* of the logarithm of a step's time; 0: none. The mean stays the model's */
    double bias;        /* factor on every step's time; 1: none */
    uint64_t seed;
    /* For tests of what stands around an engine: the step after so many fails as a GPU does, or does
     * not come back; 0: never. */
    int64_t fail_after, hang_after;
};

/* errors: MED_E_NOMEM, MED_E_INVALID. */
int med_emulated_new(const struct med_emulated_config *config, struct med_backend *ret_backend,
                     struct med_err *err) MED_MUST_CHECK;

/* How late, in fleet time, the last step was told of: what this machine is too slow for. */
int64_t med_emulated_lateness_ns(const struct med_backend *backend);

/* The token at `place` (0 is the first of the prompt) of a sequence with this seed. */
uint32_t med_emulated_token(uint64_t seed, int64_t place, int64_t vocab_tokens);

#endif
