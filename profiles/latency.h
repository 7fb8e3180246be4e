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

enum {
    MED_LATENCY_ROWS = 128, /* of a table; more are thinned out */
    MED_LATENCY_KNOTS = 1280,
    MED_LATENCY_CORNERS = 32
};

/*
 * Measured iterations, time linear in between. Rows: decode sequences or prefill tokens; columns:
 * context per sequence, or cached tokens before the chunk. Each row has its own knots, from column 0
 * to the longest of all rows. Times never fall along either axis.
 */
struct med_latency_table {
    int64_t row_count; /* 0: nothing measured */
    double rows[MED_LATENCY_ROWS];
    int64_t begin[MED_LATENCY_ROWS + 1]; /* knots of row i: begin[i] up to begin[i + 1] */
    double columns[MED_LATENCY_KNOTS];
    double ms[MED_LATENCY_KNOTS];
    double column_max;
    double row_near; /* a lowest row of at most this covers what is below it */
    /* Shortest and longest measured column of each row; to < 0: row not measured. */
    double from[MED_LATENCY_ROWS], to[MED_LATENCY_ROWS];
};

/* Where a worker type without measured rows was published: some row has at least both. */
struct med_latency_corner {
    int64_t sequences, context;
};

/* A compiled model; plain values of some 100 KB, may be copied. The first line is the form, which
 * holds where nothing was measured; it is all there is while the tables are empty. */
struct med_latency {
    double fixed_ms, sequence_ms, weights_ms, linear_ms_per_token, kv_ms_per_token, pair_ms, corner;
    int64_t model_len_max, sequences_max, batched_tokens_max, block_tokens, kv_tokens;
    /* The range of measured or published steps (0: none). */
    int64_t covered_sequences, covered_context, covered_prefill_tokens;
    struct med_latency_corner
        covered[MED_LATENCY_CORNERS]; /* published rows that no other exceeds */
    int64_t covered_count;
    struct med_latency_table decode, prefill;
    /* Where steps with both were measured: what all their tokens take, and what the decodes' contexts
     * add to that. Rows: tokens of both kinds; sequences. */
    struct med_latency_table mixed, attention;
    int64_t mixed_prefill_tokens, mixed_sequences; /* the range of measured mixed steps */
};

/* errors: MED_E_UNCOVERED with a sentence for a profile without a step model. */
int med_latency_init(struct med_latency *latency, const struct med_profile *profile,
                     struct med_err *err) MED_MUST_CHECK;

/* Milliseconds of one iteration, > 0; an empty load takes 0. Falls with nothing that grows: sequences
 * of the same length, their context, prompt tokens behind the same context, pairs. */
double med_latency_step_ms(const struct med_latency *latency, const struct med_step_load *load);

/* Iterations of the same sequences alone, each a token longer than before: the k-th from this load
 * on (k = 0, 1, ...) takes first_ms + k * growth_ms, for k < count; count >= 1. */
struct med_latency_run {
    double first_ms, growth_ms;
    int64_t count;
};
struct med_latency_run med_latency_decode_run(const struct med_latency *latency,
                                              int64_t decode_sequences,
                                              int64_t decode_context_tokens);

/* Is an iteration with these mean sizes inside what was measured? context: per sequence. */
enum med_coverage med_latency_coverage(const struct med_latency *latency, int64_t decode_sequences,
                                       int64_t context_tokens, int64_t prefill_tokens);

#endif
