/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A load of seeded arrivals and lengths in real time (see mixed.h).
 *
 * One loop does what the engine thread does, without links: it adds what has arrived, plans,
 * computes, commits.  A request arrives at its time whatever the worker is doing, so a slow way of
 * batching is not spared by a slower load.
 * thread: main.
 */
#include "worker/bench/mixed.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/rng.h"

#include <math.h>
#include <stdlib.h>

struct request {
    struct med_backend_sequence sequence;
    uint32_t *tokens; // [prompt_max + output_max]
    int64_t output_max;
    int64_t arrival_ns, first_ns, end_ns;
};

struct mixed {
    struct med_backend backend;
    struct med_scheduler *scheduler;
    struct med_clock clock;
    const struct med_bench_load *load;
    struct request *requests; // [load->requests], by arrival
    uint32_t *tokens;         // those of all requests
    int64_t added, ended, items;
    /* Of one iteration. */
    const struct med_backend_sequence **sequences; // [sequences_max]
    uint32_t *sampled;
    bool *stop;
    struct med_bench_mixed result;
};

static void make_requests(struct mixed *m)
{
    const struct med_bench_load *load = m->load;
    struct med_rng rng;
    med_rng_init(&rng, load->seed, 2);
    double at_s = 0;
    for (int64_t i = 0; i < load->requests; i++) {
        struct request *r = &m->requests[i];
        r->tokens = m->tokens + i * (load->prompt_max + load->output_max);
        if (load->rate > 0)
            at_s += i > 0 ? med_rng_exponential(&rng, 1 / load->rate) : 0;
        r->arrival_ns = (int64_t)(at_s * 1e9);
        r->output_max = 1 + med_rng_below(&rng, (uint32_t)load->output_max);
        r->sequence.prompt_tokens = 1 + med_rng_below(&rng, (uint32_t)load->prompt_max);
        r->sequence.tokens = r->tokens;
        r->sequence.sampling = med_sampling_default();
        r->sequence.sampling.temperature = 0;
        r->sequence.sampling.ignore_eos = true;
        for (int64_t t = 0; t < r->sequence.prompt_tokens; t++)
            r->tokens[t] = med_rng_below(&rng, 256); /* every model has them */
    }
}

static int add_arrived(struct mixed *m, int64_t now_ns, struct med_err *err)
{
    for (; m->added < m->load->requests; m->added++) {
        struct request *r = &m->requests[m->added];
        if (r->arrival_ns > now_ns)
            return 0;
        const struct med_sequence_spec spec = {.id = (uint64_t)m->added,
                                               .prompt_tokens = r->sequence.prompt_tokens,
                                               .output_tokens_max = r->output_max,
                                               .arrival_ns = r->arrival_ns,
                                               .user = r};
        int rc = med_scheduler_add(m->scheduler, &spec);
        if (rc < 0) {
            return med_err_set(err, rc, "request %lld of %lld prompt and %lld output tokens: %s",
                               (long long)m->added, (long long)r->sequence.prompt_tokens,
                               (long long)r->output_max, med_err_text(rc));
        }
    }
    return 0;
}

/* One iteration; its events carry the time at which it ended. */
static int iterate(struct mixed *m, int64_t start_ns, int64_t now_ns, struct med_err *err)
{
    const struct med_batch *batch = med_scheduler_plan(m->scheduler, now_ns);
    for (size_t i = 0; i < batch->count; i++)
        m->sequences[i] = &((struct request *)batch->items[i].user)->sequence;
    const struct med_backend_step step = {
        .batch = batch, .sequences = m->sequences, .sampled = m->sampled, .stop = m->stop};
    if (batch->count > 0) {
        int rc = m->backend.ops->step(m->backend.self, &step, err);
        if (rc < 0)
            return rc;
        m->result.iterations++;
        m->items += (int64_t)batch->count;
    }
    for (size_t i = 0; i < batch->count; i++) {
        const struct med_batch_item *item = &batch->items[i];
        struct request *r = item->user;
        if (item->samples)
            r->tokens[r->sequence.prompt_tokens + item->position] = m->sampled[i];
    }
    const struct med_sequence_event *events;
    size_t count = med_scheduler_commit(m->scheduler, NULL, &events);
    int64_t after_ns = med_clock_now_ns(&m->clock) - start_ns;
    for (size_t i = 0; i < count; i++) {
        struct request *r = events[i].user;
        m->result.output_tokens++;
        if (events[i].position == 0)
            r->first_ns = after_ns;
        if (events[i].end != MED_END_NONE) {
            r->end_ns = after_ns;
            m->ended++;
        }
    }
    return 0;
}

static int run(struct mixed *m, struct med_err *err)
{
    const int64_t start_ns = med_clock_now_ns(&m->clock);
    while (m->ended < m->load->requests) {
        int64_t now_ns = med_clock_now_ns(&m->clock) - start_ns;
        int rc = add_arrived(m, now_ns, err);
        if (rc < 0)
            return rc;
        int64_t next_ns = med_scheduler_next_ns(m->scheduler);
        if (next_ns <= now_ns) {
            rc = iterate(m, start_ns, now_ns, err);
            if (rc < 0)
                return rc;
            continue;
        }
        if (m->added < m->load->requests && m->requests[m->added].arrival_ns < next_ns)
            next_ns = m->requests[m->added].arrival_ns;
        MED_ASSERT(next_ns != INT64_MAX); /* someone is still to come, or is waiting */
        med_clock_sleep_until(&m->clock, start_ns + next_ns);
    }
    m->result.seconds = (double)(med_clock_now_ns(&m->clock) - start_ns) / 1e9;
    return 0;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The nearest rank. */
static double quantile(const double *sorted, int64_t count, double q)
{
    int64_t rank = (int64_t)ceil(q * (double)count);
    return sorted[rank > 0 ? rank - 1 : 0];
}

static void summarize(struct mixed *m, double *latency, double *first)
{
    struct med_bench_mixed *r = &m->result;
    const int64_t n = m->load->requests;
    MED_ASSERT(latency);
    MED_ASSERT(first);
    for (int64_t i = 0; i < n; i++) {
        latency[i] = (double)(m->requests[i].end_ns - m->requests[i].arrival_ns) / 1e9;
        first[i] = (double)(m->requests[i].first_ns - m->requests[i].arrival_ns) / 1e9;
        r->latency_s_mean += latency[i] / (double)n;
        r->first_s_mean += first[i] / (double)n;
    }
    qsort(latency, (size_t)n, sizeof latency[0], compare);
    qsort(first, (size_t)n, sizeof first[0], compare);
    r->latency_s_p50 = quantile(latency, n, 0.5);
    r->latency_s_p99 = quantile(latency, n, 0.99);
    r->first_s_p99 = quantile(first, n, 0.99);
    r->output_tokens_per_s = (double)r->output_tokens / r->seconds;
    r->requests_per_s = (double)n / r->seconds;
    r->batch_mean = (double)m->items / (double)r->iterations;
}

int med_bench_mixed_run(struct med_backend backend, const struct med_scheduler_config *scheduler,
                        const struct med_bench_load *load, struct med_bench_mixed *ret_mixed,
                        struct med_err *err)
{
    MED_ASSERT(load->requests > 0);
    struct mixed m = {.backend = backend, .load = load};
    med_clock_init_real(&m.clock, 1);
    const size_t n = (size_t)load->requests, lanes = (size_t)scheduler->sequences_max;
    m.requests = med_calloc(n, sizeof m.requests[0]);
    m.tokens = med_calloc(n, (size_t)(load->prompt_max + load->output_max) * sizeof m.tokens[0]);
    m.sequences = med_calloc(lanes, sizeof(void *));
    m.sampled = med_calloc(lanes, sizeof m.sampled[0]);
    m.stop = med_calloc(lanes, sizeof m.stop[0]);
    double *times = med_calloc(2 * n, sizeof times[0]);
    int rc;
    if (!m.requests || !m.tokens || !m.sequences || !m.sampled || !m.stop || !times) {
        rc = med_err_set(err, MED_E_NOMEM, "no memory for %zu requests", n);
    } else {
        rc = med_scheduler_new(scheduler, &m.scheduler, err);
    }
    if (rc == 0) {
        make_requests(&m);
        rc = run(&m, err);
    }
    if (rc == 0) {
        summarize(&m, times, times + n);
        *ret_mixed = m.result;
    }
    med_scheduler_free(m.scheduler);
    med_free(times);
    med_free(m.stop);
    med_free(m.sampled);
    med_free(m.sequences);
    med_free(m.tokens);
    med_free(m.requests);
    return rc;
}
