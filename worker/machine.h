/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much memory this process may use: the machine's, or less where a control group says so.
 *
 * thread: any (before the worker serves). errors: MED_E_IO with a sentence: /proc/meminfo cannot be
 * read.  A control group that cannot be read limits nothing.
 * source: proc(5); the kernel's documentation of cgroup v2 (memory.max) and v1 (limit_in_bytes).
 */
#ifndef MED_WORKER_MACHINE_H
#define MED_WORKER_MACHINE_H

#include "base/err.h"

#include <stdint.h>

struct med_machine_memory {
    int64_t total_bytes;     /* that this process may ever use */
    int64_t available_bytes; /* of it, what nobody uses now; caches of files count as unused */
};

/* root: "" on a real machine; a test puts its own /proc and /sys there. */
int med_machine_memory_read(const char *root, struct med_machine_memory *ret_memory,
                            struct med_err *err) MED_MUST_CHECK;

#endif
