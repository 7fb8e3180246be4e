/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which rows of a catalogue may be rented: --instances, --exclude, --cloud, --cap.
 *
 * A row is kept or dropped in place; its strings are freed when it is dropped.  Names compare
 * exactly; a name that no row has is an error, because a plan that silently ignored it would be
 * wrong.  thread: any.
 */
#include "allocator/planner.h"

#include "base/alloc.h"
#include "base/options.h"

#include <string.h>

static const int64_t cap_max = 1000000;

static bool has(const char *const *names, size_t count, const char *name)
{
    for (size_t n = 0; n < count; n++) {
        if (strcmp(names[n], name) == 0)
            return true;
    }
    return false;
}

static const char *instance_of(const struct med_instance_kind *kind)
{
    return kind->instance;
}

static const char *cloud_of(const struct med_instance_kind *kind)
{
    return kind->cloud;
}

static int check_known(const struct med_catalogue *catalogue, const char *option,
                       const char *const *names, size_t count,
                       const char *(*field)(const struct med_instance_kind *), struct med_err *err)
{
    for (size_t n = 0; n < count; n++) {
        bool found = false;
        for (size_t k = 0; k < catalogue->instance_count && !found; k++)
            found = strcmp(field(&catalogue->instances[k]), names[n]) == 0;
        if (!found) {
            return med_err_set(err, MED_E_USAGE,
                               "%s: the catalogue %s has no \"%s\", expected a name such as \"%s\"",
                               option, catalogue->name, names[n],
                               catalogue->instance_count > 0 ? field(&catalogue->instances[0])
                                                             : "none: it is empty");
        }
    }
    return 0;
}

static int set_cap(struct med_catalogue *catalogue, const char *text, struct med_err *err)
{
    const char *equals = strrchr(text, '=');
    int64_t cap = 0;
    if (equals == NULL || equals == text)
        return med_err_set(err, MED_E_USAGE, "--cap: found \"%s\", expected INSTANCE=N", text);
    int rc = med_parse_integer(equals + 1, "--cap", 0, cap_max, &cap, err);
    if (rc < 0)
        return rc;
    bool found = false;
    size_t bytes = (size_t)(equals - text);
    for (size_t k = 0; k < catalogue->instance_count; k++) {
        struct med_instance_kind *kind = &catalogue->instances[k];
        if (strlen(kind->instance) != bytes || strncmp(kind->instance, text, bytes) != 0)
            continue;
        kind->count_max = cap;
        found = true;
    }
    if (!found) {
        return med_err_set(err, MED_E_USAGE, "--cap: the catalogue %s has no \"%.*s\"",
                           catalogue->name, (int)bytes, text);
    }
    return 0;
}

static void drop(struct med_instance_kind *kind)
{
    med_free(kind->cloud);
    med_free(kind->instance);
    med_free(kind->region);
    med_free(kind->gpu);
    med_free(kind->date);
    med_free(kind->source);
}

int med_planner_choose(struct med_catalogue *catalogue, const struct med_planner_choice *choice,
                       struct med_err *err)
{
    int rc = check_known(catalogue, "--instances", choice->instances, choice->instance_count,
                         instance_of, err);
    if (rc == 0) {
        rc = check_known(catalogue, "--exclude", choice->excluded, choice->excluded_count,
                         instance_of, err);
    }
    if (rc == 0)
        rc = check_known(catalogue, "--cloud", choice->clouds, choice->cloud_count, cloud_of, err);
    for (size_t n = 0; rc == 0 && n < choice->cap_count; n++)
        rc = set_cap(catalogue, choice->caps[n], err);
    if (rc < 0)
        return rc;
    size_t kept = 0;
    for (size_t k = 0; k < catalogue->instance_count; k++) {
        struct med_instance_kind *kind = &catalogue->instances[k];
        bool wanted = choice->instance_count == 0 ||
                      has(choice->instances, choice->instance_count, kind->instance);
        wanted = wanted && (choice->cloud_count == 0 ||
                            has(choice->clouds, choice->cloud_count, kind->cloud));
        wanted = wanted && !has(choice->excluded, choice->excluded_count, kind->instance);
        if (wanted) {
            catalogue->instances[kept++] = *kind;
        } else {
            drop(kind);
        }
    }
    catalogue->instance_count = kept;
    if (kept == 0) {
        return med_err_set(err, MED_E_USAGE,
                           "no instance of the catalogue %s is left after --instances, --exclude "
                           "and --cloud",
                           catalogue->name);
    }
    return 0;
}
