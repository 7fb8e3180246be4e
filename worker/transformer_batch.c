/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A batch of the scheduler as index arrays (see transformer_internal.h).
 *
 * Rows are the tokens of the items, one item after another; a row knows its token id, its position
 * and its slot in the cache, an item where its rows begin, what is in the cache before it and its
 * block table.  Behind the blocks in use a table holds anything: attention stops at a row's position.
 * thread: engine.  Checks what comes from a request (token ids); asserts what the scheduler promises.
 */
#include "worker/transformer_internal.h"

#include "base/assert.h"

enum {
    ALIGN = 64
};

static void *array_take(char *base, size_t *bytes, int64_t count)
{
    size_t at = *bytes;
    *bytes += ((size_t)count * sizeof(int32_t) + ALIGN - 1) / ALIGN * ALIGN;
    return base ? base + at : NULL;
}

size_t med_transformer_indices_layout(const struct med_transformer *t, void *base,
                                      struct med_transformer_indices *ret_indices)
{
    int64_t rows = t->config.batched_tokens_max, items = t->config.sequences_max;
    size_t bytes = 0;
    struct med_transformer_indices in;
    in.ids = array_take(base, &bytes, rows);
    in.sources = array_take(base, &bytes, rows);
    in.positions = array_take(base, &bytes, rows);
    in.slots = array_take(base, &bytes, rows);
    in.head_rows = array_take(base, &bytes, items);
    in.item_rows = array_take(base, &bytes, items + 1);
    in.contexts = array_take(base, &bytes, items);
    in.tables = array_take(base, &bytes, items * t->table_stride);
    *ret_indices = in;
    return bytes;
}

static int ids_take(struct med_transformer *t, const struct med_batch_item *item,
                    const struct med_backend_sequence *sequence, struct med_err *err)
{
    const uint32_t *tokens = sequence->tokens + item->context;
    uint32_t *ids = t->indices.ids + t->batch.rows;
    int32_t *sources = t->indices.sources + t->batch.rows;
    if (item->awaits) {
        MED_ASSERT(item->tokens == 1 && t->started > 0);
        const struct med_transformer_under_way *before =
            &t->steps[(t->started - 1) % MED_BACKEND_STEPS];
        MED_ASSERT(item->previous >= 0 && (size_t)item->previous < before->count);
        sources[0] = before->items[item->previous].sample;
        MED_ASSERT(sources[0] >= 0);
        ids[0] = 0;
        return 0;
    }
    for (int64_t i = 0; i < item->tokens; i++) {
        if (tokens[i] >= t->model->vocab) {
            long long place = item->context + i;
            return med_err_set(err, MED_E_INVALID,
                               "token %lld of sequence %llu has id %u, expected one below the "
                               "vocabulary's %lld",
                               place, (unsigned long long)item->id, tokens[i],
                               (long long)t->model->vocab);
        }
        ids[i] = tokens[i];
        sources[i] = -1;
    }
    return 0;
}

static void places_take(struct med_transformer *t, const struct med_batch_item *item)
{
    int64_t block_tokens = t->config.block_tokens;
    for (int64_t i = 0; i < item->tokens; i++) {
        int64_t position = item->context + i;
        int32_t block = item->blocks[position / block_tokens];
        t->indices.positions[t->batch.rows + i] = (int32_t)position;
        t->indices.slots[t->batch.rows + i] =
            (int32_t)(block * block_tokens + position % block_tokens);
    }
}

static void table_take(struct med_transformer *t, const struct med_batch_item *item)
{
    int32_t *table = t->indices.tables + t->batch.items * t->table_stride;
    int64_t length = item->context + item->tokens;
    int64_t blocks = (length + t->config.block_tokens - 1) / t->config.block_tokens;
    MED_ASSERT(blocks <= item->block_count);
    MED_ASSERT(blocks <= t->table_stride);
    for (int64_t i = 0; i < blocks; i++) {
        MED_ASSERT(item->blocks[i] >= 0 && item->blocks[i] < t->config.kv_blocks);
        table[i] = item->blocks[i];
    }
}

static void batch_describe(struct med_transformer *t)
{
    const struct med_transformer_indices *in = &t->indices;
    t->batch.ids = in->ids;
    t->batch.sources = in->sources;
    t->batch.positions = in->positions;
    t->batch.slots = in->slots;
    t->batch.head_rows = in->head_rows;
    t->batch.item_rows = in->item_rows;
    t->batch.contexts = in->contexts;
    t->batch.tables = in->tables;
    t->batch.table_stride = t->table_stride;
}

int med_transformer_batch(struct med_transformer *t, const struct med_backend_step *step,
                          struct med_err *err)
{
    const struct med_batch *batch = step->batch;
    struct med_ops_batch *b = &t->batch;
    struct med_transformer_under_way *under_way = &t->steps[t->started % MED_BACKEND_STEPS];
    MED_ASSERT((int64_t)batch->count <= t->config.sequences_max);
    b->rows = b->items = b->samples = 0;
    t->indices.item_rows[0] = 0;
    for (size_t i = 0; i < batch->count; i++) {
        const struct med_batch_item *item = &batch->items[i];
        MED_ASSERT(item->tokens >= 1 && item->context >= 0);
        MED_ASSERT(b->rows + item->tokens <= t->config.batched_tokens_max);
        table_take(t, item);
        int rc = ids_take(t, item, step->sequences[i], err);
        if (rc < 0)
            return rc;
        places_take(t, item);
        t->indices.contexts[b->items] = (int32_t)item->context;
        b->rows += item->tokens;
        b->items++;
        t->indices.item_rows[b->items] = (int32_t)b->rows;
        under_way->items[i].sample = item->samples ? (int32_t)b->samples : -1;
        if (item->samples)
            t->indices.head_rows[b->samples++] = (int32_t)(b->rows - 1);
    }
    under_way->count = batch->count;
    batch_describe(t);
    return 0;
}

void med_transformer_draws(struct med_transformer *t, const struct med_backend_step *step)
{
    const struct med_generation_config *generation = &t->config.checkpoint->generation;
    int64_t sample = 0;
    for (size_t i = 0; i < step->batch->count; i++) {
        const struct med_batch_item *item = &step->batch->items[i];
        const struct med_backend_sequence *sequence = step->sequences[i];
        if (!item->samples)
            continue;
        t->inputs[sample++] = (struct med_draw_input){.vocab = t->model->vocab,
                                                      .sampling = &sequence->sampling,
                                                      .tokens = sequence->tokens,
                                                      .prompt_tokens = sequence->prompt_tokens,
                                                      .count = item->context + item->tokens,
                                                      .eos_ids = generation->eos_ids,
                                                      .eos_count = generation->eos_count};
    }
}
