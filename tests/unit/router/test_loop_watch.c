/* SPDX-License-Identifier: Apache-2.0 */
/* The watch over the loop: turns, jobs, who took longest. */
#include "router/loop_watch.h"
#include "tests/check.h"

static void test_jobs_are_counted_and_the_rest_is_other(void)
{
    struct med_loop_watch watch;
    med_loop_watch_init(&watch);
    med_loop_watch_turn(&watch, 1000, 0); // the first look: no turn has ended yet
    CHECK_UINT(watch.turns.count, 0);
    med_loop_watch_ran(&watch, MED_LOOP_TOKENS, 10000, 12000);
    med_loop_watch_ran(&watch, MED_LOOP_TOKENS, 12000, 12000 + 2 * MED_LOOP_LONG_NS);
    /* 10 ms of wall, 5 of them waiting, 2.002 in jobs. */
    med_loop_watch_turn(&watch, 1000 + 10000000, 5000000);
    CHECK_UINT(watch.turns.count, 1);
    CHECK(watch.turns.sum > 0.0049999 && watch.turns.sum < 0.0050001);
    CHECK_UINT(watch.jobs[MED_LOOP_TOKENS].runs, 2);
    CHECK_UINT(watch.jobs[MED_LOOP_TOKENS].long_runs, 1);
    CHECK_UINT(watch.jobs[MED_LOOP_TOKENS].busy_ns, 2002000);
    CHECK_UINT(watch.jobs[MED_LOOP_OTHER].busy_ns, 5000000 - 2002000);
    CHECK_UINT(watch.jobs[MED_LOOP_OTHER].long_runs, 1);
    /* A turn without a job. */
    med_loop_watch_turn(&watch, 1000 + 20000000, 14900000);
    CHECK_UINT(watch.jobs[MED_LOOP_OTHER].busy_ns, 5000000 - 2002000 + 100000);
}

static void test_the_longest_is_named(void)
{
    struct med_loop_watch watch;
    med_loop_watch_init(&watch);
    med_loop_watch_ran(&watch, MED_LOOP_PAGE, 0, 700);
    med_loop_watch_ran(&watch, MED_LOOP_SUBMIT, 1000, 1500);
    struct med_loop_longest recent = med_loop_watch_take_recent(&watch);
    CHECK_INT(recent.job, MED_LOOP_PAGE);
    CHECK_UINT(recent.ns, 700);
    med_loop_watch_ran(&watch, MED_LOOP_SUBMIT, 2000, 2300);
    recent = med_loop_watch_take_recent(&watch);
    CHECK_INT(recent.job, MED_LOOP_SUBMIT);
    CHECK_UINT(med_loop_watch_take_recent(&watch).ns, 0);
    CHECK_INT(watch.ever.job, MED_LOOP_PAGE);
    CHECK(watch.ever_unix_ns > 0);
    CHECK_STR(med_loop_job_name(watch.ever.job), "page");
    /* A clock that goes back counts as no time. */
    med_loop_watch_ran(&watch, MED_LOOP_STATS, 10, 5);
    CHECK_UINT(watch.jobs[MED_LOOP_STATS].busy_ns, 0);
}

int main(void)
{
    RUN(test_jobs_are_counted_and_the_rest_is_other);
    RUN(test_the_longest_is_named);
    return check_finish();
}
