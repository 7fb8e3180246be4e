/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bounded mailbox: how threads talk. Many producers, one receiver.
 *
 * Messages are intrusive: a struct that begins with (or contains) struct med_message. Posting
 * transfers ownership to the receiver; MED_E_AGAIN (full) or MED_E_CANCELLED (closed) means that
 * the sender still owns it.  After a post the wake callback is called (on the posting thread, with
 * the mailbox unlocked): give uv_async_send, or NULL for a receiver that waits with
 * med_mailbox_wait. The receiver takes ALL messages per wake, since wakes coalesce. thread: post:
 * any; take/wait: the receiver.
 */
#ifndef MED_BASE_MAILBOX_H
#define MED_BASE_MAILBOX_H

#include "base/err.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct med_message {
    struct med_message *next;
};

/* thread: any, under `lock` */
struct med_mailbox {
    pthread_mutex_t lock;
    pthread_cond_t filled;
    struct med_message *first;
    struct med_message *last;
    size_t count;
    size_t count_max;
    bool closed;
    void (*wake)(void *arg);
    void *wake_arg;
};

void med_mailbox_init(struct med_mailbox *box, size_t count_max, void (*wake)(void *), void *arg);
/* The mailbox must be empty (take what is left first). */
void med_mailbox_release(struct med_mailbox *box);

int med_mailbox_post(struct med_mailbox *box, struct med_message *message) MED_MUST_CHECK;
/* Takes everything, oldest first, as a list linked by next; NULL when empty. */
struct med_message *med_mailbox_take(struct med_mailbox *box);
/* As take, but sleeps until a message comes, the mailbox is closed, or the CLOCK_MONOTONIC
 * time deadline_ns is reached (INT64_MAX: no deadline). May return NULL. */
struct med_message *med_mailbox_wait(struct med_mailbox *box, int64_t deadline_ns);
/* Refuses further posts and wakes the receiver. */
void med_mailbox_close(struct med_mailbox *box);

#endif
