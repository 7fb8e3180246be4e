/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads and writes `medley-catalogue/1` (docs/reference/formats.md): what can be rented.
 *
 * Rows are read into a zeroed array, so that a failure releases what there is; each row is compared
 * with those above it, as (cloud, instance, region) must be unique and a catalogue is short.  Runs
 * on any thread.  It fetches no prices.
 */
#include "profiles/catalogue.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "profiles/field.h"

#include <math.h>
#include <string.h>

static const char format_name[] = "medley-catalogue/1";
static const double price_max = 1e6;
static const int64_t count_max = 1000000;

static int read_instance(const struct med_json_at *at, struct med_instance_kind *kind,
                         struct med_err *err)
{
    static const char *const known[] = {
        "cloud",     "instance", "region", "gpu", "gpus", "price_usd_per_hour", "spot_usd_per_hour",
        "max_count", "date",     "source", NULL};
    int rc;
    kind->count_max = -1;
    if ((rc = med_json_keys(at, known, err)) < 0 ||
        (rc = med_field_name(at, "cloud", &kind->cloud, err)) < 0 ||
        (rc = med_field_name(at, "instance", &kind->instance, err)) < 0 ||
        (rc = med_field_name(at, "region", &kind->region, err)) < 0 ||
        (rc = med_field_name(at, "gpu", &kind->gpu, err)) < 0 ||
        (rc = med_json_integer(at, "gpus", 1, 1024, &kind->gpus, err)) < 0 ||
        (rc = med_json_positive(at, "price_usd_per_hour", price_max, &kind->price_usd_per_hour,
                                err)) < 0 ||
        (rc = med_field_positive_optional(at, "spot_usd_per_hour", price_max,
                                          &kind->spot_usd_per_hour, err)) < 0 ||
        (med_json_has(at, "max_count") &&
         (rc = med_json_integer(at, "max_count", 0, count_max, &kind->count_max, err)) < 0) ||
        (rc = med_field_date_optional(at, "date", &kind->date, err)) < 0 ||
        (rc = med_field_text_optional(at, "source", &kind->source, err)) < 0) {
        return rc;
    }
    return 0;
}

static bool same_instance(const struct med_instance_kind *a, const struct med_instance_kind *b)
{
    return strcmp(a->instance, b->instance) == 0 && strcmp(a->cloud, b->cloud) == 0 &&
           strcmp(a->region, b->region) == 0;
}

static int read_instances(const struct med_json_at *root, struct med_catalogue *catalogue,
                          struct med_err *err)
{
    static const struct med_field_bounds bounds = {1, MED_LIMIT_INSTANCES,
                                                   sizeof(struct med_instance_kind)};
    struct med_json_at array;
    struct med_json_at item = {0};
    void *items = NULL;
    int rc = med_field_array(root, "instances", &bounds, &array, &items, err);
    if (rc < 0) {
        return rc;
    }
    catalogue->instances = items;
    size_t index = 0;
    while (med_json_next(&array, &index, &item, NULL)) {
        size_t i = catalogue->instance_count++;
        const struct med_instance_kind *kind = &catalogue->instances[i];
        if ((rc = read_instance(&item, &catalogue->instances[i], err)) < 0) {
            return rc;
        }
        for (size_t other = 0; other < i; other++) {
            if (same_instance(&catalogue->instances[other], kind)) {
                return med_json_fail(&item, "instance", err,
                                     "found \"%s\" of %s in %s again (as in instances[%zu]), "
                                     "expected it once",
                                     kind->instance, kind->cloud, kind->region, other);
            }
        }
    }
    return 0;
}

int med_catalogue_read(const struct med_json_at *root, struct med_catalogue *ret_catalogue,
                       struct med_err *err)
{
    static const char *const known[] = {"format", "name", "date", "source", "instances", NULL};
    struct med_catalogue catalogue = {0};
    int rc;
    if ((rc = med_json_expect_format(root, format_name, err)) < 0 ||
        (rc = med_json_keys(root, known, err)) < 0 ||
        (rc = med_field_name(root, "name", &catalogue.name, err)) < 0 ||
        (rc = med_field_date(root, "date", &catalogue.date, err)) < 0 ||
        (rc = med_field_text(root, "source", &catalogue.source, err)) < 0 ||
        (rc = read_instances(root, &catalogue, err)) < 0) {
        med_catalogue_release(&catalogue);
        return rc;
    }
    *ret_catalogue = catalogue;
    return 0;
}

int med_catalogue_read_file(const char *path, struct med_catalogue *ret_catalogue,
                            struct med_err *err)
{
    struct med_json_doc doc;
    int rc = med_json_parse_file(path, &doc, err);
    if (rc < 0) {
        return rc;
    }
    struct med_json_at root = med_json_root(&doc);
    rc = med_catalogue_read(&root, ret_catalogue, err);
    med_json_free(&doc);
    return rc;
}

void med_catalogue_write(struct med_json_writer *w, const struct med_catalogue *catalogue)
{
    med_json_begin_object(w, NULL);
    med_json_put_string(w, "format", format_name);
    med_json_put_string(w, "name", catalogue->name);
    med_json_put_string(w, "date", catalogue->date);
    med_json_put_string(w, "source", catalogue->source);
    med_json_begin_array(w, "instances");
    for (size_t i = 0; i < catalogue->instance_count; i++) {
        const struct med_instance_kind *kind = &catalogue->instances[i];
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "cloud", kind->cloud);
        med_json_put_string(w, "instance", kind->instance);
        med_json_put_string(w, "region", kind->region);
        med_json_put_string(w, "gpu", kind->gpu);
        med_json_put_integer(w, "gpus", kind->gpus);
        med_json_put_number(w, "price_usd_per_hour", kind->price_usd_per_hour);
        if (!isnan(kind->spot_usd_per_hour)) {
            med_json_put_number(w, "spot_usd_per_hour", kind->spot_usd_per_hour);
        }
        if (kind->count_max >= 0) {
            med_json_put_integer(w, "max_count", kind->count_max);
        }
        if (kind->date != NULL) {
            med_json_put_string(w, "date", kind->date);
        }
        if (kind->source != NULL) {
            med_json_put_string(w, "source", kind->source);
        }
        med_json_end_object(w);
    }
    med_json_end_array(w);
    med_json_end_object(w);
}

void med_catalogue_release(struct med_catalogue *catalogue)
{
    if (catalogue == NULL) {
        return;
    }
    med_free(catalogue->name);
    med_free(catalogue->date);
    med_free(catalogue->source);
    for (size_t i = 0; i < catalogue->instance_count; i++) {
        struct med_instance_kind *kind = &catalogue->instances[i];
        med_free(kind->cloud);
        med_free(kind->instance);
        med_free(kind->region);
        med_free(kind->gpu);
        med_free(kind->date);
        med_free(kind->source);
    }
    med_free(catalogue->instances);
    *catalogue = (struct med_catalogue){0};
}
