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

/* As often as it takes to be known. */
static void took(struct med_engine_pace *pace, struct med_step_load load, int64_t ns)
{
    for (int i = 0; i < MED_PACE_LATELY; i++)
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
    struct med_step_load load = decodes(8);
    med_engine_pace_step(&pace, &load, 300 * MS); /* the first one is cold */
    CHECK_INT(wait_of(&pace, load), 0);
    med_engine_pace_step(&pace, &load, 4 * MS);
    med_engine_pace_step(&pace, &load, 10 * MS);
    CHECK(wait_of(&pace, load) > 3 * MS && wait_of(&pace, load) < 4 * MS);
    took(&pace, load, 10 * MS);
    CHECK(wait_of(&pace, load) > 9 * MS);
}

static void test_missed_when_it_was_too_late_then_all_is_learned_anew(void)
{
    struct med_engine_pace pace = {0};
    took(&pace, decodes(8), 12 * MS);
    took(&pace, decodes(2), 9 * MS);
    took(&pace, mixed(512, 3), 20 * MS);
    med_engine_pace_missed(&pace);
    CHECK_INT(wait_of(&pace, decodes(8)), 0);
    CHECK_INT(wait_of(&pace, mixed(512, 3)), 0);
}

struct loop {
    struct med_engine_pace pace;
    int64_t prepare_ns, late_ns; /* of each step behind another, of each wake */
    int64_t idle_ns, ahead_ns;   /* of the device; from planning a step to its beginning */
};

/* One step as the engine thread takes it. */
static void step(struct loop *l, struct med_step_load load, int64_t device_ns)
{
    int64_t wait_ns = wait_of(&l->pace, load);
    int64_t woken_ns = wait_ns > 0 ? wait_ns + l->late_ns : 0;
    int64_t begun_ns = woken_ns + l->prepare_ns; /* the step behind it has been started */
    if (wait_ns > 0)
        med_engine_pace_woke(&l->pace, l->late_ns);
    med_engine_pace_prepared(&l->pace, l->prepare_ns);
    if (begun_ns < device_ns) {
        med_engine_pace_step(&l->pace, &load, device_ns);
        l->ahead_ns += device_ns - woken_ns;
    } else {
        med_engine_pace_missed(&l->pace);
        l->idle_ns += begun_ns - device_ns;
    }
}

/* What a thread that is always late would otherwise learn from itself. */
static void test_loop_when_wakes_are_late_then_the_device_does_not_wait_for_long(void)
{
    for (int64_t late = 0; late <= 4 * MS; late += MS / 4) {
        struct loop l = {.prepare_ns = MS / 10, .late_ns = late};
        for (int i = 0; i < 1000; i++)
            step(&l, decodes(8), 8 * MS);
        CHECK(l.idle_ns <= 4 * MS); /* once, until it is known */
        CHECK(l.ahead_ns < 1000 * (MS + 2 * late));
    }
}

/* A first step that was cold, long contexts that end, one that takes long now and then. */
static void test_loop_when_steps_get_shorter_then_one_is_late(void)
{
    struct loop l = {.prepare_ns = MS / 10, .late_ns = MS / 20};
    for (int i = 0; i < 10; i++)
        step(&l, decodes(8), 30 * MS);
    int64_t before = l.idle_ns;
    for (int i = 0; i < 1000; i++)
        step(&l, decodes(8), 6 * MS);
    CHECK(l.idle_ns > before);
    CHECK(l.idle_ns - before < 30 * MS);
    before = l.idle_ns;
    for (int i = 0; i < 1000; i++)
        step(&l, decodes(8), i % 10 == 0 ? 50 * MS : 6 * MS);
    CHECK_INT(l.idle_ns, before);
    struct loop cold = {.prepare_ns = MS / 10, .late_ns = MS / 20};
    for (int i = 0; i < 1000; i++)
        step(&cold, decodes(8), i == 0 ? 300 * MS : 8 * MS);
    CHECK_INT(cold.idle_ns, 0);
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
    RUN(test_missed_when_it_was_too_late_then_all_is_learned_anew);
    RUN(test_loop_when_wakes_are_late_then_the_device_does_not_wait_for_long);
    RUN(test_loop_when_steps_get_shorter_then_one_is_late);
    RUN(test_prepared_when_it_was_long_once_then_it_is_forgotten);
    RUN(test_sizes_when_they_grow_then_waits_do_not_fall);
    return check_finish();
}
