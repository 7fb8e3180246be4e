/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CPU as a device: its threads, its memory, and the table of its ops (see cpu.h).
 *
 * Device memory is the heap, 64-byte aligned, its pages touched at alloc by the thread that asks.
 * Weights are not copied: the ops read the checkpoint's mapping, whose pages load brings in.  All
 * scratch is taken in prepare.
 * thread: engine.
 */
#include "worker/cpu/cpu.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/os.h"
#include "worker/cpu/internal.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum {
    ALIGN = 64,
    PAGE = 4096, /* the smallest that a machine has */
    SHARES = 4   /* of the work, per thread: one that loses its core for a while takes fewer */
};

static int64_t largest(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int cpu_alloc(void *device, size_t bytes, void **ret_memory)
{
    (void)device;
    if (bytes > SIZE_MAX - ALIGN - ALIGN)
        return MED_E_NOMEM;
    /* The block's own address lies in front of what is lent. */
    char *block = med_alloc(bytes + ALIGN + sizeof(void *));
    if (!block)
        return MED_E_NOMEM;
    uintptr_t at = ((uintptr_t)block + sizeof(void *) + ALIGN - 1) / ALIGN * ALIGN;
    char *memory = block + (at - (uintptr_t)block);
    memcpy(memory - sizeof(void *), &block, sizeof(void *));
    memset(memory, 0, bytes);
    *ret_memory = memory;
    return 0;
}

static void cpu_free(void *device, void *memory)
{
    (void)device;
    if (!memory)
        return;
    void *block;
    memcpy(&block, (char *)memory - sizeof(void *), sizeof(void *));
    med_free(block);
}

/* Reads a byte of every page, so that loading takes the time of the disk and the first step does not. */
static int cpu_load(void *device, const struct med_weight *host, struct med_weight *ret_weight)
{
    (void)device;
    size_t bytes = (size_t)(host->rows * host->columns) * med_dtype_bytes(host->dtype);
    for (size_t i = 0; i < bytes; i += PAGE)
        (void)*((const volatile char *)host->data + i);
    *ret_weight = *host;
    return 0;
}

static void cpu_unload(void *device, struct med_weight *weight)
{
    (void)device;
    *weight = (struct med_weight){0};
}

static int cpu_copy(void *device, void *to, const void *from, size_t bytes)
{
    (void)device;
    if (bytes > 0)
        memcpy(to, from, bytes);
    return 0;
}

static int64_t in_columns(const struct med_model_config *m)
{
    return largest(largest(m->hidden, m->intermediate), m->heads * m->head_dim);
}

static int64_t out_columns(const struct med_model_config *m)
{
    int64_t qkv = (m->heads + 2 * m->kv_heads) * m->head_dim;
    return largest(largest(2 * m->intermediate, qkv), m->hidden);
}

static size_t lane_floats(const struct med_model_config *m)
{
    int64_t queries = MED_CPU_QUERIES;
    return (size_t)(MED_CPU_WIDEN + queries * (2 * m->head_dim + MED_CPU_KEYS));
}

static size_t workspace_bytes(const struct med_ops_sizes *sizes)
{
    /* The sampler's scratch is a few words per token of the vocabulary. */
    const struct med_model_config *m = sizes->model;
    size_t threads = (size_t)med_os_cores(NULL, 0);
    int64_t shared = MED_CPU_ROWS * (in_columns(m) + out_columns(m)) + in_columns(m);
    return (size_t)shared * sizeof(float) +
           threads * (lane_floats(m) * sizeof(float) + (size_t)m->vocab * 16);
}

static void lanes_free(struct med_cpu *cpu)
{
    for (int i = 0; cpu->lanes && i < cpu->threads; i++) {
        cpu_free(cpu, cpu->lanes[i].wide);
        med_sampler_free(cpu->lanes[i].sampler);
    }
    med_free(cpu->lanes);
    cpu->lanes = NULL;
    cpu_free(cpu, cpu->in);
    cpu_free(cpu, cpu->out);
    cpu_free(cpu, cpu->norm);
    cpu->in = cpu->out = cpu->norm = NULL;
}

static int lanes_alloc(struct med_cpu *cpu, const struct med_model_config *m)
{
    int rc =
        cpu_alloc(cpu, (size_t)(MED_CPU_ROWS * cpu->in_columns) * sizeof(float), (void **)&cpu->in);
    if (rc == 0) {
        rc = cpu_alloc(cpu, (size_t)(MED_CPU_ROWS * cpu->out_columns) * sizeof(float),
                       (void **)&cpu->out);
    }
    if (rc == 0)
        rc = cpu_alloc(cpu, (size_t)cpu->in_columns * sizeof(float), (void **)&cpu->norm);
    cpu->lanes = med_calloc((size_t)cpu->threads, sizeof *cpu->lanes);
    if (rc < 0 || !cpu->lanes)
        return MED_E_NOMEM;
    for (int i = 0; i < cpu->threads; i++) {
        struct med_cpu_lane *lane = &cpu->lanes[i];
        rc = cpu_alloc(cpu, lane_floats(m) * sizeof(float), (void **)&lane->wide);
        if (rc < 0)
            return rc;
        lane->queries = lane->wide + MED_CPU_WIDEN;
        lane->sums = lane->queries + MED_CPU_QUERIES * m->head_dim;
        lane->scores = lane->sums + MED_CPU_QUERIES * m->head_dim;
        rc = med_sampler_new(m->vocab, &lane->sampler);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int prepare(void *device, const struct med_ops_sizes *sizes, struct med_err *err)
{
    struct med_cpu *cpu = device;
    const struct med_model_config *m = sizes->model;
    MED_ASSERT(sizes->dtype == MED_DTYPE_F32 || sizes->dtype == MED_DTYPE_BF16);
    lanes_free(cpu);
    cpu->in_columns = in_columns(m);
    cpu->out_columns = out_columns(m);
    cpu->head_dim_max = m->head_dim;
    if (cpu->core_count > 0)
        (void)med_os_thread_pin(pthread_self(), cpu->cores[0]); // a hint, as in pool.c
    int rc = lanes_alloc(cpu, m);
    if (rc < 0) {
        lanes_free(cpu);
        return med_err_set(err, rc, "CPU backend: no memory for %zu bytes of scratch",
                           workspace_bytes(sizes));
    }
    return med_cpu_blas_prepare(cpu);
}

struct split {
    med_cpu_range *fn;
    void *arg;
    int64_t count, share;
    atomic_int_least64_t next; /* begin of the next share that nobody has taken */
};

static void split_piece(void *arg, int thread, int threads)
{
    struct split *s = arg;
    (void)threads;
    for (;;) {
        int64_t begin = atomic_fetch_add_explicit(&s->next, s->share, memory_order_relaxed);
        if (begin >= s->count)
            return;
        int64_t end = begin + s->share < s->count ? begin + s->share : s->count;
        s->fn(s->arg, begin, end, thread);
    }
}

void med_cpu_split(struct med_cpu *cpu, int64_t count, int64_t grain, med_cpu_range *fn, void *arg)
{
    if (count <= 0)
        return;
    if (cpu->threads == 1 || count < 2 * grain) {
        fn(arg, 0, count, 0);
        return;
    }
    int64_t shares = (int64_t)cpu->threads * SHARES;
    int64_t share = (count + shares - 1) / shares;
    struct split s = {.fn = fn, .arg = arg, .count = count, .share = largest(share, grain)};
    atomic_init(&s.next, 0);
    med_cpu_pool_run(cpu->pool, split_piece, &s);
}

/* The weights of a layer are nothing but weights, so they are walked as an array. */
enum {
    LAYER_WEIGHTS = sizeof(struct med_layer_weights) / sizeof(struct med_weight)
};
_Static_assert(sizeof(struct med_layer_weights) == LAYER_WEIGHTS * sizeof(struct med_weight),
               "a layer's weights are weights only");

static int cpu_load_layer(void *device, const struct med_layer_weights *host,
                          struct med_layer_weights *ret_layer)
{
    const struct med_weight *from = (const struct med_weight *)(const void *)host;
    struct med_weight *to = (struct med_weight *)(void *)ret_layer;
    int rc = 0;
    for (int i = 0; rc == 0 && i < LAYER_WEIGHTS; i++) {
        if (from[i].data)
            rc = cpu_load(device, &from[i], &to[i]);
    }
    return rc;
}

static int cpu_load_end(void *device)
{
    (void)device;
    return 0;
}

static void cpu_unload_layer(void *device, struct med_layer_weights *layer)
{
    struct med_weight *weights = (struct med_weight *)(void *)layer;
    for (int i = 0; i < LAYER_WEIGHTS; i++) {
        if (weights[i].data)
            cpu_unload(device, &weights[i]);
    }
}

static int cpu_run(void *device, const struct med_ops_batch *host, med_ops_forward *forward,
                   void *arg)
{
    (void)device;
    return forward(arg, host);
}

static const struct med_ops cpu_ops = {
    .name = "cpu",
    .workspace_bytes = workspace_bytes,
    .prepare = prepare,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .load = cpu_load,
    .load_layer = cpu_load_layer,
    .load_end = cpu_load_end,
    .unload = cpu_unload,
    .unload_layer = cpu_unload_layer,
    .put = cpu_copy,
    .get = cpu_copy,
    .run = cpu_run,
    .embed = med_cpu_embed,
    .qkv = med_cpu_qkv,
    .attend = med_cpu_attend,
    .project = med_cpu_project,
    .gate_up = med_cpu_gate_up,
    .head = med_cpu_head,
    .sample = med_cpu_sample,
};

const struct med_ops *med_cpu_ops(void)
{
    return &cpu_ops;
}

static int cores_take(struct med_cpu *cpu, const struct med_cpu_config *config)
{
    int usable[MED_CPU_THREADS_MAX];
    int found = med_os_cores(usable, MED_CPU_THREADS_MAX);
    if (found < 1)
        found = 1;
    cpu->threads = config->threads;
    if (cpu->threads == 0)
        cpu->threads = found < MED_CPU_THREADS_MAX ? found : MED_CPU_THREADS_MAX;
    if (!config->pin)
        return 0;
    const int *cores = config->core_count > 0 ? config->cores : usable;
    cpu->core_count = config->core_count > 0 ? config->core_count : (size_t)found;
    if (cpu->core_count > MED_CPU_THREADS_MAX)
        cpu->core_count = MED_CPU_THREADS_MAX;
    cpu->cores = med_calloc(cpu->core_count, sizeof *cpu->cores);
    if (!cpu->cores)
        return MED_E_NOMEM;
    memcpy(cpu->cores, cores, cpu->core_count * sizeof *cpu->cores);
    return 0;
}

int med_cpu_new(const struct med_cpu_config *config, struct med_cpu **ret_cpu, struct med_err *err)
{
    if (config->threads < 0 || config->threads > MED_CPU_THREADS_MAX) {
        return med_err_set(err, MED_E_INVALID,
                           "CPU backend: %d threads, expected 1 to %d, or 0 for one per core",
                           config->threads, MED_CPU_THREADS_MAX);
    }
    struct med_cpu *cpu = med_calloc(1, sizeof *cpu);
    if (!cpu)
        return med_err_set(err, MED_E_NOMEM, "CPU backend: no memory");
    cpu->deterministic = config->deterministic;
    cpu->kernels = med_cpu_kernels_best();
    char blas[96];
    med_cpu_blas_describe(blas, sizeof blas);
    bool fits = med_cpu_blas_usable(cpu->kernels);
    cpu->blas = fits && !config->deterministic;
    (void)snprintf(cpu->text, sizeof cpu->text, "%s%s, %s", blas, fits ? "" : " (slower: not used)",
                   cpu->kernels->name);
    int rc = cores_take(cpu, config);
    if (rc < 0) {
        (void)med_err_set(err, rc, "CPU backend: no memory");
    } else {
        rc = med_cpu_pool_new(cpu->threads, cpu->cores, cpu->core_count, &cpu->pool, err);
    }
    if (rc < 0) {
        med_cpu_free(cpu);
        return rc;
    }
    *ret_cpu = cpu;
    return 0;
}

void med_cpu_free(struct med_cpu *cpu)
{
    if (!cpu)
        return;
    lanes_free(cpu);
    med_cpu_pool_free(cpu->pool);
    med_free(cpu->cores);
    med_free(cpu);
}

int med_cpu_threads(const struct med_cpu *cpu)
{
    return cpu->threads;
}

const char *med_cpu_describe(const struct med_cpu *cpu)
{
    return cpu->text;
}
