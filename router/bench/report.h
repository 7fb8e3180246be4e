/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a load test is told: the block that people know ("Serving Benchmark Result"), followed by
 * objectives, cost and prediction; the same as JSON; one JSON line per request.
 * thread: the caller's.
 */
#ifndef MED_ROUTER_BENCH_REPORT_H
#define MED_ROUTER_BENCH_REPORT_H

#include "allocator/replay/arrivals.h"
#include "base/buf.h"
#include "router/bench/summary.h"

/* What the run was asked to do. */
struct med_bench_settings {
    const char *target, *plan, *workload; /* as given; plan and workload may be NULL */
    enum med_arrivals_process process;
    double rate_per_s; /* INFINITY: all at once */
    double burstiness;
    uint64_t seed;
    double time_scale;
    int64_t max_concurrency; /* 0: none */
    bool closed_loop;
    const char *api; /* NULL: grpc */
    int64_t turns;   /* of a conversation; 0 or 1: single requests */
};

int med_bench_report_text(struct med_buf *out, const struct med_bench_settings *settings,
                          const struct med_bench_run *run,
                          const struct med_bench_summary *summary) MED_MUST_CHECK;
int med_bench_report_json(struct med_buf *out, const struct med_bench_settings *settings,
                          const struct med_bench_run *run,
                          const struct med_bench_summary *summary) MED_MUST_CHECK;
/* One line of JSON for a record, newline included. types: as in the summary. */
int med_bench_report_record(struct med_buf *out, size_t index,
                            const struct med_bench_record *record,
                            const struct med_bench_summary *summary) MED_MUST_CHECK;

struct med_json_writer;
/* A number that may not be known: null then. */
void med_bench_report_number(struct med_json_writer *w, const char *key, double value);
/* "mean_ttft_ms" and its like, name being "ttft". */
void med_bench_report_latency(struct med_json_writer *w, const char *name,
                              const struct med_bench_latency *latency);

#endif
