/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workers of the simulation: one real scheduler each, and the profile's latency model for the time of
 * an iteration.  A worker with a batch is busy until it ends; the busy ones are in a binary heap by
 * that time, ties by index.  Tokens are counted, not made: an answer ends when it has as many as its
 * arrival says.  thread: the simulation's.
 */
#include "allocator/replay/fleet/sim.h"
#include "base/alloc.h"

#include <math.h>

#define TABLE_EXTRA 64 /* sequences that a worker may still hold when dispatch freed their place */

/* A scheduler knows each attempt by itself: one that was cancelled may still be there when the next
 * comes. Requests are indices of arrivals, of which there are fewer than 2^32. */
static uint64_t id_of(uint64_t request, uint32_t attempt)
{
    return (uint64_t)attempt << 32 | request;
}

static uint64_t request_of(uint64_t id)
{
    return id & UINT32_MAX;
}

static uint32_t attempt_of(uint64_t id)
{
    return (uint32_t)(id >> 32);
}

/* ---- the heap of the busy ---- */

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

/* ---- iterations ---- */

static void make_ready(struct sim *sim, uint32_t index)
{
    struct sim_worker *worker = &sim->workers[index];
    if (!worker->listed && !worker->batch) {
        worker->listed = true;
        sim->ready[sim->ready_count++] = index;
    }
}

static void begin(struct sim *sim, uint32_t index)
{
    struct sim_worker *worker = &sim->workers[index];
    worker->listed = false;
    if (!med_scheduler_has_work(worker->scheduler))
        return;
    worker->batch = med_scheduler_plan(worker->scheduler, sim->now_ns);
    int64_t took = llround(med_latency_step_ms(worker->latency, &worker->batch->load) * 1e6);
    if (worker->slowness > 0)
        took = llround((double)took * worker->slowness);
    worker->busy_ns += took;
    if (worker->stalled_until_ns > sim->now_ns)
        took += worker->stalled_until_ns - sim->now_ns;
    worker->ends_ns = sim->now_ns + took;
    busy_push(sim, index);
}

static void end(struct sim *sim, uint32_t index)
{
    struct sim_worker *worker = &sim->workers[index];
    const struct med_batch *batch = worker->batch;
    for (size_t i = 0; i < batch->count; i++) {
        const struct med_batch_item *item = &batch->items[i];
        const struct med_sim_arrival *arrival = &sim->arrivals[request_of(item->id)];
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
        sim_post(sim, (struct sim_message){.kind = SIM_TOKEN,
                                           .request = request_of(events[i].id),
                                           .attempt = attempt_of(events[i].id),
                                           .worker = index,
                                           .position = events[i].position,
                                           .end = events[i].end});
    }
    make_ready(sim, index);
}

int64_t sim_workers_next_ns(const struct sim *sim)
{
    return sim->busy_count > 0 ? sim->workers[sim->busy[0]].ends_ns : SIM_NEVER_NS;
}

void sim_workers_end_due(struct sim *sim)
{
    while (sim_workers_next_ns(sim) <= sim->now_ns)
        end(sim, busy_pop(sim));
}

void sim_workers_begin_ready(struct sim *sim)
{
    for (size_t i = 0; i < sim->ready_count; i++)
        begin(sim, sim->ready[i]);
    sim->ready_count = 0;
}

/* ---- what the router says ---- */

static void accept_request(struct sim *sim, const struct sim_message *m)
{
    struct sim_worker *worker = &sim->workers[m->worker];
    const struct med_sim_arrival *arrival = &sim->arrivals[m->request];
    struct med_sequence_spec spec = {.id = id_of(m->request, m->attempt),
                                     .prompt_tokens = arrival->input_tokens,
                                     .output_tokens_max = arrival->output_tokens_max,
                                     .output_tokens = m->position};
    if (med_scheduler_add(worker->scheduler, &spec) < 0) {
        sim_post(sim, (struct sim_message){.kind = SIM_FAILED,
                                           .request = m->request,
                                           .attempt = m->attempt,
                                           .worker = m->worker});
        return;
    }
    make_ready(sim, m->worker);
}

void sim_worker_hear(struct sim *sim, const struct sim_message *message)
{
    if (message->kind == SIM_GENERATE) {
        accept_request(sim, message);
    } else if (med_scheduler_cancel(sim->workers[message->worker].scheduler,
                                    id_of(message->request, message->attempt)) == 0) {
        make_ready(sim, message->worker);
    }
}

/* ---- beginning and end ---- */

static int new_scheduler(const struct med_latency *l, struct med_scheduler **ret_scheduler,
                         struct med_err *err)
{
    struct med_scheduler_config config = {.block_tokens = l->block_tokens,
                                          .kv_tokens = l->kv_tokens,
                                          .model_len_max = l->model_len_max,
                                          .sequences_max = l->sequences_max,
                                          .batched_tokens_max = l->batched_tokens_max,
                                          .table_max = 2 * l->sequences_max + TABLE_EXTRA};
    return med_scheduler_new(&config, ret_scheduler, err);
}

int sim_worker_init(struct sim *sim, uint32_t index, const struct med_profile *profile,
                    size_t profile_index, struct med_err *err)
{
    struct sim_worker *worker = &sim->workers[index];
    worker->profile = profile_index;
    struct med_latency *l = &sim->latencies[profile_index];
    worker->latency = l;
    int rc = l->sequences_max > 0 ? 0 : med_latency_init(l, profile, err);
    if (rc < 0)
        return rc;
    rc = new_scheduler(l, &worker->scheduler, err);
    if (rc < 0)
        return rc;
    worker->stops = med_calloc((size_t)l->batched_tokens_max, sizeof *worker->stops);
    if (!worker->stops)
        return med_err_set(err, MED_E_NOMEM, "no memory for the simulation");
    return 0;
}

/* Takes a busy worker out of the heap. */
static void busy_remove(struct sim *sim, uint32_t index)
{
    size_t count = sim->busy_count;
    sim->busy_count = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t other = sim->busy[i]; /* push writes no place beyond those read */
        if (other != index)
            busy_push(sim, other);
    }
}

int sim_worker_restart(struct sim *sim, uint32_t index, struct med_err *err)
{
    struct sim_worker *worker = &sim->workers[index];
    struct med_scheduler *fresh;
    int rc = new_scheduler(worker->latency, &fresh, err);
    if (rc < 0)
        return rc;
    if (worker->batch)
        busy_remove(sim, index);
    worker->batch = NULL;
    med_scheduler_free(worker->scheduler);
    worker->scheduler = fresh;
    worker->slowness = 0;
    worker->stalled_until_ns = 0;
    return 0;
}

void sim_worker_stall(struct sim *sim, uint32_t index, int64_t until_ns)
{
    struct sim_worker *worker = &sim->workers[index];
    worker->stalled_until_ns = until_ns;
    if (!worker->batch || worker->ends_ns >= until_ns)
        return;
    busy_remove(sim, index);
    worker->ends_ns = until_ns;
    busy_push(sim, index);
}

void sim_worker_release(struct sim_worker *worker)
{
    med_scheduler_free(worker->scheduler);
    med_free(worker->stops);
}
