/* SPDX-License-Identifier: Apache-2.0 */
/* The fleet that fault seeds break: five workers of three types, small and large requests. */
#ifndef MED_TESTS_UNIT_REPLAY_FAULT_FLEET_H
#define MED_TESTS_UNIT_REPLAY_FAULT_FLEET_H

#include "tests/unit/allocator/sim_fixture.h"

enum {
    FAULT_ARRIVALS = 60 /* of a seed */
};

void fault_fleet_init(struct fixture *f);

#endif
