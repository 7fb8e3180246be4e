/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention's plan: every token that a row sees is in exactly one part, parts are no more than allowed
 * and as short as that allows; tiles have every row once; deterministic cuts depend on the row alone.
 */
#include "worker/cuda/attend_plan.h"

#include "tests/check.h"

enum {
    ITEMS_MAX = 300,
    PARTS_MAX = 20000
};

/* thread: main */
struct batch {
    int32_t item_rows[ITEMS_MAX + 1], contexts[ITEMS_MAX];
    int64_t items;
};

static struct med_cuda_decode_part staging[PARTS_MAX];
static size_t plan_bytes;

static void batch_add(struct batch *b, int32_t context, int32_t rows)
{
    b->contexts[b->items] = context;
    b->item_rows[b->items + 1] = b->item_rows[b->items] + rows;
    b->items++;
}

static struct med_cuda_attend_shape plan(const struct med_cuda_attend_limits *l,
                                         const struct batch *b, int64_t padded)
{
    const struct med_ops_batch host = {.rows = b->item_rows[b->items],
                                       .items = b->items,
                                       .item_rows = b->item_rows,
                                       .contexts = b->contexts};
    memset(staging, 0x7f, sizeof staging);
    struct med_cuda_attend_shape shape =
        med_cuda_attend_plan_make(l, &host, padded, staging, &plan_bytes);
    REQUIRE((size_t)shape.decode_parts < PARTS_MAX);
    CHECK_UINT(plan_bytes, (size_t)shape.decode_parts * sizeof *staging +
                               (size_t)shape.prefill_tiles * sizeof(struct med_cuda_prefill_tile));
    struct med_cuda_attend_shape most = med_cuda_attend_shape_max(l);
    CHECK(shape.decode_parts <= most.decode_parts);
    CHECK(shape.prefill_tiles <= most.prefill_tiles);
    return shape;
}

static struct med_cuda_attend_limits limits(int64_t kv_heads)
{
    return (struct med_cuda_attend_limits){
        .kv_heads = kv_heads, .block_tokens = 16, .rows_max = 8192, .items_max = 256};
}

/* The parts of row r of item i, from staging[at] on, cover what the row sees, in order.  Returns the first
 * part behind them; *longest grows. */
static int64_t row_check(const struct med_cuda_attend_limits *l, const struct batch *b, int64_t i,
                         int64_t r, int64_t table, int64_t at, int64_t *longest)
{
    int64_t position = b->contexts[i] + r, merge = at;
    int64_t first = l->window && position >= l->window ? position - l->window + 1 : 0;
    CHECK(staging[at].begin <= first);
    for (int64_t next = staging[at].begin; next < position + 1; at++) {
        const struct med_cuda_decode_part *p = &staging[at];
        REQUIRE(at < PARTS_MAX);
        CHECK_INT(p->row, b->item_rows[i] + r);
        CHECK_INT(p->item, i);
        CHECK_INT(p->begin, next);
        CHECK(p->end > p->begin);
        CHECK_INT(p->begin % 16, 0);
        CHECK_INT(p->merge, merge);
        CHECK_INT(p->part, at - merge);
        CHECK_INT(p->table, table);
        CHECK_INT(p->position, position);
        CHECK_INT(p->context, b->contexts[i]);
        *longest = p->end - p->begin > *longest ? p->end - p->begin : *longest;
        next = p->end;
    }
    CHECK_INT(staging[at - 1].end, position + 1);
    for (int64_t p = merge; p < at; p++)
        CHECK_INT(staging[p].parts, at - merge);
    return at;
}

/* The same for all rows that are decodes, side by side.  Returns the longest part. */
static int64_t parts_check(const struct med_cuda_attend_limits *l, const struct batch *b,
                           int64_t count)
{
    int64_t at = 0, longest = 0, table = 0;
    for (int64_t i = 0; i < b->items; i++) {
        int64_t rows = b->item_rows[i + 1] - b->item_rows[i];
        for (int64_t r = 0; r < rows && (rows == 1 || l->deterministic); r++)
            at = row_check(l, b, i, r, table, at, &longest);
        table += (b->contexts[i] + rows + l->block_tokens - 1) / l->block_tokens;
    }
    CHECK(at <= count);
    for (; at < count; at++)
        CHECK_INT(staging[at].row, -1);
    return longest;
}

static void test_decodes_of_equal_contexts(void)
{
    static const int sizes[] = {1, 2, 7, 8, 64, 256};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        struct med_cuda_attend_limits l = limits(32);
        struct batch b = {0};
        for (int i = 0; i < sizes[s]; i++)
            batch_add(&b, 575, 1);
        struct med_cuda_attend_shape shape = plan(&l, &b, 0);
        int64_t longest = parts_check(&l, &b, shape.decode_parts);
        CHECK(longest >= MED_CUDA_ATTEND_CUT_MIN || sizes[s] > 1);
        CHECK(sizes[s] > 2 || longest <= 128);
        CHECK(longest <= 304);
        CHECK_INT(shape.prefill_tiles, 0);
    }
}

static void test_one_long_beside_many_short(void)
{
    struct med_cuda_attend_limits l = limits(32);
    struct batch b = {0};
    for (int i = 0; i < 64; i++)
        batch_add(&b, i == 37 ? 16383 : 575, 1);
    struct med_cuda_attend_shape shape = plan(&l, &b, 64);
    CHECK_INT(shape.decode_parts, med_cuda_attend_shape_for(&l, 64).decode_parts);
    /* What is left when each of the others has one or two. */
    CHECK(parts_check(&l, &b, shape.decode_parts) <= 576);
}

static void test_padded_shape_is_the_recordings(void)
{
    struct med_cuda_attend_limits l = limits(8);
    struct batch none = {0}, some = {0};
    struct med_cuda_attend_shape empty = plan(&l, &none, 24);
    size_t bytes = plan_bytes;
    CHECK_INT(parts_check(&l, &none, empty.decode_parts), 0);
    for (int i = 0; i < 17; i++)
        batch_add(&some, i * 731 % 5000, 1);
    struct med_cuda_attend_shape shape = plan(&l, &some, 24);
    (void)parts_check(&l, &some, shape.decode_parts);
    CHECK_INT(shape.decode_parts, empty.decode_parts);
    CHECK_INT(shape.decode_parts, med_cuda_attend_shape_for(&l, 24).decode_parts);
    CHECK_UINT(plan_bytes, bytes);
}

/* Few decodes of shared heads have a block per head, more have one per kv head, and plans, recordings and the
 * largest shape agree on it. */
static void test_few_decodes_stream(void)
{
    struct med_cuda_attend_limits l = limits(8);
    l.heads = 32;
    l.stream_items = 4;
    for (int items = 1; items <= 6; items++) {
        struct batch b = {0};
        for (int i = 0; i < items; i++)
            batch_add(&b, 2000, 1);
        struct med_cuda_attend_shape shape = plan(&l, &b, items);
        struct med_cuda_attend_shape recorded = med_cuda_attend_shape_for(&l, items);
        CHECK_INT(shape.streams, items <= 4);
        CHECK_INT(recorded.streams, shape.streams);
        CHECK_INT(recorded.decode_parts, shape.decode_parts);
        int64_t blocks = shape.streams ? MED_CUDA_ATTEND_STREAM_BLOCKS / l.heads
                                       : MED_CUDA_ATTEND_BLOCKS / l.kv_heads;
        CHECK_INT(shape.decode_parts, items + blocks);
        CHECK(shape.decode_parts <= med_cuda_attend_partials_max(&l));
        (void)parts_check(&l, &b, shape.decode_parts);
    }
    l.items_max = 2; /* fewer than it takes */
    CHECK_INT(med_cuda_attend_partials_max(&l), 2 + MED_CUDA_ATTEND_STREAM_BLOCKS / l.heads);
}

static void test_window_cuts_only_what_is_seen(void)
{
    struct med_cuda_attend_limits l = limits(8);
    l.window = 1000;
    struct batch b = {0};
    batch_add(&b, 16383, 1);
    batch_add(&b, 5, 1);
    batch_add(&b, 999, 1);
    batch_add(&b, 1000, 1);
    struct med_cuda_attend_shape shape = plan(&l, &b, 0);
    (void)parts_check(&l, &b, shape.decode_parts);
    CHECK_INT(staging[0].begin, (16383 - 999) / 16 * 16);
}

static void test_mixed_batch_has_every_row_once(void)
{
    struct med_cuda_attend_limits l = limits(8);
    struct batch b = {0};
    static int seen[8192];
    memset(seen, 0, sizeof seen);
    batch_add(&b, 0, 129);
    batch_add(&b, 1000, 1);
    batch_add(&b, 7, 2);
    batch_add(&b, 300, 1);
    batch_add(&b, 4000, 1000);
    struct med_cuda_attend_shape shape = plan(&l, &b, 0);
    (void)parts_check(&l, &b, shape.decode_parts);
    for (int64_t p = 0; p < shape.decode_parts; p++)
        seen[staging[p].row] += staging[p].part == 0;
    const struct med_cuda_prefill_tile *tiles = (const void *)(staging + shape.decode_parts);
    int32_t before = INT32_MAX;
    for (int64_t t = 0; t < shape.prefill_tiles; t++) {
        const struct med_cuda_prefill_tile *tile = &tiles[t];
        CHECK(tile->rows >= 1);
        CHECK(tile->rows <= MED_CUDA_ATTEND_TILE);
        CHECK(tile->position + tile->rows <= before);
        before = tile->position + tile->rows;
        CHECK_INT(tile->position, b.contexts[tile->item] + tile->row - b.item_rows[tile->item]);
        CHECK(tile->row + tile->rows <= b.item_rows[tile->item + 1]);
        for (int32_t r = 0; r < tile->rows; r++)
            seen[tile->row + r]++;
    }
    for (int32_t r = 0; r < b.item_rows[b.items]; r++)
        CHECK_INT(seen[r], 1);
}

static void test_deterministic_cuts_are_the_rows_own(void)
{
    struct med_cuda_attend_limits l = limits(32);
    l.deterministic = true;
    struct batch few = {0}, many = {0};
    batch_add(&few, 700, 1);
    struct med_cuda_attend_shape shape = plan(&l, &few, 4);
    CHECK_INT(parts_check(&l, &few, shape.decode_parts), MED_CUDA_ATTEND_CUT);
    for (int64_t p = 0; p < 3; p++)
        CHECK_INT(staging[p].begin, p * MED_CUDA_ATTEND_CUT);
    /* More rows than parts: a row is one part, cut by its block at the same multiples. */
    batch_add(&many, 0, 2000);
    shape = plan(&l, &many, 0);
    CHECK_INT(shape.decode_parts, 2000);
    CHECK_INT(shape.prefill_tiles, 0);
    (void)parts_check(&l, &many, shape.decode_parts);
    for (int64_t p = 0; p < shape.decode_parts; p++)
        CHECK_INT(staging[p].begin % MED_CUDA_ATTEND_CUT, 0);
}

static void test_random_batches(void)
{
    uint64_t seed = check_seed();
    for (int round = 0; round < 300; round++) {
        struct batch b = {0};
        struct med_cuda_attend_limits l = limits(1 + round % 32);
        l.block_tokens = 1 + round % 40;
        l.deterministic = round % 5 == 4;
        seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        l.window = round % 3 == 1 ? (int64_t)(seed >> 40) % 3000 + 1 : 0;
        int64_t items = (int64_t)(seed >> 33) % 100 + 1;
        for (int64_t i = 0; i < items; i++) {
            seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            int32_t context = (int32_t)(seed >> 40) % (round % 2 ? 16384 : 300);
            int32_t rows = seed >> 62 ? 1 : (int32_t)(seed >> 50) % 300 + 1;
            batch_add(&b, context, rows);
        }
        struct med_cuda_attend_shape shape = plan(&l, &b, 0);
        (void)parts_check(&l, &b, shape.decode_parts);
    }
}

int main(void)
{
    RUN(test_decodes_of_equal_contexts);
    RUN(test_one_long_beside_many_short);
    RUN(test_padded_shape_is_the_recordings);
    RUN(test_few_decodes_stream);
    RUN(test_window_cuts_only_what_is_seen);
    RUN(test_mixed_batch_has_every_row_once);
    RUN(test_deterministic_cuts_are_the_rows_own);
    RUN(test_random_batches);
    return check_finish();
}
