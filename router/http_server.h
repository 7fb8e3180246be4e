/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A strict HTTP/1.1 server on libuv: requests with bodies in, whole or streamed answers out.
 *
 * An exchange is one request and its answer.  The server gathers a request whole, within its limits, and
 * gives it to on_request.  The handler answers then or at any later time: with one respond, or with
 * start, any number of writes, and end.  The exchange is over with respond or end, and is not to be touched
 * after; if the client goes away before, or the server closes, on_gone is called instead, once, and
 * the exchange is over then.  Requests of a connection are served one after another, in their order;
 * those that are pipelined wait.
 *
 * What is written is sent before the loop sleeps, all that came in one turn together.  Unsent bytes of an
 * exchange are bounded: a write that does not fit is MED_E_LIMIT, and on_drained says when all has gone
 * out.  A client that takes nothing for 30 s while bytes wait for it is closed, at the latest after 60 s; one
 * that takes something, however slowly, is not.  A client that shuts its sending side while an answer is made
 * counts as gone.
 *
 * Everything is bounded (docs/internals/http.md): the head (431), the body (413), all bodies together
 * (503), the time for a head and for a body (408), idle time, connections (more are closed at accept).
 * Framing that RFC 9112 does not allow is refused with 400 and the connection's end.
 *
 * Life: new, listen, close; the memory goes when the last handle has closed, and only then is
 * on_closed called.  Drain between: no new connections, idle ones are closed, the others after the
 * answer that is under way.
 * thread: the loop's. owns: its handles.  source: RFC 9110, RFC 9112.
 */
#ifndef MED_ROUTER_HTTP_SERVER_H
#define MED_ROUTER_HTTP_SERVER_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <uv.h>

enum med_http_method {
    MED_HTTP_GET,
    MED_HTTP_HEAD,
    MED_HTTP_POST,
    MED_HTTP_PUT,
    MED_HTTP_DELETE,
    MED_HTTP_PATCH,
    MED_HTTP_OPTIONS,
    MED_HTTP_METHOD_COUNT
};

struct med_http_server;
struct med_http_exchange;
struct med_tls;

struct med_http_handler {
    void (*on_request)(void *self, struct med_http_exchange *x);
    /* Not from inside a call into this module. NULL: every answer is given inside on_request. */
    void (*on_gone)(void *self, struct med_http_exchange *x);
    /* All that was written has been sent, after some of it had to wait. May be NULL. */
    void (*on_drained)(void *self, struct med_http_exchange *x);
    /* An answer begins; path NULL: of a request that the server refuses itself. For counting: it must not
     * call back. May be NULL. */
    void (*on_status)(void *self, const char *path, int status);
    void *self;
};

/* ---- the request; strings are borrowed until the exchange is over -------------------------------- */

enum med_http_method med_http_method(const struct med_http_exchange *x);
const char *med_http_method_name(enum med_http_method method); /* "GET" */
const char *med_http_path(const struct med_http_exchange *x);  /* as it came, without the query */
const char *med_http_query(const struct med_http_exchange *x); /* after the "?"; "" */
/* The first header of that name, in any case; NULL: there is none. */
const char *med_http_header(const struct med_http_exchange *x, const char *name);
/* NUL-terminated; the NUL is not counted. */
const char *med_http_body(const struct med_http_exchange *x, size_t *ret_bytes);
/* What the handler hangs on it; NULL at first. */
void med_http_set_user(struct med_http_exchange *x, void *user);
void *med_http_user(const struct med_http_exchange *x);

/* ---- the answer --------------------------------------------------------------------------------- */

struct med_http_answer {
    int status;               /* 200 unless the handler says otherwise */
    const char *content_type; /* static; "application/json" unless the handler says otherwise */
    const char *headers;      /* more header lines, each ended by CR LF; NULL: none */
    struct med_buf body;
};

void med_http_answer_init(struct med_http_answer *answer);
/* The whole answer. Takes over the body; the exchange is over. Whatever cannot be sent ends the connection. */
void med_http_respond(struct med_http_exchange *x, struct med_http_answer *answer);
/* An answer in the form {"error":{"message","type","param","code"}}; `message` is a sentence without quotes
 * or control characters.  The exchange is over. */
void med_http_respond_error(struct med_http_exchange *x, int status, const char *message);

/* Begins a streamed answer. headers as above. */
void med_http_start(struct med_http_exchange *x, int status, const char *content_type,
                    const char *headers);
/* MED_E_LIMIT: MED_LIMIT_HTTP_UNSENT_BYTES wait already; MED_E_NOMEM. Nothing is written then. */
int med_http_write(struct med_http_exchange *x, const void *bytes, size_t count) MED_MUST_CHECK;
/* All was written; the exchange is over. */
void med_http_end(struct med_http_exchange *x);
/* A streamed answer cannot be brought to its end: the connection is cut, so that the client can tell. The
 * exchange is over. */
void med_http_abort(struct med_http_exchange *x);
size_t med_http_unsent(const struct med_http_exchange *x);

/* ---- pages: GET and HEAD, answered at once ------------------------------------------------------- */

struct med_http_pages {
    /* 0: *answer is filled.  < 0: the answer is the code's HTTP status and sentence as JSON;
     * MED_E_NOT_FOUND for a path that is not served. */
    int (*handle)(void *self, const char *path, struct med_http_answer *answer);
    void *self;
};
/* Answers the exchange with a page; 405 for other methods. */
void med_http_pages_respond(const struct med_http_pages *pages, struct med_http_exchange *x);

/* ---- the server --------------------------------------------------------------------------------- */

/* At most connections_max connections are held (up to MED_LIMIT_HTTP_CONNECTIONS; 0: as many). */
int med_http_server_new(uv_loop_t *loop, const struct med_http_handler *handler,
                        size_t connections_max, struct med_http_server **ret_server) MED_MUST_CHECK;
/* Before listen: connections speak TLS. tls is borrowed until the server is gone. */
void med_http_server_set_tls(struct med_http_server *server, struct med_tls *tls);
/* Binds and listens; a port of 0 is chosen by the system. */
int med_http_server_listen(struct med_http_server *server, const struct sockaddr_storage *address,
                           struct med_err *err) MED_MUST_CHECK;
/* Listens on a socket that is bound already, of another process perhaps; it is the server's then. */
int med_http_server_adopt(struct med_http_server *server, int fd,
                          struct med_err *err) MED_MUST_CHECK;
/* The listening socket, which stays the server's; -1: it does not listen. */
int med_http_server_fd(const struct med_http_server *server);
/* Takes no new connections; those that are there end with their next answer. */
void med_http_server_retire(struct med_http_server *server);
size_t med_http_server_connections(const struct med_http_server *server);
void med_http_server_address(const struct med_http_server *server,
                             struct sockaddr_storage *ret_address);
struct med_http_server_stats {
    size_t connections;
    uint64_t accepted, turned_away; /* connections */
    uint64_t requests;              /* given to the handler */
    uint64_t refused;               /* ended by the server itself: 4xx, 503 */
};
void med_http_server_get_stats(const struct med_http_server *server,
                               struct med_http_server_stats *ret_stats);
/* See the top. Idempotent. */
void med_http_server_drain(struct med_http_server *server);
/* Closes listener and connections; answers in flight are dropped.  on_closed (may be NULL) is called
 * once, from the loop; the server is gone then.  NULL server: nothing, on_closed is not called. */
void med_http_server_close(struct med_http_server *server, void (*on_closed)(void *arg), void *arg);

#endif
