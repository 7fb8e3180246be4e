/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.json, as transformers reads it.
 *
 * One table per architecture holds the defaults of transformers' configuration class and which flags
 * its layers follow; the rest of the file is reading.  A key that is absent has the class's default,
 * a key that is null has what null means there (mostly: implied by other keys), so the two are kept
 * apart.  Every number is bounded before it is used in a product, and the bounds are such that no
 * product of a model's sizes overflows 63 bits (asserted below).
 * thread: any; no state.
 */
#include "worker/model/config.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/buf.h"
#include "base/json.h"
#include "worker/model/internal.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum {
    NAME_MAX_BYTES = 128,
    /* transformers' defaults that all four share */
    DEFAULT_HIDDEN = 4096,
    DEFAULT_LAYERS = 32,
    DEFAULT_HEADS = 32,
    DEFAULT_WINDOW = 4096,
    DEFAULT_MAX_WINDOW_LAYERS = 28
};

static const double default_norm_eps = 1e-6;

static_assert(MED_LIMIT_MODEL_WIDTH <= 1 << 20 && MED_LIMIT_MODEL_LAYERS <= 1 << 10 &&
                  MED_LIMIT_VOCAB <= 1 << 22,
              "16 matrices of width x width x 4 bytes in each layer stay under 2^63");

/* Which keys a layer follows. */
enum bias_rule {
    BIAS_NEVER,      /* no key changes it */
    BIAS_QKV_ALWAYS, /* q, k, v have one, the output has none, whatever attention_bias says */
    BIAS_BY_KEY      /* attention_bias: all four */
};
enum window_rule {
    WINDOW_NEVER,
    WINDOW_ALL_LAYERS,  /* sliding_window */
    WINDOW_SOME_LAYERS, /* use_sliding_window, sliding_window, max_window_layers, layer_types */
};

static const struct architecture {
    const char *name, *model_type;
    int64_t vocab, intermediate, kv_heads, head_dim,
        positions_max; /* kv_heads, head_dim 0: implied */
    enum bias_rule bias;
    enum window_rule window;
    bool has_mlp_bias, qk_norm;
} architectures[MED_ARCH_COUNT] = {
    [MED_ARCH_LLAMA] = {.name = "LlamaForCausalLM",
                        .model_type = "llama",
                        .vocab = 32000,
                        .intermediate = 11008,
                        .positions_max = 2048,
                        .bias = BIAS_BY_KEY,
                        .window = WINDOW_NEVER,
                        .has_mlp_bias = true},
    [MED_ARCH_MISTRAL] = {.name = "MistralForCausalLM",
                          .model_type = "mistral",
                          .vocab = 32000,
                          .intermediate = 14336,
                          .kv_heads = 8,
                          .positions_max = 131072,
                          .bias = BIAS_NEVER,
                          .window = WINDOW_ALL_LAYERS},
    [MED_ARCH_QWEN2] = {.name = "Qwen2ForCausalLM",
                        .model_type = "qwen2",
                        .vocab = 151936,
                        .intermediate = 22016,
                        .kv_heads = 32,
                        .positions_max = 32768,
                        .bias = BIAS_QKV_ALWAYS,
                        .window = WINDOW_SOME_LAYERS},
    [MED_ARCH_QWEN3] = {.name = "Qwen3ForCausalLM",
                        .model_type = "qwen3",
                        .vocab = 151936,
                        .intermediate = 22016,
                        .kv_heads = 32,
                        .head_dim = 128,
                        .positions_max = 32768,
                        .bias = BIAS_BY_KEY,
                        .window = WINDOW_SOME_LAYERS,
                        .qk_norm = true},
};

static const char supported[] =
    "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM or Qwen3ForCausalLM";

const char *med_architecture_name(enum med_architecture architecture)
{
    MED_ASSERT((unsigned)architecture < MED_ARCH_COUNT);
    return architectures[architecture].name;
}

bool med_model_layer_has_window(const struct med_model_config *config, int64_t layer)
{
    MED_ASSERT(layer >= 0 && layer < config->layers);
    return config->window > 0 && (config->window_layers[layer / 64] >> (layer % 64) & 1) != 0;
}

int64_t med_model_kv_bytes_per_token(const struct med_model_config *config, enum med_dtype dtype)
{
    return 2 * config->layers * config->kv_heads * config->head_dim *
           (int64_t)med_dtype_bytes(dtype);
}

/* ---- getters with a default ---- */

/* Absent or null: the value stays as it is. */
static int read_integer(const struct med_json_at *root, const char *key, int64_t min, int64_t max,
                        int64_t *value, struct med_err *err)
{
    return med_json_has(root, key) ? med_json_integer(root, key, min, max, value, err) : 0;
}

static int read_bool(const struct med_json_at *root, const char *key, bool *value,
                     struct med_err *err)
{
    return med_json_has(root, key) ? med_json_bool(root, key, value, err) : 0;
}

/* The key stands in the file, perhaps with null. */
static bool is_present(const struct med_json_at *root, const char *key)
{
    struct med_json_at item = {0};
    size_t index;
    const char *name;
    while (med_json_next(root, &index, &item, &name)) {
        if (strcmp(name, key) == 0)
            return true;
    }
    return false;
}

/* ---- the parts of the file ---- */

static int find_architecture(const struct med_json_at *root, struct med_model_config *c,
                             struct med_err *err)
{
    const char *name = NULL;
    const char *type = NULL;
    int rc = 0;
    if (med_json_has(root, "model_type"))
        rc = med_json_string(root, "model_type", NAME_MAX_BYTES, &type, err);
    if (rc == 0 && med_json_has(root, "architectures")) {
        struct med_json_at list;
        rc = med_json_array(root, "architectures", &list, err);
        if (rc == 0 && med_json_count(&list) != 1) {
            return med_json_fail(root, "architectures", err, "found %zu names, expected one: %s",
                                 med_json_count(&list), supported);
        }
        if (rc == 0) {
            struct med_json_at item = med_json_index(&list, 0);
            rc = med_json_string_here(&item, NAME_MAX_BYTES, &name, err);
        }
    }
    if (rc < 0)
        return rc;
    int by_name = -1;
    int by_type = -1;
    for (int i = 0; i < MED_ARCH_COUNT; i++) {
        if (name && strcmp(name, architectures[i].name) == 0)
            by_name = i;
        if (type && strcmp(type, architectures[i].model_type) == 0)
            by_type = i;
    }
    if (name && by_name < 0) {
        return med_json_fail(root, "architectures", err, "found \"%s\", expected %s", name,
                             supported);
    }
    if (!name && by_type < 0) {
        return med_json_fail(root, "architectures", err, "is missing, expected %s", supported);
    }
    if (name && by_type >= 0 && by_type != by_name) {
        return med_json_fail(root, "model_type", err,
                             "found \"%s\", expected \"%s\", since architectures says %s", type,
                             architectures[by_name].model_type, name);
    }
    c->architecture = (enum med_architecture)(name ? by_name : by_type);
    return 0;
}

/* What changes the computation in a way that there is no code for. */
static int refuse_foreign(const struct med_json_at *root, struct med_err *err)
{
    static const char *const quantized[] = {"quantization_config", "compression_config"};
    for (size_t i = 0; i < sizeof quantized / sizeof quantized[0]; i++) {
        if (!med_json_has(root, quantized[i]))
            continue;
        struct med_json_at at;
        const char *method = NULL;
        int rc = med_json_object(root, quantized[i], &at, err);
        if (rc == 0 && med_json_has(&at, "quant_method"))
            rc = med_json_string(&at, "quant_method", NAME_MAX_BYTES, &method, err);
        if (rc < 0)
            return rc;
        return med_json_fail(root, quantized[i], err,
                             "the weights are quantized (%s), expected weights of float32, "
                             "bfloat16 or float16",
                             method ? method : "no quant_method is named");
    }
    if (med_json_has(root, "hidden_act")) {
        const char *act;
        int rc = med_json_string(root, "hidden_act", NAME_MAX_BYTES, &act, err);
        if (rc < 0)
            return rc;
        if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
            return med_json_fail(root, "hidden_act", err, "found \"%s\", expected \"silu\"", act);
    }
    return 0;
}

static int read_heads(const struct med_json_at *root, const struct architecture *a,
                      struct med_model_config *c, struct med_err *err)
{
    c->heads = DEFAULT_HEADS;
    int rc = read_integer(root, "num_attention_heads", 1, MED_LIMIT_MODEL_WIDTH, &c->heads, err);
    if (rc < 0)
        return rc;
    c->kv_heads =
        a->kv_heads > 0 && !is_present(root, "num_key_value_heads") ? a->kv_heads : c->heads;
    rc = read_integer(root, "num_key_value_heads", 1, MED_LIMIT_MODEL_WIDTH, &c->kv_heads, err);
    if (rc < 0)
        return rc;
    if (c->heads % c->kv_heads != 0) {
        return med_json_fail(root, "num_key_value_heads", err,
                             "found %lld, expected a divisor of num_attention_heads, which is %lld",
                             (long long)c->kv_heads, (long long)c->heads);
    }
    c->head_dim = a->head_dim;
    rc = read_integer(root, "head_dim", 2, MED_LIMIT_MODEL_WIDTH, &c->head_dim, err);
    if (rc < 0)
        return rc;
    if (c->head_dim == 0) {
        if (c->hidden % c->heads != 0) {
            return med_json_fail(root, "hidden_size", err,
                                 "found %lld, expected a multiple of num_attention_heads, which is "
                                 "%lld, since there is no head_dim",
                                 (long long)c->hidden, (long long)c->heads);
        }
        c->head_dim = c->hidden / c->heads;
    }
    if (c->head_dim % 2 != 0) {
        return med_json_fail(root, "head_dim", err,
                             "is %lld, expected an even number, since rope turns pairs",
                             (long long)c->head_dim);
    }
    const int64_t width = c->heads * c->head_dim;
    if (width > MED_LIMIT_MODEL_WIDTH) {
        return med_json_fail(root, "num_attention_heads", err,
                             "%lld heads of %lld are %lld wide, expected at most %d",
                             (long long)c->heads, (long long)c->head_dim, (long long)width,
                             MED_LIMIT_MODEL_WIDTH);
    }
    return 0;
}

static int read_sizes(const struct med_json_at *root, const struct architecture *a,
                      struct med_model_config *c, struct med_err *err)
{
    c->layers = DEFAULT_LAYERS;
    c->hidden = DEFAULT_HIDDEN;
    c->intermediate = a->intermediate;
    c->vocab = a->vocab;
    c->positions_max = a->positions_max;
    const struct {
        const char *key;
        int64_t max;
        int64_t *value;
    } sizes[] = {
        {"num_hidden_layers", MED_LIMIT_MODEL_LAYERS, &c->layers},
        {"hidden_size", MED_LIMIT_MODEL_WIDTH, &c->hidden},
        {"intermediate_size", MED_LIMIT_MODEL_WIDTH, &c->intermediate},
        {"vocab_size", MED_LIMIT_VOCAB, &c->vocab},
        {"max_position_embeddings", MED_MODEL_POSITIONS_MAX, &c->positions_max},
    };
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof sizes / sizeof sizes[0]; i++)
        rc = read_integer(root, sizes[i].key, 1, sizes[i].max, sizes[i].value, err);
    c->norm_eps = default_norm_eps;
    if (rc == 0 && med_json_has(root, "rms_norm_eps"))
        rc = med_json_positive(root, "rms_norm_eps", 1, &c->norm_eps, err);
    return rc;
}

static int read_flags(const struct med_json_at *root, const struct architecture *a,
                      struct med_model_config *c, struct med_err *err)
{
    bool attention_bias = false;
    int rc = 0;
    if (a->bias == BIAS_BY_KEY)
        rc = read_bool(root, "attention_bias", &attention_bias, err);
    c->qkv_bias = attention_bias || a->bias == BIAS_QKV_ALWAYS;
    c->output_bias = attention_bias;
    c->qk_norm = a->qk_norm;
    if (rc == 0 && a->has_mlp_bias)
        rc = read_bool(root, "mlp_bias", &c->mlp_bias, err);
    if (rc == 0)
        rc = read_bool(root, "tie_word_embeddings", &c->tied_head, err);
    return rc;
}

/* ---- windows ---- */

static void set_window_layers(struct med_model_config *c, int64_t first)
{
    for (int64_t layer = first; layer < c->layers; layer++)
        c->window_layers[layer / 64] |= (uint64_t)1 << (layer % 64);
}

/* layer_types: sets the bits of the layers that are "sliding_attention". */
static int read_layer_types(const struct med_json_at *root, struct med_model_config *c,
                            struct med_err *err)
{
    struct med_json_at list;
    int rc = med_json_array(root, "layer_types", &list, err);
    if (rc < 0)
        return rc;
    size_t count = med_json_count(&list);
    if (count != (size_t)c->layers) {
        return med_json_fail(root, "layer_types", err,
                             "found %zu names, expected %lld, which is num_hidden_layers", count,
                             (long long)c->layers);
    }
    struct med_json_at item = {0};
    size_t index;
    while (med_json_next(&list, &index, &item, NULL)) {
        const char *name;
        rc = med_json_string_here(&item, NAME_MAX_BYTES, &name, err);
        if (rc < 0)
            return rc;
        if (strcmp(name, "sliding_attention") == 0) {
            c->window_layers[index / 64] |= (uint64_t)1 << (index % 64);
        } else if (strcmp(name, "full_attention") != 0) {
            return med_json_fail(
                &item, NULL, err,
                "found \"%s\", expected \"full_attention\" or \"sliding_attention\"", name);
        }
    }
    return 0;
}

static bool any_window_layer(const struct med_model_config *c)
{
    for (size_t i = 0; i < sizeof c->window_layers / sizeof c->window_layers[0]; i++) {
        if (c->window_layers[i])
            return true;
    }
    return false;
}

/* Mistral: sliding_window is for all layers; absent, the class's default holds; null: none. */
static int read_window_of_all(const struct med_json_at *root, struct med_model_config *c,
                              struct med_err *err)
{
    c->window = is_present(root, "sliding_window") ? 0 : DEFAULT_WINDOW;
    int rc = read_integer(root, "sliding_window", 1, MED_MODEL_POSITIONS_MAX, &c->window, err);
    if (rc == 0 && med_json_has(root, "layer_types")) {
        rc = read_layer_types(root, c, err);
        for (int64_t layer = 0; rc == 0 && layer < c->layers; layer++) {
            bool bit = (c->window_layers[layer / 64] >> (layer % 64) & 1) != 0;
            if (bit != (c->window > 0)) {
                return med_json_fail(root, "layer_types", err,
                                     "layer %lld differs from sliding_window, which in "
                                     "MistralForCausalLM is for all layers or none",
                                     (long long)layer);
            }
        }
    }
    if (rc == 0 && c->window > 0)
        set_window_layers(c, 0);
    return rc;
}

/* Qwen: only with use_sliding_window; layer_types if given, else from max_window_layers on. */
static int read_window_of_some(const struct med_json_at *root, struct med_model_config *c,
                               struct med_err *err)
{
    bool use = false;
    int64_t full_layers = DEFAULT_MAX_WINDOW_LAYERS;
    int64_t window = is_present(root, "sliding_window") ? 0 : DEFAULT_WINDOW;
    int rc = read_bool(root, "use_sliding_window", &use, err);
    if (rc == 0 && use) {
        rc = read_integer(root, "sliding_window", 1, MED_MODEL_POSITIONS_MAX, &window, err);
        c->window = window;
    }
    if (rc == 0)
        rc = read_integer(root, "max_window_layers", 0, INT64_MAX, &full_layers, err);
    if (rc < 0)
        return rc;
    if (med_json_has(root, "layer_types")) {
        rc = read_layer_types(root, c, err);
        if (rc == 0 && any_window_layer(c) && c->window == 0) {
            return med_json_fail(root, "layer_types", err,
                                 "names \"sliding_attention\", expected use_sliding_window true "
                                 "and a sliding_window with it");
        }
    } else if (c->window > 0) {
        set_window_layers(c, full_layers);
    }
    if (rc == 0 && !any_window_layer(c))
        c->window = 0;
    return rc;
}

/* ---- the rest ---- */

static int read_dtype(const struct med_json_at *root, struct med_model_config *c,
                      struct med_err *err)
{
    c->dtype = MED_DTYPE_F32;
    const char *key = med_json_has(root, "dtype") ? "dtype" : "torch_dtype";
    if (!med_json_has(root, key))
        return 0;
    const char *name;
    int rc = med_json_string(root, key, NAME_MAX_BYTES, &name, err);
    if (rc < 0)
        return rc;
    int found = med_dtype_find(name);
    if (found < 0 || strcmp(name, med_dtype_name((enum med_dtype)found)) != 0) {
        return med_json_fail(root, key, err,
                             "found \"%s\", expected \"float32\", \"bfloat16\" or \"float16\"",
                             name);
    }
    c->dtype = (enum med_dtype)found;
    return 0;
}

int med_model_eos_read(const struct med_json_at *root, int64_t vocab,
                       uint32_t ids[MED_MODEL_EOS_MAX], size_t *ret_count, struct med_err *err)
{
    if (!med_json_has(root, "eos_token_id"))
        return 0;
    int64_t id;
    struct med_json_at list;
    if (med_json_array(root, "eos_token_id", &list, NULL) < 0) {
        int rc = med_json_integer(root, "eos_token_id", 0, vocab - 1, &id, err);
        if (rc < 0)
            return rc;
        ids[0] = (uint32_t)id;
        *ret_count = 1;
        return 0;
    }
    size_t count = med_json_count(&list);
    if (count > MED_MODEL_EOS_MAX) {
        return med_json_fail(root, "eos_token_id", err, "found %zu ids, expected at most %d", count,
                             MED_MODEL_EOS_MAX);
    }
    struct med_json_at item = {0};
    size_t index;
    while (med_json_next(&list, &index, &item, NULL)) {
        int rc = med_json_integer_here(&item, 0, vocab - 1, &id, err);
        if (rc < 0)
            return rc;
        ids[index] = (uint32_t)id;
    }
    *ret_count = count;
    return 0;
}

static int read_all(const struct med_json_at *root, struct med_model_config *c, struct med_err *err)
{
    if (!med_json_is_object(root))
        return med_json_fail(root, NULL, err, "expected an object: a model's config.json");
    int rc = find_architecture(root, c, err);
    if (rc < 0)
        return rc;
    const struct architecture *a = &architectures[c->architecture];
    rc = refuse_foreign(root, err);
    if (rc == 0)
        rc = read_sizes(root, a, c, err);
    if (rc == 0)
        rc = read_heads(root, a, c, err);
    if (rc == 0)
        rc = read_flags(root, a, c, err);
    if (rc == 0)
        rc = med_model_rope_read(root, c, err);
    if (rc == 0 && a->window == WINDOW_ALL_LAYERS)
        rc = read_window_of_all(root, c, err);
    if (rc == 0 && a->window == WINDOW_SOME_LAYERS)
        rc = read_window_of_some(root, c, err);
    if (rc == 0)
        rc = read_dtype(root, c, err);
    if (rc == 0)
        rc = med_model_eos_read(root, c->vocab, c->eos_ids, &c->eos_count, err);
    return rc;
}

static int read_doc(struct med_json_doc *doc, struct med_model_config *ret_config,
                    struct med_err *err)
{
    struct med_err own;
    if (!err)
        err = &own;
    *err = (struct med_err){0};
    struct med_model_config config = {0};
    struct med_json_at root = med_json_root(doc);
    int rc = read_all(&root, &config, err);
    med_json_free(doc);
    if (rc == 0)
        *ret_config = config;
    return rc;
}

int med_model_config_parse(const char *bytes, size_t count, const char *name,
                           struct med_model_config *ret_config, struct med_err *err)
{
    struct med_json_doc doc;
    int rc = med_json_parse(bytes, count, name, &doc, err);
    return rc < 0 ? rc : read_doc(&doc, ret_config, err);
}

char *med_model_path(const char *dir, const char *name)
{
    size_t dir_bytes = strlen(dir);
    while (dir_bytes > 1 && dir[dir_bytes - 1] == '/')
        dir_bytes--;
    size_t bytes = dir_bytes + strlen(name) + 2;
    char *path = med_alloc(bytes);
    if (path) {
        (void)snprintf(path, bytes, "%.*s%s%s", (int)dir_bytes, dir,
                       dir_bytes == 1 && dir[0] == '/' ? "" : "/", name);
    }
    return path;
}

int med_model_config_read(const char *dir, struct med_model_config *ret_config, struct med_err *err)
{
    char *path = med_model_path(dir, "config.json");
    if (!path)
        return med_err_set(err, MED_E_NOMEM, "%s: %s", dir, med_err_text(MED_E_NOMEM));
    struct med_json_doc doc;
    int rc = med_json_parse_file(path, &doc, err);
    med_free(path);
    return rc < 0 ? rc : read_doc(&doc, ret_config, err);
}
