/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ops of worker/ops.h that are products with weights: what they ask for, as linear.h wants it.
 * q, k and v lie side by side, gate and up too (load.h).
 *
 * thread: engine.
 */
#include "base/assert.h"
#include "worker/cuda/linear.h"

/* b follows a in one matrix, or neither is there. */
static bool follows(const struct med_weight *a, const struct med_weight *b)
{
    size_t bytes = (size_t)(a->rows * a->columns) * med_dtype_bytes(a->dtype);
    return a->data ? (const char *)a->data + bytes == b->data : !b->data;
}

int med_cuda_qkv(void *device, const struct med_qkv_args *args)
{
    MED_ASSERT(follows(&args->wq, &args->wk) && follows(&args->wk, &args->wv));
    MED_ASSERT(follows(&args->bq, &args->bk) && follows(&args->bk, &args->bv));
    struct med_cuda_linear_args a = {.rows = args->rows,
                                     .columns = args->hidden,
                                     .outputs = (args->heads + 2 * args->kv_heads) * args->head_dim,
                                     .in = args->x,
                                     .norm = args->norm.data,
                                     .eps = args->eps,
                                     .weight = args->wq.data,
                                     .bias = args->bq.data,
                                     .dtype = args->dtype,
                                     .epilogue = MED_CUDA_ROPE_KV,
                                     .out = args->q,
                                     .heads = args->heads,
                                     .kv_heads = args->kv_heads,
                                     .head_dim = args->head_dim,
                                     .q_norm = args->q_norm.data,
                                     .k_norm = args->k_norm.data,
                                     .positions = args->positions,
                                     .frequencies = args->frequencies,
                                     .slots = args->slots,
                                     .kv = args->kv};
    return med_cuda_linear(device, &a);
}

int med_cuda_project(void *device, const struct med_project_args *args)
{
    struct med_cuda_linear_args a = {.rows = args->rows,
                                     .columns = args->weight.columns,
                                     .outputs = args->weight.rows,
                                     .in = args->in,
                                     .weight = args->weight.data,
                                     .bias = args->bias.data,
                                     .dtype = args->dtype,
                                     .epilogue = MED_CUDA_ADD,
                                     .out = args->x};
    return med_cuda_linear(device, &a);
}

int med_cuda_gate_up(void *device, const struct med_gate_up_args *args)
{
    MED_ASSERT(follows(&args->gate, &args->up) && follows(&args->bias_gate, &args->bias_up));
    struct med_cuda_linear_args a = {.rows = args->rows,
                                     .columns = args->hidden,
                                     .outputs = args->gate.rows + args->up.rows,
                                     .in = args->x,
                                     .norm = args->norm.data,
                                     .eps = args->eps,
                                     .weight = args->gate.data,
                                     .bias = args->bias_gate.data,
                                     .dtype = args->dtype,
                                     .epilogue = MED_CUDA_SWIGLU,
                                     .out = args->out};
    return med_cuda_linear(device, &a);
}

int med_cuda_head(void *device, const struct med_head_args *args)
{
    struct med_cuda_linear_args a = {.rows = args->samples,
                                     .columns = args->hidden,
                                     .outputs = args->head.rows,
                                     .in = args->x,
                                     .in_rows = args->rows,
                                     .norm = args->norm.data,
                                     .eps = args->eps,
                                     .weight = args->head.data,
                                     .dtype = args->dtype,
                                     .epilogue = MED_CUDA_LOGITS,
                                     .out = args->logits};
    return med_cuda_linear(device, &a);
}
