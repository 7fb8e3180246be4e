/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rich part of a gRPC status: google.rpc.Status with a RetryInfo, packed.
 *
 * Clients that know it wait by themselves (gRPC's own retry policies, many client libraries); the plain
 * `retry-after-ms` beside it is for people and scripts.  Pure; runs on any thread.
 */
#include "router/grpc_codec.h"

#include "base/assert.h"
#include "proto/lend.h"
#include "status.pb-c.h"

#include <string.h>

size_t med_grpc_codec_write_retry(int code, const char *text, uint32_t retry_after_ms,
                                  uint8_t out[MED_GRPC_RETRY_BYTES_MAX])
{
    Medley__Status__Duration delay = MEDLEY__STATUS__DURATION__INIT;
    Medley__Status__RetryInfo retry = MEDLEY__STATUS__RETRY_INFO__INIT;
    Medley__Status__Any any = MEDLEY__STATUS__ANY__INIT;
    Medley__Status__Any *details[] = {&any};
    Medley__Status__Status status = MEDLEY__STATUS__STATUS__INIT;
    uint8_t packed[32];

    delay.seconds = retry_after_ms / 1000;
    delay.nanos = (int32_t)(retry_after_ms % 1000) * 1000000;
    retry.retry_delay = &delay;
    MED_ASSERT(medley__status__retry_info__get_packed_size(&retry) <= sizeof(packed));
    any.value.len = medley__status__retry_info__pack(&retry, packed);
    any.value.data = packed;
    any.type_url = med_proto_lend("type.googleapis.com/google.rpc.RetryInfo");
    status.code = code;
    status.message = med_proto_lend(text);
    status.n_details = 1;
    status.details = details;
    if (medley__status__status__get_packed_size(&status) > MED_GRPC_RETRY_BYTES_MAX)
        status.message = med_proto_lend(""); // it is in grpc-message too
    return medley__status__status__pack(&status, out);
}
