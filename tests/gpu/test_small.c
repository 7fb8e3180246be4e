/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of few rows (worker/cuda/small.h) against double precision: every epilogue, dtype and number
 * of rows, sizes that fill no tile, with and without norm, bias and permuted rows; padded rows write
 * nothing to the cache; a row's result is the same bits whatever is beside it.
 *
 * Allowed: one rounding to the output's dtype, and 2^-16 of the largest sum of |products| for sums in
 * float32; with a norm also one normed value rounded the other way.
 */
#include "tests/gpu/gpu.h"
#include "worker/cuda/small.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BLOCK_TOKENS = 16,
    BLOCKS = 4
};

struct shape {
    enum med_cuda_epilogue epilogue;
    int64_t rows, columns, outputs; /* outputs: of ROPE_KV from the heads */
    int64_t heads, kv_heads, head_dim;
    bool norm, bias;
};

/* One product: what the kernel is given, and what it should give. */
struct product {
    struct shape shape;
    enum med_dtype dtype;
    struct gpu_array in, norm, weight, bias, x, frequencies, keys, values;
    struct gpu_array out;
    int32_t *in_rows, *positions, *slots; /* on the device */
    int32_t host_in_rows[MED_CUDA_SMALL_ROWS], host_positions[MED_CUDA_SMALL_ROWS];
    int32_t host_slots[MED_CUDA_SMALL_ROWS];
    double *want;
    double absolute; /* allowed */
};

static double epsilon(enum med_dtype dtype)
{
    return dtype == MED_DTYPE_F32 ? 0x1p-22 : dtype == MED_DTYPE_F16 ? 0x1p-10 : 0x1p-8;
}

static size_t out_count(const struct shape *s)
{
    if (s->epilogue == MED_CUDA_ROPE_KV)
        return (size_t)(s->rows * s->heads * s->head_dim);
    return (size_t)(s->rows * s->outputs / (s->epilogue == MED_CUDA_SWIGLU ? 2 : 1));
}

static struct med_cuda_linear_args arguments(const struct product *p, int64_t row, int64_t rows)
{
    const struct shape *s = &p->shape;
    size_t size = med_dtype_bytes(p->dtype);
    bool picks = s->epilogue == MED_CUDA_LOGITS;
    size_t out_row = out_count(s) / (size_t)s->rows;
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
        .out = (char *)p->out.device + (size_t)row * out_row * med_dtype_bytes(p->out.dtype),
        .heads = s->heads,
        .kv_heads = s->kv_heads,
        .head_dim = s->head_dim,
        .positions = p->positions + row,
        .frequencies = p->frequencies.device,
        .slots = p->slots + row,
        .kv = {p->keys.device, p->values.device, p->dtype, BLOCK_TOKENS}};
}

/* h[columns] = the row that the product takes, as dtype rounds it. */
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

static void reference_rope(struct product *p, int64_t m, const double *y)
{
    const struct shape *s = &p->shape;
    int64_t half = s->head_dim / 2;
    for (int64_t head = 0; head < s->heads + 2 * s->kv_heads; head++) {
        for (int64_t i = 0; i < half; i++) {
            double u = y[head * s->head_dim + i], v = y[head * s->head_dim + i + half];
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

static void reference_finish(struct product *p, int64_t m, const double *y)
{
    const struct shape *s = &p->shape;
    if (s->epilogue == MED_CUDA_ROPE_KV) {
        reference_rope(p, m, y);
    } else if (s->epilogue == MED_CUDA_SWIGLU) {
        for (int64_t n = 0; n < s->outputs / 2; n++)
            p->want[m * (s->outputs / 2) + n] = y[n] / (1 + exp(-y[n])) * y[n + s->outputs / 2];
    } else {
        for (int64_t n = 0; n < s->outputs; n++)
            p->want[m * s->outputs + n] =
                y[n] + (s->epilogue == MED_CUDA_ADD ? p->x.host[m * s->outputs + n] : 0);
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
    if (s->epilogue == MED_CUDA_SWIGLU)
        p->absolute *= 2.2 * fmax(most, 1);
    if (s->epilogue == MED_CUDA_ROPE_KV)
        p->absolute *= 2;
    free(h);
    free(y);
}

static void indices_fill(struct product *p)
{
    for (int m = 0; m < MED_CUDA_SMALL_ROWS; m++) {
        p->host_in_rows[m] = (m * 5 + 3) % MED_CUDA_SMALL_ROWS;
        p->host_positions[m] = m == 0 ? 0 : (int32_t)(gpu_random_bits() % 5000);
        /* distinct; some rows are padding */
        p->host_slots[m] = m % 3 == 2 ? -1 : (m * 7 + 5) % (BLOCKS * BLOCK_TOKENS);
    }
    p->in_rows = gpu_ints(p->host_in_rows, MED_CUDA_SMALL_ROWS);
    p->positions = gpu_ints(p->host_positions, MED_CUDA_SMALL_ROWS);
    p->slots = gpu_ints(p->host_slots, MED_CUDA_SMALL_ROWS);
}

static struct product product_new(const struct shape *shape, enum med_dtype dtype)
{
    struct product p = {.shape = *shape, .dtype = dtype};
    struct shape *s = &p.shape;
    if (s->epilogue == MED_CUDA_ROPE_KV)
        s->outputs = (s->heads + 2 * s->kv_heads) * s->head_dim;
    size_t columns = (size_t)s->columns, outputs = (size_t)s->outputs;
    size_t cache = (size_t)(BLOCKS * BLOCK_TOKENS * s->kv_heads * s->head_dim);
    p.in = gpu_random(MED_CUDA_SMALL_ROWS * columns, dtype, 1, 97);
    p.norm = gpu_random(columns, dtype, 1, 0);
    p.weight = gpu_random(columns * outputs, dtype, 1 / sqrt((double)columns), 991);
    p.bias = gpu_random(outputs, dtype, 0.5, 0);
    p.frequencies = gpu_random((size_t)s->head_dim / 2 + 1, MED_DTYPE_F32, 0.3, 0);
    p.keys = gpu_random(cache + 1, dtype, 1, 0);
    p.values = gpu_random(cache + 1, dtype, 1, 0);
    if (s->epilogue == MED_CUDA_ADD) {
        p.x = gpu_random(out_count(s), dtype, 1, 0);
        p.out = p.x;
    } else {
        p.out = gpu_poisoned(out_count(s), s->epilogue == MED_CUDA_LOGITS ? MED_DTYPE_F32 : dtype);
    }
    indices_fill(&p);
    p.want = calloc(out_count(s), sizeof *p.want);
    if (!p.want)
        abort();
    return p;
}

static void product_free(struct product *p)
{
    struct gpu_array *arrays[] = {&p->in,          &p->norm, &p->weight, &p->bias,
                                  &p->frequencies, &p->keys, &p->values, &p->out};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        gpu_array_free(arrays[i]);
    (void)cudaFree(p->in_rows);
    (void)cudaFree(p->positions);
    (void)cudaFree(p->slots);
    free(p->want);
}

static bool compute(struct med_cuda *d, const char *name, const struct med_cuda_linear_args *a)
{
    if (!med_cuda_small_takes(d, a))
        return gpu_report(name, false, "is not taken");
    if (med_cuda_small(d, a) < 0)
        return gpu_report(name, false, "%s", d->failure.text);
    cudaError_t status = cudaStreamSynchronize(d->stream);
    if (status != cudaSuccess)
        return gpu_report(name, false, "%s", cudaGetErrorString(status));
    return true;
}

static void check_product(struct med_cuda *d, const struct shape *shape, enum med_dtype dtype)
{
    static const char *epilogues[] = {"add", "rope_kv", "swiglu", "logits"};
    char name[128], part[160];
    struct product p = product_new(shape, dtype);
    const struct shape *s = &p.shape;
    (void)snprintf(name, sizeof name, "%s.%s.%lldx%lldx%lld%s%s", epilogues[s->epilogue],
                   med_dtype_name(dtype), (long long)s->rows, (long long)s->outputs,
                   (long long)s->columns, s->norm ? ".norm" : "", s->bias ? ".bias" : "");
    reference(&p);
    struct med_cuda_linear_args a = arguments(&p, 0, s->rows);
    if (compute(d, name, &a)) {
        double relative = epsilon(p.out.dtype), kv = epsilon(dtype);
        (void)gpu_compare(name, &p.out, p.want, p.absolute, relative);
        if (s->epilogue == MED_CUDA_ROPE_KV) {
            (void)snprintf(part, sizeof part, "%s.keys", name);
            (void)gpu_compare(part, &p.keys, p.keys.host, p.absolute, kv);
            (void)snprintf(part, sizeof part, "%s.values", name);
            (void)gpu_compare(part, &p.values, p.values.host, p.absolute, kv);
        }
    }
    product_free(&p);
}

/* The rows together, then each alone: the same bits. */
static void check_alone(struct med_cuda *d, const struct shape *shape, enum med_dtype dtype)
{
    char name[128];
    struct product p = product_new(shape, dtype);
    const struct shape *s = &p.shape;
    size_t bytes = p.out.count * med_dtype_bytes(p.out.dtype);
    char *before = malloc(bytes), *together = malloc(bytes), *alone = malloc(bytes);
    if (!before || !together || !alone)
        abort();
    (void)snprintf(name, sizeof name, "alone.%d.%s.%lldx%lld", (int)s->epilogue,
                   med_dtype_name(dtype), (long long)s->outputs, (long long)s->columns);
    (void)cudaMemcpy(before, p.out.device, bytes, cudaMemcpyDeviceToHost);
    struct med_cuda_linear_args a = arguments(&p, 0, s->rows);
    bool ok = compute(d, name, &a);
    (void)cudaMemcpy(together, p.out.device, bytes, cudaMemcpyDeviceToHost);
    (void)cudaMemcpy(p.out.device, before, bytes, cudaMemcpyHostToDevice);
    for (int64_t m = 0; ok && m < s->rows; m++) {
        a = arguments(&p, m, 1);
        ok = compute(d, name, &a);
    }
    (void)cudaMemcpy(alone, p.out.device, bytes, cudaMemcpyDeviceToHost);
    if (ok)
        (void)gpu_report(name, memcmp(together, alone, bytes) == 0, "%zu bytes alike", bytes);
    free(before);
    free(together);
    free(alone);
    product_free(&p);
}

static void check_shapes(struct med_cuda *d, enum med_dtype dtype, bool quick)
{
    static const struct shape shapes[] = {
        {MED_CUDA_ADD, 1, 40, 33, 0, 0, 0, false, true},
        {MED_CUDA_ADD, 3, 8, 1, 0, 0, 0, false, false},
        {MED_CUDA_ADD, 8, 11008, 250, 0, 0, 0, false, false},
        {MED_CUDA_ADD, 1, 1032, 2120, 0, 0, 0, false, true},
        {MED_CUDA_ADD, 5, 520, 4096, 0, 0, 0, true, false},
        {MED_CUDA_ADD, 7, 4096, 1100, 0, 0, 0, false, false},
        {MED_CUDA_ROPE_KV, 1, 4096, 0, 2, 1, 128, true, false},
        {MED_CUDA_ROPE_KV, 8, 896, 0, 14, 2, 64, true, true},
        {MED_CUDA_ROPE_KV, 6, 40, 0, 3, 3, 10, true, false},
        {MED_CUDA_ROPE_KV, 4, 4096, 0, 8, 2, 128, true, false},
        {MED_CUDA_SWIGLU, 1, 264, 22016, 0, 0, 0, true, false},
        {MED_CUDA_SWIGLU, 8, 896, 9728, 0, 0, 0, true, false},
        {MED_CUDA_SWIGLU, 2, 48, 26, 0, 0, 0, true, true},
        {MED_CUDA_SWIGLU, 8, 4096, 1034, 0, 0, 0, true, false},
        {MED_CUDA_LOGITS, 1, 4096, 2103, 0, 0, 0, true, false},
        {MED_CUDA_LOGITS, 8, 896, 9100, 0, 0, 0, true, false},
        {MED_CUDA_LOGITS, 8, 4096, 300, 0, 0, 0, true, false},
        {MED_CUDA_LOGITS, 3, 56, 17, 0, 0, 0, false, false},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (!quick || shapes[i].columns * shapes[i].outputs < 1 << 16)
            check_product(d, &shapes[i], dtype);
    }
    for (int rows = 1; rows <= MED_CUDA_SMALL_ROWS; rows++) {
        struct shape all[] = {{MED_CUDA_ADD, rows, 904, 105, 0, 0, 0, false, true},
                              {MED_CUDA_ROPE_KV, rows, 328, 0, 2, 1, 32, true, false},
                              {MED_CUDA_SWIGLU, rows, 1032, 94, 0, 0, 0, true, false},
                              {MED_CUDA_LOGITS, rows, 264, 131, 0, 0, 0, true, false}};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            check_product(d, &all[i], dtype);
    }
}

int main(void)
{
    bool quick = getenv("GPU_QUICK") != NULL;
    struct med_model_config model = gpu_model(64, 2, 2, 32, 64, 64);
    struct med_cuda_config config = {0};
    struct med_ops_sizes sizes = {&model, MED_DTYPE_BF16, MED_DTYPE_BF16, 8, 8, 8, 64, 16};
    static const enum med_dtype dtypes[] = {MED_DTYPE_BF16, MED_DTYPE_F16, MED_DTYPE_F32};
    static const struct shape alone[] = {{MED_CUDA_ADD, 8, 11008, 520, 0, 0, 0, false, false},
                                         {MED_CUDA_SWIGLU, 8, 4096, 2500, 0, 0, 0, true, false},
                                         {MED_CUDA_LOGITS, 7, 904, 500, 0, 0, 0, true, false}};
    struct med_cuda *d = gpu_device(&config, &sizes);
    if (med_cuda_small_new(d) < 0)
        (void)gpu_report("new", false, "%s", d->failure.text);
    for (int i = 0; i < 3; i++) {
        check_shapes(d, dtypes[i], quick || dtypes[i] == MED_DTYPE_F32);
        for (size_t k = 0; k < sizeof alone / sizeof *alone && !quick; k++)
            check_alone(d, &alone[k], dtypes[i]);
    }
    struct med_cuda_linear_args a = {.rows = 9, .columns = 64, .outputs = 64};
    bool takes_9 = med_cuda_small_takes(d, &a);
    a.rows = 8;
    a.columns = 60;
    (void)gpu_report("takes", !takes_9 && !med_cuda_small_takes(d, &a),
                     "neither 9 rows nor 60 columns");
    med_cuda_free(d);
    return gpu_finish();
}
