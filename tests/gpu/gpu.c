/* SPDX-License-Identifier: Apache-2.0 */
/* What the GPU test programs share (see gpu.h). */
#include "tests/gpu/gpu.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int lines, failures;
static uint64_t state;

static void die(const char *what, const char *why)
{
    (void)printf("FAIL %s %s\n", what, why);
    exit(1);
}

static void check(cudaError_t status, const char *what)
{
    if (status != cudaSuccess)
        die(what, cudaGetErrorString(status));
}

void gpu_put(void *device, const void *host, size_t bytes)
{
    check(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

struct med_model_config gpu_model(int64_t hidden, int64_t heads, int64_t kv_heads, int64_t head_dim,
                                  int64_t intermediate, int64_t vocab)
{
    return (struct med_model_config){.architecture = MED_ARCH_LLAMA,
                                     .layers = 1,
                                     .hidden = hidden,
                                     .heads = heads,
                                     .kv_heads = kv_heads,
                                     .head_dim = head_dim,
                                     .intermediate = intermediate,
                                     .vocab = vocab,
                                     .positions_max = 1 << 20,
                                     .norm_eps = 1e-5,
                                     .rope = {.theta = 10000, .factor = 1}};
}

struct med_cuda *gpu_device(const struct med_cuda_config *config, const struct med_ops_sizes *sizes)
{
    struct med_cuda *d = NULL;
    struct med_err err = {0};
    if (med_cuda_new(config, &d, &err) < 0 || med_cuda_ops()->prepare(d, sizes, &err) < 0)
        die("device", err.text);
    return d;
}

uint64_t gpu_random_bits(void)
{
    if (state == 0) {
        const char *given = getenv("GPU_SEED");
        state = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
        (void)printf("seed %llu\n", (unsigned long long)state);
        state |= UINT64_C(1) << 63;
    }
    state += UINT64_C(0x9E3779B97F4A7C15);
    uint64_t x = state;
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

/* Rounds to nearest even at `bits` of mantissa (the leading one not counted); no subnormals of f16. */
static double round_bits(double value, int bits)
{
    int exponent;
    double mantissa = frexp(value, &exponent);
    return ldexp(nearbyint(ldexp(mantissa, bits + 1)), exponent - bits - 1);
}

double gpu_round(double value, enum med_dtype dtype)
{
    if (dtype == MED_DTYPE_F32)
        return (double)(float)value;
    if (dtype == MED_DTYPE_BF16)
        return round_bits(value, 7);
    return fabs(value) < 6.2e-5 ? 0 : round_bits(value, 10);
}

static uint16_t bits16(double value, enum med_dtype dtype)
{
    float f = (float)value;
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if (dtype == MED_DTYPE_BF16)
        return (uint16_t)(u >> 16); /* already rounded */
    if (value == 0)
        return (uint16_t)(u >> 16 & 0x8000);
    uint32_t exponent = (u >> 23 & 0xff) - 127 + 15;
    return (uint16_t)((u >> 16 & 0x8000) | exponent << 10 | (u >> 13 & 0x3ff));
}

static double value16(uint16_t bits, enum med_dtype dtype)
{
    if (dtype == MED_DTYPE_BF16) {
        uint32_t u = (uint32_t)bits << 16;
        float f;
        memcpy(&f, &u, sizeof f);
        return (double)f;
    }
    int exponent = bits >> 10 & 31, mantissa = bits & 0x3ff;
    double magnitude = exponent == 31  ? (mantissa ? NAN : INFINITY)
                       : exponent == 0 ? ldexp(mantissa, -24)
                                       : ldexp(1024 + mantissa, exponent - 25);
    return bits & 0x8000 ? -magnitude : magnitude;
}

static struct gpu_array array_new(size_t count, enum med_dtype dtype)
{
    struct gpu_array a = {.count = count, .dtype = dtype};
    a.host = calloc(count ? count : 1, sizeof *a.host);
    if (!a.host)
        die("memory", "none left on the host");
    check(cudaMalloc(&a.device, count * med_dtype_bytes(dtype) + 256), "cudaMalloc");
    return a;
}

static void *encode(const struct gpu_array *a)
{
    void *raw = malloc(a->count * med_dtype_bytes(a->dtype) + 1);
    if (!raw)
        die("memory", "none left on the host");
    for (size_t i = 0; i < a->count; i++) {
        if (a->dtype == MED_DTYPE_F32) {
            ((float *)raw)[i] = (float)a->host[i];
        } else {
            ((uint16_t *)raw)[i] = bits16(a->host[i], a->dtype);
        }
    }
    return raw;
}

struct gpu_array gpu_random(size_t count, enum med_dtype dtype, double scale, size_t outlier_every)
{
    struct gpu_array a = array_new(count, dtype);
    for (size_t i = 0; i < count; i++) {
        uint64_t bits = gpu_random_bits();
        double sum = -2 * 65535.0;
        for (int k = 0; k < 64; k += 16)
            sum += (double)(bits >> k & 0xffff);
        bool outlier = outlier_every && gpu_random_bits() % outlier_every == 0;
        a.host[i] = gpu_round(sum / 37837.0 * scale * (outlier ? 50 : 1), dtype);
    }
    void *raw = encode(&a);
    gpu_put(a.device, raw, count * med_dtype_bytes(dtype));
    free(raw);
    return a;
}

struct gpu_array gpu_poisoned(size_t count, enum med_dtype dtype)
{
    struct gpu_array a = array_new(count, dtype);
    check(cudaMemset(a.device, 0xff, count * med_dtype_bytes(dtype)), "cudaMemset");
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    for (size_t i = 0; i < count; i++)
        a.host[i] = NAN;
    return a;
}

void gpu_array_free(struct gpu_array *array)
{
    check(cudaFree(array->device), "cudaFree");
    free(array->host);
    *array = (struct gpu_array){0};
}

int32_t *gpu_ints(const int32_t *host, size_t count)
{
    void *device;
    check(cudaMalloc(&device, count * sizeof *host + 16), "cudaMalloc");
    gpu_put(device, host, count * sizeof *host);
    return device;
}

bool gpu_report(const char *name, bool passed, const char *format, ...)
{
    va_list args;
    lines++;
    failures += !passed;
    (void)printf("%s %-40s ", passed ? "pass" : "FAIL", name);
    va_start(args, format);
    (void)vprintf(format, args);
    va_end(args);
    (void)printf("\n");
    (void)fflush(stdout);
    return passed;
}

bool gpu_compare(const char *name, const struct gpu_array *got, const double *want, double absolute,
                 double relative)
{
    cudaError_t status = cudaDeviceSynchronize();
    if (status != cudaSuccess)
        return gpu_report(name, false, "%s", cudaGetErrorString(status));
    size_t bytes = got->count * med_dtype_bytes(got->dtype), worst = 0;
    void *raw = malloc(bytes + 1);
    if (!raw)
        die("memory", "none left on the host");
    check(cudaMemcpy(raw, got->device, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
    double most = -1, worst_value = 0;
    for (size_t i = 0; i < got->count; i++) {
        double value = got->dtype == MED_DTYPE_F32 ? (double)((float *)raw)[i]
                                                   : value16(((uint16_t *)raw)[i], got->dtype);
        double part = fabs(value - want[i]) / (absolute + relative * fabs(want[i]));
        if (!(part <= most)) { /* a NaN too */
            most = isnan(part) ? INFINITY : part;
            worst = i;
            worst_value = value;
        }
    }
    free(raw);
    return gpu_report(name, most <= 1,
                      "worst %.2f of the limit: element %zu is %.8g, expected %.8g", most, worst,
                      worst_value, got->count ? want[worst] : 0.0);
}

int gpu_finish(void)
{
    (void)printf("%d cases, %d failed\n", lines, failures);
    return lines == 0 || failures > 0;
}

static int order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct gpu_time gpu_time(struct med_cuda *d, void (*fn)(void *arg, int index), void *arg, int inner,
                         int repeats, bool graph)
{
    enum {
        REPEATS_MAX = 1000
    };
    static double us[REPEATS_MAX];
    cudaGraph_t recorded = NULL;
    cudaGraphExec_t replay = NULL;
    cudaEvent_t begin, end;
    check(cudaEventCreate(&begin), "cudaEventCreate");
    check(cudaEventCreate(&end), "cudaEventCreate");
    for (int i = 0; i < inner; i++)
        fn(arg, i);
    check(cudaStreamSynchronize(d->stream), "a run");
    if (graph) {
        check(cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal), "capture");
        for (int i = 0; i < inner; i++)
            fn(arg, i);
        check(cudaStreamEndCapture(d->stream, &recorded), "capture");
        check(cudaGraphInstantiate(&replay, recorded, 0), "cudaGraphInstantiate");
        check(cudaGraphLaunch(replay, d->stream), "cudaGraphLaunch");
    }
    repeats = repeats < REPEATS_MAX ? repeats : REPEATS_MAX;
    for (int r = 0; r < repeats; r++) {
        float ms;
        check(cudaEventRecord(begin, d->stream), "cudaEventRecord");
        if (graph) {
            check(cudaGraphLaunch(replay, d->stream), "cudaGraphLaunch");
        } else {
            for (int i = 0; i < inner; i++)
                fn(arg, i);
        }
        check(cudaEventRecord(end, d->stream), "cudaEventRecord");
        check(cudaEventSynchronize(end), "a timed run");
        check(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
        us[r] = (double)ms * 1e3 / inner;
    }
    if (graph) {
        check(cudaGraphExecDestroy(replay), "cudaGraphExecDestroy");
        check(cudaGraphDestroy(recorded), "cudaGraphDestroy");
    }
    check(cudaEventDestroy(begin), "cudaEventDestroy");
    check(cudaEventDestroy(end), "cudaEventDestroy");
    qsort(us, (size_t)repeats, sizeof *us, order);
    return (struct gpu_time){us[repeats / 2], us[0], us[repeats - 1]};
}
