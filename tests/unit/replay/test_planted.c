/* SPDX-License-Identifier: Apache-2.0 */
/* Dispatch as linked here has a bug (CMakeLists.txt): one of a few fault seeds must see it. */
#include "allocator/replay/faults/faults.h"

#include "base/alloc.h"
#include "tests/check.h"
#include "tests/unit/replay/fault_fleet.h"

enum {
    SEEDS = 40
};

static void test_planted_bug_when_seeds_run_then_found(void)
{
    struct fixture f;
    fault_fleet_init(&f);
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct med_sim_arrival *arrivals;
        struct med_fault_report report;
        struct med_err err = {0};
        REQUIRE(med_sim_arrivals_from_plan(&f.plan, 1, FAULT_ARRIVALS, 0, seed, &arrivals, &err) ==
                0);
        REQUIRE(med_fault_run(&f.plan, arrivals, FAULT_ARRIVALS, seed, NULL, &report, &err) == 0);
        if (report.violation[0]) {
            (void)printf("found by seed %" PRIu64 " at %.3f s: %s\n", seed,
                         (double)report.violation_ns * 1e-9, report.violation);
            (void)fflush(NULL);
            _Exit(0); /* what a broken dispatch holds cannot be released */
        }
        med_free(arrivals);
    }
    CHECK(false);
}

int main(void)
{
    RUN(test_planted_bug_when_seeds_run_then_found);
    return check_finish();
}
