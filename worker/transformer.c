/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The model as a backend (see transformer.h).
 *
 * init loads the weights, takes all memory and has the device record what it will replay; a step
 * (transformer_step.c) runs the layers on a batch's index arrays (transformer_batch.c).  The cache of
 * all layers is one allocation, so that it fits or fails as a whole.
 * thread: engine; release afterwards.  Knows no device: everything goes through struct med_ops.
 */
#include "worker/transformer.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "worker/transformer_internal.h"

static size_t activation_bytes(const struct med_transformer_config *c, int64_t columns)
{
    return (size_t)(c->batched_tokens_max * columns) * med_dtype_bytes(c->dtype);
}

static struct med_ops_sizes ops_sizes(const struct med_transformer_config *c)
{
    return (struct med_ops_sizes){.model = &c->checkpoint->config,
                                  .dtype = c->dtype,
                                  .kv_dtype = c->kv_dtype,
                                  .rows_max = c->batched_tokens_max,
                                  .items_max = c->sequences_max,
                                  .samples_max = c->sequences_max,
                                  .model_len_max = c->model_len_max,
                                  .block_tokens = c->block_tokens};
}

static int64_t table_stride(const struct med_transformer_config *c)
{
    return (c->model_len_max + c->block_tokens - 1) / c->block_tokens;
}

size_t med_transformer_workspace_bytes(const struct med_transformer_config *c)
{
    const struct med_model_config *m = &c->checkpoint->config;
    const struct med_transformer t = {.config = *c, .table_stride = table_stride(c)};
    struct med_transformer_indices unused;
    struct med_ops_sizes sizes = ops_sizes(c);
    return activation_bytes(c, m->hidden + 2 * m->heads * m->head_dim + m->intermediate) +
           (size_t)(c->sequences_max * m->vocab) * sizeof(float) +
           med_transformer_indices_layout(&t, NULL, &unused) +
           (size_t)c->sequences_max * (sizeof(struct med_draw_input) +
                                       MED_BACKEND_STEPS * (sizeof(struct med_draw) +
                                                            sizeof(struct med_transformer_item))) +
           (size_t)m->head_dim / 2 * sizeof(float) + c->ops->workspace_bytes(&sizes);
}

/* ---- init ---------------------------------------------------------------------------------- */

static int load(struct med_transformer *t, const struct med_weight *host, struct med_weight *to)
{
    return host->data ? t->config.ops->load(t->config.device, host, to) : 0;
}

static int weights_load(struct med_transformer *t)
{
    const struct med_checkpoint *c = t->config.checkpoint;
    t->layers = med_calloc((size_t)t->model->layers, sizeof *t->layers);
    if (!t->layers)
        return MED_E_NOMEM;
    int rc = load(t, &c->embedding, &t->embedding);
    if (rc == 0)
        rc = load(t, &c->norm, &t->norm);
    if (rc == 0 && c->head.data == c->embedding.data) {
        t->head = t->embedding;
    } else if (rc == 0) {
        rc = load(t, &c->head, &t->head);
    }
    for (int64_t l = 0; rc == 0 && l < t->model->layers; l++)
        rc = t->config.ops->load_layer(t->config.device, &c->layers[l], &t->layers[l]);
    return rc == 0 ? t->config.ops->load_end(t->config.device) : rc;
}

static void weights_unload(struct med_transformer *t)
{
    const struct med_ops *ops = t->config.ops;
    if (!t->layers)
        return;
    for (int64_t l = 0; l < t->model->layers; l++)
        ops->unload_layer(t->config.device, &t->layers[l]);
    if (t->head.data && t->head.data != t->embedding.data)
        ops->unload(t->config.device, &t->head);
    if (t->embedding.data)
        ops->unload(t->config.device, &t->embedding);
    if (t->norm.data)
        ops->unload(t->config.device, &t->norm);
    med_free(t->layers);
    t->layers = NULL;
}

size_t med_transformer_kv_part_bytes(const struct med_transformer *t)
{
    const struct med_model_config *m = t->model;
    return (size_t)(t->config.kv_blocks * m->kv_heads * t->config.block_tokens * m->head_dim) *
           med_dtype_bytes(t->config.kv_dtype);
}

static int frequencies_put(struct med_transformer *t)
{
    size_t bytes = (size_t)t->model->head_dim / 2 * sizeof(float);
    float *host = med_alloc(bytes);
    if (!host)
        return MED_E_NOMEM;
    med_model_rope_frequencies(t->model, host);
    int rc = t->config.ops->put(t->config.device, t->frequencies, host, bytes);
    med_free(host);
    return rc;
}

static int device_memory_take(struct med_transformer *t)
{
    const struct med_transformer_config *c = &t->config;
    const struct med_model_config *m = t->model;
    int64_t q_columns = m->heads * m->head_dim;
    const struct want {
        void **to;
        size_t bytes;
    } wants[] = {
        {(void **)&t->frequencies, (size_t)m->head_dim / 2 * sizeof(float)},
        {&t->x, activation_bytes(c, m->hidden)},
        {&t->q, activation_bytes(c, q_columns)},
        {&t->attended, activation_bytes(c, q_columns)},
        {&t->inner, activation_bytes(c, m->intermediate)},
        {(void **)&t->logits, (size_t)(c->sequences_max * m->vocab) * sizeof(float)},
        {(void **)&t->kv, med_transformer_kv_part_bytes(t) * 2 * (size_t)m->layers},
    };
    for (size_t i = 0; i < sizeof wants / sizeof *wants; i++) {
        int rc = c->ops->alloc(c->device, wants[i].bytes, wants[i].to);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int host_memory_take(struct med_transformer *t)
{
    size_t samples = (size_t)t->config.sequences_max;
    struct med_transformer_indices unused;
    t->host_indices = med_calloc(1, med_transformer_indices_layout(t, NULL, &unused));
    t->inputs = med_calloc(samples, sizeof *t->inputs);
    bool is_there = t->host_indices && t->inputs;
    for (int i = 0; i < MED_BACKEND_STEPS; i++) {
        t->steps[i].draws = med_calloc(samples, sizeof *t->steps[i].draws);
        t->steps[i].items = med_calloc(samples, sizeof *t->steps[i].items);
        is_there = is_there && t->steps[i].draws && t->steps[i].items;
    }
    if (!is_there)
        return MED_E_NOMEM;
    (void)med_transformer_indices_layout(t, t->host_indices, &t->indices);
    return 0;
}

static int init(void *self, struct med_err *err)
{
    struct med_transformer *t = self;
    const struct med_transformer_config *c = &t->config;
    struct med_clock clock;
    med_clock_init_real(&clock, 1);
    int64_t start_ns = med_clock_now_ns(&clock);
    struct med_ops_sizes sizes = ops_sizes(c);
    int rc = c->ops->prepare(c->device, &sizes, err);
    if (rc < 0)
        return rc;
    rc = weights_load(t);
    if (rc < 0 && rc != MED_E_NOMEM)
        return med_transformer_failure(t, rc, "loading the weights", err);
    if (rc < 0) {
        return med_err_set(err, rc, "model \"%s\": no memory for %lld bytes of weights",
                           c->checkpoint->dir, (long long)c->checkpoint->weight_bytes);
    }
    int64_t loaded_ns = med_clock_now_ns(&clock);
    rc = device_memory_take(t);
    if (rc == 0)
        rc = host_memory_take(t);
    if (rc == 0)
        rc = frequencies_put(t);
    if (rc < 0 && rc != MED_E_NOMEM)
        return med_transformer_failure(t, rc, "taking memory", err);
    if (rc < 0) {
        return med_err_set(err, rc,
                           "model \"%s\": no memory for %zu bytes of KV cache (%lld blocks of %lld "
                           "tokens) and %zu bytes of intermediate results",
                           c->checkpoint->dir,
                           med_transformer_kv_part_bytes(t) * 2 * (size_t)t->model->layers,
                           (long long)c->kv_blocks, (long long)c->block_tokens,
                           med_transformer_workspace_bytes(c));
    }
    int64_t taken_ns = med_clock_now_ns(&clock);
    if (c->ops->record)
        rc = c->ops->record(c->device, med_transformer_forward, t, err);
    if (rc < 0)
        return rc;
    t->times.load_s = (double)(loaded_ns - start_ns) / 1e9;
    t->times.memory_s = (double)(taken_ns - loaded_ns) / 1e9;
    t->times.record_s = (double)(med_clock_now_ns(&clock) - taken_ns) / 1e9;
    t->ready = true;
    return 0;
}

/* ---- life ---------------------------------------------------------------------------------- */

static void release(void *self)
{
    struct med_transformer *t = self;
    if (!t)
        return;
    const struct med_ops *ops = t->config.ops;
    void *const device_memory[] = {t->frequencies, t->kv,    t->x,     t->q,
                                   t->attended,    t->inner, t->logits};
    for (size_t i = 0; i < sizeof device_memory / sizeof *device_memory; i++) {
        if (device_memory[i])
            ops->free(t->config.device, device_memory[i]);
    }
    weights_unload(t);
    med_free(t->host_indices);
    med_free(t->inputs);
    for (int i = 0; i < MED_BACKEND_STEPS; i++) {
        med_free(t->steps[i].draws);
        med_free(t->steps[i].items);
    }
    med_free(t->host_logits);
    med_free(t);
}

static int check(const struct med_transformer_config *c, struct med_err *err)
{
    const struct med_model_config *m = &c->checkpoint->config;
    bool computes = c->dtype == MED_DTYPE_F32 || c->dtype == MED_DTYPE_BF16 ||
                    (c->dtype == MED_DTYPE_F16 && c->ops->f16);
    if (!computes) {
        return med_err_set(
            err, MED_E_INVALID,
            "model \"%s\": the %s backend does not compute in %s, expected float32%s "
            "or bfloat16",
            c->checkpoint->dir, c->ops->name, med_dtype_name(c->dtype),
            c->ops->f16 ? ", float16" : "");
    }
    if (c->model_len_max < 1 || c->model_len_max > m->positions_max) {
        return med_err_set(err, MED_E_INVALID,
                           "model \"%s\": sequences of %lld tokens were asked for, expected 1 to "
                           "%lld (max_position_embeddings)",
                           c->checkpoint->dir, (long long)c->model_len_max,
                           (long long)m->positions_max);
    }
    if (c->block_tokens < 1 || c->kv_blocks < 1 || c->kv_blocks > INT32_MAX / c->block_tokens) {
        return med_err_set(err, MED_E_INVALID,
                           "model \"%s\": a KV cache of %lld blocks of %lld tokens, expected 1 to "
                           "%d tokens",
                           c->checkpoint->dir, (long long)c->kv_blocks, (long long)c->block_tokens,
                           INT32_MAX);
    }
    if (c->sequences_max < 1 || c->batched_tokens_max < c->sequences_max ||
        c->batched_tokens_max > MED_LIMIT_PROMPT_TOKENS) {
        return med_err_set(err, MED_E_INVALID,
                           "model \"%s\": batches of %lld sequences and %lld tokens, expected 1 "
                           "sequence at least, and tokens between the sequences and %d",
                           c->checkpoint->dir, (long long)c->sequences_max,
                           (long long)c->batched_tokens_max, MED_LIMIT_PROMPT_TOKENS);
    }
    return 0;
}

int med_transformer_new(const struct med_transformer_config *config,
                        struct med_transformer **ret_transformer, struct med_err *err)
{
    int rc = check(config, err);
    if (rc < 0)
        return rc;
    struct med_transformer *t = med_calloc(1, sizeof *t);
    if (!t)
        return med_err_set(err, MED_E_NOMEM, "no memory for a transformer");
    t->config = *config;
    t->model = &config->checkpoint->config;
    t->table_stride = table_stride(config);
    *ret_transformer = t;
    return 0;
}

struct med_backend med_transformer_backend(struct med_transformer *transformer)
{
    static const struct med_backend_ops cpu = {
        .name = "cpu", .init = init, .step = med_transformer_step, .release = release};
    static const struct med_backend_ops cuda = {.name = "cuda",
                                                .init = init,
                                                .step = med_transformer_step,
                                                .start = med_transformer_start,
                                                .finish = med_transformer_finish,
                                                .release = release};
    bool queues = transformer->config.ops->queues;
    return (struct med_backend){.ops = queues ? &cuda : &cpu, .self = transformer};
}

void med_transformer_get_times(const struct med_transformer *transformer,
                               struct med_transformer_times *ret_times)
{
    *ret_times = transformer->times;
}
