/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Iterations of a backend one after another, as the engine runs them, without a scheduler.
 *
 * A backend with start and finish is given the next iteration while one runs, and decodes await the
 * token of the one before; the time is that between their ends.  A backend without is timed step by
 * step.  Contexts grow by a token with each iteration, around the mean that was asked for.  The blocks
 * of a sequence lie scattered over the cache, as they do after a while of serving.
 *
 * thread: main. owns: its arrays; borrows the backend.
 */
#ifndef MED_WORKER_BENCH_STEPS_H
#define MED_WORKER_BENCH_STEPS_H

#include "worker/backend.h"

struct med_bench_steps_config {
    struct med_backend backend;
    int64_t block_tokens, blocks;
    int64_t sequences_max, batched_tokens_max, model_len_max, vocab;
    uint64_t seed; /* of token ids and the order of blocks */
};

/* `decodes` sequences of `context` tokens each on average, and a prefill of `prefill` (0: none). */
struct med_bench_iteration {
    int64_t decodes, context, prefill;
};

struct med_bench_steps;

int med_bench_steps_new(const struct med_bench_steps_config *config,
                        struct med_bench_steps **ret_steps, struct med_err *err) MED_MUST_CHECK;
void med_bench_steps_free(struct med_bench_steps *steps);

/* Blocks that `count` such iterations need. */
int64_t med_bench_steps_blocks(int64_t block_tokens, const struct med_bench_iteration *iteration,
                               int64_t count);
/* The context of each decode in iteration `step` of `count` (one more with a backend that queues). */
int64_t med_bench_steps_context(const struct med_bench_iteration *iteration, int64_t count,
                                int64_t step);

/* Fills every block of the cache with keys and values of random prompts. */
int med_bench_steps_fill(struct med_bench_steps *steps, struct med_err *err) MED_MUST_CHECK;

/* `count` iterations, timed; ret_seconds: of one, on average. */
int med_bench_steps_run(struct med_bench_steps *steps, const struct med_bench_iteration *iteration,
                        int64_t count, double *ret_seconds, struct med_err *err) MED_MUST_CHECK;

#endif
