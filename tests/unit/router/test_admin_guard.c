/* SPDX-License-Identifier: Apache-2.0 */
/* Who may use the admin view: hosts, origins, fetch metadata, content types. */
#include "router/admin.h"
#include "tests/check.h"

static bool allowed(struct med_admin_request request)
{
    if (request.method == NULL)
        request.method = "GET";
    if (request.path == NULL)
        request.path = "/admin/state";
    return med_admin_refusal(&request) == NULL;
}

static void test_paths(void)
{
    CHECK(med_admin_has("/admin"));
    CHECK(med_admin_has("/admin/"));
    CHECK(med_admin_has("/admin/state"));
    CHECK(!med_admin_has("/administrator"));
    CHECK(!med_admin_has("/"));
}

static void test_hosts(void)
{
    static const char *const good[] = {"localhost", "localhost:7071", "LocalHost:1",
                                       "127.0.0.1", "127.0.0.1:7071", "127.9.8.7:80",
                                       "[::1]",     "[::1]:7071"};
    static const char *const bad[] = {
        "",
        "example.com",
        "example.com:7071",
        "127.0.0.1.evil.com",
        "localhost.evil",
        "evil:7071",
        "localhost:7071@evil",
        "10.0.0.1",
        "1270.0.1",
        "127.0.0.1:x",
        "[::2]",
        "[::1",
        "[::1].evil",
        "127.0.0",
        "::1",
        "0.0.0.0",
        "127.0.0.1:80:80",
        "128.0.0.1:80",
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        CHECK(allowed((struct med_admin_request){.host = good[i]}));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (allowed((struct med_admin_request){.host = bad[i]}))
            (void)fprintf(stderr, "allowed: %s\n", bad[i]);
        CHECK(!allowed((struct med_admin_request){.host = bad[i]}));
    }
    CHECK(!allowed((struct med_admin_request){.host = NULL}));
}

static void test_other_sites(void)
{
    const char *host = "localhost:7071";
    CHECK(allowed((struct med_admin_request){.host = host, .fetch_site = "same-origin"}));
    CHECK(allowed((struct med_admin_request){.host = host, .fetch_site = "none"}));
    CHECK(!allowed((struct med_admin_request){.host = host, .fetch_site = "cross-site"}));
    CHECK(!allowed((struct med_admin_request){.host = host, .fetch_site = "same-site"}));
    /* The page itself may be linked to. */
    CHECK(allowed(
        (struct med_admin_request){.host = host, .path = "/admin", .fetch_site = "cross-site"}));
    CHECK(allowed((struct med_admin_request){.host = host, .origin = "http://localhost:7071"}));
    CHECK(allowed((struct med_admin_request){.host = host, .origin = "https://localhost:7071"}));
    CHECK(!allowed((struct med_admin_request){.host = host, .origin = "http://localhost:8080"}));
    CHECK(!allowed((struct med_admin_request){.host = host, .origin = "http://evil.com"}));
    CHECK(!allowed((struct med_admin_request){.host = host, .origin = "null"}));
    CHECK(!allowed((struct med_admin_request){.host = host, .origin = "ftp://localhost:7071"}));
    CHECK(!allowed((struct med_admin_request){.host = host, .origin = ""}));
}

static void test_posts_are_json(void)
{
    struct med_admin_request request = {.method = "POST", .path = "/admin/drain", .host = "[::1]"};
    CHECK(!allowed(request));
    request.content_type = "text/plain";
    CHECK(!allowed(request));
    request.content_type = "application/jsonx";
    CHECK(!allowed(request));
    request.content_type = "application/x-www-form-urlencoded";
    CHECK(!allowed(request));
    request.content_type = "application/json";
    CHECK(allowed(request));
    request.content_type = "Application/JSON; charset=utf-8";
    CHECK(allowed(request));
    request.fetch_site = "cross-site";
    CHECK(!allowed(request));
}

int main(void)
{
    RUN(test_paths);
    RUN(test_hosts);
    RUN(test_other_sites);
    RUN(test_posts_are_json);
    return check_finish();
}
