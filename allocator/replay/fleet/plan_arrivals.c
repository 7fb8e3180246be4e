/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arrivals of a plan's own mix, and means of a simulation's result: for tests and reports that have
 * no trace at hand. Seeded; the same on every machine. thread: the caller's.
 */
#include "allocator/replay/fleet/simulate.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/rng.h"
#include "router/dispatch/dispatch.h"

#include <math.h>

#define STREAM_GAPS    1
#define STREAM_BUCKETS 2

static int64_t tokens_of(double mean)
{
    return mean > 1 ? llround(mean) : 1;
}

static double gap_s(const struct med_plan *plan, struct med_rng *rng, double rate_per_s)
{
    if (plan->arrival == MED_ARRIVAL_GAMMA && plan->burstiness > 0)
        return med_rng_gamma(rng, plan->burstiness, 1 / (plan->burstiness * rate_per_s));
    return med_rng_exponential(rng, 1 / rate_per_s);
}

static const struct med_plan_assignment *draw(const struct med_plan *plan, double rate_per_s,
                                              struct med_rng *rng)
{
    double left = med_rng_uniform(rng) * rate_per_s;
    size_t i = 0;
    while (i + 1 < plan->assignment_count && left >= plan->assignment[i].rate_per_s)
        left -= plan->assignment[i++].rate_per_s;
    return &plan->assignment[i];
}

int med_sim_arrivals_from_plan(const struct med_plan *plan, double rate_factor, size_t count,
                               int64_t output_tokens_max, uint64_t seed,
                               struct med_sim_arrival **ret_arrivals, struct med_err *err)
{
    double rate_per_s = 0;
    for (size_t i = 0; i < plan->assignment_count; i++)
        rate_per_s += plan->assignment[i].rate_per_s;
    if (!(rate_per_s > 0) || !(rate_factor > 0) || !isfinite(rate_factor)) {
        return med_err_set(err, MED_E_INVALID,
                           "arrivals: the plan's rate is %g and the factor %g, expected both > 0",
                           rate_per_s, rate_factor);
    }
    struct med_sim_arrival *arrivals = med_calloc(count + 1, sizeof *arrivals);
    if (!arrivals)
        return med_err_set(err, MED_E_NOMEM, "no memory for %zu arrivals", count);
    struct med_rng gaps;
    struct med_rng buckets;
    med_rng_init(&gaps, seed, STREAM_GAPS);
    med_rng_init(&buckets, seed, STREAM_BUCKETS);
    double at_s = 0;
    for (size_t i = 0; i < count; i++) {
        at_s += gap_s(plan, &gaps, rate_per_s * rate_factor);
        const struct med_plan_assignment *bucket = draw(plan, rate_per_s, &buckets);
        double edge = plan->grid.output_edges[bucket->output_row];
        int64_t output = tokens_of(bucket->output_mean);
        int64_t most = output_tokens_max > 0 ? output_tokens_max : tokens_of(edge) + 1;
        arrivals[i] = (struct med_sim_arrival){.at_ns = (int64_t)(at_s * (double)MED_NS_PER_S),
                                               .input_tokens = tokens_of(bucket->input_mean),
                                               .output_tokens = output < most ? output : most,
                                               .output_tokens_max = most};
    }
    *ret_arrivals = arrivals;
    return 0;
}

struct med_sim_summary med_sim_summarize(const struct med_sim_result *result,
                                         const struct med_sim_arrival *arrivals, size_t from,
                                         size_t to)
{
    struct med_sim_summary sum = {0};
    size_t with_tpot = 0;
    for (size_t i = from; i < to && i < result->count; i++) {
        const struct med_sim_request *row = &result->requests[i];
        if (row->outcome < 0) {
            sum.refused++;
        } else if (row->e2e_ns < 0) {
            sum.other++;
        } else {
            double e2e_ms = (double)row->e2e_ns / 1e6;
            double ttft_ms = (double)row->ttft_ns / 1e6;
            double tokens = (double)arrivals[i].output_tokens;
            sum.finished++;
            sum.ttft_ms += ttft_ms;
            sum.e2e_ms += e2e_ms;
            sum.e2e_per_token_ms += e2e_ms / tokens;
            if (arrivals[i].output_tokens > 1) {
                sum.tpot_ms += (e2e_ms - ttft_ms) / (tokens - 1);
                with_tpot++;
            }
        }
    }
    double finished = sum.finished > 0 ? (double)sum.finished : NAN;
    sum.ttft_ms /= finished;
    sum.e2e_ms /= finished;
    sum.e2e_per_token_ms /= finished;
    sum.tpot_ms /= with_tpot > 0 ? (double)with_tpot : NAN;
    return sum;
}
