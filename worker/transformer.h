/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The model as a backend: batches of the scheduler through the layers of a checkpoint, on the ops of
 * a device.  One code path for all architectures; the config's flags choose.
 *
 * All memory (weights where the device copies them, KV cache, activations, index arrays) is taken in
 * init, so a step allocates nothing and cannot run out.
 *
 * thread: engine. owns: device memory; borrows checkpoint, ops and device, which outlive it.
 * errors: new: MED_E_INVALID, MED_E_NOMEM with a sentence; step: a code of the device.
 */
#ifndef MED_WORKER_TRANSFORMER_H
#define MED_WORKER_TRANSFORMER_H

#include "worker/backend.h"
#include "worker/ops.h"

struct med_transformer_config {
    const struct med_checkpoint *checkpoint;
    const struct med_ops *ops;
    void *device;
    enum med_dtype dtype, kv_dtype;
    int64_t block_tokens, kv_blocks;
    int64_t sequences_max, batched_tokens_max, model_len_max; /* as the scheduler's */
};

struct med_transformer;

int med_transformer_new(const struct med_transformer_config *config,
                        struct med_transformer **ret_transformer,
                        struct med_err *err) MED_MUST_CHECK;
/* Its backend: `self` is the transformer, release frees it. */
struct med_backend med_transformer_backend(struct med_transformer *transformer);

/* Bytes that init will take besides weights and KV cache, of that config (kv_blocks aside). */
size_t med_transformer_workspace_bytes(const struct med_transformer_config *config);

/* Start-up breakdown, after init. */
struct med_transformer_times {
    double load_s, memory_s, record_s;
};
void med_transformer_get_times(const struct med_transformer *transformer,
                               struct med_transformer_times *ret_times);

/* For tests and benchmarks: runs the batch up to the logits of the rows that sample, in batch order;
 * *ret_logits is [samples][vocab] on the host, borrowed until the next call. */
int med_transformer_logits(struct med_transformer *transformer, const struct med_backend_step *step,
                           const float **ret_logits, struct med_err *err) MED_MUST_CHECK;

#endif
