/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Model directories, whole: what opens, what each refusal says, and that no allocation that fails
 * leaks or crashes.
 */
#include "worker/model/checkpoint.h"

#include "base/alloc.h"
#include "base/err.h"
#include "tests/check.h"
#include "tests/model_dir.h"

static void check_weight(const struct med_weight *w, int64_t rows, int64_t columns,
                         enum med_dtype dtype)
{
    REQUIRE(w->data);
    CHECK_INT(w->rows, rows);
    CHECK_INT(w->columns, columns);
    CHECK_INT(w->dtype, dtype);
}

static void test_open_when_every_architecture_and_dtype_then_weights_are_found(void)
{
    for (int a = 0; a < MED_ARCH_COUNT; a++) {
        for (int d = 0; d < MED_DTYPE_COUNT; d++) {
            struct model_dir_spec spec = model_dir_default();
            spec.architecture = (enum med_architecture)a;
            spec.dtype = (enum med_dtype)d;
            spec.attention_bias = spec.mlp_bias = a % 2 == 0;
            spec.tied = d == 1;
            spec.head_dim = 24;
            char dir[MODEL_DIR_PATH_MAX];
            model_dir_make(&spec, dir);
            struct med_checkpoint c;
            struct med_err err = {0};
            int rc = med_checkpoint_open(dir, &c, &err);
            if (rc < 0)
                (void)fprintf(stderr, "%s\n", err.text);
            REQUIRE(rc == 0);
            const struct med_layer_weights *l = &c.layers[1];
            check_weight(&c.embedding, 256, 64, spec.dtype);
            check_weight(&c.head, 256, 64, spec.dtype);
            CHECK((c.head.data == c.embedding.data) == spec.tied);
            check_weight(&c.norm, 1, 64, spec.dtype);
            check_weight(&l->q, 96, 64, spec.dtype);
            check_weight(&l->v, 48, 64, spec.dtype);
            check_weight(&l->output, 64, 96, spec.dtype);
            check_weight(&l->down, 64, 96, spec.dtype);
            CHECK((l->q_bias.data != NULL) == (a == MED_ARCH_LLAMA || a == MED_ARCH_QWEN2));
            CHECK((l->output_bias.data != NULL) == (a == MED_ARCH_LLAMA));
            CHECK((l->down_bias.data != NULL) == (a == MED_ARCH_LLAMA));
            CHECK((l->k_norm.data != NULL) == (a == MED_ARCH_QWEN3));
            CHECK_INT(c.weight_bytes, c.parameters * (int64_t)med_dtype_bytes((enum med_dtype)d));
            med_checkpoint_close(&c);
            model_dir_remove(dir);
        }
    }
}

/* ---- refusals ---- */

/* The model of `spec`, whose config.json is another one after the weights were written. */
static void check_refused_of(const struct model_dir_spec *spec, const char *more, int code,
                             const char *part)
{
    char dir[MODEL_DIR_PATH_MAX];
    model_dir_make(spec, dir);
    char text[1024];
    (void)snprintf(text, sizeof text,
                   "{\"architectures\": [\"LlamaForCausalLM\"], \"num_hidden_layers\": 2, "
                   "\"hidden_size\": 64, \"num_attention_heads\": 4, \"vocab_size\": 256%s}",
                   more);
    model_dir_write_text(dir, "config.json", text);
    struct med_checkpoint c;
    struct med_err err = {0};
    CHECK_INT(med_checkpoint_open(dir, &c, &err), code);
    CHECK_CONTAINS(err.text, part);
    CHECK_CONTAINS(err.text, dir);
    model_dir_remove(dir);
}

static void check_refused(const char *more, int code, const char *part)
{
    struct model_dir_spec spec = model_dir_default();
    check_refused_of(&spec, more, code, part);
}

static void test_open_when_config_and_tensors_differ_then_sentence_names_both(void)
{
    check_refused(", \"num_key_value_heads\": 2, \"intermediate_size\": 97", MED_E_FORMAT,
                  "/model.safetensors: tensor model.layers.0.mlp.gate_proj.weight: found shape "
                  "[96, 64], expected [97, 64] from config.json");
    check_refused(", \"intermediate_size\": 96", MED_E_FORMAT,
                  "tensor model.layers.0.self_attn.k_proj.weight: found shape [32, 64], expected "
                  "[64, 64]");
    check_refused(", \"num_key_value_heads\": 2, \"intermediate_size\": 96, \"mlp_bias\": true",
                  MED_E_FORMAT,
                  ": tensor model.layers.0.mlp.gate_proj.bias is missing, expected it with shape "
                  "[96] for LlamaForCausalLM");
    check_refused(", \"num_key_value_heads\": 2, \"intermediate_size\": 96, "
                  "\"eos_token_id\": 256",
                  MED_E_FORMAT, "/config.json: $.eos_token_id: found 256");
}

static void test_open_when_weights_are_of_a_larger_model_then_refused_by_name(void)
{
    static const char config[] = ", \"num_key_value_heads\": 2, \"intermediate_size\": 96";
    struct model_dir_spec spec = model_dir_default();
    spec.layers = 3;
    check_refused_of(&spec, config, MED_E_FORMAT,
                     "/model.safetensors: tensor model.layers.2.input_layernorm.weight: "
                     "config.json calls for none of that name in a LlamaForCausalLM of 2 layers");
    spec.layers = 2;
    spec.attention_bias = true;
    check_refused_of(&spec, config, MED_E_FORMAT,
                     "tensor model.layers.0.self_attn.k_proj.bias: config.json calls for none");
}

static void write_bytes(const char *dir, const char *name, const char *header, size_t data)
{
    char path[MODEL_DIR_PATH_MAX + 64];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    REQUIRE(f);
    size_t length = strlen(header);
    size_t padded = (length + 7) / 8 * 8;
    for (unsigned shift = 0; shift < 64; shift += 8)
        (void)fputc((int)((uint64_t)padded >> shift & 0xff), f);
    (void)fprintf(f, "%s%*s", header, (int)(padded - length), "");
    for (size_t i = 0; i < data; i++)
        (void)fputc(0, f);
    REQUIRE(fclose(f) == 0);
}

/* A directory with an index and two shards: "x" in a.safetensors, "y" in b.safetensors. */
static void check_index(const char *map, const char *b_header, int code, const char *part)
{
    struct model_dir_spec spec = model_dir_default();
    char dir[MODEL_DIR_PATH_MAX];
    model_dir_make(&spec, dir);
    char path[MODEL_DIR_PATH_MAX + 64];
    (void)snprintf(path, sizeof path, "%s/model.safetensors", dir);
    REQUIRE(unlink(path) == 0);
    write_bytes(dir, "a.safetensors",
                "{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4);
    if (b_header)
        write_bytes(dir, "b.safetensors", b_header, 4);
    if (map)
        model_dir_write_text(dir, "model.safetensors.index.json", map);
    struct med_checkpoint c;
    struct med_err err = {0};
    CHECK_INT(med_checkpoint_open(dir, &c, &err), code);
    CHECK_CONTAINS(err.text, part);
    CHECK_CONTAINS(err.text, dir);
    model_dir_remove(dir);
}

static void test_open_when_index_is_wrong_then_refused(void)
{
    static const char y[] = "{\"y\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    static const char x[] = "{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    static const char embed[] = "{\"model.embed_tokens.weight\":{\"dtype\":\"I32\",\"shape\":[1],"
                                "\"data_offsets\":[0,4]}}";
    static const char both[] = "{\"weight_map\":{\"x\":\"a.safetensors\",\"y\":\"b.safetensors\"}}";
    check_index(NULL, y, MED_E_INVALID,
                "expected model.safetensors or model.safetensors.index.json");
    check_index("{}", y, MED_E_FORMAT, "index.json: $.weight_map: is missing");
    check_index("{\"weight_map\":{}}", y, MED_E_FORMAT, "$.weight_map: is empty");
    check_index("{\"weight_map\":{\"x\":1}}", y, MED_E_FORMAT, "$.weight_map.x: found 1");
    check_index("{\"weight_map\":{\"x\":\"../a.safetensors\"}}", y, MED_E_FORMAT,
                "$.weight_map.x: found \"../a.safetensors\", expected the name of a file in the "
                "same folder");
    check_index("{\"weight_map\":{\"x\":\"..\"}}", y, MED_E_FORMAT, "found \"..\"");
    check_index("{\"weight_map\":{\"x\":\"/etc/passwd\"}}", y, MED_E_FORMAT,
                "found \"/etc/passwd\"");
    check_index(both, NULL, MED_E_INVALID, "b.safetensors, named in ");
    check_index(both, x, MED_E_FORMAT,
                ": tensor x stands in a.safetensors and in b.safetensors, expected it in one");
    check_index("{\"weight_map\":{\"x\":\"b.safetensors\",\"y\":\"a.safetensors\"}}", y,
                MED_E_FORMAT,
                "weight_map says that tensor x is in b.safetensors, but it is in a.safetensors");
    check_index("{\"weight_map\":{\"z\":\"a.safetensors\"}}", y, MED_E_FORMAT,
                "weight_map says that tensor z is in a.safetensors, but it is in none of the");
    check_index(both, y, MED_E_FORMAT,
                "tensor model.embed_tokens.weight is missing, expected it "
                "with shape [256, 64]");
    check_index("{\"weight_map\":{\"model.embed_tokens.weight\":\"b.safetensors\"}}", embed,
                MED_E_FORMAT,
                "/b.safetensors: tensor model.embed_tokens.weight: found dtype I32, expected F32, "
                "BF16 or F16");
}

static void test_open_when_generation_config_is_there_then_read(void)
{
    struct model_dir_spec spec = model_dir_default();
    spec.generation = "{\"eos_token_id\": [5, 6], \"top_k\": 40}";
    char dir[MODEL_DIR_PATH_MAX];
    model_dir_make(&spec, dir);
    struct med_checkpoint c;
    struct med_err err = {0};
    REQUIRE(med_checkpoint_open(dir, &c, &err) == 0);
    CHECK_UINT(c.generation.eos_count, 2);
    CHECK_UINT(c.generation.eos_ids[1], 6);
    CHECK_UINT(c.generation.top_k, 40);
    CHECK_STR(c.dir, dir);
    med_checkpoint_close(&c);
    med_checkpoint_close(&c); /* a zeroed struct */
    model_dir_remove(dir);
}

static void test_open_when_nth_allocation_fails_then_no_memory_and_no_leak(void)
{
    struct model_dir_spec spec = model_dir_default();
    spec.layers = 1;
    spec.generation = "{}";
    char dir[MODEL_DIR_PATH_MAX];
    model_dir_make(&spec, dir);
    int64_t live = med_alloc_bytes_live();
    bool done = false;
    for (uint64_t n = 1; n < 2000 && !done; n++) {
        struct med_checkpoint c;
        struct med_err err = {0};
        (void)med_alloc_fail_nth(n);
        int rc = med_checkpoint_open(dir, &c, &err);
        (void)med_alloc_fail_nth(0);
        if (rc == 0) {
            done = true;
            med_checkpoint_close(&c);
        } else {
            CHECK_INT(rc, MED_E_NOMEM);
            CHECK_CONTAINS(err.text, dir);
        }
        CHECK_INT(med_alloc_bytes_live(), live);
    }
    CHECK(done);
    model_dir_remove(dir);
}

int main(void)
{
    RUN(test_open_when_every_architecture_and_dtype_then_weights_are_found);
    RUN(test_open_when_config_and_tensors_differ_then_sentence_names_both);
    RUN(test_open_when_weights_are_of_a_larger_model_then_refused_by_name);
    RUN(test_open_when_index_is_wrong_then_refused);
    RUN(test_open_when_generation_config_is_there_then_read);
    RUN(test_open_when_nth_allocation_fails_then_no_memory_and_no_leak);
    return check_finish();
}
