/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers of the HTTP server: heads, whole bodies, chunks, and pages.
 *
 * Everything is appended to the connection's `out`, which is sent before the loop sleeps.  An answer that
 * does not fit into memory ends its connection.  Calls on an exchange whose connection is closing do
 * nothing: on_gone is on its way.
 *
 * Runs on the loop.
 */
#include "router/http_server_internal.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <stdio.h>
#include <string.h>

enum {
    HEAD_BYTES = 512 /* room made for a head at once; a longer one makes its own */
};

void med_http_exchange_free(struct med_http_exchange *x)
{
    x->conn->server->body_bytes -= x->content.length;
    med_buf_release(&x->content);
    med_free(x->lines);
    med_free(x);
}

/* ---- the request -------------------------------------------------------------------------------- */

enum med_http_method med_http_method(const struct med_http_exchange *x)
{
    return x->head.method;
}

const char *med_http_method_name(enum med_http_method method)
{
    static const char *names[MED_HTTP_METHOD_COUNT] = {"GET",    "HEAD",  "POST",   "PUT",
                                                       "DELETE", "PATCH", "OPTIONS"};
    MED_ASSERT((int)method >= 0);
    MED_ASSERT(method < MED_HTTP_METHOD_COUNT);
    return names[method];
}

const char *med_http_path(const struct med_http_exchange *x)
{
    return x->head.path;
}

const char *med_http_query(const struct med_http_exchange *x)
{
    return x->head.query;
}

const char *med_http_header(const struct med_http_exchange *x, const char *name)
{
    size_t bytes = 0;
    const char *value = med_http_head_find(x->lines, x->lines_bytes, name, &bytes);
    if (value == NULL)
        return NULL;
    /* The byte behind a value is whitespace or the CR of its line: nobody looks at it again but the search for
     * lines, which goes by LF. */
    x->lines[(size_t)(value - x->lines) + bytes] = '\0';
    return value;
}

const char *med_http_body(const struct med_http_exchange *x, size_t *ret_bytes)
{
    *ret_bytes = x->content.length;
    return x->content.length > 0 ? x->content.data : "";
}

void med_http_set_user(struct med_http_exchange *x, void *user)
{
    x->user = user;
}

void *med_http_user(const struct med_http_exchange *x)
{
    return x->user;
}

/* ---- the head ----------------------------------------------------------------------------------- */

static const char *reason(int status)
{
    static const struct {
        int status;
        const char *text;
    } reasons[] = {{200, "OK"},
                   {201, "Created"},
                   {202, "Accepted"},
                   {204, "No Content"},
                   {400, "Bad Request"},
                   {401, "Unauthorized"},
                   {403, "Forbidden"},
                   {404, "Not Found"},
                   {405, "Method Not Allowed"},
                   {408, "Request Timeout"},
                   {409, "Conflict"},
                   {413, "Content Too Large"},
                   {414, "URI Too Long"},
                   {415, "Unsupported Media Type"},
                   {417, "Expectation Failed"},
                   {422, "Unprocessable Content"},
                   {429, "Too Many Requests"},
                   {431, "Request Header Fields Too Large"},
                   {499, "Client Closed Request"},
                   {500, "Internal Server Error"},
                   {501, "Not Implemented"},
                   {502, "Bad Gateway"},
                   {503, "Service Unavailable"},
                   {504, "Gateway Timeout"},
                   {505, "HTTP Version Not Supported"}};
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++) {
        if (reasons[i].status == status)
            return reasons[i].text;
    }
    return status < 500 ? "Client Error" : "Server Error";
}

static void tell_status(const struct med_http_conn *conn, const char *path, int status)
{
    const struct med_http_handler *handler = &conn->server->handler;
    if (handler->on_status != NULL)
        handler->on_status(handler->self, path, status);
}

/* Status line and headers, up to the empty line.  This is on the way of every request: no printf. */
static int head_append(struct med_http_conn *conn, int status, const char *content_type,
                       const char *headers)
{
    const char code[] = {(char)('0' + status / 100 % 10), (char)('0' + status / 10 % 10),
                         (char)('0' + status % 10), '\0'};
    const char *parts[] = {"HTTP/1.1 ",
                           code,
                           " ",
                           reason(status),
                           "\r\nDate: ",
                           med_http_server_date(conn->server),
                           "\r\nContent-Type: ",
                           content_type,
                           "\r\nX-Content-Type-Options: nosniff\r\n",
                           headers != NULL ? headers : "",
                           conn->ends ? "Connection: close\r\n" : "Connection: keep-alive\r\n"};
    int rc = med_buf_reserve(&conn->out, HEAD_BYTES);
    for (size_t i = 0; rc == 0 && i < sizeof parts / sizeof parts[0]; i++)
        rc = med_buf_append_str(&conn->out, parts[i]);
    return rc;
}

/* "Content-Length: N", and the empty line. */
static int length_append(struct med_http_conn *conn, size_t length)
{
    char digits[24];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + length % 10);
        length /= 10;
    } while (length > 0);
    int rc = med_buf_append_str(&conn->out, "Content-Length: ");
    if (rc == 0)
        rc = med_buf_append(&conn->out, digits + at, sizeof digits - at);
    return rc < 0 ? rc : med_buf_append_str(&conn->out, "\r\n\r\n");
}

/* A whole answer into `out`; all of it or nothing. */
static int whole_append(struct med_http_conn *conn, const struct med_http_answer *answer,
                        bool is_head)
{
    size_t before = conn->out.length;
    int rc = head_append(conn, answer->status, answer->content_type, answer->headers);
    bool told = answer->headers != NULL && strstr(answer->headers, "Cache-Control:") != NULL;
    if (rc == 0 && !told)
        rc = med_buf_append_str(&conn->out, "Cache-Control: no-store\r\n");
    if (rc == 0)
        rc = length_append(conn, answer->body.length);
    if (rc == 0 && !is_head && answer->body.length > 0)
        rc = med_buf_append(&conn->out, answer->body.data, answer->body.length);
    if (rc < 0)
        conn->out.length = before;
    return rc;
}

/* ---- whole answers ------------------------------------------------------------------------------ */

void med_http_answer_init(struct med_http_answer *answer)
{
    *answer = (struct med_http_answer){.status = 200, .content_type = "application/json"};
    med_buf_init(&answer->body, 64 << 20);
}

void med_http_respond(struct med_http_exchange *x, struct med_http_answer *answer)
{
    struct med_http_conn *conn = x->conn;
    MED_ASSERT_THREAD(conn->server->thread);
    MED_ASSERT(!x->streams);
    tell_status(conn, med_http_path(x), answer->status);
    if (conn->state != MED_HTTP_CONN_CLOSING &&
        whole_append(conn, answer, x->head.method == MED_HTTP_HEAD) < 0)
        conn->broken = true;
    med_buf_release(&answer->body);
    med_http_conn_answered(conn);
}

/* On memory exhaustion the body stays empty. */
static void error_fill(struct med_http_answer *answer, int status, const char *message)
{
    answer->status = status;
    answer->content_type = "application/json";
    med_buf_clear(&answer->body);
    if (med_buf_printf(&answer->body,
                       "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,"
                       "\"code\":%d}}\n",
                       message, status < 500 ? "invalid_request_error" : "server_error",
                       status) < 0)
        med_buf_clear(&answer->body);
}

void med_http_respond_error(struct med_http_exchange *x, int status, const char *message)
{
    struct med_http_answer answer;
    med_http_answer_init(&answer);
    error_fill(&answer, status, message);
    med_http_respond(x, &answer);
}

void med_http_conn_refuse(struct med_http_conn *conn, int status, const char *message)
{
    struct med_http_answer answer;
    med_http_answer_init(&answer);
    error_fill(&answer, status, message);
    conn->ends = true;
    conn->server->stats.refused++;
    tell_status(conn, NULL, status);
    if (whole_append(conn, &answer, false) < 0)
        conn->broken = true;
    med_buf_release(&answer.body);
    if (conn->x != NULL)
        med_http_exchange_free(conn->x);
    conn->x = NULL;
    conn->state = MED_HTTP_CONN_LAST;
    med_buf_release(&conn->in);
    med_http_conn_wake(conn);
}

/* ---- streamed answers --------------------------------------------------------------------------- */

void med_http_start(struct med_http_exchange *x, int status, const char *content_type,
                    const char *headers)
{
    struct med_http_conn *conn = x->conn;
    MED_ASSERT_THREAD(conn->server->thread);
    MED_ASSERT(!x->streams);
    x->streams = true;
    x->chunked = x->head.is_1_1;
    tell_status(conn, med_http_path(x), status);
    if (conn->state == MED_HTTP_CONN_CLOSING)
        return;
    conn->ends = conn->ends || !x->chunked; /* its end is the connection's */
    if (head_append(conn, status, content_type, headers) < 0 ||
        med_buf_append_str(&conn->out, x->chunked ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n") <
            0)
        conn->broken = true;
    med_http_conn_wake(conn);
}

size_t med_http_unsent(const struct med_http_exchange *x)
{
    return x->conn->out.length + (x->conn->writes ? x->conn->writing.length : 0);
}

/* A chunk's size line: hexadecimal digits and CR LF. */
static size_t size_line(char line[24], size_t count)
{
    static const char digits[] = "0123456789abcdef";
    size_t at = 24;
    line[--at] = '\n';
    line[--at] = '\r';
    do {
        line[--at] = digits[count % 16];
        count /= 16;
    } while (count > 0);
    return at;
}

int med_http_write(struct med_http_exchange *x, const void *bytes, size_t count)
{
    struct med_http_conn *conn = x->conn;
    MED_ASSERT(x->streams);
    if (conn->state == MED_HTTP_CONN_CLOSING || conn->broken || count == 0 ||
        x->head.method == MED_HTTP_HEAD)
        return 0;
    if (med_http_unsent(x) + count > MED_LIMIT_HTTP_UNSENT_BYTES) {
        x->waited = true; /* on_drained comes, however soon what is there has been sent */
        return MED_E_LIMIT;
    }
    char line[24];
    size_t at = x->chunked ? size_line(line, count) : sizeof line;
    int rc = med_buf_reserve(&conn->out, count + sizeof line + 2);
    if (rc < 0)
        return rc;
    rc = med_buf_append(&conn->out, line + at, sizeof line - at);
    if (rc == 0)
        rc = med_buf_append(&conn->out, bytes, count);
    if (rc == 0 && x->chunked)
        rc = med_buf_append(&conn->out, "\r\n", 2);
    MED_ASSERT(rc == 0); /* there is room */
    med_http_conn_wake(conn);
    return 0;
}

void med_http_end(struct med_http_exchange *x)
{
    struct med_http_conn *conn = x->conn;
    MED_ASSERT(x->streams);
    if (conn->state != MED_HTTP_CONN_CLOSING && x->chunked && x->head.method != MED_HTTP_HEAD &&
        med_buf_append(&conn->out, "0\r\n\r\n", 5) < 0)
        conn->broken = true;
    med_http_conn_answered(conn);
}

void med_http_abort(struct med_http_exchange *x)
{
    struct med_http_conn *conn = x->conn;
    conn->broken = true;
    med_http_conn_answered(conn);
}

/* ---- pages -------------------------------------------------------------------------------------- */

void med_http_pages_respond(const struct med_http_pages *pages, struct med_http_exchange *x)
{
    struct med_http_answer answer;
    med_http_answer_init(&answer);
    if (x->head.method != MED_HTTP_GET && x->head.method != MED_HTTP_HEAD) {
        error_fill(&answer, 405, "only GET and HEAD are served here");
        answer.headers = "Allow: GET, HEAD\r\n";
        med_http_respond(x, &answer);
        return;
    }
    int rc = pages->handle(pages->self, x->head.path, &answer);
    if (rc == MED_E_NOT_FOUND) {
        error_fill(&answer, 404, "this path is not served");
    } else if (rc < 0) {
        error_fill(&answer, med_err_http_status(rc), med_err_text(rc));
    }
    med_http_respond(x, &answer);
}
