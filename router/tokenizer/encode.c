/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text to ids: the whole way, and the scratch that it needs.
 *
 * thread: any, each with its own scratch.
 */
#include "router/tokenizer/internal.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/limits.h"
#include "base/utf8.h"

#include <string.h>

enum {
    NORMALIZED_BYTES_MAX = 18 * MED_LIMIT_PROMPT_BYTES, // a character may become 18
    KEEP_BYTES = 1 << 20
};

struct med_tokenizer_scratch {
    const struct med_tokenizer *tokenizer; // borrowed
    struct split_scratch split;
    struct bpe_scratch bpe;
    struct med_buf normalized[2];
};

int med_tokenizer_scratch_new(const struct med_tokenizer *tokenizer,
                              struct med_tokenizer_scratch **ret_scratch)
{
    struct med_tokenizer_scratch *scratch = med_calloc(1, sizeof *scratch);
    if (!scratch)
        return MED_E_NOMEM;
    scratch->tokenizer = tokenizer;
    for (size_t i = 0; i < 2; i++) {
        med_buf_init(&scratch->normalized[i], NORMALIZED_BYTES_MAX);
        med_buf_init(&scratch->split.texts[i], NORMALIZED_BYTES_MAX);
    }
    int rc = bpe_scratch_init(&scratch->bpe);
    if (rc == 0)
        rc = med_regex_scratch_new(&scratch->split.regex);
    if (rc < 0) {
        med_tokenizer_scratch_free(scratch);
        return rc;
    }
    *ret_scratch = scratch;
    return 0;
}

void med_tokenizer_scratch_free(struct med_tokenizer_scratch *scratch)
{
    if (!scratch)
        return;
    split_scratch_release(&scratch->split);
    bpe_scratch_release(&scratch->bpe);
    med_buf_release(&scratch->normalized[0]);
    med_buf_release(&scratch->normalized[1]);
    med_free(scratch);
}

static void scratch_trim(struct med_tokenizer_scratch *scratch)
{
    split_scratch_trim(&scratch->split);
    bpe_scratch_trim(&scratch->bpe);
    for (size_t i = 0; i < 2; i++) {
        if (scratch->normalized[i].capacity > KEEP_BYTES)
            med_buf_release(&scratch->normalized[i]);
    }
}

struct encoding {
    const struct med_tokenizer *tokenizer;
    struct med_tokenizer_scratch *scratch;
    const struct med_encode_options *options;
    struct med_token_ids *ids;
    size_t ids_max;
    struct med_err *err;
};

/* A normalized text without added tokens. */
static int encode_plain(struct encoding *e, const char *text, size_t bytes, bool first)
{
    struct split_result pieces;
    int rc = splitter_run(&e->tokenizer->splitter, &e->scratch->split, text, bytes, first, &pieces,
                          e->err);
    for (size_t i = 0; rc == 0 && i < pieces.spans->count; i++) {
        struct span piece = pieces.spans->spans[i];
        rc = bpe_encode(&e->tokenizer->bpe, &e->scratch->bpe, pieces.text + piece.start,
                        piece.end - piece.start, e->ids_max, e->ids);
    }
    return rc;
}

/* A text without added tokens of the first kind; `first`: it is the start of the input. */
static int encode_section(struct encoding *e, const char *text, size_t bytes, bool first)
{
    const struct added *added = &e->tokenizer->added;
    size_t scan = 0;
    size_t done = 0;
    int rc = normalizer_run(&e->tokenizer->normalizer, text, bytes, e->scratch->normalized, &text,
                            &bytes);
    while (rc == 0 && done < bytes) {
        struct added_match match = added_next(added, &added->normalized, text, bytes, &scan, done,
                                              e->options->parse_special);
        if (done < match.start)
            rc = encode_plain(e, text + done, match.start - done, first && done == 0);
        if (rc == 0 && match.token)
            rc = token_ids_append(e->ids, &match.token->id, 1, e->ids_max);
        done = match.end;
    }
    return rc;
}

static int encode_text(struct encoding *e, const char *text, size_t bytes)
{
    const struct added *added = &e->tokenizer->added;
    size_t scan = 0;
    size_t done = 0;
    int rc = 0;
    while (rc == 0 && done < bytes) {
        struct added_match match =
            added_next(added, &added->plain, text, bytes, &scan, done, e->options->parse_special);
        if (done < match.start)
            rc = encode_section(e, text + done, match.start - done, done == 0);
        if (rc == 0 && match.token)
            rc = token_ids_append(e->ids, &match.token->id, 1, e->ids_max);
        done = match.end;
    }
    return rc;
}

static int check_text(const char *text, size_t bytes, struct med_err *err)
{
    if (bytes > MED_LIMIT_PROMPT_BYTES) {
        return med_err_set(err, MED_E_LIMIT, "the text has %zu bytes, more than %d", bytes,
                           MED_LIMIT_PROMPT_BYTES);
    }
    for (size_t i = 0; i < bytes;) {
        uint64_t eight;
        if (bytes - i >= 8) {
            memcpy(&eight, text + i, 8);
            if (!(eight & 0x8080808080808080u)) {
                i += 8;
                continue;
            }
        }
        size_t length = med_utf8_char_bytes(text + i, bytes - i);
        if (length == 0)
            return med_err_set(err, MED_E_INVALID, "the text is not valid UTF-8 at byte %zu", i);
        i += length;
    }
    return 0;
}

int med_tokenizer_encode(const struct med_tokenizer *tokenizer,
                         struct med_tokenizer_scratch *scratch, const char *text, size_t bytes,
                         const struct med_encode_options *options, struct med_token_ids *ids,
                         struct med_err *err)
{
    MED_ASSERT(scratch->tokenizer == tokenizer);
    const size_t before = ids->count;
    const size_t tokens_max = options->tokens_max ? options->tokens_max : MED_LIMIT_PROMPT_TOKENS;
    struct encoding e = {.tokenizer = tokenizer,
                         .scratch = scratch,
                         .options = options,
                         .ids = ids,
                         .ids_max = before > SIZE_MAX - tokens_max ? SIZE_MAX : before + tokens_max,
                         .err = err};
    struct med_err none = {0};
    if (err)
        *err = none;
    int rc = check_text(text, bytes, err);
    if (rc == 0 && options->add_special)
        rc = token_ids_append(ids, tokenizer->post.before, tokenizer->post.before_count, e.ids_max);
    if (rc == 0)
        rc = encode_text(&e, text, bytes);
    if (rc == 0 && options->add_special)
        rc = token_ids_append(ids, tokenizer->post.after, tokenizer->post.after_count, e.ids_max);
    scratch_trim(scratch);
    if (rc == 0)
        return 0;
    ids->count = before;
    if (err && err->code == 0 && rc == MED_E_LIMIT) {
        return med_err_set(err, rc, "the text has more than %zu tokens", tokens_max);
    }
    return err && err->code == 0 ? med_err_set(err, rc, "%s", med_err_text(rc)) : rc;
}
