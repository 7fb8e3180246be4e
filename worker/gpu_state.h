/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the driver says of a GPU now: version, clocks, power.  Through NVML, which the driver brings and
 * which is loaded when it is asked for; a machine without it says nothing, which is no error.
 *
 * thread: main. owns: nothing is kept.
 * source: the NVML API reference; its functions are called by name.
 */
#ifndef MED_WORKER_GPU_STATE_H
#define MED_WORKER_GPU_STATE_H

#include <stdint.h>

enum {
    MED_GPU_STATE_TEXT = 96 /* as NVML's strings */
};

/* Empty and 0: not known. */
struct med_gpu_state {
    char driver[MED_GPU_STATE_TEXT], uuid[MED_GPU_STATE_TEXT];
    uint32_t clock_mhz, clock_max_mhz, memory_clock_mhz, power_w, power_limit_w, temperature_c;
};

/* pci: the GPU's bus id, "00000000:1B:00.0" or as CUDA writes it; NULL or "": there is none. */
void med_gpu_state_read(const char *pci, struct med_gpu_state *ret_state);

#endif
