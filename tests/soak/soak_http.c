/* SPDX-License-Identifier: Apache-2.0 */
/*
 * soak_client at the HTTP door: POST /v1/completions over keep-alive connections, on poll.
 *
 * A connection has one request at a time.  Answers are read whole as far as they are needed: status,
 * Content-Length or chunks, and the events of a stream.  A cancelled request is a closed connection,
 * with a reset in half of the cases.  There is no deadline field in HTTP: such requests are cancelled
 * after their time.
 */
#include "base/clock.h"
#include "tests/soak/soak_client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    IN_BYTES = 1 << 18,
    OUT_BYTES = 1 << 13,
    STALL_S = 120
};

struct conn {
    int fd; /* -1: none */
    bool busy;
    struct soak_request request;
    int64_t began_ns;
    char out[OUT_BYTES];
    size_t out_bytes, out_sent;
    char *in; /* [IN_BYTES] of the answer */
    size_t in_bytes;
    uint32_t events; /* of a stream, with text */
    size_t scanned;
};

static struct sockaddr_in parse_address(const char *text)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    char host[64];
    const char *colon = strrchr(text, ':');
    if (colon == NULL || (size_t)(colon - text) >= sizeof(host)) {
        (void)fprintf(stderr, "soak_client: expected HOST:PORT, found %s\n", text);
        exit(2);
    }
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = '\0';
    address.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) {
        (void)fprintf(stderr, "soak_client: expected an IPv4 address, found %s\n", host);
        exit(2);
    }
    return address;
}

static void disconnect(struct conn *conn, bool reset)
{
    const struct linger hard = {.l_onoff = 1, .l_linger = 0};
    if (conn->fd < 0)
        return;
    if (reset)
        (void)setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    (void)close(conn->fd);
    conn->fd = -1;
}

static int connect_to(struct conn *conn, const struct sockaddr_in *address)
{
    const int one = 1;
    conn->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (conn->fd < 0 || connect(conn->fd, (const struct sockaddr *)address, sizeof(*address)) < 0) {
        disconnect(conn, false);
        return -1;
    }
    (void)setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fcntl(conn->fd, F_SETFL, O_NONBLOCK);
}

static void begin(struct soak *soak, struct conn *conn, int64_t now_ns)
{
    char body[OUT_BYTES - 512];
    size_t used = 0;
    soak_draw(soak, &conn->request);
    const struct soak_request *r = &conn->request;
    used += (size_t)snprintf(body, sizeof(body),
                             "{\"max_tokens\": %u, \"temperature\": 0, \"ignore_eos\": true, "
                             "\"stream\": %s, \"stream_options\": %s, \"prompt\": [",
                             r->tokens, r->is_stream ? "true" : "false",
                             r->is_stream ? "{\"include_usage\": true}" : "null");
    for (uint32_t i = 0; i < r->prompt_count; i++) {
        used += (size_t)snprintf(body + used, sizeof(body) - used, "%s%u", i > 0 ? "," : "",
                                 med_rng_below(&soak->rng, SOAK_VOCABULARY));
    }
    used += (size_t)snprintf(body + used, sizeof(body) - used, "]%s}",
                             r->kind == SOAK_WRONG ? ", \"temperature\": -1" : "");
    conn->out_bytes = (size_t)snprintf(conn->out, sizeof(conn->out),
                                       "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                                       "Content-Type: application/json\r\nContent-Length: %zu\r\n"
                                       "\r\n%s",
                                       used, body);
    conn->out_sent = 0;
    conn->in_bytes = 0;
    conn->events = 0;
    conn->scanned = 0;
    conn->busy = true;
    conn->began_ns = now_ns;
}

static void end(struct soak *soak, struct conn *conn, const char *how)
{
    soak_end(soak, &conn->request, how);
    conn->busy = false;
}

/* The value of a header of the answer, lower case name with colon; NULL: none. */
static const char *header(const char *head, const char *name)
{
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, name, strlen(name)) == 0)
            return line + 2 + strlen(name) + strspn(line + 2 + strlen(name), " ");
    }
    return NULL;
}

/* The number behind the last `"completion_tokens":` of the answer. */
static uint32_t said_tokens(const char *text)
{
    static const char key[] = "\"completion_tokens\":";
    const char *found = NULL;
    for (const char *at = strstr(text, key); at != NULL; at = strstr(at + 1, key))
        found = at;
    return found != NULL ? (uint32_t)strtoul(found + sizeof(key) - 1, NULL, 10) : UINT32_MAX;
}

static void whole(struct soak *soak, struct conn *conn, const char *text)
{
    char how[40];
    unsigned status = (unsigned)strtoul(conn->in + 9, NULL, 10);
    (void)snprintf(how, sizeof(how), "%u", status);
    if (status == 200 && strstr(text, "\"error\"") != NULL) {
        (void)snprintf(how, sizeof(how), "error_event");
    } else if (status == 200) {
        uint32_t said = said_tokens(text);
        soak->tokens += said;
        if (said != conn->request.tokens) {
            soak_complain(soak, "an answer is not whole", text);
        } else if (conn->request.is_stream && strstr(text, "data: [DONE]") == NULL) {
            soak_complain(soak, "a stream has no end", text);
        }
    }
    if (conn->request.kind == SOAK_PLAIN && strcmp(how, "200") != 0)
        (void)fprintf(stderr, "plain request failed: %s: %.200s\n", how, text);
    const char *connection = header(conn->in, "connection:");
    end(soak, conn, how);
    if (connection != NULL && strncasecmp(connection, "close", 5) == 0)
        disconnect(conn, false);
}

/* Looks whether the answer is whole. */
static void look(struct soak *soak, struct conn *conn)
{
    conn->in[conn->in_bytes] = '\0';
    char *body = strstr(conn->in, "\r\n\r\n");
    if (body == NULL)
        return;
    *body = '\0';
    const char *length = header(conn->in, "content-length:");
    bool chunked = header(conn->in, "transfer-encoding:") != NULL;
    char *text = body + 4;
    size_t have = conn->in_bytes - (size_t)(text - conn->in);
    bool done = false;
    if (length != NULL) {
        done = have >= strtoul(length, NULL, 10);
    } else if (chunked) {
        done = have >= 5 && strcmp(text + have - 5, "0\r\n\r\n") == 0;
    }
    if (done) {
        whole(soak, conn, text);
    } else {
        *body = '\r';
    }
}

/* Events that have come, of a stream. */
static void count_events(struct conn *conn)
{
    conn->in[conn->in_bytes] = '\0';
    const char *at = conn->in + conn->scanned;
    while ((at = strstr(at, "data: {")) != NULL) {
        conn->events++;
        at += 7;
        conn->scanned = (size_t)(at - conn->in);
    }
}

static void read_more(struct soak *soak, struct conn *conn)
{
    ssize_t n = read(conn->fd, conn->in + conn->in_bytes, IN_BYTES - 1 - conn->in_bytes);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        if (conn->busy)
            end(soak, conn, "closed_by_peer");
        disconnect(conn, false);
        return;
    }
    if (!conn->busy)
        return;
    conn->in_bytes += (size_t)n;
    if (conn->in_bytes == IN_BYTES - 1) {
        (void)fprintf(stderr, "soak_client: an answer over %d bytes\n", IN_BYTES);
        exit(1);
    }
    count_events(conn);
    look(soak, conn);
}

static void write_more(struct conn *conn)
{
    ssize_t n =
        send(conn->fd, conn->out + conn->out_sent, conn->out_bytes - conn->out_sent, MSG_NOSIGNAL);
    if (n > 0)
        conn->out_sent += (size_t)n;
}

/* Does this request end now, by us? */
static bool is_time(const struct conn *conn, int64_t now_ns)
{
    const struct soak_request *r = &conn->request;
    bool sent = conn->out_sent == conn->out_bytes;
    switch (r->kind) {
    case SOAK_CANCEL_EARLY:
        return sent || conn->out_sent > r->cancel_at;
    case SOAK_CANCEL_LATE:
        return r->is_stream ? conn->events >= r->cancel_at
                            : sent && now_ns - conn->began_ns > r->timeout_ns / 4;
    case SOAK_DEADLINE:
        return now_ns - conn->began_ns > r->timeout_ns;
    default:
        return false;
    }
}

static void step(struct soak *soak, struct conn *conn, short events, int64_t now_ns)
{
    if (conn->fd >= 0 && (events & (POLLIN | POLLHUP | POLLERR)) != 0)
        read_more(soak, conn);
    if (conn->busy && conn->fd >= 0 && (events & POLLOUT) != 0)
        write_more(conn);
    if (conn->busy && conn->fd >= 0 && is_time(conn, now_ns)) {
        disconnect(conn, med_rng_below(&soak->rng, 2) == 0);
        end(soak, conn, "disconnected");
    }
}

/* The next request, over a new connection where the one before has closed it. */
static void start(struct soak *soak, struct conn *conn, const struct sockaddr_in *address,
                  int64_t now_ns)
{
    if (conn->fd < 0 && connect_to(conn, address) < 0) {
        (void)fprintf(stderr, "soak_client: cannot connect: %s\n", strerror(errno));
        exit(1);
    }
    begin(soak, conn, now_ns);
}

static _Noreturn void no_memory(void)
{
    (void)fprintf(stderr, "soak_client: no memory\n");
    exit(1);
}

int soak_run_http(struct soak *soak)
{
    const struct sockaddr_in address = parse_address(soak->address);
    const struct med_clock clock = {.scale = 1};
    struct conn *conns = calloc(soak->concurrency, sizeof(*conns));
    struct pollfd *polls = calloc(soak->concurrency, sizeof(*polls));
    if (conns == NULL || polls == NULL)
        no_memory();
    for (uint32_t i = 0; i < soak->concurrency; i++) {
        conns[i].fd = -1;
        conns[i].in = malloc(IN_BYTES);
        if (conns[i].in == NULL)
            no_memory();
    }
    uint64_t ended = 0;
    int64_t moved_ns = med_clock_now_ns(&clock);
    while (soak->ended < soak->requests) {
        int64_t now_ns = med_clock_now_ns(&clock);
        for (uint32_t i = 0; i < soak->concurrency; i++) {
            struct conn *conn = &conns[i];
            if (!conn->busy && soak->sent < soak->requests)
                start(soak, conn, &address, now_ns);
            polls[i] = (struct pollfd){.fd = conn->fd, .events = POLLIN};
            if (conn->busy && conn->out_sent < conn->out_bytes)
                polls[i].events |= POLLOUT;
        }
        if (poll(polls, soak->concurrency, 1) < 0 && errno != EINTR) {
            (void)fprintf(stderr, "soak_client: poll: %s\n", strerror(errno));
            exit(1);
        }
        now_ns = med_clock_now_ns(&clock);
        for (uint32_t i = 0; i < soak->concurrency; i++)
            step(soak, &conns[i], polls[i].revents, now_ns);
        if (soak->ended != ended) {
            ended = soak->ended;
            moved_ns = now_ns;
        }
        if (now_ns - moved_ns > STALL_S * MED_NS_PER_S) {
            (void)fprintf(stderr, "soak_client: nothing has ended for %d s\n", STALL_S);
            exit(1);
        }
    }
    for (uint32_t i = 0; i < soak->concurrency; i++) {
        disconnect(&conns[i], false);
        free(conns[i].in);
    }
    free(conns);
    free(polls);
    return 0;
}
