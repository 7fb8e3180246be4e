/* SPDX-License-Identifier: Apache-2.0 */
/*
 * View: what metrics, logs and tests read of dispatch, the names of its enums, and the check of all
 * its invariants. Changes nothing. thread: loop.
 */
#include "router/dispatch/internal.h"

#include "base/assert.h"

const char *med_outcome_name(enum med_outcome outcome)
{
    static const char *const names[MED_OUTCOME_COUNT] = {
        [MED_OUTCOME_STOP] = "stop",
        [MED_OUTCOME_LENGTH] = "length",
        [MED_OUTCOME_ABORT_CLIENT] = "abort_client",
        [MED_OUTCOME_ABORT_DEADLINE] = "abort_deadline",
        [MED_OUTCOME_REJECTED] = "rejected",
        [MED_OUTCOME_WORKER_LOST] = "worker_lost",
        [MED_OUTCOME_ERROR] = "error",
    };
    MED_ASSERT(outcome < MED_OUTCOME_COUNT);
    return names[outcome];
}

const char *med_worker_state_name(enum med_worker_state state)
{
    static const char *const names[] = {
        [MED_WORKER_JOINING] = "joining", [MED_WORKER_READY] = "ready",
        [MED_WORKER_SUSPECT] = "suspect", [MED_WORKER_DRAINING] = "draining",
        [MED_WORKER_GONE] = "gone",
    };
    MED_ASSERT(state <= MED_WORKER_GONE);
    return names[state];
}

const char *med_reroute_name(enum med_reroute reason)
{
    static const char *const names[MED_REROUTE_COUNT] = {
        [MED_REROUTE_WORKER_LOST] = "worker_lost",
        [MED_REROUTE_SEND_FAILED] = "send_failed",
        [MED_REROUTE_WORKER_ERROR] = "worker_error",
    };
    MED_ASSERT(reason < MED_REROUTE_COUNT);
    return names[reason];
}

const char *med_worker_fault_name(enum med_worker_fault fault)
{
    static const char *const names[MED_WORKER_FAULT_COUNT] = {
        [MED_WORKER_FAULT_SILENCE] = "silence",
        [MED_WORKER_FAULT_LINK] = "link",
        [MED_WORKER_FAULT_ERROR] = "error",
    };
    MED_ASSERT(fault < MED_WORKER_FAULT_COUNT);
    return names[fault];
}

void med_dispatch_get_totals(const struct med_dispatch *d, struct med_dispatch_totals *ret_totals)
{
    *ret_totals = d->totals;
}

int64_t med_dispatch_queued(const struct med_dispatch *d)
{
    return d->totals.queued;
}

bool med_dispatch_get_worker(const struct med_dispatch *d, uint32_t index,
                             struct med_dispatch_worker_view *ret_view)
{
    if (index >= d->workers.count_max || !d->workers.rows[index].connected)
        return false;
    const struct worker *worker = &d->workers.rows[index];
    const struct med_dispatch_type *type = &d->types[worker->type].plan;
    /* Of the shortest prompt, since the view is of no request; the time is that of the last event
     * on its prefills, which makes it an upper bound. */
    struct prediction_input input = {.latency = type->has_latency ? &type->latency : NULL,
                                     .leases = &d->leases,
                                     .now_ns = worker->prefill_since_ns,
                                     .prompt_tokens = 1,
                                     .output_tokens = 1};
    struct prediction p = worker_predict(worker, &input);
    *ret_view = (struct med_dispatch_worker_view){.worker_id = worker->worker_id,
                                                  .type = worker->type,
                                                  .state = worker->state,
                                                  .in_flight = worker_in_flight(worker),
                                                  .drained = worker->draining &&
                                                             worker_in_flight(worker) == 0,
                                                  .silence_max_ns = fleet_silence_max_ns(d, worker),
                                                  .breaker_open = worker->breaker.open,
                                                  .breaker_until_ns = worker->breaker.until_ns,
                                                  .breaker_opened = worker->breaker.opened_total,
                                                  .faults = worker->breaker.faults_total,
                                                  .breaker_probing = worker->breaker.probe != NONE,
                                                  .last_fault = worker->breaker.last_fault,
                                                  .prefix_cache = prefix_is_trusted(worker),
                                                  .predicted_start_ns = (int64_t)(p.wait_ms * 1e6),
                                                  .stats = worker->stats};
    return true;
}

void med_dispatch_get_tables(const struct med_dispatch *d, struct med_dispatch_tables *ret_tables)
{
    *ret_tables = (struct med_dispatch_tables){.users = d->users.count,
                                               .users_max = d->users.count_max,
                                               .prefixes = d->prefixes.count,
                                               .prefixes_max = d->prefixes.count_max};
}

void med_dispatch_get_context(const struct med_dispatch *d,
                              struct med_dispatch_context *ret_context)
{
    struct med_dispatch_context context = {0};
    for (size_t t = 0; t < d->config.type_count; t++) {
        int64_t most = 0;
        if (d->types[t].plan.retired && d->workers.type_first[t] == NONE)
            continue;
        for (uint32_t i = d->workers.type_first[t]; i != NONE; i = d->workers.rows[i].next) {
            if (d->workers.rows[i].fit_tokens > most)
                most = d->workers.rows[i].fit_tokens;
        }
        if (most > context.connected)
            context.connected = most;
        if (most == 0)
            most = d->types[t].fit_tokens;
        if (most > context.planned)
            context.planned = most;
    }
    if (context.planned == INT64_MAX)
        context.planned = 0;
    *ret_context = context;
}

void med_dispatch_get_type(const struct med_dispatch *d, size_t type,
                           struct med_dispatch_type_view *ret_view)
{
    MED_ASSERT(type < d->config.type_count);
    int64_t wait_max_ns = admission_wait_max_ns(d);
    double rate = admission_rate(d, type);
    *ret_view = (struct med_dispatch_type_view){.ready = d->workers.ready[type],
                                                .queued = d->admission.queued[type],
                                                .rate_per_s = rate,
                                                .queued_cap = rate * (double)wait_max_ns / 1e9,
                                                .wait_max_ns = wait_max_ns,
                                                .wait_ns = admission_wait_ns(d, type),
                                                .counts = d->counts[type]};
    for (uint32_t i = d->workers.type_first[type]; i != NONE; i = d->workers.rows[i].next) {
        ret_view->workers++;
        ret_view->in_flight += worker_in_flight(&d->workers.rows[i]);
    }
}

void med_dispatch_get_lengths(const struct med_dispatch *d, int input_row,
                              struct med_dispatch_lengths *ret_lengths)
{
    MED_ASSERT(input_row >= 0 && (size_t)input_row < d->config.input_edge_count);
    *ret_lengths = d->lengths[input_row];
}

size_t med_dispatch_type_count(const struct med_dispatch *d)
{
    return d->config.type_count;
}

const char *med_dispatch_type_name(const struct med_dispatch *d, size_t type)
{
    MED_ASSERT(type < d->config.type_count);
    return d->types[type].plan.name;
}

uint64_t med_dispatch_picks(const struct med_dispatch *d, size_t type, int input_row,
                            int output_row)
{
    MED_ASSERT(type < d->config.type_count);
    MED_ASSERT(input_row >= 0 && (size_t)input_row < d->config.input_edge_count);
    MED_ASSERT(output_row >= 0 && (size_t)output_row < d->config.output_edge_count);
    size_t row = type * d->config.input_edge_count + (size_t)input_row;
    return d->picks[row * d->config.output_edge_count + (size_t)output_row];
}

bool med_dispatch_get_lease(const struct med_dispatch *d, uint64_t request,
                            struct med_dispatch_lease_view *ret_view)
{
    uint32_t lease = leases_find(&d->leases, request);
    if (lease == NONE)
        return false;
    const struct lease *row = &d->leases.rows[lease];
    *ret_view =
        (struct med_dispatch_lease_view){.worker = row->worker,
                                         .attempt = row->attempt,
                                         .type = row->type,
                                         .input_row = row->input_row,
                                         .output_row = row->output_row,
                                         .predicted_ttft_ns = row->predicted_ttft_ns,
                                         .predicted_tpot_ns = row->predicted_tpot_ns,
                                         .predicted_output_tokens = row->predicted_output_tokens,
                                         .tokens = row->tokens};
    return true;
}

void med_dispatch_bucket_of(const struct med_dispatch *d,
                            const struct med_dispatch_request *request, int *ret_input_row,
                            int *ret_output_row)
{
    double chances[MED_LIMIT_EDGES];
    *ret_input_row = predictor_input_row(&d->predictor, request->prompt_tokens);
    predictor_distribution(&d->predictor, *ret_input_row, 0, request->output_tokens_max,
                           users_factor(&d->users, request->user), chances);
    *ret_output_row = predictor_median_row(&d->predictor, chances);
}

struct sums {
    int64_t count, prompt_tokens, context_tokens, remaining_tokens;
};

static void check_list(const struct med_dispatch *d, uint32_t index, const struct lease_list *list,
                       bool decoding, struct sums *sums)
{
    int64_t count = 0;
    uint32_t previous = NONE;
    for (uint32_t i = list->first; i != NONE; i = d->leases.rows[i].next) {
        const struct lease *row = &d->leases.rows[i];
        MED_ASSERT(row->used);
        MED_ASSERT(row->worker == index);
        MED_ASSERT(row->previous == previous);
        MED_ASSERT((row->tokens > row->base) == decoding);
        MED_ASSERT(row->remaining >= 1);
        MED_ASSERT(!waiting_has(d, i));
        MED_ASSERT((d->deadlines.places[i] != NONE) == (row->deadline_ns > 0));
        if (decoding) {
            sums->context_tokens += row->prompt_tokens + row->tokens;
        } else {
            sums->prompt_tokens += row->prompt_tokens + row->base - row->cached;
        }
        sums->remaining_tokens += row->remaining;
        previous = i;
        count++;
    }
    MED_ASSERT(list->last == previous);
    MED_ASSERT(list->count == count);
    sums->count += count;
}

static void check_ready(const struct med_dispatch *d)
{
    int64_t ready[MED_LIMIT_WORKER_TYPES] = {0};
    for (uint32_t i = 0; i < d->workers.count_max; i++) {
        const struct worker *worker = &d->workers.rows[i];
        if (!worker->connected)
            continue;
        ready[worker->type] += worker->state == MED_WORKER_READY;
        MED_ASSERT(!worker->turned);
        uint32_t probe = worker->breaker.probe;
        MED_ASSERT(probe == NONE || (worker->breaker.open && d->leases.rows[probe].worker == i));
    }
    for (size_t t = 0; t < d->config.type_count; t++)
        MED_ASSERT(d->workers.ready[t] == ready[t]);
}

static int64_t check_workers(const struct med_dispatch *d)
{
    int64_t in_flight = 0;
    size_t connected = 0;
    for (uint32_t i = 0; i < d->workers.count_max; i++) {
        const struct worker *worker = &d->workers.rows[i];
        if (!worker->connected)
            continue;
        struct sums sums = {0};
        check_list(d, i, &worker->prefilling, false, &sums);
        check_list(d, i, &worker->decoding, true, &sums);
        MED_ASSERT(worker->prefill_tokens == sums.prompt_tokens);
        MED_ASSERT(worker->context_tokens == sums.context_tokens);
        MED_ASSERT(worker->remaining_tokens == sums.remaining_tokens);
        MED_ASSERT(worker->state != MED_WORKER_GONE || sums.count == 0);
        MED_ASSERT(sums.count <= worker->sequences_max);
        in_flight += sums.count;
        connected++;
    }
    MED_ASSERT(connected == d->workers.count);
    check_ready(d);
    size_t listed = 0;
    for (size_t t = 0; t < d->config.type_count; t++) {
        for (uint32_t i = d->workers.type_first[t]; i != NONE; i = d->workers.rows[i].next) {
            MED_ASSERT(d->workers.rows[i].connected);
            MED_ASSERT(d->workers.rows[i].type == t);
            listed++;
        }
    }
    MED_ASSERT(listed == connected);
    return in_flight;
}

/* What a floor promises, for a small and a large request; as it is now, touched or not. */
static void check_promise(const struct med_dispatch *d, const struct worker *worker)
{
    const struct med_dispatch_type *plan = &d->types[worker->type].plan;
    double floor = floors_of(d, worker);
    for (int64_t prompt = 1; prompt < 10000; prompt += 1999) {
        struct prediction_input input = {.latency = plan->has_latency ? &plan->latency : NULL,
                                         .leases = &d->leases,
                                         .now_ns = d->workers.floors.until_ns,
                                         .prompt_tokens = prompt,
                                         .output_tokens = 100};
        double score = worker_predict(worker, &input).finish_ms;
        MED_ASSERT(floor <= floors_limit(d, worker->type, score, 100));
    }
}

static void check_floors(const struct med_dispatch *d)
{
    const struct floors *f = &d->workers.floors;
    int64_t sound[MED_LIMIT_WORKER_TYPES] = {0};
    for (uint32_t i = 0; i < d->workers.count_max; i++) {
        const struct worker *worker = &d->workers.rows[i];
        MED_ASSERT(!worker->connected || i < f->top);
        if (worker->connected)
            check_promise(d, worker);
        if (i < f->top)
            sound[f->is_sound[i] ? f->types[i] : 0] += f->is_sound[i];
        if (i >= f->top || f->is_stale[i])
            continue;
        MED_ASSERT(f->ms[i] == floors_of(d, worker));
        MED_ASSERT(f->is_sound[i] == (worker->connected && worker_is_sound(worker)));
        MED_ASSERT(!worker->connected || f->types[i] == worker->type);
    }
    for (size_t t = 0; t < d->config.type_count; t++)
        MED_ASSERT(f->sound[t] == sound[t]);
}

void med_dispatch_check(const struct med_dispatch *d)
{
    check_floors(d);
    int64_t in_flight = check_workers(d);
    size_t used = 0;
    for (uint32_t i = 0; i < d->leases.count_max; i++) {
        const struct lease *row = &d->leases.rows[i];
        if (!row->used)
            continue;
        used++;
        MED_ASSERT(leases_find(&d->leases, row->request) == i);
        MED_ASSERT((row->worker == NONE) == waiting_has(d, i));
        MED_ASSERT(row->worker != NONE || d->deadlines.places[i] != NONE);
        MED_ASSERT((int64_t)row->tries <= d->config.attempts_max);
        MED_ASSERT(row->tokens >= 0 && row->tokens <= row->output_tokens_max);
    }
    users_check(&d->users);
    prefixes_check(&d->prefixes);
    admission_check(d);
    waiting_check(d);
    queue_check(&d->deadlines);
    MED_ASSERT(used == d->leases.count);
    MED_ASSERT(d->totals.in_flight == in_flight);
    MED_ASSERT(used == (size_t)(d->totals.in_flight + d->totals.queued));
    uint64_t ended = 0;
    for (size_t i = 0; i < MED_OUTCOME_COUNT; i++)
        ended += d->totals.outcomes[i];
    MED_ASSERT(d->totals.accepted == ended + used);
}
