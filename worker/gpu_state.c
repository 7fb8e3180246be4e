/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NVML by name (see gpu_state.h).  Each value is asked for on its own: an old driver or a virtual GPU
 * may lack some.
 * thread: main.  Changes nothing of the GPU.
 */
#include "worker/gpu_state.h"

#include <dlfcn.h>
#include <string.h>

enum {
    NVML_CLOCK_SM = 1,
    NVML_CLOCK_MEMORY = 2,
    NVML_TEMPERATURE_GPU = 0
};

typedef void *device;
typedef int plain(void);
typedef int by_pci(const char *pci, device *ret_device);
typedef int driver_text(char *text, unsigned bytes);
typedef int device_text(device d, char *text, unsigned bytes);
typedef int device_kind_value(device d, int kind, unsigned *ret_value);
typedef int device_value(device d, unsigned *ret_value);

/* *to, a function pointer, is NULL where there is none.  ISO C has no cast from an object pointer to a
 * function; POSIX says that this one holds. */
static void find_function(void *library, const char *name, void *to, size_t bytes)
{
    void *found = dlsym(library, name);
    memcpy(to, &found, bytes);
}

static uint32_t read_value(void *library, device d, const char *name)
{
    device_value *read;
    unsigned value = 0;
    find_function(library, name, &read, sizeof read);
    return read && read(d, &value) == 0 ? value : 0;
}

static uint32_t read_kind(void *library, device d, const char *name, int kind)
{
    device_kind_value *read;
    unsigned value = 0;
    find_function(library, name, &read, sizeof read);
    return read && read(d, kind, &value) == 0 ? value : 0;
}

static void read_device(void *library, device d, struct med_gpu_state *state)
{
    device_text *uuid;
    find_function(library, "nvmlDeviceGetUUID", &uuid, sizeof uuid);
    if (uuid && uuid(d, state->uuid, sizeof state->uuid) != 0)
        state->uuid[0] = '\0';
    state->clock_mhz = read_kind(library, d, "nvmlDeviceGetClockInfo", NVML_CLOCK_SM);
    state->clock_max_mhz = read_kind(library, d, "nvmlDeviceGetMaxClockInfo", NVML_CLOCK_SM);
    state->memory_clock_mhz = read_kind(library, d, "nvmlDeviceGetClockInfo", NVML_CLOCK_MEMORY);
    state->power_w = read_value(library, d, "nvmlDeviceGetPowerUsage") / 1000;
    state->power_limit_w = read_value(library, d, "nvmlDeviceGetEnforcedPowerLimit") / 1000;
    state->temperature_c = read_kind(library, d, "nvmlDeviceGetTemperature", NVML_TEMPERATURE_GPU);
}

void med_gpu_state_read(const char *pci, struct med_gpu_state *ret_state)
{
    *ret_state = (struct med_gpu_state){0};
    if (!pci || pci[0] == '\0')
        return;
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return;
    plain *init, *shutdown;
    by_pci *find;
    driver_text *driver;
    device d;
    find_function(library, "nvmlInit_v2", &init, sizeof init);
    find_function(library, "nvmlShutdown", &shutdown, sizeof shutdown);
    find_function(library, "nvmlDeviceGetHandleByPciBusId_v2", &find, sizeof find);
    find_function(library, "nvmlSystemGetDriverVersion", &driver, sizeof driver);
    if (init && shutdown && find && init() == 0) {
        if (driver && driver(ret_state->driver, sizeof ret_state->driver) != 0)
            ret_state->driver[0] = '\0';
        if (find(pci, &d) == 0)
            read_device(library, d, ret_state);
        (void)shutdown(); /* there is nobody to tell */
    }
    (void)dlclose(library);
}
