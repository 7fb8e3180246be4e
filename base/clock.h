/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A clock behind an interface, so that dispatch, scheduler and bench take time as an argument and
 * run the same on real, scaled and virtual time.
 *
 * Times are int64_t nanoseconds of *fleet time*, counted from an arbitrary zero.  On one machine
 * all processes started with the same scale agree on fleet time, because the real clock is
 * CLOCK_MONOTONIC multiplied by the scale.  thread: a real clock may be read by any thread; a
 * virtual clock belongs to the thread that advances it.
 */
#ifndef MED_BASE_CLOCK_H
#define MED_BASE_CLOCK_H

#include <stdint.h>

#define MED_NS_PER_S  INT64_C(1000000000)
#define MED_NS_PER_MS INT64_C(1000000)
#define MED_NS_PER_US INT64_C(1000)

struct med_clock {
    double scale; /* fleet seconds per real second; 1 for wall speed; 0 marks a virtual clock */
    int64_t virtual_ns; /* the time of a virtual clock */
};

/* A clock on CLOCK_MONOTONIC; scale must be finite, 0 < scale <= 1000 (checked by the options). */
void med_clock_init_real(struct med_clock *clock, double scale);
void med_clock_init_virtual(struct med_clock *clock, int64_t start_ns);

int64_t med_clock_now_ns(const struct med_clock *clock);
/* Moves a virtual clock; to_ns must not lie in its past. */
void med_clock_advance(struct med_clock *clock, int64_t to_ns);

/* Real milliseconds (rounded up, at least 0) until fleet time `at_ns`: what to give a uv timer. */
uint64_t med_clock_real_ms_until(const struct med_clock *clock, int64_t at_ns);
/* Sleeps the calling thread until fleet time at_ns (no-op if past, or on a virtual clock). */
void med_clock_sleep_until(const struct med_clock *clock, int64_t at_ns);

/* Wall-clock time, for log lines and reports: nanoseconds since 1970 UTC. */
int64_t med_clock_unix_ns(void);

#endif
