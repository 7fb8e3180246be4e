/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention as an op (see attend.h): its memory, its plan for a batch, and which of the kernels run.
 * thread: engine.
 */
#include "worker/cuda/attend.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "worker/cuda/attend_stream.h"

enum {
    /* Decodes of heads that share keys, up to which each reads them for itself: a few keys come out of the
     * cache as fast as they are asked for, and a stream of registers has less to wait for. */
    SHARED_STREAM_ITEMS = 4
};

int64_t med_cuda_attend_window(const struct med_model_config *model)
{
    for (int64_t i = 0; i < model->layers; i++) {
        if (!med_model_layer_has_window(model, i))
            return 0;
    }
    return model->window;
}

/* Decodes that attend_stream.cu takes at most; see there. */
static int64_t stream_items(const struct med_ops_sizes *s, bool deterministic)
{
    const struct med_model_config *m = s->model;
    int64_t tokens = s->block_tokens;
    bool is_16_bits = s->dtype == MED_DTYPE_BF16 || s->dtype == MED_DTYPE_F16;
    if (deterministic || !is_16_bits || s->kv_dtype != s->dtype || m->head_dim % 8 != 0 ||
        m->head_dim > 128 || (tokens & (tokens - 1)) != 0)
        return 0;
    return m->heads == m->kv_heads ? INT64_MAX : SHARED_STREAM_ITEMS;
}

static struct med_cuda_attend_limits limits_of(const struct med_ops_sizes *s, bool deterministic)
{
    return (struct med_cuda_attend_limits){.deterministic = deterministic,
                                           .kv_heads = s->model->kv_heads,
                                           .block_tokens = s->block_tokens,
                                           .rows_max = s->rows_max,
                                           .items_max = s->items_max,
                                           .window = med_cuda_attend_window(s->model),
                                           .heads = s->model->heads,
                                           .stream_items = stream_items(s, deterministic)};
}

/* In either mode: sizes do not say which. */
static int64_t partials_max(const struct med_ops_sizes *s)
{
    struct med_cuda_attend_limits fast = limits_of(s, false), fixed = limits_of(s, true);
    int64_t most = med_cuda_attend_partials_max(&fast);
    int64_t other = med_cuda_attend_partials_max(&fixed);
    return most > other ? most : other;
}

static size_t counters_bytes(const struct med_ops_sizes *s)
{
    return (size_t)(partials_max(s) * s->model->heads) * sizeof(uint32_t);
}

static size_t partials_bytes(const struct med_ops_sizes *s)
{
    int64_t floats = s->model->heads * (s->model->head_dim + 2);
    return (size_t)(partials_max(s) * floats) * sizeof(float);
}

size_t med_cuda_attend_bytes(const struct med_ops_sizes *sizes)
{
    return partials_bytes(sizes) + counters_bytes(sizes);
}

int med_cuda_attend_new(struct med_cuda *d)
{
    struct med_cuda_attention *a = med_calloc(1, sizeof *a);
    if (!a)
        return MED_E_NOMEM;
    d->attention = a;
    a->limits = limits_of(&d->sizes, d->config.deterministic);
    struct med_cuda_attend_shape most = med_cuda_attend_shape_max(&a->limits);
    a->decode_parts_max = most.decode_parts;
    a->prefill_tiles_max = most.prefill_tiles;
    int rc = med_cuda_alloc(d, partials_bytes(&d->sizes), (void **)&a->partials);
    return rc < 0 ? rc : med_cuda_alloc(d, counters_bytes(&d->sizes), (void **)&a->counters);
}

void med_cuda_attend_free(struct med_cuda *d)
{
    struct med_cuda_attention *a = d->attention;
    if (!a)
        return;
    med_cuda_release(d, a->partials);
    med_cuda_release(d, a->counters);
    med_free(a);
    d->attention = NULL;
}

size_t med_cuda_attend_plan_bytes(const struct med_cuda *d)
{
    const struct med_cuda_attention *a = d->attention;
    return (size_t)a->decode_parts_max * sizeof *a->parts +
           (size_t)a->prefill_tiles_max * sizeof *a->tiles;
}

struct med_cuda_attend_shape med_cuda_attend_shape_of(const struct med_cuda *d, int64_t items)
{
    return med_cuda_attend_shape_for(&d->attention->limits, items);
}

struct med_cuda_attend_shape med_cuda_attend_plan(const struct med_cuda *d,
                                                  const struct med_ops_batch *host,
                                                  int64_t padded_items, void *staging,
                                                  size_t *ret_bytes)
{
    struct med_cuda_attend_shape shape =
        med_cuda_attend_plan_make(&d->attention->limits, host, padded_items, staging, ret_bytes);
    MED_ASSERT(shape.decode_parts <= d->attention->decode_parts_max);
    MED_ASSERT(shape.prefill_tiles <= d->attention->prefill_tiles_max);
    return shape;
}

int med_cuda_attend(void *device, const struct med_attend_args *args)
{
    struct med_cuda *d = device;
    int rc = 0;
    MED_ASSERT(args->head_dim > 0 && args->head_dim <= 256);
    MED_ASSERT(args->heads % args->kv_heads == 0);
    if (d->failed)
        return MED_E_CUDA;
    if (args->rows == 0)
        return 0;
    if (d->attention->shape.decode_parts > 0) {
        rc = d->attention->shape.streams ? med_cuda_attend_stream(d, args)
                                         : med_cuda_attend_decode(d, args);
    }
    if (rc == 0 && d->attention->shape.prefill_tiles > 0)
        rc = med_cuda_attend_prefill(d, args);
    return rc;
}
