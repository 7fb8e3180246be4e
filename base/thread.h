/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Thread identity: a struct's owner thread is remembered at init and asserted at entry points.
 */
#ifndef MED_BASE_THREAD_H
#define MED_BASE_THREAD_H

#include "base/assert.h"

#include <pthread.h>

#define MED_ASSERT_THREAD(owner) MED_ASSERT(pthread_equal((owner), pthread_self()))

/* Starts a thread named `name` (at most 15 bytes) with all signals blocked, so that signals go to
 * the loop thread.  Returns 0 or a negative errno. */
int med_thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *arg);

#endif
