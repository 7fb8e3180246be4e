/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernels of sampling (sample.c queues them; the rules are worker/engine/sampling.h's).
 *
 * A row is shared by several blocks; the one that comes last (a counter in memory) goes on with what
 * all have found, so nothing waits.  In order:
 *   edit      a block per row that has edits: biases, masks, penalties; keeps what it overwrites;
 *   best      the largest logit: the draw of a greedy row;
 *   weigh     weights of all ids, summed by bins of distance from the largest; without top_k and top_p
 *             the last block draws: it finds the part of the row, then the id in it;
 *   gather    the ids of the bins that decide, few as a rule, are listed, and the last block finds
 *             borders and draws from the list; weights above top_p's border are summed by part;
 *   restore   puts back what edit overwrote, where logprobs are wanted;
 *   logprobs  sums, rank and likeliest of the raw logits.
 * All sums that decide are of integers: the order of blocks and the number of parts change nothing.
 *
 * Nothing is sorted.
 * thread: engine.
 */
#include "worker/cuda/sample_job.h"

#include "worker/cuda/sample.cuh"

/* ---- edits ----------------------------------------------------------------------------------- */

static __device__ __forceinline__ float clamp_finite(float value)
{
    return value > FLT_MAX ? FLT_MAX : value < -FLT_MAX ? -FLT_MAX : value;
}

static __device__ float biased(const struct med_cuda_edit *edits, const struct med_cuda_edit &first,
                               float l)
{
    if (!(first.bits & MED_CUDA_EDIT_BIAS) || l == -INFINITY)
        return l;
    l = clamp_finite(__fadd_rn(l, first.bias));
    for (uint32_t next = first.next; next > 0; next = edits[next].next)
        l = clamp_finite(__fadd_rn(l, edits[next].bias));
    return l;
}

static __device__ __forceinline__ float penalized(const struct med_cuda_row &row, uint32_t bits,
                                                  float l)
{
    if (!(bits & MED_CUDA_EDIT_PENALTY) || l == -INFINITY)
        return l;
    const uint32_t count = bits & MED_CUDA_EDIT_COUNT;
    l = l > 0 ? __fdiv_rn(l, row.repetition) : __fmul_rn(l, row.repetition);
    l = __fsub_rn(l, __fmul_rn(row.frequency, (float)count));
    l = __fsub_rn(l, count > 0 ? row.presence : 0);
    return clamp_finite(l);
}

/*
 * l[id] = penalized(masked(l[id] + biases)); a mask that leaves nothing does not hold.
 * grid: a block per row; block: THREADS, an edit per thread and turn.
 */
static __global__ void __launch_bounds__(THREADS)
    edit_kernel(const __grid_constant__ struct med_cuda_sample_job j)
{
    med_grid_go();
    med_grid_wait();
    const int r = blockIdx.x;
    const struct med_cuda_row row = j.row[r];
    if (row.edit_count == 0)
        return;
    const struct med_cuda_edit *edits = j.edits + row.edit_begin;
    float *raws = j.raws + row.edit_begin;
    float *logits = j.logits + (size_t)r * j.vocab;
    bool broken = false;
    for (uint32_t i = threadIdx.x; i < row.edit_count; i += THREADS) {
        const struct med_cuda_edit edit = edits[i];
        if (edit.bits == 0)
            continue;
        const float raw = logits[edit.id];
        raws[i] = raw;
        broken |= !(raw <= FLT_MAX);
        logits[edit.id] = edit.bits & MED_CUDA_EDIT_MASK
                              ? -INFINITY
                              : penalized(row, edit.bits, biased(edits, edit, raw));
    }
    broken = __syncthreads_or(broken);
    if (threadIdx.x == 0)
        j.states[r].is_broken = broken;
    if (!(row.flags & MED_CUDA_ROW_MASKS))
        return;
    for (int begin = 0; begin < j.vocab; begin += THREADS) {
        const int i = begin + (int)threadIdx.x;
        if (__syncthreads_or(i < j.vocab && logits[i] != -INFINITY))
            return;
    }
    for (uint32_t i = threadIdx.x; i < row.edit_count; i += THREADS) {
        const struct med_cuda_edit edit = edits[i];
        if (edit.bits & MED_CUDA_EDIT_MASK)
            logits[edit.id] = penalized(row, edit.bits, biased(edits, edit, raws[i]));
    }
}

/* l[id] = what it was before edit_kernel, in rows with logprobs. Launched as that one. */
static __global__ void __launch_bounds__(THREADS)
    restore_kernel(const __grid_constant__ struct med_cuda_sample_job j)
{
    med_grid_go();
    med_grid_wait();
    const int r = blockIdx.x;
    const uint32_t begin = j.row[r].edit_begin, count = j.row[r].edit_count;
    if (j.row[r].top_logprobs < 0)
        return;
    for (uint32_t i = threadIdx.x; i < count; i += THREADS) {
        if (j.edits[begin + i].bits != 0)
            j.logits[(size_t)r * j.vocab + j.edits[begin + i].id] = j.raws[begin + i];
    }
}

/* ---- the largest ------------------------------------------------------------------------------- */

/*
 * best = (largest logit, smallest id); greedy rows are drawn, rows without a finite number fail.
 * grid: (parts, rows), so that even one row keeps many multiprocessors busy; block: THREADS.
 */
static __global__ void __launch_bounds__(THREADS)
    best_kernel(const __grid_constant__ struct med_cuda_sample_job j)
{
    __shared__ struct {
        uint64_t warps[WARPS];
    } s;
    med_grid_go();
    med_grid_wait();
    const int r = blockIdx.y;
    const float *logits = j.logits + (size_t)r * j.vocab;
    struct med_cuda_sample_state &state = j.states[r];
    const int begin = blockIdx.x * j.part, end = min(begin + j.part, j.vocab);
    uint32_t key = 0, id = 0;
    bool broken = false;
#pragma unroll 8
    for (int i = begin + (int)threadIdx.x; i < end; i += THREADS) {
        const float l = __ldcg(logits + i);
        const uint32_t k = order_key(l);
        broken |= !(l <= FLT_MAX);
        id = k > key ? (uint32_t)i : id;
        key = k > key ? k : key;
    }
    uint64_t best = broken ? UINT64_MAX : key > 0 ? (uint64_t)key << 32 | (uint32_t)~id : 0;
#pragma unroll
    for (int d = 16; d > 0; d /= 2) {
        const uint64_t other = __shfl_xor_sync(0xFFFFFFFFu, best, d);
        best = other > best ? other : best;
    }
    if (threadIdx.x % 32 == 0)
        s.warps[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    for (int w = 1; w < WARPS; w++)
        best = s.warps[w] > best ? s.warps[w] : best;
    if (j.parts > 1) {
        atomicMax((unsigned long long *)&state.best, (unsigned long long)best);
        __threadfence();
        if (atomicAdd(&state.arrived, 1u) != (uint32_t)j.parts - 1)
            return;
        __threadfence();
        best = atomicExch((unsigned long long *)&state.best, 0ull);
        state.arrived = 0;
    }
    const uint32_t largest = (uint32_t)(best >> 32);
    broken = best == UINT64_MAX || largest <= order_key(-INFINITY) ||
             (j.row && j.row[r].edit_count > 0 && state.is_broken);
    if (broken) {
        publish(j, r, 0, MED_CUDA_SAMPLE_NOTHING, MODE_FAILED);
    } else if (!j.row || j.row[r].flags & MED_CUDA_ROW_GREEDY) {
        publish(j, r, ~(uint32_t)best, MED_CUDA_SAMPLE_DRAWN, MODE_DONE);
    } else {
        state.largest = largest;
        state.mode = MODE_PENDING;
    }
}

/* ---- borders ------------------------------------------------------------------------------------ */

/* Ids to look at: of a list, or all of the row. */
struct source {
    const float *logits;
    const uint32_t *list; /* NULL: ids 0 .. count */
    int count;
    int ids; /* all are below this */
};

/* Which of them: keys low .. high, and of key low only ids up to tie_id. */
struct filter {
    uint32_t low, high, tie_id;
};

static __device__ __forceinline__ bool passes(const struct filter &f, uint32_t key, uint32_t id)
{
    return key >= f.low && key <= f.high && (key > f.low || id <= f.tie_id);
}

/* The first of the bins, from `top` down, up to which the sums reach `need`: s.found, and the sum before
 * it: s.found_above.  The bins hold `need` at least. */
static __device__ void bins_find(struct shared_bins &s, int top, uint64_t need)
{
    enum {
        EACH = BINS / THREADS
    };
    uint64_t own = 0, all;
    const int first = top - (int)threadIdx.x * EACH;
    for (int i = 0; i < EACH; i++)
        own += first - i >= 0 ? bins_get(s, first - i) : 0;
    uint64_t above = block_before(s, own, &all);
    if (above < need && above + own >= need) {
        int bin = first;
        while (above + bins_get(s, bin) < need)
            above += bins_get(s, bin--);
        s.found = bin;
        s.found_above = above;
    }
    __syncthreads();
}

/* sampler.c's find_border: the largest K such that the amounts of ids with a key of at least K sum to
 * `need`.  BY_ID: keys are the ids' complements, so that it is the smallest such id's.  WEIGHTS: amounts
 * are weights, not 1.  By the whole block. */
template <bool BY_ID, bool WEIGHTS>
static __device__ uint32_t find_border(struct shared_bins &s, const struct source &from,
                                       const struct scale &scale, const struct filter &f,
                                       uint64_t need, uint64_t *ret_above)
{
    /* Complements of ids below 2^21 differ in their lower 21 bits alone. */
    const bool is_short = BY_ID && from.ids <= 1 << 21;
    uint32_t prefix = is_short ? 0x7FF : 0;
    uint64_t above = 0;
    for (int step = is_short ? 1 : 0; step < 3; step++) {
        const int shift = step == 0 ? 21 : step == 1 ? 10 : 0, bits = step == 2 ? 10 : 11;
        const uint32_t low = (1u << bits) - 1;
        bins_clear(s);
        for (int i = threadIdx.x; i < from.count; i += THREADS) {
            const uint32_t id = from.list ? __ldcg(from.list + i) : (uint32_t)i;
            const float l = from.logits[id];
            const uint32_t order = order_key(l), key = (BY_ID ? ~id : order) >> shift;
            if (!passes(f, order, id) || (step > 0 && key >> bits != prefix))
                continue;
            bins_add(s, key & low, WEIGHTS ? weight_of(scale, l) : 1);
        }
        __syncthreads();
        bins_find(s, (int)low, need - above);
        prefix = prefix << bits | s.found;
        above += s.found_above;
        __syncthreads();
    }
    *ret_above = above;
    return prefix;
}

/* The sum of the weights that pass. */
static __device__ uint64_t weights_sum(struct shared_bins &s, const struct source &from,
                                       const struct scale &scale, const struct filter &f)
{
    uint64_t sum = 0, all;
    for (int i = threadIdx.x; i < from.count; i += THREADS) {
        const uint32_t id = from.list ? __ldcg(from.list + i) : (uint32_t)i;
        const float l = from.logits[id];
        sum += passes(f, order_key(l), id) ? weight_of(scale, l) : 0;
    }
    (void)block_before(s, sum, &all);
    return all;
}

/* top_p's part of a sum, rounded up. */
static __device__ __forceinline__ uint64_t part_of(uint64_t top_p, uint64_t sum)
{
    const uint64_t need = __umul64hi(top_p, sum);
    return need + (top_p * sum > 0 || need == 0);
}

/* Narrows f to top_p's set: of `from`, what sums to `need` with the `above` that is before all of it.
 * Returns the sum of what is kept, `above` and all. */
static __device__ uint64_t keep_top_p(struct shared_bins &s, const struct source &from,
                                      const struct scale &scale, struct filter &f, uint64_t need,
                                      uint64_t above)
{
    uint64_t before;
    const uint32_t border = find_border<false, true>(s, from, scale, f, need - above, &before);
    above += before;
    const uint64_t weight = weight_of(scale, key_value(border));
    const uint64_t ties = (need - above + weight - 1) / weight;
    const struct filter at_border = {border, border, UINT32_MAX};
    uint64_t own = 0, all;
    for (int i = threadIdx.x; i < from.count; i += THREADS)
        own += order_key(from.logits[from.list ? __ldcg(from.list + i) : (uint32_t)i]) == border;
    (void)block_before(s, own, &all);
    f.low = border;
    if (ties < all)
        f.tie_id = ~find_border<true, false>(s, from, scale, at_border, ties, &before);
    return above + ties * weight;
}

/* ---- draws ------------------------------------------------------------------------------------- */

/* The id in the part that `target` falls on, of the part's ids that pass. */
static __device__ void walk_part(struct shared_bins &s, const struct med_cuda_sample_job &j, int r,
                                 int part, const struct scale &scale, const struct filter &f,
                                 uint64_t target)
{
    const float *logits = j.logits + (size_t)r * j.vocab;
    const int each = (j.part + THREADS - 1) / THREADS;
    const int end_part = min((part + 1) * j.part, j.vocab);
    const int begin = min(part * j.part + (int)threadIdx.x * each, end_part);
    const int end = min(begin + each, end_part);
    uint64_t own = 0, all;
#pragma unroll 4
    for (int i = begin; i < end; i++)
        own += passes(f, order_key(logits[i]), i) ? weight_of(scale, logits[i]) : 0;
    uint64_t before = block_before(s, own, &all);
    if (target < before || target - before >= own)
        return;
    target -= before;
    for (int i = begin; i < end; i++) {
        const uint64_t weight =
            passes(f, order_key(logits[i]), i) ? weight_of(scale, logits[i]) : 0;
        if (target < weight) {
            publish(j, r, i, MED_CUDA_SAMPLE_DRAWN, MODE_DONE);
            return;
        }
        target -= weight;
    }
}

/* Draws by the sums of the row's parts, plus those in the bins of s where `adds`. */
static __device__ void draw_by_parts(struct shared_bins &s, const struct med_cuda_sample_job &j,
                                     int r, const struct scale &scale, const struct filter &f,
                                     uint64_t sum, bool adds)
{
    uint64_t target = __umul64hi(j.row[r].random, sum), all, own = 0;
    const int part = threadIdx.x;
    if (part < j.parts) {
        own = __ldcg(j.part_sums + (size_t)r * PARTS_MAX + part);
        own += adds ? bins_get(s, part) : 0;
    }
    const uint64_t before = block_before(s, own, &all);
    if (target >= before && target - before < own) {
        s.found = part;
        s.found_above = before;
    }
    __syncthreads();
    walk_part(s, j, r, (int)s.found, scale, f, target - s.found_above);
}

/* Draws from a list or a row that holds all that can be drawn. sum: of all weights of the row. */
static __device__ void draw_from(struct shared_bins &s, const struct med_cuda_sample_job &j, int r,
                                 const struct source &from, const struct scale &scale, uint64_t sum)
{
    const struct med_cuda_row row = j.row[r];
    struct filter f = {0, UINT32_MAX, UINT32_MAX};
    uint64_t unused;
    if (row.top_k > 0 && (int64_t)row.top_k < from.count) {
        f.low = find_border<false, false>(s, from, scale, f, row.top_k, &unused);
        sum = weights_sum(s, from, scale, f);
    } else if (row.top_k > 0 && (int64_t)row.top_k == from.count) {
        sum = weights_sum(s, from, scale, f); /* the list is the k likeliest */
    }                                         /* a shorter list is without what has no weight */
    if (row.flags & MED_CUDA_ROW_TOP_P)
        sum = keep_top_p(s, from, scale, f, part_of(row.top_p, sum), 0);
    const uint64_t target = __umul64hi(row.random, sum);
    const uint32_t id = ~find_border<true, true>(s, from, scale, f, target + 1, &unused);
    if (threadIdx.x == 0)
        publish(j, r, id, MED_CUDA_SAMPLE_DRAWN, MODE_DONE);
}

/* The last block of a row with top_k or top_p, all bins being there: says in the row's state how its
 * borders are found.  Returns whether there are none. */
static __device__ bool choose_mode(struct shared_bins &s, const struct med_cuda_sample_job &j,
                                   int r, uint64_t sum)
{
    const struct med_cuda_row row = j.row[r];
    struct med_cuda_sample_state &state = j.states[r];
    unsigned long long *weights = j.weights + (size_t)r * BINS;
    uint32_t *counts = j.counts + (size_t)r * BINS;
    /* bins_find goes down from the last bin. */
    for (int i = threadIdx.x; i < BINS; i += THREADS) {
        s.low[BINS - 1 - i] = __ldcg(counts + i);
        s.high[BINS - 1 - i] = 0;
    }
    __syncthreads();
    uint32_t bin = BINS - 1;
    if (row.top_k > 0) {
        bins_find(s, BINS - 1, row.top_k);
        bin = BINS - 1 - s.found;
    }
    const bool by_count = bin < BINS - 1; /* otherwise top_k keeps all that has weight */
    uint64_t need = 0, above = 0, nearer = 0, before = 0;
    if (!by_count && row.flags & MED_CUDA_ROW_TOP_P) {
        need = part_of(row.top_p, sum);
        __syncthreads();
        for (int i = threadIdx.x; i < BINS; i += THREADS) {
            const uint64_t weight = __ldcg(weights + i);
            s.low[BINS - 1 - i] = (uint32_t)weight;
            s.high[BINS - 1 - i] = (uint32_t)(weight >> 32);
        }
        __syncthreads();
        bins_find(s, BINS - 1, need);
        bin = BINS - 1 - s.found;
        above = s.found_above;
    }
    for (int i = threadIdx.x; i < BINS; i += THREADS)
        before += i < bin ? __ldcg(counts + i) : 0;
    (void)block_before(s, before, &nearer);
    const uint64_t own = __ldcg(counts + bin), listed = nearer + own;
    __syncthreads();
    for (int i = threadIdx.x; i < BINS; i += THREADS) {
        weights[i] = 0;
        counts[i] = 0;
    }
    if (!by_count && !(row.flags & MED_CUDA_ROW_TOP_P))
        return true;
    if (threadIdx.x == 0) {
        state.mode = listed <= LIST ? MODE_LIST : by_count || own > LIST ? MODE_WHOLE : MODE_BORDER;
        state.bin = bin;
        state.sum = sum;
        state.need = need;
        state.above = above;
    }
    return false;
}

/*
 * Weights of the row's ids, by bin where there is top_k or top_p, and by part.
 * grid: (parts, rows); block: THREADS. float64: about 34 operations per id.
 */
static __global__ void __launch_bounds__(THREADS)
    weigh_kernel(const __grid_constant__ struct med_cuda_sample_job j)
{
    __shared__ struct shared_bins s;
    __shared__ uint32_t counts[BINS];
    med_grid_go();
    med_grid_wait();
    const int r = blockIdx.y;
    struct med_cuda_sample_state &state = j.states[r];
    if (state.mode != MODE_PENDING)
        return;
    const struct med_cuda_row row = j.row[r];
    const struct scale scale = scale_of(j, row, state.largest);
    const float *logits = j.logits + (size_t)r * j.vocab;
    const bool borders = row.top_k > 0 || row.flags & MED_CUDA_ROW_TOP_P;
    const int begin = blockIdx.x * j.part, end = min(begin + j.part, j.vocab);
    uint64_t own = 0, sum;
    if (borders) {
        for (int i = threadIdx.x; i < BINS; i += THREADS)
            counts[i] = 0;
        bins_clear(s);
    }
#pragma unroll 4
    for (int i = begin + (int)threadIdx.x; i < end; i += THREADS) {
        const float l = __ldcg(logits + i);
        const uint64_t weight = weight_of(scale, l);
        own += weight;
        if (borders) {
            const uint32_t bin = bin_of(scale, l);
            bins_add(s, bin, weight);
            if (bin < BINS - 1)
                atomicAdd(&counts[bin], 1u);
        }
    }
    (void)block_before(s, own, &sum);
    if (threadIdx.x == 0) {
        j.part_sums[(size_t)r * PARTS_MAX + blockIdx.x] = sum;
        atomicAdd((unsigned long long *)&state.sum, (unsigned long long)sum);
    }
    if (borders) {
        uint64_t others;
        uint64_t near = 0;
        for (int i = threadIdx.x; i < BINS - 1; i += THREADS) {
            near += counts[i];
            if (counts[i] > 0)
                atomicAdd(j.counts + (size_t)r * BINS + i, counts[i]);
            if (bins_get(s, i) > 0)
                atomicAdd(j.weights + (size_t)r * BINS + i, (unsigned long long)bins_get(s, i));
        }
        (void)block_before(s, near, &others);
        if (threadIdx.x == 0)
            atomicAdd(j.counts + (size_t)r * BINS + BINS - 1,
                      (uint32_t)(max(end - begin, 0) - (int)others));
    }
    if (!is_last_block(state, j.parts))
        return;
    __syncthreads();
    sum = __ldcg((const unsigned long long *)&state.sum);
    __syncthreads();
    if (threadIdx.x == 0)
        state.sum = 0;
    if (borders && !choose_mode(s, j, r, sum))
        return;
    draw_by_parts(s, j, r, scale, {0, UINT32_MAX, UINT32_MAX}, sum, false);
}

/* Appends the ids of the wanted bins to the row's list; in MODE_BORDER sums what is above. */
static __device__ void gather_part(struct shared_bins &s, const struct med_cuda_sample_job &j,
                                   int r, const struct scale &scale, uint32_t mode, uint32_t bin)
{
    const float *logits = j.logits + (size_t)r * j.vocab;
    const int lane = threadIdx.x % 32;
    const int begin = blockIdx.x * j.part, end = min(begin + j.part, j.vocab);
    uint64_t own = 0, sum;
    for (int at = begin; at < end; at += THREADS) {
        const int i = at + (int)threadIdx.x;
        const float l = i < end ? __ldcg(logits + i) : -INFINITY;
        const uint32_t its = i < end ? bin_of(scale, l) : BINS;
        const bool listed = its == bin || (mode == MODE_LIST && its < bin);
        const uint32_t lanes = __ballot_sync(0xFFFFFFFFu, listed);
        uint32_t place = 0;
        if (lanes && lane == 0)
            place = atomicAdd(&j.states[r].list_count, (uint32_t)__popc(lanes));
        place = __shfl_sync(0xFFFFFFFFu, place, 0) + __popc(lanes & ((1u << lane) - 1));
        if (listed)
            j.lists[(size_t)r * LIST + place] = i;
        if (mode == MODE_BORDER && its < bin)
            own += weight_of(scale, l);
    }
    if (mode == MODE_BORDER) {
        (void)block_before(s, own, &sum);
        if (threadIdx.x == 0)
            j.part_sums[(size_t)r * PARTS_MAX + blockIdx.x] = sum;
    }
}

/*
 * Finds the borders of top_k and top_p and draws, as weigh_kernel chose. Launched as that one.
 */
static __global__ void __launch_bounds__(THREADS)
    gather_kernel(const __grid_constant__ struct med_cuda_sample_job j)
{
    __shared__ struct shared_bins s;
    med_grid_go();
    med_grid_wait();
    const int r = blockIdx.y;
    struct med_cuda_sample_state &state = j.states[r];
    const uint32_t mode = state.mode, bin = state.bin;
    if (mode != MODE_LIST && mode != MODE_BORDER && mode != MODE_WHOLE)
        return;
    const float *logits = j.logits + (size_t)r * j.vocab;
    const uint64_t sum = state.sum, need = state.need, above = state.above;
    const struct scale scale = scale_of(j, j.row[r], state.largest);
    if (mode != MODE_WHOLE)
        gather_part(s, j, r, scale, mode, bin);
    if (!is_last_block(state, j.parts))
        return;
    __syncthreads();
    const struct source list = {logits, j.lists + (size_t)r * LIST, (int)__ldcg(&state.list_count),
                                j.vocab};
    __syncthreads();
    if (threadIdx.x == 0) {
        state.list_count = 0;
        state.sum = 0;
    }
    if (mode == MODE_WHOLE) {
        draw_from(s, j, r, {logits, NULL, j.vocab, j.vocab}, scale, sum);
        return;
    }
    if (mode == MODE_LIST) {
        draw_from(s, j, r, list, scale, sum);
        return;
    }
    struct filter f = {0, UINT32_MAX, UINT32_MAX};
    const uint64_t kept = keep_top_p(s, list, scale, f, need, above);
    bins_clear(s);
    for (int i = threadIdx.x; i < list.count; i += THREADS) {
        const uint32_t id = __ldcg(list.list + i);
        if (passes(f, order_key(logits[id]), id))
            bins_add(s, id / j.part, weight_of(scale, logits[id]));
    }
    __syncthreads();
    draw_by_parts(s, j, r, scale, f, kept, true);
}

/* ---- logprobs ---------------------------------------------------------------------------------- */

/* A raw logit and its id in the order of ranks; 0: nothing. */
static __device__ __forceinline__ uint64_t ranked(float l, uint32_t id)
{
    return l == -INFINITY ? 0 : (uint64_t)order_key(l) << 32 | (uint32_t)~id;
}

/* The `wanted` largest of value(0 .. count), in order, to `to`; 0 behind the last.  Every thread keeps
 * the largest of its own that is not out yet. */
template <typename Value>
static __device__ void top_of(struct shared_bins &s, int count, int wanted, Value value,
                              unsigned long long *to)
{
    uint64_t last = UINT64_MAX, own = 0;
    bool looks = true;
    for (int n = 0; n < wanted; n++) {
        if (looks) {
            own = 0;
            for (int i = threadIdx.x; i < count; i += THREADS) {
                const uint64_t v = value(i);
                own = v < last && v > own ? v : own;
            }
        }
        const uint64_t best = block_max(s, own);
        looks = best > 0 && best == own;
        last = best;
        if (threadIdx.x == 0)
            to[n] = best;
        if (best == 0) {
            for (int i = n + 1; threadIdx.x == 0 && i < wanted; i++)
                to[i] = 0;
            return;
        }
    }
}

static __device__ __forceinline__ double block_sum(struct shared_bins &s, double value)
{
#pragma unroll
    for (int d = 16; d > 0; d /= 2)
        value += __shfl_xor_sync(0xFFFFFFFFu, value, d);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        s.warps[threadIdx.x / 32] = (uint64_t)__double_as_longlong(value);
    __syncthreads();
    value = 0;
    for (int w = 0; w < WARPS; w++)
        value += __longlong_as_double((long long)s.warps[w]);
    return value;
}

/*
 * Largest, sum of exp(l - largest), rank of the drawn id and the likeliest, of the raw logits.
 * grid: (parts, rows); block: THREADS. float32 terms, float64 sums: within 1e-6 of the CPU's.
 */
static __global__ void __launch_bounds__(THREADS)
    logprobs_kernel(const __grid_constant__ struct med_cuda_sample_job j)
{
    __shared__ struct shared_bins s;
    __shared__ unsigned long long top[MED_LIMIT_TOP_LOGPROBS];
    med_grid_go();
    med_grid_wait();
    const int r = blockIdx.y;
    struct med_cuda_sample_state &state = j.states[r];
    const int wanted = j.row[r].top_logprobs;
    if (wanted < 0 || state.mode == MODE_FAILED)
        return;
    const float *logits = j.logits + (size_t)r * j.vocab;
    const uint32_t id = j.ids[r];
    const int begin = blockIdx.x * j.part, end = min(begin + j.part, j.vocab);
    const float own = logits[id];
    const uint64_t own_ranked = (uint64_t)order_key(own) << 32 | (uint32_t)~id;
    float largest = -INFINITY;
    uint64_t before = 0;
    for (int i = begin + (int)threadIdx.x; i < end; i += THREADS) {
        const float l = logits[i];
        largest = fmaxf(largest, l);
        before += ((uint64_t)order_key(l) << 32 | (uint32_t)~i) > own_ranked;
    }
    const uint64_t best = block_max(s, order_key(largest));
    largest = key_value((uint32_t)best);
    double sum = 0;
    if (largest != -INFINITY) {
        for (int i = begin + (int)threadIdx.x; i < end; i += THREADS)
            sum += (double)expf(logits[i] - largest);
    }
    sum = block_sum(s, sum);
    (void)block_before(s, before, &before);
    unsigned long long *tops = j.tops + (size_t)r * PARTS_MAX * MED_LIMIT_TOP_LOGPROBS;
    struct med_cuda_sample_sum *sums = j.raw_sums + (size_t)r * PARTS_MAX;
    if (threadIdx.x == 0)
        sums[blockIdx.x] = {sum, largest, (uint32_t)before};
    top_of(
        s, max(end - begin, 0), wanted,
        [=](int i) { return ranked(logits[begin + i], (uint32_t)(begin + i)); },
        tops + (size_t)blockIdx.x * wanted);
    __syncthreads();
    if (!is_last_block(state, j.parts))
        return;
    __syncthreads();
    top_of(
        s, j.parts * wanted, wanted, [=](int i) { return (uint64_t)__ldcg(tops + i); }, top);
    const volatile struct med_cuda_sample_sum *its = sums + threadIdx.x;
    const bool is_part = (int)threadIdx.x < j.parts;
    const float part_largest = is_part ? its->largest : -INFINITY;
    largest = key_value((uint32_t)block_max(s, order_key(part_largest)));
    sum = is_part && part_largest != -INFINITY
              ? its->sum * exp((double)part_largest - (double)largest)
              : 0;
    sum = block_sum(s, sum);
    (void)block_before(s, is_part ? its->before : 0, &before);
    struct med_cuda_sample_result *result = j.results + r;
    if ((int)threadIdx.x < wanted) {
        const uint64_t v = top[threadIdx.x];
        result->top_ids[threadIdx.x] = ~(uint32_t)v;
        result->top_logits[threadIdx.x] = key_value((uint32_t)(v >> 32));
    }
    if (threadIdx.x == 0) {
        uint32_t count = 0;
        while ((int)count < wanted && top[count] > 0)
            count++;
        result->top_count = count;
        result->own = own;
        result->largest = largest;
        result->sum = sum;
        result->rank = (uint32_t)before + 1;
    }
}

/* ---- queueing ---- */

extern "C" int med_cuda_sample_queue(struct med_cuda *d, const struct med_cuda_sample_job *job,
                                     int64_t rows, const struct med_cuda_sample_wants *wants)
{
    const struct med_cuda_sample_job &j = *job;
    const struct med_cuda_sample_wants &w = *wants;
    const struct med_launch by_row = {dim3((unsigned)rows), dim3(THREADS), 0};
    const struct med_launch by_part = {dim3((unsigned)j.parts, (unsigned)rows), dim3(THREADS), 0};
    int rc = 0;
    if (w.edits)
        rc = med_launch_on(d, by_row, edit_kernel, j);
    if (rc == 0)
        rc = med_launch_on(d, by_part, best_kernel, j);
    if (rc == 0 && w.draws)
        rc = med_launch_on(d, by_part, weigh_kernel, j);
    if (rc == 0 && w.borders)
        rc = med_launch_on(d, by_part, gather_kernel, j);
    if (rc == 0 && w.restores)
        rc = med_launch_on(d, by_row, restore_kernel, j);
    if (rc == 0 && w.logprobs)
        rc = med_launch_on(d, by_part, logprobs_kernel, j);
    return rc;
}
