/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tokenizer.json and a text behind a NUL byte.  Any bytes are refused with a sentence or loaded;
 * what is loaded encodes any text or says why not, and decodes what it encoded to valid UTF-8, the
 * same at once and token by token; nothing stays allocated.
 * With libFuzzer: -dict=tests/fuzz/formats.dict.  thread: main.
 */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/buf.h"
#include "base/utf8.h"
#include "router/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

enum {
    TEXT_BYTES_MAX = 1 << 24
};

static void check_utf8(const struct med_buf *buf, size_t from)
{
    for (size_t i = from; i < buf->length;) {
        size_t length = med_utf8_char_bytes(buf->data + i, buf->length - i);
        MED_ASSERT(length > 0);
        i += length;
    }
}

static void decode(const struct med_tokenizer *tokenizer, const struct med_token_ids *ids,
                   bool skip_special)
{
    struct med_detokenizer d;
    struct med_buf whole;
    struct med_buf parts;
    med_buf_init(&whole, TEXT_BYTES_MAX);
    med_buf_init(&parts, TEXT_BYTES_MAX);
    MED_ASSERT(med_tokenizer_decode(tokenizer, ids->ids, ids->count, skip_special, &whole) == 0);
    check_utf8(&whole, 0);
    med_detokenizer_init(&d, tokenizer, skip_special, false);
    for (size_t i = 0; i < ids->count; i++) {
        size_t before = parts.length;
        MED_ASSERT(med_detokenizer_add(&d, ids->ids + i, 1, &parts) == 0);
        check_utf8(&parts, before);
    }
    MED_ASSERT(med_detokenizer_end(&d, &parts) == 0);
    MED_ASSERT(whole.length == parts.length);
    MED_ASSERT(whole.length == 0 || memcmp(whole.data, parts.data, whole.length) == 0);
    med_buf_release(&whole);
    med_buf_release(&parts);
}

static void encode(const struct med_tokenizer *tokenizer, struct med_tokenizer_scratch *scratch,
                   const char *text, size_t bytes, bool special)
{
    struct med_token_ids ids = {0};
    struct med_err err = {0};
    struct med_encode_options options = {.add_special = special, .parse_special = special};
    int rc = med_tokenizer_encode(tokenizer, scratch, text, bytes, &options, &ids, &err);
    if (rc < 0) {
        MED_ASSERT(rc == MED_E_INVALID || rc == MED_E_LIMIT);
        MED_ASSERT(err.text[0]);
        MED_ASSERT(ids.count == 0);
    } else {
        for (size_t i = 0; i < ids.count; i++)
            MED_ASSERT(ids.ids[i] < med_tokenizer_vocab(tokenizer));
        decode(tokenizer, &ids, special);
    }
    med_free(ids.ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t live = med_alloc_bytes_live();
    struct med_tokenizer *tokenizer = NULL;
    struct med_tokenizer_scratch *scratch = NULL;
    struct med_err err = {0};
    const char *json = (const char *)data;
    const char *end = size ? memchr(data, 0, size) : NULL;
    size_t json_bytes = end ? (size_t)(end - json) : size;
    const char *text = end ? end + 1 : "a <s> \xc3\xa9 ab";
    size_t text_bytes = end ? size - json_bytes - 1 : strlen(text);
    int rc = med_tokenizer_parse(json ? json : "", json_bytes, "input", &tokenizer, &err);
    if (rc < 0) {
        MED_ASSERT(rc == MED_E_FORMAT);
        MED_ASSERT(strncmp(err.text, "input: ", 7) == 0);
    } else {
        MED_ASSERT(med_tokenizer_scratch_new(tokenizer, &scratch) == 0);
        encode(tokenizer, scratch, text, text_bytes, true);
        encode(tokenizer, scratch, text, text_bytes, false);
        med_tokenizer_scratch_free(scratch);
        med_tokenizer_free(tokenizer);
    }
    MED_ASSERT(med_alloc_bytes_live() == live);
    return 0;
}
