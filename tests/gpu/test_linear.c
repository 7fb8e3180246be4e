/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products as the ops ask for them (worker/cuda/linear.h), whoever computes them: every epilogue and
 * dtype over numbers of rows around the borders between kernels, sizes that fill no tile, norms of q
 * and k, permuted rows, padded rows; before and after cuBLASLt's algorithms were timed; and in
 * deterministic mode, where a row must be the same bits in any company.
 *
 * Allowed: roundings to the dtype (the product's own, and the raw one before an epilogue apart), and
 * 2^-16 of the largest sum of |products| for sums in float32; with a norm also one normed value
 * rounded the other way.
 */
#include "tests/gpu/gpu.h"
#include "worker/cuda/blas.h"
#include "worker/cuda/linear.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROWS_MAX = 600,
    BLOCK_TOKENS = 16,
    BLOCKS = 64,
    HIDDEN = 1032,
    HEADS = 14,
    KV_HEADS = 2,
    HEAD_DIM = 64,
    INTERMEDIATE = 1048
};

struct shape {
    enum med_cuda_epilogue epilogue;
    int64_t rows, columns, outputs; /* outputs: of ROPE_KV from the heads */
    int64_t heads, kv_heads, head_dim;
    bool norm, bias, q_norm;
};

struct product {
    struct shape shape;
    enum med_dtype dtype;
    struct gpu_array in, norm, weight, bias, x, frequencies, q_norm, k_norm, keys, values;
    struct gpu_array out;
    int32_t *in_rows, *positions, *slots; /* on the device */
    int32_t host_in_rows[ROWS_MAX], host_positions[ROWS_MAX], host_slots[ROWS_MAX];
    double *want;
    double absolute; /* allowed */
    double rounded;  /* and where the product is rounded before it is added to x */
};

static double epsilon(enum med_dtype dtype)
{
    return dtype == MED_DTYPE_F32 ? 0x1p-22 : dtype == MED_DTYPE_F16 ? 0x1p-10 : 0x1p-8;
}

static int64_t out_columns(const struct shape *s)
{
    if (s->epilogue == MED_CUDA_ROPE_KV)
        return s->heads * s->head_dim;
    return s->epilogue == MED_CUDA_SWIGLU ? s->outputs / 2 : s->outputs;
}

static size_t out_count(const struct shape *s)
{
    return (size_t)(s->rows * out_columns(s));
}

static struct med_cuda_linear_args arguments(const struct product *p, int64_t row, int64_t rows)
{
    const struct shape *s = &p->shape;
    size_t size = med_dtype_bytes(p->dtype);
    bool picks = s->epilogue == MED_CUDA_LOGITS;
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
    const struct shape *s = &p->shape;
    const double *x =
        p->in.host + (s->epilogue == MED_CUDA_LOGITS ? p->host_in_rows[m] : m) * s->columns;
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
    const struct shape *s = &p->shape;
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
    const struct shape *s = &p->shape;
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

/* want, the cache as it should be, and what may be allowed. */
static void reference(struct product *p)
{
    const struct shape *s = &p->shape;
    double *h = calloc((size_t)s->columns, sizeof *h), *y = calloc((size_t)s->outputs, sizeof *y);
    double largest = 0, term = 0, most = 0;
    if (!h || !y)
        abort();
    for (int64_t m = 0; m < s->rows; m++) {
        reference_row(p, m, h);
        for (int64_t n = 0; n < s->outputs; n++) {
            const double *w = p->weight.host + n * s->columns;
            double sum = s->bias ? p->bias.host[n] : 0, magnitude = fabs(sum);
            for (int64_t k = 0; k < s->columns; k++) {
                double product = h[k] * w[k];
                sum += product;
                magnitude += fabs(product);
                term = fmax(term, fabs(product));
            }
            y[n] = sum;
            most = fmax(most, fabs(sum));
            largest = fmax(largest, magnitude);
        }
        reference_finish(p, m, y);
    }
    p->absolute = largest * (p->dtype == MED_DTYPE_F32 ? 0x1p-20 : 0x1p-16) +
                  (s->norm ? term * epsilon(p->dtype) : 0);
    /* The raw product is rounded once before an epilogue of its own. */
    if (s->epilogue == MED_CUDA_ADD && s->bias)
        p->absolute += most * epsilon(p->dtype);
    p->rounded = most * epsilon(p->dtype) / 2;
    if (s->epilogue == MED_CUDA_SWIGLU)
        p->absolute = (p->absolute + most * epsilon(p->dtype) / 2) * 2.2 * fmax(most, 1);
    if (s->epilogue == MED_CUDA_ROPE_KV)
        p->absolute = (p->absolute + most * epsilon(p->dtype) / 2) * 2;
    if (s->q_norm) /* a head of small values is scaled up */
        p->absolute = fmax(p->absolute, epsilon(p->dtype) * 24 + 0x1p-16);
    free(h);
    free(y);
}

/* ---- a product ---------------------------------------------------------------------------------- */

static void indices_fill(struct product *p)
{
    for (int m = 0; m < ROWS_MAX; m++) {
        p->host_in_rows[m] = (int32_t)((m * 7 + 3) % p->shape.rows);
        p->host_positions[m] = m == 0 ? 0 : (int32_t)(gpu_random_bits() % 5000);
        /* distinct; some rows are padding */
        p->host_slots[m] = m % 5 == 2 ? -1 : (m * 7 + 5) % (BLOCKS * BLOCK_TOKENS);
    }
    p->in_rows = gpu_ints(p->host_in_rows, ROWS_MAX);
    p->positions = gpu_ints(p->host_positions, ROWS_MAX);
    p->slots = gpu_ints(p->host_slots, ROWS_MAX);
}

static struct product *product_new(const struct shape *shape, enum med_dtype dtype)
{
    struct product *p = calloc(1, sizeof *p);
    if (!p)
        abort();
    p->shape = *shape;
    p->dtype = dtype;
    struct shape *s = &p->shape;
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

static void product_free(struct product *p)
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

static bool compute(struct med_cuda *d, const char *name, const struct med_cuda_linear_args *a)
{
    if (med_cuda_linear(d, a) < 0)
        return gpu_report(name, false, "%s", d->failure.text);
    cudaError_t status = cudaStreamSynchronize(d->stream);
    if (status != cudaSuccess)
        return gpu_report(name, false, "%s", cudaGetErrorString(status));
    return true;
}

static const char *way_name(const struct med_cuda *d, struct med_cuda_linear_args a)
{
    static const char *names[] = {"small", "skinny", "blas", "plain"};
    if (a.q_norm) {
        a.q_norm = a.k_norm = NULL;
        a.epilogue = MED_CUDA_ADD;
    }
    return names[med_cuda_linear_choose(d, &a)];
}

static void check_product(struct med_cuda *d, const char *when, const struct shape *shape)
{
    static const char *epilogues[] = {"add", "rope_kv", "swiglu", "logits"};
    enum med_dtype dtype = d->dtype;
    char name[128], part[160];
    struct product *p = product_new(shape, dtype);
    const struct shape *s = &p->shape;
    reference(p);
    struct med_cuda_linear_args a = arguments(p, 0, s->rows);
    (void)snprintf(name, sizeof name, "%s%s.%s.%s.%lldx%lldx%lld%s%s%s", when, way_name(d, a),
                   epilogues[s->epilogue], med_dtype_name(dtype), (long long)s->rows,
                   (long long)s->outputs, (long long)s->columns, s->norm ? ".norm" : "",
                   s->bias ? ".bias" : "", s->q_norm ? ".heads" : "");
    /* cuBLASLt rounds the product, then adds x to it and rounds again. */
    if (s->epilogue == MED_CUDA_ADD && strcmp(way_name(d, a), "blas") == 0)
        p->absolute += p->rounded;
    if (compute(d, name, &a)) {
        double relative = epsilon(p->out.dtype), kv = epsilon(dtype);
        (void)gpu_compare(name, &p->out, p->want, p->absolute, relative);
        if (s->epilogue == MED_CUDA_ROPE_KV) {
            (void)snprintf(part, sizeof part, "%s.keys", name);
            (void)gpu_compare(part, &p->keys, p->keys.host, p->absolute, kv);
            (void)snprintf(part, sizeof part, "%s.values", name);
            (void)gpu_compare(part, &p->values, p->values.host, p->absolute, kv);
        }
    }
    product_free(p);
}

/* The same bits whether rows are computed together or in turns of `turn`. */
static void check_alone(struct med_cuda *d, const struct shape *shape, int64_t turn)
{
    struct product *p = product_new(shape, d->dtype);
    const struct shape *s = &p->shape;
    size_t bytes = out_count(s) * med_dtype_bytes(p->out.dtype);
    char name[128], *before = malloc(bytes), *together = malloc(bytes), *alone = malloc(bytes);
    if (!before || !together || !alone)
        abort();
    (void)snprintf(name, sizeof name, "alone.%d.%s.%lldx%lldx%lld.by%lld", (int)s->epilogue,
                   med_dtype_name(d->dtype), (long long)s->rows, (long long)s->outputs,
                   (long long)s->columns, (long long)turn);
    (void)cudaMemcpy(before, p->out.device, bytes, cudaMemcpyDeviceToHost);
    struct med_cuda_linear_args a = arguments(p, 0, s->rows);
    bool ok = compute(d, name, &a);
    (void)cudaMemcpy(together, p->out.device, bytes, cudaMemcpyDeviceToHost);
    (void)cudaMemcpy(p->out.device, before, bytes, cudaMemcpyHostToDevice);
    for (int64_t m = 0; ok && m < s->rows; m += turn) {
        a = arguments(p, m, s->rows - m < turn ? s->rows - m : turn);
        ok = compute(d, name, &a);
    }
    (void)cudaMemcpy(alone, p->out.device, bytes, cudaMemcpyDeviceToHost);
    if (ok)
        (void)gpu_report(name, memcmp(together, alone, bytes) == 0, "%zu bytes alike", bytes);
    free(before);
    free(together);
    free(alone);
    product_free(p);
}

/* ---- cases -------------------------------------------------------------------------------------- */

static void check_rows(struct med_cuda *d, const char *when, const int *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct shape all[] = {{MED_CUDA_ADD, rows[i], 264, 104, 0, 0, 0, false, true, false},
                              {MED_CUDA_ADD, rows[i], 328, 72, 0, 0, 0, false, false, false},
                              {MED_CUDA_ROPE_KV, rows[i], 328, 0, 2, 1, 32, true, false, false},
                              {MED_CUDA_ROPE_KV, rows[i], 136, 0, 2, 1, 64, true, false, true},
                              {MED_CUDA_SWIGLU, rows[i], 264, 96, 0, 0, 0, true, false, false},
                              {MED_CUDA_LOGITS, rows[i], 264, 136, 0, 0, 0, true, false, false}};
        for (size_t k = 0; k < sizeof all / sizeof *all; k++)
            check_product(d, when, &all[k]);
    }
}

static void check_shapes(struct med_cuda *d, const char *when, bool quick)
{
    static const struct shape shapes[] = {
        {MED_CUDA_ADD, 150, 261, 33, 0, 0, 0, false, true, false},
        {MED_CUDA_ADD, 3, 7, 1, 0, 0, 0, false, false, false},
        {MED_CUDA_ROPE_KV, 5, 35, 0, 3, 3, 10, true, true, false},
        {MED_CUDA_ROPE_KV, 131, 40, 0, 3, 1, 10, true, false, true},
        {MED_CUDA_ROPE_KV, 140, 104, 0, 4, 2, 96, true, true, false},
        {MED_CUDA_ROPE_KV, 31, 104, 0, 4, 2, 96, true, false, true},
        {MED_CUDA_ROPE_KV, 135, 72, 0, 2, 1, 128, true, true, true},
        {MED_CUDA_SWIGLU, 133, 33, 26, 0, 0, 0, true, true, false},
        {MED_CUDA_LOGITS, 140, 31, 33, 0, 0, 0, true, false, false},
        {MED_CUDA_ROPE_KV, 300, HIDDEN, 0, HEADS, KV_HEADS, HEAD_DIM, true, true, false},
        {MED_CUDA_SWIGLU, 257, HIDDEN, (int64_t)2 * INTERMEDIATE, 0, 0, 0, true, false, false},
        {MED_CUDA_SWIGLU, 40, HIDDEN, (int64_t)2 * INTERMEDIATE, 0, 0, 0, true, true, false},
        {MED_CUDA_ADD, 200, INTERMEDIATE, HIDDEN, 0, 0, 0, false, false, false},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (!quick || shapes[i].columns * shapes[i].outputs < 1 << 14)
            check_product(d, when, &shapes[i]);
    }
}

static void check_device(enum med_dtype dtype, bool quick)
{
    static const int rows[] = {1,  2,   7,   8,   9,   16,  31,  33,
                               64, 100, 127, 128, 129, 257, 384, ROWS_MAX};
    static const int few[] = {3, 130};
    struct med_model_config model = gpu_model(HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, 136);
    struct med_cuda_config config = {0};
    struct med_ops_sizes sizes = {&model, dtype, dtype, ROWS_MAX, ROWS_MAX, ROWS_MAX, 5000, 16};
    struct med_cuda *d = gpu_device(&config, &sizes);
    if (quick) {
        check_rows(d, "", few, 2);
    } else {
        check_rows(d, "", rows, sizeof rows / sizeof *rows);
    }
    check_shapes(d, "", quick);
    med_cuda_free(d);
}

/* Algorithms are timed on weights that stay; then every number of rows up to the most is right. */
static void check_tuned(enum med_dtype dtype)
{
    static const struct shape shapes[] = {
        {MED_CUDA_ADD, 300, 328, 72, 0, 0, 0, false, false, false},
        {MED_CUDA_SWIGLU, 300, 264, 96, 0, 0, 0, true, false, false},
        {MED_CUDA_LOGITS, 300, 264, 136, 0, 0, 0, true, false, false}};
    static const int rows[] = {1, 130, 131, 150, 192, 193, 255, 300, 513, ROWS_MAX};
    struct med_model_config model = gpu_model(HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, 136);
    struct med_cuda_config config = {0};
    struct med_ops_sizes sizes = {&model, dtype, dtype, ROWS_MAX, ROWS_MAX, ROWS_MAX, 5000, 16};
    struct med_cuda *d = gpu_device(&config, &sizes);
    struct product *kept[sizeof shapes / sizeof *shapes];
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        kept[i] = product_new(&shapes[i], dtype);
        struct med_cuda_linear_args a = arguments(kept[i], 0, 300);
        if (med_cuda_linear(d, &a) < 0)
            (void)gpu_report("tuned", false, "%s", d->failure.text);
    }
    bool ok = med_cuda_blas_tune(d) == 0;
    (void)gpu_report("tuned", ok && d->stats.blas_tuned > 0, "%lld timed",
                     (long long)d->stats.blas_tuned);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
            struct shape s = shapes[i];
            s.rows = rows[k];
            check_product(d, "tuned.", &s);
        }
        product_free(kept[i]);
    }
    med_cuda_free(d);
}

static void check_deterministic(enum med_dtype dtype, bool quick)
{
    static const int rows[] = {1, 9, 130, ROWS_MAX};
    static const struct shape alone[] = {
        {MED_CUDA_ADD, 200, INTERMEDIATE, 264, 0, 0, 0, false, true, false},
        {MED_CUDA_ADD, 70, 261, 33, 0, 0, 0, false, false, false},
        {MED_CUDA_ROPE_KV, 130, HIDDEN, 0, HEADS, KV_HEADS, HEAD_DIM, true, true, false},
        {MED_CUDA_ROPE_KV, 130, 136, 0, 4, 2, 64, true, false, true},
        {MED_CUDA_SWIGLU, 150, 904, 500, 0, 0, 0, true, false, false},
        {MED_CUDA_LOGITS, 33, 904, 500, 0, 0, 0, true, false, false}};
    static const int64_t turns[] = {1, 13, 64};
    struct med_model_config model = gpu_model(HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, 136);
    struct med_cuda_config config = {.deterministic = true};
    struct med_ops_sizes sizes = {&model, dtype, dtype, ROWS_MAX, ROWS_MAX, ROWS_MAX, 5000, 16};
    struct med_cuda *d = gpu_device(&config, &sizes);
    check_rows(d, "deterministic.", rows, quick ? 2 : sizeof rows / sizeof *rows);
    if (!quick)
        check_shapes(d, "deterministic.", true);
    for (size_t i = 0; i < sizeof alone / sizeof *alone && !quick; i++) {
        for (size_t k = 0; k < sizeof turns / sizeof *turns; k++)
            check_alone(d, &alone[i], turns[k]);
    }
    med_cuda_free(d);
}

int main(void)
{
    bool quick = getenv("GPU_QUICK") != NULL;
    static const enum med_dtype dtypes[] = {MED_DTYPE_BF16, MED_DTYPE_F16, MED_DTYPE_F32};
    for (int i = 0; i < 3; i++) {
        check_device(dtypes[i], quick);
        if (!quick)
            check_tuned(dtypes[i]);
        check_deterministic(dtypes[i], quick);
    }
    return gpu_finish();
}
