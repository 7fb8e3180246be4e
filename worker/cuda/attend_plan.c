/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention's plan (see attend_plan.h): how the rows of a batch are cut into the work of blocks.
 *
 * thread: any. Takes no memory; works in time of items * log(longest) + parts.
 */
#include "worker/cuda/attend_plan.h"

#include "base/assert.h"

#include <stdlib.h>

enum {
    STEP = 16 /* parts begin at multiples of this: a round of a warp */
};

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* ---- sizes ------------------------------------------------------------------------------------ */

/* Twice as many as rows, so that the blocks that are done last are short. */
static int64_t parts_for(const struct med_cuda_attend_limits *l, int64_t items)
{
    if (items == 0)
        return 0;
    int64_t spare = items <= l->stream_items ? divide_up(MED_CUDA_ATTEND_STREAM_BLOCKS, l->heads)
                                             : divide_up(MED_CUDA_ATTEND_BLOCKS, l->kv_heads);
    return items + (items > spare ? items : spare);
}

int64_t med_cuda_attend_partials_max(const struct med_cuda_attend_limits *l)
{
    int64_t most = parts_for(l, l->items_max);
    int64_t few = l->stream_items < l->items_max ? parts_for(l, l->stream_items) : 0;
    return few > most ? few : most;
}

struct med_cuda_attend_shape med_cuda_attend_shape_max(const struct med_cuda_attend_limits *l)
{
    struct med_cuda_attend_shape shape = {.decode_parts = med_cuda_attend_partials_max(l)};
    if (l->deterministic) {
        if (shape.decode_parts < l->rows_max)
            shape.decode_parts = l->rows_max;
    } else {
        shape.prefill_tiles = l->rows_max / MED_CUDA_ATTEND_TILE + l->items_max;
    }
    return shape;
}

struct med_cuda_attend_shape med_cuda_attend_shape_for(const struct med_cuda_attend_limits *l,
                                                       int64_t items)
{
    return (struct med_cuda_attend_shape){.decode_parts = parts_for(l, items),
                                          .streams = items <= l->stream_items};
}

/* ---- decodes ---------------------------------------------------------------------------------- */

/* A row that is decoded. */
struct row {
    int32_t row, item, table, position, context;
    int64_t begin, end; /* tokens that it sees, from a multiple of STEP */
};

static struct row row_describe(const struct med_cuda_attend_limits *l,
                               const struct med_ops_batch *host, int64_t item, int64_t row,
                               int64_t table)
{
    int64_t position = host->contexts[item] + row - host->item_rows[item];
    int64_t first = l->window > 0 && position >= l->window ? position - l->window + 1 : 0;
    return (struct row){.row = (int32_t)row,
                        .item = (int32_t)item,
                        .table = (int32_t)table,
                        .position = (int32_t)position,
                        .context = host->contexts[item],
                        .begin = first / STEP * STEP,
                        .end = position + 1};
}

static bool is_decode(const struct med_cuda_attend_limits *l, int64_t rows)
{
    return rows == 1 || l->deterministic;
}

/* Parts of all items that are decodes, if none has more than `cut` tokens. Not for deterministic. */
static int64_t parts_by(const struct med_cuda_attend_limits *l, const struct med_ops_batch *host,
                        int64_t cut)
{
    int64_t parts = 0;
    for (int64_t i = 0; i < host->items; i++) {
        if (host->item_rows[i + 1] - host->item_rows[i] == 1) {
            struct row r = row_describe(l, host, i, host->item_rows[i], 0);
            parts += divide_up(r.end - r.begin, cut);
        }
    }
    return parts;
}

/* The smallest cut by which no more than `parts` are needed, which are at least as many as rows. */
static int64_t cut_find(const struct med_cuda_attend_limits *l, const struct med_ops_batch *host,
                        int64_t parts)
{
    int64_t low = MED_CUDA_ATTEND_CUT_MIN / STEP, high = low;
    while (parts_by(l, host, high * STEP) > parts) {
        low = high + 1;
        high *= 2;
    }
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (parts_by(l, host, middle * STEP) > parts) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return high * STEP;
}

/* Cuts row r at begin + n * length, or in deterministic plans at multiples of it. Returns the parts. */
static int64_t row_cut(const struct row *r, int64_t length, int64_t merge,
                       struct med_cuda_decode_part *to)
{
    int64_t at = r->begin, parts = 0;
    while (at < r->end) {
        int64_t next = at + length < r->end ? at + length : r->end;
        to[parts] = (struct med_cuda_decode_part){.row = r->row,
                                                  .item = r->item,
                                                  .begin = (int32_t)at,
                                                  .end = (int32_t)next,
                                                  .part = (int32_t)parts,
                                                  .merge = (int32_t)merge,
                                                  .table = r->table,
                                                  .position = r->position,
                                                  .context = r->context};
        parts++;
        at = next;
    }
    for (int64_t i = 0; i < parts; i++)
        to[i].parts = (int32_t)parts;
    return parts;
}

/* The row's tokens in parts of equal length, none of them longer than `cut`. */
static int64_t row_cut_equally(const struct row *r, int64_t cut, int64_t merge,
                               struct med_cuda_decode_part *to)
{
    int64_t tokens = r->end - r->begin, count = divide_up(tokens, cut);
    return row_cut(r, divide_up(divide_up(tokens, count), STEP) * STEP, merge, to);
}

/* The first token of the cut that a deterministic row begins in. */
static int64_t row_start(const struct row *r)
{
    return r->begin / MED_CUDA_ATTEND_CUT * MED_CUDA_ATTEND_CUT;
}

static int64_t parts_deterministic(const struct med_cuda_attend_limits *l,
                                   const struct med_ops_batch *host)
{
    int64_t parts = 0;
    for (int64_t i = 0; i < host->items; i++) {
        for (int64_t row = host->item_rows[i]; row < host->item_rows[i + 1]; row++) {
            struct row r = row_describe(l, host, i, row, 0);
            parts += divide_up(r.end - row_start(&r), MED_CUDA_ATTEND_CUT);
        }
    }
    return parts;
}

static int64_t blocks_of(const struct med_cuda_attend_limits *l, const struct med_ops_batch *host,
                         int64_t item)
{
    int64_t tokens = host->contexts[item] + host->item_rows[item + 1] - host->item_rows[item];
    return divide_up(tokens, l->block_tokens);
}

/* Returns how many parts were written. */
static int64_t decodes_plan(const struct med_cuda_attend_limits *l,
                            const struct med_ops_batch *host, int64_t allowed,
                            struct med_cuda_decode_part *to)
{
    int64_t count = 0, table = 0, cut;
    if (l->deterministic) {
        cut = parts_deterministic(l, host) <= allowed ? MED_CUDA_ATTEND_CUT : INT32_MAX;
    } else {
        cut = cut_find(l, host, allowed);
    }
    for (int64_t i = 0; i < host->items; i++) {
        int64_t begin = host->item_rows[i], end = host->item_rows[i + 1];
        for (int64_t row = begin; row < end && is_decode(l, end - begin); row++) {
            struct row r = row_describe(l, host, i, row, table);
            if (l->deterministic) {
                r.begin = row_start(&r);
                count += row_cut(&r, cut, count, to + count);
            } else {
                count += row_cut_equally(&r, cut, count, to + count);
            }
        }
        table += blocks_of(l, host, i);
    }
    return count;
}

/* ---- prefills --------------------------------------------------------------------------------- */

/* Those that see most first; row by row where they see alike, so that plans are reproducible. */
static int tile_order(const void *a, const void *b)
{
    const struct med_cuda_prefill_tile *x = a, *y = b;
    int64_t left = (int64_t)x->position + x->rows, right = (int64_t)y->position + y->rows;
    if (left != right)
        return left > right ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}

static int64_t prefills_plan(const struct med_ops_batch *host, struct med_cuda_prefill_tile *to)
{
    int64_t count = 0;
    for (int64_t i = 0; i < host->items; i++) {
        int32_t begin = host->item_rows[i], end = host->item_rows[i + 1];
        for (int32_t row = begin; row < end && end - begin > 1; row += MED_CUDA_ATTEND_TILE) {
            int32_t rows = end - row < MED_CUDA_ATTEND_TILE ? end - row : MED_CUDA_ATTEND_TILE;
            to[count++] =
                (struct med_cuda_prefill_tile){.row = row,
                                               .rows = rows,
                                               .item = (int32_t)i,
                                               .position = host->contexts[i] + row - begin};
        }
    }
    if (count > 1)
        qsort(to, (size_t)count, sizeof *to, tile_order);
    return count;
}

/* ---- both ------------------------------------------------------------------------------------- */

static int64_t decode_items(const struct med_cuda_attend_limits *l,
                            const struct med_ops_batch *host)
{
    int64_t items = 0;
    for (int64_t i = 0; i < host->items; i++)
        items += is_decode(l, host->item_rows[i + 1] - host->item_rows[i]);
    return items;
}

struct med_cuda_attend_shape med_cuda_attend_plan_make(const struct med_cuda_attend_limits *l,
                                                       const struct med_ops_batch *host,
                                                       int64_t padded_items, void *staging,
                                                       size_t *ret_bytes)
{
    struct med_cuda_decode_part *parts = staging;
    struct med_cuda_attend_shape shape = {0};
    int64_t decodes = decode_items(l, host);
    MED_ASSERT(padded_items == 0 || decodes == host->items);
    MED_ASSERT(padded_items == 0 || padded_items >= host->items);
    int64_t items = padded_items ? padded_items : decodes;
    int64_t allowed = parts_for(l, items), count = 0;
    if (decodes > 0)
        count = decodes_plan(l, host, allowed, parts);
    MED_ASSERT(count <= allowed || l->deterministic);
    shape.decode_parts = padded_items ? allowed : count;
    shape.streams = items <= l->stream_items;
    for (int64_t i = count; i < shape.decode_parts; i++)
        parts[i] = (struct med_cuda_decode_part){.row = -1, .parts = 1};
    if (!l->deterministic && padded_items == 0)
        shape.prefill_tiles = prefills_plan(host, (void *)(parts + shape.decode_parts));
    *ret_bytes = (size_t)shape.decode_parts * sizeof *parts +
                 (size_t)shape.prefill_tiles * sizeof(struct med_cuda_prefill_tile);
    return shape;
}
