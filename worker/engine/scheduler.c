/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scheduler (see scheduler.h for the contract).
 *
 * A sequence is three numbers: the tokens that are known (prompt and generated), how many of them
 * are in the cache, and how many were generated.  Every item computes known tokens that are not yet
 * cached; when it reaches the last one, a token is sampled and becomes known.  A decode is the case
 * "one is missing"; a preemption sets "cached" to 0, and the prefill that follows recomputes prompt
 * and generated tokens alike, so the next token it samples is the next one to deliver.
 *
 * Slots hold sequences; each is on one of three lists: waiting (in order of arrival, preempted ones
 * at the head), running (in order of admission; the tail is the newest) and cancelled (until the
 * commit that tells of it).  A running sequence has a lane of the block tables.  At admission it
 * takes the blocks of all known tokens, so a prefill never lacks a block in the middle; a decode
 * takes one block when it crosses into it.  The oldest running sequence can always go on, since its
 * prompt and output fit the cache alone: that is why the whole makes progress.
 *
 * A batch that is planned and not committed is a flight.  When the next one is planned before that, its
 * sequences are moved on first as if none stopped (med_scheduler_assume); its commit then only
 * tells, publishes, and ends those that did.
 *
 * Cost: O(running + events) per iteration, O(1) for add and cancel.  Nothing is allocated after
 * new.  thread: the engine's or the simulation's.  Does not know devices; time is
 * what plan is told, and of tokens it sees what the prefix cache compares.
 */
#include "worker/engine/scheduler.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "worker/engine/scheduler_internal.h"

enum {
    TABLE_MAX = 1 << 24
};

/* ---- lists ---------------------------------------------------------------------------------- */

static struct med_sequence_list *list_of(struct med_scheduler *s, enum med_place place)
{
    MED_ASSERT(place != MED_PLACE_FREE);
    if (place == MED_PLACE_WAITING)
        return &s->waiting;
    return place == MED_PLACE_RUNNING ? &s->running : &s->cancelled;
}

void med_scheduler_leave(struct med_scheduler *s, int32_t slot)
{
    struct med_sequence *q = &s->slots[slot];
    struct med_sequence_list *list = list_of(s, q->place);
    if (q->prev != MED_SLOT_NONE) {
        s->slots[q->prev].next = q->next;
    } else {
        list->head = q->next;
    }
    if (q->next != MED_SLOT_NONE) {
        s->slots[q->next].prev = q->prev;
    } else {
        list->tail = q->prev;
    }
    list->count--;
    q->next = q->prev = MED_SLOT_NONE;
}

void med_scheduler_join_tail(struct med_scheduler *s, int32_t slot, enum med_place place)
{
    struct med_sequence *q = &s->slots[slot];
    struct med_sequence_list *list = list_of(s, place);
    q->place = place;
    q->prev = list->tail;
    q->next = MED_SLOT_NONE;
    if (list->tail != MED_SLOT_NONE) {
        s->slots[list->tail].next = slot;
    } else {
        list->head = slot;
    }
    list->tail = slot;
    list->count++;
}

void med_scheduler_join_head(struct med_scheduler *s, int32_t slot, enum med_place place)
{
    struct med_sequence *q = &s->slots[slot];
    struct med_sequence_list *list = list_of(s, place);
    q->place = place;
    q->prev = MED_SLOT_NONE;
    q->next = list->head;
    if (list->head != MED_SLOT_NONE) {
        s->slots[list->head].prev = slot;
    } else {
        list->tail = slot;
    }
    list->head = slot;
    list->count++;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- life cycle ----------------------------------------------------------------------------- */

static int check_config(const struct med_scheduler_config *c, struct med_err *err)
{
    const struct {
        const char *name;
        int64_t value, max;
    } fields[] = {
        {"block_tokens", c->block_tokens, INT32_MAX},
        {"kv_tokens", c->kv_tokens, INT64_MAX / 2},
        {"model_len_max", c->model_len_max, INT32_MAX},
        {"sequences_max", c->sequences_max, TABLE_MAX},
        {"batched_tokens_max", c->batched_tokens_max, INT32_MAX},
        {"table_max", c->table_max, TABLE_MAX},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (fields[i].value < 1 || fields[i].value > fields[i].max) {
            return med_err_set(
                err, MED_E_INVALID, "scheduler: %s is %lld, expected a value from 1 to %lld",
                fields[i].name, (long long)fields[i].value, (long long)fields[i].max);
        }
    }
    if (c->kv_tokens / c->block_tokens < 1 || c->kv_tokens / c->block_tokens > INT32_MAX) {
        return med_err_set(err, MED_E_INVALID,
                           "scheduler: kv_tokens is %lld with blocks of %lld tokens, expected "
                           "between 1 and %d whole blocks",
                           (long long)c->kv_tokens, (long long)c->block_tokens, INT32_MAX);
    }
    if (c->prefill_chunk_max < 0 || c->batch_wait_ns < 0) {
        return med_err_set(err, MED_E_INVALID,
                           "scheduler: prefill_chunk_max is %lld and batch_wait_ns %lld, expected "
                           "values from 0",
                           (long long)c->prefill_chunk_max, (long long)c->batch_wait_ns);
    }
    if ((unsigned)c->batching > MED_BATCHING_STATIC) {
        return med_err_set(err, MED_E_INVALID,
                           "scheduler: batching is %d, expected a value of enum med_batching",
                           (int)c->batching);
    }
    if (c->batched_tokens_max < c->sequences_max) {
        return med_err_set(err, MED_E_INVALID,
                           "scheduler: batched_tokens_max is %lld, expected at least "
                           "sequences_max (%lld), or a full batch could not decode",
                           (long long)c->batched_tokens_max, (long long)c->sequences_max);
    }
    return 0;
}

static int allocate(struct med_scheduler *s)
{
    const struct med_scheduler_config *c = &s->config;
    int64_t blocks_total = c->kv_tokens / c->block_tokens;
    s->lanes = min64(c->sequences_max, c->table_max);
    int rc = med_kv_blocks_init(&s->kv, blocks_total, s->lanes,
                                min64(blocks_total, med_scheduler_blocks_for(s, c->model_len_max)));
    if (rc == 0 && c->prefix_cache)
        rc = med_kv_blocks_share(&s->kv, c->block_tokens, c->prefix_seed);
    if (rc < 0)
        return rc;
    rc = med_id_index_init(&s->index, c->table_max);
    if (rc < 0)
        return rc;
    s->slots = med_calloc((size_t)c->table_max, sizeof s->slots[0]);
    if (c->prefix_cache) {
        s->prefixes = med_calloc((size_t)c->table_max, sizeof s->prefixes[0]);
        if (!s->prefixes)
            return MED_E_NOMEM;
    }
    s->lane_free = med_calloc((size_t)s->lanes, sizeof s->lane_free[0]);
    s->events = med_calloc((size_t)c->table_max, sizeof s->events[0]);
    bool is_there = s->slots && s->lane_free && s->events;
    for (int i = 0; i < MED_FLIGHTS; i++) {
        s->flights[i].items = med_calloc((size_t)s->lanes, sizeof s->flights[i].items[0]);
        s->flights[i].slots = med_calloc((size_t)s->lanes, sizeof s->flights[i].slots[0]);
        is_there = is_there && s->flights[i].items && s->flights[i].slots;
    }
    if (!is_there)
        return MED_E_NOMEM;
    return 0;
}

int med_scheduler_new(const struct med_scheduler_config *config,
                      struct med_scheduler **ret_scheduler, struct med_err *err)
{
    int rc = check_config(config, err);
    if (rc < 0)
        return rc;
    struct med_scheduler *s = med_calloc(1, sizeof *s);
    if (s) {
        s->config = *config;
        rc = allocate(s);
    }
    if (!s || rc < 0) {
        med_scheduler_free(s);
        return med_err_set(err, MED_E_NOMEM,
                           "scheduler: no memory for a table of %lld sequences and %lld KV blocks",
                           (long long)config->table_max,
                           (long long)(config->kv_tokens / config->block_tokens));
    }
    for (int64_t i = 0; i < config->table_max; i++) {
        s->slots[i].next = i + 1 < config->table_max ? (int32_t)(i + 1) : MED_SLOT_NONE;
        s->slots[i].lane = MED_SLOT_NONE;
    }
    for (int64_t i = 0; i < s->lanes; i++)
        s->lane_free[i] = s->lanes - 1 - i;
    s->lane_free_count = s->lanes;
    s->waiting = s->running = s->cancelled =
        (struct med_sequence_list){.head = MED_SLOT_NONE, .tail = MED_SLOT_NONE};
    s->arrival_last_ns = INT64_MIN;
    *ret_scheduler = s;
    return 0;
}

void med_scheduler_free(struct med_scheduler *s)
{
    if (!s)
        return;
    med_kv_blocks_release(&s->kv);
    med_id_index_release(&s->index);
    med_free(s->slots);
    med_free(s->prefixes);
    med_free(s->lane_free);
    med_free(s->events);
    for (int i = 0; i < MED_FLIGHTS; i++) {
        med_free(s->flights[i].items);
        med_free(s->flights[i].slots);
    }
    med_free(s);
}

/* ---- requests ------------------------------------------------------------------------------- */

int med_scheduler_add(struct med_scheduler *s, const struct med_sequence_spec *spec)
{
    int64_t room = min64(s->config.model_len_max, s->kv.blocks_total * s->config.block_tokens);
    if (spec->prompt_tokens < 1 || spec->output_tokens_max < 1 || spec->prompt_tokens > room ||
        spec->output_tokens_max > room - spec->prompt_tokens || spec->output_tokens < 0 ||
        spec->output_tokens >= spec->output_tokens_max || spec->cached_tokens < 0 ||
        spec->cached_tokens >= spec->prompt_tokens + spec->output_tokens)
        return MED_E_INVALID;
    if (s->slot_free == MED_SLOT_NONE)
        return MED_E_AGAIN;
    MED_ASSERT(med_id_index_find(&s->index, spec->id) < 0);
    int32_t slot = s->slot_free;
    struct med_sequence *q = &s->slots[slot];
    MED_ASSERT(q->place == MED_PLACE_FREE);
    s->slot_free = q->next;
    *q = (struct med_sequence){.id = spec->id,
                               .user = spec->user,
                               .prompt_tokens = spec->prompt_tokens,
                               .output_tokens_max = spec->output_tokens_max,
                               .generated = spec->output_tokens,
                               .given = spec->cached_tokens,
                               .arrival_ns = spec->arrival_ns,
                               .lane = MED_SLOT_NONE,
                               .next = MED_SLOT_NONE,
                               .prev = MED_SLOT_NONE,
                               .item = {MED_SLOT_NONE, MED_SLOT_NONE}};
    if (s->prefixes) {
        s->prefixes[slot] =
            (struct med_sequence_prefix){.tokens = spec->tokens, .salt = spec->salt};
    }
    med_id_index_put(&s->index, spec->id, slot);
    med_scheduler_join_tail(s, slot, MED_PLACE_WAITING);
    if (spec->arrival_ns > s->arrival_last_ns)
        s->arrival_last_ns = spec->arrival_ns;
    s->held++;
    return 0;
}

void med_scheduler_drop_lane(struct med_scheduler *s, struct med_sequence *q)
{
    if (q->lane == MED_SLOT_NONE)
        return;
    med_kv_blocks_drop(&s->kv, q->lane);
    s->lane_free[s->lane_free_count++] = q->lane;
    q->lane = MED_SLOT_NONE;
    q->cached = 0;
}

int med_scheduler_cancel(struct med_scheduler *s, uint64_t id)
{
    int32_t slot = med_id_index_find(&s->index, id);
    if (slot < 0 || s->slots[slot].place == MED_PLACE_CANCELLED)
        return MED_E_NOT_FOUND;
    s->members_waiting -= s->slots[slot].member && s->slots[slot].place == MED_PLACE_WAITING;
    med_scheduler_leave(s, slot);
    med_scheduler_join_tail(s, slot, MED_PLACE_CANCELLED);
    if (s->under_way == 0)
        med_scheduler_drop_lane(s, &s->slots[slot]);
    return 0;
}

void med_scheduler_scatter(struct med_scheduler *s, uint64_t seed)
{
    MED_ASSERT(!med_scheduler_has_work(s));
    med_kv_blocks_scatter(&s->kv, seed);
}

bool med_scheduler_has_work(const struct med_scheduler *s)
{
    return s->held > 0 || s->under_way > 0;
}

/* ---- commit --------------------------------------------------------------------------------- */

/* Frees its slot. An item of a batch that is still under way goes on without it: what that computes is
 * thrown away, and the block it writes may have another owner by then, who writes it in a later batch
 * than that. */
static void forget(struct med_scheduler *s, int32_t slot)
{
    struct med_sequence *q = &s->slots[slot];
    for (int i = 0; i < MED_FLIGHTS; i++) {
        if (q->item[i] == MED_SLOT_NONE)
            continue;
        struct med_batch_item *item = &s->flights[i].items[q->item[i]];
        MED_ASSERT(s->flights[i].slots[q->item[i]] == slot);
        s->flights[i].slots[q->item[i]] = MED_SLOT_NONE;
        item->ended = true;
        item->user = NULL;
    }
    med_scheduler_leave(s, slot);
    med_scheduler_drop_lane(s, q);
    med_id_index_remove(&s->index, q->id);
    q->place = MED_PLACE_FREE;
    q->next = s->slot_free;
    s->slot_free = slot;
    s->held--;
    s->finished++;
}

void med_scheduler_assume(struct med_scheduler *s, struct med_flight *flight)
{
    MED_ASSERT(!flight->assumed);
    flight->assumed = true;
    for (size_t i = 0; i < flight->batch.count; i++) {
        if (flight->slots[i] == MED_SLOT_NONE)
            continue;
        struct med_sequence *q = &s->slots[flight->slots[i]];
        q->cached += flight->items[i].tokens;
        if (!flight->items[i].samples)
            continue;
        q->prefilling = false;
        q->generated++;
    }
}

static enum med_sequence_end end_of(const struct med_sequence *q, int64_t position, bool stop)
{
    if (stop)
        return MED_END_STOP;
    return position + 1 == q->output_tokens_max ? MED_END_LENGTH : MED_END_NONE;
}

/* What the sequence had computed when the batch of this item ended can be found from now on. */
static void publish(struct med_scheduler *s, int32_t slot, const struct med_batch_item *item)
{
    const struct med_sequence_prefix *p = med_scheduler_prefix(s, slot);
    if (!p)
        return;
    med_kv_blocks_publish(&s->kv, s->slots[slot].lane, p->salt, p->tokens,
                          (item->context + item->tokens) / s->config.block_tokens);
}

/* Item i of the batch is done. Returns the events that were written to *event. */
static size_t commit_item(struct med_scheduler *s, struct med_flight *flight, size_t i, bool stop,
                          struct med_sequence_event *event)
{
    const struct med_batch_item *item = &flight->items[i];
    if (item->prefill)
        s->prompt_tokens += (uint64_t)item->tokens;
    int32_t slot = flight->slots[i];
    if (slot == MED_SLOT_NONE)
        return 0;
    struct med_sequence *q = &s->slots[slot];
    q->item[flight - s->flights] = MED_SLOT_NONE;
    if (q->place == MED_PLACE_CANCELLED)
        return 0;
    publish(s, slot, item);
    if (!item->samples)
        return 0;
    s->generated_tokens++;
    enum med_sequence_end end = end_of(q, item->position, stop);
    *event = (struct med_sequence_event){
        .id = item->id, .user = item->user, .position = item->position, .end = end};
    if (s->prefixes)
        event->cached_prompt_tokens = s->prefixes[slot].cached_prompt_tokens;
    if (end != MED_END_NONE)
        forget(s, slot);
    return 1;
}

size_t med_scheduler_commit(struct med_scheduler *s, const bool *stop,
                            const struct med_sequence_event **ret_events)
{
    MED_ASSERT(s->under_way > 0);
    struct med_flight *flight = &s->flights[s->oldest];
    if (!flight->assumed)
        med_scheduler_assume(s, flight);
    size_t count = 0;
    for (size_t i = 0; i < flight->batch.count; i++)
        count += commit_item(s, flight, i, stop && stop[i], &s->events[count]);
    while (s->cancelled.head != MED_SLOT_NONE) {
        const struct med_sequence *q = &s->slots[s->cancelled.head];
        s->events[count++] = (struct med_sequence_event){
            .id = q->id, .user = q->user, .position = -1, .end = MED_END_CANCEL};
        forget(s, s->cancelled.head);
    }
    if (flight->batch.count > 0)
        s->iterations++;
    flight->batch.count = 0;
    s->under_way--;
    /* Without batches ahead the second one's memory is never touched. */
    s->oldest = s->under_way > 0 ? (s->oldest + 1) % MED_FLIGHTS : 0;
    *ret_events = s->events;
    return count;
}

/* ---- what it tells -------------------------------------------------------------------------- */

void med_scheduler_get_stats(const struct med_scheduler *s, struct med_scheduler_stats *ret_stats)
{
    *ret_stats = (struct med_scheduler_stats){
        .running = s->running.count,
        .waiting = s->waiting.count,
        .kv_blocks_free = med_kv_blocks_available(&s->kv),
        .kv_blocks_total = s->kv.blocks_total,
        .kv_blocks_cached = s->kv.cache.count,
        .iterations = s->iterations,
        .iterations_ahead = s->ahead,
        .preemptions = s->preemptions,
        .prompt_tokens_total = s->prompt_tokens,
        .generated_tokens_total = s->generated_tokens,
        .finished_total = s->finished,
        .prefix_queries_total = s->prefix_queries,
        .prefix_hits_total = s->prefix_hits,
        .prefix_evictions_total = s->kv.cache.evictions,
    };
}
