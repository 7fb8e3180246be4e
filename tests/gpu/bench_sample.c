/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Microseconds that a draw adds to a step, on the stream: op by op, INNER in a row, inputs and
 * results included.  Logits are random: normal with a standard deviation of 2.5, as of a
 * model whose distribution is wide.
 */
#include "tests/gpu/gpu.h"
#include "worker/cuda/sample.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    ROWS_MAX = 128,
    INNER = 20,
    REPEATS = 15
};

struct bench {
    struct med_cuda *d;
    struct med_sample_args args;
    struct med_draw_input inputs[ROWS_MAX];
    struct med_draw results[ROWS_MAX];
    struct med_sampling sampling;
};

static void draw(void *arg, int index)
{
    struct bench *b = arg;
    (void)index;
    if (med_cuda_sample(b->d, &b->args) < 0) {
        (void)printf("FAIL %s\n", b->d->failure.text);
        exit(1);
    }
}

static void measure(struct bench *b, const char *name, struct med_sampling sampling)
{
    static const int rows[] = {1, 8, 64, 128};
    b->sampling = sampling;
    (void)printf("%-12s vocab %6lld", name, (long long)b->args.vocab);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        b->args.samples = rows[i];
        const struct gpu_time t = gpu_time(b->d, draw, b, INNER, REPEATS, false);
        (void)printf("  rows %3d %7.1f us (min %.1f)", rows[i], t.median_us, t.min_us);
    }
    (void)printf("\n");
    (void)fflush(stdout);
}

static void measure_vocab(int64_t vocab)
{
    static struct bench b;
    static struct med_model_config model;
    model = gpu_model(64, 4, 4, 16, 64, vocab);
    const struct med_cuda_config config = {0};
    const struct med_ops_sizes sizes = {.model = &model,
                                        .dtype = MED_DTYPE_BF16,
                                        .kv_dtype = MED_DTYPE_BF16,
                                        .rows_max = ROWS_MAX,
                                        .items_max = ROWS_MAX,
                                        .samples_max = ROWS_MAX,
                                        .model_len_max = 4096,
                                        .block_tokens = 16};
    b.d = gpu_device(&config, &sizes);
    struct gpu_array logits = gpu_random((size_t)(ROWS_MAX * vocab), MED_DTYPE_F32, 2.5, 0);
    for (int r = 0; r < ROWS_MAX; r++)
        b.inputs[r] = (struct med_draw_input){.vocab = vocab, .sampling = &b.sampling};
    b.args = (struct med_sample_args){
        .vocab = vocab, .logits = logits.device, .inputs = b.inputs, .results = b.results};
    struct med_sampling s = med_sampling_default();
    s.seed = 7;
    measure(&b, "temperature", s);
    s.top_p = 0.9F;
    measure(&b, "top_p 0.9", s);
    s.top_p = 1;
    s.top_k = 50;
    measure(&b, "top_k 50", s);
    s.top_p = 0.9F;
    measure(&b, "both", s);
    s = med_sampling_default();
    s.temperature = 0;
    measure(&b, "greedy", s);
    s.top_logprobs = 5;
    measure(&b, "logprobs 5", s);
    gpu_array_free(&logits);
    med_cuda_free(b.d);
}

int main(void)
{
    measure_vocab(32000);
    measure_vocab(128256);
    return 0;
}
