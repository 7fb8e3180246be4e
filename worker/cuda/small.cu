/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of a few rows: every weight is read once, and the memory bus is kept busy over the
 * boundaries between kernels.
 *
 * A block computes tiles of 8 pairs of outputs, 16 rows of W, for all rows of the batch.  Its warps
 * share the columns of a tile in chunks of 64; each thread copies the very 16-byte pieces of W that it
 * will multiply into slots of its own in shared memory (cp.async), DEPTH chunks ahead, and so needs no
 * barrier to read them.  The ring runs ahead over the ends of tiles, and it is filled before the wait
 * for the kernel before: weights depend on nothing.
 *
 * Multiplication is mma.m16n8k16: W is the 16 x k operand, the batch's rows the k x 8 one.  The order
 * of k within a product is free, so a thread's 8 neighbouring values serve as the k that the instruction
 * wants of it, in both operands alike: there is nothing to shuffle.  With fewer than 8 rows the
 * other columns hold copies that nobody reads; a row's sums are the same whatever is beside it.
 *
 * The rows, normed, lie in shared memory, in phases of as many columns as fit; sums wait there too
 * from phase to phase.  float32 (for checking alone) has a plain kernel.
 *
 * thread: engine.
 */
#include "worker/cuda/small.h"

#include "worker/cuda/epilogue.cuh"
#include "worker/cuda/launch.cuh"

#ifndef MED_SMALL_DEPTH
# define MED_SMALL_DEPTH 4
#endif
#ifndef MED_SMALL_BLOCKS
# define MED_SMALL_BLOCKS 1
#endif
#ifndef MED_SMALL_WARPS
# define MED_SMALL_WARPS 8
#endif
#ifndef MED_SMALL_HINT
# define MED_SMALL_HINT 3
#endif
#ifndef MED_SMALL_CHUNK
# define MED_SMALL_CHUNK 64
#endif
#ifndef MED_SMALL_AHEAD
# define MED_SMALL_AHEAD 0
#endif
#ifndef MED_SMALL_GROUP
# define MED_SMALL_GROUP 4
#endif
#ifndef MED_SMALL_X_BYTES
# define MED_SMALL_X_BYTES 33280
#endif

enum {
    WARPS = MED_SMALL_WARPS,
    THREADS = WARPS * 32,
    CHUNK = MED_SMALL_CHUNK, /* columns */
    PIECES = CHUNK / 16,     /* of 16 bytes, that a thread copies of a chunk */
    DEPTH = MED_SMALL_DEPTH, /* chunks under way per warp */
    AHEAD = MED_SMALL_AHEAD, /* tiles asked for before the wait */
    GROUP = MED_SMALL_GROUP, /* tiles whose sums wait in shared memory */
    STEP = CHUNK * WARPS,    /* phases are multiples of this */
    X_BYTES = MED_SMALL_X_BYTES,
    RING_BYTES = DEPTH * PIECES * 16 * THREADS,
    STATE_FLOATS = WARPS * MED_CUDA_SMALL_ROWS + MED_CUDA_SMALL_ROWS,
};

/* What the host works out for a launch. */
struct plan {
    int rows, columns, tiles;
    int chunks;       /* of the columns, the last one may be partly there */
    int phase_chunks; /* of a phase: all, or a multiple of WARPS */
    int x_stride; /* elements from row to row in shared memory: 64 bytes beyond a multiple of 128 */
};

/* ---- instructions ------------------------------------------------------------------------------ */

static __device__ __forceinline__ uint64_t read_once_policy(void)
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

/* 16 bytes to shared memory, behind this thread's back; zeros if not `there`. */
static __device__ __forceinline__ void copy_16(uint32_t to, const void *from, bool there,
                                               uint64_t policy)
{
#if MED_SMALL_HINT == 0
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(there ? 16 : 0)
                 : "memory");
#elif MED_SMALL_HINT == 2
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(there ? 16 : 0)
                 : "memory");
#elif MED_SMALL_HINT == 3
    asm volatile(
        "cp.async.cg.shared.global.L2::cache_hint.L2::256B [%0], [%1], 16, %2, %3;" ::"r"(to),
        "l"(from), "r"(there ? 16 : 0), "l"(policy)
        : "memory");
#else
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(to),
                 "l"(from), "r"(there ? 16 : 0), "l"(policy)
                 : "memory");
#endif
}

static __device__ __forceinline__ void copy_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int PENDING> static __device__ __forceinline__ void copy_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

static __device__ __forceinline__ uint4 read_shared(uint32_t from)
{
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(from)
                 : "memory");
    return v;
}

template <typename T>
static __device__ __forceinline__ void multiply(float *sums, uint32_t a0, uint32_t a1, uint32_t a2,
                                                uint32_t a3, uint32_t b0, uint32_t b1);
template <>
__device__ __forceinline__ void multiply<__nv_bfloat16>(float *sums, uint32_t a0, uint32_t a1,
                                                        uint32_t a2, uint32_t a3, uint32_t b0,
                                                        uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void multiply<__half>(float *sums, uint32_t a0, uint32_t a1, uint32_t a2,
                                                 uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* ---- the rows of the batch ----------------------------------------------------------------------- */

template <typename T>
static __device__ __forceinline__ const uint4 *row_pieces(const struct med_cuda_linear_args &a,
                                                          int m)
{
    const int64_t row = a.in_rows ? a.in_rows[m] : m;
    return (const uint4 *)((const T *)a.in + (size_t)row * (size_t)a.columns);
}

template <typename T> static __device__ __forceinline__ float squares(uint4 piece)
{
    const T *x = (const T *)&piece;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++)
        sum = fmaf(med_widen<T>(x[i]), med_widen<T>(x[i]), sum);
    return sum;
}

template <typename T> static __device__ __forceinline__ uint32_t narrow_two(float low, float high);
template <> __device__ __forceinline__ uint32_t narrow_two<__nv_bfloat16>(float low, float high)
{
    const __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
    return *(const uint32_t *)&two;
}
template <> __device__ __forceinline__ uint32_t narrow_two<__half>(float low, float high)
{
    const __half2 two = __floats2half2_rn(low, high);
    return *(const uint32_t *)&two;
}

template <typename T>
static __device__ __forceinline__ uint4 normed(uint4 piece, uint4 weight, float scale)
{
    const T *x = (const T *)&piece, *w = (const T *)&weight;
    float y[8];
#pragma unroll
    for (int i = 0; i < 8; i++)
        y[i] = med_widen<T>(x[i]) * scale * med_widen<T>(w[i]);
    return make_uint4(narrow_two<T>(y[0], y[1]), narrow_two<T>(y[2], y[3]),
                      narrow_two<T>(y[4], y[5]), narrow_two<T>(y[6], y[7]));
}

/* scales[m] = 1 / sqrt(mean(row m ^ 2) + eps), by the whole block; ends with a barrier.  Keeps the rows
 * as they are in `rows` if all of their columns fit there. */
template <typename T>
static __device__ void norm_scales(const struct med_cuda_linear_args &a, const struct plan &plan,
                                   T *rows, float *partials, float *scales)
{
    enum {
        AT_ONCE = 4
    };
    const bool keeps = plan.phase_chunks >= plan.chunks;
    const int pieces = plan.columns / 8, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int m = 0; m < plan.rows; m += AT_ONCE) {
        float sum[AT_ONCE] = {};
        const uint4 *from[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            from[k] = m + k < plan.rows ? row_pieces<T>(a, m + k) : NULL;
#pragma unroll 2
        for (int i = threadIdx.x; i < pieces; i += THREADS) {
            uint4 x[AT_ONCE];
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++)
                x[k] = from[k] ? __ldcg(from[k] + i) : make_uint4(0, 0, 0, 0);
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++) {
                sum[k] += squares<T>(x[k]);
                if (keeps && from[k])
                    *(uint4 *)(rows + (m + k) * plan.x_stride + i * 8) = x[k];
            }
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            if (!from[k])
                break;
            for (int other = 16; other > 0; other /= 2)
                sum[k] += __shfl_xor_sync(0xFFFFFFFFu, sum[k], other);
            if (lane == 0)
                partials[warp * MED_CUDA_SMALL_ROWS + m + k] = sum[k];
        }
    }
    __syncthreads();
    if (threadIdx.x < plan.rows) {
        float sum = 0;
        for (int w = 0; w < WARPS; w++)
            sum += partials[w * MED_CUDA_SMALL_ROWS + threadIdx.x];
        scales[threadIdx.x] = rsqrtf(sum / (float)plan.columns + a.eps);
    }
    __syncthreads();
}

/* Columns of chunks [begin, end) of all rows to shared memory, normed if there is a norm; zeros behind
 * the last column.  A barrier must follow. */
template <typename T>
static __device__ void stage_rows(const struct med_cuda_linear_args &a, const struct plan &plan,
                                  int begin, int end, T *rows, const float *scales,
                                  uint4 norm_first)
{
    const bool kept = a.norm && plan.phase_chunks >= plan.chunks;
    const int pieces = plan.columns / 8, first = begin * (CHUNK / 8),
              count = (end - begin) * (CHUNK / 8);
    for (int i = threadIdx.x; i < count; i += THREADS) {
        const bool there = first + i < pieces;
        const uint4 zero = make_uint4(0, 0, 0, 0);
        const uint4 weight = !a.norm || !there ? zero
                             : kept && i == (int)threadIdx.x
                                 ? norm_first
                                 : __ldg((const uint4 *)a.norm + first + i);
        uint4 x[MED_CUDA_SMALL_ROWS];
#pragma unroll
        for (int m = 0; m < MED_CUDA_SMALL_ROWS; m++) {
            x[m] = zero;
            if (there && m < plan.rows)
                x[m] = kept ? *(uint4 *)(rows + m * plan.x_stride + i * 8)
                            : __ldcg(row_pieces<T>(a, m) + first + i);
        }
#pragma unroll
        for (int m = 0; m < MED_CUDA_SMALL_ROWS; m++) {
            if (m < plan.rows)
                *(uint4 *)(rows + m * plan.x_stride + i * 8) =
                    a.norm && there ? normed<T>(x[m], weight, scales[m]) : x[m];
        }
    }
}

/* ---- weights --------------------------------------------------------------------------------------- */

/* Where a warp's copies are: tile `ordinal` of the block, at `chunk` of a phase. */
struct cursor {
    int ordinal, group, phase, chunk;
    const char *first, *second; // this lane's place in the two rows of W, at column 0
    bool first_there, second_there;
};

template <typename T, int EPILOGUE>
static __device__ __forceinline__ void
cursor_at_tile(struct cursor &c, const struct med_cuda_linear_args &a, const struct plan &plan)
{
    const int lane = threadIdx.x % 32;
    const int64_t pair = ((int64_t)blockIdx.x + (int64_t)c.ordinal * gridDim.x) * 8 + lane / 4;
    const struct med_pair rows = med_pair_rows<EPILOGUE>(a, pair);
    const bool there = pair < med_pair_count(a, EPILOGUE);
    c.first_there = there && rows.first < a.outputs;
    c.second_there = there && rows.second < a.outputs;
    const size_t row_bytes = (size_t)a.columns * sizeof(T);
    c.first = (const char *)a.weight + (c.first_there ? (size_t)rows.first * row_bytes : 0);
    c.second = (const char *)a.weight + (c.second_there ? (size_t)rows.second * row_bytes : 0);
}

/* Copies the chunk at the cursor to `slot` (of this thread) and goes on to this warp's next one. */
template <typename T, int EPILOGUE>
static __device__ __forceinline__ void
copy_next(struct cursor &c, uint32_t slot, const struct med_cuda_linear_args &a,
          const struct plan &plan, int tiles, uint64_t policy)
{
    if (c.ordinal < tiles) {
#pragma unroll
        for (int half = 0; half < CHUNK / 32; half++) {
            const int column = c.chunk * CHUNK + half * 32 + threadIdx.x % 4 * 8;
            const bool there = column < plan.columns;
            const size_t offset = there ? (size_t)column * sizeof(T) : 0;
            copy_16(slot + (uint32_t)(half * 2) * THREADS * 16, c.first + offset,
                    there && c.first_there, policy);
            copy_16(slot + (uint32_t)(half * 2 + 1) * THREADS * 16, c.second + offset,
                    there && c.second_there, policy);
        }
        c.chunk += WARPS;
        while (c.ordinal < tiles && c.chunk >= min(c.phase + plan.phase_chunks, plan.chunks)) {
            c.ordinal++;
            if (c.ordinal == min(c.group + GROUP, tiles)) {
                c.phase += plan.phase_chunks;
                if (c.phase >= plan.chunks) {
                    c.phase = 0;
                    c.group = c.ordinal;
                }
                c.ordinal = c.group;
            }
            c.chunk = c.phase + threadIdx.x / 32;
            if (c.ordinal < tiles)
                cursor_at_tile<T, EPILOGUE>(c, a, plan);
        }
    }
    copy_commit();
}

/* Asks for what follows the ring's first filling, of the first AHEAD tiles, to be brought into the L2
 * cache, so that the bus has work for longer than the ring lasts. */
template <typename T, int EPILOGUE>
static __device__ __forceinline__ void prefetch_tiles(const struct med_cuda_linear_args &a,
                                                      const struct plan &plan, int tiles)
{
#if __CUDA_ARCH__ >= 900
    const int lane = threadIdx.x % 32, tile = threadIdx.x / 32;
    if (tile >= AHEAD || tile >= tiles || lane >= 16)
        return;
    const int64_t pair = ((int64_t)blockIdx.x + (int64_t)tile * gridDim.x) * 8 + lane % 8;
    const struct med_pair rows = med_pair_rows<EPILOGUE>(a, pair);
    const int64_t row = lane < 8 ? rows.first : rows.second;
    const int column = tile == 0 ? DEPTH * STEP : 0;
    if (pair >= med_pair_count(a, EPILOGUE) || row >= a.outputs || column >= plan.columns)
        return;
    const T *from = (const T *)a.weight + (size_t)row * (size_t)a.columns + column;
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from),
                 "r"((uint32_t)(plan.columns - column) * (uint32_t)sizeof(T))
                 : "memory");
#endif
}

/* ---- the kernel ------------------------------------------------------------------------------------ */

/*
 * out = epilogue(rmsnorm(in)? W' + bias), see linear.h.
 * W [outputs][columns] of T, 16-byte aligned, columns a multiple of 8; in [..][columns] likewise.
 * float32 sums: by chunk (64 columns in four steps) of every WARPS-th chunk, then over the warps in
 * order.  grid: one block per multiprocessor, tiles dealt out in turn, so that the blocks that
 * have one tile less leave room for the next kernel.  block: THREADS.
 * shared: ring, rows, sums of GROUP tiles [GROUP][WARPS][rows][16], partial squares and scales.
 */
template <typename T, int EPILOGUE>
static __global__ void __launch_bounds__(THREADS, 2)
    small_kernel(const __grid_constant__ struct med_cuda_linear_args a,
                 const __grid_constant__ struct plan plan)
{
    extern __shared__ __align__(128) char shared[];
    T *rows = (T *)(shared + RING_BYTES);
    float *sums = (float *)(rows + plan.rows * plan.x_stride);
    float *partials = sums + GROUP * WARPS * 16 * plan.rows;
    float *scales = partials + WARPS * MED_CUDA_SMALL_ROWS;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t ring = (uint32_t)__cvta_generic_to_shared(shared) + threadIdx.x * 16;
    const uint64_t policy = read_once_policy();
    const int tiles = (plan.tiles - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x;

    med_grid_go();
    struct cursor next = {};
    next.chunk = warp;
    if (warp < min(plan.phase_chunks, plan.chunks)) {
        cursor_at_tile<T, EPILOGUE>(next, a, plan);
    } else {
        next.ordinal = tiles; // so few columns that this warp has none
    }
    for (int i = 0; i < DEPTH; i++)
        copy_next<T, EPILOGUE>(next, ring + (uint32_t)(i * PIECES * 16 * THREADS), a, plan, tiles,
                               policy);
    prefetch_tiles<T, EPILOGUE>(a, plan, tiles);
    if (a.norm) {
        for (int i = threadIdx.x * 64; i < plan.columns; i += THREADS * 64)
            asm volatile("prefetch.global.L2 [%0];" ::"l"((const T *)a.norm + i));
    }
    uint4 norm_first = make_uint4(0, 0, 0, 0);
    if (a.norm && (int)threadIdx.x < plan.columns / 8)
        norm_first = __ldg((const uint4 *)a.norm + threadIdx.x);
    med_grid_wait();

    if (a.norm)
        norm_scales<T>(a, plan, rows, partials, scales);
    const uint32_t row_at = (uint32_t)__cvta_generic_to_shared(
        rows + (lane / 4 < plan.rows ? lane / 4 : 0) * plan.x_stride + lane % 4 * 8);
    uint32_t slot = ring;
    for (int group = 0; group < tiles; group += GROUP) {
        const int group_tiles = min((int)GROUP, tiles - group);
        for (int phase = 0; phase < plan.chunks; phase += plan.phase_chunks) {
            const int end = min(phase + plan.phase_chunks, plan.chunks);
            if (group + phase == 0 || plan.phase_chunks < plan.chunks) {
                if (group + phase > 0)
                    __syncthreads();
                stage_rows<T>(a, plan, phase, end, rows, scales, norm_first);
                __syncthreads();
            }
            for (int tile = 0; tile < group_tiles; tile++) {
                float sum[4] = {};
                // this thread's: rows lane / 4 (+ 8) of the tile, batch rows 2 * (lane % 4) (+ 1)
                float *place = sums + (tile * WARPS + warp) * plan.rows * 16 + lane / 4;
                const int m = lane % 4 * 2;
                if (phase > 0) {
#pragma unroll
                    for (int k = 0; k < 4; k++)
                        sum[k] = m + k % 2 < plan.rows ? place[(m + k % 2) * 16 + k / 2 * 8] : 0.0f;
                }
                for (int chunk = phase + warp; chunk < end; chunk += WARPS) {
                    copy_wait<DEPTH - 1>();
                    const uint32_t x_at = row_at + (uint32_t)(chunk - phase) * CHUNK * sizeof(T);
#pragma unroll
                    for (int half = 0; half < CHUNK / 32; half++) {
                        const uint32_t w_at = slot + (uint32_t)(half * 2) * THREADS * 16;
                        const uint4 u = read_shared(w_at);
                        const uint4 v = read_shared(w_at + THREADS * 16);
                        const uint4 x = read_shared(x_at + half * 32 * sizeof(T));
                        multiply<T>(sum, u.x, v.x, u.y, v.y, x.x, x.y);
                        multiply<T>(sum, u.z, v.z, u.w, v.w, x.z, x.w);
                    }
                    copy_next<T, EPILOGUE>(next, slot, a, plan, tiles, policy);
                    slot += PIECES * 16 * THREADS;
                    slot = slot == ring + RING_BYTES ? ring : slot;
                }
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    if (m + k % 2 < plan.rows)
                        place[(m + k % 2) * 16 + k / 2 * 8] = sum[k];
                }
            }
        }
        __syncthreads();
        for (int i = threadIdx.x; i < group_tiles * plan.rows * 8; i += THREADS) {
            const int m = i / 8 % plan.rows, tile = i / 8 / plan.rows;
            const float *place = sums + (tile * WARPS * plan.rows + m) * 16 + i % 8;
            const int64_t pair =
                ((int64_t)blockIdx.x + (int64_t)(group + tile) * gridDim.x) * 8 + i % 8;
            float u = 0, v = 0;
            for (int w = 0; w < WARPS; w++) {
                u += place[w * plan.rows * 16];
                v += place[w * plan.rows * 16 + 8];
            }
            if (pair < med_pair_count(a, EPILOGUE))
                med_pair_finish<T, EPILOGUE>(a, med_pair_rows<EPILOGUE>(a, pair), m, u, v);
        }
        __syncthreads();
    }
}

/*
 * The same in float32, for checking: a warp per pair of outputs, lanes along the columns.
 * in [..][columns], W [outputs][columns] float, any alignment; grid: enough warps for all pairs.
 */
template <int EPILOGUE>
static __global__ void __launch_bounds__(THREADS)
    small_f32_kernel(const __grid_constant__ struct med_cuda_linear_args a, int row_count)
{
    const int lane = threadIdx.x % 32, columns = (int)a.columns;
    const int64_t pair = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const float *norm = (const float *)a.norm;
    med_grid_go();
    med_grid_wait();
    if (pair >= med_pair_count(a, EPILOGUE))
        return;
    const struct med_pair rows = med_pair_rows<EPILOGUE>(a, pair);
    const float *first = (const float *)a.weight + (size_t)rows.first * (size_t)columns;
    const float *second = (const float *)a.weight + (size_t)rows.second * (size_t)columns;
    for (int m = 0; m < row_count; m++) {
        const float *x = (const float *)row_pieces<float>(a, m);
        float u = 0, v = 0, square = 0;
        for (int i = lane; i < columns; i += 32) {
            const float value = __ldcg(x + i), normed_value = norm ? value * norm[i] : value;
            square = fmaf(value, value, square);
            if (rows.first < a.outputs)
                u = fmaf(normed_value, first[i], u);
            if (rows.second < a.outputs)
                v = fmaf(normed_value, second[i], v);
        }
        for (int other = 16; other > 0; other /= 2) {
            u += __shfl_xor_sync(0xFFFFFFFFu, u, other);
            v += __shfl_xor_sync(0xFFFFFFFFu, v, other);
            square += __shfl_xor_sync(0xFFFFFFFFu, square, other);
        }
        const float scale = norm ? rsqrtf(square / (float)columns + a.eps) : 1.0f;
        if (lane == 0)
            med_pair_finish<float, EPILOGUE>(a, rows, m, u * scale, v * scale);
    }
}

/* ---- host ------------------------------------------------------------------------------------------ */

static size_t shared_bytes(const struct plan &plan)
{
    return (size_t)RING_BYTES + (size_t)plan.rows * (size_t)plan.x_stride * 2 +
           ((size_t)GROUP * WARPS * 16 * (size_t)plan.rows + STATE_FLOATS) * sizeof(float);
}

static struct plan make_plan(const struct med_cuda *d, const struct med_cuda_linear_args &a)
{
    struct plan plan = {};
    plan.rows = (int)a.rows;
    plan.columns = (int)a.columns;
    plan.tiles = (int)((med_pair_count(a, a.epilogue) + 7) / 8);
    plan.chunks = (plan.columns + CHUNK - 1) / CHUNK;
    const size_t others = shared_bytes(plan);
    const size_t room = d->shared_bytes_max > others ? d->shared_bytes_max - others : 0;
    const int x_bytes = room < (size_t)X_BYTES ? (int)room : (int)X_BYTES;
    const int fit = x_bytes / plan.rows / 2 - 32; // columns
    plan.phase_chunks =
        plan.chunks * CHUNK <= fit ? plan.chunks : (fit < STEP ? STEP : fit / STEP * STEP) / CHUNK;
    plan.x_stride = plan.phase_chunks * CHUNK + 32;
    return plan;
}

template <typename T, int EPILOGUE>
static int launch_small(struct med_cuda *d, const struct med_cuda_linear_args &a)
{
    const struct plan plan = make_plan(d, a);
    const int blocks = d->facts.multiprocessors * MED_SMALL_BLOCKS;
    const struct med_launch launch = {dim3((unsigned)(plan.tiles < blocks ? plan.tiles : blocks)),
                                      dim3(THREADS), shared_bytes(plan)};
    return med_launch_on(d, launch, small_kernel<T, EPILOGUE>, a, plan);
}

template <int EPILOGUE>
static int launch_typed(struct med_cuda *d, const struct med_cuda_linear_args &a)
{
    if (a.dtype == MED_DTYPE_BF16)
        return launch_small<__nv_bfloat16, EPILOGUE>(d, a);
    if (a.dtype == MED_DTYPE_F16)
        return launch_small<__half, EPILOGUE>(d, a);
    const int64_t pairs = med_pair_count(a, EPILOGUE);
    const struct med_launch launch = {dim3((unsigned)((pairs + WARPS - 1) / WARPS)), dim3(THREADS),
                                      0};
    return med_launch_on(d, launch, small_f32_kernel<EPILOGUE>, a, (int)a.rows);
}

template <typename T> static cudaError_t raise_shared(size_t bytes)
{
    const void *kernels[] = {(const void *)small_kernel<T, MED_CUDA_ADD>,
                             (const void *)small_kernel<T, MED_CUDA_ROPE_KV>,
                             (const void *)small_kernel<T, MED_CUDA_SWIGLU>,
                             (const void *)small_kernel<T, MED_CUDA_LOGITS>};
    cudaError_t status = cudaSuccess;
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels && status == cudaSuccess; i++)
        status = cudaFuncSetAttribute(kernels[i], cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)bytes);
    return status;
}

extern "C" int med_cuda_small_new(struct med_cuda *d)
{
    MED_CUDA_OP_TRY(raise_shared<__nv_bfloat16>(d->shared_bytes_max), d);
    MED_CUDA_OP_TRY(raise_shared<__half>(d->shared_bytes_max), d);
    return 0;
}

extern "C" bool med_cuda_small_takes(const struct med_cuda *d, const struct med_cuda_linear_args *a)
{
    const bool dtype_ok =
        a->dtype == MED_DTYPE_F32 || a->dtype == MED_DTYPE_BF16 || a->dtype == MED_DTYPE_F16;
    return d->compute >= 80 && dtype_ok && a->rows <= MED_CUDA_SMALL_ROWS && a->columns % 8 == 0 &&
           a->columns < INT32_MAX / 2 && !a->q_norm && !a->k_norm;
}

extern "C" int med_cuda_small(struct med_cuda *d, const struct med_cuda_linear_args *a)
{
    if (a->rows == 0)
        return 0;
    switch (a->epilogue) {
    case MED_CUDA_ADD:
        return launch_typed<MED_CUDA_ADD>(d, *a);
    case MED_CUDA_ROPE_KV:
        return launch_typed<MED_CUDA_ROPE_KV>(d, *a);
    case MED_CUDA_SWIGLU:
        return launch_typed<MED_CUDA_SWIGLU>(d, *a);
    default:
        return launch_typed<MED_CUDA_LOGITS>(d, *a);
    }
}
