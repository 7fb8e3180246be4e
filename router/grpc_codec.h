/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of medley.v1 to struct med_query and back.  Generated types stay in the .c files.
 * Pure: bytes in, bytes out.  thread: loop.
 */
#ifndef MED_ROUTER_GRPC_CODEC_H
#define MED_ROUTER_GRPC_CODEC_H

#include "base/buf.h"
#include "router/request.h"

#include <stdbool.h>

/* Fills what the client asked for into a new query.  errors: MED_E_INVALID (not a GenerateRequest, or
 * a string with a zero byte; with a sentence), MED_E_NOMEM. Values are checked later, by
 * med_query_check. */
int med_grpc_codec_read_generate(const void *bytes, size_t count, struct med_query *query,
                                 struct med_err *err) MED_MUST_CHECK;

enum {
    MED_GRPC_RETRY_BYTES_MAX = 2 << 10
};
/* google.rpc.Status with a RetryInfo, for grpc-status-details-bin: how many bytes. A text that would
 * not fit is left out. */
size_t med_grpc_codec_write_retry(int code, const char *text, uint32_t retry_after_ms,
                                  uint8_t out[MED_GRPC_RETRY_BYTES_MAX]);

/* Appends a GenerateResponse with all choices. Each has ended with stop or length. */
int med_grpc_codec_write_response(const struct med_query *query,
                                  struct med_buf *out) MED_MUST_CHECK;

struct med_grpc_chunk {
    const struct med_req *req;
    size_t from, to; /* output tokens from..to-1 */
    const char *text;
    size_t text_bytes;
    bool ends;  /* the choice's last: with finish reason and stop string */
    bool usage; /* the query's last */
};
/* Appends a GenerateChunk. */
int med_grpc_codec_write_chunk(const struct med_grpc_chunk *chunk,
                               struct med_buf *out) MED_MUST_CHECK;

#endif
