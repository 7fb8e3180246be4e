/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One link of a worker to one router: dials, greets, reads and writes frames, dials again.
 *
 * What comes in is checked and handed on as plain structs; protobuf types stay inside.  Sends append
 * to a bounded buffer and never close anything themselves: a router that does not read makes the
 * buffer pass its maximum, and the next flush closes the connection.  When a connection ends, for
 * whatever reason, on_lost says so once, and the link dials again after a growing, jittered pause,
 * until it is told to stop or the router has drained it.
 *
 * Life: new starts dialling; stop ends it; on_stopped is called from the loop when its handles have
 * closed, and the link is gone when it returns.
 * thread: loop. owns: its handles and copies of its strings.
 */
#ifndef MED_WORKER_LINK_CLIENT_H
#define MED_WORKER_LINK_CLIENT_H

#include "base/clock.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct med_link;

enum {
    MED_LINK_VERSION = 1
};

/* What the worker says of itself; strings are borrowed for the link's life. */
struct med_link_hello {
    const char *worker_id;
    uint64_t incarnation;
    const char *worker_type;
    const char *model;
    const char *backend;
    int64_t model_len_max, sequences_max, kv_tokens;
};

/* A request as it came, within the limits of base/limits.h; borrowed during the call. */
struct med_link_generate {
    uint64_t request;
    uint32_t attempt;
    const uint32_t *prompt;
    size_t prompt_count;
    uint32_t tokens_max;
    bool has_temperature, has_top_p, has_top_k, has_seed;
    float temperature, top_p;
    uint32_t top_k;
    uint64_t seed;
    bool ignore_eos;
    uint32_t emulated_output_tokens;
    const char *request_id;
};

struct med_link_stats {
    int64_t heartbeat_ns;
    uint64_t running, waiting, kv_blocks_free, kv_blocks_total, iterations, prompt_tokens,
        generated_tokens, finished, preemptions;
};

enum med_link_ending {
    MED_LINK_STOP = 1,
    MED_LINK_LENGTH,
    MED_LINK_CANCELLED,
    MED_LINK_ERROR,
    MED_LINK_REFUSED
};

struct med_link_ops {
    /* < 0: the router broke the protocol, err says how; the connection is closed. */
    int (*on_generate)(void *arg, struct med_link *link, const struct med_link_generate *generate,
                       struct med_err *err);
    void (*on_cancel)(void *arg, struct med_link *link, uint64_t request, uint32_t attempt);
    /* The router wants no more from this worker: what runs is finished, then med_link_finish. */
    void (*on_drain)(void *arg, struct med_link *link);
    /* The connection is over: its requests have nobody to answer to. */
    void (*on_lost)(void *arg, struct med_link *link);
    void (*on_stopped)(void *arg, struct med_link *link);
    void (*get_stats)(void *arg, struct med_link_stats *ret_stats);
    void *arg;
};

struct med_link_config {
    const char *address; /* HOST:PORT or unix:/path; borrowed */
    const struct med_link_hello *hello;
    const struct med_clock *clock;
    struct med_link_ops ops;
    uint64_t seed; /* of the jitter */
    void *user;
};

/* Is this an address to dial? errors: MED_E_USAGE with a sentence. */
int med_link_check_address(const char *address, struct med_err *err) MED_MUST_CHECK;

/* errors: MED_E_USAGE, MED_E_NOMEM, libuv's. */
int med_link_new(uv_loop_t *loop, const struct med_link_config *config, struct med_link **ret_link,
                 struct med_err *err) MED_MUST_CHECK;
/* Flushes what is buffered as far as the router takes it within a second, and ends the link. */
void med_link_stop(struct med_link *link);
/* As stop, after a drain that the router asked for. */
void med_link_finish(struct med_link *link);

void *med_link_user(const struct med_link *link);
const char *med_link_address(const struct med_link *link);
bool med_link_is_up(const struct med_link *link); /* greeted and welcome */

/* These do nothing on a link that is not up. */
void med_link_send_tokens(struct med_link *link, uint64_t request, uint32_t attempt,
                          int64_t position, const uint32_t *ids, size_t count, int64_t at_ns);
void med_link_send_finish(struct med_link *link, uint64_t request, uint32_t attempt,
                          enum med_link_ending ending, const char *message);
void med_link_send_drain(struct med_link *link);
/* Writes what was sent since the last flush, in one go. */
void med_link_flush(struct med_link *link);

#endif
