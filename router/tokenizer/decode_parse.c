/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the decoder of tokenizer.json, and what every token decodes to.
 *
 * Decoders that look at one token at a time (Replace, ByteLevel's alphabet, "<0x0A>") are applied to
 * the whole vocabulary here, once; what is left for decode.c are the bytes that make characters only
 * together and the space at the start.  thread: the loader's.
 */
#include "router/tokenizer/internal.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "router/tokenizer/byte_level.h"

#include <string.h>

struct replacement {
    char from[TOKENIZER_LITERAL_BYTES + 1], to[TOKENIZER_LITERAL_BYTES + 1];
    size_t from_bytes, to_bytes;
};

struct parse {
    struct decoder *decoder;
    struct replacement replacements[TOKENIZER_STEPS_MAX];
    size_t replacement_count;
    bool fused, stripped;
};

static int parse_replace(struct parse *p, const struct med_json_at *at, struct med_err *err)
{
    static const char *const known[] = {"type", "pattern", "content", NULL};
    static const char *const pattern_known[] = {"String", NULL};
    struct replacement *r = &p->replacements[p->replacement_count++];
    struct med_json_at pattern;
    int rc = med_json_keys(at, known, err);
    if (rc == 0)
        rc = med_json_object(at, "pattern", &pattern, err);
    if (rc == 0)
        rc = med_json_keys(&pattern, pattern_known, err);
    if (rc == 0)
        rc = component_literal(&pattern, "String", false, r->from, &r->from_bytes, err);
    if (rc == 0)
        rc = component_literal(at, "content", true, r->to, &r->to_bytes, err);
    if (rc == 0 && (p->decoder->byte_fallback || p->fused))
        rc = med_json_fail(at, "type", err, "Replace must stand before ByteFallback and Fuse");
    return rc;
}

static int parse_strip(struct parse *p, const struct med_json_at *at, struct med_err *err)
{
    static const char *const known[] = {"type", "content", "start", "stop", NULL};
    const char *content;
    int64_t start;
    int64_t stop;
    int rc = med_json_keys(at, known, err);
    if (rc == 0)
        rc = med_json_string(at, "content", 4, &content, err);
    if (rc == 0)
        rc = med_json_integer(at, "start", 0, 1, &start, err);
    if (rc == 0)
        rc = med_json_integer(at, "stop", 0, 0, &stop, err);
    if (rc == 0 && strcmp(content, " ") != 0)
        rc = med_json_fail(at, "content", err, "found \"%s\", expected a space", content);
    if (rc == 0 && (!p->fused || p->stripped))
        rc = med_json_fail(at, "type", err, "Strip must stand once, behind Fuse");
    p->stripped = true;
    if (rc == 0)
        p->decoder->strip_space = start == 1;
    return rc;
}

static int parse_metaspace(struct parse *p, const struct med_json_at *at, struct med_err *err)
{
    static const char *const known[] = {
        "type", "replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep", NULL};
    const char *scheme = "always";
    bool space = true;
    int rc = med_json_keys(at, known, err);
    if (rc == 0)
        rc = component_character(at, "replacement", p->decoder->replacement, err);
    if (rc == 0 && med_json_has(at, "prepend_scheme"))
        rc = med_json_string(at, "prepend_scheme", 64, &scheme, err);
    if (rc == 0)
        rc = component_bool(at, "add_prefix_space", true, &space, err);
    if (rc == 0 && !space && strcmp(scheme, "never") != 0) {
        rc = med_json_fail(at, "add_prefix_space", err,
                           "found false, expected prepend_scheme \"never\" with it");
    }
    if (rc < 0)
        return rc;
    p->decoder->metaspace = strcmp(scheme, "never") != 0;
    struct replacement *r = &p->replacements[p->replacement_count++];
    r->from_bytes = strlen(p->decoder->replacement);
    memcpy(r->from, p->decoder->replacement, r->from_bytes + 1);
    memcpy(r->to, " ", 2);
    r->to_bytes = 1;
    return 0;
}

static int parse_step(struct parse *p, const struct med_json_at *at, size_t count,
                      struct med_err *err)
{
    static const char *const plain_known[] = {"type", NULL};
    static const char *const byte_level_known[] = {"type", "add_prefix_space", "trim_offsets",
                                                   "use_regex", NULL};
    const char *type;
    if (component_type(at, &type, err) < 0)
        return MED_E_FORMAT;
    if (strcmp(type, "Replace") == 0)
        return parse_replace(p, at, err);
    if (strcmp(type, "Strip") == 0)
        return parse_strip(p, at, err);
    if (strcmp(type, "ByteFallback") == 0 && !p->fused) {
        p->decoder->byte_fallback = true;
        return med_json_keys(at, plain_known, err);
    }
    if (strcmp(type, "Fuse") == 0) {
        p->fused = true;
        return med_json_keys(at, plain_known, err);
    }
    bool alone = strcmp(type, "ByteLevel") == 0 || strcmp(type, "Metaspace") == 0;
    if (alone && count > 1)
        return med_json_fail(at, "type", err, "%s must be the only decoder", type);
    if (strcmp(type, "ByteLevel") == 0) {
        p->decoder->byte_level = true;
        return med_json_keys(at, byte_level_known, err);
    }
    if (strcmp(type, "Metaspace") == 0)
        return parse_metaspace(p, at, err);
    return med_json_fail(
        at, "type", err,
        "found \"%.64s\", expected ByteLevel, Metaspace, or a Sequence of Replace, "
        "ByteFallback, Fuse and Strip",
        type);
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* "<0x0A>" is 10; -1: no byte. */
static int byte_of(const char *text, size_t bytes)
{
    if (bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    if (text[3] == '+') // the package's number parser takes a sign
        return hex_digit(text[4]);
    int high = hex_digit(text[3]);
    int low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* The piece of one token, in `buffers[*ret_turn]`. */
static int make_piece(const struct parse *p, const char *text, size_t bytes,
                      struct med_buf buffers[2], size_t *ret_turn, bool *ret_byte)
{
    size_t turn = 0;
    med_buf_clear(&buffers[0]);
    int rc = med_buf_append(&buffers[0], text, bytes);
    for (size_t i = 0; rc == 0 && i < p->replacement_count; i++) {
        const struct replacement *r = &p->replacements[i];
        rc = normalize_replace(buffers[turn].data, buffers[turn].length, r->from, r->from_bytes,
                               r->to, r->to_bytes, &buffers[1 - turn]);
        turn = 1 - turn;
    }
    if (rc < 0)
        return rc;
    struct med_buf *made = &buffers[turn];
    *ret_byte = false;
    if (p->decoder->byte_level) {
        long used = med_byte_level_bytes(text, bytes, made->data);
        if (used < 0) {
            memcpy(made->data, text, bytes); // a token outside the alphabet stands for itself
        } else {
            made->length = (size_t)used;
        }
    } else if (p->decoder->byte_fallback) {
        int byte = byte_of(made->data, made->length);
        if (byte >= 0) {
            made->data[0] = (char)byte;
            made->length = 1;
            *ret_byte = true;
        }
    }
    *ret_turn = turn;
    return 0;
}

static int make_pieces(const struct parse *p, struct vocab *vocab)
{
    struct med_buf buffers[2];
    med_buf_init(&buffers[0], (size_t)MED_LIMIT_TOKEN_BYTES * TOKENIZER_LITERAL_BYTES);
    med_buf_init(&buffers[1], (size_t)MED_LIMIT_TOKEN_BYTES * TOKENIZER_LITERAL_BYTES);
    int rc = 0;
    for (size_t id = 0; rc == 0 && id < vocab->count; id++) {
        struct token *token = &vocab->tokens[id];
        size_t turn;
        bool byte;
        if (!token->flags)
            continue;
        const char *source = vocab->text.data + token->source;
        rc = make_piece(p, source, token->source_bytes, buffers, &turn, &byte);
        if (rc < 0)
            break;
        const struct med_buf *made = &buffers[turn];
        token->piece_bytes = (uint32_t)made->length;
        if (byte)
            token->flags |= TOKEN_BYTE;
        if (made->length == token->source_bytes &&
            (made->length == 0 || memcmp(made->data, source, made->length) == 0)) {
            token->piece = token->source;
        } else {
            token->piece = (uint32_t)vocab->text.length;
            rc = med_buf_append(&vocab->text, made->data, made->length);
        }
    }
    med_buf_release(&buffers[0]);
    med_buf_release(&buffers[1]);
    return rc;
}

int decoder_parse(struct decoder *decoder, const struct med_json_at *root, struct vocab *vocab,
                  struct med_err *err)
{
    struct med_json_at items[TOKENIZER_STEPS_MAX];
    struct parse p = {.decoder = decoder};
    size_t count;
    int rc = component_list(root, "decoder", "decoders", items, &count, err);
    if (rc == 0 && count == 0) {
        rc = med_json_fail(root, "decoder", err,
                           "is missing, expected ByteLevel, Metaspace, or a Sequence of Replace, "
                           "ByteFallback, Fuse and Strip");
    }
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = parse_step(&p, &items[i], count, err);
    if (rc < 0)
        return rc;
    rc = make_pieces(&p, vocab);
    if (rc == MED_E_LIMIT)
        return med_json_fail(root, "decoder", err, "makes more text of a token than fits");
    return rc < 0 ? component_no_memory(root, err) : 0;
}
