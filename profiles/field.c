/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Getters that the readers of profiles, catalogues, workloads and plans share.
 *
 * Each one is a thin layer over the JSON edge: it adds copying, "absent means not known", and the
 * rule that no string of a file may carry control characters, because names and texts of files end
 * up on terminals and in logs.  Runs on any thread.  It knows no format.
 */
#include "profiles/field.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "base/utf8.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const size_t shown_bytes_max = 60;

int med_field_no_memory(struct med_err *err)
{
    return med_err_set(err, MED_E_NOMEM, "%s", med_err_text(MED_E_NOMEM));
}

const char *med_field_shown(const char *text, char out[MED_FIELD_SHOWN_MAX])
{
    size_t bytes = strlen(text);
    size_t kept = bytes < shown_bytes_max ? bytes : shown_bytes_max;
    size_t used = med_utf8_escape(out, MED_FIELD_SHOWN_MAX - sizeof "...", text, kept);
    (void)snprintf(out + used, MED_FIELD_SHOWN_MAX - used, "%s", kept < bytes ? "..." : "");
    return out;
}

static int get_string(const struct med_json_at *at, const char *key, long max_bytes,
                      const char **ret_text, struct med_err *err)
{
    return key == NULL ? med_json_string_here(at, max_bytes, ret_text, err)
                       : med_json_string(at, key, max_bytes, ret_text, err);
}

static int copy_string(const struct med_json_at *at, const char *key, long max_bytes,
                       const char *allowed_controls, char **ret_text, struct med_err *err)
{
    const char *text = NULL;
    int rc = get_string(at, key, max_bytes, &text, err);
    if (rc < 0) {
        return rc;
    }
    for (const char *c = text; *c != '\0'; c++) {
        unsigned char byte = (unsigned char)*c;
        if ((byte < 0x20 && strchr(allowed_controls, byte) == NULL) || byte == 0x7f) {
            return med_json_fail(at, key, err,
                                 "found the control character 0x%02x at byte %zu, expected text",
                                 byte, (size_t)(c - text));
        }
    }
    char *copy = med_strdup(text);
    if (copy == NULL) {
        return med_field_no_memory(err);
    }
    *ret_text = copy;
    return 0;
}

int med_field_name(const struct med_json_at *at, const char *key, char **ret_name,
                   struct med_err *err)
{
    return copy_string(at, key, MED_LIMIT_NAME_BYTES, "", ret_name, err);
}

int med_field_text(const struct med_json_at *at, const char *key, char **ret_text,
                   struct med_err *err)
{
    return copy_string(at, key, MED_LIMIT_TEXT_BYTES, "\n\t", ret_text, err);
}

int med_field_text_optional(const struct med_json_at *at, const char *key, char **ret_text,
                            struct med_err *err)
{
    return med_json_has(at, key) ? med_field_text(at, key, ret_text, err) : 0;
}

static bool is_date(const char *text)
{
    static const char form[] = "dddd-dd-dd";
    if (strlen(text) != sizeof form - 1) {
        return false;
    }
    for (size_t i = 0; form[i] != '\0'; i++) {
        bool digit = text[i] >= '0' && text[i] <= '9';
        if (form[i] == 'd' ? !digit : text[i] != '-') {
            return false;
        }
    }
    int month = (text[5] - '0') * 10 + (text[6] - '0');
    int day = (text[8] - '0') * 10 + (text[9] - '0');
    return month >= 1 && month <= 12 && day >= 1 && day <= 31;
}

int med_field_date(const struct med_json_at *at, const char *key, char **ret_date,
                   struct med_err *err)
{
    const char *text = NULL;
    int rc = get_string(at, key, MED_LIMIT_NAME_BYTES, &text, err);
    if (rc < 0) {
        return rc;
    }
    if (!is_date(text)) {
        char shown[MED_FIELD_SHOWN_MAX];
        return med_json_fail(at, key, err, "found \"%s\", expected a date YYYY-MM-DD",
                             med_field_shown(text, shown));
    }
    char *copy = med_strdup(text);
    if (copy == NULL) {
        return med_field_no_memory(err);
    }
    *ret_date = copy;
    return 0;
}

int med_field_date_optional(const struct med_json_at *at, const char *key, char **ret_date,
                            struct med_err *err)
{
    return med_json_has(at, key) ? med_field_date(at, key, ret_date, err) : 0;
}

int med_field_number_optional(const struct med_json_at *at, const char *key, double min, double max,
                              double *ret_value, struct med_err *err)
{
    if (!med_json_has(at, key)) {
        *ret_value = (double)NAN;
        return 0;
    }
    return med_json_number(at, key, min, max, ret_value, err);
}

int med_field_positive_optional(const struct med_json_at *at, const char *key, double max,
                                double *ret_value, struct med_err *err)
{
    if (!med_json_has(at, key)) {
        *ret_value = (double)NAN;
        return 0;
    }
    return med_json_positive(at, key, max, ret_value, err);
}

int med_field_array(const struct med_json_at *at, const char *key,
                    const struct med_field_bounds *bounds, struct med_json_at *ret_array,
                    void **ret_items, struct med_err *err)
{
    struct med_json_at array;
    int rc = med_json_array(at, key, &array, err);
    if (rc < 0) {
        return rc;
    }
    size_t count = med_json_count(&array);
    if (count < bounds->count_min || count > bounds->count_max) {
        return med_json_fail(at, key, err, "found %zu elements, expected %zu to %zu", count,
                             bounds->count_min, bounds->count_max);
    }
    void *items = NULL;
    if (count > 0) {
        items = med_calloc(count, bounds->item_bytes);
        if (items == NULL) {
            return med_field_no_memory(err);
        }
    }
    *ret_array = array;
    *ret_items = items;
    return 0;
}

int med_field_choice(const struct med_json_at *at, const char *key, const char *const *choices,
                     size_t choice_count, size_t *ret_index, struct med_err *err)
{
    const char *text = NULL;
    int rc = get_string(at, key, MED_LIMIT_NAME_BYTES, &text, err);
    if (rc < 0) {
        return rc;
    }
    char expected[256] = "";
    size_t used = 0;
    for (size_t i = 0; i < choice_count; i++) {
        if (strcmp(text, choices[i]) == 0) {
            *ret_index = i;
            return 0;
        }
        const char *joint = i == 0 ? "" : i + 1 == choice_count ? " or " : ", ";
        if (used < sizeof expected) {
            int length =
                snprintf(expected + used, sizeof expected - used, "%s%s", joint, choices[i]);
            used += length > 0 ? (size_t)length : 0;
        }
    }
    char shown[MED_FIELD_SHOWN_MAX];
    return med_json_fail(at, key, err, "found \"%s\", expected %s", med_field_shown(text, shown),
                         expected);
}
