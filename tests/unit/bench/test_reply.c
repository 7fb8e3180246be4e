/* SPDX-License-Identifier: Apache-2.0 */
/* Events and answers of servers, cut at every byte; goodput's words. */
#include "router/bench/facts.h"
#include "router/bench/reply.h"
#include "router/bench/summary.h"
#include "tests/check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct heard {
    char text[256];
    size_t events;
};

static int on_data(void *arg, const char *data, size_t bytes)
{
    struct heard *heard = arg;
    size_t at = strlen(heard->text);
    (void)snprintf(heard->text + at, sizeof(heard->text) - at, "<%.*s>", (int)bytes, data);
    heard->events++;
    return 0;
}

static void test_events_when_cut_anywhere_then_are_the_same(void)
{
    static const char stream[] = ": hello\n\ndata: one\n\ndata:two\r\ndata: three\r\n\r\n"
                                 "event: x\ndata\n\nretry: 1\n\ndata:  four\r\rdata: cut";
    for (size_t piece = 1; piece <= sizeof(stream); piece++) {
        struct med_sse sse;
        struct heard heard = {{0}, 0};
        med_sse_init(&sse, 1000);
        for (size_t at = 0; at < sizeof(stream) - 1; at += piece) {
            size_t left = sizeof(stream) - 1 - at;
            REQUIRE(med_sse_feed(&sse, stream + at, left < piece ? left : piece, on_data, &heard) ==
                    0);
        }
        CHECK_STR(heard.text, "<one><two\nthree><>< four>");
        med_sse_release(&sse);
    }
}

static void test_events_when_too_long_then_refused(void)
{
    struct med_sse sse;
    struct heard heard = {{0}, 0};
    med_sse_init(&sse, 16);
    CHECK_INT(med_sse_feed(&sse, "data: 0123456789012345678\n\n", 27, on_data, &heard),
              MED_E_LIMIT);
    CHECK_UINT(heard.events, 0);
    med_sse_release(&sse);
}

static void test_facts_when_read_then_tell_tokens_and_ends(void)
{
    struct med_bench_facts f;
    static const char chunk[] =
        "{\"id\":\"a\",\"choices\":[{\"index\":0,\"logprobs\":{\"x\":[1,{}]},\"text\":\"\\\"\","
        "\"finish_reason\":null,\"token_ids\":[5,6,7]}],\"usage\":null}";
    REQUIRE(med_bench_facts_read(chunk, sizeof(chunk) - 1, &f) == 0);
    CHECK(f.has_choice && f.has_text && !f.has_finish && !f.has_error);
    CHECK_INT(f.token_ids, 3);
    CHECK_INT(f.completion_tokens, -1);
    static const char end[] = " { \"choices\" : [ ] , \"usage\" : { \"prompt_tokens\" : 4 ,"
                              "\"completion_tokens\":12,\"details\":{\"completion_tokens\":1}}}\n";
    REQUIRE(med_bench_facts_read(end, sizeof(end) - 1, &f) == 0);
    CHECK(!f.has_choice);
    CHECK_INT(f.completion_tokens, 12);
    CHECK_INT(f.prompt_tokens, 4);
    static const char error[] = "{\"error\":{\"message\":\"a\\u0007\x1b b\",\"code\":429}}";
    REQUIRE(med_bench_facts_read(error, sizeof(error) - 1, &f) == 0);
    CHECK(f.has_error);
    CHECK_INT(f.error_code, 429);
    CHECK_STR(f.error, "a\\u0007? b");
}

static void test_facts_when_not_an_object_then_refused(void)
{
    static const char *const bad[] = {"",           "[]",        "{",
                                      "{\"a\"}",    "{\"a\":}",  "{\"a\":1,}",
                                      "{\"a\":1}x", "{\"a\":\"", "{\"choices\":[1]}",
                                      "{\"a\":[}",  "{\"a\" 1}", "nul"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct med_bench_facts f;
        CHECK_INT(med_bench_facts_read(bad[i], strlen(bad[i]), &f), MED_E_FORMAT);
    }
}

static void add_tokens(void *arg, int64_t count)
{
    *(int64_t *)arg += count;
}

static void test_reply_when_another_follows_then_connection_is_kept_only_if_asked(void)
{
    static const char body[] = "{\"choices\":[{\"text\":\"x\"}]}";
    static const struct {
        const char *head, *behind;
        bool keep;
    } cases[] = {{"HTTP/1.1 200 OK\r\n", "", true},
                 {"HTTP/1.1 200 OK\r\nConnection: close\r\n", "", false},
                 {"HTTP/1.0 200 OK\r\n", "", false},
                 {"HTTP/1.1 200 OK\r\n", "HTTP/1.1 200", false}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int64_t sum = 0;
        struct med_reply reply;
        med_reply_init(&reply, add_tokens, &sum);
        char bytes[512];
        int n = snprintf(bytes, sizeof(bytes), "%sContent-Length: %zu\r\n\r\n%s%s", cases[i].head,
                         sizeof(body) - 1, body, cases[i].behind);
        med_reply_feed(&reply, bytes, (size_t)n);
        CHECK(reply.over);
        CHECK_INT(reply.status, 0);
        CHECK_INT(sum, 1);
        CHECK_INT(reply.keep_alive, cases[i].keep);
        med_reply_release(&reply);
    }
}

static void test_goodput_when_read_then_units_hold(void)
{
    struct med_bench_goodput g;
    struct med_err err = {0};
    REQUIRE(med_bench_goodput_parse("ttft:500 tpot:50ms,e2el:2s", &g, &err) == 0);
    CHECK_DOUBLE(g.ttft_ms, 500, 0);
    CHECK_DOUBLE(g.tpot_ms, 50, 0);
    CHECK_DOUBLE(g.e2e_ms, 2000, 0);
    REQUIRE(med_bench_goodput_parse("ttft:1s", &g, &err) == 0);
    CHECK(isinf(g.e2e_ms));
    static const char *const bad[] = {"",        " ",       "ttft",  "ttft:",    "ttft:x",
                                      "ttft:-1", "ttft:5m", "itl:5", "ttft:inf", "ttft:0"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CHECK_INT(med_bench_goodput_parse(bad[i], &g, &err), MED_E_USAGE);
}

int main(void)
{
    RUN(test_events_when_cut_anywhere_then_are_the_same);
    RUN(test_events_when_too_long_then_refused);
    RUN(test_facts_when_read_then_tell_tokens_and_ends);
    RUN(test_facts_when_not_an_object_then_refused);
    RUN(test_reply_when_another_follows_then_connection_is_kept_only_if_asked);
    RUN(test_goodput_when_read_then_units_hold);
    return check_finish();
}
