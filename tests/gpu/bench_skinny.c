/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of 2 to 128 rows in the sequence of a decode step of the Llama-2-7B shape: LAYERS layers of their own
 * weights (1.6 GB, so the cache helps nobody) and the head, recorded as a graph; then each product
 * alone.  Prints microseconds and the part of READ_GB_PER_S that the bytes of the weights make of it.
 */
#include "tests/gpu/gpu.h"
#include "worker/cuda/skinny.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    LAYERS = 4,
    PRODUCTS = 4,
    HIDDEN = 4096,
    INTERMEDIATE = 11008,
    VOCAB = 32000,
    HEADS = 32,
    HEAD_DIM = 128,
    REPEATS = 30,
    CACHE_BLOCKS = 8,
    RANDOM_COUNT = 1 << 22,
    ROWS_MAX = 128
};
static const double READ_GB_PER_S = 3090;

struct step {
    struct med_cuda *d;
    struct med_cuda_linear_args products[LAYERS * PRODUCTS + 1];
    int first, stride; /* of products, for one alone */
};

static void queue(void *arg, int index)
{
    struct step *s = arg;
    if (med_cuda_skinny(s->d, &s->products[s->first + index * s->stride]) < 0) {
        (void)printf("FAIL %s\n", s->d->failure.text);
        exit(1);
    }
}

/* Weights at random: pieces of one random array. */
static void *weights(const struct gpu_array *random, size_t count)
{
    char *memory = NULL;
    size_t bytes = count * 2, piece;
    if (cudaMalloc((void **)&memory, bytes) != cudaSuccess) {
        (void)printf("FAIL no memory\n");
        exit(1);
    }
    for (size_t at = 0; at < bytes; at += piece) {
        piece = bytes - at < RANDOM_COUNT * 2 ? bytes - at : RANDOM_COUNT * 2;
        (void)cudaMemcpy(memory + at, random->device, piece, cudaMemcpyDeviceToDevice);
    }
    return memory;
}

static struct step step_new(struct med_cuda *d)
{
    struct step s = {.d = d};
    enum med_dtype dtype = MED_DTYPE_BF16;
    struct gpu_array random = gpu_random(RANDOM_COUNT, dtype, 1.0 / 64, 0);
    struct gpu_array x = gpu_random((size_t)ROWS_MAX * HIDDEN, dtype, 1, 0);
    struct gpu_array q = gpu_random((size_t)ROWS_MAX * HIDDEN, dtype, 1, 0);
    struct gpu_array act = gpu_random((size_t)ROWS_MAX * INTERMEDIATE, dtype, 1, 0);
    struct gpu_array logits = gpu_poisoned((size_t)ROWS_MAX * VOCAB, MED_DTYPE_F32);
    struct gpu_array frequencies = gpu_random(HEAD_DIM / 2, MED_DTYPE_F32, 1, 0);
    struct gpu_array keys = gpu_random((size_t)CACHE_BLOCKS * 16 * HIDDEN, dtype, 1, 0);
    struct gpu_array values = gpu_random((size_t)CACHE_BLOCKS * 16 * HIDDEN, dtype, 1, 0);
    int32_t numbers[ROWS_MAX];
    for (int i = 0; i < ROWS_MAX; i++)
        numbers[i] = i;
    int32_t *device_numbers = gpu_ints(numbers, ROWS_MAX);
    for (int i = 0; i <= LAYERS * PRODUCTS; i++) {
        struct med_cuda_linear_args *p = &s.products[i];
        *p = (struct med_cuda_linear_args){
            .columns = HIDDEN, .outputs = HIDDEN, .dtype = dtype, .in = x.device};
        if (i == LAYERS * PRODUCTS) {
            p->epilogue = MED_CUDA_LOGITS;
            p->outputs = VOCAB;
            p->out = logits.device;
        } else if (i % PRODUCTS == 0) {
            p->epilogue = MED_CUDA_ROPE_KV;
            p->outputs = 3 * HIDDEN;
            p->heads = p->kv_heads = HEADS;
            p->head_dim = HEAD_DIM;
            p->positions = p->slots = device_numbers;
            p->frequencies = frequencies.device;
            p->kv = (struct med_kv_layer){keys.device, values.device, dtype, 16};
            p->out = q.device;
        } else if (i % PRODUCTS == 2) {
            p->epilogue = MED_CUDA_SWIGLU;
            p->outputs = 2 * INTERMEDIATE;
            p->out = act.device;
        } else {
            p->epilogue = MED_CUDA_ADD;
            p->in = i % PRODUCTS == 1 ? q.device : act.device;
            p->columns = i % PRODUCTS == 1 ? HIDDEN : INTERMEDIATE;
            p->out = x.device;
        }
        p->weight = weights(&random, (size_t)(p->columns * p->outputs));
    }
    return s;
}

static void print_time(const char *name, int rows, bool pdl, double bytes, struct gpu_time t,
                       int count)
{
    double us = t.median_us * count;
    (void)printf("%-8s rows %3d %s %9.2f us (%.2f .. %.2f) %6.1f %%\n", name, rows,
                 pdl ? "pdl" : "   ", us, t.min_us * count, t.max_us * count,
                 bytes / us / READ_GB_PER_S * 1e-3 * 100);
}

static void measure(struct step *s, int rows)
{
    static const char *names[] = {"qkv", "o", "gate_up", "down", "head"};
    double total = 0, bytes[5] = {0};
    for (int i = 0; i <= LAYERS * PRODUCTS; i++) {
        s->products[i].rows = rows;
        double size = (double)(s->products[i].columns * s->products[i].outputs) * 2;
        total += size;
        bytes[i == LAYERS * PRODUCTS ? 4 : i % PRODUCTS] = size;
    }
    double layer = bytes[0] + bytes[1] + bytes[2] + bytes[3];
    for (int pdl = 1; pdl >= (rows != 64); pdl--) {
        s->d->pdl = pdl;
        s->first = 0;
        s->stride = 1;
        int count = LAYERS * PRODUCTS;
        struct gpu_time t = gpu_time(s->d, queue, s, count + 1, REPEATS, true);
        print_time("chain", rows, pdl, total, t, count + 1);
        t = gpu_time(s->d, queue, s, count, REPEATS, true);
        t.median_us *= PRODUCTS, t.min_us *= PRODUCTS, t.max_us *= PRODUCTS;
        print_time("layer", rows, pdl, layer, t, 1);
    }
    s->d->pdl = true;
    for (int i = 0; i < 4; i++) {
        s->first = i;
        s->stride = PRODUCTS;
        struct gpu_time t = gpu_time(s->d, queue, s, LAYERS, REPEATS, true);
        print_time(names[i], rows, true, bytes[i], t, 1);
    }
    s->first = LAYERS * PRODUCTS;
    s->stride = 0;
    print_time(names[4], rows, true, bytes[4], gpu_time(s->d, queue, s, 4, REPEATS, true), 1);
}

int main(int argc, char **argv)
{
    struct med_model_config model = gpu_model(64, 2, 2, 32, 64, 64);
    struct med_cuda_config config = {0};
    struct med_ops_sizes sizes = {&model, MED_DTYPE_BF16, MED_DTYPE_BF16, ROWS_MAX, 8, 8, 64, 16};
    struct med_cuda *d = gpu_device(&config, &sizes);
    if (med_cuda_skinny_new(d) < 0) {
        (void)printf("FAIL %s\n", d->failure.text);
        return 1;
    }
    struct step s = step_new(d);
    if (argc > 1) {
        for (int i = 1; i < argc; i++)
            measure(&s, atoi(argv[i]));
    } else {
        for (int rows = 2; rows <= ROWS_MAX; rows *= 2)
            measure(&s, rows);
    }
    med_cuda_skinny_free(d);
    med_cuda_free(d);
    return 0;
}
