/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A batch of the scheduler as index arrays (see transformer_internal.h).
 *
 * Rows are the tokens of the items, one item after another; a row knows its token id, its position
 * and its slot in the cache, an item where its rows begin, what is in the cache before it and its
 * block table, padded with block 0 (never read: attention stops at a row's own position).
 * thread: engine.  Checks what comes from a request (token ids); asserts what the scheduler promises.
 */
#include "worker/transformer_internal.h"

#include "base/assert.h"

#include <string.h>

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
    for (int64_t i = 0; i < item->tokens; i++) {
        if (tokens[i] >= t->model->vocab) {
            long long place = item->context + i;
            return med_err_set(err, MED_E_INVALID,
                               "token %lld of sequence %llu has id %u, expected one below the "
                               "vocabulary's %lld",
                               place, (unsigned long long)item->id, tokens[i],
                               (long long)t->model->vocab);
        }
    }
    memcpy(t->on_host.ids + t->rows, tokens, (size_t)item->tokens * sizeof *tokens);
    return 0;
}

static void places_take(struct med_transformer *t, const struct med_batch_item *item)
{
    int64_t block_tokens = t->config.block_tokens;
    for (int64_t i = 0; i < item->tokens; i++) {
        int64_t position = item->context + i;
        int32_t block = item->blocks[position / block_tokens];
        t->on_host.positions[t->rows + i] = (int32_t)position;
        t->on_host.slots[t->rows + i] = (int32_t)(block * block_tokens + position % block_tokens);
    }
}

static void table_take(struct med_transformer *t, const struct med_batch_item *item)
{
    int32_t *table = t->on_host.tables + t->items * t->table_stride;
    int64_t length = item->context + item->tokens;
    int64_t blocks = (length + t->config.block_tokens - 1) / t->config.block_tokens;
    MED_ASSERT(blocks <= item->block_count);
    MED_ASSERT(blocks <= t->table_stride);
    for (int64_t i = 0; i < blocks; i++) {
        MED_ASSERT(item->blocks[i] >= 0 && item->blocks[i] < t->config.kv_blocks);
        table[i] = item->blocks[i];
    }
    memset(table + blocks, 0, (size_t)(t->table_stride - blocks) * sizeof *table);
}

static int indices_put(struct med_transformer *t)
{
    const struct med_transformer_indices *from = &t->on_host, *to = &t->on_device;
    const struct array {
        void *to;
        const void *from;
        int64_t count;
    } arrays[] = {{to->ids, from->ids, t->rows},
                  {to->positions, from->positions, t->rows},
                  {to->slots, from->slots, t->rows},
                  {to->head_rows, from->head_rows, t->samples},
                  {to->item_rows, from->item_rows, t->items + 1},
                  {to->contexts, from->contexts, t->items},
                  {to->tables, from->tables, t->items * t->table_stride}};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        int rc = t->config.ops->put(t->config.device, arrays[i].to, arrays[i].from,
                                    (size_t)arrays[i].count * sizeof(int32_t));
        if (rc < 0)
            return rc;
    }
    return 0;
}

int med_transformer_batch(struct med_transformer *t, const struct med_backend_step *step,
                          struct med_err *err)
{
    const struct med_batch *batch = step->batch;
    MED_ASSERT((int64_t)batch->count <= t->config.sequences_max);
    t->rows = t->items = t->samples = 0;
    t->on_host.item_rows[0] = 0;
    for (size_t i = 0; i < batch->count; i++) {
        const struct med_batch_item *item = &batch->items[i];
        MED_ASSERT(item->tokens >= 1 && item->context >= 0);
        MED_ASSERT(t->rows + item->tokens <= t->config.batched_tokens_max);
        table_take(t, item);
        int rc = ids_take(t, item, step->sequences[i], err);
        if (rc < 0)
            return rc;
        places_take(t, item);
        t->on_host.contexts[t->items] = (int32_t)item->context;
        t->rows += item->tokens;
        t->items++;
        t->on_host.item_rows[t->items] = (int32_t)t->rows;
        if (item->samples)
            t->on_host.head_rows[t->samples++] = (int32_t)(t->rows - 1);
    }
    return indices_put(t);
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
