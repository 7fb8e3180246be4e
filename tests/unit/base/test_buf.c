/* SPDX-License-Identifier: Apache-2.0 */
/* Buffers: growth, the maximum, files, and memory running out.  thread: main. */
#include "base/alloc.h"
#include "base/buf.h"
#include "base/rng.h"
#include "tests/check.h"

#include <unistd.h>

static void test_append_keeps_content_and_terminator(void)
{
    struct med_buf buf;
    med_buf_init(&buf, 100);
    CHECK(!buf.data);
    CHECK_INT(med_buf_append(&buf, "ab\0c", 4), 0);
    CHECK_INT(med_buf_append_str(&buf, "de"), 0);
    CHECK_INT(med_buf_printf(&buf, "%d-%s", 12, "x"), 0);
    CHECK_UINT(buf.length, 10);
    CHECK(memcmp(buf.data, "ab\0cde12-x", 11) == 0);
    med_buf_consume(&buf, 4);
    CHECK_STR(buf.data, "de12-x");
    med_buf_consume(&buf, 6);
    CHECK_STR(buf.data, "");
    med_buf_consume(&buf, 0);
    med_buf_clear(&buf);
    CHECK(buf.capacity > 0);
    med_buf_release(&buf);
    CHECK(!buf.data);
    CHECK_UINT(buf.max_bytes, 100);
}

static void test_maximum_when_reached_then_content_stays(void)
{
    struct med_buf buf;
    med_buf_init(&buf, 5);
    CHECK_INT(med_buf_append_str(&buf, "12345"), 0);
    CHECK_UINT(buf.capacity, 6);
    CHECK_INT(med_buf_append_str(&buf, "6"), MED_E_LIMIT);
    CHECK_INT(med_buf_printf(&buf, "%d", 6), MED_E_LIMIT);
    CHECK_INT(med_buf_reserve(&buf, SIZE_MAX), MED_E_LIMIT);
    CHECK_INT(med_buf_append(&buf, "", 0), 0);
    CHECK_STR(buf.data, "12345");
    CHECK_UINT(buf.length, 5);
    med_buf_release(&buf);
    med_buf_init(&buf, 0);
    CHECK_INT(med_buf_append_str(&buf, ""), 0);
    CHECK_STR(buf.data, "");
    CHECK_INT(med_buf_append_str(&buf, "x"), MED_E_LIMIT);
    med_buf_release(&buf);
}

static void test_take_moves_the_string_out(void)
{
    struct med_buf buf;
    med_buf_init(&buf, 10);
    char *empty = med_buf_take(&buf);
    CHECK_STR(empty, "");
    med_free(empty);
    CHECK_INT(med_buf_append_str(&buf, "abc"), 0);
    char *text = med_buf_take(&buf);
    CHECK_STR(text, "abc");
    CHECK(!buf.data);
    CHECK_UINT(buf.length, 0);
    CHECK_INT(med_buf_append_str(&buf, "0123456789"), 0);
    med_free(text);
    med_buf_release(&buf);
}

/* Random appends and consumes against a plain array. */
static void test_random_operations_match_a_model(void)
{
    enum {
        MAX = 3000
    };
    static char model[MAX];
    size_t length = 0;
    struct med_buf buf;
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 0);
    med_buf_init(&buf, MAX);
    for (int i = 0; i < 20000; i++) {
        char bytes[300];
        size_t count = med_rng_below(&rng, sizeof bytes);
        if (med_rng_below(&rng, 2)) {
            memset(bytes, (int)med_rng_below(&rng, 256), count);
            int rc = med_buf_append(&buf, bytes, count);
            CHECK_INT(rc, length + count > MAX ? MED_E_LIMIT : 0);
            if (rc == 0) {
                memcpy(model + length, bytes, count);
                length += count;
            }
        } else {
            count = count < length ? count : length;
            med_buf_consume(&buf, count);
            length -= count;
            memmove(model, model + count, length);
        }
        CHECK_UINT(buf.length, length);
        CHECK(length == 0 || memcmp(buf.data, model, length) == 0);
        CHECK(!buf.data || buf.data[length] == '\0');
        CHECK(buf.capacity <= MAX + 1);
    }
    med_buf_release(&buf);
}

static char path[] = "/tmp/medley_test_buf_XXXXXX";

static void file_write(const char *text, size_t count)
{
    FILE *file = fopen(path, "w");
    REQUIRE(file);
    REQUIRE(fwrite(text, 1, count, file) == count);
    REQUIRE(fclose(file) == 0);
}

static void test_read_file_exactly_at_the_maximum(void)
{
    struct med_buf buf;
    struct med_err err = {0};
    char expected[256];
    file_write("0123456789", 10);
    med_buf_init(&buf, 10);
    CHECK_INT(med_buf_read_file(&buf, path, &err), 0);
    CHECK_STR(buf.data, "0123456789");
    CHECK_INT(med_buf_read_file(&buf, path, &err), MED_E_LIMIT);
    CHECK_STR(buf.data, "0123456789");
    med_buf_release(&buf);
    med_buf_init(&buf, 9);
    CHECK_INT(med_buf_read_file(&buf, path, &err), MED_E_LIMIT);
    (void)snprintf(expected, sizeof expected, "%s: larger than 9 bytes, the most that is read here",
                   path);
    CHECK_STR(err.text, expected);
    CHECK_UINT(buf.length, 0);
    med_buf_release(&buf);
    file_write("", 0);
    CHECK_INT(med_buf_read_file(&buf, path, &err), 0);
    CHECK_UINT(buf.length, 0);
    med_buf_release(&buf);
}

static void test_read_what_is_no_plain_file(void)
{
    struct med_buf buf;
    struct med_err err = {0};
    med_buf_init(&buf, 1000);
    CHECK_INT(med_buf_read_file(&buf, "/", &err), MED_E_INVALID);
    CHECK_STR(err.text, "/: cannot read: Is a directory");
    CHECK_INT(med_buf_read_file(&buf, "/nonexistent", &err), MED_E_INVALID);
    CHECK_STR(err.text, "/nonexistent: cannot open: No such file or directory");
    CHECK_INT(med_buf_read_file(&buf, "/nonexistent", NULL), MED_E_INVALID);
    CHECK_INT(med_buf_read_file(&buf, "/dev/zero", &err), MED_E_LIMIT); // has no size to ask for
    CHECK_UINT(buf.length, 0);
    CHECK_INT(med_buf_read_file(&buf, "/proc/self/stat", &err), 0); // says that its size is 0
    CHECK(buf.length > 0);
    med_buf_release(&buf);
}

static void test_read_standard_input_through_a_pipe(void)
{
    int ends[2];
    int saved = dup(STDIN_FILENO);
    struct med_buf buf;
    struct med_err err = {0};
    REQUIRE(saved >= 0 && pipe(ends) == 0);
    REQUIRE(write(ends[1], "piped", 5) == 5);
    REQUIRE(close(ends[1]) == 0);
    REQUIRE(dup2(ends[0], STDIN_FILENO) >= 0);
    med_buf_init(&buf, 1000);
    CHECK_INT(med_buf_read_file(&buf, "-", &err), 0);
    CHECK_STR(buf.data, "piped");
    REQUIRE(dup2(saved, STDIN_FILENO) >= 0);
    (void)close(saved);
    (void)close(ends[0]);
    med_buf_release(&buf);
}

static int use_buffer(struct med_buf *buf, struct med_err *err)
{
    int rc = med_buf_append_str(buf, "start ");
    for (int i = 0; i < 50 && rc == 0; i++)
        rc = med_buf_printf(buf, "%d %s", i, "some more text ");
    return rc < 0 ? rc : med_buf_read_file(buf, path, err);
}

static void test_every_allocation_failing_in_turn(void)
{
    static char large[100000];
    memset(large, 'x', sizeof large);
    file_write(large, sizeof large);
    int64_t live = med_alloc_bytes_live();
    uint64_t n = 1;
    for (;; n++) {
        struct med_buf buf;
        struct med_err err = {0};
        med_buf_init(&buf, 1 << 20);
        (void)med_alloc_fail_nth(n);
        int rc = use_buffer(&buf, &err);
        (void)med_alloc_fail_nth(0);
        CHECK(!buf.data || buf.data[buf.length] == '\0');
        CHECK(buf.length <= buf.capacity);
        med_buf_release(&buf);
        CHECK_INT(med_alloc_bytes_live(), live);
        if (rc == 0)
            break;
        CHECK_INT(rc, MED_E_NOMEM);
        REQUIRE(n < 1000);
    }
    CHECK(n > 4);
}

int main(void)
{
    int fd = mkstemp(path);
    REQUIRE(fd >= 0);
    (void)close(fd);
    RUN(test_append_keeps_content_and_terminator);
    RUN(test_maximum_when_reached_then_content_stays);
    RUN(test_take_moves_the_string_out);
    RUN(test_random_operations_match_a_model);
    RUN(test_read_file_exactly_at_the_maximum);
    RUN(test_read_what_is_no_plain_file);
    RUN(test_read_standard_input_through_a_pipe);
    RUN(test_every_allocation_failing_in_turn);
    (void)unlink(path);
    return check_finish();
}
