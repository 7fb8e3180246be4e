/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading JSON: documents, positions and getters.  The only file that includes the JSON library.
 *
 * A text first passes the grammar check (json_check.c); the library then builds the tree through
 * med_alloc, in the "C" locale; then the tree is walked once for duplicate keys.  A position
 * carries its path as text, so that each getter can name the place; a path that grows too long is
 * cut and ends in "...".  Keys are compared exactly (the library's default ignores case).
 *
 * Getters keep the first error of a chain: err is left alone when it already holds a MED_E_FORMAT
 * of the same document, so callers give a zeroed err.  thread: one document, one thread.
 */
#include "base/json.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/json_check.h"
#include "base/limits.h"
#include "base/os.h"
#include "base/utf8.h"

#include <cjson/cJSON.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SHOWN_MAX = 96,
    EXPECTED_MAX = 160,
    FEW_KEYS = 8
};

static const double integer_limit = 9007199254740992.0; // 2^53: doubles beyond skip integers

static pthread_once_t hooks_once = PTHREAD_ONCE_INIT;
static _Thread_local bool out_of_memory; // the library does not say why it failed

/* ---- paths ---- */

/* Appends to a path; when it does not fit, the path ends in "..." for good. */
static void path_append(char path[MED_JSON_PATH_MAX], const char *piece)
{
    size_t used = strlen(path);
    size_t length = strlen(piece);
    if (used >= 3 && strcmp(path + used - 3, "...") == 0)
        return;
    if (used + length + 4 > MED_JSON_PATH_MAX) {
        piece = "..."; // for which every piece before has left room
        length = 3;
    }
    memcpy(path + used, piece, length);
    path[used + length] = '\0';
}

static bool is_plain_key(const char *key)
{
    if (*key == '\0')
        return false;
    for (const char *p = key; *p; p++) {
        bool plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
                     (*p >= '0' && *p <= '9') || *p == '_' || *p == '-';
        if (!plain)
            return false;
    }
    return true;
}

/* ".key", or ["any key"] when it holds other characters. */
static void path_append_key(char path[MED_JSON_PATH_MAX], const char *key)
{
    char piece[SHOWN_MAX];
    if (is_plain_key(key)) {
        path_append(path, ".");
        path_append(path, key);
        return;
    }
    char escaped[SHOWN_MAX - 8];
    (void)med_utf8_escape(escaped, sizeof escaped, key, strlen(key));
    (void)snprintf(piece, sizeof piece, "[\"%s\"]", escaped);
    path_append(path, piece);
}

static void path_append_index(char path[MED_JSON_PATH_MAX], size_t index)
{
    char piece[32];
    (void)snprintf(piece, sizeof piece, "[%zu]", index);
    path_append(path, piece);
}

/* ---- documents ---- */

static void *hook_alloc(size_t bytes)
{
    void *p = med_alloc(bytes);
    if (!p)
        out_of_memory = true;
    return p;
}

static void hooks_set(void)
{
    cJSON_Hooks hooks = {.malloc_fn = hook_alloc, .free_fn = med_free};
    cJSON_InitHooks(&hooks);
}

static int fail_memory(const char *file, struct med_err *err)
{
    return med_err_set(err, MED_E_NOMEM, "%s: %s while it was parsed", file,
                       med_err_text(MED_E_NOMEM));
}

static int compare_keys(const void *a, const void *b)
{
    const struct cJSON *const *x = a;
    const struct cJSON *const *y = b;
    return strcmp((*x)->string, (*y)->string);
}

/* Sets *ret_key to a key that the object has twice, or to NULL. */
static int find_duplicate(const struct cJSON *object, const char **ret_key)
{
    *ret_key = NULL;
    size_t count = 0;
    const struct cJSON *node;
    cJSON_ArrayForEach(node, object) count++;
    if (count < 2)
        return 0;
    const struct cJSON *few[FEW_KEYS];
    const struct cJSON **keys = few;
    if (count > FEW_KEYS) {
        keys = med_realloc_array(NULL, count, sizeof(const struct cJSON *));
        if (!keys)
            return MED_E_NOMEM;
    }
    size_t at = 0;
    cJSON_ArrayForEach(node, object) keys[at++] = node;
    qsort(keys, count, sizeof(const struct cJSON *), compare_keys);
    for (at = 1; at < count && !*ret_key; at++) {
        if (strcmp(keys[at - 1]->string, keys[at]->string) == 0)
            *ret_key = keys[at]->string;
    }
    if (keys != few)
        med_free(keys);
    return 0;
}

/* The path of the innermost of the open nodes, for a message. */
static struct med_json_at open_place(const struct med_json_doc *doc,
                                     const struct cJSON *const *open, int depth)
{
    struct med_json_at at = med_json_root(doc);
    for (int level = 1; level <= depth; level++) {
        if (cJSON_IsObject(open[level - 1])) {
            path_append_key(at.path, open[level]->string);
            continue;
        }
        size_t index = 0;
        for (const struct cJSON *node = open[level - 1]->child; node != open[level];
             node = node->next)
            index++;
        path_append_index(at.path, index);
    }
    at.node = open[depth];
    return at;
}

/* Walks the whole tree without recursion: `open` holds the containers down to the current node. */
static int check_duplicates(const struct med_json_doc *doc, struct med_err *err)
{
    const struct cJSON *open[MED_LIMIT_JSON_DEPTH + 1];
    int depth = 0;
    const struct cJSON *node = doc->root;
    while (node) {
        open[depth] = node;
        const char *key = NULL;
        if (cJSON_IsObject(node) && find_duplicate(node, &key) < 0)
            return fail_memory(doc->file, err);
        if (key) {
            struct med_json_at at = open_place(doc, open, depth);
            return med_json_fail(&at, key, err, "this key stands twice in the object");
        }
        if (node->child) {
            MED_ASSERT(depth < MED_LIMIT_JSON_DEPTH); // the grammar check saw to it
            depth++;
            node = node->child;
            continue;
        }
        while (depth > 0 && !open[depth]->next)
            depth--;
        node = depth > 0 ? open[depth]->next : NULL;
    }
    return 0;
}

int med_json_parse(const char *bytes, size_t count, const char *file, struct med_json_doc *ret_doc,
                   struct med_err *err)
{
    if (err)
        *err = (struct med_err){0};
    int rc = med_json_check(bytes, count, file, err);
    if (rc < 0)
        return rc;
    (void)pthread_once(&hooks_once, hooks_set); // cannot fail with a valid argument
    struct med_json_doc doc = {.file = med_strdup(file)};
    if (!doc.file)
        return fail_memory(file, err);
    locale_t previous = med_os_locale_enter();
    out_of_memory = false;
    doc.root = cJSON_ParseWithLength(bytes, count);
    med_os_locale_leave(previous);
    if (!doc.root) {
        rc = out_of_memory
                 ? fail_memory(file, err)
                 : med_err_set(err, MED_E_FORMAT, "%s: the JSON library refuses it", file);
    } else {
        rc = check_duplicates(&doc, err);
    }
    if (rc < 0) {
        med_json_free(&doc);
    } else {
        *ret_doc = doc;
    }
    return rc;
}

int med_json_parse_file(const char *path, struct med_json_doc *ret_doc, struct med_err *err)
{
    struct med_buf buf;
    med_buf_init(&buf, MED_LIMIT_JSON_BYTES);
    int rc = med_buf_read_file(&buf, path, err);
    if (rc == 0) {
        rc = med_json_parse(buf.data ? buf.data : "", buf.length,
                            strcmp(path, "-") == 0 ? "standard input" : path, ret_doc, err);
    }
    med_buf_release(&buf);
    return rc;
}

void med_json_free(struct med_json_doc *doc)
{
    cJSON_Delete(doc->root);
    med_free(doc->file);
    *doc = (struct med_json_doc){0};
}

/* ---- positions ---- */

struct med_json_at med_json_root(const struct med_json_doc *doc)
{
    struct med_json_at at = {.doc = doc, .node = doc->root};
    path_append(at.path, "$");
    return at;
}

/* The library's own tests are calls, and getters make many. */
static bool is_type(const struct cJSON *node, int type)
{
    return node && (node->type & 0xff) == type;
}

static const struct cJSON *member(const struct med_json_at *at, const char *key)
{
    /* Looked for here: the library's search costs a call for each member and compares keys whole. */
    if (!is_type(at->node, cJSON_Object))
        return NULL;
    for (const struct cJSON *node = at->node->child; node; node = node->next) {
        if (node->string[0] == key[0] && strcmp(node->string, key) == 0)
            return node;
    }
    return NULL;
}

/* The position of a key, present or not (then node is NULL). */
static struct med_json_at child(const struct med_json_at *at, const char *key)
{
    struct med_json_at next = *at;
    next.node = member(at, key);
    path_append_key(next.path, key);
    return next;
}

bool med_json_has(const struct med_json_at *at, const char *key)
{
    const struct cJSON *node = member(at, key);
    return node && !is_type(node, cJSON_NULL);
}

bool med_json_is_object(const struct med_json_at *at)
{
    return cJSON_IsObject(at->node);
}

bool med_json_is_array(const struct med_json_at *at)
{
    return cJSON_IsArray(at->node);
}

bool med_json_is_string(const struct med_json_at *at)
{
    return cJSON_IsString(at->node);
}

bool med_json_is_number(const struct med_json_at *at)
{
    return cJSON_IsNumber(at->node);
}

size_t med_json_count(const struct med_json_at *array)
{
    size_t count = 0;
    if (!cJSON_IsArray(array->node) && !cJSON_IsObject(array->node))
        return 0;
    for (const struct cJSON *node = array->node->child; node; node = node->next)
        count++;
    return count;
}

struct med_json_at med_json_index(const struct med_json_at *array, size_t index)
{
    MED_ASSERT(cJSON_IsArray(array->node));
    const struct cJSON *node = array->node->child;
    for (size_t i = 0; i < index && node; i++)
        node = node->next;
    MED_ASSERT(node);
    struct med_json_at at = *array;
    at.node = node;
    path_append_index(at.path, index);
    return at;
}

bool med_json_next(const struct med_json_at *container, size_t *index, struct med_json_at *ret_at,
                   const char **ret_key)
{
    const struct cJSON *node;
    bool is_object = cJSON_IsObject(container->node);
    if (ret_at->node) {
        node = ret_at->node->next;
        if (node)
            ++*index;
    } else {
        node = is_object || cJSON_IsArray(container->node) ? container->node->child : NULL;
        *index = 0;
    }
    if (!node)
        return false;
    *ret_at = *container;
    ret_at->node = node;
    if (is_object) {
        path_append_key(ret_at->path, node->string);
    } else {
        path_append_index(ret_at->path, *index);
    }
    if (ret_key)
        *ret_key = is_object ? node->string : NULL;
    return true;
}

/* ---- messages ---- */

/* True if err holds an earlier failure of the same document. */
static bool has_failed(const struct med_json_at *at, const struct med_err *err)
{
    size_t length = strlen(at->doc->file);
    return err->code == MED_E_FORMAT && strncmp(err->text, at->doc->file, length) == 0 &&
           strncmp(err->text + length, ": $", 3) == 0;
}

int med_json_fail(const struct med_json_at *at, const char *key, struct med_err *err,
                  const char *fmt, ...)
{
    if (!err || has_failed(at, err))
        return MED_E_FORMAT;
    struct med_json_at place = *at;
    if (key)
        path_append_key(place.path, key);
    char message[MED_ERR_TEXT_MAX];
    va_list args;
    va_start(args, fmt);
    int length = vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    return med_err_set(err, MED_E_FORMAT, "%s: %s: %s", at->doc->file, place.path,
                       length < 0 ? "is not valid" : message);
}

/* What stands at a position, as a person would say it. */
static void node_describe(const struct cJSON *node, char out[SHOWN_MAX])
{
    const char *text = NULL;
    if (!node) {
        text = "nothing";
    } else if (cJSON_IsNull(node)) {
        text = "null";
    } else if (cJSON_IsBool(node)) {
        text = cJSON_IsTrue(node) ? "true" : "false";
    } else if (cJSON_IsObject(node)) {
        text = "an object";
    } else if (cJSON_IsArray(node)) {
        text = "an array";
    }
    if (text) {
        (void)snprintf(out, SHOWN_MAX, "%s", text);
    } else if (cJSON_IsNumber(node)) {
        (void)med_os_print_double(out, node->valuedouble);
    } else {
        char escaped[SHOWN_MAX - 8];
        size_t length = strlen(node->valuestring);
        size_t used = length > 60 ? 60 : length;
        (void)med_utf8_escape(escaped, sizeof escaped, node->valuestring, used);
        (void)snprintf(out, SHOWN_MAX, "\"%s%s\"", escaped, used < length ? "..." : "");
    }
}

static int fail_expected(const struct med_json_at *at, struct med_err *err, const char *expected)
{
    char found[SHOWN_MAX];
    if (!at->node)
        return med_json_fail(at, NULL, err, "is missing, expected %s", expected);
    node_describe(at->node, found);
    return med_json_fail(at, NULL, err, "found %s, expected %s", found, expected);
}

/* "a number from 0 to 1", "a whole number >= 1"; bounds at the edge of the type are left out. */
static void range_describe(const char *noun, double min, double max, char out[EXPECTED_MAX])
{
    char low[MED_OS_DOUBLE_MAX] = "";
    char high[MED_OS_DOUBLE_MAX] = "";
    bool has_low = min > -DBL_MAX;
    bool has_high = max < DBL_MAX;
    if (has_low)
        (void)med_os_print_double(low, min);
    if (has_high)
        (void)med_os_print_double(high, max);
    if (has_low && has_high) {
        (void)snprintf(out, EXPECTED_MAX, "%s from %s to %s", noun, low, high);
    } else if (has_low || has_high) {
        (void)snprintf(out, EXPECTED_MAX, "%s %s %s", noun,
                       has_low ? ">=" : "<=", has_low ? low : high);
    } else {
        (void)snprintf(out, EXPECTED_MAX, "%s", noun);
    }
}

/* Getters that take a key: `at` must be an object. */
static int fail_unless_object(const struct med_json_at *at, struct med_err *err)
{
    return is_type(at->node, cJSON_Object) ? 0 : fail_expected(at, err, "an object");
}

/* ---- getters ---- */

int med_json_expect_format(const struct med_json_at *root, const char *format, struct med_err *err)
{
    if (fail_unless_object(root, err) < 0)
        return MED_E_FORMAT;
    const struct cJSON *first = root->node->child;
    if (!first || strcmp(first->string, "format") != 0) {
        return med_json_fail(root, NULL, err,
                             "the first key must be \"format\", with the value \"%s\"", format);
    }
    if (cJSON_IsString(first) && strcmp(first->valuestring, format) == 0)
        return 0;
    char expected[EXPECTED_MAX];
    (void)snprintf(expected, sizeof expected, "\"%s\"", format);
    struct med_json_at at = child(root, "format");
    return fail_expected(&at, err, expected);
}

int med_json_keys(const struct med_json_at *at, const char *const *known, struct med_err *err)
{
    if (fail_unless_object(at, err) < 0)
        return MED_E_FORMAT;
    for (const struct cJSON *node = at->node->child; node; node = node->next) {
        size_t i = 0;
        while (known[i] && strcmp(known[i], node->string) != 0)
            i++;
        if (known[i])
            continue;
        char list[512] = "";
        size_t used = 0;
        for (i = 0; known[i] && used < sizeof list; i++) {
            int length = snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", known[i]);
            used += length > 0 ? (size_t)length : 0;
        }
        return med_json_fail(at, node->string, err, "unknown key; known here: %s",
                             used ? list : "none");
    }
    return 0;
}

int med_json_object(const struct med_json_at *at, const char *key, struct med_json_at *ret_at,
                    struct med_err *err)
{
    if (fail_unless_object(at, err) < 0)
        return MED_E_FORMAT;
    struct med_json_at next = child(at, key);
    if (!cJSON_IsObject(next.node))
        return fail_expected(&next, err, "an object");
    *ret_at = next;
    return 0;
}

int med_json_array(const struct med_json_at *at, const char *key, struct med_json_at *ret_at,
                   struct med_err *err)
{
    if (fail_unless_object(at, err) < 0)
        return MED_E_FORMAT;
    struct med_json_at next = child(at, key);
    if (!cJSON_IsArray(next.node))
        return fail_expected(&next, err, "an array");
    *ret_at = next;
    return 0;
}

int med_json_member(const struct med_json_at *at, const char *key, struct med_json_at *ret_at,
                    struct med_err *err)
{
    if (fail_unless_object(at, err) < 0)
        return MED_E_FORMAT;
    struct med_json_at next = child(at, key);
    if (!next.node || cJSON_IsNull(next.node))
        return fail_expected(&next, err, "a value");
    *ret_at = next;
    return 0;
}

int med_json_number_here(const struct med_json_at *at, double min, double max, double *ret_value,
                         struct med_err *err)
{
    if (at->node && cJSON_IsNumber(at->node) && at->node->valuedouble >= min &&
        at->node->valuedouble <= max) {
        *ret_value = at->node->valuedouble;
        return 0;
    }
    char expected[EXPECTED_MAX];
    range_describe("a number", min, max, expected);
    return fail_expected(at, err, expected);
}

int med_json_number(const struct med_json_at *at, const char *key, double min, double max,
                    double *ret_value, struct med_err *err)
{
    if (fail_unless_object(at, err) < 0)
        return MED_E_FORMAT;
    struct med_json_at next = child(at, key);
    return med_json_number_here(&next, min, max, ret_value, err);
}

int med_json_positive(const struct med_json_at *at, const char *key, double max, double *ret_value,
                      struct med_err *err)
{
    if (fail_unless_object(at, err) < 0)
        return MED_E_FORMAT;
    struct med_json_at next = child(at, key);
    if (next.node && cJSON_IsNumber(next.node) && next.node->valuedouble > 0 &&
        next.node->valuedouble <= max) {
        *ret_value = next.node->valuedouble;
        return 0;
    }
    char high[MED_OS_DOUBLE_MAX] = "";
    bool has_high = max < DBL_MAX;
    if (has_high)
        (void)med_os_print_double(high, max);
    char expected[EXPECTED_MAX];
    (void)snprintf(expected, sizeof expected, "a number > 0%s%s", has_high ? " and <= " : "", high);
    return fail_expected(&next, err, expected);
}

int med_json_integer_here(const struct med_json_at *at, int64_t min, int64_t max,
                          int64_t *ret_value, struct med_err *err)
{
    if (at->node && cJSON_IsNumber(at->node)) {
        double value = at->node->valuedouble;
        bool whole = value == floor(value) && fabs(value) <= integer_limit;
        if (whole && (int64_t)value >= min && (int64_t)value <= max) {
            *ret_value = (int64_t)value;
            return 0;
        }
    }
    char expected[EXPECTED_MAX];
    range_describe("a whole number", (double)min <= -integer_limit ? -INFINITY : (double)min,
                   (double)max >= integer_limit ? INFINITY : (double)max, expected);
    return fail_expected(at, err, expected);
}

int med_json_integer(const struct med_json_at *at, const char *key, int64_t min, int64_t max,
                     int64_t *ret_value, struct med_err *err)
{
    if (fail_unless_object(at, err) < 0)
        return MED_E_FORMAT;
    struct med_json_at next = child(at, key);
    return med_json_integer_here(&next, min, max, ret_value, err);
}

int med_json_ids(const struct med_json_at *array, int64_t min, int64_t max, uint32_t **ret_ids,
                 size_t *ret_count, struct med_err *err)
{
    MED_ASSERT(min >= 0);
    MED_ASSERT(max <= UINT32_MAX);
    if (!cJSON_IsArray(array->node))
        return fail_expected(array, err, "an array of whole numbers");
    size_t count = med_json_count(array);
    uint32_t *ids = count > 0 ? med_calloc(count, sizeof(*ids)) : NULL;
    if (count > 0 && ids == NULL)
        return fail_memory(array->doc->file, err);
    size_t i = 0;
    for (const struct cJSON *node = array->node->child; node; node = node->next, i++) {
        double value = node->valuedouble;
        if (!cJSON_IsNumber(node) || !(value >= (double)min && value <= (double)max) ||
            value != floor(value)) {
            struct med_json_at at = *array;
            int64_t unused;
            at.node = node;
            path_append_index(at.path, i);
            med_free(ids);
            return med_json_integer_here(&at, min, max, &unused, err);
        }
        ids[i] = (uint32_t)value;
    }
    *ret_ids = ids;
    *ret_count = count;
    return 0;
}

int med_json_bool_here(const struct med_json_at *at, bool *ret_value, struct med_err *err)
{
    if (!cJSON_IsBool(at->node))
        return fail_expected(at, err, "true or false");
    *ret_value = cJSON_IsTrue(at->node);
    return 0;
}

int med_json_bool(const struct med_json_at *at, const char *key, bool *ret_value,
                  struct med_err *err)
{
    if (fail_unless_object(at, err) < 0)
        return MED_E_FORMAT;
    struct med_json_at next = child(at, key);
    return med_json_bool_here(&next, ret_value, err);
}

int med_json_string_here(const struct med_json_at *at, long max_bytes, const char **ret_value,
                         struct med_err *err)
{
    size_t min = max_bytes < 0 ? 0 : 1;
    size_t max = max_bytes < 0 ? (size_t)-max_bytes : (size_t)max_bytes;
    if (at->node && cJSON_IsString(at->node)) {
        size_t length = strlen(at->node->valuestring);
        if (length >= min && length <= max) {
            *ret_value = at->node->valuestring;
            return 0;
        }
    }
    char expected[EXPECTED_MAX];
    (void)snprintf(expected, sizeof expected, "a string of %zu to %zu bytes", min, max);
    return fail_expected(at, err, expected);
}

int med_json_string(const struct med_json_at *at, const char *key, long max_bytes,
                    const char **ret_value, struct med_err *err)
{
    if (fail_unless_object(at, err) < 0)
        return MED_E_FORMAT;
    struct med_json_at next = child(at, key);
    return med_json_string_here(&next, max_bytes, ret_value, err);
}
