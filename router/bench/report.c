/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The report of a load test, as text and as JSON.
 *
 * The first block has the lines, widths and order of the load generators that people grep; what
 * Medley adds stands below it.  Text is gathered in a buffer whose first failure is kept, so that
 * each line need not be checked by itself.
 * thread: the caller's. It computes nothing but ratios of what the summary holds.
 */
#include "router/bench/report.h"

#include "base/clock.h"
#include "base/json.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    WIDTH = 50
};

struct text {
    struct med_buf *buf;
    int rc;
};

static void put(struct text *t, const char *fmt, ...) MED_PRINTF(2, 3);

static void put(struct text *t, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (t->rc >= 0)
        t->rc = med_buf_vprintf(t->buf, fmt, args);
    va_end(args);
}

/* A title in the middle of a line of `fill`. */
static void put_title(struct text *t, const char *title, char fill)
{
    size_t length = strlen(title);
    size_t left = (WIDTH - length) / 2, right = WIDTH - length - left;
    char line[WIDTH + 1];
    memset(line, fill, WIDTH);
    memcpy(line + left, title, length);
    line[left + length + right] = '\0';
    put(t, "%s\n", line);
}

static void put_count(struct text *t, const char *name, int64_t value)
{
    put(t, "%-40s %-10lld\n", name, (long long)value);
}

static void put_number(struct text *t, const char *name, double value)
{
    if (isnan(value)) {
        put(t, "%-40s %-10s\n", name, "n/a");
    } else {
        put(t, "%-40s %-10.2f\n", name, value);
    }
}

static void put_latency(struct text *t, const char *title, const char *name,
                        const struct med_bench_latency *latency)
{
    char line[64];
    put_title(t, title, '-');
    (void)snprintf(line, sizeof(line), "Mean %s (ms):", name);
    put_number(t, line, latency->mean);
    (void)snprintf(line, sizeof(line), "Median %s (ms):", name);
    put_number(t, line, latency->median);
    (void)snprintf(line, sizeof(line), "P99 %s (ms):", name);
    put_number(t, line, latency->p99);
}

static void put_block(struct text *t, const struct med_bench_settings *settings,
                      const struct med_bench_summary *s)
{
    put_title(t, " Serving Benchmark Result ", '=');
    put_count(t, "Successful requests:", (int64_t)s->completed);
    put_count(t, "Failed requests:", (int64_t)s->failed);
    if (settings->max_concurrency > 0)
        put_count(t, "Maximum request concurrency:", settings->max_concurrency);
    if (isfinite(settings->rate_per_s))
        put_number(t, "Request rate configured (RPS):", settings->rate_per_s);
    put_number(t, "Benchmark duration (s):", s->duration_s);
    put_count(t, "Total input tokens:", s->input_tokens);
    put_count(t, "Total generated tokens:", s->output_tokens);
    put_number(t, "Request throughput (req/s):", s->request_throughput);
    if (s->has_goodput)
        put_number(t, "Request goodput (req/s):", s->request_goodput);
    put_number(t, "Output token throughput (tok/s):", s->output_throughput);
    put_number(t, "Peak output token throughput (tok/s):", s->peak_output_throughput);
    put_count(t, "Peak concurrent requests:", (int64_t)s->peak_concurrency);
    put_number(t, "Total token throughput (tok/s):", s->total_throughput);
    put_latency(t, "Time to First Token", "TTFT", &s->ttft);
    put_latency(t, "Time per Output Token (excl. 1st token)", "TPOT", &s->tpot);
    put_latency(t, "Inter-token Latency", "ITL", &s->itl);
    put_latency(t, "End-to-end Latency", "E2EL", &s->e2e);
    put_title(t, "", '=');
}

static void put_failures(struct text *t, const struct med_bench_run *run,
                         const struct med_bench_summary *s)
{
    if (run->interrupted)
        put(t, "The run was stopped after %zu of %zu requests were sent.\n", s->sent, s->planned);
    if (run->stalled)
        put(t, "Nothing came back for too long; what was open has been cancelled.\n");
    if (s->tokens_lost || s->tokens_duplicated) {
        put(t, "LOST: %lld tokens never came, %lld came twice.\n", (long long)s->tokens_lost,
            (long long)s->tokens_duplicated);
    }
    if (s->reconnects) {
        put(t, "%llu requests were sent again: their kept connection had been closed.\n",
            (unsigned long long)s->reconnects);
    }
    if (run->waited_for_opening) {
        put(t, "%llu requests waited for a connection while others were being opened.\n",
            (unsigned long long)run->waited_for_opening);
    }
    if (run->waited_for_limit) {
        put(t,
            "LIMITED by this client: %llu requests waited, as all %zu connections were open that "
            "the limit of open files allows (ulimit -Hn).\n",
            (unsigned long long)run->waited_for_limit, run->connections_max);
    }
    if (s->other_length)
        put(t, "%zu answers have another length than the workload's.\n", s->other_length);
    if (!s->failed)
        return;
    put(t, "Failed: %zu before the first token, %zu after it\n", s->failed_before_token,
        s->failed_after_token);
    size_t told = 0;
    for (int i = 1; i < MED_GRPC_STATUS_COUNT; i++) {
        told += s->by_status[i];
        if (s->by_status[i])
            put(t, "  %-20s %6zu  %s\n", med_grpc_status_name(i), s->by_status[i], run->details[i]);
    }
    if (s->failed > told + s->not_ended) {
        put(t, "  %-20s %6zu  ended well, but without a token or not with all\n", "OK",
            s->failed - told - s->not_ended);
    }
}

static void put_objectives(struct text *t, const struct med_bench_summary *s)
{
    if (!s->objective_count)
        return;
    put_title(t, "Objectives", '-');
    for (size_t i = 0; i < s->objective_count; i++) {
        const struct med_bench_objective *o = &s->objectives[i];
        char name[64];
        med_slo_format(&o->slo, name, sizeof(name));
        if (isnan(o->observed_ms)) {
            put(t, "%-24s not observed\n", name);
        } else {
            put(t, "%-24s %8.1f ms  %-6s  %5.1f %% of requests within\n", name, o->observed_ms,
                o->met ? "met" : "MISSED", 100 * o->share_within);
        }
    }
    if (!isnan(s->attainment))
        put(t, "%-40s %.1f %%\n", "SLO attainment (all objectives):", 100 * s->attainment);
}

static void put_cost(struct text *t, const struct med_bench_summary *s)
{
    if (!s->has_cost)
        return;
    put_title(t, "Cost", '-');
    put_number(t, "Fleet ($/h):", s->usd_per_hour);
    put(t, "%-40s %-10.4f\n", "This run ($):", s->usd);
    put_number(t, "Per million output tokens ($):", s->usd_per_million_output_tokens);
}

/* observed against predicted, as a share. */
static double difference(double observed, double predicted)
{
    return observed / predicted - 1;
}

static void put_pair(struct text *t, const char *name, double predicted, double observed)
{
    put(t, "%-30s %12.2f %12.2f", name, predicted, observed);
    if (isnan(predicted) || isnan(observed) || predicted <= 0) {
        put(t, "        n/a\n");
    } else {
        put(t, " %+9.1f %%\n", 100 * difference(observed, predicted));
    }
}

static void put_means(struct text *t, const char *indent, const struct med_bench_means *predicted,
                      const struct med_bench_means *observed)
{
    char name[64];
    (void)snprintf(name, sizeof(name), "%srequests", indent);
    put(t, "%-30s %12zu %12zu\n", name, predicted->completed, observed->completed);
    (void)snprintf(name, sizeof(name), "%smean TTFT (ms)", indent);
    put_pair(t, name, predicted->ttft_ms, observed->ttft_ms);
    (void)snprintf(name, sizeof(name), "%smean TPOT (ms)", indent);
    put_pair(t, name, predicted->tpot_ms, observed->tpot_ms);
}

static void put_prediction(struct text *t, const struct med_bench_summary *s)
{
    if (!s->has_prediction)
        return;
    put_title(t, "Predicted against observed", '-');
    put(t, "%-30s %12s %12s %11s\n", "", "predicted", "observed", "difference");
    put_means(t, "", &s->predicted, &s->observed);
    for (size_t i = 0; i < s->type_count; i++) {
        const struct med_bench_type *type = &s->types[i];
        if (type->observed.completed == 0 && type->predicted.completed == 0)
            continue;
        put(t, "%s\n", type->name);
        put_means(t, "  ", &type->predicted, &type->observed);
    }
}

int med_bench_report_text(struct med_buf *out, const struct med_bench_settings *settings,
                          const struct med_bench_run *run, const struct med_bench_summary *summary)
{
    struct text t = {.buf = out};
    put_block(&t, settings, summary);
    put_failures(&t, run, summary);
    put_objectives(&t, summary);
    put_cost(&t, summary);
    put_prediction(&t, summary);
    if (!settings->closed_loop) {
        put_title(&t, "Schedule", '-');
        put_number(&t, "Mean lateness of sends (ms):", summary->lateness.mean);
        put_number(&t, "P99 lateness of sends (ms):", summary->lateness.p99);
        put_title(&t, "", '=');
    }
    return t.rc;
}

/* ---- JSON ---- */

void med_bench_report_number(struct med_json_writer *w, const char *key, double value)
{
    if (isfinite(value)) {
        med_json_put_number(w, key, value);
    } else {
        med_json_put_null(w, key);
    }
}

void med_bench_report_latency(struct med_json_writer *w, const char *name,
                              const struct med_bench_latency *latency)
{
    const struct {
        const char *statistic;
        double value;
    } rows[] = {{"mean", latency->mean},
                {"median", latency->median},
                {"std", latency->std},
                {"p90", latency->p90},
                {"p99", latency->p99}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char key[48];
        (void)snprintf(key, sizeof(key), "%s_%s_ms", rows[i].statistic, name);
        med_bench_report_number(w, key, rows[i].value);
    }
}

static void json_settings(struct med_json_writer *w, const struct med_bench_settings *settings)
{
    char date[32];
    time_t now = (time_t)(med_clock_unix_ns() / MED_NS_PER_S);
    struct tm utc;
    (void)gmtime_r(&now, &utc);
    (void)strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &utc);
    med_json_put_string(w, "date", date);
    med_json_put_string(w, "target", settings->target);
    med_json_put_string(w, "api", settings->api ? settings->api : "grpc");
    if (settings->plan)
        med_json_put_string(w, "plan", settings->plan);
    if (settings->workload)
        med_json_put_string(w, "workload", settings->workload);
    med_json_put_string(w, "arrival", med_arrivals_process_name(settings->process));
    med_bench_report_number(w, "request_rate", settings->rate_per_s);
    med_bench_report_number(w, "burstiness", settings->burstiness);
    med_json_put_integer(w, "seed", (int64_t)settings->seed);
    med_json_put_number(w, "time_scale", settings->time_scale);
    if (settings->max_concurrency > 0)
        med_json_put_integer(w, "max_concurrency", settings->max_concurrency);
    if (settings->closed_loop)
        med_json_put_bool(w, "closed_loop", true);
    if (settings->turns > 1)
        med_json_put_integer(w, "turns", settings->turns);
}

static void json_counts(struct med_json_writer *w, const struct med_bench_run *run,
                        const struct med_bench_summary *s)
{
    med_json_put_integer(w, "planned", (int64_t)s->planned);
    med_json_put_integer(w, "sent", (int64_t)s->sent);
    med_json_put_integer(w, "completed", (int64_t)s->completed);
    med_json_put_integer(w, "failed", (int64_t)s->failed);
    med_json_put_integer(w, "failed_before_first_token", (int64_t)s->failed_before_token);
    med_json_put_integer(w, "failed_after_first_token", (int64_t)s->failed_after_token);
    med_json_put_integer(w, "not_ended", (int64_t)s->not_ended);
    med_json_put_integer(w, "tokens_lost", s->tokens_lost);
    med_json_put_integer(w, "tokens_duplicated", s->tokens_duplicated);
    med_json_put_integer(w, "other_length", (int64_t)s->other_length);
    med_json_put_integer(w, "reconnects", (int64_t)s->reconnects);
    med_json_put_integer(w, "waited_for_opening", (int64_t)run->waited_for_opening);
    med_json_put_integer(w, "waited_for_connection_limit", (int64_t)run->waited_for_limit);
    med_json_put_bool(w, "interrupted", run->interrupted);
    med_json_put_bool(w, "stalled", run->stalled);
    med_json_begin_object(w, "statuses");
    for (int i = 0; i < MED_GRPC_STATUS_COUNT; i++) {
        if (s->by_status[i])
            med_json_put_integer(w, med_grpc_status_name(i), (int64_t)s->by_status[i]);
    }
    med_json_end_object(w);
    med_json_begin_object(w, "errors");
    for (int i = 1; i < MED_GRPC_STATUS_COUNT; i++) {
        if (s->by_status[i])
            med_json_put_string(w, med_grpc_status_name(i), run->details[i]);
    }
    med_json_end_object(w);
}

static void json_objectives(struct med_json_writer *w, const struct med_bench_summary *s)
{
    med_json_begin_array(w, "objectives");
    for (size_t i = 0; i < s->objective_count; i++) {
        const struct med_bench_objective *o = &s->objectives[i];
        char name[64];
        med_slo_format(&o->slo, name, sizeof(name));
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "objective", name);
        med_bench_report_number(w, "observed_ms", o->observed_ms);
        med_json_put_bool(w, "met", o->met);
        med_bench_report_number(w, "share_within", o->share_within);
        med_json_end_object(w);
    }
    med_json_end_array(w);
    med_bench_report_number(w, "slo_attainment", s->attainment);
}

static void json_means(struct med_json_writer *w, const char *key,
                       const struct med_bench_means *means)
{
    med_json_begin_row_object(w, key);
    med_json_put_integer(w, "completed", (int64_t)means->completed);
    med_json_put_integer(w, "output_tokens", means->output_tokens);
    med_bench_report_number(w, "mean_ttft_ms", means->ttft_ms);
    med_bench_report_number(w, "mean_tpot_ms", means->tpot_ms);
    med_bench_report_number(w, "mean_e2el_ms", means->e2e_ms);
    med_json_end_object(w);
}

static void json_prediction(struct med_json_writer *w, const struct med_bench_summary *s)
{
    if (s->has_prediction) {
        med_json_begin_object(w, "prediction");
        json_means(w, "predicted", &s->predicted);
        json_means(w, "observed", &s->observed);
        med_bench_report_number(w, "ttft_difference",
                                difference(s->observed.ttft_ms, s->predicted.ttft_ms));
        med_bench_report_number(w, "tpot_difference",
                                difference(s->observed.tpot_ms, s->predicted.tpot_ms));
        med_json_end_object(w);
    }
    med_json_begin_array(w, "worker_types");
    for (size_t i = 0; i < s->type_count; i++) {
        const struct med_bench_type *type = &s->types[i];
        if (type->observed.completed == 0 && type->predicted.completed == 0)
            continue;
        med_json_begin_object(w, NULL);
        med_json_put_string(w, "worker_type", type->name);
        json_means(w, "observed", &type->observed);
        if (s->has_prediction)
            json_means(w, "predicted", &type->predicted);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

int med_bench_report_json(struct med_buf *out, const struct med_bench_settings *settings,
                          const struct med_bench_run *run, const struct med_bench_summary *s)
{
    struct med_json_writer w;
    med_json_writer_init(&w, out, true);
    med_json_begin_object(&w, NULL);
    json_settings(&w, settings);
    json_counts(&w, run, s);
    med_json_put_number(&w, "duration", s->duration_s);
    med_json_put_integer(&w, "total_input_tokens", s->input_tokens);
    med_json_put_integer(&w, "total_output_tokens", s->output_tokens);
    med_json_put_number(&w, "request_throughput", s->request_throughput);
    med_bench_report_number(&w, "request_goodput", s->request_goodput);
    med_json_put_number(&w, "output_throughput", s->output_throughput);
    med_json_put_number(&w, "total_token_throughput", s->total_throughput);
    med_json_put_number(&w, "max_output_tokens_per_s", s->peak_output_throughput);
    med_json_put_integer(&w, "max_concurrent_requests", (int64_t)s->peak_concurrency);
    med_bench_report_latency(&w, "ttft", &s->ttft);
    med_bench_report_latency(&w, "tpot", &s->tpot);
    med_bench_report_latency(&w, "itl", &s->itl);
    med_bench_report_latency(&w, "e2el", &s->e2e);
    med_bench_report_latency(&w, "lateness", &s->lateness);
    json_objectives(&w, s);
    if (s->has_cost) {
        med_json_put_number(&w, "cost_per_hour", s->usd_per_hour);
        med_json_put_number(&w, "cost", s->usd);
        med_bench_report_number(&w, "cost_per_million_output_tokens",
                                s->usd_per_million_output_tokens);
    }
    json_prediction(&w, s);
    med_json_end_object(&w);
    return med_json_writer_finish(&w);
}

static void json_time(struct med_json_writer *w, const char *key, int64_t ns)
{
    if (ns >= 0)
        med_json_put_number(w, key, (double)ns / 1e9);
}

int med_bench_report_record(struct med_buf *out, size_t index,
                            const struct med_bench_record *record,
                            const struct med_bench_summary *summary)
{
    struct med_json_writer w;
    med_json_writer_init(&w, out, false);
    med_json_begin_object(&w, NULL);
    med_json_put_integer(&w, "index", (int64_t)index);
    json_time(&w, "due_s", record->due_ns);
    json_time(&w, "sent_s", record->sent_ns);
    json_time(&w, "first_token_s", record->first_ns);
    json_time(&w, "last_token_s", record->last_ns);
    json_time(&w, "end_s", record->end_ns);
    med_json_put_integer(&w, "input_tokens", record->input_tokens);
    med_json_put_integer(&w, "output_tokens", record->output_tokens);
    med_json_put_integer(&w, "tokens", record->tokens);
    med_json_put_integer(&w, "tokens_lost", record->tokens_lost);
    med_json_put_integer(&w, "tokens_duplicated", record->tokens_duplicated);
    med_json_put_string(&w, "status",
                        record->status == MED_BENCH_NOT_SENT ? "NOT_SENT"
                        : record->status == MED_BENCH_NOT_ENDED
                            ? "NOT_ENDED"
                            : med_grpc_status_name(record->status));
    if (record->worker_type >= 0)
        med_json_put_string(&w, "worker_type", summary->types[record->worker_type].name);
    med_json_end_object(&w);
    return med_json_writer_finish(&w);
}
