/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The catalogue: what can be rented, `medley-catalogue/1`.
 *
 * JSON {format, name, date, source, instances: [{cloud, instance, region, gpu, gpus,
 * price_usd_per_hour, spot_usd_per_hour?, max_count?, date?, source?}]}.  (cloud, instance, region)
 * is unique.  Prices are > 0.
 * owns: strings and rows. thread: immutable after reading.
 */
#ifndef MED_PROFILES_CATALOGUE_H
#define MED_PROFILES_CATALOGUE_H

#include "base/json.h"

#include <stddef.h>
#include <stdint.h>

struct med_instance_kind {
    char *cloud, *instance, *region;
    char *gpu; /* matches the profiles' gpu */
    int64_t gpus;
    double price_usd_per_hour;
    double spot_usd_per_hour; /* NAN: not known */
    int64_t count_max;        /* availability cap; -1: none */
    char *date, *source;      /* NULL: the catalogue's own */
};

struct med_catalogue {
    char *name, *date, *source;
    struct med_instance_kind *instances;
    size_t instance_count;
};

int med_catalogue_read_file(const char *path, struct med_catalogue *ret_catalogue,
                            struct med_err *err) MED_MUST_CHECK;
int med_catalogue_read(const struct med_json_at *root, struct med_catalogue *ret_catalogue,
                       struct med_err *err) MED_MUST_CHECK;
void med_catalogue_write(struct med_json_writer *w, const struct med_catalogue *catalogue);
void med_catalogue_release(struct med_catalogue *catalogue);

#endif
