/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention of single rows: keys and values are read once, at the rate of the memory bus.
 *
 * out[h] = sum_t softmax_t(scale q[h] . k[t]) v[t], for all query heads h of a kv head together.
 *
 * A block has one part of a row's tokens (attend_plan.h), one kv head and up to 8 of its query heads.  Its
 * warps take turns at rounds of 16 tokens, whose keys and values a warp copies into its own part of shared
 * memory (cp.async), DEPTH rounds ahead: no barrier of the block is needed.  Both products are mma.m16n8k16 with float32 sums:
 *   scores  Q (16 x k: query heads, half of them zero) times K' (k x 8 tokens), k along head_dim in an
 *           order that makes a thread's 8 neighbouring elements its k of two instructions;
 *   result  V' (16 x k: elements of the head) times P' (k x 8 query heads), k along the 16 tokens: scores
 *           lie in registers just as P' wants them, values are paired by a byte permutation.
 * Weights are rounded to the cache's dtype for the second product; their sum is that of the unrounded.
 *
 * At the end the warps are merged through shared memory; a row of several parts leaves partial results in
 * memory, and the block that comes last (by the row's counter) merges them in the order of parts.
 *
 * Before the wait for the kernel before: the plan, the tables and the keys of tokens that were in the cache
 * before this batch are read.  That is safe: plan and tables are written by run's copy, which
 * no kernel of an earlier step overlaps and which the first kernel of this step waits for (a copy takes no
 * part in programmatic launch); tokens before `context` were written by earlier steps.
 *
 * Everything else (float32, a cache of another dtype, other head_dims) has a plain kernel.
 * thread: engine.
 */
#include "worker/cuda/attend.cuh"

#ifndef MED_DECODE_DEPTH
# define MED_DECODE_DEPTH 2
#endif
#ifndef MED_DECODE_RESIDENT
# define MED_DECODE_RESIDENT 3 /* blocks of a multiprocessor */
#endif
#ifndef MED_DECODE_MERGED
# define MED_DECODE_MERGED 4
#endif

enum {
    WARPS = 4,
    THREADS = WARPS * 32,
    ROUND = 16, /* tokens of a warp at a time */
    DEPTH = MED_DECODE_DEPTH,
    MEMBERS = 8,                /* query heads of a block */
    PLAIN_MEMBERS = 2,          /* of the plain kernel's */
    SOFTS = 32,                 /* parts whose largest score and total are read at a time */
    MERGED = MED_DECODE_MERGED, /* and whose sums; divides SOFTS */
    CUT_NONE = 1 << 30
};

struct decode {
    struct med_paged cache;
    const struct med_cuda_decode_part *parts;
    const void *q; // [rows][heads * head_dim]
    void *out;     // the same
    float *partials;
    uint32_t *counters;
    float scale; /* times log2(e) */
    int heads, group, band,
        bands; /* a block has `band` query heads, of `bands` in a kv head's group */
    int window, cut;
    enum med_dtype dtype; /* of q and out, for the plain kernel */
};

/* What a block works on. */
struct place {
    struct med_cuda_decode_part part;
    int kv_head, head, members; /* query heads [head, head + members) */
    int first, last;            /* tokens that the row sees of the part: [first, last) */
};

static __device__ __forceinline__ struct place place_of(const struct decode &d)
{
    struct place p;
    const int columns = d.cache.kv_heads * d.bands;
    const int index = blockIdx.x / columns, column = blockIdx.x % columns;
    p.part = d.parts[index];
    p.kv_head = column / d.bands;
    const int before = column % d.bands * d.band;
    p.head = p.kv_head * d.group + before;
    p.members = min(d.band, d.group - before);
    p.first = p.part.begin;
    p.last = p.part.end;
    if (d.window > 0)
        p.first = max(p.first, p.part.position - d.window + 1);
    return p;
}

/* ---- the end of a part -------------------------------------------------------------------------- */

/* What a block has of its query heads after its tokens: every warp its own. */
struct sums {
    float *most, *total; // [WARPS][MEMBERS]
    float *sum;          // [WARPS][MEMBERS][head_dim]
};

static __device__ __forceinline__ struct sums sums_in(float *shared)
{
    return {shared, shared + WARPS * MEMBERS, shared + 2 * WARPS * MEMBERS};
}

/* The result of a part as threads hold it: element threadIdx.x + i * THREADS of [members][head_dim]. */
template <int COUNT> struct merged {
    struct med_soft soft[COUNT];
    float sum[COUNT];
};

template <int COUNT> static __device__ __forceinline__ void merged_clear(struct merged<COUNT> *m)
{
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        m->soft[i] = {-INFINITY, 0.0f};
        m->sum[i] = 0.0f;
    }
}

/* A row's result from one cut to the next: in shared memory, so that no register waits for it. */
template <int COUNT>
static __device__ __forceinline__ void merged_keep(const struct merged<COUNT> &m, float *kept)
{
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        float *at = kept + 3 * i * THREADS + threadIdx.x;
        at[0] = m.soft[i].most;
        at[THREADS] = m.soft[i].total;
        at[2 * THREADS] = m.sum[i];
    }
}

/* The warps' sums (barrier before) as one, with what was kept merged before it; NULL: nothing was. */
template <int COUNT>
static __device__ __forceinline__ void merge_warps(const struct sums &s, int elements, int head_dim,
                                                   const float *kept, struct merged<COUNT> *to)
{
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        const int e = threadIdx.x + i * THREADS;
        if (i * THREADS < elements) {
            const int member = min(e, elements - 1) / head_dim, place = e % head_dim;
            float most = -INFINITY, total = 0.0f, sum = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; w++)
                most = fmaxf(most, s.most[w * MEMBERS + member]);
            const float subtract = most == -INFINITY ? 0.0f : most;
#pragma unroll
            for (int w = 0; w < WARPS; w++) {
                const int at = w * MEMBERS + member;
                const float weight = med_power(s.most[at] - subtract);
                total = __fmaf_rn(s.total[at], weight, total);
                sum = __fmaf_rn(s.sum[at * head_dim + place], weight, sum);
            }
            to->soft[i] = {most, total};
            to->sum[i] = sum;
            if (kept) {
                const float *at = kept + 3 * i * THREADS + threadIdx.x;
                to->soft[i] = {at[0], at[THREADS]};
                to->sum[i] = at[2 * THREADS];
                med_soft_merge(&to->soft[i], &to->sum[i], {most, total}, sum);
            }
        }
    }
}

template <int COUNT>
static __device__ __forceinline__ void result_put(const struct decode &d, const struct place &p,
                                                  int head_dim, int elements,
                                                  const struct merged<COUNT> &m)
{
    const int64_t base = ((int64_t)p.part.row * d.heads + p.head) * head_dim;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        const int e = threadIdx.x + i * THREADS;
        if (e < elements)
            med_element_put(d.out, d.dtype, base + e, __fdividef(m.sum[i], m.soft[i].total));
    }
}

/* Partial results of `from` parts on, as many as MERGED, of the thread's elements. */
template <int COUNT>
static __device__ __forceinline__ void sums_read(const struct decode &d, const struct place &p,
                                                 int head_dim, int from,
                                                 float (&sum)[MERGED][COUNT])
{
    const int elements = p.members * head_dim, stride = head_dim + 2;
    const float *all = d.partials + ((int64_t)p.part.merge * d.heads + p.head) * stride;
#pragma unroll
    for (int n = 0; n < MERGED; n++) {
        const float *at = all + (int64_t)(from + n) * d.heads * stride;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const int e = threadIdx.x + i * THREADS;
            sum[n][i] = 0.0f;
            if (e < elements && from + n < p.part.parts)
                sum[n][i] = __ldcg(at + e / head_dim * stride + e % head_dim);
        }
    }
}

/* By the row's last block: all parts in their order, as many as lanes at a time.  Reads are under way before
 * anything waits. */
template <int COUNT>
static __device__ __forceinline__ void parts_merge(const struct decode &d, const struct place &p,
                                                   int head_dim, struct merged<COUNT> &m)
{
    __shared__ float weights[SOFTS][MEMBERS];
    __shared__ struct med_soft softs[MEMBERS];
    const int elements = p.members * head_dim, stride = head_dim + 2, lane = threadIdx.x % 32;
    const float *all = d.partials + ((int64_t)p.part.merge * d.heads + p.head) * stride;
    merged_clear(&m);
    for (int chunk = 0; chunk < p.part.parts; chunk += SOFTS) {
        const int count = min((int)SOFTS, p.part.parts - chunk);
        float sum[MERGED][COUNT];
        sums_read(d, p, head_dim, chunk, sum);
        for (int q = threadIdx.x / 32; q < p.members; q += WARPS) { /* a lane has a part */
            struct med_soft soft = {-INFINITY, 0.0f};
            if (lane < count) {
                const float *at = all + ((int64_t)(chunk + lane) * d.heads + q) * stride + head_dim;
                soft = {__ldcg(at), __ldcg(at + 1)};
            }
            float most = soft.most;
#pragma unroll
            for (int other = 16; other > 0; other /= 2)
                most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, other));
            const float weight = med_power(soft.most - (most == -INFINITY ? 0.0f : most));
            float total = soft.total * weight;
#pragma unroll
            for (int other = 16; other > 0; other /= 2)
                total += __shfl_xor_sync(0xffffffffu, total, other);
            weights[lane][q] = weight;
            if (lane == 0)
                softs[q] = {most, total};
        }
        __syncthreads();
        float mixed[COUNT];
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            mixed[i] = 0.0f;
        for (int from = 0; from < count; from += MERGED) {
            if (from > 0)
                sums_read(d, p, head_dim, chunk + from, sum);
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                const int member = min((int)threadIdx.x + i * THREADS, elements - 1) / head_dim;
                if (i * THREADS < elements) {
#pragma unroll
                    for (int n = 0; n < MERGED; n++)
                        mixed[i] = __fmaf_rn(sum[n][i], weights[from + n][member], mixed[i]);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const int e = threadIdx.x + i * THREADS;
            if (e < elements)
                med_soft_merge(&m.soft[i], &m.sum[i], softs[e / head_dim], mixed[i]);
        }
        __syncthreads();
    }
    result_put(d, p, head_dim, elements, m);
}

/* The same for deterministic rows: bit for bit what one block does that goes from cut to cut. */
template <int COUNT>
static __device__ __forceinline__ void cuts_merge(const struct decode &d, const struct place &p,
                                                  int head_dim, struct merged<COUNT> &m)
{
    const int elements = p.members * head_dim, stride = head_dim + 2;
    const float *all = d.partials + ((int64_t)p.part.merge * d.heads + p.head) * stride;
    merged_clear(&m);
    for (int n = 0; n < p.part.parts; n++, all += (int64_t)d.heads * stride) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const int e = threadIdx.x + i * THREADS;
            if (e < elements) {
                const float *at = all + e / head_dim * stride;
                med_soft_merge(&m.soft[i], &m.sum[i],
                               {__ldcg(at + head_dim), __ldcg(at + head_dim + 1)},
                               __ldcg(at + e % head_dim));
            }
        }
    }
    result_put(d, p, head_dim, elements, m);
}

/* Leaves the part's result; the last block of the row merges all of them. */
template <int COUNT>
static __device__ __forceinline__ void part_finish(const struct decode &d, const struct place &p,
                                                   int head_dim, struct merged<COUNT> &m)
{
    __shared__ bool is_last;
    const int elements = p.members * head_dim, stride = head_dim + 2;
    if (p.part.parts == 1) {
        result_put(d, p, head_dim, elements, m);
        return;
    }
    float *own = d.partials + ((int64_t)(p.part.merge + p.part.part) * d.heads + p.head) * stride;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        const int e = threadIdx.x + i * THREADS;
        if (e < elements) {
            const int member = e / head_dim, place = e % head_dim;
            __stcg(own + member * stride + place, m.sum[i]);
            if (place == 0) {
                __stcg(own + member * stride + head_dim, m.soft[i].most);
                __stcg(own + member * stride + head_dim + 1, m.soft[i].total);
            }
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t *counter = d.counters + (int64_t)p.part.merge * d.heads + p.head;
        __threadfence();
        is_last = atomicAdd(counter, 1u) == (uint32_t)p.part.parts - 1;
        __threadfence();
        if (is_last)
            *counter = 0;
    }
    __syncthreads();
    if (is_last && d.cut == CUT_NONE) {
        parts_merge(d, p, head_dim, m);
    } else if (is_last) {
        cuts_merge(d, p, head_dim, m);
    }
}

/* ---- tensor cores ------------------------------------------------------------------------------- */

/* A warp's place for one round: rows of the 16 tokens' keys, then of their values.  Pieces of 16 bytes of
 * a row are exchanged (key_swap, value_swap), so that reads meet no bank twice. */
template <int HEAD_DIM> struct ring {
    static constexpr int PIECES = HEAD_DIM / 8; /* of a row */
    static constexpr int VALUES = ROUND * PIECES * 16;
    static constexpr int BYTES = 2 * VALUES;
};

static __device__ __forceinline__ int key_swap(int token)
{
    return (token & 1) << 2;
}

static __device__ __forceinline__ int value_swap(int token)
{
    return (token >> 1 & 3) << 1;
}

template <typename T, int HEAD_DIM> struct worker {
    const T *keys, *values;
    const int32_t *table;
    uint32_t ring;   /* this warp's, DEPTH rounds */
    int32_t block;   /* of the next round, if one block has all of it */
    int first, last; /* tokens */
};

/* Looks up the next round's block, well before it is asked for. */
template <typename T, int HEAD_DIM>
static __device__ __forceinline__ void block_find(const struct decode &d,
                                                  struct worker<T, HEAD_DIM> *w, int base)
{
    if (d.cache.shift >= 4 && base < w->last)
        w->block = __ldg(w->table + (base >> d.cache.shift));
}

/* Asks for a round's keys or values: copy i of a lane is piece i * 32 + lane of the rows, which lie one
 * behind another in a block. */
template <typename T, int HEAD_DIM, bool IS_KEYS>
static __device__ __forceinline__ void rows_fetch(const struct decode &d,
                                                  const struct worker<T, HEAD_DIM> &w, int kv_head,
                                                  int base, uint32_t to)
{
    constexpr int PIECES = ring<HEAD_DIM>::PIECES;
    const int lane = threadIdx.x % 32;
    const T *from = IS_KEYS ? w.keys : w.values;
    const bool whole = d.cache.shift >= 4;
    if (whole) {
        const int place = base & (d.cache.block_tokens - 1);
        from += (((int64_t)w.block * d.cache.kv_heads + kv_head) * d.cache.block_tokens + place) *
                    HEAD_DIM +
                lane * 8;
    }
#pragma unroll
    for (int i = 0; i < ROUND * PIECES / 32; i++) {
        const int n = i * 32 + lane, row = n / PIECES, piece = n % PIECES, token = base + row;
        const bool there = token >= w.first && token < w.last;
        const T *at = from + i * 256;
        if (!whole)
            at = from + (there ? med_paged_at(d.cache, w.table, kv_head, token) + piece * 8 : 0);
        const int swapped = piece ^ (IS_KEYS ? key_swap(row) : value_swap(row));
        med_copy_16(to + (row * PIECES + swapped) * 16, at, there);
    }
}

/* A round's keys and values; two groups. stage: of the ring. */
template <typename T, int HEAD_DIM>
static __device__ __forceinline__ void
round_fetch(const struct decode &d, struct worker<T, HEAD_DIM> *w, int kv_head, int base, int stage)
{
    const uint32_t to = w->ring + stage * ring<HEAD_DIM>::BYTES;
    const bool some = base < w->last;
    if (some)
        rows_fetch<T, HEAD_DIM, true>(d, *w, kv_head, base, to);
    med_copy_commit();
    if (some)
        rows_fetch<T, HEAD_DIM, false>(d, *w, kv_head, base, to + ring<HEAD_DIM>::VALUES);
    med_copy_commit();
    block_find(d, w, base + WARPS * ROUND);
}

static __device__ __forceinline__ uint32_t part_of(const uint4 &v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* Result += V' P' of a round. Sums [j]: rows g: element g * 8 + j of the head's first half (of its 64s, if
 * it has one half alone: j below 4), rows g + 8: of the other. */
template <typename T, int HEAD_DIM>
static __device__ __forceinline__ void values_mix(uint32_t values, uint32_t b0, uint32_t b1,
                                                  float (&sum)[HEAD_DIM / 16][4])
{
    constexpr int C = HEAD_DIM / 64;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint4 v[4][C];
#pragma unroll
    for (int n = 0; n < 4; n++) {
        const int token = n / 2 * 8 + 2 * t + n % 2;
#pragma unroll
        for (int c = 0; c < C; c++)
            v[n][c] = med_read_shared(
                values + (token * ring<HEAD_DIM>::PIECES + ((c * 8 + g) ^ value_swap(token))) * 16);
    }
#pragma unroll
    for (int j = 0; j < HEAD_DIM / 16; j++) {
        const int e = j, f = j + HEAD_DIM / 16; /* of the thread's HEAD_DIM / 8 elements */
        const uint32_t pick_e = e % 2 ? 0x7632 : 0x5410, pick_f = f % 2 ? 0x7632 : 0x5410;
        const uint32_t a0 =
            __byte_perm(part_of(v[0][e / 8], e % 8 / 2), part_of(v[1][e / 8], e % 8 / 2), pick_e);
        const uint32_t a1 =
            __byte_perm(part_of(v[0][f / 8], f % 8 / 2), part_of(v[1][f / 8], f % 8 / 2), pick_f);
        const uint32_t a2 =
            __byte_perm(part_of(v[2][e / 8], e % 8 / 2), part_of(v[3][e / 8], e % 8 / 2), pick_e);
        const uint32_t a3 =
            __byte_perm(part_of(v[2][f / 8], f % 8 / 2), part_of(v[3][f / 8], f % 8 / 2), pick_f);
        med_mma<T>(sum[j], a0, a1, a2, a3, b0, b1);
    }
}

/* One warp's state over its rounds. */
template <int HEAD_DIM> struct state {
    float most, total;           /* of query head g; total: of this thread's tokens */
    float sum[HEAD_DIM / 16][4]; /* query heads 2t, 2t + 1 */
};

/* Scores of a round, softmax, result. query: pieces of query head g, as keys'. */
template <typename T, int HEAD_DIM>
static __device__ __forceinline__ void
round_compute(const struct decode &d, const struct worker<T, HEAD_DIM> &w, const uint4 *query,
              int base, int stage, struct state<HEAD_DIM> *s)
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint32_t keys = w.ring + stage * ring<HEAD_DIM>::BYTES;
    float scores[2][4] = {};
#pragma unroll
    for (int c = 0; c < HEAD_DIM / 32; c++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int token = h * 8 + g;
            const uint4 k = med_read_shared(
                keys + (token * ring<HEAD_DIM>::PIECES + ((c * 4 + t) ^ key_swap(token))) * 16);
            med_mma<T>(scores[h], query[c].x, 0, query[c].y, 0, k.x, k.y);
            med_mma<T>(scores[h], query[c].z, 0, query[c].w, 0, k.z, k.w);
        }
    }
    float most = s->most;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int token = base + i / 2 * 8 + 2 * t + i % 2;
        float *score = &scores[i / 2][i % 2];
        *score = token >= w.first && token < w.last ? *score * d.scale : -INFINITY;
        most = fmaxf(most, *score);
    }
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
    if (__any_sync(0xffffffffu, most != s->most)) {
        /* -infinity as long as no token was seen, which a window's first round may bring about */
        const float before = s->most == -INFINITY ? 0.0f : med_power(s->most - most);
        const float a = __shfl_sync(0xffffffffu, before, t * 8);
        const float b = __shfl_sync(0xffffffffu, before, t * 8 + 4);
        s->most = most;
        s->total *= before;
#pragma unroll
        for (int j = 0; j < HEAD_DIM / 16; j++) {
            s->sum[j][0] *= a;
            s->sum[j][1] *= b;
            s->sum[j][2] *= a;
            s->sum[j][3] *= b;
        }
    }
    const float subtract = most == -INFINITY ? 0.0f : most;
    float weights[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        weights[i] = med_power(scores[i / 2][i % 2] - subtract);
        s->total += weights[i];
    }
    med_copy_wait<2 * DEPTH - 2>();
    __syncwarp();
    values_mix<T, HEAD_DIM>(keys + ring<HEAD_DIM>::VALUES, med_pack<T>(weights[0], weights[1]),
                            med_pack<T>(weights[2], weights[3]), s->sum);
}

/* The warp's sums to shared memory, for the merge. */
template <int HEAD_DIM>
static __device__ __forceinline__ void state_put(struct state<HEAD_DIM> *s, const struct sums &to)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    s->total += __shfl_xor_sync(0xffffffffu, s->total, 1);
    s->total += __shfl_xor_sync(0xffffffffu, s->total, 2);
    if (t == 0) {
        to.most[warp * MEMBERS + g] = s->most;
        to.total[warp * MEMBERS + g] = s->total;
    }
#pragma unroll
    for (int q = 0; q < 2; q++) {
        float *at = to.sum + (size_t)(warp * MEMBERS + 2 * t + q) * HEAD_DIM;
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 8; i += 4) { /* of the thread's elements */
            float4 v;
            float *e = &v.x;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const int j = i + k;
                e[k] = j < HEAD_DIM / 16 ? s->sum[j % (HEAD_DIM / 16)][q]
                                         : s->sum[j % (HEAD_DIM / 16)][2 + q];
            }
            *(float4 *)(at + i / 8 * 64 + g * 8 + i % 8) = v;
        }
    }
}

template <typename T, int HEAD_DIM>
static __global__ void __launch_bounds__(THREADS, MED_DECODE_RESIDENT)
    decode_kernel(const struct decode d)
{
    extern __shared__ __align__(16) char shared[];
    constexpr int COUNT = MEMBERS * HEAD_DIM / THREADS;
    med_grid_go();
    const struct place p = place_of(d);
    if (p.part.row < 0) {
        med_grid_wait();
        return;
    }
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    struct worker<T, HEAD_DIM> w;
    w.keys = (const T *)d.cache.keys;
    w.values = (const T *)d.cache.values;
    w.table = d.cache.tables + p.part.table;
    w.ring = med_shared_at(shared) + warp * DEPTH * ring<HEAD_DIM>::BYTES;
    const struct sums sums = sums_in((float *)shared);
    float *kept = (float *)(shared + WARPS * DEPTH * ring<HEAD_DIM>::BYTES);
    bool waited = false;
    uint4 query[HEAD_DIM / 32];
    struct merged<COUNT> m;
    merged_clear(&m);
    for (int begin = p.first; begin < p.last; begin = w.last) {
        w.first = begin;
        w.last = min(p.last, d.cut == CUT_NONE ? p.last : (begin / d.cut + 1) * d.cut);
        int base = begin / ROUND * ROUND + warp * ROUND;
        block_find(d, &w, base);
#pragma unroll
        for (int n = 0; n < DEPTH; n++) {
            const int at = base + n * WARPS * ROUND;
            if (!waited && min(at + ROUND, w.last) > p.part.context) {
                med_grid_wait();
                waited = true;
            }
            round_fetch<T, HEAD_DIM>(d, &w, p.kv_head, at, n);
        }
        if (!waited) {
            med_grid_wait();
            waited = true;
        }
        if (begin == p.first) {
            const uint4 *from =
                (const uint4 *)((const T *)d.q +
                                ((int64_t)p.part.row * d.heads + p.head + g) * HEAD_DIM) +
                t;
#pragma unroll
            for (int c = 0; c < HEAD_DIM / 32; c++)
                query[c] = g < p.members ? from[c * 4] : make_uint4(0, 0, 0, 0);
        }
        struct state<HEAD_DIM> s = {
            - INFINITY, 0.0f,
            {
            }
        };
        for (int stage = 0; base < w.last; base += WARPS * ROUND) {
            med_copy_wait<2 * DEPTH - 1>();
            __syncwarp();
            round_compute<T, HEAD_DIM>(d, w, query, base, stage, &s);
            __syncwarp(); /* all have read what is overwritten now */
            round_fetch<T, HEAD_DIM>(d, &w, p.kv_head, base + DEPTH * WARPS * ROUND, stage);
            stage = stage + 1 == DEPTH ? 0 : stage + 1;
        }
        med_copy_wait<0>();
        __syncthreads();
        state_put(&s, sums);
        __syncthreads();
        merge_warps(sums, p.members * HEAD_DIM, HEAD_DIM, begin > p.first ? kept : NULL, &m);
        if (w.last < p.last)
            merged_keep(m, kept);
        __syncthreads();
    }
    med_grid_wait(); /* of a part without tokens */
    part_finish(d, p, HEAD_DIM, m);
}

/* ---- plain -------------------------------------------------------------------------------------- */

template <typename K>
static __global__ void __launch_bounds__(THREADS, 4) decode_plain_kernel(const struct decode d)
{
    extern __shared__ __align__(16) char shared[];
    constexpr int COUNT = PLAIN_MEMBERS * 256 / THREADS;
    med_grid_go();
    med_grid_wait();
    const struct place p = place_of(d);
    if (p.part.row < 0)
        return;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head_dim = d.cache.head_dim;
    const int32_t *table = d.cache.tables + p.part.table;
    const struct sums sums = sums_in((float *)shared);
    float *kept = (float *)shared + WARPS * MEMBERS * (head_dim + 2);
    struct merged<COUNT> m;
    merged_clear(&m);
    for (int begin = p.first, end; begin < p.last; begin = end) {
        end = min(p.last, d.cut == CUT_NONE ? p.last : (begin / d.cut + 1) * d.cut);
        for (int member = 0; member < p.members; member++) {
            const int64_t from = ((int64_t)p.part.row * d.heads + p.head + member) * head_dim;
            const int at = warp * MEMBERS + member;
            float query[MED_PLAIN_DIMS], sum[MED_PLAIN_DIMS];
#pragma unroll
            for (int i = 0; i < MED_PLAIN_DIMS; i++) {
                const int e = lane + 32 * i;
                query[i] = e < head_dim ? med_element(d.q, d.dtype, from + e) * d.scale : 0.0f;
            }
            const struct med_soft soft = med_plain_tokens<K>(
                d.cache, table, p.kv_head, query, begin + ((warp - begin) & (WARPS - 1)), end,
                WARPS, sum); /* token t is warp t % WARPS's */
            sums.most[at] = soft.most;
            sums.total[at] = soft.total;
#pragma unroll
            for (int i = 0; i < MED_PLAIN_DIMS; i++) {
                if (lane + 32 * i < head_dim)
                    sums.sum[at * head_dim + lane + 32 * i] = sum[i];
            }
        }
        __syncthreads();
        merge_warps(sums, p.members * head_dim, head_dim, begin > p.first ? kept : NULL, &m);
        if (end < p.last)
            merged_keep(m, kept);
        __syncthreads();
    }
    part_finish(d, p, head_dim, m);
}

/* ---- launch ------------------------------------------------------------------------------------- */

static size_t sums_bytes(int head_dim)
{
    return (size_t)(WARPS * MEMBERS * (head_dim + 2)) * sizeof(float);
}

static size_t kept_bytes(int count)
{
    return (size_t)(3 * count * THREADS) * sizeof(float);
}

template <typename T, int HEAD_DIM>
static int launch_fast(struct med_cuda *cuda, const struct decode &d, struct med_launch launch)
{
    constexpr size_t RING = WARPS * DEPTH * ring<HEAD_DIM>::BYTES;
    static_assert(RING >= WARPS * MEMBERS * (HEAD_DIM + 2) * sizeof(float), "sums lie in the ring");
    launch.shared_bytes = RING;
    if (d.cut != CUT_NONE)
        launch.shared_bytes += kept_bytes(MEMBERS * HEAD_DIM / THREADS);
    MED_CUDA_OP_TRY(cudaFuncSetAttribute(decode_kernel<T, HEAD_DIM>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         (int)launch.shared_bytes),
                    cuda);
    return med_launch_on(cuda, launch, decode_kernel<T, HEAD_DIM>, d);
}

template <typename T>
static int launch_typed(struct med_cuda *cuda, const struct decode &d,
                        const struct med_launch &launch)
{
    return d.cache.head_dim == 64 ? launch_fast<T, 64>(cuda, d, launch)
                                  : launch_fast<T, 128>(cuda, d, launch);
}

int med_cuda_attend_decode(struct med_cuda *cuda, const struct med_attend_args *a)
{
    const struct med_cuda_attention *attention = cuda->attention;
    struct decode d = {};
    d.cache = med_paged_of(cuda, a);
    d.parts = attention->parts;
    d.q = a->q;
    d.out = a->out;
    d.partials = attention->partials;
    d.counters = attention->counters;
    d.scale = a->scale * 1.4426950408889634f;
    d.heads = (int)a->heads;
    d.group = (int)(a->heads / a->kv_heads);
    d.window = (int)a->window;
    d.cut = attention->limits.deterministic ? (int)MED_CUDA_ATTEND_CUT : (int)CUT_NONE;
    d.dtype = a->dtype;
    const bool fast = a->kv.dtype == a->dtype && a->dtype != MED_DTYPE_F32 &&
                      (a->head_dim == 64 || a->head_dim == 128);
    d.band = fast ? (int)MEMBERS : (int)PLAIN_MEMBERS;
    d.bands = (d.group + d.band - 1) / d.band;
    struct med_launch launch = {};
    launch.grid = dim3((unsigned)(attention->shape.decode_parts * a->kv_heads * d.bands));
    launch.block = dim3(THREADS);
    if (fast) {
        return a->dtype == MED_DTYPE_F16 ? launch_typed<__half>(cuda, d, launch)
                                         : launch_typed<__nv_bfloat16>(cuda, d, launch);
    }
    launch.shared_bytes = sums_bytes((int)a->head_dim) + kept_bytes(PLAIN_MEMBERS * 256 / THREADS);
    return med_with_type(a->kv.dtype, [&](auto type) {
        return med_launch_on(cuda, launch, decode_plain_kernel<decltype(type)>, d);
    });
}
