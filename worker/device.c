/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The devices of this build (see device.h): a table from a backend's name to functions.
 *
 * Without CUDA the name "cuda" is known and refused: the options and their documentation are the same
 * in every build.
 * thread: main.  Computes nothing.
 */
#include "worker/device.h"

#include "base/assert.h"
#include "worker/peaks.h"

#include <stdio.h>
#include <string.h>

#ifdef MED_HAVE_CUDA
# include "worker/cuda/cuda.h"
# include "worker/cuda/limits.h"
#endif

struct device_kind {
    const char *backend;
    int (*init)(struct med_device *device, const struct med_device_config *config,
                struct med_err *err);
    void (*release)(void *self);
    void (*get_stats)(const void *self, struct med_device_stats *ret_stats);
    int64_t (*memory_free)(const struct med_device *device);
    int (*measure)(const struct med_device_config *config, struct med_device_limits *ret_limits,
                   struct med_err *err);
};

/* ---- cpu -------------------------------------------------------------------------------------- */

static int cpu_init(struct med_device *device, const struct med_device_config *config,
                    struct med_err *err)
{
    struct med_cpu_config cpu_config = config->cpu;
    struct med_cpu *cpu;
    cpu_config.deterministic = config->deterministic;
    int rc = med_cpu_new(&cpu_config, &cpu, err);
    if (rc < 0)
        return rc;
    *device =
        (struct med_device){.ops = med_cpu_ops(), .self = cpu, .threads = med_cpu_threads(cpu)};
    (void)snprintf(device->description, sizeof device->description, "%s", med_cpu_describe(cpu));
    return 0;
}

static void cpu_release(void *self)
{
    med_cpu_free(self);
}

/* ---- cuda ------------------------------------------------------------------------------------- */

#ifdef MED_HAVE_CUDA
enum {
    GPU_RESERVE_MIB = 512, /* context, kernels as they are loaded, cuBLAS, graphs */
    GPU_STAGING_MIB = 1024 /* the driver's part of the process, pinned buffers of the loader */
};
# define MIB                (INT64_C(1) << 20)
# define MEASURE_READ_BYTES (UINT64_C(4) << 30)
enum {
    MEASURE_DIM = 8192,
    MEASURE_REPEATS = 20
};

static void cuda_fill(struct med_device *device, const struct med_cuda_facts *facts)
{
    struct med_peaks peaks;
    (void)med_peaks_find(facts->name, &peaks); /* a card that is not there has none */
    device->memory_bytes = facts->total_bytes;
    device->memory_free_bytes = facts->free_bytes;
    device->reserve_bytes = GPU_RESERVE_MIB * MIB;
    device->staging_bytes = GPU_STAGING_MIB * MIB;
    device->peak_bytes_per_s =
        facts->bandwidth_bytes_per_s > 0 ? facts->bandwidth_bytes_per_s : peaks.bytes_per_s;
    device->peak_flops_per_s = peaks.flops_per_s;
    (void)snprintf(device->description, sizeof device->description, "%s, compute %d.%d, CUDA %d.%d",
                   facts->name, facts->compute_major, facts->compute_minor,
                   facts->runtime_version / 1000, facts->runtime_version % 1000 / 10);
}

static int cuda_init(struct med_device *device, const struct med_device_config *config,
                     struct med_err *err)
{
    const struct med_cuda_config cuda_config = {.device = config->gpu,
                                                .deterministic = config->deterministic,
                                                .watchdog_ns = config->watchdog_ns,
                                                .cache_dir = config->cache_dir,
                                                .no_graphs = config->no_graphs};
    struct med_cuda *cuda;
    int rc = med_cuda_new(&cuda_config, &cuda, err);
    if (rc < 0)
        return rc;
    *device =
        (struct med_device){.ops = med_cuda_ops(), .self = cuda, .threads = 1, .gpu = config->gpu};
    cuda_fill(device, med_cuda_facts(cuda));
    return 0;
}

static void cuda_release(void *self)
{
    med_cuda_free(self);
}

static void cuda_get_stats(const void *self, struct med_device_stats *ret_stats)
{
    struct med_cuda_stats stats;
    med_cuda_get_stats(self, &stats);
    *ret_stats = (struct med_device_stats){.graphs = stats.graphs,
                                           .replayed_total = stats.replayed_total,
                                           .queued_total = stats.queued_total,
                                           .tuned = stats.blas_tuned,
                                           .tuned_before = stats.blas_cached,
                                           .record_seconds = stats.record_seconds,
                                           .tune_seconds = stats.tune_seconds,
                                           .pinned_bytes = stats.pinned_bytes};
}

static int64_t cuda_memory_free(const struct med_device *device)
{
    struct med_cuda_facts facts;
    return med_cuda_facts_read(device->gpu, &facts, NULL) < 0 ? -1 : facts.free_bytes;
}

static int cuda_measure(const struct med_device_config *config,
                        struct med_device_limits *ret_limits, struct med_err *err)
{
    struct med_cuda_limits limits;
    int rc = med_cuda_limits_measure(config->gpu, MEASURE_READ_BYTES, MEASURE_DIM, MEASURE_REPEATS,
                                     &limits, err);
    if (rc < 0)
        return rc;
    *ret_limits = (struct med_device_limits){.read_bytes_per_s = limits.read_bytes_per_s,
                                             .read_spread = limits.read_spread,
                                             .flops_per_s = limits.matrix_flops_per_s,
                                             .flops_spread = limits.matrix_spread};
    return 0;
}
#else
static int refuse_cuda(const struct med_device_config *config, struct med_err *err)
{
    return med_err_set(err, MED_E_USAGE,
                       "--backend %s: this program was built without CUDA, expected one that was "
                       "built with MED_CUDA=ON",
                       config->backend);
}

static int cuda_init(struct med_device *device, const struct med_device_config *config,
                     struct med_err *err)
{
    (void)device;
    return refuse_cuda(config, err);
}

static int cuda_measure(const struct med_device_config *config,
                        struct med_device_limits *ret_limits, struct med_err *err)
{
    (void)ret_limits;
    return refuse_cuda(config, err);
}
#endif

/* ---- the table -------------------------------------------------------------------------------- */

static const struct device_kind kinds[] = {
    {.backend = "cpu", .init = cpu_init, .release = cpu_release},
#ifdef MED_HAVE_CUDA
    {.backend = "cuda",
     .init = cuda_init,
     .release = cuda_release,
     .get_stats = cuda_get_stats,
     .memory_free = cuda_memory_free,
     .measure = cuda_measure},
#else
    {.backend = "cuda", .init = cuda_init, .measure = cuda_measure},
#endif
};

static const struct device_kind *find_kind(const char *backend)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kinds[i].backend, backend) == 0)
            return &kinds[i];
    }
    return NULL;
}

int med_device_init(struct med_device *device, const struct med_device_config *config,
                    struct med_err *err)
{
    const struct device_kind *kind = find_kind(config->backend);
    *device = (struct med_device){0};
    if (!kind) {
        return med_err_set(err, MED_E_USAGE, "--backend %s: no such device, expected cpu or cuda",
                           config->backend);
    }
    int rc = kind->init(device, config, err);
    if (rc < 0)
        return rc;
    device->backend = kind->backend;
    return 0;
}

void med_device_release(struct med_device *device)
{
    if (device->self)
        find_kind(device->backend)->release(device->self);
    *device = (struct med_device){0};
}

void med_device_get_stats(const struct med_device *device, struct med_device_stats *ret_stats)
{
    const struct device_kind *kind = find_kind(device->backend);
    *ret_stats = (struct med_device_stats){0};
    if (kind->get_stats)
        kind->get_stats(device->self, ret_stats);
}

int64_t med_device_memory_free(const struct med_device *device)
{
    const struct device_kind *kind = find_kind(device->backend);
    return kind->memory_free ? kind->memory_free(device) : -1;
}

int med_device_measure(const struct med_device_config *config, struct med_device_limits *ret_limits,
                       struct med_err *err)
{
    const struct device_kind *kind = find_kind(config->backend);
    MED_ASSERT(kind != NULL);
    if (!kind->measure) {
        return med_err_set(err, MED_E_USAGE,
                           "--backend %s: its limits are measured beside each case",
                           config->backend);
    }
    return kind->measure(config, ret_limits, err);
}
