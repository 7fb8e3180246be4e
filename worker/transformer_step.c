/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A step of the transformer (see transformer.h): the layers, the head, and drawing.
 *
 * start takes a batch to the device, queues the layers or has them replayed, and queues the draws;
 * finish waits and hands the results out.  On a device that does not queue, all is done in start.
 * thread: engine.  Knows no device: everything goes through struct med_ops.
 */
#include "worker/transformer.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "worker/transformer_internal.h"

#include <math.h>
#include <stdio.h>

static struct med_kv_layer kv_layer(const struct med_transformer *t, int64_t layer)
{
    size_t bytes = med_transformer_kv_part_bytes(t);
    char *keys = t->kv + 2 * (size_t)layer * bytes;
    return (struct med_kv_layer){.keys = keys,
                                 .values = keys + bytes,
                                 .dtype = t->config.kv_dtype,
                                 .block_tokens = t->config.block_tokens};
}

static int attention_run(struct med_transformer *t, int64_t layer,
                         const struct med_ops_batch *batch)
{
    const struct med_layer_weights *w = &t->layers[layer];
    const struct med_model_config *m = t->model;
    const struct med_ops *ops = t->config.ops;
    struct med_qkv_args qkv = {.rows = batch->rows,
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
                               .positions = batch->positions,
                               .frequencies = t->frequencies,
                               .slots = batch->slots,
                               .kv = kv_layer(t, layer),
                               .q = t->q,
                               .dtype = t->config.dtype};
    struct med_attend_args attend = {.items = batch->items,
                                     .rows = batch->rows,
                                     .heads = m->heads,
                                     .kv_heads = m->kv_heads,
                                     .head_dim = m->head_dim,
                                     .q = t->q,
                                     .item_rows = batch->item_rows,
                                     .contexts = batch->contexts,
                                     .tables = batch->tables,
                                     .table_stride = batch->table_stride,
                                     .kv = qkv.kv,
                                     .window = med_model_layer_has_window(m, layer) ? m->window : 0,
                                     .scale = 1.0f / sqrtf((float)m->head_dim),
                                     .out = t->attended,
                                     .dtype = t->config.dtype};
    struct med_project_args output = {.rows = batch->rows,
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

static int mlp_run(struct med_transformer *t, int64_t layer, int64_t rows)
{
    const struct med_layer_weights *w = &t->layers[layer];
    const struct med_ops *ops = t->config.ops;
    struct med_gate_up_args gate_up = {.rows = rows,
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
    struct med_project_args down = {.rows = rows,
                                    .in = t->inner,
                                    .weight = w->down,
                                    .bias = w->down_bias,
                                    .x = t->x,
                                    .dtype = t->config.dtype};
    int rc = ops->gate_up(t->config.device, &gate_up);
    return rc == 0 ? ops->project(t->config.device, &down) : rc;
}

int med_transformer_forward(void *arg, const struct med_ops_batch *batch)
{
    struct med_transformer *t = arg;
    const struct med_ops *ops = t->config.ops;
    struct med_embed_args embed = {.rows = batch->rows,
                                   .ids = batch->ids,
                                   .sources = batch->sources,
                                   .table = t->embedding,
                                   .out = t->x,
                                   .dtype = t->config.dtype};
    int rc = ops->embed(t->config.device, &embed);
    for (int64_t layer = 0; rc == 0 && layer < t->model->layers; layer++) {
        rc = attention_run(t, layer, batch);
        if (rc == 0)
            rc = mlp_run(t, layer, batch->rows);
    }
    if (rc < 0 || batch->samples == 0)
        return rc;
    struct med_head_args head = {.samples = batch->samples,
                                 .hidden = t->model->hidden,
                                 .rows = batch->head_rows,
                                 .x = t->x,
                                 .norm = t->norm,
                                 .eps = (float)t->model->norm_eps,
                                 .head = t->head,
                                 .logits = t->logits,
                                 .dtype = t->config.dtype};
    return ops->head(t->config.device, &head);
}

int med_transformer_failure(const struct med_transformer *t, int rc, const char *doing,
                            struct med_err *err)
{
    struct med_err why = {0};
    if (t->config.ops->failure)
        t->config.ops->failure(t->config.device, &why);
    return med_err_set(err, rc, "%s backend: %s failed: %s", t->config.ops->name, doing,
                       why.code < 0 ? why.text : med_err_text(rc));
}

/* The batch up to the logits, queued. */
static int compute(struct med_transformer *t, const struct med_backend_step *step,
                   struct med_err *err)
{
    MED_ASSERT(t->ready);
    int rc = med_transformer_batch(t, step, err);
    if (rc < 0)
        return rc;
    rc = t->config.ops->run(t->config.device, &t->batch, med_transformer_forward, t);
    if (rc == 0)
        return 0;
    char doing[64];
    (void)snprintf(doing, sizeof doing, "a step of %lld tokens", (long long)t->batch.rows);
    return med_transformer_failure(t, rc, doing, err);
}

int med_transformer_start(void *self, const struct med_backend_step *step, struct med_err *err)
{
    struct med_transformer *t = self;
    const struct med_ops *ops = t->config.ops;
    MED_ASSERT(t->started - t->finished < MED_BACKEND_STEPS);
    int slot = (int)(t->started % MED_BACKEND_STEPS);
    int rc = compute(t, step, err);
    if (rc < 0)
        return rc;
    struct med_transformer_under_way *under_way = &t->steps[slot];
    med_transformer_draws(t, step);
    struct med_sample_args args = {.samples = t->batch.samples,
                                   .vocab = t->model->vocab,
                                   .logits = t->logits,
                                   .inputs = t->inputs,
                                   .results = under_way->draws,
                                   .slot = slot};
    rc = args.samples > 0 ? ops->sample(t->config.device, &args) : 0;
    if (rc == 0 && ops->mark)
        rc = ops->mark(t->config.device, slot);
    if (rc < 0)
        return med_transformer_failure(t, rc, "sampling", err);
    under_way->sampled = step->sampled;
    under_way->stop = step->stop;
    under_way->failed = step->failed;
    under_way->logprobs = step->logprobs;
    t->started++;
    return 0;
}

/* Item `item` of the step, which drew. */
static int draw_take(const struct med_transformer *t, const struct med_transformer_under_way *u,
                     size_t item, const struct med_draw *drawn, struct med_err *err)
{
    if (drawn->status < 0 && !u->failed) {
        return med_err_set(err, drawn->status, "%s backend: no logit is a finite number",
                           t->config.ops->name);
    }
    if (drawn->status < 0) {
        u->failed[item] = true;
        return 0;
    }
    u->sampled[item] = drawn->id;
    u->stop[item] = drawn->stop;
    if (u->logprobs && u->logprobs[item])
        *u->logprobs[item] = drawn->logprobs;
    return 0;
}

int med_transformer_finish(void *self, struct med_err *err)
{
    struct med_transformer *t = self;
    MED_ASSERT(t->finished < t->started);
    int slot = (int)(t->finished % MED_BACKEND_STEPS);
    const struct med_transformer_under_way *u = &t->steps[slot];
    int rc = t->config.ops->wait ? t->config.ops->wait(t->config.device, slot) : 0;
    if (rc < 0)
        return med_transformer_failure(t, rc, "a step", err);
    t->finished++;
    for (size_t i = 0; rc == 0 && i < u->count; i++) {
        if (u->items[i].sample >= 0)
            rc = draw_take(t, u, i, &u->draws[u->items[i].sample], err);
    }
    return rc;
}

int med_transformer_step(void *self, const struct med_backend_step *step, struct med_err *err)
{
    int rc = med_transformer_start(self, step, err);
    return rc == 0 ? med_transformer_finish(self, err) : rc;
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
    MED_ASSERT(t->started == t->finished);
    int rc = compute(t, s, err);
    if (rc < 0)
        return rc;
    rc = t->config.ops->get(t->config.device, t->host_logits, t->logits,
                            (size_t)(t->batch.samples * t->model->vocab) * sizeof(float));
    if (rc < 0)
        return med_transformer_failure(t, rc, "copying the logits", err);
    *ret_logits = t->host_logits;
    return 0;
}
