/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the GPU test programs share: a device, random arrays, comparison with a reference in double
 * precision, one line per case.
 *
 * Values are kept on the host as double, rounded to the dtype that the device will see, so that the
 * reference starts from the very numbers that the kernel reads.
 * thread: main. Everything fails loudly: a CUDA error or lack of memory prints a line and exits 1.
 */
#ifndef MED_TESTS_GPU_GPU_H
#define MED_TESTS_GPU_GPU_H

#include "worker/cuda/internal.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A device of the first GPU, prepared for a model of these sizes; see gpu_model. */
struct med_cuda *gpu_device(const struct med_cuda_config *config,
                            const struct med_ops_sizes *sizes);
/* A model shape for tests: no checkpoint behind it. */
struct med_model_config gpu_model(int64_t hidden, int64_t heads, int64_t kv_heads, int64_t head_dim,
                                  int64_t intermediate, int64_t vocab);

struct gpu_array {
    size_t count;
    enum med_dtype dtype;
    double *host; // [count], as dtype rounds them
    void *device; // [count] of dtype
};
/* Nearly normal with standard deviation `scale`; one value in `outlier_every` (0: none) is 50 times
 * as large. The seed is GPU_SEED of the environment, or the time, and is printed once. */
struct gpu_array gpu_random(size_t count, enum med_dtype dtype, double scale, size_t outlier_every);
/* Poisoned: every byte 0xFF (NaN in every dtype). */
struct gpu_array gpu_poisoned(size_t count, enum med_dtype dtype);
void gpu_array_free(struct gpu_array *array);
/* A copy to the device that has arrived there: cudaMemcpy may return before, and a device's stream waits for
 * no other. */
void gpu_put(void *device, const void *host, size_t bytes);
int32_t *gpu_ints(const int32_t *host, size_t count); /* a copy on the device */
uint64_t gpu_random_bits(void);
double gpu_round(double value, enum med_dtype dtype);

/* Synchronises, fetches `got` and compares: passes if every |got - want| <= absolute + relative * |want|;
 * prints the line with the worst element, as a part of what is allowed.  Returns whether it passed. */
bool gpu_compare(const char *name, const struct gpu_array *got, const double *want, double absolute,
                 double relative);
/* One line, for everything else. */
bool gpu_report(const char *name, bool passed, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Exit status of the program: 1 if a line failed or none was printed. */
int gpu_finish(void);

/* Median, smallest and largest of `repeats` timed runs of fn, each of `inner` calls, in microseconds per
 * call; recorded as a graph if `graph`. For benchmarks. */
struct gpu_time {
    double median_us, min_us, max_us;
};
struct gpu_time gpu_time(struct med_cuda *d, void (*fn)(void *arg, int index), void *arg, int inner,
                         int repeats, bool graph);

#ifdef __cplusplus
}
#endif

#endif
