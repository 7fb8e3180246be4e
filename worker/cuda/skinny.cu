/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of up to 128 rows: tensor cores, every weight read once.
 *
 * The operands are swapped: tiles of W are the tall operand of the multiplication and the rows of the
 * batch the narrow one, so that a few rows waste nothing.  The work is cut into units, a tile of 128
 * rows of W (64 pairs of outputs) by 64 columns, and every block takes an equal run of them, whatever
 * tiles they belong to.  A tile that lies with several blocks is put together by the one that comes
 * last, from sums that the others left in scratch, in the order of the columns.  The cut depends on the
 * shape of W and the number of blocks alone, so a row's result does not depend on the rows beside it.
 *
 * One warp copies tiles into a ring of stages by the copy engine; two groups of four warps multiply.
 * The copy engine also gathers the rows of pairs, as a tensor of five dimensions: see weight_map_make.
 * The ring is filled with W before the wait for the kernel before (weights depend on nothing), and
 * a block takes less than half of a multiprocessor's shared memory, so that the next kernel's ring fills
 * while this one ends: the bus is busy over the boundary.
 *
 * Compute capability 9.0 alone; elsewhere nothing is taken.
 *
 * thread: engine.
 */
#include "worker/cuda/skinny.h"

#include "base/alloc.h"

#include "worker/cuda/epilogue.cuh"
#include "worker/cuda/launch.cuh"

#include <cuda.h>
#include <cudaTypedefs.h>

#ifndef MED_SKINNY_BLOCK_BYTES
# define MED_SKINNY_BLOCK_BYTES (113 * 1024)
#endif
#ifndef MED_SKINNY_BLOCKS
# define MED_SKINNY_BLOCKS 2 /* that fit a multiprocessor: of this kernel and of the next */
#endif

enum {
    TILE = 128,       /* rows of W */
    PAIRS = TILE / 2, /* of a tile */
    DEPTH = 64,       /* columns of a unit: 128 bytes, the width of the swizzle */
    GROUPS = 2,       /* of four warps, 64 rows of W each */
    MULTIPLIERS = GROUPS * 128,
    THREADS = MULTIPLIERS + 32, /* and the warp that copies */
    ROWS_MAX = MED_CUDA_SKINNY_ROWS,
    WEIGHT_BYTES = TILE * DEPTH * 2,
    STAGED_ROWS = 16, /* of the batch, that pass through shared memory to the epilogue at once */
    STAGED_STRIDE = PAIRS + 2,
    STAGED_BYTES = STAGED_ROWS * STAGED_STRIDE * 8,
    HEAD_BYTES = 1024, /* barriers, flag; the stages after it are aligned to 1024 */
    GRID_MAX = 160,
    TILES_MAX = 16384,
};

struct med_cuda_skinny {
    float *partials; // [GRID_MAX][2][TILE * rows of the largest launch]
    int *counters;   // [TILES_MAX], zero between launches
    int rows;        /* that partials have room for */
    PFN_cuTensorMapEncodeTiled_v12000 encode;
};

/* What the host works out for a launch. */
struct plan {
    int rows, tiles, k_blocks;
    int boxes;           /* copies that make a tile: 1 or 8 */
    int groups_per_head; /* of 8 pairs */
    int64_t pairs;
};

static __host__ __device__ constexpr int stage_bytes(int n)
{
    return WEIGHT_BYTES + n * DEPTH * 2;
}

static __host__ __device__ constexpr int stages(int n)
{
    return (MED_SKINNY_BLOCK_BYTES - HEAD_BYTES - STAGED_BYTES) / stage_bytes(n);
}

/* ---- instructions of compute capability 9.0 ------------------------------------------------------------ */

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* The cut: a block takes units [unit_begin(block), unit_begin(block + 1)). */
static __device__ __forceinline__ int unit_begin(int64_t units, int block)
{
    return (int)(units * block / gridDim.x);
}

static __device__ __forceinline__ int block_of(int64_t units, int64_t unit)
{
    return (int)(((unit + 1) * gridDim.x - 1) / units);
}

static __device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

static __device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

static __device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory");
}

static __device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity)
{
    uint32_t done;
    do {
        asm volatile("{\n.reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
    } while (!done);
}

static __device__ __forceinline__ uint64_t policy_first(void)
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

static __device__ __forceinline__ uint64_t policy_last(void)
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

static __device__ __forceinline__ void copy_weights(uint32_t to, const CUtensorMap *map,
                                                    uint32_t barrier, uint64_t policy, int column,
                                                    int row, int group, int head)
{
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3, %4, %5, %6}], [%7], %8;" ::"r"(to),
                 "l"(map), "r"(column), "r"(row), "r"(0), "r"(group), "r"(head), "r"(barrier),
                 "l"(policy)
                 : "memory");
}

static __device__ __forceinline__ void copy_rows(uint32_t to, const CUtensorMap *map,
                                                 uint32_t barrier, uint64_t policy, int column)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(column), "r"(0), "r"(barrier), "l"(policy)
                 : "memory");
}

/* A matrix in shared memory of rows of 128 bytes, swizzled in groups of 8 rows. */
static __device__ __forceinline__ uint64_t matrix(uint32_t address)
{
    return (uint64_t)((address & 0x3FFFF) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

# define OUT4(i)  "+f"(sums[i]), "+f"(sums[(i) + 1]), "+f"(sums[(i) + 2]), "+f"(sums[(i) + 3])
# define OUT16(i) OUT4(i), OUT4((i) + 4), OUT4((i) + 8), OUT4((i) + 12)
# define IN       "l"(weights), "l"(rows), "r"(adds)
# define MULTIPLY(n, types, list, first, second, third, ...)                                 \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " third ", 0;\n"                            \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." types " {" list "}, " first \
               ", " second ", p, 1, 1, 0, 0;\n}"                                             \
               : __VA_ARGS__                                                                 \
               : IN)
# define LIST8  "%0, %1, %2, %3"
# define LIST16 LIST8 ", %4, %5, %6, %7"
# define LIST32 LIST16 ", %8, %9, %10, %11, %12, %13, %14, %15"
# define LIST64 \
  LIST32 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
# define MULTIPLY_BY(n, types)                                             \
  do {                                                                     \
   if constexpr ((n) == 8)                                                 \
    MULTIPLY(8, types, LIST8, "%4", "%5", "%6", OUT4(0));                  \
   else if constexpr ((n) == 16)                                           \
    MULTIPLY(16, types, LIST16, "%8", "%9", "%10", OUT4(0), OUT4(4));      \
   else if constexpr ((n) == 32)                                           \
    MULTIPLY(32, types, LIST32, "%16", "%17", "%18", OUT16(0));            \
   else                                                                    \
    MULTIPLY(64, types, LIST64, "%32", "%33", "%34", OUT16(0), OUT16(16)); \
  } while (0)

/* sums [64][N] (+)= weights [64][16] rows [N][16]'; 4 warps together. */
template <typename T, int N>
static __device__ __forceinline__ void multiply(float *sums, uint64_t weights, uint64_t rows,
                                                int adds);
template <int N, bool BF16>
static __device__ __forceinline__ void multiply_typed(float *sums, uint64_t weights, uint64_t rows,
                                                      int adds)
{
    if constexpr (BF16)
        MULTIPLY_BY(N, "bf16.bf16");
    else
        MULTIPLY_BY(N, "f16.f16");
}

template <typename T> struct is_bf16 {
    static constexpr bool value = false;
};
template <> struct is_bf16<__nv_bfloat16> {
    static constexpr bool value = true;
};

/* ---- the end of a tile ----------------------------------------------------------------------------------- */

static __device__ __forceinline__ void multipliers_meet(void)
{
    asm volatile("bar.sync 1, %0;" ::"r"(MULTIPLIERS) : "memory");
}

template <typename T, int EPILOGUE>
static __device__ __forceinline__ void finish_staged(const struct med_cuda_linear_args &a,
                                                     const struct plan &plan, int tile, int m_begin,
                                                     int m_end, const float2 *staged)
{
    const int64_t pair = (int64_t)tile * PAIRS + threadIdx.x % PAIRS;
    if (pair >= plan.pairs)
        return;
    const struct med_pair rows = med_pair_rows<EPILOGUE>(a, pair);
# pragma unroll 1
    for (int m = m_begin + threadIdx.x / PAIRS; m < m_end; m += MULTIPLIERS / PAIRS) {
        const float2 sums = staged[(m - m_begin) * STAGED_STRIDE + threadIdx.x % PAIRS];
        med_pair_finish<T, EPILOGUE>(a, rows, m, sums.x, sums.y,
                                     med_pair_look<T, EPILOGUE>(a, rows, m));
    }
}

/* The epilogue of rows [m_begin, m_end) of the batch, whose sums are staged. */
template <typename T>
static __device__ __noinline__ void finish_rows(const struct med_cuda_linear_args &a,
                                                const struct plan &plan, int tile, int m_begin,
                                                int m_end, const float2 *staged)
{
    switch (a.epilogue) {
    case MED_CUDA_ADD:
        finish_staged<T, MED_CUDA_ADD>(a, plan, tile, m_begin, m_end, staged);
        break;
    case MED_CUDA_ROPE_KV:
        finish_staged<T, MED_CUDA_ROPE_KV>(a, plan, tile, m_begin, m_end, staged);
        break;
    case MED_CUDA_SWIGLU:
        finish_staged<T, MED_CUDA_SWIGLU>(a, plan, tile, m_begin, m_end, staged);
        break;
    default:
        finish_staged<T, MED_CUDA_LOGITS>(a, plan, tile, m_begin, m_end, staged);
        break;
    }
}

/* A multiplier thread's sums: for each 8 rows of the batch, rows 2 (lane % 4) and the next, of pair
 * lane / 4 of its warp: (u, u next, v, v next). */
template <typename T, int N>
static __device__ __forceinline__ void finish_tile(const struct med_cuda_linear_args &a,
                                                   const struct plan &plan, int tile,
                                                   const float *sums, float2 *staged)
{
    const int lane = threadIdx.x % 32, pair = threadIdx.x / 32 * 8 + lane / 4;
# pragma unroll
    for (int begin = 0; begin < N; begin += STAGED_ROWS) {
        if (begin < plan.rows) {
            multipliers_meet();
# pragma unroll
            for (int m = 0; m < STAGED_ROWS && begin + m < N; m += 8) {
                const float *four = sums + (begin + m) / 2;
                float2 *to = staged + (m + lane % 4 * 2) * STAGED_STRIDE + pair;
                to[0] = make_float2(four[0], four[2]);
                to[STAGED_STRIDE] = make_float2(four[1], four[3]);
            }
            multipliers_meet();
            finish_rows<T>(a, plan, tile, begin, min(begin + STAGED_ROWS, plan.rows), staged);
        }
    }
}

/* Leaves the sums of this block's part of a tile in scratch. If all other parts are there, returns true and
 * the sums of all of them, added in the order of the columns. */
template <int N>
static __device__ __forceinline__ bool join_parts(int64_t units, int k_blocks, int tile,
                                                  float *sums, float *partials, int *counters,
                                                  int *flag)
{
    const int first = block_of(units, (int64_t)tile * k_blocks);
    const int last = block_of(units, (int64_t)(tile + 1) * k_blocks - 1);
    const size_t part = (size_t)TILE * N;
    const int slot = unit_begin(units, blockIdx.x) / k_blocks == tile ? 0 : 1;
    float4 *own = (float4 *)(partials + ((size_t)blockIdx.x * 2 + slot) * part) + threadIdx.x;
# pragma unroll
    for (int i = 0; i < N / 8; i++)
        __stcg(own + i * MULTIPLIERS,
               make_float4(sums[i * 4], sums[i * 4 + 1], sums[i * 4 + 2], sums[i * 4 + 3]));
    __threadfence();
    multipliers_meet();
    if (threadIdx.x == 0) {
        const int before = atomicAdd(counters + tile, 1);
        if (before == last - first)
            counters[tile] = 0;
        *flag = before == last - first;
    }
    multipliers_meet();
    if (!*flag)
        return false;
    __threadfence();
# pragma unroll
    for (int i = 0; i < N / 2; i++)
        sums[i] = 0;
# pragma unroll 1
    for (int block = first; block <= last; block++) {
        const int place = unit_begin(units, block) / k_blocks == tile ? 0 : 1;
        const float4 *from =
            (const float4 *)(partials + ((size_t)block * 2 + place) * part) + threadIdx.x;
# pragma unroll
        for (int i = 0; i < N / 8; i++) {
            const float4 four = __ldcg(from + i * MULTIPLIERS);
            sums[i * 4] += four.x;
            sums[i * 4 + 1] += four.y;
            sums[i * 4 + 2] += four.z;
            sums[i * 4 + 3] += four.w;
        }
    }
    return true;
}

/* ---- the two roles ------------------------------------------------------------------------------------------ */

static __device__ __forceinline__ void copy_unit_weights(const struct plan &plan, int epilogue,
                                                         const CUtensorMap *map, int tile,
                                                         int k_block, uint32_t to, uint32_t barrier,
                                                         uint64_t policy)
{
# pragma unroll 1
    for (int box = 0; box < plan.boxes; box++) {
        int group = tile * (PAIRS / 8) + box, row = 0, head = 0;
        if (epilogue == MED_CUDA_ROPE_KV) {
            head = group / plan.groups_per_head;
            group %= plan.groups_per_head;
        } else if (epilogue != MED_CUDA_SWIGLU) {
            row = group * 16;
            group = 0;
        }
        copy_weights(to + (uint32_t)box * (16 * DEPTH * 2), map, barrier, policy, k_block * DEPTH,
                     row, group, head);
    }
}

/* One thread. */
template <int N>
static __device__ __forceinline__ void
copy_units(const struct med_cuda_linear_args &a, const struct plan &plan,
           const CUtensorMap *weight_map, const CUtensorMap *in_map, int begin, int end,
           uint32_t ring, uint32_t full, uint32_t empty)
{
    enum {
        STAGES = stages(N),
        BYTES = stage_bytes(N)
    };
    const uint64_t first = policy_first(), last = policy_last();
    const int ahead = min(end - begin, (int)STAGES);
    for (int i = 0; i < ahead; i++) {
        const int unit = begin + i;
        barrier_expect(full + i * 8, BYTES);
        copy_unit_weights(plan, a.epilogue, weight_map, unit / plan.k_blocks, unit % plan.k_blocks,
                          ring + i * BYTES, full + i * 8, first);
    }
    med_grid_wait();
    for (int i = 0; i < ahead; i++)
        copy_rows(ring + i * BYTES + WEIGHT_BYTES, in_map, full + i * 8, last,
                  (begin + i) % plan.k_blocks * DEPTH);
    int stage = 0, tile = (begin + ahead) / plan.k_blocks, k = (begin + ahead) % plan.k_blocks;
    uint32_t parity = 0;
    for (int unit = begin + ahead; unit < end; unit++) {
        barrier_wait(empty + stage * 8, parity);
        barrier_expect(full + stage * 8, BYTES);
        copy_unit_weights(plan, a.epilogue, weight_map, tile, k, ring + stage * BYTES,
                          full + stage * 8, first);
        copy_rows(ring + stage * BYTES + WEIGHT_BYTES, in_map, full + stage * 8, last, k * DEPTH);
        if (++k == plan.k_blocks) {
            k = 0;
            tile++;
        }
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
}

template <typename T, int N>
static __device__ __forceinline__ void
multiply_units(const struct med_cuda_linear_args &a, const struct plan &plan, int begin, int end,
               uint32_t ring, uint32_t full, uint32_t empty, float *partials, int *counters,
               float2 *staged, int *flag)
{
    enum {
        STAGES = stages(N),
        BYTES = stage_bytes(N),
        PART = N < 64 ? N : 64 /* rows of one instruction */
    };
    const int64_t units = (int64_t)plan.tiles * plan.k_blocks;
    const uint32_t group_offset = threadIdx.x / 128 * (WEIGHT_BYTES / GROUPS);
    int stage = 0;
    uint32_t parity = 0;
    med_grid_wait();
    for (int unit = begin; unit < end;) {
        const int tile = unit / plan.k_blocks;
        const int tile_end = min(end, (tile + 1) * plan.k_blocks);
        const bool whole = tile_end - unit == plan.k_blocks;
        float sums[N / 2];
        int adds = 0;
# pragma unroll
        for (int i = 0; i < N / 2; i++)
            sums[i] = 0;
# pragma unroll 1
        for (; unit < tile_end; unit++) {
            barrier_wait(full + stage * 8, parity);
            const uint64_t weights = matrix(ring + stage * BYTES + group_offset);
            const uint64_t rows = matrix(ring + stage * BYTES + WEIGHT_BYTES);
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
# pragma unroll
            for (int step = 0; step < DEPTH / 16; step++) {
# pragma unroll
                for (int part = 0; part < N / PART; part++)
                    multiply_typed<PART, is_bf16<T>::value>(
                        sums + part * (PART / 2), weights + step * 2,
                        rows + step * 2 + part * (PART * DEPTH * 2 / 16), adds);
                adds = 1;
            }
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
            if (threadIdx.x % 32 == 0)
                barrier_arrive(empty + stage * 8);
            if (++stage == STAGES) {
                stage = 0;
                parity ^= 1;
            }
        }
        if (whole || join_parts<N>(units, plan.k_blocks, tile, sums, partials, counters, flag))
            finish_tile<T, N>(a, plan, tile, sums, staged);
    }
}

#endif

/* ---- the kernel ------------------------------------------------------------------------------------------------ */

/*
 * out = epilogue(in W' + bias), see linear.h: in [rows][columns], W [outputs][columns] of T (bf16, f16), both
 * through maps of the copy engine, 16-byte aligned, columns a multiple of 8.  N: the rows that are
 * multiplied, >= plan.rows.  float32 sums: along the columns within a block's part of a tile, then over
 * the parts.  grid: one block per multiprocessor; a block: 8 warps that multiply, one that copies.
 */
template <typename T, int N>
static __global__ void __launch_bounds__(THREADS, MED_SKINNY_BLOCKS)
    skinny_kernel(const __grid_constant__ struct med_cuda_linear_args a,
                  const __grid_constant__ CUtensorMap weight_map,
                  const __grid_constant__ CUtensorMap in_map,
                  const __grid_constant__ struct plan plan, float *partials, int *counters)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ __align__(1024) unsigned char shared[];
    const uint32_t full = shared_address(shared), empty = full + 256, ring = full + HEAD_BYTES;
    int *flag = (int *)(shared + 512);
    float2 *staged = (float2 *)(shared + HEAD_BYTES + stages(N) * stage_bytes(N));
    const int64_t units = (int64_t)plan.tiles * plan.k_blocks;
    const int begin = unit_begin(units, blockIdx.x), end = unit_begin(units, blockIdx.x + 1);
    med_grid_go();
    if (threadIdx.x == MULTIPLIERS) {
        for (int i = 0; i < stages(N); i++) {
            barrier_init(full + i * 8, 1);
            barrier_init(empty + i * 8, MULTIPLIERS / 32);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    if (threadIdx.x == MULTIPLIERS) {
        copy_units<N>(a, plan, &weight_map, &in_map, begin, end, ring, full, empty);
    } else if (threadIdx.x < MULTIPLIERS) {
        multiply_units<T, N>(a, plan, begin, end, ring, full, empty, partials, counters, staged,
                             flag);
    } else {
        med_grid_wait();
    }
#endif
}

/* ---- host -------------------------------------------------------------------------------------------------------- */

static int rows_padded(int64_t rows)
{
    int n = 8;
    while (n < rows && n < ROWS_MAX)
        n *= 2;
    return n;
}

static size_t partials_bytes(int rows)
{
    return (size_t)GRID_MAX * 2 * TILE * (size_t)rows * sizeof(float);
}

size_t med_cuda_skinny_bytes(const struct med_ops_sizes *sizes)
{
    return partials_bytes(rows_padded(sizes->rows_max)) + TILES_MAX * sizeof(int);
}

template <typename T, int N> static cudaError_t shared_raise(void)
{
    return cudaFuncSetAttribute(skinny_kernel<T, N>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                MED_SKINNY_BLOCK_BYTES);
}

template <typename T> static cudaError_t shared_raise_all(void)
{
    cudaError_t status = shared_raise<T, 8>();
    if (status == cudaSuccess)
        status = shared_raise<T, 16>();
    if (status == cudaSuccess)
        status = shared_raise<T, 32>();
    if (status == cudaSuccess)
        status = shared_raise<T, 64>();
    return status == cudaSuccess ? shared_raise<T, 128>() : status;
}

int med_cuda_skinny_new(struct med_cuda *d)
{
    if (d->skinny || d->compute != 90)
        return 0;
    void *encode = NULL;
    cudaDriverEntryPointQueryResult found;
    MED_CUDA_OP_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000,
                                                     cudaEnableDefault, &found),
                    d);
    if (found != cudaDriverEntryPointSuccess)
        return 0; /* an old driver: not taken */
    MED_CUDA_OP_TRY(shared_raise_all<__nv_bfloat16>(), d);
    MED_CUDA_OP_TRY(shared_raise_all<__half>(), d);
    struct med_cuda_skinny *s = (struct med_cuda_skinny *)med_calloc(1, sizeof *s);
    if (!s)
        return MED_E_NOMEM;
    void *partials = NULL, *counters = NULL;
    s->rows = rows_padded(d->sizes.rows_max);
    int rc = med_cuda_alloc(d, partials_bytes(s->rows), &partials);
    if (rc == 0)
        rc = med_cuda_alloc(d, TILES_MAX * sizeof(int), &counters);
    s->partials = (float *)partials;
    s->counters = (int *)counters;
    s->encode = (PFN_cuTensorMapEncodeTiled_v12000)encode;
    d->skinny = s;
    if (rc < 0)
        med_cuda_skinny_free(d);
    return rc;
}

void med_cuda_skinny_free(struct med_cuda *d)
{
    struct med_cuda_skinny *s = d->skinny;
    if (!s)
        return;
    d->skinny = NULL;
    med_cuda_release(d, s->partials);
    med_cuda_release(d, s->counters);
    med_free(s);
}

bool med_cuda_skinny_takes(const struct med_cuda *d, const struct med_cuda_linear_args *a)
{
    if (!d->skinny || (a->dtype != MED_DTYPE_BF16 && a->dtype != MED_DTYPE_F16))
        return false;
    if (a->norm || a->in_rows || a->q_norm || a->columns % 8 != 0 || a->columns < 8)
        return false;
    if ((uintptr_t)a->in % 16 != 0 || (uintptr_t)a->weight % 16 != 0)
        return false;
    if (a->epilogue == MED_CUDA_ROPE_KV && a->head_dim % 16 != 0)
        return false;
    if (a->epilogue == MED_CUDA_SWIGLU && a->outputs % 16 != 0)
        return false;
    return a->outputs > 0 && a->outputs <= (int64_t)TILES_MAX * TILE && a->columns < 1 << 24;
}

/* in, as the copy engine sees it: boxes of all rows by 64 columns. Zeros are read beyond the rows. */
static int in_map_make(struct med_cuda *d, const struct med_cuda_linear_args *a, int n,
                       CUtensorMap *ret_map)
{
    const cuuint64_t sizes[2] = {(cuuint64_t)a->columns, (cuuint64_t)a->rows};
    const cuuint64_t strides[1] = {(cuuint64_t)a->columns * 2};
    const cuuint32_t box[2] = {DEPTH, (cuuint32_t)n}, steps[2] = {1, 1};
    CUresult status =
        d->skinny->encode(ret_map,
                          a->dtype == MED_DTYPE_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                     : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                          2, (void *)a->in, sizes, strides, box, steps,
                          CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                          CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return status == CUDA_SUCCESS
               ? 0
               : med_cuda_fail(d, __FILE__, __LINE__, "cuTensorMapEncodeTiled", "of the rows");
}

/* W, likewise, as [head][group of 8 pairs][first, second of a pair][8][columns], so that one box brings the
 * rows of pairs to where the multiplication wants them: 8 first ones, then the 8 that belong to them.
 * Without pairs that lie apart: [1][1][1][outputs][columns].  Sets boxes and groups_per_head. */
static int weight_map_make(struct med_cuda *d, const struct med_cuda_linear_args *a,
                           struct plan *plan, CUtensorMap *ret_map)
{
    const cuuint64_t row = (cuuint64_t)a->columns * 2, outputs = (cuuint64_t)a->outputs;
    cuuint64_t sizes[5] = {(cuuint64_t)a->columns, outputs, 1, 1, 1};
    cuuint64_t strides[4] = {row, row, row, row};
    cuuint32_t box[5] = {DEPTH, TILE, 1, 1, 1}, steps[5] = {1, 1, 1, 1, 1};
    plan->boxes = 1;
    plan->groups_per_head = 1;
    if (a->epilogue == MED_CUDA_SWIGLU || a->epilogue == MED_CUDA_ROPE_KV) {
        const bool ropes = a->epilogue == MED_CUDA_ROPE_KV;
        const cuuint64_t apart = (cuuint64_t)(ropes ? a->head_dim / 2 : a->outputs / 2);
        const int groups = (int)(apart / 8), tile_groups = PAIRS / 8;
        sizes[1] = 8;
        sizes[2] = 2;
        sizes[3] = (cuuint64_t)groups;
        sizes[4] = ropes ? outputs / (cuuint64_t)a->head_dim : 1;
        strides[1] = apart * row;
        strides[2] = 8 * row;
        strides[3] = ropes ? (cuuint64_t)a->head_dim * row : row;
        box[1] = 8;
        box[2] = 2;
        box[3] = (cuuint32_t)tile_groups;
        if (ropes && groups % tile_groups != 0) {
            const bool fits = tile_groups % groups == 0; /* several heads are a tile */
            box[3] = fits ? (cuuint32_t)groups : 1;
            box[4] = fits ? (cuuint32_t)(tile_groups / groups) : 1;
            plan->boxes = fits ? 1 : tile_groups;
        }
        plan->groups_per_head = groups;
    }
    CUresult status =
        d->skinny->encode(ret_map,
                          a->dtype == MED_DTYPE_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                     : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                          5, (void *)a->weight, sizes, strides, box, steps,
                          CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                          CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return status == CUDA_SUCCESS
               ? 0
               : med_cuda_fail(d, __FILE__, __LINE__, "cuTensorMapEncodeTiled", "of the weights");
}

template <typename T, int N>
static int launch(struct med_cuda *d, const struct med_cuda_linear_args *a)
{
    CUtensorMap weight_map, in_map;
    struct plan plan = {};
    plan.rows = (int)a->rows;
    plan.k_blocks = (int)((a->columns + DEPTH - 1) / DEPTH);
    plan.pairs = med_pair_count(*a, a->epilogue);
    plan.tiles = (int)((plan.pairs + PAIRS - 1) / PAIRS);
    int rc = weight_map_make(d, a, &plan, &weight_map);
    if (rc == 0)
        rc = in_map_make(d, a, N, &in_map);
    if (rc < 0)
        return rc;
    int64_t blocks = d->facts.multiprocessors, units = (int64_t)plan.tiles * plan.k_blocks;
    blocks = blocks < GRID_MAX ? blocks : (int64_t)GRID_MAX;
    blocks = blocks < units ? blocks : units;
    const size_t bytes = HEAD_BYTES + STAGED_BYTES + (size_t)stages(N) * stage_bytes(N);
    return med_launch_on(d, {dim3((unsigned)blocks), dim3(THREADS), bytes}, skinny_kernel<T, N>, *a,
                         weight_map, in_map, plan, d->skinny->partials, d->skinny->counters);
}

template <typename T>
static int launch_rows(struct med_cuda *d, const struct med_cuda_linear_args *a)
{
    switch (rows_padded(a->rows)) {
    case 8:
        return launch<T, 8>(d, a);
    case 16:
        return launch<T, 16>(d, a);
    case 32:
        return launch<T, 32>(d, a);
    case 64:
        return launch<T, 64>(d, a);
    default:
        return launch<T, 128>(d, a);
    }
}

/* Elements of a row of out. */
static int64_t out_columns(const struct med_cuda_linear_args *a)
{
    if (a->epilogue == MED_CUDA_ROPE_KV)
        return a->heads * a->head_dim;
    return a->epilogue == MED_CUDA_SWIGLU ? a->outputs / 2 : a->outputs;
}

int med_cuda_skinny(struct med_cuda *d, const struct med_cuda_linear_args *a)
{
    const size_t out_bytes =
        (size_t)out_columns(a) * (a->epilogue == MED_CUDA_LOGITS ? sizeof(float) : 2);
    int rc = 0;
    for (int64_t row = 0; rc == 0 && row < a->rows; row += d->skinny->rows) {
        struct med_cuda_linear_args turn = *a;
        turn.rows = a->rows - row < d->skinny->rows ? a->rows - row : d->skinny->rows;
        turn.in = (const char *)a->in + (size_t)row * (size_t)a->columns * 2;
        turn.out = (char *)a->out + (size_t)row * out_bytes;
        turn.positions = a->positions ? a->positions + row : NULL;
        turn.slots = a->slots ? a->slots + row : NULL;
        rc = a->dtype == MED_DTYPE_BF16 ? launch_rows<__nv_bfloat16>(d, &turn)
                                        : launch_rows<__half>(d, &turn);
    }
    return rc;
}
