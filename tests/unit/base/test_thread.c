/* SPDX-License-Identifier: Apache-2.0 */
/* Threads start with their name and with all signals blocked; owners are checked.  thread: several. */
#include "base/mailbox.h"
#include "base/thread.h"
#include "tests/check.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void *read_mask(void *arg)
{
    sigset_t *mask = arg;
    (void)pthread_sigmask(SIG_SETMASK, NULL, mask);
    return NULL;
}

static void test_signals_are_blocked_there_and_unchanged_here(void)
{
    sigset_t before;
    sigset_t after;
    sigset_t inside;
    pthread_t thread;
    REQUIRE(pthread_sigmask(SIG_SETMASK, NULL, &before) == 0);
    REQUIRE(med_thread_start(&thread, "mask", read_mask, &inside) == 0);
    REQUIRE(pthread_join(thread, NULL) == 0);
    REQUIRE(pthread_sigmask(SIG_SETMASK, NULL, &after) == 0);
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGUSR1, SIGCHLD};
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        CHECK_INT(sigismember(&inside, signals[i]), 1);
        CHECK_INT(sigismember(&after, signals[i]), sigismember(&before, signals[i]));
    }
}

/* Keeps the thread alive until it is told to end. */
static void *wait_for_close(void *arg)
{
    (void)med_mailbox_wait(arg, INT64_MAX);
    return NULL;
}

/* Is there a thread of this process with this name? */
static bool thread_exists(const char *name)
{
    char command[128];
    (void)snprintf(command, sizeof command, "cat /proc/%ld/task/*/comm", (long)getpid());
    FILE *list = popen(command, "r");
    REQUIRE(list);
    char line[64];
    bool found = false;
    while (fgets(line, sizeof line, list)) {
        line[strcspn(line, "\n")] = '\0';
        found = found || strcmp(line, name) == 0;
    }
    (void)pclose(list);
    return found;
}

static void test_name_is_kept_and_cut(void)
{
    struct med_mailbox box;
    pthread_t thread;
    pthread_t other;
    med_mailbox_init(&box, 1, NULL, NULL);
    REQUIRE(med_thread_start(&thread, "short-name", wait_for_close, &box) == 0);
    REQUIRE(med_thread_start(&other, "a-name-that-is-too-long", wait_for_close, &box) == 0);
    CHECK(thread_exists("short-name"));
    CHECK(thread_exists("a-name-that-is-"));
    med_mailbox_close(&box);
    REQUIRE(pthread_join(thread, NULL) == 0);
    REQUIRE(pthread_join(other, NULL) == 0);
    med_mailbox_release(&box);
}

static void *assert_owner(void *arg)
{
    MED_ASSERT_THREAD(*(pthread_t *)arg);
    return NULL;
}

static void test_owner_assertion(void)
{
    pthread_t here = pthread_self();
    MED_ASSERT_THREAD(here);
    (void)fflush(NULL);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        (void)close(STDERR_FILENO);
        pthread_t main_thread = pthread_self();
        pthread_t thread;
        if (med_thread_start(&thread, "foreign", assert_owner, &main_thread) == 0)
            (void)pthread_join(thread, NULL);
        _exit(0);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

int main(void)
{
    RUN(test_signals_are_blocked_there_and_unchanged_here);
    RUN(test_name_is_kept_and_cut);
    RUN(test_owner_assertion);
    return check_finish();
}
