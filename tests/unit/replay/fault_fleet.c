/* SPDX-License-Identifier: Apache-2.0 */
/* The fleet of fault_fleet.h. */
#include "tests/unit/replay/fault_fleet.h"

void fault_fleet_init(struct fixture *f)
{
    static const double small[FIXTURE_TYPES] = {0.6, 0.4, 0};
    static const double large[FIXTURE_TYPES] = {0, 0.5, 0.5};
    fixture_init(f);
    for (size_t i = 0; i < FIXTURE_TYPES; i++)
        f->profiles[i].limits.sequences_max = 6; /* so that requests wait */
    fixture_workers(f, 0, 2);
    fixture_workers(f, 1, 2);
    fixture_workers(f, 2, 1);
    fixture_bucket(f, 60, 8, 6, small);
    fixture_bucket(f, 400, 60, 6, small);
    fixture_bucket(f, 1500, 120, 3, large);
}
