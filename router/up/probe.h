/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asks a router's /health how many workers it has, once.
 *
 * One probe runs at a time; its answer comes from the loop, and then the probe may be started again.
 * thread: loop. owns: its handles while it runs.
 */
#ifndef MED_ROUTER_UP_PROBE_H
#define MED_ROUTER_UP_PROBE_H

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <uv.h>

struct med_probe {
    void (*on_answer)(struct med_probe *probe, int64_t workers_ready); /* -1: no answer */
    void *user;
    bool runs;
    int64_t workers_ready;
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    struct med_buf answer;
    char chunk[4096];
};

/* Starts; on_answer is called exactly once. The probe must not run. */
void med_probe_start(struct med_probe *probe, uv_loop_t *loop,
                     const struct sockaddr_storage *address);

/* Workers that are ready by the answer of /health (head and body); -1: it is none. */
int64_t med_probe_count_ready(const char *answer, size_t length);

#endif
