/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batches on their way to the device, replayed and queued op by op, against a reference on the host.
 * The model is the stand-in of kernels.h: integers, so that every bit counts.
 */
#include "tests/gpu/gpu.h"
#include "tests/gpu/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROWS = 96,
    ITEMS = 40,
    LENGTH = 256,
    BLOCK = 16,
    STRIDE = LENGTH / BLOCK,
    BLOCKS = ITEMS * STRIDE + 1, /* one that no item has */
    SLOTS = BLOCKS * BLOCK,
    STEPS = 60
};

/* A batch and the host's copy of what is on the device. */
struct world {
    struct med_cuda *d;
    struct gpu_chain chain;
    struct med_ops_batch batch;
    uint32_t ids[ROWS];
    int32_t sources[ROWS], positions[ROWS], slots[ROWS], head_rows[ITEMS], item_rows[ITEMS + 1],
        contexts[ITEMS], tables[ITEMS * STRIDE];
    uint64_t cache[SLOTS], drawn[ITEMS], logits[ITEMS], x[ROWS];
};

static uint64_t below(uint64_t count)
{
    return gpu_random_bits() % count;
}

static void *take(struct med_cuda *d, size_t bytes)
{
    void *memory = NULL;
    if (med_cuda_ops()->alloc(d, bytes, &memory) < 0) {
        gpu_report("memory", false, "%zu bytes", bytes);
        exit(1);
    }
    return memory;
}

static struct world *world_new(bool no_graphs, bool deterministic)
{
    struct world *w = calloc(1, sizeof *w);
    if (!w)
        exit(1);
    const struct med_cuda_config config = {.no_graphs = no_graphs, .deterministic = deterministic};
    struct med_model_config model = gpu_model(256, 4, 2, 64, 512, 1000);
    const struct med_ops_sizes sizes = {.model = &model,
                                        .dtype = MED_DTYPE_BF16,
                                        .kv_dtype = MED_DTYPE_BF16,
                                        .rows_max = ROWS,
                                        .items_max = ITEMS,
                                        .samples_max = ITEMS,
                                        .model_len_max = LENGTH,
                                        .block_tokens = BLOCK};
    struct med_err err = {0};
    w->d = gpu_device(&config, &sizes);
    w->chain = (struct gpu_chain){.device = w->d,
                                  .x = take(w->d, (size_t)ROWS * 8),
                                  .y = take(w->d, (size_t)ITEMS * 8),
                                  .cache = take(w->d, sizeof w->cache),
                                  .logits = take(w->d, (size_t)ITEMS * 8),
                                  .drawn = take(w->d, (size_t)ITEMS * 8),
                                  .block_tokens = BLOCK};
    for (int i = 0; i < SLOTS; i++)
        w->cache[i] = gpu_random_bits();
    if (med_cuda_ops()->put(w->d, w->chain.cache, w->cache, sizeof w->cache) < 0 ||
        med_cuda_ops()->record(w->d, gpu_chain_forward, &w->chain, &err) < 0) {
        gpu_report("record", false, "%s", err.text);
        exit(1);
    }
    struct med_cuda_stats stats;
    med_cuda_get_stats(w->d, &stats);
    gpu_report("record.graphs", stats.graphs == (no_graphs ? 0 : 8), "%lld in %.3f s, %lld pinned",
               (long long)stats.graphs, stats.record_seconds, (long long)stats.pinned_bytes);
    w->batch = (struct med_ops_batch){.ids = w->ids,
                                      .sources = w->sources,
                                      .positions = w->positions,
                                      .slots = w->slots,
                                      .head_rows = w->head_rows,
                                      .item_rows = w->item_rows,
                                      .contexts = w->contexts,
                                      .tables = w->tables,
                                      .table_stride = STRIDE};
    return w;
}

static void world_free(struct world *w)
{
    const struct med_ops *ops = med_cuda_ops();
    ops->free(w->d, w->chain.x);
    ops->free(w->d, w->chain.y);
    ops->free(w->d, w->chain.cache);
    ops->free(w->d, w->chain.logits);
    ops->free(w->d, (void *)(uintptr_t)w->chain.drawn);
    med_cuda_free(w->d);
    free(w);
}

/* A random batch of `items`, each of 1 to rows_max rows; blocks in random order, none shared; what lies
 * behind the blocks in use of a table is not a block. */
static void batch_make(struct world *w, int items, int rows_max, bool chained)
{
    struct med_ops_batch *b = &w->batch;
    int32_t blocks[BLOCKS - 1];
    for (int i = 0; i < BLOCKS - 1; i++)
        blocks[i] = i;
    for (int i = BLOCKS - 2; i > 0; i--) {
        int j = (int)below((uint64_t)i + 1);
        int32_t swap = blocks[i];
        blocks[i] = blocks[j];
        blocks[j] = swap;
    }
    b->rows = 0;
    b->items = items;
    b->samples = items;
    for (int i = 0; i < items; i++) {
        int rows = 1 + (int)below((uint64_t)rows_max);
        int context = (int)below(LENGTH - (uint64_t)rows + 1);
        int32_t *table = &w->tables[(size_t)i * STRIDE];
        w->item_rows[i] = (int32_t)b->rows;
        w->contexts[i] = context;
        for (int k = 0; k < STRIDE; k++)
            table[k] = k * BLOCK < context + rows ? blocks[i * STRIDE + k] : -12345678;
        for (int r = 0; r < rows; r++, b->rows++) {
            int position = context + r;
            w->ids[b->rows] = (uint32_t)gpu_random_bits();
            w->sources[b->rows] = chained && r == 0 && below(2) ? (int32_t)below(ITEMS) : -1;
            w->positions[b->rows] = position;
            w->slots[b->rows] = table[position / BLOCK] * BLOCK + position % BLOCK;
        }
        w->head_rows[i] = (int32_t)b->rows - 1;
    }
    w->item_rows[items] = (int32_t)b->rows;
}

/* The batch on the host: cache and logits. */
static void reference(struct world *w)
{
    const struct med_ops_batch *b = &w->batch;
    for (int r = 0; r < b->rows; r++) {
        uint64_t id = w->sources[r] >= 0 ? w->drawn[w->sources[r]] : w->ids[r];
        w->x[r] = gpu_mix(gpu_mix(id) + (uint64_t)w->positions[r]);
        w->cache[w->slots[r]] = w->x[r];
    }
    uint64_t chains[ITEMS];
    for (int i = 0; i < b->items; i++) {
        uint64_t y = 1;
        int tokens = w->contexts[i] + w->item_rows[i + 1] - w->item_rows[i];
        for (int t = 0; t < tokens; t++)
            y = gpu_mix(y ^ w->cache[w->tables[i * STRIDE + t / BLOCK] * BLOCK + t % BLOCK]);
        chains[i] = y;
    }
    for (int s = 0; s < b->samples; s++) {
        int item = 0;
        while (w->item_rows[item + 1] <= w->head_rows[s])
            item++;
        w->logits[s] = gpu_mix(w->x[w->head_rows[s]] + chains[item]);
    }
}

/* How many of the logits and of the whole cache differ. */
static int64_t differences(struct world *w)
{
    static uint64_t got[SLOTS];
    int64_t found = 0;
    if (med_cuda_ops()->get(w->d, got, w->chain.logits, sizeof w->logits) < 0)
        return -1;
    for (int i = 0; i < w->batch.samples; i++)
        found += got[i] != w->logits[i];
    if (med_cuda_ops()->get(w->d, got, w->chain.cache, sizeof got) < 0)
        return -1;
    for (int i = 0; i < SLOTS; i++)
        found += got[i] != w->cache[i];
    return found;
}

/* Every number of decodes, each read back at once: no mark, no wait. */
static void test_sizes(struct world *w, const char *name)
{
    struct med_cuda_stats before, after;
    int64_t wrong = 0;
    int rc = 0;
    med_cuda_get_stats(w->d, &before);
    for (int n = 1; rc == 0 && n <= ITEMS; n++) {
        batch_make(w, n, 1, false);
        rc = med_cuda_ops()->run(w->d, &w->batch, gpu_chain_forward, &w->chain);
        reference(w);
        int64_t found = rc == 0 ? differences(w) : -1;
        if (found != 0)
            gpu_report(name, false, "%d decodes: %lld differ", n, (long long)found);
        wrong += found != 0;
    }
    med_cuda_get_stats(w->d, &after);
    int64_t replayed = after.replayed_total - before.replayed_total;
    bool as_asked = replayed == (w->d->config.no_graphs ? 0 : ITEMS);
    gpu_report(name, rc == 0 && wrong == 0 && as_asked, "1 to %d decodes, %lld replayed", ITEMS,
               (long long)replayed);
}

/* Prefills and decodes together are queued op by op. */
static void test_mixed(struct world *w, const char *name)
{
    int64_t wrong = 0;
    int rc = 0;
    for (int n = 1; rc == 0 && n <= ITEMS; n++) {
        batch_make(w, n, ROWS / n, false);
        if (n > 1 && n % 3 == 0) { /* an item in the middle of its prompt has no sample */
            for (int i = 1; i < n; i++)
                w->head_rows[i - 1] = w->head_rows[i];
            w->batch.samples--;
        }
        rc = med_cuda_ops()->run(w->d, &w->batch, gpu_chain_forward, &w->chain);
        reference(w);
        wrong += rc == 0 ? differences(w) != 0 : 1;
    }
    gpu_report(name, rc == 0 && wrong == 0, "%lld batches differ", (long long)wrong);
}

/* Steps one behind another, two under way, each with tokens that the one before drew; every third is no
 * decode batch.  `marks`: false leaves it to run to find out when a buffer is free. */
static void test_chain(struct world *w, const char *name, bool marks)
{
    const struct med_ops *ops = med_cuda_ops();
    static uint64_t want[STEPS][ITEMS], got[STEPS][ITEMS];
    uint64_t *history = take(w->d, sizeof got);
    int counts[STEPS], rc = 0;
    for (int step = 0; rc == 0 && step < STEPS; step++) {
        if (marks && step >= 2)
            rc = ops->wait(w->d, step % 2);
        counts[step] = 1 + (int)below(ITEMS);
        batch_make(w, counts[step], step % 3 == 2 ? ROWS / counts[step] : 1, true);
        if (rc == 0)
            rc = ops->run(w->d, &w->batch, gpu_chain_forward, &w->chain);
        reference(w);
        memcpy(want[step], w->logits, sizeof want[step]);
        size_t bytes = (size_t)counts[step] * 8;
        memcpy(w->drawn, w->logits, bytes);
        /* What follows a step on the stream; the logits of padding must not matter. */
        if (cudaMemcpyAsync(history + (size_t)step * ITEMS, w->chain.logits, bytes,
                            cudaMemcpyDeviceToDevice, w->d->stream) != cudaSuccess ||
            cudaMemcpyAsync((void *)(uintptr_t)w->chain.drawn, w->chain.logits, bytes,
                            cudaMemcpyDeviceToDevice, w->d->stream) != cudaSuccess)
            rc = MED_E_CUDA;
        if (marks && rc == 0)
            rc = ops->mark(w->d, step % 2);
    }
    for (int slot = 0; slot < 2 && marks && rc == 0; slot++)
        rc = ops->wait(w->d, slot);
    int64_t wrong = 0;
    if (rc == 0)
        rc = ops->get(w->d, got, history, sizeof got);
    for (int step = 0; rc == 0 && step < STEPS; step++)
        wrong += memcmp(got[step], want[step], (size_t)counts[step] * 8) != 0;
    ops->free(w->d, history);
    gpu_report(name, rc == 0 && wrong == 0, "%d steps, rc %d, %lld differ", STEPS, rc,
               (long long)wrong);
}

int main(void)
{
    static const char *const names[][5] = {
        {"replayed.sizes", "replayed.mixed", "replayed.chain", "replayed.unmarked"},
        {"queued.sizes", "queued.mixed", "queued.chain", "queued.unmarked"},
        {"deterministic.sizes", "deterministic.mixed", "deterministic.chain",
         "deterministic.unmarked"}};
    for (int i = 0; i < 3; i++) {
        struct world *w = world_new(i == 1, i == 2);
        test_sizes(w, names[i][0]);
        test_mixed(w, names[i][1]);
        test_chain(w, names[i][2], true);
        test_chain(w, names[i][3], false);
        world_free(w);
    }
    return gpu_finish();
}
