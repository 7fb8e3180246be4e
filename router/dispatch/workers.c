/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workers: the pool, and what each worker is expected to do next.
 *
 * Per worker, dispatch knows what it sent and what came back: requests without a token (their prompts
 * are being computed, in the order of sending, by chunks of what the token budget leaves beside the
 * decodes) and requests with tokens (decoding). From these sums and the type's latency model follow
 * the wait before a new prompt is begun, its first token and its last. The estimate costs O(1).
 * What the worker itself reports is shown and not believed: it is older than what dispatch saw.
 *
 * thread: loop.
 */
#include "router/dispatch/internal.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <math.h>
#include <string.h>

#define DUTY_NS  30e9 /* over which the share of prefill is averaged */
#define DUTY_MAX 0.75 /* decodes always get the rest, by the estimate */

int workers_init(struct workers *w, const struct med_dispatch_config *config)
{
    w->count_max = (size_t)config->workers_max;
    w->rows = med_calloc(w->count_max, sizeof *w->rows);
    w->type_first = med_calloc(config->type_count, sizeof *w->type_first);
    if (!w->rows || !w->type_first || floors_init(&w->floors, w->count_max) < 0)
        return MED_E_NOMEM;
    for (size_t t = 0; t < config->type_count; t++)
        w->type_first[t] = NONE;
    for (size_t i = 0; i < w->count_max; i++)
        w->rows[i].next = i + 1 < w->count_max ? (uint32_t)i + 1 : NONE;
    w->free_last = (uint32_t)w->count_max - 1;
    w->suspect_after_ns = config->suspect_after_ns;
    w->gone_after_ns = config->gone_after_ns;
    w->check_at_ns = INT64_MAX;
    return 0;
}

void workers_release(struct workers *w)
{
    med_free(w->rows);
    med_free(w->type_first);
    floors_release(&w->floors);
}

static void touch(struct workers *w, uint32_t index)
{
    w->rows[index].ahead.is_known = false;
    floors_touch(&w->floors, index);
}

void workers_touch_all(struct workers *w)
{
    for (uint32_t i = 0; i < w->floors.top; i++)
        touch(w, i);
}

uint32_t workers_add(struct workers *w, size_t type)
{
    uint32_t index = w->free;
    if (index == NONE)
        return NONE;
    struct worker *worker = &w->rows[index];
    MED_ASSERT(!worker->connected);
    w->free = worker->next;
    if (w->free == NONE)
        w->free_last = NONE;
    uint32_t first = w->type_first[type];
    *worker = (struct worker){.connected = true,
                              .state = MED_WORKER_JOINING,
                              .type = type,
                              .breaker = {.probe = NONE},
                              .prefilling = {NONE, NONE, 0},
                              .decoding = {NONE, NONE, 0},
                              .next = first,
                              .previous = NONE};
    if (first != NONE)
        w->rows[first].previous = index;
    w->type_first[type] = index;
    w->count++;
    w->floors.fit_is_known[type] = false;
    touch(w, index);
    return index;
}

void workers_remove(struct workers *w, uint32_t index)
{
    struct worker *worker = &w->rows[index];
    MED_ASSERT(worker->connected);
    MED_ASSERT(worker_in_flight(worker) == 0);
    if (worker->previous != NONE) {
        w->rows[worker->previous].next = worker->next;
    } else {
        w->type_first[worker->type] = worker->next;
    }
    if (worker->next != NONE)
        w->rows[worker->next].previous = worker->previous;
    workers_set_state(w, worker, MED_WORKER_GONE);
    worker->connected = false;
    worker->next = NONE;
    *(w->free_last != NONE ? &w->rows[w->free_last].next : &w->free) = index;
    w->free_last = index;
    w->count--;
    w->floors.fit_is_known[worker->type] = false;
}

int64_t workers_fit_tokens(const struct workers *w, const struct med_dispatch_type *plan,
                           uint32_t first)
{
    const struct med_latency *l = &plan->latency;
    int64_t most = 0;
    if (plan->has_latency)
        most = l->model_len_max < l->kv_tokens ? l->model_len_max : l->kv_tokens;
    for (uint32_t i = first; i != NONE; i = w->rows[i].next)
        most = w->rows[i].fit_tokens > most ? w->rows[i].fit_tokens : most;
    return most > 0 ? most : INT64_MAX;
}

void workers_set_state(struct workers *w, struct worker *worker, enum med_worker_state state)
{
    w->ready[worker->type] -= worker->state == MED_WORKER_READY;
    w->ready[worker->type] += state == MED_WORKER_READY;
    worker->state = state;
    touch(w, (uint32_t)(worker - w->rows));
}

bool worker_is_sound(const struct worker *worker)
{
    return worker->state == MED_WORKER_READY && !worker->breaker.open;
}

int64_t worker_in_flight(const struct worker *worker)
{
    return worker->prefilling.count + worker->decoding.count;
}

static void list_append(struct lease_list *list, struct leases *leases, uint32_t lease)
{
    struct lease *row = &leases->rows[lease];
    row->next = NONE;
    row->previous = list->last;
    if (list->last != NONE) {
        leases->rows[list->last].next = lease;
    } else {
        list->first = lease;
    }
    list->last = lease;
    list->count++;
}

static void list_remove(struct lease_list *list, struct leases *leases, uint32_t lease)
{
    struct lease *row = &leases->rows[lease];
    if (row->previous != NONE) {
        leases->rows[row->previous].next = row->next;
    } else {
        list->first = row->next;
    }
    if (row->next != NONE) {
        leases->rows[row->next].previous = row->previous;
    } else {
        list->last = row->previous;
    }
    row->next = NONE;
    row->previous = NONE;
    list->count--;
    MED_ASSERT(list->count >= 0);
}

static double duty_at(const struct worker *worker, int64_t now_ns)
{
    double elapsed_ns = (double)(now_ns - worker->prefill_duty_ns);
    return worker->prefill_duty * exp(-fmax(elapsed_ns, 0) / DUTY_NS);
}

static double pairs_of(int64_t prompt_tokens)
{
    return (double)prompt_tokens * ((double)prompt_tokens + 1) / 2;
}

/* Tokens that its worker computes before the first one of this attempt, and their pairs. */
static int64_t prefill_of(const struct lease *row)
{
    return row->prompt_tokens + row->base - row->cached;
}

static double prefill_pairs_of(const struct lease *row)
{
    return pairs_of(row->prompt_tokens + row->base) - pairs_of(row->cached);
}

void workers_attach(struct workers *w, uint32_t index, struct leases *leases, uint32_t lease,
                    int64_t now_ns, double added_ms)
{
    struct worker *worker = &w->rows[index];
    struct lease *row = &leases->rows[lease];
    touch(w, index);
    row->base = row->tokens;
    if (worker->prefilling.count == 0)
        worker->prefill_since_ns = now_ns;
    list_append(&worker->prefilling, leases, lease);
    worker->prefill_tokens += prefill_of(row);
    worker->prefill_pairs += prefill_pairs_of(row);
    breaker_sent(&worker->breaker, lease);
    worker->remaining_tokens += row->remaining;
    worker->prefill_duty = duty_at(worker, now_ns) + added_ms * 1e6 / DUTY_NS;
    worker->prefill_duty_ns = now_ns;
}

static void leave_prefill(struct worker *worker, struct leases *leases, uint32_t lease,
                          int64_t now_ns)
{
    const struct lease *row = &leases->rows[lease];
    if (worker->prefilling.first == lease)
        worker->prefill_since_ns = now_ns;
    list_remove(&worker->prefilling, leases, lease);
    worker->prefill_tokens -= prefill_of(row);
    worker->prefill_pairs -= prefill_pairs_of(row);
    MED_ASSERT(worker->prefill_tokens >= 0);
    if (worker->prefilling.count == 0)
        worker->prefill_pairs = 0; /* no rounding is carried over */
}

void workers_first_token(struct workers *w, uint32_t index, struct leases *leases, uint32_t lease,
                         int64_t now_ns)
{
    struct worker *worker = &w->rows[index];
    touch(w, index);
    breaker_first_token(&worker->breaker, lease);
    leave_prefill(worker, leases, lease, now_ns);
    list_append(&worker->decoding, leases, lease);
    worker->context_tokens += leases->rows[lease].prompt_tokens + leases->rows[lease].base;
}

void workers_tokens(struct workers *w, uint32_t index, int64_t count, int64_t remaining)
{
    w->rows[index].context_tokens += count;
    w->rows[index].remaining_tokens += remaining;
    touch(w, index);
}

void workers_success(struct workers *w, uint32_t index, uint32_t lease)
{
    breaker_success(&w->rows[index].breaker, lease);
    touch(w, index);
}

void workers_fault(struct workers *w, uint32_t index, int64_t limit, int64_t now_ns)
{
    breaker_fault(&w->rows[index].breaker, limit, now_ns);
    touch(w, index);
}

void workers_detach(struct workers *w, uint32_t index, struct leases *leases, uint32_t lease,
                    int64_t now_ns)
{
    struct worker *worker = &w->rows[index];
    struct lease *row = &leases->rows[lease];
    touch(w, index);
    breaker_left(&worker->breaker, lease);
    worker->remaining_tokens -= row->remaining;
    if (row->tokens == row->base) {
        leave_prefill(worker, leases, lease, now_ns);
    } else {
        list_remove(&worker->decoding, leases, lease);
        worker->context_tokens -= row->prompt_tokens + row->tokens;
    }
    MED_ASSERT(worker->context_tokens >= 0);
    MED_ASSERT(worker->remaining_tokens >= 0);
}

static double step_ms(const struct med_latency *latency, double prefill_tokens, double pairs,
                      int64_t sequences, double context_tokens)
{
    struct med_step_load load = {.prefill_tokens = llround(prefill_tokens),
                                 .prefill_pairs = llround(pairs),
                                 .decode_sequences = sequences,
                                 .decode_context_tokens = llround(context_tokens)};
    return med_latency_step_ms(latency, &load);
}

/* Prefill tokens of one iteration. */
static double chunk_of(const struct worker *worker, const struct med_latency *latency)
{
    return fmax(1, (double)(latency->batched_tokens_max - worker->decoding.count));
}

/* Milliseconds to compute prompts of `tokens` in all, in chunks beside the worker's decodes. */
static double prefill_ms(const struct worker *worker, const struct med_latency *latency,
                         double tokens, double pairs)
{
    if (tokens <= 0)
        return 0;
    int64_t sequences = worker->decoding.count;
    double chunk = chunk_of(worker, latency);
    double full = floor(tokens / chunk);
    double rest = tokens - full * chunk;
    double context = (double)worker->context_tokens;
    double total = 0;
    if (full > 0)
        total += full * step_ms(latency, chunk, pairs * chunk / tokens, sequences, context);
    if (rest > 0)
        total += step_ms(latency, rest, pairs * rest / tokens, sequences, context);
    return total;
}

/* Milliseconds until the worker has a place and KV memory for one more prompt. */
static double room_ms(const struct worker *worker, double token_ms, int64_t prompt_tokens)
{
    double held = (double)worker_in_flight(worker);
    double ends = held + 1 - (double)worker->sequences_max;
    double kv = (double)(worker->context_tokens + worker->prefill_tokens);
    double lacking = kv + (double)prompt_tokens + 1 - (double)worker->kv_tokens;
    if (lacking > 0 && held > 0)
        ends = fmax(ends, ceil(lacking / (kv / held)));
    if (ends <= 0)
        return 0;
    /* Remaining lengths spread evenly from 0 to twice their mean: the k-th of n ends at k/(n+1). */
    double mean = (double)worker->remaining_tokens / held;
    return 2 * mean * ends / (held + 1) * token_ms;
}

double worker_step_ms(const struct worker *worker, const struct med_latency *latency)
{
    double tokens = fmin((double)worker->prefill_tokens, chunk_of(worker, latency));
    if (worker_in_flight(worker) == 0)
        return 0;
    double pairs = tokens > 0 ? worker->prefill_pairs * tokens / (double)worker->prefill_tokens : 0;
    return step_ms(latency, tokens, pairs, worker->decoding.count, (double)worker->context_tokens);
}

double worker_floor(const struct worker *worker, const struct med_latency *latency,
                    int64_t until_ns)
{
    if (!latency)
        return (double)(worker->prefill_tokens + worker->remaining_tokens);
    double context = (double)(worker->context_tokens + worker->prefill_tokens);
    context = fmin(context, (double)worker->kv_tokens);
    double duty = fmin(duty_at(worker, until_ns), DUTY_MAX);
    return step_ms(latency, 0, 0, worker_in_flight(worker) + 1, context) / (1 - duty);
}

struct worker_ahead worker_look_ahead(const struct worker *worker,
                                      const struct med_latency *latency)
{
    return (struct worker_ahead){
        .is_known = true,
        .prefill =
            prefill_ms(worker, latency, (double)worker->prefill_tokens, worker->prefill_pairs),
        .decode = step_ms(latency, 0, 0, worker->decoding.count, (double)worker->context_tokens),
    };
}

/* Milliseconds until a new prompt is begun, by what is computed before it. */
static double turn_ms(const struct worker *worker, const struct worker_ahead *ahead,
                      const struct prediction_input *input)
{
    if (worker->prefilling.count == 0)
        return ahead->decode / 2; /* half an iteration; 0 without any */
    /* Part of the first prompt is done by now; no more than all of it. */
    const struct lease *first = &input->leases->rows[worker->prefilling.first];
    double part = (double)prefill_of(first) / (double)worker->prefill_tokens;
    double elapsed = (double)(input->now_ns - worker->prefill_since_ns) / 1e6;
    return ahead->prefill - fmin(fmax(elapsed, 0), ahead->prefill * part);
}

struct prediction worker_predict(const struct worker *worker, const struct prediction_input *input)
{
    const struct med_latency *latency = input->latency;
    int64_t prompt_tokens = input->prompt_tokens;
    int64_t own_tokens = prompt_tokens - input->cached_tokens;
    MED_ASSERT(own_tokens > 0);
    if (!latency) {
        int64_t tokens = worker->prefill_tokens + worker->remaining_tokens;
        return (struct prediction){.finish_ms = (double)tokens};
    }
    struct worker_ahead ahead =
        worker->ahead.is_known ? worker->ahead : worker_look_ahead(worker, latency);
    struct prediction p = {0};
    /* What does not fit is not in the iterations. */
    double context = (double)(worker->context_tokens + worker->prefill_tokens + prompt_tokens);
    context = fmin(context, (double)worker->kv_tokens);
    /* Its decodes share iterations with the prompts of those that come later. */
    double duty = fmin(duty_at(worker, input->now_ns), DUTY_MAX);
    p.tpot_ms = step_ms(latency, 0, 0, worker_in_flight(worker) + 1, context) / (1 - duty);
    p.room_ms = room_ms(worker, p.tpot_ms, prompt_tokens);
    p.wait_ms = fmax(turn_ms(worker, &ahead, input), p.room_ms);
    double decodes_ms = (input->output_tokens - 1) * p.tpot_ms;
    p.ttft_ms = p.wait_ms;
    p.finish_ms = p.ttft_ms + decodes_ms;
    if (input->finish_max_ms > 0 && p.finish_ms > input->finish_max_ms)
        return p;
    double own_pairs = pairs_of(prompt_tokens) - pairs_of(input->cached_tokens);
    double with = prefill_ms(worker, latency, (double)(worker->prefill_tokens + own_tokens),
                             worker->prefill_pairs + own_pairs);
    double chunks = ceil((double)own_tokens / chunk_of(worker, latency));
    p.added_ms = fmax(0, with - ahead.prefill - chunks * ahead.decode);
    p.ttft_ms = p.wait_ms + fmax(0, with - ahead.prefill);
    p.finish_ms = p.ttft_ms + decodes_ms;
    return p;
}
