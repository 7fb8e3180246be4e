/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What was measured, as lines for people and as JSON.
 *
 * thread: main. owns: nothing.
 */
#ifndef MED_WORKER_BENCH_REPORT_H
#define MED_WORKER_BENCH_REPORT_H

#include "base/json.h"
#include "worker/bench/speed.h"

struct med_bench_report {
    const struct med_checkpoint *checkpoint;
    const char *dtype;
    const char *backend, *description; /* of the device, which may be gone */
    int threads;
    double peak_bytes_per_s, peak_flops_per_s; /* 0: not known */
    const struct med_bench_case *cases;
    size_t count;
    struct med_bench_spread read; /* beside the cases; zeros where limits are measured apart */
    bool has_limits;
    struct med_device_limits limits[2]; /* before and after all cases */
    struct med_device_stats stats;
    struct med_transformer_times times;
    int64_t kv_tokens;
};

void med_bench_report_text(const struct med_bench_report *report);
/* Members of the object that is open. */
void med_bench_report_json(const struct med_bench_report *report, struct med_json_writer *w);
/* Those that say what was measured on. */
void med_bench_report_machine(const struct med_bench_report *report, struct med_json_writer *w);

#endif
