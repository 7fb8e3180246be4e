/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Getters that the format readers share: copied strings, optional values, bounded arrays.
 *
 * owns: what is returned belongs to the caller (med_free). thread: any.
 * errors: MED_E_FORMAT or MED_E_NOMEM with one sentence; *ret_x is untouched on failure, and then
 * a field that was zeroed before stays safe to free.
 */
#ifndef MED_PROFILES_FIELD_H
#define MED_PROFILES_FIELD_H

#include "base/json.h"

#include <stddef.h>

/* Fills err with the sentence of MED_E_NOMEM and returns it. */
int med_field_no_memory(struct med_err *err);

enum {
    MED_FIELD_SHOWN_MAX = 96
};
/* Text of a file as a message may show it: escaped, and cut to 60 bytes. Returns out. */
const char *med_field_shown(const char *text, char out[MED_FIELD_SHOWN_MAX]);

/* In what follows key NULL means the value of the position itself (array elements).
 * A name: 1..MED_LIMIT_NAME_BYTES bytes, no control characters. */
int med_field_name(const struct med_json_at *at, const char *key, char **ret_name,
                   struct med_err *err) MED_MUST_CHECK;
/* A text: 1..MED_LIMIT_TEXT_BYTES bytes, no control characters but newline and tab. */
int med_field_text(const struct med_json_at *at, const char *key, char **ret_text,
                   struct med_err *err) MED_MUST_CHECK;
int med_field_text_optional(const struct med_json_at *at, const char *key, char **ret_text,
                            struct med_err *err) MED_MUST_CHECK;
/* YYYY-MM-DD. */
int med_field_date(const struct med_json_at *at, const char *key, char **ret_date,
                   struct med_err *err) MED_MUST_CHECK;
int med_field_date_optional(const struct med_json_at *at, const char *key, char **ret_date,
                            struct med_err *err) MED_MUST_CHECK;
/* NAN when absent. */
int med_field_number_optional(const struct med_json_at *at, const char *key, double min, double max,
                              double *ret_value, struct med_err *err) MED_MUST_CHECK;
int med_field_positive_optional(const struct med_json_at *at, const char *key, double max,
                                double *ret_value, struct med_err *err) MED_MUST_CHECK;

/* What an array may hold. */
struct med_field_bounds {
    size_t count_min, count_max;
    size_t item_bytes;
};

/* Finds the array, checks its length and allocates zeroed items (NULL for an empty one). */
int med_field_array(const struct med_json_at *at, const char *key,
                    const struct med_field_bounds *bounds, struct med_json_at *ret_array,
                    void **ret_items, struct med_err *err) MED_MUST_CHECK;

/* Index of a text in a list: for enumerations. Fails with "expected a, b or c". */
int med_field_choice(const struct med_json_at *at, const char *key, const char *const *choices,
                     size_t choice_count, size_t *ret_index, struct med_err *err) MED_MUST_CHECK;

#endif
