/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of medley.v1 to struct med_req and back, see grpc_codec.h.
 *
 * Packing borrows the request's arrays: nothing is copied but into the packed bytes.  Unpacking runs
 * on the capped allocator.  Runs on the loop. It includes no gRPC header.
 */
#include "router/grpc_codec.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "inference.pb-c.h"
#include "proto/unpack.h"

#include <string.h>

static void read_sampling(const Medley__V1__Sampling *from, struct med_req_sampling *to)
{
    if (from == NULL)
        return;
    to->has_temperature =
        from->temperature_value_case == MEDLEY__V1__SAMPLING__TEMPERATURE_VALUE_TEMPERATURE;
    to->has_top_p = from->top_p_value_case == MEDLEY__V1__SAMPLING__TOP_P_VALUE_TOP_P;
    to->has_top_k = from->top_k_value_case == MEDLEY__V1__SAMPLING__TOP_K_VALUE_TOP_K;
    to->has_seed = from->seed_value_case == MEDLEY__V1__SAMPLING__SEED_VALUE_SEED;
    if (to->has_temperature)
        to->temperature = from->temperature;
    if (to->has_top_p)
        to->top_p = from->top_p;
    if (to->has_top_k)
        to->top_k = from->top_k;
    if (to->has_seed)
        to->seed = from->seed;
    to->ignore_eos = from->ignore_eos != 0;
}

/* The arrays of `from` are on loan: they are copied. */
static int read_fields(const Medley__V1__GenerateRequest *from, struct med_req *req,
                       struct med_err *err)
{
    if (from->input_case != MEDLEY__V1__GENERATE_REQUEST__INPUT_TOKENS || from->tokens == NULL)
        return med_err_set(err, MED_E_INVALID, "input: found none, expected tokens");
    size_t id_bytes = strlen(from->request_id);
    if (id_bytes > MED_LIMIT_REQUEST_ID_BYTES) {
        return med_err_set(err, MED_E_INVALID, "request_id: found %zu bytes, expected at most %d",
                           id_bytes, MED_LIMIT_REQUEST_ID_BYTES);
    }
    memcpy(req->request_id, from->request_id, id_bytes + 1);
    req->model = med_strdup(from->model);
    req->prompt_count = from->tokens->n_ids;
    req->prompt = med_alloc(req->prompt_count * sizeof(*req->prompt));
    if (req->model == NULL || req->prompt == NULL)
        return med_err_set(err, MED_E_NOMEM, "%s", med_err_text(MED_E_NOMEM));
    if (req->prompt_count > 0)
        memcpy(req->prompt, from->tokens->ids, req->prompt_count * sizeof(*req->prompt));
    req->tokens_max = from->max_tokens;
    req->emulated_output_tokens = from->emulated_output_tokens;
    read_sampling(from->sampling, &req->sampling);
    return 0;
}

int med_grpc_codec_read_generate(const void *bytes, size_t count, struct med_req *req,
                                 struct med_err *err)
{
    struct med_unpack_budget budget;
    ProtobufCAllocator allocator = med_unpack_allocator(&budget, count + 1);
    Medley__V1__GenerateRequest *message =
        medley__v1__generate_request__unpack(&allocator, count, bytes);
    if (message == NULL) {
        return med_err_set(err, MED_E_INVALID,
                           "the message of %zu bytes is not a medley.v1.GenerateRequest", count);
    }
    int rc = read_fields(message, req, err);
    medley__v1__generate_request__free_unpacked(message, &allocator);
    return rc;
}

static Medley__V1__FinishReason finish_reason(const struct med_req *req)
{
    MED_ASSERT(req->ended);
    MED_ASSERT(req->end_code == 0);
    return req->outcome == MED_OUTCOME_STOP ? MEDLEY__V1__FINISH_REASON__FINISH_REASON_STOP
                                            : MEDLEY__V1__FINISH_REASON__FINISH_REASON_LENGTH;
}

/* protobuf-c's strings are not const; packing only reads them. */
static char *lend(const char *s)
{
    union {
        const char *from;
        char *to;
    } both = {.from = s};
    return both.to;
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

int med_grpc_codec_write_response(const struct med_req *req, struct med_buf *out)
{
    Medley__V1__TokenIds tokens = MEDLEY__V1__TOKEN_IDS__INIT;
    Medley__V1__Usage usage = MEDLEY__V1__USAGE__INIT;
    Medley__V1__GenerateResponse message = MEDLEY__V1__GENERATE_RESPONSE__INIT;

    Medley__V1__Choice choice = MEDLEY__V1__CHOICE__INIT;
    Medley__V1__Choice *choices[] = {&choice};

    tokens.n_ids = req->output_count;
    tokens.ids = req->output;
    choice.tokens = &tokens;
    choice.finish_reason = finish_reason(req);
    usage.prompt_tokens = (uint32_t)req->prompt_count;
    usage.completion_tokens = (uint32_t)req->output_count;
    message.request_id = lend(req->request_id);
    message.n_choices = 1;
    message.choices = choices;
    message.usage = &usage;
    message.worker_type = lend(req->worker_type);
    return pack(&message.base, out);
}

int med_grpc_codec_write_chunk(const struct med_req *req, size_t from, size_t to, bool last,
                               struct med_buf *out)
{
    Medley__V1__TokenIds tokens = MEDLEY__V1__TOKEN_IDS__INIT;
    Medley__V1__Usage usage = MEDLEY__V1__USAGE__INIT;
    Medley__V1__GenerateChunk message = MEDLEY__V1__GENERATE_CHUNK__INIT;

    MED_ASSERT(from <= to);
    MED_ASSERT(to <= req->output_count);
    tokens.n_ids = to - from;
    tokens.ids = from < to ? req->output + from : NULL;
    message.request_id = lend(req->request_id);
    message.position = (uint32_t)from;
    message.tokens = &tokens;
    message.worker_type = lend(req->worker_type);
    if (last) {
        usage.prompt_tokens = (uint32_t)req->prompt_count;
        usage.completion_tokens = (uint32_t)req->output_count;
        message.finish_reason = finish_reason(req);
        message.usage = &usage;
    }
    return pack(&message.base, out);
}
