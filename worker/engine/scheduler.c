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
 * Cost: O(running + events) per iteration, O(1) for add and cancel.  Nothing is allocated after
 * new.  thread: the engine's or the simulation's.  Does not know devices; time is
 * what plan is told, and of tokens it sees what the prefix cache compares.
 */
#include "worker/engine/scheduler.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "worker/engine/id_index.h"
#include "worker/engine/kv_blocks.h"

enum {
    TABLE_MAX = 1 << 24,
    NONE = -1
};

enum place {
    PLACE_FREE,
    PLACE_WAITING,
    PLACE_RUNNING,
    PLACE_CANCELLED
};

struct sequence {
    uint64_t id;
    void *user;
    int64_t prompt_tokens, output_tokens_max, arrival_ns;
    int64_t generated;  /* tokens delivered */
    int64_t cached;     /* known tokens whose keys and values are in the cache */
    int64_t lane;       /* of the block tables; NONE when it holds no blocks */
    int32_t next, prev; /* on the list of its place; free slots use next alone */
    enum place place;
    bool prefilling; /* running: not sampled since its admission */
    bool member;     /* dynamic and static: of the batch that runs */
};

/* What the prefix cache needs of a sequence besides; kept apart, for the planner's many schedulers. */
struct prefix {
    const uint32_t *tokens; /* NULL: neither uses nor fills the cache */
    uint64_t salt;
    struct med_kv_match match;    /* how far the cache knew it when it was last looked up */
    int64_t cached_prompt_tokens; /* found at the first admission */
    bool admitted;                /* once before */
};

struct list {
    int32_t head, tail;
    int64_t count;
};

/* thread: engine */
struct med_scheduler {
    struct med_scheduler_config config;
    int64_t lanes;
    struct sequence *slots;  // [table_max]
    struct prefix *prefixes; // [table_max], or NULL without the cache
    int32_t slot_free;       /* head of the free slots */
    int64_t held;
    struct med_id_index index;
    struct med_kv_blocks kv;
    int64_t *lane_free; // [lanes], a stack
    int64_t lane_free_count;
    struct list waiting, running, cancelled;
    int64_t members_waiting; /* they are the first of the waiting */
    int64_t arrival_last_ns;

    struct med_batch_item *items; // [lanes]
    int32_t *item_slots;          // [lanes]
    struct med_batch batch;
    bool planned;                      /* between plan and commit */
    struct med_sequence_event *events; // [table_max]

    uint64_t iterations, preemptions, prompt_tokens, generated_tokens, finished;
    uint64_t prefix_queries, prefix_hits; /* tokens */
};

/* ---- lists ---------------------------------------------------------------------------------- */

static struct list *list_of(struct med_scheduler *s, enum place place)
{
    MED_ASSERT(place != PLACE_FREE);
    if (place == PLACE_WAITING)
        return &s->waiting;
    return place == PLACE_RUNNING ? &s->running : &s->cancelled;
}

static void leave_list(struct med_scheduler *s, int32_t slot)
{
    struct sequence *q = &s->slots[slot];
    struct list *list = list_of(s, q->place);
    if (q->prev != NONE) {
        s->slots[q->prev].next = q->next;
    } else {
        list->head = q->next;
    }
    if (q->next != NONE) {
        s->slots[q->next].prev = q->prev;
    } else {
        list->tail = q->prev;
    }
    list->count--;
    q->next = q->prev = NONE;
}

static void join_tail(struct med_scheduler *s, int32_t slot, enum place place)
{
    struct sequence *q = &s->slots[slot];
    struct list *list = list_of(s, place);
    q->place = place;
    q->prev = list->tail;
    q->next = NONE;
    if (list->tail != NONE) {
        s->slots[list->tail].next = slot;
    } else {
        list->head = slot;
    }
    list->tail = slot;
    list->count++;
}

static void join_head(struct med_scheduler *s, int32_t slot, enum place place)
{
    struct sequence *q = &s->slots[slot];
    struct list *list = list_of(s, place);
    q->place = place;
    q->prev = NONE;
    q->next = list->head;
    if (list->head != NONE) {
        s->slots[list->head].prev = slot;
    } else {
        list->tail = slot;
    }
    list->head = slot;
    list->count++;
}

/* ---- sizes ---------------------------------------------------------------------------------- */

static int64_t known(const struct sequence *q)
{
    return q->prompt_tokens + q->generated;
}

static int64_t blocks_for(const struct med_scheduler *s, int64_t tokens)
{
    return (tokens + s->config.block_tokens - 1) / s->config.block_tokens;
}

/* What the prefix cache needs of the sequence; NULL if that does not use it. */
static struct prefix *prefix_of(const struct med_scheduler *s, int32_t slot)
{
    return s->prefixes && s->prefixes[slot].tokens ? &s->prefixes[slot] : NULL;
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
                                min64(blocks_total, blocks_for(s, c->model_len_max)));
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
    s->items = med_calloc((size_t)s->lanes, sizeof s->items[0]);
    s->item_slots = med_calloc((size_t)s->lanes, sizeof s->item_slots[0]);
    s->events = med_calloc((size_t)c->table_max, sizeof s->events[0]);
    if (!s->slots || !s->lane_free || !s->items || !s->item_slots || !s->events)
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
        s->slots[i].next = i + 1 < config->table_max ? (int32_t)(i + 1) : NONE;
        s->slots[i].lane = NONE;
    }
    for (int64_t i = 0; i < s->lanes; i++)
        s->lane_free[i] = s->lanes - 1 - i;
    s->lane_free_count = s->lanes;
    s->waiting = s->running = s->cancelled = (struct list){.head = NONE, .tail = NONE};
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
    med_free(s->items);
    med_free(s->item_slots);
    med_free(s->events);
    med_free(s);
}

/* ---- requests ------------------------------------------------------------------------------- */

int med_scheduler_add(struct med_scheduler *s, const struct med_sequence_spec *spec)
{
    int64_t room = min64(s->config.model_len_max, s->kv.blocks_total * s->config.block_tokens);
    if (spec->prompt_tokens < 1 || spec->output_tokens_max < 1 || spec->prompt_tokens > room ||
        spec->output_tokens_max > room - spec->prompt_tokens)
        return MED_E_INVALID;
    if (s->slot_free == NONE)
        return MED_E_AGAIN;
    MED_ASSERT(med_id_index_find(&s->index, spec->id) < 0);
    int32_t slot = s->slot_free;
    struct sequence *q = &s->slots[slot];
    MED_ASSERT(q->place == PLACE_FREE);
    s->slot_free = q->next;
    *q = (struct sequence){.id = spec->id,
                           .user = spec->user,
                           .prompt_tokens = spec->prompt_tokens,
                           .output_tokens_max = spec->output_tokens_max,
                           .arrival_ns = spec->arrival_ns,
                           .lane = NONE,
                           .next = NONE,
                           .prev = NONE};
    if (s->prefixes)
        s->prefixes[slot] = (struct prefix){.tokens = spec->tokens, .salt = spec->salt};
    med_id_index_put(&s->index, spec->id, slot);
    join_tail(s, slot, PLACE_WAITING);
    if (spec->arrival_ns > s->arrival_last_ns)
        s->arrival_last_ns = spec->arrival_ns;
    s->held++;
    return 0;
}

/* Gives blocks and lane back. */
static void drop_lane(struct med_scheduler *s, struct sequence *q)
{
    if (q->lane == NONE)
        return;
    med_kv_blocks_drop(&s->kv, q->lane);
    s->lane_free[s->lane_free_count++] = q->lane;
    q->lane = NONE;
    q->cached = 0;
}

int med_scheduler_cancel(struct med_scheduler *s, uint64_t id)
{
    int32_t slot = med_id_index_find(&s->index, id);
    if (slot < 0 || s->slots[slot].place == PLACE_CANCELLED)
        return MED_E_NOT_FOUND;
    s->members_waiting -= s->slots[slot].member && s->slots[slot].place == PLACE_WAITING;
    leave_list(s, slot);
    join_tail(s, slot, PLACE_CANCELLED);
    if (!s->planned)
        drop_lane(s, &s->slots[slot]);
    return 0;
}

bool med_scheduler_has_work(const struct med_scheduler *s)
{
    return s->held > 0;
}

static void forget(struct med_scheduler *s, int32_t slot)
{
    struct sequence *q = &s->slots[slot];
    leave_list(s, slot);
    drop_lane(s, q);
    med_id_index_remove(&s->index, q->id);
    q->place = PLACE_FREE;
    q->next = s->slot_free;
    s->slot_free = slot;
    s->held--;
    s->finished++;
}

/* ---- plan ----------------------------------------------------------------------------------- */

static void preempt(struct med_scheduler *s, int32_t slot)
{
    leave_list(s, slot);
    drop_lane(s, &s->slots[slot]);
    join_head(s, slot, PLACE_WAITING);
    s->members_waiting += s->slots[slot].member;
    s->preemptions++;
}

static void put_item(struct med_scheduler *s, int32_t slot, int64_t tokens)
{
    const struct sequence *q = &s->slots[slot];
    MED_ASSERT((int64_t)s->batch.count < s->lanes);
    MED_ASSERT(tokens > 0 && q->cached + tokens <= known(q));
    MED_ASSERT(s->kv.counts[q->lane] * s->config.block_tokens >= q->cached + tokens);
    s->item_slots[s->batch.count] = slot;
    s->items[s->batch.count++] = (struct med_batch_item){
        .id = q->id,
        .user = q->user,
        .tokens = tokens,
        .context = q->cached,
        .position = q->generated,
        .prefill = q->prefilling,
        .samples = q->cached + tokens == known(q),
        .blocks = med_kv_blocks_table(&s->kv, q->lane),
        .block_count = s->kv.counts[q->lane],
    };
    if (q->prefilling) {
        s->batch.load.prefill_tokens += tokens;
        s->batch.load.prefill_pairs += med_step_pairs(tokens, q->cached);
    } else {
        s->batch.load.decode_sequences++;
        s->batch.load.decode_context_tokens += q->cached;
    }
}

/* Finds a block for the next token of `slot`, preempting from the newest. False when the newest
 * was this one. */
static bool make_room(struct med_scheduler *s, int32_t slot)
{
    const struct sequence *q = &s->slots[slot];
    if (q->cached < s->kv.counts[q->lane] * s->config.block_tokens) /* nearly always */
        return true;
    while (!med_kv_blocks_grow(&s->kv, q->lane, blocks_for(s, q->cached + 1))) {
        int32_t newest = s->running.tail;
        preempt(s, newest);
        if (newest == slot)
            return false;
    }
    return true;
}

static void plan_decodes(struct med_scheduler *s)
{
    for (int32_t slot = s->running.head, next; slot != NONE; slot = next) {
        if (!s->slots[slot].prefilling && make_room(s, slot))
            put_item(s, slot, 1);
        /* Preemption takes from the tail: what follows is read after it. */
        next = s->slots[slot].place == PLACE_RUNNING ? s->slots[slot].next : NONE;
    }
}

/* Puts the next chunk of a prefill; returns the budget left. */
static int64_t plan_chunk(struct med_scheduler *s, int32_t slot, int64_t budget)
{
    const struct sequence *q = &s->slots[slot];
    int64_t tokens = min64(known(q) - q->cached, budget);
    if (s->config.prefill_chunk_max > 0)
        tokens = min64(tokens, s->config.prefill_chunk_max);
    put_item(s, slot, tokens);
    return budget - tokens;
}

/* The sequence begins behind what the cache has of it. */
static void take_match(struct med_scheduler *s, struct sequence *q, struct prefix *p)
{
    med_kv_blocks_adopt(&s->kv, q->lane, &p->match);
    q->cached = p->match.count * s->config.block_tokens;
    if (p->admitted)
        return;
    p->admitted = true;
    p->cached_prompt_tokens = q->cached;
    s->prefix_queries += (uint64_t)q->prompt_tokens;
    s->prefix_hits += (uint64_t)q->cached;
}

/* Makes an item that was put compute `more` tokens more. */
static void extend_item(struct med_scheduler *s, struct med_batch_item *item, int64_t more,
                        int64_t known_tokens)
{
    struct med_step_load *load = &s->batch.load;
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
    for (size_t i = 0; i < s->batch.count && budget > 0; i++) {
        struct med_batch_item *item = &s->items[i];
        int64_t known_tokens = known(&s->slots[s->item_slots[i]]);
        int64_t more = min64(known_tokens - item->context - item->tokens, budget);
        if (more > 0)
            extend_item(s, item, more, known_tokens);
        budget -= more;
    }
}

/* Moves the head of the waiting to the running if a lane and blocks are there. */
static bool admit(struct med_scheduler *s)
{
    int32_t slot = s->waiting.head;
    struct sequence *q = &s->slots[slot];
    if (s->lane_free_count == 0)
        return false;
    if (s->config.batching != MED_BATCHING_CONTINUOUS && !q->member)
        return false;
    /* One block more than it takes now, so that it does not preempt at its first decode; never
     * more than it can ever use (the last token is not fed back), or it might wait for ever. */
    int64_t ever = q->prompt_tokens + q->output_tokens_max - 1;
    int64_t wanted = min64(blocks_for(s, known(q)) + 1, blocks_for(s, ever));
    int64_t available = med_kv_blocks_available(&s->kv);
    struct prefix *p = prefix_of(s, slot);
    if (p) {
        /* One token at least is computed: the next one is sampled from it. */
        med_kv_blocks_find(&s->kv, p->salt, p->tokens, (known(q) - 1) / s->config.block_tokens,
                           &p->match);
        wanted -= p->match.count;
        available -= med_kv_blocks_idle(&s->kv, &p->match);
    }
    if (wanted > available)
        return false;
    q->lane = s->lane_free[--s->lane_free_count];
    if (p)
        take_match(s, q, p);
    bool grown = med_kv_blocks_grow(&s->kv, q->lane, blocks_for(s, known(q)));
    MED_ASSERT(grown);
    q->prefilling = true;
    s->members_waiting -= q->member;
    leave_list(s, slot);
    join_tail(s, slot, PLACE_RUNNING);
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
    for (int32_t slot = s->waiting.head; slot != NONE; slot = s->slots[slot].next) {
        blocks -= blocks_for(s, s->slots[slot].prompt_tokens) + 1;
        if (s->members_waiting == s->lanes || (blocks < 0 && s->members_waiting > 0))
            break;
        s->slots[slot].member = true;
        s->members_waiting++;
    }
}

const struct med_batch *med_scheduler_plan(struct med_scheduler *s, int64_t now_ns)
{
    MED_ASSERT(!s->planned);
    s->planned = true;
    s->batch = (struct med_batch){.items = s->items};
    if (s->config.batching != MED_BATCHING_CONTINUOUS)
        start_batch(s, now_ns);
    uint64_t preemptions_before = s->preemptions;
    plan_decodes(s);
    int64_t budget = s->config.batched_tokens_max - (int64_t)s->batch.count;
    for (int32_t slot = s->running.head; slot != NONE && budget > 0; slot = s->slots[slot].next) {
        if (s->slots[slot].prefilling)
            budget = plan_chunk(s, slot, budget);
    }
    /* What was just preempted must not take the freed blocks straight back. */
    while (budget > 0 && s->waiting.head != NONE && s->preemptions == preemptions_before &&
           admit(s))
        budget = plan_chunk(s, s->running.tail, budget);
    if (s->config.prefill_chunk_max > 0)
        plan_rest(s, budget);
    return &s->batch;
}

/* ---- commit --------------------------------------------------------------------------------- */

static enum med_sequence_end end_of(const struct sequence *q, bool stop)
{
    if (stop)
        return MED_END_STOP;
    return q->generated == q->output_tokens_max ? MED_END_LENGTH : MED_END_NONE;
}

/* What the sequence has computed can be found from now on. */
static void publish(struct med_scheduler *s, int32_t slot)
{
    const struct sequence *q = &s->slots[slot];
    const struct prefix *p = prefix_of(s, slot);
    if (!p)
        return;
    med_kv_blocks_publish(&s->kv, q->lane, p->salt, p->tokens, q->cached / s->config.block_tokens);
}

size_t med_scheduler_commit(struct med_scheduler *s, const bool *stop,
                            const struct med_sequence_event **ret_events)
{
    MED_ASSERT(s->planned);
    s->planned = false;
    const struct prefix *prefixes = s->prefixes;
    size_t count = 0;
    for (size_t i = 0; i < s->batch.count; i++) {
        const struct med_batch_item *item = &s->items[i];
        int32_t slot = s->item_slots[i];
        struct sequence *q = &s->slots[slot];
        if (item->prefill)
            s->prompt_tokens += (uint64_t)item->tokens;
        if (q->place == PLACE_CANCELLED)
            continue;
        q->cached += item->tokens;
        if (prefixes)
            publish(s, slot);
        if (!item->samples)
            continue;
        q->prefilling = false;
        q->generated++;
        s->generated_tokens++;
        enum med_sequence_end end = end_of(q, stop && stop[i]);
        s->events[count] = (struct med_sequence_event){
            .id = item->id, .user = item->user, .position = item->position, .end = end};
        if (prefixes)
            s->events[count].cached_prompt_tokens = prefixes[slot].cached_prompt_tokens;
        count++;
        if (end != MED_END_NONE)
            forget(s, slot);
    }
    while (s->cancelled.head != NONE) {
        const struct sequence *q = &s->slots[s->cancelled.head];
        s->events[count++] = (struct med_sequence_event){
            .id = q->id, .user = q->user, .position = -1, .end = MED_END_CANCEL};
        forget(s, s->cancelled.head);
    }
    if (s->batch.count > 0)
        s->iterations++;
    s->batch.count = 0;
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
        .preemptions = s->preemptions,
        .prompt_tokens_total = s->prompt_tokens,
        .generated_tokens_total = s->generated_tokens,
        .finished_total = s->finished,
        .prefix_queries_total = s->prefix_queries,
        .prefix_hits_total = s->prefix_hits,
        .prefix_evictions_total = s->kv.cache.evictions,
    };
}

static void check_sequence(const struct med_scheduler *s, int32_t slot)
{
    const struct sequence *q = &s->slots[slot];
    MED_ASSERT(med_id_index_find(&s->index, q->id) == slot);
    MED_ASSERT(q->generated >= 0 && q->generated < q->output_tokens_max);
    MED_ASSERT(q->cached >= 0 && q->cached <= known(q));
    MED_ASSERT((q->place == PLACE_RUNNING) <= (q->lane != NONE));
    if (q->lane == NONE) {
        MED_ASSERT(q->cached == 0);
        return;
    }
    MED_ASSERT(q->place != PLACE_WAITING);
    MED_ASSERT(q->place == PLACE_RUNNING || s->planned);
    int64_t blocks = s->kv.counts[q->lane];
    MED_ASSERT(blocks >= blocks_for(s, q->cached));
    MED_ASSERT(blocks <= blocks_for(s, known(q)));
    if (!q->prefilling)
        MED_ASSERT(known(q) - q->cached == 1);
    /* Findable: what is computed, no more. */
    if (s->kv.sharing) {
        int64_t full = prefix_of(s, slot) ? q->cached / s->config.block_tokens : 0;
        MED_ASSERT(s->kv.published[q->lane] == full);
    }
}

/* Walks one list both ways of linking; returns how many of its sequences hold a lane. */
static int64_t check_list(const struct med_scheduler *s, const struct list *list, enum place place)
{
    int64_t count = 0, with_lane = 0;
    int32_t prev = NONE;
    for (int32_t slot = list->head; slot != NONE; slot = s->slots[slot].next) {
        MED_ASSERT(s->slots[slot].place == place);
        MED_ASSERT(s->slots[slot].prev == prev);
        check_sequence(s, slot);
        with_lane += s->slots[slot].lane != NONE;
        prev = slot;
        count++;
        MED_ASSERT(count <= s->config.table_max);
    }
    MED_ASSERT(list->tail == prev);
    MED_ASSERT(list->count == count);
    return with_lane;
}

void med_scheduler_check(const struct med_scheduler *s)
{
    int64_t with_lane = check_list(s, &s->waiting, PLACE_WAITING) +
                        check_list(s, &s->running, PLACE_RUNNING) +
                        check_list(s, &s->cancelled, PLACE_CANCELLED);
    MED_ASSERT(with_lane + s->lane_free_count == s->lanes);
    MED_ASSERT(s->waiting.count + s->running.count + s->cancelled.count == s->held);
    int64_t members = 0;
    for (int32_t slot = s->waiting.head; slot != NONE && s->slots[slot].member;
         slot = s->slots[slot].next)
        members++;
    MED_ASSERT(members == s->members_waiting); /* none lies behind another's back */
    MED_ASSERT(s->index.count == s->held);
    int64_t free_slots = 0;
    for (int32_t slot = s->slot_free; slot != NONE; slot = s->slots[slot].next) {
        MED_ASSERT(s->slots[slot].place == PLACE_FREE);
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
    if (!s->planned)
        return;
    int64_t tokens = s->batch.load.prefill_tokens + s->batch.load.decode_sequences;
    MED_ASSERT(tokens <= s->config.batched_tokens_max);
}
