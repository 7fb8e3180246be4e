/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operations that a model is computed with: one struct of arguments per op.
 *
 * worker/transformer.c is written against struct med_ops; worker/cpu implements it and is the truth
 * that worker/cuda is tested against.  Ops are fused where a GPU fuses them.
 *
 * Shapes: row-major; `rows` are the tokens of the batch, all items one after another.  Activations
 * are of `dtype` (F32, or BF16: rounded at the end of each op; sums are float32 at least).  Weights
 * are as the checkpoint has them.  Logits are F32.  rows 0 is allowed and does nothing.
 *
 * The KV cache of a layer: keys and values apart, each [blocks][kv_heads][block_tokens][head_dim] of
 * kv_dtype.  A token's slot is block * block_tokens + place in the block; slot -1 is a padded row: it
 * writes nothing.
 *
 * thread: engine, one op at a time; an op may use threads of its own. owns: nothing; pointers are to
 * the device's memory (see alloc, load) unless a comment says host.
 * errors: 0, or a code of the device (MED_E_CUDA ...): the engine is dead then.
 */
#ifndef MED_WORKER_OPS_H
#define MED_WORKER_OPS_H

#include "base/err.h"
#include "worker/engine/sampling.h"
#include "worker/model/checkpoint.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct med_kv_layer {
    void *keys, *values; // [blocks][kv_heads][block_tokens][head_dim] of dtype
    enum med_dtype dtype;
    int64_t block_tokens;
};

/* out[r] = table[ids[r]] */
struct med_embed_args {
    int64_t rows;
    const uint32_t *ids;     // [rows], below table.rows
    struct med_weight table; // [vocab][hidden]
    void *out;               // [rows][hidden]
    enum med_dtype dtype;
};

/* h = rmsnorm(x, norm); q, k, v = h Wq', h Wk', h Wv' (+ biases); per head q = rmsnorm(q, q_norm),
 * k = rmsnorm(k, k_norm) (if given); rope on q and k at positions[r], pairing element i with
 * i + head_dim / 2 at angle position * frequencies[i]; k and v go to the cache at slots[r], q to `q`. */
struct med_qkv_args {
    int64_t rows, hidden, heads, kv_heads, head_dim;
    const void *x;                    // [rows][hidden]
    struct med_weight norm;           // [hidden]
    float eps;                        // of all norms here
    struct med_weight wq;             // [heads * head_dim][hidden]
    struct med_weight wk, wv;         // [kv_heads * head_dim][hidden]
    struct med_weight bq, bk, bv;     // data NULL: none
    struct med_weight q_norm, k_norm; // [head_dim]; data NULL: none
    const int32_t *positions;         // [rows]
    const float *frequencies;         // [head_dim / 2]
    const int32_t *slots;             // [rows]
    struct med_kv_layer kv;
    void *q; // [rows][heads * head_dim], out
    enum med_dtype dtype;
};

/* out = softmax(scale * q K' + mask) V, per item and head; query head h reads kv head
 * h / (heads / kv_heads).  Row r of item i is at position contexts[i] + (r - item_rows[i]); it sees
 * positions p <= its own, and with window > 0 only those with position - p < window. */
struct med_attend_args {
    int64_t items, rows, heads, kv_heads, head_dim;
    const void *q;            // [rows][heads * head_dim]
    const int32_t *item_rows; // [items + 1]
    const int32_t *contexts;  // [items] tokens in the cache before the item
    const int32_t *tables;    // [items][table_stride] block numbers
    int64_t table_stride;
    struct med_kv_layer kv;
    int64_t window; /* 0: none */
    float scale;
    void *out; // [rows][heads * head_dim]
    enum med_dtype dtype;
};

/* x += in W' (+ bias): attention's output and the MLP's down projection. */
struct med_project_args {
    int64_t rows;
    const void *in;           // [rows][weight.columns]
    struct med_weight weight; // [hidden][columns]
    struct med_weight bias;   // data NULL: none
    void *x;                  // [rows][weight.rows], in and out
    enum med_dtype dtype;
};

/* h = rmsnorm(x, norm); out = silu(h Wgate' (+ bias)) * (h Wup' (+ bias)) */
struct med_gate_up_args {
    int64_t rows, hidden;
    const void *x;          // [rows][hidden]
    struct med_weight norm; // [hidden]
    float eps;
    struct med_weight gate, up;           // [intermediate][hidden]
    struct med_weight bias_gate, bias_up; // data NULL: none
    void *out;                            // [rows][intermediate]
    enum med_dtype dtype;
};

/* logits[s] = rmsnorm(x[rows[s]], norm) Whead' */
struct med_head_args {
    int64_t samples, hidden;
    const int32_t *rows; // [samples] rows of x
    const void *x;       // [..][hidden]
    struct med_weight norm;
    float eps;
    struct med_weight head; // [vocab][hidden]
    float *logits;          // [samples][vocab]
    enum med_dtype dtype;
};

/* One draw per sample; inputs and results are on the host, logits on the device. A row that nothing
 * can be drawn from is no failure of the op: its result's status says so. */
struct med_sample_args {
    int64_t samples, vocab;
    float *logits;                       // [samples][vocab], may be changed
    const struct med_draw_input *inputs; // host [samples]; their logits field is not looked at
    struct med_draw *results;            // host [samples]
};

/* Sizes that memory for intermediate results is taken for, once. */
struct med_ops_sizes {
    const struct med_model_config *model;
    enum med_dtype dtype;
    int64_t rows_max, items_max, samples_max, model_len_max;
};

struct med_ops {
    const char *name; /* "cpu", "cuda" */
    /* Bytes that prepare will take. */
    size_t (*workspace_bytes)(const struct med_ops_sizes *sizes);
    int (*prepare)(void *device, const struct med_ops_sizes *sizes, struct med_err *err);
    /* Zeroed, aligned to 64 bytes, and really there (touched) when it returns. */
    int (*alloc)(void *device, size_t bytes, void **ret_memory);
    void (*free)(void *device, void *memory);
    /* Where the ops find a weight of the checkpoint: a CPU lends the mapping, a GPU copies. */
    int (*load)(void *device, const struct med_weight *host, struct med_weight *ret_weight);
    void (*unload)(void *device, struct med_weight *weight);
    /* Host to device and back; ordered with the ops. */
    int (*put)(void *device, void *to, const void *from_host, size_t bytes);
    int (*get)(void *device, void *to_host, const void *from, size_t bytes);

    int (*embed)(void *device, const struct med_embed_args *args);
    int (*qkv)(void *device, const struct med_qkv_args *args);
    int (*attend)(void *device, const struct med_attend_args *args);
    int (*project)(void *device, const struct med_project_args *args);
    int (*gate_up)(void *device, const struct med_gate_up_args *args);
    int (*head)(void *device, const struct med_head_args *args);
    int (*sample)(void *device, const struct med_sample_args *args);
};

#endif
