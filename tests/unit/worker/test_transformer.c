/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transformer on the CPU ops: its logits against the decoder's formulas in double precision, and
 * what it promises about steps (any cut of a sequence, any company), sampling, memory and bad input.
 */
#include "worker/transformer.h"

#include "base/alloc.h"
#include "tests/model_dir.h"
#include "tests/unit/worker/cpu_reference.h"

enum {
    LENGTH = 90, /* tokens of a sequence */
    BLOCK_TOKENS = 7,
    SEQUENCES = 4,
    KV_BLOCKS = 64,
    WIDTH_MAX = 256 /* of anything in the models here */
};

/* ---- a model and a transformer of it ------------------------------------------------------- */

struct world {
    char dir[MODEL_DIR_PATH_MAX];
    struct med_checkpoint checkpoint;
    struct med_cpu *cpu;
    struct med_transformer *transformer;
    struct med_backend backend;
    uint32_t tokens[SEQUENCES][LENGTH];
    int32_t blocks[SEQUENCES][KV_BLOCKS / SEQUENCES];
};

struct setup {
    int threads;
    bool deterministic;
    enum med_dtype dtype, kv_dtype;
};

static void world_config(struct world *w, const struct setup *setup,
                         struct med_transformer_config *ret_config)
{
    *ret_config = (struct med_transformer_config){.checkpoint = &w->checkpoint,
                                                  .ops = med_cpu_ops(),
                                                  .device = w->cpu,
                                                  .dtype = setup->dtype,
                                                  .kv_dtype = setup->kv_dtype,
                                                  .block_tokens = BLOCK_TOKENS,
                                                  .kv_blocks = KV_BLOCKS,
                                                  .sequences_max = SEQUENCES,
                                                  .batched_tokens_max = 200,
                                                  .model_len_max = LENGTH};
}

/* Everything but the transformer. */
static void world_open(struct world *w, const struct model_dir_spec *spec,
                       const struct setup *setup)
{
    struct med_err err = {0};
    memset(w, 0, sizeof *w);
    model_dir_make(spec, w->dir);
    if (med_checkpoint_open(w->dir, &w->checkpoint, &err) < 0)
        (void)fprintf(stderr, "%s\n", err.text);
    REQUIRE(err.code == 0);
    struct med_cpu_config cpu = {.threads = setup->threads, .deterministic = setup->deterministic};
    REQUIRE(med_cpu_new(&cpu, &w->cpu, &err) == 0);
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 1);
    for (int s = 0; s < SEQUENCES; s++) {
        for (int i = 0; i < LENGTH; i++)
            w->tokens[s][i] = med_rng_below(&rng, (uint32_t)w->checkpoint.config.vocab);
        for (int i = 0; i < KV_BLOCKS / SEQUENCES; i++)
            w->blocks[s][i] = KV_BLOCKS - 1 - (i * SEQUENCES + s);
    }
}

static void world_init(struct world *w, const struct model_dir_spec *spec,
                       const struct setup *setup)
{
    struct med_err err = {0};
    world_open(w, spec, setup);
    struct med_transformer_config config;
    world_config(w, setup, &config);
    REQUIRE(med_transformer_new(&config, &w->transformer, &err) == 0);
    w->backend = med_transformer_backend(w->transformer);
    REQUIRE(w->backend.ops->init(w->backend.self, &err) == 0);
}

static void world_close(struct world *w)
{
    if (w->transformer)
        w->backend.ops->release(w->backend.self);
    med_cpu_free(w->cpu);
    med_checkpoint_close(&w->checkpoint);
    model_dir_remove(w->dir);
}

/* A step over parts of the world's sequences. */
struct part {
    int sequence;
    int64_t context, tokens;
};

struct batch {
    struct med_batch_item items[SEQUENCES];
    struct med_backend_sequence sequences[SEQUENCES];
    const struct med_backend_sequence *pointers[SEQUENCES];
    struct med_batch batch;
    uint32_t sampled[SEQUENCES];
    bool stop[SEQUENCES];
    struct med_backend_step step;
};

static void batch_make(struct world *w, const struct part *parts, size_t count, struct batch *b)
{
    memset(b, 0, sizeof *b);
    for (size_t i = 0; i < count; i++) {
        b->items[i] = (struct med_batch_item){.id = 100 + (uint64_t)parts[i].sequence,
                                              .tokens = parts[i].tokens,
                                              .context = parts[i].context,
                                              .samples = true,
                                              .blocks = w->blocks[parts[i].sequence],
                                              .block_count = KV_BLOCKS / SEQUENCES};
        b->sequences[i] =
            (struct med_backend_sequence){.tokens = w->tokens[parts[i].sequence],
                                          .prompt_tokens = parts[i].context + parts[i].tokens,
                                          .sampling = med_sampling_default()};
        b->sequences[i].sampling.temperature = 0;
        b->pointers[i] = &b->sequences[i];
    }
    b->batch = (struct med_batch){.items = b->items, .count = count};
    b->step = (struct med_backend_step){
        .batch = &b->batch, .sequences = b->pointers, .sampled = b->sampled, .stop = b->stop};
}

static const float *logits_of(struct world *w, const struct part *parts, size_t count)
{
    struct batch b;
    const float *logits = NULL;
    struct med_err err = {0};
    batch_make(w, parts, count, &b);
    int rc = med_transformer_logits(w->transformer, &b.step, &logits, &err);
    if (rc < 0)
        (void)fprintf(stderr, "%s\n", err.text);
    REQUIRE(rc == 0);
    return logits;
}

/* ---- the decoder in double precision ------------------------------------------------------- */

struct reference {
    const struct med_checkpoint *c;
    enum med_dtype kv_dtype; /* keys and values are rounded to it, as the cache does */
    double x[LENGTH][WIDTH_MAX], q[LENGTH][WIDTH_MAX], k[LENGTH][WIDTH_MAX], v[LENGTH][WIDTH_MAX];
    double frequencies[WIDTH_MAX];
};

static void apply(const double *x, const struct med_weight *weight, const struct med_weight *bias,
                  double *out)
{
    for (int64_t i = 0; i < weight->rows; i++)
        out[i] = ref_dot(x, weight, bias, i).value;
}

static void turn(const struct reference *f, double *x, int64_t heads, const struct med_weight *norm,
                 int64_t position)
{
    int64_t dim = f->c->config.head_dim;
    for (int64_t h = 0; h < heads; h++, x += dim) {
        if (norm->data)
            ref_norm(x, norm, f->c->config.norm_eps, x);
        for (int64_t i = 0; i < dim / 2; i++) {
            double angle = (double)position * f->frequencies[i];
            double first = x[i], second = x[i + dim / 2];
            x[i] = first * cos(angle) - second * sin(angle);
            x[i + dim / 2] = second * cos(angle) + first * sin(angle);
        }
    }
}

static void reference_attend(const struct reference *f, int64_t layer, int64_t position,
                             double *out)
{
    const struct med_model_config *m = &f->c->config;
    int64_t dim = m->head_dim, first = 0;
    if (med_model_layer_has_window(m, layer) && position >= m->window)
        first = position - m->window + 1;
    for (int64_t h = 0; h < m->heads; h++) {
        int64_t kv = h / (m->heads / m->kv_heads) * dim;
        double weights[LENGTH], total = 0;
        for (int64_t p = first; p <= position; p++) {
            double sum = 0;
            for (int64_t i = 0; i < dim; i++)
                sum += f->q[position][h * dim + i] * f->k[p][kv + i];
            total += weights[p] = exp(sum / sqrt((double)dim));
        }
        for (int64_t i = 0; i < dim; i++) {
            out[h * dim + i] = 0;
            for (int64_t p = first; p <= position; p++)
                out[h * dim + i] += weights[p] / total * f->v[p][kv + i];
        }
    }
}

static void through_cache(const struct reference *f, double *x)
{
    for (int64_t i = 0; i < f->c->config.kv_heads * f->c->config.head_dim; i++) {
        char cell[sizeof(float)];
        if (f->kv_dtype == MED_DTYPE_F32)
            continue;
        ref_set(f->kv_dtype, cell, 0, (float)x[i]);
        x[i] = ref_get(f->kv_dtype, cell, 0);
    }
}

static void reference_layer(struct reference *f, int64_t layer, int64_t length)
{
    const struct med_model_config *m = &f->c->config;
    const struct med_layer_weights *w = &f->c->layers[layer];
    double h[WIDTH_MAX] = {0}, a[WIDTH_MAX] = {0}, b[WIDTH_MAX] = {0};
    for (int64_t p = 0; p < length; p++) {
        ref_norm(f->x[p], &w->input_norm, m->norm_eps, h);
        apply(h, &w->q, &w->q_bias, f->q[p]);
        apply(h, &w->k, &w->k_bias, f->k[p]);
        apply(h, &w->v, &w->v_bias, f->v[p]);
        turn(f, f->q[p], m->heads, &w->q_norm, p);
        turn(f, f->k[p], m->kv_heads, &w->k_norm, p);
        through_cache(f, f->k[p]);
        through_cache(f, f->v[p]);
    }
    for (int64_t p = 0; p < length; p++) {
        reference_attend(f, layer, p, a);
        apply(a, &w->output, &w->output_bias, h);
        for (int64_t i = 0; i < m->hidden; i++)
            f->x[p][i] += h[i];
        ref_norm(f->x[p], &w->post_norm, m->norm_eps, h);
        apply(h, &w->gate, &w->gate_bias, a);
        apply(h, &w->up, &w->up_bias, b);
        for (int64_t i = 0; i < m->intermediate; i++)
            a[i] = a[i] / (1 + exp(-a[i])) * b[i];
        apply(a, &w->down, &w->down_bias, h);
        for (int64_t i = 0; i < m->hidden; i++)
            f->x[p][i] += h[i];
    }
}

/* Logits of the last of `length` tokens. */
static void reference_logits(const struct med_checkpoint *c, enum med_dtype kv_dtype,
                             const uint32_t *tokens, int64_t length, double *logits)
{
    struct reference *f = ref_alloc(sizeof *f);
    float frequencies[WIDTH_MAX];
    f->c = c;
    f->kv_dtype = kv_dtype;
    med_model_rope_frequencies(&c->config, frequencies);
    for (int64_t i = 0; i < c->config.head_dim / 2; i++)
        f->frequencies[i] = (double)frequencies[i];
    for (int64_t p = 0; p < length; p++)
        ref_row(c->embedding.dtype, c->embedding.data, tokens[p], c->config.hidden, f->x[p]);
    for (int64_t layer = 0; layer < c->config.layers; layer++)
        reference_layer(f, layer, length);
    double h[WIDTH_MAX] = {0};
    ref_norm(f->x[length - 1], &c->norm, c->config.norm_eps, h);
    apply(h, &c->head, NULL, logits);
    free(f);
}

/* ---- tests --------------------------------------------------------------------------------- */

static const struct model_dir_spec models[] = {
    {.architecture = MED_ARCH_LLAMA,
     .attention_bias = true,
     .mlp_bias = true,
     .kv_heads = 2,
     .head_dim = 16,
     .dtype = MED_DTYPE_BF16},
    {.architecture = MED_ARCH_MISTRAL,
     .window = 33,
     .kv_heads = 1,
     .head_dim = 24,
     .dtype = MED_DTYPE_F16},
    {.architecture = MED_ARCH_QWEN2,
     .window = 20,
     .max_window_layers = 1,
     .kv_heads = 4,
     .head_dim = 16,
     .tied = true,
     .dtype = MED_DTYPE_F32},
    {.architecture = MED_ARCH_QWEN3, .kv_heads = 2, .head_dim = 32, .dtype = MED_DTYPE_BF16},
};
enum {
    MODELS = sizeof models / sizeof *models
};

static struct model_dir_spec spec_of(size_t model)
{
    struct model_dir_spec spec = models[model];
    spec.layers = 3;
    spec.hidden = 60;
    spec.heads = 4;
    spec.intermediate = 97;
    spec.vocab = 251;
    spec.positions_max = 512;
    spec.seed = 3;
    return spec;
}

static const struct part reference_parts[] = {{0, 0, LENGTH}, {2, 0, 5}, {1, 0, 39}};
enum {
    REFERENCE_PARTS = 3
};

/* A random model is a sensitive one: 1e-6 of an activation is 1e-5 of a logit after three layers. So
 * for bf16 activations the bound is on the error of all logits together: rounding at the end of each
 * op costs some percent here, a wrong term costs all. */
static void check_logits(struct world *w, const struct setup *setup,
                         double want[REFERENCE_PARTS][WIDTH_MAX])
{
    const float *logits = logits_of(w, reference_parts, REFERENCE_PARTS);
    const struct med_model_config *m = &w->checkpoint.config;
    char text[96];
    (void)snprintf(text, sizeof text, "logits of %s, computed in %s, cache in %s",
                   med_architecture_name(m->architecture), med_dtype_name(setup->dtype),
                   med_dtype_name(setup->kv_dtype));
    struct ref_worst worst = {.what = text};
    double errors = 0, squares = 0;
    /* A value that lies between two of the cache's may be rounded to the other one. */
    double allowed = setup->kv_dtype == MED_DTYPE_F32 ? 2e-4 : 2e-2;
    for (int64_t i = 0; i < REFERENCE_PARTS; i++) {
        for (int64_t id = 0; id < m->vocab; id++) {
            double got = (double)logits[i * m->vocab + id];
            errors += (got - want[i][id]) * (got - want[i][id]);
            squares += want[i][id] * want[i][id];
            if (setup->dtype == MED_DTYPE_F32)
                ref_compare(&worst, got, want[i][id], allowed);
        }
    }
    if (setup->dtype == MED_DTYPE_F32)
        ref_report(&worst);
    double share = sqrt(errors / squares);
    (void)printf("%s: error %.3g of the logits\n", text, share);
    CHECK(share < (setup->dtype == MED_DTYPE_F32 ? 2e-3 : 0.12));
}

static void test_logits_are_the_decoders_for_every_architecture(void)
{
    static const struct setup setups[] = {
        {1, false, MED_DTYPE_F32, MED_DTYPE_F32},   {3, true, MED_DTYPE_F32, MED_DTYPE_F32},
        {1, false, MED_DTYPE_F32, MED_DTYPE_BF16},  {3, true, MED_DTYPE_BF16, MED_DTYPE_BF16},
        {3, false, MED_DTYPE_BF16, MED_DTYPE_BF16},
    };
    for (size_t model = 0; model < MODELS; model++) {
        struct model_dir_spec spec = spec_of(model);
        double want[REFERENCE_PARTS][WIDTH_MAX];
        for (size_t i = 0; i < sizeof setups / sizeof *setups; i++) {
            struct world w;
            world_init(&w, &spec, &setups[i]);
            for (int64_t p = 0; (i == 0 || i == 2) && p < REFERENCE_PARTS; p++) {
                reference_logits(&w.checkpoint, setups[i].kv_dtype,
                                 w.tokens[reference_parts[p].sequence], reference_parts[p].tokens,
                                 want[p]);
            }
            check_logits(&w, &setups[i], want);
            world_close(&w);
        }
    }
}

/* Cuts of a sequence into steps, as sizes; the last is repeated. */
static const int64_t cuts[][4] = {{LENGTH}, {1, 1, 1, 1}, {40, 7, 1, 1}, {3, 33, 20, 13}};
enum {
    CUTS = sizeof cuts / sizeof *cuts
};

/* Logits after all of sequence 0 was computed in steps of that cut, other sequences beside it if
 * `company`. */
static void logits_by_steps(struct world *w, const int64_t cut[4], bool company, float *out)
{
    int64_t others = 0;
    size_t vocab = (size_t)w->checkpoint.config.vocab;
    for (int64_t context = 0, step = 0; context < LENGTH; step++) {
        int64_t tokens = cut[step < 4 ? step : 3];
        if (tokens > LENGTH - context)
            tokens = LENGTH - context;
        struct part parts[3];
        size_t count = 0;
        int64_t more = 1 + step % 11;
        if (company && others + more <= LENGTH) {
            parts[count++] = (struct part){1, others, more};
            parts[count++] = (struct part){2, 0, 1 + step % 5};
            others += more;
        }
        parts[count++] = (struct part){0, context, tokens};
        const float *logits = logits_of(w, parts, count);
        memcpy(out, logits + (count - 1) * vocab, vocab * sizeof *out);
        context += tokens;
    }
}

static void test_deterministic_logits_have_the_same_bits_for_every_cut_and_company(void)
{
    for (size_t model = 0; model < MODELS; model++) {
        struct model_dir_spec spec = spec_of(model);
        float want[WIDTH_MAX], got[WIDTH_MAX];
        for (int variant = 0; variant < 2; variant++) {
            struct setup setup = {.threads = variant ? 3 : 1,
                                  .deterministic = true,
                                  .dtype = model % 2 ? MED_DTYPE_BF16 : MED_DTYPE_F32,
                                  .kv_dtype = (enum med_dtype)(model % MED_DTYPE_COUNT)};
            struct world w;
            world_init(&w, &spec, &setup);
            if (variant == 0)
                logits_by_steps(&w, cuts[0], false, want);
            for (size_t i = 0; i < (size_t)CUTS * 2; i++) {
                logits_by_steps(&w, cuts[i / 2], i % 2, got);
                CHECK(memcmp(want, got, (size_t)spec.vocab * sizeof *want) == 0);
            }
            world_close(&w);
        }
    }
}

/* With the BLAS the bits may differ, the numbers not. */
static void test_cuts_agree_closely_when_not_deterministic(void)
{
    for (size_t model = 0; model < MODELS; model++) {
        struct model_dir_spec spec = spec_of(model);
        struct setup setup = {.threads = 2, .dtype = MED_DTYPE_F32, .kv_dtype = MED_DTYPE_F32};
        struct world w;
        world_init(&w, &spec, &setup);
        float want[WIDTH_MAX], got[WIDTH_MAX];
        logits_by_steps(&w, cuts[0], false, want);
        struct ref_worst worst = {.what = "logits by steps"};
        for (size_t cut = 1; cut < CUTS; cut++) {
            logits_by_steps(&w, cuts[cut], true, got);
            for (int64_t id = 0; id < spec.vocab; id++)
                ref_compare(&worst, (double)got[id], (double)want[id], 2e-4);
        }
        ref_report(&worst);
        world_close(&w);
    }
}

static void test_a_step_samples_stops_and_tells_logprobs(void)
{
    struct model_dir_spec spec = spec_of(3);
    struct setup setup = {.threads = 2};
    struct world w;
    world_init(&w, &spec, &setup);
    static const struct part parts[] = {{0, 0, 20}, {1, 0, 9}, {2, 0, 3}};
    uint32_t largest[3] = {0};
    const float *logits = logits_of(&w, parts, 3);
    for (int i = 0; i < 3; i++) {
        for (int64_t id = 1; id < spec.vocab; id++) {
            if (logits[i * spec.vocab + id] > logits[i * spec.vocab + largest[i]])
                largest[i] = (uint32_t)id;
        }
    }
    struct batch b;
    batch_make(&w, parts, 3, &b);
    struct med_token_logprobs logprobs = {0};
    struct med_token_logprobs *const pointers[3] = {NULL, NULL, &logprobs};
    b.items[0].samples = false; /* the first chunk of a longer prompt */
    b.sampled[0] = 12345;
    b.sequences[1].sampling.stop_ids = &largest[1];
    b.sequences[1].sampling.stop_count = 1;
    b.sequences[2].sampling.top_logprobs = 3;
    b.step.logprobs = pointers;
    struct med_err err = {0};
    CHECK_INT(w.backend.ops->step(w.backend.self, &b.step, &err), 0);
    CHECK_UINT(b.sampled[0], 12345);
    CHECK_UINT(b.sampled[1], largest[1]);
    CHECK_UINT(b.sampled[2], largest[2]);
    CHECK(!b.stop[0] && b.stop[1] && !b.stop[2]);
    CHECK_UINT(logprobs.rank, 1);
    CHECK_UINT(logprobs.top_count, 3);
    CHECK_UINT(logprobs.top_ids[0], largest[2]);
    CHECK(logprobs.logprob < 0 && logprobs.logprob >= logprobs.top_logprobs[1]);
    CHECK_STR(w.backend.ops->name, "cpu");
    struct med_transformer_times times;
    med_transformer_get_times(w.transformer, &times);
    CHECK(times.load_s >= 0 && times.memory_s >= 0);
    /* A batch that samples nothing. */
    b.items[1].samples = b.items[2].samples = false;
    b.sampled[1] = 777;
    CHECK_INT(w.backend.ops->step(w.backend.self, &b.step, &err), 0);
    CHECK_UINT(b.sampled[1], 777);
    world_close(&w);
}

static void test_a_step_allocates_nothing(void)
{
    struct model_dir_spec spec = spec_of(0);
    struct setup setup = {.threads = 2, .dtype = MED_DTYPE_BF16, .kv_dtype = MED_DTYPE_BF16};
    struct world w;
    world_init(&w, &spec, &setup);
    static const struct part steps[][2] = {
        {{0, 0, 60}, {1, 0, 9}}, {{0, 60, 1}, {1, 9, 50}}, {{0, 61, 1}, {1, 59, 1}}};
    struct med_err err = {0};
    (void)med_alloc_fail_nth(0);
    int64_t live = med_alloc_bytes_live();
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        struct batch b;
        batch_make(&w, steps[i], 2, &b);
        b.sequences[1].sampling.temperature = 1;
        b.sequences[1].sampling.top_p = 0.9f;
        CHECK_INT(w.backend.ops->step(w.backend.self, &b.step, &err), 0);
    }
    CHECK_UINT(med_alloc_fail_nth(0), 0);
    CHECK_INT(med_alloc_bytes_live(), live);
    world_close(&w);
}

static void test_a_token_outside_the_vocabulary_is_refused(void)
{
    struct model_dir_spec spec = spec_of(1);
    struct setup setup = {.threads = 1};
    struct world w;
    world_init(&w, &spec, &setup);
    static const struct part parts[] = {{0, 0, 20}, {1, 0, 9}};
    struct batch b;
    batch_make(&w, parts, 2, &b);
    w.tokens[1][8] = (uint32_t)spec.vocab;
    struct med_err err = {0};
    CHECK_INT(w.backend.ops->step(w.backend.self, &b.step, &err), MED_E_INVALID);
    CHECK_STR(err.text,
              "token 8 of sequence 101 has id 251, expected one below the vocabulary's 251");
    w.tokens[1][8] = (uint32_t)spec.vocab - 1;
    CHECK_INT(w.backend.ops->step(w.backend.self, &b.step, &err), 0);
    world_close(&w);
}

static void test_a_config_that_cannot_work_is_refused(void)
{
    struct model_dir_spec spec = spec_of(0);
    struct setup setup = {.threads = 1};
    struct world w;
    world_open(&w, &spec, &setup);
    struct med_transformer_config good;
    world_config(&w, &setup, &good);
    struct med_transformer *t = NULL;
    struct med_err err = {0};
    struct med_transformer_config c = good;
    c.dtype = MED_DTYPE_F16;
    CHECK_INT(med_transformer_new(&c, &t, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "does not compute in float16");
    c = good;
    c.model_len_max = 513;
    CHECK_INT(med_transformer_new(&c, &t, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "sequences of 513 tokens were asked for, expected 1 to 512");
    c = good;
    c.kv_blocks = 0;
    CHECK_INT(med_transformer_new(&c, &t, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "a KV cache of 0 blocks of 7 tokens");
    c = good;
    c.kv_blocks = INT32_MAX;
    CHECK_INT(med_transformer_new(&c, &t, &err), MED_E_INVALID);
    c = good;
    c.batched_tokens_max = 3;
    CHECK_INT(med_transformer_new(&c, &t, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "batches of 4 sequences and 3 tokens");
    CHECK(t == NULL);
    world_close(&w);
}

/* Each allocation of new and init fails once; nothing leaks, and the sentence says what for. */
static void test_init_without_memory_fails_whole(void)
{
    struct model_dir_spec spec = spec_of(0);
    struct setup setup = {.threads = 2};
    struct world w;
    world_open(&w, &spec, &setup);
    struct med_transformer_config config;
    world_config(&w, &setup, &config);
    int failed = 0;
    for (uint64_t nth = 1;; nth++) {
        struct med_err err = {0};
        struct med_transformer *t = NULL;
        (void)med_alloc_fail_nth(nth);
        int rc = med_transformer_new(&config, &t, &err);
        if (rc == 0) {
            struct med_backend backend = med_transformer_backend(t);
            rc = backend.ops->init(backend.self, &err);
            (void)med_alloc_fail_nth(0);
            backend.ops->release(backend.self);
        }
        (void)med_alloc_fail_nth(0);
        if (rc == 0)
            break;
        failed++;
        CHECK_INT(rc, MED_E_NOMEM);
        CHECK_CONTAINS(err.text, "no memory for");
    }
    CHECK(failed > 10);
    world_close(&w);
    CHECK_INT(med_alloc_bytes_live(), 0);
}

int main(void)
{
    RUN(test_logits_are_the_decoders_for_every_architecture);
    RUN(test_deterministic_logits_have_the_same_bits_for_every_cut_and_company);
    RUN(test_cuts_agree_closely_when_not_deterministic);
    RUN(test_a_step_samples_stops_and_tells_logprobs);
    RUN(test_a_step_allocates_nothing);
    RUN(test_a_token_outside_the_vocabulary_is_refused);
    RUN(test_a_config_that_cannot_work_is_refused);
    RUN(test_init_without_memory_fails_whole);
    return check_finish();
}
