/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making a batch (see scheduler.h): decodes, prefills in chunks, admission, preemption.
 *
 * A batch planned ahead is made like any other, of sequences as they will stand when the one before
 * has ended.  Three things are different.  A decode takes the token that the batch before samples
 * (item->awaits).  Who ends with that batch by its length is left out.  And nobody is preempted:
 * where that would be needed there is no batch ahead, so a preempted sequence has no token that is
 * not known yet.
 * thread: the scheduler's.  Does not know when a batch runs, nor what comes out.
 */
#include "base/assert.h"
#include "worker/engine/scheduler_internal.h"

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void preempt(struct med_scheduler *s, int32_t slot)
{
    MED_ASSERT(s->under_way == 1); /* the one at hand */
    MED_ASSERT(s->slots[slot].item[0] == MED_SLOT_NONE);
    MED_ASSERT(s->slots[slot].item[1] == MED_SLOT_NONE);
    med_scheduler_leave(s, slot);
    med_scheduler_drop_lane(s, &s->slots[slot]);
    med_scheduler_join_head(s, slot, MED_PLACE_WAITING);
    s->members_waiting += s->slots[slot].member;
    s->preemptions++;
}

/* Which item of the batch before samples the token that this decode takes; NONE: it is known. */
static int32_t awaited(const struct med_scheduler *s, const struct med_sequence *q)
{
    if (s->under_way < MED_FLIGHTS || q->prefilling)
        return MED_SLOT_NONE;
    int32_t item = q->item[s->oldest];
    MED_ASSERT(item != MED_SLOT_NONE); /* every decode is in every batch */
    MED_ASSERT(s->flights[s->oldest].items[item].samples);
    return item;
}

static void put_item(struct med_scheduler *s, int32_t slot, int64_t tokens)
{
    struct med_sequence *q = &s->slots[slot];
    struct med_flight *flight = med_scheduler_newest(s);
    struct med_step_load *load = &flight->batch.load;
    int32_t previous = awaited(s, q);
    MED_ASSERT((int64_t)flight->batch.count < s->lanes);
    MED_ASSERT(tokens > 0 && q->cached + tokens <= med_sequence_known(q));
    MED_ASSERT(s->kv.counts[q->lane] * s->config.block_tokens >= q->cached + tokens);
    q->item[flight - s->flights] = (int32_t)flight->batch.count;
    flight->slots[flight->batch.count] = slot;
    flight->items[flight->batch.count++] = (struct med_batch_item){
        .id = q->id,
        .user = q->user,
        .tokens = tokens,
        .context = q->cached,
        .position = q->generated,
        .prefill = q->prefilling,
        .samples = q->cached + tokens == med_sequence_known(q),
        .awaits = previous != MED_SLOT_NONE,
        .previous = previous,
        .blocks = med_kv_blocks_table(&s->kv, q->lane),
        .block_count = s->kv.counts[q->lane],
    };
    if (q->prefilling) {
        load->prefill_tokens += tokens;
        load->prefill_pairs += med_step_pairs(tokens, q->cached);
    } else {
        load->decode_sequences++;
        load->decode_context_tokens += q->cached;
    }
}

/* Finds a block for the next token of `slot`, preempting from the newest. False when the newest
 * was this one. */
static bool make_room(struct med_scheduler *s, int32_t slot)
{
    const struct med_sequence *q = &s->slots[slot];
    if (q->cached < s->kv.counts[q->lane] * s->config.block_tokens) /* nearly always */
        return true;
    while (!med_kv_blocks_grow(&s->kv, q->lane, med_scheduler_blocks_for(s, q->cached + 1))) {
        int32_t newest = s->running.tail;
        preempt(s, newest);
        if (newest == slot)
            return false;
    }
    return true;
}

static void plan_decodes(struct med_scheduler *s)
{
    for (int32_t slot = s->running.head, next; slot != MED_SLOT_NONE; slot = next) {
        const struct med_sequence *q = &s->slots[slot];
        if (!q->prefilling && !med_sequence_is_ending(q) && make_room(s, slot))
            put_item(s, slot, 1);
        /* Preemption takes from the tail: what follows is read after it. */
        next = s->slots[slot].place == MED_PLACE_RUNNING ? s->slots[slot].next : MED_SLOT_NONE;
    }
}

/* Puts the next chunk of a prefill; returns the budget left. */
static int64_t plan_chunk(struct med_scheduler *s, int32_t slot, int64_t budget)
{
    const struct med_sequence *q = &s->slots[slot];
    int64_t tokens = min64(med_sequence_known(q) - q->cached, budget);
    if (s->config.prefill_chunk_max > 0)
        tokens = min64(tokens, s->config.prefill_chunk_max);
    put_item(s, slot, tokens);
    return budget - tokens;
}

/* The sequence begins behind what the cache has of it. */
static void take_match(struct med_scheduler *s, struct med_sequence *q,
                       struct med_sequence_prefix *p)
{
    med_kv_blocks_adopt(&s->kv, q->lane, &p->match);
    q->cached = p->match.count * s->config.block_tokens;
    if (p->admitted)
        return;
    p->admitted = true;
    /* Of a sequence that goes on from elsewhere, the output so far may be found too. */
    p->cached_prompt_tokens = min64(q->cached, q->prompt_tokens);
    s->prefix_queries += (uint64_t)q->prompt_tokens;
    s->prefix_hits += (uint64_t)p->cached_prompt_tokens;
}

/* Makes an item that was put compute `more` tokens more. */
static void extend_item(struct med_scheduler *s, struct med_batch_item *item, int64_t more,
                        int64_t known_tokens)
{
    struct med_step_load *load = &med_scheduler_newest(s)->batch.load;
    MED_ASSERT(item->prefill);
    load->prefill_tokens += more;
    load->prefill_pairs += med_step_pairs(item->tokens + more, item->context) -
                           med_step_pairs(item->tokens, item->context);
    item->tokens += more;
    item->samples = item->context + item->tokens == known_tokens;
}

/* Gives what is left of the budget to the prefills that were cut, oldest first. */
static void plan_rest(struct med_scheduler *s, int64_t budget)
{
    struct med_flight *flight = med_scheduler_newest(s);
    for (size_t i = 0; i < flight->batch.count && budget > 0; i++) {
        struct med_batch_item *item = &flight->items[i];
        int64_t known_tokens = med_sequence_known(&s->slots[flight->slots[i]]);
        int64_t more = min64(known_tokens - item->context - item->tokens, budget);
        if (more > 0)
            extend_item(s, item, more, known_tokens);
        budget -= more;
    }
}

/* Whether a lane and blocks are there for the head of the waiting, which there is. */
static bool can_admit(const struct med_scheduler *s)
{
    int32_t slot = s->waiting.head;
    const struct med_sequence *q = &s->slots[slot];
    if (s->lane_free_count == 0)
        return false;
    if (s->config.batching != MED_BATCHING_CONTINUOUS && !q->member)
        return false;
    /* One block more than it takes now, so that it does not preempt at its first decode; never
     * more than it can ever use (the last token is not fed back), or it might wait for ever. */
    int64_t ever = q->prompt_tokens + q->output_tokens_max - 1;
    int64_t wanted = min64(med_scheduler_blocks_for(s, med_sequence_known(q)) + 1,
                           med_scheduler_blocks_for(s, ever));
    int64_t available = med_kv_blocks_available(&s->kv);
    struct med_sequence_prefix *p = med_scheduler_prefix(s, slot);
    if (p) {
        /* One token at least is computed: the next one is sampled from it. */
        med_kv_blocks_find(&s->kv, p->salt, p->tokens,
                           (med_sequence_known(q) - 1) / s->config.block_tokens, &p->match);
        wanted -= p->match.count;
        available -= med_kv_blocks_idle(&s->kv, &p->match);
    }
    return wanted <= available;
}

/* Moves the head of the waiting to the running if a lane and blocks are there. */
static bool admit(struct med_scheduler *s)
{
    if (!can_admit(s))
        return false;
    int32_t slot = s->waiting.head;
    struct med_sequence *q = &s->slots[slot];
    struct med_sequence_prefix *p = med_scheduler_prefix(s, slot);
    q->lane = s->lane_free[--s->lane_free_count];
    if (p)
        take_match(s, q, p);
    bool grown =
        med_kv_blocks_grow(&s->kv, q->lane, med_scheduler_blocks_for(s, med_sequence_known(q)));
    MED_ASSERT(grown);
    if (q->given > q->cached)
        q->cached = q->given;
    q->given = 0;
    q->prefilling = true;
    s->members_waiting -= q->member;
    med_scheduler_leave(s, slot);
    med_scheduler_join_tail(s, slot, MED_PLACE_RUNNING);
    return true;
}

/* When the waiting become a batch that is not full. Some wait, nothing runs. */
static int64_t due_ns(const struct med_scheduler *s)
{
    int64_t since_ns = s->config.batching == MED_BATCHING_DYNAMIC
                           ? s->slots[s->waiting.head].arrival_ns
                           : s->arrival_last_ns;
    int64_t wait_ns = s->config.batch_wait_ns;
    return since_ns > INT64_MAX - 1 - wait_ns ? INT64_MAX - 1 : since_ns + wait_ns;
}

int64_t med_scheduler_next_ns(const struct med_scheduler *s)
{
    if (s->under_way > 0)
        return INT64_MIN;
    if (s->held == 0)
        return INT64_MAX;
    if (s->config.batching == MED_BATCHING_CONTINUOUS || s->running.count > 0 ||
        s->cancelled.count > 0 || s->members_waiting > 0 || s->waiting.count >= s->lanes)
        return INT64_MIN;
    return due_ns(s);
}

/* Dynamic and static: makes the head of the queue the next batch when the one before has ended and
 * it is due: as many as there are lanes and, cached prefixes apart, blocks for; at least one. */
static void start_batch(struct med_scheduler *s, int64_t now_ns)
{
    if (s->running.count > 0 || s->members_waiting > 0 || s->waiting.count == 0)
        return;
    if (s->waiting.count < s->lanes && due_ns(s) > now_ns)
        return;
    int64_t blocks = med_kv_blocks_available(&s->kv);
    for (int32_t slot = s->waiting.head; slot != MED_SLOT_NONE; slot = s->slots[slot].next) {
        blocks -= med_scheduler_blocks_for(s, s->slots[slot].prompt_tokens) + 1;
        if (s->members_waiting == s->lanes || (blocks < 0 && s->members_waiting > 0))
            break;
        s->slots[slot].member = true;
        s->members_waiting++;
    }
}

/* A batch under way behind those there are; it may turn out empty. */
static struct med_flight *make_batch(struct med_scheduler *s, int64_t now_ns)
{
    s->under_way++;
    struct med_flight *flight = med_scheduler_newest(s);
    flight->batch = (struct med_batch){.items = flight->items};
    flight->assumed = false;
    if (s->config.batching != MED_BATCHING_CONTINUOUS)
        start_batch(s, now_ns);
    uint64_t preemptions_before = s->preemptions;
    plan_decodes(s);
    int64_t budget = s->config.batched_tokens_max - (int64_t)flight->batch.count;
    for (int32_t slot = s->running.head; slot != MED_SLOT_NONE && budget > 0;
         slot = s->slots[slot].next) {
        if (s->slots[slot].prefilling)
            budget = plan_chunk(s, slot, budget);
    }
    /* What was just preempted must not take the freed blocks straight back. */
    while (budget > 0 && s->waiting.head != MED_SLOT_NONE && s->preemptions == preemptions_before &&
           admit(s))
        budget = plan_chunk(s, s->running.tail, budget);
    if (s->config.prefill_chunk_max > 0)
        plan_rest(s, budget);
    return flight;
}

const struct med_batch *med_scheduler_plan(struct med_scheduler *s, int64_t now_ns)
{
    MED_ASSERT(s->under_way == 0);
    return &make_batch(s, now_ns)->batch;
}

/* ---- ahead ---------------------------------------------------------------------------------- */

/* Whether the next batch can be planned already. */
static bool can_plan_ahead(const struct med_scheduler *s, bool decodes_alone)
{
    int64_t blocks = 0;
    bool room_comes = s->cancelled.count > 0;
    for (int32_t slot = s->running.head; slot != MED_SLOT_NONE; slot = s->slots[slot].next) {
        const struct med_sequence *q = &s->slots[slot];
        if (q->prefilling && decodes_alone)
            return false;
        if (med_sequence_is_ending(q)) {
            room_comes = true;
        } else if (!q->prefilling) {
            blocks += q->cached == s->kv.counts[q->lane] * s->config.block_tokens;
        }
    }
    if (blocks > med_kv_blocks_available(&s->kv))
        return false;
    if (decodes_alone && s->running.count == 0)
        return false; /* what starts now is prefills */
    return !decodes_alone || s->waiting.count == 0 || !(room_comes || can_admit(s));
}

const struct med_batch *med_scheduler_plan_ahead(struct med_scheduler *s, int64_t now_ns,
                                                 bool decodes_alone)
{
    MED_ASSERT(s->under_way == 1);
    struct med_flight *before = &s->flights[s->oldest];
    if (!before->assumed)
        med_scheduler_assume(s, before);
    if (!can_plan_ahead(s, decodes_alone))
        return NULL;
    struct med_flight *flight = make_batch(s, now_ns);
    if (flight->batch.count == 0) {
        s->under_way--;
        return NULL;
    }
    s->ahead++;
    return &flight->batch;
}
