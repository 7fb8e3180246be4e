/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One HTTP/1.1 answer of an OpenAI-style server, whole or as a stream of events, out of bytes that
 * come in any pieces: how many tokens came when, and how it ended.
 *
 * http_parser bounds the head (80 KiB).  A stream has ended well if it said [DONE] or why it ended; one that just stops is truncated.
 * thread: any; pure. owns: what it has gathered.
 */
#ifndef MED_ROUTER_BENCH_REPLY_H
#define MED_ROUTER_BENCH_REPLY_H

#include "base/buf.h"
#include "router/bench/sse.h"

#include <http_parser.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MED_REPLY_EVENT_MAX = 4 << 20, /* one event of a stream */
    MED_REPLY_BODY_MAX = 64 << 20, /* an answer that comes whole */
    MED_REPLY_WHY_MAX = 256
};

struct med_reply {
    http_parser parser;
    struct med_sse sse;
    struct med_buf body;
    char header[24], value[32]; /* of the header that is being read, cut */
    size_t header_bytes, value_bytes;
    bool in_value, is_events, in_body;
    bool done, finished; /* [DONE] came; a choice said why it ended */
    bool over;           /* the answer has ended: status says how */
    bool keep_alive;     /* valid once over: the connection may serve another request */
    bool any;            /* a byte has come */
    int status;          /* of gRPC */
    char why[MED_REPLY_WHY_MAX];
    int64_t tokens;                           /* counted here */
    int64_t completion_tokens, prompt_tokens; /* the server's own counts, -1: not told */
    void (*on_tokens)(void *arg, int64_t count);
    void *arg;
};

void med_reply_init(struct med_reply *reply, void (*on_tokens)(void *arg, int64_t count),
                    void *arg);
void med_reply_release(struct med_reply *reply);
void med_reply_clear(struct med_reply *reply); /* for the next answer */

/* Bytes from the server; count 0: it has closed.  Look at `over` afterwards.  Bytes behind the end
 * of an answer make it the last one of its connection. */
void med_reply_feed(struct med_reply *reply, const char *bytes, size_t count);
/* Ends it from outside, unless it is over. */
void med_reply_fail(struct med_reply *reply, int status, const char *why);

int med_reply_status_of_http(int http_status);

#endif
