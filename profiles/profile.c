/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a profile in memory: copy and release.
 *
 * A profile is a tree of owned strings and flat arrays.  A copy first takes the plain values, then
 * replaces every pointer by an owned one; on failure what was replaced is released, and nothing of
 * the original is touched.  Runs on any thread.  Reading and writing are in profile_read.c and
 * profile_write.c.
 */
#include "profiles/profile.h"

#include "base/alloc.h"

#include <string.h>

const char *med_step_region_name(enum med_step_region region)
{
    static const char *const names[MED_STEP_REGION_COUNT] = {"decode-small-short",
                                                             "decode-small-long",
                                                             "decode-large-short",
                                                             "decode-large-long",
                                                             "prefill-short",
                                                             "prefill-long",
                                                             "mixed"};
    return names[region];
}

enum med_step_region med_step_region_of(const struct med_step_row *row)
{
    if (row->prefill_tokens > 0) {
        if (row->decode_sequences > 0) {
            return MED_STEP_MIXED;
        }
        return row->prefill_tokens <= MED_STEP_SHORT_PREFILL ? MED_STEP_PREFILL_SHORT
                                                             : MED_STEP_PREFILL_LONG;
    }
    bool small = row->decode_sequences <= MED_STEP_SMALL_BATCH;
    bool brief = row->decode_context_tokens <= MED_STEP_SHORT_CONTEXT * row->decode_sequences;
    if (small) {
        return brief ? MED_STEP_DECODE_SMALL_SHORT : MED_STEP_DECODE_SMALL_LONG;
    }
    return brief ? MED_STEP_DECODE_LARGE_SHORT : MED_STEP_DECODE_LARGE_LONG;
}

void med_profile_release(struct med_profile *profile)
{
    if (profile == NULL) {
        return;
    }
    med_free(profile->worker_type);
    med_free(profile->gpu);
    med_free(profile->dtype);
    med_free(profile->engine);
    med_free(profile->model.name);
    med_free(profile->hardware.source);
    med_free(profile->step_model.source);
    for (size_t i = 0; i < profile->source_count; i++) {
        med_free(profile->sources[i].id);
        med_free(profile->sources[i].text);
        med_free(profile->sources[i].licence);
        med_free(profile->sources[i].date);
    }
    med_free(profile->sources);
    for (size_t i = 0; i < profile->validation_count; i++) {
        med_free(profile->validations[i].against);
        med_free(profile->validations[i].text);
    }
    med_free(profile->validations);
    med_free(profile->steps);
    for (size_t i = 0; i < profile->serving_count; i++) {
        med_free(profile->serving[i].arrival);
    }
    med_free(profile->serving);
    *profile = (struct med_profile){0};
}

/* Copies *from into *ret_to; sets *ok false when memory is exhausted. NULL stays NULL. */
static void copy_string(const char *from, char **ret_to, bool *ok)
{
    *ret_to = NULL;
    if (from != NULL) {
        *ret_to = med_strdup(from);
        *ok = *ok && *ret_to != NULL;
    }
}

/* A zeroed array of the same length, for counts that the caller then sets. */
static void *copy_room(size_t count, size_t bytes, bool *ok)
{
    if (count == 0) {
        return NULL;
    }
    void *room = med_calloc(count, bytes);
    *ok = *ok && room != NULL;
    return room;
}

static void copy_sources(const struct med_profile *from, struct med_profile *to, bool *ok)
{
    to->sources = copy_room(from->source_count, sizeof *to->sources, ok);
    if (to->sources == NULL) {
        return;
    }
    to->source_count = from->source_count;
    for (size_t i = 0; i < from->source_count; i++) {
        const struct med_source *source = &from->sources[i];
        to->sources[i].kind = source->kind;
        to->sources[i].fit_error = source->fit_error;
        copy_string(source->id, &to->sources[i].id, ok);
        copy_string(source->text, &to->sources[i].text, ok);
        copy_string(source->licence, &to->sources[i].licence, ok);
        copy_string(source->date, &to->sources[i].date, ok);
    }
}

static void copy_validations(const struct med_profile *from, struct med_profile *to, bool *ok)
{
    to->validations = copy_room(from->validation_count, sizeof *to->validations, ok);
    if (to->validations == NULL) {
        return;
    }
    to->validation_count = from->validation_count;
    for (size_t i = 0; i < from->validation_count; i++) {
        to->validations[i] = from->validations[i];
        copy_string(from->validations[i].against, &to->validations[i].against, ok);
        copy_string(from->validations[i].text, &to->validations[i].text, ok);
    }
}

static void copy_rows(const struct med_profile *from, struct med_profile *to, bool *ok)
{
    to->steps = copy_room(from->step_count, sizeof *to->steps, ok);
    if (to->steps != NULL) {
        to->step_count = from->step_count;
        memcpy(to->steps, from->steps, from->step_count * sizeof *to->steps);
    }
    to->serving = copy_room(from->serving_count, sizeof *to->serving, ok);
    if (to->serving != NULL) {
        to->serving_count = from->serving_count;
        for (size_t i = 0; i < from->serving_count; i++) {
            to->serving[i] = from->serving[i];
            copy_string(from->serving[i].arrival, &to->serving[i].arrival, ok);
        }
    }
}

int med_profile_copy(const struct med_profile *from, struct med_profile *ret_to)
{
    bool ok = true;
    struct med_profile to = {
        .gpus_per_worker = from->gpus_per_worker,
        .model = from->model,
        .hardware = from->hardware,
        .limits = from->limits,
        .has_step_model = from->has_step_model,
        .step_model = from->step_model,
        .step_error_count = from->step_error_count,
    };
    memcpy(to.step_errors, from->step_errors, sizeof to.step_errors);
    copy_string(from->worker_type, &to.worker_type, &ok);
    copy_string(from->gpu, &to.gpu, &ok);
    copy_string(from->dtype, &to.dtype, &ok);
    copy_string(from->engine, &to.engine, &ok);
    copy_string(from->model.name, &to.model.name, &ok);
    copy_string(from->hardware.source, &to.hardware.source, &ok);
    copy_string(from->step_model.source, &to.step_model.source, &ok);
    copy_sources(from, &to, &ok);
    copy_validations(from, &to, &ok);
    copy_rows(from, &to, &ok);
    if (!ok) {
        med_profile_release(&to);
        return MED_E_NOMEM;
    }
    *ret_to = to;
    return 0;
}
