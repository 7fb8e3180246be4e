/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Large products of the Llama-2-7B shape: cuBLASLt's first proposal beside the algorithm that timing
 * chose; the small kernels around them; and a layer without attention, as tokens per second of 32 such
 * layers.  LAYERS layers of their own weights, recorded as a graph.
 *
 *     bench-gpu-blas [CACHE_DIR [tune]]     tune: times algorithms, or reads them, and ends
 */
#include "base/clock.h"
#include "tests/gpu/gpu.h"
#include "worker/cuda/blas.h"
#include "worker/cuda/norm.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    LAYERS = 4,
    PRODUCTS = 4,
    HIDDEN = 4096,
    INTERMEDIATE = 11008,
    HEADS = 32,
    HEAD_DIM = 128,
    ROWS_MAX = 2048,
    REPEATS = 15,
    TURNS = 3,
    RANDOM_COUNT = 1 << 22
};

struct bench {
    struct med_cuda *d;
    struct med_cuda_linear_args products[LAYERS * PRODUCTS];
    int which; // of PRODUCTS
    int64_t rows;
};

static void check(const struct bench *b, int rc)
{
    if (rc < 0) {
        (void)printf("FAIL %s\n", b->d->failure.text);
        exit(1);
    }
}

/* A piece of one random array over and over. */
static void *filled(const struct gpu_array *random, size_t count)
{
    char *memory = NULL;
    size_t bytes = count * 2, piece;
    if (cudaMalloc((void **)&memory, bytes) != cudaSuccess) {
        (void)printf("FAIL no memory\n");
        exit(1);
    }
    for (size_t at = 0; at < bytes; at += piece) {
        piece = bytes - at < random->count * 2 ? bytes - at : random->count * 2;
        (void)cudaMemcpy(memory + at, random->device, piece, cudaMemcpyDeviceToDevice);
    }
    return memory;
}

static struct bench bench_new(struct med_cuda *d)
{
    enum med_dtype dtype = MED_DTYPE_BF16;
    struct bench b = {.d = d};
    struct gpu_array random = gpu_random(RANDOM_COUNT, dtype, 1.0 / 64, 0);
    struct gpu_array normal = gpu_random(RANDOM_COUNT, dtype, 1, 0);
    struct gpu_array frequencies = gpu_random(HEAD_DIM / 2, MED_DTYPE_F32, 0.1, 0);
    void *norm = filled(&normal, HIDDEN), *x = filled(&normal, (size_t)ROWS_MAX * HIDDEN);
    void *q = filled(&normal, (size_t)ROWS_MAX * HIDDEN);
    void *inner = filled(&normal, (size_t)ROWS_MAX * INTERMEDIATE);
    void *keys = filled(&normal, (size_t)ROWS_MAX * HIDDEN);
    void *values = filled(&normal, (size_t)ROWS_MAX * HIDDEN);
    int32_t numbers[ROWS_MAX];
    for (int i = 0; i < ROWS_MAX; i++)
        numbers[i] = i;
    int32_t *device_numbers = gpu_ints(numbers, ROWS_MAX);
    for (int i = 0; i < LAYERS * PRODUCTS; i++) {
        struct med_cuda_linear_args *p = &b.products[i];
        *p = (struct med_cuda_linear_args){
            .rows = 1, .columns = HIDDEN, .outputs = HIDDEN, .eps = 1e-5f, .dtype = dtype, .in = x};
        if (i % PRODUCTS == 0) {
            p->epilogue = MED_CUDA_ROPE_KV;
            p->norm = norm;
            p->outputs = (int64_t)3 * HIDDEN;
            p->heads = p->kv_heads = HEADS;
            p->head_dim = HEAD_DIM;
            p->positions = p->slots = device_numbers;
            p->frequencies = frequencies.device;
            p->kv = (struct med_kv_layer){keys, values, dtype, 16};
            p->out = q;
        } else if (i % PRODUCTS == 2) {
            p->epilogue = MED_CUDA_SWIGLU;
            p->norm = norm;
            p->outputs = (int64_t)2 * INTERMEDIATE;
            p->out = inner;
        } else {
            p->epilogue = MED_CUDA_ADD;
            p->in = i % PRODUCTS == 1 ? q : inner;
            p->columns = i % PRODUCTS == 1 ? HIDDEN : INTERMEDIATE;
            p->out = x;
        }
        p->weight = filled(&random, (size_t)(p->columns * p->outputs));
    }
    return b;
}

static void queue_product(void *arg, int index)
{
    struct bench *b = arg;
    const struct med_cuda_linear_args *a = &b->products[index % LAYERS * PRODUCTS + b->which];
    struct med_cuda_product p = {.rows = b->rows,
                                 .columns = a->columns,
                                 .outputs = a->outputs,
                                 .in = a->in,
                                 .weight = a->weight,
                                 .out = b->which == 0   ? b->d->qkv
                                        : b->which == 2 ? b->d->gate_up
                                                        : a->out,
                                 .dtype = a->dtype,
                                 .out_dtype = a->dtype,
                                 .adds = a->epilogue == MED_CUDA_ADD};
    if (a->norm)
        p.in = b->d->normed;
    check(b, med_cuda_blas(b->d, &p));
}

static void queue_layer(void *arg, int index)
{
    struct bench *b = arg;
    for (int i = 0; i < PRODUCTS; i++) {
        struct med_cuda_linear_args a = b->products[index % LAYERS * PRODUCTS + i];
        a.rows = b->rows;
        check(b, med_cuda_linear(b->d, &a));
    }
}

static void queue_small(void *arg, int index)
{
    struct bench *b = arg;
    struct med_cuda_linear_args a = b->products[b->which == 3 ? 2 : 0];
    (void)index;
    a.rows = b->rows;
    if (b->which == 0)
        check(b, med_cuda_norm(b->d, b->rows, HIDDEN, a.in, NULL, a.norm, 1e-5f, b->d->normed));
    if (b->which == 1)
        check(b, med_cuda_rope_kv(b->d, &a, b->d->qkv));
    if (b->which == 3)
        check(b, med_cuda_swiglu(b->d, &a, b->d->gate_up));
}

/* Microseconds per call of one product on either device, the two taking turns: clocks fall under load. */
static void time_both(struct bench both[2], double us[2])
{
    us[0] = us[1] = 1e30;
    for (int turn = 0; turn < TURNS * 2; turn++) {
        struct gpu_time t =
            gpu_time(both[turn % 2].d, queue_product, &both[turn % 2], LAYERS, REPEATS, true);
        if (t.median_us < us[turn % 2])
            us[turn % 2] = t.median_us;
    }
}

static void measure_products(struct bench both[2])
{
    static const char *names[] = {"qkv", "o", "gate_up", "down"};
    static const int64_t rows[] = {64, 128, 192, 256, 320, 350, 512, 700, 1024, 1500, 2048};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        double total[2] = {0};
        (void)printf("rows %4lld", (long long)rows[r]);
        for (int which = 0; which < PRODUCTS; which++) {
            const struct med_cuda_linear_args *a = &both[0].products[which];
            double us[2], flop = 2.0 * (double)rows[r] * (double)a->columns * (double)a->outputs;
            both[0].rows = both[1].rows = rows[r];
            both[0].which = both[1].which = which;
            time_both(both, us);
            total[0] += us[0];
            total[1] += us[1];
            (void)printf("  %s %.1f %.1f us (%.0f T)", names[which], us[0], us[1],
                         flop / us[1] / 1e6);
        }
        (void)printf("  all %.1f %.1f us: %.3f; 32 layers: %.0f tokens/s\n", total[0], total[1],
                     total[1] / total[0], (double)rows[r] / total[1] / 32 * 1e6);
    }
}

static void measure_around(struct bench *b)
{
    static const char *names[] = {"norm", "rope_kv", "", "swiglu"};
    static const double elements[] = {2 * HIDDEN, 6 * HIDDEN, 0, 3 * INTERMEDIATE};
    static const int64_t rows[] = {1, 8, 128, 512, 2048};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        b->rows = rows[r];
        (void)printf("around rows %4lld", (long long)b->rows);
        for (b->which = 0; b->which < 4; b->which++) {
            if (b->which == 2)
                continue;
            struct gpu_time t = gpu_time(b->d, queue_small, b, 16, REPEATS, true);
            (void)printf("  %s %6.2f us %5.0f GB/s", names[b->which], t.median_us,
                         elements[b->which] * 2 * (double)b->rows / t.median_us / 1e3);
        }
        (void)printf("\n");
    }
}

/* Also without skinny's kernels, to see up to where they win. */
static void measure_layers(struct bench *b)
{
    static const int64_t rows[] = {1,  4,   8,   9,   16,  24,  32,   48,   64,
                                   96, 128, 192, 256, 320, 512, 1024, 1500, 2048};
    struct med_cuda_skinny *skinny = b->d->skinny;
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        b->rows = rows[r];
        struct gpu_time t = gpu_time(b->d, queue_layer, b, LAYERS, REPEATS, true);
        b->d->skinny = NULL;
        struct gpu_time without = gpu_time(b->d, queue_layer, b, LAYERS, REPEATS, true);
        b->d->skinny = skinny;
        (void)printf("layer  rows %4lld %8.1f us (%.1f .. %.1f), without skinny %8.1f us, 32 "
                     "layers: %.0f tokens/s\n",
                     (long long)b->rows, t.median_us, t.min_us, t.max_us, without.median_us,
                     (double)b->rows / t.median_us / 32 * 1e6);
    }
}

int main(int argc, char **argv)
{
    struct med_model_config model = gpu_model(HIDDEN, HEADS, HEADS, HEAD_DIM, INTERMEDIATE, 32000);
    struct med_cuda_config config = {.cache_dir = argc > 1 ? argv[1] : NULL};
    struct med_ops_sizes sizes = {
        &model, MED_DTYPE_BF16, MED_DTYPE_BF16, ROWS_MAX, 256, 256, ROWS_MAX, 16};
    struct bench both[2]; // by the first proposal, by the timed choice
    struct med_clock clock;
    med_clock_init_real(&clock, 1);
    both[1] = bench_new(gpu_device(&config, &sizes));
    struct med_cuda_skinny *skinny = both[1].d->skinny;
    both[0] = both[1];
    both[0].d = gpu_device(&config, &sizes);
    struct med_cuda *d = both[1].d;
    for (int k = 0; k < 2; k++) {
        both[k].rows = 1; /* what will be asked for */
        for (int i = 0; i < LAYERS; i++)
            queue_layer(&both[k], i);
        both[k].rows = ROWS_MAX; /* something in the intermediate results */
        queue_layer(&both[k], 0);
    }
    int64_t begun_ns = med_clock_now_ns(&clock);
    d->skinny = NULL; /* all numbers of rows are cuBLASLt's then */
    check(&both[1], med_cuda_blas_tune(d));
    d->skinny = skinny;
    (void)printf("tuned in %.2f s: %lld timed, %lld from the cache\n",
                 (double)(med_clock_now_ns(&clock) - begun_ns) / 1e9,
                 (long long)d->stats.blas_tuned, (long long)d->stats.blas_cached);
    if (argc > 2) /* that was all that was wanted */
        return 0;
    measure_products(both);
    measure_around(&both[1]);
    measure_layers(&both[1]);
    med_cuda_free(d);
    med_cuda_free(both[0].d);
    return 0;
}
