/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers to messages of medley.v1, see grpc_codec.h.
 *
 * Packing borrows the request's arrays: nothing is copied but into the packed bytes.  Texts are
 * appended by hand: they may hold zero bytes, where protobuf-c's strings end; the fields of a
 * message may come in any order.  Runs on the loop. It includes no gRPC header.
 */
#include "router/grpc_codec.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "inference.pb-c.h"
#include "proto/lend.h"

#include <string.h>

enum {
    TAG_CHOICE_TEXT = 2,      /* Choice.text */
    TAG_CHUNK_TEXT = 8,       /* GenerateChunk.text */
    TAG_RESPONSE_CHOICES = 2, /* GenerateResponse.choices */
    VARINT_MAX = 10,
    WIRE_BYTES = 2
};

static Medley__V1__FinishReason finish_reason(const struct med_req *req)
{
    MED_ASSERT(req->ended);
    MED_ASSERT(req->end_code == 0);
    return req->outcome == MED_OUTCOME_STOP ? MEDLEY__V1__FINISH_REASON__FINISH_REASON_STOP
                                            : MEDLEY__V1__FINISH_REASON__FINISH_REASON_LENGTH;
}

static int pack(const ProtobufCMessage *message, struct med_buf *out)
{
    size_t bytes = protobuf_c_message_get_packed_size(message);
    int rc = med_buf_reserve(out, bytes);
    if (rc < 0)
        return rc;
    size_t written = protobuf_c_message_pack(message, (uint8_t *)out->data + out->length);
    MED_ASSERT(written == bytes);
    out->length += bytes;
    out->data[out->length] = '\0';
    return 0;
}

static size_t varint(uint64_t value, unsigned char out[VARINT_MAX])
{
    size_t n = 0;
    for (; value >= 0x80; value >>= 7)
        out[n++] = (unsigned char)(value | 0x80);
    out[n++] = (unsigned char)value;
    return n;
}

/* Appends the head of a field of `bytes` bytes. */
static int put_head(unsigned tag, size_t bytes, struct med_buf *out)
{
    unsigned char head[2 * VARINT_MAX];
    size_t n = varint((uint64_t)tag << 3 | WIRE_BYTES, head);
    n += varint(bytes, head + n);
    return med_buf_append(out, head, n);
}

static int put_text(unsigned tag, const char *text, size_t bytes, struct med_buf *out)
{
    if (bytes == 0)
        return 0;
    int rc = put_head(tag, bytes, out);
    return rc < 0 ? rc : med_buf_append(out, text, bytes);
}

/* ---- logprobs ---- */

/* Rows of some output tokens as messages, in one allocation each. */
struct logprobs {
    Medley__V1__Logprobs *messages;
    Medley__V1__Logprobs **list;
    Medley__V1__TokenLogprob *rows;
    Medley__V1__TokenLogprob **row_list;
    struct med_buf spellings;
    size_t count;
};

static void logprobs_release(struct logprobs *l)
{
    med_free(l->messages);
    med_free(l->list);
    med_free(l->rows);
    med_free(l->row_list);
    med_buf_release(&l->spellings);
}

/* The bytes of each row's token, one after the other; rows point there when all are known. */
static int spell(const struct med_req *req, struct logprobs *l, size_t rows)
{
    const struct med_tokenizer *tokenizer = req->answer.options.tokenizer;
    for (size_t i = 0; tokenizer != NULL && i < rows; i++) {
        size_t before = l->spellings.length;
        int rc = med_tokenizer_token_bytes(tokenizer, l->rows[i].id, &l->spellings);
        if (rc < 0)
            return rc;
        l->rows[i].token.len = l->spellings.length - before;
    }
    uint8_t *at = (uint8_t *)l->spellings.data;
    for (size_t i = 0; tokenizer != NULL && i < rows; i++) {
        l->rows[i].token.data = at;
        at += l->rows[i].token.len;
    }
    return 0;
}

/* Of output tokens from..to-1, if the client asked for them. */
static int logprobs_make(const struct med_req *req, size_t from, size_t to, struct logprobs *l)
{
    size_t rows = med_req_logprob_rows(req);
    size_t count = to - from;
    *l = (struct logprobs){0};
    med_buf_init(&l->spellings, MED_LIMIT_ANSWER_BYTES);
    if (rows == 0 || count == 0 || req->logprobs == NULL)
        return 0;
    l->messages = med_calloc(count, sizeof(*l->messages));
    l->list = med_calloc(count, sizeof(Medley__V1__Logprobs *));
    l->rows = med_calloc(count * rows, sizeof(*l->rows));
    l->row_list = med_calloc(count * rows, sizeof(Medley__V1__TokenLogprob *));
    if (l->messages == NULL || l->list == NULL || l->rows == NULL || l->row_list == NULL)
        return MED_E_NOMEM;
    l->count = count;
    for (size_t i = 0; i < count * rows; i++) {
        const struct med_req_logprob *row = &req->logprobs[from * rows + i];
        medley__v1__token_logprob__init(&l->rows[i]);
        l->rows[i].id = row->id;
        l->rows[i].logprob = row->logprob;
        l->row_list[i] = &l->rows[i];
    }
    for (size_t i = 0; i < count; i++) {
        medley__v1__logprobs__init(&l->messages[i]);
        l->messages[i].chosen = &l->rows[i * rows];
        l->messages[i].top = &l->row_list[i * rows + 1];
        while (l->messages[i].n_top + 1 < rows &&
               l->rows[i * rows + 1 + l->messages[i].n_top].logprob <= 0)
            l->messages[i].n_top++;
        l->list[i] = &l->messages[i];
    }
    return spell(req, l, count * rows);
}

/* ---- messages ---- */

static void fill_usage(const struct med_query *query, Medley__V1__Usage *usage)
{
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < query->choice_count; i++)
        tokens += query->choices[i].output_count;
    usage->prompt_tokens = (uint32_t)query->prompt_count;
    usage->completion_tokens = (uint32_t)tokens;
    /* The first choice: the others may have found what it put there. */
    usage->cached_tokens = query->choices[0].cached_tokens;
}

/* A Choice with its text, as a field of the response. */
static int put_choice(const struct med_req *req, struct med_buf *choice, struct med_buf *out)
{
    Medley__V1__TokenIds tokens = MEDLEY__V1__TOKEN_IDS__INIT;
    Medley__V1__Choice message = MEDLEY__V1__CHOICE__INIT;
    struct logprobs logprobs;
    const char *stop = med_answer_stop(&req->answer);

    tokens.n_ids = req->output_count;
    tokens.ids = req->output;
    message.index = req->index;
    message.tokens = &tokens;
    message.finish_reason = finish_reason(req);
    if (stop != NULL)
        message.stop = med_proto_lend(stop);
    int rc = logprobs_make(req, 0, req->output_count, &logprobs);
    message.n_logprobs = logprobs.count;
    message.logprobs = logprobs.list;
    med_buf_clear(choice);
    if (rc == 0)
        rc = pack(&message.base, choice);
    if (rc == 0)
        rc = put_text(TAG_CHOICE_TEXT, req->answer.text.data, req->answer.text.length, choice);
    logprobs_release(&logprobs);
    if (rc == 0)
        rc = put_head(TAG_RESPONSE_CHOICES, choice->length, out);
    return rc < 0 ? rc : med_buf_append(out, choice->data, choice->length);
}

int med_grpc_codec_write_response(const struct med_query *query, struct med_buf *out)
{
    Medley__V1__Usage usage = MEDLEY__V1__USAGE__INIT;
    Medley__V1__GenerateResponse message = MEDLEY__V1__GENERATE_RESPONSE__INIT;

    fill_usage(query, &usage);
    message.request_id = med_proto_lend(query->request_id);
    message.usage = &usage;
    message.worker_type = med_proto_lend(query->choices[0].worker_type);
    int rc = pack(&message.base, out);
    struct med_buf choice;
    med_buf_init(&choice, out->max_bytes);
    for (uint32_t i = 0; rc == 0 && i < query->choice_count; i++)
        rc = put_choice(&query->choices[i], &choice, out);
    med_buf_release(&choice);
    return rc;
}

int med_grpc_codec_write_chunk(const struct med_grpc_chunk *chunk, struct med_buf *out)
{
    const struct med_req *req = chunk->req;
    Medley__V1__TokenIds tokens = MEDLEY__V1__TOKEN_IDS__INIT;
    Medley__V1__Usage usage = MEDLEY__V1__USAGE__INIT;
    Medley__V1__GenerateChunk message = MEDLEY__V1__GENERATE_CHUNK__INIT;
    struct logprobs logprobs;

    MED_ASSERT(chunk->from <= chunk->to);
    MED_ASSERT(chunk->to <= req->output_count);
    tokens.n_ids = chunk->to - chunk->from;
    tokens.ids = tokens.n_ids > 0 ? req->output + chunk->from : NULL;
    message.request_id = med_proto_lend(req->query->request_id);
    message.position = (uint32_t)chunk->from;
    message.tokens = &tokens;
    message.worker_type = med_proto_lend(req->worker_type);
    message.index = req->index;
    if (chunk->ends) {
        const char *stop = med_answer_stop(&req->answer);
        message.finish_reason = finish_reason(req);
        if (stop != NULL)
            message.stop = med_proto_lend(stop);
    }
    if (chunk->usage) {
        fill_usage(req->query, &usage);
        message.usage = &usage;
    }
    int rc = logprobs_make(req, chunk->from, chunk->to, &logprobs);
    message.n_logprobs = logprobs.count;
    message.logprobs = logprobs.list;
    if (rc == 0)
        rc = pack(&message.base, out);
    logprobs_release(&logprobs);
    return rc < 0 ? rc : put_text(TAG_CHUNK_TEXT, chunk->text, chunk->text_bytes, out);
}
