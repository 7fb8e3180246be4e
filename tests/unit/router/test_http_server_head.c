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
    {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", 400, "", false, false},
    {"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "", false, false},
    {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "", false,
     false},
    {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", 400, "", false,
     false},
    {"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400, "", false, false},
    {"NONSENSE\r\n\r\n", 400, "", false, false},
    {"\x16\x03\x01\x02\r\n\r\n", 400, "", false, false},
    {"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, "", false, false},
    {"GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505, "", false, false},
    {"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n", 405, "", false, false},
    {"OPTIONS / HTTP/1.1\r\nHost: x\r\n\r\n", 405, "", false, false},
};

static void test_heads_are_judged(void)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct row *row = &rows[i];
        struct med_http_head head;
        size_t count = strlen(row->head);
        CHECK_UINT(med_http_head_bytes(row->head, count), count);
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
        CHECK_INT(head.is_head, row->is_head);
        CHECK_INT(head.keep_alive, row->keep_alive);
    }
}

static void test_a_head_is_measured_at_its_end_and_not_before(void)
{
    static const char two[] = "GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\n";
    size_t end = (size_t)(strstr(two, "GET /b") - two);
    for (size_t n = 0; n < end; n++)
        CHECK_UINT(med_http_head_bytes(two, n), 0);
    CHECK_UINT(med_http_head_bytes(two, end), end);
    CHECK_UINT(med_http_head_bytes(two, sizeof(two) - 1), end);
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
    RUN(test_a_path_that_is_too_long_is_414);
    return check_finish();
}
