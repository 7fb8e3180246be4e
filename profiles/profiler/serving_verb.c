/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From options to serving points in a profile, and what is told of it on the way.
 *
 * The first SIGINT or SIGTERM ends the point that is measured and keeps those before it; the second ends
 * the program.  Progress goes to standard error, the report to standard output.
 * thread: main.
 */
#include "profiles/profiler/serving_verb.h"

#include "allocator/output.h"
#include "base/alloc.h"
#include "base/json.h"
#include "base/log.h"
#include "base/os.h"
#include "profiles/profiler/fit_serving.h"
#include "profiles/profiler/server.h"
#include "profiles/profiler/serving.h"
#include "profiles/profiler/serving_file.h"
#include "profiles/profiler/sizes.h"
#include "router/bench/progress.h"
#include "router/keys.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    TEXT_MAX = 1024,
    REPORT_MAX_BYTES = 4 << 20,
    VOCABULARY_MIN = 100
};
static const double late_ms = 20; /* sends so late are worth a word */
static const double prompt_off = 0.02;
#define PRECISION_MIN 0.005

static volatile sig_atomic_t stop_requested;

static void on_signal(int number)
{
    if (stop_requested) {
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

struct verb {
    const struct med_serving_options *options;
    struct med_objectives objectives;
    struct med_search search;
    struct med_sizes_told sizes;
    struct med_serving_file file;
    struct med_server *server;
    struct med_clock clock;
    struct med_progress_line line;
    double start_s;
    int64_t requests;
    bool out_of_time, interrupted;
    bool said_prompts, said_short, said_late;
    bool has_fit;
    struct med_serving_fit fit;
    char text[TEXT_MAX]; /* of the source */
};

static double now_s(void *arg)
{
    const struct verb *v = arg;
    return (double)med_clock_now_ns(&v->clock) / 1e9;
}

/* ---- the server ---- */

static bool is_grpc(const struct med_serving_options *o)
{
    return strcmp(o->api, "grpc") == 0;
}

static int open_server(struct verb *v, uint32_t vocabulary, struct med_err *err)
{
    const struct med_serving_options *o = v->options;
    struct med_keys *keys = NULL;
    if (o->api_key_file && !is_grpc(o)) {
        int rc = med_keys_new("--api-key-file", o->api_key_file, &keys, err);
        if (rc < 0)
            return rc;
    }
    const struct med_server_config config = {
        .grpc_target = is_grpc(o) ? o->target : NULL,
        .tls_ca = o->tls_ca,
        .api_key_file = o->api_key_file,
        .http = {.url = o->url,
                 .tls_ca = o->tls_ca,
                 .model = o->model,
                 .key = keys ? med_keys_first(keys) : o->api_key,
                 .chat = strcmp(o->api, "openai-chat") == 0,
                 .connect_timeout_real_ns = o->connect_timeout_ns},
        .prompt = strcmp(o->prompt, "ids") == 0    ? MED_SERVER_PROMPT_IDS
                  : strcmp(o->prompt, "text") == 0 ? MED_SERVER_PROMPT_TEXT
                                                   : MED_SERVER_PROMPT_AUTO,
        .same_prompts = o->same_prompts,
        .clock = &v->clock,
        .seed = (uint64_t)o->seed,
        .vocabulary = vocabulary,
        .stall_real_ns = o->stall_timeout_ns,
        .stop = &stop_requested,
        .on_progress = med_progress_line_update,
        .progress_arg = &v->line,
    };
    (void)med_os_files_raise();
    int rc = med_server_new(&config, &v->server, err);
    med_keys_free(keys); // heads are made
    return rc;
}

static void say_facts(const struct verb *v)
{
    const struct med_server_facts *f = med_server_facts(v->server);
    if (v->options->progress) {
        (void)fprintf(stderr, "The server takes prompts of %s", f->letters ? "text" : "token ids");
        if (f->letters && f->usage_sane) {
            (void)fprintf(stderr, " (%.3g tokens a letter, %+.3g)", f->tokens_per_letter,
                          f->tokens_besides);
        }
        (void)fprintf(stderr, "%s.\n",
                      is_grpc(v->options) ? ""
                      : f->ignores_eos    ? ", and ignore_eos"
                                          : ", and refuses ignore_eos: answers are as long as they "
                                            "come");
    }
    if (!f->usage_told && f->letters) {
        MED_WARN("the server does not say how many tokens a prompt has: a letter is taken for one");
    } else if (f->usage_told && !f->usage_sane) {
        MED_WARN("the server's count of the prompt's tokens is not one that a tokenizer gives: it "
                 "is not used");
    }
}

/* ---- what is told on the way ---- */

static void format_duration(char text[32], double seconds)
{
    if (seconds < 99.5) {
        (void)snprintf(text, 32, "%.0f s", seconds);
    } else if (seconds < 5400) {
        (void)snprintf(text, 32, "%.0f min", seconds / 60);
    } else {
        (void)snprintf(text, 32, "%.1f h", seconds / 3600);
    }
}

/* The course of one point is for people who watch; a log has a line for each point. */
static void begin_line(struct verb *v)
{
    med_progress_line_init(&v->line, !v->options->progress || isatty(STDERR_FILENO) != 1);
}

static double left_s(const struct verb *v)
{
    double left = med_search_seconds_left(&v->search) / v->clock.scale;
    double budget = 60 * v->options->minutes;
    if (budget > 0)
        left = fmin(left, fmax(0, budget - (now_s((void *)v) - v->start_s) / v->clock.scale));
    return left;
}

static void say_estimate(const struct verb *v)
{
    if (!v->options->progress)
        return;
    char whole[32], budget[64] = "";
    format_duration(whole, med_search_seconds_left(&v->search) / v->clock.scale);
    if (v->options->minutes > 0) {
        (void)snprintf(budget, sizeof(budget), ", of which %g min may be used",
                       v->options->minutes);
    }
    (void)fprintf(stderr, "%zu sizes, %" PRId64 " requests a point: about %s%s%s.\n",
                  v->search.count, v->requests, whole,
                  isnan(med_search_alone_s(&v->search, 0)) ? " for a server of middling speed" : "",
                  budget);
}

static void say_point(struct verb *v, const struct med_search_step *step,
                      const struct med_point *point, enum med_serving_verdict verdict)
{
    if (!v->options->progress)
        return;
    const struct med_search_size *s = &v->search.sizes[step->size];
    size_t done = 0;
    for (size_t i = 0; i < v->search.count; i++)
        done += med_search_is_done(&v->search, i);
    char left[32], load[32] = "alone";
    format_duration(left, left_s(v));
    if (step->rate_per_s > 0)
        (void)snprintf(load, sizeof(load), "%.4g/s", step->rate_per_s);
    const char *judged = verdict == MED_SERVING_FAILED  ? "no answer"
                         : verdict == MED_SERVING_MEETS ? "kept"
                         : point->row.failures > 0      ? "requests failed"
                         : point->row.saturated         ? "saturated"
                                                        : "broken";
    (void)fprintf(stderr,
                  "[%zu/%zu, %s left] %gx%g %s: TTFT %.4g ms (p95 %.4g), TPOT %.4g ms (p95 %.4g): "
                  "%s\n",
                  done, v->search.count, left, s->input_tokens, s->output_tokens, load,
                  point->row.ttft_ms.mean, point->row.ttft_ms.p95, point->row.tpot_ms.mean,
                  point->row.tpot_ms.p95, judged);
}

static void warn_once(struct verb *v, const struct med_search_step *step,
                      const struct med_point *point)
{
    const struct med_search_size *s = &v->search.sizes[step->size];
    double off = point->row.input_tokens / s->input_tokens - 1;
    bool spread = point->usage_told && point->prompt_tokens_sd > prompt_off * s->input_tokens + 1;
    if (!v->said_prompts &&
        (fabs(off) * s->input_tokens > prompt_off * s->input_tokens + 2 || spread)) {
        v->said_prompts = true;
        MED_WARN("prompts of %g tokens were counted as %.1f (deviation %.1f) by the server: rows "
                 "tell what it counted",
                 s->input_tokens, point->row.input_tokens, point->prompt_tokens_sd);
    }
    if (!v->said_short && point->short_answers) {
        v->said_short = true;
        MED_WARN("answers ended after %.1f of %g tokens in the mean: rows tell what came",
                 point->row.output_tokens, s->output_tokens);
    }
    if (!v->said_late && point->lateness_p99_ms > late_ms * v->clock.scale) {
        v->said_late = true;
        MED_WARN("requests were sent up to %.0f ms late: this machine is too busy to drive such a "
                 "load",
                 point->lateness_p99_ms);
    }
    if (point->failed > 0)
        MED_WARN("%zu of %zu requests failed: %s", point->failed, point->measured, point->failure);
}

/* What the format can hold. */
static bool is_row(const struct med_point *point)
{
    return point->row.throughput_per_s > 0 && point->row.ttft_ms.mean > 0;
}

static void drop_zeros(struct med_latency_stats *stats)
{
    /* The format knows no latency of zero, as of tokens that came in one event. */
    double *const values[] = {&stats->mean, &stats->p50, &stats->p90, &stats->p95, &stats->p99};
    for (size_t i = 0; i < 5; i++) {
        if (!(*values[i] > 0))
            *values[i] = (double)NAN;
    }
}

static int on_point(void *arg, const struct med_search_step *step, const struct med_point *point,
                    enum med_serving_verdict verdict)
{
    struct verb *v = arg;
    med_progress_line_finish(&v->line);
    begin_line(v);
    say_point(v, step, point, verdict);
    warn_once(v, step, point);
    if (!is_row(point))
        return 0;
    struct med_serving_row row = point->row;
    drop_zeros(&row.tpot_ms);
    drop_zeros(&row.itl_ms);
    struct med_err err = {0};
    int rc = med_serving_file_add(&v->file, &row, &err);
    if (rc < 0)
        MED_ERROR("%s", err.text);
    return rc;
}

/* ---- the report ---- */

static const char *state_of(const struct verb *v, size_t size)
{
    const struct med_search_size *s = &v->search.sizes[size];
    if (isnan(s->idle_ttft_s))
        return s->stopped ? "no answer" : "not measured";
    if (s->met_per_s > 0)
        return isinf(s->broken_per_s) ? "at least" : "measured";
    return s->stopped ? "cannot" : s->points > 0 ? "below" : "alone only";
}

static int report_text(const struct verb *v, struct med_buf *out)
{
    int rc = med_buf_printf(out, "%7s %7s %7s | %10s %10s | %12s %12s %12s %7s  %s\n", "input",
                            "output", "share", "TTFT alone", "TPOT alone", "keeps req/s",
                            "breaks at", "full at", "points", "");
    double sum = 0;
    for (size_t i = 0; i < v->search.count; i++)
        sum += v->search.sizes[i].share;
    for (size_t i = 0; i < v->search.count && rc >= 0; i++) {
        const struct med_search_size *s = &v->search.sizes[i];
        char cells[5][24] = {"-", "-", "-", "-", "-"};
        const double values[] = {1e3 * s->idle_ttft_s, 1e3 * s->idle_tpot_s, s->met_per_s,
                                 s->broken_per_s, s->ceiling_per_s};
        for (size_t c = 0; c < 5; c++) {
            if (isfinite(values[c]) && values[c] > 0)
                (void)snprintf(cells[c], sizeof(cells[c]), c < 2 ? "%.1f ms" : "%.4g", values[c]);
        }
        rc = med_buf_printf(out, "%7g %7g %6.1f%% | %10s %10s | %12s %12s %12s %7zu  %s\n",
                            s->input_tokens, s->output_tokens, 100 * s->share / sum, cells[0],
                            cells[1], cells[2], cells[3], cells[4], s->points, state_of(v, i));
    }
    if (rc >= 0) {
        rc = med_buf_printf(out, "%s: %zu rows, %zu of them from before\n", v->options->output,
                            v->file.profile.serving_count, v->file.resumed);
    }
    const struct med_serving_errors *parts[] = {&v->fit.fitted, &v->fit.left_out};
    for (size_t i = 0; i < 2 && rc >= 0 && v->has_fit; i++) {
        if (parts[i]->rows > 0) {
            rc = med_buf_printf(out,
                                "step model (modelled), %zu rows %s: TTFT off by %.1f %% (at most "
                                "%.1f %%), TPOT by %.1f %% (at most %.1f %%)\n",
                                parts[i]->rows, i ? "left out of the fit" : "fitted",
                                100 * parts[i]->ttft_mean, 100 * parts[i]->ttft_max,
                                100 * parts[i]->tpot_mean, 100 * parts[i]->tpot_max);
        }
    }
    return rc;
}

static void put_known(struct med_json_writer *w, const char *key, double value)
{
    if (isfinite(value) && value > 0) {
        med_json_put_number(w, key, value);
    } else {
        med_json_put_null(w, key);
    }
}

static void put_errors(struct med_json_writer *w, const char *key,
                       const struct med_serving_errors *e)
{
    med_json_begin_object(w, key);
    med_json_put_integer(w, "rows", (int64_t)e->rows);
    put_known(w, "ttft_error_mean", e->ttft_mean);
    put_known(w, "ttft_error_max", e->ttft_max);
    put_known(w, "tpot_error_mean", e->tpot_mean);
    put_known(w, "tpot_error_max", e->tpot_max);
    med_json_end_object(w);
}

static int report_json(const struct verb *v, struct med_buf *out)
{
    struct med_json_writer w;
    med_json_writer_init(&w, out, true);
    med_json_begin_object(&w, NULL);
    med_json_put_string(&w, "profile", v->options->output);
    med_json_put_integer(&w, "rows", (int64_t)v->file.profile.serving_count);
    med_json_put_integer(&w, "rows_resumed", (int64_t)v->file.resumed);
    med_json_put_integer(&w, "requests_per_point", v->requests);
    med_json_put_number(&w, "seconds", (now_s((void *)v) - v->start_s) / v->clock.scale);
    med_json_put_bool(&w, "out_of_time", v->out_of_time);
    med_json_put_bool(&w, "interrupted", v->interrupted);
    med_json_put_number(&w, "work_share", v->sizes.work_share);
    med_json_put_integer(&w, "sizes_too_long", (int64_t)v->sizes.too_long);
    med_json_begin_array(&w, "objectives");
    for (size_t i = 0; i < v->objectives.count; i++) {
        char text[64];
        med_objective_format(&v->objectives.items[i], text, sizeof(text));
        med_json_put_string(&w, NULL, text);
    }
    med_json_end_array(&w);
    med_json_begin_array(&w, "sizes");
    for (size_t i = 0; i < v->search.count; i++) {
        const struct med_search_size *s = &v->search.sizes[i];
        med_json_begin_object(&w, NULL);
        med_json_put_number(&w, "input_tokens", s->input_tokens);
        med_json_put_number(&w, "output_tokens", s->output_tokens);
        med_json_put_number(&w, "share", s->share);
        med_json_put_string(&w, "state", state_of(v, i));
        put_known(&w, "alone_ttft_ms", 1e3 * s->idle_ttft_s);
        put_known(&w, "alone_tpot_ms", 1e3 * s->idle_tpot_s);
        put_known(&w, "keeps_per_s", s->met_per_s);
        put_known(&w, "breaks_per_s", s->broken_per_s);
        put_known(&w, "full_per_s", s->ceiling_per_s);
        med_json_put_integer(&w, "points", (int64_t)s->points);
        med_json_end_object(&w);
    }
    med_json_end_array(&w);
    if (v->has_fit) {
        med_json_begin_object(&w, "fit");
        put_errors(&w, "fitted", &v->fit.fitted);
        put_errors(&w, "left_out", &v->fit.left_out);
        med_json_end_object(&w);
    }
    med_json_end_object(&w);
    return med_json_writer_finish(&w);
}

static int report(const struct verb *v, struct med_err *err)
{
    struct med_buf out;
    med_buf_init(&out, REPORT_MAX_BYTES);
    int rc = v->options->json ? report_json(v, &out) : report_text(v, &out);
    rc = rc < 0 ? med_err_set(err, rc, "memory for the report is exhausted")
                : med_output_print(&out, err);
    med_buf_release(&out);
    return rc;
}

/* ---- the course of things ---- */

/* What was measured, how, and from where: rows of another text do not belong to this profile. */
static void describe(struct verb *v)
{
    const struct med_serving_options *o = v->options;
    char host[128] = "";
    if (gethostname(host, sizeof(host) - 1) != 0)
        host[0] = '\0';
    (void)snprintf(v->text, sizeof(v->text),
                   "medley profile --api %s of %s%s%s, driven from %s: open loop, Poisson "
                   "arrivals, warm-up and cool-down cut; %s",
                   o->api, is_grpc(o) ? o->target : o->url, o->model ? ", model " : "",
                   o->model ? o->model : "", host[0] ? host : "a machine without a name",
                   o->same_prompts ? "all prompts of a size alike" : "no two prompts alike");
}

static int prepare(struct verb *v, struct med_err *err)
{
    const struct med_serving_options *o = v->options;
    if (!o->output)
        return med_err_set(err, MED_E_USAGE, "--output is missing: expected the profile's file");
    if (o->precision < PRECISION_MIN || o->points_max > MED_SEARCH_POINTS_MAX) {
        return med_err_set(err, MED_E_USAGE,
                           "with --api expected a --precision of at least %g, and --points of at "
                           "most %d",
                           PRECISION_MIN, MED_SEARCH_POINTS_MAX);
    }
    int rc = med_objectives_parse(o->slo, &v->objectives, err);
    if (rc < 0)
        return rc;
    v->requests = o->requests > 0 ? o->requests : med_serving_requests(&v->objectives);
    describe(v);
    const struct med_serving_file_config file = {
        .path = o->output,
        .like = o->like,
        .worker_type = o->name,
        .gpu = o->gpu,
        .dtype = o->dtype,
        .engine = o->engine,
        .gpus_per_worker = o->gpus,
        .text = v->text,
        .fresh = o->fresh,
    };
    rc = med_serving_file_open(&file, &v->file, err);
    if (rc < 0)
        return rc;
    med_search_init(&v->search, o->precision, v->requests, o->points_max);
    const struct med_sizes_config sizes = {
        .sizes = o->sizes,
        .workload = o->workload,
        .data_dir = o->data_dir,
        .count_max = o->buckets_max,
        .model_len_max = v->file.profile.limits.model_len_max,
    };
    rc = med_sizes_add(&sizes, &v->search, &v->sizes, err);
    if (rc >= 0) {
        const struct med_profile *p = &v->file.profile;
        (void)med_serving_resume(&v->search, &v->objectives, p->serving, p->serving_count);
    }
    return rc;
}

static int measure(struct verb *v, struct med_err *err)
{
    const struct med_serving_options *o = v->options;
    int64_t own = v->file.profile.model.vocab;
    int64_t vocabulary = o->vocabulary > 0 ? o->vocabulary : own;
    int rc =
        open_server(v, (uint32_t)(vocabulary > VOCABULARY_MIN ? vocabulary : VOCABULARY_MIN), err);
    if (rc < 0)
        return rc;
    say_facts(v);
    say_estimate(v);
    const struct med_serving_config config = {
        .objectives = &v->objectives,
        .requests = v->requests,
        .seconds = o->minutes > 0 ? 60 * o->minutes * v->clock.scale : INFINITY,
        .measure = med_server_measure,
        .measure_arg = v->server,
        .now_s = now_s,
        .now_arg = v,
        .on_point = on_point,
        .point_arg = v,
    };
    begin_line(v);
    rc = med_serving_run(&config, &v->search, err);
    med_progress_line_finish(&v->line);
    v->interrupted = stop_requested != 0;
    for (size_t i = 0; i < v->search.count; i++)
        v->out_of_time = v->out_of_time || (!v->interrupted && !med_search_is_done(&v->search, i));
    return v->interrupted ? 0 : rc;
}

static int fit(struct verb *v, struct med_err *err)
{
    int rc = med_fit_serving(&v->file.profile, v->file.source, &v->fit, err);
    if (rc >= 0)
        rc = med_fit_serving_keep(&v->file.profile, &v->fit, v->file.source, err);
    if (rc >= 0)
        rc = med_serving_file_save(&v->file, err);
    v->has_fit = rc >= 0;
    return rc;
}

static int run(struct verb *v, struct med_err *err)
{
    int rc = prepare(v, err);
    if (rc < 0)
        return rc;
    if (v->sizes.too_long > 0) {
        MED_WARN("%zu sizes are longer than the longest sequence of %" PRId64
                 " tokens and left out",
                 v->sizes.too_long, v->file.profile.limits.model_len_max);
    }
    if (!v->options->dry_run) {
        catch_signals();
        rc = measure(v, err);
    } else {
        say_estimate(v);
    }
    bool fits = rc >= 0 && v->options->fit && !v->options->dry_run;
    int fit_rc = fits ? fit(v, err) : 0;
    if (rc >= 0)
        rc = report(v, fit_rc < 0 ? NULL : err);
    if (rc >= 0)
        rc = fit_rc;
    if (rc >= 0 && v->out_of_time && !v->options->dry_run)
        MED_WARN("the time is spent before every size has its rate: the same command goes on");
    return rc < 0 ? rc : v->interrupted ? 1 : 0;
}

int med_serving_verb(const struct med_serving_options *options)
{
    struct med_err err = {0};
    struct verb *v = med_calloc(1, sizeof(*v));
    int rc;
    if (!v) {
        rc = med_err_set(&err, MED_E_NOMEM, "memory is exhausted");
    } else {
        v->options = options;
        med_clock_init_real(&v->clock, options->time_scale);
        v->start_s = now_s(v);
        rc = run(v, &err);
        med_server_free(v->server);
        med_serving_file_release(&v->file);
        med_free(v);
    }
    if (rc < 0) {
        (void)fprintf(stderr, "medley profile: %s\n", err.text[0] ? err.text : med_err_text(rc));
        return med_err_exit_status(rc);
    }
    return rc;
}
