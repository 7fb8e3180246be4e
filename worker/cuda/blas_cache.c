/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file of timed algorithms (see blas_cache.h): parsed strictly, since what is in it goes to a
 * library that trusts it; any line that is not as it was written refuses the file.
 *
 * A file is written under another name, synced and renamed, so that a reader sees all of it or none.
 * thread: any.
 */
#include "worker/cuda/blas_cache.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const double us_max = 1e9;

enum {
    LINE_MAX_BYTES = 512,
    PATH_MAX_BYTES = 4096,
    VERSION = 1
};

/* ---- entries ---------------------------------------------------------------------------------- */

void med_blas_cache_release(struct med_blas_cache *cache)
{
    med_free(cache->entries);
    *cache = (struct med_blas_cache){0};
}

static bool same_product(const struct med_blas_entry *a, const struct med_blas_entry *b)
{
    return a->outputs == b->outputs && a->columns == b->columns && a->rows == b->rows &&
           a->adds == b->adds && a->out_dtype == b->out_dtype;
}

const struct med_blas_entry *med_blas_cache_find(const struct med_blas_cache *cache,
                                                 const struct med_blas_entry *product)
{
    for (size_t i = 0; i < cache->count; i++) {
        if (same_product(&cache->entries[i], product))
            return &cache->entries[i];
    }
    return NULL;
}

int med_blas_cache_put(struct med_blas_cache *cache, const struct med_blas_entry *entry)
{
    for (size_t i = 0; i < cache->count; i++) {
        if (same_product(&cache->entries[i], entry)) {
            cache->entries[i] = *entry;
            return 0;
        }
    }
    if (cache->count == MED_BLAS_CACHE_ENTRIES_MAX)
        return MED_E_LIMIT;
    if (cache->count == cache->capacity) {
        size_t capacity = cache->capacity ? 2 * cache->capacity : 64;
        struct med_blas_entry *more =
            med_realloc_array(cache->entries, capacity, sizeof *cache->entries);
        if (!more)
            return MED_E_NOMEM;
        cache->entries = more;
        cache->capacity = capacity;
    }
    cache->entries[cache->count++] = *entry;
    return 0;
}

/* ---- parsing ---------------------------------------------------------------------------------- */

struct reader {
    const char *at, *end, *name;
    int line;
    char text[LINE_MAX_BYTES]; /* the line at hand */
    struct med_err *err;
};

static int refuse(const struct reader *r, const char *expected)
{
    return med_err_set(r->err, MED_E_FORMAT, "%s: line %d: expected %s", r->name, r->line,
                       expected);
}

static int line_next(struct reader *r)
{
    const char *stop = r->at < r->end ? memchr(r->at, '\n', (size_t)(r->end - r->at)) : NULL;
    r->line++;
    if (!stop)
        return refuse(r, "a whole line");
    size_t length = (size_t)(stop - r->at);
    if (length >= sizeof r->text || memchr(r->at, 0, length))
        return refuse(r, "a line of text");
    memcpy(r->text, r->at, length);
    r->text[length] = 0;
    r->at = stop + 1;
    return 0;
}

/* A number in [min, max] of plain digits; *text moves behind it. */
static bool number_read(const char **text, int64_t min, int64_t max, int64_t *ret)
{
    const char *at = *text;
    int64_t value = 0;
    if (*at < '0' || *at > '9')
        return false;
    for (; *at >= '0' && *at <= '9'; at++) {
        if (value > (INT64_MAX - 9) / 10)
            return false;
        value = value * 10 + (*at - '0');
    }
    if (value < min || value > max)
        return false;
    *text = at;
    *ret = value;
    return true;
}

static bool space_read(const char **text)
{
    if (**text != ' ')
        return false;
    (*text)++;
    return true;
}

static bool hex_read(const char **text, uint64_t *ret)
{
    uint64_t value = 0;
    for (int i = 0; i < 16; i++) {
        char c = (*text)[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            return false;
        value = value << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    *text += 16;
    *ret = value;
    return true;
}

static bool dtype_read(const char **text, enum med_dtype *ret)
{
    for (int dtype = 0; dtype < MED_DTYPE_COUNT; dtype++) {
        const char *name = med_dtype_name((enum med_dtype)dtype);
        size_t length = strlen(name);
        if (strncmp(*text, name, length) == 0) {
            *text += length;
            *ret = (enum med_dtype)dtype;
            return true;
        }
    }
    return false;
}

static bool us_read(const char **text, double *ret)
{
    char *end = NULL;
    if (**text < '0' || **text > '9')
        return false;
    double value = med_os_strtod(*text, &end);
    if (!(value >= 0 && value <= us_max))
        return false;
    *text = end;
    *ret = value;
    return true;
}

/* What follows "product". */
static bool entry_read(const char *text, struct med_blas_entry *e)
{
    int64_t adds = 0;
    bool ok = space_read(&text) && number_read(&text, 1, INT32_MAX, &e->outputs) &&
              space_read(&text) && number_read(&text, 1, INT32_MAX, &e->columns) &&
              space_read(&text) && number_read(&text, 1, INT32_MAX, &e->rows) &&
              space_read(&text) && number_read(&text, 0, 1, &adds) && space_read(&text) &&
              dtype_read(&text, &e->out_dtype) && space_read(&text) && us_read(&text, &e->us);
    for (int i = 0; ok && i < MED_BLAS_ALGORITHM_WORDS; i++)
        ok = space_read(&text) && hex_read(&text, &e->algorithm[i]);
    e->adds = adds != 0;
    return ok && *text == 0;
}

/* "word value"; *ret_value borrows the line. */
static int value_next(struct reader *r, const char *word, const char **ret_value)
{
    size_t length = strlen(word);
    int rc = line_next(r);
    if (rc < 0)
        return rc;
    if (strncmp(r->text, word, length) != 0 || r->text[length] != ' ') {
        char expected[64];
        (void)snprintf(expected, sizeof expected, "\"%s ...\"", word);
        return refuse(r, expected);
    }
    *ret_value = r->text + length + 1;
    return 0;
}

static int number_next(struct reader *r, const char *word, int64_t *ret)
{
    const char *value = "";
    int rc = value_next(r, word, &value);
    if (rc < 0)
        return rc;
    if (!number_read(&value, 0, INT32_MAX, ret) || *value != 0)
        return refuse(r, "a number");
    return 0;
}

static int identity_read(struct reader *r, struct med_blas_identity *ret)
{
    const char *value = "";
    int64_t version = 0;
    int rc = number_next(r, "medley-blas", &version);
    if (rc < 0)
        return rc;
    if (version != VERSION)
        return refuse(r, "version 1 of the format");
    rc = value_next(r, "gpu", &value);
    if (rc < 0)
        return rc;
    if (*value == 0 || strlen(value) >= sizeof ret->gpu)
        return refuse(r, "the name of a GPU");
    memcpy(ret->gpu, value, strlen(value) + 1);
    rc = number_next(r, "driver", &ret->driver);
    if (rc == 0)
        rc = number_next(r, "cublas", &ret->cublas);
    if (rc == 0)
        rc = value_next(r, "dtype", &value);
    if (rc < 0)
        return rc;
    if (!dtype_read(&value, &ret->dtype) || *value != 0)
        return refuse(r, "float32, bfloat16 or float16");
    return 0;
}

static int entries_read(struct reader *r, struct med_blas_cache *cache)
{
    static const char product[] = "product", end[] = "end ";
    for (;;) {
        struct med_blas_entry entry = {0};
        int64_t count = 0;
        int rc = line_next(r);
        if (rc < 0)
            return rc;
        if (strncmp(r->text, end, sizeof end - 1) == 0) {
            const char *value = r->text + sizeof end - 1;
            if (!number_read(&value, 0, INT32_MAX, &count) || *value != 0 ||
                (size_t)count != cache->count) {
                return refuse(r, "\"end\" and the number of products");
            }
            return r->at == r->end ? 0 : refuse(r, "nothing after the end");
        }
        if (strncmp(r->text, product, sizeof product - 1) != 0 ||
            !entry_read(r->text + sizeof product - 1, &entry)) {
            return refuse(r, "a product: outputs, columns, rows, adds, dtype, microseconds and 8 "
                             "words of 16 hexadecimal digits");
        }
        if (med_blas_cache_find(cache, &entry))
            return refuse(r, "a product that is not there yet");
        rc = med_blas_cache_put(cache, &entry);
        if (rc < 0)
            return med_err_set(r->err, rc, "%s: line %d: %s", r->name, r->line, med_err_text(rc));
    }
}

int med_blas_cache_parse(const char *text, size_t length, const char *name,
                         struct med_blas_cache *ret_cache, struct med_err *err)
{
    struct med_blas_cache cache = {0};
    struct reader r = {.at = text, .end = text + length, .name = name, .err = err};
    int rc = identity_read(&r, &cache.identity);
    if (rc == 0)
        rc = entries_read(&r, &cache);
    if (rc < 0) {
        med_blas_cache_release(&cache);
        return rc;
    }
    *ret_cache = cache;
    return 0;
}

/* ---- files -------------------------------------------------------------------------------------- */

/* blas-NVIDIA_H100_80GB_HBM3-13000-130101-bfloat16.txt */
static int path_make(const char *dir, const struct med_blas_identity *i, char *out, size_t bytes,
                     struct med_err *err)
{
    char gpu[MED_BLAS_CACHE_GPU_MAX];
    size_t length = 0;
    for (; i->gpu[length]; length++) {
        char c = i->gpu[length];
        bool keep =
            (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-';
        gpu[length] = '_';
        if (keep)
            gpu[length] = c;
    }
    gpu[length] = 0;
    int written = snprintf(out, bytes, "%s/blas-%s-%" PRId64 "-%" PRId64 "-%s.txt", dir, gpu,
                           i->driver, i->cublas, med_dtype_name(i->dtype));
    if (written < 0 || (size_t)written >= bytes)
        return med_err_set(err, MED_E_LIMIT, "%s: the path is too long", dir);
    return 0;
}

int med_blas_cache_read(const char *dir, const struct med_blas_identity *identity,
                        struct med_blas_cache *ret_cache, struct med_err *err)
{
    struct med_blas_cache cache = {0};
    char path[PATH_MAX_BYTES];
    struct med_buf text;
    int rc = path_make(dir, identity, path, sizeof path, err);
    if (rc < 0)
        return rc;
    if (access(path, F_OK) != 0 && (errno == ENOENT || errno == ENOTDIR))
        return MED_E_NOT_FOUND;
    med_buf_init(&text, MED_BLAS_CACHE_BYTES_MAX);
    rc = med_buf_read_file(&text, path, err);
    if (rc < 0)
        goto out;
    rc = med_blas_cache_parse(text.data ? text.data : "", text.length, path, &cache, err);
    if (rc < 0)
        goto out;
    if (strcmp(cache.identity.gpu, identity->gpu) != 0 ||
        cache.identity.driver != identity->driver || cache.identity.cublas != identity->cublas ||
        cache.identity.dtype != identity->dtype) {
        rc = med_err_set(err, MED_E_FORMAT, "%s: of another GPU, driver, library or dtype", path);
        med_blas_cache_release(&cache);
        goto out;
    }
    *ret_cache = cache;
out:
    med_buf_release(&text);
    return rc;
}

int med_blas_cache_print(const struct med_blas_cache *cache, struct med_buf *text)
{
    const struct med_blas_identity *id = &cache->identity;
    int rc = med_buf_printf(
        text, "medley-blas %d\ngpu %s\ndriver %" PRId64 "\ncublas %" PRId64 "\ndtype %s\n", VERSION,
        id->gpu, id->driver, id->cublas, med_dtype_name(id->dtype));
    for (size_t i = 0; rc >= 0 && i < cache->count; i++) {
        const struct med_blas_entry *e = &cache->entries[i];
        /* microseconds by integers: the decimal point is the same everywhere */
        int64_t hundredths = (int64_t)(e->us * 100 + 0.5);
        rc = med_buf_printf(
            text, "product %" PRId64 " %" PRId64 " %" PRId64 " %d %s %" PRId64 ".%02" PRId64,
            e->outputs, e->columns, e->rows, e->adds ? 1 : 0, med_dtype_name(e->out_dtype),
            hundredths / 100, hundredths % 100);
        for (int w = 0; rc >= 0 && w < MED_BLAS_ALGORITHM_WORDS; w++)
            rc = med_buf_printf(text, " %016" PRIx64, e->algorithm[w]);
        if (rc >= 0)
            rc = med_buf_append_str(text, "\n");
    }
    if (rc >= 0)
        rc = med_buf_printf(text, "end %zu\n", cache->count);
    return rc < 0 ? rc : 0;
}

/* dir and what is above it. */
static int directory_make(const char *dir)
{
    char path[PATH_MAX_BYTES];
    size_t length = strlen(dir);
    if (length == 0 || length >= sizeof path)
        return -ENAMETOOLONG;
    memcpy(path, dir, length + 1);
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != 0)
            continue;
        char kept = path[i];
        path[i] = 0;
        if (mkdir(path, 0777) != 0 && errno != EEXIST && access(path, F_OK) != 0)
            return -errno;
        path[i] = kept;
    }
    return 0;
}

static int bytes_write(int file, const char *data, size_t length)
{
    while (length > 0) {
        ssize_t written = write(file, data, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -errno;
        data += written;
        length -= (size_t)written;
    }
    return fsync(file) == 0 ? 0 : -errno;
}

int med_blas_cache_write(const char *dir, const struct med_blas_cache *cache, struct med_err *err)
{
    char path[PATH_MAX_BYTES], other[PATH_MAX_BYTES + 16];
    struct med_buf text;
    int file = -1;
    med_buf_init(&text, MED_BLAS_CACHE_BYTES_MAX);
    int rc = path_make(dir, &cache->identity, path, sizeof path, err);
    if (rc < 0)
        goto out;
    rc = med_blas_cache_print(cache, &text);
    if (rc < 0) {
        rc = med_err_set(err, rc, "%s: %s", path, med_err_text(rc));
        goto out;
    }
    rc = directory_make(dir);
    if (rc < 0) {
        rc = med_err_set(err, MED_E_IO, "%s: cannot be made: %s", dir, med_os_errno_text(rc));
        goto out;
    }
    (void)snprintf(other, sizeof other, "%s.XXXXXX", path); /* fits: see its size */
    file = mkstemp(other);
    rc = file < 0 ? -errno : bytes_write(file, text.data, text.length);
    if (file >= 0 && close(file) != 0 && rc == 0)
        rc = -errno;
    if (rc == 0 && rename(other, path) != 0)
        rc = -errno;
    if (rc < 0) {
        if (file >= 0)
            (void)unlink(other); /* nothing else can be done about it */
        rc = med_err_set(err, MED_E_IO, "%s: cannot be written: %s", path, med_os_errno_text(rc));
    }
out:
    med_buf_release(&text);
    return rc < 0 ? rc : 0;
}
