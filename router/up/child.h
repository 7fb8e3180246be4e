/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One supervised process: started, watched, its log lines passed on under its name, started again
 * with a growing pause when it ends.
 *
 * Life: init; start; any number of ends and restarts; stop asks it to end and no more restarts
 * follow; close once it does not run; the memory may go when on_closed has been called.
 * thread: loop. owns: its handles and its copy of the arguments.
 */
#ifndef MED_ROUTER_UP_CHILD_H
#define MED_ROUTER_UP_CHILD_H

#include "base/err.h"
#include "base/limits.h"
#include "router/up/backoff.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

enum {
    MED_CHILD_LINE_MAX = 8192, /* a longer line is passed on in pieces */
    MED_CHILD_END_MAX = 128,
    MED_CHILD_PATH_MAX = 4096,
    MED_CHILD_NAME_MAX = MED_LIMIT_NAME_BYTES + 16
};

struct med_child;

struct med_child_ops {
    /* It said READY; after_ready: the rest of that line. */
    void (*on_ready)(struct med_child *child, const char *after_ready);
    /* It ended; child->end says how, child->exit_status the status or -1. pause_ms: until it is
     * started again; -1: it will not be. */
    void (*on_end)(struct med_child *child, int64_t pause_ms);
    void (*on_closed)(struct med_child *child);
};

/* thread: loop */
struct med_child {
    char name[MED_CHILD_NAME_MAX];
    uv_loop_t *loop;
    const struct med_child_ops *ops;
    void *user;
    char self[MED_CHILD_PATH_MAX]; /* this program, which becomes the child */
    char **args;                   /* program first, NULL last; owned */
    struct process *process;       /* while it runs */
    uv_timer_t restart;
    struct med_backoff backoff;
    bool ready;  /* has said READY since it was started */
    bool wanted; /* to be started again */
    bool closed;
    int starts;
    int64_t started_ms;
    int exit_status;
    char end[MED_CHILD_END_MAX]; /* "signal 9 (Killed)"; "" while it has never ended */
};

/* errors: what libuv says of this program's own path; close it then all the same. */
int med_child_init(struct med_child *child, uv_loop_t *loop, const char *name,
                   const struct med_child_ops *ops, void *user) MED_MUST_CHECK;
/* Replaces the arguments for the next start; args (NULL at the end) are copied. */
int med_child_set_args(struct med_child *child, const char *const *args) MED_MUST_CHECK;
/* For another process under another name; it must not run. Its arguments are to be set anew. */
void med_child_reuse(struct med_child *child, const char *name);
/* A failure to start counts as an end, and on_end is called. */
void med_child_start(struct med_child *child);
bool med_child_runs(const struct med_child *child);
int med_child_pid(const struct med_child *child); /* 0: it does not run */
/* Sends the signal if it runs; it will not be started again. */
void med_child_stop(struct med_child *child, int signal_number);
/* It must not run. */
void med_child_close(struct med_child *child);

#endif
