/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory plan (see memory_plan.h).
 *
 * One function says what given sizes take; everything else searches on it, and it grows with each of
 * the sizes, so a search is by halves.  Fitting gives way in this order: first sequences become
 * shorter, but not shorter than LEN_LEAST; then batches become smaller; then sequences shorter still.
 * The advice of a refusal comes from the same search, one option at a time.
 *
 * Arithmetic saturates: what is too large for 64 bits is too large for any machine.
 * thread: any; pure.  Reads no files and asks no machine: that is machine.c.
 */
#include "worker/memory_plan.h"

#include "base/assert.h"
#include "base/limits.h"
#include "worker/backend.h"
#include "worker/requests.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    SEQUENCES_DEFAULT = 64,       /* a CPU gains little from more */
    BATCHED_TOKENS_DEFAULT = 512, /* of an iteration; decodes wait for it */
    BATCHED_TOKENS_LEAST = 64,
    LEN_LEAST = 256,
    ADVICE_BYTES = 256,
    MIB = 1 << 20,
    PROCESS_MIB = 32,         /* program, libraries, metrics, logs */
    THREAD_MIB = 16,          /* a stack and the BLAS's buffers */
    ROUTER_MIB = 32,          /* a frame that comes, unpacked, and what waits to be sent */
    SMALL_REQUESTS_MIB = 16,  /* requests that wait */
    TABLE_ROW_BYTES = 256,    /* of the scheduler's and the loop's tables, per request */
    LANE_ROW_BYTES = 320,     /* per sequence of a batch */
    BLOCK_ROW_BYTES = 8,      /* per KV block */
    CACHED_ROW_BYTES = 8 + 80 /* and with the prefix cache, its tokens aside */
};

/* ---- arithmetic ------------------------------------------------------------------------------- */

static int64_t times(int64_t a, int64_t b)
{
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

static int64_t plus(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t blocks_of(int64_t tokens, int64_t block_tokens)
{
    return tokens / block_tokens + (tokens % block_tokens != 0);
}

/* ---- what sizes take -------------------------------------------------------------------------- */

int64_t med_memory_scheduler_bytes(const struct med_memory_sizes *sizes, int64_t block_tokens,
                                   int64_t table_max, bool prefix_cache)
{
    int64_t blocks = sizes->kv_tokens / block_tokens;
    int64_t row = prefix_cache ? CACHED_ROW_BYTES + 4 * block_tokens : BLOCK_ROW_BYTES;
    int64_t lane =
        plus(times(blocks_of(sizes->model_len_max, block_tokens), sizeof(int32_t)), LANE_ROW_BYTES);
    return plus(times(table_max, TABLE_ROW_BYTES),
                plus(times(least(sizes->sequences_max, table_max), lane), times(blocks, row)));
}

/* Full batches twice over, one running and one waiting, or the largest request that there can be;
 * and some room for many small ones. */
static int64_t request_bytes(const struct med_memory_sizes *sizes)
{
    int64_t one = (int64_t)med_request_bytes(sizes->model_len_max, 0, -1, 0, 0);
    int64_t largest = (int64_t)med_request_bytes(1, sizes->model_len_max, MED_LIMIT_TOP_LOGPROBS,
                                                 MED_LIMIT_LOGIT_BIAS, MED_LIMIT_STOP_TOKENS);
    return plus(most(times(2 * sizes->sequences_max, one), largest),
                (int64_t)SMALL_REQUESTS_MIB * MIB);
}

static bool has_device(const struct med_memory_needs *n)
{
    return n->device.total_bytes > 0;
}

/* Fills everything that follows from `sizes`. */
static void fill(const struct med_memory_needs *n, const struct med_memory_sizes *sizes,
                 struct med_memory_plan *p)
{
    double budget = n->share * (double)n->machine_bytes;
    *p = (struct med_memory_plan){
        .sizes = *sizes,
        .given = n->given,
        .block_tokens = n->block_tokens,
        .kv_blocks = sizes->kv_tokens / n->block_tokens,
        .table_max = MED_LIMIT_WORKER_REQUESTS,
        .machine_bytes = n->machine_bytes,
        .available_bytes = n->available_bytes,
        .budget_bytes = least((int64_t)budget, n->available_bytes),
        .share = n->share,
        .weight_bytes = n->weight_bytes,
        .workspace_bytes = (int64_t)n->workspace_bytes(n->arg, sizes),
        .request_bytes = request_bytes(sizes),
        .process_bytes =
            (PROCESS_MIB + n->threads * THREAD_MIB + n->routers * ROUTER_MIB) * (int64_t)MIB,
        .kv_bytes = times(sizes->kv_tokens, n->kv_bytes_per_token),
        .kv_bytes_per_token = n->kv_bytes_per_token,
        .device = n->device,
    };
    p->scheduler_bytes =
        med_memory_scheduler_bytes(sizes, n->block_tokens, p->table_max, n->prefix_cache);
    int64_t computed = plus(plus(p->weight_bytes, p->workspace_bytes), p->kv_bytes);
    int64_t served = plus(p->scheduler_bytes, plus(p->request_bytes, p->process_bytes));
    if (!has_device(n)) {
        p->total_bytes = plus(computed, served);
        return;
    }
    p->staging_bytes = n->device.staging_bytes;
    p->total_bytes = plus(served, p->staging_bytes);
    p->device_budget_bytes =
        least((int64_t)(n->device.share * (double)n->device.total_bytes), n->device.free_bytes);
    p->device_total_bytes = plus(computed, n->device.reserve_bytes);
}

/* The least cache that such sizes can do with, unless the user gave one. */
static struct med_memory_sizes with_least_cache(const struct med_memory_needs *n,
                                                struct med_memory_sizes sizes)
{
    if (n->given.kv_tokens == 0)
        sizes.kv_tokens = blocks_of(sizes.model_len_max, n->block_tokens) * n->block_tokens;
    return sizes;
}

static bool fits(const struct med_memory_needs *n, struct med_memory_sizes sizes)
{
    struct med_memory_plan p;
    fill(n, &sizes, &p);
    return p.total_bytes <= p.budget_bytes && p.device_total_bytes <= p.device_budget_bytes;
}

/* ---- searching -------------------------------------------------------------------------------- */

/* One of the sizes. */
static int64_t *size_at(struct med_memory_sizes *sizes, size_t offset)
{
    return (int64_t *)((char *)sizes + offset);
}

/* The largest value of the size at `offset`, from `low` to `high`, that fits; low - 1: none. */
static int64_t largest_that_fits(const struct med_memory_needs *n, struct med_memory_sizes sizes,
                                 size_t offset, int64_t low, int64_t high)
{
    bool is_cache = offset == offsetof(struct med_memory_sizes, kv_tokens);
    int64_t good = low - 1;
    while (low <= high) {
        int64_t middle = low + (high - low) / 2;
        *size_at(&sizes, offset) = middle;
        if (fits(n, is_cache ? sizes : with_least_cache(n, sizes))) {
            good = middle;
            low = middle + 1;
        } else {
            high = middle - 1;
        }
    }
    return good;
}

/* ---- refusing --------------------------------------------------------------------------------- */

static double gb(int64_t bytes)
{
    return (double)bytes / 1e9;
}

static const struct {
    const char *option;
    size_t offset;
} size_options[] = {
    {"--max-model-len", offsetof(struct med_memory_sizes, model_len_max)},
    {"--kv-tokens", offsetof(struct med_memory_sizes, kv_tokens)},
    {"--max-num-seqs", offsetof(struct med_memory_sizes, sequences_max)},
    {"--max-num-batched-tokens", offsetof(struct med_memory_sizes, batched_tokens_max)},
};
enum {
    SIZE_OPTIONS = sizeof size_options / sizeof size_options[0]
};

static void advise(char advice[ADVICE_BYTES], const char *fmt, ...) MED_PRINTF(2, 3);
static void advise(char advice[ADVICE_BYTES], const char *fmt, ...)
{
    size_t used = strlen(advice);
    va_list args;
    va_start(args, fmt);
    used += (size_t)snprintf(advice + used, ADVICE_BYTES - used, "%s", used > 0 ? " or " : "; ");
    (void)vsnprintf(advice + used, ADVICE_BYTES - used, fmt, args);
    va_end(args);
}

/* Which of the user's values would do, each on its own. */
static void advise_sizes(const struct med_memory_needs *n, const struct med_memory_sizes *sizes,
                         char advice[ADVICE_BYTES])
{
    for (size_t i = 0; i < SIZE_OPTIONS; i++) {
        struct med_memory_sizes given = n->given;
        struct med_memory_sizes from = *sizes;
        size_t offset = size_options[i].offset;
        int64_t low = 1, high = *size_at(&given, offset);
        if (high == 0)
            continue;
        if (offset == offsetof(struct med_memory_sizes, batched_tokens_max))
            low = sizes->sequences_max;
        if (offset == offsetof(struct med_memory_sizes, kv_tokens))
            low = most(n->block_tokens, n->given.model_len_max);
        int64_t good = largest_that_fits(n, from, offset, low, high);
        if (offset == offsetof(struct med_memory_sizes, kv_tokens))
            good = good / n->block_tokens * n->block_tokens;
        if (good >= low)
            advise(advice, "%s %" PRId64 " would fit", size_options[i].option, good);
    }
}

/* The share that would do, or how much is missing where no share helps. */
static void advise_share(char advice[ADVICE_BYTES], const char *option, const char *whose,
                         int64_t total, int64_t machine, int64_t available)
{
    double share = ceil((double)total / (double)machine * 100) / 100;
    if (total > available) {
        advise(advice, "%.2f GB more of free %smemory", gb(total - available), whose);
    } else if (share <= 1) {
        advise(advice, "%s %.2f", option, share);
    }
}

/* "--max-model-len 4096: ": the first size that the user gave. */
static void name_given(const struct med_memory_needs *n, char first[ADVICE_BYTES])
{
    first[0] = '\0';
    for (size_t i = 0; i < SIZE_OPTIONS && first[0] == '\0'; i++) {
        struct med_memory_sizes given = n->given;
        int64_t value = *size_at(&given, size_options[i].offset);
        if (value > 0)
            (void)snprintf(first, ADVICE_BYTES, "%s %" PRId64 ": ", size_options[i].option, value);
    }
}

static int refuse(const struct med_memory_needs *n, const struct med_memory_sizes *sizes,
                  struct med_err *err)
{
    struct med_memory_plan p;
    char advice[ADVICE_BYTES] = "", first[ADVICE_BYTES];
    fill(n, sizes, &p);
    name_given(n, first);
    advise_sizes(n, sizes, advice);
    bool on_device = p.device_total_bytes > p.device_budget_bytes;
    if (has_device(n) && !on_device) {
        advise_share(advice, "--memory-utilization", "", p.total_bytes, p.machine_bytes,
                     p.available_bytes);
        return med_err_set(err, MED_E_USAGE,
                           "%srequests of %.2f GB and %.2f GB for scheduler, process and staging "
                           "exceed the %.2f GB of the machine's memory that may be used (%g of "
                           "%.2f GB, of which %.2f GB are free)%s",
                           first, gb(p.request_bytes), gb(p.total_bytes - p.request_bytes),
                           gb(p.budget_bytes), p.share, gb(p.machine_bytes), gb(p.available_bytes),
                           advice);
    }
    const int64_t total = on_device ? p.device_total_bytes : p.total_bytes;
    const int64_t budget = on_device ? p.device_budget_bytes : p.budget_bytes;
    const int64_t machine = on_device ? p.device.total_bytes : p.machine_bytes;
    const int64_t available = on_device ? p.device.free_bytes : p.available_bytes;
    advise_share(advice, on_device ? "--gpu-memory-utilization" : "--memory-utilization",
                 on_device ? "GPU " : "", total, machine, available);
    return med_err_set(err, MED_E_USAGE,
                       "%sweights of %.2f GB, a KV cache of %" PRId64
                       " tokens (%.2f GB) and %.2f GB for the rest exceed the %.2f GB %sthat may "
                       "be used (%g of %.2f GB, of which %.2f GB are free)%s",
                       first, gb(p.weight_bytes), p.sizes.kv_tokens, gb(p.kv_bytes),
                       gb(total - p.weight_bytes - p.kv_bytes), gb(budget),
                       on_device ? "of the GPU " : "", on_device ? p.device.share : p.share,
                       gb(machine), gb(available), advice);
}

/* What no memory could mend. */
static int check_given(const struct med_memory_needs *n, struct med_err *err)
{
    const struct med_memory_sizes *g = &n->given;
    int64_t cache = g->kv_tokens / n->block_tokens * n->block_tokens;
    if (g->kv_tokens > 0 && cache == 0) {
        return med_err_set(err, MED_E_USAGE,
                           "--kv-tokens %" PRId64 ": expected at least one block of %" PRId64
                           " tokens",
                           g->kv_tokens, n->block_tokens);
    }
    if (g->model_len_max > n->positions_max) {
        return med_err_set(err, MED_E_USAGE,
                           "--max-model-len %" PRId64 ": the model knows %" PRId64
                           " positions (max_position_embeddings), expected at most as many",
                           g->model_len_max, n->positions_max);
    }
    if (cache > 0 && g->model_len_max > cache) {
        return med_err_set(err, MED_E_USAGE,
                           "--max-model-len %" PRId64 ": the KV cache has %" PRId64
                           " tokens (--kv-tokens), expected at most as many",
                           g->model_len_max, cache);
    }
    if (g->batched_tokens_max > 0 && g->batched_tokens_max < g->sequences_max) {
        return med_err_set(err, MED_E_USAGE,
                           "--max-num-batched-tokens %" PRId64
                           ": expected at least --max-num-seqs (%" PRId64
                           "), or a full batch could not decode",
                           g->batched_tokens_max, g->sequences_max);
    }
    return 0;
}

/* ---- fitting ---------------------------------------------------------------------------------- */

static struct med_memory_sizes first_sizes(const struct med_memory_needs *n)
{
    struct med_memory_sizes s = n->given;
    s.kv_tokens = s.kv_tokens / n->block_tokens * n->block_tokens;
    if (s.model_len_max == 0) {
        s.model_len_max = least(n->positions_max, MED_LIMIT_PROMPT_TOKENS);
        if (s.kv_tokens > 0)
            s.model_len_max = least(s.model_len_max, s.kv_tokens);
    }
    if (s.sequences_max == 0) {
        s.sequences_max = n->sequences_default > 0 ? n->sequences_default : SEQUENCES_DEFAULT;
        if (s.batched_tokens_max > 0)
            s.sequences_max = least(s.sequences_max, s.batched_tokens_max);
    }
    if (s.batched_tokens_max == 0) {
        s.batched_tokens_max =
            n->batched_tokens_default > 0 ? n->batched_tokens_default : BATCHED_TOKENS_DEFAULT;
        s.batched_tokens_max = most(s.batched_tokens_max, s.sequences_max);
    }
    return with_least_cache(n, s);
}

/* Makes sequences as long as fits, but at least `low` tokens; false: that does not fit. */
static bool shorten(const struct med_memory_needs *n, struct med_memory_sizes *s, int64_t low)
{
    low = least(low, s->model_len_max);
    int64_t good = largest_that_fits(n, *s, offsetof(struct med_memory_sizes, model_len_max), low,
                                     s->model_len_max);
    s->model_len_max = most(good, low);
    *s = with_least_cache(n, *s);
    return good >= low;
}

/* Halves the batch; false: it cannot be smaller. */
static bool halve_batch(const struct med_memory_needs *n, struct med_memory_sizes *s)
{
    int64_t floor = most(s->sequences_max, BATCHED_TOKENS_LEAST);
    if (n->given.batched_tokens_max == 0 && s->batched_tokens_max / 2 >= floor) {
        s->batched_tokens_max /= 2;
        return true;
    }
    if (n->given.sequences_max == 0 && s->sequences_max > 1) {
        s->sequences_max /= 2;
        return true;
    }
    return false;
}

static bool fit(const struct med_memory_needs *n, struct med_memory_sizes *s)
{
    bool may_shorten = n->given.model_len_max == 0;
    if (fits(n, *s) || (may_shorten && shorten(n, s, LEN_LEAST)))
        return true;
    while (halve_batch(n, s)) {
        if (fits(n, *s))
            return true;
    }
    return may_shorten && shorten(n, s, n->block_tokens);
}

/* The cache: what sequences of this length can use, half as much again for what the prefix cache may
 * keep of ended ones, and no more than fits. */
static void fit_cache(const struct med_memory_needs *n, struct med_memory_sizes *s)
{
    int64_t block = n->block_tokens;
    int64_t used = times(s->sequences_max, blocks_of(s->model_len_max, block));
    int64_t wanted = n->prefix_cache ? plus(used, used / 2) : used;
    wanted = least(wanted, INT32_MAX / block);
    int64_t good = largest_that_fits(n, *s, offsetof(struct med_memory_sizes, kv_tokens),
                                     s->kv_tokens, most(s->kv_tokens, times(wanted, block)));
    s->kv_tokens = most(good, s->kv_tokens) / block * block;
}

int med_memory_plan_make(const struct med_memory_needs *needs, struct med_memory_plan *ret_plan,
                         struct med_err *err)
{
    MED_ASSERT(needs->block_tokens > 0);
    MED_ASSERT(needs->positions_max > 0);
    int rc = check_given(needs, err);
    if (rc < 0)
        return rc;
    struct med_memory_sizes sizes = first_sizes(needs);
    if (!fit(needs, &sizes))
        return refuse(needs, &sizes, err);
    if (needs->given.kv_tokens == 0)
        fit_cache(needs, &sizes);
    fill(needs, &sizes, ret_plan);
    MED_ASSERT(ret_plan->total_bytes <= ret_plan->budget_bytes);
    MED_ASSERT(ret_plan->device_total_bytes <= ret_plan->device_budget_bytes);
    return 0;
}
