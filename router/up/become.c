/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The step between fork and exec.
 *
 * The kernel's parent-death signal survives execve and is set before the parent's presence is
 * checked, so there is no moment in which the parent can go unnoticed.  (It would be lost in a
 * set-user-ID program, which ours are not.)  SIGKILL, because a child that hangs must go as well; a
 * supervisor that stops in order sends SIGTERM itself.
 * thread: main, before anything else has run.
 */
#include "router/up/become.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum {
    STATUS_NOT_RUN = 127 /* as a shell says it */
};

bool med_become_asked(int argc, char **argv)
{
    return argc > MED_BECOME_ARGUMENTS && strcmp(argv[1], MED_BECOME_OPTION) == 0;
}

int med_become(int argc, char **argv)
{
    (void)argc;
    char *end;
    long parent = strtol(argv[2], &end, 10);
    if (*end != '\0' || prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || (long)getppid() != parent)
        return STATUS_NOT_RUN;
    char **program = argv + MED_BECOME_ARGUMENTS;
    (void)execv(program[0], program);
    (void)fprintf(stderr, "%s cannot be run: %s\n", program[0], strerror(errno));
    return STATUS_NOT_RUN;
}
