/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The model as a backend (see transformer.h).
 *
 * init loads the weights and takes all memory; a step fills the index arrays (transformer_batch.c),
 * runs the layers, computes logits for the rows that sample and draws from them.  The cache of all
 * layers is one allocation, so that it fits or fails as a whole.
 * thread: engine; release afterwards.  Knows no device: everything goes through struct med_ops.
 */
#include "worker/transformer.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "worker/transformer_internal.h"

#include <math.h>
#include <string.h>

static size_t activation_bytes(const struct med_transformer_config *c, int64_t columns)
{
    return (size_t)(c->batched_tokens_max * columns) * med_dtype_bytes(c->dtype);
}

static struct med_ops_sizes ops_sizes(const struct med_transformer_config *c)
{
    return (struct med_ops_sizes){.model = &c->checkpoint->config,
                                  .dtype = c->dtype,
                                  .rows_max = c->batched_tokens_max,
                                  .items_max = c->sequences_max,
                                  .samples_max = c->sequences_max,
                                  .model_len_max = c->model_len_max};
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
           2 * med_transformer_indices_layout(&t, NULL, &unused) +
           (size_t)c->sequences_max * (sizeof(struct med_draw_input) + sizeof(struct med_draw)) +
           (size_t)m->head_dim / 2 * sizeof(float) + c->ops->workspace_bytes(&sizes);
}

/* ---- init ---------------------------------------------------------------------------------- */

static int load(struct med_transformer *t, const struct med_weight *host, struct med_weight *to)
{
    return host->data ? t->config.ops->load(t->config.device, host, to) : 0;
}

/* The weights of a layer are nothing but weights, so they are walked as an array. */
enum {
    LAYER_WEIGHTS = sizeof(struct med_layer_weights) / sizeof(struct med_weight)
};
_Static_assert(sizeof(struct med_layer_weights) == LAYER_WEIGHTS * sizeof(struct med_weight),
               "a layer's weights are weights only");

static struct med_weight *layer_weight(struct med_layer_weights *layer, int index)
{
    return (struct med_weight *)(void *)layer + index;
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
    for (int64_t l = 0; rc == 0 && l < t->model->layers; l++) {
        for (int i = 0; rc == 0 && i < LAYER_WEIGHTS; i++)
            rc = load(t, layer_weight(&c->layers[l], i), layer_weight(&t->layers[l], i));
    }
    return rc;
}

static void weights_unload(struct med_transformer *t)
{
    const struct med_ops *ops = t->config.ops;
    if (!t->layers)
        return;
    for (int64_t l = 0; l < t->model->layers; l++) {
        for (int i = 0; i < LAYER_WEIGHTS; i++) {
            if (layer_weight(&t->layers[l], i)->data)
                ops->unload(t->config.device, layer_weight(&t->layers[l], i));
        }
    }
    if (t->head.data && t->head.data != t->embedding.data)
        ops->unload(t->config.device, &t->head);
    if (t->embedding.data)
        ops->unload(t->config.device, &t->embedding);
    if (t->norm.data)
        ops->unload(t->config.device, &t->norm);
    med_free(t->layers);
    t->layers = NULL;
}

/* Bytes of the keys, or the values, of one layer. */
static size_t kv_part_bytes(const struct med_transformer *t)
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
    struct med_transformer_indices unused;
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
        {&t->device_indices, med_transformer_indices_layout(t, NULL, &unused)},
        {(void **)&t->kv, kv_part_bytes(t) * 2 * (size_t)m->layers},
    };
    for (size_t i = 0; i < sizeof wants / sizeof *wants; i++) {
        int rc = c->ops->alloc(c->device, wants[i].bytes, wants[i].to);
        if (rc < 0)
            return rc;
    }
    (void)med_transformer_indices_layout(t, t->device_indices, &t->on_device);
    return 0;
}

static int host_memory_take(struct med_transformer *t)
{
    size_t samples = (size_t)t->config.sequences_max;
    struct med_transformer_indices unused;
    t->host_indices = med_calloc(1, med_transformer_indices_layout(t, NULL, &unused));
    t->inputs = med_calloc(samples, sizeof *t->inputs);
    t->draws = med_calloc(samples, sizeof *t->draws);
    if (!t->host_indices || !t->inputs || !t->draws)
        return MED_E_NOMEM;
    (void)med_transformer_indices_layout(t, t->host_indices, &t->on_host);
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
    if (rc < 0) {
        return med_err_set(err, rc,
                           "model \"%s\": no memory for %zu bytes of KV cache (%lld blocks of %lld "
                           "tokens) and %zu bytes of intermediate results",
                           c->checkpoint->dir, kv_part_bytes(t) * 2 * (size_t)t->model->layers,
                           (long long)c->kv_blocks, (long long)c->block_tokens,
                           med_transformer_workspace_bytes(c));
    }
    t->times.load_s = (double)(loaded_ns - start_ns) / 1e9;
    t->times.memory_s = (double)(med_clock_now_ns(&clock) - loaded_ns) / 1e9;
    t->ready = true;
    return 0;
}

/* ---- a step -------------------------------------------------------------------------------- */

static struct med_kv_layer kv_layer(const struct med_transformer *t, int64_t layer)
{
    size_t bytes = kv_part_bytes(t);
    char *keys = t->kv + 2 * (size_t)layer * bytes;
    return (struct med_kv_layer){.keys = keys,
                                 .values = keys + bytes,
                                 .dtype = t->config.kv_dtype,
                                 .block_tokens = t->config.block_tokens};
}

static int attention_run(struct med_transformer *t, int64_t layer)
{
    const struct med_layer_weights *w = &t->layers[layer];
    const struct med_model_config *m = t->model;
    const struct med_ops *ops = t->config.ops;
    struct med_qkv_args qkv = {.rows = t->rows,
                               .hidden = m->hidden,
                               .heads = m->heads,
                               .kv_heads = m->kv_heads,
                               .head_dim = m->head_dim,
                               .x = t->x,
                               .norm = w->input_norm,
                               .eps = (float)m->norm_eps,
                               .wq = w->q,
                               .wk = w->k,
                               .wv = w->v,
                               .bq = w->q_bias,
                               .bk = w->k_bias,
                               .bv = w->v_bias,
                               .q_norm = w->q_norm,
                               .k_norm = w->k_norm,
                               .positions = t->on_device.positions,
                               .frequencies = t->frequencies,
                               .slots = t->on_device.slots,
                               .kv = kv_layer(t, layer),
                               .q = t->q,
                               .dtype = t->config.dtype};
    struct med_attend_args attend = {.items = t->items,
                                     .rows = t->rows,
                                     .heads = m->heads,
                                     .kv_heads = m->kv_heads,
                                     .head_dim = m->head_dim,
                                     .q = t->q,
                                     .item_rows = t->on_device.item_rows,
                                     .contexts = t->on_device.contexts,
                                     .tables = t->on_device.tables,
                                     .table_stride = t->table_stride,
                                     .kv = qkv.kv,
                                     .window = med_model_layer_has_window(m, layer) ? m->window : 0,
                                     .scale = 1.0f / sqrtf((float)m->head_dim),
                                     .out = t->attended,
                                     .dtype = t->config.dtype};
    struct med_project_args output = {.rows = t->rows,
                                      .in = t->attended,
                                      .weight = w->output,
                                      .bias = w->output_bias,
                                      .x = t->x,
                                      .dtype = t->config.dtype};
    int rc = ops->qkv(t->config.device, &qkv);
    if (rc == 0)
        rc = ops->attend(t->config.device, &attend);
    return rc == 0 ? ops->project(t->config.device, &output) : rc;
}

static int mlp_run(struct med_transformer *t, int64_t layer)
{
    const struct med_layer_weights *w = &t->layers[layer];
    const struct med_ops *ops = t->config.ops;
    struct med_gate_up_args gate_up = {.rows = t->rows,
                                       .hidden = t->model->hidden,
                                       .x = t->x,
                                       .norm = w->post_norm,
                                       .eps = (float)t->model->norm_eps,
                                       .gate = w->gate,
                                       .up = w->up,
                                       .bias_gate = w->gate_bias,
                                       .bias_up = w->up_bias,
                                       .out = t->inner,
                                       .dtype = t->config.dtype};
    struct med_project_args down = {.rows = t->rows,
                                    .in = t->inner,
                                    .weight = w->down,
                                    .bias = w->down_bias,
                                    .x = t->x,
                                    .dtype = t->config.dtype};
    int rc = ops->gate_up(t->config.device, &gate_up);
    return rc == 0 ? ops->project(t->config.device, &down) : rc;
}

/* The batch up to the logits of the rows that sample. */
static int forward(struct med_transformer *t)
{
    const struct med_ops *ops = t->config.ops;
    struct med_embed_args embed = {.rows = t->rows,
                                   .ids = t->on_device.ids,
                                   .table = t->embedding,
                                   .out = t->x,
                                   .dtype = t->config.dtype};
    int rc = ops->embed(t->config.device, &embed);
    for (int64_t layer = 0; rc == 0 && layer < t->model->layers; layer++) {
        rc = attention_run(t, layer);
        if (rc == 0)
            rc = mlp_run(t, layer);
    }
    if (rc < 0 || t->samples == 0)
        return rc;
    struct med_head_args head = {.samples = t->samples,
                                 .hidden = t->model->hidden,
                                 .rows = t->on_device.head_rows,
                                 .x = t->x,
                                 .norm = t->norm,
                                 .eps = (float)t->model->norm_eps,
                                 .head = t->head,
                                 .logits = t->logits,
                                 .dtype = t->config.dtype};
    return ops->head(t->config.device, &head);
}

static int compute(struct med_transformer *t, const struct med_backend_step *step,
                   struct med_err *err)
{
    MED_ASSERT(t->ready);
    int rc = med_transformer_batch(t, step, err);
    if (rc < 0)
        return rc;
    rc = forward(t);
    return rc < 0 ? med_err_set(err, rc, "%s backend: a step of %lld tokens failed: %s",
                                t->config.ops->name, (long long)t->rows, med_err_text(rc))
                  : 0;
}

static int step(void *self, const struct med_backend_step *s, struct med_err *err)
{
    struct med_transformer *t = self;
    int rc = compute(t, s, err);
    if (rc < 0 || t->samples == 0)
        return rc;
    med_transformer_draws(t, s);
    struct med_sample_args args = {.samples = t->samples,
                                   .vocab = t->model->vocab,
                                   .logits = t->logits,
                                   .inputs = t->inputs,
                                   .results = t->draws};
    rc = t->config.ops->sample(t->config.device, &args);
    if (rc < 0) {
        return med_err_set(err, rc, "%s backend: sampling failed: %s", t->config.ops->name,
                           med_err_text(rc));
    }
    const struct med_draw *draw = t->draws;
    for (size_t i = 0; i < s->batch->count; i++) {
        if (!s->batch->items[i].samples)
            continue;
        const struct med_draw *drawn = draw++;
        if (drawn->status < 0 && !s->failed) {
            return med_err_set(err, drawn->status, "%s backend: no logit is a finite number",
                               t->config.ops->name);
        }
        if (drawn->status < 0) {
            s->failed[i] = true;
            continue;
        }
        s->sampled[i] = drawn->id;
        s->stop[i] = drawn->stop;
        if (s->logprobs && s->logprobs[i])
            *s->logprobs[i] = drawn->logprobs;
    }
    return 0;
}

int med_transformer_logits(struct med_transformer *t, const struct med_backend_step *s,
                           const float **ret_logits, struct med_err *err)
{
    if (!t->host_logits) {
        t->host_logits =
            med_calloc((size_t)(t->config.sequences_max * t->model->vocab), sizeof(float));
        if (!t->host_logits)
            return med_err_set(err, MED_E_NOMEM, "no memory for a copy of the logits");
    }
    int rc = compute(t, s, err);
    if (rc < 0)
        return rc;
    rc = t->config.ops->get(t->config.device, t->host_logits, t->logits,
                            (size_t)(t->samples * t->model->vocab) * sizeof(float));
    if (rc < 0)
        return med_err_set(err, rc, "the logits could not be copied: %s", med_err_text(rc));
    *ret_logits = t->host_logits;
    return 0;
}

/* ---- life ---------------------------------------------------------------------------------- */

static void release(void *self)
{
    struct med_transformer *t = self;
    if (!t)
        return;
    const struct med_ops *ops = t->config.ops;
    void *const device_memory[] = {t->frequencies, t->kv,    t->x,      t->q,
                                   t->attended,    t->inner, t->logits, t->device_indices};
    for (size_t i = 0; i < sizeof device_memory / sizeof *device_memory; i++) {
        if (device_memory[i])
            ops->free(t->config.device, device_memory[i]);
    }
    weights_unload(t);
    med_free(t->host_indices);
    med_free(t->inputs);
    med_free(t->draws);
    med_free(t->host_logits);
    med_free(t);
}

static int check(const struct med_transformer_config *c, struct med_err *err)
{
    const struct med_model_config *m = &c->checkpoint->config;
    if (c->dtype != MED_DTYPE_F32 && c->dtype != MED_DTYPE_BF16) {
        return med_err_set(err, MED_E_INVALID,
                           "model \"%s\": computing in %s is not supported, expected float32 or "
                           "bfloat16",
                           c->checkpoint->dir, med_dtype_name(c->dtype));
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
        .name = "cpu", .init = init, .step = step, .release = release};
    static const struct med_backend_ops cuda = {
        .name = "cuda", .init = init, .step = step, .release = release};
    bool is_cuda = strcmp(transformer->config.ops->name, "cuda") == 0;
    return (struct med_backend){.ops = is_cuda ? &cuda : &cpu, .self = transformer};
}

void med_transformer_get_times(const struct med_transformer *transformer,
                               struct med_transformer_times *ret_times)
{
    *ret_times = transformer->times;
}
