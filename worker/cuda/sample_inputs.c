/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packs a draw's inputs for the GPU (see sample_inputs.h).
 *
 * A table indexed by id finds the edit that an id has already; it is cleaned by the row's own edits,
 * so a row costs what it has of tokens, biases and stop ids, and nothing of the vocabulary.
 * Biases keep their order, also several of one id: float additions do not commute.
 *
 * thread: engine.  Knows nothing of CUDA.
 */
#include "worker/cuda/sample_inputs.h"

#include "base/alloc.h"
#include "base/assert.h"

int64_t med_cuda_row_edits_max(int64_t vocab, int64_t model_len_max, int64_t eos_max)
{
    int64_t distinct = model_len_max + 1 + MED_LIMIT_LOGIT_BIAS + MED_LIMIT_STOP_TOKENS + eos_max;
    return (distinct < vocab ? distinct : vocab) + MED_LIMIT_LOGIT_BIAS;
}

int med_cuda_packer_init(struct med_cuda_packer *packer, int64_t vocab)
{
    MED_ASSERT(vocab > 0);
    *packer = (struct med_cuda_packer){.vocab = vocab};
    packer->places = med_calloc((size_t)vocab, sizeof packer->places[0]);
    return packer->places ? 0 : MED_E_NOMEM;
}

void med_cuda_packer_release(struct med_cuda_packer *packer)
{
    med_free(packer->places);
    packer->places = NULL;
}

void med_cuda_packer_start(struct med_cuda_packer *packer, struct med_cuda_edit *edits,
                           int64_t capacity)
{
    packer->edits = edits;
    packer->count = 0;
    packer->capacity = capacity;
}

/* The row that is being packed. */
struct packing {
    struct med_cuda_packer *packer;
    struct med_cuda_edit *edits; /* its first */
    uint32_t count;
    uint32_t capacity;
};

static struct med_cuda_edit *edit_add(struct packing *p)
{
    return p->count < p->capacity ? &p->edits[p->count++] : NULL;
}

/* The edit of an id of the vocabulary; NULL: no room. */
static struct med_cuda_edit *edit_of(struct packing *p, uint32_t id)
{
    uint32_t place = p->packer->places[id];
    if (place > 0)
        return &p->edits[place - 1];
    struct med_cuda_edit *edit = edit_add(p);
    if (!edit)
        return NULL;
    *edit = (struct med_cuda_edit){.id = id};
    p->packer->places[id] = p->count;
    return edit;
}

static bool add_biases(struct packing *p, const struct med_sampling *want, uint32_t *flags)
{
    for (size_t i = 0; i < want->bias_count; i++) {
        uint32_t id = want->biases[i].id;
        if ((int64_t)id >= p->packer->vocab)
            continue;
        struct med_cuda_edit *edit = edit_of(p, id);
        if (!edit)
            return false;
        if (edit->bits & MED_CUDA_EDIT_BIAS) {
            while (edit->next > 0)
                edit = &p->edits[edit->next];
            edit->next = p->count;
            edit = edit_add(p);
            if (!edit)
                return false;
            *edit = (struct med_cuda_edit){.id = id, .bias = want->biases[i].bias};
            *flags |= MED_CUDA_ROW_CHAINED;
            continue;
        }
        edit->bits |= MED_CUDA_EDIT_BIAS;
        edit->bias = want->biases[i].bias;
    }
    return true;
}

static bool add_masks(struct packing *p, const uint32_t *ids, size_t count, uint32_t *flags)
{
    for (size_t i = 0; i < count; i++) {
        if ((int64_t)ids[i] >= p->packer->vocab)
            continue;
        struct med_cuda_edit *edit = edit_of(p, ids[i]);
        if (!edit)
            return false;
        edit->bits |= MED_CUDA_EDIT_MASK;
        *flags |= MED_CUDA_ROW_MASKS;
    }
    return true;
}

static bool add_penalties(struct packing *p, const struct med_draw_input *in)
{
    /* The prompt's tokens matter to the repetition penalty alone. */
    int64_t first = in->sampling->repetition_penalty != 1 ? 0 : in->prompt_tokens;
    for (int64_t i = first; i < in->count; i++) {
        if ((int64_t)in->tokens[i] >= p->packer->vocab)
            continue;
        struct med_cuda_edit *edit = edit_of(p, in->tokens[i]);
        if (!edit)
            return false;
        edit->bits = (edit->bits | MED_CUDA_EDIT_PENALTY) + (i >= in->prompt_tokens);
    }
    return true;
}

bool med_cuda_packer_add(struct med_cuda_packer *packer, const struct med_draw_input *input,
                         struct med_cuda_row *ret_row)
{
    const struct med_sampling *want = input->sampling;
    MED_ASSERT(input->vocab == packer->vocab);
    MED_ASSERT(input->count >= input->prompt_tokens);
    MED_ASSERT(want->top_logprobs <= MED_LIMIT_TOP_LOGPROBS);
    struct packing p = {.packer = packer,
                        .edits = packer->edits + packer->count,
                        .capacity = (uint32_t)(packer->capacity - packer->count)};
    uint32_t flags = 0;
    bool fits = add_biases(&p, want, &flags);
    if (fits && input->count - input->prompt_tokens < want->tokens_min) {
        fits = add_masks(&p, input->eos_ids, want->ignore_eos ? 0 : input->eos_count, &flags) &&
               add_masks(&p, want->stop_ids, want->stop_count, &flags);
    }
    if (fits && med_sampling_has_penalties(want))
        fits = add_penalties(&p, input);
    for (uint32_t i = 0; i < p.count; i++)
        packer->places[p.edits[i].id] = 0;
    if (!fits)
        return false;

    if (want->temperature <= 0)
        flags |= MED_CUDA_ROW_GREEDY;
    if (want->top_p < 1)
        flags |= MED_CUDA_ROW_TOP_P;
    *ret_row = (struct med_cuda_row){
        .inverse = want->temperature > 0 ? 1 / (double)want->temperature : 1,
        .min_p = (double)want->min_p,
        .top_p = want->top_p < 1 ? (uint64_t)((double)want->top_p * 0x1p64) : 0,
        .random = med_sampling_random(want->seed, (uint64_t)input->count),
        .repetition = want->repetition_penalty,
        .frequency = want->frequency_penalty,
        .presence = want->presence_penalty,
        .top_k = (int64_t)want->top_k < input->vocab ? want->top_k : 0,
        .edit_begin = (uint32_t)packer->count,
        .edit_count = p.count,
        .top_logprobs = want->top_logprobs,
        .flags = flags};
    packer->count += p.count;
    return true;
}
