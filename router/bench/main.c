/* SPDX-License-Identifier: Apache-2.0 */
/*
 * medley bench: the load generator.
 *
 * Reads its inputs, connects, drives the schedule, simulates the same arrivals, and reports.  The
 * first SIGINT or SIGTERM stops sending and reports what was seen; the second ends the program.
 * threads: main, and the client's own.
 */
#include "base/alloc.h"
#include "base/log.h"
#include "router/bench/inputs.h"
#include "router/bench/progress.h"
#include "router/bench/report.h"
#include "router/bench/run.h"
#include "router/bench/summary.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum {
    VOCABULARY_DEFAULT = 32000,
    VOCABULARY_MIN = 100,
    REPORT_MAX_BYTES = 64 << 20
};

static volatile sig_atomic_t stop_requested;

static void on_signal(int number)
{
    if (stop_requested) {
        /* Again: the default action ends the program. */
        struct sigaction action = {.sa_handler = SIG_DFL};
        (void)sigaction(number, &action, NULL);
        (void)raise(number);
    }
    stop_requested = 1;
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
}

static int fail(const struct med_err *err)
{
    (void)fprintf(stderr, "medley bench: %s\n", err->text);
    return med_err_exit_status(err->code);
}

static int write_all(const char *path, const struct med_buf *buf, struct med_err *err)
{
    FILE *file = fopen(path, "w");
    if (!file)
        return med_err_set(err, MED_E_IO, "%s: %s", path, strerror(errno));
    bool bad = fwrite(buf->data, 1, buf->length, file) != buf->length;
    bad = fclose(file) != 0 || bad;
    if (bad)
        return med_err_set(err, MED_E_IO, "%s: could not be written: %s", path, strerror(errno));
    return 0;
}

static int print_schedule(const struct med_bench_inputs *in)
{
    bool bad = printf("arrival_s,input_tokens,output_tokens\n") < 0;
    for (size_t i = 0; i < in->arrivals.count; i++) {
        const struct med_sim_arrival *a = &in->arrivals.items[i];
        bad = bad || printf("%.6f,%" PRId64 ",%" PRId64 "\n", (double)a->at_ns / 1e9,
                            a->input_tokens, a->output_tokens) < 0;
    }
    return bad || fflush(stdout) != 0 ? 1 : 0;
}

static uint32_t vocabulary_of(const struct med_bench_options *o, const struct med_bench_inputs *in)
{
    int64_t vocabulary = o->vocabulary;
    if (!vocabulary && in->has_plan) {
        for (size_t i = 0; i < in->plan.profile_count; i++) {
            int64_t own = in->plan.profiles[i].model.vocab;
            if (own > 0 && (!vocabulary || own < vocabulary))
                vocabulary = own;
        }
    }
    if (!vocabulary)
        vocabulary = VOCABULARY_DEFAULT;
    return (uint32_t)(vocabulary > VOCABULARY_MIN ? vocabulary : VOCABULARY_MIN);
}

static int drive(const struct med_bench_options *o, struct med_bench_inputs *in,
                 struct med_bench_run *ret_run, struct med_err *err)
{
    struct med_clock clock;
    med_clock_init_real(&clock, o->time_scale);
    size_t type_count = in->has_plan ? in->plan.profile_count : 0;
    const char **types = med_calloc(type_count + 1, sizeof(*types));
    if (!types)
        return med_err_set(err, MED_E_NOMEM, "memory is exhausted");
    for (size_t i = 0; i < type_count; i++)
        types[i] = in->plan.profiles[i].worker_type;
    struct med_grpc_client *client;
    const struct med_grpc_client_security security = {.tls_ca = o->tls_ca,
                                                      .api_key_file = o->api_key_file};
    int rc = med_grpc_client_new(o->target, &clock, o->connect_timeout_ns, true, &security, &client,
                                 err);
    if (rc < 0) {
        med_free(types);
        return rc;
    }
    catch_signals();
    struct med_progress_line line;
    med_progress_line_init(&line, !o->progress);
    struct med_bench_run_config config = {
        .client = client,
        .clock = &clock,
        .arrivals = in->arrivals.items,
        .count = in->arrivals.count,
        .worker_types = types,
        .worker_type_count = type_count,
        .max_concurrency = o->max_concurrency,
        .vocabulary = vocabulary_of(o, in),
        .seed = (uint64_t)o->seed,
        .tell_output_tokens = o->recorded_lengths,
        .stall_real_ns = o->stall_timeout_ns,
        .stop = &stop_requested,
        .on_progress = med_progress_line_update,
        .progress_arg = &line,
    };
    rc = med_bench_run(&config, ret_run, err);
    med_progress_line_finish(&line);
    med_grpc_client_free(client);
    med_free(types);
    return rc;
}

/* The simulation of what was sent. false: there is none, and the log says why. */
static bool predict(const struct med_bench_options *o, const struct med_bench_inputs *in,
                    const struct med_bench_run *run, struct med_sim_result *ret_result)
{
    if (!o->predict || !in->has_plan || run->sent == 0)
        return false;
    struct med_err err = {0};
    struct med_sim_options options = {.queue_wait_ns = o->queue_wait_ns, .queue_max = o->queue_max};
    if (med_simulate(&in->plan, in->arrivals.items, run->sent, &options, ret_result, &err) >= 0)
        return true;
    MED_WARN("no prediction: %s", err.text);
    return false;
}

static int write_records(const char *path, const struct med_bench_run *run,
                         const struct med_bench_summary *summary, struct med_err *err)
{
    FILE *file = fopen(path, "w");
    if (!file)
        return med_err_set(err, MED_E_IO, "%s: %s", path, strerror(errno));
    struct med_buf line;
    med_buf_init(&line, REPORT_MAX_BYTES);
    int rc = 0;
    for (size_t i = 0; i < run->count && rc >= 0; i++) {
        med_buf_clear(&line);
        rc = med_bench_report_record(&line, i, &run->records[i], summary);
        if (rc >= 0 && fwrite(line.data, 1, line.length, file) != line.length)
            rc = MED_E_IO;
    }
    med_buf_release(&line);
    if (fclose(file) != 0 && rc >= 0)
        rc = MED_E_IO;
    if (rc < 0)
        return med_err_set(err, rc, "%s: could not be written: %s", path, strerror(errno));
    return 0;
}

static int write_report(const struct med_bench_options *o, const struct med_bench_inputs *in,
                        const struct med_bench_run *run, const struct med_bench_summary *summary,
                        struct med_err *err)
{
    struct med_buf json, text;
    med_buf_init(&json, REPORT_MAX_BYTES);
    med_buf_init(&text, REPORT_MAX_BYTES);
    int rc = med_bench_report_json(&json, &in->settings, run, summary);
    if (rc >= 0)
        rc = med_bench_report_text(&text, &in->settings, run, summary);
    if (rc < 0) {
        (void)med_err_set(err, rc, "memory for the report is exhausted");
    } else {
        const struct med_buf *shown = o->json ? &json : &text;
        if (fwrite(shown->data, 1, shown->length, stdout) != shown->length || fflush(stdout) != 0)
            rc = med_err_set(err, MED_E_IO, "standard output: %s", strerror(errno));
    }
    if (rc >= 0 && o->output)
        rc = write_all(o->output, &json, err);
    if (rc >= 0 && o->requests_jsonl)
        rc = write_records(o->requests_jsonl, run, summary, err);
    med_buf_release(&json);
    med_buf_release(&text);
    return rc;
}

static int bench(const struct med_bench_options *o, struct med_bench_inputs *in)
{
    struct med_err err = {0};
    struct med_bench_run run = {0};
    int rc = drive(o, in, &run, &err);
    if (rc < 0)
        return fail(&err);
    struct med_sim_result simulated;
    bool predicted = predict(o, in, &run, &simulated);
    struct med_bench_summary summary;
    rc = med_bench_summarize(&run, in->has_plan ? &in->plan : NULL, &in->slos,
                             predicted ? &simulated : NULL, &summary, &err);
    int status = 1;
    if (rc >= 0) {
        rc = write_report(o, in, &run, &summary, &err);
        status = med_bench_summary_is_whole(&summary) && summary.completed > 0 ? 0 : 1;
        med_bench_summary_release(&summary);
    }
    if (rc < 0)
        status = fail(&err);
    if (predicted)
        med_sim_result_release(&simulated);
    med_bench_run_release(&run);
    return status;
}

int main(int argc, char **argv)
{
    struct med_bench_options values = {0};
    struct med_options options;
    int status = 0;
    if (med_options_main(&med_bench_program, argc, argv, &values, &options, &status) !=
        MED_OPTIONS_RUN)
        return status;
    struct med_bench_inputs inputs;
    struct med_err err = {0};
    if (med_bench_inputs_load(&options, &values, &inputs, &err) < 0) {
        status = fail(&err);
    } else {
        status = values.dry_run ? print_schedule(&inputs) : bench(&values, &inputs);
        med_bench_inputs_release(&inputs);
    }
    med_options_release(&options);
    return status;
}
