/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Logprobs in the two forms that the OpenAI API has, see write.h.
 *
 * completions: four lists, {"tokens", "token_logprobs", "top_logprobs", "text_offset"}; a token that is
 * no whole UTF-8 is spelled "bytes:\xe2\x82".  chat: one object per token, with the token's bytes.
 * Without a tokenizer, or if the client asks for it, tokens are named "token_id:ID".
 * Runs on the loop. It does no I/O.
 */
#include "base/assert.h"
#include "base/os.h"
#include "base/utf8.h"
#include "router/openai/write.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define PUT(out, literal) med_buf_append((out), (literal), sizeof(literal) - 1)

/* What is written, and how tokens are spelled. */
struct spelling {
    const struct med_tokenizer *tokenizer;
    bool as_ids;
    struct med_buf bytes; /* of the token at hand */
};

static int put_number(struct med_buf *out, float logprob)
{
    char text[MED_OS_DOUBLE_MAX];
    /* Six places say all that a float16 or bfloat16 model knows. */
    double rounded = round((double)logprob * 1e6) / 1e6;
    /* -inf: impossible; the API has no number for it but a very small one. */
    if (!isfinite(rounded))
        rounded = -9999;
    return med_buf_append(out, text, med_os_print_double(text, rounded + 0.0));
}

static int spell(struct spelling *s, uint32_t id)
{
    med_buf_clear(&s->bytes);
    if (s->tokenizer == NULL)
        return med_buf_printf(&s->bytes, "token_id:%" PRIu32, id);
    return med_tokenizer_token_bytes(s->tokenizer, id, &s->bytes);
}

/* The name of a token whose bytes are at hand. */
static int put_token(const struct spelling *s, uint32_t id, bool exact, struct med_buf *out)
{
    if (s->as_ids)
        return med_buf_printf(out, "\"token_id:%" PRIu32 "\"", id);
    const char *data = s->bytes.data != NULL ? s->bytes.data : "";
    if (!exact || med_utf8_check(data, s->bytes.length) < 0)
        return med_openai_write_string(out, data, s->bytes.length);
    int rc = PUT(out, "\"bytes:");
    for (size_t i = 0; rc == 0 && i < s->bytes.length; i++)
        rc = med_buf_printf(out, "\\\\x%02x", (unsigned char)data[i]);
    return rc == 0 ? PUT(out, "\"") : rc;
}

static size_t characters(const struct med_buf *bytes)
{
    size_t count = 0;
    for (size_t i = 0; i < bytes->length; i++)
        count += ((unsigned char)bytes->data[i] & 0xc0) != 0x80;
    return count;
}

static const struct med_req_logprob *row_of(const struct med_req *req, size_t token)
{
    return &req->logprobs[token * med_req_logprob_rows(req)];
}

static bool is_used(const struct med_req_logprob *row)
{
    return row->logprob <= 0;
}

/* ---- chat ---- */

/* {"token", "logprob", "bytes"; the object stays open. */
static int put_open(struct spelling *s, const struct med_req_logprob *row, struct med_buf *out)
{
    int rc = spell(s, row->id);
    if (rc == 0)
        rc = PUT(out, "{\"token\":");
    if (rc == 0)
        rc = put_token(s, row->id, false, out);
    if (rc == 0)
        rc = PUT(out, ",\"logprob\":");
    if (rc == 0)
        rc = put_number(out, row->logprob);
    if (rc == 0)
        rc = PUT(out, ",\"bytes\":[");
    for (size_t i = 0; rc == 0 && i < s->bytes.length; i++)
        rc = med_buf_printf(out, i > 0 ? ",%u" : "%u", (unsigned char)s->bytes.data[i]);
    return rc == 0 ? PUT(out, "]") : rc;
}

static int put_chat(struct spelling *s, const struct med_req *req, size_t from, size_t to,
                    struct med_buf *out)
{
    size_t rows = med_req_logprob_rows(req);
    int rc = PUT(out, "{\"content\":[");
    for (size_t i = from; rc == 0 && i < to; i++) {
        const struct med_req_logprob *row = row_of(req, i);
        if (i > from)
            rc = PUT(out, ",");
        if (rc == 0)
            rc = put_open(s, row, out);
        if (rc == 0)
            rc = PUT(out, ",\"top_logprobs\":[");
        for (size_t k = 1; rc == 0 && k < rows && is_used(&row[k]); k++) {
            if (k > 1)
                rc = PUT(out, ",");
            if (rc == 0)
                rc = put_open(s, &row[k], out);
            if (rc == 0)
                rc = PUT(out, "}");
        }
        if (rc == 0)
            rc = PUT(out, "]}");
    }
    return rc == 0 ? PUT(out, "],\"refusal\":null}") : rc;
}

/* ---- completions ---- */

/* The likeliest and the chosen one as a map; a spelling stands once, with its likeliest token's. */
static int put_map(struct spelling *s, const struct med_req_logprob *row, size_t rows,
                   struct med_buf *out)
{
    struct med_buf key;
    bool chosen_among = false;
    bool first = true;
    med_buf_init(&key, out->max_bytes);
    size_t start = out->length;
    int rc = PUT(out, "{");
    for (size_t k = 1; rc == 0 && k <= rows; k++) {
        /* The chosen one comes last, if it is not among the likeliest. */
        const struct med_req_logprob *at = k < rows ? &row[k] : &row[0];
        if (k < rows ? !is_used(at) : chosen_among)
            continue;
        chosen_among = chosen_among || at->id == row[0].id;
        med_buf_clear(&key);
        rc = spell(s, at->id);
        if (rc == 0)
            rc = put_token(s, at->id, true, &key);
        if (rc == 0)
            rc = PUT(&key, ":");
        if (rc < 0)
            break;
        const char *found = out->data + start;
        bool twice = false;
        while (!twice && (found = strstr(found, key.data)) != NULL) {
            /* A key begins behind a brace or comma; inside a string it would be escaped. */
            twice = found[-1] == '{' || found[-1] == ',';
            found++;
        }
        if (twice)
            continue;
        rc = first ? 0 : PUT(out, ",");
        first = false;
        if (rc == 0)
            rc = med_buf_append(out, key.data, key.length);
        if (rc == 0)
            rc = put_number(out, at->logprob);
    }
    med_buf_release(&key);
    return rc == 0 ? PUT(out, "}") : rc;
}

enum list {
    LIST_TOKENS,
    LIST_LOGPROBS,
    LIST_TOP,
    LIST_OFFSETS
};

static int put_item(struct spelling *s, struct med_req *req, size_t token, enum list list,
                    struct med_buf *out)
{
    const struct med_req_logprob *row = row_of(req, token);
    int rc = 0;
    if (list == LIST_LOGPROBS)
        return put_number(out, row->logprob);
    if (list == LIST_TOP)
        return put_map(s, row, med_req_logprob_rows(req), out);
    rc = spell(s, row->id);
    if (rc < 0)
        return rc;
    if (list == LIST_TOKENS)
        return put_token(s, row->id, true, out);
    rc = med_buf_printf(out, "%zu", req->chars_told);
    req->chars_told += s->tokenizer != NULL ? characters(&s->bytes) : 0;
    return rc;
}

static int put_lists(struct spelling *s, struct med_req *req, size_t from, size_t to,
                     struct med_buf *out)
{
    static const char *const names[] = {"{\"tokens\":[", "],\"token_logprobs\":[",
                                        "],\"top_logprobs\":[", "],\"text_offset\":["};
    int rc = 0;
    for (size_t list = 0; rc == 0 && list < sizeof(names) / sizeof(names[0]); list++) {
        rc = med_buf_append_str(out, names[list]);
        for (size_t i = from; rc == 0 && i < to; i++) {
            if (i > from)
                rc = PUT(out, ",");
            if (rc == 0)
                rc = put_item(s, req, i, (enum list)list, out);
        }
    }
    return rc == 0 ? PUT(out, "]}") : rc;
}

int med_openai_write_logprobs(const struct med_openai_call *call, struct med_req *req, size_t from,
                              size_t to, struct med_buf *out)
{
    if (!req->query->sampling.has_logprobs || req->logprobs == NULL || from == to)
        return PUT(out, "null");
    struct spelling s = {.tokenizer = req->answer.options.tokenizer};
    s.as_ids = call->as_ids || s.tokenizer == NULL;
    med_buf_init(&s.bytes, (size_t)2 * MED_LIMIT_TOKEN_BYTES);
    int rc = call->kind == MED_OPENAI_CHAT ? put_chat(&s, req, from, to, out)
                                           : put_lists(&s, req, from, to, out);
    med_buf_release(&s.bytes);
    return rc;
}
