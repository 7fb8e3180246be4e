/* SPDX-License-Identifier: Apache-2.0 */
/* The file of timed algorithms: what is written is read back, and what each refusal says. */
#include "worker/cuda/blas_cache.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "tests/check.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD "medley-blas 1\ngpu Some GPU\ndriver 13000\ncublas 130101\ndtype bfloat16\n"
#define WORDS                                                            \
 " 0000000000000001 00000000000000ff 123456789abcdef0 0000000000000000 " \
 "ffffffffffffffff 0000000000000000 0000000000000000 0000000000000007"
#define PRODUCT "product 12288 4096 512 1 float32 71.93" WORDS "\n"

static const struct med_blas_identity identity = {"Some GPU", 13000, 130101, MED_DTYPE_BF16};

static char directory[] = "/tmp/medley-blas-XXXXXX";
static char inner[sizeof directory + 16];

static struct med_blas_entry entry_of(int64_t rows)
{
    return (struct med_blas_entry){.outputs = 12288,
                                   .columns = 4096,
                                   .rows = rows,
                                   .adds = rows % 2 == 0,
                                   .out_dtype = MED_DTYPE_BF16,
                                   .us = 0.25 * (double)rows,
                                   .algorithm = {(uint64_t)rows, 2, 3, UINT64_MAX, 5, 6, 7, 8}};
}

static struct med_blas_cache filled(int64_t count)
{
    struct med_blas_cache cache = {.identity = identity};
    for (int64_t rows = 1; rows <= count; rows++) {
        struct med_blas_entry entry = entry_of(rows);
        REQUIRE(med_blas_cache_put(&cache, &entry) == 0);
    }
    return cache;
}

static void check_same(const struct med_blas_cache *a, const struct med_blas_cache *b)
{
    CHECK_STR(a->identity.gpu, b->identity.gpu);
    CHECK_INT(a->identity.driver, b->identity.driver);
    CHECK_INT(a->identity.cublas, b->identity.cublas);
    CHECK_INT(a->identity.dtype, b->identity.dtype);
    REQUIRE(a->count == b->count);
    for (size_t i = 0; i < a->count; i++) {
        const struct med_blas_entry *x = &a->entries[i], *y = med_blas_cache_find(b, x);
        REQUIRE(y);
        CHECK_INT(x->rows, y->rows);
        CHECK_DOUBLE(x->us, y->us, 0.005);
        CHECK(memcmp(x->algorithm, y->algorithm, sizeof x->algorithm) == 0);
    }
}

static void test_parse_when_written_by_hand_then_read(void)
{
    static const char text[] = HEAD PRODUCT "end 1\n";
    struct med_blas_cache cache;
    struct med_err err = {0};
    REQUIRE(med_blas_cache_parse(text, sizeof text - 1, "file", &cache, &err) == 0);
    CHECK_STR(cache.identity.gpu, "Some GPU");
    CHECK_INT(cache.identity.dtype, MED_DTYPE_BF16);
    REQUIRE(cache.count == 1);
    CHECK_INT(cache.entries[0].outputs, 12288);
    CHECK_INT(cache.entries[0].columns, 4096);
    CHECK_INT(cache.entries[0].rows, 512);
    CHECK(cache.entries[0].adds);
    CHECK_INT(cache.entries[0].out_dtype, MED_DTYPE_F32);
    CHECK_DOUBLE(cache.entries[0].us, 71.93, 1e-9);
    CHECK_UINT(cache.entries[0].algorithm[2], UINT64_C(0x123456789abcdef0));
    CHECK_UINT(cache.entries[0].algorithm[7], 7);
    med_blas_cache_release(&cache);
}

static void test_parse_when_not_as_written_then_refused(void)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "file: line 1: expected a whole line"},
        {"medley-blas 2\n", "file: line 1: expected version 1 of the format"},
        {"medley-blas 1", "file: line 1: expected a whole line"},
        {"{\"version\": 1}\n", "file: line 1: expected \"medley-blas ...\""},
        {"medley-blas 1\ngpu \n", "file: line 2: expected the name of a GPU"},
        {"medley-blas 1\ngpu A\ndriver x\n", "file: line 3: expected a number"},
        {"medley-blas 1\ngpu A\ndriver 1\ncublas 99999999999999999999\n",
         "file: line 4: expected a number"},
        {"medley-blas 1\ngpu A\ndriver 1\ncublas 1\ndtype float64\n",
         "file: line 5: expected float32, bfloat16 or float16"},
        {HEAD, "file: line 6: expected a whole line"},
        {HEAD PRODUCT, "file: line 7: expected a whole line"},
        {HEAD PRODUCT "end 2\n", "file: line 7: expected \"end\" and the number of products"},
        {HEAD PRODUCT "end 1\n\n", "file: line 7: expected nothing after the end"},
        {HEAD PRODUCT PRODUCT "end 2\n", "file: line 7: expected a product that is not there yet"},
        {HEAD "product 0 4096 512 1 float32 71.93" WORDS "\nend 1\n",
         "file: line 6: expected a product: "},
        {HEAD "product 12288 4096 512 2 float32 71.93" WORDS "\nend 1\n",
         "file: line 6: expected a product: "},
        {HEAD "product 12288 4096 512 1 int8 71.93" WORDS "\nend 1\n",
         "file: line 6: expected a product: "},
        {HEAD "product 12288 4096 512 1 float32 1e30" WORDS "\nend 1\n",
         "file: line 6: expected a product: "},
        {HEAD "product 12288 4096 512 1 float32 -1" WORDS "\nend 1\n",
         "file: line 6: expected a product: "},
        {HEAD "product 12288 4096 512 1 float32 71.93" WORDS " \nend 1\n",
         "file: line 6: expected a product: "},
        {HEAD "product 12288 4096 512 1 float32 71.93 00\nend 1\n",
         "file: line 6: expected a product: "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct med_blas_cache cache = {0};
        struct med_err err = {0};
        int rc = med_blas_cache_parse(cases[i].text, strlen(cases[i].text), "file", &cache, &err);
        CHECK_INT(rc, MED_E_FORMAT);
        CHECK(strncmp(err.text, cases[i].says, strlen(cases[i].says)) == 0);
        CHECK(!cache.entries);
    }
}

static void test_put_when_the_same_product_then_replaced(void)
{
    struct med_blas_cache cache = filled(3);
    struct med_blas_entry entry = entry_of(2);
    entry.us = 99;
    CHECK_INT(med_blas_cache_put(&cache, &entry), 0);
    CHECK_UINT(cache.count, 3);
    CHECK_DOUBLE(med_blas_cache_find(&cache, &entry)->us, 99, 0);
    entry.adds = !entry.adds;
    CHECK(!med_blas_cache_find(&cache, &entry));
    med_blas_cache_release(&cache);
    cache = filled(MED_BLAS_CACHE_ENTRIES_MAX);
    CHECK_INT(med_blas_cache_put(&cache, &entry), MED_E_LIMIT);
    med_blas_cache_release(&cache);
}

static int files_in(const char *dir)
{
    int count = 0;
    DIR *d = opendir(dir);
    REQUIRE(d);
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        count += e->d_name[0] != '.';
    (void)closedir(d);
    return count;
}

static void test_file_when_written_then_read_back(void)
{
    struct med_blas_cache cache = filled(100), again = {0};
    struct med_err err = {0};
    CHECK_INT(med_blas_cache_read(inner, &identity, &again, &err), MED_E_NOT_FOUND);
    CHECK_INT(med_blas_cache_write(inner, &cache, &err), 0);
    CHECK_INT(med_blas_cache_write(inner, &cache, &err), 0); // over the first
    CHECK_INT(files_in(inner), 1);
    REQUIRE(med_blas_cache_read(inner, &identity, &again, &err) == 0);
    check_same(&cache, &again);
    med_blas_cache_release(&again);
    struct med_blas_identity other = identity;
    other.driver++;
    CHECK_INT(med_blas_cache_read(inner, &other, &again, &err), MED_E_NOT_FOUND);
    med_blas_cache_release(&cache);
}

static void test_file_when_of_another_gpu_then_refused(void)
{
    /* two names that make one file name */
    struct med_blas_cache cache = filled(1), again = {0};
    struct med_blas_identity other = identity;
    struct med_err err = {0};
    (void)snprintf(cache.identity.gpu, sizeof cache.identity.gpu, "Another GPU");
    (void)snprintf(other.gpu, sizeof other.gpu, "Another_GPU");
    CHECK_INT(med_blas_cache_write(inner, &cache, &err), 0);
    CHECK_INT(med_blas_cache_read(inner, &other, &again, &err), MED_E_FORMAT);
    CHECK(strstr(err.text, "of another GPU, driver, library or dtype"));
    CHECK(!again.entries);
    med_blas_cache_release(&cache);
}

static void test_file_when_cut_then_refused(void)
{
    struct med_blas_cache cache = filled(20), again = {0};
    struct med_blas_identity cut = identity;
    struct med_err err = {0};
    char path[sizeof inner + 64];
    struct stat facts;
    (void)snprintf(cut.gpu, sizeof cut.gpu, "Cut");
    cache.identity = cut;
    REQUIRE(med_blas_cache_write(inner, &cache, &err) == 0);
    (void)snprintf(path, sizeof path, "%s/blas-Cut-13000-130101-bfloat16.txt", inner);
    REQUIRE(stat(path, &facts) == 0);
    for (off_t length = facts.st_size - 1; length >= 0; length -= 97) {
        REQUIRE(truncate(path, length) == 0);
        CHECK_INT(med_blas_cache_read(inner, &cut, &again, &err), MED_E_FORMAT);
    }
    med_blas_cache_release(&cache);
}

static void test_write_when_no_directory_can_be_made_then_says_so(void)
{
    struct med_blas_cache cache = filled(1);
    struct med_err err = {0};
    CHECK_INT(med_blas_cache_write("/dev/null/cache", &cache, &err), MED_E_IO);
    CHECK(strncmp(err.text, "/dev/null/cache: cannot be made: ", 33) == 0);
    med_blas_cache_release(&cache);
}

static void test_any_when_memory_is_short_then_no_leak(void)
{
    struct med_blas_cache cache = filled(70);
    int64_t live = med_alloc_bytes_live();
    bool done = false;
    for (uint64_t nth = 1; !done; nth++) {
        struct med_blas_cache again = {0};
        struct med_err err = {0};
        (void)med_alloc_fail_nth(nth);
        int rc = med_blas_cache_write(inner, &cache, &err);
        if (rc == 0)
            rc = med_blas_cache_read(inner, &identity, &again, &err);
        done = rc == 0;
        CHECK(rc == 0 || rc == MED_E_NOMEM);
        (void)med_alloc_fail_nth(0);
        med_blas_cache_release(&again);
        CHECK_INT(med_alloc_bytes_live(), live);
        REQUIRE(nth < 1000);
    }
    med_blas_cache_release(&cache);
}

static void clean(void)
{
    DIR *d = opendir(inner);
    char path[sizeof inner + 300];
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        (void)snprintf(path, sizeof path, "%s/%s", inner, e->d_name);
        (void)unlink(path);
    }
    if (d)
        (void)closedir(d);
    (void)rmdir(inner);
    (void)snprintf(path, sizeof path, "%s/a", directory);
    (void)rmdir(path);
    (void)rmdir(directory);
}

int main(void)
{
    REQUIRE(mkdtemp(directory));
    (void)snprintf(inner, sizeof inner, "%s/a/b", directory);
    RUN(test_parse_when_written_by_hand_then_read);
    RUN(test_parse_when_not_as_written_then_refused);
    RUN(test_put_when_the_same_product_then_replaced);
    RUN(test_file_when_written_then_read_back);
    RUN(test_file_when_of_another_gpu_then_refused);
    RUN(test_file_when_cut_then_refused);
    RUN(test_write_when_no_directory_can_be_made_then_says_so);
    RUN(test_any_when_memory_is_short_then_no_leak);
    clean();
    return check_finish();
}
