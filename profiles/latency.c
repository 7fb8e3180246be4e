/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The latency model: the time of one iteration, from a profile's step model.
 *
 * med_latency_init turns rates into milliseconds per unit once, so that a step costs a handful of
 * multiplications.  Coverage is a box: the greatest number of sequences, context per sequence and
 * prefill tokens that any measured or published step row reached, inside the engine's limits; a
 * corner of the box may lie beyond every single row.  Runs on any thread.  It does no I/O, keeps no
 * state, allocates nothing, and adds no noise.
 */
#include "profiles/latency.h"

#include "profiles/profile.h"

int64_t med_step_pairs(int64_t tokens, int64_t context)
{
    return tokens * context + tokens * (tokens + 1) / 2;
}

static int64_t greater(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void cover(struct med_latency *latency, const struct med_profile *profile)
{
    for (size_t i = 0; i < profile->step_count; i++) {
        const struct med_step_row *row = &profile->steps[i];
        if (profile->sources[row->source].kind == MED_SOURCE_MODELLED) {
            continue;
        }
        latency->covered_sequences = greater(latency->covered_sequences, row->decode_sequences);
        latency->covered_prefill_tokens =
            greater(latency->covered_prefill_tokens, row->prefill_tokens);
        if (row->decode_sequences > 0) {
            latency->covered_context = greater(latency->covered_context,
                                               row->decode_context_tokens / row->decode_sequences);
        }
    }
}

int med_latency_init(struct med_latency *latency, const struct med_profile *profile,
                     struct med_err *err)
{
    if (!profile->has_step_model) {
        return med_err_set(err, MED_E_UNCOVERED,
                           "the profile of worker type %s has serving points but no step model, so "
                           "its iteration times are not known",
                           profile->worker_type);
    }
    const struct med_step_model *step = &profile->step_model;
    const struct med_model_shape *model = &profile->model;
    double pair_flops =
        4.0 * (double)model->layers * (double)model->heads * (double)model->head_dim;
    *latency = (struct med_latency){
        .fixed_ms = step->fixed_ms,
        .sequence_ms = step->sequence_us / 1e3,
        .weights_ms = 1e3 * model->weight_bytes / step->bandwidth_bytes_per_s,
        .linear_ms_per_token = 1e3 * 2.0 * model->parameters / step->matrix_flops_per_s,
        .kv_ms_per_token = 1e3 * model->kv_bytes_per_token / step->kv_bandwidth_bytes_per_s,
        .pair_ms = 1e3 * pair_flops / step->attention_flops_per_s,
        .model_len_max = profile->limits.model_len_max,
        .sequences_max = profile->limits.sequences_max,
        .batched_tokens_max = profile->limits.batched_tokens_max,
        .block_tokens = profile->limits.block_tokens,
        .kv_tokens = profile->limits.kv_tokens,
    };
    cover(latency, profile);
    return 0;
}

double med_latency_step_ms(const struct med_latency *latency, const struct med_step_load *load)
{
    if (load->prefill_tokens == 0 && load->decode_sequences == 0) {
        return 0.0;
    }
    double linear_ms = latency->linear_ms_per_token *
                       ((double)load->prefill_tokens + (double)load->decode_sequences);
    double matrix_ms = linear_ms > latency->weights_ms ? linear_ms : latency->weights_ms;
    return latency->fixed_ms + latency->sequence_ms * (double)load->decode_sequences + matrix_ms +
           latency->kv_ms_per_token * (double)load->decode_context_tokens +
           latency->pair_ms * (double)load->prefill_pairs;
}

static bool inside_engine(const struct med_latency *latency, int64_t sequences, int64_t context,
                          int64_t prefill)
{
    if (sequences < 0 || context < 0 || prefill < 0) {
        return false;
    }
    if (sequences > latency->sequences_max || context > latency->model_len_max) {
        return false;
    }
    /* The limits bound both factors, so the product fits. */
    return prefill <= latency->batched_tokens_max - sequences &&
           sequences * context <= latency->kv_tokens;
}

enum med_coverage med_latency_coverage(const struct med_latency *latency, int64_t decode_sequences,
                                       int64_t context_tokens, int64_t prefill_tokens)
{
    if (!inside_engine(latency, decode_sequences, context_tokens, prefill_tokens)) {
        return MED_COVERAGE_OUTSIDE;
    }
    if (decode_sequences > latency->covered_sequences ||
        prefill_tokens > latency->covered_prefill_tokens) {
        return MED_COVERAGE_MODELLED;
    }
    /* Without decoding sequences there is no decode context to have measured. */
    if (decode_sequences > 0 && context_tokens > latency->covered_context) {
        return MED_COVERAGE_MODELLED;
    }
    return MED_COVERAGE_MEASURED;
}
