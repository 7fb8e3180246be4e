/* SPDX-License-Identifier: Apache-2.0 */
/* Heads of HTTP requests: what is taken, what is refused and with which status. */
#include "router/http_server_head.h"
#include "tests/check.h"

struct row {
    const char *head;
    int status; // 0: taken
    const char *path;
    bool is_head, keep_alive;
};

static const struct row rows[] = {
    {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 0, "/", false, true},
    {"\r\nGET /metrics HTTP/1.1\r\nhOsT: x\r\n\r\n", 0, "/metrics", false, true},
    {"GET /health?a=b&c HTTP/1.1\r\nHost: x\r\n\r\n", 0, "/health", false, true},
    {"GET http://h:1/metrics HTTP/1.1\r\nHost: h:1\r\n\r\n", 0, "/metrics", false, true},
    {"HEAD /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 0, "/x", true, false},
    {"GET / HTTP/1.0\r\n\r\n", 0, "/", false, false},
    {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 0, "/", false, true},
    {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 0, "/", false, true},
    {"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", 0, "/", false,
     true},
    {"GET / HTTP/1.1\r\nHost:\r\n\r\n", 0, "/", false, true},

    {"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400, "", false, false},
    {"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400, "", false, false},
    {"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n\tc\r\n\r\n", 400, "", false, false},
    {"GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400, "", false, false},
    {"GET / HTTP/1.1\nHost: x\n\n", 400, "", false, false},
    {"GET / HTTP/1.1\r\nHost: x\n\r\n", 400, "", false, false},
    {"GET / HTTP/1.1\r\nHost: x\r\nA: b\x01\r\n\r\n", 400, "", false, false},
    {"GET / HTTP/1.1\r\nHost: x\r\nA: b\rC: d\r\n\r\n", 400, "", false, false},
    {"GET / HTTP/1.1\r\nHost: x\r\nnocolon\r\n\r\n", 400, "", false, false},
    {"GET / HTTP/1.1\r\nHost: x\r\n: v\r\n\r\n", 400, "", false, false},
    {"GET / HTTP/1.1\r\n\r\n", 400, "", false, false},
    {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "", false, false},
    {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "", false,
     false},
    {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", 400, "", false,
     false},
    {"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400, "", false, false},
    {"NONSENSE\r\n\r\n", 400, "", false, false},
    {"\x16\x03\x01\x02\r\n\r\n", 400, "", false, false},
    {"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, "", false, false},
    {"GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505, "", false, false},
    {"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 400, "", false, false},
    {"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", 501, "", false, false},
    {"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501, "", false, false},
    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", 400, "", false,
     false},
    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\n", 400, "", false, false},
    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\n", 400, "", false, false},
    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400, "", false, false},
    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\n", 400, "", false, false},
    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n", 400, "", false, false},
    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400,
     "", false, false},
    {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 400,
     "", false, false},
    {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, "", false,
     false},
    {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n", 501, "", false,
     false},
    {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n", 501, "", false, false},
    {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: "
     "chunked\r\n\r\n",
     501, "", false, false},
    {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "", false, false},
    {"POST / HTTP/1.1\r\nHost: x\r\nExpect: a miracle\r\n\r\n", 417, "", false, false},
};

static void test_heads_are_judged(void)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct row *row = &rows[i];
        struct med_http_head head;
        size_t count = strlen(row->head);
        CHECK_UINT(med_http_head_bytes(row->head, count, 0), count);
        med_http_head_parse(row->head, count, &head);
        if (head.status != row->status)
            (void)fprintf(stderr, "row %zu: %s", i, row->head);
        CHECK_INT(head.status, row->status);
        if (row->status != 0) {
            CHECK(head.why[0] != '\0');
            CHECK(!head.keep_alive);
            continue;
        }
        CHECK_STR(head.path, row->path);
        CHECK_INT(head.method == MED_HTTP_HEAD, row->is_head);
        CHECK_INT(head.keep_alive, row->keep_alive);
    }
}

static void test_a_head_is_measured_at_its_end_and_not_before(void)
{
    static const char two[] = "GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\n";
    size_t end = (size_t)(strstr(two, "GET /b") - two);
    for (size_t n = 0; n < end; n++)
        CHECK_UINT(med_http_head_bytes(two, n, 0), 0);
    CHECK_UINT(med_http_head_bytes(two, end, end - 2), end);
    CHECK_UINT(med_http_head_bytes(two, sizeof(two) - 1, end - 3), end);
}

static void test_the_framing_and_the_query_are_told(void)
{
    static const struct {
        const char *head;
        enum med_http_method method;
        enum med_http_framing framing;
        uint64_t bytes;
        bool expects;
        const char *query;
    } told[] = {
        {"POST /a?b=c HTTP/1.1\r\nHost: x\r\ncontent-length: 007\r\n\r\n", MED_HTTP_POST,
         MED_HTTP_LENGTH, 7, false, "b=c"},
        {"PUT /a HTTP/1.1\r\nHost: x\r\nTRANSFER-encoding: Chunked\r\nExpect: 100-Continue\r\n\r\n",
         MED_HTTP_PUT, MED_HTTP_CHUNKED, 0, true, ""},
        {"POST /a HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n", MED_HTTP_POST,
         MED_HTTP_LENGTH, 3, false, ""},
        {"DELETE /a? HTTP/1.1\r\nHost: x\r\n\r\n", MED_HTTP_DELETE, MED_HTTP_NO_BODY, 0, false, ""},
        {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", MED_HTTP_OPTIONS, MED_HTTP_NO_BODY, 0, false, ""},
    };
    for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++) {
        struct med_http_head head;
        med_http_head_parse(told[i].head, strlen(told[i].head), &head);
        CHECK_INT(head.status, 0);
        CHECK_INT(head.method, told[i].method);
        CHECK_INT(head.framing, told[i].framing);
        CHECK_UINT(head.body_bytes, told[i].bytes);
        CHECK_INT(head.expects_continue, told[i].expects);
        CHECK_STR(head.query, told[i].query);
    }
}

static void test_a_header_is_found_by_its_name(void)
{
    static const char head[] =
        "GET /Host:no HTTP/1.1\r\nHost: x\r\nX-A:  one two \t\r\nx-a: second\r\n"
        "Empty:\r\n\r\n";
    size_t bytes = 99;
    const char *value = med_http_head_find(head, sizeof(head) - 1, "x-A", &bytes);
    CHECK_UINT(bytes, strlen("one two"));
    CHECK(value != NULL && memcmp(value, "one two", bytes) == 0);
    CHECK(med_http_head_find(head, sizeof(head) - 1, "empty", &bytes) != NULL);
    CHECK_UINT(bytes, 0);
    CHECK(med_http_head_find(head, sizeof(head) - 1, "x", &bytes) == NULL);
    CHECK(med_http_head_find(head, sizeof(head) - 1, "GET /Host", &bytes) == NULL);
}

static void test_a_path_that_is_too_long_is_414(void)
{
    static char text[MED_HTTP_PATH_MAX + 64];
    struct med_http_head head;
    for (size_t length = MED_HTTP_PATH_MAX - 1; length <= MED_HTTP_PATH_MAX; length++) {
        int n = snprintf(text, sizeof(text), "GET /");
        memset(text + n, 'a', length - 1);
        (void)snprintf(text + n + length - 1, 40, " HTTP/1.0\r\n\r\n");
        med_http_head_parse(text, strlen(text), &head);
        CHECK_INT(head.status, length < MED_HTTP_PATH_MAX ? 0 : 414);
    }
}

int main(void)
{
    RUN(test_heads_are_judged);
    RUN(test_a_head_is_measured_at_its_end_and_not_before);
    RUN(test_the_framing_and_the_query_are_told);
    RUN(test_a_header_is_found_by_its_name);
    RUN(test_a_path_that_is_too_long_is_414);
    return check_finish();
}
