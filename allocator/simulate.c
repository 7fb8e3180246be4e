/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Simulation: the real dispatch and one real scheduler per planned worker, on virtual time.
 *
 * Events: arrivals (a sorted array), messages between router and workers (a FIFO ring, since every
 * message takes the same link delay), ends of workers' iterations (a binary heap, one entry per busy
 * worker), and dispatch's ticks. At one instant all that falls on it is handled first, in this order:
 * iteration ends, messages, arrivals, tick; then idle workers with work begin an iteration, so that
 * requests which arrive together are batched together. Ties go by worker index: no result depends on
 * chance or on the machine.
 *
 * Heartbeats are always fresh and nothing breaks here; faults are tested on dispatch itself.
 * thread: the caller's. Tokens are counted, not made.
 */
#include "allocator/simulate.h"

#include "allocator/dispatch_config.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "router/dispatch/dispatch.h"
#include "worker/engine/scheduler.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define NEVER_NS      (INT64_MAX / 4) /* heartbeats: longer than any simulation */
#define RING_START    1024
#define TABLE_EXTRA   64 /* sequences that a worker may still hold when dispatch freed their place */
#define OUTCOME_UNSET INT32_MAX

enum kind {
    KIND_GENERATE,
    KIND_CANCEL,
    KIND_TOKEN,
    KIND_FAILED
};

struct message {
    int64_t at_ns;
    enum kind kind;
    uint32_t worker; /* index into sim->workers: receiver or sender */
    uint32_t attempt;
    uint64_t request;
    int64_t position;
    enum med_sequence_end end;
};

struct ring {
    struct message *messages;
    size_t first, count, capacity; /* capacity is a power of two */
};

struct sim_worker {
    struct med_scheduler *scheduler;
    struct med_latency latency;
    const struct med_batch *batch; /* of the running iteration */
    bool *stops;                   /* [items of a batch] */
    size_t profile;
    int64_t ends_ns;
    int64_t busy_ns;
    bool listed; /* in sim->ready */
};

struct sim {
    const struct med_sim_arrival *arrivals;
    size_t count;
    struct med_sim_request *requests;
    uint32_t *attempts; /* [request] of the attempt that a worker holds */
    struct med_dispatch *dispatch;
    struct sim_worker *workers;
    uint32_t *indices; /* [dispatch worker] -> sim worker */
    uint32_t *names;   /* [sim worker] -> dispatch worker */
    size_t worker_count;
    uint32_t *busy; /* binary heap of workers by ends_ns */
    size_t busy_count;
    uint32_t *ready; /* workers that may begin an iteration at the end of this instant */
    size_t ready_count;
    struct ring ring;
    int64_t link_delay_ns;
    int64_t now_ns, last_end_ns;
    size_t open; /* accepted and not ended */
    int rc;      /* the first failure inside a callback */
};

/* ---- messages ---- */

static int ring_push(struct ring *r, struct message message)
{
    if (r->count == r->capacity) {
        size_t capacity = r->capacity ? 2 * r->capacity : RING_START;
        struct message *messages = med_calloc(capacity, sizeof *messages);
        if (!messages)
            return MED_E_NOMEM;
        for (size_t i = 0; i < r->count; i++)
            messages[i] = r->messages[(r->first + i) & (r->capacity - 1)];
        med_free(r->messages);
        *r = (struct ring){.messages = messages, .count = r->count, .capacity = capacity};
    }
    r->messages[(r->first + r->count++) & (r->capacity - 1)] = message;
    return 0;
}

static struct message ring_pop(struct ring *r)
{
    struct message message = r->messages[r->first];
    r->first = (r->first + 1) & (r->capacity - 1);
    r->count--;
    return message;
}

static int post(struct sim *sim, struct message message)
{
    message.at_ns = sim->now_ns + sim->link_delay_ns;
    int rc = ring_push(&sim->ring, message);
    if (rc < 0 && sim->rc == 0)
        sim->rc = rc;
    return rc;
}

/* ---- the shell of dispatch ---- */

static int on_send(void *arg, uint64_t request, uint32_t attempt, uint32_t worker)
{
    struct sim *sim = arg;
    sim->requests[request].picked_ns = sim->now_ns - sim->arrivals[request].at_ns;
    return post(sim, (struct message){.kind = KIND_GENERATE,
                                      .request = request,
                                      .attempt = attempt,
                                      .worker = sim->indices[worker]});
}

static void on_cancel(void *arg, uint64_t request, uint32_t attempt, uint32_t worker)
{
    struct sim *sim = arg;
    (void)post(sim, (struct message){.kind = KIND_CANCEL,
                                     .request = request,
                                     .attempt = attempt,
                                     .worker = sim->indices[worker]}); /* sim->rc keeps it */
}

static void on_end(void *arg, uint64_t request, enum med_outcome outcome, int code)
{
    (void)code;
    struct sim *sim = arg;
    struct med_sim_request *row = &sim->requests[request];
    MED_ASSERT(row->outcome == OUTCOME_UNSET);
    row->outcome = (int)outcome;
    if (outcome == MED_OUTCOME_STOP || outcome == MED_OUTCOME_LENGTH)
        row->e2e_ns = sim->now_ns - sim->arrivals[request].at_ns;
    sim->last_end_ns = sim->now_ns;
    MED_ASSERT(sim->open > 0);
    sim->open--;
}

/* ---- workers ---- */

static void make_ready(struct sim *sim, uint32_t index)
{
    struct sim_worker *worker = &sim->workers[index];
    if (!worker->listed && !worker->batch) {
        worker->listed = true;
        sim->ready[sim->ready_count++] = index;
    }
}

static bool ends_before(const struct sim *sim, uint32_t a, uint32_t b)
{
    int64_t at = sim->workers[a].ends_ns;
    int64_t bt = sim->workers[b].ends_ns;
    return at < bt || (at == bt && a < b);
}

static void busy_push(struct sim *sim, uint32_t worker)
{
    size_t place = sim->busy_count++;
    while (place > 0 && ends_before(sim, worker, sim->busy[(place - 1) / 2])) {
        sim->busy[place] = sim->busy[(place - 1) / 2];
        place = (place - 1) / 2;
    }
    sim->busy[place] = worker;
}

static uint32_t busy_pop(struct sim *sim)
{
    uint32_t top = sim->busy[0];
    uint32_t moved = sim->busy[--sim->busy_count];
    size_t place = 0;
    for (;;) {
        size_t child = 2 * place + 1;
        if (child >= sim->busy_count)
            break;
        if (child + 1 < sim->busy_count && ends_before(sim, sim->busy[child + 1], sim->busy[child]))
            child++;
        if (!ends_before(sim, sim->busy[child], moved))
            break;
        sim->busy[place] = sim->busy[child];
        place = child;
    }
    sim->busy[place] = moved;
    return top;
}

static void begin_iteration(struct sim *sim, uint32_t index)
{
    struct sim_worker *worker = &sim->workers[index];
    worker->listed = false;
    if (!med_scheduler_has_work(worker->scheduler))
        return;
    worker->batch = med_scheduler_plan(worker->scheduler, sim->now_ns);
    int64_t took = llround(med_latency_step_ms(&worker->latency, &worker->batch->load) * 1e6);
    worker->ends_ns = sim->now_ns + took;
    worker->busy_ns += took;
    busy_push(sim, index);
}

static void end_iteration(struct sim *sim, uint32_t index)
{
    struct sim_worker *worker = &sim->workers[index];
    const struct med_batch *batch = worker->batch;
    for (size_t i = 0; i < batch->count; i++) {
        const struct med_batch_item *item = &batch->items[i];
        const struct med_sim_arrival *arrival = &sim->arrivals[item->id];
        /* An answer as long as its maximum is cut by it, not ended. */
        worker->stops[i] = item->samples && item->position + 1 == arrival->output_tokens &&
                           arrival->output_tokens < arrival->output_tokens_max;
    }
    worker->batch = NULL;
    const struct med_sequence_event *events;
    size_t count = med_scheduler_commit(worker->scheduler, worker->stops, &events);
    for (size_t i = 0; i < count && sim->rc == 0; i++) {
        if (events[i].end == MED_END_CANCEL)
            continue;
        (void)post(sim, (struct message){.kind = KIND_TOKEN,
                                         .request = events[i].id,
                                         .attempt = sim->attempts[events[i].id],
                                         .worker = index,
                                         .position = events[i].position,
                                         .end = events[i].end}); /* sim->rc keeps it */
    }
    make_ready(sim, index);
}

static void accept_request(struct sim *sim, const struct message *m)
{
    struct sim_worker *worker = &sim->workers[m->worker];
    const struct med_sim_arrival *arrival = &sim->arrivals[m->request];
    struct med_sequence_spec spec = {.id = m->request,
                                     .prompt_tokens = arrival->input_tokens,
                                     .output_tokens_max = arrival->output_tokens_max};
    if (med_scheduler_add(worker->scheduler, &spec) < 0) {
        (void)post(sim, (struct message){.kind = KIND_FAILED,
                                         .request = m->request,
                                         .attempt = m->attempt,
                                         .worker = m->worker}); /* sim->rc keeps it */
        return;
    }
    sim->attempts[m->request] = m->attempt;
    make_ready(sim, m->worker);
}

static void hear_token(struct sim *sim, const struct message *m)
{
    uint32_t name = sim->names[m->worker];
    int rc = med_dispatch_tokens(sim->dispatch, sim->now_ns, name, m->request, m->attempt,
                                 m->position, 1);
    MED_ASSERT(rc == 0 || rc == MED_E_NOT_FOUND);
    if (rc < 0)
        return;
    struct med_sim_request *row = &sim->requests[m->request];
    if (m->position == 0) {
        struct med_dispatch_lease_view lease;
        bool found = med_dispatch_get_lease(sim->dispatch, m->request, &lease);
        MED_ASSERT(found);
        row->ttft_ns = sim->now_ns - sim->arrivals[m->request].at_ns;
        row->type = sim->workers[m->worker].profile;
        row->predicted_ttft_ns = lease.predicted_ttft_ns;
        row->predicted_tpot_ns = lease.predicted_tpot_ns;
    }
    if (m->end == MED_END_NONE)
        return;
    enum med_outcome outcome = m->end == MED_END_STOP ? MED_OUTCOME_STOP : MED_OUTCOME_LENGTH;
    rc = med_dispatch_finish(sim->dispatch, sim->now_ns, name, m->request, m->attempt, outcome);
    MED_ASSERT(rc == 0);
}

static void deliver(struct sim *sim, const struct message *m)
{
    switch (m->kind) {
    case KIND_GENERATE:
        accept_request(sim, m);
        break;
    case KIND_CANCEL:
        if (med_scheduler_cancel(sim->workers[m->worker].scheduler, m->request) == 0)
            make_ready(sim, m->worker);
        break;
    case KIND_TOKEN:
        hear_token(sim, m);
        break;
    case KIND_FAILED: {
        int rc = med_dispatch_finish(sim->dispatch, sim->now_ns, sim->names[m->worker], m->request,
                                     m->attempt, MED_OUTCOME_ERROR);
        MED_ASSERT(rc == 0 || rc == MED_E_NOT_FOUND);
        break;
    }
    }
}

static void deliver_due(struct sim *sim)
{
    while (sim->rc == 0 && sim->ring.count > 0 &&
           sim->ring.messages[sim->ring.first].at_ns <= sim->now_ns) {
        struct message message = ring_pop(&sim->ring);
        deliver(sim, &message);
    }
}

/* ---- the loop ---- */

static void arrive(struct sim *sim, size_t index)
{
    const struct med_sim_arrival *arrival = &sim->arrivals[index];
    struct med_dispatch_request request = {.request = index,
                                           .prompt_tokens = arrival->input_tokens,
                                           .output_tokens_max = arrival->output_tokens_max};
    sim->open++;
    int rc = med_dispatch_submit(sim->dispatch, sim->now_ns, &request);
    if (rc < 0) {
        sim->open--;
        sim->requests[index].outcome = rc;
        sim->last_end_ns = sim->now_ns;
    }
}

static int64_t lesser(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void run(struct sim *sim)
{
    size_t next = 0;
    while (sim->rc == 0 && (next < sim->count || sim->open > 0)) {
        int64_t at = next < sim->count ? sim->arrivals[next].at_ns : INT64_MAX;
        if (sim->ring.count > 0)
            at = lesser(at, sim->ring.messages[sim->ring.first].at_ns);
        if (sim->busy_count > 0)
            at = lesser(at, sim->workers[sim->busy[0]].ends_ns);
        int64_t tick_at = med_dispatch_next_tick_ns(sim->dispatch);
        at = lesser(at, tick_at);
        MED_ASSERT(at >= sim->now_ns);
        MED_ASSERT(at < NEVER_NS); /* something is open, so something must happen */
        sim->now_ns = at;
        while (sim->busy_count > 0 && sim->workers[sim->busy[0]].ends_ns <= at)
            end_iteration(sim, busy_pop(sim));
        deliver_due(sim);
        while (next < sim->count && sim->arrivals[next].at_ns <= at)
            arrive(sim, next++);
        if (tick_at <= at)
            med_dispatch_tick(sim->dispatch, at);
        deliver_due(sim);
        for (size_t i = 0; i < sim->ready_count; i++)
            begin_iteration(sim, sim->ready[i]);
        sim->ready_count = 0;
    }
}

/* ---- setting up ---- */

static int check_arrivals(const struct med_sim_arrival *arrivals, size_t count, struct med_err *err)
{
    for (size_t i = 0; i < count; i++) {
        const struct med_sim_arrival *a = &arrivals[i];
        if (a->at_ns < (i > 0 ? arrivals[i - 1].at_ns : 0) || a->at_ns >= NEVER_NS) {
            return med_err_set(err, MED_E_INVALID,
                               "arrival %zu: at %lld ns, expected times that do not fall", i,
                               (long long)a->at_ns);
        }
        if (a->input_tokens < 1 || a->output_tokens < 1 ||
            a->output_tokens_max < a->output_tokens) {
            return med_err_set(err, MED_E_INVALID,
                               "arrival %zu: %lld input tokens, %lld output tokens of at most "
                               "%lld, expected at least 1 and no more than the maximum",
                               i, (long long)a->input_tokens, (long long)a->output_tokens,
                               (long long)a->output_tokens_max);
        }
    }
    return 0;
}

static int start_worker(struct sim *sim, size_t index, const struct med_profile *profile,
                        size_t profile_index, struct med_err *err)
{
    struct sim_worker *worker = &sim->workers[index];
    worker->profile = profile_index;
    int rc = med_latency_init(&worker->latency, profile, err);
    if (rc < 0)
        return rc;
    const struct med_latency *l = &worker->latency;
    struct med_scheduler_config config = {.block_tokens = l->block_tokens,
                                          .kv_tokens = l->kv_tokens,
                                          .model_len_max = l->model_len_max,
                                          .sequences_max = l->sequences_max,
                                          .batched_tokens_max = l->batched_tokens_max,
                                          .table_max = 2 * l->sequences_max + TABLE_EXTRA};
    rc = med_scheduler_new(&config, &worker->scheduler, err);
    if (rc < 0)
        return rc;
    worker->stops = med_calloc((size_t)l->batched_tokens_max, sizeof *worker->stops);
    if (!worker->stops)
        return med_err_set(err, MED_E_NOMEM, "no memory for the simulation");
    char worker_id[32];
    (void)snprintf(worker_id, sizeof worker_id, "sim-%zu", index);
    struct med_dispatch_worker_hello hello = {.type_name = profile->worker_type,
                                              .worker_id = worker_id,
                                              .incarnation = 1,
                                              .model_len_max = l->model_len_max,
                                              .sequences_max = l->sequences_max,
                                              .kv_tokens = l->kv_tokens};
    uint32_t name;
    rc = med_dispatch_worker_join(sim->dispatch, 0, &hello, &name, err);
    if (rc < 0)
        return rc;
    const struct med_dispatch_worker_stats stats = {.heartbeat_ns = 0};
    med_dispatch_worker_stats(sim->dispatch, 0, name, &stats);
    sim->names[index] = name;
    sim->indices[name] = (uint32_t)index;
    return 0;
}

static int start_workers(struct sim *sim, const struct med_plan *plan, struct med_err *err)
{
    size_t index = 0;
    for (size_t w = 0; w < plan->worker_count; w++) {
        size_t profile = plan->workers[w].worker_type;
        for (int64_t i = 0; i < plan->workers[w].count; i++) {
            int rc = start_worker(sim, index++, &plan->profiles[profile], profile, err);
            if (rc < 0)
                return rc;
        }
    }
    return 0;
}

static int start_dispatch(struct sim *sim, const struct med_plan *plan,
                          const struct med_sim_options *options, struct med_err *err)
{
    struct med_dispatch_config config;
    int rc = med_dispatch_config_from_plan(plan, &config, NULL, err);
    if (rc < 0)
        return rc;
    config.suspect_after_ns = NEVER_NS;
    config.gone_after_ns = NEVER_NS;
    config.workers_max = (int64_t)sim->worker_count;
    config.admission = !options->admission_off;
    config.policy = options->policy;
    config.policy_seed = options->policy_seed;
    if (options->queue_wait_ns > 0)
        config.queue_wait_ns = options->queue_wait_ns;
    if (options->queue_max > 0)
        config.queue_max = options->queue_max;
    struct med_dispatch_ops ops = {.send = on_send, .cancel = on_cancel, .end = on_end, .arg = sim};
    rc = med_dispatch_new(&config, &ops, &sim->dispatch, err);
    med_dispatch_config_release(&config);
    return rc;
}

static int allocate(struct sim *sim, const struct med_plan *plan, struct med_err *err)
{
    for (size_t w = 0; w < plan->worker_count; w++) {
        int64_t count = plan->workers[w].count;
        if (count < 0 || count > MED_LIMIT_WORKERS - (int64_t)sim->worker_count)
            return med_err_set(err, MED_E_LIMIT, "the plan has over %d workers", MED_LIMIT_WORKERS);
        sim->worker_count += (size_t)count;
    }
    size_t workers = sim->worker_count + 1;
    sim->requests = med_calloc(sim->count + 1, sizeof *sim->requests);
    sim->attempts = med_calloc(sim->count + 1, sizeof *sim->attempts);
    sim->workers = med_calloc(workers, sizeof *sim->workers);
    sim->indices = med_calloc(workers, sizeof *sim->indices);
    sim->names = med_calloc(workers, sizeof *sim->names);
    sim->busy = med_calloc(workers, sizeof *sim->busy);
    sim->ready = med_calloc(workers, sizeof *sim->ready);
    if (!sim->requests || !sim->attempts || !sim->workers || !sim->indices || !sim->names ||
        !sim->busy || !sim->ready)
        return med_err_set(err, MED_E_NOMEM, "no memory for the simulation");
    for (size_t i = 0; i < sim->count; i++) {
        sim->requests[i] =
            (struct med_sim_request){.ttft_ns = -1, .e2e_ns = -1, .outcome = OUTCOME_UNSET};
    }
    return 0;
}

static void release(struct sim *sim)
{
    /* After a failure some are still open; dispatch is freed empty. */
    for (size_t i = 0; sim->dispatch && sim->open > 0 && i < sim->count; i++)
        (void)med_dispatch_cancel(sim->dispatch, sim->now_ns, i, MED_OUTCOME_ABORT_CLIENT);
    for (size_t i = 0; sim->workers && i < sim->worker_count; i++) {
        med_scheduler_free(sim->workers[i].scheduler);
        med_free(sim->workers[i].stops);
    }
    med_dispatch_free(sim->dispatch);
    med_free(sim->ring.messages);
    med_free(sim->requests);
    med_free(sim->attempts);
    med_free(sim->workers);
    med_free(sim->indices);
    med_free(sim->names);
    med_free(sim->busy);
    med_free(sim->ready);
}

static int take_result(struct sim *sim, struct med_sim_result *ret_result, struct med_err *err)
{
    double *utilization = med_calloc(sim->worker_count + 1, sizeof *utilization);
    if (!utilization)
        return med_err_set(err, MED_E_NOMEM, "no memory for the simulation");
    int64_t from = sim->count > 0 ? sim->arrivals[0].at_ns : 0;
    double length = (double)(sim->last_end_ns - from);
    for (size_t i = 0; i < sim->worker_count; i++) {
        med_scheduler_check(sim->workers[i].scheduler);
        utilization[i] = length > 0 ? (double)sim->workers[i].busy_ns / length : 0;
    }
    med_dispatch_check(sim->dispatch);
    *ret_result = (struct med_sim_result){.requests = sim->requests,
                                          .count = sim->count,
                                          .utilization = utilization,
                                          .worker_count = sim->worker_count,
                                          .end_ns = sim->last_end_ns};
    sim->requests = NULL;
    return 0;
}

int med_simulate(const struct med_plan *plan, const struct med_sim_arrival *arrivals, size_t count,
                 const struct med_sim_options *options, struct med_sim_result *ret_result,
                 struct med_err *err)
{
    if (options->queue_wait_ns < 0 || options->queue_max < 0 || options->link_delay_ns < 0) {
        return med_err_set(err, MED_E_INVALID,
                           "simulation: queue_wait, queue_max and link_delay must be >= 0");
    }
    int rc = check_arrivals(arrivals, count, err);
    if (rc < 0)
        return rc;
    struct sim sim = {
        .arrivals = arrivals, .count = count, .link_delay_ns = options->link_delay_ns};
    rc = allocate(&sim, plan, err);
    if (rc == 0)
        rc = start_dispatch(&sim, plan, options, err);
    if (rc == 0)
        rc = start_workers(&sim, plan, err);
    if (rc == 0) {
        run(&sim);
        rc = sim.rc < 0 ? med_err_set(err, sim.rc, "no memory for the simulation") : 0;
    }
    if (rc == 0)
        rc = take_result(&sim, ret_result, err);
    release(&sim);
    return rc;
}

void med_sim_result_release(struct med_sim_result *result)
{
    med_free(result->requests);
    med_free(result->utilization);
    *result = (struct med_sim_result){0};
}
