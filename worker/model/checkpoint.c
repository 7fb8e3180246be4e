/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening a model directory: config, files, and every tensor that the config calls for.
 *
 * model.safetensors is taken if it is there, else the shards of model.safetensors.index.json; so does
 * transformers.  With an index, each entry of its weight_map must be where it says, and no tensor may
 * stand in two shards.  Then one table says, per layer, what each weight is called and how large the
 * config makes it.  A tensor of the model that the config does not call for would mean that the config
 * describes another model: it is refused by name.  Left alone are the lm_head of a tied model, stored
 * rope frequencies, and what does not belong to the decoder.
 *
 * No number is read here: a weight is a pointer into a mapping.  thread: whoever opens; immutable
 * afterwards.
 */
#include "worker/model/checkpoint.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/buf.h"
#include "base/limits.h"
#include "worker/model/internal.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    TENSOR_NAME_MAX = 96,
    SHAPE_TEXT_MAX = 256
};

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

struct opening {
    struct med_checkpoint *checkpoint;
    struct med_shard_index index; /* of a single file: empty */
    struct med_err *err;
};

static int fail_memory(const char *dir, struct med_err *err)
{
    return med_err_set(err, MED_E_NOMEM, "%s: %s while the model was opened", dir,
                       med_err_text(MED_E_NOMEM));
}

/* ---- files ---- */

static bool has_file(const char *path)
{
    return access(path, F_OK) == 0 || errno != ENOENT;
}

static int open_single(struct opening *o, const char *path)
{
    struct med_checkpoint *c = o->checkpoint;
    c->files = med_calloc(1, sizeof *c->files);
    if (!c->files)
        return fail_memory(c->dir, o->err);
    int rc = med_safetensors_open(path, &c->files[0], o->err);
    if (rc == 0)
        c->file_count = 1;
    return rc;
}

struct place {
    const char *tensor;
    size_t file;
};

static int compare_places(const void *a, const void *b)
{
    return strcmp(((const struct place *)a)->tensor, ((const struct place *)b)->tensor);
}

/* No tensor may stand in two shards: which one would hold? */
static int check_duplicates(const struct opening *o)
{
    const struct med_checkpoint *c = o->checkpoint;
    size_t count = 0;
    for (size_t f = 0; f < c->file_count; f++)
        count += c->files[f].count;
    struct place *places = med_realloc_array(NULL, count + 1, sizeof *places);
    if (!places)
        return fail_memory(c->dir, o->err);
    size_t at = 0;
    for (size_t f = 0; f < c->file_count; f++) {
        for (size_t i = 0; i < c->files[f].count; i++)
            places[at++] = (struct place){.tensor = c->files[f].tensors[i].name, .file = f};
    }
    qsort(places, count, sizeof *places, compare_places);
    int rc = 0;
    for (at = 1; at < count && rc == 0; at++) {
        if (compare_places(&places[at - 1], &places[at]) == 0) {
            rc = med_err_set(o->err, MED_E_FORMAT,
                             "%s: tensor %s stands in %s and in %s, expected it in one shard",
                             c->dir, places[at].tensor, o->index.files[places[at - 1].file],
                             o->index.files[places[at].file]);
        }
    }
    med_free(places);
    return rc;
}

/* Every entry of the weight_map must be in the shard that it names. */
static int check_map(const struct opening *o)
{
    const struct med_checkpoint *c = o->checkpoint;
    for (size_t i = 0; i < o->index.count; i++) {
        const struct med_shard_entry *entry = &o->index.entries[i];
        if (med_safetensors_find(&c->files[entry->file], entry->tensor))
            continue;
        const char *other = NULL;
        for (size_t f = 0; f < c->file_count && !other; f++) {
            if (med_safetensors_find(&c->files[f], entry->tensor))
                other = o->index.files[f];
        }
        return med_err_set(o->err, MED_E_FORMAT,
                           "%s/%s: weight_map says that tensor %s is in %s, but it is %s%s", c->dir,
                           index_name, entry->tensor, o->index.files[entry->file],
                           other ? "in " : "in none of the shards", other ? other : "");
    }
    return 0;
}

static int read_index(struct opening *o, const char *path)
{
    struct med_buf buf;
    med_buf_init(&buf, MED_LIMIT_JSON_BYTES);
    int rc = med_buf_read_file(&buf, path, o->err);
    if (rc == 0)
        rc = med_shard_index_parse(buf.data ? buf.data : "", buf.length, path, &o->index, o->err);
    med_buf_release(&buf);
    return rc;
}

static int open_shards(struct opening *o, const char *path)
{
    struct med_checkpoint *c = o->checkpoint;
    int rc = read_index(o, path);
    if (rc < 0)
        return rc;
    c->files = med_calloc(o->index.file_count, sizeof *c->files);
    if (!c->files)
        return fail_memory(c->dir, o->err);
    for (size_t i = 0; rc == 0 && i < o->index.file_count; i++) {
        char *shard = med_model_path(c->dir, o->index.files[i]);
        if (!shard)
            return fail_memory(c->dir, o->err);
        rc = med_safetensors_open(shard, &c->files[i], o->err);
        if (rc < 0) {
            med_err_prefix(o->err, "%s, named in %s", o->index.files[i], path);
        } else {
            c->file_count++;
        }
        med_free(shard);
    }
    if (rc == 0)
        rc = check_duplicates(o);
    return rc == 0 ? check_map(o) : rc;
}

static int open_files(struct opening *o)
{
    const char *dir = o->checkpoint->dir;
    char *single = med_model_path(dir, single_name);
    char *index = med_model_path(dir, index_name);
    int rc;
    if (!single || !index) {
        rc = fail_memory(dir, o->err);
    } else if (has_file(single)) {
        rc = open_single(o, single);
    } else if (has_file(index)) {
        rc = open_shards(o, index);
    } else {
        rc = med_err_set(o->err, MED_E_INVALID,
                         "%s: expected %s or %s (weights in other formats are not read)", dir,
                         single_name, index_name);
    }
    med_free(single);
    med_free(index);
    return rc;
}

/* ---- weights ---- */

static const struct med_tensor *find_tensor(const struct opening *o, const char *name,
                                            const struct med_safetensors **ret_file)
{
    const struct med_checkpoint *c = o->checkpoint;
    MED_ASSERT(c->files);
    *ret_file = &c->files[0];
    if (o->index.count > 0) {
        const struct med_shard_entry *entry = med_shard_index_find(&o->index, name);
        if (!entry)
            return NULL;
        *ret_file = &c->files[entry->file];
    }
    return med_safetensors_find(*ret_file, name);
}

/* "[128, 64]" */
static const char *shape_text(const int64_t *shape, int dims, char out[SHAPE_TEXT_MAX])
{
    size_t used = 0;
    out[used++] = '[';
    for (int i = 0; i < dims; i++) {
        int length = snprintf(out + used, SHAPE_TEXT_MAX - used, "%s%lld", i > 0 ? ", " : "",
                              (long long)shape[i]);
        used += (size_t)length; // 8 numbers of at most 19 digits fit
    }
    (void)snprintf(out + used, SHAPE_TEXT_MAX - used, "]");
    return out;
}

/* rows 0: a vector of `columns`. */
static int find_weight(struct opening *o, const char *name, int64_t rows, int64_t columns,
                       struct med_weight *ret_weight)
{
    struct med_checkpoint *c = o->checkpoint;
    char found[SHAPE_TEXT_MAX];
    char wanted[SHAPE_TEXT_MAX];
    const int64_t shape[2] = {rows > 0 ? rows : columns, columns};
    const int dims = rows > 0 ? 2 : 1;
    const struct med_safetensors *file;
    const struct med_tensor *tensor = find_tensor(o, name, &file);
    if (!tensor) {
        return med_err_set(o->err, MED_E_FORMAT,
                           "%s: tensor %s is missing, expected it with shape %s for %s", c->dir,
                           name, shape_text(shape, dims, wanted),
                           med_architecture_name(c->config.architecture));
    }
    if (tensor->dtype < 0) {
        return med_err_set(o->err, MED_E_FORMAT,
                           "%s: tensor %s: found dtype %s, expected F32, BF16 or F16", file->path,
                           name, tensor->dtype_name);
    }
    if (tensor->dims != dims || memcmp(tensor->shape, shape, (size_t)dims * sizeof *shape) != 0) {
        return med_err_set(o->err, MED_E_FORMAT,
                           "%s: tensor %s: found shape %s, expected %s from config.json",
                           file->path, name, shape_text(tensor->shape, tensor->dims, found),
                           shape_text(shape, dims, wanted));
    }
    *ret_weight = (struct med_weight){.data = tensor->data,
                                      .dtype = (enum med_dtype)tensor->dtype,
                                      .rows = rows > 0 ? rows : 1,
                                      .columns = columns};
    c->parameters += tensor->elements;
    c->weight_bytes += (int64_t)tensor->bytes;
    return 0;
}

/* One weight of a layer; `used` false: this config has none. */
struct layer_weight {
    const char *name; /* after "model.layers.N." */
    size_t offset;    /* in struct med_layer_weights */
    int64_t rows, columns;
    bool used;
};

#define WEIGHT(field) offsetof(struct med_layer_weights, field)

static int find_layer(struct opening *o, int64_t layer)
{
    const struct med_model_config *m = &o->checkpoint->config;
    const int64_t q = m->heads * m->head_dim;
    const int64_t kv = m->kv_heads * m->head_dim;
    const struct layer_weight weights[] = {
        {"input_layernorm.weight", WEIGHT(input_norm), 0, m->hidden, true},
        {"self_attn.q_proj.weight", WEIGHT(q), q, m->hidden, true},
        {"self_attn.k_proj.weight", WEIGHT(k), kv, m->hidden, true},
        {"self_attn.v_proj.weight", WEIGHT(v), kv, m->hidden, true},
        {"self_attn.q_proj.bias", WEIGHT(q_bias), 0, q, m->qkv_bias},
        {"self_attn.k_proj.bias", WEIGHT(k_bias), 0, kv, m->qkv_bias},
        {"self_attn.v_proj.bias", WEIGHT(v_bias), 0, kv, m->qkv_bias},
        {"self_attn.q_norm.weight", WEIGHT(q_norm), 0, m->head_dim, m->qk_norm},
        {"self_attn.k_norm.weight", WEIGHT(k_norm), 0, m->head_dim, m->qk_norm},
        {"self_attn.o_proj.weight", WEIGHT(output), m->hidden, q, true},
        {"self_attn.o_proj.bias", WEIGHT(output_bias), 0, m->hidden, m->output_bias},
        {"post_attention_layernorm.weight", WEIGHT(post_norm), 0, m->hidden, true},
        {"mlp.gate_proj.weight", WEIGHT(gate), m->intermediate, m->hidden, true},
        {"mlp.up_proj.weight", WEIGHT(up), m->intermediate, m->hidden, true},
        {"mlp.down_proj.weight", WEIGHT(down), m->hidden, m->intermediate, true},
        {"mlp.gate_proj.bias", WEIGHT(gate_bias), 0, m->intermediate, m->mlp_bias},
        {"mlp.up_proj.bias", WEIGHT(up_bias), 0, m->intermediate, m->mlp_bias},
        {"mlp.down_proj.bias", WEIGHT(down_bias), 0, m->hidden, m->mlp_bias},
    };
    static_assert(sizeof weights / sizeof weights[0] ==
                      sizeof(struct med_layer_weights) / sizeof(struct med_weight),
                  "every weight of a layer has its line");
    for (size_t i = 0; i < sizeof weights / sizeof weights[0]; i++) {
        if (!weights[i].used)
            continue;
        char name[TENSOR_NAME_MAX];
        (void)snprintf(name, sizeof name, "model.layers.%lld.%s", (long long)layer,
                       weights[i].name);
        struct med_weight *to =
            (struct med_weight *)((char *)&o->checkpoint->layers[layer] + weights[i].offset);
        int rc = find_weight(o, name, weights[i].rows, weights[i].columns, to);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int find_weights(struct opening *o)
{
    struct med_checkpoint *c = o->checkpoint;
    const struct med_model_config *m = &c->config;
    c->layers = med_calloc((size_t)m->layers, sizeof *c->layers);
    if (!c->layers)
        return fail_memory(c->dir, o->err);
    int rc = find_weight(o, "model.embed_tokens.weight", m->vocab, m->hidden, &c->embedding);
    for (int64_t layer = 0; rc == 0 && layer < m->layers; layer++)
        rc = find_layer(o, layer);
    if (rc == 0)
        rc = find_weight(o, "model.norm.weight", 0, m->hidden, &c->norm);
    if (rc < 0)
        return rc;
    if (m->tied_head) {
        c->head = c->embedding;
        return 0;
    }
    return find_weight(o, "lm_head.weight", m->vocab, m->hidden, &c->head);
}

/* ---- tensors that nobody asked for ---- */

static bool ends_with(const char *text, const char *end)
{
    size_t bytes = strlen(text), end_bytes = strlen(end);
    return bytes >= end_bytes && strcmp(text + bytes - end_bytes, end) == 0;
}

/* Is this tensor one of the weights that find_weights took?  A weight is known by where it lies. */
static bool is_taken(const struct med_checkpoint *c, const struct med_tensor *tensor)
{
    if (tensor->data == c->embedding.data || tensor->data == c->norm.data ||
        tensor->data == c->head.data)
        return true;
    char *after = NULL;
    static const char layers[] = "model.layers.";
    if (strncmp(tensor->name, layers, sizeof layers - 1) != 0)
        return false;
    long long layer = strtoll(tensor->name + sizeof layers - 1, &after, 10);
    if (layer < 0 || layer >= c->config.layers || *after != '.')
        return false;
    const struct med_weight *weights = (const struct med_weight *)&c->layers[layer];
    for (size_t i = 0; i < sizeof c->layers[0] / sizeof weights[0]; i++) {
        if (weights[i].data == tensor->data)
            return true;
    }
    return false;
}

static bool may_be_left(const struct med_checkpoint *c, const char *name)
{
    if (strncmp(name, "model.", 6) != 0 && strncmp(name, "lm_head.", 8) != 0)
        return true;
    return ends_with(name, ".rotary_emb.inv_freq") ||
           (c->config.tied_head && strcmp(name, "lm_head.weight") == 0);
}

/* Layers beyond num_hidden_layers, biases without attention_bias: the config describes another model
 * than the weights are of, and the text would be wrong without a word. */
static int check_unused(const struct opening *o)
{
    const struct med_checkpoint *c = o->checkpoint;
    for (size_t f = 0; f < c->file_count; f++) {
        for (size_t i = 0; i < c->files[f].count; i++) {
            const struct med_tensor *tensor = &c->files[f].tensors[i];
            if (may_be_left(c, tensor->name) || is_taken(c, tensor))
                continue;
            return med_err_set(o->err, MED_E_FORMAT,
                               "%s: tensor %s: config.json calls for none of that name in a %s of "
                               "%lld layers; expected weights and config of one model",
                               c->files[f].path, tensor->name,
                               med_architecture_name(c->config.architecture),
                               (long long)c->config.layers);
        }
    }
    return 0;
}

int med_checkpoint_open(const char *dir, struct med_checkpoint *ret_checkpoint, struct med_err *err)
{
    struct med_err own;
    if (!err)
        err = &own;
    struct med_checkpoint checkpoint = {.dir = med_strdup(dir)};
    struct opening o = {.checkpoint = &checkpoint, .err = err};
    int rc = checkpoint.dir ? med_model_config_read(dir, &checkpoint.config, err)
                            : fail_memory(dir, err);
    if (rc == 0)
        rc = med_generation_config_read(dir, &checkpoint.config, &checkpoint.generation, err);
    if (rc == 0)
        rc = open_files(&o);
    if (rc == 0)
        rc = find_weights(&o);
    if (rc == 0)
        rc = check_unused(&o);
    med_shard_index_release(&o.index);
    if (rc < 0) {
        med_checkpoint_close(&checkpoint);
        return rc;
    }
    *ret_checkpoint = checkpoint;
    return 0;
}

void med_checkpoint_close(struct med_checkpoint *checkpoint)
{
    for (size_t i = 0; i < checkpoint->file_count; i++)
        med_safetensors_close(&checkpoint->files[i]);
    med_free(checkpoint->files);
    med_free(checkpoint->layers);
    med_free(checkpoint->dir);
    *checkpoint = (struct med_checkpoint){0};
}
