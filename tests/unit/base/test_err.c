/* SPDX-License-Identifier: Apache-2.0 */
/* The error table, the sentence of a failure, and MED_ASSERT.  thread: main. */
#include "base/assert.h"
#include "base/err.h"
#include "tests/check.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static const int codes[] = {
#define X(name, value, label, text, http, grpc) MED_E_##name,
    MED_ERR_MAP(X)
#undef X
};
enum {
    CODES = sizeof codes / sizeof codes[0]
};

static void test_table_is_consistent(void)
{
    for (size_t i = 0; i < CODES; i++) {
        CHECK(codes[i] <= -20000);
        for (const char *p = med_err_label(codes[i]); *p; p++)
            CHECK((*p >= 'a' && *p <= 'z') || *p == '_');
        const char *text = med_err_text(codes[i]);
        CHECK(strlen(text) > 0 && text[strlen(text) - 1] != '.');
        CHECK(med_err_http_status(codes[i]) >= 400 && med_err_http_status(codes[i]) < 600);
        CHECK(med_err_grpc_status(codes[i]) >= 1 && med_err_grpc_status(codes[i]) <= 16);
        CHECK(med_err_exit_status(codes[i]) >= 1 && med_err_exit_status(codes[i]) <= 4);
        for (size_t k = 0; k < i; k++) {
            CHECK(codes[k] != codes[i]);
            CHECK(strcmp(med_err_label(codes[k]), med_err_label(codes[i])) != 0);
        }
    }
}

static void test_codes_in_and_outside_the_table(void)
{
    CHECK_STR(med_err_label(MED_E_WORKER_LOST), "worker_lost");
    CHECK_INT(med_err_http_status(MED_E_CANCELLED), 499);
    CHECK_INT(med_err_grpc_status(MED_E_OVERLOAD), 8);
    CHECK_STR(med_err_label(-ENOENT), "system");
    CHECK_STR(med_err_text(-ENOENT), "No such file or directory");
    CHECK_STR(med_err_text(-4095), "an unknown system error");
    CHECK_STR(med_err_text(-19999), "an unknown system error");
    CHECK_INT(med_err_http_status(-ENOENT), 500);
    CHECK_INT(med_err_grpc_status(-ENOENT), 13);
    CHECK_STR(med_err_label(0), "ok");
    CHECK_INT(med_err_http_status(7), 200);
    CHECK_INT(med_err_grpc_status(0), 0);
}

static void test_exit_status(void)
{
    CHECK_INT(med_err_exit_status(0), 0);
    CHECK_INT(med_err_exit_status(5), 0);
    CHECK_INT(med_err_exit_status(MED_E_USAGE), 2);
    CHECK_INT(med_err_exit_status(MED_E_FORMAT), 2);
    CHECK_INT(med_err_exit_status(MED_E_INVALID), 2);
    CHECK_INT(med_err_exit_status(MED_E_LIMIT), 2);
    CHECK_INT(med_err_exit_status(MED_E_INFEASIBLE), 3);
    CHECK_INT(med_err_exit_status(MED_E_CUDA), 4);
    CHECK_INT(med_err_exit_status(MED_E_NOMEM), 1);
    CHECK_INT(med_err_exit_status(-EIO), 1);
    CHECK_INT(med_err_exit_status(med_err_input_code(ENOENT)), 2);
    CHECK_INT(med_err_exit_status(med_err_input_code(EISDIR)), 2);
    CHECK_INT(med_err_exit_status(med_err_input_code(EACCES)), 2);
    CHECK_INT(med_err_exit_status(med_err_input_code(EIO)), 1);
}

static void test_set_and_prefix(void)
{
    struct med_err err;
    CHECK_INT(med_err_set(&err, MED_E_IO, "file %s", "a"), MED_E_IO);
    CHECK_STR(err.text, "file a");
    CHECK_INT(med_err_prefix(&err, "plan %d", 3), MED_E_IO);
    CHECK_STR(err.text, "plan 3: file a");
    CHECK_INT(med_err_set(&err, MED_E_FORMAT, "%s again", err.text), MED_E_FORMAT);
    CHECK_STR(err.text, "plan 3: file a again");
    CHECK_INT(med_err_set(NULL, MED_E_IO, "x"), MED_E_IO);
    CHECK_INT(med_err_prefix(NULL, "x"), 0);
}

static void test_long_texts_are_cut(void)
{
    static char text[3 * MED_ERR_TEXT_MAX];
    struct med_err err;
    memset(text, 'x', sizeof text - 1);
    (void)med_err_set(&err, MED_E_IO, "%s", text);
    CHECK_UINT(strlen(err.text), MED_ERR_TEXT_MAX - 1);
    (void)med_err_prefix(&err, "first");
    CHECK_UINT(strlen(err.text), MED_ERR_TEXT_MAX - 1);
    CHECK(strncmp(err.text, "first: xxx", 10) == 0);
    (void)med_err_prefix(&err, "%s", text);
    CHECK_UINT(strlen(err.text), MED_ERR_TEXT_MAX - 1);
}

static void test_assert_prints_its_condition_and_aborts(void)
{
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    (void)fflush(NULL);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        (void)dup2(ends[1], STDERR_FILENO);
        (void)signal(SIGABRT, SIG_DFL);
        MED_ASSERT(ends[0] == -7);
        _exit(0);
    }
    (void)close(ends[1]);
    char text[512] = "";
    CHECK(read(ends[0], text, sizeof text - 1) > 0);
    (void)close(ends[0]);
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK_CONTAINS(text, "test_err.c:");
    CHECK_CONTAINS(text, ": assertion failed: ends[0] == -7\n");
    MED_ASSERT(ends[0] != -7);
}

int main(void)
{
    RUN(test_table_is_consistent);
    RUN(test_codes_in_and_outside_the_table);
    RUN(test_exit_status);
    RUN(test_set_and_prefix);
    RUN(test_long_texts_are_cut);
    RUN(test_assert_prints_its_condition_and_aborts);
    return check_finish();
}
