/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The walk against the scheduler that it counts: the same arrivals, and every request's first and
 * last token must come at the same time, preemptions included.
 */
#include "allocator/walk.h"

#include "base/alloc.h"
#include "tests/check.h"
#include "worker/engine/scheduler.h"

enum {
    REQUESTS = 1500,
    TABLE = 3 * REQUESTS
};

static const struct med_latency base = {.fixed_ms = 3.1,
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

struct tracker {
    double first_s, last_s;
};

/* Runs the scheduler until `firsts` first tokens and `ends` ends have come; returns preemptions. */
static uint64_t schedule(const struct med_latency *latency, int64_t input, int64_t output,
                         const struct med_walk *arrivals, const struct med_walk_means *until,
                         struct tracker *trackers)
{
    struct med_scheduler_config config = {.block_tokens = latency->block_tokens,
                                          .kv_tokens = latency->kv_tokens,
                                          .model_len_max = latency->model_len_max,
                                          .sequences_max = latency->sequences_max,
                                          .batched_tokens_max = latency->batched_tokens_max,
                                          .table_max = TABLE};
    struct med_scheduler *scheduler = NULL;
    REQUIRE(med_scheduler_new(&config, &scheduler, NULL) == 0);
    double now_s = 0.0;
    int64_t added = 0;
    int64_t firsts = 0;
    for (int64_t ends = 0; firsts < until->firsts || ends < until->ends;) {
        if (!med_scheduler_has_work(scheduler))
            now_s = fmax(now_s, med_walk_arrival_s(arrivals, added));
        for (; med_walk_arrival_s(arrivals, added) <= now_s; added++) {
            REQUIRE(added < TABLE);
            struct med_sequence_spec spec = {.id = (uint64_t)added,
                                             .prompt_tokens = input,
                                             .output_tokens_max = output,
                                             .user = &trackers[added]};
            REQUIRE(med_scheduler_add(scheduler, &spec) == 0);
        }
        now_s += med_latency_step_ms(latency, &med_scheduler_plan(scheduler, 0)->load) / 1e3;
        const struct med_sequence_event *events = NULL;
        size_t count = med_scheduler_commit(scheduler, NULL, &events);
        for (size_t e = 0; e < count; e++) {
            struct tracker *tracker = events[e].user;
            if (events[e].position == 0) {
                CHECK_INT(tracker - trackers, firsts++); /* first come, first served */
                tracker->first_s = now_s;
            }
            if (events[e].end != MED_END_NONE) {
                CHECK_INT(tracker - trackers, ends++);
                tracker->last_s = now_s;
            }
        }
    }
    struct med_scheduler_stats stats;
    med_scheduler_get_stats(scheduler, &stats);
    med_scheduler_free(scheduler);
    return stats.preemptions;
}

struct situation {
    int64_t input, output, sequences_max, batched_tokens_max, block_tokens, kv_tokens;
    bool preempts;
};

static void check_situation(const struct situation *s)
{
    static const double loads[] = {0.02, 0.3, 0.7, 0.95, 1.1};
    struct med_latency latency = base;
    latency.sequences_max = s->sequences_max;
    latency.batched_tokens_max = s->batched_tokens_max;
    latency.block_tokens = s->block_tokens;
    latency.kv_tokens = s->kv_tokens;
    struct med_walk *walk = NULL;
    REQUIRE(med_walk_new(&latency, s->input, s->output, &walk) == 0);
    double greatest = med_walk_greatest(walk);
    uint64_t preemptions = 0;
    struct tracker *trackers = med_calloc(TABLE, sizeof *trackers);
    REQUIRE(trackers != NULL);
    for (size_t n = 0; n < sizeof loads / sizeof loads[0]; n++) {
        struct med_walk_means means;
        med_walk_start(walk, loads[n] * greatest, 0);
        med_walk_advance(walk, REQUESTS / 2, &means);
        med_walk_advance(walk, REQUESTS, &means);
        preemptions += means.preemptions;
        CHECK(means.ends >= REQUESTS && means.firsts >= means.ends);
        uint64_t seen = schedule(&latency, s->input, s->output, walk, &means, trackers);
        CHECK_UINT(means.preemptions, seen);
        double ttft_s = 0.0;
        double decode_s = 0.0;
        for (int64_t r = 0; r < means.firsts; r++)
            ttft_s += trackers[r].first_s - med_walk_arrival_s(walk, r);
        for (int64_t r = 0; r < means.ends; r++)
            decode_s += trackers[r].last_s - trackers[r].first_s;
        CHECK_DOUBLE(means.ttft_s * (double)means.firsts / ttft_s, 1.0, 1e-9);
        CHECK_DOUBLE(means.decode_s * (double)means.ends, decode_s, 1e-9 * decode_s);
    }
    CHECK_INT(preemptions > 0, s->preempts);
    med_free(trackers);
    med_walk_free(walk);
}

static void test_walk_when_scheduler_runs_then_every_time_is_equal(void)
{
    static const struct situation situations[] = {
        {20, 20, 256, 2048, 16, 14880, false},     {1500, 20, 256, 2048, 16, 14880, false},
        {1500, 200, 256, 2048, 16, 14880, true},   {3000, 40, 256, 512, 16, 14880, false},
        {10000, 100, 256, 2048, 16, 14880, false}, {300, 1, 256, 2048, 16, 14880, false},
        {300, 2, 256, 2048, 16, 14880, false},     {5000, 2, 8, 300, 16, 14880, false},
        {60, 600, 64, 64, 16, 14880, true},        {10, 90, 256, 2048, 1, 800, true},
        {100, 5, 3, 7, 7, 14880, false},           {1, 1, 1, 1, 1, 2, false},
        {40, 200, 4, 2048, 1000, 3000, false},     {16, 16, 256, 2048, 16, 512, true},
    };
    for (size_t n = 0; n < sizeof situations / sizeof situations[0]; n++)
        check_situation(&situations[n]);
}

/* One place, answers of one token: a server of constant times, whose mean wait is known. */
static void test_walk_when_one_server_then_waits_as_pollaczek_khinchine(void)
{
    static const double loads[] = {0.3, 0.5, 0.7, 0.8, 0.9, 0.95};
    struct med_latency latency = {.fixed_ms = 100.0,
                                  .model_len_max = 100,
                                  .sequences_max = 1,
                                  .batched_tokens_max = 100,
                                  .block_tokens = 16,
                                  .kv_tokens = 112};
    struct med_walk *walk = NULL;
    REQUIRE(med_walk_new(&latency, 50, 1, &walk) == 0);
    CHECK_DOUBLE(med_walk_greatest(walk), 10.0, 1e-9);
    for (size_t n = 0; n < sizeof loads / sizeof loads[0]; n++) {
        struct med_walk_means means;
        double wait_s = 0.1 * loads[n] / 2.0 / (1.0 - loads[n]);
        med_walk_start(walk, 10.0 * loads[n], MED_WALK_PERIOD);
        med_walk_advance(walk, MED_WALK_PERIOD, &means);
        CHECK_DOUBLE((means.ttft_s - 0.1) / wait_s, 1.0, 0.015);
        CHECK_DOUBLE(means.decode_s, 0.0, 0.0);
        CHECK_DOUBLE(means.running, loads[n], 0.001);
    }
    med_walk_free(walk);
}

static void test_walk_when_size_cannot_fit_then_limit(void)
{
    struct med_walk *walk = NULL;
    struct med_latency latency = base;
    CHECK_INT(med_walk_new(&latency, 14880, 1, &walk), MED_E_LIMIT);
    CHECK_INT(med_walk_new(&latency, 14000, 880, &walk), 0);
    med_walk_free(walk);
    latency.kv_tokens = 1615; /* 100 whole blocks */
    CHECK_INT(med_walk_new(&latency, 1600, 1, &walk), MED_E_LIMIT);
    CHECK_INT(med_walk_new(&latency, INT64_MAX, INT64_MAX, &walk), MED_E_LIMIT);
}

int main(void)
{
    RUN(test_walk_when_one_server_then_waits_as_pollaczek_khinchine);
    RUN(test_walk_when_size_cannot_fit_then_limit);
    RUN(test_walk_when_scheduler_runs_then_every_time_is_equal);
    return check_finish();
}
