/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The latency model: how long one iteration of a worker takes. Pure: no I/O, no allocation, no
 * clock; shared by planner, router, emulated backend and simulation, so that what a plan predicts
 * is what the emulated fleet does.
 * thread: any (immutable after init).
 */
#ifndef MED_PROFILES_LATENCY_H
#define MED_PROFILES_LATENCY_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct med_profile;

/* What one iteration computes. Units: tokens; pairs as in struct med_step_model. */
struct med_step_load {
    int64_t prefill_tokens;
    int64_t prefill_pairs;
    int64_t decode_sequences;
    int64_t decode_context_tokens;
};

/* Pairs of one chunk of `tokens` after `context` cached tokens. */
int64_t med_step_pairs(int64_t tokens, int64_t context);

enum med_coverage {
    MED_COVERAGE_MEASURED, /* inside the range of measured or published steps */
    MED_COVERAGE_MODELLED, /* inside the engine's limits, beyond what was measured */
    MED_COVERAGE_OUTSIDE,  /* beyond the engine's limits */
};

/* A compiled model; plain values, may be copied. */
struct med_latency {
    double fixed_ms, sequence_ms, weights_ms, linear_ms_per_token, kv_ms_per_token, pair_ms;
    int64_t model_len_max, sequences_max, batched_tokens_max, block_tokens, kv_tokens;
    /* The range of measured or published steps (0: none). */
    int64_t covered_sequences, covered_context, covered_prefill_tokens;
};

/* errors: MED_E_UNCOVERED with a sentence for a profile without a step model. */
int med_latency_init(struct med_latency *latency, const struct med_profile *profile,
                     struct med_err *err) MED_MUST_CHECK;

/* Milliseconds of one iteration, > 0; an empty load takes 0. */
double med_latency_step_ms(const struct med_latency *latency, const struct med_step_load *load);

/* Is an iteration with these mean sizes inside what was measured? context: per sequence. */
enum med_coverage med_latency_coverage(const struct med_latency *latency, int64_t decode_sequences,
                                       int64_t context_tokens, int64_t prefill_tokens);

#endif
