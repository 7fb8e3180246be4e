/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Draws on the GPU (see sample.h): queues the kernels of sample.cu and keeps what they need.
 *
 * Rows and edits lie in pinned memory, one piece per slot, and cross by one copy; the blocks that
 * decide write results into pinned memory themselves, so nothing is copied back.  A batch of greedy
 * rows alone is one kernel and no transfer.
 *
 * Pinned memory holds EDITS_AIM edits, or one row's most.  A batch with more is drawn in groups of
 * rows, and the host waits between groups: for the pinned piece to be free again.  That takes
 * penalties over histories of more than EDITS_AIM distinct ids together.
 *
 * thread: engine.
 */
#include "worker/cuda/sample.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "worker/cuda/check.h"
#include "worker/cuda/sample_job.h"

#include <math.h>
#include <time.h>

enum {
    EDITS_AIM = 1 << 18, /* 4 MiB */
    BINS = MED_CUDA_SAMPLE_BINS,
    LIST = MED_CUDA_SAMPLE_LIST,
    PARTS_MAX = MED_CUDA_SAMPLE_PARTS,
    PART_MIN = 1024,   /* ids of a block, unless the row has fewer */
    BLOCKS_AIM = 1056, /* eight per multiprocessor of an H100 */

    STOPS_MAX = MED_MODEL_EOS_MAX + MED_LIMIT_STOP_TOKENS /* of one row */
};

/* What take needs of a row, beside its result. */
struct drawn_row {
    uint32_t stop_count;
    int32_t top_logprobs;
};

struct slot {
    char *staging;                          // pinned: rows, then edits
    struct med_cuda_sample_result *results; // [samples_max], pinned
    struct drawn_row *rows;                 // [samples_max]
    uint32_t *stops;        // [samples_max][STOPS_MAX] ids that end the sequence now
    struct med_draw *draws; /* where the results go: the caller's */
    int64_t samples;
};

/* thread: engine */
struct med_cuda_sampler {
    int64_t vocab, samples_max, edits_max;
    double one;
    struct med_cuda_packer packer;
    struct slot slots[MED_OPS_SLOTS];
    struct med_clock clock;
    cudaEvent_t group_done;
    char *staging; // on the device, as the slots'
    float *raws;   // [edits_max]
    struct med_cuda_sample_state *states;
    unsigned long long *weights, *part_sums, *tops;
    uint32_t *counts, *lists, *ids;
    struct med_cuda_sample_sum *raw_sums;
};

/* ---- memory ---------------------------------------------------------------------------------- */

static int64_t edits_max_of(const struct med_ops_sizes *s)
{
    const int64_t one =
        med_cuda_row_edits_max(s->model->vocab, s->model_len_max, MED_MODEL_EOS_MAX);
    const int64_t all = one * s->samples_max;
    return all < EDITS_AIM ? all : one > EDITS_AIM ? one : EDITS_AIM;
}

static size_t staging_bytes(int64_t samples_max, int64_t edits_max)
{
    return (size_t)samples_max * sizeof(struct med_cuda_row) +
           (size_t)edits_max * sizeof(struct med_cuda_edit);
}

/* The arrays on the device, all of them in one list: what they take, and taking them. */
struct array {
    void **memory;
    size_t bytes;
};
enum {
    ARRAYS = 10
};

static void arrays_of(struct med_cuda_sampler *s, int64_t rows, int64_t edits,
                      struct array arrays[ARRAYS])
{
    const size_t n = (size_t)rows, parts = n * PARTS_MAX;
    const struct array all[ARRAYS] = {
        {(void **)&s->staging, staging_bytes(rows, edits)},
        {(void **)&s->raws, (size_t)edits * sizeof(float)},
        {(void **)&s->states, n * sizeof(struct med_cuda_sample_state)},
        {(void **)&s->weights, n * BINS * sizeof(uint64_t)},
        {(void **)&s->counts, n * BINS * sizeof(uint32_t)},
        {(void **)&s->part_sums, parts * sizeof(uint64_t)},
        {(void **)&s->lists, n * LIST * sizeof(uint32_t)},
        {(void **)&s->raw_sums, parts * sizeof(struct med_cuda_sample_sum)},
        {(void **)&s->tops, parts * MED_LIMIT_TOP_LOGPROBS * sizeof(uint64_t)},
        {(void **)&s->ids, n * sizeof(uint32_t)},
    };
    for (int i = 0; i < ARRAYS; i++)
        arrays[i] = all[i];
}

size_t med_cuda_sampler_bytes(const struct med_ops_sizes *sizes)
{
    struct med_cuda_sampler unused = {0};
    struct array arrays[ARRAYS];
    size_t bytes = 0;
    arrays_of(&unused, sizes->samples_max, edits_max_of(sizes), arrays);
    for (int i = 0; i < ARRAYS; i++)
        bytes += arrays[i].bytes;
    return bytes;
}

static int pinned_take(struct med_cuda *d, size_t bytes, void **ret_host)
{
    const cudaError_t status = cudaHostAlloc(ret_host, bytes, cudaHostAllocDefault);
    if (status == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return MED_E_NOMEM;
    }
    MED_CUDA_OP_TRY(status, d);
    d->stats.pinned_bytes += (int64_t)bytes;
    return 0;
}

static size_t results_bytes(const struct med_cuda_sampler *s)
{
    return (size_t)s->samples_max * sizeof(struct med_cuda_sample_result);
}

static int slot_take(struct med_cuda *d, struct med_cuda_sampler *s, struct slot *slot)
{
    const size_t n = (size_t)s->samples_max;
    slot->rows = med_calloc(n, sizeof *slot->rows);
    slot->stops = med_calloc(n * STOPS_MAX, sizeof *slot->stops);
    if (!slot->rows || !slot->stops)
        return MED_E_NOMEM;
    int rc = pinned_take(d, staging_bytes(s->samples_max, s->edits_max), (void **)&slot->staging);
    if (rc == 0)
        rc = pinned_take(d, results_bytes(s), (void **)&slot->results);
    return rc;
}

int med_cuda_sampler_new(struct med_cuda *d)
{
    struct med_cuda_sampler *s = med_calloc(1, sizeof *s);
    struct array arrays[ARRAYS];
    if (!s)
        return MED_E_NOMEM;
    d->sampler = s;
    s->vocab = d->model.vocab;
    s->samples_max = d->sizes.samples_max;
    s->edits_max = edits_max_of(&d->sizes);
    s->one = (double)(UINT64_C(1) << med_sampling_weight_bits(s->vocab));
    med_clock_init_real(&s->clock, 1);
    int rc = med_cuda_packer_init(&s->packer, s->vocab);
    for (int i = 0; rc == 0 && i < MED_OPS_SLOTS; i++)
        rc = slot_take(d, s, &s->slots[i]);
    arrays_of(s, s->samples_max, s->edits_max, arrays);
    for (int i = 0; rc == 0 && i < ARRAYS; i++)
        rc = med_cuda_alloc(d, arrays[i].bytes, arrays[i].memory);
    if (rc == 0)
        MED_CUDA_OP_TRY(cudaEventCreateWithFlags(&s->group_done, cudaEventDisableTiming), d);
    return rc;
}

static void pinned_release(struct med_cuda *d, void *host, size_t bytes)
{
    if (host && !d->failed && cudaFreeHost(host) == cudaSuccess)
        d->stats.pinned_bytes -= (int64_t)bytes;
}

void med_cuda_sampler_free(struct med_cuda *d)
{
    struct med_cuda_sampler *s = d->sampler;
    struct array arrays[ARRAYS];
    if (!s)
        return;
    if (s->group_done && !d->failed)
        (void)cudaEventDestroy(s->group_done);
    arrays_of(s, s->samples_max, s->edits_max, arrays);
    for (int i = 0; i < ARRAYS; i++)
        med_cuda_release(d, *arrays[i].memory);
    for (int i = 0; i < MED_OPS_SLOTS; i++) {
        struct slot *slot = &s->slots[i];
        pinned_release(d, slot->staging, staging_bytes(s->samples_max, s->edits_max));
        pinned_release(d, slot->results, results_bytes(s));
        med_free(slot->rows);
        med_free(slot->stops);
    }
    med_cuda_packer_release(&s->packer);
    med_free(s);
    d->sampler = NULL;
}

const uint32_t *med_cuda_sampler_ids(const struct med_cuda *d)
{
    return d->sampler->ids;
}

/* ---- queueing -------------------------------------------------------------------------------- */

static void wants_add(struct med_cuda_sample_wants *w, const struct med_cuda_row *row)
{
    const bool draws = !(row->flags & MED_CUDA_ROW_GREEDY);
    w->edits |= row->edit_count > 0;
    w->draws |= draws;
    w->borders |= draws && (row->top_k > 0 || row->flags & MED_CUDA_ROW_TOP_P);
    w->logprobs |= row->top_logprobs >= 0;
    w->restores |= row->top_logprobs >= 0 && row->edit_count > 0;
}

/* Rows first .. first + rows of the batch; parts so that there are BLOCKS_AIM blocks if ids suffice. */
static struct med_cuda_sample_job job_of(const struct med_cuda_sampler *s,
                                         const struct med_sample_args *a, int64_t first,
                                         int64_t rows)
{
    const int64_t ids_bound = (s->vocab + PART_MIN - 1) / PART_MIN;
    int64_t parts = (BLOCKS_AIM + rows - 1) / rows;
    parts = parts < ids_bound ? parts : ids_bound;
    parts = parts < PARTS_MAX ? parts : (int64_t)PARTS_MAX;
    const int64_t part = (s->vocab + parts - 1) / parts;
    struct med_cuda_sample_job j = {0};
    j.logits = a->logits + (size_t)first * (size_t)s->vocab;
    j.vocab = (int)s->vocab;
    j.part = (int)part;
    j.parts = (int)((s->vocab + part - 1) / part);
    j.one = s->one;
    j.raws = s->raws;
    j.states = s->states;
    j.weights = s->weights;
    j.counts = s->counts;
    j.part_sums = s->part_sums;
    j.lists = s->lists;
    j.raw_sums = s->raw_sums;
    j.tops = s->tops;
    j.ids = s->ids + first;
    j.results = s->slots[a->slot].results + first;
    return j;
}

/* Waits until all that was queued is done, no longer than the watchdog allows. */
static int group_wait(struct med_cuda *d)
{
    struct med_cuda_sampler *s = d->sampler;
    const int64_t begun_ns = med_clock_now_ns(&s->clock);
    const struct timespec nap = {.tv_nsec = 20 * MED_NS_PER_US};
    MED_CUDA_OP_TRY(cudaEventRecord(s->group_done, d->stream), d);
    for (;;) {
        const cudaError_t status = cudaEventQuery(s->group_done);
        if (status == cudaSuccess)
            return 0;
        if (status != cudaErrorNotReady)
            MED_CUDA_OP_TRY(status, d);
        (void)cudaGetLastError();
        if (d->config.watchdog_ns > 0 &&
            med_clock_now_ns(&s->clock) - begun_ns > d->config.watchdog_ns) {
            return med_cuda_fail(d, __FILE__, __LINE__, "a group of draws",
                                 "it takes longer than the watchdog allows");
        }
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL);
    }
}

/* Packs and queues as many rows from `first` on as the pinned piece has room for. */
static int sample_group(struct med_cuda *d, const struct med_sample_args *a, int64_t first,
                        int64_t *ret_rows)
{
    struct med_cuda_sampler *s = d->sampler;
    const int64_t left = a->samples - first;
    char *staging = s->slots[a->slot].staging;
    struct med_cuda_row *rows = (void *)staging;
    struct med_cuda_sample_wants w = {0};
    int64_t count = 0;
    const size_t edits_at = (size_t)left * sizeof *rows;
    med_cuda_packer_start(&s->packer, (void *)(staging + edits_at), s->edits_max);
    while (count < left && med_cuda_packer_add(&s->packer, &a->inputs[first + count], &rows[count]))
        wants_add(&w, &rows[count++]);
    MED_ASSERT(count > 0);
    struct med_cuda_sample_job j = job_of(s, a, first, count);
    j.row = (const void *)s->staging;
    j.edits = (const void *)(s->staging + edits_at);
    const size_t bytes = edits_at + (size_t)s->packer.count * sizeof(struct med_cuda_edit);
    *ret_rows = count;
    MED_CUDA_OP_TRY(cudaMemcpyAsync(s->staging, staging, bytes, cudaMemcpyHostToDevice, d->stream),
                    d);
    return med_cuda_sample_queue(d, &j, count, &w);
}

/* Whether a row is its largest logit and no more. */
static bool is_plain(const struct med_draw_input *in)
{
    const struct med_sampling *want = in->sampling;
    return want->temperature <= 0 && want->top_logprobs < 0 && want->bias_count == 0 &&
           !med_sampling_has_penalties(want) && in->count - in->prompt_tokens >= want->tokens_min;
}

/* Keeps what take needs of a row: the caller's input is gone by then. */
static void remember(struct slot *slot, int64_t i, const struct med_draw_input *in)
{
    const struct med_sampling *want = in->sampling;
    struct drawn_row *row = &slot->rows[i];
    uint32_t *stops = slot->stops + (size_t)i * STOPS_MAX;
    *row = (struct drawn_row){0, want->top_logprobs};
    if (in->count - in->prompt_tokens < want->tokens_min)
        return;
    const size_t eos_count = want->ignore_eos ? 0 : in->eos_count;
    MED_ASSERT(eos_count + want->stop_count <= STOPS_MAX);
    for (size_t k = 0; k < eos_count; k++)
        stops[row->stop_count++] = in->eos_ids[k];
    for (size_t k = 0; k < want->stop_count; k++)
        stops[row->stop_count++] = want->stop_ids[k];
}

int med_cuda_sample(void *device, const struct med_sample_args *a)
{
    struct med_cuda *d = device;
    struct med_cuda_sampler *s = d->sampler;
    MED_ASSERT(a->slot >= 0);
    MED_ASSERT(a->slot < MED_OPS_SLOTS);
    MED_ASSERT(a->samples <= s->samples_max);
    MED_ASSERT(a->vocab == s->vocab);
    struct slot *slot = &s->slots[a->slot];
    bool plain = true;
    slot->samples = 0;
    slot->draws = a->results;
    if (d->failed)
        return MED_E_CUDA;
    for (int64_t i = 0; i < a->samples; i++) {
        plain = plain && is_plain(&a->inputs[i]);
        remember(slot, i, &a->inputs[i]);
    }
    int rc = 0;
    if (plain && a->samples > 0) {
        const struct med_cuda_sample_job j = job_of(s, a, 0, a->samples);
        const struct med_cuda_sample_wants none = {0};
        rc = med_cuda_sample_queue(d, &j, a->samples, &none);
    }
    for (int64_t first = 0, rows = 0; rc == 0 && !plain && first < a->samples; first += rows) {
        if (first > 0)
            rc = group_wait(d);
        if (rc == 0)
            rc = sample_group(d, a, first, &rows);
    }
    if (rc == 0)
        slot->samples = a->samples;
    return rc;
}

/* ---- results --------------------------------------------------------------------------------- */

static void take_logprobs(const struct med_cuda_sample_result *from, struct med_token_logprobs *to)
{
    const double norm = (double)from->largest + log(from->sum);
    to->logprob = (float)((double)from->own - norm);
    to->rank = from->rank;
    to->top_count = from->top_count;
    for (uint32_t i = 0; i < from->top_count; i++) {
        to->top_ids[i] = from->top_ids[i];
        to->top_logprobs[i] = (float)((double)from->top_logits[i] - norm);
    }
}

void med_cuda_sample_take(struct med_cuda *d, int slot_index)
{
    MED_ASSERT(slot_index >= 0);
    MED_ASSERT(slot_index < MED_OPS_SLOTS);
    struct slot *slot = &d->sampler->slots[slot_index];
    for (int64_t i = 0; i < slot->samples; i++) {
        const struct med_cuda_sample_result *from = &slot->results[i];
        const struct drawn_row *row = &slot->rows[i];
        const uint32_t *stops = slot->stops + (size_t)i * STOPS_MAX;
        struct med_draw *to = &slot->draws[i];
        to->status = from->status == MED_CUDA_SAMPLE_DRAWN ? 0 : MED_E_INTERNAL;
        to->id = from->id;
        to->stop = false;
        if (to->status < 0)
            continue;
        for (uint32_t k = 0; k < row->stop_count; k++)
            to->stop = to->stop || stops[k] == from->id;
        if (row->top_logprobs >= 0)
            take_logprobs(from, &to->logprobs);
    }
    slot->samples = 0;
}
