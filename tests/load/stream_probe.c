/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream_probe LINK_PORT HTTP_PORT WORKER_TYPE STREAMS TOKENS RATE SECONDS ID TEXT_BYTES
 *
 * A worker and its clients in one process, so that the time a router needs for a token is the difference of two
 * readings of one clock.  Dials the router as a worker, opens STREAMS connections to its HTTP door, and asks
 * on each for completions of TOKENS tokens, one after another.  As the worker it says token ID, whose text
 * is TEXT_BYTES long, RATE times a second over all streams; RATE 0: as fast as the router takes them, with
 * at most WINDOW tokens of a stream under way.  As the client it counts the text that comes and subtracts
 * the time at which the worker side gave that very token to its socket.
 *
 * HTTP_PORT 0: the worker alone, for clients of another kind; RATE must be given then, and only what was
 * said is printed.
 *
 * Prints one JSON object: tokens per second and the delay's percentiles, of the time after a tenth of
 * SECONDS.  One thread on epoll; loopback alone. The benchmark's, not a test's.
 */
#include "proto/frame.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    STREAMS_MAX = 20000,
    WINDOW = 64, /* tokens of a stream under way; a power of two */
    READ_BYTES = 1 << 18,
    LINK_UNSENT_MAX = 1 << 18,
    DELAY_STEP_US = 10,
    DELAYS = 1 << 20, /* of DELAY_STEP_US */
    STATS_EVERY_MS = 200
};

/* A connection of a client, and the request that it waits for. */
struct stream {
    int fd;
    uint64_t request; /* the router's name for it; 0: has not come to the worker yet */
    uint32_t attempt;
    uint32_t tokens;         /* of this request, */
    uint32_t said, heard;    /* ... and of them */
    int64_t due_ns;          /* of the next token */
    int64_t said_ns[WINDOW]; /* by position % WINDOW */
    size_t matched;          /* bytes of the pattern that is looked for */
    bool in_text;
    size_t text_bytes;
    size_t tail; /* bytes of "[DONE]" that came */
};

struct probe {
    int epoll, link;
    uint32_t tokens, id;
    size_t text_bytes, stream_count;
    double rate;
    bool alone;
    uint64_t tokens_said;
    const char *worker_type;
    struct stream *streams;
    struct med_frame_reader reader;
    struct med_buf out;
    int64_t begin_ns, count_ns, end_ns, stats_ns;
    uint64_t tokens_heard, events_heard, requests_ended;
    uint32_t *delays; // [DELAYS]
    uint64_t delay_count;
    double delay_max_us;
};

static int64_t now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static _Noreturn void fail(const char *what)
{
    (void)fprintf(stderr, "stream_probe: %s\n", what);
    exit(1);
}

static int dial(const char *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)strtoul(port, NULL, 10));
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) < 0 ||
        fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        fail(strerror(errno));
    return fd;
}

static void watch(struct probe *p, int fd, uint32_t events, uint64_t who)
{
    struct epoll_event event = {.events = events, .data.u64 = who};
    if (epoll_ctl(p->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        fail(strerror(errno));
}

/* ---- the worker -------------------------------------------------------------------------------- */

static void put(struct probe *p, const Medley__Link__Frame *frame)
{
    if (med_frame_write(&p->out, frame) < 0)
        fail("a frame could not be packed");
}

static void flush(struct probe *p)
{
    size_t at = 0;
    while (at < p->out.length) {
        ssize_t n = write(p->link, p->out.data + at, p->out.length - at);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0 && errno != EINTR)
            fail(strerror(errno));
        at += n > 0 ? (size_t)n : 0;
    }
    med_buf_consume(&p->out, at);
}

static void put_hello(struct probe *p)
{
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Hello body = MEDLEY__LINK__HELLO__INIT;
    body.version = 1;
    char id[32];
    (void)snprintf(id, sizeof id, "stream-probe-%ld", (long)getpid());
    body.worker_id = id;
    body.incarnation = (uint64_t)now_ns();
    body.worker_type = (char *)p->worker_type;
    body.model = "llama-2-7b";
    body.max_model_len = 1 << 20;
    body.max_num_seqs = STREAMS_MAX;
    body.kv_tokens = 1 << 30;
    body.program_version = "0";
    body.backend = "emulated";
    body.vocab_tokens = 32000;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_HELLO;
    frame.hello = &body;
    put(p, &frame);
}

static void put_stats(struct probe *p, int64_t now)
{
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Stats body = MEDLEY__LINK__STATS__INIT;
    body.heartbeat_ns = (uint64_t)now;
    body.kv_blocks_free = body.kv_blocks_total = 1 << 26;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_STATS;
    frame.stats = &body;
    put(p, &frame);
}

static void put_token(struct probe *p, struct stream *s, int64_t now)
{
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Tokens body = MEDLEY__LINK__TOKENS__INIT;
    body.request = s->request;
    body.attempt = s->attempt;
    body.position = s->said;
    body.ids = &p->id;
    body.n_ids = 1;
    body.at_ns = (uint64_t)now;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_TOKENS;
    frame.tokens = &body;
    s->said_ns[s->said++ % WINDOW] = now;
    p->tokens_said += now >= p->count_ns;
    put(p, &frame);
    if (s->said < s->tokens)
        return;
    Medley__Link__Frame last = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Finish finish = MEDLEY__LINK__FINISH__INIT;
    finish.request = s->request;
    finish.attempt = s->attempt;
    finish.ending = MEDLEY__LINK__ENDING__ENDING_LENGTH;
    last.body_case = MEDLEY__LINK__FRAME__BODY_FINISH;
    last.finish = &finish;
    put(p, &last);
    if (p->alone)
        s->request = 0; /* free for another */
}

/* The tokens that are due; returns nanoseconds until the next. */
static int64_t speak(struct probe *p)
{
    int64_t now = now_ns(), next = now + (int64_t)STATS_EVERY_MS * 1000000;
    if (now >= p->stats_ns) {
        put_stats(p, now);
        p->stats_ns = now + (int64_t)STATS_EVERY_MS * 1000000;
    }
    int64_t gap_ns = p->rate > 0 ? (int64_t)(1e9 * (double)p->stream_count / p->rate) : 0;
    for (size_t i = 0; i < p->stream_count; i++) {
        struct stream *s = &p->streams[i];
        if (!s->request || s->said == s->tokens || (!p->alone && s->said - s->heard == WINDOW))
            continue;
        if (p->out.length > LINK_UNSENT_MAX)
            break;
        if (s->due_ns <= now) {
            put_token(p, s, now);
            s->due_ns = s->due_ns + gap_ns > now ? s->due_ns + gap_ns : now;
        }
        if (s->due_ns < next)
            next = s->due_ns;
    }
    flush(p);
    return next - now;
}

/* The stream that a request belongs to. */
static struct stream *stream_of(struct probe *p, const Medley__Link__Generate *generate)
{
    if (p->alone) {
        for (size_t i = 0; i < p->stream_count; i++) {
            if (!p->streams[i].request)
                return &p->streams[i];
        }
        fail("more requests than streams");
    }
    /* "s17-3": the stream, and which of its requests */
    unsigned long index = strtoul(generate->request_id + 1, NULL, 10);
    if (generate->request_id[0] != 's' || index >= p->stream_count)
        fail("a request that is not ours");
    return &p->streams[index];
}

static void take_generate(struct probe *p, const Medley__Link__Generate *generate)
{
    struct stream *s = stream_of(p, generate);
    s->request = generate->request;
    s->attempt = generate->attempt;
    s->tokens = p->alone ? generate->max_tokens : p->tokens;
    s->said = s->heard = 0;
    /* Spread over a gap, so that streams do not speak in step. */
    double gap_ns = p->rate > 0 ? 1e9 * (double)p->stream_count / p->rate : 0;
    s->due_ns = now_ns() + (int64_t)(gap_ns * (double)((s - p->streams) * 619 % 1000) / 1000);
}

static void hear_router(struct probe *p)
{
    static char bytes[READ_BYTES];
    struct med_err err = {0};
    ssize_t n = read(p->link, bytes, sizeof bytes);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        fail("the router has hung up");
    if (med_frame_reader_feed(&p->reader, bytes, (size_t)n, &err) < 0)
        fail(err.text);
    Medley__Link__Frame *frame = NULL;
    int rc = 0;
    while ((rc = med_frame_reader_next(&p->reader, &frame, &err)) > 0) {
        if (frame->body_case == MEDLEY__LINK__FRAME__BODY_GENERATE) {
            take_generate(p, frame->generate);
        } else if (frame->body_case == MEDLEY__LINK__FRAME__BODY_PING && !frame->ping->reply) {
            frame->ping->reply = true;
            put(p, frame);
        } else if (frame->body_case == MEDLEY__LINK__FRAME__BODY_WELCOME &&
                   !frame->welcome->accepted) {
            fail(frame->welcome->reason);
        }
        med_frame_free(frame);
    }
    if (rc < 0)
        fail(err.text);
}

/* ---- the clients ------------------------------------------------------------------------------- */

static void ask(struct probe *p, struct stream *s)
{
    static unsigned long turn;
    char body[256], text[512];
    int length = snprintf(body, sizeof body,
                          "{\"model\":\"llama-2-7b\",\"prompt\":[1,2,3,4],\"max_tokens\":%u,"
                          "\"stream\":true,\"ignore_eos\":true}",
                          p->tokens);
    int bytes =
        snprintf(text, sizeof text,
                 "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: "
                 "application/json\r\nx-request-id: s%zu-%lu\r\nContent-Length: %d\r\n\r\n%s",
                 (size_t)(s - p->streams), turn++, length, body);
    s->request = 0;
    s->said = s->heard = 0;
    if (write(s->fd, text, (size_t)bytes) != bytes)
        fail("a request could not be written");
}

static void heard_token(struct probe *p, struct stream *s, int64_t now)
{
    if (s->heard >= s->said)
        fail("text that no token has");
    int64_t said_ns = s->said_ns[s->heard++ % WINDOW];
    if (now < p->count_ns)
        return;
    double delay_us = (double)(now - said_ns) / 1e3;
    size_t step = (size_t)(delay_us / DELAY_STEP_US);
    p->delays[step < DELAYS ? step : DELAYS - 1]++;
    p->delay_count++;
    p->delay_max_us = delay_us > p->delay_max_us ? delay_us : p->delay_max_us;
    p->tokens_heard++;
}

/* Looks for "text":"..." and [DONE] in what came. */
static void hear(struct probe *p, struct stream *s, const char *bytes, size_t count, int64_t now)
{
    static const char pattern[] = "\"text\":\"", done[] = "[DONE]";
    for (size_t i = 0; i < count; i++) {
        char c = bytes[i];
        if (s->in_text) {
            if (c == '"') {
                s->in_text = false;
                p->events_heard += s->text_bytes > 0 && now >= p->count_ns;
                for (size_t t = 0; t < s->text_bytes / p->text_bytes; t++)
                    heard_token(p, s, now);
            } else {
                s->text_bytes++;
            }
            continue;
        }
        s->matched = c == pattern[s->matched] ? s->matched + 1 : c == pattern[0];
        if (s->matched == sizeof pattern - 1) {
            s->matched = 0;
            s->text_bytes = 0;
            s->in_text = true;
        }
        s->tail = c == done[s->tail] ? s->tail + 1 : c == done[0];
        if (s->tail == sizeof done - 1) {
            s->tail = 0;
            if (s->heard != p->tokens)
                fail("a stream ended before its last token");
            p->requests_ended++;
        }
    }
}

static void hear_client(struct probe *p, struct stream *s)
{
    static char bytes[READ_BYTES];
    ssize_t n = read(s->fd, bytes, sizeof bytes);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        fail("the door has hung up");
    if (s->heard == 0 && n > 12 && memcmp(bytes, "HTTP/1.1 ", 9) == 0 &&
        memcmp(bytes + 9, "200", 3) != 0) {
        (void)fprintf(stderr, "%.*s\n", (int)n, bytes);
        fail("the door refused");
    }
    uint64_t ended = p->requests_ended;
    hear(p, s, bytes, (size_t)n, now_ns());
    /* The last chunk of an answer comes with [DONE], or just after it: five bytes that hold no text. */
    if (p->requests_ended != ended)
        ask(p, s);
}

/* ---- the run ----------------------------------------------------------------------------------- */

static void run(struct probe *p)
{
    struct epoll_event events[512];
    while (now_ns() < p->end_ns) {
        int64_t wait_ns = speak(p);
        int timeout_ms = wait_ns <= 0 ? 0 : (int)(wait_ns / 1000000);
        int count = epoll_wait(p->epoll, events, 512, timeout_ms);
        for (int i = 0; i < count; i++) {
            if (events[i].data.u64 == UINT64_MAX) {
                hear_router(p);
            } else {
                hear_client(p, &p->streams[events[i].data.u64]);
            }
        }
    }
}

static double quantile_ms(const struct probe *p, double q)
{
    uint64_t below = 0;
    size_t step = 0;
    while (step < DELAYS - 1 && (double)(below += p->delays[step]) < q * (double)p->delay_count)
        step++;
    return (double)(step + 1) * DELAY_STEP_US / 1e3;
}

int main(int argc, char **argv)
{
    static struct probe p;
    if (argc != 10) {
        fail("usage: stream_probe LINK_PORT HTTP_PORT WORKER_TYPE STREAMS TOKENS RATE SECONDS ID "
             "TEXT_BYTES");
    }
    p.worker_type = argv[3];
    p.stream_count = strtoul(argv[4], NULL, 10);
    p.tokens = (uint32_t)strtoul(argv[5], NULL, 10);
    p.rate = strtod(argv[6], NULL);
    double seconds = strtod(argv[7], NULL);
    p.id = (uint32_t)strtoul(argv[8], NULL, 10);
    p.text_bytes = strtoul(argv[9], NULL, 10);
    p.alone = strcmp(argv[2], "0") == 0;
    if ((p.alone && !(p.rate > 0)) || p.stream_count < 1 || p.stream_count > STREAMS_MAX ||
        p.tokens < 1 || p.text_bytes < 1 || !(seconds > 0 && seconds < 3600))
        fail("a number is out of range");
    p.streams = calloc(p.stream_count, sizeof *p.streams);
    p.delays = calloc(DELAYS, sizeof *p.delays);
    p.epoll = epoll_create1(0);
    if (!p.streams || !p.delays || p.epoll < 0)
        fail("no memory");
    med_frame_reader_init(&p.reader);
    med_buf_init(&p.out, (size_t)1 << 28);
    p.link = dial(argv[1]);
    watch(&p, p.link, EPOLLIN, UINT64_MAX);
    put_hello(&p);
    p.end_ns = now_ns() + 500000000; /* until the router knows the worker */
    run(&p);
    p.begin_ns = now_ns();
    p.count_ns = p.begin_ns + (int64_t)(seconds * 1e8);
    p.end_ns = p.begin_ns + (int64_t)(seconds * 1e9);
    for (size_t i = 0; i < p.stream_count && !p.alone; i++) {
        p.streams[i].fd = dial(argv[2]);
        watch(&p, p.streams[i].fd, EPOLLIN, i);
        ask(&p, &p.streams[i]);
    }
    run(&p);
    double counted = (double)(p.end_ns - p.count_ns) / 1e9;
    if (p.alone) {
        (void)printf("{\"said_per_s\":%.0f}\n", (double)p.tokens_said / counted);
        return 0;
    }
    (void)printf("{\"tokens\":%llu,\"tokens_per_s\":%.0f,\"events_per_s\":%.0f,\"requests_ended\":%"
                 "llu,\"delay_p50_ms\":%.2f,"
                 "\"delay_p99_ms\":%.2f,\"delay_max_ms\":%.2f}\n",
                 (unsigned long long)p.tokens_heard, (double)p.tokens_heard / counted,
                 (double)p.events_heard / counted, (unsigned long long)p.requests_ended,
                 quantile_ms(&p, 0.5), quantile_ms(&p, 0.99), p.delay_max_us / 1e3);
    return 0;
}
