/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A batch's way to the device, recorded decode steps, and waiting for a step's end (see record.h).
 *
 * Everything that a batch brings lies in one piece of pinned memory, in the order of struct layout,
 * and crosses in one copy to the same offsets of one piece of device memory.  Offsets follow from the
 * numbers of rows, items and samples alone, but for what is behind attention's plan: so a recording,
 * which is for one number of rows, finds every array where it was when it was made, and a small batch
 * makes a small copy.  It is a copy, not a kernel that reads host memory (which was no faster): a copy takes no
 * part in programmatic launch, so that no kernel of this step begins while one of the step before runs,
 * and any of them may read the batch before its own wait.
 *
 * Two pinned pieces take turns; one is written again only after a mark behind its copy has come.
 *
 * A wait sleeps in naps while the end is far, by what the same recording took the last time, and
 * asks without pause when it is near: a nap is some 50 us longer than it should be.
 *
 * thread: engine.  Does not know what forward does.
 */
#include "worker/cuda/record.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "worker/cuda/attend.h"
#include "worker/cuda/blas.h"
#include "worker/cuda/check.h"
#include "worker/cuda/sample.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    RECORDINGS_MAX = 64,
    ALIGN = 16,
    MARK_SPARE = MED_OPS_SLOTS, /* for what no mark came behind */
    MARKS,
    NO_MARK = -1
};
#define NAP_NS       (20 * MED_NS_PER_US)  /* when nothing is known of the end */
#define NAP_LONG_NS  (200 * MED_NS_PER_US) /* while the end is far */
#define SPIN_NS      (150 * MED_NS_PER_US) /* this long before the end it asks without pause */
#define SPIN_LATE_NS (300 * MED_NS_PER_US) /* and this long after it should have come */

/* Offsets into a staging piece, and into the device's. */
struct layout {
    size_t ids, sources, positions, slots; // [rows]
    size_t head_rows;                      // [samples]
    size_t item_rows;                      // [items + 1]
    size_t contexts, table_begins;         // [items]
    size_t plan;                           /* attention's; the tables are behind it */
};

struct recording {
    int64_t rows; /* items and samples are as many */
    struct med_cuda_attend_shape shape;
    size_t plan_bytes;
    cudaGraphExec_t replay;
    int64_t took_ns; /* the last time that it was waited for; 0: never */
};

struct staging {
    char *host;
    bool pending; /* a copy from it was queued */
    int mark;     /* behind that copy, or NO_MARK */
};

struct mark {
    cudaEvent_t event;
    int64_t begun_ns; /* when its run was called, or itself */
    struct recording *recording;
};

/* thread: engine */
struct med_cuda_recorder {
    char *device;
    size_t bytes; /* of it, and of each staging piece */
    struct staging stagings[MED_OPS_SLOTS];
    unsigned turn;
    struct mark marks[MARKS];
    struct recording recordings[RECORDINGS_MAX];
    int count;
    struct recording *running; /* of the run that no mark came behind; NULL: queued op by op */
    int64_t begun_ns;          /* that run; 0: there is none */
    int64_t ended_ns;          /* when the last end was seen */
    struct med_clock clock;
};

/* ---- sizes ------------------------------------------------------------------------------------ */

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static size_t column_take(size_t *bytes, int64_t count)
{
    size_t at = *bytes;
    *bytes += aligned((size_t)count * sizeof(int32_t));
    return at;
}

static struct layout layout_of(int64_t rows, int64_t items, int64_t samples)
{
    size_t bytes = 0;
    struct layout l;
    l.ids = column_take(&bytes, rows);
    l.sources = column_take(&bytes, rows);
    l.positions = column_take(&bytes, rows);
    l.slots = column_take(&bytes, rows);
    l.head_rows = column_take(&bytes, samples);
    l.item_rows = column_take(&bytes, items + 1);
    l.contexts = column_take(&bytes, items);
    l.table_begins = column_take(&bytes, items);
    l.plan = bytes;
    return l;
}

static int64_t blocks_of(const struct med_ops_sizes *s, int64_t tokens)
{
    return (tokens + s->block_tokens - 1) / s->block_tokens;
}

size_t med_cuda_recorder_bytes(const struct med_ops_sizes *s)
{
    struct layout l = layout_of(s->rows_max, s->items_max, s->samples_max);
    return l.plan + aligned((size_t)(s->items_max * blocks_of(s, s->model_len_max)) * 4);
}

/* The next size that is recorded after `rows`: fine steps where a row costs much of a step. */
static int64_t size_after(int64_t rows)
{
    if (rows < 8)
        return rows * 2;
    if (rows < 128)
        return rows + 8;
    if (rows < 256)
        return rows + 16;
    return rows < 512 ? rows + 32 : rows + 128;
}

/* ---- life ------------------------------------------------------------------------------------- */

static int pinned_take(struct med_cuda *d, size_t bytes, char **ret_host)
{
    void *host;
    cudaError_t status = cudaHostAlloc(&host, bytes, cudaHostAllocDefault);
    if (status == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return MED_E_NOMEM;
    }
    MED_CUDA_OP_TRY(status, d);
    *ret_host = host;
    d->stats.pinned_bytes += (int64_t)bytes;
    return 0;
}

int med_cuda_recorder_new(struct med_cuda *d)
{
    struct med_cuda_recorder *r = med_calloc(1, sizeof *r);
    if (!r)
        return MED_E_NOMEM;
    d->recorder = r;
    med_clock_init_real(&r->clock, 1);
    r->bytes = med_cuda_recorder_bytes(&d->sizes) + aligned(med_cuda_attend_plan_bytes(d));
    int rc = med_cuda_alloc(d, r->bytes, (void **)&r->device);
    for (int i = 0; rc == 0 && i < MED_OPS_SLOTS; i++)
        rc = pinned_take(d, r->bytes, &r->stagings[i].host);
    for (int i = 0; rc == 0 && i < MARKS; i++) {
        MED_CUDA_OP_TRY(cudaEventCreateWithFlags(&r->marks[i].event, cudaEventDisableTiming), d);
    }
    return rc;
}

static void recordings_release(struct med_cuda *d, struct med_cuda_recorder *r)
{
    for (int i = 0; i < r->count && !d->failed; i++)
        (void)cudaGraphExecDestroy(r->recordings[i].replay);
    r->count = 0;
    r->running = NULL;
    d->stats.graphs = 0;
}

void med_cuda_recorder_free(struct med_cuda *d)
{
    struct med_cuda_recorder *r = d->recorder;
    if (!r)
        return;
    recordings_release(d, r);
    for (int i = 0; i < MED_OPS_SLOTS && !d->failed; i++) {
        if (r->stagings[i].host && cudaFreeHost(r->stagings[i].host) == cudaSuccess)
            d->stats.pinned_bytes -= (int64_t)r->bytes;
    }
    for (int i = 0; i < MARKS && !d->failed; i++) {
        if (r->marks[i].event)
            (void)cudaEventDestroy(r->marks[i].event);
    }
    med_cuda_release(d, r->device);
    med_free(r);
    d->recorder = NULL;
}

/* ---- waiting ---------------------------------------------------------------------------------- */

static void nap(int64_t ns)
{
    struct timespec t = {.tv_sec = (time_t)(ns / MED_NS_PER_S),
                         .tv_nsec = (long)(ns % MED_NS_PER_S)};
    (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL); /* woken early, it asks once more */
}

/* expected_ns: when the end should come; 0: unknown. */
static void pause_for(int64_t now_ns, int64_t expected_ns)
{
    int64_t left = expected_ns - now_ns;
    if (expected_ns == 0 || left < -SPIN_LATE_NS) {
        nap(NAP_NS);
    } else if (left > SPIN_NS) {
        nap(left - SPIN_NS < NAP_LONG_NS ? left - SPIN_NS : NAP_LONG_NS);
    }
}

/* Returns when `event` has come, with whether it had to be waited for; the watchdog looks at the time
 * since begun_ns. */
static int event_wait(struct med_cuda *d, cudaEvent_t event, int64_t begun_ns, int64_t expected_ns,
                      bool *ret_waited)
{
    bool waited = false;
    for (;; waited = true) {
        cudaError_t status = cudaEventQuery(event);
        if (status == cudaSuccess)
            break;
        (void)cudaGetLastError();
        if (status != cudaErrorNotReady) {
            return med_cuda_fail(d, __FILE__, __LINE__, "what was queued failed",
                                 cudaGetErrorString(status));
        }
        int64_t now_ns = med_clock_now_ns(&d->recorder->clock);
        if (d->config.watchdog_ns > 0 && now_ns - begun_ns > d->config.watchdog_ns) {
            char why[96];
            (void)snprintf(why, sizeof why, "it is not done after %.3f s, the watchdog allows %.3f",
                           (double)(now_ns - begun_ns) / 1e9, (double)d->config.watchdog_ns / 1e9);
            return med_cuda_fail(d, __FILE__, __LINE__, "a batch", why);
        }
        pause_for(now_ns, expected_ns);
    }
    *ret_waited = waited;
    return 0;
}

int med_cuda_mark(void *device, int slot)
{
    struct med_cuda *d = device;
    struct med_cuda_recorder *r = d->recorder;
    MED_ASSERT(slot >= 0 && slot < MARKS);
    if (d->failed)
        return MED_E_CUDA;
    struct mark *m = &r->marks[slot];
    MED_CUDA_OP_TRY(cudaEventRecord(m->event, d->stream), d);
    m->begun_ns = r->begun_ns > 0 ? r->begun_ns : med_clock_now_ns(&r->clock);
    m->recording = r->running;
    r->begun_ns = 0;
    r->running = NULL;
    for (int i = 0; i < MED_OPS_SLOTS; i++) {
        if (r->stagings[i].pending && r->stagings[i].mark == NO_MARK)
            r->stagings[i].mark = slot;
    }
    return 0;
}

int med_cuda_wait(void *device, int slot)
{
    struct med_cuda *d = device;
    struct med_cuda_recorder *r = d->recorder;
    MED_ASSERT(slot >= 0 && slot < MED_OPS_SLOTS);
    if (d->failed)
        return MED_E_CUDA;
    struct mark *m = &r->marks[slot];
    /* It began when the step before it was over, if that was later. */
    int64_t begun_ns = m->begun_ns > r->ended_ns ? m->begun_ns : r->ended_ns;
    int64_t took_ns = m->recording ? m->recording->took_ns : 0;
    bool waited = false;
    int rc = event_wait(d, m->event, begun_ns, took_ns > 0 ? begun_ns + took_ns : 0, &waited);
    if (rc < 0)
        return rc;
    r->ended_ns = med_clock_now_ns(&r->clock);
    if (waited && m->recording)
        m->recording->took_ns = r->ended_ns - begun_ns;
    med_cuda_sample_take(d, slot);
    return 0;
}

/* ---- a batch's way to the device -------------------------------------------------------------- */

/* A piece that may be written. */
static int staging_take(struct med_cuda *d, struct staging **ret_staging)
{
    struct med_cuda_recorder *r = d->recorder;
    struct staging *s = &r->stagings[r->turn % MED_OPS_SLOTS];
    bool unused;
    int rc = 0;
    if (s->pending && s->mark == NO_MARK)
        rc = med_cuda_mark(d, MARK_SPARE);
    /* A mark that was made anew since is farther behind, never before. */
    if (rc == 0 && s->pending)
        rc = event_wait(d, r->marks[s->mark].event, med_clock_now_ns(&r->clock), 0, &unused);
    if (rc < 0)
        return rc;
    s->pending = false;
    s->mark = NO_MARK;
    r->turn++;
    *ret_staging = s;
    return 0;
}

/* from[count] to `to`, then `filler` up to `padded`. */
static void column_put(void *to, const void *from, int64_t count, int64_t padded, int32_t filler)
{
    if (count > 0)
        memcpy(to, from, (size_t)count * sizeof(int32_t));
    for (int64_t i = count; i < padded; i++)
        ((int32_t *)to)[i] = filler;
}

/* The same, where row i of padding is i: its own item, and its own sample. */
static void places_put(void *to, const int32_t *from, int64_t count, int64_t padded)
{
    column_put(to, from, count, 0, 0);
    for (int64_t i = count; i < padded; i++)
        ((int32_t *)to)[i] = (int32_t)i;
}

/* The blocks in use of every item, one item behind another. Returns how many there are. */
static int64_t tables_put(const struct med_ops_sizes *sizes, const struct med_ops_batch *host,
                          int64_t padded, int32_t *begins, int32_t *tables)
{
    int64_t total = 0;
    for (int64_t i = 0; i < host->items; i++) {
        int64_t tokens = host->contexts[i] + (host->item_rows[i + 1] - host->item_rows[i]);
        int64_t blocks = blocks_of(sizes, tokens);
        MED_ASSERT(blocks <= host->table_stride);
        memcpy(tables + total, host->tables + i * host->table_stride,
               (size_t)blocks * sizeof *tables);
        begins[i] = (int32_t)total;
        total += blocks;
    }
    for (int64_t i = host->items; i < padded; i++)
        begins[i] = 0;
    return total;
}

/* What forward is given: the arrays on the device. */
static void batch_describe(struct med_cuda *d, const struct layout *l, size_t tables, int64_t rows,
                           int64_t items, int64_t samples)
{
    const char *at = d->recorder->device;
    d->batch.on_device =
        (struct med_ops_batch){.rows = rows,
                               .items = items,
                               .samples = samples,
                               .ids = (const uint32_t *)(const void *)(at + l->ids),
                               .sources = (const int32_t *)(const void *)(at + l->sources),
                               .positions = (const int32_t *)(const void *)(at + l->positions),
                               .slots = (const int32_t *)(const void *)(at + l->slots),
                               .head_rows = (const int32_t *)(const void *)(at + l->head_rows),
                               .item_rows = (const int32_t *)(const void *)(at + l->item_rows),
                               .contexts = (const int32_t *)(const void *)(at + l->contexts)};
    d->batch.table_begins = (const int32_t *)(const void *)(at + l->table_begins);
    d->batch.tables = (const int32_t *)(const void *)(at + tables);
}

static void plan_describe(struct med_cuda *d, size_t plan, struct med_cuda_attend_shape shape)
{
    struct med_cuda_attention *a = d->attention;
    if (!a)
        return;
    const char *parts = d->recorder->device + plan;
    a->shape = shape;
    a->parts = (const struct med_cuda_decode_part *)(const void *)parts;
    a->tiles =
        (const struct med_cuda_prefill_tile *)(const void *)(parts + (size_t)shape.decode_parts *
                                                                         sizeof *a->parts);
}

/* Queues the copy. padded: 0, or this is a batch of decodes, filled up to so many. */
static int batch_take(struct med_cuda *d, const struct med_ops_batch *host, int64_t padded,
                      struct med_cuda_attend_shape *ret_shape, size_t *ret_plan_bytes)
{
    struct med_cuda_recorder *r = d->recorder;
    int64_t rows = padded ? padded : host->rows, items = padded ? padded : host->items;
    int64_t samples = padded ? padded : host->samples;
    struct layout l = layout_of(rows, items, samples);
    struct staging *s = NULL;
    size_t plan_bytes = 0;
    MED_ASSERT(rows <= d->sizes.rows_max && items <= d->sizes.items_max);
    MED_ASSERT(samples <= d->sizes.samples_max);
    int rc = staging_take(d, &s);
    if (rc < 0)
        return rc;
    column_put(s->host + l.ids, host->ids, host->rows, rows, 0);
    column_put(s->host + l.sources, host->sources, host->rows, rows, -1);
    column_put(s->host + l.positions, host->positions, host->rows, rows, 0);
    column_put(s->host + l.slots, host->slots, host->rows, rows, -1);
    places_put(s->host + l.head_rows, host->head_rows, host->samples, samples);
    places_put(s->host + l.item_rows, host->item_rows, host->items + 1, items + 1);
    column_put(s->host + l.contexts, host->contexts, host->items, items, 0);
    struct med_cuda_attend_shape shape =
        med_cuda_attend_plan(d, host, padded, s->host + l.plan, &plan_bytes);
    size_t tables = l.plan + aligned(plan_bytes);
    MED_ASSERT(tables <= r->bytes);
    int64_t blocks =
        tables_put(&d->sizes, host, items, (int32_t *)(void *)(s->host + l.table_begins),
                   (int32_t *)(void *)(s->host + tables));
    size_t bytes = tables + (size_t)blocks * sizeof(int32_t);
    MED_ASSERT(bytes <= r->bytes);
    batch_describe(d, &l, tables, rows, items, samples);
    plan_describe(d, l.plan, shape);
    s->pending = true;
    MED_CUDA_OP_TRY(cudaMemcpyAsync(r->device, s->host, bytes, cudaMemcpyHostToDevice, d->stream),
                    d);
    *ret_shape = shape;
    *ret_plan_bytes = plan_bytes;
    return 0;
}

/* ---- recorded steps --------------------------------------------------------------------------- */

static struct recording *recording_find(struct med_cuda_recorder *r,
                                        const struct med_ops_batch *host)
{
    if (host->rows != host->items || host->rows != host->samples)
        return NULL;
    for (int i = 0; i < r->count; i++) {
        if (r->recordings[i].rows >= host->rows)
            return &r->recordings[i];
    }
    return NULL;
}

int med_cuda_run(void *device, const struct med_ops_batch *host, med_ops_forward *forward,
                 void *arg)
{
    struct med_cuda *d = device;
    struct med_cuda_recorder *r = d->recorder;
    struct med_cuda_attend_shape shape;
    size_t plan_bytes;
    if (d->failed)
        return MED_E_CUDA;
    if (host->rows == 0)
        return 0;
    int64_t begun_ns = med_clock_now_ns(&r->clock);
    struct recording *recording = recording_find(r, host);
    int rc = batch_take(d, host, recording ? recording->rows : 0, &shape, &plan_bytes);
    if (rc < 0)
        return rc;
    r->begun_ns = begun_ns;
    /* A plan that is not the recording's is possible, if only in theory. */
    if (recording && shape.decode_parts == recording->shape.decode_parts &&
        shape.prefill_tiles == recording->shape.prefill_tiles &&
        plan_bytes == recording->plan_bytes) {
        MED_CUDA_OP_TRY(cudaGraphLaunch(recording->replay, d->stream), d);
        d->stats.replayed_total++;
        r->running = recording;
        return 0;
    }
    r->running = NULL;
    d->stats.queued_total++;
    return forward(arg, &d->batch.on_device);
}

/* Everything that forward queues, as a graph that can be replayed. */
static int capture(struct med_cuda *d, med_ops_forward *forward, void *arg,
                   cudaGraphExec_t *ret_replay)
{
    cudaGraph_t graph = NULL;
    cudaError_t status;
    int rc = 0;
    MED_CUDA_OP_TRY(cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal), d);
    rc = forward(arg, &d->batch.on_device);
    status = cudaStreamEndCapture(d->stream, &graph); /* also after a failure */
    if (rc < 0) {
        (void)cudaGetLastError();
        goto out;
    }
    MED_CUDA_OP_GOTO(status, d, rc, out);
    MED_CUDA_OP_GOTO(cudaGraphInstantiate(ret_replay, graph, 0), d, rc, out);
out:
    if (graph)
        (void)cudaGraphDestroy(graph);
    return rc;
}

/*
 * Records a step of `rows` decodes.  All of its rows are padding: it is run once, op by op, so that every
 * kernel is loaded before anything is recorded; the upload leaves nothing to be taken for the first replay.
 */
static int record_one(struct med_cuda *d, int64_t rows, med_ops_forward *forward, void *arg)
{
    static const int32_t none[1] = {0};
    const struct med_ops_batch nothing = {.item_rows = none, .table_stride = 0};
    struct med_cuda_recorder *r = d->recorder;
    struct recording *new_one = &r->recordings[r->count];
    struct med_cuda_attend_shape shape;
    size_t plan_bytes;
    int rc = batch_take(d, &nothing, rows, &shape, &plan_bytes);
    if (rc == 0)
        rc = forward(arg, &d->batch.on_device);
    if (rc < 0)
        return rc;
    *new_one = (struct recording){.rows = rows, .shape = shape, .plan_bytes = plan_bytes};
    rc = capture(d, forward, arg, &new_one->replay);
    if (rc < 0)
        return rc;
    r->count++;
    d->stats.graphs = r->count;
    MED_CUDA_OP_TRY(cudaGraphUpload(new_one->replay, d->stream), d);
    return 0;
}

/* Runs the smallest batch once, from which blas.c knows what will be asked of it, and times that. */
static int tune(struct med_cuda *d, med_ops_forward *forward, void *arg)
{
    static const int32_t none[1] = {0};
    const struct med_ops_batch nothing = {.item_rows = none, .table_stride = 0};
    struct med_cuda_attend_shape shape;
    size_t plan_bytes;
    int rc = batch_take(d, &nothing, 1, &shape, &plan_bytes);
    if (rc == 0)
        rc = forward(arg, &d->batch.on_device);
    return rc == 0 ? med_cuda_blas_tune(d) : rc;
}

static int record_all(struct med_cuda *d, med_ops_forward *forward, void *arg)
{
    struct med_cuda_recorder *r = d->recorder;
    int64_t last =
        d->sizes.items_max < d->sizes.samples_max ? d->sizes.items_max : d->sizes.samples_max;
    int rc = 0;
    for (int64_t rows = 1; rc == 0 && r->count < RECORDINGS_MAX;) {
        rc = record_one(d, rows, forward, arg);
        if (rows == last)
            break;
        int64_t next = size_after(rows);
        rows = next < last ? next : last;
    }
    return rc;
}

int med_cuda_record(void *device, med_ops_forward *forward, void *arg, struct med_err *err)
{
    struct med_cuda *d = device;
    struct med_cuda_recorder *r = d->recorder;
    int rc = d->failed ? MED_E_CUDA : 0;
    int64_t begun_ns = med_clock_now_ns(&r->clock);
    if (rc == 0)
        rc = tune(d, forward, arg);
    int64_t tuned_ns = med_clock_now_ns(&r->clock);
    d->stats.tune_seconds = (double)(tuned_ns - begun_ns) / 1e9;
    recordings_release(d, r);
    if (rc == 0 && !d->config.no_graphs)
        rc = record_all(d, forward, arg);
    if (rc == 0)
        rc = med_cuda_mark(d, MARK_SPARE);
    bool unused;
    if (rc == 0)
        rc = event_wait(d, r->marks[MARK_SPARE].event, r->marks[MARK_SPARE].begun_ns, 0, &unused);
    d->stats.record_seconds = (double)(med_clock_now_ns(&r->clock) - tuned_ns) / 1e9;
    if (rc < 0) {
        return med_err_set(err, rc, "GPU %d: recording the steps: %s", d->config.device,
                           d->failed ? d->failure.text : med_err_text(rc));
    }
    return 0;
}
