/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The closed form of a worker's latencies and capacity, against the real scheduler on a virtual
 * clock under Poisson arrivals, and against the objectives that it was asked for.
 */
#include "allocator/capacity.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "tests/check.h"
#include "worker/engine/scheduler.h"

enum {
    REQUESTS = 3000,
    WARM_UP = 300,
    TABLE = 4096
};

static const struct med_latency A10G_LIKE = {.fixed_ms = 3.1,
                                             .sequence_ms = 0.4,
                                             .weights_ms = 27.0,
                                             .linear_ms_per_token = 0.25,
                                             .kv_ms_per_token = 0.00107,
                                             .pair_ms = 1.5e-5,
                                             .model_len_max = 14880,
                                             .sequences_max = 256,
                                             .batched_tokens_max = 2048,
                                             .block_tokens = 16,
                                             .kv_tokens = 14880};

static const struct med_latency A100_LIKE = {.fixed_ms = 3.1,
                                             .sequence_ms = 0.3,
                                             .weights_ms = 8.6,
                                             .linear_ms_per_token = 0.077,
                                             .kv_ms_per_token = 0.00033,
                                             .pair_ms = 4.7e-6,
                                             .model_len_max = 18432,
                                             .sequences_max = 256,
                                             .batched_tokens_max = 2048,
                                             .block_tokens = 16,
                                             .kv_tokens = 120896};

struct tracker {
    double arrival_s, first_s, last_s;
};

struct observed {
    double ttft_ms, tpot_ms;
};

/* Poisson arrivals of one size through the scheduler; each iteration takes what the model says. */
static struct observed simulate(const struct med_latency *latency, int64_t input, int64_t output,
                                double rate_per_s, uint64_t seed)
{
    struct med_scheduler_config config = {.block_tokens = latency->block_tokens,
                                          .kv_tokens = latency->kv_tokens,
                                          .model_len_max = latency->model_len_max,
                                          .sequences_max = latency->sequences_max,
                                          .batched_tokens_max = latency->batched_tokens_max,
                                          .table_max = TABLE};
    struct med_scheduler *scheduler = NULL;
    struct med_err err = {0};
    struct observed sum = {0};
    struct tracker *trackers = med_calloc(REQUESTS, sizeof *trackers);
    struct med_rng rng;
    med_rng_init(&rng, seed, 7);
    REQUIRE(trackers != NULL && med_scheduler_new(&config, &scheduler, &err) == 0);
    double now_s = 0.0;
    double next_s = 0.0;
    size_t added = 0;
    size_t finished = 0;
    while (finished < REQUESTS) {
        if (!med_scheduler_has_work(scheduler) && next_s > now_s)
            now_s = next_s;
        for (; added < REQUESTS && next_s <= now_s; added++) {
            struct med_sequence_spec spec = {.id = added + 1,
                                             .prompt_tokens = input,
                                             .output_tokens_max = output,
                                             .user = &trackers[added]};
            trackers[added].arrival_s = next_s;
            REQUIRE(med_scheduler_add(scheduler, &spec) == 0);
            next_s += med_rng_exponential(&rng, 1.0 / rate_per_s);
        }
        const struct med_batch *batch = med_scheduler_plan(scheduler);
        now_s += med_latency_step_ms(latency, &batch->load) / 1e3;
        const struct med_sequence_event *events = NULL;
        size_t count = med_scheduler_commit(scheduler, NULL, &events);
        for (size_t e = 0; e < count; e++) {
            struct tracker *tracker = events[e].user;
            if (events[e].position == 0)
                tracker->first_s = now_s;
            if (events[e].end == MED_END_NONE)
                continue;
            tracker->last_s = now_s;
            finished++;
        }
    }
    for (size_t n = WARM_UP; n < REQUESTS; n++) {
        sum.ttft_ms += 1e3 * (trackers[n].first_s - trackers[n].arrival_s);
        if (output > 1)
            sum.tpot_ms += 1e3 * (trackers[n].last_s - trackers[n].first_s) / (double)(output - 1);
    }
    sum.ttft_ms /= REQUESTS - WARM_UP;
    sum.tpot_ms /= REQUESTS - WARM_UP;
    med_scheduler_free(scheduler);
    med_free(trackers);
    return sum;
}
