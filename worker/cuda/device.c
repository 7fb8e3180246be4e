/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A GPU as a device: what it is, its memory, the table of its ops, its first failure (see cuda.h).
 *
 * new looks at the GPU and takes a stream; prepare takes everything that a step needs, part after part;
 * free gives it back in reverse.  A failed device is left alone by free: a context that has seen a
 * fault answers nothing, and one whose kernel never ends would keep free waiting.
 *
 * thread: new may be called by another thread than the engine's, which begins with prepare; both make
 * the context current.  Computes nothing: the ops are in the other files.
 */
#include "worker/cuda/cuda.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "worker/cuda/attend.h"
#include "worker/cuda/blas.h"
#include "worker/cuda/check.h"
#include "worker/cuda/linear.h"
#include "worker/cuda/load.h"
#include "worker/cuda/record.h"
#include "worker/cuda/sample.h"

#include <stdio.h>
#include <string.h>

enum {
    COMPUTE_MIN = 80 /* bf16 in tensor cores, asynchronous copies to shared memory */
};

/* ---- facts ------------------------------------------------------------------------------------ */

static int no_device(cudaError_t status, struct med_err *err)
{
    int driver = 0;
    (void)cudaGetLastError();
    if (status == cudaErrorNoDevice)
        return med_err_set(err, MED_E_CUDA, "CUDA: no GPU is visible to this process");
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
        (void)cudaGetLastError();
        return med_err_set(err, MED_E_CUDA, "CUDA: no driver of NVIDIA is installed");
    }
    if (status == cudaErrorInsufficientDriver) {
        return med_err_set(
            err, MED_E_CUDA, "CUDA: the driver supports CUDA %d.%d, expected %d.%d or later",
            driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    }
    return med_err_set(err, MED_E_CUDA, "CUDA: the GPUs cannot be counted: %s",
                       cudaGetErrorString(status));
}

static int facts_describe(int device, struct med_cuda_facts *facts, struct med_err *err)
{
    int rc = 0, clock_khz = 0, bus_bits = 0;
    struct cudaDeviceProp properties;
    MED_CUDA_GOTO(cudaGetDeviceProperties(&properties, device), rc, out, err);
    (void)snprintf(facts->name, sizeof facts->name, "%s", properties.name);
    MED_CUDA_GOTO(cudaDeviceGetPCIBusId(facts->pci, sizeof facts->pci, device), rc, out, err);
    facts->compute_major = properties.major;
    facts->compute_minor = properties.minor;
    facts->multiprocessors = properties.multiProcessorCount;
    MED_CUDA_GOTO(cudaDriverGetVersion(&facts->driver_version), rc, out, err);
    MED_CUDA_GOTO(cudaRuntimeGetVersion(&facts->runtime_version), rc, out, err);
    /* Not every GPU has an answer to these; double data rate, hence 2. */
    if (cudaDeviceGetAttribute(&clock_khz, cudaDevAttrMemoryClockRate, device) == cudaSuccess &&
        cudaDeviceGetAttribute(&bus_bits, cudaDevAttrGlobalMemoryBusWidth, device) == cudaSuccess)
        facts->bandwidth_bytes_per_s = 2.0 * clock_khz * 1e3 * bus_bits / 8;
    (void)cudaGetLastError();
out:
    return rc;
}

int med_cuda_facts_read(int device, struct med_cuda_facts *ret_facts, struct med_err *err)
{
    struct med_cuda_facts facts = {0};
    int rc = 0, count = 0, before = 0;
    size_t free_bytes, total_bytes;
    cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess)
        return no_device(status, err);
    if (device < 0 || device >= count) {
        return med_err_set(err, MED_E_INVALID, "CUDA: GPU %d does not exist, expected 0 to %d",
                           device, count - 1);
    }
    rc = facts_describe(device, &facts, err);
    if (rc < 0)
        return rc;
    if (facts.compute_major * 10 + facts.compute_minor < COMPUTE_MIN) {
        return med_err_set(err, MED_E_INVALID,
                           "CUDA: GPU %d (%s) has compute capability %d.%d, expected %d.%d or more",
                           device, facts.name, facts.compute_major, facts.compute_minor,
                           COMPUTE_MIN / 10, COMPUTE_MIN % 10);
    }
    /* Makes the context, whose own memory is not free afterwards. */
    MED_CUDA_GOTO(cudaGetDevice(&before), rc, out, err);
    MED_CUDA_GOTO(cudaSetDevice(device), rc, out, err);
    MED_CUDA_GOTO(cudaMemGetInfo(&free_bytes, &total_bytes), rc, out, err);
    facts.free_bytes = (int64_t)free_bytes;
    facts.total_bytes = (int64_t)total_bytes;
    if (before != device)
        MED_CUDA_GOTO(cudaSetDevice(before), rc, out, err);
    *ret_facts = facts;
out:
    return rc;
}

const struct med_cuda_facts *med_cuda_facts(const struct med_cuda *cuda)
{
    return &cuda->facts;
}

void med_cuda_get_stats(const struct med_cuda *cuda, struct med_cuda_stats *ret_stats)
{
    *ret_stats = cuda->stats;
}

/* ---- failures --------------------------------------------------------------------------------- */

int med_cuda_fail(struct med_cuda *d, const char *file, int line, const char *what, const char *why)
{
    if (!d->failed) {
        d->failed = true;
        (void)med_err_set(&d->failure, MED_E_CUDA, "%s:%d: %s: %s", file, line, what, why);
    }
    return MED_E_CUDA;
}

static void cuda_failure(void *device, struct med_err *ret_err)
{
    const struct med_cuda *d = device;
    *ret_err = d->failure;
}

/* ---- memory ----------------------------------------------------------------------------------- */

int med_cuda_alloc(void *device, size_t bytes, void **ret_memory)
{
    struct med_cuda *d = device;
    void *memory = NULL;
    int rc = 0;
    if (d->failed)
        return MED_E_CUDA;
    if (bytes == 0)
        bytes = 1;
    cudaError_t status = cudaMalloc(&memory, bytes);
    if (status == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return MED_E_NOMEM; /* nothing is broken */
    }
    MED_CUDA_OP_GOTO(status, d, rc, out);
    MED_CUDA_OP_GOTO(cudaMemsetAsync(memory, 0, bytes, d->stream), d, rc, out);
    MED_CUDA_OP_GOTO(cudaStreamSynchronize(d->stream), d, rc, out);
    *ret_memory = memory;
out:
    return rc;
}

void med_cuda_release(void *device, void *memory)
{
    struct med_cuda *d = device;
    if (d->failed || !memory)
        return;
    cudaError_t status = cudaFree(memory);
    if (status != cudaSuccess) {
        (void)cudaGetLastError();
        (void)med_cuda_fail(d, __FILE__, __LINE__, "cudaFree", cudaGetErrorString(status));
    }
}

static int cuda_copy(struct med_cuda *d, void *to, const void *from, size_t bytes,
                     enum cudaMemcpyKind kind)
{
    if (d->failed)
        return MED_E_CUDA;
    if (bytes == 0)
        return 0;
    MED_CUDA_OP_TRY(cudaMemcpyAsync(to, from, bytes, kind, d->stream), d);
    MED_CUDA_OP_TRY(cudaStreamSynchronize(d->stream), d);
    return 0;
}

static int cuda_put(void *device, void *to, const void *from, size_t bytes)
{
    return cuda_copy(device, to, from, bytes, cudaMemcpyHostToDevice);
}

static int cuda_get(void *device, void *to, const void *from, size_t bytes)
{
    return cuda_copy(device, to, from, bytes, cudaMemcpyDeviceToHost);
}

/* ---- parts ------------------------------------------------------------------------------------ */

/* Bytes of the intermediate results, in the order of the pointers. */
struct intermediates {
    size_t normed, qkv, gate_up;
};

static struct intermediates intermediates_of(const struct med_ops_sizes *s)
{
    const struct med_model_config *m = s->model;
    size_t row = (size_t)s->rows_max * med_dtype_bytes(s->dtype);
    return (struct intermediates){.normed = row * (size_t)m->hidden,
                                  .qkv = row * (size_t)((m->heads + 2 * m->kv_heads) * m->head_dim),
                                  .gate_up = row * (size_t)(2 * m->intermediate)};
}

static size_t cuda_workspace_bytes(const struct med_ops_sizes *sizes)
{
    struct intermediates i = intermediates_of(sizes);
    return i.normed + i.qkv + i.gate_up + med_cuda_recorder_bytes(sizes) +
           med_cuda_linear_bytes(sizes) + med_cuda_blas_bytes(sizes) +
           med_cuda_attend_bytes(sizes) + med_cuda_sampler_bytes(sizes);
}

static int intermediates_take(struct med_cuda *d)
{
    struct intermediates i = intermediates_of(&d->sizes);
    int rc = med_cuda_alloc(d, i.normed, &d->normed);
    if (rc == 0)
        rc = med_cuda_alloc(d, i.qkv, &d->qkv);
    if (rc == 0)
        rc = med_cuda_alloc(d, i.gate_up, &d->gate_up);
    return rc;
}

/* Attention before the recorder, which asks it for the size of its plans. */
static int parts_take(struct med_cuda *d)
{
    static int (*const news[])(struct med_cuda *) = {
        intermediates_take,   med_cuda_linear_new,   med_cuda_blas_new,  med_cuda_attend_new,
        med_cuda_sampler_new, med_cuda_recorder_new, med_cuda_loader_new};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof news / sizeof *news; i++)
        rc = news[i](d);
    return rc;
}

static void parts_release(struct med_cuda *d)
{
    med_cuda_loader_free(d);
    med_cuda_recorder_free(d);
    med_cuda_sampler_free(d);
    med_cuda_attend_free(d);
    med_cuda_blas_free(d);
    med_cuda_linear_free(d);
    med_cuda_release(d, d->normed);
    med_cuda_release(d, d->qkv);
    med_cuda_release(d, d->gate_up);
    d->normed = d->qkv = d->gate_up = NULL;
}

static int cuda_prepare(void *device, const struct med_ops_sizes *sizes, struct med_err *err)
{
    struct med_cuda *d = device;
    int rc = 0;
    MED_ASSERT(sizes->dtype < MED_DTYPE_COUNT);
    MED_ASSERT(sizes->rows_max >= sizes->items_max && sizes->items_max >= 1);
    MED_CUDA_GOTO(cudaSetDevice(d->config.device), rc, out, err);
    if (d->recorder) { /* prepared before, perhaps for other sizes */
        MED_CUDA_GOTO(cudaStreamSynchronize(d->stream), rc, out, err);
        parts_release(d);
    }
    d->model = *sizes->model;
    d->sizes = *sizes;
    d->sizes.model = &d->model;
    d->dtype = sizes->dtype;
    rc = parts_take(d);
    if (rc == MED_E_NOMEM) {
        (void)med_err_set(err, rc, "GPU %d: no memory for %zu bytes of intermediate results",
                          d->config.device, cuda_workspace_bytes(sizes));
    } else if (rc < 0) {
        (void)med_err_set(err, rc, "GPU %d: %s", d->config.device,
                          d->failed ? d->failure.text : med_err_text(rc));
    }
    if (rc < 0)
        parts_release(d);
out:
    return rc;
}

/* ---- life ------------------------------------------------------------------------------------- */

/* The largest of the architectures that the kernels tell apart. */
static int compute_of(const struct med_cuda_facts *facts)
{
    static const int known[] = {90, 89, 86};
    int compute = facts->compute_major * 10 + facts->compute_minor;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (compute >= known[i])
            return known[i];
    }
    return COMPUTE_MIN;
}

int med_cuda_new(const struct med_cuda_config *config, struct med_cuda **ret_cuda,
                 struct med_err *err)
{
    int shared_bytes = 0, rc = 0;
    struct med_cuda *d = med_calloc(1, sizeof *d);
    if (!d)
        return med_err_set(err, MED_E_NOMEM, "CUDA: no memory on the host");
    d->config = *config;
    d->config.cache_dir = NULL;
    if (config->cache_dir) {
        char *copy = med_strdup(config->cache_dir);
        d->config.cache_dir = copy;
        if (!copy) {
            rc = med_err_set(err, MED_E_NOMEM, "CUDA: no memory on the host");
            goto out;
        }
    }
    rc = med_cuda_facts_read(config->device, &d->facts, err);
    if (rc < 0)
        goto out;
    d->compute = compute_of(&d->facts);
    d->pdl = d->compute >= 90;
    MED_CUDA_GOTO(cudaSetDevice(config->device), rc, out, err);
    MED_CUDA_GOTO(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                         config->device),
                  rc, out, err);
    d->shared_bytes_max = (size_t)shared_bytes;
    MED_CUDA_GOTO(cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking), rc, out, err);
    *ret_cuda = d;
    d = NULL;
out:
    med_cuda_free(d);
    return rc;
}

void med_cuda_free(struct med_cuda *cuda)
{
    struct med_cuda *d = cuda;
    if (!d)
        return;
    if (d->stream && !d->failed) {
        cudaError_t status = cudaSetDevice(d->config.device);
        if (status == cudaSuccess)
            status = cudaStreamSynchronize(d->stream);
        if (status != cudaSuccess)
            (void)med_cuda_fail(d, __FILE__, __LINE__, "med_cuda_free", cudaGetErrorString(status));
    }
    parts_release(d);
    if (d->stream && !d->failed)
        (void)cudaStreamDestroy(d->stream); /* nothing can be done about it any more */
    med_free((char *)(uintptr_t)d->config.cache_dir);
    med_free(d);
}

/* ---- ops -------------------------------------------------------------------------------------- */

static const struct med_ops cuda_ops = {
    .name = "cuda",
    .f16 = true,
    .queues = true,
    .workspace_bytes = cuda_workspace_bytes,
    .prepare = cuda_prepare,
    .alloc = med_cuda_alloc,
    .free = med_cuda_release,
    .load = med_cuda_load,
    .load_layer = med_cuda_load_layer,
    .load_end = med_cuda_load_end,
    .unload = med_cuda_unload,
    .unload_layer = med_cuda_unload_layer,
    .put = cuda_put,
    .get = cuda_get,
    .record = med_cuda_record,
    .run = med_cuda_run,
    .embed = med_cuda_embed,
    .qkv = med_cuda_qkv,
    .attend = med_cuda_attend,
    .project = med_cuda_project,
    .gate_up = med_cuda_gate_up,
    .head = med_cuda_head,
    .sample = med_cuda_sample,
    .mark = med_cuda_mark,
    .wait = med_cuda_wait,
    .failure = cuda_failure,
};

const struct med_ops *med_cuda_ops(void)
{
    return &cuda_ops;
}
