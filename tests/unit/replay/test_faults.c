/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fault seeds: whatever breaks, every request ends exactly once and the counts agree.
 *
 *     test_replay_faults [SEEDS [FIRST]]     10,000 seeds: test_replay_faults 10000
 * A failing seed is named with its faults; `test_replay_faults 1 SEED` repeats it alone.
 */
#include "allocator/replay/faults.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "tests/check.h"
#include "tests/unit/allocator/sim_fixture.h"
#include "tests/unit/replay/fault_fleet.h"

static uint64_t seeds = 15, first = 1;

static void test_faults_when_seeds_run_then_all_holds(void)
{
    struct fixture f;
    fault_fleet_init(&f);
    uint64_t struck[MED_FAULT_COUNT] = {0};
    uint64_t ends[MED_OUTCOME_COUNT] = {0};
    uint64_t reroutes = 0;
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
        med_free(arrivals);
    }
    (void)printf("%" PRIu64 " seeds:", seeds);
    for (size_t i = 0; i < MED_FAULT_COUNT; i++)
        (void)printf(" %s %" PRIu64, med_fault_name((enum med_fault)i), struck[i]);
    (void)printf("; %" PRIu64 " moved from lost workers\n", reroutes);
    for (size_t i = 0; i < MED_OUTCOME_COUNT; i++)
        (void)printf("%s %" PRIu64 "\n", med_outcome_name((enum med_outcome)i), ends[i]);
    for (size_t i = 0; seeds >= 15 && i < MED_FAULT_COUNT; i++)
        CHECK(struck[i] > 0);
    CHECK(seeds < 15 || (reroutes > 0 && ends[MED_OUTCOME_STOP] > 0));
}

int main(int argc, char **argv)
{
    if (argc > 1)
        seeds = strtoull(argv[1], NULL, 10);
    if (argc > 2)
        first = strtoull(argv[2], NULL, 10);
    RUN(test_faults_when_seeds_run_then_all_holds);
    return check_finish();
}
