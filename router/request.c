/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Queries and their choices, see request.h: memory, and what is added to them.  The checks of their
 * values are in request_check.c.  Runs on the loop. It knows neither doors nor links.
 */
#include "router/request.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"

#include <string.h>

enum {
    OUTPUT_CAPACITY_MIN = 64
};

struct med_query *med_query_new(void)
{
    static const struct med_clock real = {.scale = 1};
    struct med_query *query = med_calloc(1, sizeof(*query));
    if (query != NULL)
        query->received_ns = med_clock_now_ns(&real);
    return query;
}

static void free_strings(char **strings, size_t count)
{
    for (size_t i = 0; strings != NULL && i < count; i++)
        med_free(strings[i]);
    med_free(strings);
}

/* The strings of a message are ours, whatever its type says of their constness. */
static void free_owned(const char *s)
{
    union {
        const char *from;
        char *to;
    } both = {.from = s};
    med_free(both.to);
}

void med_input_release(struct med_input *input)
{
    med_free(input->text);
    for (size_t i = 0; input->messages != NULL && i < input->message_count; i++) {
        free_owned(input->messages[i].role);
        free_owned(input->messages[i].content);
    }
    med_free(input->messages);
    *input = (struct med_input){.kind = input->kind};
}

size_t med_input_bytes(const struct med_input *input)
{
    size_t bytes = input->text_bytes;
    for (size_t i = 0; i < input->message_count; i++)
        bytes += input->messages[i].content_bytes;
    return bytes;
}

const char *med_input_kind_field(enum med_input_kind kind)
{
    return kind == MED_INPUT_TEXT ? "text" : kind == MED_INPUT_CHAT ? "chat" : "tokens.ids";
}

void med_query_free(struct med_query *query)
{
    if (query == NULL)
        return;
    MED_ASSERT(!query->taken); // the router does not hold it any more
    if (query->on_free != NULL)
        query->on_free(query);
    MED_ASSERT(query->encoding == NULL);
    MED_ASSERT(!query->doomed);
    for (uint32_t i = 0; query->choices != NULL && i < query->choice_count; i++) {
        MED_ASSERT(query->choices[i].id == 0);
        med_free(query->choices[i].output);
        med_free(query->choices[i].logprobs);
        med_answer_release(&query->choices[i].answer);
    }
    med_free(query->choices);
    med_free(query->model);
    med_free(query->user);
    med_free(query->prompt);
    med_input_release(&query->input);
    med_free(query->sampling.bias_ids);
    med_free(query->sampling.biases);
    free_strings(query->sampling.stops, query->sampling.stop_count);
    med_free(query->sampling.stop_ids);
    med_free(query);
}

void med_query_cut_prompt(struct med_query *query)
{
    size_t keep = query->prompt_keep;
    if (keep == 0 || query->prompt_count <= keep)
        return;
    memmove(query->prompt, query->prompt + query->prompt_count - keep,
            keep * sizeof(*query->prompt));
    query->prompt_count = keep;
}

/* source: the finalizer of splitmix64 (Steele, Lea and Flood 2014). */
uint64_t med_query_choice_seed(uint64_t seed, uint32_t index)
{
    if (index == 0)
        return seed;
    uint64_t x = seed + index * UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

int med_query_make_choices(struct med_query *query, uint64_t drawn_seed)
{
    MED_ASSERT(query->choices == NULL);
    MED_ASSERT(query->choice_count >= 1);
    query->choices = med_calloc(query->choice_count, sizeof(*query->choices));
    if (query->choices == NULL)
        return MED_E_NOMEM;
    uint64_t seed = query->sampling.has_seed ? query->sampling.seed : drawn_seed;
    for (uint32_t i = 0; i < query->choice_count; i++) {
        query->choices[i].query = query;
        query->choices[i].index = i;
        query->choices[i].seed = med_query_choice_seed(seed, i);
    }
    return 0;
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

size_t med_req_logprob_rows(const struct med_req *req)
{
    const struct med_req_sampling *s = &req->query->sampling;
    return s->has_logprobs ? 1 + (size_t)s->logprobs : 0;
}

struct med_req_logprob *med_req_add_logprobs(struct med_req *req, size_t token)
{
    size_t rows = med_req_logprob_rows(req);
    if (token >= req->logprob_capacity) {
        size_t capacity = token < OUTPUT_CAPACITY_MIN ? OUTPUT_CAPACITY_MIN : token * 2;
        if (capacity > req->query->tokens_max && token < req->query->tokens_max)
            capacity = req->query->tokens_max; // so that the limit on logprobs is one on memory
        struct med_req_logprob *grown =
            med_realloc_array(req->logprobs, capacity, rows * sizeof(*grown));
        if (grown == NULL)
            return NULL;
        req->logprobs = grown;
        req->logprob_capacity = capacity;
    }
    struct med_req_logprob *first = req->logprobs + token * rows;
    for (size_t i = 0; i < rows; i++)
        first[i] = (struct med_req_logprob){.logprob = 1};
    return first;
}
