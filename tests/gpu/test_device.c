/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device itself: facts and refusals, memory, copies, the watchdog, and what is left of a device
 * that failed.  The kernel that traps comes last: it ends the process's context.
 */
#include "base/alloc.h"
#include "tests/gpu/gpu.h"
#include "tests/gpu/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct med_cuda_config plain = {.device = 0};

static struct med_ops_sizes sizes_of(const struct med_model_config *model)
{
    return (struct med_ops_sizes){.model = model,
                                  .dtype = MED_DTYPE_BF16,
                                  .kv_dtype = MED_DTYPE_BF16,
                                  .rows_max = 64,
                                  .items_max = 8,
                                  .samples_max = 8,
                                  .model_len_max = 256,
                                  .block_tokens = 16};
}

static struct med_cuda *device_of(const struct med_cuda_config *config)
{
    struct med_model_config model = gpu_model(256, 4, 2, 64, 512, 1000);
    struct med_ops_sizes sizes = sizes_of(&model);
    return gpu_device(config, &sizes);
}

static void test_facts(void)
{
    struct med_cuda_facts f = {0};
    struct med_err err = {0};
    int rc = med_cuda_facts_read(0, &f, &err);
    gpu_report(
        "facts",
        rc == 0 && f.compute_major >= 8 && f.multiprocessors > 0 && f.name[0] && f.free_bytes > 0 &&
            f.free_bytes <= f.total_bytes,
        "%s, compute %d.%d, %d multiprocessors, driver %d, %.1f of %.1f GiB free, %.0f GB/s%s",
        f.name, f.compute_major, f.compute_minor, f.multiprocessors, f.driver_version,
        (double)f.free_bytes / 0x1p30, (double)f.total_bytes / 0x1p30,
        f.bandwidth_bytes_per_s / 1e9, err.text);
}

static void test_refusals(void)
{
    static const int devices[] = {-1, 999};
    for (size_t i = 0; i < 2; i++) {
        struct med_err err = {0};
        struct med_cuda *d = NULL;
        struct med_cuda_facts facts;
        const struct med_cuda_config config = {.device = devices[i]};
        int rc = med_cuda_facts_read(devices[i], &facts, NULL);
        gpu_report("refusal.facts", rc == MED_E_INVALID, "%d", rc);
        rc = med_cuda_new(&config, &d, &err);
        gpu_report("refusal.new", rc == MED_E_INVALID && !d && strstr(err.text, "does not exist"),
                   "%s", err.text);
    }
}

static void test_memory(void)
{
    static const size_t sizes[] = {0, 1, 31, 33, 4096, (1 << 20) + 7};
    struct med_cuda *d = device_of(&plain);
    const struct med_ops *ops = med_cuda_ops();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t n = sizes[i], wrong = 0;
        unsigned char *host = malloc(n + 1), *back = malloc(n + 1);
        void *memory = NULL;
        if (!host || !back)
            exit(1);
        memset(back, 0xff, n + 1);
        int rc = ops->alloc(d, n, &memory);
        if (rc == 0)
            rc = ops->get(d, back, memory, n);
        for (size_t k = 0; k < n; k++) {
            wrong += back[k] != 0;
            host[k] = (unsigned char)gpu_random_bits();
        }
        bool aligned = (uintptr_t)memory % 256 == 0;
        if (rc == 0)
            rc = ops->put(d, memory, host, n);
        if (rc == 0)
            rc = ops->get(d, back, memory, n);
        char name[64];
        (void)snprintf(name, sizeof name, "memory.%zu", n);
        gpu_report(name, rc == 0 && memory && aligned && !wrong && memcmp(host, back, n) == 0,
                   "rc %d, %zu bytes not zero", rc, wrong);
        ops->free(d, memory);
        free(host);
        free(back);
    }
    void *memory = NULL;
    int rc = ops->alloc(d, (size_t)1 << 48, &memory);
    gpu_report("memory.too_much", rc == MED_E_NOMEM && !memory, "%d", rc);
    rc = ops->alloc(d, 64, &memory);
    gpu_report("memory.after_too_much", rc == 0 && !d->failed, "%d", rc);
    ops->free(d, memory);
    ops->free(d, NULL);
    med_cuda_free(d);
    med_cuda_free(NULL);
}

/* Twice, so that what prepare took the first time is given back. */
static void test_prepare(void)
{
    struct med_model_config model = gpu_model(256, 4, 2, 64, 512, 1000);
    struct med_ops_sizes sizes = sizes_of(&model);
    struct med_err err = {0};
    struct med_cuda *d = gpu_device(&plain, &sizes);
    const struct med_ops *ops = med_cuda_ops();
    struct med_cuda_facts before, after;
    int rc = med_cuda_facts_read(0, &before, &err);
    for (int i = 0; rc == 0 && i < 10; i++)
        rc = ops->prepare(d, &sizes, &err);
    if (rc == 0)
        rc = med_cuda_facts_read(0, &after, &err);
    gpu_report("prepare.again", rc == 0 && after.free_bytes >= before.free_bytes - (4 << 20),
               "%zu bytes of workspace, %lld lost%s", ops->workspace_bytes(&sizes),
               (long long)(before.free_bytes - after.free_bytes), err.text);
    sizes.rows_max = sizes.items_max = (int64_t)1 << 40;
    rc = ops->prepare(d, &sizes, &err);
    gpu_report("prepare.too_much", rc == MED_E_NOMEM && strstr(err.text, "no memory"), "%s",
               err.text);
    med_cuda_free(d);
}

/* Each allocation on the host fails in turn, once: a sentence, nothing lost, and the next try succeeds. */
static void test_no_memory(void)
{
    struct med_model_config model = gpu_model(256, 4, 2, 64, 512, 1000);
    struct med_ops_sizes sizes = sizes_of(&model);
    const struct med_cuda_config config = {.device = 0, .cache_dir = "/nonexistent/medley"};
    int64_t before = med_alloc_bytes_live();
    int failed = 0, wrong = 0;
    enum {
        TRIES_MAX = 200
    };
    for (int n = 1; n <= TRIES_MAX; n++) {
        struct med_cuda *d = NULL;
        struct med_err err = {0};
        (void)med_alloc_fail_nth((uint64_t)n);
        int rc = med_cuda_new(&config, &d, &err);
        if (rc == 0)
            rc = med_cuda_ops()->prepare(d, &sizes, &err);
        bool all_made = med_alloc_fail_nth(0) < (uint64_t)n;
        failed += rc < 0;
        wrong += all_made ? rc != 0 : rc != MED_E_NOMEM || !err.text[0];
        med_cuda_free(d);
        wrong += med_alloc_bytes_live() != before;
        if (all_made)
            break;
    }
    gpu_report("no_memory", wrong == 0 && failed > 0, "%d tries failed, %d not as they should",
               failed, wrong);
}

/* Every call fails, and says what the first failure was. */
static void dead_check(const char *name, struct med_cuda *d, const char *why)
{
    static const int32_t zeros[2] = {0, 1};
    const struct med_ops *ops = med_cuda_ops();
    const struct med_ops_batch batch = {.rows = 1,
                                        .items = 1,
                                        .ids = (const uint32_t *)zeros,
                                        .sources = zeros,
                                        .positions = zeros,
                                        .slots = zeros,
                                        .item_rows = zeros,
                                        .contexts = zeros,
                                        .tables = zeros,
                                        .table_stride = 1};
    const struct med_weight weight = {.data = zeros, .rows = 1, .columns = 2};
    struct med_weight loaded;
    struct med_err err = {0}, record = {0};
    void *memory = NULL;
    char byte = 0;
    const int got[] = {ops->alloc(d, 1, &memory),
                       ops->put(d, d->normed, &byte, 1),
                       ops->get(d, &byte, d->normed, 1),
                       ops->load(d, &weight, &loaded),
                       ops->load_end(d),
                       ops->record(d, gpu_chain_forward, NULL, &record),
                       ops->run(d, &batch, gpu_chain_forward, NULL),
                       ops->mark(d, 0),
                       ops->wait(d, 0)};
    int alive = 0;
    for (size_t i = 0; i < sizeof got / sizeof *got; i++)
        alive += got[i] != MED_E_CUDA;
    ops->failure(d, &err);
    gpu_report(name, alive == 0 && err.code == MED_E_CUDA && strstr(err.text, why),
               "%d calls live, %s", alive, err.text);
}

static void test_watchdog(void)
{
    const struct med_cuda_config config = {.watchdog_ns = INT64_C(50000000)};
    struct med_cuda *d = device_of(&config);
    const struct med_ops *ops = med_cuda_ops();
    int *flag = NULL;
    if (cudaHostAlloc((void **)&flag, sizeof *flag, cudaHostAllocMapped) != cudaSuccess)
        exit(1);
    *flag = 1;
    int rc = gpu_spin(d, flag);
    if (rc == 0)
        rc = ops->mark(d, 1);
    if (rc == 0)
        rc = ops->wait(d, 1);
    gpu_report("watchdog.in_time", rc == 0, "%d", rc);
    *(volatile int *)flag = 0;
    rc = gpu_spin(d, flag);
    if (rc == 0)
        rc = ops->mark(d, 0);
    gpu_report("watchdog.queues", rc == 0, "%d", rc);
    rc = ops->wait(d, 0);
    gpu_report("watchdog.late", rc == MED_E_CUDA, "%d", rc);
    dead_check("watchdog.dead", d, "watchdog");
    med_cuda_free(d); /* the kernel still runs */
    *(volatile int *)flag = 1;
    gpu_report("watchdog.flag", cudaDeviceSynchronize() == cudaSuccess, "the GPU is well");
}

static void test_sticky(void)
{
    struct med_cuda *d = device_of(&plain);
    const struct med_ops *ops = med_cuda_ops();
    struct med_err before = {0}, after = {0};
    int rc = gpu_trap(d);
    if (rc == 0)
        rc = ops->mark(d, 0);
    if (rc == 0)
        rc = ops->wait(d, 0);
    ops->failure(d, &before);
    gpu_report("sticky.trap", rc == MED_E_CUDA, "%s", before.text);
    dead_check("sticky.dead", d, before.text);
    ops->failure(d, &after);
    gpu_report("sticky.first", strcmp(before.text, after.text) == 0, "%s", after.text);
    med_cuda_free(d);
    struct med_err err = {0};
    d = NULL;
    rc = med_cuda_new(&plain, &d, &err);
    gpu_report("sticky.new", rc < 0 && err.text[0], "%s", err.text);
}

int main(void)
{
    test_facts();
    test_refusals();
    test_memory();
    test_prepare();
    test_no_memory();
    test_watchdog();
    if (!getenv("GPU_QUICK")) /* a sanitizer would report the trap */
        test_sticky();
    return gpu_finish();
}
