/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The body of an HTTP/1.1 request: how many of the bytes that came belong to it, and which of them are content.
 *
 * Chunks are read strictly (RFC 9112 section 7.1): hexadecimal sizes, CR LF and nothing else at the end of
 * lines, extensions and trailer fields within bounds and then dropped.
 * Pure: no I/O.  thread: any.
 */
#ifndef MED_ROUTER_HTTP_SERVER_BODY_H
#define MED_ROUTER_HTTP_SERVER_BODY_H

#include "base/buf.h"
#include "router/http_server_head.h"

enum med_http_body_state {
    MED_HTTP_BODY_DATA, /* `left` bytes of content */
    MED_HTTP_BODY_SIZE,
    MED_HTTP_BODY_EXTENSION,
    MED_HTTP_BODY_SIZE_LF,
    MED_HTTP_BODY_DATA_CR,
    MED_HTTP_BODY_DATA_LF,
    MED_HTTP_BODY_TRAILER, /* at the start of a line */
    MED_HTTP_BODY_TRAILER_LINE,
    MED_HTTP_BODY_TRAILER_LF,
    MED_HTTP_BODY_END_LF,
    MED_HTTP_BODY_DONE
};

struct med_http_body_reader {
    enum med_http_framing framing;
    enum med_http_body_state state;
    uint64_t left;      /* of the content, or of the chunk */
    uint64_t bytes_max; /* of content */
    uint64_t bytes;     /* of content, so far */
    unsigned digits;    /* of the size that is being read */
    size_t line_bytes;  /* of extensions, or of trailer fields, so far */
    bool named;         /* the trailer field's name has ended */
    int status;         /* of a body that is wrong: 400, 413 */
    const char *why;    /* static; one sentence without a full stop */
};

void med_http_body_reader_init(struct med_http_body_reader *reader,
                               const struct med_http_head *head, uint64_t bytes_max);
/* Appends content to `content`; *ret_used: the bytes that belong to the body.  1: it is whole; 0: more
 * is needed; MED_E_PROTO: it is wrong, see status and why; MED_E_NOMEM, MED_E_LIMIT of the buffer. */
int med_http_body_read(struct med_http_body_reader *reader, const char *bytes, size_t count,
                       struct med_buf *content, size_t *ret_used) MED_MUST_CHECK;

#endif
