/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The requests that a worker holds (see requests.h): chained buckets of pointers, as many as there
 * can be requests.  thread: loop.  Does not speak to engine or link.
 */
#include "worker/requests.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <stdio.h>
#include <string.h>

int med_requests_init(struct med_requests *table, int64_t count_max)
{
    uint64_t places = 16;
    while (places < (uint64_t)count_max)
        places *= 2;
    *table = (struct med_requests){.mask = places - 1};
    table->buckets = med_calloc(places, sizeof(struct med_request *));
    return table->buckets ? 0 : MED_E_NOMEM;
}

void med_requests_release(struct med_requests *table)
{
    MED_ASSERT(table->count == 0);
    med_free(table->buckets);
    *table = (struct med_requests){0};
}

struct med_request *med_request_new(const struct med_uplink_generate *generate,
                                    struct med_uplink *link)
{
    struct med_request *r = med_calloc(1, sizeof *r);
    size_t tokens = generate->prompt_count + generate->tokens_max;
    uint32_t *ids = med_calloc(tokens, sizeof ids[0]);
    if (!r || !ids) {
        med_free(r);
        med_free(ids);
        return NULL;
    }
    memcpy(ids, generate->prompt, generate->prompt_count * sizeof ids[0]);
    r->link = link;
    r->request = generate->request;
    r->attempt = generate->attempt;
    r->engine.tokens = ids;
    r->engine.sequence.prompt_tokens = (int64_t)generate->prompt_count;
    r->engine.output_tokens_max = generate->tokens_max;
    (void)snprintf(r->request_id, sizeof r->request_id, "%s", generate->request_id);
    return r;
}

void med_request_free(struct med_request *request)
{
    if (!request)
        return;
    med_free(request->engine.tokens);
    med_free(request);
}

static struct med_request **bucket_of(const struct med_requests *table, uint64_t request)
{
    uint64_t x = request * UINT64_C(0x9e3779b97f4a7c15);
    return &table->buckets[(x ^ (x >> 32)) & table->mask];
}

struct med_request *med_requests_find(const struct med_requests *table,
                                      const struct med_uplink *link, uint64_t request,
                                      uint32_t attempt)
{
    for (struct med_request *r = *bucket_of(table, request); r; r = r->same) {
        if (r->link == link && r->request == request && r->attempt == attempt)
            return r;
    }
    return NULL;
}

void med_requests_add(struct med_requests *table, struct med_request *request)
{
    MED_ASSERT(request->link);
    struct med_request **bucket = bucket_of(table, request->request);
    request->same = *bucket;
    *bucket = request;
    request->prev = NULL;
    request->next = table->first;
    if (table->first)
        table->first->prev = request;
    table->first = request;
    table->count++;
}

void med_requests_detach(struct med_requests *table, struct med_request *request)
{
    if (!request->link)
        return;
    struct med_request **at = bucket_of(table, request->request);
    while (*at != request) {
        MED_ASSERT(*at);
        at = &(*at)->same;
    }
    *at = request->same;
    request->link = NULL;
}

void med_requests_remove(struct med_requests *table, struct med_request *request)
{
    med_requests_detach(table, request);
    if (request->prev) {
        request->prev->next = request->next;
    } else {
        table->first = request->next;
    }
    if (request->next)
        request->next->prev = request->prev;
    table->count--;
}
