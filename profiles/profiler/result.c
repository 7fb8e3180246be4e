/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The profile that a journal makes (see result.h).
 * thread: main.  Measures nothing.
 */
#include "profiles/profiler/result.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/buf.h"
#include "profiles/latency.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    SOURCE_STEPS,
    SOURCE_LIMITS,
    SOURCE_FIT,
    PROFILE_BYTES_MAX = 64 << 20,
    PATH_BYTES = 4096,
    REGION_BYTES = 32
};

/* ---- rows ----------------------------------------------------------------------------------- */

static int fill_rows(struct med_profile_result *r, const struct med_journal *j, struct med_err *err)
{
    r->rows = med_calloc(j->count + 1, sizeof r->rows[0]);
    if (!r->rows)
        return med_err_set(err, MED_E_NOMEM, "no memory for %zu rows", j->count);
    r->profile.steps = r->rows;
    for (size_t i = 0; i < j->count; i++) {
        const struct med_journal_point *p = &j->points[i];
        if (p->impossible)
            continue;
        r->rows[r->profile.step_count++] =
            (struct med_step_row){.prefill_tokens = p->point.prefill_tokens,
                                  .prefill_context = p->point.prefill_context,
                                  .decode_sequences = p->point.decode_sequences,
                                  .decode_context_tokens = p->decode_context_tokens,
                                  .ms_p50 = p->ms_p50,
                                  .ms_p99 = p->ms_p99,
                                  .source = SOURCE_STEPS};
        r->seconds[med_step_region_of(&r->rows[r->profile.step_count - 1])] += p->seconds;
    }
    if (r->profile.step_count == 0)
        return med_err_set(err, MED_E_INVALID, "nothing was measured, so there is no profile");
    return 0;
}

/* ---- names ---------------------------------------------------------------------------------- */

/* "NVIDIA H100 80GB HBM3" to "H100": as catalogues name what can be rented. */
static void name_gpu(struct med_profile_result *r, const struct med_profiled_facts *f,
                     const char *given)
{
    const char *name = f->gpu;
    if (given) {
        (void)snprintf(r->gpu, sizeof r->gpu, "%s", given);
        return;
    }
    if (name[0] == '\0') {
        (void)snprintf(r->gpu, sizeof r->gpu, "%s", f->backend);
        return;
    }
    bool is_driver_name = strncmp(name, "NVIDIA ", 7) == 0;
    (void)snprintf(r->gpu, sizeof r->gpu, "%s", is_driver_name ? name + 7 : name);
    if (is_driver_name) {
        r->gpu[strcspn(r->gpu, " ")] = '\0';
        /* A100-SXM4-80GB: catalogues tell its memory, not its socket. */
        char *socket = strstr(r->gpu, "-SXM4");
        if (!socket)
            socket = strstr(r->gpu, "-PCIE");
        if (socket)
            memmove(socket, socket + 5, strlen(socket + 5) + 1);
    }
}

/* "h100-llama-2-7b-bf16"; what an emulated worker is, its profile has said. */
static void name_worker_type(struct med_profile_result *r, const struct med_profiled_facts *f,
                             const char *given)
{
    static const char *const dtypes[][2] = {
        {"bfloat16", "bf16"}, {"float16", "fp16"}, {"float32", "fp32"}};
    const char *dtype = f->dtype;
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(dtype, dtypes[i][0]) == 0)
            dtype = dtypes[i][1];
    }
    if (given || strcmp(f->backend, "emulated") == 0) {
        (void)snprintf(r->worker_type, sizeof r->worker_type, "%s", given ? given : f->worker_type);
        return;
    }
    (void)snprintf(r->worker_type, sizeof r->worker_type, "%s-%s-%s", r->gpu, f->model, dtype);
    for (char *c = r->worker_type; *c != '\0'; c++) {
        if (*c >= 'A' && *c <= 'Z')
            *c = (char)(*c - 'A' + 'a');
    }
}

static void fill_names(struct med_profile_result *r, const struct med_journal *j,
                       const struct med_profiler_options *o)
{
    const struct med_profiled_facts *f = &j->facts;
    struct med_profile *p = &r->profile;
    (void)snprintf(r->engine, sizeof r->engine, "medley-%s", f->version);
    name_gpu(r, f, o->gpu_name);
    name_worker_type(r, f, o->name);
    p->worker_type = r->worker_type;
    p->gpu = r->gpu;
    p->gpus_per_worker = f->gpus;
    p->dtype = (char *)f->dtype;
    p->engine = r->engine;
    p->model = (struct med_model_shape){.name = (char *)f->model,
                                        .parameters = f->parameters,
                                        .layers = f->layers,
                                        .hidden = f->hidden,
                                        .heads = f->heads,
                                        .kv_heads = f->kv_heads,
                                        .head_dim = f->head_dim,
                                        .intermediate = f->intermediate,
                                        .vocab = f->vocab,
                                        .weight_bytes = f->weight_bytes,
                                        .kv_bytes_per_token = f->kv_bytes_per_token};
    med_steps_limits(f, &p->limits);
}

/* ---- sources -------------------------------------------------------------------------------- */

/* Appends to a text that is cut at its maximum. */
static void say(char text[MED_RESULT_TEXT], const char *fmt, ...) MED_PRINTF(2, 3);
static void say(char text[MED_RESULT_TEXT], const char *fmt, ...)
{
    size_t length = strlen(text);
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text + length, MED_RESULT_TEXT - length, fmt, args);
    va_end(args);
}

static void say_value(char *text, const char *what, int64_t value, const char *unit)
{
    if (value > 0) {
        say(text, ", %s %" PRId64 " %s", what, value, unit);
    } else {
        say(text, ", %s unknown", what);
    }
}

static void clock_range(const struct med_journal *j, int64_t *ret_low, int64_t *ret_high)
{
    *ret_low = *ret_high = 0;
    for (size_t i = 0; i < j->count; i++) {
        int64_t clock = j->points[i].clock_mhz;
        if (clock <= 0)
            continue;
        *ret_low = *ret_low == 0 || clock < *ret_low ? clock : *ret_low;
        *ret_high = clock > *ret_high ? clock : *ret_high;
    }
}

static void say_steps(char *text, const struct med_journal *j, const struct med_profiled_facts *now)
{
    const struct med_profiled_facts *f = &j->facts;
    int64_t low, high;
    say(text, "medley profile %s: iterations of the %s engine, step to step; %s", f->version,
        f->backend, f->device[0] != '\0' ? f->device : f->backend);
    say(text, ", driver %s", f->driver[0] != '\0' ? f->driver : "unknown");
    say_value(text, "SM clock at most", f->clock_max_mhz, "MHz");
    clock_range(j, &low, &high);
    if (low > 0)
        say(text, " (while measuring %" PRId64 " to %" PRId64 ")", low, high);
    say_value(text, "memory clock", f->memory_clock_mhz, "MHz");
    say_value(text, "power limit", f->power_limit_w, "W");
    say_value(text, "at the end", now->temperature_c, "degrees C");
    say(text, "; KV cache in %s; command: %s", f->kv_dtype, j->command);
}

static void fill_sources(struct med_profile_result *r, const struct med_journal *j,
                         const struct med_profiled_facts *now)
{
    const struct med_profiled_facts *f = &j->facts;
    struct med_profile *p = &r->profile;
    const bool measured = f->read_bytes_per_s > 0 && f->flops_per_s > 0;
    say_steps(r->texts[SOURCE_STEPS], j, now);
    if (measured) {
        say(r->texts[SOURCE_LIMITS],
            "measured at the worker's start: reading memory (spread %.1f %%) and dense products "
            "(spread %.1f %%); promised: %.0f GB/s, %.0f TFLOP/s",
            100 * f->read_spread, 100 * f->flops_spread, f->peak_bytes_per_s / 1e9,
            f->peak_flops_per_s / 1e12);
    } else {
        say(r->texts[SOURCE_LIMITS], "what its maker promises; not measured (a worker does so with "
                                     "--measure-limits)");
    }
    static const char *const ids[] = {"measured", "limits", "fit"};
    for (int i = SOURCE_STEPS; i <= SOURCE_FIT; i++) {
        r->sources[i] = (struct med_source){.id = (char *)ids[i],
                                            .kind = MED_SOURCE_MEASURED,
                                            .text = r->texts[i],
                                            .date = (char *)j->date,
                                            .fit_error = NAN};
    }
    if (!measured)
        r->sources[SOURCE_LIMITS].kind = MED_SOURCE_PUBLISHED;
    p->sources = r->sources;
    p->source_count = SOURCE_FIT + 1;
    p->hardware = (struct med_hardware){
        .memory_bytes = f->memory_bytes,
        .bandwidth_bytes_per_s = measured ? f->read_bytes_per_s : f->peak_bytes_per_s,
        .matrix_flops_per_s = measured ? f->flops_per_s : f->peak_flops_per_s,
        .source = (char *)ids[SOURCE_LIMITS]};
}

/* ---- the fit -------------------------------------------------------------------------------- */

static int fit(struct med_profile_result *r, struct med_err *err)
{
    struct med_profile *p = &r->profile;
    const struct med_fit_input input = {.rows = p->steps,
                                        .row_count = p->step_count,
                                        .model = &p->model,
                                        .hardware = &p->hardware,
                                        .gpus_per_worker = p->gpus_per_worker,
                                        .limits = &p->limits};
    struct med_fit made;
    int rc = med_fit_steps(&input, &made, err);
    if (rc < 0)
        return rc;
    p->has_step_model = true;
    p->step_model = made.model;
    p->step_model.source = r->sources[SOURCE_FIT].id;
    p->step_error_count = made.error_count;
    memcpy(p->step_errors, made.errors, sizeof made.errors);
    char *text = r->texts[SOURCE_FIT];
    say(text, "the physical form fitted to the %zu measured iterations", p->step_count);
    if (made.unknown & MED_FIT_NO_DECODE)
        say(text, "; no decodes were measured: their rates are the device's limits");
    if (made.unknown & MED_FIT_NO_PREFILL)
        say(text, "; no large prefill was measured: the matrix rate is the device's limit");
    if (made.unknown & MED_FIT_NO_ATTENTION)
        say(text, "; prefills are too short to tell the rate of attention");
    if (made.unknown & MED_FIT_NO_MIXED)
        say(text, "; no prefill was measured beside decodes");
    r->sources[SOURCE_FIT].kind = MED_SOURCE_MODELLED;
    r->sources[SOURCE_FIT].fit_error = made.model.fit_error;
    return 0;
}

/* ---- use ------------------------------------------------------------------------------------ */

static double row_bytes(const struct med_profile *p, const struct med_step_row *row)
{
    return p->model.weight_bytes + p->model.kv_bytes_per_token *
                                       (double)(row->decode_context_tokens + row->prefill_context);
}

static double row_flops(const struct med_profile *p, const struct med_step_row *row)
{
    double pairs = (double)med_step_pairs(row->prefill_tokens, row->prefill_context) +
                   (double)row->decode_context_tokens;
    const struct med_model_shape *m = &p->model;
    double attention = 2 * (double)(m->hidden * m->head_dim) * (double)(m->heads + m->kv_heads);
    double layer = attention + 3 * (double)(m->hidden * m->intermediate);
    double sampled = (double)(row->decode_sequences + (row->prefill_tokens > 0));
    return 2 * (double)m->layers * layer * (double)(row->prefill_tokens + row->decode_sequences) +
           2 * (double)(m->hidden * m->vocab) * sampled +
           4 * (double)(m->layers * m->heads * m->head_dim) * pairs;
}

static void find_use(struct med_profile_result *r)
{
    const struct med_profile *p = &r->profile;
    double gpus = (double)p->gpus_per_worker;
    for (size_t i = 0; i < p->step_count; i++) {
        const struct med_step_row *row = &p->steps[i];
        double seconds = row->ms_p50 / 1e3;
        double mbu = row_bytes(p, row) / seconds / (p->hardware.bandwidth_bytes_per_s * gpus);
        double mfu = row_flops(p, row) / seconds / (p->hardware.matrix_flops_per_s * gpus);
        if (mbu > r->use.mbu) {
            r->use.mbu = mbu;
            r->use.mbu_row = *row;
        }
        if (mfu > r->use.mfu) {
            r->use.mfu = mfu;
            r->use.mfu_row = *row;
        }
    }
}

int med_profile_result_make(struct med_profile_result *result, const struct med_journal *journal,
                            const struct med_profiled_facts *now,
                            const struct med_profiler_options *options, struct med_err *err)
{
    *result = (struct med_profile_result){0};
    int rc = fill_rows(result, journal, err);
    if (rc >= 0) {
        fill_names(result, journal, options);
        fill_sources(result, journal, now);
        if (!(result->profile.hardware.bandwidth_bytes_per_s > 0) ||
            !(result->profile.hardware.matrix_flops_per_s > 0)) {
            rc = med_err_set(err, MED_E_INVALID,
                             "neither the maker's nor measured rates of %s are known, expected a "
                             "worker that was started with --measure-limits",
                             result->gpu);
        }
    }
    if (rc >= 0)
        rc = fit(result, err);
    if (rc >= 0) {
        find_use(result);
    } else {
        med_profile_result_release(result);
    }
    return rc;
}

void med_profile_result_release(struct med_profile_result *result)
{
    med_free(result->rows);
    *result = (struct med_profile_result){0};
}

/* ---- writing -------------------------------------------------------------------------------- */

static int write_bytes(const char *path, const struct med_buf *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    int rc = 0;
    for (size_t at = 0; rc == 0 && at < text->length;) {
        ssize_t wrote = write(fd, text->data + at, text->length - at);
        if (wrote >= 0) {
            at += (size_t)wrote;
        } else if (errno != EINTR) {
            rc = -errno;
        }
    }
    if (rc == 0 && fsync(fd) < 0)
        rc = -errno;
    if (close(fd) < 0 && rc == 0)
        rc = -errno;
    return rc;
}

/* Nobody is given a profile that this program cannot read. */
static int check_written(const char *path, struct med_err *err)
{
    struct med_profile back;
    int rc = med_profile_read_file(path, &back, err);
    if (rc >= 0)
        med_profile_release(&back);
    return rc;
}

int med_profile_result_write(const struct med_profile_result *result, const char *path,
                             struct med_err *err)
{
    struct med_buf text;
    struct med_json_writer w;
    char beside[PATH_BYTES];
    if (snprintf(beside, sizeof beside, "%s.new", path) >= (int)sizeof beside)
        return med_err_set(err, MED_E_USAGE, "--output: the path is too long");
    med_buf_init(&text, PROFILE_BYTES_MAX);
    med_json_writer_init(&w, &text, true);
    med_profile_write(&w, NULL, &result->profile);
    int rc = med_json_writer_finish(&w);
    if (rc >= 0)
        rc = write_bytes(beside, &text);
    med_buf_release(&text);
    if (rc < 0)
        return med_err_set(err, MED_E_IO, "%s: %s", beside, med_err_text(rc));
    rc = check_written(beside, err);
    if (rc >= 0 && rename(beside, path) < 0)
        rc = med_err_set(err, MED_E_IO, "%s: %s", path, strerror(errno));
    return rc;
}

/* ---- telling -------------------------------------------------------------------------------- */

static const char *region_text(enum med_step_region region)
{
    static const char *const texts[] = {[MED_STEP_DECODE_SMALL_SHORT] = "decode, few, short",
                                        [MED_STEP_DECODE_SMALL_LONG] = "decode, few, long",
                                        [MED_STEP_DECODE_LARGE_SHORT] = "decode, many, short",
                                        [MED_STEP_DECODE_LARGE_LONG] = "decode, many, long",
                                        [MED_STEP_PREFILL_SHORT] = "prefill, short",
                                        [MED_STEP_PREFILL_LONG] = "prefill, long",
                                        [MED_STEP_MIXED] = "prefill beside decodes"};
    return texts[region];
}

static void print_row(const struct med_step_row *row, char *out, size_t out_bytes)
{
    int length = 0;
    out[0] = '\0';
    if (row->prefill_tokens > 0) {
        length = snprintf(out, out_bytes, "prefill of %" PRId64 " tokens%s", row->prefill_tokens,
                          row->decode_sequences > 0 ? " beside " : "");
    }
    if (row->decode_sequences > 0) {
        (void)snprintf(out + length, out_bytes - (size_t)length,
                       "%" PRId64 " decodes of %" PRId64 " tokens", row->decode_sequences,
                       row->decode_context_tokens / row->decode_sequences);
    }
}

static const char *outcome_text(const struct med_steps_outcome *o)
{
    return o->interrupted   ? "interrupted; the same command goes on"
           : o->out_of_time ? "the budget is spent; the same command goes on"
           : o->complete    ? "nothing is left that is worth measuring"
                            : "as many points as were asked for";
}

void med_profile_result_text(const struct med_profile_result *result,
                             const struct med_steps_outcome *outcome, const char *path)
{
    const struct med_profile *p = &result->profile;
    const char *roof =
        p->sources[SOURCE_LIMITS].kind == MED_SOURCE_MEASURED ? "measured" : "promised";
    char row[96];
    (void)printf("%s: %s, %" PRId64 " x %s, %s\n", path, p->worker_type, p->gpus_per_worker, p->gpu,
                 p->dtype);
    (void)printf("points        %zu (%zu in this run of %.0f s): %s\n", p->step_count,
                 outcome->measured - outcome->impossible, outcome->seconds, outcome_text(outcome));
    (void)printf("limits        %.0f GB/s, %.1f TFLOP/s (%s)\n",
                 p->hardware.bandwidth_bytes_per_s / 1e9, p->hardware.matrix_flops_per_s / 1e12,
                 roof);
    print_row(&result->use.mbu_row, row, sizeof row);
    (void)printf("memory use    %.1f %% of it at most: %s in %.3f ms\n", 100 * result->use.mbu, row,
                 result->use.mbu_row.ms_p50);
    print_row(&result->use.mfu_row, row, sizeof row);
    (void)printf("matrix use    %.1f %% of it at most: %s in %.3f ms\n", 100 * result->use.mfu, row,
                 result->use.mfu_row.ms_p50);
    (void)printf("form          mean error %.1f %%, at most %.1f %%\n",
                 100 * p->step_model.fit_error, 100 * p->step_model.fit_error_max);
    if (p->step_error_count > 0) {
        (void)printf("\n%-24s %5s %6s  %-20s  %s\n", "each point from others", "rows", "time",
                     "form: mean, most", "table: mean, most");
    }
    double all = 0;
    for (int i = 0; i < MED_STEP_REGION_COUNT; i++)
        all += result->seconds[i];
    for (size_t i = 0; i < p->step_error_count; i++) {
        const struct med_step_error *e = &p->step_errors[i];
        (void)printf("%-24s %5" PRId64 " %4.0f %%  %6.2f %% %7.2f %%", region_text(e->region),
                     e->rows, 100 * result->seconds[e->region] / (all > 0 ? all : 1),
                     100 * e->form_mean, 100 * e->form_max);
        if (e->table_rows > 0)
            (void)printf("     %6.2f %% %7.2f %%", 100 * e->table_mean, 100 * e->table_max);
        (void)printf("\n");
    }
}

void med_profile_result_json(const struct med_profile_result *result,
                             const struct med_steps_outcome *outcome, const char *path,
                             struct med_json_writer *w)
{
    med_json_begin_object(w, NULL);
    med_json_put_string(w, "output", path);
    med_json_put_integer(w, "points", (int64_t)result->profile.step_count);
    med_json_put_integer(w, "measured", (int64_t)outcome->measured);
    med_json_put_integer(w, "before", (int64_t)outcome->before);
    med_json_put_integer(w, "impossible", (int64_t)outcome->impossible);
    med_json_put_number(w, "seconds", outcome->seconds);
    med_json_put_bool(w, "complete", outcome->complete);
    med_json_put_bool(w, "out_of_time", outcome->out_of_time);
    med_json_put_bool(w, "interrupted", outcome->interrupted);
    med_json_put_number(w, "mbu", result->use.mbu);
    med_json_put_number(w, "mfu", result->use.mfu);
    med_json_begin_array(w, "regions");
    for (int i = 0; i < MED_STEP_REGION_COUNT; i++) {
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "region", region_text((enum med_step_region)i));
        med_json_put_number(w, "seconds", result->seconds[i]);
        med_json_end_object(w);
    }
    med_json_end_array(w);
    med_profile_write(w, "profile", &result->profile);
    med_json_end_object(w);
}
