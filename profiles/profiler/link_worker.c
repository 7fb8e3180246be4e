/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The profiled worker's link (see link_worker.h): one listener, one connection, frames in and out.
 *
 * A callback that meets something wrong sets `failure` once; whoever waits for something turns the loop
 * until it is there or `failure` is.  A second worker that dials is turned away: a profile is of one
 * machine.  A worker that is lost is not waited for again: what was measured is in the journal, and the
 * next run goes on.
 * thread: main.
 */
#include "profiles/profiler/link_worker.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/log.h"
#include "proto/frame.h"
#include "router/keys.h"
#include "router/net.h"
#include "router/stream.h"
#include "router/tls.h"
#include "router/up/child.h"

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    LINK_VERSION = 1,
    MEASURE_VERSION = 1,
    READ_BYTES = 64 << 10,
    OUT_BYTES = 1 << 20,
    STATS_MS = 60000, /* its Stats are not looked at */
    ARGS_MAX = 120,
    ANSWER_MS = 30000, /* for a Description */
    STOP_MS = 15000,   /* for a spawned worker's end */
    PATH_BYTES = 100,
    COUNT_MAX = 1 << 30 /* tokens, sequences: as a worker's options */
};

union socket {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
};

enum wanted {
    WANT_HELLO,
    WANT_DESCRIPTION,
    WANT_MEASURED,
    WANT_NOTHING
};

struct med_profiled {
    struct med_profiled_config config;
    uv_loop_t loop;
    union socket listener;
    uv_timer_t timer;
    uv_signal_t interrupt, terminate;
    struct med_child child;
    bool has_child, has_listener, has_stream, stream_closed;
    char folder[PATH_BYTES], path[PATH_BYTES]; /* of the Unix socket; "": none */
    struct med_tls *tls;
    struct med_keys *tokens;

    struct med_stream stream;
    struct med_frame_reader reader;
    struct med_buf out;
    char in[READ_BYTES];
    bool greeted, stopping;

    enum wanted wanted;
    int interrupts;
    struct med_err failure; /* code 0: all is well */
    struct med_profiled_facts facts;
    struct med_profiled_steps asked;
    uint64_t id;          /* of the last Measure */
    bool refused, cannot; /* the worker did not measure, and never will; refusal says why */
    char refusal[MED_PROFILED_TEXT];
    uint64_t step_ns[MED_PROFILED_REPEATS_MAX];
    uint64_t contexts[MED_PROFILED_REPEATS_MAX];
    size_t count;
};

static void fail(struct med_profiled *p, int code, const char *why)
{
    if (p->failure.code == 0)
        (void)med_err_set(&p->failure, code, "%s", why);
}

/* ---- what the worker says ------------------------------------------------------------------- */

static void keep_text(char to[MED_PROFILED_TEXT], const char *text)
{
    (void)snprintf(to, MED_PROFILED_TEXT, "%s", text);
    for (char *c = to; *c != '\0'; c++) {
        if ((unsigned char)*c < ' ')
            *c = ' ';
    }
}

static int flush_frame(struct med_profiled *p, const Medley__Link__Frame *frame)
{
    int rc = med_frame_write(&p->out, frame);
    if (rc < 0 || p->out.length == 0)
        return rc;
    uv_buf_t buf = uv_buf_init(p->out.data, (unsigned)p->out.length);
    return med_stream_write(&p->stream, &buf, 1);
}

/* Frames are small and go one at a time: each is an answer, or asks for one. */
static void send_frame(struct med_profiled *p, const Medley__Link__Frame *frame)
{
    if (p->out.length > 0) {
        fail(p, MED_E_PROTO, "the worker does not read what is sent to it");
        return;
    }
    int rc = flush_frame(p, frame);
    if (rc < 0)
        fail(p, MED_E_IO, med_stream_why(&p->stream, rc));
}

static void send_welcome(struct med_profiled *p, const char *reason)
{
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Welcome body = MEDLEY__LINK__WELCOME__INIT;
    body.version = LINK_VERSION;
    body.accepted = reason == NULL;
    body.reason = (char *)(reason ? reason : "");
    body.stats_interval_ms = STATS_MS;
    body.profiler = true;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_WELCOME;
    frame.welcome = &body;
    send_frame(p, &frame);
}

/* A size as it came, and the most that it may be. */
struct bound {
    const char *name;
    uint64_t value, max;
};

static bool are_sound(struct med_profiled *p, const char *message, const struct bound *bounds,
                      size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (bounds[i].value >= 1 && bounds[i].value <= bounds[i].max)
            continue;
        if (p->failure.code == 0) {
            (void)med_err_set(&p->failure, MED_E_PROTO,
                              "%s: %s is %" PRIu64 ", expected 1 to %" PRIu64, message,
                              bounds[i].name, bounds[i].value, bounds[i].max);
        }
        return false;
    }
    return true;
}

static void take_hello(struct med_profiled *p, const Medley__Link__Hello *h)
{
    const struct bound bounds[] = {{"max_model_len", h->max_model_len, COUNT_MAX},
                                   {"max_num_seqs", h->max_num_seqs, 1 << 20},
                                   {"kv_tokens", h->kv_tokens, UINT64_C(1) << 40}};
    if (p->greeted) {
        fail(p, MED_E_PROTO, "the worker said Hello twice");
    } else if (h->version != LINK_VERSION) {
        send_welcome(p, "this profiler speaks link version 1");
        fail(p, MED_E_PROTO, "the worker speaks another version of the link, expected 1");
    } else if (!med_keys_match(p->tokens, (const char *)h->token.data, h->token.len)) {
        send_welcome(p, "the token is not one that this profiler takes");
        fail(p, MED_E_PROTO, "the worker has no token that --link-token-file has");
    } else if (are_sound(p, "Hello", bounds, sizeof bounds / sizeof bounds[0])) {
        p->greeted = true;
        keep_text(p->facts.worker_type, h->worker_type);
        keep_text(p->facts.model, h->model);
        keep_text(p->facts.backend, h->backend);
        keep_text(p->facts.version, h->program_version);
        keep_text(p->facts.worker_id, h->worker_id);
        p->facts.model_len_max = (int64_t)h->max_model_len;
        p->facts.sequences_max = (int64_t)h->max_num_seqs;
        p->facts.kv_tokens = (int64_t)h->kv_tokens;
        p->wanted = p->wanted == WANT_HELLO ? WANT_NOTHING : p->wanted;
        send_welcome(p, NULL);
    }
}

/* Rates may be unknown, sizes not. */
static bool is_rate(double value)
{
    return isfinite(value) && value >= 0 && value <= 1e18;
}

static void keep_description(struct med_profiled_facts *f, const Medley__Link__Description *d)
{
    keep_text(f->device, d->device);
    keep_text(f->gpu, d->gpu);
    keep_text(f->dtype, d->dtype);
    keep_text(f->kv_dtype, d->kv_dtype);
    keep_text(f->driver, d->driver);
    keep_text(f->uuid, d->uuid);
    keep_text(f->host, d->host);
    f->gpus = d->gpus;
    f->memory_bytes = d->memory_bytes;
    f->read_bytes_per_s = d->read_bytes_per_s;
    f->read_spread = d->read_spread;
    f->flops_per_s = d->flops_per_s;
    f->flops_spread = d->flops_spread;
    f->peak_bytes_per_s = d->peak_bytes_per_s;
    f->peak_flops_per_s = d->peak_flops_per_s;
    f->parameters = d->parameters;
    f->weight_bytes = d->weight_bytes;
    f->kv_bytes_per_token = d->kv_bytes_per_token;
    f->layers = d->layers;
    f->hidden = d->hidden;
    f->heads = d->heads;
    f->kv_heads = d->kv_heads;
    f->head_dim = d->head_dim;
    f->intermediate = d->intermediate;
    f->vocab = d->vocab;
    f->batched_tokens_max = (int64_t)d->max_num_batched_tokens;
    f->block_tokens = d->block_tokens;
    f->clock_mhz = d->clock_mhz;
    f->clock_max_mhz = d->clock_max_mhz;
    f->memory_clock_mhz = d->memory_clock_mhz;
    f->power_w = d->power_w;
    f->power_limit_w = d->power_limit_w;
    f->temperature_c = d->temperature_c;
    f->time_scale = d->time_scale;
}

static void take_description(struct med_profiled *p, const Medley__Link__Description *d)
{
    const struct bound bounds[] = {
        {"layers", d->layers, 100000},
        {"hidden", d->hidden, COUNT_MAX},
        {"heads", d->heads, 100000},
        {"kv_heads", d->kv_heads, 100000},
        {"head_dim", d->head_dim, 100000},
        {"intermediate", d->intermediate, COUNT_MAX},
        {"vocab", d->vocab, COUNT_MAX},
        {"gpus", d->gpus, 1024},
        {"max_num_batched_tokens", d->max_num_batched_tokens, COUNT_MAX},
        {"block_tokens", d->block_tokens, COUNT_MAX},
    };
    const double rates[] = {d->read_bytes_per_s, d->read_spread,      d->flops_per_s,
                            d->flops_spread,     d->peak_bytes_per_s, d->peak_flops_per_s};
    if (p->wanted != WANT_DESCRIPTION) {
        fail(p, MED_E_PROTO, "the worker described itself without having been asked");
        return;
    }
    if (d->version != MEASURE_VERSION) {
        fail(p, MED_E_PROTO, "the worker's Description has another version, expected 1");
        return;
    }
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        if (!is_rate(rates[i]))
            fail(p, MED_E_PROTO, "Description: a rate is no number from 0 to 1e18");
    }
    if (!is_rate(d->memory_bytes) || !is_rate(d->parameters) || !is_rate(d->weight_bytes) ||
        !is_rate(d->kv_bytes_per_token) || d->parameters < 1 || d->weight_bytes < 1 ||
        d->kv_bytes_per_token <= 0 || !(d->time_scale > 0 && d->time_scale <= 1e6))
        fail(p, MED_E_PROTO, "Description: the sizes of model or memory are no numbers above 0");
    if (!are_sound(p, "Description", bounds, sizeof bounds / sizeof bounds[0]))
        return;
    keep_description(&p->facts, d);
    p->wanted = WANT_NOTHING;
}

static bool is_as_asked(const struct med_profiled *p, const Medley__Link__Measured *m)
{
    const struct med_profiled_steps *a = &p->asked;
    if (a->fill)
        return m->n_step_ns == 0 && m->n_decode_context_tokens == 0;
    return m->n_step_ns == (size_t)a->repeats && m->n_decode_context_tokens == m->n_step_ns &&
           m->prefill_tokens == a->prefill_tokens && m->prefill_context == a->prefill_context &&
           m->decode_sequences == a->decode_sequences;
}

static void take_measured(struct med_profiled *p, const Medley__Link__Measured *m)
{
    if (p->wanted != WANT_MEASURED || m->id != p->id) {
        fail(p, MED_E_PROTO, "the worker answered a measurement that was not asked for");
        return;
    }
    if (m->version != MEASURE_VERSION) {
        fail(p, MED_E_PROTO, "the worker's Measured has another version, expected 1");
        return;
    }
    p->wanted = WANT_NOTHING;
    if (m->error[0] != '\0') {
        p->refused = true;
        p->cannot = m->cannot;
        keep_text(p->refusal, m->error);
        return;
    }
    if (!is_as_asked(p, m)) {
        fail(p, MED_E_PROTO, "Measured: it is of other steps than those that were asked for");
        return;
    }
    p->count = m->n_step_ns;
    for (size_t i = 0; i < p->count; i++) {
        if (m->step_ns[i] == 0 || m->step_ns[i] > UINT64_C(86400000000000)) {
            fail(p, MED_E_PROTO, "Measured: a step took no time, or more than a day");
            return;
        }
        if (m->decode_context_tokens[i] > (uint64_t)p->facts.kv_tokens) {
            fail(p, MED_E_PROTO, "Measured: a context larger than the worker's KV cache");
            return;
        }
        p->step_ns[i] = m->step_ns[i];
        p->contexts[i] = m->decode_context_tokens[i];
    }
}

static void take_frame(struct med_profiled *p, const Medley__Link__Frame *frame)
{
    if (!p->greeted && frame->body_case != MEDLEY__LINK__FRAME__BODY_HELLO) {
        fail(p, MED_E_PROTO, "the worker's first frame is no Hello");
        return;
    }
    switch (frame->body_case) {
    case MEDLEY__LINK__FRAME__BODY_HELLO:
        take_hello(p, frame->hello);
        break;
    case MEDLEY__LINK__FRAME__BODY_DESCRIPTION:
        take_description(p, frame->description);
        break;
    case MEDLEY__LINK__FRAME__BODY_MEASURED:
        take_measured(p, frame->measured);
        break;
    case MEDLEY__LINK__FRAME__BODY_STATS:
    case MEDLEY__LINK__FRAME__BODY_PING:
        break;
    case MEDLEY__LINK__FRAME__BODY_DRAIN:
        fail(p, MED_E_IO, "the worker was told to stop");
        break;
    default:
        fail(p, MED_E_PROTO, "the worker sent a frame that one that is measured does not send");
    }
}

/* ---- the stream ----------------------------------------------------------------------------- */

static uv_buf_t on_alloc(void *owner)
{
    struct med_profiled *p = owner;
    return uv_buf_init(p->in, READ_BYTES);
}

static void on_read(void *owner, ssize_t count, const char *bytes)
{
    struct med_profiled *p = owner;
    struct med_err err = {0};
    if (count < 0) {
        fail(p, MED_E_IO,
             count == UV_EOF ? "the worker closed its connection"
                             : med_stream_why(&p->stream, (int)count));
        return;
    }
    int rc = med_frame_reader_feed(&p->reader, bytes, (size_t)count, &err);
    while (rc >= 0 && p->failure.code == 0) {
        Medley__Link__Frame *frame = NULL;
        rc = med_frame_reader_next(&p->reader, &frame, &err);
        if (rc <= 0)
            break;
        take_frame(p, frame);
        med_frame_free(frame);
    }
    if (rc < 0)
        fail(p, MED_E_PROTO, err.text);
}

static void on_written(void *owner, int status)
{
    struct med_profiled *p = owner;
    med_buf_clear(&p->out);
    if (status < 0 && !p->stopping)
        fail(p, MED_E_IO, med_stream_why(&p->stream, status));
}

static void on_stream_closed(void *owner)
{
    struct med_profiled *p = owner;
    p->stream_closed = true;
}

static const struct med_stream_ops stream_ops = {.on_alloc = on_alloc,
                                                 .on_read = on_read,
                                                 .on_written = on_written,
                                                 .on_closed = on_stream_closed};

static void on_scrap_closed(uv_handle_t *handle)
{
    med_free(handle);
}

static void turn_away(struct med_profiled *p, uv_stream_t *listener)
{
    union socket *scrap = med_calloc(1, sizeof *scrap);
    if (!scrap)
        return;
    int rc = listener->type == UV_TCP ? uv_tcp_init(&p->loop, &scrap->tcp)
                                      : uv_pipe_init(&p->loop, &scrap->pipe, 0);
    if (rc < 0) {
        med_free(scrap);
        return;
    }
    MED_WARN("another worker dialled and is turned away: a profile is of one machine");
    (void)uv_accept(listener, &scrap->stream); /* closed in either case */
    uv_close(&scrap->handle, on_scrap_closed);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct med_profiled *p = listener->data;
    bool is_tcp = listener->type == UV_TCP;
    if (status < 0) {
        fail(p, MED_E_IO, uv_strerror(status));
        return;
    }
    if (p->has_stream || p->stopping) {
        turn_away(p, listener);
        return;
    }
    int rc = med_stream_init(&p->stream, &p->loop, is_tcp, &stream_ops, p);
    p->has_stream = rc == 0;
    if (rc == 0)
        rc = uv_accept(listener, &p->stream.uv.stream);
    if (rc == 0)
        rc = med_stream_set_tls(&p->stream, is_tcp ? p->tls : NULL, NULL);
    if (rc == 0)
        rc = med_stream_read_start(&p->stream);
    if (rc < 0)
        fail(p, MED_E_IO, uv_strerror(rc));
}

/* ---- listening ------------------------------------------------------------------------------ */

static int listen_unix(struct med_profiled *p, const char *path, struct med_err *err)
{
    (void)snprintf(p->path, sizeof p->path, "%s", path);
    if (strlen(path) >= sizeof p->path)
        return med_err_set(err, MED_E_USAGE, "--listen unix:%s: the path is too long", path);
    int rc = uv_pipe_init(&p->loop, &p->listener.pipe, 0);
    MED_ASSERT(rc == 0);
    p->has_listener = true;
    rc = uv_pipe_bind(&p->listener.pipe, path);
    if (rc == 0)
        rc = uv_listen(&p->listener.stream, 8, on_connection);
    if (rc < 0)
        return med_err_set(err, MED_E_IO, "cannot listen at unix:%s: %s", path, uv_strerror(rc));
    return 0;
}

static int listen_tcp(struct med_profiled *p, struct med_err *err)
{
    struct sockaddr_storage address;
    char text[MED_NET_TEXT_MAX];
    int bytes = sizeof address;
    int rc = med_net_parse(p->config.listen, "--listen", &address, err);
    if (rc < 0)
        return rc;
    rc = uv_tcp_init(&p->loop, &p->listener.tcp);
    MED_ASSERT(rc == 0);
    p->has_listener = true;
    rc = uv_tcp_bind(&p->listener.tcp, (const struct sockaddr *)&address, 0);
    if (rc == 0)
        rc = uv_listen(&p->listener.stream, 8, on_connection);
    if (rc == 0)
        rc = uv_tcp_getsockname(&p->listener.tcp, (struct sockaddr *)&address, &bytes);
    if (rc < 0) {
        return med_err_set(err, MED_E_IO, "cannot listen at %s: %s", p->config.listen,
                           uv_strerror(rc));
    }
    med_net_format(&address, text);
    (void)fprintf(stderr, "profile: waiting for a worker at %s\n", text);
    if (!med_net_is_loopback(&address) && !p->tls) {
        MED_WARN("--listen %s: anybody on this network can see the link, and with no "
                 "--link-token-file be the worker",
                 text);
    }
    return 0;
}

static int prepare_security(struct med_profiled *p, struct med_err *err)
{
    const struct med_profiled_config *c = &p->config;
    const struct med_tls_config tls = {.certificate_option = "--link-tls-certificate",
                                       .key_option = "--link-tls-key",
                                       .certificate = c->tls_certificate,
                                       .key = c->tls_key,
                                       .is_server = true};
    int rc = 0;
    if (!c->tls_certificate != !c->tls_key) {
        return med_err_set(err, MED_E_USAGE,
                           "expected --link-tls-certificate and --link-tls-key together");
    }
    if (c->tls_certificate)
        rc = med_tls_new(&tls, &p->tls, err);
    if (rc >= 0 && c->token_file)
        rc = med_keys_new("--link-token-file", c->token_file, &p->tokens, err);
    return rc;
}

/* ---- the spawned worker --------------------------------------------------------------------- */

static void on_child_ready(struct med_child *child, const char *after_ready)
{
    (void)child;
    (void)after_ready;
}

static void on_child_end(struct med_child *child, int64_t pause_ms)
{
    struct med_profiled *p = child->user;
    char why[MED_PROFILED_TEXT];
    (void)pause_ms;
    child->wanted = false;
    (void)uv_timer_stop(&child->restart);
    if (p->stopping)
        return;
    (void)snprintf(why, sizeof why, "the worker ended: %s", child->end);
    fail(p, MED_E_IO, why);
}

static int spawn(struct med_profiled *p, struct med_err *err)
{
    static const struct med_child_ops ops = {.on_ready = on_child_ready, .on_end = on_child_end};
    const char *args[ARGS_MAX + 3];
    char address[PATH_BYTES + 8];
    size_t count = 0;
    while (p->config.args[count]) {
        if (count == ARGS_MAX)
            return med_err_set(err, MED_E_USAGE, "too many arguments for the worker");
        args[count] = p->config.args[count];
        count++;
    }
    const char *top = getenv("TMPDIR");
    top = top && *top ? top : "/tmp";
    int length = snprintf(p->folder, sizeof p->folder, "%s/medley-profile-XXXXXX", top);
    if (length < 0 || (size_t)length >= sizeof p->folder - sizeof "/link" || !mkdtemp(p->folder)) {
        p->folder[0] = '\0';
        return med_err_set(err, MED_E_IO, "cannot make a folder in %s for the worker's socket",
                           top);
    }
    char path[PATH_BYTES];
    (void)snprintf(path, sizeof path, "%s/link", p->folder);
    int rc = listen_unix(p, path, err);
    if (rc < 0)
        return rc;
    (void)snprintf(address, sizeof address, "unix:%s", p->path);
    args[count++] = "--router";
    args[count++] = address;
    args[count] = NULL;
    p->has_child = true;
    rc = med_child_init(&p->child, &p->loop, "worker", &ops, p);
    p->child.wanted = false; /* one that dies is not started again */
    if (rc >= 0)
        rc = med_child_set_args(&p->child, args);
    if (rc < 0)
        return med_err_set(err, rc, "cannot start the worker: %s", med_err_text(rc));
    med_child_start(&p->child);
    return 0;
}

/* ---- waiting -------------------------------------------------------------------------------- */

static void on_signal(uv_signal_t *handle, int number)
{
    struct med_profiled *p = handle->data;
    (void)number;
    p->interrupts++;
    fail(p, MED_E_CANCELLED, "interrupted");
}

static void on_timeout(uv_timer_t *timer)
{
    struct med_profiled *p = timer->data;
    if (p->stopping)
        return;
    fail(p, MED_E_IO,
         p->wanted == WANT_HELLO ? "no worker came in the time of --wait"
                                 : "the worker does not answer any more");
}

/* Turns the loop until what is wanted is there. */
static int wait_for(struct med_profiled *p, enum wanted wanted, int64_t timeout_ms,
                    struct med_err *err)
{
    p->wanted = wanted;
    MED_ASSERT(uv_timer_start(&p->timer, on_timeout, (uint64_t)timeout_ms, 0) == 0);
    while (p->wanted != WANT_NOTHING && p->failure.code == 0)
        (void)uv_run(&p->loop, UV_RUN_ONCE);
    (void)uv_timer_stop(&p->timer);
    if (p->failure.code == 0)
        return 0;
    if (err)
        *err = p->failure;
    return p->failure.code;
}

/* Our last frame has left. */
static void wait_written(struct med_profiled *p)
{
    while (p->out.length > 0 && p->failure.code == 0)
        (void)uv_run(&p->loop, UV_RUN_ONCE);
}

int med_profiled_refresh(struct med_profiled *p, struct med_err *err)
{
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Describe body = MEDLEY__LINK__DESCRIBE__INIT;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_DESCRIBE;
    frame.describe = &body;
    wait_written(p);
    p->wanted = WANT_DESCRIPTION;
    if (p->failure.code == 0)
        send_frame(p, &frame);
    return wait_for(p, WANT_DESCRIPTION, ANSWER_MS, err);
}

int med_profiled_measure(struct med_profiled *p, const struct med_profiled_steps *steps,
                         int64_t timeout_ns, struct med_profiled_times *ret_times,
                         struct med_err *err)
{
    MED_ASSERT(steps->repeats <= MED_PROFILED_REPEATS_MAX);
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Measure body = MEDLEY__LINK__MEASURE__INIT;
    body.version = MEASURE_VERSION;
    body.id = ++p->id;
    body.prefill_tokens = (uint32_t)steps->prefill_tokens;
    body.prefill_context = (uint32_t)steps->prefill_context;
    body.decode_sequences = (uint32_t)steps->decode_sequences;
    body.decode_context_tokens = (uint64_t)steps->decode_context_tokens;
    body.warmup = (uint32_t)steps->warmup;
    body.repeats = (uint32_t)steps->repeats;
    body.fill = steps->fill;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_MEASURE;
    frame.measure = &body;
    wait_written(p);
    p->asked = *steps;
    p->refused = false;
    p->wanted = WANT_MEASURED;
    if (p->failure.code == 0)
        send_frame(p, &frame);
    int rc = wait_for(p, WANT_MEASURED, timeout_ns / 1000000 + 1, err);
    if (rc < 0)
        return rc;
    if (p->refused)
        return med_err_set(err, p->cannot ? MED_E_INVALID : MED_E_IO, "%s", p->refusal);
    *ret_times = (struct med_profiled_times){
        .count = p->count, .step_ns = p->step_ns, .decode_context_tokens = p->contexts};
    return 0;
}

bool med_profiled_interrupted(const struct med_profiled *p)
{
    return p->interrupts > 0;
}

const struct med_profiled_facts *med_profiled_facts(const struct med_profiled *p)
{
    return &p->facts;
}

/* ---- life ----------------------------------------------------------------------------------- */

static int begin(struct med_profiled *p, struct med_err *err)
{
    int rc = prepare_security(p, err);
    if (rc < 0)
        return rc;
    if (p->config.args) {
        rc = spawn(p, err);
    } else if (strncmp(p->config.listen, "unix:", 5) == 0) {
        rc = listen_unix(p, p->config.listen + 5, err);
        if (rc >= 0)
            (void)fprintf(stderr, "profile: waiting for a worker at %s\n", p->config.listen);
    } else {
        rc = listen_tcp(p, err);
    }
    if (p->has_listener)
        p->listener.handle.data = p;
    if (rc >= 0)
        rc = wait_for(p, WANT_HELLO, p->config.wait_ns / 1000000 + 1, err);
    return rc < 0 ? rc : med_profiled_refresh(p, err);
}

int med_profiled_new(const struct med_profiled_config *config, struct med_profiled **ret_worker,
                     struct med_err *err)
{
    struct med_profiled *p = med_calloc(1, sizeof *p);
    if (!p)
        return med_err_set(err, MED_E_NOMEM, "no memory for a worker's link");
    p->config = *config;
    MED_ASSERT(uv_loop_init(&p->loop) == 0);
    MED_ASSERT(uv_timer_init(&p->loop, &p->timer) == 0);
    uv_signal_t *const signals[] = {&p->interrupt, &p->terminate};
    const int numbers[] = {SIGINT, SIGTERM};
    for (int i = 0; i < 2; i++) {
        MED_ASSERT(uv_signal_init(&p->loop, signals[i]) == 0);
        signals[i]->data = p;
        MED_ASSERT(uv_signal_start(signals[i], on_signal, numbers[i]) == 0);
        uv_unref((uv_handle_t *)signals[i]);
    }
    (void)signal(SIGPIPE, SIG_IGN); /* a worker that goes away is an error of a write */
    p->timer.data = p;
    p->listener.handle.data = p;
    med_frame_reader_init(&p->reader);
    med_buf_init(&p->out, OUT_BYTES);
    int rc = begin(p, err);
    if (rc < 0) {
        med_profiled_free(p);
        return rc;
    }
    *ret_worker = p;
    return 0;
}

static void on_stop_timeout(uv_timer_t *timer)
{
    struct med_profiled *p = timer->data;
    med_child_stop(&p->child, SIGKILL);
}

/* SIGTERM, and SIGKILL for one that does not end. */
static void stop_child(struct med_profiled *p)
{
    if (!p->has_child)
        return;
    med_child_stop(&p->child, SIGTERM);
    MED_ASSERT(uv_timer_start(&p->timer, on_stop_timeout, STOP_MS, 0) == 0);
    while (med_child_runs(&p->child))
        (void)uv_run(&p->loop, UV_RUN_ONCE);
    (void)uv_timer_stop(&p->timer);
    med_child_close(&p->child);
}

void med_profiled_free(struct med_profiled *p)
{
    if (!p)
        return;
    p->stopping = true;
    stop_child(p); /* which closes its end in order */
    if (p->has_stream)
        med_stream_close(&p->stream);
    if (p->has_listener)
        uv_close(&p->listener.handle, NULL);
    uv_close((uv_handle_t *)&p->timer, NULL);
    uv_close((uv_handle_t *)&p->interrupt, NULL);
    uv_close((uv_handle_t *)&p->terminate, NULL);
    (void)uv_run(&p->loop, UV_RUN_DEFAULT);
    MED_ASSERT(uv_loop_close(&p->loop) == 0);
    if (p->path[0] != '\0')
        (void)unlink(p->path); /* libuv has done so, if it could */
    if (p->folder[0] != '\0')
        (void)rmdir(p->folder);
    med_frame_reader_release(&p->reader);
    med_buf_release(&p->out);
    med_tls_free(p->tls);
    med_keys_free(p->tokens);
    med_free(p);
}
