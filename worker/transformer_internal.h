/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the transformer share: its memory, and the arrays that describe one batch.
 *
 * thread: engine. owns: see struct med_transformer.
 */
#ifndef MED_WORKER_TRANSFORMER_INTERNAL_H
#define MED_WORKER_TRANSFORMER_INTERNAL_H

#include "worker/transformer.h"

/* The index arrays of a batch; on the host and, in the same layout, on the device. */
struct med_transformer_indices {
    uint32_t *ids;      // [rows]
    int32_t *positions; // [rows]
    int32_t *slots;     // [rows]
    int32_t *head_rows; // [samples]
    int32_t *item_rows; // [items + 1]
    int32_t *contexts;  // [items]
    int32_t *tables;    // [items][table_stride]
};

struct med_transformer {
    struct med_transformer_config config;
    const struct med_model_config *model;
    struct med_transformer_times times;
    bool ready;

    /* On the device. */
    struct med_layer_weights *layers; // [model->layers]; the array is on the host
    struct med_weight embedding, norm, head;
    float *frequencies; // [head_dim / 2]
    char *kv;           // [layers][keys, values][kv_blocks][kv_heads][block_tokens][head_dim]
    void *x;            // [rows][hidden]
    void *q, *attended; // [rows][heads * head_dim]
    void *inner;        // [rows][intermediate]
    float *logits;      // [samples][vocab]
    struct med_transformer_indices on_device;
    void *device_indices;

    /* On the host. */
    struct med_transformer_indices on_host;
    void *host_indices;
    int64_t table_stride;          // blocks of the longest sequence
    struct med_draw_input *inputs; // [samples]
    struct med_draw *draws;        // [samples]
    float *host_logits;            // [samples][vocab], once med_transformer_logits was called

    /* The batch at hand. */
    int64_t rows, items, samples;
};

/* Bytes of the index arrays; with `base`, where they lie in it. */
size_t med_transformer_indices_layout(const struct med_transformer *t, void *base,
                                      struct med_transformer_indices *ret_indices);
/* Fills the index arrays on the host and copies them to the device. errors: MED_E_INVALID a token id
 * that the model does not have. */
int med_transformer_batch(struct med_transformer *t, const struct med_backend_step *step,
                          struct med_err *err) MED_MUST_CHECK;
/* The draw inputs of the batch at hand, in the order of its samples. */
void med_transformer_draws(struct med_transformer *t, const struct med_backend_step *step);

#endif
