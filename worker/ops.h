/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operations that a model is computed with: one struct of arguments per op.
 *
 * worker/transformer.c is written against struct med_ops; worker/cpu implements it and is the truth
 * that worker/cuda is tested against.  Ops are fused where a GPU fuses them.
 *
 * Shapes: row-major; `rows` are the tokens of the batch, all items one after another.  Activations
 * are of `dtype` (F32, or BF16, or F16 where the device says so: rounded at the end of each op; sums
 * are float32 at least).  Weights are as the device has loaded them.  Logits are F32.  rows 0 is
 * allowed and does nothing.
 *
 * A device may be behind: an op only has to be queued when it returns, and ops run in the order of
 * their calls.  What a batch gives back to the host is there after wait.
 *
 * The KV cache of a layer: keys and values apart, each [blocks][kv_heads][block_tokens][head_dim] of
 * kv_dtype.  A token's slot is block * block_tokens + place in the block; slot -1 is a padded row: it
 * writes nothing.
 *
 * thread: engine, one op at a time; an op may use threads of its own. owns: nothing; pointers are to
 * the device's memory (see alloc, load) unless a comment says host.
 * errors: 0, or a code of the device (MED_E_CUDA ...): the engine is dead then, every later op fails
 * alike, and failure says why.
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

/* The index arrays of a batch.  An item is one sequence's rows; a sample is a row that logits are
 * wanted of. */
struct med_ops_batch {
    int64_t rows, items, samples;
    const uint32_t *ids; // [rows], below the vocabulary; not looked at where sources[r] >= 0
    /* [rows]: the row's token is what that sample of the batch before drew; -1: ids[r]. */
    const int32_t *sources;
    const int32_t *positions; // [rows]
    const int32_t *slots;     // [rows]
    const int32_t *head_rows; // [samples]
    const int32_t *item_rows; // [items + 1]
    const int32_t *contexts;  // [items] tokens in the cache before the item
    const int32_t *tables;    // [items][table_stride] block numbers
    int64_t table_stride;
};

/* Calls the ops from embed to head for a batch on the device. */
typedef int med_ops_forward(void *arg, const struct med_ops_batch *batch);

/* out[r] = table[id of r] */
struct med_embed_args {
    int64_t rows;
    const uint32_t *ids;     // [rows]
    const int32_t *sources;  // [rows]; see struct med_ops_batch
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

enum {
    MED_OPS_SLOTS = 2 /* batches that may be under way: one runs while the next is queued */
};

/* One draw per sample; inputs and results are on the host, logits on the device. A row that nothing
 * can be drawn from is no failure of the op: its result's status says so.  Inputs are done with when
 * the op returns; results are there after wait(slot). */
struct med_sample_args {
    int64_t samples, vocab;
    float *logits;                       // [samples][vocab], may be changed
    const struct med_draw_input *inputs; // host [samples]; their logits field is not looked at
    struct med_draw *results;            // host [samples]
    int slot;                            /* below MED_OPS_SLOTS */
};

/* Sizes that memory for intermediate results is taken for, once. */
struct med_ops_sizes {
    const struct med_model_config *model;
    enum med_dtype dtype;
    enum med_dtype kv_dtype;
    int64_t rows_max, items_max, samples_max, model_len_max, block_tokens;
};

struct med_ops {
    const char *name; /* "cpu", "cuda" */
    bool f16;         /* computes in float16 too */
    bool queues;      /* ops return before they are done: a second batch may be queued meanwhile */
    /* Bytes that prepare will take, on the device. */
    size_t (*workspace_bytes)(const struct med_ops_sizes *sizes);
    int (*prepare)(void *device, const struct med_ops_sizes *sizes, struct med_err *err);
    /* Zeroed, aligned to 64 bytes (256 on a GPU), and really there (touched) when it returns. */
    int (*alloc)(void *device, size_t bytes, void **ret_memory);
    void (*free)(void *device, void *memory);
    /* Where the ops find weights of the checkpoint: a CPU lends the mapping, a GPU copies, turns them
     * into the dtype of prepare, and lays those of a layer side by side as its ops want them.  What
     * was given is read until load_end returns. */
    int (*load)(void *device, const struct med_weight *host, struct med_weight *ret_weight);
    int (*load_layer)(void *device, const struct med_layer_weights *host,
                      struct med_layer_weights *ret_layer);
    int (*load_end)(void *device);
    void (*unload)(void *device, struct med_weight *weight);
    void (*unload_layer)(void *device, struct med_layer_weights *layer);
    /* Host to device and back; ordered with the ops, done when they return. */
    int (*put)(void *device, void *to, const void *from_host, size_t bytes);
    int (*get)(void *device, void *to_host, const void *from, size_t bytes);

    /* Once, after all memory was taken and filled: records forward for the sizes that will be
     * replayed.  NULL: nothing is recorded. */
    int (*record)(void *device, med_ops_forward *forward, void *arg, struct med_err *err);
    /* Takes a batch to the device and runs forward on it, or what was recorded of it.  The batch that
     * forward is given may have more rows, items and samples than the host's: rows of padding, with
     * slot -1, whose results nobody reads. */
    int (*run)(void *device, const struct med_ops_batch *host, med_ops_forward *forward, void *arg);

    /* Called by forward. */
    int (*embed)(void *device, const struct med_embed_args *args);
    int (*qkv)(void *device, const struct med_qkv_args *args);
    int (*attend)(void *device, const struct med_attend_args *args);
    int (*project)(void *device, const struct med_project_args *args);
    int (*gate_up)(void *device, const struct med_gate_up_args *args);
    int (*head)(void *device, const struct med_head_args *args);

    /* After run. */
    int (*sample)(void *device, const struct med_sample_args *args);
    /* Marks the end of what was queued so far as `slot`'s; wait returns when that is done, or with
     * an error once it takes longer than the device's watchdog allows.  NULL both: every op is done
     * when it returns. */
    int (*mark)(void *device, int slot);
    int (*wait)(void *device, int slot);
    /* Why ops fail; NULL: the code says it all. */
    void (*failure)(void *device, struct med_err *ret_err);
};

#endif
