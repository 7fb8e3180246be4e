/* SPDX-License-Identifier: Apache-2.0 */
/* The emulated backend on a virtual clock: its device time, noise, bias, tokens and stops. */
#include "worker/emulated/emulated.h"

#include "base/alloc.h"
#include "tests/check.h"

enum {
    VOCAB = 32000
};

/* 10 ms fixed, 1 ms per token: easy sums. */
static struct med_emulated_config config_of(const struct med_clock *clock)
{
    return (struct med_emulated_config){.latency = {.fixed_ms = 10, .linear_ms_per_token = 1},
                                        .clock = clock,
                                        .vocab_tokens = VOCAB,
                                        .bias = 1,
                                        .seed = 5};
}

struct fixture {
    struct med_clock clock;
    struct med_backend backend;
    struct med_batch_item items[2];
    struct med_batch batch;
    struct med_backend_sequence sequences[2];
    const struct med_backend_sequence *pointers[2];
    uint32_t sampled[2];
    bool stop[2];
};

/* Two sequences: a decode at output position 4, and a prefill chunk of 8 tokens that samples
 * nothing. */
static void fixture_init(struct fixture *f, double noise, double bias)
{
    struct med_err err;
    *f = (struct fixture){0};
    med_clock_init_virtual(&f->clock, 1000);
    struct med_emulated_config config = config_of(&f->clock);
    config.noise_sigma = noise;
    config.bias = bias;
    REQUIRE(med_emulated_new(&config, &f->backend, &err) == 0);
    REQUIRE(f->backend.ops->init(f->backend.self, &err) == 0);
    f->items[0] =
        (struct med_batch_item){.tokens = 1, .context = 14, .position = 4, .samples = true};
    f->items[1] = (struct med_batch_item){.tokens = 8, .prefill = true};
    f->batch = (struct med_batch){
        .items = f->items, .count = 2, .load = {.prefill_tokens = 8, .decode_sequences = 1}};
    f->sequences[0] = (struct med_backend_sequence){.prompt_tokens = 10, .sampling = {.seed = 77}};
    f->sequences[1] = (struct med_backend_sequence){.prompt_tokens = 20};
    f->pointers[0] = &f->sequences[0];
    f->pointers[1] = &f->sequences[1];
}

static void fixture_step(struct fixture *f, int64_t available_ns)
{
    struct med_err err;
    struct med_backend_step step = {.batch = &f->batch,
                                    .sequences = f->pointers,
                                    .available_ns = available_ns,
                                    .sampled = f->sampled,
                                    .stop = f->stop};
    f->stop[0] = f->stop[1] = false;
    CHECK_INT(f->backend.ops->step(f->backend.self, &step, &err), 0);
}

static void fixture_release(struct fixture *f)
{
    f->backend.ops->release(f->backend.self);
}

/* A virtual clock does not sleep, so the lateness shows where the device's time is. */
static void test_step_when_device_is_busy_then_begins_at_its_end(void)
{
    struct fixture f;
    fixture_init(&f, 0, 1);
    med_clock_advance(&f.clock, 1000 + 100 * MED_NS_PER_MS);
    fixture_step(&f, 0); /* 1000 ns + 19 ms */
    CHECK_INT(med_emulated_lateness_ns(&f.backend), 81 * MED_NS_PER_MS);
    fixture_step(&f, 0); /* directly after, though the clock is further */
    CHECK_INT(med_emulated_lateness_ns(&f.backend), 62 * MED_NS_PER_MS);
    fixture_step(&f, 1000 + 90 * MED_NS_PER_MS); /* idle in between */
    CHECK_INT(med_emulated_lateness_ns(&f.backend), 0);
    med_clock_advance(&f.clock, 1000 + 200 * MED_NS_PER_MS);
    fixture_step(&f, 0); /* 109 + 19 */
    CHECK_INT(med_emulated_lateness_ns(&f.backend), 72 * MED_NS_PER_MS);
    fixture_release(&f);
}

static void test_step_when_biased_then_takes_so_much_longer(void)
{
    struct fixture f;
    fixture_init(&f, 0, 2);
    med_clock_advance(&f.clock, 1000 + 100 * MED_NS_PER_MS);
    fixture_step(&f, 0);
    CHECK_INT(med_emulated_lateness_ns(&f.backend), 62 * MED_NS_PER_MS);
    fixture_release(&f);
}

static void test_step_when_noisy_then_mean_stays_and_seed_repeats(void)
{
    enum {
        STEPS = 20000
    };
    struct fixture f, g;
    fixture_init(&f, 0.3, 1);
    fixture_init(&g, 0.3, 1);
    int64_t end_ns = 1000 + (int64_t)STEPS * 40 * MED_NS_PER_MS;
    med_clock_advance(&f.clock, end_ns);
    med_clock_advance(&g.clock, end_ns);
    double squares = 0;
    int64_t before = end_ns - 1000;
    for (int i = 0; i < STEPS; i++) {
        fixture_step(&f, 0);
        fixture_step(&g, 0);
        int64_t now = med_emulated_lateness_ns(&f.backend);
        CHECK_INT(now, med_emulated_lateness_ns(&g.backend));
        double ratio = (double)(before - now) / (19.0 * (double)MED_NS_PER_MS);
        squares += log(ratio) * log(ratio);
        before = now;
    }
    double mean_ms = (double)(end_ns - 1000 - before) / (double)MED_NS_PER_MS / STEPS;
    CHECK_DOUBLE(mean_ms, 19, 0.2);
    /* E[ln^2] of a lognormal with mean 1: sigma^2 + (sigma^2/2)^2. */
    CHECK_DOUBLE(squares / STEPS, 0.09 + 0.045 * 0.045, 0.005);
    fixture_release(&f);
    fixture_release(&g);
}

static void test_step_when_item_samples_then_token_is_keyed_by_seed_and_place(void)
{
    struct fixture f;
    fixture_init(&f, 0, 1);
    f.sampled[1] = 12345;
    fixture_step(&f, 0);
    CHECK_UINT(f.sampled[0], med_emulated_token(77, 14, VOCAB));
    CHECK_UINT(f.sampled[1], 12345); /* samples nothing */
    /* The same place reached with a longer prompt: the same token. */
    f.sequences[0].prompt_tokens = 12;
    f.items[0].position = 2;
    uint32_t first = f.sampled[0];
    fixture_step(&f, 0);
    CHECK_UINT(f.sampled[0], first);
    f.sequences[0].sampling.seed = 78;
    fixture_step(&f, 0);
    CHECK(f.sampled[0] != first);
    for (int64_t place = 0; place < 1000; place++)
        CHECK(med_emulated_token(9, place, 3) < 3);
    fixture_release(&f);
}

static void test_step_when_output_length_is_given_then_stops_there(void)
{
    struct fixture f;
    fixture_init(&f, 0, 1);
    fixture_step(&f, 0);
    CHECK(!f.stop[0]);
    f.sequences[0].sampling.emulated_output_tokens = 6;
    fixture_step(&f, 0);
    CHECK(!f.stop[0]);
    f.items[0].position = 5; /* the sixth */
    fixture_step(&f, 0);
    CHECK(f.stop[0]);
    CHECK(!f.stop[1]);
    fixture_release(&f);
}

static void test_new_when_config_is_wrong_then_says_what(void)
{
    struct med_clock clock;
    med_clock_init_virtual(&clock, 0);
    static const struct {
        double noise, bias;
        int64_t vocab;
        const char *text;
    } cases[] = {{-0.1, 1, 10, "noise"},  {NAN, 1, 10, "noise"},          {4, 1, 10, "noise"},
                 {0, 0, 10, "bias"},      {0, NAN, 10, "bias"},           {0, INFINITY, 10, "bias"},
                 {0, 1, 0, "vocabulary"}, {0, 1, 1LL << 40, "vocabulary"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct med_emulated_config config = config_of(&clock);
        struct med_backend backend = {0};
        struct med_err err = {0};
        config.noise_sigma = cases[i].noise;
        config.bias = cases[i].bias;
        config.vocab_tokens = cases[i].vocab;
        CHECK_INT(med_emulated_new(&config, &backend, &err), MED_E_INVALID);
        CHECK_CONTAINS(err.text, cases[i].text);
        CHECK(backend.self == NULL);
    }
    struct med_emulated_config config = config_of(&clock);
    struct med_backend backend = {0};
    (void)med_alloc_fail_nth(1);
    CHECK_INT(med_emulated_new(&config, &backend, NULL), MED_E_NOMEM);
    (void)med_alloc_fail_nth(0);
}

int main(void)
{
    RUN(test_step_when_device_is_busy_then_begins_at_its_end);
    RUN(test_step_when_biased_then_takes_so_much_longer);
    RUN(test_step_when_noisy_then_mean_stays_and_seed_repeats);
    RUN(test_step_when_item_samples_then_token_is_keyed_by_seed_and_place);
    RUN(test_step_when_output_length_is_given_then_stops_there);
    RUN(test_new_when_config_is_wrong_then_says_what);
    return check_finish();
}
