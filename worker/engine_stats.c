/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the engine thread counts (see engine_stats.h).
 */
#include "worker/engine_stats.h"

static double seconds(int64_t ns)
{
    return (double)ns / (double)MED_NS_PER_S;
}

/* Tokens of it that were generated here. */
static int64_t made_here(const struct med_engine_request *request)
{
    return request->generated - request->output_tokens;
}

void med_engine_stats_init(struct med_engine_stats *stats, const struct med_engine_config *config)
{
    struct med_hist *const long_ones[] = {&stats->ttft, &stats->e2e, &stats->queue, &stats->prefill,
                                          &stats->decode};
    struct med_hist *const gaps[] = {&stats->itl, &stats->tpot};
    for (size_t i = 0; i < sizeof long_ones / sizeof long_ones[0]; i++) {
        med_hist_init(long_ones[i], MED_HIST_TTFT_S, MED_HIST_TTFT_S_COUNT,
                      i == 0 ? config->ttft_bounds_s : NULL, i == 0 ? config->ttft_bound_count : 0);
    }
    for (size_t i = 0; i < sizeof gaps / sizeof gaps[0]; i++) {
        med_hist_init(gaps[i], MED_HIST_TPOT_S, MED_HIST_TPOT_S_COUNT, config->tpot_bounds_s,
                      config->tpot_bound_count);
    }
}

void med_engine_stats_token(struct med_engine_stats *stats,
                            const struct med_engine_request *request, int64_t now_ns)
{
    if (made_here(request) == 1) {
        med_hist_add(&stats->ttft, seconds(now_ns - request->arrival_ns));
    } else {
        med_hist_add(&stats->itl, seconds(now_ns - request->last_token_ns));
    }
}

void med_engine_stats_end(struct med_engine_stats *stats, const struct med_engine_request *request,
                          int64_t now_ns)
{
    stats->ends[request->end]++;
    if (request->end != MED_ENGINE_STOP && request->end != MED_ENGINE_LENGTH)
        return;
    double decode_s = seconds(now_ns - request->first_token_ns);
    med_hist_add(&stats->e2e, seconds(now_ns - request->arrival_ns));
    med_hist_add(&stats->queue, seconds(request->scheduled_ns - request->arrival_ns));
    med_hist_add(&stats->prefill, seconds(request->first_token_ns - request->scheduled_ns));
    med_hist_add(&stats->decode, decode_s);
    if (made_here(request) > 1)
        med_hist_add(&stats->tpot, decode_s / (double)(made_here(request) - 1));
}

void med_engine_stats_step(struct med_engine_stats *stats, int64_t took_ns)
{
    stats->step_seconds += seconds(took_ns);
}
