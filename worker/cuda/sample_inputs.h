/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the host works out of a draw's inputs for the GPU: a row's numbers, and its edits, one per
 * distinct id that is biased, masked or penalized.  Pure host code; valid as C17 and C++17.
 * thread: engine.
 */
#ifndef MED_WORKER_CUDA_SAMPLE_INPUTS_H
#define MED_WORKER_CUDA_SAMPLE_INPUTS_H

#include "worker/engine/sampling.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    /* Bits of an edit beside the output count. */
    MED_CUDA_EDIT_BIAS = 1 << 28,
    MED_CUDA_EDIT_MASK = 1 << 29,
    MED_CUDA_EDIT_PENALTY = 1 << 30,
    MED_CUDA_EDIT_COUNT = MED_CUDA_EDIT_BIAS - 1,

    /* Of a row. */
    MED_CUDA_ROW_GREEDY = 1,
    MED_CUDA_ROW_TOP_P = 2,
    MED_CUDA_ROW_MASKS = 4,
    MED_CUDA_ROW_CHAINED = 8 /* some id has several biases */
};

struct med_cuda_edit {
    uint32_t id;
    uint32_t bits; /* 0: only a link of another edit's chain of biases */
    float bias;
    uint32_t next; /* place in the row's edits of the next bias of this id; 0: none */
};

struct med_cuda_row {
    double inverse; /* of the temperature */
    double min_p;
    uint64_t top_p;  /* times 2^64 */
    uint64_t random; /* med_sampling_random */
    float repetition, frequency, presence;
    uint32_t top_k; /* 0: off, also where it is no less than the vocabulary */
    uint32_t edit_begin, edit_count;
    int32_t top_logprobs;
    uint32_t flags;
};

/* Edits of one row at most; such a row always fits where none is yet. */
int64_t med_cuda_row_edits_max(int64_t vocab, int64_t model_len_max, int64_t eos_max);

struct med_cuda_packer {
    int64_t vocab;
    uint32_t *places; // [vocab] 1 + place of the id's edit in its row; all 0 between rows
    struct med_cuda_edit *edits;
    int64_t count, capacity;
};

int med_cuda_packer_init(struct med_cuda_packer *packer, int64_t vocab) MED_MUST_CHECK;
void med_cuda_packer_release(struct med_cuda_packer *packer);
/* Edits go to `edits` from now on. */
void med_cuda_packer_start(struct med_cuda_packer *packer, struct med_cuda_edit *edits,
                           int64_t capacity);
/* Adds a row; false: its edits do not fit, nothing was added. O(tokens it looks at); allocates nothing. */
bool med_cuda_packer_add(struct med_cuda_packer *packer, const struct med_draw_input *input,
                         struct med_cuda_row *ret_row);

#ifdef __cplusplus
}
#endif

#endif
