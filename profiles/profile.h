/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The profile: everything Medley knows of one worker type.
 *
 * A worker type is GPU type x GPUs per worker x model x dtype x engine.  Its file
 * (`medley-profile/1`, docs/reference/formats.md) holds hardware, model sizes, engine limits and
 * two kinds of rows: `steps` (iteration times) and `serving` (what a whole server did).  A profile
 * with steps also holds `step_model`, the physical form fitted to its steps; one with serving
 * points alone serves plans and cannot be emulated.  Every row names its source.
 *
 * owns: a profile owns its strings and arrays. thread: immutable after reading; any may read.
 * errors: MED_E_FORMAT / MED_E_LIMIT / MED_E_IO with one sentence.
 */
#ifndef MED_PROFILES_PROFILE_H
#define MED_PROFILES_PROFILE_H

#include "base/json.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum med_source_kind {
    MED_SOURCE_MEASURED,
    MED_SOURCE_PUBLISHED,
    MED_SOURCE_MODELLED
};

/* Where rows came from. JSON: sources[] {id, kind, text, licence?, date?, fit_error?}. */
struct med_source {
    char *id; /* named by the rows' "source" */
    enum med_source_kind kind;
    char *text; /* citation, or date, command, commit and machine, or what it was modelled from */
    char *licence;    /* NULL: not given */
    char *date;       /* NULL: not given; YYYY-MM-DD */
    double fit_error; /* modelled: mean relative error of the fit; NAN: not given */
};

struct med_model_shape {
    char *name;        /* "llama-2-7b" */
    double parameters; /* weights, counted */
    int64_t layers, hidden, heads, kv_heads, head_dim, intermediate, vocab;
    double weight_bytes;       /* read once per iteration, over all GPUs of the worker */
    double kv_bytes_per_token; /* over all layers and GPUs of the worker */
};

struct med_hardware {
    double memory_bytes;          /* of one GPU */
    double bandwidth_bytes_per_s; /* of one GPU: specification or measured, see its source */
    double matrix_flops_per_s;    /* of one GPU, dense, in the profile's dtype */
    char *source;                 /* id of a source */
};

/* What the engine is started with. */
struct med_engine_limits {
    int64_t model_len_max;      /* tokens of prompt + output; JSON max_model_len */
    int64_t sequences_max;      /* JSON max_num_seqs */
    int64_t batched_tokens_max; /* token budget of one iteration; JSON max_num_batched_tokens */
    int64_t block_tokens;       /* tokens of one KV block */
    int64_t kv_tokens;          /* KV capacity, a multiple of block_tokens */
};

/*
 * The physical form, JSON step_model {form: "roofline/1" | "roofline/2", ...}. Time of one
 * iteration:
 *   t = fixed_ms + sequence_us * S/1000
 *     + 1e3 * corner(weight_bytes / bandwidth, flops_per_token * (P + S) / matrix_flops)
 *     + 1e3 * kv_bytes_per_token * D / kv_bandwidth
 *     + 1e3 * attention_flops_per_pair * Q / attention_flops
 * P prefill tokens; S decode sequences; D decode context tokens, summed over sequences;
 * Q prefill attention pairs: for a chunk of p tokens after c cached ones, p*c + p*(p+1)/2.
 * flops_per_token = 2 * parameters, attention_flops_per_pair = 4 * layers * heads * head_dim.
 * corner(a, b) = (a + b + sqrt((a - b)^2 + 4 k^2 a b)) / 2: the greater of the two for k = 0, which
 * is "roofline/1", and their sum for k = 1; "roofline/2" has the key corner for k.
 * All rates are effective ones of the whole worker.  source: roofline model; see
 * docs/internals/latency-model.md for the fit.
 */
struct med_step_model {
    double corner; /* k, 0..1 */
    double fixed_ms;
    double sequence_us;
    double bandwidth_bytes_per_s;
    double matrix_flops_per_s;
    double kv_bandwidth_bytes_per_s;
    double attention_flops_per_s;
    double fit_error; /* mean |model/measured - 1| over the rows of the fit */
    double fit_error_max;
    char *source; /* id */
};

/* Parts of the load that a step model is judged in, by what an iteration computes. */
enum med_step_region {
    MED_STEP_DECODE_SMALL_SHORT, /* up to MED_STEP_SMALL_BATCH sequences of up to
                                  * MED_STEP_SHORT_CONTEXT tokens each */
    MED_STEP_DECODE_SMALL_LONG,
    MED_STEP_DECODE_LARGE_SHORT,
    MED_STEP_DECODE_LARGE_LONG,
    MED_STEP_PREFILL_SHORT, /* no decodes, up to MED_STEP_SHORT_PREFILL tokens */
    MED_STEP_PREFILL_LONG,
    MED_STEP_MIXED, /* prefill beside decodes */
    MED_STEP_REGION_COUNT
};
#define MED_STEP_REGIONS_ALL ((1u << MED_STEP_REGION_COUNT) - 1)

enum {
    MED_STEP_SMALL_BATCH = 16,
    MED_STEP_SHORT_CONTEXT = 1024,
    MED_STEP_SHORT_PREFILL = 512
};

/* As in files: "decode-small-short", ... */
const char *med_step_region_name(enum med_step_region region);

/*
 * How far a step model is off in a region, each measured row predicted from the others (leave one
 * out). JSON step_errors[] {region, rows, form_mean, form_max, table_rows, table_mean, table_max}.
 * form: the physical form fitted to the other rows. table: what the latency model says from the
 * other rows, for rows that those still cover. Relative, absolute value.
 */
struct med_step_error {
    enum med_step_region region;
    int64_t rows; /* 1.. */
    double form_mean, form_max;
    int64_t table_rows;           /* 0: none is covered by the others; JSON: keys absent */
    double table_mean, table_max; /* NAN then */
};

/* JSON validations[] {against, error_mean, error_max, rows, text}: measurements left out of the
 * fit. */
struct med_validation {
    char *against;                /* source id */
    double error_mean, error_max; /* relative, absolute value */
    int64_t rows;
    char *text;
};

/* JSON steps[] {prefill_tokens, prefill_context, decode_sequences, decode_context_tokens, ms_p50,
 * ms_p99, source}. One prefill chunk of prefill_tokens after prefill_context cached tokens,
 * together with decode_sequences whose contexts sum to decode_context_tokens. */
struct med_step_row {
    int64_t prefill_tokens, prefill_context, decode_sequences, decode_context_tokens;
    double ms_p50, ms_p99; /* ms_p99 NAN: not known (JSON: absent) */
    size_t source;         /* index into sources */
};

enum med_step_region med_step_region_of(const struct med_step_row *row);

struct med_latency_stats {
    double mean, p50, p90, p95, p99; /* NAN: not known (JSON: absent) */
};

/* JSON serving[] {input_tokens, output_tokens, arrival, rate_per_s | concurrency,
 * throughput_per_s, ttft_ms{mean,p50,p90,p95,p99}, tpot_ms{...}, itl_ms{...}, e2e_ms{...}, failures,
 * requests?, saturated?, cut_short?, source}. */
struct med_serving_row {
    double input_tokens, output_tokens; /* means */
    char *arrival;                      /* "closed" | "poisson" | "gamma" | "trace" | "offline" */
    double rate_per_s;                  /* open loop; NAN for closed */
    double concurrency;                 /* closed loop users; NAN for open */
    double throughput_per_s;            /* finished requests per second */
    struct med_latency_stats ttft_ms, tpot_ms, itl_ms, e2e_ms;
    double failures;  /* share of requests, 0..1 */
    int64_t requests; /* that the figures are of; 0: not told */
    bool saturated;   /* the server did not keep up: the queue grew as long as was looked */
    bool cut_short;   /* ended as soon as the objectives were broken: figures flatter it */
    size_t source;
};

struct med_profile {
    char *worker_type; /* unique in a plan, e.g. "a10g-llama-2-7b-fp16" */
    char *gpu;         /* as in the catalogue: "A10G" */
    int64_t gpus_per_worker;
    char *dtype;  /* "float16", "bfloat16", "gptq-int4" */
    char *engine; /* "reference", "tgi-0.8.2", "medley-0.1.0" */
    struct med_model_shape model;
    struct med_hardware hardware;
    struct med_engine_limits limits;
    bool has_step_model;
    struct med_step_model step_model;
    struct med_step_error step_errors[MED_STEP_REGION_COUNT]; /* regions rising */
    size_t step_error_count;
    struct med_source *sources;
    size_t source_count;
    struct med_validation *validations;
    size_t validation_count;
    struct med_step_row *steps;
    size_t step_count;
    struct med_serving_row *serving;
    size_t serving_count;
};

int med_profile_read_file(const char *path, struct med_profile *ret_profile,
                          struct med_err *err) MED_MUST_CHECK;
/* From a position in a document, for profiles embedded in plans. */
int med_profile_read(const struct med_json_at *at, struct med_profile *ret_profile,
                     struct med_err *err) MED_MUST_CHECK;
/* key NULL at the root. The result reads back to an equal profile. */
void med_profile_write(struct med_json_writer *w, const char *key, const struct med_profile *p);
int med_profile_copy(const struct med_profile *from, struct med_profile *ret_to) MED_MUST_CHECK;
void med_profile_release(struct med_profile *profile);

/* How far its step times are off, as a clause: "steps left out of the fit are missed by 2.1% on
 * average, ..."; empty without a step model. regions: a bit each; cut to the room. */
void med_profile_say_errors(const struct med_profile *profile, unsigned regions, char *ret_text,
                            size_t bytes);

#endif
