/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the load test's HTTP client sends, see http_request.h.
 *
 * Head and the body's beginning are the same for every request and made once; the length stands in the
 * head, which is written in front of the body when that is there.
 * thread: any; pure.
 */
#include "router/bench/http_request.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    HEAD_MAX_BYTES = 2048
};

/* ---- what is checked ---- */

int med_bench_http_url(const char *url, char host[MED_BENCH_HOST_MAX], const char **ret_prefix,
                       struct med_err *err)
{
    bool tls = strncmp(url, "https://", 8) == 0;
    if (!tls && strncmp(url, "http://", 7) != 0)
        return med_err_set(err, MED_E_USAGE, "--url %s: expected http://HOST:PORT", url);
    const char *from = url + (tls ? 8 : 7);
    size_t length = strcspn(from, "/");
    if (length == 0 || length > 240 || strpbrk(from, " \r\n@?#"))
        return med_err_set(err, MED_E_USAGE, "--url %s: expected http://HOST:PORT", url);
    memcpy(host, from, length);
    host[length] = '\0';
    *ret_prefix = from + length;
    return 0;
}

int med_bench_http_check_model(const char *model, struct med_err *err)
{
    for (const char *c = model; c && *c; c++) {
        if ((unsigned char)*c < ' ' || *c == '"' || *c == '\\')
            return med_err_set(err, MED_E_USAGE, "--model %s: not the name of a model", model);
    }
    return 0;
}

/* ---- what all requests have in common ---- */

static int put_open(const struct med_bench_http_config *c, struct med_buf *out)
{
    int rc = med_buf_append_str(out, "{");
    if (rc >= 0 && c->model) { // quotes and backslashes are refused before
        rc = med_buf_printf(out, "\"model\":\"%s\",", c->model);
    }
    if (rc >= 0 && c->stream) {
        rc =
            med_buf_append_str(out, "\"stream\":true,\"stream_options\":{\"include_usage\":true},");
    }
    if (rc >= 0 && c->ignore_eos)
        rc = med_buf_append_str(out, "\"ignore_eos\":true,");
    if (rc >= 0) {
        rc = med_buf_append_str(out, c->chat ? "\"messages\":[{\"role\":\"user\",\"content\":"
                                             : "\"prompt\":");
    }
    return rc;
}

static int put_head(const struct med_bench_http_config *c, const char *host, const char *prefix,
                    struct med_buf *out)
{
    size_t length = strlen(prefix);
    while (length > 0 && prefix[length - 1] == '/')
        length--;
    bool has_version = length >= 3 && memcmp(prefix + length - 3, "/v1", 3) == 0;
    int rc = med_buf_printf(out,
                            "POST %.*s%s/%s HTTP/1.1\r\nHost: %s\r\nUser-Agent: medley-bench\r\n"
                            "Accept: */*\r\nContent-Type: application/json\r\n",
                            (int)length, prefix, has_version ? "" : "/v1",
                            c->chat ? "chat/completions" : "completions", host);
    if (rc >= 0 && c->key)
        rc = med_buf_printf(out, "Authorization: Bearer %s\r\n", c->key);
    return rc < 0 ? rc : med_buf_append_str(out, "Content-Length: ");
}

int med_bench_http_texts_make(const struct med_bench_http_config *config, const char *host,
                              const char *prefix, struct med_bench_http_texts *ret_texts)
{
    struct med_buf head, open;
    med_buf_init(&head, HEAD_MAX_BYTES);
    med_buf_init(&open, HEAD_MAX_BYTES);
    int rc = put_head(config, host, prefix, &head);
    if (rc >= 0)
        rc = put_open(config, &open);
    if (rc >= 0) {
        *ret_texts = (struct med_bench_http_texts){.head = med_buf_take(&head),
                                                   .open = med_buf_take(&open),
                                                   .chat = config->chat,
                                                   .words = config->words,
                                                   .letters = config->letters};
    }
    med_buf_release(&head);
    med_buf_release(&open);
    return rc;
}

void med_bench_http_texts_release(struct med_bench_http_texts *texts)
{
    med_free(texts->head);
    med_free(texts->open);
    *texts = (struct med_bench_http_texts){0};
}

/* ---- one request ---- */

static int put_word(struct med_buf *out, uint32_t id)
{
    /* Words of two syllables: a token or two each in most vocabularies. */
    static const char *const syllables[] = {"ba", "de", "fi", "go", "hu", "ka", "le", "mi",
                                            "no", "pu", "ra", "se", "ti", "vo", "wu", "za"};
    char word[8];
    int n = snprintf(word, sizeof(word), "%s%s ", syllables[id & 15], syllables[id >> 4 & 15]);
    return med_buf_append(out, word, (size_t)n);
}

/* " a": one token in the vocabularies that people use, two where bytes are tokens; never more or
 * fewer, whatever stands beside it. */
static int put_letter(struct med_buf *out, uint32_t id)
{
    const char text[2] = {' ', (char)('a' + id % 26)};
    return med_buf_append(out, text, sizeof(text));
}

static int put_ids(struct med_buf *out, const uint32_t *ids, size_t count)
{
    int rc = med_buf_reserve(out, count * 11 + 1);
    for (size_t i = 0; i < count && rc >= 0; i++) {
        char digits[12];
        size_t at = sizeof(digits);
        uint32_t id = ids[i];
        digits[--at] = ',';
        do {
            digits[--at] = (char)('0' + id % 10);
            id /= 10;
        } while (id);
        rc = med_buf_append(out, digits + at, sizeof(digits) - at);
    }
    if (rc >= 0 && count > 0)
        out->length--; // the last comma
    return rc;
}

static int put_prompt(const struct med_bench_http_texts *texts,
                      const struct med_bench_request *request, struct med_buf *out)
{
    if (!texts->words && !texts->chat && !texts->letters) {
        int rc = med_buf_append_str(out, "[");
        if (rc >= 0)
            rc = put_ids(out, request->prompt, request->prompt_count);
        return rc < 0 ? rc : med_buf_append_str(out, "]");
    }
    int rc = med_buf_append_str(out, "\"");
    for (size_t i = 0; i < request->prompt_count && rc >= 0; i++) {
        rc = texts->letters ? put_letter(out, request->prompt[i])
                            : put_word(out, request->prompt[i]);
    }
    return rc < 0 ? rc : med_buf_append_str(out, "\"");
}

static int put_body(const struct med_bench_http_texts *texts,
                    const struct med_bench_request *request, struct med_buf *out)
{
    int rc = med_buf_append_str(out, texts->open);
    if (rc >= 0)
        rc = put_prompt(texts, request, out);
    if (rc >= 0) {
        rc = med_buf_printf(out, "%s,\"max_tokens\":%" PRIu32 ",\"seed\":%" PRIu64,
                            texts->chat ? "}]" : "", request->max_tokens,
                            request->seed & INT64_C(0x1fffffffffffff));
    }
    if (rc >= 0 && request->output_tokens)
        rc = med_buf_printf(out, ",\"emulated_output_tokens\":%" PRIu32, request->output_tokens);
    return rc < 0 ? rc : med_buf_append_str(out, "}");
}

/* The head is written in front once the length of the body is known: room is kept for it. */
int med_bench_http_fill(const struct med_bench_http_texts *texts,
                        const struct med_bench_request *request, struct med_buf *out)
{
    enum {
        TAIL = 128
    };
    size_t head_bytes = strlen(texts->head), room = head_bytes + TAIL;
    med_buf_clear(out);
    int rc = med_buf_reserve(out, room);
    if (rc < 0)
        return rc;
    out->length = room;
    rc = put_body(texts, request, out);
    if (rc < 0)
        return rc;
    char tail[TAIL];
    int n = snprintf(tail, sizeof(tail), "%zu\r\nx-request-id: %.60s\r\n\r\n", out->length - room,
                     request->id);
    MED_ASSERT(n > 0 && n < TAIL);
    size_t from = room - head_bytes - (size_t)n;
    memcpy(out->data + from, texts->head, head_bytes);
    memcpy(out->data + from + head_bytes, tail, (size_t)n);
    med_buf_consume(out, from);
    return 0;
}
