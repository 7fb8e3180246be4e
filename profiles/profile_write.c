/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes `medley-profile/1` (docs/reference/formats.md), at the root of a file or inside a plan.
 *
 * Keys come in one fixed order and rows on one line each, so that writing what was read from a
 * written file gives the same bytes.  What is not known (NULL, NAN) is left out.  Runs on any
 * thread; failures of the buffer stay in the writer.  It validates nothing.
 */
#include "profiles/profile.h"

#include <math.h>

static const char *const source_kinds[] = {"measured", "published", "modelled"};

static void put_known_string(struct med_json_writer *w, const char *key, const char *value)
{
    if (value != NULL) {
        med_json_put_string(w, key, value);
    }
}

static void put_known_number(struct med_json_writer *w, const char *key, double value)
{
    if (!isnan(value)) {
        med_json_put_number(w, key, value);
    }
}

static void write_model(struct med_json_writer *w, const struct med_model_shape *model)
{
    med_json_begin_object(w, "model");
    med_json_put_string(w, "name", model->name);
    med_json_put_number(w, "parameters", model->parameters);
    med_json_put_integer(w, "layers", model->layers);
    med_json_put_integer(w, "hidden", model->hidden);
    med_json_put_integer(w, "heads", model->heads);
    med_json_put_integer(w, "kv_heads", model->kv_heads);
    med_json_put_integer(w, "head_dim", model->head_dim);
    med_json_put_integer(w, "intermediate", model->intermediate);
    med_json_put_integer(w, "vocab", model->vocab);
    med_json_put_number(w, "weight_bytes", model->weight_bytes);
    med_json_put_number(w, "kv_bytes_per_token", model->kv_bytes_per_token);
    med_json_end_object(w);
}

static void write_hardware(struct med_json_writer *w, const struct med_hardware *hardware)
{
    med_json_begin_object(w, "hardware");
    med_json_put_number(w, "memory_bytes", hardware->memory_bytes);
    med_json_put_number(w, "bandwidth_bytes_per_s", hardware->bandwidth_bytes_per_s);
    med_json_put_number(w, "matrix_flops_per_s", hardware->matrix_flops_per_s);
    med_json_put_string(w, "source", hardware->source);
    med_json_end_object(w);
}

static void write_limits(struct med_json_writer *w, const struct med_engine_limits *limits)
{
    med_json_begin_object(w, "limits");
    med_json_put_integer(w, "max_model_len", limits->model_len_max);
    med_json_put_integer(w, "max_num_seqs", limits->sequences_max);
    med_json_put_integer(w, "max_num_batched_tokens", limits->batched_tokens_max);
    med_json_put_integer(w, "block_tokens", limits->block_tokens);
    med_json_put_integer(w, "kv_tokens", limits->kv_tokens);
    med_json_end_object(w);
}

static void write_step_model(struct med_json_writer *w, const struct med_step_model *model)
{
    med_json_begin_object(w, "step_model");
    med_json_put_string(w, "form", model->corner > 0.0 ? "roofline/2" : "roofline/1");
    if (model->corner > 0.0) {
        med_json_put_number(w, "corner", model->corner);
    }
    med_json_put_number(w, "fixed_ms", model->fixed_ms);
    med_json_put_number(w, "sequence_us", model->sequence_us);
    med_json_put_number(w, "bandwidth_bytes_per_s", model->bandwidth_bytes_per_s);
    med_json_put_number(w, "matrix_flops_per_s", model->matrix_flops_per_s);
    med_json_put_number(w, "kv_bandwidth_bytes_per_s", model->kv_bandwidth_bytes_per_s);
    med_json_put_number(w, "attention_flops_per_s", model->attention_flops_per_s);
    med_json_put_number(w, "fit_error", model->fit_error);
    med_json_put_number(w, "fit_error_max", model->fit_error_max);
    med_json_put_string(w, "source", model->source);
    med_json_end_object(w);
}

/* A profile without any has no such key. */
static void write_step_errors(struct med_json_writer *w, const struct med_profile *p)
{
    if (p->step_error_count == 0) {
        return;
    }
    med_json_begin_array(w, "step_errors");
    for (size_t i = 0; i < p->step_error_count; i++) {
        const struct med_step_error *error = &p->step_errors[i];
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "region", med_step_region_name(error->region));
        med_json_put_integer(w, "rows", error->rows);
        med_json_put_number(w, "form_mean", error->form_mean);
        med_json_put_number(w, "form_max", error->form_max);
        if (error->table_rows > 0) {
            med_json_put_integer(w, "table_rows", error->table_rows);
            med_json_put_number(w, "table_mean", error->table_mean);
            med_json_put_number(w, "table_max", error->table_max);
        }
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

static void write_sources(struct med_json_writer *w, const struct med_profile *p)
{
    med_json_begin_array(w, "sources");
    for (size_t i = 0; i < p->source_count; i++) {
        const struct med_source *source = &p->sources[i];
        med_json_begin_object(w, NULL);
        med_json_put_string(w, "id", source->id);
        med_json_put_string(w, "kind", source_kinds[source->kind]);
        med_json_put_string(w, "text", source->text);
        put_known_string(w, "licence", source->licence);
        put_known_string(w, "date", source->date);
        put_known_number(w, "fit_error", source->fit_error);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

static void write_validations(struct med_json_writer *w, const struct med_profile *p)
{
    med_json_begin_array(w, "validations");
    for (size_t i = 0; i < p->validation_count; i++) {
        const struct med_validation *validation = &p->validations[i];
        med_json_begin_object(w, NULL);
        med_json_put_string(w, "against", validation->against);
        med_json_put_number(w, "error_mean", validation->error_mean);
        med_json_put_number(w, "error_max", validation->error_max);
        med_json_put_integer(w, "rows", validation->rows);
        med_json_put_string(w, "text", validation->text);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

static void write_steps(struct med_json_writer *w, const struct med_profile *p)
{
    med_json_begin_array(w, "steps");
    for (size_t i = 0; i < p->step_count; i++) {
        const struct med_step_row *row = &p->steps[i];
        med_json_begin_row_object(w, NULL);
        med_json_put_integer(w, "prefill_tokens", row->prefill_tokens);
        med_json_put_integer(w, "prefill_context", row->prefill_context);
        med_json_put_integer(w, "decode_sequences", row->decode_sequences);
        med_json_put_integer(w, "decode_context_tokens", row->decode_context_tokens);
        med_json_put_number(w, "ms_p50", row->ms_p50);
        put_known_number(w, "ms_p99", row->ms_p99);
        med_json_put_string(w, "source", p->sources[row->source].id);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

static void write_stats(struct med_json_writer *w, const char *key,
                        const struct med_latency_stats *stats)
{
    if (isnan(stats->mean) && isnan(stats->p50) && isnan(stats->p90) && isnan(stats->p95) &&
        isnan(stats->p99)) {
        return;
    }
    med_json_begin_row_object(w, key);
    put_known_number(w, "mean", stats->mean);
    put_known_number(w, "p50", stats->p50);
    put_known_number(w, "p90", stats->p90);
    put_known_number(w, "p95", stats->p95);
    put_known_number(w, "p99", stats->p99);
    med_json_end_object(w);
}

static void write_serving(struct med_json_writer *w, const struct med_profile *p)
{
    med_json_begin_array(w, "serving");
    for (size_t i = 0; i < p->serving_count; i++) {
        const struct med_serving_row *row = &p->serving[i];
        med_json_begin_row_object(w, NULL);
        med_json_put_number(w, "input_tokens", row->input_tokens);
        med_json_put_number(w, "output_tokens", row->output_tokens);
        med_json_put_string(w, "arrival", row->arrival);
        put_known_number(w, "rate_per_s", row->rate_per_s);
        put_known_number(w, "concurrency", row->concurrency);
        med_json_put_number(w, "throughput_per_s", row->throughput_per_s);
        write_stats(w, "ttft_ms", &row->ttft_ms);
        write_stats(w, "tpot_ms", &row->tpot_ms);
        write_stats(w, "itl_ms", &row->itl_ms);
        write_stats(w, "e2e_ms", &row->e2e_ms);
        med_json_put_number(w, "failures", row->failures);
        if (row->requests > 0) {
            med_json_put_integer(w, "requests", row->requests);
        }
        if (row->saturated) {
            med_json_put_bool(w, "saturated", true);
        }
        if (row->cut_short) {
            med_json_put_bool(w, "cut_short", true);
        }
        med_json_put_string(w, "source", p->sources[row->source].id);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

void med_profile_write(struct med_json_writer *w, const char *key, const struct med_profile *p)
{
    med_json_begin_object(w, key);
    med_json_put_string(w, "format", "medley-profile/1");
    med_json_put_string(w, "worker_type", p->worker_type);
    med_json_put_string(w, "gpu", p->gpu);
    med_json_put_integer(w, "gpus_per_worker", p->gpus_per_worker);
    med_json_put_string(w, "dtype", p->dtype);
    med_json_put_string(w, "engine", p->engine);
    write_model(w, &p->model);
    write_hardware(w, &p->hardware);
    write_limits(w, &p->limits);
    if (p->has_step_model) {
        write_step_model(w, &p->step_model);
        write_step_errors(w, p);
    }
    write_sources(w, p);
    write_validations(w, p);
    write_steps(w, p);
    write_serving(w, p);
    med_json_end_object(w);
}
