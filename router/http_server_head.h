/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The head of an HTTP/1.x request, judged strictly.
 *
 * http_parser reads it; what that library lets pass and RFC 9112 does not is refused before:
 * whitespace before the colon ("Host :", section 5.1), folded lines (obs-fold, 5.2), bare CR or LF,
 * control characters.  Requests with a body are refused, since only GET and HEAD are served here.
 * Pure: no I/O.  thread: any.
 */
#ifndef MED_ROUTER_HTTP_SERVER_HEAD_H
#define MED_ROUTER_HTTP_SERVER_HEAD_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    MED_HTTP_PATH_MAX = 1024
};

struct med_http_head {
    int status;      /* 0: good; else the status to answer with, and `why` */
    const char *why; /* static; one sentence without a full stop */
    bool is_head;    /* HEAD: answer without the body */
    bool keep_alive;
    char path[MED_HTTP_PATH_MAX]; /* without the query */
};

/* Bytes of the head that starts at `bytes`, final empty line included; 0: not all there yet.
 * An empty line before the request line is skipped (and counted), as RFC 9112 section 2.2 asks. */
size_t med_http_head_bytes(const char *bytes, size_t count);

/* bytes: one whole head, as med_http_head_bytes measured it. */
void med_http_head_parse(const char *bytes, size_t count, struct med_http_head *ret_head);

#endif
