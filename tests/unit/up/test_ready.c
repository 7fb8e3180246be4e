/* SPDX-License-Identifier: Apache-2.0 */
/* READY lines, alone and inside log lines. */
#include "router/up/ready.h"

#include "tests/check.h"

static void test_line_when_it_says_ready_then_values_are_read(void)
{
    static const char *const lines[] = {
        "READY grpc=127.0.0.1:50051 http=[::1]:8000 link=unix:/tmp/x/link",
        "2026-11-22T20:00:00.000Z info medley-router: READY grpc=127.0.0.1:50051 "
        "http=[::1]:8000 link=unix:/tmp/x/link",
        "{\"level\":\"info\",\"message\":\"READY http=[::1]:8000 link=unix:/tmp/x/link "
        "grpc=127.0.0.1:50051\"}",
    };
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        const char *after = med_ready_find(lines[i]);
        REQUIRE(after != NULL);
        char value[64];
        CHECK(med_ready_value(after, "grpc", value, sizeof(value)));
        CHECK_STR(value, "127.0.0.1:50051");
        CHECK(med_ready_value(after, "http", value, sizeof(value)));
        CHECK_STR(value, "[::1]:8000");
        CHECK(med_ready_value(after, "link", value, sizeof(value)));
        CHECK_STR(value, "unix:/tmp/x/link");
        CHECK(!med_ready_value(after, "rpc", value, sizeof(value)));
        CHECK(!med_ready_value(after, "grpc", value, 5));
    }
}

static void test_line_when_ready_is_no_word_then_not_taken(void)
{
    CHECK(med_ready_find("ALREADY grpc=1") == NULL);
    CHECK(med_ready_find("NOT_READY grpc=1") == NULL);
    CHECK(med_ready_find("READYING grpc=1") == NULL);
    CHECK(med_ready_find("ready") == NULL);
    CHECK(med_ready_find("") == NULL);
    CHECK(med_ready_find("ALREADY READY") != NULL);
}

int main(void)
{
    RUN(test_line_when_it_says_ready_then_values_are_read);
    RUN(test_line_when_ready_is_no_word_then_not_taken);
    return check_finish();
}
