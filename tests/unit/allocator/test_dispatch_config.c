/* SPDX-License-Identifier: Apache-2.0 */
/* A plan as dispatch sees it. */
#include "allocator/dispatch_config.h"

#include "base/clock.h"
#include "tests/check.h"
#include "tests/unit/allocator/sim_fixture.h"

static void test_config_when_types_unused_then_left_out(void)
{
    static const double shares[FIXTURE_TYPES] = {0, 0.25, 0.75};
    struct fixture f;
    fixture_init(&f);
    fixture_workers(&f, 2, 1);
    fixture_workers(&f, 1, 2);
    fixture_bucket(&f, 50, 5, 1, shares);
    fixture_bucket(&f, 500, 50, 0, shares);
    f.plan.slos.items[0] = (struct med_slo){MED_SLO_TPOT, 5};
    f.plan.slos.items[1] = (struct med_slo){MED_SLO_TTFT, 900};
    f.plan.slos.items[2] = (struct med_slo){MED_SLO_TTFT, 700};
    f.plan.slos.count = 3;
    f.profiles[1].has_step_model = false;
    struct med_dispatch_config c;
    int types[FIXTURE_TYPES];
    REQUIRE(med_dispatch_config_from_plan(&f.plan, &c, types, NULL) == 0);
    CHECK_INT(types[0], -1);
    CHECK_INT(types[1], 1);
    CHECK_INT(types[2], 0);
    CHECK_INT(c.type_count, 2);
    CHECK_STR(c.types[0].name, "type-2");
    CHECK(c.types[0].has_latency);
    CHECK(!c.types[1].has_latency);
    CHECK_INT(c.bucket_count, 1); /* one without traffic is none */
    CHECK_DOUBLE(c.buckets[0].shares[0], 0.75, 1e-12);
    CHECK_DOUBLE(c.buckets[0].shares[1], 0.25, 1e-12);
    CHECK_INT(c.ttft_objective_ns, 700 * MED_NS_PER_MS);
    CHECK_DOUBLE(c.input_edges[2], 4000, 0);
    CHECK_INT(c.output_edge_count, 3);
    med_dispatch_config_release(&c);
}

static void test_config_when_plan_serves_nothing_then_sentence(void)
{
    static const double first[FIXTURE_TYPES] = {1, 0, 0};
    struct fixture f;
    struct med_dispatch_config c;
    struct med_err err;
    fixture_init(&f);
    fixture_bucket(&f, 50, 5, 1, first);
    CHECK_INT(med_dispatch_config_from_plan(&f.plan, &c, NULL, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "no workers");
    fixture_workers(&f, 1, 1);
    CHECK_INT(med_dispatch_config_from_plan(&f.plan, &c, NULL, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "type-0");
    f.plan.assignment_count = 0;
    CHECK_INT(med_dispatch_config_from_plan(&f.plan, &c, NULL, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "no requests");
    f.plan.status = MED_PLAN_INFEASIBLE;
    CHECK_INT(med_dispatch_config_from_plan(&f.plan, &c, NULL, &err), MED_E_INFEASIBLE);
}

int main(void)
{
    RUN(test_config_when_types_unused_then_left_out);
    RUN(test_config_when_plan_serves_nothing_then_sentence);
    return check_finish();
}
