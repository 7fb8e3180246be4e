/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two halves of a link share: link_client.c (the connection's life) and link_frames.c (what
 * frames say).  Nobody else includes this.
 * thread: loop.
 */
#ifndef MED_WORKER_LINK_INTERNAL_H
#define MED_WORKER_LINK_INTERNAL_H

#include "base/rng.h"
#include "proto/frame.h"
#include "router/stream.h"
#include "worker/link_client.h"

enum {
    MED_UPLINK_READ_BYTES = 64 << 10,
    MED_UPLINK_STATS_MS_MAX = 24 * 3600 * 1000, /* longest interval between Stats, fleet time */
};

enum med_uplink_state {
    MED_UPLINK_STATE_WAITING,
    MED_UPLINK_STATE_RESOLVING,
    MED_UPLINK_STATE_CONNECTING,
    MED_UPLINK_STATE_GREETING,
    MED_UPLINK_STATE_UP,
    MED_UPLINK_STATE_CLOSING,
    MED_UPLINK_STATE_STOPPED
};

/* One dial. Lives until its handle has closed. */
struct med_uplink_connection {
    struct med_stream stream;
    uv_connect_t connect;
    struct med_uplink *link;
    struct med_buf writing; /* with the stream */
    bool write_busy;
    char read_bytes[MED_UPLINK_READ_BYTES];
};

/* thread: loop */
struct med_uplink {
    struct med_uplink_config config;
    uv_loop_t *loop;
    uv_timer_t timer;       /* guards the state */
    uv_timer_t stats_timer; /* while UP */
    int timers_open;
    uv_getaddrinfo_t resolve;
    enum med_uplink_state state;
    bool stopping;       /* no more dialling */
    char complaint[160]; /* what was logged last, so that a long outage is one line */
    struct med_uplink_connection *connection;
    struct med_frame_reader reader;
    struct med_buf out;
    bool peer_measures;        /* its Welcome says that it is a profiler */
    int64_t stats_interval_ns; /* fleet time; 0: none wanted */
    int64_t stats_next_ns;
    int64_t pause_ms; /* the next one, before jitter */
    struct med_rng rng;
    int doomed; /* < 0: the connection must be closed at the next chance; doom_err says why */
    struct med_err doom_err;
};

/* link_frames.c */

/* Hands on every whole frame. < 0: the router broke the protocol, err says how. */
int med_uplink_take_bytes(struct med_uplink *link, const char *bytes, size_t count,
                          struct med_err *err) MED_MUST_CHECK;
void med_uplink_put_hello(struct med_uplink *link);
void med_uplink_put_stats(struct med_uplink *link);

/* link_client.c */

/* The router has welcomed this worker and wants Stats so often (0: never). */
void med_uplink_set_up(struct med_uplink *link, uint32_t stats_interval_ms);

#endif
