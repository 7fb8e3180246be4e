/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mathematical program of a plan, as plain numbers: no files, no names, no solver.
 *
 * Kinds k are what can be rented (price c_k, N_k GPUs, perhaps a cap); types t are what serves
 * (g_t GPUs per worker); buckets i are the demand.  load[i][t] is how many workers of type t it
 * takes to serve all of bucket i at its objectives (rate / capacity), INFINITY where t cannot.
 *   minimise   sum_k c_k I_k
 *   such that  sum_t A_it = 1                       for every bucket, A_it in [0, 1], continuous
 *              sum_i load_it A_it <= u sum_k W_kt   for every type
 *              the W_kt workers of kind k fit on its I_k instances, I_k <= cap_k
 *   over integers I_k, W_kt >= 0.
 * With `slices` = N > 0 the paper's restriction is meant instead: A_it is a multiple of 1/N.
 * source: docs/internals/planner.md; arXiv 2404.14527 section 5.
 *
 * owns: its arrays. thread: any, one at a time.
 */
#ifndef MED_ALLOCATOR_MILP_H
#define MED_ALLOCATOR_MILP_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Feasible means load <= u W (1 + MED_MILP_TOLERANCE), in exact arithmetic. */
#define MED_MILP_TOLERANCE 1e-9
/* Loads beyond this are refused: nobody rents a million GPUs for one bucket. */
#define MED_MILP_LOAD_MAX 1e6

struct med_milp {
    size_t kind_count, type_count, bucket_count;
    double *price_usd_per_hour; /* [kind] > 0 */
    int64_t *count_max;         /* [kind] -1: no cap */
    int64_t *hosted_max;        /* [kind][type] workers that one instance holds; 0: does not fit */
    int64_t *gpus;              /* [kind] */
    int64_t *gpus_per_worker;   /* [type] */
    double *loads;              /* [bucket][type] > 0, or INFINITY */
    double utilization_max;     /* u, in (0, 1] */
    int64_t slices;             /* 0: continuous shares */
};

/* All arrays allocated and cleared: no caps, nothing fits, no type can serve anything. */
int med_milp_init(struct med_milp *program, size_t kind_count, size_t type_count,
                  size_t bucket_count) MED_MUST_CHECK;
void med_milp_release(struct med_milp *program);

/* Says that type fits kind; hosted_max = floor(gpus / gpus_per_worker), from the GPU counts. */
void med_milp_fit(struct med_milp *program, size_t kind, size_t type);

/*
 * Checks numbers and shapes.  errors: MED_E_INVALID with a sentence; also for a kind whose fitting
 * types do not form a chain in which each GPU count divides the next, because then counting GPUs
 * does not prove that the workers can be placed.
 */
int med_milp_check(const struct med_milp *program, struct med_err *err) MED_MUST_CHECK;

static inline double med_milp_load(const struct med_milp *program, size_t bucket, size_t type)
{
    return program->loads[bucket * program->type_count + type];
}

/* Does the kind hold exactly one type of worker? Then its workers follow from its count. */
bool med_milp_kind_is_single(const struct med_milp *program, size_t kind, size_t *ret_type);

/* One integer answer. owns: arrays. */
struct med_mix {
    int64_t *counts;  /* [kind] I_k */
    int64_t *placed;  /* [kind][type] W_kt */
    int64_t *workers; /* [type] sum of W_kt */
    double *shares;   /* [bucket][type] A_it */
    double cost_usd_per_hour;
};

int med_mix_init(struct med_mix *mix, const struct med_milp *program) MED_MUST_CHECK;
void med_mix_release(struct med_mix *mix);
void med_mix_copy(struct med_mix *to, const struct med_mix *from, const struct med_milp *program);
/* Fills workers and cost from counts and placed. */
void med_mix_sum(struct med_mix *mix, const struct med_milp *program);
/* Load on a type under the mix's shares. */
double med_mix_load(const struct med_mix *mix, const struct med_milp *program, size_t type);

#endif
