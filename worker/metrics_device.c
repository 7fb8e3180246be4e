/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metrics of a worker that computes (see metrics.h): steps, what they move and compute, the memory
 * plan.  A utilisation is left out where the peak is not known: a rate over nothing is no number.
 * thread: loop.
 */
#include "worker/metrics.h"

#include "router/prometheus.h"

static void write_hists(const struct med_meter_stats *m, struct med_prom *prom,
                        const struct med_prom_label *model)
{
    const struct {
        const char *name, *help;
        const struct med_hist *hist;
    } rows[] = {
        {"medley_worker_step_time_seconds", "Time of a step, in which no other one ran.",
         &m->step_s},
        {"medley_worker_step_tokens", "Tokens computed by a step.", &m->rows},
        {"medley_worker_step_sequences", "Sequences of a step.", &m->sequences},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        med_prom_family(prom, rows[i].name, "histogram", rows[i].help);
        med_prom_hist(prom, model, rows[i].hist);
    }
}

static void write_values(const struct med_metrics_device *d, struct med_prom *prom,
                         const struct med_prom_label *model)
{
    const struct med_meter_stats *m = &d->meter;
    const struct {
        const char *name, *type, *help;
        double value;
    } rows[] = {
        {"medley_worker_device_busy_seconds_total", "counter", "Time in which a step ran.",
         m->busy_s},
        {"medley_worker_device_bytes_total", "counter",
         "Bytes that steps had to move, by their shapes: weights, keys and values.", m->bytes},
        {"medley_worker_device_flops_total", "counter",
         "Multiplications and additions of steps, by their shapes.", m->flops},
        {"medley_worker_device_peak_bytes_per_second", "gauge",
         "Bandwidth of the device's memory as its maker says; 0: not known.", d->peak_bytes_per_s},
        {"medley_worker_device_peak_flops_per_second", "gauge",
         "Rate of 16-bit matrix products as the device's maker says; 0: not known.",
         d->peak_flops_per_s},
        {"medley_worker_graphs", "gauge", "Steps recorded to be replayed.",
         (double)m->device.graphs},
        {"medley_worker_steps_replayed_total", "counter", "Steps that were replayed.",
         (double)m->device.replayed_total},
        {"medley_worker_steps_queued_total", "counter", "Steps that were queued op by op.",
         (double)m->device.queued_total},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        med_prom_family(prom, rows[i].name, rows[i].type, rows[i].help);
        med_prom_number(prom, model, rows[i].value);
    }
}

/* The announcement stands without a value, so that what there is does not depend on the device. */
static void write_share(struct med_prom *prom, const struct med_prom_label *model, const char *name,
                        const char *help, double rate, double peak)
{
    med_prom_family(prom, name, "gauge", help);
    if (peak > 0)
        med_prom_number(prom, model, rate / peak);
}

static void write_plan(const struct med_memory_plan *p, struct med_prom *prom, const char *model)
{
    const char *computed = p->device.total_bytes > 0 ? "gpu" : "machine";
    const struct {
        const char *memory, *part;
        int64_t bytes;
    } rows[] = {
        {computed, "weights", p->weight_bytes},    {computed, "workspace", p->workspace_bytes},
        {computed, "kv_cache", p->kv_bytes},       {"gpu", "reserve", p->device.reserve_bytes},
        {"gpu", "budget", p->device_budget_bytes}, {"machine", "scheduler", p->scheduler_bytes},
        {"machine", "requests", p->request_bytes}, {"machine", "process", p->process_bytes},
        {"machine", "staging", p->staging_bytes},  {"machine", "budget", p->budget_bytes},
    };
    med_prom_family(prom, "medley_worker_memory_plan_bytes", "gauge",
                    "What was planned before READY, and the budgets.");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct med_prom_label labels[] = {
            {"model_name", model}, {"memory", rows[i].memory}, {"part", rows[i].part}, {0}};
        if (rows[i].bytes > 0)
            med_prom_number(prom, labels, (double)rows[i].bytes);
    }
}

void med_metrics_write_device(const struct med_metrics_device *device, struct med_prom *prom,
                              const char *model)
{
    const struct med_prom_label label[] = {{"model_name", model}, {0}};
    const struct med_meter_stats *m = &device->meter;
    write_hists(m, prom, label);
    write_values(device, prom, label);
    write_share(prom, label, "medley_worker_memory_bandwidth_utilization",
                "Bytes moved over busy time, of the peak, in the last 10 s (MBU).",
                m->window_bytes_per_s, device->peak_bytes_per_s);
    write_share(prom, label, "medley_worker_flops_utilization",
                "Operations over busy time, of the peak, in the last 10 s (MFU).",
                m->window_flops_per_s, device->peak_flops_per_s);
    write_plan(device->plan, prom, model);
}
