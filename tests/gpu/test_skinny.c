/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of up to 128 rows (worker/cuda/skinny.h) against double precision: every epilogue and dtype,
 * sizes that fill no tile, odd numbers of rows; padded rows write nothing to the cache; a row's result
 * is the same bits however many rows there are and wherever among them it stands.
 *
 * Allowed: one rounding to the output's dtype, and 2^-16 of the largest sum of |products| for sums in
 * float32.
 */
#include "tests/gpu/gpu.h"
#include "worker/cuda/skinny.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BLOCK_TOKENS = 16,
    BLOCKS = 16,
    ROWS_MAX = 300 /* more than one launch computes */
};

struct shape {
    enum med_cuda_epilogue epilogue;
    int64_t rows, columns, outputs; /* outputs: of ROPE_KV from the heads */
    int64_t heads, kv_heads, head_dim;
    bool bias;
};

/* One product: what the kernel is given, and what it should give. */
struct product {
    struct shape shape;
    enum med_dtype dtype;
    struct gpu_array in, weight, bias, x, frequencies, keys, values;
    struct gpu_array out;
    int32_t *positions, *slots; /* on the device */
    int32_t host_positions[ROWS_MAX], host_slots[ROWS_MAX];
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
    size_t out_row = out_count(s) / (size_t)s->rows;
    return (struct med_cuda_linear_args){
        .rows = rows,
        .columns = s->columns,
        .outputs = s->outputs,
        .in = (char *)p->in.device + (size_t)(row * s->columns) * size,
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
    double *y = calloc((size_t)s->outputs, sizeof *y);
    double largest = 0, most = 0;
    if (!y)
        abort();
    for (int64_t m = 0; m < s->rows; m++) {
        const double *h = p->in.host + m * s->columns;
        for (int64_t n = 0; n < s->outputs; n++) {
            const double *w = p->weight.host + n * s->columns;
            double sum = s->bias ? p->bias.host[n] : 0, magnitude = fabs(sum);
            for (int64_t k = 0; k < s->columns; k++) {
                sum += h[k] * w[k];
                magnitude += fabs(h[k] * w[k]);
            }
            y[n] = sum;
            most = fmax(most, fabs(sum));
            largest = fmax(largest, magnitude);
        }
        reference_finish(p, m, y);
    }
    p->absolute = largest * 0x1p-16;
    if (s->epilogue == MED_CUDA_SWIGLU)
        p->absolute *= 2.2 * fmax(most, 1);
    if (s->epilogue == MED_CUDA_ROPE_KV)
        p->absolute *= 2;
    free(y);
}

static void indices_fill(struct product *p)
{
    for (int m = 0; m < ROWS_MAX; m++) {
        p->host_positions[m] = m == 0 ? 0 : (int32_t)(gpu_random_bits() % 5000);
        /* distinct; some rows are padding */
        p->host_slots[m] =
            m % 3 == 2 || m >= BLOCKS * BLOCK_TOKENS ? -1 : (m * 7 + 5) % (BLOCKS * BLOCK_TOKENS);
    }
    p->positions = gpu_ints(p->host_positions, ROWS_MAX);
    p->slots = gpu_ints(p->host_slots, ROWS_MAX);
}

static struct product product_new(const struct shape *shape, enum med_dtype dtype)
{
    struct product p = {.shape = *shape, .dtype = dtype};
    struct shape *s = &p.shape;
    if (s->epilogue == MED_CUDA_ROPE_KV)
        s->outputs = (s->heads + 2 * s->kv_heads) * s->head_dim;
    size_t columns = (size_t)s->columns, outputs = (size_t)s->outputs;
    size_t cache = (size_t)(BLOCKS * BLOCK_TOKENS * s->kv_heads * s->head_dim);
    p.in = gpu_random((size_t)s->rows * columns, dtype, 1, 97);
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
    struct gpu_array *arrays[] = {&p->in,   &p->weight, &p->bias, &p->frequencies,
                                  &p->keys, &p->values, &p->out};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        gpu_array_free(arrays[i]);
    (void)cudaFree(p->positions);
    (void)cudaFree(p->slots);
    free(p->want);
}

static bool compute(struct med_cuda *d, const char *name, const struct med_cuda_linear_args *a)
{
    if (!med_cuda_skinny_takes(d, a))
        return gpu_report(name, false, "is not taken");
    if (med_cuda_skinny(d, a) < 0)
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
    (void)snprintf(name, sizeof name, "%s.%s.%lldx%lldx%lld%s", epilogues[s->epilogue],
                   med_dtype_name(dtype), (long long)s->rows, (long long)s->outputs,
                   (long long)s->columns, s->bias ? ".bias" : "");
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

/* All rows together, then in turns of so many: the same bits. */
static void check_turns(struct med_cuda *d, const struct shape *shape, enum med_dtype dtype)
{
    static const int64_t turns[] = {1, 3, 8, 15, 16, 31, 32, 50, 64, 100, 128};
    char name[128];
    struct product p = product_new(shape, dtype);
    const struct shape *s = &p.shape;
    size_t bytes = p.out.count * med_dtype_bytes(p.out.dtype);
    char *before = malloc(bytes), *together = malloc(bytes), *apart = malloc(bytes);
    if (!before || !together || !apart)
        abort();
    (void)cudaMemcpy(before, p.out.device, bytes, cudaMemcpyDeviceToHost);
    struct med_cuda_linear_args a = arguments(&p, 0, s->rows);
    (void)snprintf(name, sizeof name, "together.%d.%s.%lldx%lld", (int)s->epilogue,
                   med_dtype_name(dtype), (long long)s->outputs, (long long)s->columns);
    bool ok = compute(d, name, &a);
    (void)cudaMemcpy(together, p.out.device, bytes, cudaMemcpyDeviceToHost);
    for (size_t i = 0; ok && i < sizeof turns / sizeof *turns; i++) {
        (void)snprintf(name, sizeof name, "turns.%d.%s.%lldx%lld.by.%lld", (int)s->epilogue,
                       med_dtype_name(dtype), (long long)s->outputs, (long long)s->columns,
                       (long long)turns[i]);
        (void)cudaMemcpy(p.out.device, before, bytes, cudaMemcpyHostToDevice);
        for (int64_t m = 0; ok && m < s->rows; m += turns[i]) {
            a = arguments(&p, m, turns[i] < s->rows - m ? turns[i] : s->rows - m);
            ok = compute(d, name, &a);
        }
        (void)cudaMemcpy(apart, p.out.device, bytes, cudaMemcpyDeviceToHost);
        if (ok)
            (void)gpu_report(name, memcmp(together, apart, bytes) == 0, "%zu bytes alike", bytes);
    }
    free(before);
    free(together);
    free(apart);
    product_free(&p);
}

static void check_shapes(struct med_cuda *d, enum med_dtype dtype, bool quick)
{
    static const struct shape shapes[] = {
        {MED_CUDA_ADD, 1, 40, 33, 0, 0, 0, true},
        {MED_CUDA_ADD, 3, 8, 1, 0, 0, 0, false},
        {MED_CUDA_ADD, 129, 56, 31, 0, 0, 0, false},
        {MED_CUDA_ADD, 300, 72, 129, 0, 0, 0, true},
        {MED_CUDA_ROPE_KV, 6, 40, 0, 3, 3, 48, false},
        {MED_CUDA_ROPE_KV, 11, 104, 0, 3, 1, 32, true},
        {MED_CUDA_SWIGLU, 2, 48, 48, 0, 0, 0, true},
        {MED_CUDA_SWIGLU, 33, 200, 272, 0, 0, 0, false},
        {MED_CUDA_LOGITS, 3, 56, 17, 0, 0, 0, false},
        {MED_CUDA_ADD, 8, 11008, 250, 0, 0, 0, false},
        {MED_CUDA_ADD, 31, 1032, 2120, 0, 0, 0, true},
        {MED_CUDA_ADD, 64, 512, 4096, 0, 0, 0, false},
        {MED_CUDA_ADD, 128, 4096, 300, 0, 0, 0, false},
        {MED_CUDA_ROPE_KV, 17, 4096, 0, 2, 1, 128, false},
        {MED_CUDA_ROPE_KV, 37, 896, 0, 14, 2, 64, true},
        {MED_CUDA_ROPE_KV, 128, 128, 0, 5, 2, 80, true},
        {MED_CUDA_ROPE_KV, 9, 264, 0, 3, 1, 256, false},
        {MED_CUDA_SWIGLU, 16, 264, 22016, 0, 0, 0, false},
        {MED_CUDA_SWIGLU, 65, 896, 1936, 0, 0, 0, true},
        {MED_CUDA_LOGITS, 5, 4096, 2103, 0, 0, 0, false},
        {MED_CUDA_LOGITS, 50, 896, 3100, 0, 0, 0, false},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (!quick || shapes[i].columns * shapes[i].outputs < 1 << 14)
            check_product(d, &shapes[i], dtype);
    }
    static const struct shape turns[] = {{MED_CUDA_ADD, 128, 11008, 520, 0, 0, 0, false},
                                         {MED_CUDA_ADD, 128, 4096, 4096, 0, 0, 0, false},
                                         {MED_CUDA_ROPE_KV, 100, 4096, 0, 8, 2, 128, true},
                                         {MED_CUDA_SWIGLU, 128, 904, 2512, 0, 0, 0, false},
                                         {MED_CUDA_LOGITS, 128, 904, 5000, 0, 0, 0, false}};
    for (size_t i = 0; i < sizeof turns / sizeof *turns && !quick; i++)
        check_turns(d, &turns[i], dtype);
}

int main(void)
{
    bool quick = getenv("GPU_QUICK") != NULL;
    struct med_model_config model = gpu_model(64, 2, 2, 32, 64, 64);
    struct med_cuda_config config = {0};
    struct med_ops_sizes sizes = {&model, MED_DTYPE_BF16, MED_DTYPE_BF16, 128, 8, 8, 64, 16};
    struct med_cuda *d = gpu_device(&config, &sizes);
    if (med_cuda_skinny_new(d) < 0)
        (void)gpu_report("new", false, "%s", d->failure.text);
    check_shapes(d, MED_DTYPE_BF16, quick);
    check_shapes(d, MED_DTYPE_F16, quick);
    struct med_cuda_linear_args a = {
        .rows = 9, .columns = 60, .outputs = 64, .dtype = MED_DTYPE_BF16};
    bool takes_60 = med_cuda_skinny_takes(d, &a);
    a.columns = 64;
    a.dtype = MED_DTYPE_F32;
    (void)gpu_report("takes", !takes_60 && !med_cuda_skinny_takes(d, &a),
                     "neither 60 columns nor float32");
    med_cuda_skinny_free(d);
    med_cuda_free(d);
    return gpu_finish();
}
