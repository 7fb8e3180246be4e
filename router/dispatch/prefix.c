/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prefix: which worker has the beginning of a prompt in its cache, as far as the router can know.
 *
 * A prompt's full blocks of MED_DISPATCH_PREFIX_TOKENS are hashed in a chain, so that one hash names all tokens up
 * to its end. What was sent to a worker is believed to be there: one entry per (hash, worker), bounded,
 * the least recently used goes first. A worker that is lost takes its entries with it (its epoch
 * changes, they are passed over and age out). When a request ends, its own blocks are there, so what its
 * worker says of the cache corrects only this: one that found nothing NOTHING_MAX times where something was
 * expected gets no credit until it finds something. It has no such cache, or keeps nothing long enough.
 *
 * Look-up O(blocks x workers that have them), insertion O(blocks). Nothing is allocated after init.
 * source: docs/adr/0093-prefix-affinity.md. thread: loop.
 */
#include "router/dispatch/internal.h"

#include "base/alloc.h"
#include "base/assert.h"

#define NOTHING_MAX 4

/* The finalizer of splitmix64. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

size_t med_dispatch_prefix_hashes(const uint32_t *tokens, size_t count, uint64_t salt,
                                  uint64_t ret_hashes[MED_DISPATCH_PREFIX_MAX])
{
    uint64_t hash = mix(salt + UINT64_C(0x9e3779b97f4a7c15));
    size_t blocks = 0;
    /* The last token is always computed, so a block that ends the prompt saves nothing whole. */
    for (size_t i = 0;
         blocks < MED_DISPATCH_PREFIX_MAX && (blocks + 1) * MED_DISPATCH_PREFIX_TOKENS < count;
         i = blocks * MED_DISPATCH_PREFIX_TOKENS) {
        for (size_t end = i + MED_DISPATCH_PREFIX_TOKENS; i < end; i++)
            hash = (hash ^ tokens[i]) * UINT64_C(0x9e3779b97f4a7c15) + (hash >> 29);
        hash = mix(hash);
        ret_hashes[blocks++] = hash;
    }
    return blocks;
}

int prefixes_init(struct prefixes *p, size_t count_max, size_t workers_max, size_t requests_max)
{
    p->count_max = count_max;
    p->first = p->last = NONE;
    if (count_max == 0)
        return 0;
    size_t heads = 16;
    while (heads < count_max)
        heads *= 2;
    p->head_mask = heads - 1;
    p->rows = med_calloc(count_max, sizeof *p->rows);
    p->heads = med_calloc(heads, sizeof *p->heads);
    p->found = med_calloc(workers_max, sizeof *p->found);
    p->epochs = med_calloc(workers_max, sizeof *p->epochs);
    p->hashes = med_calloc(requests_max, sizeof *p->hashes);
    if (!p->rows || !p->heads || !p->found || !p->epochs || !p->hashes)
        return MED_E_NOMEM;
    for (size_t i = 0; i < heads; i++)
        p->heads[i] = NONE;
    return 0;
}

void prefixes_release(struct prefixes *p)
{
    med_free(p->rows);
    med_free(p->heads);
    med_free(p->found);
    med_free(p->epochs);
    med_free(p->hashes);
}

static uint32_t *head_of(const struct prefixes *p, uint64_t hash)
{
    return &p->heads[hash & p->head_mask];
}

void prefixes_find(struct prefixes *p, uint32_t lease, size_t count)
{
    p->looked_up++;
    /* Once in 2^32 look-ups an old stamp is taken for a new one: a wrong belief, no more. */
    p->looked_up += p->looked_up == 0;
    for (size_t k = 0; k < count; k++) {
        bool any = false;
        uint64_t hash = p->hashes[lease].at[k];
        for (uint32_t i = *head_of(p, hash); i != NONE; i = p->rows[i].hash_next) {
            const struct prefix *row = &p->rows[i];
            struct prefix_found *found = &p->found[row->worker];
            if (row->hash != hash || row->epoch != p->epochs[row->worker])
                continue;
            if (k > 0 && (found->stamp != p->looked_up || found->blocks != k))
                continue; /* its beginning is gone */
            *found = (struct prefix_found){.stamp = p->looked_up, .blocks = (uint32_t)k + 1};
            any = true;
        }
        if (!any)
            return;
    }
}

size_t prefixes_blocks(const struct prefixes *p, uint32_t worker)
{
    if (p->count_max == 0 || p->found[worker].stamp != p->looked_up)
        return 0;
    return p->found[worker].blocks;
}

static void unlink_row(struct prefixes *p, uint32_t i)
{
    struct prefix *row = &p->rows[i];
    *(row->previous != NONE ? &p->rows[row->previous].next : &p->first) = row->next;
    *(row->next != NONE ? &p->rows[row->next].previous : &p->last) = row->previous;
}

static void link_first(struct prefixes *p, uint32_t i)
{
    p->rows[i].previous = NONE;
    p->rows[i].next = p->first;
    *(p->first != NONE ? &p->rows[p->first].previous : &p->last) = i;
    p->first = i;
}

static uint32_t find_row(const struct prefixes *p, uint64_t hash, uint32_t worker)
{
    uint32_t i = *head_of(p, hash);
    while (i != NONE && (p->rows[i].hash != hash || p->rows[i].worker != worker))
        i = p->rows[i].hash_next;
    return i;
}

static uint32_t take_row(struct prefixes *p, uint64_t hash, uint32_t worker)
{
    uint32_t i = (uint32_t)p->count;
    if (p->count < p->count_max) {
        p->count++;
    } else {
        i = p->last;
        unlink_row(p, i);
        uint32_t *link = head_of(p, p->rows[i].hash);
        while (*link != i)
            link = &p->rows[*link].hash_next;
        *link = p->rows[i].hash_next;
    }
    uint32_t *head = head_of(p, hash);
    p->rows[i] = (struct prefix){.hash = hash, .worker = worker, .hash_next = *head};
    *head = i;
    link_first(p, i);
    return i;
}

void prefixes_sent(struct prefixes *p, uint32_t lease, size_t count, uint32_t worker)
{
    /* From the last block to the first: the beginning is the newest, and goes last. */
    for (size_t k = count; k-- > 0;) {
        uint64_t hash = p->hashes[lease].at[k];
        uint32_t i = find_row(p, hash, worker);
        if (i == NONE) {
            i = take_row(p, hash, worker);
        } else {
            unlink_row(p, i);
            link_first(p, i);
        }
        p->rows[i].epoch = p->epochs[worker];
    }
}

void prefixes_forget(struct prefixes *p, uint32_t worker)
{
    if (p->count_max > 0)
        p->epochs[worker]++;
}

bool prefix_is_trusted(const struct worker *worker)
{
    return worker->prefix_misses < NOTHING_MAX;
}

void prefixes_check(const struct prefixes *p)
{
    size_t count = 0;
    uint32_t previous = NONE;
    for (uint32_t i = p->first; i != NONE; i = p->rows[i].next) {
        MED_ASSERT(p->rows[i].previous == previous);
        MED_ASSERT(find_row(p, p->rows[i].hash, p->rows[i].worker) == i);
        previous = i;
        count++;
    }
    MED_ASSERT(p->last == previous);
    MED_ASSERT(count == p->count);
    MED_ASSERT(p->count <= p->count_max);
}
