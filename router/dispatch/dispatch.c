/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dispatch: the life of a request. See dispatch.h for what it guarantees; the nouns have their own
 * files (predictor, shares, queue, leases, workers), pick.c chooses, waiting.c knows whose turn it is,
 * fleet.c keeps the workers, view.c shows and checks.
 *
 * A request is queued or in flight. `dispatch_start` is the only way into flight; `dispatch_end` the only way
 * out of the table, so that an accepted request ends exactly once; `dispatch_again` takes it from a
 * worker that failed. All three leave every table consistent before they call the shell, and touch
 * the request no more after `end`.
 *
 * thread: loop. Nothing is allocated after new.
 */
#include "router/dispatch/internal.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"

#include <math.h>
#include <string.h>

#define BLOCKED_NS     (10 * MED_NS_PER_MS) /* a link that took no send */
#define TABLE_MAX      (1 << 24)            /* of users_max and prefixes_max */
#define PRIORITY_MAX   1000                 /* more is taken for this, either way */
#define REQUESTS_LIMIT (1 << 24) /* of requests_max: rows are indices of 32 bits, and memory */

/* ---- creation ---- */

static int check_counts(const struct med_dispatch_config *c, struct med_err *err)
{
    if (c->type_count == 0 || c->type_count > MED_LIMIT_WORKER_TYPES) {
        return med_err_set(err, MED_E_INVALID, "dispatch: %zu worker types, expected 1 to %d",
                           c->type_count, MED_LIMIT_WORKER_TYPES);
    }
    if (c->input_edge_count == 0 || c->input_edge_count > MED_LIMIT_EDGES ||
        c->output_edge_count == 0 || c->output_edge_count > MED_LIMIT_EDGES) {
        return med_err_set(err, MED_E_INVALID,
                           "dispatch: %zu input and %zu output edges, expected 1 to %d of each",
                           c->input_edge_count, c->output_edge_count, MED_LIMIT_EDGES);
    }
    if (c->bucket_count == 0)
        return med_err_set(err, MED_E_INVALID, "dispatch: the plan assigns no bucket");
    if (c->requests_max < 1 || c->requests_max > REQUESTS_LIMIT) {
        return med_err_set(err, MED_E_INVALID, "dispatch: requests_max is %lld, expected 1 to %d",
                           (long long)c->requests_max, REQUESTS_LIMIT);
    }
    if (c->workers_max < 1 || c->workers_max > MED_LIMIT_WORKERS) {
        return med_err_set(err, MED_E_INVALID, "dispatch: workers_max is %lld, expected 1 to %d",
                           (long long)c->workers_max, MED_LIMIT_WORKERS);
    }
    if (c->queue_max < 0 || c->attempts_max < 1) {
        return med_err_set(
            err, MED_E_INVALID,
            "dispatch: queue_max %lld and attempts_max %lld, expected at least 0 and 1",
            (long long)c->queue_max, (long long)c->attempts_max);
    }
    if (c->policy >= MED_POLICY_COUNT || c->users_max < 0 || c->users_max > TABLE_MAX ||
        c->prefixes_max < 0 || c->prefixes_max > TABLE_MAX || c->priority_step_ns < 0) {
        return med_err_set(err, MED_E_INVALID,
                           "dispatch: policy %d, users_max %lld, prefixes_max %lld, "
                           "priority_step_ns %lld: expected a policy, 0 to %d and a time >= 0",
                           (int)c->policy, (long long)c->users_max, (long long)c->prefixes_max,
                           (long long)c->priority_step_ns, TABLE_MAX);
    }
    if (c->ttft_objective_ns < 0 || c->queue_wait_ns < 0 || c->suspect_after_ns <= 0 ||
        c->gone_after_ns < c->suspect_after_ns) {
        return med_err_set(err, MED_E_INVALID,
                           "dispatch: a duration is negative, or gone_after is less than "
                           "suspect_after, which must be > 0");
    }
    return 0;
}

static int check_edges(const double *edges, size_t count, const char *what, struct med_err *err)
{
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(edges[i]) || edges[i] <= (i > 0 ? edges[i - 1] : 0)) {
            return med_err_set(err, MED_E_INVALID,
                               "dispatch: %s edge %zu is %g, expected rising numbers > 0", what, i,
                               edges[i]);
        }
    }
    return 0;
}

static int check_bucket(const struct med_dispatch_config *c, size_t index, struct med_err *err)
{
    const struct med_dispatch_bucket *b = &c->buckets[index];
    double sum = 0;
    bool ok = b->input_row >= 0 && (size_t)b->input_row < c->input_edge_count &&
              b->output_row >= 0 && (size_t)b->output_row < c->output_edge_count;
    ok = ok && isfinite(b->rate_per_s) && b->rate_per_s > 0;
    ok = ok && isfinite(b->input_mean) && b->input_mean > 0;
    ok = ok && isfinite(b->output_mean) && b->output_mean > 0;
    for (size_t t = 0; t < c->type_count; t++) {
        ok = ok && isfinite(b->shares[t]) && b->shares[t] >= 0;
        sum += b->shares[t];
    }
    if (!ok || !(fabs(sum - 1) <= 1e-6)) {
        return med_err_set(err, MED_E_INVALID,
                           "dispatch: bucket %zu (row %d, %d; rate %g; shares sum to %g): expected "
                           "rows inside the edges, a rate and means > 0, shares that sum to 1",
                           index, b->input_row, b->output_row, b->rate_per_s, sum);
    }
    for (size_t i = 0; i < index; i++) {
        if (c->buckets[i].input_row == b->input_row && c->buckets[i].output_row == b->output_row) {
            return med_err_set(err, MED_E_INVALID, "dispatch: bucket (%d, %d) is assigned twice",
                               b->input_row, b->output_row);
        }
    }
    return 0;
}

int dispatch_check_config(const struct med_dispatch_config *c, struct med_err *err)
{
    int rc = check_counts(c, err);
    if (rc == 0)
        rc = check_edges(c->input_edges, c->input_edge_count, "input", err);
    if (rc == 0)
        rc = check_edges(c->output_edges, c->output_edge_count, "output", err);
    for (size_t b = 0; rc == 0 && b < c->bucket_count; b++)
        rc = check_bucket(c, b, err);
    return rc;
}

static int init_types(struct med_dispatch *d, const struct med_dispatch_config *config)
{
    d->types = med_calloc(config->type_count, sizeof *d->types);
    if (!d->types)
        return MED_E_NOMEM;
    for (size_t t = 0; t < config->type_count; t++) {
        struct type *type = &d->types[t];
        type->plan = config->types[t];
        type->plan.retired = false;
        type->fit_tokens = workers_fit_tokens(&d->workers, &type->plan, NONE);
    }
    return 0;
}

int med_dispatch_new(const struct med_dispatch_config *config, const struct med_dispatch_ops *ops,
                     struct med_dispatch **ret_dispatch, struct med_err *err)
{
    int rc = dispatch_check_config(config, err);
    if (rc < 0)
        return rc;
    struct med_dispatch *d = med_calloc(1, sizeof *d);
    if (!d)
        return med_err_set(err, MED_E_NOMEM, "dispatch: no memory");
    d->config = *config;
    d->config.types = NULL;
    d->config.input_edges = NULL;
    d->config.output_edges = NULL;
    d->config.buckets = NULL;
    d->ops = *ops;
    size_t requests = (size_t)config->requests_max;
    size_t cells = config->input_edge_count * config->output_edge_count;
    d->picks = med_calloc(config->type_count * cells, sizeof *d->picks);
    rc = d->picks ? init_types(d, config) : MED_E_NOMEM;
    if (rc == 0)
        rc = predictor_init(&d->predictor, config);
    if (rc == 0)
        rc = shares_init(&d->shares, config);
    if (rc == 0)
        rc = leases_init(&d->leases, requests);
    if (rc == 0)
        rc = waiting_init(d, requests);
    if (rc == 0)
        rc = queue_init(&d->deadlines, requests);
    if (rc == 0)
        rc = workers_init(&d->workers, config);
    if (rc == 0)
        rc = users_init(&d->users, (size_t)config->users_max);
    if (rc == 0) {
        rc = prefixes_init(&d->prefixes, (size_t)config->prefixes_max, (size_t)config->workers_max,
                           requests);
    }
    if (rc == 0)
        rc = decisions_init(&d->decisions);
    if (rc < 0) {
        med_dispatch_free(d);
        return med_err_set(err, rc, "dispatch: no memory for %zu requests and %lld workers",
                           requests, (long long)config->workers_max);
    }
    shares_balance(&d->shares, &d->predictor, DISPATCH_START_ROUNDS);
    *ret_dispatch = d;
    return 0;
}

void med_dispatch_free(struct med_dispatch *d)
{
    if (!d)
        return;
    MED_ASSERT(d->leases.count == 0);
    dispatch_release_before(d);
    predictor_release(&d->predictor);
    shares_release(&d->shares);
    leases_release(&d->leases);
    waiting_release(d);
    queue_release(&d->deadlines);
    workers_release(&d->workers);
    users_release(&d->users);
    prefixes_release(&d->prefixes);
    decisions_release(&d->decisions);
    med_free(d->picks);
    med_free(d->types);
    med_free(d);
}

/* ---- into flight and out of it ---- */

int64_t dispatch_ns_of_ms(double ms)
{
    double ns = ms * 1e6;
    return ns < 9e18 ? (int64_t)ns : INT64_MAX;
}

static void count_pick(struct med_dispatch *d, const struct lease *row, const struct pick *pick)
{
    size_t cell = (size_t)row->input_row * d->config.output_edge_count + (size_t)row->output_row;
    d->picks[pick->type * d->config.input_edge_count * d->config.output_edge_count + cell]++;
    policy_take(d, pick->worker);
    if (pick->cached_tokens > 0) {
        d->totals.affinity++;
        d->totals.affinity_tokens += (uint64_t)pick->cached_tokens;
        d->counts[pick->type].affinity++;
        d->counts[pick->type].affinity_tokens += (uint64_t)pick->cached_tokens;
    }
    d->counts[pick->type].prompts += row->prefix_count > 0;
    if (d->config.policy != MED_POLICY_PLAN)
        return;
    if (pick->has_plan)
        shares_take(&d->shares, row->input_row, pick->weights, pick->planned_type);
    if (!pick->has_plan || pick->type != pick->planned_type)
        d->totals.spills++;
}

bool dispatch_start(struct med_dispatch *d, int64_t now_ns, uint32_t lease)
{
    struct lease *row = &d->leases.rows[lease];
    MED_ASSERT(row->worker == NONE);
    prefixes_find(&d->prefixes, lease, row->prefix_count);
    for (;;) {
        struct pick pick = pick_worker(d, row, now_ns);
        if (pick.worker == NONE)
            return false;
        struct worker *worker = &d->workers.rows[pick.worker];
        row->attempt++;
        row->tries++;
        if (d->ops.send(d->ops.arg, row->request, row->attempt, pick.worker) < 0) {
            /* Nothing left this process, so it was no attempt. The pick is made again without
             * this worker, which ends because each round blocks one. */
            row->attempt--;
            row->tries--;
            worker->blocked_until_ns = now_ns + BLOCKED_NS;
            d->totals.reroutes[MED_REROUTE_SEND_FAILED]++;
            continue;
        }
        row->worker = pick.worker;
        row->type = (uint16_t)pick.type;
        row->predicted_ttft_ns = dispatch_ns_of_ms(pick.prediction.ttft_ms);
        row->predicted_tpot_ns = dispatch_ns_of_ms(pick.prediction.tpot_ms);
        decisions_add(d, now_ns, row, &pick);
        row->cached = pick.cached_tokens;
        prefixes_sent(&d->prefixes, lease, row->prefix_count, pick.worker);
        workers_attach(&d->workers, pick.worker, &d->leases, lease, now_ns,
                       pick.prediction.added_ms);
        count_pick(d, row, &pick);
        admission_started(d, now_ns, pick.type);
        (void)queue_remove(&d->deadlines, lease); /* not there: it did not wait */
        if (row->deadline_ns > 0)
            queue_push(&d->deadlines, lease, row->deadline_ns);
        d->totals.in_flight++;
        return true;
    }
}

static void enqueue(struct med_dispatch *d, int64_t now_ns, uint32_t lease)
{
    struct lease *row = &d->leases.rows[lease];
    int64_t until = row->deadline_ns > 0 ? row->deadline_ns : now_ns + d->config.queue_wait_ns;
    admission_enter(d, now_ns, row);
    waiting_add(d, now_ns, lease);
    queue_push(&d->deadlines, lease, until);
}

/* Takes a request from wherever it is. */
static void detach(struct med_dispatch *d, int64_t now_ns, uint32_t lease)
{
    struct lease *row = &d->leases.rows[lease];
    (void)queue_remove(&d->deadlines, lease); /* not there: it is in flight, without a deadline */
    if (row->worker == NONE) {
        if (waiting_remove(d, lease))
            admission_leave(d, now_ns, row);
        return;
    }
    workers_detach(&d->workers, row->worker, &d->leases, lease, now_ns);
    row->worker = NONE;
    d->totals.in_flight--;
    MED_ASSERT(d->totals.in_flight >= 0);
}

/* What an answer that has ended says of the predictions. */
static void learn(struct med_dispatch *d, const struct lease *row, bool cut)
{
    double anybody = predictor_mean(&d->predictor, row->input_row, 0, row->output_tokens_max, 1);
    users_on_end(&d->users, row->user, anybody, row->tokens, cut);
    struct med_dispatch_lengths *lengths = &d->lengths[row->input_row];
    double predicted = (double)row->predicted_output_tokens;
    double actual = (double)row->tokens;
    lengths->count++;
    lengths->predicted += predicted;
    lengths->actual += actual;
    lengths->error += fabs(predicted - actual);
}

void dispatch_end(struct med_dispatch *d, int64_t now_ns, uint32_t lease, enum med_outcome outcome,
                  int code)
{
    struct lease *row = &d->leases.rows[lease];
    MED_ASSERT(row->used);
    uint64_t request = row->request;
    detach(d, now_ns, lease);
    if (outcome == MED_OUTCOME_STOP || outcome == MED_OUTCOME_LENGTH) {
        learn(d, row, outcome == MED_OUTCOME_LENGTH);
        predictor_on_end(&d->predictor, row->input_row, row->tokens, outcome == MED_OUTCOME_LENGTH);
        shares_on_end(&d->shares, &d->predictor);
    }
    leases_remove(&d->leases, lease);
    d->totals.outcomes[outcome]++;
    d->ops.end(d->ops.arg, request, outcome, code);
}

static void tell_cancel(struct med_dispatch *d, const struct lease *row)
{
    if (row->worker != NONE)
        d->ops.cancel(d->ops.arg, row->request, row->attempt, row->worker);
}

void dispatch_again(struct med_dispatch *d, int64_t now_ns, uint32_t lease, enum med_reroute reason,
                    bool tell)
{
    struct lease *row = &d->leases.rows[lease];
    MED_ASSERT(row->worker != NONE);
    bool lost = reason == MED_REROUTE_WORKER_LOST;
    if (reason == MED_REROUTE_WORKER_ERROR)
        fleet_fault(d, now_ns, row->worker);
    if (tell)
        tell_cancel(d, row);
    /* One that kills its workers must not take them all; one whose workers leave may go on. */
    if (d->workers.rows[row->worker].draining)
        row->tries--;
    if (row->whole || row->tokens == row->output_tokens_max) {
        dispatch_end(d, now_ns, lease, row->whole ? MED_OUTCOME_STOP : MED_OUTCOME_LENGTH, 0);
        return;
    }
    if ((row->tokens > 0 && !d->config.resume) || row->tries >= d->config.attempts_max) {
        dispatch_end(d, now_ns, lease, lost ? MED_OUTCOME_WORKER_LOST : MED_OUTCOME_ERROR,
                     lost ? MED_E_WORKER_LOST : MED_E_INTERNAL);
        return;
    }
    row->avoid = row->worker;
    detach(d, now_ns, lease);
    d->totals.reroutes[reason]++;
    if (!dispatch_start(d, now_ns, lease))
        enqueue(d, now_ns, lease);
}

/* ---- requests ---- */

/* By deadline, or by arrival as if the longest wait were one; priority counts as time. */
static int64_t turn_of(const struct med_dispatch *d, const struct lease *row, int64_t now_ns)
{
    int64_t step = d->config.priority_step_ns;
    if (step == 0)
        step = d->config.queue_wait_ns / 8;
    int64_t until = row->deadline_ns > 0 ? row->deadline_ns : now_ns + d->config.queue_wait_ns;
    int64_t shift = step * row->priority;
    return shift > 0 && until > INT64_MAX - shift ? INT64_MAX : until + shift;
}

static int32_t clamp_priority(int32_t priority)
{
    if (priority > PRIORITY_MAX)
        return PRIORITY_MAX;
    return priority < -PRIORITY_MAX ? -PRIORITY_MAX : priority;
}

static int refuse(struct med_dispatch *d, int code)
{
    if (code == MED_E_INVALID) {
        d->totals.refused_invalid++;
    } else if (code == MED_E_NO_WORKER) {
        d->totals.refused_no_worker++;
    } else {
        d->totals.refused_overload++;
    }
    return code;
}

static bool fits_some_type(const struct med_dispatch *d, const struct med_dispatch_request *request)
{
    if (request->prompt_tokens < 1 || request->output_tokens_max < 1 ||
        request->prompt_tokens > MED_LIMIT_PROMPT_TOKENS ||
        request->output_tokens_max > MED_LIMIT_OUTPUT_TOKENS)
        return false;
    bool retired_too = dispatch_may_use_retired(d);
    for (size_t t = 0; t < d->config.type_count; t++) {
        if (d->types[t].plan.retired && (!retired_too || d->workers.type_first[t] == NONE))
            continue;
        if (request->prompt_tokens + request->output_tokens_max <= d->types[t].fit_tokens)
            return true;
    }
    return false;
}

static void take_prefixes(struct med_dispatch *d, uint32_t lease,
                          const struct med_dispatch_request *request)
{
    MED_ASSERT(request->prefix_count <= MED_DISPATCH_PREFIX_MAX);
    size_t count = d->config.prefixes_max > 0 ? request->prefix_count : 0;
    while (count > 0 && (int64_t)count * MED_DISPATCH_PREFIX_TOKENS >= request->prompt_tokens)
        count--;
    d->leases.rows[lease].prefix_count = count;
    if (count > 0)
        memcpy(d->prefixes.hashes[lease].at, request->prefixes, count * sizeof(uint64_t));
}

int med_dispatch_submit(struct med_dispatch *d, int64_t now_ns,
                        const struct med_dispatch_request *request)
{
    MED_ASSERT(leases_find(&d->leases, request->request) == NONE);
    if (!fits_some_type(d, request))
        return refuse(d, MED_E_INVALID);
    if (d->workers.count == 0)
        return refuse(d, MED_E_NO_WORKER);
    uint32_t lease = leases_add(&d->leases, request->request);
    if (lease == NONE) {
        d->totals.refused_table++;
        return refuse(d, MED_E_OVERLOAD);
    }
    struct lease *row = &d->leases.rows[lease];
    row->prompt_tokens = request->prompt_tokens;
    row->output_tokens_max = request->output_tokens_max;
    row->arrived_ns = now_ns;
    row->deadline_ns = request->deadline_ns;
    take_prefixes(d, lease, request);
    row->priority = clamp_priority(request->priority);
    row->user = request->user;
    row->turn_ns = turn_of(d, row, now_ns);
    row->input_row = (int16_t)predictor_input_row(&d->predictor, request->prompt_tokens);
    double chances[MED_LIMIT_EDGES];
    row->factor = users_factor(&d->users, row->user);
    predictor_distribution(&d->predictor, row->input_row, 0, row->output_tokens_max, row->factor,
                           chances);
    row->output_row = (int16_t)predictor_median_row(&d->predictor, chances);
    row->remaining = llround(
        predictor_mean(&d->predictor, row->input_row, 0, row->output_tokens_max, row->factor));
    row->predicted_output_tokens = row->remaining;
    bool late = request->deadline_ns > 0 && request->deadline_ns <= now_ns;
    /* Those who wait come first, so the newcomer may start at once only past an empty line. */
    bool first = d->waiting[waiting_line(d, row)].count == 0;
    bool started = !late && first && dispatch_start(d, now_ns, lease);
    bool full = d->totals.queued >= d->config.queue_max;
    bool slow = !started && !late && !full && !admission_accepts(d, now_ns, row);
    if (!started && (late || full || slow)) {
        d->totals.refused_late += late;
        d->totals.refused_queue += full && !late;
        if (slow)
            admission_refused(d, row);
        leases_remove(&d->leases, lease);
        return refuse(d, MED_E_OVERLOAD);
    }
    d->totals.accepted++;
    predictor_on_arrival(&d->predictor, row->input_row, row->output_tokens_max);
    if (!started) {
        enqueue(d, now_ns, lease);
        if (!first)
            waiting_start_one(d, now_ns, lease);
    }
    return 0;
}

int med_dispatch_cancel(struct med_dispatch *d, int64_t now_ns, uint64_t request,
                        enum med_outcome outcome)
{
    static const int codes[MED_OUTCOME_COUNT] = {
        [MED_OUTCOME_STOP] = 0,
        [MED_OUTCOME_ABORT_CLIENT] = MED_E_CANCELLED,
        [MED_OUTCOME_ABORT_DEADLINE] = MED_E_DEADLINE,
        [MED_OUTCOME_REJECTED] = MED_E_OVERLOAD,
        [MED_OUTCOME_ERROR] = MED_E_INTERNAL,
    };
    MED_ASSERT(outcome == MED_OUTCOME_STOP || codes[outcome] < 0);
    uint32_t lease = leases_find(&d->leases, request);
    if (lease == NONE)
        return MED_E_NOT_FOUND;
    uint32_t worker = d->leases.rows[lease].worker;
    if (worker != NONE && outcome == MED_OUTCOME_STOP)
        workers_success(&d->workers, worker, lease);
    tell_cancel(d, &d->leases.rows[lease]);
    dispatch_end(d, now_ns, lease, outcome, codes[outcome]);
    if (worker != NONE)
        waiting_start_at(d, now_ns, worker);
    return 0;
}

/* ---- what workers say ---- */

/* 0 and the lease, or why the message is not to be used. */
static int find_attempt(struct med_dispatch *d, uint32_t worker, uint64_t request, uint32_t attempt,
                        uint32_t *ret_lease)
{
    MED_ASSERT(worker < d->workers.count_max);
    MED_ASSERT(d->workers.rows[worker].connected);
    uint32_t lease = leases_find(&d->leases, request);
    const struct lease *row = lease == NONE ? NULL : &d->leases.rows[lease];
    if (row && attempt > row->attempt)
        return MED_E_PROTO; /* never sent */
    if (!row || row->worker == NONE || attempt < row->attempt) {
        d->totals.stale_messages++;
        return MED_E_NOT_FOUND;
    }
    if (row->worker != worker)
        return MED_E_PROTO; /* another worker's */
    *ret_lease = lease;
    return 0;
}

int med_dispatch_tokens(struct med_dispatch *d, int64_t now_ns, uint32_t worker, uint64_t request,
                        uint32_t attempt, int64_t position, int64_t count)
{
    uint32_t lease;
    int rc = find_attempt(d, worker, request, attempt, &lease);
    if (rc < 0)
        return rc;
    struct lease *row = &d->leases.rows[lease];
    if (position != row->tokens || count < 1 || count > row->output_tokens_max - row->tokens)
        return MED_E_PROTO;
    bool first = row->tokens == row->base;
    int64_t expected = row->remaining;
    if (first)
        workers_first_token(&d->workers, worker, &d->leases, lease, now_ns);
    row->tokens += count;
    row->whole = false;
    row->remaining -= count;
    if (row->remaining < 1) {
        row->remaining = 1; /* all came that may: only the finish is to come */
        if (row->tokens < row->output_tokens_max) {
            row->remaining = llround(predictor_mean(&d->predictor, row->input_row, row->tokens,
                                                    row->output_tokens_max, row->factor)) -
                             row->tokens;
        }
        if (row->remaining < 1)
            row->remaining = 1;
    }
    workers_tokens(&d->workers, worker, count, row->remaining - expected);
    if (first)
        waiting_start_at(d, now_ns, worker);
    return 0;
}

int med_dispatch_finish(struct med_dispatch *d, int64_t now_ns, uint32_t worker, uint64_t request,
                        uint32_t attempt, enum med_outcome outcome)
{
    uint32_t lease;
    int rc = find_attempt(d, worker, request, attempt, &lease);
    if (rc < 0)
        return rc;
    const struct lease *row = &d->leases.rows[lease];
    if (outcome == MED_OUTCOME_STOP || (outcome == MED_OUTCOME_LENGTH && row->tokens > 0))
        workers_success(&d->workers, worker, lease);
    if (outcome == MED_OUTCOME_ERROR) {
        dispatch_again(d, now_ns, lease, MED_REROUTE_WORKER_ERROR, false);
    } else if (outcome == MED_OUTCOME_STOP || (outcome == MED_OUTCOME_LENGTH && row->tokens > 0)) {
        dispatch_end(d, now_ns, lease, outcome, 0);
    } else {
        return MED_E_PROTO;
    }
    waiting_start_at(d, now_ns, worker);
    return 0;
}

int med_dispatch_return(struct med_dispatch *d, int64_t now_ns, uint32_t worker, uint64_t request,
                        uint32_t attempt)
{
    uint32_t lease;
    int rc = find_attempt(d, worker, request, attempt, &lease);
    if (rc < 0)
        return rc;
    d->leases.rows[lease].tries -= !d->workers.rows[worker].draining; /* that is done there */
    dispatch_again(d, now_ns, lease, MED_REROUTE_WORKER_LOST, false);
    waiting_start_at(d, now_ns, worker);
    return 0;
}

void med_dispatch_whole(struct med_dispatch *d, uint64_t request)
{
    uint32_t lease = leases_find(&d->leases, request);
    if (lease != NONE && d->leases.rows[lease].worker != NONE)
        d->leases.rows[lease].whole = true;
}

void med_dispatch_cached(struct med_dispatch *d, uint32_t worker, uint64_t request,
                         uint32_t attempt, int64_t cached_tokens)
{
    uint32_t lease = leases_find(&d->leases, request);
    if (lease == NONE || d->leases.rows[lease].worker != worker ||
        d->leases.rows[lease].attempt != attempt)
        return; /* stale: its finish is told next, and counted there */
    const struct lease *row = &d->leases.rows[lease];
    struct worker *from = &d->workers.rows[worker];
    if (cached_tokens > 0) {
        from->prefix_misses = 0;
        d->counts[from->type].cached_tokens += (uint64_t)cached_tokens;
    } else if (row->cached > 0) {
        from->prefix_misses++;
    }
}

/* ---- time ---- */

static void expire(struct med_dispatch *d, int64_t now_ns)
{
    const struct queue_entry *entry;
    while ((entry = queue_first(&d->deadlines)) && entry->at_ns <= now_ns) {
        uint32_t lease = entry->lease;
        const struct lease *row = &d->leases.rows[lease];
        if (row->worker != NONE) {
            tell_cancel(d, row);
            dispatch_end(d, now_ns, lease, MED_OUTCOME_ABORT_DEADLINE, MED_E_DEADLINE);
        } else {
            bool begun = row->tokens > 0; /* and its worker is lost */
            dispatch_end(d, now_ns, lease, begun ? MED_OUTCOME_WORKER_LOST : MED_OUTCOME_REJECTED,
                         begun ? MED_E_WORKER_LOST : MED_E_OVERLOAD);
        }
    }
}

void med_dispatch_tick(struct med_dispatch *d, int64_t now_ns)
{
    expire(d, now_ns);
    fleet_tick(d, now_ns);
    if (d->totals.queued > 0 && now_ns >= d->retry_at_ns)
        waiting_start_all(d, now_ns);
}

int64_t med_dispatch_next_tick_ns(const struct med_dispatch *d)
{
    int64_t at = d->workers.check_at_ns;
    const struct queue_entry *deadline = queue_first(&d->deadlines);
    if (d->totals.queued > 0 && d->retry_at_ns < at)
        at = d->retry_at_ns;
    if (deadline && deadline->at_ns < at)
        at = deadline->at_ns;
    return at;
}
