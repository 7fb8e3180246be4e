/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Safetensors: eight bytes of header length, a JSON header, then the numbers.
 *
 * The header is parsed by base/json.h (which refuses what is not UTF-8, and names that stand twice),
 * every entry is checked alone (dtype, shape, bytes, alignment), and then, in order of their offsets,
 * that the tensors cover the data exactly.  The list is then sorted by name for look-ups.  Cost is
 * O(count log count); the JSON tree is freed before open returns, the names are copied into one
 * block.
 *
 * The mapping is private and read-only.  A file that somebody cuts while it is mapped ends the process
 * with SIGBUS; nothing here guards against that.
 * thread: whoever opens; immutable afterwards.
 */
#include "worker/model/safetensors.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/os.h"
#include "worker/model/dtype.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    LENGTH_BYTES = 8,
    DTYPE_NAME_MAX = 16,
    SHOWN_MAX = 160
};

/* All that the format knows, and what an element takes. */
static const struct {
    const char *name;
    int bits;
} known_dtypes[] = {
    {"BOOL", 8}, {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},
    {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8},     {"F8_E4M3FNUZ", 8},
    {"I16", 16}, {"U16", 16},    {"F16", 16},    {"F8_E5M2FNUZ", 8}, {"BF16", 16},
    {"I32", 32}, {"U32", 32},    {"F32", 32},    {"C64", 64},        {"F64", 64},
    {"I64", 64}, {"U64", 64},
};

/* A file while its header is read. */
struct reading {
    const char *name; /* for messages */
    const unsigned char *data;
    uint64_t data_bytes;
    struct med_safetensors *file;
    char *names_end; /* where the next name goes */
    struct med_err *err;
};

static int fail_memory(const char *name, struct med_err *err)
{
    return med_err_set(err, MED_E_NOMEM, "%s: %s while its header was read", name,
                       med_err_text(MED_E_NOMEM));
}

/* ---- one entry ---- */

static int read_dtype(struct reading *r, const struct med_json_at *at, struct med_tensor *tensor,
                      int *ret_bits)
{
    const char *name;
    int rc = med_json_string(at, "dtype", DTYPE_NAME_MAX, &name, r->err);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < sizeof known_dtypes / sizeof known_dtypes[0]; i++) {
        if (strcmp(name, known_dtypes[i].name) != 0)
            continue;
        tensor->dtype_name = known_dtypes[i].name;
        tensor->dtype = med_dtype_find(name);
        *ret_bits = known_dtypes[i].bits;
        return 0;
    }
    return med_json_fail(at, "dtype", r->err,
                         "found \"%s\", expected a dtype of the safetensors format (F32, BF16, "
                         "F16, ...)",
                         name);
}

static int read_shape(struct reading *r, const struct med_json_at *at, struct med_tensor *tensor)
{
    struct med_json_at shape;
    int rc = med_json_array(at, "shape", &shape, r->err);
    if (rc < 0)
        return rc;
    size_t dims = med_json_count(&shape);
    if (dims > MED_TENSOR_DIMS_MAX) {
        return med_json_fail(at, "shape", r->err, "found %zu dimensions, expected at most %d", dims,
                             MED_TENSOR_DIMS_MAX);
    }
    tensor->elements = 1;
    struct med_json_at item = {0};
    size_t index;
    while (med_json_next(&shape, &index, &item, NULL)) {
        rc = med_json_integer_here(&item, 0, INT64_MAX, &tensor->shape[index], r->err);
        if (rc < 0)
            return rc;
        if (__builtin_mul_overflow(tensor->elements, tensor->shape[index], &tensor->elements))
            return med_json_fail(at, "shape", r->err, "the product of the dimensions overflows");
    }
    tensor->dims = (int)dims;
    return 0;
}

static int read_place(struct reading *r, const struct med_json_at *at, int bits,
                      struct med_tensor *tensor)
{
    struct med_json_at offsets;
    int rc = med_json_array(at, "data_offsets", &offsets, r->err);
    if (rc < 0)
        return rc;
    size_t count = med_json_count(&offsets);
    if (count != 2) {
        return med_json_fail(at, "data_offsets", r->err,
                             "found %zu numbers, expected 2: begin and end", count);
    }
    int64_t place[2] = {0};
    for (size_t i = 0; i < 2; i++) {
        struct med_json_at item = med_json_index(&offsets, i);
        rc = med_json_integer_here(&item, 0, INT64_MAX, &place[i], r->err);
        if (rc < 0)
            return rc;
    }
    if (place[0] > place[1] || (uint64_t)place[1] > r->data_bytes) {
        return med_json_fail(at, "data_offsets", r->err,
                             "found [%lld, %lld], expected a range within the %llu bytes of data",
                             (long long)place[0], (long long)place[1],
                             (unsigned long long)r->data_bytes);
    }
    int64_t total_bits;
    if (__builtin_mul_overflow(tensor->elements, (int64_t)bits, &total_bits) ||
        total_bits % 8 != 0 || total_bits / 8 != place[1] - place[0]) {
        return med_json_fail(
            at, "data_offsets", r->err, "found %lld bytes, expected what %lld elements of %s take",
            (long long)(place[1] - place[0]), (long long)tensor->elements, tensor->dtype_name);
    }
    tensor->data = r->data + place[0];
    tensor->bytes = (size_t)(place[1] - place[0]);
    if (tensor->dtype >= 0 && tensor->bytes > 0 &&
        (uintptr_t)tensor->data % med_dtype_bytes((enum med_dtype)tensor->dtype) != 0) {
        return med_json_fail(at, "data_offsets", r->err,
                             "the data begin at a place that is not a multiple of %s's size; write "
                             "the file again with a current safetensors library, which aligns it",
                             tensor->dtype_name);
    }
    return 0;
}

static int read_tensor(struct reading *r, const struct med_json_at *at, const char *key)
{
    struct med_tensor *tensor = &r->file->tensors[r->file->count];
    *tensor = (struct med_tensor){0};
    if (!med_json_is_object(at))
        return med_json_fail(at, NULL, r->err, "expected an object: dtype, shape, data_offsets");
    int bits = 0;
    int rc = read_dtype(r, at, tensor, &bits);
    if (rc == 0)
        rc = read_shape(r, at, tensor);
    if (rc == 0)
        rc = read_place(r, at, bits, tensor);
    if (rc < 0)
        return rc;
    size_t bytes = strlen(key) + 1;
    memcpy(r->names_end, key, bytes);
    tensor->name = r->names_end;
    r->names_end += bytes;
    r->file->count++;
    return 0;
}

static int check_metadata(struct reading *r, const struct med_json_at *at)
{
    if (!med_json_is_object(at))
        return med_json_fail(at, NULL, r->err, "expected an object of strings");
    struct med_json_at item = {0};
    size_t index;
    while (med_json_next(at, &index, &item, NULL)) {
        if (!med_json_is_string(&item))
            return med_json_fail(&item, NULL, r->err, "expected a string");
    }
    return 0;
}

/* ---- all entries ---- */

static int compare_places(const void *a, const void *b)
{
    const struct med_tensor *x = a;
    const struct med_tensor *y = b;
    if (x->data != y->data)
        return (const char *)x->data < (const char *)y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct med_tensor *)a)->name, ((const struct med_tensor *)b)->name);
}

/* The tensors must follow each other from the first byte of the data to the last. */
static int check_cover(struct reading *r)
{
    struct med_safetensors *file = r->file;
    if (file->count > 1)
        qsort(file->tensors, file->count, sizeof *file->tensors, compare_places);
    uint64_t end = 0;
    const char *before = "the start of the data";
    for (size_t i = 0; i < file->count; i++) {
        const struct med_tensor *tensor = &file->tensors[i];
        uint64_t begin = (uint64_t)((const unsigned char *)tensor->data - r->data);
        if (begin != end) {
            return med_err_set(r->err, MED_E_FORMAT,
                               "%s: tensor %.*s begins at byte %llu of the data, expected %llu, "
                               "where %.*s ends: %s",
                               r->name, SHOWN_MAX, tensor->name, (unsigned long long)begin,
                               (unsigned long long)end, SHOWN_MAX, before,
                               begin < end ? "they overlap" : "there is a hole between them");
        }
        end += tensor->bytes;
        before = tensor->name;
    }
    if (end != r->data_bytes) {
        return med_err_set(
            r->err, MED_E_FORMAT, "%s: has %llu bytes of data, expected %llu, where %.*s ends",
            r->name, (unsigned long long)r->data_bytes, (unsigned long long)end, SHOWN_MAX, before);
    }
    if (file->count > 1)
        qsort(file->tensors, file->count, sizeof *file->tensors, compare_names);
    return 0;
}

static int read_header(struct reading *r, const struct med_json_at *root)
{
    size_t name_bytes = 1;
    struct med_json_at item = {0};
    size_t index;
    const char *key;
    while (med_json_next(root, &index, &item, &key))
        name_bytes += strlen(key) + 1;
    size_t count = med_json_count(root);
    r->file->names = med_alloc(name_bytes);
    r->file->tensors = med_calloc(count + 1, sizeof *r->file->tensors);
    if (!r->file->names || !r->file->tensors)
        return fail_memory(r->name, r->err);
    r->names_end = r->file->names;
    item = (struct med_json_at){0};
    while (med_json_next(root, &index, &item, &key)) {
        int rc = strcmp(key, "__metadata__") == 0 ? check_metadata(r, &item)
                                                  : read_tensor(r, &item, key);
        if (rc < 0)
            return rc;
    }
    return check_cover(r);
}

/* ---- the file ---- */

static uint64_t little_endian(const unsigned char *bytes)
{
    uint64_t value = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        value = value << 8 | bytes[i];
    return value;
}

/* The length of the header, from the first bytes. */
static int check_length(const unsigned char *bytes, size_t count, const char *name,
                        uint64_t *ret_length, struct med_err *err)
{
    static const char pointer[] = "version https://git-lfs";
    if (count >= sizeof pointer - 1 && memcmp(bytes, pointer, sizeof pointer - 1) == 0) {
        return med_err_set(err, MED_E_FORMAT,
                           "%s: is a Git LFS pointer and not the file itself; fetch it with "
                           "`git lfs pull`",
                           name);
    }
    if (count < LENGTH_BYTES) {
        return med_err_set(err, MED_E_FORMAT,
                           "%s: has %zu bytes, expected a safetensors file: 8 bytes of header "
                           "length, the header, the data",
                           name, count);
    }
    uint64_t length = little_endian(bytes);
    if (length > count - LENGTH_BYTES) {
        return med_err_set(err, MED_E_FORMAT,
                           "%s: the header length is %llu, expected at most the %zu bytes that "
                           "follow it in the file (no safetensors file, or cut off)",
                           name, (unsigned long long)length, count - LENGTH_BYTES);
    }
    if (length > MED_LIMIT_SAFETENSORS_HEADER_BYTES) {
        return med_err_set(err, MED_E_LIMIT,
                           "%s: the header length is %llu, expected at most %d, which is the "
                           "format's limit",
                           name, (unsigned long long)length, MED_LIMIT_SAFETENSORS_HEADER_BYTES);
    }
    if (length > MED_LIMIT_JSON_BYTES) {
        return med_err_set(err, MED_E_LIMIT,
                           "%s: the header length is %llu, expected at most %d, which is the limit "
                           "of a JSON text here",
                           name, (unsigned long long)length, MED_LIMIT_JSON_BYTES);
    }
    *ret_length = length;
    return 0;
}

int med_safetensors_parse(const void *bytes, size_t count, const char *name,
                          struct med_safetensors *ret_file, struct med_err *err)
{
    struct med_err own;
    if (!err)
        err = &own;
    *err = (struct med_err){0};
    uint64_t length = 0;
    int rc = check_length(bytes, count, name, &length, err);
    if (rc < 0)
        return rc;
    const unsigned char *header = (const unsigned char *)bytes + LENGTH_BYTES;
    if (length == 0 || *header != '{') {
        return med_err_set(err, MED_E_FORMAT,
                           "%s: the header of %llu bytes does not begin with {, expected a JSON "
                           "object",
                           name, (unsigned long long)length);
    }
    struct med_json_doc doc;
    rc = med_json_parse((const char *)header, (size_t)length, name, &doc, err);
    if (rc < 0) {
        med_err_prefix(err, "safetensors header");
        return rc;
    }
    struct med_safetensors file = {0};
    struct reading r = {.name = name,
                        .data = header + length,
                        .data_bytes = count - LENGTH_BYTES - length,
                        .file = &file,
                        .err = err};
    struct med_json_at root = med_json_root(&doc);
    rc = read_header(&r, &root);
    med_json_free(&doc);
    if (rc == 0 && !(file.path = med_strdup(name)))
        rc = fail_memory(name, err);
    if (rc < 0) {
        med_safetensors_close(&file);
        return rc;
    }
    *ret_file = file;
    return 0;
}

static int fail_open(const char *verb, const char *path, int error, struct med_err *err)
{
    return med_err_set(err, med_err_input_code(error), "cannot %s %s: %s", verb, path,
                       med_os_errno_text(-error));
}

/* Maps the whole file; a file of no bytes is refused, since it cannot be mapped. */
static int map(const char *path, void **ret_mapping, size_t *ret_bytes, struct med_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return fail_open("open", path, errno, err);
    int rc = 0;
    struct stat status;
    if (fstat(fd, &status) != 0) {
        rc = fail_open("look at", path, errno, err);
    } else if (!S_ISREG(status.st_mode)) {
        rc = med_err_set(err, MED_E_INVALID, "%s: is no regular file", path);
    } else if (status.st_size <= 0) {
        rc = med_err_set(err, MED_E_FORMAT, "%s: is empty, expected a safetensors file", path);
    } else if ((uintmax_t)status.st_size > SIZE_MAX / 2) {
        rc = med_err_set(err, MED_E_LIMIT, "%s: is too large for this machine's addresses", path);
    }
    if (rc == 0) {
        size_t bytes = (size_t)status.st_size;
        void *mapping = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (mapping == MAP_FAILED) {
            rc = med_err_set(err, errno == ENOMEM ? MED_E_NOMEM : MED_E_IO, "cannot map %s: %s",
                             path, med_os_errno_text(-errno));
        } else {
            /* Weights are read soon and whole: let the kernel begin. A hint; its failure is none. */
            (void)posix_madvise(mapping, bytes, POSIX_MADV_WILLNEED);
            *ret_mapping = mapping;
            *ret_bytes = bytes;
        }
    }
    (void)close(fd); // the mapping stays; nothing was written
    return rc;
}

int med_safetensors_open(const char *path, struct med_safetensors *ret_file, struct med_err *err)
{
    void *mapping = NULL;
    size_t bytes = 0;
    int rc = map(path, &mapping, &bytes, err);
    if (rc < 0)
        return rc;
    struct med_safetensors file;
    rc = med_safetensors_parse(mapping, bytes, path, &file, err);
    if (rc < 0) {
        (void)munmap(mapping, bytes); // our own mapping: cannot fail
        return rc;
    }
    file.mapping = mapping;
    file.mapping_bytes = bytes;
    *ret_file = file;
    return 0;
}

void med_safetensors_close(struct med_safetensors *file)
{
    if (file->mapping)
        (void)munmap(file->mapping, file->mapping_bytes);
    med_free(file->path);
    med_free(file->tensors);
    med_free(file->names);
    *file = (struct med_safetensors){0};
}

static int compare_name(const void *name, const void *tensor)
{
    return strcmp(name, ((const struct med_tensor *)tensor)->name);
}

const struct med_tensor *med_safetensors_find(const struct med_safetensors *file, const char *name)
{
    if (file->count == 0)
        return NULL;
    return bsearch(name, file->tensors, file->count, sizeof *file->tensors, compare_name);
}
