/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a child of `medley up` is kept from outliving it.
 *
 * The supervisor does not start a program directly but itself, as
 *     medley-up --become PARENT_PID PROGRAM ARGUMENTS...
 * which asks the kernel to be killed when its parent ends, however that ends, and then becomes the
 * program.  Nothing is asked of the program, and kill -9 of the supervisor is covered too.
 */
#ifndef MED_ROUTER_UP_BECOME_H
#define MED_ROUTER_UP_BECOME_H

#include <stdbool.h>

#define MED_BECOME_OPTION "--become"

enum {
    MED_BECOME_ARGUMENTS = 3 /* own program, option, parent: what stands before PROGRAM */
};

bool med_become_asked(int argc, char **argv);
/* Does not return if all goes well; else an exit status, after one sentence on standard error. */
int med_become(int argc, char **argv);

#endif
