/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small strict HTTP/1.1 server for metrics, health and admin pages: GET and HEAD only.
 *
 * Router and worker give it a handler: path in, status, content type and body out.  The handler runs
 * on the loop and must not block.  Everything is bounded: header bytes (431), time for a head (408),
 * connections (more are closed at accept), one answer in flight per connection, time for a client to
 * read it.  Keep-alive and pipelining are supported.
 *
 * Life: new, listen, close; the memory goes when the last handle has closed, and only then is
 * on_closed called.
 * thread: the loop's. owns: its handles.
 */
#ifndef MED_ROUTER_HTTP_SERVER_H
#define MED_ROUTER_HTTP_SERVER_H

#include "base/buf.h"
#include "base/err.h"

#include <sys/socket.h>
#include <uv.h>

struct med_http_answer {
    int status;               /* 200 unless the handler says otherwise */
    const char *content_type; /* static; "application/json" unless the handler says otherwise */
    struct med_buf body;
};

struct med_http_handler {
    /* 0: *answer is filled.  < 0: the answer is the code's HTTP status and sentence as JSON;
     * MED_E_NOT_FOUND for a path that is not served. */
    int (*handle)(void *self, const char *path, struct med_http_answer *answer);
    void *self;
};

struct med_http_server;

int med_http_server_new(uv_loop_t *loop, const struct med_http_handler *handler,
                        struct med_http_server **ret_server) MED_MUST_CHECK;
/* Binds and listens; a port of 0 is chosen by the system. */
int med_http_server_listen(struct med_http_server *server, const struct sockaddr_storage *address,
                           struct med_err *err) MED_MUST_CHECK;
void med_http_server_address(const struct med_http_server *server,
                             struct sockaddr_storage *ret_address);
/* Closes listener and connections; answers in flight are dropped.  on_closed (may be NULL) is called
 * once, from the loop; the server is gone then.  NULL server: nothing, on_closed is not called. */
void med_http_server_close(struct med_http_server *server, void (*on_closed)(void *arg), void *arg);

#endif
