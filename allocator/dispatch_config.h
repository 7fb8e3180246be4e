/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Turns a plan into the dispatch configuration that router and simulation share.
 * owns: the result's arrays until released; the plan must outlive nothing (all is copied).
 */
#ifndef MED_ALLOCATOR_DISPATCH_CONFIG_H
#define MED_ALLOCATOR_DISPATCH_CONFIG_H

#include "allocator/plan.h"
#include "router/dispatch/dispatch.h"

/* Fills types, edges, buckets and the TTFT objective; sizes and timeouts get the router's
 * defaults, which the caller may change before med_dispatch_new. Only worker types with workers in
 * the plan are types of the dispatch; type_of_profile (capacity plan->profile_count, may be NULL)
 * gets each profile's type index or -1. */
int med_dispatch_config_from_plan(const struct med_plan *plan,
                                  struct med_dispatch_config *ret_config, int *type_of_profile,
                                  struct med_err *err) MED_MUST_CHECK;
void med_dispatch_config_release(struct med_dispatch_config *config);

#endif
