/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link_probe PROMPT_TOKENS MAX_TOKENS OUTSTANDING SECONDS: a worker's link without a router.
 *
 * Plays the router for one worker: listens on a loopback port ("READY link=HOST:PORT"), welcomes the worker
 * that dials, then keeps OUTSTANDING requests running for so long and measures each from the write of
 * its Generate to the receipt of its Finish.  Prints one JSON object.  What a router adds to a request
 * is its latency through the router less this.
 *
 * One thread, blocking writes, poll for reads. The benchmark's, not a test's.
 */
#include "proto/frame.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    OUTSTANDING_MAX = 4096,
    SAMPLES_MAX = 1 << 22,
    PROMPT_MAX = 8192,
    READ_BYTES = 1 << 16,
    PATIENCE_MS = 10000
};

struct probe {
    int fd;
    struct med_frame_reader reader;
    struct med_buf out;
    uint32_t prompt[PROMPT_MAX];
    size_t prompt_count;
    uint32_t tokens_max;
    int64_t sent_ns[OUTSTANDING_MAX]; // of the request that a place has
    uint64_t next;                    /* request's name; its place is next % outstanding */
    uint64_t outstanding;
    double *samples_us; // [SAMPLES_MAX]
    size_t sample_count;
    bool welcomed;
};

static int64_t now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static _Noreturn void fail(const char *what)
{
    (void)fprintf(stderr, "link_probe: %s\n", what);
    exit(1);
}

static void put(struct probe *p, const Medley__Link__Frame *frame)
{
    if (med_frame_write(&p->out, frame) < 0)
        fail("a frame could not be packed");
}

static void flush(struct probe *p)
{
    size_t at = 0;
    while (at < p->out.length) {
        ssize_t n = write(p->fd, p->out.data + at, p->out.length - at);
        if (n < 0 && errno != EINTR)
            fail(strerror(errno));
        at += n > 0 ? (size_t)n : 0;
    }
    med_buf_clear(&p->out);
}

static void put_generate(struct probe *p, uint64_t place)
{
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Generate body = MEDLEY__LINK__GENERATE__INIT;
    body.request = p->next++ * p->outstanding + place + 1;
    body.attempt = 1;
    body.prompt = p->prompt;
    body.n_prompt = p->prompt_count;
    body.max_tokens = p->tokens_max;
    body.seed_value_case = MEDLEY__LINK__GENERATE__SEED_VALUE_SEED;
    body.seed = body.request;
    body.ignore_eos = true;
    body.emulated_output_tokens = p->tokens_max;
    body.request_id = "probe";
    frame.body_case = MEDLEY__LINK__FRAME__BODY_GENERATE;
    frame.generate = &body;
    p->sent_ns[place] = now_ns();
    put(p, &frame);
}

static void put_welcome(struct probe *p)
{
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Welcome body = MEDLEY__LINK__WELCOME__INIT;
    body.version = 1;
    body.accepted = true;
    body.stats_interval_ms = 500;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_WELCOME;
    frame.welcome = &body;
    put(p, &frame);
    p->welcomed = true;
}

static void take(struct probe *p, const Medley__Link__Frame *frame, bool more)
{
    if (frame->body_case == MEDLEY__LINK__FRAME__BODY_HELLO && !p->welcomed) {
        put_welcome(p);
        for (uint64_t place = 0; place < p->outstanding; place++)
            put_generate(p, place);
    } else if (frame->body_case == MEDLEY__LINK__FRAME__BODY_FINISH) {
        if (frame->finish->ending != MEDLEY__LINK__ENDING__ENDING_LENGTH &&
            frame->finish->ending != MEDLEY__LINK__ENDING__ENDING_STOP)
            fail(frame->finish->message[0] ? frame->finish->message : "a request was not served");
        uint64_t place = (frame->finish->request - 1) % p->outstanding;
        if (p->sample_count < SAMPLES_MAX)
            p->samples_us[p->sample_count++] = (double)(now_ns() - p->sent_ns[place]) / 1e3;
        if (more)
            put_generate(p, place);
    } else if (frame->body_case == MEDLEY__LINK__FRAME__BODY_PING && !frame->ping->reply) {
        Medley__Link__Frame answer = MEDLEY__LINK__FRAME__INIT;
        Medley__Link__Ping body = MEDLEY__LINK__PING__INIT;
        body.nonce = frame->ping->nonce;
        body.reply = true;
        answer.body_case = MEDLEY__LINK__FRAME__BODY_PING;
        answer.ping = &body;
        put(p, &answer);
    }
}

static void run(struct probe *p, double seconds)
{
    static char bytes[READ_BYTES];
    int64_t end_ns = now_ns() + (int64_t)(seconds * 1e9);
    struct med_err err = {0};
    while (now_ns() < end_ns) {
        struct pollfd poll_fd = {.fd = p->fd, .events = POLLIN};
        if (poll(&poll_fd, 1, PATIENCE_MS) == 0)
            fail("the worker is silent");
        ssize_t n = read(p->fd, bytes, sizeof bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            fail("the worker has hung up");
        if (med_frame_reader_feed(&p->reader, bytes, (size_t)n, &err) < 0)
            fail(err.text);
        Medley__Link__Frame *frame = NULL;
        int rc = 0;
        while ((rc = med_frame_reader_next(&p->reader, &frame, &err)) > 0) {
            take(p, frame, now_ns() < end_ns);
            med_frame_free(frame);
        }
        if (rc < 0)
            fail(err.text);
        flush(p);
    }
}

static int accept_worker(void)
{
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) < 0 ||
        listen(listener, 1) < 0 || getsockname(listener, (struct sockaddr *)&address, &length) < 0)
        fail(strerror(errno));
    (void)printf("READY link=127.0.0.1:%d\n", ntohs(address.sin_port));
    (void)fflush(stdout);
    struct pollfd poll_fd = {.fd = listener, .events = POLLIN};
    if (poll(&poll_fd, 1, PATIENCE_MS) <= 0)
        fail("no worker has dialled");
    int fd = accept(listener, NULL, NULL);
    if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) < 0)
        fail(strerror(errno));
    (void)close(listener);
    return fd;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const struct probe *p, double q)
{
    return p->samples_us[(size_t)(q * (double)(p->sample_count - 1))];
}

int main(int argc, char **argv)
{
    static struct probe p;
    if (argc != 5)
        fail("usage: link_probe PROMPT_TOKENS MAX_TOKENS OUTSTANDING SECONDS");
    p.prompt_count = strtoul(argv[1], NULL, 10);
    p.tokens_max = (uint32_t)strtoul(argv[2], NULL, 10);
    p.outstanding = strtoul(argv[3], NULL, 10);
    double seconds = strtod(argv[4], NULL);
    if (p.prompt_count < 1 || p.prompt_count > PROMPT_MAX || p.tokens_max < 1 ||
        p.outstanding < 1 || p.outstanding > OUTSTANDING_MAX || !(seconds > 0 && seconds < 3600))
        fail("a number is out of range");
    for (size_t i = 0; i < p.prompt_count; i++)
        p.prompt[i] = (uint32_t)(i % 1000 + 1);
    p.samples_us = malloc(SAMPLES_MAX * sizeof *p.samples_us);
    if (!p.samples_us)
        fail("no memory");
    med_frame_reader_init(&p.reader);
    med_buf_init(&p.out, (size_t)1 << 28);
    p.fd = accept_worker();
    run(&p, seconds);
    if (p.sample_count == 0)
        fail("no request has ended");
    qsort(p.samples_us, p.sample_count, sizeof *p.samples_us, compare);
    (void)printf("{\"requests\":%zu,\"per_s\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f}\n",
                 p.sample_count, (double)p.sample_count / seconds, quantile(&p, 0.5),
                 quantile(&p, 0.99));
    (void)close(p.fd);
    med_buf_release(&p.out);
    med_frame_reader_release(&p.reader);
    free(p.samples_us);
    return 0;
}
