/* SPDX-License-Identifier: Apache-2.0 */
/*
 * golden_logits MODEL_DIR DTYPE KV_DTYPE CHUNK [BACKEND ["deterministic"]]: a model directory through
 * the transformer, on the CPU unless another backend is named.
 *
 * Standard input has one sequence per line: "N id ... K row ...": N token ids, and the K positions
 * whose logits are wanted, ascending.  All sequences run together, each in chunks that end at CHUNK
 * tokens or at a wanted position, so batches mix long and short items as a server's do; their blocks
 * lie interleaved in the cache.  Standard output gets the rows as float32, vocabulary by vocabulary,
 * in the order of the input.
 *
 * thread: main.
 */
#include "base/alloc.h"
#include "base/assert.h"
#include "worker/device.h"
#include "worker/transformer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SEQUENCES_MAX = 64,
    BLOCK_TOKENS = 16
};

struct sequence {
    uint32_t *tokens;
    int64_t *rows;
    int32_t *blocks;
    int64_t count, row_count, done, rows_done, block_count;
    float *logits; // [row_count][vocab]
    struct med_backend_sequence backend;
};

struct driver {
    struct med_checkpoint checkpoint;
    struct med_device device;
    struct med_transformer *transformer;
    struct med_backend backend;
    struct sequence sequences[SEQUENCES_MAX];
    size_t count;
    int64_t chunk, vocab;
};

static int fail(const char *text)
{
    (void)fprintf(stderr, "golden_logits: %s\n", text);
    return 1;
}

static int64_t read_number(void)
{
    int64_t value;
    if (scanf("%" SCNd64, &value) != 1 || value < 0) // NOLINT: our own test writes the numbers
        exit(fail("expected a number"));
    return value;
}

static void *take(size_t count, size_t bytes)
{
    void *p = med_calloc(count + 1, bytes);
    if (!p)
        exit(fail("no memory"));
    return p;
}

/* False at the end of the input. */
static bool read_sequence(struct driver *d, struct sequence *s)
{
    if (scanf("%" SCNd64, &s->count) != 1) // NOLINT: see read_number
        return false;
    s->tokens = take((size_t)s->count, sizeof *s->tokens);
    for (int64_t i = 0; i < s->count; i++)
        s->tokens[i] = (uint32_t)read_number();
    s->row_count = read_number();
    s->rows = take((size_t)s->row_count, sizeof *s->rows);
    for (int64_t i = 0; i < s->row_count; i++)
        s->rows[i] = read_number();
    s->logits = take((size_t)(s->row_count * d->vocab), sizeof *s->logits);
    s->block_count = (s->count + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    s->blocks = take((size_t)s->block_count, sizeof *s->blocks);
    s->backend = (struct med_backend_sequence){
        .tokens = s->tokens, .prompt_tokens = s->count, .sampling = med_sampling_default()};
    return true;
}

/* Blocks in turn: one for each sequence that needs more. Returns how many there are. */
static int64_t place_blocks(struct driver *d)
{
    int32_t next = 0;
    for (int64_t i = 0;; i++) {
        int32_t before = next;
        for (size_t s = 0; s < d->count; s++) {
            if (i < d->sequences[s].block_count)
                d->sequences[s].blocks[i] = next++;
        }
        if (next == before)
            return next;
    }
}

/* The next chunk of a sequence; false: it is done. */
static bool next_item(const struct driver *d, struct sequence *s, struct med_batch_item *item)
{
    if (s->rows_done == s->row_count)
        return false;
    int64_t until = s->rows[s->rows_done] + 1;
    int64_t tokens = until - s->done < d->chunk ? until - s->done : d->chunk;
    *item = (struct med_batch_item){.id = (uint64_t)(s - d->sequences),
                                    .tokens = tokens,
                                    .context = s->done,
                                    .prefill = true,
                                    .samples = s->done + tokens == until,
                                    .blocks = s->blocks,
                                    .block_count = s->block_count};
    return true;
}

/* One batch of what every sequence has next; 0: nothing is left. */
static int step(struct driver *d, struct med_err *err)
{
    struct med_batch_item items[SEQUENCES_MAX];
    const struct med_backend_sequence *sequences[SEQUENCES_MAX];
    struct med_batch batch = {.items = items};
    for (size_t s = 0; s < d->count; s++) {
        if (!next_item(d, &d->sequences[s], &items[batch.count]))
            continue;
        sequences[batch.count++] = &d->sequences[s].backend;
    }
    if (batch.count == 0)
        return 0;
    const struct med_backend_step s = {.batch = &batch, .sequences = sequences};
    const float *logits;
    int rc = med_transformer_logits(d->transformer, &s, &logits, err);
    for (size_t i = 0; rc == 0 && i < batch.count; i++) {
        struct sequence *sequence = &d->sequences[items[i].id];
        sequence->done += items[i].tokens;
        if (!items[i].samples)
            continue;
        memcpy(sequence->logits + sequence->rows_done * d->vocab, logits,
               (size_t)d->vocab * sizeof *logits);
        sequence->rows_done++;
        logits += d->vocab;
    }
    return rc < 0 ? rc : 1;
}

static int run(struct driver *d, int argc, char **argv, struct med_err *err)
{
    int rc = med_checkpoint_open(argv[1], &d->checkpoint, err);
    if (rc < 0)
        return rc;
    d->vocab = d->checkpoint.config.vocab;
    d->chunk = strtoll(argv[4], NULL, 10);
    while (d->count < SEQUENCES_MAX && read_sequence(d, &d->sequences[d->count]))
        d->count++;
    const struct med_device_config device = {
        .backend = argc > 5 ? argv[5] : "cpu", .deterministic = argc > 6, .cpu = {.threads = 2}};
    rc = med_device_init(&d->device, &device, err);
    if (rc < 0)
        return rc;
    int dtype = med_dtype_find(argv[2]);
    int kv_dtype = med_dtype_find(argv[3]);
    MED_ASSERT(dtype >= 0 && kv_dtype >= 0);
    const struct med_transformer_config config = {
        .checkpoint = &d->checkpoint,
        .ops = d->device.ops,
        .device = d->device.self,
        .dtype = (enum med_dtype)dtype,
        .kv_dtype = (enum med_dtype)kv_dtype,
        .block_tokens = BLOCK_TOKENS,
        .kv_blocks = place_blocks(d),
        .sequences_max = (int64_t)d->count,
        .batched_tokens_max = (int64_t)d->count * d->chunk,
        .model_len_max = d->checkpoint.config.positions_max};
    rc = med_transformer_new(&config, &d->transformer, err);
    if (rc < 0)
        return rc;
    d->backend = med_transformer_backend(d->transformer);
    rc = d->backend.ops->init(d->backend.self, err);
    while (rc >= 0 && (rc = step(d, err)) > 0) {
    }
    for (size_t s = 0; rc == 0 && s < d->count; s++) {
        const struct sequence *q = &d->sequences[s];
        size_t rows = (size_t)(q->row_count * d->vocab);
        if (fwrite(q->logits, sizeof *q->logits, rows, stdout) != rows || fflush(stdout) != 0)
            rc = med_err_set(err, MED_E_IO, "the logits could not be written");
    }
    return rc;
}

int main(int argc, char **argv)
{
    if (argc < 5 || argc > 7)
        return fail("usage: golden_logits MODEL DTYPE KV_DTYPE CHUNK [BACKEND [deterministic]]");
    struct driver d = {0};
    struct med_err err = {0};
    int rc = run(&d, argc, argv, &err);
    if (rc < 0)
        (void)fail(err.text);
    if (d.backend.ops)
        d.backend.ops->release(d.backend.self);
    med_device_release(&d.device);
    for (size_t s = 0; s < d.count; s++) {
        med_free(d.sequences[s].tokens);
        med_free(d.sequences[s].rows);
        med_free(d.sequences[s].blocks);
        med_free(d.sequences[s].logits);
    }
    med_checkpoint_close(&d.checkpoint);
    return rc < 0 ? 1 : 0;
}
