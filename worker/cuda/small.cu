/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of a few rows: every weight is read once, and the memory bus is kept busy over the
 * boundaries between kernels.
 *
 * A block computes tiles of 8 pairs of outputs, 16 rows of W, for all rows of the batch.  The weights
 * come through a ring of stages in shared memory, a stage being a piece of the columns of one tile;
 * its warps share the columns of a stage.  The ring runs ahead over the ends of tiles, and it is filled
 * before the wait for the kernel before: weights depend on nothing.  A block takes so much shared
 * memory that a multiprocessor has room for one: a kernel's blocks then come where the blocks of
 * the one before have just ended, one each, and read on at once.  (Two on a multiprocessor are worse: the
 * next kernel's gather where this one's ended first.  With bulk copies a block takes all there is, so
 * that attention's blocks do not come beside it either: they would let the product behind them ask
 * for weights before they ask for keys.)
 *
 * sm_90: a warp of its own asks for stages by bulk copies, a piece of a row of W each, and waits where the
 * ring is full.  Before: each thread copies the 16-byte pieces that it will multiply itself.
 *
 * Multiplication is mma.m16n8k16: W is the 16 x k operand, the batch's rows the k x 8 one.  The order
 * of k within a product is free, so a thread's 8 neighbouring values serve as the k that the instruction
 * wants of it, in both operands alike: there is nothing to shuffle.  With fewer than 8 rows the
 * other columns hold copies that nobody reads; a row's sums are the same whatever is beside it.
 *
 * The rows lie in shared memory: all of their columns, or phases of as many as fit, for which sums wait in
 * shared memory too.  A norm is one factor per row: in bfloat16 rows are weighed by the norm's
 * weights as they come, and the sums get the factor, so that nothing waits for the squares of a whole row.
 * float16 has not the range for that: its rows are scaled before.  float32 (for checking alone) has
 * a plain kernel.
 *
 * There is a kernel for one row, for few that lie there whole, and for phases: what one does not
 * need would have to be fetched as code all the same, in front of every product.
 *
 * thread: engine.
 */
#include "worker/cuda/small.h"

#include "worker/cuda/epilogue.cuh"
#include "worker/cuda/instructions.cuh"
#include "worker/cuda/launch.cuh"

enum {
    WARPS = 8, /* that multiply */
    THREADS = WARPS * 32,
    CHUNK = 64,           /* columns that a warp takes of a stage */
    STEP = CHUNK * WARPS, /* columns of a stage; phases are multiples of it */
    PIECES = 4,           /* of 16 bytes: what a thread multiplies of a chunk */
    GROUP = 4,            /* tiles whose sums wait in shared memory */
    DEPTH_COPY = 4,       /* stages of the ring without bulk copies */
    UNDER_WAY = 8,  /* stages asked for at a time: enough for the bus, and the rows wait less */
    DEPTH_MAX = 16, /* and with: as many as there is room for */
    ROW_BYTES = STEP * 2 +
                64, /* of a stage with bulk copies; 64 more keep rows out of each other's banks */
    STAGE_BYTES_BULK = 16 * ROW_BYTES,
    STAGE_BYTES_COPY = PIECES * 16 * THREADS,
    BARRIERS_BYTES = 512,
    ROWS_BYTES = 66560, /* at most, of the batch's rows in shared memory: 8 of 4096 columns */
    STATE_FLOATS = WARPS * MED_CUDA_SMALL_ROWS + MED_CUDA_SMALL_ROWS,
    BULK_COMPUTE = 90
};

/* What of its rows a kernel has in shared memory. */
enum shape {
    ONE,   /* row, whole */
    WHOLE, /* few, whole */
    PHASED
};

/* What the host works out for a launch. */
struct plan {
    int rows, columns, tiles;
    int chunks;       /* of the columns, the last one may be partly there */
    int phase_chunks; /* of a phase: all, or a multiple of WARPS */
    int x_stride; /* elements from row to row in shared memory: 64 bytes beyond a multiple of 128 */
    int depth;    /* stages of the ring */
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
    asm volatile(
        "cp.async.cg.shared.global.L2::cache_hint.L2::256B [%0], [%1], 16, %2, %3;" ::"r"(to),
        "l"(from), "r"(there ? 16 : 0), "l"(policy)
        : "memory");
}

/* Barriers in shared memory (mbarrier); `turn` counts how often the one at hand has been completed. */
static __device__ __forceinline__ void barrier_new(uint32_t at, int arrivals)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory");
#endif
}

static __device__ __forceinline__ void barrier_arrive(uint32_t at)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
#endif
}

/* Arrives, and completion waits for `bytes` of copies too. */
static __device__ __forceinline__ void barrier_expect(uint32_t at, uint32_t bytes)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes)
                 : "memory");
#endif
}

/* Until the phase of this parity is complete; of a new barrier, that of parity 1 is. */
static __device__ __forceinline__ void barrier_wait(uint32_t at, uint32_t parity)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n.reg .pred done;\nagain:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n}" ::"r"(at),
                 "r"(parity)
                 : "memory");
#endif
}

/* A multiple of 16 bytes to shared memory; counts on `barrier`. */
static __device__ __forceinline__ void copy_bulk(uint32_t to, const void *from, uint32_t bytes,
                                                 uint32_t barrier)
{
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
        "[%3];" ::"r"(to),
        "l"(from), "r"(bytes), "r"(barrier)
        : "memory");
#endif
}

static __device__ __forceinline__ void copy_bulk_once(uint32_t to, const void *from, uint32_t bytes,
                                                      uint32_t barrier, uint64_t policy)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1], %2, [%3], %4;" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
                 : "memory");
#endif
}

/* Orders this thread's accesses to memory before the bulk copies that follow a barrier, or that it asks
 * for itself. */
static __device__ __forceinline__ void copy_bulk_fence(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async;" ::: "memory");
#endif
}

static __device__ __forceinline__ void barriers_publish(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

/* The threads that multiply. */
static __device__ __forceinline__ void workers_sync(void)
{
    asm volatile("bar.sync 1, %0;" ::"n"((int)THREADS) : "memory");
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

enum {
    NORM_AHEAD = 2 /* pieces of the norm's weight that each thread has fetched before the wait */
};

/* Whether sums are scaled, not rows: what is not scaled yet must not be beyond T's range. */
template <typename T> static __host__ __device__ constexpr bool scales_sums(void);
template <> __host__ __device__ constexpr bool scales_sums<__nv_bfloat16>(void)
{
    return true;
}
template <> __host__ __device__ constexpr bool scales_sums<__half>(void)
{
    return false;
}

/* Columns of chunks [begin, end) of rows first_row .. + ROWS - 1 to `rows` (unless NULL), by the threads that
 * multiply: they find them in the cache, and do not stand behind the weights that were asked for before.
 * PIECES_AT_ONCE loads per row are under way.  WEIGHS: times the norm's weight, of which the
 * first columns are in `ahead`.  partials: the sums of squares of each warp, or NULL. */
template <typename T, int ROWS, int PIECES_AT_ONCE, bool WEIGHS>
static __device__ __forceinline__ void
fetch_some(const struct med_cuda_linear_args &a, const struct plan &plan, int begin, int end,
           int first_row, T *rows, float *partials, const uint4 *ahead)
{
    const int first = begin * (CHUNK / 8), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int count = min(end * (CHUNK / 8), plan.columns / 8) - first;
    const uint4 *from[ROWS];
    float sum[ROWS] = {};
#pragma unroll
    for (int k = 0; k < ROWS; k++)
        from[k] = row_pieces<T>(a, min(first_row + k, plan.rows - 1)) + first;
    for (int i = threadIdx.x; i < count; i += PIECES_AT_ONCE * THREADS) {
        uint4 x[PIECES_AT_ONCE][ROWS];
#pragma unroll
        for (int p = 0; p < PIECES_AT_ONCE; p++) {
#pragma unroll
            for (int k = 0; k < ROWS; k++) {
                x[p][k] = make_uint4(0, 0, 0, 0);
                if (i + p * THREADS < count && first_row + k < plan.rows)
                    x[p][k] = __ldcg(from[k] + i + p * THREADS);
            }
        }
#pragma unroll
        for (int p = 0; p < PIECES_AT_ONCE; p++) {
            uint4 weight = {};
            if (WEIGHS && i + p * THREADS < count)
                weight = begin == 0 && i < THREADS && p < NORM_AHEAD
                             ? ahead[p < NORM_AHEAD ? p : 0]
                             : __ldg((const uint4 *)a.norm + first + i + p * THREADS);
#pragma unroll
            for (int k = 0; k < ROWS; k++) {
                if (rows && i + p * THREADS < count && first_row + k < plan.rows)
                    *((uint4 *)(rows + (first_row + k) * plan.x_stride) + i + p * THREADS) =
                        WEIGHS ? normed<T>(x[p][k], weight, 1.0f) : x[p][k];
                if (partials)
                    sum[k] += squares<T>(x[p][k]);
            }
        }
    }
    if (!partials)
        return;
    for (int other = 16; other > 0; other /= 2) {
#pragma unroll
        for (int k = 0; k < ROWS; k++)
            sum[k] += __shfl_xor_sync(0xFFFFFFFFu, sum[k], other);
    }
    if (lane == 0) {
#pragma unroll
        for (int k = 0; k < ROWS; k++) {
            if (first_row + k < plan.rows)
                partials[warp * MED_CUDA_SMALL_ROWS + first_row + k] = sum[k];
        }
    }
}

template <typename T, enum shape SHAPE, bool WEIGHS>
static __device__ __forceinline__ void fetch_rows(const struct med_cuda_linear_args &a,
                                                  const struct plan &plan, int begin, int end,
                                                  T *rows, float *partials, const uint4 *ahead)
{
    if (SHAPE == ONE) {
        fetch_some<T, 1, WEIGHS ? 2 : 6, WEIGHS>(a, plan, begin, end, 0, rows, partials, ahead);
    } else {
        for (int m = 0; m < plan.rows; m += 4)
            fetch_some<T, 4, 2, WEIGHS>(a, plan, begin, end, m, rows, partials, ahead);
    }
}

/* 1 / sqrt(mean(row m ^ 2) + eps), from the warps' sums of squares. */
static __device__ __forceinline__ float norm_scale(const struct med_cuda_linear_args &a,
                                                   const struct plan &plan, const float *partials,
                                                   int m)
{
    float sum = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        sum += partials[w * MED_CUDA_SMALL_ROWS + m];
    return rsqrtf(sum / (float)plan.columns + a.eps);
}

/* Of all rows, once all warps have written their sums. */
static __device__ __forceinline__ void norm_scales(const struct med_cuda_linear_args &a,
                                                   const struct plan &plan, const float *partials,
                                                   float *scales)
{
    workers_sync();
    if (threadIdx.x < plan.rows)
        scales[threadIdx.x] = norm_scale(a, plan, partials, (int)threadIdx.x);
    workers_sync();
}

/* Columns of chunks [begin, end), which lie in `rows`, times scale and weight. */
template <typename T>
static __device__ __forceinline__ void norm_rows(const struct med_cuda_linear_args &a,
                                                 const struct plan &plan, int begin, int end,
                                                 T *rows, const float *scales, const uint4 *ahead)
{
    const int first = begin * (CHUNK / 8);
    const int count = min(end * (CHUNK / 8), plan.columns / 8) - first;
#pragma unroll
    for (int n = 0; n < NORM_AHEAD; n++) {
        const int i = (int)threadIdx.x + n * THREADS;
        if (i < count) {
            const uint4 weight = begin == 0 ? ahead[n] : __ldg((const uint4 *)a.norm + first + i);
            for (int m = 0; m < plan.rows; m += 4) {
                uint4 x[4];
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    if (m + k < plan.rows)
                        x[k] = normed<T>(*((const uint4 *)(rows + (m + k) * plan.x_stride) + i),
                                         weight, scales[m + k]);
                }
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    if (m + k < plan.rows)
                        *((uint4 *)(rows + (m + k) * plan.x_stride) + i) = x[k];
                }
            }
        }
    }
    for (int i = (int)threadIdx.x + NORM_AHEAD * THREADS; i < count; i += THREADS) {
        const uint4 weight = __ldg((const uint4 *)a.norm + first + i);
#pragma unroll 4
        for (int m = 0; m < plan.rows; m++) {
            uint4 *x = (uint4 *)(rows + m * plan.x_stride) + i;
            *x = normed<T>(*x, weight, scales[m]);
        }
    }
}

/* ---- weights, each thread for itself --------------------------------------------------------------- */

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
    med_copy_commit();
}

/* ---- weights and rows, by a warp of its own -------------------------------------------------------- */

/* Where what goes through shared memory lies, and the barriers: full and empty of each stage, then of each
 * of the two places of a phase's rows. */
struct places {
    uint32_t stages, full, empty;
    uint32_t rows, rows_full, rows_empty;
    uint32_t rows_bytes; // of one place
};

/* The rows of phase `count` of all phases, from the second on: the first are fetched by fetch_rows. */
template <typename T>
static __device__ __forceinline__ void ask_for_rows(const struct med_cuda_linear_args &a,
                                                    const struct plan &plan,
                                                    const struct places &at, int count, int begin)
{
    const int lane = threadIdx.x % 32, place = count % 2;
    const int columns = min(begin + plan.phase_chunks, plan.chunks) * CHUNK;
    const uint32_t bytes =
        (uint32_t)(min(columns, plan.columns) - begin * CHUNK) * (uint32_t)sizeof(T);
    barrier_wait(at.rows_empty + (uint32_t)place * 8, (uint32_t)(count / 2 + 1) % 2);
    if (lane == 0)
        barrier_expect(at.rows_full + (uint32_t)place * 8, bytes * (uint32_t)plan.rows);
    __syncwarp();
    if (lane < plan.rows)
        copy_bulk(at.rows + (uint32_t)place * at.rows_bytes +
                      (uint32_t)(lane * plan.x_stride) * (uint32_t)sizeof(T),
                  (const T *)row_pieces<T>(a, lane) + (size_t)begin * CHUNK, bytes,
                  at.rows_full + (uint32_t)place * 8);
}

static __device__ __forceinline__ void wait_for_the_kernel_before(void)
{
    med_grid_wait();
    copy_bulk_fence();
}

/* Asks for all stages of all tiles in the order in which they are multiplied, and for the rows; for
 * the first ones before the wait. */
template <typename T, int EPILOGUE, enum shape SHAPE>
static __device__ void ask_for_all(const struct med_cuda_linear_args &a, const struct plan &plan,
                                   const struct places &at, int tiles)
{
    const int lane = threadIdx.x % 32;
    const uint64_t policy = read_once_policy();
    const size_t row_bytes = (size_t)a.columns * sizeof(T);
    const int under_way = min((int)UNDER_WAY, plan.depth);
    int stage = 0, asked = 0, rows_asked = 0, arrived = 0; // `arrived`: the oldest stage under way
    uint32_t parity = 1, arrived_parity = 0;
    bool waited = false;
    for (int group = 0; group < tiles; group += GROUP) {
        const int group_end = min(group + GROUP, tiles);
        for (int phase = 0; phase < plan.chunks; phase += plan.phase_chunks) {
            const int end = min((phase + plan.phase_chunks) * CHUNK, plan.columns);
            if (SHAPE == PHASED && group + phase > 0) {
                if (!waited)
                    wait_for_the_kernel_before();
                waited = true;
                ask_for_rows<T>(a, plan, at, ++rows_asked, phase);
            }
            for (int tile = group; tile < group_end; tile++) {
                const int64_t pair =
                    ((int64_t)blockIdx.x + (int64_t)tile * gridDim.x) * 8 + lane % 8;
                const struct med_pair rows = med_pair_rows<EPILOGUE>(a, pair);
                const int64_t row = lane < 8 ? rows.first : rows.second;
                const bool there =
                    lane < 16 && pair < med_pair_count(a, EPILOGUE) && row < a.outputs;
                const char *from = (const char *)a.weight + (there ? (size_t)row * row_bytes : 0);
                const int count = __popc(__ballot_sync(0xFFFFFFFFu, there));
                for (int column = phase * CHUNK; column < end; column += STEP) {
                    const uint32_t bytes =
                        (uint32_t)min((int)STEP, end - column) * (uint32_t)sizeof(T);
                    const uint32_t full = at.full + (uint32_t)stage * 8;
                    if (!waited && asked == plan.depth) {
                        wait_for_the_kernel_before();
                        waited = true;
                    }
                    if (asked++ >= under_way) {
                        barrier_wait(at.full + (uint32_t)arrived * 8, arrived_parity);
                        if (++arrived == plan.depth) {
                            arrived = 0;
                            arrived_parity ^= 1;
                        }
                    }
                    barrier_wait(at.empty + (uint32_t)stage * 8, parity);
                    if (lane == 0)
                        barrier_expect(full, bytes * (uint32_t)count);
                    __syncwarp();
                    if (there)
                        copy_bulk_once(at.stages + (uint32_t)(stage * STAGE_BYTES_BULK) +
                                           (uint32_t)(lane * ROW_BYTES),
                                       from + (size_t)column * sizeof(T), bytes, full, policy);
                    if (++stage == plan.depth) {
                        stage = 0;
                        parity ^= 1;
                    }
                }
            }
        }
    }
    if (!waited)
        med_grid_wait();
}

/* ---- the kernel ------------------------------------------------------------------------------------ */

/* sum += what this thread's warp has of a chunk: W's pieces at `w` and (8 rows on) `w_second`, the rows' at
 * `x`, 32 columns further in steps; with `columns_left` fewer than CHUNK, what is beyond counts as zero. */
template <typename T>
static __device__ __forceinline__ void multiply_chunk(float *sum, uint32_t w, uint32_t w_second,
                                                      uint32_t w_step, uint32_t x, int columns_left)
{
#pragma unroll
    for (int half = 0; half < CHUNK / 32; half++) {
        uint4 u = med_read_shared(w + half * w_step);
        uint4 v = med_read_shared(w_second + half * w_step);
        uint4 y = med_read_shared(x + half * 32 * (uint32_t)sizeof(T));
        if (columns_left < CHUNK && half * 32 + (int)threadIdx.x % 4 * 8 >= columns_left)
            u = v = y = make_uint4(0, 0, 0, 0);
        med_mma<T>(sum, u.x, v.x, u.y, v.y, y.x, y.y);
        med_mma<T>(sum, u.z, v.z, u.w, v.w, y.z, y.w);
    }
}

/* What a thread ends of a group of tiles: at most one pair of outputs of a row. */
struct end {
    bool there;
    int tile, m; // of the group, of the batch
    struct med_pair rows;
    struct med_pair_ahead ahead;
};
static_assert(GROUP * 8 * MED_CUDA_SMALL_ROWS <= THREADS, "a pair of a row for each thread");

template <typename T, int EPILOGUE>
static __device__ __forceinline__ struct end
end_look(const struct med_cuda_linear_args &a, const struct plan &plan, int group, int group_tiles)
{
    const int i = threadIdx.x;
    struct end e = {};
    if (i >= group_tiles * plan.rows * 8)
        return e;
    e.m = i / 8 % plan.rows;
    e.tile = i / 8 / plan.rows;
    const int64_t pair = ((int64_t)blockIdx.x + (int64_t)(group + e.tile) * gridDim.x) * 8 + i % 8;
    e.there = pair < med_pair_count(a, EPILOGUE);
    if (e.there) {
        e.rows = med_pair_rows<EPILOGUE>(a, pair);
        e.ahead = med_pair_look<T, EPILOGUE>(a, e.rows, e.m);
    }
    return e;
}

/* The work of a block; see small_kernel. */
template <typename T, int EPILOGUE, enum shape SHAPE, bool BULK>
static __device__ __forceinline__ void small_block(const struct med_cuda_linear_args &a,
                                                   const struct plan &plan_given)
{
    constexpr bool phased = SHAPE == PHASED, LATE = !phased && scales_sums<T>();
    struct plan plan = plan_given;
    if (SHAPE == ONE)
        plan.rows = 1;
    if (!phased)
        plan.phase_chunks = plan.chunks;
    constexpr int STAGE_BYTES = BULK ? STAGE_BYTES_BULK : STAGE_BYTES_COPY;
    extern __shared__ __align__(128) char shared[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int depth = BULK ? plan.depth : DEPTH_COPY;
    T *const rows = (T *)(shared + BARRIERS_BYTES + depth * STAGE_BYTES);
    float *const sums = (float *)(rows + (phased ? 2 : 1) * plan.rows * plan.x_stride);
    float *const partials = sums + GROUP * WARPS * 16 * plan.rows;
    float *const scales = partials + WARPS * MED_CUDA_SMALL_ROWS;
    const int tiles = (plan.tiles - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x;
    struct places at;
    at.full = (uint32_t)__cvta_generic_to_shared(shared);
    at.empty = at.full + DEPTH_MAX * 8;
    at.rows_full = at.empty + DEPTH_MAX * 8;
    at.rows_empty = at.rows_full + 16;
    at.stages = at.full + BARRIERS_BYTES;
    at.rows = at.stages + (uint32_t)(depth * STAGE_BYTES);
    at.rows_bytes = (uint32_t)(plan.rows * plan.x_stride) * (uint32_t)sizeof(T);

    med_grid_go();
    struct cursor next = {};
    uint64_t policy = 0;
    // this thread's first stage: where it copies to itself, or its place in what comes in bulk
    uint32_t w_at =
        at.stages + (BULK ? (uint32_t)(lane / 4 * ROW_BYTES + warp * CHUNK * 2 + lane % 4 * 16)
                          : threadIdx.x * 16);
    constexpr uint32_t W_STEP = BULK ? 64 : 2 * THREADS * 16;
    constexpr uint32_t W_SECOND = BULK ? 8 * ROW_BYTES : THREADS * 16;
    if (BULK) {
        if (warp == WARPS) {
            if (lane == 0) {
                for (int i = 0; i < depth; i++) {
                    barrier_new(at.full + (uint32_t)i * 8, 1);
                    barrier_new(at.empty + (uint32_t)i * 8, WARPS);
                }
                for (uint32_t i = 0; i < 2; i++) {
                    barrier_new(at.rows_full + i * 8, 1);
                    barrier_new(at.rows_empty + i * 8, WARPS);
                }
                barriers_publish();
            }
            __syncwarp();
            asm volatile("bar.arrive 2, %0;" ::"n"((int)THREADS + 32) : "memory");
            ask_for_all<T, EPILOGUE, SHAPE>(a, plan, at, tiles);
            return;
        }
        asm volatile("bar.sync 2, %0;" ::"n"((int)THREADS + 32) : "memory"); // barriers are new
    } else {
        policy = read_once_policy();
        next.chunk = warp;
        if (warp < min(plan.phase_chunks, plan.chunks)) {
            cursor_at_tile<T, EPILOGUE>(next, a, plan);
        } else {
            next.ordinal = tiles; // so few columns that this warp has none
        }
        for (int i = 0; i < DEPTH_COPY; i++)
            copy_next<T, EPILOGUE>(next, w_at + (uint32_t)(i * STAGE_BYTES), a, plan, tiles,
                                   policy);
    }
    uint4 ahead[NORM_AHEAD] = {};
    if (a.norm) {
#pragma unroll
        for (int n = 0; n < NORM_AHEAD; n++) {
            const int i = (int)threadIdx.x + n * THREADS;
            if (i < plan.columns / 8)
                ahead[n] = __ldg((const uint4 *)a.norm + i);
        }
    }
    med_grid_wait();

    const uint32_t x_lane =
        (uint32_t)((lane / 4 < plan.rows ? lane / 4 : 0) * plan.x_stride + lane % 4 * 8) *
        (uint32_t)sizeof(T);
    int stage = 0, rows_count = 0;
    uint32_t parity = 0, x_place = 0;
    struct end end = {};
    for (int group = 0; group < tiles; group += GROUP) {
        const int group_tiles = min((int)GROUP, tiles - group);
        for (int phase = 0; phase < plan.chunks; phase += plan.phase_chunks) {
            const int phase_end = min(phase + plan.phase_chunks, plan.chunks);
            if (group + phase == 0 || phased) {
                const int place = BULK && phased ? rows_count % 2 : 0;
                T *const here = rows + place * plan.rows * plan.x_stride;
                x_place = at.rows + (uint32_t)place * at.rows_bytes;
                if (BULK && group + phase > 0) {
                    barrier_wait(at.rows_full + (uint32_t)place * 8,
                                 (uint32_t)((rows_count - 1) / 2) % 2);
                } else {
                    if (phased)
                        workers_sync(); // nobody reads the phase before any more
                    if (LATE && a.norm) {
                        fetch_rows<T, SHAPE, true>(a, plan, phase, phase_end, here, partials,
                                                   ahead);
                    } else {
                        fetch_rows<T, SHAPE, false>(a, plan, phase, phase_end, here,
                                                    a.norm && !phased ? partials : NULL, ahead);
                    }
                    if (LATE || !a.norm || phased)
                        workers_sync();
                }
                if (!LATE && a.norm) {
                    if (group + phase == 0) {
                        if (phased)
                            fetch_rows<T, SHAPE, false>(a, plan, 0, plan.chunks, NULL, partials,
                                                        ahead);
                        norm_scales(a, plan, partials, scales);
                    }
                    norm_rows<T>(a, plan, phase, phase_end, here, scales, ahead);
                    workers_sync();
                }
                rows_count++;
            }
            if (phase == 0)
                end = end_look<T, EPILOGUE>(a, plan, group, group_tiles);
            for (int tile = 0; tile < group_tiles; tile++) {
                float sum[4] = {};
                // this thread's: rows lane / 4 (+ 8) of the tile, batch rows 2 * (lane % 4) (+ 1)
                float *const place = sums + (tile * WARPS + warp) * plan.rows * 16 + lane / 4;
                const int m = lane % 4 * 2;
                if (phase > 0) {
#pragma unroll
                    for (int k = 0; k < 4; k++)
                        sum[k] = m + k % 2 < plan.rows ? place[(m + k % 2) * 16 + k / 2 * 8] : 0.0f;
                }
                for (int chunk = phase + warp; chunk - (BULK ? warp : 0) < phase_end;
                     chunk += WARPS) {
                    const uint32_t w = w_at + (uint32_t)(stage * STAGE_BYTES);
                    const uint32_t x = x_place + x_lane + (uint32_t)((chunk - phase) * CHUNK) * 2;
                    const int left = plan.columns - chunk * CHUNK;
                    if (BULK) {
                        barrier_wait(at.full + (uint32_t)stage * 8, parity);
                        if (chunk < phase_end)
                            multiply_chunk<T>(sum, w, w + W_SECOND, W_STEP, x, left);
                        __syncwarp();
                        if (lane == 0)
                            barrier_arrive(at.empty + (uint32_t)stage * 8);
                    } else {
                        med_copy_wait<DEPTH_COPY - 1>();
                        multiply_chunk<T>(sum, w, w + W_SECOND, W_STEP, x, left);
                        copy_next<T, EPILOGUE>(next, w, a, plan, tiles, policy);
                    }
                    if (++stage == depth) {
                        stage = 0;
                        parity ^= 1;
                    }
                }
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    if (m + k % 2 < plan.rows)
                        place[(m + k % 2) * 16 + k / 2 * 8] = sum[k];
                }
            }
            if (BULK && phased) {
                copy_bulk_fence(); // the next rows come here in bulk
                __syncwarp();
                if (lane == 0)
                    barrier_arrive(at.rows_empty + (uint32_t)((rows_count - 1) % 2) * 8);
            }
        }
        workers_sync();
        if (end.there) {
            const float *place =
                sums + (end.tile * WARPS * plan.rows + end.m) * 16 + threadIdx.x % 8;
            float u = 0, v = 0;
#pragma unroll
            for (int w = 0; w < WARPS; w++) {
                u += place[w * plan.rows * 16];
                v += place[w * plan.rows * 16 + 8];
            }
            if (LATE && a.norm) {
                const float scale = norm_scale(a, plan, partials, end.m);
                u *= scale;
                v *= scale;
            }
            med_pair_finish<T, EPILOGUE>(a, end.rows, end.m, u, v, end.ahead);
        }
        if (group + GROUP < tiles)
            workers_sync();
    }
}

/*
 * out = epilogue(rmsnorm(in)? W' + bias), see linear.h.
 * W [outputs][columns] of T, 16-byte aligned, columns a multiple of 8; in [..][columns] likewise.
 * float32 sums: by chunk (64 columns in four steps) of every WARPS-th chunk, then over the warps in
 * order.  grid: one block per multiprocessor, tiles dealt out in turn.  block: THREADS, with BULK a
 * warp more.  shared: barriers, ring, rows (twice if in phases), sums of GROUP tiles
 * [GROUP][WARPS][rows][16], partial squares and scales.
 */
template <typename T, int EPILOGUE, enum shape SHAPE, bool BULK>
static __global__ void __launch_bounds__(THREADS + (BULK ? 32 : 0), 1)
    small_kernel(const __grid_constant__ struct med_cuda_linear_args a,
                 const __grid_constant__ struct plan plan)
{
#if __CUDA_ARCH__ >= 900
    constexpr bool RUNS_HERE = BULK;
#else
    constexpr bool RUNS_HERE = !BULK;
#endif
    if constexpr (RUNS_HERE)
        small_block<T, EPILOGUE, SHAPE, BULK>(a, plan);
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
            med_pair_finish<float, EPILOGUE>(a, rows, m, u * scale, v * scale,
                                             med_pair_look<float, EPILOGUE>(a, rows, m));
    }
}

/* ---- host ------------------------------------------------------------------------------------------ */

static size_t shared_bytes(const struct plan &plan, bool bulk)
{
    const size_t phases = plan.phase_chunks < plan.chunks ? 2 : 1;
    return (size_t)BARRIERS_BYTES +
           (size_t)plan.depth * (size_t)(bulk ? STAGE_BYTES_BULK : STAGE_BYTES_COPY) +
           phases * (size_t)plan.rows * (size_t)plan.x_stride * 2 +
           ((size_t)GROUP * WARPS * 16 * (size_t)plan.rows + STATE_FLOATS) * sizeof(float);
}

/* The rows whole if they fit into ROWS_BYTES and leave room for DEPTH_COPY stages, in two places of phases
 * if not; the ring takes the rest. */
static struct plan make_plan(const struct med_cuda *d, const struct med_cuda_linear_args &a,
                             bool bulk)
{
    struct plan plan = {};
    plan.rows = (int)a.rows;
    plan.columns = (int)a.columns;
    plan.tiles = (int)((med_pair_count(a, a.epilogue) + 7) / 8);
    plan.chunks = (plan.columns + CHUNK - 1) / CHUNK;
    plan.phase_chunks = plan.chunks;
    plan.depth = DEPTH_COPY;
    const size_t others = shared_bytes(plan, bulk);
    size_t room = d->shared_bytes_max > others ? d->shared_bytes_max - others : 0;
    room = room < (size_t)ROWS_BYTES ? room : (size_t)ROWS_BYTES;
    const int fit = (int)(room / 2) / plan.rows - 32; // columns
    if (plan.chunks * CHUNK > fit) {
        const int half = (int)(room / 4) / plan.rows - 32;
        plan.phase_chunks = (half < STEP ? (int)STEP : half / STEP * STEP) / CHUNK;
    }
    if (plan.phase_chunks > plan.chunks)
        plan.phase_chunks = plan.chunks;
    plan.x_stride = plan.phase_chunks * CHUNK + 32;
    while (bulk && plan.depth < DEPTH_MAX) {
        plan.depth++;
        if (shared_bytes(plan, bulk) > d->shared_bytes_max) {
            plan.depth--;
            break;
        }
    }
    return plan;
}

template <typename T, int EPILOGUE, bool BULK>
static int launch_small(struct med_cuda *d, const struct med_cuda_linear_args &a)
{
    const struct plan plan = make_plan(d, a, BULK);
    const int blocks = d->facts.multiprocessors;
    const struct med_launch launch = {dim3((unsigned)(plan.tiles < blocks ? plan.tiles : blocks)),
                                      dim3(THREADS + (BULK ? 32 : 0)),
                                      BULK ? d->shared_bytes_max : shared_bytes(plan, BULK)};
    if (plan.phase_chunks < plan.chunks)
        return med_launch_on(d, launch, small_kernel<T, EPILOGUE, PHASED, BULK>, a, plan);
    if (plan.rows > 1)
        return med_launch_on(d, launch, small_kernel<T, EPILOGUE, WHOLE, BULK>, a, plan);
    return med_launch_on(d, launch, small_kernel<T, EPILOGUE, ONE, BULK>, a, plan);
}

template <int EPILOGUE>
static int launch_typed(struct med_cuda *d, const struct med_cuda_linear_args &a)
{
    const bool bulk = d->compute >= BULK_COMPUTE;
    if (a.dtype == MED_DTYPE_BF16)
        return bulk ? launch_small<__nv_bfloat16, EPILOGUE, true>(d, a)
                    : launch_small<__nv_bfloat16, EPILOGUE, false>(d, a);
    if (a.dtype == MED_DTYPE_F16)
        return bulk ? launch_small<__half, EPILOGUE, true>(d, a)
                    : launch_small<__half, EPILOGUE, false>(d, a);
    const int64_t pairs = med_pair_count(a, EPILOGUE);
    const struct med_launch launch = {dim3((unsigned)((pairs + WARPS - 1) / WARPS)), dim3(THREADS),
                                      0};
    return med_launch_on(d, launch, small_f32_kernel<EPILOGUE>, a, (int)a.rows);
}

template <typename T, enum shape SHAPE, bool BULK>
static cudaError_t raise_shared_of_shape(size_t bytes)
{
    const void *kernels[] = {(const void *)small_kernel<T, MED_CUDA_ADD, SHAPE, BULK>,
                             (const void *)small_kernel<T, MED_CUDA_ROPE_KV, SHAPE, BULK>,
                             (const void *)small_kernel<T, MED_CUDA_SWIGLU, SHAPE, BULK>,
                             (const void *)small_kernel<T, MED_CUDA_LOGITS, SHAPE, BULK>};
    cudaError_t status = cudaSuccess;
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels && status == cudaSuccess; i++)
        status = cudaFuncSetAttribute(kernels[i], cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)bytes);
    return status;
}

template <typename T, bool BULK> static cudaError_t raise_shared(size_t bytes)
{
    cudaError_t status = raise_shared_of_shape<T, ONE, BULK>(bytes);
    if (status == cudaSuccess)
        status = raise_shared_of_shape<T, WHOLE, BULK>(bytes);
    return status == cudaSuccess ? raise_shared_of_shape<T, PHASED, BULK>(bytes) : status;
}

extern "C" int med_cuda_small_new(struct med_cuda *d)
{
    if (d->compute >= BULK_COMPUTE) {
        MED_CUDA_OP_TRY((raise_shared<__nv_bfloat16, true>(d->shared_bytes_max)), d);
        MED_CUDA_OP_TRY((raise_shared<__half, true>(d->shared_bytes_max)), d);
    } else {
        MED_CUDA_OP_TRY((raise_shared<__nv_bfloat16, false>(d->shared_bytes_max)), d);
        MED_CUDA_OP_TRY((raise_shared<__half, false>(d->shared_bytes_max)), d);
    }
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
