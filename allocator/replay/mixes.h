/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Other mixes than the plan's, for the same demand, as further plans of a replay.
 *
 * A mix is NAME=N joined by "+" or ",": NAME is an instance of the catalogue, or a GPU or a worker type of the
 * plan, which mean the cheapest instance that holds one.  "single" is each GPU alone, as many as its
 * cheapest instance needs by the plan's own baselines.  The catalogue must have what the plan rents at the plan's price, since
 * costs are compared.  Demand, objectives and profiles are the plan's; shares are those of
 * the planner for exactly these counts (med_problem_evaluate).
 * thread: main (the solver).
 */
#ifndef MED_ALLOCATOR_REPLAY_MIXES_H
#define MED_ALLOCATOR_REPLAY_MIXES_H

#include "allocator/replay/runs.h"
#include "profiles/catalogue.h"

/* Adds the mixes to the runs' plans, after those that were read, of which the first is the one whose demand they
 * serve.  errors: MED_E_USAGE with which mix, what was found and what was expected; MED_E_INFEASIBLE when a mix
 * has no worker for some sizes; MED_E_LIMIT. */
int med_replay_mixes_add(struct med_replay_runs *runs, const char *const *mixes, size_t count,
                         const struct med_catalogue *catalogue, bool all_policies,
                         struct med_err *err) MED_MUST_CHECK;

#endif
