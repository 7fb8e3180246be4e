/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The speed of single iterations (see speed.h).
 *
 * Each repeat goes through all cases; beside each case, it reads a buffer far larger than the caches
 * with the device's threads and, for a prefill, has the BLAS multiply float32 matrices of a layer's
 * shapes as often as the model has layers.  So a ratio compares what ran within seconds of each
 * other, which on a shared machine is the comparison that holds.  The head's product with one row is
 * in our time and not in the BLAS's.
 * thread: main.  Batches are made here, without a scheduler: sequence i has the i-th stretch of blocks.
 */
#include "worker/bench/speed.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "worker/cpu/limits.h"

#include <stdlib.h>
#include <string.h>

enum {
    BLOCK_TOKENS = 16,
    READ_BYTES = 256 << 20,
    BLAS_PRODUCTS = 7
};

struct med_bench {
    struct med_bench_config config;
    struct med_cpu *cpu;
    struct med_backend backend; /* self NULL before it is made */
    struct med_clock clock;
    int64_t blocks;
    uint64_t *read; // [READ_BYTES / 8]
    uint64_t sum;   /* of what was read, so that it has to be */
    float *weights; // a layer's matrices in float32
    float *in, *out;
    /* A batch of sequences_max items. */
    struct med_batch_item *items;
    struct med_backend_sequence *sequences;
    const struct med_backend_sequence **sequence_list;
    int32_t *tables;  // [blocks]
    uint32_t *tokens; // [model_len_max], all of them 1
    uint32_t *sampled;
    bool *stop;
};

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct med_bench_spread med_bench_spread_of(double *values, size_t count)
{
    MED_ASSERT(count > 0);
    qsort(values, count, sizeof values[0], compare);
    double middle = (values[(count - 1) / 2] + values[count / 2]) / 2;
    return (struct med_bench_spread){.min = values[0], .median = middle, .max = values[count - 1]};
}

/* ---- memory --------------------------------------------------------------------------------- */

/* A layer's products: outputs and columns of each. */
static void layer_products(const struct med_model_config *m, int64_t products[BLAS_PRODUCTS][2])
{
    const int64_t q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
    const int64_t shapes[BLAS_PRODUCTS][2] = {{q, m->hidden},
                                              {kv, m->hidden},
                                              {kv, m->hidden},
                                              {m->hidden, q},
                                              {m->intermediate, m->hidden},
                                              {m->intermediate, m->hidden},
                                              {m->hidden, m->intermediate}};
    memcpy(products, shapes, sizeof shapes);
}

static int64_t layer_elements(const struct med_model_config *m)
{
    int64_t products[BLAS_PRODUCTS][2], sum = 0;
    layer_products(m, products);
    for (int i = 0; i < BLAS_PRODUCTS; i++)
        sum += products[i][0] * products[i][1];
    return sum;
}

static int64_t widest(const struct med_model_config *m)
{
    int64_t products[BLAS_PRODUCTS][2], most = 0;
    layer_products(m, products);
    for (int i = 0; i < BLAS_PRODUCTS; i++) {
        most = products[i][0] > most ? products[i][0] : most;
        most = products[i][1] > most ? products[i][1] : most;
    }
    return most;
}

static float *new_floats(int64_t count)
{
    float *made = med_alloc((size_t)count * sizeof *made);
    for (int64_t i = 0; made && i < count; i++)
        made[i] = (float)(i % 251 - 125) * 1e-4f;
    return made;
}

static int take_memory(struct med_bench *b)
{
    const struct med_bench_config *c = &b->config;
    const struct med_model_config *m = &c->checkpoint->config;
    size_t n = (size_t)c->sequences_max;
    b->read = med_alloc(READ_BYTES);
    b->weights = new_floats(layer_elements(m));
    b->in = new_floats(c->batched_tokens_max * widest(m));
    b->out = new_floats(c->batched_tokens_max * widest(m));
    b->items = med_calloc(n, sizeof b->items[0]);
    b->sequences = med_calloc(n, sizeof b->sequences[0]);
    b->sequence_list = med_calloc(n, sizeof(void *));
    b->tables = med_calloc((size_t)b->blocks, sizeof b->tables[0]);
    b->tokens = med_calloc((size_t)c->model_len_max, sizeof b->tokens[0]);
    b->sampled = med_calloc(n, sizeof b->sampled[0]);
    b->stop = med_calloc(n, sizeof b->stop[0]);
    if (!b->read || !b->weights || !b->in || !b->out || !b->items || !b->sequences ||
        !b->sequence_list || !b->tables || !b->tokens || !b->sampled || !b->stop)
        return MED_E_NOMEM;
    for (size_t i = 0; i < READ_BYTES / sizeof b->read[0]; i++)
        b->read[i] = i;
    for (int64_t i = 0; i < b->blocks; i++)
        b->tables[i] = (int32_t)i;
    for (int64_t i = 0; i < c->model_len_max; i++)
        b->tokens[i] = 1;
    for (size_t i = 0; i < n; i++) {
        b->sequences[i].tokens = b->tokens;
        b->sequences[i].sampling = med_sampling_default();
        b->sequences[i].sampling.temperature = 0;
        b->sequence_list[i] = &b->sequences[i];
    }
    return 0;
}

int med_bench_new(const struct med_bench_config *config, struct med_bench **ret_bench,
                  struct med_err *err)
{
    struct med_bench *b = med_calloc(1, sizeof *b);
    if (!b)
        return med_err_set(err, MED_E_NOMEM, "no memory for the benchmark");
    b->config = *config;
    b->blocks = config->kv_tokens / BLOCK_TOKENS;
    med_clock_init_real(&b->clock, 1);
    const struct med_cpu_config cpu = {.threads = config->threads};
    struct med_transformer *transformer = NULL;
    int rc = med_cpu_new(&cpu, &b->cpu, err);
    if (rc == 0) {
        const struct med_transformer_config t = {.checkpoint = config->checkpoint,
                                                 .ops = med_cpu_ops(),
                                                 .device = b->cpu,
                                                 .dtype = config->dtype,
                                                 .kv_dtype = config->dtype,
                                                 .block_tokens = BLOCK_TOKENS,
                                                 .kv_blocks = b->blocks,
                                                 .sequences_max = config->sequences_max,
                                                 .batched_tokens_max = config->batched_tokens_max,
                                                 .model_len_max = config->model_len_max};
        rc = med_transformer_new(&t, &transformer, err);
    }
    if (rc == 0) {
        b->backend = med_transformer_backend(transformer);
        rc = b->backend.ops->init(b->backend.self, err);
    }
    if (rc == 0 && take_memory(b) < 0)
        rc = med_err_set(err, MED_E_NOMEM, "no memory for the benchmark's buffers");
    if (rc < 0) {
        med_bench_free(b);
        return rc;
    }
    *ret_bench = b;
    return 0;
}

void med_bench_free(struct med_bench *bench)
{
    if (!bench)
        return;
    if (bench->backend.self)
        bench->backend.ops->release(bench->backend.self);
    med_cpu_free(bench->cpu);
    med_free(bench->read);
    med_free(bench->weights);
    med_free(bench->in);
    med_free(bench->out);
    med_free(bench->items);
    med_free(bench->sequences);
    med_free(bench->sequence_list);
    med_free(bench->tables);
    med_free(bench->tokens);
    med_free(bench->sampled);
    med_free(bench->stop);
    med_free(bench);
}

struct med_backend med_bench_backend(struct med_bench *bench)
{
    return bench->backend;
}

const struct med_cpu *med_bench_cpu(const struct med_bench *bench)
{
    return bench->cpu;
}

/* ---- one iteration -------------------------------------------------------------------------- */

static void add_item(struct med_bench *b, struct med_batch *batch, int64_t context, int64_t tokens)
{
    /* Each has as many blocks as the longest: all of them are there once per place in the batch. */
    int64_t each = b->blocks / b->config.sequences_max;
    int64_t needed = (context + tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    size_t i = batch->count++;
    MED_ASSERT((int64_t)i < b->config.sequences_max);
    MED_ASSERT(needed <= each);
    b->sequences[i].prompt_tokens = context + tokens;
    b->items[i] = (struct med_batch_item){.id = i,
                                          .tokens = tokens,
                                          .context = context,
                                          .prefill = tokens > 1,
                                          .samples = true,
                                          .blocks = b->tables + (int64_t)i * each,
                                          .block_count = needed};
    if (tokens > 1) {
        batch->load.prefill_tokens += tokens;
        batch->load.prefill_pairs += med_step_pairs(tokens, context);
    } else {
        batch->load.decode_sequences++;
        batch->load.decode_context_tokens += context;
    }
}

static int run_case(struct med_bench *b, const struct med_bench_case *c, double *ret_s,
                    struct med_err *err)
{
    struct med_batch batch = {.items = b->items};
    for (int64_t i = 0; i < c->decodes; i++)
        add_item(b, &batch, c->context, 1);
    if (c->prefill > 0)
        add_item(b, &batch, 0, c->prefill);
    const struct med_backend_step step = {
        .batch = &batch, .sequences = b->sequence_list, .sampled = b->sampled, .stop = b->stop};
    int64_t start_ns = med_clock_now_ns(&b->clock);
    int rc = b->backend.ops->step(b->backend.self, &step, err);
    *ret_s = (double)(med_clock_now_ns(&b->clock) - start_ns) / 1e9;
    return rc;
}

/* Bytes that an iteration has to read (weights once, keys and values of the contexts) and to write
 * (new keys and values), and its multiplications and additions. */
static void count_work(const struct med_bench *b, struct med_bench_case *c)
{
    const struct med_model_config *m = &b->config.checkpoint->config;
    const double element = (double)med_dtype_bytes(b->config.checkpoint->head.dtype);
    const double kv = (double)med_model_kv_bytes_per_token(m, b->config.dtype);
    const double matrices = (double)(m->layers * layer_elements(m));
    const double head = (double)(m->vocab * m->hidden);
    const double rows = (double)(c->decodes + c->prefill);
    const double samples = (double)(c->decodes + (c->prefill > 0));
    const double pairs =
        (double)(c->decodes * (c->context + 1)) + (double)c->prefill * (double)(c->prefill + 1) / 2;
    c->bytes = (matrices + head + rows * (double)m->hidden) * element +
               (double)(c->decodes * c->context) * kv + rows * kv;
    c->flops = 2 * rows * matrices + 2 * samples * head +
               4 * pairs * (double)(m->heads * m->head_dim * m->layers);
}

/* ---- what it is compared with --------------------------------------------------------------- */

static double read_rate(struct med_bench *b)
{
    int64_t start_ns = med_clock_now_ns(&b->clock);
    for (int i = 0; i < 4; i++)
        b->sum += med_cpu_read(b->cpu, b->read, READ_BYTES);
    return 4.0 * READ_BYTES / ((double)(med_clock_now_ns(&b->clock) - start_ns) / 1e9);
}

static double blas_seconds(struct med_bench *b, int64_t rows)
{
    const struct med_model_config *m = &b->config.checkpoint->config;
    int64_t products[BLAS_PRODUCTS][2];
    layer_products(m, products);
    med_cpu_blas_threads(b->cpu, true);
    int64_t start_ns = med_clock_now_ns(&b->clock);
    for (int64_t layer = 0; layer < m->layers; layer++) {
        const float *weights = b->weights;
        for (int i = 0; i < BLAS_PRODUCTS; i++) {
            med_cpu_blas(&(struct med_cpu_blas_args){.rows = rows,
                                                     .outputs = products[i][0],
                                                     .columns = products[i][1],
                                                     .in = b->in,
                                                     .weights = weights,
                                                     .out = b->out});
            weights += products[i][0] * products[i][1];
        }
    }
    double seconds = (double)(med_clock_now_ns(&b->clock) - start_ns) / 1e9;
    med_cpu_blas_threads(b->cpu, false);
    /* Its threads look for work a while before they sleep. */
    med_clock_sleep_until(&b->clock, med_clock_now_ns(&b->clock) + 100 * MED_NS_PER_MS);
    return seconds;
}

static int measure(struct med_bench *b, struct med_bench_case *c, double *at[4], double *read,
                   struct med_err *err)
{
    const struct med_model_config *m = &b->config.checkpoint->config;
    double seconds;
    int rc = run_case(b, c, &seconds, err);
    if (rc < 0)
        return rc;
    *read = read_rate(b);
    *at[0] = seconds * 1e3;
    *at[1] = c->bytes / seconds / *read;
    *at[2] = *at[3] = 0;
    if (c->prefill > 0 && c->decodes == 0) {
        double blas = blas_seconds(b, c->prefill);
        *at[2] = blas / seconds;
        *at[3] = 2.0 * (double)(c->prefill * m->layers * layer_elements(m)) / blas;
    }
    return 0;
}

int med_bench_run(struct med_bench *bench, struct med_bench_case *cases, size_t count,
                  struct med_bench_spread *ret_read_bytes_per_s, struct med_err *err)
{
    const size_t repeats = (size_t)bench->config.repeats, all = count * repeats;
    MED_ASSERT(repeats > 0);
    MED_ASSERT(count > 0);
    double *memory = med_calloc(all, 5 * sizeof *memory);
    if (!memory)
        return med_err_set(err, MED_E_NOMEM, "no memory for %zu measurements", all);
    int rc = 0;
    for (size_t r = 0; r <= repeats && rc == 0; r++) {
        for (size_t i = 0; i < count && rc == 0; i++) {
            size_t at = i * repeats + (r > 0 ? r - 1 : 0); /* the first is overwritten */
            double *to[4];
            for (size_t k = 0; k < 4; k++)
                to[k] = memory + k * all + at;
            count_work(bench, &cases[i]);
            rc = measure(bench, &cases[i], to, memory + 4 * all + at, err);
        }
    }
    for (size_t i = 0; i < count && rc == 0; i++) {
        struct med_bench_spread *to[] = {&cases[i].ms, &cases[i].read_part, &cases[i].blas_part,
                                         &cases[i].blas_flops};
        for (size_t k = 0; k < 4; k++)
            *to[k] = med_bench_spread_of(memory + k * all + i * repeats, repeats);
    }
    if (rc == 0)
        *ret_read_bytes_per_s = med_bench_spread_of(memory + 4 * all, all);
    med_free(memory);
    return rc;
}
