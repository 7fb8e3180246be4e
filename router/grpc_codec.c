/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GenerateRequest to struct med_query, see grpc_codec.h.
 *
 * Unpacking runs on the capped allocator.  protobuf-c's strings end at a zero byte; so that no text
 * is cut in silence, the packed message is walked once, by its own descriptor, and a string with a
 * zero byte is refused.  Runs on the loop. It includes no gRPC header.
 */
#include "router/grpc_codec.h"

#include "base/alloc.h"
#include "inference.pb-c.h"
#include "proto/unpack.h"

#include <stdio.h>
#include <string.h>

/* ---- zero bytes ---- */

enum {
    FIELD_MAX = 128,
    WIRE_VARINT = 0,
    WIRE_FIXED64 = 1,
    WIRE_BYTES = 2,
    WIRE_FIXED32 = 5
};

struct wire {
    const uint8_t *at, *end;
};

static bool wire_varint(struct wire *wire, uint64_t *ret_value)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && wire->at < wire->end; shift += 7) {
        uint8_t byte = *wire->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *ret_value = value;
            return true;
        }
    }
    return false;
}

/* The next field; *ret_value lies in the message for WIRE_BYTES, else it is empty. False: the end,
 * or what protobuf-c does not read either. */
static bool wire_next(struct wire *wire, unsigned *ret_id, struct wire *ret_value)
{
    uint64_t key;
    uint64_t bytes = 0;
    if (!wire_varint(wire, &key))
        return false;
    unsigned type = key & 7;
    bool ok = true;
    if (type == WIRE_VARINT) {
        ok = wire_varint(wire, &bytes);
        bytes = 0;
    } else if (type == WIRE_BYTES) {
        ok = wire_varint(wire, &bytes);
    } else {
        bytes = type == WIRE_FIXED64 ? 8 : 4;
        ok = type == WIRE_FIXED64 || type == WIRE_FIXED32;
    }
    if (!ok || bytes > (uint64_t)(wire->end - wire->at))
        return false;
    *ret_id = (unsigned)(key >> 3);
    *ret_value = (struct wire){wire->at, wire->at + (type == WIRE_BYTES ? bytes : 0)};
    wire->at += bytes;
    return true;
}

/* Looks for a zero byte in a string of the message; the depth is that of the schema. */
static int check_zeros(struct wire wire, const ProtobufCMessageDescriptor *type, const char *prefix,
                       struct med_err *err)
{
    unsigned id;
    struct wire value;
    while (wire_next(&wire, &id, &value)) {
        const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field(type, id);
        if (field == NULL || value.at == value.end)
            continue;
        char name[FIELD_MAX];
        (void)snprintf(name, sizeof(name), "%s%s", prefix, field->name);
        if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
            char inner[FIELD_MAX + 1];
            (void)snprintf(inner, sizeof(inner), "%s.", name);
            int rc = check_zeros(value, field->descriptor, inner, err);
            if (rc < 0)
                return rc;
        } else if (field->type == PROTOBUF_C_TYPE_STRING) {
            const uint8_t *zero = memchr(value.at, 0, (size_t)(value.end - value.at));
            if (zero != NULL) {
                return med_err_set(err, MED_E_INVALID,
                                   "%s: found a zero byte at position %td, expected text without",
                                   name, zero - value.at);
            }
        }
    }
    return 0;
}

/* ---- sampling ---- */

static void read_sampling_values(const Medley__V1__Sampling *from, struct med_req_sampling *to)
{
    to->has_temperature =
        from->temperature_value_case == MEDLEY__V1__SAMPLING__TEMPERATURE_VALUE_TEMPERATURE;
    to->has_top_p = from->top_p_value_case == MEDLEY__V1__SAMPLING__TOP_P_VALUE_TOP_P;
    to->has_top_k = from->top_k_value_case == MEDLEY__V1__SAMPLING__TOP_K_VALUE_TOP_K;
    to->has_seed = from->seed_value_case == MEDLEY__V1__SAMPLING__SEED_VALUE_SEED;
    to->has_min_p = from->min_p_value_case == MEDLEY__V1__SAMPLING__MIN_P_VALUE_MIN_P;
    to->has_repetition_penalty = from->repetition_penalty_value_case ==
                                 MEDLEY__V1__SAMPLING__REPETITION_PENALTY_VALUE_REPETITION_PENALTY;
    to->has_logprobs = from->logprobs_value_case == MEDLEY__V1__SAMPLING__LOGPROBS_VALUE_LOGPROBS;
    to->keep_special = from->skip_special_tokens_value_case ==
                           MEDLEY__V1__SAMPLING__SKIP_SPECIAL_TOKENS_VALUE_SKIP_SPECIAL_TOKENS &&
                       !from->skip_special_tokens;
    /* What is not set is not to be looked at: its memory holds another member's default. */
    to->temperature = to->has_temperature ? from->temperature : 0;
    to->top_p = to->has_top_p ? from->top_p : 0;
    to->top_k = to->has_top_k ? from->top_k : 0;
    to->seed = to->has_seed ? from->seed : 0;
    to->min_p = to->has_min_p ? from->min_p : 0;
    to->repetition_penalty = to->has_repetition_penalty ? from->repetition_penalty : 0;
    to->logprobs = to->has_logprobs ? from->logprobs : 0;
    to->presence_penalty = from->presence_penalty;
    to->frequency_penalty = from->frequency_penalty;
    to->min_tokens = from->min_tokens;
    to->ignore_eos = from->ignore_eos != 0;
    to->include_stop = from->include_stop != 0;
}

/* The arrays of `from` are on loan: they are copied. */
static int read_sampling(const Medley__V1__Sampling *from, struct med_req_sampling *to)
{
    if (from == NULL)
        return 0;
    read_sampling_values(from, to);
    to->bias_ids = med_calloc(from->n_logit_bias, sizeof(*to->bias_ids));
    to->biases = med_calloc(from->n_logit_bias, sizeof(*to->biases));
    to->stops = med_calloc(from->n_stop, sizeof(*to->stops));
    to->stop_ids = med_calloc(from->n_stop_token_ids, sizeof(*to->stop_ids));
    if (to->bias_ids == NULL || to->biases == NULL || to->stops == NULL || to->stop_ids == NULL)
        return MED_E_NOMEM;
    for (size_t i = 0; i < from->n_logit_bias; i++) {
        to->bias_ids[i] = from->logit_bias[i]->id;
        to->biases[i] = from->logit_bias[i]->bias;
    }
    to->bias_count = from->n_logit_bias;
    if (from->n_stop_token_ids > 0)
        memcpy(to->stop_ids, from->stop_token_ids, from->n_stop_token_ids * sizeof(*to->stop_ids));
    to->stop_id_count = from->n_stop_token_ids;
    for (; to->stop_count < from->n_stop; to->stop_count++) {
        to->stops[to->stop_count] = med_strdup(from->stop[to->stop_count]);
        if (to->stops[to->stop_count] == NULL)
            return MED_E_NOMEM;
    }
    return 0;
}

/* ---- input ---- */

static int read_chat(const Medley__V1__Chat *from, struct med_input *to)
{
    to->kind = MED_INPUT_CHAT;
    to->add_generation_prompt =
        from->add_generation_prompt_value_case !=
            MEDLEY__V1__CHAT__ADD_GENERATION_PROMPT_VALUE_ADD_GENERATION_PROMPT ||
        from->add_generation_prompt;
    to->messages = med_calloc(from->n_messages, sizeof(*to->messages));
    if (to->messages == NULL)
        return MED_E_NOMEM;
    for (; to->message_count < from->n_messages; to->message_count++) {
        struct med_chat_message *message = &to->messages[to->message_count];
        message->role = med_strdup(from->messages[to->message_count]->role);
        message->content = med_strdup(from->messages[to->message_count]->content);
        if (message->role == NULL || message->content == NULL) {
            to->message_count++; // what there is of it is freed with the rest
            return MED_E_NOMEM;
        }
        message->content_bytes = strlen(message->content);
    }
    return 0;
}

static int read_input(const Medley__V1__GenerateRequest *from, struct med_query *query)
{
    struct med_input *input = &query->input;
    switch (from->input_case) {
    case MEDLEY__V1__GENERATE_REQUEST__INPUT_TOKENS:
        input->kind = MED_INPUT_TOKENS;
        query->prompt_count = from->tokens->n_ids;
        query->prompt = med_alloc(query->prompt_count * sizeof(*query->prompt));
        if (query->prompt == NULL)
            return MED_E_NOMEM;
        if (query->prompt_count > 0)
            memcpy(query->prompt, from->tokens->ids, query->prompt_count * sizeof(*query->prompt));
        return 0;
    case MEDLEY__V1__GENERATE_REQUEST__INPUT_TEXT:
        input->kind = MED_INPUT_TEXT;
        input->text = med_strdup(from->text);
        if (input->text == NULL)
            return MED_E_NOMEM;
        input->text_bytes = strlen(input->text);
        return 0;
    case MEDLEY__V1__GENERATE_REQUEST__INPUT_CHAT:
        return read_chat(from->chat, input);
    default:
        input->kind = MED_INPUT_NONE;
        return 0;
    }
}

static int read_fields(const Medley__V1__GenerateRequest *from, struct med_query *query,
                       struct med_err *err)
{
    size_t id_bytes = strlen(from->request_id);
    if (id_bytes > MED_LIMIT_REQUEST_ID_BYTES) {
        return med_err_set(err, MED_E_INVALID, "request_id: found %zu bytes, expected at most %d",
                           id_bytes, MED_LIMIT_REQUEST_ID_BYTES);
    }
    memcpy(query->request_id, from->request_id, id_bytes + 1);
    if (strlen(from->user) > MED_LIMIT_USER_BYTES) {
        return med_err_set(err, MED_E_INVALID, "user: found %zu bytes, expected at most %d",
                           strlen(from->user), MED_LIMIT_USER_BYTES);
    }
    query->tokens_max = from->max_tokens;
    query->priority = from->priority;
    query->choice_count = from->n;
    query->echo = from->echo != 0;
    query->emulated_output_tokens = from->emulated_output_tokens;
    query->model = med_strdup(from->model);
    if (from->user[0] != '\0')
        query->user = med_strdup(from->user);
    bool copied = query->model != NULL && (query->user != NULL || from->user[0] == '\0');
    int rc = copied ? read_input(from, query) : MED_E_NOMEM;
    if (rc == 0)
        rc = read_sampling(from->sampling, &query->sampling);
    return rc < 0 ? med_err_set(err, rc, "%s", med_err_text(rc)) : 0;
}

int med_grpc_codec_read_generate(const void *bytes, size_t count, struct med_query *query,
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
    int rc = 0;
    if (count > 0 && memchr(bytes, 0, count) != NULL) {
        struct wire wire = {bytes, (const uint8_t *)bytes + count};
        rc = check_zeros(wire, &medley__v1__generate_request__descriptor, "", err);
    }
    if (rc == 0)
        rc = read_fields(message, query, err);
    medley__v1__generate_request__free_unpacked(message, &allocator);
    return rc;
}
