/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a sequence's tokens are drawn, and drawing one.
 *
 * The order, on one row of float32 logits (source: vLLM's sampler, whose order users know):
 *     1. logprobs asked for are log-softmax of the logits as the model gave them;
 *     2. logit_bias is added; end-of-sequence and stop ids are masked while fewer than tokens_min
 *        tokens were generated (end-of-sequence ids also with ignore_eos false only);
 *     3. repetition penalty r on every id in prompt or output: l > 0 ? l / r : l * r (CTRL,
 *        arXiv 1909.05858); then l -= frequency * count + presence * (count > 0), counts of the
 *        output alone (OpenAI's definition);
 *     4. temperature 0: the largest, the smaller id on a tie. Else l / temperature, then
 *        min_p:  ids with p < min_p * p_largest go;
 *        top_k:  all but the k largest go (ties at the border stay);
 *        top_p:  the smallest set of largest p whose sum reaches top_p stays;
 *     5. one draw from what is left.
 * The draw is keyed by (seed, place in the sequence): nothing of it depends on the batch, and a worker
 * that is given prompt and output so far goes on alike.
 *
 * thread: any; one struct med_sampler per thread. Pure: no I/O, nothing is allocated after new.
 */
#ifndef MED_WORKER_ENGINE_SAMPLING_H
#define MED_WORKER_ENGINE_SAMPLING_H

#include "base/err.h"
#include "base/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct med_logit_bias {
    uint32_t id;
    float bias; /* [-100, 100] */
};

struct med_sampling {
    float temperature;                   /* [0, 2]; 0: greedy */
    float top_p;                         /* (0, 1]; 1: off */
    float min_p;                         /* [0, 1]; 0: off */
    uint32_t top_k;                      /* 0: off */
    float repetition_penalty;            /* (0, 2]; 1: off */
    float presence_penalty;              /* [-2, 2]; 0: off */
    float frequency_penalty;             /* [-2, 2]; 0: off */
    const struct med_logit_bias *biases; /* owned by whoever owns the request, as stop_ids */
    size_t bias_count;                   /* <= MED_LIMIT_LOGIT_BIAS */
    const uint32_t *stop_ids;            /* end the sequence, whatever ignore_eos says */
    size_t stop_count;                   /* <= MED_LIMIT_STOP_TOKENS */
    int64_t tokens_min;                  /* generated before the sequence may end by a token */
    int32_t top_logprobs; /* -1: no logprobs; 0: of the drawn token; n: and of the n likeliest */
    uint64_t seed;
    bool ignore_eos;
    int64_t emulated_output_tokens; /* for the emulated backend: stop after so many; 0: none */
};

/* What is right for a request that says nothing, whatever the model. */
struct med_sampling med_sampling_default(void);

/* Checks every range and finiteness; the sentence names field, value and what was expected. */
int med_sampling_check(const struct med_sampling *sampling, int64_t vocab,
                       struct med_err *err) MED_MUST_CHECK;

/* Whether a draw depends on the tokens before it, otherwise than by the logits. */
bool med_sampling_has_penalties(const struct med_sampling *sampling);

/* Of one generated token; natural logarithms. */
struct med_token_logprobs {
    float logprob;
    uint32_t rank; /* 1: the likeliest */
    uint32_t top_count;
    uint32_t top_ids[MED_LIMIT_TOP_LOGPROBS];
    float top_logprobs[MED_LIMIT_TOP_LOGPROBS];
};

struct med_draw_input {
    float *logits; // [vocab], changed
    int64_t vocab;
    const struct med_sampling *sampling;
    const uint32_t *tokens; // [count]: prompt and output so far
    int64_t prompt_tokens, count;
    const uint32_t *eos_ids;
    size_t eos_count;
};

struct med_draw {
    int status; /* of an op that draws many: what med_sampler_draw returned for this one */
    uint32_t id;
    bool stop;                          /* an end-of-sequence or stop id, not ignored */
    struct med_token_logprobs logprobs; /* if sampling->top_logprobs >= 0 */
};

/* What a draw is made of, for who draws elsewhere than here.  64 random bits of (seed, place), the low
 * 11 of them 0; the likeliest id's weight is 2^bits, as many ids of it as the vocabulary has fit 64
 * bits. */
uint64_t med_sampling_random(uint64_t seed, uint64_t place);
int med_sampling_weight_bits(int64_t vocab);

struct med_sampler; /* scratch of one thread */

int med_sampler_new(int64_t vocab, struct med_sampler **ret_sampler) MED_MUST_CHECK;
void med_sampler_free(struct med_sampler *sampler);
/* errors: MED_E_INTERNAL no logit is finite (a broken model or cache). */
int med_sampler_draw(struct med_sampler *sampler, const struct med_draw_input *input,
                     struct med_draw *ret_draw) MED_MUST_CHECK;

#endif
