/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of medley.v1 to struct med_req and back.  Generated types stay in the .c file.
 * Pure: bytes in, bytes out.  thread: loop.
 */
#ifndef MED_ROUTER_GRPC_CODEC_H
#define MED_ROUTER_GRPC_CODEC_H

#include "base/buf.h"
#include "router/request.h"

/* Fills what the client asked for into a new req.  errors: MED_E_INVALID (not a GenerateRequest, or
 * without an input; with a sentence), MED_E_NOMEM. Values are checked later, by med_req_check. */
int med_grpc_codec_read_generate(const void *bytes, size_t count, struct med_req *req,
                                 struct med_err *err) MED_MUST_CHECK;

/* Appends a GenerateResponse with the whole output. req has ended with stop or length. */
int med_grpc_codec_write_response(const struct med_req *req, struct med_buf *out) MED_MUST_CHECK;

/* Appends a GenerateChunk with output tokens from..to-1; last: with finish reason and usage. */
int med_grpc_codec_write_chunk(const struct med_req *req, size_t from, size_t to, bool last,
                               struct med_buf *out) MED_MUST_CHECK;

#endif
