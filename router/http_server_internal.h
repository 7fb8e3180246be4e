/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside the HTTP server: connections and their exchanges.  Only router/http_server*.c include this.
 *
 * http_server.c          life: listener, accept, the sweep of deadlines, the flush before the loop sleeps
 * http_server_conn.c     a connection: bytes in, requests out of them, bytes out
 * http_server_answer.c   answers: heads, bodies, chunks, pages
 * http_server_head.c, http_server_body.c   the grammar, pure
 *
 * thread: loop, all of it.
 */
#ifndef MED_ROUTER_HTTP_SERVER_INTERNAL_H
#define MED_ROUTER_HTTP_SERVER_INTERNAL_H

#include "base/limits.h"
#include "base/thread.h"
#include "router/http_server.h"
#include "router/http_server_body.h"
#include "router/net.h"
#include "router/stream.h"

#include <time.h>

struct med_http_conn;

struct med_http_exchange {
    struct med_http_conn *conn;
    void *user;
    struct med_http_head head;
    char *lines; // owned; the head's bytes; values end in NUL once they were asked for
    size_t lines_bytes;
    struct med_buf content;
    bool streams; // start was called
    bool chunked;
    bool waited; // some of what was written could not be sent at once
};

enum med_http_conn_state {
    MED_HTTP_CONN_HEAD,      // idle, or part of a head has come
    MED_HTTP_CONN_BODY,      // the head is there
    MED_HTTP_CONN_ANSWERING, // the handler has the exchange
    MED_HTTP_CONN_LAST,      // what is out is the last
    MED_HTTP_CONN_LINGERING, // our side is shut; what still comes is dropped for a moment
    MED_HTTP_CONN_CLOSING
};

struct med_http_conn {
    struct med_http_server *server;
    struct med_http_conn *next, *prev; // in server->conns
    struct med_http_conn *flush_next;  // in server->to_flush
    struct med_stream stream;
    enum med_http_conn_state state;
    bool flush_listed, reading, serving, writes, broken;
    bool peer_ended;      // all that the client will ever send has come
    bool ends;            // after the answer under way
    bool owes;            // closing: the handler is to be told
    uint64_t deadline_ms; // uv_now; UINT64_MAX: none
    uint64_t since_ms;    // the head's first byte, or its end
    struct med_buf in;    // came, and was not taken
    size_t searched;      // of `in`, without the end of a head
    struct med_http_body_reader body;
    struct med_http_exchange *x; // open; from its head on
    struct med_buf out;          // to be sent
    struct med_buf writing;      // of the write in flight
    size_t unsent_least;         // of it, and of what the system holds, when last looked at
};

struct med_http_server {
    pthread_t thread;
    uv_tcp_t listener;
    uv_prepare_t flush;
    uint64_t swept_ms; /* uv_now of the last sweep */
    int put_offs;      /* sweeps that were late, one behind another */
    uv_timer_t sweep;
    bool listening; // the listener's handle is initialised
    int handles_open;
    bool closing, draining;
    bool retired; // as draining, but idle connections may still ask once
    struct med_http_handler handler;
    struct med_tls *tls; // borrowed; NULL: plain
    struct med_http_conn *conns, *to_flush;
    size_t connections_max;
    size_t body_bytes; // of all requests that are held
    struct med_http_server_stats stats;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
    time_t date_s;
    char date[40]; // "Sun, 06 Nov 1994 08:49:37 GMT"
    char scratch[1 << 16];
};

/* http_server_conn.c */
/* A connection that the listener offers; closes it if it cannot be taken. */
void med_http_conn_accept(struct med_http_server *server);
void med_http_conn_close(struct med_http_conn *conn);
/* It has bytes to send, or a request to take, when the loop is about to sleep. */
void med_http_conn_wake(struct med_http_conn *conn);
void med_http_conn_flush(struct med_http_conn *conn);
/* Its deadline has passed. */
void med_http_conn_expire(struct med_http_conn *conn);
/* The exchange's answer is whole in `out`. */
void med_http_conn_answered(struct med_http_conn *conn);
/* Idle, with nothing to send or take. */
bool med_http_conn_is_idle(const struct med_http_conn *conn);
/* Gives the memory of buffers back that hold nothing. */
void med_http_conn_rest(struct med_http_conn *conn);

/* http_server_answer.c */
/* The server's own answer to a request that is wrong, and the connection's last. conn->x may be NULL. */
void med_http_conn_refuse(struct med_http_conn *conn, int status, const char *message);
void med_http_exchange_free(struct med_http_exchange *x);

/* http_server.c */
void med_http_server_maybe_free(struct med_http_server *server);
/* The value of a Date header, now. */
const char *med_http_server_date(struct med_http_server *server);

#endif
