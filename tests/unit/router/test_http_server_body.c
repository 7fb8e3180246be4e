/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies of HTTP requests: what is content, where they end, and what is refused, however the bytes are cut. */
#include "router/http_server_body.h"
#include "tests/check.h"

enum {
    MOST = 64
};

struct row {
    const char *bytes;   // after the head
    const char *content; // if it is good
    int status;          // 0: whole; -1: more is needed; else refused
    size_t rest;         // bytes behind the body
};

static const struct row chunks[] = {
    {"0\r\n\r\n", "", 0, 0},
    {"5\r\nhello\r\n0\r\n\r\nGET", "hello", 0, 3},
    {"005\r\nhello\r\n1\r\n!\r\n000\r\n\r\n", "hello!", 0, 0},
    {"A\r\n0123456789\r\na\r\nabcdefghij\r\n0\r\n\r\n", "0123456789abcdefghij", 0, 0},
    {"5;name=value;other=\"x\"\r\nhello\r\n0;last\r\n\r\n", "hello", 0, 0},
    {"0\r\nTrailer: value\r\nAnother:\r\n\r\nX", "", 0, 1},
    {"5\r\nhel", NULL, -1, 0},
    {"5\r\nhello\r\n0\r\n", NULL, -1, 0},
    {"", NULL, -1, 0},
    {"\r\n", NULL, 400, 0},
    {"5\nhello\r\n0\r\n\r\n", NULL, 400, 0},
    {"5\r\nhello0\r\n\r\n", NULL, 400, 0},
    {"5\r\nhello\n0\r\n\r\n", NULL, 400, 0},
    {"5 \r\nhello\r\n0\r\n\r\n", NULL, 400, 0},
    {" 5\r\nhello\r\n0\r\n\r\n", NULL, 400, 0},
    {"-5\r\nhello\r\n0\r\n\r\n", NULL, 400, 0},
    {"0x5\r\nhello\r\n0\r\n\r\n", NULL, 400, 0},
    {"5g\r\nhello\r\n0\r\n\r\n", NULL, 400, 0},
    {"0000000000000005\r\nhello\r\n0\r\n\r\n", NULL, 400, 0},
    {"5;\x01\r\nhello\r\n0\r\n\r\n", NULL, 400, 0},
    {"0\r\nno colon\r\n\r\n", NULL, 400, 0},
    {"0\r\n folded: x\r\n\r\n", NULL, 400, 0},
    {"0\r\n: x\r\n\r\n", NULL, 400, 0},
    {"0\r\nname : x\r\n\r\n", NULL, 400, 0},
    {"0\r\nname: \x02\r\n\r\n", NULL, 400, 0},
    {"0\r\nname: x\n\r\n", NULL, 400, 0},
    {"0\r\n\rX", NULL, 400, 0},
    {"41\r\n", NULL, 413, 0},
    {"3f\r\n012345678901234567890123456789012345678901234567890123456789abc\r\n2\r\n", NULL, 413,
     0},
};

/* In pieces of `step` bytes. */
static void check_row(const struct row *row, const struct med_http_head *head, size_t step)
{
    struct med_http_body_reader reader;
    struct med_buf content;
    size_t count = strlen(row->bytes), at = 0;
    int rc = 0;
    med_buf_init(&content, 1024);
    med_http_body_reader_init(&reader, head, MOST);
    while (rc == 0 && at < count) {
        size_t used = 99, piece = count - at < step ? count - at : step;
        rc = med_http_body_read(&reader, row->bytes + at, piece, &content, &used);
        CHECK(used <= piece);
        CHECK(rc != 0 || used == piece);
        at += used;
    }
    if (row->status > 0) {
        CHECK_INT(rc, MED_E_PROTO);
        CHECK_INT(reader.status, row->status);
        CHECK(reader.why[0] != '\0');
    } else {
        CHECK_INT(rc, row->status == 0);
    }
    if (row->status == 0) {
        CHECK_UINT(count - at, row->rest);
        CHECK_STR(content.length > 0 ? content.data : "", row->content);
    }
    med_buf_release(&content);
}

static void test_chunks_are_read_strictly_however_they_are_cut(void)
{
    const struct med_http_head head = {.framing = MED_HTTP_CHUNKED};
    for (size_t i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++) {
        for (size_t step = 1; step <= strlen(chunks[i].bytes) + 1; step++)
            check_row(&chunks[i], &head, step);
    }
}

static void test_a_length_ends_the_body(void)
{
    static const struct row rows[] = {
        {"hello", "hello", 0, 0}, {"helloX", "hello", 0, 1}, {"hel", NULL, -1, 0}};
    const struct med_http_head head = {.framing = MED_HTTP_LENGTH, .body_bytes = 5};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (size_t step = 1; step < 8; step++)
            check_row(&rows[i], &head, step);
    }
}

static void test_a_body_over_the_limit_is_refused_by_its_length(void)
{
    struct med_http_body_reader reader;
    struct med_http_head head = {.framing = MED_HTTP_LENGTH, .body_bytes = MOST};
    med_http_body_reader_init(&reader, &head, MOST);
    CHECK_INT(reader.status, 0);
    head.body_bytes++;
    med_http_body_reader_init(&reader, &head, MOST);
    CHECK_INT(reader.status, 413);
}

static void test_no_body_and_an_empty_one_are_whole_at_once(void)
{
    struct med_http_body_reader reader;
    struct med_http_head head = {.framing = MED_HTTP_LENGTH};
    med_http_body_reader_init(&reader, &head, MOST);
    CHECK_INT(reader.state, MED_HTTP_BODY_DONE);
    head.framing = MED_HTTP_NO_BODY;
    med_http_body_reader_init(&reader, &head, MOST);
    CHECK_INT(reader.state, MED_HTTP_BODY_DONE);
}

int main(void)
{
    RUN(test_chunks_are_read_strictly_however_they_are_cut);
    RUN(test_a_length_ends_the_body);
    RUN(test_a_body_over_the_limit_is_refused_by_its_length);
    RUN(test_no_body_and_an_empty_one_are_whole_at_once);
    return check_finish();
}
