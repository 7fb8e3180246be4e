/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bounded mailbox: a mutex, a condition variable and an intrusive list.
 *
 * The wake callback runs on the posting thread after the lock is given back, so it may take locks
 * of its own; therefore a mailbox may be released only after its producers are joined.  A close is
 * sent through the same two ways as a message.  thread: see mailbox.h.
 */
#include "base/mailbox.h"

#include "base/assert.h"

#include <errno.h>
#include <time.h>

static void lock_box(struct med_mailbox *box)
{
    MED_ASSERT(pthread_mutex_lock(&box->lock) == 0);
}

static void unlock_box(struct med_mailbox *box)
{
    MED_ASSERT(pthread_mutex_unlock(&box->lock) == 0);
}

void med_mailbox_init(struct med_mailbox *box, size_t count_max, void (*wake)(void *), void *arg)
{
    MED_ASSERT(count_max > 0);
    *box = (struct med_mailbox){.count_max = count_max, .wake = wake, .wake_arg = arg};
    MED_ASSERT(pthread_mutex_init(&box->lock, NULL) == 0);
    pthread_condattr_t attr;
    MED_ASSERT(pthread_condattr_init(&attr) == 0);
    MED_ASSERT(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
    MED_ASSERT(pthread_cond_init(&box->filled, &attr) == 0);
    MED_ASSERT(pthread_condattr_destroy(&attr) == 0);
}

void med_mailbox_release(struct med_mailbox *box)
{
    MED_ASSERT(!box->first);
    MED_ASSERT(box->count == 0);
    MED_ASSERT(pthread_cond_destroy(&box->filled) == 0);
    MED_ASSERT(pthread_mutex_destroy(&box->lock) == 0);
}

int med_mailbox_post(struct med_mailbox *box, struct med_message *message)
{
    lock_box(box);
    if (box->closed || box->count >= box->count_max) {
        int rc = box->closed ? MED_E_CANCELLED : MED_E_AGAIN;
        unlock_box(box);
        return rc;
    }
    message->next = NULL;
    if (box->last) {
        box->last->next = message;
    } else {
        box->first = message;
    }
    box->last = message;
    box->count++;
    MED_ASSERT(pthread_cond_signal(&box->filled) == 0);
    void (*wake)(void *) = box->wake;
    void *wake_arg = box->wake_arg;
    unlock_box(box);
    if (wake)
        wake(wake_arg);
    return 0;
}

static struct med_message *take_locked(struct med_mailbox *box)
{
    struct med_message *first = box->first;
    box->first = NULL;
    box->last = NULL;
    box->count = 0;
    return first;
}

struct med_message *med_mailbox_take(struct med_mailbox *box)
{
    lock_box(box);
    struct med_message *first = take_locked(box);
    unlock_box(box);
    return first;
}

struct med_message *med_mailbox_wait(struct med_mailbox *box, int64_t deadline_ns)
{
    const int64_t ns_per_s = 1000000000;
    if (deadline_ns < 0)
        deadline_ns = 0;
    struct timespec until = {.tv_sec = (time_t)(deadline_ns / ns_per_s),
                             .tv_nsec = (long)(deadline_ns % ns_per_s)};
    lock_box(box);
    int rc = 0;
    while (!box->first && !box->closed && rc != ETIMEDOUT) {
        rc = deadline_ns == INT64_MAX ? pthread_cond_wait(&box->filled, &box->lock)
                                      : pthread_cond_timedwait(&box->filled, &box->lock, &until);
        MED_ASSERT(rc == 0 || rc == ETIMEDOUT);
    }
    struct med_message *first = take_locked(box);
    unlock_box(box);
    return first;
}

void med_mailbox_close(struct med_mailbox *box)
{
    lock_box(box);
    box->closed = true;
    MED_ASSERT(pthread_cond_broadcast(&box->filled) == 0);
    void (*wake)(void *) = box->wake;
    void *wake_arg = box->wake_arg;
    unlock_box(box);
    if (wake)
        wake(wake_arg);
}
