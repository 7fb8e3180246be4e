/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases: the table of requests that were accepted and have not ended, with a free list and a
 * chained hash from the shell's name to the row. Fixed size; O(1). thread: loop.
 */
#include "router/dispatch/internal.h"

#include "base/alloc.h"
#include "base/assert.h"

int leases_init(struct leases *l, size_t count_max)
{
    size_t head_count = 16;
    while (head_count < count_max)
        head_count *= 2;
    l->count_max = count_max;
    l->head_mask = head_count - 1;
    l->rows = med_calloc(count_max, sizeof *l->rows);
    l->heads = med_calloc(head_count, sizeof *l->heads);
    if (!l->rows || !l->heads)
        return MED_E_NOMEM;
    for (size_t i = 0; i < head_count; i++)
        l->heads[i] = NONE;
    for (size_t i = 0; i < count_max; i++)
        l->rows[i].next = i + 1 < count_max ? (uint32_t)i + 1 : NONE;
    l->free = 0;
    return 0;
}

void leases_release(struct leases *l)
{
    med_free(l->rows);
    med_free(l->heads);
}

/* splitmix64's finalizer: the shell's names are often consecutive, or pointers. */
static uint32_t *head_of(const struct leases *l, uint64_t request)
{
    uint64_t x = request;
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    x ^= x >> 31;
    return &l->heads[x & l->head_mask];
}

uint32_t leases_find(const struct leases *l, uint64_t request)
{
    uint32_t lease = *head_of(l, request);
    while (lease != NONE && l->rows[lease].request != request)
        lease = l->rows[lease].hash_next;
    return lease;
}

uint32_t leases_add(struct leases *l, uint64_t request)
{
    uint32_t lease = l->free;
    if (lease == NONE)
        return NONE;
    struct lease *row = &l->rows[lease];
    MED_ASSERT(!row->used);
    l->free = row->next;
    uint32_t *head = head_of(l, request);
    *row = (struct lease){.request = request,
                          .worker = NONE,
                          .avoid = NONE,
                          .next = NONE,
                          .previous = NONE,
                          .hash_next = *head,
                          .used = true};
    *head = lease;
    l->count++;
    return lease;
}

void leases_remove(struct leases *l, uint32_t lease)
{
    struct lease *row = &l->rows[lease];
    MED_ASSERT(row->used);
    uint32_t *link = head_of(l, row->request);
    while (*link != lease) {
        MED_ASSERT(*link != NONE);
        link = &l->rows[*link].hash_next;
    }
    *link = row->hash_next;
    row->used = false;
    row->next = l->free;
    l->free = lease;
    l->count--;
}
