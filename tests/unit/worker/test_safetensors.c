/* SPDX-License-Identifier: Apache-2.0 */
/* Safetensors: what is read, and what each refusal says. */
#include "worker/model/safetensors.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "tests/check.h"
#include "worker/model/dtype.h"

#include <unistd.h>

enum {
    BYTES_MAX = 4096
};

/* A file in memory, aligned as a mapping is: the header (padded to 8 if `pad`), then data bytes. */
static size_t build(uint64_t storage[BYTES_MAX / 8], const char *header, bool pad, size_t data)
{
    unsigned char *bytes = (unsigned char *)storage;
    size_t length = strlen(header);
    memcpy(bytes + 8, header, length + 1); /* the NUL is overwritten or after the end */
    while (pad && length % 8 != 0)
        bytes[8 + length++] = ' ';
    for (size_t i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(length >> (8 * i) & 0xff);
    for (size_t i = 0; i < data; i++)
        bytes[8 + length + i] = (unsigned char)i;
    return 8 + length + data;
}

static void test_parse_when_all_kinds_then_listed_and_found(void)
{
    static uint64_t storage[BYTES_MAX / 8];
    size_t count = build(storage,
                         "{\"__metadata__\":{\"format\":\"pt\"},"
                         "\"z\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                         "\"scalar\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[24,26]},"
                         "\"empty\":{\"dtype\":\"F16\",\"shape\":[0,5],\"data_offsets\":[26,26]},"
                         "\"ids\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[26,34]},"
                         "\"f4\":{\"dtype\":\"F4\",\"shape\":[3,2],\"data_offsets\":[34,37]},"
                         "\"a\\u00e9\":{\"dtype\":\"F8_E4M3\",\"shape\":[1,1,1,1,1,1,1,1],"
                         "\"data_offsets\":[37,38],\"later\":[]}}",
                         true, 38);
    struct med_safetensors f;
    struct med_err err = {0};
    int rc = med_safetensors_parse(storage, count, "mem", &f, &err);
    if (rc < 0)
        (void)fprintf(stderr, "%s\n", err.text);
    REQUIRE(rc == 0);
    CHECK_UINT(f.count, 6);
    const struct med_tensor *t = med_safetensors_find(&f, "z");
    REQUIRE(t);
    CHECK_INT(t->dtype, MED_DTYPE_F32);
    CHECK_INT(t->dims, 2);
    CHECK_INT(t->shape[0] * 10 + t->shape[1], 23);
    CHECK_INT(t->elements, 6);
    CHECK_UINT(t->bytes, 24);
    CHECK_INT(((const unsigned char *)t->data)[5], 5);
    t = med_safetensors_find(&f, "scalar");
    REQUIRE(t);
    CHECK_INT(t->dims, 0);
    CHECK_INT(t->elements, 1);
    CHECK_INT(((const unsigned char *)t->data)[0], 24);
    t = med_safetensors_find(&f, "empty");
    REQUIRE(t);
    CHECK_INT(t->elements, 0);
    CHECK_UINT(t->bytes, 0);
    t = med_safetensors_find(&f, "ids");
    REQUIRE(t);
    CHECK_INT(t->dtype, -1);
    CHECK_STR(t->dtype_name, "I64");
    t = med_safetensors_find(&f, "a\xc3\xa9");
    REQUIRE(t);
    CHECK_INT(t->dims, 8);
    CHECK(!med_safetensors_find(&f, "__metadata__"));
    CHECK(!med_safetensors_find(&f, "zz"));
    CHECK(!med_safetensors_find(&f, ""));
    med_safetensors_close(&f);
    med_safetensors_close(&f);
}

#define T(name, dtype, shape, begin, end) \
 "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static void test_parse_when_header_is_wrong_then_sentence_names_it(void)
{
    static const struct {
        const char *header;
        size_t data;
        const char *part;
    } rows[] = {
        {"", 0, "mem: the header of 0 bytes does not begin with {"},
        {"[]", 0, "does not begin with {"},
        {" {}", 0, "does not begin with {"},
        {"{}", 1, "mem: has 1 bytes of data, expected 0, where the start of the data ends"},
        {"{" T("a", "F32", "[2]", 0, 8) "}", 12, "has 12 bytes of data, expected 8, where a ends"},
        {"{" T("a", "F32", "[2]", 0, 8) "}", 7,
         "$.a.data_offsets: found [0, 8], expected a range "
         "within the 7 bytes of data"},
        {"{" T("a", "F32", "[2]", 8, 0) "}", 8, "found [8, 0], expected a range"},
        {"{" T("a", "F32", "[2]", -1, 7) "}", 8, "$.a.data_offsets[0]: found -1, expected"},
        {"{" T("a", "F32", "[2]", 0, 8.5) "}", 9, "$.a.data_offsets[1]: found 8.5, expected"},
        {"{" T("a", "F32", "[2]", 0, 1e300) "}", 9, "$.a.data_offsets[1]: found 1e+300"},
        {"{" T("a", "F32", "[3]", 0, 8) "}", 8,
         "$.a.data_offsets: found 8 bytes, expected what 3 "
         "elements of F32 take"},
        {"{" T("a", "F4", "[3]", 0, 1) "}", 1, "what 3 elements of F4 take"},
        {"{" T("a", "F32", "[-1]", 0, 8) "}", 8, "$.a.shape[0]: found -1, expected"},
        {"{" T("a", "F32", "[9007199254740992,9007199254740992]", 0, 8) "}", 8,
         "$.a.shape: the product of the dimensions overflows"},
        {"{" T("a", "F64", "[9007199254740992,1000]", 0, 8) "}", 8, "elements of F64 take"},
        {"{" T("a", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4,
         "$.a.shape: found 9 dimensions, expected at most 8"},
        {"{" T("a", "F32", "2", 0, 8) "}", 8, "$.a.shape: found 2, expected an array"},
        {"{" T("a", "FP8", "[2]", 0, 8) "}", 8,
         "$.a.dtype: found \"FP8\", expected a dtype of the safetensors format"},
        {"{" T("a", "float32", "[2]", 0, 8) "}", 8, "found \"float32\""},
        {"{\"a\":{\"shape\":[],\"data_offsets\":[0,4]}}", 4, "$.a.dtype: is missing"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "$.a.data_offsets: is missing"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4]}}", 4,
         "$.a.data_offsets: found 1 numbers, expected 2"},
        {"{\"a\":[1]}", 0, "$.a: expected an object: dtype, shape, data_offsets"},
        {"{\"__metadata__\":[]}", 0, "$.__metadata__: expected an object of strings"},
        {"{\"__metadata__\":{\"n\":1}}", 0, "$.__metadata__.n: expected a string"},
        {"{" T("a", "F32", "[2]", 0, 8) "," T("a", "F32", "[2]", 8, 16) "}", 16,
         "this key stands twice"},
        {"{" T("a", "F32", "[2]", 0, 8) "," T("b", "F32", "[2]", 4, 12) "}", 12,
         "mem: tensor b begins at byte 4 of the data, expected 8, where a ends: they overlap"},
        {"{" T("b", "F32", "[2]", 0, 8) "," T("a", "F32", "[2]", 12, 20) "}", 20,
         "tensor a begins at byte 12 of the data, expected 8, where b ends: there is a hole"},
        {"{" T("a", "F32", "[2]", 4, 12) "}", 12,
         "begins at byte 4 of the data, expected 0, where the start of the data ends: there is a"},
        {"{" T("a", "U8", "[1]", 0, 1) "," T("b", "F32", "[1]", 1, 5) "}", 5,
         "$.b.data_offsets: the data begin at a place that is not a multiple of F32's size"},
        {"{\"a\xff\":1}", 0, "safetensors header: mem: "},
        {"{\"a\":{}", 0, "safetensors header: mem: "},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        static uint64_t storage[BYTES_MAX / 8];
        size_t count = build(storage, rows[i].header, *rows[i].header == '{', rows[i].data);
        struct med_safetensors f;
        struct med_err err = {0};
        CHECK_INT(med_safetensors_parse(storage, count, "mem", &f, &err), MED_E_FORMAT);
        CHECK_CONTAINS(err.text, rows[i].part);
    }
}

static void test_parse_when_length_field_is_wrong_then_refused(void)
{
    static uint64_t storage[BYTES_MAX / 8];
    static const struct {
        uint64_t length;
        size_t count;
        int code;
        const char *part;
    } rows[] = {
        {0, 0, MED_E_FORMAT, "mem: has 0 bytes, expected a safetensors file"},
        {0, 7, MED_E_FORMAT, "mem: has 7 bytes"},
        {3, 10, MED_E_FORMAT, "mem: the header length is 3, expected at most the 2 bytes"},
        {UINT64_MAX, 100, MED_E_FORMAT, "the header length is 18446744073709551615"},
        {UINT64_MAX - 7, 100, MED_E_FORMAT, "expected at most the 92 bytes"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        storage[0] = rows[i].length; /* the tests run on little-endian machines, as Medley does */
        struct med_safetensors f;
        struct med_err err = {0};
        CHECK_INT(med_safetensors_parse(storage, rows[i].count, "mem", &f, &err), rows[i].code);
        CHECK_CONTAINS(err.text, rows[i].part);
    }
    /* Over the limits: the header need not be touched, so untouched memory will do. */
    const size_t large = (size_t)MED_LIMIT_SAFETENSORS_HEADER_BYTES + 64;
    uint64_t *huge = calloc(large, 1);
    REQUIRE(huge);
    struct med_safetensors f;
    struct med_err err = {0};
    huge[0] = MED_LIMIT_SAFETENSORS_HEADER_BYTES + 1;
    CHECK_INT(med_safetensors_parse(huge, large, "mem", &f, &err), MED_E_LIMIT);
    CHECK_CONTAINS(err.text, "the header length is 100000001, expected at most 100000000");
    huge[0] = MED_LIMIT_JSON_BYTES + 1;
    CHECK_INT(med_safetensors_parse(huge, large, "mem", &f, &err), MED_E_LIMIT);
    CHECK_CONTAINS(err.text, "the header length is 67108865, expected at most 67108864");
    free(huge);
}

static void test_parse_when_lfs_pointer_then_says_so(void)
{
    static const char text[] = "version https://git-lfs.github.com/spec/v1\noid sha256:12\n";
    struct med_safetensors f;
    struct med_err err = {0};
    CHECK_INT(med_safetensors_parse(text, sizeof text - 1, "m", &f, &err), MED_E_FORMAT);
    CHECK_CONTAINS(err.text, "m: is a Git LFS pointer");
}

static void test_parse_when_many_tensors_then_quick_and_all_found(void)
{
    enum {
        COUNT = 40000
    };
    char *header = malloc((size_t)COUNT * 96);
    REQUIRE(header);
    size_t used = 0;
    header[used++] = '{';
    for (int i = 0; i < COUNT; i++) {
        used += (size_t)snprintf(header + used, 96,
                                 "%s\"t.%d\":{\"dtype\":\"U8\",\"shape\":[1],"
                                 "\"data_offsets\":[%d,%d]}",
                                 i ? "," : "", i, i, i + 1);
    }
    header[used++] = '}';
    while (used % 8 != 0)
        header[used++] = ' ';
    unsigned char *bytes = calloc(8 + used + COUNT, 1);
    REQUIRE(bytes);
    for (size_t i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(used >> (8 * i) & 0xff);
    memcpy(bytes + 8, header, used);
    struct med_safetensors f;
    struct med_err err = {0};
    REQUIRE(med_safetensors_parse(bytes, 8 + used + COUNT, "mem", &f, &err) == 0);
    CHECK_UINT(f.count, COUNT);
    for (int i = 0; i < COUNT; i += 97) {
        char name[32];
        (void)snprintf(name, sizeof name, "t.%d", i);
        const struct med_tensor *t = med_safetensors_find(&f, name);
        REQUIRE(t);
        CHECK_INT((const unsigned char *)t->data - bytes, (int64_t)(8 + used) + i);
    }
    med_safetensors_close(&f);
    free(bytes);
    free(header);
}

static void test_open_when_no_such_file_or_no_file_then_refused(void)
{
    struct med_safetensors f;
    struct med_err err = {0};
    CHECK_INT(med_safetensors_open("/nonexistent/a.safetensors", &f, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "cannot open /nonexistent/a.safetensors: No such file");
    CHECK_INT(med_safetensors_open("/tmp", &f, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "/tmp: is no regular file");
    char path[] = "/tmp/medley-safetensors-XXXXXX";
    int fd = mkstemp(path);
    REQUIRE(fd >= 0);
    CHECK_INT(med_safetensors_open(path, &f, &err), MED_E_FORMAT);
    CHECK_CONTAINS(err.text, "is empty, expected a safetensors file");
    (void)close(fd);
    (void)unlink(path);
}

static void test_parse_when_nth_allocation_fails_then_no_memory_and_no_leak(void)
{
    static uint64_t storage[BYTES_MAX / 8];
    size_t count = build(storage, "{" T("a", "F32", "[2]", 0, 8) "}", true, 8);
    int64_t live = med_alloc_bytes_live();
    bool done = false;
    for (uint64_t n = 1; n < 200 && !done; n++) {
        struct med_safetensors f;
        struct med_err err = {0};
        (void)med_alloc_fail_nth(n);
        int rc = med_safetensors_parse(storage, count, "mem", &f, &err);
        (void)med_alloc_fail_nth(0);
        if (rc == 0) {
            done = true;
            med_safetensors_close(&f);
        } else {
            CHECK_INT(rc, MED_E_NOMEM);
            CHECK_CONTAINS(err.text, "mem");
        }
        CHECK_INT(med_alloc_bytes_live(), live);
    }
    CHECK(done);
}

int main(void)
{
    RUN(test_parse_when_all_kinds_then_listed_and_found);
    RUN(test_parse_when_header_is_wrong_then_sentence_names_it);
    RUN(test_parse_when_length_field_is_wrong_then_refused);
    RUN(test_parse_when_lfs_pointer_then_says_so);
    RUN(test_parse_when_many_tensors_then_quick_and_all_found);
    RUN(test_open_when_no_such_file_or_no_file_then_refused);
    RUN(test_parse_when_nth_allocation_fails_then_no_memory_and_no_leak);
    return check_finish();
}
