/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a request may ask of the sampler: the defaults, and the check of every range.
 *
 * The doors check what a client sent before they answer; this check is the worker's, for what came
 * over the link and for programs that have no door.  Field names are those of the public service.
 * thread: any; pure.  Does not draw: that is sampler.c.
 */
#include "worker/engine/sampling.h"

#include <inttypes.h>

struct med_sampling med_sampling_default(void)
{
    return (struct med_sampling){
        .temperature = 1, .top_p = 1, .repetition_penalty = 1, .top_logprobs = -1};
}

struct range {
    const char *field;
    float value, min, max;
    bool above; /* min itself is out */
    const char *expected;
};

static int check_ranges(const struct med_sampling *s, struct med_err *err)
{
    const struct range ranges[] = {
        {"temperature", s->temperature, 0, 2, false, "from 0 to 2"},
        {"top_p", s->top_p, 0, 1, true, "above 0 and at most 1"},
        {"min_p", s->min_p, 0, 1, false, "from 0 to 1"},
        {"repetition_penalty", s->repetition_penalty, 0, 2, true, "above 0 and at most 2"},
        {"presence_penalty", s->presence_penalty, -2, 2, false, "from -2 to 2"},
        {"frequency_penalty", s->frequency_penalty, -2, 2, false, "from -2 to 2"},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        const struct range *r = &ranges[i];
        /* Written so that NaN is refused. */
        bool inside = r->value <= r->max && (r->above ? r->value > r->min : r->value >= r->min);
        if (!inside) {
            return med_err_set(err, MED_E_INVALID, "sampling.%s: found %g, expected a number %s",
                               r->field, (double)r->value, r->expected);
        }
    }
    return 0;
}

static int check_ids(const struct med_sampling *s, int64_t vocab, struct med_err *err)
{
    if (s->bias_count > MED_LIMIT_LOGIT_BIAS) {
        return med_err_set(err, MED_E_INVALID,
                           "sampling.logit_bias: found %zu entries, expected at most %d",
                           s->bias_count, MED_LIMIT_LOGIT_BIAS);
    }
    if (s->stop_count > MED_LIMIT_STOP_TOKENS) {
        return med_err_set(err, MED_E_INVALID,
                           "sampling.stop_token_ids: found %zu ids, expected at most %d",
                           s->stop_count, MED_LIMIT_STOP_TOKENS);
    }
    for (size_t i = 0; i < s->bias_count; i++) {
        if ((int64_t)s->biases[i].id >= vocab) {
            return med_err_set(err, MED_E_INVALID,
                               "sampling.logit_bias[%zu]: found token id %" PRIu32
                               ", expected one below the vocabulary's size %" PRId64,
                               i, s->biases[i].id, vocab);
        }
        if (!(s->biases[i].bias >= -100 && s->biases[i].bias <= 100)) {
            return med_err_set(err, MED_E_INVALID,
                               "sampling.logit_bias[%zu]: found bias %g for token id %" PRIu32
                               ", expected a number from -100 to 100",
                               i, (double)s->biases[i].bias, s->biases[i].id);
        }
    }
    for (size_t i = 0; i < s->stop_count; i++) {
        if ((int64_t)s->stop_ids[i] >= vocab) {
            return med_err_set(err, MED_E_INVALID,
                               "sampling.stop_token_ids[%zu]: found token id %" PRIu32
                               ", expected one below the vocabulary's size %" PRId64,
                               i, s->stop_ids[i], vocab);
        }
    }
    return 0;
}

int med_sampling_check(const struct med_sampling *sampling, int64_t vocab, struct med_err *err)
{
    int rc = check_ranges(sampling, err);
    if (rc == 0)
        rc = check_ids(sampling, vocab, err);
    if (rc != 0)
        return rc;
    if (sampling->tokens_min < 0 || sampling->tokens_min > MED_LIMIT_OUTPUT_TOKENS) {
        return med_err_set(err, MED_E_INVALID,
                           "sampling.min_tokens: found %" PRId64 ", expected 0 to %d",
                           sampling->tokens_min, MED_LIMIT_OUTPUT_TOKENS);
    }
    if (sampling->top_logprobs < -1 || sampling->top_logprobs > MED_LIMIT_TOP_LOGPROBS) {
        return med_err_set(err, MED_E_INVALID,
                           "sampling.top_logprobs: found %" PRId32
                           ", expected 0 to %d, or -1 for none",
                           sampling->top_logprobs, MED_LIMIT_TOP_LOGPROBS);
    }
    if (sampling->emulated_output_tokens < 0 ||
        sampling->emulated_output_tokens > MED_LIMIT_OUTPUT_TOKENS) {
        return med_err_set(err, MED_E_INVALID,
                           "sampling.emulated_output_tokens: found %" PRId64 ", expected 0 to %d",
                           sampling->emulated_output_tokens, MED_LIMIT_OUTPUT_TOKENS);
    }
    return 0;
}

bool med_sampling_has_penalties(const struct med_sampling *sampling)
{
    return sampling->repetition_penalty != 1 || sampling->presence_penalty != 0 ||
           sampling->frequency_penalty != 0;
}
