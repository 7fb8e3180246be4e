/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conversion of weights as they are loaded (see convert.h): it reads the pinned buffer over the bus
 * itself, so that no room is needed for the unconverted numbers on the GPU.
 * Runs on a stream of the loader; not on a serving path.
 */
#include "worker/cuda/convert.h"

#include "worker/cuda/launch.cuh"

enum {
    THREADS = 256,
    BLOCKS_MAX = 1024,
    WIDTH = 4 /* numbers of a thread at a time: 8 or 16 bytes of either array */
};

template <typename T> struct alignas(WIDTH * sizeof(T)) pack {
    T at[WIDTH];
};

/*
 * to[i] = narrow(widen(from[i])).  Arrays of `count`; those of `wide` alone are aligned to WIDTH numbers.
 * Launch: a grid-stride loop; what is left over, or unaligned, goes one by one.
 */
template <typename From, typename To>
static __global__ void __launch_bounds__(THREADS)
    convert_kernel(const From *__restrict__ from, To *__restrict__ to, size_t count, bool wide)
{
    const size_t stride = (size_t)gridDim.x * THREADS;
    const size_t first = (size_t)blockIdx.x * THREADS + threadIdx.x;
    const size_t packs = wide ? count / WIDTH : 0;
    for (size_t i = first; i < packs; i += stride) {
        const pack<From> in = reinterpret_cast<const pack<From> *>(from)[i];
        pack<To> out;
#pragma unroll
        for (int k = 0; k < WIDTH; k++)
            out.at[k] = med_narrow<To>(med_widen<From>(in.at[k]));
        reinterpret_cast<pack<To> *>(to)[i] = out;
    }
    for (size_t i = packs * WIDTH + first; i < count; i += stride)
        to[i] = med_narrow<To>(med_widen<From>(from[i]));
}

template <typename From, typename To>
static cudaError_t convert(cudaStream_t stream, const void *from, void *to, size_t count)
{
    const bool wide =
        (uintptr_t)from % (WIDTH * sizeof(From)) == 0 && (uintptr_t)to % (WIDTH * sizeof(To)) == 0;
    const size_t needed = (count + THREADS * WIDTH - 1) / (THREADS * WIDTH);
    const unsigned blocks = needed < BLOCKS_MAX ? (unsigned)needed : (unsigned)BLOCKS_MAX;
    convert_kernel<From, To>
        <<<blocks, THREADS, 0, stream>>>((const From *)from, (To *)to, count, wide);
    return cudaGetLastError();
}

template <typename From>
static cudaError_t convert_from(cudaStream_t stream, const void *from, void *to,
                                enum med_dtype to_dtype, size_t count)
{
    if (to_dtype == MED_DTYPE_F32)
        return convert<From, float>(stream, from, to, count);
    if (to_dtype == MED_DTYPE_F16)
        return convert<From, __half>(stream, from, to, count);
    return convert<From, __nv_bfloat16>(stream, from, to, count);
}

extern "C" cudaError_t med_cuda_convert(cudaStream_t stream, const void *from,
                                        enum med_dtype from_dtype, void *to,
                                        enum med_dtype to_dtype, size_t count)
{
    if (count == 0)
        return cudaSuccess;
    if (from_dtype == MED_DTYPE_F32)
        return convert_from<float>(stream, from, to, to_dtype, count);
    if (from_dtype == MED_DTYPE_F16)
        return convert_from<__half>(stream, from, to, to_dtype, count);
    return convert_from<__nv_bfloat16>(stream, from, to, to_dtype, count);
}
