/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measures a GPU's read bandwidth and bf16 matrix rate, and checks what it computed while at it: a
 * bandwidth whose sum is wrong, or a product that differs from double precision, is no measurement.
 * Runs on one stream of its own; nothing here is on a serving path.
 */
#include "worker/cuda/limits.h"

#include "base/alloc.h"
#include "worker/cuda/check.h"

#include <cuda_bf16.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    READ_THREADS = 512,
    READ_UNROLL = 8, /* independent 16-byte loads in flight per thread */
    REPEATS_MAX = 1000,
    ALGORITHMS = 16,
    SAMPLES = 256, /* elements of the product that are checked */
};
static const size_t WORKSPACE_BYTES = (size_t)64 << 20;

/* Everything one measurement holds; freed in one place. */
struct bench {
    cudaStream_t stream;
    cudaEvent_t start, stop;
    void *buffer;             /* read test: uint4[]; matrix test: workspace */
    unsigned long long *sum;  /* [1] on the device */
    __nv_bfloat16 *a, *b, *c; /* [dim][dim] on the device, row-major */
    cublasLtHandle_t lt;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t layout;
    cublasLtMatmulPreference_t preference;
};

/* A 64-bit mix (the finalizer of SplitMix64), so that host and device agree on every input. */
static __host__ __device__ inline uint64_t mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

/* Element i of a random matrix, as bf16 rounds it: nearly normal (the sum of four uniform values),
 * since the power that a product draws, and so its rate, depends on how many bits change. */
static __host__ __device__ inline float element(uint64_t seed, uint64_t i)
{
    const uint64_t bits = mix(seed ^ (i * 2 + 1));
    int sum = -2 * 65535;
    for (int k = 0; k < 64; k += 16)
        sum += (int)(bits >> k & 0xFFFF);
    return __bfloat162float(__float2bfloat16((float)sum * (1.0f / 37837.0f)));
}

/* word[i] = low 32 bits of mix(i). data: [count] uint32, any launch geometry. */
static __global__ void fill_u32_kernel(uint32_t *__restrict__ data, uint64_t count)
{
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < count;
         i += (uint64_t)gridDim.x * blockDim.x)
        data[i] = (uint32_t)mix(i);
}

/* data[i] = element(seed, i). data: [count] bf16. */
static __global__ void fill_bf16_kernel(__nv_bfloat16 *__restrict__ data, uint64_t count,
                                        uint64_t seed)
{
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < count;
         i += (uint64_t)gridDim.x * blockDim.x)
        data[i] = __float2bfloat16(element(seed, i));
}

/*
 * *sum += sum of all words, mod 2^64.  data: [count] uint4, 16-byte aligned.
 * Launch: blocks of READ_THREADS, a grid-stride loop, READ_UNROLL independent loads per turn so
 * that enough bytes are in flight; one atomic per warp.
 */
static __global__ void __launch_bounds__(READ_THREADS)
    read_kernel(const uint4 *__restrict__ data, uint64_t count, unsigned long long *sum)
{
    const uint64_t stride = (uint64_t)gridDim.x * READ_THREADS;
    unsigned long long total = 0;
    uint64_t i = blockIdx.x * (uint64_t)READ_THREADS + threadIdx.x;
    for (; i + (READ_UNROLL - 1) * stride < count; i += READ_UNROLL * stride) {
        uint4 v[READ_UNROLL];
#pragma unroll
        for (int k = 0; k < READ_UNROLL; k++)
            v[k] = __ldcs(data + i + k * stride);
#pragma unroll
        for (int k = 0; k < READ_UNROLL; k++)
            total += (unsigned long long)v[k].x + v[k].y + v[k].z + v[k].w;
    }
    for (; i < count; i += stride) {
        const uint4 v = data[i];
        total += (unsigned long long)v.x + v.y + v.z + v.w;
    }
    for (int lane = 16; lane > 0; lane /= 2)
        total += __shfl_down_sync(0xFFFFFFFFu, total, lane);
    if (threadIdx.x % 32 == 0)
        atomicAdd(sum, total);
}

static int compare_floats(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Median and spread of ms[count]; sorts it. */
static void summarize(float *ms, int count, double *ret_median_ms, double *ret_spread)
{
    qsort(ms, (size_t)count, sizeof *ms, compare_floats);
    *ret_median_ms = (double)ms[count / 2];
    *ret_spread = (double)(ms[count - 1] - ms[0]) / *ret_median_ms;
}

static int read_bandwidth(struct bench *b, uint64_t bytes, int repeats, int blocks, float *ms,
                          struct med_cuda_limits *limits, struct med_err *err)
{
    int rc = 0;
    double median_ms = 0;
    unsigned long long got = 0, expected = 0;
    const uint64_t words = bytes / 4;
    MED_CUDA_GOTO(cudaMalloc(&b->buffer, bytes), rc, out, err);
    fill_u32_kernel<<<blocks, READ_THREADS, 0, b->stream>>>((uint32_t *)b->buffer, words);
    MED_CUDA_GOTO(cudaGetLastError(), rc, out, err);
    for (int i = -2; i < repeats; i++) { // two runs to warm up
        MED_CUDA_GOTO(cudaMemsetAsync(b->sum, 0, sizeof *b->sum, b->stream), rc, out, err);
        MED_CUDA_GOTO(cudaEventRecord(b->start, b->stream), rc, out, err);
        read_kernel<<<blocks, READ_THREADS, 0, b->stream>>>((const uint4 *)b->buffer, bytes / 16,
                                                            b->sum);
        MED_CUDA_GOTO(cudaGetLastError(), rc, out, err);
        MED_CUDA_GOTO(cudaEventRecord(b->stop, b->stream), rc, out, err);
        MED_CUDA_GOTO(cudaEventSynchronize(b->stop), rc, out, err);
        if (i >= 0)
            MED_CUDA_GOTO(cudaEventElapsedTime(&ms[i], b->start, b->stop), rc, out, err);
    }
    MED_CUDA_GOTO(cudaMemcpy(&got, b->sum, sizeof got, cudaMemcpyDeviceToHost), rc, out, err);
    for (uint64_t i = 0; i < words; i++)
        expected += (uint32_t)mix(i);
    if (got != expected) {
        rc = med_err_set(err, MED_E_INTERNAL,
                         "the read kernel summed %llu words to %llu, expected %llu",
                         (unsigned long long)words, got, expected);
        goto out;
    }
    summarize(ms, repeats, &median_ms, &limits->read_spread);
    limits->read_bytes_per_s = (double)bytes / (median_ms * 1e-3);
out:
    (void)cudaFree(b->buffer);
    b->buffer = NULL;
    return rc;
}

/* C = A * B in row-major is C^T = B^T * A^T in cuBLASLt's column-major: pass B first. */
static cublasStatus_t multiply(struct bench *b, const cublasLtMatmulAlgo_t *algorithm)
{
    const float one = 1.0f, zero = 0.0f;
    return cublasLtMatmul(b->lt, b->op, &one, b->b, b->layout, b->a, b->layout, &zero, b->c,
                          b->layout, b->c, b->layout, algorithm, b->buffer, WORKSPACE_BYTES,
                          b->stream);
}

static int time_multiply(struct bench *b, const cublasLtMatmulAlgo_t *algorithm, int repeats,
                         float *ms, struct med_err *err)
{
    int rc = 0;
    for (int i = -2; i < repeats; i++) {
        MED_CUDA_GOTO(cudaEventRecord(b->start, b->stream), rc, out, err);
        MED_CUBLAS_GOTO(multiply(b, algorithm), rc, out, err);
        MED_CUDA_GOTO(cudaEventRecord(b->stop, b->stream), rc, out, err);
        MED_CUDA_GOTO(cudaEventSynchronize(b->stop), rc, out, err);
        if (i >= 0)
            MED_CUDA_GOTO(cudaEventElapsedTime(&ms[i], b->start, b->stop), rc, out, err);
    }
out:
    return rc;
}

/* Compares SAMPLES elements of the product with double precision. */
static int check_product(struct bench *b, int dim, double *ret_error, struct med_err *err)
{
    int rc = 0;
    double worst = 0;
    const uint64_t n = (uint64_t)dim;
    for (uint64_t s = 0; s < SAMPLES; s++) {
        const uint64_t row = mix(s) % n, column = mix(s + SAMPLES) % n;
        double exact = 0, magnitude = 0;
        __nv_bfloat16 got;
        for (uint64_t k = 0; k < n; k++) {
            const double product = (double)element(1, row * n + k) * element(2, k * n + column);
            exact += product;
            magnitude += fabs(product);
        }
        MED_CUDA_GOTO(cudaMemcpy(&got, b->c + row * n + column, sizeof got, cudaMemcpyDeviceToHost),
                      rc, out, err);
        const double error = fabs((double)__bfloat162float(got) - exact) / magnitude;
        worst = error > worst || error != error ? error : worst;
    }
    *ret_error = worst;
    // One rounding to bf16 of a sum that is at most `magnitude`: 2^-9, and float accumulation.
    if (!(worst <= 1.0 / 256))
        rc = med_err_set(err, MED_E_INTERNAL,
                         "the product differs from double precision by %g of its magnitude, "
                         "expected at most %g",
                         worst, 1.0 / 256);
out:
    return rc;
}

static int matrix_setup(struct bench *b, int dim, int blocks, struct med_err *err)
{
    int rc = 0;
    const uint64_t n = (uint64_t)dim, bytes = n * n * sizeof *b->a;
    const size_t workspace = WORKSPACE_BYTES;
    MED_CUDA_GOTO(cudaMalloc((void **)&b->a, bytes), rc, out, err);
    MED_CUDA_GOTO(cudaMalloc((void **)&b->b, bytes), rc, out, err);
    MED_CUDA_GOTO(cudaMalloc((void **)&b->c, bytes), rc, out, err);
    MED_CUDA_GOTO(cudaMalloc(&b->buffer, WORKSPACE_BYTES), rc, out, err);
    fill_bf16_kernel<<<blocks, READ_THREADS, 0, b->stream>>>(b->a, n * n, 1);
    MED_CUDA_GOTO(cudaGetLastError(), rc, out, err);
    fill_bf16_kernel<<<blocks, READ_THREADS, 0, b->stream>>>(b->b, n * n, 2);
    MED_CUDA_GOTO(cudaGetLastError(), rc, out, err);
    MED_CUDA_GOTO(cudaMemsetAsync(b->c, 0xFF, bytes, b->stream), rc, out, err); // NaN: poison
    MED_CUBLAS_GOTO(cublasLtCreate(&b->lt), rc, out, err);
    MED_CUBLAS_GOTO(cublasLtMatmulDescCreate(&b->op, CUBLAS_COMPUTE_32F, CUDA_R_32F), rc, out, err);
    MED_CUBLAS_GOTO(cublasLtMatrixLayoutCreate(&b->layout, CUDA_R_16BF, n, n, (int64_t)n), rc, out,
                    err);
    MED_CUBLAS_GOTO(cublasLtMatmulPreferenceCreate(&b->preference), rc, out, err);
    MED_CUBLAS_GOTO(cublasLtMatmulPreferenceSetAttribute(b->preference,
                                                         CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                         &workspace, sizeof workspace),
                    rc, out, err);
out:
    return rc;
}

static int matrix_rate(struct bench *b, int dim, int repeats, int blocks, float *ms,
                       struct med_cuda_limits *limits, struct med_err *err)
{
    cublasLtMatmulHeuristicResult_t found[ALGORITHMS];
    int count = 0, best = -1;
    double best_ms = 0, best_spread = 0;
    int rc = matrix_setup(b, dim, blocks, err);
    if (rc < 0)
        goto out;
    MED_CUBLAS_GOTO(cublasLtMatmulAlgoGetHeuristic(b->lt, b->op, b->layout, b->layout, b->layout,
                                                   b->layout, b->preference, ALGORITHMS, found,
                                                   &count),
                    rc, out, err);
    for (int i = 0; i < count; i++) {
        double median_ms = 0, spread = 0;
        if (found[i].state != CUBLAS_STATUS_SUCCESS)
            continue;
        rc = time_multiply(b, &found[i].algo, repeats, ms, err);
        if (rc < 0)
            goto out;
        summarize(ms, repeats, &median_ms, &spread);
        if (best < 0 || median_ms < best_ms) {
            best = i;
            best_ms = median_ms;
            best_spread = spread;
        }
    }
    if (best < 0) {
        rc = med_err_set(err, MED_E_CUDA,
                         "cuBLASLt proposes no algorithm for a %d x %d bf16 product", dim, dim);
        goto out;
    }
    MED_CUBLAS_GOTO(multiply(b, &found[best].algo), rc, out, err);
    MED_CUDA_GOTO(cudaStreamSynchronize(b->stream), rc, out, err);
    rc = check_product(b, dim, &limits->matrix_error, err);
    limits->matrix_flops_per_s = 2.0 * dim * (double)dim * dim / (best_ms * 1e-3);
    limits->matrix_spread = best_spread;
out:
    return rc;
}

static void bench_release(struct bench *b)
{
    if (b->preference)
        (void)cublasLtMatmulPreferenceDestroy(b->preference);
    if (b->layout)
        (void)cublasLtMatrixLayoutDestroy(b->layout);
    if (b->op)
        (void)cublasLtMatmulDescDestroy(b->op);
    if (b->lt)
        (void)cublasLtDestroy(b->lt);
    (void)cudaFree(b->c);
    (void)cudaFree(b->b);
    (void)cudaFree(b->a);
    (void)cudaFree(b->buffer);
    (void)cudaFree(b->sum);
    if (b->stop)
        (void)cudaEventDestroy(b->stop);
    if (b->start)
        (void)cudaEventDestroy(b->start);
    if (b->stream)
        (void)cudaStreamDestroy(b->stream);
}

static int describe(int device, struct med_cuda_limits *limits, struct med_err *err)
{
    int rc = 0;
    struct cudaDeviceProp properties;
    MED_CUDA_GOTO(cudaGetDeviceProperties(&properties, device), rc, out, err);
    (void)snprintf(limits->name, sizeof limits->name, "%s", properties.name);
    limits->compute_major = properties.major;
    limits->compute_minor = properties.minor;
    limits->multiprocessors = properties.multiProcessorCount;
    limits->memory_bytes = (double)properties.totalGlobalMem;
    MED_CUDA_GOTO(cudaDriverGetVersion(&limits->driver_version), rc, out, err);
    MED_CUDA_GOTO(cudaRuntimeGetVersion(&limits->runtime_version), rc, out, err);
out:
    return rc;
}

extern "C" int med_cuda_device_count(int *ret_count, struct med_err *err)
{
    int rc = 0, count = 0;
    MED_CUDA_GOTO(cudaGetDeviceCount(&count), rc, out, err);
    *ret_count = count;
out:
    return rc;
}

extern "C" int med_cuda_limits_measure(int device, uint64_t read_bytes, int dim, int repeats,
                                       struct med_cuda_limits *ret_limits, struct med_err *err)
{
    struct bench b;
    struct med_cuda_limits limits;
    int count = 0, rc, blocks;
    float *ms = NULL;
    memset(&b, 0, sizeof b);
    memset(&limits, 0, sizeof limits);
    if (read_bytes < 16 || read_bytes % 16 != 0 || dim < 16 || dim % 16 != 0 || repeats < 3 ||
        repeats > REPEATS_MAX)
        return med_err_set(err, MED_E_INVALID,
                           "read_bytes %llu and dim %d must be multiples of 16, repeats %d in "
                           "[3, %d]",
                           (unsigned long long)read_bytes, dim, repeats, (int)REPEATS_MAX);
    rc = med_cuda_device_count(&count, err);
    if (rc < 0)
        return rc;
    if (device < 0 || device >= count)
        return med_err_set(err, MED_E_INVALID, "device %d does not exist, there are %d", device,
                           count);
    ms = (float *)med_calloc((size_t)repeats, sizeof *ms);
    if (!ms)
        return MED_E_NOMEM;
    MED_CUDA_GOTO(cudaSetDevice(device), rc, out, err);
    rc = describe(device, &limits, err);
    if (rc < 0)
        goto out;
    blocks = limits.multiprocessors * 4; // four blocks of 512 threads fill a multiprocessor
    MED_CUDA_GOTO(cudaStreamCreateWithFlags(&b.stream, cudaStreamNonBlocking), rc, out, err);
    MED_CUDA_GOTO(cudaEventCreate(&b.start), rc, out, err);
    MED_CUDA_GOTO(cudaEventCreate(&b.stop), rc, out, err);
    MED_CUDA_GOTO(cudaMalloc((void **)&b.sum, sizeof *b.sum), rc, out, err);
    rc = read_bandwidth(&b, read_bytes, repeats, blocks, ms, &limits, err);
    if (rc >= 0)
        rc = matrix_rate(&b, dim, repeats, blocks, ms, &limits, err);
    if (rc >= 0)
        *ret_limits = limits;
out:
    bench_release(&b);
    med_free(ms);
    return rc;
}
