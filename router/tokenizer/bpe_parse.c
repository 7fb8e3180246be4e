/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the model of tokenizer.json: the vocabulary, then the merges.
 *
 * A merge names two tokens and makes the one that is spelled as both together; all three must be in
 * the vocabulary.  Merges stand as "left right" or as ["left", "right"].  Of two merges of the same
 * pair the last counts, as in the tokenizers package.  thread: the loader's.
 */
#include "router/tokenizer/internal.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/limits.h"
#include "router/tokenizer/byte_level.h"

#include <stdio.h>
#include <string.h>

#define WORD_START "\xe2\x96\x81" /* U+2581, what SentencePiece writes for a space */

/* ---- vocabulary ---- */

/* The number of added tokens, and the ids that either list needs. */
static int measure(const struct med_json_at *vocab, const struct med_json_at *root,
                   size_t *ret_entries, size_t *ret_id_end, struct med_err *err)
{
    struct med_json_at item = {0};
    struct med_json_at added;
    size_t index;
    int64_t id;
    int64_t top = -1;
    size_t entries = 0;
    while (med_json_next(vocab, &index, &item, NULL)) {
        if (med_json_integer_here(&item, 0, MED_LIMIT_VOCAB - 1, &id, err) < 0)
            return MED_E_FORMAT;
        top = id > top ? id : top;
        entries++;
    }
    if (med_json_has(root, "added_tokens")) {
        if (med_json_array(root, "added_tokens", &added, err) < 0)
            return MED_E_FORMAT;
        if (med_json_count(&added) > TOKENIZER_ADDED_MAX)
            return med_json_fail(&added, NULL, err, "more than %d tokens", TOKENIZER_ADDED_MAX);
        item = (struct med_json_at){0};
        while (med_json_next(&added, &index, &item, NULL)) {
            if (med_json_integer(&item, "id", 0, MED_LIMIT_VOCAB - 1, &id, err) < 0)
                return MED_E_FORMAT;
            top = id > top ? id : top;
            entries++;
        }
    }
    *ret_entries = entries;
    *ret_id_end = (size_t)(top + 1);
    return 0;
}

static int parse_type(const struct med_json_at *model, struct med_err *err)
{
    static const char *const known[] = {"type",
                                        "dropout",
                                        "unk_token",
                                        "continuing_subword_prefix",
                                        "end_of_word_suffix",
                                        "fuse_unk",
                                        "byte_fallback",
                                        "ignore_merges",
                                        "vocab",
                                        "merges",
                                        NULL};
    const char *type;
    if (med_json_has(model, "type")) { // files of GPT-2's time do not say
        if (component_type(model, &type, err) < 0)
            return MED_E_FORMAT;
        if (strcmp(type, "BPE") != 0)
            return med_json_fail(model, "type", err, "found %.64s, expected BPE", type);
    }
    return med_json_keys(model, known, err);
}

int bpe_parse_vocab(struct bpe *bpe, struct vocab *vocab, const struct med_json_at *root,
                    size_t text_bytes_max, struct med_err *err)
{
    struct med_json_at model;
    struct med_json_at list;
    struct med_json_at item = {0};
    const char *text;
    size_t index;
    size_t entries = 0;
    size_t id_end = 0;
    bpe->vocab = vocab;
    int rc = med_json_object(root, "model", &model, err);
    if (rc == 0)
        rc = parse_type(&model, err);
    if (rc == 0)
        rc = med_json_object(&model, "vocab", &list, err);
    if (rc == 0)
        rc = measure(&list, root, &entries, &id_end, err);
    if (rc < 0)
        return rc;
    if (vocab_init(vocab, entries, id_end, text_bytes_max) < 0)
        return component_no_memory(&list, err);
    while (med_json_next(&list, &index, &item, &text)) {
        int64_t id;
        rc = med_json_integer_here(&item, 0, MED_LIMIT_VOCAB - 1, &id, err);
        if (rc < 0)
            return rc;
        size_t bytes = strlen(text);
        if (bytes > MED_LIMIT_TOKEN_BYTES) {
            return med_json_fail(&item, NULL, err, "a token of more than %d bytes",
                                 MED_LIMIT_TOKEN_BYTES);
        }
        if (vocab->tokens[id].flags) {
            return med_json_fail(&item, NULL, err, "the id %lld is already that of \"%.64s\"",
                                 (long long)id, vocab_text(vocab, (uint32_t)id));
        }
        if (vocab_add(vocab, (uint32_t)id, text, bytes, TOKEN_MODEL) < 0)
            return component_no_memory(&list, err);
        vocab->model_count++;
    }
    return 0;
}

/* ---- merges ---- */

struct merge_names {
    const char *left, *right;
    size_t left_bytes, right_bytes;
};

static int parse_names(const struct med_json_at *item, struct merge_names *names,
                       struct med_err *err)
{
    const char *text;
    if (med_json_is_array(item)) {
        if (med_json_count(item) != 2)
            return med_json_fail(item, NULL, err, "expected two tokens");
        struct med_json_at left = med_json_index(item, 0);
        struct med_json_at right = med_json_index(item, 1);
        if (med_json_string_here(&left, MED_LIMIT_TOKEN_BYTES, &names->left, err) < 0 ||
            med_json_string_here(&right, MED_LIMIT_TOKEN_BYTES, &names->right, err) < 0)
            return MED_E_FORMAT;
        names->left_bytes = strlen(names->left);
        names->right_bytes = strlen(names->right);
        return 0;
    }
    if (med_json_string_here(item, 2L * MED_LIMIT_TOKEN_BYTES + 1, &text, err) < 0)
        return MED_E_FORMAT;
    const char *space = strchr(text, ' ');
    if (!space || strchr(space + 1, ' ')) {
        return med_json_fail(item, NULL, err, "found \"%.64s\", expected two tokens and a space",
                             text);
    }
    names->left = text;
    names->left_bytes = (size_t)(space - text);
    names->right = space + 1;
    names->right_bytes = strlen(space + 1);
    return 0;
}

static bool starts_with(const char *text, size_t bytes, const char *prefix, size_t prefix_bytes)
{
    return bytes >= prefix_bytes && memcmp(text, prefix, prefix_bytes) == 0;
}

/* Does this merge join a word to the start of the next? */
static bool crosses_word_start(const struct merge_names *names)
{
    const size_t mark = strlen(WORD_START);
    return starts_with(names->right, names->right_bytes, WORD_START, mark) &&
           !(names->left_bytes >= mark &&
             memcmp(names->left + names->left_bytes - mark, WORD_START, mark) == 0);
}

static void merge_put(struct bpe *bpe, uint64_t pair, uint32_t rank, uint32_t id)
{
    size_t slot = (pair * 0x9e3779b97f4a7c15u) >> 20 & bpe->merge_mask;
    while (bpe->merges[slot].pair != UINT64_MAX && bpe->merges[slot].pair != pair)
        slot = (slot + 1) & bpe->merge_mask;
    bpe->merges[slot] = (struct merge){.pair = pair, .rank = rank, .id = id};
}

static int parse_merge(struct bpe *bpe, const struct med_json_at *item, uint32_t rank,
                       struct med_err *err)
{
    struct merge_names names = {0};
    char joined[2 * MED_LIMIT_TOKEN_BYTES + 1];
    if (parse_names(item, &names, err) < 0)
        return MED_E_FORMAT;
    MED_ASSERT(names.left);
    MED_ASSERT(names.right);
    uint32_t left = vocab_find(bpe->vocab, names.left, names.left_bytes, TOKEN_MODEL);
    uint32_t right = vocab_find(bpe->vocab, names.right, names.right_bytes, TOKEN_MODEL);
    if (left == TOKENIZER_NO_ID || right == TOKENIZER_NO_ID) {
        bool is_left = left == TOKENIZER_NO_ID;
        return med_json_fail(item, NULL, err, "\"%.*s\" is not in the vocabulary",
                             (int)(is_left ? names.left_bytes : names.right_bytes),
                             is_left ? names.left : names.right);
    }
    memcpy(joined, names.left, names.left_bytes);
    memcpy(joined + names.left_bytes, names.right, names.right_bytes);
    uint32_t id = vocab_find(bpe->vocab, joined, names.left_bytes + names.right_bytes, TOKEN_MODEL);
    if (id == TOKENIZER_NO_ID) {
        return med_json_fail(
            item, NULL, err, "what it makes, \"%.*s%.*s\", is not in the vocabulary",
            (int)names.left_bytes, names.left, (int)names.right_bytes, names.right);
    }
    if (crosses_word_start(&names))
        bpe->word_starts = false;
    merge_put(bpe, (uint64_t)left << 32 | right, rank, id);
    return 0;
}

static int parse_merges(struct bpe *bpe, const struct med_json_at *model, struct med_err *err)
{
    struct med_json_at list;
    struct med_json_at item = {0};
    size_t index;
    int rc = med_json_array(model, "merges", &list, err);
    if (rc < 0)
        return rc;
    size_t count = med_json_count(&list);
    size_t slots = 64;
    while (slots < count * 2)
        slots *= 2;
    bpe->merges = med_realloc_array(NULL, slots, sizeof *bpe->merges);
    if (!bpe->merges)
        return component_no_memory(&list, err);
    for (size_t i = 0; i < slots; i++)
        bpe->merges[i].pair = UINT64_MAX;
    bpe->merge_mask = slots - 1;
    bpe->word_starts = true;
    for (uint32_t rank = 0; rc == 0 && med_json_next(&list, &index, &item, NULL); rank++)
        rc = parse_merge(bpe, &item, rank, err);
    return rc;
}

/* ---- the rest ---- */

static int parse_unk(struct bpe *bpe, const struct med_json_at *model, struct med_err *err)
{
    const char *text;
    if (!med_json_has(model, "unk_token"))
        return 0;
    if (med_json_string(model, "unk_token", MED_LIMIT_TOKEN_BYTES, &text, err) < 0)
        return MED_E_FORMAT;
    bpe->unk_id = vocab_find(bpe->vocab, text, strlen(text), TOKEN_MODEL);
    bpe->has_unk = true;
    if (bpe->unk_id == TOKENIZER_NO_ID)
        return med_json_fail(model, "unk_token", err, "\"%.64s\" is not in the vocabulary", text);
    return 0;
}

/* Affixes of subwords must be absent or empty; dropout is for training. */
static int refuse_others(const struct med_json_at *model, struct med_err *err)
{
    static const char *const keys[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const char *text;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (!med_json_has(model, keys[i]))
            continue;
        if (med_json_string(model, keys[i], -64, &text, err) < 0)
            return MED_E_FORMAT;
        if (*text)
            return med_json_fail(model, keys[i], err, "found \"%s\", expected null", text);
    }
    if (med_json_has(model, "dropout")) {
        double dropout;
        if (med_json_number(model, "dropout", 0, 0, &dropout, err) < 0)
            return MED_E_FORMAT;
    }
    return 0;
}

/* Looks up the characters and bytes that words start from. *ret_bytes: how many of the 256. */
static void index_bytes(struct bpe *bpe, size_t *ret_bytes)
{
    *ret_bytes = 0;
    for (unsigned b = 0; b < 256; b++) {
        char text[8];
        size_t bytes;
        if (bpe->byte_level) {
            uint32_t c = med_byte_level_char((unsigned char)b);
            bytes = c < 0x80 ? 1 : 2;
            text[0] = (char)(c < 0x80 ? c : 0xc0 | c >> 6);
            text[1] = (char)(0x80 | (c & 0x3f));
        } else {
            bytes = (size_t)snprintf(text, sizeof text, "<0x%02X>", b);
        }
        bpe->byte_ids[b] = vocab_find(bpe->vocab, text, bytes, TOKEN_MODEL);
        *ret_bytes += bpe->byte_ids[b] != TOKENIZER_NO_ID;
    }
    for (unsigned c = 0; c < 128; c++) {
        char text = (char)c;
        bpe->ascii_ids[c] = vocab_find(bpe->vocab, &text, 1, TOKEN_MODEL);
    }
}

int bpe_parse(struct bpe *bpe, const struct vocab *vocab, const struct med_json_at *root,
              bool byte_level, struct med_err *err)
{
    struct med_json_at model;
    size_t bytes = 0;
    bpe->vocab = vocab;
    bpe->byte_level = byte_level;
    int rc = med_json_object(root, "model", &model, err);
    if (rc == 0)
        rc = refuse_others(&model, err);
    if (rc == 0)
        rc = component_bool(&model, "fuse_unk", false, &bpe->fuse_unk, err);
    if (rc == 0)
        rc = component_bool(&model, "byte_fallback", false, &bpe->byte_fallback, err);
    if (rc == 0)
        rc = component_bool(&model, "ignore_merges", false, &bpe->ignore_merges, err);
    if (rc == 0)
        rc = parse_unk(bpe, &model, err);
    if (rc == 0)
        rc = parse_merges(bpe, &model, err);
    if (rc < 0)
        return rc;
    index_bytes(bpe, &bytes);
    if (byte_level && bpe->byte_fallback && bytes < 256) {
        return med_json_fail(&model, "byte_fallback", err,
                             "found true, expected false: the vocabulary spells only %zu of the "
                             "256 bytes",
                             bytes);
    }
    /* Cutting at word starts must not part what would have come together: every character gives a
     * symbol, and the mark itself is one. */
    bool gives_all = bpe->has_unk || (bpe->byte_fallback && bytes == 256);
    bpe->word_starts =
        bpe->word_starts && gives_all && !byte_level && !bpe->ignore_merges &&
        vocab_find(vocab, WORD_START, strlen(WORD_START), TOKEN_MODEL) != TOKENIZER_NO_ID;
    return 0;
}
