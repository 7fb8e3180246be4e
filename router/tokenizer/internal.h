/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the tokenizer share; nobody else includes it.
 *
 * A text goes through: added tokens cut out (added.c) -> normalizers (normalize.c) -> added tokens of
 * the normalized kind -> pre-tokenizer steps (split.c) -> BPE (bpe.c) -> what the post-processor adds
 * (post.c).  Each part has a parse function that reads its place of tokenizer.json, and a release.
 * thread: everything but the scratch is immutable after load.
 */
#ifndef MED_ROUTER_TOKENIZER_INTERNAL_H
#define MED_ROUTER_TOKENIZER_INTERNAL_H

#include "base/buf.h"
#include "base/json.h"
#include "router/tokenizer/regex.h"
#include "router/tokenizer/tokenizer.h"
#include "router/tokenizer/unicode.h"

enum {
    TOKENIZER_STEPS_MAX = 16,     /* normalizers, pre-tokenizer steps, decoders, each */
    TOKENIZER_LITERAL_BYTES = 64, /* a text inside a normalizer, step or decoder */
    TOKENIZER_AFFIX_MAX = 16,     /* ids that the post-processor adds on one side */
    TOKENIZER_ADDED_MAX = 1 << 20 /* added tokens */
};

#define TOKENIZER_NO_ID UINT32_MAX

/* A part of a text: [start, end). */
struct span {
    uint32_t start, end;
};

/* ---- vocabulary (vocab.c) ---- */

enum {
    TOKEN_MODEL = 1,   /* in the model's vocabulary: merging may give it */
    TOKEN_ADDED = 2,   /* listed in added_tokens */
    TOKEN_SPECIAL = 4, /* added, and special */
    TOKEN_BYTE = 8     /* decodes to one raw byte ("<0x0A>") */
};

struct token {
    uint32_t text, text_bytes; /* the spelling, in vocab.text; NUL behind it */
    uint32_t source,
        source_bytes; /* what decoders start from: the spelling, normalized if added so */
    uint32_t piece, piece_bytes; /* what it decodes to, in vocab.text */
    uint32_t flags;              /* 0: no token has this id */
};

struct vocab {
    struct token *tokens; /* by id; owned */
    size_t count;         /* ids are below */
    struct med_buf text;
    uint32_t *slots; /* hash table of spellings: id + 1, or 0; owned */
    size_t slot_mask;
    size_t model_count; /* tokens of the model */
};

uint64_t vocab_hash(const char *bytes, size_t count);
/* Makes room for `entries` tokens with ids below `id_end`. */
int vocab_init(struct vocab *vocab, size_t entries, size_t id_end, size_t text_bytes_max);
/* The id must be free and the spelling new (the caller looked). */
int vocab_add(struct vocab *vocab, uint32_t id, const char *text, size_t bytes, uint32_t flags);
/* TOKENIZER_NO_ID: none with one of `flags`. */
uint32_t vocab_find(const struct vocab *vocab, const char *text, size_t bytes, uint32_t flags);
void vocab_release(struct vocab *vocab);

static inline const char *vocab_text(const struct vocab *vocab, uint32_t id)
{
    return vocab->text.data + vocab->tokens[id].text;
}

/* ---- added tokens (added.c) ---- */

struct added_token {
    uint32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
};

struct trie_node {
    uint32_t child, next; /* index of the first child and of the next sibling; 0: none */
    int32_t token;        /* index in the added tokens that ends here; -1: none */
    unsigned char byte;
};

/* All spellings of one kind; the longest that starts at a place is found by walking down. */
struct trie {
    struct trie_node *nodes; /* owned; [0] is the root */
    size_t count, capacity;
    uint32_t first[256]; /* the root's children by byte */
};

struct added {
    struct added_token *tokens; /* owned */
    size_t count;
    struct trie plain;      /* matched in the text as it came */
    struct trie normalized; /* matched in the normalized text */
};

struct normalizer;
int added_parse(struct added *added, const struct med_json_at *root, struct vocab *vocab,
                struct med_err *err);
/* Fills the tries; the normalizer and the vocabulary are complete now. */
int added_index(struct added *added, const struct med_json_at *root, struct vocab *vocab,
                const struct normalizer *normalizer, struct med_err *err);
void added_release(struct added *added);

struct added_match {
    const struct added_token *token; /* NULL: no more, and start = end = the text's end */
    size_t start, end;               /* with the white space that lstrip and rstrip take */
};
/* The next token at or behind *scan; `done` is where the last one ended. */
struct added_match added_next(const struct added *added, const struct trie *trie, const char *text,
                              size_t bytes, size_t *scan, size_t done, bool parse_special);

/* ---- normalizers (normalize.c) ---- */

enum normalize_kind {
    NORMALIZE_FORM,
    NORMALIZE_PREPEND,
    NORMALIZE_REPLACE
};

struct normalize_step {
    enum normalize_kind kind;
    enum med_unicode_form form;
    char from[TOKENIZER_LITERAL_BYTES + 1], to[TOKENIZER_LITERAL_BYTES + 1];
    size_t from_bytes, to_bytes;
};

struct normalizer {
    struct normalize_step steps[TOKENIZER_STEPS_MAX];
    size_t count;
};

int normalizer_parse(struct normalizer *normalizer, const struct med_json_at *root,
                     struct med_err *err);
/* The result is `text` itself or in one of the two buffers. */
int normalizer_run(const struct normalizer *normalizer, const char *text, size_t bytes,
                   struct med_buf buffers[2], const char **ret_text, size_t *ret_bytes);
/* Replaces every `from` (not empty) by `to`. */
int normalize_replace(const char *text, size_t bytes, const char *from, size_t from_bytes,
                      const char *to, size_t to_bytes, struct med_buf *out);

/* ---- pre-tokenizer steps (split.c, split_parse.c) ---- */

enum split_kind {
    SPLIT_REGEX,
    SPLIT_LITERAL,
    SPLIT_DIGITS,
    SPLIT_PUNCTUATION,
    SPLIT_METASPACE, /* writes the text anew; then cuts before each replacement character */
    SPLIT_PREFIX     /* ByteLevel's add_prefix_space: writes the text anew */
};

enum split_behavior {
    SPLIT_ISOLATED,
    SPLIT_REMOVED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS
};

enum split_prepend {
    SPLIT_PREPEND_ALWAYS,
    SPLIT_PREPEND_FIRST,
    SPLIT_PREPEND_NEVER
};

struct split_step {
    enum split_kind kind;
    enum split_behavior behavior;
    enum split_prepend prepend; /* Metaspace */
    bool invert;
    bool cut;                /* Metaspace: its "split" */
    struct med_regex *regex; /* owned */
    char literal[TOKENIZER_LITERAL_BYTES + 1];
    size_t literal_bytes;
};

struct splitter {
    struct split_step steps[TOKENIZER_STEPS_MAX];
    size_t count;
    bool byte_level; /* the last step spells bytes as characters: BPE then starts from bytes */
};

struct split_spans {
    struct span *spans; /* owned */
    size_t count, capacity;
};

struct split_scratch {
    struct split_spans lists[3]; /* pieces before and after a step; its matches */
    struct med_buf texts[2];     /* of steps that write the text anew */
    struct med_regex_scratch *regex;
};

int splitter_parse(struct splitter *splitter, const struct med_json_at *root, struct med_err *err);
void splitter_release(struct splitter *splitter);
/* The pieces of a text; valid until the next call with the scratch. */
struct split_result {
    const char *text; /* what the places are of: the text itself, or the scratch's */
    const struct split_spans *spans;
};

/* first: `text` is the start of the input. */
int splitter_run(const struct splitter *splitter, struct split_scratch *scratch, const char *text,
                 size_t bytes, bool first, struct split_result *ret_result, struct med_err *err);
void split_scratch_release(struct split_scratch *scratch);
/* Gives back storage that only a very long text needs. */
void split_scratch_trim(struct split_scratch *scratch);

/* ---- BPE (bpe.c, bpe_parse.c) ---- */

struct merge {
    uint64_t pair; /* left id << 32 | right id; UINT64_MAX: the slot is free */
    uint32_t rank, id;
};

struct bpe {
    const struct vocab *vocab;
    struct merge *merges; /* hash table; owned */
    size_t merge_mask;
    uint32_t byte_ids[256]; /* byte level: of the byte's character; else of "<0xXX>" */
    uint32_t ascii_ids[128];
    uint32_t unk_id;
    bool has_unk, fuse_unk, byte_fallback, ignore_merges, byte_level;
    /* No merge reaches over the start of a word (a replacement character behind another one), so a
     * text without a pre-tokenizer may be merged word by word. */
    bool word_starts;
};

struct bpe_symbol {
    uint32_t id; /* TOKENIZER_NO_ID: merged away */
    int32_t previous, next;
};

struct bpe_candidate {
    uint64_t order; /* rank << 32 | place of the left symbol */
    uint32_t id;
};

enum {
    BPE_CACHE_WORDS = 1 << 14,
    BPE_CACHE_KEY_BYTES = 26,
    BPE_CACHE_IDS = 8
};

/* One line of the processor's cache. */
struct bpe_cached {
    uint32_t hash;
    uint8_t key_bytes, count; /* key_bytes 0: free */
    char key[BPE_CACHE_KEY_BYTES];
    uint32_t ids[BPE_CACHE_IDS];
};

struct bpe_scratch {
    struct bpe_symbol *symbols; /* owned */
    size_t symbol_capacity;
    struct bpe_candidate *heap; /* owned */
    size_t heap_count, heap_capacity;
    struct bpe_cached *cache; /* owned; BPE_CACHE_WORDS */
    struct med_buf spelled;   /* a word as the vocabulary spells it */
};

/* Two steps, since the added tokens count on from the model's. */
int bpe_parse_vocab(struct bpe *bpe, struct vocab *vocab, const struct med_json_at *root,
                    size_t text_bytes_max, struct med_err *err);
int bpe_parse(struct bpe *bpe, const struct vocab *vocab, const struct med_json_at *root,
              bool byte_level, struct med_err *err);
void bpe_release(struct bpe *bpe);
int bpe_scratch_init(struct bpe_scratch *scratch);
void bpe_scratch_release(struct bpe_scratch *scratch);
void bpe_scratch_trim(struct bpe_scratch *scratch);
/* Appends the ids of one piece (not empty). */
int bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text, size_t bytes,
               size_t ids_max, struct med_token_ids *ids);
int token_ids_append(struct med_token_ids *ids, const uint32_t *add, size_t count, size_t ids_max);

/* ---- post-processor (post.c) ---- */

struct post {
    uint32_t before[TOKENIZER_AFFIX_MAX], after[TOKENIZER_AFFIX_MAX];
    size_t before_count, after_count;
};

int post_parse(struct post *post, const struct med_json_at *root, const struct vocab *vocab,
               struct med_err *err);
/* tokenizer_config.json: add_bos_token and add_eos_token, where they are given, replace it. */
int post_parse_config(struct post *post, const struct med_json_at *config,
                      const struct vocab *vocab, struct med_err *err);

/* ---- decoder (decode.c, decode_parse.c) ---- */

struct decoder {
    bool byte_level;    /* pieces are bytes */
    bool byte_fallback; /* "<0x0A>" is a byte */
    bool strip_space;   /* one space at the very start */
    bool metaspace;     /* replacement characters of the first token vanish */
    char replacement[5];
};

/* Gives every token its piece. */
int decoder_parse(struct decoder *decoder, const struct med_json_at *root, struct vocab *vocab,
                  struct med_err *err);

/* ---- the whole ---- */

struct med_tokenizer {
    struct vocab vocab;
    struct added added;
    struct normalizer normalizer;
    struct splitter splitter;
    struct bpe bpe;
    struct post post;
    struct decoder decoder;
};

/* ---- reading components (load.c) ---- */

/* `at` is an object; gets its "type". */
int component_type(const struct med_json_at *at, const char **ret_type, struct med_err *err);
/* The component at root's key and, if it is a Sequence, those in it, in order; null is none.
 * list: the key of a Sequence's array. */
int component_list(const struct med_json_at *root, const char *key, const char *list,
                   struct med_json_at ret_items[TOKENIZER_STEPS_MAX], size_t *ret_count,
                   struct med_err *err);
/* bool with a default when the key is absent or null. */
int component_bool(const struct med_json_at *at, const char *key, bool fallback, bool *ret_value,
                   struct med_err *err);
/* A text of 1..TOKENIZER_LITERAL_BYTES bytes (min 0: may be empty). */
int component_literal(const struct med_json_at *at, const char *key, bool may_be_empty,
                      char out[TOKENIZER_LITERAL_BYTES + 1], size_t *ret_bytes,
                      struct med_err *err);
/* Exactly one character; "▁" when absent. */
int component_character(const struct med_json_at *at, const char *key, char out[5],
                        struct med_err *err);
int component_no_memory(const struct med_json_at *at, struct med_err *err);

#endif
