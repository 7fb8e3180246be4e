/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a worker's /metrics says, in Prometheus' text format: vLLM's names, which dashboards,
 * autoscalers and load tools read, and medley_worker_* for the rest.  Times are fleet time.
 * thread: loop. errors: the buffer's.
 */
#ifndef MED_WORKER_METRICS_H
#define MED_WORKER_METRICS_H

#include "base/buf.h"
#include "worker/engine_thread.h"
#include "worker/memory_plan.h"
#include "worker/meter.h"

struct med_metrics_link {
    const char *address;
    bool up;
};

/* Of a worker that computes. Real time. */
struct med_metrics_device {
    struct med_meter_stats meter;
    double peak_bytes_per_s, peak_flops_per_s; /* 0: not known */
    const struct med_memory_plan *plan;
};

struct med_metrics {
    const char *model, *worker_id, *worker_type, *backend, *dtype;
    bool prefix_cache; /* it is on */
    int64_t block_tokens;
    struct med_engine_stats engine;
    int64_t waiting;          /* with the engine and not running */
    int64_t heartbeat_age_ns; /* fleet time */
    int64_t lateness_ns;      /* of an emulated device; < 0: not emulated */
    uint64_t refused;         /* requests not started: full or draining */
    uint64_t rejected;        /* requests that were not valid */
    size_t request_bytes;     /* of those that are held */
    bool draining;
    const struct med_metrics_link *links;
    size_t link_count;
    const struct med_metrics_device *device; /* NULL: an emulated one */
};

struct med_prom;
/* metrics_device.c: called by the next. */
void med_metrics_write_device(const struct med_metrics_device *device, struct med_prom *prom,
                              const char *model);

int med_metrics_write(const struct med_metrics *metrics, struct med_buf *out) MED_MUST_CHECK;

#endif
