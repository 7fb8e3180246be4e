/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers of OpenAI-style servers.
 *
 * http_parser cuts the message; a body of text/event-stream goes through the event reader as it
 * comes, any other is gathered.  What goes wrong is kept once, with the first sentence, and ends the
 * answer.  Tokens of a stream are those that events list, else one for each event that carries
 * text; the server's own count, where it gives one, is kept beside.
 * thread: any; pure.
 */
#include "router/bench/reply.h"

#include "router/bench/facts.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

enum {
    STATUS_OK = 0,
    STATUS_INVALID_ARGUMENT = 3,
    STATUS_DEADLINE_EXCEEDED = 4,
    STATUS_NOT_FOUND = 5,
    STATUS_PERMISSION_DENIED = 7,
    STATUS_RESOURCE_EXHAUSTED = 8,
    STATUS_UNIMPLEMENTED = 12,
    STATUS_INTERNAL = 13,
    STATUS_UNAVAILABLE = 14,
    STATUS_DATA_LOSS = 15,
    STATUS_UNAUTHENTICATED = 16
};

int med_reply_status_of_http(int http_status)
{
    switch (http_status) {
    case 401:
        return STATUS_UNAUTHENTICATED;
    case 403:
        return STATUS_PERMISSION_DENIED;
    case 404:
        return STATUS_NOT_FOUND;
    case 408:
    case 504:
        return STATUS_DEADLINE_EXCEEDED;
    case 429:
        return STATUS_RESOURCE_EXHAUSTED;
    case 501:
        return STATUS_UNIMPLEMENTED;
    case 502:
    case 503:
        return STATUS_UNAVAILABLE;
    default:
        if (http_status >= 200 && http_status < 300)
            return STATUS_OK;
        return http_status >= 400 && http_status < 500 ? STATUS_INVALID_ARGUMENT : STATUS_INTERNAL;
    }
}

void med_reply_fail(struct med_reply *reply, int status, const char *why)
{
    if (reply->over)
        return;
    reply->over = true;
    reply->keep_alive = false;
    reply->status = status;
    (void)snprintf(reply->why, sizeof(reply->why), "%s", why);
}

/* ---- what the body tells ---- */

static void fail_as_told(struct med_reply *reply, int http_status,
                         const struct med_bench_facts *facts)
{
    char why[MED_REPLY_WHY_MAX];
    (void)snprintf(why, sizeof(why), "HTTP %d: %s", http_status,
                   facts->error[0] ? facts->error : "no message");
    med_reply_fail(reply, med_reply_status_of_http(http_status), why);
}

static void count_tokens(struct med_reply *reply, int64_t count)
{
    reply->tokens += count;
    reply->on_tokens(reply->arg, count);
}

static int on_event(void *arg, const char *data, size_t bytes)
{
    struct med_reply *reply = arg;
    if (bytes == 6 && memcmp(data, "[DONE]", 6) == 0) {
        reply->done = true;
        return 0;
    }
    struct med_bench_facts facts;
    if (reply->done || med_bench_facts_read(data, bytes, &facts) < 0) {
        med_reply_fail(reply, STATUS_INTERNAL,
                       reply->done ? "an event came after [DONE]"
                                   : "an event of the stream is not a JSON object");
        return MED_E_FORMAT;
    }
    if (facts.has_error) {
        fail_as_told(reply, facts.error_code >= 400 ? facts.error_code : 500, &facts);
        return MED_E_FORMAT;
    }
    if (facts.completion_tokens >= 0)
        reply->completion_tokens = facts.completion_tokens;
    if (facts.prompt_tokens >= 0)
        reply->prompt_tokens = facts.prompt_tokens;
    reply->finished = reply->finished || facts.has_finish;
    /* A token whose text is still to come makes an event too; the role of a chat and the reason of
     * the end do so without one. */
    int64_t count = facts.token_ids >= 0 ? facts.token_ids
                    : facts.has_text     ? 1
                                         : facts.has_choice && !facts.has_role && !facts.has_finish;
    if (count > 0)
        count_tokens(reply, count);
    return 0;
}

static void end_whole(struct med_reply *reply, int http_status)
{
    struct med_bench_facts facts;
    bool readable = med_bench_facts_read(reply->body.length ? reply->body.data : "",
                                         reply->body.length, &facts) >= 0;
    if (med_reply_status_of_http(http_status) != STATUS_OK || (readable && facts.has_error)) {
        bool ok = med_reply_status_of_http(http_status) == STATUS_OK;
        fail_as_told(reply,
                     !ok                       ? http_status
                     : facts.error_code >= 400 ? facts.error_code
                                               : 500,
                     &facts);
        return;
    }
    if (!readable || !facts.has_choice) {
        med_reply_fail(reply, STATUS_INTERNAL, "the answer is not a JSON object with choices");
        return;
    }
    reply->completion_tokens = facts.completion_tokens;
    reply->prompt_tokens = facts.prompt_tokens;
    reply->finished = true;
    int64_t count = facts.completion_tokens >= 0 ? facts.completion_tokens
                    : facts.token_ids >= 0       ? facts.token_ids
                                                 : facts.has_text;
    if (count > 0)
        count_tokens(reply, count);
}

/* ---- http_parser's callbacks; != 0 stops it ---- */

static void end_header(struct med_reply *reply)
{
    reply->header[reply->header_bytes] = '\0';
    reply->value[reply->value_bytes] = '\0';
    if (strcasecmp(reply->header, "content-type") == 0)
        reply->is_events = strncasecmp(reply->value, "text/event-stream", 17) == 0;
    reply->header_bytes = reply->value_bytes = 0;
    reply->in_value = false;
}

static int on_header(http_parser *parser, const char *at, size_t length)
{
    struct med_reply *reply = parser->data;
    if (reply->in_value)
        end_header(reply);
    size_t room = sizeof(reply->header) - 1 - reply->header_bytes;
    length = length < room ? length : room;
    memcpy(reply->header + reply->header_bytes, at, length);
    reply->header_bytes += length;
    return 0;
}

static int on_value(http_parser *parser, const char *at, size_t length)
{
    struct med_reply *reply = parser->data;
    reply->in_value = true;
    size_t room = sizeof(reply->value) - 1 - reply->value_bytes;
    length = length < room ? length : room;
    memcpy(reply->value + reply->value_bytes, at, length);
    reply->value_bytes += length;
    return 0;
}

static int on_head_end(http_parser *parser)
{
    struct med_reply *reply = parser->data;
    if (reply->in_value)
        end_header(reply);
    reply->in_body = true;
    if (med_reply_status_of_http((int)parser->status_code) != STATUS_OK)
        reply->is_events = false; // an error comes whole, whatever it is called
    if (parser->upgrade) {
        med_reply_fail(reply, STATUS_INTERNAL, "the server changes the protocol");
        return -1;
    }
    return 0;
}

static int on_body(http_parser *parser, const char *at, size_t length)
{
    struct med_reply *reply = parser->data;
    int rc;
    if (reply->is_events) {
        rc = med_sse_feed(&reply->sse, at, length, on_event, reply);
    } else {
        rc = med_buf_append(&reply->body, at, length);
    }
    if (rc < 0) {
        med_reply_fail(reply, STATUS_RESOURCE_EXHAUSTED,
                       rc == MED_E_NOMEM ? "memory is exhausted" : "the answer is too large");
    }
    return rc < 0 ? -1 : 0;
}

static int on_message_end(http_parser *parser)
{
    struct med_reply *reply = parser->data;
    if (parser->status_code < 200) { // 100 Continue and the like: the answer follows
        reply->in_body = false;
        return 0;
    }
    bool keep_alive = http_should_keep_alive(parser) != 0;
    if (!reply->is_events) {
        end_whole(reply, (int)parser->status_code);
    } else if (!reply->done && !reply->finished) {
        med_reply_fail(reply, STATUS_DATA_LOSS,
                       "the stream ended with neither a finish reason nor [DONE]");
    }
    reply->over = true;
    reply->keep_alive = keep_alive;
    http_parser_pause(parser, 1);
    return 0;
}

static const http_parser_settings settings = {
    .on_header_field = on_header,
    .on_header_value = on_value,
    .on_headers_complete = on_head_end,
    .on_body = on_body,
    .on_message_complete = on_message_end,
};

void med_reply_init(struct med_reply *reply, void (*on_tokens)(void *arg, int64_t count), void *arg)
{
    *reply = (struct med_reply){.on_tokens = on_tokens, .arg = arg};
    med_sse_init(&reply->sse, MED_REPLY_EVENT_MAX);
    med_buf_init(&reply->body, MED_REPLY_BODY_MAX);
    med_reply_clear(reply);
}

void med_reply_release(struct med_reply *reply)
{
    med_sse_release(&reply->sse);
    med_buf_release(&reply->body);
}

void med_reply_clear(struct med_reply *reply)
{
    http_parser_init(&reply->parser, HTTP_RESPONSE);
    reply->parser.data = reply;
    med_sse_clear(&reply->sse);
    med_buf_clear(&reply->body);
    reply->header_bytes = reply->value_bytes = 0;
    reply->in_value = reply->is_events = reply->in_body = reply->done = reply->finished = false;
    reply->over = reply->keep_alive = reply->any = false;
    reply->status = STATUS_OK;
    reply->why[0] = '\0';
    reply->tokens = 0;
    reply->completion_tokens = reply->prompt_tokens = -1;
}

static void on_closed(struct med_reply *reply)
{
    if (reply->over)
        return;
    const char *why = !reply->any      ? "the server closed the connection without an answer"
                      : reply->in_body ? "the server closed the connection within the answer"
                                       : "the server closed the connection within the head";
    /* An answer without a length ends with its connection, which is the parser's to say. */
    (void)http_parser_execute(&reply->parser, &settings, "", 0);
    med_reply_fail(reply, reply->any ? STATUS_DATA_LOSS : STATUS_UNAVAILABLE, why);
    reply->keep_alive = false;
}

void med_reply_feed(struct med_reply *reply, const char *bytes, size_t count)
{
    if (count == 0) {
        on_closed(reply);
        return;
    }
    if (reply->over) {
        reply->keep_alive = false;
        return;
    }
    reply->any = true;
    size_t taken = http_parser_execute(&reply->parser, &settings, bytes, count);
    if (reply->over) {
        reply->keep_alive = reply->keep_alive && taken == count;
        return;
    }
    if (HTTP_PARSER_ERRNO(&reply->parser) != HPE_OK || taken != count) {
        char why[MED_REPLY_WHY_MAX];
        (void)snprintf(why, sizeof(why), "the answer is not HTTP/1.1: %s",
                       http_errno_description(HTTP_PARSER_ERRNO(&reply->parser)));
        med_reply_fail(reply, STATUS_INTERNAL, why);
    }
}
