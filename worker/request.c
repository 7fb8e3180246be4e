/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request of a router becomes a request of the engine (see requests.h).
 *
 * What came over the link is checked here whatever the router has checked, and what is silent takes
 * the model's defaults.  A request that is wrong is answered and disturbs nobody, so nothing here
 * ends a connection.  Its memory is one block: the struct, and behind it the arrays, so that it is
 * counted exactly, and freed at one place.
 *
 * thread: loop.  Does not submit anything.
 */
#include "worker/requests.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- checks before anything is allocated ------------------------------------------------------ */

static int check_ids(const char *field, const uint32_t *ids, size_t count,
                     const struct med_request_rules *rules, struct med_err *err)
{
    for (size_t i = 0; i < count; i++) {
        if (ids[i] >= rules->vocab_tokens) {
            return med_err_set(err, MED_E_INVALID,
                               "%s[%zu]: is %" PRIu32 ", expected 0 to %" PRId64
                               ", the model's vocabulary",
                               field, i, ids[i], rules->vocab_tokens - 1);
        }
    }
    return 0;
}

static int check_tokens(const struct med_uplink_generate *g, const struct med_request_rules *rules,
                        struct med_err *err)
{
    if (g->prompt_count < 1)
        return med_err_set(err, MED_E_INVALID, "prompt: has no tokens, expected at least 1");
    if (g->tokens_max < 1)
        return med_err_set(err, MED_E_INVALID, "max_tokens: is 0, expected at least 1");
    if (g->prompt_count > (size_t)rules->tokens_max ||
        g->tokens_max > rules->tokens_max - (int64_t)g->prompt_count) {
        return med_err_set(err, MED_E_INVALID,
                           "prompt of %zu tokens and max_tokens of %" PRIu32
                           " exceed this worker's %" PRId64 " tokens",
                           g->prompt_count, g->tokens_max, rules->tokens_max);
    }
    if (g->tokens_min > g->tokens_max) {
        return med_err_set(err, MED_E_INVALID,
                           "min_tokens: is %" PRIu32 ", expected at most max_tokens (%" PRIu32 ")",
                           g->tokens_min, g->tokens_max);
    }
    if (g->output_count >= g->tokens_max) {
        return med_err_set(err, MED_E_INVALID,
                           "output: has %zu tokens, expected fewer than max_tokens (%" PRIu32 ")",
                           g->output_count, g->tokens_max);
    }
    int rc = check_ids("prompt", g->prompt, g->prompt_count, rules, err);
    return rc < 0 ? rc : check_ids("output", g->output, g->output_count, rules, err);
}

/* That the arrays agree and have a size worth an allocation; med_sampling_check does the rest. */
static int check_arrays(const struct med_uplink_generate *g, struct med_err *err)
{
    if (g->bias_id_count != g->bias_count) {
        return med_err_set(err, MED_E_INVALID,
                           "logit_bias: has %zu ids and %zu biases, expected as many",
                           g->bias_id_count, g->bias_count);
    }
    if (g->bias_count > MED_LIMIT_LOGIT_BIAS) {
        return med_err_set(err, MED_E_INVALID, "logit_bias: has %zu entries, expected at most %d",
                           g->bias_count, MED_LIMIT_LOGIT_BIAS);
    }
    if (g->stop_count > MED_LIMIT_STOP_TOKENS) {
        return med_err_set(err, MED_E_INVALID, "stop_token_ids: has %zu ids, expected at most %d",
                           g->stop_count, MED_LIMIT_STOP_TOKENS);
    }
    if (g->has_logprobs && g->logprobs > MED_LIMIT_TOP_LOGPROBS) {
        return med_err_set(err, MED_E_INVALID, "logprobs: is %" PRIu32 ", expected 0 to %d",
                           g->logprobs, MED_LIMIT_TOP_LOGPROBS);
    }
    return 0;
}

/* ---- memory ----------------------------------------------------------------------------------- */

size_t med_request_bytes(int64_t prompt_tokens, int64_t output_tokens, int32_t top, size_t biases,
                         size_t stops)
{
    size_t output = (size_t)output_tokens;
    size_t words = (size_t)prompt_tokens + output + stops;
    if (top >= 0)
        words += output * (2 + 2 * (size_t)top);
    return sizeof(struct med_request) + biases * sizeof(struct med_logit_bias) +
           words * sizeof(uint32_t);
}

/* Cuts `bytes` off the block. */
static void *cut(char **at, size_t bytes)
{
    void *p = *at;
    *at += bytes;
    return p;
}

/* Alternatives per token: no more than there are tokens. -1: no logprobs at all. */
static int32_t top_of(const struct med_uplink_generate *g, const struct med_request_rules *rules)
{
    if (!g->has_logprobs || !rules->logprobs)
        return -1;
    return g->logprobs < rules->vocab_tokens ? (int32_t)g->logprobs : (int32_t)rules->vocab_tokens;
}

/* Lays the arrays out behind the struct; those of 4-byte elements all. */
static void lay_out(struct med_request *r, const struct med_uplink_generate *g, int32_t top)
{
    char *at = (char *)(r + 1);
    struct med_sampling *sampling = &r->engine.sequence.sampling;
    struct med_engine_logprobs *logprobs = &r->engine.logprobs;
    size_t output = g->tokens_max, word = sizeof(uint32_t);
    struct med_logit_bias *biases = cut(&at, g->bias_count * sizeof *biases);
    uint32_t *stops = cut(&at, g->stop_count * word);
    r->engine.tokens = cut(&at, (g->prompt_count + output) * word);
    if (top >= 0) {
        size_t places = output * (size_t)top;
        logprobs->top = top;
        logprobs->logprobs = cut(&at, output * sizeof(float));
        logprobs->ranks = cut(&at, output * word);
        logprobs->top_ids = cut(&at, places * word);
        logprobs->top_logprobs = cut(&at, places * sizeof(float));
    }
    MED_ASSERT(at == (char *)r + r->bytes);
    for (size_t i = 0; i < g->bias_count; i++)
        biases[i] = (struct med_logit_bias){.id = g->bias_ids[i], .bias = g->biases[i]};
    if (g->stop_count > 0)
        memcpy(stops, g->stop_ids, g->stop_count * word);
    memcpy(r->engine.tokens, g->prompt, g->prompt_count * word);
    if (g->output_count > 0)
        memcpy(r->engine.tokens + g->prompt_count, g->output, g->output_count * word);
    sampling->biases = biases;
    sampling->bias_count = g->bias_count;
    sampling->stop_ids = stops;
    sampling->stop_count = g->stop_count;
    sampling->top_logprobs = top;
}

/* ---- sampling --------------------------------------------------------------------------------- */

static struct med_sampling sampling_of(const struct med_uplink_generate *g,
                                       const struct med_sampling *defaults)
{
    struct med_sampling s = *defaults;
    if (g->has_temperature)
        s.temperature = g->temperature;
    if (g->has_top_p)
        s.top_p = g->top_p;
    if (g->has_top_k)
        s.top_k = g->top_k;
    if (g->has_min_p)
        s.min_p = g->min_p;
    if (g->has_repetition_penalty)
        s.repetition_penalty = g->repetition_penalty;
    if (g->has_seed)
        s.seed = g->seed;
    s.presence_penalty = g->presence_penalty;
    s.frequency_penalty = g->frequency_penalty;
    s.tokens_min = g->tokens_min;
    s.ignore_eos = g->ignore_eos;
    s.emulated_output_tokens = g->emulated_output_tokens;
    return s;
}

/* ---- what others began --------------------------------------------------------------------------- */

static bool is_among(const uint32_t *ids, size_t count, uint32_t id)
{
    for (size_t i = 0; i < count; i++) {
        if (ids[i] == id)
            return true;
    }
    return false;
}

/* Is the last token one that the backend would have stopped at? As sampler.c and emulated.c do. */
static bool has_stopped(const struct med_uplink_generate *g, const struct med_request_rules *rules)
{
    if (rules->emulated)
        return g->emulated_output_tokens > 0 && g->output_count >= g->emulated_output_tokens;
    if (g->output_count - 1 < g->tokens_min)
        return false;
    uint32_t last = g->output[g->output_count - 1];
    return is_among(g->stop_ids, g->stop_count, last) ||
           (!g->ignore_eos && is_among(rules->eos_ids, rules->eos_count, last));
}

int med_request_ending(const struct med_uplink_generate *g, const struct med_request_rules *rules)
{
    if (g->output_count == 0)
        return 0;
    if (has_stopped(g, rules))
        return MED_UPLINK_STOP;
    return g->output_count == g->tokens_max ? MED_UPLINK_LENGTH : 0;
}

/* ---- making one ------------------------------------------------------------------------------- */

int med_request_new(const struct med_uplink_generate *g, const struct med_request_rules *rules,
                    size_t bytes_left, struct med_request **ret_request, struct med_err *err)
{
    int rc = check_tokens(g, rules, err);
    if (rc >= 0)
        rc = check_arrays(g, err);
    if (rc < 0)
        return rc;
    int32_t top = top_of(g, rules);
    size_t bytes = med_request_bytes((int64_t)g->prompt_count, g->tokens_max, top, g->bias_count,
                                     g->stop_count);
    if (bytes > bytes_left)
        return med_err_set(err, MED_E_AGAIN, "%s", med_err_text(MED_E_AGAIN));
    struct med_request *r = med_calloc(1, bytes);
    if (!r)
        return med_err_set(err, MED_E_NOMEM, "%s", med_err_text(MED_E_NOMEM));
    r->bytes = bytes;
    r->engine.sequence.sampling = sampling_of(g, &rules->sampling);
    lay_out(r, g, top);
    rc = med_sampling_check(&r->engine.sequence.sampling, rules->vocab_tokens, err);
    if (rc < 0) {
        med_request_free(r);
        return rc;
    }
    r->request = g->request;
    r->attempt = g->attempt;
    r->engine.sequence.prompt_tokens = (int64_t)g->prompt_count;
    r->engine.output_tokens_max = g->tokens_max;
    r->engine.output_tokens = r->sent = (int64_t)g->output_count;
    (void)snprintf(r->request_id, sizeof r->request_id, "%s", g->request_id);
    *ret_request = r;
    return 0;
}

void med_request_free(struct med_request *request)
{
    med_free(request);
}
