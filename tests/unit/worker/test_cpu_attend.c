/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention over the paged cache against its formula in double precision, and its promise about
 * bits: however a sequence is cut into steps and whatever stands beside it, a row's are the same.
 */
#include "tests/unit/worker/cpu_reference.h"
#include "worker/cpu/internal.h"

struct shape {
    int64_t heads, kv_heads, head_dim, block_tokens, window;
};
static const struct shape shapes[] = {
    {1, 1, 8, 16, 0},   {4, 2, 16, 1, 0},   {3, 1, 34, 7, 0},   {6, 2, 127, 16, 31},
    {8, 8, 64, 32, 64}, {130, 1, 8, 64, 0}, {12, 4, 128, 5, 1}, {2, 1, 10, 96, 33},
};
enum {
    SHAPES = sizeof shapes / sizeof *shapes,
    LENGTH = 150, /* tokens of each sequence in the cache */
    SEQUENCES = 3,
    BLOCKS_MAX = SEQUENCES * LENGTH + SEQUENCES
};

struct world {
    struct shape s;
    enum med_dtype dtype, kv_dtype;
    int64_t table_stride;
    int32_t tables[BLOCKS_MAX];
    void *keys, *values;
    void *queries; // [SEQUENCES][LENGTH][heads * head_dim], of every position
};

/* The blocks of the sequences are interleaved, last first. */
static void world_make(struct world *w, struct shape s, enum med_dtype dtype,
                       enum med_dtype kv_dtype)
{
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), (uint64_t)(s.heads * 1000 + s.head_dim));
    w->s = s;
    w->dtype = dtype;
    w->kv_dtype = kv_dtype;
    w->table_stride = (LENGTH + s.block_tokens - 1) / s.block_tokens;
    int64_t blocks = w->table_stride * SEQUENCES;
    for (int64_t i = 0; i < blocks; i++) {
        int64_t sequence = i % SEQUENCES, place = i / SEQUENCES;
        w->tables[sequence * w->table_stride + place] = (int32_t)(blocks - 1 - i);
    }
    int64_t count = blocks * s.kv_heads * s.block_tokens * s.head_dim;
    w->keys = ref_random(&rng, kv_dtype, count, 0, 1);
    w->values = ref_random(&rng, kv_dtype, count, 0, 1);
    w->queries = ref_random(&rng, dtype, (int64_t)SEQUENCES * LENGTH * s.heads * s.head_dim, 0, 1);
}

static void world_free(struct world *w)
{
    free(w->keys);
    free(w->values);
    free(w->queries);
}

struct part {
    int64_t sequence, context, tokens;
};

static size_t row_bytes(const struct world *w)
{
    return (size_t)(w->s.heads * w->s.head_dim) * med_dtype_bytes(w->dtype);
}

/* Attends to the parts as items of one batch; results go to their places in `out`, which is laid out
 * as the queries are. */
static void attend_parts(const struct world *w, struct med_cpu *cpu, const struct part *parts,
                         int64_t count, void *out)
{
    int32_t item_rows[SEQUENCES + 1] = {0}, contexts[SEQUENCES];
    int32_t *tables = ref_alloc((size_t)(count * w->table_stride) * sizeof *tables);
    char *q = ref_alloc((size_t)(SEQUENCES * LENGTH) * row_bytes(w));
    char *results = ref_alloc((size_t)(SEQUENCES * LENGTH) * row_bytes(w));
    for (int64_t i = 0; i < count; i++) {
        const struct part *p = &parts[i];
        item_rows[i + 1] = item_rows[i] + (int32_t)p->tokens;
        contexts[i] = (int32_t)p->context;
        /* What is not needed yet is no block at all: reading it would be out of bounds. */
        int64_t needed = (p->context + p->tokens + w->s.block_tokens - 1) / w->s.block_tokens;
        for (int64_t b = 0; b < w->table_stride; b++) {
            tables[i * w->table_stride + b] =
                b < needed ? w->tables[p->sequence * w->table_stride + b] : INT32_MAX;
        }
        memcpy(q + (size_t)item_rows[i] * row_bytes(w),
               (char *)w->queries + (size_t)(p->sequence * LENGTH + p->context) * row_bytes(w),
               (size_t)p->tokens * row_bytes(w));
    }
    struct med_attend_args args = {.items = count,
                                   .rows = item_rows[count],
                                   .heads = w->s.heads,
                                   .kv_heads = w->s.kv_heads,
                                   .head_dim = w->s.head_dim,
                                   .q = q,
                                   .item_rows = item_rows,
                                   .contexts = contexts,
                                   .tables = tables,
                                   .table_stride = w->table_stride,
                                   .kv = {.keys = w->keys,
                                          .values = w->values,
                                          .dtype = w->kv_dtype,
                                          .block_tokens = w->s.block_tokens},
                                   .window = w->s.window,
                                   .scale = 1.0f / sqrtf((float)w->s.head_dim),
                                   .out = results,
                                   .dtype = w->dtype};
    CHECK_INT(med_cpu_ops()->attend(cpu, &args), 0);
    for (int64_t i = 0; i < count; i++) {
        memcpy((char *)out + (size_t)(parts[i].sequence * LENGTH + parts[i].context) * row_bytes(w),
               results + (size_t)item_rows[i] * row_bytes(w),
               (size_t)parts[i].tokens * row_bytes(w));
    }
    free(tables);
    free(q);
    free(results);
}

static int64_t cache_index(const struct world *w, int64_t sequence, int64_t kv_head, int64_t p)
{
    int64_t block = w->tables[sequence * w->table_stride + p / w->s.block_tokens];
    int64_t row = (block * w->s.kv_heads + kv_head) * w->s.block_tokens + p % w->s.block_tokens;
    return row * w->s.head_dim;
}

static void check_row(const struct world *w, struct ref_worst *worst, const void *out,
                      int64_t sequence, int64_t position, int64_t head)
{
    const struct shape *s = &w->s;
    int64_t kv_head = head / (s->heads / s->kv_heads);
    int64_t row = ((sequence * LENGTH + position) * s->heads + head) * s->head_dim;
    int64_t first = s->window > 0 && position >= s->window ? position - s->window + 1 : 0;
    double scores[LENGTH], top = -INFINITY, total = 0;
    for (int64_t p = first; p <= position; p++) {
        double sum = 0;
        for (int64_t i = 0; i < s->head_dim; i++) {
            sum += ref_get(w->dtype, w->queries, row + i) *
                   ref_get(w->kv_dtype, w->keys, cache_index(w, sequence, kv_head, p) + i);
        }
        scores[p] = sum / sqrt((double)s->head_dim);
        top = fmax(top, scores[p]);
    }
    for (int64_t p = first; p <= position; p++)
        total += scores[p] = exp(scores[p] - top);
    for (int64_t i = 0; i < s->head_dim; i++) {
        double sum = 0, size = 0;
        for (int64_t p = first; p <= position; p++) {
            double term = scores[p] / total *
                          ref_get(w->kv_dtype, w->values, cache_index(w, sequence, kv_head, p) + i);
            sum += term;
            size += fabs(term);
        }
        double allowed = 4e-6 * size;
        if (w->dtype == MED_DTYPE_BF16)
            allowed += 0x1.01p-8 * fabs(sum);
        ref_compare(worst, ref_get(w->dtype, out, row + i), sum, allowed + 1e-30);
    }
}

static struct med_cpu *world_cpu(const struct world *w, int threads)
{
    struct med_model_config model = {.layers = 1,
                                     .hidden = 8,
                                     .heads = w->s.heads,
                                     .kv_heads = w->s.kv_heads,
                                     .head_dim = w->s.head_dim,
                                     .intermediate = 8,
                                     .vocab = 8};
    return ref_cpu(threads, false, &model, w->dtype);
}

static void world_check(const struct world *w)
{
    static const struct part whole[] = {{0, 0, LENGTH}, {1, 0, LENGTH - 37}, {2, 0, 1}};
    size_t bytes = (size_t)(SEQUENCES * LENGTH) * row_bytes(w);
    void *want = ref_alloc(bytes), *got = ref_alloc(bytes);
    struct med_cpu *one = world_cpu(w, 1), *three = world_cpu(w, 3);
    attend_parts(w, one, whole, 3, want);
    char text[128];
    (void)snprintf(text, sizeof text,
                   "attend, %d/%d heads of %d, blocks of %d, window %d, cache %s, %s",
                   (int)w->s.heads, (int)w->s.kv_heads, (int)w->s.head_dim, (int)w->s.block_tokens,
                   (int)w->s.window, med_dtype_name(w->kv_dtype), med_dtype_name(w->dtype));
    struct ref_worst worst = {.what = text};
    for (int64_t p = 0; p < LENGTH; p += p < 3 || p > LENGTH - 4 ? 1 : 7) {
        for (int64_t h = 0; h < w->s.heads; h += 1 + w->s.heads / 5) {
            check_row(w, &worst, want, 0, p, h);
            if (p < LENGTH - 37)
                check_row(w, &worst, want, 1, p, h);
        }
    }
    ref_report(&worst);
    /* Each sequence in steps of other sizes, beside other parts, on three threads. */
    for (int64_t at[SEQUENCES] = {0}, round = 0;; round++) {
        struct part parts[SEQUENCES];
        int64_t count = 0;
        for (int64_t i = 0; i < SEQUENCES; i++) {
            int64_t tokens = 1 + (round * 7 + i * 13) % 29;
            int64_t sequence = (i + round) % SEQUENCES,
                    left = whole[sequence].tokens - at[sequence];
            if (left == 0)
                continue;
            parts[count] = (struct part){sequence, at[sequence], tokens < left ? tokens : left};
            at[sequence] += parts[count++].tokens;
        }
        if (count == 0)
            break;
        attend_parts(w, three, parts, count, got);
    }
    CHECK(memcmp(want, got, bytes) == 0);
    med_cpu_free(one);
    med_cpu_free(three);
    free(want);
    free(got);
}

static void test_attend_is_softmax_whatever_the_steps(void)
{
    static const enum med_dtype dtypes[] = {MED_DTYPE_F32, MED_DTYPE_BF16};
    for (size_t i = 0; i < SHAPES; i++) {
        for (int kv = 0; kv < MED_DTYPE_COUNT; kv++) {
            struct world w;
            world_make(&w, shapes[i], dtypes[(i + (size_t)kv) % 2], (enum med_dtype)kv);
            world_check(&w);
            world_free(&w);
        }
    }
}

/* Scores far apart: the softmax must not overflow, and the largest alone decides. */
static void test_attend_with_huge_scores_picks_the_largest(void)
{
    struct world w;
    world_make(&w, (struct shape){1, 1, 8, 16, 0}, MED_DTYPE_F32, MED_DTYPE_F32);
    float *keys = w.keys, *q = w.queries, *values = w.values;
    for (int64_t i = 0; i < (int64_t)LENGTH * 8; i++)
        q[i] = 100;
    for (int64_t p = 0; p < LENGTH; p++) {
        for (int64_t i = 0; i < 8; i++)
            keys[cache_index(&w, 0, 0, p) + i] = (float)(p % 100 == 70 ? 50 : -50 + p % 3);
    }
    struct med_cpu *cpu = world_cpu(&w, 2);
    size_t bytes = (size_t)(SEQUENCES * LENGTH) * row_bytes(&w);
    float *out = ref_alloc(bytes);
    static const struct part whole = {0, 0, 140};
    attend_parts(&w, cpu, &whole, 1, out);
    for (int64_t p = 70; p < 140; p++) {
        for (int64_t i = 0; i < 8; i++)
            CHECK(out[p * 8 + i] == values[cache_index(&w, 0, 0, 70) + i]);
    }
    med_cpu_free(cpu);
    free(out);
    world_free(&w);
}

/* Nothing to do is fine. */
static void test_attend_without_items_does_nothing(void)
{
    struct world w;
    world_make(&w, shapes[0], MED_DTYPE_F32, MED_DTYPE_F32);
    struct med_cpu *cpu = world_cpu(&w, 2);
    float out = 5;
    attend_parts(&w, cpu, NULL, 0, &out);
    CHECK(out == 5);
    med_cpu_free(cpu);
    world_free(&w);
}

int main(void)
{
    RUN(test_attend_is_softmax_whatever_the_steps);
    RUN(test_attend_with_huge_scores_picks_the_largest);
    RUN(test_attend_without_items_does_nothing);
    return check_finish();
}
