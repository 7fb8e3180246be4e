/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The devices of this build (see device.h): a table from a backend's name to functions.
 *
 * Without CUDA the name "cuda" is known and refused: the options and their documentation are the same
 * in every build.
 * thread: main.  Computes nothing.
 */
#include "worker/device.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "worker/cpu/limits.h"
#include "worker/peaks.h"

#include <stdio.h>
#include <stdlib.h>
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

enum {
    CPU_READ_BYTES = 256 << 20, /* far more than caches hold */
    CPU_DIM = 1024,
    CPU_REPEATS = 5
};

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median, and (max - min) / median. */
static double median_of(double values[CPU_REPEATS], double *ret_spread)
{
    qsort(values, CPU_REPEATS, sizeof values[0], compare);
    double median = values[CPU_REPEATS / 2];
    *ret_spread = (values[CPU_REPEATS - 1] - values[0]) / median;
    return median;
}

static void cpu_time(struct med_cpu *cpu, char *memory, struct med_device_limits *limits)
{
    struct med_clock clock;
    double reads[CPU_REPEATS], products[CPU_REPEATS];
    const size_t matrix = (size_t)CPU_DIM * CPU_DIM;
    float *in = (float *)(void *)memory;
    const struct med_cpu_blas_args blas = {.rows = CPU_DIM,
                                           .outputs = CPU_DIM,
                                           .columns = CPU_DIM,
                                           .in = in,
                                           .weights = in + matrix,
                                           .out = in + 2 * matrix};
    for (size_t i = 0; i < CPU_READ_BYTES / sizeof in[0]; i++)
        in[i] = (float)(i % 251) * 1e-3f;
    med_clock_init_real(&clock, 1);
    uint64_t sum = 0;
    for (int i = 0; i < CPU_REPEATS; i++) {
        int64_t begin_ns = med_clock_now_ns(&clock);
        sum += med_cpu_read(cpu, memory, CPU_READ_BYTES);
        reads[i] = CPU_READ_BYTES / ((double)(med_clock_now_ns(&clock) - begin_ns) / 1e9);
    }
    MED_ASSERT(sum != 0); /* it had to be read */
    med_cpu_blas_threads(cpu, true);
    for (int i = 0; i < CPU_REPEATS; i++) {
        int64_t begin_ns = med_clock_now_ns(&clock);
        med_cpu_blas(&blas);
        double seconds = (double)(med_clock_now_ns(&clock) - begin_ns) / 1e9;
        products[i] = 2.0 * CPU_DIM * CPU_DIM * CPU_DIM / seconds;
    }
    med_cpu_blas_threads(cpu, false);
    limits->read_bytes_per_s = median_of(reads, &limits->read_spread);
    limits->flops_per_s = median_of(products, &limits->flops_spread);
}

static int cpu_measure(const struct med_device_config *config, struct med_device_limits *ret_limits,
                       struct med_err *err)
{
    struct med_cpu *cpu;
    char *memory = med_alloc(CPU_READ_BYTES);
    if (!memory)
        return med_err_set(err, MED_E_NOMEM, "no memory to measure the machine with");
    int rc = med_cpu_new(&config->cpu, &cpu, err);
    if (rc >= 0) {
        cpu_time(cpu, memory, ret_limits);
        med_cpu_free(cpu);
    }
    med_free(memory);
    return rc;
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
    (void)snprintf(device->name, sizeof device->name, "%s", facts->name);
    (void)snprintf(device->pci, sizeof device->pci, "%s", facts->pci);
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
    {.backend = "cpu", .init = cpu_init, .release = cpu_release, .measure = cpu_measure},
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
    return kind->measure(config, ret_limits, err);
}
