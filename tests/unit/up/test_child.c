/* SPDX-License-Identifier: Apache-2.0 */
/* A supervised process, with real ones: it becomes ready, ends, is started again, is stopped.
 * This program plays the supervisor's part: it answers --become. */
#include "router/up/child.h"

#include "router/up/become.h"
#include "tests/check.h"

#include <signal.h>
#include <unistd.h>

struct seen {
    int ready, ends, closed;
    int ends_wanted; /* stop the child at so many */
    int64_t pauses_ms[8];
    char value[32];
};

static void on_ready(struct med_child *child, const char *after_ready)
{
    struct seen *seen = child->user;
    seen->ready++;
    (void)snprintf(seen->value, sizeof(seen->value), "%s", after_ready);
    CHECK(med_child_runs(child));
    CHECK(med_child_pid(child) > 0);
    if (seen->ends_wanted == 0)
        med_child_stop(child, SIGTERM);
}

static void on_end(struct med_child *child, int64_t pause_ms)
{
    struct seen *seen = child->user;
    if (seen->ends < 8)
        seen->pauses_ms[seen->ends] = pause_ms;
    seen->ends++;
    CHECK(!med_child_runs(child));
    CHECK_INT(med_child_pid(child), 0);
    if (pause_ms >= 0 && seen->ends >= seen->ends_wanted)
        med_child_stop(child, SIGTERM);
    if (!child->wanted)
        med_child_close(child);
}

static void on_closed(struct med_child *child)
{
    struct seen *seen = child->user;
    seen->closed++;
}

static const struct med_child_ops ops = {on_ready, on_end, on_closed};

/* Runs a shell script until the child is closed. */
static void run(const char *program, const char *script, struct seen *seen,
                struct med_child *ret_child)
{
    uv_loop_t loop;
    REQUIRE(uv_loop_init(&loop) == 0);
    REQUIRE(med_child_init(ret_child, &loop, "child-000", &ops, seen) == 0);
    const char *const args[] = {program, "-c", script, NULL};
    REQUIRE(med_child_set_args(ret_child, args) == 0);
    med_child_start(ret_child);
    REQUIRE(uv_run(&loop, UV_RUN_DEFAULT) == 0);
    REQUIRE(uv_loop_close(&loop) == 0);
    CHECK_INT(seen->closed, 1);
}

static void test_child_when_it_ends_then_started_again_after_growing_pauses(void)
{
    struct seen seen = {.ends_wanted = 3};
    struct med_child child;
    run("/bin/sh", "exit 7", &seen, &child);
    CHECK_INT(seen.ends, 3);
    CHECK_INT(child.starts, 3);
    CHECK_INT(seen.pauses_ms[0], 250);
    CHECK_INT(seen.pauses_ms[1], 500);
    CHECK_INT(seen.pauses_ms[2], 1000);
    CHECK_INT(child.exit_status, 7);
    CHECK_STR(child.end, "exit status 7");
    CHECK_INT(seen.ready, 0);
}

static void test_child_when_ready_then_told_once_with_the_rest_of_the_line(void)
{
    struct seen seen = {0};
    struct med_child child;
    run("/bin/sh", "echo starting >&2; echo READY a=1; echo READY a=2; exec sleep 600", &seen,
        &child);
    CHECK_INT(seen.ready, 1);
    CHECK_STR(seen.value, " a=1");
    CHECK_INT(seen.ends, 1);
    CHECK_INT(seen.pauses_ms[0], -1);
    CHECK_INT(child.starts, 1);
    CHECK_CONTAINS(child.end, "signal 15");
}

static void test_child_when_program_is_missing_then_ends_like_a_shell_says(void)
{
    struct seen seen = {.ends_wanted = 1};
    struct med_child child;
    run("/nonexistent/program", "", &seen, &child);
    CHECK_INT(seen.ends, 1);
    CHECK_STR(child.end, "exit status 127");
}

static void test_child_when_line_is_huge_then_passed_on_in_pieces(void)
{
    struct seen seen = {0};
    struct med_child child;
    run("/bin/sh", "head -c 100000 /dev/zero >&2; printf '\\nREADY\\n' >&2; exec sleep 600", &seen,
        &child);
    CHECK_INT(seen.ready, 1);
}

int main(int argc, char **argv)
{
    if (med_become_asked(argc, argv))
        return med_become(argc, argv);
    RUN(test_child_when_it_ends_then_started_again_after_growing_pauses);
    RUN(test_child_when_ready_then_told_once_with_the_rest_of_the_line);
    RUN(test_child_when_program_is_missing_then_ends_like_a_shell_says);
    RUN(test_child_when_line_is_huge_then_passed_on_in_pieces);
    return check_finish();
}
