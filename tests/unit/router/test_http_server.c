/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server on a loop, against clients that are plain sockets of the same thread: requests,
 * answers now and later, streams, slow readers, clients that vanish, drain and close. */
#include "base/alloc.h"
#include "base/buf.h"
#include "base/limits.h"
#include "router/http_server.h"
#include "router/http_server_internal.h"
#include "router/net.h"
#include "tests/check.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    REQUESTS_MAX = 4096,
    PATIENCE_MS = 20 * 1000
};

static uv_loop_t loop;
static struct med_http_server *server;
static struct sockaddr_storage address;

/* What the handler was told. */
static struct {
    struct med_http_exchange *x[REQUESTS_MAX]; // in their order
    int requests, gone, drained;
    struct med_http_exchange *gone_last;
    bool at_once;      // answer inside on_request
    size_t large_next; // the next one so, with so many bytes
    bool closed;
} told;

static void answer(struct med_http_exchange *x)
{
    struct med_http_answer said;
    size_t bytes = 0;
    med_http_answer_init(&said);
    said.content_type = "text/plain";
    said.headers = "X-Test: yes\r\n";
    const char *header = med_http_header(x, "x-asked");
    const char *body = med_http_body(x, &bytes);
    int rc =
        med_buf_printf(&said.body, "%d %s?%s [%s] %s", (int)med_http_method(x), med_http_path(x),
                       med_http_query(x), header != NULL ? header : "-", body);
    CHECK_INT(rc, 0);
    CHECK_UINT(strlen(body), bytes);
    med_http_respond(x, &said);
}

enum {
    LARGE_BYTES = 16 << 20 /* more than the system holds for a connection */
};

/* A whole answer that has to wait for its client. */
static void answer_large(struct med_http_exchange *x, size_t bytes)
{
    struct med_http_answer said;
    med_http_answer_init(&said);
    REQUIRE(med_buf_reserve(&said.body, bytes) == 0);
    memset(said.body.data, 'y', bytes);
    said.body.length = bytes;
    med_http_respond(x, &said);
}

static void on_request(void *self, struct med_http_exchange *x)
{
    CHECK(self == &told);
    CHECK(med_http_user(x) == NULL);
    REQUIRE(told.requests < REQUESTS_MAX);
    told.x[told.requests++] = x;
    if (told.large_next > 0) {
        answer_large(x, told.large_next);
        told.large_next = 0;
    } else if (told.at_once) {
        answer(x);
    }
}

static void on_gone(void *self, struct med_http_exchange *x)
{
    CHECK(self == &told);
    told.gone++;
    told.gone_last = x;
}

static void on_drained(void *self, struct med_http_exchange *x)
{
    CHECK(self == &told);
    CHECK(x == told.x[told.requests - 1]);
    told.drained++;
}

static void on_closed(void *arg)
{
    CHECK(arg == &told);
    told.closed = true;
}

static void set_up(bool at_once)
{
    const struct med_http_handler handler = {
        .on_request = on_request, .on_gone = on_gone, .on_drained = on_drained, .self = &told};
    struct med_err err = {0};
    memset(&told, 0, sizeof told);
    told.at_once = at_once;
    REQUIRE(uv_loop_init(&loop) == 0);
    REQUIRE(med_http_server_new(&loop, &handler, 8, &server) == 0);
    REQUIRE(med_net_parse("127.0.0.1:0", "address", &address, &err) == 0);
    REQUIRE(med_http_server_listen(server, &address, &err) == 0);
    med_http_server_address(server, &address);
}

static void server_close(void)
{
    med_http_server_close(server, on_closed, &told);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    CHECK(told.closed);
    server = NULL;
}

static void tear_down(void)
{
    if (server != NULL)
        server_close();
    CHECK_INT(uv_loop_close(&loop), 0);
    CHECK_INT(med_alloc_bytes_live(), 0);
}

/* ---- clients ---- */

struct client {
    int fd;
    bool ended; // the server has closed its side
    struct med_buf got;
};

static void client_open(struct client *client, int receive_bytes)
{
    memset(client, 0, sizeof *client);
    client->fd = socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(client->fd >= 0);
    if (receive_bytes > 0)
        (void)setsockopt(client->fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    med_buf_init(&client->got, 64 << 20);
    REQUIRE(connect(client->fd, (struct sockaddr *)&address, sizeof(struct sockaddr_in)) == 0);
}

static void client_close(struct client *client)
{
    (void)close(client->fd);
    med_buf_release(&client->got);
}

static void client_send(struct client *client, const char *bytes)
{
    CHECK_INT(send(client->fd, bytes, strlen(bytes), MSG_NOSIGNAL), (int64_t)strlen(bytes));
}

static void turn(void)
{
    (void)uv_run(&loop, UV_RUN_NOWAIT);
    (void)poll(NULL, 0, 1);
}

static void client_receive(struct client *client)
{
    char bytes[1 << 16];
    for (;;) {
        ssize_t count = recv(client->fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (count <= 0) {
            client->ended = client->ended || count == 0 || (errno != EAGAIN && errno != EINTR);
            return;
        }
        REQUIRE(med_buf_append(&client->got, bytes, (size_t)count) == 0);
    }
}

static const char *text_of(const struct client *client)
{
    return client->got.length > 0 ? client->got.data : "";
}

/* Turns the loop until the client has got `part`. */
static bool client_sees(struct client *client, const char *part)
{
    for (int i = 0; i < PATIENCE_MS; i++) {
        turn();
        client_receive(client);
        if (med_buf_append(&client->got, "", 1) != 0)
            return false;
        client->got.length--; // the NUL is for strstr
        if (strstr(text_of(client), part) != NULL)
            return true;
    }
    (void)fprintf(stderr, "waited for \"%s\", got \"%s\"\n", part, text_of(client));
    return false;
}

static bool client_sees_the_end(struct client *client)
{
    for (int i = 0; i < PATIENCE_MS && !client->ended; i++) {
        turn();
        client_receive(client);
    }
    return client->ended;
}

static bool wait_for(const int *counter, int value)
{
    for (int i = 0; i < PATIENCE_MS && *counter != value; i++)
        turn();
    return *counter == value;
}

static int occurrences(const struct client *client, const char *part)
{
    int count = 0;
    for (const char *at = strstr(text_of(client), part); at != NULL; at = strstr(at + 1, part))
        count++;
    return count;
}

/* ---- whole answers ---- */

static void test_a_request_is_given_whole_and_answered(void)
{
    struct client client;
    set_up(true);
    client_open(&client, 0);
    client_send(&client, "POST /a/b?c=d HTTP/1.1\r\nHost: x\r\nX-ASKED:  why \r\n"
                         "Content-Length: 5\r\n\r\nhe");
    turn();
    CHECK_INT(told.requests, 0);
    client_send(&client, "llo");
    CHECK(client_sees(&client, "2 /a/b?c=d [why] hello"));
    CHECK_INT(told.requests, 1);
    CHECK_CONTAINS(text_of(&client), "HTTP/1.1 200 OK\r\n");
    CHECK_CONTAINS(text_of(&client), "\r\nX-Test: yes\r\n");
    CHECK_CONTAINS(text_of(&client), "\r\nContent-Type: text/plain\r\n");
    CHECK_CONTAINS(text_of(&client), "\r\nContent-Length: 22\r\n");
    CHECK_CONTAINS(text_of(&client), "\r\nDate: ");
    client_send(&client, "POST /chunks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                         "3\r\nfoo\r\n3\r\nbar\r\n0\r\n\r\n");
    CHECK(client_sees(&client, "2 /chunks? [-] foobar"));
    client_send(&client,
                "HEAD /head HTTP/1.1\r\nHost: x\r\n\r\nGET /tail HTTP/1.1\r\nHost: x\r\n\r\n");
    CHECK(client_sees(&client, "0 /tail? [-] "));
    CHECK(strstr(text_of(&client), "1 /head") == NULL);
    CHECK_INT(told.gone, 0);
    client_close(&client);
    tear_down();
}

static void test_requests_of_a_connection_are_answered_one_after_another(void)
{
    struct client client;
    set_up(false);
    client_open(&client, 0);
    client_send(&client, "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n"
                         "GET /3 HTTP/1.1\r\nHost: x\r\n\r\n");
    for (int i = 1; i <= 3; i++) {
        CHECK(wait_for(&told.requests, i));
        for (int t = 0; t < 20; t++)
            turn();
        CHECK_INT(told.requests, i); // the next one waits
        answer(told.x[i - 1]);
    }
    CHECK(client_sees(&client, "/3?"));
    const char *first = strstr(text_of(&client), "/1?"), *second = strstr(text_of(&client), "/2?");
    REQUIRE(first != NULL);
    REQUIRE(second != NULL);
    CHECK(first < second);
    client_close(&client);
    tear_down();
}

static void test_more_than_is_read_ahead_is_taken_up_again(void)
{
    struct client client;
    char request[4200];
    set_up(false);
    client_open(&client, 0);
    (void)snprintf(request, sizeof request, "GET /x HTTP/1.1\r\nHost: x\r\nA: %04000d\r\n\r\n", 0);
    for (int i = 0; i < 40; i++)
        client_send(&client, request);
    for (int i = 1; i <= 40; i++) {
        REQUIRE(wait_for(&told.requests, i));
        for (int t = 0; t < 5; t++)
            turn();
        answer(told.x[i - 1]);
    }
    for (int i = 0; i < PATIENCE_MS && occurrences(&client, "/x?") < 40; i++)
        CHECK(client_sees(&client, "/x?"));
    CHECK_INT(occurrences(&client, "/x?"), 40);
    client_close(&client);
    tear_down();
}

static void test_continue_is_said_when_the_body_is_waited_for(void)
{
    struct client client;
    set_up(true);
    client_open(&client, 0);
    client_send(&client,
                "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    CHECK(client_sees(&client, "HTTP/1.1 100 Continue\r\n\r\n"));
    CHECK_INT(told.requests, 0);
    client_send(&client, "ok");
    CHECK(client_sees(&client, "[-] ok"));
    client_send(
        &client,
        "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n");
    CHECK(client_sees(&client, "HTTP/1.1 413 "));
    CHECK(client_sees_the_end(&client));
    CHECK_INT(occurrences(&client, "100 Continue"), 1);
    CHECK_INT(told.requests, 1);
    client_close(&client);
    tear_down();
}

static void test_refusals_are_counted_and_end_the_connection(void)
{
    struct client client;
    struct med_http_server_stats stats;
    set_up(true);
    client_open(&client, 0);
    client_send(&client, "GET / HTTP/1.1\r\nHost : x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n");
    CHECK(client_sees(&client, "HTTP/1.1 400 "));
    CHECK_CONTAINS(text_of(&client), "\"error\":{\"message\":\"");
    CHECK(client_sees_the_end(&client));
    CHECK_INT(told.requests, 0);
    med_http_server_get_stats(server, &stats);
    CHECK_UINT(stats.refused, 1);
    CHECK_UINT(stats.accepted, 1);
    CHECK_UINT(stats.requests, 0);
    client_close(&client);
    tear_down();
}

static void test_connections_beyond_the_maximum_are_turned_away(void)
{
    struct client clients[9];
    struct med_http_server_stats stats;
    set_up(true);
    for (int i = 0; i < 9; i++) {
        client_open(&clients[i], 0);
        if (i < 8) {
            client_send(&clients[i], "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            CHECK(client_sees(&clients[i], "[-]"));
        }
    }
    CHECK(client_sees_the_end(&clients[8]));
    med_http_server_get_stats(server, &stats);
    CHECK_UINT(stats.connections, 8);
    CHECK_UINT(stats.turned_away, 1);
    client_send(&clients[0], "GET /again HTTP/1.1\r\nHost: x\r\n\r\n");
    CHECK(client_sees(&clients[0], "/again?"));
    for (int i = 0; i < 9; i++)
        client_close(&clients[i]);
    tear_down();
}

/* ---- streams ---- */

static void test_a_stream_is_sent_in_chunks(void)
{
    struct client client;
    set_up(false);
    client_open(&client, 0);
    client_send(&client, "GET /s HTTP/1.1\r\nHost: x\r\n\r\nGET /t HTTP/1.1\r\nHost: x\r\n\r\n");
    REQUIRE(wait_for(&told.requests, 1));
    struct med_http_exchange *x = told.x[0];
    med_http_set_user(x, &client);
    CHECK(med_http_user(x) == &client);
    med_http_start(x, 200, "text/event-stream", "Cache-Control: no-cache\r\n");
    CHECK_INT(med_http_write(x, "data: a\n\n", 9), 0);
    CHECK_INT(med_http_write(x, "0123456789abcdefghij", 20), 0);
    CHECK_INT(med_http_write(x, "", 0), 0); // no chunk: it would be the last
    CHECK(client_sees(&client, "\r\n\r\n9\r\ndata: a\n\n\r\n14\r\n0123456789abcdefghij\r\n"));
    CHECK_CONTAINS(text_of(&client), "Transfer-Encoding: chunked\r\n");
    CHECK_CONTAINS(text_of(&client), "Cache-Control: no-cache\r\n");
    CHECK(strstr(text_of(&client), "Content-Length") == NULL);
    CHECK_UINT(med_http_unsent(x), 0);
    CHECK_INT(told.requests, 1);
    med_http_end(x);
    CHECK(client_sees(&client, "\r\n0\r\n\r\n"));
    REQUIRE(wait_for(&told.requests, 2)); // the connection stays
    answer(told.x[1]);
    CHECK(client_sees(&client, "/t?"));
    CHECK_INT(told.gone, 0);
    CHECK_INT(told.drained, 0);
    client_close(&client);
    tear_down();
}

static void test_http_1_0_and_head_get_streams_without_chunks(void)
{
    static const char *const requests[] = {
        "GET /s HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "HEAD /s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"};
    for (size_t i = 0; i < 2; i++) {
        struct client client;
        set_up(false);
        client_open(&client, 0);
        client_send(&client, requests[i]);
        REQUIRE(wait_for(&told.requests, 1));
        med_http_start(told.x[0], 200, "text/plain", NULL);
        CHECK_INT(med_http_write(told.x[0], "hello ", 6), 0);
        CHECK_INT(med_http_write(told.x[0], "world", 5), 0);
        med_http_end(told.x[0]);
        CHECK(client_sees_the_end(&client));
        CHECK(client_sees(&client, "Connection: close\r\n"));
        const char *body = strstr(text_of(&client), "\r\n\r\n");
        REQUIRE(body != NULL);
        CHECK_STR(body + 4, i == 0 ? "hello world" : "");
        client_close(&client);
        tear_down();
    }
}

static void test_a_slow_reader_has_bounded_bytes_and_is_told_of_room(void)
{
    static char piece[10000];
    struct client client;
    size_t written = 0;
    set_up(false);
    client_open(&client, 4096);
    client_send(&client, "GET /s HTTP/1.0\r\n\r\n");
    REQUIRE(wait_for(&told.requests, 1));
    struct med_http_exchange *x = told.x[0];
    memset(piece, 'x', sizeof piece);
    med_http_start(x, 200, "text/plain", NULL);
    for (int round = 0; round < 3; round++) {
        int rc = 0;
        for (int i = 0; i < 100000 && rc == 0; i++) {
            rc = med_http_write(x, piece, sizeof piece);
            written += rc == 0 ? sizeof piece : 0;
            if (i % 16 == 0)
                turn();
        }
        CHECK_INT(rc, MED_E_LIMIT);
        CHECK(med_http_unsent(x) <= MED_LIMIT_HTTP_UNSENT_BYTES);
        CHECK(med_http_unsent(x) + sizeof piece > MED_LIMIT_HTTP_UNSENT_BYTES);
        CHECK_INT(told.drained, round);
        for (int i = 0; i < PATIENCE_MS && told.drained == round; i++) {
            turn();
            client_receive(&client);
        }
        CHECK_INT(told.drained, round + 1);
        CHECK_UINT(med_http_unsent(x), 0);
    }
    med_http_end(x);
    CHECK(client_sees_the_end(&client));
    REQUIRE(med_buf_append(&client.got, "", 1) == 0);
    const char *body = strstr(client.got.data, "\r\n\r\n");
    REQUIRE(body != NULL);
    CHECK_UINT(strlen(body + 4), written);
    CHECK_INT(told.gone, 0);
    client_close(&client);
    tear_down();
}

static void test_an_abort_cuts_the_stream(void)
{
    struct client client;
    set_up(false);
    client_open(&client, 0);
    client_send(&client, "GET /s HTTP/1.1\r\nHost: x\r\n\r\n");
    REQUIRE(wait_for(&told.requests, 1));
    med_http_start(told.x[0], 200, "text/plain", NULL);
    CHECK_INT(med_http_write(told.x[0], "begun", 5), 0);
    CHECK(client_sees(&client, "begun"));
    med_http_abort(told.x[0]);
    CHECK(client_sees_the_end(&client));
    CHECK(strstr(text_of(&client), "\r\n0\r\n") == NULL);
    CHECK_INT(told.gone, 0);
    client_close(&client);
    tear_down();
}

/* ---- slow readers ---- */

/* Turns the loop until the client has got so many bytes, or the end. */
static void client_gets(struct client *client, size_t bytes)
{
    for (int i = 0; i < PATIENCE_MS && client->got.length < bytes && !client->ended; i++) {
        turn();
        client_receive(client);
    }
}

static void test_a_waiting_answer_is_no_news_for_the_next_exchange(void)
{
    struct client client;
    const int send_bytes = 4096;
    set_up(false);
    told.large_next = 200 << 10;
    /* Connections inherit it: little of the answer can be sent at once. */
    REQUIRE(setsockopt(med_http_server_fd(server), SOL_SOCKET, SO_SNDBUF, &send_bytes,
                       sizeof send_bytes) == 0);
    client_open(&client, 4096);
    client_send(&client, "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n");
    REQUIRE(wait_for(&told.requests, 2));
    CHECK(med_http_unsent(told.x[1]) > 0);
    client_gets(&client, 200 << 10);
    for (int t = 0; t < 20; t++)
        turn();
    CHECK_INT(told.drained, 0); // the second has written nothing
    answer(told.x[1]);
    CHECK(client_sees(&client, "/2?"));
    client_close(&client);
    tear_down();
}

/* The deadline of a write is let pass by hand: a client that takes something gets another. */
static void test_only_a_client_that_takes_nothing_is_cut(void)
{
    struct client client;
    set_up(false);
    client_open(&client, 4096);
    client_send(&client, "GET /1 HTTP/1.1\r\nHost: x\r\n\r\n");
    REQUIRE(wait_for(&told.requests, 1));
    struct med_http_conn *conn = told.x[0]->conn;
    answer_large(told.x[0], LARGE_BYTES);
    for (int taken = 0; client.got.length < LARGE_BYTES / 2; taken++) {
        REQUIRE(taken < 100);
        client_gets(&client, client.got.length + 65536);
        REQUIRE(conn->writes);
        med_http_conn_expire(conn);
        REQUIRE(conn->state != MED_HTTP_CONN_CLOSING);
        CHECK(conn->deadline_ms != UINT64_MAX);
    }
    for (int i = 0; i < 3 && conn->state != MED_HTTP_CONN_CLOSING; i++) {
        for (int t = 0; t < 50; t++)
            turn(); // what is on its way arrives
        med_http_conn_expire(conn);
    }
    REQUIRE(conn->state == MED_HTTP_CONN_CLOSING);
    CHECK(client_sees_the_end(&client));
    CHECK(client.got.length < LARGE_BYTES);
    client_close(&client);
    tear_down();
}

/* Answers that nobody reads stop the reading of requests, not the connection. */
static void test_requests_wait_while_their_answers_are_not_read(void)
{
    enum {
        COUNT = 3000,
        BYTES = 4000
    };
    struct client client;
    struct med_buf requests;
    size_t sent = 0;
    set_up(true);
    client_open(&client, 4096);
    med_buf_init(&requests, (size_t)COUNT * (BYTES + 100));
    for (int i = 0; i < COUNT; i++) {
        REQUIRE(med_buf_printf(&requests, "GET /%d HTTP/1.1\r\nHost: x\r\nX-Asked: %0*d\r\n\r\n", i,
                               BYTES, 0) == 0);
    }
    bool reads = false;
    for (int idle = 0; client.got.length < (size_t)COUNT * BYTES && idle < PATIENCE_MS; idle++) {
        ssize_t count = sent < requests.length
                            ? send(client.fd, requests.data + sent, requests.length - sent,
                                   MSG_NOSIGNAL | MSG_DONTWAIT)
                            : 0;
        size_t before = client.got.length;
        if (count > 0)
            sent += (size_t)count;
        turn();
        if (reads)
            client_receive(&client);
        if (count > 0 || client.got.length > before)
            idle = 0;
        if (idle == 100)
            reads = true; // nothing moves any more
        REQUIRE(!client.ended);
    }
    CHECK(client_sees(&client, "/2999?"));
    CHECK_INT(told.requests, COUNT);
    med_buf_release(&requests);
    client_close(&client);
    tear_down();
}

/* ---- ends ---- */

static void test_a_client_that_leaves_is_told_once(void)
{
    set_up(false);
    for (int streams = 0; streams <= 1; streams++) {
        struct client client;
        client_open(&client, 0);
        client_send(&client,
                    "GET /s HTTP/1.1\r\nHost: x\r\n\r\nGET /t HTTP/1.1\r\nHost: x\r\n\r\n");
        REQUIRE(wait_for(&told.requests, streams + 1));
        struct med_http_exchange *x = told.x[streams];
        if (streams == 1) {
            med_http_start(x, 200, "text/plain", NULL);
            CHECK_INT(med_http_write(x, "a", 1), 0);
        }
        client_close(&client);
        CHECK(wait_for(&told.gone, streams + 1));
        CHECK(told.gone_last == x);
    }
    for (int t = 0; t < 20; t++)
        turn();
    CHECK_INT(told.gone, 2);
    CHECK_INT(told.requests, 2); // what was pipelined is not served
    tear_down();
}

/* A client that has shut its side looks the same as one that has left, docs/adr/0072. */
static void test_a_side_that_is_shut_is_gone_while_an_answer_is_made(void)
{
    struct client client;
    set_up(false);
    client_open(&client, 0);
    client_send(&client, "GET /1 HTTP/1.1\r\nHost: x\r\n\r\n");
    REQUIRE(wait_for(&told.requests, 1));
    CHECK_INT(shutdown(client.fd, SHUT_WR), 0);
    CHECK(wait_for(&told.gone, 1));
    CHECK(told.gone_last == told.x[0]);
    CHECK(client_sees_the_end(&client));
    CHECK_UINT(client.got.length, 0);
    client_close(&client);
    /* What is whole already is sent. */
    told.at_once = true;
    client_open(&client, 0);
    client_send(&client, "GET /2 HTTP/1.1\r\nHost: x\r\n\r\nGET /3 HTTP/1.1\r\nHost: x\r\n\r\n");
    CHECK_INT(shutdown(client.fd, SHUT_WR), 0);
    CHECK(client_sees(&client, "/3?"));
    CHECK_INT(occurrences(&client, "/2?"), 1);
    CHECK(client_sees_the_end(&client));
    CHECK_INT(told.gone, 1);
    client_close(&client);
    tear_down();
}

static void test_close_tells_of_exchanges_that_are_open(void)
{
    struct client clients[3];
    set_up(false);
    for (int i = 0; i < 3; i++) {
        client_open(&clients[i], 0);
        client_send(&clients[i], "GET /s HTTP/1.1\r\nHost: x\r\n\r\n");
        REQUIRE(wait_for(&told.requests, i + 1));
    }
    answer(told.x[0]);
    med_http_start(told.x[1], 200, "text/plain", NULL);
    server_close();
    CHECK_INT(told.gone, 2);
    for (int i = 0; i < 3; i++)
        client_close(&clients[i]);
    tear_down();
}

static void test_drain_closes_the_idle_and_lets_the_others_finish(void)
{
    struct client idle, busy;
    set_up(false);
    client_open(&idle, 0);
    client_open(&busy, 0);
    client_send(&idle, "GET /i HTTP/1.1\r\nHost: x\r\n\r\n");
    REQUIRE(wait_for(&told.requests, 1));
    answer(told.x[0]);
    CHECK(client_sees(&idle, "/i?"));
    CHECK_CONTAINS(text_of(&idle), "Connection: keep-alive\r\n");
    client_send(&busy, "GET /b HTTP/1.1\r\nHost: x\r\n\r\nGET /c HTTP/1.1\r\nHost: x\r\n\r\n");
    REQUIRE(wait_for(&told.requests, 2));
    med_http_server_drain(server);
    med_http_server_drain(server);
    CHECK(client_sees_the_end(&idle));
    CHECK(!busy.ended);
    answer(told.x[1]);
    CHECK(client_sees(&busy, "/b?"));
    CHECK_CONTAINS(text_of(&busy), "Connection: close\r\n");
    CHECK(client_sees_the_end(&busy));
    CHECK_INT(told.requests, 2);
    client_close(&idle);
    client_close(&busy);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(fd >= 0);
    CHECK(connect(fd, (struct sockaddr *)&address, sizeof(struct sockaddr_in)) < 0);
    (void)close(fd);
    CHECK_INT(told.gone, 0);
    tear_down();
}

int main(void)
{
    RUN(test_a_request_is_given_whole_and_answered);
    RUN(test_requests_of_a_connection_are_answered_one_after_another);
    RUN(test_more_than_is_read_ahead_is_taken_up_again);
    RUN(test_continue_is_said_when_the_body_is_waited_for);
    RUN(test_refusals_are_counted_and_end_the_connection);
    RUN(test_connections_beyond_the_maximum_are_turned_away);
    RUN(test_a_stream_is_sent_in_chunks);
    RUN(test_http_1_0_and_head_get_streams_without_chunks);
    RUN(test_a_slow_reader_has_bounded_bytes_and_is_told_of_room);
    RUN(test_an_abort_cuts_the_stream);
    RUN(test_a_waiting_answer_is_no_news_for_the_next_exchange);
    RUN(test_only_a_client_that_takes_nothing_is_cut);
    RUN(test_requests_wait_while_their_answers_are_not_read);
    RUN(test_a_client_that_leaves_is_told_once);
    RUN(test_a_side_that_is_shut_is_gone_while_an_answer_is_made);
    RUN(test_close_tells_of_exchanges_that_are_open);
    RUN(test_drain_closes_the_idle_and_lets_the_others_finish);
    return check_finish();
}
