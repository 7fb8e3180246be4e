/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Melange's own input, as its solver takes it:
 *   {"gpu_info": {NAME: {"cost": $/h, "tputs": [[...]], "max_count"?: N}},
 *    "workload_distribution": [[...]], "total_request_rate": R, "slice_factor": N}
 * tputs[i][j] is the greatest rate of one GPU for bucket (i, j); 0 means that it cannot.  Each GPU
 * is an instance with one worker type of the same name.  max_count, the availability cap, is ours.
 * slice_factor is checked and otherwise ignored: the continuous program is solved unless the caller
 * asks for slices.
 * source: arXiv 2404.14527 and the published solver's example input.
 * thread: any.
 */
#ifndef MED_ALLOCATOR_MELANGE_H
#define MED_ALLOCATOR_MELANGE_H

#include "allocator/problem.h"

/* Fills a problem and the names of a plan; both are the caller's to release. slices 0: continuous.
 * errors: MED_E_FORMAT with a sentence. */
int med_melange_read(const struct med_json_at *root, const char *name, int64_t slices,
                     struct med_problem *ret_problem, struct med_plan *ret_plan,
                     struct med_err *err) MED_MUST_CHECK;

/* The answer: the keys of a plan that have a meaning here; buckets are numbered from 1 in place of
 * token edges. Not a medley-plan: there are no profiles to run it with. */
void med_melange_write(struct med_json_writer *w, const struct med_plan *plan);

#endif
