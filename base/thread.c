/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts named threads with all signals blocked.
 *
 * The mask is inherited: it is set around pthread_create, so that no signal can reach the new
 * thread even before its first line.  The name is given by the starter; a very short thread may
 * have ended by then, which is harmless, as it is not yet joined.  thread: any.
 */
#include "base/thread.h"

#include "base/os.h"

#include <signal.h>

int med_thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *arg)
{
    sigset_t all;
    sigset_t before;
    MED_ASSERT(sigfillset(&all) == 0);
    MED_ASSERT(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
    pthread_t started;
    int rc = pthread_create(&started, NULL, run, arg);
    MED_ASSERT(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    if (rc != 0)
        return -rc;
    med_os_thread_name(started, name);
    *thread = started;
    return 0;
}
