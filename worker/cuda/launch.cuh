/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Launching kernels, and what every kernel shares on the device: programmatic dependent launch, types.
 *
 * With d->pdl a kernel may start while the one before it on the stream still runs.  The rules:
 *   - every block of every kernel that is launched here calls med_grid_wait() before it touches (reads
 *     or writes) anything but weights and constants, and before it leaves, also a block without work:
 *     a kernel's end then implies the end of all before it;
 *   - it calls med_grid_go() as early as its own resources allow: the next kernel's blocks may then be
 *     placed beside it, fetch their weights and wait.
 * Memory that is written once before READY (weights, frequencies) may be read before the wait; index
 * arrays, plans and activations may not.
 * Without d->pdl both are nothing and launches are ordinary.
 *
 * CUDA C++17; included by .cu files alone.
 */
#ifndef MED_WORKER_CUDA_LAUNCH_CUH
#define MED_WORKER_CUDA_LAUNCH_CUH

#include "worker/cuda/check.h"
#include "worker/cuda/internal.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

static __device__ __forceinline__ void med_grid_wait(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

static __device__ __forceinline__ void med_grid_go(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

struct med_launch {
    dim3 grid, block;
    size_t shared_bytes;
};

/* Queues kernel(arguments...) on the device's stream; returns 0 or MED_E_CUDA. */
template <typename... Parameters, typename... Arguments>
static int med_launch_on(struct med_cuda *d, const struct med_launch &launch,
                         void (*kernel)(Parameters...), Arguments... arguments)
{
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = launch.grid;
    config.blockDim = launch.block;
    config.dynamicSmemBytes = launch.shared_bytes;
    config.stream = d->stream;
    config.attrs = &overlap;
    config.numAttrs = d->pdl ? 1 : 0;
    cudaError_t status = cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
    if (status == cudaSuccess)
        return 0;
    (void)cudaGetLastError();
    return med_cuda_fail(d, __FILE__, __LINE__, "cudaLaunchKernelEx", cudaGetErrorString(status));
}

/* ---- element types --------------------------------------------------------------------------- */

template <typename T> static __device__ __forceinline__ float med_widen(T value);
template <> __device__ __forceinline__ float med_widen<float>(float value)
{
    return value;
}
template <> __device__ __forceinline__ float med_widen<__nv_bfloat16>(__nv_bfloat16 value)
{
    return __bfloat162float(value);
}
template <> __device__ __forceinline__ float med_widen<__half>(__half value)
{
    return __half2float(value);
}

template <typename T> static __device__ __forceinline__ T med_narrow(float value);
template <> __device__ __forceinline__ float med_narrow<float>(float value)
{
    return value;
}
template <> __device__ __forceinline__ __nv_bfloat16 med_narrow<__nv_bfloat16>(float value)
{
    return __float2bfloat16_rn(value);
}
template <> __device__ __forceinline__ __half med_narrow<__half>(float value)
{
    return __float2half_rn(value);
}

/* Calls body with a value of the C++ type of `dtype`; F32, BF16 or F16. Returns what body returns. */
template <typename Body> static int med_with_type(enum med_dtype dtype, Body body)
{
    if (dtype == MED_DTYPE_F32)
        return body(float());
    return dtype == MED_DTYPE_F16 ? body(__half()) : body(__nv_bfloat16());
}

#endif
