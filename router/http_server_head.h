/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The head of an HTTP/1.x request, judged strictly.
 *
 * http_parser reads the request line and the framing; what that library lets pass and RFC 9112 does not is
 * refused before: whitespace before the colon ("Host :", section 5.1), folded lines (obs-fold, 5.2), bare
 * CR or LF, control characters, a Content-Length that is not one plain number or stands beside
 * Transfer-Encoding (6.3), a Transfer-Encoding that is not "chunked" (6.1).
 * Pure: no I/O.  thread: any.
 */
#ifndef MED_ROUTER_HTTP_SERVER_HEAD_H
#define MED_ROUTER_HTTP_SERVER_HEAD_H

#include "base/err.h"
#include "router/http_server.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MED_HTTP_PATH_MAX = 1024,
    MED_HTTP_QUERY_MAX = 2048
};

enum med_http_framing {
    MED_HTTP_NO_BODY,
    MED_HTTP_LENGTH,
    MED_HTTP_CHUNKED
};

struct med_http_head {
    int status;      /* 0: good; else the status to answer with, and `why` */
    const char *why; /* static; one sentence without a full stop */
    enum med_http_method method;
    enum med_http_framing framing;
    uint64_t body_bytes;     /* of LENGTH; may be 0 */
    bool expects_continue;   /* the client waits for "100 Continue" */
    bool keep_alive, is_1_1; /* 1.0 knows no chunks */
    char path[MED_HTTP_PATH_MAX];
    char query[MED_HTTP_QUERY_MAX];
};

/* Bytes of the head that starts at `bytes`, final empty line included; 0: not all there yet.
 * An empty line before the request line is skipped (and counted), as RFC 9112 section 2.2 asks.
 * from: bytes of which an earlier call said that they hold no end. */
size_t med_http_head_bytes(const char *bytes, size_t count, size_t from);

/* bytes: one whole head, as med_http_head_bytes measured it. */
void med_http_head_parse(const char *bytes, size_t count, struct med_http_head *ret_head);

/* May stand in a method or a field's name (RFC 9110 section 5.6.2). */
bool med_http_is_token(char byte);

/* The value of the first header `name` (any case) of a head that was judged good, without the whitespace around
 * it; NULL: there is none. */
const char *med_http_head_find(const char *bytes, size_t count, const char *name,
                               size_t *ret_bytes);

#endif
