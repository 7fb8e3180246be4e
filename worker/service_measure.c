/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a profiler asks of a worker: to say what it is, and to run iterations (see engine_measure.h).
 *
 * One measurement at a time, and only while no request is held; requests that come meanwhile are
 * refused.  When the profiler's link ends the measurement is cancelled, and its end is waited for.
 * thread: loop.
 */
#include "base/alloc.h"
#include "worker/engine_measure.h"
#include "worker/gpu_state.h"
#include "worker/service_internal.h"

#include <stdio.h>
#include <unistd.h>

enum {
    HOST_BYTES = 64
};

static void refuse(struct med_uplink *link, uint64_t id, const char *why, bool cannot)
{
    const struct med_uplink_measured answer = {.id = id, .error = why, .cannot = cannot};
    med_uplink_send_measured(link, &answer);
}

void med_service_on_measure(void *arg, struct med_uplink *link,
                            const struct med_uplink_measure *asked)
{
    struct med_service *service = arg;
    const struct med_service_config *c = service->config;
    const struct med_measure_sizes sizes = {.prefill_tokens = asked->prefill_tokens,
                                            .prefill_context = asked->prefill_context,
                                            .decode_sequences = asked->decode_sequences,
                                            .decode_context_tokens = asked->decode_context_tokens,
                                            .warmup = asked->warmup,
                                            .repeats = asked->repeats,
                                            .fill = asked->fill};
    struct med_err err = {0};
    if (service->phase != MED_SERVICE_SERVING || service->given_up) {
        refuse(link, asked->id, "the worker is stopping", false);
    } else if (service->measure || service->requests.count > 0) {
        refuse(link, asked->id,
               "the worker has work, and is measured only while it has none; try again without "
               "other routers",
               false);
    } else if (c->scheduler.batching != MED_BATCHING_CONTINUOUS) {
        refuse(link, asked->id, "a worker is measured with --batching continuous alone", true);
    } else if (med_measure_new(&sizes, &c->scheduler, &c->rules.sampling, c->rules.vocab_tokens,
                               &service->measure, &err) < 0) {
        refuse(link, asked->id, err.text, err.code == MED_E_INVALID);
    } else {
        service->measure->id = asked->id;
        service->measure_link = link;
        med_engine_measure(service->engine, service->measure);
    }
}

void med_service_take_measured(struct med_service *service)
{
    struct med_measure *m = med_engine_take_measure(service->engine);
    if (!m)
        return;
    const struct med_uplink_measured answer = {
        .id = m->id,
        .error = m->failure.code != 0 ? m->failure.text : NULL,
        .prefill_tokens = m->sizes.prefill_tokens,
        .prefill_context = m->sizes.prefill_context,
        .decode_sequences = m->sizes.decode_sequences,
        .count = (size_t)m->count,
        .step_ns = m->step_ns,
        .decode_context_tokens = m->decode_context_tokens,
    };
    if (service->measure_link)
        med_uplink_send_measured(service->measure_link, &answer);
    service->measure = NULL;
    service->measure_link = NULL;
    med_measure_free(m);
    struct med_engine_stats stats;
    med_engine_get_stats(service->engine, &stats);
    if (stats.failed)
        med_service_note_failure(service);
}

void med_service_on_describe(void *arg, struct med_uplink *link)
{
    struct med_service *service = arg;
    const struct med_service_config *c = service->config;
    const struct med_service_facts *f = &c->facts;
    struct med_gpu_state gpu;
    char host[HOST_BYTES] = "";
    (void)gethostname(host, sizeof host - 1);
    med_gpu_state_read(f->pci, &gpu);
    const struct med_uplink_description description = {
        .device = f->device ? f->device : "",
        .gpu = f->gpu ? f->gpu : "",
        .dtype = f->dtype ? f->dtype : "",
        .kv_dtype = f->kv_dtype ? f->kv_dtype : "",
        .driver = gpu.driver,
        .uuid = gpu.uuid,
        .host = host,
        .gpus = (uint32_t)f->gpus,
        .memory_bytes = f->memory_bytes,
        .read_bytes_per_s = f->read_bytes_per_s,
        .read_spread = f->read_spread,
        .flops_per_s = f->flops_per_s,
        .flops_spread = f->flops_spread,
        .peak_bytes_per_s = f->peak_bytes_per_s,
        .peak_flops_per_s = f->peak_flops_per_s,
        .parameters = f->parameters,
        .weight_bytes = f->weight_bytes,
        .kv_bytes_per_token = f->kv_bytes_per_token,
        .layers = (uint32_t)f->layers,
        .hidden = (uint32_t)f->hidden,
        .heads = (uint32_t)f->heads,
        .kv_heads = (uint32_t)f->kv_heads,
        .head_dim = (uint32_t)f->head_dim,
        .intermediate = (uint32_t)f->intermediate,
        .vocab = (uint32_t)c->rules.vocab_tokens,
        .batched_tokens_max = c->scheduler.batched_tokens_max,
        .block_tokens = c->scheduler.block_tokens,
        .clock_mhz = gpu.clock_mhz,
        .clock_max_mhz = gpu.clock_max_mhz,
        .memory_clock_mhz = gpu.memory_clock_mhz,
        .power_w = gpu.power_w,
        .power_limit_w = gpu.power_limit_w,
        .temperature_c = gpu.temperature_c,
        .time_scale = c->clock->scale,
    };
    med_uplink_send_description(link, &description);
}
