/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Added tokens: found in a text before anything else looks at it.
 *
 * Two sets, as in the tokenizers package: tokens with "normalized" are searched in the normalized
 * text, spelled as the normalizer makes them; the others in the text as it came.  At each place the
 * longest one wins; a match that is not a single word though it has to be, or a special token where
 * special tokens are not parsed, is passed over and hides what lies inside it.
 *
 * The package gives an added token that the model does not have the next free id and only warns when
 * the file says otherwise; here the file is refused then.  thread: immutable after load.
 */
#include "router/tokenizer/internal.h"

#include "base/alloc.h"
#include "base/limits.h"

#include <string.h>

/* ---- tries ---- */

static int trie_grow(struct trie *trie)
{
    size_t capacity = trie->capacity ? trie->capacity * 2 : 64;
    struct trie_node *grown = med_realloc_array(trie->nodes, capacity, sizeof *grown);
    if (!grown)
        return MED_E_NOMEM;
    trie->nodes = grown;
    trie->capacity = capacity;
    return 0;
}

static uint32_t trie_child(const struct trie *trie, uint32_t node, unsigned char byte)
{
    if (node == 0)
        return trie->first[byte];
    uint32_t child = trie->nodes[node].child;
    while (child && trie->nodes[child].byte != byte)
        child = trie->nodes[child].next;
    return child;
}

static int trie_add(struct trie *trie, const char *text, size_t bytes, size_t token)
{
    uint32_t node = 0;
    if (trie->count == 0) {
        if (trie_grow(trie) < 0)
            return MED_E_NOMEM;
        trie->nodes[trie->count++] = (struct trie_node){.token = -1};
    }
    for (size_t i = 0; i < bytes; i++) {
        unsigned char byte = (unsigned char)text[i];
        uint32_t child = trie_child(trie, node, byte);
        if (!child) {
            if (trie->count == trie->capacity && trie_grow(trie) < 0)
                return MED_E_NOMEM;
            child = (uint32_t)trie->count++;
            trie->nodes[child] = (struct trie_node){
                .token = -1, .byte = byte, .next = node ? trie->nodes[node].child : 0};
            if (node == 0) {
                trie->first[byte] = child;
            } else {
                trie->nodes[node].child = child;
            }
        }
        node = child;
    }
    if (trie->nodes[node].token < 0)
        trie->nodes[node].token = (int32_t)token;
    return 0;
}

/* The longest token that starts at `start`; -1: none. */
static int32_t trie_match(const struct trie *trie, const char *text, size_t bytes, size_t start,
                          size_t *ret_end)
{
    int32_t best = -1;
    uint32_t node = 0;
    for (size_t i = start; i < bytes; i++) {
        node = trie_child(trie, node, (unsigned char)text[i]);
        if (!node)
            break;
        if (trie->nodes[node].token >= 0) {
            best = trie->nodes[node].token;
            *ret_end = i + 1;
        }
    }
    return best;
}

/* ---- reading ---- */

static int parse_flags(struct added_token *token, const struct med_json_at *at, struct med_err *err)
{
    static const char *const known[] = {"id",     "content",    "single_word", "lstrip",
                                        "rstrip", "normalized", "special",     NULL};
    int rc = med_json_keys(at, known, err);
    if (rc == 0)
        rc = component_bool(at, "single_word", false, &token->single_word, err);
    if (rc == 0)
        rc = component_bool(at, "lstrip", false, &token->lstrip, err);
    if (rc == 0)
        rc = component_bool(at, "rstrip", false, &token->rstrip, err);
    if (rc == 0)
        rc = component_bool(at, "special", false, &token->special, err);
    if (rc == 0)
        rc = component_bool(at, "normalized", !token->special, &token->normalized, err);
    return rc;
}

/* *next: the id that the package gives to the next token that the model does not have. */
static int parse_token(struct added_token *token, const struct med_json_at *at, struct vocab *vocab,
                       uint32_t *next, struct med_err *err)
{
    const char *content = "";
    int64_t id = 0;
    int rc = parse_flags(token, at, err);
    if (rc == 0)
        rc = med_json_string(at, "content", MED_LIMIT_TOKEN_BYTES, &content, err);
    if (rc == 0)
        rc = med_json_integer(at, "id", 0, MED_LIMIT_VOCAB - 1, &id, err);
    if (rc < 0)
        return rc;
    uint32_t flags = TOKEN_ADDED | (token->special ? TOKEN_SPECIAL : 0);
    uint32_t found = vocab_find(vocab, content, strlen(content), TOKEN_MODEL | TOKEN_ADDED);
    token->id = (uint32_t)id;
    if (found != TOKENIZER_NO_ID) {
        if (found != token->id) {
            return med_json_fail(at, "id", err, "found %lld, but \"%.64s\" has the id %u",
                                 (long long)id, content, found);
        }
        if (vocab->tokens[found].flags & TOKEN_ADDED)
            return med_json_fail(at, "content", err, "\"%.64s\" stands twice", content);
        vocab->tokens[found].flags |= flags;
    } else {
        if (token->id != *next) {
            return med_json_fail(at, "id", err, "found %lld, expected %u, the next free id",
                                 (long long)id, *next);
        }
        if (vocab->tokens[token->id].flags) {
            return med_json_fail(at, "id", err, "%lld is already the id of \"%.64s\"",
                                 (long long)id, vocab_text(vocab, token->id));
        }
        rc = vocab_add(vocab, token->id, content, strlen(content), flags);
        if (rc < 0)
            return component_no_memory(at, err);
    }
    if (token->id >= *next)
        *next = token->id + 1;
    return 0;
}

int added_parse(struct added *added, const struct med_json_at *root, struct vocab *vocab,
                struct med_err *err)
{
    struct med_json_at list;
    struct med_json_at item = {0};
    size_t index;
    if (!med_json_has(root, "added_tokens"))
        return 0;
    int rc = med_json_array(root, "added_tokens", &list, err);
    if (rc < 0)
        return rc;
    size_t count = med_json_count(&list);
    added->tokens = med_calloc(count ? count : 1, sizeof *added->tokens);
    if (!added->tokens)
        return component_no_memory(&list, err);
    uint32_t next = (uint32_t)vocab->model_count;
    while (rc == 0 && med_json_next(&list, &index, &item, NULL))
        rc = parse_token(&added->tokens[added->count++], &item, vocab, &next, err);
    return rc;
}

/* A token that the normalizer changes is decoded from what it made, as in the package. */
static int keep_normalized(struct vocab *vocab, uint32_t id, const char *text, size_t bytes)
{
    struct token *token = &vocab->tokens[id];
    if (bytes == token->text_bytes && memcmp(vocab_text(vocab, id), text, bytes) == 0)
        return 0;
    token->source = (uint32_t)vocab->text.length;
    token->source_bytes = (uint32_t)bytes;
    return med_buf_append(&vocab->text, text, bytes);
}

int added_index(struct added *added, const struct med_json_at *root, struct vocab *vocab,
                const struct normalizer *normalizer, struct med_err *err)
{
    struct med_buf buffers[2];
    med_buf_init(&buffers[0], (size_t)MED_LIMIT_TEXT_BYTES * 16);
    med_buf_init(&buffers[1], (size_t)MED_LIMIT_TEXT_BYTES * 16);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < added->count; i++) {
        const struct added_token *token = &added->tokens[i];
        const char *text = vocab_text(vocab, token->id);
        size_t bytes = vocab->tokens[token->id].text_bytes;
        if (token->normalized)
            rc = normalizer_run(normalizer, text, bytes, buffers, &text, &bytes);
        if (rc == 0 && bytes == 0) {
            rc = med_json_fail(root, "added_tokens", err,
                               "the normalizer leaves nothing of token %u", token->id);
        } else if (rc == 0) {
            rc = trie_add(token->normalized ? &added->normalized : &added->plain, text, bytes, i);
            if (rc == 0 && token->normalized)
                rc = keep_normalized(vocab, token->id, text, bytes);
        }
        if (rc < 0 && rc != MED_E_FORMAT)
            rc = component_no_memory(root, err);
    }
    med_buf_release(&buffers[0]);
    med_buf_release(&buffers[1]);
    return rc;
}

void added_release(struct added *added)
{
    med_free(added->tokens);
    med_free(added->plain.nodes);
    med_free(added->normalized.nodes);
    *added = (struct added){0};
}

/* ---- matching ---- */

static bool is_single_word(const char *text, size_t bytes, size_t start, size_t end)
{
    size_t length;
    if (start > 0 && med_unicode_is_word(med_unicode_before(text, text + start, &length)))
        return false;
    return end == bytes || !med_unicode_is_word(med_unicode_at(text + end, &length));
}

/* Takes white space to the left, down to `done`, and to the right. */
static void strip(const struct added_token *token, const char *text, size_t bytes, size_t done,
                  struct added_match *match)
{
    size_t length;
    if (token->lstrip) {
        while (match->start > done &&
               med_unicode_is_space(med_unicode_before(text, text + match->start, &length)))
            match->start -= length;
    }
    if (token->rstrip) {
        while (match->end < bytes &&
               med_unicode_is_space(med_unicode_at(text + match->end, &length)))
            match->end += length;
    }
}

struct added_match added_next(const struct added *added, const struct trie *trie, const char *text,
                              size_t bytes, size_t *scan, size_t done, bool parse_special)
{
    struct added_match match = {.start = bytes, .end = bytes};
    if (trie->count == 0)
        return match;
    size_t at = *scan;
    while (at < bytes) {
        size_t end = at;
        int32_t found =
            trie->first[(unsigned char)text[at]] ? trie_match(trie, text, bytes, at, &end) : -1;
        if (found < 0) {
            at++;
            continue;
        }
        const struct added_token *token = &added->tokens[found];
        size_t start = at;
        at = end;
        if ((!parse_special && token->special) ||
            (token->single_word && !is_single_word(text, bytes, start, end)))
            continue;
        match = (struct added_match){.token = token, .start = start, .end = end};
        strip(token, text, bytes, done, &match);
        break;
    }
    *scan = at;
    return match;
}
