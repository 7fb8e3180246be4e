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
#include "base/os.h"
#include "router/bench/inputs.h"
#include "router/bench/progress.h"
#include "router/bench/report.h"
#include "router/bench/run.h"
#include "router/bench/summary.h"
#include "router/keys.h"

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

static int grpc_client(const struct med_bench_options *o, const struct med_clock *clock,
                       struct med_bench_client **ret_client, struct med_err *err)
{
    const struct med_grpc_client_security security = {.tls_ca = o->tls_ca,
                                                      .api_key_file = o->api_key_file};
    const struct med_bench_grpc_config config = {
        .target = o->target,
        .security = &security,
        .ignore_eos = med_bench_fixes_lengths(o),
        .connect_timeout_real_ns = o->connect_timeout_ns,
    };
    return med_bench_grpc_client_new(&config, clock, ret_client, err);
}

static int make_client(const struct med_bench_options *o, const struct med_clock *clock,
                       struct med_bench_client **ret_client, struct med_err *err)
{
    if (strcmp(o->api, "grpc") == 0)
        return grpc_client(o, clock, ret_client, err);
    struct med_keys *keys = NULL;
    if (o->api_key_file) {
        int rc = med_keys_new("--api-key-file", o->api_key_file, &keys, err);
        if (rc < 0)
            return rc;
    }
    struct med_bench_http_config config = {
        .url = o->url,
        .tls_ca = o->tls_ca,
        .model = o->model,
        .key = keys ? med_keys_first(keys) : o->api_key,
        .chat = strcmp(o->api, "openai-chat") == 0,
        .stream = o->stream,
        .words = strcmp(o->prompt, "text") == 0,
        .ignore_eos = med_bench_fixes_lengths(o),
        .timeout_real_ns = o->timeout_ns,
        .connect_timeout_real_ns = o->connect_timeout_ns,
    };
    (void)med_os_files_raise();
    int rc = med_bench_http_client_new(&config, clock, ret_client, err);
    med_keys_free(keys); // the client has made its heads
    return rc;
}

/* What all runs of this program share. */
struct bench {
    const struct med_options *given;
    const struct med_bench_options *options;
    struct med_bench_inputs *inputs;
    struct med_clock clock;
    struct med_bench_client *client;
    const char **types;
};

static int bench_open(struct bench *b, struct med_err *err)
{
    const struct med_bench_inputs *in = b->inputs;
    med_clock_init_real(&b->clock, b->options->time_scale);
    size_t type_count = in->has_plan ? in->plan.profile_count : 0;
    b->types = med_calloc(type_count + 1, sizeof(*b->types));
    if (!b->types)
        return med_err_set(err, MED_E_NOMEM, "memory is exhausted");
    for (size_t i = 0; i < type_count; i++)
        b->types[i] = in->plan.profiles[i].worker_type;
    return make_client(b->options, &b->clock, &b->client, err);
}

static void bench_close(struct bench *b)
{
    if (b->client)
        b->client->ops->free(b->client);
    med_free(b->types);
}

static struct med_bench_run_config run_config(struct bench *b)
{
    const struct med_bench_options *o = b->options;
    const struct med_bench_inputs *in = b->inputs;
    return (struct med_bench_run_config){
        .client = b->client,
        .clock = &b->clock,
        .arrivals = in->arrivals.items,
        .count = in->arrivals.count,
        .worker_types = b->types,
        .worker_type_count = in->has_plan ? in->plan.profile_count : 0,
        .max_concurrency = in->settings.max_concurrency,
        .closed_loop = in->settings.closed_loop,
        .send_until_ns = in->settings.closed_loop ? o->duration_ns : 0,
        .turns = (size_t)o->turns,
        .think_ns = o->think_ns,
        .prefix_groups = in->prefix_groups,
        .prefix_tokens = o->prefix_tokens,
        .vocabulary = vocabulary_of(o, in),
        .seed = (uint64_t)o->seed,
        .tell_output_tokens = o->recorded_lengths,
        .stall_real_ns = o->stall_timeout_ns,
        .stop = &stop_requested,
    };
}

static int drive(struct bench *b, struct med_bench_run *ret_run, struct med_err *err)
{
    struct med_progress_line line;
    med_progress_line_init(&line, !b->options->progress);
    struct med_bench_run_config config = run_config(b);
    config.on_progress = med_progress_line_update;
    config.progress_arg = &line;
    int rc = med_bench_run(&config, ret_run, err);
    med_progress_line_finish(&line);
    return rc;
}

/* Requests of the schedule's own sizes, one after the other, whose figures nobody sees. */
static int warm_up(struct bench *b, struct med_err *err)
{
    size_t count = (size_t)b->options->warm_up;
    if (count > b->inputs->arrivals.count)
        count = b->inputs->arrivals.count;
    if (count == 0)
        return 0;
    struct med_sim_arrival *arrivals = med_calloc(count, sizeof(*arrivals));
    if (!arrivals)
        return med_err_set(err, MED_E_NOMEM, "memory is exhausted");
    memcpy(arrivals, b->inputs->arrivals.items, count * sizeof(*arrivals));
    for (size_t i = 0; i < count; i++)
        arrivals[i].at_ns = 0;
    struct med_bench_run_config config = run_config(b);
    config.arrivals = arrivals;
    config.count = count;
    config.turns = 1;
    config.prefix_groups = NULL;
    config.max_concurrency = 1;
    config.closed_loop = true;
    config.send_until_ns = 0;
    config.seed ^= UINT64_C(0x5eed0000); // other prompts: no cache is warmed with the run's own
    struct med_bench_run run = {0};
    int rc = med_bench_run(&config, &run, err);
    if (rc >= 0)
        med_bench_run_release(&run);
    med_free(arrivals);
    b->client->reconnects = b->client->waited_for_opening = b->client->waited_for_limit = 0;
    return rc;
}

/* The simulation of what was sent. false: there is none, and the log says why. */
static bool predict(const struct med_bench_options *o, const struct med_bench_inputs *in,
                    const struct med_bench_run *run, struct med_sim_result *ret_result)
{
    if (!o->predict || !in->has_plan || run->sent == 0)
        return false;
    if (in->settings.closed_loop || o->turns > 1 || o->prefix_tokens > 0) {
        MED_INFO("no prediction: %s",
                 o->prefix_tokens > 0 ? "the simulation knows no shared beginnings of prompts"
                 : o->turns > 1
                     ? "the turns of a conversation have no times that could be simulated"
                     : "a closed loop has no arrival times that could be simulated");
        return false;
    }
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
    if (rc >= 0 && o->save)
        rc = write_records(o->save, run, summary, err);
    med_buf_release(&json);
    med_buf_release(&text);
    return rc;
}

static int run_once(struct bench *b, struct med_err *err)
{
    const struct med_bench_options *o = b->options;
    struct med_bench_inputs *in = b->inputs;
    struct med_bench_run run = {0};
    int rc = drive(b, &run, err);
    if (rc < 0)
        return rc;
    struct med_sim_result simulated;
    bool predicted = predict(o, in, &run, &simulated);
    struct med_bench_summary summary;
    rc = med_bench_summarize(&run, in->has_plan ? &in->plan : NULL, &in->slos, &in->goodput,
                             predicted ? &simulated : NULL, &summary, err);
    if (rc >= 0) {
        rc = write_report(o, in, &run, &summary, err);
        if (rc >= 0)
            rc = med_bench_summary_is_whole(&summary) && summary.completed > 0 ? 0 : 1;
        med_bench_summary_release(&summary);
    }
    if (predicted)
        med_sim_result_release(&simulated);
    med_bench_run_release(&run);
    return rc;
}

static int run_point(struct bench *b, double load, struct med_sweep_point *ret_point,
                     struct med_err *err)
{
    struct med_bench_options values = *b->options;
    med_bench_options_set_load(&values, &b->inputs->sweep, load);
    int rc = med_bench_inputs_schedule(b->given, &values, b->inputs, err);
    struct med_bench_run run = {0};
    if (rc >= 0)
        rc = drive(b, &run, err);
    if (rc < 0)
        return rc;
    struct med_bench_summary summary;
    rc =
        med_bench_summarize(&run, NULL, &b->inputs->slos, &b->inputs->goodput, NULL, &summary, err);
    if (rc >= 0) {
        med_sweep_point_set(ret_point, load, &summary);
        med_bench_summary_release(&summary);
    }
    med_bench_run_release(&run);
    return rc;
}

/* To standard output at once: a sweep takes its time. */
static int show(struct med_buf *text, struct med_err *err)
{
    bool bad = fwrite(text->data, 1, text->length, stdout) != text->length || fflush(stdout) != 0;
    med_buf_clear(text);
    return bad ? med_err_set(err, MED_E_IO, "standard output: %s", strerror(errno)) : 0;
}

static int write_sweep(struct bench *b, const struct med_sweep_point *points, size_t count,
                       struct med_err *err)
{
    const struct med_bench_options *o = b->options;
    struct med_buf buf;
    med_buf_init(&buf, REPORT_MAX_BYTES);
    int rc = med_sweep_json(&buf, &b->inputs->sweep, points, count);
    if (rc >= 0 && o->output)
        rc = write_all(o->output, &buf, err);
    if (rc >= 0 && o->json)
        rc = show(&buf, err);
    med_buf_clear(&buf);
    if (rc >= 0 && o->plot) {
        rc = med_sweep_plot(&buf, &b->inputs->sweep, points, count);
        if (rc >= 0)
            rc = write_all(o->plot, &buf, err);
    }
    if (rc < 0 && err->code == 0)
        (void)med_err_set(err, rc, "memory for the report is exhausted");
    med_buf_release(&buf);
    return rc;
}

static int run_sweep(struct bench *b, struct med_err *err)
{
    const struct med_sweep *sweep = &b->inputs->sweep;
    struct med_sweep_point points[MED_SWEEP_POINTS_MAX];
    struct med_buf text;
    med_buf_init(&text, REPORT_MAX_BYTES);
    size_t count = 0;
    bool whole = true;
    int rc = b->options->json ? 0 : med_sweep_head(&text, sweep);
    while (rc >= 0 && count < sweep->count && !stop_requested) {
        rc = run_point(b, sweep->loads[count], &points[count], err);
        if (rc < 0)
            break;
        whole = whole && points[count].whole;
        if (!b->options->json) {
            rc = med_sweep_row(&text, &points[count]);
            if (rc >= 0)
                rc = show(&text, err);
        }
        count++;
        if (b->options->stop_saturated && med_sweep_is_saturated(points, count))
            break;
    }
    med_buf_release(&text);
    if (rc >= 0)
        rc = write_sweep(b, points, count, err);
    return rc < 0 ? rc : whole ? 0 : 1;
}

static int bench(const struct med_options *given, const struct med_bench_options *o,
                 struct med_bench_inputs *in)
{
    struct med_err err = {0};
    struct bench b = {.given = given, .options = o, .inputs = in};
    int rc = bench_open(&b, &err);
    if (rc >= 0) {
        catch_signals();
        rc = warm_up(&b, &err);
    }
    if (rc >= 0)
        rc = in->sweep.count > 0 ? run_sweep(&b, &err) : run_once(&b, &err);
    bench_close(&b);
    return rc < 0 ? fail(&err) : rc;
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
        status = values.dry_run ? print_schedule(&inputs) : bench(&options, &values, &inputs);
        med_bench_inputs_release(&inputs);
    }
    med_options_release(&options);
    return status;
}
