/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What sample.c hands to the kernels of sample.cu: where a group of rows and its intermediate results
 * lie.  All memory is the sampler's.
 * thread: engine.
 */
#ifndef MED_WORKER_CUDA_SAMPLE_JOB_H
#define MED_WORKER_CUDA_SAMPLE_JOB_H

#include "worker/cuda/internal.h"
#include "worker/cuda/sample_inputs.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    MED_CUDA_SAMPLE_BINS = 2048,
    MED_CUDA_SAMPLE_LIST = 4096, /* ids of a row that are looked at one by one */
    MED_CUDA_SAMPLE_PARTS = 128, /* blocks of a row at most */

    MED_CUDA_SAMPLE_DRAWN = 0,
    MED_CUDA_SAMPLE_NOTHING = 1
};

/* Of one row, in pinned memory; written by the blocks that decide. */
struct med_cuda_sample_result {
    uint32_t id;
    uint32_t status; /* SAMPLE_* */
    /* With logprobs: */
    float own, largest; /* raw logits: of the drawn id, of all */
    double sum;         /* of exp(l - largest) */
    uint32_t rank, top_count;
    uint32_t top_ids[MED_LIMIT_TOP_LOGPROBS];
    float top_logits[MED_LIMIT_TOP_LOGPROBS];
};

/* Of one row, on the device. Counters and sums are zero between batches. */
struct med_cuda_sample_state {
    uint64_t best;       /* order key of the largest logit, complement of its id */
    uint64_t sum;        /* of the weights */
    uint64_t need;       /* top_p's part of it */
    uint64_t above;      /* weights of the bins before `bin` */
    uint32_t largest;    /* order key */
    uint32_t mode, bin;  /* between the kernels of a batch */
    uint32_t is_broken;  /* an edited logit is NaN or infinite */
    uint32_t list_count; /* zero between batches */
    uint32_t arrived;    /* blocks of the row, counted anew by each kernel */
};

struct med_cuda_sample_sum { /* of one part of a row */
    double sum;              /* of exp(l - largest) */
    float largest;
    uint32_t before; /* ids that rank before the drawn one */
};

struct med_cuda_sample_job {
    float *logits; // [rows][vocab]
    int vocab;
    int parts, part;                // a row is `parts` blocks of `part` ids
    double one;                     // weight of the likeliest id
    const struct med_cuda_row *row; // [rows]; NULL: all greedy, no edits, no logprobs
    const struct med_cuda_edit *edits;
    float *raws;                            // [edits] what they overwrote
    struct med_cuda_sample_state *states;   // [rows]
    unsigned long long *weights;            // [rows][BINS]; zero between batches
    uint32_t *counts;                       // [rows][BINS]; likewise
    unsigned long long *part_sums;          // [rows][PARTS_MAX]
    uint32_t *lists;                        // [rows][LIST]
    struct med_cuda_sample_sum *raw_sums;   // [rows][PARTS_MAX]
    unsigned long long *tops;               // [rows][PARTS_MAX][MED_LIMIT_TOP_LOGPROBS]
    uint32_t *ids;                          // [rows]
    struct med_cuda_sample_result *results; // [rows], pinned
};

/* Which kernels a group needs. */
struct med_cuda_sample_wants {
    bool edits, draws, borders, logprobs, restores;
};

/* Queues the kernels for `rows` rows. */
int med_cuda_sample_queue(struct med_cuda *d, const struct med_cuda_sample_job *job, int64_t rows,
                          const struct med_cuda_sample_wants *wants) MED_MUST_CHECK;

#ifdef __cplusplus
}
#endif

#endif
