/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small, valid model directory for C tests: config.json, model.safetensors, and if asked for
 * generation_config.json, with random weights that are the same on every run.
 *
 *     struct model_dir_spec spec = model_dir_default();   // a Llama of two layers, bf16, vocab 256
 *     spec.architecture = MED_ARCH_QWEN3;                 // biases, norms, windows follow
 *     spec.head_dim = 24;
 *     char dir[MODEL_DIR_PATH_MAX];
 *     model_dir_make(&spec, dir);                         // under $TMPDIR or /tmp; exits on failure
 *     ... med_checkpoint_open(dir, &checkpoint, &err) ...
 *     model_dir_remove(dir);
 *
 * Weights are scaled so that activations stay near 1 and logits spread over some units, so that a wrong
 * sum shows.  Link med_model.  Functions are static; those that a test does not use cost nothing.
 * thread: main.
 */
#ifndef MED_TESTS_MODEL_DIR_H
#define MED_TESTS_MODEL_DIR_H

#include "worker/model/config.h"
#include "worker/model/dtype.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL_DIR_UNUSED __attribute__((unused))

enum {
    MODEL_DIR_PATH_MAX = 256,
    MODEL_DIR_TENSORS_MAX = 4096,
    MODEL_DIR_NAME_MAX = 96
};

struct model_dir_spec {
    enum med_architecture architecture;
    int64_t layers, hidden, heads, kv_heads, head_dim, intermediate, vocab, positions_max;
    bool attention_bias; /* Llama, Qwen3; Qwen2 has its own always */
    bool mlp_bias;       /* Llama */
    bool tied;
    int64_t window;            /* 0: none; not for Llama */
    int64_t max_window_layers; /* Qwen: the first layer with the window */
    enum med_dtype dtype;
    uint64_t seed;
    const char *config_extra; /* more of config.json, e.g. "\"rope_theta\": 500000" or NULL */
    const char *generation;   /* all of generation_config.json, or NULL: no such file */
};

MODEL_DIR_UNUSED static struct model_dir_spec model_dir_default(void)
{
    return (struct model_dir_spec){.architecture = MED_ARCH_LLAMA,
                                   .layers = 2,
                                   .hidden = 64,
                                   .heads = 4,
                                   .kv_heads = 2,
                                   .head_dim = 16,
                                   .intermediate = 96,
                                   .vocab = 256,
                                   .positions_max = 4096,
                                   .dtype = MED_DTYPE_BF16,
                                   .seed = 1};
}

struct model_dir_tensor {
    char name[MODEL_DIR_NAME_MAX];
    int64_t rows, columns; /* rows 0: a vector */
    float mean, scale;     /* values: mean + scale * uniform in [-1, 1) */
};

struct model_dir_list {
    struct model_dir_tensor *tensors;
    size_t count;
};

MODEL_DIR_UNUSED static void model_dir_fail(const char *what, const char *path)
{
    (void)fprintf(stderr, "model_dir: cannot %s %s\n", what, path);
    exit(1);
}

MODEL_DIR_UNUSED static void model_dir_add(struct model_dir_list *list, long long layer,
                                           const char *name, int64_t rows, int64_t columns)
{
    if (list->count == MODEL_DIR_TENSORS_MAX)
        model_dir_fail("hold the tensors of", "a model of so many layers");
    struct model_dir_tensor *t = &list->tensors[list->count++];
    *t = (struct model_dir_tensor){.rows = rows, .columns = columns};
    if (layer >= 0) {
        (void)snprintf(t->name, sizeof t->name, "model.layers.%lld.%s", layer, name);
    } else {
        (void)snprintf(t->name, sizeof t->name, "%s", name);
    }
    if (strstr(name, "norm")) {
        t->mean = 1;
        t->scale = 0.25F;
    } else if (rows == 0) {
        t->scale = 0.25F; // a bias
    } else if (strstr(name, "embed")) {
        t->scale = 1;
    } else {
        t->scale = 2.0F * sqrtf(3.0F / (float)columns);
    }
}

MODEL_DIR_UNUSED static void model_dir_list_tensors(const struct model_dir_spec *s,
                                                    struct model_dir_list *list)
{
    const bool qkv_bias = s->architecture == MED_ARCH_QWEN2 ||
                          (s->attention_bias && s->architecture != MED_ARCH_MISTRAL);
    const bool output_bias = qkv_bias && s->architecture != MED_ARCH_QWEN2;
    const int64_t q = s->heads * s->head_dim;
    const int64_t kv = s->kv_heads * s->head_dim;
    model_dir_add(list, -1, "model.embed_tokens.weight", s->vocab, s->hidden);
    for (int64_t l = 0; l < s->layers; l++) {
        model_dir_add(list, l, "input_layernorm.weight", 0, s->hidden);
        model_dir_add(list, l, "self_attn.q_proj.weight", q, s->hidden);
        model_dir_add(list, l, "self_attn.k_proj.weight", kv, s->hidden);
        model_dir_add(list, l, "self_attn.v_proj.weight", kv, s->hidden);
        model_dir_add(list, l, "self_attn.o_proj.weight", s->hidden, q);
        if (qkv_bias) {
            model_dir_add(list, l, "self_attn.q_proj.bias", 0, q);
            model_dir_add(list, l, "self_attn.k_proj.bias", 0, kv);
            model_dir_add(list, l, "self_attn.v_proj.bias", 0, kv);
        }
        if (output_bias)
            model_dir_add(list, l, "self_attn.o_proj.bias", 0, s->hidden);
        if (s->architecture == MED_ARCH_QWEN3) {
            model_dir_add(list, l, "self_attn.q_norm.weight", 0, s->head_dim);
            model_dir_add(list, l, "self_attn.k_norm.weight", 0, s->head_dim);
        }
        model_dir_add(list, l, "post_attention_layernorm.weight", 0, s->hidden);
        model_dir_add(list, l, "mlp.gate_proj.weight", s->intermediate, s->hidden);
        model_dir_add(list, l, "mlp.up_proj.weight", s->intermediate, s->hidden);
        model_dir_add(list, l, "mlp.down_proj.weight", s->hidden, s->intermediate);
        if (s->mlp_bias && s->architecture == MED_ARCH_LLAMA) {
            model_dir_add(list, l, "mlp.gate_proj.bias", 0, s->intermediate);
            model_dir_add(list, l, "mlp.up_proj.bias", 0, s->intermediate);
            model_dir_add(list, l, "mlp.down_proj.bias", 0, s->hidden);
        }
    }
    model_dir_add(list, -1, "model.norm.weight", 0, s->hidden);
    if (!s->tied)
        model_dir_add(list, -1, "lm_head.weight", s->vocab, s->hidden);
}

/* Uniform in [-1, 1), from the place alone: splitmix64 of the counter, its upper 24 bits. */
MODEL_DIR_UNUSED static float model_dir_uniform(uint64_t counter)
{
    uint64_t z = (counter + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (float)(z >> 40) / 8388608.0F - 1.0F;
}

MODEL_DIR_UNUSED static size_t model_dir_elements(const struct model_dir_tensor *t)
{
    return (size_t)(t->rows > 0 ? t->rows : 1) * (size_t)t->columns;
}

MODEL_DIR_UNUSED static void model_dir_write_data(FILE *f, const struct model_dir_tensor *t,
                                                  enum med_dtype dtype, uint64_t counter)
{
    size_t count = model_dir_elements(t);
    for (size_t i = 0; i < count; i++) {
        float value = t->mean + t->scale * model_dir_uniform(counter + i);
        uint16_t half =
            dtype == MED_DTYPE_BF16 ? med_bf16_from_float(value) : med_f16_from_float(value);
        if (dtype == MED_DTYPE_F32) {
            (void)fwrite(&value, sizeof value, 1, f); // errors are seen at fclose
        } else {
            (void)fwrite(&half, sizeof half, 1, f);
        }
    }
}

MODEL_DIR_UNUSED static void model_dir_write_safetensors(const struct model_dir_spec *s,
                                                         const char *path)
{
    static const char *const names[MED_DTYPE_COUNT] = {"F32", "BF16", "F16"};
    struct model_dir_list list = {.tensors = calloc(MODEL_DIR_TENSORS_MAX, sizeof *list.tensors)};
    size_t room = (size_t)MODEL_DIR_TENSORS_MAX * 256;
    char *header = malloc(room);
    FILE *f = fopen(path, "wb");
    if (!list.tensors || !header || !f) {
        model_dir_fail("write", path);
        return;
    }
    model_dir_list_tensors(s, &list);
    size_t used = (size_t)snprintf(header, room, "{\"__metadata__\":{\"format\":\"pt\"}");
    size_t offset = 0;
    for (size_t i = 0; i < list.count; i++) {
        const struct model_dir_tensor *t = &list.tensors[i];
        size_t bytes = model_dir_elements(t) * med_dtype_bytes(s->dtype);
        char rows[32] = "";
        if (t->rows > 0)
            (void)snprintf(rows, sizeof rows, "%lld,", (long long)t->rows);
        used += (size_t)snprintf(header + used, room - used,
                                 ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%s%lld],"
                                 "\"data_offsets\":[%zu,%zu]}",
                                 t->name, names[s->dtype], rows, (long long)t->columns, offset,
                                 offset + bytes);
        offset += bytes;
    }
    header[used++] = '}';
    while (used % 8 != 0)
        header[used++] = ' ';
    for (unsigned shift = 0; shift < 64; shift += 8)
        (void)fputc((int)((uint64_t)used >> shift & 0xff), f);
    (void)fwrite(header, 1, used, f);
    for (size_t i = 0; i < list.count; i++)
        model_dir_write_data(f, &list.tensors[i], s->dtype, s->seed << 48 ^ (uint64_t)i << 32);
    if (fclose(f) != 0)
        model_dir_fail("write", path);
    free(header);
    free(list.tensors);
}

MODEL_DIR_UNUSED static void model_dir_write_text(const char *dir, const char *name,
                                                  const char *text)
{
    char path[MODEL_DIR_PATH_MAX + 64];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (!f || fputs(text, f) < 0 || fclose(f) != 0)
        model_dir_fail("write", path);
}

MODEL_DIR_UNUSED static void model_dir_write_config(const struct model_dir_spec *s, const char *dir)
{
    char text[4096];
    char window[64] = "null";
    if (s->window > 0)
        (void)snprintf(window, sizeof window, "%lld", (long long)s->window);
    int length = snprintf(
        text, sizeof text,
        "{\"architectures\": [\"%s\"], \"num_hidden_layers\": %lld, \"hidden_size\": %lld,\n"
        " \"num_attention_heads\": %lld, \"num_key_value_heads\": %lld, \"head_dim\": %lld,\n"
        " \"intermediate_size\": %lld, \"vocab_size\": %lld, \"max_position_embeddings\": %lld,\n"
        " \"attention_bias\": %s, \"mlp_bias\": %s, \"tie_word_embeddings\": %s,\n"
        " \"sliding_window\": %s, \"use_sliding_window\": %s, \"max_window_layers\": %lld,\n"
        " \"torch_dtype\": \"%s\", \"eos_token_id\": 0%s%s}\n",
        med_architecture_name(s->architecture), (long long)s->layers, (long long)s->hidden,
        (long long)s->heads, (long long)s->kv_heads, (long long)s->head_dim,
        (long long)s->intermediate, (long long)s->vocab, (long long)s->positions_max,
        s->attention_bias ? "true" : "false", s->mlp_bias ? "true" : "false",
        s->tied ? "true" : "false", window, s->window > 0 ? "true" : "false",
        (long long)s->max_window_layers, med_dtype_name(s->dtype), s->config_extra ? ", " : "",
        s->config_extra ? s->config_extra : "");
    if (length < 0 || (size_t)length >= sizeof text)
        model_dir_fail("hold the config of", dir);
    model_dir_write_text(dir, "config.json", text);
}

MODEL_DIR_UNUSED static void model_dir_make(const struct model_dir_spec *spec,
                                            char path[MODEL_DIR_PATH_MAX])
{
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(path, MODEL_DIR_PATH_MAX, "%s/medley-model-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(path))
        model_dir_fail("make", path);
    model_dir_write_config(spec, path);
    if (spec->generation)
        model_dir_write_text(path, "generation_config.json", spec->generation);
    char file[MODEL_DIR_PATH_MAX + 64];
    (void)snprintf(file, sizeof file, "%s/model.safetensors", path);
    model_dir_write_safetensors(spec, file);
}

/* Removes the files that model_dir_make and model_dir_write_text ("extra" files of a test: name them
 * here first) wrote, and the directory. */
MODEL_DIR_UNUSED static void model_dir_remove(const char *dir)
{
    static const char *const names[] = {
        "config.json",         "generation_config.json", "model.safetensors",
        "tokenizer.json",      "tokenizer_config.json",  "model.safetensors.index.json",
        "chat_template.jinja", "a.safetensors",          "b.safetensors",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[MODEL_DIR_PATH_MAX + 64];
        (void)snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        (void)unlink(path); // most are not there
    }
    if (rmdir(dir) != 0)
        model_dir_fail("remove", dir);
}

#endif
