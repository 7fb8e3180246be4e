/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The JSON edge: the one place that touches the JSON library (cJSON).
 *
 * Reading: med_json_parse_* refuses what is not one complete UTF-8 JSON value, nesting over
 * MED_LIMIT_JSON_DEPTH, files over MED_LIMIT_JSON_BYTES, duplicate keys and non-finite numbers
 * (1e999 too).  A struct med_json_at is a position in a document: it knows file and path
 * ("$.instances[3].price"), so every getter can say where, what and what was expected:
 *     prices.json: $.instances[3].price_usd_per_hour: found -1, expected a number > 0
 * Getters fill err and return MED_E_FORMAT; the first error of a chain is kept.
 * med_json_keys refuses unknown keys.  Optional values: test with med_json_has first.
 *
 * Writing: a writer on a med_buf that keeps track of commas and indentation; doubles are printed
 * with the fewest digits that read back to the same value; a non-finite double is an MED_ASSERT.
 *
 * owns: a document owns all strings that getters lend; they live until med_json_free.
 * thread: one document or writer, one thread.
 */
#ifndef MED_BASE_JSON_H
#define MED_BASE_JSON_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct cJSON;

struct med_json_doc {
    struct cJSON *root;
    char *file; /* for messages; owned */
};

enum {
    MED_JSON_PATH_MAX = 256
};

struct med_json_at {
    const struct med_json_doc *doc;
    const struct cJSON *node;
    char path[MED_JSON_PATH_MAX];
};

/* Parses bytes; `file` is used in messages only. On failure *ret_doc is untouched. */
int med_json_parse(const char *bytes, size_t count, const char *file, struct med_json_doc *ret_doc,
                   struct med_err *err) MED_MUST_CHECK;
/* Reads and parses a file; "-" is standard input. */
int med_json_parse_file(const char *path, struct med_json_doc *ret_doc,
                        struct med_err *err) MED_MUST_CHECK;
void med_json_free(struct med_json_doc *doc);

struct med_json_at med_json_root(const struct med_json_doc *doc);
bool med_json_has(const struct med_json_at *at, const char *key); /* present and not null */
bool med_json_is_object(const struct med_json_at *at);
bool med_json_is_array(const struct med_json_at *at);
bool med_json_is_string(const struct med_json_at *at);
bool med_json_is_number(const struct med_json_at *at);

/* The root must be an object whose first key is "format" with exactly this value. */
int med_json_expect_format(const struct med_json_at *root, const char *format,
                           struct med_err *err) MED_MUST_CHECK;
/* `at` must be an object with keys only of the NULL-terminated list. */
int med_json_keys(const struct med_json_at *at, const char *const *known,
                  struct med_err *err) MED_MUST_CHECK;

int med_json_object(const struct med_json_at *at, const char *key, struct med_json_at *ret_at,
                    struct med_err *err) MED_MUST_CHECK;
int med_json_array(const struct med_json_at *at, const char *key, struct med_json_at *ret_at,
                   struct med_err *err) MED_MUST_CHECK;
/* The value of a key, of any kind; missing or null is an error. */
int med_json_member(const struct med_json_at *at, const char *key, struct med_json_at *ret_at,
                    struct med_err *err) MED_MUST_CHECK;
size_t med_json_count(const struct med_json_at *array); /* elements of an array or object */
/* Element of an array. Walking in order is O(1) per step with med_json_next. */
struct med_json_at med_json_index(const struct med_json_at *array, size_t index);
/* Iterates: start with *ret_at zeroed; false at the end. For objects ret_key (may be NULL) is
 * set to the key. */
bool med_json_next(const struct med_json_at *container, size_t *index, struct med_json_at *ret_at,
                   const char **ret_key);

/* Numbers must be finite and in [min, max]; the message names the bounds. */
int med_json_number(const struct med_json_at *at, const char *key, double min, double max,
                    double *ret_value, struct med_err *err) MED_MUST_CHECK;
/* As med_json_number, but strictly above zero and at most max. */
int med_json_positive(const struct med_json_at *at, const char *key, double max, double *ret_value,
                      struct med_err *err) MED_MUST_CHECK;
/* Whole numbers up to 2^53. */
int med_json_integer(const struct med_json_at *at, const char *key, int64_t min, int64_t max,
                     int64_t *ret_value, struct med_err *err) MED_MUST_CHECK;
int med_json_bool(const struct med_json_at *at, const char *key, bool *ret_value,
                  struct med_err *err) MED_MUST_CHECK;
/* Borrowed, 1..max_bytes bytes of UTF-8 (0 allowed if max_bytes is given negative: -max). */
int med_json_string(const struct med_json_at *at, const char *key, long max_bytes,
                    const char **ret_value, struct med_err *err) MED_MUST_CHECK;
/* The value of this position itself (array elements). */
int med_json_number_here(const struct med_json_at *at, double min, double max, double *ret_value,
                         struct med_err *err) MED_MUST_CHECK;
int med_json_integer_here(const struct med_json_at *at, int64_t min, int64_t max,
                          int64_t *ret_value, struct med_err *err) MED_MUST_CHECK;
int med_json_bool_here(const struct med_json_at *at, bool *ret_value,
                       struct med_err *err) MED_MUST_CHECK;
int med_json_string_here(const struct med_json_at *at, long max_bytes, const char **ret_value,
                         struct med_err *err) MED_MUST_CHECK;
/* The whole array at once, without the cost of a position for each element: whole numbers in
 * [min, max], 0 <= min, max < 2^32.  *ret_ids is med_free's; NULL for an empty array. */
int med_json_ids(const struct med_json_at *array, int64_t min, int64_t max, uint32_t **ret_ids,
                 size_t *ret_count, struct med_err *err) MED_MUST_CHECK;
/* For checks across fields: "file: path: message"; path is at's path plus ".key" if key != NULL. */
int med_json_fail(const struct med_json_at *at, const char *key, struct med_err *err,
                  const char *fmt, ...) MED_PRINTF(4, 5);

/* ---- writing ---- */

enum {
    MED_JSON_WRITER_DEPTH_MAX = MED_JSON_PATH_MAX / 4
};

struct med_json_writer {
    struct med_buf *buf; /* borrowed */
    int depth;
    bool pretty;
    bool first[MED_JSON_WRITER_DEPTH_MAX];
    bool inline_[MED_JSON_WRITER_DEPTH_MAX]; /* this container is written on one line */
    int rc; /* the first failure of the buffer; later calls do nothing */
};

void med_json_writer_init(struct med_json_writer *w, struct med_buf *buf, bool pretty);
int med_json_writer_finish(struct med_json_writer *w) MED_MUST_CHECK; /* newline; returns rc */
/* key is NULL inside arrays and at the root. */
void med_json_begin_object(struct med_json_writer *w, const char *key);
void med_json_begin_array(struct med_json_writer *w, const char *key);
/* The same, but kept on one line even when pretty: for rows. */
void med_json_begin_row_object(struct med_json_writer *w, const char *key);
void med_json_begin_row_array(struct med_json_writer *w, const char *key);
void med_json_end_object(struct med_json_writer *w);
void med_json_end_array(struct med_json_writer *w);
void med_json_put_string(struct med_json_writer *w, const char *key, const char *value);
void med_json_put_number(struct med_json_writer *w, const char *key, double value);
void med_json_put_integer(struct med_json_writer *w, const char *key, int64_t value);
void med_json_put_bool(struct med_json_writer *w, const char *key, bool value);
void med_json_put_null(struct med_json_writer *w, const char *key);

#endif
