/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long to wait before a process that ended is started again: a pause that doubles up to a
 * maximum, and starts over after the process has run well for a while.  Pure; real milliseconds.
 */
#ifndef MED_ROUTER_UP_BACKOFF_H
#define MED_ROUTER_UP_BACKOFF_H

#include <stdint.h>

struct med_backoff {
    int64_t first_ms, max_ms; /* 0 < first <= max */
    int64_t stable_ms;        /* a process that ran for so long has earned a fresh start */
    int64_t next_ms;
};

void med_backoff_init(struct med_backoff *backoff, int64_t first_ms, int64_t max_ms,
                      int64_t stable_ms);
/* The pause after a process that ran for ran_ms; the next one is twice as long. */
int64_t med_backoff_pause_ms(struct med_backoff *backoff, int64_t ran_ms);

#endif
