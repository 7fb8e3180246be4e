/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every invariant of the scheduler, asserted (see scheduler.h), for tests and simulation.
 *
 * thread: the scheduler's.  Changes nothing.
 */
#include "base/assert.h"
#include "worker/engine/scheduler_internal.h"

static bool is_under_way(const struct med_scheduler *s, int flight)
{
    return s->under_way == MED_FLIGHTS || (s->under_way == 1 && flight == s->oldest);
}

/* Tokens whose keys and values stand there for certain: of batches that were committed. */
static int64_t computed(const struct med_scheduler *s, const struct med_sequence *q)
{
    int64_t tokens = q->cached;
    for (int i = 0; i < MED_FLIGHTS; i++) {
        if (q->item[i] != MED_SLOT_NONE && s->flights[i].assumed)
            tokens -= s->flights[i].items[q->item[i]].tokens;
    }
    return tokens;
}

static void check_sequence(const struct med_scheduler *s, int32_t slot)
{
    const struct med_sequence *q = &s->slots[slot];
    MED_ASSERT(med_id_index_find(&s->index, q->id) == slot);
    MED_ASSERT(q->generated >= 0 && q->generated <= q->output_tokens_max);
    MED_ASSERT(!med_sequence_is_ending(q) || s->under_way > 0);
    MED_ASSERT(q->cached >= 0 && q->cached <= med_sequence_known(q));
    MED_ASSERT((q->place == MED_PLACE_RUNNING) <= (q->lane != MED_SLOT_NONE));
    if (q->lane == MED_SLOT_NONE) {
        MED_ASSERT(q->cached == 0);
        MED_ASSERT(q->item[0] == MED_SLOT_NONE);
        MED_ASSERT(q->item[1] == MED_SLOT_NONE);
        return;
    }
    MED_ASSERT(q->place != MED_PLACE_WAITING);
    MED_ASSERT(q->place == MED_PLACE_RUNNING || s->under_way > 0);
    int64_t blocks = s->kv.counts[q->lane];
    MED_ASSERT(blocks >= med_scheduler_blocks_for(s, q->cached));
    MED_ASSERT(blocks <= med_scheduler_blocks_for(s, med_sequence_known(q)));
    if (!q->prefilling)
        MED_ASSERT(med_sequence_known(q) - q->cached == 1);
    /* Findable: what is computed, no more. */
    if (s->kv.sharing) {
        int64_t full = med_scheduler_prefix(s, slot) ? computed(s, q) / s->config.block_tokens : 0;
        MED_ASSERT(s->kv.published[q->lane] == full);
    }
}

/* Walks one list both ways of linking; returns how many of its sequences hold a lane. */
static int64_t check_list(const struct med_scheduler *s, const struct med_sequence_list *list,
                          enum med_place place)
{
    int64_t count = 0, with_lane = 0;
    int32_t prev = MED_SLOT_NONE;
    for (int32_t slot = list->head; slot != MED_SLOT_NONE; slot = s->slots[slot].next) {
        MED_ASSERT(s->slots[slot].place == place);
        MED_ASSERT(s->slots[slot].prev == prev);
        check_sequence(s, slot);
        with_lane += s->slots[slot].lane != MED_SLOT_NONE;
        prev = slot;
        count++;
        MED_ASSERT(count <= s->config.table_max);
    }
    MED_ASSERT(list->tail == prev);
    MED_ASSERT(list->count == count);
    return with_lane;
}

/* An item and its sequence name each other, or the sequence has ended with the batch before. */
static void check_item(const struct med_scheduler *s, int flight, size_t i)
{
    const struct med_flight *f = &s->flights[flight];
    const struct med_batch_item *item = &f->items[i];
    MED_ASSERT(item->ended == (f->slots[i] == MED_SLOT_NONE));
    if (item->ended) {
        MED_ASSERT(flight == s->oldest);
        MED_ASSERT(!item->user);
        return;
    }
    const struct med_sequence *q = &s->slots[f->slots[i]];
    MED_ASSERT(q->place == MED_PLACE_RUNNING || q->place == MED_PLACE_CANCELLED);
    MED_ASSERT(q->id == item->id);
    MED_ASSERT(q->item[flight] == (int32_t)i);
    MED_ASSERT(item->position < q->output_tokens_max);
    MED_ASSERT(!item->awaits || !item->prefill);
    if (!f->assumed)
        MED_ASSERT(item->context == q->cached);
    if (item->awaits && flight != s->oldest) {
        const struct med_flight *before = &s->flights[s->oldest];
        const struct med_batch_item *other = &before->items[item->previous];
        MED_ASSERT(item->previous < (int32_t)before->batch.count);
        MED_ASSERT(other->id == item->id && other->samples);
        MED_ASSERT(other->context + other->tokens == item->context);
        MED_ASSERT(other->position + 1 == item->position);
    }
}

static void check_flights(const struct med_scheduler *s)
{
    MED_ASSERT(s->under_way >= 0 && s->under_way <= MED_FLIGHTS);
    int64_t items = 0, named = 0;
    for (int k = 0; k < MED_FLIGHTS; k++) {
        const struct med_flight *f = &s->flights[k];
        if (!is_under_way(s, k))
            continue;
        MED_ASSERT(!f->assumed || k == s->oldest);
        MED_ASSERT(f->assumed || s->under_way == 1 || k != s->oldest);
        MED_ASSERT(f->batch.load.prefill_tokens + f->batch.load.decode_sequences <=
                   s->config.batched_tokens_max);
        for (size_t i = 0; i < f->batch.count; i++) {
            check_item(s, k, i);
            items += !f->items[i].ended;
        }
    }
    /* And nobody names a batch that is over. */
    for (int64_t slot = 0; slot < s->config.table_max; slot++) {
        const struct med_sequence *q = &s->slots[slot];
        for (int k = 0; q->place != MED_PLACE_FREE && k < MED_FLIGHTS; k++)
            named += q->item[k] != MED_SLOT_NONE;
    }
    MED_ASSERT(named == items);
}

void med_scheduler_check(const struct med_scheduler *s)
{
    int64_t with_lane = check_list(s, &s->waiting, MED_PLACE_WAITING) +
                        check_list(s, &s->running, MED_PLACE_RUNNING) +
                        check_list(s, &s->cancelled, MED_PLACE_CANCELLED);
    MED_ASSERT(with_lane + s->lane_free_count == s->lanes);
    MED_ASSERT(s->waiting.count + s->running.count + s->cancelled.count == s->held);
    int64_t members = 0;
    for (int32_t slot = s->waiting.head; slot != MED_SLOT_NONE && s->slots[slot].member;
         slot = s->slots[slot].next)
        members++;
    MED_ASSERT(members == s->members_waiting); /* none lies behind another's back */
    MED_ASSERT(s->index.count == s->held);
    int64_t free_slots = 0;
    for (int32_t slot = s->slot_free; slot != MED_SLOT_NONE; slot = s->slots[slot].next) {
        MED_ASSERT(s->slots[slot].place == MED_PLACE_FREE);
        free_slots++;
        MED_ASSERT(free_slots <= s->config.table_max);
    }
    MED_ASSERT(free_slots + s->held == s->config.table_max);
    MED_ASSERT(s->running.count <= s->config.sequences_max);
    for (int64_t lane = 0, held = 0; lane < s->lane_free_count; lane++) {
        held += s->kv.counts[s->lane_free[lane]];
        MED_ASSERT(held == 0);
    }
    med_kv_blocks_check(&s->kv);
    check_flights(s);
}
