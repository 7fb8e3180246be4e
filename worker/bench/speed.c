/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The speed of single iterations (see speed.h).
 *
 * Each repeat goes through all cases.  On the CPU, beside each case, it reads a buffer far larger than
 * the caches with the device's threads and, for a prefill, has the BLAS multiply float32 matrices of a
 * layer's shapes as often as the model has layers.  So a ratio compares what ran within seconds of each
 * other, which on a shared machine is the comparison that holds.  The head's product with one row is
 * in our time and not in the BLAS's.  A GPU's limits are measured before and after all cases (main.c).
 * thread: main.  Makes no batches: that is steps.c.
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
    BLAS_PRODUCTS = 7,
    PREFILL_TOKENS = 8192, /* of one measurement, about */
    MARGIN_PARTS = 25      /* one of so many of the free memory stays free */
};

struct med_bench {
    struct med_bench_config config;
    struct med_transformer *transformer;
    struct med_backend backend; /* self NULL before it is made */
    struct med_bench_steps *steps;
    struct med_clock clock;
    int64_t blocks;
    /* The CPU's yardsticks. */
    uint64_t *read; // [READ_BYTES / 8]
    uint64_t sum;   /* of what was read, so that it has to be */
    float *weights; // a layer's matrices in float32
    float *in, *out;
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

static bool is_cpu(const struct med_bench *b)
{
    return b->config.device->memory_bytes == 0;
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

static int take_yardsticks(struct med_bench *b)
{
    const struct med_bench_config *c = &b->config;
    const struct med_model_config *m = &c->checkpoint->config;
    b->read = med_alloc(READ_BYTES);
    b->weights = new_floats(layer_elements(m));
    b->in = new_floats(c->batched_tokens_max * widest(m));
    b->out = new_floats(c->batched_tokens_max * widest(m));
    if (!b->read || !b->weights || !b->in || !b->out)
        return MED_E_NOMEM;
    for (size_t i = 0; i < READ_BYTES / sizeof b->read[0]; i++)
        b->read[i] = i;
    return 0;
}

static struct med_transformer_config transformer_config(const struct med_bench *b)
{
    const struct med_bench_config *c = &b->config;
    return (struct med_transformer_config){.checkpoint = c->checkpoint,
                                           .ops = c->device->ops,
                                           .device = c->device->self,
                                           .dtype = c->dtype,
                                           .kv_dtype = c->dtype,
                                           .block_tokens = BLOCK_TOKENS,
                                           .kv_blocks = b->blocks,
                                           .sequences_max = c->sequences_max,
                                           .batched_tokens_max = c->batched_tokens_max,
                                           .model_len_max = c->model_len_max};
}

/* As many blocks as are wanted, or as a device with memory of its own has room for. */
static int settle_blocks(struct med_bench *b, struct med_err *err)
{
    const struct med_bench_config *c = &b->config;
    const struct med_device *d = c->device;
    const struct med_checkpoint *p = c->checkpoint;
    b->blocks = c->kv_tokens / BLOCK_TOKENS;
    if (is_cpu(b))
        return 0;
    const struct med_transformer_config t = transformer_config(b);
    int64_t taken = p->parameters * (int64_t)med_dtype_bytes(c->dtype) + d->reserve_bytes +
                    (int64_t)med_transformer_workspace_bytes(&t);
    int64_t room = d->memory_free_bytes - d->memory_free_bytes / MARGIN_PARTS - taken;
    int64_t each = BLOCK_TOKENS * med_model_kv_bytes_per_token(&p->config, c->dtype);
    if (room < each) {
        return med_err_set(err, MED_E_USAGE,
                           "the weights and intermediate results take %.2f GB, and the GPU has "
                           "%.2f GB free",
                           (double)taken / 1e9, (double)d->memory_free_bytes / 1e9);
    }
    if (b->blocks > room / each)
        b->blocks = room / each;
    return 0;
}

static int make_steps(struct med_bench *b, struct med_err *err)
{
    const struct med_bench_config *c = &b->config;
    const struct med_bench_steps_config steps = {.backend = b->backend,
                                                 .block_tokens = BLOCK_TOKENS,
                                                 .blocks = b->blocks,
                                                 .sequences_max = c->sequences_max,
                                                 .batched_tokens_max = c->batched_tokens_max,
                                                 .model_len_max = c->model_len_max,
                                                 .vocab = c->checkpoint->config.vocab,
                                                 .seed = c->seed};
    int rc = med_bench_steps_new(&steps, &b->steps, err);
    if (rc == 0 && !is_cpu(b))
        rc = med_bench_steps_fill(b->steps, err);
    return rc;
}

int med_bench_new(const struct med_bench_config *config, struct med_bench **ret_bench,
                  struct med_err *err)
{
    struct med_bench *b = med_calloc(1, sizeof *b);
    if (!b)
        return med_err_set(err, MED_E_NOMEM, "no memory for the benchmark");
    b->config = *config;
    med_clock_init_real(&b->clock, 1);
    int rc = settle_blocks(b, err);
    if (rc == 0) {
        const struct med_transformer_config t = transformer_config(b);
        rc = med_transformer_new(&t, &b->transformer, err);
    }
    if (rc == 0) {
        b->backend = med_transformer_backend(b->transformer);
        rc = b->backend.ops->init(b->backend.self, err);
    }
    if (rc == 0)
        rc = make_steps(b, err);
    if (rc == 0 && is_cpu(b) && take_yardsticks(b) < 0)
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
    med_bench_steps_free(bench->steps);
    if (bench->backend.self)
        bench->backend.ops->release(bench->backend.self);
    med_free(bench->read);
    med_free(bench->weights);
    med_free(bench->in);
    med_free(bench->out);
    med_free(bench);
}

struct med_backend med_bench_backend(struct med_bench *bench)
{
    return bench->backend;
}

void med_bench_times(const struct med_bench *bench, struct med_transformer_times *ret_times)
{
    med_transformer_get_times(bench->transformer, ret_times);
}

int64_t med_bench_kv_tokens(const struct med_bench *bench)
{
    return bench->blocks * BLOCK_TOKENS;
}

/* ---- one iteration -------------------------------------------------------------------------- */

int64_t med_bench_steps_of(const struct med_bench_iteration *iteration, int64_t steps_max)
{
    int64_t steps = steps_max;
    if (iteration->prefill > 0 && steps > PREFILL_TOKENS / iteration->prefill)
        steps = PREFILL_TOKENS / iteration->prefill;
    return steps > 0 ? steps : 1;
}

static void count_work(const struct med_bench *b, struct med_bench_case *c)
{
    const struct med_checkpoint *p = b->config.checkpoint;
    const struct med_bench_iteration *it = &c->iteration;
    struct med_work_model model;
    enum med_dtype weights = is_cpu(b) ? p->head.dtype : b->config.dtype;
    med_work_model_init(&model, &p->config, weights, b->config.dtype);
    c->work = (struct med_work){0};
    for (int64_t i = 0; i < it->decodes; i++)
        med_work_add(&model, &c->work, 1, it->context, true);
    if (it->prefill > 0)
        med_work_add(&model, &c->work, it->prefill, 0, true);
    c->steps = med_bench_steps_of(it, b->config.steps);
    c->absent = med_bench_steps_blocks(BLOCK_TOKENS, it, c->steps) > b->blocks;
}

/* ---- what it is compared with --------------------------------------------------------------- */

static double read_rate(struct med_bench *b)
{
    int64_t start_ns = med_clock_now_ns(&b->clock);
    for (int i = 0; i < 4; i++)
        b->sum += med_cpu_read(b->config.device->self, b->read, READ_BYTES);
    return 4.0 * READ_BYTES / ((double)(med_clock_now_ns(&b->clock) - start_ns) / 1e9);
}

static double blas_seconds(struct med_bench *b, int64_t rows)
{
    const struct med_model_config *m = &b->config.checkpoint->config;
    struct med_cpu *cpu = b->config.device->self;
    int64_t products[BLAS_PRODUCTS][2];
    layer_products(m, products);
    med_cpu_blas_threads(cpu, true);
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
    med_cpu_blas_threads(cpu, false);
    /* Its threads look for work a while before they sleep. */
    med_clock_sleep_until(&b->clock, med_clock_now_ns(&b->clock) + 100 * MED_NS_PER_MS);
    return seconds;
}

/* read NULL: the time before those that count, in which memory need not be read. */
static int measure(struct med_bench *b, struct med_bench_case *c, double *at[4], double *read,
                   struct med_err *err)
{
    const struct med_model_config *m = &b->config.checkpoint->config;
    const int64_t prefill = c->iteration.prefill;
    double seconds;
    int rc = med_bench_steps_run(b->steps, &c->iteration, c->steps, &seconds, err);
    if (rc < 0)
        return rc;
    *at[0] = seconds * 1e3;
    *at[1] = *at[2] = *at[3] = 0;
    if (!is_cpu(b))
        return 0;
    if (read) {
        *read = read_rate(b);
        *at[1] = med_work_bytes(&c->work) / seconds / *read;
    }
    if (prefill > 0 && c->iteration.decodes == 0) {
        double blas = blas_seconds(b, prefill);
        *at[2] = blas / seconds;
        *at[3] = 2.0 * (double)(prefill * m->layers * layer_elements(m)) / blas;
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
    for (size_t i = 0; i < count; i++)
        count_work(bench, &cases[i]);
    for (size_t r = 0; r <= repeats && rc == 0; r++) {
        for (size_t i = 0; i < count && rc == 0; i++) {
            size_t at = i * repeats + (r > 0 ? r - 1 : 0); /* the first is overwritten */
            double *to[4];
            for (size_t k = 0; k < 4; k++)
                to[k] = memory + k * all + at;
            if (!cases[i].absent)
                rc = measure(bench, &cases[i], to, r > 0 ? memory + 4 * all + at : NULL, err);
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
