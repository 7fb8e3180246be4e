/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Draws on the GPU against the CPU's sampler on the same logits: random batches of rows that each ask for
 * something else.  All that decides is integer arithmetic, so the ids are equal, always; logprobs
 * within 1e-4, ranks and likeliest ids equal.  Then: the same again from another slot and another
 * place in a batch, two slots under way at once, more edits than pinned memory holds, and
 * frequencies of many draws.
 */
#include "tests/gpu/gpu.h"
#include "worker/cuda/sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SAMPLES = 64,
    MODEL_LEN = 40000,
    TOKENS_MAX = 30000,
    BIASES = 40,
    STOPS = 8,
    VOCAB_MAX = 128256
};

/* Rows and all that they point to. */
struct batch {
    int64_t vocab, samples;
    float *logits; // [samples][vocab], as given
    float *device;
    struct med_sampling sampling[SAMPLES];
    struct med_draw_input inputs[SAMPLES];
    struct med_draw got[SAMPLES], want[SAMPLES];
    struct med_logit_bias biases[SAMPLES][BIASES];
    uint32_t stops[SAMPLES][STOPS], eos[2];
    uint32_t *tokens; // [SAMPLES][TOKENS_MAX]
    const char *kinds[SAMPLES];
};

static uint32_t below(uint32_t n)
{
    return (uint32_t)((gpu_random_bits() >> 32) * n >> 32);
}

static double uniform(void)
{
    return (double)(gpu_random_bits() >> 11) * 0x1p-53;
}

static bool one_in(uint32_t n)
{
    return below(n) == 0;
}

static void die(const char *what)
{
    (void)printf("FAIL %s\n", what);
    exit(1);
}

static void check(cudaError_t status)
{
    if (status != cudaSuccess)
        die(cudaGetErrorString(status));
}

static struct batch *batch_new(int64_t vocab)
{
    struct batch *b = calloc(1, sizeof *b);
    if (!b)
        die("memory");
    b->vocab = vocab;
    b->logits = calloc((size_t)(SAMPLES * vocab), sizeof *b->logits);
    b->tokens = calloc((size_t)SAMPLES * TOKENS_MAX, sizeof *b->tokens);
    if (!b->logits || !b->tokens)
        die("memory");
    check(cudaMalloc((void **)&b->device, (size_t)(SAMPLES * vocab) * sizeof(float)));
    return b;
}

static void batch_free(struct batch *b)
{
    check(cudaFree(b->device));
    free(b->logits);
    free(b->tokens);
    free(b);
}

/* A row of logits of some kind. */
static const char *fill(float *row, int64_t vocab)
{
    static const char *const kinds[] = {"normal", "flat",      "peaked", "ties",
                                        "equal",  "some -inf", "one",    "all -inf",
                                        "NaN",    "+inf",      "zeros",  "huge"};
    uint32_t kind = below(24);
    kind = kind < 12 ? kind : kind % 6;
    const double scale = kind == 1 ? 0.1 : kind == 11 ? 1e37 : kind == 2 ? 6 : 2.5;
    for (int64_t i = 0; i < vocab; i++) {
        double l = (uniform() + uniform() + uniform() + uniform() - 2) * 1.73 * scale;
        if (kind == 2 && one_in(5000))
            l += 15;
        if (kind == 3)
            l = floor(l * 2) / 2;
        if (kind == 4)
            l = -3.5;
        if ((kind == 5 && !one_in(3)) || kind == 6 || kind == 7)
            l = -INFINITY;
        if (kind == 10)
            l = one_in(2) ? 0.0 : -0.0;
        row[i] = (float)l;
    }
    const uint32_t at = below((uint32_t)vocab);
    if (kind == 6)
        row[at] = -2;
    if (kind == 8)
        row[at] = NAN;
    if (kind == 9)
        row[at] = INFINITY;
    return kinds[kind];
}

static void ask_edits(struct batch *b, int64_t r, struct med_sampling *s)
{
    const uint32_t vocab = (uint32_t)b->vocab;
    struct med_draw_input *in = &b->inputs[r];
    if (one_in(3)) {
        s->bias_count = 1 + below(BIASES);
        for (size_t i = 0; i < s->bias_count; i++) {
            b->biases[r][i] = (struct med_logit_bias){one_in(4) ? b->biases[r][0].id : below(vocab),
                                                      (float)(uniform() * 20 - 10)};
        }
    }
    if (one_in(3)) {
        s->stop_count = 1 + below(STOPS);
        for (size_t i = 0; i < s->stop_count; i++)
            b->stops[r][i] = below(vocab);
    }
    s->ignore_eos = one_in(4);
    s->tokens_min = one_in(3) ? 1 + below(60) : 0;
    if (one_in(3))
        s->repetition_penalty = (float)(0.5 + uniform() * 1.5);
    if (one_in(4))
        s->presence_penalty = (float)(uniform() * 4 - 2);
    if (one_in(4))
        s->frequency_penalty = (float)(uniform() * 4 - 2);
    const uint32_t count = one_in(8) ? below(TOKENS_MAX) : below(200);
    in->count = count;
    in->prompt_tokens = count > 0 ? below(count) : 0;
    for (uint32_t i = 0; i < count; i++)
        b->tokens[(size_t)r * TOKENS_MAX + i] = one_in(2) ? below(vocab) : below(vocab) % 50;
}

static void ask(struct batch *b, int64_t r)
{
    const uint32_t vocab = (uint32_t)b->vocab;
    struct med_sampling s = med_sampling_default();
    s.seed = gpu_random_bits();
    s.temperature = one_in(5)   ? 0.0F
                    : one_in(6) ? 0.02F
                    : one_in(3) ? 1.0F
                                : (float)(uniform() * 2);
    if (one_in(2))
        s.top_p = one_in(8) ? 1e-6F : one_in(2) ? 0.9F : (float)(1 - uniform());
    if (one_in(3))
        s.top_k = one_in(3) ? 1 + below(vocab) : 1 + below(100);
    if (one_in(5))
        s.min_p = one_in(6) ? 1.0F : (float)(uniform() * 0.2);
    if (one_in(4))
        s.top_logprobs = (int32_t)below(MED_LIMIT_TOP_LOGPROBS + 1);
    s.biases = b->biases[r];
    s.stop_ids = b->stops[r];
    b->inputs[r] = (struct med_draw_input){.vocab = b->vocab,
                                           .sampling = &b->sampling[r],
                                           .tokens = b->tokens + (size_t)r * TOKENS_MAX,
                                           .eos_ids = b->eos,
                                           .eos_count = 2};
    if (one_in(2))
        ask_edits(b, r, &s);
    b->sampling[r] = s;
}

static void batch_random(struct batch *b, int64_t samples)
{
    b->samples = samples;
    for (int i = 0; i < 2; i++)
        b->eos[i] = below((uint32_t)b->vocab);
    for (int64_t r = 0; r < samples; r++) {
        b->kinds[r] = fill(b->logits + r * b->vocab, b->vocab);
        ask(b, r);
    }
}

static void batch_queue(struct med_cuda *d, struct batch *b, int slot)
{
    gpu_put(b->device, b->logits, (size_t)(b->samples * b->vocab) * sizeof(float));
    memset(b->got, 0xff, sizeof b->got);
    const struct med_sample_args args = {.samples = b->samples,
                                         .vocab = b->vocab,
                                         .logits = b->device,
                                         .inputs = b->inputs,
                                         .results = b->got,
                                         .slot = slot};
    if (med_cuda_sample(d, &args) < 0)
        die(d->failure.text);
}

static void batch_take(struct med_cuda *d, int slot)
{
    check(cudaStreamSynchronize(d->stream));
    med_cuda_sample_take(d, slot);
}

static void batch_on_cpu(struct med_sampler *sampler, struct batch *b)
{
    static float row[VOCAB_MAX];
    for (int64_t r = 0; r < b->samples; r++) {
        memcpy(row, b->logits + r * b->vocab, (size_t)b->vocab * sizeof row[0]);
        b->inputs[r].logits = row;
        memset(&b->want[r], 0, sizeof b->want[r]);
        b->want[r].status = med_sampler_draw(sampler, &b->inputs[r], &b->want[r]);
    }
}

static bool same_logprobs(const struct med_token_logprobs *got,
                          const struct med_token_logprobs *want)
{
    bool same = fabsf(got->logprob - want->logprob) <= 1e-4F + 1e-6F * fabsf(want->logprob) &&
                got->rank == want->rank && got->top_count == want->top_count;
    for (uint32_t i = 0; same && i < want->top_count; i++) {
        const float limit = 1e-4F + 1e-6F * fabsf(want->top_logprobs[i]);
        same = got->top_ids[i] == want->top_ids[i] &&
               fabsf(got->top_logprobs[i] - want->top_logprobs[i]) <= limit;
    }
    return same;
}

/* How many rows are not as the CPU's; says what the first few asked for. */
static int differences(const struct batch *b, const uint32_t *ids)
{
    static int shown;
    int wrong = 0;
    for (int64_t r = 0; r < b->samples; r++) {
        const struct med_draw *got = &b->got[r], *want = &b->want[r];
        const struct med_sampling *s = &b->sampling[r];
        const bool same =
            got->status == want->status && ids[r] == (want->status == 0 ? want->id : 0) &&
            (want->status < 0 ||
             (got->id == want->id && got->stop == want->stop &&
              (s->top_logprobs < 0 || same_logprobs(&got->logprobs, &want->logprobs))));
        wrong += !same;
        if (same || shown++ > 20)
            continue;
        (void)printf("  %s row %d: status %d/%d id %u/%u stop %d/%d rank %u/%u logprob %g/%g top "
                     "%u/%u; t %g p %g k %u min_p %g rep %g pres %g freq %g biases %zu min %d "
                     "logprobs %d count %d\n",
                     b->kinds[r], (int)r, got->status, want->status, got->id, want->id, got->stop,
                     want->stop, got->logprobs.rank, want->logprobs.rank,
                     (double)got->logprobs.logprob, (double)want->logprobs.logprob,
                     got->logprobs.top_count, want->logprobs.top_count, (double)s->temperature,
                     (double)s->top_p, s->top_k, (double)s->min_p, (double)s->repetition_penalty,
                     (double)s->presence_penalty, (double)s->frequency_penalty, s->bias_count,
                     (int)s->tokens_min, s->top_logprobs, (int)b->inputs[r].count);
    }
    return wrong;
}

static void ids_get(const struct med_cuda *d, uint32_t ids[SAMPLES], int64_t count)
{
    check(cudaMemcpy(ids, med_cuda_sampler_ids(d), (size_t)count * sizeof *ids,
                     cudaMemcpyDeviceToHost));
}

static struct med_cuda *device_of(int64_t vocab)
{
    static struct med_model_config model;
    model = gpu_model(64, 4, 4, 16, 64, vocab);
    const struct med_cuda_config config = {0};
    const struct med_ops_sizes sizes = {.model = &model,
                                        .dtype = MED_DTYPE_BF16,
                                        .kv_dtype = MED_DTYPE_BF16,
                                        .rows_max = SAMPLES,
                                        .items_max = SAMPLES,
                                        .samples_max = SAMPLES,
                                        .model_len_max = MODEL_LEN,
                                        .block_tokens = 16};
    return gpu_device(&config, &sizes);
}

static void test_random(struct med_cuda *d, struct med_sampler *sampler, int64_t vocab, int batches)
{
    struct batch *b = batch_new(vocab);
    uint32_t ids[SAMPLES];
    int wrong = 0, rows = 0, failed = 0;
    for (int i = 0; i < batches; i++) {
        batch_random(b, i % 3 == 0 ? SAMPLES : 1 + below(SAMPLES));
        batch_on_cpu(sampler, b);
        batch_queue(d, b, i % MED_OPS_SLOTS);
        batch_take(d, i % MED_OPS_SLOTS);
        ids_get(d, ids, b->samples);
        wrong += differences(b, ids);
        rows += (int)b->samples;
        for (int64_t r = 0; r < b->samples; r++)
            failed += b->want[r].status < 0;
    }
    char name[64];
    (void)snprintf(name, sizeof name, "random-%lld", (long long)vocab);
    (void)gpu_report(name, wrong == 0 && rows > 0, "%d of %d rows differ; %d could not be drawn",
                     wrong, rows, failed);
    batch_free(b);
}

/* All greedy, nothing else: the kernel that needs no transfer. */
static void test_greedy(struct med_cuda *d, struct med_sampler *sampler, int64_t vocab)
{
    struct batch *b = batch_new(vocab);
    uint32_t ids[SAMPLES];
    int wrong = 0, rows = 0;
    for (int i = 0; i < 4; i++) {
        batch_random(b, i == 0 ? 1 : SAMPLES - i);
        for (int64_t r = 0; r < b->samples; r++) {
            b->sampling[r] = med_sampling_default();
            b->sampling[r].temperature = 0;
            b->inputs[r].count = b->inputs[r].prompt_tokens = 0;
        }
        batch_on_cpu(sampler, b);
        batch_queue(d, b, 0);
        batch_take(d, 0);
        ids_get(d, ids, b->samples);
        wrong += differences(b, ids);
        rows += (int)b->samples;
    }
    char name[64];
    (void)snprintf(name, sizeof name, "greedy-%lld", (long long)vocab);
    (void)gpu_report(name, wrong == 0, "%d of %d rows differ", wrong, rows);
    batch_free(b);
}

/* Two batches under way, taken in order; then the first again, alone and row by row. */
static void test_slots(struct med_cuda *d, struct med_sampler *sampler, int64_t vocab)
{
    struct batch *a = batch_new(vocab), *b = batch_new(vocab);
    uint32_t ids[SAMPLES];
    int wrong = 0, moved = 0;
    batch_random(a, SAMPLES);
    batch_random(b, SAMPLES - 5);
    batch_on_cpu(sampler, a);
    batch_on_cpu(sampler, b);
    batch_queue(d, a, 0);
    batch_queue(d, b, 1);
    batch_take(d, 0);
    batch_take(d, 1);
    ids_get(d, ids, b->samples);
    wrong = differences(b, ids);
    for (int64_t r = 0; r < a->samples; r++)
        ids[r] = a->got[r].status == 0 ? a->got[r].id : 0; /* b's have overwritten them */
    wrong += differences(a, ids);
    (void)gpu_report("slots", wrong == 0, "%d rows of two batches under way differ", wrong);

    for (int64_t r = 0; r < a->samples; r += 7) {
        struct med_draw alone;
        const struct med_sample_args args = {.samples = 1,
                                             .vocab = vocab,
                                             .logits = a->device,
                                             .inputs = &a->inputs[r],
                                             .results = &alone,
                                             .slot = 1};
        gpu_put(a->device, a->logits + r * vocab, (size_t)vocab * sizeof(float));
        if (med_cuda_sample(d, &args) < 0)
            die(d->failure.text);
        batch_take(d, 1);
        moved +=
            alone.status != a->want[r].status || (alone.status == 0 && alone.id != a->want[r].id);
    }
    (void)gpu_report("alone", moved == 0, "%d rows draw something else alone", moved);
    batch_free(a);
    batch_free(b);
}

/* Penalties over long histories in every row: more edits than are pinned. */
static void test_groups(struct med_cuda *d, struct med_sampler *sampler, int64_t vocab)
{
    struct batch *b = batch_new(vocab);
    uint32_t ids[SAMPLES];
    batch_random(b, SAMPLES);
    for (int64_t r = 0; r < SAMPLES; r++) {
        b->sampling[r].repetition_penalty = 1.25F;
        b->inputs[r].count = TOKENS_MAX - (r % 5);
        b->inputs[r].prompt_tokens = 10 + r;
        for (int64_t i = 0; i < b->inputs[r].count; i++)
            b->tokens[r * TOKENS_MAX + i] = below((uint32_t)vocab);
    }
    batch_on_cpu(sampler, b);
    batch_queue(d, b, 0);
    batch_take(d, 0);
    ids_get(d, ids, b->samples);
    const int wrong = differences(b, ids);
    (void)gpu_report("groups", wrong == 0, "%d of %d rows with histories of %d tokens differ",
                     wrong, SAMPLES, TOKENS_MAX);
    batch_free(b);
}

/* Frequencies over many seeds against softmax of the logits: chi-squared with 9 degrees of freedom. */
static void test_frequencies(struct med_cuda *d, int64_t vocab)
{
    enum {
        IDS = 10,
        BATCHES = 150
    };
    struct batch *b = batch_new(vocab);
    double counts[IDS] = {0}, p[IDS], sum = 0, chi = 0;
    b->samples = SAMPLES;
    for (int64_t r = 0; r < SAMPLES; r++) {
        for (int64_t i = 0; i < vocab; i++)
            b->logits[r * vocab + i] = i < IDS ? (float)i * 0.2F : -INFINITY;
        b->inputs[r] = (struct med_draw_input){.vocab = vocab, .sampling = &b->sampling[r]};
        b->sampling[r] = med_sampling_default();
    }
    for (int i = 0; i < IDS; i++)
        sum += p[i] = exp((double)((float)i * 0.2F));
    for (int k = 0; k < BATCHES; k++) {
        for (int64_t r = 0; r < SAMPLES; r++)
            b->sampling[r].seed = (uint64_t)k * SAMPLES + (uint64_t)r;
        batch_queue(d, b, 0);
        batch_take(d, 0);
        for (int64_t r = 0; r < SAMPLES; r++)
            counts[b->got[r].id < IDS ? b->got[r].id : 0]++;
    }
    for (int i = 0; i < IDS; i++) {
        const double expected = p[i] / sum * BATCHES * SAMPLES;
        chi += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    /* Seeds are fixed, so this is no game of chance; 33.7 is exceeded by 1 in 10,000. */
    (void)gpu_report("frequencies", chi < 33.7, "chi-squared %.2f of %d draws", chi,
                     BATCHES * SAMPLES);
    batch_free(b);
}

int main(void)
{
    static const int64_t vocabs[] = {1, 7, 32000, VOCAB_MAX};
    static const int batches[] = {40, 60, 24, 6};
    for (size_t i = 0; i < sizeof vocabs / sizeof vocabs[0]; i++) {
        struct med_cuda *d = device_of(vocabs[i]);
        struct med_sampler *sampler = NULL;
        if (med_sampler_new(vocabs[i], &sampler) < 0)
            die("memory");
        test_greedy(d, sampler, vocabs[i]);
        test_random(d, sampler, vocabs[i], batches[i]);
        if (vocabs[i] == 32000) {
            test_slots(d, sampler, vocabs[i]);
            test_groups(d, sampler, vocabs[i]);
            test_frequencies(d, vocabs[i]);
        }
        med_sampler_free(sampler);
        med_cuda_free(d);
    }
    return gpu_finish();
}
