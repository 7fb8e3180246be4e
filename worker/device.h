/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What computes, by the name of its backend: "cpu" or "cuda".
 *
 * Who sets up a worker or a benchmark asks here and knows no device by name; device.c is the only file
 * that knows whether this build has CUDA.
 *
 * thread: main makes and releases; ops and get_stats are the engine's while it runs.
 * owns: struct med_device owns `self`; strings are its own or constant.
 * errors: MED_E_USAGE a backend that this build lacks, MED_E_INVALID a GPU that is not there, and the
 * codes of the device, with a sentence.
 */
#ifndef MED_WORKER_DEVICE_H
#define MED_WORKER_DEVICE_H

#include "worker/cpu/cpu.h"
#include "worker/ops.h"

struct med_device_config {
    const char *backend;
    bool deterministic;
    struct med_cpu_config cpu; /* its deterministic is the one above */
    /* "cuda" alone. */
    int gpu;               /* as CUDA counts */
    int64_t watchdog_ns;   /* real time; 0: none */
    const char *cache_dir; /* of timed algorithms; NULL: none */
    bool no_graphs;
};

enum {
    MED_DEVICE_TEXT_BYTES = 384
};

struct med_device {
    const char *backend; /* "cpu" */
    const struct med_ops *ops;
    void *self;                              /* what the ops are given; NULL: there is no device */
    char description[MED_DEVICE_TEXT_BYTES]; /* "OpenBLAS 0.3.21, Zen, AVX2": of one line */
    char name[MED_DEVICE_TEXT_BYTES];        /* of a GPU: "NVIDIA H100 80GB HBM3"; else "" */
    char pci[32];                            /* of a GPU, its bus id */
    int threads;                             /* of this process that compute; at least 1 */
    int gpu;                                 /* as CUDA counts */
    /* Memory of its own; total 0: it computes in the machine's. */
    int64_t memory_bytes, memory_free_bytes; /* free as it was when the device was made */
    int64_t reserve_bytes; /* of it, beside what ops take: context, kernels, graphs */
    int64_t staging_bytes; /* of the machine's memory at most: driver, pinned buffers */
    /* What its maker promises; 0: not known. */
    double peak_bytes_per_s, peak_flops_per_s;
};

/* On failure *device is left without `self`. */
int med_device_init(struct med_device *device, const struct med_device_config *config,
                    struct med_err *err) MED_MUST_CHECK;
/* Accepts a zeroed device.  One that has failed is not asked anything any more. */
void med_device_release(struct med_device *device);

struct med_device_stats {
    int64_t graphs, replayed_total, queued_total; /* steps recorded; runs replayed, and op by op */
    int64_t tuned, tuned_before;                  /* algorithms timed, and found in the cache_dir */
    double record_seconds, tune_seconds;
    int64_t pinned_bytes;
};
/* Zeros where a device records nothing. */
void med_device_get_stats(const struct med_device *device, struct med_device_stats *ret_stats);

/* Free memory of a device that has its own, now; < 0: not known. thread: main, engine not running. */
int64_t med_device_memory_free(const struct med_device *device);

/* What the device does at most, measured on the spot with memory of its own; takes seconds. */
struct med_device_limits {
    double read_bytes_per_s, read_spread;
    double flops_per_s, flops_spread; /* of bf16 products; of a CPU: float32 ones */
};
int med_device_measure(const struct med_device_config *config, struct med_device_limits *ret_limits,
                       struct med_err *err) MED_MUST_CHECK;

#endif
