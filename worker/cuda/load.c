/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Weights to the GPU (see load.h).
 *
 * load and load_layer take device memory and leave a job per tensor; lanes take pieces of the jobs in
 * order.  A lane is a thread with a stream and some pinned buffers: it fills one, which is where the
 * pages of the mapping come in, while the GPU fetches others.  Pieces of another dtype are not
 * copied but converted, straight out of the pinned buffer.  Lanes are started as work comes and end in
 * load_end, with their buffers.
 *
 * A layer is one allocation, its norm of the input first; so is each tensor outside layers.
 *
 * thread: engine; lanes share `shared` alone, under its lock.  A lane's failure is kept there, the rest
 * of the work is dropped, and the engine's next call returns it.  A file that shrinks while it is mapped
 * ends the process, as everywhere.
 */
#include "worker/cuda/load.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/os.h"
#include "base/thread.h"
#include "worker/cuda/check.h"
#include "worker/cuda/convert.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum {
    LANES_MAX = 8,
    BUFFERS = 4, /* of a lane */
    ALIGN = 256,
    JOBS_FIRST = 64
};
#define PIECE_BYTES ((size_t)4 << 20)  /* of the checkpoint; what a cache holds moves faster */
#define LANE_BYTES  ((size_t)64 << 20) /* of work that is worth one more lane */

/* A tensor on its way. */
struct job {
    const char *from;
    char *to;
    enum med_dtype dtype; /* of from */
    size_t count, next;   /* elements; those before next are taken */
};

struct piece {
    const char *from;
    char *to;
    enum med_dtype dtype;
    size_t count;
};

struct lane {
    struct med_cuda_loader *loader;
    pthread_t thread;
    cudaStream_t stream;
    char *buffers[BUFFERS]; /* pinned, PIECE_BYTES each */
    cudaEvent_t fetched[BUFFERS];
    unsigned turn;
};

struct med_cuda_loader {
    int device;
    enum med_dtype dtype; /* of what lands on the device */
    int lanes_max;        /* engine */
    int lanes_running;    /* engine */
    size_t bytes;         /* engine: of all jobs so far */
    struct lane lanes[LANES_MAX];
    struct {
        pthread_mutex_t lock; /* of all here */
        pthread_cond_t more;  /* a job came, or closing */
        struct job *jobs;
        size_t job_count, job_room, job_next;
        bool closing;
        struct med_err failure; /* code 0: none */
    } shared;
};

/* ---- lanes (thread: each its own) ------------------------------------------------------------- */

/* Waits for work; false: there is none any more. */
static bool piece_take(struct med_cuda_loader *l, struct piece *ret_piece)
{
    bool found = false;
    MED_ASSERT(pthread_mutex_lock(&l->shared.lock) == 0);
    while (l->shared.job_next == l->shared.job_count && !l->shared.closing)
        MED_ASSERT(pthread_cond_wait(&l->shared.more, &l->shared.lock) == 0);
    if (l->shared.job_next < l->shared.job_count) {
        struct job *j = &l->shared.jobs[l->shared.job_next];
        size_t bytes = med_dtype_bytes(j->dtype), count = PIECE_BYTES / bytes;
        if (count > j->count - j->next)
            count = j->count - j->next;
        *ret_piece = (struct piece){.from = j->from + j->next * bytes,
                                    .to = j->to + j->next * med_dtype_bytes(l->dtype),
                                    .dtype = j->dtype,
                                    .count = count};
        j->next += count;
        l->shared.job_next += j->next == j->count;
        found = true;
    }
    MED_ASSERT(pthread_mutex_unlock(&l->shared.lock) == 0);
    return found;
}

/* Keeps the first failure; what is left of the work is dropped. */
static void lane_fail(struct med_cuda_loader *l, const struct med_err *err)
{
    MED_ASSERT(pthread_mutex_lock(&l->shared.lock) == 0);
    if (l->shared.failure.code == 0)
        l->shared.failure = *err;
    l->shared.job_next = l->shared.job_count;
    MED_ASSERT(pthread_mutex_unlock(&l->shared.lock) == 0);
}

static int lane_open(struct lane *lane, struct med_err *err)
{
    int rc = 0;
    MED_CUDA_GOTO(cudaSetDevice(lane->loader->device), rc, out, err);
    MED_CUDA_GOTO(cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking), rc, out, err);
    for (int i = 0; i < BUFFERS; i++) {
        MED_CUDA_GOTO(cudaHostAlloc((void **)&lane->buffers[i], PIECE_BYTES, cudaHostAllocPortable),
                      rc, out, err);
        MED_CUDA_GOTO(cudaEventCreateWithFlags(&lane->fetched[i],
                                               cudaEventDisableTiming | cudaEventBlockingSync),
                      rc, out, err);
    }
out:
    return rc;
}

static int lane_copy(struct lane *lane, const struct piece *p, struct med_err *err)
{
    int rc = 0;
    unsigned turn = lane->turn++ % BUFFERS;
    size_t bytes = p->count * med_dtype_bytes(p->dtype);
    char *buffer = lane->buffers[turn];
    enum med_dtype to = lane->loader->dtype;
    /* At once if nothing was recorded yet. */
    MED_CUDA_GOTO(cudaEventSynchronize(lane->fetched[turn]), rc, out, err);
    memcpy(buffer, p->from, bytes);
    if (p->dtype == to) {
        MED_CUDA_GOTO(cudaMemcpyAsync(p->to, buffer, bytes, cudaMemcpyHostToDevice, lane->stream),
                      rc, out, err);
    } else {
        MED_CUDA_GOTO(med_cuda_convert(lane->stream, buffer, p->dtype, p->to, to, p->count), rc,
                      out, err);
    }
    MED_CUDA_GOTO(cudaEventRecord(lane->fetched[turn], lane->stream), rc, out, err);
out:
    return rc;
}

/* Everything that is under way is done when it returns 0.  On a context that has seen a fault the frees
 * fail too, and are not looked at. */
static int lane_close(struct lane *lane, struct med_err *err)
{
    int rc = 0;
    if (lane->stream)
        MED_CUDA_GOTO(cudaStreamSynchronize(lane->stream), rc, out, err);
out:
    for (int i = 0; i < BUFFERS; i++) {
        if (lane->fetched[i])
            (void)cudaEventDestroy(lane->fetched[i]);
        if (lane->buffers[i])
            (void)cudaFreeHost(lane->buffers[i]);
    }
    if (lane->stream)
        (void)cudaStreamDestroy(lane->stream);
    return rc;
}

static void *lane_run(void *arg)
{
    struct lane *lane = arg;
    struct med_err err = {0};
    struct piece piece;
    int rc = lane_open(lane, &err);
    while (rc == 0 && piece_take(lane->loader, &piece))
        rc = lane_copy(lane, &piece, &err);
    struct med_err closing = {0};
    if (lane_close(lane, &closing) < 0 && rc == 0)
        err = closing;
    if (err.code < 0)
        lane_fail(lane->loader, &err);
    return NULL;
}

/* ---- jobs (thread: engine) -------------------------------------------------------------------- */

/* Ends the lanes; those that have begun a piece finish it, and with `drop` nothing else is begun. */
static void lanes_stop(struct med_cuda_loader *l, bool drop)
{
    MED_ASSERT(pthread_mutex_lock(&l->shared.lock) == 0);
    if (drop)
        l->shared.job_next = l->shared.job_count;
    l->shared.closing = true;
    MED_ASSERT(pthread_cond_broadcast(&l->shared.more) == 0);
    MED_ASSERT(pthread_mutex_unlock(&l->shared.lock) == 0);
    for (int i = 0; i < l->lanes_running; i++)
        MED_ASSERT(pthread_join(l->lanes[i].thread, NULL) == 0);
    /* No lane is left: the lock is not needed. */
    l->lanes_running = 0;
    l->bytes = 0;
    med_free(l->shared.jobs);
    l->shared.jobs = NULL;
    l->shared.job_count = l->shared.job_room = l->shared.job_next = 0;
    l->shared.closing = false;
}

static int lanes_start(struct med_cuda_loader *l)
{
    while (l->lanes_running < l->lanes_max && l->bytes > (size_t)l->lanes_running * LANE_BYTES) {
        struct lane *lane = &l->lanes[l->lanes_running];
        char name[24];
        *lane = (struct lane){.loader = l};
        (void)snprintf(name, sizeof name, "load-%d", l->lanes_running);
        if (med_thread_start(&lane->thread, name, lane_run, lane) < 0) {
            if (l->lanes_running == 0)
                return MED_E_NOMEM;
            l->lanes_max = l->lanes_running; /* it goes on with those that there are */
            break;
        }
        l->lanes_running++;
    }
    return 0;
}

/* A job for every weight of from[count]; to[i] says where it goes. */
static int jobs_add(struct med_cuda_loader *l, const struct med_weight *from,
                    const struct med_weight *to, size_t count)
{
    int rc = 0;
    MED_ASSERT(pthread_mutex_lock(&l->shared.lock) == 0);
    if (l->shared.job_count + count > l->shared.job_room) {
        size_t room = 2 * (l->shared.job_room + count) + JOBS_FIRST;
        struct job *jobs = med_realloc_array(l->shared.jobs, room, sizeof *jobs);
        if (jobs) {
            l->shared.jobs = jobs;
            l->shared.job_room = room;
        } else {
            rc = MED_E_NOMEM;
        }
    }
    for (size_t i = 0; rc == 0 && i < count; i++) {
        if (!from[i].data || from[i].rows * from[i].columns == 0)
            continue;
        struct job *j = &l->shared.jobs[l->shared.job_count++];
        *j = (struct job){.from = from[i].data,
                          .to = (char *)(uintptr_t)to[i].data,
                          .dtype = from[i].dtype,
                          .count = (size_t)(from[i].rows * from[i].columns)};
        l->bytes += j->count * med_dtype_bytes(j->dtype);
    }
    if (l->shared.failure.code < 0) /* a lane's: it looks at no job any more */
        rc = l->shared.failure.code;
    MED_ASSERT(pthread_cond_broadcast(&l->shared.more) == 0);
    MED_ASSERT(pthread_mutex_unlock(&l->shared.lock) == 0);
    return rc == 0 ? lanes_start(l) : rc;
}

/* What a lane failed with becomes the device's failure; no lane runs. */
static int failure_take(struct med_cuda *d)
{
    struct med_err err = d->loader->shared.failure;
    d->loader->shared.failure = (struct med_err){0};
    if (err.code < 0)
        return med_cuda_fail(d, __FILE__, __LINE__, "loading weights", err.text);
    return 0;
}

/* ---- weights ---------------------------------------------------------------------------------- */

/* A layer as an array: it is nothing but weights. */
enum {
    LAYER_WEIGHTS = sizeof(struct med_layer_weights) / sizeof(struct med_weight)
};
_Static_assert(sizeof(struct med_layer_weights) == LAYER_WEIGHTS * sizeof(struct med_weight),
               "a layer's weights are weights only");
_Static_assert(offsetof(struct med_layer_weights, input_norm) == 0, "its address is the layer's");

/* Whether weight `index` of a layer lies directly behind the one before it. */
static bool is_stacked(size_t index)
{
#define AT(name) (offsetof(struct med_layer_weights, name) / sizeof(struct med_weight))
    static const size_t stacked[] = {AT(k), AT(v), AT(k_bias), AT(v_bias), AT(up), AT(up_bias)};
    _Static_assert(AT(k) == AT(q) + 1 && AT(v) == AT(k) + 1 && AT(k_bias) == AT(q_bias) + 1 &&
                       AT(v_bias) == AT(k_bias) + 1 && AT(up) == AT(gate) + 1 &&
                       AT(up_bias) == AT(gate_bias) + 1,
                   "what is stacked is declared side by side");
#undef AT
    for (size_t i = 0; i < sizeof stacked / sizeof *stacked; i++) {
        if (stacked[i] == index)
            return true;
    }
    return false;
}

/* Where the weights from[count] lie in one piece of memory at `base`; returns its bytes. */
static size_t weights_place(const struct med_weight *from, size_t count, enum med_dtype dtype,
                            const char *base, struct med_weight *to)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        to[i] = (struct med_weight){0};
        if (!from[i].data)
            continue;
        if (!is_stacked(i))
            bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
        to[i] = (struct med_weight){.data = base ? base + bytes : NULL,
                                    .dtype = dtype,
                                    .rows = from[i].rows,
                                    .columns = from[i].columns};
        bytes += (size_t)(from[i].rows * from[i].columns) * med_dtype_bytes(dtype);
    }
    return bytes;
}

static int weights_load(struct med_cuda *d, const struct med_weight *from, size_t count,
                        struct med_weight *to)
{
    struct med_weight placed[LAYER_WEIGHTS];
    char *base = NULL;
    int rc = 0;
    if (d->failed)
        return MED_E_CUDA;
    d->loader->dtype = d->dtype;
    cudaError_t status =
        cudaMalloc((void **)&base, weights_place(from, count, d->dtype, NULL, placed) + 1);
    if (status == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        rc = MED_E_NOMEM;
        goto out;
    }
    MED_CUDA_OP_GOTO(status, d, rc, out);
    (void)weights_place(from, count, d->dtype, base, placed);
    rc = jobs_add(d->loader, from, placed, count);
    if (rc < 0)
        goto out;
    memcpy(to, placed, count * sizeof *to);
    return 0;
out:
    /* Nothing may be written any more where the caller now gives memory back. */
    lanes_stop(d->loader, true);
    if (failure_take(d) < 0)
        rc = MED_E_CUDA;
    med_cuda_release(d, base);
    return rc;
}

int med_cuda_load(void *device, const struct med_weight *host, struct med_weight *ret_weight)
{
    MED_ASSERT(host->data);
    return weights_load(device, host, 1, ret_weight);
}

int med_cuda_load_layer(void *device, const struct med_layer_weights *host,
                        struct med_layer_weights *ret_layer)
{
    MED_ASSERT(host->input_norm.data); /* what unload_layer knows the allocation by */
    return weights_load(device, (const struct med_weight *)(const void *)host, LAYER_WEIGHTS,
                        (struct med_weight *)(void *)ret_layer);
}

int med_cuda_load_end(void *device)
{
    struct med_cuda *d = device;
    if (d->failed)
        return MED_E_CUDA;
    lanes_stop(d->loader, false);
    return failure_take(d);
}

void med_cuda_unload(void *device, struct med_weight *weight)
{
    struct med_cuda *d = device;
    if (d->loader && d->loader->lanes_running > 0)
        lanes_stop(d->loader, true);
    med_cuda_release(d, (void *)(uintptr_t)weight->data);
    *weight = (struct med_weight){0};
}

void med_cuda_unload_layer(void *device, struct med_layer_weights *layer)
{
    med_cuda_unload(device, &layer->input_norm);
    *layer = (struct med_layer_weights){0};
}

/* ---- life ------------------------------------------------------------------------------------- */

int med_cuda_loader_new(struct med_cuda *d)
{
    struct med_cuda_loader *l = med_calloc(1, sizeof *l);
    if (!l)
        return MED_E_NOMEM;
    int cores = med_os_cores(NULL, 0);
    l->device = d->config.device;
    l->dtype = d->dtype;
    l->lanes_max = cores < LANES_MAX ? cores : LANES_MAX;
    MED_ASSERT(pthread_mutex_init(&l->shared.lock, NULL) == 0);
    MED_ASSERT(pthread_cond_init(&l->shared.more, NULL) == 0);
    d->loader = l;
    return 0;
}

void med_cuda_loader_free(struct med_cuda *d)
{
    struct med_cuda_loader *l = d->loader;
    if (!l)
        return;
    lanes_stop(l, true);
    MED_ASSERT(pthread_cond_destroy(&l->shared.more) == 0);
    MED_ASSERT(pthread_mutex_destroy(&l->shared.lock) == 0);
    med_free(l);
    d->loader = NULL;
}
