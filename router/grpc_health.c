/* SPDX-License-Identifier: Apache-2.0 */
/*
 * grpc.health.v1.Health: Check and Watch for "" and "medley.v1.Inference".
 *
 * A watcher is told the state when it comes and each time it changes; one that reads slowly misses
 * intermediate states, never the last one.  A watch of an unknown service is told SERVICE_UNKNOWN and
 * stays, as the protocol asks.  Runs on the loop. It does not know why the router serves or not.
 */
#include "router/grpc_call.h"

#include "base/assert.h"
#include "grpc/health/v1/health.pb-c.h"
#include "proto/unpack.h"

#include <string.h>

#define STATUS(name) GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__##name

enum {
    RESPONSE_BYTES_MAX = 16
};

static int serving_status(const struct med_grpc_server *server)
{
    return server->serving ? STATUS(SERVING) : STATUS(NOT_SERVING);
}

/* 1: a service that we have; 0: another; < 0: not a HealthCheckRequest. */
static int read_request(const void *bytes, size_t count)
{
    struct med_unpack_budget budget;
    ProtobufCAllocator allocator = med_unpack_allocator(&budget, count + 1);
    Grpc__Health__V1__HealthCheckRequest *request =
        grpc__health__v1__health_check_request__unpack(&allocator, count, bytes);
    if (request == NULL)
        return MED_E_INVALID;
    int known = request->service[0] == '\0' || strcmp(request->service, "medley.v1.Inference") == 0;
    grpc__health__v1__health_check_request__free_unpacked(request, &allocator);
    return known;
}

static size_t write_response(int status, uint8_t out[RESPONSE_BYTES_MAX])
{
    Grpc__Health__V1__HealthCheckResponse response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    response.status = (Grpc__Health__V1__HealthCheckResponse__ServingStatus)status;
    MED_ASSERT(grpc__health__v1__health_check_response__get_packed_size(&response) <=
               RESPONSE_BYTES_MAX);
    return grpc__health__v1__health_check_response__pack(&response, out);
}

static void finish(struct med_grpc_call *call, grpc_status_code status, const char *text)
{
    med_grpc_call_finish(call, &(struct med_grpc_ending){.status = status, .text = text});
}

static void on_check(struct med_grpc_call *call, const void *bytes, size_t count)
{
    int known = read_request(bytes, count);
    if (known < 0) {
        finish(call, GRPC_STATUS_INVALID_ARGUMENT,
               "the message is not a grpc.health.v1.HealthCheckRequest");
    } else if (known == 0) {
        finish(call, GRPC_STATUS_NOT_FOUND,
               "service: expected \"\" or \"medley.v1.Inference\", the services of this server");
    } else {
        uint8_t out[RESPONSE_BYTES_MAX];
        size_t length = write_response(serving_status(call->server), out);
        /* An empty message (status UNKNOWN) cannot come out here: `out` is what is sent. */
        med_grpc_call_finish(call, &(struct med_grpc_ending){
                                       .status = GRPC_STATUS_OK, .bytes = out, .count = length});
    }
}

static void on_no_request(struct med_grpc_call *call)
{
    finish(call, GRPC_STATUS_INVALID_ARGUMENT, "the call has no request message");
}

/* ---- Watch ---- */

static void watch_pump(struct med_grpc_call *call)
{
    if (call->writing || call->finishing || call->cancelled ||
        call->status_sent == call->status_wanted)
        return;
    uint8_t out[RESPONSE_BYTES_MAX];
    size_t length = write_response(call->status_wanted, out);
    call->status_sent = call->status_wanted;
    med_grpc_call_write(call, out, length);
}

static void on_watch(struct med_grpc_call *call, const void *bytes, size_t count)
{
    struct med_grpc_server *server = call->server;
    int known = read_request(bytes, count);
    if (known < 0) {
        finish(call, GRPC_STATUS_INVALID_ARGUMENT,
               "the message is not a grpc.health.v1.HealthCheckRequest");
        return;
    }
    call->status_sent = -1;
    call->status_wanted = known != 0 ? serving_status(server) : STATUS(SERVICE_UNKNOWN);
    if (known != 0) {
        call->watching = true;
        call->watch_next = server->watchers;
        if (call->watch_next != NULL)
            call->watch_next->watch_prev = call;
        server->watchers = call;
    }
    watch_pump(call);
}

static void on_watch_release(struct med_grpc_call *call)
{
    if (!call->watching)
        return;
    if (call->watch_prev != NULL) {
        call->watch_prev->watch_next = call->watch_next;
    } else {
        call->server->watchers = call->watch_next;
    }
    if (call->watch_next != NULL)
        call->watch_next->watch_prev = call->watch_prev;
}

void med_grpc_health_changed(struct med_grpc_server *server)
{
    for (struct med_grpc_call *call = server->watchers; call != NULL; call = call->watch_next) {
        call->status_wanted = serving_status(server);
        watch_pump(call);
    }
}

const struct med_grpc_method MED_GRPC_HEALTH_CHECK = {
    .path = "/grpc.health.v1.Health/Check",
    .on_message = on_check,
    .on_half_close = on_no_request,
    .on_written = med_grpc_call_ignore,
    .on_cancelled = med_grpc_call_ignore,
    .release = med_grpc_call_ignore,
};

const struct med_grpc_method MED_GRPC_HEALTH_WATCH = {
    .path = "/grpc.health.v1.Health/Watch",
    .on_message = on_watch,
    .on_half_close = on_no_request,
    .on_written = watch_pump,
    .on_cancelled = med_grpc_call_ignore,
    .release = on_watch_release,
};
