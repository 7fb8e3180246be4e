/* SPDX-License-Identifier: Apache-2.0 */
/* Messages arrive in the order of their times, and those of one time in the order of posting. */
#include "allocator/replay/fleet/messages.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "tests/check.h"

static void put(struct sim_messages *m, int64_t at_ns, uint64_t request)
{
    int rc = sim_messages_put(m, (struct sim_message){.at_ns = at_ns, .request = request});
    REQUIRE(rc == 0);
}

static void test_messages_when_delays_are_equal_then_first_in_first_out(void)
{
    struct sim_messages m = {0};
    uint64_t out = 0;
    CHECK(sim_messages_first(&m) == NULL);
    for (uint64_t i = 0; i < 5000; i++) {
        put(&m, (int64_t)(i / 3), i);
        if (i % 4 == 3)
            CHECK_INT(sim_messages_take(&m).request, out++);
    }
    while (sim_messages_first(&m))
        CHECK_INT(sim_messages_take(&m).request, out++);
    CHECK_INT(out, 5000);
    CHECK_INT(m.heap_count, 0);
    sim_messages_release(&m);
}

static void test_messages_when_one_is_late_then_others_pass_it(void)
{
    struct sim_messages m = {0};
    put(&m, 10, 0);
    put(&m, 90, 1);
    put(&m, 20, 2);
    put(&m, 90, 3);
    put(&m, 20, 4);
    static const uint64_t expected[] = {0, 2, 4, 1, 3};
    for (size_t i = 0; i < 5; i++) {
        CHECK_INT(sim_messages_first(&m)->request, expected[i]);
        CHECK_INT(sim_messages_take(&m).request, expected[i]);
    }
    CHECK(sim_messages_first(&m) == NULL);
    sim_messages_release(&m);
}

static void test_messages_when_delays_are_random_then_sorted_and_stable(void)
{
    struct sim_messages m = {0};
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 1);
    int64_t now = 0;
    size_t held = 0;
    uint64_t last_order = 0;
    for (int i = 0; i < 50000; i++) {
        if (held == 0 || med_rng_uniform(&rng) < 0.52) {
            put(&m, now + (int64_t)(med_rng_uniform(&rng) * 50), (uint64_t)i);
            held++;
            continue;
        }
        struct sim_message it = sim_messages_take(&m);
        held--;
        CHECK(it.at_ns >= now);
        CHECK(it.at_ns > now || it.order > last_order || last_order == 0);
        now = it.at_ns;
        last_order = it.order;
    }
    sim_messages_release(&m);
}

static void test_messages_when_memory_fails_then_nothing_is_lost(void)
{
    struct sim_messages m = {0};
    put(&m, 5, 0);
    int rc = 0;
    uint64_t count = 1;
    (void)med_alloc_fail_nth(1);
    for (; rc == 0 && count < 100000; count++)
        rc = sim_messages_put(&m, (struct sim_message){.at_ns = 5, .request = count});
    (void)med_alloc_fail_nth(0);
    CHECK_INT(rc, MED_E_NOMEM);
    for (uint64_t i = 0; i + 1 < count; i++)
        CHECK_INT(sim_messages_take(&m).request, i);
    CHECK(sim_messages_first(&m) == NULL);
    sim_messages_release(&m);
}

int main(void)
{
    RUN(test_messages_when_delays_are_equal_then_first_in_first_out);
    RUN(test_messages_when_one_is_late_then_others_pass_it);
    RUN(test_messages_when_delays_are_random_then_sorted_and_stable);
    RUN(test_messages_when_memory_fails_then_nothing_is_lost);
    return check_finish();
}
