/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fleet: workers join, beat, drain and go; what happens to their requests then.
 *
 * A worker is JOINING from its hello to its first word of how it is, then READY while its engine beats.
 * Silent for longer than suspect_after and 4 of its predicted iterations it is SUSPECT: it gets no new
 * requests, and those it has go elsewhere if that costs the client nothing (no token yet, or resume)
 * and another worker could take them; a lone worker keeps them, it may only be slow. Silent for
 * gone_after it is GONE: all its requests are dispatched again or ended, and it is told to stop them,
 * since the connection may still be there. A beat brings a worker back from either; what it then says of
 * the requests that were taken from it is stale. DRAINING is for good: no new requests, those in flight
 * go on, elsewhere if it falls silent, and when none is left it is drained.
 *
 * Silence, a connection that breaks under requests, and errors are faults of the worker (breaker.c),
 * unless it drains.
 *
 * Health can only get worse with time, so the time of the next check is a lower bound that beats do
 * not move: one scan of the table per suspect_after at most, not one per beat. thread: loop.
 */
#include "router/dispatch/internal.h"

#include "base/assert.h"

#include <string.h>

#define STEPS_MAX 4 /* predicted iterations without a beat */

static struct worker *get_worker(struct med_dispatch *d, uint32_t worker)
{
    MED_ASSERT(worker < d->workers.count_max);
    MED_ASSERT(d->workers.rows[worker].connected);
    return &d->workers.rows[worker];
}

static int64_t after(int64_t at_ns, int64_t more_ns)
{
    return at_ns > INT64_MAX - more_ns ? INT64_MAX : at_ns + more_ns;
}

int64_t fleet_silence_max_ns(const struct med_dispatch *d, const struct worker *worker)
{
    const struct med_dispatch_type *type = &d->types[worker->type].plan;
    int64_t most = d->workers.suspect_after_ns;
    if (!type->has_latency)
        return most;
    int64_t steps = dispatch_ns_of_ms(STEPS_MAX * worker_step_ms(worker, &type->latency));
    return steps > most ? steps : most;
}

/* For longer than one that works may be. */
static bool is_silent(const struct med_dispatch *d, const struct worker *worker, int64_t now_ns)
{
    return now_ns >= after(worker->stats.heartbeat_ns, fleet_silence_max_ns(d, worker));
}

static enum med_worker_state state_at(const struct med_dispatch *d, const struct worker *worker,
                                      int64_t now_ns)
{
    int64_t beat_ns = worker->stats.heartbeat_ns;
    int64_t silence_max = fleet_silence_max_ns(d, worker);
    int64_t gone_after = d->workers.gone_after_ns;
    if (now_ns >= after(beat_ns, gone_after > silence_max ? gone_after : silence_max))
        return MED_WORKER_GONE;
    if (worker->draining)
        return MED_WORKER_DRAINING;
    if (!worker->has_beaten)
        return MED_WORKER_JOINING;
    return is_silent(d, worker, now_ns) ? MED_WORKER_SUSPECT : MED_WORKER_READY;
}

/* When its state may next change for the worse; never, once it is gone. Its predicted iteration may
 * change until then, so a time that has passed without a change is followed by a look at the longer. */
static int64_t change_at(const struct med_dispatch *d, const struct worker *worker, int64_t now_ns)
{
    if (worker->state == MED_WORKER_GONE)
        return INT64_MAX;
    int64_t beat_ns = worker->stats.heartbeat_ns;
    int64_t silence_max = fleet_silence_max_ns(d, worker);
    bool may_fall_silent = worker->state == MED_WORKER_READY ||
                           (worker->state == MED_WORKER_DRAINING && !is_silent(d, worker, now_ns));
    int64_t first = may_fall_silent ? d->workers.suspect_after_ns : d->workers.gone_after_ns;
    int64_t at = after(beat_ns, first);
    return at > now_ns ? at : after(beat_ns, silence_max > first ? silence_max : first);
}

static void set_state(struct med_dispatch *d, struct worker *worker, int64_t now_ns)
{
    enum med_worker_state before = worker->state;
    enum med_worker_state state = state_at(d, worker, now_ns);
    admission_advance(d, now_ns);
    workers_set_state(&d->workers, worker, state);
    if (state != before && (state == MED_WORKER_SUSPECT || state == MED_WORKER_GONE))
        worker->turned = true;
    /* It stays draining, but what it has may go on elsewhere. */
    if (state == MED_WORKER_DRAINING && worker->silent_ns != worker->stats.heartbeat_ns &&
        is_silent(d, worker, now_ns))
        worker->turned = true;
    int64_t at = change_at(d, worker, now_ns);
    if (at < d->workers.check_at_ns)
        d->workers.check_at_ns = at;
}

/* Its requests, oldest first: they go elsewhere while dispatch_again finds that they may. */
static void take_all(struct med_dispatch *d, int64_t now_ns, struct worker *worker, bool tell)
{
    while (worker->decoding.first != NONE)
        dispatch_again(d, now_ns, worker->decoding.first, MED_REROUTE_WORKER_LOST, tell);
    while (worker->prefilling.first != NONE)
        dispatch_again(d, now_ns, worker->prefilling.first, MED_REROUTE_WORKER_LOST, tell);
}

/* Those that lose nothing by it, and that somebody else could serve. */
static void take_movable(struct med_dispatch *d, int64_t now_ns, const struct lease_list *list)
{
    uint32_t next;
    for (uint32_t i = list->first; i != NONE; i = next) {
        const struct lease *row = &d->leases.rows[i];
        next = row->next;
        bool again = row->tries < d->config.attempts_max &&
                     (row->tokens == 0 || d->config.resume) && pick_has_other(d, row);
        if (again)
            dispatch_again(d, now_ns, i, MED_REROUTE_WORKER_LOST, true);
    }
}

static void fault(struct med_dispatch *d, int64_t now_ns, struct worker *worker,
                  enum med_worker_fault cause)
{
    uint64_t opened = worker->breaker.opened_total;
    if (worker->draining)
        return;
    workers_fault(&d->workers, (uint32_t)(worker - d->workers.rows), d->config.breaker_faults,
                  now_ns);
    worker->breaker.last_fault = cause;
    opened = worker->breaker.opened_total - opened;
    d->totals.breaker_opened += opened;
    d->counts[worker->type].breaker_opened += opened;
    d->counts[worker->type].faults[cause]++;
}

void fleet_fault(struct med_dispatch *d, int64_t now_ns, uint32_t worker)
{
    fault(d, now_ns, get_worker(d, worker), MED_WORKER_FAULT_ERROR);
}

/* Its state has got worse: what it has goes elsewhere. */
static void react(struct med_dispatch *d, int64_t now_ns, struct worker *worker)
{
    if (!worker->turned)
        return;
    worker->turned = false;
    /* One fault for one silence, however long it gets. */
    bool first = worker->state == MED_WORKER_SUSPECT || worker_in_flight(worker) > 0;
    if (first && worker->silent_ns != worker->stats.heartbeat_ns) {
        worker->silent_ns = worker->stats.heartbeat_ns;
        fault(d, now_ns, worker, MED_WORKER_FAULT_SILENCE);
    }
    if (worker->state == MED_WORKER_GONE) {
        prefixes_forget(&d->prefixes, (uint32_t)(worker - d->workers.rows));
        take_all(d, now_ns, worker, true);
    } else {
        take_movable(d, now_ns, &worker->decoding);
        take_movable(d, now_ns, &worker->prefilling);
    }
}

/* A worker that was here before, under the same name, has its breaker back. */
static void recall_breaker(struct med_dispatch *d, struct worker *worker)
{
    for (size_t i = 0; i < d->workers.count_max; i++) {
        struct worker *old = &d->workers.rows[i];
        if (!old->connected && strcmp(old->worker_id, worker->worker_id) == 0) {
            worker->breaker = old->breaker;
            worker->breaker.probe = NONE;
            old->worker_id[0] = '\0';
        }
    }
}

static int find_type(const struct med_dispatch *d, const char *name)
{
    for (size_t t = 0; t < d->config.type_count; t++) {
        if (strcmp(d->types[t].plan.name, name) == 0)
            return (int)t;
    }
    return -1;
}

static int check_hello(const struct med_dispatch *d, const struct med_dispatch_worker_hello *hello,
                       struct med_err *err)
{
    size_t length = strlen(hello->worker_id);
    if (length == 0 || length > MED_LIMIT_NAME_BYTES) {
        return med_err_set(err, MED_E_INVALID, "worker id has %zu bytes, expected 1 to %d", length,
                           MED_LIMIT_NAME_BYTES);
    }
    if (hello->model_len_max < 1 || hello->sequences_max < 1 || hello->kv_tokens < 1) {
        return med_err_set(err, MED_E_INVALID,
                           "worker %s: model_len_max %lld, sequences_max %lld, kv_tokens %lld, "
                           "expected at least 1 of each",
                           hello->worker_id, (long long)hello->model_len_max,
                           (long long)hello->sequences_max, (long long)hello->kv_tokens);
    }
    for (size_t i = 0; i < d->workers.count_max; i++) {
        const struct worker *other = &d->workers.rows[i];
        if (other->connected && strcmp(other->worker_id, hello->worker_id) == 0) {
            return med_err_set(err, MED_E_INVALID, "worker id %s is connected already",
                               hello->worker_id);
        }
    }
    return 0;
}

int med_dispatch_worker_join(struct med_dispatch *d, int64_t now_ns,
                             const struct med_dispatch_worker_hello *hello, uint32_t *ret_worker,
                             struct med_err *err)
{
    int rc = check_hello(d, hello, err);
    if (rc < 0)
        return rc;
    int type = find_type(d, hello->type_name);
    /* One that a replan has left out may come back for as long as it is still needed. */
    if (type >= 0 && d->types[type].plan.retired && !dispatch_may_use_retired(d))
        type = -1;
    if (type < 0) {
        return med_err_set(err, MED_E_NOT_FOUND,
                           "worker %s is of type %s, which the plan does not use", hello->worker_id,
                           hello->type_name);
    }
    uint32_t index = workers_add(&d->workers, (size_t)type);
    if (index == NONE) {
        return med_err_set(err, MED_E_LIMIT, "worker %s: %lld workers are connected, the maximum",
                           hello->worker_id, (long long)d->config.workers_max);
    }
    struct worker *worker = &d->workers.rows[index];
    memcpy(worker->worker_id, hello->worker_id, strlen(hello->worker_id) + 1);
    recall_breaker(d, worker);
    worker->incarnation = hello->incarnation;
    worker->sequences_max = hello->sequences_max;
    worker->kv_tokens = hello->kv_tokens;
    worker->fit_tokens =
        hello->model_len_max < hello->kv_tokens ? hello->model_len_max : hello->kv_tokens;
    struct type *of = &d->types[type];
    of->fit_tokens = workers_fit_tokens(&d->workers, &of->plan, index);
    worker->stats.heartbeat_ns = now_ns;
    worker->silent_ns = INT64_MIN;
    set_state(d, worker, now_ns);
    *ret_worker = index;
    return 0;
}

void med_dispatch_worker_stats(struct med_dispatch *d, int64_t now_ns, uint32_t worker,
                               const struct med_dispatch_worker_stats *stats)
{
    struct worker *row = get_worker(d, worker);
    int64_t heartbeat = row->stats.heartbeat_ns;
    row->stats = *stats;
    /* A beat is never undone, and a clock that is ahead buys no time. */
    if (row->stats.heartbeat_ns > now_ns)
        row->stats.heartbeat_ns = now_ns;
    if (row->stats.heartbeat_ns < heartbeat)
        row->stats.heartbeat_ns = heartbeat;
    row->blocked_until_ns = now_ns;
    row->has_beaten = true;
    set_state(d, row, now_ns);
    react(d, now_ns, row);
    waiting_start_at(d, now_ns, worker);
}

void med_dispatch_worker_drain(struct med_dispatch *d, int64_t now_ns, uint32_t worker)
{
    struct worker *row = get_worker(d, worker);
    row->draining = true;
    if (row->state != MED_WORKER_GONE)
        set_state(d, row, now_ns);
    react(d, now_ns, row);
}

void med_dispatch_worker_gone(struct med_dispatch *d, int64_t now_ns, uint32_t worker)
{
    struct worker *row = get_worker(d, worker);
    if (worker_in_flight(row) > 0 && row->state != MED_WORKER_GONE)
        fault(d, now_ns, row, MED_WORKER_FAULT_LINK);
    admission_advance(d, now_ns);
    workers_set_state(&d->workers, row, MED_WORKER_GONE);
    prefixes_forget(&d->prefixes, worker);
    take_all(d, now_ns, row, false);
    struct type *of = &d->types[row->type];
    workers_remove(&d->workers, worker);
    of->fit_tokens = workers_fit_tokens(&d->workers, &of->plan, d->workers.type_first[row->type]);
}

void fleet_tick(struct med_dispatch *d, int64_t now_ns)
{
    struct workers *w = &d->workers;
    if (now_ns < w->check_at_ns)
        return;
    w->check_at_ns = INT64_MAX;
    /* First all states, so that no request moves from one lost worker to another. */
    for (size_t i = 0; i < w->count_max; i++) {
        if (w->rows[i].connected)
            set_state(d, &w->rows[i], now_ns);
    }
    for (size_t i = 0; i < w->count_max; i++) {
        if (w->rows[i].connected)
            react(d, now_ns, &w->rows[i]);
    }
}
