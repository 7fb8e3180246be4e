/* SPDX-License-Identifier: Apache-2.0 */
/*
 * grpc.reflection, v1 and v1alpha, so that grpcurl and other clients can ask what is served.
 *
 * Both versions have the same messages, so one set of generated types reads and writes both.  One
 * request is read, answered and only then the next one asked for: a stream holds one message at a
 * time.  No file of Medley defines extensions, and the answers say so.
 * Runs on the loop. The descriptors are indexed once, at the first request.
 */
#include "router/grpc_call.h"

#include "base/alloc.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "proto/unpack.h"
#include "router/descriptors.h"

#define REQUEST(name)  GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##name
#define RESPONSE(name) GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##name

enum {
    SERVICES_MAX = 32
};

/* What one answer is made of; everything that the response points to. thread: loop */
struct answer {
    Grpc__Reflection__V1__ServerReflectionResponse response;
    Grpc__Reflection__V1__FileDescriptorResponse files;
    ProtobufCBinaryData file_data[MED_DESCRIPTOR_FILES_MAX];
    Grpc__Reflection__V1__ListServiceResponse services;
    Grpc__Reflection__V1__ServiceResponse service_data[SERVICES_MAX];
    Grpc__Reflection__V1__ServiceResponse *service_list[SERVICES_MAX];
    Grpc__Reflection__V1__ExtensionNumberResponse extensions;
    Grpc__Reflection__V1__ErrorResponse error;
};

static void answer_error(struct answer *a, grpc_status_code status, char *text)
{
    grpc__reflection__v1__error_response__init(&a->error);
    a->error.error_code = (int32_t)status;
    a->error.error_message = text;
    a->response.message_response_case = RESPONSE(ERROR_RESPONSE);
    a->response.error_response = &a->error;
}

static void answer_file(struct answer *a, const struct med_descriptors *d, int file)
{
    static char text[] = "no file of this server has that name or symbol";
    if (file < 0) {
        answer_error(a, GRPC_STATUS_NOT_FOUND, text);
        return;
    }
    grpc__reflection__v1__file_descriptor_response__init(&a->files);
    a->files.file_descriptor_proto = a->file_data;
    /* The file itself first, then what it imports. */
    for (size_t i = d->file_count; i-- > 0;) {
        if ((d->files[file].depends >> i & 1) == 0)
            continue;
        const struct med_span *span = &d->files[i].descriptor;
        union {
            const unsigned char *from;
            uint8_t *to;
        } bytes = {.from = span->bytes}; // packing only reads them
        a->file_data[a->files.n_file_descriptor_proto++] =
            (ProtobufCBinaryData){.len = span->count, .data = bytes.to};
    }
    a->response.message_response_case = RESPONSE(FILE_DESCRIPTOR_RESPONSE);
    a->response.file_descriptor_response = &a->files;
}

static void answer_services(struct answer *a, const struct med_descriptors *d)
{
    grpc__reflection__v1__list_service_response__init(&a->services);
    a->services.service = a->service_list;
    for (size_t i = 0; i < d->symbol_count && a->services.n_service < SERVICES_MAX; i++) {
        if (!d->symbols[i].is_service)
            continue;
        size_t n = a->services.n_service++;
        grpc__reflection__v1__service_response__init(&a->service_data[n]);
        a->service_data[n].name = d->symbols[i].name;
        a->service_list[n] = &a->service_data[n];
    }
    a->response.message_response_case = RESPONSE(LIST_SERVICES_RESPONSE);
    a->response.list_services_response = &a->services;
}

static void answer_extensions(struct answer *a, const struct med_descriptors *d, char *type)
{
    static char text[] = "no message of this server has that name";
    const struct med_descriptor_symbol *symbol = med_descriptors_find_symbol(d, type);
    if (symbol == NULL || !symbol->is_message) {
        answer_error(a, GRPC_STATUS_NOT_FOUND, text);
        return;
    }
    grpc__reflection__v1__extension_number_response__init(&a->extensions);
    a->extensions.base_type_name = type;
    a->response.message_response_case = RESPONSE(ALL_EXTENSION_NUMBERS_RESPONSE);
    a->response.all_extension_numbers_response = &a->extensions;
}

static void answer_fill(struct answer *a, const struct med_descriptors *d,
                        Grpc__Reflection__V1__ServerReflectionRequest *request)
{
    static char no_extensions[] = "no file of this server has extensions";
    static char no_question[] = "message_request: found none, expected a question";
    const struct med_descriptor_symbol *symbol;

    grpc__reflection__v1__server_reflection_response__init(&a->response);
    a->response.valid_host = request->host;
    a->response.original_request = request;
    switch (request->message_request_case) {
    case REQUEST(FILE_BY_FILENAME):
        answer_file(a, d, med_descriptors_find_file(d, request->file_by_filename));
        break;
    case REQUEST(FILE_CONTAINING_SYMBOL):
        symbol = med_descriptors_find_symbol(d, request->file_containing_symbol);
        answer_file(a, d, symbol != NULL ? (int)symbol->file : -1);
        break;
    case REQUEST(FILE_CONTAINING_EXTENSION):
        answer_error(a, GRPC_STATUS_NOT_FOUND, no_extensions);
        break;
    case REQUEST(ALL_EXTENSION_NUMBERS_OF_TYPE):
        answer_extensions(a, d, request->all_extension_numbers_of_type);
        break;
    case REQUEST(LIST_SERVICES):
        answer_services(a, d);
        break;
    default:
        answer_error(a, GRPC_STATUS_INVALID_ARGUMENT, no_question);
    }
}

static void fail(struct med_grpc_call *call, int code, const char *text)
{
    med_grpc_call_finish(
        call, &(struct med_grpc_ending){.status = (grpc_status_code)med_err_grpc_status(code),
                                        .text = text});
}

static int respond(struct med_grpc_call *call,
                   Grpc__Reflection__V1__ServerReflectionRequest *request)
{
    struct med_grpc_server *server = call->server;
    int rc = 0;
    if (server->descriptors.file_count == 0) {
        rc = med_descriptors_read(MED_DESCRIPTOR_SET_DATA, MED_DESCRIPTOR_SET_BYTES,
                                  &server->descriptors);
    }
    struct answer *a = rc == 0 ? med_calloc(1, sizeof(*a)) : NULL;
    if (rc == 0 && a == NULL)
        rc = MED_E_NOMEM;
    if (rc == 0) {
        answer_fill(a, &server->descriptors, request);
        med_buf_clear(&server->scratch);
        size_t bytes = protobuf_c_message_get_packed_size(&a->response.base);
        rc = med_buf_reserve(&server->scratch, bytes);
        if (rc == 0) {
            (void)protobuf_c_message_pack(&a->response.base, (uint8_t *)server->scratch.data);
            med_grpc_call_write(call, server->scratch.data, bytes);
        }
    }
    med_free(a);
    return rc;
}

static void on_question(struct med_grpc_call *call, const void *bytes, size_t count)
{
    struct med_unpack_budget budget;
    ProtobufCAllocator allocator = med_unpack_allocator(&budget, count + 1);
    Grpc__Reflection__V1__ServerReflectionRequest *request =
        grpc__reflection__v1__server_reflection_request__unpack(&allocator, count, bytes);
    if (request == NULL) {
        fail(call, MED_E_INVALID,
             "the message is not a grpc.reflection.v1.ServerReflectionRequest");
        return;
    }
    int rc = respond(call, request);
    if (rc < 0)
        fail(call, rc, med_err_text(rc));
    grpc__reflection__v1__server_reflection_request__free_unpacked(request, &allocator);
}

static void on_half_close(struct med_grpc_call *call)
{
    med_grpc_call_finish(call, &(struct med_grpc_ending){.status = GRPC_STATUS_OK});
}

const struct med_grpc_method MED_GRPC_REFLECTION_V1 = {
    .path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    .on_message = on_question,
    .on_half_close = on_half_close,
    .on_written = med_grpc_call_receive,
    .on_cancelled = med_grpc_call_ignore,
    .release = med_grpc_call_ignore,
};

const struct med_grpc_method MED_GRPC_REFLECTION_V1ALPHA = {
    .path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    .on_message = on_question,
    .on_half_close = on_half_close,
    .on_written = med_grpc_call_receive,
    .on_cancelled = med_grpc_call_ignore,
    .release = med_grpc_call_ignore,
};
