/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Samples of a simulation (see samples.h).
 *
 * Queue and requests in flight are integrals over time, since the state holds from one instant to the
 * next; time busy is what workers have used up by the end of a span, the running iteration in part; what runs
 * and what the KV cache holds is looked at when a span ends.
 * thread: the simulation's.
 */
#include "allocator/replay/fleet/samples.h"

#include "allocator/replay/fleet/sim.h"
#include "base/alloc.h"

#include <math.h>

#define STEP_LEAST_NS 1000000
#define SPARE         0.75 /* of the spans are for the arrivals; the rest for what ends behind them */

/* 1, 2 or 5 times a power of ten, not less. */
static int64_t round_up(double ns)
{
    int64_t step = STEP_LEAST_NS;
    for (;; step *= 10) {
        if ((double)step >= ns)
            return step;
        if (2 * (double)step >= ns)
            return 2 * step;
        if (5 * (double)step >= ns)
            return 5 * step;
    }
}

int sim_sampler_init(struct sim_sampler *s, size_t most, size_t type_count,
                     const struct med_sim_arrival *arrivals, size_t count)
{
    *s = (struct sim_sampler){.most = most};
    if (most == 0)
        return 0;
    int64_t from_ns = count > 0 ? arrivals[0].at_ns : 0;
    int64_t span_ns = count > 0 ? arrivals[count - 1].at_ns - from_ns : 0;
    s->samples.from_ns = from_ns;
    s->samples.step_ns = round_up((double)span_ns / (SPARE * (double)most));
    s->samples.type_count = type_count;
    s->samples.all = med_calloc(most, sizeof *s->samples.all);
    s->samples.types = med_calloc(most * type_count, sizeof *s->samples.types);
    s->tokens = med_calloc(type_count, sizeof *s->tokens);
    s->busy_ns = med_calloc(type_count, sizeof *s->busy_ns);
    return s->samples.all && s->samples.types && s->tokens && s->busy_ns ? 0 : MED_E_NOMEM;
}

void sim_sampler_release(struct sim_sampler *s)
{
    med_sim_samples_release(&s->samples);
    med_free(s->tokens);
    med_free(s->busy_ns);
    *s = (struct sim_sampler){0};
}

void med_sim_samples_release(struct med_sim_samples *samples)
{
    med_free(samples->all);
    med_free(samples->types);
    *samples = (struct med_sim_samples){0};
}

void sim_sampler_token(struct sim_sampler *s, size_t type)
{
    if (s->most > 0)
        s->tokens[type]++;
}

/* Sums over the connected workers of a type, as of at_ns; the time busy is that of all. */
struct state {
    int64_t busy_ns, running, workers;
    int64_t kv_used, kv_total;
};

static struct state state_of(const struct sim *sim, size_t type, int64_t at_ns)
{
    struct state sum = {0};
    for (size_t i = 0; i < sim->worker_count; i++) {
        const struct sim_worker *worker = &sim->workers[i];
        if (worker->profile != type)
            continue;
        struct med_scheduler_stats stats;
        med_scheduler_get_stats(worker->scheduler, &stats);
        if (!worker->away) {
            sum.workers++;
            sum.running += stats.running;
            sum.kv_used += stats.kv_blocks_total - stats.kv_blocks_free;
            sum.kv_total += stats.kv_blocks_total;
        }
        sum.busy_ns += worker->busy_ns;
        if (worker->batch && worker->ends_ns > at_ns)
            sum.busy_ns -= worker->ends_ns - at_ns; /* not used up yet */
    }
    return sum;
}

static void end_type(struct sim *sim, size_t type, int64_t at_ns, struct med_sim_type_sample *to)
{
    struct sim_sampler *s = &sim->sampler;
    struct state state = state_of(sim, type, at_ns);
    *to = (struct med_sim_type_sample){.tokens = s->tokens[type]};
    if (state.workers > 0) {
        double workers = (double)state.workers;
        double busy_ns = (double)(state.busy_ns - s->busy_ns[type]);
        /* A worker that is restarted loses the iteration that was counted ahead. */
        to->busy = fmin(fmax(busy_ns / (workers * (double)s->samples.step_ns), 0), 1);
        to->running = (double)state.running / workers;
        to->kv = state.kv_total > 0 ? (double)state.kv_used / (double)state.kv_total : 0;
    }
    s->busy_ns[type] = state.busy_ns;
    s->tokens[type] = 0;
}

/* Two spans become one, all along. */
static void halve(struct med_sim_samples *m)
{
    for (size_t i = 0; 2 * i < m->count; i++) {
        const struct med_sim_sample *a = &m->all[2 * i], *b = &m->all[2 * i + 1];
        m->all[i] = (struct med_sim_sample){
            .queued = (a->queued + b->queued) / 2,
            .in_flight = (a->in_flight + b->in_flight) / 2,
            .queued_most = a->queued_most > b->queued_most ? a->queued_most : b->queued_most,
        };
        for (size_t t = 0; t < m->type_count; t++) {
            const struct med_sim_type_sample *x = &m->types[2 * i * m->type_count + t];
            const struct med_sim_type_sample *y = x + m->type_count;
            m->types[i * m->type_count + t] =
                (struct med_sim_type_sample){.busy = (x->busy + y->busy) / 2,
                                             .running = (x->running + y->running) / 2,
                                             .kv = (x->kv + y->kv) / 2,
                                             .tokens = x->tokens + y->tokens};
        }
    }
    m->count /= 2;
    m->step_ns *= 2;
}

static int64_t span_end_ns(const struct sim_sampler *s)
{
    return s->samples.from_ns + (int64_t)(s->samples.count + 1) * s->samples.step_ns;
}

static void end_span(struct sim *sim, int64_t at_ns)
{
    struct sim_sampler *s = &sim->sampler;
    struct med_sim_samples *m = &s->samples;
    double step = (double)m->step_ns;
    m->all[m->count] = (struct med_sim_sample){.queued = s->queued_ns / step,
                                               .in_flight = s->in_flight_ns / step,
                                               .queued_most = s->queued_most};
    for (size_t t = 0; t < m->type_count; t++)
        end_type(sim, t, at_ns, &m->types[m->count * m->type_count + t]);
    m->count++;
    s->queued_ns = s->in_flight_ns = 0;
    s->queued_most = 0;
    if (m->count == s->most)
        halve(m);
}

void sim_sampler_advance(struct sim *sim, int64_t to_ns)
{
    struct sim_sampler *s = &sim->sampler;
    if (s->most == 0)
        return;
    int64_t from_ns = sim->now_ns > s->samples.from_ns ? sim->now_ns : s->samples.from_ns;
    int64_t queued = med_dispatch_queued(sim->dispatch);
    if (to_ns > from_ns && queued > s->queued_most)
        s->queued_most = queued;
    while (from_ns < to_ns) {
        int64_t end_ns = span_end_ns(s);
        int64_t until_ns = to_ns < end_ns ? to_ns : end_ns;
        double held_ns = (double)(until_ns - from_ns);
        s->queued_ns += (double)queued * held_ns;
        s->in_flight_ns += (double)((int64_t)sim->open - queued) * held_ns;
        if (until_ns == end_ns) {
            end_span(sim, end_ns);
            s->queued_most = to_ns > end_ns ? queued : 0;
        }
        from_ns = until_ns;
    }
}

void sim_sampler_finish(struct sim *sim)
{
    if (sim->sampler.most > 0)
        sim_sampler_advance(sim, span_end_ns(&sim->sampler));
}
