/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One worker's real scheduler on a virtual clock under Poisson arrivals of one size; an iteration
 * takes what the latency model says.  Arrivals go on until the last measured request has ended.
 */
#ifndef MED_TESTS_ALLOCATOR_ONE_WORKER_H
#define MED_TESTS_ALLOCATOR_ONE_WORKER_H

#include "base/alloc.h"
#include "base/rng.h"
#include "tests/check.h"
#include "worker/engine/scheduler.h"

#include <math.h>

struct one_worker {
    const struct med_latency *latency;
    int64_t input, output;
    double rate_per_s;
    int64_t warm_up, measured; /* requests */
    uint64_t seed;
};

struct one_worker_means {
    double ttft_ms, tpot_ms; /* tpot_ms 0 for one output token; INFINITY: more wait than it holds */
    double ends_per_s;       /* of those measured */
};

struct one_worker_request {
    int64_t index;
    double arrival_s, first_s;
};

static inline struct one_worker_means one_worker_run(const struct one_worker *run)
{
    const struct med_latency *l = run->latency;
    int64_t total = run->warm_up + run->measured;
    int64_t table = total + 16384;
    struct med_scheduler_config config = {.block_tokens = l->block_tokens,
                                          .kv_tokens = l->kv_tokens,
                                          .model_len_max = l->model_len_max,
                                          .sequences_max = l->sequences_max,
                                          .batched_tokens_max = l->batched_tokens_max,
                                          .table_max = 16384};
    struct med_scheduler *scheduler = NULL;
    struct one_worker_request *requests = med_calloc((size_t)table, sizeof *requests);
    struct one_worker_means means = {0};
    struct med_rng rng;
    med_rng_init(&rng, run->seed, 7);
    REQUIRE(requests != NULL && med_scheduler_new(&config, &scheduler, NULL) == 0);
    double now_s = 0.0;
    double next_s = med_rng_exponential(&rng, 1.0 / run->rate_per_s);
    int64_t added = 0;
    double from_s = 0.0;
    for (int64_t ended = 0; ended < run->measured;) {
        if (!med_scheduler_has_work(scheduler))
            now_s = fmax(now_s, next_s);
        bool full = false;
        for (; next_s <= now_s && !full; added++) {
            REQUIRE(added < table);
            requests[added] = (struct one_worker_request){.index = added, .arrival_s = next_s};
            struct med_sequence_spec spec = {.id = (uint64_t)added,
                                             .prompt_tokens = run->input,
                                             .output_tokens_max = run->output,
                                             .user = &requests[added]};
            full = med_scheduler_add(scheduler, &spec) < 0;
            next_s += med_rng_exponential(&rng, 1.0 / run->rate_per_s);
        }
        if (full || added == table) {
            means = (struct one_worker_means){.ttft_ms = INFINITY, .tpot_ms = INFINITY};
            break;
        }
        now_s += med_latency_step_ms(l, &med_scheduler_plan(scheduler, 0)->load) / 1e3;
        const struct med_sequence_event *events = NULL;
        size_t count = med_scheduler_commit(scheduler, NULL, &events);
        for (size_t e = 0; e < count; e++) {
            struct one_worker_request *r = events[e].user;
            if (events[e].position == 0)
                r->first_s = now_s;
            if (events[e].end != MED_END_NONE && r->index + 1 == run->warm_up)
                from_s = now_s;
            if (events[e].end == MED_END_NONE || r->index < run->warm_up || r->index >= total)
                continue;
            means.ttft_ms += 1e3 * (r->first_s - r->arrival_s) / (double)run->measured;
            if (run->output > 1) {
                means.tpot_ms +=
                    1e3 * (now_s - r->first_s) / (double)((run->output - 1) * run->measured);
            }
            ended++;
        }
    }
    means.ends_per_s = (double)run->measured / (now_s - from_s);
    med_scheduler_free(scheduler);
    med_free(requests);
    return means;
}

#endif
