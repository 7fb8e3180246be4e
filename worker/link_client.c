/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One link of a worker to one router (see link_client.h; docs/internals/link.md for the protocol).
 *
 * States: WAITING (a pause before dialling) -> RESOLVING -> CONNECTING -> GREETING (Hello sent) ->
 * UP -> CLOSING, and back to WAITING or, when the link is to stop, to the end.  One timer guards
 * whichever state it is (the pause, or how long resolving, connecting and greeting may take); a
 * second one paces Stats.  Each dial has its own connection object, so that a handle that is still
 * closing never meets the next attempt.
 *
 * Writing: frames are appended to `out`; a flush swaps it with `writing` and writes that whole
 * buffer at once; while a write is under way frames gather in `out`.  Both together are bounded.
 *
 * thread: loop.  Logs connection events, since nobody above it would.  Does not know sequences.
 */
#include "worker/link_client.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/rng.h"
#include "proto/frame.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PAUSE_FIRST_MS = 100, /* before the second dial; doubles */
    PAUSE_MAX_MS = 5000,
    DIAL_MS = 5000,   /* for resolving and connecting */
    GREET_MS = 5000,  /* for the Welcome */
    LINGER_MS = 1000, /* for a stopping link's last bytes */
    KEEPALIVE_S = 15,
    READ_BYTES = 64 << 10,
    STATS_MS_MIN = 1,
    STATS_MS_MAX = 60000,
    HOST_BYTES = 256,
    PORT_BYTES = 8,
};

enum state {
    STATE_WAITING,
    STATE_RESOLVING,
    STATE_CONNECTING,
    STATE_GREETING,
    STATE_UP,
    STATE_CLOSING,
    STATE_STOPPED
};

/* One dial. Lives until its handle has closed. */
struct connection {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    uv_connect_t connect;
    uv_write_t write;
    struct med_link *link;
    struct med_buf writing; /* the bytes of `write` */
    bool write_busy;
    char read_bytes[READ_BYTES];
};

/* thread: loop */
struct med_link {
    struct med_link_config config;
    uv_loop_t *loop;
    uv_timer_t timer;       /* guards the state */
    uv_timer_t stats_timer; /* while UP */
    int timers_open;
    uv_getaddrinfo_t resolve;
    enum state state;
    bool stopping;       /* no more dialling */
    char complaint[160]; /* what was logged last, so that a long outage is one line */
    struct connection *connection;
    struct med_frame_reader reader;
    struct med_buf out;
    int64_t stats_interval_ns; /* fleet time; 0: none wanted */
    int64_t stats_next_ns;
    int64_t pause_ms; /* the next one, before jitter */
    struct med_rng rng;
    int doomed; /* < 0: the connection must be closed at the next chance; doom_err says why */
    struct med_err doom_err;
};

static void dial(struct med_link *link);
static void reset(struct med_link *link, const char *why);
static void on_timer(uv_timer_t *timer);

/* ---- addresses ------------------------------------------------------------------------------ */

static bool is_unix(const char *address)
{
    return strncmp(address, "unix:", 5) == 0;
}

/* Splits HOST:PORT or [HOST]:PORT. */
static bool split(const char *address, char host[HOST_BYTES], char port[PORT_BYTES])
{
    const char *colon = strrchr(address, ':');
    if (!colon)
        return false;
    const char *begin = address, *end = colon;
    if (*begin == '[') {
        begin++;
        if (end <= begin || end[-1] != ']')
            return false;
        end--;
    } else if (memchr(begin, ':', (size_t)(end - begin))) {
        return false; /* an IPv6 address needs brackets */
    }
    size_t host_bytes = (size_t)(end - begin), port_bytes = strlen(colon + 1);
    if (host_bytes == 0 || host_bytes >= HOST_BYTES || port_bytes == 0 || port_bytes > 5)
        return false;
    if (strspn(colon + 1, "0123456789") != port_bytes)
        return false;
    long number = strtol(colon + 1, NULL, 10);
    memcpy(host, begin, host_bytes);
    host[host_bytes] = '\0';
    memcpy(port, colon + 1, port_bytes + 1);
    return number >= 1 && number <= 65535;
}

int med_link_check_address(const char *address, struct med_err *err)
{
    char host[HOST_BYTES], port[PORT_BYTES];
    if (is_unix(address)) {
        size_t bytes = strlen(address + 5);
        if (bytes > 0 && bytes < 104)
            return 0;
    } else if (split(address, host, port)) {
        return 0;
    }
    return med_err_set(err, MED_E_USAGE,
                       "--router %s: expected HOST:PORT (an IPv6 address in brackets) or "
                       "unix:/path of at most 103 bytes",
                       address);
}

/* ---- sending -------------------------------------------------------------------------------- */

static void doom(struct med_link *link, int code, const char *text)
{
    if (link->doomed < 0)
        return;
    link->doomed = med_err_set(&link->doom_err, code, "%s", text);
}

static void send_frame(struct med_link *link, const Medley__Link__Frame *frame)
{
    if (link->doomed < 0)
        return;
    size_t busy = link->connection->write_busy ? link->connection->writing.length : 0;
    if (link->out.length + busy > MED_LIMIT_LINK_REPLY_BYTES) {
        doom(link, MED_E_LIMIT, "the router does not read: too many bytes wait to be sent");
        return;
    }
    int rc = med_frame_write(&link->out, frame);
    if (rc < 0)
        doom(link, rc, med_err_text(rc));
}

static void on_written(uv_write_t *request, int status)
{
    struct connection *connection = request->data;
    struct med_link *link = connection->link;
    connection->write_busy = false;
    if (!link || link->connection != connection)
        return; /* closing */
    if (status < 0) {
        reset(link, uv_strerror(status));
        return;
    }
    med_buf_clear(&connection->writing);
    if (link->stopping && link->out.length == 0)
        reset(link, NULL);
    else
        med_link_flush(link);
}

void med_link_flush(struct med_link *link)
{
    struct connection *connection = link->connection;
    if (!connection || (link->state != STATE_GREETING && link->state != STATE_UP))
        return;
    if (link->doomed < 0) {
        reset(link, link->doom_err.text);
        return;
    }
    if (connection->write_busy || link->out.length == 0)
        return;
    struct med_buf swap = connection->writing;
    connection->writing = link->out;
    link->out = swap;
    uv_buf_t buf = uv_buf_init(connection->writing.data, (unsigned int)connection->writing.length);
    connection->write.data = connection;
    int rc = uv_write(&connection->write, &connection->uv.stream, &buf, 1, on_written);
    if (rc < 0) {
        reset(link, uv_strerror(rc));
        return;
    }
    connection->write_busy = true;
}

static void send_hello(struct med_link *link)
{
    const struct med_link_hello *hello = link->config.hello;
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Hello body = MEDLEY__LINK__HELLO__INIT;
    body.version = MED_LINK_VERSION;
    body.worker_id = (char *)hello->worker_id;
    body.incarnation = hello->incarnation;
    body.worker_type = (char *)hello->worker_type;
    body.model = (char *)hello->model;
    body.max_model_len = (uint64_t)hello->model_len_max;
    body.max_num_seqs = (uint64_t)hello->sequences_max;
    body.kv_tokens = (uint64_t)hello->kv_tokens;
    body.program_version = (char *)MED_VERSION;
    body.backend = (char *)hello->backend;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_HELLO;
    frame.hello = &body;
    send_frame(link, &frame);
}

static void send_stats(struct med_link *link)
{
    struct med_link_stats stats;
    link->config.ops.get_stats(link->config.ops.arg, &stats);
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Stats body = MEDLEY__LINK__STATS__INIT;
    body.heartbeat_ns = (uint64_t)stats.heartbeat_ns;
    body.running = stats.running;
    body.waiting = stats.waiting;
    body.kv_blocks_free = stats.kv_blocks_free;
    body.kv_blocks_total = stats.kv_blocks_total;
    body.iterations = stats.iterations;
    body.prompt_tokens = stats.prompt_tokens;
    body.generated_tokens = stats.generated_tokens;
    body.finished = stats.finished;
    body.preemptions = stats.preemptions;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_STATS;
    frame.stats = &body;
    send_frame(link, &frame);
}

void med_link_send_tokens(struct med_link *link, uint64_t request, uint32_t attempt,
                          int64_t position, const uint32_t *ids, size_t count, int64_t at_ns)
{
    if (link->state != STATE_UP)
        return;
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Tokens body = MEDLEY__LINK__TOKENS__INIT;
    body.request = request;
    body.attempt = attempt;
    body.position = (uint32_t)position;
    body.n_ids = count;
    body.ids = (uint32_t *)ids; /* only read when packed */
    body.at_ns = (uint64_t)at_ns;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_TOKENS;
    frame.tokens = &body;
    send_frame(link, &frame);
}

void med_link_send_finish(struct med_link *link, uint64_t request, uint32_t attempt,
                          enum med_link_ending ending, const char *message)
{
    static const Medley__Link__Ending ENDINGS[] = {
        [MED_LINK_STOP] = MEDLEY__LINK__ENDING__ENDING_STOP,
        [MED_LINK_LENGTH] = MEDLEY__LINK__ENDING__ENDING_LENGTH,
        [MED_LINK_CANCELLED] = MEDLEY__LINK__ENDING__ENDING_CANCELLED,
        [MED_LINK_ERROR] = MEDLEY__LINK__ENDING__ENDING_ERROR,
        [MED_LINK_REFUSED] = MEDLEY__LINK__ENDING__ENDING_REFUSED,
    };
    if (link->state != STATE_UP)
        return;
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Finish body = MEDLEY__LINK__FINISH__INIT;
    body.request = request;
    body.attempt = attempt;
    body.ending = ENDINGS[ending];
    body.message = (char *)(message ? message : "");
    frame.body_case = MEDLEY__LINK__FRAME__BODY_FINISH;
    frame.finish = &body;
    send_frame(link, &frame);
}

void med_link_send_drain(struct med_link *link)
{
    if (link->state != STATE_UP)
        return;
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Drain body = MEDLEY__LINK__DRAIN__INIT;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_DRAIN;
    frame.drain = &body;
    send_frame(link, &frame);
}

static void send_pong(struct med_link *link, uint64_t nonce)
{
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Ping body = MEDLEY__LINK__PING__INIT;
    body.nonce = nonce;
    body.reply = 1;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_PING;
    frame.ping = &body;
    send_frame(link, &frame);
}

/* ---- receiving ------------------------------------------------------------------------------ */

static int take_welcome(struct med_link *link, const Medley__Link__Welcome *welcome,
                        struct med_err *err)
{
    if (welcome->version != MED_LINK_VERSION)
        return med_err_set(err, MED_E_PROTO,
                           "the router speaks link version %u, this worker speaks version %d",
                           welcome->version, MED_LINK_VERSION);
    if (!welcome->accepted)
        return med_err_set(err, MED_E_PROTO, "the router refused this worker: %s",
                           welcome->reason[0] ? welcome->reason : "it gave no reason");
    if (welcome->stats_interval_ms > STATS_MS_MAX)
        return med_err_set(err, MED_E_PROTO,
                           "Welcome: stats_interval_ms is %u, expected %d to %d, or 0 for none",
                           welcome->stats_interval_ms, STATS_MS_MIN, STATS_MS_MAX);
    link->state = STATE_UP;
    link->pause_ms = PAUSE_FIRST_MS;
    link->complaint[0] = '\0';
    (void)uv_timer_stop(&link->timer);
    MED_INFO("router %s: connected", link->config.address);
    send_stats(link);
    link->stats_interval_ns = (int64_t)welcome->stats_interval_ms * MED_NS_PER_MS;
    link->stats_next_ns = med_clock_now_ns(link->config.clock) + link->stats_interval_ns;
    if (link->stats_interval_ns > 0)
        (void)uv_timer_start(&link->stats_timer, on_timer,
                             med_clock_real_ms_until(link->config.clock, link->stats_next_ns), 0);
    return 0;
}

static int take_generate(struct med_link *link, const Medley__Link__Generate *g,
                         struct med_err *err)
{
    struct med_link_generate generate = {
        .request = g->request,
        .attempt = g->attempt,
        .prompt = g->prompt,
        .prompt_count = g->n_prompt,
        .tokens_max = g->max_tokens,
        .has_temperature =
            g->temperature_value_case == MEDLEY__LINK__GENERATE__TEMPERATURE_VALUE_TEMPERATURE,
        .has_top_p = g->top_p_value_case == MEDLEY__LINK__GENERATE__TOP_P_VALUE_TOP_P,
        .has_top_k = g->top_k_value_case == MEDLEY__LINK__GENERATE__TOP_K_VALUE_TOP_K,
        .has_seed = g->seed_value_case == MEDLEY__LINK__GENERATE__SEED_VALUE_SEED,
        .ignore_eos = g->ignore_eos,
        .emulated_output_tokens = g->emulated_output_tokens,
        .request_id = g->request_id,
    };
    if (generate.has_temperature)
        generate.temperature = g->temperature;
    if (generate.has_top_p)
        generate.top_p = g->top_p;
    if (generate.has_top_k)
        generate.top_k = g->top_k;
    if (generate.has_seed)
        generate.seed = g->seed;
    return link->config.ops.on_generate(link->config.ops.arg, link, &generate, err);
}

static int take_frame(struct med_link *link, const Medley__Link__Frame *frame, struct med_err *err)
{
    if (link->state == STATE_GREETING) {
        if (frame->body_case != MEDLEY__LINK__FRAME__BODY_WELCOME)
            return med_err_set(err, MED_E_PROTO,
                               "the router's first frame has body %d, expected Welcome",
                               (int)frame->body_case);
        return take_welcome(link, frame->welcome, err);
    }
    switch (frame->body_case) {
    case MEDLEY__LINK__FRAME__BODY_GENERATE:
        return take_generate(link, frame->generate, err);
    case MEDLEY__LINK__FRAME__BODY_CANCEL:
        link->config.ops.on_cancel(link->config.ops.arg, link, frame->cancel->request,
                                   frame->cancel->attempt);
        return 0;
    case MEDLEY__LINK__FRAME__BODY_DRAIN:
        link->config.ops.on_drain(link->config.ops.arg, link);
        return 0;
    case MEDLEY__LINK__FRAME__BODY_STATS: /* asks for ours */
        send_stats(link);
        return 0;
    case MEDLEY__LINK__FRAME__BODY_PING:
        if (!frame->ping->reply)
            send_pong(link, frame->ping->nonce);
        return 0;
    default:
        return med_err_set(err, MED_E_PROTO, "a frame with body %d, which a router does not send",
                           (int)frame->body_case);
    }
}

static int take_bytes(struct med_link *link, const char *bytes, size_t count, struct med_err *err)
{
    Medley__Link__Frame *frame;
    int rc = med_frame_reader_feed(&link->reader, bytes, count, err);
    if (rc < 0)
        return rc;
    while ((rc = med_frame_reader_next(&link->reader, &frame, err)) > 0) {
        rc = take_frame(link, frame, err);
        med_frame_free(frame);
        if (rc < 0)
            return rc;
        if (link->state != STATE_GREETING && link->state != STATE_UP)
            return 0; /* a callback has ended the connection */
    }
    return rc;
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct connection *connection = handle->data;
    (void)suggested;
    *buf = uv_buf_init(connection->read_bytes, READ_BYTES);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buf)
{
    struct connection *connection = stream->data;
    struct med_link *link = connection->link;
    struct med_err err;
    (void)buf;
    if (!link || link->connection != connection)
        return;
    if (count < 0) {
        reset(link, count == UV_EOF ? "the router closed the connection" : uv_strerror((int)count));
        return;
    }
    if (take_bytes(link, connection->read_bytes, (size_t)count, &err) < 0)
        reset(link, err.text);
    else
        med_link_flush(link);
}

/* ---- the connection's life ------------------------------------------------------------------ */

static void stop_timers_closed(uv_handle_t *handle)
{
    struct med_link *link = handle->data;
    if (--link->timers_open > 0)
        return;
    link->config.ops.on_stopped(link->config.ops.arg, link);
    med_frame_reader_release(&link->reader);
    med_buf_release(&link->out);
    med_free(link);
}

static void end_link(struct med_link *link)
{
    if (link->state == STATE_STOPPED)
        return;
    MED_ASSERT(!link->connection);
    link->state = STATE_STOPPED;
    uv_close((uv_handle_t *)&link->timer, stop_timers_closed);
    uv_close((uv_handle_t *)&link->stats_timer, stop_timers_closed);
}

/* Waits, then dials again; or ends. */
static void wait_or_end(struct med_link *link)
{
    (void)uv_timer_stop(&link->timer);
    (void)uv_timer_stop(&link->stats_timer);
    if (link->stopping) {
        end_link(link);
        return;
    }
    /* Half of the pause is random, so that a fleet does not dial in step. */
    double pause_ms = (double)link->pause_ms * (0.5 + 0.5 * med_rng_uniform(&link->rng));
    link->pause_ms = link->pause_ms * 2 < PAUSE_MAX_MS ? link->pause_ms * 2 : PAUSE_MAX_MS;
    link->state = STATE_WAITING;
    (void)uv_timer_start(&link->timer, on_timer, (uint64_t)pause_ms, 0);
}

static void on_connection_closed(uv_handle_t *handle)
{
    struct connection *connection = handle->data;
    struct med_link *link = connection->link;
    med_buf_release(&connection->writing);
    med_free(connection);
    link->connection = NULL;
    wait_or_end(link);
}

/* Logs why a connection ended, unless the one before ended alike. */
static void complain(struct med_link *link, const char *why)
{
    if (strncmp(link->complaint, why, sizeof link->complaint - 1) == 0)
        return;
    (void)snprintf(link->complaint, sizeof link->complaint, "%s", why);
    MED_WARN("router %s: %s; dialling again", link->config.address, why);
}

/* Ends the connection; why: NULL for an orderly end. */
static void reset(struct med_link *link, const char *why)
{
    struct connection *connection = link->connection;
    bool was_up = link->state == STATE_UP;
    if (link->state == STATE_CLOSING)
        return;
    if (why && !link->stopping)
        complain(link, why);
    link->state = STATE_CLOSING;
    (void)uv_timer_stop(&link->timer);
    (void)uv_timer_stop(&link->stats_timer);
    med_buf_clear(&link->out);
    link->doomed = 0;
    if (was_up)
        link->config.ops.on_lost(link->config.ops.arg, link);
    if (connection)
        uv_close(&connection->uv.handle, on_connection_closed);
    else
        wait_or_end(link);
}

static void on_connected(uv_connect_t *request, int status)
{
    struct connection *connection = request->data;
    struct med_link *link = connection->link;
    if (status == UV_ECANCELED || link->state != STATE_CONNECTING)
        return; /* closing */
    if (status == 0)
        status = uv_read_start(&connection->uv.stream, on_alloc, on_read);
    if (status < 0) {
        reset(link, uv_strerror(status));
        return;
    }
    if (!is_unix(link->config.address)) {
        (void)uv_tcp_nodelay(&connection->uv.tcp, 1); /* slower without, not wrong */
        (void)uv_tcp_keepalive(&connection->uv.tcp, 1, KEEPALIVE_S);
    }
    link->state = STATE_GREETING;
    med_frame_reader_release(&link->reader);
    med_frame_reader_init(&link->reader);
    med_buf_clear(&link->out);
    (void)uv_timer_start(&link->timer, on_timer, GREET_MS, 0);
    send_hello(link);
    med_link_flush(link);
}

static void connect_to(struct med_link *link, const struct sockaddr *address)
{
    struct connection *connection = med_calloc(1, sizeof *connection);
    if (!connection) {
        reset(link, med_err_text(MED_E_NOMEM));
        return;
    }
    int rc = address ? uv_tcp_init(link->loop, &connection->uv.tcp)
                     : uv_pipe_init(link->loop, &connection->uv.pipe, 0);
    if (rc < 0) {
        med_free(connection);
        reset(link, uv_strerror(rc));
        return;
    }
    connection->link = link;
    connection->uv.handle.data = connection;
    connection->connect.data = connection;
    med_buf_init(&connection->writing, link->out.max_bytes);
    link->connection = connection;
    link->state = STATE_CONNECTING;
    if (address) {
        rc = uv_tcp_connect(&connection->connect, &connection->uv.tcp, address, on_connected);
        if (rc < 0)
            reset(link, uv_strerror(rc));
    } else {
        uv_pipe_connect(&connection->connect, &connection->uv.pipe, link->config.address + 5,
                        on_connected);
    }
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *result)
{
    struct med_link *link = request->data;
    if (status < 0 || link->stopping)
        reset(link, status < 0 ? uv_strerror(status) : NULL);
    else
        connect_to(link, result->ai_addr);
    uv_freeaddrinfo(result);
}

static void dial(struct med_link *link)
{
    char host[HOST_BYTES], port[PORT_BYTES];
    if (is_unix(link->config.address)) {
        (void)uv_timer_start(&link->timer, on_timer, DIAL_MS, 0);
        connect_to(link, NULL);
        return;
    }
    bool good = split(link->config.address, host, port);
    MED_ASSERT(good);
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_protocol = IPPROTO_TCP};
    link->state = STATE_RESOLVING;
    link->resolve.data = link;
    int rc = uv_getaddrinfo(link->loop, &link->resolve, on_resolved, host, port, &hints);
    if (rc < 0) {
        reset(link, uv_strerror(rc));
        return;
    }
    (void)uv_timer_start(&link->timer, on_timer, DIAL_MS, 0);
}

static void on_stats_timer(struct med_link *link)
{
    int64_t now_ns = med_clock_now_ns(link->config.clock);
    if (now_ns >= link->stats_next_ns) {
        send_stats(link);
        link->stats_next_ns += link->stats_interval_ns;
        if (link->stats_next_ns <= now_ns)
            link->stats_next_ns = now_ns + link->stats_interval_ns;
    }
    uint64_t wait_ms = med_clock_real_ms_until(link->config.clock, link->stats_next_ns);
    (void)uv_timer_start(&link->stats_timer, on_timer, wait_ms, 0);
    med_link_flush(link);
}

static void on_timer(uv_timer_t *timer)
{
    struct med_link *link = timer->data;
    if (timer == &link->stats_timer) {
        on_stats_timer(link);
        return;
    }
    switch (link->state) {
    case STATE_WAITING:
        dial(link);
        break;
    case STATE_RESOLVING:
        /* Its callback follows, with UV_ECANCELED; a lookup under way cannot be cancelled, and its
         * result is then waited for. */
        (void)uv_cancel((uv_req_t *)&link->resolve);
        break;
    case STATE_CONNECTING:
        reset(link, "it did not answer the dial in time");
        break;
    case STATE_GREETING:
        reset(link, "it did not send Welcome in time");
        break;
    case STATE_UP: /* a stopping link that lingers */
        reset(link, NULL);
        break;
    case STATE_CLOSING:
    case STATE_STOPPED:
        break;
    }
}

int med_link_new(uv_loop_t *loop, const struct med_link_config *config, struct med_link **ret_link,
                 struct med_err *err)
{
    int rc = med_link_check_address(config->address, err);
    if (rc < 0)
        return rc;
    struct med_link *link = med_calloc(1, sizeof *link);
    if (!link)
        return med_err_set(err, MED_E_NOMEM, "router %s: no memory for a link", config->address);
    link->config = *config;
    link->loop = loop;
    link->pause_ms = PAUSE_FIRST_MS;
    link->state = STATE_WAITING;
    link->timers_open = 2;
    med_frame_reader_init(&link->reader);
    /* One frame may begin when the limit is all but reached. */
    med_buf_init(&link->out, MED_LIMIT_LINK_REPLY_BYTES + MED_LIMIT_FRAME_BYTES);
    med_rng_init(&link->rng, config->seed, 0x6c696e6b);
    MED_ASSERT(uv_timer_init(loop, &link->timer) == 0);
    MED_ASSERT(uv_timer_init(loop, &link->stats_timer) == 0);
    link->timer.data = link->stats_timer.data = link;
    MED_ASSERT(uv_timer_start(&link->timer, on_timer, 0, 0) == 0);
    *ret_link = link;
    return 0;
}

void med_link_stop(struct med_link *link)
{
    if (link->stopping)
        return;
    link->stopping = true;
    switch (link->state) {
    case STATE_WAITING:
        end_link(link);
        break;
    case STATE_RESOLVING:
        (void)uv_cancel((uv_req_t *)&link->resolve);
        break;
    case STATE_CONNECTING:
    case STATE_GREETING:
        reset(link, NULL);
        break;
    case STATE_UP:
        med_link_flush(link);
        if (link->state == STATE_UP && !link->connection->write_busy)
            reset(link, NULL);
        else if (link->state == STATE_UP)
            (void)uv_timer_start(&link->timer, on_timer, LINGER_MS, 0);
        break;
    case STATE_CLOSING:
    case STATE_STOPPED:
        break;
    }
}

void med_link_finish(struct med_link *link)
{
    MED_INFO("router %s: drained, closing", link->config.address);
    med_link_stop(link);
}

void *med_link_user(const struct med_link *link)
{
    return link->config.user;
}

const char *med_link_address(const struct med_link *link)
{
    return link->config.address;
}

bool med_link_is_up(const struct med_link *link)
{
    return link->state == STATE_UP;
}
