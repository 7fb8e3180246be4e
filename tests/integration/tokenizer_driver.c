/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tokenizer behind a pipe, for test_tokenizer.py.
 *
 *     tokenizer_driver DIR
 *
 * Reads records from standard input and answers each on standard output; numbers are 32-bit, of this
 * machine's byte order.  A record is a kind, a count, and what the kind says:
 *   1, 2, 3, 4: `count` bytes of text to encode; 2 and 4 with what the post-processor adds, 1 and 2
 *      with special tokens read as such.  Answer: count and ids; a failure is 0xffffffff, and then
 *      count and text of the message.
 *   5, 6, 7, 8: `count` ids to decode; 6 and 8 without special tokens, 7 and 8 token by token.
 *      Answer: count and text.  Token by token, each part must be valid UTF-8, else the program ends.
 * thread: main.
 */
#include "base/alloc.h"
#include "base/buf.h"
#include "base/utf8.h"
#include "router/tokenizer/tokenizer.h"

#include <stdio.h>

enum {
    RECORD_BYTES_MAX = 64 << 20
};

static int fail(const char *what)
{
    (void)fprintf(stderr, "tokenizer_driver: %s\n", what);
    return 1;
}

static int put(const void *bytes, uint32_t count)
{
    return fwrite(&count, sizeof count, 1, stdout) == 1 && fwrite(bytes, 1, count, stdout) == count
               ? 0
               : fail("cannot write");
}

static int encode(const struct med_tokenizer *tokenizer, struct med_tokenizer_scratch *scratch,
                  uint32_t kind, const struct med_buf *in)
{
    struct med_err err = {0};
    struct med_token_ids ids = {0};
    struct med_encode_options options = {.add_special = kind == 2 || kind == 4,
                                         .parse_special = kind <= 2};
    const uint32_t failed = UINT32_MAX;
    int rc = med_tokenizer_encode(tokenizer, scratch, in->data ? in->data : "", in->length,
                                  &options, &ids, &err);
    if (rc < 0) {
        rc = fwrite(&failed, sizeof failed, 1, stdout) == 1 ? 0 : fail("cannot write");
        if (rc == 0) {
            struct med_buf text;
            med_buf_init(&text, sizeof err.text);
            rc = med_buf_append_str(&text, err.text) == 0 ? put(text.data, (uint32_t)text.length)
                                                          : fail("no memory");
            med_buf_release(&text);
        }
    } else {
        uint32_t count = (uint32_t)ids.count;
        rc = fwrite(&count, sizeof count, 1, stdout) == 1 &&
                     (count == 0 || fwrite(ids.ids, sizeof *ids.ids, count, stdout) == count)
                 ? 0
                 : fail("cannot write");
    }
    med_free(ids.ids);
    return rc;
}

static bool is_utf8(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes;) {
        size_t length = med_utf8_char_bytes(text + i, bytes - i);
        if (length == 0)
            return false;
        i += length;
    }
    return true;
}

static int decode(const struct med_tokenizer *tokenizer, uint32_t kind, const uint32_t *ids,
                  size_t count)
{
    struct med_detokenizer d;
    struct med_buf out;
    bool skip = kind == 6 || kind == 8;
    int rc = 0;
    med_buf_init(&out, RECORD_BYTES_MAX);
    if (kind <= 6) {
        rc = med_tokenizer_decode(tokenizer, ids, count, skip, &out);
    } else {
        med_detokenizer_init(&d, tokenizer, skip, false);
        for (size_t i = 0; rc == 0 && i <= count; i++) {
            size_t before = out.length;
            rc = i < count ? med_detokenizer_add(&d, ids + i, 1, &out)
                           : med_detokenizer_end(&d, &out);
            if (out.length > before && !is_utf8(out.data + before, out.length - before))
                rc = fail("a part that is no UTF-8");
        }
    }
    if (rc == 0)
        rc = put(out.data ? out.data : "", (uint32_t)out.length);
    med_buf_release(&out);
    return rc;
}

static int serve(const struct med_tokenizer *tokenizer, struct med_tokenizer_scratch *scratch)
{
    uint32_t head[2];
    struct med_buf in;
    int rc = 0;
    med_buf_init(&in, RECORD_BYTES_MAX);
    while (rc == 0 && fread(head, sizeof *head, 2, stdin) == 2) {
        size_t bytes = head[0] <= 4 ? head[1] : (size_t)head[1] * sizeof(uint32_t);
        med_buf_clear(&in);
        if (med_buf_reserve(&in, bytes) < 0 || fread(in.data, 1, bytes, stdin) != bytes) {
            rc = fail("a record that is cut off or too large");
            break;
        }
        in.length = bytes;
        rc = head[0] <= 4
                 ? encode(tokenizer, scratch, head[0], &in)
                 : decode(tokenizer, head[0], (const uint32_t *)(const void *)in.data, head[1]);
    }
    if (rc == 0 && fflush(stdout) != 0)
        rc = fail("cannot write");
    med_buf_release(&in);
    return rc;
}

int main(int argc, char **argv)
{
    struct med_tokenizer *tokenizer = NULL;
    struct med_tokenizer_scratch *scratch = NULL;
    struct med_err err = {0};
    if (argc != 2)
        return fail("usage: tokenizer_driver DIR");
    if (med_tokenizer_load(argv[1], &tokenizer, &err) < 0)
        return fail(err.text);
    int rc = med_tokenizer_scratch_new(tokenizer, &scratch) < 0 ? fail("no memory")
                                                                : serve(tokenizer, scratch);
    med_tokenizer_scratch_free(scratch);
    med_tokenizer_free(tokenizer);
    return rc;
}
