/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model directory as its publisher left it: config, generation config, and all weights mapped.
 *
 * Opens model.safetensors, or the shards that model.safetensors.index.json names; every tensor that
 * the config calls for must be there, in a dtype that can be computed with, in the shape that the
 * config implies.  Nothing is copied: a weight points into its file's mapping.
 *
 * owns: everything; weights lend pointers until close. thread: immutable after opening.
 * errors: sentences that name file, tensor, what was found and what the config implies.
 */
#ifndef MED_WORKER_MODEL_CHECKPOINT_H
#define MED_WORKER_MODEL_CHECKPOINT_H

#include "worker/model/config.h"
#include "worker/model/safetensors.h"

/* A matrix [rows = outputs][columns = inputs], row-major, or a vector (rows 1). data NULL: this
 * architecture has none. */
struct med_weight {
    const void *data;
    enum med_dtype dtype;
    int64_t rows, columns;
};

struct med_layer_weights {
    struct med_weight input_norm;             // [hidden]
    struct med_weight q, k, v;                // [heads * head_dim | kv_heads * head_dim][hidden]
    struct med_weight q_bias, k_bias, v_bias; // qkv_bias
    struct med_weight q_norm, k_norm;         // [head_dim], qk_norm
    struct med_weight output, output_bias;    // [hidden][heads * head_dim]
    struct med_weight post_norm;              // [hidden]
    struct med_weight gate, up, down;         // [intermediate][hidden] x 2, [hidden][intermediate]
    struct med_weight gate_bias, up_bias, down_bias; // mlp_bias
};

struct med_checkpoint {
    char *dir;
    struct med_model_config config;
    struct med_generation_config generation;
    struct med_safetensors *files;
    size_t file_count;
    struct med_weight embedding;      // [vocab][hidden]
    struct med_weight norm;           // [hidden]
    struct med_weight head;           // [vocab][hidden]; the embedding's when tied
    struct med_layer_weights *layers; // [config.layers]
    int64_t parameters, weight_bytes; /* of those in use; a tied head counts once */
};

int med_checkpoint_open(const char *dir, struct med_checkpoint *ret_checkpoint,
                        struct med_err *err) MED_MUST_CHECK;
/* Accepts a zeroed struct. */
void med_checkpoint_close(struct med_checkpoint *checkpoint);

#endif
