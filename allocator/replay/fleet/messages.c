/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages: a ring of those that were put in order of their arrival, and a binary heap of the others.
 * The first of both is the first of all.  thread: the simulation's.  Knows no clock and no receiver.
 */
#include "allocator/replay/fleet/messages.h"

#include "base/alloc.h"
#include "base/assert.h"

#define ROOM_START 1024

static bool is_before(const struct sim_message *a, const struct sim_message *b)
{
    return a->at_ns < b->at_ns || (a->at_ns == b->at_ns && a->order < b->order);
}

static struct sim_message *ring_at(const struct sim_messages *m, size_t place)
{
    return &m->ring[(m->ring_first + place) & (m->ring_room - 1)];
}

static int ring_grow(struct sim_messages *m)
{
    size_t room = m->ring_room ? 2 * m->ring_room : ROOM_START;
    struct sim_message *ring = med_calloc(room, sizeof *ring);
    if (!ring)
        return MED_E_NOMEM;
    for (size_t i = 0; i < m->ring_count; i++)
        ring[i] = *ring_at(m, i);
    med_free(m->ring);
    m->ring = ring;
    m->ring_room = room;
    m->ring_first = 0;
    return 0;
}

static int heap_put(struct sim_messages *m, const struct sim_message *message)
{
    if (m->heap_count == m->heap_room) {
        size_t room = m->heap_room ? 2 * m->heap_room : ROOM_START;
        struct sim_message *heap = med_realloc_array(m->heap, room, sizeof *heap);
        if (!heap)
            return MED_E_NOMEM;
        m->heap = heap;
        m->heap_room = room;
    }
    size_t place = m->heap_count++;
    for (; place > 0 && is_before(message, &m->heap[(place - 1) / 2]); place = (place - 1) / 2)
        m->heap[place] = m->heap[(place - 1) / 2];
    m->heap[place] = *message;
    return 0;
}

static struct sim_message heap_take(struct sim_messages *m)
{
    struct sim_message first = m->heap[0];
    const struct sim_message *moved = &m->heap[--m->heap_count];
    struct sim_message last = *moved;
    size_t place = 0;
    for (;;) {
        size_t child = 2 * place + 1;
        if (child >= m->heap_count)
            break;
        if (child + 1 < m->heap_count && is_before(&m->heap[child + 1], &m->heap[child]))
            child++;
        if (!is_before(&m->heap[child], &last))
            break;
        m->heap[place] = m->heap[child];
        place = child;
    }
    m->heap[place] = last;
    return first;
}

int sim_messages_put(struct sim_messages *messages, struct sim_message message)
{
    struct sim_messages *m = messages;
    message.order = m->order;
    int rc = 0;
    if (m->ring_count > 0 && message.at_ns < ring_at(m, m->ring_count - 1)->at_ns) {
        rc = heap_put(m, &message);
    } else {
        if (m->ring_count == m->ring_room)
            rc = ring_grow(m);
        if (rc == 0)
            *ring_at(m, m->ring_count++) = message;
    }
    if (rc == 0)
        m->order++;
    return rc;
}

const struct sim_message *sim_messages_first(const struct sim_messages *messages)
{
    const struct sim_message *ring = messages->ring_count > 0 ? ring_at(messages, 0) : NULL;
    const struct sim_message *heap = messages->heap_count > 0 ? &messages->heap[0] : NULL;
    if (!ring || !heap)
        return ring ? ring : heap;
    return is_before(heap, ring) ? heap : ring;
}

struct sim_message sim_messages_take(struct sim_messages *messages)
{
    const struct sim_message *first = sim_messages_first(messages);
    MED_ASSERT(first != NULL);
    if (messages->heap_count > 0 && first == &messages->heap[0])
        return heap_take(messages);
    struct sim_message taken = *first;
    messages->ring_first = (messages->ring_first + 1) & (messages->ring_room - 1);
    messages->ring_count--;
    return taken;
}

void sim_messages_release(struct sim_messages *messages)
{
    med_free(messages->ring);
    med_free(messages->heap);
    *messages = (struct sim_messages){0};
}
