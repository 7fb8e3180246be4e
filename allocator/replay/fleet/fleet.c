/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fleet in the simulation: the shell around the real dispatch, and the loop that moves the clock.
 *
 * At one instant all that falls on it is handled first, in this order: the hooks' act, iteration ends,
 * messages, arrivals, tick, messages; then idle workers with work begin an iteration, so that requests
 * which arrive together are batched together.  Ties go by worker index and by the order of posting: no
 * result depends on chance or on the machine.  thread: the caller's.
 */
#include "allocator/replay/fleet/sim.h"
#include "base/assert.h"

void sim_post(struct sim *sim, struct sim_message message)
{
    const struct sim_hooks *hooks = sim->hooks;
    message.connection = sim->workers[message.worker].connection;
    message.at_ns = sim->now_ns + sim->link_delay_ns;
    if (hooks && hooks->route && !hooks->route(hooks->arg, sim, &message, &message.at_ns))
        return;
    MED_ASSERT(message.at_ns >= sim->now_ns);
    int rc = sim_messages_put(&sim->messages, message);
    if (rc < 0 && sim->rc == 0)
        sim->rc = rc;
}

/* ---- the shell of dispatch ---- */

static int on_send(void *arg, uint64_t request, uint32_t attempt, uint32_t worker)
{
    struct sim *sim = arg;
    sim->retried += attempt > 1;
    sim->resumed += attempt > 1 && sim->requests[request].tokens > 0;
    sim->requests[request].picked_ns = sim->now_ns - sim->arrivals[request].at_ns;
    sim_post(sim, (struct sim_message){.kind = SIM_GENERATE,
                                       .request = request,
                                       .attempt = attempt,
                                       .position = sim->requests[request].tokens,
                                       .worker = sim->indices[worker]});
    return sim->rc;
}

static void on_cancel(void *arg, uint64_t request, uint32_t attempt, uint32_t worker)
{
    struct sim *sim = arg;
    sim_post(sim, (struct sim_message){.kind = SIM_CANCEL,
                                       .request = request,
                                       .attempt = attempt,
                                       .worker = sim->indices[worker]});
}

static void on_end(void *arg, uint64_t request, enum med_outcome outcome, int code)
{
    (void)code;
    struct sim *sim = arg;
    struct med_sim_request *row = &sim->requests[request];
    MED_ASSERT(row->outcome == SIM_OUTCOME_UNSET);
    row->outcome = (int)outcome;
    row->ended_ns = sim->now_ns - sim->arrivals[request].at_ns;
    if (outcome == MED_OUTCOME_STOP || outcome == MED_OUTCOME_LENGTH)
        row->e2e_ns = row->ended_ns;
    sim->last_end_ns = sim->now_ns;
    MED_ASSERT(sim->open > 0);
    sim->open--;
}

struct med_dispatch_ops sim_dispatch_ops(struct sim *sim)
{
    return (struct med_dispatch_ops){
        .send = on_send, .cancel = on_cancel, .end = on_end, .arg = sim};
}

static void hear_token(struct sim *sim, const struct sim_message *m)
{
    uint32_t name = sim->workers[m->worker].name;
    int rc = med_dispatch_tokens(sim->dispatch, sim->now_ns, name, m->request, m->attempt,
                                 m->position, 1);
    MED_ASSERT(rc == 0 || rc == MED_E_NOT_FOUND);
    if (rc < 0)
        return;
    struct med_sim_request *row = &sim->requests[m->request];
    MED_ASSERT(m->position == row->tokens);
    row->tokens++;
    sim_sampler_token(&sim->sampler, sim->workers[m->worker].profile);
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

static void hear_failed(struct sim *sim, const struct sim_message *m)
{
    int rc = med_dispatch_finish(sim->dispatch, sim->now_ns, sim->workers[m->worker].name,
                                 m->request, m->attempt, MED_OUTCOME_ERROR);
    MED_ASSERT(rc == 0 || rc == MED_E_NOT_FOUND);
}

static void deliver_due(struct sim *sim)
{
    const struct sim_message *first;
    while (sim->rc == 0 && (first = sim_messages_first(&sim->messages)) != NULL &&
           first->at_ns <= sim->now_ns) {
        struct sim_message message = sim_messages_take(&sim->messages);
        const struct sim_worker *worker = &sim->workers[message.worker];
        if (worker->away || worker->connection != message.connection)
            continue;
        switch (message.kind) {
        case SIM_GENERATE:
        case SIM_CANCEL:
            sim_worker_hear(sim, &message);
            break;
        case SIM_TOKEN:
            hear_token(sim, &message);
            break;
        case SIM_FAILED:
            hear_failed(sim, &message);
            break;
        }
    }
}

/* ---- the loop ---- */

static void arrive(struct sim *sim, size_t index)
{
    const struct med_sim_arrival *arrival = &sim->arrivals[index];
    struct med_dispatch_request request = {.request = index,
                                           .prompt_tokens = arrival->input_tokens,
                                           .output_tokens_max = arrival->output_tokens_max};
    if (arrival->deadline_ns > 0)
        request.deadline_ns = arrival->at_ns + arrival->deadline_ns;
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

static int64_t next_hook_ns(const struct sim *sim)
{
    const struct sim_hooks *hooks = sim->hooks;
    return hooks && hooks->next_ns ? hooks->next_ns(hooks->arg, sim) : SIM_NEVER_NS;
}

/* When something happens next. */
static int64_t next_ns(const struct sim *sim, int64_t tick_at_ns, int64_t hook_at_ns)
{
    const struct sim_message *message = sim_messages_first(&sim->messages);
    int64_t at = sim->next < sim->count ? sim->arrivals[sim->next].at_ns : INT64_MAX;
    if (message)
        at = lesser(at, message->at_ns);
    at = lesser(at, sim_workers_next_ns(sim));
    at = lesser(at, hook_at_ns);
    return lesser(at, tick_at_ns);
}

void sim_run(struct sim *sim)
{
    const struct sim_hooks *hooks = sim->hooks;
    while (sim->rc == 0 && (sim->next < sim->count || sim->open > 0)) {
        int64_t hook_at_ns = next_hook_ns(sim);
        int64_t tick_at_ns = med_dispatch_next_tick_ns(sim->dispatch);
        int64_t at = next_ns(sim, tick_at_ns, hook_at_ns);
        MED_ASSERT(at >= sim->now_ns);
        MED_ASSERT(at < SIM_NEVER_NS); /* something is open, so something must happen */
        sim_sampler_advance(sim, at);
        sim->now_ns = at;
        if (hook_at_ns <= at)
            hooks->act(hooks->arg, sim);
        sim_workers_end_due(sim);
        deliver_due(sim);
        while (sim->next < sim->count && sim->arrivals[sim->next].at_ns <= at)
            arrive(sim, sim->next++);
        if (tick_at_ns <= at)
            med_dispatch_tick(sim->dispatch, at);
        deliver_due(sim);
        sim_workers_begin_ready(sim);
        if (hooks && hooks->observe)
            hooks->observe(hooks->arg, sim);
    }
}
