/* SPDX-License-Identifier: Apache-2.0 */
/* Restart pauses. */
#include "router/up/backoff.h"

#include "tests/check.h"

static void test_pause_when_ends_follow_each_other_then_doubles_up_to_maximum(void)
{
    struct med_backoff b;
    med_backoff_init(&b, 250, 3000, 30000);
    static const int64_t want[] = {250, 500, 1000, 2000, 3000, 3000};
    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++)
        CHECK_INT(med_backoff_pause_ms(&b, 10), want[i]);
}

static void test_pause_when_it_ran_well_then_starts_over(void)
{
    struct med_backoff b;
    med_backoff_init(&b, 250, 3000, 30000);
    for (int i = 0; i < 5; i++)
        CHECK(med_backoff_pause_ms(&b, 29999) >= 250);
    CHECK_INT(med_backoff_pause_ms(&b, 29999), 3000);
    CHECK_INT(med_backoff_pause_ms(&b, 30000), 250);
    CHECK_INT(med_backoff_pause_ms(&b, 0), 500);
}

static void test_pause_when_maximum_is_huge_then_never_overflows(void)
{
    struct med_backoff b;
    med_backoff_init(&b, 1, INT64_MAX, 30000);
    int64_t last = 0;
    for (int i = 0; i < 200; i++) {
        int64_t pause = med_backoff_pause_ms(&b, 0);
        CHECK(pause >= last);
        last = pause;
    }
    CHECK_INT(last, INT64_MAX);
}

int main(void)
{
    RUN(test_pause_when_ends_follow_each_other_then_doubles_up_to_maximum);
    RUN(test_pause_when_it_ran_well_then_starts_over);
    RUN(test_pause_when_maximum_is_huge_then_never_overflows);
    return check_finish();
}
