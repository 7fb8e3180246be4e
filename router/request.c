/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request, see request.h: its memory, and the checks on what the client asked for.
 * Runs on the loop. It knows neither doors nor links.
 */
#include "router/request.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum {
    OUTPUT_CAPACITY_MIN = 64
};

struct med_req *med_req_new(void)
{
    return med_calloc(1, sizeof(struct med_req));
}

void med_req_free(struct med_req *req)
{
    if (req == NULL)
        return;
    MED_ASSERT(req->id == 0); // the router does not hold it any more
    med_free(req->model);
    med_free(req->prompt);
    med_free(req->output);
    med_free(req);
}

static int check_request_id(const struct med_req *req, struct med_err *err)
{
    for (size_t i = 0; req->request_id[i] != '\0'; i++) {
        unsigned char c = (unsigned char)req->request_id[i];
        if (c < 0x21 || c > 0x7e) {
            return med_err_set(err, MED_E_INVALID,
                               "request_id: found byte 0x%02x at position %zu, expected printable "
                               "ASCII without spaces",
                               c, i);
        }
    }
    return 0;
}

static int check_sampling(const struct med_req_sampling *s, struct med_err *err)
{
    if (s->has_temperature && !(s->temperature >= 0 && s->temperature <= 2)) {
        return med_err_set(err, MED_E_INVALID,
                           "sampling.temperature: found %g, expected a number from 0 to 2",
                           (double)s->temperature);
    }
    if (s->has_top_p && !(s->top_p > 0 && s->top_p <= 1)) {
        return med_err_set(err, MED_E_INVALID,
                           "sampling.top_p: found %g, expected a number above 0 and at most 1",
                           (double)s->top_p);
    }
    if (s->has_top_k && s->top_k > INT32_MAX) {
        return med_err_set(err, MED_E_INVALID,
                           "sampling.top_k: found %u, expected 0 (off) to 2147483647", s->top_k);
    }
    return 0;
}

int med_req_check(struct med_req *req, int64_t vocab_tokens, struct med_err *err)
{
    MED_ASSERT(vocab_tokens > 0 && vocab_tokens <= (int64_t)INT32_MAX + 1);
    if (req->prompt_count == 0) {
        return med_err_set(err, MED_E_INVALID, "tokens.ids: found none, expected 1 to %d token ids",
                           MED_LIMIT_PROMPT_TOKENS);
    }
    if (req->prompt_count > MED_LIMIT_PROMPT_TOKENS) {
        return med_err_set(err, MED_E_INVALID, "tokens.ids: found %zu, expected 1 to %d token ids",
                           req->prompt_count, MED_LIMIT_PROMPT_TOKENS);
    }
    for (size_t i = 0; i < req->prompt_count; i++) {
        if (req->prompt[i] >= vocab_tokens) {
            return med_err_set(err, MED_E_INVALID,
                               "tokens.ids[%zu]: found %" PRIu32 ", expected 0 to %" PRId64
                               ", the model's vocabulary",
                               i, req->prompt[i], vocab_tokens - 1);
        }
    }
    if (req->tokens_max == 0)
        req->tokens_max = MED_REQ_TOKENS_MAX_DEFAULT;
    if (req->tokens_max > MED_LIMIT_OUTPUT_TOKENS) {
        return med_err_set(err, MED_E_INVALID, "max_tokens: found %u, expected 1 to %d (0: %d)",
                           req->tokens_max, MED_LIMIT_OUTPUT_TOKENS, MED_REQ_TOKENS_MAX_DEFAULT);
    }
    if (req->emulated_output_tokens > MED_LIMIT_OUTPUT_TOKENS) {
        return med_err_set(err, MED_E_INVALID,
                           "emulated_output_tokens: found %u, expected 0 (none) to %d",
                           req->emulated_output_tokens, MED_LIMIT_OUTPUT_TOKENS);
    }
    int rc = check_request_id(req, err);
    return rc < 0 ? rc : check_sampling(&req->sampling, err);
}

int med_req_append_output(struct med_req *req, const uint32_t *ids, size_t count)
{
    if (count > req->output_capacity - req->output_count) {
        size_t capacity = req->output_capacity * 2;
        if (capacity < OUTPUT_CAPACITY_MIN)
            capacity = OUTPUT_CAPACITY_MIN;
        if (capacity < req->output_count + count)
            capacity = req->output_count + count;
        uint32_t *grown = med_realloc_array(req->output, capacity, sizeof(*grown));
        if (grown == NULL)
            return MED_E_NOMEM;
        req->output = grown;
        req->output_capacity = capacity;
    }
    memcpy(req->output + req->output_count, ids, count * sizeof(*ids));
    req->output_count += count;
    return 0;
}
