/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tokens: by id in an array, by spelling in a hash table with linear probing.
 *
 * All texts stand in one buffer, each with a NUL behind it.  The table is never more than half full
 * and never shrinks, so a search ends.  thread: immutable after load.
 */
#include "router/tokenizer/internal.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <string.h>

/* FNV-1a over eight bytes at a time, then mixed. */
uint64_t vocab_hash(const char *bytes, size_t count)
{
    uint64_t hash = 0xcbf29ce484222325u ^ (count * 0x9e3779b97f4a7c15u);
    while (count >= 8) {
        uint64_t word;
        memcpy(&word, bytes, 8);
        hash = (hash ^ word) * 0x9fb21c651e98df25u;
        hash ^= hash >> 32;
        bytes += 8;
        count -= 8;
    }
    uint64_t rest = 0;
    if (count)
        memcpy(&rest, bytes, count);
    hash = (hash ^ rest) * 0x9fb21c651e98df25u;
    hash ^= hash >> 29;
    hash *= 0xbf58476d1ce4e5b9u;
    return hash ^ (hash >> 32);
}

int vocab_init(struct vocab *vocab, size_t entries, size_t id_end, size_t text_bytes_max)
{
    size_t slots = 64;
    while (slots < entries * 2)
        slots *= 2;
    med_buf_init(&vocab->text, text_bytes_max);
    vocab->tokens = med_calloc(id_end ? id_end : 1, sizeof *vocab->tokens);
    vocab->slots = med_calloc(slots, sizeof *vocab->slots);
    vocab->count = id_end;
    vocab->slot_mask = slots - 1;
    return vocab->tokens && vocab->slots ? 0 : MED_E_NOMEM;
}

int vocab_add(struct vocab *vocab, uint32_t id, const char *text, size_t bytes, uint32_t flags)
{
    MED_ASSERT(id < vocab->count);
    MED_ASSERT(vocab->tokens[id].flags == 0);
    size_t place = vocab->text.length;
    int rc = med_buf_append(&vocab->text, text, bytes);
    if (rc == 0)
        rc = med_buf_append(&vocab->text, "", 1);
    if (rc < 0)
        return rc;
    vocab->tokens[id] = (struct token){.text = (uint32_t)place,
                                       .text_bytes = (uint32_t)bytes,
                                       .source = (uint32_t)place,
                                       .source_bytes = (uint32_t)bytes,
                                       .flags = flags};
    size_t slot = vocab_hash(text, bytes) & vocab->slot_mask;
    while (vocab->slots[slot])
        slot = (slot + 1) & vocab->slot_mask;
    vocab->slots[slot] = id + 1;
    return 0;
}

uint32_t vocab_find(const struct vocab *vocab, const char *text, size_t bytes, uint32_t flags)
{
    size_t slot = vocab_hash(text, bytes) & vocab->slot_mask;
    for (; vocab->slots[slot]; slot = (slot + 1) & vocab->slot_mask) {
        uint32_t id = vocab->slots[slot] - 1;
        const struct token *token = &vocab->tokens[id];
        if (token->text_bytes == bytes && memcmp(vocab_text(vocab, id), text, bytes) == 0)
            return token->flags & flags ? id : TOKENIZER_NO_ID;
    }
    return TOKENIZER_NO_ID;
}

void vocab_release(struct vocab *vocab)
{
    med_free(vocab->tokens);
    med_free(vocab->slots);
    med_buf_release(&vocab->text);
    *vocab = (struct vocab){0};
}

/* ---- what the header lends ---- */

int64_t med_tokenizer_vocab(const struct med_tokenizer *tokenizer)
{
    return (int64_t)tokenizer->vocab.count;
}
