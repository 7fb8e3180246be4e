/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A simulation's beginning and end: from a plan to a fleet that is joined and ready, and from a fleet
 * that is done to the result.  Heartbeats are as fresh as can be: the time of silence after which
 * dispatch gives a worker up is longer than any simulation.  thread: the caller's.
 */
#include "allocator/dispatch_config.h"
#include "allocator/replay/fleet/sim.h"
#include "base/alloc.h"

#include <stdio.h>

static int no_memory(struct med_err *err)
{
    return med_err_set(err, MED_E_NOMEM, "no memory for the simulation");
}

static int check_arrivals(const struct med_sim_arrival *arrivals, size_t count, struct med_err *err)
{
    if (count > UINT32_MAX)
        return med_err_set(err, MED_E_LIMIT, "%zu arrivals, expected fewer than 2^32", count);
    for (size_t i = 0; i < count; i++) {
        const struct med_sim_arrival *a = &arrivals[i];
        if (a->at_ns < (i > 0 ? arrivals[i - 1].at_ns : 0) || a->at_ns >= SIM_NEVER_NS) {
            return med_err_set(err, MED_E_INVALID,
                               "arrival %zu: at %lld ns, expected times that do not fall", i,
                               (long long)a->at_ns);
        }
        if (a->input_tokens < 1 || a->output_tokens < 1 ||
            a->output_tokens_max < a->output_tokens || a->deadline_ns < 0) {
            return med_err_set(err, MED_E_INVALID,
                               "arrival %zu: %lld input tokens, %lld output tokens of at most "
                               "%lld, expected at least 1 and no more than the maximum",
                               i, (long long)a->input_tokens, (long long)a->output_tokens,
                               (long long)a->output_tokens_max);
        }
    }
    return 0;
}

static int count_workers(struct sim *sim, int64_t count, struct med_err *err)
{
    if (count < 0 || count > MED_LIMIT_WORKERS - (int64_t)sim->worker_count)
        return med_err_set(err, MED_E_LIMIT, "the plan has over %d workers", MED_LIMIT_WORKERS);
    sim->worker_count += (size_t)count;
    return 0;
}

static int allocate(struct sim *sim, const struct med_plan *plan, const int64_t *spares,
                    struct med_err *err)
{
    int rc = 0;
    for (size_t w = 0; rc == 0 && w < plan->worker_count; w++)
        rc = count_workers(sim, plan->workers[w].count, err);
    sim->planned_count = sim->worker_count;
    for (size_t p = 0; rc == 0 && spares && p < plan->profile_count; p++)
        rc = count_workers(sim, spares[p], err);
    if (rc < 0)
        return rc;
    size_t workers = sim->worker_count + 1;
    sim->requests = med_calloc(sim->count + 1, sizeof *sim->requests);
    sim->workers = med_calloc(workers, sizeof *sim->workers);
    sim->indices = med_calloc(workers, sizeof *sim->indices);
    sim->busy = med_calloc(workers, sizeof *sim->busy);
    sim->ready = med_calloc(workers, sizeof *sim->ready);
    if (!sim->requests || !sim->workers || !sim->indices || !sim->busy || !sim->ready)
        return no_memory(err);
    for (size_t i = 0; i < sim->count; i++) {
        sim->requests[i] =
            (struct med_sim_request){.ttft_ns = -1, .e2e_ns = -1, .outcome = SIM_OUTCOME_UNSET};
    }
    return 0;
}

int sim_dispatch_config(const struct sim *sim, const struct med_plan *plan,
                        const struct med_sim_options *options,
                        struct med_dispatch_config *ret_config, struct med_err *err)
{
    struct med_dispatch_config config;
    int rc = med_dispatch_config_from_plan(plan, &config, NULL, err);
    if (rc < 0)
        return rc;
    config.suspect_after_ns =
        options->suspect_after_ns > 0 ? options->suspect_after_ns : SIM_NEVER_NS;
    config.gone_after_ns = options->gone_after_ns > 0 ? options->gone_after_ns : SIM_NEVER_NS;
    config.resume = options->resume;
    config.workers_max = (int64_t)sim->worker_count;
    config.admission = !options->admission_off;
    config.policy = options->policy;
    config.policy_seed = options->policy_seed;
    if (options->queue_wait_ns > 0)
        config.queue_wait_ns = options->queue_wait_ns;
    if (options->queue_max > 0)
        config.queue_max = options->queue_max;
    if (options->requests_max > 0)
        config.requests_max = options->requests_max;
    *ret_config = config;
    return 0;
}

static int start_dispatch(struct sim *sim, const struct med_plan *plan,
                          const struct med_sim_options *options, struct med_err *err)
{
    struct med_dispatch_config config;
    int rc = sim_dispatch_config(sim, plan, options, &config, err);
    if (rc < 0)
        return rc;
    struct med_dispatch_ops ops = sim_dispatch_ops(sim);
    rc = med_dispatch_new(&config, &ops, &sim->dispatch, err);
    med_dispatch_config_release(&config);
    return rc;
}

int sim_join(struct sim *sim, uint32_t index, const struct med_profile *profile,
             struct med_err *err)
{
    struct sim_worker *worker = &sim->workers[index];
    char worker_id[32];
    (void)snprintf(worker_id, sizeof worker_id, "sim-%u", index);
    struct med_dispatch_worker_hello hello = {.type_name = profile->worker_type,
                                              .worker_id = worker_id,
                                              .incarnation = worker->connection + 1,
                                              .model_len_max = worker->latency->model_len_max,
                                              .sequences_max = worker->latency->sequences_max,
                                              .kv_tokens = worker->latency->kv_tokens};
    int rc = med_dispatch_worker_join(sim->dispatch, sim->now_ns, &hello, &worker->name, err);
    if (rc < 0)
        return rc;
    sim->indices[worker->name] = index; /* before stats, which may send it what waits */
    const struct med_dispatch_worker_stats stats = {.heartbeat_ns = sim->now_ns};
    med_dispatch_worker_stats(sim->dispatch, sim->now_ns, worker->name, &stats);
    return 0;
}

/* Some of one type; away: they have not connected. */
static int start_some(struct sim *sim, const struct med_plan *plan, size_t type, int64_t count,
                      bool away, uint32_t *index, struct med_err *err)
{
    const struct med_profile *profile = &plan->profiles[type];
    int rc = 0;
    for (int64_t i = 0; rc == 0 && i < count; i++, ++*index) {
        rc = sim_worker_init(sim, *index, profile, type, err);
        sim->workers[*index].away = away;
        if (rc == 0 && !away)
            rc = sim_join(sim, *index, profile, err);
    }
    return rc;
}

static int start_workers(struct sim *sim, const struct med_plan *plan, const int64_t *spares,
                         struct med_err *err)
{
    uint32_t index = 0;
    sim->latencies = med_calloc(plan->profile_count, sizeof *sim->latencies);
    if (!sim->latencies)
        return no_memory(err);
    int rc = 0;
    for (size_t w = 0; rc == 0 && w < plan->worker_count; w++) {
        const struct med_plan_workers *row = &plan->workers[w];
        rc = start_some(sim, plan, row->worker_type, row->count, false, &index, err);
    }
    for (size_t p = 0; rc == 0 && spares && p < plan->profile_count; p++)
        rc = start_some(sim, plan, p, spares[p], true, &index, err);
    return rc;
}

int sim_init(struct sim *sim, const struct med_plan *plan, const struct med_sim_arrival *arrivals,
             size_t count, const struct med_sim_options *options, struct med_err *err)
{
    *sim =
        (struct sim){.arrivals = arrivals, .count = count, .link_delay_ns = options->link_delay_ns};
    if (options->queue_wait_ns < 0 || options->queue_max < 0 || options->link_delay_ns < 0 ||
        options->requests_max < 0) {
        return med_err_set(
            err, MED_E_INVALID,
            "simulation: queue_wait, queue_max, requests_max and link_delay must be >= 0");
    }
    int rc = check_arrivals(arrivals, count, err);
    if (rc == 0)
        rc = allocate(sim, plan, options->spares, err);
    if (rc == 0) {
        rc =
            sim_sampler_init(&sim->sampler, options->samples, plan->profile_count, arrivals, count);
        if (rc < 0)
            (void)no_memory(err);
    }
    if (rc == 0)
        rc = start_dispatch(sim, plan, options, err);
    if (rc == 0)
        rc = start_workers(sim, plan, options->spares, err);
    if (rc < 0)
        sim_release(sim);
    return rc == MED_E_NOMEM ? no_memory(err) : rc;
}

int sim_take_result(struct sim *sim, struct med_sim_result *ret_result, struct med_err *err)
{
    if (sim->rc < 0)
        return med_err_set(err, sim->rc, "no memory for the simulation");
    struct med_sim_worker_result *workers = med_calloc(sim->worker_count + 1, sizeof *workers);
    if (!workers)
        return no_memory(err);
    int64_t from = sim->count > 0 ? sim->arrivals[0].at_ns : 0;
    double length = (double)(sim->last_end_ns - from);
    for (size_t i = 0; i < sim->worker_count; i++) {
        const struct sim_worker *worker = &sim->workers[i];
        struct med_scheduler_stats stats;
        med_scheduler_check(worker->scheduler);
        med_scheduler_get_stats(worker->scheduler, &stats);
        workers[i] = (struct med_sim_worker_result){
            .type = worker->profile,
            .utilization = length > 0 ? (double)worker->busy_ns / length : 0,
            .iterations = stats.iterations,
            .preemptions = stats.preemptions,
            .prompt_tokens = stats.prompt_tokens_total,
            .generated_tokens = stats.generated_tokens_total,
        };
    }
    med_dispatch_check(sim->dispatch);
    sim_sampler_finish(sim);
    *ret_result = (struct med_sim_result){.requests = sim->requests,
                                          .count = sim->count,
                                          .workers = workers,
                                          .worker_count = sim->worker_count,
                                          .planned_count = sim->planned_count,
                                          .end_ns = sim->last_end_ns,
                                          .samples = sim->sampler.samples};
    med_dispatch_get_totals(sim->dispatch, &ret_result->totals);
    sim->requests = NULL;
    sim->sampler.samples = (struct med_sim_samples){0};
    return 0;
}

void sim_release(struct sim *sim)
{
    /* After a failure some are still open; dispatch is freed empty. */
    for (size_t i = 0; sim->dispatch && sim->open > 0 && i < sim->count; i++)
        (void)med_dispatch_cancel(sim->dispatch, sim->now_ns, i, MED_OUTCOME_ABORT_CLIENT);
    for (size_t i = 0; sim->workers && i < sim->worker_count; i++)
        sim_worker_release(&sim->workers[i]);
    med_dispatch_free(sim->dispatch);
    sim_messages_release(&sim->messages);
    sim_sampler_release(&sim->sampler);
    med_free(sim->requests);
    med_free(sim->workers);
    med_free(sim->latencies);
    med_free(sim->indices);
    med_free(sim->busy);
    med_free(sim->ready);
    *sim = (struct sim){0};
}

int med_simulate(const struct med_plan *plan, const struct med_sim_arrival *arrivals, size_t count,
                 const struct med_sim_options *options, struct med_sim_result *ret_result,
                 struct med_err *err)
{
    struct sim sim;
    int rc = sim_init(&sim, plan, arrivals, count, options, err);
    if (rc < 0)
        return rc;
    sim_run(&sim);
    rc = sim_take_result(&sim, ret_result, err);
    sim_release(&sim);
    return rc;
}

void med_sim_result_release(struct med_sim_result *result)
{
    med_free(result->requests);
    med_free(result->workers);
    med_sim_samples_release(&result->samples);
    *result = (struct med_sim_result){0};
}
