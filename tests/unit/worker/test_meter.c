/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The meter: every step is counted once with what it moved, times do not overlap, the window forgets;
 * and what stands beside it: peaks of cards, the backends of a build without CUDA.
 */
#include "worker/meter.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "tests/check.h"
#include "worker/peaks.h"

enum {
    STEP_MS = 5
};

/* A device on which a step takes STEP_MS from its start or from the end of the one before. */
struct fake {
    struct med_clock clock;
    int64_t ends[MED_BACKEND_STEPS];
    int64_t started, finished, end_ns;
    bool released;
};

static int fake_init(void *self, struct med_err *err)
{
    (void)self;
    (void)err;
    return 0;
}

static int fake_start(void *self, const struct med_backend_step *step, struct med_err *err)
{
    struct fake *f = self;
    int64_t now_ns = med_clock_now_ns(&f->clock);
    (void)step;
    (void)err;
    f->end_ns = (now_ns > f->end_ns ? now_ns : f->end_ns) + STEP_MS * MED_NS_PER_MS;
    f->ends[f->started++ % MED_BACKEND_STEPS] = f->end_ns;
    return 0;
}

static int fake_finish(void *self, struct med_err *err)
{
    struct fake *f = self;
    (void)err;
    med_clock_sleep_until(&f->clock, f->ends[f->finished++ % MED_BACKEND_STEPS]);
    return 0;
}

static int fake_step(void *self, const struct med_backend_step *step, struct med_err *err)
{
    int rc = fake_start(self, step, err);
    return rc < 0 ? rc : fake_finish(self, err);
}

static void fake_release(void *self)
{
    struct fake *f = self;
    f->released = true;
}

static const struct med_backend_ops blocking = {
    .name = "fake", .init = fake_init, .step = fake_step, .release = fake_release};
static const struct med_backend_ops queueing = {.name = "fake",
                                                .init = fake_init,
                                                .step = fake_step,
                                                .start = fake_start,
                                                .finish = fake_finish,
                                                .release = fake_release};

static const struct med_work_model work = {.layer_elements = 1000,
                                           .head_elements = 100,
                                           .weight_element_bytes = 2,
                                           .row_bytes = 20,
                                           .kv_bytes = 40,
                                           .pair_flops = 80};
static const struct med_device device = {.backend = "cpu", .threads = 1};

static struct med_backend make(struct fake *fake, const struct med_backend_ops *ops)
{
    struct med_meter_config config = {
        .backend = {.ops = ops, .self = fake}, .work = work, .device = &device};
    struct med_backend meter;
    struct med_err err = {0};
    med_clock_init_real(&fake->clock, 1);
    REQUIRE(med_meter_new(&config, &meter, &err) == 0);
    REQUIRE(meter.ops->init(meter.self, &err) == 0);
    return meter;
}

/* Two decodes of 10 tokens and the last part of a prefill: 6 tokens behind 4. */
static const struct med_batch_item items[] = {
    {.tokens = 1, .context = 10, .samples = true},
    {.tokens = 1, .context = 10, .samples = true},
    {.tokens = 6, .context = 4, .samples = true, .prefill = true}};
static const struct med_batch batch = {.items = items, .count = 3};
static const struct med_backend_step step = {.batch = &batch};
#define STEP_BYTES (2 * 1100 + 8 * 20 + (11 + 11 + 10) * 40.0)
#define STEP_FLOPS (2 * (8 * 1000 + 3 * 100) + (11 + 11 + 5 + 6 + 7 + 8 + 9 + 10) * 80.0)

static void check_totals(const struct med_backend *meter, int64_t steps)
{
    struct med_meter_stats s;
    med_meter_get(meter, &s);
    const double n = (double)steps;
    CHECK_INT((int64_t)s.step_s.count, steps);
    CHECK(s.rows.sum == 8 * n);
    CHECK(s.sequences.sum == 3 * n);
    CHECK(s.bytes == STEP_BYTES * n);
    CHECK(s.flops == STEP_FLOPS * n);
    CHECK(s.busy_s == s.step_s.sum);
    CHECK(s.busy_s > n * STEP_MS * 0.9e-3);
    CHECK(s.window_bytes_per_s > 0);
    CHECK(s.window_bytes_per_s < STEP_BYTES / (STEP_MS * 0.9e-3));
    double ratio = s.window_flops_per_s / s.window_bytes_per_s / (STEP_FLOPS / STEP_BYTES);
    CHECK(ratio > 1 - 1e-9 && ratio < 1 + 1e-9);
}

static void test_meter_when_steps_block_then_all_is_counted(void)
{
    struct fake fake = {0};
    struct med_backend meter = make(&fake, &blocking);
    struct med_meter_stats s;
    struct med_err err = {0};
    med_meter_get(&meter, &s);
    CHECK(s.window_bytes_per_s == 0 && s.busy_s == 0);
    CHECK(meter.ops->start == NULL);
    for (int i = 0; i < 20; i++)
        REQUIRE(meter.ops->step(meter.self, &step, &err) == 0);
    check_totals(&meter, 20);
    meter.ops->release(meter.self);
    CHECK(fake.released);
}

static void test_meter_when_steps_overlap_then_their_times_do_not(void)
{
    struct fake fake = {0};
    struct med_backend meter = make(&fake, &queueing);
    struct med_err err = {0};
    int64_t begin_ns = med_clock_now_ns(&fake.clock);
    REQUIRE(meter.ops->start(meter.self, &step, &err) == 0);
    for (int i = 0; i < 19; i++) {
        REQUIRE(meter.ops->start(meter.self, &step, &err) == 0);
        REQUIRE(meter.ops->finish(meter.self, &err) == 0);
    }
    REQUIRE(meter.ops->finish(meter.self, &err) == 0);
    double passed_s = (double)(med_clock_now_ns(&fake.clock) - begin_ns) / 1e9;
    struct med_meter_stats s;
    med_meter_get(&meter, &s);
    CHECK(s.busy_s <= passed_s);
    check_totals(&meter, 20);
    meter.ops->release(meter.self);
}

static void test_peaks_when_a_card_is_named_then_its_data_sheet(void)
{
    struct med_peaks peaks;
    CHECK(med_peaks_find("NVIDIA H100 80GB HBM3", &peaks));
    CHECK(peaks.bytes_per_s == 3.35e12 && peaks.flops_per_s == 989.4e12);
    CHECK(!med_peaks_find("NVIDIA H100", &peaks));
    CHECK(peaks.bytes_per_s == 0 && peaks.flops_per_s == 0);
}

static void test_device_when_the_build_lacks_it_then_refused_with_a_sentence(void)
{
    struct med_device made;
    struct med_device_limits limits;
    struct med_err err = {0};
    const struct med_device_config none = {.backend = "abacus"},
                                   cpu = {.backend = "cpu", .cpu = {.threads = 1}};
    CHECK_INT(med_device_init(&made, &none, &err), MED_E_USAGE);
    CHECK_CONTAINS(err.text, "no such device");
    med_device_release(&made);
    REQUIRE(med_device_init(&made, &cpu, &err) == 0);
    CHECK_INT(made.threads, 1);
    CHECK_INT(made.memory_bytes, 0);
    CHECK_INT(med_device_memory_free(&made), -1);
    CHECK_INT(med_device_measure(&cpu, &limits, &err), 0);
    CHECK(limits.read_bytes_per_s > 0 && limits.flops_per_s > 0);
    CHECK(limits.read_spread >= 0 && limits.flops_spread >= 0);
    CHECK(made.description[0] != '\0');
    med_device_release(&made);
    CHECK(made.self == NULL);
}

int main(void)
{
    RUN(test_meter_when_steps_block_then_all_is_counted);
    RUN(test_meter_when_steps_overlap_then_their_times_do_not);
    RUN(test_peaks_when_a_card_is_named_then_its_data_sheet);
    RUN(test_device_when_the_build_lacks_it_then_refused_with_a_sentence);
    return check_finish();
}
