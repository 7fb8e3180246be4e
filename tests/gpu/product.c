/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reference of a product: sums, norms, rope and activations in double precision, over the numbers as
 * the dtype rounds them.  Rows are permuted for logits; every fifth row is padding in the cache, whose
 * slots are otherwise distinct.
 */
#include "tests/gpu/product.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BLOCK_TOKENS = 16,
    BLOCKS = 64
};

static double epsilon(enum med_dtype dtype)
{
    return dtype == MED_DTYPE_F32 ? 0x1p-22 : dtype == MED_DTYPE_F16 ? 0x1p-10 : 0x1p-8;
}

static int64_t out_columns(const struct product_shape *s)
{
    if (s->epilogue == MED_CUDA_ROPE_KV)
        return s->heads * s->head_dim;
    return s->epilogue == MED_CUDA_SWIGLU ? s->outputs / 2 : s->outputs;
}

static size_t out_count(const struct product_shape *s)
{
    return (size_t)(s->rows * out_columns(s));
}

/* As the ops ask for it: rows are picked where they are normed. */
static bool product_picks(const struct product_shape *s)
{
    return s->epilogue == MED_CUDA_LOGITS && s->norm;
}

struct med_cuda_linear_args product_arguments(const struct product *p, int64_t row, int64_t rows)
{
    const struct product_shape *s = &p->shape;
    size_t size = med_dtype_bytes(p->dtype);
    bool picks = product_picks(s);
    return (struct med_cuda_linear_args){
        .rows = rows,
        .columns = s->columns,
        .outputs = s->outputs,
        .in = (char *)p->in.device + (picks ? 0 : (size_t)(row * s->columns) * size),
        .in_rows = picks ? p->in_rows + row : NULL,
        .norm = s->norm ? p->norm.device : NULL,
        .eps = 1e-5f,
        .weight = p->weight.device,
        .bias = s->bias ? p->bias.device : NULL,
        .dtype = p->dtype,
        .epilogue = s->epilogue,
        .out =
            (char *)p->out.device + (size_t)(row * out_columns(s)) * med_dtype_bytes(p->out.dtype),
        .heads = s->heads,
        .kv_heads = s->kv_heads,
        .head_dim = s->head_dim,
        .q_norm = s->q_norm ? p->q_norm.device : NULL,
        .k_norm = s->q_norm ? p->k_norm.device : NULL,
        .positions = p->positions + row,
        .frequencies = p->frequencies.device,
        .slots = p->slots + row,
        .kv = {p->keys.device, p->values.device, p->dtype, BLOCK_TOKENS}};
}

/* ---- the reference ------------------------------------------------------------------------------ */

static void reference_row(const struct product *p, int64_t m, double *h)
{
    const struct product_shape *s = &p->shape;
    const double *x = p->in.host + (product_picks(s) ? p->host_in_rows[m] : m) * s->columns;
    double square = 0;
    for (int64_t k = 0; k < s->columns; k++)
        square += x[k] * x[k];
    double scale = 1 / sqrt(square / (double)s->columns + (double)1e-5f);
    for (int64_t k = 0; k < s->columns; k++)
        h[k] = s->norm ? gpu_round(x[k] * scale * p->norm.host[k], p->dtype) : x[k];
}

static void reference_head_norm(const struct product *p, double *y, const double *norm)
{
    int64_t dim = p->shape.head_dim;
    double square = 0;
    for (int64_t i = 0; i < dim; i++)
        square += y[i] * y[i];
    double scale = 1 / sqrt(square / (double)dim + (double)1e-5f);
    for (int64_t i = 0; i < dim; i++)
        y[i] *= scale * norm[i];
}

static void reference_rope(struct product *p, int64_t m, double *y)
{
    const struct product_shape *s = &p->shape;
    int64_t half = s->head_dim / 2;
    for (int64_t head = 0; head < s->heads + 2 * s->kv_heads; head++) {
        double *values = y + head * s->head_dim;
        if (s->q_norm && head < s->heads + s->kv_heads)
            reference_head_norm(p, values, head < s->heads ? p->q_norm.host : p->k_norm.host);
        for (int64_t i = 0; i < half; i++) {
            double u = values[i], v = values[i + half];
            double angle = (double)((float)p->host_positions[m] * (float)p->frequencies.host[i]);
            double turned_u = u * cos(angle) - v * sin(angle);
            double turned_v = v * cos(angle) + u * sin(angle);
            int64_t slot = p->host_slots[m], kv = head - s->heads;
            if (head < s->heads) {
                p->want[(m * s->heads + head) * s->head_dim + i] = turned_u;
                p->want[(m * s->heads + head) * s->head_dim + i + half] = turned_v;
            } else if (slot >= 0) {
                bool key = kv < s->kv_heads;
                double *to =
                    (key ? p->keys.host : p->values.host) +
                    ((slot / BLOCK_TOKENS * s->kv_heads + kv % s->kv_heads) * BLOCK_TOKENS +
                     slot % BLOCK_TOKENS) *
                        s->head_dim;
                to[i] = key ? turned_u : u;
                to[i + half] = key ? turned_v : v;
            }
        }
    }
}

static void reference_finish(struct product *p, int64_t m, double *y)
{
    const struct product_shape *s = &p->shape;
    if (s->epilogue == MED_CUDA_ROPE_KV) {
        reference_rope(p, m, y);
    } else if (s->epilogue == MED_CUDA_SWIGLU) {
        for (int64_t n = 0; n < s->outputs / 2; n++)
            p->want[m * (s->outputs / 2) + n] = y[n] / (1 + exp(-y[n])) * y[n + s->outputs / 2];
    } else {
        for (int64_t n = 0; n < s->outputs; n++) {
            p->want[m * s->outputs + n] =
                y[n] + (s->epilogue == MED_CUDA_ADD ? p->x.host[m * s->outputs + n] : 0);
        }
    }
}

void product_reference(struct product *p, bool rounds)
{
    const struct product_shape *s = &p->shape;
    double *h = calloc((size_t)s->columns, sizeof *h), *y = calloc((size_t)s->outputs, sizeof *y);
    double largest = 0, longest = 0, most = 0;
    if (!h || !y)
        abort();
    for (int64_t m = 0; m < s->rows; m++) {
        reference_row(p, m, h);
        for (int64_t n = 0; n < s->outputs; n++) {
            const double *w = p->weight.host + n * s->columns;
            double sum = s->bias ? p->bias.host[n] : 0, magnitude = fabs(sum), square = 0;
            for (int64_t k = 0; k < s->columns; k++) {
                double product = h[k] * w[k];
                sum += product;
                magnitude += fabs(product);
                square += product * product;
            }
            y[n] = sum;
            most = fmax(most, fabs(sum));
            largest = fmax(largest, magnitude);
            longest = fmax(longest, sqrt(square));
        }
        reference_finish(p, m, y);
    }
    p->absolute = largest * (p->dtype == MED_DTYPE_F32 ? 0x1p-20 : 0x1p-16) +
                  (s->norm ? 2.5 * longest * epsilon(p->dtype) : 0);
    double raw = rounds ? most * epsilon(p->dtype) / 2 : 0;
    if (s->epilogue == MED_CUDA_ADD && s->bias)
        p->absolute += raw * 2;
    p->rounded = 2 * raw; // a whole half step: the residual is added to what was rounded
    if (s->epilogue == MED_CUDA_SWIGLU)
        p->absolute = (p->absolute + raw) * 2.2 * fmax(most, 1);
    if (s->epilogue == MED_CUDA_ROPE_KV)
        p->absolute = (p->absolute + raw) * 2;
    if (s->q_norm) /* a head of small values is scaled up */
        p->absolute = fmax(p->absolute, epsilon(p->dtype) * 24 + 0x1p-16);
    free(h);
    free(y);
}

/* ---- a product ---------------------------------------------------------------------------------- */

static void indices_fill(struct product *p)
{
    for (int m = 0; m < PRODUCT_ROWS_MAX; m++) {
        p->host_in_rows[m] = (int32_t)((m * 7 + 3) % p->shape.rows);
        p->host_positions[m] = m == 0 ? 0 : (int32_t)(gpu_random_bits() % 5000);
        /* distinct; some rows are padding */
        p->host_slots[m] = m % 5 == 2 ? -1 : (m * 7 + 5) % (BLOCKS * BLOCK_TOKENS);
    }
    p->in_rows = gpu_ints(p->host_in_rows, PRODUCT_ROWS_MAX);
    p->positions = gpu_ints(p->host_positions, PRODUCT_ROWS_MAX);
    p->slots = gpu_ints(p->host_slots, PRODUCT_ROWS_MAX);
}

struct product *product_new(const struct product_shape *shape, enum med_dtype dtype)
{
    struct product *p = calloc(1, sizeof *p);
    if (!p)
        abort();
    p->shape = *shape;
    p->dtype = dtype;
    struct product_shape *s = &p->shape;
    if (s->epilogue == MED_CUDA_ROPE_KV)
        s->outputs = (s->heads + 2 * s->kv_heads) * s->head_dim;
    size_t columns = (size_t)s->columns, outputs = (size_t)s->outputs;
    size_t cache = (size_t)((int64_t)BLOCKS * BLOCK_TOKENS * s->kv_heads * s->head_dim);
    p->in = gpu_random((size_t)s->rows * columns, dtype, 1, 97);
    p->norm = gpu_random(columns, dtype, 1, 0);
    p->weight = gpu_random(columns * outputs, dtype, 1 / sqrt((double)columns), 991);
    p->bias = gpu_random(outputs, dtype, 0.5, 0);
    p->q_norm = gpu_random((size_t)s->head_dim + 1, dtype, 1, 0);
    p->k_norm = gpu_random((size_t)s->head_dim + 1, dtype, 1, 0);
    p->frequencies = gpu_random((size_t)s->head_dim / 2 + 1, MED_DTYPE_F32, 0.3, 0);
    p->keys = gpu_random(cache + 1, dtype, 1, 0);
    p->values = gpu_random(cache + 1, dtype, 1, 0);
    if (s->epilogue == MED_CUDA_ADD) {
        p->x = gpu_random(out_count(s), dtype, 1, 0);
        p->out = p->x;
    } else {
        p->out = gpu_poisoned(out_count(s), s->epilogue == MED_CUDA_LOGITS ? MED_DTYPE_F32 : dtype);
    }
    indices_fill(p);
    p->want = calloc(out_count(s), sizeof *p->want);
    if (!p->want)
        abort();
    return p;
}

void product_free(struct product *p)
{
    struct gpu_array *arrays[] = {&p->in,     &p->norm,   &p->weight, &p->bias,   &p->frequencies,
                                  &p->q_norm, &p->k_norm, &p->keys,   &p->values, &p->out};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        gpu_array_free(arrays[i]);
    (void)cudaFree(p->in_rows);
    (void)cudaFree(p->positions);
    (void)cudaFree(p->slots);
    free(p->want);
    free(p);
}

/* ---- checks ------------------------------------------------------------------------------------- */

void product_name(const struct product *p, char *name, size_t size)
{
    static const char *epilogues[] = {"add", "rope_kv", "swiglu", "logits"};
    const struct product_shape *s = &p->shape;
    (void)snprintf(name, size, "%s.%s.%lldx%lldx%lld%s%s%s", epilogues[s->epilogue],
                   med_dtype_name(p->dtype), (long long)s->rows, (long long)s->outputs,
                   (long long)s->columns, s->norm ? ".norm" : "", s->bias ? ".bias" : "",
                   s->q_norm ? ".heads" : "");
}

bool product_compute(struct med_cuda *d, const char *name, product_fn fn,
                     const struct med_cuda_linear_args *a)
{
    if (fn(d, a) < 0)
        return gpu_report(name, false, "%s", d->failure.text);
    cudaError_t status = cudaStreamSynchronize(d->stream);
    if (status != cudaSuccess)
        return gpu_report(name, false, "%s", cudaGetErrorString(status));
    return true;
}

void product_check(struct med_cuda *d, const char *name, product_fn fn, struct product *p)
{
    char part[192];
    struct med_cuda_linear_args a = product_arguments(p, 0, p->shape.rows);
    if (!product_compute(d, name, fn, &a))
        return;
    (void)gpu_compare(name, &p->out, p->want, p->absolute, epsilon(p->out.dtype));
    if (p->shape.epilogue == MED_CUDA_ROPE_KV) {
        (void)snprintf(part, sizeof part, "%s.keys", name);
        (void)gpu_compare(part, &p->keys, p->keys.host, p->absolute, epsilon(p->dtype));
        (void)snprintf(part, sizeof part, "%s.values", name);
        (void)gpu_compare(part, &p->values, p->values.host, p->absolute, epsilon(p->dtype));
    }
}

void product_check_turns(struct med_cuda *d, const char *prefix, product_fn fn, struct product *p,
                         const int64_t *turns, size_t count)
{
    const struct product_shape *s = &p->shape;
    size_t bytes = out_count(s) * med_dtype_bytes(p->out.dtype);
    char shape[128], name[192];
    char *before = malloc(bytes), *together = malloc(bytes), *apart = malloc(bytes);
    if (!before || !together || !apart)
        abort();
    product_name(p, shape, sizeof shape);
    (void)snprintf(name, sizeof name, "%s.%s", prefix, shape);
    (void)cudaMemcpy(before, p->out.device, bytes, cudaMemcpyDeviceToHost);
    struct med_cuda_linear_args a = product_arguments(p, 0, s->rows);
    bool ok = product_compute(d, name, fn, &a);
    (void)cudaMemcpy(together, p->out.device, bytes, cudaMemcpyDeviceToHost);
    for (size_t i = 0; ok && i < count; i++) {
        (void)snprintf(name, sizeof name, "%s.%s.by%lld", prefix, shape, (long long)turns[i]);
        gpu_put(p->out.device, before, bytes);
        for (int64_t m = 0; ok && m < s->rows; m += turns[i]) {
            a = product_arguments(p, m, s->rows - m < turns[i] ? s->rows - m : turns[i]);
            ok = product_compute(d, name, fn, &a);
        }
        (void)cudaMemcpy(apart, p->out.device, bytes, cudaMemcpyDeviceToHost);
        if (ok)
            (void)gpu_report(name, memcmp(together, apart, bytes) == 0, "%zu bytes alike", bytes);
    }
    free(before);
    free(together);
    free(apart);
}
