/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ids to text, piece by piece, never cutting a character.
 *
 * Every token has its piece (decode_parse.c).  Pieces of byte-level tokenizers are bytes, and so are
 * the byte tokens of the SentencePiece style: bytes that may still become a character wait in
 * `pending`.  Bytes that cannot become one are U+FFFD: one for the longest beginning of a character
 * (byte level), one for each byte (byte tokens), as in the tokenizers package; only that the package
 * gives up a whole run of byte tokens when one of them is bad, and here the good characters of the
 * run come out, since they are out already.  thread: the owner's.
 */
#include "router/tokenizer/internal.h"

#include "base/assert.h"
#include "base/utf8.h"

#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd"

void med_detokenizer_init(struct med_detokenizer *d, const struct med_tokenizer *tokenizer,
                          bool skip_special, bool continues)
{
    *d = (struct med_detokenizer){
        .tokenizer = tokenizer, .skip_special = skip_special, .started = continues};
}

/* Gives out text: whole characters.  The very first space may have to go. */
static int emit(struct med_detokenizer *d, const char *text, size_t bytes, struct med_buf *out)
{
    const struct decoder *decoder = &d->tokenizer->decoder;
    if (bytes == 0)
        return 0;
    if (decoder->strip_space && !d->started && text[0] == ' ') {
        text++;
        bytes--;
    }
    int rc = med_buf_append(out, text, bytes);
    if (rc == 0 && !decoder->metaspace)
        d->started = true;
    return rc;
}

/* What waits can no longer become a character. */
static int emit_invalid(struct med_detokenizer *d, struct med_buf *out)
{
    size_t marks = d->tokenizer->decoder.byte_fallback ? d->pending_count : d->pending_count > 0;
    for (size_t i = 0; i < marks; i++) {
        int rc = emit(d, REPLACEMENT, strlen(REPLACEMENT), out);
        if (rc < 0)
            return rc;
    }
    d->pending_count = 0;
    return 0;
}

/* 0: no character starts so; 1: may become one; 2: is one. */
static int judge(const unsigned char *bytes, size_t count)
{
    char padded[4] = {0};
    size_t length = bytes[0] < 0x80                        ? 1
                    : bytes[0] >= 0xc2 && bytes[0] <= 0xdf ? 2
                    : bytes[0] >= 0xe0 && bytes[0] <= 0xef ? 3
                    : bytes[0] >= 0xf0 && bytes[0] <= 0xf4 ? 4
                                                           : 0;
    if (length == 0 || count > length)
        return 0;
    if (count == 1)
        return length == 1 ? 2 : 1;
    memset(padded, 0x80, sizeof padded);
    memcpy(padded, bytes, count);
    if (med_utf8_char_bytes(padded, length) != length)
        return 0;
    return count == length ? 2 : 1;
}

static int add_byte(struct med_detokenizer *d, unsigned char byte, struct med_buf *out)
{
    for (;;) {
        MED_ASSERT(d->pending_count < 4);
        d->pending[d->pending_count] = byte;
        int state = judge(d->pending, d->pending_count + 1);
        if (state == 1) {
            d->pending_count++;
            return 0;
        }
        if (state == 2) {
            int rc = emit(d, (const char *)d->pending, d->pending_count + 1, out);
            d->pending_count = 0;
            return rc;
        }
        /* What waited is bad; the byte itself is looked at again, alone. */
        bool alone = d->pending_count == 0;
        d->pending_count += alone;
        int rc = emit_invalid(d, out);
        if (rc < 0 || alone)
            return rc;
    }
}

static int add_bytes(struct med_detokenizer *d, const char *bytes, size_t count,
                     struct med_buf *out)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < count;) {
        size_t run = 0; // whole characters go out together
        while (d->pending_count == 0 && i + run < count) {
            size_t length = med_utf8_char_bytes(bytes + i + run, count - i - run);
            if (length == 0)
                break;
            run += length;
        }
        rc = emit(d, bytes + i, run, out);
        i += run;
        if (rc == 0 && i < count)
            rc = add_byte(d, (unsigned char)bytes[i++], out);
    }
    return rc;
}

/* The first token of a Metaspace decoder loses its replacement characters. */
static int add_first(struct med_detokenizer *d, uint32_t id, struct med_buf *out)
{
    const struct vocab *vocab = &d->tokenizer->vocab;
    const char *mark = d->tokenizer->decoder.replacement;
    const size_t mark_bytes = strlen(mark);
    const char *text = vocab->text.data + vocab->tokens[id].source;
    const char *end = text + vocab->tokens[id].source_bytes;
    int rc = 0;
    while (rc == 0 && text < end) {
        size_t length = 0;
        (void)med_unicode_at(text, &length);
        if (length != mark_bytes || memcmp(text, mark, mark_bytes) != 0)
            rc = emit(d, text, length, out);
        text += length;
    }
    d->started = true;
    return rc;
}

static int add_token(struct med_detokenizer *d, uint32_t id, struct med_buf *out)
{
    const struct vocab *vocab = &d->tokenizer->vocab;
    const struct decoder *decoder = &d->tokenizer->decoder;
    if (id >= vocab->count || !vocab->tokens[id].flags)
        return 0;
    const struct token *token = &vocab->tokens[id];
    if (d->skip_special && (token->flags & TOKEN_SPECIAL))
        return 0;
    const char *piece = vocab->text.data + token->piece;
    if (decoder->metaspace && !d->started)
        return add_first(d, id, out);
    if (decoder->byte_level)
        return add_bytes(d, piece, token->piece_bytes, out);
    if (token->flags & TOKEN_BYTE)
        return add_byte(d, (unsigned char)piece[0], out);
    int rc = emit_invalid(d, out);
    return rc < 0 ? rc : emit(d, piece, token->piece_bytes, out);
}

int med_detokenizer_add(struct med_detokenizer *d, const uint32_t *ids, size_t count,
                        struct med_buf *out)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = add_token(d, ids[i], out);
    return rc;
}

int med_detokenizer_end(struct med_detokenizer *d, struct med_buf *out)
{
    return emit_invalid(d, out);
}

int med_tokenizer_decode(const struct med_tokenizer *tokenizer, const uint32_t *ids, size_t count,
                         bool skip_special, struct med_buf *out)
{
    struct med_detokenizer d;
    const size_t before = out->length;
    med_detokenizer_init(&d, tokenizer, skip_special, false);
    int rc = med_detokenizer_add(&d, ids, count, out);
    if (rc == 0)
        rc = med_detokenizer_end(&d, out);
    if (rc < 0 && out->data) {
        out->length = before;
        out->data[before] = '\0';
    }
    return rc;
}
