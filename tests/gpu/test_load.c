/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Weights to the GPU: every pair of dtypes, odd sizes, places that are not aligned, stacked groups, and
 * gigabytes out of the page cache with their rate.  GPU_LOAD_GB says how many (2; GPU_QUICK: none).
 */
#include "base/alloc.h"
#include "tests/gpu/gpu.h"
#include "tests/gpu/kernels.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static const enum med_dtype dtypes[] = {MED_DTYPE_F32, MED_DTYPE_BF16, MED_DTYPE_F16};

static struct med_cuda *device_of(enum med_dtype dtype)
{
    static const struct med_cuda_config config = {.device = 0};
    struct med_model_config model = gpu_model(256, 4, 2, 64, 512, 1000);
    const struct med_ops_sizes sizes = {.model = &model,
                                        .dtype = dtype,
                                        .kv_dtype = dtype,
                                        .rows_max = 16,
                                        .items_max = 4,
                                        .samples_max = 4,
                                        .model_len_max = 256,
                                        .block_tokens = 16};
    return gpu_device(&config, &sizes);
}

/* Random bits, so NaN, infinities and subnormal numbers too; one byte before is taken as well. */
static struct med_weight weight_random(int64_t rows, int64_t columns, enum med_dtype dtype,
                                       bool unaligned)
{
    size_t bytes = (size_t)(rows * columns) * med_dtype_bytes(dtype);
    char *data = malloc(bytes + 16);
    if (!data)
        exit(1);
    for (size_t i = 0; i < bytes + 8; i += 8) {
        uint64_t bits = gpu_random_bits();
        memcpy(data + i, &bits, 8);
    }
    return (struct med_weight){
        .data = data + unaligned, .dtype = dtype, .rows = rows, .columns = columns};
}

static float value_at(const void *data, enum med_dtype dtype, size_t index)
{
    char element[4];
    memcpy(element, (const char *)data + index * med_dtype_bytes(dtype), med_dtype_bytes(dtype));
    return med_dtype_get(dtype, element, 0);
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float rounded(float value, enum med_dtype dtype)
{
    if (dtype == MED_DTYPE_BF16)
        return med_bf16_to_float(med_bf16_from_float(value));
    return dtype == MED_DTYPE_F16 ? med_f16_to_float(med_f16_from_float(value)) : value;
}

/* How many numbers of a loaded weight are not what the host's rounding makes of them. */
static int64_t weight_differences(struct med_cuda *d, const struct med_weight *host,
                                  const struct med_weight *loaded)
{
    size_t count = (size_t)(host->rows * host->columns), element = med_dtype_bytes(d->dtype);
    char *back = malloc(count * element + 1);
    int64_t wrong = 0;
    if (!back || med_cuda_ops()->get(d, back, loaded->data, count * element) < 0)
        exit(1);
    wrong +=
        loaded->dtype != d->dtype || loaded->rows != host->rows || loaded->columns != host->columns;
    for (size_t i = 0; i < count; i++) {
        float want = rounded(value_at(host->data, host->dtype, i), d->dtype);
        float got = value_at(back, d->dtype, i);
        if (isnan(want) || isnan(got)) {
            wrong += !isnan(want) || !isnan(got);
        } else {
            wrong += bits_of(want) != bits_of(got);
        }
    }
    /* Without a conversion every bit stays, those of NaN too. */
    if (host->dtype == d->dtype)
        wrong += memcmp(back, host->data, count * element) != 0;
    free(back);
    return wrong;
}

static void test_pair(enum med_dtype from, enum med_dtype to)
{
    /* The last is more than one piece of either size. */
    static const int64_t counts[] = {1, 3, 31, 33, 4097, (16 << 20) / 2 + 5};
    struct med_cuda *d = device_of(to);
    const struct med_ops *ops = med_cuda_ops();
    enum {
        COUNT = 2 * (int)(sizeof counts / sizeof *counts)
    };
    struct med_weight host[COUNT], loaded[COUNT];
    int64_t wrong = 0;
    int rc = 0;
    for (int i = 0; i < COUNT; i++) {
        host[i] = weight_random(1, counts[i / 2], from, i % 2);
        if (rc == 0)
            rc = ops->load(d, &host[i], &loaded[i]);
    }
    if (rc == 0)
        rc = ops->load_end(d);
    for (int i = 0; i < COUNT; i++) {
        if (rc == 0) {
            wrong += weight_differences(d, &host[i], &loaded[i]);
            ops->unload(d, &loaded[i]);
        }
        free((char *)(uintptr_t)host[i].data - i % 2);
    }
    char name[64];
    (void)snprintf(name, sizeof name, "pair.%s.%s", med_dtype_name(from), med_dtype_name(to));
    gpu_report(name, rc == 0 && wrong == 0, "rc %d, %lld numbers differ", rc, (long long)wrong);
    med_cuda_free(d);
}

static size_t bytes_of(const struct med_weight *w)
{
    return (size_t)(w->rows * w->columns) * med_dtype_bytes(w->dtype);
}

static bool follows(const struct med_weight *first, const struct med_weight *second)
{
    return (const char *)second->data == (const char *)first->data + bytes_of(first);
}

/* Layers of odd shapes, whose tensors may be of different dtypes. */
static void test_layers(bool biases, bool qk_norm)
{
    enum {
        LAYERS = 5,
        HEADS = 6, /* what begins at an address of its own */
        WEIGHTS = sizeof(struct med_layer_weights) / sizeof(struct med_weight)
    };
    static struct med_layer_weights host[LAYERS], loaded[LAYERS];
    const int64_t hidden = 37, q = 15, kv = 5, inner = 129;
    struct med_cuda *d = device_of(MED_DTYPE_BF16);
    const struct med_ops *ops = med_cuda_ops();
    int64_t wrong = 0, unaligned = 0, apart = 0;
    int rc = 0;
    memset(host, 0, sizeof host);
    for (int l = 0; rc == 0 && l < LAYERS; l++) {
        enum med_dtype t = dtypes[gpu_random_bits() % 3];
        struct med_layer_weights w = {.input_norm = weight_random(1, hidden, t, false),
                                      .q = weight_random(q, hidden, t, false),
                                      .k = weight_random(kv, hidden, MED_DTYPE_F32, false),
                                      .v = weight_random(kv, hidden, t, false),
                                      .output = weight_random(hidden, q, t, false),
                                      .post_norm = weight_random(1, hidden, t, false),
                                      .gate = weight_random(inner, hidden, t, false),
                                      .up = weight_random(inner, hidden, t, false),
                                      .down = weight_random(hidden, inner, t, false)};
        if (biases) {
            w.q_bias = weight_random(1, q, t, false);
            w.k_bias = weight_random(1, kv, t, false);
            w.v_bias = weight_random(1, kv, t, false);
            w.output_bias = weight_random(1, hidden, t, false);
            w.gate_bias = weight_random(1, inner, t, false);
            w.up_bias = weight_random(1, inner, t, false);
            w.down_bias = weight_random(1, hidden, t, false);
        }
        if (qk_norm) {
            w.q_norm = weight_random(1, 5, t, false);
            w.k_norm = weight_random(1, 5, t, false);
        }
        host[l] = w;
        rc = ops->load_layer(d, &host[l], &loaded[l]);
    }
    if (rc == 0)
        rc = ops->load_end(d);
    for (int l = 0; rc == 0 && l < LAYERS; l++) {
        const struct med_weight *h = &host[l].input_norm, *g = &loaded[l].input_norm;
        const struct med_layer_weights *x = &loaded[l];
        for (int i = 0; i < WEIGHTS; i++) {
            if (h[i].data)
                wrong += weight_differences(d, &h[i], &g[i]);
            wrong += !h[i].data != !g[i].data;
        }
        const struct med_weight *heads[HEADS] = {&x->input_norm, &x->q,    &x->output,
                                                 &x->post_norm,  &x->gate, &x->down};
        for (size_t i = 0; i < HEADS; i++)
            unaligned += (uintptr_t)heads[i]->data % 256 != 0;
        apart += !follows(&x->q, &x->k) + !follows(&x->k, &x->v) + !follows(&x->gate, &x->up);
        if (biases) {
            apart += !follows(&x->q_bias, &x->k_bias) + !follows(&x->k_bias, &x->v_bias) +
                     !follows(&x->gate_bias, &x->up_bias);
        }
        ops->unload_layer(d, &loaded[l]);
    }
    for (int l = 0; l < LAYERS; l++) {
        const struct med_weight *h = &host[l].input_norm;
        for (int i = 0; i < WEIGHTS; i++)
            free((void *)(uintptr_t)h[i].data);
    }
    char name[64];
    (void)snprintf(name, sizeof name, "layers%s%s", biases ? ".biases" : "",
                   qk_norm ? ".qk_norm" : "");
    gpu_report(name, rc == 0 && wrong == 0 && unaligned == 0 && apart == 0,
               "rc %d, %lld numbers differ, %lld not aligned, %lld not stacked", rc,
               (long long)wrong, (long long)unaligned, (long long)apart);
    med_cuda_free(d);
}

static double now_s(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Memory runs out in the middle: what was under way ends, nothing is broken, and loading begins anew. */
static void test_too_much(void)
{
    struct med_cuda *d = device_of(MED_DTYPE_BF16);
    const struct med_ops *ops = med_cuda_ops();
    struct med_weight small = weight_random(100, 1000, MED_DTYPE_F32, false), loaded[3];
    const struct med_weight huge = {
        .data = small.data, .dtype = MED_DTYPE_F32, .rows = 1 << 20, .columns = 1 << 24};
    int rc = ops->load(d, &small, &loaded[0]);
    int refused = ops->load(d, &huge, &loaded[1]);
    ops->unload(d, &loaded[0]);
    if (rc == 0)
        rc = ops->load(d, &small, &loaded[2]);
    if (rc == 0)
        rc = ops->load_end(d);
    gpu_report("too_much",
               refused == MED_E_NOMEM && rc == 0 && !d->failed &&
                   weight_differences(d, &small, &loaded[2]) == 0,
               "refused %d, then %d", refused, rc);
    ops->unload(d, &loaded[2]);
    free((void *)(uintptr_t)small.data);
    med_cuda_free(d);
}

/* Each allocation on the host fails in turn, once. */
static void test_no_memory(void)
{
    struct med_cuda *d = device_of(MED_DTYPE_BF16);
    const struct med_ops *ops = med_cuda_ops();
    struct med_weight host = weight_random(7, 1001, MED_DTYPE_F16, false);
    int64_t before = med_alloc_bytes_live();
    int failed = 0, wrong = 0;
    enum {
        TRIES_MAX = 50
    };
    for (int n = 1; n <= TRIES_MAX; n++) {
        struct med_weight loaded = {0};
        (void)med_alloc_fail_nth((uint64_t)n);
        int rc = ops->load(d, &host, &loaded);
        if (rc == 0)
            rc = ops->load_end(d);
        bool all_made = med_alloc_fail_nth(0) < (uint64_t)n;
        failed += rc < 0;
        wrong += all_made ? rc != 0 || weight_differences(d, &host, &loaded) != 0
                          : rc != MED_E_NOMEM || loaded.data;
        if (rc == 0)
            ops->unload(d, &loaded);
        wrong += d->failed || med_alloc_bytes_live() != before;
        if (all_made)
            break;
    }
    gpu_report("no_memory", wrong == 0 && failed > 0, "%d tries failed, %d not as they should",
               failed, wrong);
    free((void *)(uintptr_t)host.data);
    med_cuda_free(d);
}

/* A file of words, of which word i is the low half of gpu_mix(i), mapped anew. */
static const uint32_t *file_make(uint64_t words, char *path)
{
    int file = mkstemp(path);
    if (file < 0 || ftruncate(file, (off_t)(words * 4)) != 0)
        return NULL;
    enum {
        CHUNK = 1 << 20
    };
    static uint32_t chunk[CHUNK];
    for (uint64_t i = 0; i < words; i += CHUNK) {
        for (uint64_t k = 0; k < CHUNK; k++)
            chunk[k] = (uint32_t)gpu_mix(i + k);
        size_t bytes = (words - i < CHUNK ? (size_t)(words - i) : CHUNK) * 4;
        if (write(file, chunk, bytes) != (ssize_t)bytes)
            return NULL;
    }
    const uint32_t *data = mmap(NULL, words * 4, PROT_READ, MAP_SHARED, file, 0);
    (void)close(file);
    return data == MAP_FAILED ? NULL : data;
}

/* As a checkpoint of layers of some 400 MB would be loaded; the second time its pages are known. */
static void test_gigabytes(double gigabytes)
{
    enum {
        PARTS_MAX = 64
    };
    struct med_weight loaded[PARTS_MAX];
    const struct med_ops *ops = med_cuda_ops();
    uint64_t words = (uint64_t)(gigabytes * 1e9 / 4), part = 100000007;
    int parts = (int)((words + part - 1) / part);
    char path[] = "/tmp/medley-test-load-XXXXXX";
    double begun_s = now_s();
    const uint32_t *data = parts <= PARTS_MAX ? file_make(words, path) : NULL;
    (void)unlink(path);
    if (!data) {
        gpu_report("gigabytes", false, "no file of %.1f GB in /tmp", gigabytes);
        return;
    }
    double made_s = now_s() - begun_s;
    struct med_cuda *d = device_of(MED_DTYPE_F32);
    for (int again = 0; again < 3; again++) {
        uint64_t wrong = 0;
        int rc = 0;
        begun_s = now_s();
        for (int i = 0; rc == 0 && i < parts; i++) {
            uint64_t first = (uint64_t)i * part;
            const struct med_weight w = {
                .data = data + first,
                .dtype = MED_DTYPE_F32,
                .rows = 1,
                .columns = (int64_t)(first + part < words ? part : words - first)};
            rc = ops->load(d, &w, &loaded[i]);
        }
        double queued_s = now_s() - begun_s;
        if (rc == 0)
            rc = ops->load_end(d);
        double took_s = now_s() - begun_s;
        for (int i = 0; rc == 0 && i < parts; i++) {
            uint64_t found = 0;
            rc = gpu_words_check(d, loaded[i].data, (uint64_t)i * part, (uint64_t)loaded[i].columns,
                                 &found);
            wrong += found;
            ops->unload(d, &loaded[i]);
        }
        gpu_report("gigabytes", rc == 0 && wrong == 0,
                   "%.1f GB in %.2f s, %.1f GB/s (memory taken in %.2f s, file made in %.1f s), "
                   "%llu words differ",
                   gigabytes, took_s, gigabytes / took_s, queued_s, made_s,
                   (unsigned long long)wrong);
    }
    med_cuda_free(d);
    (void)munmap((void *)(uintptr_t)data, words * 4);
}

/* The rate with a conversion; its numbers are checked by pairs. */
static void test_conversion_rate(void)
{
    struct med_cuda *d = device_of(MED_DTYPE_BF16);
    const struct med_ops *ops = med_cuda_ops();
    const int64_t count = INT64_C(250000000);
    float *data = malloc((size_t)count * 4);
    if (!data)
        exit(1);
    for (int64_t i = 0; i < count; i++)
        data[i] = (float)(i % 10007);
    const struct med_weight w = {.data = data, .dtype = MED_DTYPE_F32, .rows = 1, .columns = count};
    struct med_weight loaded;
    double begun_s = now_s();
    int rc = ops->load(d, &w, &loaded);
    if (rc == 0)
        rc = ops->load_end(d);
    double took_s = now_s() - begun_s;
    int64_t wrong = rc == 0 ? weight_differences(d, &w, &loaded) : -1;
    gpu_report("conversion", wrong == 0, "1 GB of float32 in %.2f s, %.1f GB/s", took_s,
               1 / took_s);
    ops->unload(d, &loaded);
    free(data);
    med_cuda_free(d);
}

int main(void)
{
    const char *gigabytes = getenv("GPU_LOAD_GB");
    for (size_t i = 0; i < 3; i++) {
        for (size_t k = 0; k < 3; k++)
            test_pair(dtypes[i], dtypes[k]);
    }
    test_layers(false, false);
    test_layers(true, false);
    test_layers(false, true);
    test_layers(true, true);
    test_too_much();
    test_no_memory();
    if (!getenv("GPU_QUICK")) {
        test_conversion_rate();
        test_gigabytes(gigabytes ? strtod(gigabytes, NULL) : 2);
    }
    return gpu_finish();
}
