/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Policies: the ways of choosing a worker that others use, beside the plan's (pick.c).
 *
 * Each is one function that gives a worker a score for a request; the least wins, ties by index. They see
 * what gateways see: who is ready, what is outstanding there, and for two of them the profiled throughput
 * of the type for the request's bucket. They know of no objective: a worker with a place takes the
 * request. Queue, leases, health and admission are the same for all.
 *
 * A random choice is the least of one random number per worker, drawn from (seed, number of the choice,
 * worker); with weights, of exponential ones with the weights as rates. So the same calls give the same
 * choices. source of the weights: Griggs et al. 2024 (Melange), section 5. thread: loop.
 */
#include "router/dispatch/internal.h"

#include "base/assert.h"

#include <math.h>
#include <string.h>

static const char *const names[MED_POLICY_COUNT] = {
    [MED_POLICY_PLAN] = "plan",
    [MED_POLICY_ROUND_ROBIN] = "round-robin",
    [MED_POLICY_RANDOM] = "random",
    [MED_POLICY_LEAST_OUTSTANDING] = "least-outstanding",
    [MED_POLICY_THROUGHPUT] = "throughput",
    [MED_POLICY_TOKEN_LOAD] = "token-load",
};

const char *med_dispatch_policy_name(enum med_dispatch_policy policy)
{
    MED_ASSERT(policy < MED_POLICY_COUNT);
    return names[policy];
}

bool med_dispatch_policy_parse(const char *name, enum med_dispatch_policy *ret_policy)
{
    for (size_t i = 0; i < MED_POLICY_COUNT; i++) {
        if (strcmp(names[i], name) == 0) {
            *ret_policy = (enum med_dispatch_policy)i;
            return true;
        }
    }
    return false;
}

/* splitmix64 over what the number belongs to; (0, 1]. */
static double draw(const struct med_dispatch *d, uint32_t worker)
{
    uint64_t x = d->config.policy_seed + d->policy_turn * UINT64_C(0x9e3779b97f4a7c15);
    for (int i = 0; i < 2; i++) {
        x += worker + UINT64_C(0x9e3779b97f4a7c15);
        x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
        x ^= x >> 31;
    }
    return ((double)(x >> 11) + 1) / 9007199254740992.0;
}

/* Requests per second of one worker of the type, of the lease's bucket; 1 where nothing is known. */
static double throughput_of(const struct med_dispatch *d, const struct lease *lease, size_t type)
{
    double work_s = shares_work(&d->shares, lease->input_row, lease->output_row, type);
    return work_s > 0 ? 1 / work_s : 1;
}

static double score_round_robin(const struct med_dispatch *d, const struct lease *lease,
                                uint32_t index)
{
    (void)lease;
    size_t count = d->workers.count_max;
    return (double)((index + count - d->policy_next) % count);
}

static double score_random(const struct med_dispatch *d, const struct lease *lease, uint32_t index)
{
    (void)lease;
    return draw(d, index);
}

static double score_outstanding(const struct med_dispatch *d, const struct lease *lease,
                                uint32_t index)
{
    (void)lease;
    return (double)worker_in_flight(&d->workers.rows[index]);
}

static double score_throughput(const struct med_dispatch *d, const struct lease *lease,
                               uint32_t index)
{
    return -log(draw(d, index)) / throughput_of(d, lease, d->workers.rows[index].type);
}

static double score_token_load(const struct med_dispatch *d, const struct lease *lease,
                               uint32_t index)
{
    const struct worker *worker = &d->workers.rows[index];
    double own = (double)(lease->prompt_tokens + lease->remaining);
    double held = (double)(worker->prefill_tokens + worker->remaining_tokens);
    return (held + own) / (own * throughput_of(d, lease, worker->type));
}

double policy_score(const struct med_dispatch *d, const struct lease *lease, uint32_t worker)
{
    static double (*const scores[MED_POLICY_COUNT])(const struct med_dispatch *,
                                                    const struct lease *, uint32_t) = {
        [MED_POLICY_ROUND_ROBIN] = score_round_robin,
        [MED_POLICY_RANDOM] = score_random,
        [MED_POLICY_LEAST_OUTSTANDING] = score_outstanding,
        [MED_POLICY_THROUGHPUT] = score_throughput,
        [MED_POLICY_TOKEN_LOAD] = score_token_load,
    };
    MED_ASSERT(scores[d->config.policy] != NULL);
    return scores[d->config.policy](d, lease, worker);
}

void policy_take(struct med_dispatch *d, uint32_t worker)
{
    d->policy_turn++;
    d->policy_next = (worker + 1) % d->workers.count_max;
}
