/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention over the paged cache against double precision: batches of decodes and prefills with scattered
 * block tables, blocks that items share, windows, padding, every dtype; what no row may look at is NaN.
 * Deterministic plans: the same bits for a row however its prompt was cut and whatever is beside it.
 */
#include "tests/gpu/gpu.h"
#include "worker/cuda/attend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ITEMS_MAX = 80,
    BLOCKS_SPARE = 7
};

struct shape {
    const char *name;
    enum med_dtype dtype, kv_dtype;
    int heads, kv_heads, head_dim, block_tokens, window;
    int outlier_every; /* of queries and keys */
    bool small_shared; /* as on a GPU with 99 KiB of shared memory per block */
};

struct items {
    int count, padded; /* padded: 0, or a recorded batch of so many */
    int context[ITEMS_MAX], rows[ITEMS_MAX];
    int shared_blocks; /* the first blocks of every item are item 0's */
};

/* thread: main */
struct world {
    struct shape shape;
    struct items items;
    struct med_cuda *d;
    struct gpu_array q, keys, values, out;
    int32_t *tables, *begins, *item_rows, *contexts; /* host; tables by stride */
    int32_t *packed;                                 /* host */
    int64_t stride, rows, blocks, packed_count;
    void *device_batch[3], *device_plan;
};

static void *allocate(size_t count, size_t bytes)
{
    void *memory = calloc(count ? count : 1, bytes);
    if (!memory)
        exit(2);
    return memory;
}

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static void cuda(cudaError_t status, const char *what)
{
    if (status != cudaSuccess) {
        (void)printf("FAIL %s %s\n", what, cudaGetErrorString(status));
        exit(1);
    }
}

/* Tables of blocks in random order. */
static void tables_make(struct world *w)
{
    const struct items *it = &w->items;
    int64_t total = 0, next = 0;
    for (int i = 0; i < it->count; i++) {
        int64_t blocks = divide_up(it->context[i] + it->rows[i], w->shape.block_tokens);
        w->stride = blocks > w->stride ? blocks : w->stride;
        total += blocks;
    }
    w->blocks = total + BLOCKS_SPARE;
    int32_t *order = allocate((size_t)w->blocks, sizeof *order);
    for (int64_t i = 0; i < w->blocks; i++)
        order[i] = (int32_t)i;
    for (int64_t i = w->blocks - 1; i > 0; i--) {
        int64_t other = (int64_t)(gpu_random_bits() % (uint64_t)(i + 1));
        int32_t kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
    w->tables = allocate((size_t)(w->stride * it->count), sizeof *w->tables);
    w->packed = allocate((size_t)total, sizeof *w->packed);
    for (int i = 0; i < it->count; i++) {
        int64_t blocks = divide_up(it->context[i] + it->rows[i], w->shape.block_tokens);
        for (int64_t b = 0; b < blocks; b++) {
            int32_t block = i > 0 && b < it->shared_blocks ? w->tables[b] : order[next++];
            w->tables[i * w->stride + b] = block;
            w->packed[w->packed_count++] = block;
        }
    }
    free(order);
}

/* NaN wherever no row may look. */
static void cache_poison(struct world *w, const struct gpu_array *cache)
{
    const struct shape *s = &w->shape;
    size_t bytes = med_dtype_bytes(s->kv_dtype), token = (size_t)s->head_dim * bytes;
    size_t head = (size_t)s->block_tokens * token, block = (size_t)s->kv_heads * head;
    int *used = allocate((size_t)w->blocks, sizeof *used); /* tokens */
    for (int i = 0; i < w->items.count; i++) {
        int tokens = w->items.context[i] + w->items.rows[i];
        for (int b = 0; b * s->block_tokens < tokens; b++) {
            int here = tokens - b * s->block_tokens, *u = &used[w->tables[i * w->stride + b]];
            here = here < s->block_tokens ? here : s->block_tokens;
            *u = here > *u ? here : *u;
        }
    }
    for (int64_t b = 0; b < w->blocks; b++) {
        for (int h = 0; h < s->kv_heads && used[b] < s->block_tokens; h++)
            cuda(cudaMemset((char *)cache->device + (size_t)b * block + (size_t)h * head +
                                (size_t)used[b] * token,
                            0xff, head - (size_t)used[b] * token),
                 "cudaMemset");
    }
    free(used);
}

static struct world world_new(const struct shape *shape, const struct items *items,
                              bool deterministic)
{
    struct world w = {.shape = *shape, .items = *items};
    tables_make(&w);
    w.item_rows = allocate(ITEMS_MAX + 1, sizeof(int32_t));
    w.contexts = allocate(ITEMS_MAX, sizeof(int32_t));
    for (int i = 0; i < items->count; i++) {
        w.item_rows[i] = (int32_t)w.rows;
        w.contexts[i] = items->context[i];
        w.rows += items->rows[i];
    }
    int64_t rows = w.rows, most = items->padded > items->count ? items->padded : items->count;
    w.item_rows[items->count] = (int32_t)rows;
    int64_t rows_max = rows > most ? rows : most;
    struct med_model_config model =
        gpu_model(64, shape->heads, shape->kv_heads, shape->head_dim, 64, 64);
    model.window = shape->window;
    if (shape->window)
        model.window_layers[0] = 1;
    struct med_cuda_config config = {.deterministic = deterministic};
    struct med_ops_sizes sizes = {.model = &model,
                                  .dtype = shape->dtype,
                                  .kv_dtype = shape->kv_dtype,
                                  .rows_max = rows_max,
                                  .items_max = most,
                                  .samples_max = most,
                                  .model_len_max = w.stride * shape->block_tokens,
                                  .block_tokens = shape->block_tokens};
    w.d = gpu_device(&config, &sizes);
    if (shape->small_shared)
        w.d->shared_bytes_max = 99 * 1024;
    size_t cache = (size_t)(w.blocks * shape->kv_heads * shape->block_tokens * shape->head_dim);
    size_t row = (size_t)(shape->heads * shape->head_dim);
    w.q = gpu_random((size_t)rows_max * row, shape->dtype, 1, (size_t)shape->outlier_every);
    w.keys = gpu_random(cache, shape->kv_dtype, 1, (size_t)shape->outlier_every);
    w.values = gpu_random(cache, shape->kv_dtype, 1, 0);
    cache_poison(&w, &w.keys);
    cache_poison(&w, &w.values);
    w.out = gpu_poisoned((size_t)rows_max * row, shape->dtype);
    w.out.count = (size_t)rows * row; /* what padding writes, nobody reads */
    return w;
}

static void world_free(struct world *w)
{
    gpu_array_free(&w->q);
    gpu_array_free(&w->keys);
    gpu_array_free(&w->values);
    gpu_array_free(&w->out);
    free(w->tables);
    free(w->packed);
    free(w->item_rows);
    free(w->contexts);
    med_cuda_free(w->d);
}

/* Runs a batch: items may be another cut of the same sequences. */
static bool run_batch(struct world *w, int64_t items, int64_t padded, const int32_t *item_rows,
                      const int32_t *contexts, const void *q, void *out)
{
    struct med_cuda *d = w->d;
    const struct shape *s = &w->shape;
    struct med_ops_batch host = {.rows = item_rows[items],
                                 .items = items,
                                 .item_rows = item_rows,
                                 .contexts = contexts,
                                 .tables = w->tables,
                                 .table_stride = w->stride};
    size_t bytes = 0;
    char *staging = allocate(1, med_cuda_attend_plan_bytes(d));
    d->attention->shape = med_cuda_attend_plan(d, &host, padded, staging, &bytes);
    void *plan = gpu_ints((const int32_t *)(void *)staging, bytes / 4);
    free(staging);
    /* The tables as run packs them: of every item the blocks in use. */
    int32_t *packed = allocate((size_t)(w->stride * items), sizeof *packed);
    int32_t *begins = allocate((size_t)items, sizeof *begins);
    int64_t count = 0;
    for (int64_t i = 0; i < items; i++) {
        int64_t blocks = divide_up(contexts[i] + item_rows[i + 1] - item_rows[i], s->block_tokens);
        begins[i] = (int32_t)count;
        memcpy(packed + count, w->tables + i * w->stride, (size_t)blocks * sizeof *packed);
        count += blocks;
    }
    int32_t *device_tables = gpu_ints(packed, (size_t)count);
    int32_t *device_begins = gpu_ints(begins, (size_t)items);
    int32_t *device_rows = gpu_ints(item_rows, (size_t)items + 1);
    int32_t *device_contexts = gpu_ints(contexts, (size_t)items);
    d->attention->parts = plan;
    d->attention->tiles =
        (void *)((struct med_cuda_decode_part *)plan + d->attention->shape.decode_parts);
    d->batch.tables = device_tables;
    d->batch.table_begins = device_begins;
    struct med_attend_args args = {.items = padded ? padded : items,
                                   .rows = padded ? padded : host.rows,
                                   .heads = s->heads,
                                   .kv_heads = s->kv_heads,
                                   .head_dim = s->head_dim,
                                   .q = q,
                                   .item_rows = device_rows,
                                   .contexts = device_contexts,
                                   .kv = {.keys = w->keys.device,
                                          .values = w->values.device,
                                          .dtype = s->kv_dtype,
                                          .block_tokens = s->block_tokens},
                                   .window = s->window,
                                   .scale = 1.0f / sqrtf((float)s->head_dim),
                                   .out = out,
                                   .dtype = s->dtype};
    bool done = med_cuda_attend(d, &args) == 0;
    cudaError_t status = cudaStreamSynchronize(d->stream);
    if (done && status != cudaSuccess)
        (void)printf("run: %s\n", cudaGetErrorString(status));
    (void)cudaFree(plan);
    (void)cudaFree(device_tables);
    (void)cudaFree(device_begins);
    (void)cudaFree(device_rows);
    (void)cudaFree(device_contexts);
    free(packed);
    free(begins);
    return done && status == cudaSuccess;
}

/* out[r][h] in double. */
static double *reference(const struct world *w)
{
    const struct shape *s = &w->shape;
    int dim = s->head_dim, group = s->heads / s->kv_heads;
    double scale = (double)(1.0f / sqrtf((float)dim));
    double *out = allocate((size_t)(w->rows * s->heads * dim), sizeof *out);
    double *scores = allocate((size_t)(w->stride * s->block_tokens), sizeof *scores);
    for (int i = 0; i < w->items.count; i++) {
        for (int64_t r = w->item_rows[i]; r < w->item_rows[i + 1]; r++) {
            int64_t position = w->contexts[i] + r - w->item_rows[i];
            int64_t first = s->window && position >= s->window ? position - s->window + 1 : 0;
            for (int h = 0; h < s->heads; h++) {
                const double *q = w->q.host + (r * s->heads + h) * dim;
                double *o = out + (r * s->heads + h) * dim, most = -INFINITY, total = 0;
                for (int64_t t = first; t <= position; t++) {
                    int64_t block = w->tables[i * w->stride + t / s->block_tokens];
                    const double *k =
                        w->keys.host + ((block * s->kv_heads + h / group) * s->block_tokens +
                                        t % s->block_tokens) *
                                           dim;
                    double score = 0;
                    for (int e = 0; e < dim; e++)
                        score += q[e] * k[e];
                    scores[t] = score * scale;
                    most = fmax(most, scores[t]);
                }
                for (int64_t t = first; t <= position; t++) {
                    int64_t block = w->tables[i * w->stride + t / s->block_tokens];
                    const double *v =
                        w->values.host + ((block * s->kv_heads + h / group) * s->block_tokens +
                                          t % s->block_tokens) *
                                             dim;
                    double weight = exp(scores[t] - most);
                    total += weight;
                    for (int e = 0; e < dim; e++)
                        o[e] += weight * v[e];
                }
                for (int e = 0; e < dim; e++)
                    o[e] /= total;
            }
        }
    }
    free(scores);
    return out;
}

/* Weights and results are rounded to a dtype each; values are about 1, their average smaller. float32:
 * sums of products of about 1 (outliers: 50), and 2^x in units of 2^-22. */
static double absolute_of(const struct shape *s)
{
    bool half = s->dtype == MED_DTYPE_F16 && s->kv_dtype != MED_DTYPE_BF16;
    double least = s->dtype == MED_DTYPE_F32 ? 2e-5 : half ? 1e-3 : 8e-3;
    return s->outlier_every ? least * 4 : least;
}

static double relative_of(const struct shape *s)
{
    return s->dtype == MED_DTYPE_F32 ? 2e-5 : s->dtype == MED_DTYPE_F16 ? 2e-3 : 1.2e-2;
}

static bool counters_are_zero(const struct world *w)
{
    size_t count =
        (size_t)(med_cuda_attend_partials_max(&w->d->attention->limits) * w->shape.heads);
    uint32_t *host = allocate(count, sizeof *host);
    bool zero = true;
    cuda(cudaMemcpy(host, w->d->attention->counters, count * sizeof *host, cudaMemcpyDeviceToHost),
         "cudaMemcpy");
    for (size_t i = 0; i < count; i++)
        zero = zero && host[i] == 0;
    free(host);
    return zero;
}

static void check(const struct shape *shape, const struct items *items, bool deterministic)
{
    struct world w = world_new(shape, items, deterministic);
    double *want = reference(&w);
    char name[128];
    (void)snprintf(name, sizeof name, "%s_%dx%dx%d_b%d_w%d%s", shape->name, shape->heads,
                   shape->kv_heads, shape->head_dim, shape->block_tokens, shape->window,
                   deterministic ? "_det" : "");
    for (int pass = 0; pass < 2; pass++) { /* the second finds what the first has left */
        if (!run_batch(&w, items->count, items->padded, w.item_rows, w.contexts, w.q.device,
                       w.out.device)) {
            (void)gpu_report(name, false, "%s", w.d->failed ? w.d->failure.text : "fault");
            exit(gpu_finish());
        }
    }
    (void)gpu_compare(name, &w.out, want, absolute_of(shape), relative_of(shape));
    if (!counters_are_zero(&w))
        (void)gpu_report(name, false, "counters are not zero");
    free(want);
    world_free(&w);
}

/* Bits of a sequence's rows: all at once, in chunks, one by one. */
static void check_bits(const struct shape *shape, int tokens, int chunk)
{
    struct items items = {.count = 1, .context = {0}, .rows = {tokens}};
    struct world w = world_new(shape, &items, true);
    size_t row = (size_t)(shape->heads * shape->head_dim), bytes = med_dtype_bytes(shape->dtype);
    char *whole = allocate((size_t)tokens, row * bytes),
         *cut = allocate((size_t)tokens, row * bytes);
    bool done = run_batch(&w, 1, 0, w.item_rows, w.contexts, w.q.device, w.out.device);
    cuda(cudaMemcpy(whole, w.out.device, (size_t)tokens * row * bytes, cudaMemcpyDeviceToHost),
         "cudaMemcpy");
    cuda(cudaMemset(w.out.device, 0xff, (size_t)tokens * row * bytes), "cudaMemset");
    for (int at = 0, n; at < tokens; at += n) {
        n = at / chunk % 2 && at + chunk <= tokens ? chunk : 1; /* chunks and decodes by turns */
        if (at % chunk == 0 && n == 1 && at + chunk <= tokens - 3 * chunk)
            n = chunk;
        int32_t rows[2] = {0, n}, context[1] = {at};
        size_t begin = (size_t)at * row * bytes;
        done = done && run_batch(&w, 1, n == 1, rows, context, (char *)w.q.device + begin,
                                 (char *)w.out.device + begin);
    }
    cuda(cudaMemcpy(cut, w.out.device, (size_t)tokens * row * bytes, cudaMemcpyDeviceToHost),
         "cudaMemcpy");
    size_t differ = 0;
    for (size_t i = 0; i < (size_t)tokens * row * bytes; i++)
        differ += whole[i] != cut[i];
    char name[128];
    (void)snprintf(name, sizeof name, "bits_%s_%dx%dx%d_w%d_%d", shape->name, shape->heads,
                   shape->kv_heads, shape->head_dim, shape->window, tokens);
    (void)gpu_report(name, done && differ == 0, "%zu bytes differ", differ);
    free(whole);
    free(cut);
    world_free(&w);
}

/* Bits of a row alone, and beside others in a padded batch. */
static void check_beside(const struct shape *shape)
{
    struct items items = {.count = 5, .context = {700, 5, 2999, 64, 256}, .rows = {1, 1, 1, 1, 1}};
    struct world w = world_new(shape, &items, true);
    size_t row = (size_t)(shape->heads * shape->head_dim) * med_dtype_bytes(shape->dtype);
    char *all = allocate(5, row), *alone = allocate(5, row);
    bool done = run_batch(&w, 5, 0, w.item_rows, w.contexts, w.q.device, w.out.device);
    cuda(cudaMemcpy(all, w.out.device, 5 * row, cudaMemcpyDeviceToHost), "cudaMemcpy");
    const int32_t rows[2] = {0, 1}, *tables = w.tables;
    for (int i = 0; i < 5; i++) {
        w.tables = (int32_t *)(uintptr_t)(tables + i * w.stride);
        done = done && run_batch(&w, 1, 1, rows, w.contexts + i, (char *)w.q.device + i * (int)row,
                                 (char *)w.out.device + i * (int)row);
    }
    w.tables = (int32_t *)(uintptr_t)tables;
    cuda(cudaMemcpy(alone, w.out.device, 5 * row, cudaMemcpyDeviceToHost), "cudaMemcpy");
    (void)gpu_report("bits_beside", done && memcmp(all, alone, 5 * row) == 0, "%s", shape->name);
    free(all);
    free(alone);
    world_free(&w);
}

#define BF16 MED_DTYPE_BF16
#define F16  MED_DTYPE_F16
#define F32  MED_DTYPE_F32

static const struct items DECODES = {.count = 9,
                                     .padded = 16,
                                     .context = {0, 1, 15, 16, 17, 33, 255, 1000, 64},
                                     .rows = {1, 1, 1, 1, 1, 1, 1, 1, 1}};
static const struct items MIXED = {.count = 8,
                                   .context = {0, 1000, 5, 33, 0, 17, 300, 0},
                                   .rows = {129, 1, 31, 1, 2, 64, 33, 300},
                                   .shared_blocks = 0};
static const struct items SHARED = {
    .count = 4, .context = {95, 100, 120, 96}, .rows = {1, 1, 1, 1}, .shared_blocks = 3};

static void check_decodes(bool quick)
{
    static const struct shape shapes[] = {
        {"bf16", BF16, BF16, 4, 4, 128, 16, 0, 0, false},
        {"bf16", BF16, BF16, 8, 2, 128, 16, 0, 0, false},
        {"f16", F16, F16, 6, 2, 64, 16, 0, 0, false},
        {"f32", F32, F32, 4, 2, 80, 16, 0, 0, false},
        {"bf16", BF16, BF16, 4, 2, 64, 16, 0, 0, false},
        {"bf16", BF16, BF16, 14, 2, 128, 16, 0, 0, false},
        {"bf16", BF16, BF16, 16, 2, 128, 16, 0, 0, false},
        {"bf16", BF16, BF16, 32, 2, 128, 16, 0, 0, false},
        {"bf16", BF16, BF16, 11, 1, 64, 16, 0, 0, false},
        {"bf16", BF16, BF16, 4, 4, 128, 16, 100, 0, false},
        {"f16", F16, F16, 4, 1, 128, 16, 16, 0, false},
        {"bf16", BF16, BF16, 4, 2, 128, 16, 1, 0, false},
        {"bf16", BF16, BF16, 4, 2, 128, 32, 0, 0, false},
        {"bf16", BF16, BF16, 4, 2, 128, 256, 33, 0, false},
        {"bf16", BF16, BF16, 4, 2, 128, 8, 0, 0, false},
        {"bf16", BF16, BF16, 4, 2, 64, 1, 40, 0, false},
        {"f16", F16, F16, 4, 2, 64, 24, 0, 0, false},
        {"bf16", BF16, BF16, 4, 4, 80, 16, 0, 0, false},
        {"bf16", BF16, BF16, 4, 2, 96, 16, 0, 0, false},
        {"f16", F16, F16, 4, 2, 256, 16, 0, 0, false},
        {"bf16", BF16, BF16, 4, 2, 256, 7, 50, 0, false},
        {"bf16", BF16, BF16, 4, 2, 14, 16, 0, 0, false},
        {"f32", F32, F32, 4, 4, 20, 16, 9, 0, false},
        {"bf16", BF16, BF16, 2, 2, 8, 16, 0, 0, false},
        {"bf16_f16", BF16, F16, 4, 2, 128, 16, 0, 0, false},
        {"bf16_f32", BF16, F32, 4, 2, 64, 16, 0, 0, false},
        {"f32_bf16", F32, BF16, 4, 2, 128, 16, 0, 0, false},
        {"f32", F32, F32, 4, 1, 256, 5, 33, 0, false},
        {"f32", F32, F32, 4, 4, 128, 16, 0, 0, false},
        {"bf16_outliers", BF16, BF16, 8, 2, 128, 16, 0, 97, false},
        {"f16_outliers", F16, F16, 4, 4, 64, 16, 0, 97, false},
        {"f32_outliers", F32, F32, 4, 4, 64, 16, 0, 97, false},
    };
    size_t count = quick ? 4 : sizeof shapes / sizeof *shapes;
    for (size_t i = 0; i < count; i++) {
        check(&shapes[i], &DECODES, false);
        if (i % 3 == 0)
            check(&shapes[i], &DECODES, true);
    }
    check(&shapes[0], &SHARED, false);
}

/* A long one beside many short ones, and batches of one item. */
static void check_long(void)
{
    static const struct shape mha = {"long", BF16, BF16, 4, 4, 128, 16, 0, 0, false};
    static const struct shape gqa = {"long", F16, F16, 8, 1, 64, 16, 0, 0, false};
    static const struct shape windowed = {"long", BF16, BF16, 8, 2, 128, 16, 4096, 0, false};
    struct items one = {.count = 1, .padded = 1, .context = {16384}, .rows = {1}};
    struct items many = {.count = 70, .padded = 72, .context = {16384}, .rows = {1}};
    for (int i = 1; i < many.count; i++) {
        many.context[i] = (int)(gpu_random_bits() % 400);
        many.rows[i] = 1;
    }
    check(&mha, &one, false);
    check(&gqa, &one, false);
    check(&windowed, &one, false);
    check(&gqa, &one, true);
    check(&mha, &many, false);
    check(&windowed, &many, true);
}

static void check_mixed(bool quick)
{
    static const struct shape shapes[] = {
        {"mixed_bf16", BF16, BF16, 4, 2, 128, 16, 0, 0, false},
        {"mixed_f16", F16, F16, 4, 4, 64, 16, 0, 0, false},
        {"mixed_f32", F32, F32, 4, 2, 64, 16, 0, 0, false},
        {"mixed_bf16", BF16, BF16, 3, 1, 128, 16, 100, 0, false},
        {"mixed_f16", F16, F16, 4, 1, 128, 16, 0, 0, false},
        {"mixed_bf16", BF16, BF16, 2, 2, 64, 32, 40, 0, false},
        {"mixed_bf16", BF16, BF16, 2, 2, 128, 5, 0, 0, false},
        {"mixed_bf16", BF16, BF16, 2, 1, 80, 16, 0, 0, false},
        {"mixed_bf16", BF16, BF16, 2, 1, 96, 16, 64, 0, false},
        {"mixed_f16", F16, F16, 2, 1, 256, 16, 0, 0, false},
        {"mixed_shared", BF16, BF16, 4, 2, 128, 16, 0, 0, true},
        {"mixed_bf16", BF16, BF16, 2, 1, 14, 16, 0, 0, false},
        {"mixed_f32", F32, F32, 4, 2, 20, 16, 30, 0, false},
        {"mixed_bf16", BF16, BF16, 2, 1, 24, 16, 0, 0, false},
        {"mixed_bf16_f32", BF16, F32, 2, 1, 64, 16, 17, 0, false},
        {"mixed_f32_f16", F32, F16, 2, 1, 128, 16, 0, 0, false},
        {"mixed_outliers", BF16, BF16, 4, 2, 128, 16, 0, 97, false},
        {"mixed_window1", BF16, BF16, 2, 1, 128, 16, 1, 0, false},
    };
    size_t count = quick ? 3 : sizeof shapes / sizeof *shapes;
    for (size_t i = 0; i < count; i++)
        check(&shapes[i], &MIXED, false);
    check(&shapes[0], &MIXED, true);
    if (!quick) {
        check(&shapes[3], &MIXED, true);
        struct items chunk = {.count = 2, .context = {5000, 2048}, .rows = {130, 257}};
        check(&shapes[0], &chunk, false);
        check(&shapes[3], &chunk, false);
    }
}

int main(void)
{
    bool quick = getenv("GPU_QUICK") != NULL;
    static const struct shape mha = {"bf16", BF16, BF16, 4, 4, 128, 16, 0, 0, false};
    static const struct shape gqa = {"f16", F16, F16, 8, 2, 64, 16, 100, 0, false};
    static const struct shape plain = {"f32", F32, F32, 4, 2, 80, 16, 0, 0, false};
    check_decodes(quick);
    if (!quick)
        check_long();
    check_bits(&mha, quick ? 70 : 700, 64);
    check_bits(&gqa, quick ? 70 : 600, 48);
    if (!quick) {
        check_bits(&plain, 300, 32);
        check_beside(&mha);
        check_beside(&gqa);
        check_beside(&plain);
    }
    if (!getenv("NO_PREFILL"))
        check_mixed(quick);
    return gpu_finish();
}
