/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers, chunks and errors, see write.h.
 *
 * A chunk is: the stream's head ("data: {...,"choices":[{"index":"), the index, what is new, the tail.
 * Strings are copied in runs between the bytes that must be escaped.
 * Runs on the loop. It does no I/O.
 */
#include "router/openai/write.h"

#include "base/assert.h"
#include "base/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    HEAD_BYTES = 8 << 10 /* request id and model name, both escaped, and the rest */
};

/* Appends a literal. */
#define PUT(out, literal) med_buf_append((out), (literal), sizeof(literal) - 1)

/* ---- strings and numbers ---- */

/* Bytes of a string that stand for themselves; what is above ASCII is checked as it is met. */
static size_t plain_run(const char *p, size_t left)
{
    size_t n = 0;
    while (n < left) {
        unsigned char c = (unsigned char)p[n];
        if (c < 0x20 || c == '"' || c == '\\')
            break;
        if (c < 0x80) {
            n++;
            continue;
        }
        size_t bytes = med_utf8_char_bytes(p + n, left - n);
        if (bytes == 0)
            break;
        n += bytes;
    }
    return n;
}

/* The inside of a string. */
static int put_escaped(struct med_buf *out, const char *bytes, size_t count)
{
    int rc = 0;
    for (size_t at = 0; rc == 0 && at < count;) {
        size_t run = plain_run(bytes + at, count - at);
        if (run > 0)
            rc = med_buf_append(out, bytes + at, run);
        at += run;
        if (rc < 0 || at == count)
            break;
        char escaped[MED_UTF8_ESCAPE_CHAR_MAX];
        size_t used;
        size_t length = med_utf8_escape_char(escaped, bytes + at, count - at, &used);
        rc = med_buf_append(out, escaped, length);
        at += used;
    }
    return rc;
}

int med_openai_write_string(struct med_buf *out, const char *bytes, size_t count)
{
    int rc = PUT(out, "\"");
    if (rc == 0)
        rc = put_escaped(out, bytes, count);
    return rc == 0 ? PUT(out, "\"") : rc;
}

static int put_string(struct med_buf *out, const char *text)
{
    return med_openai_write_string(out, text, strlen(text));
}

static int put_u64(struct med_buf *out, uint64_t value)
{
    char digits[20];
    size_t n = sizeof(digits);
    do {
        digits[--n] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    return med_buf_append(out, digits + n, sizeof(digits) - n);
}

/* ---- what all answers share ---- */

static const char *finish_reason(const struct med_req *req)
{
    return req->outcome == MED_OUTCOME_LENGTH ? "length" : "stop";
}

static int put_head(const struct med_openai_style *style, const char *object, struct med_buf *out)
{
    bool chat = style->call->kind == MED_OPENAI_CHAT;
    int rc = chat ? PUT(out, "{\"id\":\"chatcmpl-") : PUT(out, "{\"id\":\"cmpl-");
    if (rc == 0)
        rc = put_escaped(out, style->id, strlen(style->id));
    if (rc == 0)
        rc = PUT(out, "\",\"object\":\"");
    if (rc == 0)
        rc = med_buf_append_str(out, object);
    if (rc == 0)
        rc = PUT(out, "\",\"created\":");
    if (rc == 0)
        rc = put_u64(out, (uint64_t)style->created_s);
    if (rc == 0)
        rc = PUT(out, ",\"model\":");
    if (rc == 0)
        rc = put_string(out, style->model);
    return rc == 0 ? PUT(out, ",\"choices\":[") : rc;
}

static const char *chunk_object(const struct med_openai_style *style)
{
    return style->call->kind == MED_OPENAI_CHAT ? "chat.completion.chunk" : "text_completion";
}

int med_openai_style_init(struct med_openai_style *style)
{
    med_buf_init(&style->head, HEAD_BYTES);
    if (!style->call->stream)
        return 0; // only chunks begin with it
    int rc = PUT(&style->head, "data: ");
    if (rc == 0)
        rc = put_head(style, chunk_object(style), &style->head);
    return rc == 0 ? PUT(&style->head, "{\"index\":") : rc;
}

void med_openai_style_release(struct med_openai_style *style)
{
    med_buf_release(&style->head);
}

static int put_usage(const struct med_openai_call *call, struct med_buf *out)
{
    uint64_t prompt = 0;
    uint64_t output = 0;
    uint64_t cached = 0;
    for (size_t i = 0; i < call->query_count; i++) {
        const struct med_query *query = call->queries[i];
        prompt += query->prompt_count;
        for (uint32_t c = 0; query->choices != NULL && c < query->choice_count; c++)
            output += query->choices[c].output_count;
        /* The first choice: the others may have found what it put there. */
        cached += query->choices != NULL ? query->choices[0].cached_tokens : 0;
    }
    int rc = PUT(out, "{\"prompt_tokens\":");
    if (rc == 0)
        rc = put_u64(out, prompt);
    if (rc == 0)
        rc = PUT(out, ",\"completion_tokens\":");
    if (rc == 0)
        rc = put_u64(out, output);
    if (rc == 0)
        rc = PUT(out, ",\"total_tokens\":");
    if (rc == 0)
        rc = put_u64(out, prompt + output);
    if (rc == 0)
        rc = PUT(out, ",\"prompt_tokens_details\":{\"cached_tokens\":");
    if (rc == 0)
        rc = put_u64(out, cached);
    return rc == 0 ? PUT(out, "}}") : rc;
}

/* "finish_reason" and the stop string that ended it, as members. */
static int put_ending(const struct med_req *req, struct med_buf *out)
{
    const char *stop = med_answer_stop(&req->answer);
    int rc = PUT(out, ",\"finish_reason\":\"");
    if (rc == 0)
        rc = med_buf_append_str(out, finish_reason(req));
    if (rc == 0)
        rc = PUT(out, "\",\"stop_reason\":");
    if (rc < 0)
        return rc;
    return stop != NULL ? put_string(out, stop) : PUT(out, "null");
}

static int put_token_ids(const struct med_req *req, size_t from, size_t to, struct med_buf *out)
{
    int rc = PUT(out, ",\"token_ids\":[");
    for (size_t i = from; rc == 0 && i < to; i++) {
        if (i > from)
            rc = PUT(out, ",");
        if (rc == 0)
            rc = put_u64(out, req->output[i]);
    }
    return rc == 0 ? PUT(out, "]") : rc;
}

/* ---- chunks ---- */

/* "delta" of a chat, "text" else. */
static int put_news(const struct med_openai_style *style, const struct med_openai_chunk *chunk,
                    struct med_buf *out)
{
    int rc;
    if (style->call->kind != MED_OPENAI_CHAT) {
        rc = PUT(out, ",\"text\":\"");
        if (rc == 0)
            rc = put_escaped(out, chunk->text, chunk->text_bytes);
        return rc == 0 ? PUT(out, "\"") : rc;
    }
    if (chunk->ends && chunk->text_bytes == 0 && !chunk->role)
        return PUT(out, ",\"delta\":{}");
    rc = chunk->role ? PUT(out, ",\"delta\":{\"role\":\"assistant\",\"content\":\"")
                     : PUT(out, ",\"delta\":{\"content\":\"");
    if (rc == 0)
        rc = put_escaped(out, chunk->text, chunk->text_bytes);
    return rc == 0 ? PUT(out, "\"}") : rc;
}

/* What comes behind the choices of a chunk. */
static int put_chunk_tail(const struct med_openai_call *call, struct med_buf *out)
{
    int rc;
    if (call->usage_always) {
        rc = PUT(out, "],\"usage\":");
        if (rc == 0)
            rc = put_usage(call, out);
        return rc == 0 ? PUT(out, "}\n\n") : rc;
    }
    return call->usage ? PUT(out, "],\"usage\":null}\n\n") : PUT(out, "]}\n\n");
}

int med_openai_write_chunk(const struct med_openai_style *style,
                           const struct med_openai_chunk *chunk, struct med_buf *out)
{
    const struct med_openai_call *call = style->call;
    struct med_req *req = chunk->req;
    MED_ASSERT(chunk->from <= chunk->to);
    MED_ASSERT(chunk->to <= req->output_count);
    int rc = med_buf_append(out, style->head.data, style->head.length);
    if (rc == 0)
        rc = put_u64(out, chunk->index);
    if (rc == 0)
        rc = put_news(style, chunk, out);
    if (rc == 0 && call->token_ids)
        rc = put_token_ids(req, chunk->from, chunk->to, out);
    if (rc == 0)
        rc = PUT(out, ",\"logprobs\":");
    if (rc == 0)
        rc = med_openai_write_logprobs(call, req, chunk->from, chunk->to, out);
    if (rc == 0)
        rc = chunk->ends ? put_ending(req, out) : PUT(out, ",\"finish_reason\":null");
    if (rc == 0)
        rc = PUT(out, "}");
    return rc == 0 ? put_chunk_tail(call, out) : rc;
}

int med_openai_write_usage(const struct med_openai_style *style, struct med_buf *out)
{
    int rc = PUT(out, "data: ");
    if (rc == 0)
        rc = put_head(style, chunk_object(style), out);
    if (rc == 0)
        rc = PUT(out, "],\"usage\":");
    if (rc == 0)
        rc = put_usage(style->call, out);
    return rc == 0 ? PUT(out, "}\n\n") : rc;
}

/* ---- the whole answer ---- */

static int put_choice(const struct med_openai_style *style, struct med_req *req, uint32_t index,
                      struct med_buf *out)
{
    const struct med_openai_call *call = style->call;
    const struct med_buf *text = &req->answer.text;
    bool chat = call->kind == MED_OPENAI_CHAT;
    int rc = index > 0 ? PUT(out, ",{\"index\":") : PUT(out, "{\"index\":");
    if (rc == 0)
        rc = put_u64(out, index);
    if (rc == 0) {
        rc = chat ? PUT(out, ",\"message\":{\"role\":\"assistant\",\"content\":")
                  : PUT(out, ",\"text\":");
    }
    if (rc == 0)
        rc = med_openai_write_string(out, text->data, text->length);
    if (rc == 0 && chat)
        rc = PUT(out, ",\"refusal\":null}");
    if (rc == 0 && call->token_ids)
        rc = put_token_ids(req, 0, req->output_count, out);
    if (rc == 0)
        rc = PUT(out, ",\"logprobs\":");
    if (rc == 0)
        rc = med_openai_write_logprobs(call, req, 0, req->output_count, out);
    if (rc == 0)
        rc = put_ending(req, out);
    return rc == 0 ? PUT(out, "}") : rc;
}

int med_openai_write_answer(const struct med_openai_style *style, struct med_buf *out)
{
    const struct med_openai_call *call = style->call;
    uint32_t index = 0;
    int rc =
        put_head(style, call->kind == MED_OPENAI_CHAT ? "chat.completion" : "text_completion", out);
    for (size_t i = 0; i < call->query_count; i++) {
        struct med_query *query = call->queries[i];
        for (uint32_t c = 0; rc == 0 && c < query->choice_count; c++)
            rc = put_choice(style, &query->choices[c], index++, out);
    }
    if (rc == 0)
        rc = PUT(out, "],\"usage\":");
    if (rc == 0)
        rc = put_usage(call, out);
    return rc == 0 ? PUT(out, "}\n") : rc;
}

/* ---- errors ---- */

int med_openai_write_error(const struct med_openai_error *error, bool as_event, struct med_buf *out)
{
    int rc = as_event ? PUT(out, "data: {\"error\":{\"message\":")
                      : PUT(out, "{\"error\":{\"message\":");
    if (rc == 0)
        rc = put_string(out, error->message);
    if (rc == 0)
        rc = PUT(out, ",\"type\":");
    if (rc == 0)
        rc = put_string(out, error->type);
    if (rc == 0)
        rc = PUT(out, ",\"param\":");
    if (rc == 0)
        rc = error->param[0] != '\0' ? put_string(out, error->param) : PUT(out, "null");
    if (rc == 0)
        rc = PUT(out, ",\"code\":");
    if (rc == 0)
        rc = put_string(out, error->name);
    if (rc == 0)
        rc = PUT(out, "}}");
    if (rc == 0)
        rc = as_event ? PUT(out, "\n\n") : PUT(out, "\n");
    return rc;
}
