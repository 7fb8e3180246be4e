/* SPDX-License-Identifier: Apache-2.0 */
/* What a router's /health tells, also when it is nonsense; a probe of nobody. */
#include "router/up/probe.h"

#include "tests/check.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <unistd.h>

static int64_t count(const char *answer)
{
    return med_probe_count_ready(answer, strlen(answer));
}

static void test_answer_when_it_is_health_then_ready_workers_are_summed(void)
{
    CHECK_INT(count("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
                    "{\"status\":\"serving\",\"worker_types\":["
                    "{\"worker_type\":\"a\",\"planned\":2,\"ready\":2},"
                    "{\"worker_type\":\"b\",\"planned\":2,\"ready\":1}]}"),
              3);
    CHECK_INT(count("HTTP/1.1 503 Service Unavailable\r\n\r\n{\"worker_types\":[]}"), 0);
}

static void test_answer_when_it_is_something_else_then_none(void)
{
    static const char *const answers[] = {
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n[]",
        "HTTP/1.1 200 OK\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\n\r\n{\"worker_types\":[{\"ready\":-1}]}",
        "HTTP/1.1 200 OK\r\n\r\n{\"worker_types\":[{\"ready\":\"2\"}]}",
        "HTTP/1.1 200 OK\r\n\r\n{\"worker_types\":[{}]}",
        "HTTP/1.1 200 OK\r\n\r\n{\"worker_types\":[",
    };
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++)
        CHECK_INT(count(answers[i]), -1);
}

struct asked {
    int answers;
    int64_t workers_ready;
};

static void on_answer(struct med_probe *probe, int64_t workers_ready)
{
    struct asked *asked = probe->user;
    asked->answers++;
    asked->workers_ready = workers_ready;
}

static void test_probe_when_nobody_listens_then_answers_once_and_may_start_again(void)
{
    /* A port that is bound but not listened on refuses for as long as it is held. */
    int held = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_storage address = {0};
    struct sockaddr_in *in = (struct sockaddr_in *)&address;
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(*in);
    REQUIRE(held >= 0);
    REQUIRE(bind(held, (struct sockaddr *)in, length) == 0);
    REQUIRE(getsockname(held, (struct sockaddr *)in, &length) == 0);

    uv_loop_t loop;
    REQUIRE(uv_loop_init(&loop) == 0);
    struct asked asked = {.workers_ready = 7};
    struct med_probe probe = {.on_answer = on_answer, .user = &asked};
    for (int i = 1; i <= 2; i++) {
        med_probe_start(&probe, &loop, &address);
        REQUIRE(uv_run(&loop, UV_RUN_DEFAULT) == 0);
        CHECK_INT(asked.answers, i);
        CHECK_INT(asked.workers_ready, -1);
        CHECK(!probe.runs);
    }
    REQUIRE(uv_loop_close(&loop) == 0);
    (void)close(held);
}

int main(void)
{
    RUN(test_answer_when_it_is_health_then_ready_workers_are_summed);
    RUN(test_answer_when_it_is_something_else_then_none);
    RUN(test_probe_when_nobody_listens_then_answers_once_and_may_start_again);
    return check_finish();
}
