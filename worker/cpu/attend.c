/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention over the paged cache.
 *
 * A piece of work is a block of query vectors that read the same keys: some rows of one item, times
 * the query heads that share a kv head, at most MED_CPU_QUERIES.  It goes through the cache in chunks
 * of MED_CPU_KEYS positions: scores of all its vectors, then a softmax that carries the largest score
 * and the sum from chunk to chunk (online softmax), then the values weighed by it.
 *
 * Chunks begin at multiples of MED_CPU_KEYS positions, and in each the sums go by position; what a
 * row does not see counts 0 and changes nothing.  So a row's result has the same bits however its
 * sequence was cut into steps, whatever stands beside it, and however blocks are numbered.
 * With a window the chunks wholly out of sight of a block of rows are not read.
 * thread: engine, and pieces on the pool's, which take the next piece when they are done with one.
 * source: online softmax: Milakov and Gimelshein 2018 (arXiv 1805.02867).
 */
#include "worker/cpu/internal.h"

#include "base/assert.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

struct attend {
    struct med_cpu *cpu;
    const struct med_attend_args *args;
    int64_t group;      /* query heads of a kv head */
    int64_t heads_part; /* of them in one piece */
    int64_t parts;      /* pieces of a group */
    int64_t rows_block; /* rows in one piece */
    atomic_int_least64_t next;
};

/* One piece. */
struct block {
    int64_t item, kv_head;
    int64_t head, heads; /* query heads [head, head + heads) */
    int64_t row, rows;   /* rows of the batch [row, row + rows) */
    int64_t position;    /* of `row` */
    int64_t vectors;     /* rows * heads; vector v is row v / heads, head v % heads */
    float *queries, *sums, *scores;
    float tops[MED_CPU_QUERIES], totals[MED_CPU_QUERIES];
};

/* First position that a row at `position` sees. */
static int64_t first_seen(const struct med_attend_args *a, int64_t position)
{
    return a->window > 0 && position >= a->window ? position - a->window + 1 : 0;
}

static void block_start(const struct attend *s, struct block *b)
{
    const struct med_attend_args *a = s->args;
    for (int64_t v = 0; v < b->vectors; v++) {
        int64_t row = b->row + v / b->heads, head = b->head + v % b->heads;
        float *to = b->queries + v * a->head_dim;
        med_cpu_row_widen(s->cpu, a->dtype, a->q, row * a->heads + head, a->head_dim, to);
        s->cpu->kernels->scale(to, a->head_dim, a->scale);
        b->tops[v] = -INFINITY;
        b->totals[v] = 0;
    }
    memset(b->sums, 0, (size_t)(b->vectors * a->head_dim) * sizeof *b->sums);
}

/* Where the keys or values of `position` lie, as a row of [blocks * kv_heads * block_tokens]. */
static int64_t cache_row(const struct attend *s, const struct block *b, int64_t position)
{
    const struct med_attend_args *a = s->args;
    int64_t tokens = a->kv.block_tokens;
    int64_t number = a->tables[b->item * a->table_stride + position / tokens];
    return (number * a->kv_heads + b->kv_head) * tokens + position % tokens;
}

static const void *cache_at(const struct attend *s, const void *base, int64_t row)
{
    const struct med_attend_args *a = s->args;
    return (const char *)base + (size_t)(row * a->head_dim) * med_dtype_bytes(a->kv.dtype);
}

/* Positions from `position` that lie in one block and before `end`. */
static int64_t run_length(const struct attend *s, int64_t position, int64_t end)
{
    int64_t tokens = s->args->kv.block_tokens;
    int64_t in_block = tokens - position % tokens;
    return in_block < end - position ? in_block : end - position;
}

/* Scores of positions [from, end) of the chunk at `chunk`. */
static void scores_compute(const struct attend *s, const struct block *b, int64_t chunk,
                           int64_t from, int64_t end)
{
    const struct med_attend_args *a = s->args;
    for (int64_t p = from, count; p < end; p += count) {
        count = run_length(s, p, end);
        struct med_cpu_dots dots = {.rows = b->vectors,
                                    .outs = count,
                                    .n = a->head_dim,
                                    .x = b->queries,
                                    .x_stride = a->head_dim,
                                    .w = cache_at(s, a->kv.keys, cache_row(s, b, p)),
                                    .w_stride = a->head_dim,
                                    .y = b->scores + (p - chunk),
                                    .y_stride = MED_CPU_KEYS};
        s->cpu->kernels->dots[a->kv.dtype](&dots);
    }
}

/* Turns scores into weights, 0 for what a row does not see. */
static void softmax_step(const struct attend *s, struct block *b, int64_t chunk)
{
    const struct med_attend_args *a = s->args;
    const struct med_cpu_kernels *k = s->cpu->kernels;
    for (int64_t v = 0; v < b->vectors; v++) {
        float *scores = b->scores + v * MED_CPU_KEYS;
        int64_t position = b->position + v / b->heads;
        int64_t from = first_seen(a, position) - chunk, end = position + 1 - chunk;
        if (from >= MED_CPU_KEYS || end <= 0) {
            memset(scores, 0, MED_CPU_KEYS * sizeof *scores);
            continue;
        }
        for (int64_t i = 0; i < from; i++)
            scores[i] = -INFINITY;
        for (int64_t i = end; i < MED_CPU_KEYS; i++)
            scores[i] = -INFINITY;
        float top = k->largest(scores, MED_CPU_KEYS);
        if (top > b->tops[v]) {
            float factor = expf(b->tops[v] - top);
            k->scale(b->sums + v * a->head_dim, a->head_dim, factor);
            b->totals[v] *= factor;
            b->tops[v] = top;
        }
        b->totals[v] += k->exp_sum(scores, MED_CPU_KEYS, b->tops[v]);
    }
}

/* Adds the weighted values of positions [from, end), which lie in one run, to vectors
 * [first, first + count). */
static void run_mix(const struct attend *s, const struct block *b, int64_t chunk, int64_t first,
                    int64_t count, int64_t from, int64_t end)
{
    const struct med_attend_args *a = s->args;
    struct med_cpu_mix mix = {.rows = count,
                              .keys = end - from,
                              .n = a->head_dim,
                              .p = b->scores + first * MED_CPU_KEYS + (from - chunk),
                              .p_stride = MED_CPU_KEYS,
                              .v = cache_at(s, a->kv.values, cache_row(s, b, from)),
                              .v_stride = a->head_dim,
                              .acc = b->sums + first * a->head_dim,
                              .acc_stride = a->head_dim};
    s->cpu->kernels->mix[a->kv.dtype](&mix);
}

/* What a row does not see is left out, not weighed by 0: a value that is no number would come
 * through (0 * NaN).  Keys are added one by one, so that leaving some out changes no bit. */
static void values_mix(const struct attend *s, const struct block *b, int64_t chunk, int64_t from,
                       int64_t end)
{
    const struct med_attend_args *a = s->args;
    int64_t last = b->position + b->rows - 1;
    for (int64_t p = from, stop; p < end; p = stop) {
        stop = p + run_length(s, p, end);
        if (stop <= b->position + 1 && first_seen(a, last) <= p) {
            run_mix(s, b, chunk, 0, b->vectors, p, stop);
            continue;
        }
        for (int64_t r = 0; r < b->rows; r++) {
            int64_t position = b->position + r, seen = first_seen(a, position);
            int64_t low = p > seen ? p : seen, high = stop < position + 1 ? stop : position + 1;
            if (low < high)
                run_mix(s, b, chunk, r * b->heads, b->heads, low, high);
        }
    }
}

static void block_run(const struct attend *s, struct block *b)
{
    const struct med_attend_args *a = s->args;
    block_start(s, b);
    int64_t first = first_seen(a, b->position), end_all = b->position + b->rows;
    for (int64_t chunk = first / MED_CPU_KEYS * MED_CPU_KEYS; chunk < end_all;
         chunk += MED_CPU_KEYS) {
        int64_t from = first > chunk ? first : chunk;
        int64_t end = end_all < chunk + MED_CPU_KEYS ? end_all : chunk + MED_CPU_KEYS;
        scores_compute(s, b, chunk, from, end);
        softmax_step(s, b, chunk);
        values_mix(s, b, chunk, from, end);
    }
    for (int64_t v = 0; v < b->vectors; v++) {
        float *sums = b->sums + v * a->head_dim;
        s->cpu->kernels->scale(sums, a->head_dim, 1.0f / b->totals[v]);
        int64_t row = b->row + v / b->heads, head = b->head + v % b->heads;
        med_cpu_row_narrow(s->cpu, a->dtype, sums, a->out, row * a->heads + head, a->head_dim);
    }
}

static int64_t item_blocks(const struct attend *s, int64_t item)
{
    const struct med_attend_args *a = s->args;
    int64_t rows = a->item_rows[item + 1] - a->item_rows[item];
    return (rows + s->rows_block - 1) / s->rows_block;
}

/* Piece `index` of an item. */
static void block_find(const struct attend *s, int64_t item, int64_t index, struct block *b)
{
    const struct med_attend_args *a = s->args;
    int64_t part = index % s->parts, rest = index / s->parts;
    int64_t kv_head = rest % a->kv_heads, row = rest / a->kv_heads * s->rows_block;
    int64_t rows = a->item_rows[item + 1] - a->item_rows[item] - row;
    int64_t head = part * s->heads_part;
    b->item = item;
    b->kv_head = kv_head;
    b->head = kv_head * s->group + head;
    b->heads = s->group - head < s->heads_part ? s->group - head : s->heads_part;
    b->row = a->item_rows[item] + row;
    b->rows = rows < s->rows_block ? rows : s->rows_block;
    b->position = a->contexts[item] + row;
    b->vectors = b->rows * b->heads;
}

static void attend_piece(void *arg, int thread, int threads)
{
    struct attend *s = arg;
    const struct med_cpu_lane *lane = &s->cpu->lanes[thread];
    (void)threads;
    struct block b = {.queries = lane->queries, .sums = lane->sums, .scores = lane->scores};
    int64_t item = 0, before = 0; /* pieces of the items before `item` */
    for (;;) {
        int64_t piece = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed);
        while (item < s->args->items) {
            int64_t pieces = item_blocks(s, item) * s->args->kv_heads * s->parts;
            if (piece < before + pieces)
                break;
            before += pieces;
            item++;
        }
        if (item == s->args->items)
            return;
        block_find(s, item, piece - before, &b);
        block_run(s, &b);
    }
}

int med_cpu_attend(void *device, const struct med_attend_args *a)
{
    struct med_cpu *cpu = device;
    MED_ASSERT(a->heads % a->kv_heads == 0 && a->head_dim <= cpu->head_dim_max);
    struct attend s = {.cpu = cpu, .args = a, .group = a->heads / a->kv_heads};
    s.heads_part = s.group < MED_CPU_QUERIES ? s.group : MED_CPU_QUERIES;
    s.parts = (s.group + s.heads_part - 1) / s.heads_part;
    s.rows_block = MED_CPU_QUERIES / s.heads_part;
    atomic_init(&s.next, 0);
    int64_t keys = 0;
    for (int64_t i = 0; i < a->items; i++) {
        int64_t rows = a->item_rows[i + 1] - a->item_rows[i];
        keys += rows * (a->contexts[i] + rows);
    }
    if (keys * a->heads * a->head_dim < 1 << 16) {
        attend_piece(&s, 0, 1);
    } else {
        med_cpu_pool_run(cpu->pool, attend_piece, &s);
    }
    return 0;
}
