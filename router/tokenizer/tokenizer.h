/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text to token ids and back: tokenizer.json of a Hugging Face directory, BPE.
 *
 * Two styles: byte-level (GPT-2, Llama 3, Qwen) with the pre-tokenizers Split (a regex), ByteLevel,
 * Digits and Sequences of them; and SentencePiece style (Llama 2, Mistral) with byte fallback.  Added
 * and special tokens, the normalizers, post-processors and decoders that these families use; ids are
 * the same as the `tokenizers` package's.  What is not understood is refused by name at load.
 *
 * Encoding: added tokens are cut out of the text first (special ones only if parse_special), each
 * piece between them is normalized, split and merged.  add_special runs the post-processor (BOS,
 * EOS).  Text must be UTF-8 (MED_E_INVALID names the byte).  Cost is O(n log n) in the worst word.
 *
 * owns: everything; what getters lend lives until free.
 * thread: immutable after load, so any number of threads may encode at once, each with its own
 * struct med_tokenizer_scratch.
 * errors: load: MED_E_FORMAT with file and path; encode: MED_E_INVALID, MED_E_LIMIT, MED_E_NOMEM.
 * source: the formats and rules of the Hugging Face tokenizers library.
 */
#ifndef MED_ROUTER_TOKENIZER_TOKENIZER_H
#define MED_ROUTER_TOKENIZER_TOKENIZER_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct med_buf;
struct med_tokenizer;
struct med_tokenizer_scratch; /* regex match data, word cache, merge heap: one per thread */

struct med_token_ids {
    uint32_t *ids; /* owned; med_free */
    size_t count, capacity;
};

struct med_encode_options {
    bool add_special; /* what the post-processor adds */
    bool
        parse_special; /* text that spells a special token becomes it; otherwise it is plain text */
    size_t tokens_max; /* more is MED_E_LIMIT; 0: MED_LIMIT_PROMPT_TOKENS */
};

/* Reads DIR/tokenizer.json, and of DIR/tokenizer_config.json what changes ids (add_bos_token ...). */
int med_tokenizer_load(const char *dir, struct med_tokenizer **ret_tokenizer,
                       struct med_err *err) MED_MUST_CHECK;
/* From the bytes of a tokenizer.json; `name` for messages. */
int med_tokenizer_parse(const char *bytes, size_t count, const char *name,
                        struct med_tokenizer **ret_tokenizer, struct med_err *err) MED_MUST_CHECK;
void med_tokenizer_free(struct med_tokenizer *tokenizer);

int med_tokenizer_scratch_new(const struct med_tokenizer *tokenizer,
                              struct med_tokenizer_scratch **ret_scratch) MED_MUST_CHECK;
void med_tokenizer_scratch_free(struct med_tokenizer_scratch *scratch);

/* Appends to *ids; on failure what was there stays. */
int med_tokenizer_encode(const struct med_tokenizer *tokenizer,
                         struct med_tokenizer_scratch *scratch, const char *text, size_t bytes,
                         const struct med_encode_options *options, struct med_token_ids *ids,
                         struct med_err *err) MED_MUST_CHECK;

/* Ids are below this (added tokens included; holes are possible). */
int64_t med_tokenizer_vocab(const struct med_tokenizer *tokenizer);
/* Appends the bytes that it decodes to, which may be part of a character; none for an unknown id. */
int med_tokenizer_token_bytes(const struct med_tokenizer *tokenizer, uint32_t id,
                              struct med_buf *out) MED_MUST_CHECK;

/*
 * Incremental detokenizing: the text of a growing sequence, never cutting a character.
 *
 * The bytes given out, joined, are the decoding of the whole (as the tokenizers package's decode, up
 * to invalid UTF-8, which becomes U+FFFD as soon as it is known to be invalid).  Bytes that may still
 * become a character wait inside; end() gives them out.
 */
struct med_detokenizer {
    const struct med_tokenizer *tokenizer;
    bool skip_special;
    bool started; /* a SentencePiece decoder strips the space before the very first token */
    unsigned char pending[16];
    size_t pending_count;
};

/* continues: the tokens go on from a prompt, whose text is not wanted (so no first space is
 * stripped). */
void med_detokenizer_init(struct med_detokenizer *d, const struct med_tokenizer *tokenizer,
                          bool skip_special, bool continues);
/* Appends valid UTF-8 to `out`. Unknown ids give nothing. errors: MED_E_NOMEM, MED_E_LIMIT. */
int med_detokenizer_add(struct med_detokenizer *d, const uint32_t *ids, size_t count,
                        struct med_buf *out) MED_MUST_CHECK;
int med_detokenizer_end(struct med_detokenizer *d, struct med_buf *out) MED_MUST_CHECK;

/* All at once. */
int med_tokenizer_decode(const struct med_tokenizer *tokenizer, const uint32_t *ids, size_t count,
                         bool skip_special, struct med_buf *out) MED_MUST_CHECK;

#endif
