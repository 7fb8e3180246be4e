/* SPDX-License-Identifier: Apache-2.0 */
/* Clocks; nothing here asserts that something happened soon.  thread: main. */
#include "base/clock.h"
#include "tests/check.h"

#include <time.h>

static int64_t monotonic_ns(void)
{
    struct timespec now;
    REQUIRE(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (int64_t)now.tv_sec * MED_NS_PER_S + (int64_t)now.tv_nsec;
}

static void test_virtual_clock_moves_only_when_told(void)
{
    struct med_clock clock;
    med_clock_init_virtual(&clock, -5);
    CHECK_INT(med_clock_now_ns(&clock), -5);
    med_clock_advance(&clock, -5);
    med_clock_advance(&clock, 2 * MED_NS_PER_MS);
    CHECK_INT(med_clock_now_ns(&clock), 2 * MED_NS_PER_MS);
    med_clock_sleep_until(&clock, INT64_MAX); // returns at once
    CHECK_UINT(med_clock_real_ms_until(&clock, 2 * MED_NS_PER_MS), 0);
    CHECK_UINT(med_clock_real_ms_until(&clock, 2 * MED_NS_PER_MS + 1), 1);
    CHECK_UINT(med_clock_real_ms_until(&clock, 5 * MED_NS_PER_MS), 3);
    CHECK_UINT(med_clock_real_ms_until(&clock, 0), 0);
    CHECK_UINT(med_clock_real_ms_until(&clock, INT64_MIN), 0);
    med_clock_init_virtual(&clock, INT64_MIN);
    CHECK(med_clock_real_ms_until(&clock, INT64_MAX) > UINT64_C(9000000000000));
}

static void test_real_clock_is_monotonic_time_times_scale(void)
{
    static const double scales[] = {1, 0.25, 2, 10, 1000};
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++) {
        struct med_clock clock;
        med_clock_init_real(&clock, scales[i]);
        double period = floor(0x1p62 / scales[i]); // the product wraps there, see clock.c
        double before = (double)monotonic_ns();
        double now = (double)med_clock_now_ns(&clock);
        double after = (double)monotonic_ns();
        if (after > period)
            continue; // this machine runs since before the last wrap
        CHECK(now >= before * scales[i] * (1 - 1e-12));
        CHECK(now <= after * scales[i] * (1 + 1e-12));
    }
}

static void test_real_clock_never_goes_back(void)
{
    struct med_clock clock;
    med_clock_init_real(&clock, 7.5);
    int64_t before = med_clock_now_ns(&clock);
    for (int i = 0; i < 10000; i++) {
        int64_t now = med_clock_now_ns(&clock);
        CHECK(now >= before);
        before = now;
    }
}

static void test_sleep_lasts_until_the_fleet_time(void)
{
    struct med_clock clock;
    med_clock_init_real(&clock, 100);
    int64_t until = med_clock_now_ns(&clock) + 500 * MED_NS_PER_MS; // 5 ms of real time
    med_clock_sleep_until(&clock, until);
    CHECK(med_clock_now_ns(&clock) >= until);
    CHECK_UINT(med_clock_real_ms_until(&clock, until), 0);
    med_clock_sleep_until(&clock, 0); // in the past: returns
}

static void test_real_milliseconds_shrink_with_the_scale(void)
{
    struct med_clock clock;
    med_clock_init_real(&clock, 100);
    uint64_t left =
        med_clock_real_ms_until(&clock, med_clock_now_ns(&clock) + 360000 * MED_NS_PER_S);
    CHECK(left > 0);
    CHECK(left <= 3600000); // an hour
    CHECK(med_clock_real_ms_until(&clock, INT64_MAX) > left);
}

static void test_unix_time_is_of_this_age(void)
{
    CHECK(med_clock_unix_ns() > INT64_C(1700000000) * MED_NS_PER_S);
}

int main(void)
{
    RUN(test_virtual_clock_moves_only_when_told);
    RUN(test_real_clock_is_monotonic_time_times_scale);
    RUN(test_real_clock_never_goes_back);
    RUN(test_sleep_lasts_until_the_fleet_time);
    RUN(test_real_milliseconds_shrink_with_the_scale);
    RUN(test_unix_time_is_of_this_age);
    return check_finish();
}
