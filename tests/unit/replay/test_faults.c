/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fault seeds: whatever breaks, every request ends exactly once and the counts agree.
 *
 *     test_replay_faults [SEEDS [FIRST]]     10,000 seeds: test_replay_faults 10000
 * A failing seed is named with its faults; `test_replay_faults 1 SEED` repeats it alone.
 */
#include "allocator/replay/faults/faults.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "tests/check.h"
#include "tests/unit/allocator/sim_fixture.h"
#include "tests/unit/replay/fault_fleet.h"

static uint64_t seeds = 25, first = 1;

static void test_faults_when_seeds_run_then_all_holds(void)
{
    struct fixture f;
    fault_fleet_init(&f);
    uint64_t struck[MED_FAULT_COUNT] = {0};
    uint64_t ends[MED_OUTCOME_COUNT] = {0};
    uint64_t reroutes = 0, no_worker = 0, by_queue = 0, by_table = 0, late = 0;
    for (uint64_t seed = first; seed < first + seeds; seed++) {
        struct med_sim_arrival *arrivals;
        struct med_fault_report report;
        struct med_err err = {0};
        REQUIRE(med_sim_arrivals_from_plan(&f.plan, 1, FAULT_ARRIVALS, 0, seed, &arrivals, &err) ==
                0);
        int rc = med_fault_run(&f.plan, arrivals, FAULT_ARRIVALS, seed, NULL, &report, &err);
        if (rc < 0 || report.violation[0]) {
            (void)fprintf(stderr, "seed %" PRIu64 ", at %.3f s: %s%s\n", seed,
                          (double)report.violation_ns * 1e-9, report.violation, err.text);
            (void)fprintf(stderr, "repeat it alone: test_replay_faults 1 %" PRIu64 "\n", seed);
            rc = med_fault_run(&f.plan, arrivals, FAULT_ARRIVALS, seed, stderr, &report, &err);
            CHECK(rc == 0);
            (void)printf("found with %" PRIu64 " seeds\n", seed - first + 1);
            (void)fflush(NULL);
            _Exit(1); /* what a broken dispatch holds cannot be released */
        }
        for (size_t i = 0; i < MED_FAULT_COUNT; i++)
            struck[i] += report.faults[i];
        for (size_t i = 0; i < MED_OUTCOME_COUNT; i++)
            ends[i] += report.totals.outcomes[i];
        reroutes += report.totals.reroutes[MED_REROUTE_WORKER_LOST];
        no_worker += report.totals.refused_no_worker;
        by_queue += report.totals.refused_queue;
        by_table += report.totals.refused_table;
        late += report.totals.refused_overload - report.totals.refused_queue -
                report.totals.refused_table;
        med_free(arrivals);
    }
    (void)printf("%" PRIu64 " seeds:", seeds);
    for (size_t i = 0; i < MED_FAULT_COUNT; i++)
        (void)printf(" %s %" PRIu64, med_fault_name((enum med_fault)i), struck[i]);
    (void)printf("; %" PRIu64 " moved from lost workers\n", reroutes);
    for (size_t i = 0; i < MED_OUTCOME_COUNT; i++)
        (void)printf("%s %" PRIu64 "\n", med_outcome_name((enum med_outcome)i), ends[i]);
    (void)printf("refused: queue full %" PRIu64 ", table full %" PRIu64
                 ", would wait too long %" PRIu64 ", no worker %" PRIu64 "\n",
                 by_queue, by_table, late, no_worker);
    CHECK(seeds < 25 || (ends[MED_OUTCOME_ABORT_DEADLINE] > 0 && ends[MED_OUTCOME_REJECTED] > 0));
    CHECK(seeds < 25 || by_queue > 0);
    CHECK(seeds < 100 || (by_table > 0 && late > 0 && no_worker > 0));
    for (size_t i = 0; seeds >= 25 && i < MED_FAULT_COUNT; i++)
        CHECK(struck[i] > 0);
    CHECK(seeds < 25 || (reroutes > 0 && ends[MED_OUTCOME_STOP] > 0));
}

static void test_schedule_when_memory_fails_then_says_so_and_leaks_nothing(void)
{
    struct fixture f;
    fault_fleet_init(&f);
    struct med_sim_arrival *arrivals;
    REQUIRE(med_sim_arrivals_from_plan(&f.plan, 1, 20, 0, 9, &arrivals, NULL) == 0);
    const struct med_sim_options plain = {.resume = true};
    static struct med_fault_schedule schedule = {.events = {{.kind = MED_FAULT_CRASH,
                                                             .at_ns = 100 * MED_NS_PER_MS,
                                                             .for_ns = MED_NS_PER_S,
                                                             .target = "type-0"}},
                                                 .count = 1,
                                                 .every_ns = 200 * MED_NS_PER_MS,
                                                 .kinds =
                                                     1U << MED_FAULT_SLOW | 1U << MED_FAULT_DELAY,
                                                 .seed = 1};
    int64_t live = med_alloc_bytes_live();
    uint64_t n = 0;
    int rc;
    do {
        struct med_fault_outcome outcome;
        struct med_err err = {0};
        (void)med_alloc_fail_nth(++n);
        rc = med_fault_simulate(&f.plan, arrivals, 20, &plain, &schedule, &outcome, &err);
        (void)med_alloc_fail_nth(0);
        if (rc == 0) {
            CHECK(outcome.log.count > 1 && outcome.log.strikes[0].workers == 2);
            med_sim_result_release(&outcome.result);
            med_fault_log_release(&outcome.log);
        } else {
            CHECK_INT(rc, MED_E_NOMEM);
            CHECK(err.text[0] != '\0');
        }
        CHECK_INT(med_alloc_bytes_live(), live);
    } while (rc < 0 && n < 1000);
    CHECK(n > 20 && n < 1000);
    med_free(arrivals);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        seeds = strtoull(argv[1], NULL, 10);
    if (argc > 2)
        first = strtoull(argv[2], NULL, 10);
    RUN(test_schedule_when_memory_fails_then_says_so_and_leaks_nothing);
    RUN(test_faults_when_seeds_run_then_all_holds);
    return check_finish();
}
