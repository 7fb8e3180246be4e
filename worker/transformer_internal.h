/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the transformer share: its memory, and the arrays that describe one batch.
 *
 * thread: engine. owns: see struct med_transformer.
 */
#ifndef MED_WORKER_TRANSFORMER_INTERNAL_H
#define MED_WORKER_TRANSFORMER_INTERNAL_H

#include "worker/transformer.h"

/* The index arrays of a batch, on the host; struct med_ops_batch says what they mean. */
struct med_transformer_indices {
    uint32_t *ids;      // [rows]
    int32_t *sources;   // [rows]
    int32_t *positions; // [rows]
    int32_t *slots;     // [rows]
    int32_t *head_rows; // [samples]
    int32_t *item_rows; // [items + 1]
    int32_t *contexts;  // [items]
    int32_t *tables;    // [items][table_stride]
};

struct med_transformer_item {
    int32_t sample; /* which of the batch's samples the item's is; -1: it has none */
};

/* A step that was started and is not finished. */
struct med_transformer_under_way {
    struct med_draw *draws;             // [samples]
    struct med_transformer_item *items; // [count]
    size_t count;
    /* The engine's, as struct med_backend_step has them. */
    uint32_t *sampled;
    bool *stop, *failed;
    struct med_token_logprobs *const *logprobs;
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

    /* On the host. */
    struct med_transformer_indices indices;
    void *host_indices;
    int64_t table_stride;          // blocks of the longest sequence
    struct med_draw_input *inputs; // [samples]
    float *host_logits;            // [samples][vocab], once med_transformer_logits was called
    struct med_transformer_under_way steps[MED_BACKEND_STEPS]; // step k in steps[k % STEPS]
    uint64_t started, finished;                                // steps

    struct med_ops_batch batch; /* at hand; its arrays are `indices` */
};

/* Bytes of the keys, or the values, of one layer. */
size_t med_transformer_kv_part_bytes(const struct med_transformer *t);
/* Bytes of the index arrays; with `base`, where they lie in it. */
size_t med_transformer_indices_layout(const struct med_transformer *t, void *base,
                                      struct med_transformer_indices *ret_indices);
/* Fills the index arrays, t->batch and the items of the step that is about to start. errors:
 * MED_E_INVALID a token id that the model does not have. */
int med_transformer_batch(struct med_transformer *t, const struct med_backend_step *step,
                          struct med_err *err) MED_MUST_CHECK;
/* The draw inputs of the batch at hand, in the order of its samples. */
void med_transformer_draws(struct med_transformer *t, const struct med_backend_step *step);

/* transformer_step.c: backend ops, med_ops_forward, and a sentence for what failed. */
int med_transformer_step(void *self, const struct med_backend_step *step, struct med_err *err);
int med_transformer_start(void *self, const struct med_backend_step *step, struct med_err *err);
int med_transformer_finish(void *self, struct med_err *err);
int med_transformer_forward(void *arg, const struct med_ops_batch *batch);
int med_transformer_failure(const struct med_transformer *t, int rc, const char *doing,
                            struct med_err *err);

#endif
