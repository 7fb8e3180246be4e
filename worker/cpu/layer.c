/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ops around the products: embedding, norms, rope, the MLP's activation, the head, sampling.
 *
 * An op takes MED_CPU_ROWS rows at a time: the rows are normed or widened to float32 (`in`), the
 * product gives float32 (`out`), and one pass per row finishes and rounds.  With bfloat16 activations
 * the values rounded are those that a bfloat16 device would hold between ops: a norm's result, and
 * what an op writes; sums and everything in between stay float32.
 * thread: engine, and pieces on the pool's.
 */
#include "worker/cpu/internal.h"

#include "base/assert.h"

#include <math.h>
#include <string.h>

enum {
    ROW_WORK = 1 << 14 /* elements that are worth waking a thread for */
};

static int64_t row_grain(int64_t columns)
{
    return ROW_WORK / (columns + 1) + 1;
}

static int64_t rows_from(int64_t all, int64_t first)
{
    return all - first < MED_CPU_ROWS ? all - first : MED_CPU_ROWS;
}

static const char *at_row(enum med_dtype dtype, const void *base, int64_t row, int64_t columns)
{
    return (const char *)base + (size_t)(row * columns) * med_dtype_bytes(dtype);
}

struct embed {
    struct med_cpu *cpu;
    const struct med_embed_args *args;
};

static void embed_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct embed *e = arg;
    const struct med_embed_args *a = e->args;
    const struct med_cpu_kernels *k = e->cpu->kernels;
    (void)thread;
    for (int64_t r = begin; r < end; r++) {
        const char *from = at_row(a->table.dtype, a->table.data, a->ids[r], a->table.columns);
        char *to = (char *)a->out + (size_t)(r * a->table.columns) * med_dtype_bytes(a->dtype);
        if (a->dtype == a->table.dtype) {
            memcpy(to, from, (size_t)a->table.columns * med_dtype_bytes(a->dtype));
        } else if (a->dtype == MED_DTYPE_F32) {
            k->widen[a->table.dtype](from, (float *)(void *)to, a->table.columns);
        } else {
            for (int64_t i = 0; i < a->table.columns; i++) {
                float value = med_dtype_get(a->table.dtype, from, (size_t)i);
                k->narrow[a->dtype](&value, to + (size_t)i * med_dtype_bytes(a->dtype), 1);
            }
        }
    }
}

int med_cpu_embed(void *device, const struct med_embed_args *args)
{
    struct embed e = {.cpu = device, .args = args};
    med_cpu_split(device, args->rows, row_grain(args->table.columns), embed_rows, &e);
    return 0;
}

/* Rows of x, normed, into cpu->in. */
struct norm {
    struct med_cpu *cpu;
    const void *x;
    const int32_t *rows; // NULL: first, first + 1, ...
    int64_t first, columns;
    float eps;
    enum med_dtype dtype;
};

static void norm_row(const struct med_cpu *cpu, float *x, const float *weight, int64_t n, float eps)
{
    float mean = cpu->kernels->dot(x, x, n) / (float)n;
    float scale = 1.0f / sqrtf(mean + eps);
    for (int64_t i = 0; i < n; i++)
        x[i] = x[i] * scale * weight[i];
}

static void norm_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct norm *n = arg;
    (void)thread;
    for (int64_t r = begin; r < end; r++) {
        float *to = n->cpu->in + r * n->columns;
        int64_t row = n->rows ? n->rows[n->first + r] : n->first + r;
        med_cpu_row_widen(n->cpu, n->dtype, n->x, row, n->columns, to);
        norm_row(n->cpu, to, n->cpu->norm, n->columns, n->eps);
        if (n->dtype == MED_DTYPE_BF16)
            n->cpu->kernels->round_bf16(to, n->columns);
    }
}

static void norm_run(const struct norm *n, const struct med_weight *weight, int64_t rows)
{
    n->cpu->kernels->widen[weight->dtype](weight->data, n->cpu->norm, n->columns);
    med_cpu_split(n->cpu, rows, row_grain(n->columns), norm_rows, (void *)n);
}

struct qkv {
    struct med_cpu *cpu;
    const struct med_qkv_args *args;
    int64_t first, q_columns, kv_columns;
};

/* Heads of one row: normed if the model does, turned, in place. */
static void turn_heads(const struct qkv *s, float *x, int64_t heads, const struct med_weight *norm,
                       const float *turns)
{
    const struct med_qkv_args *a = s->args;
    int64_t dim = a->head_dim, half = dim / 2;
    for (int64_t h = 0; h < heads; h++, x += dim) {
        if (norm->data) {
            float mean = s->cpu->kernels->dot(x, x, dim) / (float)dim;
            float scale = 1.0f / sqrtf(mean + a->eps);
            for (int64_t i = 0; i < dim; i++)
                x[i] = x[i] * scale * med_dtype_get(norm->dtype, norm->data, (size_t)i);
        }
        for (int64_t i = 0; i < half; i++) {
            float first = x[i], second = x[i + half], c = turns[i], sine = turns[half + i];
            x[i] = first * c - second * sine;
            x[i + half] = second * c + first * sine;
        }
    }
}

static void cache_write(const struct qkv *s, void *cache, const float *x, int32_t slot)
{
    const struct med_qkv_args *a = s->args;
    const struct med_kv_layer *kv = &a->kv;
    int64_t block = slot / kv->block_tokens, place = slot % kv->block_tokens;
    for (int64_t h = 0; h < a->kv_heads; h++) {
        int64_t row = (block * a->kv_heads + h) * kv->block_tokens + place;
        med_cpu_row_narrow(s->cpu, kv->dtype, x + h * a->head_dim, cache, row, a->head_dim);
    }
}

static void qkv_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct qkv *s = arg;
    const struct med_qkv_args *a = s->args;
    float *turns = s->cpu->lanes[thread].queries;
    int64_t half = a->head_dim / 2;
    for (int64_t r = begin; r < end; r++) {
        int64_t row = s->first + r;
        float *q = s->cpu->out + r * (s->q_columns + 2 * s->kv_columns);
        float *k = q + s->q_columns, *v = k + s->kv_columns;
        for (int64_t i = 0; i < half; i++) {
            float angle = (float)a->positions[row] * a->frequencies[i];
            turns[i] = cosf(angle);
            turns[half + i] = sinf(angle);
        }
        turn_heads(s, q, a->heads, &a->q_norm, turns);
        med_cpu_row_narrow(s->cpu, a->dtype, q, a->q, row, s->q_columns);
        if (a->slots[row] < 0)
            continue;
        turn_heads(s, k, a->kv_heads, &a->k_norm, turns);
        cache_write(s, a->kv.keys, k, a->slots[row]);
        cache_write(s, a->kv.values, v, a->slots[row]);
    }
}

int med_cpu_qkv(void *device, const struct med_qkv_args *a)
{
    struct med_cpu *cpu = device;
    struct qkv s = {.cpu = cpu,
                    .args = a,
                    .q_columns = a->heads * a->head_dim,
                    .kv_columns = a->kv_heads * a->head_dim};
    int64_t stride = s.q_columns + 2 * s.kv_columns;
    MED_ASSERT(stride <= cpu->out_columns && a->hidden <= cpu->in_columns);
    for (s.first = 0; s.first < a->rows; s.first += MED_CPU_ROWS) {
        int64_t rows = rows_from(a->rows, s.first);
        struct norm norm = {.cpu = cpu,
                            .x = a->x,
                            .first = s.first,
                            .columns = a->hidden,
                            .eps = a->eps,
                            .dtype = a->dtype};
        norm_run(&norm, &a->norm, rows);
        float *k = cpu->out + s.q_columns;
        struct med_cpu_product product = {.rows = rows,
                                          .columns = a->hidden,
                                          .in = cpu->in,
                                          .outputs = {{&a->wq, &a->bq, cpu->out, stride},
                                                      {&a->wk, &a->bk, k, stride},
                                                      {&a->wv, &a->bv, k + s.kv_columns, stride}},
                                          .count = 3};
        med_cpu_multiply(cpu, &product);
        med_cpu_split(cpu, rows, row_grain(stride), qkv_rows, &s);
    }
    return 0;
}

struct project {
    struct med_cpu *cpu;
    const struct med_project_args *args;
    int64_t first;
};

static void project_in(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct project *p = arg;
    const struct med_project_args *a = p->args;
    (void)thread;
    const char *from = at_row(a->dtype, a->in, p->first + begin, a->weight.columns);
    p->cpu->kernels->widen[a->dtype](from, p->cpu->in + begin * a->weight.columns,
                                     (end - begin) * a->weight.columns);
}

static void project_out(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct project *p = arg;
    const struct med_project_args *a = p->args;
    int64_t columns = a->weight.rows;
    (void)thread;
    for (int64_t r = begin; r < end; r++) {
        float *sum = p->cpu->out + r * columns;
        const char *x = at_row(a->dtype, a->x, p->first + r, columns);
        if (a->dtype == MED_DTYPE_F32) {
            for (int64_t i = 0; i < columns; i++)
                sum[i] += ((const float *)(const void *)x)[i];
        } else {
            for (int64_t i = 0; i < columns; i++)
                sum[i] += med_bf16_to_float(((const uint16_t *)(const void *)x)[i]);
        }
        med_cpu_row_narrow(p->cpu, a->dtype, sum, a->x, p->first + r, columns);
    }
}

int med_cpu_project(void *device, const struct med_project_args *a)
{
    struct med_cpu *cpu = device;
    struct project p = {.cpu = cpu, .args = a};
    MED_ASSERT(a->weight.columns <= cpu->in_columns && a->weight.rows <= cpu->out_columns);
    for (p.first = 0; p.first < a->rows; p.first += MED_CPU_ROWS) {
        int64_t rows = rows_from(a->rows, p.first);
        const float *in = cpu->in;
        if (a->dtype == MED_DTYPE_F32) {
            in = (const float *)a->in + p.first * a->weight.columns;
        } else {
            med_cpu_split(cpu, rows, row_grain(a->weight.columns), project_in, &p);
        }
        struct med_cpu_product product = {
            .rows = rows,
            .columns = a->weight.columns,
            .in = in,
            .outputs = {{&a->weight, &a->bias, cpu->out, a->weight.rows}},
            .count = 1};
        med_cpu_multiply(cpu, &product);
        med_cpu_split(cpu, rows, row_grain(a->weight.rows), project_out, &p);
    }
    return 0;
}

struct gate_up {
    struct med_cpu *cpu;
    const struct med_gate_up_args *args;
    int64_t first;
};

static void gate_up_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct gate_up *g = arg;
    int64_t columns = g->args->gate.rows;
    (void)thread;
    for (int64_t r = begin; r < end; r++) {
        float *gate = g->cpu->out + r * 2 * columns;
        g->cpu->kernels->silu_mul(gate, gate + columns, columns);
        med_cpu_row_narrow(g->cpu, g->args->dtype, gate, g->args->out, g->first + r, columns);
    }
}

int med_cpu_gate_up(void *device, const struct med_gate_up_args *a)
{
    struct med_cpu *cpu = device;
    struct gate_up g = {.cpu = cpu, .args = a};
    int64_t columns = a->gate.rows;
    MED_ASSERT(2 * columns <= cpu->out_columns && a->hidden <= cpu->in_columns);
    for (g.first = 0; g.first < a->rows; g.first += MED_CPU_ROWS) {
        int64_t rows = rows_from(a->rows, g.first);
        struct norm norm = {.cpu = cpu,
                            .x = a->x,
                            .first = g.first,
                            .columns = a->hidden,
                            .eps = a->eps,
                            .dtype = a->dtype};
        norm_run(&norm, &a->norm, rows);
        struct med_cpu_product product = {
            .rows = rows,
            .columns = a->hidden,
            .in = cpu->in,
            .outputs = {{&a->gate, &a->bias_gate, cpu->out, 2 * columns},
                        {&a->up, &a->bias_up, cpu->out + columns, 2 * columns}},
            .count = 2};
        med_cpu_multiply(cpu, &product);
        med_cpu_split(cpu, rows, row_grain(columns), gate_up_rows, &g);
    }
    return 0;
}

int med_cpu_head(void *device, const struct med_head_args *a)
{
    struct med_cpu *cpu = device;
    MED_ASSERT(a->hidden <= cpu->in_columns);
    for (int64_t first = 0; first < a->samples; first += MED_CPU_ROWS) {
        int64_t rows = rows_from(a->samples, first);
        struct norm norm = {.cpu = cpu,
                            .x = a->x,
                            .rows = a->rows,
                            .first = first,
                            .columns = a->hidden,
                            .eps = a->eps,
                            .dtype = a->dtype};
        norm_run(&norm, &a->norm, rows);
        float *logits = a->logits + first * a->head.rows;
        struct med_cpu_product product = {.rows = rows,
                                          .columns = a->hidden,
                                          .in = cpu->in,
                                          .outputs = {{&a->head, NULL, logits, a->head.rows}},
                                          .count = 1};
        med_cpu_multiply(cpu, &product);
    }
    return 0;
}

struct sample {
    struct med_cpu *cpu;
    const struct med_sample_args *args;
};

static void sample_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    struct sample *s = arg;
    const struct med_sample_args *a = s->args;
    for (int64_t i = begin; i < end; i++) {
        struct med_draw_input input = a->inputs[i];
        input.logits = a->logits + i * a->vocab;
        input.vocab = a->vocab;
        struct med_draw *draw = &a->results[i];
        draw->status = med_sampler_draw(s->cpu->lanes[thread].sampler, &input, draw);
    }
}

int med_cpu_sample(void *device, const struct med_sample_args *args)
{
    struct sample s = {.cpu = device, .args = args};
    med_cpu_split(device, args->samples, row_grain(args->vocab), sample_rows, &s);
    return 0;
}
