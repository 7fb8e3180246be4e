/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines: both formats, levels, hostile text, cut messages, whole lines from several threads.
 * thread: main, and writers.
 */
#include "base/json.h"
#include "base/log.h"
#include "base/thread.h"
#include "tests/check.h"

#include <errno.h>
#include <unistd.h>

static FILE *capture;
static int saved_stderr;

static void capture_start(void)
{
    (void)fflush(stderr);
    capture = tmpfile();
    saved_stderr = dup(STDERR_FILENO);
    REQUIRE(capture && saved_stderr >= 0);
    REQUIRE(dup2(fileno(capture), STDERR_FILENO) >= 0);
}

static size_t capture_end(char *out, size_t out_bytes)
{
    (void)dup2(saved_stderr, STDERR_FILENO);
    (void)close(saved_stderr);
    rewind(capture);
    size_t count = fread(out, 1, out_bytes - 1, capture);
    out[count] = '\0';
    (void)fclose(capture);
    return count;
}

/* Puts 9 for each digit, so that times compare. */
static void digits_hide(char *text)
{
    for (; *text; text++) {
        if (*text >= '0' && *text <= '9')
            *text = '9';
    }
}

static void test_text_lines(void)
{
    char out[4096];
    med_log_init("medley-plan", MED_LOG_INFO, MED_LOG_TEXT);
    capture_start();
    errno = 77;
    MED_INFO("solved \"%s\" in %d ms", "x\\y", 5);
    int errno_after = errno;
    med_log(MED_LOG_ERROR, "req-a", "lost");
    (void)capture_end(out, sizeof out);
    CHECK_INT(errno_after, 77);
    digits_hide(out);
    CHECK_STR(out, "9999-99-99T99:99:99.999Z info  medley-plan: solved \"x\\y\" in 9 ms\n"
                   "9999-99-99T99:99:99.999Z error medley-plan: lost request_id=req-a\n");
}

static void test_levels(void)
{
    char out[4096];
    med_log_init("p", MED_LOG_WARN, MED_LOG_TEXT);
    CHECK(!med_log_enabled(MED_LOG_INFO));
    CHECK(med_log_enabled(MED_LOG_WARN));
    CHECK(!med_log_enabled(MED_LOG_OFF));
    capture_start();
    MED_INFO("quiet");
    MED_WARN("first");
    med_log_set_level(MED_LOG_DEBUG);
    MED_DEBUG("second");
    med_log_set_level(MED_LOG_OFF);
    MED_ERROR("quiet");
    (void)capture_end(out, sizeof out);
    CHECK_CONTAINS(out, " warn  p: first\n");
    CHECK_CONTAINS(out, " debug p: second\n");
    CHECK(!strstr(out, "quiet"));
}

static const char hostile[] = "a\nb\"c\\d\x1b[2J\xff\r{}";

static void test_hostile_text_cannot_break_or_forge_a_line(void)
{
    char out[4096];
    med_log_init("p", MED_LOG_INFO, MED_LOG_TEXT);
    capture_start();
    med_log(MED_LOG_INFO, hostile, "%s", hostile);
    size_t count = capture_end(out, sizeof out);
    CHECK(strchr(out, '\n') == out + count - 1);
    for (size_t i = 0; i + 1 < count; i++)
        CHECK((unsigned char)out[i] >= 0x20 && out[i] != 0x7f);
    CHECK_CONTAINS(out, "p: a\\nb\"c\\d\\u001b[2J\xef\xbf\xbd\\r{} request_id=a\\nb");
}

static void test_json_lines_read_back(void)
{
    char out[4096];
    med_log_init("medley-router", MED_LOG_INFO, MED_LOG_JSONL);
    capture_start();
    med_log(MED_LOG_WARN, hostile, "%s", hostile);
    size_t count = capture_end(out, sizeof out);
    struct med_json_doc doc;
    struct med_err err = {0};
    int rc = med_json_parse(out, count, "log", &doc, &err);
    CHECK_STR(err.text, "");
    REQUIRE(rc == 0);
    struct med_json_at root = med_json_root(&doc);
    const char *text;
    CHECK_UINT(med_json_count(&root), 5);
    CHECK_INT(med_json_string(&root, "message", 100, &text, &err), 0);
    CHECK_STR(text, "a\nb\"c\\d\x1b[2J\xef\xbf\xbd\r{}");
    CHECK_INT(med_json_string(&root, "request_id", 100, &text, &err), 0);
    CHECK_STR(text, "a\nb\"c\\d\x1b[2J\xef\xbf\xbd\r{}");
    CHECK_INT(med_json_string(&root, "level", 100, &text, &err), 0);
    CHECK_STR(text, "warn");
    CHECK_INT(med_json_string(&root, "program", 100, &text, &err), 0);
    CHECK_STR(text, "medley-router");
    CHECK_INT(med_json_string(&root, "time", 100, &text, &err), 0);
    CHECK_UINT(strlen(text), 24);
    med_json_free(&doc);
}

static void test_long_messages_are_cut(void)
{
    static char huge[20000];
    static char out[32000];
    memset(huge, 'x', sizeof huge - 1);
    med_log_init("p", MED_LOG_INFO, MED_LOG_JSONL);
    capture_start();
    med_log(MED_LOG_INFO, huge, "%s", huge);
    memset(huge, '\x01', sizeof huge - 1);
    med_log(MED_LOG_INFO, huge, "%s", huge);
    size_t count = capture_end(out, sizeof out);
    char *second = strchr(out, '\n');
    REQUIRE(second);
    CHECK_CONTAINS(out, "xxx...\"}\n");
    struct med_json_doc doc;
    CHECK_INT(med_json_parse(out, (size_t)(second - out), "log", &doc, NULL), 0);
    med_json_free(&doc);
    REQUIRE(out[count - 1] == '\n');
    CHECK_INT(med_json_parse(second, (size_t)(out + count - second), "log", &doc, NULL), 0);
    med_json_free(&doc);
}

enum {
    WRITERS = 4,
    LINES = 200
};

static void test_line_that_cannot_be_written_is_dropped_quietly(void)
{
    med_log_init("p", MED_LOG_INFO, MED_LOG_TEXT);
    (void)fflush(stderr);
    int saved = dup(STDERR_FILENO);
    REQUIRE(saved >= 0);
    REQUIRE(close(STDERR_FILENO) == 0);
    errno = 77;
    MED_INFO("nobody reads this");
    int errno_after = errno;
    REQUIRE(dup2(saved, STDERR_FILENO) == STDERR_FILENO);
    (void)close(saved);
    CHECK_INT(errno_after, 77);
}

static void *write_lines(void *arg)
{
    for (int i = 0; i < LINES; i++)
        MED_INFO("from %s", (const char *)arg);
    return NULL;
}

static void test_lines_of_threads_do_not_mix(void)
{
    static char out[200000];
    static char names[WRITERS][400];
    pthread_t threads[WRITERS];
    med_log_init("p", MED_LOG_INFO, MED_LOG_TEXT);
    capture_start();
    for (int i = 0; i < WRITERS; i++) {
        memset(names[i], 'a' + i, sizeof names[i] - 300);
        REQUIRE(med_thread_start(&threads[i], "writer", write_lines, names[i]) == 0);
    }
    for (int i = 0; i < WRITERS; i++)
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    (void)capture_end(out, sizeof out);
    int seen[WRITERS] = {0};
    for (const char *line = out; *line;) {
        const char *from = strstr(line, "info  p: from ");
        const char *end = strchr(line, '\n');
        REQUIRE(from && end && from < end);
        from += strlen("info  p: from ");
        int writer = *from - 'a';
        REQUIRE(writer >= 0 && writer < WRITERS);
        CHECK_UINT(end - from, 100);
        CHECK(strncmp(from, names[writer], 100) == 0);
        seen[writer]++;
        line = end + 1;
    }
    for (int i = 0; i < WRITERS; i++)
        CHECK_INT(seen[i], LINES);
}

int main(void)
{
    RUN(test_text_lines);
    RUN(test_levels);
    RUN(test_hostile_text_cannot_break_or_forge_a_line);
    RUN(test_json_lines_read_back);
    RUN(test_long_messages_are_cut);
    RUN(test_line_that_cannot_be_written_is_dropped_quietly);
    RUN(test_lines_of_threads_do_not_mix);
    return check_finish();
}
