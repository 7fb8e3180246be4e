/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Queue: leases ordered by a time, a binary heap that knows each lease's place, so that one in the
 * middle is removed in O(log n). Equal times keep the order of arrival. Used for the requests that
 * wait (by turn) and for the deadlines of those in flight.
 *
 * The bound that clients see (queue_max) is the caller's: a request that was accepted and lost its
 * worker must find room here, whatever is waiting. thread: loop.
 */
#include "router/dispatch/internal.h"

#include "base/alloc.h"
#include "base/assert.h"

int queue_init(struct queue *q, size_t count_max)
{
    q->count_max = count_max;
    q->entries = med_calloc(count_max, sizeof *q->entries);
    q->places = med_calloc(count_max, sizeof *q->places);
    if (!q->entries || !q->places)
        return MED_E_NOMEM;
    for (size_t i = 0; i < count_max; i++)
        q->places[i] = NONE;
    return 0;
}

void queue_release(struct queue *q)
{
    med_free(q->entries);
    med_free(q->places);
}

bool queue_is_before(const struct queue_entry *a, const struct queue_entry *b)
{
    return a->at_ns < b->at_ns || (a->at_ns == b->at_ns && a->order < b->order);
}

static void put(struct queue *q, size_t place, struct queue_entry entry)
{
    q->entries[place] = entry;
    q->places[entry.lease] = (uint32_t)place;
}

static void sift_up(struct queue *q, size_t place)
{
    struct queue_entry entry = q->entries[place];
    while (place > 0 && queue_is_before(&entry, &q->entries[(place - 1) / 2])) {
        put(q, place, q->entries[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    put(q, place, entry);
}

static void sift_down(struct queue *q, size_t place)
{
    struct queue_entry entry = q->entries[place];
    for (;;) {
        size_t child = 2 * place + 1;
        if (child >= q->count)
            break;
        if (child + 1 < q->count && queue_is_before(&q->entries[child + 1], &q->entries[child]))
            child++;
        if (!queue_is_before(&q->entries[child], &entry))
            break;
        put(q, place, q->entries[child]);
        place = child;
    }
    put(q, place, entry);
}

void queue_restore(struct queue *q, const struct queue_entry *entry)
{
    MED_ASSERT(q->count < q->count_max);
    MED_ASSERT(q->places[entry->lease] == NONE);
    put(q, q->count, *entry);
    sift_up(q, q->count++);
}

void queue_push(struct queue *q, uint32_t lease, int64_t at_ns)
{
    struct queue_entry entry = {.at_ns = at_ns, .order = q->order++, .lease = lease};
    queue_restore(q, &entry);
}

bool queue_remove(struct queue *q, uint32_t lease)
{
    uint32_t place = q->places[lease];
    if (place == NONE)
        return false;
    q->places[lease] = NONE;
    q->count--;
    if (place < q->count) {
        put(q, place, q->entries[q->count]);
        sift_up(q, place);
        sift_down(q, q->places[q->entries[place].lease]);
    }
    return true;
}

const struct queue_entry *queue_first(const struct queue *q)
{
    return q->count > 0 ? &q->entries[0] : NULL;
}

void queue_check(const struct queue *q)
{
    MED_ASSERT(q->count <= q->count_max);
    for (size_t i = 0; i < q->count; i++) {
        MED_ASSERT(q->places[q->entries[i].lease] == i);
        MED_ASSERT(i == 0 || !queue_is_before(&q->entries[i], &q->entries[(i - 1) / 2]));
    }
}
