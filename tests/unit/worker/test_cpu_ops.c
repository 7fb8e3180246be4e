/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CPU ops but attention, each against its formula in double precision: odd shapes, every dtype of
 * weights and activations, one and three threads, deterministic or not.
 */
#include "tests/unit/worker/cpu_reference.h"
#include "worker/cpu/internal.h"

enum {
    COLUMNS_MAX = 512
};

/* What every case is run with. */
struct variant {
    enum med_dtype weights, dtype;
    int threads;
    bool deterministic;
    struct med_cpu *cpu;
};

typedef void variant_test(const struct variant *v);

static void each_variant(variant_test *test)
{
    static const enum med_dtype activations[] = {MED_DTYPE_F32, MED_DTYPE_BF16};
    /* As wide as the widest shape below. */
    const struct med_model_config model = {.layers = 1,
                                           .hidden = COLUMNS_MAX,
                                           .heads = 8,
                                           .kv_heads = 8,
                                           .head_dim = 128,
                                           .intermediate = COLUMNS_MAX,
                                           .vocab = 300};
    for (int a = 0; a < 2; a++) {
        for (int i = 0; i < 4; i++) {
            struct variant v = {
                .dtype = activations[a], .threads = i % 2 ? 3 : 1, .deterministic = i / 2};
            v.cpu = ref_cpu(v.threads, v.deterministic, &model, v.dtype);
            for (int w = 0; w < MED_DTYPE_COUNT; w++) {
                v.weights = (enum med_dtype)w;
                test(&v);
            }
            med_cpu_free(v.cpu);
        }
    }
}

static struct ref_worst worst_of(const char *op, const struct variant *v, char text[96])
{
    (void)snprintf(text, 96, "%s, weights %s, activations %s, %d threads%s", op,
                   med_dtype_name(v->weights), med_dtype_name(v->dtype), v->threads,
                   v->deterministic ? ", deterministic" : "");
    return (struct ref_worst){.what = text};
}

/* rows, hidden, heads, kv_heads, head_dim, intermediate */
struct shape {
    int64_t rows, hidden, heads, kv_heads, head_dim, intermediate;
};
static const struct shape shapes[] = {
    {0, 8, 1, 1, 8, 8},      {1, 8, 1, 1, 8, 31},
    {1, 127, 3, 1, 34, 200}, {2, 64, 4, 2, 16, 33},
    {3, 31, 7, 7, 10, 127},  {31, 33, 2, 1, 64, 65},
    {33, 96, 4, 2, 128, 17}, {47, 130, 6, 3, 12, 96},
    {129, 48, 2, 2, 8, 100}, {MED_CPU_ROWS + 5, 16, 2, 1, 8, 24},
};
enum {
    SHAPES = sizeof shapes / sizeof *shapes
};

/* What rounding h to bf16 before a product may do: bf16's rounding of every term. */
static double tolerance(const struct variant *v, double scale)
{
    return ref_eps(v->dtype) * scale + 1e-30;
}

/* ---- embed --------------------------------------------------------------------------------- */

static void embed_is_right(const struct variant *v)
{
    char text[96];
    struct ref_worst worst = worst_of("embed", v, text);
    for (size_t i = 0; i < SHAPES; i++) {
        const struct shape *s = &shapes[i];
        struct med_rng rng;
        med_rng_init(&rng, check_seed(), i);
        struct med_weight table = ref_weight(&rng, v->weights, 300, s->hidden);
        uint32_t *ids = ref_alloc((size_t)s->rows * sizeof *ids);
        for (int64_t r = 0; r < s->rows; r++)
            ids[r] = r == 0 ? 299 : med_rng_below(&rng, 300);
        void *out = ref_alloc((size_t)(s->rows * s->hidden) * med_dtype_bytes(v->dtype));
        struct med_embed_args args = {
            .rows = s->rows, .ids = ids, .table = table, .out = out, .dtype = v->dtype};
        CHECK_INT(med_cpu_ops()->embed(v->cpu, &args), 0);
        for (int64_t r = 0; r < s->rows; r++) {
            for (int64_t c = 0; c < s->hidden; c++) {
                double want = ref_get(v->weights, table.data, ids[r] * s->hidden + c);
                ref_compare(&worst, ref_get(v->dtype, out, r * s->hidden + c), want,
                            v->dtype == MED_DTYPE_F32 ? 1e-30 : 0x1p-8 * fabs(want) + 1e-30);
            }
        }
        free(ids);
        free(out);
        ref_free(&table);
    }
    ref_report(&worst);
}

static void test_embed_copies_rows(void)
{
    each_variant(embed_is_right);
}

/* ---- qkv ----------------------------------------------------------------------------------- */

struct qkv_case {
    const struct variant *v;
    const struct shape *s;
    struct med_qkv_args args;
    double normed[COLUMNS_MAX];
    struct ref_worst *worst;
};

/* Head of one row: norm, turn; then compared with `got`. */
static void check_head(struct qkv_case *c, const struct ref_sum *sums,
                       const struct med_weight *norm, int32_t position, enum med_dtype dtype,
                       const void *got, int64_t at)
{
    int64_t dim = c->s->head_dim;
    double x[COLUMNS_MAX] = {0}, scale[COLUMNS_MAX] = {0};
    double squares = 0;
    for (int64_t i = 0; i < dim; i++) {
        x[i] = sums[i].value;
        scale[i] = sums[i].scale;
        squares += x[i] * x[i];
    }
    if (norm && norm->data) {
        double factor = 1 / sqrt(squares / (double)dim + (double)c->args.eps);
        for (int64_t i = 0; i < dim; i++) {
            double weight = ref_get(norm->dtype, norm->data, i) * factor;
            x[i] *= weight;
            scale[i] = scale[i] * fabs(weight) + fabs(x[i]);
        }
    }
    enum med_dtype coarser = dtype > c->v->dtype ? dtype : c->v->dtype;
    if (dtype == MED_DTYPE_BF16)
        coarser = dtype;
    for (int64_t i = 0; i < dim; i++) {
        int64_t pair = i < dim / 2 ? i + dim / 2 : i - dim / 2;
        double want = x[i], size = scale[i];
        if (position >= 0) {
            double angle =
                (double)((float)position * c->args.frequencies[i < dim / 2 ? i : i - dim / 2]);
            double side = i < dim / 2 ? -sin(angle) : sin(angle);
            want = x[i] * cos(angle) + x[pair] * side;
            size = scale[i] + scale[pair];
        }
        double eps = fmax(ref_eps(coarser), ref_eps(c->v->dtype));
        ref_compare(c->worst, ref_get(dtype, got, at + i), want, eps * size + 1e-7);
    }
}

static void check_qkv_row(struct qkv_case *c, int64_t row)
{
    const struct med_qkv_args *a = &c->args;
    const struct shape *s = c->s;
    double x[COLUMNS_MAX] = {0};
    ref_row(a->dtype, a->x, row, a->hidden, x);
    ref_norm(x, &a->norm, (double)a->eps, c->normed);
    struct ref_sum sums[COLUMNS_MAX];
    for (int64_t h = 0; h < s->heads; h++) {
        for (int64_t i = 0; i < s->head_dim; i++)
            sums[i] = ref_dot(c->normed, &a->wq, &a->bq, h * s->head_dim + i);
        check_head(c, sums, &a->q_norm, a->positions[row], a->dtype, a->q,
                   (row * s->heads + h) * s->head_dim);
    }
    int32_t slot = a->slots[row];
    for (int64_t h = 0; slot >= 0 && h < s->kv_heads; h++) {
        int64_t block = slot / a->kv.block_tokens, place = slot % a->kv.block_tokens;
        int64_t at = ((block * s->kv_heads + h) * a->kv.block_tokens + place) * s->head_dim;
        for (int64_t i = 0; i < s->head_dim; i++)
            sums[i] = ref_dot(c->normed, &a->wk, &a->bk, h * s->head_dim + i);
        check_head(c, sums, &a->k_norm, a->positions[row], a->kv.dtype, a->kv.keys, at);
        for (int64_t i = 0; i < s->head_dim; i++)
            sums[i] = ref_dot(c->normed, &a->wv, &a->bv, h * s->head_dim + i);
        check_head(c, sums, NULL, -1, a->kv.dtype, a->kv.values, at);
    }
}

/* Slots that no row has must keep what they had. */
static void check_untouched(const struct qkv_case *c, int64_t slots)
{
    const struct med_qkv_args *a = &c->args;
    int touched = 0;
    for (int64_t slot = 0; slot < slots; slot++) {
        bool used = false;
        for (int64_t r = 0; r < a->rows; r++)
            used = used || a->slots[r] == slot;
        for (int64_t h = 0; !used && h < a->kv_heads; h++) {
            int64_t block = slot / a->kv.block_tokens, place = slot % a->kv.block_tokens;
            int64_t row = (block * a->kv_heads + h) * a->kv.block_tokens + place;
            for (int64_t i = 0; i < a->head_dim; i++) {
                touched += ref_get(a->kv.dtype, a->kv.keys, row * a->head_dim + i) != 7;
                touched += ref_get(a->kv.dtype, a->kv.values, row * a->head_dim + i) != 7;
            }
        }
    }
    CHECK_INT(touched, 0);
}

static void qkv_case_run(struct qkv_case *c, struct med_rng *rng, enum med_dtype kv_dtype,
                         bool extras)
{
    const struct shape *s = c->s;
    const struct variant *v = c->v;
    int64_t q_columns = s->heads * s->head_dim, kv_columns = s->kv_heads * s->head_dim;
    int64_t block_tokens = 5, slots = (s->rows + 12) / 5 * 5;
    int32_t *positions = ref_alloc((size_t)s->rows * sizeof *positions);
    int32_t *places = ref_alloc((size_t)s->rows * sizeof *places);
    float frequencies[COLUMNS_MAX];
    for (int64_t i = 0; i < s->head_dim / 2; i++)
        frequencies[i] = (float)pow(1e4, -2.0 * (double)i / (double)s->head_dim);
    for (int64_t r = 0; r < s->rows; r++) {
        positions[r] = (int32_t)med_rng_below(rng, 5000);
        places[r] = r % 4 == 1 ? -1 : (int32_t)(slots - 1 - r);
    }
    void *kv[2];
    for (int i = 0; i < 2; i++) {
        kv[i] = ref_alloc((size_t)(slots * kv_columns) * med_dtype_bytes(kv_dtype));
        for (int64_t at = 0; at < slots * kv_columns; at++)
            ref_set(kv_dtype, kv[i], at, 7);
    }
    struct med_weight none = {0};
    void *x = ref_random(rng, v->dtype, s->rows * s->hidden, 0.1, 2);
    c->args = (struct med_qkv_args){
        .rows = s->rows,
        .hidden = s->hidden,
        .heads = s->heads,
        .kv_heads = s->kv_heads,
        .head_dim = s->head_dim,
        .x = x,
        .norm = ref_vector(rng, v->weights, s->hidden, 1),
        .eps = 1e-5f,
        .wq = ref_weight(rng, v->weights, q_columns, s->hidden),
        .wk = ref_weight(rng, v->weights, kv_columns, s->hidden),
        .wv = ref_weight(rng, v->weights, kv_columns, s->hidden),
        .bq = extras ? ref_vector(rng, v->weights, q_columns, 0) : none,
        .bk = extras ? ref_vector(rng, v->weights, kv_columns, 0) : none,
        .bv = extras ? ref_vector(rng, v->weights, kv_columns, 0) : none,
        .q_norm = extras ? ref_vector(rng, v->weights, s->head_dim, 1) : none,
        .k_norm = extras ? ref_vector(rng, v->weights, s->head_dim, 1) : none,
        .positions = positions,
        .frequencies = frequencies,
        .slots = places,
        .kv = {.keys = kv[0], .values = kv[1], .dtype = kv_dtype, .block_tokens = block_tokens},
        .q = ref_alloc((size_t)(s->rows * q_columns) * med_dtype_bytes(v->dtype)),
        .dtype = v->dtype};
    CHECK_INT(med_cpu_ops()->qkv(v->cpu, &c->args), 0);
    for (int64_t r = 0; r < s->rows; r += 1 + s->rows / 8)
        check_qkv_row(c, r);
    if (s->rows > 0)
        check_qkv_row(c, s->rows - 1);
    check_untouched(c, slots);
    struct med_weight *weights[] = {&c->args.norm, &c->args.wq,     &c->args.wk,
                                    &c->args.wv,   &c->args.bq,     &c->args.bk,
                                    &c->args.bv,   &c->args.q_norm, &c->args.k_norm};
    for (int i = 0; i < 9; i++)
        ref_free(weights[i]);
    free(x);
    free(positions);
    free(places);
    free(kv[0]);
    free(kv[1]);
    free(c->args.q);
}

static void qkv_is_right(const struct variant *v)
{
    char text[96];
    struct ref_worst worst = worst_of("qkv", v, text);
    for (size_t i = 0; i < SHAPES; i++) {
        struct med_rng rng;
        med_rng_init(&rng, check_seed(), 100 + i);
        struct qkv_case c = {.v = v, .s = &shapes[i], .worst = &worst};
        qkv_case_run(&c, &rng, (enum med_dtype)(i % MED_DTYPE_COUNT), i % 2 == 0);
    }
    ref_report(&worst);
}

static void test_qkv_norms_turns_and_fills_the_cache(void)
{
    each_variant(qkv_is_right);
}

/* ---- project ------------------------------------------------------------------------------- */

static void project_is_right(const struct variant *v)
{
    char text[96];
    struct ref_worst worst = worst_of("project", v, text);
    for (size_t i = 0; i < SHAPES; i++) {
        const struct shape *s = &shapes[i];
        struct med_rng rng;
        med_rng_init(&rng, check_seed(), 200 + i);
        struct med_weight none = {0};
        void *in = ref_random(&rng, v->dtype, s->rows * s->intermediate, 0, 1);
        void *x = ref_random(&rng, v->dtype, s->rows * s->hidden, 0, 1);
        size_t x_bytes = (size_t)(s->rows * s->hidden) * med_dtype_bytes(v->dtype);
        void *before = ref_alloc(x_bytes);
        memcpy(before, x, x_bytes);
        struct med_project_args args = {
            .rows = s->rows,
            .in = in,
            .weight = ref_weight(&rng, v->weights, s->hidden, s->intermediate),
            .bias = i % 2 ? ref_vector(&rng, v->weights, s->hidden, 0) : none,
            .x = x,
            .dtype = v->dtype};
        CHECK_INT(med_cpu_ops()->project(v->cpu, &args), 0);
        for (int64_t r = 0; r < s->rows; r += 1 + s->rows / 9) {
            double row[COLUMNS_MAX] = {0};
            ref_row(v->dtype, in, r, s->intermediate, row);
            for (int64_t c = 0; c < s->hidden; c++) {
                struct ref_sum sum = ref_dot(row, &args.weight, &args.bias, c);
                double want = sum.value + ref_get(v->dtype, before, r * s->hidden + c);
                /* Sums are float32; only the end is rounded to the activations' dtype. */
                double allowed = ref_eps(MED_DTYPE_F32) * (sum.scale + fabs(want));
                if (v->dtype == MED_DTYPE_BF16)
                    allowed += 0x1.01p-8 * fabs(want);
                ref_compare(&worst, ref_get(v->dtype, x, r * s->hidden + c), want, allowed + 1e-30);
            }
        }
        ref_free(&args.weight);
        ref_free(&args.bias);
        free(in);
        free(x);
        free(before);
    }
    ref_report(&worst);
}

static void test_project_adds_to_x(void)
{
    each_variant(project_is_right);
}

/* ---- gate_up ------------------------------------------------------------------------------- */

static void gate_up_is_right(const struct variant *v)
{
    char text[96];
    struct ref_worst worst = worst_of("gate_up", v, text);
    for (size_t i = 0; i < SHAPES; i++) {
        const struct shape *s = &shapes[i];
        struct med_rng rng;
        med_rng_init(&rng, check_seed(), 300 + i);
        struct med_weight none = {0};
        void *x = ref_random(&rng, v->dtype, s->rows * s->hidden, 0, 1);
        size_t out_bytes = (size_t)(s->rows * s->intermediate) * med_dtype_bytes(v->dtype);
        struct med_gate_up_args args = {
            .rows = s->rows,
            .hidden = s->hidden,
            .x = x,
            .norm = ref_vector(&rng, v->weights, s->hidden, 1),
            .eps = 1e-6f,
            .gate = ref_weight(&rng, v->weights, s->intermediate, s->hidden),
            .up = ref_weight(&rng, v->weights, s->intermediate, s->hidden),
            .bias_gate = i % 2 ? ref_vector(&rng, v->weights, s->intermediate, 0) : none,
            .bias_up = i % 2 ? ref_vector(&rng, v->weights, s->intermediate, 0) : none,
            .out = ref_alloc(out_bytes),
            .dtype = v->dtype};
        CHECK_INT(med_cpu_ops()->gate_up(v->cpu, &args), 0);
        for (int64_t r = 0; r < s->rows; r += 1 + s->rows / 9) {
            double row[COLUMNS_MAX] = {0}, normed[COLUMNS_MAX] = {0};
            ref_row(v->dtype, x, r, s->hidden, row);
            ref_norm(row, &args.norm, (double)args.eps, normed);
            for (int64_t c = 0; c < s->intermediate; c++) {
                struct ref_sum gate = ref_dot(normed, &args.gate, &args.bias_gate, c);
                struct ref_sum up = ref_dot(normed, &args.up, &args.bias_up, c);
                double silu = gate.value / (1 + exp(-gate.value));
                double scale = gate.scale * 1.1 * fabs(up.value) + fabs(silu) * up.scale +
                               gate.scale * up.scale * ref_eps(v->dtype);
                ref_compare(&worst, ref_get(v->dtype, args.out, r * s->intermediate + c),
                            silu * up.value, tolerance(v, scale));
            }
        }
        ref_free(&args.norm);
        ref_free(&args.gate);
        ref_free(&args.up);
        ref_free(&args.bias_gate);
        ref_free(&args.bias_up);
        free(x);
        free(args.out);
    }
    ref_report(&worst);
}

static void test_gate_up_is_silu_of_gate_times_up(void)
{
    each_variant(gate_up_is_right);
}

/* ---- head ---------------------------------------------------------------------------------- */

static void head_is_right(const struct variant *v)
{
    char text[96];
    struct ref_worst worst = worst_of("head", v, text);
    for (size_t i = 0; i < SHAPES; i++) {
        const struct shape *s = &shapes[i];
        struct med_rng rng;
        med_rng_init(&rng, check_seed(), 400 + i);
        int64_t samples = (s->rows + 1) / 2;
        int32_t *rows = ref_alloc((size_t)samples * sizeof *rows);
        for (int64_t n = 0; n < samples; n++)
            rows[n] = (int32_t)(s->rows - 1 - 2 * n);
        void *x = ref_random(&rng, v->dtype, s->rows * s->hidden, 0, 1);
        struct med_head_args args = {.samples = samples,
                                     .hidden = s->hidden,
                                     .rows = rows,
                                     .x = x,
                                     .norm = ref_vector(&rng, v->weights, s->hidden, 1),
                                     .eps = 1e-6f,
                                     .head = ref_weight(&rng, v->weights, 300, s->hidden),
                                     .logits = ref_alloc((size_t)(samples * 300) * sizeof(float)),
                                     .dtype = v->dtype};
        CHECK_INT(med_cpu_ops()->head(v->cpu, &args), 0);
        for (int64_t n = 0; n < samples; n += 1 + samples / 9) {
            double row[COLUMNS_MAX] = {0}, normed[COLUMNS_MAX] = {0};
            ref_row(v->dtype, x, rows[n], s->hidden, row);
            ref_norm(row, &args.norm, (double)args.eps, normed);
            for (int64_t c = 0; c < 300; c++) {
                struct ref_sum want = ref_dot(normed, &args.head, NULL, c);
                ref_compare(&worst, (double)args.logits[n * 300 + c], want.value,
                            tolerance(v, want.scale));
            }
        }
        ref_free(&args.norm);
        ref_free(&args.head);
        free(rows);
        free(x);
        free(args.logits);
    }
    ref_report(&worst);
}

static void test_head_gives_logits_of_the_rows_asked_for(void)
{
    each_variant(head_is_right);
}

/* ---- many rows beside few ------------------------------------------------------------------ */

/* In deterministic mode a row's result has the same bits alone and among others. */
static void test_deterministic_rows_do_not_depend_on_their_company(void)
{
    const struct shape s = {
        .rows = 70, .hidden = 127, .heads = 2, .kv_heads = 1, .head_dim = 8, .intermediate = 1100};
    const struct med_model_config model = {.layers = 1,
                                           .hidden = s.hidden,
                                           .heads = s.heads,
                                           .kv_heads = s.kv_heads,
                                           .head_dim = s.head_dim,
                                           .intermediate = s.intermediate,
                                           .vocab = 300};
    for (int dtype = 0; dtype < MED_DTYPE_COUNT; dtype++) {
        struct med_rng rng;
        med_rng_init(&rng, check_seed(), 500 + (uint64_t)dtype);
        struct med_weight w = ref_weight(&rng, (enum med_dtype)dtype, s.hidden, s.intermediate);
        float *in = ref_random(&rng, MED_DTYPE_F32, s.rows * s.intermediate, 0, 1);
        size_t bytes = (size_t)(s.rows * s.hidden) * sizeof(float);
        float *all = ref_alloc(bytes), *each = ref_alloc(bytes);
        struct med_cpu *three = ref_cpu(3, true, &model, MED_DTYPE_F32);
        struct med_cpu *one = ref_cpu(1, true, &model, MED_DTYPE_F32);
        struct med_project_args args = {
            .rows = s.rows, .in = in, .weight = w, .x = all, .dtype = MED_DTYPE_F32};
        CHECK_INT(med_cpu_ops()->project(three, &args), 0);
        for (int64_t r = 0, count; r < s.rows; r += count) {
            count = 1 + r % 5 < s.rows - r ? 1 + r % 5 : s.rows - r;
            struct med_project_args part = {.rows = count,
                                            .in = in + r * s.intermediate,
                                            .weight = w,
                                            .x = each + r * s.hidden,
                                            .dtype = MED_DTYPE_F32};
            CHECK_INT(med_cpu_ops()->project(one, &part), 0);
        }
        CHECK(memcmp(all, each, bytes) == 0);
        med_cpu_free(three);
        med_cpu_free(one);
        ref_free(&w);
        free(in);
        free(all);
        free(each);
    }
}

int main(void)
{
    RUN(test_embed_copies_rows);
    RUN(test_qkv_norms_turns_and_fills_the_cache);
    RUN(test_project_adds_to_x);
    RUN(test_gate_up_is_silu_of_gate_times_up);
    RUN(test_head_gives_logits_of_the_rows_asked_for);
    RUN(test_deterministic_rows_do_not_depend_on_their_company);
    return check_finish();
}
