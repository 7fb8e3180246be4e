/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention of many rows of a sequence, on tensor cores (FlashAttention-2, arXiv 2307.08691).
 *
 * out[r][h] = sum_t softmax_t(scale q[r][h] . k[t]) v[t] over the tokens t that row r sees.
 *
 * A block has one query head and a tile of rows (attend_plan.h), 32 per warp; it goes over the tokens that
 * the tile sees, 64 at a time.  Keys and values come through the block table into shared memory
 * (cp.async), the next 64 while these are worked on.  Scores and result stay in registers:
 * mma.m16n8k16 with float32 sums; weights are rounded to the activations' dtype for the second product.
 * Rows in shared memory are 16 bytes longer than they need be, so that ldmatrix meets no bank twice.
 * Tokens are masked only in the 64s that some row does not see wholly; behind the last token are zeros, so
 * that nothing that was never written can reach a result.
 *
 * Few tiles: those that see most come first, of all heads, so that the last blocks are short.  Many: one
 * block after another has the tiles of one head, which share its keys in the L2 cache.
 *
 * Everything else (float32, a cache of another dtype, other head_dims) has a plain kernel, a warp per row.
 * thread: engine.
 */
#include "worker/cuda/attend.cuh"

enum {
    WARPS = 4,
    THREADS = WARPS * 32,
    TOKENS = 64,  /* at a time */
    MATRICES = 2, /* of 16 rows per warp */
    ROWS = WARPS * MATRICES * 16,
    PAD = 8, /* elements */
    TILES_FEW = 32
};
static_assert((int)ROWS == (int)MED_CUDA_ATTEND_TILE, "a block has one tile");

static constexpr float SLACK = 6.0f;

struct prefill {
    struct med_paged cache;
    const struct med_cuda_prefill_tile *tiles;
    const int32_t *table_begins;
    const void *q; // [rows][heads * head_dim]
    void *out;     // the same
    float scale;   /* times log2(e) */
    int tile_count, heads, group, window;
    bool two_stages;      /* the next tokens are on their way while these are worked on */
    bool heads_first;     /* blocks: tile 0 of all heads, tile 1 ...; else head by head */
    enum med_dtype dtype; /* of q and out, for the plain kernel */
};

/* ---- tensor cores ------------------------------------------------------------------------------- */

static __device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}

static __device__ __forceinline__ void load_transposed(uint32_t (&r)[4], uint32_t from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}

template <int HEAD_DIM> struct layout {
    static constexpr int ROW = (HEAD_DIM + PAD) * 2; /* bytes */
    static constexpr int TILE = TOKENS * ROW;        /* keys or values */
    static constexpr int QUERIES = 0;
    static constexpr int STAGES = ROWS * ROW; /* keys, values; keys, values */
    static constexpr int BYTES = STAGES + 4 * TILE;
    static constexpr int BYTES_SINGLE = STAGES + 2 * TILE; /* one stage alone */
    static constexpr int PIECES = HEAD_DIM / 8;            /* of 16 bytes per row */
};

/* Keys and values of tokens base .. base + 63, zeros from `last` on; one group. table: where the item's
 * begins. */
template <typename T, int HEAD_DIM>
static __device__ __forceinline__ void tokens_fetch(const struct prefill &f, int table, int kv_head,
                                                    int base, int last, uint32_t to)
{
    using L = layout<HEAD_DIM>;
    constexpr int STEP = THREADS / L::PIECES; /* rows */
    const int row = threadIdx.x / L::PIECES, piece = threadIdx.x % L::PIECES;
    to += row * L::ROW + piece * 16;
    if (f.cache.shift >= 0) {
        const int stride = f.cache.kv_heads << f.cache.shift; /* rows of a block */
        const int mask = f.cache.block_tokens - 1;
        const int mine = (kv_head << f.cache.shift) * HEAD_DIM + piece * 8;
#pragma unroll
        for (int i = 0; i < TOKENS / STEP; i++) {
            const int token = base + row + i * STEP;
            const bool there = token < last;
            const int block = there ? __ldg(f.cache.tables + table + (token >> f.cache.shift)) : 0;
            const int64_t at =
                (int64_t)block * (stride * HEAD_DIM) + (mine + (token & mask) * HEAD_DIM);
            med_copy_16(to + i * STEP * L::ROW, (const T *)f.cache.keys + at, there);
            med_copy_16(to + i * STEP * L::ROW + L::TILE, (const T *)f.cache.values + at, there);
        }
    } else {
#pragma unroll 1
        for (int i = 0; i < TOKENS / STEP; i++) {
            const int token = base + row + i * STEP;
            const bool there = token < last;
            const int64_t at =
                there ? med_paged_at(f.cache, f.cache.tables + table, kv_head, token) + piece * 8
                      : 0;
            med_copy_16(to + i * STEP * L::ROW, (const T *)f.cache.keys + at, there);
            med_copy_16(to + i * STEP * L::ROW + L::TILE, (const T *)f.cache.values + at, there);
        }
    }
    med_copy_commit();
}

template <typename T, int HEAD_DIM>
static __device__ __forceinline__ void queries_fetch(const struct prefill &f,
                                                     const struct med_cuda_prefill_tile &tile,
                                                     int head, uint32_t to)
{
    using L = layout<HEAD_DIM>;
#pragma unroll
    for (int i = 0; i < ROWS * L::PIECES / THREADS; i++) {
        const int n = threadIdx.x + i * THREADS, row = n / L::PIECES, piece = n % L::PIECES;
        const bool there = row < tile.rows;
        const int64_t at = ((int64_t)(tile.row + (there ? row : 0)) * f.heads + head) * HEAD_DIM;
        med_copy_16(to + row * L::ROW + piece * 16, (const T *)f.q + at + piece * 8, there);
    }
}

/* A warp's rows: most and total of rows g and g + 8 of each matrix; total: of this thread's tokens. */
template <int HEAD_DIM> struct state {
    float most[MATRICES][2], total[MATRICES][2];
    float sum[MATRICES][HEAD_DIM / 8][4];
};

template <typename T, int HEAD_DIM>
static __device__ __forceinline__ void scores_compute(uint32_t queries, uint32_t keys,
                                                      float (&scores)[MATRICES][TOKENS / 8][4])
{
    using L = layout<HEAD_DIM>;
    const int lane = threadIdx.x % 32;
    queries += lane % 16 * L::ROW + lane / 16 * 16;
    keys += (lane / 16 * 8 + lane % 8) * L::ROW + lane / 8 % 2 * 16;
#pragma unroll
    for (int m = 0; m < MATRICES; m++) {
#pragma unroll
        for (int n = 0; n < TOKENS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                scores[m][n][i] = 0.0f;
        }
    }
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k++) {
        uint32_t a[MATRICES][4];
#pragma unroll
        for (int m = 0; m < MATRICES; m++)
            load_matrices(a[m], queries + m * 16 * L::ROW + k * 32);
#pragma unroll
        for (int n = 0; n < TOKENS / 16; n++) {
            uint32_t b[4];
            load_matrices(b, keys + n * 16 * L::ROW + k * 32);
#pragma unroll
            for (int m = 0; m < MATRICES; m++) {
                med_mma<T>(scores[m][2 * n], a[m][0], a[m][1], a[m][2], a[m][3], b[0], b[1]);
                med_mma<T>(scores[m][2 * n + 1], a[m][0], a[m][1], a[m][2], a[m][3], b[2], b[3]);
            }
        }
    }
}

/* -infinity where the row does not see the token. position: of the warp's first row. */
static __device__ __forceinline__ void scores_mask(float (&scores)[MATRICES][TOKENS / 8][4],
                                                   int position, int base, int window)
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int m = 0; m < MATRICES; m++) {
#pragma unroll
        for (int n = 0; n < TOKENS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = position + m * 16 + i / 2 * 8 + g,
                          token = base + n * 8 + 2 * t + i % 2;
                if (token > row || (window > 0 && row - token >= window))
                    scores[m][n][i] = -INFINITY;
            }
        }
    }
}

/* Scores to weights, to the base 2, of which SLACK is what they may exceed 1 by: what was summed before is
 * brought to a new largest score only when that is larger by so much. */
template <int HEAD_DIM>
static __device__ __forceinline__ void soften(float (&scores)[MATRICES][TOKENS / 8][4], float scale,
                                              struct state<HEAD_DIM> *s)
{
    float most[MATRICES][2];
    bool rises = false;
#pragma unroll
    for (int m = 0; m < MATRICES; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float mine = scores[m][0][2 * half];
#pragma unroll
            for (int n = 0; n < TOKENS / 8; n++)
                mine = fmaxf(mine, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
            mine = fmaxf(mine, __shfl_xor_sync(0xffffffffu, mine, 1));
            most[m][half] = fmaxf(mine, __shfl_xor_sync(0xffffffffu, mine, 2)) * scale;
            rises = rises || most[m][half] > s->most[m][half] + SLACK;
        }
    }
    if (__any_sync(0xffffffffu, rises)) {
#pragma unroll
        for (int m = 0; m < MATRICES; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float now = fmaxf(s->most[m][half], most[m][half]);
                const float before = now == -INFINITY ? 0.0f : med_power(s->most[m][half] - now);
                s->most[m][half] = now;
                s->total[m][half] *= before;
#pragma unroll
                for (int e = 0; e < HEAD_DIM / 8; e++) {
                    s->sum[m][e][2 * half] *= before;
                    s->sum[m][e][2 * half + 1] *= before;
                }
            }
        }
    }
#pragma unroll
    for (int m = 0; m < MATRICES; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float subtract = s->most[m][half] == -INFINITY ? 0.0f : s->most[m][half];
#pragma unroll
            for (int n = 0; n < TOKENS / 8; n++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float *score = &scores[m][n][2 * half + i];
                    *score = med_power(__fmaf_rn(*score, scale, -subtract));
                    s->total[m][half] += *score;
                }
            }
        }
    }
}

template <typename T, int HEAD_DIM>
static __device__ __forceinline__ void values_mix(const float (&weights)[MATRICES][TOKENS / 8][4],
                                                  uint32_t values, struct state<HEAD_DIM> *s)
{
    using L = layout<HEAD_DIM>;
    const int lane = threadIdx.x % 32;
    values += lane % 16 * L::ROW + lane / 16 * 16;
#pragma unroll
    for (int k = 0; k < TOKENS / 16; k++) {
        uint32_t a[MATRICES][4];
#pragma unroll
        for (int m = 0; m < MATRICES; m++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *pair = &weights[m][2 * k + i / 2][i % 2 * 2];
                a[m][i] = med_pack<T>(pair[0], pair[1]);
            }
        }
#pragma unroll
        for (int e = 0; e < HEAD_DIM / 16; e++) {
            uint32_t b[4];
            load_transposed(b, values + k * 16 * L::ROW + e * 32);
#pragma unroll
            for (int m = 0; m < MATRICES; m++) {
                med_mma<T>(s->sum[m][2 * e], a[m][0], a[m][1], a[m][2], a[m][3], b[0], b[1]);
                med_mma<T>(s->sum[m][2 * e + 1], a[m][0], a[m][1], a[m][2], a[m][3], b[2], b[3]);
            }
        }
    }
}

/* The warp's rows to `out`, by way of the place of its queries. */
template <typename T, int HEAD_DIM>
static __device__ __forceinline__ void rows_put(const struct prefill &f,
                                                const struct med_cuda_prefill_tile &tile,
                                                char *queries, struct state<HEAD_DIM> *s)
{
    using L = layout<HEAD_DIM>;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int first = warp * MATRICES * 16;
    const int head = f.heads_first ? blockIdx.x % f.heads : blockIdx.x / f.tile_count;
    __syncwarp();
#pragma unroll
    for (int m = 0; m < MATRICES; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float total = s->total[m][half];
            total += __shfl_xor_sync(0xffffffffu, total, 1);
            total += __shfl_xor_sync(0xffffffffu, total, 2);
            const float part = __fdividef(1.0f, total);
            char *row = queries + (first + m * 16 + half * 8 + g) * L::ROW + t * 4;
#pragma unroll
            for (int e = 0; e < HEAD_DIM / 8; e++)
                *(uint32_t *)(row + e * 16) =
                    med_pack<T>(s->sum[m][e][2 * half] * part, s->sum[m][e][2 * half + 1] * part);
        }
    }
    __syncwarp();
    for (int n = lane; n < MATRICES * 16 * L::PIECES; n += 32) {
        const int row = first + n / L::PIECES, piece = n % L::PIECES;
        if (row < tile.rows) {
            const int64_t at = ((int64_t)(tile.row + row) * f.heads + head) * HEAD_DIM + piece * 8;
            *(uint4 *)((T *)f.out + at) = *(const uint4 *)(queries + row * L::ROW + piece * 16);
        }
    }
}

template <typename T, int HEAD_DIM>
static __global__ void __launch_bounds__(THREADS, 2) prefill_kernel(const struct prefill f)
{
    extern __shared__ __align__(16) char shared[];
    using L = layout<HEAD_DIM>;
    med_grid_go();
    med_grid_wait();
    const int head = f.heads_first ? blockIdx.x % f.heads : blockIdx.x / f.tile_count;
    const int kv_head = head / f.group;
    const struct med_cuda_prefill_tile tile =
        f.tiles[f.heads_first ? blockIdx.x / f.heads : blockIdx.x % f.tile_count];
    const int table = f.table_begins[tile.item];
    const int last = tile.position + tile.rows, warp_row = threadIdx.x / 32 * MATRICES * 16;
    const int position = tile.position + warp_row; /* of the warp's first row */
    int base = 0;
    if (f.window > 0)
        base = max(0, tile.position - f.window + 1) / TOKENS * TOKENS;
    const uint32_t at = med_shared_at(shared), queries = at + L::QUERIES + warp_row * L::ROW;
    queries_fetch<T, HEAD_DIM>(f, tile, head, at + L::QUERIES);
    tokens_fetch<T, HEAD_DIM>(f, table, kv_head, base, last, at + L::STAGES);
    struct state<HEAD_DIM> s;
#pragma unroll
    for (int m = 0; m < MATRICES; m++) {
        s.most[m][0] = s.most[m][1] = -INFINITY;
        s.total[m][0] = s.total[m][1] = 0.0f;
#pragma unroll
        for (int e = 0; e < HEAD_DIM / 8; e++)
            s.sum[m][e][0] = s.sum[m][e][1] = s.sum[m][e][2] = s.sum[m][e][3] = 0.0f;
    }
    for (uint32_t stage = 0; base < last; base += TOKENS) {
        const uint32_t keys = at + L::STAGES + stage * 2 * L::TILE;
        const bool more = base + TOKENS < last;
        med_copy_wait<0>();
        __syncthreads();
        if (f.two_stages) {
            stage ^= 1;
            if (more)
                tokens_fetch<T, HEAD_DIM>(f, table, kv_head, base + TOKENS, last,
                                          at + L::STAGES + stage * 2 * L::TILE);
        }
        if (base < position + MATRICES * 16) { /* else none of the warp's rows sees any */
            float scores[MATRICES][TOKENS / 8][4];
            scores_compute<T, HEAD_DIM>(queries, keys, scores);
            if (base + TOKENS - 1 > position ||
                (f.window > 0 && position + MATRICES * 16 - 1 - base >= f.window))
                scores_mask(scores, position, base, f.window);
            soften<HEAD_DIM>(scores, f.scale, &s);
            values_mix<T, HEAD_DIM>(scores, keys + L::TILE, &s);
        }
        if (!f.two_stages && more) {
            __syncthreads();
            tokens_fetch<T, HEAD_DIM>(f, table, kv_head, base + TOKENS, last, at + L::STAGES);
        }
    }
    rows_put<T, HEAD_DIM>(
        f, f.tiles[f.heads_first ? blockIdx.x / f.heads : blockIdx.x % f.tile_count],
        shared + L::QUERIES, &s); /* read anew, so that the loop keeps nothing of it */
}

/* ---- plain -------------------------------------------------------------------------------------- */

/* Block (tile, head, rows z * WARPS ...): a warp per row. */
template <typename K>
static __global__ void __launch_bounds__(THREADS) prefill_plain_kernel(const struct prefill f)
{
    med_grid_go();
    med_grid_wait();
    const int head = blockIdx.x / f.tile_count, head_dim = f.cache.head_dim;
    const struct med_cuda_prefill_tile tile = f.tiles[blockIdx.x % f.tile_count];
    const int row = blockIdx.z * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= tile.rows)
        return;
    const int64_t from = ((int64_t)(tile.row + row) * f.heads + head) * head_dim;
    const int position = tile.position + row;
    const int first = f.window > 0 ? max(0, position - f.window + 1) : 0;
    float query[MED_PLAIN_DIMS], sum[MED_PLAIN_DIMS];
#pragma unroll
    for (int i = 0; i < MED_PLAIN_DIMS; i++) {
        const int e = lane + 32 * i;
        query[i] = e < head_dim ? med_element(f.q, f.dtype, from + e) * f.scale : 0.0f;
    }
    const struct med_soft soft =
        med_plain_tokens<K>(f.cache, f.cache.tables + f.table_begins[tile.item], head / f.group,
                            query, first, position + 1, 1, sum);
#pragma unroll
    for (int i = 0; i < MED_PLAIN_DIMS; i++) {
        const int e = lane + 32 * i;
        if (e < head_dim)
            med_element_put(f.out, f.dtype, from + e, __fdividef(sum[i], soft.total));
    }
}

/* ---- launch ------------------------------------------------------------------------------------- */

template <typename T, int HEAD_DIM>
static int launch_fast(struct med_cuda *d, struct prefill f, struct med_launch launch)
{
    f.two_stages = layout<HEAD_DIM>::BYTES <= d->shared_bytes_max; /* compute 8.6, 8.9: no */
    launch.shared_bytes = f.two_stages ? layout<HEAD_DIM>::BYTES : layout<HEAD_DIM>::BYTES_SINGLE;
    MED_CUDA_OP_TRY(cudaFuncSetAttribute(prefill_kernel<T, HEAD_DIM>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         (int)launch.shared_bytes),
                    d);
    return med_launch_on(d, launch, prefill_kernel<T, HEAD_DIM>, f);
}

template <typename T>
static int launch_typed(struct med_cuda *d, const struct prefill &f,
                        const struct med_launch &launch)
{
    return f.cache.head_dim == 64 ? launch_fast<T, 64>(d, f, launch)
                                  : launch_fast<T, 128>(d, f, launch);
}

int med_cuda_attend_prefill(struct med_cuda *d, const struct med_attend_args *a)
{
    const struct med_cuda_attention *attention = d->attention;
    struct prefill f = {};
    f.cache = med_paged_of(d, a);
    f.tiles = attention->tiles;
    f.table_begins = d->batch.table_begins;
    f.q = a->q;
    f.out = a->out;
    f.scale = a->scale * 1.4426950408889634f;
    f.tile_count = (int)attention->shape.prefill_tiles;
    f.heads = (int)a->heads;
    f.group = (int)(a->heads / a->kv_heads);
    f.window = (int)a->window;
    f.heads_first = f.tile_count <= TILES_FEW;
    f.dtype = a->dtype;
    struct med_launch launch = {};
    launch.grid = dim3((unsigned)(attention->shape.prefill_tiles * a->heads));
    launch.block = dim3(THREADS);
    const bool fast = a->kv.dtype == a->dtype && a->dtype != MED_DTYPE_F32 &&
                      (a->head_dim == 64 || a->head_dim == 128);
    if (fast) {
        return a->dtype == MED_DTYPE_F16 ? launch_typed<__half>(d, f, launch)
                                         : launch_typed<__nv_bfloat16>(d, f, launch);
    }
    launch.grid.z = MED_CUDA_ATTEND_TILE / WARPS;
    return med_with_type(a->kv.dtype, [&](auto type) {
        return med_launch_on(d, launch, prefill_plain_kernel<decltype(type)>, f);
    });
}
