/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The profile of serving points as a file, see serving_file.h.
 * thread: main.
 */
#include "profiles/profiler/serving_file.h"

#include "allocator/output.h"
#include "base/alloc.h"
#include "base/buf.h"
#include "base/json.h"
#include "profiles/profiler/fit_serving.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char source_id[] = "serving";
enum {
    FILE_BYTES_MAX = 64 << 20
};

static int no_memory(struct med_err *err)
{
    return med_err_set(err, MED_E_NOMEM, "memory is exhausted");
}

static int replace(char **field, const char *text)
{
    if (!text)
        return 0;
    char *copy = med_strdup(text);
    if (!copy)
        return MED_E_NOMEM;
    med_free(*field);
    *field = copy;
    return 0;
}

/* Rows and what was concluded from them go; of the sources the hardware's stays. */
static void strip(struct med_profile *p)
{
    size_t keep = 0;
    for (size_t i = 0; i < p->source_count; i++) {
        if (strcmp(p->sources[i].id, p->hardware.source) == 0)
            keep = i;
    }
    struct med_source kept = p->sources[keep];
    for (size_t i = 0; i < p->source_count; i++) {
        if (i == keep)
            continue;
        med_free(p->sources[i].id);
        med_free(p->sources[i].text);
        med_free(p->sources[i].licence);
        med_free(p->sources[i].date);
    }
    p->sources[0] = kept;
    p->source_count = 1;
    for (size_t i = 0; i < p->validation_count; i++) {
        med_free(p->validations[i].against);
        med_free(p->validations[i].text);
    }
    med_free(p->validations);
    p->validations = NULL;
    p->validation_count = 0;
    for (size_t i = 0; i < p->serving_count; i++)
        med_free(p->serving[i].arrival);
    med_free(p->serving);
    p->serving = NULL;
    p->serving_count = 0;
    med_free(p->steps);
    p->steps = NULL;
    p->step_count = 0;
    med_free(p->step_model.source);
    p->step_model = (struct med_step_model){0};
    p->has_step_model = false;
}

static int add_source(struct med_serving_file *file, const char *text)
{
    struct med_profile *p = &file->profile;
    struct med_source *grown =
        med_realloc_array(p->sources, p->source_count + 1, sizeof(*p->sources));
    if (!grown)
        return MED_E_NOMEM;
    p->sources = grown;
    char date[16] = "";
    time_t now = time(NULL);
    struct tm utc;
    if (gmtime_r(&now, &utc))
        (void)strftime(date, sizeof(date), "%Y-%m-%d", &utc);
    struct med_source source = {.id = med_strdup(source_id),
                                .kind = MED_SOURCE_MEASURED,
                                .text = med_strdup(text),
                                .date = med_strdup(date),
                                .fit_error = (double)NAN};
    file->source = p->source_count;
    p->sources[p->source_count++] = source;
    return source.id && source.text && source.date ? 0 : MED_E_NOMEM;
}

static int name_it(const struct med_serving_file_config *c, struct med_profile *p)
{
    int rc = replace(&p->worker_type, c->worker_type);
    if (rc >= 0)
        rc = replace(&p->gpu, c->gpu);
    if (rc >= 0)
        rc = replace(&p->dtype, c->dtype);
    if (rc >= 0)
        rc = replace(&p->engine, c->engine);
    if (c->gpus_per_worker > 0)
        p->gpus_per_worker = c->gpus_per_worker;
    return rc;
}

static int begin(const struct med_serving_file_config *c, struct med_serving_file *file,
                 struct med_err *err)
{
    if (!c->like) {
        return med_err_set(err, MED_E_USAGE,
                           "--like is missing: expected a profile whose model, hardware and limits "
                           "are the server's");
    }
    int rc = med_profile_read_file(c->like, &file->profile, err);
    if (rc < 0)
        return rc;
    strip(&file->profile);
    if (strcmp(file->profile.sources[0].id, source_id) == 0) {
        /* The hardware of a profile that was itself made here. */
        med_free(file->profile.sources[0].id);
        file->profile.sources[0].id = med_strdup("hardware");
        med_free(file->profile.hardware.source);
        file->profile.hardware.source = med_strdup("hardware");
        if (!file->profile.sources[0].id || !file->profile.hardware.source)
            return no_memory(err);
    }
    if (name_it(c, &file->profile) < 0 || add_source(file, c->text) < 0)
        return no_memory(err);
    return 0;
}

static int differs(const struct med_serving_file_config *c, const char *what, const char *found,
                   const char *expected, struct med_err *err)
{
    return med_err_set(err, MED_E_INVALID,
                       "%s: its %s is \"%s\", expected \"%s\": one profile is of one server and "
                       "machine; give another --output, or --fresh to begin anew",
                       c->path, what, found, expected);
}

static int go_on(const struct med_serving_file_config *c, struct med_serving_file *file,
                 struct med_err *err)
{
    int rc = med_profile_read_file(c->path, &file->profile, err);
    if (rc < 0)
        return rc;
    const struct med_profile *p = &file->profile;
    for (file->source = 0; file->source < p->source_count; file->source++) {
        if (strcmp(p->sources[file->source].id, source_id) == 0)
            break;
    }
    if (file->source == p->source_count)
        return differs(c, "source", "another profile's", source_id, err);
    if (strcmp(p->sources[file->source].text, c->text) != 0)
        return differs(c, "source", p->sources[file->source].text, c->text, err);
    if (c->gpu && strcmp(c->gpu, p->gpu) != 0)
        return differs(c, "gpu", p->gpu, c->gpu, err);
    if (c->engine && strcmp(c->engine, p->engine) != 0)
        return differs(c, "engine", p->engine, c->engine, err);
    if (c->worker_type && strcmp(c->worker_type, p->worker_type) != 0)
        return differs(c, "worker_type", p->worker_type, c->worker_type, err);
    file->resumed = p->serving_count;
    med_fit_serving_drop(&file->profile); /* more rows are to come */
    return 0;
}

int med_serving_file_open(const struct med_serving_file_config *config,
                          struct med_serving_file *ret_file, struct med_err *err)
{
    struct med_serving_file file = {.path = med_strdup(config->path)};
    if (!file.path)
        return no_memory(err);
    bool there = !config->fresh && access(config->path, F_OK) == 0;
    int rc = there ? go_on(config, &file, err) : begin(config, &file, err);
    if (rc < 0) {
        med_serving_file_release(&file);
        return rc;
    }
    *ret_file = file;
    return 0;
}

int med_serving_file_add(struct med_serving_file *file, const struct med_serving_row *row,
                         struct med_err *err)
{
    struct med_profile *p = &file->profile;
    struct med_serving_row *grown =
        med_realloc_array(p->serving, p->serving_count + 1, sizeof(*p->serving));
    if (!grown)
        return no_memory(err);
    p->serving = grown;
    struct med_serving_row copy = *row;
    copy.source = file->source;
    copy.arrival = med_strdup(row->arrival);
    if (!copy.arrival)
        return no_memory(err);
    p->serving[p->serving_count++] = copy;
    return med_serving_file_save(file, err);
}

int med_serving_file_save(const struct med_serving_file *file, struct med_err *err)
{
    struct med_buf text, path;
    med_buf_init(&text, FILE_BYTES_MAX);
    med_buf_init(&path, 1 << 16);
    struct med_json_writer w;
    med_json_writer_init(&w, &text, true);
    med_profile_write(&w, NULL, &file->profile);
    int rc = med_json_writer_finish(&w);
    if (rc >= 0)
        rc = med_buf_printf(&path, "%s.part", file->path);
    if (rc < 0) {
        (void)no_memory(err);
    } else {
        rc = med_output_write_file(path.data, &text, err);
        if (rc >= 0 && rename(path.data, file->path) != 0) {
            rc = med_err_set(err, MED_E_IO, "%s: cannot put it in place: %s", file->path,
                             strerror(errno));
        }
    }
    med_buf_release(&text);
    med_buf_release(&path);
    return rc;
}

void med_serving_file_release(struct med_serving_file *file)
{
    med_free(file->path);
    med_profile_release(&file->profile);
    *file = (struct med_serving_file){0};
}
