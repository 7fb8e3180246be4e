/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a model is: config.json and generation_config.json of a Hugging Face directory.
 *
 * One struct for the four architectures that Medley runs (LlamaForCausalLM, MistralForCausalLM,
 * Qwen2ForCausalLM, Qwen3ForCausalLM): they are one decoder with flags.
 *     x = embed[id]
 *     per layer:  h = rmsnorm(x);  q, k, v = W h (+ bias);  q, k = rmsnorm per head (qk_norm);
 *                 rope(q, k);  x += Wo attend(q, K, V);  h = rmsnorm(x);
 *                 x += Wdown (silu(Wgate h) * Wup h)
 *     logits = Whead rmsnorm(x)
 * Anything that a file says beyond this (another architecture or activation, a quantization_config, a
 * rope type without a rule here) is refused by name; keys that do not change the computation are
 * ignored, since publishers add to them freely.  What a file leaves out has the default of transformers'
 * class of that architecture, which need not be the same for all four.
 *
 * thread: immutable after reading. owns: nothing outside the struct.
 * errors: MED_E_FORMAT and MED_E_INVALID with file, path, value and what was expected.
 * source: the key names and defaults of Hugging Face transformers' configuration classes.
 */
#ifndef MED_WORKER_MODEL_CONFIG_H
#define MED_WORKER_MODEL_CONFIG_H

#include "base/err.h"
#include "base/limits.h"
#include "worker/model/dtype.h"

#include <stdbool.h>
#include <stdint.h>

enum med_architecture {
    MED_ARCH_LLAMA,
    MED_ARCH_MISTRAL,
    MED_ARCH_QWEN2,
    MED_ARCH_QWEN3,
    MED_ARCH_COUNT
};
const char *med_architecture_name(enum med_architecture architecture); /* "LlamaForCausalLM" */

enum med_rope_kind {
    MED_ROPE_DEFAULT,
    MED_ROPE_LINEAR, /* positions / factor */
    MED_ROPE_LLAMA3  /* Llama 3.1's smooth interpolation between low and high frequencies */
};

struct med_rope {
    enum med_rope_kind kind;
    double theta;
    double factor;
    double low_freq_factor, high_freq_factor; /* llama3 */
    int64_t original_positions_max;           /* llama3 */
};

enum {
    MED_MODEL_EOS_MAX = 16,
    MED_MODEL_POSITIONS_MAX = 1 << 24 /* max_position_embeddings; more is refused */
};

struct med_model_config {
    enum med_architecture architecture;
    int64_t layers, hidden, heads, kv_heads, head_dim, intermediate, vocab;
    int64_t positions_max; /* max_position_embeddings */
    double norm_eps;
    struct med_rope rope;
    bool qkv_bias;    /* q, k and v have one */
    bool output_bias; /* attention's output projection has one (Llama's attention_bias) */
    bool mlp_bias;
    bool qk_norm;
    bool tied_head; /* the head is the embedding */
    int64_t window; /* a token sees itself and window - 1 before it; 0: all */
    uint64_t window_layers[MED_LIMIT_MODEL_LAYERS / 64]; /* bit per layer: it has the window */
    enum med_dtype dtype;                /* torch_dtype or dtype; float32 when absent */
    uint32_t eos_ids[MED_MODEL_EOS_MAX]; /* eos_token_id; generation_config.json's come first */
    size_t eos_count;
};

bool med_model_layer_has_window(const struct med_model_config *config, int64_t layer);
/* Bytes of keys and values of one token, all layers. */
int64_t med_model_kv_bytes_per_token(const struct med_model_config *config, enum med_dtype dtype);
/* Inverse frequencies of rope: out[head_dim / 2], scaling applied; radians per position. */
void med_model_rope_frequencies(const struct med_model_config *config, float *out);

/* Reads DIR/config.json. */
int med_model_config_read(const char *dir, struct med_model_config *ret_config,
                          struct med_err *err) MED_MUST_CHECK;
/* The same from bytes in memory; `name` stands in messages. */
int med_model_config_parse(const char *bytes, size_t count, const char *name,
                           struct med_model_config *ret_config, struct med_err *err) MED_MUST_CHECK;

/* generation_config.json: which tokens end a sequence, and what sampling is when a request is
 * silent.  Without the file: config.json's eos_token_id, and temperature 1 with nothing else; a file
 * without eos_token_id has config.json's too. */
struct med_generation_config {
    uint32_t eos_ids[MED_MODEL_EOS_MAX];
    size_t eos_count;
    float temperature, top_p, repetition_penalty, min_p; /* 1, 1, 1, 0 when absent; do_sample false
                                                          * alone does not make it greedy: as vLLM */
    uint32_t top_k;                                      /* 0: off */
};
int med_generation_config_read(const char *dir, const struct med_model_config *config,
                               struct med_generation_config *ret_config,
                               struct med_err *err) MED_MUST_CHECK;
/* The same from bytes in memory; `name` stands in messages. */
int med_generation_config_parse(const char *bytes, size_t count, const char *name,
                                const struct med_model_config *config,
                                struct med_generation_config *ret_config,
                                struct med_err *err) MED_MUST_CHECK;

#endif
