/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How one router process gives its listeners to the next, over a Unix socket.
 *
 * The one that serves listens on its control socket (mode 0600, peers of another user are refused).
 * The one that is to come connects, and they say, line by line:
 *
 *     new   MEDLEY-TAKE-OVER 1
 *     old   LISTENERS 1 workers=3 grpc=127.0.0.1:7070 names=http,link,unix     with the descriptors
 *     new   DIAL            it listens for workers: the old one stops that, and asks them to dial again
 *     new   READY           it serves
 *     old   GO              it takes no new connections, and ends when it has none; the control socket is free
 *
 * A connection that ends before GO changes nothing for the old one, apart from telling workers that
 * dialled to come back.  docs/internals/reload.md, docs/adr/0111-how-a-router-is-replaced.md.
 * thread: loop.
 */
#ifndef MED_ROUTER_HAND_OVER_H
#define MED_ROUTER_HAND_OVER_H

#include "base/err.h"
#include "router/net.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

enum {
    MED_HANDED_MAX = 4,
    MED_HANDED_NAME_BYTES = 16,
};

/* What one process gives the other. */
struct med_handed {
    struct {
        char name[MED_HANDED_NAME_BYTES]; /* "http", "admin", "link", "unix" */
        int fd;
    } listeners[MED_HANDED_MAX];
    size_t count;
    char grpc[MED_NET_TEXT_MAX]; /* whose port is shared instead */
    uint64_t workers;            /* ready ones */
};
void med_handed_add(struct med_handed *handed, const char *name, int fd);
/* The descriptor, which is the caller's from now on; -1: none of this name. */
int med_handed_take(struct med_handed *handed, const char *name);
/* Closes those that nobody has taken. */
void med_handed_close(struct med_handed *handed);

/* ---- the one that serves ---- */

struct med_hand_over;

struct med_hand_over_ops {
    /* A successor asks. The descriptors stay the owner's. < 0: not now, err says why. */
    int (*offer)(void *self, struct med_handed *ret_handed, struct med_err *err);
    void (*dial)(void *self);   /* the successor listens for workers */
    void (*failed)(void *self); /* it went away before it was ready; dialled: after DIAL */
    void (*done)(void *self);   /* it serves */
    void *self;
};

/* A socket file that nobody answers on is replaced.  errors: MED_E_USAGE, MED_E_IO with a sentence. */
int med_hand_over_listen(uv_loop_t *loop, const char *path, const struct med_hand_over_ops *ops,
                         struct med_hand_over **ret_hand_over, struct med_err *err) MED_MUST_CHECK;
/* Removes the socket's file, unless a successor has it.  NULL: nothing, on_closed is not called. */
void med_hand_over_close(struct med_hand_over *hand_over, void (*on_closed)(void *arg), void *arg);

/* ---- the one that is to come; these block, for seconds at most ---- */

struct med_take_over {
    int fd; /* -1: not connected */
    struct med_handed handed;
};

/* Connects and takes what is given.  errors: MED_E_NOT_FOUND nobody listens there; others with a
 * sentence. */
int med_take_over_begin(struct med_take_over *take_over, const char *path,
                        struct med_err *err) MED_MUST_CHECK;
int med_take_over_dial(struct med_take_over *take_over, struct med_err *err) MED_MUST_CHECK;
/* The process there has gone: nobody else serves. */
bool med_take_over_is_alone(const struct med_take_over *take_over);
/* Says that this one serves, and waits until the control socket is free.  A predecessor that has gone is
 * no error. */
int med_take_over_ready(struct med_take_over *take_over, struct med_err *err) MED_MUST_CHECK;
void med_take_over_end(struct med_take_over *take_over);

#endif
