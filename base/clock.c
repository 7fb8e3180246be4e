/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Real, scaled and virtual clocks.
 *
 * A real clock is CLOCK_MONOTONIC times the scale.  At scale 1 the product is exact.  Otherwise it
 * is computed in long double (64 bits of mantissa on x86, more on arm64), and the monotonic time is
 * first reduced modulo 2^62 / scale nanoseconds, so that the product cannot overflow: at the
 * highest scale, 1000, that period is 53 days of uptime.  All processes of a machine reduce at the
 * same moment and so still agree; a scaled run that spans that moment would see time jump back.
 *
 * It does not adjust for suspended machines or leap seconds.  thread: see clock.h.
 */
#include "base/clock.h"

#include "base/assert.h"

#include <errno.h>
#include <math.h>
#include <time.h>

static int64_t clock_read_ns(clockid_t id)
{
    struct timespec now;
    MED_ASSERT(clock_gettime(id, &now) == 0);
    return (int64_t)now.tv_sec * MED_NS_PER_S + (int64_t)now.tv_nsec;
}

void med_clock_init_real(struct med_clock *clock, double scale)
{
    MED_ASSERT(isfinite(scale));
    MED_ASSERT(scale > 0);
    MED_ASSERT(scale <= 1000);
    *clock = (struct med_clock){.scale = scale};
}

void med_clock_init_virtual(struct med_clock *clock, int64_t start_ns)
{
    *clock = (struct med_clock){.virtual_ns = start_ns};
}

int64_t med_clock_now_ns(const struct med_clock *clock)
{
    if (clock->scale == 0)
        return clock->virtual_ns;
    int64_t real_ns = clock_read_ns(CLOCK_MONOTONIC);
    if (clock->scale == 1)
        return real_ns;
    const long double limit = 4611686018427387904.0L; // 2^62
    long double period = floorl(limit / (long double)clock->scale);
    int64_t reduced = (long double)real_ns < period ? real_ns : real_ns % (int64_t)period;
    return (int64_t)((long double)reduced * (long double)clock->scale);
}

void med_clock_advance(struct med_clock *clock, int64_t to_ns)
{
    MED_ASSERT(clock->scale == 0);
    MED_ASSERT(to_ns >= clock->virtual_ns);
    clock->virtual_ns = to_ns;
}

/* Real nanoseconds until at_ns, rounded up; 0 if past. */
static int64_t real_ns_until(const struct med_clock *clock, int64_t at_ns)
{
    int64_t now_ns = med_clock_now_ns(clock);
    if (at_ns <= now_ns)
        return 0;
    /* The difference of two int64_t may not fit into one. */
    long double left = (long double)at_ns - (long double)now_ns;
    if (clock->scale != 0)
        left /= (long double)clock->scale;
    left = ceill(left);
    return left >= (long double)INT64_MAX ? INT64_MAX : (int64_t)left;
}

uint64_t med_clock_real_ms_until(const struct med_clock *clock, int64_t at_ns)
{
    uint64_t left = (uint64_t)real_ns_until(clock, at_ns);
    return (left + (uint64_t)MED_NS_PER_MS - 1) / (uint64_t)MED_NS_PER_MS;
}

void med_clock_sleep_until(const struct med_clock *clock, int64_t at_ns)
{
    if (clock->scale == 0)
        return;
    int64_t left;
    while ((left = real_ns_until(clock, at_ns)) > 0) {
        /* At most an hour at a time keeps the sum far from overflow. */
        int64_t step = left < 3600 * MED_NS_PER_S ? left : 3600 * MED_NS_PER_S;
        struct timespec wait = {.tv_sec = (time_t)(step / MED_NS_PER_S),
                                .tv_nsec = (long)(step % MED_NS_PER_S)};
        int rc = clock_nanosleep(CLOCK_MONOTONIC, 0, &wait, NULL);
        MED_ASSERT(rc == 0 || rc == EINTR);
    }
}

int64_t med_clock_unix_ns(void)
{
    return clock_read_ns(CLOCK_REALTIME);
}
