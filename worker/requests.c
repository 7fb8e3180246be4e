/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The requests that a worker holds (see requests.h): chained buckets of pointers, as many as there
 * can be requests.  thread: loop.  Does not speak to engine or link, and
 * does not make requests: that is request.c.
 */
#include "worker/requests.h"

#include "base/alloc.h"
#include "base/assert.h"

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
    table->bytes += request->bytes;
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
    table->bytes -= request->bytes;
}
