/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Byte-pair encoding of one piece of text.
 *
 * The piece becomes symbols (bytes or characters); again and again the pair with the lowest rank, of
 * equals the leftmost, is replaced by what its merge makes.  Short words look for that pair in an
 * array; long ones keep the candidates in a heap over a linked list, so that the cost is
 * O(n log n).  Words of up to BPE_CACHE_KEY_BYTES bytes are remembered in a fixed table.
 *
 * A text without a pre-tokenizer is one piece; where no merge reaches over the start of a word
 * (bpe_parse.c finds out), it is merged word by word, with the same result.
 * thread: any, each with its own scratch.
 */
#include "router/tokenizer/internal.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "router/tokenizer/byte_level.h"

#include <string.h>

enum {
    SHORT_SYMBOLS = 32,     /* up to here the array is the faster way */
    KEEP_SYMBOLS = 1 << 14, /* storage that stays for the next text */
    IDS_MIN = 64
};

int token_ids_append(struct med_token_ids *ids, const uint32_t *add, size_t count, size_t ids_max)
{
    if (count > ids_max || ids->count > ids_max - count)
        return MED_E_LIMIT;
    if (count > ids->capacity - ids->count) {
        size_t capacity = ids->capacity ? ids->capacity * 2 : IDS_MIN;
        while (capacity < ids->count + count)
            capacity *= 2;
        uint32_t *grown = med_realloc_array(ids->ids, capacity, sizeof *grown);
        if (!grown)
            return MED_E_NOMEM;
        ids->ids = grown;
        ids->capacity = capacity;
    }
    if (count)
        memcpy(ids->ids + ids->count, add, count * sizeof *add);
    ids->count += count;
    return 0;
}

/* NULL: the pair does not merge. */
static const struct merge *merge_find(const struct bpe *bpe, uint32_t left, uint32_t right)
{
    uint64_t pair = (uint64_t)left << 32 | right;
    size_t slot = (pair * 0x9e3779b97f4a7c15u) >> 20 & bpe->merge_mask;
    for (; bpe->merges[slot].pair != UINT64_MAX; slot = (slot + 1) & bpe->merge_mask) {
        if (bpe->merges[slot].pair == pair)
            return &bpe->merges[slot];
    }
    return NULL;
}

/* ---- symbols ---- */

struct word {
    struct bpe_symbol *symbols;
    size_t count;
    uint32_t unk; /* an unknown character that is not yet in the list; TOKENIZER_NO_ID: none */
};

static void word_add(struct word *word, uint32_t id)
{
    word->symbols[word->count++].id = id;
}

static void word_add_unk(struct word *word)
{
    if (word->unk != TOKENIZER_NO_ID)
        word_add(word, word->unk);
    word->unk = TOKENIZER_NO_ID;
}

/* A character that the vocabulary does not have: its bytes, the unknown token, or nothing.  The
 * unknown token waits until the next known character, past bytes too, as in the tokenizers
 * package. */
static void word_add_unknown(const struct bpe *bpe, struct word *word, const char *text,
                             size_t bytes)
{
    bool has_bytes = bpe->byte_fallback && !bpe->byte_level;
    for (size_t i = 0; has_bytes && i < bytes; i++)
        has_bytes = bpe->byte_ids[(unsigned char)text[i]] != TOKENIZER_NO_ID;
    if (has_bytes) {
        for (size_t i = 0; i < bytes; i++)
            word_add(word, bpe->byte_ids[(unsigned char)text[i]]);
        return;
    }
    if (!bpe->has_unk)
        return;
    if (!bpe->fuse_unk)
        word_add_unk(word);
    word->unk = bpe->unk_id;
}

/* Fills word->symbols (room for one per byte). */
static void word_split(const struct bpe *bpe, struct word *word, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes;) {
        unsigned char byte = (unsigned char)text[i];
        size_t length = 1;
        uint32_t id;
        if (bpe->byte_level) {
            id = bpe->byte_ids[byte];
        } else if (byte < 0x80) {
            id = bpe->ascii_ids[byte];
        } else {
            (void)med_unicode_at(text + i, &length);
            id = vocab_find(bpe->vocab, text + i, length, TOKEN_MODEL);
        }
        if (id == TOKENIZER_NO_ID) {
            word_add_unknown(bpe, word, text + i, length);
        } else {
            word_add_unk(word);
            word_add(word, id);
        }
        i += length;
    }
    word_add_unk(word);
}

/* ---- merging few symbols ---- */

static void merge_short(const struct bpe *bpe, struct word *word)
{
    uint32_t rank[SHORT_SYMBOLS] = {0};
    uint32_t made[SHORT_SYMBOLS] = {0};
    struct bpe_symbol *s = word->symbols;
    size_t count = word->count;
    for (size_t i = 0; i + 1 < count; i++) {
        const struct merge *m = merge_find(bpe, s[i].id, s[i + 1].id);
        rank[i] = m ? m->rank : UINT32_MAX;
        made[i] = m ? m->id : 0;
    }
    while (count > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < count; i++) {
            if (rank[i] < rank[best])
                best = i;
        }
        if (rank[best] == UINT32_MAX)
            break;
        s[best].id = made[best];
        for (size_t i = best + 1; i + 1 < count; i++) {
            s[i].id = s[i + 1].id;
            rank[i] = rank[i + 1];
            made[i] = made[i + 1];
        }
        count--;
        for (size_t i = best ? best - 1 : 0; i <= best && i + 1 < count; i++) {
            const struct merge *m = merge_find(bpe, s[i].id, s[i + 1].id);
            rank[i] = m ? m->rank : UINT32_MAX;
            made[i] = m ? m->id : 0;
        }
    }
    word->count = count;
}

/* ---- merging many symbols ---- */

static int heap_push(struct bpe_scratch *scratch, struct bpe_candidate candidate)
{
    if (scratch->heap_count == scratch->heap_capacity) {
        size_t capacity = scratch->heap_capacity ? scratch->heap_capacity * 2 : 256;
        struct bpe_candidate *grown = med_realloc_array(scratch->heap, capacity, sizeof *grown);
        if (!grown)
            return MED_E_NOMEM;
        scratch->heap = grown;
        scratch->heap_capacity = capacity;
    }
    size_t at = scratch->heap_count++;
    while (at > 0 && scratch->heap[(at - 1) / 2].order > candidate.order) {
        scratch->heap[at] = scratch->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    scratch->heap[at] = candidate;
    return 0;
}

static struct bpe_candidate heap_pop(struct bpe_scratch *scratch)
{
    struct bpe_candidate *heap = scratch->heap;
    struct bpe_candidate top = heap[0];
    struct bpe_candidate last = heap[--scratch->heap_count];
    size_t count = scratch->heap_count;
    size_t at = 0;
    for (;;) {
        size_t child = at * 2 + 1;
        if (child >= count)
            break;
        if (child + 1 < count && heap[child + 1].order < heap[child].order)
            child++;
        if (heap[child].order >= last.order)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

static int push_pair(const struct bpe *bpe, struct bpe_scratch *scratch,
                     const struct bpe_symbol *symbols, int32_t left)
{
    int32_t right = symbols[left].next;
    if (right < 0)
        return 0;
    const struct merge *m = merge_find(bpe, symbols[left].id, symbols[right].id);
    if (!m)
        return 0;
    return heap_push(scratch, (struct bpe_candidate){
                                  .order = (uint64_t)m->rank << 32 | (uint32_t)left, .id = m->id});
}

/* A candidate is stale when its left symbol is gone or no longer merges to the same token. */
static bool is_stale(const struct bpe *bpe, const struct bpe_symbol *symbols, int32_t left,
                     uint32_t id)
{
    if (symbols[left].id == TOKENIZER_NO_ID || symbols[left].next < 0)
        return true;
    const struct merge *m = merge_find(bpe, symbols[left].id, symbols[symbols[left].next].id);
    return !m || m->id != id;
}

static int merge_long(const struct bpe *bpe, struct bpe_scratch *scratch, struct word *word)
{
    struct bpe_symbol *s = word->symbols;
    int32_t count = (int32_t)word->count;
    scratch->heap_count = 0;
    for (int32_t i = 0; i < count; i++) {
        s[i].previous = i - 1;
        s[i].next = i + 1 < count ? i + 1 : -1;
    }
    for (int32_t i = 0; i + 1 < count; i++) {
        if (push_pair(bpe, scratch, s, i) < 0)
            return MED_E_NOMEM;
    }
    while (scratch->heap_count > 0) {
        struct bpe_candidate top = heap_pop(scratch);
        int32_t left = (int32_t)(uint32_t)top.order;
        if (is_stale(bpe, s, left, top.id))
            continue;
        int32_t right = s[left].next;
        s[left].id = top.id;
        s[left].next = s[right].next;
        s[right].id = TOKENIZER_NO_ID;
        if (s[left].next >= 0)
            s[s[left].next].previous = left;
        if (s[left].previous >= 0 && push_pair(bpe, scratch, s, s[left].previous) < 0)
            return MED_E_NOMEM;
        if (push_pair(bpe, scratch, s, left) < 0)
            return MED_E_NOMEM;
    }
    size_t kept = 0;
    for (int32_t i = 0; i < count; i++) {
        if (s[i].id != TOKENIZER_NO_ID)
            s[kept++].id = s[i].id;
    }
    word->count = kept;
    return 0;
}

/* ---- words ---- */

static int symbols_reserve(struct bpe_scratch *scratch, size_t count)
{
    if (count <= scratch->symbol_capacity)
        return 0;
    size_t capacity = scratch->symbol_capacity * 2 > count ? scratch->symbol_capacity * 2 : count;
    struct bpe_symbol *grown = med_realloc_array(scratch->symbols, capacity, sizeof *grown);
    if (!grown)
        return MED_E_NOMEM;
    scratch->symbols = grown;
    scratch->symbol_capacity = capacity;
    return 0;
}

/* The id of a piece that is a token as a whole. */
static int find_whole(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text,
                      size_t bytes, uint32_t *ret_id)
{
    *ret_id = TOKENIZER_NO_ID;
    if (!bpe->byte_level) {
        *ret_id = vocab_find(bpe->vocab, text, bytes, TOKEN_MODEL);
        return 0;
    }
    med_buf_clear(&scratch->spelled);
    int rc = med_buf_reserve(&scratch->spelled, bytes * 2);
    if (rc < 0)
        return rc == MED_E_LIMIT ? 0 : rc; // longer than any token
    size_t used = 0;
    char *out = scratch->spelled.data;
    for (size_t i = 0; i < bytes; i++) {
        uint32_t c = med_byte_level_char((unsigned char)text[i]);
        if (c >= 0x80)
            out[used++] = (char)(0xc0 | c >> 6);
        out[used++] = (char)(c >= 0x80 ? 0x80 | (c & 0x3f) : c);
    }
    *ret_id = vocab_find(bpe->vocab, out, used, TOKEN_MODEL);
    return 0;
}

/* One word, not from the cache; the ids are then in scratch->symbols. */
static int merge_word(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text,
                      size_t bytes, struct word *word)
{
    *word = (struct word){.unk = TOKENIZER_NO_ID};
    int rc = symbols_reserve(scratch, bytes + 1);
    word->symbols = scratch->symbols;
    if (rc == 0 && bpe->ignore_merges) {
        uint32_t id;
        rc = find_whole(bpe, scratch, text, bytes, &id);
        if (rc == 0 && id != TOKENIZER_NO_ID) {
            word_add(word, id);
            return 0;
        }
    }
    if (rc < 0)
        return rc;
    word_split(bpe, word, text, bytes);
    if (word->count > SHORT_SYMBOLS)
        return merge_long(bpe, scratch, word);
    merge_short(bpe, word);
    return 0;
}

static int append_word(const struct word *word, size_t ids_max, struct med_token_ids *ids)
{
    uint32_t part[64];
    for (size_t i = 0; i < word->count;) {
        size_t count = 0;
        while (count < sizeof part / sizeof *part && i < word->count)
            part[count++] = word->symbols[i++].id;
        int rc = token_ids_append(ids, part, count, ids_max);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int encode_word(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text,
                       size_t bytes, size_t ids_max, struct med_token_ids *ids)
{
    struct word word;
    if (bytes > BPE_CACHE_KEY_BYTES) {
        int rc = merge_word(bpe, scratch, text, bytes, &word);
        return rc < 0 ? rc : append_word(&word, ids_max, ids);
    }
    uint64_t hash = vocab_hash(text, bytes);
    struct bpe_cached *line = &scratch->cache[(hash >> 32) & (BPE_CACHE_WORDS - 1)];
    if (line->hash == (uint32_t)hash && line->key_bytes == bytes &&
        memcmp(line->key, text, bytes) == 0)
        return token_ids_append(ids, line->ids, line->count, ids_max);
    int rc = merge_word(bpe, scratch, text, bytes, &word);
    if (rc < 0)
        return rc;
    if (word.count <= BPE_CACHE_IDS) {
        *line = (struct bpe_cached){
            .hash = (uint32_t)hash, .key_bytes = (uint8_t)bytes, .count = (uint8_t)word.count};
        memcpy(line->key, text, bytes);
        for (size_t i = 0; i < word.count; i++)
            line->ids[i] = word.symbols[i].id;
    }
    return append_word(&word, ids_max, ids);
}

/* Where the word that starts at `at` ends: before the next replacement character that stands behind
 * another character. */
static size_t word_end(const char *text, size_t bytes, size_t at)
{
    static const char mark[] = "\xe2\x96\x81";
    bool in_mark = true;
    while (at < bytes) {
        if (bytes - at >= 3 && memcmp(text + at, mark, 3) == 0) {
            if (!in_mark)
                return at;
            at += 3;
        } else {
            const char *next = memchr(text + at + 1, mark[0], bytes - at - 1);
            at = next ? (size_t)(next - text) : bytes;
            in_mark = false;
        }
    }
    return bytes;
}

int bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text, size_t bytes,
               size_t ids_max, struct med_token_ids *ids)
{
    MED_ASSERT(bytes > 0);
    if (!bpe->word_starts)
        return encode_word(bpe, scratch, text, bytes, ids_max, ids);
    int rc = 0;
    for (size_t at = 0; rc == 0 && at < bytes;) {
        size_t end = word_end(text, bytes, at);
        rc = encode_word(bpe, scratch, text + at, end - at, ids_max, ids);
        at = end;
    }
    return rc;
}

/* ---- storage ---- */

void bpe_release(struct bpe *bpe)
{
    med_free(bpe->merges);
    *bpe = (struct bpe){0};
}

int bpe_scratch_init(struct bpe_scratch *scratch)
{
    med_buf_init(&scratch->spelled, 1 << 16);
    scratch->cache = med_calloc(BPE_CACHE_WORDS, sizeof *scratch->cache);
    return scratch->cache ? 0 : MED_E_NOMEM;
}

void bpe_scratch_release(struct bpe_scratch *scratch)
{
    med_free(scratch->symbols);
    med_free(scratch->heap);
    med_free(scratch->cache);
    med_buf_release(&scratch->spelled);
}

void bpe_scratch_trim(struct bpe_scratch *scratch)
{
    if (scratch->symbol_capacity > KEEP_SYMBOLS) {
        med_free(scratch->symbols);
        scratch->symbols = NULL;
        scratch->symbol_capacity = 0;
    }
    if (scratch->heap_capacity > KEEP_SYMBOLS) {
        med_free(scratch->heap);
        scratch->heap = NULL;
        scratch->heap_capacity = 0;
    }
}
