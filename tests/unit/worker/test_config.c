/* SPDX-License-Identifier: Apache-2.0 */
/* config.json and generation_config.json: what publishers write, the defaults of transformers, and
 * what each refusal says. */
#include "worker/model/config.h"

#include "base/alloc.h"
#include "tests/check.h"

static int parse(const char *text, struct med_model_config *c, struct med_err *err)
{
    *err = (struct med_err){0};
    return med_model_config_parse(text, strlen(text), "config.json", c, err);
}

static void require(const char *text, struct med_model_config *c)
{
    struct med_err err;
    int rc = parse(text, c, &err);
    if (rc < 0)
        (void)fprintf(stderr, "%s\n", err.text);
    REQUIRE(rc == 0);
}

/* The text with ' for ", so that tables can be read. */
static const char *quoted(const char *text)
{
    static char out[4096];
    size_t i = 0;
    for (; text[i] && i < sizeof out - 1; i++)
        out[i] = (char)(text[i] == '\'' ? '"' : text[i]);
    out[i] = '\0';
    return out;
}

static void test_defaults_when_only_the_name_then_transformers_class_holds(void)
{
    static const struct {
        const char *name;
        int64_t vocab, intermediate, kv_heads, head_dim, positions_max, window;
        bool qkv_bias, qk_norm;
    } rows[MED_ARCH_COUNT] = {
        {"LlamaForCausalLM", 32000, 11008, 32, 128, 2048, 0, false, false},
        {"MistralForCausalLM", 32000, 14336, 8, 128, 131072, 4096, false, false},
        {"Qwen2ForCausalLM", 151936, 22016, 32, 128, 32768, 0, true, false},
        {"Qwen3ForCausalLM", 151936, 22016, 32, 128, 32768, 0, false, true},
    };
    for (int i = 0; i < MED_ARCH_COUNT; i++) {
        char text[128];
        (void)snprintf(text, sizeof text, "{\"architectures\": [\"%s\"]}", rows[i].name);
        struct med_model_config c;
        require(text, &c);
        CHECK_INT(c.architecture, i);
        CHECK_STR(med_architecture_name(c.architecture), rows[i].name);
        CHECK_INT(c.vocab, rows[i].vocab);
        CHECK_INT(c.hidden, 4096);
        CHECK_INT(c.layers, 32);
        CHECK_INT(c.heads, 32);
        CHECK_INT(c.intermediate, rows[i].intermediate);
        CHECK_INT(c.kv_heads, rows[i].kv_heads);
        CHECK_INT(c.head_dim, rows[i].head_dim);
        CHECK_INT(c.positions_max, rows[i].positions_max);
        CHECK_INT(c.window, rows[i].window);
        CHECK_INT(c.qkv_bias, rows[i].qkv_bias);
        CHECK_INT(c.qk_norm, rows[i].qk_norm);
        CHECK(!c.output_bias && !c.mlp_bias && !c.tied_head);
        CHECK_DOUBLE(c.norm_eps, 1e-6, 0);
        CHECK_DOUBLE(c.rope.theta, 10000, 0);
        CHECK_INT(c.rope.kind, MED_ROPE_DEFAULT);
        CHECK_INT(c.dtype, MED_DTYPE_F32);
        CHECK_UINT(c.eos_count, 0);
    }
}

static void test_sizes_when_null_or_implied_then_as_transformers(void)
{
    struct med_model_config c;
    require(quoted("{'architectures':['MistralForCausalLM'],'num_key_value_heads':null,"
                   "'head_dim':null,'num_attention_heads':16,'hidden_size':1024,"
                   "'sliding_window':null,'torch_dtype':null,'unknown':{'a':[]}}"),
            &c);
    CHECK_INT(c.kv_heads, 16);
    CHECK_INT(c.head_dim, 64);
    CHECK_INT(c.window, 0);
    CHECK_INT(c.dtype, MED_DTYPE_F32);
    require(quoted("{'model_type':'qwen3','head_dim':80,'hidden_size':1000,'dtype':'bfloat16',"
                   "'torch_dtype':'float16','tie_word_embeddings':true,'attention_bias':true,"
                   "'mlp_bias':true,'num_attention_heads':8,'num_key_value_heads':2,"
                   "'num_hidden_layers':3}"),
            &c);
    CHECK_INT(c.architecture, MED_ARCH_QWEN3);
    CHECK_INT(c.head_dim, 80);
    CHECK_INT(c.dtype, MED_DTYPE_BF16);
    CHECK(c.tied_head && c.qkv_bias && c.output_bias && !c.mlp_bias);
    CHECK_INT(med_model_kv_bytes_per_token(&c, MED_DTYPE_BF16), 2 * 3 * 2 * 80 * 2);
    require(quoted("{'architectures':['LlamaForCausalLM'],'attention_bias':true,'mlp_bias':true,"
                   "'hidden_act':'silu','sliding_window':77}"),
            &c);
    CHECK(c.qkv_bias && c.output_bias && c.mlp_bias);
    CHECK_INT(c.window, 0); /* transformers' Llama has no window */
    require(quoted("{'architectures':['Qwen2ForCausalLM'],'attention_bias':false}"), &c);
    CHECK(c.qkv_bias && !c.output_bias);
}

static void test_windows_when_each_key_then_layers_follow(void)
{
    static const struct {
        const char *more;
        int64_t window;
        unsigned layers; /* bit per layer, of four */
    } rows[] = {
        {"'architectures':['MistralForCausalLM'],'sliding_window':9", 9, 0xf},
        {"'architectures':['MistralForCausalLM'],'sliding_window':9,'layer_types':"
         "['sliding_attention','sliding_attention','sliding_attention','sliding_attention']",
         9, 0xf},
        {"'architectures':['Qwen2ForCausalLM'],'sliding_window':9", 0, 0},
        {"'architectures':['Qwen2ForCausalLM'],'sliding_window':9,'use_sliding_window':false,"
         "'max_window_layers':0",
         0, 0},
        {"'architectures':['Qwen2ForCausalLM'],'sliding_window':9,'use_sliding_window':true", 0, 0},
        {"'architectures':['Qwen2ForCausalLM'],'sliding_window':9,'use_sliding_window':true,"
         "'max_window_layers':1",
         9, 0xe},
        {"'architectures':['Qwen3ForCausalLM'],'sliding_window':9,'use_sliding_window':true,"
         "'max_window_layers':0",
         9, 0xf},
        {"'architectures':['Qwen3ForCausalLM'],'use_sliding_window':true,'max_window_layers':3",
         4096, 0x8},
        {"'architectures':['Qwen3ForCausalLM'],'use_sliding_window':true,'sliding_window':null,"
         "'max_window_layers':3",
         0, 0},
        {"'architectures':['Qwen3ForCausalLM'],'use_sliding_window':true,'sliding_window':5,"
         "'max_window_layers':0,'layer_types':['full_attention','sliding_attention',"
         "'full_attention','full_attention']",
         5, 0x2},
        {"'architectures':['Qwen3ForCausalLM'],'layer_types':['full_attention','full_attention',"
         "'full_attention','full_attention']",
         0, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[1024];
        (void)snprintf(text, sizeof text, "{'num_hidden_layers':4,%s}", rows[i].more);
        struct med_model_config c;
        require(quoted(text), &c);
        CHECK_INT(c.window, rows[i].window);
        for (int64_t layer = 0; layer < 4; layer++)
            CHECK_INT(med_model_layer_has_window(&c, layer), rows[i].layers >> layer & 1);
    }
}

static void test_rope_when_each_generation_of_keys_then_the_same(void)
{
    static const struct {
        const char *more;
        enum med_rope_kind kind;
        double theta, factor;
        int64_t original;
    } rows[] = {
        {"'rope_theta':5e5", MED_ROPE_DEFAULT, 5e5, 1, 0},
        {"'rope_theta':5e5,'rope_scaling':null", MED_ROPE_DEFAULT, 5e5, 1, 0},
        {"'rope_theta':null,'rope_scaling':{}", MED_ROPE_DEFAULT, 1e4, 1, 0},
        {"'rope_scaling':{'type':'linear','factor':2}", MED_ROPE_LINEAR, 1e4, 2, 0},
        {"'rope_theta':3e4,'rope_scaling':{'rope_type':'linear','type':'x','factor':2.5}",
         MED_ROPE_LINEAR, 3e4, 2.5, 0},
        {"'rope_theta':3e4,'rope_parameters':{'rope_type':'default','rope_theta':7e4}",
         MED_ROPE_DEFAULT, 7e4, 1, 0},
        {"'rope_theta':3e4,'rope_parameters':{'rope_type':'linear','factor':3}", MED_ROPE_LINEAR,
         3e4, 3, 0},
        {"'rope_scaling':{'rope_type':'linear','factor':3},'rope_parameters':{'rope_type':'x'}",
         MED_ROPE_LINEAR, 1e4, 3, 0},
        {"'partial_rotary_factor':1.0,'rope_scaling':{'rope_type':'llama3','factor':8,"
         "'low_freq_factor':1,'high_freq_factor':4,'original_max_position_embeddings':8192}",
         MED_ROPE_LLAMA3, 1e4, 8, 8192},
        {"'max_position_embeddings':777,'rope_scaling':{'rope_type':'llama3','factor':8,"
         "'low_freq_factor':1,'high_freq_factor':4}",
         MED_ROPE_LLAMA3, 1e4, 8, 777},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[1024];
        (void)snprintf(text, sizeof text, "{'architectures':['LlamaForCausalLM'],%s}",
                       rows[i].more);
        struct med_model_config c;
        require(quoted(text), &c);
        CHECK_INT(c.rope.kind, rows[i].kind);
        CHECK_DOUBLE(c.rope.theta, rows[i].theta, 0);
        CHECK_DOUBLE(c.rope.factor, rows[i].factor, 0);
        CHECK_INT(c.rope.original_positions_max, rows[i].original);
    }
}

/* The definitions of config.h in double; llama3's as Llama 3.1's own code has them. */
static double frequency(const struct med_model_config *c, int64_t i)
{
    double f = pow(c->rope.theta, -2.0 * (double)i / (double)c->head_dim);
    if (c->rope.kind == MED_ROPE_LINEAR)
        return f / c->rope.factor;
    if (c->rope.kind == MED_ROPE_DEFAULT)
        return f;
    double turns = (double)c->rope.original_positions_max * f / (2 * acos(-1)); /* in the context */
    if (turns < c->rope.low_freq_factor)
        return f / c->rope.factor;
    if (turns > c->rope.high_freq_factor)
        return f;
    double s =
        (turns - c->rope.low_freq_factor) / (c->rope.high_freq_factor - c->rope.low_freq_factor);
    return (1 - s) * f / c->rope.factor + s * f;
}

static void test_frequencies_when_each_kind_then_close_to_double(void)
{
    for (int kind = 0; kind < 3; kind++) {
        struct med_model_config c = {.head_dim = 128,
                                     .rope = {.kind = (enum med_rope_kind)kind,
                                              .theta = 500000,
                                              .factor = 8,
                                              .low_freq_factor = 1,
                                              .high_freq_factor = 4,
                                              .original_positions_max = 8192}};
        float out[64];
        med_model_rope_frequencies(&c, out);
        for (int64_t i = 0; i < 64; i++) {
            double want = frequency(&c, i);
            CHECK_DOUBLE((double)out[i], want, 1e-6 * want);
        }
    }
}

static void test_refusals_when_not_supported_then_named(void)
{
    static const struct {
        const char *text, *part;
    } rows[] = {
        {"[]", "config.json: $: expected an object"},
        {"{}", "config.json: $.architectures: is missing, expected LlamaForCausalLM, "},
        {"{'architectures':['GemmaForCausalLM']}",
         "$.architectures: found \"GemmaForCausalLM\", expected LlamaForCausalLM, Mistral"},
        {"{'architectures':[]}", "$.architectures: found 0 names, expected one"},
        {"{'architectures':['LlamaForCausalLM','X']}", "found 2 names, expected one"},
        {"{'architectures':[1]}", "$.architectures[0]: found 1, expected a string"},
        {"{'model_type':'gpt2'}", "$.architectures: is missing"},
        {"{'architectures':['LlamaForCausalLM'],'model_type':'mistral'}",
         "$.model_type: found \"mistral\", expected \"llama\", since architectures says Llama"},
        {"{L,'quantization_config':{'quant_method':'awq'}}",
         "$.quantization_config: the weights are quantized (awq), expected weights of float32"},
        {"{L,'quantization_config':{}}", "quantized (no quant_method is named)"},
        {"{L,'compression_config':{'quant_method':'x'}}", "$.compression_config: the weights"},
        {"{L,'hidden_act':'gelu'}", "$.hidden_act: found \"gelu\", expected \"silu\""},
        {"{L,'rope_scaling':{'type':'yarn','factor':4}}",
         "$.rope_scaling.type: found \"yarn\", expected \"default\", \"linear\" or \"llama3\""},
        {"{L,'rope_scaling':{'rope_type':'dynamic'}}", "$.rope_scaling.rope_type: found \"dynamic"},
        {"{L,'rope_parameters':{'rope_type':'longrope'}}", "found \"longrope\""},
        {"{L,'rope_scaling':{'rope_type':'linear'}}", "$.rope_scaling.factor: is missing"},
        {"{L,'rope_scaling':{'rope_type':'linear','factor':0}}",
         "factor: found 0, expected a numb"},
        {"{L,'rope_scaling':{'rope_type':'linear','factor':1e39}}", "factor: found 1e+39"},
        {"{L,'rope_scaling':'linear'}", "$.rope_scaling: found \"linear\", expected an object"},
        {"{L,'rope_scaling':{'rope_type':'llama3','factor':8,'low_freq_factor':4,"
         "'high_freq_factor':4}}",
         "$.rope_scaling.high_freq_factor: found 4, expected more than low_freq_factor"},
        {"{L,'rope_scaling':{'rope_type':'llama3','factor':8,'high_freq_factor':4}}",
         "$.rope_scaling.low_freq_factor: is missing"},
        {"{L,'rope_parameters':{'full_attention':{}}}",
         "$.rope_parameters.full_attention: a rope of its own for some layers"},
        {"{L,'partial_rotary_factor':0.5}", "$.partial_rotary_factor: found 0.5, expected 1"},
        {"{L,'rope_parameters':{'partial_rotary_factor':0.25}}",
         "$.rope_parameters.partial_rotary_factor: found 0.25"},
        {"{L,'rope_theta':-1}", "$.rope_theta: found -1, expected a number from 1 to 1e+30"},
        {"{L,'rms_norm_eps':0}", "$.rms_norm_eps: found 0, expected a number > 0 and <= 1"},
        {"{L,'num_hidden_layers':0}", "$.num_hidden_layers: found 0, expected a whole number from "
                                      "1 to 1024"},
        {"{L,'num_hidden_layers':1025}", "found 1025, expected a whole number from 1 to 1024"},
        {"{L,'hidden_size':1048577}", "$.hidden_size: found 1048577"},
        {"{L,'intermediate_size':1.5}", "$.intermediate_size: found 1.5, expected a whole"},
        {"{L,'vocab_size':'32000'}", "$.vocab_size: found \"32000\", expected a whole number"},
        {"{L,'vocab_size':4194305}", "$.vocab_size: found 4194305"},
        {"{L,'max_position_embeddings':16777217}", "$.max_position_embeddings: found 16777217"},
        {"{L,'num_attention_heads':32,'num_key_value_heads':5}",
         "$.num_key_value_heads: found 5, expected a divisor of num_attention_heads, which is 32"},
        {"{L,'num_key_value_heads':0}", "$.num_key_value_heads: found 0"},
        {"{L,'hidden_size':100,'num_attention_heads':3}",
         "$.hidden_size: found 100, expected a multiple of num_attention_heads, which is 3"},
        {"{L,'head_dim':33}", "$.head_dim: is 33, expected an even number"},
        {"{L,'num_attention_heads':1048576,'head_dim':2}",
         "$.num_attention_heads: 1048576 heads of 2 are 2097152 wide, expected at most 1048576"},
        {"{L,'torch_dtype':'float64'}", "$.torch_dtype: found \"float64\", expected \"float32\""},
        {"{L,'dtype':'BF16'}", "$.dtype: found \"BF16\""},
        {"{L,'tie_word_embeddings':1}", "$.tie_word_embeddings: found 1, expected true or false"},
        {"{L,'attention_bias':'yes'}", "$.attention_bias: found \"yes\""},
        {"{L,'eos_token_id':32000}", "$.eos_token_id: found 32000, expected a whole number from 0 "
                                     "to 31999"},
        {"{L,'eos_token_id':[1,-1]}", "$.eos_token_id[1]: found -1"},
        {"{L,'eos_token_id':[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}",
         "$.eos_token_id: found 17 ids, expected at most 16"},
        {"{'architectures':['MistralForCausalLM'],'sliding_window':0}",
         "$.sliding_window: found 0, expected a whole number from 1"},
        {"{'architectures':['MistralForCausalLM'],'num_hidden_layers':1,'sliding_window':8,"
         "'layer_types':['full_attention']}",
         "$.layer_types: layer 0 differs from sliding_window"},
        {"{'architectures':['Qwen3ForCausalLM'],'num_hidden_layers':2,"
         "'layer_types':['full_attention']}",
         "$.layer_types: found 1 names, expected 2, which is num_hidden_layers"},
        {"{'architectures':['Qwen3ForCausalLM'],'num_hidden_layers':1,"
         "'layer_types':['linear_attention']}",
         "$.layer_types[0]: found \"linear_attention\", expected \"full_attention\" or"},
        {"{'architectures':['Qwen3ForCausalLM'],'num_hidden_layers':1,"
         "'layer_types':['sliding_attention']}",
         "$.layer_types: names \"sliding_attention\", expected use_sliding_window true"},
        {"{L,'vocab_size':1,'vocab_size':2}", "this key stands twice"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[1024];
        const char *rest = rows[i].text;
        bool short_form = strncmp(rest, "{L", 2) == 0;
        (void)snprintf(text, sizeof text, "%s%s",
                       short_form ? "{'architectures':['LlamaForCausalLM']" : "",
                       rest + (short_form ? 2 : 0));
        struct med_model_config c;
        struct med_err err;
        CHECK_INT(parse(quoted(text), &c, &err), MED_E_FORMAT);
        CHECK_CONTAINS(err.text, rows[i].part);
        CHECK_CONTAINS(err.text, "config.json: $");
    }
}

static struct med_model_config with_eos(uint32_t id)
{
    return (struct med_model_config){.vocab = 1000, .eos_ids = {id}, .eos_count = 1};
}

static void test_generation_when_keys_are_there_or_not_then_values(void)
{
    static const struct {
        const char *text;
        double temperature, top_p, penalty, min_p;
        uint32_t top_k;
        size_t eos_count;
        uint32_t eos_last;
    } rows[] = {
        {"{}", 1, 1, 1, 0, 0, 1, 7},
        {"{'eos_token_id':null,'temperature':null,'top_k':null}", 1, 1, 1, 0, 0, 1, 7},
        {"{'eos_token_id':3,'do_sample':false}", 1, 1, 1, 0, 0, 1, 3},
        {"{'eos_token_id':[3,999],'temperature':0.6,'top_p':0.95,'top_k':20,'min_p':0.05,"
         "'repetition_penalty':1.05,'max_length':20,'transformers_version':'4'}",
         0.6, 0.95, 1.05, 0.05, 20, 2, 999},
        {"{'top_k':-1,'temperature':0}", 0, 1, 1, 0, 0, 1, 7},
        {"{'top_k':0,'eos_token_id':[]}", 1, 1, 1, 0, 0, 0, 0},
    };
    const struct med_model_config model = with_eos(7);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const char *text = quoted(rows[i].text);
        struct med_generation_config g;
        struct med_err err;
        REQUIRE(med_generation_config_parse(text, strlen(text), "g", &model, &g, &err) == 0);
        CHECK_DOUBLE((double)g.temperature, rows[i].temperature, 1e-7);
        CHECK_DOUBLE((double)g.top_p, rows[i].top_p, 1e-7);
        CHECK_DOUBLE((double)g.repetition_penalty, rows[i].penalty, 1e-7);
        CHECK_DOUBLE((double)g.min_p, rows[i].min_p, 1e-7);
        CHECK_UINT(g.top_k, rows[i].top_k);
        CHECK_UINT(g.eos_count, rows[i].eos_count);
        if (g.eos_count > 0)
            CHECK_UINT(g.eos_ids[g.eos_count - 1], rows[i].eos_last);
    }
}

static void test_generation_when_out_of_range_then_named(void)
{
    static const struct {
        const char *text, *part;
    } rows[] = {
        {"3", "g: $: expected an object"},
        {"{'temperature':2.5}", "g: $.temperature: found 2.5, expected a number from 0 to 2"},
        {"{'temperature':'hot'}", "$.temperature: found \"hot\""},
        {"{'top_p':0}", "$.top_p: found 0, expected a number > 0 and <= 1"},
        {"{'min_p':1.1}", "$.min_p: found 1.1"},
        {"{'top_k':-2}", "$.top_k: found -2"},
        {"{'repetition_penalty':0}", "$.repetition_penalty: found 0"},
        {"{'eos_token_id':1000}", "$.eos_token_id: found 1000, expected a whole number from 0 to"},
        {"{'eos_token_id':'</s>'}", "$.eos_token_id: found \"</s>\""},
    };
    const struct med_model_config model = with_eos(7);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const char *text = quoted(rows[i].text);
        struct med_generation_config g;
        struct med_err err = {0};
        CHECK_INT(med_generation_config_parse(text, strlen(text), "g", &model, &g, &err),
                  MED_E_FORMAT);
        CHECK_CONTAINS(err.text, rows[i].part);
    }
}

static void test_read_when_files_are_missing_then_refused_or_defaults(void)
{
    struct med_model_config c = with_eos(7);
    struct med_generation_config g;
    struct med_err err = {0};
    CHECK_INT(med_model_config_read("/nonexistent//", &c, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "/nonexistent/config.json: cannot open");
    CHECK_INT(med_generation_config_read("/nonexistent", &c, &g, &err), 0);
    CHECK_UINT(g.eos_count, 1);
    CHECK_UINT(g.eos_ids[0], 7);
}

int main(void)
{
    RUN(test_defaults_when_only_the_name_then_transformers_class_holds);
    RUN(test_sizes_when_null_or_implied_then_as_transformers);
    RUN(test_windows_when_each_key_then_layers_follow);
    RUN(test_rope_when_each_generation_of_keys_then_the_same);
    RUN(test_frequencies_when_each_kind_then_close_to_double);
    RUN(test_refusals_when_not_supported_then_named);
    RUN(test_generation_when_keys_are_there_or_not_then_values);
    RUN(test_generation_when_out_of_range_then_named);
    RUN(test_read_when_files_are_missing_then_refused_or_defaults);
    return check_finish();
}
