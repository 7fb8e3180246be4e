/* SPDX-License-Identifier: Apache-2.0 */
/* When the next step is planned, from how long steps took. */
#include "worker/engine_pace.h"

#include "tests/check.h"

#define MS INT64_C(1000000)

static struct med_step_load decodes(int64_t sequences)
{
    return (struct med_step_load){.decode_sequences = sequences,
                                  .decode_context_tokens = 500 * sequences};
}

static struct med_step_load mixed(int64_t prefill, int64_t sequences)
{
    struct med_step_load load = decodes(sequences);
    load.prefill_tokens = prefill;
    return load;
}

static void took(struct med_engine_pace *pace, struct med_step_load load, int64_t ns)
{
    med_engine_pace_step(pace, &load, ns);
}

static int64_t wait_of(const struct med_engine_pace *pace, struct med_step_load load)
{
    return med_engine_pace_wait_ns(pace, &load, MS / 5);
}

static void test_wait_when_nothing_was_seen_then_none(void)
{
    struct med_engine_pace pace = {0};
    CHECK_INT(wait_of(&pace, decodes(1)), 0);
    CHECK_INT(wait_of(&pace, mixed(512, 3)), 0);
    took(&pace, decodes(8), 6 * MS);
    CHECK_INT(wait_of(&pace, decodes(7)), 0); /* may be shorter */
    CHECK_INT(wait_of(&pace, mixed(512, 8)), 0);
}

static void test_wait_when_seen_then_a_margin_before_the_end(void)
{
    struct med_engine_pace pace = {0};
    took(&pace, decodes(8), 10 * MS);
    int64_t wait = wait_of(&pace, decodes(8));
    CHECK(wait > 9 * MS && wait < 10 * MS);
    CHECK_INT(wait_of(&pace, decodes(64)), wait); /* takes no less */
    med_engine_pace_prepared(&pace, MS);
    CHECK_INT(wait_of(&pace, decodes(8)), wait - 2 * MS);
    took(&pace, mixed(512, 3), 20 * MS);
    CHECK(wait_of(&pace, mixed(512, 3)) > 14 * MS);
    CHECK(wait_of(&pace, mixed(512, 3)) < 17 * MS);
    CHECK(wait_of(&pace, mixed(600, 40)) > 14 * MS);
    CHECK_INT(wait_of(&pace, mixed(256, 3)), 0);
}

static void test_wait_when_steps_differ_then_by_the_shortest_of_the_last_few(void)
{
    struct med_engine_pace pace = {0};
    took(&pace, decodes(8), 4 * MS);
    took(&pace, decodes(8), 10 * MS);
    CHECK(wait_of(&pace, decodes(8)) < 4 * MS);
    for (int i = 0; i < MED_PACE_LATELY; i++)
        took(&pace, decodes(8), 10 * MS);
    CHECK(wait_of(&pace, decodes(8)) > 9 * MS);
    took(&pace, decodes(8), 0);
    CHECK_INT(wait_of(&pace, decodes(8)), 0);
}

/* What a step waited for being started counts as its own. */
static void test_wait_when_it_was_too_long_then_it_shrinks_to_what_is_right(void)
{
    struct med_engine_pace pace = {0};
    for (int i = 0; i < MED_PACE_LATELY; i++)
        took(&pace, decodes(8), 12 * MS);
    int64_t late = INT64_MAX, device = 6 * MS, steps = 0;
    while (late > 0 && steps < 1000) {
        late = wait_of(&pace, decodes(8)) - device;
        took(&pace, decodes(8), device + (late > 0 ? late : 0));
        steps++;
    }
    CHECK(steps < 30);
    took(&pace, decodes(8), device);
    CHECK(wait_of(&pace, decodes(8)) < device);
}

static void test_prepared_when_it_was_long_once_then_it_is_forgotten(void)
{
    struct med_engine_pace pace = {0};
    took(&pace, decodes(8), 10 * MS);
    med_engine_pace_prepared(&pace, 20 * MS);
    CHECK_INT(wait_of(&pace, decodes(8)), 0);
    for (int i = 0; i < 100; i++)
        med_engine_pace_prepared(&pace, MS / 10);
    CHECK(wait_of(&pace, decodes(8)) > 8 * MS);
}

static void test_sizes_when_they_grow_then_waits_do_not_fall(void)
{
    struct med_engine_pace pace = {0};
    for (int64_t n = 1; n <= 8192; n = n * 5 / 4 + 1) {
        took(&pace, decodes(n), MS * n);
        took(&pace, mixed(n * 128, 0), MS * n * 128);
    }
    int64_t before = 0, before_prefill = 0;
    for (int64_t n = 1; n <= 8192; n++) {
        int64_t wait = wait_of(&pace, decodes(n)), prefill = wait_of(&pace, mixed(n * 128, 0));
        CHECK(wait >= before && prefill >= before_prefill);
        before = wait;
        before_prefill = prefill;
    }
    CHECK(before > 0);
    CHECK(wait_of(&pace, mixed(INT64_MAX / 4, 0)) >= before_prefill);
}

int main(void)
{
    RUN(test_wait_when_nothing_was_seen_then_none);
    RUN(test_wait_when_seen_then_a_margin_before_the_end);
    RUN(test_wait_when_steps_differ_then_by_the_shortest_of_the_last_few);
    RUN(test_wait_when_it_was_too_long_then_it_shrinks_to_what_is_right);
    RUN(test_prepared_when_it_was_long_once_then_it_is_forgotten);
    RUN(test_sizes_when_they_grow_then_waits_do_not_fall);
    return check_finish();
}
