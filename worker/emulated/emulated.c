/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The emulated backend (see emulated.h).
 *
 * The device is one number: the fleet time at which its last step ended.  It may lie behind the clock
 * when this machine cannot keep up; then steps return at once until it has caught up, and the
 * lateness says how far behind the emulation is, for metrics and the busy line.
 * Noise is lognormal with mean 1: exp(sigma * N - sigma^2 / 2).
 * thread: engine.  Computes nothing, knows no model but its times.
 */
#include "worker/emulated/emulated.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/rng.h"

#include <math.h>
#include <stdatomic.h>

/* thread: engine */
struct emulated {
    struct med_emulated_config config;
    struct med_rng rng;
    int64_t device_ns; /* end of the last step */
    int64_t steps;     /* so far */
    struct {
        atomic_int_least64_t lateness_ns; /* a gauge: relaxed */
    } shared;
};

uint32_t med_emulated_token(uint64_t seed, int64_t place, int64_t vocab_tokens)
{
    MED_ASSERT(vocab_tokens > 0 && vocab_tokens <= UINT32_MAX);
    /* splitmix64 (Steele, Lea, Flood 2014): its state after `place` steps, finalised. */
    uint64_t x = seed + UINT64_C(0x9e3779b97f4a7c15) * ((uint64_t)place + 1);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    x ^= x >> 31;
    return (uint32_t)(x % (uint64_t)vocab_tokens);
}

static int emulated_init(void *self, struct med_err *err)
{
    struct emulated *e = self;
    (void)err;
    e->device_ns = med_clock_now_ns(e->config.clock);
    return 0;
}

static int64_t duration_ns(struct emulated *e, const struct med_step_load *load)
{
    double ms = med_latency_step_ms(&e->config.latency, load) * e->config.bias;
    double sigma = e->config.noise_sigma;
    if (sigma > 0)
        ms *= exp(sigma * med_rng_normal(&e->rng) - sigma * sigma / 2);
    return (int64_t)(ms * (double)MED_NS_PER_MS);
}

/* What the config asks for to go wrong. */
static int go_wrong(struct emulated *e, struct med_err *err)
{
    const int64_t step = e->steps++;
    if (e->config.fail_after > 0 && step == e->config.fail_after) {
        return med_err_set(err, MED_E_CUDA,
                           "emulated backend: the device failed after %lld steps, as it was told",
                           (long long)step);
    }
    while (e->config.hang_after > 0 && step == e->config.hang_after)
        med_clock_sleep_until(e->config.clock, med_clock_now_ns(e->config.clock) + MED_NS_PER_S);
    return 0;
}

static int emulated_step(void *self, const struct med_backend_step *step, struct med_err *err)
{
    struct emulated *e = self;
    int rc = go_wrong(e, err);
    if (rc < 0)
        return rc;
    if (step->available_ns > e->device_ns)
        e->device_ns = step->available_ns;
    e->device_ns += duration_ns(e, &step->batch->load);
    med_clock_sleep_until(e->config.clock, e->device_ns);
    if (step->ended_ns)
        *step->ended_ns = e->device_ns;
    for (size_t i = 0; i < step->batch->count; i++) {
        const struct med_batch_item *item = &step->batch->items[i];
        const struct med_backend_sequence *sequence = step->sequences[i];
        if (!item->samples)
            continue;
        step->sampled[i] =
            med_emulated_token(sequence->sampling.seed, sequence->prompt_tokens + item->position,
                               e->config.vocab_tokens);
        step->stop[i] = item->position + 1 == sequence->sampling.emulated_output_tokens;
    }
    int64_t lateness_ns = med_clock_now_ns(e->config.clock) - e->device_ns;
    atomic_store_explicit(&e->shared.lateness_ns, lateness_ns > 0 ? lateness_ns : 0,
                          memory_order_relaxed);
    return 0;
}

static void emulated_release(void *self)
{
    med_free(self);
}

static const struct med_backend_ops emulated_ops = {
    .name = "emulated", .init = emulated_init, .step = emulated_step, .release = emulated_release};

int med_emulated_new(const struct med_emulated_config *config, struct med_backend *ret_backend,
                     struct med_err *err)
{
    MED_ASSERT(config->clock);
    if (config->vocab_tokens < 1 || config->vocab_tokens > UINT32_MAX) {
        return med_err_set(err, MED_E_INVALID,
                           "emulated backend: the vocabulary has %lld tokens, expected 1 to %u",
                           (long long)config->vocab_tokens, UINT32_MAX);
    }
    if (!(config->noise_sigma >= 0 && config->noise_sigma <= 3)) {
        return med_err_set(err, MED_E_INVALID,
                           "emulated backend: noise is %g, expected 0 to 3 (deviation of the "
                           "logarithm of a step's time)",
                           config->noise_sigma);
    }
    if (!(config->bias > 0 && config->bias <= 1000)) {
        return med_err_set(err, MED_E_INVALID,
                           "emulated backend: bias is %g, expected a factor above 0, at most 1000",
                           config->bias);
    }
    struct emulated *e = med_calloc(1, sizeof *e);
    if (!e)
        return med_err_set(err, MED_E_NOMEM, "emulated backend: no memory");
    e->config = *config;
    med_rng_init(&e->rng, config->seed, 0x656d756c);
    atomic_init(&e->shared.lateness_ns, 0);
    *ret_backend = (struct med_backend){.ops = &emulated_ops, .self = e};
    return 0;
}

int64_t med_emulated_lateness_ns(const struct med_backend *backend)
{
    MED_ASSERT(backend->ops == &emulated_ops);
    struct emulated *e = backend->self;
    return atomic_load_explicit(&e->shared.lateness_ns, memory_order_relaxed);
}
