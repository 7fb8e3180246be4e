/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the host packs of a draw for the GPU: one edit per distinct id with its biases in order, mask, output
 * count; the row's numbers; a full piece of memory; nothing left behind for the next row.
 */
#include "worker/cuda/sample_inputs.h"

#include "tests/check.h"

enum {
    VOCAB = 100,
    EDITS = 64
};

static struct med_cuda_edit edits[EDITS];

static struct med_cuda_packer packer_new(int64_t capacity)
{
    struct med_cuda_packer p;
    REQUIRE(med_cuda_packer_init(&p, VOCAB) == 0);
    memset(edits, 0x7f, sizeof edits);
    med_cuda_packer_start(&p, edits, capacity);
    return p;
}

static const struct med_cuda_edit *edit_of(const struct med_cuda_row *row, uint32_t id)
{
    for (uint32_t i = 0; i < row->edit_count; i++) {
        const struct med_cuda_edit *e = &edits[row->edit_begin + i];
        if (e->id == id && e->bits != 0)
            return e;
    }
    return NULL;
}

static void test_row_when_plain_then_has_no_edits(void)
{
    struct med_cuda_packer p = packer_new(EDITS);
    struct med_sampling s = med_sampling_default();
    const uint32_t tokens[] = {1, 2, 3};
    const struct med_draw_input in = {
        .vocab = VOCAB, .sampling = &s, .tokens = tokens, .count = 3, .prompt_tokens = 2};
    struct med_cuda_row row;
    s.temperature = 0.5F;
    s.top_p = 0.25F;
    s.top_k = VOCAB;
    s.seed = 9;
    CHECK(med_cuda_packer_add(&p, &in, &row));
    CHECK_UINT(row.edit_count, 0);
    CHECK_DOUBLE(row.inverse, 2.0, 0.0);
    CHECK_UINT(row.top_p, UINT64_C(1) << 62);
    CHECK_UINT(row.top_k, 0); /* all of them */
    CHECK_UINT(row.flags, MED_CUDA_ROW_TOP_P);
    CHECK_UINT(row.random, med_sampling_random(9, 3));
    CHECK_INT(row.top_logprobs, -1);
    s.temperature = 0;
    s.top_p = 1;
    s.top_k = VOCAB - 1;
    CHECK(med_cuda_packer_add(&p, &in, &row));
    CHECK_UINT(row.flags, MED_CUDA_ROW_GREEDY);
    CHECK_UINT(row.top_k, VOCAB - 1);
    med_cuda_packer_release(&p);
}

static void test_penalties_when_tokens_repeat_then_counts_output_alone(void)
{
    struct med_cuda_packer p = packer_new(EDITS);
    struct med_sampling s = med_sampling_default();
    const uint32_t tokens[] = {5, 6, 5, 7, 5, 7, 7, 4000};
    const struct med_draw_input in = {
        .vocab = VOCAB, .sampling = &s, .tokens = tokens, .count = 8, .prompt_tokens = 3};
    struct med_cuda_row row;
    s.repetition_penalty = 1.5F;
    CHECK(med_cuda_packer_add(&p, &in, &row));
    CHECK_UINT(row.edit_count, 3); /* 4000 is beyond the vocabulary */
    REQUIRE(edit_of(&row, 5) && edit_of(&row, 6) && edit_of(&row, 7));
    CHECK_UINT(edit_of(&row, 5)->bits, MED_CUDA_EDIT_PENALTY | 1);
    CHECK_UINT(edit_of(&row, 6)->bits, MED_CUDA_EDIT_PENALTY);
    CHECK_UINT(edit_of(&row, 7)->bits, MED_CUDA_EDIT_PENALTY | 3);
    s.repetition_penalty = 1;
    s.presence_penalty = 1;
    CHECK(med_cuda_packer_add(&p, &in, &row));
    CHECK_UINT(row.edit_begin, 3);
    CHECK_UINT(row.edit_count, 2); /* the prompt's 6 does not matter */
    CHECK(!edit_of(&row, 6));
    CHECK_UINT(edit_of(&row, 5)->bits, MED_CUDA_EDIT_PENALTY | 1);
    med_cuda_packer_release(&p);
}

static void test_biases_when_of_one_id_then_keep_their_order(void)
{
    struct med_cuda_packer p = packer_new(EDITS);
    struct med_sampling s = med_sampling_default();
    const struct med_logit_bias biases[] = {{9, 1}, {8, 2}, {9, 3}, {9, 4}, {8, 5}};
    const struct med_draw_input in = {.vocab = VOCAB, .sampling = &s};
    struct med_cuda_row row;
    s.biases = biases;
    s.bias_count = 5;
    for (int twice = 0; twice < 2; twice++) {
        CHECK(med_cuda_packer_add(&p, &in, &row));
        CHECK_UINT(row.edit_count, 5);
        CHECK_UINT(row.flags, MED_CUDA_ROW_CHAINED);
        const struct med_cuda_edit *own = &edits[row.edit_begin], *at = edit_of(&row, 9);
        REQUIRE(at != NULL);
        CHECK_DOUBLE((double)at->bias, 1.0, 0.0);
        at = &own[at->next];
        CHECK_DOUBLE((double)at->bias, 3.0, 0.0);
        CHECK_UINT(at->bits, 0);
        at = &own[at->next];
        CHECK_DOUBLE((double)at->bias, 4.0, 0.0);
        CHECK_UINT(at->next, 0);
        at = &own[edit_of(&row, 8)->next];
        CHECK_DOUBLE((double)at->bias, 5.0, 0.0);
    }
    med_cuda_packer_release(&p);
}

static void test_masks_when_enough_was_generated_then_are_none(void)
{
    struct med_cuda_packer p = packer_new(EDITS);
    struct med_sampling s = med_sampling_default();
    const uint32_t tokens[] = {1, 2}, eos[] = {30, 31}, stops[] = {31, 32, VOCAB};
    struct med_draw_input in = {.vocab = VOCAB,
                                .sampling = &s,
                                .tokens = tokens,
                                .count = 2,
                                .prompt_tokens = 1,
                                .eos_ids = eos,
                                .eos_count = 2};
    struct med_cuda_row row;
    s.stop_ids = stops;
    s.stop_count = 3;
    s.tokens_min = 2;
    CHECK(med_cuda_packer_add(&p, &in, &row));
    CHECK_UINT(row.edit_count, 3);
    CHECK_UINT(row.flags, MED_CUDA_ROW_MASKS);
    for (uint32_t id = 30; id <= 32; id++) {
        REQUIRE(edit_of(&row, id));
        CHECK_UINT(edit_of(&row, id)->bits, MED_CUDA_EDIT_MASK);
    }
    s.ignore_eos = true;
    CHECK(med_cuda_packer_add(&p, &in, &row));
    CHECK_UINT(row.edit_count, 2);
    s.tokens_min = 1;
    CHECK(med_cuda_packer_add(&p, &in, &row));
    CHECK_UINT(row.edit_count, 0);
    CHECK_UINT(row.flags, 0);
    med_cuda_packer_release(&p);
}

static void test_row_when_it_does_not_fit_then_leaves_nothing(void)
{
    struct med_cuda_packer p = packer_new(5);
    struct med_sampling s = med_sampling_default();
    const uint32_t tokens[] = {1, 2, 3};
    const struct med_draw_input in = {.vocab = VOCAB, .sampling = &s, .tokens = tokens, .count = 3};
    struct med_cuda_row row;
    s.frequency_penalty = 1;
    CHECK(med_cuda_packer_add(&p, &in, &row));
    CHECK(!med_cuda_packer_add(&p, &in, &row));
    CHECK_INT(p.count, 3);
    for (int id = 0; id < VOCAB; id++)
        CHECK_UINT(p.places[id], 0);
    med_cuda_packer_start(&p, edits, 5);
    CHECK(med_cuda_packer_add(&p, &in, &row));
    CHECK_UINT(row.edit_begin, 0);
    CHECK_UINT(row.edit_count, 3);
    med_cuda_packer_release(&p);
}

static void test_edits_max_when_asked_then_bounds_any_row(void)
{
    CHECK_INT(med_cuda_row_edits_max(VOCAB, 1 << 20, 16), VOCAB + MED_LIMIT_LOGIT_BIAS);
    CHECK_INT(med_cuda_row_edits_max(1 << 20, 100, 16),
              100 + 1 + 16 + MED_LIMIT_STOP_TOKENS + 2 * MED_LIMIT_LOGIT_BIAS);
}

int main(void)
{
    RUN(test_row_when_plain_then_has_no_edits);
    RUN(test_penalties_when_tokens_repeat_then_counts_output_alone);
    RUN(test_biases_when_of_one_id_then_keep_their_order);
    RUN(test_masks_when_enough_was_generated_then_are_none);
    RUN(test_row_when_it_does_not_fit_then_leaves_nothing);
    RUN(test_edits_max_when_asked_then_bounds_any_row);
    return check_finish();
}
