/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fleet: workers join, beat, drain and go; what happens to their requests then.
 *
 * A worker is READY while its engine beats. Silent for suspect_after it is SUSPECT: it gets no new
 * requests and keeps those it has. Silent for gone_after it is GONE: its requests are dispatched
 * again or ended, and it is told to stop them, since the connection may still be there. A beat
 * brings a worker back from either; what it then says of the requests that were taken from it is
 * stale. DRAINING is for good: no new requests, those in flight go on.
 *
 * Health can only get worse with time, so the time of the next check is a lower bound that beats do
 * not move: one scan of the table per suspect_after at most, not one per beat. thread: loop.
 */
#include "router/dispatch/internal.h"

#include "base/assert.h"

#include <string.h>

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

static enum med_worker_state state_at(const struct workers *w, const struct worker *worker,
                                      int64_t now_ns)
{
    if (now_ns >= after(worker->stats.heartbeat_ns, w->gone_after_ns))
        return MED_WORKER_GONE;
    if (worker->draining)
        return MED_WORKER_DRAINING;
    if (now_ns >= after(worker->stats.heartbeat_ns, w->suspect_after_ns))
        return MED_WORKER_SUSPECT;
    return MED_WORKER_READY;
}

/* When its state may next change for the worse; never, once it is gone. */
static int64_t change_at(const struct workers *w, const struct worker *worker)
{
    if (worker->state == MED_WORKER_GONE)
        return INT64_MAX;
    bool ready = worker->state == MED_WORKER_READY;
    return after(worker->stats.heartbeat_ns, ready ? w->suspect_after_ns : w->gone_after_ns);
}

static void set_state(struct workers *w, struct worker *worker, int64_t now_ns)
{
    worker->state = state_at(w, worker, now_ns);
    int64_t at = change_at(w, worker);
    if (at < w->check_at_ns)
        w->check_at_ns = at;
}

/* Its requests, oldest first: those without a token go elsewhere, the others end. */
static void take_all(struct med_dispatch *d, int64_t now_ns, struct worker *worker, bool tell)
{
    while (worker->decoding.first != NONE)
        dispatch_again(d, now_ns, worker->decoding.first, MED_REROUTE_WORKER_LOST, tell);
    while (worker->prefilling.first != NONE)
        dispatch_again(d, now_ns, worker->prefilling.first, MED_REROUTE_WORKER_LOST, tell);
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
    worker->incarnation = hello->incarnation;
    worker->sequences_max = hello->sequences_max;
    worker->kv_tokens = hello->kv_tokens;
    worker->fit_tokens =
        hello->model_len_max < hello->kv_tokens ? hello->model_len_max : hello->kv_tokens;
    struct type *of = &d->types[type];
    if (of->fit_tokens == INT64_MAX || of->fit_tokens < worker->fit_tokens)
        of->fit_tokens = worker->fit_tokens;
    worker->stats.heartbeat_ns = now_ns;
    set_state(&d->workers, worker, now_ns);
    *ret_worker = index;
    dispatch_drain_queue(d, now_ns);
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
    enum med_worker_state before = row->state;
    set_state(&d->workers, row, now_ns);
    if (row->state == MED_WORKER_GONE && before != MED_WORKER_GONE)
        take_all(d, now_ns, row, true);
    dispatch_drain_queue(d, now_ns);
}

void med_dispatch_worker_drain(struct med_dispatch *d, int64_t now_ns, uint32_t worker)
{
    struct worker *row = get_worker(d, worker);
    row->draining = true;
    if (row->state != MED_WORKER_GONE)
        set_state(&d->workers, row, now_ns);
    if (row->state == MED_WORKER_GONE)
        take_all(d, now_ns, row, true);
}

void med_dispatch_worker_gone(struct med_dispatch *d, int64_t now_ns, uint32_t worker)
{
    struct worker *row = get_worker(d, worker);
    row->state = MED_WORKER_GONE;
    take_all(d, now_ns, row, false);
    workers_remove(&d->workers, worker);
    dispatch_drain_queue(d, now_ns);
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
            set_state(w, &w->rows[i], now_ns);
    }
    for (size_t i = 0; i < w->count_max; i++) {
        if (w->rows[i].connected && w->rows[i].state == MED_WORKER_GONE)
            take_all(d, now_ns, &w->rows[i], true);
    }
}
