/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention alone, of the Llama-2-7B and Llama-3-8B shapes: decode batches over contexts of equal and of
 * unequal length, prefills.  Recorded as a graph; layers take turns over caches that exceed the L2 cache
 * together.  Prints microseconds, and which part of READ_GB_PER_S the keys and values make of them, or
 * TFLOP/s.
 */
#include "tests/gpu/gpu.h"
#include "worker/cuda/attend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    HEADS = 32,
    HEAD_DIM = 128,
    BLOCK = 16,
    ITEMS_MAX = 128,
    REPEATS = 30,
    LAYERS_MAX = 24,
    POOL_TOKENS = 1 << 20 /* 8 GiB of keys and 8 of values at 32 kv heads */
};
static const double READ_GB_PER_S = 3090;

struct bench {
    struct med_cuda *d;
    struct med_attend_args args;
    char *keys, *values;
    size_t layer_bytes; /* from one layer's keys to the next one's */
    int layers;
};

static void queue(void *arg, int index)
{
    struct bench *b = arg;
    struct med_attend_args a = b->args;
    a.kv.keys = b->keys + (size_t)(index % b->layers) * b->layer_bytes;
    a.kv.values = b->values + (size_t)(index % b->layers) * b->layer_bytes;
    if (med_cuda_attend(b->d, &a) < 0) {
        (void)printf("FAIL %s\n", b->d->failure.text);
        exit(1);
    }
}

/* thread: main */
struct world {
    struct med_cuda *d;
    struct gpu_array q, out;
    char *keys, *values;
};

static char *random_memory(size_t bytes)
{
    enum {
        COUNT = 1 << 22
    };
    struct gpu_array random = gpu_random(COUNT, MED_DTYPE_BF16, 1, 0);
    char *memory = NULL;
    if (cudaMalloc((void **)&memory, bytes) != cudaSuccess) {
        (void)printf("FAIL no memory\n");
        exit(1);
    }
    for (size_t at = 0; at < bytes; at += COUNT * 2)
        (void)cudaMemcpy(memory + at, random.device,
                         bytes - at < COUNT * 2 ? bytes - at : COUNT * 2, cudaMemcpyDeviceToDevice);
    gpu_array_free(&random);
    return memory;
}

static void measure(struct world *w, const char *name, int kv_heads, int items,
                    const int32_t *contexts, int rows)
{
    struct med_cuda *d = w->d;
    static int32_t item_rows[ITEMS_MAX + 1], tables[ITEMS_MAX * 2048], begins[ITEMS_MAX];
    int64_t stride = 0, tokens = 0, blocks = 0;
    double pairs = 0;
    for (int i = 0; i < items; i++) {
        int64_t mine = (contexts[i] + rows + BLOCK - 1) / BLOCK;
        stride = mine > stride ? mine : stride;
    }
    int32_t *padded_tables = calloc((size_t)(stride * items), sizeof *padded_tables);
    if (!padded_tables)
        exit(2);
    for (int i = 0; i < items; i++) {
        item_rows[i + 1] = item_rows[i] + rows;
        begins[i] = (int32_t)blocks;
        int64_t mine = (contexts[i] + rows + BLOCK - 1) / BLOCK;
        blocks += mine;
        tokens += contexts[i] + rows;
        pairs += (double)rows * contexts[i] + (double)rows * (rows + 1) / 2;
    }
    for (int64_t b = 0; b < blocks;
         b++) /* scattered: a step that shares no factor with a power of 2 */
        tables[b] = (int32_t)(b * 1237 % blocks);
    for (int64_t step = 1237; blocks % 1237 == 0; step += 2) {
        for (int64_t b = 0; b < blocks; b++)
            tables[b] = (int32_t)b;
        break;
    }
    struct med_ops_batch host = {.rows = (int64_t)rows * items,
                                 .items = items,
                                 .item_rows = item_rows,
                                 .contexts = contexts,
                                 .tables = padded_tables,
                                 .table_stride = stride};
    d->attention->limits.kv_heads = kv_heads;
    size_t bytes = 0;
    char *staging = calloc(1, med_cuda_attend_plan_bytes(d) + 65536);
    if (!staging)
        exit(2);
    d->attention->shape = med_cuda_attend_plan(d, &host, rows == 1 ? items : 0, staging, &bytes);
    int used = 0;
    for (int64_t p = 0; p < d->attention->shape.decode_parts; p++)
        used += ((struct med_cuda_decode_part *)(void *)staging)[p].row >= 0;
    void *plan = gpu_ints((int32_t *)(void *)staging, bytes / 4);
    d->attention->parts = plan;
    d->attention->tiles =
        (void *)((struct med_cuda_decode_part *)plan + d->attention->shape.decode_parts);
    d->batch.tables = gpu_ints(tables, (size_t)blocks);
    d->batch.table_begins = gpu_ints(begins, (size_t)items);
    struct bench b = {.d = d, .keys = w->keys, .values = w->values};
    b.layer_bytes = (size_t)(blocks * BLOCK * kv_heads * HEAD_DIM * 2);
    size_t pool = (size_t)POOL_TOKENS * 32 * HEAD_DIM * 2;
    b.layers = (int)(pool / b.layer_bytes < LAYERS_MAX ? pool / b.layer_bytes : LAYERS_MAX);
    b.args = (struct med_attend_args){.items = items,
                                      .rows = host.rows,
                                      .heads = HEADS,
                                      .kv_heads = kv_heads,
                                      .head_dim = HEAD_DIM,
                                      .q = w->q.device,
                                      .item_rows = gpu_ints(item_rows, (size_t)items + 1),
                                      .contexts = gpu_ints(contexts, (size_t)items),
                                      .kv = {.dtype = MED_DTYPE_BF16, .block_tokens = BLOCK},
                                      .scale = 1.0f / sqrtf(HEAD_DIM),
                                      .out = w->out.device,
                                      .dtype = MED_DTYPE_BF16};
    double size = (double)tokens * kv_heads * HEAD_DIM * 4, flop = pairs * HEADS * HEAD_DIM * 4;
    for (int pdl = 1; pdl >= (rows == 1 && items > 8); pdl--) {
        d->pdl = pdl;
        struct gpu_time t = gpu_time(d, queue, &b, b.layers, REPEATS, true);
        (void)printf("%-10s kv %2d items %3d rows %4d %s parts %3d/%3d %9.2f us (%.2f .. %.2f)",
                     name, kv_heads, items, rows, pdl ? "pdl" : "   ", used,
                     (int)d->attention->shape.decode_parts, t.median_us, t.min_us, t.max_us);
        if (rows == 1) {
            (void)printf(" %6.1f %% of the bus\n", size / t.median_us / READ_GB_PER_S * 1e-3 * 100);
        } else {
            (void)printf(" %6.1f TFLOP/s\n", flop / t.median_us * 1e-6);
        }
    }
    d->pdl = true;
    free(staging);
    free(padded_tables);
    (void)cudaFree(plan);
}

static void decodes(struct world *w)
{
    static const int sizes[] = {1, 2, 4, 8, 16, 32, 64, 128}, lengths[] = {576, 4096};
    int32_t contexts[ITEMS_MAX];
    char name[32];
    for (int kv_heads = 32; kv_heads >= 8; kv_heads -= 24) {
        for (int l = 0; l < 2; l++) {
            for (int s = 0; s < 8; s++) {
                for (int i = 0; i < sizes[s]; i++)
                    contexts[i] = lengths[l] - 1;
                (void)snprintf(name, sizeof name, "ctx %d", lengths[l]);
                measure(w, name, kv_heads, sizes[s], contexts, 1);
            }
        }
        for (int i = 0; i < 64; i++)
            contexts[i] = i == 37 ? 16383 : 575;
        measure(w, "skewed", kv_heads, 64, contexts, 1);
        for (int i = 0; i < 64; i++)
            contexts[i] = 18 * i + 8;
        measure(w, "uniform", kv_heads, 64, contexts, 1);
        contexts[0] = 16383;
        measure(w, "ctx 16384", kv_heads, 1, contexts, 1);
    }
}

static void prefills(struct world *w)
{
    static const int32_t none[ITEMS_MAX] = {0}, far[1] = {6144};
    measure(w, "prefill", 32, 1, none, 512);
    measure(w, "prefill", 32, 4, none, 512);
    measure(w, "prefill", 32, 1, none, 2048);
    measure(w, "prefill", 8, 1, none, 2048);
    measure(w, "prefill", 32, 1, none, 8192);
    measure(w, "prefill", 8, 1, none, 8192);
    measure(w, "chunk", 32, 1, far, 2048);
}

int main(void)
{
    struct med_model_config model = gpu_model(64, HEADS, 8, HEAD_DIM, 64, 64);
    struct med_cuda_config config = {0};
    struct med_ops_sizes sizes = {.model = &model,
                                  .dtype = MED_DTYPE_BF16,
                                  .kv_dtype = MED_DTYPE_BF16,
                                  .rows_max = 8192,
                                  .items_max = ITEMS_MAX,
                                  .samples_max = ITEMS_MAX,
                                  .model_len_max = 16384,
                                  .block_tokens = BLOCK};
    struct world w = {.d = gpu_device(&config, &sizes)};
    size_t rows = (size_t)8192 * HEADS * HEAD_DIM;
    w.q = gpu_random(rows, MED_DTYPE_BF16, 1, 0);
    w.out = gpu_poisoned(rows, MED_DTYPE_BF16);
    w.keys = random_memory((size_t)POOL_TOKENS * 32 * HEAD_DIM * 2);
    w.values = random_memory((size_t)POOL_TOKENS * 32 * HEAD_DIM * 2);
    if (!getenv("NO_DECODE"))
        decodes(&w);
    if (!getenv("NO_PREFILL"))
        prefills(&w);
    return 0;
}
